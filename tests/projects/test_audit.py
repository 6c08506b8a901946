"""The audit: one row for each change and each reading of secrets, in a chain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.core import in_thread
from max.errors import ProjectError, StorageError, UnknownName, UsageError
from max.model.actor import acting_as
from max.model.audit import AuditRow
from max.model.settings import InstallationInfo
from max.projects.audit import (
    InstallationAudit,
    audit_rows,
    audited,
    audited_call,
    check_audit,
    prune_audit,
    recorded_elsewhere,
    unfinished_changes,
)
from max.projects.folder import AUDIT, ProjectFolder
from max.storage.sqlite import SqliteConnection
from tests.database_files import writer

ACME = InstallationInfo("acme", "default", "0123456789abcdef", {}, 0.0)


def made(root: Path) -> ProjectFolder:
    """A project without the row of its making."""
    project = ProjectFolder.init(root)
    (root / ".max" / AUDIT).unlink()
    return project


@pytest.fixture
def folder(tmp_path: Path) -> ProjectFolder:
    """A project of this user, whose audit is empty."""
    return made(tmp_path)


def read(folder: ProjectFolder, *names: str) -> None:
    """Secrets are read."""
    InstallationAudit(folder, ACME).read(names)


def shown(folder: ProjectFolder) -> list[tuple[str, str, str]]:
    """The action, the outcome and the code of every row."""
    return [(one.action, one.outcome, one.code) for one in audit_rows(folder)]


def spoil(folder: ProjectFolder, change: Callable[[SqliteConnection], object]) -> tuple[str, ...]:
    """Change the file by hand; what the check finds."""
    with writer(folder.root / ".max" / AUDIT) as connection:
        change(connection)
    return tuple(check_audit(folder).problems)


def test_a_change_leaves_one_row_with_who_what_when_and_the_outcome(folder: ProjectFolder) -> None:
    with audited(folder, "settings", ACME, history="changes") as facts:
        facts["changed"] = True
    (row,) = audit_rows(folder)
    assert (row.number, row.action, row.installation) == (1, "settings", "acme:default 0123456789abcdef")
    assert (row.facts, row.outcome, row.code) == ({"history": "changes", "changed": True}, "done", "")
    assert (row.via, str(os.getpid()) in row.process, bool(row.user)) == ("program", True, True)
    assert row.began_at <= row.at
    assert check_audit(folder).problems == ()


def test_a_change_that_fails_has_the_code_of_its_error(folder: ProjectFolder) -> None:
    with pytest.raises(UnknownName), audited(folder, "connect", "acme"):
        raise UnknownName("connector", "acmee", ["acme"])
    with pytest.raises(KeyboardInterrupt), audited(folder, "connect", "acme"):
        raise KeyboardInterrupt
    assert shown(folder) == [("connect", "failed", "usage.unknown"), ("connect", "failed", "interrupted")]


def test_what_a_recorded_call_calls_leaves_no_row_of_its_own(folder: ProjectFolder) -> None:
    async def work() -> None:
        async with audited_call(folder, "ensure", ACME):
            with audited(folder, "connect", ACME):
                pass
            await in_thread(lambda: within(folder))

    def within(folder: ProjectFolder) -> None:
        with audited(folder, "settings", ACME):
            pass

    asyncio.run(work())
    assert shown(folder) == [("ensure", "done", "")]


def test_what_lives_longer_than_a_recorded_call_leaves_its_own_rows(folder: ProjectFolder) -> None:
    async def work() -> None:
        async with audited_call(folder, "sync", ACME):
            go_on = asyncio.Event()

            async def later() -> None:
                await go_on.wait()
                async with audited_call(folder, "settings", ACME):
                    pass

            task = asyncio.create_task(later())
        go_on.set()
        await task

    asyncio.run(work())
    assert shown(folder) == [("sync", "done", ""), ("settings", "done", "")]


def test_a_reading_of_secrets_always_leaves_a_row_with_their_names(folder: ProjectFolder) -> None:
    with audited(folder, "connect", ACME):
        read(folder, "token", "id")
    assert [(one.action, one.facts) for one in audit_rows(folder)] == [
        ("credentials.read", {"names": ["id", "token"]}),
        ("connect", {}),
    ]


def test_a_call_acts_for_its_caller_also_in_threads_and_tasks(folder: ProjectFolder) -> None:
    async def work() -> None:
        with acting_as("http:ci", user="anna", process="127.0.0.1:5"):
            await asyncio.create_task(change())
        await change()

    async def change() -> None:
        await in_thread(lambda: read(folder))

    asyncio.run(work())
    assert [row.via for row in audit_rows(folder)] == ["http:ci", "program"]
    assert audit_rows(folder)[0].user == "anna"


def test_a_caller_whose_name_is_not_utf_8_is_recorded_with_an_escape(folder: ProjectFolder) -> None:
    with acting_as("socket", user="sudo by \udcff", process="\udcff:5"):
        read(folder)
        with audited(folder, "sync", ACME):
            pass
    assert {(row.user, row.process) for row in audit_rows(folder)} == {("sudo by \\udcff", "\\udcff:5")}
    assert not check_audit(folder).problems


def test_what_another_process_has_recorded_leaves_no_row_here(folder: ProjectFolder) -> None:
    with recorded_elsewhere(), audited(folder, "sync", ACME):
        pass
    assert audit_rows(folder) == []


@given(st.data())
def test_p42_each_change_of_the_chain_is_found_and_named(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = made(tmp_path_factory.mktemp("p"))
    count = data.draw(st.integers(1, 6))
    for n in range(count):
        read(folder, str(n))
    assert check_audit(folder).problems == ()
    row = data.draw(st.integers(1, count))
    column = data.draw(
        st.sampled_from([name for name in AuditRow._names if name not in ("number", "digest")])
    )
    how = data.draw(st.sampled_from(["changed", "deleted", "renumbered", "added", "swapped"]))
    if how == "changed":
        new = {"facts": "'[1]'", "at": "at + 1", "began_at": "at - 1"}.get(column, f"{column} || '1'")
        problems = spoil(
            folder, lambda db: db.execute(f"UPDATE audit SET {column} = {new} WHERE number = {row}")
        )
        assert problems == (f"row {row} was changed, or does not belong behind the row before it",)
    elif how == "deleted":
        problems = spoil(folder, lambda db: db.execute(f"DELETE FROM audit WHERE number = {row}"))
        assert problems == (f"row {row} is missing",)
    elif how == "renumbered":
        moved = f"UPDATE audit SET number = number - 1 WHERE number > {row}"
        problems = spoil(
            folder, lambda db: [db.execute(f"DELETE FROM audit WHERE number = {row}"), db.execute(moved)]
        )
        assert f"row {count} is missing" in problems
        assert len(problems) == count - row + 1
    elif how == "added":
        columns = ", ".join(AuditRow._names[1:])
        copied = f"INSERT INTO audit SELECT {count + 1}, {columns} FROM audit WHERE number = {row}"
        problems = spoil(folder, lambda db: db.execute(copied))
        assert f"row {count + 1} was not written by Max: the newest was row {count}" in problems
    elif count > 1:
        other = row % count + 1

        def swap(db: SqliteConnection) -> None:
            for old, new in ((row, -1), (other, row), (-1, other)):
                db.execute(f"UPDATE audit SET number = {new} WHERE number = {old}")

        changed = {int(one.split()[1]) for one in spoil(folder, swap)}
        assert {row, other} <= changed


def test_a_chain_that_was_made_again_is_found_by_a_digest_that_was_kept_elsewhere(
    folder: ProjectFolder, tmp_path: Path
) -> None:
    read(folder, "a")
    known = check_audit(folder)
    read(folder, "b")
    assert check_audit(folder, head=known.digest[:12]).problems == ()
    (folder.root / ".max" / AUDIT).unlink()
    assert check_audit(folder, head=known.digest).problems == (
        f"the row with the digest {known.digest} is missing",
    )
    read(folder, "a")
    assert check_audit(folder).problems == ()
    assert len(check_audit(folder, head=known.digest).problems) == 1


# -- pruning -----------------------------------------------------------------------------------


def aged(folder: ProjectFolder, count: int) -> list[AuditRow]:
    """The rows of that many readings, each of another moment."""
    for n in range(count):
        before = time.time()
        while time.time() == before:
            pass
        read(folder, str(n))
    return audit_rows(folder)


@settings(max_examples=25)
@given(st.data())
def test_p42_what_is_left_after_pruning_is_a_chain_and_the_copy_has_all(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = made(tmp_path_factory.mktemp("p"))
    rows = aged(folder, data.draw(st.integers(1, 5)))
    for turn in range(data.draw(st.integers(1, 3))):
        kept = data.draw(st.integers(0, len(rows)))
        before, copy = [*(row.at for row in rows), time.time() + 1][kept], folder.root / f"{turn}.db"
        assert prune_audit(folder, before=before, copy=copy) == kept
        assert audit_rows(folder, copy=copy) == rows
        assert check_audit(folder, copy=copy, head=rows[-1].digest).problems == ()
        left = audit_rows(folder)
        assert left[: len(rows) - kept] == rows[kept:]
        assert [row.action for row in left[len(rows) - kept :]] == ["audit prune"] * (kept > 0)
        assert check_audit(folder).problems == ()
        rows = left
    row = data.draw(st.sampled_from(rows)).number
    deleted = spoil(folder, lambda db: db.execute(f"DELETE FROM audit WHERE number = {row}"))
    assert any(one.startswith("row") and f"{row}" in one for one in deleted)


@pytest.mark.parametrize("facts", ["{}", "[", '{"through": 1, "digest": "0"}', '{"through": "x"}'])
def test_a_chain_does_not_begin_where_a_changed_row_says(folder: ProjectFolder, facts: str) -> None:
    aged(folder, 3)
    prune_audit(folder, before=time.time() + 1, copy=folder.root / "a.db")
    problems = spoil(folder, lambda db: db.execute("UPDATE audit SET facts = ?", (facts,)))
    assert problems[-1] in ("rows 1 to 3 are missing", "rows 2 to 3 are missing")


def test_a_chain_that_is_not_whole_is_not_pruned(folder: ProjectFolder) -> None:
    aged(folder, 3)
    spoil(folder, lambda db: db.execute("DELETE FROM audit WHERE number = 2"))
    with pytest.raises(ProjectError, match="row 2 is missing"):
        prune_audit(folder, before=time.time() + 1, copy=folder.root / "a.db")
    assert [row.number for row in audit_rows(folder)] == [1, 3]
    assert not (folder.root / "a.db").exists()


def test_pruning_writes_over_no_file(folder: ProjectFolder) -> None:
    rows = aged(folder, 2)
    (folder.root / "a.db").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        prune_audit(folder, before=time.time() + 1, copy=folder.root / "a.db")
    assert (folder.root / "a.db").read_text() == "mine"
    assert audit_rows(folder) == rows


def test_rows_are_removed_and_that_is_recorded_in_one_transaction(folder: ProjectFolder) -> None:
    rows = aged(folder, 2)
    full = "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END"
    spoil(folder, lambda db: db.execute(full))
    with pytest.raises(StorageError):
        prune_audit(folder, before=time.time() + 1, copy=folder.root / "a.db")
    assert audit_rows(folder) == rows
    assert audit_rows(folder, copy=folder.root / "a.db") == rows


def test_only_its_owner_can_read_a_copy(folder: ProjectFolder) -> None:
    aged(folder, 1)
    prune_audit(folder, before=0.0, copy=folder.root / "a.db")
    assert (folder.root / "a.db").stat().st_mode & 0o777 == 0o600


KILLED = """
import os, signal, sys
from max.projects.audit import audited
from max.projects.folder import AUDIT, ProjectFolder
with audited(ProjectFolder.find(sys.argv[1]), "disconnect", "acme:default"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_between_a_change_and_its_row_leaves_one_with_the_outcome_unknown(
    folder: ProjectFolder,
) -> None:
    died = subprocess.run([sys.executable, "-c", KILLED, str(folder.root)], cwd=Path(__file__).parents[2])
    assert died.returncode == -signal.SIGKILL
    (lost,) = unfinished_changes(folder)
    assert (lost["action"], audit_rows(folder), check_audit(folder).unfinished) == ("disconnect", [], 1)
    with audited(folder, "settings", ACME):
        pass
    assert shown(folder) == [("disconnect", "unknown", ""), ("settings", "done", "")]
    assert check_audit(folder).unfinished == 0


WRITING = """
import sys
from max.projects.audit import audited
from max.projects.folder import AUDIT, ProjectFolder
folder = ProjectFolder.find(sys.argv[1])
for n in range(20):
    with audited(folder, "settings", sys.argv[2]):
        pass
"""


def test_several_processes_write_one_chain(folder: ProjectFolder) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WRITING, str(folder.root), name], cwd=Path(__file__).parents[2]
        )
        for name in "abc"
    ]
    assert [one.wait() for one in running] == [0, 0, 0]
    found = [one.installation for one in audit_rows(folder)]
    assert {name: found.count(name) for name in "abc"} == {"a": 20, "b": 20, "c": 20}
    assert check_audit(folder).problems == ()


