"""Schedules in the database: who gets a slot, what clocks do to it, and what a failing installation does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.core import InstallationInfo
from max.errors import InvalidSchedule, UnknownName
from max.model.event_log import LoggedKind
from max.model.schedules import LONGEST_WAIT, Outlook, Schedule, ScheduleStatus, Turn, wait_after
from max.model.tasks import GroupTask
from max.storage import schedules
from max.storage.catalogue import migrate
from max.storage.database import Connection
from max.storage.event_log import events_after
from max.storage.leases import new_worker
from max.storage.sync_log import MIGRATIONS, OWNER
from tests.database_files import writer

ROOT = Path(__file__).parent.parent.parent
MINUTE, HOUR, DAY = 60, 3_600, 86_400
START = 1_795_824_000  # midnight in UTC
ME = InstallationInfo("acme", "default", "0123456789abcdef", {}, 0.0)
WORKER = new_worker()


@contextmanager
def opened(folder: Path) -> Iterator[Connection]:
    with writer(folder / "data.db") as connection:
        migrate(connection, OWNER, MIGRATIONS)
        yield connection


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    with opened(tmp_path) as connection:
        yield connection


def schedule(name: str = "default", every: float | None = HOUR, **more: Any) -> Schedule:
    given: dict[str, Any] = {"made_at": START, "jitter": 0, **more}
    return Schedule(name=name, every=every, **given)


def claim(connection: Connection, now: float, name: str = "default") -> str:
    """``fire`` or ``skip`` with the slot, in minutes since the start; empty when there is nothing to do."""
    found = schedules.claim(connection, name, ME.id, worker=WORKER, now=now)
    return "" if found is None or found.slot is None else f"{found.turn} {(found.slot - START) // MINUTE}"


def status(connection: Connection, now: float, name: str = "default") -> ScheduleStatus:
    return next(one for one in schedules.statuses(connection, ME, now=now) if one.schedule.name == name)


def finish(connection: Connection, now: float, problem: str | None = "", name: str = "default") -> None:
    schedules.finish(connection, name, problem, worker=WORKER, now=now)


def begin(
    connection: Connection,
    id: str,
    at: float,
    *,
    state: str = "running",
    by: str | None = None,
    full: int = 0,
) -> None:
    """A sync in the log, of this process while it is running."""
    worker = WORKER if state == "running" else None
    connection.execute(
        "INSERT INTO _max_sync (id, plan, state, command, worker, started_at, finished_at, schedule)"
        " VALUES (?, '[]', ?, 'pause', ?, ?, ?, ?)",
        (id, state, worker, at, at + 1 if state in ("completed", "failed", "partial") else None, by),
    )
    if worker:
        connection.execute("INSERT INTO _max_worker VALUES (?, ?)", (worker, at))
    spec = json.dumps(GroupTask("plan").to_json())
    connection.execute(
        "INSERT INTO _max_task (sync, kind, spec, state, created_at, changed_at)"
        " VALUES (?, 'group', ?, 'running', 0, 0)",
        (id, spec),
    )


# -- slots ---------------------------------------------------------------------------------------


def test_the_first_slot_of_an_interval_is_when_it_was_made(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule())
    assert [claim(connection, START + minutes * MINUTE) for minutes in (0, 1, 59, 60, 61)] == [
        "fire 0",
        "",
        "",
        "fire 60",
        "",
    ]


def test_the_first_slot_of_a_cron_text_is_after_it_was_made(connection: Connection) -> None:
    made = schedule(every=None, cron="0 7 * * *", made_at=START + 8 * HOUR)
    schedules.put_schedule(connection, made)
    assert claim(connection, START + 8 * HOUR) == ""
    assert claim(connection, START + DAY + 7 * HOUR) == f"fire {(DAY + 7 * HOUR) // MINUTE}"


def test_missed_slots_collapse_into_one(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule())
    assert claim(connection, START) == "fire 0"
    finish(connection, START + 1)
    assert [claim(connection, START + 200 * MINUTE) for _ in range(2)] == ["fire 180", ""]


def test_a_slot_begins_later_by_chance_the_same_in_every_process() -> None:
    made = schedule(jitter=None)
    begins = [made.begins(START + n * HOUR, ME.id) - START - n * HOUR for n in range(200)]
    assert begins == [made.begins(START + n * HOUR, ME.id) - START - n * HOUR for n in range(200)]
    assert (min(begins) >= 0, max(begins) < MINUTE, len(set(begins)) > 190) == (True, True, True)
    assert made.begins(START, ME.id) != made.begins(START, "another") != schedule("b").begins(START, ME.id)


@given(st.integers(MINUTE, 30 * DAY), st.one_of(st.none(), st.floats(0, 366 * DAY)), st.integers(0, 2**31))
def test_a_slot_begins_before_the_next_one_comes(every: int, jitter: float | None, at: int) -> None:
    made = schedule(every=every, jitter=jitter)
    slot = made.newest_slot(at)
    assert slot is not None
    assert slot <= at < slot + every
    assert slot <= made.begins(slot, ME.id) < slot + every
    assert made.next_slot(slot) == slot + every


def test_storing_a_schedule_again_changes_nothing(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule())
    assert claim(connection, START) == "fire 0"
    kept = schedules.put_schedule(connection, schedule(made_at=START + MINUTE))
    assert (kept.made_at, claim(connection, START + MINUTE)) == (START, "")


def test_another_interval_begins_at_once(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule())
    assert claim(connection, START) == "fire 0"
    schedules.put_schedule(connection, schedule(every=2 * HOUR, made_at=START + MINUTE))
    assert claim(connection, START + MINUTE) == "fire 1"


def test_a_schedule_that_is_off_does_nothing_until_it_is_on(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule(every=None, cron="0 * * * *"))
    schedules.switch_schedule(connection, "default", on=False, now=START)
    assert (claim(connection, START + HOUR), status(connection, START).outlook.turn) == ("", Turn.OFF)
    schedules.switch_schedule(connection, "default", on=True, now=START + 90 * MINUTE)
    assert claim(connection, START + 90 * MINUTE) == ""  # not the slots while it was off
    assert claim(connection, START + 120 * MINUTE) == "fire 120"


def test_a_removed_schedule_is_gone(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule())
    schedules.remove_schedules(connection, ["default"])
    assert (schedules.schedules(connection), claim(connection, START)) == ([], "")
    with pytest.raises(UnknownName):
        schedules.remove_schedules(connection, ["default"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"every": None},
        {"every": HOUR, "cron": "0 * * * *"},
        {"every": 59},
        {"every": float("nan")},
        {"every": float("inf")},
        {"jitter": -1},
        {"jitter": float("nan")},
        {"name": ""},
        {"name": "a\nb"},
        {"name": "x" * 41},
    ],
)
def test_what_cannot_be_followed_is_refused(connection: Connection, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidSchedule):
        schedules.put_schedule(connection, schedule(**wrong))
    assert schedules.schedules(connection) == []


# -- clocks --------------------------------------------------------------------------------------


def follow(connection: Connection, now: float, seconds: float, step: float) -> list[int]:
    """The slots that fire while the clock runs on, in minutes since the start."""
    found = []
    for n in range(int(seconds // step) + 1):
        word, _, slot = claim(connection, now + n * step).partition(" ")
        if word == "fire":
            found.append(int(slot))
            finish(connection, now + n * step, None)
    return found


steps = st.lists(
    st.tuples(st.sampled_from(["run", "sleep", "back"]), st.integers(1, 20 * HOUR)), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(steps, st.sampled_from([15 * MINUTE, HOUR, 7 * HOUR, DAY]))
def test_a_slot_never_fires_again_when_the_clock_is_set_back_by_less_than_a_day(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], every: int
) -> None:
    with opened(tmp_path_factory.mktemp("clock")) as connection:
        schedules.put_schedule(connection, schedule(every=every))
        now = latest = float(START)
        fired: Counter[int] = Counter()
        for kind, seconds in steps:
            if kind == "back":
                now = max(START, now - seconds, latest - DAY + 1)
            elif kind == "sleep":
                now += seconds
            else:
                fired.update(follow(connection, now, seconds, every / 4))
                now += seconds
            latest = max(latest, now)
        assert [slot for slot, times in fired.items() if times > 1] == []


@settings(max_examples=40, deadline=None)
@given(
    st.integers(-400 * DAY, 400 * DAY),
    st.integers(0, 3 * DAY),
    st.sampled_from([15 * MINUTE, HOUR, 7 * HOUR, DAY]),
    st.booleans(),
)
def test_a_schedule_goes_on_within_a_day_after_a_clock_was_wrong(
    tmp_path_factory: pytest.TempPathFactory, wrong: int, lasted: int, every: int, made_then: bool
) -> None:
    with opened(tmp_path_factory.mktemp("clock")) as connection:
        made = START + wrong if made_then else START
        schedules.put_schedule(connection, schedule(every=every, made_at=made))
        follow(connection, START, every, every / 2)
        follow(connection, START + wrong, lasted, every / 2)
        right = START + every + lasted
        assert follow(connection, right, DAY + 2 * every, every / 4) != []


def test_a_daily_slot_does_not_fire_again_after_the_next_one_and_a_clock_that_is_set_back(
    connection: Connection,
) -> None:
    schedules.put_schedule(connection, schedule(every=DAY))
    assert follow(connection, START, DAY + 2 * HOUR, HOUR / 2 + 1) == [0, DAY // MINUTE]
    assert follow(connection, START + DAY - HOUR, 3 * HOUR, HOUR) == []


def test_what_a_clock_has_handled_that_was_ahead_is_forgotten(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule())
    follow(connection, START + 300 * DAY, DAY, HOUR)
    assert follow(connection, START, HOUR, HOUR) == [0, 60]
    assert [one.slot for one in schedules._slots(connection, schedule())] == [START, START + HOUR]


def test_slots_that_were_handled_do_not_accumulate(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule())
    follow(connection, START, 20 * DAY, HOUR)
    assert 24 <= len(schedules._slots(connection, schedule())) <= 26


def test_the_newest_slot_is_known_however_old_it_is(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule(every=None, cron="0 0 1 1 *", made_at=START - 366 * DAY))
    assert len(follow(connection, START, 300 * DAY, DAY)) == 2  # that of this year, and of the next


# -- while a sync is there ---------------------------------------------------------------------------


def test_no_slot_fires_while_a_sync_of_the_same_options_runs(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule())
    begin(connection, "s1", START)
    assert claim(connection, START) == "skip 0"
    page = events_after(connection)
    assert [(one.kind, one.facts) for one in page.events] == [
        (
            LoggedKind.SCHEDULE_SKIPPED,
            {"schedule": "default", "slot": START, "reason": "sync s1 is running, and fetches the same"},
        )
    ]


def test_a_slot_of_other_options_waits_for_the_sync_that_runs(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule(options={"full": True}))
    begin(connection, "s1", START)
    assert (claim(connection, START), status(connection, START).outlook.turn) == ("", Turn.WAIT)
    connection.execute("UPDATE _max_sync SET state = 'completed', worker = NULL, finished_at = ?", (START,))
    assert claim(connection, START + 1) == "fire 0"


def test_a_sync_that_a_person_paused_stays_paused(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule())
    begin(connection, "s1", START, state="paused")
    assert claim(connection, START) == "skip 0"
    assert "paused" in str(schedules.statuses(connection, ME, now=START)[0].last)


def test_a_sync_that_the_daemon_paused_goes_on(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule())
    begin(connection, "s1", START, state="paused")
    connection.execute("UPDATE _max_sync SET command = 'run'")
    found = schedules.claim(connection, "default", ME.id, worker=WORKER, now=START)
    assert found == Outlook(Turn.FIRE, START, START, resumes="s1")


def test_the_interrupted_sync_of_a_schedule_goes_on_at_once(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule())
    assert claim(connection, START) == "fire 0"
    begin(connection, "s1", START + 1, by="default")
    finish(connection, START + 2, None)
    connection.execute("DELETE FROM _max_worker")  # its process is gone
    assert status(connection, START + 3).outlook == Outlook(Turn.FIRE, START, START, resumes="s1")


# -- crashes, and several processes ---------------------------------------------------------------------

CLAIM_AND_DIE = """
import os, signal, sys
from max.query.schedules import claim
from max.core import InstallationInfo
from max.storage.leases import new_worker
from max.storage.sqlite import SqliteDatabase
info = InstallationInfo("acme", "default", "0123456789abcdef", {}, 0.0)
data = SqliteDatabase(sys.argv[1])
print(claim(data, info, "default", worker=new_worker(), now=float(sys.argv[2])).turn, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
RACE = """
import sys
from max.query.schedules import claim
from max.core import InstallationInfo
from max.storage.leases import new_worker
from max.storage.sqlite import SqliteDatabase
info = InstallationInfo("acme", "default", "0123456789abcdef", {}, 0.0)
start, worker = float(sys.argv[2]), new_worker()
print("ready", flush=True)
sys.stdin.readline()
data = SqliteDatabase(sys.argv[1])
found = [claim(data, info, "default", worker=worker, now=start + n * 900) for n in range(40)]
print(*(one.slot for one in found if one is not None), flush=True)
sys.stdin.readline()  # what a process that has ended had claimed is claimed again
"""


def test_a_slot_whose_process_was_killed_before_its_sync_began_is_claimed_again(tmp_path: Path) -> None:
    with opened(tmp_path) as connection:
        schedules.put_schedule(connection, schedule())
    words = [sys.executable, "-c", CLAIM_AND_DIE, str(tmp_path / "data.db"), str(START)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("fire\n", -9)
    with opened(tmp_path) as connection:
        if not sys.platform.startswith("linux"):
            pytest.skip("only Linux says for certain that a process is gone")
        assert [claim(connection, START + 5) for _ in range(2)] == ["fire 0", ""]


def test_a_slot_whose_process_was_killed_after_its_sync_has_ended_is_not(tmp_path: Path) -> None:
    with opened(tmp_path) as connection:
        schedules.put_schedule(connection, schedule())
    words = [sys.executable, "-c", CLAIM_AND_DIE, str(tmp_path / "data.db"), str(START)]
    subprocess.run(words, cwd=ROOT, capture_output=True, check=False)
    with opened(tmp_path) as connection:
        begin(connection, "s1", START + 1, state="completed", by="default")
        assert claim(connection, START + 5) == ""


def test_of_several_processes_one_gets_each_slot(tmp_path: Path) -> None:
    with opened(tmp_path) as connection:
        schedules.put_schedule(connection, schedule(every=15 * MINUTE))
    words = [sys.executable, "-c", RACE, str(tmp_path / "data.db"), str(START)]
    pipe = subprocess.PIPE
    racing = [subprocess.Popen(words, cwd=ROOT, text=True, stdin=pipe, stdout=pipe) for _ in range(4)]
    try:
        for one in racing:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in racing:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        found = [slot for one in racing if one.stdout for slot in one.stdout.readline().split()]
    finally:
        for one in racing:
            one.kill()
            one.communicate()
    assert sorted(found) == [str(START + n * 15 * MINUTE) for n in range(40)]


# -- failing ---------------------------------------------------------------------------------------------


def test_a_failing_installation_is_tried_less_and_less_often(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule(every=MINUTE))
    tries, now = [], float(START)
    while now < START + 2 * DAY:
        if claim(connection, now).startswith("fire"):
            tries.append(now)
            finish(connection, now, "the token is invalid")
        now += MINUTE
    waits = [int(later - before) // MINUTE for before, later in pairwise(tries)]
    assert waits[:9] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert set(waits[9:]) == {LONGEST_WAIT // MINUTE}


def test_the_other_schedules_of_a_failing_installation_are_skipped(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule())
    schedules.put_schedule(connection, schedule("nightly", options={"full": True}))
    assert claim(connection, START) == "fire 0"
    finish(connection, START + 1, "the token is invalid")
    assert claim(connection, START + 2, "nightly") == "skip 0"
    last = status(connection, START + 2, "nightly").last
    assert last is not None
    assert last.skipped == "the installation fails: the token is invalid"
    assert claim(connection, START + 62) == "fire 0"  # the probe
    finish(connection, START + 63)
    assert claim(connection, START + HOUR, "nightly") == "fire 60"


def test_a_sync_of_a_person_restores_a_failing_installation(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule())
    assert claim(connection, START) == "fire 0"
    finish(connection, START + 1, "the token is invalid")
    found = status(connection, START + 2)
    assert found.trouble is not None
    assert (found.outlook.turn, found.outlook.at, found.trouble.failures) == (Turn.LATER, START + 61, 1)
    begin(connection, "s1", START + 10, state="completed")
    found = status(connection, START + 20)
    assert (found.outlook.turn, found.outlook.at, found.trouble) == (Turn.LATER, START + HOUR, None)


def test_two_processes_do_not_try_a_failing_installation_at_the_same_time(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule())
    assert claim(connection, START) == "fire 0"
    finish(connection, START + 1, "the token is invalid")
    assert [claim(connection, START + 61) for _ in range(2)] == ["fire 0", ""]


def test_a_clock_that_was_ahead_does_not_put_off_the_next_try(connection: Connection) -> None:
    schedules.put_schedule(connection, schedule())
    assert claim(connection, START + 400 * DAY) != ""
    finish(connection, START + 400 * DAY, "the token is invalid")
    found = status(connection, START)
    assert found.outlook.at is not None
    assert found.outlook.at <= START + wait_after(1)


def test_a_database_of_an_older_max_has_no_schedules(connection: Connection) -> None:
    assert schedules.schedules(connection) == []
    assert schedules.statuses(connection, ME, now=START) == []
    assert schedules.claim(connection, "default", ME.id, worker=WORKER, now=START) is None
