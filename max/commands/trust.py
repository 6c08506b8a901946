"""trust: allowing the connectors that a project brings along to run, and taking that back."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MaxError, NoProject, NotFound, UsageError
from ..installations.trust import (
    TrustRecord,
    connector_files,
    forget,
    read_record,
    record_allowed,
    record_made,
    records,
    trusts,
)
from ..projects.folder import ProjectFolder
from ..projects.opening import database_of
from .framework import Answer, Options, table
from .parser import Parser
from .tables import Column
from .text import ago, counted, iso_time

if TYPE_CHECKING:
    from ..model.values import Json

MISSING = "missing"  # the state of a record whose folder is not there: removed, or on a disk that is not


def configure_trust(parser: Parser) -> None:
    """``max trust [DIR]``."""
    parser.answers_rows = True
    parser.add_argument("folder", nargs="?", metavar="DIR", help="the project (default: the current one)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--always",
        action="store_true",
        help="also after its connectors have changed, for those who write them",
    )
    what.add_argument("--list", action="store_true", help="show what is allowed; nothing is changed")
    what.add_argument("--revoke", action="store_true", help="take it back: its connectors run no more")
    parser.add_examples(
        "max trust",
        "max trust ~/work/data --always",
        "max trust --list",
        "max trust ~/work/data --revoke",
        "",
        "A project that you made on this machine needs none of this.  MAX_TRUST=DIR trusts the projects in",
        "a folder without a record, for machines that have no home folder.",
    )


def run_trust(options: Options) -> Answer:
    """Record that a project's own connectors may run, as they are now or always."""
    if options.list:
        return listed(options)
    if options.revoke:
        return revoked(options)
    project = ProjectFolder.find(options.folder or options.project)
    project.refuse_foreign()
    files, url = connector_files(project.root), database_of(project.root)
    if not files and url is None:
        notes = [f"{project.root} has no connectors of its own; what comes with Max or was installed runs"]
        return options.answer({"project": str(project.root), "connectors": []}, list, notes)
    known = read_record(project.root)
    with project.audited("trust", always=options.always):
        if options.always:
            record_made(project.root)
        elif known is None or not trusts(known):
            record_allowed(project.root)
    return _allowed(options, project.root, files, url)


def _allowed(options: Options, root: Path, files: Sequence[Path], url: str | None) -> Answer:
    until = "always" if holds_always(root) else "until they change"
    data: dict[str, Json] = {"project": str(root), "connectors": [file.name for file in files]}
    data |= {"until": until, **({} if url is None else {"database": url})}
    words = f"allowed {until}: {counted(len(files), 'connector')} of {root}"
    words += "" if url is None else f", and to use the database {url}"
    return options.answer(data, lambda: [words, *(f"  {file}" for file in files)])


def holds_always(root: Path) -> bool:
    """Whether a project's connectors run whatever they become."""
    known = read_record(root)
    return known is not None and known.connectors is None


def revoked(options: Options) -> Answer:
    """Remove what was recorded of a project, which need not exist any more."""
    root = Path(options.folder or options.project).expanduser().resolve()
    if read_record(root) is None:
        try:
            root = ProjectFolder.find(root).root
        except NoProject:
            raise NotFound("trusted project", str(root), hint="`max trust --list` shows them") from None
    with ProjectFolder(root).audited("trust", revoked=True):
        if not forget(root):
            raise NotFound("trusted project", str(root), hint="`max trust --list` shows them")
    return options.answer({"revoked": str(root)}, lambda: [f"the connectors of {root} run no more"])


def listed(options: Options) -> Answer:
    """Every project whose own connectors may run, and whether they still do."""
    if options.folder:
        raise UsageError("--list shows every project", hint="leave the folder out")
    found = [(one, state(one)) for one in records()]
    there = [each for each in found if each[1] != MISSING]

    def text() -> Iterable[str]:
        columns = [Column("project", whole=True), Column("allowed"), Column("since"), Column("now")]
        return table(columns, [row(*each) for each in there])

    notes = [] if found else ["no project is recorded"]
    if gone := len(found) - len(there):
        notes.append(
            f"{counted(gone, 'record')} of folders that are not there: -o json has them,"
            " max trust DIR --revoke removes one"
        )
    columns = ("project", "always", "since", "state")
    return options.listing([as_json(*each) for each in found], text, notes, columns=columns)


def row(one: TrustRecord, state: str) -> list[str]:
    """A record and its state as a row of the table."""
    until = "always" if one.connectors is None else "until they change"
    return [str(one.project), until, ago(one.since, time.time()), state]


def as_json(one: TrustRecord, state: str) -> Json:
    """The same as JSON data."""
    return {
        "project": str(one.project),
        "always": one.connectors is None,
        "since": iso_time(one.since),
        "state": state,
    }


def state(one: TrustRecord) -> str:
    """Whether a record still holds."""
    try:
        if not one.project.exists():
            return MISSING
        return "trusted" if trusts(one) else "changed"
    except (MaxError, OSError):
        return "unreadable"
