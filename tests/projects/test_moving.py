"""Moving: an installation is whole in one place, whatever happens to the move."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from max.errors import (
    KeyMissing,
    KeyWrong,
    MaxError,
    MoveRefused,
    ProjectError,
    StorageError,
    StorageFull,
    StorageMoving,
    StorageNewer,
    StorageReadOnly,
    StorageUnreachable,
    SyncRunning,
    UsageError,
)
from max.installations.credential_file import StoredSecrets
from max.installations.encryption import new_key
from max.installations.files import free_lock
from max.model.settings import InstallationInfo
from max.model.tasks import Status
from max.project import Project
from max.projects import moving
from max.projects.audit import audit_rows, check_audit
from max.projects.database import ProjectDatabase
from max.projects.folder import ProjectFolder
from max.projects.manager import MovedInstallation, ProjectManager
from max.projects.moving import moving_to, undo
from max.projects.opening import find_project, move_of, unopened
from max.storage import moves, sqlite
from max.storage import postgres as postgres_module
from max.storage.move_mark import Mark
from max.storage.postgres import PostgresDatabase, lock_number
from max.sync.kept_files import KeptFiles
from tests.command_line import prepare, running, take
from tests.postgres_server import shared_url
from tests.storage.test_moves import content

NOW = 1_700_000_000.0
KILLS = int(os.environ.get("MAX_KILLS", "2"))  # in each direction
POINTS = 60  # that a move has, at most, at which it can be killed: see ``die_at``
numbers = itertools.count()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the demo, which was synced."""
    return prepare(tmp_path_factory.mktemp("prepared"), "init", "sync acme:default -q")


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it, with another installation that has secrets, and was never synced."""
    take(prepared, tmp_path / "home")
    info = folder_at(tmp_path / "home").add(
        "acme", "other", {"seed": 2}, {"token": "very-secret"}, now=NOW, destination="https://a.example"
    )
    folder_at(tmp_path / "home").change_settings(info, history_days=5)
    return tmp_path / "home"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """A key in the environment."""
    monkeypatch.setenv("MOVE_KEYS", new_key())
    monkeypatch.setenv("MAX_KEY", "env:MOVE_KEYS")
    return os.environ["MOVE_KEYS"]


@pytest.fixture
def url(key: str) -> Iterator[str]:
    """The URL of a project that is not made yet."""
    server, schema = shared_url(), f"m{os.getpid()}x{next(numbers)}"
    yield f"{server}#{schema}"
    drop_schemas(server, schema)


def drop_schemas(server: str, schema: str) -> None:
    """Drop a project with all that is in it."""
    with PostgresDatabase(server, "public").writer() as connection:
        sql = "SELECT nspname FROM pg_namespace WHERE nspname = ? OR starts_with(nspname, ?)"
        for (name,) in connection.execute(sql, (schema, f"{schema}_")).fetchall():
            connection.execute(f'DROP SCHEMA "{name}" CASCADE')


def folder_at(path: Path) -> ProjectFolder:
    return ProjectFolder(path, trusted=True)


def project_at(path: Path) -> ProjectManager:
    """The project to which a folder leads."""
    return find_project(path, trusted=True)


def moved(project: ProjectManager, to: str | Path, *names: str) -> list[str]:
    """Move installations, or the whole project; their names."""
    chosen = [project.target(name) for name in names] or None
    return [str(one.info) for one in move_of(project, str(to), chosen).run()]


def data_of(project: ProjectManager, name: str = "acme:default") -> dict[str, list[tuple[Any, ...]]]:
    return content(project.database(project.target(name)))


def known(project: ProjectManager) -> list[tuple[InstallationInfo, dict[str, str]]]:
    """The installations with their secrets."""
    return [(info, project.credentials(info).read()) for info in project.installations()]


def files_below(folder: Path) -> list[str]:
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())


# -- a project, and one installation


@pytest.mark.postgres
def test_a_project_moves_into_a_database_and_back_as_it_was(home: Path, url: str) -> None:
    keep(home, b"one", b"two")
    before, data, contents = known(project_at(home)), data_of(project_at(home)), kept(project_at(home))
    assert moved(project_at(home), url) == ["acme:default", "acme:other"]
    there = project_at(home)
    assert isinstance(there, ProjectDatabase)
    assert (known(there), data_of(there), kept(there)) == (before, data, contents)
    assert files_below(home / ".max") == [".gitignore", "project.json"]
    assert not there.has_data(there.target("acme:other"))
    assert check_audit(there).problems == ()
    actions = [row.action for row in audit_rows(there)]
    assert actions[0] == "init"
    assert actions.count("move") == 3  # the project's, and one for each installation that came
    assert moved(there, home) == ["acme:default", "acme:other"]
    back = project_at(home)
    assert isinstance(back, ProjectFolder)
    assert (known(back), data_of(back), kept(back)) == (before, data, contents)
    assert there.installations() == []
    assert check_audit(back).problems == ()
    assert [row.action for row in audit_rows(back)].count("move") == 6
    secrets = home / ".max/installations/acme/other/credentials.json"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert "leading" not in (home / ".max/project.json").read_text()


@pytest.mark.postgres
def test_no_secret_is_in_the_database_and_none_is_left_on_the_disk(home: Path, url: str) -> None:
    moved(project_at(home), url)
    server, _, schema = url.partition("#")
    with PostgresDatabase(server, schema).reader() as connection:
        rows = connection.execute("SELECT * FROM credential").fetchall()
    assert rows
    assert "very-secret" not in str(rows) + str(audit_rows(project_at(home)))
    assert not any(b"very-secret" in one.read_bytes() for one in home.rglob("*") if one.is_file())


@pytest.mark.postgres
def test_one_installation_moves_alone_and_the_others_stay(home: Path, url: str) -> None:
    data = data_of(project_at(home))
    assert moved(project_at(home), url, "acme:default") == ["acme:default"]
    here, there = project_at(home), ProjectDatabase.open(url)
    assert isinstance(here, ProjectFolder)
    assert [str(one) for one in here.installations()] == ["acme:other"]
    assert data_of(there) == data
    for project in (here, there):
        assert [row.action for row in audit_rows(project)].count("move") == 1
    with pytest.raises(UsageError, match=r"it is in .* already"):
        moved(there, url)


@pytest.mark.postgres
def test_an_unfinished_sync_goes_on_in_the_other_place(tmp_path: Path, url: str) -> None:
    begun: list[str] = []
    resumed: list[str] = []
    size: dict[str, Any] = {"workspaces": 1, "projects": 3, "tasks": 40, "users": 6, "page_size": 5}

    async def paused(project: Project[Any]) -> Any:
        runtime = await project.ensure("acme", "default", **size)
        handle = await runtime.sync()
        await handle.pause()
        begun.append(handle.id)
        return (await handle.completion()).status

    async def whole(project: Project[Any]) -> Any:
        runtime = await project.runtime("acme")
        handle = await runtime.sync()  # goes on with the one that is paused
        resumed.append(handle.id)
        return (await handle.completion()).status

    async def run(place: Path | str, work: Callable[[Project[Any]], Any], *, create: bool = False) -> Any:
        async with Project[Any].open(place, create=create, trusted=True) as project:
            return await work(project)

    def rows(project: ProjectManager) -> dict[str, list[Any]]:
        with project.database(project.target("acme")).reader() as connection:
            return {
                one: connection.execute(f"SELECT * FROM {one} ORDER BY id").fetchall()
                for one in ("acme_task", "acme_user", "acme_project", "acme_file")
            }

    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    assert asyncio.run(run(one, paused, create=True)) is Status.PAUSED
    moved(project_at(one), url)
    assert asyncio.run(run(url, whole)) is Status.COMPLETED
    moved(project_at(one), one)
    asyncio.run(run(other, paused, create=True))
    assert asyncio.run(run(other, whole)) is Status.COMPLETED
    assert begun == resumed
    found = rows(project_at(one))
    assert len(found["acme_task"]) > 20
    assert found == rows(project_at(other))


def test_a_folder_moves_into_another_one_with_the_contents_that_were_kept(home: Path, tmp_path: Path) -> None:
    data, target = data_of(project_at(home)), tmp_path / "target"
    folder = keep(home, b"content")
    (file,) = folder.glob("*/*")
    file.with_name(f".{file.name}.left").write_bytes(b"half")
    assert moved(project_at(home), target, "acme:default") == ["acme:default"]
    assert data_of(project_at(target)) == data
    assert files_below(target / ".max/installations/acme/default/files") == [
        f"{file.parent.name}/{file.name}"
    ]
    assert moved(project_at(target), home, "acme:default") == ["acme:default"]
    assert data_of(project_at(home)) == data
    file.write_bytes(b"damaged")
    with pytest.raises(MoveRefused, match="is not what its name says"):
        moved(project_at(home), target, "acme:default")


def keep(home: Path, *contents: bytes) -> Path:
    """Contents that the connector of acme:default has kept in a folder; their folder."""
    folder = home / ".max/installations/acme/default/files"
    for one in contents:
        asyncio.run(KeptFiles(folder).keep(one))
    return folder


def kept(project: ProjectManager) -> dict[str, bytes]:
    """The contents of acme:default, read without what moves them."""
    info = project.target("acme:default")
    if isinstance(project, ProjectFolder):
        folder = Path(project.place_of_data(info)).with_name("files")
        return {one.name: one.read_bytes() for one in folder.glob("*/[!.]*")}
    with project.database(info).reader() as connection:
        if not connection.dialect.columns(connection, "_max_kept_file"):
            return {}
        return dict(connection.execute("SELECT name, content FROM _max_kept_file").fetchall())


def mark_of(project: ProjectManager, info: InstallationInfo) -> Mark:
    """The mark of a move that has begun."""
    mark = moving_to(project, info)
    assert mark is not None
    return mark


def test_secrets_that_are_renewed_while_it_is_handed_over_are_those_that_arrive(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit, source = ProjectFolder.admit, project_at(home)
    info = source.target("acme:other")

    def renewing(self: ProjectFolder, coming: Any) -> None:
        admit(self, coming)
        source.credentials(info).change(lambda kept: kept | {"token": "renewed"})

    monkeypatch.setattr(ProjectFolder, "admit", renewing)
    moved(source, tmp_path / "target", "acme:other")
    there = project_at(tmp_path / "target")
    assert there.credentials(info).read() == {"token": "renewed"}


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("to", "here", "there", "arrives"),
    [
        ("folder", "new", "", "new"),
        ("database", "new", "", "new"),
        ("back", "new", "", "new"),
        ("folder", "", "new", "new"),
        ("folder", "newer", "new", "new"),
        ("folder", "", "", "very-secret"),
    ],
)
def test_secrets_that_were_renewed_after_a_move_was_killed_are_not_lost(
    to: str, here: str, there: str, arrives: str, home: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the new place stay where it has renewed them itself, for it answers since it has them."""
    if to == "back":
        moved(folder_at(home), url, "acme:other")
    source: ProjectManager = ProjectDatabase(url) if to == "back" else folder_at(home)
    place = {"database": url, "folder": str(home.parent / "there"), "back": str(home)}[to]
    info = source.target("acme:other")
    with monkeypatch.context() as killed:
        killed.setattr(type(source), "remove", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            moved(source, place, "acme:other")
    target = unopened(place, trusted=True)
    for project, token in ((source, here), (target, there)):
        if token:
            project.credentials(info).change(lambda kept, new=token: kept | {"token": new})  # type: ignore[misc]
    assert "very-secret" not in mark_of(source, info).given
    assert moved(source, place, "acme:other") == ["acme:other"]
    assert target.credentials(info).read() == {"token": arrives}
    assert info not in source.installations()


# -- what must wait for the end of a move


def killed_before_the_end(source: ProjectManager, place: str, name: str) -> InstallationInfo:
    """An installation that was handed over, and that the source still has."""
    info = source.target(name)
    with pytest.MonkeyPatch.context() as killed:
        killed.setattr(type(source), "remove", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            moved(source, place, name)
    return info


def test_what_was_handed_over_to_a_place_that_is_lost_can_be_disconnected(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project, words = folder_at(home), ("disconnect", "acme:default", "--yes", "-C", str(home), "--json")
    info = project.target("acme:default")
    with project.writable_database(info).writer() as connection:
        moves.freeze(connection, "postgresql://127.0.0.1:1/lost")
    assert running(capsys)(*words).error["code"] == "storage.moving"  # --undo takes it back
    with sqlite3.connect(project.database(info).label) as raw:
        raw.execute("UPDATE _max_move SET handing_over = 1")
    assert running(capsys)(*words).status == 0
    assert info not in project.installations()
    assert (
        "only if the other place\nhas it and cannot be reached" in running(capsys)("disconnect", "--help").out
    )


def test_a_damaged_mark_of_a_move_is_damage_and_keeps_nothing_from_being_disconnected(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = folder_at(home)
    info = project.target("acme:default")
    with project.writable_database(info).writer() as connection:
        moves.freeze(connection, "elsewhere")
    with sqlite3.connect(project.database(info).label) as raw:
        raw.execute("DELETE FROM _max_move")
    undone = running(capsys)("move", "acme:default", "--undo", "-C", str(home), "--json")
    assert undone.error["code"] == "storage.corrupt"
    project.change_settings(info, history_days=9)
    assert running(capsys)("disconnect", "acme:default", "--yes", "-C", str(home)).status == 0


@pytest.mark.postgres
@pytest.mark.parametrize("to", ["database", "folder", "back"])
def test_what_is_being_moved_is_neither_changed_nor_disconnected_and_the_rerun_is_in_the_audit(
    to: str, home: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if to == "back":
        moved(folder_at(home), url, "acme:default")
    source: ProjectManager = ProjectDatabase(url) if to == "back" else folder_at(home)
    place = {"database": url, "folder": str(home.parent / "there"), "back": str(home)}[to]
    info = killed_before_the_end(source, place, "acme:default")
    with pytest.raises(StorageMoving, match="being moved to another place") as refusal:
        source.change_settings(info, history_days=9)
    assert "--undo" in refusal.value.hint
    with pytest.raises(StorageMoving):
        source.reconfigure(info, lambda one, secrets: pytest.fail("it was asked"))

    async def disconnect() -> None:
        async with Project[Any].open(url if to == "back" else home, trusted=True) as project:
            await project.disconnect(info)

    with pytest.raises(StorageMoving):
        asyncio.run(disconnect())
    if to != "back":
        run = running(capsys)("disconnect", "acme:default", "--yes", "-C", str(home), "--json")
        assert (run.status, run.error["code"]) == (1, "storage.moving")
    assert info in source.installations()
    target = unopened(place, trusted=True)
    before = audit_rows(target)
    assert moved(source, place, "acme:default") == ["acme:default"]
    (added,) = (row for row in audit_rows(target) if row.action == "move" and row not in before)
    assert added.installation.startswith("acme:default")
    target.change_settings(target.target("acme:default"), history_days=9)


@pytest.mark.postgres
@pytest.mark.parametrize("change", ["change_settings", "reconfigure", "remove"])
@pytest.mark.parametrize("kept_in", ["folder", "database"])
def test_a_move_that_begins_while_a_change_waits_for_its_turn_is_seen(
    kept_in: str, change: str, home: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kept_in == "database":
        moved(folder_at(home), url, "acme:default")
    source: ProjectManager = ProjectDatabase(url) if kept_in == "database" else folder_at(home)
    info, audited = source.target("acme:default"), type(source).audited

    def meanwhile(self: Any, *words: Any, **facts: Any) -> Any:
        with source.writable_database(info).writer() as connection:
            moves.freeze(connection, "elsewhere")
        return audited(self, *words, **facts)

    monkeypatch.setattr(type(source), "audited", meanwhile)
    changes: dict[str, Callable[[], object]] = {
        "change_settings": lambda: source.change_settings(info, history_days=9),
        "reconfigure": lambda: source.reconfigure(info, lambda one, secrets: pytest.fail("it was asked")),
        "remove": lambda: source.remove(info, keep_data=False),
    }
    with pytest.raises(StorageMoving):
        changes[change]()
    assert source.installations()[0] == info


@pytest.mark.postgres
@pytest.mark.parametrize("kept_in", ["folder", "database"])
def test_a_move_begins_under_the_lock_of_those_who_change_what_it_moves(
    kept_in: str, home: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what was changed before is moved, and what comes later is refused."""
    if kept_in == "database":
        moved(folder_at(home), url, "acme:default")
    source: ProjectManager = ProjectDatabase(url) if kept_in == "database" else folder_at(home)
    place = home if kept_in == "database" else home.parent / "there"
    freeze, alone = moves.freeze, list[bool]()

    def freezing(*words: Any, **named: Any) -> None:
        if isinstance(source, ProjectFolder):
            with free_lock(source.file(source.target("acme:default")).parent) as is_free:
                alone.append(not is_free)
        else:
            server, _, schema = url.partition("#")
            with PostgresDatabase(server, "public").reader() as connection:
                sql = "SELECT pg_try_advisory_xact_lock(?)"
                alone.append(not connection.execute(sql, (lock_number(schema),)).fetchone()[0])
        freeze(*words, **named)

    monkeypatch.setattr(moves, "freeze", freezing)
    assert moved(source, place, "acme:default") == ["acme:default"]
    assert alone == [True]


# -- what is refused, before anything is written


def check_refused(home: Path, to: str | Path, error: type[MaxError], words: str, *names: str) -> None:
    """A move is refused, and everything is where it was and as it was."""
    before = data_of(folder_at(home))
    with pytest.raises(error, match=words):
        moved(folder_at(home), to, *names)
    here = folder_at(home)
    assert data_of(here) == before
    assert [moving_to(here, info) for info in here.installations()] == [None] * len(here.installations())
    with here.writable_database(here.target("acme:default")).writer() as connection:
        connection.execute("UPDATE _max_source SET source = source")


@pytest.mark.postgres
def test_without_a_key_or_with_another_one_nothing_is_moved(
    home: Path, url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAX_KEY")
    check_refused(home, url, KeyMissing, "no key is given")
    assert not PostgresDatabase(url.partition("#")[0], url.partition("#")[2]).is_there()
    monkeypatch.setenv("MAX_KEY", "env:MOVE_KEYS")
    moved(folder_at(home), url)
    monkeypatch.setenv("MOVE_KEYS", new_key())
    with pytest.raises(KeyWrong):
        moved(project_at(home), home)
    monkeypatch.setenv("MOVE_KEYS", key)
    assert len(project_at(home).installations()) == 2
    assert files_below(home / ".max") == [".gitignore", "project.json"]


@pytest.mark.postgres
def test_a_database_that_has_one_of_that_name_or_its_data_is_refused(
    home: Path, url: str, tmp_path: Path
) -> None:
    copy = shutil.copytree(home, tmp_path / "copy")
    there = ProjectDatabase.open(url, create=True)
    info = there.add("acme", "default", {}, {}, now=NOW)
    check_refused(home, url, ProjectError, "the name acme:default is taken")
    with there.writable_database(info).writer() as connection:
        connection.execute("CREATE TABLE kept (a INTEGER)")
    there.remove(info, keep_data=True)
    check_refused(home, url, MoveRefused, "is there already: data that was kept")
    there.database(info).delete()
    moved(folder_at(home), url)
    check_refused(
        copy, url, ProjectError, "is taken"
    )  # a copy with the same ids is not taken for what was moved


def test_a_folder_that_has_one_of_that_name_or_its_data_is_refused(home: Path, tmp_path: Path) -> None:
    target = ProjectFolder.init(tmp_path / "target")
    info = target.add("acme", "default", {}, {}, now=NOW)
    check_refused(home, target.root, ProjectError, "the name acme:default is taken")
    with target.writable_database(info).writer() as connection:
        connection.execute("CREATE TABLE kept (a INTEGER)")
    target.remove(info, keep_data=True)
    check_refused(home, target.root, MoveRefused, "is there already: data that was kept")


@pytest.mark.parametrize("wrong", ["connector", "name", "id"])
def test_a_database_cannot_lead_what_comes_out_of_the_folder(wrong: str, tmp_path: Path) -> None:
    """As it has them that others write: each is a part of a path."""
    target = ProjectFolder.init(tmp_path / "target")
    names = {"connector": "acme", "name": "default", "id": "a1"} | {wrong: "/../../evil"}
    info = InstallationInfo(names["connector"], names["name"], names["id"], {}, NOW)
    one = MovedInstallation(info, {}, StoredSecrets({}))
    with pytest.raises(UsageError, match="cannot be the name of"):
        target.check_arrival(one)
    if wrong == "id":
        with pytest.raises(UsageError, match="cannot be the name of"):
            target.drop_arriving(one.info)


@pytest.mark.postgres
def test_a_connector_of_its_own_is_refused_where_there_are_none(home: Path, url: str) -> None:
    (home / "connectors").mkdir()
    (home / "connectors" / "max_own.py").touch()
    folder_at(home).add("own", None, {}, {}, now=NOW)
    check_refused(home, url, MoveRefused, "uses the project's own connector", "own")
    assert len(moved(folder_at(home), url)) == 3  # the folder that leads there has it


@pytest.mark.postgres
def test_an_id_that_is_too_long_there_is_refused_before_anything_is_written(home: Path, url: str) -> None:
    with sqlite3.connect(home / ".max/installations/acme/default/data.db") as connection:
        sql = "UPDATE _acme_user SET _id = ? WHERE _row = (SELECT min(_row) FROM _acme_user)"
        connection.execute(sql, ("é" * 1_001,))
    connection.close()
    words = "AcmeUser:é+… has an id of 2,002 bytes, and Postgres holds up to 2,000"
    check_refused(home, url, MoveRefused, words)
    with pytest.raises(MoveRefused, match=words) as caught:
        move_of(folder_at(home), url, None).plan()
    assert caught.value.hint.startswith("keep it where it is")


@pytest.mark.postgres
def test_a_server_that_is_not_there_or_has_the_project_of_a_newer_max_is_refused(
    home: Path, url: str
) -> None:
    check_refused(home, "postgresql://x@/y?host=/nowhere", StorageUnreachable, "nowhere")
    check_refused(home, "postgresql://x:secret@h/y", UsageError, "a password in a URL")
    ProjectDatabase.open(url, create=True)
    server, _, schema = url.partition("#")
    with PostgresDatabase(server, schema).writer() as connection:
        connection.execute("INSERT INTO _max_migration VALUES ('project', 9, 'x')")
    check_refused(home, url, StorageNewer, "newer than this Max")


def test_what_is_running_damaged_or_noted_in_files_alone_is_refused(home: Path, tmp_path: Path) -> None:
    here, target = folder_at(home), tmp_path / "target"
    info = here.target("acme:default")
    worker = "a/b/c/1/1/x"
    with here.writable_database(info).writer() as connection:
        connection.execute("UPDATE _max_sync SET state = 'running', worker = ?", (worker,))
        connection.execute("INSERT INTO _max_worker VALUES (?, unixepoch())", (worker,))
    check_refused(home, target, SyncRunning, "is already running")
    with here.writable_database(info).writer() as connection:
        connection.execute("UPDATE _max_sync SET state = 'completed', worker = NULL")
    file = here.file(info)
    text = file.read_text()
    file.write_text(json.dumps({**json.loads(text), "note": "mine"}))
    check_refused(home, target, MoveRefused, "has note, which would be lost")
    file.write_text(text)
    here.file(here.target("acme:other")).write_text("{")
    with pytest.raises(ProjectError, match="is broken"):
        moved(here, target)
    assert not target.exists()
    with pytest.raises(UsageError, match="it is in"):
        moved(here, home)


def test_a_disk_that_is_full_leaves_everything_where_it_was(home: Path, tmp_path: Path) -> None:
    data, (soft, hard) = data_of(folder_at(home)), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(StorageError):
            moved(folder_at(home), tmp_path / "target", "acme:default")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert data_of(folder_at(home)) == data
    assert project_at(tmp_path / "target").installations() == []
    moved(folder_at(home), tmp_path / "target", "acme:default")
    assert data_of(project_at(tmp_path / "target")) == data


@pytest.mark.postgres
def test_a_server_that_may_only_be_read_or_whose_schema_is_another_programs_is_refused(
    home: Path, url: str
) -> None:
    server, _, schema = url.partition("#")
    only = f"{server}&options=-cdefault_transaction_read_only%3Don#{schema}"
    check_refused(home, only, StorageReadOnly, "read-only transaction")
    with PostgresDatabase(server, schema).writer() as connection:
        connection.execute("CREATE TABLE theirs (a INTEGER)")
    check_refused(
        home, url, ProjectError, f"the schema {schema} is another program's: it has the table theirs"
    )
    for refusing in (
        move_of(folder_at(home), url, None).plan,
        lambda: ProjectDatabase.open(url, create=True),
    ):
        with pytest.raises(ProjectError, match="is another program's"):
            refusing()
    with PostgresDatabase(server, schema).writer() as connection:
        connection.execute("DROP TABLE theirs")
    assert len(moved(folder_at(home), url)) == 2  # a schema that the server's operator has made


@pytest.mark.postgres
def test_a_server_whose_disk_becomes_full_says_so_and_the_move_goes_on_later(
    home: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, data, prepare = folder_at(home), data_of(folder_at(home)), moves.prepare

    def preparing(source: Any, target: Any, tables: Any) -> None:
        prepare(source, target, tables)
        raises = "RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'"
        made = f"RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {raises}; END $$"
        target.execute(f"CREATE FUNCTION full_disk() {made}")
        each = "BEFORE INSERT ON _acme_task FOR EACH ROW EXECUTE FUNCTION full_disk()"
        target.execute(f"CREATE TRIGGER full_disk {each}")

    with monkeypatch.context() as full:
        full.setattr(moves, "prepare", preparing)
        with pytest.raises(StorageFull, match=r"^acme:default: .*could not extend file") as caught:
            moved(here, url, "acme:default")
    assert "the same max move goes on; to write here again: max move INSTALLATION --undo" in caught.value.hint
    info = here.target("acme:default")
    assert data_of(here) == data
    there = unopened(url)
    assert there.installations() == []
    with there.arriving(info).writer() as connection:
        connection.execute("DROP FUNCTION full_disk CASCADE")
    assert moved(here, url, "acme:default") == ["acme:default"]
    assert data_of(there) == data


def test_when_one_of_several_cannot_be_frozen_all_can_be_written_as_before(
    home: Path, tmp_path: Path
) -> None:
    """Its disk has no room for the note of the move."""
    here, (soft, hard) = folder_at(home), resource.getrlimit(resource.RLIMIT_FSIZE)
    chosen = [here.target("acme:other"), here.target("acme:default")]
    move = move_of(here, str(tmp_path / "there"), chosen)
    resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, hard))
    try:
        with pytest.raises(StorageError, match=r"^acme:default: "):
            move.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [moving_to(here, info) for info in chosen] == [None, None]
    assert not here.has_data(chosen[0])
    assert move_of(here, str(tmp_path / "there"), chosen).run()


def test_one_of_many_that_fails_is_named_and_all_stay_until_the_move_goes_on(
    home: Path, tmp_path: Path
) -> None:
    here, names = folder_at(home), [f"acme:{name}" for name in ("a", "b", "c", "default", "other")]
    for name in "abc":
        here.add("acme", name, {}, {}, now=NOW)
    asyncio.run(KeptFiles(home / ".max/installations/acme/b/files").keep(b"content"))
    (file,) = (home / ".max/installations/acme/b/files").glob("*/*")
    file.write_bytes(b"damaged")
    words = f"^acme:b: the content {file.name} is not what its name says"
    with pytest.raises(MoveRefused, match=words) as caught:
        moved(here, tmp_path / "there")
    assert "the same max move goes on" in caught.value.hint
    assert [str(info) for info in here.installations()] == names
    assert folder_at(tmp_path / "there").installations() == []
    file.write_bytes(b"content")
    assert moved(here, tmp_path / "there") == names
    assert [str(info) for info in folder_at(tmp_path / "there").installations()] == names


def test_what_a_power_cut_must_not_undo_is_flushed_however_durable_syncs_are(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the old place could be written again after the new one has it."""
    here, levels = folder_at(home), list[int]()
    here.change_settings(here.target("acme:default"), durability="normal")
    freeze, note = moves.freeze, moving.note_handing_over  # type: ignore[attr-defined]

    def watched(work: Callable[..., None]) -> Callable[..., None]:
        def watching(connection: Any, *values: Any, **named: Any) -> None:
            levels.append(connection.execute("PRAGMA synchronous").fetchone()[0])
            work(connection, *values, **named)

        return watching

    monkeypatch.setattr(moves, "freeze", watched(freeze))
    monkeypatch.setattr(moving, "note_handing_over", watched(note))
    moved(here, tmp_path / "there", "acme:default")
    assert levels == [2, 2]  # FULL


def test_what_is_connected_while_a_project_moves_is_named_and_moved_by_the_same_command(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, verify = folder_at(home), moves.verify

    def connecting(*values: Any) -> int:
        here.add("acme", "late", {}, {}, now=NOW)
        return verify(*values)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(moves, "verify", connecting)
        with pytest.raises(MoveRefused, match=r"acme:late was connected in .* while the rest was moved"):
            moved(here, tmp_path / "there")
    assert moved(folder_at(home), tmp_path / "there") == ["acme:late"]
    assert len(folder_at(tmp_path / "there").installations()) == 3


@pytest.mark.postgres
def test_a_project_that_is_led_elsewhere_brings_what_was_connected_meanwhile_as_well(
    home: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, admit = folder_at(home), ProjectDatabase.admit

    def connecting(self: ProjectDatabase, coming: Any) -> None:
        here.add("acme", "late", {}, {}, now=NOW)
        admit(self, coming)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(ProjectDatabase, "admit", connecting)
        with pytest.raises(MoveRefused, match="acme:late was connected"):
            moved(here, url)
    assert moved(project_at(home), url) == ["acme:late"]
    assert len(project_at(home).installations()) == 3


# -- a move that was not finished


def test_until_it_is_handed_over_a_move_can_be_taken_back(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, target = data_of(folder_at(home)), tmp_path / "target"
    for name in ("_copy", "_hand_over"):
        with monkeypatch.context() as broken:
            broken.setattr(moving.Move, name, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                moved(folder_at(home), target)
    here = folder_at(home)
    with pytest.raises(MoveRefused, match=r"is being moved to .*target already"):
        moved(here, tmp_path / "another")
    for info in here.installations():
        mark = mark_of(here, info)
        assert (mark.target, mark.whole, mark.handing_over) == (str(target), True, False)
        with pytest.raises(StorageMoving), here.writable_database(info).writer() as connection:
            connection.execute("INSERT INTO _max_migration VALUES ('a', 1, 'b')")
        undo(here, info, mark, unopened(mark.target))
        assert moving_to(here, info) is None
    assert data_of(here) == data
    assert not here.has_data(here.target("acme:other"))
    assert [one for one in files_below(target) if "data.db" in one] == []
    assert moved(here, tmp_path / "another") == ["acme:default", "acme:other"]


def test_what_was_handed_over_is_not_taken_back_but_finished(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    with monkeypatch.context() as broken:
        broken.setattr(ProjectFolder, "remove", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            moved(folder_at(home), target)
    here = folder_at(home)
    info = here.target("acme:default")
    mark = mark_of(here, info)
    assert (mark.target, mark.whole, mark.handing_over) == (str(target), True, True)
    for seen in (mark, mark._replace(handing_over=False)):  # it may have been read before the step
        with pytest.raises(MoveRefused, match=r"acme:default is in .*target already"):
            undo(here, info, seen, unopened(mark.target))
    assert [one.arrived for one in move_of(here, str(target), None).plan()] == [True, True]
    assert moved(here, target) == ["acme:default", "acme:other"]
    assert here.installations() == []
    assert [str(one) for one in project_at(target).installations()] == ["acme:default", "acme:other"]


@pytest.mark.postgres
def test_the_folder_leads_to_the_old_place_until_the_new_one_has_all_of_it(
    home: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, data = known(project_at(home)), data_of(project_at(home))
    leads = []
    admit, remove = ProjectDatabase.admit, ProjectFolder.remove

    def admitting(self: ProjectDatabase, coming: Any) -> None:
        leads.append(type(project_at(home)))
        admit(self, coming)
        leads.append(type(project_at(home)))

    def removing(self: ProjectFolder, info: InstallationInfo, **how: bool) -> None:
        leads.append(type(project_at(home)))
        assert (known(project_at(home)), data_of(project_at(home))) == (before, data)
        remove(self, info, **how)

    monkeypatch.setattr(ProjectDatabase, "admit", admitting)
    monkeypatch.setattr(ProjectFolder, "remove", removing)
    moved(project_at(home), url)
    assert leads == [ProjectFolder, ProjectFolder, ProjectDatabase, ProjectDatabase]


@pytest.mark.parametrize("when", ["before the step", "after it"])
def test_a_move_that_is_taken_back_in_its_last_moment_removes_nothing(
    when: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the lock that keeps one from the other: a server that is restarted forgets who has it."""
    monkeypatch.setattr(ProjectFolder, "moving_alone", lambda self: nullcontext())
    here, data = folder_at(home), data_of(folder_at(home))
    acme = here.target("acme:default")
    admit = ProjectFolder.admit

    def admitting(self: ProjectFolder, coming: Any) -> None:
        mark = moving_to(here, acme)
        assert mark is not None
        if when == "before the step":
            undo(here, acme, mark, self)
        admit(self, coming)
        if when == "after it":
            with pytest.raises(MoveRefused, match="already"):
                undo(here, acme, mark, self)

    monkeypatch.setattr(ProjectFolder, "admit", admitting)
    if when == "before the step":
        with pytest.raises(MoveRefused, match="was taken back meanwhile"):
            moved(here, tmp_path / "there", "acme:default")
        assert data_of(folder_at(home)) == data
    else:
        moved(here, tmp_path / "there", "acme:default")
        assert data_of(folder_at(tmp_path / "there")) == data


# -- killed


def die_at(nth: int) -> None:
    """From now on end the process before its nth commit, or step on the disk, counted from 0."""
    left = [nth]

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    connect, commit, replace = sqlite.connect, postgres_module._Session.commit, Path.replace
    rename, unlink = Path.rename, Path.unlink

    def watched(*args: Any, **named: Any) -> Any:
        connection = connect(*args, **named)
        connection.set_trace_callback(lambda sql: count() if sql == "COMMIT" else None)
        return connection

    def step(work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            count()
            return work(*args, **named)

        return counted

    sqlite.connect = watched
    postgres_module._Session.commit = step(commit)  # type: ignore[method-assign]
    Path.replace, Path.rename, Path.unlink = step(replace), step(rename), step(unlink)  # type: ignore


def killed_at(nth: int, home: Path, to: str | Path) -> bool:
    """Move the whole project of a folder in a process that is killed at a point; whether it was."""
    child = os.fork()
    if child == 0:
        try:
            die_at(nth)
            moved(project_at(home), to)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.postgres
def test_a_move_that_is_killed_anywhere_leaves_one_place_that_answers_and_goes_on(
    home: Path, url: str
) -> None:
    keep(home, b"one", b"two", b"three")
    before, data = known(folder_at(home)), data_of(folder_at(home))
    contents = kept(folder_at(home))
    draw, died = random.Random(KILLS), 0
    for _ in range(KILLS):
        for to in (url, str(home)):
            nth = draw.randrange(POINTS)
            died += killed_at(nth, home, to)
            answering = project_at(home)
            assert (known(answering), data_of(answering), kept(answering)) == (before, data, contents), nth
            if isinstance(answering, ProjectDatabase) == (to == url):
                with answering.writable_database(before[0][0]).writer() as connection:  # it is handed over
                    connection.execute("UPDATE _max_source SET source = source")
            move_of(project_at(home), to, None).run() if not is_done(home, to) else None
            answering = project_at(home)
            assert isinstance(answering, ProjectDatabase) == (to == url)
            assert (known(answering), data_of(answering), kept(answering)) == (before, data, contents), nth
            assert check_audit(answering).problems == ()
            with answering.writable_database(before[0][0]).writer() as connection:
                connection.execute("UPDATE _max_source SET source = source")
    assert died


def is_done(home: Path, to: str) -> bool:
    """Whether a move has left nothing to do."""
    try:
        move_of(project_at(home), to, None).plan()
    except UsageError:
        return True
    return False
