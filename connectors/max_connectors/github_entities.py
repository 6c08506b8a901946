"""GitHub's entities: what each thing is, and where the service's data has it.

Rule 1: what GitHub numbers within a repository has the id REPOSITORY/NUMBER, with the repository's own id.
So a comment's issue is known from the comment, and no id changes when a repository is renamed.

Rule 2: as at GitHub, every pull request is an issue, too, with the same id.  The issue has what both
have: text, labels, assignees, milestone, comments.  The pull request has its branches, reviews and counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from max.connecting import Entity, Field, Json, Many, Ref, Schema

Row = Mapping[str, Json]  # an object of GitHub's
ROOT_ID = "account"


class State(StrEnum):
    """Whether there is still something to do."""

    OPEN = "open"
    CLOSED = "closed"


def code_mark(row: Row) -> str:
    """Which branch is the default one, and when a branch was last pushed."""
    return f"{row.get('default_branch')} {row.get('pushed_at')}"


def is_pull(row: Row) -> bool:
    """Whether an issue is a pull request."""
    return row.get("pull_request") is not None


class Account(Entity):
    """What the credential gives access to, the root of everything else."""

    repositories: Many[Repository] = Many("the repositories that are copied")


class User(Entity, title="login", conventions={"bot": "type = Bot", "organization": "type = Organization"}):
    """A person, a bot or an organization that something copied names."""

    login: Field[str] = Field("the name, as in @name; it can change", searchable=True)
    type: Field[str] = Field("User, Bot, Organization or Mannequin", brief=True)
    url: Field[str] = Field("URL of the profile", source="html_url")
    avatar_url: Field[str | None] = Field("URL of the picture")
    teams: Many[Team] = Many("of an organization, its teams that the credential may see")


class Team(Entity, title="name"):
    """A team of an organization."""

    name: Field[str] = Field("its name", searchable=True)
    slug: Field[str] = Field("its name in URLs, as in @organization/slug", brief=True)
    organization: Field[Ref[User]] = Field("the organization that it belongs to")
    description: Field[str | None] = Field("what it is for", searchable=True, brief=True)
    privacy: Field[str | None] = Field("secret: members alone see it; closed: the whole organization")
    parent: Field[Ref[Team] | None] = Field("the team that contains it", source="parent.id")
    url: Field[str] = Field("URL of its page", source="html_url")
    members: Many[TeamMember] = Many("its members", by=lambda: TeamMember.team)


class TeamMember(Entity):
    """That a person is in a team; those of the teams below it count as well."""

    team: Field[Ref[Team]] = Field("the team")
    user: Field[Ref[User]] = Field("the person", source="id")


class Repository(
    Entity,
    title="full_name",
    conventions={
        "active": "archived = false AND disabled = false",
        "own": "fork = false",
        "public": "visibility = public",
    },
):
    """A repository: code, and what people write about it."""

    full_name: Field[str] = Field("OWNER/NAME, as it is now", searchable=True)
    name: Field[str] = Field("its name within the owner's")
    owner: Field[Ref[User]] = Field("the person or organization that it belongs to", source="owner.id")
    description: Field[str | None] = Field("what it is", searchable=True, brief=True)
    visibility: Field[str | None] = Field("public, private or internal", brief=True)
    archived: Field[bool] = Field("whether it can only be read", brief=True)
    disabled: Field[bool | None] = Field("whether GitHub has switched it off")
    fork: Field[bool] = Field("whether it began as a copy of another one")
    is_template: Field[bool | None] = Field("whether new repositories can begin as a copy of it")
    default_branch: Field[str | None] = Field("the branch whose commits are copied")
    language: Field[str | None] = Field("the programming language of most of its code", brief=True)
    topics: Field[list[str] | None] = Field("words by which its owner describes it")
    license: Field[str | None] = Field("short name of its licence, such as MIT", source="license.spdx_id")
    homepage: Field[str | None] = Field("URL of its website")
    size: Field[int | None] = Field("size on GitHub's disks, in KiB")
    stars: Field[int | None] = Field("how many people have starred it", source="stargazers_count", brief=True)
    forks: Field[int | None] = Field("how many forks it has", source="forks_count")
    open_issues: Field[int | None] = Field(
        "open issues and pull requests together", source="open_issues_count"
    )
    has_issues: Field[bool | None] = Field("whether it has issues; when they are turned off, they go")
    has_wiki: Field[bool | None] = Field("whether it has a wiki")
    has_discussions: Field[bool | None] = Field("whether it has discussions")
    url: Field[str] = Field("URL of its page", source="html_url")
    created_at: Field[datetime | None] = Field("when it was created")
    updated_at: Field[datetime | None] = Field("when it was changed itself, such as its description")
    pushed_at: Field[datetime | None] = Field("when a branch was last pushed", brief=True)
    code_mark: Field[str] = Field("changes when the commits may have", source=code_mark)
    issues: Many[Issue] = Many("its issues, pull requests included", by=lambda: Issue.repository)
    pulls: Many[Pull] = Many("its pull requests", by=lambda: Pull.repository)
    comments: Many[Comment] = Many("the comments on its issues", by=lambda: Comment.repository)
    review_comments: Many[ReviewComment] = Many(
        "the comments on lines of its pull requests", by=lambda: ReviewComment.repository
    )
    labels: Many[Label] = Many("its labels")
    milestones: Many[Milestone] = Many("its milestones", by=lambda: Milestone.repository)
    commits: Many[Commit] = Many("the commits of its default branch", by=lambda: Commit.repository)
    releases: Many[Release] = Many("its releases", by=lambda: Release.repository)


class Label(Entity, title="name"):
    """A label of a repository."""

    name: Field[str] = Field("its text", searchable=True)
    description: Field[str | None] = Field("what it means", brief=True)
    color: Field[str | None] = Field("its color, as six hexadecimal digits")
    default: Field[bool | None] = Field("whether GitHub made it with the repository")


class Milestone(
    Entity, title="title", conventions={"open": "state = open", "late": "state = open AND due_at < now"}
):
    """Something to reach by a day, and the issues on the way."""

    title: Field[str] = Field("its title", searchable=True)
    number: Field[int] = Field("its number in the repository")
    repository: Field[Ref[Repository]] = Field("the repository that it belongs to")
    description: Field[str | None] = Field("what it is about", searchable=True)
    state: Field[State] = Field("open or closed", brief=True)
    creator: Field[Ref[User] | None] = Field("who created it", source="creator.id")
    open_issues: Field[int] = Field("how many of its issues are open", brief=True)
    closed_issues: Field[int] = Field("how many of its issues are closed", brief=True)
    url: Field[str] = Field("URL of its page", source="html_url")
    created_at: Field[datetime] = Field("when it was created")
    updated_at: Field[datetime] = Field("when it last changed")
    closed_at: Field[datetime | None] = Field("when it was closed")
    due_at: Field[datetime | None] = Field("when it is due", source="due_on", brief=True)


class Issue(
    Entity,
    title="title",
    conventions={
        "open": "state = open",
        "issue": "is_pull = false",
        "done": 'state = closed AND state_reason = "completed"',
        "stale": "state = open AND updated_at < -90d",
    },
):
    """An issue or a pull request: what was reported or proposed, and what became of it."""

    title: Field[str] = Field("its title", searchable=True)
    number: Field[int] = Field("its number in the repository", brief=True)
    repository: Field[Ref[Repository]] = Field("the repository that it belongs to", brief=True)
    is_pull: Field[bool] = Field("whether it is a pull request", source=is_pull)
    state: Field[State] = Field("open or closed", brief=True)
    state_reason: Field[str | None] = Field("why: completed, not_planned, duplicate, or reopened")
    body: Field[str | None] = Field("its text, in Markdown", searchable=True)
    author: Field[Ref[User] | None] = Field("who opened it; empty when the account is gone", source="user.id")
    author_role: Field[str | None] = Field(
        "what the author is to the repository: OWNER, MEMBER, CONTRIBUTOR, NONE", source="author_association"
    )
    labels: Many[Label] = Many("its labels", inline="labels")
    assignees: Many[User] = Many("who works on it", inline="assignees")
    milestone: Field[Ref[Milestone] | None] = Field("what it is planned for", source="milestone.id")
    type: Field[str | None] = Field("the organization's own kind, such as Bug", source="type.name")
    comment_count: Field[int] = Field("how many comments it has", source="comments")
    reactions: Field[int | None] = Field("how many reactions it has", source="reactions.total_count")
    locked: Field[bool] = Field("whether only members may comment")
    lock_reason: Field[str | None] = Field(
        "why: resolved, off-topic, spam, or too heated", source="active_lock_reason"
    )
    url: Field[str] = Field("URL of its page", source="html_url")
    created_at: Field[datetime] = Field("when it was opened")
    updated_at: Field[datetime] = Field("when it last changed, comments included", brief=True)
    closed_at: Field[datetime | None] = Field("when it was closed")
    comments: Many[Comment] = Many("what was said about it", by=lambda: Comment.issue)


class Comment(Entity, title="body"):
    """A comment on an issue or a pull request."""

    body: Field[str | None] = Field("its text, in Markdown", searchable=True)
    issue: Field[Ref[Issue]] = Field("the issue or pull request", brief=True)
    repository: Field[Ref[Repository]] = Field("the repository that it belongs to")
    author: Field[Ref[User] | None] = Field(
        "who wrote it; empty when the account is gone", source="user.id", brief=True
    )
    author_role: Field[str | None] = Field(
        "what the author is to the repository", source="author_association"
    )
    reactions: Field[int | None] = Field("how many reactions it has", source="reactions.total_count")
    url: Field[str] = Field("URL of the comment", source="html_url")
    created_at: Field[datetime] = Field("when it was written", brief=True)
    updated_at: Field[datetime] = Field("when it last changed")


class Pull(
    Entity,
    title="title",
    conventions={
        "open": "state = open",
        "merged": "merged_at IS NOT NULL",
        "rejected": "state = closed AND merged_at IS NULL",
        "ready": "state = open AND draft = false",
    },
):
    """A pull request: branches, reviews, counts; its issue has labels, assignees and comments."""

    title: Field[str] = Field("its title", searchable=True)
    number: Field[int] = Field("its number in the repository", brief=True)
    repository: Field[Ref[Repository]] = Field("the repository that it would change", brief=True)
    issue: Field[Ref[Issue]] = Field("itself as an issue; absent where the repository has no issues")
    state: Field[State] = Field("open or closed; a merged one is closed", brief=True)
    draft: Field[bool | None] = Field("whether it is not yet meant to be merged")
    body: Field[str | None] = Field("its text, in Markdown", searchable=True)
    author: Field[Ref[User] | None] = Field("who opened it; empty when the account is gone", source="user.id")
    author_role: Field[str | None] = Field(
        "what the author is to the repository", source="author_association"
    )
    reviewers: Field[list[Ref[User]] | None] = Field(
        "who is asked for a review and has not given it", source="requested_reviewers.id"
    )
    reviewing_teams: Field[list[Ref[Team]] | None] = Field(
        "the teams that are asked for a review", source="requested_teams.id"
    )
    base_branch: Field[str] = Field("the branch that it would change", source="base.ref")
    base_commit: Field[str] = Field("the commit of that branch that it is compared with", source="base.sha")
    head_branch: Field[str] = Field("the branch with the changes", source="head.ref")
    head_commit: Field[str] = Field("the newest commit with the changes", source="head.sha")
    head_repository: Field[Ref[Repository] | None] = Field(
        "the repository with the changes, perhaps a fork; empty when it is gone", source="head.repo.id"
    )
    locked: Field[bool] = Field("whether only members may comment")
    url: Field[str] = Field("URL of its page", source="html_url")
    created_at: Field[datetime] = Field("when it was opened")
    updated_at: Field[datetime] = Field("when it last changed, comments and reviews included", brief=True)
    closed_at: Field[datetime | None] = Field("when it was closed")
    merged_at: Field[datetime | None] = Field("when it was merged", brief=True)
    merged_by: Field[str | None] = Field("login of who merged it", source="merged_by.login")
    commit_count: Field[int] = Field("how many commits it has", source="commits")
    added_lines: Field[int] = Field("how many lines it adds", source="additions")
    deleted_lines: Field[int] = Field("how many lines it deletes", source="deletions")
    changed_files: Field[int] = Field("how many files it changes")
    review_comment_count: Field[int] = Field("how many comments its lines have", source="review_comments")
    reviews: Many[Review] = Many("what reviewers decided", by=lambda: Review.pull)


class Review(Entity, title="body", conventions={"approval": "state = APPROVED"}):
    """A review of a pull request."""

    body: Field[str | None] = Field("its text, in Markdown", searchable=True)
    state: Field[str] = Field(
        "APPROVED, CHANGES_REQUESTED, COMMENTED, DISMISSED, or PENDING: not yet sent", brief=True
    )
    pull: Field[Ref[Pull]] = Field("the pull request", brief=True)
    author: Field[Ref[User] | None] = Field(
        "who wrote it; empty when the account is gone", source="user.id", brief=True
    )
    author_role: Field[str | None] = Field(
        "what the author is to the repository", source="author_association"
    )
    commit: Field[str | None] = Field("the commit that was reviewed", source="commit_id")
    url: Field[str] = Field("URL of the review", source="html_url")
    submitted_at: Field[datetime | None] = Field("when it was sent", brief=True)


class ReviewComment(Entity, title="body"):
    """A comment on lines of a pull request."""

    body: Field[str | None] = Field("its text, in Markdown", searchable=True)
    pull: Field[Ref[Pull]] = Field("the pull request", brief=True)
    repository: Field[Ref[Repository]] = Field("the repository that it belongs to")
    review: Field[Ref[Review] | None] = Field("the review that it came with", source="pull_request_review_id")
    reply_to: Field[Ref[ReviewComment] | None] = Field("the comment that it answers", source="in_reply_to_id")
    author: Field[Ref[User] | None] = Field(
        "who wrote it; empty when the account is gone", source="user.id", brief=True
    )
    author_role: Field[str | None] = Field(
        "what the author is to the repository", source="author_association"
    )
    path: Field[str] = Field("the file that it is about", searchable=True, brief=True)
    line: Field[int | None] = Field("the line; empty for a whole file, or when the line is gone")
    start_line: Field[int | None] = Field("the first of several lines")
    side: Field[str | None] = Field("LEFT: the line as it was; RIGHT: as it would be")
    diff: Field[str | None] = Field("the changed lines above it", source="diff_hunk")
    commit: Field[str] = Field("the commit that it is about", source="commit_id")
    reactions: Field[int | None] = Field("how many reactions it has", source="reactions.total_count")
    url: Field[str] = Field("URL of the comment", source="html_url")
    created_at: Field[datetime] = Field("when it was written", brief=True)
    updated_at: Field[datetime] = Field("when it last changed")


def headline(row: Row) -> str:
    """The first line of a commit's message."""
    return str(row["commit"]["message"]).partition("\n")[0]


