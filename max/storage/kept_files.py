"""Kept files in the database: contents of an installation on a server, each under the SHA-256 of its bytes.

A content is stored once, however many rows name it, in a transaction before the one of the row.  So a row
that holds the name was never ahead of the content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from ..errors import UsageError
from .catalogue import migrate
from .database import Connection, Database

OWNER = "kept files"  # of this table, in the catalogue
MIGRATIONS = (
    """
    CREATE TABLE _max_kept_file (
        name    TEXT PRIMARY KEY,
        content {bytes} NOT NULL
    )
    """,
)
TABLE = "_max_kept_file"
MOST_BYTES = 64 * 2**20  # of one content: the driver holds it three times
FIND = "SELECT 1 FROM _max_kept_file WHERE name = ?"
KEEP = "INSERT INTO _max_kept_file (name, content) VALUES (?, ?) ON CONFLICT (name) DO NOTHING"


class StoredFiles:
    """The kept files of one installation, in its database.  Safe for callers in any number of processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, data: bytes) -> str:
        """The name of the content, which is stored when this returns; UsageError beyond ``MOST_BYTES``."""
        if len(data) > MOST_BYTES:
            raise UsageError(
                f"a content of {len(data):,} bytes is more than the {MOST_BYTES:,} that a database keeps",
                hint="leave out what is larger, or keep this installation in a folder",
            )
        name = hashlib.sha256(data).hexdigest()

        def keep(connection: Connection) -> None:
            migrate(connection, OWNER, MIGRATIONS)
            if connection.execute(FIND, (name,)).fetchone() is None:
                connection.execute(KEEP, (name, data))

        await self._database.transact(keep)
        return name


# -- moving them -------------------------------------------------------------------------------


class Content(NamedTuple):
    """A content that is kept: its name, and how many bytes it has."""

    name: str
    bytes: int


class Contents(Protocol):
    """The contents of one installation, wherever they are kept, for moving them elsewhere.  Blocks."""

    @property
    def most_bytes(self) -> int | None:
        """How many bytes a content may have here; None: as many as it likes."""

    def listed(self) -> Iterator[Content]:
        """Every content, sorted by name; few of them are in memory."""

    def proven(self, names: Sequence[str]) -> dict[str, Content]:
        """Those of the names that are kept: the SHA-256, and the number, of the bytes that are there."""

    def blocks(self, name: str) -> Iterator[bytes]:
        """What a content is made of."""

    def put(self, contents: Iterable[tuple[str, Iterator[bytes]]]) -> None:
        """Keep contents, in place of what has their names: each whole or not at all, whatever happens."""
