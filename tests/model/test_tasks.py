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
from typing import Any

import pytest

from max.errors import NotFound, SyncError, UpstreamMissing
from max.model.tasks import (
    MOVES,
    ExpandTask,
    FollowTask,
    GroupTask,
    ListingPosition,
    ListTask,
    LoadFieldsTask,
    RemoveTask,
    State,
    Status,
    Task,
    TaskSpec,
    failure_of,
    read_spec,
)
from max.storage.catalogue import migrate
from max.storage.leases import LEASE, describe_worker, is_alive, new_worker, process_start
from max.storage.settlement import SETTLE, move_to
from max.storage.sqlite import MEMORY, SqliteConnection, transaction
from max.storage.sync_log import MIGRATIONS, OWNER, guard, result, run, runs, unfinished

NAMES = ("title", "size")
LOAD = LoadFieldsTask("Thing", NAMES, "load_things", ("7",))
ROOT = ("Root", "1", "changes")


@pytest.fixture
def connection() -> Iterator[SqliteConnection]:
    """An empty queue."""
    held = sqlite3.connect(MEMORY, isolation_level=None, factory=SqliteConnection)
    with transaction(held):
        migrate(held, OWNER, MIGRATIONS)
    yield held
    held.close()


def stored(connection: SqliteConnection, state: State) -> None:
    """Give task 1 a state."""
    connection.execute("DELETE FROM _max_task")
    connection.execute(
        "INSERT INTO _max_task (id, sync, kind, spec, state, attempt, created_at, changed_at)"
        " VALUES (1, 's', 'load_fields', '{}', ?, 3, 0, 0)",
        (state,),
    )


def state_of(connection: SqliteConnection) -> str:
    """The state of task 1."""
    return str(connection.execute("SELECT state FROM _max_task WHERE id = 1").fetchone()[0])


# -- moves ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "to"), list(product(State, State)))
def test_a_move_is_stored_if_and_only_if_the_table_has_it(
    connection: SqliteConnection, source: State, to: State
) -> None:
    stored(connection, source)
    moved = connection.execute(move_to(to), (5.0, 1)).rowcount
    assert (moved, state_of(connection)) == ((1, to) if to in MOVES[source] else (0, source))


@pytest.mark.parametrize(("source", "to"), list(product(State, sorted(SETTLE))))
def test_a_task_is_settled_only_while_it_runs(connection: SqliteConnection, source: State, to: State) -> None:
    stored(connection, source)
    numbers = dict.fromkeys(("wait", "more", "children", "unfinished", "failed", "progress", "returned"), 0)
    values = {**numbers, "id": 1, "attempt": 3, "spec": None, "error": None, "now": 5.0}
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
    assert is_alive(one, 100.0, 100.0)
    assert describe_worker(one) == f"process {os.getpid()} on {os.uname().nodename}"


def test_a_process_that_has_ended_is_not_alive() -> None:
    script = "from max.storage.leases import new_worker; print(new_worker())"
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert not is_alive(ended.stdout.strip(), 100.0, 100.0)


def test_a_process_that_has_ended_and_that_nothing_has_waited_for_is_not_alive() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    try:
        assert process_start(child) == ""
    finally:
        os.waitpid(child, 0)


def other(worker: str, **changes: str) -> str:
    """The name of a worker with some parts changed."""
    parts = dict(zip(("host", "boot", "processes", "pid", "start", "serial"), worker.split("/"), strict=True))
    return "/".join((parts | changes).values())


def test_another_process_with_the_same_number_is_not_the_worker() -> None:
    one = new_worker()
    assert process_start(os.getpid())
    assert not is_alive(other(one, start="1"), 100.0, 100.0)


@pytest.mark.parametrize("changes", [{"boot": "x"}, {"processes": "pid:[1]"}, {"boot": "", "processes": ""}])
def test_the_number_of_a_process_says_nothing_elsewhere(changes: dict[str, str]) -> None:
    gone = other(new_worker(), pid="4194305", start="1", **changes)
    assert is_alive(gone, 100.0, 100.0), "the host has the same name, and is another container or machine"
    assert not is_alive(gone, 100.0, 100.0 + LEASE)


def test_a_worker_lives_for_its_lease_even_when_its_process_runs() -> None:
    assert is_alive(new_worker(), 100.0, 100.0 + LEASE - 0.1)
    assert not is_alive(new_worker(), 100.0, 100.0 + LEASE)


def test_a_heartbeat_from_the_future_is_no_sign_of_life() -> None:
    for worker in (new_worker(), "elsewhere/boot/pid:[1]/1/1/x"):
        assert is_alive(worker, 101.0, 100.0), "two clocks differ by a little"
        assert not is_alive(worker, 100.0 + 3_600.0, 100.0)
        assert not is_alive(worker, 1e15, 100.0)


def test_a_process_that_is_not_ours_to_signal_is_alive() -> None:
    assert is_alive(other(new_worker(), pid="1", start=process_start(1) or ""), 100.0, 100.0)


