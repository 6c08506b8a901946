"""GitHub's connector against a strict fake of the API."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from max_connectors import github, github_api

from max import Status, SyncResult
from max.runtime import InstallationRuntime
from tests.github_copy import Copy
from tests.github_data import START, change, iso, repo_of
from tests.github_fake import Fake, served

DAY = 86_400 + 3600


@pytest.fixture
def fake() -> Iterator[Fake]:
    with served() as fake:
        yield fake


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of five rows."""
    monkeypatch.setattr(github, "PAGE", 5)
    monkeypatch.setattr(github_api, "PAGE", 5)


@pytest.fixture
def copy(fake: Fake, tmp_path: Path) -> Copy:
    return Copy(tmp_path, fake)


def check_sync(copy: Copy, **options: Any) -> None:
    """A sync that completes, after which the copy is equal to the service."""
    result = copy.sync(**options)
    assert (result.status, result.failures) == (Status.COMPLETED, ())
    assert copy.differences() == []


class TestRows:
    """What a sync leaves is what the service has."""

    def test_a_first_sync_brings_everything(self, copy: Copy) -> None:
        check_sync(copy)

    def test_a_first_sync_of_many_pages_brings_everything(self, copy: Copy, small: None) -> None:
        check_sync(copy)

    def test_changes_of_every_kind_come_with_the_next_sync(self, copy: Copy, small: None) -> None:
        check_sync(copy)
        change(copy.fake)
        check_sync(copy)

    def test_a_full_sync_after_changes_brings_the_same(self, copy: Copy, small: None) -> None:
        check_sync(copy)
        change(copy.fake)
        check_sync(copy, full=True)

    def test_many_issues_that_changed_at_one_moment_fill_several_pages(self, copy: Copy, small: None) -> None:
        big = repo_of(copy.fake, "octo/big")
        for number in range(23):
            issue = big.issue(f"Imported {number}")
            issue |= {"created_at": iso(START + 9000), "updated_at": iso(START + 9000)}
        check_sync(copy)
        big.change(3, title="later")
        check_sync(copy, full=True)

    def test_a_page_that_is_exactly_full_is_the_last_one(self, copy: Copy, small: None) -> None:
        plain = repo_of(copy.fake, "ada/plain")
        for number in range(5):
            plain.label(f"label {number}")
            plain.issue(f"issue {number}")
            plain.commit(f"commit {number}")
        check_sync(copy)
        plain.label("one more")
        plain.issue("one more")
        plain.commit("one more")
        check_sync(copy)

    def test_issues_are_found_by_the_names_of_their_labels(self, copy: Copy) -> None:
        check_sync(copy)

        async def found(runtime: InstallationRuntime) -> set[int]:
            query = runtime.engine.query(github.Issue).where("labels.name HAS idea")
            return {one.number for one in await query.all()}

        issues = repo_of(copy.fake, "octo/big").issues.items()
        wanted = {number for number, row in issues if "idea" in {one["name"] for one in row["labels"]}}
        assert wanted
        assert asyncio.run(copy.open(found)) == wanted

    def test_what_is_left_out_is_not_asked_for(self, copy: Copy) -> None:
        copy.values["leave_out"] = ["commits", "reviews", "pull_details", "teams"]
        assert copy.sync().status is Status.COMPLETED
        handlers = {one.handler for one in copy.fake.requests()}
        assert handlers.isdisjoint({"commits", "reviews", "pull", "teams", "members"})
        rows = copy.rows()
        assert [len(rows[one]) for one in ("Commit", "Review", "Team", "TeamMember")] == [0, 0, 0, 0]
        assert len(rows["Pull"]) == sum(len(one.pulls) for one in copy.fake.repos.values())


class TestChangesMeanwhile:
    """Whatever changes between two pages, no row is missed and none is hidden."""

    @pytest.mark.parametrize("page", [0, 1, 2])
    def test_an_issue_that_changes_between_two_pages_hides_no_other(
        self, copy: Copy, small: None, page: int
    ) -> None:
        big = repo_of(copy.fake, "octo/big")
        copy.fake.inject(r"/big/issues\?", call=lambda: big.change(1, title="moved to the end"), skip=page)
        check_sync(copy)

    @pytest.mark.parametrize("page", [1, 2])
    def test_an_issue_that_goes_between_two_pages_hides_no_other(
        self, copy: Copy, small: None, page: int
    ) -> None:
        big = repo_of(copy.fake, "octo/big")
        copy.fake.inject(r"/big/issues\?", call=lambda: big.issues.pop(1), skip=page)
        assert copy.sync().status is Status.COMPLETED
        copy.later(DAY)
        check_sync(copy)

    def test_what_is_pushed_while_the_commits_are_listed_comes_with_the_next_sync(
        self, copy: Copy, small: None
    ) -> None:
        big = repo_of(copy.fake, "octo/big")
        copy.fake.inject(r"/big/commits\?", call=lambda: big.commit("meanwhile"), skip=2)
        assert copy.sync().status is Status.COMPLETED
        check_sync(copy)

    @pytest.mark.parametrize("page", [0, 1, 2])
    def test_what_changes_while_pull_requests_are_listed_comes_with_the_next_sync(
        self, copy: Copy, small: None, page: int
    ) -> None:
        big = repo_of(copy.fake, "octo/big")
        for number in range(12):
            big.pull(f"More {number}")
        copy.fake.inject(r"(big|1002)/pulls\?", call=lambda: change(copy.fake), skip=page)
        assert copy.sync().status is Status.COMPLETED
        check_sync(copy)


