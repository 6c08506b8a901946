"""The fake of Linear for tests, where it is at hand: a workspace with everything, and what it holds.

It stands beside the repository, in ``../shared/apis``, and executes queries against Linear's own
schema.  What a database should hold is asked with Linear's published queries, not with ours.
"""

from __future__ import annotations

import asyncio
import html
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from max_connectors import linear
from max_connectors.linear import SOURCES, LinearConfig, Source, camel, connector

from max import CredentialProvider, Entity, InstallationInfo, Json, Ref, Status, SyncResult
from max.core import SyncOptions
from max.installations.config import read_config
from max.model.entities import values_of
from max.model.values import Kind
from max.runtime import InstallationRuntime
from max.upstream.credentials import MemoryCredentials
from max.upstream.recording import Recording
from max.upstream.replay import Replay

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
APIS = Path(__file__).resolve().parents[2] / "shared" / "apis"
QUERIES = APIS / "specs" / "linear" / "sync-queries.graphql"
START = 1_735_689_600  # 2025-01-01: the workspace's first moment
NOW = START + 90 * 86_400  # when tests begin
PREPARED: dict[str, Any] = {}  # queries of the oracle, parsed and found valid
KEY = "lin_api_fake"  # what the fake takes for one
ENOUGH = 100_000  # rows that the oracle reads at once


def why_not() -> str:
    """Why the fake cannot be had here; empty when it can."""
    if not APIS.is_dir():
        return f"the fake of Linear is not beside the repository ({APIS.name} in shared)"
    missing = [
        name for name in ("graphql", "jsonschema", "referencing") if not importlib.util.find_spec(name)
    ]
    return f"the fake of Linear needs {', '.join(missing)}" if missing else ""


needs_fake = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it is here")


def fake_module(name: str = "linear") -> Any:
    """A module of the fakes; its types are not ours to check."""
    if str(APIS) not in sys.path:
        sys.path.append(str(APIS))
    return importlib.import_module(f"apifakes.{name}")


@contextmanager
def workspace(issues: int = 12, comments: int = 2, clock: Any = None) -> Iterator[Any]:
    """A served workspace that has some of everything; leaving it fails when a request broke the schema."""
    clock = clock or fake_module("core").Clock(start=float(NOW))
    fake = fake_module().Linear(clock).seed(issues=issues, comments=comments, start=START)
    furnish(fake)
    with fake:
        fake._http.socket.listen(64)  # its own queue of five makes those wait who connect at once
        fake._http.handle_error = lambda *_: None  # who is killed says no goodbye
        yield fake


def uid(*parts: object) -> str:
    """The id that the fake gives to a thing of a name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(["linear", *map(str, parts)])))


def put(fake: Any, kind: str, called: str, at: int = 0, /, **values: Json) -> Json:
    """A row of any kind; ``at`` is in minutes from the first moment."""
    row: Json = fake.tables.put(kind, fake.stamp({"id": uid(kind, called), **values}, START + 60 * at))
    return row


def furnish(fake: Any) -> None:
    """What the fake's own seed leaves out; names escaped as Linear escapes them."""
    user, project = uid("user", 1), uid("project", 0)
    fake.tables.get("Team", uid("team", "OPS"))["name"] = "Research &amp; Development"
    status = put(fake, "ProjectStatus", "going", name="Going &gt; well", type="started", color="#00ff00")
    label = put(fake, "ProjectLabel", "big", name="big", color="#0000ff", isGroup=False)
    fake.touch("Project", project, statusId=status["id"], labelIds=[label["id"]], targetDate="2025-06-30")
    put(
        fake,
        "Project",
        "bin",
        name="Old",
        slugId="old",
        teamIds=[],
        trashed=True,
        url="x",
        statusId=status["id"],
        archivedAt=fake.clock.iso(START + 600),
    )
    milestone = put(fake, "ProjectMilestone", "beta", name="Beta", projectId=project, status="next")
    update = put(fake, "ProjectUpdate", "1", body="Fine", health="onTrack", projectId=project, userId=user)
    aim = put(fake, "Initiative", "grow", name="Grow", status="Active", ownerId=user, content="# Why")
    put(fake, "Initiative", "more", name="More", status="Planned", parentInitiativeId=aim["id"])
    put(fake, "InitiativeToProject", "1", initiativeId=aim["id"], projectId=project, sortOrder="a")
    content = put(fake, "DocumentContent", "1", documentId=uid("Document", "spec"))
    put(
        fake,
        "Document",
        "spec",
        title="Spec",
        content="All of it",
        projectId=project,
        creatorId=user,
        documentContentId=content["id"],
        slugId="spec",
        url="https://linear.app/acme/document/spec",
    )
    first, second = uid("issue", 0), uid("issue", 1)
    fake.tables.get("Issue", first).update(projectMilestoneId=milestone["id"], parentId=second, estimate=3)
    put(
        fake,
        "Attachment",
        "pr",
        title="PR 7",
        url="https://example.com/7",
        issueId=first,
        sourceType="github",
        metadata={"number": 7, "labels": ["a"]},
    )
    put(fake, "IssueRelation", "1", type="blocks", issueId=first, relatedIssueId=second)
    for team in ("ENG", "OPS"):
        put(fake, "TeamMembership", team, userId=user, teamId=uid("team", team), owner=team == "OPS")
    talk(fake, project, update["id"], content["id"])


