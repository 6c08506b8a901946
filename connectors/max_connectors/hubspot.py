"""HubSpot: the records of a CRM, its own properties and what is linked with what, from api.hubapi.com.

Rule 1: what is listed is read by id, which no edit changes.  What changed is searched by the time of
the change, oldest first, and each page begins at the last time of the page before: never at an
offset, which skips a record whenever an earlier one is edited, and ends after 10,000.

Rule 2: search never shows what was archived, and lags some moments behind.  So each sync also lists
the ids in the bin, and begins a while before the newest change that it knows; what vanished without a
trace (merged, or deleted for good) is found by listing all ids once a day.

Rule 3: the entity's declaration decides which properties are requested: those of this connector and
those that the account has of its own.  All values are texts; one that is not set is empty.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from operator import itemgetter
from typing import Any, TypeVar

from max.connecting import (
    AccountField,
    Answers,
    BadCredentials,
    BearerAuth,
    BrowserSignIn,
    BudgetHeaders,
    Connector,
    Credential,
    CredentialProvider,
    Env,
    FieldOf,
    Found,
    HttpClient,
    HttpResponse,
    Input,
    Installation,
    InvalidAnswers,
    Json,
    Limit,
    Loader,
    Mismatch,
    OAuth,
    Page,
    PageRequest,
    PermissionDenied,
    Query,
    QuotaExceeded,
    Ref,
    Retry,
    RunCode,
    Schema,
    SecretInput,
    Select,
    SignIn,
    Step,
    Store,
    SyncPlan,
    UpstreamBroken,
    UpstreamChanged,
    UpstreamError,
    UpstreamMissing,
    Validate,
    Watermark,
    operation,
    require_http,
    run_operation,
    sources_of,
)

from .hubspot_entities import (
    CrmRecord,
    HubSpotAccount,
    HubSpotAssociation,
    HubSpotCall,
    HubSpotCompany,
    HubSpotContact,
    HubSpotDeal,
    HubSpotDealPipeline,
    HubSpotDealStage,
    HubSpotEmail,
    HubSpotLineItem,
    HubSpotMeeting,
    HubSpotNote,
    HubSpotOwner,
    HubSpotProduct,
    HubSpotTask,
    HubSpotTicket,
    HubSpotTicketPipeline,
    HubSpotTicketStage,
)

T = TypeVar("T")

ROOT_ID = "account"  # a credential belongs to exactly one
DAY = timedelta(days=1)
OVERLAP = timedelta(minutes=2)  # the index of the search lags some moments behind
PAGE, SEARCH_PAGE = 100, 200  # rows of one answer, at most
LINKED = 1_000  # records whose associations one request asks for
LONGEST_LIST = 6_000  # characters of the names of properties in an address

CRM, ASSOCIATIONS = "/crm/v3", "/crm/v4/associations"


@dataclass(frozen=True)
class Kind:
    """A kind of records: its name in paths, its entity, the field of an association that points at it.

    ``changed`` is the property with the time of the last change.
    """

    name: str
    entity: type[CrmRecord]
    link: FieldOf[HubSpotAssociation, Any] | None = None
    changed: str = "hs_lastmodifieddate"


Link = HubSpotAssociation
KINDS = {
    kind.name: kind
    for kind in (
        Kind("contacts", HubSpotContact, Link.contact, "lastmodifieddate"),
        Kind("companies", HubSpotCompany, Link.company),
        Kind("deals", HubSpotDeal, Link.deal),
        Kind("tickets", HubSpotTicket, Link.ticket),
        Kind("products", HubSpotProduct),
        Kind("line_items", HubSpotLineItem, Link.line_item),
        Kind("notes", HubSpotNote, Link.note),
        Kind("tasks", HubSpotTask, Link.task),
        Kind("calls", HubSpotCall, Link.call),
        Kind("meetings", HubSpotMeeting, Link.meeting),
        Kind("emails", HubSpotEmail, Link.email),
    )
}
OBJECTS = (*KINDS, "owners")  # what can be chosen
ACTIVITIES = ("notes", "tasks", "calls", "meetings", "emails")
PAIRS = (  # whose associations are read, and with what
    ("contacts", "companies"),
    ("deals", "contacts"),
    ("deals", "companies"),
    ("tickets", "contacts"),
    ("tickets", "companies"),
    ("tickets", "deals"),
    ("line_items", "deals"),
    *((one, other) for one in ACTIVITIES for other in ("contacts", "companies", "deals", "tickets")),
)


# -- the API -----------------------------------------------------------------------------

API = Limit("hubspot:api", calls=90, per=10.0)  # the smallest account may make 100
SEARCH = Limit("hubspot:search", concurrency=2, calls=4, per=1.0)  # every account may make 5
RETRY = Retry(base=0.5, max_wait=12.0)
TOKEN = Credential("token", "the token of a private app: pat-…", required=False)
OAUTH = OAuth("hubspot", token_path="/oauth/v1/token")
READ = "crm.objects.{}.read"
OPTIONAL = [READ.format(one) for one in ("companies", "deals", "owners", "line_items")]
OPTIONAL += [
    *(f"crm.schemas.{one}.read" for one in ("contacts", "companies", "deals")),
    "tickets",
    "e-commerce",
]
BROWSER = BrowserSignIn(
    OAUTH,
    "https://app.hubspot.com/oauth/authorize",
    ["oauth", READ.format("contacts")],
    extra={
        "optional_scope": " ".join(OPTIONAL)
    },  # an account that lacks one of these can sign in all the same
    port=8735,
)
BUDGET = BudgetHeaders(
    "x-hubspot-ratelimit-remaining",
    "x-hubspot-ratelimit-interval-milliseconds",
    unit=0.001,
    relative=True,
)
LEAVE_OUT = "give the app that scope, or choose other objects: max connect hubspot:NAME --update"
SECONDLY, TEN_SECONDLY, TODAY = 1.0, 10.0, 6 * 3_600.0  # seconds to wait when a limit of that name is reached
PAUSES = {423: 2.0, 502: 3.0, 503: 3.0, 504: 3.0, 521: 5.0, 523: 5.0, 524: 5.0}  # seconds, by status


def read_error(response: HttpResponse) -> UpstreamError | None:
    """The errors that HubSpot tells apart in another way than by their status."""
    status, said = response.status, _said(response)
    where = f"{response.request}: {said.get('message') or 'refused'}"
    if status == 429:
        return QuotaExceeded(f"{where} (429)", hint="try again later", retry_after=_wait(response, said))
    if status == 403 and said.get("category") == "MISSING_SCOPES":
        return PermissionDenied(f"{where} (403): the credential lacks a scope", hint=LEAVE_OUT)
    if status == 477:
        return UpstreamBroken(f"{response.request}: the account is being moved (477)", hint="try again later")
    if status in PAUSES:
        wait = _seconds(response.headers.get("retry-after", "")) or PAUSES[status]
        return UpstreamBroken(f"{where} ({status})", hint="try again later", retry_after=wait)
    return None


def _said(response: HttpResponse) -> Mapping[str, Json]:
    try:
        said = response.json() if response.status >= 400 else None
    except UpstreamError:  # some errors are a web page
        said = None
    return said if isinstance(said, dict) else {}


def _wait(response: HttpResponse, said: Mapping[str, Json]) -> float:
    """Seconds until the limit that was reached lets a request through."""
    asked = _seconds(response.headers.get("retry-after", ""))
    policy = str(said.get("policyName") or said.get("message")).upper().replace("YOUR ", "").split()
    known = {"DAILY": TODAY, "SECONDLY": SECONDLY}
    return asked or next((wait for word, wait in known.items() if word in policy), TEN_SECONDLY)


def _seconds(text: str) -> float:
    """What Retry-After asks for; a number from 1,000 on counts milliseconds, which HubSpot writes too."""
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number / 1000 if number >= 1000 else number


@dataclass(frozen=True)
class HubSpotConfig:
    """Which HubSpot: scheme and host, which objects to copy, and more of HubSpot's own properties."""

    base_url: str = "https://api.hubapi.com"
    objects: Sequence[str] = ()  # none: all
    properties: Sequence[str] = ()  # OBJECT.PROPERTY, such as deals.hs_forecast_amount
    client_id: str = ""  # the application's, for OAuth

    def __post_init__(self) -> None:
        wrong = [
            Mismatch("objects", f"some of {', '.join(OBJECTS)}", one)
            for one in self.objects
            if one not in OBJECTS
        ]
        for one in self.properties:
            kind, _, name = one.partition(".")
            if kind not in KINDS or not name:
                wrong.append(Mismatch("properties", "OBJECT.PROPERTY, such as deals.hs_forecast_amount", one))
        if wrong:
            raise InvalidAnswers("invalid configuration of hubspot", wrong)

    def has(self, name: str) -> bool:
        """Whether this kind of objects is copied."""
        return not self.objects or name in self.objects