class TestCommits:
    """The commits are those of the default branch, whatever is done to it."""

    def test_commits_that_a_force_push_removed_go(self, copy: Copy) -> None:
        check_sync(copy)
        big = repo_of(copy.fake, "octo/big")
        big.branches["main"] = big.history(big.branches["main"])[3]
        big.commit("another way")
        check_sync(copy)

    def test_old_commits_that_a_merge_brings_come(self, copy: Copy, small: None) -> None:
        check_sync(copy)
        big = repo_of(copy.fake, "octo/big")
        at = big.history(big.branches["main"])[-1]
        for number in range(8):  # dated before everything that was read
            at = big.commit_on([at], f"side {number}", "side", at=START - 9000)["sha"]
        check_sync(copy)  # not part of the default branch
        big.commit_on([big.branches["main"], at], "Merge side")
        check_sync(copy)

    def test_another_default_branch_brings_its_commits(self, copy: Copy) -> None:
        check_sync(copy)
        big = repo_of(copy.fake, "octo/big")
        big.branches["next"] = big.history(big.branches["main"])[5]
        big.row["default_branch"] = "next"
        check_sync(copy)

    def test_an_empty_repository_has_no_commits_until_the_first_push(self, copy: Copy) -> None:
        check_sync(copy)
        repo_of(copy.fake, "ada/empty").commit("begin")
        check_sync(copy)

    def test_a_last_commit_that_git_has_thrown_away_lists_everything(self, copy: Copy) -> None:
        check_sync(copy)
        big = repo_of(copy.fake, "octo/big")
        gone = big.branches["main"]
        big.branches["main"] = big.history(gone)[1]
        del big.commits[gone]
        big.commit("instead")
        check_sync(copy)


class TestRemovals:
    """What is gone at GitHub goes, and nothing else."""

    def test_issues_and_comments_that_were_deleted_go_within_a_day(self, copy: Copy, small: None) -> None:
        check_sync(copy)
        big = repo_of(copy.fake, "octo/big")
        del big.issues[5]
        for id, row in list(big.comments.items()):
            if row["issue_url"].endswith("/5"):
                del big.comments[id]
        del big.comments[next(iter(big.comments))]
        del big.review_comments[next(iter(big.review_comments))]
        assert copy.sync().status is Status.COMPLETED
        copy.later(DAY)
        check_sync(copy)

    def test_a_pull_request_that_github_took_away_goes_within_a_day(self, copy: Copy, small: None) -> None:
        check_sync(copy)
        big = repo_of(copy.fake, "octo/big")
        for things in (big.pulls, big.issues, big.reviews):
            del things[8]
        for comments in (big.comments, big.review_comments):
            for id, row in list(comments.items()):
                if "/8" in (row.get("issue_url") or row.get("pull_request_url")):
                    del comments[id]
        copy.later(DAY)
        check_sync(copy)

    def test_they_go_at_once_when_the_check_is_asked_for(self, copy: Copy) -> None:
        check_sync(copy)
        del repo_of(copy.fake, "octo/big").comments[next(iter(repo_of(copy.fake, "octo/big").comments))]
        check_sync(copy, check_deletes=True)

    def test_a_transferred_issue_goes_to_the_other_repository(self, copy: Copy) -> None:
        check_sync(copy)
        big, plain = repo_of(copy.fake, "octo/big"), repo_of(copy.fake, "ada/plain")
        plain.issue(big.issues.pop(2)["title"])
        copy.later(DAY)
        check_sync(copy)

    def test_a_label_that_was_deleted_goes_with_the_check_of_the_issues(self, copy: Copy) -> None:
        check_sync(copy)
        big = repo_of(copy.fake, "octo/big")
        del big.labels["unused"]
        check_sync(copy)
        del big.labels["idea"]
        for row in (*big.issues.values(), *big.pulls.values()):
            row["labels"] = [one for one in row["labels"] if one["name"] != "idea"]
        assert copy.sync().status is Status.COMPLETED
        copy.later(DAY)
        check_sync(copy)

    def test_reviews_milestones_releases_and_members_that_went_go_with_the_next_sync(
        self, copy: Copy
    ) -> None:
        check_sync(copy)
        big = repo_of(copy.fake, "octo/big")
        big.reviews[4].clear()
        big.change(4)
        del big.releases[next(iter(big.releases))]
        big.milestones.popitem()
        copy.fake.members["octo", "core"].remove("bob")
        check_sync(copy)

    def test_people_whom_nothing_names_any_more_stay(self, copy: Copy) -> None:
        big = repo_of(copy.fake, "octo/big")
        big.change(2, assignees=["zoe"])
        check_sync(copy)
        big.comment(2, "from me", login="zoe")
        big.change(2, assignees=[])
        check_sync(copy)
        copy.later(DAY)
        check_sync(copy)

    def test_a_repository_that_was_deleted_goes_with_all_that_it_has_when_a_person_says_so(
        self, copy: Copy
    ) -> None:
        check_sync(copy)
        big = repo_of(copy.fake, "octo/big")
        del copy.fake.repos[big.row["id"]]
        before = copy.rows()
        result = copy.sync()
        assert result.status is Status.PARTIAL
        assert {one.code for one in result.failures} == {"sync.removals"}
        assert copy.rows()["Issue"].keys() == before["Issue"].keys()
        check_sync(copy, allow_removals=True)
        assert copy.rows()["Issue"] == {}

    def test_issues_that_are_turned_off_go_with_the_check_and_come_back(self, copy: Copy) -> None:
        check_sync(copy)
        repo_of(copy.fake, "octo/big").row["has_issues"] = False
        assert (copy.sync().failures, copy.rows()["Issue"] == {}) == ((), False)
        assert copy.sync(check_deletes=True).status is Status.PARTIAL  # so many that a person is asked
        check_sync(copy, check_deletes=True, allow_removals=True)
        repo_of(copy.fake, "octo/big").row["has_issues"] = True
        copy.later(DAY)
        check_sync(copy)


