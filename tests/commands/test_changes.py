"""``max settings`` and ``max changes``."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from max_connectors.acme import AcmeUser

from max.commands.changes import change_lines
from max.commands.text import Paint, display_width
from max.core import InstallationInfo
from max.engine import DatabaseEngine
from max.model.changes import Change
from max.model.delivery import Delivery
from max.model.entities import Entity, Ref
from max.model.loaders import UnknownLoaders
from max.model.settings import SETTINGS, settings_json
from tests.command_line import Cli, Run, project_at

NOON = 1_800_000_000.0


@pytest.fixture
def info(cli: Cli, tmp_path: Path) -> InstallationInfo:
    return project_at(tmp_path).add("acme", None, {}, {}, now=NOON)


def store(*entities: Entity, at: float = NOON, removed: tuple[Ref[Any], ...] = ()) -> None:
    """Store a delivery, with the installation's settings."""

    async def main() -> None:
        project = project_at()
        info = project.target("acme")
        schema = project.registry.resolve("acme").schema
        database = project.database(info)
        await database.start()
        engine = DatabaseEngine(database, UnknownLoaders(schema), settings=info.settings)
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
    assert project_at().target("acme") == info


# -- changes ----------------------------------------------------------------------------------


def test_programs_get_the_oldest_change_first_and_the_cursor_that_continues_on_stderr(recorded: Cli) -> None:
    run = recorded("changes", "acme", "-o", "ndjson")
    changes = lines(run)
    assert [(one["kind"], one["old"], one["new"]) for one in changes] == [
        ("created", {}, {"name": "Ada", "active": True}),
        ("updated", {"name": "Ada"}, {"name": "Ada Byron", "email": "a@x"}),
        ("removed", {"name": "Ada Byron", "email": "a@x", "active": True}, {}),
    ]
    first = {"entity": "AcmeUser", "id": "u1", "sync": "s1", "at": "2027-01-15T08:00:00Z"}
    assert first.items() <= changes[0].items()
    meta = json.loads(run.err.splitlines()[0])["meta"]
    assert {"total": 3, "shown": 3, "hasMore": False, "cursor": changes[-1]["cursor"]}.items() <= meta.items()
    assert meta["next"] == f"max changes acme -o ndjson --since {changes[-1]['cursor']}"


def test_a_cursor_continues_after_its_change(recorded: Cli) -> None:
    first = recorded("changes", "acme", "--limit", "1", "-o", "json").data
    assert (first["total"], first["hasMore"], first["cursor"]) == (3, True, first["data"][0]["cursor"])
    run = recorded("changes", "acme", "--since", first["cursor"], "-o", "json")
    assert [one["kind"] for one in run.data["data"]] == ["updated", "removed"]
    assert run.data["hasMore"] is False
    rest = recorded("changes", "acme", "--since", run.data["cursor"], "-o", "json").data
    assert (rest["data"], rest["total"], rest["cursor"]) == ([], 0, run.data["cursor"])


def test_since_now_gives_the_newest_cursor_alone(recorded: Cli) -> None:
    found = recorded("changes", "acme", "--since", "now", "--json").data
    assert (found["data"], found["total"]) == ([], 0)
    run = recorded("changes", "acme", "--since", found["cursor"])
    assert (run.out, run.err.splitlines()[0]) == ("", "nothing changed")
    said = recorded("changes", "acme", "--since", "now").err.splitlines()
    assert f"continue later with: --since {found['cursor']}" in said


def test_people_get_the_newest_change_first_with_titles_and_each_updated_field(recorded: Cli) -> None:
    run = recorded("changes", "acme")
    assert run.out.splitlines() == [
        "2027-01-15 08:01  removed   AcmeUser:u1  Ada Byron",
        "2027-01-15 08:01  updated   AcmeUser:u1  Ada Byron",
        "                  name: Ada → Ada Byron",
        "                  email: (not loaded) → a@x",
        "2027-01-15 08:00  created   AcmeUser:u1  Ada Byron",
    ]


def test_a_change_fits_the_terminal() -> None:
    change = Change("removed", AcmeUser, "w1-u1", NOON, "sync", {"name": "Ada"}, {}, "cursor")
    for title in ("Ada Lovelace of the analytical engine " * 3, "説明" * 40):
        (line,) = change_lines(change, title, 60, Paint(on=False))
        assert display_width(line) <= 60
        assert line.endswith("…")


def test_people_see_the_newest_fifty_and_how_many_there_are(recorded: Cli) -> None:
    store(*(AcmeUser(f"x{number:02}", name="Bo") for number in range(60)), at=NOON + 63)
    run = recorded("changes", "acme")
    assert run.out.splitlines()[0].endswith("AcmeUser:x59  Bo")
    assert len(run.out.splitlines()) == 50
    assert run.err.startswith("50 of 63 shown; next: max changes acme --limit 200\n")
    assert len(recorded("changes", "acme", "--limit", "3").out.splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        (["--since", "2027-01-15T08:00:30"], ["updated", "removed"]),
        (["--since", "2027-01-15T08:01:02"], ["removed"]),
        (["--since", "2027-01-16"], []),
        (["--until", "2027-01-15T08:00"], ["created"]),
        (["--until", "2027-01-15"], ["created", "updated", "removed"]),
        (["--since", "2027-01-15T08:01:01", "--until", "2027-01-15T08:01:01"], ["updated"]),
        (["--since", "2027", "--until", "2026"], []),
    ],
)
def test_a_time_chooses_changes_from_its_first_to_its_last_moment(
    recorded: Cli, words: list[str], kinds: list[str]
) -> None:
    found = recorded("changes", "acme", *words, "-o", "json").data
    assert ([one["kind"] for one in found["data"]], found["total"]) == (kinds, len(kinds))