@dataclass(frozen=True)
class HubSpot:
    """The context of operations."""

    http: HttpClient
    config: HubSpotConfig

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of records that are copied."""
        return [kind for kind in KINDS.values() if self.config.has(kind.name)]

    @property
    def pairs(self) -> list[tuple[Kind, Kind]]:
        """The kinds between which associations are copied."""
        return [
            (KINDS[one], KINDS[other])
            for one, other in PAIRS
            if self.config.has(one) and self.config.has(other)
        ]


@dataclass(frozen=True)
class ListQuery:
    """One page of a list, which is sorted by id."""

    kind: str
    after: str | None = None
    properties: Sequence[str] = ()
    archived: bool = False
    size: int = 0  # PAGE, unless it says otherwise


@dataclass(frozen=True)
class SearchQuery:
    """One page of what changed at or after a time, in milliseconds since the epoch, the oldest change first.

    With ``above``: of what changed at that time exactly, what has a greater id, sorted by id.
    """

    kind: str
    since: int
    above: str | None = None
    properties: Sequence[str] = ()


@dataclass(frozen=True)
class ReadQuery:
    """Some records by id."""

    kind: str
    ids: Sequence[str]
    properties: Sequence[str] = ()


@dataclass(frozen=True)
class LinkQuery:
    """The associations of some records with another kind; ``after`` goes on where one has many."""

    kind: str
    other: str
    ids: Sequence[str]
    after: Sequence[str] = ()


@operation("hubspot:object:list", limit=API, retry=RETRY)
async def list_objects(hub: HubSpot, wanted: ListQuery) -> Json:
    """A page of records, sorted by id."""
    params = {
        "limit": str(wanted.size or PAGE),
        "properties": ",".join(wanted.properties or ["hs_object_id"]),
    }
    params |= {"after": wanted.after} if wanted.after else {}
    params |= {"archived": "true"} if wanted.archived else {}
    return await hub.http.get(f"{CRM}/objects/{{}}", wanted.kind, params=params)


@operation("hubspot:object:search", limit=SEARCH, retry=RETRY)
async def search_objects(hub: HubSpot, wanted: SearchQuery) -> Json:
    """A page of what changed."""
    changed = KINDS[wanted.kind].changed
    conditions, order = [(changed, "GTE", str(wanted.since))], changed
    if wanted.above is not None:
        conditions += [(changed, "LTE", str(wanted.since)), ("hs_object_id", "GT", wanted.above)]
        order = "hs_object_id"
    filters = [{"propertyName": name, "operator": op, "value": value} for name, op, value in conditions]
    body = {
        "filterGroups": [{"filters": filters}],
        "sorts": [{"propertyName": order, "direction": "ASCENDING"}],
        "properties": [*wanted.properties, changed],
        "limit": SEARCH_PAGE,
    }
    return (await hub.http.request("POST", f"{CRM}/objects/{{}}/search", wanted.kind, json=body)).json()


@operation("hubspot:object:read", limit=API, retry=RETRY)
async def read_objects(hub: HubSpot, wanted: ReadQuery) -> Json:
    """Up to 100 records by id; those that are gone are left out."""
    body = {
        "inputs": [{"id": id} for id in wanted.ids],
        "properties": list(wanted.properties),
        "propertiesWithHistory": [],
    }
    return (await hub.http.request("POST", f"{CRM}/objects/{{}}/batch/read", wanted.kind, json=body)).json()


@operation("hubspot:association:list", limit=API, retry=RETRY)
async def list_associations(hub: HubSpot, wanted: LinkQuery) -> Json:
    """The associations of up to 1,000 records; those without any are reported as errors."""
    after = wanted.after or [""] * len(wanted.ids)
    inputs = [{"id": id, **({"after": at} if at else {})} for id, at in zip(wanted.ids, after, strict=True)]
    path = f"{ASSOCIATIONS}/{{}}/{{}}/batch/read"
    answer = (await hub.http.request("POST", path, wanted.kind, wanted.other, json={"inputs": inputs})).json()
    for error in answer.get("errors") or ():
        if error.get("category") != "OBJECT_NOT_FOUND":
            raise UpstreamBroken(f"hubspot: associations of {wanted.kind}: {error.get('message')}")
    return answer["results"]


@operation("hubspot:owner:list", limit=API, retry=RETRY)
async def list_owners(hub: HubSpot, wanted: ListQuery) -> Json:
    """A page of the owners, or of the former ones."""
    params = {"limit": str(wanted.size or PAGE), "archived": "true" if wanted.archived else "false"}
    return await hub.http.get(
        f"{CRM}/owners/", params=params | ({"after": wanted.after} if wanted.after else {})
    )


@operation("hubspot:pipeline:list", limit=API, retry=RETRY)
async def list_pipelines(hub: HubSpot, kind: str) -> Json:
    """All pipelines of deals or tickets, with their stages."""
    return (await hub.http.get(f"{CRM}/pipelines/{{}}", kind))["results"]


@operation("hubspot:property:list", limit=API, retry=RETRY)
async def list_properties(hub: HubSpot, kind: str) -> Json:
    """The properties of a kind of records."""
    return (await hub.http.get(f"{CRM}/properties/{{}}", kind))["results"]


# -- the account's own properties -----------------------------------------------------------

TYPES: Mapping[str, Any] = {"number": float, "bool": bool, "date": date, "datetime": datetime}


async def discover(hub: HubSpot) -> Found:
    """The properties that the account has of its own, and those of HubSpot's that were asked for."""
    kinds = hub.kinds
    found = await asyncio.gather(*(own_properties(hub, kind) for kind in kinds))
    return {kind.entity: own for kind, own in zip(kinds, found, strict=True)}


