"""Timing: interleaved rounds, medians, processor time beside wall time."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

Run = Callable[[], None]

CHECKOUT = Path(__file__).parents[1]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    "PYTHONPATH": str(CHECKOUT),
}  # of the commands that are measured: this checkout, compiled once as users have it


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds, in seconds."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Row:
    """One line of a report: the ratio to what ``against`` names, and ``wall``, the same by the clock."""

    what: str
    value: str
    ratio: float
    against: str
    must: str = ""
    wall: float | None = None


@dataclass(frozen=True)
class Measured:
    """What one command took: processor and wall seconds, and the KiB that its last line tells."""

    cpu: float
    wall: float
    peak: int


def measured(command: Sequence[str], folder: Path) -> Measured:
    """Run a command to its end in a folder; RuntimeError with its own words when it fails."""
    began = time.perf_counter()
    with (folder / "output.txt").open("wb") as output, (folder / "errors.txt").open("wb") as errors:
        process = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {(folder / 'errors.txt').read_text()}")
    peak = int((folder / "output.txt").read_text().split()[-1])
    return Measured(usage.ru_utime + usage.ru_stime, time.perf_counter() - began, peak)


def part(module: str, *words: object) -> Measured:
    """Run a module of the benchmarks by itself, so that nothing else counts; it tells its peak at the end."""
    with tempfile.TemporaryDirectory() as folder:
        return measured([sys.executable, "-m", module, *map(str, words)], Path(folder))


def tell_peak() -> None:
    """Print the most memory that this process has used, in KiB: the last line that ``measured`` reads."""
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


@contextmanager
def fresh_paths() -> Iterator[Callable[[], Path]]:
    """Gives a new path at each call; all are deleted in the end."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = count()
        yield lambda: Path(folder) / f"{next(numbers)}.db"


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
        wall = f", by the clock {row.wall:.2f} ×" if row.wall is not None else ""
        print(f"  {row.what:<{width}}  {row.value:>22}  {row.ratio:6.2f} × {row.against}{wall}{must}")
    print(json.dumps({"bench": title, "rows": [vars(row) for row in rows]}))
