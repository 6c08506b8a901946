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
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from operator import itemgetter
from typing import Any

from max.connecting import (
    AccountField,
    Answers,
    BadCredentials,
    BearerAuth,
    Connector,
    CredentialProvider,
    Env,
    Found,
    HttpClient,
    Input,
    Installation,
    Json,
    Loader,
    OAuth,
    Page,
    PageRequest,
    PermissionDenied,
    Ref,
    RunCode,
    Schema,
    SecretInput,
    Select,
    SignIn,
    Step,
    Store,
    SyncPlan,
    UpstreamChanged,
    UpstreamError,
    UpstreamMissing,
    Validate,
    Watermark,
    require_http,
    run_operation,
    sources_of,
)

from .hubspot_api import (
    BROWSER,
    BUDGET,
    DAY,
    KINDS,
    LONGEST_LIST,
    OAUTH,
    OBJECTS,
    OVERLAP,
    ROOT_ID,
    TOKEN,
    HubSpot,
    HubSpotConfig,
    Kind,
    ListQuery,
    ReadQuery,
    SearchQuery,
    list_associations,
    list_objects,
    list_owners,
    list_pipelines,
    list_properties,
    next_of,
    read_error,
    read_objects,
    search_objects,
)
from .hubspot_entities import (
    CrmRecord,
    HubSpotAccount,
    HubSpotAssociation,
    HubSpotDealPipeline,
    HubSpotDealStage,
    HubSpotOwner,
    HubSpotTicketPipeline,
    HubSpotTicketStage,
)
from .hubspot_links import associations

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
