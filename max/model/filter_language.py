"""The filter language: ``state = "open" AND updated_at > -7d`` → the same tree that Python builds.

    filter     = conjunction { OR conjunction }
    conjunction = part { AND part }
    part       = NOT part | "(" filter ")" | condition
    condition  = field ( = != < <= > >= ~= ^= ) value
               | field [NOT] IN "(" value { "," value } ")"
               | list [NOT] HAS value
               | collection [ "." field ] [NOT] HAS ( value | "(" filter ")" )
               | field IS [NOT] ( NULL | LOADED )
               | _age "(" field ")" ( ( < <= > >= ) age | ( = != ) never )

Rule 1: a value takes the type of its field, quoted or not: ``007`` stays text on a text field, and
``-7d`` is a time on a time field.  Only an unquoted ``null`` is the empty value.  A time means all of
it, as periods.py says: ``= 2025-07`` is the whole of July, and becomes ``>=`` and ``<=``.

Rule 2: parsing any text gives a filter, or raises InvalidFilter with the column, or UnknownName
with the nearest fields.

Rule 3: ``_age`` is the time since a field was last fetched; a field that never was is older than
every age.  Ages and days count from ``now`` when the text is parsed, so the filter holds fixed times
and means the same whenever it runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn, cast

from ..errors import InvalidFilter, UnknownName, UsageError, brief
from .entities import REFS, E, Entity, FieldOf, FieldType, ManyOf, Ref, find_collection, find_field, path_name
from .filters import AllOf, AnyOf, Compare, Filter, Not, Op, Some, Synced
from .query import DEPTH
from .values import INTEGER_LIMIT, Kind

CONDITIONS = 500  # per filter; SQLite allows expressions 1,000 levels deep
AGES = 50  # conditions on an age; a database plans a statement with more for too long
VALUES = 10_000  # per list; SQLite allows 32,766 values in a statement

TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<quoted>"(?:[^"\\]|\\.|"")*" | '(?:[^'\\]|\\.|'')*')
      | (?P<operator>[=!<>~^&|]+)
      | (?P<mark>[(),])
      | (?P<word>[^\s"'(),=!<>~^&|]+)""",
    re.VERBOSE | re.DOTALL,
)
ESCAPE = re.compile(r"""\\(u[0-9a-fA-F]{4}|.)|""|''""", re.DOTALL)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
OPERATORS = {str(op): op for op in Op if not str(op)[0].isalpha()}
SINCE = {Op.LT: Op.GT, Op.LE: Op.GE, Op.GT: Op.LT, Op.GE: Op.LE}  # of an age, of the time it began at
TIMES = (Kind.DATETIME, Kind.DATE)
NO_NOW = "it counts from now, which where() does not know; pass now=time.time()"
FIRST = 0.0  # seconds since the epoch; no request began earlier
KEYWORDS = frozenset({"AND", "OR", "NOT", "IN", "IS"})
INSTEAD = {
    "==": "write =",
    "<>": "write !=",
    "=>": "write >=",
    "=<": "write <=",
    "=~": "write ~=",
    "&&": "write AND",
    "||": "write OR",
    "LIKE": "write ~= (contains) or ^= (starts with)",
    "ILIKE": "write ~= (contains)",
    "CONTAINS": "write ~=, or HAS for an item of a list",
    "INCLUDES": "write HAS",
    "BETWEEN": "write field >= low AND field <= high",
}
INTEGER = re.compile(r"[+-]?\d{1,20}", re.ASCII)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
ORDERED = frozenset({Kind.TEXT, Kind.INTEGER, Kind.REAL, Kind.DATETIME, Kind.DATE})
FITTING = {  # the kinds that an operator accepts; an operator that is missing here accepts all
    Op.LT: ORDERED,
    Op.LE: ORDERED,
    Op.GT: ORDERED,
    Op.GE: ORDERED,
    Op.CONTAINS: frozenset({Kind.TEXT, Kind.JSON}),
    Op.STARTS_WITH: frozenset({Kind.TEXT}),
    Op.HAS: frozenset({Kind.JSON}),
}
EXPECTED = {
    Kind.INTEGER: "an integer of at most 64 bits",
    Kind.REAL: "a number",
    Kind.BOOLEAN: "true or false",
    Kind.DATETIME: (
        "a day such as 2026-01-31 or today, a month, a year, a time such as 2026-01-31T09:30, now,"
        " or an age such as -7d (s m h d w mo y)"
    ),
    Kind.DATE: "a day such as 2026-01-31 or today, a month, a year, or an age such as -7d (d w mo y)",
}


