"""Deliveries: what one response from upstream brings, and what storing it came to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from .entities import Entity, ManyOf, Ref
from .struct import Struct


class ListingPage(Struct):
    """Which page of which collection an arrival is; ``number`` counts from 0.

    ``delta``: the listing names only what changed since the bookmark, so that what it leaves out
    is still there.  ``bookmark`` (a sync token or a watermark) is where the next listing may go
    on; it becomes durable with ``last``.  ``began_at`` is when the request of the first page
    began.  ``sweeps``: what a complete listing leaves out is gone from it.  ``sure``: it has shown
    whatever was there all the time; if not, but the next one has the same ``first`` page, that is
    known afterwards.
    ``ids_only``: the listing tells what exists, and of what is not stored yet it tells too
    little to store it.
    """

    parent: Ref[Any]
    collection: ManyOf[Any, Any]
    number: int
    last: bool
    delta: bool = False
    bookmark: str | None = None
    began_at: float | None = None
    sweeps: bool = True
    sure: bool = True
    first: str | None = None
    ids_only: bool = False


class FeedPage(Struct):
    """Which page of which feed an arrival is.

    ``sync_token`` is the feed's new position; it becomes durable with ``last``.  ``anew``: the feed
    was begun at this position, and whatever was listed before is not covered by it.
    """

    root: Ref[Any]
    feed: str
    last: bool
    sync_token: str | None
    began_at: float
    anew: bool = False


class Delivery(Struct):
    """What one answer from upstream brought; ``requested_at`` is when its request began.

    ``entities`` may be of several types and partial.  ``removed`` are tombstones: the
    source's own word that a thing is gone.  Times are seconds since the epoch.
    ``received_at`` is when the answer had come, ``sync`` the id of the sync it came in.
    """

    entities: Sequence[Entity]
    requested_at: float
    listing: ListingPage | None = None
    removed: Sequence[Ref[Any]] = ()
    changes: FeedPage | None = None
    received_at: float | None = None
    sync: str | None = None


class WriteResult(Struct):
    """What storing an arrival came to: rows by entity name, and how many of all were removed.

    Of what came along with a listing only new rows count: the same may come with many pages.
    ``quarantined`` counts the invalid rows that were kept aside.
    """

    counts: Mapping[str, int]
    removed: int = 0
    quarantined: int = 0


Transaction: TypeAlias = Any  # the open transaction of whatever store the parts share
Write: TypeAlias = Callable[[Transaction], WriteResult]


class ListingState(Struct):
    """What is remembered of a listing or a feed; every time is when its first request began.

    ``bookmark`` (a sync token or a watermark) is where the next one may go on.  ``listed_at``: the
    last complete one.  ``full_at``: the last complete one that named everything with its fields; of
    a feed, when it was begun.
    ``swept_at``: the last complete one that named everything.
    """

    bookmark: str | None = None
    listed_at: float | None = None
    full_at: float | None = None
    swept_at: float | None = None


class AgeHistogram(Struct):
    """How old one field of an entity's rows is: ``(whole seconds, rows)`` of each age, youngest first.

    ``never`` counts rows of which it was never synced, or was invalidated since.
    """

    ages: Sequence[tuple[float, int]]
    never: int


class DeletionScope(Struct):
    """How a sync looks for what is gone.

    ``whole`` names the collections that it lists of every parent, ``feeds`` those that it
    follows.  ``since`` is when it began.  ``again``, by entity: everywhere was looked since then,
    and from this time on everywhere is looked once more.
    """

    whole: Collection[str]
    feeds: Collection[str]
    since: float
    again: Mapping[str, float] = MappingProxyType({})


class DeletionCandidates(Struct):
    """What a sync has found gone of one entity, and not removed yet.

    ``rows`` is of how many that is certain, ``left`` of how many not yet; ``of`` is how many the
    entity has.  ``waiting``: the collections to look at for certainty, each with the ids of the
    parents; ``feeds`` to ask.
    """

    entity: str
    rows: int
    left: int
    of: int
    waiting: Mapping[str, Sequence[str]] = MappingProxyType({})
    feeds: Sequence[str] = ()
