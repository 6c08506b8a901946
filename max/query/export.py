"""Export: rows as files for other programs: text, JSON, a SQLite copy, Parquet and Arrow.

Rule 1: a file is there with all its rows, or it is not there: it is written beside its place, flushed
and renamed.  A file that exists stays, unless the caller says otherwise.

Rule 2: every row is of one moment, and one piece of the rows is in memory, whatever their number.

Rule 3: a cell is what is stored; in formats of text, characters that could control a terminal are
spelled out.  A spreadsheet runs a text that begins with ``=``, so ``spreadsheet`` puts an apostrophe
before such texts; nothing else needs it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StorageError, UsageError
from ..model.entities import Ref
from ..model.frames import library
from ..model.query import Query, RowPage
from ..model.struct import Struct
from ..model.visible import json_text
from .formats import encoded

if TYPE_CHECKING:
    from ..model.entities import FieldOf
    from .reader import Reader

ENDINGS = {  # the formats, and how a file of each ends
    "csv": ".csv",
    "tsv": ".tsv",
    "json": ".json",
    "ndjson": ".ndjson",
    "markdown": ".md",
    "sqlite": ".db",
    "parquet": ".parquet",
    "arrow": ".arrow",
}
OTHER_ENDINGS = {".jsonl": "ndjson", ".sqlite": "sqlite", ".feather": "arrow"}
BINARY = ("sqlite", "parquet", "arrow")
# How a text begins that a spreadsheet takes for a formula; the wide signs where people write Japanese.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


class Selection(Struct):
    """What is exported of one entity: a query, and the columns as paths; ``name`` is that of its view."""

    name: str
    query: Query[Any]
    paths: tuple[FieldOf[Any, Any], ...]


class Exported(Struct):
    """One file's share: the name of the view, the file, and how many rows it has."""

    name: str
    path: Path
    rows: int


def format_of(path: Path) -> str | None:
    """The format that a file's ending means; None when it means none."""
    endings = {ending: format for format, ending in ENDINGS.items()} | OTHER_ENDINGS
    return endings.get(path.suffix.lower())


def export(
    reader: Reader,
    selections: Sequence[Selection],
    format: str,
    to: Path,
    *,
    force: bool = False,
    spreadsheet: bool = False,
) -> list[Exported]:
    """Write rows into a file, or a file each into a folder; UsageError when one exists, StorageError.

    A folder is made when there is none.  SQLite takes all entities in one file.
    """
    with _failing(to):
        targets = _targets(selections, format, to)
        for target in targets:
            _refuse_occupied(target, reader, force=force)
            if target != to:
                _refuse_link(target, to)
        if to not in targets:
            to.mkdir(parents=True, exist_ok=True)
    if format == "sqlite":
        with written(to, force=force) as beside:
            counts = reader.copy_to(beside, [(one.name, one.query, one.paths) for one in selections])
        return [Exported(one.name, to, n) for one, n in zip(selections, counts, strict=True)]
    done = []
    for one, target in zip(selections, targets, strict=True):
        with written(target, force=force) as beside:
            rows = _write(reader, one, format, beside, spreadsheet=spreadsheet)
        done.append(Exported(one.name, target, rows))
    return done


def _targets(selections: Sequence[Selection], format: str, to: Path) -> list[Path]:
    """The one file for all, or a file for each in the folder; UsageError for several in one file."""
    if format == "sqlite" or (len(selections) == 1 and not to.is_dir()):
        return [to]
    if format_of(to) is not None and not to.is_dir():
        raise UsageError(f"several entities do not go into {to}", hint="name a folder, or one entity")
    return [to / f"{one.name}{ENDINGS[format]}" for one in selections]


def _refuse_occupied(target: Path, reader: Reader, *, force: bool) -> None:
    """UsageError when no file may be written there: not over a device, nor among the installation's own."""
    database = reader.database.file
    own = database is not None and os.path.realpath(target.parent) == os.path.realpath(database.parent)
    if target.is_dir():
        raise UsageError(f"{target} is a folder", hint="name a file in it")
    if own or (target.exists() and not target.is_file()):
        what = "is in the folder of the database" if own else "is no file that can be replaced"
        raise UsageError(f"{target} {what}", hint="name another file")
    if target.exists() and not force:
        raise UsageError(f"{target} exists already", hint="write over it with --force")


