"""GitHub: repositories with issues, pull requests, comments, commits, releases, and teams.

``github_entities.py`` has the entities, ``github_api.py`` the requests and errors, ``github_sign_in.py``
the credentials.

Rule 1: a list that can begin at a time (issues, comments) is read oldest change first, and each page begins
at the last time of the one before.  A row that changes meanwhile moves to the end and comes again; none
slips between two pages, as with numbered pages.

Rule 2: commits have no such order.  What is new is what GitHub says that the newest commit has and the one
of the last sync has not; when that one is no longer part of the branch, everything is listed.

Rule 3: a repository that cannot be read is said in words and stops no other.  Its rows stay, unless GitHub
says that it does not exist.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypeVar

from max.connecting import (
    Answers,
    BadCredentials,
    BearerAuth,
    Connector,
    CredentialProvider,
    Entity,
    Env,
    FieldOf,
    HttpClient,
    Input,
    Installation,
    Json,
    Loader,
    Operation,
    Page,
    PageRequest,
    PermissionDenied,
    Query,
    Ref,
    RunCode,
    SecretInput,
    Select,
    Step,
    Store,
    SyncPlan,
    SyncTokenRefused,
    UpstreamMissing,
    Validate,
    Watermark,
    require_http,
)

from .github_api import (
    BUDGET,
    HEADERS,
    OPERATIONS,
    PAGE,
    Asked,
    Github,
    GithubConfig,
    compare,
    get_account,
    get_pull,
    get_repository,
    list_comments,
    list_commits,
    list_issues,
    list_labels,
    list_members,
    list_milestones,
    list_pulls,
    list_releases,
    list_repositories,
    list_review_comments,
    list_reviews,
    list_teams,
    read_error,
)
from .github_entities import (
    ROOT_ID,
    SCHEMA,
    Account,
    Comment,
    Commit,
    Issue,
    Label,
    Milestone,
    Pull,
    Release,
    Repository,
    Review,
    ReviewComment,
    Row,
    State,
    Team,
    TeamMember,
    User,
)
from .github_sign_in import INSTALLED, OAUTH, PRIVATE_KEY, TOKEN, app_tokens
from .github_webhook import WEBHOOK, WEBHOOK_SECRET

__all__ = [
    "Account",
    "Comment",
    "Commit",
    "GithubConfig",
    "Issue",
    "Label",
    "Milestone",
    "Pull",
    "Release",
    "Repository",
    "Review",
    "ReviewComment",
    "State",
    "Team",
    "TeamMember",
    "User",
    "connector",
]

Given: TypeAlias = Mapping[FieldOf[Any, Any], object]  # values that come with no row
NOTHING: Given = {}
E = TypeVar("E", bound=Entity)
DAY = timedelta(days=1)
OVERLAP = timedelta(minutes=1)  # by which GitHub may show a change later than it dates it
PEOPLE = ("user", "author", "committer", "creator", "owner", "merged_by")


# -- repositories ------------------------------------------------------------------------------


@Loader.collection(Account.repositories, brings=[Repository, User])
async def repositories(parent: Ref[Account], request: PageRequest, env: Env[Github]) -> Page[Repository]:
    """The repositories that are configured, one a page; or all that the credential has access to."""
    names = env.context.config.repositories
    if names:
        return await configured(names, json.loads(request.cursor or "{}"), env)
    params = {} if env.context.installed else {"sort": "created", "direction": "asc"}
    answer = await env.run(list_repositories, Asked((), params, request.cursor))
    hidden = {id: wants_sign_on(id) for id in answer["hidden"]}
    failed: dict[str, Exception] = {}
    if hidden:
        owners = [User.ref(id) for id in hidden]
        kept = Query(Repository).where(Repository.owner.is_in(owners)).limit(PAGE * PAGE)
        failed = {one.id: hidden[one.owner.id] for one in (await env.fetch(kept)).items} or dict(hidden)
    rows = [row for row in answer["rows"] if str(row["id"]) not in failed]
    total = None if failed else answer["total"]
    return page_with(Repository, rows, answer["next"], total=total, failed=failed)


def wants_sign_on(organization: str) -> PermissionDenied:
    """The error for what GitHub leaves out of a list."""
    return PermissionDenied(
        f"github: the repositories of organization {organization} are left out: it wants a single sign-on",
        hint="open the token's page at GitHub, choose Configure SSO, and authorize the organization",
    )


async def configured(names: Sequence[str], at: Json, env: Env[Github]) -> Page[Repository]:
    """One of the configured repositories; what cannot be read is said, and stops no other.

    ``at`` has the number of the name.  A repository that has two of the names comes once; ``moved`` has
    the ids of those that came by a former name, ``again`` says how many names brought nothing new.
    """
    number, moved, again = at.get("name", 0), at.get("moved", []), at.get("again", 0)
    name, rows = names[number], []
    failed: dict[str, Exception] = {}
    try:
        row = await env.run(get_repository, name)
        now, id = row["full_name"].lower(), str(row["id"])
        if now == name.lower() or (id not in moved and now not in map(str.lower, names)):
            rows = [row]
        moved = moved if now == name.lower() else [*moved, id]
    except UpstreamMissing as error:
        if await id_of(name, env) == name:  # while it is stored its rows go first; an error would keep them
            failed = {name: gone(name, error)}
    except PermissionDenied as error:
        failed = {await id_of(name, env): forbidden(name, error)}
    again += not rows and not failed
    left = {"name": number + 1, "moved": moved, "again": again}
    following = json.dumps(left) if number + 1 < len(names) else None
    return page_with(Repository, rows, following, failed=failed, total=len(names) - again)


async def id_of(name: str, env: Env[Github]) -> str:
    """The id of a stored repository; its name when it is not stored."""
    stored = await env.fetch(Query(Repository).where(Repository.full_name.eq(name)).limit(1))
    return next((one.id for one in stored.items), name)


def gone(name: str, error: UpstreamMissing) -> UpstreamMissing:
    """The error for a configured repository that GitHub does not show."""
    return UpstreamMissing(
        f"github: there is no repository {name}, or the credential may not see it",
        hint="take it out of the configuration (max connect NAME --update), or give the credential access",
        **error.data,
    )


def forbidden(name: str, error: PermissionDenied) -> PermissionDenied:
    """The error for a configured repository that may not be read."""
    return PermissionDenied(f"github: {name} cannot be read: {error}", hint=error.hint, **error.data)


# -- what a repository has ---------------------------------------------------------------------


def people_of(rows: Iterable[Row]) -> list[User]:
    """Everyone whom these rows name, each once."""
    found: dict[int, Json] = {}
    for row in rows:
        named = [row.get(key) for key in PEOPLE]
        for key in ("assignees", "requested_reviewers"):
            named += row.get(key) or ()
        for person in named:
            if isinstance(person, Mapping) and "id" in person and "login" in person:
                found[person["id"]] = person
    return [User.read(person) for person in found.values()]


def page_with(
    entity: type[E], rows: list[Json], following: str | None, given: Given = NOTHING, **more: Any
) -> Page[E]:
    """A page of rows, with the people whom they name.

    A last page that is full may be the same although there is one after it now; of any other the
    size says that it cannot be.
    """
    size = PAGE if len(rows) < PAGE else None
    about: dict[str, Any] = {"next": following, "also": people_of(rows), "size": size, **more}
    return Page.read(entity, rows, given, **about)


async def name_of(repository: str, env: Env[Github]) -> tuple[str, str]:
    """Owner and name of a repository, as paths have them."""
    owner, _, name = (await env.stored(Repository, repository)).full_name.partition("/")
    return owner, name


def numbered(repository: Ref[Repository]) -> Callable[[Row], str]:
    """The id of what a repository numbers."""
    return lambda row: f"{repository.id}/{row['number']}"


def named_in(key: str, repository: Ref[Repository]) -> Callable[[Row], str]:
    """The id of the issue or pull request whose address a row has under a key."""
    return lambda row: f"{repository.id}/{row[key].rpartition('/')[2]}"


def text_of(moment: datetime) -> str:
    """A time as GitHub's parameters have it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def changed_since(
    lists: Operation[Github, Asked, Json],
    repository: str,
    params: Mapping[str, str],
    request: PageRequest,
    env: Env[Github],
) -> tuple[list[Json], str | None]:
    """Rows by the time of their change, oldest first, and the cursor of the next page.

    The cursor has the time at which that page begins.  Where one time fills a whole page, it has a
    link, as only those lead on.
    """
    at = json.loads(request.cursor) if request.cursor else {}
    if not at and request.since is not None:
        at = {"since": text_of(request.since)}
    order = {**params, "sort": "updated", "direction": "asc"}
    if "since" in at:
        order["since"] = at["since"]
    answer = await env.run(lists, Asked(await name_of(repository, env), order, at.get("next")))
    rows = answer["rows"]
    if answer["next"] is None:
        return rows, None
    last = rows[-1]["updated_at"] if rows else ""
    if last > at.get("since", ""):
        return rows, json.dumps({"since": last})
    return rows, json.dumps({"since": at.get("since", ""), "next": answer["next"]})


