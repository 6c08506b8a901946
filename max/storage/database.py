"""Database: what storage needs of a database, so that its SQL is written once.

The connection is the seam.  A statement is a constant in the SQL that SQLite and PostgreSQL
share, and what they do not share is a placeholder that the connection's dialect fills in:

    STALE = "SELECT id FROM {table} WHERE synced_at < :at AND id IN {set:ids}"
    connection.execute(connection.dialect.sql(STALE, table="_acme_task"), {"at": at, "ids": ids})

``{table}`` becomes the quoted name, ``{set:ids}`` a set to be used behind IN whose values are the
parameter ``:ids``, made by ``dialect.array(ids)``.  A rendered statement is kept, so templates are
constants.  For the table of one entity, ``mapping.sql(STALE)`` is the same.  Where a statement is
composed, the methods of Dialect give the words.  Nothing here imports a driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

from ..errors import DAMAGED, StorageCorrupt, StorageError
from ..model.values import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from ..model.text_search import TextQuery

T = TypeVar("T")
Values: TypeAlias = Sequence[Any] | Mapping[str, Any]


class Selection(NamedTuple):
    """The answer to a caller's own statement: names and declared types of its columns, and its first rows.

    A type is empty where it is not known; ``more`` when rows were left out.
    """

    names: list[str]
    types: list[str]
    rows: list[tuple[Any, ...]]
    more: bool


class TableShape(NamedTuple):
    """A table or a view as people see it: its columns with their declared types, and what created it.

    ``schema`` is empty where a name is written without one.
    """

    schema: str
    name: str
    kind: str
    columns: list[tuple[str, str]]
    definition: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


class StoredObject(NamedTuple):
    """A table, index, view, trigger, rule, constraint or the like of a database.

    A ``column`` is one whose definition may name others: it is generated, or in SQLite has a CHECK.
    ``place`` is the table or view that it belongs to, ``definition`` the statement that made it or its
    part in that, ``drop`` the one that drops it, as any program may send it.
    """

    kind: str
    name: str
    place: str
    definition: str
    drop: str


class Cursor(Protocol):
    """The rows of a statement that ran."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement changed."""

    def fetchone(self) -> Any:
        """The next row as a tuple, or None."""

    def fetchall(self) -> list[Any]:
        """The rows that are left."""

    def __iter__(self) -> Iterator[Any]:
        """The rows one by one."""


class Connection(Protocol):
    """A connection inside a transaction of its caller; values are ``?`` in order or ``:names``."""

    @property
    def dialect(self) -> Dialect:
        """How this database writes what SQL leaves open."""

    def execute(self, sql: str, values: Values = ..., /) -> Cursor:
        """Run one statement."""

    def scan(self, sql: str, values: Values, /) -> Iterator[Any]:
        """The rows of a statement, however many: few of them are in memory at a time."""

    def executemany(self, sql: str, rows: Iterable[Values], /) -> Cursor:
        """Run one statement for each row of values."""

    def execute_each(self, sql: str, rows: Iterable[Values], /) -> list[Any]:
        """Run one statement for each row of values; the first row that each of them returns."""

    def insert(
        self,
        sql: str,
        kinds: Sequence[Kind],
        columns: Sequence[Sequence[Any]],
        constants: Sequence[Any] = (),
        /,
    ) -> None:
        """Run ``INSERT INTO table (…) {rows} …`` for rows, few or many, given by column.

        Behind the columns stand the values that are the same in every row; ``kinds`` are those of both.
        """


Work: TypeAlias = Callable[[Connection], T]


class LastWrite(NamedTuple):
    """What differs after a database was written: ``mark``, which means nothing else.

    ``at`` is when that was, in seconds since the epoch: two writings at nearly the same moment may have
    the same mark.  0 where every writing has a mark of its own.
    """

    mark: object
    at: float