class Commit(Entity, title="title", conventions={"merge": 'title ^= "Merge "'}):
    """A commit of a repository's default branch."""

    title: Field[str] = Field("the first line of its message", source=headline)
    message: Field[str] = Field("its whole message", source="commit.message", searchable=True)
    sha: Field[str] = Field("its hash", brief=True)
    repository: Field[Ref[Repository]] = Field("the repository that it belongs to", brief=True)
    parents: Field[list[str]] = Field("the hashes of the commits before it", source="parents.sha")
    author: Field[Ref[User] | None] = Field(
        "who wrote it; empty when the address belongs to no account", source="author.id"
    )
    author_name: Field[str | None] = Field(
        "the author's name in the commit", source="commit.author.name", brief=True
    )
    author_email: Field[str | None] = Field(
        "the author's address in the commit", source="commit.author.email"
    )
    authored_at: Field[datetime | None] = Field("when it was written", source="commit.author.date")
    committer: Field[Ref[User] | None] = Field(
        "who made the commit; empty when the address belongs to no account", source="committer.id"
    )
    committed_at: Field[datetime | None] = Field(
        "when the commit was made; a rebase makes it again", source="commit.committer.date", brief=True
    )
    verified: Field[bool | None] = Field(
        "whether GitHub could verify its signature", source="commit.verification.verified"
    )
    url: Field[str] = Field("URL of its page", source="html_url")