@Loader.collection(
    Repository.issues,
    brings=[Issue, Label, User],
    watermark=Watermark(Issue.updated_at, overlap=OVERLAP, newest_first=False),
    sweep=DAY,
    stable=True,
)
async def issues(parent: Ref[Repository], request: PageRequest, env: Env[Github]) -> Page[Issue]:
    """The issues of a repository, and its pull requests as issues; none where issues are turned off."""
    if (await env.stored(Repository, parent.id)).has_issues is False:
        return Page([])  # GitHub would answer that they are gone
    rows, following = await changed_since(list_issues, parent.id, {"state": "all"}, request, env)
    given: Given = {Issue.id: numbered(parent), Issue.repository: parent}
    return page_with(Issue, rows, following, given)


@Loader.collection(
    Repository.comments,
    brings=[Comment, User],
    watermark=Watermark(Comment.updated_at, overlap=OVERLAP, newest_first=False),
    sweep=DAY,
    stable=True,
)
async def comments(parent: Ref[Repository], request: PageRequest, env: Env[Github]) -> Page[Comment]:
    """All comments on issues and pull requests of a repository."""
    rows, following = await changed_since(list_comments, parent.id, {}, request, env)
    given: Given = {
        Comment.issue: named_in("issue_url", parent),
        Comment.repository: parent,
    }
    return page_with(Comment, rows, following, given)


