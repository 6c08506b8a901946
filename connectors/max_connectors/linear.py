"""Linear: issues and everything planned and said around them, from api.linear.app.

Rule 1: every kind of record is listed by its own root connection and joined by id.  A connection
nested in another one has a cursor for each parent, and would be truncated without notice.

Rule 2: the entity's declaration decides what is requested and how it is read: each field from its
source, a ref as ``{ id }``.

Rule 3: a full listing is sorted by creation time, which no edit changes, so that edits during the
listing cannot move a row past it.  A listing of changes is sorted by update time, newest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from operator import itemgetter

from max.connecting import (
    Answers,
    BadCredentials,
    BrowserSignIn,
    BudgetHeaders,
    Connector,
    Credential,
    CredentialProvider,
    Entity,
    Env,
    Field,
    GraphQL,
    HttpClient,
    Input,
    Installation,
    InvalidAnswers,
    Json,
    KeyAuth,
    Limit,
    Loader,
    Many,
    Mismatch,
    OAuth,
    OAuthTokens,
    Operation,
    Page,
    PageRequest,
    PermissionDenied,
    Ref,
    RelayConnection,
    Retry,
    RunCode,
    Schema,
    SecretInput,
    SignIn,
    Step,
    Store,
    SyncPlan,
    UpstreamChanged,
    Validate,
    Watermark,
    operation,
    require_http,
    sources_of,
)

from .linear_webhook import WEBHOOK_SECRET, webhook

ROOT_ID = "workspace"  # a credential belongs to exactly one

# -- entities ----------------------------------------------------------------------------


class LinearOrganization(Entity, title="name"):
    """The workspace of the credential, the root of everything else."""

    organization_id: Field[str] = Field("its id at Linear", source="id")
    name: Field[str] = Field("the workspace's name", searchable=True)
    url_key: Field[str] = Field("its part of every URL: linear.app/KEY")
    logo_url: Field[str | None] = Field("URL of its logo")
    user_count: Field[int] = Field("number of active accounts")
    created_at: Field[datetime] = Field("when it was created")
    updated_at: Field[datetime] = Field("when it last changed")
    teams: Many[LinearTeam] = Many("the teams that the credential can see")
    users: Many[LinearUser] = Many("everyone with an account, closed accounts included")
    workflow_states: Many[LinearWorkflowState] = Many("the statuses of every team")
    labels: Many[LinearLabel] = Many("the labels of issues")
    cycles: Many[LinearCycle] = Many("the cycles of every team")
    project_statuses: Many[LinearProjectStatus] = Many("the statuses of projects")
    project_labels: Many[LinearProjectLabel] = Many("the labels of projects")
    projects: Many[LinearProject] = Many("the projects")
    project_milestones: Many[LinearProjectMilestone] = Many("the milestones of every project")
    project_updates: Many[LinearProjectUpdate] = Many("the reports on every project")
    initiatives: Many[LinearInitiative] = Many("the initiatives")
    initiative_projects: Many[LinearInitiativeProject] = Many("which projects belong to which initiatives")
    issues: Many[LinearIssue] = Many("the issues of every team")
    issue_relations: Many[LinearIssueRelation] = Many("relations between issues")
    comments: Many[LinearComment] = Many("comments on issues, projects, documents, …")
    attachments: Many[LinearAttachment] = Many("links from issues to other services")
    documents: Many[LinearDocument] = Many("the documents")
    team_memberships: Many[LinearTeamMembership] = Many("who is in which team")


class LinearTeam(Entity, title="name"):
    """A group of people with its own issues, statuses and cycles."""

    key: Field[str] = Field("prefix of its issues' identifiers: ENG", brief=True)
    name: Field[str] = Field("the team's name", searchable=True)
    display_name: Field[str] = Field("its name, preceded by the parent team's")
    description: Field[str | None] = Field("its purpose", searchable=True)
    parent: Field[Ref[LinearTeam] | None] = Field("the team that it is part of")
    visibility: Field[str] = Field("public, private (visible to members only) or restricted")
    default_issue_state: Field[Ref[LinearWorkflowState] | None] = Field("the status of a new issue")
    triage_issue_state: Field[Ref[LinearWorkflowState] | None] = Field("the status of a new issue in triage")
    cycles_enabled: Field[bool] = Field("whether it uses cycles")
    triage_enabled: Field[bool] = Field("whether it uses triage")
    issue_count: Field[int] = Field("number of its issues, without archived ones")
    timezone: Field[str] = Field("IANA time zone")
    color: Field[str | None] = Field("its colour, as #rrggbb")
    icon: Field[str | None] = Field("its icon's name or emoji")
    retired_at: Field[datetime | None] = Field("when it was retired; it takes no new issues since then")
    created_at: Field[datetime] = Field("when it was created")
    updated_at: Field[datetime] = Field("when it last changed")
    archived_at: Field[datetime | None] = Field("when it was archived; empty while in use")


class LinearUser(Entity, title="name"):
    """A person or an app with an account in the workspace."""

    name: Field[str] = Field("the full name", searchable=True)
    display_name: Field[str] = Field("the short name, unique in the workspace", searchable=True)
    email: Field[str] = Field("e-mail address", searchable=True, brief=True)
    active: Field[bool] = Field("false once the account is closed or suspended", brief=True)
    admin: Field[bool] = Field("whether they administer the workspace")
    owner: Field[bool] = Field("whether they own the workspace")
    guest: Field[bool] = Field("whether they see only teams that they were invited to")
    app: Field[bool] = Field("true for an app that acts as a user")
    title: Field[str | None] = Field("their job title")
    timezone: Field[str | None] = Field("IANA time zone")
    avatar_url: Field[str | None] = Field("URL of their picture")
    url: Field[str] = Field("URL of their page at Linear")
    last_seen: Field[datetime | None] = Field("last activity")
    disable_reason: Field[str | None] = Field("why the account is closed")
    created_at: Field[datetime] = Field("when the account was opened")
    updated_at: Field[datetime] = Field("when it last changed")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearTeamMembership(Entity):
    """The membership of a user in a team."""

    user: Field[Ref[LinearUser]] = Field("the member", brief=True)
    team: Field[Ref[LinearTeam]] = Field("the team", brief=True)
    owner: Field[bool] = Field("whether they can change the team's settings")
    sort_order: Field[float] = Field("position of the team in their own list")
    created_at: Field[datetime] = Field("when they joined")
    updated_at: Field[datetime] = Field("when it last changed")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearWorkflowState(Entity, title="name"):
    """A status for the issues of a team."""

    name: Field[str] = Field("its name: In Review", searchable=True)
    type: Field[str] = Field(
        "triage, backlog, unstarted, started, completed, canceled or duplicate", brief=True
    )
    position: Field[float] = Field("position among the statuses of its type")
    color: Field[str] = Field("its colour, as #rrggbb")
    description: Field[str | None] = Field("when to use it")
    team: Field[Ref[LinearTeam]] = Field("the team that it belongs to", brief=True)
    created_at: Field[datetime] = Field("when it was created")
    updated_at: Field[datetime] = Field("when it last changed")
    archived_at: Field[datetime | None] = Field("when it was archived; empty while in use")


class LinearLabel(Entity, title="name"):
    """A label for issues, or a group of labels."""

    name: Field[str] = Field("its text", searchable=True)
    description: Field[str | None] = Field("when to use it", searchable=True)
    is_group: Field[bool] = Field("whether it is a group of labels, which no issue has")
    team: Field[Ref[LinearTeam] | None] = Field(
        "the team that it belongs to; empty: the whole workspace", brief=True
    )
    parent: Field[Ref[LinearLabel] | None] = Field("its group")
    creator: Field[Ref[LinearUser] | None] = Field("who created it")
    color: Field[str] = Field("its colour, as #rrggbb")
    created_at: Field[datetime] = Field("when it was created")
    updated_at: Field[datetime] = Field("when it last changed; renaming may not count")
    archived_at: Field[datetime | None] = Field("when it was archived; empty while in use")


class LinearCycle(Entity, title="name"):
    """A period for which a team plans its work."""

    number: Field[int] = Field("its number in the team", brief=True)
    name: Field[str | None] = Field("its name, if it has one", searchable=True)
    description: Field[str | None] = Field("its content", searchable=True)
    team: Field[Ref[LinearTeam]] = Field("the team that it belongs to", brief=True)
    starts_at: Field[datetime] = Field("when it starts", brief=True)
    ends_at: Field[datetime] = Field("when it ends", brief=True)
    completed_at: Field[datetime | None] = Field("when it was completed")
    is_active: Field[bool] = Field("whether it was the current cycle when it last changed")
    progress: Field[float] = Field("completed share, 0 to 1")
    created_at: Field[datetime] = Field("when it was created")
    updated_at: Field[datetime] = Field("when it last changed")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearProjectStatus(Entity, title="name"):
    """A status for projects."""

    name: Field[str] = Field("its name", searchable=True)
    type: Field[str] = Field("backlog, planned, started, paused, completed or canceled", brief=True)
    position: Field[float] = Field("position among the statuses of its type")
    indefinite: Field[bool] = Field("whether a project may keep it indefinitely")
    description: Field[str | None] = Field("when to use it")
    color: Field[str] = Field("its colour, as #rrggbb")
    created_at: Field[datetime] = Field("when it was created")
    updated_at: Field[datetime] = Field("when it last changed")
    archived_at: Field[datetime | None] = Field("when it was archived; empty while in use")


class LinearProjectLabel(Entity, title="name"):
    """A label for projects, or a group of labels."""

    name: Field[str] = Field("its text", searchable=True)
    description: Field[str | None] = Field("when to use it", searchable=True)
    is_group: Field[bool] = Field("whether it is a group of labels, which no project has")
    parent: Field[Ref[LinearProjectLabel] | None] = Field("its group")
    creator: Field[Ref[LinearUser] | None] = Field("who created it")
    color: Field[str] = Field("its colour, as #rrggbb")
    created_at: Field[datetime] = Field("when it was created")
    updated_at: Field[datetime] = Field("when it last changed; renaming may not count")
    archived_at: Field[datetime | None] = Field("when it was archived; empty while in use")


class LinearProject(Entity, title="name"):
    """Work with one goal, by one or more teams."""

    name: Field[str] = Field("the project's name", searchable=True)
    description: Field[str] = Field("its goal, in one line", searchable=True)
    content: Field[str | None] = Field("the long description, as Markdown", searchable=True)
    status: Field[Ref[LinearProjectStatus] | None] = Field("its status", brief=True)
    priority: Field[int] = Field("1 urgent, 2 high, 3 medium, 4 low; 0 is not set")
    health: Field[str | None] = Field("onTrack, atRisk or offTrack, from its last update", brief=True)
    health_updated_at: Field[datetime | None] = Field("when its health was last updated")
    progress: Field[float] = Field("completed share, 0 to 1")
    scope: Field[float] = Field("total estimate of its issues")
    lead: Field[Ref[LinearUser] | None] = Field("the person responsible for it", brief=True)
    creator: Field[Ref[LinearUser] | None] = Field("who created it")
    team_ids: Field[list[str]] = Field("the ids of the teams that work on it", source="teams.nodes.id")
    label_ids: Field[list[str]] = Field("the ids of its project labels")
    start_date: Field[date | None] = Field("the planned first day")
    target_date: Field[date | None] = Field("the day on which it is due", brief=True)
    started_at: Field[datetime | None] = Field("when it was started")
    completed_at: Field[datetime | None] = Field("when it was completed")
    canceled_at: Field[datetime | None] = Field("when it was canceled")
    converted_from_issue: Field[Ref[LinearIssue] | None] = Field("the issue that became this project")
    url: Field[str] = Field("URL of its page at Linear")
    slug_id: Field[str] = Field("the end of that URL; renaming keeps it")
    sort_order: Field[float] = Field("position in lists that are sorted by hand")
    color: Field[str] = Field("its colour, as #rrggbb")
    icon: Field[str | None] = Field("its icon's name or emoji")
    trashed: Field[bool] = Field("whether it is in the trash")
    created_at: Field[datetime] = Field("when it was created")
    updated_at: Field[datetime] = Field("when it last changed")
    archived_at: Field[datetime | None] = Field("when it was archived or moved to the trash")


class LinearProjectMilestone(Entity, title="name"):
    """A stage of a project."""

    name: Field[str] = Field("its name", searchable=True)
    description: Field[str | None] = Field("its description, as Markdown", searchable=True)
    project: Field[Ref[LinearProject]] = Field("the project it belongs to", brief=True)
    status: Field[str] = Field("unstarted, next, overdue or done", brief=True)
    progress: Field[float] = Field("completed share")
    target_date: Field[date | None] = Field("the day on which it is due", brief=True)
    sort_order: Field[float] = Field("position among the project's milestones")
    created_at: Field[datetime] = Field("when it was created")
    updated_at: Field[datetime] = Field("when it last changed")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearProjectUpdate(Entity, title="body"):
    """A report on the progress of a project."""

    body: Field[str] = Field("the report, as Markdown", searchable=True)
    health: Field[str] = Field("onTrack, atRisk or offTrack", brief=True)
    project: Field[Ref[LinearProject]] = Field("the project that it is about", brief=True)
    user: Field[Ref[LinearUser] | None] = Field("who wrote it", brief=True)
    url: Field[str] = Field("URL of its page at Linear")
    edited_at: Field[datetime | None] = Field("when its text was last edited")
    created_at: Field[datetime] = Field("when it was written")
    updated_at: Field[datetime] = Field("when it last changed")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearInitiative(Entity, title="name"):
    """A goal of the company, with the projects that work towards it."""

    name: Field[str] = Field("its name", searchable=True)
    description: Field[str | None] = Field("the goal, in one line", searchable=True)
    content: Field[str | None] = Field("the long description, as Markdown", searchable=True)
    status: Field[str] = Field("Proposed, Planned, Active, Completed or Canceled", brief=True)
    health: Field[str | None] = Field("onTrack, atRisk or offTrack, from its last update")
    owner: Field[Ref[LinearUser] | None] = Field("the person responsible for it", brief=True)
    creator: Field[Ref[LinearUser] | None] = Field("who created it")
    parent: Field[Ref[LinearInitiative] | None] = Field(
        "the initiative that it is part of", source="parentInitiative"
    )
    target_date: Field[date | None] = Field("the day on which it is due", brief=True)
    started_at: Field[datetime | None] = Field("when it was started")
    completed_at: Field[datetime | None] = Field("when it was completed")
    url: Field[str] = Field("URL of its page at Linear")
    slug_id: Field[str] = Field("the end of that URL; renaming keeps it")
    trashed: Field[bool] = Field("whether it is in the trash")
    created_at: Field[datetime] = Field("when it was created")
    updated_at: Field[datetime] = Field("when it last changed")
    archived_at: Field[datetime | None] = Field("when it was archived or moved to the trash")


class LinearInitiativeProject(Entity):
    """A project's part in an initiative."""

    initiative: Field[Ref[LinearInitiative]] = Field("the initiative", brief=True)
    project: Field[Ref[LinearProject]] = Field("the project", brief=True)
    created_at: Field[datetime] = Field("when it was created")
    updated_at: Field[datetime] = Field("when it last changed")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearIssue(
    Entity, title="title", conventions={"open": "state.type NOT IN (completed, canceled, duplicate)"}
):
    """A task, bug or feature request, in one team."""

    identifier: Field[str] = Field(
        "readable identifier: ENG-123; changes with its team", searchable=True, brief=True
    )
    number: Field[int] = Field("the number in its identifier")
    title: Field[str] = Field("its title, in one line", searchable=True)
    description: Field[str | None] = Field("its description, as Markdown", searchable=True)
    team: Field[Ref[LinearTeam]] = Field("the team that it belongs to")
    state: Field[Ref[LinearWorkflowState]] = Field("its status", brief=True)
    assignee: Field[Ref[LinearUser] | None] = Field("the person who does it", brief=True)
    delegate: Field[Ref[LinearUser] | None] = Field("the agent that works on it for them")
    creator: Field[Ref[LinearUser] | None] = Field("who created it; empty for an integration")
    priority: Field[int] = Field("1 urgent, 2 high, 3 medium, 4 low; 0 is not set")
    priority_label: Field[str] = Field("the priority in words", brief=True)
    estimate: Field[float | None] = Field("its size, on the team's scale")
    label_ids: Field[list[str]] = Field("the ids of its labels")
    project: Field[Ref[LinearProject] | None] = Field("the project that it is part of", brief=True)
    project_milestone: Field[Ref[LinearProjectMilestone] | None] = Field("the milestone of that project")
    cycle: Field[Ref[LinearCycle] | None] = Field("the cycle that it is planned for")
    parent: Field[Ref[LinearIssue] | None] = Field("the issue that it is part of")
    due_date: Field[date | None] = Field("the day on which it is due", brief=True)
    url: Field[str] = Field("URL of its page at Linear")
    branch_name: Field[str] = Field("the git branch name that Linear suggests")
    previous_identifiers: Field[list[str]] = Field("its identifiers in other teams")
    sort_order: Field[float] = Field("position in lists that are sorted by hand")
    customer_ticket_count: Field[int] = Field("number of attached support tickets")
    started_at: Field[datetime | None] = Field("when work started")
    completed_at: Field[datetime | None] = Field("when it was completed")
    canceled_at: Field[datetime | None] = Field("when it was canceled")
    started_triage_at: Field[datetime | None] = Field("when it entered triage")
    triaged_at: Field[datetime | None] = Field("when it left triage")
    snoozed_until_at: Field[datetime | None] = Field("until when it is snoozed in triage")
    sla_breaches_at: Field[datetime | None] = Field("when it breaches its SLA")
    auto_closed_at: Field[datetime | None] = Field("when Linear closed it automatically")
    auto_archived_at: Field[datetime | None] = Field("when Linear archived it automatically")
    trashed: Field[bool] = Field("whether it is in the trash")
    created_at: Field[datetime] = Field("when it was created")
    updated_at: Field[datetime] = Field("when it last changed; sorting by hand may not count")
    archived_at: Field[datetime | None] = Field("when it was archived or moved to the trash")


