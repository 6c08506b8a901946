"""What max doctor says of a project in Postgres: its server's clock, its key, its schemas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from max.installations.encryption import new_key
from max.model.settings import InstallationInfo
from max.projects.audit import audit_rows
from max.projects.database import ProjectDatabase
from max.storage.postgres_project import server
from tests.command_line import Cli, project_at, running, sql
from tests.contract.places import lasting_project

pytestmark = pytest.mark.postgres
SECRET = "secret-of-the-test-4711"
SMALL = "--set users=6 --set workspaces=1 --set projects=2 --set tasks=4 --set files=0".split()


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Runs a command in a folder that leads to a project on the server."""
    monkeypatch.chdir(tmp_path)
    with lasting_project(tmp_path, on_postgres=True):
        yield running(capsys)


def add(**secrets: str) -> InstallationInfo:
    """An installation of the current project."""
    return project_at().add("acme", None, {}, secrets, now=1_700_000_000.0, destination="")


def found(cli: Cli, *words: str) -> dict[str, Any]:
    """The findings of the project and its installations, by their checks."""
    answer = cli("doctor", *words, "-o", "json")
    rows = [row for row in answer.data["data"] if row["about"] != "machine"]
    assert answer.status == any(row["level"] == "problem" for row in rows), answer
    assert len({(row["about"], row["check"]) for row in rows}) == len(rows)
    return {row["check"]: row for row in rows}


def levels(cli: Cli, *words: str) -> dict[str, str]:
    """What is not ok, by its check."""
    return {name: row["level"] for name, row in found(cli, *words).items() if row["level"] != "ok"}


def test_a_sound_project_is_ok_in_each_check(cli: Cli) -> None:
    assert cli("connect", "acme", *SMALL).status == 0
    assert cli("sync", "acme").status == 0
    before = audit_rows(project_at())
    rows = found(cli, "--deep")
    assert [(row["about"], name) for name, row in rows.items()] == [
        *(("project", name) for name in ("daemon", "place", "clock")),
        *(("acme:default", name) for name in ("connector", "configuration", "secrets")),
        *(("acme:default", name) for name in ("data", "version", "objects")),
    ]
    assert levels(cli) == {}
    assert "PostgreSQL" in rows["place"]["fact"]
    assert audit_rows(project_at()) == before


def test_a_secret_that_the_key_opens_is_named_and_never_shown_and_the_audit_has_no_row(cli: Cli) -> None:
    add(token=SECRET)
    before = audit_rows(project_at())
    rows = found(cli)
    assert (rows["key"]["level"], rows["secrets"]["fact"]) == ("ok", "there: token")
    assert SECRET not in str(rows)
    assert audit_rows(project_at()) == before


def test_a_key_that_is_missing_is_one_problem_of_the_project(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(token=SECRET)
    monkeypatch.setenv("MAX_KEY", "")
    assert levels(cli) == {"key": "problem"}
    assert "MAX_KEY" in found(cli)["key"]["hint"]


def test_another_key_than_the_one_that_sealed_is_a_problem(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    add(token=SECRET)
    monkeypatch.setenv("TEST_OTHER_KEY", new_key())
    monkeypatch.setenv("MAX_KEY", "env:TEST_OTHER_KEY")
    assert levels(cli) == {"key": "problem", "secrets": "problem"}


def test_without_any_secret_no_key_is_missed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    add()
    monkeypatch.setenv("MAX_KEY", "")
    assert levels(cli) == {}


def test_a_schema_of_a_newer_max_is_a_problem(cli: Cli) -> None:
    assert cli("connect", "acme", *SMALL).status == 0
    assert cli("sync", "acme").status == 0
    sql("INSERT INTO _max_migration SELECT owner, 99, '' FROM _max_migration WHERE version = 1")
    assert levels(cli) == {"version": "problem"}
    assert "upgrade Max" in found(cli)["version"]["hint"]


def test_an_index_that_is_gone_is_a_warning_until_the_next_sync(cli: Cli) -> None:
    assert cli("connect", "acme", *SMALL).status == 0
    assert cli("sync", "acme").status == 0
    ((name,),) = sql("SELECT min(name) FROM _max_object WHERE kind = 'index'")
    sql(f'DROP INDEX "{name}"')
    assert levels(cli) == {"objects": "warning"}
    assert cli("sync", "acme").status == 0
    assert levels(cli) == {}


def test_a_table_that_is_gone_is_a_problem(cli: Cli) -> None:
    assert cli("connect", "acme", *SMALL).status == 0
    assert cli("sync", "acme").status == 0
    sql("DROP TABLE _acme_task CASCADE")
    assert levels(cli) == {"objects": "problem"}
    assert found(cli)["objects"]["fact"].endswith("the table _acme_task is not there any more")
    assert cli("sync", "acme").status == 1


def test_a_lost_record_of_what_max_made_is_a_problem(cli: Cli) -> None:
    assert cli("connect", "acme", *SMALL).status == 0
    assert cli("sync", "acme").status == 0
    sql("DELETE FROM _max_object")
    assert levels(cli) == {"objects": "problem"}
    assert "the table _max_object lacks " in found(cli)["objects"]["fact"]
    answer = cli("sync", "acme", "--json")
    assert (answer.status, answer.error["code"]) == (1, "storage.corrupt")


@pytest.mark.parametrize(("seconds", "level"), [(-3600.0, "warning"), (3600.0, "warning"), (1.0, "ok")])
def test_a_clock_that_is_another_one_than_the_servers_is_a_warning(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, seconds: float, level: str
) -> None:
    project = project_at()
    assert isinstance(project, ProjectDatabase)
    with project.audit_database().writer() as connection:
        now = server(connection)[1]
    monkeypatch.setattr("max.projects.database.time", lambda: now + seconds)
    (clock,) = (one for one in project.findings() if one.check == "clock")
    assert clock.level == level
    side = "ahead of" if seconds < 0 else "behind"
    assert level == "ok" or side in clock.fact
