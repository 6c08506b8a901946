"""Moves: the tables of one database become those of another, row for row."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from max.errors import MoveRefused, StorageMoving, StorageNewer, SyncRunning
from max.model.delivery import Delivery
from max.model.schema import Schema
from max.model.tasks import Status
from max.storage import moves
from max.storage.change_log import ChangeLog
from max.storage.database import Connection, Database, quoted, reading
from max.storage.move_mark import mark_of, note_handing_over
from max.storage.postgres import PostgresDatabase
from max.storage.postgres_dialect import LIMITS
from max.storage.sqlite import SqliteDatabase
from max.storage.table_writer import TableWriter
from max.storage.tables import VERSIONS
from tests.command_line import record_sync
from tests.contract.places import POSTGRES, database_at
from tests.postgres_server import new_schema, shared_url
from tests.sample import writer
from tests.scenes import run
from tests.test_upstream_histories import HISTORIES
from tests.upstream_world import ALLOWED, RIGHT, History, Sync, World
from tests.versions import made

HISTORIES_MOVED = int(os.environ.get("MAX_MOVES", "3"))  # that are drawn; each is moved there and back
NAMES = ("Ada", "Bob", "Cyd", "Dan", "Eve")


def quiet(number: int) -> None:
    """In place of a progress."""


def carry(source: Database, target: Database, counted: Callable[[int], None] = quiet) -> int:
    """Move all that is in a database into another one; how many rows were compared."""
    with reading(source) as connection:
        tables = moves.survey(connection)
        with target.writer() as there:
            moves.prepare(connection, there, tables)
        moves.copy(connection, target, tables, counted)
        moves.complete(connection, target, tables)
        with reading(target) as there:
            return moves.verify(connection, there, tables, quiet)


def content(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table that is moved, read without what moves read with."""
    with database.reader() as connection:
        found = {}
        for table in moves.survey(connection):
            columns = ", ".join(map(quoted, table.columns))
            sql = f"SELECT {columns} FROM {quoted(table.name)} WHERE {table.where}"
            rows = connection.execute(sql).fetchall()
            found[table.name] = sorted(rows, key=repr)
        return found


SCHEMA = Schema([made("Person", {"name": "str", "size": "float", "data": "list[Json]"})])


def people(database: Database, *names: str, at: float = 5.0, history: bool = True) -> TableWriter:
    """A database with people, whose changes are recorded."""
    tables = writer(SCHEMA)
    with database.writer() as connection:
        tables.apply(connection)
        tables.change_log.attach(connection, on=history)
    with database.writer() as connection:
        store(connection, tables, *names, at=at)
    return tables


def store(connection: Connection, tables: TableWriter, *names: str, at: float) -> None:
    """Store people with names."""
    person: Any = SCHEMA.entity("Person")
    rows = [person(str(number), name=name, size=number / 3) for number, name in enumerate(names)]
    tables.write(connection, Delivery(rows, at))


@pytest.fixture
def source(tmp_path: Path) -> SqliteDatabase:
    """A file with five people."""
    database = SqliteDatabase(tmp_path / "a.db")
    people(database, *NAMES)
    return database


@pytest.fixture
def target(tmp_path: Path) -> SqliteDatabase:
    return SqliteDatabase(tmp_path / "b.db")


