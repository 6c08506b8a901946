"""Loaders, and the resolver that finds which one serves a field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from max.errors import ConnectorError
from max.model.entities import FieldOf, Ref
from max.model.loaders import Env, Loader, PageRequest, Resolver
from max.model.query import Batch, Page
from max.model.schema import Schema
from tests.model.tracker import SCHEMA, Issue, Repository, User


@Loader.entity_batched(User.login, size=50)
async def user_details(refs: Sequence[Ref[User]], env: Env[None]) -> Batch[User]:
    return Batch([])


@Loader.entity(Issue.votes)
async def issue_votes(ref: Ref[Issue], env: Env[None]) -> Issue:
    return Issue(ref.id)


@Loader.collection(
    Repository.issues, brings=[Issue.title, Issue.votes, Issue.repository, Issue.author, User.login]
)
async def issues(parent: Ref[Repository], request: PageRequest, env: Env[None]) -> Page[Issue]:
    return Page([])


@Loader.collection(Repository.members, brings=[User.login])
async def members(parent: Ref[Repository], request: PageRequest, env: Env[None]) -> Page[User]:
    return Page([])


@Loader.raw
async def labels(env: Env[None]) -> dict[str, str]:
    return {}


LOADERS: list[Loader[None]] = [user_details, issue_votes, issues, members, labels]


def test_a_loader_has_a_kind_a_name_and_the_fields_it_brings() -> None:
    assert [loader.kind for loader in LOADERS] == [
        "entity_batched",
        "entity",
        "collection",
        "collection",
        "raw",
    ]
    assert (user_details.name, user_details.size, user_details.brings) == ("user_details", 50, (User.login,))
    assert (issues.lists, labels.brings) == (Repository.issues, ())


def test_the_resolver_finds_the_loader_of_a_field() -> None:
    resolver = Resolver(SCHEMA, LOADERS)
    assert resolver.loader_for(User.login) is user_details
    assert resolver.loader_for(Issue.votes) is issue_votes
    assert resolver.loader_for(Issue.title) is None, "it only ever comes along"
    assert resolver.collection_loader(Repository.issues) is issues


def test_fields_brought_by_the_same_loaders_are_one_group() -> None:
    resolver = Resolver(SCHEMA, LOADERS)
    assert resolver.load_groups(Issue) == [("title", "repository", "author"), ("votes",)]
    assert resolver.load_groups(Repository) == [("name", "owner")]


def test_an_entity_in_brings_means_all_its_fields_but_those_that_an_entity_loader_names() -> None:
    @Loader.collection(Repository.issues, brings=Issue)
    async def listed(parent: Ref[Repository], request: PageRequest, env: Env[None]) -> Page[Issue]:
        return Page([])

    @Loader.collection(Repository.issues, brings=[Issue, Issue.votes])
    async def named(parent: Ref[Repository], request: PageRequest, env: Env[None]) -> Page[Issue]:
        return Page([])

    @Loader.entity(Issue)
    async def whole(ref: Ref[Issue], env: Env[None]) -> Issue:
        return Issue(ref.id)

    everything: set[FieldOf[Any, Any]] = {FieldOf(Issue, name) for name in Issue.types()}
    cases = {(listed, issue_votes): {Issue.votes}, (named, issue_votes): set(), (listed, whole): set()}
    for (listing, details), left_out in cases.items():
        resolver = Resolver(SCHEMA, [listing, details, members])
        assert set(resolver.collection_loader(Repository.issues).brings) == everything - left_out


def test_a_root_may_have_fields_that_only_the_seeder_stores() -> None:
    assert Resolver(SCHEMA, LOADERS).loader_for(Repository.name) is None
    rootless = Schema(list(SCHEMA.entities.values()))
    with pytest.raises(ConnectorError, match=r"Repository\.name has no loader that brings it"):
        Resolver(rootless, LOADERS)


def without(*gone: Loader[None]) -> list[Loader[None]]:
    return [loader for loader in LOADERS if loader not in gone]


def test_a_field_or_collection_without_loader_is_refused() -> None:
    with pytest.raises(ConnectorError, match=r"Repository\.members has no loader that lists it"):
        Resolver(SCHEMA, without(members))
    bare = Loader.collection(Repository.issues)(issues.load)
    with pytest.raises(ConnectorError, match=r"Issue\.title has no loader that brings it") as caught:
        Resolver(SCHEMA, [*without(issues), bare])
    assert "brings=" in caught.value.hint


def test_a_field_fetched_by_two_loaders_is_refused_naming_both() -> None:
    twice = Loader.entity_batched(User.login)(user_details.load)
    twice.name = "people"
    with pytest.raises(ConnectorError, match="fetched by two loaders: user_details and people"):
        Resolver(SCHEMA, [*LOADERS, twice])


def test_a_collection_with_two_loaders_is_refused() -> None:
    with pytest.raises(ConnectorError, match="listed by two loaders: members and members"):
        Resolver(SCHEMA, [*LOADERS, Loader.collection(Repository.members)(members.load)])


def test_a_loader_of_what_the_schema_does_not_have_is_refused() -> None:
    with pytest.raises(ConnectorError, match=r"issue_votes brings Issue\.votes, which the schema does not"):
        Resolver(Schema([User]), [user_details, issue_votes])
    with pytest.raises(ConnectorError, match=r"members lists Repository\.members, which the schema"):
        Resolver(Schema([User]), [members])