async def own_properties(hub: HubSpot, kind: Kind) -> list[AccountField] | Exception:
    """The account's properties of one kind, or why they cannot be read."""
    try:
        rows = await run_operation(list_properties, hub, kind.name)
    except (PermissionDenied, UpstreamMissing) as error:
        return error
    declared = {*properties_of(kind.entity), kind.changed, "createdate"}
    return [
        field_of(row)
        for row in rows
        if row["name"] not in declared
        and (is_own(row) or f"{kind.name}.{row['name']}" in hub.config.properties)
    ]


def is_own(row: Json) -> bool:
    """Whether the account made this property; names that begin with hs_ are HubSpot's."""
    return not row.get("hubspotDefined") and not row["name"].startswith("hs_")


def field_of(row: Json) -> AccountField:
    """A property as a field."""
    several = row.get("fieldType") == "checkbox" and row["type"] == "enumeration"
    return AccountField(
        row["name"],
        list[str] if several else TYPES.get(row["type"], str),
        row.get("label") or "",
        row.get("description") or "",
        f"properties.{row['name']}",
        searchable=row["type"] == "string",
    )


def properties_of(entity: type[CrmRecord]) -> list[str]:
    """The properties that an entity's fields are read from."""
    sources = [source for source in sources_of(entity).values() if isinstance(source, str)]
    return [one.removeprefix("properties.") for one in sources if one.startswith("properties.")]