class Database(Protocol):
    """The database of one installation: what the engine, the sync log and the task store share.

    A service for an event loop: ``transact`` and ``read`` want it started.  Everything else is for code
    without one, blocks, and needs no start.
    """

    @property
    def label(self) -> str:
        """Which database it is, for messages: the path of its file, or its place on a server; no secret."""

    @property
    def file(self) -> Path | None:
        """Its file; None in memory and on a server."""

    @property
    def lasts(self) -> bool:
        """Whether it outlives this process."""

    @property
    def limits(self) -> Limits | None:
        """What it holds at most, as its dialect says."""

    async def start(self) -> None:
        """Open it, and make it where there is none."""

    async def stop(self) -> None:
        """Finish the work that was given, then close every connection."""

    def is_there(self) -> bool:
        """Whether it was made; without it ``reader`` raises StorageEmpty."""

    def last_write(self) -> LastWrite | None:
        """When it was last written; None when it is not there."""

    def size(self) -> int:
        """Bytes that it takes; 0 when it is not there."""

    def log_size(self) -> int:
        """Bytes of its own log, which a sync moves into it; 0 where that is the server's."""

    def delete(self) -> None:
        """Remove it with all that is in it, if it is there; no process may have it open."""

    def several(self, others: Mapping[str, tuple[str, Database]]) -> AbstractContextManager[Connection]:
        """One snapshot of several databases of this kind, as schemas of one connection.

        ``others`` has the label and the database of each schema.  A view that Max made has beside them a
        namesake without a schema: the rows of all, with the label in the column ``installation``.
        UsageError when they cannot be read together.
        """

    async def transact(self, work: Work[T]) -> T:
        """Run work in one transaction; what it raises undoes all of it.  One runs at a time."""

    async def read(self, work: Work[T]) -> T:
        """Run work in one snapshot, beside the writer."""

    def reader(self) -> AbstractContextManager[Connection]:
        """One snapshot for code without an event loop; StorageError when there is no data yet."""

    def writer(self) -> AbstractContextManager[Connection]:
        """One transaction for code without an event loop."""


class Interruptible(Protocol):
    """A connection whose statement another thread can end."""

    def interrupt(self) -> None:
        """Make the statement that runs now fail, if one does."""


class Interrupter:
    """Ends the statements of the connections that one piece of work has opened, from another thread.

    A statement that runs then fails; one that begins later does not, so that it is called until the
    work has ended.
    """

    def __init__(self) -> None:
        self.connections: list[Interruptible] = []

    def __call__(self) -> None:
        """Interrupt what runs now."""
        for connection in [*self.connections]:
            connection.interrupt()


_INTERRUPTER: ContextVar[Interrupter | None] = ContextVar("INTERRUPTER", default=None)


@contextmanager
def interruptible() -> Iterator[Interrupter]:
    """What ends the statements of connections that are opened inside, in this thread."""
    interrupter = Interrupter()
    token = _INTERRUPTER.set(interrupter)
    try:
        yield interrupter
    finally:
        _INTERRUPTER.reset(token)


def opened(connection: Interruptible) -> None:
    """A connection was opened: what is interruptible can end its statements."""
    interrupter = _INTERRUPTER.get()
    if interrupter is not None:
        interrupter.connections.append(connection)


class TextMatches(NamedTuple):
    """The numbers of the rows that fit best, each with its score, best first, and how many fit in all."""

    rows: Sequence[tuple[int, float]]
    total: int


class TextIndex(Protocol):
    """How a database indexes texts: their words, and the parts of those that are names.

    A row of it has a number and three texts, in the columns ``id``, ``title``, ``text`` and ``part``.
    The views ``_max_find_row`` (all of them) and ``_max_find_part_row`` (``id`` and ``part``, where
    that is not empty) show what it should hold.
    """

    def is_available(self, connection: Connection) -> bool:
        """Whether this database can index texts at all."""

    def is_there(self, connection: Connection) -> bool:
        """Whether the index was created."""

    def create(self, connection: Connection) -> None:
        """Create an empty index, in place of one that is there."""

    def drop(self, connection: Connection) -> None:
        """Drop the index, if it is there."""

    def merge(self, connection: Connection) -> None:
        """After a sync: do a little of the work that makes finding quicker."""

    def has_parts(self, column: str) -> str:
        """SQL that is true of a text whose parts are indexed: a name, or one of a script without spaces."""

    def add(self, connection: Connection, rows: str, values: Values = ...) -> None:
        """Index the rows of a SELECT that are not in the index."""

    def remove(self, connection: Connection, rows: str, values: Values = ...) -> None:
        """Take out the rows of a SELECT, which have the texts with which they were added."""

    def find(
        self, connection: Connection, query: TextQuery, ranges: Sequence[tuple[int, int]], limit: int
    ) -> TextMatches:
        """The rows that fit a query, among those whose numbers are in a range (ends included).

        UsageError when a raw query cannot be read.
        """

    def problems(self, connection: Connection) -> list[str]:
        """In what the index differs from the views, in words; empty when it is sound."""


