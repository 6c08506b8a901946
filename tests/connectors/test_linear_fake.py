"""The Linear connector and a strict fake of Linear: after any fault, the database equals upstream."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from max_connectors import linear
from max_connectors.linear import API, SOURCES, LinearIssue, LinearProject, connector

from max import OnboardingResult, Prompter, Status, onboard
from max.connecting import BadCredentials, Json, Retry
from max.errors import InvalidAnswers
from max.upstream.recording import Recording
from tests.linear_fake import KEY, Copy, change, fake_module, issue, needs_fake, put, uid, workspace

pytestmark = needs_fake

NOTHING: Mapping[str, Any] = {}
MOST_POINTS = 10_000  # the most that one request may cost
LISTINGS = [source.connection[0].upper() + source.connection[1:] for source in SOURCES]
WHOLE = {"TeamMemberships", "ProjectStatuses", "InitiativeToProjects", "IssueRelations"}  # cannot be filtered


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for operation in connector.operations:
        monkeypatch.setattr(operation, "retry", Retry(attempts=4, base=0.002, cap=0.01))


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of five rows, so that a small workspace has several."""
    monkeypatch.setattr(linear, "PAGE", 5)
    monkeypatch.setattr(linear, "FEW", 2)


@pytest.fixture
def fake() -> Iterator[Any]:
    with workspace() as served:
        yield served


