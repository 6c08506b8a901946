"""A project in Postgres: the same as in a folder, with nothing on the disk of a host."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from max.errors import (
    BadCredentials,
    InvalidSql,
    KeyMissing,
    KeyWrong,
    MaxError,
    ProjectError,
    ProjectUntrusted,
    StorageCorrupt,
    StorageDenied,
    StorageLocked,
    StorageMissing,
    StorageNewer,
    StorageUnreachable,
    UnknownName,
    UsageError,
)
from max.installations.encryption import Keys, keys_from, new_key
from max.installations.onboarding import OnboardingResult
from max.model.settings import InstallationInfo
from max.model.tasks import Status
from max.project import Project
from max.projects.audit import audit_rows, check_audit
from max.projects.database import ProjectDatabase, without_password
from max.projects.folder import ProjectFolder
from max.projects.opening import find_project, make_in_database
from max.storage.postgres import PostgresDatabase
from tests.command_line import Cli, running
from tests.postgres_server import shared_url

pytestmark = pytest.mark.postgres
NOW = 1_700_000_000.0
numbers = itertools.count()


def keys_of(*texts: str) -> Callable[[], Keys]:
    """What finds these keys."""
    os.environ["TEST_KEYS"] = "\n".join(texts)
    found = keys_from("env:TEST_KEYS")
    del os.environ["TEST_KEYS"]
    return lambda: found


KEY = keys_of(new_key())


@pytest.fixture
def url() -> Iterator[str]:
    """The URL of a project that is not made yet."""
    server, schema = shared_url(), f"p{os.getpid()}x{next(numbers)}"
    yield f"{server}#{schema}"
    with PostgresDatabase(server, "public").writer() as connection:
        sql = "SELECT nspname FROM pg_namespace WHERE nspname = ? OR starts_with(nspname, ?)"
        for (name,) in connection.execute(sql, (schema, f"{schema}_")).fetchall():
            connection.execute(f'DROP SCHEMA "{name}" CASCADE')


@pytest.fixture
def project(url: str) -> ProjectDatabase:
    return ProjectDatabase.open(url, create=True, keys=KEY)


def connect(project: ProjectDatabase, name: str | None = None, **secrets: str) -> InstallationInfo:
    return project.add("acme", name, {"url": "u"}, secrets, now=NOW, destination="https://a.example")


def rows(url: str, sql: str, *values: object, write: bool = False) -> list[Any]:
    """What a statement answers in the project's schema."""
    server, _, schema = url.partition("#")
    database = PostgresDatabase(server, schema)
    with database.writer() if write else database.reader() as connection:
        cursor = connection.execute(sql, values)
        return [] if write else cursor.fetchall()


