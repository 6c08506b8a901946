"""What an upgrade of a connector means for stored data, and what stands aside because it does not fit.

Rule 1: to look changes nothing.  ``max schema diff`` and ``max migrate --plan`` load the connector
and ask no network; ``max quarantine`` needs neither.

Rule 2: who does not migrate by hand loses nothing: the next sync does the same at its start.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..core import InstallationInfo
from ..storage.quarantine import Quarantined, quarantined
from .framework import (
    Answer,
    Options,
    Parser,
    add_target,
    answer,
    at_least_one,
    connected,
    examples,
    found_project,
    listing,
    only_target,
    paint,
    reading,
)
from .query import LIMIT
from .tables import Column, table
from .terminal import width
from .text import ago, counted, number, stamp

if TYPE_CHECKING:
    from ..connector import AnyConnector
    from ..installations.project_folder import ProjectFolder
    from ..model.values import Json
    from ..storage.schema_diff import MigrationPlan, SchemaChange


# -- what would happen ------------------------------------------------------------------------


def configure_schema_diff(parser: Parser) -> None:
    """``max schema diff [INSTALLATION]``."""
    add_target(parser, optional=True)
    parser.set_defaults(run=run_diff)
    examples(
        parser,
        "max schema diff acme:default",
        "max schema diff acme:default -o json",
        "",
        "Exit status: 0 when nothing differs or every old query goes on to work, 1 when one breaks.",
    )


def run_diff(options: Options) -> Answer:
    """Compare what is stored with what the connector declares; 1 when an old query would break."""
    project = found_project(options)
    info = only_target(project, options.target)
    found = planned(project, info, project.registry.resolve(info.connector))
    shown = answer(options, plan_json(info, found), partial(plan_text, info, found), hints(info, found))
    return shown._replace(status=0 if found.compatible else 1)


def configure_migrate(parser: Parser) -> None:
    """``max migrate INSTALLATION [--plan]``."""
    add_target(parser)
    parser.add_argument("--plan", action="store_true", help="only show what would be done, and what it costs")
    parser.set_defaults(run=run_migrate)
    examples(
        parser, "max migrate acme:default --plan", "max migrate acme:default", "", "A sync does it, too."
    )


def run_migrate(options: Options) -> Answer:
    """Bring the stored data to what the connector declares: all of it, or nothing."""
    project = found_project(options)
    info = only_target(project, options.target)
    connector = project.registry.resolve(info.connector)
    if options.plan:
        found = planned(project, info, connector)
        status = 1 if any(change.refused for change in found.changes) else 0
    else:
        found, status = migrated(project, info, connector), 0
    notes = hints(info, found) if options.plan else [f"done; next: max sync {info}"] if found.changes else []
    data = {**plan_json(info, found), "done": not options.plan}
    return answer(options, data, partial(plan_text, info, found), notes)._replace(status=status)


def planned(project: ProjectFolder, info: InstallationInfo, connector: AnyConnector) -> MigrationPlan:
    """What an upgrade would do to an installation's data."""
    from ..storage.schema_evolution import MigrationPlan, plan

    if not project.database(info).exists():
        known = len(connector.migrations)
        return MigrationPlan((), known, known, fresh=True)
    with connected(project, info) as connection:
        return plan(connection, connector.schema, connector.resolver, connector.policy)


def migrated(project: ProjectFolder, info: InstallationInfo, connector: AnyConnector) -> MigrationPlan:
    """Do it now, in one transaction; SyncRunning while a process is at a sync."""
    from ..storage.schema_evolution import plan
    from ..storage.sqlite import WRITER_CACHE, connect, transaction, translated
    from ..storage.sync_log import refuse_while_syncing
    from ..storage.tables import Tables

    path = str(project.database(info))
    if not project.database(info).exists():
        return planned(project, info, connector)
    policy = connector.policy.replace(check_idle=partial(refuse_while_syncing, clock=time.time))
    tables = Tables(connector.schema, connector.resolver.load_groups, connector.resolver, policy)
    with translated(path):
        connection = connect(path, cache=WRITER_CACHE)
        try:
            with transaction(connection):
                found = plan(connection, connector.schema, connector.resolver, policy)
                tables.apply(connection)
                tables.history.attach(connection, on=info.settings.history != "off")
        finally:
            connection.close()
    return found


