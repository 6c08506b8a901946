"""What a loader returns is checked before anything of it is stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from max import Status, SyncResult
from max.connecting import (
    Batch,
    Entity,
    Env,
    Field,
    Loader,
    Page,
    PageRequest,
    Ref,
    Schema,
    Step,
    Store,
    SyncPlan,
)
from tests.sample import SampleRoot, Thing, sample
from tests.scripted import synced

GOOD = Page([Thing("1", title="kept")], next="p1")


class Stranger(Entity):
    """An entity of another schema."""

    title: Field[str] = Field()


def synced_with_second_page(path: Path, page: Any) -> tuple[SyncResult, list[str]]:
    """A sync whose second page is this one, and the ids that are listed then."""

    @Loader.collection(SampleRoot.things, brings=[Thing.title])
    async def list_things(parent: Ref[SampleRoot], request: PageRequest, env: Env[Any]) -> Page[Thing]:
        return GOOD if request.cursor is None else cast("Page[Thing]", page)

    return synced(sample(loaders=[list_things]), path / "data.db", SampleRoot.things)


def generated() -> Iterator[Thing]:
    """A thing, in a generator."""
    yield Thing("2", title="x")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"next": 2}, "a text that is not empty, or None on the last page, as Page.next, got 2"),
        ({"next": ""}, "as Page.next, got ''"),
        ({"next": "\ud800"}, "as Page.next, got '\\ud800'"),
        ({"next": {"page": 2}}, "as Page.next, got dict {'page': 2}"),
        ({"items": generated()}, "a list, as Page.items, got generator <generator object"),
        ({"items": {"1": Thing("2")}}, "a list, as Page.items, got dict {'1': Thing('2')}"),
        ({"items": "things"}, "a list, as Page.items, got 'things'"),
        ({"items": None}, "a list, as Page.items, got null"),
        ({"items": [{"id": "2"}]}, "items of Thing, got dict {'id': '2'}"),
        ({"items": [SampleRoot("2")]}, "items of Thing, got SampleRoot SampleRoot('2')"),
        ({"also": Thing}, "a list of entities, as Page.also, got type"),
        ({"also": [{"id": "2"}]}, "a list of entities, as Page.also, got list [{'id': '2'}]"),
        ({"removed": ["2"]}, "a list of refs, as Page.removed, got list ['2']"),
        ({"sync_token": 7}, "a text that is not empty, or None, as Page.sync_token, got 7"),
        ({"complete_snapshot": "no"}, "True or False, as Page.complete_snapshot, got 'no'"),
        ({"total": True}, "a whole number that is not negative, or None, as Page.total, got True"),
        ({"total": -1}, "as Page.total, got -1"),
        ({"total": "2"}, "as Page.total, got '2'"),
        ({"size": 0}, "a whole number of at least 1, or None, as Page.size, got 0"),
    ],
)
def test_a_page_with_an_invalid_part_is_refused_with_loader_page_and_what_came(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    page: Page[Any] = Page([Thing("2", title="x")]).replace(**given)
    result, ids = synced_with_second_page(tmp_path, page)
    (failure,) = result.failures
    assert result.status is Status.PARTIAL
    assert failure.code == "connector.fault"
    assert failure.message.startswith("sample: loader list_things must return ")
    assert message in failure.message
    assert failure.message.endswith("; it was the page at 'p1' of SampleRoot:root")
    assert ids == ["1"]


@pytest.mark.parametrize("id", [{"id": 2}, None, "", 7, ["2"], "x" * 10_001])
def test_an_item_whose_id_identifies_nothing_is_not_stored_and_not_passed_over(
    tmp_path: Path, id: Any
) -> None:
    result, ids = synced_with_second_page(tmp_path, Page([Thing(id, title="x")]))
    assert ids == ["1"]
    assert len(result.failures) + result.quarantined == 1
    assert [one.code for one in result.failures] in ([], ["entity.invalid"])
    assert all(len(one.message) < 400 for one in result.failures)


@pytest.mark.parametrize(
    "ref",
    [
        Thing.ref({"id": "2"}),  # type: ignore[arg-type]
        Thing.ref(None),  # type: ignore[arg-type]
        Thing.ref(""),
        Thing.ref("\ud800"),
        Ref("Thing", "1"),  # type: ignore[arg-type]
        Ref(Stranger, "1"),
        Thing.ref("1").within("elsewhere"),
    ],
)
def test_a_removed_ref_that_names_no_row_of_ours_is_refused(tmp_path: Path, ref: Ref[Any]) -> None:
    result, ids = synced_with_second_page(tmp_path, Page([Thing("2", title="x")], removed=[ref]))
    (failure,) = result.failures
    assert "must return refs of the schema's entities, with ids, as Page.removed, got Ref" in failure.message
    assert ids == ["1"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Batch([Thing({"id": "1"}, title="x")]), "only the Thing that were requested, got Thing"),  # type: ignore[arg-type]
        (Batch({"1": Thing("1")}), "a list, as Batch.items, got dict"),  # type: ignore[arg-type]
        (Batch([], {"1": "gone"}), "a mapping from ids to exceptions, as Batch.failed, got dict"),  # type: ignore[dict-item]
        (Batch([], ["1"]), "a mapping from ids to exceptions, as Batch.failed, got list ['1']"),  # type: ignore[arg-type]
    ],
)
def test_a_batch_with_an_invalid_part_is_refused(tmp_path: Path, given: Any, message: str) -> None:
    @Loader.collection(SampleRoot.things)
    async def list_things(parent: Ref[SampleRoot], request: PageRequest, env: Env[Any]) -> Page[Thing]:
        return Page([Thing("1")])

    @Loader.entity_batched(Thing.title)
    async def load_titles(refs: Any, env: Env[Any]) -> Batch[Thing]:
        return cast("Batch[Thing]", given)

    async def seed(context: Any, store: Store) -> SyncPlan:
        await store.store(SampleRoot("root"))
        listed = Step.for_root(SampleRoot.ref("root")).load_collection(SampleRoot.things)
        return SyncPlan([listed, Step.for_all(Thing).load_fields(Thing.title)])

    connector = sample(
        schema=Schema([SampleRoot, Thing], roots=[SampleRoot]),
        loaders=[list_things, load_titles],
        seeder=seed,
    )
    result, _ = synced(connector, tmp_path / "data.db", SampleRoot.things)
    (failure,) = result.failures
    assert failure.code == "connector.fault"
    assert f"loader load_titles must return {message}" in failure.message
