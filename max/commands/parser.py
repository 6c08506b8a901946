"""How a command's words are read: a parser that drops nothing in silence and names what is near.

Every error is a UsageError that says what to write instead; nothing here ends the process.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from ..errors import UnknownName, UsageError
from .console import console
from .framework import FORMATS, LEFT_OUT, TABULAR, Options
from .terminal import line_width

MAYBE_PATHS = (
    "project",
    "folder",
    "record",
    "replay",
    "fake",
    "openapi",
    "graphql",
    "set",
    "credential",
)  # of any bytes
MOST_OPTIONS = 1_000  # of a command; argparse takes the square of their number
REQUIRED = "the following arguments are required: "  # as argparse says it
NO_VALUE = ": expected one argument"  # the same
TOGETHER = ": not allowed with argument "
FILTER = "--filter"
OPERATOR = r"[=<>~!]|\b(?:AND|OR|NOT|IN|IS|HAS)\b"  # what a word that is a filter has


class MissingWord(UsageError):
    """A command needs more words than it was given."""


class StoreOnce(argparse.Action):
    """Stores a value, as argparse does, and refuses a second one: dropping the first would be silent."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Store ``values``; UsageError when the option, or another that sets the same, was given before."""
        given: set[str] = vars(namespace).setdefault("given", set())
        if option_string is not None and self.dest in given:
            raise UsageError(f"{option_string} is given twice", hint="leave one of them out")
        given.add(self.dest)
        setattr(namespace, self.dest, self.const if self.nargs == 0 else values)


class StoreConstantOnce(StoreOnce):
    """The same for an option without a value."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **more)


class JoinWithComma(argparse.Action):
    """Several lists with commas, of one option given several times, as one such list."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Add ``values`` behind those that were given before."""
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is None else f"{before},{values}")


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError instead of ending the process, and names the nearest option.

    An option that is given twice is refused, unless its values add up: nothing is dropped in silence.
    """

    answers_rows = False  # whether the command can answer in the formats of rows
    after_target: Sequence[str] = ()  # the words after an installation that may be left out

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name in (None, "store"):
            self.register("action", name, StoreOnce)
        self.register("action", "store_const", StoreConstantOnce)
        self.register("action", "store_true", partial(StoreConstantOnce, const=True, default=False))

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message in our words, with the way to the command's help."""
        hint = f"see: {self.prog} --help"
        if message.startswith(REQUIRED):
            raise MissingWord(f"required: {message.removeprefix(REQUIRED)}", hint=hint)
        message = message.removeprefix("argument ")
        if message.endswith(NO_VALUE):
            message = f"{message.removesuffix(NO_VALUE)} needs a value"
        elif TOGETHER in message:
            message = f"{message.replace(TOGETHER, ' and ')} cannot be combined"
        raise UsageError(message, hint=hint)

    def read(self, words: Sequence[str]) -> Options:
        """Parse all words; UnknownName for an option that does not exist."""
        if sum(word.startswith("-") for word in words) > MOST_OPTIONS:
            self.error(f"more than {MOST_OPTIONS:,} options")
        words = self._with_values(words)
        try:
            options, rest = self.parse_known_args(words, Options())
        except MissingWord:
            if not self.after_target:
                raise
            options, rest = self.parse_known_args([LEFT_OUT, *words], Options())
        options.after_target = self.after_target
        for word in rest:
            if word.startswith("-") and word != "-":
                raise UnknownName(
                    "option", word.partition("=")[0], self._option_string_actions, where=self.prog
                )
        if rest:
            self._refuse(rest[0])
        for name, value in vars(options).items():
            if name not in MAYBE_PATHS:
                self._check_text(value)
        options.output = options.output or default_format(self)
        return options

    def _refuse(self, word: str) -> NoReturn:
        """UsageError for a word too many; one that looks like a filter is written behind its option."""
        if FILTER in self._option_string_actions and re.search(OPERATOR, word):
            from shlex import quote  # slow, and seldom needed

            raise UsageError(f"unexpected {word!r}", hint=f"a filter is written as: {FILTER} {quote(word)}")
        self.error(f"unexpected {word!r}")

    def _with_values(self, words: Sequence[str]) -> list[str]:
        """``--order-by -due_date`` as one word: argparse takes no value that begins with a dash."""
        joined: list[str] = []
        known = self._option_string_actions
        for word in words:
            dash = word.startswith("-") and len(word) > 1 and not word.startswith("--") and word not in known
            if dash and joined and joined[-1] in known and known[joined[-1]].nargs is None:
                joined[-1] += f"={word}" if joined[-1].startswith("--") else word
            else:
                joined.append(word)
        return joined

    def _check_text(self, value: object) -> None:
        """UsageError when bytes of a word, or of one of several, are not UTF-8."""
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and (shown := word.encode("utf-8", "backslashreplace").decode()) != word:
                self.error(f"{shown} is not UTF-8 text")

    def add_target(self, *, optional: bool = False, before: Sequence[str] = ()) -> None:
        """Take the installation as the first word.

        ``before`` names the words after it, where it may be left out because only one is connected.
        """
        self.after_target = before
        about = "connector:name, connector if it has only one, or the beginning of the id"
        self.add_argument("target", nargs="?" if optional else None, metavar="INSTALLATION", help=about)

    def add_filter(self) -> None:
        """Take ``--filter``."""
        about = "only rows that match, such as 'updated_at > -7d'; of several, all must"
        self.add_argument("--filter", action="append", metavar="TEXT", help=about)

    def add_fields(self) -> None:
        """Take ``--fields``."""
        self.add_list("--fields", "FIELD,…", "only these fields, in this order")

    def add_list(self, option: str, metavar: str, about: str) -> None:
        """Take an option with a list in which commas separate; given several times, the lists add up."""
        self.add_argument(option, action=JoinWithComma, metavar=metavar, help=about)

    def add_limit(self, about: str, default: int | None = None) -> None:
        """Take ``--limit``."""
        self.add_argument("--limit", type=at_least_one, default=default, metavar="N", help=about)

    def add_examples(self, *lines: str) -> None:
        """Show examples at the end of the help."""
        self.epilog = "\n".join(["examples:", *(f"  {line}".rstrip() for line in lines)])