class LinearIssueRelation(Entity):
    """A relation between two issues."""

    type: Field[str] = Field(
        "blocks, duplicate or related: what the first issue is to the second", brief=True
    )
    issue: Field[Ref[LinearIssue]] = Field("the first issue", brief=True)
    related_issue: Field[Ref[LinearIssue]] = Field("the second issue", brief=True)
    created_at: Field[datetime] = Field("when it was created")
    updated_at: Field[datetime] = Field("when it last changed")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearDocument(Entity, title="title"):
    """A document of a project, an initiative or an issue."""

    title: Field[str] = Field("its title, if it has one", searchable=True)
    content: Field[str | None] = Field("the whole text, as Markdown", searchable=True)
    project: Field[Ref[LinearProject] | None] = Field("the project that it belongs to", brief=True)
    initiative: Field[Ref[LinearInitiative] | None] = Field("the initiative that it belongs to")
    issue: Field[Ref[LinearIssue] | None] = Field("the issue that it belongs to")
    creator: Field[Ref[LinearUser] | None] = Field("who created it", brief=True)
    updated_by: Field[Ref[LinearUser] | None] = Field("who last changed it")
    url: Field[str] = Field("URL of its page at Linear")
    slug_id: Field[str] = Field("the end of that URL; renaming keeps it")
    color: Field[str | None] = Field("its icon's colour, as #rrggbb")
    icon: Field[str | None] = Field("its icon's name or emoji")
    hidden_at: Field[datetime | None] = Field("when it was hidden")
    trashed: Field[bool] = Field("whether it is in the trash")
    created_at: Field[datetime] = Field("when it was started")
    updated_at: Field[datetime] = Field("when it last changed")
    archived_at: Field[datetime | None] = Field("when it was archived or moved to the trash")


