"""Connectors: what a connector declares, and the checks when it loads.

A connector is one frozen ``Connector``: schema, loaders, seeder, onboarding steps, and
``initialise``, which turns configuration and credentials into a live ``Installation``.
Importing a connector uses neither network nor disk.  All checks run when the Connector is
made; an error names the attribute that is wrong.
"""

from __future__ import annotations

import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any, Generic, Self, TypeVar, cast

from .core import Seeder
from .errors import ConnectorError, UsageError
from .model.account_fields import MOST_COLUMNS, Found
from .model.entities import Entity, FieldOf, ManyOf, Ref
from .model.json_types import type_name
from .model.loaders import (
    Added,
    BatchLoader,
    CollectionLoader,
    EntityLoader,
    FeedLoader,
    Loader,
    RawLoader,
    Resolver,
    Watermark,
)
from .model.migrations import Migration, SchemaContract, SchemaPolicy, check_contracts, check_migrations
from .model.query import C
from .model.schema import Schema
from .model.values import Json, Kind
from .upstream.credentials import Credential, CredentialProvider
from .upstream.hosts import PLACEHOLDER, Hosts, Pattern
from .upstream.operations import AnyOperation, Operation
from .upstream.webhooks import ALGORITHMS, Webhook

Conf = TypeVar("Conf")
Answers = Mapping[str, Any]

LOADERS = (EntityLoader, BatchLoader, CollectionLoader, FeedLoader, RawLoader)
BATCHES = (collections.abc.Sequence, collections.abc.Collection, collections.abc.Iterable, list, tuple)


# -- installations -------------------------------------------------------------------------


@dataclass(frozen=True)
class Installation(Generic[C]):
    """A connected connector: what ``initialise`` returns.

    ``context`` holds the connector's clients; loaders get it as ``env.context``.  ``start`` and
    ``stop`` run with the runtime; ``stop`` also closes what ``initialise`` opened.  ``renew`` gets
    a new credential: when an operation raises BadCredentials it is called once, and the operation
    is attempted again.  ``health`` returns one line for people, and raises when something is wrong.
    """

    context: C
    start: Callable[[], Awaitable[None]] | None = None
    stop: Callable[[], Awaitable[None]] | None = None
    renew: Callable[[], Awaitable[None]] | None = None
    health: Callable[[], Awaitable[str]] | None = None

    def __post_init__(self) -> None:
        for name in ("start", "stop", "renew", "health"):
            function = getattr(self, name)
            if function is not None and not callable(function):
                raise TypeError(f"Installation: {name} is {function!r}, not an async function")


@dataclass(frozen=True)
class NoConfig:
    """The configuration of a connector without configuration values."""


# -- onboarding ----------------------------------------------------------------------------
#
# The steps run in order.  A step whose ``when`` returns False for the answers so far is skipped;
# so is a step whose answer was given on the command line.

When = Callable[[Answers], bool]
Option = tuple[str, str]  # a value, and its label
Say = Callable[[str], None]  # shows a line to the person who connects


@dataclass(frozen=True)
class Input:
    """Asks for the configuration value ``key``; its type and default are those of the configuration."""

    key: str
    prompt: str
    when: When | None = None


@dataclass(frozen=True)
class SecretInput:
    """Asks for a credential; the input is not shown."""

    credential: Credential
    prompt: str
    when: When | None = None


@dataclass(frozen=True)
class Select:
    """Offers options for the configuration value ``key``; they may come from the service.

    With ``several`` the answer is a list of values, otherwise one value.
    """

    key: str
    prompt: str
    options: Callable[[Answers, CredentialProvider], Awaitable[Sequence[Option]]]
    several: bool = False
    when: When | None = None


@dataclass(frozen=True)
class Validate:
    """Checks the answers so far, usually by a call to the service.

    ``check`` returns a line to show; a MaxError that it raises is shown, and the steps since the
    last Validate are asked again.
    """

    check: Callable[[Answers, CredentialProvider], Awaitable[str]]
    when: When | None = None


@dataclass(frozen=True)
class RunCode:
    """Runs the connector's own code; the mapping that it returns is added to the answers.

    A Secret under a credential's name is stored as that credential.  A key that is not in the
    configuration is visible to later steps only.
    """

    run: Callable[[Answers, CredentialProvider], Awaitable[Mapping[str, Any]]]
    when: When | None = None


