"""The public interface as connector authors use it: mypy --strict reports nothing.

``mistakes.py`` beside this file is its opposite.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from max import Engine, Filter, Groups, Query, QueryPage
from max.connecting import (
    AccountField,
    Batch,
    Connector,
    CredentialProvider,
    Entity,
    Env,
    Field,
    Found,
    Input,
    Installation,
    Json,
    Loader,
    Many,
    Page,
    PageRequest,
    PermissionDenied,
    Ref,
    Schema,
    SecretInput,
    Step,
    Store,
    SyncPlan,
    operation,
)
from tests.typing.model import TOKEN, GitHub, Issue, Repository, Settings, User


class Event(Entity):
    """The base class of other entities."""

    at: Field[datetime] = Field()
    actor: Field[Ref[User] | None] = Field()


class Comment(Event):
    """An inherited field keeps its type."""

    body: Field[str] = Field()
    reactions: Field[dict[str, int]] = Field()
    replies: Many[Comment] = Many()


class Labelled(Entity):
    """A list of words."""

    words: Field[list[str]] = Field()


class Secretless(Entity):
    """Every possible type of a field."""

    text: Field[str] = Field()
    number: Field[float | None] = Field()
    flag: Field[bool] = Field()
    anything: Field[Json] = Field("as upstream sends it")


# -- loaders --------------------------------------------------------------------------------


@operation("github:user:get")
async def get_user(context: GitHub, login: str) -> dict[str, str]:
    """Request one user."""
    return {"login": login, "url": context.url}


@operation("github:labels:list")
async def list_labels(context: GitHub, input: None) -> list[str]:
    """Request every label."""
    return [context.url]


@Loader.raw
async def labels(env: Env[GitHub]) -> list[str]:
    """A value that loaders share."""
    return await env.run(list_labels, None)


@Loader.entity(User.email)
async def user_email(ref: Ref[User], env: Env[GitHub]) -> User:
    """One ref."""
    found = await env.run(get_user, ref.id)
    return User(ref.id, email=found.get("email"))


@Loader.entity_batched(User.login, size=50)
async def user_logins(refs: Sequence[Ref[User]], env: Env[GitHub]) -> Batch[User]:
    """Many refs."""
    failed: dict[str, Exception] = {ref.id: KeyError(ref.id) for ref in refs if not ref.id.isdigit()}
    return Batch([User(ref.id, login="ada") for ref in refs if ref.id not in failed], failed)


@Loader.collection(
    Repository.issues,
    brings=[
        Issue.title,
        Issue.votes,
        Issue.opened_at,
        Issue.labels,
        Issue.words,
        Issue.sizes,
        Issue.assignee,
        Issue.repository,
    ],
)
async def repository_issues(parent: Ref[Repository], request: PageRequest, env: Env[GitHub]) -> Page[Issue]:
    """Children, a page at a time, with other entities."""
    known: list[str] = await env.raw(labels)
    issue = Issue("1", repository=parent, assignee=None, labels=known, opened_at=datetime.now(UTC))
    return Page(
        [issue], next=request.cursor, also=[User("7", login="ada")], removed=[Issue.ref("2")], sync_token="9"
    )


@Loader.collection(Repository.members, refresh_when=Repository.name)
async def repository_members(parent: Ref[Repository], request: PageRequest, env: Env[GitHub]) -> Page[User]:
    """Members, with their ids alone."""
    repository: Repository = await env.stored(Repository, parent.id)
    name: str = repository.name
    return Page([User(name)])


# -- plans and the connector ----------------------------------------------------------------


async def seed(context: GitHub, store: Store) -> SyncPlan:
    """Store the roots and say what to load."""
    root = Repository("1", name="max")
    await store.store(root)
    return SyncPlan(
        [
            Step.for_root(Ref.of(root)).load_collection(Repository.issues),
            Step.concurrent(
                [
                    Step.for_all(User).load_fields(User.login, User.email),
                    Step.for_all(Issue, where=Issue.votes.gt(3)).load_fields(Issue.title),
                    Step.for_one(User.ref("7")).load_fields(User.email),
                ]
            ),
        ]
    )


async def initialise(config: Settings, credentials: CredentialProvider) -> Installation[GitHub]:
    """Make the context of the loaders."""
    secret = await credentials.get(TOKEN)
    return Installation(GitHub(f"{config.url}?{secret.reveal()}"))


async def discover(context: GitHub) -> Found:
    """A field that the account has of its own, and an entity whose fields it may not see."""
    return {User: [AccountField("Shoe size", float, "Shoe size")], Issue: PermissionDenied("no")}


connector = Connector(
    name="github",
    description="Repositories and their issues",
    schema=Schema([Repository, Issue, User], roots=[Repository]),
    loaders=[user_email, user_logins, repository_issues, repository_members, labels],
    seeder=seed,
    discover=discover,
    initialise=initialise,
    config=Settings,
    credentials=[TOKEN],
    onboarding=[Input("url", "Where does it answer?"), SecretInput(TOKEN, "Which token?")],
    operations=[get_user, list_labels],
)


# -- queries --------------------------------------------------------------------------------

FILTER: Filter[Issue] = Issue.title.contains("bug") & Issue.votes.gt(
    3
) | ~Issue.assignee.is_null() & Issue.id.is_in(["1", "2"])
THROUGH: Filter[Issue] = Issue.assignee.to(User.email).contains("@acme.com") & Issue.repository.to(
    Repository.owner
).to(User.login).eq("ada") | Issue.repository.to(Repository.owner.to(User.email)).eq(None)
INHERITED: Filter[Comment] = Comment.at.lt(datetime.now(UTC)) & Comment.actor.to(User.login).starts_with("a")
STALE: Filter[Issue] = Issue.assignee.to(User.email).synced_before(1.5) | Issue.title.synced_since(1)
EMPTY: Filter[User] = User.email.eq(None) | User.email.is_loaded() | User.id.ne("7")
LISTED: Filter[Issue] = Issue.words.has("bug") | Issue.sizes.has(3) | Issue.labels.has("x")
CHILDREN: Filter[Repository] = Repository.issues.has(Issue.votes.gt(3) & LISTED) & ~Repository.members.has(
    User.login.eq("ada")
)
QUERY: Query[Issue] = (
    Query(Issue)
    .where(FILTER, THROUGH)
    .order_by(Issue.assignee.to(User.login))
    .order_by(Issue.id, descending=True, nulls_first=True)
    .select(Issue.title, Issue.id)
)


async def read(engine: Engine) -> list[str]:
    """Every result has the type of the query."""
    issues: list[Issue] = await engine.query(Issue).where(FILTER).limit(5).all()
    first: Issue | None = await engine.query(Issue).order_by(Issue.votes).first()
    page: QueryPage[Issue] = await engine.fetch(QUERY)
    members: QueryPage[User] = await engine.load_collection(Repository.ref("1"), Repository.members, limit=10)
    issue: Issue = await engine.load(Issue.ref("1"), Issue.title, Issue.id)
    count: int = await engine.query(Comment).where(INHERITED).count()
    who: Ref[User] | None = issue.assignee
    return [
        *[one.title async for one in engine.query(Issue)],
        *(one.title for one in [*issues, *page.items]),
        *(one.login for one in members.items),
        who.id if who else "none",
        first.id if first else str(count),
    ]


async def counts(engine: Engine) -> None:
    """Groups know the types of their keys, and measures those of their fields."""
    query = engine.query(Issue).where(Issue.votes.gt(3))
    titles: Groups[str] = await query.count_by(Issue.title, top=5)
    count: int = titles["Typo"]
    people: Groups[Ref[User] | None] = await query.count_by(Issue.assignee)
    months: Groups[tuple[str, str]] = await query.count_by(
        Issue.opened_at.per("month"), Issue.repository.to(Repository.name), sum=Issue.votes
    )
    labels: dict[str, int] = dict(await query.values(Issue.title))
    members = await engine.query(Labelled).count_by(Labelled.words.each())
    first: str | None = next(iter(members))
    votes: int | None = await query.sum(Issue.votes)
    mean: float | None = await query.avg(Issue.votes)
    since: datetime | None = await query.min(Issue.opened_at)
    print(count, people, months, labels, first, votes, mean, since)
