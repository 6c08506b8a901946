"""Max: your own copy of the SaaS data you work with.

This module is for programs that use Max.  ``max.connecting`` is for connectors,
``max.testing`` for their tests, and ``max.errors`` has every error there is.

Importing this package reads no file, opens no connection and starts nothing.  Each name is
loaded from its module when it is first used.
"""

import sys

TYPE_CHECKING = False  # importing typing costs as much as the interpreter itself

if TYPE_CHECKING:
    from .core import BoundQuery as BoundQuery
    from .core import Engine as Engine
    from .core import InstallationInfo as InstallationInfo
    from .core import SyncMeta as SyncMeta
    from .core import SyncOptions as SyncOptions
    from .errors import ConnectionLost as ConnectionLost
    from .errors import DaemonBusy as DaemonBusy
    from .errors import FieldNotLoaded as FieldNotLoaded
    from .errors import HistoryError as HistoryError
    from .errors import Interrupted as Interrupted
    from .errors import InvalidCursor as InvalidCursor
    from .errors import MaxError as MaxError
    from .errors import NotFound as NotFound
    from .errors import ProjectError as ProjectError
    from .errors import StorageError as StorageError
    from .errors import SyncError as SyncError
    from .errors import SyncRunning as SyncRunning
    from .errors import UnknownName as UnknownName
    from .errors import UpstreamError as UpstreamError
    from .errors import UsageError as UsageError
    from .execution import SyncHandle as SyncHandle
    from .installations.onboarding import OnboardingResult as OnboardingResult
    from .installations.onboarding import Prompter as Prompter
    from .installations.onboarding import onboard as onboard
    from .installations.registry import ConnectorRegistry as ConnectorRegistry
    from .model.ages import FieldAge as FieldAge
    from .model.ages import Invalidation as Invalidation
    from .model.aggregate import Group as Group
    from .model.aggregate import Groups as Groups
    from .model.changes import Change as Change
    from .model.changes import ChangeFeed as ChangeFeed
    from .model.changes import ChangePage as ChangePage
    from .model.entities import Entity as Entity
    from .model.entities import FieldOf as FieldOf
    from .model.entities import ManyOf as ManyOf
    from .model.entities import Ref as Ref
    from .model.entities import RefKey as RefKey
    from .model.entities import Scope as Scope
    from .model.filters import Filter as Filter
    from .model.middleware import MethodCall as MethodCall
    from .model.middleware import Middleware as Middleware
    from .model.query import Query as Query
    from .model.query import QueryPage as QueryPage
    from .model.schedules import ScheduleStatus as ScheduleStatus
    from .model.schema import Schema as Schema
    from .model.settings import Settings as Settings
    from .model.sync_events import Event as Event
    from .model.sync_events import EventKind as EventKind
    from .model.sync_events import Progress as Progress
    from .model.tasks import Failure as Failure
    from .model.tasks import Status as Status
    from .model.tasks import SyncCommand as SyncCommand
    from .model.tasks import SyncResult as SyncResult
    from .model.tasks import SyncRun as SyncRun
    from .model.values import Json as Json
    from .project import Project as Project
    from .query.reader import Reader as Reader
    from .runtime import InstallationRuntime as InstallationRuntime
    from .runtime import RepeatedSync as RepeatedSync
    from .serve.client import Client as Client
    from .serve.remote_runtime import isolated as isolated
    from .serve.scheduler import Scheduler as Scheduler
    from .storage.quarantine import Quarantined as Quarantined
    from .storage.schema_diff import MigrationPlan as MigrationPlan
    from .sync.events import Events as Events
    from .upstream.credentials import CredentialProvider as CredentialProvider
    from .upstream.credentials import CredentialStore as CredentialStore
    from .upstream.credentials import MemoryCredentials as MemoryCredentials
    from .upstream.credentials import Secret as Secret
    from .upstream.hosts import Hosts as Hosts
    from .upstream.operations import Call as Call
    from .upstream.operations import FlowController as FlowController
    from .upstream.recording import Recording as Recording
    from .upstream.replay import Replay as Replay

__version__ = "0.1.0"

HOMES = """
core: BoundQuery Engine InstallationInfo SyncMeta SyncOptions
errors: ConnectionLost DaemonBusy FieldNotLoaded HistoryError Interrupted InvalidCursor
errors: MaxError NotFound ProjectError StorageError SyncError SyncRunning UnknownName UpstreamError UsageError
execution: SyncHandle
installations.onboarding: onboard OnboardingResult Prompter
installations.registry: ConnectorRegistry
model.ages: FieldAge Invalidation
model.aggregate: Group Groups
model.changes: Change ChangeFeed ChangePage
model.entities: Entity FieldOf ManyOf Ref RefKey Scope
model.filters: Filter
model.middleware: MethodCall Middleware
model.query: Query QueryPage
model.schedules: ScheduleStatus
model.schema: Schema
model.settings: Settings
model.sync_events: Event EventKind Progress
model.tasks: Failure Status SyncCommand SyncResult SyncRun
model.values: Json
project: Project
query.reader: Reader
runtime: InstallationRuntime RepeatedSync
serve.client: Client
serve.scheduler: Scheduler
serve.remote_runtime: isolated
storage.quarantine: Quarantined
storage.schema_diff: MigrationPlan
sync.events: Events
upstream.credentials: CredentialProvider CredentialStore MemoryCredentials Secret
upstream.hosts: Hosts
upstream.operations: Call FlowController
upstream.recording: Recording
upstream.replay: Replay
"""


def load_lazily(door: str, homes: str, *defined: str) -> "list[str]":
    """Let a module load its names on first use; the result is its ``__all__``.

    A line of ``homes`` is a module and its public names.  A type checker must not see the
    ``__getattr__``: it would accept every misspelt name.
    """
    lines = (line.split(": ") for line in homes.strip().splitlines())
    home = {name: module for module, names in lines for name in names.split()}
    module, names = vars(sys.modules[door]), sorted([*home, *defined])

    def load(name: str) -> object:
        if name not in home:
            raise AttributeError(f"module {door!r} has no attribute {name!r}")
        from importlib import import_module

        module[name] = getattr(import_module(f".{home[name]}", __name__), name)
        return module[name]

    module["__getattr__"], module["__dir__"] = load, lambda: names
    return names


__all__ = load_lazily(__name__, HOMES, "__version__")
