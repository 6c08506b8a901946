"""What supervisors of processes need: systemd's notifications, and the files that systemd and launchd read.

The protocol is that of sd_notify(3): datagrams to the unix socket that NOTIFY_SOCKET names.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..installations.files import replace_file, translated
from ..installations.home import HOME

NOTIFY, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
# variables that a daemon needs as they are here: where things are, and what its answers depend on
KEPT = (HOME, "XDG_DATA_HOME", "MAX_TRUST", "MAX_CONNECTORS", "PYTHONPATH", "TZ")
WATCHED = 60  # seconds without a sign of life after which systemd restarts the daemon
ENDING = 15  # seconds that it gives a daemon to end


class Notifier:
    """Tells systemd how the daemon is; does nothing under any other parent.

    ``interval`` are the seconds between two signs of life that systemd wants; None: it watches nothing.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get(NOTIFY, "")
        watched, pid = environment.get(WATCHDOG, ""), environment.get(WATCHDOG_PID, str(os.getpid()))
        mine = watched.isdecimal() and int(watched) > 0 and pid == str(os.getpid())
        self.interval = (
            int(watched) / 2_000_000 if mine else None
        )  # half of it, as sd_watchdog_enabled(3) says

    def send(self, state: str) -> None:
        """Send ``READY=1`` and the like; a supervisor that is not there is no failure."""
        import socket

        if self._address[:1] not in ("/", "@"):
            return
        address = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.sendto(state.encode(), address)


def take_notifier() -> Notifier:
    """The Notifier of this process, whose variables are removed: what it starts must not speak for it."""
    found = Notifier(os.environ)
    for name in (NOTIFY, WATCHDOG, WATCHDOG_PID):
        os.environ.pop(name, None)
    return found


# -- the files ------------------------------------------------------------------------------------


class Service(NamedTuple):
    """A daemon as a service of a user's session: the file that says so, and the commands that go with it."""

    name: str
    file: Path
    content: str
    enable: Sequence[Sequence[str]]
    start: Sequence[Sequence[str]]
    disable: Sequence[Sequence[str]]
    reload: Sequence[Sequence[str]]  # after the file is gone

    def write(self) -> None:
        """Write the file; ProjectError when that fails."""
        with translated(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.file, os.fsencode(self.content))


def service_of(
    root: str, command: Sequence[str], environment: Mapping[str, str], *, platform: str = sys.platform
) -> Service:
    """The service of a project's daemon; ``command`` are the words that run it.

    For systemd on Linux, for launchd on macOS.
    """
    from .daemon_folder import DaemonFolder

    digits = Path(DaemonFolder(root).path).name
    kept = {name: environment[name] for name in KEPT if environment.get(name)}
    home = Path(environment.get("HOME") or "~").expanduser()
    if platform == "darwin":
        name = f"max.daemon.{digits}"
        file, domain = home / "Library" / "LaunchAgents" / f"{name}.plist", f"gui/{os.getuid()}"
        enable = [["launchctl", "bootstrap", domain, str(file)]]
        start = [["launchctl", "kickstart", f"{domain}/{name}"]]
        disable = [["launchctl", "bootout", f"{domain}/{name}"]]
        return Service(name, file, launch_agent(name, command, kept), enable, start, disable, [])
    name = f"max-{digits}.service"
    units = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "systemd" / "user"
    systemctl = ["systemctl", "--user"]
    again = [*systemctl, "daemon-reload"]
    enable = [again, [*systemctl, "enable", "--now", name]]
    start, disable = [[*systemctl, "start", name]], [[*systemctl, "disable", "--now", name]]
    return Service(name, units / name, systemd_unit(root, command, kept), enable, start, disable, [again])


def systemd_unit(root: str, command: Sequence[str], environment: Mapping[str, str]) -> str:
    """A user unit.  It is restarted after a crash, not after ``max daemon stop``."""
    settings = [f"Environment={quoted(f'{name}={value}')}" for name, value in environment.items()]
    lines = [
        "[Unit]",
        f"Description=Max daemon of {_one_line(root).replace('%', '%%')}",
        "",
        "[Service]",
        "Type=notify",
        f"ExecStart={' '.join(quoted(word, command=True) for word in command)}",
        "ExecReload=/bin/kill -HUP $MAINPID",
        *settings,
        "Restart=on-failure",
        "RestartSec=5",
        f"WatchdogSec={WATCHED}",
        f"TimeoutStopSec={ENDING}",
        "KillMode=mixed",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def quoted(text: str, *, command: bool = False) -> str:
    """A word as systemd reads it: in quotes, with its specifiers and, in a command, its variables escaped."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    text = text.replace("$", "$$") if command else text
    return '"' + re.sub(r"[\x01-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", text) + '"'


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f\\]", "?", text)


def launch_agent(name: str, command: Sequence[str], environment: Mapping[str, str]) -> str:
    """A LaunchAgent.  It is started again after a crash, not after ``max daemon stop``."""
    import plistlib

    facts = {
        "Label": name,
        "ProgramArguments": list(command),
        "EnvironmentVariables": dict(environment),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": ENDING,
        "ProcessType": "Background",
    }
    return plistlib.dumps(facts).decode()


def run_commands(commands: Sequence[Sequence[str]]) -> list[str]:
    """Run commands in order until one fails; what went wrong, in words, or nothing."""
    for words in commands:
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=60)  # noqa: S603 - our words
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = error.strerror if isinstance(error, OSError) else "it took more than 60 s"
            return [f"{' '.join(words)}: {reason}"]
        if done.returncode:
            said = (done.stderr or done.stdout).strip().split("\n")[0]
            return [f"{' '.join(words)}: {said or f'exit status {done.returncode}'}"]
    return []
