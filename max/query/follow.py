"""Following the events of several installations, each in a database of its own.

**The cursor** of several installations has a number for each of them, by id, since their events have no
common order.  An installation that it does not name is followed from its first event.  The cursor of one
installation that was named is its number alone.

**Waiting.**  A database is read again only when it was written since.  The time of a file is too coarse
to tell two writings at nearly the same moment apart, so what was written just now is read once more.
Nothing is held between two looks: however slow a reader is, it keeps no sync waiting.
"""

from __future__ import annotations

import json
import time
from binascii import Error, a2b_base64, b2a_base64
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence

from ..core import InstallationInfo, in_thread
from ..errors import InvalidCursor, StorageEmpty
from ..model.changes import ALL_ROWS, NOW
from ..model.event_log import InstallationEvent
from ..storage.database import Database
from ..storage.event_log import PAGE, events_after, newest_event
from .reader import own_reader

POLL = 0.25  # seconds between two looks
JUST_NOW = 2.0  # seconds in which a database may be written again without a new mark
OF_SEVERAL = "~"  # begins the cursor of several installations
Sources = Callable[[], Sequence[tuple[InstallationInfo, Database]]]  # what is followed


class Follower:
    """Reads what has happened since it last looked.  Blocks; nothing is open between two calls.

    ``after`` is a cursor, ``beginning`` (None is the same: the oldest event that is kept) or ``now``.
    ``single``: one installation that was named is followed.  ``kinds``: events of these kinds alone.
    InvalidCursor for a cursor of something else.
    """

    def __init__(
        self, sources: Sources, after: str | None = None, *, single: bool, kinds: Collection[str] = ()
    ) -> None:
        self._sources, self._single, self._kinds = sources, single, kinds
        self._numbers: dict[str, int] = {}  # by installation id
        self._seen: dict[str, object] = {}  # when each database was written, as far as it was read
        if after == NOW:
            for info, database in sources():
                self._numbers[info.id] = _newest(database, info)
        elif after not in (None, ALL_ROWS):
            self._numbers = self._read_cursor(str(after))

    @property
    def cursor(self) -> str:
        """The place behind all that was read."""
        if self._single:
            return str(next(iter(self._numbers.values()), 0))
        text = json.dumps(self._numbers, separators=(",", ":")).encode()
        return OF_SEVERAL + b2a_base64(text, newline=False).decode().rstrip("=")

    def read(self) -> Iterator[InstallationEvent]:
        """The events since the last call, each installation's in order; CursorExpired."""
        for info, database in self._sources():
            written = database.last_write()
            if written is None or written == self._seen.get(info.id):
                continue
            more = True
            while more:
                try:
                    with own_reader(database, info) as connection:
                        after = self._numbers.get(info.id)
                        page = events_after(connection, after, kinds=self._kinds, limit=PAGE)
                except StorageEmpty:  # disconnected meanwhile
                    break
                for one in page.events:
                    self._numbers[info.id] = one.number
                    values = {name: getattr(one, name) for name in one._names}
                    yield InstallationEvent(installation=str(info), cursor=self.cursor, **values)
                self._numbers[info.id], more = page.cursor, page.more
            if abs(time.time() - written.at) > JUST_NOW:
                self._seen[info.id] = written

    def _read_cursor(self, text: str) -> dict[str, int]:
        if self._single and text.isdecimal():
            return {info.id: int(text) for info, _ in self._sources()}
        if not self._single and text.startswith(OF_SEVERAL):
            try:
                data = json.loads(a2b_base64(text[1:] + "=" * (-len(text[1:]) % 4)))
            except (Error, ValueError):
                data = None
            if isinstance(data, dict) and all(isinstance(n, int) for n in data.values()):
                return data
        whose = "one installation" if self._single else "several installations"
        raise InvalidCursor(
            f"it is no place among the events of {whose}", hint="follow without it, or from: beginning"
        )


def _newest(database: Database, info: InstallationInfo) -> int:
    if not database.is_there():
        return 0
    with own_reader(database, info) as connection:
        return newest_event(connection)


def follow(follower: Follower, *, idle: Callable[[], object]) -> Iterator[InstallationEvent]:
    """Events as they happen, for ever.  Blocks between them; ``idle`` is called before."""
    yield from follower.read()
    while True:
        idle()
        time.sleep(POLL)
        yield from follower.read()


async def follow_events(
    follower: Follower, *, wait: float | None = None
) -> AsyncGenerator[InstallationEvent, None]:
    """The same for an event loop: threads look, and a caller that goes away ends it at once.

    It ends after ``wait`` seconds without an event; None: never.
    """
    import asyncio

    now = asyncio.get_running_loop().time
    quiet_since = now()
    while True:
        for one in await in_thread(lambda: [*follower.read()]):
            yield one
            quiet_since = now()
        left = POLL if wait is None else quiet_since + wait - now()
        if left <= 0:
            return
        await asyncio.sleep(min(POLL, left))
