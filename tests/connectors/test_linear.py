"""The Linear connector without Linear: from recordings, and from the fake if it is available."""

from __future__ import annotations

import html
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from max_connectors.linear import (
    BROWSER,
    FEW,
    PAGE,
    SOURCES,
    LinearAttachment,
    LinearComment,
    LinearConfig,
    LinearDocument,
    LinearInitiative,
    LinearIssue,
    LinearLabel,
    LinearOrganization,
    LinearProject,
    LinearProjectStatus,
    LinearTeam,
    LinearTeamMembership,
    LinearUser,
    PageQuery,
    camel,
    code_of,
    connector,
    unescaped,
)

from max import Status
from max.connecting import InvalidAnswers, PageRequest, Ref, SignIn, UpstreamChanged
from max.model.entities import values_of
from max.model.mismatches import check_entity
from max.upstream.replay import Replay
from tests.linear_fake import Copy, first_part, issue, needs_fake, second_part, uid, workspace
from tests.record_linear import COMMENTS, FIRST, ISSUES, SECOND

BY_NAME = {source.name: source for source in SOURCES}


# -- one workspace in two syncs, from recordings and from the fake --------------------------------


@pytest.fixture(params=["recording", pytest.param("fake", marks=needs_fake)])
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Copy]:
    """An installation before its first sync, of a recording or of the fake."""
    if request.param == "recording":
        yield Copy(tmp_path)
        return
    with workspace(ISSUES, COMMENTS) as fake:
        yield Copy(tmp_path, fake)


def first(copy: Copy) -> Copy:
    """The installation after its first sync."""
    if copy.fake is None:
        copy.recording = partial(Replay, FIRST)
    assert first_part(copy).status is Status.COMPLETED
    return copy


def second(copy: Copy) -> Copy:
    """The installation after its second sync."""
    first(copy)
    if copy.fake is None:
        copy.recording = partial(Replay, SECOND)
    result = second_part(copy)
    assert (result.status, result.removed) == (Status.COMPLETED, 1)
    return copy


def test_the_first_sync_copies_everything(copy: Copy) -> None:
    first(copy)
    assert {source.name: len(copy.rows(source.entity)) for source in SOURCES} == {
        "teams": 2,
        "users": 4,
        "team_memberships": 2,
        "workflow_states": 10,
        "labels": 3,
        "cycles": 1,
        "project_statuses": 1,
        "project_labels": 1,
        "projects": 2,
        "project_milestones": 1,
        "project_updates": 1,
        "initiatives": 2,
        "initiative_projects": 1,
        "issues": ISSUES,
        "issue_relations": 1,
        "comments": ISSUES * COMMENTS + 5,
        "attachments": 1,
        "documents": 1,
    }


def test_an_issue_has_its_fields_refs_and_labels(copy: Copy) -> None:
    row = first(copy).rows(LinearIssue)[issue(0)]
    assert (row["identifier"], row["number"], row["estimate"]) == ("ENG-1", 1, 3.0)
    assert (row["team"], row["assignee"]) == (
        LinearTeam.ref(uid("team", "ENG")),
        LinearUser.ref(uid("user", 0)),
    )
    assert (row["parent"], row["cycle"]) == (LinearIssue.ref(issue(1)), None)
    assert row["project"] == LinearProject.ref(uid("project", 0))
    assert row["label_ids"] == [uid("label", "bug")]
    assert row["created_at"] == datetime(2025, 1, 1, tzinfo=UTC)
    assert (row["trashed"], row["archived_at"]) == (False, None)


def test_a_comment_has_its_subject_and_author(copy: Copy) -> None:
    rows = first(copy).rows(LinearComment)
    about = {name: rows[uid("Comment", name)] for name in ("project", "update", "document", "bot", "outside")}
    assert about["project"]["project"] == LinearProject.ref(uid("project", 0))
    assert about["document"]["document"] == LinearDocument.ref(uid("Document", "spec"))
    assert about["document"]["issue"] is None
    assert (about["bot"]["bot"], about["bot"]["user"]) == ("Q&A", None)
    assert about["outside"]["external_author"] == "Eve <3"
    assert about["outside"]["parent"] == LinearComment.ref(uid("comment", 0, 0))


def test_a_project_has_its_status_teams_and_dates(copy: Copy) -> None:
    rows = first(copy).rows(LinearProject)
    row = rows[uid("project", 0)]
    assert row["status"] == LinearProjectStatus.ref(uid("ProjectStatus", "going"))
    assert sorted(row["team_ids"]) == sorted([uid("team", "ENG"), uid("team", "OPS")])
    assert (row["target_date"], row["label_ids"]) == (date(2025, 6, 30), [uid("ProjectLabel", "big")])
    assert rows[uid("Project", "bin")]["trashed"] is True