def said(result: SyncResult) -> str:
    """Everything that a sync says about its failures."""
    return "\n".join(f"{one.message}; {one.hint}" for one in result.failures)


class TestRepositories:
    """One that is gone, renamed, forbidden or taken out stops and hides no other."""

    @pytest.fixture
    def copy(self, fake: Fake, tmp_path: Path) -> Copy:
        return Copy(tmp_path, fake, repositories=["octo/big", "octo/small", "ada/plain", "ada/empty"])

    @pytest.mark.parametrize(
        ("status", "message", "words"),
        [
            (403, "Resource not accessible by personal access token", "octo/small cannot be read"),
            (451, "Repository access blocked", "blocked for legal reasons"),
        ],
    )
    def test_a_forbidden_one_is_said_and_keeps_its_rows(
        self, copy: Copy, status: int, message: str, words: str
    ) -> None:
        check_sync(copy)
        repo_of(copy.fake, "octo/small").status = (status, message)
        change(copy.fake)
        for _ in range(2):
            result = copy.sync(check_deletes=True)
            assert result.status is Status.PARTIAL
            assert words in said(result)
            assert {one.code for one in result.failures} == {"upstream.permission"}
            assert copy.differences() == []
        repo_of(copy.fake, "octo/small").status = None
        check_sync(copy)

    def test_the_rows_of_one_that_is_gone_go_and_then_it_is_said(self, copy: Copy) -> None:
        check_sync(copy)
        small = repo_of(copy.fake, "octo/small")
        del copy.fake.repos[small.row["id"]]
        check_sync(copy)
        result = copy.sync()
        assert result.status is Status.PARTIAL
        assert "there is no repository octo/small, or the credential may not see it" in said(result)
        assert "take it out of the configuration" in said(result)
        assert copy.differences() == []

    def test_one_that_never_existed_is_said_and_stops_no_other(self, copy: Copy) -> None:
        copy.values["repositories"].insert(0, "octo/nothing")
        for _ in range(2):
            result = copy.sync()
            assert result.status is Status.PARTIAL
            assert "there is no repository octo/nothing" in said(result)
            assert copy.differences() == []

    def test_a_renamed_one_keeps_its_rows_and_gets_its_new_name(self, copy: Copy) -> None:
        check_sync(copy)
        copy.fake.rename(repo_of(copy.fake, "octo/big"), "octo/bigger")
        change_of_name = repo_of(copy.fake, "octo/bigger")
        change_of_name.issue("after the new name")
        check_sync(copy)
        check_sync(copy)

    def test_one_that_is_named_by_two_names_comes_once(self, copy: Copy) -> None:
        copy.fake.rename(repo_of(copy.fake, "ada/plain"), "ada/fancy")
        copy.fake.rename(repo_of(copy.fake, "ada/fancy"), "ada/fanciest")
        copy.values["repositories"] += ["ada/fancy"]
        check_sync(copy)
        copy.values["repositories"] += ["ADA/fanciest"]
        check_sync(copy)

    def test_one_that_is_taken_out_of_the_configuration_goes(self, copy: Copy) -> None:
        check_sync(copy)
        copy.values["repositories"] = ["octo/big", "octo/small", "ada/plain"]
        result = copy.sync()
        assert (result.status, result.failures) == (Status.COMPLETED, ())
        assert [one for one in copy.differences() if "Repository: missing" not in one] == []

    def test_of_all_that_the_token_sees_a_renamed_one_is_followed(self, copy: Copy) -> None:
        copy.values["repositories"] = []
        check_sync(copy)
        copy.fake.rename(repo_of(copy.fake, "octo/big"), "octo/bigger")
        check_sync(copy)

    def test_a_name_that_another_repository_has_now_is_that_one(self, copy: Copy) -> None:
        check_sync(copy)
        plain = repo_of(copy.fake, "ada/plain")
        copy.fake.rename(plain, "ada/elsewhere")
        copy.fake.repo("ada/plain", description="another one")
        result = copy.sync()
        assert (result.status, result.failures) == (Status.COMPLETED, ())
        assert [one for one in copy.differences() if str(plain.row["id"]) not in one] == []

    def test_what_a_single_sign_on_hides_is_said_and_kept(self, copy: Copy) -> None:
        copy.values["repositories"] = []
        check_sync(copy)
        copy.fake.hidden_orgs = [str(copy.fake.users["octo"]["id"])]
        result = copy.sync()
        assert result.status is Status.PARTIAL
        assert "single sign-on" in said(result)
        assert copy.differences() == []
        copy.fake.hidden_orgs = []
        check_sync(copy)

    def test_teams_that_may_not_be_seen_are_left_out_and_those_that_were_seen_stay(self, copy: Copy) -> None:
        copy.fake.org_scope = False
        result = copy.sync()
        assert (result.status, result.failures) == (Status.COMPLETED, ())
        assert copy.rows()["Team"] == {}
        copy.fake.org_scope = True
        check_sync(copy)
        copy.fake.org_scope = False
        result = copy.sync()
        assert result.status is Status.PARTIAL
        assert "one of the scopes admin:org, read:org" in said(result)
        assert copy.differences() == []