class LinearComment(Entity, title="body"):
    """A comment on an issue, a project, an update, an initiative or a document."""

    body: Field[str] = Field("the text, as Markdown", searchable=True)
    quoted_text: Field[str | None] = Field("the quoted passage that it is about")
    user: Field[Ref[LinearUser] | None] = Field(
        "the author; empty for bots and people without an account", brief=True
    )
    external_author: Field[str | None] = Field(
        "the author without an account, from another service", source="externalUser.name"
    )
    bot: Field[str | None] = Field("the integration that wrote it", source="botActor.name")
    issue: Field[Ref[LinearIssue] | None] = Field("the issue that it is about", brief=True, source="issueId")
    project: Field[Ref[LinearProject] | None] = Field("the project that it is about", source="projectId")
    project_update: Field[Ref[LinearProjectUpdate] | None] = Field(
        "the project update that it is about", source="projectUpdateId"
    )
    initiative: Field[Ref[LinearInitiative] | None] = Field(
        "the initiative that it is about", source="initiativeId"
    )
    document: Field[Ref[LinearDocument] | None] = Field(
        "the document that it is about", source="documentContent.document"
    )
    parent: Field[Ref[LinearComment] | None] = Field("the comment that it replies to", source="parentId")
    resolving_comment: Field[Ref[LinearComment] | None] = Field(
        "the reply that resolved it", source="resolvingCommentId"
    )
    resolved_at: Field[datetime | None] = Field("when it was resolved")
    url: Field[str] = Field("URL of its page at Linear")
    edited_at: Field[datetime | None] = Field("when its author last edited it")
    created_at: Field[datetime] = Field("when it was written", brief=True)
    updated_at: Field[datetime] = Field("when it last changed")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearAttachment(Entity, title="title"):
    """A link from an issue to another service: a pull request, a message, a ticket."""

    title: Field[str] = Field("its title", searchable=True)
    subtitle: Field[str | None] = Field("a second line", searchable=True)
    url: Field[str] = Field("the linked URL; unique within the issue", searchable=True)
    source_type: Field[str | None] = Field("the linked service: github, slack, zendesk, …", brief=True)
    metadata: Field[Json] = Field("data from that service")
    issue: Field[Ref[LinearIssue]] = Field("the issue that it is attached to", brief=True)
    creator: Field[Ref[LinearUser] | None] = Field("who attached it")
    created_at: Field[datetime] = Field("when it was attached")
    updated_at: Field[datetime] = Field("when it last changed")
    archived_at: Field[datetime | None] = Field("when it was archived")