class TestInstallations:
    """They are rows, and are named as in a folder."""

    def test_are_found_by_name_by_connector_and_by_the_beginning_of_an_id(
        self, project: ProjectDatabase
    ) -> None:
        info = connect(project, token="s")
        assert (info.connector, info.name, info.config, info.connected_at) == (
            *("acme", "default", {"url": "u"}),
            NOW,
        )
        assert [project.target(text) for text in ("acme:default", "acme", info.id[:6])] == [info] * 3
        assert project.installations() == [info]
        with pytest.raises(UnknownName, match="unknown installation"):
            project.target("other")
        connect(project)
        with pytest.raises(UsageError, match="acme:default, acme:default-2"):
            project.target("acme")

    def test_have_names_that_differ_by_more_than_case(self, project: ProjectDatabase) -> None:
        connect(project, "Paris")
        with pytest.raises(ProjectError, match="the name acme:paris is taken"):
            connect(project, "paris")
        same = project.add("acme", "Paris", {}, {}, now=NOW, exist_ok=True)
        assert same == project.target("acme:Paris")

    def test_settings_are_checked_and_kept(self, project: ProjectDatabase) -> None:
        info = connect(project)
        before = project.version(info)
        assert project.change_settings(info, history="changes").settings.history == "changes"
        assert project.target("acme").settings.history == "changes"
        assert project.version(info) != before
        with pytest.raises(UnknownName):
            project.change_settings(info, histery="changes")

    def test_one_whose_settings_are_of_another_max_is_a_problem_and_can_be_removed(
        self, project: ProjectDatabase, url: str
    ) -> None:
        info = connect(project)
        rows(url, "UPDATE installation SET settings = ?", '{"history": 7}', write=True)
        assert project.installations() == []
        assert "settings.history" in str(project.problems()[0])
        project.remove(project.removable("acme"), keep_data=False)
        assert project.problems() == []
        assert info.id not in str(rows(url, "SELECT * FROM installation"))

    @pytest.mark.parametrize("column", ["config", "settings"])
    @pytest.mark.parametrize("value", ["", '{"secret": ', "null", "[[1]]", '"secret"', "1e300"])
    def test_one_whose_row_makes_no_sense_is_a_problem_can_be_removed_and_is_in_no_others_way(
        self, project: ProjectDatabase, url: str, column: str, value: str
    ) -> None:
        info, other = connect(project), project.add("acme", "other", {}, {}, now=1.0)
        rows(url, f"UPDATE installation SET {column} = ? WHERE id = ?", value, info.id, write=True)
        assert project.installations() == [other]
        (problem,) = project.problems()
        assert f"row in the table installation cannot be used: {column}" in str(problem)
        assert column == "settings" or "secret" not in str(problem)
        for refused in (project.target, lambda name: project.by_id(info.id)):
            with pytest.raises(ProjectError, match="cannot be used") as refusal:
                refused("acme:default")
            assert "max disconnect acme:default" in refusal.value.hint
        with pytest.raises(ProjectError, match="cannot be used"):
            project.change_settings(info, history_days=5)
        project.remove(project.removable("acme:default"), keep_data=False)
        assert (project.installations(), project.problems()) == ([other], [])

    def test_removing_one_removes_its_data_and_its_secrets_unless_the_data_is_kept(
        self, project: ProjectDatabase, url: str
    ) -> None:
        for keep in (True, False):
            info = connect(project, token="s")
            with project.writable_database(info).writer() as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS kept (a INTEGER)")
            project.remove(info, keep_data=keep)
            assert project.has_data(info) is keep
            assert rows(url, "SELECT * FROM credential") == []
            assert project.installations() == []
            with pytest.raises(ProjectError, match="was disconnected"):
                project.writable_database(info)

    def test_a_project_of_a_newer_max_is_refused(self, project: ProjectDatabase, url: str) -> None:
        rows(url, "INSERT INTO _max_migration VALUES ('project', 9, 'x')", write=True)
        with pytest.raises(StorageNewer, match="newer than this Max"):
            ProjectDatabase.open(url)

    def test_a_database_without_one_says_how_to_make_it(self, url: str) -> None:
        with pytest.raises(ProjectError, match="there is no project") as caught:
            ProjectDatabase.open(url)
        assert "max init --database postgresql://" in caught.value.hint

    def test_eight_processes_that_make_one_at_once_make_one(self, url: str) -> None:
        code = (
            "import sys\n"
            "from max.projects.database import ProjectDatabase\n"
            "sys.stdin.readline()\n"
            "project = ProjectDatabase.open(sys.argv[1], create=True)\n"
            "print(project.add('acme', None, {}, {}, now=1.0).name)\n"
        )
        words = [sys.executable, "-c", code, url]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        made = [subprocess.Popen(words, **pipes) for _ in range(8)]  # type: ignore[call-overload]
        for one in made:
            one.stdin.write("\n")
            one.stdin.flush()
        answers = [one.communicate() for one in made]
        assert [error for _, error in answers] == [""] * 8
        names = [name.strip() for name, _ in answers]
        assert sorted(names) == ["default", *(f"default-{n}" for n in range(2, 9))]


