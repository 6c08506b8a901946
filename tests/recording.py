"""A sync that is killed while it is recorded: ``python -m tests.recording DATABASE RECORDING``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from max import Recording
from tests.replays import Upstream, crowd, run, script


async def die(upstream: Upstream) -> None:
    """End this process as a crash does."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(database: Path, recording: Path) -> None:
    """Sync three pages, then die while the fourth is requested."""
    run(crowd(Upstream(script(6) | {"3": [die]})), Recording(recording), database=database)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
