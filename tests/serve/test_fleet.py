"""Workers of a fleet, as real processes on a real server: some are killed, one is stopped and goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from max_connectors.acme_service import Service, Settings

from max.model.values import Json
from max.projects.database import ProjectDatabase
from max.storage.postgres import PostgresDatabase
from tests.command_line import Cli, running
from tests.contract.places import drop_project
from tests.fleets import Fleet, Sources, Worker, fleet
from tests.postgres_server import new_schema, server, shared_url
from tests.waiting import wait_until

pytestmark = pytest.mark.postgres
NAMES = [f"n{number}" for number in range(6)]
SIZE: dict[str, Any] = {"workspaces": 1, "users": 12, "projects": 3, "tasks": 60, "files": 1, "page_size": 10}
SLOW = 150.0  # milliseconds before each answer
WILD = Path(__file__).parents[1] / "max_wild.py"
DRAINED = 0  # the exit status of a worker that was asked to end


def busy(one: Fleet, sources: Sources, *, of: str = "") -> Worker | None:
    """A worker that is in the middle of a sync, of an installation if one is named."""
    for name in [of] if of else NAMES:
        owner = one.owner(name)
        is_running = owner is not None and owner.poll() is None
        if is_running and sources.served(name) >= 3 and one.status(name) == "running" and one.in_flight(name):
            return owner
    return None


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in an empty folder."""
    monkeypatch.setenv("MAX_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MAX_DATABASE", raising=False)
    monkeypatch.chdir(tmp_path)
    return running(capsys)


class TestFleet:
    """Three workers and six installations; no worker is spared."""

    def test_p8_every_table_equals_its_source_whatever_becomes_of_the_workers(self, tmp_path: Path) -> None:
        with (
            server() as postgres,
            Sources(NAMES, latency_ms=SLOW, **SIZE) as sources,
            fleet(postgres.url, tmp_path, sources.urls) as one,
        ):
            again = dict.fromkeys(NAMES, 0)  # pages that may be fetched twice, by installation

            def lose(worker: Worker) -> None:
                """Let the leases of a worker expire that sends no more heartbeats."""
                for name in one.owned(worker):
                    again[name] += one.in_flight(name)
                    one.expire(name)

            for name in NAMES:
                one.table.ask(one.ids[name], {})
            for _ in range(3):
                one.work("--concurrency", "2")
            killed = wait_until(lambda: busy(one, sources), "a worker is busy")
            killed.kill()
            killed.wait()
            lose(killed)
            stopped = wait_until(lambda: busy(one, sources), "another one is busy")
            stopped.send_signal(signal.SIGSTOP)
            held = one.owned(stopped)
            lose(stopped)
            (last,) = {*one.workers} - {killed, stopped}
            wait_until(lambda: set(held) <= set(one.owned(last)) | one.completed(), "the last one has all")
            one.restart(postgres, last, again)
            wait_until(lambda: one.completed() == set(NAMES), "every sync has ended")

            stopped.send_signal(signal.SIGCONT)
            wait_until(lambda: "taken over this sync" in one.said(one.workers.index(stopped)), "it notices")
            assert {name: one.stored(name) for name in NAMES} == {name: sources.rows(name) for name in NAMES}
            assert {name: sources.again(name) for name in NAMES if sources.again(name) > again[name]} == {}
            assert one.held_by_two() == []
            assert one.taken_over() >= 2
            for worker in (stopped, last):
                worker.send_signal(signal.SIGTERM)
                assert worker.wait() == DRAINED, one.said(one.workers.index(worker))
            assert [one.table.leased_by(id) for id in one.ids.values()] == [None] * len(NAMES)


class Stuck(Service):
    """A service that answers a few requests, and then no more."""

    answered = 0

    async def answer(self, method: str, path: str, query: Mapping[str, str], body: Json = None) -> Json:
        """Wait for ever after the first ones."""
        self.answered += 1
        if self.answered > 5:
            await asyncio.Event().wait()
        return await super().answer(method, path, query, body)


