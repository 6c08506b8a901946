"""Invented data of a GitHub: repositories and what they have, as GitHub writes it, and ways to change it.

``github_fake.py`` serves it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from max import Json

START = 1_735_689_600  # 2025-01-01: the first moment of the data
NOW = START + 90 * 86_400  # when tests begin


def iso(at: float) -> str:
    """A moment as GitHub writes it."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Clock:
    """The time of a test, in seconds since the epoch: it runs, and can be moved forward."""

    def __init__(self, now: float = NOW) -> None:
        self.ahead = now - time.time()

    def __call__(self) -> float:
        return time.time() + self.ahead


# -- rows as GitHub writes them --------------------------------------------------------------------

USER_URLS = (
    "followers_url following_url gists_url starred_url subscriptions_url organizations_url repos_url"
    " events_url received_events_url"
)
REPO_URLS = (
    "archive_url assignees_url blobs_url branches_url collaborators_url comments_url commits_url compare_url"
    " contents_url contributors_url deployments_url downloads_url events_url forks_url git_commits_url"
    " git_refs_url git_tags_url git_url issue_comment_url issue_events_url issues_url keys_url labels_url"
    " languages_url merges_url milestones_url notifications_url pulls_url releases_url ssh_url"
    " stargazers_url statuses_url subscribers_url subscription_url tags_url teams_url trees_url clone_url"
    " hooks_url svn_url"
)


