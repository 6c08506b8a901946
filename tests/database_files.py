"""The file of an installation's database, for tests that open or damage it by hand."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from max.installations.project_folder import ProjectFolder
from max.model.settings import InstallationInfo
from max.storage.sqlite import SqliteConnection, SqliteDatabase


def data_file(folder: ProjectFolder, info: InstallationInfo) -> Path:
    """The file in which an installation's data is, or will be."""
    return Path(folder.database(info).path)


def reader(path: Path) -> AbstractContextManager[SqliteConnection]:
    """One snapshot of a file."""
    return SqliteDatabase(path).reader()


def writer(path: Path) -> AbstractContextManager[SqliteConnection]:
    """One transaction on a file."""
    return SqliteDatabase(path).writer()
