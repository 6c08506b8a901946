"""Linear: issues, and all that is planned and said around them, from api.linear.app.

Rule 1: every thing is listed by the root connection of its kind and joined by id; a connection
inside another one has a cursor of its own for each parent, and would be cut short in silence.

Rule 2: an entity's declaration says what is asked for and how it is read.  A field stands in the
answer under its own name, a ref as ``{ id }``; ``Reader.paths`` names the few that do not.

Rule 3: everything is listed by the time of its creation, which no edit changes, so that nobody
is overtaken by the scan; what changed is listed by the time of its change, the newest first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from operator import itemgetter
from types import MappingProxyType
from typing import Any, TypeAlias

from max.connecting import (
    Answers,
    BadCredentials,
    BrowserSignIn,
    BudgetHeaders,
    Connector,
    Credential,
    CredentialProvider,
    Engine,
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
    SchemaContract,
    SecretInput,
    SignIn,
    Step,
    SyncPlan,
    UpstreamChanged,
    Validate,
    Watermark,
    operation,
)

ROOT_ID = "workspace"  # a credential opens exactly one

# -- what is kept ------------------------------------------------------------------------


class LinearOrganization(Entity):
    """The workspace that the credential opens: where everything begins."""

    organization_id: Field[str] = Field("its id at Linear")
    name: Field[str] = Field("what the workspace is called", searchable=True)
    url_key: Field[str] = Field("its part of every address: linear.app/KEY")
    logo_url: Field[str | None] = Field("where its logo is")
    user_count: Field[int] = Field("active accounts")
    created_at: Field[datetime] = Field("when it was opened")
    updated_at: Field[datetime] = Field("its last change")
    teams: Many[LinearTeam] = Many("the teams that the credential may see")
    users: Many[LinearUser] = Many("everybody with an account, closed ones included")
    workflow_states: Many[LinearWorkflowState] = Many("the statuses of every team")
    labels: Many[LinearLabel] = Many("what issues can be labelled with")
    cycles: Many[LinearCycle] = Many("the cycles of every team")
    project_statuses: Many[LinearProjectStatus] = Many("the statuses of projects")
    project_labels: Many[LinearProjectLabel] = Many("what projects can be labelled with")
    projects: Many[LinearProject] = Many("the projects")
    project_milestones: Many[LinearProjectMilestone] = Many("the milestones of every project")
    project_updates: Many[LinearProjectUpdate] = Many("the reports on every project")
    initiatives: Many[LinearInitiative] = Many("the initiatives")
    initiative_projects: Many[LinearInitiativeProject] = Many("which projects serve which initiatives")
    issues: Many[LinearIssue] = Many("the issues of every team")
    issue_relations: Many[LinearIssueRelation] = Many("how issues bear on one another")
    comments: Many[LinearComment] = Many("what was said of issues, projects, documents, …")
    attachments: Many[LinearAttachment] = Many("links from issues to things elsewhere")
    documents: Many[LinearDocument] = Many("the documents")
    team_memberships: Many[LinearTeamMembership] = Many("who is in which team")


class LinearTeam(Entity):
    """A group of people with issues, statuses and cycles of its own."""

    key: Field[str] = Field("what its issues' identifiers begin with: ENG")
    name: Field[str] = Field("what the team is called", searchable=True)
    display_name: Field[str] = Field("its name after that of its parent team")
    description: Field[str | None] = Field("what it is for", searchable=True)
    parent: Field[Ref[LinearTeam] | None] = Field("the team of which it is a part")
    visibility: Field[str] = Field("public, private (its members alone see it) or restricted")
    default_issue_state: Field[Ref[LinearWorkflowState] | None] = Field("the status of a new issue")
    triage_issue_state: Field[Ref[LinearWorkflowState] | None] = Field("that of an issue from outside")
    cycles_enabled: Field[bool] = Field("whether it works in cycles")
    triage_enabled: Field[bool] = Field("whether issues from outside wait to be accepted")
    issue_count: Field[int] = Field("its issues, archived ones left out")
    timezone: Field[str] = Field("where it works, as an IANA time zone")
    color: Field[str | None] = Field("its colour, as #rrggbb")
    icon: Field[str | None] = Field("its icon's name or emoji")
    retired_at: Field[datetime | None] = Field("since when it takes no new issues")
    created_at: Field[datetime] = Field("when it was made")
    updated_at: Field[datetime] = Field("its last change")
    archived_at: Field[datetime | None] = Field("when it was archived; empty while in use")


class LinearUser(Entity):
    """Somebody, or some app, with an account in the workspace."""

    name: Field[str] = Field("the full name", searchable=True)
    display_name: Field[str] = Field("the short name, unique in the workspace", searchable=True)
    email: Field[str] = Field("address for mail", searchable=True)
    active: Field[bool] = Field("false once the account is closed or suspended")
    admin: Field[bool] = Field("whether they administer the workspace")
    owner: Field[bool] = Field("whether they own the workspace")
    guest: Field[bool] = Field("whether they see only the teams that they were invited to")
    app: Field[bool] = Field("true for an app that acts as a user")
    title: Field[str | None] = Field("their work, in a few words")
    timezone: Field[str | None] = Field("where they work, as an IANA time zone")
    avatar_url: Field[str | None] = Field("where their picture is")
    url: Field[str] = Field("their page at Linear")
    last_seen: Field[datetime | None] = Field("last sign of life")
    disable_reason: Field[str | None] = Field("why the account is closed")
    created_at: Field[datetime] = Field("when the account was opened")
    updated_at: Field[datetime] = Field("its last change")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearTeamMembership(Entity):
    """That somebody is in a team."""

    user: Field[Ref[LinearUser]] = Field("who")
    team: Field[Ref[LinearTeam]] = Field("in which team")
    owner: Field[bool] = Field("whether they may change the team's settings")
    sort_order: Field[float] = Field("the team's place in their own list")
    created_at: Field[datetime] = Field("when they joined")
    updated_at: Field[datetime] = Field("its last change")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearWorkflowState(Entity):
    """A status that issues of a team can have."""

    name: Field[str] = Field("what people call it: In Review", searchable=True)
    type: Field[str] = Field("triage, backlog, unstarted, started, completed, canceled or duplicate")
    position: Field[float] = Field("its place among those of its type")
    color: Field[str] = Field("its colour, as #rrggbb")
    description: Field[str | None] = Field("when to use it")
    team: Field[Ref[LinearTeam]] = Field("the team that uses it")
    created_at: Field[datetime] = Field("when it was made")
    updated_at: Field[datetime] = Field("its last change")
    archived_at: Field[datetime | None] = Field("when it was archived; empty while in use")


class LinearLabel(Entity):
    """A label for issues, or a group of such."""

    name: Field[str] = Field("what it says", searchable=True)
    description: Field[str | None] = Field("when to use it", searchable=True)
    is_group: Field[bool] = Field("a group holds labels, and no issue carries it")
    team: Field[Ref[LinearTeam] | None] = Field("the team that has it; empty: the whole workspace")
    parent: Field[Ref[LinearLabel] | None] = Field("the group it is in")
    creator: Field[Ref[LinearUser] | None] = Field("who made it")
    color: Field[str] = Field("its colour, as #rrggbb")
    created_at: Field[datetime] = Field("when it was made")
    updated_at: Field[datetime] = Field("its last change; a new name need not move it")
    archived_at: Field[datetime | None] = Field("when it was archived; empty while in use")


class LinearCycle(Entity):
    """A stretch of time for which a team plans its work."""

    number: Field[int] = Field("its number, counted by the team")
    name: Field[str | None] = Field("its name, when it was given one", searchable=True)
    description: Field[str | None] = Field("what it is about", searchable=True)
    team: Field[Ref[LinearTeam]] = Field("whose it is")
    starts_at: Field[datetime] = Field("its first moment")
    ends_at: Field[datetime] = Field("its last moment")
    completed_at: Field[datetime | None] = Field("when it was closed")
    is_active: Field[bool] = Field("whether it was the running one when last changed")
    progress: Field[float] = Field("how much is done, 0 to 1")
    created_at: Field[datetime] = Field("when it was made")
    updated_at: Field[datetime] = Field("its last change")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearProjectStatus(Entity):
    """A status that projects can have."""

    name: Field[str] = Field("what people call it", searchable=True)
    type: Field[str] = Field("backlog, planned, started, paused, completed or canceled")
    position: Field[float] = Field("its place among those of its type")
    indefinite: Field[bool] = Field("whether a project may stay in it for ever")
    description: Field[str | None] = Field("when to use it")
    color: Field[str] = Field("its colour, as #rrggbb")
    created_at: Field[datetime] = Field("when it was made")
    updated_at: Field[datetime] = Field("its last change")
    archived_at: Field[datetime | None] = Field("when it was archived; empty while in use")


class LinearProjectLabel(Entity):
    """A label for projects, or a group of such."""

    name: Field[str] = Field("what it says", searchable=True)
    description: Field[str | None] = Field("when to use it", searchable=True)
    is_group: Field[bool] = Field("a group holds labels, and no project carries it")
    parent: Field[Ref[LinearProjectLabel] | None] = Field("the group it is in")
    creator: Field[Ref[LinearUser] | None] = Field("who made it")
    color: Field[str] = Field("its colour, as #rrggbb")
    created_at: Field[datetime] = Field("when it was made")
    updated_at: Field[datetime] = Field("its last change; a new name need not move it")
    archived_at: Field[datetime | None] = Field("when it was archived; empty while in use")


class LinearProject(Entity):
    """Work towards one aim, by one team or several."""

    name: Field[str] = Field("what the project is called", searchable=True)
    description: Field[str] = Field("its aim, in a line", searchable=True)
    content: Field[str | None] = Field("the long description, as Markdown", searchable=True)
    status: Field[Ref[LinearProjectStatus] | None] = Field("how far it is")
    priority: Field[int] = Field("1 urgent, 2 high, 3 medium, 4 low; 0 is not set")
    health: Field[str | None] = Field("onTrack, atRisk or offTrack, by its last update")
    health_updated_at: Field[datetime | None] = Field("when that was said")
    progress: Field[float] = Field("how much is done, 0 to 1")
    scope: Field[float] = Field("estimate points of all its issues")
    lead: Field[Ref[LinearUser] | None] = Field("who answers for it")
    creator: Field[Ref[LinearUser] | None] = Field("who made it")
    team_ids: Field[list[str]] = Field("the ids of the teams that work on it")
    label_ids: Field[list[str]] = Field("the ids of its project labels")
    start_date: Field[date | None] = Field("the day on which it is meant to begin")
    target_date: Field[date | None] = Field("the day by which it is wanted")
    started_at: Field[datetime | None] = Field("when it was begun")
    completed_at: Field[datetime | None] = Field("when it was done")
    canceled_at: Field[datetime | None] = Field("when it was given up")
    converted_from_issue: Field[Ref[LinearIssue] | None] = Field("the issue that became this project")
    url: Field[str] = Field("its page at Linear")
    slug_id: Field[str] = Field("the end of that address, which renaming keeps")
    sort_order: Field[float] = Field("its place in lists sorted by hand")
    color: Field[str] = Field("its colour, as #rrggbb")
    icon: Field[str | None] = Field("its icon's name or emoji")
    trashed: Field[bool] = Field("whether it is in the bin")
    created_at: Field[datetime] = Field("when it was made")
    updated_at: Field[datetime] = Field("its last change")
    archived_at: Field[datetime | None] = Field("when it was archived, or put into the bin")


class LinearProjectMilestone(Entity):
    """A stage of a project."""

    name: Field[str] = Field("what it is called", searchable=True)
    description: Field[str | None] = Field("what it comprises, as Markdown", searchable=True)
    project: Field[Ref[LinearProject]] = Field("the project it belongs to")
    status: Field[str] = Field("unstarted, next, overdue or done")
    progress: Field[float] = Field("how much is done")
    target_date: Field[date | None] = Field("the day by which it is wanted")
    sort_order: Field[float] = Field("its place among the project's milestones")
    created_at: Field[datetime] = Field("when it was made")
    updated_at: Field[datetime] = Field("its last change")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearProjectUpdate(Entity):
    """A report on how a project goes."""

    body: Field[str] = Field("the report, as Markdown", searchable=True)
    health: Field[str] = Field("onTrack, atRisk or offTrack")
    project: Field[Ref[LinearProject]] = Field("the project it is about")
    user: Field[Ref[LinearUser] | None] = Field("who wrote it")
    url: Field[str] = Field("its page at Linear")
    edited_at: Field[datetime | None] = Field("when its text was last changed")
    created_at: Field[datetime] = Field("when it was written")
    updated_at: Field[datetime] = Field("its last change")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearInitiative(Entity):
    """An aim of the company, served by projects."""

    name: Field[str] = Field("what it is called", searchable=True)
    description: Field[str | None] = Field("the aim, in a line", searchable=True)
    content: Field[str | None] = Field("the long description, as Markdown", searchable=True)
    status: Field[str] = Field("Proposed, Planned, Active, Completed or Canceled")
    health: Field[str | None] = Field("onTrack, atRisk or offTrack, by its last update")
    owner: Field[Ref[LinearUser] | None] = Field("who answers for it")
    creator: Field[Ref[LinearUser] | None] = Field("who made it")
    parent: Field[Ref[LinearInitiative] | None] = Field("the initiative of which it is a part")
    target_date: Field[date | None] = Field("the day by which it is wanted")
    started_at: Field[datetime | None] = Field("when it was begun")
    completed_at: Field[datetime | None] = Field("when it was done")
    url: Field[str] = Field("its page at Linear")
    slug_id: Field[str] = Field("the end of that address, which renaming keeps")
    trashed: Field[bool] = Field("whether it is in the bin")
    created_at: Field[datetime] = Field("when it was made")
    updated_at: Field[datetime] = Field("its last change")
    archived_at: Field[datetime | None] = Field("when it was archived, or put into the bin")


class LinearInitiativeProject(Entity):
    """That a project serves an initiative."""

    initiative: Field[Ref[LinearInitiative]] = Field("the aim")
    project: Field[Ref[LinearProject]] = Field("what serves it")
    created_at: Field[datetime] = Field("when it was decided")
    updated_at: Field[datetime] = Field("its last change")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearIssue(Entity):
    """A piece of work, a fault or a wish, in one team."""

    identifier: Field[str] = Field("what people call it: ENG-123; changes with its team", searchable=True)
    number: Field[int] = Field("the number in it, counted by the team")
    title: Field[str] = Field("what it is about, in a line", searchable=True)
    description: Field[str | None] = Field("the whole story, as Markdown", searchable=True)
    team: Field[Ref[LinearTeam]] = Field("whose it is")
    state: Field[Ref[LinearWorkflowState]] = Field("how far it is")
    assignee: Field[Ref[LinearUser] | None] = Field("who does it")
    delegate: Field[Ref[LinearUser] | None] = Field("the agent that works on it for them")
    creator: Field[Ref[LinearUser] | None] = Field("who wrote it down; empty for an integration")
    priority: Field[int] = Field("1 urgent, 2 high, 3 medium, 4 low; 0 is not set")
    priority_label: Field[str] = Field("the priority in words")
    estimate: Field[float | None] = Field("its size, on the team's scale")
    label_ids: Field[list[str]] = Field("the ids of its labels")
    project: Field[Ref[LinearProject] | None] = Field("the project it is part of")
    project_milestone: Field[Ref[LinearProjectMilestone] | None] = Field("the stage of that project")
    cycle: Field[Ref[LinearCycle] | None] = Field("the cycle it is planned for")
    parent: Field[Ref[LinearIssue] | None] = Field("the issue of which it is a part")
    due_date: Field[date | None] = Field("the day by which it is wanted")
    url: Field[str] = Field("its page at Linear")
    branch_name: Field[str] = Field("the name that Linear suggests for a git branch")
    previous_identifiers: Field[list[str]] = Field("what it was called in other teams")
    sort_order: Field[float] = Field("its place in lists sorted by hand")
    customer_ticket_count: Field[int] = Field("support tickets that are attached to it")
    started_at: Field[datetime | None] = Field("when work began")
    completed_at: Field[datetime | None] = Field("when it was done")
    canceled_at: Field[datetime | None] = Field("when it was given up")
    started_triage_at: Field[datetime | None] = Field("when it came to wait for acceptance")
    triaged_at: Field[datetime | None] = Field("when it was accepted")
    snoozed_until_at: Field[datetime | None] = Field("until when it is out of sight in triage")
    sla_breaches_at: Field[datetime | None] = Field("by when it was promised to be done")
    auto_closed_at: Field[datetime | None] = Field("when Linear closed it for its age")
    auto_archived_at: Field[datetime | None] = Field("when Linear archived it for its age")
    trashed: Field[bool] = Field("whether it is in the bin")
    created_at: Field[datetime] = Field("when it was written down")
    updated_at: Field[datetime] = Field("its last change; sorting by hand need not move it")
    archived_at: Field[datetime | None] = Field("when it was archived, or put into the bin")


class LinearIssueRelation(Entity):
    """How one issue bears on another."""

    type: Field[str] = Field("blocks, duplicate or related: what the first is to the second")
    issue: Field[Ref[LinearIssue]] = Field("the first")
    related_issue: Field[Ref[LinearIssue]] = Field("the second")
    created_at: Field[datetime] = Field("when it was noted")
    updated_at: Field[datetime] = Field("its last change")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearDocument(Entity):
    """A page of text, kept with a project, an initiative or an issue."""

    title: Field[str] = Field("its title; empty when it has none", searchable=True)
    content: Field[str | None] = Field("the whole text, as Markdown", searchable=True)
    project: Field[Ref[LinearProject] | None] = Field("the project it is kept with")
    initiative: Field[Ref[LinearInitiative] | None] = Field("the initiative it is kept with")
    issue: Field[Ref[LinearIssue] | None] = Field("the issue it is kept with")
    creator: Field[Ref[LinearUser] | None] = Field("who began it")
    updated_by: Field[Ref[LinearUser] | None] = Field("who changed it last")
    url: Field[str] = Field("its page at Linear")
    slug_id: Field[str] = Field("the end of that address, which renaming keeps")
    color: Field[str | None] = Field("its icon's colour, as #rrggbb")
    icon: Field[str | None] = Field("its icon's name or emoji")
    hidden_at: Field[datetime | None] = Field("since when it is out of sight")
    trashed: Field[bool] = Field("whether it is in the bin")
    created_at: Field[datetime] = Field("when it was begun")
    updated_at: Field[datetime] = Field("its last change")
    archived_at: Field[datetime | None] = Field("when it was archived, or put into the bin")


class LinearComment(Entity):
    """Something said of an issue, a project, an update, an initiative or a document."""

    body: Field[str] = Field("what was said, as Markdown", searchable=True)
    quoted_text: Field[str | None] = Field("the words of the text that it is about")
    user: Field[Ref[LinearUser] | None] = Field("who said it; empty for somebody outside and for bots")
    external_author: Field[str | None] = Field("who said it by way of another service, without an account")
    bot: Field[str | None] = Field("the integration that said it")
    issue: Field[Ref[LinearIssue] | None] = Field("the issue it is about")
    project: Field[Ref[LinearProject] | None] = Field("the project it is about")
    project_update: Field[Ref[LinearProjectUpdate] | None] = Field("the report it is about")
    initiative: Field[Ref[LinearInitiative] | None] = Field("the initiative it is about")
    document: Field[Ref[LinearDocument] | None] = Field("the document it is about")
    parent: Field[Ref[LinearComment] | None] = Field("the comment it answers")
    resolving_comment: Field[Ref[LinearComment] | None] = Field("the answer that settled it")
    resolved_at: Field[datetime | None] = Field("when it was settled")
    url: Field[str] = Field("its page at Linear")
    edited_at: Field[datetime | None] = Field("when its author last changed it")
    created_at: Field[datetime] = Field("when it was said")
    updated_at: Field[datetime] = Field("its last change")
    archived_at: Field[datetime | None] = Field("when it was archived")


class LinearAttachment(Entity):
    """A link from an issue to something elsewhere: a pull request, a message, a ticket."""

    title: Field[str] = Field("what it is called", searchable=True)
    subtitle: Field[str | None] = Field("a second line", searchable=True)
    url: Field[str] = Field("where it leads; unique within the issue", searchable=True)
    source_type: Field[str | None] = Field("which service it is from: github, slack, zendesk, …")
    metadata: Field[Json] = Field("what that service tells of it")
    issue: Field[Ref[LinearIssue]] = Field("the issue it is attached to")
    creator: Field[Ref[LinearUser] | None] = Field("who attached it")
    created_at: Field[datetime] = Field("when it was attached")
    updated_at: Field[datetime] = Field("its last change")
    archived_at: Field[datetime | None] = Field("when it was archived")


# -- what is asked -----------------------------------------------------------------------

PAGE = 250  # the most rows that Linear gives at once
FEW = 50  # rows that a look for changes asks for at first: points are charged for what might come
TEAMS = 20  # teams that come with a project; of one that has more, all are asked for
OVERLAP = timedelta(minutes=5)  # a change may be dated so long before it can be seen
DAY = timedelta(days=1)
CHANGED = "updated_at"  # the field of every entity by which changes are listed
ORGANIZATION = "organization { id urlKey }"  # comes with every page: the workspace must stay the same
PAGE_INFO = "pageInfo { hasNextPage endCursor }"
NAMES = ("name", "display_name", "bot", "external_author")  # which Linear gives escaped, as for a web page
Paths: TypeAlias = Mapping[str, str]
NONE: Paths = MappingProxyType({})
ESCAPES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&#x27;": "'", "&amp;": "&"}


@dataclass(frozen=True)
class Asked:
    """Which page of a listing: of everything, of what changed since, of mere ids, of one project."""

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
    """A name as people wrote it; what merely looks like an escape stays."""
    if name and "&" in name:
        for escape, character in ESCAPES.items():
            name = name.replace(escape, character)
    return name


def found(row: Json, path: Sequence[str]) -> Json:
    """What stands at the end of a path: None where it breaks off, of a list what each part has."""
    for position, key in enumerate(path):
        if isinstance(row, list):
            return [found(one, path[position:]) for one in row]
        if row is None:
            return None
        row = row[key]
    return row


def converting(entity: type[Entity], name: str) -> Callable[[Json], Any] | None:
    """What makes an answer's value the field's own; None when it is that already."""
    holds = entity.types()[name]
    if holds.target is not None:
        target = holds.target
        return lambda key: Ref(target, key) if key else None
    if name in NAMES:
        return unescaped
    conversions: Mapping[str, Callable[[Json], Any]] = {"integer": round, "boolean": bool}
    return conversions.get(str(holds.kind))  # 7.0 is meant to be 7, null to be no


class Reader:
    """How things of one kind are asked for, and read.

    ``paths`` say where fields stand in the answer that do not stand under their own names.
    """

    def __init__(self, entity: type[Entity], paths: Paths = NONE) -> None:
        self.entity = entity
        self._plain: list[tuple[str, str]] = []
        self._others: list[tuple[str, tuple[str, ...], Callable[[Json], Any]]] = []
        asked = ["id"]
        for field, holds in entity.types().items():
            path = paths.get(field) or camel(field) + (".id" if holds.target else "")
            asked.append(path.replace(".", " { ") + " }" * path.count("."))
            self._read(field, tuple(part.partition("(")[0] for part in path.split(".")))
        self.selection = f"{{ {' '.join(dict.fromkeys(asked))} }}"

    def _read(self, field: str, path: tuple[str, ...]) -> None:
        convert = converting(self.entity, field)
        if len(path) == 1 and convert is None:
            self._plain.append((field, path[0]))
        else:
            self._others.append((field, path, convert or (lambda value: value)))

    def values_of(self, row: Json) -> dict[str, Any]:
        """The fields that a row tells."""
        values = {field: row[key] for field, key in self._plain}
        for field, path, convert in self._others:
            values[field] = convert(found(row, path))
        return values


class Source(Reader):
    """How one collection of the organization is listed; ``filtered``: it can be asked for what changed."""

    def __init__(
        self, name: str, connection: str = "", *, filtered: bool = True, more: str = "", paths: Paths = NONE
    ) -> None:
        super().__init__(LinearOrganization.children()[name], paths)
        self.name, self.filtered = name, filtered
        self.connection = connection or camel(name)
        self._arguments = f", includeArchived: true{more}"

    def asked(self, request: PageRequest) -> Asked:
        """What to ask for such a page of the collection."""
        few = request.since is not None and self.filtered and request.cursor is None
        since = None if request.since is None else request.since.isoformat(timespec="milliseconds")
        return Asked(FEW if few else PAGE, request.cursor, since, request.ids_only)

    def query(self, asked: Asked) -> str:
        """The GraphQL text that asks for it."""
        changed = ", orderBy: updatedAt"
        if asked.ids_only:
            return self._text("Ids", "{ id }")
        if asked.since is None:  # with the row that changed last: there the next look for changes begins
            newest = f"newest: {self.connection}(first: 1{self._arguments}{changed})"
            also = "" if asked.after else f"{newest} {{ nodes {self.selection} }}"
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

    def page(self, answer: Json, asked: Asked) -> Page[Any]:
        """An answer as a page of entities; UpstreamChanged when it is none."""
        listed = RelayConnection.of(answer, self.connection)
        try:
            if asked.ids_only:
                return listed.page(lambda row: self.entity(row["id"]))
            if asked.since and not self.filtered:
                return self._changed(listed, asked)
            there = {row["id"] for row in listed.nodes}
            newest = [row for row in found(answer.get("newest"), ("nodes",)) or () if row["id"] not in there]
            return Page([self.entity_of(row) for row in [*newest, *listed.nodes]], next=listed.next)
        except (KeyError, TypeError, ValueError) as error:
            raise UpstreamChanged(
                f"linear: a page of {self.connection} came without what it must hold ({error!r})",
                hint="update the connector",
            ) from error

    def _changed(self, listed: RelayConnection, asked: Asked) -> Page[Any]:
        """A page of what cannot be asked for by time: sorted by it, and read as far as it is new.

        What fits on one page is read whole, and so tells what is gone, too.
        """
        whole = asked.after is None and listed.next is None
        since = datetime.fromisoformat(asked.since or "")
        older = any(datetime.fromisoformat(row["updatedAt"]) < since for row in listed.nodes[-1:])
        items = [self.entity_of(row) for row in listed.nodes]
        return Page(items, next=None if older else listed.next, complete_snapshot=whole)

    def entity_of(self, row: Json) -> Entity:
        """A row as an entity."""
        return self.entity(row["id"], **self.values_of(row))


WORKSPACE = Reader(LinearOrganization, {"organization_id": "id"})
PLAIN_REFS = ("issue", "project", "project_update", "initiative", "parent", "resolving_comment")
COMMENT_PATHS = {name: f"{camel(name)}Id" for name in PLAIN_REFS} | {
    "document": "documentContent.document.id",
    "external_author": "externalUser.name",
    "bot": "botActor.name",
}
SOURCES = (
    Source("teams"),
    Source("users", more=", includeDisabled: true"),
    Source("team_memberships", filtered=False),
    Source("workflow_states"),
    Source("labels", "issueLabels"),
    Source("cycles"),
    Source("project_statuses", filtered=False),
    Source("project_labels"),
    Source("projects", paths={"team_ids": f"teams(first: {TEAMS}, includeArchived: true).nodes.id"}),
    Source("project_milestones"),
    Source("project_updates"),
    Source("initiatives", paths={"parent": "parentInitiative.id"}),
    Source("initiative_projects", "initiativeToProjects", filtered=False),
    Source("issues"),
    Source("issue_relations", filtered=False),
    Source("comments", paths=COMMENT_PATHS),
    Source("attachments"),
    Source("documents"),
)


# -- the other side ----------------------------------------------------------------------

API = Limit("linear:api", concurrency=8)
RETRY = Retry(base=0.5)
API_KEY = Credential("api_key", "a personal key: lin_api_…", required=False)
CALLBACK = 8734  # Linear knows an application by its whole redirect address: http://127.0.0.1:8734/callback
OAUTH = OAuth("linear", token_path="/oauth/token")
BROWSER = BrowserSignIn(OAUTH, "https://linear.app/oauth/authorize", ["read"], separator=",", port=CALLBACK)
BUDGETS = (  # their resets are in milliseconds
    BudgetHeaders("x-ratelimit-requests-remaining", "x-ratelimit-requests-reset", unit=0.001),
    BudgetHeaders("x-ratelimit-complexity-remaining", "x-ratelimit-complexity-reset", "x-complexity", 0.001),
)
LEAVE_OUT = "let it, or leave that out: max connect linear:NAME --change --set leave_out=COLLECTION"
UNSEEN = PermissionDenied, "this credential may not see it", LEAVE_OUT
CODES = {"FORBIDDEN": UNSEEN, "FEATURE_NOT_ACCESSIBLE": UNSEEN}


@dataclass(frozen=True)
class LinearConfig:
    """Which Linear: scheme and host, the workspace that was connected, and what not to copy of it."""

    base_url: str = "https://api.linear.app"
    organization: str = ""  # its id; connecting finds it out
    leave_out: Sequence[str] = ()  # collections of the organization
    client_id: str = ""  # the application's, for OAuth

    def __post_init__(self) -> None:
        known = ", ".join(LinearOrganization.children())
        strange = set(self.leave_out) - LinearOrganization.children().keys()
        wrong = [Mismatch("leave_out", f"some of {known}", one) for one in sorted(strange)]
        if wrong:
            raise InvalidAnswers("linear cannot be configured so", wrong)


@dataclass(frozen=True)
class Linear:
    """What the operations work with."""

    graphql: GraphQL
    config: LinearConfig

    async def ask(self, query: str, **variables: Json) -> Json:
        """The data that a query comes to; variables that are None are not sent."""
        return await self.graphql.query(query, {k: v for k, v in variables.items() if v is not None})

    def check(self, answer: Json) -> None:
        """BadCredentials when the answer is of another workspace than the one that was connected."""
        there = answer["organization"]
        if self.config.organization not in ("", there["id"]):
            raise BadCredentials(
                f"linear: the credential opens linear.app/{there['urlKey']}, another workspace than before",
                hint="connect again with a credential of the first one, or make another installation",
            )


def code_of(error: Mapping[str, Json]) -> str | None:
    """Linear calls it an input error when there is no such thing."""
    return "NOT_FOUND" if str(error.get("message")).startswith("Entity not found") else None


def listing(source: Source) -> Operation[Linear, Asked, Json]:
    """The operation that fetches one page of a collection."""

    async def fetch(linear: Linear, asked: Asked) -> Json:
        query = source.query(asked)
        return await linear.ask(query, first=asked.first, after=asked.after, since=asked.since)

    return Operation(f"linear:{source.name}:list", fetch, limit=API, retry=RETRY)


@operation("linear:project_teams:list", limit=API, retry=RETRY)
async def list_project_teams(linear: Linear, asked: Asked) -> Json:
    """The teams of a project that has more than come with it."""
    teams = f"teams(first: $first, after: $after, includeArchived: true) {{ nodes {{ id }} {PAGE_INFO} }}"
    query = (
        f"query ProjectTeams($id: String!, $first: Int!, $after: String) {{ project(id: $id) {{ {teams} }} }}"
    )
    return await linear.ask(query, id=asked.project, first=asked.first, after=asked.after)


@operation("linear:organization:get", limit=API, retry=RETRY)
async def get_organization(linear: Linear, _: None) -> Json:
    """The workspace itself, and who sees it."""
    return await linear.ask(
        f"query Organization {{ organization {WORKSPACE.selection} viewer {{ name email }} }}"
    )


def fields_of(entity: type[Entity]) -> list[Any]:
    """Every field of an entity: its loader brings whole records."""
    return [getattr(entity, name) for name in entity.types()]


async def with_all_teams(answer: Json, env: Env[Linear]) -> Json:
    """A page of projects, with every team of those of which it may show too few."""
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
        answer = await env.run(list_project_teams, Asked(PAGE, after, project=project))
        page = RelayConnection.of(answer, "project", "teams")
        teams, after = teams + page.nodes, page.next
        if after is None:
            return teams


def loader_of(source: Source, fetch: Operation[Linear, Asked, Json]) -> Loader[Linear]:
    """What lists a collection of the organization."""

    async def load(parent: Ref[LinearOrganization], request: PageRequest, env: Env[Linear]) -> Page[Any]:
        asked = source.asked(request)
        answer = await env.run(fetch, asked)
        env.context.check(answer)
        if source.name == "projects" and not asked.ids_only:
            answer = await with_all_teams(answer, env)
        return source.page(answer, asked)

    load.__name__ = source.name
    changes = Watermark(getattr(source.entity, CHANGED), overlap=OVERLAP)
    collection = getattr(LinearOrganization, source.name)
    return Loader.collection(collection, brings=fields_of(source.entity), watermark=changes, sweep=DAY)(load)


@Loader.entity(*fields_of(LinearOrganization), ttl=DAY)
async def organization(ref: Ref[LinearOrganization], env: Env[Linear]) -> LinearOrganization:
    """The workspace itself, which seldom changes."""
    answer = await env.run(get_organization, None)
    env.context.check(answer)
    return LinearOrganization(ref.id, **WORKSPACE.values_of(answer["organization"]))


async def seed(linear: Linear, engine: Engine) -> SyncPlan:
    """Store the workspace; list everything in it side by side."""
    await engine.store(LinearOrganization(ROOT_ID))
    step = Step.for_root(LinearOrganization.ref(ROOT_ID))
    wanted = [source.name for source in SOURCES if source.name not in linear.config.leave_out]
    listings = [step.load_collection(getattr(LinearOrganization, name)) for name in wanted]
    return SyncPlan([Step.concurrent([step.load_fields(*fields_of(LinearOrganization)), *listings])])


# -- connecting --------------------------------------------------------------------------


async def tokens_of(config: LinearConfig, credentials: CredentialProvider) -> OAuthTokens:
    """OAuth tokens: a person's, or the application's own when its secret is all there is to renew them."""
    given = {one: await credentials.find(one) for one in OAUTH.credentials}
    if not any(given.values()):
        raise BadCredentials("linear: no credential is kept", hint="give one: --credential api_key=env:VAR")
    alone = given[OAuth.CLIENT_SECRET] is not None and given[OAuth.REFRESH_TOKEN] is None
    grant = (lambda now: {"grant_type": "client_credentials", "scope": "read"}) if alone else None
    return OAUTH.tokens(credentials, config.base_url, client_id=config.client_id, grant=grant)


async def initialise(config: LinearConfig, credentials: CredentialProvider) -> Installation[Linear]:
    """A client of the API, as whoever the credential belongs to; a key goes before tokens."""
    key = await credentials.find(API_KEY)
    tokens = None if key else await tokens_of(config, credentials)
    auth = KeyAuth(key) if key else tokens
    http = HttpClient(config.base_url, credentials, auth=auth, budgets=BUDGETS)
    linear = Linear(GraphQL(http, codes=CODES, code_of=code_of), config)
    parts = [http] if tokens is None else [tokens, http]

    async def start() -> None:
        for part in parts:
            await part.start()

    async def stop() -> None:
        for part in reversed(parts):
            await part.stop()

    async def health() -> str:
        return whose(await get_organization(linear, None))

    return Installation(linear, start, stop, tokens.renew if tokens else None, health)


def whose(answer: Json) -> str:
    """Which workspace it is and who sees it, for people."""
    there, person = answer["organization"], answer["viewer"]
    where = f"{unescaped(there['name'])} (linear.app/{there['urlKey']})"
    return f"linear: {where}, seen by {unescaped(person['name'])} <{person['email']}>"


async def opened(answers: Answers, credentials: CredentialProvider) -> Json:
    """Which workspace the answers open, and to whom; BadCredentials when it is another one than before."""
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


async def how(answers: Answers, credentials: CredentialProvider) -> Mapping[str, Any]:
    """Without a key, the next steps ask for what OAuth needs."""
    return {"oauth": await credentials.find(API_KEY) is None}


async def check(answers: Answers, credentials: CredentialProvider) -> str:
    """Ask Linear whose workspace it is: the answers are good when it tells."""
    return whose(await opened(answers, credentials))


async def settle(answers: Answers, credentials: CredentialProvider) -> Mapping[str, Any]:
    """Remember which workspace it is, so that another one's data is never mixed in."""
    return {"organization": (await opened(answers, credentials))["organization"]["id"]}


LISTINGS = [listing(source) for source in SOURCES]
connector = Connector(
    name="linear",
    description="Issues, projects and what is said of them in a workspace of Linear.",
    schema=Schema([LinearOrganization, *(source.entity for source in SOURCES)], roots=[LinearOrganization]),
    loaders=[organization, *map(loader_of, SOURCES, LISTINGS)],
    seeder=seed,
    initialise=initialise,
    config=LinearConfig,
    hosts=["{base_url}"],
    credentials=[API_KEY, *OAUTH.credentials],
    onboarding=[
        SecretInput(API_KEY, "Personal API key (see Settings, Security & access); nothing for OAuth"),
        RunCode(how),
        Input("client_id", "Client id of your OAuth application", when=itemgetter("oauth")),
        SecretInput(OAuth.CLIENT_SECRET, "Its client secret (empty: it has none)", when=itemgetter("oauth")),
        SignIn([OAuth.REFRESH_TOKEN], BROWSER, when=itemgetter("oauth")),
        Validate(check),
        RunCode(settle),
    ],
    contracts={source.entity: SchemaContract.QUARANTINE for source in SOURCES},  # an odd row keeps nothing up
    operations=[get_organization, list_project_teams, OAUTH.renewal, *LISTINGS],
)
