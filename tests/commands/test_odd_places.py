"""Files of fixed names in a folder that another person made: links that lead away, and pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from max.commands.guide_files import write_section, write_skill
from max.errors import ProjectError
from tests.command_line import Cli
from tests.waiting import PATIENCE

ROOT = Path(__file__).parent.parent.parent
AGENTS = ["guide", "--agents-md", "--write", "AGENTS.md"]
SKILL = ["guide", "--skill", "--write", "skills/SKILL.md"]
NEW = ["connector", "new", "shop", "--url", "https://api.example.com", "--list", "/things"]
EXPORT = ["export", "acme", "AcmeUser", "AcmeTask", "--format", "csv", "--to", "out"]
RECORD = ["sync", "acme", "--record", "calls.jsonl"]


@pytest.fixture
def cloned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Path:
    """A synced project, beside files of its reader."""
    project, home = tmp_path / "cloned", tmp_path / "home"
    project.mkdir()
    home.mkdir()
    (home / "profile").write_text("mine\n")
    monkeypatch.chdir(project)
    assert cli("init").status == 0
    assert cli("sync", "acme:default").status == 0
    return project


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The real command, which waits for nothing."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
    return subprocess.run(
        [sys.executable, "-m", "max", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


AWAY: list[tuple[str, str, list[str]]] = [  # a link, where it leads to beside the project, a command
    ("AGENTS.md", "home/profile", AGENTS),
    ("AGENTS.md", "home/new", AGENTS),
    ("skills/SKILL.md", "home/new", SKILL),
    ("skills", "home", SKILL),
    ("connectors", "home", NEW),
    ("out/acme_user.csv", "home/new", EXPORT),
    ("out/acme_user.csv", "home/profile", [*EXPORT, "--force"]),
    ("calls.jsonl", "home/new", RECORD),
]


@pytest.mark.parametrize(("link", "target", "words"), AWAY)
def test_nothing_is_written_through_a_link_that_leads_out_of_the_folder(
    cloned: Path, link: str, target: str, words: list[str]
) -> None:
    place = cloned / link
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(cloned.parent / target)
    answer = run(cloned, *words)
    assert answer.returncode in (1, 2)
    assert "is a link" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert content(cloned.parent / "home") == {"profile": "mine\n"}
    assert place.is_symlink()


PIPES: list[tuple[str, list[str]]] = [
    ("AGENTS.md", AGENTS),
    ("skills/SKILL.md", SKILL),
    ("connectors/max_shop.py", NEW),
    ("out/acme_user.csv", [*EXPORT, "--force"]),
    ("calls.jsonl", RECORD),
]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize(("name", "words"), PIPES)
def test_what_is_no_file_in_a_files_place_is_refused_and_never_waited_for(
    cloned: Path, name: str, words: list[str], make: Callable[[Path], None]
) -> None:
    (cloned / name).parent.mkdir(exist_ok=True)
    make(cloned / name)
    answer = run(cloned, *words)
    assert answer.returncode in (1, 2), answer.stdout
    assert Path(name).name in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("words", [[*EXPORT], AGENTS])
def test_a_link_in_the_place_of_the_file_that_is_made_beside_is_not_followed(
    cloned: Path, words: list[str]
) -> None:
    if words is AGENTS:
        (cloned / ".AGENTS.md.max-new").symlink_to(cloned.parent / "home" / "profile")
        assert run(cloned, *words).returncode == 0
    else:
        (cloned / "out").mkdir()
        program = (
            "import os, sys\nfrom max.cli import main\n"
            "os.symlink('../../home/profile', f'out/.acme_user.csv.{os.getpid()}.new')\n"
            f"sys.exit(main({words!r}))\n"
        )
        paths = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
        environment = {**os.environ, "PYTHONPATH": paths}
        subprocess.run([sys.executable, "-c", program], cwd=cloned, env=environment, check=True)
        assert not (cloned / "out" / "acme_user.csv").is_symlink()
    assert content(cloned.parent / "home") == {"profile": "mine\n"}


@pytest.mark.parametrize("write", [write_section, write_skill])
def test_a_guide_outside_of_the_project_stays_in_the_folder_that_was_named(
    tmp_path: Path, write: Callable[..., str]
) -> None:
    named, other = tmp_path / "named", tmp_path / "other"
    named.mkdir()
    other.mkdir()
    (named / "AGENTS.md").symlink_to(other / "AGENTS.md")
    with pytest.raises(ProjectError, match="is a link that leads out of"):
        write(str(named / "AGENTS.md"), "one\n", ["acme"], project=tmp_path / "project")
    (tmp_path / "way").symlink_to(named)  # how a person names a folder is up to them
    (named / "AGENTS.md").unlink()
    assert write(str(tmp_path / "way" / "AGENTS.md"), "one\n", ["acme"]).startswith("wrote")
    assert ([*content(other)], [*content(named)]) == ([], ["AGENTS.md"])
