"""The connector hubspot by itself: searches for changes, errors, and what it declares."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from max_connectors import hubspot_api
from max_connectors.hubspot import (
    changed,
    connector,
    field_of,
    is_own,
    milliseconds,
    properties_of,
    rows_of,
)
from max_connectors.hubspot_api import KINDS, PAIRS, LinkQuery, SearchQuery, list_associations, read_error
from max_connectors.hubspot_entities import HubSpotContact, HubSpotDeal
from max_connectors.hubspot_links import linked

from max.connecting import Field, HttpRequest, HttpResponse, Json, PageRequest
from max.errors import PermissionDenied, QuotaExceeded, UpstreamBroken

EPOCH = datetime(2025, 1, 1, tzinfo=UTC)


class Account:
    """The contacts of an account, by the millisecond of their last change, and their search; an Env."""

    def __init__(self, times: dict[str, int], edits: Sequence[tuple[int, str]] = ()) -> None:
        self.times, self.edits, self.requests = dict(times), list(edits), 0

    def entity(self, entity: Any) -> Any:
        """The entity itself."""
        return entity

    async def run(self, _: object, wanted: Any) -> Json:
        """What HubSpot answers; an edit may happen before the nth request."""
        self.requests += 1
        if not isinstance(wanted, SearchQuery):
            return {"results": []}  # the bin
        for at, id in self.edits:
            if at == self.requests:
                self.times[id] = 1_000 + at
        since = wanted.since - milliseconds(EPOCH)
        found = sorted((at, id) for id, at in self.times.items() if at >= since)
        if wanted.above is not None:
            found = [(at, id) for at, id in found if at == since and id > wanted.above]
        page = found[: hubspot_api.SEARCH_PAGE]
        rows = [{"id": id, "createdAt": iso(at), "updatedAt": iso(at), "properties": {}} for at, id in page]
        more = len(page) < len(found)
        return {"results": rows, **({"paging": {"next": {"after": "x"}}} if more else {})}

    def found(self) -> list[str]:
        """The ids of all pages of changes."""

        async def pages() -> list[str]:
            ids, cursor = list[str](), cast("str | None", None)
            while True:
                page = await changed(KINDS["contacts"], PageRequest(cursor), EPOCH, cast(Any, self))
                ids += [one.id for one in page.items]
                cursor = page.next
                if cursor is None:
                    return ids

        return asyncio.run(pages())


def iso(at: int) -> str:
    return (EPOCH + timedelta(milliseconds=at)).isoformat()


contacts = st.dictionaries(st.sampled_from("abcdefghijkl"), st.integers(0, 6), max_size=12)


@given(contacts, st.integers(1, 4))
def test_a_search_finds_every_change_however_many_share_a_millisecond(
    times: dict[str, int], size: int
) -> None:
    with patch.object(hubspot_api, "SEARCH_PAGE", size):
        found = Account(times).found()
    assert set(found) == set(times)
    assert len(found) <= len(times) + size * len(set(times.values()))  # what fills a page is read twice


@given(contacts, st.integers(1, 4), st.lists(st.tuples(st.integers(1, 9), st.sampled_from("abcdefghijkl"))))
def test_an_edit_during_a_search_hides_no_other_change(
    times: dict[str, int], size: int, edits: list[tuple[int, str]]
) -> None:
    edits = [(at, id) for at, id in edits if id in times]
    with patch.object(hubspot_api, "SEARCH_PAGE", size):
        found = Account(times, edits).found()
    assert set(found) >= times.keys() - {id for _, id in edits}


def test_a_search_costs_one_request_for_as_many_rows_as_a_page_can_hold() -> None:
    account = Account({f"{number:04}": number for number in range(796)})
    assert len(account.found()) == 796
    assert (
        account.requests == 4 + 1
    )  # pages of 200, each but the first beginning with a row of the last; the bin


# -- associations ----------------------------------------------------------------------------------


class Linked:
    """Answers for associations, one after the other, and what they were asked with; an Env."""

    def __init__(self, *answers: Json) -> None:
        self.answers, self.asked = list(answers), list[LinkQuery]()
        self.context = SimpleNamespace(pairs=[("contacts", "companies")])

    async def run(self, _: object, wanted: LinkQuery) -> Json:
        """The next answer."""
        self.asked.append(wanted)
        return self.answers.pop(0)


def to(id: int, *labels: str | None) -> Json:
    types = [{"category": "X", "typeId": 7 + n, "label": label} for n, label in enumerate(labels)]
    return {"toObjectId": id, "associationTypes": types}


def test_a_record_with_more_associations_than_one_answer_holds_is_asked_for_again_alone() -> None:
    first = [
        {"from": {"id": "1"}, "to": [to(5, None)], "paging": {"next": {"after": "NTA"}}},
        {"from": {"id": "2"}, "to": [to(5, "Primary", None)]},
    ]
    env = Linked(first, [{"from": {"id": "1"}, "to": [to(6, "Billing")]}])
    place: Json = {"pair": 1, "after": None, "since": {}, "token": {}}
    kinds = KINDS["contacts"], KINDS["companies"]
    page = asyncio.run(linked(*kinds, ["1", "2"], place, False, cast(Any, env)))
    assert env.asked[1] == LinkQuery("contacts", "companies", ["1"], ["NTA"])
    labels = {one.id: (one.labels, one.type_ids) for one in page.items}
    assert labels == {
        "contacts:1:companies:5": ([], [7]),
        "contacts:1:companies:6": (["Billing"], [7]),
        "contacts:2:companies:5": (["Primary"], [7, 8]),
    }
    assert (page.next, page.sync_token) == (None, "{}")


@pytest.mark.parametrize("category", ["OBJECT_NOT_FOUND", "INTERNAL_ERROR"])
def test_records_without_associations_are_no_error_and_others_are(category: str) -> None:
    answer = {"results": [], "errors": [{"category": category, "message": "what happened"}]}

    async def request(*_: object, **__: object) -> Any:
        return SimpleNamespace(json=lambda: answer)

    hub: Any = SimpleNamespace(http=SimpleNamespace(request=request))
    asking = list_associations(hub, LinkQuery("contacts", "companies", ["1"]))
    if category == "OBJECT_NOT_FOUND":
        assert asyncio.run(cast(Any, asking)) == []
    else:
        with pytest.raises(UpstreamBroken, match="what happened"):
            asyncio.run(cast(Any, asking))


# -- errors ----------------------------------------------------------------------------------------


def answer(status: int, body: str = "", **headers: str) -> HttpResponse:
    """A response of HubSpot."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(HttpRequest("GET", "https://api.hubapi.com/x"), status, named, body.encode())


