"""Leases: which process runs a sync, and whether it is still alive."""

from __future__ import annotations

import os
from pathlib import Path

LEASE = 60.0  # seconds without a heartbeat after which a worker of another machine counts as dead


def this_machine() -> str:
    """Host and boot: processes with the same value can see whether the other is alive."""
    host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{host.replace('/', '_')}/{boot}"


def process_start(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def new_worker() -> str:
    """The name of a new worker of this process: ``host/boot/pid/start/serial``."""
    pid = os.getpid()
    return f"{this_machine()}/{pid}/{process_start(pid)}/{os.urandom(4).hex()}"


def is_alive(worker: str, heartbeat_at: float, now: float) -> bool:
    """Whether a worker still holds its leases.

    On this machine its process must be running; elsewhere its heartbeat must be recent.
    """
    host, boot, pid, start, _ = worker.split("/")
    here_host, here_boot = this_machine().split("/")
    if host != here_host:
        return now - heartbeat_at < LEASE
    return boot == here_boot and _runs(int(pid)) and process_start(int(pid)) == start


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def describe_worker(worker: str) -> str:
    """A worker in words: ``process 4711 on host``."""
    host, _, pid, _, _ = worker.split("/")
    return f"process {pid} on {host}"