@Loader.collection(
    Repository.review_comments,
    brings=[ReviewComment, User],
    watermark=Watermark(ReviewComment.updated_at, overlap=OVERLAP, newest_first=False),
    sweep=DAY,
    stable=True,
)
async def review_comments(
    parent: Ref[Repository], request: PageRequest, env: Env[Github]
) -> Page[ReviewComment]:
    """All comments on lines of a repository's pull requests."""
    rows, following = await changed_since(list_review_comments, parent.id, {}, request, env)
    given: Given = {
        ReviewComment.pull: named_in("pull_request_url", parent),
        ReviewComment.repository: parent,
    }
    return page_with(ReviewComment, rows, following, given)


@Loader.collection(Repository.labels, brings=Label)
async def labels(parent: Ref[Repository], request: PageRequest, env: Env[Github]) -> Page[Label]:
    """The labels of a repository."""
    answer = await env.run(list_labels, Asked(await name_of(parent.id, env), {}, request.cursor))
    return page_with(Label, answer["rows"], answer["next"])


@Loader.collection(Repository.milestones, brings=[Milestone, User])
async def milestones(parent: Ref[Repository], request: PageRequest, env: Env[Github]) -> Page[Milestone]:
    """The milestones of a repository."""
    asked = Asked(await name_of(parent.id, env), {"state": "all"}, request.cursor)
    answer = await env.run(list_milestones, asked)
    rows: list[Json] = answer["rows"]
    given: Given = {Milestone.repository: parent}
    return page_with(Milestone, rows, answer["next"], given)


@Loader.collection(Repository.releases, brings=[Release, User])
async def releases(parent: Ref[Repository], request: PageRequest, env: Env[Github]) -> Page[Release]:
    """The releases of a repository, and its drafts if the credential may push."""
    answer = await env.run(list_releases, Asked(await name_of(parent.id, env), {}, request.cursor))
    rows: list[Json] = answer["rows"]
    given: Given = {Release.repository: parent}
    return page_with(Release, rows, answer["next"], given)


