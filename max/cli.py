"""The command line's door: help, version, where output goes, and with which status it ends.

Rule 1: data goes to stdout; progress, questions, hints and errors go to stderr.

Rule 2: this module prints, and nothing else does.  A handler (commands.py) turns words into
an Answer; what it raises is rendered here, as JSON when JSON was asked for.

Rule 3: what is not needed is not imported.  ``--version`` and the overview need no parser,
and a command builds its own parser alone.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # importing typing costs as much as the interpreter itself
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn, TextIO

    from .commands.framework import Answer
    from .errors import MaxError

INTERRUPTED = 130

GROUPS = {
    "Set up": ("init", "connect", "settings", "disconnect", "ls"),
    "Copy": ("sync", "status", "runs", "pause", "resume", "cancel", "invalidate", "migrate"),
    "Ask": ("search", "get", "count", "changes", "freshness", "schema", "schema diff", "quarantine"),
}
COMMANDS = {  # in which module, and what it does
    "init": ("setup", "make a project in a folder"),
    "connect": ("connect", "connect a source: answer its questions, store its secrets"),
    "settings": ("setup", "show or change how an installation's data is kept"),
    "disconnect": ("connect", "remove an installation and its data"),
    "ls": ("setup", "list installations"),
    "sync": ("sync", "copy what changed into the installation's database"),
    "status": ("status", "tell when each installation was synced, and what it holds"),
    "runs": ("status", "list past syncs, or show one with its failures"),
    "pause": ("sync", "pause a running sync, from any terminal"),
    "resume": ("sync", "go on with a sync that was paused or interrupted"),
    "cancel": ("sync", "end a sync; what it stored stays"),
    "invalidate": ("freshness", "mark what is stored as stale, so that the next sync asks for it again"),
    "migrate": ("migrate", "bring stored data to what the connector declares now; --plan only tells"),
    "search": ("query", "find entities by filter, order and page"),
    "get": ("query", "show one entity"),
    "count": ("query", "count entities"),
    "changes": ("changes", "tell what changed in the rows, and when"),
    "freshness": ("freshness", "tell how old each field is, and how long ago what was listed"),
    "schema": ("status", "show entities, fields and relationships"),
    "schema diff": ("migrate", "compare what is stored with what the connector declares now"),
    "quarantine": ("migrate", "show rows that were kept aside because they do not fit"),
}
EXAMPLES = """\
Begin here (no account and no network needed)
  max sync acme:default
  max search acme:default AcmeUser --filter 'active = true AND name ~= "an"'

Options before any command
  -C, --project DIR   use the project of that folder instead of the current one
  --version           print the version
  --help              print this; `max COMMAND --help` explains one command"""


def overview() -> str:
    """What ``max --help`` prints."""
    lines = ["max: your own copy of the SaaS data you work with", "", "  max [-C DIR] COMMAND …", ""]
    for group, names in GROUPS.items():
        lines += [group, *(f"  {name:<12}{COMMANDS[name][1]}" for name in names), ""]
    return "\n".join([*lines, EXAMPLES])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 failed, 2 usage, 3 partial, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        status = run(words)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough, as in `max search … | head`
        silence(sys.stdout)
        return 0
    return status


def run(words: list[str]) -> int:
    """Answer the commands that need no parser, hand on the others."""
    if not words or words[0] in ("--help", "-h", "help"):
        if words[1:2] and words[1] in COMMANDS:
            return guarded([*words[1:], "--help"])
        print(overview())
        return 0
    if words[0] in ("--version", "-V"):
        from . import __version__

        print(f"max {__version__}")
        return 0
    return guarded(words)


def guarded(words: list[str]) -> int:
    """Run a command; an error becomes its message and its status."""
    from .errors import MaxError, StorageError

    tolerant(sys.stdout)
    try:
        return say(perform(words))
    except MaxError as error:
        complain(error, as_json=wants_json(words))
        return error.exit_status
    except KeyboardInterrupt:
        print("\ninterrupted" if sys.stderr.isatty() else "interrupted", file=sys.stderr)  # after the ^C
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        complain(StorageError(f"{where}{error.strerror or error}"), as_json=wants_json(words))
        return 1


def perform(words: list[str]) -> Answer:
    """Find the command, parse its words, and call its handler."""
    project, words = leading_project(words)
    if not words or words[0] not in COMMANDS:
        refuse(words)
    from importlib import import_module

    from .commands.framework import parse

    size = 2 if " ".join(words[:2]) in COMMANDS else 1
    command = " ".join(words[:size])
    module, summary = COMMANDS[command]
    configure = getattr(import_module(f".commands.{module}", __package__), configurer(command))
    options = parse(command, words[size:], summary, configure)
    options.project = options.project or project or "."
    answer: Answer = options.run(options)
    return answer


def configurer(command: str) -> str:
    """The name of the function that says which words a command takes."""
    return f"configure_{command.replace(' ', '_')}"


def refuse(words: list[str]) -> NoReturn:
    """Say why the first word is no command."""
    from .errors import UnknownName, UsageError

    if not words:
        raise UsageError("no command is given", hint="max --help lists them")
    if words[0].startswith("-"):
        raise UnknownName("option", words[0], ["--project", "--version", "--help"])
    raise UnknownName("command", words[0], COMMANDS)


def leading_project(words: list[str]) -> tuple[str | None, list[str]]:
    """Take ``-C DIR`` from before the command."""
    head = words[0] if words else ""
    if head in ("-C", "--project"):
        return ("".join(words[1:2]) or None), words[2:]
    if head.startswith("--project="):
        return head.partition("=")[2], words[1:]
    if head.startswith("-C"):
        return head[2:], words[1:]
    return None, words


def wants_json(words: Sequence[str]) -> bool:
    """Whether the words ask for JSON, even if they cannot be parsed."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    return any(
        word in ("--json", "-ojson", "-ondjson", "--output=json", "--output=ndjson")
        or (word in ("-o", "--output") and value in ("json", "ndjson"))
        for word, value in pairs
    )


# -- output ----------------------------------------------------------------------------------


def say(answer: Answer) -> int:
    """Print an answer as it comes, then what to do next; its status."""
    lines = iter(answer.lines)
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    finally:
        close = getattr(lines, "close", None)  # a generator holds the database open
        if close:
            close()
    for note in answer.notes:
        print(note, file=sys.stderr)
    return answer.status


def complain(error: MaxError, *, as_json: bool) -> None:
    """Print an error where errors go."""
    from .commands.terminal import colours
    from .commands.text import Paint, compact, harmless

    if as_json:
        print(compact({"error": error.describe()}), file=sys.stderr)
        return
    paint = Paint(colours(sys.stderr))
    first, *more = map(harmless, error.render().splitlines())
    print("\n".join([f"{paint('max:', 'red')} {first}", *more]), file=sys.stderr)


def tolerant(stream: TextIO) -> None:
    """Have what the terminal's encoding cannot show replaced, not refused."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="replace")


def silence(stream: TextIO) -> None:
    """Let nothing more be written, so that the interpreter's last flush stays quiet."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)
