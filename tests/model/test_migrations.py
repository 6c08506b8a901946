from __future__ import annotations

from typing import Any

import pytest

from max.connector import Connector
from max.errors import ConnectorError
from max.model.migrations import (
    ChangeKey,
    ChangeType,
    DropEntity,
    DropField,
    Migration,
    MigrationStep,
    RenameEntity,
    RenameField,
    SchemaContract,
)
from tests.sample import SampleRoot, Thing, sample


def declared(*changes: MigrationStep) -> Connector[Any, Any]:
    """A connector with a migration for each change."""
    return sample(migrations=[Migration("why", change) for change in changes])


# -- migrations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        [RenameField("Thing", "name", "title")],
        [RenameField("SampleRoot", "items", "things")],
        [RenameEntity("Item", "Thing"), ChangeType("Thing", "title")],
        [
            RenameField("Item", "name", "caption"),
            RenameEntity("Item", "Thing"),
            DropField("Thing", "caption"),
        ],
        [RenameField("Thing", "name", "head"), RenameField("Thing", "head", "title")],
        [ChangeKey("Thing", "uuid"), DropField("Thing", "uuid")],
        [RenameEntity("Old", "Older"), DropEntity("Older")],
    ],
)
def test_migrations_that_lead_to_the_schema_are_accepted(changes: list[MigrationStep]) -> None:
    assert len(declared(*changes).policy.migrations) == len(changes)


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (RenameField("Thing", "name", "titel"), "leads to Thing.titel", "did you mean title?"),
        (RenameEntity("Item", "Thng"), "leads to Thng", "did you mean Thing?"),
        (ChangeType("Thing", "wxyz"), "leads to Thing.wxyz", 'DropField("Thing", "wxyz")'),
        (ChangeKey("Older", "id"), "leads to Older.id", 'DropField("Older", "id")'),
    ],
)
def test_a_migration_that_leads_nowhere_is_refused_when_the_connector_loads(
    change: MigrationStep, message: str, hint: str
) -> None:
    with pytest.raises(ConnectorError, match=r"sample: migrations\[0\]") as caught:
        declared(change)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("migrations", "message"),
    [
        ("later", "migrations is 'later', not a list"),
        ([RenameField("Thing", "name", "title")], r"migrations\[0\] is RenameField.*, not a Migration"),
        ([Migration("why")], r"migrations\[0\] has no steps"),
        ([Migration(" ", DropEntity("Old"))], r"migrations\[0\] has no purpose"),
        ([Migration("why", DropEntity("Old"), "more")], r"holds 'more', which is not a migration step"),  # type: ignore[arg-type] # wrong on purpose
    ],
)
def test_an_invalid_migration_is_refused_by_name(migrations: Any, message: str) -> None:
    with pytest.raises(ConnectorError, match=message):
        sample(migrations=migrations)


def test_the_purpose_of_a_migration_may_be_edited_but_not_its_steps() -> None:
    one = Migration("wy", RenameField("Thing", "name", "title"), ChangeType("Thing", "title", using=str))
    two = Migration("why", RenameField("Thing", "name", "title"), ChangeType("Thing", "title", using=repr))
    other = Migration("why", RenameField("Thing", "name", "title"), ChangeType("Thing", "title"))
    assert one.digest == two.digest
    assert one.digest != other.digest


# -- contracts ---------------------------------------------------------------------------------


def test_an_entity_evolves_unless_its_contract_says_otherwise() -> None:
    policy = sample(contracts={Thing: SchemaContract.QUARANTINE}).policy
    assert policy.contract("Thing") is SchemaContract.QUARANTINE
    assert policy.contract(SampleRoot.__name__) is SchemaContract.QUARANTINE


@pytest.mark.parametrize(
    ("contracts", "message"),
    [
        ([Thing], "contracts is .*, not a mapping"),
        ({"Thing": SchemaContract.FREEZE}, "contracts names 'Thing', which is not an entity of the schema"),
        ({Thing: "frozen"}, "contracts gives Thing 'frozen', which is not a SchemaContract"),
    ],
)
def test_an_invalid_contract_is_refused_by_name(contracts: Any, message: str) -> None:
    with pytest.raises(ConnectorError, match=message):
        sample(contracts=contracts)
