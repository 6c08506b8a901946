"""The chain of every call to the outside: limits, retries, deadlines, counting."""

from __future__ import annotations

import asyncio
import errno
import math
import socket
import ssl
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.connecting import (
    BadCredentials,
    BudgetHeaders,
    HttpClient,
    HttpRequest,
    HttpResponse,
    Limit,
    MaxError,
    Offline,
    Operation,
    PermissionDenied,
    QuotaExceeded,
    Retry,
    Transport,
    UpstreamBroken,
    UpstreamError,
    UpstreamMissing,
)
from max.errors import LONGEST_WAIT, ConnectorError, LoaderFault
from max.testing import credentials_for
from max.upstream.operations import (
    Call,
    CallsStopped,
    Limits,
    Next,
    OperationRunner,
    Wrapper,
    block_limit,
    operation,
    run_operation,
)
from tests import virtual_time

PER = 60.0  # seconds


def runner(jitter: float = 0.0) -> OperationRunner:
    """A runner for virtual time, with a fixed jitter."""
    return OperationRunner(Limits(), jitter=lambda: jitter)


class Script:
    """A service with scripted answers: an error to raise, or seconds before it answers."""

    def __init__(self, *answers: BaseException | float) -> None:
        self.answers = list(answers)
        self.begun: list[float] = []
        self.under_way = self.most = 0

    async def __call__(self, context: str, input: int) -> str:
        """The next answer; after the last one, an immediate one."""
        self.begun.append(virtual_time.now())
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            answer = self.answers.pop(0) if self.answers else 0.0
            if isinstance(answer, BaseException):
                raise answer
            await asyncio.sleep(answer)
            return f"{context}{input}"
        finally:
            self.under_way -= 1

    def operation(
        self, limit: Limit | None = None, retry: Retry | None = None, deadline: float = PER
    ) -> Operation[str, int, str]:
        """The service as an operation."""
        return Operation("t:thing:get", self, limit=limit or Limit("t:api"), retry=retry, deadline=deadline)


def call(script: Script, *, jitter: float = 0.0, retry: Retry | None = None, deadline: float = PER) -> str:
    """One call of a scripted service."""
    return virtual_time.run(runner(jitter).run(script.operation(retry=retry, deadline=deadline), "a", 1))


def call_many(
    many: int, one: Operation[str, int, str], starts: Sequence[float] = ()
) -> list[str | BaseException]:
    """So many calls through one runner: all at once, or each at its time."""

    async def arrive(through: OperationRunner, n: int) -> str:
        await asyncio.sleep(starts[n] if starts else 0)
        return await through.run(one, "a", n)

    async def main() -> list[str | BaseException]:
        through = runner()
        return await asyncio.gather(*(arrive(through, n) for n in range(many)), return_exceptions=True)

    return virtual_time.run(main())


def broken(retry_after: float | None = None) -> UpstreamError:
    return UpstreamBroken("down", retry_after=retry_after)


def throttled(retry_after: float | None) -> UpstreamError:
    return QuotaExceeded("slower", retry_after=retry_after)


# -- declaring ---------------------------------------------------------------------------


def test_an_operation_is_named_connector_thing_verb() -> None:
    with pytest.raises(ConnectorError, match="connector:thing:verb"):
        Operation("list", Script())


def test_a_decorated_function_is_called_with_context_and_input() -> None:
    @operation("t:thing:get", limit=Limit("t:api"), deadline=3.0)
    async def get(context: str, input: int) -> str:
        return context * input

    assert asyncio.run(get("ab", 2)) == "abab"
    assert (get.name, get.deadline, get.limit.name) == ("t:thing:get", 3.0, "t:api")


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"concurrency": 2.5},
        {"concurrency": True},
        {"calls": 0},
        {"calls": "900"},
        {"calls": 5, "per": 0.0},
        {"calls": 5, "per": math.nan},
        {"calls": 5, "per": "60"},
    ],
)
def test_a_limit_that_lets_nothing_through_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConnectorError, match="lets no call through"):
        Limit("t:api", **wrong)


@pytest.mark.parametrize("points", [0, -1, 1.5, True, "5", 11])
def test_a_call_costs_at_least_one_point_and_at_most_those_of_a_window(points: Any) -> None:
    with pytest.raises(ConnectorError, match="t:thing:get"):
        Operation("t:thing:get", Script(), limit=Limit("t:api", calls=10), points=points)


@pytest.mark.parametrize("limit", ["t:api", 8])
def test_a_limit_of_another_type_is_refused(limit: Any) -> None:
    with pytest.raises(ConnectorError, match=r"t:thing:get.*not a Limit"):
        Operation("t:thing:get", Script(), limit=limit)


