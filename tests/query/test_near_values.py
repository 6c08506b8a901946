"""An answer without rows says which values no row has, and which are near."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from max_connectors.acme import AcmeProject, AcmeTask, AcmeUser

from max.model.entities import Entity
from max.project import Project
from max.projects.folder import ProjectFolder
from max.query.near_values import VALUES
from max.query.reader import Reader
from tests.command_line import project_at
from tests.contract.places import BOTH, lasting_project
from tests.database_files import data_file
from tests.query.test_reader import store

ADA, BEN = AcmeUser.ref("u1"), AcmeUser.ref("u2")
STATUSES = ["todo", "done", "in progress"]
ROWS: list[Entity] = [
    AcmeUser("u1", name="Ada Rossi", email="ada@acme.example"),
    AcmeUser("u2", name="Ben Ito", email="ben@acme.example"),
    AcmeProject("p1", name="Kestrel", owner=ADA, tags=["web"]),
    *(
        AcmeTask(
            f"t{n}",
            title=f"Write chapter {n}",
            status=STATUSES[n % 3],
            priority=n % 3,
            tags=["docs", "quick"][: n % 3],
            assignee=[ADA, BEN, None][n % 3],
            project=AcmeProject.ref("p1"),
        )
        for n in range(30)
    ),
]


@pytest.fixture(scope="module", params=BOTH)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with some users and tasks."""
    folder = tmp_path_factory.mktemp("project")
    with lasting_project(folder, on_postgres=request.param == "postgres"):
        kept = project_at(folder)
        info = kept.add("acme", None, {}, {}, now=1_000.0)
        asyncio.run(store(kept.database(info), *ROWS))
        yield Project(kept)


@pytest.fixture
def reader(project: Project) -> Iterator[Reader]:
    with project.read("acme:default") as reader:
        yield reader


def near(reader: Reader, text: str, entity: str = "AcmeTask") -> list[str]:
    return reader.near_values(reader.query(entity, text))


CHAPTERS = "Write chapter 7 or Write chapter 27 or Write chapter 17"
EMAILS = "(ada@acme.example, ben@acme.example)"
ALL = "(done, in progress, todo)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status = tood", [f"no AcmeTask has status 'tood'; did you mean todo? {ALL}"]),
        ("status = TODO", [f"no AcmeTask has status 'TODO'; did you mean todo? {ALL}"]),
        ("status = xyzzy", ["no AcmeTask has status 'xyzzy'; it is one of: done, in progress, todo"]),
        (
            "status IN (todo, DONE) AND tags HAS docz",
            [
                f"no AcmeTask has status 'DONE'; did you mean done? {ALL}",
                "no AcmeTask has tags 'docz'; did you mean docs? (docs, quick)",
            ],
        ),
        ("priority = 9", ["no AcmeTask has priority '9'; it is one of: 0, 1, 2"]),
        (
            'title = "Write chaptr 7"',
            [
                f"no AcmeTask has title 'Write chaptr 7'; did you mean {CHAPTERS}?",
            ],
        ),
        ("title = xyzzy", ["no AcmeTask has title 'xyzzy'"]),
        ('assignee = "Ada"', ["no AcmeUser has the id 'Ada'; did you mean assignee.name = \"Ada Rossi\"?"]),
        ("assignee.id = ada", ["no AcmeUser has the id 'ada'; did you mean assignee.name = \"Ada Rossi\"?"]),
        ("assignee = xyzzy", ["no AcmeUser has the id 'xyzzy'"]),
        (
            "assignee.name = 'Ben Itto'",
            ["no AcmeUser has name 'Ben Itto'; did you mean Ben Ito? (Ada Rossi, Ben Ito)"],
        ),
        (
            "project.owner.email = ada@acme",
            [
                f"no AcmeUser has email 'ada@acme'; did you mean ada@acme.example? {EMAILS}",
            ],
        ),
        (
            "project.tasks.status HAS tood",
            [f"no AcmeTask has status 'tood'; did you mean todo? {ALL}"],
        ),
        ("status = todo AND priority = 1", []),
        (
            "NOT status = tood AND priority = 9 AND id = t0",
            ["no AcmeTask has priority '9'; it is one of: 0, 1, 2"],
        ),
        ("status != tood AND status > tood", []),
        ("due_date = 2026-01-31", []),
        ("status IS NULL AND assignee = null", []),
    ],
)
def test_a_value_that_no_row_has_is_named_with_those_that_are_near(
    reader: Reader, text: str, expected: list[str]
) -> None:
    assert near(reader, text) == expected


def test_a_name_in_place_of_a_childs_id_is_shown_as_it_is_asked_for(reader: Reader) -> None:
    (hint,) = near(reader, 'tasks HAS "chapter 7"', "AcmeProject")
    assert hint == "no AcmeTask has the id 'chapter 7'; did you mean tasks.title HAS \"Write chapter 7\"?"
    assert reader.count("AcmeProject", hint.partition("did you mean ")[2].removesuffix("?")) == 1
    (hint,) = near(reader, "tasks.assignee HAS Ben", "AcmeProject")
    assert reader.count("AcmeProject", hint.partition("did you mean ")[2].removesuffix("?")) == 1
    (hint,) = near(reader, "id = Kestrel", "AcmeProject")
    assert hint == "no AcmeProject has the id 'Kestrel'; did you mean name = Kestrel?"


def test_at_most_three_values_are_named_and_each_once(reader: Reader) -> None:
    assert len(near(reader, "status IN (a, b, c, d, e)")) == 3
    assert len(near(reader, "status = tood OR status = tood")) == 1


def test_a_query_without_a_filter_demands_nothing(reader: Reader) -> None:
    assert reader.near_values(reader.query("AcmeTask")) == []


def test_only_so_many_different_values_are_read(tmp_path: Path) -> None:
    folder = ProjectFolder.init(tmp_path)
    info = folder.add("acme", None, {}, {}, now=1_000.0)
    people = [AcmeUser(f"{n:05}", name=f"Person {n:05}") for n in range(2 * VALUES)]
    asyncio.run(store(data_file(folder, info), *people))
    with Project(folder).read("acme:default") as reader:
        assert near(reader, "name = 'Person 00007x'", "AcmeUser")[0].startswith(
            "no AcmeUser has name 'Person 00007x'; did you mean Person 00007"
        )
        assert near(reader, f"name = 'Person {2 * VALUES - 1:05}'", "AcmeUser") == []