class TestSecrets:
    """They are sealed with a key that is not in the database."""

    def test_are_in_no_row_as_they_are(self, project: ProjectDatabase, url: str) -> None:
        info = connect(project, token="very-secret-token")
        assert project.credentials(info).read() == {"token": "very-secret-token"}
        everything = str(rows(url, "SELECT * FROM credential") + rows(url, "SELECT * FROM installation"))
        audit = str(audit_rows(project))
        assert "very-secret" not in everything + audit
        assert "token" in audit

    def test_reach_the_origin_alone_that_they_were_given_for(self, project: ProjectDatabase) -> None:
        info = connect(project, token="s")
        assert project.credentials(info, "https://a.example").read() == {"token": "s"}
        with pytest.raises(BadCredentials, match=r"given for https://a\.example"):
            project.credentials(info, "https://evil.example").read()

    @pytest.mark.parametrize("change", ["destination", "installation", "name", "text"])
    def test_a_row_that_was_moved_or_changed_cannot_be_opened(
        self, project: ProjectDatabase, url: str, change: str
    ) -> None:
        first, second = connect(project, token="s", other="t"), connect(project, token="u")
        statements = {
            "destination": "UPDATE installation SET destination = 'https://evil.example'",
            "installation": "UPDATE credential SET sealed = (SELECT sealed FROM credential AS c"
            f" WHERE c.installation = '{first.id}' AND name = 'token')",
            "name": "UPDATE credential SET sealed = (SELECT max(sealed) FROM credential AS c)",
            "text": "UPDATE credential SET sealed = left(sealed, 20) || 'AAAA' || substr(sealed, 25)",
        }
        rows(url, statements[change], write=True)
        info = second if change == "installation" else first
        with pytest.raises(StorageCorrupt, match="cannot be opened"):
            project.credentials(info).read()

    def test_without_a_key_they_are_neither_read_nor_stored(
        self, project: ProjectDatabase, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("MAX_KEY", raising=False)
        info = connect(project, token="s")
        keyless = ProjectDatabase.open(url)
        with pytest.raises(KeyMissing, match="no key is given"):
            keyless.credentials(info).read()
        with pytest.raises(KeyMissing):
            connect(keyless, token="s")
        assert keyless.installations() == [info]
        assert connect(keyless).name == "default-2"  # without secrets no key is needed

    def test_another_key_says_which_one_is_needed(self, project: ProjectDatabase, url: str) -> None:
        info = connect(project, token="s")
        with pytest.raises(KeyWrong, match=f"sealed with the key {KEY().newest}"):
            ProjectDatabase.open(url, keys=keys_of(new_key())).credentials(info).read()

    def test_a_key_is_replaced_in_three_steps(self, url: str) -> None:
        old, new = new_key(), new_key()
        infos = []
        with_old = ProjectDatabase.open(url, create=True, keys=keys_of(old))
        infos = [connect(with_old, token=f"s{n}") for n in range(3)]
        both = ProjectDatabase.open(url, keys=keys_of(new, old))
        assert [both.credentials(one).read()["token"] for one in infos] == ["s0", "s1", "s2"]
        assert (both.rotate_keys(), both.rotate_keys()) == (3, 0)
        with_new = ProjectDatabase.open(url, keys=keys_of(new))
        assert [with_new.credentials(one).read()["token"] for one in infos] == ["s0", "s1", "s2"]
        with pytest.raises(KeyWrong):
            with_old.credentials(infos[0]).read()

    def test_are_changed_together_and_the_change_is_recorded(self, project: ProjectDatabase) -> None:
        info = connect(project, token="old", kept="k")
        store = project.credentials(info, "https://a.example")

        async def main() -> list[str]:
            async with store.renewal_lock():
                await store.update({"token": "new", "refresh": "r"})
            await store.delete("kept")
            return await store.names()

        assert asyncio.run(main()) == ["refresh", "token"]
        assert project.credentials(info).read() == {"token": "new", "refresh": "r"}
        actions = [row.action for row in audit_rows(project)]
        assert actions.count("credentials.renew") == 2
        assert check_audit(project).problems == ()

    def test_one_process_at_a_time_renews_those_of_an_installation(self, project: ProjectDatabase) -> None:
        info, other = connect(project, token="a"), connect(project, token="b")
        second = project.credentials(info)
        second.timeout = 1.0
        with project.credentials(info).blocking_renewal_lock():
            with pytest.raises(StorageLocked), second.blocking_renewal_lock():
                pass
            with project.credentials(other).blocking_renewal_lock():
                assert second.read() == {"token": "a"}
        with second.blocking_renewal_lock():
            pass

    def test_a_new_configuration_and_its_secrets_are_one_step(self, project: ProjectDatabase) -> None:
        info = connect(project, token="old")
        seen = []

        def fail(now: InstallationInfo, stored: Any) -> OnboardingResult:
            seen.append((now, stored.secrets))
            raise UsageError("no")

        with pytest.raises(UsageError, match=r"^no$"):
            project.reconfigure(info, fail)
        assert seen == [(info, {"token": "old"})]
        assert project.target("acme") == info
        result = OnboardingResult({"url": "v"}, {"token": "new"}, (), "https://b.example")
        changed = project.reconfigure(info, lambda now, stored: result)
        assert changed.config == {"url": "v"}
        assert project.credentials(changed, "https://b.example").read() == {"token": "new"}


class TestTheServer:
    """What goes wrong with it has its own words."""

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            (("/postgres?", "/nowhere?"), StorageMissing),
            (("postgres@", "stranger@"), StorageDenied),
            (("host=", "host=/nowhere"), StorageUnreachable),
        ],
    )
    def test_that_says_no(self, url: str, change: tuple[str, str], error: type[MaxError]) -> None:
        with pytest.raises(error):
            ProjectDatabase.open(url.replace(*change), create=True)

    def test_whose_role_may_create_no_schema(self, url: str) -> None:
        role = f"r{os.getpid()}"
        rows(url.replace(url.partition("#")[2], "public"), f"CREATE ROLE {role} LOGIN", write=True)
        try:
            with pytest.raises(StorageDenied, match="permission denied"):
                ProjectDatabase.open(url.replace("postgres@", f"{role}@"), create=True)
        finally:
            rows(url.replace(url.partition("#")[2], "public"), f"DROP ROLE {role}", write=True)


