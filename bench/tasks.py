"""Tasks that do nothing: the cost of the executor, and whether it depends on their number."""

from __future__ import annotations

import asyncio
from pathlib import Path

from max.connecting import Entity, Env, Field, Loader, Ref, Step, Store, SyncPlan

from . import by_hand
from .measure import Row, fresh_paths, interleaved, report
from .records import connector, running, sync

FEW, MANY = 8_000, 80_000  # tasks
ROUNDS = 3

TASKS = """
    CREATE TABLE task (id INTEGER PRIMARY KEY, state TEXT NOT NULL, payload TEXT NOT NULL);
    CREATE INDEX task_pending ON task (id) WHERE state = 'pending';
"""
CLAIM = """
    UPDATE task SET state = 'running'
     WHERE id = (SELECT id FROM task WHERE state = 'pending' ORDER BY id LIMIT 1)
    RETURNING id, payload
"""
COMPLETE = "UPDATE task SET state = 'completed' WHERE id = ? AND state = 'running'"


class Thing(Entity):
    """The target of a task, with nothing to load."""

    name: Field[str] = Field()


@Loader.entity(Thing.name)
async def load_nothing(ref: Ref[Thing], env: Env[None]) -> Thing:
    """A task that does nothing."""
    return Thing(ref.id)


async def seed(context: None, store: Store) -> SyncPlan:
    """A task for each stored thing, all of them children of one task."""
    return SyncPlan([Step.for_all(Thing).load_fields(Thing.name)])


SOURCE = connector([Thing], [load_nothing], seed, None)


def run() -> None:
    """Tasks a second, against a claim and a completion by hand; many children against few."""
    with fresh_paths() as path:
        places = {number: path() for number in (FEW, MANY)}
        for number, place in places.items():
            asyncio.run(stored(place, number))
        timings = interleaved(
            {
                "two commits": lambda: one_by_one(path(), commits=2),
                "one commit": lambda: one_by_one(path(), commits=1),
                "one commit without the disk's wait": lambda: one_by_one(path(), commits=1, durable=False),
                "few": lambda: asyncio.run(sync(SOURCE, places[FEW])),
            },
            ROUNDS,
        )
        timings |= interleaved({"many": lambda: asyncio.run(sync(SOURCE, places[MANY]))}, 1)
    few, many = timings.pop("few"), timings.pop("many")
    speed = f"{FEW / few.cpu:,.0f} a CPU second"
    musts = {"two commits": "", "one commit": "≥ 1.0"}
    rows = [
        Row(
            "the executor",
            speed,
            by.cpu / few.cpu,
            f"by hand, {name} each",
            musts.get(name, ""),
            by.wall / few.wall,
        )
        for name, by in timings.items()
    ]
    each, wall = many.cpu / MANY, many.wall / MANY
    growth = Row(
        "80,000 children of one parent",
        f"{each * 1e6:.0f} µs CPU a task",
        each / (few.cpu / FEW),
        "8,000 children",
        "≤ 1.2",
        wall / (few.wall / FEW),
    )
    report("tasks", [*rows, growth])


async def stored(place: Path, number: int) -> None:
    """A database with some things."""
    async with running(SOURCE, place) as runtime:
        await runtime.engine.store(*(Thing(f"thing-{i}") for i in range(number)))


def one_by_one(path: Path, *, commits: int, durable: bool = True) -> None:
    """Claim and complete each task by hand; with one commit, a completion shares it with the next claim."""
    database = by_hand.open_wal(path, durable=durable)
    database.executescript(TASKS)
    rows = [("pending", f'{{"id": "thing-{i}"}}') for i in range(FEW)]
    with database:
        database.execute("BEGIN")
        database.executemany("INSERT INTO task (state, payload) VALUES (?, ?)", rows)
    claimed: list[tuple[int, str]] = []
    while True:
        if commits == 1:
            database.execute("BEGIN IMMEDIATE")
        for id, _ in claimed:
            database.execute(COMPLETE, (id,))
        claimed = database.execute(CLAIM).fetchall()
        if commits == 1:
            database.execute("COMMIT")
        if not claimed:
            break
    database.close()