def plan_json(info: InstallationInfo, found: MigrationPlan) -> dict[str, Json]:
    """A plan as data."""
    return {
        "installation": str(info),
        "version": found.version,
        "known": found.known,
        "fresh": found.fresh,
        "compatible": found.compatible,
        "changes": [change.to_json() for change in found.changes],
    }


def plan_text(info: InstallationInfo, found: MigrationPlan) -> list[str]:
    """A plan as a table."""
    if not found.changes:
        return [f"{info}: nothing is stored yet" if found.fresh else f"{info}: nothing to do"]
    columns = [Column("what", whole=True), Column("happens"), Column("by"), Column("old queries")]
    columns += [Column("rows", right=True), Column("next sync")]
    rows = [change_row(change) for change in found.changes]
    return table(columns, rows, width(sys.stdout), paint())


def change_row(change: SchemaChange) -> list[str]:
    """A change as a line of the table."""
    by = f"migration {change.migration}" if change.migration is not None else "itself"
    queries = "refused" if change.refused else "go on" if change.compatible else "break"
    return [change.where, change.words, by, queries, number(change.rows) if change.rows else "", change.fetch]


def hints(info: InstallationInfo, found: MigrationPlan) -> list[str]:
    """What to do next: declare what is refused, or let it happen."""
    refused = dict.fromkeys(change.refused for change in found.changes if change.refused)
    if refused:
        return [f"refused until the connector says what is meant: {hint}" for hint in refused]
    return [f"the next sync does this, or now: max migrate {info}"] if found.changes else []


# -- what stands aside ------------------------------------------------------------------------


def configure_quarantine(parser: Parser) -> None:
    """``max quarantine INSTALLATION [ENTITY]``."""
    add_target(parser)
    parser.add_argument("entity", nargs="?", metavar="ENTITY", help="only this one")
    parser.add_argument(
        "--limit", type=at_least_one, default=LIMIT, metavar="N", help=f"rows (default {LIMIT})"
    )
    parser.set_defaults(run=run_quarantine)
    examples(parser, "max quarantine acme:default", "max quarantine acme:default AcmeTask -o ndjson")


def run_quarantine(options: Options) -> Answer:
    """Rows that did not fit: what was expected, what came, and (as JSON) the whole row."""
    with reading(options) as open:
        entity = open.entity(options.entity).__name__ if options.entity else None
        found = quarantined(open.connection, entity=entity, limit=options.limit + 1)
    more, found = len(found) > options.limit, found[: options.limit]
    notes = (
        [f"{counted(len(found), 'row')} shown, more stand aside: --limit {2 * options.limit}"] if more else []
    )
    if not found:
        notes = ["nothing stands aside"]

    def text() -> Iterator[str]:
        columns = [Column("row", whole=True), Column("field"), Column("expected"), Column("came")]
        rows = [aside_row(one) for one in found]
        yield from table([*columns, Column("asked")], rows, width(sys.stdout), paint()) if rows else []

    return listing(options, [aside_json(one) for one in found], text)._replace(notes=notes)


def aside_row(one: Quarantined) -> list[str]:
    """A row that stands aside as a line of the table."""
    name = f"{one.entity}:{one.id}" if one.id else one.entity
    return [name, ", ".join(one.fields), one.expected, one.actual, ago(one.at, time.time())]


def aside_json(one: Quarantined) -> Json:
    """The same as data, with the row as it came."""
    data = {field: getattr(one, field) for field in one._names}
    return {**data, "fields": list(one.fields), "at": stamp(one.at)}
