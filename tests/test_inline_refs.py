"""People whom rows name in a list, and whom other rows name in a field: what becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
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
    NoConfig,
    Page,
    PageRequest,
    Ref,
    Schema,
    Step,
    Store,
    SyncPlan,
    UpstreamMissing,
)
from max.model.tasks import Status
from max.storage.sync_state import sync_state
from max.testing import runtime


class Board(Entity):
    """The root."""

    tasks: Many[Task] = Many()
    groups: Many[Group] = Many()


class Group(Entity):
    """A group of people."""

    people: Many[Person] = Many()


class Person(Entity):
    """Someone whom tasks name."""

    name: Field[str] = Field()
    nick: Field[str] = Field()


class Task(Entity):
    """Something to do."""

    author: Field[Ref[Person]] = Field()
    assignees: Many[Person] = Many(inline="assignees")


Rows = dict[str, tuple[str, Sequence[str]]]  # by task, its author and its assignees
Groups = dict[str, Sequence[str]]  # by group, its people


def boards(
    rows: Rows, asked: list[str | None], *, with_authors: bool, of: Groups
) -> Connector[NoConfig, None]:
    """A connector of these tasks, two a page; each page begins behind the row before it.

    Assignees come with their names, and so do authors if it is ``with_authors``.  Nicks are asked for in
    each sync; of those whom no task names there is none.
    """

    @Loader.collection(Board.tasks, brings=[Task, Person], stable=True)
    async def tasks(parent: Ref[Board], request: PageRequest, env: Env[Any]) -> Page[Task]:
        asked.append(request.cursor)
        ids = sorted(id for id in rows if request.cursor is None or id > request.cursor)
        found = [
            Task(id, author=Person.ref(rows[id][0]), assignees=[Person(one) for one in rows[id][1]])
            for id in ids[:2]
        ]
        people = {name for id in ids[:2] for name in rows[id][1]}
        people |= {rows[id][0] for id in ids[:2] if with_authors}
        also = [Person(name, name=name.title()) for name in sorted(people)]
        return Page(found, next=ids[1] if len(ids) > 2 else None, also=also)

    @Loader.collection(Board.groups, brings=Group, stable=True)
    async def groups(parent: Ref[Board], request: PageRequest, env: Env[Any]) -> Page[Group]:
        return Page([Group(id) for id in of])

    @Loader.collection(Group.people, brings=[Person.name], stable=True)
    async def members(parent: Ref[Group], request: PageRequest, env: Env[Any]) -> Page[Person]:
        return Page([Person(one, name=one.title()) for one in of[parent.id]])

    @Loader.entity(Person.nick, ttl=timedelta(0))
    async def nick(ref: Ref[Person], env: Env[Any]) -> Person:
        people = [[author, *assigned] for author, assigned in rows.values()]
        if not any(ref.id in some for some in (*people, *of.values())):
            raise UpstreamMissing(f"{ref.id} is gone")
        return Person(ref.id, nick=ref.id[:1])

    async def seed(context: None, store: Store) -> SyncPlan:
        await store.store(Board("b"))
        board, nicks = Step.for_root(Board.ref("b")), Step.for_all(Person).load_fields(Person.nick)
        people = [board.load_collection(Board.groups), Step.for_all(Group).load_collection(Group.people)]
        return SyncPlan([board.load_collection(Board.tasks), *people, nicks])

    async def initialise(config: NoConfig, credentials: CredentialProvider) -> Installation[None]:
        return Installation(None)

    return Connector(
        name="boards",
        description="Tasks and people.",
        schema=Schema([Board, Group, Task, Person], roots=[Board]),
        loaders=[tasks, groups, members, nick],
        seeder=seed,
        initialise=initialise,
        config=NoConfig,
    )


def people_after(rows: Rows, *then: Rows, with_authors: bool = True) -> tuple[list[str], int]:
    """Who is there after a sync of each of these, and how many pages the last one read."""
    asked: list[str | None] = []

    async def body() -> tuple[list[str], int]:
        async with runtime(boards(rows, asked, with_authors=with_authors, of={}), NoConfig()) as there:
            for some in (dict(rows), *then):
                rows.clear()
                rows.update(some)
                asked.clear()
                assert (await (await there.sync()).completion()).status is Status.COMPLETED
            assert [one.id for one in await there.engine.query(Task).order_by(Task.id).all()] == sorted(rows)
            state = await there._database.read(lambda one: sync_state(one, "boards", now=time.time()))
            assert state.warning is None, "nothing is in doubt"
            due = await there.sync_meta.stale_ids(Person, ["name"], before=time.time(), after="", limit=9)
            people = await there.engine.query(Person).order_by(Person.id).all()
            assert due == [person.id for person in people], "each can be asked for by its id"
            return due, len(asked)

    return asyncio.run(body())


def test_someone_whom_no_list_names_any_more_stays_as_the_author_of_a_row() -> None:
    before: Rows = {"1": ("ada", ["bob"]), "2": ("bob", []), "3": ("ada", ["ada"])}
    after = before | {"1": ("ada", []), "3": ("ada", [])}
    assert people_after(before, after) == (["ada", "bob"], 2)


def test_someone_whom_no_row_names_any_more_goes() -> None:
    before: Rows = {"1": ("ada", ["bob"]), "2": ("ada", []), "3": ("ada", ["ada"])}
    assert people_after(before, before | {"1": ("ada", [])})[0] == ["ada"]


def test_someone_whom_a_field_alone_named_goes_when_it_names_another() -> None:
    before: Rows = {"1": ("ada", ["bob"]), "2": ("bob", []), "3": ("ada", ["ada"])}
    dropped = before | {"1": ("ada", [])}
    assert people_after(before, dropped, dropped)[0] == ["ada", "bob"]
    before = {"1": ("ada", ["bob"]), "2": ("bob", []), "3": ("ada", ["ada"])}
    assert people_after(before, dropped, dropped | {"2": ("ada", [])})[0] == ["ada"]


def test_someone_whom_a_row_alone_keeps_that_goes_may_be_gone_at_the_source() -> None:
    before: Rows = {"1": ("ada", ["bob"]), "2": ("bob", []), "3": ("ada", ["ada"])}
    dropped = before | {"1": ("ada", [])}
    after = {id: dropped[id] for id in ("1", "3")}
    assert people_after(before, dropped, after)[0] == ["ada"]


def test_the_assignee_of_a_row_that_is_gone_stays_as_the_author_of_another() -> None:
    before: Rows = {"1": ("ada", ["bob"]), "2": ("bob", []), "3": ("ada", [])}
    after = {id: before[id] for id in ("2", "3")}
    assert people_after(before, after)[0] == ["ada", "bob"]


def test_with_a_row_goes_its_author_whom_it_alone_assigned() -> None:
    """Its own fields keep no one back: it goes as well."""
    before: Rows = {"1": ("ada", ["ada"]), "2": ("bob", ["bob"]), "3": ("bob", [])}
    after = {id: before[id] for id in ("2", "3")}
    assert people_after(before, after)[0] == ["bob"]


def test_rows_that_go_together_keep_no_one_whom_only_they_name() -> None:
    before: Rows = {"1": ("ada", ["cy"]), "2": ("cy", ["ada"]), "3": ("bob", []), "4": ("bob", ["bob"])}
    after = {id: before[id] for id in ("3", "4")}
    assert people_after(before, after)[0] == ["bob"]


def test_someone_whom_fields_alone_name_keeps_no_other_row_back() -> None:
    before: Rows = {"1": ("ada", ["bob"]), "2": ("bob", []), "3": ("ada", ["ada"]), "4": ("ada", ["cy"])}
    after: Rows = {"1": ("ada", []), "2": ("bob", []), "3": ("ada", ["ada"])}
    assert people_after(before, after, with_authors=False)[0] == ["ada", "bob"]


def test_a_group_goes_while_a_field_alone_keeps_one_of_its_people() -> None:
    groups: Groups = {"g": ["ada"], "h": ["bob"]}

    async def body() -> list[list[str]]:
        source = boards({"1": ("ada", [])}, [], with_authors=False, of=groups)
        async with runtime(source, NoConfig()) as there:
            for _ in range(2):
                assert (await (await there.sync()).completion()).status is Status.COMPLETED
                groups.pop("g", None)
            state = await there._database.read(lambda one: sync_state(one, "boards", now=time.time()))
            assert state.warning is None, "nothing is in doubt"
            groups_left = await there.engine.query(Group).order_by(Group.id).all()
            people_left = await there.engine.query(Person).order_by(Person.id).all()
            return [[one.id for one in groups_left], [one.id for one in people_left]]

    assert asyncio.run(body()) == [["h"], ["ada", "bob"]]