# -- queries -----------------------------------------------------------------------------

PAGE = 250  # the most rows of one page at Linear
FEW = 50  # rows of the first page of changes: Linear charges for the rows requested, not for those returned
TEAMS = 20  # teams that come with a project; those of a project with more are listed
ARGUMENTS = {"teams": f"teams(first: {TEAMS}, includeArchived: true)"}
OVERLAP = timedelta(minutes=5)  # a change may become visible this long after its own date
DAY = timedelta(days=1)
CHANGED = "updated_at"  # the field that listings of changes are sorted by
ORGANIZATION = "organization { id urlKey }"  # in every page, to check that the workspace is the same
PAGE_INFO = "pageInfo { hasNextPage endCursor }"
NAMES = ("name", "displayName")  # Linear escapes them for HTML
ESCAPES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&#x27;": "'", "&amp;": "&"}


@dataclass(frozen=True)
class PageQuery:
    """Which page to request: of everything, of changes, of ids alone, or of one project's teams."""

    first: int
    after: str | None = None
    since: str | None = None
    ids_only: bool = False
    project: str | None = None


def camel(name: str) -> str:
    """``url_key`` → ``urlKey``."""
    head, *rest = name.split("_")
    return head + "".join(map(str.capitalize, rest))


def unescaped(name: str | None) -> str | None:
    """A name without HTML escapes; what only looks like an escape is kept."""
    if name and "&" in name:
        for escape, character in ESCAPES.items():
            name = name.replace(escape, character)
    return name