def test_a_time_before_the_log_begins_is_answered_with_a_warning(recorded: Cli) -> None:
    run = recorded("changes", "acme", "--since", "2020")
    assert len(run.out.splitlines()) == 5
    assert "recording began 20" in run.err
    assert ": what changed before is not known" in run.err
    notes = recorded("changes", "acme", "--since", "2020", "--json").data["notes"]
    assert "what changed before is not known" in notes[0]


def test_from_the_beginning_come_the_rows_that_were_there_before(recorded: Cli) -> None:
    recorded("settings", "acme", "history=off")
    store(AcmeUser("u2", name="Grace"))
    recorded("settings", "acme", "history=changes")
    store(AcmeUser("u2", name="Grace Hopper"))
    found = recorded("changes", "acme", "--since", "beginning", "-o", "json").data["data"]
    assert [(one["kind"], one["new"]) for one in found] == [
        ("created", {"name": "Grace"}),
        ("updated", {"name": "Grace Hopper"}),
    ]
    assert len(recorded("changes", "acme", "--json").data["data"]) == 1


def test_people_get_the_rows_from_before_as_well(recorded: Cli) -> None:
    project = project_at()
    with project.database(project.target("acme")).writer() as connection:
        connection.execute("UPDATE _max_change_log SET floor = 2")
    run = recorded("changes", "acme", "--since", "beginning")
    shown = [line.split()[2:4] for line in run.out.splitlines() if line.startswith("20")]
    programs = [
        one["kind"] for one in recorded("changes", "acme", "--since", "beginning", "--json").data["data"]
    ]
    assert programs[0] == "created"
    assert shown == [[kind, "AcmeUser:u1"] for kind in programs]


def test_changes_of_some_entities(recorded: Cli) -> None:
    assert len(lines(recorded("changes", "acme", "--entity", "acme_user", "-o", "ndjson"))) == 3
    assert len(lines(recorded("changes", "acme", "--entity", "AcmeTask", "-o", "ndjson"))) == 0
    both = ["--entity", "AcmeTask", "--entity", "AcmeUser"]
    assert len(lines(recorded("changes", "acme", *both, "-o", "ndjson"))) == 3
    run = recorded("changes", "acme", "--entity", "AcmeUse")
    assert (run.status, "did you mean: AcmeUser" in run.err) == (2, True)


def test_chosen_fields_leave_out_updates_of_others_and_pages_stay_exact(recorded: Cli) -> None:
    store(*(AcmeUser(f"x{number}", name="Bo", active=True) for number in range(4)), at=NOON + 63)
    store(*(AcmeUser(f"x{number}", active=number % 2 == 0) for number in range(4)), at=NOON + 64)
    words = ["changes", "acme", "--fields", "ACTIVE", "-o", "json"]
    found = recorded(*words, "--since", "2027-01-15T08:01:04").data
    assert [(one["id"], one["old"], one["new"]) for one in found["data"]] == [
        (id, {"active": True}, {"active": False}) for id in ("x1", "x3")
    ]
    first = recorded(*words, "--since", "2027-01-15T08:01:04", "--limit", "1").data
    assert (first["hasMore"], first["total"]) == (True, None)
    (second,) = recorded(*words, "--since", first["cursor"]).data["data"]
    assert second["id"] == "x3"
    run = recorded("changes", "acme", "--fields", "activ")
    assert (run.status, "did you mean: active" in run.err) == (2, True)


def test_a_summary_counts_rows_by_what_became_of_them(recorded: Cli) -> None:
    store(AcmeUser("u2", name="Bo"), AcmeUser("u3", name="Cy"), at=NOON + 63)
    store(AcmeUser("u2", name="Bob"), AcmeUser("u3", name="Cyd", active=True), at=NOON + 64)
    store(AcmeUser("u2", name="Rob"), at=NOON + 65)
    run = recorded("changes", "acme", "--summary")
    assert run.out == "AcmeUser  2 created\n", "u1 came and went"
    later = ["changes", "acme", "--summary", "--since", "2027-01-15T08:01:04"]
    assert recorded(*later).out == "AcmeUser  2 updated (name 2, active 1)\n"
    assert recorded(*later, "--json").data["data"] == [
        {"entity": "AcmeUser", "created": 0, "updated": 2, "removed": 0, "restored": 0}
        | {"fields": {"name": 2, "active": 1}}
    ]
    none = recorded("changes", "acme", "--summary", "--since", "2028")
    assert (none.out, none.err.splitlines()[0]) == ("", "nothing changed since 2028-01-01 00:00")


def test_without_recorded_changes_the_hint_says_how_to_record_them(cli: Cli, info: InstallationInfo) -> None:
    cli("settings", "acme", "history=off")
    store(AcmeUser("u1", name="Ada"))
    run = cli("changes", "acme", "-o", "json")
    assert (run.status, run.error["code"]) == (1, "history")
    assert run.error["hint"] == "turn it on with: max settings acme:default history=changes"
    cli("settings", "acme", "history=changes")
    assert cli("changes", "acme", "--json").error["hint"] == "recording starts with: max sync acme:default"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--since", "WyJhYmMiLDFd"], "belongs to another installation"),
        (["--since", "yestrday"], "or a time: yesterday, 1d, 2026-11-26 or 2026-11"),
        (["--until", "soon"], "'soon' is not a time"),
    ],
)
def test_what_is_neither_a_cursor_nor_a_time_is_a_usage_error(
    recorded: Cli, words: list[str], said: str
) -> None:
    run = recorded("changes", "acme", *words)
    assert run.status == 2
    assert said in run.err
