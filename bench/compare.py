"""Two checkouts beside each other: the same benchmarks, in turn, and how each row changed."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .measure import CHECKOUT


def compare(other: Path, names: Sequence[str], rounds: int) -> None:
    """Print each row's median ratio in the other checkout and in this one, and the change in percent."""
    for name in names:
        before: dict[str, list[float]] = {}
        now: dict[str, list[float]] = {}
        for _ in range(rounds):
            for checkout, ratios in ((other, before), (CHECKOUT, now)):
                for what, ratio in ratios_of(checkout, name):
                    ratios.setdefault(what, []).append(ratio)
        print(f"\n{name}: {other} → {CHECKOUT}, medians of {rounds}")
        for what in dict.fromkeys([*before, *now]):
            print(f"  {what:<44}  {change(before.get(what), now.get(what))}", flush=True)


def ratios_of(checkout: Path, name: str) -> Iterator[tuple[str, float]]:
    """What each row of a benchmark is, with its ratio to the reference of the same run."""
    paths = os.pathsep.join([str(checkout), str(checkout / "connectors")])
    done = subprocess.run(
        [sys.executable, "-m", "bench", name],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    for line in done.stdout.splitlines():
        if line.startswith('{"bench"'):
            for row in json.loads(line)["rows"]:
                yield f"{row['what']}, × {row['against']}", row["ratio"]


def change(before: list[float] | None, now: list[float] | None) -> str:
    """Both medians and by how many percent the second differs."""
    if before is None or now is None:
        return "only here" if before is None else "only there"
    old, new = statistics.median(before), statistics.median(now)
    return f"{old:8.3f} → {new:8.3f}  {100 * (new / old - 1):+6.1f} %" if old else f"{old:8.3f} → {new:8.3f}"
