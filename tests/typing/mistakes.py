"""Each marked line is a mistake that a connector author could make; mypy reports every one.

``correct.py`` beside this file is its opposite; ``tests/test_typing.py`` reads the marks.
"""

# ruff: noqa: B018, F841
from __future__ import annotations

from collections.abc import Sequence

from max import Client, Engine, Filter, Query, QueryPage
from max.connecting import (
    AccountField,
    Batch,
    Connector,
    CredentialProvider,
    Entity,
    Env,
    Field,
    Found,
    Installation,
    Json,
    Loader,
    Many,
    Page,
    PageRequest,
    Ref,
    Schema,
    Step,
    Store,
    SyncPlan,
    Watermark,
    operation,
)
from tests.typing.model import TOKEN, GitHub, Issue, Repository, Settings, User

Issue("1", titel="x")  # M1 unknown field
Issue("1", votes="three")  # M2 wrong scalar type
Issue("1", repository=User.ref("u"))  # M3 ref to the wrong entity
Issue("1", issues=[])  # M4 children passed as a value
Repository("1", issues=[User("2")])  # M5 members of another entity


async def reads(engine: Engine) -> None:
    issue = await engine.load(Issue.ref("1"), Issue.title)
    issue.body  # M6 unknown attribute on a result
    count: int = issue.title  # M7 wrong type of a result value
    issue.assignee.id  # M8 None not handled
    user: User = await engine.load(Issue.ref("1"))  # M9 wrong entity from a ref
    await engine.load(Issue.ref("1"), User.login)  # M10 field of another entity
    issue.title = "new"  # M11 assignment to a stored value
    print(count, user)


QUERY = Query(Issue)
QUERY.where(User.login.eq("ada"))  # M12 filter on another entity
QUERY.where(Issue.votes.eq("three"))  # M13 filter value of the wrong type
QUERY.where(Issue.votes.contains("1"))  # M14 text operator on a number
QUERY.where(Issue.title.matches("x"))  # M15 unknown operator
QUERY.where(Issue.votes.is_in(["x"]))  # M16 one of the values of the wrong type
QUERY.order_by(Repository.issues)  # M17 a collection to order by


@Loader.entity_batched(Issue.title)  # M18 gives another entity
async def wrong_entity(refs: Sequence[Ref[Issue]], env: Env[GitHub]) -> Batch[User]:
    return Batch([])


@Loader.entity_batched(Issue.title, User.login)  # M19 fields of two entities
async def mixed(refs: Sequence[Ref[Issue]], env: Env[GitHub]) -> Batch[Issue]:
    return Batch([])


@Loader.collection(Issue.title)  # M20 collection loader on a scalar
async def children(parent: Ref[Issue], request: PageRequest, env: Env[GitHub]) -> Page[Issue]:
    return Page([])


Step.for_all(Repository).load_collection(Issue.title)  # M21 plan lists a scalar
Step.for_all(User).load_fields(Issue.title)  # M22 plan loads another entity's field

# -- further mistakes ----------------------------------------------------------------------

Issue(7)  # M23 an id that is not text
Issue("1", assignee="ada")  # M24 an id where a ref belongs
Issue("1", title=None)  # M25 None where a value is required
Issue.assignee.to(Repository.name)  # M26 through a ref to another entity's field
Issue.title.to(User.login)  # M27 through a field that is not a ref
Issue.assignee.to(User.login).eq(3)  # M28 value of the wrong type, through a ref
Issue.title.eq("x") & User.login.eq("ada")  # M29 two entities in one filter
QUERY.where(Issue.votes == 3)  # M30 Python's comparison in place of a word
Step.for_all(Issue, where=User.login.eq("ada"))  # M31 a plan filtered by another entity
Step.for_all(User).load_collection(Repository.members)  # M32 another entity's collection
Step.for_one(User.ref("1")).load_fields(Issue.title)  # M33 another entity's field, of one
Step.for_root(Issue.ref("1")).load_collection(Repository.issues)  # M34 … and of a root
SyncPlan([Step.for_all(User)])  # M35 a step that does not say what to load
NOT_TITLES: Filter[User] = ~Issue.title.contains("x")  # M36 a filter kept as another entity's