def test_operations_without_a_limit_share_that_of_their_connector() -> None:
    one, two = (Operation(f"t:{thing}:get", Script()) for thing in ("one", "two"))
    assert one.limit == two.limit == Limit("t", concurrency=8)


def test_two_limits_of_one_name_are_refused() -> None:
    async def main() -> None:
        through = runner()
        for limit in (Limit("t:api"), Limit("t:api"), Limit("t:api", concurrency=2)):
            await through.run(Script().operation(limit), "a", 1)

    with pytest.raises(ConnectorError, match="two limits have the same name"):
        virtual_time.run(main())


# -- retrying ----------------------------------------------------------------------------


def test_a_temporary_failure_is_retried_until_it_succeeds() -> None:
    script = Script(broken(), Offline("gone"))
    assert call(script) == "a1"
    assert len(script.begun) == 3


def test_a_final_failure_is_not_retried() -> None:
    script = Script(BadCredentials("wrong"))
    with pytest.raises(BadCredentials):
        call(script)
    assert len(script.begun) == 1


def test_the_last_error_is_raised_when_every_attempt_failed() -> None:
    script = Script(*(broken() for _ in range(9)))
    with pytest.raises(UpstreamBroken, match="down"):
        call(script, retry=Retry(attempts=3))
    assert len(script.begun) == 3


@pytest.mark.parametrize(("jitter", "waits"), [(0.0, [0.5, 1.0, 1.5]), (0.5, [0.75, 1.5, 2.25])])
def test_waits_double_up_to_the_cap_and_are_spread_by_the_jitter(jitter: float, waits: list[float]) -> None:
    script = Script(*(broken() for _ in range(3)))
    call(script, jitter=jitter, retry=Retry(attempts=4, base=1.0, cap=3.0))
    between = [b - a for a, b in zip(script.begun, script.begun[1:], strict=False)]
    assert between == pytest.approx(waits)


@given(attempt=st.integers(1, 10_000), jitter=st.floats(0, 1, exclude_max=True), base=st.floats(0.001, 10))
def test_no_wait_is_longer_than_the_cap_or_shorter_than_half(
    attempt: int, jitter: float, base: float
) -> None:
    retry = Retry(attempts=10_001, base=base, cap=8.0)
    delay = retry.delay(attempt, broken(), jitter)
    assert delay is not None
    assert min(8.0, base * 2 ** min(attempt - 1, 60)) / 2 <= delay <= 8.0


# -- waits that the service asks for -------------------------------------------------------


@pytest.mark.parametrize("error", [throttled(7.0), broken(7.0)])
def test_the_wait_that_the_service_asks_for_has_no_jitter(error: UpstreamError) -> None:
    script = Script(error)
    call(script, jitter=0.9)
    assert script.begun == [0.0, 7.0]


def test_a_wait_that_the_service_asks_for_is_not_an_attempt() -> None:
    script = Script(*(throttled(1.0) for _ in range(9)))
    assert call(script, retry=Retry(attempts=2, max_wait=9.0)) == "a1"
    assert len(script.begun) == 10


def test_waits_that_the_service_asks_for_end_at_max_wait_in_all() -> None:
    script = Script(*(throttled(4.0) for _ in range(9)))
    with pytest.raises(QuotaExceeded):
        call(script, retry=Retry(max_wait=10.0))
    assert script.begun == [0.0, 4.0, 8.0]


@pytest.mark.parametrize("asked", [0.0, -5.0, 0.001, math.nan, -math.inf, "soon"])
def test_a_wait_of_nothing_is_an_attempt_like_any_other(asked: Any) -> None:
    script = Script(*(throttled(asked) for _ in range(99)))
    with pytest.raises(QuotaExceeded):
        call(script, retry=Retry(attempts=4, base=1.0))
    assert script.begun == [0.0, 0.5, 1.5, 3.5]


@pytest.mark.parametrize("asked", [1e15, math.inf, 10**400, "99999999999"])
def test_no_wait_is_longer_than_31_days(asked: Any) -> None:
    assert throttled(asked).retry_after == LONGEST_WAIT


def test_no_block_of_a_limit_is_longer_than_31_days() -> None:
    async def main() -> None:
        through, script = runner(), Script()
        blocking = Operation("t:thing:block", blocks, limit=Limit("t:api"))
        await through.run(blocking, "a", 1)
        with pytest.raises(QuotaExceeded, match=f"{LONGEST_WAIT:.0f} s more"):
            await through.run(script.operation(), "a", 1)

    async def blocks(context: str, input: int) -> None:
        block_limit(math.inf)

    virtual_time.run(main())


def test_a_wait_longer_than_max_wait_is_left_to_the_task() -> None:
    script = Script(throttled(3600.0))
    with pytest.raises(QuotaExceeded) as caught:
        call(script)
    assert caught.value.retry_after == 3600.0
    assert len(script.begun) == 1


