"""The entities and the context that the typing examples beside this file speak of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from max.connecting import Credential, Entity, Field, Json, Many, Ref


class User(Entity):
    """Someone with an account."""

    login: Field[str] = Field()
    email: Field[str | None] = Field()


class Repository(Entity):
    """A code repository."""

    name: Field[str] = Field()
    issues: Many[Issue] = Many(by=lambda: Issue.repository)
    members: Many[User] = Many("who may write")


class Issue(Entity):
    """A report in a repository."""

    title: Field[str] = Field()
    votes: Field[int] = Field()
    opened_at: Field[datetime] = Field()
    labels: Field[Json] = Field()
    assignee: Field[Ref[User] | None] = Field()
    repository: Field[Ref[Repository]] = Field()


@dataclass(frozen=True)
class GitHub:
    """What the loaders are given."""

    url: str


@dataclass(frozen=True)
class Settings:
    """What somebody who connects is asked."""

    url: str = "https://api.github.com"


TOKEN = Credential("token")
