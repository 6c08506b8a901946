"""A source with scripted answers, and helpers that record and replay it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from max import Recording, Replay
from max.connecting import (
    Credential,
    CredentialProvider,
    Entity,
    Env,
    Field,
    Installation,
    Json,
    Loader,
    Many,
    Operation,
    Page,
    PageRequest,
    Ref,
    Retry,
    Schema,
    Step,
    Store,
    SyncPlan,
    UpstreamMissing,
    run_operation,
)
from max.core import Engine, InstallationInfo, SyncOptions
from max.execution import NO_OPTIONS
from max.model.entities import ManyOf
from max.model.tasks import SyncResult
from max.runtime import InstallationRuntime
from max.upstream.credentials import MemoryCredentials, Secret
from max.upstream.operations import FlowController, OperationRunner
from max.upstream.recording import Source
from tests.contract.places import database_at
from tests.sample import sample

# -- a source whose answers are scripted ------------------------------------------------------------


class Person(Entity):
    """A person."""

    name: Field[str] = Field()


class Crowd(Entity):
    """A group of people."""

    name: Field[str] = Field()
    people: Many[Person] = Many()


SCHEMA = Schema([Crowd, Person], roots=[Crowd])
AT_ONCE = Retry(attempts=9, base=0.0, cap=0.0)
KEY = Credential("key", "opens the door")
Script = dict[str, list[Any]]  # what each question is answered in turn; the last answer stays


@dataclass
class Upstream:
    """Gives scripted answers, and remembers the questions."""

    script: Script
    asked: list[str] = field(default_factory=list)
    key: Secret | None = None
    renewed: Callable[[], Awaitable[None]] | None = None

    async def answer(self, question: str) -> Any:
        """The next answer; an exception is raised, a function is called."""
        self.asked.append(question)
        for _ in range(len(question) % 3):
            await asyncio.sleep(0)  # so that callers overtake one another
        some = self.script.get(question, [])
        if not some:
            raise UpstreamMissing(f"nothing is at {question}", hint="look elsewhere", question=question)
        answer = some.pop(0) if len(some) > 1 else some[0]
        if callable(answer):
            answer = await answer(self)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@dataclass(frozen=True)
class Asked:
    """Which page; later versions have more fields."""

    page: str
    archived: bool = False


async def fetch(upstream: Upstream, asked: Asked) -> Any:
    return await upstream.answer(asked.page)


async def describe(upstream: Upstream, _: None) -> str:
    return str(await upstream.answer("crowd"))


LIST: Operation[Any, Asked, Any] = Operation("crowd:person:list", fetch, retry=AT_ONCE)
DESCRIBE: Operation[Any, None, str] = Operation("crowd:crowd:get", describe, retry=AT_ONCE)


@Loader.collection(Crowd.people, brings=[Person.name])
async def people(parent: Ref[Crowd], request: PageRequest, env: Env[Upstream]) -> Page[Person]:
    answer = await env.run(LIST, Asked(request.cursor or "0"))
    return Page([Person(id, name=name) for id, name in answer["people"]], answer.get("next"))


async def seed(upstream: Upstream, store: Store) -> SyncPlan:
    await store.store(Crowd("all", name=await run_operation(DESCRIBE, upstream, None)))
    return SyncPlan([Step.for_root(Crowd.ref("all")).load_collection(Crowd.people)])


def crowd(upstream: Upstream | None, **changes: Any) -> Any:
    """The connector of an upstream; without one, every call is a bug."""

    async def initialise(config: object, credentials: CredentialProvider) -> Installation[Any]:
        if upstream is not None:
            upstream.key = await credentials.find(KEY)
        context = upstream or Upstream({})
        return Installation(context, renew=context.renewed)

    attributes: dict[str, Any] = {
        "name": "crowd",
        "schema": SCHEMA,
        "loaders": [people],
        "seeder": seed,
        "initialise": initialise,
        "credentials": [KEY],
        "operations": [LIST, DESCRIBE],
    }
    return sample(**(attributes | changes))


def script(pages: int, faults: Mapping[int, Sequence[Exception]] | None = None) -> Script:
    """Pages of two people each, some after temporary failures."""
    made: Script = {"crowd": ["everybody"]}
    for number in range(pages):
        next = str(number + 1) if number < pages - 1 else None
        page = {"people": [[f"{number}{end}", f"Person {number}{end}"] for end in "ab"], "next": next}
        made[str(number)] = [*(faults or {}).get(number, ()), page]
    return made


# -- installations ------------------------------------------------------------------------------------


async def contents(engine: Engine) -> dict[str, Json]:
    """Every entity of every type, and the members of every collection."""
    found: dict[str, Json] = {}
    for name, entity in engine.schema.entities.items():
        found[name] = [one.to_dict() for one in await engine.query(entity).order_by(entity.id).all()]
        for many in entity.children():
            for one in found[name]:
                members: ManyOf[Any, Any] = ManyOf(entity, many)
                page = await engine.load_collection(entity.ref(one["id"]), members, limit=10_000)
                found[f"{name}:{one['id']}.{many}"] = sorted(child.id for child in page.items)
    return found


@dataclass
class Outcome:
    """The result of a sync, and the stored rows."""

    result: SyncResult
    stored: dict[str, Json]


def run(
    connector: Any,
    recording: Recording | Replay | None,
    *,
    flow: FlowController | None = None,
    database: Path | str = ":memory:",
    key: str | None = None,
    config: Any = None,
    id: str = "abc",
) -> Outcome:
    """One sync of an installation, from its start to its stop."""

    async def main() -> Outcome:
        info = InstallationInfo(connector.name, "default", id, {}, 0.0)
        values = connector.config() if config is None else config
        kept = MemoryCredentials({"key": key} if key else {})
        secrets = CredentialProvider(kept, connector.credentials, connector.hosts_for(values))
        runtime = InstallationRuntime(
            info, connector, values, secrets, database_at(database), recording=recording, flow=flow
        )
        await runtime.start()
        try:
            result = await (await runtime.sync()).completion()
            return Outcome(result, await contents(runtime.engine))
        finally:
            await runtime.stop()

    return asyncio.run(main())


def entries(recording: Path) -> list[Json]:
    """The attempts in a recording, without its header."""
    return [json.loads(line) for line in recording.read_bytes().splitlines()[1:]]


def written(recording: Path, *attempts: Mapping[str, Any], **header: Any) -> Path:
    """A recording with these attempts, written without a sync."""
    first = {
        "recording": 1,
        "connector": "crowd",
        "version": "1",
        "installation": "abc",
        "config": {},
    }
    first |= {
        "credentials": [],
        "began_empty": True,
        "recorded_at": "2026-01-31T09:30:00Z",
        "options": {},
    } | header
    lines = [first, *({"input": None, "attempt": 1, **attempt} for attempt in attempts)]
    recording.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return recording


INFO = InstallationInfo("crowd", "default", "abc", {}, 0.0)
NAMED: dict[str, Any] = {"operation": "crowd:crowd:get", "output": "everybody"}


def page(number: str, **more: Any) -> dict[str, Any]:
    """One person, on the page of a number."""
    answer = {"people": [[number, f"Person {number}"]]}
    return {"operation": "crowd:person:list", "input": {"page": number}, "output": answer} | more


def seeding(operation: Any) -> Any:
    """A seeder that names the crowd by an operation."""

    async def seed(upstream: Upstream, store: Store) -> SyncPlan:
        answer = await run_operation(operation, upstream, None)
        await store.store(Crowd("all", name=str(answer)))
        return SyncPlan([Step.for_root(Crowd.ref("all")).load_collection(Crowd.people)])

    return seed


@asynccontextmanager
async def caller_of(
    recording: Path, upstream: Any = None, options: SyncOptions = NO_OPTIONS
) -> AsyncIterator[OperationRunner]:
    """A runner that answers from a recording, or records the answers of an upstream."""
    playing: Recording | Replay = Replay(recording) if upstream is None else Recording(recording)
    await playing.start()
    try:
        secrets = CredentialProvider(MemoryCredentials(), [KEY])
        await playing.provide(Source("crowd", "1", "abc", {}, SCHEMA, [KEY]), secrets)
        playing.begin(playing.sync_options(options), was_empty=True)
        yield playing.runner(None, None)
    finally:
        await playing.stop()


async def answered(recording: Path, operation: Any, input: Any) -> Any:
    """The answer of a replay to one call."""
    async with caller_of(recording) as caller:
        return await caller.run(operation, None, input)
