"""Daemons as processes: starting one in the background, stopping it, and what state each is in.

A start decides nothing: it starts a process, and that process takes the lock or ends.  So two starts at
once give one daemon, and both find it.  The new process reports once, through its standard output: a line
of JSON when it listens, or the error that keeps it from that.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import DaemonError, MaxError
from ..installations.files import FOLDER, translated
from ..storage.leases import describe_worker, local_process
from .daemon_folder import DISABLED, LOG, PID, RESUME, DaemonFolder, known_roots
from .daemon_lock import amend, make_private
from .own_process import own_command, own_environment
from .service_manager import Service, run_commands, service_of
from .wire import Wire

if TYPE_CHECKING:
    from ..model.values import Json

STARTING = 30.0  # seconds that a daemon may take until it listens
STOPPING = 10.0  # seconds that it may take to end
GREETING = 2.0  # seconds that it may take to answer
POLL = 0.02  # seconds between two looks
READY: Mapping[str, Json] = {"ready": True}
LAST_WORDS = 2_000  # characters of the log that an error shows at most


class DaemonState(NamedTuple):
    """A daemon as its files show it.

    ``state`` is "running", "stale" (its process was killed, and its files are there still), "stopped",
    "disabled", or "gone" (its project is).  ``since`` is in seconds since the epoch; it, ``pid`` and
    ``version`` are None unless the daemon runs.
    """

    root: str
    state: str
    folder: str
    pid: int | None = None
    since: float | None = None
    version: str | None = None
    options: Mapping[str, Json] = {}

    def to_json(self) -> dict[str, Json]:
        """The state as JSON data."""
        from ..model.values import moment  # seldom needed

        began = None if self.since is None else moment(self.since)
        return {
            "project": self.root,
            "state": self.state,
            "pid": self.pid,
            "since": began and f"{began:%Y-%m-%dT%H:%M:%SZ}",
            "version": self.version,
            "options": dict(self.options),
            "folder": self.folder,
        }


def state_of(folder: DaemonFolder) -> DaemonState:
    """What state a project's daemon is in; nothing is asked of it."""
    facts, disabled = folder.description(), folder.is_disabled()
    known = facts.get("options")
    options = known if isinstance(known, dict) else {}
    if folder.is_running():
        since, version = facts.get("since"), facts.get("version")
        return DaemonState(
            folder.root,
            "running",
            folder.path,
            folder.pid(),
            float(since) if isinstance(since, int | float) else None,
            version if isinstance(version, str) else None,
            options,
        )
    if not os.path.isdir(os.path.join(folder.root, FOLDER)):  # noqa: PTH112, PTH118
        state = "gone"
    elif disabled:
        state = "disabled"
    else:
        state = "stale" if Path(folder.file(PID)).exists() else "stopped"
    return DaemonState(folder.root, state, folder.path, options=options)


def is_outdated(version: str | None) -> bool:
    """Whether a version of Max, such as ``0.1.0``, is older than this one."""
    from .. import __version__

    return version is not None and numbers(version) < numbers(__version__)


def numbers(version: str) -> list[int]:
    """The numbers of a version, in order."""
    return [int(one) for one in re.findall(r"[0-9]{1,9}", version)]


def known_daemons() -> list[DaemonState]:
    """Every daemon of this user on this machine, whether it runs or not, sorted by the project's folder."""
    return [state_of(DaemonFolder(root)) for root in known_roots()]


# -- starting ------------------------------------------------------------------------------------


def start(
    folder: DaemonFolder, options: Mapping[str, Json], *, resume: bool = False, patience: float = STARTING
) -> bool:
    """Start the daemon of a project in the background, and return when it listens.

    ``options`` are written down for it, and also hold for later ones.  With ``resume`` it goes on with the
    syncs that the former one had under way.  False when one was running already.  DaemonError, or another
    error that it had, when it ends instead.
    """
    until = time.monotonic() + patience
    while folder.is_running() and time.monotonic() < until:  # one that is ending does not answer any more
        if greeting(folder) is not None:
            return False
        time.sleep(POLL)
    amend(folder, options=dict(options), **{RESUME: resume})
    service = own_service(folder)
    if service.file.exists() and not run_commands(service.start):
        wait_until_it_listens(folder, patience)
        return True
    return start_in_background(folder, patience)


