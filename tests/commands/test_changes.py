"""``max settings`` and ``max changes``."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from max_connectors.acme import AcmeUser

from max.core import InstallationInfo
from max.engine import SqliteEngine
from max.installations.project_folder import ProjectFolder
from max.model.delivery import Delivery
from max.model.entities import Entity, Ref
from max.model.loaders import UnknownLoaders
from max.model.settings import SETTINGS, settings_json
from max.storage.sqlite import SqliteDatabase
from tests.command_line import Cli, Run, record_sync

NOON = 1_800_000_000.0


@pytest.fixture
def info(cli: Cli, tmp_path: Path) -> InstallationInfo:
    return ProjectFolder.init(tmp_path).add("acme", None, {}, {}, now=NOON)


def store(*entities: Entity, at: float = NOON, removed: tuple[Ref[Any], ...] = ()) -> None:
    """Store a delivery, with the installation's settings."""

    async def main() -> None:
        project = ProjectFolder.find(".")
        info = project.target("acme")
        schema = project.registry.resolve("acme").schema
        database = SqliteDatabase(project.database(info))
        await database.start()
        engine = SqliteEngine(database, UnknownLoaders(schema), settings=info.settings)
        await engine.start()
        await database.transact(engine.prepare_write(Delivery(entities, at, removed=removed, sync="s1")))
        await database.stop()

    asyncio.run(main())


@pytest.fixture
def recorded(cli: Cli, info: InstallationInfo) -> Cli:
    """Runs a command where three changes were recorded."""
    store(AcmeUser("u1", name="Ada", active=True))
    store(AcmeUser("u1", name="Ada Byron", email="a@x"), at=NOON + 61)
    store(at=NOON + 62, removed=(AcmeUser.ref("u1"),))
    record_sync(ProjectFolder.find(".").database(info))
    return cli


def lines(run: Run) -> list[Any]:
    return [json.loads(line) for line in run.out.splitlines()]


# -- settings --------------------------------------------------------------------------------


def test_settings_are_shown_with_what_they_mean(cli: Cli, info: InstallationInfo) -> None:
    run = cli("settings", "acme:default")
    assert run.out.splitlines()[1].split()[:2] == ["history", "changes"]
    assert all(one.about in run.out for one in SETTINGS.values())
    assert run.err == ""


def test_changed_settings_are_stored_and_shown(cli: Cli, info: InstallationInfo) -> None:
    run = cli("settings", "acme", "history=off", "history_days=90", "removal_share=0.5", "--json")
    shown = settings_json(info.settings) | {"history": "off", "history_days": 90, "removal_share": 0.5}
    assert run.data == {"installation": "acme:default", "settings": shown}
    assert cli("settings", "acme", "--json").data == run.data
    assert cli("settings", "acme", "removed_days=7").err.startswith("the next sync uses them")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("histori=off", "did you mean: history"),
        ("history=change", "did you mean: changes"),
        ("history_days=soon", "expected a number of days up to 36,500"),
        ("removal_share=2", "expected a number from 0 to 1"),
        ("history", "write SETTING=VALUE"),
    ],
)
def test_an_invalid_setting_is_a_usage_error(cli: Cli, info: InstallationInfo, word: str, said: str) -> None:
    run = cli("settings", "acme", word)
    assert (run.status, run.out) == (2, "")
    assert said in run.err
    assert ProjectFolder.find(".").target("acme") == info


# -- changes ----------------------------------------------------------------------------------


def test_ndjson_has_a_line_for_each_change_and_the_cursor_on_stderr(recorded: Cli) -> None:
    run = recorded("changes", "acme", "-o", "ndjson")
    changes, meta = lines(run), json.loads(run.err)["meta"]
    assert [(one["kind"], one["old"], one["new"]) for one in changes] == [
        ("created", {}, {"name": "Ada", "active": True}),
        ("updated", {"name": "Ada"}, {"name": "Ada Byron", "email": "a@x"}),
        ("removed", {"name": "Ada Byron", "email": "a@x", "active": True}, {}),
    ]
    first = {"entity": "AcmeUser", "id": "u1", "sync": "s1", "at": "2027-01-15T08:00:00Z"}
    assert first.items() <= changes[0].items()
    assert (meta["shown"], meta["hasMore"], meta["cursor"]) == (3, False, changes[-1]["cursor"])


def test_a_cursor_continues_after_its_change(recorded: Cli) -> None:
    page = recorded("changes", "acme", "--limit", "1", "-o", "ndjson")
    (first,), meta = lines(page), json.loads(page.err)["meta"]
    assert (meta["hasMore"], meta["cursor"]) == (True, first["cursor"])
    assert meta["next"] == f"max changes acme --limit 1 -o ndjson --since {first['cursor']}"
    run = recorded("changes", "acme", "--since", first["cursor"], "-o", "json")
    assert [one["kind"] for one in run.data["data"]] == ["updated", "removed"]
    assert run.data["hasMore"] is False
    rest = recorded("changes", "acme", "--since", run.data["cursor"], "-o", "json")
    assert (rest.data["data"], rest.data["hasMore"]) == ([], False)
    assert rest.data["cursor"] == run.data["cursor"]


def test_since_now_gives_the_newest_cursor(recorded: Cli) -> None:
    cursor = recorded("changes", "acme", "--since", "now", "--json").data["cursor"]
    assert recorded("changes", "acme", "--since", cursor).err == (
        f"nothing changed; continue later with: --since {cursor}\n"
    )


def test_text_has_a_line_for_each_change_and_each_updated_field(recorded: Cli) -> None:
    run = recorded("changes", "acme")
    assert run.out.splitlines() == [
        "2027-01-15 08:00  created   AcmeUser:u1",
        "2027-01-15 08:01  updated   AcmeUser:u1",
        "  name: Ada → Ada Byron",
        "  email: (not loaded) → a@x",
        "2027-01-15 08:01  removed   AcmeUser:u1",
    ]
    assert run.err.startswith("continue later with: --since ")


def test_changes_of_one_entity(recorded: Cli) -> None:
    assert len(lines(recorded("changes", "acme", "--entity", "acme_user", "-o", "ndjson"))) == 3
    assert len(lines(recorded("changes", "acme", "--entity", "AcmeTask", "-o", "ndjson"))) == 0
    run = recorded("changes", "acme", "--entity", "AcmeUse")
    assert (run.status, "did you mean: AcmeUser" in run.err) == (2, True)


def test_without_recorded_changes_the_hint_says_how_to_record_them(cli: Cli, info: InstallationInfo) -> None:
    cli("settings", "acme", "history=off")
    store(AcmeUser("u1", name="Ada"))
    run = cli("changes", "acme", "-o", "json")
    assert (run.status, run.error["code"]) == (1, "history")
    assert run.error["hint"] == "turn it on with: max settings acme:default history=changes"
    cli("settings", "acme", "history=changes")
    assert cli("changes", "acme", "--json").error["hint"] == "recording starts with: max sync acme:default"


def test_a_cursor_of_another_installation_is_a_usage_error(recorded: Cli) -> None:
    run = recorded("changes", "acme:default", "--since", "WyJhYmMiLDFd")
    assert run.status == 2
    assert "belongs to another installation" in run.err