def _refuse_link(target: Path, folder: Path) -> None:
    """UsageError for a link that leads out of the folder: its files have names that others can know."""
    real = os.path.realpath(target)
    if not Path(real).is_relative_to(os.path.realpath(folder)):
        what = f"{target} is a link that leads out of {folder}, to {real}"
        raise UsageError(what, hint="remove it, or name another folder")


def lines(
    pages: Iterable[RowPage], paths: Sequence[FieldOf[Any, Any]], format: str, *, spreadsheet: bool = False
) -> Iterator[str]:
    """Rows in a format of text, as lines without their last ``\\n``."""
    if format == "json":
        return _json_lines(pages)
    if format == "ndjson":
        return (json_text(row) for page in pages for row in page.to_dicts())
    rows: Iterable[Sequence[object]] = (row for page in pages for row in page.rows)
    if spreadsheet:
        rows = (list(map(_harmless, row)) for row in rows)
    return encoded(format, RowPage(tuple(paths), ()).names, rows)


def _harmless(value: object) -> object:
    """A text that a spreadsheet would run, with an apostrophe before it."""
    text = value.id if isinstance(value, Ref) else value
    return f"'{text}" if isinstance(text, str) and text.startswith(FORMULA) else text


def _json_lines(pages: Iterable[RowPage]) -> Iterator[str]:
    """An array, an object a line."""
    before = "["
    for page in pages:
        for row in page.to_dicts():
            yield f"{before}{json_text(row)}"
            before = ","
    yield "[]" if before == "[" else "]"


def _write(reader: Reader, one: Selection, format: str, path: Path, *, spreadsheet: bool) -> int:
    """Write one entity into a file; how many rows it has."""
    if format in BINARY:
        return _write_arrow(reader, one, format, path)
    count = 0

    def counted() -> Iterator[RowPage]:
        nonlocal count
        for page in reader.pages(one.query, one.paths):
            count += len(page.columns[0])
            yield page

    with path.open("w", encoding="utf-8", newline="") as file:
        text = lines(counted(), one.paths, format, spreadsheet=spreadsheet)
        file.writelines(f"{line}\n" for line in text)
    return count


def _write_arrow(reader: Reader, one: Selection, format: str, path: Path) -> int:
    """Write Parquet, or an Arrow file as ``pyarrow.ipc`` and polars read it, a batch at a time."""
    schema, batches = reader.arrow_batches(one.query, one.paths)
    if format == "parquet":
        opened = library("pyarrow.parquet").ParquetWriter(str(path), schema)
    else:
        opened = library("pyarrow.ipc").new_file(str(path), schema)
    count = 0
    with opened as writer:
        for batch in batches:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


@contextmanager
def written(path: Path, *, force: bool) -> Iterator[Path]:
    """A file to write in the place of another one, which it becomes when the work is done; StorageError.

    A link stays, and leads to the new file.  UsageError when another process has made the file meanwhile.
    """
    real = Path(os.path.realpath(path))
    beside = real.with_name(f".{real.name[:50]}.{os.getpid()}.new")
    with _failing(path):
        beside.unlink(missing_ok=True)  # a link there would be followed
        try:
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            if force or not _linked(beside, real):
                beside.replace(real)
        finally:
            beside.unlink(missing_ok=True)


def _linked(beside: Path, real: Path) -> bool:
    """Give a file its place if that is free; whether the disk knows links."""
    try:
        os.link(beside, real)
    except FileExistsError:
        raise UsageError(f"{real} exists already", hint="write over it with --force") from None
    except OSError:
        return False
    return True


@contextmanager
def _failing(path: Path) -> Iterator[None]:
    """A StorageError when a file or a folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}", hint="nothing was changed there") from error
