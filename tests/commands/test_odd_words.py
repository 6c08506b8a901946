"""Words that make no sense: each is refused with what is wrong, or does what it says; at once."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from max_connectors.acme import AcmeTask

from max.commands.parser import MOST_OPTIONS
from max.errors import UsageError
from max.model.filter_language import AGES
from max.model.filters import Filter
from max.model.query import DEPTH, Query
from tests.command_line import Cli, project_at, running
from tests.contract.places import is_on_postgres, lasting_project


@pytest.fixture(scope="module")
def project_on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bool], Path]]:
    """The folder of a project, in files or in Postgres, which all tests share."""
    with ExitStack() as during:

        @cache
        def made(on_postgres: bool) -> Path:
            folder = tmp_path_factory.mktemp("project")
            during.enter_context(lasting_project(folder, on_postgres))
            return folder

        yield made


@pytest.fixture
def folder(either: None, project_on: Callable[[bool], Path]) -> Path:
    """The folder of the project on the database of the test."""
    return project_on(is_on_postgres())


@pytest.fixture
def synced(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in a project whose installation was synced, with a change log."""
    monkeypatch.chdir(folder)
    cli, done = running(capsys), folder / "synced"
    if not done.exists():
        cli("connect", "acme", "--set", "users=3", "--set", "tasks=2")
        cli("settings", "acme", "history=changes")
        assert cli("sync").status == 0
        done.touch()
    return cli


def nested(pattern: str, leaf: str, depth: int = DEPTH - 1) -> str:
    """A filter that nests: the pattern's ``|`` is the next one, and at last the leaf."""
    for _ in range(depth):
        leaf = pattern.replace("|", leaf)
    return leaf


LEAVES = ["name = c", "name IN (a, null)", "name IS NOT LOADED", "name ~= é", "_age(workspace.name) > 1d"]
PATTERNS = ["(name = a OR name = b AND |)", "NOT |", "(name = a OR workspace.name != b AND |)"]


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_filter_may_nest_as_deep_as_the_limit_says(synced: Cli, pattern: str, leaf: str) -> None:
    assert synced("count", "acme", "AcmeUser", "--filter", nested(pattern, leaf)).status == 0


@pytest.mark.parametrize("opening", ["(", "NOT ", "NOT(", "(NOT "])
def test_a_filter_that_nests_too_deep_is_a_usage_error(synced: Cli, opening: str) -> None:
    run = synced("count", "acme", "AcmeUser", "--filter", opening * 50_000)
    assert (run.status, f"nested more than {DEPTH} deep" in run.err) == (2, True)


def test_a_filter_of_python_that_nests_too_deep_is_refused() -> None:
    condition: Filter[AcmeTask] = AcmeTask.title.eq("a")
    for _ in range(1_000):
        condition = ~condition
    with pytest.raises(UsageError, match=f"at most {DEPTH} deep"):
        Query(AcmeTask).where(condition)


@pytest.mark.parametrize("join", ["and", "or"])
def test_a_long_chain_of_conditions_is_flat(synced: Cli, folder: Path, join: str) -> None:
    from max.query.reader import open_reader

    condition: Filter[AcmeTask] = AcmeTask.title.eq("a")
    for number in range(400):
        other = AcmeTask.title.eq(str(number))
        condition = condition & other if join == "and" else condition | other
    project = project_at(folder)
    info = project.target("acme")
    with open_reader(project.database(info), info) as reader:
        assert reader.count(AcmeTask, condition) == 0


def test_more_ages_than_a_database_can_plan_are_refused(synced: Cli) -> None:
    ages = " OR ".join([f"_age(assignee.name) > {days}d" for days in range(1, AGES + 1)])
    assert synced("count", "acme", "AcmeTask", "--filter", ages).status == 0
    run = synced("count", "acme", "AcmeTask", "--filter", f"{ages} OR _age(title) > 1d")
    assert (run.status, f"more than {AGES} conditions on an age" in run.err) == (2, True)