# -- pull requests -----------------------------------------------------------------------------

DETAILS = (
    *(Pull.merged_by, Pull.commit_count, Pull.added_lines, Pull.deleted_lines),
    *(Pull.changed_files, Pull.review_comment_count),
)


@Loader.collection(
    Repository.pulls,
    brings=[Pull, User],
    watermark=Watermark(Pull.updated_at, overlap=OVERLAP, newest_first=False),
    sweep=DAY,
)
async def pulls(parent: Ref[Repository], request: PageRequest, env: Env[Github]) -> Page[Pull]:
    """The pull requests of a repository: all, oldest first, or what changed, newest change first.

    GitHub cannot begin this list at a time.  People cannot delete a pull request, but GitHub does, as spam.
    """
    order = {"sort": "created", "direction": "asc"}
    if request.since is not None:
        order = {"sort": "updated", "direction": "desc"}
    asked = Asked(await name_of(parent.id, env), {"state": "all", **order}, request.cursor)
    answer = await env.run(list_pulls, asked)
    rows, following = answer["rows"], answer["next"]
    if request.since is not None:
        since = text_of(request.since)
        new = [row for row in rows if row["updated_at"] >= since]
        rows, following = new, following if len(new) == len(rows) else None
    given: Given = {
        Pull.id: numbered(parent),
        Pull.issue: numbered(parent),
        Pull.repository: parent,
    }
    return page_with(Pull, rows, following, given)


async def path_of(pull: str, env: Env[Github]) -> tuple[str, str, str]:
    """Owner, name and number of a pull request."""
    repository, _, number = pull.partition("/")
    return *(await name_of(repository, env)), number


@Loader.entity(*DETAILS, refresh_when=Pull.updated_at)
async def pull_details(ref: Ref[Pull], env: Env[Github]) -> Pull:
    """How much a pull request changes, and who merged it."""
    row = await env.run(get_pull, await path_of(ref.id, env))
    return Pull.read(row, {Pull.id: ref.id}, fields=DETAILS)


@Loader.collection(Pull.reviews, brings=[Review, User], refresh_when=Pull.updated_at)
async def reviews(parent: Ref[Pull], request: PageRequest, env: Env[Github]) -> Page[Review]:
    """The reviews of a pull request."""
    answer = await env.run(list_reviews, Asked(await path_of(parent.id, env), {}, request.cursor))
    rows: list[Json] = answer["rows"]
    given: Given = {Review.pull: parent}
    return page_with(Review, rows, answer["next"], given)


# -- commits -----------------------------------------------------------------------------------


@Loader.collection(Repository.commits, brings=[Commit, User], refresh_when=Repository.code_mark, stable=True)
async def commits(parent: Ref[Repository], request: PageRequest, env: Env[Github]) -> Page[Commit]:
    """The commits of the default branch: all of them, or those that are new in it."""
    repository = await env.stored(Repository, parent.id)
    owner_and_name = tuple(repository.full_name.split("/"))
    at = json.loads(request.cursor) if request.cursor else {}
    if not at:
        head = await newest_commit(repository, owner_and_name, env)
        if head is None:
            return Page([])
        at = {"head": head, "base": request.sync_token}
    head, base, number = at["head"], at["base"], at.get("page", 1)
    if base == head:
        return Page([], sync_token=head)
    if base is None:
        params = {"sha": head, "page": str(number)}
        answer = await env.run(list_commits, Asked(owner_and_name, params))
    else:
        answer = await new_commits(base, head, number, owner_and_name, env)
    rows = answer["rows"]
    given: Given = {
        Commit.id: lambda row: f"{parent.id}/{row['sha']}",
        Commit.repository: parent,
    }
    following = json.dumps({**at, "page": number + 1}) if answer["next"] else None
    return page_with(Commit, rows, following, given, sync_token=None if following else head)


