"""Fields that an account has of its own: found when a sync begins, and fields like all others."""

from __future__ import annotations

import asyncio
import json
import keyword
import random
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.connecting import (
    AccountField,
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
    NoConfig,
    Page,
    PageRequest,
    PermissionDenied,
    Ref,
    Schema,
    SchemaContract,
    Step,
    Store,
    SyncPlan,
    Watermark,
)
from max.core import InstallationInfo, SyncOptions
from max.errors import LoaderFault, Offline, UnknownName
from max.execution import NO_OPTIONS
from max.model import account_fields
from max.model.account_fields import named_fields
from max.model.migrations import DropField, Migration
from max.model.schema_source import schema_source
from max.model.tasks import Status, SyncResult
from max.query.maintenance import invalidate, migrate
from max.query.reader import open_reader
from max.runtime import InstallationRuntime
from max.storage.sqlite import SqliteDatabase
from max.upstream.credentials import MemoryCredentials

T = TypeVar("T")


class Crm(Entity):
    """An account."""

    people: Many[Person] = Many("everyone", by=lambda: Person.crm)


class Person(Entity, title="name"):
    """A person in the account."""

    name: Field[str] = Field("the name", searchable=True)
    crm: Field[Ref[Crm]] = Field("the account")
    boss: Field[Ref[Person] | None] = Field("who leads them")
    updated_at: Field[datetime] = Field("when it last changed")


@dataclass
class Service:
    """An account as its service has it; ``broken`` is what its list of fields raises."""

    fields: list[AccountField] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    broken: Exception | None = None
    requests: list[str] = field(default_factory=list)
    found: Any = None


async def discover(service: Service) -> Found:
    if service.broken is not None:
        raise service.broken
    return {Person: service.fields} if service.found is None else service.found


@Loader.collection(
    Crm.people,
    brings=Person,
    watermark=Watermark(Person.updated_at),
)
async def people(parent: Ref[Crm], request: PageRequest, env: Env[Service]) -> Page[Person]:
    service, person = env.context, env.entity(Person)
    service.requests.append("all" if request.since is None else "changes")
    rows = [{"id": id, **row} for id, row in service.rows.items()]
    if request.since is not None:
        rows = [row for row in rows if datetime.fromisoformat(row["updated_at"]) >= request.since]
    return Page.read(person, rows, {Person.crm: parent})


async def seed(service: Service, store: Store) -> SyncPlan:
    await store.store(Crm("crm"))
    return SyncPlan([Step.for_root(Crm.ref("crm")).load_collection(Crm.people)])


def connector(service: Service, **changes: Any) -> Connector[Any, Any]:
    """The connector of a service."""

    async def initialise(config: NoConfig, credentials: CredentialProvider) -> Installation[Service]:
        return Installation(service)

    attributes: dict[str, Any] = {
        "name": "crm",
        "description": "People.",
        "schema": Schema([Crm, Person], roots=[Crm]),
        "loaders": [people],
        "seeder": seed,
        "initialise": initialise,
        "config": NoConfig,
        "discover": discover,
    }
    return Connector(**(attributes | changes))


INFO = InstallationInfo("crm", "default", "abc", {}, 0.0)
SHOES = AccountField("Shoe size", float, "Shoe size", "in European sizes")
ADA = {"name": "Ada", "Shoe size": "38.5", "updated_at": "2026-01-02T10:00:00+00:00"}
BOB = {"name": "Bob", "boss": "1", "updated_at": "2026-01-01T10:00:00+00:00"}


