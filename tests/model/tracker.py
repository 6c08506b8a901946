"""Entities of an issue tracker, which the tests of this folder share."""

from __future__ import annotations

from max.model.entities import Entity, Field, Many, Ref
from max.model.schema import Schema


class User(Entity):
    """A person with an account.

    This paragraph is for readers of the code.
    """

    login: Field[str] = Field("what they type", searchable=True)


class Repository(Entity):
    """A code repository."""

    name: Field[str] = Field()
    owner: Field[Ref[User] | None] = Field()
    issues: Many[Issue] = Many(by=lambda: Issue.repository)
    members: Many[User] = Many("who may write")


class Issue(Entity):
    """A report."""

    title: Field[str] = Field()
    votes: Field[int | None] = Field()
    repository: Field[Ref[Repository]] = Field()
    author: Field[Ref[User] | None] = Field()


SCHEMA = Schema([User, Repository, Issue], roots=[Repository])
