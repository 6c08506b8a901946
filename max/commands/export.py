"""export: rows as files for other programs, or on stdout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UnknownName, UsageError
from ..model.query import columns_of
from .framework import Answer, Options, table
from .parser import Parser
from .tables import Column
from .text import counted, number

if TYPE_CHECKING:
    from ..query.export import Exported, Selection
    from ..query.reader import Reader


FOR_SPREADSHEETS = ("csv", "tsv")


def configure_export(parser: Parser) -> None:
    """``max export INSTALLATION [ENTITY …] --to PATH``."""
    parser.answers_rows = True
    parser.add_target()
    parser.add_argument(
        "entities", nargs="*", metavar="ENTITY", help="what to export; without one, everything"
    )
    parser.add_argument(
        "--to", metavar="PATH", help="a file, or a folder for a file each; without it, stdout"
    )
    about = "csv, tsv, json, ndjson, markdown, sqlite, parquet or arrow; else the file's ending says it"
    parser.add_argument("--format", metavar="FORMAT", help=about)
    parser.add_filter()
    parser.add_list("--order-by", "FIELD[:desc],…", "sort by fields, then by id")
    parser.add_fields()
    parser.add_argument("--force", action="store_true", help="write over files that exist")
    about = "put an apostrophe before texts that a spreadsheet would run as formulas"
    parser.add_argument("--spreadsheet", action="store_true", help=about)
    parser.add_examples(
        "max export acme AcmeTask --to tasks.csv",
        "max export acme AcmeTask --fields title,assignee.name --filter 'active = true' --to tasks.parquet",
        "max export acme --to acme.db",
        "max export acme --format ndjson --to folder",
        "max export acme AcmeUser --format csv | head -3",
        "",
        "Parquet and Arrow need an extra: pip install 'max-sync[frames]'",
    )


def run_export(options: Options) -> Answer:
    """Files with rows; without --to the rows themselves."""
    from ..query.export import BINARY, export

    format = _format(options)
    if options.spreadsheet and format not in FOR_SPREADSHEETS:
        raise UsageError(f"--spreadsheet is for {' and '.join(FOR_SPREADSHEETS)}, not for {format}")
    if len(options.entities) != 1 and (options.filter or options.fields or options.order_by):
        raise UsageError(
            "--filter, --fields and --order-by are for one entity", hint="name it: max export NAME ENTITY"
        )
    if options.to is None:
        if format in BINARY or len(options.entities) != 1:
            what = f"{format} is" if format in BINARY else "several entities are"
            raise UsageError(f"{what} not written to stdout", hint="name a file or a folder: --to PATH")
        return _printed(options, format)
    with options.reading() as reader:
        done = export(
            reader,
            _selections(options, reader),
            format,
            Path(options.to),
            force=options.force,
            spreadsheet=options.spreadsheet,
        )
    rows = [{"name": one.name, "path": str(one.path), "rows": one.rows} for one in done]
    return options.listing(rows, lambda: _done_lines(done))


def _format(options: Options) -> str:
    """The format that the options name, or that the file's ending does; CSV for stdout and folders."""
    from ..query.export import ENDINGS, format_of

    if options.to in ("", "-"):
        raise UsageError(f"--to {options.to!r} names no file", hint="leave --to out for stdout")
    if options.format is not None:
        if options.format not in ENDINGS:
            raise UnknownName("format", options.format, ENDINGS)
        return str(options.format)
    if options.to is None:
        return str(options.output) if options.output in ENDINGS else "csv"
    found = format_of(Path(options.to))
    if found is None and Path(options.to).suffix and not Path(options.to).is_dir():
        raise UsageError(f"{options.to} ends as no format does", hint=f"add --format: {', '.join(ENDINGS)}")
    return found or "csv"


def _selections(options: Options, reader: Reader) -> list[Selection]:
    """What to export of each entity."""
    from ..query.export import Selection

    found = []
    entities = dict.fromkeys(map(reader.entity, options.entities or reader.schema.entities))
    for entity in entities:
        query = reader.query(entity, options.filter, options.order_by)
        view = reader.schema.table(query.entity.__name__)
        found.append(Selection(view, query, columns_of(query, options.fields)))
    return found


def _printed(options: Options, format: str) -> Answer:
    """The rows on stdout, read while they are printed."""
    from ..query.export import lines

    def build(reader: Reader) -> Answer:
        (one,) = _selections(options, reader)
        pages = reader.pages(one.query, one.paths)
        return Answer(lines(pages, one.paths, format, spreadsheet=options.spreadsheet))

    options.output = format  # the lines are complete: nothing is to be done for a terminal
    return options.while_reading(build)


def _done_lines(done: Sequence[Exported]) -> list[str]:
    """The files with their rows."""
    if len(done) == 1:
        return [f"{done[0].path}: {counted(done[0].rows, 'row')}"]
    columns = [Column("name", whole=True), Column("rows", right=True), Column("file")]
    return table(columns, [[one.name, number(one.rows), str(one.path)] for one in done])