async def newest_commit(
    repository: Repository, owner_and_name: Sequence[str], env: Env[Github]
) -> str | None:
    """The hash of the default branch's newest commit; None of an empty repository."""
    branch = repository.default_branch or "HEAD"
    answer = await env.run(list_commits, Asked(owner_and_name, {"sha": branch, "per_page": "1"}))
    return next((row["sha"] for row in answer["rows"]), None)


async def new_commits(
    base: str, head: str, number: int, owner_and_name: Sequence[str], env: Env[Github]
) -> Json:
    """A page of the commits that are in head and not in base; SyncTokenRefused when base is not in head."""
    asked = Asked([*owner_and_name, f"{base}...{head}"], {"page": str(number)})
    try:
        answer = await env.run(compare, asked)
    except UpstreamMissing as error:
        raise SyncTokenRefused(f"github: commit {base} is gone", hint="everything is listed") from error
    if answer["status"] not in ("ahead", "identical"):
        raise SyncTokenRefused(
            f"github: commit {base} is no longer part of the branch", hint="everything is listed"
        )
    return answer


# -- teams -------------------------------------------------------------------------------------


@Loader.collection(User.teams, brings=Team)
async def teams(parent: Ref[User], request: PageRequest, env: Env[Github]) -> Page[Team]:
    """The teams of an organization; none where the credential may not see them and never could."""
    organization = await env.stored(User, parent.id)
    try:
        answer = await env.run(list_teams, Asked((organization.login,), {}, request.cursor))
    except (PermissionDenied, UpstreamMissing):
        known = await env.fetch(Query(Team).where(Team.organization.eq(parent)).limit(1))
        if request.cursor is not None or known.items:
            raise
        return Page([])
    given: Given = {Team.organization: parent}
    return page_with(Team, answer["rows"], answer["next"], given)


@Loader.collection(Team.members, brings=[TeamMember, User])
async def members(parent: Ref[Team], request: PageRequest, env: Env[Github]) -> Page[TeamMember]:
    """The members of a team."""
    team = await env.stored(Team, parent.id)
    organization = await env.stored(User, team.organization.id)
    answer = await env.run(list_members, Asked((organization.login, team.slug), {}, request.cursor))
    rows = answer["rows"]
    given: Given = {
        TeamMember.id: lambda row: f"{parent.id}/{row['id']}",
        TeamMember.team: parent,
    }
    also = [User.read(row) for row in rows]
    return page_with(TeamMember, rows, answer["next"], given, also=also)


# -- the plan ----------------------------------------------------------------------------------


async def seed(github: Github, store: Store) -> SyncPlan:
    """Store the root; then its repositories, what they have, and what hangs on their pull requests."""
    root = Account(ROOT_ID)
    await store.store(root)
    each, pull = Step.for_all(Repository), Step.for_all(Pull)
    organization = Step.for_all(User, where=User.type.eq("Organization"))
    parts = {
        "labels": [each.load_collection(Repository.labels)],
        "milestones": [each.load_collection(Repository.milestones)],
        "issues": [each.load_collection(Repository.issues)],
        "comments": [each.load_collection(Repository.comments)],
        "pulls": [each.load_collection(Repository.pulls)],
        "review_comments": [each.load_collection(Repository.review_comments)],
        "commits": [each.load_collection(Repository.commits)],
        "releases": [each.load_collection(Repository.releases)],
        "teams": [organization.load_collection(User.teams), Step.for_all(Team).load_collection(Team.members)],
        "pull_details": [pull.load_fields(*DETAILS)],
        "reviews": [pull.load_collection(Pull.reviews)],
    }
    steps = [one for name, some in parts.items() if name not in github.config.leave_out for one in some]
    return SyncPlan([Step.for_root(Ref.of(root)).load_collection(Account.repositories), *steps])


# -- connecting --------------------------------------------------------------------------------


