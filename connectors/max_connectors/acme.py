"""Acme, the demo: an invented company, the same on every machine.

Its service (``acme_service.py``) runs inside this process, or behind real HTTP with
``python -m max_connectors.acme serve``.  The loaders are the same for both.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import date, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote

from max.connecting import (
    Answers,
    BadCredentials,
    Batch,
    Connector,
    Credential,
    CredentialProvider,
    Entity,
    Env,
    Field,
    FieldOf,
    Input,
    Installation,
    InvalidAnswers,
    Json,
    Limit,
    Loader,
    Many,
    Mismatch,
    Operation,
    Page,
    PageRequest,
    QuotaExceeded,
    Ref,
    Retry,
    Schema,
    SecretInput,
    Step,
    Store,
    SyncPlan,
    SyncTokenRefused,
    UpstreamBroken,
    UpstreamChanged,
    UpstreamError,
    UpstreamMissing,
    Validate,
    operation,
)

if TYPE_CHECKING:
    from .acme_service import Service

E = TypeVar("E", bound=Entity)
NOTHING: Mapping[Any, object] = MappingProxyType({})

BATCH = 100  # the most users of one call
ROOT_ID = "acme"


# -- entities ----------------------------------------------------------------------------


class AcmeUser(Entity, title="name", conventions={"never signed in": "last_seen_at IS NULL"}):
    """Someone with an account in a workspace."""

    name: Field[str] = Field("first and last name", searchable=True)
    email: Field[str] = Field("e-mail address; unique", searchable=True, brief=True)
    role: Field[str] = Field("admin, member or guest", brief=True)
    active: Field[bool] = Field("false once the account is closed", brief=True)
    workspace: Field[Ref[AcmeWorkspace]] = Field("where the account belongs")
    timezone: Field[str] = Field("IANA time zone")
    last_seen_at: Field[datetime | None] = Field("last activity; empty before the first sign-in")
    created_at: Field[datetime] = Field("when the account was opened")
    updated_at: Field[datetime] = Field("when the account last changed")


class AcmeTask(
    Entity,
    title="title",
    conventions={
        "open": "status NOT IN (done, cancelled)",
        "overdue": "status NOT IN (done, cancelled) AND due_date < today",
    },
):
    """A piece of work in a project."""

    title: Field[str] = Field("what to do, in one line", searchable=True)
    description: Field[str] = Field("what to do, in a few sentences", searchable=True)
    status: Field[str] = Field("backlog, todo, in progress, in review, done or cancelled", brief=True)
    priority: Field[int] = Field("1 is most urgent, 4 least; 0 is not set", brief=True)
    estimate: Field[float | None] = Field("expected hours of work; empty when not estimated")
    active: Field[bool] = Field("false once the task is done or cancelled")
    tags: Field[list[str]] = Field("words to find it by")
    due_date: Field[date | None] = Field("the day on which it is due", brief=True)
    assignee: Field[Ref[AcmeUser] | None] = Field("the person who does it", brief=True)
    project: Field[Ref[AcmeProject]] = Field("the project that it is part of", brief=True)
    workspace: Field[Ref[AcmeWorkspace]] = Field("the workspace of its project")
    created_at: Field[datetime] = Field("when it was created")
    updated_at: Field[datetime] = Field("when it last changed")


class AcmeFile(Entity, title="name"):
    """A document kept with a project."""

    name: Field[str] = Field("file name with its ending", searchable=True)
    mime_type: Field[str] = Field("type of the content, such as application/pdf")
    size: Field[int] = Field("bytes", brief=True)
    owner: Field[Ref[AcmeUser] | None] = Field("who uploaded it", brief=True)
    project: Field[Ref[AcmeProject]] = Field("the project that it is kept with", brief=True)
    created_at: Field[datetime] = Field("when it was uploaded")
    updated_at: Field[datetime] = Field("when its content last changed")


class AcmeProject(Entity, title="name"):
    """Work with one goal, in a workspace."""

    name: Field[str] = Field("the project's name", searchable=True)
    description: Field[str] = Field("its goal, in a sentence or two", searchable=True)
    status: Field[str] = Field("planned, running, paused or finished", brief=True)
    active: Field[bool] = Field("false once it is finished")
    tags: Field[list[str]] = Field("words to find it by")
    due_date: Field[date | None] = Field("the day on which it should be finished", brief=True)
    owner: Field[Ref[AcmeUser] | None] = Field("the person responsible for it", brief=True)
    workspace: Field[Ref[AcmeWorkspace]] = Field("the workspace that it belongs to")
    created_at: Field[datetime] = Field("when it was started")
    updated_at: Field[datetime] = Field("when it last changed")
    tasks: Many[AcmeTask] = Many("the work to do", by=lambda: AcmeTask.project)
    files: Many[AcmeFile] = Many("the documents", by=lambda: AcmeFile.project)


class AcmeWorkspace(Entity, title="name"):
    """A part of the company, with its own people and projects."""

    name: Field[str] = Field("the workspace's name", searchable=True)
    active: Field[bool] = Field("false once it is archived")
    owner: Field[Ref[AcmeUser] | None] = Field("the person who administers it", brief=True)
    plan: Field[str] = Field("the paid plan: free, team or enterprise", brief=True)
    seats: Field[int] = Field("number of paid accounts", brief=True)
    created_at: Field[datetime] = Field("when it was opened")
    updated_at: Field[datetime] = Field("when it last changed")
    users: Many[AcmeUser] = Many("people with an account", by=lambda: AcmeUser.workspace)
    projects: Many[AcmeProject] = Many("its projects", by=lambda: AcmeProject.workspace)


class AcmeRoot(Entity, title="name"):
    """The company, the root of everything else."""

    name: Field[str] = Field("the company's name")
    source: Field[str] = Field("where the data comes from: embedded, or an address")
    workspaces: Many[AcmeWorkspace] = Many("its workspaces")


# -- configuration -----------------------------------------------------------------------


@dataclass(frozen=True)
class AcmeConfig:
    """Which tenant: the one at ``base_url``, or an embedded one of this size and behaviour."""

    base_url: str = ""  # empty: embedded
    workspaces: int = 2
    users: int = 10  # of each workspace
    projects: int = 5  # of each workspace
    tasks: int = 20  # of each project
    files: int = 3  # of each project
    seed: int = 1
    changes: bool = True  # follow the change feed; false: every sync lists everything
    page_size: int = 0  # records of a page; 0: the service decides
    latency_ms: float = 0.0  # before every response
    error_rate: float = 0.0  # share of requests that fail, 0 to 1
    rate_limit: float = 0.0  # requests a second; 0: no limit

    def __post_init__(self) -> None:
        numbers = [one.name for one in fields(self) if one.name not in ("base_url", "seed", "changes")]
        wrong = [
            Mismatch(name, "a number that is not negative", getattr(self, name))
            for name in numbers
            if not 0 <= getattr(self, name) < math.inf
        ]
        if self.error_rate > 1:
            wrong.append(Mismatch("error_rate", "a share between 0 and 1", self.error_rate))
        if wrong:
            raise InvalidAnswers("invalid configuration of acme", wrong)


# -- the service ------------------------------------------------------------------------

REFUSALS: Mapping[int, type[UpstreamError]] = {
    400: UpstreamChanged,
    404: UpstreamMissing,
    429: QuotaExceeded,
    503: UpstreamBroken,
}


class Source(Protocol):
    """What responds to a GET: the embedded service, or an HttpClient."""

    async def get(self, path: str, *pieces: str | int, params: Mapping[str, str] | None = None) -> Json:
        """The JSON data at a path, with a piece in place of each ``{}``, escaped.

        An id comes from the service, which may send anything: it is a piece, never part of the path.
        UpstreamError when the request is refused.
        """


class Embedded(Source):
    """The service in this process: no network, no token, no copy of the data."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def get(self, path: str, *pieces: str | int, params: Mapping[str, str] | None = None) -> Json:
        """The service's response, with the configured faults."""
        from .acme_service import Refused

        path = path.format(*(quote(str(one), safe="") for one in pieces))
        try:
            answer = await self.service.answer("GET", path, params or {})
        except Refused as refused:
            kind = REFUSALS[refused.status]
            raise kind(f"acme: {refused.message}", retry_after=refused.retry_after) from refused
        self.service.served(path, params or {})
        return answer


