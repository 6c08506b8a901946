"""Max: your own copy of the SaaS data you work with.

    >>> from max import Entity, Field, Ref
    >>> class User(Entity):
    ...     name: Field[str] = Field()
    >>> class Issue(Entity):
    ...     title: Field[str] = Field()
    ...     assignee: Field[Ref[User] | None] = Field()  # None: upstream says nobody
    >>> issue = Issue("7", title="It hurts")  # a partial record
    >>> issue.title, Issue.ref("7")
    ('It hurts', Issue:7)
    >>> issue.assignee  # not loaded is not the same as nobody
    Traceback (most recent call last):
    max.errors.FieldNotLoaded: Issue.assignee is not loaded
    >>> mine = Issue.title.contains("hurts") & Issue.assignee.to(User.name).eq("Ada")  # for a query

Importing this package reads no file, opens no connection and starts nothing; each name is
loaded from its module when it is first used.
"""

TYPE_CHECKING = False  # importing typing costs as much as the interpreter itself

if TYPE_CHECKING:
    from .connector import Answers as Answers
    from .connector import Connector as Connector
    from .connector import Input as Input
    from .connector import Installation as Installation
    from .connector import NoConfig as NoConfig
    from .connector import RunCode as RunCode
    from .connector import SecretInput as SecretInput
    from .connector import Select as Select
    from .connector import SignIn as SignIn
    from .connector import Validate as Validate
    from .core import Engine as Engine
    from .core import InstallationInfo as InstallationInfo
    from .core import SyncMeta as SyncMeta
    from .core import SyncOptions as SyncOptions
    from .errors import BadCredentials as BadCredentials
    from .errors import CursorExpired as CursorExpired
    from .errors import FieldNotLoaded as FieldNotLoaded
    from .errors import InvalidAnswers as InvalidAnswers
    from .errors import InvalidEntity as InvalidEntity
    from .errors import MaxError as MaxError
    from .errors import Mismatch as Mismatch
    from .errors import NotFound as NotFound
    from .errors import Offline as Offline
    from .errors import PermissionDenied as PermissionDenied
    from .errors import QuotaExceeded as QuotaExceeded
    from .errors import RecordingError as RecordingError
    from .errors import ReplayMismatch as ReplayMismatch
    from .errors import SyncTokenRefused as SyncTokenRefused
    from .errors import UpstreamBroken as UpstreamBroken
    from .errors import UpstreamChanged as UpstreamChanged
    from .errors import UpstreamError as UpstreamError
    from .errors import UpstreamMissing as UpstreamMissing
    from .execution import Progress as Progress
    from .execution import SyncHandle as SyncHandle
    from .installations.onboarding import OnboardingResult as OnboardingResult
    from .installations.onboarding import Prompter as Prompter
    from .installations.onboarding import onboard as onboard
    from .installations.registry import ConnectorRegistry as ConnectorRegistry
    from .model.changes import Change as Change
    from .model.changes import ChangeFeed as ChangeFeed
    from .model.entities import Entity as Entity
    from .model.entities import Field as Field
    from .model.entities import Filter as Filter
    from .model.entities import Many as Many
    from .model.entities import Ref as Ref
    from .model.entities import RefKey as RefKey
    from .model.entities import Scope as Scope
    from .model.loaders import STATIC as STATIC
    from .model.loaders import Env as Env
    from .model.loaders import Loader as Loader
    from .model.loaders import PageRequest as PageRequest
    from .model.loaders import Watermark as Watermark
    from .model.migrations import ChangeKey as ChangeKey
    from .model.migrations import ChangeType as ChangeType
    from .model.migrations import DropEntity as DropEntity
    from .model.migrations import DropField as DropField
    from .model.migrations import Migration as Migration
    from .model.migrations import RenameEntity as RenameEntity
    from .model.migrations import RenameField as RenameField
    from .model.migrations import SchemaContract as SchemaContract
    from .model.plan import Step as Step
    from .model.plan import SyncPlan as SyncPlan
    from .model.query import Batch as Batch
    from .model.query import Page as Page
    from .model.query import Query as Query
    from .model.query import QueryPage as QueryPage
    from .model.schema import Schema as Schema
    from .model.settings import Settings as Settings
    from .model.tasks import Failure as Failure
    from .model.tasks import Status as Status
    from .model.tasks import SyncResult as SyncResult
    from .model.values import Json as Json
    from .project import Project as Project
    from .runtime import InstallationRuntime as InstallationRuntime
    from .sync.events import Event as Event
    from .sync.events import EventKind as EventKind
    from .sync.events import Events as Events
    from .upstream.browser_login import BrowserSignIn as BrowserSignIn
    from .upstream.credentials import Credential as Credential
    from .upstream.credentials import CredentialProvider as CredentialProvider
    from .upstream.credentials import Secret as Secret
    from .upstream.graphql import GraphQL as GraphQL
    from .upstream.graphql import RelayConnection as RelayConnection
    from .upstream.hosts import Hosts as Hosts
    from .upstream.http import Auth as Auth
    from .upstream.http import BearerAuth as BearerAuth
    from .upstream.http import Budget as Budget
    from .upstream.http import BudgetHeaders as BudgetHeaders
    from .upstream.http import HttpClient as HttpClient
    from .upstream.http import HttpRequest as HttpRequest
    from .upstream.http import HttpResponse as HttpResponse
    from .upstream.http import KeyAuth as KeyAuth
    from .upstream.http import Transport as Transport
    from .upstream.oauth import OAuth as OAuth
    from .upstream.oauth import OAuthTokens as OAuthTokens
    from .upstream.operations import Limit as Limit
    from .upstream.operations import Operation as Operation
    from .upstream.operations import Retry as Retry
    from .upstream.operations import operation as operation
    from .upstream.operations import run_operation as run_operation
    from .upstream.recording import Recording as Recording
    from .upstream.recording import Replay as Replay

