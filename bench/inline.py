"""Members that come with their rows: issues with five labels each, against the same listed apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from max.connecting import Entity, Field, Json, Many, Page, Schema
from max.model.delivery import Delivery, ListingPage
from max.model.entities import ManyOf
from max.model.loaders import UnknownLoaders
from max.storage.sqlite import connect, transaction
from max.storage.table_writer import TableWriter

from .measure import Row, fresh_paths, interleaved, report

RECORDS, PAGE, ROUNDS = 20_000, 100, 5
LABELS, EACH = 50, 5  # different labels, and those of an issue


class Label(Entity):
    """A label."""

    name: Field[str] = Field()
    color: Field[str] = Field()


class Plain(Entity):
    """An issue without labels."""

    title: Field[str] = Field()
    body: Field[str] = Field()
    state: Field[str] = Field()
    author: Field[str] = Field()
    created_at: Field[datetime] = Field()
    updated_at: Field[datetime] = Field()
    comments: Field[int] = Field()
    number: Field[int] = Field()
    locked: Field[bool] = Field()
    url: Field[str] = Field()


class Inline(Plain):
    """An issue that names its labels."""

    labels: Many[Label] = Many(inline="labels")


class Apart(Plain):
    """An issue whose labels are listed for each."""

    labels: Many[Label] = Many()


class Root(Entity):
    """All issues."""

    plain: Many[Plain] = Many()
    inline: Many[Inline] = Many()
    apart: Many[Apart] = Many()


SCHEMA = Schema([Root, Plain, Inline, Apart, Label], roots=[Root])
COLLECTIONS: dict[str, ManyOf[Root, Any]] = {
    "without": Root.plain,
    "inline": Root.inline,
    "apart": Root.apart,
}


def issue(number: int) -> Json:
    """An issue as a service sends it."""
    labels = [(number * 7 + step * 11) % LABELS for step in range(EACH)]
    return {
        "id": str(number),
        "title": f"Issue {number}",
        "body": "It does not do what it should, and it never did so before. " * 2,
        "state": "open",
        "author": f"user{number % 97}",
        "created_at": f"2026-01-{1 + number % 28:02}T10:00:00Z",
        "updated_at": f"2026-02-{1 + number % 28:02}T10:00:00Z",
        "comments": number % 13,
        "number": number,
        "locked": False,
        "url": f"https://example.com/issues/{number}",
        "labels": [{"id": str(one), "name": f"label {one}", "color": f"{one:06}"} for one in labels],
    }


def store(what: str, pages: Sequence[Sequence[Json]], path: Path, passes: int = 1) -> None:
    """From data to stored rows, as often as said: a transaction for each page, with its issues' labels."""
    tables, many = TableWriter(SCHEMA, UnknownLoaders(SCHEMA)), COLLECTIONS[what]
    with closing(connect(str(path), cache=64)) as connection:
        with transaction(connection):
            tables.apply(connection)
            tables.write(connection, Delivery([Root("root")], 1.0))
        for at in range(1, passes + 1):
            for number, rows in enumerate(pages):
                with transaction(connection):
                    for delivery in deliveries(many, rows, number, number == len(pages) - 1, float(at)):
                        tables.write(connection, delivery)


def deliveries(
    many: ManyOf[Root, Any], rows: Sequence[Json], number: int, last: bool, at: float
) -> Iterator[Delivery]:
    """A page of issues, and a page of labels for each where those are listed apart."""
    listing = ListingPage(Root.ref("root"), many, number, last, at)
    yield Delivery(Page.read(many.child, rows).items, at, listing)
    if many == Root.apart:
        for row in rows:
            labels = ListingPage(Apart.ref(row["id"]), Apart.labels, 0, True, at)
            yield Delivery(Page.read(Label, row["labels"]).items, at, labels)


def run() -> None:
    """Issues per processor second, of a first pass and of a second one that changes nothing."""
    issues = [issue(number) for number in range(RECORDS)]
    pages = [issues[start : start + PAGE] for start in range(0, RECORDS, PAGE)]
    with fresh_paths() as path:
        timings = interleaved(
            {
                f"{what} {passes}": partial(lambda *of: store(of[0], pages, path(), of[1]), what, passes)
                for what in COLLECTIONS
                for passes in (1, 2)
            },
            ROUNDS,
        )
    first = {what: timings[f"{what} 1"].cpu for what in COLLECTIONS}
    again = {what: timings[f"{what} 2"].cpu - first[what] for what in COLLECTIONS}
    report(
        "inline",
        [
            Row(
                f"issues with {EACH} labels, {words}",
                f"{RECORDS / took['inline']:,.0f} issues/CPU s",
                took[against] / took["inline"],
                names,
            )
            for words, took in (("first", first), ("unchanged", again))
            for against, names in (("without", "issues alone"), ("apart", "labels listed for each"))
        ],
    )
