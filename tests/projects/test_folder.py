from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.core import InstallationInfo
from max.errors import MaxError, ProjectError, UnknownName, UsageError
from max.installations.onboarding import OnboardingResult
from max.model.settings import DEFAULTS, Settings, settings_json
from max.projects.folder import ProjectFolder
from tests.database_files import data_file

NOW = 1_700_000_000.25
ROOT = Path(__file__).parents[2]
EMPTY: Mapping[str, str] = {}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

FORBIDDEN = """
import os, sys, tempfile, fcntl
from pathlib import Path
from max.errors import ProjectError
from max.installations.onboarding import OnboardingResult
from max.projects.folder import ProjectFolder

folder = Path(tempfile.mkdtemp())
folder.chmod(0o555)
if not os.geteuid():
    os.seteuid(65534)  # root may write anywhere
try:
    ProjectFolder.init(folder)
except ProjectError as error:
    print(str(error).rpartition("/")[2], error.hint, sep="\\n")
os.seteuid(os.getuid())
folder.rmdir()
"""


@pytest.fixture
def project(tmp_path: Path) -> ProjectFolder:
    return ProjectFolder.init(tmp_path)


def connect(project: ProjectFolder, connector: str = "acme", name: str | None = None) -> InstallationInfo:
    return project.add(connector, name, {"pages": 1}, {"token": "x"}, now=NOW)


def reconfigure(
    project: ProjectFolder, info: InstallationInfo, config: Mapping[str, Any], secrets: Mapping[str, str]
) -> InstallationInfo:
    """Replace the configuration, and those secrets that are given."""
    return project.reconfigure(
        info, lambda _, kept: OnboardingResult(dict(config), {**kept.secrets, **secrets})
    )


def file_of(project: ProjectFolder, info: InstallationInfo) -> Path:
    return project.root / ".max" / "installations" / info.connector / info.name / "installation.json"


def tree(project: ProjectFolder) -> dict[str, bytes | None]:
    """Everything in the project's folder but its audit, with the files' content."""
    inside = [one for one in (project.root / ".max").rglob("*") if not one.name.startswith("audit.db")]
    return {str(path): path.read_bytes() if path.is_file() else None for path in inside}


class TestFinding:
    """``find`` and ``init``."""

    def test_a_project_is_found_from_below(self, project: ProjectFolder) -> None:
        below = project.root / "a" / "b"
        below.mkdir(parents=True)
        assert ProjectFolder.find(below).root == project.root == ProjectFolder.find(str(below)).root

    def test_where_there_is_no_project_the_error_names_init(self, tmp_path: Path) -> None:
        with pytest.raises(ProjectError, match="there is no project in") as caught:
            ProjectFolder.find(tmp_path)
        assert "max init" in caught.value.hint

    def test_init_twice_changes_nothing(self, project: ProjectFolder) -> None:
        connect(project)
        before = tree(project)
        assert ProjectFolder.init(project.root).root == project.root
        assert tree(project) == before

    def test_only_the_owner_can_read_it(self, project: ProjectFolder) -> None:
        assert stat.S_IMODE((project.root / ".max").stat().st_mode) == 0o700

    def test_secrets_and_data_stay_out_of_repositories(self, project: ProjectFolder) -> None:
        assert (project.root / ".max" / ".gitignore").read_text() == "*\n"

    def test_a_file_in_place_of_the_folder_is_a_project_error(self, tmp_path: Path) -> None:
        (tmp_path / ".max").touch()
        with pytest.raises(ProjectError, match=r"\.max: (File exists|Not a directory)"):
            ProjectFolder.init(tmp_path)

    def test_a_folder_without_write_permission_is_a_project_error(self, tmp_path: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-c", FORBIDDEN], capture_output=True, text=True, check=False, env=ENVIRONMENT
        )
        assert (
            done.stdout
            == ".max: Permission denied\nmake it accessible for this user, or choose another folder\n"
        )

    def test_an_os_error_says_what_to_do(self, project: ProjectFolder) -> None:
        refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with sabotage(2, refused), pytest.raises(ProjectError, match="Permission denied") as caught:
            connect(project)
        assert "accessible for this user" in caught.value.hint


