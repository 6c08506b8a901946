"""``max count --by`` and ``max values``: what a person, a script and an agent read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from max_connectors.acme import AcmeTask, AcmeUser, connector

from max.commands.aggregate import BAR, _fitting, bar
from max.commands.tables import Column
from max.commands.text import display_width
from max.engine import DatabaseEngine
from max.errors import UsageError
from max.storage.database import Database
from tests.command_line import Cli, project_at, record_sync

USERS = [AcmeUser("u1", name="Ada"), AcmeUser("u2", name="Ada"), AcmeUser("u3", name="Bob")]
TASKS = [
    AcmeTask("t1", status="todo", priority=3, estimate=1.5, tags=["a", "b"], assignee=AcmeUser.ref("u1")),
    AcmeTask("t2", status="todo", priority=1, estimate=None, tags=["a"], assignee=AcmeUser.ref("u2")),
    AcmeTask("t3", status="done", priority=2, estimate=0.25, tags=[], assignee=AcmeUser.ref("u3")),
    AcmeTask("t4", title="Nothing else is loaded"),
]


async def fill(database: Database) -> None:
    await database.start()
    engine = DatabaseEngine(database, connector.resolver)
    await engine.start()
    await engine.store(*USERS, *TASKS, requested_at=1_000.0)
    await use(engine)
    await engine.stop()
    await database.stop()


async def use(engine: DatabaseEngine) -> None:
    """The same questions in Python."""
    query = engine.query(AcmeTask)
    assert dict(await query.count_by(AcmeTask.status)) == {"todo": 2, "done": 1}
    found = await query.count_by(AcmeTask.status, AcmeTask.priority, top=1)
    assert dict(found) == {("done", 2): 1, ("todo", 1): 1, ("todo", 3): 1}
    assert found.not_loaded == 1
    assert dict(await query.count_by("assignee.name")) == {"Ada": 2, "Bob": 1}
    assert dict(await query.values(AcmeTask.tags.each())) == {"a": 2, "b": 1, None: 1}
    assert await query.sum(AcmeTask.priority) == 6
    assert await query.avg(AcmeTask.priority) == 2.0
    assert (await query.min(AcmeTask.estimate), await query.max(AcmeTask.estimate)) == (0.25, 1.5)
    assert await query.where(AcmeTask.priority.gt(7)).sum(AcmeTask.priority) is None
    (group, *_) = (await query.count_by(AcmeTask.status, sum=AcmeTask.priority)).groups
    assert (dict(group.values), group.measures) == ({"status": "todo"}, {"sum_priority": 4})
    with pytest.raises(TypeError, match=r"AcmeUser\.name is not a field of AcmeTask"):
        await query.count_by(AcmeUser.name)  # type: ignore[arg-type]  # what mypy refuses as well
    with pytest.raises(UsageError, match="status holds text; sum takes numbers"):
        await query.sum(AcmeTask.status)  # type: ignore[type-var]  # what mypy refuses as well


@pytest.fixture(autouse=True)
def filled(cli: Cli, tmp_path: Path) -> None:
    """A project with ``acme:default``, whose tasks are not all loaded."""
    folder = project_at(tmp_path)
    info = folder.add("acme", None, {}, {}, now=1_000.0)
    asyncio.run(fill(folder.database(info)))
    record_sync(folder.database(info))


class TestCount:
    """``max count``."""

    def test_groups_are_a_table(self, cli: Cli) -> None:
        done = cli("count", "acme", "AcmeTask", "--by", "status", "--sum", "estimate")
        assert done.out.splitlines() == [
            "status        count  sum_estimate",
            "todo              2           1.5",
            "done              1          0.25",
            "(not loaded)      1             –",
        ]

    def test_json_has_groups_and_what_was_cut_off(self, cli: Cli) -> None:
        data = cli("count", "acme", "AcmeTask", "--by", "status", "--top", "1", "-o", "json").data
        assert data.items() >= {"type": "AcmeTask", "total": 4, "more": 2, "moreRows": 2}.items()
        assert data["groups"] == [{"status": "todo", "count": 2}]

    def test_a_value_that_is_not_loaded_is_left_out_of_json(self, cli: Cli) -> None:
        data = cli("count", "acme", "AcmeTask", "--by", "status", "-o", "json").data
        assert data["groups"][-1] == {"count": 1}

    def test_the_groups_that_were_cut_off_are_one_line(self, cli: Cli) -> None:
        done = cli("count", "acme", "AcmeTask", "--by", "status", "--top", "1")
        assert done.out.splitlines()[-1] == "… 2 more groups, 2 rows"

    def test_rows_are_groups_in_every_other_format(self, cli: Cli) -> None:
        words = (
            "count",
            "acme",
            "AcmeTask",
            "--by",
            "status",
            "--by",
            "priority",
            "--filter",
            "status = todo",
        )
        assert cli(*words, "-o", "csv").out == "status,priority,count\r\ntodo,1,1\r\ntodo,3,1\r\n"
        assert cli(*words, "-o", "ndjson").out.splitlines()[0] == '{"status":"todo","priority":1,"count":1}'

    def test_people_of_one_name_are_two_lines(self, cli: Cli) -> None:
        done = cli("count", "acme", "AcmeTask", "--by", "assignee", "--filter", "assignee IS NOT NULL")
        assert [line.rsplit(None, 1)[0] for line in done.out.splitlines()[1:]] == [
            "Ada (u1)",
            "Ada (u2)",
            "Bob",
        ]

    def test_measures_without_groups_are_of_all_rows(self, cli: Cli) -> None:
        done = cli("count", "acme", "AcmeTask", "--sum", "priority,estimate", "--max", "priority")
        assert done.out.split() == [
            "count",
            "4",
            "sum_priority",
            "6",
            "sum_estimate",
            "1.75",
            "max_priority",
            "3",
        ]

    def test_a_cut_without_groups_is_refused(self, cli: Cli) -> None:
        done = cli("count", "acme", "AcmeTask", "--top", "3")
        assert (done.status, "--by FIELD" in done.err) == (2, True)

    @pytest.mark.parametrize("option", ["--by", "--sum", "--max"])
    def test_an_empty_name_is_refused_and_never_left_out(self, cli: Cli, option: str) -> None:
        assert "unknown field ''" in cli("count", "acme", "AcmeTask", option, "").err

    def test_without_rows_a_note_says_so(self, cli: Cli) -> None:
        done = cli("count", "acme", "AcmeTask", "--by", "status", "--filter", "priority > 7")
        assert (done.status, done.out) == (0, "")
        assert "no AcmeTask matches" in done.err


class TestValues:
    """``max values``."""

    def test_values_come_with_their_counts(self, cli: Cli) -> None:
        done = cli("values", "acme", "acmetask.STATUS")
        assert done.out.splitlines() == [
            "status        count",
            "todo              2",
            "done              1",
            "(not loaded)      1",
        ]

    def test_json_counts_empty_and_not_loaded_ones_apart(self, cli: Cli) -> None:
        data = cli("values", "acme", "AcmeTask.estimate", "-o", "json").data
        known = {"distinct": 2, "null": 1, "notLoaded": 1, "total": 4, "more": 0, "field": "estimate"}
        assert data.items() >= known.items()
        assert data["values"] == [{"value": 0.25, "count": 1}, {"value": 1.5, "count": 1}]

    def test_a_limit_changes_no_number_of_values(self, cli: Cli) -> None:
        data = cli("values", "acme", "AcmeTask.status", "--limit", "1", "-o", "json").data
        known = {"distinct": 2, "null": 0, "notLoaded": 1, "more": 2}
        assert data.items() >= known.items()
        assert data["values"] == [{"value": "todo", "count": 2}]

    def test_those_of_a_list_are_its_members(self, cli: Cli) -> None:
        data = cli("values", "acme", "AcmeTask.tags", "-o", "json").data
        assert data["values"] == [{"value": "a", "count": 2}, {"value": "b", "count": 1}]

    def test_a_field_is_asked_for(self, cli: Cli) -> None:
        done = cli("values", "acme", "AcmeTask")
        assert (done.status, "write AcmeTask.FIELD" in done.err) == (2, True)


@pytest.mark.parametrize(("room", "kept"), [(60, 4), (30, 3), (20, 2), (5, 2)])
def test_the_bar_and_the_share_give_way_to_the_others(room: int, kept: int) -> None:
    columns = [Column("name"), Column("count", right=True), Column("share", right=True), Column("")]
    assert _fitting(columns, [["日本語の名前", "12", "100.0%", "█" * BAR]], room) == kept


@pytest.mark.parametrize("share", [0.0, 0.001, 0.33, 0.5, 0.999, 1.0])
def test_a_bar_is_seen_and_never_longer_than_the_longest(share: float) -> None:
    assert 1 <= display_width(bar(share)) <= BAR
