"""Rows of data as stored rows: Page.read, against entities made by a connector's own code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from max.model.delivery import Delivery, ListingPage
from max.model.entities import Entity
from max.model.loaders import UnknownLoaders
from max.model.query import Page
from max.model.schema import Schema
from max.storage.sqlite import connect, transaction
from max.storage.table_writer import TableWriter

from .measure import Row, fresh_paths, interleaved, report
from .records import PAGE, Item, Owner, Root, SourceRecord, item, make

RECORDS = 100_000
ROUNDS = 5
Read = Callable[[Sequence[SourceRecord]], Sequence[Entity]]


def constructed(rows: Sequence[SourceRecord]) -> Sequence[Entity]:
    """A page of entities, made one by one."""
    return Page([item(data) for data in rows]).items


def mapped(rows: Sequence[SourceRecord]) -> Sequence[Entity]:
    """A page that is read by column."""
    return Page.read(Item, rows).items


def encode(read: Read, pages: Sequence[Sequence[SourceRecord]]) -> None:
    """From data to the tuples that statements take, without storing them."""
    tables = TableWriter(SCHEMA, UnknownLoaders(SCHEMA))
    with closing(connect(":memory:", cache=64)) as connection:
        tables.apply(connection)
        validate, mapping = tables.quarantine.validate, tables.mapping(Item)
        for rows in pages:
            entities = read(rows)
            found = validate(connection, mapping, entities, Delivery(entities, 1.0), strict=False)
            for group in found.groups:
                list(group.tuples())


def store(read: Read, pages: Sequence[Sequence[SourceRecord]], path: Path) -> None:
    """From data to stored rows: the pages of one listing, a transaction each."""
    tables = TableWriter(SCHEMA, UnknownLoaders(SCHEMA))
    with closing(connect(str(path), cache=64)) as connection:
        with transaction(connection):
            tables.apply(connection)
            tables.write(connection, Delivery([Root("root")], 1.0))
        for number, rows in enumerate(pages):
            listing = ListingPage(Root.ref("root"), Root.records, number, number == len(pages) - 1, 1.0)
            with transaction(connection):
                tables.write(connection, Delivery(read(rows), 1.0 + number, listing))


SCHEMA = Schema([Root, Owner, Item], roots=[Root])


def run() -> None:
    """Rows per processor second of both ways, up to the tuples and up to the disk."""
    records = make(0, RECORDS)
    pages = [records[start : start + PAGE] for start in range(0, RECORDS, PAGE)]
    with fresh_paths() as path:
        timings = interleaved(
            {
                "encode constructed": lambda: encode(constructed, pages),
                "encode mapped": lambda: encode(mapped, pages),
                "store constructed": lambda: store(constructed, pages, path()),
                "store mapped": lambda: store(mapped, pages, path()),
            },
            ROUNDS,
        )
    rates = {name: RECORDS / timing.cpu for name, timing in timings.items()}
    report(
        "mapping",
        [
            Row(
                f"Page.read, {what}d",
                f"{rates[f'{what} mapped']:,.0f} rows/CPU s",
                rates[f"{what} mapped"] / rates[f"{what} constructed"],
                "constructors",
                "≥ 1.3",
            )
            for what in ("encode", "store")
        ],
    )
