"""Full text: the index in which people find rows by their words.

**What is indexed.**  The searchable fields of every visible row: the title by itself, the others
as one text.  Words are found whole.  Of names (a title, or a text without a space, such as
``sqlite_utils/db.py``) and of texts in scripts without spaces any part is found, too.

**How it is kept.**  Triggers note each row whose texts change in ``_max_find_pending``, with the
texts that the index has of it.  Every write of ours ends with ``flush``, in the same transaction:
the old texts are taken out of the index and the new ones added, by the page.  The triggers touch
plain tables alone, so any other program may write rows; what it changed is indexed with the next
write of ours.

**The first index.**  All rows are noted as pending, which is quick, and flushed some thousands at a
time, a transaction each.  A crash leaves the rest pending, and the next start goes on.

**The invariant.**  The index, without the rows that are pending, has exactly the texts of the
visible rows.  Where nothing is searchable there are no tables and no triggers.

**Example.**  A task is stored, its title changes, and it is removed, in three transactions:

    pending (id, title, text)      index
    7, -, -                        7: Write
    7, Write, ''                   7: Read
    7, Read, ''                    -

An ``id`` numbers rows over all entities: the entity's own number, then the row's (``_row``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import StorageError
from ..model.entities import Entity
from ..model.text_search import Found, Hit, TextQuery, mark, snippet
from . import catalogue
from .catalogue import has_part, migrate, put
from .database import Connection, RenameOwner, joined, quoted
from .rows import TableMapping

ROWS = 40  # bits of an id that number the row
PAGE = 5_000  # rows that one transaction indexes while old data is indexed
MOST = 20_000  # rows that are indexed together with a write, when another program left some pending

OWNER = "full text"  # of these tables, in the catalogue
MIGRATIONS = (
    """
    CREATE TABLE _max_find_entity (
        number {row_id},
        name   TEXT NOT NULL UNIQUE,
        fields TEXT NOT NULL
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
    ON CONFLICT (name) DO UPDATE SET fields = excluded.fields
"""
LAST_OF_PAGE = """
    SELECT max(id) FROM (SELECT id FROM _max_find_pending ORDER BY id LIMIT :limit) AS page
"""
SOME_PENDING = "SELECT 1 FROM _max_find_pending AS p WHERE {} LIMIT 1"
REMOVED = "SELECT id, title, text, part FROM _max_find_pending WHERE id <= :last AND text IS NOT NULL"
FLUSHED = "DELETE FROM _max_find_pending WHERE id <= :last"


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
    """The index of one schema's texts.  ``on`` says whether writers keep one."""

    def __init__(self, mappings: Mapping[str, TableMapping[Any]]) -> None:
        self._mappings = mappings
        self._numbers: dict[str, int] = {}  # of the entities whose rows it keeps
        self.on = False

    # -- keeping it -----------------------------------------------------------------------

    def attach(self, connection: Connection) -> None:
        """Have an index of what is searchable now, inside the transaction that makes the tables fit.

        What it lacks is pending.  Nothing is created where the database cannot index texts.
        """
        wanted = {name: fields for name, mapping in self._mappings.items() if (fields := _fields(mapping))}
        known = read_entities(connection)
        index = connection.dialect.text_index
        self.on = bool(wanted) and index.is_available(connection)
        if known and not wanted:
            self._drop(connection)
        if not wanted or (not self.on and known is None):
            return
        migrate(connection, OWNER, MIGRATIONS)
        kept = {name: fields for name, (_, fields) in (known or {}).items()}
        if self.on and not (kept and kept.items() <= wanted.items() and index.is_there(connection)):
            index.create(connection)
            connection.execute("DELETE FROM _max_find_pending")
            gone = [(name,) for name in kept.keys() - wanted.keys()]
            connection.executemany("DELETE FROM _max_find_entity WHERE name = ?", gone)
            kept = {}
        new = wanted.keys() - kept.keys()
        connection.executemany(KEEP_ENTITY, [(name, wanted[name]) for name in wanted if name in new])
        entities = read_entities(connection) or {}
        self._numbers = {name: number for name, (number, _) in entities.items() if name in wanted}
        self._watch(connection, new)

    def _watch(self, connection: Connection, new: Collection[str]) -> None:
        """Have the triggers and the views, and the rows of new entities pending."""
        selects = []
        for name, number in self._numbers.items():
            mapping, (low, _) = self._mappings[name], id_range(number)
            rows = f"FROM {quoted(mapping.table)} AS t WHERE t._removed_at IS NULL"
            selects.append(
                f"SELECT {low} + t._row AS id, {texts_of(connection, mapping, 't').columns()} {rows}"
            )
            if name in new:
                sql = f"INSERT INTO _max_find_pending (id) SELECT {low} + t._row {rows}"
                connection.execute(f"{sql} ON CONFLICT (id) DO NOTHING")
            for trigger, sql in triggers(connection, mapping, number).items():
                put(connection, "trigger", trigger, mapping.table, sql)
        view = f"CREATE VIEW _max_find_row AS {' UNION ALL '.join(selects)}"
        parts = "CREATE VIEW _max_find_part_row AS SELECT id, part FROM _max_find_row WHERE part <> ''"
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

    def flush(self, connection: Connection, limit: int = MOST) -> None:
        """Index what is pending, in the transaction that changed it.

        Where this SQLite cannot, the rows stay pending.
        """
        if not self.on:
            return
        (last,) = connection.execute(LAST_OF_PAGE, {"limit": limit}).fetchone()
        if last is None:
            return
        index, values = connection.dialect.text_index, {"last": last}
        index.remove(connection, REMOVED, values)
        for name, number in self._numbers.items():
            low, high = id_range(number)
            within = f"p.id BETWEEN {low} AND {high} AND p.id <= :last"
            if connection.execute(SOME_PENDING.format(within), values).fetchone():
                mapping = self._mappings[name]
                source = f"_max_find_pending AS p JOIN {quoted(mapping.table)} AS t ON t._row = p.id - {low}"
                columns = texts_of(connection, mapping, "t").columns()
                where = f"WHERE {within} AND t._removed_at IS NULL"
                index.add(connection, f"SELECT p.id AS id, {columns} FROM {source} {where}", values)
        connection.execute(FLUSHED, values)

    def rebuild(self, connection: Connection) -> None:
        """Empty the index and have all rows pending; StorageError where nothing can be indexed."""
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


def read_entities(connection: Connection) -> dict[str, tuple[int, str]] | None:
    """The number of each entity that is indexed, and its fields; None where nothing ever was."""
    if not has_part(connection, OWNER, MIGRATIONS):
        return None
    rows = connection.execute("SELECT name, number, fields FROM _max_find_entity ORDER BY number")
    return {name: (number, fields) for name, number, fields in rows}


def start_over(connection: Connection) -> None:
    """Have the index built again when it is attached: a migration is about to change values."""
    if has_part(connection, OWNER, MIGRATIONS):
        connection.execute("UPDATE _max_find_entity SET fields = ''")


def pending(connection: Connection) -> int:
    """How many rows have changed and are not in the index yet."""
    if not has_part(connection, OWNER, MIGRATIONS):
        return 0
    return int(connection.execute("SELECT count(*) FROM _max_find_pending").fetchone()[0])


def id_range(number: int) -> tuple[int, int]:
    """The first and the last id of an entity's rows."""
    return number << ROWS, ((number + 1) << ROWS) - 1


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
    parts = [
        f"CASE WHEN {has_parts(column, title=column == title)} THEN {column} ELSE '' END"
        for column in (title, *others)
    ]
    return Texts(f"coalesce({title}, '')", _lines(others), _lines(parts))


def _lines(columns: Sequence[str]) -> str:
    """SQL for texts one below the other."""
    return " || '\n' || ".join(f"coalesce({column}, '')" for column in columns) or "''"


def triggers(connection: Connection, mapping: TableMapping[Any], number: int) -> dict[str, str]:
    """The triggers that note a row whose texts change, by their names.

    The first note of a row counts until it is flushed: the index has the texts of before.
    """
    dialect, low = connection.dialect, id_range(number)[0]
    old_visible, new_visible = "OLD._removed_at IS NULL", "NEW._removed_at IS NULL"
    texts = [f"CASE WHEN {old_visible} THEN {text} END" for text in texts_of(connection, mapping, "OLD")]
    names = [quoted(name) for name in searchable(mapping.entity)]
    differs = joined("OR", [f"OLD.{name} IS DISTINCT FROM NEW.{name}" for name in names])
    changed = f"({old_visible}) <> ({new_visible}) OR ({new_visible} AND ({differs}))"
    note = "INSERT INTO _max_find_pending (id, title, text, part) VALUES"
    once = "ON CONFLICT (id) DO NOTHING;"
    new = f"{note} ({low} + NEW._row, NULL, NULL, NULL) {once}"
    old = f"{note} ({low} + OLD._row, {', '.join(texts)}) {once}"
    ways = {
        "insert": ("INSERT", new_visible, new),
        "update": (f"UPDATE OF {', '.join(names)}, _removed_at", changed, old),
        "delete": ("DELETE", old_visible, old),
    }
    made = {way: f"_max_find:{number}.{way}" for way in ways}
    return {made[way]: dialect.trigger(made[way], mapping.table, *parts) for way, parts in ways.items()}


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
    known = read_entities(connection) or {}
    looked = {number: name for name, (number, _) in known.items() if name in entities and name in mappings}
    if not looked:
        return Found((), 0)
    index = connection.dialect.text_index
    if not index.is_available(connection) or not index.is_there(connection):
        raise unavailable()
    matches = index.find(connection, query, [id_range(number) for number in looked], limit)
    rows: dict[int, tuple[str, str, str]] = {}
    for number, name in looked.items():
        low, high = id_range(number)
        some = [id - low for id, _ in matches.rows if low <= id <= high]
        rows |= {low + row: rest for row, *rest in _texts_at(connection, mappings[name], some)}
    hits = [
        Hit(
            installation,
            looked[id >> ROWS],
            rows[id][0],
            mark(rows[id][1], query),
            score,
            snippet(rows[id][2], query),
        )
        for id, score in matches.rows
        if id in rows
    ]
    return Found(hits, matches.total, pending(connection), tuple(looked.values()))


def _texts_at(
    connection: Connection, mapping: TableMapping[Any], rows: Sequence[int]
) -> list[tuple[Any, ...]]:
    """The number, the id, the title and the other texts of rows."""
    texts = texts_of(connection, mapping, "t")
    columns = f"t._row, t._id, {texts.title}, {texts.text}"
    sql = mapping.sql(f"SELECT {columns} FROM {{table}} AS t WHERE t._row IN {{set:rows}}")
    return connection.execute(sql, {"rows": connection.dialect.array(rows)}).fetchall()


def problems(connection: Connection) -> list[str]:
    """In what the index differs from the rows, in words; inside a transaction that may write."""
    if not read_entities(connection):
        return []
    index, waiting = connection.dialect.text_index, pending(connection)
    if not index.is_available(connection):
        raise unavailable()
    if not index.is_there(connection):
        return ["the index is gone"]
    if waiting:
        return [f"{waiting:,} rows are not indexed yet"]
    return index.problems(connection)