class Copy:
    """The data of one installation, and its syncs."""

    def __init__(self, path: Path, service: Service) -> None:
        self.path, self.service = path / "data.db", service

    def using(self, body: Callable[[InstallationRuntime], Awaitable[T]], **changes: Any) -> T:
        """What a body returns that is given a started runtime."""

        async def main() -> T:
            secrets = CredentialProvider(MemoryCredentials(), ())
            made = connector(self.service, **changes)
            runtime = InstallationRuntime(INFO, made, NoConfig(), secrets, SqliteDatabase(self.path))
            await runtime.start()
            try:
                return await body(runtime)
            finally:
                await runtime.stop()

        return asyncio.run(main())

    def sync(self, options: SyncOptions = NO_OPTIONS, **changes: Any) -> SyncResult:
        """The result of a sync in a process of its own."""

        async def body(runtime: InstallationRuntime) -> SyncResult:
            return await (await runtime.sync(options)).completion()

        return self.using(body, **changes)

    def columns(self) -> dict[str, Sequence[Any]]:
        """The rows as people see them, by column."""
        with open_reader(SqliteDatabase(self.path), INFO) as reader:
            rows = reader.search("Person", order_by="id").items
            return {
                name: [one._values.get(name, "-") for one in rows] for name in reader.entity("Person")._fields
            }

    def shown(self) -> dict[str, tuple[Json, Json]]:
        """The values of both rows in each of the account's fields, by its source."""
        with open_reader(SqliteDatabase(self.path), INFO) as reader:
            (text,) = reader._connection.execute("SELECT schema FROM _max_schema").fetchone()
            one, two = (row.to_dict() for row in reader.search("Person", order_by="id").items)
        sources = json.loads(text).get("account_fields", {}).get("Person", {})
        return {source: (one[name], two[name]) for name, (source, _, *gone) in sources.items() if not gone}

    def types(self) -> dict[str, str]:
        """What each field holds."""
        with open_reader(SqliteDatabase(self.path), INFO) as reader:
            return {name: holds.label for name, holds in reader.entity("Person").types().items()}


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path, Service([SHOES], {"1": dict(ADA), "2": dict(BOB)}))


def test_what_an_account_has_of_its_own_is_a_field_like_all_others(copy: Copy) -> None:
    assert copy.sync().status is Status.COMPLETED
    assert copy.columns()["shoe_size"] == [38.5, None]
    with open_reader(SqliteDatabase(copy.path), INFO) as reader:
        person = reader.entity("Person")
        assert person._fields["shoe_size"].description == "Shoe size: in European sizes"
        assert reader.count("Person", "shoe_size > 38") == 1
        assert reader.count("Person", "boss.shoe_size > 38") == 1


def test_a_typed_program_gets_records_of_the_class_that_it_asks_for(copy: Copy) -> None:
    copy.sync()

    async def body(runtime: InstallationRuntime) -> list[Person]:
        ada = await runtime.engine.query(Person).where("shoe_size = 38.5").all()
        bob = await runtime.engine.query(Person).where(Person.boss.eq(Person.ref("1"))).all()
        return [*ada, *bob, await runtime.engine.load(Person.ref("1"), Person.name)]

    found = copy.using(body)
    assert all(isinstance(one, Person) for one in found)
    assert [one.name for one in found] == ["Ada", "Bob", "Ada"]
    assert found[0].to_dict()["shoe_size"] == 38.5


def test_two_installations_in_one_process_have_different_fields(tmp_path: Path) -> None:
    async def fields(runtime: InstallationRuntime) -> set[str]:
        await (await runtime.sync()).completion()
        return set((await runtime.engine.query(Person).all())[0].to_dict())

    for name, more in (("a", SHOES), ("b", AccountField("Hat", str))):
        (tmp_path / name).mkdir()
        found = Copy(tmp_path / name, Service([more], {"1": dict(ADA)})).using(fields)
        assert found - {"id", "name", "crm", "boss", "updated_at"} == {more.name.casefold().replace(" ", "_")}


def test_a_new_field_is_fetched_for_all_rows_by_the_next_sync_and_only_then_again_for_what_changed(
    copy: Copy,
) -> None:
    copy.sync()
    copy.sync()
    copy.service.fields.append(AccountField("hat", str, "Hat"))
    copy.service.rows["1"]["hat"] = "bowler"
    copy.sync()
    copy.sync()
    assert copy.service.requests == ["all", "changes", "all", "changes"]
    assert copy.columns()["hat"] == ["bowler", None]
    assert copy.columns()["shoe_size"] == [38.5, None]


def test_a_new_field_of_a_running_program_is_there_after_its_next_sync(copy: Copy) -> None:
    async def body(runtime: InstallationRuntime) -> tuple[list[Any], list[Any]]:
        await (await runtime.sync()).completion()
        before = await runtime.engine.query(Person).order_by("id").all()
        copy.service.fields.append(AccountField("hat", str, "Hat"))
        copy.service.rows["2"]["hat"] = "fez"
        await (await runtime.sync()).completion()
        assert (await runtime.sync_meta.synced_at(Person.ref("2"), Person.name)) is not None
        return before, await runtime.engine.query(Person).order_by("id").all()

    before, after = copy.using(body)
    assert [one.to_dict().get("hat", "-") for one in before] == ["-", "-"]
    assert [one.to_dict()["hat"] for one in after] == [None, "fez"]


