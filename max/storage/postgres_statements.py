"""Statements of one connection to Postgres, for a fifth of the time of psycopg's cursors.

A statement of storage is a constant that comes again and again with texts and numbers.  A cursor finds out
each time how its values are written, and whether it was prepared.  Here that is known by the statement and
the types of its values, and libpq is asked at once (``psycopg.pq``): 10 µs instead of 46.

**Preparing.**  A statement that reads or writes rows is prepared when it comes for the second time; one
that comes once is parsed and run in one round trip.  Connections are shared by installations, so each schema
has its own.  After what creates, alters or drops they are prepared again, since the answer may have other
columns; so they are after the error by which one learns that another process did that.

**Many rows** go as columns: ``{rows}`` of an INSERT becomes ``SELECT * FROM unnest(…)``, with one array of
a thousand values for each column in place of a thousand parameters.  It is one statement and one round
trip, needs no temporary table as COPY does (each is a dozen rows of the server's own tables), and there
is no limit of parameters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..model.values import Kind
from .database import Cursor, Values
from .postgres_dialect import ARRAYS, array_text, nul_error, numbered

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGresult

MOST_PREPARED = 500  # statements that the server keeps for a connection
FETCHED = 1_000  # rows of a scan that are in memory
MOST_KNOWN = 5_000  # statements whose words are kept
PREPARED = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
DEFINING = ("CREATE", "ALTER", "DROP")
STALE = ("0A000", "26000")  # a prepared statement would have another answer; it is gone
DUMPED: dict[type, tuple[int, Callable[[Any], bytes]]] = {  # the number of the server's type, and the text
    str: (25, lambda value: _text(value)),
    int: (20, lambda value: b"%d" % value),
    float: (701, lambda value: repr(value).encode()),
    bool: (0, lambda value: b"1" if value else b"0"),  # a number in a column, a truth in a condition
}
GOOD = (1, 2)  # libpq's status of an answer: COMMAND_OK, TUPLES_OK


class Rows:
    """The rows of a statement, all of which have come."""

    def __init__(self, rowcount: int, rows: Sequence[Any]) -> None:
        self._rowcount, self._left = rowcount, iter(rows)

    @property
    def rowcount(self) -> int:
        """How many rows it has changed, or found."""
        return self._rowcount

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row, or None."""
        return next(self._left, None)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows that are left."""
        return list(self._left)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self._left


class _Statement:
    """A statement of ours as the server reads it."""

    __slots__ = ("is_defining", "is_prepared", "is_several", "names", "text", "times")

    def __init__(self, sql: str) -> None:
        self.text, self.names = numbered(sql)
        word = sql.split(None, 1)[0] if sql.strip() else ""
        self.is_several = ";" in sql
        self.is_defining = self.is_several or word in DEFINING
        self.is_prepared = word in PREPARED
        self.times = 0

    def ordered(self, values: Values) -> Sequence[Any]:
        """The values in the order of the statement."""
        return [values[name] for name in self.names] if isinstance(values, Mapping) else values


class Statements:
    """What one connection has prepared, and how its values are written and read."""

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        from psycopg.adapt import Transformer
        from psycopg.generators import execute

        self._raw, self._answers = raw, execute
        self._is_preparing = raw.prepare_threshold is not None
        self._transformer = Transformer(raw)
        self.schema = ""  # where the names of the next statements lead
        self._known: dict[str, _Statement] = {}
        self._prepared: dict[tuple[str, str, tuple[int, ...]], bytes] = {}
        self._names = self._scans = 0
        self._inserts: dict[tuple[str, tuple[Kind, ...], int], str] = {}

    def run(self, sql: str, values: Values) -> Cursor:
        """Run one statement; or, without values, several."""
        statement = self._statement(sql)
        if statement.is_several and not values:
            self._forget()
            return self._raw.execute(sql if statement.text is sql else statement.text, prepare=False)
        types, dumped = self._dump(statement.ordered(values))
        self._send(statement, self._name(statement, types), types, dumped)
        result = self._answer()
        if statement.is_defining:
            self._forget()
        rows = result.ntuples
        if not rows:
            return Rows(result.command_tuples or 0, ())
        self._transformer.set_pgresult(result)
        return Rows(rows, self._transformer.load_rows(0, rows, tuple))

    def run_each(self, sql: str, rows: Iterable[Values]) -> Cursor:
        """Run one statement for each row of values, without waiting for one before the next is sent.

        The rows of the answer are the first ones that each has returned.  One alone needs no pipeline.
        """
        rows = list(rows)
        if len(rows) == 1:
            alone = self.run(sql, rows[0])
            return Rows(alone.rowcount, [alone.fetchone()])
        from psycopg.generators import fetch_many, pipeline_communicate

        statement, sent = self._statement(sql), []
        for values in rows:
            types, dumped = self._dump(statement.ordered(values))
            sent.append((self._name(statement, types), types, dumped))
        raw, results = self._raw, []
        commands: deque[Callable[[], None]] = deque(partial(self._send, statement, *one) for one in sent)
        commands.append(raw.pgconn.pipeline_sync)
        raw.pgconn.enter_pipeline_mode()
        try:
            results += raw.wait(pipeline_communicate(raw.pgconn, commands))
            while len(results) <= len(sent):
                results.append(raw.wait(fetch_many(raw.pgconn)))
        finally:
            if not raw.closed:
                raw.pgconn.exit_pipeline_mode()
        answers = [self._checked(one[-1]) for one in results[:-1]]
        first = [self._first_row(one) for one in answers] if answers and answers[0].nfields else []
        return Rows(sum([one.command_tuples or 0 for one in answers]), first)

    def _first_row(self, result: PGresult) -> tuple[Any, ...] | None:
        """The first row of an answer, if it has any."""
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, 1, tuple)[0] if result.ntuples else None

    def scan(self, sql: str, values: Values) -> Iterator[tuple[Any, ...]]:
        """The rows of a SELECT by a cursor of the server, which ends with them, or with the transaction.

        One that is left in its middle is not closed: its garbage may be collected when another has the
        connection.
        """
        self._scans += 1
        name = f"_max_scan_{self._scans}"
        self.run(f"DECLARE {name} NO SCROLL CURSOR FOR {sql}", values)
        while rows := self.run(f"FETCH FORWARD {FETCHED} FROM {name}", ()).fetchall():
            yield from rows
        self.run(f"CLOSE {name}", ())

    def insert(
        self, sql: str, kinds: Sequence[Kind], columns: Sequence[Sequence[Any]], constants: Sequence[Any]
    ) -> None:
        """Run an INSERT whose ``{rows}`` are these."""
        if not columns or not columns[0]:
            return
        key = (sql, tuple(kinds), len(columns))
        written = self._inserts.get(key)
        if written is None:
            types = [ARRAYS.get(kind, "text") for kind in kinds]
            arrays = ", ".join(f"CAST(? AS {one}[])" for one in types[: len(columns)])
            same = "".join(f", CAST(? AS {one})" for one in types[len(columns) :])
            self._inserts[key] = written = sql.replace("{rows}", f"SELECT *{same} FROM unnest({arrays})")
        self.run(written, [*constants, *map(array_text, columns)])

    def _forget(self) -> None:
        """Have nothing prepared any more: what the server kept would cost at each change of a table."""
        if self._prepared:
            self._prepared.clear()
            self._raw.execute("DEALLOCATE ALL", prepare=False)

    def _statement(self, sql: str) -> _Statement:
        found = self._known.get(sql)
        if found is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            found = self._known[sql] = _Statement(sql)
        return found

    def _dump(self, values: Sequence[Any]) -> tuple[tuple[int, ...], list[Any]]:
        """The types of values, and how they are sent."""
        types: list[int] = []
        dumped: list[Any] = []
        for value in values:
            if value is None:
                types.append(0)
                dumped.append(None)
                continue
            known = DUMPED.get(type(value))
            if known is None:
                return self._dump_others(values)
            types.append(known[0])
            dumped.append(known[1](value))
        return tuple(types), dumped

    def _dump_others(self, values: Sequence[Any]) -> tuple[tuple[int, ...], list[Any]]:
        """The same by psycopg, for what is neither a text nor a number."""
        from psycopg.adapt import PyFormat

        dumped = self._transformer.dump_sequence(values, [PyFormat.TEXT] * len(values))
        return tuple(self._transformer.types or ()), list(dumped)

    def _send(
        self, statement: _Statement, name: bytes | None, types: Sequence[int], values: Sequence[Any]
    ) -> None:
        if name is None:
            self._raw.pgconn.send_query_params(statement.text.encode(), values, types)
        else:
            self._raw.pgconn.send_query_prepared(name, values)

    def _name(self, statement: _Statement, types: tuple[int, ...]) -> bytes | None:
        """The name of a prepared statement; None for one that comes for the first time."""
        key = (statement.text, self.schema, types)
        name = self._prepared.get(key)
        if name is None and statement.is_prepared and self._is_preparing:
            statement.times += 1
            if statement.times > 1:
                name = self._prepared[key] = self._prepare(statement, types)
        return name

    def _prepare(self, statement: _Statement, types: tuple[int, ...]) -> bytes:
        if len(self._prepared) >= MOST_PREPARED:
            self._forget()
        self._names += 1
        name = f"max_{self._names}".encode()
        self._raw.pgconn.send_prepare(name, statement.text.encode(), types)
        self._answer()
        return name

    def _answer(self) -> PGresult:
        """The answer of the server, for which the thread waits; it can be interrupted."""
        return self._checked(self._raw.wait(self._answers(self._raw.pgconn))[-1])

    def _checked(self, result: PGresult) -> PGresult:
        """The answer, unless the server has refused the statement."""
        if result.status not in GOOD:
            from psycopg.errors import error_from_result

            error = error_from_result(result)
            if error.sqlstate in STALE:
                self._prepared.clear()
            raise error
        return result


def _text(value: str) -> bytes:
    if "\0" in value:
        raise nul_error()
    return value.encode()