def embedded(config: AcmeConfig) -> Embedded:
    """A new tenant of the configured size."""
    from .acme_service import Service, Settings

    settings = asdict(config)
    del settings["base_url"], settings["changes"]
    return Embedded(Service(Settings(**settings)))


@dataclass(frozen=True)
class Acme:
    """The context of operations; with ``page_size`` 0 the service decides."""

    source: Source
    address: str
    page_size: int = 0
    changes: bool = True


@dataclass(frozen=True)
class ListRequest:
    """One page of a listing: ``parent`` is empty at the top, ``cursor`` is None on the first page."""

    parent: str
    cursor: str | None


@dataclass(frozen=True)
class Ids:
    """The ids of some records."""

    ids: tuple[str, ...]


API = Limit("acme:api", concurrency=8)
RETRY = Retry(attempts=6, base=0.1, cap=4.0)
TOKEN = Credential("token", "the token that the served tenant printed when it started", required=False)


def listing(name: str, path: str) -> Operation[Acme, ListRequest, Json]:
    """The operation that fetches one page of a listing; a ``{}`` in the path is the parent's id."""

    async def fetch(acme: Acme, page: ListRequest) -> Json:
        params = {"limit": str(acme.page_size)} if acme.page_size else {}
        if page.cursor is not None:
            params["cursor"] = page.cursor
        return await acme.source.get(path, *([page.parent] if "{}" in path else []), params=params)

    return Operation(name, fetch, limit=API, retry=RETRY)


