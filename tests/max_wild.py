"""A connector whose loader does to its process what a bug could, for the tests of isolation.

It lists ``pages`` pages of two rows.  Before page ``at``, and with ``every`` before twice that and so on, it
does what ``does`` says, as often as ``times``; the file ``notes`` has a line for each request.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from max.connecting import (
    Connector,
    Credential,
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
    SecretInput,
    Step,
    Store,
    SyncPlan,
)

TOKEN = Credential("token")
VERSION = 1


class Wild(Entity):
    """The place."""

    beasts: Many[Beast] = Many("what lives there")


class Beast(Entity):
    """One of them."""

    name: Field[str] = Field("what it is called")


@dataclass(frozen=True)
class WildConfig:
    """What it does, where and how often."""

    notes: str
    does: str = ""
    at: int = 1
    every: bool = False
    times: int = 1_000
    pages: int = 3


@Loader.collection(Wild.beasts, brings=[Beast.name])
async def list_beasts(wild: Ref[Wild], request: PageRequest, env: Env[WildConfig]) -> Page[Beast]:
    """A page of two, if it comes to that."""
    config, page = env.context, int(request.cursor or 0)
    times = noted(Path(config.notes), page)
    is_there = page == config.at or (config.every and page > 0 and page % config.at == 0)
    if is_there and times <= config.times:
        if config.does == "wait":
            await asyncio.sleep(1_000)
        misbehave(config.does, Path(config.notes))
    names = [f"{page}{letter}" for letter in "ab"]
    next = str(page + 1) if page + 1 < config.pages else None
    return Page([Beast(one, name=f"{one} of version {VERSION}") for one in names], next=next)


def noted(notes: Path, page: int) -> int:
    """Note a request; how often the page was asked for."""
    with notes.open("a") as file:
        file.write(f"{page} {os.getpid()}\n")
    return [line.split()[0] for line in notes.read_text().splitlines()].count(str(page))


def misbehave(how: str, notes: Path) -> None:
    """What a bug could do."""
    if how == "exit":
        os._exit(3)
    elif how == "segfault":
        print("the token is t0p-s3cr3t", file=sys.stderr, flush=True)
        ctypes.string_at(0)
    elif how == "loop":
        while True:
            pass
    elif how == "memory":
        held = []
        while True:
            held.append(bytearray(1_000_000))
    elif how == "huge":
        bytearray(50_000_000_000)
    elif how == "child":
        child = subprocess.Popen(["sleep", "1000"])
        notes.with_suffix(".child").write_text(str(child.pid))
        while True:
            time.sleep(0.01)
    elif how == "print":
        print("no message of the protocol")


async def seed(context: Any, store: Store) -> SyncPlan:
    """Everything."""
    wild = Wild("1")
    await store.store(wild)
    return SyncPlan([Step.for_root(Ref.of(wild)).load_collection(Wild.beasts)])


async def initialise(config: WildConfig, credentials: CredentialProvider) -> Installation[WildConfig]:
    """The configuration is all there is."""
    if config.does == "refuse":
        os._exit(4)

    async def health() -> str:
        return f"version {VERSION}, process {os.getpid()}"

    return Installation(config, health=health)


connector = Connector(
    name="wild",
    description="Things that a bug could do.",
    schema=Schema([Wild, Beast], roots=[Wild]),
    loaders=[list_beasts],
    seeder=seed,
    initialise=initialise,
    config=WildConfig,
    credentials=[TOKEN],
    onboarding=[SecretInput(TOKEN, "Token")],
)
