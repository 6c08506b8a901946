"""Retries of tasks: which errors may pass, and when what they stopped runs again.

Calls have retries of their own (upstream/operations.py), of seconds.  A task is retried when these
are used up, after a delay that doubles, so that a service may be away for an hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UpstreamError, bounded_wait, describe
from ..model.tasks import Settlement, State, Task
from .context import SyncContext

TRIES = 5  # of a task, without progress in between
FIRST_DELAY, LONGEST_DELAY = 2.0, 900.0  # seconds before a failed task runs again, doubled each time


def may_pass(error: Exception | None, tries: int) -> bool:
    """Whether what met an error on its latest try is tried again."""
    return isinstance(error, UpstreamError) and error.retryable and tries < TRIES


def delay(context: SyncContext, tries: int, *errors: Exception) -> float:
    """Seconds before the next try: our own delay, or the longest for which an error asks."""
    own = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (tries - 1)) * (0.5 + context.jitter() / 2)
    asked = [bounded_wait(one.retry_after) or 0.0 for one in errors if isinstance(one, UpstreamError)]
    return max(own, *asked)


def run_again(context: SyncContext, task: Task, tries: int, *errors: Exception) -> Settlement:
    """Have the task run again; people read the first error."""
    error = {**_with_host(describe(errors[0])), "try": tries + 1, "of": TRIES}
    return Settlement(task, State.PENDING, wait=delay(context, tries, *errors), error=error)


def _with_host(error: Mapping[str, Any]) -> Mapping[str, Any]:
    """An error for people who wait for its service: its message names the host."""
    host, message = error["data"].get("host", ""), error["message"]
    return error if host in message else {**error, "message": f"{host}: {message}"}
