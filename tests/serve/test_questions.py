"""Seven everyday questions over MCP: each is one small call, proven against SQL by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serve.clients import Client, environment
from tests.serve.conftest import Start
from tests.serve.test_tools import change, rows_of

SMALL = 4_000  # bytes of an answer; an agent pays for each


@pytest.fixture
def agent(start: Start, own: Path) -> Client:
    """A server of a project with acme and a git repository of three commits."""
    repository = own / "repository"
    git = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-C", str(repository)]
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    for number, names in enumerate((["README.md", "a.py"], ["README.md", "a.py", "b.py"], ["b.py"])):
        for name in names:
            (repository / name).write_text(f"{name} {number}\n")
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", f"Change {number}"], check=True)
    for words in (["connect", "git", "--set", f"path={repository}", "--no-input"], ["sync", "git"]):
        command = [sys.executable, "-m", "max", *words]
        subprocess.run(command, cwd=own, env=environment(), check=True, capture_output=True)
    change(own)
    return start(own)


def ask(agent: Client, tool: str, /, **arguments: Any) -> Any:
    answer = agent.call(tool, **arguments)
    assert agent.size < SMALL
    return answer


def test_each_of_the_seven_questions_is_one_call(agent: Client, own: Path) -> None:
    overdue = ask(
        agent,
        "count",
        entity="AcmeTask",
        filter="status NOT IN (done, cancelled) AND due_date < today",
        by="assignee.name,project.name",
        top=3,
    )
    expected = rows_of(
        own,
        "SELECT u.name, p.name, count(*) FROM acme_task t LEFT JOIN acme_user u ON u.id = t.assignee"
        " LEFT JOIN acme_project p ON p.id = t.project"
        " WHERE t.status NOT IN ('done', 'cancelled') AND t.due_date < date('now') GROUP BY 1, 2",
    )
    least = sorted((n for *_, n in expected), reverse=True)[2]  # those that are equal at the cut are kept
    found = {(g["assignee.name"], g["project.name"], g["count"]) for g in overdue["groups"]}
    assert found == {row for row in expected if row[2] >= least}

    months = ask(agent, "count", entity="AcmeTask", by="updated_at:month", filter="updated_at = 2025")
    assert [(g["updated_at:month"], g["count"]) for g in months["groups"]] == rows_of(
        own,
        "SELECT substr(updated_at, 1, 7), count(*) FROM acme_task WHERE updated_at LIKE '2025%'"
        " GROUP BY 1 ORDER BY 1",
    )

    mentions = ask(agent, "find", query="audit log", limit=8)
    (by_hand,) = rows_of(
        own,
        "SELECT (SELECT count(*) FROM acme_task WHERE title || ' ' || description LIKE '%audit log%')"
        " + (SELECT count(*) FROM acme_file WHERE name LIKE 'audit-log%')"
        " + (SELECT count(*) FROM acme_project WHERE name || ' ' || description LIKE '%audit log%')",
    )
    assert (mentions["total"],) == by_hand
    assert "AcmeFile" in {hit["entity"] for hit in mentions["hits"]}

    never = ask(
        agent,
        "search",
        entity="AcmeProject",
        filter="owner IS NOT NULL AND owner.last_seen_at IS NULL",
        fields="name,owner.name",
    )
    assert [(row["name"], row["owner.name"]) for row in never["rows"]] == rows_of(
        own,
        "SELECT p.name, u.name FROM acme_project p JOIN acme_user u ON u.id = p.owner"
        " WHERE u.last_seen_at IS NULL ORDER BY p.id",
    )

    changed = ask(agent, "changes", installation="acme", since="yesterday")
    assert changed["summary"] == {"AcmeTask": {"updated": 3}}
    assert all(one["title"] and one["old"] != one["new"] for one in changed["changes"])

    query = (
        "SELECT b.path, count(*) AS n FROM git_file_change a"
        ' JOIN git_file_change b ON b."commit" = a."commit"'
        " WHERE a.path = 'README.md' AND b.path <> a.path GROUP BY 1 ORDER BY 2 DESC LIMIT 10"
    )
    together = ask(agent, "sql", installation="git", query=query)
    assert together["rows"] == [{"path": "a.py", "n": 2}, {"path": "b.py", "n": 1}]

    commits = ask(agent, "count", entity="GitCommit", by="authored_at:month,author.name")
    assert [(g["author.name"], g["count"]) for g in commits["groups"]] == [("Ada", 3)]


def test_an_entity_says_which_source_is_meant(agent: Client) -> None:
    assert agent.call("count", entity="git_commit")["installation"] == "git:default"
    text = agent.mistake("count", entity="GitComit")
    assert "did you mean: GitCommit" in text
    assert "name one of: acme:default, git:default" in agent.mistake("sql", query="SELECT 1")


def test_find_looks_into_every_source(agent: Client) -> None:
    found = agent.call("find", query="change")
    assert found["installation"] == "acme:default, git:default"
    assert "GitCommit" in {hit["entity"] for hit in found["hits"]}
