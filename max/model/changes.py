"""Changes: what became of each row, and the feed in which changes are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from ..errors import UsageError
from .entities import Entity, Ref
from .struct import Struct
from .values import Json

if TYPE_CHECKING:
    from .periods import Period

NOW = "now"  # the cursor behind everything that is recorded
ALL_ROWS = "beginning"  # the cursor before the rows that were there when recording began

ChangeKind: TypeAlias = Literal["created", "updated", "removed", "restored"]
TIMES = "yesterday, 1d, 2026-11-26 or 2026-11"  # that ``since`` may be
MICROSECOND = 1e-6
KINDS: tuple[ChangeKind, ...] = ("created", "updated", "removed", "restored")


def read_since(text: str, now: float) -> str | float:
    """What ``since`` means: a cursor, or for a time its first moment, in seconds since the epoch.

    A time is written as in filters: ``yesterday``, ``2026-11-26``, ``-3mo``; an age needs no sign.
    """
    period = None if text in (NOW, ALL_ROWS) else _period(text, now)
    return text if period is None else period.first.timestamp()


def read_until(text: str, now: float) -> float:
    """The first moment after a time, in seconds since the epoch; UsageError when it is none."""
    period = _period(text, now)
    if period is None:
        raise UsageError(f"{text!r} is not a time", hint=f"such as {TIMES}")
    return period.last.timestamp() + MICROSECOND


def _period(text: str, now: float) -> Period | None:
    from .periods import AGE, period_of

    try:
        return period_of(f"-{text}" if AGE.fullmatch(f"-{text}") else text, now)
    except (ValueError, OverflowError):
        return None


class Change(Struct):
    """What became of one entity; ``old`` and ``new`` are field values by name.

    Of an update they hold the fields that changed, of a created or removed row every loaded field.
    A field that is only in ``new`` had not been loaded before; None means empty upstream.  ``at`` is
    when the response came, in seconds since the epoch, and ``sync`` the sync that asked for it.
    Reading from ``cursor`` continues with the next change.
    """

    kind: ChangeKind
    entity: type[Entity]
    id: str
    at: float
    sync: str | None
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    cursor: str

    @property
    def ref(self) -> Ref[Any]:
        """The entity that changed."""
        return Ref(self.entity, self.id)

    def to_dict(self) -> dict[str, Json]:
        """The change as JSON data without its time; values as ``Entity.to_dict`` writes them."""
        types = self.entity.types()
        return {
            "kind": self.kind,
            "entity": self.entity.__name__,
            "id": self.id,
            "sync": self.sync,
            "old": {name: types[name].to_json(value) for name, value in self.old.items()},
            "new": {name: types[name].to_json(value) for name, value in self.new.items()},
            "cursor": self.cursor,
        }


class ChangePage(Struct):
    """Some changes; reading from ``cursor`` continues after the newest of them.

    ``more``: others fit that are not here.  ``since`` is when the log begins, in seconds since the
    epoch: nothing is known of earlier changes.
    """

    items: Sequence[Change]
    cursor: str
    more: bool
    since: float


class ChangeSummary(Struct):
    """What some changes come to.

    ``total`` counts the changes.  ``kinds`` counts the rows of each entity by what became of them
    in the end: one that was created and then updated is created, one that came and went is left
    out.  ``fields`` counts, in the updated rows alone, how many have a field that changed, most
    first.  ``since`` is when the log begins, in seconds since the epoch.
    """

    total: int
    kinds: Mapping[type[Entity], Mapping[str, int]]
    fields: Mapping[type[Entity], Mapping[str, int]]
    since: float


class ChangeFeed:
    """The changes after a cursor or from a time on: ``async for change in feed``.  One page is in memory.

    ``cursor`` is where to continue: after the last change that was read, and at the end after
    everything that was recorded.
    """

    def __init__(self, read: Callable[[str | None], Awaitable[ChangePage]], since: str | None) -> None:
        self._read, self.cursor = read, since
        self._unread: deque[Change] = deque()
        self._next_page, self._more = since, True

    def __repr__(self) -> str:
        return f"<ChangeFeed after {self.cursor!r}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._unread and self._more:
            page = await self._read(self._next_page)
            self._unread.extend(page.items)
            self._next_page, self._more = page.cursor, page.more
        if not self._unread:
            self.cursor = self._next_page
            raise StopAsyncIteration
        change = self._unread.popleft()
        self.cursor = change.cursor
        return change
