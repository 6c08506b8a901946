"""States and their moves, workers, words, and what is remembered of syncs."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from max.errors import NotFound, UpstreamMissing
from max.model.tasks import MOVES, State, Status, Task, TaskKind, describe_task, failure_of
from max.storage.catalogue import migrate
from max.storage.leases import LEASE, describe_worker, is_alive, new_worker, process_start, this_machine
from max.storage.sqlite import MEMORY, SqliteConnection, transaction
from max.storage.sync_log import MIGRATIONS, guard, result, run, runs, unfinished
from max.storage.task_store import SETTLE, move_to

FIELDS = {"entity": "Thing", "operation": "load_fields", "names": ["title", "size"]}


@pytest.fixture
def connection() -> Iterator[SqliteConnection]:
    """An empty queue."""
    held = sqlite3.connect(MEMORY, isolation_level=None, factory=SqliteConnection)
    with transaction(held):
        migrate(held, "execution", MIGRATIONS)
    yield held
    held.close()


def stored(connection: SqliteConnection, state: State) -> None:
    """Make task 1 stand in a state."""
    connection.execute("DELETE FROM _max_task")
    connection.execute(
        "INSERT INTO _max_task (id, sync, kind, payload, state, attempt, created_at, changed_at)"
        " VALUES (1, 's', 'load_fields', '{}', ?, 3, 0, 0)",
        (state,),
    )


def state_of(connection: SqliteConnection) -> str:
    """Where task 1 stands."""
    return str(connection.execute("SELECT state FROM _max_task WHERE id = 1").fetchone()[0])


# -- moves ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "to"), list(product(State, State)))
def test_a_move_is_stored_if_and_only_if_the_table_has_it(
    connection: SqliteConnection, source: State, to: State
) -> None:
    stored(connection, source)
    moved = connection.execute(move_to(to), (5.0, 1)).rowcount
    assert (moved, state_of(connection)) == ((1, to) if to in MOVES[source] else (0, source))


@pytest.mark.parametrize(("source", "to"), list(product(State, SETTLE)))
def test_a_task_is_settled_only_while_it_runs(connection: SqliteConnection, source: State, to: State) -> None:
    stored(connection, source)
    numbers = dict.fromkeys(("not_before", "more", "children", "unfinished", "failed", "progress"), 0)
    values = {**numbers, "id": 1, "attempt": 3, "payload": None, "error": None, "now": 5.0}
    moved = connection.execute(SETTLE[to], values).rowcount
    assert (moved, state_of(connection)) == ((1, to) if source is State.RUNNING else (0, source))


def test_every_state_is_reached_and_every_other_one_can_be_left() -> None:
    reached = {to for targets in MOVES.values() for to in targets}
    assert set(MOVES) == set(State)
    assert reached | {State.NEW} == set(State)
    assert {state for state in State if not MOVES[state]} == {"completed", "failed", "cancelled"}


def test_no_guard_names_a_final_state() -> None:
    assert not [to for to in State for state in State if not MOVES[state] and f"'{state}'" in guard(to)]


def test_what_is_final_is_neither_running_paused_nor_interrupted() -> None:
    assert [status for status in Status if not status.final] == ["running", "paused", "interrupted"]


# -- workers --------------------------------------------------------------------------------


def test_this_process_is_alive_and_no_two_workers_are_the_same() -> None:
    one, two = new_worker(), new_worker()
    assert one != two
    assert is_alive(one, 0.0, 1e12)
    assert describe_worker(one) == f"process {os.getpid()} on {this_machine().split('/')[0]}"


def test_a_process_that_has_ended_is_not_alive() -> None:
    script = "from max.storage.leases import new_worker; print(new_worker())"
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert not is_alive(ended.stdout.strip(), 100.0, 100.0)


def test_another_process_with_the_same_number_is_not_the_worker() -> None:
    host, boot, pid, start, serial = new_worker().split("/")
    assert start == process_start(int(pid)) != ""
    assert not is_alive(f"{host}/{boot}/{pid}/{int(start) + 1}/{serial}", 100.0, 100.0)
    assert not is_alive(f"{host}/another/{pid}/{start}/{serial}", 100.0, 100.0)


def test_a_process_that_is_not_ours_to_signal_is_alive() -> None:
    assert is_alive(f"{this_machine()}/1/{process_start(1)}/x", 0.0, 1e9)


@pytest.mark.parametrize(("silent", "alive"), [(0.0, True), (LEASE - 0.1, True), (LEASE, False)])
def test_a_worker_of_another_machine_lives_while_it_gives_signs(silent: float, alive: bool) -> None:
    assert is_alive("elsewhere/boot/1/1/x", 100.0, 100.0 + silent) is alive


def test_a_process_of_which_nothing_is_known_has_no_start() -> None:
    assert process_start(4194305) == ""


# -- words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "payload", "words"),
    [
        (TaskKind.GROUP, {"step": "a | b"}, "a | b"),
        (TaskKind.GROUP, {}, "the plan"),
        (TaskKind.EXPAND, FIELDS, "all Thing: load fields title, size"),
        (TaskKind.LOAD_FIELDS, {**FIELDS, "ids": ["7"]}, "Thing:7: load fields title, size"),
        (
            TaskKind.LOAD_FIELDS,
            {**FIELDS, "ids": ["7", "8", "9"]},
            "Thing:7 and 2 more: load fields title, size",
        ),
        (
            TaskKind.LOAD_COLLECTION,
            {"entity": "Root", "operation": "load_collection", "names": ["things"], "id": ""},
            "Root:: load collection things",
        ),
    ],
)
def test_a_task_is_told_in_the_words_of_the_plan(
    kind: TaskKind, payload: dict[str, object], words: str
) -> None:
    assert describe_task(kind, payload) == words


def test_a_failure_holds_all_that_is_needed_to_try_it_again() -> None:
    payload = {**FIELDS, "ids": ["7", "8"], "loader": "load_things"}
    task = Task(3, "s", 1, TaskKind.LOAD_FIELDS, payload, 2, 1, 0)
    whole = failure_of(task, UpstreamMissing("it is gone", hint="look"), 9.0)
    one = failure_of(task, UpstreamMissing("it is gone"), 9.0, "8")
    assert (whole.id, whole.code, whole.message, whole.hint) == (
        None,
        "upstream.missing",
        "it is gone",
        "look",
    )
    assert (whole.input, whole.attempt, whole.at, whole.task) == (payload, 2, 9.0, 3)
    assert (one.id, one.what) == ("8", "Thing:8: load fields title, size")


def test_a_failure_of_a_task_about_one_thing_names_it() -> None:
    task = Task(3, "s", 1, TaskKind.LOAD_FIELDS, {**FIELDS, "ids": ["7"]}, 1, 1, 0)
    failure = failure_of(task, KeyError("title"), 9.0)
    assert (failure.id, failure.code, failure.message) == ("7", "connector.fault", "KeyError: 'title'")
    assert json.loads(json.dumps(failure.input)) == task.payload


# -- memory ---------------------------------------------------------------------------------


def test_a_database_that_never_saw_a_sync_has_none() -> None:
    connection = sqlite3.connect(MEMORY, factory=SqliteConnection)
    assert runs(connection, 10, now=0.0) == []
    assert unfinished(connection, worker=None, now=0.0) is None
    for ask in (run, result):
        with pytest.raises(NotFound, match="no sync 'abc'"):
            ask(connection, "abc", now=0.0)
    connection.close()
