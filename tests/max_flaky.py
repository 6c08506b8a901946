"""A connector whose service is a folder: the files in it say whether it refuses, and what it answers."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from max.connecting import (
    Connector,
    CredentialProvider,
    Entity,
    Env,
    Field,
    Input,
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
from max.errors import BadCredentials

PAGES = 3


class Thing(Entity):
    """What is listed."""

    size: Field[int] = Field()


class FlakyRoot(Entity):
    """Lists it."""

    things: Many[Thing] = Many()


@dataclass(frozen=True)
class FlakyConfig:
    """Where the files are."""

    place: str


@Loader.collection(FlakyRoot.things, brings=[Thing.size])
async def things(parent: Ref[FlakyRoot], request: PageRequest, env: Env[Path]) -> Page[Thing]:
    """Three pages of a thing each; from the second on they wait for the end of a file ``hold``, or ``fail``.

    Things are larger while there is a file ``grow``.
    """
    place, number = env.context, int(request.cursor or 0)
    for name, what in (("pages", number), ("workers", os.getpid())):
        with (place / name).open("a") as noted:
            noted.write(f"{what}\n")
    while number and (place / "hold").exists():  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.01)
    if number and (place / "fail").exists():
        raise ValueError("the service is broken")
    following = str(number + 1) if number + 1 < PAGES else None
    size = number + 10 * (place / "grow").exists()
    return Page([Thing(str(number), size=size)], next=following)


async def seed(place: Path, store: Store) -> SyncPlan:
    """Refuses while there is a file ``refuse``; waits for the end of a file ``wait``."""
    (place / "seeding").touch()
    while (place / "wait").exists():  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.01)
    if (place / "refuse").exists():
        raise BadCredentials("the token is invalid")
    await store.store(FlakyRoot("root"))
    return SyncPlan([Step.for_root(FlakyRoot.ref("root")).load_collection(FlakyRoot.things)])


async def initialise(config: FlakyConfig, credentials: CredentialProvider) -> Installation[Path]:
    """The folder."""
    return Installation(Path(config.place))


connector = Connector(
    name="flaky",
    description="A service that is a folder.",
    schema=Schema([FlakyRoot, Thing], roots=[FlakyRoot]),
    loaders=[things],
    seeder=seed,
    initialise=initialise,
    config=FlakyConfig,
    onboarding=[Input("place", "the folder")],
)