list_workspaces = listing("acme:workspace:list", "/api/workspaces")
list_users = listing("acme:user:list", "/api/workspaces/{}/users")
list_projects = listing("acme:project:list", "/api/workspaces/{}/projects")
list_tasks = listing("acme:task:list", "/api/projects/{}/tasks")
list_files = listing("acme:file:list", "/api/projects/{}/files")


@operation("acme:change:list", limit=API, retry=RETRY)
async def list_changes(acme: Acme, page: ListRequest) -> Json:
    """The changes since a position; without one, the present position of the feed."""
    params = {"limit": str(acme.page_size)} if acme.page_size else {}
    if page.cursor is not None:
        params["since"] = page.cursor
    try:
        return await acme.source.get("/api/changes", params=params)
    except UpstreamMissing as error:
        raise SyncTokenRefused(f"acme: {error.message}") from error


@operation("acme:user:get", limit=API, retry=RETRY)
async def get_users(acme: Acme, chosen: Ids) -> Json:
    """The details of up to 100 users."""
    return await acme.source.get("/api/users", params={"ids": ",".join(chosen.ids)})


@operation("acme:billing:get", limit=API, retry=RETRY)
async def get_billing(acme: Acme, chosen: Ids) -> Json:
    """The plan and seats of one workspace."""
    return await acme.source.get("/api/workspaces/{}/billing", chosen.ids[0])


@operation("acme:status:list", limit=API, retry=RETRY)
async def list_statuses(acme: Acme, _: None) -> Json:
    """The possible statuses of tasks."""
    return await acme.source.get("/api/statuses")


@operation("acme:tenant:get", limit=API, retry=RETRY)
async def get_tenant(acme: Acme, _: None) -> Json:
    """The tenant itself."""
    return await acme.source.get("/api/tenant")


def page_of(entity: type[E], answer: Json, given: Mapping[FieldOf[E, Any], object] = NOTHING) -> Page[E]:
    """A response with several records as a page."""
    with checked():
        return Page.read(entity, answer["items"], given, next=answer["next"])


@contextmanager
def checked() -> Iterator[None]:
    """Reads a response: a missing part becomes UpstreamChanged."""
    try:
        yield
    except (KeyError, TypeError) as error:
        raise UpstreamChanged(
            f"acme: a response lacks an expected value ({error})", hint="update the connector"
        ) from error


@Loader.collection(
    AcmeRoot.workspaces,
    brings=(
        *(AcmeWorkspace.name, AcmeWorkspace.active, AcmeWorkspace.owner),
        *(AcmeWorkspace.created_at, AcmeWorkspace.updated_at),
    ),
    stable=True,
)
async def workspaces(parent: Ref[AcmeRoot], page: PageRequest, env: Env[Acme]) -> Page[AcmeWorkspace]:
    """The workspaces of the company."""
    return page_of(AcmeWorkspace, await env.run(list_workspaces, ListRequest("", page.cursor)))


@Loader.entity(AcmeWorkspace.plan, AcmeWorkspace.seats)
async def billing(ref: Ref[AcmeWorkspace], env: Env[Acme]) -> AcmeWorkspace:
    """The plan and seats of a workspace: one call for each."""
    return AcmeWorkspace.read(await env.run(get_billing, Ids((ref.id,))), {AcmeWorkspace.id: ref.id})


LISTED = (
    *(AcmeUser.name, AcmeUser.email, AcmeUser.role, AcmeUser.active, AcmeUser.workspace),
    *(AcmeUser.created_at, AcmeUser.updated_at),
)