@pytest.mark.parametrize("name", ["old/boot/1/1/x", "elsewhere/boot/pid:[1]/1/1/x", "", "x", "a/b/c/d/e/f"])
@pytest.mark.parametrize(("silent", "alive"), [(0.0, True), (LEASE - 0.1, True), (LEASE, False)])
def test_a_worker_of_another_machine_lives_while_it_gives_signs(
    name: str, silent: float, alive: bool
) -> None:
    assert is_alive(name, 100.0, 100.0 + silent) is alive
    assert "process" in describe_worker(name)


def test_a_process_of_which_nothing_is_known_has_no_start() -> None:
    assert process_start(4194305) == ""


# -- words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (GroupTask("a | b"), "a | b"),
        (GroupTask(), "the plan"),
        (ExpandTask("Thing", "load_fields", NAMES, 0.0), "all Thing: load fields title, size"),
        (LOAD, "Thing:7: load fields title, size"),
        (LOAD.replace(ids=("7", "8", "9")), "Thing:7 and 2 more: load fields title, size"),
        (ListTask("Root", "things", ""), "Root:: load collection things"),
        (FollowTask("Root", "changes", "1", 0.0), "Root:1: follow changes"),
        (RemoveTask((), (), 0.0), "what is gone"),
    ],
)
def test_a_task_is_described_in_the_words_of_the_plan(spec: TaskSpec, words: str) -> None:
    assert spec.describe() == words


def test_a_failure_has_what_a_retry_needs() -> None:
    spec = LOAD.replace(ids=("7", "8"))
    task = Task(3, "s", 1, spec, 2, 1, 0)
    whole = failure_of(task, UpstreamMissing("it is gone", hint="look"), 9.0)
    one = failure_of(task, UpstreamMissing("it is gone"), 9.0, "8")
    assert (whole.id, whole.code, whole.message, whole.hint) == (
        None,
        "upstream.missing",
        "it is gone",
        "look",
    )
    assert (whole.input, whole.attempt, whole.at, whole.task) == (spec.to_json(), 2, 9.0, 3)
    assert (one.id, one.what) == ("8", "Thing:8: load fields title, size")


def test_a_failure_of_a_task_about_one_entity_has_its_id() -> None:
    failure = failure_of(Task(3, "s", 1, LOAD, 1, 1, 0), KeyError("title"), 9.0)
    assert (failure.id, failure.code, failure.message) == ("7", "connector.fault", "KeyError: 'title'")
    assert read_spec(failure.kind, json.loads(json.dumps(failure.input))) == LOAD


# -- specs ----------------------------------------------------------------------------------

POSITION = ListingPosition(2, "p2", 5.0, "token", "newest", delta=True, listed=7, total=(7, 9), content=9)
FILTER = ["all", ["=", ["title"], "x"], ["not", ["=", ["owner", "name"], "y"]], ["synced", "<", ["title"], 3]]
SPECS: list[Any] = [
    GroupTask("a", {"only": ["thing", "Thing.TITLE"], "if_stale": 1.5}),
    ExpandTask(
        "Thing", "load_fields", NAMES, 5.0, "load_things", ROOT, matching=FILTER, after="4", everything=True
    ),
    LOAD.replace(ids=("7", "8"), since=5.0, covered_by=ROOT),
    ListTask("Root", "things", "1", 5.0, ROOT, True, True, True, True, POSITION),
    FollowTask("Root", "changes", "1", 5.0, everything=True, position=POSITION),
    RemoveTask(
        ("Root.things", "Thing.parts"), (ROOT,), 5.0, True, ("Thing",), (5.0,), ("Root.things", "Thing.parts")
    ),
]


@pytest.mark.parametrize("spec", [*SPECS, GroupTask(), LOAD])
def test_a_spec_reads_as_it_was_written(spec: TaskSpec) -> None:
    assert read_spec(spec.kind, json.loads(json.dumps(spec.to_json()))) == spec


def test_what_has_its_default_is_not_written() -> None:
    expected = {"v": 1, "entity": "Root", "collection": "things", "id": "1"}
    assert ListTask("Root", "things", "1", everything=False, since=None).to_json() == expected


@pytest.mark.parametrize(
    ("kind", "data", "what"),
    [
        ("load_fields", {"v": 2}, "format 2"),
        ("group", {"step": "of an older version"}, "format None"),
        ("transform", {"v": 1}, "kind transform"),
    ],
)
def test_an_unknown_spec_is_refused(kind: str, data: dict[str, object], what: str) -> None:
    with pytest.raises(SyncError, match=f"a stored task has {what}, which this version of Max does not know"):
        read_spec(kind, data)


def test_a_renamed_entity_is_renamed_in_every_spec() -> None:
    group, expand, load, *_ = [spec.rename_entity("Thing", "Item") for spec in SPECS]
    assert group.options == {"only": ["Item", "Item.TITLE"], "if_stale": 1.5}
    assert (expand.entity, load.entity, load.ids) == ("Item", "Item", ("7", "8"))
    _, expand, load, listing, follow, remove = [spec.rename_entity("Root", "Top") for spec in SPECS]
    assert (expand.covered_by, load.covered_by) == (("Top", "1", "changes"), ("Top", "1", "changes"))
    assert (listing.entity, listing.position, follow.entity) == ("Top", POSITION, "Top")
    assert (remove.collections, remove.feeds) == (("Thing.parts", "Top.things"), (("Top", "1", "changes"),))
    assert (remove.looks, remove.left) == ((), ())