class TestChanging:
    """``add``, ``reconfigure`` and ``remove``."""

    def test_a_stored_installation_can_be_read(self, project: ProjectFolder) -> None:
        made = connect(project)
        assert (made.connector, made.name, made.config, made.connected_at) == (
            "acme",
            "default",
            {"pages": 1},
            NOW,
        )
        assert ProjectFolder.find(project.root).installations() == [made]
        assert asyncio.run(project.credentials(made).get("token")) == "x"

    def test_the_files_are_as_documented(self, project: ProjectFolder) -> None:
        made = connect(project)
        assert json.loads(file_of(project, made).read_text()) == {
            "connector": "acme",
            "name": "default",
            "id": made.id,
            "config": {"pages": 1},
            "connectedAt": "2023-11-14T22:13:20.25Z",
        }
        folder = file_of(project, made).parent
        assert json.loads((folder / "credentials.json").read_text()) == {"token": "x"}
        assert data_file(project, made) == folder / "data.db"
        assert stat.S_IMODE((folder / "credentials.json").stat().st_mode) == 0o600

    def test_the_folder_may_be_moved(self, project: ProjectFolder, tmp_path: Path) -> None:
        made = connect(project)
        (project.root / ".max").rename(tmp_path / "elsewhere")
        (tmp_path / "new").mkdir()
        (tmp_path / "elsewhere").rename(tmp_path / "new" / ".max")
        assert ProjectFolder.find(tmp_path / "new").installations() == [made]

    def test_default_names_count_up(self, project: ProjectFolder) -> None:
        assert [connect(project).name for _ in range(3)] == ["default", "default-2", "default-3"]
        assert connect(project, "git").name == "default"

    @pytest.mark.parametrize("name", ["work", "WORK"])
    def test_a_taken_name_is_refused_and_nothing_changes(self, name: str, project: ProjectFolder) -> None:
        connect(project, name="work")
        before = tree(project)
        with pytest.raises(ProjectError, match=f"acme:{name} is taken"):
            connect(project, name=name)
        assert tree(project) == before

    @pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a:b", "a b", "ä", "x" * 65, "a\n"])
    def test_an_invalid_name_is_refused(self, name: str, project: ProjectFolder) -> None:
        before = tree(project)
        with pytest.raises(UsageError, match="cannot be the name of an installation"):
            connect(project, name=name)
        with pytest.raises(UsageError, match="cannot be the name of a connector"):
            connect(project, name)
        assert tree(project) == before

    def test_reconfiguring_keeps_the_identity_and_the_other_secrets(self, project: ProjectFolder) -> None:
        made = connect(project)
        changed = reconfigure(project, made, {"pages": 2}, {"spare": "y"})
        assert changed == made.replace(config={"pages": 2})
        assert asyncio.run(project.credentials(made).names()) == ["spare", "token"]

    def test_removing_leaves_nothing(self, project: ProjectFolder) -> None:
        before = tree(project)
        made = connect(project)
        data_file(project, made).write_bytes(b"data")
        project.remove(made, keep_data=False)
        assert tree(project) == before

    def test_kept_data_is_used_by_the_next_installation_of_that_name(self, project: ProjectFolder) -> None:
        made = connect(project)
        data_file(project, made).write_bytes(b"data")
        project.remove(made, keep_data=True)
        assert project.installations() == []
        assert "token" not in str(tree(project))
        again = connect(project)
        assert again.id != made.id
        assert data_file(project, again).read_bytes() == b"data"

    def test_values_that_are_not_valid_utf8_survive(self, project: ProjectFolder) -> None:
        made = project.add("git", None, {"path": "/caf\udce9", "é": "ü"}, EMPTY, now=NOW)
        assert project.target("git").config == {"path": "/caf\udce9", "é": "ü"} == made.config