def test_a_field_that_is_gone_is_hidden_and_comes_back_with_its_values(copy: Copy) -> None:
    copy.sync()
    copy.service.fields.clear()
    assert copy.sync().status is Status.COMPLETED
    assert "shoe_size" not in copy.columns()
    copy.service.fields.append(SHOES)
    del copy.service.rows["1"]
    copy.service.rows["1"] = dict(ADA)
    copy.sync()
    assert copy.columns()["shoe_size"] == [38.5, None]


def test_another_field_does_not_get_the_name_and_the_values_of_one_that_is_gone(copy: Copy) -> None:
    copy.sync()
    copy.service.fields[:] = []
    copy.sync()
    copy.service.fields[:] = [AccountField("shoe-size", float)]
    copy.service.rows["2"]["shoe-size"] = "11"
    copy.sync()
    assert copy.columns()["shoe_size_2"] == [None, 11.0]
    copy.service.fields[:] = [SHOES]
    copy.sync()
    columns = copy.columns()
    assert columns["shoe_size"] == [38.5, None]
    assert "shoe_size_2" not in columns


def test_a_field_that_is_gone_may_come_back_with_another_type(copy: Copy) -> None:
    copy.sync()
    copy.service.fields[:] = []
    copy.sync()
    copy.service.fields[:] = [AccountField("Shoe size", str)]
    copy.service.rows["1"]["Shoe size"] = "large"
    assert copy.sync().status is Status.COMPLETED
    assert copy.columns()["shoe_size"] == ["large", None]


def test_a_bug_of_discover_is_recorded_like_a_sync_that_failed(copy: Copy) -> None:
    copy.service.broken = ValueError("no such key")
    with pytest.raises(LoaderFault):
        copy.sync()
    with open_reader(SqliteDatabase(copy.path), INFO) as reader:
        (run,) = reader.runs()
        assert (run.status, run.failed) == (Status.FAILED, 1)


@pytest.mark.parametrize(
    ("then", "value", "expected", "label"),
    [
        (AccountField("Shoe size", str), "large", "large", "text"),
        (AccountField("Shoe size", bool), "true", True, "boolean"),
        (AccountField("Shoe size", date), "2026-02-03", date(2026, 2, 3), "date"),
    ],
    ids=["text", "bool", "date"],
)
def test_a_field_of_another_type_is_fetched_again_and_the_sync_goes_on(
    copy: Copy, then: AccountField, value: str, expected: object, label: str
) -> None:
    copy.sync()
    copy.service.fields[:] = [then]
    copy.service.rows["1"]["Shoe size"] = value
    result = copy.sync()
    assert result.status is Status.COMPLETED
    assert copy.columns()["shoe_size"] == [expected, None]
    assert copy.types()["shoe_size"] == label
    assert copy.service.requests == ["all", "all"]


def test_what_cannot_be_discovered_leaves_the_fields_as_they_were_and_the_sync_says_so(copy: Copy) -> None:
    copy.sync()
    copy.service.broken = Offline("crm: no network")
    copy.service.rows["1"] |= {"Shoe size": "39", "updated_at": "2026-01-03T10:00:00+00:00"}
    result = copy.sync()
    assert result.status is Status.COMPLETED
    assert result.notes == ("the account's own fields stay as they were known: crm: no network",)
    assert copy.columns()["shoe_size"] == [39.0, None]


def test_an_entity_whose_fields_are_forbidden_keeps_its_own_and_the_sync_says_so(copy: Copy) -> None:
    copy.sync()
    copy.service.found = {Person: PermissionDenied("crm: the scope schemas.read is missing")}
    result = copy.sync()
    words = "Person: its own fields of this account could not be read: crm: the scope schemas.read is missing"
    assert result.notes == (words,)
    assert "shoe_size" in copy.columns()
    copy.service.found = {}
    assert copy.sync().notes == ()
    assert "shoe_size" in copy.columns()


def test_a_bug_of_discover_is_an_error_that_names_it(copy: Copy) -> None:
    copy.service.broken = ValueError("no such key")
    with pytest.raises(
        Exception, match=r"crm: discover raised ValueError: no such key \(test_account_fields"
    ):
        copy.sync()