def test_names_are_stored_unescaped(copy: Copy) -> None:
    first(copy)
    assert copy.rows(LinearTeam)[uid("team", "OPS")]["name"] == "Research & Development"
    assert copy.rows(LinearProjectStatus)[uid("ProjectStatus", "going")]["name"] == "Going > well"
    (workspace,) = copy.rows(LinearOrganization).values()
    assert (workspace["name"], workspace["url_key"], workspace["user_count"]) == ("Acme", "acme", 4)


def test_initiatives_memberships_and_attachments_are_complete(copy: Copy) -> None:
    first(copy)
    assert copy.rows(LinearInitiative)[uid("Initiative", "more")]["parent"] == LinearInitiative.ref(
        uid("Initiative", "grow")
    )
    assert copy.rows(LinearTeamMembership)[uid("TeamMembership", "OPS")]["owner"] is True
    assert copy.rows(LinearAttachment)[uid("Attachment", "pr")]["metadata"] == {"number": 7, "labels": ["a"]}


def test_the_second_sync_brings_changes_and_removals(copy: Copy) -> None:
    issues = second(copy).rows(LinearIssue)
    moved, archived, binned = issues[issue(3)], issues[issue(4)], issues[issue(5)]
    assert (moved["title"], moved["team"], moved["label_ids"]) == (
        "Better",
        LinearTeam.ref(uid("team", "ENG")),
        [],
    )
    assert archived["archived_at"] is not None
    assert (binned["trashed"], len(issues)) == (True, ISSUES)
    assert copy.rows(LinearUser)[uid("user", 3)]["active"] is False
    assert copy.rows(LinearProject)[uid("project", 0)]["name"] == "Launch & learn"
    assert uid("comment", 2, 0) not in copy.rows(LinearComment)
    assert copy.rows(LinearComment)[uid("c", "new")]["issue"] == LinearIssue.ref(issue(3))


