"""The fake of Linear for tests: a workspace with records of every kind, and what a copy must hold.

The fake is not part of this repository.  It is used when it is found in ``../shared/apis``, and
executes queries against Linear's own schema.  Expected rows come from Linear's published queries,
not from those of the connector.
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
from collections.abc import Callable, Iterator, Mapping
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
from max.storage.sqlite import SqliteDatabase
from max.upstream.credentials import MemoryCredentials
from max.upstream.recording import Recording
from max.upstream.replay import Replay
from tests.opened import Opened

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
APIS = Path(__file__).resolve().parents[2] / "shared" / "apis"
QUERIES = APIS / "specs" / "linear" / "sync-queries.graphql"
START = 1_735_689_600  # 2025-01-01: the workspace's first moment
NOW = START + 90 * 86_400  # when tests begin
PREPARED: dict[str, Any] = {}  # parsed queries for expected rows
KEY = "lin_api_fake"  # a key that the fake accepts
ENOUGH = 100_000  # rows of one page of expected rows


def why_not() -> str:
    """Why the fake is not available; empty when it is."""
    if not APIS.is_dir():
        return f"the fake of Linear is not beside the repository ({APIS.name} in shared)"
    missing = [
        name for name in ("graphql", "jsonschema", "referencing") if not importlib.util.find_spec(name)
    ]
    return f"the fake of Linear needs {', '.join(missing)}" if missing else ""


needs_fake = pytest.mark.skipif(bool(why_not()), reason=why_not() or "available")


def fake_module(name: str = "linear") -> Any:
    """A module of the fakes, without types."""
    if str(APIS) not in sys.path:
        sys.path.append(str(APIS))
    return importlib.import_module(f"apifakes.{name}")


@contextmanager
def workspace(issues: int = 12, comments: int = 2, clock: Any = None) -> Iterator[Any]:
    """A served workspace with records of every kind; a request that violates the schema fails at the end."""
    clock = clock or fake_module("core").Clock(start=float(NOW))
    fake = fake_module().Linear(clock).seed(issues=issues, comments=comments, start=START)
    furnish(fake)
    with fake:
        fake._http.socket.listen(64)  # the default queue of five delays concurrent connections
        fake._http.handle_error = lambda *_: None  # a killed client closes no connection
        yield fake


def uid(*parts: object) -> str:
    """The id of a named record in the fake."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(["linear", *map(str, parts)])))


def put(fake: Any, kind: str, called: str, at: int = 0, /, **values: Json) -> Json:
    """Add a row of any kind; ``at`` is in minutes from START."""
    row: Json = fake.tables.put(kind, fake.stamp({"id": uid(kind, called), **values}, START + 60 * at))
    return row


def furnish(fake: Any) -> None:
    """Add the kinds that the fake's seed lacks, with names escaped as Linear does."""
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
    """Add comments that are not on issues, and some that no user wrote."""
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
    """Create, edit, move, archive, trash and close records of many kinds."""
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


# -- two syncs, which are also in recordings --------------------------------------------------------


def first_part(copy: Copy) -> SyncResult:
    """The first sync."""
    return copy.sync()


def second_part(copy: Copy) -> SyncResult:
    """Changes and a deletion, then the second sync."""
    if copy.fake is not None:
        change(copy.fake)
        copy.fake.tables.delete("Comment", uid("comment", 2, 0))
    return copy.sync(check_deletes=True)


# -- expected rows ------------------------------------------------------------------------


def asked(fake: Any, query: str, name: str | None = None) -> Json:
    """The fake's response to a query, without limits, faults or the log."""
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
    """Every row of a workspace from Linear's published queries, by collection and id."""
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
    """The document whose content has this id."""
    row = fake.tables.get("DocumentContent", content or "") or {}
    return {"id": row["documentId"]} if row.get("documentId") else None