@pytest.mark.parametrize(
    "found",
    [
        {Crm: "text"},
        {Entity: []},
        [SHOES],
        {Person: [Person.name]},
        {Person: [AccountField("x", "str")]},
        {Person: [AccountField("x", Ref[Crm])]},
    ],
    ids=str,
)
def test_what_discover_returns_is_checked(copy: Copy, found: object) -> None:
    copy.service.found = found
    with pytest.raises(LoaderFault, match="discover must return"):
        copy.sync()


def test_rows_that_were_read_without_the_fields_of_the_account_are_a_bug_that_is_named(copy: Copy) -> None:
    @Loader.collection(Crm.people, brings=Person)
    async def forgetful(parent: Ref[Crm], request: PageRequest, env: Env[Service]) -> Page[Person]:
        return Page.read(Person, [{"id": "1", **ADA}], {Person.crm: parent})

    result = copy.sync(loaders=[forgetful])
    assert "rows that were read as env.entity(Person)" in result.failures[0].message


def test_records_that_a_loader_makes_with_the_class_of_the_connector_are_stored(copy: Copy) -> None:
    @Loader.collection(Crm.people, brings=Person)
    async def by_hand(parent: Ref[Crm], request: PageRequest, env: Env[Service]) -> Page[Person]:
        return Page([Person("1", name="Eve", crm=parent, boss=Person.ref("1"))], removed=[Person.ref("2")])

    copy.sync()
    assert copy.sync(loaders=[by_hand]).status is Status.COMPLETED
    assert copy.columns()["id"] == ["1"]
    assert copy.columns()["name"] == ["Eve"]
    assert copy.columns()["shoe_size"] == [38.5]


def test_records_that_a_loader_makes_with_the_class_of_the_installation_are_stored(copy: Copy) -> None:
    @Loader.collection(Crm.people, brings=Person)
    async def by_hand(parent: Ref[Crm], request: PageRequest, env: Env[Service]) -> Page[Person]:
        person = env.entity(Person)
        return Page([person("1", name="Eve", crm=parent, boss=person.ref("2")), person("2", name="Bob")])

    assert copy.sync(loaders=[by_hand]).status is Status.COMPLETED
    assert [str(one) for one in copy.columns()["boss"]] == ["Person:2", "-"]


def test_a_field_of_the_connector_takes_the_name_of_one_of_the_account(copy: Copy) -> None:
    copy.sync()
    data = connector(copy.service).schema.to_json()
    size = {"name": "shoe_size", "kind": "text", "optional": True, "target": None, "description": "EU or US"}
    data["entities"][1]["fields"].append({**size, "searchable": False, "brief": False})
    newer = Schema.from_json(data)
    person: Any = newer.entities["Person"]

    async def listing(parent: Ref[Any], request: PageRequest, env: Env[Service]) -> Page[Any]:
        rows = [{"id": id, "shoe_size": f"EU {id}", **row} for id, row in copy.service.rows.items()]
        return Page.read(env.entity(person), rows, {person.crm: parent})

    loader: Any = Loader.collection(cast(Any, newer.entities["Crm"]).people, brings=person)(listing)
    copy.service.found = {person: copy.service.fields}
    assert copy.sync(schema=newer, loaders=[loader]).status is Status.COMPLETED
    assert copy.types()["shoe_size"] == "text"
    assert copy.columns()["shoe_size"] == ["EU 1", "EU 2"]
    assert copy.columns()["shoe_size_2"] == [38.5, None]


def test_what_a_user_built_upon_a_field_keeps_its_type_and_the_sync_goes_on(copy: Copy) -> None:
    copy.sync()
    with sqlite3.connect(copy.path) as user:
        user.execute("ALTER TABLE _crm_person ADD COLUMN doubled AS (shoe_size * 2)")
    user.close()
    copy.service.fields[:] = [AccountField("Shoe size", bool)]
    result = copy.sync()
    assert "stay as they were known" in result.notes[0]
    assert copy.columns()["shoe_size"] == [38.5, None]


