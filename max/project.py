"""The project on disk, and its warm runtimes: the one module that knows where things stand.

    .max/                               0700, found upward from the current folder, as git does
      installations/<connector>/<name>/
        installation.json               connector, name, id, config, settings, connectedAt; others are kept
        credentials.json                0600; credentials.lock beside it, where secrets are renewed
        data.db

Rule 1: an installation exists when its installation.json does.  It is built beside the others
under a name that none can have and moved into place, so a crash leaves it whole or absent.

Rule 2: a file is replaced, never changed, and is on the disk before it takes its name: whoever
is killed leaves the old file or the new one.  Writers hold the folder's lock.

Rule 3: no absolute path is stored; the folder may be moved.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .core import InstallationInfo
from .errors import ProjectError, UnknownName, UsageError
from .installations.credential_file import CREDENTIALS, LOCK, FileCredentials
from .installations.files import (
    ID_BYTES,
    INSTALLATION,
    check_name,
    encoded,
    in_thread,
    locked,
    read_installation,
    read_object,
    remove_empty,
    remove_tree,
    replace_file,
    sync_folder,
    translated,
    write_file,
)
from .model.settings import changed
from .model.values import Json, datetime_text

if TYPE_CHECKING:
    import asyncio

    from .installations.registry import ConnectorRegistry
    from .runtime import InstallationRuntime
    from .upstream.recording import Recording, Replay


FOLDER = ".max"
INSTALLATIONS = "installations"
DATABASE = "data.db"
CONNECTORS = "connectors"  # a project's own, beside .max
STAGED, GONE = ".new", ".gone"  # being connected, being removed: names that no connector can have


class Project:
    """A folder with a ``.max``: its installations, and a runtime for each that is in use.

    ``async with Project.open(".") as project:`` stops every runtime at the end.  Several
    processes may use a project, but one event loop of a process at a time.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._registry: ConnectorRegistry | None = None
        self._runtimes: dict[str, InstallationRuntime] = {}  # by installation id, oldest first
        self._locks: dict[str, asyncio.Lock] = {}  # by installation id: one build at a time
        self._loop: asyncio.AbstractEventLoop | None = None  # to which the locks belong

    # -- finding and making ----------------------------------------------------------------

    @classmethod
    def find(cls, start: Path | str) -> Self:
        """The project that a folder belongs to: its own, or the nearest above."""
        with translated(Path(start)):
            folder = Path(start).resolve()
        for candidate in (folder, *folder.parents):
            with suppress(PermissionError):  # a folder above us that we may not look into
                if (candidate / FOLDER).is_dir():
                    return cls(candidate)
        raise ProjectError(f"there is no project in {folder}, or above it", hint="make one with: max init")

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """The same as ``find``, as it reads in ``async with``."""
        return cls.find(path)

    @classmethod
    def init(cls, path: Path | str) -> Self:
        """Make a folder a project, and the folder when there is none; nothing changes when it is one."""
        project = cls(Path(path).resolve())
        with translated(project.root / FOLDER):
            project.root.mkdir(parents=True, exist_ok=True)
            (project.root / FOLDER).mkdir(mode=0o700, exist_ok=True)
            project._installations.mkdir(mode=0o700, exist_ok=True)
            ignored = project.root / FOLDER / ".gitignore"  # secrets and data stay out of repositories
            if not ignored.exists():
                replace_file(ignored, b"*\n")
        return project

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_all()

    # -- places ----------------------------------------------------------------------------

    @property
    def _installations(self) -> Path:
        return self.root / FOLDER / INSTALLATIONS

    def _folder(self, info: InstallationInfo) -> Path:
        return self._installations / info.connector / info.name

    def database(self, info: InstallationInfo) -> Path:
        """Where the installation's data is, or will be."""
        return self._folder(info) / DATABASE

    def credentials(self, info: InstallationInfo) -> FileCredentials:
        """The installation's secrets."""
        return FileCredentials(self._folder(info) / CREDENTIALS)

    @property
    def registry(self) -> ConnectorRegistry:
        """The connectors that can be used here, the project's own among them."""
        if self._registry is None:
            from .installations.registry import ConnectorRegistry

            self._registry = ConnectorRegistry([self.root / CONNECTORS])
        return self._registry

    # -- installations ---------------------------------------------------------------------

    def installations(self) -> list[InstallationInfo]:
        """Every installation whose file can be read, in the order of their names."""
        return [one for one in self._readings() if isinstance(one, InstallationInfo)]

    def problems(self) -> list[ProjectError]:
        """What is wrong with each installation that ``installations`` leaves out."""
        return [one for one in self._readings() if isinstance(one, ProjectError)]

    def _readings(self) -> Iterator[InstallationInfo | ProjectError]:
        for folder in self._folders().values():
            try:
                yield read_installation(folder)
            except ProjectError as error:
                yield error

    def _folders(self) -> dict[str, Path]:
        """The folder of every installation by ``connector:name``, sorted."""
        found = self._installations.glob(f"[!.]*/[!.]*/{INSTALLATION}")
        return {f"{file.parts[-3]}:{file.parts[-2]}": file.parent for file in sorted(found)}

    def target(self, text: str) -> InstallationInfo:
        """The installation that ``connector:name``, ``connector`` or an id's beginning means.

        A connector alone means its only installation, and goes before an id.  UnknownName when
        there is none; UsageError, naming the candidates, when there are several.
        """
        folders = self._folders()
        names = [name for name in folders if text in (name, name.partition(":")[0])]
        names = names or [str(info) for info in self.installations() if text and info.id.startswith(text)]
        if not names:
            raise UnknownName("installation", text, folders)
        if len(names) > 1:
            raise UsageError(
                f"{text!r} may be any of {', '.join(names)}",
                hint="write it as connector:name",
                candidates=names,
            )
        return read_installation(folders[names[0]])

    # -- connecting ------------------------------------------------------------------------

    def connect(
        self,
        connector_name: str,
        name: str | None,
        config: Mapping[str, Json],
        secrets: Mapping[str, str],
        *,
        now: float,
    ) -> InstallationInfo:
        """Keep a new installation: all of it, or nothing when this raises or is killed.

        Without a name it is "default", then "default-2", ….  ``now`` is in seconds since the
        epoch.  Data that a ``disconnect`` kept under the same name is taken up again.
        """
        check_name("connector", connector_name)
        with self._writing():
            name = self._free_name(connector_name, name)
            data = {
                "connector": connector_name,
                "name": name,
                "id": os.urandom(ID_BYTES).hex(),
                "config": dict(config),
                "connectedAt": datetime_text(datetime.fromtimestamp(now, UTC)) + "Z",
            }
            folder = self._installations / connector_name / name
            self._place(folder, {CREDENTIALS: dict(secrets), INSTALLATION: data})
        return read_installation(folder)

    def _free_name(self, connector: str, name: str | None) -> str:
        """The name, if none differs from it in case alone; the first free default for None."""
        taken = {one.casefold() for one in self._folders()}
        if name is None:
            number = 1
            while f"{connector}:{_default(number)}".casefold() in taken:
                number += 1
            return _default(number)
        check_name("installation", name)
        if f"{connector}:{name}".casefold() in taken:
            raise ProjectError(
                f"the name {connector}:{name} is taken",
                hint="choose another name, or disconnect that installation first",
            )
        return name

    def _place(self, folder: Path, files: Mapping[str, Json]) -> None:
        """Write the files beside, then move them to the folder in one step."""
        staged = self._installations / STAGED
        try:
            staged.mkdir(mode=0o700)
            for name, data in files.items():
                write_file(staged / name, encoded(data))
            sync_folder(staged)
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            if folder.exists():  # data that was kept; the file that makes an installation comes last
                for name in files:
                    (staged / name).replace(folder / name)
            else:
                staged.rename(folder)
            sync_folder(folder.parent)
        except BaseException:
            if not (folder / INSTALLATION).exists():
                (folder / CREDENTIALS).unlink(missing_ok=True)
            raise
        finally:
            with suppress(OSError):  # the next to write clears it
                remove_tree(staged)
            remove_empty(folder, folder.parent)

    def reconfigure(
        self, info: InstallationInfo, config: Mapping[str, Json], secrets: Mapping[str, str]
    ) -> InstallationInfo:
        """Replace an installation's configuration, and those secrets that are given.

        A runtime that is in use keeps the configuration with which it was built.
        """
        folder = self._folder(info)
        if secrets:
            store = self.credentials(info)
            with store.held():  # a renewal that is under way must not put its secrets in place of these
                store.change(lambda kept: kept | dict(secrets))
        with translated(folder), locked(folder):
            data = read_object(folder / INSTALLATION)
            replace_file(folder / INSTALLATION, encoded(data | {"config": dict(config)}))
        return read_installation(folder)

    def configure(self, info: InstallationInfo, **settings: Json) -> InstallationInfo:
        """Change some of an installation's settings: ``project.configure(info, history="changes")``.

        UsageError when one does not exist or does not fit; nothing is changed then.  A runtime
        that is in use keeps the settings with which it was built.
        """
        folder = self._folder(info)
        with translated(folder), locked(folder):
            changed(read_installation(folder).settings, settings)
            data = read_object(folder / INSTALLATION)
            kept = data.get("settings") or {}
            if settings:
                replace_file(folder / INSTALLATION, encoded(data | {"settings": kept | settings}))
        return read_installation(folder)

    def disconnect(self, info: InstallationInfo, keep_data: bool) -> None:
        """Remove an installation with its secrets, and its data unless it is to be kept."""
        if any(info.id == running.id for running, _ in self.list_runtimes()):
            raise ProjectError(f"{info} is in use here", hint="stop its runtime first")
        folder = self._folder(info)
        with self._writing():
            if keep_data:  # a crash in between leaves it visible, so that this can be done again
                for name in (CREDENTIALS, LOCK, INSTALLATION):
                    (folder / name).unlink(missing_ok=True)
                sync_folder(folder)
            else:
                folder.rename(self._installations / GONE)
                sync_folder(folder.parent)
                remove_tree(self._installations / GONE)
            remove_empty(folder, folder.parent)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The only one to add or remove installations; what a crash left is cleared first."""
        with translated(self._installations):
            self._installations.mkdir(mode=0o700, exist_ok=True)
            with locked(self._installations):
                for leftover in (STAGED, GONE):
                    remove_tree(self._installations / leftover)
                yield

    # -- runtimes --------------------------------------------------------------------------

    async def runtime(
        self, connector: str, name: str | None = None, *, recording: Recording | Replay | None = None
    ) -> InstallationRuntime:
        """The installation's runtime: the one that is warm, or a new one, started.

        However many ask at once, one is built; a build that fails is forgotten.  With a ``recording``
        it records what it asks outside, or replays it; ProjectError when one is warm without.
        """
        info = self.target(connector if name is None else f"{connector}:{name}")
        async with self._lock(info.id):
            runtime = self._runtimes.get(info.id)
            if runtime is None:
                runtime = await in_thread(lambda: self._assemble(info, recording))
            elif recording is not None and runtime.recording is not recording:
                raise ProjectError(
                    f"{info} is in use here without that recording", hint="stop its runtime first"
                )
            await runtime.start()  # nothing to do, unless it is new or its user stopped it
            self._runtimes[info.id] = runtime
        if str(runtime.info) != str(info):
            raise ProjectError(
                f"{runtime.info} and {info} have the same id",
                hint=f"one is a copy of the other: change the id in {self._folder(info) / INSTALLATION}",
            )
        return runtime

    def _lock(self, id: str) -> asyncio.Lock:
        """The lock of an installation's runtime; a project outlives the loops that use it."""
        import asyncio

        if self._loop is not asyncio.get_running_loop():
            self._loop, self._locks = asyncio.get_running_loop(), {}
        return self._locks.setdefault(id, asyncio.Lock())

    def _assemble(self, info: InstallationInfo, recording: Recording | Replay | None) -> InstallationRuntime:
        """A runtime that is not started; imports what it needs, the connector among it."""
        from .installations.config import read_config
        from .runtime import InstallationRuntime
        from .upstream.credentials import CredentialProvider

        connector = self.registry.resolve(info.connector)
        values = info.config if recording is None else recording.prepare(info, connector, self.database(info))
        config = read_config(connector.config, values, subject=f"the configuration of {info}")
        hosts = connector.hosts_for(config)
        credentials = CredentialProvider(self.credentials(info), connector.credentials, hosts)
        return InstallationRuntime(
            info, connector, config, credentials, self.database(info), recording=recording
        )

    def list_runtimes(self) -> list[tuple[InstallationInfo, float]]:
        """Every runtime in use, and since when, in seconds since the epoch."""
        return [(one.info, one.started_at) for one in self._runtimes.values() if one.started_at]

    async def stop_all(self) -> None:
        """Stop every runtime, the latest first; one that fails to stop does not keep the others."""
        async with AsyncExitStack() as stopping:
            for id in dict.fromkeys([*self._runtimes, *self._locks]):
                stopping.push_async_callback(self._stop, id)

    async def _stop(self, id: str) -> None:
        async with self._lock(id):
            runtime = self._runtimes.pop(id, None)
            if runtime is not None:
                await runtime.stop()


def _default(number: int) -> str:
    return "default" if number == 1 else f"default-{number}"


# -- secrets -----------------------------------------------------------------------------------


# -- files -------------------------------------------------------------------------------------
