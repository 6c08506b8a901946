"""What systemd and launchd read, and what a daemon tells systemd."""

from __future__ import annotations

import os
import plistlib
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max.serve.service_manager import Notifier, quoted, service_of, systemd_unit, take_notifier
from tests.daemons import Home, homed
from tests.waiting import PATIENCE, wait_until

NOTIFYING = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
ODD = '/home/ada/50% "off"/back\\slash/$HOME/ünï/two  spaces'
COMMAND = ["/usr/bin/true", "-P", "-m", "max", "daemon", "run", "-C", ODD]


def read_back(text: str, *, command: bool = False) -> str:
    """What systemd makes of a quoted word, by the rules of systemd.syntax(7) and systemd.service(5)."""
    assert text[0] == text[-1] == '"'
    inner, out, place = text[1:-1], "", 0
    while place < len(inner):
        pair = inner[place : place + 2]
        if pair[0] == '"':
            raise AssertionError("the word ends in the middle")
        if pair in ("\\\\", '\\"', "%%") or (command and pair == "$$"):
            out, place = out + pair[1], place + 2
        elif pair == "\\x":
            out, place = out + chr(int(inner[place + 2 : place + 4], 16)), place + 4
        else:
            assert pair[0] not in ("\\", "%", *("$" if command else ""), "\n"), text
            out, place = out + pair[0], place + 1
    return out


