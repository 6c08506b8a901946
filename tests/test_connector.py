"""Credentials, and the checks when a connector loads."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.connector import (
    Connector,
    Input,
    Installation,
    NoConfig,
    SecretInput,
    Select,
    Validate,
    _check_conventions,
)
from max.errors import BadCredentials, ConnectorError, UnknownName
from max.installations.registry import ConnectorRegistry
from max.model.entities import Entity, Field, FieldOf, Many, Ref
from max.model.loaders import BatchLoader, CollectionLoader, EntityLoader, Loader, Watermark
from max.model.schema import Schema
from max.upstream.credentials import Credential, CredentialProvider, MemoryCredentials, Secret
from max.upstream.operations import Limit, Operation, Retry, operation
from tests.sample import SampleRoot, Thing, initialise, list_things, sample, seed


class User(Entity):
    name: Field[str] = Field()
    email: Field[str | None] = Field()
    active: Field[bool] = Field()


class Team(Entity):
    title: Field[str] = Field()
    members: Many[User] = Many()


class Stranger(Entity):
    name: Field[str] = Field()


TOKEN = Credential("token")
SCHEMA = Schema([Team, User], roots=[Team])


class TestSecrets:
    """A secret shows its text only on request, and a provider gives out declared ones only."""

    def test_a_secret_never_shows_itself(self) -> None:
        secret = Secret("hunter2")
        assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
        assert secret.reveal() == "hunter2"

    def test_secrets_are_equal_when_their_texts_are(self) -> None:
        assert {Secret("a"), Secret("a"), Secret("b")} == {Secret("a"), Secret("b")}

    def test_the_memory_store_sets_deletes_and_lists(self) -> None:
        async def main() -> None:
            store = MemoryCredentials({"b": "2"})
            await store.set("a", "1")
            assert await store.names() == ["a", "b"]
            await store.delete("b")
            await store.delete("b")
            assert (await store.get("a"), await store.get("b")) == ("1", None)

        asyncio.run(main())

    def test_a_provider_gives_declared_secrets_only(self) -> None:
        provider = CredentialProvider(MemoryCredentials({"token": "x", "other": "y"}), [TOKEN])
        assert asyncio.run(provider.get(TOKEN)) == Secret("x")
        with pytest.raises(UnknownName, match="other"):
            asyncio.run(provider.find(Credential("other")))

    def test_a_missing_secret_is_named_with_a_hint(self) -> None:
        provider = CredentialProvider(MemoryCredentials(), [TOKEN])
        assert asyncio.run(provider.find(TOKEN)) is None
        with pytest.raises(BadCredentials, match="'token' is missing") as caught:
            asyncio.run(provider.get(TOKEN))
        assert "--credential token=env:" in caught.value.hint


# -- loaders, generated --------------------------------------------------------------------------

KINDS: dict[str, Any] = {
    "entity": EntityLoader,
    "entity_batched": BatchLoader,
    "collection": CollectionLoader,
}
GOOD_HINTS = {
    "entity": ["Ref[User]", "'Ref[User]'", "Any", "Ref[Any]", "Ref", "Unseen", ""],
    "entity_batched": [
        "Sequence[Ref[User]]",
        "list[Ref[User]]",
        "tuple[Ref[User], ...]",
        "Sequence[Any]",
        "",
    ],
    "collection": ["Ref[Team]", "'Ref[Team]'", "Any", "Unseen", ""],
}
BAD_HINTS = {
    "entity": ["Ref[Team]", "User", "Sequence[Ref[User]]", "str", "Ref[User] | None"],
    "entity_batched": ["Ref[User]", "Sequence[Ref[Team]]", "Sequence[User]", "dict[str, Ref[User]]", "str"],
    "collection": ["Ref[User]", "Team", "Sequence[Ref[Team]]", "int"],
}
ARGUMENTS = {"entity": 2, "entity_batched": 2, "collection": 3}


@dataclass
class Draft:
    """A valid loader that is not built yet; ``spoil`` makes it invalid."""

    kind: str
    fields: tuple[Any, ...]
    hint: str
    arguments: int
    prefix: str = "async "
    wrapped: bool = True
    lists: Any = None

    def function(self, name: str) -> Any:
        """The function, whose first parameter has the hint as its annotation."""
        parameters = [f"a{n}" for n in range(self.arguments)]
        if parameters and self.hint:
            parameters[0] += f": {self.hint}"
        scope: dict[str, Any] = {"Ref": Ref, "User": User, "Team": Team, "Any": Any, "Sequence": Sequence}
        lazily = "from __future__ import annotations\n"
        exec(f"{lazily}{self.prefix}def {name}({', '.join(parameters)}): ...", scope)
        return scope[name]

    def build(self, name: str) -> Any:
        """The loader, or the bare function."""
        function = self.function(name)
        if not self.wrapped:
            return function
        if self.kind == "entity":
            return EntityLoader(function, self.fields)
        if self.kind == "entity_batched":
            return BatchLoader(function, self.fields, size=10)
        return CollectionLoader(function, self.fields, lists=self.lists or Team.members)


@st.composite
def drafts(draw: st.DrawFn) -> list[Draft]:
    """Valid loaders of SCHEMA, each field brought by one of them."""
    homes = {name: draw(st.sampled_from(sorted(KINDS))) for name in User.types()}
    made = []
    for kind in sorted(KINDS):
        fields: tuple[Any, ...] = tuple(FieldOf(User, name) for name, home in homes.items() if home == kind)
        if fields or kind == "collection":
            made.append(Draft(kind, fields, draw(st.sampled_from(GOOD_HINTS[kind])), ARGUMENTS[kind]))
    return draw(st.permutations(made))


def spoil(draft: Draft, how: str, hint: str) -> None:
    """Make one thing of a loader wrong."""
    if how == "signature: not async":
        draft.prefix = ""
    elif how == "signature: too few":
        draft.arguments -= 1
    elif how == "signature: too many":
        draft.arguments += 1
    elif how == "signature: annotation":
        draft.hint = hint
    elif how == "kind: bare function":
        draft.wrapped = False
    elif how == "entity: a field of another":
        other: Any = Stranger.name if draft.kind == "collection" else Team.title
        draft.fields = (*draft.fields, other)
    elif how == "entity: no field at all":
        draft.fields = (*draft.fields, "name")


FAULTS = [
    "signature: not async",
    "signature: too few",
    "signature: too many",
    "signature: annotation",
    "kind: bare function",
    "entity: a field of another",
    "entity: no field at all",
]


class TestLoaders:
    """The checks of loaders when a connector is made."""

    @settings(deadline=None, max_examples=60)
    @given(drafts())
    def test_p1_a_connector_with_valid_loaders_loads(self, made: list[Draft]) -> None:
        loaders = [draft.build(f"load_{n}") for n, draft in enumerate(made)]
        connector = sample(schema=SCHEMA, loaders=loaders)
        for loader in loaders:
            for field in loader.brings if loader.kind != "collection" else ():
                assert connector.resolver.loader_for(field) is loader

    @settings(deadline=None, max_examples=150)
    @given(drafts(), st.sampled_from(FAULTS), st.data())
    def test_p1_a_connector_with_one_invalid_loader_is_refused_and_the_loader_is_named(
        self, made: list[Draft], how: str, data: st.DataObject
    ) -> None:
        position = data.draw(st.integers(0, len(made) - 1))
        spoil(made[position], how, data.draw(st.sampled_from(BAD_HINTS[made[position].kind])))
        loaders = [draft.build(f"load_{n}") for n, draft in enumerate(made)]
        with pytest.raises(ConnectorError) as caught:
            sample(schema=SCHEMA, loaders=loaders)
        assert f"loaders[{position}]" in str(caught.value) or f"load_{position}" in str(caught.value)

    @pytest.mark.parametrize("thing", [None, "load", 7, Loader(seed), Loader.entity(User.name)])
    def test_anything_but_a_loader_is_refused(self, thing: object) -> None:
        with pytest.raises(ConnectorError, match=r"sample: loaders\[1\] is .* not a loader"):
            sample(loaders=[list_things, thing])

    def test_two_loaders_with_the_same_name_are_refused(self) -> None:
        with pytest.raises(ConnectorError, match=r"loaders\[1\] and sample: loaders\[0\] are both a loader"):
            sample(loaders=[list_things, list_things])

    def test_a_loader_without_fields_or_with_empty_batches_is_refused(self) -> None:
        async def load(refs: Any, env: object) -> Any: ...

        with pytest.raises(ConnectorError, match="load declares no field"):
            sample(loaders=[EntityLoader(load)])
        with pytest.raises(ConnectorError, match="load has the batch size 0"):
            sample(loaders=[BatchLoader(load, [User.name], size=0)])

    def test_a_collection_loader_of_a_field_is_refused(self) -> None:
        async def load(parent: Any, request: object, env: object) -> Any: ...

        with pytest.raises(ConnectorError, match=r"load lists User.name, which is not a collection"):
            sample(loaders=[CollectionLoader(load, lists=User.name)])

    def test_fields_of_two_entities_are_refused_and_named(self) -> None:
        async def load(ref: Any, env: object) -> Any: ...

        with pytest.raises(ConnectorError, match="several entities: Stranger and User"):
            sample(loaders=[EntityLoader(load, [User.name, Stranger.name])])

    def test_a_wrong_annotation_is_shown_with_the_right_one(self) -> None:
        async def load(ref: Ref[Team], env: object) -> Any: ...

        with pytest.raises(ConnectorError) as caught:
            sample(loaders=[EntityLoader(load, [User.name])])
        assert "its parameter ref must be Ref[User], not Ref[Team]" in str(caught.value)


# -- everything else -----------------------------------------------------------------------------


@dataclass
class NotFrozen:
    """A configuration that is not frozen."""


async def no_arguments() -> None: ...


async def two(answers: Any, credentials: Any) -> Any: ...


def synchronous(config: Any, credentials: Any) -> Any: ...


async def call(context: None, input: None) -> None: ...


ONE = Operation("sample:thing:list", call)


def of_limit(thing: str, concurrency: int) -> Operation[Any, Any, Any]:
    """An operation whose limit has the name of all the others."""
    return Operation(f"sample:{thing}:get", call, limit=Limit("api", concurrency))


def listing(**declared: Any) -> Any:
    """The sample's loader, declared with something else."""

    @Loader.collection(SampleRoot.things, brings=[Thing.title], **declared)
    async def list_all(parent: Ref[SampleRoot], request: Any, env: Any) -> Any: ...

    return list_all


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"name": "Sample"}, "name: 'Sample'"),
    ({"name": "../x"}, "name: '../x'"),
    ({"name": ""}, "name: ''"),
    ({"name": 7}, "name: 7"),
    ({"schema": [User]}, "schema is"),
    ({"loaders": "load"}, "loaders is 'load', not a list"),
    ({"config": NotFrozen}, "config must be a frozen dataclass"),
    ({"config": NoConfig()}, "config must be a frozen dataclass"),
    ({"config": dict}, "config must be a frozen dataclass"),
    ({"seeder": synchronous}, "seeder is not an async function"),
    ({"seeder": no_arguments}, "seeder must accept 2 arguments"),
    ({"initialise": synchronous}, "initialise is not an async function"),
    ({"initialise": None}, "initialise is not an async function"),
    ({"credentials": ["token"]}, "credentials[0] is 'token'"),
    ({"credentials": [Credential("a b")]}, "credentials[0]: 'a b' is not a valid name"),
    ({"credentials": [TOKEN, Credential("token", "again")]}, "credentials[1] and sample: credentials[0]"),
    ({"onboarding": ["ask"]}, "onboarding[0] is 'ask'"),
    ({"onboarding": [SecretInput(TOKEN, "Token")]}, "onboarding[0] asks for the credential 'token'"),
    ({"onboarding": [Input("colour", "Colour")]}, "onboarding[0] asks for 'colour'"),
    ({"onboarding": [Select("colour", "Colour", two)]}, "onboarding[0] asks for 'colour'"),
    ({"onboarding": [Validate(no_arguments)]}, "onboarding[0].check must accept 2 arguments"),  # type: ignore[arg-type]  # on purpose
    ({"operations": [call]}, "operations[0] is"),
    ({"operations": [ONE, ONE]}, "operations[1] and sample: operations[0] are both an operation"),
    (
        {"operations": [Operation("other:thing:list", call)]},
        "operations[0]: the operation other:thing:list has another connector's prefix",
    ),
    (
        {"operations": [of_limit("one", 3), of_limit("two", 4)]},
        "operations[1]: sample:one:get has Limit(name='api', concurrency=3",
    ),
    ({"version": 2}, "version is 2, not a text"),
    ({"version": ""}, "version is '', not a text"),
    ({"description": None}, "description is None, not a text"),
    ({"schema": Schema([SampleRoot, Thing])}, "schema has no root"),
    ({"loaders": [listing(ttl=3600)]}, "loaders[0] list_all has the ttl 3600, which is no time span"),
    ({"loaders": [listing(ttl=timedelta(-1))]}, "loaders[0] list_all has the ttl datetime.timedelta"),
    ({"loaders": [listing(sweep=3600)]}, "loaders[0] list_all has sweep= 3600, which is no time span"),
    ({"loaders": [listing(sweep=timedelta(0))]}, "loaders[0] list_all has sweep= datetime.timedelta(0)"),
    ({"loaders": [listing(stable="yes")]}, "loaders[0] list_all has stable='yes'; it is True or False"),
    (
        {"loaders": [listing(watermark=Thing.title)]},
        "the watermark Thing.title, which is not a Watermark",
    ),
    (
        {"loaders": [listing(watermark=Watermark("title"))]},  # type: ignore[arg-type]  # on purpose
        "has the watermark 'title', which is not a field of an entity",
    ),
    (
        {"loaders": [listing(watermark=Watermark(Thing.title))]},  # type: ignore[arg-type]  # on purpose
        "has the watermark Thing.title, which holds text, not a time",
    ),
]