def cleaned(row: Json) -> Json:
    """A row without escapes in its names, also in those of people inside it; null in the trash is false."""
    clean = {
        key: unescaped(value) if key in NAMES else cleaned(value) if isinstance(value, dict) else value
        for key, value in row.items()
    }
    return clean | {"trashed": bool(row["trashed"])} if "trashed" in row else clean


def selection(entity: type[Entity]) -> str:
    """What is requested of each record: the sources of its fields."""
    selected, sources = ["{ id"], sources_of(entity)
    for field, holds in entity.types().items():
        path = str(sources[field])
        is_object = holds.target is not None and not path.endswith("Id")
        first, *rest = f"{path}.id".split(".") if is_object else path.split(".")
        selected.append(" { ".join([ARGUMENTS.get(first, first), *rest]) + " }" * len(rest))
    return f"{' '.join(dict.fromkeys(selected))} }}"


ENTITIES: list[type[Entity]] = [LinearOrganization, *LinearOrganization.children().values()]
SCHEMA = Schema(ENTITIES, roots=[LinearOrganization], camel_case=True)


class Source:
    """Lists one collection of the organization; ``filtered``: Linear can filter it by update time."""

    def __init__(self, name: str, connection: str = "", *, filtered: bool = True, more: str = "") -> None:
        self.entity: type[Entity] = LinearOrganization.children()[name]
        self.selection = selection(self.entity)
        self.name, self.filtered = name, filtered
        self.connection = connection or camel(name)
        self._arguments = f", includeArchived: true{more}"

    def page_query(self, request: PageRequest) -> PageQuery:
        """What to request for a loader's page."""
        few = request.since is not None and self.filtered and request.cursor is None
        since = None if request.since is None else request.since.isoformat(timespec="milliseconds")
        return PageQuery(FEW if few else PAGE, request.cursor, since, request.ids_only)

    def query(self, wanted: PageQuery) -> str:
        """The GraphQL text of a request."""
        changed = ", orderBy: updatedAt"
        if wanted.ids_only:
            return self._text("Ids", "{ id }")
        if wanted.since is None:  # with the row that changed last: the watermark of the next listing
            newest = f"newest: {self.connection}(first: 1{self._arguments}{changed})"
            also = "" if wanted.after else f"{newest} {{ nodes {self.selection} }}"
            return self._text("", self.selection, also=also)
        if not self.filtered:
            return self._text("Changed", self.selection, changed)
        changed += ", filter: {updatedAt: {gte: $since}}"
        return self._text("Changed", self.selection, changed, variables=", $since: DateTimeOrDuration!")

    def _text(self, what: str, row: str, order: str = "", *, also: str = "", variables: str = "") -> str:
        name = f"{self.connection[0].upper()}{self.connection[1:]}{what}"
        listed = f"{self.connection}(first: $first, after: $after{self._arguments}{order})"
        return (
            f"query {name}($first: Int!, $after: String{variables}) "
            f"{{ {ORGANIZATION} {also} {listed} {{ nodes {row} {PAGE_INFO} }} }}"
        )

    def page(self, answer: Json, wanted: PageQuery) -> Page[Entity]:
        """A response as a page of entities; UpstreamChanged when something is missing."""
        listed = RelayConnection.of(answer, self.connection)
        if wanted.ids_only:
            return Page.read(self.entity, listed.nodes, fields=[], next=listed.next)
        if wanted.since and not self.filtered:
            return self._changed(listed, wanted)
        there = {row.get("id") for row in listed.nodes}
        newest = (answer.get("newest") or {}).get("nodes") or ()
        rows = [*(row for row in newest if row.get("id") not in there), *listed.nodes]
        return Page.read(self.entity, map(cleaned, rows), next=listed.next)

    def _changed(self, listed: RelayConnection, wanted: PageQuery) -> Page[Entity]:
        """A page of a collection that Linear cannot filter: sorted by update time, read until ``since``.

        A collection that fits on one page is read completely, which also shows what is gone.
        """
        whole = wanted.after is None and listed.next is None
        since = datetime.fromisoformat(wanted.since or "")
        older = any(datetime.fromisoformat(row["updatedAt"]) < since for row in listed.nodes[-1:])
        rows, next = map(cleaned, listed.nodes), None if older else listed.next
        return Page.read(self.entity, rows, next=next, complete_snapshot=whole)


