"""A secret reaches only the origin that it was given for, and goes before everything else."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from max import Project
from max.errors import BadCredentials, InvalidAnswers, ProjectError
from max.installations.onboarding import OnboardingResult
from max.projects.folder import ProjectFolder
from tests.command_line import Cli
from tests.connect_kills import Services

ROOT = Path(__file__).parent.parent
CHANGER = """
import asyncio, sys
from max import Project

async def main(key):
    async with Project.open(".") as project:
        for value in range(9):
            if key == "size":
                await project.reconfigure("gated:main", config={"size": value})
            elif key == "token":
                await project.reconfigure("gated:main", secrets={"token": f"t{value}"})
            else:
                await project.change_settings("gated:main", history_days=value)

asyncio.run(main(sys.argv[1]))
"""
KILLS = os.environ.get("MAX_CONNECT_KILLS", "16")


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """Two addresses, and a connector that needs one of them and a token."""
    monkeypatch.setenv("MAX_CONNECTORS", str(ROOT / "tests" / "max_gated.py"))
    monkeypatch.setenv("OLD", "old-token")
    monkeypatch.setenv("NEW", "new-token")
    running = Services(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def gated(services: Services, cli: Cli) -> Cli:
    """The command line, with the installation ``gated:main`` of the old address and token."""
    given = ["--set", f"url={services.old}", "--credential", "token=env:OLD"]
    assert cli("connect", "gated:main", *given).status == 0
    return cli


def folder_of(root: Path) -> Path:
    return root / ".max" / "installations" / "gated" / "main"


def secrets_of(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder_of(root) / "credentials.json").read_text())
    return found


class TestOrigin:
    """Where a token goes when the address changes."""

    def test_the_file_says_for_which_origin_a_secret_is(
        self, gated: Cli, services: Services, tmp_path: Path
    ) -> None:
        assert secrets_of(tmp_path) == {"token": "old-token", "_for": services.old}

    def test_connecting_says_where_the_secrets_go_when_that_is_not_the_usual_address(
        self, services: Services, cli: Cli
    ) -> None:
        words = ["--set", f"url={services.old}", "--credential", "token=env:OLD"]
        run = cli("connect", "gated:main", *words)
        assert f"its secrets are sent to {services.old} alone" in run.err.splitlines()

    def test_a_new_address_needs_its_own_secret(self, gated: Cli, services: Services, tmp_path: Path) -> None:
        words = ["connect", "gated:main", "--update", "--set", f"url={services.new}"]
        run = gated(*words, "--no-input")
        assert (run.status, "token: expected a secret" in run.err) == (2, True)
        assert gated("sync", "gated:main").status == 0
        assert services.seen() == {(services.old, "old-token")}

    def test_the_same_secret_may_be_given_for_a_new_address(self, gated: Cli, services: Services) -> None:
        words = ["--set", f"url={services.new}", "--credential", "token=env:OLD"]
        assert gated("connect", "gated:main", "--update", *words).status == 0
        assert gated("sync", "gated:main").status == 0
        assert services.seen() == {(services.new, "old-token")}

    def test_another_value_keeps_the_secret(self, gated: Cli, services: Services, tmp_path: Path) -> None:
        assert gated("connect", "gated:main", "--update", "--set", "size=2").status == 0
        assert gated("sync", "gated:main").status == 0
        assert secrets_of(tmp_path)["token"] == "old-token"

    def test_an_address_that_was_changed_by_hand_does_not_get_the_secret(
        self, gated: Cli, services: Services, tmp_path: Path
    ) -> None:
        file = folder_of(tmp_path) / "installation.json"
        file.write_text(file.read_text().replace(services.old, services.new))
        run = gated("sync", "gated:main", "-o", "json")
        assert (run.status, run.error["code"]) == (1, "upstream.credentials")
        assert (
            f"were given for {services.old}, not for {services.new}; nothing was sent" in run.error["message"]
        )
        assert "max connect gated:main --update --credential" in run.error["hint"]
        assert services.seen() == set()

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_another_scheme_or_port_is_another_origin(
        self, scheme: str, gated: Cli, services: Services, tmp_path: Path
    ) -> None:
        host, port = services.old.removeprefix("http://").split(":")
        address = f"{scheme}://{host}:{int(port) + (scheme == 'http')}"
        run = gated("connect", "gated:main", "--update", "--set", f"url={address}", "--no-input")
        assert run.status == 2
        path = gated("connect", "gated:main", "--update", "--set", f"url={services.old}/api", "--no-input")
        assert (path.status, secrets_of(tmp_path)["token"]) == (0, "old-token")

    def test_secrets_of_a_file_without_an_origin_belong_to_the_address_as_it_is(
        self, gated: Cli, services: Services, tmp_path: Path
    ) -> None:
        (folder_of(tmp_path) / "credentials.json").write_text('{"token": "old-token", "note": "mine"}')
        assert gated("sync", "gated:main").status == 0
        refused = gated("connect", "gated:main", "--update", "--set", f"url={services.new}", "--no-input")
        assert refused.status == 2
        words = ["--set", f"url={services.new}", "--credential", "token=env:NEW"]
        assert gated("connect", "gated:main", "--update", *words).status == 0
        assert secrets_of(tmp_path) == {"token": "new-token", "_for": services.new}

    def test_a_program_cannot_move_a_secret_either(
        self, gated: Cli, services: Services, tmp_path: Path
    ) -> None:
        async def main() -> None:
            async with Project.open(tmp_path) as project:
                with pytest.raises(InvalidAnswers, match="token"):
                    await project.reconfigure("gated:main", config={"url": services.new})
                with pytest.raises(InvalidAnswers, match="token"):
                    await project.ensure("gated", "main", url=services.new)
                await project.reconfigure(
                    "gated:main", config={"url": services.new}, secrets={"token": "new-token"}
                )

        asyncio.run(main())
        assert gated("sync", "gated:main").status == 0
        assert services.seen() == {(services.new, "new-token")}

    def test_a_sync_that_began_before_the_change_gets_no_secret_of_another_origin(
        self, gated: Cli, services: Services, tmp_path: Path
    ) -> None:
        project = ProjectFolder.find(tmp_path)
        store = project.credentials(project.target("gated:main"), services.old)
        words = ["--set", f"url={services.new}", "--credential", "token=env:NEW"]
        assert gated("connect", "gated:main", "--update", *words).status == 0
        with pytest.raises(BadCredentials, match="nothing was sent"):
            asyncio.run(store.get("token"))
        with pytest.raises(BadCredentials):
            asyncio.run(store.set("token", "renewed"))
        assert secrets_of(tmp_path) == {"token": "new-token", "_for": services.new}

    def test_a_renewal_does_not_reach_an_installation_that_took_the_name(
        self, gated: Cli, services: Services, tmp_path: Path
    ) -> None:
        project = ProjectFolder.find(tmp_path)
        store = project.credentials(project.target("gated:main"), services.old)
        assert gated("disconnect", "gated:main", "--yes", "--keep-data").status == 0
        with pytest.raises(ProjectError):
            asyncio.run(store.set("token", "renewed"))
        given = ["--set", f"url={services.old}", "--credential", "token=env:NEW"]
        assert gated("connect", "gated:main", *given).status == 0
        with pytest.raises(ProjectError, match="was disconnected"):
            asyncio.run(store.set("token", "renewed"))
        assert secrets_of(tmp_path)["token"] == "new-token"

    def test_what_two_processes_change_at_once_is_all_kept(self, gated: Cli, tmp_path: Path) -> None:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
        commands = [[sys.executable, "-c", CHANGER, key] for key in ("size", "token", "settings")]
        environment = {**os.environ, "PYTHONPATH": paths}
        running = [subprocess.Popen(one, cwd=tmp_path, env=environment) for one in commands]
        assert [one.wait() for one in running] == [0, 0, 0]
        info = ProjectFolder.find(tmp_path).target("gated:main")
        assert (info.config["size"], info.settings.history_days, secrets_of(tmp_path)["token"]) == (
            8,
            8,
            "t8",
        )

    def test_revising_sees_what_another_process_stored_meanwhile(self, gated: Cli, tmp_path: Path) -> None:
        project = ProjectFolder.find(tmp_path)
        stale = project.target("gated:main")
        assert gated("connect", "gated:main", "--update", "--set", "size=2").status == 0
        project.reconfigure(
            stale, lambda now, kept: OnboardingResult({**now.config, "more": 1}, kept.secrets)
        )
        assert (project.target("gated:main").config["size"], stale.config["size"]) == (2, 1)

    def test_kills_leave_whole_installations_and_no_secret_elsewhere(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "tests.connect_kills", str(tmp_path), KILLS]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")])}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        counts = json.loads(done.stdout)
        assert counts.pop("beside") >= 3  # syncs beside a change of the address
        assert sum(counts.values()) >= int(KILLS)


class TestDisconnecting:
    """Disconnecting is always possible, and begins with the secrets."""

    @pytest.mark.parametrize("keep", [[], ["--keep-data"]])
    @pytest.mark.parametrize(
        "content", [b"", b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096]
    )
    def test_a_damaged_database_does_not_keep_an_installation(
        self, content: bytes, keep: list[str], gated: Cli, tmp_path: Path
    ) -> None:
        (folder_of(tmp_path) / "data.db").write_bytes(content)
        run = gated("disconnect", "gated:main", "--yes", *keep)
        assert (run.status, (folder_of(tmp_path) / "data.db").exists()) == (0, bool(keep)), run.err
        assert "gated" not in gated("ls").out

    @pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link"])
    def test_what_is_no_database_does_not_keep_one_either(
        self, kind: str, gated: Cli, tmp_path: Path
    ) -> None:
        make(kind, folder_of(tmp_path) / "data.db")
        run = gated("disconnect", "gated:main", "--yes")
        assert (run.status, folder_of(tmp_path).exists()) == (0, False), run.err

    @pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"connector": "gated"}'])
    def test_an_installation_whose_file_is_broken_can_be_disconnected(
        self, text: str, gated: Cli, tmp_path: Path
    ) -> None:
        (folder_of(tmp_path) / "installation.json").write_text(text)
        run = gated("disconnect", "gated:main", "--yes")
        assert (run.status, folder_of(tmp_path).exists()) == (0, False), run.err

    def test_a_linked_folder_is_removed_with_its_secrets_and_blocks_nothing(
        self, gated: Cli, services: Services, tmp_path: Path
    ) -> None:
        target = tmp_path / "big disk"
        folder_of(tmp_path).rename(target)
        folder_of(tmp_path).symlink_to(target)
        (target / "mine.txt").write_text("not Max's")
        assert gated("sync", "gated:main").status == 0
        assert gated("disconnect", "gated:main", "--yes").status == 0
        assert sorted(path.name for path in target.iterdir()) == ["mine.txt"]
        assert not folder_of(tmp_path).is_symlink()
        given = ["--set", f"url={services.old}", "--credential", "token=env:OLD"]
        assert gated("connect", "gated:main", *given).status == 0
        assert gated("disconnect", "gated:main", "--yes").status == 0

    @pytest.mark.parametrize("leftover", [".gone", ".new"])
    def test_a_link_that_a_crash_left_blocks_nothing(self, leftover: str, gated: Cli, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "mine.txt").touch()
        (folder_of(tmp_path).parents[1] / leftover).symlink_to(tmp_path / "elsewhere")
        assert gated("disconnect", "gated:main", "--yes").status == 0
        assert (tmp_path / "elsewhere" / "mine.txt").exists()

    @pytest.mark.parametrize(
        "command", ["sync gated:main", "settings gated:main history=changes", "connect acme"]
    )
    def test_what_a_crash_left_of_secrets_is_removed_by_the_next_command_that_writes(
        self, command: str, gated: Cli, tmp_path: Path
    ) -> None:
        left = [
            folder_of(tmp_path) / ".credentials.json.new",
            folder_of(tmp_path).parents[1] / ".new-1/credentials.json",
        ]
        left[1].parent.mkdir()
        for path in left:
            path.write_text('{"token": "left"}')
        assert gated(*command.split()).status == 0
        assert not any(path.exists() for path in left)
        assert secrets_of(tmp_path)["token"] == "old-token"

    def test_secrets_without_an_installation_are_removed_by_the_next_command(
        self, gated: Cli, tmp_path: Path
    ) -> None:
        left = folder_of(tmp_path).with_name("left")
        left.mkdir()
        (left / "credentials.json").write_text('{"token": "left"}')
        (left / "data.db").write_bytes(b"kept")
        assert gated("connect", "acme").status == 0
        assert [path.name for path in left.iterdir()] == ["data.db"]


def make(kind: str, path: Path) -> None:
    """Put something that is no file in a file's place."""
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "large file":
        with path.open("wb") as file:
            file.truncate(1_000_000_000)
    else:
        path.write_bytes(kind.encode("latin-1"))