class TestRequests:
    """What a sync costs, beside the least that is possible."""

    def test_a_first_sync_needs_the_least_number_of_requests(self, tmp_path: Path) -> None:
        with served(issues=250) as fake:
            copy = Copy(tmp_path, fake)
            check_sync(copy)
            counted = Counter(one.handler for one in fake.requests())
            repos = fake.repos.values()
            least = {
                "user_repos": 1,
                "teams": 1,
                "members": 2,
                **{one: len(repos) for one in ("labels", "milestones", "releases")},
                "issues": sum(pages(one.issues) for one in repos if one.row["has_issues"]),
                "comments": sum(pages(one.comments) for one in repos),
                "review_comments": sum(pages(one.review_comments) for one in repos),
                "pulls": sum(pages(one.pulls) for one in repos),
                "commits": sum(pages(one.commits) for one in repos),
                "pull": sum(len(one.pulls) for one in repos),
                "reviews": sum(len(one.pulls) for one in repos),
            }
            heads = sum(bool(one.commits) for one in repos)  # one more each, to know where to go on
            assert counted == {**least, "commits": least["commits"] + heads}

    def test_a_sync_without_changes_costs_nothing_of_the_hourly_limit(self, copy: Copy, small: None) -> None:
        for _ in range(2):
            check_sync(copy)
        copy.fake.requests()
        charged = copy.fake.charged
        check_sync(copy)
        seen = copy.fake.requests()
        assert copy.fake.charged == charged
        assert {one.status for one in seen} == {304}
        handlers = Counter(one.handler for one in seen)
        assert handlers.keys().isdisjoint({"commits", "compare", "pull", "reviews"})

    def test_only_pull_requests_that_changed_are_read_in_detail(self, copy: Copy) -> None:
        check_sync(copy)
        repo_of(copy.fake, "octo/big").review(4)
        copy.fake.requests()
        check_sync(copy)
        counted = Counter(one.handler for one in copy.fake.requests())
        assert (counted["pull"], counted["reviews"]) == (1, 1)


def pages(rows: object) -> int:
    """How many pages of 100 rows there are; an empty list is one page, too."""
    return max(1, -(-len(rows) // 100))  # type: ignore[arg-type]
