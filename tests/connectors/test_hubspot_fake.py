"""The connector hubspot against a strict fake: whatever happens, the copy holds what the account has."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from max_connectors import hubspot, hubspot_api, hubspot_links
from max_connectors.hubspot import connector
from max_connectors.hubspot_api import KINDS, PAIRS, HubSpotConfig
from max_connectors.hubspot_entities import (
    HubSpotAssociation,
    HubSpotContact,
    HubSpotDeal,
)

from max import Status
from max.connecting import Retry
from max.errors import BadCredentials, InvalidAnswers, PermissionDenied
from max.installations.onboarding import OnboardingResult, Prompter, onboard
from max.query.reader import open_reader
from max.runtime import InstallationRuntime
from max.storage.sqlite import SqliteDatabase
from max.upstream.recording import Recording
from max.upstream.recording_file import attempts_in
from max.upstream.replay import Replay
from tests.hubspot_fake import NOW, START, TOKEN, Copy, account, differences, needs_fake

pytestmark = needs_fake


@pytest.fixture
def fake() -> Iterator[Any]:
    with account() as served:
        yield served


@pytest.fixture
def copy(tmp_path: Path, fake: Any) -> Copy:
    return Copy(fake, tmp_path)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a first sync leaves: all accounts begin equal."""
    with account() as served:
        copy = Copy(served, tmp_path_factory.mktemp("first"))
        assert copy.sync().status is Status.COMPLETED
    return copy.path


