"""GitHub's API: the client, what its errors mean, and every request that is made.

Rule 1: the next page is where the Link header leads.  Answers that are as they were (status 304) cost
nothing of the hourly limit, so every page is asked for with the ETag that it had.

Rule 2: status 403 says little.  Headers and message tell a limit, which passes, from a permission that
is missing.  Status 404 also means that the credential may not know that something exists.

Rule 3: one request at a time, as GitHub asks for; the hourly limit allows no more than that anyway.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from max.connecting import (
    BadCredentials,
    BudgetHeaders,
    HttpClient,
    HttpResponse,
    InvalidAnswers,
    Json,
    Limit,
    Mismatch,
    Operation,
    PermissionDenied,
    QuotaExceeded,
    Retry,
    UpstreamBroken,
    UpstreamError,
    operation,
)

PAGE = 100  # rows of a page; GitHub gives no more
MINUTE = 60.0  # seconds to wait at least, when a secondary limit does not say how long
API = Limit("github:api", concurrency=1, calls=900, per=60.0)  # points; a request that reads costs one
RETRY = Retry(attempts=5, base=1.0, cap=30.0)
BUDGET = BudgetHeaders("x-ratelimit-remaining", "x-ratelimit-reset")
HEADERS = {
    "accept": "application/vnd.github+json",
    "x-github-api-version": "2022-11-28",
    "user-agent": "max-sync",
}
PARTS = (
    *("issues", "comments", "pulls", "pull_details", "reviews", "review_comments"),
    *("labels", "milestones", "commits", "releases", "teams"),
)
FULL_NAME = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class GithubConfig:
    """Which repositories, what of them, and the application that signs in, if any."""

    repositories: Sequence[str] = ()  # OWNER/NAME; empty: all that the credential has access to
    leave_out: Sequence[str] = ()  # parts that are not copied, of PARTS
    app_id: str = ""  # of a GitHub App
    installation_id: str = ""  # of that App, in an account or organization
    base_url: str = "https://api.github.com"  # of a server of your own: https://HOST/api/v3

    def __post_init__(self) -> None:
        wrong = [
            Mismatch("repositories", "names like octocat/hello-world", one)
            for one in self.repositories
            if not FULL_NAME.fullmatch(one) or {".", ".."} & set(one.split("/"))
        ]
        known = ", ".join(PARTS)
        wrong += [
            Mismatch("leave_out", f"some of {known}", one) for one in self.leave_out if one not in PARTS
        ]
        for name in ("app_id", "installation_id"):
            value = getattr(self, name)
            if value and not (value.isascii() and value.isalnum()):
                wrong.append(Mismatch(name, "the number that GitHub shows", value))
        if wrong:
            raise InvalidAnswers("invalid configuration of github", wrong)


@dataclass(frozen=True)
class Github:
    """The context of operations.  ``installed``: the credential is an App's, not a person's."""

    http: HttpClient
    config: GithubConfig
    installed: bool = False


# -- errors ------------------------------------------------------------------------------------


def read_error(response: HttpResponse) -> UpstreamError | None:
    """The error that a response means; None leaves it to its status."""
    status, headers = response.status, response.headers
    if status not in (401, 403, 429, 451):
        return None
    said = message_of(response)
    where = f"{response.request}: {said or 'refused'} ({status})"
    if status == 401:
        return BadCredentials(
            f"{response.request}: GitHub does not accept the credential ({said or status})",
            hint="it is wrong, has expired or was revoked: make a new one, and run max connect NAME --update",
        )
    if status == 451:
        return PermissionDenied(
            f"{response.request}: blocked for legal reasons (451)",
            hint="what is stored stays; take it out of the configuration, or out of what the credential sees",
        )
    secondary = "secondary rate limit" in said or "abuse detection" in said
    if status == 429 or secondary or "retry-after" in headers or headers.get("x-ratelimit-remaining") == "0":
        empty = headers.get("x-ratelimit-remaining") == "0"
        least = {} if "retry-after" in headers or empty else {"retry_after": MINUTE}
        return QuotaExceeded(where, hint="GitHub's limit passes by itself; the sync goes on then", **least)
    return PermissionDenied(where, hint=permission_hint(headers, said))


def message_of(response: HttpResponse) -> str:
    """GitHub's own words, on one line; empty without any."""
    try:
        data = response.json()
    except UpstreamBroken:
        return ""
    said = data.get("message") if isinstance(data, dict) else None
    return " ".join(said.split())[:200] if isinstance(said, str) else ""


def permission_hint(headers: Mapping[str, str], said: str) -> str:
    """What to do about a permission that is missing."""
    if headers.get("x-github-sso", "").startswith("required"):
        return (
            "the organization wants a single sign-on: open the token's page at GitHub (Settings,"
            " Developer settings), choose Configure SSO, and authorize the organization"
        )
    if "not accessible by" in said and headers.get("x-accepted-github-permissions"):
        wanted = headers["x-accepted-github-permissions"].replace("=", ": ").replace(";", ", or ")
        return f"give the token or App the permission {wanted}"
    lacking = scopes(headers.get("x-accepted-oauth-scopes")) - scopes(headers.get("x-oauth-scopes"))
    if lacking:
        return f"give the token one of the scopes {', '.join(sorted(lacking))}"
    return "grant it at GitHub, use another credential, or leave this out of the configuration"