class Data:
    """The data of the service: repositories, people, teams, and what changes them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.last_id = clock, 1000
        self.url = "https://api.github.com"
        self.users: dict[str, Json] = {}
        self.repos: dict[int, Repo] = {}
        self.former: dict[str, int] = {}  # former names of repositories, in lower case
        self.teams: dict[str, dict[str, Json]] = {}  # by organization and slug
        self.members: dict[tuple[str, str], list[str]] = {}

    def id(self) -> int:
        self.last_id += 1
        return self.last_id

    def user(self, login: str, type: str = "User") -> Json:
        """The account with this name, which is made when it is new."""
        if login not in self.users:
            id, web, api = self.id(), f"https://github.com/{login}", f"{self.url}/users/{login}"
            self.users[login] = {
                **{name: f"{api}/{name}" for name in USER_URLS.split()},
                "login": login,
                "id": id,
                "node_id": f"U_{id}",
                "gravatar_id": "",
                "url": api,
                "avatar_url": f"https://avatars.githubusercontent.com/u/{id}",
                "html_url": web,
                "type": type,
                "site_admin": False,
            }
        return self.users[login]

    def repo(self, full_name: str, **more: Json) -> Repo:
        """A new repository."""
        owner, _, name = full_name.partition("/")
        id, api = self.id(), f"{self.url}/repos/{full_name}"
        now = iso(self.clock())
        row = {
            **{one: f"{api}/{one}" for one in REPO_URLS.split()},
            "id": id,
            "node_id": f"R_{id}",
            "name": name,
            "full_name": full_name,
            "url": api,
            "owner": self.user(owner),
            "private": False,
            "html_url": f"https://github.com/{full_name}",
            "description": f"About {name}",
            "fork": False,
            "mirror_url": None,
            "homepage": None,
            "language": "Python",
            "forks_count": 1,
            "stargazers_count": 5,
            "watchers_count": 5,
            "size": 10,
            "default_branch": "main",
            "open_issues_count": 2,
            "is_template": False,
            "topics": ["one", "two"],
            "has_issues": True,
            "has_projects": False,
            "has_wiki": True,
            "has_pages": False,
            "has_discussions": False,
            "has_downloads": False,
            "archived": False,
            "disabled": False,
            "visibility": "public",
            "pushed_at": now,
            "created_at": now,
            "updated_at": now,
            "forks": 1,
            "open_issues": 2,
            "watchers": 5,
            "license": {
                "key": "mit",
                "name": "MIT License",
                "spdx_id": "MIT",
                "url": None,
                "node_id": "L",
            },
            **more,
        }
        self.repos[id] = Repo(self, row)
        return self.repos[id]

    def team(self, org: str, slug: str, members: list[str], parent: str | None = None) -> Json:
        """A new team of an organization."""
        id, web = self.id(), f"https://github.com/orgs/{org}/teams/{slug}"
        simple = {
            "id": id,
            "node_id": f"T_{id}",
            "name": slug.title(),
            "slug": slug,
            "url": web,
            "description": f"The {slug}",
            "privacy": "closed",
            "permission": "pull",
            "html_url": web,
            "members_url": f"{web}/members",
            "repositories_url": f"{web}/repos",
            "type": "organization",
        }
        above = self.teams[org][parent] if parent else None
        row = {**simple, "parent": {k: v for k, v in above.items() if k != "parent"} if above else None}
        self.teams.setdefault(org, {})[slug] = row
        self.members[org, slug] = members
        for one in members:
            self.user(one)
        return row

    def rename(self, repo: Repo, full_name: str) -> None:
        """Another name; the former one leads to it."""
        self.former[repo.row["full_name"].lower()] = repo.row["id"]
        repo.row |= {"full_name": full_name, "name": full_name.partition("/")[2]}

    def named(self, full_name: str) -> Repo | None:
        """The repository that has this name now."""
        wanted = full_name.lower()
        return next((one for one in self.repos.values() if one.row["full_name"].lower() == wanted), None)


class Repo:
    """A repository and all that it has."""

    def __init__(self, data: Data, row: Json) -> None:
        self.data, self.row = data, row
        self.issues: dict[int, Json] = {}
        self.pulls: dict[int, Json] = {}
        self.comments: dict[int, Json] = {}
        self.reviews: dict[int, list[Json]] = {}
        self.review_comments: dict[int, Json] = {}
        self.labels: dict[str, Json] = {}
        self.milestones: dict[int, Json] = {}
        self.releases: dict[int, Json] = {}
        self.commits: dict[str, Json] = {}  # all that were ever made
        self.branches: dict[str, str] = {}
        self.status: tuple[int, str] | None = None  # an error for everything of it
        self.last_number = 0

    @property
    def api(self) -> str:
        return str(self.row["url"])

    @property
    def web(self) -> str:
        return str(self.row["html_url"])

    def label(self, name: str, **more: Json) -> Json:
        id = self.data.id()
        self.labels[name] = {
            "id": id,
            "node_id": f"LA_{id}",
            "url": f"{self.api}/labels/{name}",
            "name": name,
            "description": f"about {name}",
            "color": "d73a4a",
            "default": False,
            **more,
        }
        return self.labels[name]

    def milestone(self, title: str, **more: Json) -> Json:
        id, number, now = self.data.id(), len(self.milestones) + 1, iso(self.data.clock())
        web = f"{self.web}/milestone/{number}"
        self.milestones[id] = {
            "url": web,
            "html_url": web,
            "labels_url": web,
            "id": id,
            "node_id": f"MI_{id}",
            "number": number,
            "state": "open",
            "title": title,
            "description": None,
            "open_issues": 1,
            "creator": self.data.user("ada"),
            "closed_issues": 0,
            "created_at": now,
            "updated_at": now,
            "closed_at": None,
            "due_on": "2025-12-24T00:00:00Z",
            **more,
        }
        return self.milestones[id]

    def issue(self, title: str, **more: Json) -> Json:
        """A new issue; ``labels`` are names, ``assignees`` and ``user`` logins."""
        self.last_number += 1
        return self._issue(self.last_number, title, "issues", more)

    def _issue(self, number: int, title: str, kind: str, more: Mapping[str, Json]) -> Json:
        id, now, api = self.data.id(), iso(self.data.clock()), f"{self.api}/issues/{number}"
        row = {
            "id": id,
            "node_id": f"I_{id}",
            "url": api,
            "repository_url": self.api,
            "number": number,
            **{name: f"{api}/{name}" for name in ("labels_url", "comments_url", "events_url")},
            "html_url": f"{self.web}/{kind}/{number}",
            "state": "open",
            "state_reason": None,
            "title": title,
            "body": f"Text of {title}",
            "user": self.data.user("ada"),
            "labels": [],
            "assignee": None,
            "assignees": [],
            "milestone": None,
            "locked": False,
            "comments": 0,
            "active_lock_reason": None,
            "closed_at": None,
            "created_at": now,
            "updated_at": now,
            "author_association": "MEMBER",
            "reactions": reactions(api, number % 3),
        }
        self.issues[number] = row
        self.change(number, now=now, **more)
        return row

    def change(self, number: int, now: str | None = None, **more: Json) -> None:
        """Change an issue, and its pull request if it is one; both then have changed now."""
        row = self.issues[number]
        values = dict(more)
        if "labels" in values:
            values["labels"] = [self.labels[name] for name in values["labels"]]
        if "assignees" in values:
            values["assignees"] = [self.data.user(login) for login in values["assignees"]]
        if isinstance(values.get("user"), str):
            values["user"] = self.data.user(values["user"])
        row |= {**values, "updated_at": values.get("updated_at") or now or iso(self.data.clock())}
        if number in self.pulls:
            shared = ("title", "body", "state", "updated_at", "closed_at", "locked", "labels", "assignees")
            self.pulls[number] |= {name: row[name] for name in shared}

    def pull(self, title: str, **more: Json) -> Json:
        """A new pull request, and its issue."""
        self.last_number += 1
        number = self.last_number
        issue = self._issue(number, title, "pull", {})
        api, web, id = f"{self.api}/pulls/{number}", f"{self.web}/pull/{number}", self.data.id()
        issue |= {
            "draft": False,
            "pull_request": {"url": api, "html_url": web, "diff_url": web, "patch_url": web},
        }
        urls = (
            "diff_url patch_url issue_url commits_url review_comments_url review_comment_url comments_url"
            " statuses_url"
        )
        links = "comments commits statuses html issue review_comments review_comment self"
        side = {"label": "octo:x", "repo": self.row, "user": self.row["owner"]}
        shared = (
            "state locked title user body labels milestone active_lock_reason created_at updated_at closed_at"
            " assignee assignees author_association"
        )
        self.pulls[number] = {
            **{name: f"{api}/{name}" for name in urls.split()},
            **{name: issue[name] for name in shared.split()},
            "url": api,
            "id": id,
            "node_id": f"PR_{id}",
            "html_url": web,
            "number": number,
            "merged_at": None,
            "merge_commit_sha": None,
            "auto_merge": None,
            "draft": False,
            "requested_reviewers": [],
            "requested_teams": [],
            "head": {**side, "ref": f"topic-{number}", "sha": sha_of(f"head {number}")},
            "base": {**side, "ref": "main", "sha": sha_of("base")},
            "_links": {name: {"href": api} for name in links.split()},
            "merged": False,
            "mergeable": True,
            "mergeable_state": "clean",
            "merged_by": None,
            "comments": 0,
            "review_comments": 0,
            "maintainer_can_modify": False,
            "commits": 1,
            "additions": 10 * number,
            "deletions": number,
            "changed_files": 2,
            **more,
        }
        self.reviews[number] = []
        return self.pulls[number]

    def change_pull(self, number: int, **more: Json) -> None:
        """Change a pull request alone."""
        self.change(number)
        self.pulls[number] |= more

    def review(self, number: int, state: str = "APPROVED", login: str = "bob") -> Json:
        id, api = self.data.id(), f"{self.api}/pulls/{number}"
        row = {
            "id": id,
            "node_id": f"RE_{id}",
            "user": self.data.user(login),
            "body": f"Review {id}",
            "state": state,
            "html_url": f"{self.web}/pull/{number}#review-{id}",
            "pull_request_url": api,
            "_links": {"html": {"href": api}, "pull_request": {"href": api}},
            "submitted_at": iso(self.data.clock()),
            "commit_id": sha_of("head"),
            "author_association": "NONE",
        }
        self.reviews[number].append(row)
        self.change(number)
        return row

    def comment(self, number: int, body: str, login: str = "bob") -> Json:
        id, now = self.data.id(), iso(self.data.clock())
        self.comments[id] = {
            "id": id,
            "node_id": f"IC_{id}",
            "url": f"{self.api}/issues/comments/{id}",
            "body": body,
            "html_url": f"{self.issues[number]['html_url']}#issuecomment-{id}",
            "created_at": now,
            "user": self.data.user(login),
            "updated_at": now,
            "issue_url": f"{self.api}/issues/{number}",
            "author_association": "NONE",
            "reactions": reactions(self.api, 1),
        }
        self.change(number, comments=self.issues[number]["comments"] + 1)
        return self.comments[id]

    def review_comment(self, number: int, body: str, **more: Json) -> Json:
        id, now, api = self.data.id(), iso(self.data.clock()), f"{self.api}/pulls/{number}"
        self.review_comments[id] = {
            "id": id,
            "node_id": f"RC_{id}",
            "url": f"{self.api}/pulls/comments/{id}",
            "body": body,
            "pull_request_review_id": None,
            "diff_hunk": "@@ -1 +1 @@",
            "path": "src/one.py",
            "commit_id": sha_of("head"),
            "original_commit_id": sha_of("head"),
            "created_at": now,
            "user": self.data.user("bob"),
            "updated_at": now,
            "pull_request_url": api,
            "line": 7,
            "html_url": f"{self.web}/pull/{number}#r{id}",
            "author_association": "NONE",
            "side": "RIGHT",
            "_links": {n: {"href": api} for n in ("self", "html", "pull_request")},
            "start_line": None,
            "reactions": reactions(self.api, 0),
            **more,
        }
        self.change(number)
        return self.review_comments[id]

    def commit(self, message: str, branch: str = "main", at: float | None = None, **more: Json) -> Json:
        """A new commit at the end of a branch."""
        parents = [self.branches[branch]] if branch in self.branches else []
        return self.commit_on(parents, message, branch, at, **more)

    def commit_on(
        self, parents: list[str], message: str, branch: str = "main", at: float | None = None, **more: Json
    ) -> Json:
        moment = iso(self.data.clock() if at is None else at)
        sha = sha_of(f"{self.row['id']} {parents} {message} {moment} {len(self.commits)}")
        url = f"{self.api}/commits/{sha}"
        ada = self.data.user("ada")
        person = {"name": "Ada L", "email": "ada@acme.test", "date": moment}
        proof = {"verified": True, "reason": "valid", "payload": None, "signature": None, "verified_at": None}
        self.commits[sha] = {
            "url": url,
            "sha": sha,
            "node_id": f"C_{sha}",
            "html_url": f"{self.web}/commit/{sha}",
            "comments_url": url,
            "author": ada,
            "committer": ada,
            "parents": [{"sha": one, "url": url, "html_url": url} for one in parents],
            "commit": {
                "url": url,
                "author": person,
                "committer": person,
                "message": message,
                "comment_count": 0,
                "tree": {"sha": sha_of("tree"), "url": url},
                "verification": proof,
            },
            **more,
        }
        self.branches[branch] = sha
        self.row["pushed_at"] = iso(self.data.clock())
        return self.commits[sha]

    def history(self, sha: str) -> list[str]:
        """All commits that a commit contains, newest first."""
        found: dict[str, None] = {}
        left = [sha]
        while left:
            one = left.pop()
            if one not in found:
                found[one] = None
                left += [parent["sha"] for parent in self.commits[one]["parents"]]
        order = list(self.commits)
        return sorted(found, key=order.index, reverse=True)

    def release(self, tag: str, **more: Json) -> Json:
        id, now = self.data.id(), iso(self.data.clock())
        web = f"{self.web}/releases/{id}"
        asset = {
            "url": web,
            "browser_download_url": web,
            "id": self.data.id(),
            "node_id": "A",
            "name": f"{tag}.zip",
            "label": None,
            "state": "uploaded",
            "content_type": "application/zip",
            "size": 9,
            "digest": None,
            "download_count": 4,
            "created_at": now,
            "updated_at": now,
            "uploader": self.data.user("ada"),
        }
        self.releases[id] = {
            "url": web,
            "html_url": web,
            "assets_url": web,
            "upload_url": web,
            "tarball_url": web,
            "zipball_url": web,
            "id": id,
            "node_id": f"RL_{id}",
            "tag_name": tag,
            "target_commitish": "main",
            "name": f"Version {tag}",
            "body": "News",
            "draft": False,
            "prerelease": False,
            "created_at": now,
            "published_at": now,
            "author": self.data.user("ada"),
            "assets": [asset],
            **more,
        }
        return self.releases[id]


def reactions(api: str, total: int) -> Json:
    """A summary of reactions."""
    names = ("+1", "-1", "laugh", "hooray", "confused", "heart", "rocket", "eyes")
    return {"url": api, "total_count": total, **dict.fromkeys(names, 0)}


def sha_of(text: str) -> str:
    """A hash, as git's look."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# -- example data ----------------------------------------------------------------------------------


