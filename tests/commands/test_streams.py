"""Commands whose streams are closed, full, odd or left by their reader; each is a real process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, cast

import pytest

from max.model.visible import escaped

ROOT = Path(__file__).resolve().parents[2]
MAX = [sys.executable, "-m", "max"]
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")])} | more


def run(folder: Path, *words: str | bytes, **how: Any) -> subprocess.CompletedProcess[bytes]:
    """One command in a folder; ``environment`` adds variables."""
    more = how.pop("environment", {})
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | how
    done: Any = subprocess.run([*MAX, *words], cwd=folder, env=environment(**more), check=False, **how)
    return cast("subprocess.CompletedProcess[bytes]", done)


def shell(folder: Path, text: str) -> subprocess.CompletedProcess[bytes]:
    """Shell words in a folder, in which ``max`` is the command."""
    command = f'max() {{ "{sys.executable}" -m max "$@"; }}\n{text}'
    words = ["/bin/sh", "-c", command]
    return subprocess.run(words, cwd=folder, env=environment(), capture_output=True, check=False)


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose installation was synced: 20 users, some with names beyond Latin."""
    folder = tmp_path_factory.mktemp("project")
    assert run(folder, "connect", "acme", "--set", "tasks=3").returncode == 0
    assert run(folder, "sync").returncode == 0
    return folder


# -- closed streams ----------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", ["sync acme", "search acme AcmeUser", "--help"])
def test_a_command_runs_whatever_streams_are_closed(synced: Path, words: str, closed: str) -> None:
    done = shell(synced, f"max {words} {closed}")
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)


@pytest.mark.parametrize("closed", ["<&-", "</dev/null"])
def test_without_an_input_missing_answers_are_a_usage_error(tmp_path: Path, closed: str) -> None:
    done = shell(tmp_path, f"max connect linear:x {closed}")
    assert (done.returncode, b"--credential api_key=env:VAR" in done.stderr) == (2, True)
    done = shell(tmp_path, f"max connect git {closed}")
    assert (
        done.returncode,
        b"path: expected a text (--set path=\xe2\x80\xa6), got nothing\n" in done.stderr,
    ) == (
        2,
        True,
    )


def test_a_closed_stdout_does_not_become_the_database(tmp_path: Path) -> None:
    assert shell(tmp_path, "max sync acme:default <&- >&- 2>&-").returncode == 0
    assert run(tmp_path, "count", "acme", "AcmeUser").stdout == b"20\n"


def test_an_error_keeps_its_status_when_stderr_is_closed(synced: Path) -> None:
    assert shell(synced, "max search acme Nothing 2>&-").returncode == 2


# -- readers that go away ------------------------------------------------------------------------


