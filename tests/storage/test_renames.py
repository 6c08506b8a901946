"""Each part of storage keeps its own names and ids right when a migration changes them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from max.model.tasks import ExpandTask, GroupTask, LoadFieldsTask, TaskSpec
from max.storage import freshness, membership, removals
from max.storage.catalogue import migrate
from max.storage.change_log import MIGRATIONS as CHANGE_LOG
from max.storage.change_log import OWNER as CHANGE_LOG_OWNER
from max.storage.change_log import ChangeLog
from max.storage.freshness import Freshness
from max.storage.membership import Membership
from max.storage.removals import Removals
from max.storage.sqlite import MEMORY, SqliteConnection
from max.storage.sync_log import MIGRATIONS as SYNC_LOG
from max.storage.sync_log import OWNER as SYNC_LOG_OWNER
from max.storage.sync_log import SyncLog
from max.storage.tables import LISTING_PAGES

FIELDS = "CREATE TABLE _max_field (entity TEXT, field TEXT, bit INTEGER)"
FILL = """
    INSERT INTO _max_field VALUES ('Task', 'title', 0), ('Task', 'status', 1);
    INSERT INTO _max_load (entity, requested_at, fields) VALUES ('Task', 1.0, 3), ('Person', 1.0, 3);
    INSERT INTO _max_freshness VALUES ('Task', 1, 'title', NULL, 2.0), ('Task', 2, 'title', NULL, 2.0);
    INSERT INTO _max_high_water VALUES ('Task', 2.0);
    INSERT INTO _max_listing (collection, parent)
    VALUES ('Task.notes', 'b'), ('Task.notes', 'a'), ('Team.tasks', 'x');
    INSERT INTO _max_membership (listing, child, generation)
    VALUES (1, 7, 1), (2, 8, 1), (3, 1, 1), (3, 2, 1);
    INSERT INTO _max_missing VALUES ('Note', 7, 1, 3.0, NULL), ('Task', 2, 3, 3.0, NULL);
    INSERT INTO _max_feed_state VALUES ('news', 'a', 't', 1.0, 1.0);
    INSERT INTO _max_change_entity (name, kinds) VALUES ('Task', '{}')
"""


@pytest.fixture
def connection() -> Iterator[SqliteConnection]:
    held = sqlite3.connect(MEMORY, isolation_level=None, factory=SqliteConnection)
    tables = ";".join([FIELDS, freshness.TABLES, membership.TABLES, removals.TABLES, LISTING_PAGES])
    for owner, migrations in (
        ("engine", (tables,)),
        (SYNC_LOG_OWNER, SYNC_LOG),
        (CHANGE_LOG_OWNER, CHANGE_LOG),
    ):
        migrate(held, owner, migrations)
    held.executescript(FILL)
    yield held
    held.close()


def rows(connection: SqliteConnection, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a statement."""
    return connection.execute(sql).fetchall()


def task(connection: SqliteConnection, spec: TaskSpec, *, failed: bool = False) -> None:
    """Store a pending task, or a failure to retry."""
    text = json.dumps(spec.to_json())
    if failed:
        columns = "sync, task, kind, what, entity, id, code, message, hint, attempt, at, input, version"
        values = ("s", 1, spec.kind, "", "Task", spec.single_id, "", "", "", 1, 0.0, text, "1")
        connection.execute(f"INSERT INTO _max_failure ({columns}) VALUES ({', '.join('?' * 13)})", values)
    else:
        columns = "sync, kind, spec, state, created_at, changed_at"
        pending = ("s", spec.kind, text, "pending", 0.0, 0.0)
        connection.execute(f"INSERT INTO _max_task ({columns}) VALUES ({', '.join('?' * 6)})", pending)


def specs(connection: SqliteConnection) -> list[dict[str, Any]]:
    """The stored specs, of tasks and then of failures."""
    sql = "SELECT spec FROM _max_task UNION ALL SELECT input FROM _max_failure"
    return [json.loads(text) for (text,) in connection.execute(sql)]


LISTINGS = Membership({}, None, None)  # type: ignore[arg-type]  # names alone need no removals


def test_listings_follow_names(connection: SqliteConnection) -> None:
    LISTINGS.rename_entity(connection, "Task", "Issue")
    LISTINGS.rename_field(connection, "Team", "tasks", "issues", lambda *_: None)
    names = rows(connection, "SELECT DISTINCT collection FROM _max_listing ORDER BY 1")
    assert names == [("Issue.notes",), ("Team.issues",)]


def test_listings_and_feeds_follow_ids_and_two_parents_can_change_places(
    connection: SqliteConnection,
) -> None:
    connection.execute("CREATE TEMP TABLE ids (old TEXT, new TEXT)")
    connection.execute("INSERT INTO ids VALUES ('a', 'b'), ('b', 'a')")
    connection.execute("INSERT INTO _max_feed_state VALUES ('news', 'b', 't', 2.0, 2.0)")
    LISTINGS.change_ids(connection, "Task", "ids", ["Task.notes", "news"])
    assert rows(connection, "SELECT id, parent FROM _max_listing ORDER BY 1") == [
        (1, "a"),
        (2, "b"),
        (3, "x"),
    ]
    states = rows(connection, "SELECT feed, root, read_at FROM _max_feed_state ORDER BY read_at")
    assert states == [("news", "b", 1.0), ("news", "a", 2.0)]


