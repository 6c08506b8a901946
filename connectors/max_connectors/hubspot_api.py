"""HubSpot's API: which records there are, how each is asked for, its limits, and its errors.

Rule: paths, sizes and limits are here alone.  Each kind of call is one operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from max.connecting import (
    BrowserSignIn,
    BudgetHeaders,
    Credential,
    FieldOf,
    HttpClient,
    HttpResponse,
    InvalidAnswers,
    Json,
    Limit,
    Mismatch,
    OAuth,
    PermissionDenied,
    QuotaExceeded,
    Retry,
    UpstreamBroken,
    UpstreamError,
    operation,
)

from .hubspot_entities import (
    CrmRecord,
    HubSpotAssociation,
    HubSpotCall,
    HubSpotCompany,
    HubSpotContact,
    HubSpotDeal,
    HubSpotEmail,
    HubSpotLineItem,
    HubSpotMeeting,
    HubSpotNote,
    HubSpotProduct,
    HubSpotTask,
    HubSpotTicket,
)

ROOT_ID = "account"  # a credential belongs to exactly one
DAY = timedelta(days=1)
OVERLAP = timedelta(minutes=2)  # the index of the search lags some moments behind
PAGE, SEARCH_PAGE = 100, 200  # rows of one answer, at most
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


def next_of(answer: Json) -> str | None:
    """Where the next page begins."""
    paging = answer.get("paging") or {}
    after = (paging.get("next") or {}).get("after")
    return None if after is None else str(after)
