"""Helpers for connector authors: a service that fails on request, and a clock whose waits take no time.

    >>> from max.testing import FakeClock, Fault, FaultKind, ScriptedUpstream
    >>> clock = FakeClock()
    >>> upstream = ScriptedUpstream({"/things": [{"id": "1"}, {"id": "2"}]}, page_size=1)
    >>> upstream.inject(Fault(FaultKind.RATE_LIMIT, "/things", page=1, times=3))
    >>> async def main() -> None:
    ...     async with upstream:
    ...         ...  # sync a connector whose address is upstream.url
    >>> clock.run(main())  # every wait in it takes no time
    >>> dict(upstream.served)  # once synced: {"/things": 1, "/things?cursor=page-1": 1}
    {}

The service is a real HTTP server on a local port, in the caller's event loop.  The command
``max connector test`` is here as well.  docs/testing.md shows how the parts fit together.
"""

from .clock import START, FakeClock
from .dialects import LINKS, Cursors, Dialect, Offsets, Pages, Part, Relay, cut
from .harness import credentials_for, runtime
from .proxy import FaultyProxy, ProxyFault
from .scripted import Fault, RateLimit, ScriptedUpstream
from .server import FOREVER, PAUSE, FaultKind, LocalServer, Request, Response
from .trial import Fake

__all__ = [
    "FOREVER",
    "LINKS",
    "PAUSE",
    "START",
    "Cursors",
    "Dialect",
    "Fake",
    "FakeClock",
    "Fault",
    "FaultKind",
    "FaultyProxy",
    "LocalServer",
    "Offsets",
    "Pages",
    "Part",
    "ProxyFault",
    "RateLimit",
    "Relay",
    "Request",
    "Response",
    "ScriptedUpstream",
    "credentials_for",
    "cut",
    "runtime",
]