class TestBroken:
    """Installations with a damaged file."""

    DAMAGES = (
        ("{", "it is not JSON"),
        ("[]", "it holds no JSON object"),
        ("{}", "connector: expected 'acme', as its folder, got null"),
        ('{"connector": "acme", "name": "other"}', "name: expected 'default', as its folder"),
        ('{"connector": "acme", "name": "default", "id": "../x"}', "id: expected letters and digits"),
        ('{"connector": "acme", "name": "default", "id": "a", "config": 7}', "config: expected an object"),
        (
            '{"connector": "acme", "name": "default", "id": "a", "config": {}, "connectedAt": "now"}',
            "connectedAt: expected a time such as",
        ),
    )

    @pytest.mark.parametrize(("text", "words"), DAMAGES)
    def test_the_error_names_the_file_and_other_installations_still_work(
        self, text: str, words: str, project: ProjectFolder
    ) -> None:
        broken, sound = connect(project), connect(project, "git")
        path = file_of(project, broken)
        path.write_text(text)
        with pytest.raises(ProjectError) as caught:
            project.target("acme")
        assert f"{path} is broken: {words}" in str(caught.value)
        assert "delete it and connect again" in caught.value.hint
        assert project.installations() == [sound] == [project.target("git:default")]
        assert [str(problem) for problem in project.problems()] == [str(caught.value)]

    def test_broken_credentials_are_named_without_their_content(self, project: ProjectFolder) -> None:
        made = connect(project)
        path = file_of(project, made).with_name("credentials.json")
        path.write_text('{"token": "hunter2"')
        with pytest.raises(ProjectError, match=f"{path} is broken") as caught:
            asyncio.run(project.credentials(made).get("token"))
        assert "hunter2" not in caught.value.render()

    def test_a_secret_that_is_not_a_text_is_refused(self, project: ProjectFolder) -> None:
        made = connect(project)
        file_of(project, made).with_name("credentials.json").write_text('{"token": 7}')
        with pytest.raises(ProjectError, match="every secret must be a text"):
            asyncio.run(project.credentials(made).names())

    def test_a_copy_with_the_same_id_is_listed_as_a_candidate(self, project: ProjectFolder) -> None:
        made, copy = connect(project), connect(project)
        text = file_of(project, copy).read_text().replace(copy.id, made.id)
        file_of(project, copy).write_text(text)
        with pytest.raises(UsageError, match="acme:default, acme:default-2"):
            project.target(made.id)


class TestCredentials:
    """``FileCredentials`` as a CredentialStore."""

    def test_secrets_are_kept_replaced_and_forgotten(self, project: ProjectFolder) -> None:
        store = project.credentials(connect(project))

        async def main() -> list[str]:
            await store.set("b", "1")
            await store.set("b", "2")
            await store.delete("token")
            await store.delete("token")
            assert (await store.get("b"), await store.get("token")) == ("2", None)
            return await store.names()

        assert asyncio.run(main()) == ["b"]
        assert stat.S_IMODE(store.path.stat().st_mode) == 0o600

    def test_concurrent_changes_are_all_kept(self, project: ProjectFolder) -> None:
        made = connect(project)

        async def main() -> list[str]:
            await asyncio.gather(*(project.credentials(made).set(f"s{n}", "x") for n in range(8)))
            return await project.credentials(made).names()

        assert asyncio.run(main()) == [*(f"s{n}" for n in range(8)), "token"]


# -- targets ---------------------------------------------------------------------------------

hexes = st.builds(
    str.__add__, st.sampled_from(["ad", "fab", ""]), st.text("abcdef0123", min_size=2, max_size=4)
)
installation_ids = st.dictionaries(
    st.tuples(st.sampled_from(["acme", "ad", "fab"]), st.sampled_from(["default", "work", "ad"])),
    hexes,
    max_size=5,
)


def write_project(base: Path, ids: Mapping[tuple[str, str], str]) -> ProjectFolder:
    """A project whose installations have these ids, by connector and name."""
    project = ProjectFolder.init(base)
    for (connector, name), id in ids.items():
        folder = base / ".max" / "installations" / connector / name
        folder.mkdir(parents=True)
        data = {"connector": connector, "name": name, "id": id, "config": {}}
        (folder / "installation.json").write_text(json.dumps(data | {"connectedAt": "2026-01-31T09:30:00Z"}))
    return project


def meant(ids: Mapping[tuple[str, str], str], text: str) -> set[str]:
    """The installations that a text means: those it names, or else those whose id begins so."""
    written = {f"{c}:{n}" for c, n in ids if text == c or text == c + ":" + n}
    return written or {f"{c}:{n}" for (c, n), id in ids.items() if text != "" and id[: len(text)] == text}