def own_service(folder: DaemonFolder) -> Service:
    """The service of systemd or launchd that a project's daemon is, once it is installed."""
    command = own_command("daemon", "run", "-C", folder.root)
    return service_of(folder.root, command, own_environment())


def start_in_background(folder: DaemonFolder, patience: float) -> bool:
    """Start a daemon as a process of its own; False when another one was faster."""
    words = own_command("daemon", "run", "--background", "-C", folder.root)
    with translated(Path(folder.path)):
        log = os.open(folder.file(LOG), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        begun = os.fstat(log).st_size
        process = subprocess.Popen(  # noqa: S603 - our own words
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder.root,
            env=own_environment(),
            start_new_session=True,
        )
    finally:
        os.close(log)
    with process:
        report = read_report(process, patience)
    if report == READY:
        return True
    if report.get("code") == "daemon.running":
        wait_until_it_listens(folder, patience)
        return False
    raise failed(folder, report, begun)


def read_report(process: subprocess.Popen[bytes], patience: float) -> dict[str, Json]:
    """What a daemon that starts reports; empty when it ends without a word, or takes too long."""
    from select import select

    assert process.stdout is not None  # noqa: S101 - it was asked for
    until, data = time.monotonic() + patience, b""
    while not data.endswith(b"\n"):
        ready, _, _ = select([process.stdout], [], [], max(0.0, until - time.monotonic()))
        more = os.read(process.stdout.fileno(), 65_536) if ready else b""
        if not more:
            return {"late": True} if not ready else {}
        data += more
    found = json.loads(data)
    return found if isinstance(found, dict) else {}


def failed(folder: DaemonFolder, report: Mapping[str, Json], begun: int) -> MaxError:
    """The error of a daemon that did not start; what the log says since ``begun`` (bytes) is in it."""
    if "message" in report:
        reported: MaxError = Wire().decode({"$error": dict(report)}, ())
        return reported
    log = Path(folder.file(LOG))
    if report.get("late"):
        problem = f"the daemon of {folder.root} does not listen after {STARTING:g} s"
    else:
        problem = f"the daemon of {folder.root} ended while it started"
    words = last_words(log, begun)
    return DaemonError(f"{problem}{words and f': {words}'}", hint=f"its log is {log}", log=str(log))


def in_background(be: Callable[[Callable[[], None]], None]) -> None:
    """Leave the process that started this one, and be a daemon; report through standard output, once.

    ``be`` gets the function that it calls when it listens, and returns when the daemon has ended.
    """
    if os.fork():  # nothing else runs here yet; the process that started this one gets no child to wait for
        os._exit(0)
    os.setsid()
    report = os.fdopen(os.dup(1), "wb")

    def say(data: Mapping[str, Json]) -> None:
        with suppress(OSError), report:  # the process that waited for it may have been killed
            report.write(json.dumps(data).encode() + b"\n")

    try:
        be(lambda: say(READY))
    except MaxError as error:
        if not report.closed:
            say(error.describe())
        raise


def last_words(log: Path, begun: int) -> str:
    """The last line of a log behind a place in bytes, in which a traceback names its error."""
    try:
        with log.open("rb") as opened:
            opened.seek(begun if begun <= os.fstat(opened.fileno()).st_size else 0)
            lines = opened.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((one.strip()[-LAST_WORDS:] for one in reversed(lines) if one.strip()), "")


def wait_until_it_listens(folder: DaemonFolder, patience: float = STARTING) -> None:
    """Wait for another process that is the daemon, or becomes it; DaemonError when it ends or takes long."""
    until = time.monotonic() + patience
    while greeting(folder) is None:
        if not folder.is_running():
            raise DaemonError(f"the daemon of {folder.root} ended while it started", hint="try it again")
        if time.monotonic() >= until:
            who = describe_worker(folder.holder())
            raise DaemonError(
                f"{who} is the daemon of {folder.root}, and does not answer at {folder.socket}",
                hint="max daemon restart --force replaces it",
            )
        time.sleep(POLL)


def greeting(folder: DaemonFolder) -> dict[str, Json] | None:
    """What a daemon says first at its socket, ``{"max": version, …}``; None when none answers."""
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(GREETING)
        try:
            connection.connect(folder.socket)
            with connection.makefile("rb") as stream:
                found = json.loads(stream.readline(65_536))
        except (OSError, ValueError):
            return None
    return found if isinstance(found, dict) else None


def begin_restart(root: str) -> None:
    """Restart the daemon of a project if it is of an older Max, in a process of its own, without waiting."""
    words = own_command("daemon", "restart", "--outdated", "--quiet", "-C", root)
    silent = subprocess.DEVNULL
    process = subprocess.Popen(  # noqa: S603 - our own words
        words, stdin=silent, stdout=silent, stderr=silent, env=own_environment(), start_new_session=True
    )
    process.returncode = 0  # it is not waited for, and must not be warned about


# -- stopping ------------------------------------------------------------------------------------


def stop(folder: DaemonFolder, *, who: str | None = None, force: bool = False) -> bool:
    """Stop a project's daemon and wait for its end; False when none runs.

    It pauses its syncs and leaves.  With ``force`` it is killed: its syncs are interrupted, and go on from
    their last page.  ``who`` is the process that is meant, as ``holder`` names it: another is left alone.
    DaemonError when it cannot be signalled from here, or has not ended in time.
    """
    until = time.monotonic() + STOPPING
    number, signalled = signal.SIGKILL if force else signal.SIGTERM, False
    who = who or running_process(folder, until)
    while who and folder.is_running() and folder.holder() in (who, ""):
        signalled = signalled or send_signal(who, number)
        if time.monotonic() >= until:
            raise late(folder, who, STOPPING, signalled=signalled)
        time.sleep(POLL)
    return signalled


def running_process(folder: DaemonFolder, until: float) -> str:
    """The process that is the daemon; empty when none runs.  One that just starts is waited for."""
    while folder.is_running():
        if (who := folder.holder()) or time.monotonic() >= until:
            return who
        time.sleep(POLL)
    return ""


def late(folder: DaemonFolder, who: str, patience: float, *, signalled: bool) -> DaemonError:
    """The error of a daemon that did not end."""
    words = f"{describe_worker(who)} is the daemon of {folder.root}"
    if not signalled:
        hint = "stop it where it runs: in another container, on another machine, or as another user"
        return DaemonError(f"{words}, and cannot be signalled from here", hint=hint)
    return DaemonError(
        f"{words}, and has not ended after {patience:g} s",
        hint="wait for it, or kill it with: max daemon stop --force; nothing that is stored is lost",
    )


def send_signal(who: str, number: signal.Signals) -> bool:
    """Send a signal to a process by its name; False when it is not certain which process that is."""
    pid = local_process(who)
    if pid is None:
        return False
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


# -- whether it may start ------------------------------------------------------------------------


def set_disabled(folder: DaemonFolder, disabled: bool) -> bool:
    """Allow a project's daemon to start, or not; whether that changed."""
    make_private(folder)
    mark = Path(folder.file(DISABLED))
    with translated(mark):
        if disabled == mark.exists():
            return False
        if not folder.description():
            amend(folder)  # a list of all daemons shows this one, too
        if disabled:
            mark.touch(mode=0o600)
        else:
            mark.unlink(missing_ok=True)
    return True
