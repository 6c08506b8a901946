"""``python -m bench [NAME …]``."""

from __future__ import annotations

import sys

from . import first_sync, git_sync, startup

BENCHES = {"startup": startup.run, "first_sync": first_sync.run, "git_sync": git_sync.run}


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all of them."""
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"unknown benchmark {unknown[0]}; there are: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    for name in names or BENCHES:
        BENCHES[name]()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