def rows_of(entity: type[CrmRecord], rows: list[Json]) -> list[Json]:
    """Rows of an answer, with a list in place of each text that means several values."""
    sources = sources_of(entity)
    lists = [sources[name] for name, holds in entity.types().items() if holds.members is not None]
    names = [source.removeprefix("properties.") for source in lists if isinstance(source, str)]
    for row in rows if names else ():
        values = row["properties"]
        for name in names:
            if isinstance(values.get(name), str):
                values[name] = [one for one in values[name].split(";") if one]
    return rows


# -- records ---------------------------------------------------------------------------------


async def listed(kind: Kind, request: PageRequest, env: Env[HubSpot]) -> Page[CrmRecord]:
    """A page of all records, sorted by id."""
    entity = env.entity(kind.entity)
    wanted = ListQuery(kind.name, request.cursor)
    if request.ids_only:
        answer = await env.run(list_objects, wanted)
        return Page([entity(row["id"]) for row in answer["results"]], next=next_of(answer))
    names = properties_of(entity)
    answer = await listed_whole(replace(wanted, properties=names), env)
    if answer is None:
        answer = await env.run(list_objects, wanted)
        ids = [row["id"] for row in answer["results"]]
        rows = (await env.run(read_objects, ReadQuery(kind.name, ids, names)))["results"] if ids else []
    else:
        rows = answer["results"]
    return Page.read(entity, rows_of(entity, rows), next=next_of(answer))


async def listed_whole(wanted: ListQuery, env: Env[HubSpot]) -> Json:
    """A page with all properties; None when their names are too long for an address."""
    if len(",".join(wanted.properties)) > LONGEST_LIST:
        return None
    try:
        return await env.run(list_objects, wanted)
    except UpstreamChanged as error:
        if error.data.get("status") == 414:
            return None
        raise


def next_of(answer: Json) -> str | None:
    """Where the next page begins."""
    paging = answer.get("paging") or {}
    after = (paging.get("next") or {}).get("after")
    return None if after is None else str(after)


