"""What SQLite writes in its own way; no other module of storage but sqlite.py knows SQLite."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import (
    DAMAGED,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageLocked,
    StorageMoving,
    StorageReadOnly,
)
from ..model.values import INTEGER_LIMIT, Kind, is_valid, read_real
from .database import (
    FINISH_MOVE,
    MOVING,
    REFUSED,
    Connection,
    Dialect,
    Limits,
    Placeholder,
    Selection,
    StoredObject,
    TableShape,
    TextIndex,
    Values,
    quoted,
)

CASEFOLD = "max_casefold"  # the SQL function that ``contains`` has a statement call
MOST_DAMAGES = 100  # that SQLite's check of a file names
LONGEST_PATTERN = 1_000  # characters that LIKE is asked for; SQLite refuses patterns of 50,000
FARTHEST = f"{1 - INTEGER_LIMIT} AND {INTEGER_LIMIT - 1}"  # what lies beyond in JSON is read as a float
DIGITS = "%!.20g"  # SQLite rounds its own digits; with 17 some floats would come back as their neighbour

# The affinity of a type decides what SQLite stores: TEXT and "JSON TEXT" keep every text as it is
# (a column that is declared JSON would make the number 1 of the text 1.0), DATE and TIMESTAMP make
# a number of what looks like one, which no date does.
TYPES = {
    Kind.TEXT: "TEXT",
    Kind.INTEGER: "INTEGER",
    Kind.REAL: "REAL",
    Kind.BOOLEAN: "BOOLEAN",
    Kind.DATETIME: "TIMESTAMP",
    Kind.DATE: "DATE",
    Kind.JSON: "JSON TEXT",
    Kind.REF: "TEXT",
}

# A column holds values of any type, whatever it declares.  These are in none of Max's own columns.
NUMBERS, TEXTS = "'text', 'blob'", "'blob'"
TIMES = "'integer', 'real', 'blob'"
FOREIGN = {"INTEGER": NUMBERS, "REAL": NUMBERS, "BOOLEAN": NUMBERS, "TIMESTAMP": TIMES, "DATE": TIMES}
FOREIGN |= {"TEXT": TEXTS, "JSON TEXT": TEXTS}
OUR_COLUMNS = """
    SELECT m.name, c.name, c.type FROM sqlite_master AS m, pragma_table_info(m.name) AS c
     WHERE m.type = 'table' AND substr(m.name, 1, 1) = '_'
"""


HELD = "another process holds the database; try again when it is done"
FULL = (StorageFull, "free some space on the disk; what was stored before is safe")
ERRORS: dict[int, tuple[type[StorageError], str]] = {
    sqlite3.SQLITE_MISMATCH: (StorageCorrupt, DAMAGED),
    sqlite3.SQLITE_CONSTRAINT: (StorageError, REFUSED),
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_IOERR_SHMSIZE: FULL,  # the index of the log does not fit
    sqlite3.SQLITE_BUSY: (StorageLocked, HELD),
    sqlite3.SQLITE_LOCKED: (StorageLocked, HELD),
    sqlite3.SQLITE_PROTOCOL: (StorageLocked, HELD),
    sqlite3.SQLITE_READONLY: (StorageReadOnly, "make the file and its folder writable for this user"),
    sqlite3.SQLITE_CANTOPEN: (
        StorageError,
        "check that the folder exists, and that this user may use the file",
    ),
    sqlite3.SQLITE_CORRUPT: (StorageCorrupt, DAMAGED),
    sqlite3.SQLITE_NOTADB: (StorageCorrupt, DAMAGED),
    sqlite3.SQLITE_IOERR: (StorageError, "check the disk; what was stored before is safe"),
}

# What has no code of its own: a text that is not UTF-8, and a statement of ours that the tables do not fit.
SIGNS_OF_DAMAGE = (
    "Could not decode to UTF-8",
    "JSON cannot hold BLOB values",
    "malformed",
    "no such column",
    "no such table",
)

CORRUPT_INDEX = 267  # SQLITE_CORRUPT_VTAB, which FTS5 alone gives here
SIGNS_OF_DAMAGED_INDEX = ("invalid fts5 file format", "vtable constructor failed: _max_find")

# After these, SQLite's transaction cannot be trusted or will fail again: one statement is not at fault.
FATAL = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_INTERRUPT,
    }
)

OBJECTS = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL"
COLUMNS = "SELECT name FROM pragma_table_xinfo(?) ORDER BY cid"
SIGNS = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^]]*] | --[^\n]* | /\*.*?\*/ | \w+ | [(),]""",
    re.VERBOSE | re.DOTALL,
)
READS_OTHERS = {"AS", "CHECK"}  # words of a column that is generated, or has a condition