def test_the_feed_of_a_deleted_root_goes(connection: SqliteConnection) -> None:
    connection.execute("CREATE TEMP TABLE ids (old TEXT, new TEXT)")
    LISTINGS.change_ids(connection, "Task", "ids", ["news"])
    assert rows(connection, "SELECT root FROM _max_feed_state") == []


def test_the_listing_of_a_deleted_parent_goes_with_its_members(connection: SqliteConnection) -> None:
    connection.execute("CREATE TEMP TABLE ids (old TEXT, new TEXT)")
    connection.execute("INSERT INTO ids VALUES ('a', 'c')")
    LISTINGS.change_ids(connection, "Task", "ids", ["Task.notes"])
    assert rows(connection, "SELECT id, parent FROM _max_listing ORDER BY 1") == [(2, "c"), (3, "x")]
    assert rows(connection, "SELECT listing FROM _max_membership ORDER BY 1") == [(2,), (3,), (3,)]
    assert rows(connection, "SELECT row, listing FROM _max_missing ORDER BY 1") == [(2, 3), (7, None)]


def test_deleted_rows_leave_listings_and_records(connection: SqliteConnection) -> None:
    owners = [LISTINGS, Freshness({}), Removals(None, {}, None, None)]  # type: ignore[arg-type]  # as above
    for owner in owners:
        owner.drop_rows(connection, "Task", "SELECT 2", ["Team.tasks"])
    assert rows(connection, "SELECT child FROM _max_membership WHERE listing = 3") == [(1,)]
    assert rows(connection, "SELECT row FROM _max_freshness") == [(1,)]
    assert rows(connection, "SELECT row FROM _max_missing WHERE entity = 'Task'") == []


def test_loads_and_records_follow_names(connection: SqliteConnection) -> None:
    owner = Freshness({})
    owner.rename_field(connection, "Task", "title", "name", lambda *_: None)
    owner.rename_entity(connection, "Task", "Issue")
    assert rows(connection, "SELECT entity, fields FROM _max_load") == [("Issue", 3), ("Person", 3)]
    assert rows(connection, "SELECT DISTINCT entity, field FROM _max_freshness") == [("Issue", "name")]
    assert rows(connection, "SELECT entity FROM _max_high_water") == [("Issue",)]


def test_a_deleted_field_was_never_synced_in_any_row(connection: SqliteConnection) -> None:
    Freshness({}).drop_field(connection, "Task", "title")
    assert rows(connection, "SELECT entity, fields FROM _max_load") == [("Task", 2), ("Person", 3)]
    assert rows(connection, "SELECT * FROM _max_freshness") == []


def test_missing_rows_and_recorded_changes_follow_their_entity(connection: SqliteConnection) -> None:
    Removals(None, {}, None, None).rename_entity(connection, "Task", "Issue")  # type: ignore[arg-type]  # as above
    ChangeLog({}).rename_entity(connection, "Task", "Issue")
    assert rows(connection, "SELECT row FROM _max_missing WHERE entity = 'Issue'") == [(2,)]
    assert rows(connection, "SELECT name FROM _max_change_entity") == [("Issue",)]


def test_tasks_failures_and_stored_options_follow_names(connection: SqliteConnection) -> None:
    task(connection, GroupTask("the plan", {"only": ["Task.title"]}))
    task(connection, ExpandTask("Task", "load_fields", ("title",), 0.0))
    task(connection, LoadFieldsTask("Task", ("title",), "load", ("a",)), failed=True)
    SyncLog().rename_field(connection, "Task", "title", "name", lambda *_: None)
    SyncLog().rename_entity(connection, "Task", "Issue")
    plan, expand, failure = specs(connection)
    assert plan["options"] == {"only": ["Issue.name"]}
    assert [(one["entity"], one["names"]) for one in (expand, failure)] == [("Issue", ["name"])] * 2
    assert rows(connection, "SELECT entity FROM _max_failure") == [("Issue",)]


def test_the_counts_of_a_sync_that_goes_on_follow_an_entity(connection: SqliteConnection) -> None:
    columns = "id, plan, state, command, started_at, counts"
    counts = json.dumps({"Task": 7, "Person": 1})
    for id, state in (("a", "paused"), ("b", "completed")):
        values = (id, "[]", state, "run", 1.0, counts)
        connection.execute(f"INSERT INTO _max_sync ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values)
    SyncLog().rename_entity(connection, "Task", "Issue")
    found = [json.loads(text) for (text,) in rows(connection, "SELECT counts FROM _max_sync ORDER BY id")]
    assert found == [{"Issue": 7, "Person": 1}, {"Task": 7, "Person": 1}]


def test_tasks_and_failures_follow_ids(connection: SqliteConnection) -> None:
    connection.execute("CREATE TEMP TABLE ids (old TEXT, new TEXT)")
    connection.execute("INSERT INTO ids VALUES ('a', 'b')")
    task(connection, LoadFieldsTask("Task", ("title",), "load", ("a", "z")))
    task(connection, LoadFieldsTask("Task", ("title",), "load", ("a",)), failed=True)
    SyncLog().change_ids(connection, "Task", "ids", [])
    assert [one["ids"] for one in specs(connection)] == [["b", "z"], ["b"]]
    assert rows(connection, "SELECT id FROM _max_failure") == [("b",)]