async def changed(kind: Kind, request: PageRequest, since: datetime, env: Env[HubSpot]) -> Page[CrmRecord]:
    """A page of what changed, the oldest change first; at the end, of what is in the bin."""
    place: Json = json.loads(request.cursor) if request.cursor else {"since": milliseconds(since)}
    if "bin" in place:
        return await archived(kind, place["bin"], env)
    entity = env.entity(kind.entity)
    query = SearchQuery(kind.name, place["since"], place.get("above"), properties_of(entity))
    answer = await env.run(search_objects, query)
    rows, seen = answer["results"], place.get("seen", ())
    fresh = [row for row in rows if row["id"] not in seen]
    onward = next_place(kind, query, rows, more=next_of(answer) is not None)
    return Page.read(entity, rows_of(entity, fresh), next=json.dumps(onward))


def next_place(kind: Kind, query: SearchQuery, rows: Sequence[Json], *, more: bool) -> Json:
    """Where the next page of changes begins: at the last time of this one, without the ids at that time.

    When a whole page changed in one millisecond, all of that millisecond is read by id.
    """
    if query.above is not None:
        following = {"above": rows[-1]["id"]} if more else {}
        return {"since": query.since + (not more), **following}
    if not more:
        return {"bin": ""}
    times = [milliseconds(time_of(row, kind)) for row in rows]
    last = times[-1]
    if last == query.since:
        return {"since": last, "above": "0"}
    return {"since": last, "seen": [row["id"] for row, at in zip(rows, times, strict=True) if at == last]}


async def archived(kind: Kind, after: str, env: Env[HubSpot]) -> Page[CrmRecord]:
    """A page of the records in the bin, as removed ones."""
    answer = await env.run(list_objects, ListQuery(kind.name, after or None, archived=True))
    onward = next_of(answer)
    removed = [kind.entity.ref(row["id"]) for row in answer["results"]]
    return Page([], removed=removed, next=None if onward is None else json.dumps({"bin": onward}))


def time_of(row: Json, kind: Kind) -> datetime:
    """When a record last changed, by which the search sorts."""
    return datetime.fromisoformat(row["properties"].get(kind.changed) or row["updatedAt"])


def milliseconds(at: datetime) -> int:
    """A time in milliseconds since the epoch, as the search takes it."""
    return int((at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1))


def loader_of(kind: Kind) -> Loader[HubSpot]:
    """The loader of a kind of records."""

    async def load(parent: Ref[HubSpotAccount], request: PageRequest, env: Env[HubSpot]) -> Page[CrmRecord]:
        if request.since is None or request.ids_only:
            return await listed(kind, request, env)
        return await changed(kind, request, request.since, env)

    load.__name__ = kind.name
    changes = Watermark(kind.entity.updated_at, overlap=OVERLAP, newest_first=False)
    collection = getattr(HubSpotAccount, kind.name)
    return Loader.collection(collection, brings=kind.entity, watermark=changes, sweep=DAY, stable=True)(load)


# -- owners and pipelines --------------------------------------------------------------------


@Loader.collection(HubSpotAccount.owners, brings=HubSpotOwner, stable=True)
async def owners(parent: Ref[HubSpotAccount], request: PageRequest, env: Env[HubSpot]) -> Page[HubSpotOwner]:
    """The owners, and behind them the former ones, whose names old records still need."""
    past, _, after = (request.cursor or "").partition(":")
    answer = await env.run(list_owners, ListQuery("owners", after or None, archived=bool(past)))
    onward = next_of(answer)
    following = f"{past}:{onward}" if onward is not None else None if past else "past:"
    return Page.read(env.entity(HubSpotOwner), answer["results"], next=following)


@Loader.raw
async def deal_pipelines_of(env: Env[HubSpot]) -> Json:
    """The pipelines of deals, which the listings of pipelines and stages share."""
    return await env.run(list_pipelines, "deals")


@Loader.raw
async def ticket_pipelines_of(env: Env[HubSpot]) -> Json:
    """The pipelines of tickets."""
    return await env.run(list_pipelines, "tickets")


def stages_of(pipelines: Sequence[Json]) -> list[Json]:
    """The stages of all pipelines, each with its pipeline."""
    return [{**stage, "pipeline": one["id"]} for one in pipelines for stage in one["stages"]]


@Loader.collection(HubSpotAccount.deal_pipelines, brings=HubSpotDealPipeline)
async def deal_pipelines(
    parent: Ref[HubSpotAccount], request: PageRequest, env: Env[HubSpot]
) -> Page[HubSpotDealPipeline]:
    """All on one page."""
    return Page.read(env.entity(HubSpotDealPipeline), await env.raw(deal_pipelines_of))


@Loader.collection(HubSpotAccount.deal_stages, brings=HubSpotDealStage)
async def deal_stages(
    parent: Ref[HubSpotAccount], request: PageRequest, env: Env[HubSpot]
) -> Page[HubSpotDealStage]:
    """All on one page."""
    return Page.read(env.entity(HubSpotDealStage), stages_of(await env.raw(deal_pipelines_of)))