def talk(fake: Any, project: str, update: str, content: str) -> None:
    """Comments that are not on issues, and some that no user wrote."""
    user = uid("user", 2)
    put(fake, "Comment", "project", 1, body="Soon", projectId=project, userId=user)
    put(fake, "Comment", "update", 2, body="Good", projectUpdateId=update, userId=user)
    put(fake, "Comment", "document", 3, body="Why?", documentContentId=content, quotedText="All", userId=user)
    put(
        fake,
        "Comment",
        "bot",
        4,
        body="Merged",
        issueId=uid("issue", 0),
        botActor={"id": "b", "name": "Q&amp;A", "type": "x"},
    )
    outside = put(fake, "ExternalUser", "eve", name="Eve &lt;3", displayName="eve")
    put(
        fake,
        "Comment",
        "outside",
        5,
        body="Hello",
        issueId=uid("issue", 0),
        externalUserId=outside["id"],
        parentId=uid("comment", 0, 0),
    )


def issue(number: int) -> str:
    """The id of an issue."""
    return uid("issue", number)


def change(fake: Any) -> None:
    """Something new, edited, moved, archived, binned and closed, in many kinds of things."""
    fake.clock.advance(30)
    fake.touch("Issue", issue(3), title="Better", teamId=uid("team", "ENG"), labelIds=[], assigneeId=None)
    fake.touch("Issue", issue(4), archivedAt=fake.clock.iso())
    fake.trash(issue(5))
    fake.touch("User", uid("user", 3), active=False, disableReason="left")
    fake.touch("Project", uid("project", 0), name="Launch &amp; learn", teamIds=[])
    fake.tables.put("Comment", fake.stamp({"id": uid("c", "new"), "body": "New", "issueId": issue(3)}))
    fake.tables.put(
        "Document", fake.stamp({"id": uid("d", "new"), "title": "New", "url": "x", "slugId": "x"})
    )
    fake.tables.put(
        "IssueRelation",
        fake.stamp({"id": uid("r", 2), "type": "related", "issueId": issue(3), "relatedIssueId": issue(4)}),
    )


# -- a story in two syncs, which is also in a recording ---------------------------------------------


def first_part(copy: Copy) -> SyncResult:
    """Everything there is."""
    return copy.sync()


def second_part(copy: Copy) -> SyncResult:
    """What changed since, and what is gone."""
    if copy.fake is not None:
        change(copy.fake)
        copy.fake.tables.delete("Comment", uid("comment", 2, 0))
    return copy.sync(check_deletes=True)


# -- what the workspace holds --------------------------------------------------------------


def asked(fake: Any, query: str, name: str | None = None) -> Json:
    """What the fake answers to a query from inside, without limits, faults or the log."""
    if query not in PREPARED:
        document, errors = fake.engine.prepare(query, {}, name)
        assert not errors, errors
        PREPARED[query] = document
    fake.engine.max_first, usual = ENOUGH, fake.engine.max_first
    try:
        result = fake.engine.run(PREPARED[query], {"first": ENOUGH}, name)
    finally:
        fake.engine.max_first = usual
    assert not result.errors, result.errors
    return result.data