def test_an_option_follows_a_rename_however_the_entity_was_written() -> None:
    spec = GroupTask(options={"only": ["acme_task.title", "ACME_TASK", "acmetask.title", "AcmeTasks.title"]})
    field = spec.rename_field("AcmeTask", "title", "label").options["only"]
    assert field == ["acme_task.label", "ACME_TASK", "acmetask.label", "AcmeTasks.title"]
    entity = spec.rename_entity("AcmeTask", "AcmeJob").options["only"]
    assert entity == ["AcmeJob.title", "AcmeJob", "AcmeJob.title", "AcmeTasks.title"]


def test_a_renamed_field_is_renamed_in_names_filters_and_options() -> None:
    group, expand, load, *others = [spec.rename_field("Thing", "title", "label") for spec in SPECS]
    assert group.options["only"] == ["thing", "Thing.label"]
    assert (expand.names, load.names) == (("label", "size"), ("label", "size"))
    assert json.dumps(expand.matching) == json.dumps(FILTER).replace("title", "label")
    assert others[:2] == SPECS[3:5]
    assert SPECS[1].matching is FILTER


def test_a_filter_that_follows_a_ref_is_renamed_at_the_entity_that_it_leads_to() -> None:
    renamed = SPECS[1].rename_field("User", "name", "login", lambda entity, field: "User")
    assert json.dumps(renamed.matching) == json.dumps(FILTER).replace('"name"', '"login"')
    assert SPECS[1].rename_field("User", "name", "login", lambda entity, field: "Team") == SPECS[1]


def test_a_filter_that_follows_refs_is_renamed_at_the_entity_that_each_leads_to() -> None:
    spec = ExpandTask(
        "Task", "load_fields", ("title",), 0.0, matching=["=", ["owner", "team", "owner", "name"], "Ada"]
    )
    targets = {("Task", "owner"): "User", ("User", "team"): "Team", ("Team", "owner"): "User"}

    def path(entity: str, old: str) -> Any:
        return spec.rename_field(entity, old, "new", lambda *ref: targets.get(ref)).matching[1]

    assert path("Team", "owner") == ["owner", "team", "new", "name"]
    assert path("Task", "owner") == ["new", "team", "owner", "name"]
    assert path("User", "name") == ["owner", "team", "owner", "new"]


def test_a_filter_of_children_is_renamed_at_the_collection_and_within() -> None:
    matching = ["not", ["some", ["team", "members"], ["any", ["=", ["name"], "Ada"], ["=", ["team"], "x"]]]]
    spec = ExpandTask("Task", "load_fields", ("title",), 0.0, matching=matching)
    targets = {("Task", "team"): "Team", ("Team", "members"): "User", ("User", "team"): "Team"}

    def renamed(entity: str, old: str) -> str:
        return json.dumps(spec.rename_field(entity, old, "new", lambda *ref: targets.get(ref)).matching)

    before = json.dumps(matching)
    assert renamed("Team", "members") == before.replace('"members"', '"new"')
    assert renamed("User", "name") == before.replace('"name"', '"new"')
    assert renamed("User", "team") == before.replace('["team"]', '["new"]')
    assert renamed("Task", "team") == before.replace('["team", ', '["new", ')
    assert renamed("Task", "name") == before


def test_a_renamed_collection_is_renamed_where_it_is_listed_and_where_rows_are_searched() -> None:
    _, _, _, listing, follow, remove = [spec.rename_field("Root", "things", "items") for spec in SPECS]
    assert (listing.collection, follow) == ("items", SPECS[4])
    assert remove.collections == ("Root.items", "Thing.parts")


def test_replaced_ids_are_replaced_and_an_expansion_begins_at_the_first_again() -> None:
    _, expand, load, listing, *_ = [spec.replace_ids("Thing", "n{}".format) for spec in SPECS]
    assert (expand.after, load.ids, listing) == ("", ("n7", "n8"), SPECS[3])
    _, expand, load, listing, follow, remove = [spec.replace_ids("Root", "n{}".format) for spec in SPECS]
    assert (expand.after, expand.covered_by, load.ids) == ("4", ("Root", "n1", "changes"), ("7", "8"))
    assert (listing.id, follow.id, remove.feeds) == ("n1", "n1", (("Root", "n1", "changes"),))


# -- memory ---------------------------------------------------------------------------------


def test_a_database_that_never_saw_a_sync_has_none() -> None:
    connection = sqlite3.connect(MEMORY, factory=SqliteConnection)
    assert runs(connection, 10, now=0.0) == []
    assert unfinished(connection, worker=None, now=0.0) is None
    for ask in (run, result):
        with pytest.raises(NotFound, match="no sync 'abc'"):
            ask(connection, "abc", now=0.0)
    connection.close()
