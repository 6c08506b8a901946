"""Contracts: what becomes of stored data when a connector declares something else than before.

A connector tells its schema's history in ``migrations``: the nth is schema version n, and is
never edited once released.  What needs no history (a new field, a wider type) needs no
migration.  Names are texts, since what they name may be gone from the code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from ..errors import ConnectorError, nearest
from .schema import Schema
from .struct import Struct


class SchemaContract(StrEnum):
    """What may happen to one entity when upstream or an upgrade brings what does not fit.

    EVOLVE: an upgrade may change its schema; a value that does not fit fails its page.
    FREEZE: an upgrade that would change its schema is refused; values as with EVOLVE.
    QUARANTINE: as EVOLVE, but a row that does not fit is kept aside, and its page is stored.
    """

    EVOLVE = "evolve"
    FREEZE = "freeze"
    QUARANTINE = "quarantine"


class RenameField(Struct):
    """A field, or a collection, has another name; everything known of it is kept."""

    entity: str
    old: str
    new: str


class RenameEntity(Struct):
    """An entity has another name; its rows, links and freshness are kept."""

    old: str
    new: str


class ChangeType(Struct):
    """A field holds something else: ``using`` makes the new value of the old one.

    It is not called for empty values.  What it raises for, or what does not fit the type that
    is declared now, is not loaded any more, and the next sync fetches it; without ``using``
    that is so for every row.
    """

    entity: str
    field: str
    using: Callable[[Any], Any] | None = None


class ChangeKey(Struct):
    """What stood in a field is the id from now on: refs, links and lists follow.

    Rows without it are dropped, to be listed anew; two rows with one id refuse the migration.
    """

    entity: str
    field: str


class DropField(Struct):
    """A field, or a collection, is gone with what was stored of it."""

    entity: str
    field: str


class DropEntity(Struct):
    """An entity is gone with its rows."""

    entity: str


MigrationStep = RenameField | RenameEntity | ChangeType | ChangeKey | DropField | DropEntity


class Migration(Struct):
    """One step of a schema's history: ``Migration("why", RenameField("Issue", "name", "title"))``."""

    purpose: str
    changes: tuple[MigrationStep, ...]

    def __init__(self, purpose: str, *changes: MigrationStep) -> None:
        super().__init__(purpose, changes)

    @property
    def digest(self) -> str:
        """What tells an edited migration; the purpose, and how ``using`` is written, may be corrected."""
        import hashlib  # slow, and those who only read do without

        words = [[type(one).__name__, *map(_word, one._values())] for one in self.changes]
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]


def _word(value: object) -> object:
    return True if callable(value) else value


class SchemaPolicy(Struct):
    """What a connector declares of its schema's past and future, for whoever holds its data.

    ``check_idle`` is called inside the transaction before anything is changed, and raises when
    another process is at work on what it knows by its old names.
    """

    name: str = ""
    migrations: tuple[Migration, ...] = ()
    contracts: Mapping[str, SchemaContract] = MappingProxyType({})
    check_idle: Callable[[Any], None] | None = None

    @property
    def owner(self) -> str:
        """Under which name the migrations are recorded."""
        return f"connector:{self.name}"

    def contract(self, entity: str) -> SchemaContract:
        """The contract of an entity, by name."""
        return self.contracts.get(entity, SchemaContract.EVOLVE)


NO_POLICY = SchemaPolicy()


# -- checks --------------------------------------------------------------------------------


def check_migrations(migrations: object, schema: Schema, where: str) -> None:
    """ConnectorError unless every migration is one, and leads to what the schema has now."""
    if not isinstance(migrations, Sequence) or isinstance(migrations, str):
        raise ConnectorError(f"{where} is {migrations!r}, not a list")
    for number, migration in enumerate(migrations):
        _check_migration(migration, f"{where}[{number}]")
    changes = [(f"{where}[{n}]", change) for n, one in enumerate(migrations) for change in one.changes]
    for position, (place, change) in enumerate(changes):
        _check_end(place, change, [later for _, later in changes[position + 1 :]], schema)


def _check_migration(migration: object, place: str) -> None:
    """ConnectorError unless it is a migration that says what it is for, and changes something."""
    if not isinstance(migration, Migration):
        raise ConnectorError(f"{place} is {migration!r}, not a Migration")
    if not isinstance(migration.purpose, str) or not migration.purpose.strip():
        raise ConnectorError(f"{place} does not say what it is for", hint='write Migration("why", …)')
    if not migration.changes:
        raise ConnectorError(f"{place} changes nothing")
    for change in migration.changes:
        if not isinstance(change, MigrationStep):
            raise ConnectorError(f"{place} holds {change!r}, which is no change of a schema")


def _check_end(place: str, change: MigrationStep, later: Sequence[MigrationStep], schema: Schema) -> None:
    """ConnectorError when what a change leads to is neither declared now nor dropped later."""
    for path in _results(change):
        end = _followed(path, later)
        if end is None:
            continue
        entity, name = end
        known = schema.entities.get(entity)
        names = [*known.types(), *known.children()] if known is not None else []
        if known is None or (name and name not in names):
            shown = f"{entity}.{name}" if name else entity
            near = nearest(name, names) if known is not None else nearest(entity, schema.entities)
            raise ConnectorError(
                f"{place}: {type(change).__name__} leads to {shown}, which the schema does not have",
                hint=f"did you mean {near[0]}?" if near else f"drop it in a migration: {_drop(end)}",
            )


def _drop(path: tuple[str, str]) -> str:
    return f'DropField("{path[0]}", "{path[1]}")' if path[1] else f'DropEntity("{path[0]}")'


def _results(change: MigrationStep) -> Iterator[tuple[str, str]]:
    """The entity and the field (or "") that must exist after a change."""
    if isinstance(change, RenameField):
        yield change.entity, change.new
    elif isinstance(change, RenameEntity):
        yield change.new, ""
    elif isinstance(change, ChangeType | ChangeKey):
        yield change.entity, change.field


def _followed(path: tuple[str, str], later: Sequence[MigrationStep]) -> tuple[str, str] | None:
    """Where a path has come to after other changes; None when it is dropped."""
    entity, name = path
    for change in later:
        if isinstance(change, RenameEntity) and change.old == entity:
            entity = change.new
        elif isinstance(change, RenameField) and (change.entity, change.old) == (entity, name):
            name = change.new
        elif change in (DropEntity(entity), DropField(entity, name)):
            return None
    return entity, name


def check_contracts(contracts: object, schema: Schema, where: str) -> None:
    """ConnectorError unless every key is an entity of the schema, and every value a contract."""
    if not isinstance(contracts, Mapping):
        raise ConnectorError(f"{where} is {contracts!r}, not a mapping of entities to contracts")
    for entity, contract in contracts.items():
        if entity not in schema.entities.values():
            raise ConnectorError(f"{where} names {entity!r}, which is no entity of the schema")
        if not isinstance(contract, SchemaContract):
            raise ConnectorError(f"{where} gives {entity.__name__} {contract!r}, which is no Contract")
