"""Turns: coroutines that compute share the event loop with everything else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from max import InstallationInfo, InstallationRuntime
from max.connecting import (
    Connector,
    CredentialProvider,
    Entity,
    Env,
    Field,
    Installation,
    Loader,
    Many,
    Page,
    PageRequest,
    Ref,
    Schema,
    Step,
    Store,
    SyncPlan,
)
from max.connector import NoConfig
from max.storage.sqlite import SqliteDatabase
from max.sync.turns import LONGEST, Turns
from max.upstream.credentials import MemoryCredentials


def compute() -> None:
    """Hold the loop for longer than a turn has time for."""
    began = time.perf_counter()
    while time.perf_counter() - began <= LONGEST:
        pass


class TurnCounter:
    """Counts the turns of the running loop."""

    def __init__(self) -> None:
        self.number = 0
        self.count()

    def count(self) -> None:
        """Count this turn, and the next one when it comes."""
        self.number += 1
        self.handle = asyncio.get_running_loop().call_soon(self.count)


def test_coroutines_that_are_woken_at_once_compute_in_turns_of_their_own() -> None:
    async def main() -> list[int]:
        turns, gate, counter, seen = Turns(), asyncio.Event(), TurnCounter(), list[int]()

        async def one() -> None:
            await gate.wait()
            seen.append(counter.number)
            compute()

        all_of_them = [asyncio.create_task(_awaited(turns.paced(one()))) for _ in range(8)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*all_of_them)
        counter.handle.cancel()
        return seen

    seen = asyncio.run(main())
    assert len(set(seen)) == 8
    assert seen == sorted(seen)


def test_a_coroutine_gets_what_it_waits_for_and_its_result_comes_back() -> None:
    async def main() -> str:
        async def one() -> str:
            with pytest.raises(ZeroDivisionError):
                await _raising()
            return await asyncio.create_task(_awaited(asyncio.sleep(0, "done")))

        return await Turns().paced(one())

    assert asyncio.run(main()) == "done"


def test_an_error_of_the_coroutine_is_its_callers() -> None:
    async def main() -> None:
        await Turns().paced(_raising())

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())


def test_a_coroutine_that_is_cancelled_while_it_waits_for_its_turn_can_clean_up_and_delays_no_other() -> None:
    async def main() -> list[str]:
        turns, gate, ended = Turns(), asyncio.Event(), list[str]()

        async def one(name: str) -> None:
            try:
                await gate.wait()
                compute()
            except asyncio.CancelledError:
                ended.append(f"{name} was cancelled")
                raise
            ended.append(name)

        first, second, third = (
            asyncio.create_task(_awaited(turns.paced(one(name)))) for name in ("first", "second", "third")
        )
        await asyncio.sleep(0)
        gate.set()
        await first  # the others wait for their turns
        second.cancel()
        await asyncio.gather(second, third, return_exceptions=True)
        return ended

    assert asyncio.run(main()) == ["first", "second was cancelled", "third"]


class Shelf(Entity):
    """A parent."""

    books: Many[Book] = Many()


class Book(Entity):
    """A child."""

    title: Field[str] = Field()


def test_pages_that_arrive_at_once_are_converted_in_turns_of_their_own(tmp_path: Path) -> None:
    arrived: list[int] = []

    @Loader.collection(Shelf.books, brings=[Book.title])
    async def list_books(parent: Ref[Shelf], request: PageRequest, env: Env[Context]) -> Page[Book]:
        counter = await env.context()
        arrived.append(counter.number)
        compute()
        return Page([Book(f"{parent.id}-book", title="A")])

    async def seed(context: Context, store: Store) -> SyncPlan:
        await store.store(*(Shelf(f"shelf-{number}") for number in range(8)))
        return SyncPlan([Step.for_all(Shelf).load_collection(Shelf.books)])

    async def main() -> None:
        waiting, everyone = 0, asyncio.Event()
        counter = TurnCounter()

        async def page() -> TurnCounter:
            nonlocal waiting
            waiting += 1
            if waiting == 8:
                everyone.set()
            await everyone.wait()
            return counter

        async def initialise(config: NoConfig, credentials: CredentialProvider) -> Installation[Context]:
            return Installation(page)

        source = Connector(
            name="shelves",
            description="Shelves.",
            schema=Schema([Shelf, Book], roots=[Shelf]),
            loaders=[list_books],
            seeder=seed,
            initialise=initialise,
            config=NoConfig,
        )
        info = InstallationInfo("shelves", "default", "abc", {}, 0.0)
        secrets = CredentialProvider(MemoryCredentials(), ())
        runtime = InstallationRuntime(info, source, NoConfig(), secrets, SqliteDatabase(tmp_path / "data.db"))
        await runtime.start()
        await (await runtime.sync()).completion()
        await runtime.stop()
        counter.handle.cancel()

    asyncio.run(main())
    assert len(set(arrived)) == 8


T = TypeVar("T")
Context = Callable[[], Awaitable[TurnCounter]]


async def _awaited(one: Awaitable[T]) -> T:
    return await one


async def _raising() -> None:
    await asyncio.sleep(0)
    raise ZeroDivisionError