def test_commands_know_the_fields_of_the_account(copy: Copy) -> None:
    copy.sync()
    with open_reader(SqliteDatabase(copy.path), INFO) as reader:
        assert reader.sql("SELECT shoe_size FROM crm_person ORDER BY id").rows == [(38.5,), (None,)]
        assert "shoe_size: Field[float | None]" in schema_source(reader.schema)
    made = connector(copy.service)
    found = invalidate(
        SqliteDatabase(copy.path), INFO, ["Person.shoe_size"], resolver=made.resolver, now=time.time()
    )
    assert dict(found.listings) == {"Crm.people": 1}
    assert copy.sync(options=SyncOptions(only=("Person.shoe_size",))).status is Status.COMPLETED
    with pytest.raises(UnknownName, match="hat_size"):
        copy.sync(options=SyncOptions(only=("Person.hat_size",)))


def test_a_frozen_entity_takes_no_field_and_the_sync_goes_on(copy: Copy) -> None:
    copy.sync()
    copy.service.fields.append(AccountField("hat", str))
    result = copy.sync(contracts={Person: SchemaContract.FREEZE})
    assert result.status is Status.COMPLETED
    assert "stay as they were known" in result.notes[0]
    assert "hat" not in copy.columns()


def test_neither_a_diff_nor_a_migration_takes_the_fields_of_an_account_away(copy: Copy) -> None:
    copy.sync()
    made = connector(copy.service, migrations=[Migration("no boss", DropField("Person", "shoe"))])
    for dry in (True, False):
        found = migrate(SqliteDatabase(copy.path), INFO, made.resolver, made.policy, dry_run=dry)
        assert [change.kind for change in found.changes] == ["nothing"]
    assert "shoe_size" in copy.columns()


def test_a_connector_that_looks_for_no_fields_any_more_hides_them(copy: Copy) -> None:
    copy.sync()
    copy.using(lambda runtime: runtime.freshness(), discover=None)
    assert "shoe_size" not in copy.columns()


def test_an_interrupted_sync_goes_on_with_the_fields_that_it_began_with(copy: Copy) -> None:
    async def begin(runtime: InstallationRuntime) -> None:
        handle = await runtime.sync()
        await handle.pause()

    copy.using(begin)
    copy.service.broken = Offline("crm: no network")
    assert copy.sync().status is Status.COMPLETED
    assert copy.columns()["shoe_size"] == [38.5, None]


def test_fields_beyond_what_a_table_can_hold_are_left_out_and_counted(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_fields, "MOST_COLUMNS", 30)
    copy.service.fields[:] = [AccountField(f"p{n}", str) for n in range(1_025)]
    result = copy.sync()
    assert result.status is Status.COMPLETED
    assert result.notes == ("Person: 1,005 of the account's 1,025 fields are left out",)
    assert [name for name in copy.columns() if name.startswith("p")] == [f"p{n}" for n in range(20)]


NAMES: Mapping[str, str] = {
    "Favourite colour": "favourite_colour",
    "Größe": "grosse",
    "name": "name_2",
    "NAME ": "name_3",
    "id": "id_",
    "ref": "ref_",
    "class": "class_",
    "and": "and_",
    "_x": "x",
    "2nd": "field_2nd",
    "日本": "field",
    "中国": "field_2",
    "a.b": "a_b",
    "a b": "a_b_2",
    "x" * 80: "x" * 60,
}


def test_every_name_becomes_a_valid_one_of_its_own() -> None:
    found = named_fields(Person, [AccountField(name, str) for name in NAMES], {})
    assert {one.source: name for name, one in found.items()} == NAMES


def test_a_field_keeps_its_name_whatever_comes_and_goes_beside_it() -> None:
    both = [AccountField("a b", str), AccountField("a.b", str)]
    first = named_fields(Person, both, {})
    assert list(first) == ["a_b", "a_b_2"]
    assert list(named_fields(Person, both[1:], first)) == ["a_b_2"]
    assert {n: one.source for n, one in named_fields(Person, both[::-1], first).items()} == {
        "a_b_2": "a.b",
        "a_b": "a b",
    }


@given(st.lists(st.text(min_size=1, max_size=80), unique=True, max_size=30), st.data())
def test_any_names_become_different_ones_that_commands_and_programs_can_use(
    texts: list[str], data: st.DataObject
) -> None:
    found = named_fields(Person, [AccountField(text, str) for text in texts], {})
    assert [one.source for one in found.values()] == texts
    assert len({name.casefold() for name in [*found, *Person._fields]}) == len(found) + len(Person._fields)
    for name in found:
        assert name.isidentifier()
        assert name.isascii()
        assert not keyword.iskeyword(name)
        assert not hasattr(Person, name)
        assert len(name) <= 70
    some = data.draw(st.lists(st.sampled_from(texts), unique=True)) if texts else []
    again = named_fields(Person, [AccountField(text, str) for text in some], found)
    assert {one.source: name for name, one in again.items()}.items() <= {
        one.source: name for name, one in found.items()
    }.items()