def test_all_calls_of_a_limit_wait_when_the_service_asks_one_to() -> None:
    script = Script(throttled(5.0))
    answers = call_many(4, script.operation(Limit("t:api", concurrency=1)))
    assert sorted(map(str, answers)) == ["a0", "a1", "a2", "a3"]
    assert script.begun == [0.0, 5.0, 5.0, 5.0, 5.0]


def test_a_long_block_refuses_other_calls_without_calling_the_service() -> None:
    script = Script(throttled(3600.0))
    answers = call_many(5, script.operation(Limit("t:api", concurrency=1)))
    assert [type(answer) for answer in answers] == [QuotaExceeded] * 5
    assert len(script.begun) == 1
    assert {one.retry_after for one in answers if isinstance(one, QuotaExceeded)} == {3600.0}


def test_a_block_does_not_affect_other_limits() -> None:
    async def main() -> str:
        through = runner()
        with pytest.raises(QuotaExceeded):
            await through.run(Script(throttled(3600.0)).operation(), "a", 1)
        return await through.run(Script().operation(Limit("t:other")), "b", 2)

    assert virtual_time.run(main()) == "b2"


# -- limits ------------------------------------------------------------------------------


tenths = st.integers(0, 40).map(lambda tenths: tenths / 10)


@given(
    concurrency=st.integers(1, 20),
    calls=st.integers(1, 9),
    per=tenths.map(lambda seconds: seconds + 0.1),
    sent=st.lists(st.tuples(tenths, tenths, st.integers(1, 9), st.booleans()), min_size=1, max_size=25),
)
@settings(deadline=None, max_examples=200)
def test_p34_no_window_has_more_points_than_its_limit(
    concurrency: int, calls: int, per: float, sent: list[tuple[float, float, int, bool]]
) -> None:
    begun: list[tuple[float, int]] = []
    under_way, most = 0, 0
    limit, patient = Limit("t:api", concurrency, calls, per), Retry(attempts=1, max_wait=1e6)

    def costing(points: int) -> Operation[float, bool, None]:
        async def service(takes: float, refuses: bool) -> None:
            nonlocal under_way, most
            begun.append((virtual_time.now(), points))
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(takes)
            under_way -= 1
            if refuses:
                raise throttled(None)

        return Operation("t:thing:get", service, limit=limit, points=points, retry=patient)

    async def arrive(through: OperationRunner, at: float, takes: float, points: int, refuses: bool) -> None:
        await asyncio.sleep(at)
        with suppress(QuotaExceeded):
            await through.run(costing(min(points, calls)), takes, refuses)

    async def main() -> None:
        through = runner()
        await asyncio.gather(*(arrive(through, *one) for one in sent))

    virtual_time.run(main())
    assert most <= concurrency
    assert len(begun) == len(sent)
    for n, (first, _) in enumerate(begun):
        window = [points for at, points in begun[n:] if at - first < per * (1 - 1e-9)]
        assert sum(window) <= calls


def test_dear_calls_are_not_overtaken_by_cheap_ones() -> None:
    limit = Limit("t:api", concurrency=20, calls=10, per=10.0)
    order: list[str] = []

    def named(name: str, points: int) -> Operation[None, None, None]:
        async def call(context: None, input: None) -> None:
            order.append(f"{name} at {virtual_time.now():g}")

        return Operation(f"t:{name}:get", call, limit=limit, points=points)

    async def main() -> None:
        through = runner()
        cheap, dear = named("cheap", 1), named("dear", 10)
        await asyncio.gather(*(through.run(one, None, None) for one in (cheap, dear, cheap)))

    virtual_time.run(main())
    assert order == ["cheap at 0", "dear at 10", "cheap at 20"]


def test_operations_that_need_each_other_share_a_permit() -> None:
    inner = Script(*[1.0] * 20)

    async def outer(context: str, input: int) -> str:
        await asyncio.sleep(1.0)
        return await run_operation(Operation("t:token:get", inner), context, input)

    answers = call_many(20, Operation("t:thing:get", outer))
    assert answers == [f"a{n}" for n in range(20)]
    assert inner.most == 8


# -- limits that adapt ---------------------------------------------------------------------


def most_at_once(limit: Limit, refused: Sequence[int], rounds: int, refusals: int = 1) -> list[int]:
    """How many calls run at once in each round of a second; in some rounds the service refuses a few."""
    begun: Counter[int] = Counter()

    async def service(context: str, input: int) -> None:
        now = round(virtual_time.now())
        begun[now] += 1
        number = begun[now]
        await asyncio.sleep(1.0)
        if number <= refusals and now in refused:
            raise throttled(None)

    async def main() -> None:
        through = runner()
        one = Operation("t:thing:get", service, limit=limit, retry=Retry(attempts=1))
        calls = [asyncio.create_task(through.run(one, "a", n)) for n in range(1000)]
        await asyncio.sleep(rounds - 0.5)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    virtual_time.run(main())
    return [begun[n] for n in range(rounds)]


