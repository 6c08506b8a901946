"""Syncs in virtual time, with a connector and a source made for one test."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from max.engine import DatabaseEngine, DatabaseSyncMeta
from max.execution import CAP, SyncContext, SyncExecutor, SyncHandle
from max.model.entities import Entity, Field, Many, Ref
from max.model.loaders import Env, Loader, PageRequest, RawLoader, UnknownLoaders
from max.model.plan import Step, SyncPlan
from max.model.query import C, Page
from max.model.schema import Schema
from max.model.tasks import SyncResult
from max.storage.database import Database
from max.storage.leases import new_worker
from max.storage.sqlite import MEMORY, SqliteDatabase
from max.storage.task_store import DatabaseTaskStore
from max.upstream.operations import AnyOperation, Limits, OperationRunner
from tests.sample import sample
from tests.virtual_time import JumpingSelector, VirtualTimeLoop, later, now

T = TypeVar("T")
Json = Any


class User(Entity):
    """An author of notes."""

    name: Field[str] = Field()
    mail: Field[str] = Field()
    phone: Field[str] = Field()
    size: Field[int] = Field()


class Root(Entity):
    """The root."""

    title: Field[str] = Field()
    users: Many[User] = Many()
    notes: Many[Note] = Many()


class Note(Entity):
    """A note."""

    text: Field[str] = Field()
    author: Field[Ref[User]] = Field()


SCHEMA = Schema([Root, User, Note], roots=[Root])
ROOT = Ref(Root, "r")
USERS = Step.for_root(ROOT).load_collection(Root.users)
NOTES = Step.for_root(ROOT).load_collection(Root.notes)
NAMES = Step.for_all(User).load_fields(User.name)
MAILS = Step.for_all(User).load_fields(User.mail)

Answer = Any  # what a source gives: a value, an exception to raise, or a function of env


# -- time -----------------------------------------------------------------------------------


class PatientSelector(JumpingSelector):
    """Time stops while a database works, and otherwise jumps."""

    busy = 0

    def select(self, timeout: float | None = None) -> Any:
        """Wait in real time while the database works."""
        if self.busy and timeout != 0:
            return selectors.DefaultSelector.select(self, None)
        return super().select(timeout)


class PatientLoop(VirtualTimeLoop):
    """Virtual time that waits for databases."""

    def __init__(self) -> None:
        self._jumping = self.patient = PatientSelector()
        asyncio.SelectorEventLoop.__init__(self, self._jumping)


@contextmanager
def at_work() -> Iterator[None]:
    """The loop waits for what a thread does in the block."""
    loop = asyncio.get_running_loop()
    selector = loop.patient if isinstance(loop, PatientLoop) else PatientSelector()
    selector.busy += 1
    try:
        yield
    finally:
        selector.busy -= 1


class Patient(Database):
    """A database whose work takes no virtual time."""

    async def start(self) -> None:
        """Open it."""
        with at_work():
            await super().start()  # type: ignore[safe-super]

    async def stop(self) -> None:
        """Close it."""
        with at_work():
            await super().stop()  # type: ignore[safe-super]

    async def transact(self, work: Callable[[Any], T]) -> T:
        """Run work in one transaction."""
        with at_work():
            return await super().transact(work)  # type: ignore[safe-super]

    async def read(self, work: Callable[[Any], T]) -> T:
        """Run work in one snapshot."""
        with at_work():
            return await super().read(work)  # type: ignore[safe-super]


class PatientDatabase(Patient, SqliteDatabase):
    """A file, or one in memory."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run work in virtual time that waits for databases."""
    with asyncio.Runner(loop_factory=PatientLoop) as runner:
        return runner.run(work)


# -- sources --------------------------------------------------------------------------------


class Source:
    """The upstream: answers for each loader, in the order of its calls.

    ``answers["users"]`` has one answer a call; the last one repeats.
    """

    def __init__(self, operations: Sequence[AnyOperation] = (), **answers: Sequence[Answer]) -> None:
        self.operations = operations
        self.answers = {name: list(some) for name, some in answers.items()}
        self.asked: list[tuple[str, Any]] = []
        self.times: list[float] = []
        self.envs: list[Env[Any]] = []

    async def ask(self, name: str, what: Any, env: Env[Any]) -> Any:
        """The next answer for a loader."""
        self.asked.append((name, what))
        self.times.append(now() if isinstance(asyncio.get_running_loop(), PatientLoop) else 0.0)
        self.envs.append(env)
        some = self.answers[name]
        answer = some.pop(0) if len(some) > 1 else some[0]
        if callable(answer) and not isinstance(answer, type):
            answer = await answer(what, env)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def count(self, name: str) -> int:
        """How often a loader was called."""
        return sum(one == name for one, _ in self.asked)


