"""Waiting for what other threads and processes do: a condition ends it; its bound only a test that hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 240.0  # seconds after which what is waited for will not come


def wait_until(condition: Callable[[], Any], what: str = "") -> Any:
    """What a condition answers, once that is true."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"it did not become so: {what or condition}"
        time.sleep(0.01)
    return found


async def until(condition: Callable[[], object]) -> None:
    """The same on an event loop, for what has no event to wait for."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - of other threads and processes
            await asyncio.sleep(0.005)