def parse(text: str, entity: type[E], *, now: float | None) -> Filter[E]:
    """The filter that a text means.

    What counts from now does so from ``now``, in seconds since the epoch; without it, a text with an
    age or a word such as ``today`` is refused.  Times are UTC unless they name a zone.
    """
    return cast("Filter[E]", _Parser(text, entity, now).whole())


class Token(NamedTuple):
    """One piece of the text; ``column`` counts from 1, and the last token has the kind ``end``."""

    kind: str
    text: str
    column: int

    @property
    def keyword(self) -> str:
        """An unquoted word in capitals; empty for every other token."""
        return self.text.upper() if self.kind == "word" else ""

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else brief(self.text)


class _Parser:
    """Reads one text from left to right; each method consumes the tokens of its grammar rule."""

    def __init__(self, text: str, entity: type[Entity], now: float | None) -> None:
        self._text, self._entity, self._now = text, entity, now
        self._tokens = self._split()
        self._position = self._depth = self._conditions = self._ages = 0

    def whole(self) -> Filter[Any]:
        """The filter that the whole text means."""
        if self._tokens[0].kind == "end":
            self._fail(self._tokens[0], 'empty; write a condition such as name = "Ada"')
        result = self._any()
        rest = self._next()
        if rest.kind != "end":
            several = rest.kind == "word" and self._tokens[self._position - 2].kind == "word"
            hint = "; put quotes around a value of several words" if several else ""
            self._fail(rest, INSTEAD.get(rest.text) or f"expected AND, OR or the end, got {rest}{hint}")
        return result

    # -- tokens

    def _split(self) -> list[Token]:
        tokens, position = [], 0
        while position < len(self._text):
            match = TOKEN.match(self._text, position)
            if match is None:
                self._fail(Token("quoted", "", position + 1), "the quote that opens here is not closed")
            if match.lastgroup != "space":
                tokens.append(Token(str(match.lastgroup), match[0], position + 1))
            position = match.end()
        return [*tokens, Token("end", "", len(self._text) + 1)]

    def _peek(self) -> Token:
        return self._tokens[self._position]

    def _next(self) -> Token:
        token = self._tokens[self._position]
        self._position = min(self._position + 1, len(self._tokens) - 1)
        return token

    def _took(self, *keywords: str) -> bool:
        """Consume the next token if it is one of these keywords or marks; whether it was."""
        token = self._peek()
        found = (token.text if token.kind == "mark" else token.keyword) in keywords
        self._position += found
        return found

    def _expect(self, mark: str, expected: str, hint: str = "") -> None:
        if not self._took(mark):
            self._fail(self._peek(), f"expected {expected}, got {self._peek()}{hint}")

    def _fail(self, token: Token, problem: str) -> NoReturn:
        raise InvalidFilter(self._one_line, token.column, problem)

    @property
    def _one_line(self) -> str:
        return "".join(" " if c.isspace() or not c.isprintable() else c for c in self._text)

    # -- the grammar

    def _any(self) -> Filter[Any]:
        parts = [self._all()]
        while self._took("OR"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _all(self) -> Filter[Any]:
        parts = [self._part()]
        while self._took("AND"):
            parts.append(self._part())
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _part(self) -> Filter[Any]:
        token = self._peek()
        if self._took("NOT"):
            with self._deeper(token):
                return Not(self._part())
        if self._took("("):
            return self._nested(token)
        return self._condition()

    def _nested(self, opening: Token) -> Filter[Any]:
        """A filter in parentheses, behind the first of them."""
        with self._deeper(opening):
            result = self._any()
        self._expect(")", "AND, OR or ')'", f"; the '(' is in column {opening.column}")
        return result

    @contextmanager
    def _deeper(self, token: Token) -> Iterator[None]:
        self._depth += 1
        if self._depth > DEPTH:
            self._fail(token, f"nested more than {DEPTH} deep")
        yield
        self._depth -= 1

    def _condition(self) -> Filter[Any]:
        token = self._next()
        self._count(token)
        if token.keyword == "_AGE":
            return self._age()
        if self._has_follows():
            return self._has(token)
        field = self._field(token)
        if self._took("IS"):
            return self._is(field)
        if self._peek().keyword in ("IN", "NOT"):
            return self._in(field)
        return self._comparison(field)

    def _has_follows(self) -> bool:
        """Whether HAS or NOT HAS comes next."""
        word, other = (*self._tokens[self._position :], self._tokens[-1])[:2]
        return (other if word.keyword == "NOT" else word).keyword == "HAS"

    def _has(self, token: Token) -> Filter[Any]:
        negated = self._took("NOT")
        self._next()
        if token.kind != "word" or token.keyword in KEYWORDS:
            self._fail(token, f"expected a list or a collection, got {token}")
        found = self._member_of(self._entity, token.text, token, of_child=False)
        return Not(found) if negated else found

    def _member_of(self, entity: type[Entity], path: str, token: Token, *, of_child: bool) -> Filter[Any]:
        """What HAS asks of a path: of a list its items, of a collection its children."""
        refs, many, rest = self._collection(entity, path, token)
        if many is None:
            field = self._found(entity, path, token)
            if field.type.kind is Kind.JSON:
                return Compare(field.path, Op.HAS, self._item(field))
            if of_child:
                return self._equal(field)
            problem = f"{path} holds {field.type.label}; HAS asks for an item of a list or a collection"
            self._fail(token, problem)
        if rest:
            return Some(refs, many, self._member_of(many.child, rest, token, of_child=True))
        opening = self._peek()
        if not self._took("("):
            return Some(refs, many, self._equal(FieldOf(many.child, "id")))
        outside, self._entity = self._entity, many.child
        part = self._nested(opening)
        self._entity = outside
        return Some(refs, many, part)

    def _collection(
        self, entity: type[Entity], path: str, token: Token
    ) -> tuple[tuple[FieldOf[Any, Any], ...], ManyOf[Any, Any] | None, str]:
        """The refs that lead to the first collection of a path, the collection, and what follows it."""
        names, owner = path.split("."), entity
        for place, name in enumerate(names[: REFS + 1]):
            many = find_collection(owner, name)
            if many is not None:
                refs = self._found(entity, ".".join(names[:place]), token).path if place else ()
                return refs, many, ".".join(names[place + 1 :])
            try:
                owner = find_field(owner, name).type.target or Entity
            except UsageError:
                break
        return (), None, ""

    def _equal(self, field: FieldOf[Any, Any]) -> Filter[Any]:
        """A field that is equal to the next value."""
        first, last = self._member(field)
        return _compared(field.path, Op.EQ, first, last)

    def _item(self, field: FieldOf[Any, Any]) -> Any:
        """An item of a list: in quotes it is a text if the list can have one, else JSON if it can be."""
        token = self._next()
        inside = field.type.inside
        if inside and token.keyword != "NULL":
            return _ref(self._text_of(token), FieldType(Kind.REF, target=inside))
        readings: list[Any] = [None]
        if token.keyword != "NULL":
            text = self._text_of(token)
            readings = [text, _json(text)] if token.kind == "quoted" else [_json(text), text]
        fitting = [one for one in readings if not isinstance(one, list | dict) and field.type.check([one])]
        if not fitting:
            self._fail(token, f"{path_name(field)} is {field.type.label}, which cannot have {token}")
        return fitting[0]

    def _count(self, token: Token) -> None:
        self._conditions += 1
        if self._conditions > CONDITIONS:
            self._fail(token, f"more than {CONDITIONS} conditions")

    def _is(self, field: FieldOf[Any, Any]) -> Filter[Any]:
        negated = self._took("NOT")
        token = self._next()
        if token.keyword == "NULL":
            return Compare(field.path, Op.NE if negated else Op.EQ)
        if token.keyword != "LOADED":
            expected = "NULL or LOADED" if negated else "NULL, NOT NULL, LOADED or NOT LOADED"
            self._fail(token, f"expected {expected} after IS, got {token}")
        loaded: Filter[Any] = Compare(field.path, Op.IS_LOADED)
        return Not(loaded) if negated else loaded

    def _in(self, field: FieldOf[Any, Any]) -> Filter[Any]:
        negated = self._took("NOT")
        start = self._peek()
        if not self._took("IN"):
            self._fail(start, f"expected IN or HAS after NOT, got {start}")
        self._expect("(", "'(' after IN")
        members = [self._member(field)]
        while self._took(","):
            members.append(self._member(field))
        self._expect(")", "',' or ')' in the list")
        values = [first for first, last in members if first == last]
        if len(values) > VALUES:
            self._fail(start, f"more than {VALUES} values")
        parts: list[Filter[Any]] = [Compare(field.path, Op.IN, tuple(values))] if values else []
        for first, last in members:
            if first != last:
                self._count(start)
                parts.append(_compared(field.path, Op.EQ, first, last))
        chosen = parts[0] if len(parts) == 1 else AnyOf(tuple(parts))
        return Not(chosen) if negated else chosen

    def _member(self, field: FieldOf[Any, Any]) -> tuple[Any, Any]:
        """The first and the last moment of a time in a list; any other value twice."""
        token = self._next()
        if token.keyword != "NULL" and field.type.kind in TIMES:
            return self._time(token, field)
        value = None if token.keyword == "NULL" else self._value(token, field, field.type)
        return value, value

    def _comparison(self, field: FieldOf[Any, Any]) -> Filter[Any]:
        token = self._next()
        op = OPERATORS.get(token.text) if token.kind == "operator" else None
        if op is None:
            instead = INSTEAD.get(token.text.upper())
            self._fail(token, instead or f"expected an operator after {path_name(field)}, got {token}")
        holds = field.type
        if holds.kind not in FITTING.get(op, Kind) or (op is Op.CONTAINS and _is_list(holds)):
            hint = f"; write {path_name(field)} HAS …" if _is_list(holds) else ""
            self._fail(token, f"{op} does not work on {path_name(field)}, which holds {holds.label}{hint}")
        value = self._next()
        if value.keyword == "NULL" and op in (Op.EQ, Op.NE):
            return Compare(field.path, op)
        if op is Op.CONTAINS:
            holds = FieldType(Kind.TEXT)  # JSON is searched as text
        if holds.kind in TIMES:
            return _compared(field.path, op, *self._time(value, field))
        return Compare(field.path, op, self._value(value, field, holds))

    def _age(self) -> Filter[Any]:
        """The rest of a condition that begins with ``_age``."""
        from .periods import AN_AGE, parse_duration

        self._ages += 1
        if self._ages > AGES:
            self._fail(self._peek(), f"more than {AGES} conditions on an age")
        field = self._in_parentheses()
        sign, value = self._next(), self._next()
        op = OPERATORS.get(sign.text) if sign.kind == "operator" else None
        if op in (Op.EQ, Op.NE) and value.keyword == "NEVER":
            return Synced(field.path, Op.LT if op is Op.EQ else Op.GE, FIRST)
        if op not in SINCE:
            self._fail(sign, INSTEAD.get(sign.text) or f"expected < <= > >=, or = never, got {sign}")
        try:
            age = parse_duration(value.text)
        except ValueError:
            self._fail(value, f"expected {AN_AGE}, got {value}")
        if self._now is None:
            self._fail(value, NO_NOW)
        return Synced(field.path, SINCE[op], self._now - age)

    def _in_parentheses(self) -> FieldOf[Any, Any]:
        self._expect("(", "'(' and a field, as in _age(name) > 1d")
        token = self._next()
        field = self._field(token)
        if field.name == "id":
            self._fail(token, "an id has no age; name a field")
        self._expect(")", f"')' after _age({path_name(field)}")
        return field

    # -- names and values

    def _field(self, token: Token) -> FieldOf[Any, Any]:
        if token.kind != "word" or token.keyword in KEYWORDS:
            self._fail(token, f"expected a field, got {token}")
        return self._found(self._entity, token.text, token)

    def _found(self, entity: type[Entity], path: str, token: Token) -> FieldOf[Any, Any]:
        try:
            return find_field(entity, path)
        except UnknownName as error:
            raise error.in_filter(
                self._one_line, token.column + max(token.text.find(error.name), 0)
            ) from None
        except UsageError as error:
            hint = " or write HAS" if "is a collection" in error.message else ""
            self._fail(token, error.message + hint)

    def _time(self, token: Token, field: FieldOf[Any, Any]) -> tuple[Any, Any]:
        """The first and the last moment, or day, that a text names."""
        from .periods import AGE, NoNow, days_of, period_of  # only filters with times need it

        text, days = self._text_of(token), field.type.kind is Kind.DATE
        try:
            first, last = (days_of if days else period_of)(text, self._now)
            fits = field.type.check(first) and field.type.check(last)
        except (ValueError, OverflowError):
            fits = False
        except NoNow:
            self._fail(token, NO_NOW)
        if not fits:
            age = AGE.fullmatch(text)
            minutes = "; m is a minute, mo a month" if days and age and age[3] == "m" else ""
            expected = EXPECTED[field.type.kind]
            self._fail(token, f"{path_name(field)} expects {expected}, got {token}{minutes}")
        return first, last

    def _value(self, token: Token, field: FieldOf[Any, Any], holds: FieldType) -> Any:
        text = self._text_of(token)
        try:
            value = READERS[holds.kind](text, holds)
            fits = holds.check(value)
        except (ValueError, ArithmeticError, RecursionError):
            fits = False
        if not fits:
            expected = holds.expected if holds.choices else EXPECTED.get(holds.kind, holds.expected)
            hint = f"; write {path_name(field)} HAS {token.text}" if _is_list(holds) else ""
            self._fail(token, f"{path_name(field)} expects {expected}, got {token}{hint}")
        return value

    def _text_of(self, token: Token) -> str:
        """The text of a quoted or unquoted value."""
        if token.kind == "quoted":
            return ESCAPE.sub(lambda match: self._escaped(match, token), token.text[1:-1])
        if token.kind != "word" or token.keyword in KEYWORDS:
            hint = "; put it in quotes if it is a value" if token.keyword else ""
            self._fail(token, f"expected a value, got {token}{hint}")
        if token.keyword == "NULL":
            self._fail(token, "null cannot be compared this way; write = null or IS NULL")
        return token.text

    def _escaped(self, match: re.Match[str], token: Token) -> str:
        code = match[1]
        if code is None:
            return match[0][0] if match[0][0] == token.text[0] else match[0]
        if code in ESCAPES:
            return ESCAPES[code]
        if len(code) == 5:
            return chr(int(code[1:], 16))
        place = Token("word", "", token.column + 1 + match.start())
        return self._fail(place, f"unknown escape \\{code}; a backslash is written \\\\")


def _compared(path: tuple[FieldOf[Any, Any], ...], op: Op, first: Any, last: Any) -> Filter[Any]:
    """A field compared with a time from its first moment to its last; ``> 2025-07`` begins in August."""
    if first == last or op in (Op.LT, Op.GE):
        return Compare(path, op, first)
    if op in (Op.LE, Op.GT):
        return Compare(path, op, last)
    inside: Filter[Any] = AllOf((Compare(path, Op.GE, first), Compare(path, Op.LE, last)))
    return inside if op is Op.EQ else AllOf((Compare(path, Op.IS_LOADED), Not(inside)))


def _is_list(holds: FieldType) -> bool:
    return holds.kind is Kind.JSON and holds.shape.startswith("list[")


# -- values from text, by kind; ValueError when the text is not one ---------------------------


def _integer(text: str) -> int:
    """``3``, ``3.0`` and ``1e3``, exactly."""
    if INTEGER.fullmatch(text):
        return int(text)
    from decimal import Decimal  # slow to import, and most integers have digits alone

    number = Decimal(text if NUMBER.fullmatch(text) else "")
    if abs(number) > INTEGER_LIMIT or number != int(number):
        raise ValueError(text)
    return int(number)


def _real(text: str) -> float:
    if not NUMBER.fullmatch(text):
        raise ValueError(text)
    return float(text)


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}.get(text.lower(), cast("bool", text))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _ref(text: str, holds: FieldType) -> Ref[Any]:
    target = holds.target or Entity
    return Ref(target, text.removeprefix(f"{target.__name__}:"))


READERS: dict[Kind, Callable[[str, FieldType], Any]] = {
    Kind.TEXT: lambda text, holds: text,
    Kind.INTEGER: lambda text, holds: _integer(text),
    Kind.REAL: lambda text, holds: _real(text),
    Kind.BOOLEAN: lambda text, holds: _boolean(text),
    Kind.JSON: lambda text, holds: _json(text),
    Kind.REF: _ref,
}