ODD = {  # what is in the place of installation.json, and the words about it
    "pipe": "it is a pipe, not a file",
    "folder": "it is a folder, not a file",
    "device": "it is a device, not a file",
    "dangling link": "it is a link that leads nowhere",
    "large file": "it has 1,000,000,000 bytes, more than 10,000,000",
    "[" * 200_000: "it is nested too deeply",
    '{"a":' * 200_000: "it is nested too deeply",
    "\xff\xfe{}": "it is not JSON",
    '{"config": {"a": NaN}}': "NaN is no JSON number",
    "[]": "it holds no JSON object",
    "": "it is not JSON",
}
WRONG: dict[str, list[Any]] = {  # one value of a file that is right otherwise, and the words about it
    "connectedAt": [
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z",
        "now",
        7,
        None,
        "2026-01-31",
        "x" * 5_000,
    ],
    "config": [[], "x", None],
    "id": ["", "../x", 7, ["a"], "x" * 100],
    "name": ["other", None, {}],
    "connector": ["acme", 7],
    "settings": [[], {"history": "never"}, {"removal_share": "x"}, {"history_days": 1e400}],
}


class TestOddFiles:
    """One bad installation has its own words and never hides the others."""

    COMMANDS = ("ls", "status", "runs", "count acme AcmeUser", "search acme:default AcmeUser", "schema acme")

    @pytest.mark.parametrize("kind", ODD, ids=lambda kind: kind[:12])
    def test_what_is_in_the_place_of_a_file_has_its_own_words(
        self, kind: str, gated: Cli, tmp_path: Path
    ) -> None:
        assert gated("sync", "acme:default").status == 0
        file = folder_of(tmp_path) / "installation.json"
        make(kind, file)
        for command in self.COMMANDS:
            run = gated(*command.split())
            assert run.status in (0, 3), (command, run.err)
            assert "acme" in run.out.lower() or run.out == "20\n"
        run = gated("sync", "gated:main")
        assert (run.status, run.err.count("\n")) == (1, 2), run.err
        assert str(file) in run.err
        assert ODD[kind] in run.err
        for command in ("ls", "status"):
            assert ODD[kind] in gated(command).err

    @pytest.mark.parametrize("kind", ["pipe", "device", "folder", "large file"])
    def test_what_is_no_file_in_the_place_of_the_projects_own_is_named_and_never_waited_for(
        self, kind: str, gated: Cli, tmp_path: Path
    ) -> None:
        file = tmp_path / ".max" / "project.json"
        make(kind, file)
        for command in (
            "sync acme:default",
            "ls",
            "status",
            "runs",
            "settings gated:main",
            "disconnect gated:main --yes",
        ):
            run = gated(*command.split())
            assert (command, run.status) == (command, 1)
            assert f"{file} is broken: {ODD[kind]}" in run.err

    @pytest.mark.parametrize("kind", ["pipe", "device", "dangling link", "words"])
    def test_what_is_in_the_place_of_a_folder_is_named_and_can_be_removed(
        self, kind: str, gated: Cli, tmp_path: Path
    ) -> None:
        shutil.rmtree(folder_of(tmp_path))
        make(kind, folder_of(tmp_path))
        assert gated("status").status in (0, 1)
        assert gated("disconnect", "gated:main", "--yes").status == 0
        assert not os.path.lexists(folder_of(tmp_path))
        assert Path("/dev/zero").exists()

    @pytest.mark.parametrize(("key", "value"), [(key, one) for key, some in WRONG.items() for one in some])
    def test_a_wrong_value_is_named(self, key: str, value: Any, gated: Cli, tmp_path: Path) -> None:
        gated("connect", "acme")
        file = folder_of(tmp_path) / "installation.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
        run = gated("ls")
        assert (run.status, "acme:default" in run.out) == (0, True)
        assert f"{file} is broken: {key}" in run.err or "is no JSON number" in run.err
        assert max(map(len, run.err.splitlines())) < 400

    @pytest.mark.parametrize("command", ["status", "runs", "ls"])
    @pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + b"\xff" * 4096])
    def test_a_damaged_database_does_not_hide_the_other_installations(
        self, content: bytes, command: str, gated: Cli, tmp_path: Path
    ) -> None:
        assert gated("sync", "acme:default").status == 0
        (folder_of(tmp_path) / "data.db").write_bytes(content)
        run = gated(command)
        assert "acme:default" in run.out, run.err
        if command != "ls":
            assert (run.status, "gated/main/data.db" in run.err) == (3, True)

    @pytest.mark.skipif(sys.platform != "linux", reason="the limit is on address space, as Linux counts it")
    @pytest.mark.parametrize("megabytes", [20, 24, 28, 32, 40])
    def test_a_memory_limit_is_said_in_a_sentence(self, megabytes: int, gated: Cli, tmp_path: Path) -> None:
        assert gated("sync", "acme:default").status == 0
        paths = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
        program = (
            "import resource, sys\n"
            f"resource.setrlimit(resource.RLIMIT_AS, ({megabytes} << 20,) * 2)\n"
            "from max.cli import main\n"
            "sys.exit(main())\n"
        )
        words = [sys.executable, "-S", "-c", program, "search", "acme:default", "AcmeTask", "--all"]
        environment = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment)
        if "from max.cli" in done.stderr:
            pytest.skip("so little that this interpreter cannot even import the command line")
        assert (done.returncode, "Traceback" in done.stderr) in ((0, False), (1, False))
        assert done.returncode == 0 or "out of memory" in done.stderr

    def test_a_file_of_secrets_that_others_can_read_is_named(self, gated: Cli, tmp_path: Path) -> None:
        file = folder_of(tmp_path) / "credentials.json"
        file.chmod(0o644)
        run = gated("sync", "gated:main")
        assert (run.status, "(mode 0644)" in run.err, f"chmod 600 {file}" in run.err) == (1, True, True)
        file.chmod(0o600)
        assert gated("sync", "gated:main").status == 0

    @pytest.mark.parametrize("name", ["CON", "nul", "com1", "LPT9.txt", "aux.", "a.", "prn.x"])
    def test_names_that_windows_keeps_are_refused(self, name: str, gated: Cli, services: Services) -> None:
        given = ["--set", f"url={services.old}", "--credential", "token=env:OLD"]
        run = gated("connect", f"gated:{name}", *given)
        assert (run.status, "cannot be the name of an installation" in run.err) == (2, True)

    def test_kept_data_is_not_taken_by_a_name_that_differs_in_case(
        self, gated: Cli, services: Services
    ) -> None:
        gated("sync", "gated:main")
        gated("disconnect", "gated:main", "--yes", "--keep-data")
        given = ["--set", f"url={services.old}", "--credential", "token=env:OLD"]
        refused = gated("connect", "gated:MAIN", *given)
        assert (refused.status, "gated:MAIN is taken" in refused.err) == (1, True)
        assert gated("connect", "gated:main", *given).status == 0