async def bound(engine: Engine) -> None:
    await engine.query(Issue).where(User.login.eq("ada")).all()  # M37 filter on another entity
    await engine.query(Issue).select(User.login).all()  # M38 field of another entity
    await engine.query(Issue).order_by(User.login).first()  # M39 order by another entity's field
    users: list[User] = await engine.query(Issue).all()  # M40 rows of the wrong entity
    first: Issue = await engine.query(Issue).first()  # M41 None not handled
    await engine.load_collection(User.ref("1"), Repository.members)  # M42 parent of another entity
    pages: QueryPage[Issue] = await engine.load_collection(Repository.ref("1"), Repository.members)  # M43
    await engine.store(Issue.ref("1"))  # M44 a ref is not a record
    print(users, first, pages)


@Loader.entity(Issue.title)  # M45 takes many refs, where one is given
async def many_refs(refs: Sequence[Ref[Issue]], env: Env[GitHub]) -> Issue:
    return Issue("1")


@Loader.entity(Issue.title)  # M46 not async
def blocking(ref: Ref[Issue], env: Env[GitHub]) -> Issue:
    return Issue("1")


@Loader.collection(Repository.issues, brings=["title"])  # M47 brings a name, and no field
async def brings(parent: Ref[Repository], request: PageRequest, env: Env[GitHub]) -> Page[Issue]:
    return Page([])


@Loader.collection(Repository.issues)  # M48 a page of the wrong entity
async def wrong_page(parent: Ref[Repository], request: PageRequest, env: Env[GitHub]) -> Page[User]:
    return Page([])


@Loader.collection(Repository.issues)  # M49 a parent of the wrong entity
async def wrong_parent(parent: Ref[User], request: PageRequest, env: Env[GitHub]) -> Page[Issue]:
    return Page([])


@Loader.raw
async def labels(env: Env[GitHub]) -> dict[str, int]:
    return {}


@operation("github:user:get")
async def get_user(context: GitHub, login: str) -> dict[str, str]:
    return {"login": login}


@Loader.entity(User.login)
async def user_details(ref: Ref[User], env: Env[GitHub]) -> User:
    wrong: list[str] = await env.raw(labels)  # M50 a raw loader's value, misread
    env.context.token  # M51 what the context does not have
    await env.run(get_user, 7)  # M52 an operation's input of the wrong type
    found: int = await env.run(get_user, "ada")  # M53 an operation's output, misread
    print(wrong, found)
    return User(ref.id)


@operation("github:user:list")
async def other_context(context: Settings, login: str) -> str:
    return login


@Loader.entity(User.email)
async def user_email(ref: Ref[User], env: Env[GitHub]) -> User:
    await env.run(other_context, "ada")  # M54 an operation of another context
    return User(ref.id, email=b"")  # M55 wrong scalar type


async def initialise(config: Settings, credentials: CredentialProvider) -> Installation[GitHub]:
    token: str = await credentials.get(TOKEN)  # M56 a secret is not its text
    await credentials.get("token")  # M57 a name in place of the credential
    return Installation(context=config)  # M58 the wrong context


async def seed(context: GitHub, store: Store) -> SyncPlan:
    return SyncPlan([])


async def seed_other(context: Settings, store: Store) -> SyncPlan:
    return SyncPlan([])


async def connect(config: Settings, credentials: CredentialProvider) -> Installation[GitHub]:
    return Installation(GitHub(config.url))


Connector(
    name="github",
    description="",
    schema=Schema([Repository, Issue, User]),
    loaders=[user_email],
    seeder=seed_other,  # M59 a seeder of another context
    initialise=connect,
    config=Settings,
)


