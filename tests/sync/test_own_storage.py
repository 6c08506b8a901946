"""What Max keeps and cannot read, while a connector's code asks for it, ends the sync: no task has failed."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from max.connecting import CredentialProvider, Env, Loader, Page, PageRequest, Ref, Secret
from max.errors import StorageUnreachable
from max.model.tasks import Status
from max.upstream.credentials import MemoryCredentials
from max.upstream.operations import AnyOperation, Limits
from tests.replays import KEY, LIST, Asked, Crowd, Person, Upstream, crowd, run, script

EVERYONE = [f"{number}{end}" for number in range(3) for end in "ab"]
Use = Callable[[CredentialProvider], Awaitable[object]]


def gone() -> StorageUnreachable:
    return StorageUnreachable("the server is restarted")


class LostPermits(Limits):
    """Limits in a database that cannot be reached at one call."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    async def acquire(self, operation: AnyOperation, *, max_wait: float = math.inf) -> None:
        """Give a permit, except once."""
        self.left -= 1
        if not self.left:
            raise gone()
        await super().acquire(operation, max_wait=max_wait)


class LostSecrets(MemoryCredentials):
    """Secrets in a database that cannot be reached."""

    async def get(self, name: str) -> str | None:
        """Nothing."""
        raise gone()

    async def update(self, secrets: Any) -> None:
        """Nothing."""
        raise gone()

    @asynccontextmanager
    async def renewal_lock(self) -> AsyncIterator[None]:
        """Never held."""
        raise gone()
        yield


async def renew(secrets: CredentialProvider) -> None:
    async with secrets.renewal_lock():
        pass


USES: dict[str, Use] = {
    "read": lambda secrets: secrets.get(KEY),
    "save": lambda secrets: secrets.save({KEY: Secret("a-new-secret")}),
    "renew": renew,
}


@Loader.collection(Crowd.people, brings=[Person.name])
async def excused(parent: Ref[Crowd], request: PageRequest, env: Env[Upstream]) -> Page[Person]:
    """Calls it a failure of one row."""
    try:
        answer = await env.run(LIST, Asked(request.cursor or "0"))
    except StorageUnreachable as error:
        return Page([Person("0a", name="Person 0a")], failed={"0b": error})
    return Page([Person(id, name=name) for id, name in answer["people"]], answer.get("next"))


def check_goes_on(database: Path, connector: Any, first: Upstream, **given: Any) -> None:
    """The first sync ends with the error of the storage, and the second one completes it."""
    with pytest.raises(StorageUnreachable, match="the server is restarted"):
        run(connector(first), None, database=database, **given)
    outcome = run(connector(Upstream(script(3))), None, database=database)
    assert outcome.result.status is Status.COMPLETED
    assert outcome.stored["Crowd:all.people"] == EVERYONE


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_permit_that_cannot_be_had(tmp_path: Path, at: int) -> None:
    check_goes_on(tmp_path / "data.db", crowd, Upstream(script(3)), flow=LostPermits(at))


@pytest.mark.parametrize("use", USES)
def test_a_secret_that_cannot_be_reached(tmp_path: Path, use: str) -> None:
    async def ask(upstream: Upstream) -> None:
        await USES[use](CredentialProvider(LostSecrets({}), [KEY]))

    answers = script(3)
    answers["1"] = [ask]
    check_goes_on(tmp_path / "data.db", crowd, Upstream(answers))


def test_a_loader_that_calls_it_a_failure_of_a_row(tmp_path: Path) -> None:
    def connector(upstream: Upstream) -> Any:
        return crowd(upstream, loaders=[excused])

    check_goes_on(tmp_path / "data.db", connector, Upstream(script(3)), flow=LostPermits(2))
