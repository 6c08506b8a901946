"""Where a project's daemon is found, and whether it lives."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from platformdirs import user_data_dir

from max.errors import DaemonRunning, ProjectError
from max.installations.home import home_folder
from max.projects.folder import ProjectFolder
from max.serve.daemon_folder import DESCRIPTION, LONGEST, PID, DaemonFolder, digest
from max.serve.daemon_lock import DaemonLock
from max.serve.daemon_process import DaemonState, send_signal, stop
from max.storage.leases import new_worker, process_start

LIGHT = """
import sys
before = set(sys.modules)
from max.serve.daemon_folder import DaemonFolder
print(DaemonFolder({root!r}).has_socket(), *sorted(set(sys.modules) - before))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DaemonFolder:
    """The folder of a project's daemon, in a home of its own."""
    monkeypatch.setenv("MAX_HOME", str(tmp_path / "h"))
    return DaemonFolder(ProjectFolder.init(tmp_path / "project").root)


def taken(folder: DaemonFolder) -> DaemonLock:
    lock = DaemonLock(folder, {"version": "1"})
    lock.take()
    return lock


class TestPlaces:
    def test_the_folder_is_named_by_twelve_digits_of_the_roots_digest(
        self, folder: DaemonFolder, tmp_path: Path
    ) -> None:
        name = hashlib.sha256(os.fsencode(tmp_path / "project")).hexdigest()[:12]
        assert folder.path == str(tmp_path / "h" / "daemons" / name)

    @pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 9])
    def test_the_digest_is_sha_256(self, data: bytes) -> None:
        assert digest(data) == hashlib.sha256(data).hexdigest()

    @pytest.mark.parametrize("data", ["", " ", "/srv/data"])
    def test_without_max_home_it_is_the_platforms_folder(
        self, data: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("MAX_HOME")
        monkeypatch.setenv("XDG_DATA_HOME", data)
        assert home_folder() == user_data_dir("max", appauthor=False)

    def test_a_home_below_the_current_folder_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MAX_HOME", "here")
        with pytest.raises(ProjectError, match="'here' is not an absolute path"):
            DaemonFolder("/somewhere")

    def test_looking_for_a_daemon_imports_next_to_nothing(self, folder: DaemonFolder) -> None:
        root = Path(__file__).parent.parent.parent
        done = subprocess.run(
            [sys.executable, "-c", LIGHT.format(root=folder.root)],
            env={**os.environ, "PYTHONPATH": str(root), "MAX_HOME": "/nowhere"},  # a short path
            capture_output=True,
            text=True,
        )
        answer, *modules = done.stdout.split()
        assert (answer, done.stderr) == ("False", "")
        assert {name for name in modules if not name.startswith("max")} <= {"__future__", "_sha256", "_sha2"}


class TestOddFiles:
    """What is in the place of its files."""

    def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(self, folder: DaemonFolder) -> None:
        Path(folder.path).mkdir(parents=True)
        for name in (DESCRIPTION, PID):
            os.mkfifo(folder.file(name))
        assert (folder.description(), folder.pid(), folder.holder()) == ({}, None, "")

    @pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe\0", b"[1]", b"9" * 100, b""])
    def test_nonsense_in_a_file_is_nothing(self, content: bytes, folder: DaemonFolder) -> None:
        Path(folder.path).mkdir(parents=True)
        for name in (DESCRIPTION, PID):
            Path(folder.file(name)).write_bytes(content)
        assert (folder.description(), folder.holder()) == ({}, "")
        assert folder.pid() in (None, int("9" * 20))

    def test_a_daemon_since_a_far_time_is_shown(self) -> None:
        assert DaemonState("/p", "running", "/f", since=1e300).to_json()["since"] == "9999-12-31T23:59:59Z"


class TestTheLock:
    def test_only_one_process_at_a_time_is_the_daemon(
        self, folder: DaemonFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("max.serve.daemon_lock.PATIENCE", 0.05)
        assert not folder.is_running()
        lock = taken(folder)
        assert folder.is_running()
        assert folder.holder().split("/")[:5] == new_worker().split("/")[:5]
        with pytest.raises(DaemonRunning, match=f"process {os.getpid()} on "):
            taken(folder)
        lock.release()
        assert not folder.is_running()
        taken(folder).release()

    def test_what_a_crash_left_is_not_in_the_way(self, folder: DaemonFolder) -> None:
        taken(folder).release()
        Path(folder.socket).write_text("")
        Path(folder.file("daemon.pid")).write_text("1\n")
        assert not folder.is_running()
        lock = taken(folder)
        assert not Path(folder.socket).exists()
        lock.release()
        assert sorted(os.listdir(folder.path)) == ["project.json"]  # noqa: PTH208

    def test_files_are_this_users_alone(self, folder: DaemonFolder) -> None:
        lock = taken(folder)
        modes = [path.stat().st_mode & 0o777 for path in sorted(Path(folder.path).iterdir())]
        assert (Path(folder.path).stat().st_mode & 0o777, set(modes)) == (0o700, {0o600})
        lock.release()

    def test_a_folder_that_others_may_write_to_is_refused(self, folder: DaemonFolder) -> None:
        taken(folder).release()
        Path(folder.path).chmod(0o770)
        with pytest.raises(ProjectError, match="must be this user's alone"):
            taken(folder)

    def test_a_disabled_daemon_does_not_start(self, folder: DaemonFolder) -> None:
        taken(folder).release()
        Path(folder.file("daemon.disabled")).touch()
        with pytest.raises(ProjectError, match="is disabled"):
            taken(folder)
        assert not folder.is_running()

    def test_the_socket_of_a_long_path_lies_in_a_short_private_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MAX_HOME", str(tmp_path / ("long" * 30)))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
        folder = DaemonFolder("/a/project")
        assert folder.socket == ""
        lock = taken(folder)
        assert folder.socket == lock.socket == str(tmp_path / "run" / "max" / f"{folder.path[-12:]}.sock")
        assert len(os.fsencode(lock.socket)) <= LONGEST
        assert (tmp_path / "run" / "max").stat().st_mode & 0o777 == 0o700
        lock.release()

    def test_a_short_folder_that_others_may_enter_is_not_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "run" / "max").mkdir(parents=True, mode=0o755)
        monkeypatch.setenv("MAX_HOME", str(tmp_path / ("long" * 30)))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
        monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
        lock = taken(DaemonFolder("/a/project"))
        assert Path(lock.socket).parent == tmp_path / "t" / f"max-{os.geteuid()}"
        lock.release()

    def test_a_process_that_is_not_the_one_meant_is_left_alone(self, folder: DaemonFolder) -> None:
        lock = taken(folder)
        assert not stop(folder, who="host/boot/pid:[1]/4711/99/ab")
        assert folder.is_running()
        lock.release()


class TestSignals:
    """Process ids are given again: a signal needs the process's start, too."""

    @pytest.fixture
    def other(self) -> Iterator[subprocess.Popen[bytes]]:
        """Another process."""
        with subprocess.Popen(["sleep", "600"]) as process:
            yield process
            process.kill()

    def named(self, process: subprocess.Popen[bytes], *, start: str = "", system: str = "") -> str:
        """The name of a process, or one with another start or of another system."""
        host, boot, processes, _, _, serial = new_worker().split("/")
        began = start or process_start(process.pid)
        return f"{host}/{system or boot}/{processes}/{process.pid}/{began}/{serial}"

    def test_the_process_that_began_then_gets_it(self, other: subprocess.Popen[bytes]) -> None:
        assert send_signal(self.named(other), signal.SIGTERM)
        assert other.wait() == -signal.SIGTERM

    @pytest.mark.parametrize("wrong", [{"start": "17"}, {"system": "another-boot"}])
    def test_any_other_process_with_its_id_does_not(
        self, other: subprocess.Popen[bytes], wrong: dict[str, str]
    ) -> None:
        assert not send_signal(self.named(other, **wrong), signal.SIGTERM)
        assert other.poll() is None

    @pytest.mark.parametrize("who", ["", "nonsense", "a/b/c/d/e/f", "host/boot/pid/999999999/1/x"])
    def test_what_is_no_process_gets_none(self, who: str) -> None:
        assert not send_signal(who, signal.SIGTERM)