class TestTargets:
    """``target``: which installation a text means."""

    @settings(deadline=None, max_examples=60)
    @given(installation_ids, st.data())
    def test_p33_a_text_means_one_installation_or_the_error_lists_the_candidates(
        self, ids: dict[tuple[str, str], str], data: st.DataObject
    ) -> None:
        spelt = [text for c, n in ids for text in (c, f"{c}:{n}", f"{c}:")]
        begun = [id[:n] for id in ids.values() for n in range(len(id) + 1)]
        text = data.draw(st.sampled_from([*spelt, *begun, "git"]) | hexes)
        with TemporaryDirectory() as base:
            project, expected = write_project(Path(base), ids), meant(ids, text)
            if len(expected) == 1:
                assert {str(project.target(text))} == expected
            else:
                with pytest.raises(UsageError) as caught:
                    project.target(text)
                assert isinstance(caught.value, UnknownName) == (not expected)
                assert caught.value.exit_status == 2
                assert all(name in str(caught.value) for name in expected)

    @settings(deadline=None, max_examples=20)
    @given(installation_ids)
    def test_p33_every_way_to_name_an_installation_means_the_same(
        self, ids: dict[tuple[str, str], str]
    ) -> None:
        with TemporaryDirectory() as base:
            project = write_project(Path(base), ids)
            for info in project.installations():
                alone = sum(other.connector == info.connector for other in project.installations()) == 1
                unique = sum(other.id.startswith(info.id) for other in project.installations()) == 1
                ways = [str(info), *([info.connector] if alone else []), *([info.id] if unique else [])]
                assert [project.target(way) for way in ways] == [info] * len(ways)

    def test_a_misspelt_target_comes_with_the_nearest(self, project: ProjectFolder) -> None:
        connect(project)
        with pytest.raises(UnknownName) as caught:
            project.target("acme:defualt")
        assert caught.value.candidates == ["acme:default"]


# -- refusals and kills ------------------------------------------------------------------------

CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")


@contextmanager
def sabotage(nth: int, act: BaseException | Callable[[], None]) -> Iterator[list[str]]:
    """Raise, or call, instead of the nth file operation."""
    done: list[str] = []

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            done.append(name)
            if len(done) == nth:
                if isinstance(act, BaseException):
                    raise act
                act()
            return real(*args, **named)

        return call

    real = {name: getattr(os, name) for name in CALLS}
    try:
        for name, function in real.items():
            setattr(os, name, watched(name, function))
        yield done
    finally:
        for name, function in real.items():
            setattr(os, name, function)


OLD, NEW = {"pages": 1}, {"pages": 2}
UNRECORDED = settings_json(Settings(history="off"))


def change_connect(project: ProjectFolder) -> None:
    """Add a second installation."""
    project.add("acme", "second", NEW, {"token": "new"}, now=NOW)


def change_connect_kept(project: ProjectFolder) -> None:
    """Add one where data was kept."""
    project.add("acme", "kept", NEW, {"token": "new"}, now=NOW)


def change_reconfigure(project: ProjectFolder) -> None:
    """Change the configuration and a secret."""
    reconfigure(project, project.target("acme:first"), NEW, {"token": "new"})


def change_configure(project: ProjectFolder) -> None:
    """Change a setting."""
    project.change_settings(project.target("acme:first"), history="off")


def change_disconnect(project: ProjectFolder) -> None:
    """Remove an installation."""
    project.remove(project.target("acme:first"), keep_data=False)


def change_disconnect_keeping(project: ProjectFolder) -> None:
    """Remove an installation and keep its data."""
    project.remove(project.target("acme:first"), keep_data=True)


CHANGES = {
    change.__name__: change
    for change in (
        change_connect,
        change_connect_kept,
        change_reconfigure,
        change_configure,
        change_disconnect,
        change_disconnect_keeping,
    )
}


def prepared(base: Path) -> ProjectFolder:
    """A project with an installation, and with the data of one that was disconnected."""
    project = ProjectFolder.init(base)
    project.add("acme", "first", OLD, {"token": "old"}, now=NOW)
    kept = project.add("acme", "kept", OLD, {"token": "old"}, now=NOW)
    for info in project.installations():
        data_file(project, info).write_bytes(b"data")
    project.remove(kept, keep_data=True)
    return project


def state(project: ProjectFolder) -> dict[str, tuple[object, str | None]]:
    """Every installation with its configuration, which settings are part of, and its secret."""
    assert project.problems() == []
    found = project.installations()
    configured = {
        i.name: {**i.config, **({} if i.settings == DEFAULTS else settings_json(i.settings))} for i in found
    }
    return {i.name: (configured[i.name], asyncio.run(project.credentials(i).get("token"))) for i in found}


