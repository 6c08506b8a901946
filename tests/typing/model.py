"""The entities and the context of the typing examples."""

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
    owner: Field[Ref[User] | None] = Field()
    issues: Many[Issue] = Many(by=lambda: Issue.repository)
    members: Many[User] = Many("users with write access")


class Issue(Entity):
    """A report in a repository."""

    title: Field[str] = Field()
    votes: Field[int] = Field()
    opened_at: Field[datetime] = Field()
    labels: Field[Json] = Field()
    words: Field[list[str]] = Field()
    sizes: Field[list[int] | None] = Field()
    assignee: Field[Ref[User] | None] = Field()
    repository: Field[Ref[Repository]] = Field()


@dataclass(frozen=True)
class GitHub:
    """The context of the loaders."""

    url: str


@dataclass(frozen=True)
class Settings:
    """The configuration."""

    url: str = "https://api.github.com"


TOKEN = Credential("token")
