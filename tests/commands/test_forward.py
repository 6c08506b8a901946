"""Commands that a daemon answers: the same as without it, to the byte, and without it when it fails."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle

import pytest

from max.cli import COMMANDS, FORWARDED
from tests.commands.test_answers import READING, parser_of
from tests.forwarding import DIRECT, ROOT, Answer, Machine

MORE = re.compile(r"[|<>$`;&]|--write|--rebuild|--check|schema diff")  # for a shell, or more than reading
ROWS = [*READING.values(), "status", "runs", "ls", "audit"]  # command lines whose answer has rows
CHANGING = re.compile(rb'(?<="elapsedMs":)[0-9]+|\b9[0-9]{5}\.[0-9]+')
FORMATS = ("json", "ndjson", "csv")
WRONG = """
search acme AcmeUsr
search acme AcmeUser --filter "name ="
search acme AcmeUser --filter "nam = 1"
search acme AcmeUser --fields nam
search acme AcmeUser --after nonsense
search acme AcmeUser --all --limit 2
search acme AcmeUser --limit 0
search acme AcmeUser --wrong
search acme AcmeUser -o yaml
search
get acme AcmeUser:nobody-has-this
get acme AcmeUser
count nothing AcmeUser
sql acme "SELECT nothing FROM acme_task"
sql acme "DELETE FROM acme_task"
changes acme --since never
runs show zzzz
schema acme Nothing
guide --entity Nothing
find
quarantine acme Nothing
freshness acme AcmeUser.nothing
values acme AcmeUser nothing
status nothing
ls extra
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A project with data of the demo source, its changes recorded, and a daemon."""
    machine = Machine(tmp_path_factory.mktemp("m"))
    machine.prepare("connect acme", "settings acme history=changes", "sync acme:default")
    machine.start()
    yield machine
    machine.close()


def check_same(machine: Machine, ask: Callable[[Mapping[str, str]], Answer], *, by: str = "daemon") -> Answer:
    """Check that an answer is the same with the daemon and without, and that the daemon gave it."""
    before = len(machine.answered())
    found = without_times(ask({}))
    given = len(machine.answered()) - before
    assert found == without_times(ask(DIRECT))
    assert given == (by == "daemon")
    return found


def piped(machine: Machine, *words: str) -> Callable[[Mapping[str, str]], Answer]:
    """A command as its process writes it into pipes with the daemon, and as this process does without."""
    return lambda known: machine.here(*words) if known is DIRECT else machine.max(*words)


def without_times(answer: Answer) -> Answer:
    """The answer without how long its statement took, and without ages in seconds, which are ten days."""
    out, err = (CHANGING.sub(b"0", one) for one in (answer.out, answer.err))
    return Answer(answer.status, out, err)


def documented() -> list[str]:
    """Every command that reads in the documentation and in the examples of the commands' help."""
    lines = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        lines += page.read_text(encoding="utf-8").splitlines()
    for command in sorted(FORWARDED & COMMANDS.keys()):
        lines += str(parser_of(command).epilog).splitlines()
    found = (line.strip() for line in lines)
    commands = (line.removeprefix("max ").partition("   ")[0] for line in found if line.startswith("max "))
    reads = [one for one in commands if one.split()[0] in FORWARDED and not MORE.search(one)]
    found_once = ("audit prune", "audit --of")  # these write a file, and need it
    once = [one for one in dict.fromkeys(reads) if not one.startswith(found_once)]
    return [one for one in once if one.count("'") % 2 == 0]  # the others go on below


# -- the same ----------------------------------------------------------------------------------------


def test_each_command_that_reads_is_forwarded_or_is_known_to_need_its_own_process() -> None:
    """``schema diff`` loads a connector, ``export`` writes files, ``mcp`` and ``serve`` are servers."""
    reading = {name for name, (group, _, _) in COMMANDS.items() if group == "Query"}
    assert reading - FORWARDED == {"schema diff", "export", "mcp", "serve"}
    assert FORWARDED - reading == {"audit", "health", "status", "runs", "ls"}


def test_documented_commands_of_each_kind_are_tried() -> None:
    assert {line.split()[0] for line in documented()} == FORWARDED & COMMANDS.keys()
    assert len(documented()) > 90


@pytest.mark.parametrize("line", documented())
def test_a_documented_command_gives_the_same(machine: Machine, line: str) -> None:
    here = (" --connector", " -f ", " --direct")
    by = "caller" if any(one in line for one in here) else "daemon"
    check_same(machine, piped(machine, *shlex.split(line)), by=by)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("line", ROWS)
def test_rows_are_the_same_in_every_format(machine: Machine, line: str, format: str) -> None:
    found = check_same(machine, piped(machine, *shlex.split(line), "-o", format))
    assert found.status == 0


@pytest.mark.parametrize("columns", [60, 120])
@pytest.mark.parametrize("line", [*ROWS, "schema acme", "guide", "path acme", "get acme AcmeUser:gone"])
def test_a_terminal_shows_the_same_at_each_width(machine: Machine, line: str, columns: int) -> None:
    check_same(machine, lambda known: machine.screen(columns, *shlex.split(line), environment=known))


