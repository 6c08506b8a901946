"""audit: who changed what in a project, and who read secrets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..errors import UsageError
from .console import console
from .framework import Answer, Ending, Options, table
from .parser import Parser
from .tables import Column
from .terminal import line_width
from .text import counted, iso_time, json_text, short_time

if TYPE_CHECKING:
    from pathlib import Path

    from ..model.audit import AuditRow
    from ..model.values import Json
    from ..projects.manager import ProjectManager

SHOWN = 20  # rows, when no --limit is given
HEAD = 16  # characters of a digest that are shown
COLUMNS = tuple("number at user process via action installation facts outcome code beganAt digest".split())


def configure_audit(parser: Parser) -> None:
    """``max audit``."""
    parser.answers_rows = True
    parser.add_argument("--since", metavar="TIME", help="only since then: 2d, yesterday, 2026-11-26")
    parser.add_limit(f"the newest N (default: {SHOWN})")
    about = "check that no row was changed, added or taken out"
    parser.add_argument("--verify", action="store_true", help=about)
    about = "with --verify: also that the row with this digest, which was noted before, is still there"
    parser.add_argument("--head", metavar="DIGEST", help=about)
    parser.add_argument("--of", metavar="FILE", help="read a copy that `max audit prune` has made")
    parser.add_examples(
        "max audit",
        "max audit --since 2d -o json",
        "max audit --verify",
        "",
        "Exit status of --verify: 0 whole, 1 not.",
    )


def run_audit(options: Options) -> Answer:
    """The newest rows, or what is wrong with the chain."""
    from ..projects.audit import audit_rows, unfinished_changes

    project = options.found_project()
    if options.verify:
        return verified(options, project)
    if options.head:
        raise UsageError("--head goes with --verify")
    limit = options.limit or SHOWN
    path = copy_of(options)
    found = audit_rows(project, since=since(options.since), limit=limit + 1, copy=path)
    rows, more = found[-limit:], len(found) > limit
    notes = [
        f"not ended: {one['action']} {one['installation']} by {one['user']} ({one['process']})".replace(
            "  ", " "
        )
        for one in ([] if path else unfinished_changes(project))
    ]
    ending = Ending(
        len(rows), None, more, go_on=("--limit", str(4 * limit)), advice=f"more: --limit {4 * limit}"
    )
    if not rows:
        notes.append("nothing was changed yet")
    return options.listing(
        [as_json(one) for one in rows], lambda: shown(rows), notes, columns=COLUMNS, ending=lambda: ending
    )


def configure_audit_prune(parser: Parser) -> None:
    """``max audit prune``."""
    parser.add_argument("--before", metavar="TIME", required=True, help="remove rows older than this: 90d")
    about = "a new file, into which all rows are copied first"
    parser.add_argument("--to", metavar="FILE", required=True, help=about)
    parser.add_examples(
        "max audit prune --before 90d --to audit-2026.db",
        "max audit --of audit-2026.db --verify",
    )


def run_audit_prune(options: Options) -> Answer:
    """Remove old rows, which are in a copy then."""
    from ..projects.audit import prune_audit

    project, copy = options.found_project(), console().file(options.to)
    removed = prune_audit(project, before=since(options.before), copy=copy.absolute())
    lines = [f"{counted(removed, 'row')} removed; all that there were are in {copy}"]
    notes = [f"to read them: max audit --of {copy}"]
    return options.answer({"removed": removed, "copy": str(copy)}, lambda: lines, notes)


def copy_of(options: Options) -> Path | None:
    """The copy that ``--of`` names; UsageError when it is not there."""
    path = None if options.of is None else console().file(options.of)
    if path is not None and not path.is_file():
        raise UsageError(f"there is no file {path}", hint="max audit prune makes copies")
    return path


def since(text: str | None) -> float:
    """A time in seconds since the epoch; UsageError when it is none."""
    from ..model.changes import TIMES, read_since

    found = 0.0 if text is None else read_since(text, time.time())
    if isinstance(found, str):
        raise UsageError(f"{text!r} is not a time", hint=f"such as {TIMES}")
    return found


def verified(options: Options, project: ProjectManager) -> Answer:
    """Whether the chain is whole."""
    from ..projects.audit import check_audit

    found = check_audit(project, head=options.head or "", copy=copy_of(options))
    head = found.digest[:HEAD]
    data = {
        "whole": not found.problems,
        "problems": list(found.problems),
        "rows": found.number - found.pruned,
        "pruned": found.pruned,
        "head": found.digest,
        "unfinished": found.unfinished,
    }
    older = f", behind {counted(found.pruned, 'older one')} that were pruned" if found.pruned else ""
    whole = f"{counted(found.number - found.pruned, 'row')}{older}, none changed, added or taken out"
    lines = [*found.problems] or [f"{whole}; the newest has the digest {head}" if head else whole]
    notes = (
        [f"keep the digest elsewhere, then check with it: max audit --verify --head {head}"] if head else []
    )
    return options.answer(data, lambda: lines, notes if data["whole"] else [], 0 if data["whole"] else 1)


def as_json(one: AuditRow) -> dict[str, Json]:
    """A row as JSON data."""
    values = {name: getattr(one, name) for name in one._names}
    values |= {"at": iso_time(one.at), "beganAt": iso_time(one.began_at), "facts": dict(one.facts)}
    return {name: values[name] for name in COLUMNS}


def shown(rows: list[AuditRow]) -> list[str]:
    """Rows as a table."""
    columns = [Column(name) for name in ("time", "who", "via", "action", "installation", "outcome", "facts")]
    width = line_width()
    return table(columns, [cells(one, width) for one in rows])


def cells(one: AuditRow, width: int | None) -> list[str]:
    """A row as text."""
    outcome = one.outcome + (f" {one.code}" if one.code else "")
    facts = json_text(dict(one.facts)) if one.facts else ""
    who = f"{one.user}, {one.process}"
    return [
        short_time(one.at, width),
        who,
        one.via,
        one.action,
        one.installation.partition(" ")[0],
        outcome,
        facts,
    ]