def cursor(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


BRACKETS = [
    "[" * 60_000,
    "[" * 30_000 + "]" * 30_000,
    '{"a":' * 15_000,
    "[" + "9" * 5_000 + "]",
    "[1e999]",
    "null",
]


@pytest.mark.parametrize("text", BRACKETS, ids=lambda text: text[:6])
@pytest.mark.parametrize("words", [["search", "acme", "AcmeTask", "--after"], ["changes", "acme", "--since"]])
def test_a_cursor_of_anything_is_a_usage_error(synced: Cli, words: list[str], text: str) -> None:
    for word in (cursor(text), text):
        assert (synced(*words, word).status, "Traceback" in synced(*words, word).err) == (2, False)


def test_a_field_named_ten_thousand_times_is_one_field(synced: Cli) -> None:
    words = ("--fields", ",".join(["title"] * 10_000), "--order-by", ",".join(["title", "-title"] * 5_000))
    run = synced("search", "acme", "AcmeTask", *words, "-o", "json", "--limit", "1")
    assert list(run.data["data"][0]) == ["id", "title"]
    assert synced("search", "acme", "AcmeTask", *words, "--after", run.data["cursor"]).status == 0


def test_too_many_options_are_a_usage_error(synced: Cli) -> None:
    for words in (
        ["search", "acme", "AcmeTask", *["--fields", "title"] * 10_000],
        ["sync", *["--only=x"] * 10_000],
    ):
        run = synced(*words)
        assert (run.status, f"more than {MOST_OPTIONS:,} options" in run.err) == (2, True)


LAST_WORDS = [
    "search acme AcmeTask --limit",
    "runs --limit",
    "sync acme --if-stale",
    "search acme AcmeTask --filter",
    "search acme AcmeTask --order-by",
    "search acme AcmeTask --fields",
    "search acme AcmeTask --after",
    "search acme",
    "get acme",
    "get acme AcmeTask",
    "count acme AcmeTask --filter",
    "changes acme --since",
    "changes acme --entity",
    "freshness acme",
    "schema acme",
    "invalidate acme",
    "settings acme",
    "runs show",
    "status",
    "ls -o",
    "connect acme --set",
    "connect acme --credential",
    "sync acme --only",
    "sync acme --retry-failed",
    "sync acme --replay",
    "quarantine acme",
    "pause",
    "",
]
ODD = [
    "\udcff",
    "AcmeTask:\udcff",
    "9" * 5_000,
    "[" * 60_000,
    "\x1b]0;x\x07\u202e\U000e0041",
    "²",
    "-1",
    "x" * 70_000,
]


@pytest.mark.parametrize("word", ODD, ids=ascii)
@pytest.mark.parametrize("words", LAST_WORDS)
def test_an_odd_word_is_refused_in_words_that_control_no_terminal(synced: Cli, words: str, word: str) -> None:
    for output in ([], ["--json"]):
        run = synced(*words.split(), word, *output)
        assert run.status in (1, 2)
        assert not {"\x1b", "\x07", "\u202e", "\U000e0041", "\udcff"} & set(run.err + run.out)
        assert not output or json.loads(run.err)["error"]["code"]


@pytest.mark.parametrize("filter", ["x" * 100_000, "title = a AND " * 400, "priority = " + "9" * 100_000])
def test_an_error_about_a_long_filter_shows_the_part_that_is_wrong(synced: Cli, filter: str) -> None:
    run = synced("count", "acme", "AcmeTask", "--filter", filter)
    assert (run.status, len(run.err) < 1_500) == (2, True)
    assert len(synced("count", "acme", filter).err) < 1_000


def test_a_word_that_is_not_utf_8_is_named(synced: Cli) -> None:
    run = synced("get", "acme", "AcmeUser:\udcff")
    assert (run.status, run.err.splitlines()[0]) == (2, "max: AcmeUser:\\udcff is not UTF-8 text")


@pytest.mark.parametrize("url", ["\udcff", "postgresql://x\udcff@/y", "postgresql://x@/y%ff"])
def test_the_url_of_a_database_that_is_not_utf_8_is_a_usage_error(
    cli: Cli, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_DATABASE", url)
    for words in ("ls", "sync acme", "worker"):
        done = cli(*words.split())
        assert (done.status, "URL of the database is not UTF-8 text" in done.err) == (2, True)


@pytest.mark.parametrize("byte", ["\udcff", "\0"])
def test_a_folder_that_leads_to_such_a_url_is_a_usage_error(cli: Cli, byte: str) -> None:
    cli("init")
    url = f"postgresql://x@/y?host=/nowhere{byte}&port=1"  # libpq reads up to a NUL
    Path(".max/project.json").write_text(json.dumps({"database": url}))
    cli("trust", ".")
    assert cli("ls").status == 2


def test_a_project_may_lie_in_a_folder_whose_name_is_not_utf_8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli: Any = running(capsys)
    place = str(tmp_path / "a\udcff")
    assert cli("init", place, "-o", "json").data == {"project": place, "created": True}
    assert cli("-C", place, "sync", "acme:default").status == 0
    assert cli("count", "acme", "AcmeUser", "-C", place).out == "20\n"
    assert "20" in cli("sql", "acme", "SELECT count(*) FROM acme_user", "-C", place).out
    assert "AcmeUser" in cli("guide", "-C", place).out


def test_names_and_descriptions_control_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a\x1b]0;x\x07\u202e\U000e0041"
    (place / "connectors").mkdir(parents=True)
    (place / "connectors" / "max_sly.py").write_text(SLY)
    monkeypatch.chdir(place)
    cli = running(capsys)
    commands = (
        "init, trust, connect sly:a, sync sly, ls, status, schema sly, runs, settings sly, search sly Sly"
    )
    for words in commands.split(", "):
        for output in ([], ["-o", "json"]):
            run = cli(*words.split(), *output)
            assert not {"\x1b", "\x07", "\u202e", "\U000e0041"} & set(run.out + run.err), words
    assert cli("schema", "sly", "--json").data["entities"][0]["description"] == "Plain \x1b[2J\u202e words."
    assert cli("search", "sly", "Sly", "-o", "json").data["data"] == [
        {"id": "s\x1b[2J", "name": "\u202e\x1b[31m"}
    ]


SLY = r'''
"""A source whose words control terminals."""

from __future__ import annotations

from dataclasses import dataclass

from max.connecting import *


class Sly(Entity):
    """Plain \x1b[2J\u202e words."""

    name: Field[str] = Field("a \x1b]0;title\x07 \U000e0041 field")


@dataclass(frozen=True)
class Config:
    """Nothing."""


async def seed(context: None, store: Store) -> SyncPlan:
    """Store the root."""
    await store.store(Sly("s\x1b[2J", name="\u202e\x1b[31m"))
    return SyncPlan([])


async def initialise(config: Config, credentials: CredentialProvider) -> Installation[None]:
    """Nothing."""
    return Installation(None)


connector = Connector(
    name="sly",
    description="Sly \x1b[2J.",
    schema=Schema([Sly], roots=[Sly]),
    loaders=[],
    seeder=seed,
    initialise=initialise,
    config=Config,
)
'''
