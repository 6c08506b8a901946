"""Middlewares: entered in order, left in reverse, once an attempt, whatever any of them raises."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.connecting import BadCredentials, PermissionDenied, Retry, UpstreamBroken
from max.errors import MaxError, MiddlewareFault
from max.model.middleware import Middleware, around
from max.upstream.operations import Call, Limits, Operation, OperationRunner
from tests import virtual_time

Seen = tuple[str, int, str]  # before or after, which middleware, with which outcome

WAYS = st.sampled_from(["", "", "", "refuse", "bug before", "bug after", "other after", "swallow"])
INSIDE = st.sampled_from(["", "upstream", "bug", "cancel"])


class Other(MaxError):
    """An error that a middleware puts in the place of another."""

    code = "other"


class Watching(AbstractAsyncContextManager[None]):
    """A middleware's context, which behaves in one way."""

    def __init__(self, number: int, way: str, seen: list[Seen]) -> None:
        self.number, self.way, self.seen = number, way, seen

    async def __aenter__(self) -> None:
        self.seen.append(("before", self.number, ""))
        if self.way == "refuse":
            raise PermissionDenied("refused")
        if self.way == "bug before":
            raise ValueError("before")

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        self.seen.append(("after", self.number, type(error).__name__ if error else ""))
        if self.way == "bug after":
            raise ValueError("after")
        if self.way == "other after":
            raise Other("other")
        return self.way == "swallow"


def watching(number: int, way: str, seen: list[Seen]) -> Middleware[object]:
    """A middleware that behaves in one way."""
    return lambda _: Watching(number, way, seen)


def expected(ways: list[str], inside: str) -> tuple[list[Seen], str]:
    """What middlewares must see and what the caller gets, computed without running one."""
    raised = {"": "", "upstream": "UpstreamBroken", "bug": "KeyError", "cancel": "CancelledError"}[inside]
    stops = [n for n, way in enumerate(ways) if way in ("refuse", "bug before")]
    entered = ways[: stops[0]] if stops else ways
    seen: list[Seen] = [("before", n, "") for n in range(len(entered) + bool(stops))]
    if stops:
        raised = "PermissionDenied" if ways[stops[0]] == "refuse" else "MiddlewareFault"
    for number in reversed(range(len(entered))):
        seen.append(("after", number, raised))
        raised = {"bug after": "MiddlewareFault", "other after": "Other"}.get(entered[number], raised)
    return seen, raised


def errors(inside: str) -> BaseException | None:
    return {"upstream": UpstreamBroken("down"), "bug": KeyError("x"), "cancel": asyncio.CancelledError()}.get(
        inside
    )


@given(st.lists(WAYS, max_size=6), INSIDE)
@settings(deadline=None)
def test_p25_middlewares_are_entered_in_order_and_left_in_exact_reverse(ways: list[str], inside: str) -> None:
    seen: list[Seen] = []

    async def main() -> str:
        middlewares = [watching(number, way, seen) for number, way in enumerate(ways)]
        try:
            async with around(middlewares, None):
                if error := errors(inside):
                    raise error
        except BaseException as error:
            return type(error).__name__
        return ""

    outcome = asyncio.run(main())
    assert (seen, outcome) == expected(ways, inside)


OUTCOMES = st.lists(st.sampled_from(["broken", "refused", "good"]), max_size=5)


@given(st.integers(0, 5), OUTCOMES, st.booleans())
@settings(deadline=None)
def test_p24_each_middleware_is_entered_and_left_exactly_once_in_every_attempt(
    many: int, said: list[str], renews: bool
) -> None:
    answers, entered, left, attempts = iter(said), Counter[Any](), Counter[Any](), []

    async def ask(context: str, input: int) -> int:
        attempts.append(input)
        match next(answers, "good"):
            case "broken":
                raise UpstreamBroken("down")
            case "refused":
                raise BadCredentials("expired")
        return input

    def counting(number: int) -> Middleware[Call]:
        @asynccontextmanager
        async def count(call: Call) -> AsyncIterator[None]:
            entered[number, call.attempt] += 1
            try:
                yield
            finally:
                left[number, call.attempt] += 1

        return count

    async def renew() -> None:
        """The next attempt has another credential."""

    operation = Operation("t:thing:get", ask, retry=Retry(attempts=3))
    runner = OperationRunner(
        Limits(), middlewares=[counting(n) for n in range(many)], renew=renew if renews else None
    )

    async def main() -> None:
        try:
            await runner.run(operation, "", 1)
        except MaxError:
            return

    virtual_time.run(main())
    each = {(number, attempt + 1): 1 for number in range(many) for attempt in range(len(attempts))}
    assert (entered, left) == (each, each)


def test_a_middleware_knows_the_operation_its_input_and_whose_call_it_is() -> None:
    seen: list[tuple[str, object, int, str]] = []

    @asynccontextmanager
    async def note(call: Call) -> AsyncIterator[None]:
        seen.append((call.operation.name, call.input, call.attempt, call.installation))
        yield

    async def ask(context: str, input: int) -> int:
        return input

    runner = OperationRunner(Limits(), middlewares=[note], installation="ab12")
    assert asyncio.run(runner.run(Operation("t:thing:get", ask), "", 7)) == 7
    assert seen == [("t:thing:get", 7, 1, "ab12")]


def test_a_bug_of_a_middleware_names_it_and_is_none_of_the_connectors() -> None:
    @asynccontextmanager
    async def wrong(call: object) -> AsyncIterator[None]:
        raise ZeroDivisionError("division by zero")
        yield

    async def main() -> None:
        async with around([wrong], None):
            pass

    with pytest.raises(MiddlewareFault, match=r"the middleware .*wrong raised ZeroDivisionError: division"):
        asyncio.run(main())


def test_an_error_that_a_middleware_swallows_is_raised_all_the_same() -> None:
    seen: list[Seen] = []

    async def main() -> None:
        outer, inner = Watching(0, "", seen), Watching(1, "swallow", seen)
        async with around([lambda _: outer, lambda _: inner], None):
            raise UpstreamBroken("down")

    with pytest.raises(UpstreamBroken):
        asyncio.run(main())
    assert seen[-1] == ("after", 0, "UpstreamBroken")


def test_without_middlewares_the_chain_has_no_part_more() -> None:
    one = OperationRunner(Limits(), middlewares=[lambda _: around([], None)])
    assert (len(chain_of(OperationRunner(Limits()))), len(chain_of(one))) == (1, 2)


def chain_of(runner: OperationRunner) -> list[str]:
    """The parts of a runner's chain, the outermost first."""
    found: list[str] = []
    part: Any = runner._chain
    while part is not None and part.__closure__:
        contents = [one.cell_contents for one in part.__closure__]
        cells = dict(zip(part.__code__.co_freevars, contents, strict=True))
        found.append(cells["wrapper"].__qualname__)
        part = cells["inner"]
    return found
