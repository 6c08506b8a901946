"""Trust: a project's own connectors run when its user made or allowed it; no other user's folder is used."""

from __future__ import annotations

import asyncio
import json
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max import Project
from max.cli import COMMANDS
from max.errors import ProjectUntrusted
from max.installations import trust
from tests.command_line import Cli
from tests.sample import source

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
STRANGER = 65_534  # a user who is neither root nor this one
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")

# A source that leaves a file in the project when its code runs.
CONNECTOR = "from pathlib import Path\nPath(__file__).parents[1].joinpath('ran').touch()\n" + source("mine")


def write_connector(root: Path) -> None:
    """Give a project a connector of its own, named mine."""
    (root / "connectors").mkdir(exist_ok=True)
    (root / "connectors" / "max_mine.py").write_text(CONNECTOR)


def ran(root: Path) -> bool:
    """Whether the project's own connector has run since this was last asked."""
    there = (root / "ran").exists()
    (root / "ran").unlink(missing_ok=True)
    for name in [name for name in sys.modules if "max_mine" in name]:
        del sys.modules[name]
    return there


@pytest.fixture
def made(cli: Cli, tmp_path: Path) -> Iterator[Path]:
    """A project that this user made, with a connector of its own that was connected and synced."""
    write_connector(tmp_path)
    assert cli("connect", "mine").status == 0
    assert cli("sync", "mine").status == 0
    assert ran(tmp_path)
    yield tmp_path
    ran(tmp_path)