def upstream(fake: Any) -> dict[str, dict[str, Json]]:
    """Every row of a workspace as Linear's published queries show it, by collection and id."""
    published = QUERIES.read_text(encoding="utf-8")
    found = {}
    for source in SOURCES:
        name = source.connection[0].upper() + source.connection[1:]
        if f"query {name}(" in published:
            data = asked(fake, published, name)
        else:
            data = asked(fake, EXTRA[source.name], name)
        found[source.name] = {row["id"]: row for row in data[source.connection]["nodes"]}
    for row in found["comments"].values():
        row["document"] = document_of(fake, row["documentContentId"])
        row["bot"] = (row["botActor"] or {}).get("name")
        row["externalAuthor"] = (
            fake.tables.get("ExternalUser", (row["externalUser"] or {}).get("id")) or {}
        ).get("name")
    for row in found["initiatives"].values():
        row["parent"] = row["parentInitiative"]
    for row in found["projects"].values():
        row["teamIds"] = [team["id"] for team in row["teams"]["nodes"]]
    return found


EXTRA = {
    "project_labels": (
        "query ProjectLabels($first: Int) { projectLabels(first: $first, includeArchived: true) { nodes {"
        " id name description color isGroup createdAt updatedAt archivedAt parent { id } creator { id } } } }"
    ),
    "initiative_projects": (
        "query InitiativeToProjects($first: Int) { initiativeToProjects(first: $first, includeArchived: true)"
        " { nodes { id createdAt updatedAt archivedAt initiative { id } project { id } } } }"
    ),
}


def document_of(fake: Any, content: str | None) -> Json:
    """The document whose text has that id."""
    row = fake.tables.get("DocumentContent", content or "") or {}
    return {"id": row["documentId"]} if row.get("documentId") else None


def expected(source: Source, row: Json) -> dict[str, Any]:
    """What the database must hold of a row, as far as the published queries ask for it."""
    values = {}
    for name, holds in source.entity.types().items():
        key = camel(name)
        if key in row:
            values[name] = plain(holds.kind, holds.target, name, row[key])
        elif f"{key}Id" in row:
            values[name] = plain(holds.kind, holds.target, name, row[f"{key}Id"])
    return values


def plain(kind: Kind, target: type[Entity] | None, name: str, value: Json) -> Any:
    """A value as an engine gives it back."""
    if kind is Kind.BOOLEAN:
        return bool(value)
    if value is None:
        return None
    if target is not None:
        id = value["id"] if isinstance(value, dict) else value
        return Ref(target, id) if id else None
    if kind is Kind.DATETIME:
        return datetime.fromisoformat(value).astimezone(UTC)
    if kind is Kind.DATE:
        return date.fromisoformat(value)
    if name in ("name", "display_name", "bot", "external_author"):
        return html.unescape(value)
    return value


# -- what the database holds ---------------------------------------------------------------


async def differences(fake: Any, runtime: InstallationRuntime) -> list[str]:
    """Where the database is not what upstream is: missing, left over, or other values."""
    wrong: list[str] = []
    there = upstream(fake)
    for source in SOURCES:
        rows = there[source.name]
        kept = {one.id: values_of(one) for one in await runtime.engine.query(source.entity).all()}
        wrong += [f"{source.name}: missing {id}" for id in rows.keys() - kept.keys()]
        wrong += [f"{source.name}: left over {id}" for id in kept.keys() - rows.keys()]
        for id in rows.keys() & kept.keys():
            for name, value in expected(source, rows[id]).items():
                if kept[id].get(name, "not loaded") != value:
                    wrong.append(f"{source.name} {id}.{name}: {kept[id].get(name)!r}, upstream {value!r}")
    return wrong


# -- copies of it ----------------------------------------------------------------------------


class Clock:
    """The time as a test has it, in seconds since the epoch: it runs, and can be moved on."""

    def __init__(self, now: float = NOW) -> None:
        self.ahead = now - time.time()

    def __call__(self) -> float:
        return time.time() + self.ahead


