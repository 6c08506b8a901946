"""Trees: an entity that lists its own kind, as folders do."""

from __future__ import annotations

from typing import Any

import pytest

from max.connecting import (
    Entity,
    Env,
    Field,
    Loader,
    Many,
    Page,
    PageRequest,
    Ref,
    Schema,
    Step,
    UpstreamMissing,
)
from max.model.tasks import Status
from tests.scenes import Stage, play


class Folder(Entity):
    """A folder, with others inside."""

    name: Field[str] = Field()
    folders: Many[Folder] = Many()


class Drive(Entity):
    """The root."""

    folders: Many[Folder] = Many()


Inside = dict[str, list[str]]  # by folder, "r" for the drive


def page(inside: Inside, parent: Ref[Any]) -> Page[Folder]:
    if parent.id not in inside:
        raise UpstreamMissing(f"{parent} is gone")
    return Page([Folder(id, name=id) for id in inside[parent.id]])


@Loader.collection(Drive.folders, brings=[Folder.name])
async def list_top(drive: Ref[Drive], request: PageRequest, env: Env[Inside]) -> Page[Folder]:
    return page(env.context, drive)


@Loader.collection(Folder.folders, brings=[Folder.name])
async def list_inner(folder: Ref[Folder], request: PageRequest, env: Env[Inside]) -> Page[Folder]:
    return page(env.context, folder)


TREE: dict[str, Any] = {
    "schema": Schema([Drive, Folder], roots=[Drive]),
    "loaders": [list_top, list_inner],
}
TOP = Step.for_root(Drive.ref("r")).load_collection(Drive.folders)
INNER = Step.for_all(Folder).load_collection(Folder.folders)


@pytest.mark.parametrize("gone", ["a", "z"])  # it is listed before, or after, the folder that had it
def test_a_folder_that_is_gone_is_no_failure_though_it_was_listed_beside_its_parent(gone: str) -> None:
    inside: Inside = {"r": ["m"], "m": [gone], gone: []}

    async def body(stage: Stage) -> None:
        assert (await stage.sync(TOP, INNER, INNER)).status is Status.COMPLETED
        del inside[gone]
        inside["m"] = []
        result = await stage.sync(TOP, INNER, INNER)
        assert (result.status, result.failures, result.removed) == (Status.COMPLETED, (), 1)

    play(inside, body, **TREE)


def test_a_folder_that_exists_and_cannot_be_listed_is_a_failure() -> None:
    inside: Inside = {"r": ["m"]}

    async def body(stage: Stage) -> None:
        result = await stage.sync(TOP, INNER)
        assert (result.status, [one.code for one in result.failures]) == (
            Status.PARTIAL,
            ["upstream.missing"],
        )

    play(inside, body, **TREE)


def test_folders_that_are_gone_and_that_listed_each_other_last_are_removed() -> None:
    inside: Inside = {"r": ["a", "k"], "a": ["b"], "b": [], "k": []}

    async def body(stage: Stage) -> None:
        await stage.sync(TOP, INNER, INNER)
        inside.update({"r": ["b", "k"], "b": ["a"]})
        del inside["a"]  # its collection cannot be read while it moves
        await stage.sync(TOP, INNER)
        inside.update({"r": ["k"]})
        del inside["b"]
        await stage.sync(TOP, INNER)
        result = await stage.sync(TOP, INNER)
        assert (result.status, result.failures) == (Status.COMPLETED, ())
        assert [one.id for one in await stage.engine.query(Folder).all()] == ["k"]

    play(inside, body, **TREE)