def furnish(fake: Data, issues: int = 12) -> None:
    """Two repositories of an organization with all kinds of things, an empty and a plain one."""
    clock = fake.clock
    fake.clock = lambda: START
    fake.user("octo", "Organization")
    big, small = fake.repo("octo/big"), fake.repo("octo/small", has_issues=False, archived=True)
    fake.repo("ada/empty")
    fake.repo("ada/plain", license=None, description=None, language=None, topics=[])
    fake.team("octo", "core", ["ada", "bob"])
    fake.team("octo", "core-docs", ["eve"], parent="core")
    for name in ("bug", "idea", "unused"):
        big.label(name)
    first = big.milestone("1.0")
    big.milestone("0.9", state="closed", closed_at=iso(START))
    for number in range(issues):
        fake.clock = lambda number=number: START + 60 * number  # type: ignore[misc]
        if number % 4 == 3:
            pull = big.pull(f"Pull {number}")
            big.review(pull["number"])
            big.review_comment(pull["number"], f"line {number}")
            big.comment(pull["number"], f"on pull {number}")
        else:
            issue = big.issue(
                f"Issue {number}",
                labels=["bug", "idea"][: number % 3],
                assignees=["ada", "bob"][: number % 3],
                milestone=first if number % 2 else None,
                user=["ada", "bob", "eve"][number % 3],
            )
            for one in range(number % 3):
                big.comment(issue["number"], f"comment {one}")
        big.commit(f"Commit {number}\n\nLong text")
    big.change(1, state="closed", state_reason="completed", closed_at=iso(START + 5000), user=None)
    big.issues[1]["user"] = None
    big.commit("without an account", author=None, committer={})
    small.pull("Old pull")
    small.commit("first")
    for tag in ("v1", "v2"):
        big.release(tag)
    big.release("v3", draft=True, published_at=None, name=None)
    fake.clock = clock


