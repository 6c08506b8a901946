"""Full text: the index in which people find rows by their words.

**What is indexed.**  The searchable fields of every visible row: the title by itself, the others
as one text.  Words are found whole.  Of names (texts without a space, such as
``sqlite_utils/db.py``) and of texts in scripts without spaces any part is found, too.

**How it is kept.**  Rows get ascending numbers, and of each entity the index has the rows up to one
number (``last``).  Triggers note each of those whose texts change, or that goes or comes back, in
``_max_find_pending``, with the texts that the index has of it.  Every write of ours ends with
``flush``, in the same transaction: the old texts of what was noted are taken out of the index, the
new ones added, and then those of the new rows, a page in one statement.  The triggers touch plain
tables alone, so any other program may write rows; what it changed is indexed with the next write of
ours.

**The first index.**  The last number is 0: all rows are new.  They are indexed some thousands at a
time after a sync, a transaction each.  After a crash the next sync goes on.

**The invariant.**  The index, without the rows that are pending, has exactly the texts of the
visible rows up to the last number.  Where nothing is searchable there are no tables and no triggers.

**Example.**  Two tasks are stored, the title of one changes, and it is removed, in three transactions:

    pending before the flush       index             last
    -                              7: Write 8: Run   8
    7, Write, ''                   7: Read  8: Run   8
    7, Read, ''                    8: Run            8

An ``id`` numbers rows over all entities: the entity's own number, then the row's (``_row``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import StorageError
from ..model.entities import Entity
from ..model.text_search import Found, Hit, TextQuery, mark, snippet
from . import catalogue
from .catalogue import has_part, migrate, put
from .database import Connection, RenameOwner, TextMatches, joined, quoted
from .rows import TableMapping

ROWS = 40  # bits of an id that number the row
LAST_ROW = (1 << ROWS) - 1
PAGE = 5_000  # rows that one transaction indexes while old data is
MOST = 20_000  # rows that are indexed together with a write

OWNER = "full text"  # of these tables, in the catalogue
MIGRATIONS = (
    """
    CREATE TABLE _max_find_entity (
        number {row_id},
        name   TEXT NOT NULL UNIQUE,
        fields TEXT NOT NULL,
        last   INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE _max_find_pending (
        id    {row_id},
        title TEXT,
        text  TEXT,
        part  TEXT
    )
    """,
)
PLACE = "_max_find"  # to which the views belong, in the catalogue
KEEP_ENTITY = """
    INSERT INTO _max_find_entity (name, fields) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET fields = excluded.fields, last = 0
"""
NEWEST_PENDING = """
    SELECT max(id), count(*) FROM (SELECT id FROM _max_find_pending ORDER BY id LIMIT :limit) AS page
"""
SOME_PENDING = "SELECT 1 FROM _max_find_pending AS p WHERE p.id <= :newest AND p.id BETWEEN {} LIMIT 1"
REMOVED = "SELECT id, title, text, part FROM _max_find_pending WHERE id <= :newest AND text IS NOT NULL"
FLUSHED = "DELETE FROM _max_find_pending WHERE id <= :newest"
NEWEST_ROW = """
    SELECT max(_row), count(*)
      FROM (SELECT _row FROM {table} WHERE _row > :last ORDER BY _row LIMIT :limit) AS page
"""
NEWEST = "SELECT coalesce(max(_row), 0) FROM {table}"
UNINDEXED = "SELECT count(*) FROM {table} WHERE _row > :last AND _removed_at IS NULL"


class Indexed(NamedTuple):
    """An entity whose texts are indexed: its number, its fields, and up to which row it is."""

    number: int
    fields: str
    last: int

    @property
    def before(self) -> int:
        """The id before those of its rows."""
        return self.number << ROWS


class Texts(NamedTuple):
    """The texts of an entity's rows as SQL; each is never NULL."""

    title: str
    text: str
    part: str

    def columns(self) -> str:
        """The three columns of a SELECT."""
        return f"{self.title} AS title, {self.text} AS text, {self.part} AS part"


def searchable(entity: type[Entity]) -> list[str]:
    """The searchable fields of an entity, its title first."""
    names = [name for name in entity.types() if entity._fields[name].searchable]
    title = entity._title
    return sorted(names, key=lambda name: name != title)


def _fields(mapping: TableMapping[Any]) -> str:
    """The searchable fields by their numbers, which they keep under any name; empty without any."""
    return ",".join(str(mapping.bits[name]) for name in searchable(mapping.entity))


class FullText(RenameOwner):
    """The index of one schema's texts.

    ``on`` says whether writers keep one; while it is ``behind``, they note what they change, and the
    end of the sync indexes it.
    """

    def __init__(self, mappings: Mapping[str, TableMapping[Any]]) -> None:
        self._mappings = mappings
        self.on = self.behind = False

    # -- keeping it -----------------------------------------------------------------------

    def attach(self, connection: Connection) -> None:
        """Have an index of what is searchable now, inside the transaction that makes the tables fit.

        What it lacks is pending.  Nothing is created where the database cannot index texts.
        """
        wanted, known = self._wanted(), read_entities(connection)
        self.on = bool(wanted) and connection.dialect.text_index.is_available(connection)
        if known and not wanted:
            self._drop(connection)
        if not wanted or (not self.on and known is None):
            return
        migrate(connection, OWNER, MIGRATIONS)
        kept = {name: one.fields for name, one in (known or {}).items()}
        if self.on and not self._fits(connection, kept, wanted):
            self._recreate(connection, gone=kept.keys() - wanted.keys())
            kept = {}
        new = [(name, fields) for name, fields in wanted.items() if name not in kept]
        connection.executemany(KEEP_ENTITY, new)
        self._watch(connection)
        self.behind = unindexed(connection, self._mappings) > 0

    def _wanted(self) -> dict[str, str]:
        """The searchable fields of each entity that has some."""
        return {name: fields for name, mapping in self._mappings.items() if (fields := _fields(mapping))}

    def _fits(self, connection: Connection, kept: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
        """Whether the index can stay, to which entities may be added: all that it has is wanted."""
        is_there = connection.dialect.text_index.is_there
        return bool(kept) and kept.items() <= wanted.items() and is_there(connection)

    def _recreate(self, connection: Connection, gone: Iterable[str]) -> None:
        """Have an empty index, without the entities that are ``gone``."""
        connection.dialect.text_index.create(connection)
        connection.execute("DELETE FROM _max_find_pending")
        connection.executemany("DELETE FROM _max_find_entity WHERE name = ?", [(name,) for name in gone])

    def _watch(self, connection: Connection) -> None:
        """Have the triggers, and the views of what should be in the index."""
        selects = []
        for name, one in (read_entities(connection) or {}).items():
            mapping = self._mappings[name]
            texts = texts_of(connection, mapping, "t").columns()
            rows = f"FROM {quoted(mapping.table)} AS t WHERE t._removed_at IS NULL"
            selects.append(f"SELECT {one.before} + t._row AS id, {texts} {rows}")
            for trigger, sql in triggers(connection, mapping, one).items():
                put(connection, "trigger", trigger, mapping.table, sql)
        rows = " UNION ALL ".join(selects)
        view = f"CREATE VIEW _max_find_row AS {rows}"
        parts = f"CREATE VIEW _max_find_part_row AS SELECT id, part FROM ({rows}) AS r WHERE part <> ''"
        put(connection, "view", "_max_find_row", PLACE, view)
        put(connection, "view", "_max_find_part_row", PLACE, parts)

    def _drop(self, connection: Connection) -> None:
        """Nothing is searchable any more."""
        catalogue.drop(connection, "trigger", begins="_max_find:")
        catalogue.drop(connection, "view", PLACE)
        connection.execute("DELETE FROM _max_find_pending")
        connection.execute("DELETE FROM _max_find_entity")
        if connection.dialect.text_index.is_available(connection):
            connection.dialect.text_index.drop(connection)

    def flush(self, connection: Connection) -> None:
        """Index what a transaction has changed, at its end; where this SQLite cannot, it stays as it is."""
        if self.on and not self.behind:
            self.behind = self._index(connection, MOST)

    def index_page(self, connection: Connection) -> int:
        """Index some of what is not indexed; how many rows are left, about."""
        if not self.on:
            return 0
        self.behind = self._index(connection, PAGE)
        if not self.behind:
            connection.dialect.text_index.merge(connection)
            return 0
        left = int(connection.execute("SELECT count(*) FROM _max_find_pending").fetchone()[0])
        for name, one in (read_entities(connection) or {}).items():
            newest = connection.execute(self._mappings[name].sql(NEWEST)).fetchone()[0]
            left += max(0, int(newest) - one.last)
        return max(1, left)  # more than none, since more was there

    def _index(self, connection: Connection, limit: int) -> bool:
        """Index pending rows and new ones, at most ``limit`` of each; whether some may be left."""
        index, entities = connection.dialect.text_index, read_entities(connection) or {}
        newest, number = connection.execute(NEWEST_PENDING, {"limit": limit}).fetchone()
        more = bool(number == limit)
        if newest is not None:
            index.remove(connection, REMOVED, {"newest": newest})
        for name, one in entities.items():
            mapping = self._mappings[name]
            texts = texts_of(connection, mapping, "t").columns()
            rows = f"SELECT {one.before} + t._row AS id, {texts} FROM {quoted(mapping.table)} AS t"
            if newest is not None:
                within = f"{one.before} AND {one.before + LAST_ROW}"
                if connection.execute(SOME_PENDING.format(within), {"newest": newest}).fetchone():
                    noted = f"SELECT p.id - {one.before} FROM _max_find_pending AS p"
                    where = f"p.id <= :newest AND p.id BETWEEN {within}"
                    changed = f"{rows} WHERE t._row IN ({noted} WHERE {where}) AND t._removed_at IS NULL"
                    index.add(connection, changed, {"newest": newest})
            more |= self._index_new(connection, mapping, one, rows, limit)
        if newest is not None:
            connection.execute(FLUSHED, {"newest": newest})
        return more

    def _index_new(
        self, connection: Connection, mapping: TableMapping[Any], one: Indexed, rows: str, limit: int
    ) -> bool:
        """Index rows behind the last one; whether some may be left."""
        values = {"last": one.last, "limit": limit}
        newest, number = connection.execute(mapping.sql(NEWEST_ROW), values).fetchone()
        if newest is not None:
            new = f"{rows} WHERE t._row > :last AND t._row <= :newest AND t._removed_at IS NULL"
            connection.dialect.text_index.add(connection, new, {"last": one.last, "newest": newest})
            sql = "UPDATE _max_find_entity SET last = ? WHERE number = ?"
            connection.execute(sql, (newest, one.number))
        return bool(number == limit)

    def rebuild(self, connection: Connection) -> None:
        """Empty the index, as if all rows were new; StorageError where nothing can be indexed."""
        if not connection.dialect.text_index.is_available(connection):
            raise unavailable()
        start_over(connection)
        self.attach(connection)

    # -- migrations -----------------------------------------------------------------------

    def rename_entity(self, connection: Connection, old: str, new: str) -> None:
        """The rows keep their numbers."""
        if read_entities(connection) is not None:
            connection.execute("UPDATE _max_find_entity SET name = ? WHERE name = ?", (new, old))


# -- what is stored ----------------------------------------------------------------------------


def read_entities(connection: Connection) -> dict[str, Indexed] | None:
    """The entities that are indexed, by name; None where none ever was."""
    if not has_part(connection, OWNER, MIGRATIONS):
        return None
    rows = connection.execute("SELECT name, number, fields, last FROM _max_find_entity ORDER BY number")
    return {name: Indexed(*rest) for name, *rest in rows}


def start_over(connection: Connection) -> None:
    """Have the index built again when it is attached: a migration is about to change values."""
    if has_part(connection, OWNER, MIGRATIONS):
        connection.execute("UPDATE _max_find_entity SET fields = ''")


def unindexed(
    connection: Connection,
    mappings: Mapping[str, TableMapping[Any]],
    entities: Mapping[str, Indexed] | None = None,
) -> int:
    """How many rows have changed, or are new, and are not in the index yet."""
    entities = read_entities(connection) if entities is None else entities
    if not entities:
        return 0
    number = connection.execute("SELECT count(*) FROM _max_find_pending").fetchone()[0]
    for name, one in entities.items():
        if name in mappings:
            number += connection.execute(mappings[name].sql(UNINDEXED), {"last": one.last}).fetchone()[0]
    return int(number)


def unavailable() -> StorageError:
    """What to do without FTS5."""
    return StorageError(
        "the SQLite of this Python has no full-text search (FTS5)",
        hint="use another Python: those of python.org, uv, conda, Debian and Homebrew have it",
    )


# -- texts and triggers ------------------------------------------------------------------------


def texts_of(connection: Connection, mapping: TableMapping[Any], alias: str) -> Texts:
    """The texts of an entity's rows, as SQL about an alias of its table."""
    title, *others = [f"{alias}.{quoted(name)}" for name in searchable(mapping.entity)]
    has_parts = connection.dialect.text_index.has_parts
    parts = [f"CASE WHEN {has_parts(one)} THEN {one} || '\n' ELSE '' END" for one in (title, *others)]
    return Texts(f"coalesce({title}, '')", _lines(others), " || ".join(parts))


def _lines(columns: Sequence[str]) -> str:
    """SQL for texts one below the other."""
    return " || '\n' || ".join(f"coalesce({column}, '')" for column in columns) or "''"


def triggers(connection: Connection, mapping: TableMapping[Any], one: Indexed) -> dict[str, str]:
    """The triggers that note a row that the index has and whose texts change, by their names.

    The first note of a row counts until it is flushed: the index has the texts of before.
    """
    dialect = connection.dialect
    old_visible, new_visible = "OLD._removed_at IS NULL", "NEW._removed_at IS NULL"
    indexed = f"OLD._row <= (SELECT last FROM _max_find_entity WHERE number = {one.number})"
    texts = [f"CASE WHEN {old_visible} THEN {text} END" for text in texts_of(connection, mapping, "OLD")]
    names = [quoted(name) for name in searchable(mapping.entity)]
    differs = joined("OR", [f"OLD.{name} IS DISTINCT FROM NEW.{name}" for name in names])
    changed = f"(({old_visible}) <> ({new_visible}) OR ({new_visible} AND ({differs}))) AND {indexed}"
    note = (
        "INSERT INTO _max_find_pending (id, title, text, part)"
        f" VALUES ({one.before} + OLD._row, {', '.join(texts)}) ON CONFLICT (id) DO NOTHING;"
    )
    ways = {
        "update": (f"UPDATE OF {', '.join(names)}, _removed_at", changed),
        "delete": ("DELETE", f"{old_visible} AND {indexed}"),
    }
    made = {way: f"_max_find:{one.number}.{way}" for way in ways}
    return {made[way]: dialect.trigger(made[way], mapping.table, *parts, note) for way, parts in ways.items()}


# -- finding -----------------------------------------------------------------------------------


def find(
    connection: Connection,
    mappings: Mapping[str, TableMapping[Any]],
    query: TextQuery,
    entities: Sequence[str],
    installation: str,
    limit: int,
) -> Found:
    """The rows of some entities that fit a query; StorageError where this SQLite cannot find them."""
    index = connection.dialect.text_index
    if entities and not index.is_available(connection):
        raise unavailable()
    known = read_entities(connection) or {}
    looked = {one.number: name for name, one in known.items() if name in entities and name in mappings}
    if not looked or not index.is_there(connection):
        return Found((), 0, unindexed(connection, mappings, known))
    ranges = [(number << ROWS, (number << ROWS) + LAST_ROW) for number in looked]
    matches = index.find(connection, query, ranges, limit)
    rows: dict[int, tuple[str, str, str]] = {}
    for number, name in looked.items():
        rows |= _texts_at(connection, mappings[name], number, matches)
    found = [(looked[id >> ROWS], score, *rows[id]) for id, score in matches.rows if id in rows]
    hits = [
        Hit(installation, entity, own, mark(title, query), score, snippet(text, query))
        for entity, score, own, title, text in found
    ]
    return Found(hits, matches.total, unindexed(connection, mappings, known), tuple(looked.values()))


def _texts_at(
    connection: Connection, mapping: TableMapping[Any], number: int, matches: TextMatches
) -> dict[int, tuple[str, str, str]]:
    """The id, the title and the other texts of an entity's rows that fit, by their ids in the index."""
    rows = [id & LAST_ROW for id, _ in matches.rows if id >> ROWS == number]
    if not rows:
        return {}
    texts = texts_of(connection, mapping, "t")
    columns = f"t._row, t._id, {texts.title}, {texts.text}"
    sql = mapping.sql(f"SELECT {columns} FROM {{table}} AS t WHERE t._row IN {{numbers:rows}}")
    found = connection.execute(sql, {"rows": connection.dialect.array(rows)})
    return {(number << ROWS) + row: (own, title, text) for row, own, title, text in found}


def problems(connection: Connection, mappings: Mapping[str, TableMapping[Any]]) -> list[str]:
    """In what the index differs from the rows, in words; inside a transaction that may write."""
    if not read_entities(connection):
        return []
    index, left = connection.dialect.text_index, unindexed(connection, mappings)
    if not index.is_available(connection):
        raise unavailable()
    if not index.is_there(connection):
        return ["the index is gone"]
    if left:
        return [f"{left:,} rows are not indexed yet"]
    return index.problems(connection)
