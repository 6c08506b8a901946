"""status, runs, schema: how an installation is doing, and what it holds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..core import InstallationInfo
from ..errors import NotFound, StorageError, UsageError
from ..installations.project_folder import ProjectFolder
from ..storage.tables import Tables
from .framework import (
    Answer,
    Options,
    Parser,
    Reading,
    add_target,
    answer,
    at_least_one,
    connected,
    examples,
    found_project,
    listing,
    paint,
    reading,
)
from .terminal import width

if TYPE_CHECKING:
    from ..model.tasks import SyncResult, SyncRun
    from ..storage.database import Connection


RUNS = 20  # syncs that `max runs` lists unless told otherwise


def configure_schema(parser: Parser) -> None:
    """``max schema INSTALLATION [ENTITY]``."""
    add_target(parser)
    parser.add_argument("entity", nargs="?", metavar="ENTITY", help="only this one")
    parser.set_defaults(run=run_schema)
    examples(parser, "max schema acme", "max schema acme:default AcmeTask --json")


def run_schema(options: Options) -> Answer:
    """Entities, fields and relationships as last synced; before that, as the connector declares them."""
    from .views import schema_json, schema_text

    project = found_project(options)
    info = project.target(options.target)
    if project.database(info).exists():
        with reading(options) as open:
            schema, rows = open.tables.schema, open.counts()
    else:
        schema, rows = project.registry.resolve(info.connector).schema, {}
    chosen = [schema.entity(options.entity)] if options.entity else list(schema.entities.values())
    data = {"installation": str(info), **schema_json(schema, chosen, rows)}
    return answer(options, data, lambda: schema_text(schema, chosen, rows, width(sys.stdout), paint()))


def configure_status(parser: Parser) -> None:
    """``max status [INSTALLATION]``."""
    add_target(parser, optional=True)
    parser.set_defaults(run=run_status)
    examples(parser, "max status", "max status acme:default -o json")


def run_status(options: Options) -> Answer:
    """How every installation stands, or one."""
    from ..storage.sync_log import runs, waits
    from .views import Standing, status_text

    project = found_project(options)
    chosen = [project.target(options.target)] if options.target else project.installations()
    standings = []
    for info in chosen:
        last: SyncRun | None = None
        rows: dict[str, int] = {}
        waiting: tuple[float, int] | None = None
        if project.database(info).exists():
            with connected(project, info) as connection:
                last = next(iter(runs(connection, 1, now=time.time())), None)
                rows = stored_counts(info, connection)
                if last is not None and last.status == "running":
                    waiting = waits(connection, last.id, now=time.time())
        standings.append(Standing(info, last, rows, waiting))

    def text() -> Iterator[str]:
        for place, one in enumerate(standings):
            yield from [""] if place else []
            yield from status_text(one, time.time(), paint())

    notes = [] if chosen else ["nothing is connected yet; try: max sync acme:default"]
    return listing(options, [one.to_json() for one in standings], text)._replace(notes=notes)


def stored_counts(info: InstallationInfo, connection: Connection) -> dict[str, int]:
    """Rows by entity; none when the first sync has not begun to store."""
    try:
        return Reading(info, connection, Tables.stored(connection)).counts()
    except StorageError:
        return {}


def configure_runs(parser: Parser) -> None:
    """``max runs [INSTALLATION]``, ``max runs show ID``."""
    parser.usage = "max runs [-h] [INSTALLATION] [--limit N]\n       max runs show ID"
    parser.add_argument(
        "words", nargs="*", metavar="INSTALLATION | show ID", help="whose syncs; or which one"
    )
    parser.add_argument(
        "--limit", type=at_least_one, default=RUNS, metavar="N", help=f"syncs (default {RUNS})"
    )
    parser.set_defaults(run=run_runs)
    examples(
        parser,
        "max runs",
        "max runs acme:default --limit 5",
        "max runs show 01h8xk",
        "max runs show 01h8xk --json",
    )


def run_runs(options: Options) -> Answer:
    """Past syncs, newest first; ``show`` tells all of one."""
    from ..storage.sync_log import runs
    from .views import run_json, runs_table

    project = found_project(options)
    if options.words[:1] == ["show"]:
        return show_run(options, project)
    if len(options.words) > 1:
        raise UsageError(f"unexpected {options.words[1]!r}", hint="see: max runs --help")
    chosen = [project.target(options.words[0])] if options.words else project.installations()
    found: list[tuple[InstallationInfo, SyncRun]] = []
    for info in chosen:
        if project.database(info).exists():
            with connected(project, info) as connection:
                found += [(info, one) for one in runs(connection, options.limit, now=time.time())]
    found = sorted(found, key=lambda pair: -pair[1].started_at)[: options.limit]
    rows = [{"installation": str(info), **run_json(one)} for info, one in found]
    notes = [] if found else ["nothing was synced yet"]
    shown = listing(
        options, rows, lambda: runs_table(found, time.time(), width(sys.stdout), paint()) if found else []
    )
    return shown._replace(notes=notes)


def show_run(options: Options, project: ProjectFolder) -> Answer:
    """One sync with every failure."""
    from .views import result_json, summary

    if len(options.words) != 2:
        raise UsageError("which sync?", hint="write: max runs show ID; `max runs` lists them")
    for info in project.installations():
        found = found_run(project, info, options.words[1])
        if found is not None:
            text = partial(summary, info, found, width(sys.stdout), paint(), all_failures=True)
            return answer(options, result_json(info, found), text)
    raise NotFound("sync", options.words[1], hint="`max runs` lists them")


def found_run(project: ProjectFolder, info: InstallationInfo, id: str) -> SyncResult | None:
    """The sync of an installation whose id begins so, or None."""
    from ..storage.sync_log import result

    if not project.database(info).exists():
        return None
    with connected(project, info) as connection:
        try:
            return result(connection, id, now=time.time())
        except NotFound:
            return None


def last_run(project: ProjectFolder, info: InstallationInfo) -> SyncRun | None:
    """The newest sync of an installation, or None."""
    from ..storage.sync_log import runs

    if not project.database(info).exists():
        return None
    with connected(project, info) as connection:
        return next(iter(runs(connection, 1, now=time.time())), None)