def test_the_stored_schema_says_where_each_of_them_comes_from(copy: Copy) -> None:
    copy.sync()
    with open_reader(SqliteDatabase(copy.path), INFO) as reader:
        (text,) = reader._connection.execute("SELECT schema FROM _max_schema").fetchone()
    assert json.loads(text)["account_fields"] == {"Person": {"shoe_size": ["Shoe size", True]}}


# -- members that come inline ------------------------------------------------------------------


class Office(Entity):
    """An account."""

    workers: Many[Worker] = Many("everyone")


class Badge(Entity):
    """A mark of workers."""

    word: Field[str] = Field("its word")


class Worker(Entity, title="name"):
    """A person with marks."""

    name: Field[str] = Field("the name")
    badges: Many[Badge] = Many("their marks", inline="badges")


@pytest.mark.parametrize("by_hand", [False, True], ids=["read", "made by hand"])
def test_members_that_come_inline_are_those_of_the_installation(copy: Copy, by_hand: bool) -> None:
    @Loader.collection(Office.workers, brings=[Worker, Badge])
    async def workers(parent: Ref[Office], request: PageRequest, env: Env[Service]) -> Page[Worker]:
        if by_hand:
            return Page(
                [Worker("1", name="Ada", badges=[Badge("u", word="late"), cast(Any, Badge.ref("v"))])]
            )
        rows = [{"id": "1", "name": "Ada", "hat": "fez", "badges": [{"id": "u", "word": "late"}]}]
        return Page.read(env.entity(Worker), rows)

    async def begin(service: Service, store: Store) -> SyncPlan:
        await store.store(Office("office"))
        return SyncPlan([Step.for_root(Office.ref("office")).load_collection(Office.workers)])

    copy.service.found = {Worker: [AccountField("hat", str)]}
    schema = Schema([Office, Worker, Badge], roots=[Office])
    for _ in range(2):
        result = copy.sync(schema=schema, loaders=[workers], seeder=begin)
        assert (result.status, result.quarantined) == (Status.COMPLETED, 0)
    with open_reader(SqliteDatabase(copy.path), INFO) as reader:
        assert reader.count("Worker", "badges HAS (word = late)") == 1
        assert reader.count("Badge") == 1 + by_hand
        assert reader.get("Worker", "1").to_dict().get("hat") == (None if by_hand else "fez")


# -- any fields in any order ---------------------------------------------------------------------

TYPES: Mapping[Any, Sequence[Json]] = {  # of the account's fields, with values that each can have
    str: ["", "x", "null"],
    float: [1, 2.5, "-3", None],
    bool: [True, "false", None],
    date: ["2026-01-31", None],
    datetime: ["2026-01-31T10:00:00Z", None],
    list[str]: [["a", "b"], [], None],
}
UPSTREAM = ("Name", "names", "a.b", "a b", "A-B", "ID", "über", "title", "x" * 70)
accounts = st.dictionaries(st.sampled_from(UPSTREAM), st.sampled_from(list(TYPES)), max_size=6)


def meaning(kind: Any, value: Any) -> Json:
    """A value as the copy's JSON has it."""
    if value is None or kind not in (float, bool):
        return value
    return float(value) if kind is float else value in (True, "true")


@settings(max_examples=10, deadline=None)
@given(st.lists(accounts, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_whatever_comes_goes_and_changes_its_type_the_copy_has_what_the_account_has(
    history: list[dict[str, Any]], chance: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder), Service())
        for account in history:
            row = {name: chance.choice(TYPES[kind]) for name, kind in account.items()}
            copy.service.fields[:] = [AccountField(name, kind) for name, kind in account.items()]
            copy.service.rows = {"1": {**BOB, **row, "boss": None}, "2": dict(BOB)}
            result = copy.sync(SyncOptions(full=True))
            assert (result.status, result.notes) == (Status.COMPLETED, ())
            shown = {name: (meaning(kind, row[name]), None) for name, kind in account.items()}
            assert copy.shown() == shown