@dataclass(frozen=True)
class SignIn:
    """Runs code that needs a person, such as a browser login, to get these credentials.

    Skipped when one of them is given, or when onboarding is not interactive.  The code saves the
    credentials with the provider, or returns them as RunCode does.
    """

    credentials: Sequence[Credential]
    run: Callable[[Answers, CredentialProvider, Say], Awaitable[Mapping[str, Any]]]
    when: When | None = None


OnboardingStep = Input | SecretInput | Select | Validate | RunCode | SignIn


# -- the connector -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Connector(Generic[Conf, C]):
    """Everything that Max needs to know about one source.

    Making one checks it; ConnectorError names the attribute that is wrong.

    - ``name``: what people type; lower-case letters, digits and "_".
    - ``seeder``: ``async (context, store) -> SyncPlan``, called when a sync begins.
    - ``discover``: ``async (context) -> {entity: [AccountField, …]}``, called when a sync begins: the
      fields that the account has of its own; they are fields like all others in this installation.
    - ``initialise``: ``async (config, credentials) -> Installation``, called when a runtime starts.
    - ``config``: a frozen dataclass; its fields are the configuration keys, types and defaults.
    - ``operations``: the only ones that loaders may run.
    - ``requires``: functions that raise a MaxError when this machine lacks what the connector needs, as
      ``require_http`` does; they are called before the first question.
    - ``hosts``: the only ones that requests may go to: ``api.example.com``, ``*.example.com`` (the
      names below, not itself), ``host:port``, or ``{key}`` for the host and port of a
      configuration value.
    - ``migrations``: the changes of the schema, oldest first.
    - ``contracts``: what to do when an upgrade or a value violates an entity's schema.
    - ``webhook``: how the service signs what it sends when something has changed, and what that says.
    """

    name: str
    description: str
    schema: Schema
    loaders: Sequence[Loader[C]]
    seeder: Seeder[C]
    initialise: Callable[[Conf, CredentialProvider], Awaitable[Installation[C]]]
    config: type[Conf]
    credentials: Sequence[Credential] = ()
    onboarding: Sequence[OnboardingStep] = ()
    operations: Sequence[AnyOperation] = ()
    requires: Sequence[Callable[[], None]] = ()
    hosts: Sequence[str] = ()
    version: str = "1"
    migrations: Sequence[Migration] = ()
    contracts: Mapping[type[Entity], SchemaContract] = field(default_factory=dict)
    discover: Callable[[C], Awaitable[Found]] | None = None
    webhook: Webhook | None = None
    resolver: Resolver = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not CONNECTOR_NAME.fullmatch(self.name):
            raise ConnectorError(
                f"name: {self.name!r} is not a valid connector name",
                hint="use lower-case letters, digits and '_'; begin with a letter, not with max_ or sqlite_",
            )
        for attribute, check in CHECKS.items():
            check(getattr(self, attribute), self, f"{self.name}: {attribute}")
        entities, roots = list(self.schema.entities.values()), self.schema.roots
        object.__setattr__(self, "schema", Schema(entities, roots=roots, connector=self.name))
        added: Added | None = None if self.discover is None else {}
        object.__setattr__(self, "resolver", Resolver(self.schema, self.loaders, added))
        object.__setattr__(self, "loaders", self.resolver.loaders)
        for entity in entities:
            _check_width(entity, self.resolver, f"{self.name}: schema")
            _check_conventions(entity, f"{self.name}: schema")

    def within(self, resolver: Resolver) -> Self:
        """The same for one installation, whose account may have fields of its own."""
        made = copy(self)
        own = {"schema": resolver.schema, "loaders": resolver.loaders, "resolver": resolver}
        vars(made).update(own if resolver.added else {})
        return made

    @property
    def policy(self) -> SchemaPolicy:
        """What storage needs to know about the schema's changes."""
        contracts = {entity.__name__: contract for entity, contract in self.contracts.items()}
        return SchemaPolicy(self.name, tuple(self.migrations), contracts)

    def manifest(self) -> dict[str, Json]:
        """What it uses beside its entities, as JSON data; ``max schema --connector`` prints it."""
        limits = {one.limit.name: one.limit for one in self.operations}
        return {
            "connector": self.name,
            "version": self.version,
            "loaders": [
                {
                    "name": one.name,
                    "kind": one.kind,
                    "lists": repr(one.lists) if isinstance(one, CollectionLoader) else None,
                    "brings": list(map(repr, one.brings)),
                }
                for one in self.loaders
            ],
            "operations": [
                {
                    "name": one.name,
                    "limit": one.limit.name,
                    "points": one.points,
                    "attempts": one.retry.attempts,
                    "deadline": one.deadline,
                }
                for one in self.operations
            ],
            "limits": [
                {"name": one.name, "concurrency": one.concurrency, "calls": one.calls, "per": one.per}
                for one in limits.values()
            ],
            "hosts": list(self.hosts),
            "credentials": [one.name for one in self.credentials],
            "webhook": None if self.webhook is None else self.webhook.signature,
        }

    def hosts_for(self, config: Conf | Answers) -> Hosts:
        """The declared hosts, with a configuration or the answers so far filled in."""
        if isinstance(config, Mapping):
            return Hosts.declared(self.hosts, config.get)
        return Hosts.declared(self.hosts, lambda key: getattr(config, key))


