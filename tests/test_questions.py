"""Everyday questions: each is one command, and its answer is that of SQL written by hand.

The data is the demo source's, and a small repository whose history is written here.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from max.cli import main
from tests.git_repositories import History, make, needs_git

Sql = Callable[[str, str], list[tuple[Any, ...]]]
Ask = Callable[..., Any]
AUTHORS = (b"Ada <ada@example.com>", b"Bob <bob@example.com>", b"Ada <ada@elsewhere.example>")
MONTHS = (1_700_000_000, 1_702_000_000, 1_707_000_000)  # in November, December and February


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project that has synced the demo source and a repository."""
    folder = tmp_path_factory.mktemp("questions")
    history = History()
    for number in range(12):
        when = b"%d +0000" % (MONTHS[number % 3] + number)
        parents = [number] if number else []
        files = {b"a.py": b"%d" % number, b"%d.py" % (number % 4): b"x%d" % number}
        history.commit(files=files, author=AUTHORS[number % 5 % 3], when=when, parents=parents)
    history.write(make(folder / "repository"))
    before = Path.cwd()
    os.chdir(folder)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        assert main(["sync", "acme:default"]) == 0
        assert main(["connect", "git", "--set", "path=repository", "--no-input"]) == 0
        assert main(["sync", "git"]) == 0
    yield folder
    os.chdir(before)


