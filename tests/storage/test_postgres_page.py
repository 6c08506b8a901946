"""The statements of docs/postgres.md: roles, vacuum, a backup and its restoring, what to alert on."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from max.errors import InvalidSql
from max.model.tasks import Status
from max.project import Project
from max.storage.postgres import connect
from tests.postgres_server import Server, binaries, server

pytestmark = pytest.mark.postgres
PAGE = (Path(__file__).parents[2] / "docs" / "postgres.md").read_text(encoding="utf-8")


def blocks(heading: str) -> list[str]:
    """The blocks of a section."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```text\n(.*?)```", section, re.DOTALL)


def as_role(own: Server, role: str, database: str) -> str:
    """The URL of a database for a role."""
    return f"postgresql://{role}@/{database}?host={own.folder}"


def run(url: str, block: str) -> list[list[tuple[object, ...]]]:
    """What each statement of a block answers."""
    raw = connect(url, "the server")
    try:
        found = []
        for statement in [block] if "DO $$" in block else block.split(";\n"):
            cursor = raw.execute(statement) if statement.strip() else None
            if cursor is not None and cursor.description:
                found.append(cursor.fetchall())
        return found
    finally:
        raw.close()


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server with the roles of the page, and a project in it that was synced as ``max``."""
    with server() as one:
        roles, _ = blocks("Roles")
        for statement in roles.splitlines():
            run(one.url, statement)
        asyncio.run(synced(as_role(one, "max", "max")))
        yield one


async def synced(url: str) -> None:
    """Sync two installations, and ask both."""
    async with Project.open(url, create=True) as project:
        for name in ("default", "two"):
            runtime = await project.ensure("acme", name)
            assert (await (await runtime.sync()).completion()).status is Status.COMPLETED
            await runtime.stop()
        found = await project.sql("SELECT current_user, count(*) FROM acme_user")
        assert found.rows == [("max_reader", 40)]
        with pytest.raises(InvalidSql, match="permission denied"):
            await project.sql("SELECT * FROM max.credential")
        await project.disconnect("acme:two")


async def counted(url: str) -> tuple[object, ...]:
    """Who reads, and how many users there are."""
    async with Project.open(url) as project:
        found = await project.sql("SELECT current_user, count(*) FROM acme_user", of=["acme:default"])
        return found.rows[0]


def test_a_reader_that_comes_later_is_granted_what_is_there_and_no_more(own: Server) -> None:
    _, later = blocks("Roles")
    url = as_role(own, "max", "max")
    run(own.url.replace("/postgres?", "/max?"), "DROP OWNED BY max_reader")
    before = run(url, "SELECT has_schema_privilege('max_reader', 'max_acme_default', 'USAGE')")
    assert before == [[(False,)]]
    run(url, later)
    assert asyncio.run(counted(url)) == ("max_reader", 20)
    sql = "SELECT has_schema_privilege('max_reader', '{}', 'USAGE')"
    assert [run(url, sql.format(one)) for one in ("max", "max_audit")] == [[[(False,)]]] * 2


def test_vacuum_is_set_and_what_to_alert_on_is_asked_by_the_role_itself(own: Server) -> None:
    url = as_role(own, "max", "max")
    run(url, blocks("Vacuum and backups")[0])
    (alerts,) = blocks("What to alert on")
    answers = run(url, alerts)
    assert len(answers) == 5
    assert answers == [[]] * 5, "nothing is wrong with a new server"


def test_a_backup_is_restored_whole_and_without_a_key(own: Server, tmp_path: Path) -> None:
    place = binaries()
    assert place is not None
    dump, restore = blocks("Vacuum and backups")[1].splitlines()
    reader = asyncio.run(counted(as_role(own, "max", "max")))

    def command(line: str, role: str) -> None:
        words = [*line.split(), "--host", str(own.folder), "--username", role]
        words = [word.strip("'") for word in words]
        done = subprocess.run(
            [str(place / words[0]), *words[1:]], cwd=tmp_path, check=False, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()

    command(dump, "max")
    run(own.url, "ALTER DATABASE max RENAME TO max_before")
    run(own.url, "CREATE DATABASE max ENCODING 'UTF8' TEMPLATE template0")
    run(own.url, "GRANT CREATE ON DATABASE max TO max")
    command(restore, "postgres")
    assert asyncio.run(counted(as_role(own, "max", "max"))) == reader
    asyncio.run(synced_again(as_role(own, "max", "max")))


async def synced_again(url: str) -> None:
    """A sync of what was restored, which goes on from where it was."""
    async with Project.open(url) as project:
        result = await (await (await project.runtime("acme")).sync()).completion()
        assert result.status is Status.COMPLETED