AnyConnector = Connector[Any, Any]


# -- checks --------------------------------------------------------------------------------
#
# Everything that can be checked without running a connector is checked when it is made.  A check
# is given an attribute's value, the connector, and the place that an error names.

CONNECTOR_NAME = re.compile(r"(?!(?:max|sqlite)(?:_|$))[a-z][a-z0-9_]{0,47}", re.ASCII)
CONVENTION_NAME = re.compile(r"[a-z][a-z0-9]*(?:[ _-][a-z0-9]+){0,4}", re.ASCII)
HEADER_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)
CREDENTIAL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,47}", re.ASCII)


def _check_schema(schema: object, connector: AnyConnector, where: str) -> None:
    if not isinstance(schema, Schema):
        raise ConnectorError(f"{where} is {schema!r}, not a Schema")
    if not schema.roots:
        raise ConnectorError(
            f"{where} has no root", hint="name the entities that the seeder stores: Schema([…], roots=[…])"
        )


def _check_text(value: object, where: str, *, empty: bool = False) -> None:
    if not isinstance(value, str) or not (value or empty):
        raise ConnectorError(f"{where} is {value!r}, not a text", hint='such as "1"')


def _check_operations(operations: object, connector: AnyConnector, where: str) -> None:
    """ConnectorError unless operations are the connector's own, and limits of one name are one limit."""
    limits: dict[str, AnyOperation] = {}
    for place, one in _each_named(
        operations, where, Operation, "an operation", "decorate it with @operation"
    ):
        if one.name.partition(":")[0] != connector.name:
            raise ConnectorError(
                f"{place}: the operation {one.name} has another connector's prefix",
                hint=f"its name begins with {connector.name}:",
            )
        other = limits.setdefault(one.limit.name, one)
        if other.limit != one.limit:
            raise ConnectorError(
                f"{place}: {other.name} has {other.limit}, and {one.name} has {one.limit}",
                hint="what shares a limit's name shares the limit: make it once, and give it to both",
            )


def _check_width(entity: type[Entity], resolver: Resolver, where: str) -> None:
    fields, groups = len(entity.types()), len(resolver.load_groups(entity))
    if fields + groups > MOST_COLUMNS:
        raise ConnectorError(
            f"{where}: {entity.__name__} has {fields:,} fields, which arrive in {groups:,} groups;"
            f" both together may be {MOST_COLUMNS:,} at most",
            hint="put what is rarely asked for into one field, such as Field[dict[str, Json]]",
        )


def _check_conventions(entity: type[Entity], where: str) -> None:
    """ConnectorError unless each convention is a word or a few, and a filter of its entity."""
    if not entity._conventions:
        return
    from .model.filter_language import parse  # slow to import, and most entities have none

    for name, text in entity._conventions.items():
        position = f"{where}: {entity.__name__}, convention {name!r}"
        if not isinstance(name, str) or not CONVENTION_NAME.fullmatch(name):
            raise ConnectorError(f"{position}: a name is a few small words, such as open")
        try:
            parse(text, entity, now=0.0)
        except (UsageError, TypeError) as error:
            raise ConnectorError(f"{position}: {error}", hint="write it as for --filter") from error


def _check_config(config: object, connector: AnyConnector, where: str) -> None:
    frozen = getattr(config, "__dataclass_params__", None)
    if not isinstance(config, type) or frozen is None or not frozen.frozen:
        raise ConnectorError(
            f"{where} must be a frozen dataclass, not {config!r}",
            hint="decorate it with @dataclass(frozen=True)",
        )


def _check_loaders(loaders: object, connector: AnyConnector, where: str) -> None:
    for position, loader in _each_named(loaders, where, LOADERS, "a loader", "decorate it with @Loader.…"):
        check_loader(loader, position)