def scopes(header: str | None) -> set[str]:
    """The scopes that a header lists."""
    return {one.strip() for one in (header or "").split(",")} - {""}


# -- requests ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A page: of what (the pieces of the path), with which parameters; or ``next``, where a link leads."""

    pieces: Sequence[str] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    next: str | None = None


async def page_of(github: Github, path: str, asked: Asked) -> HttpResponse:
    """The response with a page."""
    if asked.next is not None:
        return await github.http.request("GET", asked.next, conditional=True)
    params = {"per_page": str(PAGE), **asked.params}
    return await github.http.request("GET", path, *asked.pieces, params=params, conditional=True)


def lists(thing: str, path: str) -> Operation[Github, Asked, Json]:
    """The operation that gets a page of a list: its rows, and the link to the next page."""

    @operation(f"github:{thing}:list", limit=API, retry=RETRY)
    async def list_page(github: Github, asked: Asked) -> Json:
        response = await page_of(github, path, asked)
        return {"rows": response.json(), "next": response.link()}

    return list_page


REPOSITORY = "/repos/{}/{}"
list_issues = lists("issue", f"{REPOSITORY}/issues")
list_comments = lists("comment", f"{REPOSITORY}/issues/comments")
list_pulls = lists("pull", f"{REPOSITORY}/pulls")
list_review_comments = lists("review_comment", f"{REPOSITORY}/pulls/comments")
list_reviews = lists("review", f"{REPOSITORY}/pulls/{{}}/reviews")
list_labels = lists("label", f"{REPOSITORY}/labels")
list_milestones = lists("milestone", f"{REPOSITORY}/milestones")
list_releases = lists("release", f"{REPOSITORY}/releases")
list_teams = lists("team", "/orgs/{}/teams")
list_members = lists("team_member", "/orgs/{}/teams/{}/members")


@operation("github:repository:list", limit=API, retry=RETRY)
async def list_repositories(github: Github, asked: Asked) -> Json:
    """A page of the repositories that the credential has access to.

    ``hidden`` are the ids of organizations whose repositories GitHub leaves out, because they want a
    single sign-on.
    """
    path = "/installation/repositories" if github.installed else "/user/repos"
    response = await page_of(github, path, asked)
    data = response.json()
    said = response.headers.get("x-github-sso", "")
    hidden = said.partition("organizations=")[2] if said.startswith("partial-results") else ""
    return {
        "rows": data["repositories"] if github.installed else data,
        "next": response.link(),
        "total": data["total_count"] if github.installed else None,
        "hidden": [one.strip() for one in hidden.split(",") if one.strip()],
    }


@operation("github:repository:get", limit=API, retry=RETRY)
async def get_repository(github: Github, full_name: str) -> Json:
    """A repository, by its name or a former one."""
    return await github.http.get(REPOSITORY, *full_name.split("/"), conditional=True)


@operation("github:pull:get", limit=API, retry=RETRY)
async def get_pull(github: Github, pieces: Sequence[str]) -> Json:
    """A pull request, with its counts."""
    return await github.http.get(f"{REPOSITORY}/pulls/{{}}", *pieces)


@operation("github:commit:list", limit=API, retry=RETRY)
async def list_commits(github: Github, asked: Asked) -> Json:
    """A page of a branch's commits, newest first; none of an empty repository."""
    try:
        response = await page_of(github, f"{REPOSITORY}/commits", asked)
    except UpstreamError as error:
        if error.data.get("status") != 409:
            raise
        return {"rows": [], "next": None}
    return {"rows": response.json(), "next": response.link()}


@operation("github:commit:compare", limit=API, retry=RETRY)
async def compare(github: Github, asked: Asked) -> Json:
    """A page of the commits that a newer commit has and an older one has not, oldest first."""
    response = await page_of(github, f"{REPOSITORY}/compare/{{}}", asked)
    data = response.json()
    return {"rows": data["commits"], "status": data["status"], "next": response.link()}


@operation("github:account:get", limit=API, retry=RETRY)
async def get_account(github: Github, input: None) -> Json:
    """Whose credential it is: a user; of an App, how many repositories it may see."""
    if github.installed:
        return await github.http.get("/installation/repositories", params={"per_page": "1"})
    return await github.http.get("/user")


OPERATIONS: list[Operation[Github, Any, Json]] = [
    *(list_issues, list_comments, list_pulls, list_review_comments, list_reviews, list_labels),
    *(list_milestones, list_releases, list_teams, list_members, list_repositories, get_repository),
    *(get_pull, list_commits, compare, get_account),
]
