"""The real command on files that it cannot write, that others hold, that are damaged, or no files."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Run
from tests.database_files import writer

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")])}
SMALL = ["--set", "workspaces=1", "--set", "users=20", "--set", "projects=2", "--set", "tasks=5"]
STOPPED = """
import runpy, sys, time
at = float(sys.argv.pop(1))
time.time = lambda: at
runpy.run_module("max", run_name="__main__", alter_sys=True)
"""
# Root may write everything, so it gives that up; anybody else has nothing to give.
WITHOUT_POWER = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
needs_setpriv = pytest.mark.skipif(
    bool(WITHOUT_POWER) and not shutil.which("setpriv"), reason="root may write everything here"
)


def can_mount() -> bool:
    """Whether this user may mount in a namespace of its own."""
    words = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(words, capture_output=True).returncode == 0


needs_mounts = pytest.mark.skipif(not can_mount(), reason="this user may not mount anything")


def run(folder: Path, *words: str, before: list[str] | None = None, at: float | None = None) -> Run:
    """The command in a process of its own, which must end; ``at`` stops its clock."""
    main = ["-m", "max"] if at is None else ["-c", STOPPED, str(at)]
    command = [*(before or []), sys.executable, *main, *words]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Run(done.returncode, done.stdout, done.stderr)


def in_mounts(*script: str) -> list[str]:
    """What goes before a command that runs in a namespace of its own, after some mounts."""
    return ["unshare", "-rm", "sh", "-ec", "\n".join([*script, 'exec "$@"']), "sh"]


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a small installation that was synced."""
    folder = tmp_path_factory.mktemp("synced")
    run(folder, "init")
    assert run(folder, "connect", "acme", *SMALL).status == 0
    assert run(folder, "sync", "acme:default").status == 0
    return folder


@pytest.fixture
def project(synced: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(synced, tmp_path / "project")
    return tmp_path / "project"


def home(project: Path) -> Path:
    return project / ".max" / "installations" / "acme" / "default"


def database(project: Path) -> Path:
    return home(project) / "data.db"


def state(project: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file and folder of an installation, with its times and content."""
    found = [home(project), *sorted(home(project).iterdir())]
    return {
        one.name: (one.stat().st_mtime_ns, one.stat().st_size, b"" if one.is_dir() else one.read_bytes())
        for one in found
    }


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Take the right to write from a folder and what it holds."""
    everything = [folder, *folder.rglob("*")]
    modes = [(one, one.stat().st_mode) for one in everything]
    for one, mode in modes:
        one.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for one, mode in modes:
            one.chmod(mode)


READING = [
    ["ls"],
    ["count", "acme", "AcmeUser"],
    ["search", "acme", "AcmeUser", "--all", "-o", "ndjson"],
    ["status"],
    ["runs", "acme"],
    ["schema", "acme"],
    ["freshness", "acme"],
    ["quarantine", "acme"],
]


# -- reading writes nothing -------------------------------------------------------------------


@needs_setpriv
@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_project_that_cannot_be_written_can_be_asked_and_stays_as_it_is(
    project: Path, words: list[str]
) -> None:
    now = time.time()
    with unwritable(project):
        before = state(project)
        answer = run(project, *words, before=WITHOUT_POWER, at=now)
        assert (answer.status, answer.err) == (0, answer.err)
        assert state(project) == before
    assert answer.out == run(project, *words, at=now).out


@needs_mounts
def test_a_project_on_a_medium_that_cannot_be_written_can_be_asked(project: Path) -> None:
    mount = in_mounts(f"mount --bind {project} {project}", f"mount -o remount,bind,ro {project}")
    answer = run(project, "count", "acme", "AcmeUser", before=[*mount, "env", "-C", str(project)])
    assert answer == Run(0, "20\n", "")


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_command_that_reads_changes_no_file(project: Path, words: list[str]) -> None:
    before = {name: found for name, found in state(project).items() if name != "default"}
    assert run(project, *words).status == 0
    after = {name: found for name, found in state(project).items() if name != "default"}
    assert after == before


def killed(project: Path) -> None:
    """Leave the log of a process that was killed after a commit: a user's name is changed."""
    code = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("UPDATE _acme_user SET name = 'Changed'")
connection.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(database(project))], check=False)
    assert (home(project) / "data.db-wal").stat().st_size > 0


CHANGED = ["count", "acme", "AcmeUser", "--filter", "name = Changed"]


def test_the_log_of_a_killed_process_is_read_and_left_as_it_is(project: Path) -> None:
    killed(project)
    before = {name: found for name, found in state(project).items() if not name.endswith("-shm")}
    assert run(project, *CHANGED).out == "20\n"
    assert {name: found for name, found in state(project).items() if not name.endswith("-shm")} == before


