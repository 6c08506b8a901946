"""``python -m bench [NAME …]``: each in a process of its own, so that none inherits another's memory.

``python -m bench --against CHECKOUT [--rounds N] [NAME …]`` runs those of another checkout in turn.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from .compare import compare

BENCHES = (
    "startup",
    "daemon",
    "mcp",
    "first_sync",
    "mapping",
    "inline",
    "http_sync",
    "resync",
    "million",
    "find",
    "history",
    "tasks",
    "postgres",
    "latency",
    "queries",
    "paging",
    "aggregates",
    "frames",
    "memory",
    "file_size",
    "loop",
    "git_sync",
    "linear",
    "peers",
)


def main(words: list[str]) -> int:
    """Run the named benchmarks, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with another checkout")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of a comparison (default 3)")
    options = parser.parse_args(words)
    unknown = [name for name in options.names if name not in BENCHES]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]}; there are: {', '.join(BENCHES)}")
    if options.against:
        compare(options.against.resolve(), options.names or BENCHES, options.rounds)
    elif len(options.names) == 1:
        import_module(f".{options.names[0]}", __package__).run()
    else:
        for name in options.names or BENCHES:
            subprocess.run([sys.executable, "-m", "bench", name], check=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