class Copy:
    """An installation of a workspace in a folder, opened for each thing that is done with it.

    ``recording`` is made anew for each time it is opened; without a fake it has to be a replay.
    """

    def __init__(self, folder: Path, fake: Any = None, **secrets: str) -> None:
        self.folder, self.fake, self.clock = folder, fake, Clock()
        self.secrets = MemoryCredentials(secrets or {"api_key": KEY})
        self.values: dict[str, Any] = {"base_url": fake.url} if fake else {}
        self.recording: Callable[[], Recording | Replay | None] = lambda: None
        self.process: subprocess.Popen[bytes]

    def configured(self) -> tuple[LinearConfig, CredentialProvider]:
        """What the connector is given."""
        config = read_config(LinearConfig, self.values, subject="a test")
        return config, CredentialProvider(self.secrets, connector.credentials, connector.hosts_for(config))

    def runtime(self) -> InstallationRuntime:
        """A runtime that is not started."""
        config, credentials = self.configured()
        info = InstallationInfo("linear", "default", "copy", {}, 0.0)
        return InstallationRuntime(
            info,
            connector,
            config,
            credentials,
            self.folder / "data.db",
            recording=self.recording(),
            clock=self.clock,
        )

    async def open(self, body: Callable[[InstallationRuntime], Awaitable[T]]) -> T:
        """Run a body on a started runtime."""
        runtime = self.runtime()
        await runtime.start()
        try:
            return await body(runtime)
        finally:
            await runtime.stop()

    def sync(self, **options: Any) -> SyncResult:
        """One sync, to its end; the clocks of both sides move on by a minute before it."""
        self.later(60)

        async def body(runtime: InstallationRuntime) -> SyncResult:
            handle = await runtime.sync(SyncOptions(**options))
            return await handle.completion()

        return asyncio.run(self.open(body))

    def later(self, seconds: float) -> None:
        """Let time pass on both sides."""
        self.clock.ahead += seconds
        if self.fake is not None:
            self.fake.clock.advance(seconds)

    def differences(self) -> list[str]:
        """Where the database is not what upstream is."""
        return asyncio.run(self.open(lambda runtime: differences(self.fake, runtime)))

    def requests(self) -> list[str]:
        """The names of the queries since last asked, in their order."""
        names = [self.fake.label(one).rpartition(" ")[2] for one in self.fake.log]
        self.fake.log.clear()
        return names

    def rows(self, entity: type[Entity]) -> dict[str, Mapping[str, Any]]:
        """What the database holds of a kind of thing, by id."""

        async def body(runtime: InstallationRuntime) -> dict[str, Mapping[str, Any]]:
            return {one.id: values_of(one) for one in await runtime.engine.query(entity).all()}

        return asyncio.run(self.open(body))

    # syncs in processes of their own

    def apart(self, *options: str) -> subprocess.Popen[bytes]:
        """A sync in another process, ended or killed."""
        self.later(60)
        arguments = [str(self.folder), self.fake.url, str(self.clock()), *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")])}
        command = [sys.executable, "-m", "tests.linear_fake", *arguments]
        with subprocess.Popen(command, env=environment, cwd=ROOT) as process:
            self.process = process
        cut = "body is not"  # a request of which a kill left half
        self.fake.rejections[:] = [one for one in self.fake.rejections if cut not in one]
        return process

    def killed_after(self, requests: int, *options: str) -> None:
        """The same, killed with SIGKILL when that many requests have come."""
        self.fake.inject("graphql", call=lambda _: self.process.kill(), skip=requests - 1)
        killed = self.apart(*options)
        self.fake.faults.clear()
        assert killed.returncode == -signal.SIGKILL


def main(folder: str, url: str, now: str, *options: str) -> int:
    """``python -m tests.linear_fake FOLDER URL NOW [OPTION…]``: one sync, with small pages."""
    linear.PAGE, linear.FEW = 5, 2

    copy = Copy(Path(folder))
    copy.values["base_url"] = url
    copy.clock = Clock(float(now))

    async def body(runtime: InstallationRuntime) -> SyncResult:
        handle = await runtime.sync(SyncOptions(check_deletes="check-deletes" in options))
        return await handle.completion()

    result = asyncio.run(copy.open(body))
    return 0 if result.status is Status.COMPLETED else 1


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
