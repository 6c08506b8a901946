"""status, runs, schema: how installations are doing, and what they hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from ..errors import NotFound, StorageEmpty, StorageError, UnknownName, UsageError
from .framework import NOTHING_CONNECTED, Answer, Options, paint, read, readers
from .parser import Parser
from .terminal import line_width

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.entities import Entity
    from ..model.schema import Schema
    from ..model.tasks import SyncRun
    from ..projects.manager import ProjectManager
    from ..query.reader import Mark, Reader
    from .move_view import Moving
    from .schema_view import Described
    from .views import InstallationStatus

T = TypeVar("T")
RUNS = 20  # syncs that `max runs` lists, when no --limit is given


def configure_schema(parser: Parser) -> None:
    """``max schema INSTALLATION [ENTITY]``."""
    parser.add_target(before=("entity",))
    parser.add_argument(
        "entity", nargs="?", metavar="ENTITY", help="only this one, with the values of fields"
    )
    parser.add_argument("--brief", action="store_true", help="each entity on a line")
    parser.add_argument(
        "--python", action="store_true", help="all entities as a typed Python module, for your own programs"
    )
    parser.add_argument(
        "--connector", action="store_true", help="also its loaders, operations, limits, hosts and credentials"
    )
    parser.add_examples(
        "max schema acme",
        "max schema acme:default AcmeTask --json",
        "max schema acme --brief",
        "max schema acme --connector",
        "max schema acme --python > acme_data.py",
        "",
        "--brief: status{6} has six values, assignee→AcmeUser is a ref, tasks→→AcmeTask is a collection",
    )


def run_schema(options: Options) -> Answer:
    """Entities, fields and relationships as last synced; before that, as the connector declares them."""
    from .schema_view import (
        Described,
        brief_json,
        manifest_lines,
        schema_json,
        schema_lines,
        schema_text,
    )

    project, info = options.found_target()
    if project.has_data(info):
        with read(project, info) as reader:
            found = described(options, reader)
    else:
        schema = project.connector(info).schema
        found = Described(schema, chosen_entities(options, schema))
    if options.python:
        from ..model.schema_source import schema_source

        source = schema_source(found.schema)
        return options.answer({"installation": str(info), "python": source}, source.splitlines)
    if options.brief:
        data, text = brief_json(found), schema_lines
    else:
        data, text = schema_json(found), schema_text
    code = project.connector(info).manifest() if options.connector else {}
    return options.answer(
        {"installation": str(info), **data, **code},
        lambda: [*text(found, line_width(), paint()), *manifest_lines(code)],
    )


def chosen_entities(options: Options, schema: Schema) -> list[type[Entity]]:
    """The entity that the options name, or all."""
    return [schema.entity(options.entity)] if options.entity else list(schema.entities.values())


def described(options: Options, reader: Reader) -> Described:
    """The entities with what is stored of them; values are counted for one entity, or in brief."""
    from ..query.few_values import few_values
    from .schema_view import Described

    entities = chosen_entities(options, reader.schema)
    counted = entities if options.entity or options.brief else []
    values = {one.__name__: few_values(reader, one) for one in counted}
    return Described(reader.schema, entities, reader.counts(), values)


def configure_status(parser: Parser) -> None:
    """``max status [INSTALLATION]``."""
    parser.answers_rows = True
    parser.add_target(optional=True)
    parser.add_examples("max status", "max status acme:default -o json")


def run_status(options: Options) -> Answer:
    """The status of every installation, or of one."""
    from .views import INSTALLATION_STATUS, status_text

    project = options.found_project()
    found, problems = of_each(project, options.target, partial(status_of, project))

    def text() -> Iterator[str]:
        for place, one in enumerate(found):
            yield from [""] if place else []
            yield from status_text(one, time.time(), paint(), line_width())

    notes = problems if found or problems else [NOTHING_CONNECTED]
    notes += move_notes(project, ())  # what is being moved is said of each
    status = 0 if not problems else 3 if found else 1
    rows = [one.to_json() for one in found]
    return options.listing(rows, text, notes, columns=INSTALLATION_STATUS, status=status)


def of_each(
    project: ProjectManager, target: str | None, look: Callable[[InstallationInfo], T]
) -> tuple[list[T], list[str]]:
    """What is found in the installation that a text means, or in each; the words about those that fail."""
    if target is not None:
        return [look(project.target(target))], []
    found, problems = [], [problem.render() for problem in project.problems()]
    for info in project.installations():
        try:
            found.append(look(info))
        except StorageError as error:
            problems.append(f"{info}: {error.render()}")
    return found, problems


def status_of(project: ProjectManager, info: InstallationInfo) -> InstallationStatus:
    """An installation's last sync and what it holds."""
    from ..query.health import health

    found = with_schedules(project, contents_of(project, info))._replace(work=project.work(info))
    if found.work is not None:
        found = found._replace(workers=project.workers())
    found = found._replace(health=health(project.database(info), info, now=time.time()))
    if found.state is None:
        return found
    with read(project, info) as reader:
        last = next(iter(reader.runs(1)), None)
        waits = reader.waiting(last.id) if last is not None and last.status == "running" else None
    if waits is None:
        return found._replace(last=last)
    due, tasks, reason = waits
    return found._replace(last=last, waiting=(due, tasks), reason=reason)