SOURCES = (
    Source("teams"),
    Source("users", more=", includeDisabled: true"),
    Source("team_memberships", filtered=False),
    Source("workflow_states"),
    Source("labels", "issueLabels"),
    Source("cycles"),
    Source("project_statuses", filtered=False),
    Source("project_labels"),
    Source("projects"),
    Source("project_milestones"),
    Source("project_updates"),
    Source("initiatives"),
    Source("initiative_projects", "initiativeToProjects", filtered=False),
    Source("issues"),
    Source("issue_relations", filtered=False),
    Source("comments"),
    Source("attachments"),
    Source("documents"),
)


# -- the API ----------------------------------------------------------------------------

API = Limit("linear:api", concurrency=8)
RETRY = Retry(base=0.5)
API_KEY = Credential("api_key", "a personal key: lin_api_…", required=False)
CALLBACK = 8734  # Linear compares the whole redirect address: http://127.0.0.1:8734/callback
OAUTH = OAuth("linear", token_path="/oauth/token")
BROWSER = BrowserSignIn(OAUTH, "https://linear.app/oauth/authorize", ["read"], separator=",", port=CALLBACK)
BUDGETS = (  # their resets are in milliseconds
    BudgetHeaders("x-ratelimit-requests-remaining", "x-ratelimit-requests-reset", unit=0.001),
    BudgetHeaders("x-ratelimit-complexity-remaining", "x-ratelimit-complexity-reset", "x-complexity", 0.001),
)
LEAVE_OUT = "allow it, or leave that out: max connect linear:NAME --update --set leave_out=COLLECTION"
UNSEEN = PermissionDenied, "this credential cannot see it", LEAVE_OUT
CODES = {"FORBIDDEN": UNSEEN, "FEATURE_NOT_ACCESSIBLE": UNSEEN}