@Loader.collection(AcmeWorkspace.users, brings=LISTED, stable=True)
async def users(parent: Ref[AcmeWorkspace], page: PageRequest, env: Env[Acme]) -> Page[AcmeUser]:
    """The users of a workspace."""
    return page_of(AcmeUser, await env.run(list_users, ListRequest(parent.id, page.cursor)))


@Loader.entity_batched(AcmeUser.timezone, AcmeUser.last_seen_at, size=BATCH)
async def user_details(refs: Sequence[Ref[AcmeUser]], env: Env[Acme]) -> Batch[AcmeUser]:
    """The fields of users that the listing lacks: one call for up to 100 users."""
    answer = await env.run(get_users, Ids(tuple(ref.id for ref in refs)))
    with checked():
        return Batch.read(AcmeUser, answer["items"])


@Loader.collection(AcmeWorkspace.projects, brings=AcmeProject, stable=True)
async def projects(parent: Ref[AcmeWorkspace], page: PageRequest, env: Env[Acme]) -> Page[AcmeProject]:
    """The projects of a workspace."""
    return page_of(AcmeProject, await env.run(list_projects, ListRequest(parent.id, page.cursor)))


@dataclass(frozen=True)
class Status:
    """The meaning of a task's status number."""

    name: str
    open: bool


@Loader.raw
async def statuses(env: Env[Acme]) -> Mapping[int, Status]:
    """The statuses by number, needed for every page of tasks."""
    answer = await env.run(list_statuses, None)
    return {row["id"]: Status(row["name"], row["open"]) for row in answer["items"]}


def by_status(known: Mapping[int, Status]) -> Mapping[FieldOf[AcmeTask, Any], object]:
    """What the number of a task's status says of the task."""
    return {
        AcmeTask.status: lambda row: known[row["status_id"]].name,
        AcmeTask.active: lambda row: known[row["status_id"]].open,
    }


@Loader.collection(AcmeProject.tasks, brings=AcmeTask, stable=True)
async def tasks(parent: Ref[AcmeProject], page: PageRequest, env: Env[Acme]) -> Page[AcmeTask]:
    """The tasks of a project."""
    known = await env.raw(statuses)
    answer = await env.run(list_tasks, ListRequest(parent.id, page.cursor))
    return page_of(AcmeTask, answer, by_status(known))


@Loader.collection(AcmeProject.files, brings=AcmeFile, stable=True)
async def files(parent: Ref[AcmeProject], page: PageRequest, env: Env[Acme]) -> Page[AcmeFile]:
    """The files of a project."""
    return page_of(AcmeFile, await env.run(list_files, ListRequest(parent.id, page.cursor)))


ENTITIES: Mapping[str, type[Entity]] = {
    "workspace": AcmeWorkspace,
    "user": AcmeUser,
    "project": AcmeProject,
    "task": AcmeTask,
    "file": AcmeFile,
}


@Loader.feed(
    AcmeRoot,
    brings=(*workspaces.brings, *users.brings, *projects.brings, *tasks.brings, *files.brings),
    covers=(
        *(AcmeRoot.workspaces, AcmeWorkspace.users, AcmeWorkspace.projects),
        *(AcmeProject.tasks, AcmeProject.files),
        *(AcmeWorkspace.plan, AcmeWorkspace.seats, AcmeUser.timezone, AcmeUser.last_seen_at),
    ),
)
async def changes(root: Ref[AcmeRoot], page: PageRequest, env: Env[Acme]) -> Page[Entity]:
    """All changes in the company, and the records that are gone.

    A position counts the changes of one company; the sync token also names that company.
    """
    company, _, position = (page.cursor or page.sync_token or "").partition(":")
    answer = await env.run(list_changes, ListRequest("", position or None))
    with checked():
        tasks_changed = any(row["type"] == "task" for row in answer["items"])
    known = await env.raw(statuses) if tasks_changed else {}
    with checked():
        if company not in ("", answer["company"]):
            raise SyncTokenRefused("acme: another company than in the last sync")
        reached = f"{answer['company']}:{answer['position']}"
        latest = {row["id"]: row for row in answer["items"]}.values()  # every change has the present record
        made = [entity_of(row["type"], row["record"], known) for row in latest if not row["deleted"]]
        gone = [ENTITIES[row["type"]].ref(row["id"]) for row in latest if row["deleted"]]
        return Page(made, reached if answer["more"] else None, removed=gone, sync_token=reached)