@Loader.collection(HubSpotAccount.ticket_pipelines, brings=HubSpotTicketPipeline)
async def ticket_pipelines(
    parent: Ref[HubSpotAccount], request: PageRequest, env: Env[HubSpot]
) -> Page[HubSpotTicketPipeline]:
    """All on one page."""
    return Page.read(env.entity(HubSpotTicketPipeline), await env.raw(ticket_pipelines_of))


@Loader.collection(HubSpotAccount.ticket_stages, brings=HubSpotTicketStage)
async def ticket_stages(
    parent: Ref[HubSpotAccount], request: PageRequest, env: Env[HubSpot]
) -> Page[HubSpotTicketStage]:
    """All on one page."""
    return Page.read(env.entity(HubSpotTicketStage), stages_of(await env.raw(ticket_pipelines_of)))


# -- associations ----------------------------------------------------------------------------
#
# Associations are read for records that are stored already, 1,000 at a time.  The sync token says, for
# each kind, the newest change that was known and a digest of the records that had just changed then:
# as long as both are the same, nothing has to be asked.


@Loader.collection(HubSpotAccount.associations, brings=HubSpotAssociation, sweep=DAY, stable=True)
async def associations(
    parent: Ref[HubSpotAccount], request: PageRequest, env: Env[HubSpot]
) -> Page[HubSpotAssociation]:
    """The associations of all records, or of those that changed."""
    pairs = env.context.pairs
    place = json.loads(request.cursor) if request.cursor else await first_place(request, pairs, env)
    while place["pair"] < len(pairs):
        kind, other = pairs[place["pair"]]
        since = place["since"].get(kind.name)
        ids, more = ([], None) if since == SAME else await stored(kind, since, place["after"], env)
        place |= {"after": more} if more else {"after": None, "pair": place["pair"] + 1}
        if not ids:
            continue
        try:
            return await linked(kind, other, ids, place, since is not None, env)
        except PermissionDenied as error:  # the others can be read all the same
            place |= {"after": None, "pair": pairs.index((kind, other)) + 1, "denied": error.message}
    if "denied" in place:
        raise PermissionDenied(place["denied"], hint=LEAVE_OUT)
    return Page([], sync_token=json.dumps(place["token"]))


SAME = "same"  # in place of a time: no record of that kind changed


async def stored(
    kind: Kind, since: str | None, after: str | None, env: Env[HubSpot]
) -> tuple[list[str], str | None]:
    """The ids of up to 1,000 stored records, or of those that changed since a time, and where more begin."""
    query = Query(kind.entity).select(kind.entity.updated_at).limit(LINKED).after(after)
    if since is not None:
        query = query.where(kind.entity.updated_at.ge(datetime.fromisoformat(since)))
    page = await env.fetch(query)
    return [one.id for one in page.items], page.cursor


async def first_place(request: PageRequest, pairs: Sequence[tuple[Kind, Kind]], env: Env[HubSpot]) -> Json:
    """Where a listing begins: its first pair, since when each kind is asked for, and its token."""
    known = {} if request.sync_token is None or request.ids_only else json.loads(request.sync_token)
    token: dict[str, Json] = {}
    since: dict[str, str] = {}
    for kind in {one.name: one for one, _ in pairs}.values():
        token[kind.name] = now = await newest_change(kind, env)
        before = known.get(kind.name)
        if before is not None and before[0]:
            since[kind.name] = SAME if before == now else before[0]
    return {"pair": 0, "after": None, "since": since, "token": token}


async def newest_change(kind: Kind, env: Env[HubSpot]) -> Json:
    """A while before the newest change of a kind, and a digest of the records that changed since."""
    query = Query(kind.entity).select(kind.entity.updated_at)
    newest = (await env.fetch(query.order_by("-updated_at").limit(1))).items
    if not newest:
        return ["", ""]
    since = newest[0].updated_at - OVERLAP
    digest, cursor = sha256(), None
    while True:
        page = await env.fetch(query.where(kind.entity.updated_at.ge(since)).after(cursor))
        digest.update("".join(f"{one.id} {one.updated_at} " for one in page.items).encode())
        cursor = page.cursor
        if cursor is None:
            return [since.isoformat(), digest.hexdigest()[:16]]


