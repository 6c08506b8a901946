"""Who asks: the caller on whose behalf code runs, for the audit.

It goes with the context: tasks and threads that a call begins act for the same caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class Actor(NamedTuple):
    """Who asks, and how.

    ``via`` is ``program``, ``command line``, ``socket``, ``http``, ``schedule``, ``hook``, ``mcp`` or
    ``daemon``, with the name of a token or a schedule behind a colon where there is one: ``http:ci``.
    ``user`` and ``process`` are those of the caller; empty: of this process.
    """

    via: str = "program"
    user: str = ""
    process: str = ""


_ACTOR: ContextVar[Actor] = ContextVar("actor", default=Actor())  # noqa: B039 - it cannot change


def actor() -> Actor:
    """Who asks here."""
    return _ACTOR.get()


@contextmanager
def acting_as(via: str, *, user: str = "", process: str = "") -> Iterator[None]:
    """What happens inside is asked by this caller: ``with acting_as("http:ci"):``."""
    before = _ACTOR.get()
    _ACTOR.set(Actor(via, user, process))
    try:
        yield
    finally:
        _ACTOR.set(before)
