"""What a sync says while it runs and when it ends holds no secret, although its words came with one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from max.errors import Offline, StorageError, SyncTokenRefused
from max.execution import SyncExecutor
from max.model.plan import SyncPlan
from max.model.tasks import SettleResult
from max.storage.leases import new_worker
from max.storage.task_store import DatabaseTaskStore
from max.upstream.credentials import Credential, CredentialProvider, MemoryCredentials
from max.upstream.operations import Limit, Operation, Retry
from tests.scenes import NAMES, USERS, Source, Stage, User, play, users

SECRET = "a-secret-token"
WORDS = f"who is {SECRET}?"
CLEAN = "who is ***?"


def played(
    source: Source,
    body: Callable[[SyncExecutor], Awaitable[str]],
    store: type[DatabaseTaskStore] = DatabaseTaskStore,
) -> str:
    """What a body says of syncs whose connector has read the secret."""
    token = Credential("token")
    provider = CredentialProvider(MemoryCredentials({"token": SECRET}), [token])

    async def main(stage: Stage) -> str:
        await provider.get(token)
        context = replace(stage.executor.context, credentials=provider)
        executor = SyncExecutor(store(stage.database), context, worker=new_worker())
        await executor.start()
        try:
            return await body(executor)
        finally:
            await executor.stop()

    return play(source, main)


async def events(executor: SyncExecutor) -> str:
    """All events of a sync."""
    handle = await executor.begin(SyncPlan([USERS]))
    return repr([(event.kind, event.facts) async for event in handle.events()])


async def progress(executor: SyncExecutor) -> str:
    """All progress of a sync."""
    handle = await executor.begin(SyncPlan([USERS, NAMES]))
    return repr([one async for one in handle.progress()])


def test_p41_the_error_for_which_a_task_waits_is_published_without_the_secret() -> None:
    shown = played(Source(users=[Offline(WORDS), users("a")]), events)
    assert (CLEAN in shown, SECRET in shown) == (True, False)


@pytest.mark.parametrize(("said", "shown"), [(WORDS, CLEAN), (f"not {SECRET[:-2]}", "not ***")])
def test_p41_the_error_after_which_a_call_waits_is_shown_without_the_secret(said: str, shown: str) -> None:
    failures = iter([Offline(said)])

    async def load(context: Any, id: str) -> User:
        for error in failures:
            raise error
        return User(id, name="x", phone="1")

    get = Operation("scene:user:get", load, limit=Limit("scene:hourly"), retry=Retry(base=40, cap=40))

    async def through(id: str, env: Any) -> User:
        return await env.run(get, id)  # type: ignore[no-any-return]

    found = played(Source([get], users=[users("a")], name=[through]), progress)
    assert (f"reason={shown!r}" in found, SECRET[:10] in found) == (True, False)


def test_p41_what_a_sync_notes_for_people_is_kept_without_the_secret() -> None:
    async def twice(executor: SyncExecutor) -> str:
        await (await executor.begin(SyncPlan([USERS]))).completion()
        return repr(await (await executor.begin(SyncPlan([USERS]))).completion())

    source = Source(users=[users("a", sync_token="mark"), SyncTokenRefused(WORDS), users("a")])
    shown = played(source, twice)
    assert (f"{CLEAN}; everything was requested instead" in shown, SECRET in shown) == (True, False)


class Failing(DatabaseTaskStore):
    """A store that can keep nothing."""

    async def settle(self, *_: Any, **__: Any) -> SettleResult:
        """The first transaction of a sync."""
        try:
            raise OSError(WORDS)
        except OSError as error:
            raise StorageError(WORDS, hint=WORDS) from error


def test_p41_the_error_that_ends_a_sync_is_raised_and_published_without_the_secret() -> None:
    async def end(executor: SyncExecutor) -> str:
        handle = await executor.begin(SyncPlan([USERS]))
        with pytest.raises(StorageError) as caught:
            await handle.completion()
        error, published = caught.value, [event.facts async for event in handle.events()]
        return f"{error!r} {error.hint} {error.__cause__!r}; {published}"

    raised, _, published = played(Source(users=[users("a")]), end, Failing).partition(";")
    assert (raised.count(CLEAN), published.count(CLEAN)) == (3, 2), (raised, published)
    assert SECRET not in raised + published
