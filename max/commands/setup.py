"""init, ls, settings: a project and its installations."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..core import InstallationInfo
from ..errors import ProjectError, StorageError, UsageError
from ..model.settings import SETTINGS, parse_settings, settings_json
from ..projects.folder import ProjectFolder
from ..projects.manager import ProjectManager
from .framework import NOTHING_CONNECTED, Answer, Options, table
from .parser import Parser
from .tables import Column

if TYPE_CHECKING:
    from ..projects.manager import ProjectManager
    from .views import InstallationStatus


def configure_init(parser: Parser) -> None:
    """``max init [DIR]``."""
    parser.add_argument("folder", nargs="?", metavar="DIR", help="the folder (default: the current one)")
    parser.add_argument(
        "--database",
        metavar="URL",
        help="keep the project in Postgres: postgresql://USER@HOST/DATABASE; the folder leads to it",
    )
    parser.add_examples(
        "max init", "max init ~/work/data", "max init --database postgresql://max@db.example.com/max"
    )


def run_init(options: Options) -> Answer:
    """Create a project; nothing changes when there is one.

    ProjectError inside of another one, unless the folder is named: that is meant then.
    """
    folder = Path(options.folder or options.project).resolve()
    known, notes = False, []
    with suppress(ProjectError):
        above = ProjectFolder.find(folder)
        known = above.root == folder
        if not known:
            if options.folder is None:
                raise UsageError(
                    f"{folder} is in the project of {above.root} already",
                    hint="to use that one, do nothing; to make another one inside of it: max init .",
                )
            notes = [f"it is inside of the project of {above.root}, which it hides from here"]
    project = made_in(folder, options.database)
    if not project.installations():
        notes.append("next: max sync acme:default, or max connect with a source of yours")
    made = f"there is a project in {project.label} already" if known else f"project in {project.label}"
    return options.answer({"project": project.label, "created": not known}, lambda: [made], notes)


def made_in(folder: Path, database: str | None) -> ProjectManager:
    """A new project in a folder, or in a database to which the folder leads."""
    from ..projects.opening import led_from, make_in_database

    return led_from(ProjectFolder.init(folder)) if database is None else make_in_database(folder, database)


def configure_ls(parser: Parser) -> None:
    """``max ls``."""
    parser.answers_rows = True
    parser.add_examples("max ls", "max ls -o json")


def run_ls(options: Options) -> Answer:
    """List installations; those whose files are broken are named on stderr."""
    from .status import move_notes
    from .views import INSTALLATION, installation_row

    project = options.found_project()
    known, problems = project.installations(), project.problems()
    notes = [problem.render() for problem in problems]
    found = [listed(project, info, notes) for info in known]

    def text() -> list[str]:
        columns = [
            Column("installation", whole=True),
            Column("status", whole=True),
            Column("synced", whole=True),
        ]
        columns += [Column("rows", right=True), Column("size", right=True), Column("settings")]
        return table(columns, [installation_row(one, time.time()) for one in found])

    if not known and not problems:
        notes = [NOTHING_CONNECTED]
    notes += move_notes(project, found)
    return options.listing([one.listed() for one in found], text, notes, columns=INSTALLATION)


def listed(project: ProjectManager, info: InstallationInfo, notes: list[str]) -> InstallationStatus:
    """What an installation holds; what is wrong with its database is added to the notes."""
    from .status import contents_of
    from .views import InstallationStatus

    try:
        return contents_of(project, info)
    except StorageError as error:
        notes.append(f"{info}: {error.render()}")
        return InstallationStatus(info, path=project.place_of_data(info), damaged=True)


def configure_settings(parser: Parser) -> None:
    """``max settings INSTALLATION [SETTING=VALUE …]``."""
    parser.add_target()
    parser.add_argument(
        "settings", nargs="*", metavar="SETTING=VALUE", help="what to change; without any, show all settings"
    )
    about = [f"{name}: {one.about}" for name, one in SETTINGS.items()]
    parser.description = "\n  ".join([f"{parser.description}\n", *about])
    parser.add_examples(
        "max settings acme:default", "max settings acme:default history=changes history_days=30"
    )


def run_settings(options: Options) -> Answer:
    """Show the settings of an installation, or change some of them."""
    project, info = options.found_target()
    words = dict(map(setting, options.settings))
    if words:
        with project.audited("change_settings", info):
            info = project.change_settings(info, **parse_settings(words))
    notes = ["the next sync uses them; a sync that is running keeps the old ones"] if words else []
    data = {"installation": str(info), "settings": settings_json(info.settings)}
    return options.answer(data, partial(settings_text, info), notes)


def setting(word: str) -> tuple[str, str]:
    """``history=changes`` as its two parts."""
    name, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"{word!r} sets nothing", hint="write SETTING=VALUE, such as history=changes")
    return name, value


def settings_text(info: InstallationInfo) -> list[str]:
    """Every setting with its value and what it means."""
    values = settings_json(info.settings)
    rows = [[name, str(values[name]), one.about] for name, one in SETTINGS.items()]
    columns = [Column("setting", whole=True), Column("value", whole=True), Column("means")]
    return table(columns, rows)
