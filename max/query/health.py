"""The health of an installation, for code without an event loop."""

from __future__ import annotations

from ..core import InstallationInfo
from ..errors import StorageError
from ..model.health import Health, HealthFacts, HealthReport, InstallationHealth, health_of
from ..storage.database import Database
from ..storage.event_log import newest_of
from ..storage.health import health_facts, note_health
from ..storage.schedules import statuses
from ..storage.soundness import check_whole
from .reader import own_reader, own_writer


def health(database: Database, info: InstallationInfo, *, now: float) -> InstallationHealth:
    """How an installation is; a file that cannot be read has failed."""
    return _health(database, info, now=now)[0]


def _health(database: Database, info: InstallationInfo, *, now: float) -> tuple[InstallationHealth, str]:
    """How an installation is, and what keeps its file from being read."""
    facts, upcoming = HealthFacts(connected_at=info.connected_at), list[float | None]()
    if database.is_there():
        try:
            with own_reader(database, info) as connection:
                check_whole(connection, info.connector)
                facts = health_facts(connection, connected_at=info.connected_at, now=now)
                upcoming = [one.outlook.at for one in statuses(connection, info, now=now)]
        except StorageError as error:
            facts = HealthFacts(connected_at=info.connected_at, damage=error.message)
    due = [at for at in upcoming if at is not None]
    return _of(info, health_of(facts), facts, min(due, default=None)), facts.damage


def _of(
    info: InstallationInfo, found: HealthReport, facts: HealthFacts, next_sync: float | None
) -> InstallationHealth:
    return InstallationHealth(str(info), found.health, found.reason, found.since, facts.synced_at, next_sync)


def note(database: Database, info: InstallationInfo, *, now: float) -> Health:
    """Record an event when the health has changed by the time alone; nothing is written otherwise."""
    from ..model.event_log import LoggedKind

    report, damage = _health(database, info, now=now)
    found = report.health
    if damage or not database.is_there():
        return found
    with own_reader(database, info) as connection:
        known = newest_of(connection, LoggedKind.HEALTH_CHANGED)
    before = Health.HEALTHY if known is None else known.facts.get("health")
    if found not in (before, Health.WAITING):
        with own_writer(database, info) as connection:
            return note_health(connection, now=now).health
    return found
