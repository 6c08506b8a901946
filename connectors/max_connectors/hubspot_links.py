"""Associations of HubSpot: which record is linked with which, and what each link means.

Rule: associations are read for records that are stored already, 1,000 at a time, since HubSpot lists
them by record.  The sync token says, for each kind of records, the newest change that was known and a
digest of the records that had just changed then: as long as both are the same, nothing is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from max.connecting import Env, FieldOf, Json, Loader, Page, PageRequest, PermissionDenied, Query, Ref

from .hubspot_api import DAY, KINDS, LEAVE_OUT, OVERLAP, HubSpot, Kind, LinkQuery, list_associations, next_of
from .hubspot_entities import HubSpotAccount, HubSpotAssociation

LINKED = 1_000  # records whose associations one request asks for


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