def left(stream: str) -> dict[str, IO[bytes]]:
    """A stream whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return {stream: os.fdopen(writer, "wb")}


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """A project whose next sync is partial."""
    source = tmp_path / "connectors"
    source.mkdir()
    (source / "max_halves.py").write_text(HALVES)
    assert run(tmp_path, "connect", "halves").returncode == 0
    return tmp_path


HALVES = '''
"""A source whose second page never comes."""

from __future__ import annotations

from dataclasses import dataclass

from max.connecting import *


class Box(Entity):
    """Root."""

    rows: Many[Row] = Many()


class Row(Entity):
    """A row."""

    text: Field[str] = Field()


@dataclass(frozen=True)
class Config:
    """Nothing."""


@Loader.collection(Box.rows, brings=[Row.text])
async def rows(parent: Ref[Box], request: PageRequest, env: Env[None]) -> Page[Row]:
    """One page, then an error."""
    if request.cursor:
        raise UpstreamChanged("no second page")
    return Page([Row("1", text="one")], next="more")


async def seed(context: None, store: Store) -> SyncPlan:
    """Store the root, list its rows."""
    await store.store(Box("box"))
    return SyncPlan([Step.for_root(Box.ref("box")).load_collection(Box.rows)])


async def initialise(config: Config, credentials: CredentialProvider) -> Installation[None]:
    """Nothing."""
    return Installation(None)


connector = Connector(
    name="halves",
    description="Halves.",
    schema=Schema([Box, Row], roots=[Box]),
    loaders=[rows],
    seeder=seed,
    initialise=initialise,
    config=Config,
)
'''


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("output", ["text", "json", "ndjson"])
def test_a_reader_that_went_away_does_not_hide_a_partial_sync(
    partial: Path, stream: str, output: str
) -> None:
    gone = left(stream)
    done = run(partial, "sync", "halves", "-o", output, **gone)
    gone[stream].close()
    assert (done.returncode, b"Traceback" in (done.stderr or b"")) == (3, False)


def test_a_socket_whose_other_side_was_closed_is_a_reader_that_went_away(synced: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        done = run(synced, "search", "acme", "AcmeUser", "--all", "-o", "ndjson", stdout=theirs)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_pipe_that_does_not_block_gets_every_row(synced: Path) -> None:
    fcntl = pytest.importorskip("fcntl", reason="this system has no fcntl")
    reader, writer = os.pipe()
    fcntl.fcntl(writer, 1031, 4096)  # F_SETPIPE_SZ: less than the answer, which must wait for its reader
    os.set_blocking(writer, False)
    words = [*MAX, "search", "acme", "AcmeUser", "--all", "-o", "ndjson"]
    with subprocess.Popen(words, cwd=synced, env=environment(), stdout=writer) as process:
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            lines = stream.read().splitlines()
    assert (process.returncode, len(lines), sum(map(len, lines)) > 4096) == (0, 20, True)


# -- devices that are full -------------------------------------------------------------------------


@needs_full
@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "--version",
        "sync --help",
        "ls",
        "search acme AcmeUser -o json",
        "sync acme",
        "sync acme -o ndjson",
    ],
)
def test_a_full_device_is_reported_and_no_success(synced: Path, words: str) -> None:
    with FULL.open("wb") as full:
        done = run(synced, *words.split(), stdout=full)
    words_of_it = b"standard output: No space left on device"
    assert (done.returncode, words_of_it in done.stderr, b"Traceback" in done.stderr) == (1, True, False)


@needs_full
@pytest.mark.parametrize("words", ["halves", "--all"])
@pytest.mark.parametrize("output", ["text", "json", "ndjson"])
def test_a_full_device_is_reported_and_does_not_hide_a_partial_sync(
    partial: Path, words: str, output: str
) -> None:
    with FULL.open("wb") as full:
        done = run(partial, "sync", words, "-q", "-o", output, stdout=full)
    assert (done.returncode, done.stderr.count(b"standard output: No space left on device")) == (3, 1)


@needs_full
def test_a_full_device_stops_no_sync_of_several(partial: Path) -> None:
    assert run(partial, "connect", "acme", "--set", "tasks=3").returncode == 0
    assert run(partial, "connect", "halves:second").returncode == 0
    with FULL.open("wb") as full:
        done = run(partial, "sync", "--all", "-q", "-o", "ndjson", stdout=full)
    assert (done.returncode, run(partial, "runs", "-o", "ndjson").stdout.count(b"\n")) == (3, 3)


@needs_full
def test_what_cannot_be_written_to_stderr_changes_no_result(synced: Path) -> None:
    with FULL.open("wb") as full:
        assert run(synced, "sync", "acme", stderr=full).returncode == 0
        assert run(synced, "search", "acme", "Nothing", stderr=full).returncode == 2


# -- encodings ---------------------------------------------------------------------------------------

LOCALES = [
    {"LC_ALL": "C"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "utf-16"},
    {"PYTHONIOENCODING": "utf-8-sig"},
    {"PYTHONIOENCODING": "shift-jis"},
    {"PYTHONIOENCODING": "ascii:replace"},
]


@pytest.mark.parametrize("locale", LOCALES, ids=str)
def test_json_loses_no_character_whatever_the_locale(synced: Path, locale: dict[str, str]) -> None:
    words = ("search", "acme", "AcmeUser", "--all", "--fields", "name", "-o", "ndjson")
    whole = run(synced, *words).stdout.decode()
    assert not whole.isascii()
    lines = run(synced, *words, environment=locale).stdout.decode("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(line) for line in whole.splitlines()]


@pytest.mark.parametrize("locale", LOCALES[2:], ids=str)
def test_errors_are_json_whatever_the_locale(synced: Path, locale: dict[str, str]) -> None:
    done = run(synced, "search", "acme", "Näme\U0001f600", "-o", "json", environment=locale)
    assert json.loads(done.stderr.decode("utf-8"))["error"]["data"]["name"] == "Näme\U0001f600"


def test_text_shows_what_an_encoding_lacks_as_an_escape(synced: Path) -> None:
    words = ("search", "acme", "AcmeUser", "--all", "--fields", "name")
    plain = run(synced, *words, environment={"PYTHONIOENCODING": "ascii"}).stdout.decode("ascii")
    assert "?" not in plain
    assert plain.count("\\u") > 5


def test_a_character_is_escaped_as_json_escapes_it() -> None:
    text = "é\u2028\U0001f600\udcff"
    assert json.loads(f'"{escaped(text)}"') == text
