"""Calls of loaders, and the checks of what they return, before anything is stored.

Whatever a loader raises becomes the failure of its task, with the loader's name and the line.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..connector import Connector
from ..errors import LeaseLost, LoaderFault, MaxError, StorageError, UpstreamChanged, shown
from ..model.entities import Entity, Ref, values_of
from ..model.loaders import BatchLoader, CollectionLoader, Env, Loader
from ..model.query import Batch, Page


class LoaderCaller:
    """Calls the loaders of one connector; LoaderFault when one returns what it does not declare."""

    def __init__(self, connector: Connector[Any, Any]) -> None:
        self._name = connector.name
        self._declared = {loader: _declared_fields(loader) for loader in connector.loaders}

    async def batch(self, loader: Loader[Any], refs: Sequence[Ref[Any]], env: Env[Any]) -> Batch[Any]:
        """The result for some refs."""
        if isinstance(loader, BatchLoader):
            batch: Batch[Any] = await self._call(loader, refs, env)
            if not isinstance(batch, Batch):
                raise self._fault(loader, "a Batch", batch)
        else:
            one = await self._call(loader, refs[0], env)
            if not isinstance(one, Entity):
                raise self._fault(loader, f"a {refs[0].entity.__name__}", one)
            batch = Batch([one])
        requested = {ref.id for ref in refs}
        for item in batch.items:
            if type(item) is not refs[0].entity or item.id not in requested:
                raise self._fault(loader, f"only the {refs[0].entity.__name__} that were requested", item)
        self._check_fields(loader, batch.items)
        return batch

    async def page(self, loader: Loader[Any], *arguments: object) -> Page[Any]:
        """A page of a collection, or of a feed."""
        page: Page[Any] = await self._call(loader, *arguments)
        if not isinstance(page, Page):
            raise self._fault(loader, "a Page", page)
        if isinstance(loader, CollectionLoader):
            child = loader.lists.child
            for item in page.items:
                if type(item) is not child:
                    raise self._fault(loader, f"items of {child.__name__}", item)
        elif page.next is None and page.sync_token is None:
            raise UpstreamChanged(
                f"{self._name}: loader {loader.name} ended without the feed's new position",
                hint="nothing of this response was stored; update the connector",
            )
        self._check_fields(loader, [*page.items, *page.also])
        return page

    async def _call(self, loader: Loader[Any], *arguments: object) -> Any:
        """The loader's response; whatever it raises becomes an error of Max."""
        try:
            return await loader.load(*arguments)
        except asyncio.CancelledError as error:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise self._raised(loader, error) from error
        except Exception as error:
            cause: Exception = error
            while isinstance(cause, ExceptionGroup):  # of a TaskGroup in the loader
                cause = cause.exceptions[0]
            if isinstance(cause, MaxError) and not isinstance(cause, StorageError | LeaseLost):
                raise cause from None
            raise self._raised(loader, cause) from error

    def _raised(self, loader: Loader[Any], error: BaseException) -> LoaderFault:
        frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename != __file__]
        own = [one for one in frames if one.filename == frames[0].filename]
        place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
        return LoaderFault(
            f"{self._name}: loader {loader.name} raised {_message(error)}{place}",
            hint="this is a bug of the connector",
            connector=self._name,
            loader=loader.name,
        )

    def _check_fields(self, loader: Loader[Any], entities: Sequence[Entity]) -> None:
        """Refuse entities and fields that the loader does not declare."""
        declared = self._declared[loader]
        shapes = {(type(entity), tuple(values_of(entity))): entity for entity in entities}
        for (kind, names), example in shapes.items():
            if kind not in declared:
                known = " or ".join(sorted(entity.__name__ for entity in declared))
                raise self._fault(loader, f"entities of {known}", example)
            extra = [name for name in names if name not in declared[kind]]
            if extra:
                raise self._fault(
                    loader, f"only the fields in its brings, without {', '.join(extra)}", example
                )

    def _fault(self, loader: Loader[Any], expected: str, actual: object) -> LoaderFault:
        return LoaderFault(
            f"{self._name}: loader {loader.name} must return {expected}, got {shown(actual, 120)}",
            hint="this is a bug of the connector; nothing of this response was stored",
            connector=self._name,
            loader=loader.name,
        )


def _declared_fields(loader: Loader[Any]) -> dict[type[Entity], set[str]]:
    """The fields that a loader may bring, by entity."""
    declared: dict[type[Entity], set[str]] = {}
    for field in loader.brings:
        declared.setdefault(field.entity, {"id"}).add(field.name)
    if isinstance(loader, CollectionLoader):
        declared.setdefault(loader.lists.child, {"id"})
    return declared


def _message(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