@pytest.mark.parametrize(
    ("line", "format"), [*zip(WRONG.strip().splitlines(), cycle(("text", "json")), strict=False)]
)
def test_an_error_is_the_same(machine: Machine, line: str, format: str) -> None:
    words = [*shlex.split(line), *([] if "-o" in line else ["-o", format])]
    found = check_same(machine, piped(machine, *words))
    assert found.status in (1, 2)
    assert found.err


@pytest.mark.parametrize(
    "variables",
    [
        {"NO_COLOR": "1"},
        {"FORCE_COLOR": "1"},
        {"TERM": "dumb"},
        {"COLUMNS": "40"},
        {"MAX_OUTPUT": "json"},
        {"MAX_OUTPUT": "nonsense"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1", "MAX_OUTPUT": "ndjson"},
    ],
    ids=str,
)
def test_variables_of_the_caller_count(machine: Machine, variables: dict[str, str]) -> None:
    words = ["search", "acme", "AcmeUser", "--limit", "3"]
    piped = check_same(machine, lambda known: machine.max(*words, environment=variables | dict(known)))
    shown = check_same(machine, lambda known: machine.screen(90, *words, environment=variables | dict(known)))
    assert piped.out != shown.out


# -- what only the caller can do ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "schema diff acme",
        "schema acme --connector",
        "guide --skill --write {place}/SKILL.md",
        "find --check",
        "find --rebuild",
        "search acme AcmeUser --limit 20000",
        "search acme AcmeUser --direct",
        "search --help",
        "sql acme -f {place}/query.sql",
        "-C {place}/other status",
        "status --project={place}/other",
    ],
)
def test_what_needs_more_than_to_read_runs_in_the_process_of_its_caller(machine: Machine, line: str) -> None:
    (machine.place / "query.sql").write_text("SELECT count(*) AS n FROM acme_task")
    if not (machine.place / "other").exists():
        assert machine.max("init", str(machine.place / "other")).status == 0
    words = line.format(place=machine.place).split()
    first = machine.max(*words, environment=DIRECT)  # what is written is there already, then
    assert first.status == 0, first.err
    check_same(machine, lambda known: machine.max(*words, environment=known), by="caller")


def test_a_statement_from_standard_input_runs_in_the_process_of_its_caller(machine: Machine) -> None:
    query = b"SELECT count(*) AS n FROM acme_task"
    ask: Callable[[Mapping[str, str]], Answer] = lambda known: machine.max(  # noqa: E731
        "sql", "acme", environment=known, typed=query
    )
    assert b"200" in check_same(machine, ask, by="caller").out


@pytest.mark.parametrize(
    "variables",
    [{"TZ": "Asia/Kolkata"}, {"MAX_TRUST": "/elsewhere"}, {"MAX_CONNECTORS": "/elsewhere"}],
    ids=str,
)
def test_another_environment_than_the_daemons_is_left_to_the_caller(
    machine: Machine, variables: dict[str, str]
) -> None:
    check_same(machine, lambda known: machine.max("status", environment=variables | dict(known)), by="caller")


@pytest.mark.parametrize(
    ("folder", "words"), [("p/below", []), ("", ["-C", "p"]), ("", ["--project=p/below"])]
)
def test_the_project_may_be_named_or_lie_above(machine: Machine, folder: str, words: list[str]) -> None:
    (machine.folder / "below").mkdir(exist_ok=True)
    ask: Callable[[Mapping[str, str]], Answer] = lambda known: machine.max(  # noqa: E731
        *words, "search", "acme", "AcmeUser", environment=known, folder=machine.place / folder
    )
    assert check_same(machine, ask).status == 0


def test_max_alone_shows_the_status(machine: Machine) -> None:
    found = check_same(machine, lambda known: machine.max(environment=known))
    assert b"all commands: max --help" in found.err


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A project with a source that was not synced, one whose file is broken, one whose data is damaged."""
    machine = Machine(tmp_path_factory.mktemp("o"))
    for name in ("idle", "broken", "damaged"):
        assert machine.max("connect", f"acme:{name}", "--no-input").status == 0
    files = machine.folder / ".max" / "installations" / "acme"
    (files / "broken" / "installation.json").write_text("{")
    (files / "damaged" / "data.db").write_bytes(b"no database" * 1000)
    machine.start()
    yield machine
    machine.close()


@pytest.mark.parametrize(
    "line",
    """status, ls, ls -o json, runs, search acme:idle AcmeUser, search acme:damaged AcmeUser -o json, """
    """search acme:broken AcmeUser, search acme AcmeUser, status acme:broken, guide, find word""".split(", "),
)
def test_what_is_broken_is_said_in_the_same_words(odd: Machine, line: str) -> None:
    check_same(odd, lambda known: odd.max(*line.split(), environment=known))


def test_a_schema_before_the_first_sync_is_the_connectors_and_so_is_left_to_the_caller(odd: Machine) -> None:
    ask: Callable[[Mapping[str, str]], Answer] = lambda known: odd.max(  # noqa: E731
        "schema", "acme:idle", environment=known
    )
    assert check_same(odd, ask, by="caller").status == 0