class TestAFolderThatLeadsThere:
    """Its project.json names the URL, and nothing else is on the disk."""

    def test_the_command_line_works_and_no_data_is_in_the_folder(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cli: Cli = running(capsys)
        monkeypatch.chdir(tmp_path)
        assert cli("init", "--database", url).status == 0
        assert "already" in cli("init", "--database", url).out
        assert cli("sync", "acme:default").status == 0
        assert cli("count", "acme", "AcmeUser").out.strip() == "20"
        assert cli("search", "acme", "AcmeTask", "--limit", "3", "-o", "json").data["hasMore"] is True
        assert "postgresql://" in cli("ls", "-o", "json").out
        assert cli("settings", "acme", "history=changes").status == 0
        assert cli("status", "acme").status == 0
        assert cli("path", "acme").status == 2
        assert "connect" in cli("audit").out
        assert cli("disconnect", "acme", "--yes").status == 0
        assert cli("keys", "rotate").status == 1  # MAX_KEY is not set
        files = sorted(one.name for one in (tmp_path / ".max").rglob("*") if one.is_file())
        assert files == [".gitignore", "project.json"]
        assert json.loads((tmp_path / ".max" / "project.json").read_text())["database"] == url

    def test_data_that_makes_no_sense_is_renamed_as_the_error_says_and_fetched_again(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cli: Cli = running(capsys)
        monkeypatch.chdir(tmp_path)
        assert cli("init", "--database", url).status == 0
        assert cli("sync", "acme:default").status == 0
        schema = f"{url.partition('#')[2]}_acme_default"
        damages = {
            "UPDATE _max_sync SET counts = 'x'": "runs",
            "UPDATE _max_field SET load_group = -7": "freshness",
            "DROP TABLE _max_listing CASCADE": "sync",
        }
        for damage, command in damages.items():
            rows(f"{url}_acme_default", damage, write=True)
            refused = cli(command, "acme", "--json")
            assert (refused.status, refused.error["code"]) == (1, "storage.corrupt"), refused.err
            assert schema in refused.error["message"]
            assert "rename the schema) and sync again" in refused.error["hint"]
        rows(url, f"ALTER SCHEMA {schema} RENAME TO {schema}_damaged", write=True)
        assert cli("sync", "acme").status == 0
        assert cli("count", "acme", "AcmeUser").out.strip() == "20"

    def test_is_not_needed_where_the_environment_names_the_database(
        self,
        project: ProjectDatabase,
        url: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        connect(project)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MAX_DATABASE", url)
        assert "acme:default" in running(capsys)("ls").out
        assert list(tmp_path.iterdir()) == []
        monkeypatch.setenv("MAX_DATABASE", "postgresql://u:s3cret@h/d")
        refused = running(capsys)("ls")
        assert (refused.status, "s3cret" in refused.err) == (2, False)

    def test_a_url_with_a_password_is_refused_and_not_repeated(self, tmp_path: Path) -> None:
        for bad in ("postgresql://u:s3cret@h/d", "postgresql://u@h/d?password=s3cret"):
            with pytest.raises(UsageError, match="a password in a URL") as caught:
                make_in_database(tmp_path / "p", bad)
            assert "s3cret" not in caught.value.render()
            assert "s3cret" not in without_password(bad)
        assert not (tmp_path / "p").exists()

    def test_of_another_user_leads_nowhere_until_it_is_allowed(
        self, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "p"
        (folder / ".max").mkdir(parents=True, mode=0o700)
        (folder / ".max" / "project.json").write_text(json.dumps({"id": "x", "database": url}))
        ProjectDatabase.open(url, create=True)
        with pytest.raises(ProjectUntrusted, match="leads to the database") as caught:
            find_project(folder)
        assert caught.value.hint == f"if you know that server: max trust {folder}"
        said = running(capsys)("trust", str(folder))
        assert (said.status, f"and to use the database {url}" in said.out) == (0, True)
        assert find_project(folder).address == url

    def test_with_installations_in_files_is_refused(self, url: str, tmp_path: Path) -> None:
        ProjectFolder.init(tmp_path).add("acme", None, {}, {}, now=NOW)
        with pytest.raises(ProjectError, match="has installations in its files"):
            make_in_database(tmp_path, url)


def test_the_commands_of_its_page_run(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "postgres.md").read_text()
    block = page.partition("```text\n")[2].partition("```")[0]
    commands = block.replace("postgresql://max@db.example.com/max", url).splitlines()
    assert len(commands) == 4
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert running(capsys)(*command.split()[1:]).status == 0, command


def test_a_program_opens_a_project_by_its_url_and_syncs_it(url: str) -> None:
    async def main() -> None:
        async with Project.open(url, create=True, keys=KEY) as project:
            runtime = await project.ensure("acme")
            result = await (await runtime.sync()).completion()
            assert result.status is Status.COMPLETED
            with project.read("acme") as reader:
                assert reader.counts()["AcmeUser"] == 20
            assert [row.action for row in await project.audit()] == ["init", "connect", "sync"]
            assert (await project.check_audit()).problems == ()
            assert (await project.health())[0].health == "healthy"
            await (await (await project.ensure("acme", "two")).sync()).completion()
            by = "SELECT installation, count(*) AS n FROM acme_user GROUP BY 1 ORDER BY 1"
            assert (await project.sql(by)).rows == [("acme:default", 20), ("acme:two", 20)]
            with pytest.raises(InvalidSql):
                await project.sql("DELETE FROM acme_user")
            await (await project.runtime("acme", "two")).stop()
            await project.disconnect("acme:two")
            with pytest.raises(ProjectError, match="is in use"):
                await project.disconnect("acme")
            await runtime.stop()
            await project.disconnect("acme")
            assert await project.installations() == []

    asyncio.run(main())