@needs_fake
def test_p45_a_recorded_sync_replays_to_an_equal_database(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    with workspace(ISSUES, COMMENTS) as fake:
        live = second(Copy(tmp_path / "live", fake))
    played = second(Copy(tmp_path))
    for source in SOURCES:
        assert played.rows(source.entity) == live.rows(source.entity), source.name


# -- queries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_every_listing_includes_archived_rows_and_the_workspace(source: Any) -> None:
    for wanted in (
        PageQuery(PAGE),
        PageQuery(PAGE, "c"),
        PageQuery(FEW, since="2025-01-01"),
        PageQuery(PAGE, ids_only=True),
    ):
        text = source.query(wanted)
        assert "includeArchived: true" in text
        assert "organization { id urlKey }" in text
        assert text.count("{") == text.count("}")


def test_changes_are_sorted_by_update_time_and_full_listings_by_creation() -> None:
    issues = BY_NAME["issues"]
    assert "filter: {updatedAt: {gte: $since}}" in issues.query(PageQuery(FEW, since="2025-01-01"))
    assert "newest: issues(first: 1" in issues.query(PageQuery(PAGE))
    assert "orderBy" not in issues.query(PageQuery(PAGE, "cursor"))
    assert "orderBy" not in issues.query(PageQuery(PAGE, ids_only=True))


def test_the_first_page_of_changes_is_small_and_the_next_ones_are_large() -> None:
    since = datetime(2025, 1, 1, tzinfo=UTC)
    source = BY_NAME["issues"]
    assert source.page_query(PageRequest(since=since)) == PageQuery(
        FEW, since="2025-01-01T00:00:00.000+00:00"
    )
    assert source.page_query(PageRequest("c", since=since)).first == PAGE
    assert source.page_query(PageRequest()).first == PAGE
    assert BY_NAME["issue_relations"].page_query(PageRequest(since=since)).first == PAGE


def test_disabled_users_are_included() -> None:
    assert "includeDisabled: true" in BY_NAME["users"].query(PageQuery(PAGE))


# -- responses -------------------------------------------------------------------------------------


def label(**changes: Any) -> dict[str, Any]:
    """A complete row of a label."""
    names = ["id", *LinearLabel.types()]
    row: dict[str, Any] = dict.fromkeys(map(camel, names)) | {"id": "l", "name": "bug", "isGroup": False}
    return row | {"updatedAt": "2025-01-01T00:00:00.000Z"} | changes


def page(*rows: dict[str, Any], next: str | None = None, **more: Any) -> dict[str, Any]:
    """A response with some labels."""
    info = {"hasNextPage": next is not None, "endCursor": next}
    return {"issueLabels": {"nodes": list(rows), "pageInfo": info}, **more}


def test_the_newest_row_comes_once_with_the_first_page() -> None:
    old, new = label(id="old"), label(id="new", updatedAt="2026-01-01T00:00:00.000Z")
    answer = page(old, newest={"nodes": [new]})
    assert [one.id for one in BY_NAME["labels"].page(answer, PageQuery(PAGE)).items] == ["new", "old"]
    answer = page(old, new, newest={"nodes": [new]})
    assert [one.id for one in BY_NAME["labels"].page(answer, PageQuery(PAGE)).items] == ["old", "new"]


def test_a_page_of_ids_has_no_other_field() -> None:
    items = BY_NAME["labels"].page(page({"id": "l"}, next="c"), PageQuery(PAGE, ids_only=True)).items
    assert [values_of(one) for one in items] == [{"id": "l"}]


def test_an_empty_id_is_no_ref() -> None:
    (item,) = BY_NAME["labels"].page(page(label(team={"id": ""}, parent={"id": "p"})), PageQuery(PAGE)).items
    assert values_of(item)["team"] is None
    assert values_of(item)["parent"] == Ref(LinearLabel, "p")


@pytest.mark.parametrize("answer", [{}, {"issueLabels": None}])
def test_an_incomplete_response_raises_upstream_changed(answer: dict[str, Any]) -> None:
    with pytest.raises(UpstreamChanged):
        BY_NAME["labels"].page(answer, PageQuery(PAGE))


@pytest.mark.parametrize(("row", "wrong"), [({"id": "l"}, "name"), (label(team=7.5), "team")])
def test_a_row_without_an_expected_value_is_invalid_by_itself(row: dict[str, Any], wrong: str) -> None:
    (item,) = BY_NAME["labels"].page(page(row), PageQuery(PAGE)).items
    assert f"LinearLabel:l.{wrong}" in [one.path for one in check_entity(item)]


def test_a_collection_without_a_filter_is_read_until_the_last_change() -> None:
    source = BY_NAME["issue_relations"]
    row = dict.fromkeys(map(camel, ["id", *source.entity.types()])) | {"id": "r"}
    old, new = row | {"updatedAt": "2025-01-01T00:00:00Z"}, row | {"updatedAt": "2025-03-01T00:00:00Z"}
    wanted = PageQuery(PAGE, since="2025-02-01T00:00:00.000+00:00")

    def read(wanted: PageQuery, *rows: dict[str, Any], next: str | None = None) -> tuple[str | None, bool]:
        info = {"hasNextPage": next is not None, "endCursor": next}
        read = source.page({"issueRelations": {"nodes": list(rows), "pageInfo": info}}, wanted)
        return read.next, read.complete_snapshot

    assert read(wanted, new, new, next="c") == ("c", False)
    assert read(wanted, new, old, next="c") == (None, False)
    assert read(wanted, new, old) == (None, True)
    assert read(wanted) == (None, True)
    assert read(PageQuery(PAGE, "c", since=wanted.since), new) == (None, False)


@given(st.text(max_size=20))
@settings(max_examples=40)
def test_an_escaped_name_is_unescaped(name: str) -> None:
    assert unescaped(html.escape(name)) == name


@pytest.mark.parametrize("name", ["Cats&notes", "R&D", "a &copy b", "&", None, ""])
def test_text_that_only_looks_like_an_escape_is_kept(name: str | None) -> None:
    assert unescaped(name) == name


def test_a_missing_entity_has_another_code_than_a_wrong_query() -> None:
    assert (
        code_of({"message": "Entity not found: Project", "extensions": {"code": "INPUT_ERROR"}})
        == "NOT_FOUND"
    )
    assert code_of({"message": "Argument Validation Error"}) is None


# -- the connector ---------------------------------------------------------------------------------


def test_every_entity_field_and_collection_is_described() -> None:
    for entity in connector.schema.to_json()["entities"]:
        assert entity["description"], entity["name"]
        assert [
            one["name"] for one in entity["fields"] + entity["collections"] if not one["description"]
        ] == []


def test_searchable_fields_are_declared() -> None:
    searched = {
        f"{entity['name']}.{field['name']}"
        for entity in connector.schema.to_json()["entities"]
        for field in entity["fields"]
        if field["searchable"]
    }
    assert {"LinearIssue.title", "LinearIssue.description", "LinearComment.body"} <= searched
    assert {"LinearDocument.content", "LinearProject.name", "LinearUser.email"} <= searched


def test_only_the_configured_host_is_allowed() -> None:
    assert str(connector.hosts_for(LinearConfig())) == "api.linear.app:443"
    assert str(connector.hosts_for(LinearConfig("http://127.0.0.1:1234"))) == "127.0.0.1:1234"


def test_only_collections_can_be_left_out() -> None:
    with pytest.raises(InvalidAnswers, match="isues"):
        LinearConfig(leave_out=("isues",))
    assert LinearConfig(leave_out=("issues",)).leave_out == ("issues",)


def test_without_a_key_the_browser_opens_the_login_of_linear() -> None:
    (step,) = [step for step in connector.onboarding if isinstance(step, SignIn)]
    assert step.run == BROWSER
    address = BROWSER.address("client", f"http://127.0.0.1:{BROWSER.port}/callback", "state", "verifier")
    assert address.startswith("https://linear.app/oauth/authorize?")
    assert "scope=read" in address
