"""The rule of health, over generated facts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max.model.health import WORST, EndedSync, Health, HealthFacts, health_of
from max.model.tasks import Status

NOW = 1e9
times = st.floats(0.0, NOW)
ENDED = [Status.COMPLETED, Status.PARTIAL, Status.FAILED]
TROUBLES: dict[str, dict[str, Any]] = {
    "damage": {"damage": "it is no database"},
    "given up": {"crashed_at": 5.0, "crash": "killed by signal 9", "given_up": True},
    "crash": {"crashed_at": 5.0, "crash": "killed by signal 9"},
    "interrupted": {"unfinished": Status.INTERRUPTED, "begun_at": 7.0},
    "quarantine": {"quarantined": 3, "quarantined_at": 4.0},
    "overdue": {"due_at": NOW + 1.0},
}


@st.composite
def syncs(draw: st.DrawFn) -> list[EndedSync]:
    """Ended syncs, the newest first."""
    ends = sorted(draw(st.lists(times, max_size=6)), reverse=True)
    return [EndedSync(draw(st.sampled_from(ENDED)), at, draw(st.sampled_from(["", "why"]))) for at in ends]


def rank(facts: HealthFacts) -> int:
    """The worse, the greater."""
    return WORST.index(health_of(facts).health)


@given(syncs())
def test_the_newest_sync_that_ended_decides_when_nothing_else_is_wrong(ended: list[EndedSync]) -> None:
    found = health_of(HealthFacts(connected_at=1.0, ended=ended)).health
    expected = {
        Status.COMPLETED: Health.HEALTHY,
        Status.PARTIAL: Health.DEGRADED,
        Status.FAILED: Health.FAILED,
    }
    assert found is (expected[ended[0].status] if ended else Health.WAITING)


@given(syncs())
def test_it_is_so_since_the_first_of_the_last_syncs_that_ended_alike(ended: list[EndedSync]) -> None:
    since = health_of(HealthFacts(connected_at=1.0, ended=ended)).since
    alike = [one.at for n, one in enumerate(ended) if {e.status for e in ended[: n + 1]} == {ended[0].status}]
    assert since == (alike[-1] if alike else 1.0)


@given(syncs(), st.sets(st.sampled_from(sorted(TROUBLES))), st.sampled_from(sorted(TROUBLES)))
def test_one_more_trouble_never_makes_it_better(ended: list[EndedSync], present: set[str], more: str) -> None:
    facts = HealthFacts(connected_at=1.0, ended=ended, synced_at=1.0)
    for name in sorted(present):
        facts = facts.replace(**TROUBLES[name])
    worse = facts.replace(**TROUBLES[more])
    assert rank(worse) >= max(rank(facts), WORST.index(Health.DEGRADED))


@given(syncs(), st.sets(st.sampled_from(sorted(TROUBLES))))
def test_everything_that_is_not_healthy_has_a_reason(ended: list[EndedSync], present: set[str]) -> None:
    facts = HealthFacts(connected_at=1.0, ended=ended)
    for name in sorted(present):
        facts = facts.replace(**TROUBLES[name])
    found = health_of(facts)
    assert bool(found.reason) == (found.health is not Health.HEALTHY)


WELL = HealthFacts(connected_at=1.0, ended=[EndedSync(Status.COMPLETED, 50.0)], synced_at=50.0)


@pytest.mark.parametrize(
    ("changes", "health", "reason", "since"),
    [
        ({}, "healthy", "", 50.0),
        ({"ended": (), "synced_at": None}, "waiting", "it was never synced", 1.0),
        (
            {"ended": (), "unfinished": Status.RUNNING, "begun_at": 9.0},
            "waiting",
            "its first sync is under way",
            9.0,
        ),
        ({"unfinished": Status.PAUSED, "begun_at": 60.0}, "waiting", "its sync is paused", 60.0),
        (
            {"unfinished": Status.RUNNING, "begun_at": 60.0, "waits_until": 99.0, "waits_for": "429"},
            "waiting",
            "its sync waits: 429",
            60.0,
        ),
        ({"unfinished": Status.RUNNING, "begun_at": 60.0}, "healthy", "", 50.0),
        ({"due_at": 50.5}, "degraded", "the data is older than its schedule asks for", 50.5),
        ({"due_at": 49.0}, "healthy", "", 50.0),
        ({"due_at": 55.0, "unfinished": Status.RUNNING, "begun_at": 56.0}, "healthy", "", 50.0),
        ({"quarantined": 1, "quarantined_at": 8.0}, "degraded", "1 invalid row is in quarantine", 8.0),
        (
            {"crashed_at": 60.0, "crash": "killed by signal 9", "given_up": True},
            "failed",
            "its process is not started again: killed by signal 9",
            60.0,
        ),
        ({"damage": "it is no database"}, "failed", "it is no database", None),
        (
            {"ended": [EndedSync(Status.PARTIAL, 60.0, "no such page", 2)]},
            "degraded",
            "2 tasks of the last sync failed: no such page",
            60.0,
        ),
        (
            {"ended": [EndedSync(Status.FAILED, 60.0, "the token has expired")]},
            "failed",
            "the token has expired",
            60.0,
        ),
    ],
)
def test_what_each_trouble_is_called(
    changes: dict[str, Any], health: str, reason: str, since: float | None
) -> None:
    found = health_of(WELL.replace(**changes))
    assert (str(found.health), found.reason, found.since) == (health, reason, since)


def test_a_monitor_gets_an_exit_status() -> None:
    assert {str(one): one.exit_status for one in Health} == {
        "healthy": 0,
        "waiting": 0,
        "degraded": 3,
        "failed": 1,
    }