@pytest.fixture
def copy(tmp_path: Path, fake: Any) -> Copy:
    """An installation before its first sync."""
    return Copy(tmp_path, fake)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an installation after its first sync: all workspaces begin equal."""
    folder = tmp_path_factory.mktemp("first")
    with workspace() as served:
        assert Copy(folder, served).sync().status is Status.COMPLETED
    return folder


@pytest.fixture
def synced(copy: Copy, first: Path) -> Copy:
    """An installation after its first sync."""
    shutil.copytree(first, copy.folder, dirs_exist_ok=True)
    copy.later(copy.PACE)
    return copy


# -- full and incremental syncs ------------------------------------------------------------


def test_a_first_sync_copies_every_row_of_every_collection(copy: Copy) -> None:
    result = copy.sync()
    assert result.status is Status.COMPLETED
    assert set(result.counts) == {source.entity.__name__ for source in SOURCES}
    assert copy.differences() == []


def test_a_full_sync_makes_one_affordable_request_for_each_collection(synced: Copy) -> None:
    synced.sync(full=True)
    requests = [one.json() for one in synced.fake.log]
    assert sorted(synced.requests()) == sorted(["Organization", *LISTINGS])
    costs = [cost(synced.fake, one) for one in requests]
    assert max(costs) <= MOST_POINTS


def cost(fake: Any, body: Json) -> int:
    """The points of a request."""
    document, errors = fake.engine.prepare(body["query"], {}, None)
    assert not errors
    points: int = fake.engine.complexity(document, body["variables"], body.get("operationName"))
    return points


def test_an_unchanged_workspace_costs_one_request_for_each_collection(synced: Copy) -> None:
    assert synced.sync().status is Status.COMPLETED
    assert set(synced.requests()) == {f"{name}Changed" for name in LISTINGS}
    assert synced.differences() == []


def test_every_page_of_a_collection_is_listed(copy: Copy, small_pages: None) -> None:
    copy.sync()
    pages = Counter(copy.requests())
    assert (pages["Issues"], pages["Comments"], pages["WorkflowStates"]) == (3, 6, 2)
    assert copy.differences() == []


def test_the_next_sync_brings_changes(synced: Copy) -> None:
    change(synced.fake)
    assert synced.sync().status is Status.COMPLETED
    assert synced.differences() == []


def test_the_next_sync_begins_at_the_newest_change_of_any_row(copy: Copy, small_pages: None) -> None:
    copy.fake.touch("Issue", issue(0), title="The oldest, edited last")
    copy.sync()
    copy.requests()
    copy.sync()
    assert Counter(copy.requests())["IssuesChanged"] == 1
    assert copy.differences() == []


# -- removals ---------------------------------------------------------------------------------


def test_archived_and_trashed_rows_stay_and_are_marked(synced: Copy) -> None:
    synced.fake.clock.advance(30)
    synced.fake.trash(issue(5))
    synced.sync(check_deletes=True)
    kept = synced.rows(LinearIssue)[issue(5)]
    assert kept["trashed"] is True
    assert kept["archived_at"] is not None
    assert synced.differences() == []


def test_deleted_rows_are_removed_by_the_daily_check(synced: Copy) -> None:
    synced.fake.tables.delete("Issue", issue(5))
    synced.sync()
    assert synced.differences() == [f"issues: left over {issue(5)}"]
    synced.later(86_400)
    synced.sync()
    assert synced.differences() == []
    synced.requests()
    synced.sync()
    assert not [name for name in synced.requests() if name.endswith("Ids")]


def test_deleted_rows_are_removed_by_a_requested_check(synced: Copy, small_pages: None) -> None:
    for number in (5, 6):
        synced.fake.tables.delete("Comment", uid("comment", number, 0))
    synced.sync(check_deletes=True)
    assert Counter(synced.requests())["CommentsIds"] == 6
    assert synced.differences() == []


def test_a_deleted_relation_is_removed_by_the_next_sync(synced: Copy) -> None:
    synced.fake.tables.delete("IssueRelation", uid("IssueRelation", "1"))
    synced.sync(allow_removals=True)
    assert synced.differences() == []


def test_many_relations_are_read_until_the_last_change(copy: Copy, small_pages: None) -> None:
    for number in range(12):
        values = {"type": "related", "issueId": issue(0), "relatedIssueId": issue(number)}
        put(copy.fake, "IssueRelation", f"more {number}", 10 * number, **values)
    copy.sync()
    assert Counter(copy.requests())["IssueRelations"] == 3
    put(copy.fake, "IssueRelation", "new", 1000, type="blocks", issueId=issue(0), relatedIssueId=issue(1))
    copy.sync()
    assert Counter(copy.requests())["IssueRelationsChanged"] == 1
    assert copy.differences() == []


def test_a_private_team_that_is_lost_is_removed_only_with_permission(tmp_path: Path) -> None:
    with workspace(issues=30, comments=1) as fake:
        copy = Copy(tmp_path, fake)
        copy.sync()
        lost = lose_team(fake, uid("team", "OPS"))
        result = copy.sync(check_deletes=True)
        assert result.status is Status.PARTIAL
        assert {failure.code for failure in result.failures} == {"sync.removals"}
        assert all("--allow-removals" in failure.hint for failure in result.failures)
        assert lost <= copy.rows(LinearIssue).keys()
        copy.sync(check_deletes=True, allow_removals=True)
        assert copy.differences() == []


def lose_team(fake: Any, team: str) -> set[str]:
    """Hide a team and everything in it, as for a former member of a private team; gives its issues."""
    lost = {row["id"] for row in fake.tables.all("Issue") if row["teamId"] == team}
    for kind, key, gone in (
        ("Comment", "issueId", lost),
        ("Issue", "teamId", {team}),
        ("Team", "id", {team}),
    ):
        for row in fake.tables.all(kind):
            if row.get(key) in gone:
                fake.tables.delete(kind, row["id"])
    fake.tables.get("Project", uid("project", 0))["teamIds"] = []
    fake.touch("Issue", issue(0), parentId=None)  # it was in that team
    return lost


def test_a_team_that_becomes_visible_is_copied_completely(copy: Copy) -> None:
    tables = copy.fake.tables
    rows = {number: tables.get("Issue", issue(number)) for number in (2, 3)}
    tables.delete("Issue", issue(2))  # never seen
    copy.sync()
    tables.delete("Issue", issue(3))  # seen, and lost
    assert copy.sync(check_deletes=True).removed == 1
    rows[3] |= {"title": "Edited meanwhile, long before the newest change"}
    for row in rows.values():
        tables.put("Issue", row)
    copy.sync(check_deletes=True)
    copy.sync()
    assert copy.differences() == []


# -- changes during a listing --------------------------------------------------------------------


def test_rows_edited_during_a_listing_are_correct_after_the_next_sync(copy: Copy, small_pages: None) -> None:
    tables = copy.fake.tables

    def edit(_: Any) -> None:
        copy.fake.clock.advance(1)
        for number in (0, 11):  # the last row of the listing, and one already read
            copy.fake.touch("Issue", issue(number), title="Edited")

    copy.fake.inject("graphql Issues$", call=edit, skip=1)
    copy.sync()
    assert len(copy.rows(LinearIssue)) == len(tables.all("Issue"))
    copy.sync()
    assert copy.differences() == []


@pytest.mark.parametrize("options", [{"check_deletes": True}, {"full": True}])
def test_rows_edited_or_created_during_a_check_are_not_removed(
    synced: Copy, small_pages: None, options: dict[str, bool]
) -> None:
    def edit(_: Any) -> None:
        synced.fake.clock.advance(1)
        synced.fake.touch("Issue", issue(0), title="Edited")
        put(synced.fake, "Issue", "late", 10_000_000, number=99, teamId=uid("team", "ENG"))

    synced.fake.inject("graphql Issues(Ids)?$", call=edit, skip=1)
    result = synced.sync(**options)
    assert (result.status, result.removed) == (Status.COMPLETED, 0)
    listed = [name for name in synced.requests() if name.startswith("Issues")]
    assert listed[-3:] == ["Issues" if "full" in options else "IssuesIds"] * 3  # no second check was needed
    synced.sync()
    assert not [one for one in synced.differences() if "late" not in one]


# -- faults ------------------------------------------------------------------------------------

BROKEN = {"message": "Sorry", "extensions": {"code": "INTERNAL_SERVER_ERROR"}}
FAULTS: list[dict[str, Any]] = [
    {"status": 502},
    {"status": 503, "headers": {"Retry-After": "0.02"}},
    {"status": 400},  # too many requests, in Linear's words
    {"status": 429, "headers": {"Retry-After": "0.02"}},
    {"status": 200, "body": {"data": None, "errors": [BROKEN]}},
    {"truncate": 60},
    {"drop": True},
    {"garbage": True},  # a web page
    {"dribble": 0.04},  # drop by drop, and whole
]


def test_every_fault_of_every_page_is_retried(
    copy: Copy, small_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for operation in connector.operations:
        monkeypatch.setattr(operation, "retry", Retry(attempts=len(FAULTS), base=0.01, cap=0.02))
    swept = [f"{name}Ids" for name in LISTINGS if name not in WHOLE]
    names = ["Organization", *LISTINGS, *(f"{name}Changed" for name in LISTINGS), *swept]
    hits = [  # of the first page and the next one: each is asked for until no fault is left
        copy.fake.inject(f"graphql {name}$", skip=after, **fault)
        for name in names
        for after in (0, 1)
        for fault in FAULTS
    ]
    assert (copy.sync().status, copy.differences()) == (Status.COMPLETED, [])
    change(copy.fake)
    assert (copy.sync(check_deletes=True).status, copy.differences()) == (Status.COMPLETED, [])
    assert not [one.match for one in hits if one.skip == 0 and not one.hits]


def test_a_token_that_expires_on_any_page_is_renewed_and_the_new_pair_stored(
    tmp_path: Path, fake: Any, small_pages: None
) -> None:
    copy = Copy(tmp_path, fake, refresh_token="lin_refresh_fake", client_secret="secret")
    copy.values["client_id"] = "client"
    pages = [
        ("Organization", 0),
        ("Issues", 1),
        ("IssuesChanged", 0),
        ("IssueRelationsChanged", 0),
        ("CommentsIds", 2),
    ]
    for name, after in pages:
        expiry = fake.inject(f"graphql {name}$", call=lambda _: fake.tokens.expire_all(), skip=after)
        change(fake)
        assert copy.sync(check_deletes=True, full=name == "Issues").status is Status.COMPLETED
        assert (expiry.hits > after, copy.differences()) == (True, [])
    assert copy.secrets.secrets["refresh_token"] in fake.tokens.refresh
    assert fake.tokens.refreshes == 1 + len(pages)


def test_an_application_gets_a_new_token_with_its_secret(tmp_path: Path, fake: Any) -> None:
    copy = Copy(tmp_path, fake, client_secret="secret")
    copy.values["client_id"] = "client"
    assert copy.sync().status is Status.COMPLETED
    fake.tokens.expire_all()
    assert copy.sync().status is Status.COMPLETED
    assert copy.secrets.secrets.keys() == {"client_secret", "access_token", "expires_at"}


def test_a_refresh_whose_response_is_lost_is_repeated(tmp_path: Path, fake: Any) -> None:
    copy = Copy(tmp_path, fake, refresh_token="lin_refresh_fake", client_secret="secret")
    copy.values["client_id"] = "client"
    fake.inject("POST /oauth/token", truncate=10)
    assert copy.sync().status is Status.COMPLETED
    assert fake.tokens.refreshes == 1


def test_a_refused_key_fails_the_sync_and_keeps_the_rows(synced: Copy) -> None:
    synced.fake.tokens.static.clear()
    result = synced.sync()
    assert result.status is Status.FAILED
    assert {failure.code for failure in result.failures} == {"upstream.credentials"}
    synced.fake.tokens.add_static(synced.fake.API_KEY)
    assert synced.differences() == []


def test_requests_wait_until_the_budget_is_refilled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for operation in connector.operations:
        monkeypatch.setattr(operation, "retry", Retry(attempts=8, base=0.05, cap=0.2))
    core = fake_module("core")
    with workspace(clock=core.Clock()) as fake:
        fake.request_window = core.Window(10, 0.8, fake.clock, leaky=True)
        copy = Copy(tmp_path, fake)
        fake.clock.advance(-60)  # the sync corrects this: resets use the server's clock
        assert copy.sync().status is Status.COMPLETED
        refused = [one for one in fake.log if one.status == 400]
        assert len(refused) <= API.concurrency  # requests under way when the budget was used up
        assert copy.differences() == []


@pytest.mark.parametrize("code", ["FORBIDDEN", "FEATURE_NOT_ACCESSIBLE"])
def test_a_forbidden_collection_fails_alone_and_can_be_left_out(copy: Copy, code: str) -> None:
    refused = {"errors": [{"message": "No", "extensions": {"code": code}}]}
    copy.fake.inject("graphql Initiatives", status=400, body=refused, times=None)
    result = copy.sync()
    assert result.status is Status.PARTIAL
    assert [failure.code for failure in result.failures] == ["upstream.permission"]
    assert "leave_out=" in result.failures[0].hint
    copy.values["leave_out"] = ["initiatives"]
    assert copy.sync().status is Status.COMPLETED


def test_a_credential_of_another_workspace_fails_the_sync(copy: Copy) -> None:
    copy.values["organization"] = "another"
    result = copy.sync()
    assert result.status is Status.FAILED
    assert "another workspace" in result.failures[0].message
    assert copy.rows(LinearIssue) == {}


def test_a_project_with_many_teams_has_all_of_them(copy: Copy, small_pages: None) -> None:
    teams = [put(copy.fake, "Team", f"T{number}", key=f"T{number}", name="x")["id"] for number in range(22)]
    copy.fake.touch("Project", uid("project", 0), teamIds=teams)
    copy.sync()
    kept = copy.rows(LinearProject)[uid("project", 0)]
    assert sorted(kept["team_ids"]) == sorted(teams)


def test_an_invalid_row_is_quarantined_and_the_sync_is_partial(copy: Copy) -> None:
    copy.fake.touch("Issue", issue(2), dueDate="soon")
    result = copy.sync()
    assert (result.status, result.counts["LinearIssue"]) == (Status.PARTIAL, 11)
    copy.fake.touch("Issue", issue(2), dueDate="2025-06-01")
    copy.sync()
    assert copy.differences() == []


def test_a_sync_killed_several_times_completes_with_the_same_result(copy: Copy) -> None:
    for requests in (3, 9, 10):
        copy.killed_after(requests)
    assert copy.apart().returncode == 0
    assert copy.differences() == []
    change(copy.fake)
    copy.killed_after(9, "check-deletes")
    assert copy.apart().returncode == 0
    assert copy.differences() == []


def test_p41_a_key_is_in_no_file_that_a_sync_with_errors_leaves(copy: Copy, small_pages: None) -> None:
    key = f"lin_api_{secrets.token_hex(20)}"
    copy.fake.tokens.add_static(key)
    copy.secrets.secrets["api_key"] = key
    copy.recording = lambda: Recording(copy.folder / "all.jsonl")
    echo = {"errors": [{"message": f"what of {key}?", "extensions": {"code": "INTERNAL_SERVER_ERROR"}}]}
    copy.fake.inject("graphql Issues", status=400, body=echo, times=2)
    copy.fake.inject("graphql Cycles", status=403, body={"error": f"no {key}"}, times=None)
    result = copy.sync()
    assert result.status is Status.PARTIAL
    assert key not in repr(result)
    for file in copy.folder.iterdir():
        assert key.encode() not in file.read_bytes(), file.name


# -- connecting --------------------------------------------------------------------------------


class Person(Prompter):
    """Types prepared lines, and records questions and output."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.asked, self.shown = list(lines), list[str](), list[str]()

    async def text(self, prompt: str, default: str | None) -> str:
        return await self.secret(prompt)

    async def secret(self, prompt: str) -> str:
        self.asked.append(prompt)
        return self.lines.pop(0)

    async def choose(self, prompt: str, options: Sequence[tuple[str, str]], several: bool) -> Sequence[str]:
        raise NotImplementedError

    async def confirm(self, prompt: str) -> bool:
        return True

    def say(self, line: str) -> None:
        self.shown.append(line)


