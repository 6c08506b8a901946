"""schema diff, migrate and quarantine on the command line."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from max.storage.leases import new_worker
from tests.command_line import Cli, data_of, project_at, sql
from tests.contract.places import dump

CONNECTOR = '''
from __future__ import annotations
from typing import Any

from max.connecting import *
from tests.sample import SampleConfig, initialise

Big: Any = "not a number"

class Thing(Entity):
    """One of a few."""
    {fields}

class Shelf(Entity):
    """Lists things."""
    things: Many[Thing] = Many()

@Loader.collection(Shelf.things, brings=[{brings}])
async def list_things(parent: Ref[Shelf], request: PageRequest, env: Env[Any]) -> Page[Thing]:
    return Page({items})

async def seed(context: Any, store: Store) -> SyncPlan:
    await store.store(Shelf("a"))
    return SyncPlan([Step.for_root(Shelf.ref("a")).load_collection(Shelf.things)])

connector = Connector(name="shelves", description="Things.", schema=Schema([Shelf, Thing], roots=[Shelf]),
    loaders=[list_things], seeder=seed, initialise=initialise, config=SampleConfig, {more})
'''
ONE = {
    "fields": "name: Field[str] = Field(); size: Field[int] = Field()",
    "brings": "Thing.name, Thing.size",
    "items": "[Thing('1', name='x', size=1), Thing('2', name='y', size=2)]",
    "more": "",
}
TWO = {  # a field more
    "fields": f"{ONE['fields']}; note: Field[str] = Field()",
    "brings": "Thing.name, Thing.size, Thing.note",
    "items": "[Thing('1', name='x', size=1, note='n')]",
    "more": "",
}
THREE = {  # another name
    "fields": "title: Field[str] = Field(); size: Field[int] = Field()",
    "brings": "Thing.title, Thing.size",
    "items": "[Thing('1', title='x', size=1)]",
    "more": "migrations=[Migration('the usual word', RenameField('Thing', 'name', 'title'))]",
}
FOUR = {**ONE, "fields": "name: Field[str] = Field(); size: Field[str] = Field()"}  # an undeclared change
ODD = {
    **ONE,
    "items": "[Thing('1', name='x', size=1), Thing('2', name='y', size=Big)]",
    "more": "",
}


@pytest.fixture
def cli(cli: Cli) -> Cli:
    """Runs a command in a project of its own."""
    project_at()
    return cli


def install(version: dict[str, str]) -> None:
    """Put a version of the connector where the project finds it."""
    Path("connectors").mkdir(exist_ok=True)
    Path("connectors/max_shelves.py").write_text(CONNECTOR.format(**version))
    for name in [name for name in sys.modules if "max_shelves" in name]:
        del sys.modules[name]


def state() -> list[str]:
    """All that is stored."""
    with data_of("shelves").reader() as connection:
        return dump(connection)


@pytest.fixture
def synced(cli: Cli) -> Cli:
    """The first version, synced."""
    install(ONE)
    assert cli("sync", "shelves:default").status == 0
    return cli


# -- schema diff -------------------------------------------------------------------------------


def test_nothing_differs_after_a_sync_and_before_the_first(cli: Cli) -> None:
    install(ONE)
    cli("connect", "shelves")
    assert "nothing is stored yet" in cli("schema", "diff").out
    cli("sync")
    run = cli("schema", "diff", "shelves", "-o", "json")
    assert (run.status, run.data["changes"], run.data["compatible"]) == (0, [], True)


def test_a_compatible_change_is_shown_with_what_it_fetches(synced: Cli) -> None:
    install(TWO)
    run = synced("schema", "diff", "shelves", "--json")
    (change,) = run.data["changes"]
    assert run.status == 0
    assert (change["entity"], change["name"], change["kind"]) == ("Thing", "note", "new field")
    assert change["fetch"] == "Shelf.things is listed in full"


def test_a_change_that_breaks_old_queries_exits_1(synced: Cli) -> None:
    install(THREE)
    run = synced("schema", "diff")
    assert run.status == 1
    assert "Thing.name  becomes title  migration 1  break" in " ".join(run.out.split("\n")).replace(
        "   ", "  "
    )


def test_an_undeclared_change_names_the_declaration_that_it_needs(synced: Cli) -> None:
    install(FOUR)
    run = synced("schema", "diff")
    assert run.status == 1
    assert "is stored as integer, now declared text" in run.out
    assert 'ChangeType("Thing", "size", using=…)' in run.err


# -- migrate -----------------------------------------------------------------------------------


def test_a_plan_changes_nothing_and_the_migration_does(synced: Cli) -> None:
    install(THREE)
    before = state()
    planned = synced("migrate", "shelves", "--plan", "-o", "json")
    assert (planned.status, planned.data["done"]) == (0, False)
    assert state() == before
    done = synced("migrate", "shelves", "-o", "json")
    assert done.data == {**planned.data, "done": True}
    assert synced("schema", "diff").out == "shelves:default: up to date\n"
    assert synced("get", "shelves", "Thing:1", "--json").data["data"]["title"] == "x"


def test_a_sync_migrates_at_its_start(synced: Cli) -> None:
    install(THREE)
    assert synced("sync").status == 0
    assert (
        synced("search", "shelves", "Thing", "--filter", "title = x", "--json").data["data"][0]["id"] == "1"
    )


@pytest.mark.parametrize("command", [["migrate", "shelves"], ["sync"]])
def test_an_undeclared_change_changes_nothing(synced: Cli, command: list[str]) -> None:
    install(FOUR)
    before = state()
    run = synced(*command, "-o", "json")
    assert run.status == 1
    error = json.loads(run.err.splitlines()[-1])["error"]
    assert error["message"] == "Thing.size is stored as integer, now declared text"
    assert error["data"]["changes"][0]["name"] == "size"
    assert state() == before
    assert synced("migrate", "shelves", "--plan").status == 1


def test_migrate_is_refused_while_a_process_is_syncing(synced: Cli) -> None:
    worker = new_worker()
    sql("UPDATE _max_sync SET state = 'running', worker = ?", worker, of="shelves")
    sql("INSERT INTO _max_worker VALUES (?, ?)", worker, time.time(), of="shelves")
    install(THREE)
    run = synced("migrate", "shelves")
    assert run.status == 1
    assert "is already running" in run.err
    assert synced("schema", "diff").status == 1, "it is still to be done"


def test_reading_works_between_an_upgrade_and_the_next_sync(synced: Cli) -> None:
    install(FOUR)
    found = synced("search", "shelves", "Thing", "--order-by", "size", "--json").data["data"]
    assert [one["name"] for one in found] == ["x", "y"]
    fields = synced("schema", "shelves", "Thing", "--json").data["entities"][0]["fields"]
    assert [field["kind"] for field in fields if field["name"] == "size"] == ["integer"]
    assert synced("count", "shelves", "Thing").out == "2\n"


# -- quarantine --------------------------------------------------------------------------------


def test_a_sync_counts_quarantined_rows_and_names_the_command_that_shows_them(cli: Cli) -> None:
    install(ODD)
    run = cli("sync", "shelves:default")
    assert run.status == 3
    assert "1 invalid row was quarantined: max quarantine shelves:default" in run.out
    shown = cli("quarantine", "shelves")
    assert shown.out.splitlines()[1].split()[:2] == ["Thing:2", "size"]
    assert " 'not a number' " in shown.out
    (one,) = cli("quarantine", "shelves", "Thing", "-o", "json").data["data"]
    assert one["row"] == {"id": "2", "name": "y", "size": "not a number"}
    assert one["sync"] == cli("runs", "-o", "json").data["data"][0]["id"]
    assert cli("runs", "-o", "json").data["data"][0]["quarantined"] == 1


def test_a_row_that_becomes_valid_leaves_the_quarantine(cli: Cli) -> None:
    install(ODD)
    cli("sync", "shelves:default")
    install({**ODD, "items": ONE["items"]})
    cli("sync")
    assert cli("quarantine", "shelves").err == "nothing is quarantined\n"
    assert cli("count", "shelves", "Thing").out == "2\n"