@pytest.fixture
def cloned(made: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as it comes from elsewhere; the current folder."""
    copy = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.copytree(made, copy)
    monkeypatch.chdir(copy)
    return copy


WORDS = {  # what each command is called with
    "init": [],
    "connect": ["mine:second"],
    "settings": ["mine", "history=changes"],
    "disconnect": ["mine", "--yes"],
    "move": ["--to", "../other"],
    "ls": [],
    "trust": ["--list"],
    "sync": ["mine"],
    "schedule": ["mine", "--every", "15m"],
    "worker": [],  # it needs a database
    "status": [],
    "watch": ["--once"],
    "health": [],
    "doctor": [],
    "audit": [],
    "audit prune": ["--before", "90d", "--to", "copy.db"],
    "keys new": [],
    "keys rotate": [],
    "runs": [],
    "pause": ["mine"],
    "resume": ["mine"],
    "cancel": ["mine"],
    "invalidate": ["mine", "Thing"],
    "migrate": ["mine", "--plan"],
    "search": ["mine", "Thing"],
    "get": ["mine", "Thing:1"],
    "count": ["mine", "Thing"],
    "values": ["mine", "Thing.title"],
    "find": ["title"],
    "sql": ["mine", "SELECT 1"],
    "export": ["mine", "Thing"],
    "path": ["mine"],
    "guide": [],
    "llm-bootstrap": [],
    "mcp": [],
    "serve": ["--port", "none"],  # it would not end
    "completion": ["bash"],
    "changes": ["mine"],
    "freshness": ["mine"],
    "schema": ["mine"],
    "schema diff": ["mine"],
    "quarantine": ["mine"],
    **{key: ["--idle-stop", "never"] for key in ("daemon start", "daemon restart", "daemon run")},
    **{f"daemon {name}": [] for name in "stop status list logs enable disable uninstall".split()},
    "daemon install": ["--print"],
    "connector new": ["fresh", "--url", "https://api.example.com", "--list", "/things"],
    "connector check": ["mine", "--no-types"],
    "connector test": ["mine", "--url", "http://127.0.0.1:1"],
}


class TestClonedProjects:
    """Projects that came from elsewhere: their code runs when it was allowed."""

    @pytest.mark.parametrize("command", COMMANDS)
    def test_no_command_runs_the_code_of_a_cloned_project(self, command: str, cloned: Path, cli: Cli) -> None:
        run = cli(*command.split(), *WORDS[command], "-o", "json")
        assert not ran(cloned), run
        if command in ("connect", "sync", "migrate", "schema diff", "connector check", "connector test"):
            assert (run.status, run.error["code"]) == (4, "project.untrusted")
            assert run.error["hint"].startswith(f"read them, then allow them with: max trust {cloned} ")

    def test_what_is_stored_is_answered_without_the_code(self, cloned: Path, cli: Cli) -> None:
        assert [entity["name"] for entity in cli("schema", "mine", "-o", "json").data["entities"]] == [
            "SampleRoot",
            "Thing",
        ]
        assert cli("count", "mine", "Thing").out == "2\n"
        invalidated = cli("invalidate", "mine", "Thing")
        assert (invalidated.status, "the connector cannot be loaded" in invalidated.err) == (0, True)

    def test_the_schema_before_the_first_sync_needs_the_code_and_is_refused(
        self, cloned: Path, cli: Cli
    ) -> None:
        next(cloned.rglob("data.db")).unlink()
        assert (cli("schema", "mine").status, ran(cloned)) == (4, False)

    def test_connectors_that_come_with_max_run_in_a_cloned_project(self, cloned: Path, cli: Cli) -> None:
        assert cli("sync", "acme:default").status == 0
        assert not ran(cloned)

    def test_max_trust_allows_the_connectors_until_they_change(self, cloned: Path, cli: Cli) -> None:
        allowed = cli("trust")
        assert (allowed.status, ran(cloned)) == (0, False)
        assert f"  {cloned / 'connectors' / 'max_mine.py'}" in allowed.out.splitlines()
        assert (cli("sync", "mine").status, ran(cloned)) == (0, True)
        (cloned / "connectors" / "helper.py").write_text("x = 1\n")
        refused = cli("sync", "mine")
        assert (refused.status, ran(cloned)) == (4, False)
        assert "have changed since they were allowed" in refused.err
        assert cli("trust").status == cli("sync", "mine").status == 0

    def test_max_trust_always_allows_what_they_become(self, cloned: Path, cli: Cli) -> None:
        assert cli("trust", "--always").out.startswith("allowed always: 1 connector")
        (cloned / "connectors" / "helper.py").write_text("x = 1\n")
        assert (cli("sync", "mine").status, ran(cloned)) == (0, True)

    def test_the_list_shows_what_is_allowed_and_revoking_takes_it_back(self, cloned: Path, cli: Cli) -> None:
        cli("trust")
        found = {one["project"]: one for one in cli("trust", "--list", "-o", "json").data["data"]}
        assert (found[str(cloned)]["state"], found[str(cloned)]["always"]) == ("trusted", False)
        assert cli("trust", str(cloned), "--revoke").status == 0
        assert (cli("sync", "mine").status, ran(cloned)) == (4, False)
        assert str(cloned) not in cli("trust", "--list").out
        assert cli("trust", "--revoke").status == 1

    def test_what_was_recorded_of_a_removed_project_can_be_revoked(self, cloned: Path, cli: Cli) -> None:
        cli("trust")
        shutil.rmtree(cloned)
        os.chdir(cloned.parent)
        listed = cli("trust", "--list", "-o", "json").data["data"]
        assert [one["state"] for one in listed if one["project"] == str(cloned)] == ["missing"]
        shown = cli("trust", "--list")
        assert str(cloned) not in shown.out
        assert "of folders that are not there: -o json has them" in shown.err
        assert cli("trust", str(cloned), "--revoke").status == 0

    def test_a_project_without_connectors_needs_no_trust(self, cloned: Path, cli: Cli) -> None:
        shutil.rmtree(cloned / "connectors")
        run = cli("trust")
        assert (run.status, "has no connectors of its own" in run.err) == (0, True)

    @pytest.mark.parametrize("place", [".", ".."])
    def test_one_variable_trusts_the_projects_in_a_folder(
        self, place: str, cloned: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MAX_TRUST", f"/nowhere{os.pathsep}{(cloned / place).resolve()}")
        assert (cli("sync", "mine").status, ran(cloned)) == (0, True)

    def test_the_variable_takes_no_relative_folder(
        self, cloned: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MAX_TRUST", ".")
        run = cli("sync", "mine")
        assert (run.status, ran(cloned), "not an absolute path" in run.err) == (1, False, True)

    def test_compiled_code_beside_an_allowed_connector_does_not_run(self, cloned: Path, cli: Cli) -> None:
        other = cloned / "other.py"
        other.write_text(CONNECTOR.replace("'ran'", "'compiled-ran'"))
        cache = cloned / "connectors" / "__pycache__"
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
        unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
        name = f"max_mine.{sys.implementation.cache_tag}.pyc"
        py_compile.compile(str(other), cfile=str(cache / name), invalidation_mode=unchecked)
        cli("trust")
        assert (cli("sync", "mine").status, ran(cloned)) == (0, True)
        assert not (cloned / "compiled-ran").exists()

    def test_what_a_linked_folder_holds_is_a_part_of_the_connectors(self, cloned: Path, cli: Cli) -> None:
        helper = cloned / "library" / "helper.py"
        helper.parent.mkdir()
        helper.write_text("x = 1\n")
        (cloned / "connectors" / "library").symlink_to("../library")
        (helper.parent / "back").symlink_to("../connectors")
        assert f"  {cloned / 'connectors' / 'library' / 'helper.py'}" in cli("trust").out.splitlines()
        assert (cli("sync", "mine").status, ran(cloned)) == (0, True)
        helper.write_text("x = 2\n")
        assert (cli("sync", "mine").status, ran(cloned)) == (4, False)
        helper.write_text("x = 1\n")
        helper.chmod(0o666)
        refused = cli("sync", "mine")
        assert (refused.status, ran(cloned), "every user may write to it" in refused.err) == (4, False, True)

    def test_a_link_to_more_than_connectors_is_named(
        self, cloned: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trust, "MOST_FILES", 20)
        many = cloned.parent / "many"
        many.mkdir()
        for number in range(20):
            (many / f"{number}.txt").touch()
        (cloned / "connectors" / "many").symlink_to(many)
        run = cli("trust")
        assert (run.status, "connectors holds more than 20 files" in run.err) == (1, True)

    def test_a_pipe_among_the_connectors_is_not_waited_for(self, cloned: Path, cli: Cli) -> None:
        os.mkfifo(cloned / "connectors" / "max_pipe.py")
        assert cli("trust").status == cli("sync", "mine").status == 0
        assert "unknown connector 'pipe'" in cli("connect", "pipe").err

    @settings(deadline=None, max_examples=25)
    @given(
        st.lists(st.tuples(st.sampled_from(["a.py", "b/c.py", "b/d.txt"]), st.binary(max_size=3)), max_size=4)
    )
    def test_two_folders_have_one_digest_when_their_files_are_the_same(
        self, files: list[tuple[str, bytes]]
    ) -> None:
        def written(order: list[tuple[str, bytes]], base: str) -> tuple[dict[str, bytes], str]:
            for name, content in order:
                path = Path(base) / "connectors" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            inside = [path for path in Path(base).rglob("*") if path.is_file()]
            return {str(one.relative_to(base)): one.read_bytes() for one in inside}, trust.digest(Path(base))

        with TemporaryDirectory() as one, TemporaryDirectory() as two:
            (files_one, first), (files_two, second) = written(files, one), written(files[::-1], two)
            assert (files_one == files_two) == (first == second)


class TestOwnProjects:
    """Projects that this user made: nothing is asked."""

    def test_the_author_changes_a_connector_and_it_runs(self, made: Path, cli: Cli) -> None:
        with (made / "connectors" / "max_mine.py").open("a") as file:
            file.write("\n# changed\n")
        assert (cli("schema", "diff", "mine").status, ran(made)) == (0, True)

    def test_a_project_made_by_a_program_is_this_users(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with Project.open(tmp_path, create=True) as project:
                write_connector(tmp_path)
                await project.connect("mine")

        asyncio.run(main())
        asyncio.run(sync_once(tmp_path))
        assert ran(tmp_path)

    def test_init_in_a_cloned_project_does_not_make_it_this_users(self, cloned: Path, cli: Cli) -> None:
        assert cli("init").status == 0
        assert (cli("sync", "mine").status, ran(cloned)) == (4, False)

    def test_another_project_at_the_same_path_is_not_trusted(
        self, made: Path, cloned: Path, cli: Cli
    ) -> None:
        (cloned / ".max" / "project.json").write_text('{"id": "0123456789abcdef"}')
        shutil.rmtree(made)
        cloned.rename(made)
        assert (cli("-C", str(made), "sync", "mine").status, ran(made)) == (4, False)

    def test_a_moved_project_asks_once(self, made: Path, cli: Cli) -> None:
        moved = made.parent / f"{made.name}-moved"
        made.rename(moved)
        assert (cli("-C", str(moved), "sync", "mine").status, ran(moved)) == (4, False)
        assert cli("trust", str(moved), "--always").status == 0
        assert (cli("-C", str(moved), "sync", "mine").status, ran(moved)) == (0, True)


async def sync_once(root: Path, *, trusted: bool = False) -> None:
    async with Project.open(root, trusted=trusted) as project:
        runtime = await project.runtime("mine", "default")
        await (await runtime.sync()).completion()


class TestEmbedding:
    """``Project.open`` in a program."""

    def test_a_cloned_project_is_refused_with_its_own_error(self, cloned: Path) -> None:
        with pytest.raises(ProjectUntrusted, match="were not made by this user on this machine"):
            asyncio.run(sync_once(cloned))
        assert not ran(cloned)

    def test_a_program_may_trust_the_project_that_it_opens(self, cloned: Path) -> None:
        asyncio.run(sync_once(cloned, trusted=True))
        assert ran(cloned)

    def test_its_data_can_be_read(self, cloned: Path) -> None:
        with Project.find(cloned).read("mine") as reader:
            assert reader.count("Thing") == 2
        assert not ran(cloned)


def max_in(folder: Path, *words: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; a variable that is None is not set."""
    given = {**os.environ, "PYTHONPATH": PATHS, **environment}
    return subprocess.run(
        [sys.executable, "-m", "max", *words],
        cwd=folder,
        env={name: value for name, value in given.items() if value is not None},
        capture_output=True,
        text=True,
    )


class TestWithoutAHome:
    """Machines on which nothing can be recorded."""

    @pytest.mark.parametrize("home", ["MAX_HOME", "HOME"])
    def test_a_relative_home_does_not_lead_into_the_project(
        self, home: str, cloned: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inside = cloned / "home" / ("" if home == "MAX_HOME" else ".local/share/max")
        monkeypatch.setenv("MAX_HOME", str(inside))
        trust.record_allowed(cloned)
        unset: dict[str, str | None] = {"MAX_HOME": None, "XDG_DATA_HOME": None, home: "home"}
        done = max_in(cloned, "sync", "mine", **unset)
        assert (done.returncode, ran(cloned)) == (4, False)
        assert f"MAX_TRUST={cloned}" in done.stderr

    def test_a_project_is_made_and_the_variable_is_named_when_its_code_is_needed(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        nowhere = str(tmp_path / "file" / "home")
        write_connector(tmp_path)
        assert max_in(tmp_path, "connect", "mine", MAX_HOME=nowhere).returncode == 0
        refused = max_in(tmp_path, "sync", "mine", MAX_HOME=nowhere)
        assert (refused.returncode, f"MAX_TRUST={tmp_path}" in refused.stderr) == (4, True)
        failed = max_in(tmp_path, "trust", MAX_HOME=nowhere)
        assert (failed.returncode, "Traceback" in failed.stderr) == (1, False)
        assert max_in(tmp_path, "sync", "mine", MAX_HOME=nowhere, MAX_TRUST=str(tmp_path)).returncode == 0


@pytest.fixture
def shared(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder below the project; the current one."""
    below = made / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    return below


class TestOtherUsers:
    """Folders that another user owns or may write to."""

    @as_root
    @pytest.mark.parametrize("command", ["ls", "status", "sync", "connect", "schema", "search"])
    def test_another_users_project_above_is_refused(
        self, command: str, made: Path, shared: Path, cli: Cli
    ) -> None:
        os.chown(made / ".max", STRANGER, STRANGER)
        run = cli(command, *WORDS[command], "-o", "json")
        assert (run.status, run.error["code"], ran(made)) == (4, "project.untrusted", False)
        assert f"{made / '.max'}: it belongs to" in run.error["message"]
        assert not (shared / ".max").exists()

    @as_root
    def test_another_users_project_that_is_named_can_be_read_and_not_written(
        self, made: Path, cli: Cli
    ) -> None:
        os.chown(made / ".max", STRANGER, STRANGER)
        assert cli("count", "mine", "Thing").out == "2\n"
        for command in ("sync", "connect", "settings", "disconnect", "invalidate", "pause", "init"):
            assert cli(command, *WORDS[command]).status == 4, command
        assert cli("connect", "acme").status == 4
        assert not ran(made)

    @as_root
    @pytest.mark.parametrize("name", ["", "max_mine.py"])
    def test_another_users_connectors_do_not_run(self, name: str, made: Path, cli: Cli) -> None:
        os.chown(made / "connectors" / name, STRANGER, STRANGER)
        run = cli("sync", "mine")
        assert (run.status, "it belongs to" in run.err, ran(made)) == (4, True, False)

    @as_root
    def test_connectors_where_there_is_no_project_yet_do_not_run_either(
        self, tmp_path: Path, cli: Cli
    ) -> None:
        write_connector(tmp_path)
        os.chown(tmp_path / "connectors" / "max_mine.py", STRANGER, STRANGER)
        assert (cli("sync", "mine").status, ran(tmp_path), (tmp_path / ".max").exists()) == (4, False, False)

    @as_root
    def test_sudo_acts_for_the_user_who_called_it(
        self, made: Path, shared: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for path in (made, *made.rglob("*")):
            os.chown(path, STRANGER, STRANGER)
        monkeypatch.setenv("SUDO_UID", str(STRANGER))
        assert (cli("sync", "mine").status, ran(made)) == (0, True)

    @as_root
    def test_a_link_of_another_user_is_refused(self, made: Path, shared: Path, cli: Cli) -> None:
        (made / ".max").rename(made / "kept")
        (made / ".max").symlink_to("kept")
        os.chown(made / ".max", STRANGER, STRANGER, follow_symlinks=False)
        assert cli("ls").status == 4

    @as_root
    @pytest.mark.parametrize(
        "name", ["", "installations", "installations/mine", "installations/mine/default"]
    )
    def test_another_users_folder_behind_a_link_of_this_user_gets_no_secret_and_no_rows(
        self, name: str, made: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli
    ) -> None:
        place, theirs = made / ".max" / name, tmp_path_factory.mktemp("theirs") / "folder"
        place.rename(theirs)
        place.symlink_to(theirs)
        for path in (theirs, *theirs.rglob("*")):
            os.chown(path, STRANGER, STRANGER)
        before = sorted(theirs.rglob("*"))
        for command in ("sync", "connect", "settings", "disconnect"):
            run = cli(command, *WORDS[command])
            assert (run.status, f"{place}: it belongs to" in run.err) == (4, True), command
        assert cli("connect", "acme:new", "--no-input").status == 4
        assert (sorted(theirs.rglob("*")), ran(made)) == (before, False)

    @pytest.mark.parametrize("name", [".max", "connectors", "connectors/max_mine.py"])
    def test_what_every_user_may_write_is_refused(self, name: str, made: Path, cli: Cli) -> None:
        (made / name).chmod(0o777)
        run = cli("sync", "mine")
        assert (run.status, "every user may write to it (mode 0777)" in run.err, ran(made)) == (
            4,
            True,
            False,
        )
        assert cli("trust", "--always").status == (4 if name == ".max" else 0)

    def test_a_project_above_that_every_user_may_replace_is_refused(
        self, made: Path, shared: Path, cli: Cli
    ) -> None:
        made.chmod(0o777)
        refused = cli("ls")
        assert (refused.status, "every user may replace it" in refused.err) == (4, True)
        made.chmod(0o1777)
        assert cli("ls").status == 0

    def test_init_names_a_folder_that_every_user_may_write_to(self, tmp_path: Path, cli: Cli) -> None:
        (tmp_path / ".max").mkdir()
        (tmp_path / ".max").chmod(0o777)
        run = cli("init")
        assert (run.status, "(mode 0777)" in run.err, "chmod go-w" in run.err) == (4, True, True)
        assert list((tmp_path / ".max").iterdir()) == []

    def test_records_that_every_user_may_write_are_not_believed(
        self,
        cloned: Path,
        cli: Cli,
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        home = tmp_path_factory.mktemp("home")
        monkeypatch.setenv("MAX_HOME", str(home))
        assert cli("trust").status == 0
        (record,) = (home / "trust").glob("*.json")
        assert json.loads(record.read_text())["project"] == str(cloned)
        (home / "trust").chmod(0o777)
        assert (cli("sync", "mine").status, ran(cloned)) == (4, False)