__version__ = "0.1.0"

HOMES = {
    "connector": "Answers Connector Input Installation NoConfig RunCode SecretInput Select SignIn Validate",
    "core": "Engine InstallationInfo SyncMeta SyncOptions",
    "errors": (
        "BadCredentials CursorExpired FieldNotLoaded InvalidAnswers InvalidEntity MaxError Mismatch "
        "NotFound Offline PermissionDenied QuotaExceeded RecordingError ReplayMismatch "
        "SyncTokenRefused UpstreamBroken UpstreamChanged UpstreamError UpstreamMissing"
    ),
    "execution": "Progress SyncHandle",
    "installations.onboarding": "onboard OnboardingResult Prompter",
    "installations.registry": "ConnectorRegistry",
    "model.changes": "Change ChangeFeed",
    "model.entities": "Entity Field Filter Many Ref RefKey Scope",
    "model.loaders": "Env Loader PageRequest STATIC Watermark",
    "model.migrations": (
        "ChangeKey ChangeType DropEntity DropField Migration RenameEntity RenameField SchemaContract"
    ),
    "model.plan": "Step SyncPlan",
    "model.query": "Batch Page Query QueryPage",
    "model.schema": "Schema",
    "model.settings": "Settings",
    "model.tasks": "Failure Status SyncResult",
    "model.values": "Json",
    "project": "Project",
    "runtime": "InstallationRuntime",
    "sync.events": "Event EventKind Events",
    "upstream.browser_login": "BrowserSignIn",
    "upstream.credentials": "Credential CredentialProvider Secret",
    "upstream.graphql": "GraphQL RelayConnection",
    "upstream.hosts": "Hosts",
    "upstream.http": (
        "Auth BearerAuth Budget BudgetHeaders HttpClient HttpRequest HttpResponse KeyAuth Transport"
    ),
    "upstream.oauth": "OAuth OAuthTokens",
    "upstream.operations": "Limit Operation operation Retry run_operation",
    "upstream.recording": "Recording Replay",
}
_HOME = {name: module for module, names in HOMES.items() for name in names.split()}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
