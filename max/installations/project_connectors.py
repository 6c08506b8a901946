"""The connectors of a project: its own beside those that come with Max, in the versions that it pins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConnectorError
from ..model.settings import InstallationInfo
from .files import CONNECTORS

if TYPE_CHECKING:
    from ..connector import Connector
    from .registry import ConnectorRegistry


class ProjectConnectors:
    """What a project finds connectors with.

    ``root`` is its folder, whose ``connectors/`` are its own; None when it has none.  ``allow`` raises
    ProjectUntrusted when those must not run.
    """

    def __init__(self, root: Path | None, allow: Callable[[], None]) -> None:
        self._own = None if root is None else root / CONNECTORS
        self._allow = allow
        self._registry: ConnectorRegistry | None = None
        self._pinned: dict[str, ConnectorRegistry] = {}  # by folder below connectors/

    @property
    def registry(self) -> ConnectorRegistry:
        """The connectors that can be used here, the project's own among them."""
        if self._registry is None:
            from .registry import ConnectorRegistry

            own = [] if self._own is None else [self._own]
            self._registry = ConnectorRegistry(own, self._allow)
        return self._registry

    def connector(self, info: InstallationInfo) -> Connector[Any, Any]:
        """The connector of an installation: in the version that its settings pin, if they do.

        As the registry's ``resolve``; ConnectorError when the pinned folder has no such connector.
        """
        return self._registry_of(info).resolve(info.connector)

    def files(self, info: InstallationInfo) -> list[Path]:
        """The files of an installation's connector, and those beside it; imports none of them."""
        return self._registry_of(info).files(info.connector)

    def _registry_of(self, info: InstallationInfo) -> ConnectorRegistry:
        pinned = info.settings.connectors
        if not pinned:
            return self.registry
        own = self._folder_of(info)
        if pinned not in self._pinned:
            from .registry import ConnectorRegistry

            made = ConnectorRegistry([own.parent], self._allow, pinned=own)
            self._pinned.setdefault(pinned, made)
        return self._pinned[pinned]

    def _folder_of(self, info: InstallationInfo) -> Path:
        """The folder that an installation's settings name; ConnectorError when it has no such connector."""
        from .registry import PREFIX, SUFFIX

        hint = f"or: max settings {info} connectors="
        if self._own is None:
            problem = f"{info} uses the connector in {CONNECTORS}/{info.settings.connectors}"
            raise ConnectorError(f"{problem}, and its project was opened without a folder", hint=hint[4:])
        file = self._own / info.settings.connectors / f"{PREFIX}{info.connector}{SUFFIX}"
        if file.is_file():
            return file.parent
        raise ConnectorError(
            f"{info} uses the connector in {file.parent}, where there is no {file.name}",
            hint=f"put it there, {hint}",
        )
