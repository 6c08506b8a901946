"""Daemons as real processes: started, stopped, killed, raced, and robbed of their files."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import rmtree
from typing import Any
from urllib.request import urlopen

import pytest

from max import __version__
from max.core import in_thread
from max.errors import ConnectionLost, DaemonStopping, MaxError
from max.serve.client import Client
from max.serve.daemon_process import is_outdated
from tests.daemons import Home, homed
from tests.gated_service import Serving
from tests.waiting import PATIENCE, wait_until


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A project without a daemon."""
    with homed(tmp_path) as made:
        made.max("init")
        yield made


@pytest.fixture
def running(home: Home) -> Home:
    """A project with a daemon."""
    home.max("daemon", "start")
    return home


def greeting(home: Home) -> object:
    """What the daemon says first; None when it does not listen."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        try:
            connection.connect(str(home.socket()))
            return json.loads(connection.makefile().readline())
        except (OSError, ValueError):  # it ends, or has not made its folder yet
            return None


class TestLife:
    def test_a_daemon_starts_says_what_it_does_and_stops(self, home: Home) -> None:
        assert home.json("daemon", "status", status=1)["state"] == "stopped"
        started = home.json("daemon", "start", "--idle-stop", "2h")
        pid = started["pid"]
        assert (started["did"], pid) == ("started", home.pid())
        status = home.json("daemon", "status")
        assert (status["state"], status["pid"], status["version"]) == ("running", pid, __version__)
        assert (status["installations"], status["problem"]) == ([], None)
        assert greeting(home) == {"max": __version__, "protocol": 1}
        assert home.json("daemon", "start")["did"] == "running already"
        assert home.json("daemon", "list")["data"][0]["state"] == "running"
        stopped = home.json("daemon", "stop")
        assert (stopped["did"], stopped["pid"], stopped["state"]) == ("stopped", pid, "stopped")
        assert home.json("daemon", "stop")["did"] == "not running"
        assert sorted(one.name for one in home.folder().iterdir()) == ["daemon.log", "project.json"]
        assert home.json("daemon", "list")["data"][0]["state"] == "stopped"
        assert home.json("daemon", "restart")["options"]["idle_stop"] == 7200
        assert home.json("daemon", "restart", "--idle-stop", "off")["options"]["idle_stop"] is None
        home.max("daemon", "stop")
        wait_until(lambda: not home.processes())

    def test_status_says_where_it_answers_over_http_and_the_log_has_no_token(self, home: Home) -> None:
        home.max("daemon", "start", "--http", "127.0.0.1:0")
        address = home.json("daemon", "status")["http"]
        with urlopen(f"{address}/health") as answer:
            assert answer.status == 200
        assert f"  HTTP: {address}\n" in home.max("daemon", "status")
        (token,) = [one for one in home.folder().iterdir() if "token" in one.name]
        assert token.read_text().strip() not in home.log()
        home.max("daemon", "restart", "--http", "off")
        assert home.json("daemon", "status")["http"] is None

    def test_it_belongs_to_no_terminal_and_has_no_parent_here(self, running: Home) -> None:
        pid = running.pid()
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        parent, session, terminal = int(stat[1]), int(stat[3]), int(stat[4])
        assert (session, terminal) == (pid, 0)
        assert parent != os.getpid()
        assert {os.readlink(f"/proc/{pid}/fd/{n}") for n in (1, 2)} == {str(running.folder() / "daemon.log")}  # noqa: PTH115
        assert os.readlink(f"/proc/{pid}/cwd") == str(running.project)  # noqa: PTH115

    def test_what_keeps_it_from_starting_is_the_error_of_the_start(self, home: Home) -> None:
        home.max("daemon", "disable")
        home.max("daemon", "start", "-o", "json", status=1)
        error = json.loads(home.err)["error"]
        assert error["code"] == "project"
        assert error["message"] == f"the daemon of {home.project} is disabled"
        assert home.json("daemon", "list")["data"][0]["state"] == "disabled"
        home.max("daemon", "enable")
        home.max("daemon", "start")
        assert home.json("daemon", "disable")["state"] == "disabled"
        wait_until(lambda: not home.processes())

    def test_an_error_in_the_middle_of_the_start_is_found_in_the_log(self, home: Home) -> None:
        broken = home.project.parent / "broken"
        broken.mkdir()
        (broken / "fcntl.py").write_text("raise ImportError('there is no fcntl here')\n")
        paths = os.pathsep.join([str(broken), home.environment["PYTHONPATH"]])
        home.max("daemon", "start")
        home.max("daemon", "stop")
        environment = {**home.environment, "PYTHONPATH": paths}
        with home.begin("daemon", "run", "--background", env=environment) as process:
            out, err = process.communicate()
        assert (out, "there is no fcntl here" in err) == ("", True)

    def test_two_starts_at_once_give_one_daemon(self, home: Home) -> None:
        starts = [home.begin("daemon", "start", "-o", "json") for _ in range(4)]
        answers = [json.loads(one.communicate(timeout=PATIENCE)[0]) for one in starts]
        assert {one["pid"] for one in answers} == {home.pid()}
        assert sorted(one["did"] for one in answers) == ["running already"] * 3 + ["started"]
        wait_until(lambda: home.processes() == {home.pid()})

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_in_the_foreground_a_signal_ends_it_with_status_0(
        self, home: Home, number: signal.Signals
    ) -> None:
        with home.begin("daemon", "run") as process:
            wait_until(lambda: greeting_of(home))
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (0, "")
        assert f"process {process.pid} is the daemon of {home.project}" in err
        assert home.log() == err

    def test_a_killed_daemon_is_stale_and_the_next_start_clears_what_it_left(self, running: Home) -> None:
        before = running.pid()
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: running.json("daemon", "list")["data"][0]["state"] == "stale")
        assert (running.folder() / "daemon.sock").exists()
        assert running.json("daemon", "status", status=1)["state"] == "stale"
        assert running.json("daemon", "stop")["did"] == "not running"
        assert running.json("daemon", "start")["did"] == "started"
        assert running.pid() != before
        assert greeting(running) == {"max": __version__, "protocol": 1}

    def test_a_process_id_that_was_given_again_is_no_daemon_and_gets_no_signal(self, running: Home) -> None:
        os.kill(running.pid(), signal.SIGKILL)
        wait_until(lambda: running.json("daemon", "list")["data"][0]["state"] == "stale")
        with subprocess.Popen(["sleep", "60"]) as other:
            held = running.folder() / "daemon.pid"
            lines = held.read_text().split("\n")
            parts = lines[1].split("/")
            parts[3] = str(other.pid)
            held.write_text(f"{other.pid}\n{'/'.join(parts)}\n")
            assert running.json("daemon", "status", status=1)["state"] == "stale"
            assert running.json("daemon", "stop", "--force")["did"] == "not running"
            assert other.poll() is None
            other.kill()

    def test_force_kills_a_daemon_that_does_not_end(self, running: Home) -> None:
        os.kill(running.pid(), signal.SIGSTOP)
        assert running.json("daemon", "stop", "--force")["did"] == "stopped"
        wait_until(lambda: not running.processes())


class TestLogs:
    def test_the_last_lines_are_shown_in_every_format(self, home: Home) -> None:
        home.max("daemon", "logs")
        assert "there is no line in" in home.err
        home.max("daemon", "start")
        home.max("daemon", "stop")
        lines = home.log().splitlines()
        assert len(lines) >= 3
        assert home.max("daemon", "logs").splitlines() == lines
        assert home.max("daemon", "logs", "--lines", "1").splitlines() == lines[-1:]
        rows = home.json("daemon", "logs", "--lines", "2")["data"]
        assert [(one["level"], one["part"], one["message"]) for one in rows] == [
            ("INFO", "max.daemon", "ending: SIGTERM"),
            ("INFO", "max.daemon", "ended"),
        ]
        home.max("daemon", "logs", "-f", "-o", "csv", status=2)
        assert "-f never ends" in home.err

    def test_following_shows_new_lines_at_once_until_ctrl_c(self, running: Home) -> None:
        with running.begin("daemon", "logs", "-f", "--lines", "1", "-o", "ndjson") as following:
            assert following.stdout is not None
            assert "is the daemon of" in json.loads(following.stdout.readline())["message"]
            running.max("daemon", "stop")
            assert json.loads(following.stdout.readline())["message"] == "ending: SIGTERM"
            following.send_signal(signal.SIGINT)
            following.communicate(timeout=PATIENCE)
        assert following.returncode == 130


def greeting_of(home: Home) -> object:
    return (home.home / "daemons").exists() and greeting(home)


def test_a_folder_without_a_daemon_is_waited_for_and_a_block_that_fails_ends_its_process(home: Home) -> None:
    (home.home / "daemons").mkdir(exist_ok=True)
    assert greeting_of(home) is None
    with pytest.raises(ValueError, match="of the block"), home.begin("daemon", "run") as process:
        raise ValueError("of the block")
    assert process.returncode == -signal.SIGKILL


OLDER = """
import sys
import max
max.__version__ = {version!r}
from max.cli import main
sys.exit(main(["daemon", "run"]))
"""


class TestVersions:
    """A daemon of another version of Max."""

    @staticmethod
    @contextmanager
    def of_version(home: Home, version: str) -> Iterator[int]:
        """A daemon that says so; its process id."""
        program = [sys.executable, "-c", OLDER.format(version=version)]
        with subprocess.Popen(
            program, cwd=home.project, env=home.environment, stderr=subprocess.DEVNULL
        ) as process:
            try:
                wait_until(lambda: greeting_of(home) == {"max": version, "protocol": 1})
                yield process.pid
            finally:
                process.kill()

    def test_an_older_one_is_restarted_by_a_command_that_answers_without_it(self, home: Home) -> None:
        home.max("sync", "acme:default")
        with self.of_version(home, "0.0.9") as old:
            assert home.max("count", "acme", "AcmeUser") == "20\n"
            wait_until(lambda: home.folder().joinpath("daemon.pid").exists() and home.pid() != old)
            wait_until(lambda: greeting(home) == {"max": __version__, "protocol": 1})
            status = home.json("daemon", "status")
            assert (status["version"], status["pid"]) == (__version__, home.pid())

    def test_a_newer_one_is_left_alone(self, home: Home) -> None:
        home.max("sync", "acme:default")
        with self.of_version(home, "99.0") as new:
            assert home.max("count", "acme", "AcmeUser") == "20\n"
            restarted = home.json("daemon", "restart", "--outdated")
            assert (restarted["did"], restarted["pid"]) == ("not outdated", new)
            status = home.json("daemon", "status", status=1)
            assert (status["version"], "max daemon restart" in status["problem"]) == ("99.0", True)

    @pytest.mark.parametrize(
        ("version", "outdated"),
        [("0.0.9", True), (__version__, False), (f"{__version__}.1", False), ("99.0", False), (None, False)],
    )
    def test_versions_compare_by_their_numbers(self, version: str | None, outdated: bool) -> None:
        assert is_outdated(version) == outdated


CLOCK = """
import os, time
real = time.time
def moved():
    with open({file!r}) as opened:
        return real() + float(opened.read())
