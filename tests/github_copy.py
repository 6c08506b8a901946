"""Copies of the invented GitHub: what they must hold, and installations for tests.

Expected rows come from the server's state, by code of this file alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from max_connectors import github, github_api
from max_connectors.github import (
    Comment,
    Commit,
    GithubConfig,
    Issue,
    Label,
    Milestone,
    Pull,
    Release,
    Repository,
    Review,
    ReviewComment,
    Team,
    TeamMember,
    User,
    connector,
)

from max import CredentialProvider, Entity, InstallationInfo, Json
from max.installations.config import read_config
from max.model.settings import DEFAULTS
from max.runtime import InstallationRuntime
from max.storage.sqlite import SqliteDatabase
from max.upstream.credentials import MemoryCredentials
from max.upstream.recording import Recording
from max.upstream.replay import Replay
from tests.github_data import Clock, Repo
from tests.github_fake import TOKEN, Fake
from tests.opened import Opened

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]


# -- expected rows ---------------------------------------------------------------------------------


def plain(row: Json, names: str) -> dict[str, Json]:
    """Fields that are called as in the data, or ``field=key``."""
    pairs = [one.partition("=") for one in names.split()]
    return {name: row.get(key or name) for name, _, key in pairs}


def ref(row: Json, key: str) -> str | None:
    """The id of what a row names under a key."""
    found = row.get(key)
    return str(found["id"]) if found else None


def refs(row: Json, key: str) -> list[str]:
    return [str(one["id"]) for one in row[key]]


def expected_repo(repo: Repo) -> Json:
    row = repo.row
    names = (
        "full_name name description visibility archived disabled fork is_template default_branch language"
        " topics homepage size stars=stargazers_count forks=forks_count open_issues=open_issues_count"
        " has_issues has_wiki has_discussions url=html_url created_at updated_at pushed_at"
    )
    license = row["license"]["spdx_id"] if row["license"] else None
    return {**plain(row, names), "owner": ref(row, "owner"), "license": license}


def expected_in(repo: Repo) -> dict[str, dict[str, Json]]:
    """What a copy must hold of a repository, by entity and id."""
    own, role = str(repo.row["id"]), " author_role=author_association"
    times = " url=html_url created_at updated_at"
    found: dict[str, dict[str, Json]] = {"Issue": {}, "Review": {}}
    for number, row in repo.issues.items() if repo.row["has_issues"] else ():
        names = "title number state state_reason body comment_count=comments locked closed_at" + role + times
        found["Issue"][f"{own}/{number}"] = {
            **plain(row, names),
            "author": ref(row, "user"),
            "milestone": ref(row, "milestone"),
            "repository": own,
            "labels": refs(row, "labels"),
            "assignees": refs(row, "assignees"),
            "is_pull": "pull_request" in row,
            "reactions": row["reactions"]["total_count"],
        }
    found["Pull"] = {
        f"{own}/{number}": {
            **plain(
                row, "title number state draft body locked closed_at merged_at changed_files" + role + times
            ),
            **plain(row, "commit_count=commits added_lines=additions deleted_lines=deletions"),
            "review_comment_count": row["review_comments"],
            "repository": own,
            "issue": f"{own}/{number}",
            "author": ref(row, "user"),
            "base_branch": row["base"]["ref"],
            "head_commit": row["head"]["sha"],
            "merged_by": row["merged_by"]["login"] if row["merged_by"] else None,
            "reviewers": refs(row, "requested_reviewers"),
            "head_repository": str(row["head"]["repo"]["id"]),
        }
        for number, row in repo.pulls.items()
    }
    for number, rows in repo.reviews.items():
        for row in rows:
            values = plain(row, "body state commit=commit_id submitted_at url=html_url" + role)
            pull = {"pull": f"{own}/{number}", "author": ref(row, "user")}
            found["Review"][str(row["id"])] = values | pull
    found["Comment"] = {
        str(id): {
            **plain(row, "body" + role + times),
            "issue": f"{own}/{row['issue_url'].split('/')[-1]}",
            "author": ref(row, "user"),
            "repository": own,
            "reactions": row["reactions"]["total_count"],
        }
        for id, row in repo.comments.items()
    }
    found["ReviewComment"] = {
        str(id): {
            **plain(row, "body path line start_line side diff=diff_hunk commit=commit_id" + role + times),
            "pull": f"{own}/{row['pull_request_url'].split('/')[-1]}",
            "repository": own,
        }
        for id, row in repo.review_comments.items()
    }
    found["Label"] = {
        str(row["id"]): plain(row, "name description color default") for row in repo.labels.values()
    }
    names = "title number description state open_issues closed_issues closed_at due_at=due_on" + times
    found["Milestone"] = {
        str(id): {**plain(row, names), "creator": ref(row, "creator"), "repository": own}
        for id, row in repo.milestones.items()
    }
    found["Release"] = {
        str(id): {
            **plain(row, "name tag=tag_name target=target_commitish body draft prerelease published_at"),
            "author": ref(row, "author"),
            "assets": [one["name"] for one in row["assets"]],
            "downloads": sum(one["download_count"] for one in row["assets"]),
            "repository": own,
        }
        for id, row in repo.releases.items()
    }
    branch = repo.branches.get(repo.row["default_branch"])
    found["Commit"] = {
        f"{own}/{sha}": expected_commit(repo, sha) for sha in (repo.history(branch) if branch else ())
    }
    return found


def expected_commit(repo: Repo, sha: str) -> Json:
    row = repo.commits[sha]
    message = row["commit"]["message"]
    return {
        "title": message.split("\n")[0],
        "message": message,
        "sha": sha,
        "verified": True,
        "repository": str(repo.row["id"]),
        "parents": [one["sha"] for one in row["parents"]],
        "author": ref(row, "author"),
        "author_name": "Ada L",
        "author_email": "ada@acme.test",
        "committer": ref(row, "committer"),
        "committed_at": row["commit"]["committer"]["date"],
    }


def expected(fake: Fake) -> dict[str, dict[str, Json]]:
    """What a copy must hold: by entity and id, the fields that are known here."""
    found: dict[str, dict[str, Json]] = {one.__name__: {} for one in ENTITIES}
    for repo in fake.repos.values():
        found["Repository"][str(repo.row["id"])] = expected_repo(repo)
        for name, rows in expected_in(repo).items():
            found[name] |= rows
    for (org, slug), people in fake.members.items():
        team = fake.teams[org][slug]
        found["Team"][str(team["id"])] = {
            **plain(team, "name slug description privacy url=html_url"),
            "organization": str(fake.users[org]["id"]),
            "parent": ref(team, "parent"),
        }
        for one in people:
            user = str(fake.users[one]["id"])
            found["TeamMember"][f"{team['id']}/{user}"] = {"team": str(team["id"]), "user": user}
    for row in fake.users.values():
        found["User"][str(row["id"])] = plain(row, "login type url=html_url avatar_url")
    return found


ENTITIES: tuple[type[Entity], ...] = (
    *(Repository, Issue, Pull, Comment, Review, ReviewComment, Label, Milestone),
    *(Commit, Release, User, Team, TeamMember),
)


async def rows_of(runtime: InstallationRuntime) -> dict[str, dict[str, dict[str, Json]]]:
    """Every stored row as JSON data, by entity and id."""
    return {
        entity.__name__: {one.id: one.to_dict() for one in await runtime.engine.query(entity).all()}
        for entity in ENTITIES
    }


def differences_of(kept: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """What a copy lacks, has too much, or has otherwise; people who are not named any more may stay."""
    wrong = []
    for entity, rows in there.items():
        missing, left = rows.keys() - kept[entity].keys(), kept[entity].keys() - rows.keys()
        wrong += [f"{entity}: missing {id}" for id in sorted(missing)]
        wrong += [f"{entity}: left over {id}" for id in sorted(left)]
        for id in sorted(rows.keys() & kept[entity].keys()):
            for name, value in rows[id].items():
                if kept[entity][id].get(name, "not loaded") != value:
                    wrong.append(f"{entity} {id}.{name}: {kept[entity][id].get(name)!r}, upstream {value!r}")
    return wrong


# -- installations ---------------------------------------------------------------------------------


class Copy(Opened):
    """An installation of the service in a folder, opened for each call."""

    PACE = 120

    def __init__(
        self, folder: Path, fake: Fake | None, secrets: Mapping[str, str] | None = None, **config: Any
    ) -> None:
        self.folder = folder
        self.fake: Any = fake
        self.clock = fake.clock if fake and isinstance(fake.clock, Clock) else Clock()
        self.secrets = MemoryCredentials(secrets or {"token": TOKEN})
        self.values: dict[str, Any] = {**({"base_url": fake.url} if fake else {}), **config}
        self.recording: Callable[[], Recording | Replay | None] = lambda: None
        self.settings = DEFAULTS
        self.process: subprocess.Popen[bytes]

    def configured(self) -> tuple[GithubConfig, CredentialProvider]:
        """The arguments of ``initialise``."""
        config = read_config(GithubConfig, self.values, subject="a test")
        return config, CredentialProvider(self.secrets, connector.credentials, connector.hosts_for(config))

    def runtime(self) -> InstallationRuntime:
        """A runtime before its start."""
        config, credentials = self.configured()
        info = InstallationInfo("github", "default", "copy", self.values, 0.0, self.settings)
        file = self.folder / "data.db"
        return InstallationRuntime(
            info,
            connector,
            config,
            credentials,
            SqliteDatabase(file),
            recording=self.recording(),
            clock=self.clock,
        )

    def later(self, seconds: float) -> None:
        """Move the clock forward."""
        self.clock.ahead += seconds

    def rows(self) -> dict[str, dict[str, dict[str, Json]]]:
        """Every stored row as JSON data, by entity and id."""
        return asyncio.run(self.open(rows_of))

    def differences(self) -> list[str]:
        """Differences between database and upstream."""
        return differences_of(self.rows(), expected(self.fake))

    # syncs in other processes

    def apart(self) -> subprocess.Popen[bytes]:
        """A sync in another process, after it has ended or was killed."""
        self.later(120)
        arguments = [str(self.folder), self.fake.url, str(self.clock())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")])}
        command = [sys.executable, "-m", "tests.github_copy", *arguments]
        with subprocess.Popen(command, env=environment, cwd=ROOT) as process:
            self.process = process
        return process

    def killed_after(self, requests: int) -> None:
        """A sync in another process, killed with SIGKILL at this request."""
        self.fake.inject("GET", call=lambda: self.process.kill(), skip=requests - 1)
        killed = self.apart()
        self.fake.faults.clear()
        assert killed.returncode == -signal.SIGKILL


def main(folder: str, url: str, now: str) -> int:
    """``python -m tests.github_copy FOLDER URL NOW``: one sync, with small pages."""
    for module in (github, github_api):
        vars(module)["PAGE"] = 5
    copy = Copy(Path(folder), None, base_url=url)
    copy.clock = Clock(float(now) - 120)
    return 0 if copy.sync().status.value == "completed" else 1


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
