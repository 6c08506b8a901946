"""Declared: what a stored task names, as the connector declares it now.

A task holds names, and the connector may have been upgraded since it was stored: an entity or a
collection is gone, a loader has another name, takes fewer ids at once, or no longer loads all the
fields.  What is still there is found by its name; what is not is a SyncError that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..connector import Connector
from ..errors import SyncError
from ..model.entities import Entity, FieldOf, ManyOf, Ref
from ..model.loaders import BatchLoader, CollectionLoader, FeedLoader, Loader
from ..model.tasks import ExpandTask, ListTask, LoadFieldsTask


class Declared:
    """Finds by their names the entities and the loaders of one connector."""

    def __init__(self, connector: Connector[Any, Any]) -> None:
        self._resolver = connector.resolver
        self._loaders = {loader.name: loader for loader in connector.loaders}
        self._homes: dict[tuple[str, tuple[str, ...]], Mapping[Loader[Any], tuple[str, ...]]] = {}

    def entity(self, name: str) -> type[Entity]:
        """The entity with this name."""
        entity = self._resolver.schema.entities.get(name)
        if entity is None:
            raise _outdated(f"the schema has no {name}")
        return entity

    def ref(self, entity: str, id: str) -> Ref[Any]:
        """A ref to an entity with this name."""
        return Ref(self.entity(entity), id)

    def listed(self, spec: ListTask) -> tuple[Ref[Any], CollectionLoader[Any, Any, Any]]:
        """The parent, and the loader that lists its collection."""
        parent = self.ref(spec.entity, spec.id)
        many: ManyOf[Any, Any] = ManyOf(parent.entity, spec.collection)
        if not self._resolver.is_listed(many):
            raise _outdated(f"no loader lists {many!r}")
        return parent, self._resolver.collection_loader(many)

    def feed(self, name: str) -> FeedLoader[Any, Any]:
        """The loader of the feed with this name."""
        loader = self._loaders.get(name)
        if not isinstance(loader, FeedLoader):
            raise _outdated(f"no feed is named {name}")
        return loader

    def loads_alone(self, entity: type[Entity], names: Sequence[str]) -> bool:
        """Whether these fields can be loaded for given ids."""
        return all(self._resolver.loader_for(FieldOf(entity, name)) is not None for name in names)

    def loads(
        self, spec: ExpandTask | LoadFieldsTask, ids: Sequence[str]
    ) -> list[tuple[Loader[Any], LoadFieldsTask]]:
        """The calls that load the fields of some ids: each with its loader, as a task.

        A task that is one call is given back as it is.
        """
        asked = spec.entity, spec.names
        homes = self._homes.get(asked) or self._homes.setdefault(asked, self._find_homes(*asked))
        if len(homes) == len(ids) == 1 and isinstance(spec, LoadFieldsTask) and spec.ids == ids:
            return [(loader, spec) for loader in homes]
        tasks = []
        for loader, names in homes.items():
            size = loader.size if isinstance(loader, BatchLoader) else 1
            parts = [tuple(ids[at : at + size]) for at in range(0, len(ids), size)]
            tasks += [(loader, LoadFieldsTask(spec.entity, names, loader.name, part)) for part in parts]
        return tasks

    def _find_homes(self, name: str, fields: Sequence[str]) -> Mapping[Loader[Any], tuple[str, ...]]:
        """The loaders that load some fields, each with its part of them."""
        entity = self.entity(name)
        homes: dict[Loader[Any], tuple[str, ...]] = {}
        for one in fields:
            field: FieldOf[Any, Any] = FieldOf(entity, one)
            home = self._resolver.loader_for(field)
            if home is None:
                raise _outdated(f"no loader loads {field!r} for given ids")
            homes[home] = (*homes.get(home, ()), one)
        return homes


def _outdated(problem: str) -> SyncError:
    """A stored task cannot go on after an upgrade of the connector."""
    return SyncError(
        f"{problem} any more: the connector has changed", hint="the next sync does what it declares now"
    )