FIRST: dict[str, tuple[object, str | None]] = {"first": (OLD, "old")}
FINAL: dict[str, dict[str, tuple[object, str | None]]] = {
    "change_connect": FIRST | {"second": (NEW, "new")},
    "change_connect_kept": FIRST | {"kept": (NEW, "new")},
    "change_reconfigure": {"first": (NEW, "new")},
    "change_configure": {"first": (OLD | UNRECORDED, "old")},
    "change_disconnect": {},
    "change_disconnect_keeping": {},
}
BETWEEN: dict[str, dict[str, tuple[object, str | None]]] = {  # the secrets go first
    "change_disconnect": {"first": (OLD, None)},
    "change_disconnect_keeping": {"first": (OLD, None)},
}


def check_after(project: ProjectFolder, change: str) -> None:
    """The state is the old or the new one, other data is untouched, leftovers are cleared."""
    assert state(project) in (FIRST, BETWEEN.get(change), FINAL[change])
    if change != "change_connect_kept":  # there a kill may leave the new secret, until the next attempt
        secrets = (project.root / ".max" / "installations").glob("[!.]*/*/credentials.json")
        assert all(path.with_name("installation.json").exists() for path in secrets)
    if "first" in state(project):
        assert data_file(project, project.target("acme:first")).read_bytes() == b"data"
    with suppress(MaxError):  # done already
        CHANGES[change](project)
    assert state(project) == FINAL[change]
    connect(project, "git")
    assert not [path for path in tree(project) if Path(path).name.endswith(".new") or ".gone" in path]
    kept = project.root / ".max" / "installations" / "acme" / "kept" / "data.db"
    assert kept.read_bytes() == b"data"


KILLER = """
import os, signal, sys
from pathlib import Path
from tests.projects.test_folder import CHANGES, check_after, prepared, sabotage

base, change = Path(sys.argv[1]), sys.argv[2]
kills = 0
while True:
    project = prepared(base / str(kills))
    child = os.fork()
    if not child:
        with sabotage(kills + 1, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            CHANGES[change](project)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    check_after(project, change)
    if not os.WIFSIGNALED(status):
        break
    kills += 1
print(kills)
"""


class TestCrashes:
    """Every change leaves the old state or the new one, whichever operation fails."""

    @pytest.mark.parametrize("change", CHANGES)
    def test_p39_whichever_operation_fails_the_old_or_the_new_state_is_left(
        self, change: str, tmp_path: Path
    ) -> None:
        nth = 0
        while True:
            nth += 1
            project = prepared(tmp_path / str(nth))
            with sabotage(nth, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) as done:
                try:
                    CHANGES[change](project)
                except ProjectError as error:
                    assert "No space left" in str(error)  # noqa: PT017 - an error is not due at every turn
                    assert not [path for path in tree(project) if ".new" in path]
            check_after(project, change)
            if len(done) < nth:
                break
        assert nth > 5

    @pytest.mark.parametrize("change", CHANGES)
    def test_p39_wherever_it_is_killed_the_old_or_the_new_state_is_left(
        self, change: str, tmp_path: Path
    ) -> None:
        done = subprocess.run(
            [sys.executable, "-c", KILLER, str(tmp_path), change],
            capture_output=True,
            text=True,
            check=False,
            env=ENVIRONMENT,
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) >= 5

    @settings(deadline=None, max_examples=20)
    @given(
        st.dictionaries(
            st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)
        ),
        st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.lists(st.none()), max_size=4),
    )
    def test_p39_the_file_round_trips_and_unknown_keys_are_kept(
        self, config: dict[str, Any], extra: dict[str, Any]
    ) -> None:
        with TemporaryDirectory() as base:
            project = ProjectFolder.init(Path(base))
            made = project.add("acme", None, config, EMPTY, now=NOW)
            path = file_of(project, made)
            own = json.loads(path.read_text())
            path.write_text(json.dumps(extra | own))
            assert project.installations() == [made]
            assert made.config == config
            reconfigure(project, made, {"changed": 1}, EMPTY)
            assert json.loads(path.read_text()) == extra | own | {"config": {"changed": 1}}
