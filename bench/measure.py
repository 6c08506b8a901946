"""Timing: interleaved rounds, medians, processor time beside wall time."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Run = Callable[[], None]


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds, in seconds."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Row:
    """One line of a report; ``ratio`` is to the reference that ``against`` names."""

    what: str
    value: str
    ratio: float
    against: str
    must: str = ""


@dataclass(frozen=True)
class Measured:
    """What one command took: processor and wall seconds, and the KiB that its last line tells."""

    cpu: float
    wall: float
    peak: int


def measured(command: Sequence[str], folder: Path) -> Measured:
    """Run a command to its end in a folder; CalledProcessError when it fails."""
    began = time.perf_counter()
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
    told = (folder / "output.txt").read_text()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, told)
    peak = int(told.split()[-1])
    return Measured(usage.ru_utime + usage.ru_stime, time.perf_counter() - began, peak)


def spent() -> float:
    """Processor seconds of this process, its threads and its ended children."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def interleaved(runs: Mapping[str, Run], rounds: int) -> dict[str, Timing]:
    """Run each in turn, round by round, and give each one's medians."""
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began, used = time.perf_counter(), spent()
            run()
            cpu[name].append(spent() - used)
            wall[name].append(time.perf_counter() - began)
    return {name: Timing(statistics.median(cpu[name]), statistics.median(wall[name])) for name in runs}


def report(title: str, rows: Sequence[Row]) -> None:
    """Print a table for people, then one line of JSON."""
    print(f"\n{title}")
    width = max(len(row.what) for row in rows)
    for row in rows:
        must = f"  (must: {row.must})" if row.must else ""
        print(f"  {row.what:<{width}}  {row.value:>16}  {row.ratio:6.2f} × {row.against}{must}")
    print(json.dumps({"bench": title, "rows": [vars(row) for row in rows]}))