@needs_setpriv
def test_the_log_of_a_killed_process_is_read_where_nothing_can_be_written(project: Path) -> None:
    killed(project)
    with unwritable(project):
        before = state(project)
        assert run(project, *CHANGED, before=WITHOUT_POWER).out == "20\n"
        assert state(project) == before


@needs_setpriv
def test_a_log_that_cannot_be_read_without_writing_is_not_left_out_in_silence(project: Path) -> None:
    killed(project)
    (home(project) / "data.db-shm").unlink()
    with unwritable(project):
        answer = run(project, *CHANGED, "--json", before=WITHOUT_POWER)
    assert (answer.status, answer.error["code"]) == (1, "storage.readonly")
    assert "data.db-wal" in answer.error["message"]
    assert "writable" in answer.error["hint"]


def test_a_program_that_reads_in_delete_mode_makes_no_reader_wait(project: Path) -> None:
    with closing(sqlite3.connect(database(project), isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        before = database(project).read_bytes()
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM acme_user").fetchone()
        assert run(project, "count", "acme", "AcmeUser").out == "20\n"
        assert database(project).read_bytes() == before


def test_what_a_killed_program_left_half_done_in_delete_mode_is_undone(project: Path) -> None:
    code = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = DELETE")
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN")
connection.execute("UPDATE _acme_user SET name = 'Half' || hex(randomblob(3000))")
connection.execute("UPDATE _acme_user SET email = hex(randomblob(3000))")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(database(project))], check=False)
    assert (home(project) / "data.db-journal").stat().st_size > 0
    assert run(project, "count", "acme", "AcmeUser", "--filter", "name ^= Half") == Run(0, "0\n", "")