@Loader.collection(Root.users, brings=[User.size])
async def list_users(parent: Ref[Root], request: PageRequest, env: Env[Source]) -> Any:
    return await env.context.ask("users", request.cursor, env)


@Loader.collection(Root.notes, brings=[Note.text, Note.author, User.name])
async def list_notes(parent: Ref[Root], request: PageRequest, env: Env[Source]) -> Any:
    return await env.context.ask("notes", request.cursor, env)


@Loader.entity(User.name, User.phone)
async def load_name(ref: Ref[User], env: Env[Source]) -> Any:
    return await env.context.ask("name", ref.id, env)


@Loader.entity_batched(User.mail, size=3)
async def load_mails(refs: Sequence[Ref[User]], env: Env[Source]) -> Any:
    return await env.context.ask("mails", [ref.id for ref in refs], env)


@Loader.raw
async def everything(env: Env[Source]) -> Any:
    return await env.context.ask("raw", None, env)


LOADERS: list[Loader[Any]] = [list_users, list_notes, load_name, load_mails, everything]
RAW: RawLoader[Any, Any] = everything


def users(*ids: str, next: str | None = None, **more: Any) -> Page[User]:
    """A page of users."""
    return Page([User(id, size=len(id)) for id in ids], next, **more)


async def named(id: str, env: Env[Any]) -> User:
    """The user with a name."""
    return User(id, name=f"Name {id}", phone="1")


def slow(seconds: float, answer: Any) -> Callable[[Any, Any], Awaitable[Any]]:
    """An answer that comes after some seconds."""

    async def after(what: Any, env: Any) -> Any:
        await later(seconds)
        return await answer(what, env) if callable(answer) else answer

    return after


# -- the stage ------------------------------------------------------------------------------


@dataclass
class Stage:
    """A started installation."""

    source: Any
    database: SqliteDatabase
    engine: DatabaseEngine
    meta: DatabaseSyncMeta
    store: DatabaseTaskStore
    executor: SyncExecutor

    async def begin(self, *steps: Any) -> SyncHandle:
        """Begin a sync of these steps."""
        return await self.executor.begin(SyncPlan(steps))

    async def sync(self, *steps: Any) -> SyncResult:
        """A sync from its beginning to its end."""
        return await (await self.begin(*steps)).completion()

    async def users(self) -> dict[str, User]:
        """The stored users by id."""
        return {user.id: user for user in await self.engine.query(User).all()}


async def build(
    source: C, path: Any = MEMORY, *, cap: int = CAP, draw: float = 1.0, **declared: Any
) -> Stage:
    """An installation whose executor has started; ``declared`` is what its connector has instead."""
    operations = source.operations if isinstance(source, Source) else ()
    declared = {"schema": SCHEMA, "loaders": LOADERS, "operations": operations, **declared}
    connector = sample(name="scene", version="7", **declared)
    database = PatientDatabase(path)
    await database.start()
    engine = DatabaseEngine(database, UnknownLoaders(connector.schema, connector.resolver.load_groups))
    await engine.start()
    await engine.store(*(root("r") for root in connector.schema.roots))
    meta, store = DatabaseSyncMeta(database, engine), DatabaseTaskStore(database)
    context = SyncContext(
        "inst", connector, source, engine, meta, OperationRunner(Limits()), now, lambda: draw
    )
    executor = SyncExecutor(store, context, worker=new_worker(), after=engine.tidy, cap=cap)
    await executor.start()
    return Stage(source, database, engine, meta, store, executor)


def play(
    source: Any,
    body: Callable[[Stage], Awaitable[T]],
    path: Any = MEMORY,
    *,
    cap: int = CAP,
    **declared: Any,
) -> T:
    """Run a body on a stage in virtual time; no asyncio task may be left afterwards."""

    async def main() -> T:
        stage = await build(source, path, cap=cap, **declared)
        try:
            return await body(stage)
        finally:
            await stage.executor.stop()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            await stage.database.stop()
            assert not left

    return run(main())


def outcome(source: Any, *steps: Any) -> SyncResult:
    """The result of a sync of these steps."""
    return play(source, lambda stage: stage.sync(*steps))
