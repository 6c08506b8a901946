"""The file of an installation's database, for tests that open or damage it by hand."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from max.model.settings import InstallationInfo
from max.projects.manager import ProjectManager
from max.storage.sqlite import SqliteConnection, SqliteDatabase


def data_file(project: ProjectManager, info: InstallationInfo) -> Path:
    """The file in which an installation's data is, or will be."""
    file = project.database(info).file
    assert file is not None
    return file


def installation_file(project: ProjectManager, info: InstallationInfo) -> Path:
    """The file that makes it an installation."""
    return data_file(project, info).with_name("installation.json")


def reader(path: Path) -> AbstractContextManager[SqliteConnection]:
    """One snapshot of a file."""
    return SqliteDatabase(path).reader()


def writer(path: Path) -> AbstractContextManager[SqliteConnection]:
    """One transaction on a file."""
    return SqliteDatabase(path).writer()
