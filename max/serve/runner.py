"""The process of one installation: it answers the methods on its standard streams.

    python -m max.serve.runner PROJECT INSTALLATION [--trusted]

It is started by a Supervisor, never by hand.  It reads its secrets itself, so that none is in its command
or its environment.

Rule 1: stdout's own descriptor is taken away before a connector is loaded.  What that prints goes to
stderr, of which the supervisor keeps the end.

Rule 2: it ends when its input ends, as when its parent was killed, and on SIGTERM.  A sync under way is
left where it is, and any process can go on with it.

Rule 3: a thread of its own watches what the event loop cannot while a connector blocks it: that it uses no
more memory than it may, and that its parent lives.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..model.actor import acting_as
from ..model.settings import DEFAULTS
from ..project import Project
from ..projects.audit import recorded_elsewhere
from ..projects.manager import ProjectManager
from ..projects.opening import at_place
from .method import Method
from .methods import Methods
from .own_process import stay_small
from .protocol import Bounds, serve_connection
from .standard_streams import standard_streams
from .supervisor import OVER_MEMORY

MEGABYTE = 1_000_000
LOOK = 0.2  # seconds between two looks of the thread
ORPHAN = 5.0  # seconds that a process lives on without its parent, at most
SLACK = 4_000  # megabytes of address space beyond the memory: code, stacks and files take some
PATIENCE = 3_600.0  # seconds that the supervisor may read nothing
CALLS = 10_000  # open at once: the supervisor's callers have bounds of their own


def main(words: Sequence[str]) -> None:
    """Answer until the input ends."""
    stay_small()
    root, name, *flags = words
    faulthandler.enable(all_threads=False)
    manager = at_place(root, trusted="--trusted" in flags)
    memory = (manager.target(name).settings if name else DEFAULTS).runner_memory
    limit_memory(memory)
    watcher = threading.Thread(target=watch, args=(memory, os.getppid()), name="max-watcher", daemon=True)
    watcher.start()
    with acting_as("daemon"):
        asyncio.run(serve(manager))


class RunnerMethods(Methods):
    """The methods as a runner answers them: what it is asked to change is recorded where it was asked for."""

    async def _recorded(self, method: Method, arguments: dict[str, Any]) -> Any:
        with recorded_elsewhere():
            return await self._written(method, arguments)


async def serve(manager: ProjectManager) -> None:
    """Answer the methods on the standard streams; stop at the end of the input, or at SIGTERM."""
    loop = asyncio.get_running_loop()
    reader, writer = await standard_streams()
    bounds = Bounds(calls=CALLS, all_calls=CALLS, patience=PATIENCE)
    async with Project(manager) as project:
        serving = asyncio.create_task(serve_connection(reader, writer, RunnerMethods(project), bounds))
        loop.add_signal_handler(signal.SIGTERM, serving.cancel)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # its supervisor decides
        await asyncio.wait([serving])


# -- what the loop cannot see ------------------------------------------------------------------


def limit_memory(megabytes: int) -> None:
    """Make the system refuse one huge allocation, which the watching thread would see too late."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold secrets
    if megabytes and sys.platform == "linux":  # elsewhere the limit is not kept, or not known
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = (megabytes + SLACK) * MEGABYTE
        wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, most))


def watch(megabytes: int, parent: int) -> None:
    """End this process when it uses too much memory, or has lost its parent and does not end."""
    orphaned: float | None = None
    while True:
        used = memory_used() / MEGABYTE
        if megabytes and used > megabytes:
            leave(f"it uses {used:,.0f} MB of memory, and may use {megabytes:,}", OVER_MEMORY)
        if os.getppid() != parent:
            orphaned = orphaned or time.monotonic()
            if time.monotonic() - orphaned > ORPHAN:
                leave("the process that started it is gone", 1)
        time.sleep(LOOK)


def leave(words: str, status: int) -> None:
    """End this process at once, and say why and where it was; nothing that was stored is lost."""
    with suppress(OSError):  # stderr may have no reader any more
        os.write(2, f"\n{words}\n".encode())
        faulthandler.dump_traceback(file=2)
    os._exit(status)


def memory_used() -> int:
    """Bytes of memory that this process uses; where the system does not say, the most that it ever used."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1_024
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(sys.argv[1:])