@dataclass(frozen=True)
class LinearConfig:
    """Which Linear: scheme and host, the connected workspace, and what to leave out."""

    base_url: str = "https://api.linear.app"
    organization: str = ""  # its id, found out when connecting
    leave_out: Sequence[str] = ()  # collections of the organization
    client_id: str = ""  # the application's, for OAuth

    def __post_init__(self) -> None:
        known = ", ".join(LinearOrganization.children())
        unknown = set(self.leave_out) - LinearOrganization.children().keys()
        wrong = [Mismatch("leave_out", f"some of {known}", one) for one in sorted(unknown)]
        if wrong:
            raise InvalidAnswers("invalid configuration of linear", wrong)


@dataclass(frozen=True)
class Linear:
    """The context of operations."""

    graphql: GraphQL
    config: LinearConfig

    async def ask(self, query: str, **variables: Json) -> Json:
        """The data of a query's response; variables that are None are not sent."""
        return await self.graphql.query(query, {k: v for k, v in variables.items() if v is not None})

    def check(self, answer: Json) -> None:
        """BadCredentials when a response comes from another workspace than the connected one."""
        there = answer["organization"]
        if self.config.organization not in ("", there["id"]):
            raise BadCredentials(
                f"linear: the credential is for linear.app/{there['urlKey']}, another workspace than before",
                hint="connect again with a credential for the first one, or connect another installation",
            )


def code_of(error: Mapping[str, Json]) -> str | None:
    """Linear reports a missing record as an input error."""
    return "NOT_FOUND" if str(error.get("message")).startswith("Entity not found") else None


def listing(source: Source) -> Operation[Linear, PageQuery, Json]:
    """The operation that fetches one page of a collection."""

    async def fetch(linear: Linear, wanted: PageQuery) -> Json:
        query = source.query(wanted)
        return await linear.ask(query, first=wanted.first, after=wanted.after, since=wanted.since)

    return Operation(f"linear:{source.name}:list", fetch, limit=API, retry=RETRY)


@operation("linear:project_teams:list", limit=API, retry=RETRY)
async def list_project_teams(linear: Linear, wanted: PageQuery) -> Json:
    """One page of the teams of a project that has more than come with it."""
    teams = f"teams(first: $first, after: $after, includeArchived: true) {{ nodes {{ id }} {PAGE_INFO} }}"
    query = (
        f"query ProjectTeams($id: String!, $first: Int!, $after: String) {{ project(id: $id) {{ {teams} }} }}"
    )
    return await linear.ask(query, id=wanted.project, first=wanted.first, after=wanted.after)


@operation("linear:organization:get", limit=API, retry=RETRY)
async def get_organization(linear: Linear, _: None) -> Json:
    """The workspace, and the user of the credential."""
    return await linear.ask(
        f"query Organization {{ organization {selection(LinearOrganization)} viewer {{ name email }} }}"
    )


async def with_all_teams(answer: Json, env: Env[Linear]) -> Json:
    """A page of projects, completed with the teams of projects that have more than the page shows."""
    rows = RelayConnection.of(answer, "projects").nodes
    full = [row["id"] for row in rows if len(row["teams"]["nodes"]) >= TEAMS]
    teams = {project: await teams_of(project, env) for project in full}
    rows = [row | {"teams": {"nodes": teams.get(row["id"], row["teams"]["nodes"])}} for row in rows]
    return answer | {"projects": answer["projects"] | {"nodes": rows}}


async def teams_of(project: str, env: Env[Linear]) -> list[Json]:
    """All teams of a project."""
    teams: list[Json] = []
    after: str | None = None
    while True:
        answer = await env.run(list_project_teams, PageQuery(PAGE, after, project=project))
        page = RelayConnection.of(answer, "project", "teams")
        if page.next is not None and (page.next == after or not page.nodes):
            raise UpstreamChanged(f"linear: the list of the teams of project {project} has no end")
        teams, after = teams + page.nodes, page.next
        if after is None:
            return teams


def loader_of(source: Source, fetch: Operation[Linear, PageQuery, Json]) -> Loader[Linear]:
    """The loader of a collection of the organization."""

    async def load(parent: Ref[LinearOrganization], request: PageRequest, env: Env[Linear]) -> Page[Entity]:
        wanted = source.page_query(request)
        answer = await env.run(fetch, wanted)
        env.context.check(answer)
        if source.name == "projects" and not wanted.ids_only:
            answer = await with_all_teams(answer, env)
        return source.page(answer, wanted)

    load.__name__ = source.name
    changes = Watermark(getattr(source.entity, CHANGED), overlap=OVERLAP)
    collection = getattr(LinearOrganization, source.name)
    return Loader.collection(collection, brings=source.entity, watermark=changes, sweep=DAY, stable=True)(
        load
    )


@Loader.entity(LinearOrganization, ttl=DAY)
async def organization(ref: Ref[LinearOrganization], env: Env[Linear]) -> LinearOrganization:
    """The workspace; it seldom changes."""
    answer = await env.run(get_organization, None)
    env.context.check(answer)
    return LinearOrganization.read(cleaned(answer["organization"]), {LinearOrganization.id: ref.id})


