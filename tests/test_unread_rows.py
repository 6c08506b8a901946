"""A row that could not be read may hold any row that is looked for, so none of those is removed for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from max.core import SyncOptions
from max.errors import PermissionDenied
from max.model.entities import Entity, Field, Many, Ref
from max.model.loaders import Env, Loader, PageRequest
from max.model.plan import Step, SyncPlan
from max.model.query import Page
from max.model.schema import Schema
from max.model.tasks import Status
from tests.scenes import Source, Stage, play
from tests.virtual_time import later


class Desk(Entity):
    """Has issues and boxes."""

    issues: Many[Issue] = Many()
    boxes: Many[Box] = Many()


class Label(Entity):
    """Is named by issues."""

    name: Field[str] = Field()


class Issue(Entity):
    """Names its labels."""

    title: Field[str] = Field()
    labels: Many[Label] = Many(inline="labels")


class Box(Entity):
    """Lists its things."""

    title: Field[str] = Field()
    things: Many[Thing] = Many()


class Thing(Entity):
    """Is in a box."""

    name: Field[str] = Field()


DESK = Ref(Desk, "r")
NO = {"9": PermissionDenied("no")}


@Loader.collection(Desk.issues, brings=[Issue, Label])
async def list_issues(parent: Ref[Desk], request: PageRequest, env: Env[Source]) -> Any:
    await later(1)
    return await env.context.ask("issues", request.cursor, env)


@Loader.collection(Desk.boxes, brings=Box)
async def list_boxes(parent: Ref[Desk], request: PageRequest, env: Env[Source]) -> Any:
    await later(1)
    return await env.context.ask("boxes", request.cursor, env)


@Loader.collection(Box.things, brings=Thing)
async def list_things(parent: Ref[Box], request: PageRequest, env: Env[Source]) -> Any:
    await later(1)
    return await env.context.ask(f"things of {parent.id}", request.cursor, env)


DECLARED: dict[str, Any] = {
    "schema": Schema([Desk, Issue, Label, Box, Thing], roots=[Desk]),
    "loaders": [list_issues, list_boxes, list_things],
}
ISSUES = SyncPlan([Step.for_root(DESK).load_collection(Desk.issues)])
BOXES = SyncPlan(
    [Step.for_root(DESK).load_collection(Desk.boxes), Step.for_all(Box).load_collection(Box.things)]
)


async def sync(stage: Stage, plan: SyncPlan) -> Status:
    await later(100)
    options = SyncOptions(allow_removals=True, check_deletes=True)
    return (await (await stage.executor.begin(plan, options)).completion()).status


async def ids(stage: Stage, entity: type[Entity]) -> list[str]:
    return [one.id for one in await stage.engine.query(entity).all()]


def issue(id: str, *labels: str) -> Issue:
    return Issue(id, title="a", labels=[Label(name, name=name) for name in labels])


def invalid(**values: Any) -> Issue:
    return Issue("9", **cast(Any, {"title": "a"} | values))


FIRST = Page([issue("1", "bug"), issue("2"), issue("9")])
LEFT = Page([issue("1"), issue("2"), issue("9")])  # no issue has it


@pytest.mark.parametrize(
    "pages",
    [
        [Page([issue("1")], failed=NO)],
        [Page([issue("1")], next="2"), Page([issue("2")], failed=NO)],
        [Page([issue("1")], next="2", total=3), Page([issue("2")], failed=NO, total=3)],
        [Page([issue("1"), issue("2"), invalid(title=7, labels=[Label.ref("bug")])])],
        [Page([issue("1"), issue("2"), invalid(labels=7)])],
        [Page([issue("1"), issue("2"), invalid(labels=[3, Label("bug")])])],
    ],
    ids=["failed", "failed on the last page", "counted", "another value", "no list", "another member"],
)
def test_a_member_that_an_unread_row_may_name_stays_until_that_row_is_read(
    pages: Sequence[Page[Issue]],
) -> None:
    async def body(stage: Stage) -> None:
        await sync(stage, ISSUES)
        stage.source.answers["issues"] = [*pages, *pages, *pages]
        assert await sync(stage, ISSUES) is Status.PARTIAL
        assert await ids(stage, Label) == ["bug"]
        stage.source.answers["issues"] = [LEFT]
        assert await sync(stage, ISSUES) is Status.COMPLETED
        assert await ids(stage, Label) == []

    play(Source(issues=[FIRST]), body, **DECLARED)


def test_what_only_invalid_rows_named_goes_once_they_are_read_and_do_not_name_it() -> None:
    async def body(stage: Stage) -> None:
        await sync(stage, ISSUES)
        stage.source.answers["issues"] = [Page([invalid(title=7, labels=[Label("bug"), Label("new")])])]
        assert await sync(stage, ISSUES) is Status.PARTIAL
        assert await ids(stage, Label) == ["bug", "new"]
        stage.source.answers["issues"] = [Page([issue("9", "bug")])]
        assert await sync(stage, ISSUES) is Status.COMPLETED
        assert await ids(stage, Label) == ["bug"]

    play(Source(issues=[Page([issue("9", "bug")])]), body, **DECLARED)


@pytest.mark.parametrize(
    "unread",
    [
        Page([Box("1", title="a")], failed=NO),
        Page([Box("1", title="a"), Box("9", title=cast(Any, 7))]),
    ],
    ids=["failed", "invalid"],
)
def test_a_child_that_may_be_in_a_new_parent_which_was_not_read_stays(unread: Page[Box]) -> None:
    async def body(stage: Stage) -> None:
        await sync(stage, BOXES)
        stage.source.answers |= {"boxes": [unread], "things of 1": [Page([])]}
        assert await sync(stage, BOXES) is Status.PARTIAL
        assert await ids(stage, Thing) == ["x"]
        stage.source.answers["boxes"] = [Page([Box("1", title="a"), Box("9", title="b")])]
        assert await sync(stage, BOXES) is Status.COMPLETED
        assert await ids(stage, Thing) == []

    things: dict[str, Any] = {"things of 1": [Page([Thing("x", name="x")])], "things of 9": [Page([])]}
    play(Source(boxes=[Page([Box("1", title="a")])], **things), body, **DECLARED)


def test_a_stored_parent_whose_row_is_invalid_is_listed_and_keeps_no_others() -> None:
    async def body(stage: Stage) -> None:
        await sync(stage, BOXES)
        assert await ids(stage, Thing) == ["x", "y"]
        boxes = Page([Box("1", title="a"), Box("2", title=cast(Any, 7))])
        stage.source.answers |= {"boxes": [boxes], "things of 1": [Page([])]}
        assert await sync(stage, BOXES) is Status.PARTIAL
        assert await ids(stage, Thing) == ["y"]

    things: dict[str, Any] = {f"things of {n}": [Page([Thing(id, name=id)])] for n, id in enumerate("xy", 1)}
    play(Source(boxes=[Page([Box("1", title="a"), Box("2", title="b")])], **things), body, **DECLARED)


def test_rows_of_the_listing_itself_are_removed_although_others_were_not_read() -> None:
    """The row that could not be read is known by its id, and is none of those."""

    async def body(stage: Stage) -> None:
        await sync(stage, BOXES)
        stage.source.answers["things of 1"] = [Page([], failed=NO)]
        await sync(stage, BOXES)
        assert await ids(stage, Thing) == []

    things: dict[str, Any] = {"things of 1": [Page([Thing("x", name="x")])]}
    play(Source(boxes=[Page([Box("1", title="a")])], **things), body, **DECLARED)