@pytest.fixture(params=["file", POSTGRES])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A target of either kind."""
    if request.param == "file":
        yield SqliteDatabase(tmp_path / "there.db")
        return
    database = PostgresDatabase(shared_url(), new_schema())
    yield database
    database.delete()


# -- everything arrives


@pytest.mark.postgres
@given(HISTORIES, st.sets(st.integers(0, 4), min_size=1, max_size=2))
@settings(
    max_examples=HISTORIES_MOVED,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_p47_what_is_moved_is_equal_and_its_syncs_go_on_there_and_back_to_the_same_end(
    history: History, after: set[int]
) -> None:
    """Killed and paused syncs among them; each process goes on in the place to which the last has led."""
    url = shared_url()

    async def main(folder: Path, schemas: list[str]) -> None:
        world, last = World(history, folder / "0.db"), len(history.syncs) - 1

        def move(number: int) -> None:
            source, target = database_at(world.place), database_at(folder / f"{number}.db")
            if isinstance(world.place, Path):
                schemas.append(new_schema())
                target = database_at(f"{url}#{schemas[-1]}")
            carry(source, target)
            assert content(target) == content(source)
            world.place = folder / f"{number}.db" if target.file else f"{url}#{schemas[-1]}"

        for number, one in enumerate(history.syncs):
            await world.sync(one)
            if number in {min(one, last) for one in after}:
                move(number + 1)
        move(last + 2)
        world.forbidden.clear()
        if history.watched:
            await world.sync(Sync(restart=True, options=ALLOWED))
        result = await world.sync(Sync(restart=True, options=RIGHT))
        assert result is not None
        assert (result.status, result.failures) == (Status.COMPLETED, ())
        assert await world.state() == world.upstream.state()

    schemas: list[str] = []
    try:
        with TemporaryDirectory() as folder:
            run(main(Path(folder), schemas))
    finally:
        for schema in schemas:
            PostgresDatabase(url, schema).delete()


def test_what_was_indexed_shown_and_recorded_is_so_there_as_well(
    source: SqliteDatabase, elsewhere: Database
) -> None:
    assert carry(source, elsewhere) > 10
    with elsewhere.writer() as connection:
        tables = TableWriter.stored(connection)
        log = tables.change_log
        before = log.page(connection, "now").cursor
        log.recording = True
        store(connection, tables, "Ada", "Bo", at=9.0)
        (change,) = log.page(connection, before).items
        shown = connection.execute("SELECT id, name FROM person ORDER BY id").fetchall()
        kinds = {one.kind for one in connection.dialect.objects(connection) if "_max_" in one.name}
    assert (change.kind, change.ref.id, change.new) == ("updated", "1", {"name": "Bo"})
    assert shown[:3] == [("0", "Ada"), ("1", "Bo"), ("2", "Cyd")]
    assert {"index", "trigger"} <= kinds


def test_a_cursor_of_the_change_log_is_good_in_the_other_place(
    source: SqliteDatabase, elsewhere: Database
) -> None:
    def changes(database: Database, since: str | None) -> tuple[Sequence[Any], str]:
        with database.reader() as connection:
            page = ChangeLog(TableWriter.stored(connection).mappings).page(connection, since, limit=2)
            return [(one.kind, str(one.ref)) for one in page.items], page.cursor

    first, cursor = changes(source, None)
    carry(source, elsewhere)
    assert changes(elsewhere, cursor) == changes(source, cursor)
    assert len(first) == 2


def test_numbers_go_on_behind_the_highest_that_was_given(
    source: SqliteDatabase, elsewhere: Database, tmp_path: Path
) -> None:
    """Also behind one whose row was deleted, where the table promises that."""
    listing = "INSERT INTO _max_listing (collection, parent) VALUES ('Shelf.people', ?) RETURNING id"
    with source.writer() as connection:
        first, last = (connection.execute(listing, (one,)).fetchone()[0] for one in "ab")
        connection.execute("DELETE FROM _max_listing WHERE id = ?", (last,))
    carry(source, elsewhere)
    back = SqliteDatabase(tmp_path / "back.db")
    carry(elsewhere, back)
    for database in (elsewhere, back):
        with database.writer() as connection:
            assert connection.execute(listing, ("c",)).fetchone()[0] == last + 1 == first + 2
            store(connection, TableWriter.stored(connection), *NAMES, "Fay", at=20.0)
            rows = dict(connection.execute("SELECT _id, _row FROM _person").fetchall())
        assert len(set(rows.values())) == len(NAMES) + 1
        assert rows["5"] > 5


# -- a copy that was ended goes on


def test_a_copy_that_was_ended_writes_only_what_is_missing(
    source: SqliteDatabase, target: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "PAGE", 2)
    monkeypatch.setattr(moves, "TOGETHER", 1)
    seen: list[str] = []
    replace = moves._replace

    def watched(connection: Connection, table: Any, page: Any) -> None:
        seen.append(f"{table.name} {page.low}")
        replace(connection, table, page)

    monkeypatch.setattr(moves, "_replace", watched)

    def end_at(nth: int) -> Callable[[int], None]:
        left = [nth]

        def counted(number: int) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

        return counted

    with pytest.raises(KeyboardInterrupt):
        carry(source, target, end_at(12))
    before = seen.copy()
    seen.clear()
    carry(source, target)
    assert before
    assert seen
    assert not set(before) & set(seen)
    assert content(target) == content(source)
    seen.clear()
    carry(source, target)
    assert seen == []


def test_what_is_too_much_or_differs_in_a_copy_is_replaced(
    source: SqliteDatabase, target: SqliteDatabase
) -> None:
    carry(source, target)
    with target.writer() as connection:
        connection.execute("UPDATE _person SET name = 'X' WHERE _id = '1'")
        connection.execute("INSERT INTO _person (_id, name) VALUES ('9', 'Y')")
        connection.execute("INSERT INTO _max_source VALUES ('z')")
    carry(source, target)
    assert content(target) == content(source)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE _person SET name = 'Adam' WHERE _id = '0'", "Person:0 did not arrive as it is: name"),
        ("UPDATE _person SET size = NULL WHERE _id = '1'", "Person:1 did not arrive as it is: size is float"),
        ("DELETE FROM _person WHERE _id = '4'", "Person:4 did not arrive"),
        ("INSERT INTO _person (_id) VALUES ('x')", "_person has more rows there"),
        ("UPDATE _max_schema SET schema = schema || ' '", "_max_schema 1 did not arrive as it is: schema"),
        ("DELETE FROM _max_kept_loads", "_max_kept_loads"),
    ],
)
def test_the_proof_names_the_first_row_that_differs(
    source: SqliteDatabase, target: SqliteDatabase, change: str, named: str
) -> None:
    with source.writer() as connection:
        connection.execute("INSERT INTO _max_kept_loads VALUES (3)")
    carry(source, target)
    with target.writer() as connection:
        connection.execute("DELETE FROM _max_change_log")  # whose triggers would note the change
        connection.execute(change)
    with reading(source) as connection, reading(target) as there:
        tables = [one for one in moves.survey(connection) if not one.name.startswith("_max_change")]
        with pytest.raises(MoveRefused) as caught:
            moves.verify(connection, there, tables, quiet)
    assert str(caught.value).startswith(named)
    assert "Adam" not in caught.value.render()


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), ("1", 1), (None, 0), ("a", b"a")])
def test_values_of_other_types_are_not_the_same(one: object, other: object) -> None:
    assert moves._same([("x", one)], [("x", one)])
    assert not moves._same([("x", one)], [("x", other)])


# -- what cannot be moved is named


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("'a' || char(0) || 'b'", "Person:1 cannot be stored there: .*NUL"),
        ("x'00ff'", "Person:1 (cannot be stored|did not arrive as it is: name is bytes)"),
    ],
)
def test_a_value_that_the_target_cannot_hold_is_refused_with_the_ref_of_its_row(
    tmp_path: Path, value: str, words: str
) -> None:
    source = SqliteDatabase(tmp_path / "a.db")
    people(source, *NAMES, history=False)
    with source.writer() as connection:
        connection.execute(f"UPDATE _person SET name = {value} WHERE _id = '1'")
    target = PostgresDatabase(shared_url(), new_schema())
    try:
        with pytest.raises(MoveRefused, match=words):
            carry(source, target)
    finally:
        target.delete()


@pytest.mark.postgres
def test_a_row_that_is_too_large_there_is_called_so(tmp_path: Path) -> None:
    source, target = SqliteDatabase(tmp_path / "a.db"), PostgresDatabase(shared_url(), new_schema())
    fields = [f"f{number}" for number in range(400)]
    wide = made("Wide", dict.fromkeys(fields, "str"))
    tables = writer(Schema([wide]))
    with source.writer() as connection:
        tables.apply(connection)
        tables.write(connection, Delivery([wide("1"), wide("2", **dict.fromkeys(fields, "x" * 20))], 5.0))
    try:
        with pytest.raises(MoveRefused, match="Wide:2 cannot be stored there: row is too big") as caught:
            carry(source, target)
    finally:
        target.delete()
    assert caught.value.hint.startswith("keep it where it is, which holds more")


def test_an_entity_with_too_many_fields_for_the_target_is_refused(tmp_path: Path) -> None:
    source = SqliteDatabase(tmp_path / "a.db")
    wide = made("Wide", {f"f{number}": "int" for number in range(1_600)})
    with source.writer() as connection:
        writer(Schema([wide])).apply(connection)
        tables = moves.survey(connection)
        moves.refuse_too_large(connection, tables, source.limits)
        with pytest.raises(MoveRefused, match=r"Wide has 1,\d+ columns, and Postgres holds up to 1,600"):
            moves.refuse_too_large(connection, tables, LIMITS)


def test_what_users_made_is_named_with_the_way_to_drop_it(source: SqliteDatabase) -> None:
    with source.writer() as connection:
        connection.execute("CREATE VIEW adults AS SELECT * FROM person")
        connection.execute("CREATE TABLE notes (a INTEGER)")
        with pytest.raises(MoveRefused, match="your view adults, your table notes") as caught:
            moves.survey(connection)
        assert "DROP VIEW" in caught.value.hint
        connection.execute("DROP VIEW adults")
        connection.execute("DROP TABLE notes")
        connection.execute("ALTER TABLE _person ADD COLUMN mine TEXT")
        with pytest.raises(MoveRefused, match="no field of Person is in: mine"):
            moves.survey(connection)


def test_a_database_in_which_a_killed_process_has_made_nothing_yet_has_nothing_to_move(
    elsewhere: Database,
) -> None:
    with elsewhere.writer():
        pass
    with elsewhere.writer() as connection:
        assert moves.survey(connection) == []


@pytest.mark.parametrize(
    "change",
    [
        f"INSERT INTO _max_migration VALUES ('engine', {len(VERSIONS) + 1}, 'x')",
        "INSERT INTO _max_migration VALUES ('telepathy', 1, 'x')",
        "CREATE TABLE _max_telepathy (a INTEGER)",
    ],
)
def test_what_a_newer_max_made_is_refused(source: SqliteDatabase, change: str) -> None:
    with source.writer() as connection:
        connection.execute(change)
        with pytest.raises(StorageNewer):
            moves.survey(connection)


# -- nothing is written while it moves


def marked(connection: Connection) -> tuple[object, ...]:
    """The mark of a move that has just begun."""
    mark = mark_of(connection)
    assert mark is not None
    assert 0 <= time.time() - mark.since < 3600
    return mark.target, mark.whole, mark.handing_over, mark.given


@pytest.mark.parametrize("kind", ["sqlite", POSTGRES])
def test_while_it_moves_every_table_can_be_read_and_none_written(kind: str, tmp_path: Path) -> None:
    database: Database = SqliteDatabase(tmp_path / "a.db")
    if kind == "postgres":
        database = PostgresDatabase(shared_url(), new_schema())
    people(database, *NAMES)
    with database.writer() as connection:
        moves.freeze(connection, "elsewhere", whole=True)
        moves.freeze(connection, "elsewhere")
        tables = moves.survey(connection)
        assert marked(connection) == ("elsewhere", True, False, "")
        with pytest.raises(MoveRefused, match="being moved to elsewhere already"):
            moves.freeze(connection, "somewhere")
    before = content(database)
    for table in (one for one in tables if one.rows):
        with pytest.raises(StorageMoving, match="being moved") as caught, database.writer() as connection:
            connection.execute(f"DELETE FROM {quoted(table.name)}")
        assert "--undo" in caught.value.hint
    with pytest.raises(StorageMoving), database.writer() as connection:
        store(connection, TableWriter.stored(connection), "Zoe", at=30.0)
    assert content(database) == before
    with database.writer() as connection:
        note_handing_over(connection, "digest")
        assert marked(connection) == ("elsewhere", True, True, "digest")
        moves.thaw(connection)
        moves.thaw(connection)
        store(connection, TableWriter.stored(connection), "Zoe", at=30.0)
        assert mark_of(connection) is None
    if kind == "postgres":
        database.delete()


def test_a_process_that_is_syncing_is_not_disturbed(source: SqliteDatabase) -> None:
    record_sync(Path(source.path), Status.RUNNING)
    with source.writer() as connection:
        connection.execute("UPDATE _max_sync SET worker = 'a/b/c/1/1/x'")
        connection.execute("INSERT INTO _max_worker VALUES ('a/b/c/1/1/x', unixepoch())")
        with pytest.raises(SyncRunning):
            moves.freeze(connection, "elsewhere")
        assert mark_of(connection) is None