class Limits(NamedTuple):
    """What a database holds at most, where that is little enough to matter: columns of a table, and bytes.

    ``id`` is for an id in an index beside names of ours, ``row`` for a row without its long texts; ``head``
    of these are no values, and a value with its padding takes up to ``value``.
    """

    database: str
    columns: int
    id: int
    row: int
    head: int
    value: int


class Placeholder:
    """``{set:ids}``: the word behind the colon is the name of a parameter."""

    def __init__(self, words: Callable[[str], str], sign: str = ":") -> None:
        self._words, self._sign = words, sign

    def __format__(self, name: str) -> str:
        return self._words(f"{self._sign}{name}")


class Dialect(Protocol):
    """What the SQL of a database leaves open.

    Placeholders of ``sql``: ``{set:p}`` and ``{numbers:p}`` (behind IN, the texts or the integers of the
    array ``:p``), ``{each:p}`` (behind FROM, its texts in the column ``value``), ``{pairs:p}`` and
    ``{number_pairs:p}`` (behind FROM, an array of pairs of texts or of integers with the columns ``a``
    and ``b``), ``{whole:value}`` (see ``whole``), ``{row_id}`` (the type of a column that numbers the rows),
    ``{serial}`` (the same, and no number is used twice, also after its row was deleted),
    ``{bytes}`` (a type), ``{by_key}`` (ends CREATE TABLE: rows are stored in their key's order), ``{now}``
    (seconds since the epoch), ``{clock:p}`` (the same, by which hosts compare: the server's, or without one
    what ``:p`` says), ``{random}`` (a new text of 16 characters); any other is a name, which is quoted.
    """

    _words: Mapping[str, object]  # in place of the placeholders
    _statements: dict[object, str]  # those that were rendered

    @property
    def types(self) -> Mapping[Kind, str]:
        """The type of the column for each kind of value."""

    @property
    def errors(self) -> type[Exception]:
        """What the driver raises."""

    @property
    def text_index(self) -> TextIndex:
        """How this database indexes texts."""

    @property
    def limits(self) -> Limits | None:
        """What it holds at most; None where rows and ids of any size are stored (see oversize.py)."""

    @property
    def binds_views(self) -> bool:
        """Whether a view keeps the columns that it reads from being renamed, changed or dropped."""

    def sql(self, template: str, **names: str) -> str:
        """The statement of a template, which is rendered once."""
        key = (template, *names.items()) if names else template
        found = self._statements.get(key)
        if found is None:
            words = {name: quoted(value) for name, value in names.items()}
            found = self._statements[key] = template.format(**self._words, **words)
        return found

    def array(self, values: Iterable[Any]) -> object:
        """Values (ids, numbers, pairs) as one parameter; no text among them holds a NUL."""

    def set_of(self, parameter: str, kind: Kind = ...) -> str:
        """``{set:…}`` for a composed statement, whose values are of a kind (without one, texts)."""

    def contains(self, column: str, bind: Callable[[object], str], text: str) -> str:
        """SQL that is true when a column contains a text, in any case; ``bind`` takes a value."""

    def has_item(self, column: str, bind: Callable[[object], str], item: object) -> str:
        """SQL that is true when a column's JSON is a list with this text, number, boolean or None."""

    def prepare(self, connection: Any, sql: str) -> None:
        """Make known to a connection what ``contains`` has a statement call."""

    def columns(self, connection: Connection, table: str) -> set[str]:
        """The columns of a table, generated ones included; empty when there is none of this name.

        A name that was too long for the database is among them as well.
        """

    def stored_name(self, name: str) -> str:
        """A name of ours as ``objects`` tells it: shorter, where it was too long; no two become one."""

    def objects(self, connection: Connection) -> list[StoredObject]:
        """What the database holds, in the order in which it was made."""

    def names(self, connection: Connection) -> set[str]:
        """The names of its tables, indexes, views and triggers, which takes a tenth of its time."""

    def full_name(self, connection: Connection, name: str) -> str:
        """The name of a table as the statement of another program has it."""

    def trigger(self, name: str, table: str, event: str, when: str, body: str) -> str:
        """The statement that has ``body`` run after an event on a row for which ``when`` is true."""

    def drop_trigger(self, name: str, table: str) -> str:
        """The statement that removes a trigger, if it is there."""

    def refusal(self, words: str) -> str:
        """The statement of a trigger's body that fails with these words; ``error`` knows those of MOVING."""

    def key(self, connection: Connection, table: str) -> list[str]:
        """The columns of a table's primary key, in its order; empty without one."""

    def default(self, connection: Connection, table: str, column: str) -> str:
        """SQL for what a column holds where nothing is said; "NULL" without any."""

    def numbered(self, connection: Connection, table: str, column: str) -> int:
        """The highest number that ``{row_id}`` or ``{serial}`` is known to have given; 0 without any."""

    def number_after(self, connection: Connection, table: str, column: str, number: int) -> None:
        """Have a column that numbers the rows go on behind a number, where it is one."""

    def json_array(self, values: Sequence[str]) -> str:
        """SQL for values as JSON text."""

    def members(self, column: str, kind: Kind) -> str:
        """The different members of a JSON array, behind FROM, in the column ``value``; none of NULL.

        A float, and an integer beyond 64 bits, is the text of all its digits.
        """

    def in_order(self, column: str, alias: str) -> tuple[str, str]:
        """The members of a list as a table with the column ``value``, and the place of each, from 1 on."""

    def whole(self, value: str) -> str:
        """SQL for a float without its fraction, as an integer."""

    def shown(self, column: str, kind: Kind) -> str:
        """SQL for a stored value as the views show it to people and their programs."""

    def truncated(self, column: str, unit: str) -> str:
        """SQL for a time or a date in a unit, as text that sorts in time order; NULL stays NULL.

        ``2026``, ``2026-Q1``, ``2026-01``, ``2026-W05`` (of ISO 8601), ``2026-01-31``, ``2026-01-31T09``.
        """
        if unit in UNIT_WIDTHS:  # times are texts, so most units are their beginnings
            return f"substr({column}, 1, {UNIT_WIDTHS[unit]})"
        if unit == "quarter":
            return f"substr({column}, 1, 4) || '-Q' || ((CAST(substr({column}, 6, 2) AS INTEGER) + 2) / 3)"
        return self.week(column)

    def week(self, column: str) -> str:
        """SQL for the week of a time or a date, for ``truncated``."""

    def time_text(self, column: str) -> str:
        """SQL for a time in seconds since the epoch as text, such as ``2026-01-31T09:30:00``, in UTC."""

    def exact_real(self, column: str) -> str:
        """SQL for a float as text with all its digits; NULL stays NULL."""

    def select(
        self, connection: Any, statement: str, values: Values, *, limit: int, timeout: float
    ) -> Selection:
        """The first rows of a caller's own statement, which can change nothing and read nothing else.

        InvalidSql when it is not one that reads; SqlLimit when it takes more than ``timeout``
        seconds, or more memory than it may.
        """

    def tables(self, connection: Any) -> list[TableShape]:
        """The tables and views that are not internal, sorted by name."""

    def error(self, path: str, error: Exception) -> StorageError:
        """What an error means to a person: the driver's, or Python's while it reads what is stored."""

    def damage(self, connection: Connection, *, deep: bool) -> list[str] | None:
        """What the database's own check finds, in its words; empty when it is sound, None without a check.

        ``deep`` also compares indexes with their tables.
        """

    def is_overflow(self, error: Exception) -> bool:
        """Whether a sum of integers was beyond what the database's own sum can hold."""

    def is_beyond_floats(self, error: Exception) -> bool:
        """Whether a sum of floats is greater than all floats, where that is an error and not infinity."""

    def is_too_large(self, error: Exception) -> bool:
        """Whether a row, or what an index has of it, was more than the database holds."""

    def is_fatal(self, connection: Any, error: Exception) -> bool:
        """Whether the transaction itself is lost, and not just one statement of it."""