def with_schedules(project: ProjectManager, found: InstallationStatus) -> InstallationStatus:
    """A status with the installation's schedules, and whether they are followed."""
    from ..query.schedules import statuses

    schedules = statuses(project.database(found.info), found.info, now=time.time())
    if not schedules:
        return found
    from .schedule_view import daemon_note

    idle = daemon_note(project) if any(one.schedule.on for one in schedules) else ""
    return found._replace(schedules=schedules, idle=idle)


def contents_of(project: ProjectManager, info: InstallationInfo) -> InstallationStatus:
    """What an installation holds and how whole that is, without its syncs."""
    from .views import InstallationStatus

    place = project.place_of_data(info)
    if not project.has_data(info):
        return InstallationStatus(info, path=place)
    with read(project, info) as reader:
        try:
            rows = reader.counts()
        except StorageEmpty:  # the first sync has not stored anything yet
            rows = {}
        found = InstallationStatus(
            info, rows=rows, state=reader.state, path=place, size=reader.database.size()
        )
        mark = reader.move_mark
    return found if mark is None else found._replace(moving=moving_of(project, info, mark))


def moving_of(project: ProjectManager, info: InstallationInfo, mark: Mark) -> Moving:
    """A move of an installation that has begun."""
    from .move_view import Moving

    return Moving(info, project.address, mark, project.is_moving())


def move_notes(project: ProjectManager, found: Sequence[InstallationStatus]) -> list[str]:
    """What is said of the moves that are not finished."""
    from ..projects.opening import left_behind

    moving, left = [one.moving for one in found if one.moving], left_behind(project)
    if not moving and left is None:
        return []
    from .move_view import finishing, notes_of

    rest = f"a move from {left} is not finished; remove what is left there: {finishing(project.address)}"
    return [*notes_of(moving, time.time()), *([] if left is None else [rest])]


def configure_runs(parser: Parser) -> None:
    """``max runs [INSTALLATION]``, ``max runs [show] ID``."""
    parser.answers_rows = True
    parser.usage = "max runs [-h] [INSTALLATION] [--limit N]\n       max runs [show] ID"
    parser.add_argument(
        "words",
        nargs="*",
        metavar="INSTALLATION | [show] ID",
        help="list its syncs, or show one sync, by the beginning of its id",
    )
    parser.add_limit(f"syncs (default {RUNS})", RUNS)
    parser.add_examples(
        "max runs",
        "max runs acme:default --limit 5",
        "max runs show 01h8xk",
        "max runs show 01h8xk --json",
    )


def run_runs(options: Options) -> Answer:
    """Past syncs, newest first; ``show`` gives one with its failures."""
    project = options.found_project()
    if options.words[:1] == ["show"]:
        if len(options.words) != 2:
            raise UsageError("which sync?", hint="write: max runs show ID; `max runs` lists them")
        return show_run(options, project, options.words[1])
    if len(options.words) > 1:
        raise UsageError(f"unexpected {options.words[1]!r}", hint="see: max runs --help")
    if options.words and not names_installation(project, options.words[0]):
        return show_run(options, project, options.words[0])
    return list_runs(options, project)


def list_runs(options: Options, project: ProjectManager) -> Answer:
    """The newest syncs of all installations, or of the one that is named."""
    from .views import RUN, run_json, runs_table

    def syncs_of(one: InstallationInfo) -> list[tuple[InstallationInfo, SyncRun]]:
        return [(info, run) for info, reader in readers(project, [one]) for run in reader.runs(options.limit)]

    each, problems = of_each(project, next(iter(options.words), None), syncs_of)
    found = sorted(chain(*each), key=lambda pair: -pair[1].started_at)[: options.limit]
    rows = [{"installation": str(info), **run_json(one)} for info, one in found]
    notes = problems if found or problems else ["there was no sync yet"]
    status = 0 if not problems else 3 if each else 1
    return options.listing(
        rows,
        lambda: runs_table(found, time.time(), line_width(), paint()) if found else [],
        notes,
        columns=("installation", *RUN),
        status=status,
    )


def names_installation(project: ProjectManager, word: str) -> bool:
    """Whether a word names an installation; UnknownName when it begins no sync's id either."""
    try:
        project.target(word)
    except UnknownName:
        if not syncs_beginning(project, word)[0]:
            raise
        return False
    return True


def syncs_beginning(
    project: ProjectManager, id: str
) -> tuple[list[tuple[InstallationInfo, str]], list[StorageError]]:
    """The syncs of all installations whose id begins so, and why some installations cannot be read."""
    found: list[tuple[InstallationInfo, str]] = []
    problems: list[StorageError] = []
    for one in project.installations():
        try:
            for info, reader in readers(project, [one]):
                found += [(info, run.id) for run in reader.runs(RUNS, beginning=id)]
        except StorageError as error:
            problems.append(error)
    return found, problems


def show_run(options: Options, project: ProjectManager, id: str) -> Answer:
    """One sync with every failure; UsageError when several begin so, of whatever installation."""
    from .views import result_json, summary

    found, problems = syncs_beginning(project, id)
    if not found:
        raise next(iter(problems), NotFound("sync", id, hint="`max runs` lists them"))
    if len(found) > 1:
        listed = ", ".join(f"{one} ({info})" for info, one in found)
        raise UsageError(f"several syncs begin with {id!r}", hint=f"one of: {listed}")
    info, whole_id = found[0]
    with read(project, info) as reader:
        result = reader.run(whole_id)
    text = partial(summary, info, result, line_width(), paint(), all_failures=True)
    return options.answer(result_json(info, result), text)
