"""The command line: it finds the command, prints its answer and returns the exit status.

Rule 1: data goes to stdout; progress, questions, hints and errors go to stderr.

Rule 2: only this module prints.  A handler (``commands/``) turns options into an Answer; an
error that it raises is printed here, as JSON when JSON was asked for.

Rule 3: only what a command needs is imported.  ``--version`` and the overview need no parser,
and a command builds its own parser alone.
"""

from __future__ import annotations

import gc
import os
import sys

from .commands import streams
from .commands.console import console

TYPE_CHECKING = False  # importing typing costs as much as the interpreter itself
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import NoReturn

    from .commands.framework import Answer, Options
    from .commands.parser import Parser
    from .errors import LoaderFault

INTERRUPTED = 130
LASTING = 20_000  # objects that a short command makes; they last as long as it, so looking for cycles is vain
AS_JSON = ("json", "ndjson")  # the formats in which errors are JSON
LEADING = ("--project", "--output", "--json", "--quiet", "--direct")  # may come before the command
ATTACHED = ("-C", "--project=", "-o", "--output=")  # how an option begins that holds its value

# By name: the group in the overview, the module below commands/ (or its path), and a summary.  The module
# has ``configure_NAME``, which adds the command's options, and ``run_NAME``, which answers.
COMMANDS = {
    "init": ("Set up", "setup", "create a project in a folder"),
    "connect": ("Set up", "connect", "connect a source: answer its questions, store its secrets"),
    "settings": ("Set up", "setup", "show or change how an installation's data is kept"),
    "disconnect": ("Set up", "connect", "remove an installation and its data"),
    "move": ("Set up", "move", "move installations into a database, or back into files"),
    "ls": ("Set up", "setup", "list installations"),
    "completion": ("Set up", "completion", "print a script that completes words in bash, zsh or fish"),
    "audit": ("Set up", "audit", "show who changed what, and who read secrets"),
    "audit prune": ("Set up", "audit", "remove its old rows, once they are copied into a file"),
    "trust": ("Set up", "trust", "allow the connectors that a project brings along to run"),
    "keys new": ("Set up", "keys", "print a new key, which seals the secrets of a project in a database"),
    "keys rotate": ("Set up", "keys", "seal those secrets with a new key"),
    "sync": ("Sync", "sync", "copy what changed into the installation's database"),
    "schedule": ("Sync", "schedule", "sync installations by themselves, again and again"),
    "worker": ("Sync", "worker", "do the syncs of a project in Postgres, beside other hosts"),
    "status": ("Sync", "status", "show when each installation was synced, and what it holds"),
    "runs": ("Sync", "status", "list past syncs, or show one with its failures"),
    "health": ("Sync", "health", "say how installations are, for people and for monitors"),
    "doctor": ("Sync", "doctor", "say whether machine, project and databases are sound"),
    "watch": ("Sync", "watch", "follow what happens: syncs, waits, failures, schedules"),
    "pause": ("Sync", "sync", "pause a running sync, from any terminal"),
    "resume": ("Sync", "sync", "continue a sync that was paused or interrupted"),
    "cancel": ("Sync", "sync", "end a sync; the rows that it stored stay"),
    "invalidate": ("Sync", "freshness", "mark stored values as stale: the next sync fetches them again"),
    "migrate": ("Sync", "migrate", "bring stored data to what the connector declares now"),
    "search": ("Query", "query", "find entities by filter, order and page"),
    "get": ("Query", "query", "show one entity"),
    "find": ("Query", "find", "find rows by their words, in all installations"),
    "count": ("Query", "aggregate", "count entities, also in groups, with sums and extremes"),
    "values": ("Query", "aggregate", "show the different values of a field, and how often each is there"),
    "sql": ("Query", "sql", "answer SELECT statements over the data"),
    "path": ("Query", "sql", "print the file with the data, for other tools"),
    "export": ("Query", "export", "write rows into files: CSV, JSON, SQLite, Parquet and others"),
    "changes": ("Query", "changes", "show what changed in the rows, and when"),
    "freshness": ("Query", "freshness", "show how old each field is, and when each collection was listed"),
    "schema": ("Query", "status", "show entities, fields and relationships"),
    "schema diff": ("Query", "migrate", "compare stored data with what the connector declares now"),
    "llm-bootstrap": ("Query", "guide", "print what an agent should know of this project, in 4 KB"),
    "guide": ("Query", "guide", "the same as llm-bootstrap"),
    "mcp": ("Query", "mcp", "answer an agent's questions over the Model Context Protocol"),
    "serve": ("Query", "serve", "answer programs over HTTP"),
    "quarantine": ("Query", "migrate", "show invalid rows, which were kept aside"),
    "daemon start": ("Run in the background", "daemon", "start the project's daemon, which keeps it warm"),
    "daemon stop": ("Run in the background", "daemon", "stop it: its syncs pause"),
    "daemon restart": ("Run in the background", "daemon", "stop and start it"),
    "daemon status": ("Run in the background", "daemon", "say whether it runs, and what it does"),
    "daemon list": ("Run in the background", "daemon", "list the daemons of this machine"),
    "daemon logs": ("Run in the background", "daemon", "show what it logged"),
    "daemon run": ("Run in the background", "daemon", "be the daemon, in the foreground"),
    "daemon enable": ("Run in the background", "daemon", "allow it to start again"),
    "daemon disable": ("Run in the background", "daemon", "stop it, and let it not start"),
    "daemon install": ("Run in the background", "daemon", "start it at each login"),
    "daemon uninstall": ("Run in the background", "daemon", "start it at login no more"),
    "connector new": (
        "Write connectors",
        "connector_new",
        "begin a connector, from answers or a description",
    ),
    "connector check": ("Write connectors", "connector_check", "say what is wrong with a connector"),
    "connector test": ("Write connectors", "testing.command", "try a connector against a fake service"),
}
# Commands that read, and leave everything as it is: a daemon that is running may answer them.
FORWARDED = frozenset(
    "audit changes count find freshness get guide health llm-bootstrap ls path quarantine runs schema search"
    " sql status values".split()
)
HERE = frozenset(["--direct", "-h", "--help"])  # options with which this process answers
ALONE = "all commands: max --help"
EXAMPLES = """\
Start here (needs no account and no network)
  max sync acme:default
  max search acme:default AcmeUser --filter 'active = true AND name ~= "an"'

Options of every command, before or after its name
  -C, --project DIR   use the project of this folder instead of the current one
  -o, --output FORMAT text, json or ndjson; csv, tsv or markdown where the answer has rows
                      (MAX_OUTPUT=json makes it the default); --json is -o json
  -q, --quiet         no progress and no hints; warnings and errors remain
  --direct            do not ask the daemon of the project, if it has one (as with MAX_DAEMON=0)
  --version           print the version
  --help              print this; `max COMMAND --help` explains one command"""


