"""Syncing again: no changes, without and with secondary indexes, and few changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from max.connecting import Connector, Entity, Env, Field, Loader, Many, Page, PageRequest, Ref
from max.connector import NoConfig
from max.model.entities import ManyOf

from . import by_hand
from .measure import Row, Timing, fresh_paths, interleaved, report
from .records import (
    BROUGHT,
    PAGE,
    Item,
    Owner,
    Read,
    Root,
    SourceRecord,
    connector,
    item,
    listing,
    make,
    seeding,
    sync,
)

RECORDS = 100_000
FEW, MANY = 1_000, 10_000  # changes
INDEXED = ("owner", "votes", "status")  # by hand
ROUNDS = 3

Source = Connector[NoConfig, Any]


class Desk(Entity):
    """The parent of every ticket."""

    tickets: Many[Ticket] = Many()


class Person(Entity):
    """Three collections by a ref of the child: each gives an index."""

    written: Many[Ticket] = Many(by=lambda: Ticket.author)
    reviewed: Many[Ticket] = Many(by=lambda: Ticket.reviewer)
    owned: Many[Ticket] = Many(by=lambda: Ticket.owner)


class Ticket(Entity):
    """Ten fields again, three of them refs."""

    title: Field[str] = Field()
    active: Field[bool] = Field()
    votes: Field[int] = Field()
    score: Field[float] = Field()
    created_at: Field[datetime] = Field()
    prose: Field[str] = Field()
    author: Field[Ref[Person]] = Field()
    reviewer: Field[Ref[Person]] = Field()
    owner: Field[Ref[Person]] = Field()


def run() -> None:
    """Each source twice; the second time against the first."""
    records = make(0, RECORDS)

    def read(start: int, stop: int) -> list[SourceRecord]:
        return records[start:stop]

    plain, indexed = (twice(syncing(one)) for one in (listing(read, RECORDS), tickets(read, RECORDS)))
    hand = twice(lambda path: by_hand.store(path, converted_pages(records), INDEXED))
    rows = [
        versus("unchanged, no index", plain["again"], plain["first"], "its own first sync", "≤ 1"),
        versus(
            "unchanged, three indexes", indexed["again"], indexed["first"], "its own first sync", "≤ 0.25"
        ),
        versus("unchanged, three indexes", indexed["again"], hand["again"], "upserted by hand again"),
        versus("by hand, three indexes", hand["again"], hand["first"], "by hand the first time"),
    ]
    changes = {number: twice(syncing(changing(records, number))) for number in (FEW, MANY)}
    for number, timings in changes.items():
        what = f"{number:,} of 100,000 changed"
        rows.append(versus(what, timings["again"], timings["first"], "its own first sync"))
    few, many = (changes[number]["again"].cpu / number for number in (FEW, MANY))
    rows.append(
        Row("cost of a change", f"{many * 1e6:.0f} µs CPU", many / few, f"when {FEW:,} changed", "≤ 1")
    )
    report("resync", rows)


def twice(store: Callable[[Path], None]) -> dict[str, Timing]:
    """Store into a fresh file, and again."""
    with fresh_paths() as path:
        paths: list[Path] = []

        def first() -> None:
            paths.append(path())
            store(paths[-1])

        return interleaved({"first": first, "again": lambda: store(paths[-1])}, ROUNDS)


def syncing(source: Source) -> Callable[[Path], None]:
    """Sync a source into a file."""
    return lambda path: asyncio.run(sync(source, path))


def converted_pages(records: list[SourceRecord]) -> Iterator[list[by_hand.Row]]:
    """The rows that are upserted by hand, converted each time."""
    return (
        [by_hand.converted(one) for one in records[at : at + PAGE]] for at in range(0, len(records), PAGE)
    )


def versus(what: str, timing: Timing, reference: Timing, against: str, must: str = "") -> Row:
    """One timing against another."""
    ratio, wall = timing.cpu / reference.cpu, timing.wall / reference.wall
    return Row(what, f"{timing.cpu:.2f} s CPU", ratio, against, must, wall)


def tickets(read: Read, count: int) -> Source:
    """A source of entities with three refs that are indexed."""
    made = [getattr(Ticket, name) for name in Ticket.types()]

    @Loader.collection(Desk.tickets, brings=made)
    async def list_tickets(parent: Ref[Desk], request: PageRequest, env: Env[Read]) -> Page[Ticket]:
        start = int(request.cursor or 0)
        end = min(start + PAGE, count)
        page = [ticket(number, data) for number, data in enumerate(env.context(start, end), start)]
        return Page(page, str(end) if end < count else None)

    others = [never(many) for many in (Person.written, Person.reviewed, Person.owned)]
    return connector([Desk, Person, Ticket], [list_tickets, *others], seeding(Desk.tickets), read)


def ticket(number: int, data: SourceRecord) -> Ticket:
    """A record with three refs, spread over a thousand people."""
    return Ticket(
        data["id"],
        title=data["title"],
        active=data["active"],
        votes=data["votes"],
        score=data["score"],
        created_at=data["created_at"],
        prose=data["prose"],
        author=Person.ref(f"person-{number % 997}"),
        reviewer=Person.ref(f"person-{number * 31 % 997}"),
        owner=Person.ref(f"person-{number * 57 % 997}"),
    )


def never(many: ManyOf[Person, Ticket]) -> Loader[Read]:
    """The loader of a collection that no plan lists: it is read by its index."""

    async def list_nothing(parent: Ref[Person], request: PageRequest, env: Env[Read]) -> Page[Ticket]:
        return Page([])

    list_nothing.__name__ = many.name
    return Loader.collection(many)(list_nothing)


def changing(records: list[SourceRecord], changes: int) -> Source:
    """A source that lists changes since a sync token: some records, each time other ones."""
    turns = [0]

    def latest(turn: int, start: int, stop: int) -> list[Item]:
        return [item({**data, "votes": data["votes"] + turn}) for data in records[start:stop]]

    @Loader.collection(Root.records, brings=BROUGHT)
    async def list_items(parent: Ref[Root], request: PageRequest, env: Env[list[int]]) -> Page[Item]:
        env.context[0] += request.cursor is None
        start, count = int(request.cursor or 0), RECORDS if request.sync_token is None else changes
        end = min(start + PAGE, count)
        return Page(latest(env.context[0], start, end), str(end) if end < count else None, sync_token="now")

    return connector([Root, Owner, Item], [list_items], seeding(Root.records), turns)
