"""Calls of loaders, and the checks of what they return, before anything is stored.

Rule 1: whatever a loader raises becomes the failure of its task, with the loader's name and the line.
What the connector's other functions raise ends the command with the same words.

Rule 2: a response whose parts are not what they are declared to be is refused as a whole, with the
loader, the page, and what came.  Types are hints in Python, and a service may send anything.

Rule 3: cursors and sync tokens leave here sealed, with names in place of secrets, and so they are
stored.  A loader gets them as the service sent them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from ..connector import Connector
from ..errors import LeaseLost, LoaderFault, StorageError, UpstreamChanged, shown
from ..model.account_fields import of_installation
from ..model.constructors import write_constructor
from ..model.delivery import StoredPage
from ..model.entities import Entity, Ref
from ..model.inline import inline_members
from ..model.loaders import BatchLoader, CollectionLoader, Env, Loader, PageRequest
from ..model.mapping import MappedRows, by_column, ids_of, narrowed, shapes_of
from ..model.query import Batch, Page
from ..model.values import is_id, is_text
from ..upstream.connector_code import (
    cause_of,
    fault_of,
    is_mistake,
    is_our_storage,
    is_raised_by_connector,
)
from ..upstream.credentials import CredentialProvider
from ..upstream.operations import CallsStopped
from .context import LoaderEnv
from .turns import Turns

Valid = Callable[[Any], bool]


def _is_list(value: Any, of: type[Entity] | type[Ref[Any]] | None = None) -> bool:
    if type(value) is MappedRows:
        return of in (None, Entity)
    plain = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return plain and (of is None or all(isinstance(one, of) for one in value))


def _is_mark(value: object) -> bool:
    return value is None or (value != "" and is_text(value))


def _is_number(value: object, least: int) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= least)


def _is_failures(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(id, str) and isinstance(error, Exception) for id, error in value.items()
    )


def _are_rows_of(items: Sequence[Any], entity: type[Entity]) -> bool:
    return type(items) is MappedRows and items.entity is entity


def _is_one_of(id: object, known: Collection[str]) -> bool:
    return isinstance(id, str) and id in known  # what came may have no hash


# What each part of a response may be, in words and as a check.
PAGE: Mapping[str, tuple[str, Valid]] = {
    "items": ("a list", _is_list),
    "next": ("a text that is not empty, or None on the last page", _is_mark),
    "also": ("a list of entities", lambda value: _is_list(value, Entity)),
    "removed": ("a list of refs", lambda value: _is_list(value, Ref)),
    "sync_token": ("a text that is not empty, or None", _is_mark),
    "complete_snapshot": ("True or False", lambda value: isinstance(value, bool)),
    "total": ("a whole number that is not negative, or None", lambda value: _is_number(value, 0)),
    "size": ("a whole number of at least 1, or None", lambda value: _is_number(value, 1)),
    "validator": ("a text that is not empty, or None", _is_mark),
    "not_modified": ("True or False", lambda value: isinstance(value, bool)),
    "failed": (
        "a mapping from ids to exceptions",
        lambda value: _is_failures(value) and all(map(is_id, value)),
    ),
}
BATCH: Mapping[str, tuple[str, Valid]] = {
    "items": ("a list", _is_list),
    "failed": ("a mapping from ids to exceptions", _is_failures),
}


class LoaderCaller:
    """Calls the loaders of one connector; LoaderFault when one returns what it does not declare."""

    def __init__(self, connector: Connector[Any, Any], credentials: CredentialProvider) -> None:
        self._name, self._schema = connector.name, connector.schema
        self._has_own_entities = bool(connector.resolver.added)
        self._credentials, self._turns = credentials, Turns()
        self._declared = {loader: _declared_fields(loader) for loader in connector.loaders}
        for entity in {entity for declared in self._declared.values() for entity in declared}:
            write_constructor(entity)

    async def batch(self, loader: Loader[Any], refs: Sequence[Ref[Any]], env: LoaderEnv) -> Batch[Any]:
        """The result for some refs."""
        if isinstance(loader, BatchLoader):
            batch: Batch[Any] = await self._call(loader, refs, env)
            self._check_parts(loader, Batch, BATCH, batch, "")
            _raise_ours(batch.failed)
            items, failed = batch.items, batch.failed
        else:
            one = await self._call(loader, refs[0], env)
            if not isinstance(one, Entity):
                raise self._fault(loader, f"a {refs[0].entity.__name__}", one)
            items, failed = [one], Batch.failed
        items = self._own(loader, items)
        requested = {ref.id for ref in refs}
        for item, id in zip(items, ids_of(items), strict=True):
            if type(item) is not refs[0].entity or not _is_one_of(id, requested):
                raise self._fault(loader, f"only the {refs[0].entity.__name__} that were requested", item)
        return Batch(self._declared_part(loader, items), failed)

    async def page(self, loader: Loader[Any], of: Ref[Any], request: PageRequest, env: Env[Any]) -> Page[Any]:
        """A page of a collection, or of a feed; cursors and sync tokens of both are sealed."""
        cursor, token = await self._unsealed(request.cursor), await self._unsealed(request.sync_token)
        request = request.replace(cursor=cursor, sync_token=token)
        page: Page[Any] = await self._call(loader, of, request, env)
        which = "the first page" if request.cursor is None else f"the page at {request.cursor[:60]!r}"
        where = f"; it was {which} of {of}"
        self._check_parts(loader, Page, PAGE, page, where)
        _raise_ours(page.failed)
        if self._has_own_entities:
            page = page.replace(items=self._own(loader, page.items), also=self._own(loader, page.also))
        if isinstance(loader, CollectionLoader):
            self._check_listed(loader, request, page, where)
        else:
            self._check_feed(loader, page, where)
        items, also = (self._declared_part(loader, some) for some in (page.items, page.also))
        for ref in page.removed:
            if not self._is_own(ref):
                expected = "refs of the schema's entities, with ids, as Page.removed"
                raise self._fault(loader, expected, ref, where)
        next, sync_token = self._sealed(page.next), self._sealed(page.sync_token)
        return page.replace(items=items, also=also, next=next, sync_token=sync_token)

    def _check_listed(
        self, loader: CollectionLoader[Any, Any, Any], request: PageRequest, page: Page[Any], where: str
    ) -> None:
        child = loader.lists.child
        others = set() if _are_rows_of(page.items, child) else {*map(type, page.items)} - {child}
        for item in page.items if others else ():
            if type(item) is not child:
                raise self._fault(loader, f"items of {child.__name__}", item, where)
        if page.items and _cannot_sweep(loader, request, page):
            expected = "a sync_token at the end of a listing of everything, as it declares sweep="
            raise self._fault(loader, expected, page.sync_token, f"{where}; a watermark= does as well")
        if page.failed and not page.failed.keys().isdisjoint(filter(is_id, ids_of(page.items))):
            raise self._fault(loader, "each id in Page.items or in Page.failed, not in both", page, where)

    def _check_feed(self, loader: Loader[Any], page: Page[Any], where: str) -> None:
        if page.not_modified:
            raise self._fault(loader, "no Page.unchanged() for a feed", page, where)
        if page.failed:
            raise self._fault(loader, "no Page.failed, as the page of a feed", page.failed, where)
        if not _is_list(page.items, Entity):
            raise self._fault(loader, "items that are entities", page.items, where)
        if page.next is None and page.sync_token is None:
            raise UpstreamChanged(
                f"{self._name}: loader {loader.name} ended without the feed's new position",
                hint="nothing of this response was stored; update the connector",
            )

    def as_stored(self, loader: Loader[Any], page: Page[Any], stored: StoredPage | None) -> Page[Any]:
        """The page as it is stored, since the source says that it is as it was."""
        if stored is None:
            raise self._fault(loader, "Page.unchanged() only where the request has a validator", page)
        known = stored.known
        where = {"next": known.next, "total": known.total, "size": known.size}
        return page.replace(items=stored.items, also=stored.also, **where)

    def _own(self, loader: Loader[Any], items: Sequence[Any]) -> Sequence[Any]:
        """Records as this installation has them, whose account may have fields of its own."""
        if not self._has_own_entities:
            return items
        if type(items) is MappedRows:
            if self._schema.own(items.entity) is not items.entity:
                name = items.entity.__name__
                expected = f"rows that were read as env.entity({name}), which has the account's own fields"
                raise self._fault(loader, expected, items.entity)
            return items
        return [of_installation(self._schema, one) if isinstance(one, Entity) else one for one in items]

    def _is_own(self, ref: Ref[Any]) -> bool:
        known = self._schema.own(ref.entity) is not None
        return known and is_id(ref.id) and ref.scope.installation is None

    def _sealed(self, mark: str | None) -> str | None:
        return None if mark is None else self._credentials.redactor.seal(mark)

    async def _unsealed(self, mark: str | None) -> str | None:
        return None if mark is None else await self._credentials.unseal(mark)

    async def _call(self, loader: Loader[Any], *arguments: object) -> Any:
        """The loader's response; whatever it raises becomes an error of Max.

        CallsStopped when a call that it asked for did not begin, whatever the loader made of that.
        """
        env = cast(LoaderEnv, arguments[-1])
        try:
            response = await self._turns.paced(loader.load(*arguments))
        except BaseException as error:
            if not is_raised_by_connector(error):
                raise
            if env.is_stopped:
                raise CallsStopped from None
            if env.is_unchanged:
                return Page.unchanged()
            cause = cause_of(error)
            foreign = isinstance(cause, StorageError | LeaseLost) and not is_our_storage(cause)
            if not is_mistake(cause) and not foreign:
                raise cause from None
            raise fault_of(self._name, f"loader {loader.name}", cause, loader=loader.name) from error
        if env.is_stopped:
            raise CallsStopped
        return Page.unchanged() if env.is_unchanged else response

    def _check_parts(
        self, loader: Loader[Any], kind: type, parts: Mapping[str, tuple[str, Valid]], given: Any, where: str
    ) -> None:
        """Refuse what is no Page or Batch, and one whose parts are not what they should be."""
        if not isinstance(given, kind):
            raise self._fault(loader, f"a {kind.__name__}", given, where)
        for name, (expected, is_valid) in parts.items():
            value = getattr(given, name)
            if not is_valid(value):
                raise self._fault(loader, f"{expected}, as {kind.__name__}.{name}", value, where)

    def _declared_part(self, loader: Loader[Any], entities: Sequence[Entity]) -> Sequence[Entity]:
        """Of records that were read, the fields that the loader declares; refuse what else it has not."""
        declared = self._declared[loader]
        entities = narrowed(by_column(entities), declared)
        for some in (entities, *inline_members(entities)):
            for (kind, names), at in shapes_of(some).items():
                if kind not in declared:
                    known = " or ".join(sorted(entity.__name__ for entity in declared))
                    raise self._fault(loader, f"entities of {known}", some[at])
                if not declared[kind].issuperset(names):
                    extra = [name for name in names if name not in declared[kind]]
                    expected = f"only the fields in its brings, without {', '.join(extra)}"
                    raise self._fault(loader, expected, some[at])
        return entities

    def _fault(self, loader: Loader[Any], expected: str, actual: object, where: str = "") -> LoaderFault:
        return LoaderFault(
            f"{self._name}: loader {loader.name} must return {expected}, got {shown(actual, 120)}{where}",
            hint="this is a bug of the connector; nothing of this response was stored",
            connector=self._name,
            loader=loader.name,
        )


def _raise_ours(failed: Mapping[str, Exception]) -> None:
    """No row has failed when Max could not read what it keeps: the task has."""
    for error in failed.values():
        if is_our_storage(error):
            raise error


def _cannot_sweep(loader: CollectionLoader[Any, Any, Any], request: PageRequest, page: Page[Any]) -> bool:
    """Whether a listing of everything ends without a bookmark, so every listing is one and none is swept."""
    is_last = page.next is None and page.sync_token is None
    is_whole = request.sync_token is None and not request.ids_only
    return loader.sweep is not None and loader.watermark is None and is_last and is_whole


def _declared_fields(loader: Loader[Any]) -> dict[type[Entity], set[str]]:
    """The fields that a loader may bring, by entity."""
    declared: dict[type[Entity], set[str]] = {}
    for field in loader.brings:
        declared.setdefault(field.entity, {"id"}).add(field.name)
        if field.type.inside is not None:
            declared.setdefault(field.type.inside, {"id"})
    if isinstance(loader, CollectionLoader):
        declared.setdefault(loader.lists.child, {"id"})
    return declared
