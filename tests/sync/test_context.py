"""Shared values of raw loaders: each loads once, and loads that wait for each other are refused."""

from __future__ import annotations

from typing import Any

import pytest

from max.model.loaders import Env, Loader
from max.model.tasks import Status, SyncResult
from tests.scenes import NAMES, RAW, USERS, Source, named, outcome, slow, users
from tests.virtual_time import later


@Loader.raw
async def other(env: Env[Source]) -> Any:
    """Needs the value of the scene's own raw loader."""
    await later(1.0)
    return await env.raw(RAW)


async def needs_the_other(what: Any, env: Env[Any]) -> Any:
    """Needs the other value, which needs this one."""
    await later(1.0)
    return await env.raw(other)


async def needs_itself(what: Any, env: Env[Any]) -> Any:
    """Needs its own value."""
    return await env.raw(RAW)


async def needs_raw(id: str, env: Env[Any]) -> Any:
    """A name, after the shared value is loaded."""
    await env.raw(RAW)
    return await named(id, env)


async def needs_other(id: str, env: Env[Any]) -> Any:
    """A name, after the other shared value is loaded."""
    await env.raw(other)
    return await named(id, env)


def failed(result: SyncResult) -> list[str]:
    """The ids that failed because of a circle, sorted."""
    assert all("waits for" in one.message and one.code == "connector.fault" for one in result.failures)
    return sorted(str(one.id) for one in result.failures)


@pytest.mark.parametrize("raw", [needs_itself, needs_the_other])
def test_raw_loaders_that_wait_for_themselves_are_refused(raw: Any) -> None:
    result = outcome(Source(users=[users("a", "b")], name=[needs_raw], raw=[raw]), USERS, NAMES)
    assert failed(result) == ["a", "b"]


def test_a_circle_that_two_tasks_enter_at_different_loaders_is_refused() -> None:
    source = Source(users=[users("a", "b")], name=[needs_raw, needs_other], raw=[needs_the_other])
    assert failed(outcome(source, USERS, NAMES)) == ["a", "b"]


def test_a_raw_loader_may_use_another_one() -> None:
    source = Source(users=[users("a", "b")], name=[needs_other], raw=[slow(2.0, "shared")])
    result = outcome(source, USERS, NAMES)
    assert (result.status, source.count("raw")) == (Status.COMPLETED, 1)