@pytest.fixture
def ask(project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """The JSON that one command answers."""
    monkeypatch.chdir(project)

    def ask(*words: str) -> Any:
        capsys.readouterr()
        assert main([*words, "-o", "json"]) == 0
        return json.loads(capsys.readouterr().out)

    return ask


@pytest.fixture
def sql(project: Path) -> Sql:
    """The rows of a statement on the views of an installation's file."""

    def sql(connector: str, statement: str) -> list[tuple[Any, ...]]:
        path = project / ".max" / "installations" / connector / "default" / "data.db"
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(statement).fetchall()

    return sql


@needs_git
class TestCounting:
    """How many, by what."""

    def test_who_has_most_overdue_open_tasks_and_in_which_project_with_ties(self, ask: Ask, sql: Sql) -> None:
        found = ask(
            *("count", "acme", "AcmeTask", "--by", "assignee.name,project.name", "--top", "3"),
            *("--filter", "active = true AND due_date < today AND assignee IS NOT NULL"),
        )
        by_hand = sql(
            "acme",
            "SELECT u.name, p.name, count(*) AS n FROM acme_task t JOIN acme_user u ON u.id = t.assignee"
            " JOIN acme_project p ON p.id = t.project WHERE t.active AND t.due_date < date('now')"
            " GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2",
        )
        least = by_hand[2][2]
        kept = [row for row in by_hand if row[2] >= least]
        assert [tuple(one.values()) for one in found["groups"]] == kept
        assert len(kept) > 3  # there is a tie at the cut
        assert (found["more"], found["total"]) == (len(by_hand) - len(kept), sum(n for *_, n in by_hand))

    def test_how_many_tasks_were_updated_in_each_month(self, ask: Ask, sql: Sql) -> None:
        found = ask("count", "acme", "AcmeTask", "--by", "updated_at:month")
        by_hand = sql(
            "acme", "SELECT substr(updated_at, 1, 7), count(*) FROM acme_task GROUP BY 1 ORDER BY 1"
        )
        assert [tuple(one.values()) for one in found["groups"]] == by_hand
        assert len(by_hand) > 12

    def test_how_many_commits_each_author_made_in_each_month(self, ask: Ask, sql: Sql) -> None:
        found = ask("count", "git", "GitCommit", "--by", "author,authored_at:month")
        by_hand = sql(
            "git",
            "SELECT author, strftime('%Y-%m', authored_at), count(*) FROM git_commit"
            " GROUP BY 1, 2 ORDER BY 1, 2",
        )
        assert [tuple(one.values()) for one in found["groups"]] == by_hand
        assert len({author for author, *_ in by_hand}) == 3  # two of them are called Ada


class TestWho:
    """Questions that go through refs."""

    def test_who_never_signed_in_and_owns_a_project(self, ask: Ask, sql: Sql) -> None:
        found = ask(
            *("search", "acme", "AcmeProject", "--fields", "owner.name", "--all"),
            *("--filter", "owner IS NOT NULL AND owner.last_seen_at IS NULL"),
        )
        by_hand = sql(
            "acme",
            "SELECT p.id, u.name FROM acme_project p JOIN acme_user u ON u.id = p.owner"
            " WHERE u.last_seen_at IS NULL ORDER BY 1",
        )
        assert [(one["id"], one["owner.name"]) for one in found["data"]] == by_hand
        assert by_hand


PAIRS = """
    SELECT a.path AS one, b.path AS other, count(*) AS commits
      FROM git_file_change AS a JOIN git_file_change AS b ON b."commit" = a."commit" AND b.path <> a.path
     WHERE a.path = :path GROUP BY 1, 2 ORDER BY commits DESC, other LIMIT 10
"""


@needs_git
class TestTogether:
    """Questions for SQL."""

    def test_the_ten_files_that_change_most_often_together_with_one(self, ask: Ask, sql: Sql) -> None:
        found = ask("sql", "git", PAIRS, "--param", "path=a.py")["rows"]
        commits: dict[str, set[str]] = {}
        for commit, path in sql("git", 'SELECT "commit", path FROM git_file_change'):
            commits.setdefault(path, set()).add(commit)
        others = [
            (len(commits["a.py"] & found_in), path) for path, found_in in commits.items() if path != "a.py"
        ]
        by_hand = sorted(others, key=lambda pair: (-pair[0], pair[1]))[:10]
        assert [(one["commits"], one["other"]) for one in found] == by_hand
        assert len(by_hand) == 4
        assert {one["one"] for one in found} == {"a.py"}


MENTIONS = """
    SELECT 'AcmeTask:' || id FROM acme_task WHERE title || ' ' || description LIKE '%audit%log%'
    UNION ALL SELECT 'AcmeFile:' || id FROM acme_file WHERE name LIKE '%audit%log%'
    UNION ALL SELECT 'AcmeProject:' || id FROM acme_project
     WHERE name || ' ' || description LIKE '%audit%log%'
    UNION ALL SELECT 'AcmeUser:' || id FROM acme_user WHERE name || ' ' || email LIKE '%audit%log%'
    UNION ALL SELECT 'AcmeWorkspace:' || id FROM acme_workspace WHERE name LIKE '%audit%log%'
"""


@needs_git
class TestMentions:
    """Questions for full text."""

    def test_everything_that_mentions_audit_log_also_in_file_names(self, ask: Ask, sql: Sql) -> None:
        found = ask("find", "audit log", "--limit", "100")
        by_hand = sorted(ref for (ref,) in sql("acme", MENTIONS))
        assert sorted(hit["ref"] for hit in found["hits"]) == by_hand
        assert found["total"] == len(by_hand) == 24
        assert {hit["title"] for hit in found["hits"] if hit["entity"] == "AcmeFile"} == {
            "audit-log-1.png",
            "audit-log-3.zip",
        }


class TestChanges:
    """What changed, since when."""

    @needs_git
    def test_what_changed_since_yesterday(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Held against the tables before and after, compared by SQL."""
        monkeypatch.chdir(tmp_path)
        history = History()
        first = history.commit(files={b"a.py": b"1"})
        history.write(make(tmp_path / "repository"))
        assert main(["connect", "git", "--set", "path=repository", "--no-input"]) == 0
        assert main(["sync", "git"]) == 0
        path = tmp_path / ".max" / "installations" / "git" / "default" / "data.db"
        (tmp_path / "before.db").write_bytes(path.read_bytes())
        history.commit(files={b"a.py": b"2", b"b.py": b"1"}, parents=[first], message=b"Another\n")
        history.write(tmp_path / "repository")
        assert main(["sync", "git"]) == 0
        capsys.readouterr()
        assert main(["changes", "git", "--since", "yesterday", "-o", "json"]) == 0
        found = json.loads(capsys.readouterr().out)["data"]
        names = ("GitRepository", "GitBranch", "GitAuthor", "GitCommit", "GitFileChange", "GitTag")
        views = {
            name: "git_" + name.removeprefix("Git").replace("FileChange", "file_change").lower()
            for name in names
        }
        by_hand = set()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("ATTACH ? AS old", [str(tmp_path / "before.db")])
            for name, view in views.items():
                differing = f"SELECT id FROM (SELECT * FROM main.{view} EXCEPT SELECT * FROM old.{view})"
                sql = f"SELECT id, id IN (SELECT id FROM old.{view}) FROM ({differing})"
                rows = connection.execute(sql).fetchall()
                by_hand |= {(name, id, "updated" if known else "created") for id, known in rows}
                gone = f"SELECT id FROM old.{view} WHERE id NOT IN (SELECT id FROM main.{view})"
                by_hand |= {(name, id, "removed") for (id,) in connection.execute(gone)}
        assert {(one["entity"], one["id"], one["kind"]) for one in found} == by_hand
        assert len(by_hand) >= 4
