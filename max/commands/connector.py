"""The connector that the words of ``max connector`` commands name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import NoProject, UsageError
from ..installations.registry import PREFIX, SUFFIX, ConnectorRegistry, Origin, load_connector
from ..installations.trust import refuse_untrusted
from ..projects.folder import ProjectFolder
from .framework import Options

if TYPE_CHECKING:
    from ..connector import AnyConnector

FAKE = "fake_"  # how the file beside a connector is named in which its fake is


def named_connector(options: Options) -> tuple[AnyConnector, Path | None]:
    """The connector that the words name, and its file; None for one that comes with a package."""
    word = options.connector
    if not word.endswith(SUFFIX) and "/" not in word:
        try:
            registry = options.found_project().registry
        except NoProject:  # there is none, so its own connectors are not needed
            registry = ConnectorRegistry()
        connector = registry.resolve(word)
        file = file_of(connector)
        return connector, file if file is not None and file.match(f"{PREFIX}*{SUFFIX}") else None
    file = Path(word)
    if not file.is_file():
        raise UsageError(f"there is no file {word}", hint="name a connector's file, or a connector")
    if not file.match(f"{PREFIX}*{SUFFIX}"):
        raise UsageError(f"{word}: a connector's file is named {PREFIX}NAME{SUFFIX}", hint="rename it")
    refuse_untrusted_file(file)
    return load_connector(file.stem.removeprefix(PREFIX), Origin(file.stem, file, "named here")), file


def file_of(connector: AnyConnector) -> Path | None:
    """The file in which a connector is defined."""
    module = sys.modules.get(connector.seeder.__module__)
    place = getattr(module, "__file__", None)
    return Path(place) if place else None


def refuse_untrusted_file(file: Path) -> None:
    """ProjectUntrusted for a file in a project from elsewhere that was never allowed to run code."""
    try:
        root = ProjectFolder.find(file.resolve().parent).root
    except NoProject:
        return
    refuse_untrusted(root)
