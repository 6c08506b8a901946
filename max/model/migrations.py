"""What happens to stored data when a connector's schema changes: migrations and contracts.

``migrations`` is the schema's history: the nth migration makes schema version n, and is never
edited after its release.  A new field or a wider type needs no migration.  Migrations name
entities and fields as text, because they may no longer exist in the code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from ..errors import ConnectorError, nearest
from .schema import Schema
from .struct import Struct


class SchemaContract(StrEnum):
    """What an upgrade or an invalid value may do to one entity.

    QUARANTINE, the default: an upgrade may change its schema; an invalid row is kept aside, and the
    rest of its page is stored.
    FREEZE: an upgrade that would change its schema is refused; values as with QUARANTINE.
    STRICT: upgrades as with QUARANTINE, but an invalid value fails its whole page.
    """

    QUARANTINE = "quarantine"
    FREEZE = "freeze"
    STRICT = "strict"


class RenameField(Struct):
    """A field or a collection has a new name; everything known of it is kept."""

    entity: str
    old: str
    new: str


class RenameEntity(Struct):
    """An entity has a new name; its rows, links and ages are kept."""

    old: str
    new: str


class ChangeType(Struct):
    """A field has a new type: ``using`` makes the new value from the old one.

    ``using`` is not called for empty values.  Where it raises, or its result is invalid, the value
    counts as not loaded and the next sync fetches it.  Without ``using`` that happens to every row.
    """

    entity: str
    field: str
    using: Callable[[Any], Any] | None = None


class ChangeKey(Struct):
    """The value of a field becomes the id; refs, links and listings follow.

    Rows without a value are dropped, and the next listing brings them again.  Two rows with the
    same value refuse the migration.
    """

    entity: str
    field: str


class DropField(Struct):
    """A field or a collection is gone, with what was stored of it."""

    entity: str
    field: str


class DropEntity(Struct):
    """An entity is gone, with its rows."""

    entity: str


MigrationStep = RenameField | RenameEntity | ChangeType | ChangeKey | DropField | DropEntity


class Migration(Struct):
    """One version of a schema's history: ``Migration("why", RenameField("Issue", "name", "title"))``."""

    purpose: str
    steps: tuple[MigrationStep, ...]

    def __init__(self, purpose: str, *steps: MigrationStep) -> None:
        super().__init__(purpose, steps)

    @property
    def digest(self) -> str:
        """Changes when the steps are edited; the purpose and the code of ``using`` may be corrected."""
        import hashlib  # slow to import, and reading commands do without

        steps = [
            [type(one).__name__, *(True if callable(v) else v for v in one._values())] for one in self.steps
        ]
        return hashlib.sha256(json.dumps(steps).encode()).hexdigest()[:16]


class SchemaPolicy(Struct):
    """What a connector declares about changes of its schema.

    ``check_idle`` is called inside the transaction before anything is changed; it raises when
    another process is working with the old names.
    """

    name: str = ""
    migrations: tuple[Migration, ...] = ()
    contracts: Mapping[str, SchemaContract] = MappingProxyType({})
    check_idle: Callable[[Any], None] | None = None

    @property
    def owner(self) -> str:
        """The name under which the migrations are recorded."""
        return f"connector:{self.name}"

    def contract(self, entity: str) -> SchemaContract:
        """The contract of an entity, by name."""
        return self.contracts.get(entity, SchemaContract.QUARANTINE)

    def is_strict(self, entity: str) -> bool:
        """Whether an invalid value of the entity fails its page."""
        return self.contract(entity) is SchemaContract.STRICT


NO_POLICY = SchemaPolicy()


def check_migrations(migrations: object, schema: Schema, where: str) -> None:
    """ConnectorError unless every migration is valid and leads to a name of today's schema."""
    if not isinstance(migrations, Sequence) or isinstance(migrations, str):
        raise ConnectorError(f"{where} is {migrations!r}, not a list")
    for number, migration in enumerate(migrations):
        _check_migration(migration, f"{where}[{number}]")
    steps = [(f"{where}[{n}]", step) for n, one in enumerate(migrations) for step in one.steps]
    for position, (place, step) in enumerate(steps):
        _check_result(place, step, [later for _, later in steps[position + 1 :]], schema)


def _check_migration(migration: object, place: str) -> None:
    if not isinstance(migration, Migration):
        raise ConnectorError(f"{place} is {migration!r}, not a Migration")
    if not isinstance(migration.purpose, str) or not migration.purpose.strip():
        raise ConnectorError(f"{place} has no purpose", hint='write Migration("why", …)')
    if not migration.steps:
        raise ConnectorError(f"{place} has no steps")
    for step in migration.steps:
        if not isinstance(step, MigrationStep):
            raise ConnectorError(f"{place} holds {step!r}, which is not a migration step")


def _check_result(place: str, step: MigrationStep, later: Sequence[MigrationStep], schema: Schema) -> None:
    """ConnectorError when a step's result is neither declared today nor dropped later."""
    result = _result(step)
    end = _followed(result, later) if result else None
    if end is None:
        return
    entity, name = end
    known = schema.entities.get(entity)
    names = [*known.types(), *known.children()] if known is not None else []
    if known is None or (name and name not in names):
        near = nearest(name, names) if known is not None else nearest(entity, schema.entities)
        drop = f'DropField("{entity}", "{name}")' if name else f'DropEntity("{entity}")'
        raise ConnectorError(
            f"{place}: {type(step).__name__} leads to {'.'.join(filter(None, end))},"
            " which the schema does not have",
            hint=f"did you mean {near[0]}?" if near else f"drop it in a migration: {drop}",
        )


def _result(step: MigrationStep) -> tuple[str, str] | None:
    """The entity and the field (or "") that must exist after a step; None for a dropped one."""
    if isinstance(step, RenameField):
        return step.entity, step.new
    if isinstance(step, RenameEntity):
        return step.new, ""
    return (step.entity, step.field) if isinstance(step, ChangeType | ChangeKey) else None


def _followed(path: tuple[str, str], later: Sequence[MigrationStep]) -> tuple[str, str] | None:
    """The path after later steps; None when one of them drops it."""
    for step in later:
        entity, name = path
        if isinstance(step, RenameEntity) and step.old == entity:
            path = step.new, name
        elif isinstance(step, RenameField) and (step.entity, step.old) == path:
            path = entity, step.new
        elif _drops(step, path):
            return None
    return path


def _drops(step: MigrationStep, path: tuple[str, str]) -> bool:
    if isinstance(step, DropEntity):
        return step.entity == path[0]
    return isinstance(step, DropField) and (step.entity, step.field) == path


def check_contracts(contracts: object, schema: Schema, where: str) -> None:
    """ConnectorError unless every key is an entity of the schema and every value a contract."""
    if not isinstance(contracts, Mapping):
        raise ConnectorError(f"{where} is {contracts!r}, not a mapping of entities to contracts")
    for entity, contract in contracts.items():
        if entity not in schema.entities.values():
            raise ConnectorError(f"{where} names {entity!r}, which is not an entity of the schema")
        if not isinstance(contract, SchemaContract):
            raise ConnectorError(
                f"{where} gives {entity.__name__} {contract!r}, which is not a SchemaContract"
            )