def _check_credentials(credentials: object, connector: AnyConnector, where: str) -> None:
    for position, credential in _each_named(credentials, where, Credential, "a credential"):
        if not CREDENTIAL_NAME.fullmatch(credential.name):
            raise ConnectorError(
                f"{position}: {credential.name!r} is not a valid name",
                hint="use letters, digits, '-' and '_'",
            )


def _check_onboarding(steps: object, connector: AnyConnector, where: str) -> None:
    keys = {one.name for one in fields(connector.config)}
    for position, step in _each(steps, where):
        if not isinstance(step, OnboardingStep):
            raise ConnectorError(f"{position} is {step!r}, not an onboarding step")
        _check_declared(step, connector, position)
        if isinstance(step, Input | Select) and step.key not in keys:
            raise ConnectorError(
                f"{position} asks for {step.key!r}, which is not a field of {connector.config.__name__}",
                hint=f"its fields are: {', '.join(sorted(keys)) or 'none'}",
            )
        for name in ("options", "check", "run"):
            if hasattr(step, name):
                arguments = 3 if isinstance(step, SignIn) else 2
                _check_function(getattr(step, name), arguments, f"{position}.{name}")


def _check_declared(step: OnboardingStep, connector: AnyConnector, position: str) -> None:
    """ConnectorError unless the connector declares the credentials of a step."""
    asked = step.credentials if isinstance(step, SignIn) else ()
    for credential in [step.credential] if isinstance(step, SecretInput) else asked:
        if credential not in connector.credentials:
            raise ConnectorError(
                f"{position} asks for the credential {credential.name!r}, which is not declared",
                hint="add it to credentials=",
            )


def _check_requires(functions: object, where: str) -> None:
    for position, function in _each(functions, where):
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise ConnectorError(f"{position} is {function!r}, not a function without async")


def _check_hosts(hosts: object, connector: AnyConnector, where: str) -> None:
    keys = {one.name for one in fields(connector.config)}
    for position, pattern in _each(hosts, where):
        if not isinstance(pattern, str):
            raise ConnectorError(f"{position} is {pattern!r}, not a text")
        placeholder = PLACEHOLDER.fullmatch(pattern)
        if placeholder is None:
            _check_pattern(pattern, position)
        elif placeholder[1] not in keys:
            raise ConnectorError(
                f"{position} is {pattern!r}, which is not a field of {connector.config.__name__}",
                hint=f"its fields are: {', '.join(sorted(keys)) or 'none'}",
            )


def _check_pattern(pattern: str, position: str) -> None:
    try:
        Pattern.read(pattern)
    except ValueError as error:
        raise ConnectorError(
            f"{position} is {pattern!r}, which is not a host: {error}",
            hint="a host has no scheme, path, user or non-ASCII letter; {key} is a configuration value",
        ) from None


def _check_webhook(webhook: object, connector: AnyConnector, where: str) -> None:
    """ConnectorError unless a webhook names headers, a declared secret and a function."""
    if webhook is None:
        return
    if not isinstance(webhook, Webhook):
        raise ConnectorError(f"{where} is {webhook!r}, not a Webhook")
    if webhook.secret not in connector.credentials or not webhook.secret.secret:
        raise ConnectorError(
            f"{where}.secret is {webhook.secret!r}, which is no declared secret",
            hint="make it a Credential, and add it to credentials=",
        )
    _check_signature(webhook, where)
    if inspect.iscoroutinefunction(webhook.changes):
        raise ConnectorError(f"{where}.changes is async; it reads what it is given, and calls nothing")
    _check_arguments(webhook.changes, 1, f"{where}.changes")


def _check_signature(webhook: Webhook, where: str) -> None:
    """ConnectorError unless it can be said how a webhook is signed."""
    optional = {"delivery": webhook.delivery, "sent_at": webhook.sent_at}
    given = {"signature": webhook.signature, **{k: v for k, v in optional.items() if v is not None}}
    for name, value in given.items():
        if not isinstance(value, str) or not HEADER_NAME.fullmatch(value):
            raise ConnectorError(f"{where}.{name} is {value!r}, which names no header")
    if not isinstance(webhook.prefix, str) or not webhook.prefix.isascii():
        raise ConnectorError(f"{where}.prefix is {webhook.prefix!r}, not a text of ASCII letters")
    for name, value, known in [
        ("algorithm", webhook.algorithm, ALGORITHMS),
        ("encoding", webhook.encoding, ("hex", "base64")),
    ]:
        if value not in known:
            raise ConnectorError(f"{where}.{name} is {value!r}", hint=f"one of: {', '.join(known)}")
    tolerance = webhook.tolerance
    if not isinstance(tolerance, int | float) or isinstance(tolerance, bool) or not tolerance > 0:
        raise ConnectorError(f"{where}.tolerance is {tolerance!r}, not a number of seconds above 0")