def entity_of(kind: str, row: Json, known: Mapping[int, Status]) -> Entity:
    """A record of any kind as an entity."""
    return AcmeTask.read(row, by_status(known)) if kind == "task" else ENTITIES[kind].read(row)


async def seed(acme: Acme, store: Store) -> SyncPlan:
    """Store the company; then load workspaces, users and projects, tasks and files."""
    await store.store(AcmeRoot(ROOT_ID, name="Acme", source=acme.address))
    follow = [Step.for_root(AcmeRoot.ref(ROOT_ID)).follow(changes.name)] if acme.changes else []
    return SyncPlan(
        [
            *follow,
            Step.for_root(AcmeRoot.ref(ROOT_ID)).load_collection(AcmeRoot.workspaces),
            Step.concurrent(
                [
                    Step.for_all(AcmeWorkspace).load_fields(AcmeWorkspace.plan, AcmeWorkspace.seats),
                    Step.for_all(AcmeWorkspace).load_collection(AcmeWorkspace.users),
                    Step.for_all(AcmeWorkspace).load_collection(AcmeWorkspace.projects),
                ]
            ),
            Step.for_all(AcmeUser).load_fields(AcmeUser.timezone, AcmeUser.last_seen_at),
            Step.concurrent(
                [
                    Step.for_all(AcmeProject).load_collection(AcmeProject.tasks),
                    Step.for_all(AcmeProject).load_collection(AcmeProject.files),
                ]
            ),
        ]
    )


# -- connecting --------------------------------------------------------------------------


async def initialise(config: AcmeConfig, credentials: CredentialProvider) -> Installation[Acme]:
    """The embedded tenant, or a client for the served one, which needs the token."""
    if not config.base_url:
        address = f"embedded, seed {config.seed}"
        return installed(Acme(embedded(config), address, config.page_size, config.changes))
    secret = await credentials.find(TOKEN)
    if secret is None:
        raise BadCredentials(
            f"acme at {config.base_url} needs a token, and none is stored",
            hint="connect again with --credential token=env:VARIABLE",
        )
    from max.connecting import BearerAuth, HttpClient  # imported only when HTTP is used

    client = HttpClient(config.base_url, credentials, auth=BearerAuth(secret))
    acme = Acme(client, config.base_url, config.page_size, config.changes)
    return installed(acme, client.start, client.stop)


def installed(
    acme: Acme,
    start: Callable[[], Awaitable[None]] | None = None,
    stop: Callable[[], Awaitable[None]] | None = None,
) -> Installation[Acme]:
    """The installation around an Acme."""

    async def health() -> str:
        tenant = await get_tenant(acme, None)  # once, within its deadline
        count = tenant["workspaces"]
        return f"acme: {count} workspace{'' if count == 1 else 's'}"

    return Installation(acme, start=start, stop=stop, health=health)


async def check(answers: Answers, credentials: CredentialProvider) -> str:
    """Check the answers by asking the tenant for its number of workspaces."""
    known = {one.name for one in fields(AcmeConfig)}
    config = AcmeConfig(**{name: value for name, value in answers.items() if name in known})
    installation = await initialise(config, credentials)
    async with AsyncExitStack() as stack:
        if installation.start and installation.stop:
            await installation.start()
            stack.push_async_callback(installation.stop)
        assert installation.health
        return await installation.health()


connector = Connector(
    name="acme",
    description="A demo company: try Max without an account.",
    schema=Schema(
        [AcmeRoot, AcmeWorkspace, AcmeUser, AcmeProject, AcmeTask, AcmeFile],
        roots=[AcmeRoot],
    ),
    loaders=[changes, workspaces, billing, users, user_details, projects, statuses, tasks, files],
    seeder=seed,
    initialise=initialise,
    config=AcmeConfig,
    credentials=[TOKEN],
    onboarding=[
        Input("base_url", "Address of a served tenant (empty: embedded in this process)"),
        SecretInput(
            TOKEN,
            "Token that `python -m max_connectors.acme serve` printed",
            when=lambda a: bool(a.get("base_url")),
        ),
        Validate(check),
    ],
    operations=[
        *(list_workspaces, list_users, list_projects, list_tasks, list_files),
        *(get_users, get_billing, get_tenant, list_statuses, list_changes),
    ],
    hosts=["{base_url}"],
)


if __name__ == "__main__":
    from .acme_service import main

    raise SystemExit(main())
