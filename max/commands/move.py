"""move: installations go into a database, or back into files."""

from __future__ import annotations

import time
from itertools import chain
from typing import TYPE_CHECKING

from ..errors import DaemonRunning, MoveRefused, UsageError
from .console import console
from .framework import Answer, Options, table
from .parser import Parser
from .streams import tell
from .tables import Column
from .terminal import ERASE, redraws
from .text import counted, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..core import InstallationInfo
    from ..model.values import Json
    from ..projects.manager import ProjectManager
    from ..projects.moving import MoveProgress, Planned

COLUMNS = ("installation", "id", "rows", "files", "state")
REDRAW = 0.1  # seconds between two drawings of the progress on a terminal


def configure_move(parser: Parser) -> None:
    """``max move [INSTALLATION] --to PLACE``."""
    parser.add_target(optional=True)
    parser.answers_rows = True
    parser.add_argument(
        "--to", metavar="PLACE", help="a folder, or postgresql://USER@HOST/DATABASE; it becomes a project"
    )
    parser.add_argument("--plan", action="store_true", help="say what would be moved, and move nothing")
    parser.add_argument(
        "--undo", action="store_true", help="take back a move that was not finished: all stays where it is"
    )
    parser.add_examples(
        "max move --to postgresql://max@db.example.com/max",
        "max move acme:default --to ~/work/other --plan",
        "max move --to .",
        "max move --undo",
    )


def run_move(options: Options) -> Answer:
    """Move an installation, or the whole project without one; killed and run again it goes on."""
    project = options.found_project()
    chosen = None if options.target is None else [project.target(options.target)]
    if options.undo:
        return _undone(options, project, chosen)
    if not options.to:
        hint = "max move --to PLACE: a folder, or postgresql://USER@HOST/DATABASE"
        raise UsageError("where to?", hint=hint)
    from ..projects.opening import is_url, move_of

    place = options.to if is_url(options.to) else str(console().file(options.to).expanduser())
    move = move_of(project, place, chosen)
    if options.plan:
        return _answer(options, move.plan(), "to be moved")
    _refuse_daemon(project)
    progress = ProgressLine(quiet=options.quiet)
    try:
        moved = move.run(progress.show)
    finally:
        progress.clear()
    return _answer(options, moved, "moved")


def _answer(options: Options, found: Sequence[Planned], state: str) -> Answer:
    states = ["handed over before" if one.arrived else state for one in found]
    rows: list[dict[str, Json]] = [
        {
            "installation": str(one.info),
            "id": one.info.id,
            "rows": one.rows,
            "files": one.files,
            "state": words,
        }
        for one, words in zip(found, states, strict=True)
    ]

    def text() -> list[str]:
        columns = [Column("installation", whole=True)]
        columns += [Column("rows", right=True), Column("files", right=True), Column("state")]
        cells = [[str(one.info), number(one.rows), number(one.files)] for one in found]
        return table(columns, [[*some, words] for some, words in zip(cells, states, strict=True)])

    notes = [f"{state}: {counted(len(found), 'installation')}, to {options.to}"]
    return options.listing(rows, text, notes, columns=COLUMNS, head={"to": options.to})


def _undone(options: Options, project: ProjectManager, chosen: Sequence[InstallationInfo] | None) -> Answer:
    """Take back what can be: everything that was not handed over."""
    if options.to or options.plan:
        raise UsageError("--undo goes alone", hint="max move [INSTALLATION] --undo")
    found: dict[str, list[str]] = {}
    refused: list[MoveRefused] = []
    for info in project.installations() if chosen is None else chosen:
        try:
            found |= _taken_back(project, info)
        except MoveRefused as error:
            refused.append(error)
    if refused and not found:
        raise refused[0]
    notes = [*chain(*found.values()), *(error.render() for error in refused)]
    words = [f"{name} stays where it is" for name in found] or ["nothing is being moved"]
    return options.answer({"stays": [*found]}, lambda: words, notes, 3 if refused else 0)


def _taken_back(project: ProjectManager, info: InstallationInfo) -> dict[str, list[str]]:
    """Take back the move of an installation: its name, with notes; nothing when it stays anyway."""
    from ..projects.moving import moving_to, undo
    from ..projects.opening import unopened

    mark = moving_to(project, info)
    if mark is None:
        return {}
    if undo(project, info, mark, unopened(mark.target)):
        return {str(info): []}
    left = f"what was copied to {mark.target} cannot be reached, and stays there"
    return {str(info): [f"{left}, under a name with {info.id}"]}


def _refuse_daemon(project: ProjectManager) -> None:
    """DaemonRunning when a daemon has the project open: it would go on with the old place."""
    from ..serve.daemon_folder import DaemonFolder

    folder = None if project.root is None else DaemonFolder.if_any(project.root)
    if folder is not None and folder.is_running():
        problem = f"the daemon of {project.label} has its data open"
        raise DaemonRunning(problem, hint="stop it first: max daemon stop")


class ProgressLine:
    """How far a move is: one line that is drawn again on a terminal, a line for each part elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._stream, self._quiet = console().stderr, quiet
        self._live = redraws(self._stream)
        self._drawn, self._part = 0.0, ("", "", "")

    def show(self, step: MoveProgress) -> None:
        """Show it, unless it was shown a moment ago."""
        part, now = (str(step.info), step.what, step.unit), time.monotonic()
        if self._quiet or (part == self._part and not (self._live and now - self._drawn >= REDRAW)):
            return
        self._part, self._drawn = part, now
        if self._live:
            done = f"{number(step.done)} of {counted(step.total, step.unit)}"
            tell(self._stream, f"{ERASE}{step.info}: {step.what} {done}")
        else:
            tell(self._stream, f"{step.info}: {step.what} {counted(step.total, step.unit)}\n")

    def clear(self) -> None:
        """Remove the line."""
        if self._live and self._part[0]:
            tell(self._stream, ERASE)
