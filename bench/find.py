"""Full text: what it adds to a load and to the file, what the first index takes, and finding by hand.

The texts are of 20,000 words, a few of them as frequent as those of a language: a title of about 30
characters and prose of about 80.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from max import InstallationInfo
from max.connecting import Connector, Entity, Env, Field, Loader, Many, Page, PageRequest, Ref
from max.connector import NoConfig
from max.query.reader import open_reader
from max.storage.sqlite import SqliteDatabase

from .measure import Row, fresh_paths, interleaved, report
from .records import PAGE, Owner, Read, SourceRecord, connector, make, running, seeding, sync

LOADED = 100_000
RECORDS = 1_000_000
ROUNDS, FINDS = 3, 5
INFO = InstallationInfo("records", "default", "bench", {}, 0.0)
RANDOM = Random(1)
WORDS = ["".join(RANDOM.choices("etaoinshrdlucm", k=RANDOM.randint(2, 9))) for _ in range(20_000)]
FREQUENT = list(accumulate(1 / (rank + 3) for rank in range(len(WORDS))))
RARE, COMMON = WORDS[4_000], WORDS[0]
Texts = list[tuple[str, str]]
BY_HAND = """
    SELECT rowid, title, snippet(texts, 1, '**', '**', '…', 16), -rank FROM texts
     WHERE texts MATCH ? AND rank MATCH 'bm25(10.0, 1.0)' ORDER BY rank, rowid LIMIT 20
"""


def run() -> None:
    """Loads side by side, the first index over old rows, and the same three questions to both."""
    rows = texts(RECORDS)
    ready = records(rows, 0, LOADED)
    with fresh_paths() as path:
        sizes: dict[str, int] = {}

        def loading(what: str, *, searchable: bool) -> Callable[[], None]:
            def load() -> None:
                file = path()
                asyncio.run(
                    sync(source(lambda start, stop: ready[start:stop], LOADED, searchable=searchable), file)
                )
                sizes[what] = file.stat().st_size

            return load

        loads = interleaved(
            {
                "without": loading("without", searchable=False),
                "with": loading("with", searchable=True),
            },
            ROUNDS,
        )
        ours, theirs = path(), path()
        asyncio.run(
            sync(source(lambda start, stop: records(rows, start, stop), RECORDS, searchable=False), ours)
        )
        first = interleaved(
            {
                "by hand": lambda: index_by_hand(theirs, rows),
                "first index": lambda: asyncio.run(index(ours)),
            },
            1,
        )
        questions = {"a rare word": RARE, "two words": f"{RARE} {COMMON}", "a word in most rows": COMMON}
        found = interleaved(
            {
                f"{who} {what}": asking(who, ours, theirs, text)
                for what, text in questions.items()
                for who in WHO
            },
            ROUNDS,
        )
    ratio, wall = (getattr(loads["with"], k) / getattr(loads["without"], k) for k in ("cpu", "wall"))
    table = [
        Row(
            "load",
            f"{LOADED / loads['with'].cpu:,.0f} rows/CPU s",
            ratio,
            "nothing searchable",
            "≤ 1.6",
            wall,
        ),
        Row(
            "file", f"{sizes['with'] / 2**20:.1f} MB", sizes["with"] / sizes["without"], "nothing searchable"
        ),
        Row(
            "first index of old rows",
            f"{RECORDS / first['first index'].cpu:,.0f} rows/CPU s",
            first["first index"].cpu / first["by hand"].cpu,
            "one statement by hand",
        ),
    ]
    for what in questions:
        mine, other = found[f"Max {what}"], found[f"hand {what}"]
        value = f"{mine.cpu / FINDS * 1e3:.1f} ms"
        table.append(Row(f"find {what}", value, mine.cpu / other.cpu, "SQL by hand", "≤ 1.2"))
    report("find", table)


def texts(count: int) -> Texts:
    """Titles and prose."""
    words = iter(RANDOM.choices(WORDS, cum_weights=FREQUENT, k=count * 24))
    return [(prose(words, 6)[:30], prose(words, 18)[:80]) for _ in range(count)]


def prose(words: Iterator[str], number: int) -> str:
    """So many words."""
    return " ".join(next(words) for _ in range(number))


def records(rows: Texts, start: int, stop: int) -> list[SourceRecord]:
    """Records with these texts."""
    pairs = zip(make(start, stop), rows[start:stop], strict=True)
    return [{**one, "title": title, "prose": prose} for one, (title, prose) in pairs]


def source(read: Read, count: int, *, searchable: bool) -> Connector[NoConfig, Read]:
    """A connector that lists so many records."""
    root, record = entities(searchable=searchable)
    brings = [getattr(record, name) for name in record.types()]

    @Loader.collection(root.records, brings=brings)
    async def list_items(parent: Ref[Any], request: PageRequest, env: Env[Read]) -> Page[Any]:
        start = int(request.cursor or 0)
        end = min(start + PAGE, count)
        items = [record(**{**one, "owner": Owner.ref(one["owner"])}) for one in env.context(start, end)]
        return Page(items, str(end) if end < count else None)

    return connector([root, Owner, record], [list_items], seeding(root.records), read)


def entities(*, searchable: bool) -> tuple[Any, Any]:
    """The root and the record, of ten fields as in the other benchmarks; its texts are searchable or not."""

    class Item(Entity, title="title"):
        title: Field[str] = Field(searchable=searchable)
        active: Field[bool] = Field()
        votes: Field[int] = Field()
        score: Field[float] = Field()
        created_at: Field[datetime] = Field()
        updated_at: Field[datetime] = Field()
        owner: Field[Ref[Owner]] = Field()
        prose: Field[str] = Field(searchable=searchable)
        status: Field[str] = Field()

    class Root(Entity):
        records: Many[Item] = Many()

    return Root, Item


async def index(path: Path) -> None:
    """Index what an earlier connector has stored, as the end of a sync does."""
    async with running(source(lambda start, stop: [], 0, searchable=True), path) as runtime:
        await runtime._engine.tidy(0.0)


def index_by_hand(path: Path, rows: Texts) -> None:
    """The same texts in a table and an FTS5 index of it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, title, prose)")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO item (title, prose) VALUES (?, ?)", rows)
    tokens = "tokenize='unicode61 remove_diacritics 2'"
    connection.execute(
        f"CREATE VIRTUAL TABLE texts USING fts5(title, prose, content=item, content_rowid=id, {tokens})"
    )
    connection.execute("INSERT INTO texts (texts) VALUES ('rebuild')")
    connection.execute("COMMIT")
    connection.close()


WHO = ("hand", "Max")


def asking(who: str, ours: Path, theirs: Path, text: str) -> Callable[[], None]:
    """Some finds, each with the count of all hits."""

    def by_hand() -> None:
        query = " AND ".join(f'"{word}"' for word in text.split())
        query = f'({query}) OR "{text}"' if " " in text else query  # words side by side rank higher
        connection = sqlite3.connect(theirs)
        for _ in range(FINDS):
            connection.execute(BY_HAND, (query,)).fetchall()
            connection.execute("SELECT count(*) FROM texts WHERE texts MATCH ?", (query,)).fetchone()
        connection.close()

    def by_max() -> None:
        with open_reader(SqliteDatabase(ours), INFO) as reader:
            for _ in range(FINDS):
                assert reader.find(text).total

    return by_max if who == "Max" else by_hand