def test_a_limit_begins_politely_and_doubles_up_to_its_concurrency() -> None:
    assert most_at_once(Limit("t:api", concurrency=50), (), 6) == [8, 16, 32, 50, 50, 50]


def test_a_limit_never_grows_beyond_its_concurrency() -> None:
    assert most_at_once(Limit("t:api"), (), 3) == [8, 8, 8]


def test_a_refusal_halves_a_limit_which_then_grows_by_one_in_each_round() -> None:
    assert most_at_once(Limit("t:api", concurrency=50), [1], 7) == [8, 16, 8, 9, 10, 11, 12]


def test_a_limit_never_shrinks_to_nothing() -> None:
    assert most_at_once(Limit("t:api", concurrency=2), range(5), 6) == [2, 1, 1, 1, 1, 1]


def test_refusals_of_calls_that_ran_together_halve_a_limit_once() -> None:
    assert most_at_once(Limit("t:api", concurrency=50), [1], 3, refusals=16) == [8, 16, 8]


def test_calls_that_do_not_use_all_permits_prove_nothing() -> None:
    limit, busy = Limit("t:api", concurrency=50), Script(*[1.0] * 200)

    async def main() -> None:
        through, one = runner(), Script().operation(limit)
        for n in range(100):
            await through.run(one, "a", n)
        crowd = busy.operation(limit)
        await asyncio.gather(*(through.run(crowd, "a", n) for n in range(100)))

    virtual_time.run(main())
    assert busy.begun.count(0.0) == 8


