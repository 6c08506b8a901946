"""Every call that changes a project leaves exactly one row in its audit, and what reads leaves none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max import Project
from max.cli import COMMANDS
from max.errors import MaxError
from max.model.audit import AuditRow
from max.projects.audit import audit_rows, check_audit, recordable
from max.projects.folder import ProjectFolder
from max.serve.methods import METHODS, RECORDED_BY_RUNTIMES, Methods
from max.serve.streams import Stream
from tests.command_line import Cli
from tests.serve.test_methods import EXAMPLES

SECRET = "hunter2-and-more"
ACME = ("acme", "default")


async def synced(project: Project[Any]) -> None:
    runtime = await project.runtime(*ACME)
    await (await runtime.sync()).completion()


async def paused(project: Project[Any]) -> None:
    runtime = await project.runtime(*ACME)
    handle = runtime.sync_every  # a warm runtime is there; what it begins by itself is another call
    assert handle
    await project.request("acme:default", "pause")


async def invalidated_warm(project: Project[Any]) -> None:
    await (await project.runtime(*ACME)).invalidate("AcmeUser")


async def retry_what_failed(project: Project[Any]) -> None:
    await (await project.runtime(*ACME)).retry_failed()


CALLS: dict[str, Callable[[Project[Any]], Coroutine[Any, Any, object]]] = {
    "connect": lambda project: project.connect("acme", config={"users": 2}, secrets={"token": SECRET}),
    "connect nothing": lambda project: project.connect("acmee"),
    "connect wrongly": lambda project: project.connect("acme", config={"users": SECRET}),
    "reconfigure": lambda project: project.reconfigure("acme:default", config={"users": 3}),
    "reconfigure nothing": lambda project: project.reconfigure("acme:nothing", config={"users": 3}),
    "change_settings": lambda project: project.change_settings("acme:default", history_days=9),
    "change_settings wrongly": lambda project: project.change_settings("acme:default", history_days="x"),
    "disconnect": lambda project: project.disconnect("acme:default"),
    "invalidate": lambda project: project.invalidate("acme:default", "AcmeUser"),
    "invalidate warm": invalidated_warm,
    "pause": paused,
    "cancel": lambda project: project.request("acme:default", "cancel"),
    "sync": synced,
    "retry_failed": retry_what_failed,
}


@settings(max_examples=12)
@given(st.lists(st.sampled_from(sorted(CALLS)), max_size=8))
def test_p42_every_call_that_changes_something_leaves_one_row_with_who_what_when_and_outcome(
    tmp_path_factory: pytest.TempPathFactory, calls: list[str]
) -> None:
    folder = ProjectFolder.init(tmp_path_factory.mktemp("p"))
    expected = [("init", "done", "")]

    async def work() -> None:
        async with Project(folder) as project:
            for call in calls:
                there = any(str(info) == "acme:default" for info in await project.installations())
                try:
                    await CALLS[call](project)
                except MaxError as error:
                    if there or call not in ("sync", "retry_failed", "invalidate warm", "pause"):
                        expected.append((call.split()[0], "failed", error.code))
                else:
                    expected.append((call.split()[0], "done", ""))
                for info, _ in project.list_runtimes():
                    with suppress(MaxError):
                        await (await project.runtime(info.connector, info.name)).stop()

    asyncio.run(work())
    rows = [row for row in audit_rows(folder) if not row.action.startswith("credentials.")]
    assert [(row.action, row.outcome, row.code) for row in rows] == expected
    for row in rows:
        assert row.user
        assert row.process
        assert row.via == "program"
        assert row.began_at <= row.at
    assert check_audit(folder).problems == ()
    assert SECRET.encode() not in (folder.root / ".max" / "audit.db").read_bytes()


def new_rows(before: int) -> list[AuditRow]:
    """The rows that came since, of the project in the current folder."""
    return audit_rows(ProjectFolder.find("."))[before:]


CHANGING = {  # words of the command line, and the action that they leave
    "connect acme:second --set users=2": "connect",
    "connect acme:third --set users=many": "connect",
    "connect acme:default --update --set users=2": "reconfigure",
    "settings acme:default history_days=8": "change_settings",
    "settings acme:default history_days=x": "change_settings",
    "sync acme:default": "sync",
    "sync acme:default --full": "sync",
    "sync acme:default --retry-failed": "retry_failed",
    "pause acme:default": "pause",
    "resume acme:default": "run",
    "cancel acme:default": "cancel",
    "invalidate acme:default AcmeUser": "invalidate",
    "invalidate acme:default AcmeUserr": "invalidate",
    "migrate acme:default": "migrate",
    "schedule acme:default --every 15m": "schedule",
    "disconnect acme:default --yes": "disconnect",
}


def test_p42_each_command_that_changes_something_leaves_one_row(cli: Cli) -> None:
    cli("sync", "acme:default")
    assert [row.action for row in new_rows(0)] == ["init", "connect", "sync"]
    for words, action in CHANGING.items():
        before = len(new_rows(0))
        run = cli(*words.split())
        found = [row for row in new_rows(before) if row.action != "credentials.read"]
        assert [(row.action, row.via) for row in found] == [(action, "command line")], (words, run)
        row = found[0]
        assert (row.outcome == "done") == (run.status in (0, 3)), (words, run)


def test_a_copy_that_pruning_made_is_read_and_checked_by_its_name(cli: Cli) -> None:
    cli("sync", "acme:default")
    head = cli("audit", "--verify", "-o", "json").data["head"]
    assert cli("audit", "prune", "--before", "0s", "--to", "old.db", "-o", "json").data["removed"] == 3
    assert [row.action for row in new_rows(0)] == ["audit prune"]
    now = cli("audit", "--verify", "-o", "json").data
    assert (now["whole"], now["rows"], now["pruned"]) == (True, 1, 3)
    assert cli("audit", "--verify", "--head", head).status == 1
    assert cli("audit", "--verify", "--head", head, "--of", "old.db").status == 0
    old = cli("audit", "--of", "old.db", "-o", "json").data
    assert [row["action"] for row in old["data"]] == ["init", "connect", "sync"]
    assert cli("audit", "--of", "nothing.db").status == 2
    assert cli("audit", "prune", "--before", "90d", "--to", "other.db", "-o", "json").data["removed"] == 0


READING = ["search acme AcmeUser", "count acme AcmeTask", "status", "runs", "watch --once", "health", "audit"]
READING += [
    "audit --verify",
    "doctor",
    "schema acme",
    "settings acme",
    "changes acme",
    "migrate acme --plan",
    "ls",
    "guide",
]


def test_what_reads_leaves_no_row(cli: Cli) -> None:
    cli("sync", "acme:default")
    audit = Path(".max/audit.db")
    before = audit.read_bytes()
    for words in READING:
        assert words.split()[0] in COMMANDS
        assert cli(*words.split()).status == 0, words
    assert audit.read_bytes() == before


def test_p42_each_method_that_writes_leaves_one_row_and_no_other_leaves_one(cli: Cli) -> None:
    cli("sync", "acme:default")
    folder = ProjectFolder.find(".")

    async def work() -> None:
        async with Project(folder) as project:
            methods = Methods(project)
            for name, given in EXAMPLES:
                if name == "command" or given.get("sync") == "the first sync":
                    continue
                before = len(audit_rows(folder))
                with suppress(MaxError):
                    answer = methods.answer(name, given)
                    await (answer.result() if isinstance(answer, Stream) else answer)
                rows = [row for row in audit_rows(folder)[before:] if row.action != "credentials.read"]
                by_runtime = name in RECORDED_BY_RUNTIMES  # a hook that is forged leaves no row
                expected = [] if METHODS[name].reads or by_runtime else [name]
                assert [row.action for row in rows] == expected, (name, given)
                for info, _ in project.list_runtimes():
                    await (await project.runtime(info.connector, info.name)).stop()

    asyncio.run(work())


def test_secrets_leave_a_row_once_for_a_runtime_and_once_for_each_renewal(tmp_path: Path) -> None:
    async def work() -> None:
        async with Project.open(tmp_path, create=True) as project:
            info = await project.connect("acme", config={"users": 2}, secrets={"token": SECRET})
            secrets = project.manager.credentials(info)  # a runtime has one of these while it runs
            for _ in range(3):
                assert await secrets.get("token") == SECRET
            async with secrets.renewal_lock():
                assert await secrets.get("token") == SECRET
                await secrets.set("token", f"{SECRET}-2")
            assert await secrets.get("token") == f"{SECRET}-2"

    asyncio.run(work())
    rows = audit_rows(ProjectFolder.find(tmp_path))[2:]
    assert [(row.action, row.facts) for row in rows] == [
        ("credentials.read", {"names": ["token"]}),
        ("credentials.read", {"names": ["token"]}),
        ("credentials.renew", {"names": ["token"]}),
    ]


def test_of_what_may_hold_secrets_the_names_alone_are_recorded() -> None:
    given = {
        "secrets": {"token": SECRET},
        "config": {"url": SECRET},
        "headers": [SECRET],
        "body": SECRET,
        "force": True,
        "names": ["a"],
    }
    found = recordable(given)
    assert found == {"secrets": ["token"], "config": ["url"], "force": True, "names": ["a"]}
