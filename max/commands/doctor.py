"""doctor: whether the ground is sound that a project is on, and what to do about what is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..errors import MaxError, NoProject
from .framework import Answer, Options, paint
from .parser import Parser
from .terminal import line_width
from .text import folded, sanitize

if TYPE_CHECKING:
    from pathlib import Path

    from ..model.soundness import Finding
    from .text import Colour, Paint

COLUMNS = ("about", "check", "level", "fact", "hint")
COLOURS: dict[str, Colour | None] = {"ok": "green", "warning": "yellow", "problem": "red"}
NO_PROJECT = "there is no project here: this is about the machine alone"


def configure_doctor(parser: Parser) -> None:
    """``max doctor [INSTALLATION …]``."""
    parser.answers_rows = True
    parser.add_argument("targets", nargs="*", metavar="INSTALLATION", help="only these; without any, all")
    about = "also compare indexes with their tables, which takes some fifteen times as long"
    parser.add_argument("--deep", action="store_true", help=about)
    parser.add_examples(
        "max doctor",
        "max doctor acme:default --deep",
        "max doctor -o json",
        "",
        "Nothing is changed, and no source is asked.  Exit status: 1 when there is a problem, else 0.",
        "max health says how the data is.",
    )


def run_doctor(options: Options) -> Answer:
    """One row for each check of the machine, of the project, and of its installations."""
    from ..model.soundness import Level

    found, notes = all_findings(options)
    status = int(any(one.level is Level.PROBLEM for one in found))
    rows = [{name: str(getattr(one, name)) or None for name in COLUMNS} for one in found]
    return options.listing(rows, lambda: shown(found, paint()), notes, columns=COLUMNS, status=status)


def all_findings(options: Options) -> tuple[list[Finding], list[str]]:
    """What is found, and a note where there is no project."""
    from ..model.soundness import PROJECT, failed
    from ..projects.soundness import machine_findings, project_findings

    found = [*machine_findings()]
    try:
        project = options.found_project()
    except MaxError as error:
        if options.targets:
            raise
        if isinstance(error, NoProject):
            return found, [NO_PROJECT]
        return [*found, failed("place", error).replace(about=PROJECT)], []
    chosen = [project.target(one) for one in options.targets] or None
    if project.root is not None:
        found.append(daemon_finding(project.root).replace(about=PROJECT))
    return [*found, *project_findings(project, chosen, deep=options.deep)], []


def daemon_finding(root: Path) -> Finding:
    """Whether the project's daemon, if it runs, answers and is of this version."""
    from .. import __version__
    from ..model.soundness import Finding, problem, warning
    from ..serve.daemon_folder import DaemonFolder
    from ..serve.daemon_process import greeting, state_of

    folder = DaemonFolder.if_any(root)
    state = "stopped" if folder is None else state_of(folder).state
    if state == "stale":
        return warning("daemon", "its process was killed", "max daemon start clears what it left")
    if folder is None or state != "running":
        return Finding("daemon", "none runs")
    version = (greeting(folder) or {}).get("max")
    if version is None:
        fact = f"its process {folder.pid()} does not answer at {folder.socket}"
        return problem("daemon", fact, "max daemon restart --force replaces it")
    if version != __version__:
        return warning("daemon", f"it runs Max {version}, and this is {__version__}", "max daemon restart")
    return Finding("daemon", f"it answers, and runs Max {version} as this process does")


def shown(found: Sequence[Finding], paint: Paint) -> Iterator[str]:
    """A line for each finding, under what it is about; hints on lines of their own."""
    width, about = max(len(one.check) for one in found), ""
    indent = " " * (width + 13)
    room = line_width()
    for one in found:
        if one.about != about:
            yield from ["", one.about] if about else [one.about]
            about = one.about
        begin = f"  {paint(f'{one.level!s:<7}', COLOURS[one.level])}  {one.check:<{width}}  "
        for text in filter(None, (one.fact, one.hint)):
            for line in text.split("\n"):
                for piece in folded(sanitize(line), room and room - len(indent)):
                    yield f"{begin}{piece}"
                    begin = indent