CHECKS: dict[str, Callable[[object, AnyConnector, str], object]] = {
    "schema": _check_schema,
    "version": lambda value, _, where: _check_text(value, where),
    "description": lambda value, _, where: _check_text(value, where, empty=True),
    "config": _check_config,
    "loaders": _check_loaders,
    "seeder": lambda value, _, where: _check_function(value, 2, where),
    "initialise": lambda value, _, where: _check_function(value, 2, where),
    "discover": lambda value, _, where: None if value is None else _check_function(value, 1, where),
    "credentials": _check_credentials,
    "onboarding": _check_onboarding,
    "operations": _check_operations,
    "requires": lambda value, _, where: _check_requires(value, where),
    "migrations": lambda value, connector, where: check_migrations(value, connector.schema, where),
    "contracts": lambda value, connector, where: check_contracts(value, connector.schema, where),
    "hosts": _check_hosts,
    "webhook": _check_webhook,
}


def _each(values: object, where: str) -> list[tuple[str, Any]]:
    """The values of a sequence, each with the place that an error names."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ConnectorError(f"{where} is {values!r}, not a list")
    return [(f"{where}[{number}]", value) for number, value in enumerate(values)]


def _each_named(
    values: object, where: str, kind: type | tuple[type, ...], noun: str, hint: str = ""
) -> list[tuple[str, Any]]:
    """As ``_each``; ConnectorError unless all values are of a kind and have different names."""
    places: dict[str, str] = {}
    each = _each(values, where)
    for place, value in each:
        if not isinstance(value, kind):
            raise ConnectorError(f"{place} is {value!r}, not {noun}", hint=hint)
        name = cast(Any, value).name
        other = places.setdefault(name, place)
        if other != place:
            raise ConnectorError(f"{place} and {other} are both {noun} named {name!r}")
    return each


def _check_function(function: object, arguments: int, where: str) -> None:
    """ConnectorError unless it is an async function that accepts this number of arguments."""
    called = getattr(function, "__call__", None)  # noqa: B004  # an object may be callable
    if not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(called):
        raise ConnectorError(f"{where} is not an async function")
    _check_arguments(function, arguments, where)


def _check_arguments(function: object, arguments: int, where: str) -> None:
    """ConnectorError unless it is a function that accepts this number of arguments."""
    if not callable(function):
        raise ConnectorError(f"{where} is {function!r}, not a function")
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError as error:
        raise ConnectorError(f"{where} must accept {arguments} arguments: {error}") from error


def check_loader(loader: Loader[Any], where: str) -> None:
    """ConnectorError unless the loader's fields and signature are valid."""
    where = f"{where} {loader.name}"
    _check_function(loader.load, loader.arguments, where)
    _check_span(loader.ttl, timedelta(0), f"{where} has the ttl")
    for brought in loader.brings:
        if not isinstance(brought, FieldOf):
            raise ConnectorError(f"{where} declares {brought!r}, which is not a field of an entity")
    if isinstance(loader, CollectionLoader):
        if not isinstance(loader.lists, ManyOf):
            raise ConnectorError(f"{where} lists {loader.lists!r}, which is not a collection of an entity")
        _check_first(loader.load, loader.lists.parent, where, many=False)
        _check_span(loader.sweep, timedelta(microseconds=1), f"{where} has sweep=")
        if not isinstance(loader.stable, bool):
            raise ConnectorError(f"{where} has stable={loader.stable!r}; it is True or False")
        _check_watermark(loader, where)
        _check_refresh(loader, loader.lists.parent, where)
    elif isinstance(loader, FeedLoader):
        _check_covers(loader, where)
        _check_first(loader.load, loader.root, where, many=False)
    elif isinstance(loader, EntityLoader | BatchLoader):
        _check_fetched(loader, where)