def change(fake: Data) -> None:
    """Edit, close, create, relabel, comment, review, push, release."""
    big = repo_of(fake, "octo/big")
    big.change(2, title="Edited", labels=["idea"], assignees=["eve"])
    big.change(3, state="closed", state_reason="not_planned", closed_at=iso(fake.clock()))
    big.issue("Fresh", labels=["bug"])
    pull = big.pull("Fresh pull")
    big.review(pull["number"], "CHANGES_REQUESTED", "eve")
    big.review_comment(pull["number"], "fresh line")
    big.change_pull(pull["number"], requested_reviewers=[fake.user("zoe")])
    comment = next(iter(big.comments.values()))
    comment |= {"body": "edited", "updated_at": iso(fake.clock())}
    big.comment(2, "fresh")
    big.change_pull(4, additions=99, merged=True, merged_by=fake.user("eve"), merged_at=iso(fake.clock()))
    big.commit("Fresh commit")
    big.release("v4")
    big.label("fresh", color="00ff00")
    next(iter(big.milestones.values()))["title"] = "1.0 at last"
    repo_of(fake, "ada/plain").row["description"] = "now with words"


def repo_of(fake: Data, full_name: str) -> Repo:
    """The repository with this name."""
    found = fake.named(full_name)
    assert found is not None
    return found
