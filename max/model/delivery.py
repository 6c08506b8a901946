"""Deliveries: what one response from upstream brings, and what storing it changed.

Every time in this module is in seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, TypeAlias, cast

from .entities import Entity, ManyOf, Ref
from .struct import Struct


class KnownPage(Struct):
    """A page that the source can call not modified, and where it led.

    ``key`` says how it was asked for, by which version of the connector and for which fields.
    ``validators`` has an ETag and a time by the digest of each request; what the loader gave as
    ``Page.validator`` is that of the request "".
    """

    key: str
    validators: Mapping[str, tuple[str, ...]]
    next: str | None = None
    total: int | None = None
    size: int | None = None


class StoredPage(Struct):
    """A known page with its rows, as the database holds them."""

    known: KnownPage
    items: Sequence[Entity]
    also: Sequence[Entity]


class ListingPage(Struct):
    """Which page of which collection a delivery is; ``number`` counts from 0.

    ``delta``: the listing names only what changed since the last bookmark, so what it leaves out
    still exists.  ``bookmark`` (a sync token or a watermark): where the next listing may continue,
    stored with the ``last`` page.  ``began_at``: when the request for the first page began; it
    names the pass, and a page of another pass than the newest is not stored.  ``proven``: the
    listing cannot have skipped a row.  ``sweeps``: what it leaves out is gone from this
    collection.  ``ids_only``: the listing names what exists, with too few fields to store rows
    that are not known yet.

    ``unread`` are ids that the page names and did not bring.  ``late``: an earlier page of this pass
    has named these rows.  Unless the listing is ``whole``, some of them never came: it does not count
    as listed, and the next one continues where this one did.

    ``known`` is how the page was asked for, when its validators are to be remembered; a page that was
    not modified (``not_modified``) is remembered already.
    """

    parent: Ref[Any]
    collection: ManyOf[Any, Any]
    number: int
    last: bool
    began_at: float
    delta: bool = False
    bookmark: str | None = None
    sweeps: bool = True
    proven: bool = True
    ids_only: bool = False
    unread: Sequence[str] = ()
    late: bool = False
    whole: bool = True
    known: KnownPage | None = None
    not_modified: bool = False


class FeedPage(Struct):
    """Which page of which feed a delivery is.

    ``sync_token``: the feed's new position, stored with the ``last`` page.  ``initial``: the feed
    starts over, with the ``first`` page, so it does not cover what was listed before.
    """

    root: Ref[Any]
    feed: str
    last: bool
    sync_token: str | None
    began_at: float
    initial: bool = False
    first: bool = False


class Delivery(Struct):
    """What one response brought; ``requested_at`` is when its request began.

    ``entities`` may be of several types and partial, and so may ``also``, what came along with them.
    ``removed`` are tombstones: the source said that these are gone.  ``received_at`` is when the
    response came, ``sync`` the id of the sync that asked for it.
    """

    entities: Sequence[Entity]
    requested_at: float
    listing: ListingPage | None = None
    removed: Sequence[Ref[Any]] = ()
    changes: FeedPage | None = None
    received_at: float | None = None
    sync: str | None = None
    also: Sequence[Entity] = ()


class WriteResult(Struct):
    """What storing a delivery changed: rows by entity name, and how many rows were removed.

    Rows that came along with a listing count only when they are new, since many pages may repeat
    them.  ``quarantined`` counts the invalid rows that were kept aside, ``uncounted`` those that
    were stored and that the sync counts elsewhere.
    """

    counts: Mapping[str, int]
    removed: int = 0
    quarantined: int = 0
    uncounted: int = 0


Transaction: TypeAlias = Any  # the open transaction of the store that all parts share
StoreDeliveries: TypeAlias = Callable[[Transaction, Sequence[Delivery]], Sequence[WriteResult]]


class Write:
    """Work for a transaction that another part owns; it runs on the database that it was prepared for."""

    def __init__(self, database: object, work: Callable[[Transaction], WriteResult]) -> None:
        self.database, self.work = database, work

    def __call__(self, transaction: Transaction) -> WriteResult:
        """Run the work."""
        return self.work(transaction)


class DeliveryWrite(Write):
    """The storing of a delivery; ``store`` takes all that one transaction has, to store them together.

    ``counted`` is False when the sync counts the rows elsewhere: those that it lists, each once.
    """

    def __init__(
        self,
        database: object,
        store: StoreDeliveries,
        delivery: Delivery,
        *,
        counted: bool = True,
    ) -> None:
        super().__init__(database, partial(_store_alone, store, delivery, counted))
        self.store, self.delivery, self._counted = store, delivery, counted

    def uncounted(self) -> DeliveryWrite:
        """The same; its rows are not counted."""
        return DeliveryWrite(self.database, self.store, self.delivery, counted=False)

    def counted(self, stored: WriteResult) -> WriteResult:
        """What storing it has changed, as a sync counts that."""
        return stored if self._counted else _uncounted(stored)


def _store_alone(
    store: StoreDeliveries, delivery: Delivery, counted: bool, transaction: Transaction
) -> WriteResult:
    """No method: a write that referred to itself would keep its rows until garbage is collected."""
    (stored,) = store(transaction, [delivery])
    return stored if counted else _uncounted(stored)


def _uncounted(stored: WriteResult) -> WriteResult:
    return stored.replace(counts={}, uncounted=sum(stored.counts.values()))


def run_writes(transaction: Transaction, writes: Sequence[Write]) -> list[WriteResult]:
    """Run writes in their order; deliveries that follow one another are stored together."""
    results: list[WriteResult] = []
    for store, some in groupby(writes, key=lambda one: one.store if isinstance(one, DeliveryWrite) else None):
        if store is None:
            results += [write(transaction) for write in some]
        else:
            deliveries = cast("list[DeliveryWrite]", list(some))
            stored = store(transaction, [one.delivery for one in deliveries])
            results += [one.counted(result) for one, result in zip(deliveries, stored, strict=True)]
    return results


class ListingState(Struct):
    """What is known of earlier listings of a collection, or of a feed.

    Each time is when the first request of that listing began.  ``bookmark`` is where the next
    one may continue.  ``listed_at``: the last complete one.  ``full_at``: the last complete one
    that named everything with its fields; of a feed, when it began.  ``swept_at``: the last
    complete one that named everything.  ``has_known``: some of its pages are known.
    """

    bookmark: str | None = None
    listed_at: float | None = None
    full_at: float | None = None
    swept_at: float | None = None
    has_known: bool = False


class ListingPass(Struct):
    """One pass over a listing: whether it is still the newest, and what it has shown so far.

    ``shown`` counts different children.  ``unseen``: it has not shown some that earlier ones did.
    """

    newest: bool
    shown: int = 0
    unseen: bool = False


class AgeHistogram(Struct):
    """How old one field is over an entity's rows: ``(whole seconds, rows)``, youngest first.

    ``never`` counts the rows where the field was not fetched yet, or was invalidated.
    """

    ages: Sequence[tuple[float, int]]
    never: int


class DeletionScope(Struct):
    """Where a sync looks for rows that are gone.

    ``collections`` are listed for every parent, ``feeds`` are followed.  ``since`` is when the
    sync began.  ``look`` is when looking at every place for the second time began, if it did.
    """

    collections: Collection[str]
    feeds: Collection[str]
    since: float
    look: float | None = None


class DeletionCandidates(Struct):
    """Rows of one entity that no listing has any more, and that are not removed yet.

    ``missing`` counts them, with those below other missing rows; ``proven`` of them are certainly
    gone.  ``total`` is how many rows the entity has.  ``to_ask`` has the ids of those that are
    uncertain, when they are few, and ``places`` is how many listings could hold them.  ``related``
    names the entities whose missing rows are parents or children of these, and the entity itself.
    """

    entity: str
    missing: int
    proven: int
    total: int
    to_ask: Sequence[str] = ()
    places: int = 0
    related: Collection[str] = ()
