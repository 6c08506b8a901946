"""schema diff, migrate, quarantine: what an upgraded connector means for stored data.

Rule 1: looking changes nothing.  ``max schema diff`` and ``max migrate --plan`` load the connector
and use no network; ``max quarantine`` needs neither.

Rule 2: migrating by hand is optional: the next sync does the same when it starts.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from ..core import InstallationInfo
from .framework import Answer, Ending, Options, table
from .parser import Parser
from .query import LIMIT
from .tables import Column
from .text import ago, iso_time, number

QUARANTINED = ("entity", "id", "path", "expected", "actual", "fields", "row", "sync", "at")  # in its JSON

if TYPE_CHECKING:
    from ..model.values import Json
    from ..query.reader import MigrationPlan, Quarantined, SchemaChange


def configure_schema_diff(parser: Parser) -> None:
    """``max schema diff [INSTALLATION]``."""
    parser.add_target(optional=True)
    parser.add_examples(
        "max schema diff acme:default",
        "max schema diff acme:default -o json",
        "",
        "Exit status: 0 when nothing differs or every old query keeps working, 1 when one breaks.",
    )


def run_schema_diff(options: Options) -> Answer:
    """Compare stored data with what the connector declares; status 1 when an old query would break."""
    info, found = migrated(options, dry_run=True)
    text, status = partial(plan_text, info, found), 0 if found.compatible else 1
    return options.answer(plan_json(info, found), text, hints(info, found), status)


def configure_migrate(parser: Parser) -> None:
    """``max migrate INSTALLATION [--plan]``."""
    parser.add_target()
    parser.add_argument("--plan", action="store_true", help="only show what would be done, and its cost")
    parser.add_examples(
        "max migrate acme:default --plan",
        "max migrate acme:default",
        "",
        "The next sync does the same when it starts.",
    )


def run_migrate(options: Options) -> Answer:
    """Bring the stored data to what the connector declares: all of it, or nothing."""
    info, found = migrated(options, dry_run=options.plan)
    status = 1 if options.plan and any(change.refused for change in found.changes) else 0
    notes = hints(info, found) if options.plan else [f"done; next: max sync {info}"] if found.changes else []
    data = {**plan_json(info, found), "done": not options.plan}
    return options.answer(data, partial(plan_text, info, found), notes, status)


def migrated(options: Options, *, dry_run: bool) -> tuple[InstallationInfo, MigrationPlan]:
    """What was done to an installation's data, or with ``dry_run`` what would be."""
    from ..query.maintenance import migrate
    from .schedule_view import before_schedule

    project, info = options.found_target()
    connector = project.connector(info)
    declared = (connector.resolver, connector.policy)
    if dry_run:
        return info, migrate(project.database(info), info, *declared, dry_run=True)
    with project.audited("migrate", info):
        database = project.writable_database(info)
        return info, before_schedule(options, project, info, lambda: migrate(database, info, *declared))


def plan_json(info: InstallationInfo, found: MigrationPlan) -> dict[str, Json]:
    """A plan as JSON data."""
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
        return [f"{info}: nothing is stored yet" if found.fresh else f"{info}: up to date"]
    columns = [Column("what", whole=True), Column("change"), Column("by"), Column("old queries")]
    columns += [Column("rows", right=True), Column("next sync")]
    return table(columns, [change_row(change) for change in found.changes])


def change_row(change: SchemaChange) -> list[str]:
    """A change as a row of the table."""
    by = f"migration {change.migration}" if change.migration is not None else "itself"
    queries = "refused" if change.refused else "work" if change.compatible else "break"
    return [change.where, change.words, by, queries, number(change.rows) if change.rows else "", change.fetch]


def hints(info: InstallationInfo, found: MigrationPlan) -> list[str]:
    """What to do next: declare what is refused, or let it happen."""
    refused = dict.fromkeys(change.refused for change in found.changes if change.refused)
    if refused:
        return [f"refused: {hint}" for hint in refused]
    return [f"the next sync does this, or now: max migrate {info}"] if found.changes else []


# -- quarantine -------------------------------------------------------------------------------


def configure_quarantine(parser: Parser) -> None:
    """``max quarantine INSTALLATION [ENTITY]``."""
    parser.answers_rows = True
    parser.add_target(before=("entity",))
    parser.add_argument("entity", nargs="?", metavar="ENTITY", help="only this one")
    parser.add_limit(f"rows (default {LIMIT})", LIMIT)
    parser.add_examples("max quarantine acme:default", "max quarantine acme:default AcmeTask -o ndjson")


def run_quarantine(options: Options) -> Answer:
    """Invalid rows: what was expected, what came, and (as JSON) the whole row."""
    with options.reading() as reader:
        found = reader.quarantine(options.entity, limit=options.limit + 1)
    more, found = len(found) > options.limit, found[: options.limit]
    notes = [] if found else ["nothing is quarantined"]
    go_on = ("--limit", str(2 * options.limit)) if more else None
    ending = Ending(len(found), None if more else len(found), more, go_on=go_on)

    def text() -> list[str]:
        columns = [Column("row", whole=True), Column("field"), Column("expected"), Column("received")]
        return table([*columns, Column("requested")], [quarantined_row(one) for one in found])

    rows = [quarantined_json(one) for one in found]
    return options.listing(rows, text, notes, columns=QUARANTINED, ending=lambda: ending)


def quarantined_row(one: Quarantined) -> list[str]:
    """A quarantined row as a row of the table."""
    name = f"{one.entity}:{one.id}" if one.id else one.entity
    return [name, ", ".join([one.place, *one.fields[1:]]), one.expected, one.actual, ago(one.at, time.time())]


def quarantined_json(one: Quarantined) -> Json:
    """The same as JSON data, with the row as it came."""
    data = {field: getattr(one, field) for field in one._names}
    return {**data, "fields": list(one.fields), "at": iso_time(one.at)}