KEY = "SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk"
DEFAULT = "SELECT dflt_value FROM pragma_table_info(?) WHERE name = ?"


class SqliteDialect(Dialect):
    """The dialect of SQLite 3.39 and newer, where arrays are JSON texts."""

    types: Mapping[Kind, str] = TYPES
    errors = sqlite3.Error
    limits: Limits | None = None

    def __init__(self) -> None:
        self._statements = {}
        self._words = {
            "set": Placeholder(self.set_of),
            "numbers": Placeholder(self.set_of),
            "each": Placeholder(lambda parameter: f"json_each({parameter})"),
            "whole": Placeholder(self.whole, ""),
            "pairs": Placeholder(_pairs),
            "number_pairs": Placeholder(_pairs),
            "row_id": "INTEGER PRIMARY KEY",
            "serial": "INTEGER PRIMARY KEY AUTOINCREMENT",
            "bytes": "BLOB",
            "by_key": "WITHOUT ROWID",
            "now": "((julianday('now') - 2440587.5) * 86400.0)",
            "clock": Placeholder(str),
            "random": "lower(hex(randomblob(8)))",
        }

    @property
    def text_index(self) -> TextIndex:
        """FTS5, where SQLite has it."""
        from .sqlite_full_text import SqliteTextIndex  # not every command writes, or looks for words

        return SqliteTextIndex()

    @property
    def binds_views(self) -> bool:
        """A view may name what is not there."""
        return False

    def array(self, values: Iterable[Any]) -> str:
        """Values as a JSON array, in which SQLite would cut a text at a NUL."""
        return json.dumps(list(values))

    def set_of(self, parameter: str, kind: Kind = Kind.TEXT) -> str:
        """The values of an array, behind IN; JSON says of what kind they are."""
        return f"(SELECT value FROM json_each({parameter}))"

    def contains(self, column: str, bind: Callable[[object], str], text: str) -> str:
        """LIKE folds ASCII alone, so it is asked where both sides are ASCII; Python folds the rest."""
        folded = f"instr({CASEFOLD}({column}), {bind(text.casefold())}) > 0"
        if not text.isascii() or len(text) > LONGEST_PATTERN:
            return folded
        escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        like = f"{column} LIKE {bind(f'%{escaped}%')} ESCAPE '\\'"
        return f"(({column} GLOB '*[^ -~]*' AND {folded}) OR {like})"

    def has_item(self, column: str, bind: Callable[[object], str], item: object) -> str:
        """An item is compared with its JSON type: 1 is neither true nor "1"."""
        if item is None or isinstance(item, bool):
            is_item = f"e.type = '{json.dumps(item)}'"
        elif isinstance(item, str):
            is_item = f"e.type = 'text' AND e.value = {bind(item)}"
        elif isinstance(item, int | float) and abs(item) >= INTEGER_LIMIT:
            digits = f"({column} -> e.fullkey) = {bind(str(int(item)))}"
            is_item = f"e.type = 'integer' AND e.value NOT BETWEEN {FARTHEST} AND {digits}"
            if is_valid(read_real, item):
                is_item += f" OR e.type = 'real' AND e.value = {bind(float(item))}"
        else:
            is_item = f"e.type IN ('integer', 'real') AND e.value = {bind(item)}"
        return (
            f"(json_type({column}) = 'array'"
            f" AND EXISTS (SELECT 1 FROM json_each({column}) AS e WHERE {is_item}))"
        )

    def prepare(self, connection: Any, sql: str) -> None:
        """Only when it is called: after a new function SQLite compiles every statement again."""
        if CASEFOLD in sql:
            connection.create_function(CASEFOLD, 1, _casefold, deterministic=True)

    def columns(self, connection: Connection, table: str) -> set[str]:
        """The columns of a table or a view; empty when there is none of this name."""
        return {row[1] for row in connection.execute(f"PRAGMA table_xinfo({quoted(table)})")}

    def stored_name(self, name: str) -> str:
        """Names may be of any length."""
        return name

    def objects(self, connection: Connection) -> list[StoredObject]:
        """The statements are in the schema's own words; an index without one belongs to its table."""
        found = connection.execute(OBJECTS).fetchall()
        for kind, table, _, made in [*found]:
            if kind == "table" and table.startswith("_") and not table.startswith("_max_"):
                names = [name for (name,) in connection.execute(COLUMNS, (table,))]
                found += [("column", name, table, own) for name, own in _reading_others(names, made)]
        return [StoredObject(kind, name, of, made, _drop(kind, name, of)) for kind, name, of, made in found]

    def names(self, connection: Connection) -> set[str]:
        """From the schema, which SQLite has read already."""
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}

    def full_name(self, connection: Connection, name: str) -> str:
        """In quotes."""
        return quoted(name)

    def trigger(self, name: str, table: str, event: str, when: str, body: str) -> str:
        """The statement that creates a trigger for each row.

        A tool whose own SQLite is older than 3.39, as that of DuckDB, must be able to read the file.
        It refuses a file whose schema has IS DISTINCT FROM; IS NOT means the same in SQLite.
        """
        text = f"CREATE TRIGGER {quoted(name)} AFTER {event} ON {quoted(table)} WHEN {when} BEGIN {body} END"
        return text.replace(" IS DISTINCT FROM ", " IS NOT ")

    def drop_trigger(self, name: str, table: str) -> str:
        """The statement that drops a trigger; in SQLite its name alone says which."""
        return f"DROP TRIGGER IF EXISTS {quoted(name)}"

    def refusal(self, words: str) -> str:
        """The words are the whole of the error."""
        return f"SELECT RAISE(ABORT, '{words}');"

    def key(self, connection: Connection, table: str) -> list[str]:
        """The columns of a table's primary key, in its order."""
        return [name for (name,) in connection.execute(KEY, (table,))]

    def default(self, connection: Connection, table: str, column: str) -> str:
        """SQL for what a column holds where nothing is said."""
        found = connection.execute(DEFAULT, (table, column)).fetchone()
        return "NULL" if found is None or found[0] is None else str(found[0])

    def numbered(self, connection: Connection, table: str, column: str) -> int:
        """The highest one that is there, or that AUTOINCREMENT has noted."""
        newest = connection.execute(f"SELECT max({quoted(column)}) FROM {quoted(table)}").fetchone()[0]
        found = [newest if isinstance(newest, int) else 0]
        if self._counts(connection, table):
            sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?"
            found += connection.execute(sql, (table,)).fetchone()
        return max(found)

    def number_after(self, connection: Connection, table: str, column: str, number: int) -> None:
        """AUTOINCREMENT goes on behind what it has noted; without it, behind the highest one there is."""
        if number and self._counts(connection, table):
            connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
            connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, number))

    def _counts(self, connection: Connection, table: str) -> bool:
        sql = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ? AND sql LIKE ?"
        return bool(connection.execute(sql, (table, "%AUTOINCREMENT%")).fetchone()[0])

    def json_array(self, values: Sequence[str]) -> str:
        """SQL for values as JSON text."""
        return f"json_array({', '.join(values)})"

    def members(self, column: str, kind: Kind) -> str:
        """``json_each`` takes any expression, also one that makes each member come once.

        A number in JSON that SQLite writes has 15 digits, so one that it reads as a float stays the text
        that it is; -0.0 is 0.0.
        """
        value = "value"
        if kind in (Kind.INTEGER, Kind.REAL):
            digits = f"({column} -> fullkey) || ''"
            value = f"CASE WHEN typeof(value) = 'real' AND value <> 0 THEN {digits} ELSE value END"
        return f"json_each((SELECT json_group_array(DISTINCT {value}) FROM json_each({column})))"

    def in_order(self, column: str, alias: str) -> tuple[str, str]:
        """``json_each`` counts from 0."""
        return f"json_each({column}) AS {alias}", f"({alias}.key + 1)"

    def whole(self, value: str) -> str:
        """A cast cuts off the fraction."""
        return f"CAST({value} AS INTEGER)"

    def shown(self, column: str, kind: Kind) -> str:
        """A value as it is stored: the types of SQLite are few."""
        return column

    def week(self, column: str) -> str:
        """A week is that of its Thursday."""
        thursday = f"substr({column}, 1, 10), '-3 days', 'weekday 4'"
        week = f"printf('%02d', (strftime('%j', {thursday}) - 1) / 7 + 1)"
        return f"strftime('%Y', {thursday}) || '-W' || {week}"

    def time_text(self, column: str) -> str:
        """SQL for seconds since the epoch as the text of a time."""
        return f"strftime('%Y-%m-%dT%H:%M:%S', {column}, 'unixepoch')"

    def exact_real(self, column: str) -> str:
        """SQL for a float as text with all its digits."""
        return f"CASE WHEN {column} IS NOT NULL THEN printf('{DIGITS}', {column}) END"

    def select(
        self, connection: Any, statement: str, values: Values, *, limit: int, timeout: float
    ) -> Selection:
        """The first rows of a caller's own statement."""
        from .sqlite_select import select  # no other command needs it

        return select(connection, statement, values, limit=limit, timeout=timeout)

    def tables(self, connection: Any) -> list[TableShape]:
        """The tables and views that are not internal, sorted by name."""
        from .sqlite_select import tables

        return tables(connection)

    def error(self, path: str, error: Exception) -> StorageError:
        """The StorageError of SQLite's kind of error, with what to do."""
        if not isinstance(error, sqlite3.Error):
            problem = f"what is stored cannot be read ({type(error).__name__}: {error})"
            return StorageCorrupt(f"{path}: {problem}", hint=DAMAGED, path=path)
        code = getattr(error, "sqlite_errorcode", 0)
        kind, hint = ERRORS.get(code) or ERRORS.get(primary_code(error), (StorageError, ""))
        if code == CORRUPT_INDEX or str(error).startswith(SIGNS_OF_DAMAGED_INDEX):
            kind, hint = StorageCorrupt, "only its index of words is damaged: max find --rebuild"
        elif str(error).startswith(SIGNS_OF_DAMAGE):
            kind, hint = StorageCorrupt, DAMAGED
        elif str(error) == MOVING:
            kind, hint = StorageMoving, FINISH_MOVE
        return kind(f"{path}: {error}", hint=hint, path=path)

    def is_damage(self, connection: Any, error: Exception) -> bool:
        """Whether an error of Python's own comes from what is stored: damaged text, the file, other types."""
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            return True
        try:
            return connection is not None and (
                connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",)
                or _holds_foreign_types(connection)
            )
        except sqlite3.Error:
            return True

    def damage(self, connection: Connection, *, deep: bool) -> list[str]:
        """By SQLite's check of all pages, or the longer one that also compares indexes with tables."""
        check = "integrity_check" if deep else "quick_check"
        rows = connection.execute(f"PRAGMA {check}({MOST_DAMAGES})").fetchall()
        lines = [line for (text,) in rows for line in str(text).splitlines() if not line.startswith("***")]
        return [line for line in lines if line != "ok"]

    def is_overflow(self, error: Exception) -> bool:
        """SQLite has no code of its own for it."""
        return str(error) == "integer overflow"

    def is_beyond_floats(self, error: Exception) -> bool:
        """It is infinity."""
        return False

    def is_too_large(self, error: Exception) -> bool:
        """What it stores has no such limits."""
        return False

    def is_fatal(self, connection: Any, error: Exception) -> bool:
        """Whether SQLite has given up the transaction, or would fail again at the next statement."""
        return primary_code(error) in FATAL or not connection.in_transaction


