"""Changes: what is told of a row that became another, and the feed in which they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias

from .entities import Entity, Ref
from .struct import Struct
from .values import Json

NOW = "now"  # the cursor that stands behind everything that is recorded

ChangeKind: TypeAlias = Literal["created", "updated", "removed", "restored"]


class Change(Struct):
    """What became of one entity; fields by name, as values.

    ``old`` holds what was there before and ``new`` what is there now: of an update the fields
    that changed, of a row that came or went all that were loaded.  A field that is in ``new``
    alone had not been loaded; None says that upstream has nothing.  ``at`` is when the answer
    that told so came, in seconds since the epoch, ``sync`` the sync in which it did.
    ``cursor`` stands behind this change.
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


class ChangePage(Struct):
    """Some changes in their order; ``cursor`` stands behind them, or behind all when no more follow."""

    items: Sequence[Change]
    cursor: str
    more: bool


class ChangeFeed:
    """The changes from a cursor up to now: ``async for change in feed``, a page at a time in memory.

    ``cursor`` is where to go on: behind the last change that was given, and once all were
    given behind everything that was looked at.
    """

    def __init__(self, read: Callable[[str | None], Awaitable[ChangePage]], since: str | None) -> None:
        self._read, self.cursor = read, since
        self._waiting: deque[Change] = deque()
        self._behind, self._more = since, True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._waiting and self._more:
            page = await self._read(self._behind)
            self._waiting.extend(page.items)
            self._behind, self._more = page.cursor, page.more
        if not self._waiting:
            self.cursor = self._behind
            raise StopAsyncIteration
        change = self._waiting.popleft()
        self.cursor = change.cursor
        return change


def change_json(change: Change) -> dict[str, Json]:
    """A change as JSON data, without its time: values as ``Entity.to_dict`` writes them."""
    types = change.entity.types()
    sides = {"old": change.old, "new": change.new}
    fields = {side: {n: types[n].to_json(v) for n, v in values.items()} for side, values in sides.items()}
    return {
        "kind": change.kind,
        "entity": change.entity.__name__,
        "id": change.id,
        "sync": change.sync,
        **fields,
        "cursor": change.cursor,
    }