def expected(source: Source, row: Json) -> dict[str, Any]:
    """The values that the database must hold for a row, as far as the published queries have them."""
    values = {}
    for name, holds in source.entity.types().items():
        key = camel(name)
        if key in row:
            values[name] = plain(holds.kind, holds.target, name, row[key])
        elif f"{key}Id" in row:
            values[name] = plain(holds.kind, holds.target, name, row[f"{key}Id"])
    return values


def plain(kind: Kind, target: type[Entity] | None, name: str, value: Json) -> Any:
    """A value as the engine returns it."""
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


# -- comparison ---------------------------------------------------------------------------


async def differences(fake: Any, runtime: InstallationRuntime) -> list[str]:
    """Differences between database and upstream: missing rows, left over rows, other values."""
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


# -- installations ---------------------------------------------------------------------------


class Clock:
    """The time of a test, in seconds since the epoch: it runs, and can be moved forward."""

    def __init__(self, now: float = NOW) -> None:
        self.ahead = now - time.time()

    def __call__(self) -> float:
        return time.time() + self.ahead


class Copy(Opened):
    """An installation of a workspace in a folder, opened for each call.

    ``recording`` is called each time the installation is opened; without a fake it must be a replay.
    """

    def __init__(self, folder: Path, fake: Any = None, **secrets: str) -> None:
        self.folder, self.fake, self.clock = folder, fake, Clock()
        self.secrets = MemoryCredentials(secrets or {"api_key": KEY})
        self.values: dict[str, Any] = {"base_url": fake.url} if fake else {}
        self.recording: Callable[[], Recording | Replay | None] = lambda: None
        self.process: subprocess.Popen[bytes]

    def configured(self) -> tuple[LinearConfig, CredentialProvider]:
        """The arguments of ``initialise``."""
        config = read_config(LinearConfig, self.values, subject="a test")
        return config, CredentialProvider(self.secrets, connector.credentials, connector.hosts_for(config))

    def runtime(self) -> InstallationRuntime:
        """A runtime before its start."""
        config, credentials = self.configured()
        info = InstallationInfo("linear", "default", "copy", {}, 0.0)
        return InstallationRuntime(
            info,
            connector,
            config,
            credentials,
            SqliteDatabase(self.folder / "data.db"),
            recording=self.recording(),
            clock=self.clock,
        )

    def later(self, seconds: float) -> None:
        """Move both clocks forward."""
        self.clock.ahead += seconds
        if self.fake is not None:
            self.fake.clock.advance(seconds)

    def differences(self) -> list[str]:
        """Differences between database and upstream."""
        return asyncio.run(self.open(lambda runtime: differences(self.fake, runtime)))

    def requests(self) -> list[str]:
        """The names of the queries since the last call, in order."""
        names = [self.fake.label(one).rpartition(" ")[2] for one in self.fake.log]
        self.fake.log.clear()
        return names

    def rows(self, entity: type[Entity]) -> dict[str, Mapping[str, Any]]:
        """The stored rows of an entity, by id."""

        async def body(runtime: InstallationRuntime) -> dict[str, Mapping[str, Any]]:
            return {one.id: values_of(one) for one in await runtime.engine.query(entity).all()}

        return asyncio.run(self.open(body))

    # syncs in other processes

    def apart(self, *options: str) -> subprocess.Popen[bytes]:
        """A sync in another process, after it has ended or was killed."""
        self.later(60)
        arguments = [str(self.folder), self.fake.url, str(self.clock()), *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")])}
        command = [sys.executable, "-m", "tests.linear_fake", *arguments]
        with subprocess.Popen(command, env=environment, cwd=ROOT) as process:
            self.process = process
        cut = "body is not"  # half a request of a killed process
        self.fake.rejections[:] = [one for one in self.fake.rejections if cut not in one]
        return process

    def killed_after(self, requests: int, *options: str) -> None:
        """A sync in another process, killed with SIGKILL after this many requests."""
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
