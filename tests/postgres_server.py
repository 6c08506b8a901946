"""A real Postgres for the tests: one server for a whole run, and a schema for each test.

Debian's binaries are used (``apt install postgresql``).  The first process of a run that needs the server
starts a keeper, which owns it and ends it when the run's process has ended, however that was.  Nothing
listens but a socket in a folder of the run's own.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SHARED = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_prepared_transactions": "0",
    "jit": "off",  # what it compiles runs once here, and costs a third of all that the server does
    "max_parallel_workers_per_gather": "0",
    "log_min_messages": "fatal",
}
START = 60.0  # seconds that a loaded machine may take to start the server
numbers = itertools.count()
keepers: list[subprocess.Popen[bytes]] = []  # that this process has started; they outlive it for a moment


def binaries() -> Path | None:
    """The folder of the newest Postgres that is installed, if any."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda one: int(one.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return None if initdb is None else Path(initdb).resolve().parent


def reason_to_skip() -> str:
    """Why there can be no server here; empty when there can."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed: pip install '.[postgres]'"
    if binaries() is None:
        return "Postgres is not installed: apt install postgresql"
    return ""


def unprivileged(folder: Path) -> list[str]:
    """What a command begins with so that it does not run as root, which Postgres refuses."""
    if os.getuid() != 0:
        return []
    shutil.chown(folder, "postgres", "postgres")
    return ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--"]


class Server:
    """A server in a folder: its socket, its data, and the process that runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of its database."""
        return f"postgresql://postgres@/postgres?host={self.folder}"

    def create(self) -> None:
        """Make the folder of its data."""
        place = binaries()
        assert place is not None
        command = [*unprivileged(self.folder), str(place / "initdb"), "-D", str(self.data)]
        words = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run([*command, *words], check=True, capture_output=True)

    def start(self, **settings: str) -> None:
        """Start it, and wait until it answers."""
        place = binaries()
        assert place is not None
        words = [f"-c{name}={value}" for name, value in {**SETTINGS, **settings}.items()]
        command = [*unprivileged(self.folder), str(place / "postgres"), "-D", str(self.data), *words]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, f"-cunix_socket_directories={self.folder}"], stdout=log, stderr=log
            )
        until = time.monotonic() + START
        ready = [str(place / "pg_isready"), "-q", "-h", str(self.folder)]
        while subprocess.run(ready, check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError((self.folder / "log").read_text())
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End it: at once, as a crash would."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None


@contextmanager
def server() -> Iterator[Server]:
    """A server of a test's own, which it may end and start again."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="maxpg-", dir=SHARED))
    one = Server(folder)
    try:
        one.create()
        one.start()
        yield one
    finally:
        one.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def pooled(url: str, *, port: int = 6432) -> Iterator[str]:
    """The URL of a database through PgBouncer, which gives out two sessions by the transaction."""
    if shutil.which("pgbouncer") is None:
        pytest.skip("PgBouncer is not installed: apt install pgbouncer")
    folder = Path(tempfile.mkdtemp(prefix="maxpb-", dir=SHARED))
    words = {
        "unix_socket_dir": folder,
        "listen_port": port,
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": 2,
    }
    settings = "\n".join(f"{name} = {value}" for name, value in words.items())
    server_folder = url.rpartition("host=")[2]
    (folder / "ini").write_text(
        f"[databases]\npostgres = host={server_folder} user=postgres\n[pgbouncer]\n{settings}\n"
    )
    command = [*unprivileged(folder), str(shutil.which("pgbouncer")), "-q", str(folder / "ini")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + START
        while not (folder / f".s.PGSQL.{port}").exists():
            if process.poll() is not None or time.monotonic() > until:
                raise AssertionError("PgBouncer did not start")
            time.sleep(0.02)
        yield f"postgresql://postgres@/postgres?host={folder}&port={port}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def shared_url() -> str:
    """The URL of the run's server, which is started when it is not; skips where there can be none."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    run = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    folder = SHARED / f"maxpg-{os.getuid()}-{run}"
    folder.mkdir(exist_ok=True)
    with (SHARED / f"maxpg-{os.getuid()}-{run}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            keeper = [sys.executable, __file__, str(folder), str(run)]
            process = subprocess.Popen(keeper, start_new_session=True, stdin=subprocess.DEVNULL)
            keepers.append(process)
            until = time.monotonic() + START
            while not (folder / "ready").exists():
                if process.poll() is not None or time.monotonic() > until:
                    raise AssertionError("the server did not start")
                time.sleep(0.02)
    return Server(folder).url


def keep(folder: Path, run: int) -> None:
    """Run a server until a process has ended."""
    one = Server(folder)
    try:
        one.create()
        one.start()
        (folder / "ready").touch()
        while is_running(run):
            time.sleep(0.2)
    finally:
        one.stop()
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Whether a process is there, and not only its end that no one has seen."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except OSError:
        return True


def new_schema() -> str:
    """A name that no other test has."""
    return f"t{os.getpid()}_{next(numbers)}"


if __name__ == "__main__":
    keep(Path(sys.argv[1]), int(sys.argv[2]))