WRONG_OPERATIONS: list[tuple[Any, dict[str, Any], str]] = [
    (synchronous, {}, "is not an async function"),
    (no_arguments, {}, "must take a context and an input"),
    (call, {"limit": 5}, "limit is 5, not a Limit"),
    (call, {"retry": 5}, "retry is 5, not a Retry"),
    (call, {"deadline": "soon"}, "deadline is 'soon', not a number of seconds above 0"),
    (call, {"deadline": 0}, "deadline is 0, not a number"),
]


@pytest.mark.parametrize(("function", "declared", "message"), WRONG_OPERATIONS)
def test_a_wrong_operation_is_refused_where_it_is_declared(
    function: Any, declared: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConnectorError, match=f"operation sample:thing:get:? {message}"):
        operation("sample:thing:get", **declared)(function)


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"attempts": "3"}, {"base": -1.0}, {"max_wait": "10"}])
def test_a_retry_rule_that_makes_no_attempt_or_waits_for_no_number_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConnectorError, match=next(iter(wrong))):
        Retry(**wrong)


class TestConnector:
    """The checks of a connector's other attributes."""

    @pytest.mark.parametrize(("changes", "message"), MISTAKES)
    def test_a_mistake_is_refused_with_the_attributes_name(
        self, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConnectorError) as caught:
            sample(**changes)
        assert message in str(caught.value)

    def test_a_valid_connector_loads(self) -> None:
        steps = [SecretInput(TOKEN, "Token"), Input("things", "How many"), Select("prefix", "Name", two)]
        made = sample(credentials=[TOKEN], onboarding=[*steps, Validate(two)], operations=[ONE])
        assert made.resolver.collection_loader(list_things.lists) is list_things

    def test_functions_may_be_methods_or_callable_objects(self) -> None:
        class Maker:
            async def __call__(self, config: Any, credentials: Any) -> Installation[None]:
                return Installation(None)

            async def seed(self, context: Any, engine: Any) -> Any: ...

        made: Connector[Any, Any] = sample(initialise=Maker(), seeder=Maker().seed)
        assert made.initialise is not initialise


# -- conventions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("open", "statu = 1", "unknown field 'statu'"),
        ("open", "votes =", "filter, column"),
        ("open", "votes = many", "filter, column"),
        ("Open!", "votes > 1", "a name is a few small words"),
        ("open", 7, "convention 'open'"),
    ],
)
def test_a_convention_that_is_no_filter_is_refused_when_the_connector_is_made(
    name: str, text: Any, problem: str
) -> None:
    body = {"__module__": __name__, "__annotations__": {"votes": "Field[int]"}, "votes": Field()}
    entity: type[Entity] = type("Bug", (Entity,), body, conventions={name: text})
    with pytest.raises(ConnectorError, match=re.escape(problem)):
        _check_conventions(entity, "made: schema")
    type_of: type[Entity] = type("Bug", (Entity,), body, conventions={"much liked": "votes > 1"})
    _check_conventions(type_of, "made: schema")


def test_the_connectors_that_come_with_max_declare_what_is_open() -> None:
    schemas = [ConnectorRegistry().resolve(name).schema for name in ("acme", "linear")]
    words = [{*entity._conventions} for schema in schemas for entity in schema.entities.values()]
    assert sum("open" in one for one in words) == 2