@pytest.mark.parametrize("command", [True, False])
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_word_is_read_back_as_it_was(command: bool, text: str) -> None:
    assert read_back(quoted(text, command=command), command=command) == text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "max-test.service"
    unit.write_text(systemd_unit(ODD, COMMAND, {"MAX_HOME": ODD}))
    command = ["systemd-analyze", "--user", "--man=no", "verify", str(unit)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_notifies_restarts_after_a_crash_and_has_what_the_daemon_needs() -> None:
    unit = systemd_unit("/p", ["/usr/bin/python", "-m", "max"], {"MAX_HOME": "/h"}).splitlines()
    assert {"Type=notify", "Restart=on-failure", "WatchdogSec=60", 'Environment="MAX_HOME=/h"'} <= {*unit}
    assert 'ExecStart="/usr/bin/python" "-m" "max"' in unit


def test_the_launch_agent_has_the_words_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"MAX_HOME": "/h", "HOME": "/Users/ada", "SECRET": "x"}
    service = service_of("/p", COMMAND, environment, platform="darwin")
    assert service.file.parent == Path("/Users/ada/Library/LaunchAgents")
    facts = plistlib.loads(service.content.encode())
    assert (facts["Label"], facts["ProgramArguments"]) == (service.name, COMMAND)
    assert facts["EnvironmentVariables"] == {"MAX_HOME": "/h"}
    assert (facts["RunAtLoad"], facts["KeepAlive"]) == (True, {"SuccessfulExit": False})
    domain = f"gui/{os.getuid()}"
    assert service.enable == [["launchctl", "bootstrap", domain, str(service.file)]]
    assert service.disable == [["launchctl", "bootout", f"{domain}/{service.name}"]]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A project, in a home whose systemctl notes what it is asked."""
    with homed(tmp_path) as made:
        made.max("init")
        tools = tmp_path / "bin"
        tools.mkdir()
        (tools / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexit ${{FAILS:-0}}\n')
        (tools / "systemctl").chmod(0o755)
        made.environment |= {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "XDG_CONFIG_HOME": ""}
        yield made


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is of Linux")
class TestInstalling:
    def test_install_writes_the_unit_and_starts_it_and_uninstall_takes_that_back(self, home: Home) -> None:
        shown = home.max("daemon", "install", "--print")
        made = home.json("daemon", "install", "--idle-stop", "1h")
        assert home.json("daemon", "list")["data"][0]["options"]["idle_stop"] == 3600
        file, asked = Path(made["file"]), home.project.parent / "asked"
        assert file.parent == home.project.parent / ".config" / "systemd" / "user"
        assert (file.read_text(), made["problems"]) == (shown, [])
        assert asked.read_text().splitlines() == ["--user daemon-reload", f"--user enable --now {file.name}"]
        asked.unlink()
        home.environment["FAILS"] = "1"
        home.max("daemon", "start")
        assert asked.read_text().splitlines() == [f"--user start {file.name}"]
        home.max("daemon", "stop")
        home.environment["FAILS"] = "0"
        asked.unlink()
        home.max("daemon", "uninstall")
        assert not file.exists()
        assert asked.read_text().splitlines() == [
            f"--user disable --now {file.name}",
            "--user daemon-reload",
        ]
        home.max("daemon", "uninstall", status=1)
        assert "max daemon install makes it" in home.err

    def test_print_writes_nothing(self, home: Home) -> None:
        home.max("daemon", "install", "--print")
        assert not (home.project.parent / ".config").exists()

    def test_where_systemctl_fails_the_unit_is_written_and_the_answer_is_partial(self, home: Home) -> None:
        home.environment["FAILS"] = "1"
        home.max("daemon", "install", status=3)
        assert "systemctl --user daemon-reload: exit status 1; it begins at the next login" in home.err

    def test_the_command_of_the_unit_is_one_that_runs(self, home: Home) -> None:
        unit = home.max("daemon", "install", "--print").splitlines()
        (start,) = [line.removeprefix("ExecStart=") for line in unit if line.startswith("ExecStart=")]
        words = [read_back(word, command=True) for word in start.replace('" "', '"\0"').split("\0")]
        settings = [read_back(line.partition("=")[2]) for line in unit if line.startswith("Environment=")]
        environment = {"PATH": "/usr/bin:/bin", **dict(one.split("=", 1) for one in settings)}
        with subprocess.Popen(words, env=environment, cwd="/", stderr=subprocess.PIPE) as process:
            wait_until(lambda: (home.home / "daemons").exists() and home.socket().exists())
            process.terminate()
            process.communicate(timeout=PATIENCE)
        assert process.returncode == 0


class TestNotifying:
    """The datagrams that systemd gets."""

    @pytest.mark.parametrize("abstract", [False, True])
    def test_a_daemon_is_ready_lives_and_stops(self, home: Home, abstract: bool) -> None:
        if abstract and sys.platform != "linux":
            pytest.skip("only Linux has abstract sockets")
        address = f"@max-test-{os.getpid()}" if abstract else str(home.home / "n")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
            inbox.bind(address.replace("@", "\0", 1))
            inbox.settimeout(PATIENCE)
            watched = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000"}
            with home.begin("daemon", "run", env={**home.environment, **watched}) as process:
                assert inbox.recv(100) == b"READY=1"
                assert home.socket().exists()
                assert inbox.recv(100) == inbox.recv(100) == b"WATCHDOG=1"
                process.send_signal(signal.SIGTERM)
                said = b"WATCHDOG=1"
                while said == b"WATCHDOG=1":
                    said = inbox.recv(100)
                assert said == b"STOPPING=1"
                process.communicate(timeout=PATIENCE)

    def test_what_a_daemon_starts_does_not_speak_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in NOTIFYING:
            monkeypatch.setenv(name, "1")
        take_notifier()
        assert not {*NOTIFYING} & os.environ.keys()

    @pytest.mark.parametrize("address", ["", "relative", "/no/such/socket"])
    def test_a_supervisor_that_is_not_there_is_no_failure(self, address: str) -> None:
        notifier = Notifier({"NOTIFY_SOCKET": address})
        notifier.send("READY=1")
        assert notifier.interval is None

    @pytest.mark.parametrize(
        ("environment", "interval"),
        [
            ({}, None),
            ({"WATCHDOG_USEC": "3000000"}, 1.5),
            ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
            ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
            ({"WATCHDOG_USEC": "soon"}, None),
            ({"WATCHDOG_USEC": "0"}, None),
        ],
    )
    def test_the_watchdog_is_answered_twice_as_often_as_it_asks(
        self, environment: dict[str, str], interval: float | None
    ) -> None:
        assert Notifier(environment).interval == interval