def test_where_this_user_may_not_write_nothing_is_recorded_and_reading_works(
    folder: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(folder)
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with audited(folder, "settings", ACME):
        pass
    assert len(audit_rows(folder)) == 1


def test_a_link_in_the_place_of_the_audit_is_not_followed(folder: ProjectFolder, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(b"")
    (folder.root / ".max" / AUDIT).symlink_to(other)
    with pytest.raises(ProjectError, match="not a file of its own"), audited(folder, "settings", ACME):
        raise AssertionError("the change must not begin")
    assert other.read_bytes() == b""


def test_only_its_owner_can_read_the_audit(folder: ProjectFolder) -> None:
    read(folder)
    assert (folder.root / ".max" / AUDIT).stat().st_mode & 0o777 == 0o600


def test_p42_a_row_of_another_projects_chain_does_not_fit(
    folder: ProjectFolder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = made(tmp_path_factory.mktemp("other"))
    for project, name in ((folder, "a"), (other, "b")):
        for n in range(3):
            read(project, f"{name}{n}")
    columns = [name for name in AuditRow._names if name != "facts"]
    row = audit_rows(other)[1]
    values = [*(getattr(row, name) for name in columns), json.dumps(row.facts)]
    names = ", ".join([*columns, "facts"])
    insert = f"INSERT INTO audit ({names}) VALUES ({', '.join('?' * len(values))})"
    found = spoil(
        folder, lambda db: [db.execute("DELETE FROM audit WHERE number = 2"), db.execute(insert, values)]
    )
    assert [one.split()[:2] for one in found] == [["row", "2"], ["row", "3"]]