def primary_code(error: Exception) -> int:
    """SQLite's kind of error, without where it happened; 0 for an error of Python's module."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _holds_foreign_types(connection: Any) -> bool:
    """Whether a column of Max's has a value of a type that it never stores there."""
    for table, column, declared in connection.execute(OUR_COLUMNS).fetchall():
        if declared in FOREIGN:
            is_foreign = f"typeof({quoted(column)}) IN ({FOREIGN[declared]})"
            if connection.execute(f"SELECT 1 FROM {quoted(table)} WHERE {is_foreign} LIMIT 1").fetchone():
                return True
    return False


def _reading_others(names: Sequence[str], made: str) -> Iterator[tuple[str, str]]:
    """The columns of a table's statement that may name others, each with its own part of that."""
    depth, start, words = 0, 0, list[str]()
    columns = iter(names)
    for match in SIGNS.finditer(made):
        sign = match[0]
        depth += (sign == "(") - (sign == ")")
        if (sign, depth) == ("(", 1):
            start, words = match.end(), []
        elif (sign, depth) in ((",", 1), (")", 0)):
            name = next(columns, None)  # behind the columns are conditions of the whole table
            if name is not None and not READS_OTHERS.isdisjoint(map(str.upper, words[1:])):
                yield name, made[start : match.start()].strip()
            start, words = match.end(), []
        elif depth == 1:
            words.append(sign)


def _drop(kind: str, name: str, place: str) -> str:
    """The statement that drops something."""
    if kind == "column":
        return f"ALTER TABLE {quoted(place)} DROP COLUMN {quoted(name)}"
    return f"DROP {kind.upper()} {quoted(name)}"


def _pairs(parameter: str) -> str:
    columns = "json_extract(value, '$[0]') AS a, json_extract(value, '$[1]') AS b"
    return f"(SELECT {columns} FROM json_each({parameter}))"


def _casefold(text: str | None) -> str | None:
    return None if text is None else text.casefold()