async def linked(
    kind: Kind, other: Kind, ids: Sequence[str], place: Json, is_delta: bool, env: Env[HubSpot]
) -> Page[HubSpotAssociation]:
    """The page with the associations of some records with those of another kind."""
    found: dict[str, HubSpotAssociation] = {}
    query = LinkQuery(kind.name, other.name, ids)
    while query.ids:
        onward: list[tuple[str, str]] = []
        for result in await env.run(list_associations, query):
            id, after = str(result["from"]["id"]), next_of(result)
            onward += [(id, after)] if after else []
            for to in result["to"]:
                one = association(kind, other, id, to)
                found[one.id] = one
        query = LinkQuery(kind.name, other.name, [id for id, _ in onward], [after for _, after in onward])
    gone = await missing(kind, other, ids, found, env) if is_delta else []
    last = place["pair"] == len(env.context.pairs) and "denied" not in place
    token = json.dumps(place["token"]) if last else None
    cursor = None if last else json.dumps(place)
    return Page(list(found.values()), removed=gone, next=cursor, sync_token=token)


def association(kind: Kind, other: Kind, id: str, to: Json) -> HubSpotAssociation:
    """One association, whatever types it has."""
    target, types = str(to["toObjectId"]), to["associationTypes"]
    links: dict[str, Any] = dict.fromkeys(one.link.name for one in KINDS.values() if one.link is not None)
    links[link_of(kind).name], links[link_of(other).name] = kind.entity.ref(id), other.entity.ref(target)
    labels = sorted({one["label"] for one in types if one.get("label")})
    types_ids = sorted({int(one["typeId"]) for one in types})
    name = f"{kind.name}:{id}:{other.name}:{target}"
    return HubSpotAssociation(name, labels=labels, type_ids=types_ids, **links)


def link_of(kind: Kind) -> FieldOf[HubSpotAssociation, Any]:
    """The field of an association that points at a kind; all kinds of PAIRS have one."""
    assert kind.link is not None
    return kind.link


async def missing(
    kind: Kind, other: Kind, ids: Sequence[str], found: Mapping[str, Any], env: Env[HubSpot]
) -> list[Ref[HubSpotAssociation]]:
    """The stored associations of these records that are none any more."""
    gone: list[Ref[HubSpotAssociation]] = []
    query = (
        Query(HubSpotAssociation)
        .select(link_of(kind))
        .where(link_of(kind).is_in([kind.entity.ref(id) for id in ids]))
    )
    query = query.where(link_of(other).ne(None))
    cursor: str | None = None
    while True:
        page = await env.fetch(query.after(cursor))
        gone += [HubSpotAssociation.ref(one.id) for one in page.items if one.id not in found]
        cursor = page.cursor
        if cursor is None:
            return gone


async def seed(hub: HubSpot, store: Store) -> SyncPlan:
    """Store the account; list everything at the same time, and then what is linked with what."""
    await store.store(HubSpotAccount(ROOT_ID))
    step = Step.for_root(HubSpotAccount.ref(ROOT_ID))
    names = [kind.name for kind in hub.kinds]
    for kind in ("deal", "ticket"):
        names += [f"{kind}_pipelines", f"{kind}_stages"] if f"{kind}s" in names else []
    names += ["owners"] if hub.config.has("owners") else []
    steps: list[Any] = [
        Step.concurrent([step.load_collection(getattr(HubSpotAccount, name)) for name in names])
    ]
    return SyncPlan([*steps, *([step.load_collection(HubSpotAccount.associations)] if hub.pairs else [])])


# -- connecting ------------------------------------------------------------------------------


async def initialise(config: HubSpotConfig, credentials: CredentialProvider) -> Installation[HubSpot]:
    """A client of the API; a private app's token takes precedence over OAuth."""
    token = await credentials.find(TOKEN)
    given = [await credentials.find(one) for one in OAUTH.credentials]
    if token is None and not any(given):
        hint = "give one to max connect (with --update if it is connected): --credential token=env:VAR"
        raise BadCredentials("hubspot: no credential is stored", hint=hint)
    tokens = None if token else OAUTH.tokens(credentials, config.base_url, client_id=config.client_id)
    auth = BearerAuth(token) if token else tokens
    http = HttpClient(config.base_url, credentials, auth=auth, budgets=[BUDGET], read_error=read_error)
    hub = HubSpot(http, config)
    parts = [http] if tokens is None else [tokens, http]

    async def start() -> None:
        for part in parts:
            await part.start()

    async def stop() -> None:
        for part in reversed(parts):
            await part.stop()

    async def health() -> str:
        return summary(await readable(hub))

    return Installation(hub, start, stop, tokens.renew if tokens else None, health)


