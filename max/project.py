"""Projects: a folder's installations for a program with an event loop, and their warm runtimes.

Every method that touches a disk does so in a thread.  The same without an event loop, which is
what the command line uses, is ``installations.project_folder``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from .core import InstallationInfo
from .errors import ProjectError, UnknownName
from .installations.credential_file import FileCredentials
from .installations.files import in_thread
from .installations.project_folder import ProjectFolder
from .model.values import Json

if TYPE_CHECKING:
    import asyncio

    from .installations.onboarding import OnboardingResult
    from .installations.registry import ConnectorRegistry
    from .query.reader import Reader
    from .runtime import InstallationRuntime
    from .upstream.recording import Recording, Replay

T = TypeVar("T")


class Project:
    """The installations of a folder, and a runtime for each that is in use.

    ``async with Project.open(".") as project:`` stops every runtime at the end.  Several
    processes may use a project, but one event loop of a process at a time.  An installation is
    named as on the command line: ``connector:name``, ``connector`` when it has one, or the
    beginning of its id.
    """

    def __init__(self, folder: ProjectFolder, *, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder  # the same for code that may block
        self._clock = clock
        self._runtimes: dict[str, InstallationRuntime] = {}  # by installation id, oldest first
        self._locks: dict[str, asyncio.Lock] = {}  # by installation id: one build at a time
        self._loop: asyncio.AbstractEventLoop | None = None  # to which the locks belong

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r}, {len(self.list_runtimes())} in use)"

    @staticmethod
    def open(path: Path | str = ".", *, create: bool = False) -> OpeningProject:
        """The project of a folder or of the nearest folder above: ``async with`` it, or ``await`` it.

        When there is none: with ``create`` the folder becomes one, without it ProjectError.
        """
        return OpeningProject(path, create)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_all()

    @property
    def root(self) -> Path:
        """The folder that holds ``.max``."""
        return self.folder.root

    @property
    def registry(self) -> ConnectorRegistry:
        """The connectors that can be used here, the project's own among them."""
        return self.folder.registry

    def database(self, info: InstallationInfo) -> Path:
        """Where the installation's data is, or will be."""
        return self.folder.database(info)

    def credentials(self, info: InstallationInfo) -> FileCredentials:
        """The installation's secrets."""
        return self.folder.credentials(info)

    # -- installations ---------------------------------------------------------------------

    async def installations(self) -> list[InstallationInfo]:
        """Every installation whose file can be read, sorted by name."""
        return await in_thread(self.folder.installations)

    async def problems(self) -> list[ProjectError]:
        """What is wrong with each installation that ``installations`` leaves out."""
        return await in_thread(self.folder.problems)

    async def target(self, text: str) -> InstallationInfo:
        """The installation that a text means; UnknownName, or UsageError when it may be several."""
        return await in_thread(lambda: self.folder.target(text))

    async def connect(
        self,
        connector: str,
        name: str | None = None,
        *,
        config: Mapping[str, Json] | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> InstallationInfo:
        """Store a new installation: all of it, or nothing when this raises.

        The service is not asked: ``onboard`` does that, and returns a checked config and secrets.
        InvalidAnswers names every value and secret that is invalid, unknown or missing.  Without
        a name it is "default", then "default-2", ….  Data that ``disconnect`` kept under the
        same name is used again.
        """
        return await in_thread(lambda: self._connect(connector, name, config or {}, secrets or {}))

    def _connect(
        self,
        connector: str,
        name: str | None,
        config: Mapping[str, Json],
        secrets: Mapping[str, str],
        *,
        exist_ok: bool = False,
    ) -> InstallationInfo:
        from .installations.onboarding import check_answers

        checked = check_answers(self.registry.resolve(connector), config, secrets)
        return self.folder.add(
            connector, name, checked.config, checked.secrets, now=self._clock(), exist_ok=exist_ok
        )

    async def ensure(
        self,
        connector: str,
        name: str = "default",
        /,
        *,
        secrets: Mapping[str, str] | None = None,
        **config: Json,
    ) -> InstallationRuntime:
        """The runtime of an installation, which is connected first when there is none.

        ``await project.ensure("acme", projects=5)``: an installation that exists gets the values
        given here, and keeps its others.  ``secrets`` are used to connect; those of an
        installation that exists stay, since the service may have renewed them.
        """
        await in_thread(lambda: self._ensure(connector, name, config, secrets or {}))
        return await self.runtime(connector, name)

    def _ensure(
        self, connector: str, name: str, config: Mapping[str, Json], secrets: Mapping[str, str]
    ) -> None:
        try:
            info = self.folder.target(f"{connector}:{name}")
        except UnknownName:
            info = self._connect(connector, name, config, secrets, exist_ok=True)
        checked = self._checked(info, config, {})
        if checked.config != info.config:
            if info.id in self._runtimes:
                raise ProjectError(
                    f"{info} is in use with another configuration", hint="stop its runtime first"
                )
            self.folder.reconfigure(info, checked.config, {})

    async def reconfigure(
        self,
        target: InstallationInfo | str,
        *,
        config: Mapping[str, Json] | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> InstallationInfo:
        """Change some of an installation's configuration and secrets; the others stay.

        They are checked as in ``connect``.  A runtime in use keeps its former configuration.
        """
        return await in_thread(lambda: self._reconfigure(target, config or {}, secrets or {}))

    def _reconfigure(
        self, target: InstallationInfo | str, config: Mapping[str, Json], secrets: Mapping[str, str]
    ) -> InstallationInfo:
        info = self._info(target)
        return self.folder.reconfigure(info, self._checked(info, config, secrets).config, secrets)

    def _checked(
        self, info: InstallationInfo, config: Mapping[str, Json], secrets: Mapping[str, str]
    ) -> OnboardingResult:
        """What the installation would have after a change."""
        from .installations.onboarding import check_answers

        kept = self.credentials(info).read()
        return check_answers(
            self.registry.resolve(info.connector), {**info.config, **config}, {**kept, **secrets}
        )

    async def change_settings(self, target: InstallationInfo | str, **settings: Json) -> InstallationInfo:
        """Change some settings: ``await project.change_settings("acme", history="changes")``.

        UsageError when one does not exist or its value is invalid; nothing is changed then.  A
        runtime in use keeps its former settings.
        """
        return await in_thread(lambda: self.folder.change_settings(self._info(target), **settings))

    async def disconnect(self, target: InstallationInfo | str, *, keep_data: bool = False) -> None:
        """Remove an installation with its secrets, and its data unless ``keep_data``."""
        info = await in_thread(lambda: self._info(target))
        async with self._lock(info.id):
            if info.id in self._runtimes and self._runtimes[info.id].started_at:
                raise ProjectError(f"{info} is in use here", hint="stop its runtime first")
            await in_thread(lambda: self.folder.remove(info, keep_data=keep_data))

    def _info(self, target: InstallationInfo | str) -> InstallationInfo:
        return self.folder.target(target) if isinstance(target, str) else target

    # -- data without a runtime ------------------------------------------------------------

    def read(self, target: InstallationInfo | str) -> AbstractContextManager[Reader]:
        """One snapshot of an installation's data: ``with project.read("acme") as reader:``.

        It needs no event loop, and blocks the one that calls it.  StorageError when the
        installation was never synced.
        """
        from .query.reader import open_reader

        info = self._info(target)
        return open_reader(self.database(info), info)

    # -- runtimes --------------------------------------------------------------------------

    async def runtime(
        self, connector: str, name: str | None = None, *, recording: Recording | Replay | None = None
    ) -> InstallationRuntime:
        """The installation's runtime: the one that is warm, or a new one, started.

        Concurrent first calls build one runtime; a failed build is forgotten.  With a ``recording``
        it records what it asks outside, or replays it; ProjectError when one is warm without.
        """
        info = await self.target(connector if name is None else f"{connector}:{name}")
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
                hint=f"one is a copy of the other: change the id in {self.folder.file(info)}",
            )
        return runtime

    def _lock(self, id: str) -> asyncio.Lock:
        """The lock of an installation's runtime; a project may be used from one loop after another."""
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


class OpeningProject:
    """What ``Project.open`` returns: awaited or entered, it is the project."""

    def __init__(self, path: Path | str, create: bool) -> None:
        self._path, self._create = path, create
        self._project: Project | None = None

    def __await__(self) -> Generator[Any, None, Project]:
        return in_thread(self._find).__await__()

    def _find(self) -> Project:
        try:
            return Project(ProjectFolder.find(self._path))
        except ProjectError:
            if not self._create:
                raise
            return Project(ProjectFolder.init(self._path))

    async def __aenter__(self) -> Project:
        self._project = await self
        return self._project

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._project is not None:
            await self._project.stop_all()
