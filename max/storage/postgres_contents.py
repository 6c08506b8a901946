"""Contents in a database that are moved: read and written in blocks, so that none is held as a whole here.

The server itself says which bytes it has: their SHA-256 comes, and not the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..errors import StorageEmpty
from .catalogue import has_part, migrate
from .database import Database, Values, reading
from .kept_files import MIGRATIONS, MOST_BYTES, OWNER, Content, Contents

LISTED = "SELECT name, length(content) FROM _max_kept_file WHERE name > ? ORDER BY name LIMIT ?"
PROVEN = """
    SELECT name, length(content), encode(sha256(content), 'hex') FROM _max_kept_file WHERE name IN {set:names}
"""
PART = """
    SELECT substring(content FROM CAST(? AS integer) FOR CAST(? AS integer))
      FROM _max_kept_file WHERE name = ?
"""
FORGET = "DELETE FROM _max_kept_file WHERE name = ?"
BEGIN = "INSERT INTO _max_kept_file (name, content) VALUES (?, ?)"
GO_ON = "UPDATE _max_kept_file SET content = content || ? WHERE name = ?"
BLOCK = 8 * 2**20  # bytes of a content that are read or written at a time: writing one copies those before it
PAGE = 500  # contents that are listed at a time


class StoredContents(Contents):
    """The contents in an installation's schema."""

    most_bytes = MOST_BYTES

    def __init__(self, database: Database) -> None:
        self._database = database

    def listed(self) -> Iterator[Content]:
        """A page at a time, each in a snapshot of its own."""
        rows, last = [("", 0)], ""
        while rows:
            rows = self._ask(LISTED, (last, PAGE))
            yield from (Content(*row) for row in rows)
            last = rows[-1][0] if rows else ""

    def proven(self, names: Sequence[str]) -> dict[str, Content]:
        """The server reads the bytes."""
        return {name: Content(digest, size) for name, size, digest in self._ask(PROVEN, names=names)}

    def blocks(self, name: str) -> Iterator[bytes]:
        """Each is read by itself: a content never changes."""
        at, block = 1, b""
        while at == 1 or len(block) == BLOCK:
            rows = self._ask(PART, (at, BLOCK, name))
            block = bytes(rows[0][0]) if rows else b""
            at += BLOCK
            yield block

    def put(self, contents: Iterable[tuple[str, Iterator[bytes]]]) -> None:
        """In one transaction."""
        with self._database.writer() as connection:
            migrate(connection, OWNER, MIGRATIONS)
            for name, blocks in contents:
                connection.execute(FORGET, (name,))
                connection.execute(BEGIN, (name, next(blocks, b"")))
                for block in blocks:
                    connection.execute(GO_ON, (block, name))

    def _ask(self, sql: str, values: Values = (), *, names: Sequence[str] = ()) -> list[Any]:
        """The rows of a statement; none where nothing was ever kept."""
        try:
            with reading(self._database) as connection:
                if not has_part(connection, OWNER, MIGRATIONS):
                    return []
                dialect = connection.dialect
                given = {"names": dialect.array(names)} if names else values
                return connection.execute(dialect.sql(sql), given).fetchall()
        except StorageEmpty:
            return []
