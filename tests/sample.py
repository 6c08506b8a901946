"""The smallest possible connector, for tests of the parts around a connector."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
    UpstreamBroken,
)
from max.model.loaders import UnknownLoaders
from max.model.migrations import NO_POLICY, SchemaPolicy
from max.storage.table_writer import TableWriter

executed: list[str] = []  # the names of connector files that were executed, in order
events: list[str] = []  # what happened to installations, by their prefix: "initialise thing", "stop thing"
unanswered: set[str] = set()  # the prefixes of installations whose listing never comes
refusals: list[Exception] = []  # what the next initialisations raise


class Thing(Entity):
    """A thing."""

    title: Field[str] = Field()


class SampleRoot(Entity):
    """Lists the things."""

    things: Many[Thing] = Many()


@dataclass(frozen=True)
class SampleConfig:
    """How many things there are, and what they are called."""

    things: int = 2
    prefix: str = "thing"


@Loader.collection(SampleRoot.things, brings=[Thing.title])
async def list_things(parent: Ref[SampleRoot], request: PageRequest, env: Env[SampleConfig]) -> Page[Thing]:
    """Every thing, on one page."""
    config = env.context
    if config.prefix in unanswered:
        await asyncio.Event().wait()
    return Page([Thing(str(n), title=f"{config.prefix} {n}") for n in range(config.things)])


async def seed(context: SampleConfig, store: Store) -> SyncPlan:
    """One root, whose things are listed."""
    root = SampleRoot("root")
    await store.store(root)
    return SyncPlan([Step.for_root(Ref.of(root)).load_collection(SampleRoot.things)])


async def initialise(config: SampleConfig, credentials: CredentialProvider) -> Installation[SampleConfig]:
    """The configuration is the context."""
    events.append(f"initialise {config.prefix}")
    if refusals:
        raise refusals.pop()

    async def stop() -> None:
        events.append(f"stop {config.prefix}")
        if config.prefix == "stuck":
            raise UpstreamBroken("it cannot be stopped")

    return Installation(context=config, stop=stop)


def sample(**changes: Any) -> Connector[Any, Any]:
    """A valid connector, with some attributes changed."""
    attributes: dict[str, Any] = {
        "name": "sample",
        "description": "A few things.",
        "schema": Schema([SampleRoot, Thing], roots=[SampleRoot]),
        "loaders": [list_things],
        "seeder": seed,
        "initialise": initialise,
        "config": SampleConfig,
    }
    return Connector(**(attributes | changes))


def source(name: str) -> str:
    """The source of a connector file that records its execution."""
    return (
        "from tests.sample import executed, sample\n"
        f"executed.append({name!r})\n"
        f"connector = sample(name={name!r})\n"
    )


def writer(
    schema: Schema,
    policy: SchemaPolicy = NO_POLICY,
    load_groups: Callable[[type[Entity]], Sequence[tuple[str, ...]]] | None = None,
) -> TableWriter:
    """The tables of a schema, as if any collection brought any field."""
    return TableWriter(schema, UnknownLoaders(schema, load_groups), policy)
