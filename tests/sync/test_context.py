"""Surroundings: values that loaders share are loaded once, and never waited for in a circle."""

from __future__ import annotations

from typing import Any

import pytest

from max.model.loaders import Env, Loader
from max.model.tasks import Status, SyncResult
from tests.scenes import NAMES, RAW, USERS, Source, named, outcome, slow, users
from tests.virtual_time import later


@Loader.raw
async def other(env: Env[Source]) -> Any:
    """Asks for what the scene's own raw loader gives."""
    await later(1.0)
    return await env.raw(RAW)


async def asks_other(what: Any, env: Env[Any]) -> Any:
    """Asks for what asks for itself."""
    await later(1.0)
    return await env.raw(other)


async def asks_itself(what: Any, env: Env[Any]) -> Any:
    """Asks for what it is to give."""
    return await env.raw(RAW)


async def needs_raw(id: str, env: Env[Any]) -> Any:
    """A name, once the shared value is there."""
    await env.raw(RAW)
    return await named(id, env)


async def needs_other(id: str, env: Env[Any]) -> Any:
    """A name, once the other shared value is there."""
    await env.raw(other)
    return await named(id, env)


def failed(result: SyncResult) -> list[str]:
    """The ids that failed for a circle, in their order."""
    assert all("waits for" in one.message and one.code == "connector.fault" for one in result.failures)
    return sorted(str(one.id) for one in result.failures)


@pytest.mark.parametrize("raw", [asks_itself, asks_other])
def test_loads_that_wait_for_themselves_are_refused(raw: Any) -> None:
    result = outcome(Source(users=[users("a", "b")], name=[needs_raw], raw=[raw]), USERS, NAMES)
    assert failed(result) == ["a", "b"]


def test_a_circle_that_two_tasks_enter_at_different_places_is_refused() -> None:
    source = Source(users=[users("a", "b")], name=[needs_raw, needs_other], raw=[asks_other])
    assert failed(outcome(source, USERS, NAMES)) == ["a", "b"]


def test_a_load_may_ask_for_another_one() -> None:
    source = Source(users=[users("a", "b")], name=[needs_other], raw=[slow(2.0, "shared")])
    result = outcome(source, USERS, NAMES)
    assert (result.status, source.count("raw")) == (Status.COMPLETED, 1)