def connect(
    fake: Any, person: Person | None, values: Mapping[str, Any] = NOTHING, **credentials: str
) -> OnboardingResult:
    """The result of connecting."""
    return asyncio.run(onboard(connector, person, {"base_url": fake.url, **values}, credentials))


def test_connecting_asks_for_the_key_and_shows_the_workspace(fake: Any) -> None:
    person = Person(KEY)
    found = connect(fake, person)
    assert (len(person.asked), found.secrets) == (1, {"api_key": KEY})
    assert person.shown == ["linear: Acme (linear.app/acme), seen by User 0 <user0@acme.test>"]
    assert found.config["organization"] == uid("org")


def test_a_refused_key_is_asked_for_again(fake: Any) -> None:
    person = Person("lin_api_wrong", KEY)
    assert connect(fake, person).secrets == {"api_key": KEY}
    assert "the credential was refused" in person.shown[0]
    assert "lin_api_wrong" not in "".join(person.shown)


def test_without_a_key_connecting_uses_oauth_and_stores_the_new_pair(fake: Any) -> None:
    person = Person("", "client", "secret")
    found = connect(fake, person, refresh_token="lin_refresh_fake")  # otherwise a browser opens
    assert found.config["client_id"] == "client"
    assert found.secrets.keys() == {"access_token", "refresh_token", "client_secret", "expires_at"}
    assert found.secrets["refresh_token"] in fake.tokens.refresh


def test_connecting_from_a_script_is_validated(fake: Any) -> None:
    assert connect(fake, None, api_key=KEY).config["organization"] == uid("org")
    with pytest.raises(BadCredentials):
        connect(fake, None, api_key="lin_api_wrong")
    with pytest.raises(InvalidAnswers, match="api_key: expected a secret"):
        connect(fake, None)


def test_an_installation_keeps_its_workspace(fake: Any) -> None:
    with pytest.raises(BadCredentials, match="another workspace"):
        connect(fake, None, {"organization": "another"}, api_key=KEY)


def test_health_shows_the_workspace(copy: Copy) -> None:
    async def main() -> str:
        config, credentials = copy.configured()
        installation = await connector.initialise(config, credentials)
        assert installation.health
        assert installation.stop
        line = await installation.health()
        await installation.stop()
        return line

    assert asyncio.run(main()).startswith("linear: Acme (linear.app/acme)")