@pytest.fixture
def synced(copy: Copy, first: Path) -> Copy:
    """A copy after its first sync."""
    shutil.copy(first, copy.path)
    return copy


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of a few rows, and quick second attempts."""
    monkeypatch.setattr(hubspot_api, "PAGE", 5)
    monkeypatch.setattr(hubspot_api, "SEARCH_PAGE", 4)
    monkeypatch.setattr(hubspot_links, "LINKED", 10)
    for operation in connector.operations:
        monkeypatch.setattr(operation, "retry", Retry(attempts=8, base=0.01, cap=0.02))


def change(fake: Any) -> None:
    """Changes of every kind: values, new records, one in the bin, a link more and one less."""
    fake.clock.advance(600)
    for kind in KINDS:
        id = min(fake.objects[kind], key=int)
        fake.put(kind, id, hubspot_owner_id="102")
        fake.put(kind, str(int(max(fake.objects[kind], key=int)) + 1), hubspot_owner_id="103")
    fake.put("contacts", "1003", shoe_size="41", interests="chess", email=None)
    fake.archive("contacts", "1004")
    fake.link("contacts", "1003", "companies", "5001")
    fake.put("deals", "9001", amount="7.25")
    fake.unlink("deals", "9001", "companies", "5001")


# -- the first sync and those after it -----------------------------------------------------------


def test_a_first_sync_copies_every_record_with_the_accounts_own_properties(copy: Copy) -> None:
    assert copy.sync().status is Status.COMPLETED
    assert differences(copy) == []
    contact = copy.rows(HubSpotContact)["1001"]
    assert (contact["shoe_size"], contact["vip"], contact["interests"]) == (38.5, True, ["golf", "chess"])
    assert contact["phone"] is None  # asked for, and not set


def test_the_requests_of_a_first_and_of_an_unchanged_sync_are_the_least_possible(copy: Copy) -> None:
    copy.sync()
    first = Counter(one.split("/")[2 if "v4" in one else 3] for one in copy.requests())
    pages = len(KINDS)  # each kind has one page of rows
    assert first == {"objects": pages, "properties": pages, "owners": 2, "pipelines": 2, "v4": len(PAIRS)}
    copy.sync()
    second = Counter(one.split("/")[3] for one in copy.requests())  # a search and the bin
    assert second == {"objects": 2 * pages, "properties": pages, "owners": 2, "pipelines": 2}


def test_what_changed_is_copied_and_what_is_in_the_bin_is_removed(synced: Copy) -> None:
    change(synced.fake)
    result = synced.sync()
    assert (result.status, result.counts["HubSpotContact"] < 10) == (Status.COMPLETED, True)
    assert differences(synced) == []
    assert "1004" not in synced.rows(HubSpotContact)
    assert synced.sync().removed == 0  # the bin is listed again, and says nothing new


def test_what_vanished_without_a_trace_is_removed_by_the_daily_check(synced: Copy) -> None:
    synced.fake.purge("contacts", "1005")  # deleted for good; a merged record vanishes in the same way
    assert synced.sync().removed == 0
    result = synced.sync(check_deletes=True)
    assert (result.status, "1005" in synced.rows(HubSpotContact)) == (Status.COMPLETED, False)
    assert differences(synced) == []


def test_a_record_that_leaves_the_bin_is_there_again_with_its_values(synced: Copy) -> None:
    synced.fake.archive("contacts", "1006")
    synced.sync()
    synced.fake.objects["contacts"]["1006"]["archived"] = False
    synced.sync(check_deletes=True)
    synced.sync()
    assert differences(synced) == []


def test_associations_that_change_without_their_records_are_found_by_the_daily_check(synced: Copy) -> None:
    synced.fake.unlink("contacts", "1002", "companies", "5002")
    synced.fake.link("tickets", "7001", "deals", "9002")
    synced.sync(check_deletes=True)
    assert differences(synced) == []


def test_a_change_of_one_record_asks_for_the_associations_of_few(synced: Copy) -> None:
    synced.fake.clock.advance(600)
    synced.fake.put("deals", "9003", amount="1")
    synced.sync()
    asked = [one for one in synced.requests() if "/v4/" in one]
    assert asked == [
        f"POST /crm/v4/associations/deals/{kind}/batch/read" for kind in ("contacts", "companies")
    ]
    synced.sync()
    assert not [one for one in synced.requests() if "/v4/" in one]


def test_filters_follow_associations_stages_and_the_accounts_own_fields(synced: Copy) -> None:
    with open_reader(SqliteDatabase(synced.path), synced_info()) as reader:
        assert reader.count("HubSpotDeal", "stage.label = Won") == 3
        assert reader.count("HubSpotDeal", "stage.closed = false") == 3
        assert (
            reader.count("HubSpotAssociation", "contact.shoe_size > 38 AND company.name = 'Company 0'") == 1
        )
        assert reader.count("HubSpotContact", "interests HAS golf") == 1
        assert reader.entity("HubSpotContact")._fields["vip"].description == (
            "Very important: What Very important says"
        )


def synced_info() -> Any:
    from max import InstallationInfo

    return InstallationInfo("hubspot", "default", "abc", {}, 0.0)


# -- histories -----------------------------------------------------------------------------------


def disturb(fake: Any, chance: random.Random) -> None:
    """Something that happens to an account."""
    fake.clock.advance(chance.choice([0, 1, 600]))
    kind = chance.choice(["contacts", "companies", "deals"])
    ids = sorted(fake.objects[kind]) or ["1"]
    id, new = chance.choice(ids), str(50_000 + len(fake.log))
    value = str(chance.randrange(99))
    names = {"contacts": ["phone", "shoe_size"], "companies": ["name"], "deals": ["amount"]}
    other = chance.choice([one for one in names if one != kind and fake.objects[one]])
    other_id = chance.choice(sorted(fake.objects[other]))
    what = chance.choice(["put", "put", "new", "archive", "restore", "purge", "link", "unlink", "property"])
    if what in ("put", "new"):
        fake.put(kind, id if what == "put" else new, **{chance.choice(names[kind]): value})
    elif what == "archive" and id in fake.objects[kind]:
        fake.archive(kind, id)
    elif what == "restore" and id in fake.objects[kind]:
        fake.objects[kind][id]["archived"] = False
        fake.put(kind, id)
    elif what == "purge" and len(ids) > 2:
        fake.purge(kind, id)
    elif what == "link":
        fake.link(kind, id, other, other_id)
        fake.put(kind, id)
    elif what == "unlink" and fake.links.get((kind, id)):
        fake.unlink(kind, id, *chance.choice(sorted(fake.links[kind, id])).split(":"))
    elif what == "property":
        own = fake.own["contacts"]
        own[:] = own[:-1] if len(own) > 6 else [*own, (f"more_{value}", "string", "text", "More")]


@pytest.mark.parametrize("seed", range(3))
def test_after_whatever_happened_a_checked_sync_makes_the_copy_equal(
    tmp_path: Path, small_pages: None, seed: int
) -> None:
    chance = random.Random(seed)
    with account(seed={"contacts": 12}) as fake:
        copy = Copy(fake, tmp_path, objects=["contacts", "companies", "deals"])
        for _ in range(3):
            if chance.random() < 0.7:  # in the middle of a sync
                event = fake.inject(
                    "objects", call=lambda _: disturb(fake, chance), skip=chance.randrange(8), times=3
                )
                copy.sync(check_deletes=chance.random() < 0.5, allow_removals=True)
                fake.faults.remove(event)
            for _ in range(chance.randrange(6)):
                disturb(fake, chance)
        fake.clock.advance(600)
        for _ in range(2):
            assert copy.sync(check_deletes=True, allow_removals=True).status is Status.COMPLETED
        assert differences(copy) == []


# -- searching for changes -----------------------------------------------------------------------


def test_more_changes_than_a_search_can_show_are_all_found(tmp_path: Path, small_pages: None) -> None:
    with account(search_cap=40, seed={"contacts": 60}) as fake:
        copy = Copy(fake, tmp_path, objects=["contacts"])
        copy.sync()
        fake.clock.advance(600)
        for number in range(60):
            fake.put("contacts", str(1001 + number), NOW + 300 + number // 9, phone=f"+{number}")
        assert copy.sync().status is Status.COMPLETED
        assert not [one for one in differences(copy) if one.startswith("contacts")]


def test_more_changes_in_one_millisecond_than_a_search_can_show_are_all_found(
    tmp_path: Path, small_pages: None
) -> None:
    with account(search_cap=40, seed={"contacts": 60}) as fake:
        copy = Copy(fake, tmp_path, objects=["contacts"])
        copy.sync()
        fake.clock.advance(600)
        for number in range(60):
            fake.put("contacts", str(1001 + number), NOW + 300, phone=f"+{number}")
        assert copy.sync().status is Status.COMPLETED
        assert not [one for one in differences(copy) if one.startswith("contacts")]


@pytest.mark.parametrize("page", [0, 1, 2])
def test_an_edit_during_a_search_makes_it_skip_no_other_record(
    synced: Copy, small_pages: None, page: int
) -> None:
    fake = synced.fake
    fake.clock.advance(600)
    for number in range(12):
        fake.put("contacts", str(1001 + number), NOW + 300 + number, phone=f"+{number}")
    fake.inject("contacts/search", call=lambda _: fake.put("contacts", "1001", phone="edited"), skip=page)
    synced.sync()
    synced.sync()
    assert differences(synced) == []


def test_what_the_search_does_not_show_yet_is_found_by_the_next_sync(tmp_path: Path) -> None:
    with account(search_lag=30) as fake:
        copy = Copy(fake, tmp_path)
        copy.sync()
        fake.clock.advance(600)
        fake.put("contacts", "1001", phone="early")
        fake.clock.advance(29)
        fake.put("contacts", "1002", NOW + 628, phone="later, and shown at once")["_at"] = 0
        copy.sync()
        assert copy.rows(HubSpotContact)["1001"]["phone"] is None
        fake.clock.advance(60)
        copy.sync()
        assert differences(copy) == []


# -- the account's own properties ------------------------------------------------------------------


def test_a_new_property_is_a_field_after_the_next_sync_for_all_records(synced: Copy) -> None:
    synced.fake.own["contacts"].append(("hat", "string", "text", "Hat"))
    synced.fake.objects["contacts"]["1009"]["properties"]["hat"] = "fez"  # it was set without a change
    assert synced.sync().status is Status.COMPLETED
    rows = synced.rows(HubSpotContact)
    assert (rows["1009"]["hat"], rows["1010"]["hat"]) == ("fez", None)
    assert differences(synced) == []


def test_a_property_that_is_gone_is_hidden_and_one_of_another_type_is_read_again(synced: Copy) -> None:
    own = synced.fake.own["contacts"]
    own[:] = [one for one in own if one[0] != "vip"]
    own[0] = ("shoe_size", "string", "text", "Shoe size")
    assert synced.sync().status is Status.COMPLETED
    contact = synced.rows(HubSpotContact)["1001"]
    assert ("vip" in contact, contact["shoe_size"]) == (False, "38.5")


def test_properties_of_hubspot_are_copied_when_they_are_named(tmp_path: Path, fake: Any) -> None:
    fake.own["deals"].append(("hs_forecast_amount", "number", "number", "Forecast"))
    fake.put("deals", "9001", START, hs_forecast_amount="12.5")
    copy = Copy(fake, tmp_path, properties=["deals.hs_forecast_amount"])
    copy.sync()
    assert copy.rows(HubSpotDeal)["9001"]["hs_forecast_amount"] == 12.5


def test_without_the_right_to_see_properties_the_declared_ones_are_copied(copy: Copy) -> None:
    copy.fake.inject("GET /crm/v3/properties/contacts", status=403, times=None)
    result = copy.sync()
    assert result.status is Status.COMPLETED
    assert [note.partition(":")[0] for note in result.notes] == ["HubSpotContact"]
    assert copy.rows(HubSpotContact)["1001"]["first_name"] == "First0"
    copy.fake.faults.clear()
    assert copy.sync().notes == ()
    assert differences(copy) == []


def test_offline_at_the_beginning_leaves_the_fields_as_they_were(synced: Copy) -> None:
    for operation in connector.operations:
        assert operation.retry.attempts > 1
    synced.fake.inject("GET /crm/v3/properties", drop=True, times=None)
    synced.fake.inject("", drop=True, times=None)
    found = synced.using(_notes_of_a_sync)
    assert "stay as they were known" in found
    synced.fake.faults.clear()
    assert differences(synced) == []


async def _notes_of_a_sync(runtime: InstallationRuntime) -> str:
    handle = await runtime.sync()
    notes = (await handle.status()).notes
    await handle.cancel()
    await handle.completion()
    return " ".join(notes)


def test_more_properties_than_an_address_can_hold_are_read_by_id(tmp_path: Path, small_pages: None) -> None:
    with account(max_url=900) as fake:
        fake.own["contacts"] += [(f"a_long_name_of_a_property_{n}", "string", "text", "x") for n in range(40)]
        fake.put("contacts", "1003", START, a_long_name_of_a_property_7="seven")
        copy = Copy(fake, tmp_path)
        assert copy.sync().status is Status.COMPLETED
        assert copy.rows(HubSpotContact)["1003"]["a_long_name_of_a_property_7"] == "seven"
        assert differences(copy) == []


def test_so_many_properties_that_no_address_is_tried(
    tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubspot, "LONGEST_LIST", 100)
    copy = Copy(fake, tmp_path)
    assert copy.sync().status is Status.COMPLETED
    assert differences(copy) == []
    assert "POST /crm/v3/objects/contacts/batch/read" in copy.requests()


# -- faults ----------------------------------------------------------------------------------------

FAULTS: list[dict[str, Any]] = [
    {"status": 502, "headers": {"Retry-After": "0.02"}},  # a broken gateway
    {"status": 500},  # an outage
    {"status": 429, "headers": {"Retry-After": "0.02"}},  # too many requests
    {"status": 423, "headers": {"Retry-After": "0.02"}},  # a locked record
    {"truncate": 10},
    {"drop": True},
    {"garbage": True},  # a web page
    {"dribble": 0.04},  # drop by drop, and whole
]
PAGES = (  # the first that fits has the request
    *(rf"GET /crm/v3/objects/{kind}\?.*archived" for kind in KINDS),
    *(f"GET /crm/v3/objects/{kind}" for kind in KINDS),
    *(f"POST /crm/v3/objects/{kind}/search" for kind in KINDS),
    "GET /crm/v3/owners/",
    "GET /crm/v3/properties/deals",
    "GET /crm/v3/pipelines/deals",
    "POST /crm/v4/associations/contacts",
)


def test_every_fault_of_every_page_is_retried(
    copy: Copy, small_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for operation in connector.operations:
        monkeypatch.setattr(operation, "retry", Retry(attempts=3 * len(FAULTS), base=0.01, cap=0.02))
    hits = [  # of the first page and the next one: each is asked for until no fault is left
        copy.fake.inject(page, skip=after, **fault) for page in PAGES for after in (0, 1) for fault in FAULTS
    ]
    assert (copy.sync().status, differences(copy)) == (Status.COMPLETED, [])
    change(copy.fake)
    assert (copy.sync(check_deletes=True).status, differences(copy)) == (Status.COMPLETED, [])
    assert not [one.match for one in hits if one.skip == 0 and not one.hits]


def test_a_scope_that_is_missing_fails_its_objects_alone_and_they_can_be_left_out(copy: Copy) -> None:
    copy.fake.forbidden = {"tickets"}
    result = copy.sync()
    assert result.status is Status.PARTIAL
    failed = {one.what.rpartition(" ")[2] for one in result.failures}
    assert failed == {"tickets", "ticket_pipelines", "ticket_stages", "associations"}
    assert all("crm.objects.tickets.read" in one.message for one in result.failures)
    assert all("max connect hubspot:NAME --update" in one.hint for one in result.failures)
    assert [one for one in differences(copy) if not one.startswith("tickets")] == []
    assert len(copy.rows(HubSpotContact)) == 25
    copy.config["objects"] = [*(kind for kind in KINDS if kind != "tickets"), "owners"]
    assert copy.sync().status is Status.COMPLETED
    assert len(copy.rows(HubSpotAssociation)) == 35


def test_an_invalid_value_costs_its_row_alone(copy: Copy) -> None:
    copy.fake.put("contacts", "1008", START, shoe_size="large")
    result = copy.sync()
    assert (result.status, result.quarantined) == (Status.PARTIAL, 1)
    assert len(copy.rows(HubSpotContact)) == 24


def test_p29_a_token_that_expires_on_any_page_is_renewed_once(
    tmp_path: Path, fake: Any, small_pages: None
) -> None:
    copy = Copy(fake, tmp_path, client_id="client")
    copy.secrets = {"refresh_token": "hubspot-refresh-fake", "client_secret": "secret"}
    for page in ("objects/contacts", "contacts/search", "associations", "owners", "archived"):
        expiry = fake.inject(
            page, call=lambda _: fake.tokens.expire_all(), skip=1 if "contacts" in page else 0
        )
        before = fake.tokens.refreshes
        assert copy.sync(check_deletes=page == "associations").status is Status.COMPLETED
        assert (expiry.hits > 0, differences(copy)) == (True, [])
        assert fake.tokens.refreshes - before == 2  # at the start, where none is stored, and then
        change(fake)


def test_a_refused_token_fails_the_sync_and_keeps_the_rows(synced: Copy) -> None:
    synced.fake.tokens.static.clear()
    result = synced.sync()
    assert result.status is Status.FAILED
    assert {one.code for one in result.failures} - {"sync.blocked"} == {"upstream.credentials"}
    synced.fake.tokens.add_static(synced.fake.TOKEN)
    assert differences(synced) == []


def test_a_sync_killed_several_times_completes_with_the_same_result(copy: Copy) -> None:
    for requests in (13, 20, 12):
        copy.killed_after(requests)
    assert copy.apart().returncode == 0
    assert differences(copy) == []
    listed = Counter(one.url for one in copy.fake.log if one.path == "/crm/v3/objects/contacts")
    assert (len(listed), max(listed.values()) <= 2) == (5, True)  # only what a kill cut off comes twice
    change(copy.fake)
    copy.killed_after(30, "check-deletes")
    assert copy.apart().returncode == 0
    assert differences(copy) == []


# -- recordings and secrets --------------------------------------------------------------------------


def test_p37_p45_a_recording_has_every_request_and_replays_to_the_same_rows(
    tmp_path: Path, copy: Copy, small_pages: None
) -> None:
    copy.fake.inject("objects/deals", status=500)
    recorded = tmp_path / "sync.jsonl"
    assert copy.sync(Recording(recorded)).status is Status.COMPLETED
    assert len(list(attempts_in(recorded, []))) == len(copy.fake.log)
    (tmp_path / "again").mkdir()
    again = Copy(copy.fake, tmp_path / "again")
    copy.requests()
    assert again.sync(Replay(recorded)).status is Status.COMPLETED
    assert copy.requests() == []
    for entity in connector.schema.entities.values():
        assert again.rows(entity) == copy.rows(entity), entity


def test_p41_a_token_is_in_no_file_that_a_sync_with_errors_leaves(
    tmp_path: Path, copy: Copy, small_pages: None, caplog: pytest.LogCaptureFixture
) -> None:
    token = f"pat-na1-{secrets.token_hex(16)}"
    copy.fake.tokens.add_static(token)
    copy.secrets = {"token": token}
    caplog.set_level(logging.DEBUG)
    echo = {"message": f"what of {token}?", "category": "MISSING_SCOPES"}
    copy.fake.inject("objects/deals", status=500, body=echo, times=2)
    copy.fake.inject("objects/tickets", status=403, body=echo, times=None)
    result = copy.sync(Recording(tmp_path / "all.jsonl"))
    assert result.status is Status.PARTIAL
    assert token not in repr(result)
    assert token not in caplog.text
    for file in tmp_path.iterdir():
        assert not file.is_file() or token.encode() not in file.read_bytes(), file.name


def test_p19_requests_go_to_the_configured_host_alone(copy: Copy, tmp_path: Path) -> None:
    copy.fake.inject("objects/contacts", status=302, headers={"Location": "http://127.0.0.1:9/x"}, times=None)
    result = copy.sync()
    assert result.status is Status.PARTIAL
    assert [
        "127.0.0.1:9" in one.message for one in result.failures if "load collection contacts" in one.what
    ] == [True]
    assert all(one.path.startswith("/crm/") for one in copy.fake.log)


def test_p40_an_operation_that_is_not_declared_is_refused_before_its_call(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = [one for one in connector.operations if one.name != "hubspot:owner:list"]
    monkeypatch.setattr("tests.hubspot_fake.connector", replace(connector, operations=fewer))
    result = copy.sync()
    (failure,) = result.failures
    assert "does not declare the operation hubspot:owner:list" in failure.message
    assert not [one for one in copy.requests() if "owners" in one]


def test_searches_and_other_requests_have_limits_of_their_own() -> None:
    limits = {one.name: one.limit.name for one in connector.operations}
    assert limits.pop("hubspot:object:search") == "hubspot:search"
    assert {limits[name] for name in limits if name.startswith("hubspot:")} >= {"hubspot:api"}
    search = next(one.limit for one in connector.operations if one.name == "hubspot:object:search")
    assert search.calls is not None
    assert search.calls / search.per <= 5


# -- connecting ----------------------------------------------------------------------------------


class Person(Prompter):
    """Types prepared lines, chooses prepared options, and records questions and output."""

    def __init__(self, *lines: str, chosen: Sequence[str] = ()) -> None:
        self.lines, self.chosen = list(lines), chosen
        self.asked, self.shown, self.offered = list[str](), list[str](), list[str]()

    async def text(self, prompt: str, default: str | None) -> str:
        return await self.secret(prompt)

    async def secret(self, prompt: str) -> str:
        self.asked.append(prompt)
        return self.lines.pop(0)

    async def choose(self, prompt: str, options: Sequence[tuple[str, str]], several: bool) -> Sequence[str]:
        self.offered = [label for _, label in options]
        return self.chosen

    async def confirm(self, prompt: str) -> bool:
        return True

    def say(self, line: str) -> None:
        self.shown.append(line)


def connect(fake: Any, person: Person | None, /, **given: str) -> OnboardingResult:
    """The result of connecting with these credentials."""
    return asyncio.run(onboard(connector, person, {"base_url": fake.url}, given))


def test_connecting_checks_the_token_and_offers_what_it_can_read(fake: Any) -> None:
    fake.forbidden = {"tickets"}
    person = Person(TOKEN, chosen=["contacts", "deals"])
    found = connect(fake, person)
    assert (len(person.asked), found.secrets) == (1, {"token": TOKEN})
    assert found.config["objects"] == ["contacts", "deals"]
    assert "tickets (the scope is missing)" in person.offered
    assert "not tickets: the scopes are missing" in person.shown[0]
    assert person.shown[0].endswith("; properties of its own: 6 of contacts, 1 of deals")


def test_a_refused_token_is_asked_for_again(fake: Any) -> None:
    person = Person("pat-wrong", TOKEN)
    assert connect(fake, person).secrets == {"token": TOKEN}
    assert "the credential was refused" in person.shown[0]
    assert "pat-wrong" not in "".join(person.shown)


def test_a_script_connects_all_that_the_token_can_read(fake: Any) -> None:
    assert connect(fake, None, token=TOKEN).config["objects"] == []
    fake.forbidden = {"tickets", "notes"}
    chosen = connect(fake, None, token=TOKEN).config["objects"]
    assert {*KINDS, "owners"} - set(chosen) == {"tickets", "notes"}
    with pytest.raises(BadCredentials):
        connect(fake, None, token="pat-wrong")


def test_a_token_that_can_read_nothing_is_refused_with_the_scopes_to_grant(fake: Any) -> None:
    fake.forbidden = {*KINDS, "owners"}
    with pytest.raises(PermissionDenied, match="none of its objects") as caught:
        connect(fake, None, token=TOKEN)
    assert "crm.objects.contacts.read" in caught.value.hint


def test_without_a_token_connecting_uses_oauth(fake: Any) -> None:
    person = Person("", "client", "secret")
    found = connect(fake, person, refresh_token="hubspot-refresh-fake")  # otherwise a browser opens
    assert found.config["client_id"] == "client"
    assert found.secrets.keys() >= {"access_token", "refresh_token", "client_secret", "expires_at"}


def test_health_says_what_the_token_can_read(copy: Copy) -> None:
    line = copy.using(lambda runtime: runtime.health())
    assert line.startswith("hubspot: the credential reads contacts, companies, deals, tickets")


def test_a_configuration_that_names_no_object_is_refused() -> None:
    with pytest.raises(InvalidAnswers, match="some of contacts"):
        HubSpotConfig(objects=["contact"])
    with pytest.raises(InvalidAnswers, match=r"OBJECT\.PROPERTY"):
        HubSpotConfig(properties=["hs_forecast_amount"])


# -- limits ------------------------------------------------------------------------------------------


def most_within(seconds: float, times: list[float]) -> int:
    """How many of some times lie within so many seconds, where these are the most."""
    return max((sum(at <= one < at + seconds for one in times) for at in times), default=0)


def test_a_small_account_is_never_asked_too_often(tmp_path: Path) -> None:
    """What counts is when calls are sent: how long each is on its way is the network's affair."""
    with account() as fake:
        copy = Copy(fake, tmp_path)
        for _ in range(2):
            copy.sent = []
            assert copy.sync().status is Status.COMPLETED
            searches = [at for at, name in copy.sent if name == "hubspot:object:search"]
            assert most_within(1.0, searches) <= 5
            assert most_within(10.0, [at for at, _ in copy.sent]) <= 100
        assert len(searches) > 5