MOVING = "it is being moved to another place, and can only be read meanwhile"
REFUSED = "if you made that constraint or trigger on a table of Max's, drop it, and sync again"
FINISH_MOVE = "finish it with the same max move, or take it back: max move INSTALLATION --undo"
UNIT_WIDTHS = {"year": 4, "month": 7, "day": 10, "hour": 13}  # characters of a time
ONE_SELECT = "one SELECT, or WITH … SELECT, is allowed; nothing can be changed"
GROUP = 100  # conditions that stand side by side
TRUE, FALSE = "(1 = 1)", "(1 = 0)"  # an entity may have a field that is named true


@lru_cache(10_000)
def quoted(name: str) -> str:
    """A name as SQL writes it: the only way in which a name enters a statement."""
    return '"' + name.replace('"', '""') + '"'


def joined(word: str, conditions: Sequence[str]) -> str:
    """Conditions with AND or OR between them, in groups: an expression may not nest 1,000 deep."""
    while len(conditions) > GROUP:
        groups = [conditions[at : at + GROUP] for at in range(0, len(conditions), GROUP)]
        conditions = [f"({f' {word} '.join(group)})" for group in groups]
    return f" {word} ".join(conditions)


Targets: TypeAlias = Callable[
    [str, str], str | None
]  # the entity to which a ref or a collection (entity, name) leads