@pytest.mark.parametrize(
    ("response", "kind", "wait"),
    [
        (answer(429, '{"policyName": "TEN_SECONDLY_ROLLING"}'), QuotaExceeded, 10.0),
        (answer(429, '{"policyName": "SECONDLY"}'), QuotaExceeded, 1.0),
        (answer(429, '{"message": "You have reached your secondly limit."}'), QuotaExceeded, 1.0),
        (answer(429, '{"policyName": "DAILY"}'), QuotaExceeded, 21_600.0),
        (answer(429, "<html>", retry_after="2000"), QuotaExceeded, 2.0),
        (answer(429, "{}", retry_after="7"), QuotaExceeded, 7.0),
        (answer(423, "[]"), UpstreamBroken, 2.0),
        (answer(504, "<html>"), UpstreamBroken, 3.0),
    ],
    ids=lambda one: str(one.body or one.headers) if isinstance(one, HttpResponse) else "",
)
def test_each_limit_has_its_own_wait(response: HttpResponse, kind: type, wait: float) -> None:
    error = read_error(response)
    assert error is not None
    assert (type(error), error.retry_after) == (kind, wait)


def test_a_missing_scope_is_no_matter_of_trying_again() -> None:
    error = read_error(
        answer(403, '{"category": "MISSING_SCOPES", "message": "give crm.objects.deals.read"}')
    )
    assert isinstance(error, PermissionDenied)
    assert "give crm.objects.deals.read" in error.message
    assert read_error(answer(403, "{}")) is None
    assert read_error(answer(200, "[]")) is None


# -- what it declares ------------------------------------------------------------------------------


def test_every_entity_and_field_has_a_description_and_every_kind_a_title() -> None:
    for entity in connector.schema.to_json()["entities"]:
        assert entity["description"], entity["name"]
        for one in [*entity["fields"], *entity["collections"]]:
            assert one["description"], (entity["name"], one["name"])
        if entity["name"] not in ("HubSpotAccount", "HubSpotAssociation"):
            assert entity["title"], entity["name"]
            assert any(one["searchable"] for one in entity["fields"]), entity["name"]
        brief = [one["name"] for one in entity["fields"] if one["brief"]]
        assert len(brief) <= 6, entity["name"]


def test_the_pairs_of_associations_have_a_field_for_each_side_and_no_pair_comes_twice() -> None:
    assert len({frozenset(pair) for pair in PAIRS}) == len(PAIRS)
    assert all(KINDS[kind].link is not None for pair in PAIRS for kind in pair)


def test_all_properties_that_fields_are_read_from_are_asked_for() -> None:
    assert {"firstname", "lastname", "email", "hubspot_owner_id"} <= set(properties_of(HubSpotContact))
    assert "createdAt" not in properties_of(HubSpotDeal)


@pytest.mark.parametrize(
    ("row", "own"),
    [
        ({"name": "shoe_size", "hubspotDefined": False}, True),
        ({"name": "shoe_size"}, True),
        ({"name": "annualrevenue", "hubspotDefined": True}, False),
        ({"name": "hs_lead_status"}, False),
    ],
)
def test_a_property_is_the_accounts_own_unless_hubspot_says_or_names_it_otherwise(
    row: Json, own: bool
) -> None:
    assert is_own(row) is own


@pytest.mark.parametrize(
    ("kind", "field", "holds"),
    [
        ("string", "text", str),
        ("number", "number", float),
        ("bool", "booleancheckbox", bool),
        ("date", "date", "date"),
        ("datetime", "date", "datetime"),
        ("enumeration", "select", str),
        ("enumeration", "checkbox", list[str]),
        ("object_coordinates", "text", str),
    ],
)
def test_a_property_has_the_type_that_the_properties_api_says(kind: str, field: str, holds: Any) -> None:
    made = field_of({"name": "x", "type": kind, "fieldType": field, "label": "X", "description": None})
    assert made.type is holds or made.type == holds or made.type.__name__ == holds
    assert made.source == "properties.x"


def test_values_of_a_property_with_several_are_a_list_and_others_stay() -> None:
    class Chosen(HubSpotContact):
        """A contact whose account has two properties of its own."""

        interests: Field[list[str] | None] = Field(source="properties.interests")

    rows = [{"properties": {"interests": value, "email": "a;b"}} for value in ("golf;chess", "", None)]
    assert [one["properties"]["interests"] for one in rows_of(Chosen, rows)] == [["golf", "chess"], [], None]
    assert rows[0]["properties"]["email"] == "a;b"
