"""Leases: which process runs a sync, and whether it still lives.

A worker lives for LEASE seconds after each heartbeat.  The operating system may end that early, where
it can say for certain that the process is gone: on the same start of the same system, and among the
same processes.  Containers share a host's name, and process ids are given again, so names and ids
alone say nothing; without /proc (macOS, Windows) the time alone decides.

A heartbeat from the future is no sign of life: a clock was set back, or is wrong.  On a server its own
clock says when a heartbeat was, and how long ago that is: those of hosts do not matter.
"""

from __future__ import annotations

import os
from pathlib import Path

from .database import Connection

LEASE = 60.0  # seconds for which a worker lives after a heartbeat
SKEW = 5.0  # seconds by which the clocks of two machines may differ


def this_system() -> str:
    """``boot/processes``: which start of a system this is, and among which processes; "/" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        processes, own = Path("/proc/self/ns/pid").readlink(), Path("/proc/self").readlink()
    except OSError:
        return "/"
    return f"{boot}/{processes}" if str(own) == str(os.getpid()) else "/"  # else it is another system's /proc


def process_start(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; empty when it is gone, None when it cannot be seen."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except ProcessLookupError:
        return ""
    except FileNotFoundError:
        return None if _has(pid) else ""  # /proc may hide the processes of other users
    except OSError:
        return None
    return "" if after_name[0] in "ZX" else after_name[19]  # a zombie does nothing any more


def _has(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def new_worker() -> str:
    """The name of a new worker of this process: ``host/boot/processes/pid/start/serial``."""
    host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    pid, system = os.getpid(), this_system()
    start = "" if system == "/" else process_start(pid) or ""
    return f"{host.replace('/', '_')}/{system}/{pid}/{start}/{os.urandom(4).hex()}"


def clock_of(connection: Connection, now: float) -> float:
    """The time by which heartbeats are compared: the server's, or ``now`` where there is none."""
    return float(connection.execute(connection.dialect.sql("SELECT {clock:now}"), {"now": now}).fetchone()[0])


def is_alive(worker: str, heartbeat_at: float, now: float) -> bool:
    """Whether a worker still holds its leases."""
    return -SKEW <= now - heartbeat_at < LEASE and not is_gone(worker)


def is_gone(worker: str) -> bool:
    """Whether the operating system says for certain that a worker's process has ended."""
    _, system, pid, start, _ = _parts(worker)
    if not start or not pid.isdecimal() or system != this_system():
        return False
    return process_start(int(pid)) not in (start, None)


def local_process(worker: str) -> int | None:
    """The id of a worker's process, when a signal to it from here reaches no other; None otherwise.

    Without /proc it is only known that the worker began on a host of this name.
    """
    host, system, pid, start, _ = _parts(worker)
    if not pid.isdecimal():
        return None
    here = this_system()
    if here == "/" == system:
        return int(pid) if host == os.uname().nodename.replace("/", "_") and _has(int(pid)) else None
    return int(pid) if system == here and start and process_start(int(pid)) == start else None


def _parts(worker: str) -> list[str]:
    """Host, system, process id, its start and the serial; empty where a name has none."""
    match worker.split("/"):
        case [host, boot, processes, pid, start, serial]:
            return [host, f"{boot}/{processes}", pid, start, serial]
        case [host, *_, pid, _, _]:  # of an older version
            return [host, "", pid, "", ""]
    return ["", "", "", "", ""]


def describe_worker(worker: str) -> str:
    """A worker in words: ``process 4711 on host``."""
    host, _, pid, *_ = _parts(worker)
    return f"process {pid} on {host}" if pid else "an unknown process"
