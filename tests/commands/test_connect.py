"""Syncing from the command line: output, exit status, signals, recordings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command_line import Cli, Run, running

ROOT = Path(__file__).resolve().parents[2]

# A source that behaves as its configuration says, and prints the requested page on stderr.
CONNECTOR = '''
"""Things, for tests."""

import asyncio
import sys
from dataclasses import dataclass

from max.connecting import (
    Batch,
    Connector,
    Entity,
    Field,
    Installation,
    Loader,
    Many,
    Page,
    PermissionDenied,
    Schema,
    Step,
    SyncPlan,
    UpstreamMissing,
)


class Thing(Entity):
    """One thing."""

    name: Field[str] = Field()
    size: Field[int] = Field()


class Shelf(Entity):
    """Where things lie."""

    things: Many[Thing] = Many()


@dataclass(frozen=True)
class Config:
    mode: str = "well"


@Loader.collection(Shelf.things, brings=[Thing.name])
async def listed(shelf, request, env):
    number = int(request.cursor or 0)
    print(f"page {number}", file=sys.stderr, flush=True)
    if env.context == "closed":
        raise PermissionDenied("things may not be seen", hint="ask their owner")
    if env.context == "stuck":
        await asyncio.Event().wait()
    last = number == 2 and env.context != "endless"
    return Page([Thing(str(number), name=f"Thing {number}")], None if last else str(number + 1))


@Loader.entity_batched(Thing.size)
async def measured(refs, env):
    broken = {"1": UpstreamMissing("thing 1 is gone", hint="look for it")} if env.context == "partial" else {}
    return Batch([Thing(ref.id, size=len(ref.id)) for ref in refs if ref.id not in broken], broken)


async def seed(mode, engine):
    if mode == "seedless":
        raise PermissionDenied("the shelf is locked", hint="find the key")
    await engine.store(Shelf("s"))
    fields = Step.for_all(Thing).load_fields(Thing.size)
    return SyncPlan([Step.for_root(Shelf.ref("s")).load_collection(Shelf.things), fields])


async def initialise(config, credentials):
    return Installation(config.mode)


connector = Connector(
    name="things", description="Things, for tests.", schema=Schema([Shelf, Thing], roots=[Shelf]),
    loaders=[listed, measured], seeder=seed, initialise=initialise, config=Config,
)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that has the things connector."""
    (tmp_path / "connectors").mkdir()
    (tmp_path / "connectors" / "max_things.py").write_text(CONNECTOR)
    return tmp_path