def command_parser(command: str, summary: str, configure: Callable[[Parser], None]) -> Parser:
    """The parser of a command: ``configure`` adds its own options to those that every command has."""
    parser = Parser(
        prog=f"max {command}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=min(line_width() or 100, 100)),
        allow_abbrev=False,
    )
    configure(parser)
    parser.add_argument("-C", "--project", metavar="DIR", help="use the project of this folder")
    formats = FORMATS if parser.answers_rows else [one for one in FORMATS if one not in TABULAR]
    parser.add_argument(
        "-o",
        "--output",
        type=partial(output_format, parser),
        metavar="FORMAT",
        help=f"{', '.join(formats[:-1])} or {formats[-1]} (default: $MAX_OUTPUT, else text)",
    )
    parser.add_argument(
        "--json", dest="output", action="store_const", const="json", help="the same as -o json"
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="no progress and no hints; warnings and errors remain"
    )
    parser.add_argument(
        "--direct", action="store_true", help="do not ask the daemon of the project, if it has one"
    )
    return parser


def output_format(parser: Parser, text: str) -> str:
    """One of the formats that the parser's command has."""
    if text not in FORMATS:
        raise UnknownName("output format", text, FORMATS)
    if text in TABULAR and not parser.answers_rows:
        raise UsageError(f"{parser.prog} answers no rows, which {text} needs", hint="use -o text or -o json")
    return text


def default_format(parser: Parser) -> str:
    """What ``MAX_OUTPUT`` says, where the command has that format; else text."""
    text = console().environment.get("MAX_OUTPUT", "")
    if text and text not in FORMATS:
        raise UnknownName("output format", text, FORMATS, where="MAX_OUTPUT")
    return text if text and (parser.answers_rows or text not in TABULAR) else "text"


def at_least_one(text: str) -> int:
    """A positive count."""
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text[:18]) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count from 1 to 1,000,000")
    return int(text)