async def initialise(config: GithubConfig, credentials: CredentialProvider) -> Installation[Github]:
    """A client of the API; an App's key takes precedence over a token."""
    key, token = await credentials.find(PRIVATE_KEY), await credentials.find(TOKEN)
    if key is None and token is None:
        raise BadCredentials(
            "github: no credential is stored",
            hint="give one to max connect (with --update if it is connected): --credential token=env:VAR",
        )
    if key is not None:
        app, exchange, tokens = app_tokens(config, key, credentials)
        http = HttpClient(
            config.base_url,
            credentials,
            auth=tokens,
            headers=HEADERS,
            read_error=read_error,
            budgets=[BUDGET],
        )
        github = Github(http, config, installed=True)

        async def start() -> None:
            await asyncio.to_thread(app.load)
            await tokens.start()

        async def stop() -> None:
            await http.stop()
            await tokens.stop()
            await exchange.stop()

        return Installation(github, start, stop, tokens.renew, lambda: health(github))
    assert token is not None
    http = HttpClient(
        config.base_url,
        credentials,
        auth=BearerAuth(token),
        headers=HEADERS,
        read_error=read_error,
        budgets=[BUDGET],
    )
    github = Github(http, config, installed=token.reveal().startswith(INSTALLED))
    return Installation(github, stop=http.stop, health=lambda: health(github))


async def health(github: Github) -> str:
    """Whose credential it is, in one line."""
    answer = await get_account(github, None)
    if github.installed:
        return f"github: an installed App with access to {answer['total_count']:,} repositories"
    return f"github: as {answer['login']}"


async def connected(answers: Answers, credentials: CredentialProvider, stack: AsyncExitStack) -> Github:
    """A client for the answers so far, until the stack ends."""
    config = GithubConfig(**{one.name: answers[one.name] for one in fields(GithubConfig)})
    installation = await initialise(config, credentials)
    assert installation.stop
    stack.push_async_callback(installation.stop)
    if installation.start:
        await installation.start()
    return installation.context


async def choose_method(answers: Answers, credentials: CredentialProvider) -> Mapping[str, Json]:
    """Without a token, the next steps ask for what an App needs."""
    return {"by_app": await credentials.find(TOKEN) is None}


def by_app(answers: Answers) -> bool:
    """Whether an App signs in."""
    return bool(answers["by_app"])


async def check(answers: Answers, credentials: CredentialProvider) -> str:
    """Check the credential by asking GitHub whose it is, and the repositories that are configured."""
    async with AsyncExitStack() as stack:
        github = await connected(answers, credentials, stack)
        said = await health(github)
        for name in github.config.repositories:
            try:
                await get_repository(github, name)
            except UpstreamMissing as error:
                raise gone(name, error) from error
        return said


async def repositories_to_choose(answers: Answers, credentials: CredentialProvider) -> list[tuple[str, str]]:
    """The repositories that the credential has access to, by name."""
    names: list[str] = []
    following = None
    async with AsyncExitStack() as stack:
        github = await connected(answers, credentials, stack)
        while True:
            answer = await list_repositories(github, Asked((), {}, following))
            names += [row["full_name"] for row in answer["rows"]]
            following = answer["next"]
            if following is None:
                return [(name, name) for name in sorted(names)]


connector = Connector(
    name="github",
    description="GitHub: repositories, issues, pull requests, reviews, comments, commits, releases, teams.",
    schema=SCHEMA,
    loaders=[
        *(repositories, issues, comments, pulls, review_comments, labels, milestones, releases),
        *(pull_details, reviews, commits, teams, members),
    ],
    seeder=seed,
    initialise=initialise,
    config=GithubConfig,
    hosts=["{base_url}"],
    credentials=[TOKEN, PRIVATE_KEY, *OAUTH.credentials, WEBHOOK_SECRET],
    webhook=WEBHOOK,
    onboarding=[
        SecretInput(TOKEN, "Personal access token, classic or fine-grained; leave empty to use a GitHub App"),
        RunCode(choose_method),
        Input("app_id", "Id of the GitHub App", when=by_app),
        Input(
            "installation_id", "Id of its installation (the number in the installation's URL)", when=by_app
        ),
        SecretInput(PRIVATE_KEY, "Private key of the App, the content of its PEM file", when=by_app),
        Validate(check),
        Select(
            "repositories",
            "Repositories to copy (none: all, also future ones)",
            repositories_to_choose,
            several=True,
        ),
    ],
    operations=[*OPERATIONS, OAUTH.renewal],
    requires=[require_http],
)