def test_reading_goes_on_while_another_program_writes(project: Path) -> None:
    with closing(sqlite3.connect(database(project), isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM _acme_user")
        assert run(project, "count", "acme", "AcmeUser").out == "20\n"


# -- what is wrong with the file ----------------------------------------------------------------


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def replace_by_text(path: Path) -> None:
    path.write_text("this is not a database\n" * 100)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def drop_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE _max_load")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def make_newer(path: Path) -> None:
    with writer(path) as connection:
        connection.execute("INSERT INTO _max_migration VALUES ('engine', 99, 'x')")
        connection.execute("INSERT INTO _max_migration VALUES ('tasks', 99, 'x')")


def make_older(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE _max_migration (owner TEXT, version INTEGER, digest TEXT)")


WRONG: list[tuple[Callable[[Path], None], str]] = [
    (truncate, "storage.corrupt"),
    (replace_by_text, "storage.corrupt"),
    (replace_by_folder, "storage.corrupt"),
    (replace_by_pipe, "storage.corrupt"),
    (empty, "storage.empty"),
    (make_newer, "storage.newer"),
    (make_older, "storage.older"),
]


@pytest.mark.parametrize(("spoil", "code"), WRONG, ids=lambda one: getattr(one, "__name__", one))
def test_what_is_wrong_with_a_file_has_a_code_and_a_way_on(
    project: Path, spoil: Callable[[Path], None], code: str
) -> None:
    spoil(database(project))
    answer = run(project, "search", "acme", "AcmeUser", "--json")
    assert (answer.status, answer.error["code"]) == (1, code)
    assert answer.error["hint"]
    if code != "storage.empty":
        found = run(project, "sync", "acme", "--json")
        assert (found.status, found.error["code"]) == (1, code)


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_beside_the_database_is_named_and_never_waited_for(
    project: Path, suffix: str, make: Callable[[str], None]
) -> None:
    make(f"{database(project)}{suffix}")
    for words in (["count", "acme", "AcmeUser"], ["sync", "acme"]):
        answer = run(project, *words, "--json")
        assert (answer.status, answer.error["code"]) == (1, "storage.corrupt")
        assert f"data.db{suffix} is no file" in answer.error["message"]


def test_a_table_that_is_missing_is_damage_and_no_lack_of_data(project: Path) -> None:
    drop_a_table(database(project))
    answer = run(project, "freshness", "acme", "--json")
    assert (answer.status, answer.error["code"]) == (1, "storage.corrupt")
    assert "no such table" in answer.error["message"]


@needs_setpriv
def test_a_sync_of_a_project_that_cannot_be_written_says_so(project: Path) -> None:
    with unwritable(project):
        answer = run(project, "sync", "acme", "--json", before=WITHOUT_POWER)
    assert (answer.status, answer.error["code"]) == (1, "storage.readonly")
    assert "writable" in answer.error["hint"]


@needs_mounts
def test_a_disk_that_is_full_ends_a_sync_with_a_code_and_the_next_one_goes_on(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    script = f"""
mount -t tmpfs -o size=600k tmpfs {full}
cd {full}
"$@" init
"$@" connect acme {" ".join(SMALL)}
"$@" sync acme --json && exit 9
mount -o remount,size=60m {full}
"$@" sync acme --json >&2
"$@" count acme AcmeUser
"""
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-m", "max"],
        env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.stdout.endswith("20\n"), done.stderr
    first, *_ = [line for line in done.stderr.splitlines() if line.startswith('{"error"')]
    assert json.loads(first)["error"]["code"] == "storage.full"


PATIENCE = """
import sys
import time
from max.cli import main
from max.storage import sqlite
sqlite.BUSY_TIMEOUT = 0.05
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("words", [["count", "acme", "AcmeUser"], ["sync", "acme"], ["pause", "acme"]])
def test_a_file_that_another_program_holds_is_named(project: Path, words: list[str]) -> None:
    with closing(sqlite3.connect(database(project), isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("CREATE TABLE mine (x)")
        command = [sys.executable, "-c", PATIENCE, *words, "--json"]
        done = subprocess.run(
            command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (done.returncode, error["code"]) == (1, "storage.locked"), done.stderr
    assert "another process holds the database" in error["hint"]


def test_a_damaged_installation_does_not_hide_the_others(project: Path) -> None:
    assert run(project, "connect", "acme:second", *SMALL).status == 0
    assert run(project, "sync", "acme:second").status == 0
    truncate(database(project))
    for words in (["status"], ["runs"]):
        answer = run(project, *words)
        assert answer.status == 3
        assert "acme:second" in answer.out
        assert f"{database(project)}: database disk image is malformed" in answer.err
        assert "restore a backup" in answer.err
    (newest,) = json.loads(run(project, "runs", "-o", "json").out)["data"]
    assert run(project, "runs", "show", newest["id"]).status == 0
    alone = run(project, "status", "acme:default", "--json")
    assert (alone.status, alone.error["code"]) == (1, "storage.corrupt")


# -- the file is taken away ----------------------------------------------------------------------


ENDLESS = '''
"""Counts without end."""
from __future__ import annotations
import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from max.connecting import *

class Row(Entity):
    """A row."""
    text: Field[str] = Field()

class Box(Entity):
    """The root."""
    rows: Many[Row] = Many()

@dataclass(frozen=True)
class Config:
    """Nothing to configure."""

@Loader.collection(Box.rows, brings=[Row.text])
async def list_rows(parent: Ref[Box], request: PageRequest, env: Env[Any]) -> Page[Row]:
    """Pages, the next of which comes when a file has gone away."""
    number = int(request.cursor or 0)
    if number == 2:
        Path("reached").touch()
        while Path("reached").exists():
            await asyncio.sleep(0.01)
    return Page([Row(f"{number}", text="x")], next=str(number + 1) if number < 4 else None)

async def seed(context: Any, store: Store) -> SyncPlan:
    """One listing."""
    await store.store(Box("box"))
    return SyncPlan([Step.for_root(Box.ref("box")).load_collection(Box.rows)])

async def initialise(config: Config, credentials: CredentialProvider) -> Installation[Any]:
    """Nothing."""
    return Installation(None)

connector = Connector(
    name="endless", description="Counts.", schema=Schema([Box, Row], roots=[Box]), loaders=[list_rows],
    seeder=seed, initialise=initialise, config=Config,
)
'''


def unlink_file(folder: Path) -> None:
    for one in folder.glob("data.db*"):
        one.unlink()


def unlink_log(folder: Path) -> None:
    (folder / "data.db-wal").unlink()


def replace_file(folder: Path) -> None:
    shutil.copy(folder / "data.db", folder / "copy")
    (folder / "copy").replace(folder / "data.db")


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def link_folder(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("elsewhere"))
    shutil.rmtree(folder)
    folder.symlink_to(folder.with_name("elsewhere"))


TAKEN = [unlink_file, unlink_log, replace_file, remove_folder, link_folder]


@pytest.mark.parametrize("take_away", TAKEN, ids=lambda one: one.__name__)
def test_a_sync_whose_file_is_taken_away_does_not_say_completed(
    tmp_path: Path, take_away: Callable[[Path], None]
) -> None:
    (tmp_path / "connectors").mkdir()
    (tmp_path / "connectors" / "max_endless.py").write_text(ENDLESS)
    run(tmp_path, "init")
    assert run(tmp_path, "connect", "endless").status == 0
    words = [sys.executable, "-m", "max", "sync", "endless", "--json"]
    pipe: Any = subprocess.PIPE
    with subprocess.Popen(
        words, cwd=tmp_path, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True
    ) as process:
        while not (tmp_path / "reached").exists():
            assert process.poll() is None
        take_away(tmp_path / ".max" / "installations" / "endless" / "default")
        (tmp_path / "reached").unlink()
        out, err = process.communicate()
    assert (process.returncode, "completed" in out) == (1, False), out + err
    error = json.loads(err.splitlines()[-1])["error"]
    assert (error["code"], "data.db" in error["message"]) == ("storage.replaced", True)
    assert error["hint"]