time.time = moved
"""


class TestTheClock:
    def test_a_clock_that_is_set_changes_nothing_for_a_daemon(self, home: Home) -> None:
        moved, code = home.project.parent / "moved", home.project.parent / "code"
        moved.write_text("0")
        code.mkdir()
        (code / "sitecustomize.py").write_text(CLOCK.format(file=str(moved)))
        home.environment["PYTHONPATH"] = os.pathsep.join([str(code), home.environment["PYTHONPATH"]])
        home.max("sync", "acme:default")
        home.max("daemon", "start", "--idle-stop", "1h")
        pid = home.pid()
        for years in (10, -10, 0.001, 0):
            moved.write_text(str(years * 365 * 86_400))
            home.socket().unlink()
            wait_until(lambda: greeting(home))
            assert (home.pid(), home.json("daemon", "status")["state"]) == (pid, "running")
            assert home.max("count", "acme", "AcmeUser") == "20\n"
        assert home.json("daemon", "stop")["did"] == "stopped"
        years_seen = {int(line[:4]) for line in home.log().splitlines()}
        assert max(years_seen) - min(years_seen) >= 19, "its clock was set indeed"


class TestItsFiles:
    """What a running daemon does when its files are taken away."""

    def test_a_socket_that_was_removed_is_made_again(self, running: Home) -> None:
        pid = running.pid()
        (running.folder() / "daemon.sock").unlink()
        wait_until(lambda: greeting(running) == {"max": __version__, "protocol": 1})
        assert running.pid() == pid

    def test_the_whole_folder_is_made_again(self, running: Home) -> None:
        pid, folder = running.pid(), running.folder()
        rmtree(folder)
        wait_until(lambda: (folder / "daemon.pid").exists() and greeting(running))
        assert running.pid() == pid
        assert running.json("daemon", "status")["pid"] == pid
        assert running.json("daemon", "stop")["did"] == "stopped"

    def test_it_ends_when_another_process_took_its_place_meanwhile(self, running: Home) -> None:
        first = running.pid()
        os.kill(first, signal.SIGSTOP)
        rmtree(running.folder())
        running.max("daemon", "start")
        assert running.pid() != first
        os.kill(first, signal.SIGCONT)
        wait_until(lambda: first not in running.processes())
        assert running.json("daemon", "status")["pid"] == running.pid() != first

    def test_it_ends_when_its_project_is_gone(self, running: Home) -> None:
        rmtree(running.project)
        wait_until(lambda: not running.processes())
        listed = running.json("daemon", "list")["data"]
        assert [(one["project"], one["state"]) for one in listed] == [(str(running.project), "gone")]

    def test_an_idle_daemon_leaves(self, home: Home) -> None:
        home.max("daemon", "start", "--idle-stop", "1s")
        wait_until(lambda: not home.processes())
        assert "ending: it was idle for 1 s" in home.log()

    def test_sighup_opens_the_log_again(self, running: Home) -> None:
        log = running.folder() / "daemon.log"
        log.rename(log.with_name("moved"))
        os.kill(running.pid(), signal.SIGHUP)
        wait_until(log.exists)
        wait_until(lambda: "the log was opened again" in running.log())
        assert log.stat().st_mode & 0o777 == 0o600
        pid = running.pid()
        assert {os.readlink(f"/proc/{pid}/fd/{n}") for n in (1, 2)} == {str(log)}  # noqa: PTH115


class TestWhileItSyncs:
    """Signals to a daemon of which a client has asked for a sync, whose requests the service holds."""

    @pytest.fixture
    def serving(self, home: Home) -> Iterator[Serving]:
        """The project is connected to a service that holds its answers."""
        one = Serving(home.project, home.home)
        yield one
        one.open()
        one.stop()

    @pytest.fixture
    def daemon(self, home: Home, serving: Serving) -> Iterator[subprocess.Popen[str]]:
        """A daemon in the foreground."""
        with home.begin("daemon", "run") as process:
            wait_until(lambda: greeting_of(home))
            yield process
            process.kill()

    @staticmethod
    async def syncing(home: Home, serving: Serving, then: Callable[[], object]) -> MaxError:
        """Ask for a sync, do something when its first requests are under way; how the call ended."""
        async with Client.at(home.socket()) as client:
            ended: asyncio.Future[object] = asyncio.ensure_future(client.sync("acme:default").result())
            await in_thread(lambda: wait_until(lambda: ended.done() or serving.gate.is_full.is_set()))
            await in_thread(then)
            with pytest.raises(MaxError) as raised:
                await ended
            return raised.value

    def completed(self, home: Home) -> None:
        """The sync goes on without the daemon, and brings everything once."""
        result = home.json("sync", "acme")
        assert result["status"] == "completed"
        assert home.json("count", "acme", "AcmeTask")["count"] == 2 * 20 * 3

    def test_sigterm_tells_clients_pauses_syncs_and_ends_with_status_0(
        self, home: Home, serving: Serving, daemon: subprocess.Popen[str]
    ) -> None:
        error = asyncio.run(self.syncing(home, serving, daemon.terminate))
        assert isinstance(error, DaemonStopping)
        wait_until(home.is_asked_to_pause)
        serving.open()
        _, err = daemon.communicate(timeout=PATIENCE)
        assert daemon.returncode == 0, err
        assert home.json("runs")["data"][0]["status"] == "paused"
        wait_until(lambda: not home.processes())
        self.completed(home)

    def test_a_restart_goes_on_with_the_sync(
        self, home: Home, serving: Serving, daemon: subprocess.Popen[str]
    ) -> None:
        def restart() -> None:
            with home.begin("daemon", "restart") as restarting:
                wait_until(lambda: not home.socket().exists())
                serving.open()
                restarting.communicate(timeout=PATIENCE)

        asyncio.run(self.syncing(home, serving, restart))
        wait_until(lambda: home.json("runs")["data"][0]["status"] == "completed")
        assert len(home.json("runs")["data"]) == 1
        assert home.json("count", "acme", "AcmeTask")["count"] == 2 * 20 * 3

    def test_status_says_which_installations_are_in_use_and_when_each_syncs(
        self, home: Home, serving: Serving, daemon: subprocess.Popen[str]
    ) -> None:
        home.max("connect", "acme:second")
        home.max("schedule", "acme:second", "--every", "2h")
        found: list[Any] = []
        began = datetime.now(UTC) - timedelta(seconds=1)

        def look() -> None:
            found.extend(home.json("daemon", "status")["installations"])
            assert "is running" in home.max("daemon", "status")
            daemon.terminate()

        asyncio.run(self.syncing(home, serving, look))
        first, second = found
        assert (first["installation"], second["installation"]) == ("acme:default", "acme:second")
        assert (bool(first["since"]), first["next"]) == (True, None)
        assert first["sync"] == home.json("runs", "acme:default")["data"][0]["id"]
        assert (second["since"], second["sync"]) == (None, None)
        assert datetime.fromisoformat(second["next"]) > began  # in whole seconds

    def test_a_second_sigterm_ends_it_at_once(
        self, home: Home, serving: Serving, daemon: subprocess.Popen[str]
    ) -> None:
        error = asyncio.run(self.syncing(home, serving, daemon.terminate))
        assert isinstance(error, DaemonStopping)
        daemon.terminate()
        _, err = daemon.communicate(timeout=PATIENCE)
        assert (daemon.returncode, "left at once: a second SIGTERM" in err) == (143, True)
        wait_until(lambda: not home.processes())
        serving.open()
        self.completed(home)

    def test_a_killed_daemon_loses_nothing(
        self, home: Home, serving: Serving, daemon: subprocess.Popen[str]
    ) -> None:
        error = asyncio.run(self.syncing(home, serving, daemon.kill))
        assert isinstance(error, ConnectionLost)
        wait_until(lambda: not home.processes())
        serving.open()
        self.completed(home)