@given(st.lists(st.floats(0.5, 8.0), min_size=1, max_size=6), st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_p34_no_call_begins_within_a_wait_that_the_service_asked_for(
    waits: Sequence[float], concurrency: int
) -> None:
    asked_waits: list[tuple[float, float]] = []
    left = list(waits)
    begun: list[float] = []

    async def service(_: str, input: int) -> int:
        begun.append(virtual_time.now())
        await virtual_time.later(0.01)
        if left:
            asked_waits.append((virtual_time.now(), left.pop()))
            raise throttled(asked_waits[-1][1])
        return input

    limit = Limit("t:api", concurrency)
    rule = Retry(max_wait=1000.0)
    asked = Operation("t:thing:get", service, limit=limit, retry=rule)

    async def main() -> None:
        through = runner()
        await asyncio.gather(*(through.run(asked, "a", n) for n in range(6)))

    virtual_time.run(main())
    assert not [t for t in begun for at, wait in asked_waits if at < t < (at + wait) * (1 - 1e-9)]


# -- limits that learn -----------------------------------------------------------------------

EPOCH = 1_750_000_000  # seconds, at which virtual time begins for the service
BUDGETS = (
    BudgetHeaders("requests-left", "requests-reset"),
    BudgetHeaders("points-left", "points-reset", cost="points-cost", unit=0.001),
)


class Answer(NamedTuple):
    """An answer: its status, and for each budget what is left and the seconds to its reset."""

    status: int
    requests: int
    requests_reset: float
    points: int
    points_reset: float

    def until(self) -> float:
        """Seconds until every used-up budget is full again."""
        requests = self.requests_reset if self.requests < 1 else 0.0
        return max(requests, self.points_reset if self.points < COST else 0.0)


COST = 7  # points that every request takes
FULL = Answer(200, 100, 50.0, 100, 50.0)


class Budgeted(Transport):
    """A service whose answers have the budgets in their headers."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.begun: list[float] = []
        self.early: list[float] = []  # when calls began before the end of a wait
        self.until = 0.0  # when the latest wait ends

    async def send(self, request: HttpRequest, *, max_bytes: int) -> HttpResponse:
        """The next answer, after a while."""
        self.begun.append(virtual_time.now())
        if virtual_time.now() < self.until - 0.01:
            self.early.append(virtual_time.now())
        await virtual_time.later(0.25)
        said, now = self.answers.pop(0) if self.answers else FULL, virtual_time.now()
        self.until = max(self.until, now + said.until())
        headers = {
            "date": formatdate(EPOCH + now, usegmt=True),
            "requests-left": str(said.requests),
            "requests-reset": str(EPOCH + now + said.requests_reset),
            "points-left": str(said.points),
            "points-reset": str(int((EPOCH + now + said.points_reset) * 1000)),
            "points-cost": str(COST),
        }
        return HttpResponse(request, said.status, headers, b"{}")

    def client(self) -> HttpClient:
        """A client that reads the budgets."""
        return HttpClient("https://h", credentials_for("https://h"), budgets=BUDGETS, transport=self)


async def fetch(client: HttpClient, path: str) -> Any:
    return await client.get(path)


left = st.sampled_from([0, 0, 1, COST - 1, COST, 1000])
resets = st.integers(0, 400).map(lambda quarters: quarters / 4)


@given(
    st.lists(st.builds(Answer, st.sampled_from([200, 200, 429]), left, resets, left, resets), max_size=6),
    st.integers(1, 4),
)
@settings(deadline=None, max_examples=200)
def test_p34_no_call_begins_before_every_used_up_budget_is_full(said: list[Answer], many: int) -> None:
    service, limit = Budgeted(*said), Limit("t:api", many)
    rule = Retry(attempts=20, max_wait=1e6)
    both = [Operation(f"t:{name}:get", fetch, limit=limit, retry=rule) for name in ("one", "two")]

    async def main() -> list[Any]:
        through, client = runner(), service.client()
        return await asyncio.gather(*(through.run(both[n % 2], client, "/") for n in range(9)))

    assert virtual_time.run(main()) == [{}] * 9
    assert service.early == []
    assert len(service.begun) == 9 + sum(one.status == 429 for one in said)


def test_a_long_wait_after_a_good_answer_is_left_to_the_tasks() -> None:
    service = Budgeted(FULL._replace(requests=0, requests_reset=3600.0))
    one = Operation("t:thing:get", fetch, limit=Limit("t:api"))

    async def main() -> tuple[Any, QuotaExceeded, list[str]]:
        through, client = runner(), service.client()
        good = await through.run(one, client, "/")
        with pytest.raises(QuotaExceeded) as refused:
            await through.run(one, client, "/")
        return good, refused.value, through.blocked_limits()

    good, error, held = virtual_time.run(main())
    assert (good, held, len(service.begun)) == ({}, ["t:api"], 1)
    assert error.retry_after == pytest.approx(3600.0, abs=1.0)


def test_a_refusal_waits_for_the_budgets_when_retry_after_is_shorter() -> None:
    service = Budgeted(Answer(429, 0, 30.0, 0, 3600.0))
    with pytest.raises(QuotaExceeded) as refused:
        virtual_time.run(
            runner().run(Operation("t:thing:get", fetch, limit=Limit("t:api")), service.client(), "/")
        )
    assert refused.value.retry_after == pytest.approx(3600.0, abs=1.0)


def test_a_budget_blocks_only_the_limit_of_the_innermost_operation() -> None:
    inner = Operation("t:token:renew", fetch, limit=Limit("t:token"))

    async def outer(client: HttpClient, path: str) -> Any:
        return await run_operation(inner, client, path)

    async def main() -> list[str]:
        through, service = runner(), Budgeted(FULL._replace(points=0, points_reset=9.0))
        await through.run(Operation("t:thing:get", outer, limit=Limit("t:api")), service.client(), "/")
        await service.client().get("/")  # outside of every operation: no limit to block
        block_limit(5.0)
        return through.blocked_limits()

    assert virtual_time.run(main()) == ["t:token"]


def test_as_many_calls_as_the_limit_allows_run_at_once() -> None:
    script = Script(*[1.0] * 12)
    call_many(12, script.operation(Limit("t:api", concurrency=4)))
    assert script.most == 4
    assert script.begun == [0.0] * 4 + [1.0] * 4 + [2.0] * 4


def test_a_failed_call_gives_its_permit_back() -> None:
    script = Script(BadCredentials("wrong"), ValueError("bug"), 1.0)
    answers = call_many(3, script.operation(Limit("t:api", concurrency=1)))
    assert [type(answer) for answer in answers] == [BadCredentials, ValueError, str]


WAITING: dict[str, tuple[Limit, Any]] = {  # why a call waits: the limit, what the service answers first
    "all permits are taken": (Limit("t:api", concurrency=1), 1000.0),
    "the window is full": (Limit("t:api", calls=1, per=5000.0), 0.0),
    "the service asked to wait": (Limit("t:api"), throttled(9.0)),
    "the next attempt": (Limit("t:api"), broken()),
}


@pytest.mark.parametrize("why", WAITING)
def test_what_waits_for_its_turn_stops_at_once_and_what_was_sent_ends(why: str) -> None:
    limit, first = WAITING[why]
    script = Script(first)

    async def main() -> list[Any]:
        through, one = runner(), script.operation(limit, deadline=9e9)
        calls = [asyncio.create_task(through.run(one, "a", n)) for n in range(3)]
        await asyncio.sleep(0.01)
        through.stop_calls()
        with suppress(CallsStopped):
            await through.run(one, "a", 9)
        _, left = await asyncio.wait(calls, timeout=1.0)
        assert len(left) == (1 if isinstance(first, float) and first else 0), "only what was sent goes on"
        found = await asyncio.gather(*calls, return_exceptions=True)
        through.allow_calls()
        return [*found, await through.run(script.operation(Limit("t:other")), "a", 4)]

    *found, last = virtual_time.run(main())
    assert last == "a4", "after allow_calls it begins again"
    assert CallsStopped in {type(one) for one in found}
    assert {type(one) for one in found} <= {CallsStopped, str}


def test_a_stopped_call_gives_its_permit_back() -> None:
    async def main() -> str:
        through, one = runner(), Script(5.0).operation(Limit("t:api", concurrency=1))
        calls = [asyncio.create_task(through.run(one, "a", n)) for n in range(9)]
        await asyncio.sleep(0.01)
        through.stop_calls()
        await asyncio.gather(*calls, return_exceptions=True)
        through.allow_calls()
        return await through.run(one, "a", 4)

    assert virtual_time.run(main()) == "a4"


def test_a_waiting_call_that_is_cancelled_and_stopped_at_once_is_cancelled() -> None:
    async def main() -> None:
        through, one = runner(), Script(5.0, 5.0).operation(Limit("t:api", concurrency=1))
        _, waiting = (asyncio.create_task(through.run(one, "a", n)) for n in range(2))
        await asyncio.sleep(0.01)
        waiting.cancel()
        through.stop_calls()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    virtual_time.run(main())


def test_a_cancelled_waiter_gives_its_permit_back() -> None:
    async def main() -> str:
        through, script = runner(), Script()
        one = script.operation(Limit("t:api", concurrency=1, calls=1, per=50.0))
        await through.run(one, "a", 1)
        waiting = asyncio.create_task(through.run(one, "a", 2))
        await virtual_time.later(1.0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return await through.run(one, "a", 3)

    assert virtual_time.run(main()) == "a3"


# -- deadlines and foreign errors ----------------------------------------------------------


def test_p8_a_call_that_does_not_end_in_time_is_offline_and_its_permit_returns() -> None:
    script = Script(1000.0)
    one = script.operation(Limit("t:api", concurrency=1), Retry(attempts=1), deadline=5.0)
    late, good = call_many(2, one)
    assert isinstance(late, Offline)
    assert "within 5 s" in late.message
    assert good == "a1"
    assert script.under_way == 0


@pytest.mark.parametrize(
    ("raised", "words"),
    [(TimeoutError("git fetch took 30 s"), "no answer: git fetch took 30 s"), (TimeoutError(), "no answer$")],
)
def test_a_timeout_of_the_connector_keeps_its_words(raised: TimeoutError, words: str) -> None:
    with pytest.raises(Offline, match=f"t:thing:get: {words}"):
        call(Script(raised), retry=Retry(attempts=1))


def test_each_attempt_has_a_deadline_of_its_own() -> None:
    script = Script(1000.0, 3.0)
    assert call(script, deadline=5.0) == "a1"


@pytest.mark.parametrize(
    ("raised", "meant"),
    [
        (ConnectionResetError("reset by peer"), Offline),
        (socket.gaierror("no such host"), Offline),
        (ssl.SSLError("certificate has expired"), Offline),
        (OSError(errno.EHOSTUNREACH, "no route to host"), Offline),
        (OSError("Multiple exceptions: [Errno 111] refused, [Errno 111] refused"), Offline),
        (TimeoutError(), Offline),
        (FileNotFoundError("no git here"), UpstreamMissing),
        (PermissionError("not yours"), PermissionDenied),
        (OSError(errno.EMFILE, "too many open files"), LoaderFault),
    ],
)
def test_an_error_of_the_system_becomes_one_of_ours(raised: OSError, meant: type[MaxError]) -> None:
    with pytest.raises(MaxError) as caught:
        call(Script(raised), retry=Retry(attempts=1))
    assert type(caught.value) is meant
    assert "t:thing:get" in caught.value.message
    assert caught.value.hint
    assert "token" not in caught.value.render()
    assert caught.value.__cause__ is raised or isinstance(raised, TimeoutError)


def test_a_bug_passes_through_unchanged_and_once() -> None:
    script = Script(KeyError("bug"))
    with pytest.raises(KeyError):
        call(script)
    assert len(script.begun) == 1


# -- counting ------------------------------------------------------------------------------


def test_every_attempt_is_counted_by_the_name_of_its_operation() -> None:
    async def main() -> dict[str, int]:
        through = runner()
        await through.run(Script(broken(), broken()).operation(), "a", 1)
        await through.run(Operation("t:thing:list", Script()), "a", 1)
        return dict(through.calls)

    assert virtual_time.run(main()) == {"t:thing:get": 3, "t:thing:list": 1}


# -- middlewares ---------------------------------------------------------------------------

Event = tuple[str, int, int]  # what happened, which middleware, in which attempt


def watching(number: int, events: list[Event], raises: dict[int, str]) -> Wrapper:
    """A middleware that records events; it raises before or after the call if ``raises`` says so."""

    async def watch(call: Call, next: Next) -> Any:
        events.append(("before", number, call.attempt))
        if raises.get(number) == "in":
            raise ValueError("in")
        try:
            output = await next(call)
        except Exception:
            events.append(("error", number, call.attempt))
            raise
        events.append(("after", number, call.attempt))
        if raises.get(number) == "out":
            raise ValueError("out")
        return output

    return watch


def watched(
    many: int, script: Script, *, raises: dict[int, str] | None = None, renews: bool = False
) -> tuple[list[Event], Counter[str]]:
    """The events that so many middlewares saw in one call, and the runner's counts."""
    events: list[Event] = []

    async def renew() -> None:
        """Do nothing: the script decides about the next attempt."""

    around = [watching(number, events, raises or {}) for number in range(many)]
    through = OperationRunner(Limits(), wrappers=around, renew=renew if renews else None, jitter=lambda: 0.0)
    with suppress(UpstreamError, ValueError):
        virtual_time.run(through.run(script.operation(), "a", 1))
    return events, through.calls


answers = st.lists(st.sampled_from(["good", "broken", "refused", "asks"]), max_size=4)
MEANS: dict[str, UpstreamError | float] = {
    "broken": broken(),
    "refused": BadCredentials("wrong"),
    "asks": throttled(1.0),
    "good": 0.0,
}


@given(many=st.integers(0, 6), said=answers, renews=st.booleans())
@settings(deadline=None, max_examples=100)
def test_p24_each_middleware_runs_exactly_once_in_every_attempt(
    many: int, said: list[str], renews: bool
) -> None:
    script = Script(*(MEANS[word] for word in said))
    events, calls = watched(many, script, renews=renews)
    attempts = len(script.begun)
    begun = Counter((number, attempt) for what, number, attempt in events if what == "before")
    assert begun == {(number, attempt): 1 for number in range(many) for attempt in range(1, attempts + 1)}
    assert calls == {"t:thing:get": attempts}


def expected(many: int, works: bool, raiser: int, way: str, attempt: int) -> list[Event]:
    """The events that middlewares must see in one attempt, computed without running one."""
    reached = raiser + 1 if way == "in" else many
    events = [("before", number, attempt) for number in range(reached)]
    word = "after" if works else "error"
    for number in reversed(range(reached)):
        if number == raiser and way == "in":
            word = "error"
            continue
        events.append((word, number, attempt))
        if number == raiser and word == "after":
            word = "error"
    return events


@given(st.data(), st.integers(1, 6), answers)
@settings(deadline=None, max_examples=100)
def test_p25_before_runs_in_order_and_after_and_errors_in_exact_reverse(
    data: st.DataObject, many: int, said: list[str]
) -> None:
    raiser = data.draw(st.integers(0, many))  # one beyond the last raises nothing
    way = data.draw(st.sampled_from(["in", "out"])) if raiser < many else ""
    script = Script(*(MEANS[word] for word in said))
    events, _ = watched(many, script, raises={raiser: way})
    words = [*said, "good"]
    asked_waits = [
        expected(many, words[n] == "good", raiser, way, n + 1) for n in range(max(1, len(script.begun)))
    ]
    assert events == [event for attempt in asked_waits for event in attempt]


def test_a_middleware_may_answer_itself_or_change_the_input() -> None:
    async def doubled(call: Call, next: Next) -> Any:
        return call.input if call.input == 7 else await next(call._replace(input=call.input * 2))

    async def main(input: int) -> str:
        return await OperationRunner(Limits(), wrappers=[doubled]).run(Script().operation(), "a", input)

    assert [virtual_time.run(main(3)), virtual_time.run(main(7))] == ["a6", 7]


def test_a_middleware_sees_the_same_errors_as_the_runner() -> None:
    seen: list[Exception] = []

    async def watch(call: Call, next: Next) -> Any:
        try:
            return await next(call)
        except MaxError as error:
            seen.append(error)
            raise

    script = Script(ConnectionResetError("reset by peer"), 1000.0)
    through = OperationRunner(Limits(), wrappers=[watch])
    assert virtual_time.run(through.run(script.operation(deadline=5.0), "a", 1)) == "a1"
    assert [type(error) for error in seen] == [Offline, Offline]


class Bearers:
    """A service whose token expires, and the client that has one."""

    def __init__(self, *, can_renew: bool = True) -> None:
        self.good, self.held = 0, 0
        self.renewed, self.refused = 0, 0
        self.can_renew = can_renew

    async def ask(self, context: str, input: int) -> str:
        held = self.held
        await asyncio.sleep(1.0)
        if held != self.good:
            self.refused += 1
            raise BadCredentials("the bearer has expired")
        return f"{input}"

    async def renew(self) -> None:
        self.renewed += 1
        await asyncio.sleep(5.0)
        if not self.can_renew:
            raise BadCredentials("connect again")
        self.held = self.good

    def all(self, number: int) -> list[str | BaseException]:
        asking = Operation("t:thing:get", self.ask, limit=Limit("t:api", concurrency=50))
        through = OperationRunner(Limits(), renew=self.renew)

        async def main() -> list[str | BaseException]:
            calls = [through.run(asking, "", one) for one in range(number)]
            return await asyncio.gather(*calls, return_exceptions=True)

        return virtual_time.run(main())


class TestRenewal:
    """A refused credential is renewed once."""

    @pytest.mark.parametrize("number", [1, 2, 20])
    def test_p29_one_renewal_serves_all_refused_callers(self, number: int) -> None:
        bearers = Bearers()
        bearers.good = 1
        assert bearers.all(number) == [str(one) for one in range(number)]
        assert (bearers.renewed, bearers.refused) == (1, number)

    def test_a_credential_that_is_refused_again_is_not_renewed_again(self) -> None:
        bearers = Bearers()
        bearers.good = -1
        bearers.renew = _nothing  # type: ignore[method-assign]  # a renewal that brings nothing new
        (error,) = bearers.all(1)
        assert isinstance(error, BadCredentials)
        assert bearers.refused == 2

    def test_a_failed_renewal_is_tried_once_and_raised_for_all_callers(self) -> None:
        bearers = Bearers(can_renew=False)
        bearers.good = 1
        errors = bearers.all(10)
        assert {str(error) for error in errors} == {"connect again"}
        assert bearers.renewed == 1

    def test_a_failed_renewal_is_tried_again_after_a_minute(self) -> None:
        bearers = Bearers(can_renew=False)
        bearers.good = 1
        through = OperationRunner(Limits(), renew=bearers.renew)
        asking = Operation("t:thing:get", bearers.ask)

        async def main() -> str:
            with pytest.raises(BadCredentials, match="connect again"):
                await through.run(asking, "", 1)
            bearers.can_renew = True
            await virtual_time.later(60)
            return await through.run(asking, "", 2)

        assert virtual_time.run(main()) == "2"
        assert bearers.renewed == 2

    def test_a_temporary_failure_of_a_renewal_is_retried(self) -> None:
        bearers, outages = Bearers(), [Offline("no network")]
        bearers.good, renew = 1, bearers.renew

        async def shaky() -> None:
            if outages:
                raise outages.pop()
            await renew()

        bearers.renew = shaky  # type: ignore[method-assign]  # the first time there is no network
        assert bearers.all(3) == ["0", "1", "2"]
        assert bearers.renewed == 1

    def test_without_renew_the_refusal_is_raised(self) -> None:
        script = Script(BadCredentials("no"))
        with pytest.raises(BadCredentials):
            virtual_time.run(runner().run(script.operation(), "a", 1))
        assert len(script.begun) == 1


async def _nothing() -> None:
    """Renews nothing."""


class TestRunOperation:
    """An operation that another one needs goes through the same chain."""

    def test_the_runner_of_the_outer_operation_counts_it(self) -> None:
        async def ask(context: str, input: int) -> str:
            return f"{await run_operation(Operation('t:token:get', first), context, input)}!"

        first, through = Script(), runner()
        assert virtual_time.run(through.run(Operation("t:thing:get", ask), "a", 1)) == "a1!"
        assert through.calls == {"t:thing:get": 1, "t:token:get": 1}

    def test_it_runs_outside_of_operations_too(self) -> None:
        assert virtual_time.run(run_operation(Script().operation(), "a", 1)) == "a1"

    def test_when_it_is_refused_the_outer_operation_renews(self) -> None:
        async def ask(context: str, input: int) -> str:
            return await run_operation(script.operation(), context, input)

        async def renew() -> None:
            renewed.append(len(script.begun))

        script, renewed = Script(BadCredentials("old")), list[int]()
        through = OperationRunner(Limits(), renew=renew)
        assert virtual_time.run(through.run(Operation("t:thing:get", ask), "a", 1)) == "a1"
        assert (renewed, len(script.begun)) == ([1], 2)