class TestAConnectorThatEndsItsProcess:
    """It waits by itself."""

    def test_what_is_beside_it_gets_its_sync(self, tmp_path: Path) -> None:
        schema = new_schema().replace("_", "x")
        with fleet(f"{shared_url()}#{schema}", tmp_path, {}) as one:
            one.environment["MAX_CONNECTORS"] = str(WILD)
            try:
                for name, does in (("guilty", "refuse"), ("innocent", "")):
                    config: dict[str, Json] = {"does": does, "notes": str(tmp_path / name)}
                    one.ids[name] = one.project.add("wild", name, config, {"token": "t"}, now=1.0).id
                    one.table.ask(one.ids[name], {})
                guilty, innocent = (one.project.by_id(id) for id in one.ids.values())

                def is_so() -> bool:
                    waits = getattr(one.project.work(guilty), "problem", None)
                    return bool(waits) and one.status("innocent") == "completed"

                ends = 0
                while not is_so():
                    one.work("--concurrency", "2")
                    wait_until(lambda: one.workers[-1].poll() is not None or is_so(), "it ends, or it is so")
                    ends += one.workers[-1].poll() is not None
                    for name in one.owned(one.workers[-1]):
                        one.expire(name)
                    assert ends <= 3, one.said(ends - 1)
                assert getattr(one.project.work(innocent), "problem", "") is None
            finally:
                one.end()
                drop_project(shared_url(), schema)


class TestAWorkerAtWork:
    """What other processes say of it."""

    def test_who_syncs_what_is_asked_for_and_what_cannot_begin_is_said(
        self, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        schema = new_schema().replace("_", "x")
        monkeypatch.setenv("MAX_DATABASE", f"{shared_url()}#{schema}")
        endless = Sources(["held"], **SIZE)
        endless.services["held"] = Stuck(Settings(**SIZE))
        with endless as sources, fleet(os.environ["MAX_DATABASE"], tmp_path, sources.urls) as one:
            try:
                unknown = one.project.add("nope", "default", {}, {}, now=1.0)
                for id in (one.ids["held"], unknown.id):
                    one.table.ask(id, {})
                owner = f"process {one.work().pid} on "
                wait_until(lambda: one.status("held") == "running", "it syncs")
                monkeypatch.setenv("MAX_KEY", one.environment["MAX_KEY"])
                refused = cli("sync", "acme:held", "--json")
                assert (refused.status, refused.error["code"]) == (1, "sync.running")
                assert owner in refused.error["message"]
                assert "max status acme:held" in refused.error["hint"]
                asked = cli("sync", "acme:held", "--ask")
                assert "next of 1 worker with room begins it; see: max status acme:held" in asked.err
                wait_until(lambda: getattr(one.project.work(unknown), "problem", ""), "it has failed")
                said = cli("status").out
                assert f"  worker      {owner}" in said
                assert f"  database    {one.server.partition('?')[0]}" in said
                assert "  asked       for a sync; begins when a worker has room" in said
                assert "  problem     unknown connector 'nope'" in said
                assert "at once with: max sync nope:default --ask" in said
                held, _ = cli("status", "-o", "json").data["data"]
                assert (held["work"]["asked"], held["work"]["problem"]) == (True, None)
            finally:
                one.end()
                drop_project(shared_url(), schema)


class TestTheCommand:
    """What `max worker` and `max sync --ask` say where they cannot work."""

    def test_a_project_in_a_folder_has_no_workers(self, cli: Cli) -> None:
        cli("sync", "acme:default")
        for words in (["worker"], ["sync", "acme", "--ask"]):
            refused = cli(*words)
            assert refused.status == 2
            assert "is in files, which one machine has" in refused.err

    @pytest.mark.parametrize("number", ["0", "-1", "many", "101"])
    def test_the_number_of_installations_is_from_1_to_100(self, cli: Cli, number: str) -> None:
        refused = cli("worker", f"--concurrency={number}")
        assert (refused.status, "a whole number from 1 to 100" in refused.err) == (2, True)

    def test_a_server_that_does_not_answer_ends_it(self, cli: Cli, tmp_path: Path) -> None:
        refused = cli("worker", "--database", f"postgresql://x@/y?host={tmp_path}", "-o", "json")
        assert (refused.status, refused.error["code"]) == (1, "storage.unreachable")

    def test_what_is_asked_for_waits_for_a_worker(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MAX_DATABASE", f"{shared_url()}#ask{os.getpid()}")
        project = ProjectDatabase.open(os.environ["MAX_DATABASE"], create=True)
        try:
            project.add("acme", "default", {}, {}, now=1.0)
            assert "start one: max worker" in cli("sync", "acme", "--ask").err
            answer = cli("sync", "acme", "--ask", "--full", "-o", "json")
            assert (answer.status, answer.data["workers"]) == (0, 0)
            (claim,) = project.work_table().claim("me", [])
            assert claim.asked == {"options": {"full": True}, "discard_unfinished": False, "retry": None}
        finally:
            with PostgresDatabase(shared_url(), "public").writer() as connection:
                for name in (f"ask{os.getpid()}", f"ask{os.getpid()}_audit"):
                    connection.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')
