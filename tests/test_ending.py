"""Code of a connector that ends the process: the real command says so, and its exit status is not 0."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONNECTOR = '''
import asyncio
import sys
from max.connecting import Connector, Store, Entity, Env, Field, Installation, Loader, Many, NoConfig
from max.connecting import Page, PageRequest, Ref, Schema, Step, SyncPlan

WHERE = {where!r}


def leaves(place):
    if place == WHERE:
        sys.exit(0)


class Thing(Entity):
    """A thing."""

    title: Field[str] = Field()


class EndingRoot(Entity):
    """The root."""

    things: Many[Thing] = Many()


@Loader.collection(EndingRoot.things, brings=[Thing.title])
async def list_things(parent: Ref[EndingRoot], request: PageRequest, env: Env[None]) -> Page[Thing]:
    if request.cursor is None:
        return Page([Thing("1", title="one")], next="2")
    leaves("loader")
    if WHERE == "task":
        await asyncio.create_task(in_a_task())
    return Page([Thing("2", title="two")])


async def in_a_task():
    leaves("task")


async def seed(context, store: Store) -> SyncPlan:
    leaves("seeder")
    await store.store(EndingRoot("r"))
    return SyncPlan([Step.for_root(EndingRoot.ref("r")).load_collection(EndingRoot.things)])


async def initialise(config, credentials):
    leaves("initialise")
    return Installation(None)


leaves("import")
connector = Connector(
    name="ending", description="It ends the process.", schema=Schema([EndingRoot, Thing], roots=[EndingRoot]),
    loaders=[list_things], seeder=seed, initialise=initialise, config=NoConfig,
)
'''


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The real command, with the connectors of a folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MAX_CONNECTORS": str(folder / "connectors")}
    command = [sys.executable, "-m", "max", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("where", ["loader", "task", "seeder", "initialise", "import"])
def test_sys_exit_in_a_connector_is_a_failure_with_its_place(tmp_path: Path, where: str) -> None:
    (tmp_path / "connectors").mkdir()
    (tmp_path / "connectors" / "max_ending.py").write_text(CONNECTOR.format(where=where))
    done = run(tmp_path, "sync", "ending:default")
    assert done.returncode == (3 if where == "loader" else 1), done
    assert "ending.py, line" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if where in ("loader", "task"):
        assert "1 Thing" in run(tmp_path, "status").stdout, "the page before is stored"
