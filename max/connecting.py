"""For connectors: everything that a connector file imports.

    >>> from max.connecting import Entity, Field, Ref
    >>> class User(Entity):
    ...     name: Field[str] = Field()
    >>> class Issue(Entity):
    ...     title: Field[str] = Field()
    ...     assignee: Field[Ref[User] | None] = Field()  # None: upstream says that there is none
    >>> issue = Issue("7", title="It hurts")  # a partial record
    >>> issue.title, Issue.ref("7")
    ('It hurts', Issue:7)
    >>> issue.assignee  # "not loaded" is not the same as "none"
    Traceback (most recent call last):
    max.errors.FieldNotLoaded: Issue.assignee is not loaded
    >>> mine = Issue.title.contains("hurts") & Issue.assignee.to(User.name).eq("Ada")  # a filter

``docs/connectors.md`` explains the names.  Like ``max``, this module loads a name when it is
first used.
"""

from . import load_lazily

TYPE_CHECKING = False  # as in the package

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
    from .core import Store as Store
    from .errors import BadCredentials as BadCredentials
    from .errors import InvalidAnswers as InvalidAnswers
    from .errors import MaxError as MaxError
    from .errors import Mismatch as Mismatch
    from .errors import MissingExtra as MissingExtra
    from .errors import NotFound as NotFound
    from .errors import Offline as Offline
    from .errors import PermissionDenied as PermissionDenied
    from .errors import QuotaExceeded as QuotaExceeded
    from .errors import SyncTokenRefused as SyncTokenRefused
    from .errors import UpstreamBroken as UpstreamBroken
    from .errors import UpstreamChanged as UpstreamChanged
    from .errors import UpstreamError as UpstreamError
    from .errors import UpstreamMissing as UpstreamMissing
    from .model.account_fields import AccountField as AccountField
    from .model.account_fields import Found as Found
    from .model.entities import Entity as Entity
    from .model.entities import Field as Field
    from .model.entities import FieldOf as FieldOf
    from .model.entities import Many as Many
    from .model.entities import Ref as Ref
    from .model.filters import Filter as Filter
    from .model.loaders import STATIC as STATIC
    from .model.loaders import Env as Env
    from .model.loaders import Loader as Loader
    from .model.loaders import PageRequest as PageRequest
    from .model.loaders import Watermark as Watermark
    from .model.mapping import sources_of as sources_of
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
    from .model.schema import Schema as Schema
    from .model.values import Json as Json
    from .upstream.browser_login import BrowserSignIn as BrowserSignIn
    from .upstream.credentials import Credential as Credential
    from .upstream.credentials import CredentialProvider as CredentialProvider
    from .upstream.credentials import Secret as Secret
    from .upstream.graphql import GraphQL as GraphQL
    from .upstream.graphql import RelayConnection as RelayConnection
    from .upstream.http import Auth as Auth
    from .upstream.http import BearerAuth as BearerAuth
    from .upstream.http import Budget as Budget
    from .upstream.http import BudgetHeaders as BudgetHeaders
    from .upstream.http import HttpClient as HttpClient
    from .upstream.http import HttpRequest as HttpRequest
    from .upstream.http import HttpResponse as HttpResponse
    from .upstream.http import KeyAuth as KeyAuth
    from .upstream.http import Transport as Transport
    from .upstream.http import require_http as require_http
    from .upstream.oauth import OAuth as OAuth
    from .upstream.oauth import OAuthTokens as OAuthTokens
    from .upstream.operations import Limit as Limit
    from .upstream.operations import Operation as Operation
    from .upstream.operations import Retry as Retry
    from .upstream.operations import operation as operation
    from .upstream.operations import run_operation as run_operation
    from .upstream.webhooks import Hook as Hook
    from .upstream.webhooks import HookChanges as HookChanges
    from .upstream.webhooks import Webhook as Webhook

HOMES = """
connector: Answers Connector Input Installation NoConfig RunCode SecretInput Select SignIn Validate
core: Store
errors: BadCredentials InvalidAnswers MaxError Mismatch MissingExtra NotFound Offline PermissionDenied
errors: QuotaExceeded SyncTokenRefused UpstreamBroken UpstreamChanged UpstreamError UpstreamMissing
model.account_fields: AccountField Found
model.entities: Entity Field FieldOf Many Ref
model.filters: Filter
model.loaders: Env Loader PageRequest STATIC Watermark
model.mapping: sources_of
model.migrations: ChangeKey ChangeType DropEntity DropField Migration RenameEntity RenameField
model.migrations: SchemaContract
model.plan: Step SyncPlan
model.query: Batch Page Query
model.schema: Schema
model.values: Json
upstream.browser_login: BrowserSignIn
upstream.credentials: Credential CredentialProvider Secret
upstream.graphql: GraphQL RelayConnection
upstream.http: Auth BearerAuth Budget BudgetHeaders HttpClient HttpRequest HttpResponse KeyAuth require_http
upstream.http: Transport
upstream.oauth: OAuth OAuthTokens
upstream.operations: Limit Operation operation Retry run_operation
upstream.webhooks: Hook HookChanges Webhook
"""

__all__ = load_lazily(__name__, HOMES)
