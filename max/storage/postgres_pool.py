"""Connections to one server that are used again: each transaction borrows one.

Opening a connection takes several round trips, and a process of the server.  So a project has a pool, from
which all its databases borrow: a process has as many connections as transactions run in it at one moment,
and between them keeps ``MOST_IDLE``, however many installations it has open.

Rule 1: what is given back has no transaction open, and nothing that lasts for a session was set.

Rule 2: a statement is interrupted by the one who has the connection, never by the one who had it.

**Poolers.**  Behind PgBouncer each transaction may run on another session of the server.  A statement that
was prepared on one may be missing on the next, or be another client's of the same name.  The process number
that the server tells differs there from the one in the greeting, which is the pooler's: then nothing is
prepared.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

MOST_IDLE = 8  # connections that are kept between transactions


class Pool:
    """The connections of one process to one database.  Safe beside other threads.

    ``connect`` opens one, and raises what keeps it from that.  Without ``close`` they are closed when the
    pool is garbage.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]]) -> None:
        self._connect = connect
        self._idle: deque[psycopg.Connection[Any]] = deque()  # the one that was used last is on the right
        weakref.finalize(self, close_all, self._idle)

    def take(self) -> tuple[psycopg.Connection[Any], bool]:
        """A connection, and whether it was used before: the server may have ended it meanwhile."""
        try:
            return self._idle.pop(), True
        except IndexError:
            return self._connect(), False

    def give(self, raw: psycopg.Connection[Any]) -> None:
        """Take back a connection that is in no transaction."""
        if len(self._idle) < MOST_IDLE:
            self._idle.append(raw)
        else:
            raw.close()

    def close(self) -> None:
        """Close those that are not used; the pool may be used again."""
        close_all(self._idle)


def close_all(idle: deque[psycopg.Connection[Any]]) -> None:
    """Close the connections that no transaction has."""
    while idle:
        idle.pop().close()


def has_pooler(raw: psycopg.Connection[Any]) -> bool:
    """Whether a pooler answers, which may give out the sessions of the server by the transaction."""
    row = raw.execute("SELECT pg_backend_pid()").fetchone()
    return row is not None and row[0] != raw.info.backend_pid
