"""A flow controller of the caller's own decides when calls may begin."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from max import Recording
from max.connecting import Operation, QuotaExceeded
from max.model.tasks import Status
from max.upstream.operations import AnyOperation, FlowController, OperationRunner
from tests.replays import Upstream, crowd, entries, run, script


class OneAtATime(FlowController):
    """Admits one call at a time, whatever limits the operations declare."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.admitted: list[str] = []
        self.blocked: list[tuple[str, float]] = []

    async def acquire(self, operation: AnyOperation, *, max_wait: float = math.inf) -> None:
        """Wait until no call is under way."""
        await self.lock.acquire()
        self.admitted.append(operation.name)

    def release(self, operation: AnyOperation) -> None:
        """The call has ended."""
        self.lock.release()

    def block_for(self, operation: AnyOperation, seconds: float) -> None:
        """Remember it."""
        self.blocked.append((operation.limit.name, seconds))

    def blocked_limits(self) -> list[str]:
        """None are."""
        return []


def test_a_controller_that_admits_one_at_a_time_is_asked_for_every_attempt() -> None:
    running, most = 0, 0

    async def call(context: None, input: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(3):
            await asyncio.sleep(0)
        running -= 1
        return input

    async def main() -> tuple[list[int], OneAtATime]:
        flow = OneAtATime()
        runner = OperationRunner(flow)
        operation = Operation("test:thing:get", call)
        return await asyncio.gather(*(runner.run(operation, None, n) for n in range(5))), flow

    outputs, flow = asyncio.run(main())
    assert (outputs, most) == ([0, 1, 2, 3, 4], 1)
    assert flow.admitted == ["test:thing:get"] * 5
    assert not flow.lock.locked()


def test_the_controller_hears_how_long_the_service_asks_to_wait() -> None:
    async def call(context: None, input: None) -> None:
        raise QuotaExceeded("slow down", retry_after=600.0)

    flow = OneAtATime()
    with pytest.raises(QuotaExceeded):
        asyncio.run(OperationRunner(flow).run(Operation("test:thing:get", call), None, None))
    assert flow.blocked == [("test", 600.0)]


@pytest.mark.parametrize("recorded", [False, True])
def test_a_runtime_takes_a_controller_for_every_call_of_its_syncs(tmp_path: Path, recorded: bool) -> None:
    flow = OneAtATime()
    recording = Recording(tmp_path / "recording") if recorded else None
    outcome = run(crowd(Upstream(script(3))), recording, flow=flow)
    assert outcome.result.status is Status.COMPLETED
    assert flow.admitted == ["crowd:crowd:get", *["crowd:person:list"] * 3]
    if recorded:
        assert [one["operation"] for one in entries(tmp_path / "recording")] == flow.admitted