class Mislabelled(Entity):
    """Declared wrongly."""

    count: int = Field()  # M60 a plain annotation
    owner: Field[str] = Many()  # M61 a collection where a field is annotated
    issues: Many[Issue] = Many(by=lambda: User.login)  # M62 the inverse is another entity's
    titled: Many[Issue] = Many(by=lambda: Issue.title)  # M63 the inverse is not a ref

    id: Field[int] = Field()  # M64 an id that is not text


Issue.id.eq(7)  # M65 the id compared with a number
QUERY.order_by(User.id)  # M66 another entity's id
Issue.title.synced_before("1d")  # M67 an age in place of a time in seconds
QUERY.where(User.login.synced_since(1.5))  # M68 another entity's field


def misspelt() -> None:
    from max import Projct  # M69 a name that max does not have
    from max.connecting import Loder  # M70 a name that max.connecting does not have

    print(Projct, Loder)


async def counts(engine: Engine) -> None:
    query = engine.query(Issue)
    await query.count_by(User.login)  # M71 groups by another entity's field
    number: int = (await query.count_by(Issue.votes))["x"]  # M72 a key of the wrong type
    Issue.title.per("month")  # M73 a unit of a text
    Issue.opened_at.per("decade")  # M74 an unknown unit
    await query.sum(Issue.title)  # M75 a sum of texts
    await query.max(Issue.assignee)  # M76 the greatest of refs
    votes: int = await query.sum(Issue.votes)  # M77 None not handled
    await query.count_by(Issue.title, sum=User.login)  # M78 a measure of another entity
    print(number, votes)


Issue.words.has(5)  # M79 an item of another type
Issue.title.has("x")  # M80 items of what is no list
Issue.sizes.has("x")  # M81 … of a list that may be empty
Repository.issues.has(User.login.eq("ada"))  # M82 a filter of other children
MEMBERS: Filter[User] = Repository.members.has(User.login.eq("ada"))  # M83 kept as the children's
Issue.repository.to(Repository.owner).to(Issue.title)  # M84 a second step to another entity
Issue.assignee.to(User.login).to(User.login)  # M85 a second step through what is not a ref


async def reads_stored(env: Env[GitHub], ref: Ref[User]) -> None:
    stored: Repository = await env.stored(User, ref.id)  # M86 a stored row of another entity
    await env.stored(User, ref)  # M87 a ref in place of its id
    print(stored)


@Loader.collection(Repository.members, refresh_when=User.login)  # M88 a field of the children
async def watches_children(parent: Ref[Repository], request: PageRequest, env: Env[GitHub]) -> Page[User]:
    return Page([])


Watermark(Issue.title)  # M89 a watermark that is no time


async def discovers(context: GitHub, env: Env[GitHub]) -> Found:
    own: type[Issue] = env.entity(User)  # M90 another entity of the installation
    hat = AccountField("hat", str, searchable="yes")  # M91 a mark that is no truth
    print(own, hat)
    return {User: [User.login]}  # M92 fields of the connector in place of the account's


def maps(rows: list[Json]) -> None:
    users: Page[User] = Page.read(Issue, rows)  # M93 rows that were read as another entity
    user: User = Issue.read(rows[0])  # M94 … and a record
    Page.read(Issue, rows, {User.login: "x"})  # M95 a given field of another entity
    Page.read(Issue, rows, next=2)  # M96 a cursor that is a number
    Batch.read(Issue, rows, {"title": "x"})  # M97 a name in place of a field
    Issue.read(rows[0], fields=[User.login])  # M98 a field of another entity


async def asks(client: Client) -> None:
    await client.serch("acme", "AcmeUser")  # M99 a method that the table does not have
    await client.search("acme")  # M100 without the entity
    await client.search("acme", "AcmeUser", limit="5")  # M101 a limit that is a text
    await client.request("acme", "halt")  # M102 a command that there is not
    number: str = await client.count("acme", "AcmeUser")  # M103 a result of another type
    print(client.sync("acme").status)  # M104 a stream taken for a sync