@pytest.fixture
def cli(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Runs a command in the folder."""
    monkeypatch.chdir(folder)

    yield running(capsys)
    sys.modules.pop("max_things", None)  # another test's folder has a file of its own


def things(cli: Cli, mode: str) -> Run:
    cli("connect", "things", "--set", f"mode={mode}")
    return cli("sync", "things")


# -- how a sync ends -----------------------------------------------------------------------------


def test_sync_creates_the_project_and_connects_the_installation(cli: Cli, folder: Path) -> None:
    run = cli("sync", "acme:default")
    assert run.status == 0
    assert run.err.splitlines()[:2] == [f"created a project in {folder}", "connected acme:default"]
    assert run.out.splitlines()[0].startswith("acme:default: completed in ")
    assert "  AcmeTask       200" in run.out.splitlines()
    assert run.err.splitlines()[-1].startswith("next: max search acme:default AcmeTask")


def test_synced_rows_can_be_searched_and_counted(cli: Cli) -> None:
    cli("sync", "acme")
    page = cli("search", "acme:default", "AcmeUser", "--limit", "2", "-o", "json").data
    assert (page["type"], len(page["data"]), page["hasMore"]) == ("AcmeUser", 2, True)
    assert cli("count", "acme", "AcmeTask", "-o", "json").data["count"] == 200


def test_the_result_as_json_is_alone_on_stdout(cli: Cli) -> None:
    data = cli("sync", "acme:default", "-o", "json").data
    assert (data["installation"], data["status"], data["failures"]) == ("acme:default", "completed", [])
    assert data["counts"]["AcmeUser"] == 20


def test_ndjson_has_a_line_for_each_event_and_the_result_last(cli: Cli) -> None:
    run = cli("sync", "acme:default", "-o", "ndjson")
    *events, result = map(json.loads, run.out.splitlines())
    assert (events[0]["event"], events[-1]["event"]) == ("sync.started", "sync.ended")
    assert {one["installation"] for one in events} == {"acme:default"}
    assert (result["status"], "event" in result) == ("completed", False)
    assert sum(sum(one.get("counts", {}).values()) for one in events) == sum(result["counts"].values())


def test_without_a_name_the_only_installation_is_synced(cli: Cli) -> None:
    assert cli("sync").status == 1
    cli("connect", "acme:mine")
    assert cli("sync", "-o", "json").data["installation"] == "acme:mine"
    cli("connect", "things")
    run = cli("sync")
    assert (run.status, "--all, or one of: acme:mine, things:default" in run.err) == (2, True)


def test_sync_does_not_connect_a_connector_that_needs_answers(cli: Cli, folder: Path) -> None:
    run = cli("sync", "git")
    assert (run.status, "first: max connect git" in run.err) == (2, True)
    assert not (folder / ".max").exists()


@pytest.mark.parametrize("content", ['{"database": "postgresql://h', "", "\0\0\0\0", "a text", '{"id": "x"'])
@pytest.mark.parametrize("words", [["sync", "acme"], ["connect", "acme:other"], ["ls"]])
def test_a_project_that_cannot_be_read_is_not_taken_for_none(
    cli: Cli, folder: Path, words: list[str], content: str
) -> None:
    """It may lead to a database: what is connected in its place would go into files."""
    (folder / ".max").mkdir()
    (folder / ".max" / "project.json").write_text(content)
    refused = cli(*words, "-o", "json")
    assert (refused.status, refused.error["code"]) == (1, "project")
    assert "project.json is broken" in refused.error["message"]
    assert [one.name for one in (folder / ".max").iterdir()] == ["project.json"]


def test_a_misspelt_connector_creates_no_project(cli: Cli, folder: Path) -> None:
    run = cli("sync", "amce:default")
    assert (run.status, "did you mean: acme" in run.err) == (2, True)
    assert not (folder / ".max").exists()


def test_a_misspelt_installation_is_not_connected(cli: Cli) -> None:
    cli("connect", "acme")
    run = cli("sync", "acme:defualt")
    assert (run.status, "did you mean: acme:default" in run.err) == (2, True)


def test_a_partial_sync_lists_what_failed_and_exits_3(cli: Cli) -> None:
    run = things(cli, "partial")
    assert (run.status, "partial" in run.out.splitlines()[0]) == (3, True)
    assert run.out.splitlines()[-4:] == [
        "1 failure:",
        "  Thing:1: load fields size",
        "    thing 1 is gone",
        "    look for it",
    ]
    assert "to repeat only what failed: max sync things:default --retry-failed" in run.err


def test_a_retry_repeats_only_what_failed(cli: Cli) -> None:
    things(cli, "partial")
    run = cli("sync", "things:default", "--retry-failed", "-o", "json")
    assert (run.status, run.data["status"], run.data["counts"]) == (1, "failed", {})
    assert [one["id"] for one in run.data["failures"]] == ["1"]


def test_a_retry_without_failures_or_of_an_unknown_sync_is_refused(cli: Cli) -> None:
    cli("sync", "acme")
    assert "nothing failed in it" in cli("sync", "acme", "--retry-failed").err
    assert "no sync 'zzzz'" in cli("sync", "acme", "--retry-failed", "zzzz").err
    both = cli("sync", "acme", "--discard-unfinished", "--retry-failed")
    assert (both.status, "cannot be combined" in both.err) == (2, True)


def test_a_sync_that_stores_nothing_is_failed(cli: Cli) -> None:
    run = things(cli, "closed")
    assert (run.status, "failed" in run.out.splitlines()[0]) == (1, True)
    assert "nothing was stored" in run.out
    assert "things may not be seen" in run.out


def test_an_error_of_the_seeder_is_the_error_of_the_command(cli: Cli) -> None:
    run = things(cli, "seedless")
    assert (run.status, run.out) == (1, "")
    assert run.err == "max: things: seeder: the shelf is locked\n  find the key\n"


# -- runs and status -----------------------------------------------------------------------------


def test_runs_show_lists_each_failure_with_reason_attempt_and_time(cli: Cli) -> None:
    run = things(cli, "partial")
    shown = cli("runs", "show", run.out.split("sync ")[1].split(")")[0]).out
    assert "Thing:1: load fields size\n    attempt 1, 20" in shown
    assert "thing 1 is gone" in shown


def test_runs_lists_syncs_and_shows_one(cli: Cli) -> None:
    things(cli, "partial")
    cli("sync", "acme")
    rows = cli("runs", "-o", "json").data["data"]
    assert sorted((row["installation"], row["status"]) for row in rows) == [
        ("acme:default", "completed"),
        ("things:default", "partial"),
    ]
    (id,) = [row["id"] for row in rows if row["status"] == "partial"]
    assert (
        cli("runs", "show", id[:9], "-o", "json").data["failures"][0]["what"] == "Thing:1: load fields size"
    )
    assert "thing 1 is gone" in cli("runs", "show", id).out
    assert len(cli("runs", "things", "-o", "ndjson").out.splitlines()) == 1
    assert len(cli("runs", "--limit", "1").out.splitlines()) == 2


def test_status_shows_the_last_sync_and_row_counts(cli: Cli) -> None:
    things(cli, "well")
    lines = cli("status").out.splitlines()
    assert lines[1].startswith("  last sync   completed, just now (")
    assert lines[2:4] == ["  data        4 rows", "              3 Thing, 1 Shelf"]
    assert cli("status", "things", "-o", "json").data["data"][0]["rows"] == {"Shelf": 1, "Thing": 3}


# -- signals, and other processes ------------------------------------------------------------------


@contextmanager
def begin(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, which ends with the block."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
    with subprocess.Popen(
        [sys.executable, "-m", "max", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Read stderr up to a line that starts with these words."""
    assert process.stderr
    assert any(line.startswith(words) for line in process.stderr), f"no {words!r} came"


@pytest.fixture
def endless(cli: Cli, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """An endless sync, at its third page or later."""
    cli("connect", "things", "--set", "mode=endless")
    with begin(folder, "sync", "things") as process:
        wait_for(process, "page 2")
        yield process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_pauses_the_sync_and_names_max_resume(
    endless: subprocess.Popen[str], cli: Cli, number: signal.Signals
) -> None:
    endless.send_signal(number)
    out, err = endless.communicate(timeout=240)
    assert (endless.returncode, "paused" in out.splitlines()[0]) == (128 + number, True)
    assert err.splitlines()[-1] == "everything so far is saved; continue with: max resume things:default"
    assert cli("status", "-o", "json").data["data"][0]["lastSync"]["status"] == "paused"


def test_a_second_signal_ends_the_process_at_once(cli: Cli, folder: Path) -> None:
    cli("connect", "things", "--set", "mode=stuck")
    with begin(folder, "sync", "things") as process:
        wait_for(process, "page 0")
        process.send_signal(signal.SIGINT)
        wait_for(process, "pausing")
        process.send_signal(signal.SIGINT)
        assert (process.wait(timeout=240), process.communicate()[0]) == (130, "")
    assert "unfinished  continue with: max resume things:default" in cli("status").out


def test_a_running_sync_refuses_a_second_one(endless: subprocess.Popen[str], cli: Cli) -> None:
    run = cli("sync", "things", "-o", "json")
    assert (run.status, json.loads(run.err)["error"]["code"]) == (1, "sync.running")
    refused = cli("disconnect", "things", "--yes")
    assert (refused.status, "already running" in refused.err) == (1, True)


def test_pause_from_another_process_then_resume(endless: subprocess.Popen[str], cli: Cli) -> None:
    asked = cli("pause", "things", "-o", "json").data
    out, _ = endless.communicate(timeout=240)
    assert (endless.returncode, asked["command"], "paused" in out) == (130, "pause", True)
    cli("connect", "things:default", "--update", "--set", "mode=closed")
    run = cli("resume", "things", "-o", "json")
    assert (run.data["id"], run.data["resumed"], run.status) == (asked["id"], True, 3)


def test_an_endless_listing_is_bounded_by_a_setting_and_says_so(cli: Cli, folder: Path) -> None:
    cli("connect", "things", "--set", "mode=endless")
    assert cli("settings", "things", "listing_rows=5").status == 0
    run = cli("sync", "things")
    assert run.status == 3
    assert "it lists more than 5 rows, the most that the setting listing_rows allows" in run.out
    assert cli("count", "things", "Thing", "-o", "json").data["count"] == 6
    assert cli("settings", "things", "listing_rows=-1").status == 2


def test_cancel_from_another_process_ends_it(endless: subprocess.Popen[str], cli: Cli) -> None:
    cli("cancel", "things")
    out, err = endless.communicate(timeout=240)
    assert (endless.returncode, "cancelled" in out) == (1, True)
    assert err.splitlines()[-1] == "the stored rows stay; start again with: max sync things:default"
    assert "the last one is cancelled" in cli("pause", "things").err


def test_an_interrupted_sync_can_be_cancelled(endless: subprocess.Popen[str], cli: Cli) -> None:
    endless.kill()
    endless.communicate()
    assert "interrupted" in cli("status").out
    assert cli("cancel", "things", "-o", "json").data["status"] == "cancelled"


def test_an_interrupted_sync_continues_where_it_stopped(endless: subprocess.Popen[str], cli: Cli) -> None:
    endless.kill()
    endless.communicate()
    before = cli("count", "things", "Thing", "-o", "json").data["count"]
    cli("connect", "things:default", "--update", "--set", "mode=closed")
    run = cli("sync", "things")
    assert (run.status, f"page {before}" in run.err, "page 0" in run.err) == (3, True, False)


# -- recordings -----------------------------------------------------------------------------------------


def test_a_replay_creates_its_installation_and_gives_the_same_counts(cli: Cli, folder: Path) -> None:
    cli("connect", "acme", "--set", "users=3", "--set", "tasks=2")
    recorded = cli("sync", "acme", "--record", "acme.jsonl", "-o", "json").data
    replay = cli("sync", "acme:ticket", "--replay", "acme.jsonl")
    assert (replay.status, replay.err.splitlines()[0]) == (0, "created acme:ticket for the replay")
    assert "not used" not in replay.err
    again = cli("sync", "acme:ticket", "--replay", "acme.jsonl", "-o", "json").data
    assert (again["counts"], again["requests"]) == (recorded["counts"], recorded["requests"])
    assert again["replay"] == {"left": {}, "notes": []}


@pytest.mark.parametrize("target", ["acme", "acme:ticket"])
@pytest.mark.parametrize("connected", [False, True])
def test_a_replay_needs_no_project_and_no_answers(
    cli: Cli, folder: Path, target: str, connected: bool
) -> None:
    cli("sync", "acme", "--record", "acme.jsonl")
    shutil.rmtree(folder / ".max")
    if connected:
        cli("connect", "things")
    assert cli("sync", target, "--replay", "acme.jsonl").status == 0
    assert cli("count", target, "AcmeTask", "-o", "json").data["count"] == 200
    assert "made with acme, not with things" in cli("sync", "things:x", "--replay", "acme.jsonl").err


def test_a_replay_is_not_mixed_with_synced_rows(cli: Cli) -> None:
    cli("sync", "acme", "--record", "acme.jsonl")
    refused = cli("sync", "acme", "--replay", "acme.jsonl")
    assert (refused.status, "holds synced rows" in refused.err) == (1, True)
    assert "max sync acme:NAME --replay FILE" in refused.err
    cli("sync", "acme:ticket", "--replay", "acme.jsonl")
    refused = cli("sync", "acme:ticket")
    assert (refused.status, "holds the replay of a recording" in refused.err) == (1, True)


def test_a_truncated_recording_names_its_end_and_the_missing_answer(cli: Cli, folder: Path) -> None:
    cli("sync", "acme", "--record", "acme.jsonl")
    lines = (folder / "acme.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if "acme:status:list" not in line]
    (folder / "acme.jsonl").write_text("".join(kept)[:-1])
    run = cli("sync", "acme:ticket", "--replay", "acme.jsonl")
    assert run.status == 3
    assert "acme:status:list: the replay asks for null, which was not recorded" in run.out
    assert "--retry-failed" not in run.err
    assert f"acme.jsonl ends within line {len(kept)}: the recording was interrupted" in run.err


@pytest.mark.parametrize("spoil", ["damaged", "empty", "wrong"])
def test_a_failed_replay_leaves_no_installation(cli: Cli, folder: Path, spoil: str) -> None:
    cli("sync", "acme", "--record", "acme.jsonl")
    header, *rest = (folder / "acme.jsonl").read_text().splitlines(keepends=True)
    lines = {"damaged": [header, "[" * 100_000 + "\n", *rest], "empty": [header]}
    config = header.replace('"users": 10', '"users": -10')
    assert config != header or spoil != "wrong"
    (folder / "acme.jsonl").write_text("".join(lines.get(spoil, [config, *rest])))
    run = cli("sync", "acme:ticket", "--replay", "acme.jsonl")
    assert run.status in (1, 2)
    assert "removed acme:ticket again: the replay failed" in run.err
    assert "Traceback" not in run.err + run.out
    assert "acme:ticket" not in cli("ls").out
    assert not (folder / ".max" / "installations" / "acme" / "ticket").exists()


def test_a_failed_replay_keeps_the_data_that_was_there_before(cli: Cli, folder: Path) -> None:
    cli("sync", "acme", "--record", "acme.jsonl")
    cli("disconnect", "acme", "--keep-data", "--yes")
    refused = cli("sync", "acme:default", "--replay", "acme.jsonl")
    assert (refused.status, "holds synced rows" in refused.err) == (1, True)
    assert (folder / ".max" / "installations" / "acme" / "default" / "data.db").exists()


def test_recording_an_increment_says_that_it_needs_the_rows_before_it(cli: Cli, folder: Path) -> None:
    assert "it adds to rows" not in cli("sync", "acme", "--record", "first.jsonl").err
    assert (
        "second.jsonl: it adds to rows that it does not hold"
        in cli("sync", "acme", "--record", "second.jsonl").err
    )


def test_a_recording_needs_a_new_file_before_anything_is_created(cli: Cli, folder: Path) -> None:
    (folder / "mine").write_text("mine")
    refused = cli("sync", "acme", "--record", "mine")
    assert (refused.status, "mine already exists and is not empty" in refused.err) == (1, True)
    assert not (folder / ".max").exists()
    for words in (["--replay", "mine"], ["--replay", "nowhere"]):
        assert cli("sync", "acme", *words).status == 1
    assert cli("sync", "acme", "--record", "a", "--replay", "b").status == 2
    assert not (folder / ".max").exists()
