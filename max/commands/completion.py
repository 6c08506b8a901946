"""completion: the scripts for shells, and the words that they offer.

Rule 1: a script knows nothing of Max but the hidden ``max __complete``; it is made once, and stays
right when commands, installations and entities change.

Rule 2: what a word may be is read from the parser of its command: an argument's metavar says whether it
is an INSTALLATION, an ENTITY, FIELDs or a FORMAT.

Rule 3: completing writes nothing, and never fails aloud: whatever is wrong, nothing is offered.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..errors import MaxError, UnknownName
from .console import console
from .framework import FORMATS, Answer, Options
from .parser import Parser

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.entities import Entity, FieldType
    from ..projects.manager import ProjectManager
    from ..query.reader import Reader

ParserOf = Callable[[str], Parser]

SCRIPTS = {
    "bash": r"""# Completion of max for bash: source <(max completion bash)
_max_complete() {
    local word
    COMPREPLY=()
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(
        max __complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null
    )
    [[ ${COMPREPLY[0]} == *[=:.\(] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o bashdefault -o default -F _max_complete max""",
    "zsh": r"""#compdef max
# Completion of max for zsh: source <(max completion zsh), after compinit
_max() {
    local -a found
    found=("${(@f)$(max __complete zsh "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    if [[ -n ${found[1]} ]]; then
        [[ ${found[1]} == *[=:.\(] ]] && compadd -S '' -a found || compadd -a found
    else
        _files
    fi
}
compdef _max max""",
    "fish": r"""# Completion of max for fish: max completion fish | source
complete -c max -f -a '(max __complete fish (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
for option in to record replay file project
    complete -c max -l $option -r -F
end""",
}
FEW = 12  # different values of a field that are offered
OPERATORS = {"text": ("=", "!=", "~=", "^="), "boolean": ("=",), "ref": ("=", "!="), "json": ("HAS",)}
ORDERED = ("=", "!=", "<", "<=", ">", ">=")
AFTER_VALUE = ("AND", "OR")
BARE = re.compile(r"[\w.@+-]+")  # a value that a filter takes without quotes
LAST = re.compile(
    r"(?P<before>.*?)(?P<word>\"[^\"]*|[\w.@+-]*)", re.DOTALL
)  # of a filter that is being typed
COMPARED = re.compile(r"([\w.]+)\s*(?:=|!=|~=|\^=|<=?|>=?|\bHAS\b|\bIN\s*\((?:[^()]*,)?)\s*$")


def configure_completion(parser: Parser) -> None:
    """``max completion SHELL``."""
    parser.add_argument("shell", metavar="SHELL", help=", ".join(SCRIPTS))
    parser.add_examples(
        "max completion bash >> ~/.bashrc",
        "max completion zsh >> ~/.zshrc     (after compinit)",
        "max completion fish > ~/.config/fish/completions/max.fish",
    )


def run_completion(options: Options) -> Answer:
    """Print the script of a shell."""
    if options.shell not in SCRIPTS:
        raise UnknownName("shell", options.shell, SCRIPTS)
    script = SCRIPTS[options.shell]
    return options.answer({"shell": options.shell, "script": script}, script.splitlines)


# -- what the hidden command answers -----------------------------------------------------------------


def completed(words: Sequence[str], commands: Iterable[str], parser_of: ParserOf) -> list[str]:
    """What ``max __complete SHELL …`` prints: for bash of its line, for the others of their words.

    Nothing when something is wrong: an error would be printed into the line that is being typed.
    """
    with suppress(Exception):
        shell, *rest = words
        if shell != "bash":
            return candidates(rest, commands, parser_of)
        line, breaks = rest
        typed, quote = split(line)
        found = candidates(typed[1:], commands, parser_of)
        return [one for word in found if (one := for_bash(word, typed[-1], quote, breaks)) is not None]
    return []


def split(line: str) -> tuple[list[str], str]:
    """The words of a line for bash up to the cursor, unquoted; the last one's open quote, or ""."""
    words, quote, begun, escaped = [""], "", False, False
    for character in line:
        if escaped:
            words[-1] += character
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = begun = True
        elif quote:
            words[-1] += "" if character == quote else character
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote, begun = character, True
        elif character.isspace():
            if begun or words[-1]:
                words.append("")
            begun = False
        else:
            words[-1] += character
    return words, quote


def for_bash(word: str, typed: str, quote: str, breaks: str) -> str | None:
    """A candidate as bash inserts it: without what it takes for a word of its own, and quoted.

    None when that cannot be written inside of the open quote.
    """
    if quote:
        return None if quote in word else word
    place = max((typed.rfind(one) for one in breaks if not one.isspace()), default=-1) + 1
    return re.sub(r"([^\w@%+=:,./-])", r"\\\1", word[place:])


def candidates(words: Sequence[str], commands: Iterable[str], parser_of: ParserOf) -> list[str]:
    """What the last word may become, after the words before it."""
    line = _Line(words, list(commands), parser_of)
    return [one for one in line.offered() if one.startswith(line.current) and one != line.current]


class _Line:
    """A command line up to the word that is being typed."""

    def __init__(self, words: Sequence[str], commands: Sequence[str], parser_of: ParserOf) -> None:
        *self.before, self.current = words
        self.commands, self.folder = commands, "."
        command, rest = self._command()
        self.parser = parser_of(command) if command else None
        self.known: Mapping[str, argparse.Action] = self.parser._option_string_actions if self.parser else {}
        self.values: dict[str, str] = {}  # of options, by dest
        self.positional = list(self._positional(rest))
        self.folder = self.values.get("project", self.folder)

    def _command(self) -> tuple[str, list[str]]:
        """The command, or "" while it is being typed; and the words behind it."""
        words = list(self.before)
        while words and words[0].startswith("-"):
            option = words.pop(0)
            if option in ("-C", "--project", "-o", "--output") and words:
                value = words.pop(0)
                self.folder = value if option in ("-C", "--project") else self.folder
        size = 2 if " ".join(words[:2]) in self.commands else 1
        command = " ".join(words[:size])
        return (command, words[size:]) if command in self.commands else ("", words)

    def _positional(self, words: Iterable[str]) -> Iterator[str]:
        """The words that belong to no option; the options' values are noted."""
        each = iter(words)
        for word in each:
            option, equals, value = word.partition("=")
            action = self.known.get(option)
            if action is None:
                yield word
            elif action.nargs is None:
                self.values[action.dest] = value if equals else next(each, "")

    def offered(self) -> Iterable[str]:
        """Everything that the word may be, as far as it is known."""
        last = self.before[-1] if self.before else ""
        if self.parser is None:
            return self._before_command(last)
        if last in self.known and self.known[last].nargs is None:
            return self._values(self.known[last], self.current)
        option, equals, value = self.current.partition("=")
        if equals and option in self.known:
            return [f"{option}={one}" for one in self._values(self.known[option], value)]
        if self.current.startswith("-"):
            return [one for one in self.known if one.startswith("--")]
        return self._words()

    # -- words and values, by what the parser calls them

    def _before_command(self, last: str) -> Iterable[str]:
        """What may be where no command was named yet; nothing behind a word that is none."""
        if last in ("-o", "--output"):
            return FORMATS
        if last in ("-C", "--project"):
            return ()
        if self.positional:
            word, names = " ".join([*self.positional, ""]), self.commands
            return [one.removeprefix(word) for one in names if one.startswith(word)]
        return [*dict.fromkeys(one.partition(" ")[0] for one in self.commands), "--help", "--version"]

    def _words(self) -> Iterator[str]:
        """What the next positional word may be."""
        actions = self.parser._get_positional_actions() if self.parser else []
        places = [len(self.positional) + self._shifted()]
        if not self.positional and self.parser and self.parser.after_target and self._only_installation():
            places.append(1)  # the installation may be left out
        for place in places:
            if place >= len(actions) and actions and actions[-1].nargs in ("*", "+"):
                place = len(actions) - 1
            if place < len(actions):
                yield from self._values(actions[place], self.current)

    def _shifted(self) -> bool:
        """Whether the installation was left out, because there is only one."""
        left_out = self.parser and self.parser.after_target and self.positional
        if not (left_out and self._only_installation()):
            return False
        try:
            self._project().target(self.positional[0])
        except UnknownName:
            return True
        return False

    def _values(self, action: argparse.Action, typed: str) -> Iterable[str]:
        """What the value of an argument may be."""
        name = str(action.metavar or "")
        if name == "SHELL":
            return SCRIPTS
        if action.dest == "filter":
            return self._filter(typed)
        if "INSTALLATION" in name:
            return _after_comma(typed, map(str, self._project().installations()))
        if "CONNECTOR" in name:
            return self._project().registry.names()
        if "ENTITY" in name:
            return _after_comma(typed, self._entities(typed.rpartition(",")[2], fields="FIELD" in name))
        if "FIELD" in name or "COLUMN" in name:
            return _after_comma(typed, self._fields(typed.rpartition(",")[2], action.dest))
        if name == "FORMAT":
            return FORMATS
        if name == "SETTING=VALUE":
            from ..model.settings import SETTINGS

            return [f"{one}=" for one in SETTINGS]
        return ()

    # -- the project and its data

    def _project(self) -> ProjectManager:
        return console().find_project(self.folder)

    def _only_installation(self) -> InstallationInfo | None:
        known = self._project().installations()
        return known[0] if len(known) == 1 else None

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        """A Reader of the installation that the line names, or of the only one."""
        from ..query.reader import open_reader

        project = self._project()
        info = None
        if self.positional:
            with suppress(MaxError):
                info = project.target(self.positional[0])
        info = info or self._only_installation()
        if info is None:
            raise UnknownName("installation", "", [])
        with open_reader(project.database(info), info) as reader:
            yield reader

    def _entities(self, typed: str, *, fields: bool) -> Iterator[str]:
        """Entities; behind a dot the fields of one."""
        with self._reader() as reader:
            entity, dot, path = typed.partition(".")
            if dot and fields:
                yield from (f"{entity}.{one}" for one in _paths(reader.entity(entity), path))
            else:
                yield from reader.schema.entities

    def _fields(self, typed: str, dest: str) -> Iterator[str]:
        """Fields of the entity that the line names, through refs; orders and units behind them."""
        sign = "-" if dest == "order_by" and typed.startswith("-") else ""
        with self._reader() as reader:
            path, colon, _ = typed.removeprefix(sign).partition(":")
            if not colon:
                yield from (f"{sign}{one}" for one in _paths(self._entity(reader), path))
            elif dest == "by":
                from ..model.aggregate import UNITS

                yield from (f"{path}:{one}" for one in UNITS)
            elif dest == "order_by":
                yield from (f"{path}:{one}" for one in ("asc", "desc"))

    def _entity(self, reader: Reader) -> type[Entity]:
        """The entity that the line names."""
        named = self.values.get("entity", "").split(",")
        for word in [*self.positional, *named]:
            with suppress(UnknownName):
                return reader.entity(word.partition(".")[0].partition(":")[0])
        raise UnknownName("entity", "", reader.schema.entities)

    def _filter(self, typed: str) -> Iterator[str]:
        """How a filter may go on: fields, operators, values of a field that has few, AND and OR."""
        found = LAST.fullmatch(typed)
        if found is None:
            return
        before, word = found["before"], found["word"]
        with self._reader() as reader:
            entity = self._entity(reader)
            words = before.split()
            compared = COMPARED.search(before)
            if not words or words[-1] in KEYWORDS or (words[-1].endswith("(") and not compared):
                yield from (before + one for one in [*_paths(entity, word), "NOT "])
            elif compared:
                yield from (before + one for one in _few_values(reader, entity, compared[1]))
            elif (holds := _holds(entity, words[-1])) is not None:
                yield from (before + one for one in _operators(holds))
            else:
                yield from (before + one for one in AFTER_VALUE)


KEYWORDS = frozenset({*AFTER_VALUE, "NOT"})


def _after_comma(typed: str, words: Iterable[str]) -> list[str]:
    """The words behind those that a list has already."""
    before, comma, _ = typed.rpartition(",")
    return [f"{before}{comma}{one}" for one in words]


def _paths(entity: type[Entity], typed: str) -> Iterator[str]:
    """The fields behind the refs that are written already; a ref also with a dot."""
    *steps, _ = typed.split(".")
    for step in steps:
        holds = _holds(entity, step)
        if holds is None or holds.target is None:
            return
        entity = holds.target
    lead = "".join(f"{step}." for step in steps)
    yield f"{lead}id"
    yield from (f"{lead}{name}" for name in entity.types())


def _holds(entity: type[Entity], path: str) -> FieldType | None:
    """The type of a field behind refs."""
    holds = None
    for step in path.split("."):
        holds = entity.types().get(step)
        if holds is None:
            return None
        entity = holds.target or entity
    return holds


def _operators(holds: FieldType) -> Iterator[str]:
    """The operators that a field takes."""
    kind = "ref" if holds.target else str(holds.kind)
    yield from OPERATORS.get(kind, ORDERED)
    yield from ("IN (", "IS NULL", "IS NOT NULL")


def _few_values(reader: Reader, entity: type[Entity], path: str) -> Iterator[str]:
    """The values of a field that has few, as a filter writes them."""
    holds = _holds(entity, path)
    if holds is None or str(holds.kind) not in ("text", "boolean", "json"):
        return
    groups: Any = reader.values(entity, path, limit=FEW + 1)
    values = [value for value in groups if value is not None]
    for value in values if len(values) <= FEW else ():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if '"' not in text and "\\" not in text:
            yield text if BARE.fullmatch(text) else f'"{text}"'
