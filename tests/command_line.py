"""Runs the command line in the process of the tests."""

from __future__ import annotations

import io
import json
import shlex
import shutil
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from max.cli import main
from max.model.tasks import Status
from max.projects.manager import ProjectManager
from max.projects.opening import open_project
from max.storage import sync_log
from max.storage.catalogue import migrate
from max.storage.database import Database
from max.storage.sqlite import SqliteDatabase


class Run(NamedTuple):
    """The result of a command."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Its stdout as JSON data."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """Its error as JSON data."""
        return json.loads(self.err)["error"]


def project_at(folder: Path | str = ".") -> ProjectManager:
    """The project of a folder, which is made where there is none."""
    return open_project(folder, create=True)


def data_of(installation: str = "acme", folder: Path | str = ".") -> Database:
    """The data of an installation, in whatever kind of project."""
    project = project_at(folder)
    return project.database(project.target(installation))


def sql(statement: str, *values: object, of: str = "acme", folder: Path | str = ".") -> list[Any]:
    """The rows of a statement that reads or changes an installation's data behind Max's back."""
    with data_of(of, folder).writer() as connection:
        cursor = connection.execute(statement, values)
        return list(cursor.fetchall()) if statement.startswith("SELECT") else []


def record_sync(
    place: Database | Path, status: Status = Status.COMPLETED, *, at: float = 1_800_000_000.0
) -> None:
    """Record in a database that a sync ended; its id is later than those of the syncs before it."""
    database = SqliteDatabase(place) if isinstance(place, Path) else place
    with database.writer() as connection:
        migrate(connection, sync_log.OWNER, sync_log.MIGRATIONS)
        number = connection.execute("SELECT count(*) FROM _max_sync").fetchone()[0]
        values = (f"zz{number:02}", "[]", status, "run", at, None if not status.final else at + 60)
        columns = "id, plan, state, command, started_at, finished_at"
        connection.execute(f"INSERT INTO _max_sync ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values)


Cli = Callable[..., Run]


def running(capsys: pytest.CaptureFixture[str]) -> Cli:
    """A function that runs a command and captures its output."""

    def run(*words: str) -> Run:
        capsys.readouterr()
        status = main(words)
        return Run(status, *capsys.readouterr())

    return run


def prepare(folder: Path, *lines: str) -> Path:
    """Run command lines in a folder, each of which succeeds; the folder, which tests copy with ``take``."""
    for line in lines:
        out = io.StringIO()
        with chdir(folder), redirect_stdout(out), redirect_stderr(out):
            assert main(shlex.split(line)) == 0, f"{line}\n{out.getvalue()}"
    return folder


def take(prepared: Path, folder: Path) -> Path:
    """Copy what was prepared into a folder, in place of doing the same again; the folder."""
    return shutil.copytree(prepared, folder, dirs_exist_ok=True)