def _check_watermark(loader: CollectionLoader[Any, Any, Any], where: str) -> None:
    """ConnectorError unless a watermark is a time of the children that the loader brings."""
    watermark = loader.watermark
    if watermark is None:
        return
    if not isinstance(watermark, Watermark):
        raise ConnectorError(f"{where} has the watermark {watermark!r}, which is not a Watermark")
    field = watermark.field
    if not isinstance(field, FieldOf):
        raise ConnectorError(f"{where} has the watermark {field!r}, which is not a field of an entity")
    if field.entity is not loader.lists.child or field not in loader.brings:
        raise ConnectorError(f"{where} has the watermark {field!r}, which it does not bring for its children")
    if field.type.kind is not Kind.DATETIME:
        raise ConnectorError(
            f"{where} has the watermark {field!r}, which holds {field.type.kind.value}, not a time"
        )
    _check_span(watermark.overlap, timedelta(0), f"{where} has the overlap", needed=True)


def _check_span(value: object, least: timedelta, where: str, *, needed: bool = False) -> None:
    """ConnectorError unless a value is a time span of at least so much, or None where that may be."""
    if value is None and not needed:
        return
    if not isinstance(value, timedelta) or value < least:
        raise ConnectorError(f"{where} {value!r}, which is no time span", hint="write timedelta(hours=1)")


def _check_covers(loader: FeedLoader[Any, Any], where: str) -> None:
    for covered in loader.covers:
        if not isinstance(covered, ManyOf | FieldOf):
            raise ConnectorError(f"{where} covers {covered!r}, which is neither a collection nor a field")


def _check_fetched(loader: EntityLoader[Any, Any] | BatchLoader[Any, Any], where: str) -> None:
    """ConnectorError unless the loader brings fields of one entity and takes refs of it."""
    entities = {brought.entity for brought in loader.brings}
    if not entities:
        raise ConnectorError(f"{where} declares no field")
    if len(entities) > 1:
        names = " and ".join(sorted(entity.__name__ for entity in entities))
        raise ConnectorError(f"{where} declares fields of several entities: {names}")
    if isinstance(loader, BatchLoader) and (not isinstance(loader.size, int) or loader.size < 1):
        raise ConnectorError(f"{where} has the batch size {loader.size}; it must be at least 1")
    entity = entities.pop()
    _check_first(loader.load, entity, where, many=isinstance(loader, BatchLoader))
    _check_refresh(loader, entity, where)


def _check_refresh(loader: Loader[Any], entity: type[Entity], where: str) -> None:
    """ConnectorError unless what is refreshed watches a field of the row that it belongs to."""
    field = loader.refresh_when
    if field is None:
        return
    if not isinstance(field, FieldOf) or field.entity is not entity or field.name not in entity.types():
        raise ConnectorError(
            f"{where} has refresh_when={field!r}, which is not a field of {entity.__name__}",
            hint="name the field that moves when this changes, such as refresh_when=Pull.updated_at",
        )


def _check_first(function: Callable[..., Any], entity: type[Entity], where: str, *, many: bool) -> None:
    """ConnectorError unless the annotation of the first parameter allows refs of the entity."""
    expected = f"Sequence[Ref[{entity.__name__}]]" if many else f"Ref[{entity.__name__}]"
    name, hint = _first_parameter(function)
    given = hint
    if many and given is not Any:
        given = _inside(given, BATCHES)
    if given is not Any and _inside(given, (Ref,)) not in (entity, Any):
        raise ConnectorError(f"{where}: its parameter {name} must be {expected}, not {type_name(hint)}")


def _inside(hint: object, origins: tuple[object, ...]) -> object:
    """The type argument of one of these generic types; None for any other type."""
    if (typing.get_origin(hint) or hint) not in origins:
        return None
    inside = (typing.get_args(hint) or (Any,))[0]
    return Any if isinstance(inside, TypeVar) else inside


def _first_parameter(function: Callable[..., Any]) -> tuple[str, object]:
    """The first parameter's name and type; Any when there is no annotation, or it cannot be resolved."""
    parameter = next(iter(inspect.signature(function).parameters.values()))
    annotation = parameter.annotation
    if annotation is parameter.empty or parameter.kind is parameter.VAR_POSITIONAL:
        return parameter.name, Any
    alone = types.SimpleNamespace(__annotations__={parameter.name: annotation})
    try:
        hints = typing.get_type_hints(alone, getattr(inspect.unwrap(function), "__globals__", {}))
    except (NameError, SyntaxError, TypeError):  # a name that only a type checker knows
        return parameter.name, Any
    return parameter.name, hints[parameter.name]
