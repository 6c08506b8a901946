"""What a sync hides, and from where the next one goes on, through the command line.

A service here is a file: what each cursor answers, or all its tickets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.command_line import Cli

CONNECTOR = '''
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from max.connecting import (
    Batch, Connector, CredentialProvider, Entity, Env, Field, Input, Installation, Json, Loader,
    Many, Page, PageRequest, Ref, Schema, Step, Store, SyncPlan, Watermark, operation,
)


class Desk(Entity):
    """Has pages of rows, and tickets."""

    rows: Many[Row] = Many()
    tickets: Many[Ticket] = Many()


class Row(Entity):
    """A row without a time."""

    text: Field[str] = Field()


class Ticket(Entity):
    """A ticket that says when it changed."""

    title: Field[str] = Field()
    updated_at: Field[datetime] = Field()
    votes: Field[int] = Field()


@dataclass(frozen=True)
class Config:
    """Which file the service is."""

    file: str


@operation("desk:file:read")
async def read(config: Config, input: str) -> Json:
    return json.loads(Path(config.file).read_text())[input]


@Loader.collection(Desk.rows, brings=[Row.text])
async def rows(desk: Ref[Desk], request: PageRequest, env: Env[Config]) -> Page[Row]:
    page = (await env.run(read, "pages"))[request.cursor or ""]
    deleted = Path("delete")
    if isinstance(page, list):  # the service pages by offset
        start = int(request.cursor or 0)
        if start and deleted.exists():
            page.remove(deleted.read_text())
            pages = {str(at or ""): page for at in range(0, len(page), 2)}
            Path(env.context.file).write_text(json.dumps({"pages": pages, "tickets": []}))
            deleted.unlink()
        following = str(start + 2) if start + 2 < len(page) else None
        return Page([Row(id, text=id) for id in page[start : start + 2]], next=following)
    return Page([Row(id, text=id) for id in page["ids"]], next=page.get("next"), total=page.get("total"))


@Loader.collection(
    Desk.tickets, brings=[Ticket.title, Ticket.updated_at],
    watermark=Watermark(Ticket.updated_at, overlap=timedelta(minutes=5), newest_first=False),
)
async def tickets(desk: Ref[Desk], request: PageRequest, env: Env[Config]) -> Page[Ticket]:
    found = await env.run(read, "tickets")
    return Page([
        Ticket(one["id"], title=one["title"], updated_at=one["at"]) for one in found
        if request.since is None or datetime.fromisoformat(one["at"]) >= request.since
    ])


@Loader.entity_batched(Ticket.votes, size=100, ttl=timedelta(hours=6))
async def votes(refs: Sequence[Ref[Ticket]], env: Env[Config]) -> Batch[Ticket]:
    found = {one["id"]: one["votes"] for one in await env.run(read, "tickets")}
    return Batch([Ticket(ref.id, votes=found[ref.id]) for ref in refs if ref.id in found])


async def seed(config: Config, store: Store) -> SyncPlan:
    await store.store(Desk("d"))
    desk = Step.for_root(Desk.ref("d"))
    return SyncPlan([
        desk.load_collection(Desk.rows), desk.load_collection(Desk.tickets),
        Step.for_all(Ticket).load_fields(Ticket.votes),
    ])


async def initialise(config: Config, credentials: CredentialProvider) -> Installation[Config]:
    return Installation(config)


connector = Connector(
    name="desk", description="A service in a file.", schema=Schema([Desk, Row, Ticket], roots=[Desk]),
    loaders=[rows, tickets, votes], seeder=seed, initialise=initialise, config=Config,
    onboarding=[Input("file", "Which file?")], operations=[read],
)
'''


class Desk(NamedTuple):
    """A folder with the connector, and the commands in it."""

    run: Cli
    folder: Path

    def write(self, pages: Any = None, *tickets: tuple[str, str, str, int], file: str = "a.json") -> None:
        """What the service has from now on; a list of ids is paged by offset."""
        if isinstance(pages, list):
            pages = {str(start or ""): pages for start in range(0, len(pages), 2)}
        names = ("id", "title", "at", "votes")
        found = [dict(zip(names, one, strict=True)) for one in tickets]
        (self.folder / file).write_text(json.dumps({"pages": pages or {"": {"ids": []}}, "tickets": found}))

    def shown(self, entity: str) -> dict[str, Any]:
        """The visible rows by id."""
        out = self.run("search", "desk", entity, "--all", "-o", "ndjson").out
        return {row["id"]: row for row in map(json.loads, out.splitlines())}


@pytest.fixture
def desk(cli: Cli, tmp_path: Path) -> Iterator[Desk]:
    (tmp_path / "connectors").mkdir()
    (tmp_path / "connectors" / "max_desk.py").write_text(CONNECTOR)
    desk = Desk(cli, tmp_path)
    desk.write()
    assert cli("init").status == 0
    assert cli("connect", "desk", "--set", "file=a.json").status == 0
    yield desk
    sys.modules.pop("max_desk", None)


# -- rows ----------------------------------------------------------------------------------------


def test_a_row_that_slips_between_two_offsets_stays(desk: Desk) -> None:
    ids = ["1", "2", "3", "4", "5", "6"]
    desk.write(ids)
    desk.run("sync", "desk")
    (desk.folder / "delete").write_text("1")
    assert desk.run("sync", "desk").status == 0
    assert list(desk.shown("Row")) == ids[1:]


def test_a_row_listed_twice_does_not_count_twice_towards_the_total(desk: Desk) -> None:
    first = {"ids": ["1", "2"], "next": "a", "total": 4}
    desk.write({"": first, "a": {"ids": ["3", "4"], "total": 4}})
    assert desk.run("sync", "desk").status == 0
    desk.write({"": first, "a": {"ids": ["2", "3"], "total": 4}})
    run = desk.run("sync", "desk")
    assert (run.status, "it has 4 items, and listed 3" in run.out) == (3, True)
    assert list(desk.shown("Row")) == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("settings", "left", "status"),
    [
        ([], 0, 3),
        ([], 4, 0),
        (["removal_share=0"], 9, 3),
        (["removal_floor=0"], 4, 3),
        (["removal_floor=0", "removal_share=0.6"], 4, 0),
    ],
    ids=["all", "a few", "a share of none", "no floor", "a larger share"],
)
def test_more_than_the_guard_allows_is_removed_after_permission_only(
    desk: Desk, settings: list[str], left: int, status: int
) -> None:
    ids = [str(number) for number in range(10)]
    desk.write({"": {"ids": ids}})
    desk.run("sync", "desk")
    assert desk.run("settings", "desk", *settings).status == 0
    desk.write({"": {"ids": ids[:left]}})
    run = desk.run("sync", "desk")
    assert (run.status, "--allow-removals" in run.err) == (status, status == 3)
    assert len(desk.shown("Row")) == (10 if status == 3 else left)
    desk.run("sync", "desk", "--allow-removals")
    assert len(desk.shown("Row")) == left


def test_a_retry_of_an_older_sync_ends_nothing_that_a_newer_one_has_begun(desk: Desk) -> None:
    pages: dict[str, Any] = {
        str(number or ""): {"ids": [f"{number}a", f"{number}b"], "next": str(number + 1)}
        for number in range(4)
    }
    del pages["3"]["next"]
    desk.write(pages)
    assert desk.run("sync", "desk").status == 0
    desk.write({name: page for name, page in pages.items() if name != "3"})
    failed = desk.run("sync", "desk", "-o", "json").data["id"]
    desk.write({name: page for name, page in pages.items() if name != "1"})
    assert desk.run("sync", "desk").status == 3
    desk.write(pages)
    assert desk.run("sync", "desk", "--retry-failed", failed).status == 0
    assert len(desk.shown("Row")) == 8


# -- marks ---------------------------------------------------------------------------------------


def test_a_row_dated_in_the_future_hides_no_later_edit(desk: Desk) -> None:
    late = ("2", "late", "2099-01-01T00:00:00Z", 1)
    desk.write(None, ("1", "new", "2026-01-01T10:00:00Z", 1), late)
    desk.run("sync", "desk")
    desk.write(
        None, ("1", "edited", "2026-06-01T10:00:00Z", 1), late, ("3", "third", "2026-06-02T00:00:00Z", 1)
    )
    assert desk.run("sync", "desk").status == 0
    assert {id: row["title"] for id, row in desk.shown("Ticket").items()} == {
        "1": "edited",
        "2": "late",
        "3": "third",
    }


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z"])
def test_a_time_that_says_never_is_no_watermark(desk: Desk, at: str) -> None:
    desk.write(None, ("1", "a", at, 1))
    assert desk.run("sync", "desk").status == 0
    desk.write(None, ("1", "a", at, 1), ("2", "b", "1980-01-01T00:00:00Z", 1))
    assert desk.run("sync", "desk").status == 0
    assert list(desk.shown("Ticket")) == ["1", "2"]


def test_another_configuration_does_not_go_on_where_the_one_before_ended(desk: Desk) -> None:
    desk.write(None, ("a1", "first", "2026-06-01T10:00:00Z", 1))
    desk.run("sync", "desk")
    second = ("b1", "old", "2026-01-01T10:00:00Z", 1), ("b2", "new", "2026-07-01T10:00:00Z", 1)
    desk.write(None, *second, file="b.json")
    assert desk.run("connect", "desk:default", "--update", "--set", "file=b.json").status == 0
    desk.run("sync", "desk", "--check-deletes")
    assert {"b1", "b2"} <= desk.shown("Ticket").keys()


AHEAD = """
import time

real = time.time
time.time = lambda: real() + 365 * 86_400
"""


def test_what_a_clock_dated_that_was_ahead_is_fetched_again(desk: Desk) -> None:
    ticket = ("1", "a", "2026-01-01T10:00:00Z")
    desk.write(None, (*ticket, 1))
    (desk.folder / "ahead").mkdir()
    (desk.folder / "ahead" / "sitecustomize.py").write_text(AHEAD)
    paths = [str(desk.folder / "ahead"), str(Path(__file__).parents[2])]
    ahead = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run([sys.executable, "-m", "max", "sync", "desk"], env=ahead, check=True, capture_output=True)
    ages = desk.run("freshness", "desk", "Ticket.votes", "-o", "json").data["data"]
    assert [one["never"] for one in ages] == [1]
    desk.write(None, (*ticket, 9))
    assert desk.run("sync", "desk").status == 0
    assert desk.shown("Ticket")["1"]["votes"] == 9