def overview() -> str:
    """The text of ``max --help``."""
    lines = ["max: your own copy of the SaaS data you work with", "", "  max [-C DIR] [-o FORMAT] COMMAND …"]
    shown = ""
    for name, (group, _, summary) in COMMANDS.items():
        lines += [] if group == shown else ["", group]
        lines.append(f"  {name:<18}{summary}")
        shown = group
    return "\n".join([*lines, "", EXAMPLES])


def overview_of(word: str) -> str:
    """The text of ``max connector --help``: the commands that begin with a word; empty without any."""
    found = {name: summary for name, (_, _, summary) in COMMANDS.items() if name.startswith(f"{word} ")}
    lines = [f"  {name:<18}{summary}" for name, summary in found.items()]
    return "\n".join([*lines, "", "`max COMMAND --help` explains one command"]) if found else ""


def names_command(words: Sequence[str]) -> bool:
    """Whether words begin with a command, or with the first word of some."""
    one = " ".join(words[:1])
    return bool(COMMANDS.keys() & {one, " ".join(words[:2])} or overview_of(one))


def help_of(command: str) -> str:
    """What a command, or each of those that begin with a word, is for; empty for any other word."""
    if command in COMMANDS:
        return found_command(command)[1].format_help().rstrip("\n")
    return overview_of(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 failed, 2 usage, 3 partial, 130 or 143 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    streams.prepare(as_json=wants_json(words, os.environ.get("MAX_OUTPUT")))
    return reported(words, forwarded_or_direct)


def answer_words(words: list[str]) -> int:
    """Run one command in this process and print its answer, or its error, to its console; the exit status."""
    return reported(words, direct)


def reported(words: list[str], run: Callable[[list[str]], int]) -> int:
    """The exit status that ``run`` gives for a command, or that of its error, which is printed."""
    as_json = wants_json(words, console().environment.get("MAX_OUTPUT"))
    try:
        return run(words)
    except KeyboardInterrupt:
        after = "\n" if console().stderr.isatty() else ""  # the terminal shows ^C
        streams.tell(console().stderr, f"{after}interrupted\n")
        return INTERRUPTED
    except SystemExit as error:  # of a connector, outside of its loaders: with status 0 it would look fine
        return print_error(connector_exited(error), as_json=as_json)
    except Exception as error:
        return print_error(error, as_json=as_json)


def direct(words: list[str]) -> int:
    """Run one command in this process and print its answer; the exit status."""
    lines, notes, status = perform(words)
    console().expect_status(status)
    try:
        print_answer(lines, notes)
    except streams.OutputFailed as error:
        if not error.reader_left:
            error.status = status
            raise
    return status


def forwarded_or_direct(words: list[str]) -> int:
    """The same, by the daemon of the project when one is running and the command is one that it answers."""
    status = None
    if is_forwarded(words):
        from .commands.forward import ask_daemon

        status = ask_daemon(words, named_folder(words))
    return direct(words) if status is None else status


def is_forwarded(words: list[str]) -> bool:
    """Whether the daemon may answer: a command that reads, or none, and nothing that says otherwise."""
    if HERE & set(words) or os.environ.get("MAX_DAEMON") == "0":
        return False
    command = command_and_rest(leading_options(words)[1])[0]
    return command in FORWARDED or not command


def run() -> NoReturn:
    """``main`` as the whole of a process, which ends with its exit status."""
    gc.set_threshold(LASTING)
    status = main()
    gc.freeze()  # else Python searches everything for cycles before it ends: an eighth of a short command
    raise SystemExit(status)


def perform(words: list[str]) -> tuple[Iterable[str], Iterable[str], int]:
    """Find the command, parse its options and call its handler; what needs no parser is answered here."""
    leading, words = leading_options(words)
    alone = not words and in_project(leading)
    words = ["status"] if alone else words
    if not [*leading, *words] or words[:1] in (["--help"], ["-h"], ["help"]):
        if not names_command(words[1:]):
            return [overview()], [], 0
        words = [*words[1:], "--help"]
    if words[:1] in (["--version"], ["-V"], ["__complete"]):
        return without_parser(words), [], 0
    command, words = command_and_rest(words)
    if {"-h", "--help"} & set(words) and (text := help_of(command)):
        return [text], [], 0
    if command not in COMMANDS:
        refuse([*filter(None, [command]), *words])
    run, parser = found_command(command)
    return printed(run, parser, command, [*leading, *words], [ALONE] if alone else [])


def command_and_rest(words: list[str]) -> tuple[str, list[str]]:
    """The command that words begin with, of one word or two, and the words behind it."""
    size = 2 if " ".join(words[:2]) in COMMANDS else 1
    return " ".join(words[:size]), words[size:]


def without_parser(words: Sequence[str]) -> Iterable[str]:
    """The version, or what a word of the command line may be."""
    if words[0] == "__complete":
        from .commands.completion import completed

        return completed(words[1:], COMMANDS, lambda command: found_command(command)[1])
    from . import __version__

    return [f"max {__version__}"]


def printed(
    run: Callable[[Options], Answer], parser: Parser, command: str, words: Sequence[str], hints: Sequence[str]
) -> tuple[Iterable[str], Iterable[str], int]:
    """The lines, the notes with the hints, and the exit status of a command that has these options."""
    from itertools import chain

    from .commands.framework import as_caller
    from .commands.text import sanitize_lines

    options = parser.read(words)
    options.project = options.project or "."
    options.given_words, options.answer_words = [*command.split(), *words], answer_words
    console().check(options)
    if COMMANDS[command][0] == "Query":  # changes nothing
        answer = run(options)
    else:
        with as_caller():
            answer = run(options)
    lines = map(sanitize_lines, answer.lines) if options.output == "text" else answer.lines
    notes = chain(answer.notes, options.warnings())  # later: an answer may add some while it is printed
    notes = chain(notes, [] if options.quiet else hints)
    return lines, map(sanitize_lines, notes), answer.status


def in_project(leading: Sequence[str]) -> bool:
    """Whether the folder that the options before the command name, or the current one, is in a project."""
    from .commands.framework import is_in_project

    return is_in_project(named_folder(leading))


def named_folder(words: Sequence[str]) -> str:
    """The folder that ``-C`` or ``--project`` names among words, else the current one."""
    folder = "."
    for word, value in zip(words, [*words[1:], ""], strict=False):
        if word in ("-C", "--project"):
            folder = value
        elif word.startswith(("-C", "--project=")):
            folder = word.removeprefix("--project=").removeprefix("-C")
    return folder or "."


def found_command(command: str) -> tuple[Callable[[Options], Answer], Parser]:
    """The handler and the parser of a command; imports its module."""
    from importlib import import_module

    from .commands.parser import command_parser

    _, home, summary = COMMANDS[command]
    module = import_module(f".{home}" if "." in home else f".commands.{home}", __package__)
    name = command.replace(" ", "_").replace("-", "_")
    return getattr(module, f"run_{name}"), command_parser(
        command, summary, getattr(module, f"configure_{name}")
    )


def refuse(words: list[str]) -> NoReturn:
    """Raise why the first word is not a command."""
    from .errors import UnknownName, UsageError

    if not words:
        raise UsageError("no command was given", hint="max --help lists them")
    if words[0].startswith("-"):
        raise UnknownName("option", words[0], [*LEADING, "--version", "--help"])
    parts = [name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{words[0]} ")]
    if parts:
        given = words[1] if words[1:] else ""
        if given and not given.startswith("-"):
            raise UnknownName(f"command of max {words[0]}", given, parts)
        raise UsageError(
            f"max {words[0]} what?", hint=f"one of: {', '.join(parts)}; max --help explains them"
        )
    raise UnknownName("command", words[0], [*COMMANDS, "--version"])


def leading_options(words: list[str]) -> tuple[list[str], list[str]]:
    """The options before the command that go with any command, and the words from the command on."""
    place = 0
    while place < len(words):
        if words[place] in ("-C", "--project", "-o", "--output"):
            place += 2
        elif words[place] in ("--json", "-q", "--quiet", "--direct") or words[place].startswith(ATTACHED):
            place += 1
        else:
            break
    return words[:place], words[place:]


def wants_json(words: Sequence[str], default: str | None) -> bool:
    """Whether errors are JSON: the words ask for it, even when they cannot be parsed, or the default does."""
    for word, value in zip(words, [*words[1:], ""], strict=False):
        if word.startswith(("-o", "--output")):
            given = value if word in ("-o", "--output") else word.removeprefix("--output=").removeprefix("-o")
            default = None  # what was given may be no format: a later word may still ask for JSON
        else:
            given = word.removeprefix("--") if word == "--json" else ""
        if given in AS_JSON:
            return True
    return default in AS_JSON


# -- output ----------------------------------------------------------------------------------


def print_answer(lines: Iterable[str], notes: Iterable[str]) -> None:
    """Print an answer line by line, then its notes; OutputFailed when stdout cannot be written."""
    lines = iter(lines)
    try:
        for line in lines:
            streams.write(f"{line}\n")
        streams.flush()
    finally:
        close = getattr(lines, "close", None)  # a generator keeps the database open
        if close:
            close()
    for note in notes:
        streams.tell(console().stderr, f"{note}\n")


def connector_exited(error: SystemExit) -> LoaderFault:
    """The error that a connector's code called ``sys.exit``."""
    from pathlib import Path
    from traceback import extract_tb

    from .errors import LoaderFault

    last = extract_tb(error.__traceback__)[-1]
    return LoaderFault(
        f"a connector ended the command with sys.exit({error.code!r}) ({Path(last.filename).name}, "
        f"line {last.lineno})",
        hint="this is a bug of the connector: it must raise an error instead; what was stored is kept",
    )


def print_error(error: Exception, *, as_json: bool) -> int:
    """Print an error on stderr; its exit status.  An error that is a bug is raised again."""
    from .commands.terminal import colours
    from .commands.text import Paint, json_text, sanitize_lines
    from .errors import MaxError, StorageError

    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        error = StorageError(f"{where}{error.strerror or error}")
    elif isinstance(error, streams.OutputFailed):
        status, error = error.status, StorageError(str(error))
        error.exit_status = status or error.exit_status
    elif isinstance(error, MemoryError) or "failed to map segment" in str(error):  # of a library
        error = StorageError("out of memory", hint="ask for less at a time: --limit, --fields, or -o ndjson")
    if not isinstance(error, MaxError):
        raise error
    paint = Paint(colours(console().stderr))
    text = sanitize_lines(f"{paint('max:', 'red')} {error.render()}")
    streams.tell(console().stderr, f"{json_text({'error': error.describe()}) if as_json else text}\n")
    return error.exit_status
