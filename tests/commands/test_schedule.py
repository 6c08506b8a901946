"""max schedule: what it takes and says, and what max status and max runs say of it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from max.model.schedules import LONGEST_NAME
from max.query import schedules
from tests.command_line import Cli, data_of, project_at
from tests.database_files import data_file

NIGHTLY = ["--name", "nightly", "--cron", "0 2 * * *", "--tz", "Europe/Berlin"]


@pytest.fixture
def acme(cli: Cli) -> Cli:
    """A project with the demo source, which was never synced."""
    assert cli("connect", "acme").status == 0
    return cli


def test_a_schedule_says_when_it_is_next_and_what_follows_it(acme: Cli) -> None:
    made = acme("schedule", "acme", "--every", "15m", "--jitter", "0")
    assert made.status == 0
    assert made.out.splitlines()[1].split("  ") == ["acme:default", "default", " every 15m", "due"]
    assert made.err == "no daemon runs, which follows schedules; start one: max daemon start\n"


def test_every_option_of_a_schedule_is_kept_and_shown(acme: Cli) -> None:
    options = ["--full", "--check-deletes", "--only", "AcmeTask,AcmeUser.email", "--jitter", "5m"]
    row = json.loads(acme("schedule", "acme", *NIGHTLY, *options, "-o", "json").out)["data"][0]
    expected = {"full": True, "only": ["AcmeTask", "AcmeUser.email"], "check_deletes": True}
    assert (row["options"], row["jitter"]) == (expected, 300)
    assert (row["cron"], row["zone"], row["every"]) == ("0 2 * * *", "Europe/Berlin", None)
    next_one = datetime.fromisoformat(row["next"]).astimezone(ZoneInfo("Europe/Berlin"))
    assert (next_one.hour, next_one.minute < 5) == (2, True)
    when = acme("schedule", "acme").out
    assert "0 2 * * * Europe/Berlin --full --only AcmeTask,AcmeUser.email --check-deletes" in when
    stale = acme("schedule", "acme", "--every", "1h", "--if-stale", "2h", "-o", "json")
    assert [one["options"] for one in stale.data["data"]] == [{"if_stale": 7200}]


def test_schedules_of_all_installations_are_listed(acme: Cli) -> None:
    assert acme("connect", "acme:second").status == 0
    acme("schedule", "acme:second", "--every", "1d")
    acme("schedule", "acme:default", "--every", "15m")
    acme("schedule", "acme:default", *NIGHTLY)
    rows = acme("schedule", "-o", "json").data["data"]
    assert [(one["installation"], one["name"]) for one in rows] == [
        ("acme:default", "default"),
        ("acme:default", "nightly"),
        ("acme:second", "default"),
    ]
    (row,) = acme("schedule", "acme:second", "-o", "json").data["data"]
    assert row["every"] == 86_400


def test_a_schedule_is_turned_off_and_on_and_removed(acme: Cli) -> None:
    acme("schedule", "acme", "--every", "15m")
    acme("schedule", "acme", *NIGHTLY)
    assert acme("schedule", "acme", "--off", "--name", "nightly").out.splitlines()[1].endswith(" off")
    assert "--full" not in acme("schedule", "acme", "--on", "--name", "nightly").out
    assert [one["on"] for one in acme("schedule", "-o", "json").data["data"]] == [True, True]
    off = acme("schedule", "acme", "--off")  # all of them
    assert (len(off.out.splitlines()), off.err) == (3, "")
    assert acme("schedule", "acme", "--remove", "--name", "nightly").out == "acme:default: removed nightly\n"
    assert acme("schedule", "acme", "--remove", "-o", "json").data == {
        "installation": "acme:default",
        "removed": ["default"],
    }
    empty = acme("schedule")
    assert (empty.out, empty.err) == ("", "no schedule; make one: max schedule INSTALLATION --every 15m\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--every", "59s"], "an interval lasts from a minute to a year, not 59 seconds"),
        (["--every", "2"], "'2' is no interval"),
        (["--every", "2mo"], "'2mo' is no interval"),
        (["--every", "999d"], "an interval lasts from a minute to a year"),
        (["--every", "5m", "--jitter", "x"], "'x' is no jitter"),
        (["--every", "5m", "--if-stale", "x"], "'x' is no age"),
        (["--every", "5m", "--tz", "UTC"], "--tz goes with --cron"),
        (["--every", "5m", "--cron", "0 7 * * *"], "cannot be combined"),
        (["--every", "5m", "--off"], "cannot be combined"),
        (["--every", "5m", "--name", "x" * (LONGEST_NAME + 1)], "a name has 1 to 40 characters"),
        (["--every", "5m", "--name", ""], "a name has 1 to 40 characters"),
        (["--every", "5m", "--only", "Nope"], "unknown entity 'Nope'"),
        (["--cron", "0 25 * * *"], "the hour: a number from 0 to 23\n  0 25 * * *\n    ^"),
        (["--cron", "0 7 * *"], "has 4 fields, not five"),
        (["--cron", "0 7 * * *", "--tz", "Europe/Berln"], "unknown time zone 'Europe/Berln'"),
        (["--full"], "--full goes with --every or --cron"),
        (["--tz", "UTC"], "--tz goes with --every or --cron"),
        (["--name", "nightly"], "--name goes with a change"),
        (["--off"], "acme:default has no schedule"),
        (["--off", "--full"], "--full goes with --every or --cron"),
    ],
)
def test_what_makes_no_schedule_is_refused_in_words(acme: Cli, words: list[str], message: str) -> None:
    run = acme("schedule", "acme", *words)
    assert (run.status, message in run.err) == (2, True), run.err
    assert acme("schedule", "-o", "json").data["data"] == []


def test_an_unknown_schedule_is_named_with_those_that_there_are(acme: Cli) -> None:
    acme("schedule", "acme", *NIGHTLY)
    run = acme("schedule", "acme", "--off", "--name", "nigthly")
    assert (run.status, "did you mean: nightly" in run.err) == (2, True)


def test_without_a_zone_a_cron_text_is_in_the_time_of_the_caller(
    acme: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    row = acme("schedule", "acme", "--cron", "0 7 * * *", "-o", "json").data["data"][0]
    assert row["zone"] == "America/New_York"


def test_an_installation_that_was_never_synced_has_a_schedule_and_no_data(acme: Cli) -> None:
    acme("schedule", "acme", "--every", "15m")
    status = acme("status")
    assert status.out.splitlines()[:2] == [
        "acme:default",
        "  never synced; start with: max sync acme:default",
    ]
    assert "  schedule    every 15m: " in status.out
    search = acme("search", "acme", "AcmeUser")
    assert (search.status, "holds no data yet" in search.err) == (1, True)
    assert acme("sync", "acme").status == 0
    assert acme("count", "acme", "AcmeUser").out == "20\n"
    assert len(acme("schedule", "-o", "json").data["data"]) == 1


def test_the_status_says_when_each_schedule_is_next_and_that_no_daemon_runs(acme: Cli) -> None:
    assert acme("sync", "acme").status == 0
    plain = acme("status", "-o", "json").data["data"][0]
    assert "schedules" not in plain
    acme("schedule", "acme", "--every", "15m", "--jitter", "0")
    acme("schedule", "acme", *NIGHTLY, "--full")
    acme("schedule", "acme", "--off", "--name", "nightly")
    lines = [line for line in acme("status").out.splitlines() if "schedule" in line or "nightly" in line]
    assert lines == [
        "  schedule    every 15m: due",
        "              nightly, 0 2 * * * Europe/Berlin --full: off",
        "              no daemon runs, which follows schedules; start one: max daemon start",
    ]
    rows = acme("status", "-o", "json").data["data"][0]["schedules"]
    assert [(one["name"], one["state"]) for one in rows] == [("default", "fire"), ("nightly", "off")]


def test_the_status_says_why_an_installation_fails_and_when_it_is_tried_again(acme: Cli) -> None:
    assert acme("sync", "acme").status == 0
    acme("schedule", "acme", "--every", "15m", "--jitter", "0")
    folder, now = project_at(), time.time()
    info = folder.target("acme")
    schedules.claim(data_of(), info, "default", worker="w", now=now)
    schedules.finish(data_of(), "default", "the token is invalid\x1b[31m", worker="w", now=now)
    (line,) = [one for one in acme("status").out.splitlines() if "schedule  " in one]
    assert line.startswith("  schedule    every 15m: next try at ")
    assert line.endswith("; failed once: the token is invalid\\x1b[31m")
    row = acme("schedule", "-o", "json").data["data"][0]
    assert (row["state"], row["failures"], row["lastSkipped"]) == ("later", 1, None)
    tried = datetime.fromisoformat(row["next"]) - datetime.fromtimestamp(now, UTC)
    assert 58 <= tried.total_seconds() <= 60


@pytest.mark.of_a_folder
def test_a_damaged_database_is_named_and_the_others_are_listed(acme: Cli) -> None:
    assert acme("connect", "acme:second").status == 0
    acme("schedule", "acme:second", "--every", "15m")
    broken = project_at()
    data_file(broken, broken.target("acme:default")).write_bytes(b"no database" * 1_000)
    listed = acme("schedule")
    assert (listed.status, "acme:second" in listed.out, "acme:default: " in listed.err) == (3, True, True)


def test_changes_of_schedules_are_in_the_audit(acme: Cli) -> None:
    acme("schedule", "acme", "--every", "15m")
    acme("schedule", "acme", "--off")
    acme("schedule", "acme", "--remove")
    acme("schedule")
    rows = acme("audit", "-o", "json").data["data"]
    assert [one["action"] for one in rows if "schedule" in one["action"]] == [
        "schedule",
        "schedule",
        "unschedule",
    ]