async def readable(hub: HubSpot) -> dict[str, UpstreamError | None]:
    """For each kind of objects, None when the credential can read it, or why it cannot."""

    async def why_not(name: str) -> UpstreamError | None:
        try:
            query = ListQuery(name, size=1)
            await run_operation(list_owners if name == "owners" else list_objects, hub, query)
        except (PermissionDenied, UpstreamMissing) as error:
            return error
        return None

    names = [name for name in OBJECTS if hub.config.has(name)]
    return dict(zip(names, [await why_not(name) for name in names], strict=True))


def summary(found: Mapping[str, UpstreamError | None]) -> str:
    """What the credential can read, in one line; PermissionDenied when that is nothing."""
    good, bad = [n for n, why in found.items() if why is None], [n for n, why in found.items() if why]
    if not good:
        raise PermissionDenied(
            "hubspot: the credential can read none of its objects",
            hint="give the app read scopes, such as crm.objects.contacts.read",
        )
    but = f"; not {', '.join(bad)}: the scopes are missing" if bad else ""
    return f"hubspot: the credential reads {', '.join(good)}{but}"


async def ask(answers: Answers, credentials: CredentialProvider, body: Callable[[HubSpot], Any]) -> Any:
    """What a function says of the service that the answers lead to."""
    config = HubSpotConfig(**{one.name: answers[one.name] for one in fields(HubSpotConfig)})
    installation = await initialise(config, credentials)
    assert installation.start
    assert installation.stop
    try:
        await installation.start()
        return await body(installation.context)
    finally:
        await installation.stop()


async def choose_method(answers: Answers, credentials: CredentialProvider) -> Mapping[str, Json]:
    """Without a token, the next steps ask for what OAuth needs."""
    return {"oauth": await credentials.find(TOKEN) is None}


async def check(answers: Answers, credentials: CredentialProvider) -> str:
    """Check the credential by asking for one record of each kind, and for the account's own properties."""
    return str(await ask(answers, credentials, described))


async def described(hub: HubSpot) -> str:
    """What the credential can read, and which properties the account has of its own, in one line."""
    line, found = summary(await readable(hub)), await discover(hub)
    own = [(kind, fields) for kind in hub.kinds if isinstance(fields := found[kind.entity], list) and fields]
    words = ", ".join(f"{len(fields)} of {kind.name}" for kind, fields in own)
    return f"{line}; properties of its own: {words}" if words else line


async def choose_from(answers: Answers, credentials: CredentialProvider) -> list[tuple[str, str]]:
    """The kinds of objects, those that the credential cannot read marked as such."""
    found = await ask({**answers, "objects": ()}, credentials, readable)
    return [(name, name if why is None else f"{name} (the scope is missing)") for name, why in found.items()]


async def remember_objects(answers: Answers, credentials: CredentialProvider) -> Mapping[str, Json]:
    """When none was chosen, all that the credential can read are copied."""
    if answers["objects"]:
        return {}
    found = await ask(answers, credentials, readable)
    bad = [name for name, why in found.items() if why is not None]
    return {"objects": [name for name in found if name not in bad]} if bad else {}


connector = Connector(
    name="hubspot",
    description="A CRM at HubSpot: contacts, companies, deals, tickets, activities and what links them.",
    schema=Schema(
        [
            HubSpotAccount,
            *(kind.entity for kind in KINDS.values()),
            HubSpotOwner,
            HubSpotDealPipeline,
            HubSpotDealStage,
            HubSpotTicketPipeline,
            HubSpotTicketStage,
            HubSpotAssociation,
        ],
        roots=[HubSpotAccount],
    ),
    loaders=[
        *map(loader_of, KINDS.values()),
        *(owners, deal_pipelines, deal_stages, ticket_pipelines, ticket_stages, associations),
        *(deal_pipelines_of, ticket_pipelines_of),
    ],
    seeder=seed,
    discover=discover,
    initialise=initialise,
    config=HubSpotConfig,
    hosts=["{base_url}"],
    credentials=[TOKEN, *OAUTH.credentials],
    onboarding=[
        SecretInput(TOKEN, "Token of a private app (Settings, Integrations); leave empty to use OAuth"),
        RunCode(choose_method),
        Input("client_id", "Client id of your OAuth application", when=itemgetter("oauth")),
        SecretInput(OAuth.CLIENT_SECRET, "Client secret of that application", when=itemgetter("oauth")),
        SignIn([OAuth.REFRESH_TOKEN], BROWSER, when=itemgetter("oauth")),
        Validate(check),
        Select("objects", "What should be copied? (none: everything)", choose_from, several=True),
        RunCode(remember_objects),
    ],
    operations=[
        *(list_objects, search_objects, read_objects, list_associations),
        *(list_owners, list_pipelines, list_properties, OAUTH.renewal),
    ],
    requires=[require_http],
)