def asset_names(row: Row) -> list[str]:
    """The names of a release's files."""
    return [one["name"] for one in row.get("assets") or ()]


def downloads(row: Row) -> int:
    """How often a release's files were downloaded, all together."""
    return sum(one.get("download_count") or 0 for one in row.get("assets") or ())


class Release(Entity, title="name", conventions={"stable": "draft = false AND prerelease = false"}):
    """A version that was given out."""

    name: Field[str | None] = Field("its title", searchable=True)
    tag: Field[str] = Field("the tag that it is made of", source="tag_name", searchable=True, brief=True)
    target: Field[str] = Field("branch or commit that the tag is made from", source="target_commitish")
    repository: Field[Ref[Repository]] = Field("the repository that it belongs to", brief=True)
    body: Field[str | None] = Field("what is new, in Markdown", searchable=True)
    draft: Field[bool] = Field("whether only those who may push can see it")
    prerelease: Field[bool] = Field("whether it is not yet meant for everyone", brief=True)
    author: Field[Ref[User] | None] = Field("who made it", source="author.id")
    assets: Field[list[str]] = Field("the names of its files", source=asset_names)
    downloads: Field[int] = Field("how often its files were downloaded, all together", source=downloads)
    url: Field[str] = Field("URL of its page", source="html_url")
    created_at: Field[datetime] = Field("when its commit was made")
    published_at: Field[datetime | None] = Field("when it was published; empty for a draft", brief=True)


SCHEMA = Schema(
    [
        *(Account, Repository, Issue, Pull, Comment, Review, ReviewComment, Label, Milestone),
        *(Commit, Release, User, Team, TeamMember),
    ],
    roots=[Account],
)