async def seed(linear: Linear, store: Store) -> SyncPlan:
    """Store the workspace, then list all its collections at the same time."""
    await store.store(LinearOrganization(ROOT_ID))
    step = Step.for_root(LinearOrganization.ref(ROOT_ID))
    wanted = [source.name for source in SOURCES if source.name not in linear.config.leave_out]
    listings = [step.load_collection(getattr(LinearOrganization, name)) for name in wanted]
    return SyncPlan([Step.concurrent([step.load_fields(*organization.brings), *listings])])


# -- connecting --------------------------------------------------------------------------


async def tokens_of(config: LinearConfig, credentials: CredentialProvider) -> OAuthTokens:
    """OAuth tokens: a person's; the application's own with a client secret and no refresh token."""
    given = {one: await credentials.find(one) for one in OAUTH.credentials}
    if not any(given.values()):
        hint = "give one to max connect (with --update if it is connected): --credential api_key=env:VAR"
        raise BadCredentials("linear: no credential is stored", hint=hint)
    alone = given[OAuth.CLIENT_SECRET] is not None and given[OAuth.REFRESH_TOKEN] is None
    grant = (lambda now: {"grant_type": "client_credentials", "scope": "read"}) if alone else None
    return OAUTH.tokens(credentials, config.base_url, client_id=config.client_id, grant=grant)


async def initialise(config: LinearConfig, credentials: CredentialProvider) -> Installation[Linear]:
    """A client of the API, with the permissions of the credential; a key takes precedence over OAuth."""
    key = await credentials.find(API_KEY)
    tokens = None if key else await tokens_of(config, credentials)
    auth = KeyAuth(key) if key else tokens
    http = HttpClient(config.base_url, credentials, auth=auth, budgets=BUDGETS)
    linear = Linear(GraphQL(http, codes=CODES, read_code=code_of), config)
    parts = [http] if tokens is None else [tokens, http]

    async def start() -> None:
        for part in parts:
            await part.start()

    async def stop() -> None:
        for part in reversed(parts):
            await part.stop()

    async def health() -> str:
        return summary(await get_organization(linear, None))

    return Installation(linear, start, stop, tokens.renew if tokens else None, health)


def summary(answer: Json) -> str:
    """The workspace and the user of the credential, in one line."""
    there, person = answer["organization"], answer["viewer"]
    where = f"{unescaped(there['name'])} (linear.app/{there['urlKey']})"
    return f"linear: {where}, seen by {unescaped(person['name'])} <{person['email']}>"


async def ask_organization(answers: Answers, credentials: CredentialProvider) -> Json:
    """The workspace and user that the answers lead to; BadCredentials for another workspace than before."""
    config = LinearConfig(**{one.name: answers[one.name] for one in fields(LinearConfig)})
    installation = await initialise(config, credentials)
    async with AsyncExitStack() as stack:
        assert installation.start
        assert installation.stop
        stack.push_async_callback(installation.stop)
        await installation.start()
        answer = await get_organization(installation.context, None)
        installation.context.check(answer)
        return answer


async def choose_method(answers: Answers, credentials: CredentialProvider) -> Mapping[str, Json]:
    """Without a key, the next steps ask for what OAuth needs."""
    return {"oauth": await credentials.find(API_KEY) is None}


async def check(answers: Answers, credentials: CredentialProvider) -> str:
    """Check the credential by asking Linear for its workspace."""
    return summary(await ask_organization(answers, credentials))


async def remember_organization(answers: Answers, credentials: CredentialProvider) -> Mapping[str, Json]:
    """Keep the workspace's id, so that data of another workspace is never mixed in."""
    return {"organization": (await ask_organization(answers, credentials))["organization"]["id"]}


LISTINGS = [listing(source) for source in SOURCES]
connector = Connector(
    name="linear",
    description="A workspace of Linear: issues, projects, comments, documents and more.",
    schema=SCHEMA,
    loaders=[organization, *map(loader_of, SOURCES, LISTINGS)],
    seeder=seed,
    initialise=initialise,
    config=LinearConfig,
    hosts=["{base_url}"],
    credentials=[API_KEY, *OAUTH.credentials, WEBHOOK_SECRET],
    webhook=webhook(LinearOrganization, ROOT_ID),
    onboarding=[
        SecretInput(API_KEY, "Personal API key (Settings, Security & access); leave empty to use OAuth"),
        RunCode(choose_method),
        Input("client_id", "Client id of your OAuth application", when=itemgetter("oauth")),
        SecretInput(
            OAuth.CLIENT_SECRET, "Client secret of that application (empty: none)", when=itemgetter("oauth")
        ),
        SignIn([OAuth.REFRESH_TOKEN], BROWSER, when=itemgetter("oauth")),
        Validate(check),
        RunCode(remember_organization),
    ],
    # an invalid row does not stop the others
    operations=[get_organization, list_project_teams, OAUTH.renewal, *LISTINGS],
    requires=[require_http],
)
