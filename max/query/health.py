"""The health of an installation, for code without an event loop."""

from __future__ import annotations

from ..core import InstallationInfo
from ..errors import StorageError
from ..model.health import Health, HealthFacts, HealthReport, InstallationHealth, health_of
from ..storage.database import Database
from ..storage.event_log import newest_of
from ..storage.health import health_facts, note_health
from ..storage.schedules import statuses
from .reader import own_reader, own_writer


def health(database: Database, info: InstallationInfo, *, now: float) -> InstallationHealth:
    """How an installation is; a file that cannot be read has failed."""
    if not database.is_there():
        facts = HealthFacts(connected_at=info.connected_at)
        return _of(info, health_of(facts), facts, None)
    try:
        with own_reader(database, info) as connection:
            facts = health_facts(connection, connected_at=info.connected_at, now=now)
            upcoming = [one.outlook.at for one in statuses(connection, info, now=now)]
    except StorageError as error:
        facts, upcoming = HealthFacts(connected_at=info.connected_at, damage=error.message), []
    due = [at for at in upcoming if at is not None]
    return _of(info, health_of(facts), facts, min(due, default=None))


def _of(
    info: InstallationInfo, found: HealthReport, facts: HealthFacts, next_sync: float | None
) -> InstallationHealth:
    return InstallationHealth(str(info), found.health, found.reason, found.since, facts.synced_at, next_sync)


def note(database: Database, info: InstallationInfo, *, now: float) -> Health:
    """Record an event when the health has changed by the time alone; nothing is written otherwise."""
    from ..model.event_log import EventKind

    found = health(database, info, now=now).health
    if not database.is_there():
        return found
    with own_reader(database, info) as connection:
        known = newest_of(connection, EventKind.HEALTH_CHANGED)
    before = Health.HEALTHY if known is None else known.facts.get("health")
    if found not in (before, Health.WAITING):
        with own_writer(database, info) as connection:
            return note_health(connection, now=now).health
    return found