@contextmanager
def reading(database: Database) -> Iterator[Connection]:
    """One snapshot for what only reads it; the errors of its driver leave as StorageError."""
    with database.reader() as connection:
        try:
            yield connection
        except connection.dialect.errors as error:
            raise connection.dialect.error(database.label, error) from error


NONSENSE: tuple[type[Exception], ...] = (
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


@contextmanager
def decoding(what: str, *others: type[Exception]) -> Iterator[None]:
    """StorageCorrupt when what is stored makes no sense: a disk or a hand has changed it."""
    try:
        yield
    except (*NONSENSE, *others) as error:
        problem = f"the stored {what} cannot be read ({type(error).__name__}: {error})"
        raise StorageCorrupt(problem, hint=DAMAGED) from error


class RenameOwner:
    """A part that stores names or ids of entities and keeps them right when a migration changes them.

    A part overrides what concerns it; the others do nothing.  Each runs in the migration's
    transaction.
    """

    def rename_entity(self, connection: Connection, old: str, new: str) -> None:
        """An entity has another name."""

    def rename_field(self, connection: Connection, entity: str, old: str, new: str, targets: Targets) -> None:
        """A field or a collection of an entity has another name."""

    def drop_entity(self, connection: Connection, entity: str) -> None:
        """An entity is deleted with all its rows."""

    def drop_field(self, connection: Connection, entity: str, name: str) -> None:
        """Nothing is known any more of a field, or of a collection."""

    def drop_rows(self, connection: Connection, entity: str, rows: str, collections: Sequence[str]) -> None:
        """Rows are deleted; ``rows`` is a SELECT of their numbers (``_row``).

        ``collections`` are those whose members are the entity's rows, hidden ones included.
        """

    def change_ids(self, connection: Connection, entity: str, ids: str, parents: Sequence[str]) -> None:
        """Rows have other ids; ``ids`` names a table with the columns old and new.

        ``parents`` are the collections and feeds whose parent the entity is, by the names under
        which membership knows them.  A parent without a new id was deleted.
        """
