"""``python -m bench [NAME …]``: each in a process of its own, so that none inherits another's memory."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

BENCHES = (
    "startup",
    "first_sync",
    "http_sync",
    "resync",
    "million",
    "history",
    "tasks",
    "latency",
    "queries",
    "paging",
    "memory",
    "file_size",
    "loop",
    "git_sync",
    "linear",
)


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all of them."""
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"unknown benchmark {unknown[0]}; there are: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    if len(names) == 1:
        import_module(f".{names[0]}", __package__).run()
        return 0
    for name in names or BENCHES:
        subprocess.run([sys.executable, "-m", "bench", name], check=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
