"""The filter language: ``state = "open" AND updated_at > -7d`` → the same tree that Python builds.

    filter     = conjunction { OR conjunction }
    conjunction = part { AND part }
    part       = NOT part | "(" filter ")" | condition
    condition  = field ( = != < <= > >= ~= ^= ) value
               | field [NOT] IN "(" value { "," value } ")"
               | field IS [NOT] ( NULL | LOADED )
               | _age "(" field ")" ( ( < <= > >= ) age | ( = != ) never )

Rule 1: a value takes the type of its field, quoted or not: ``007`` stays text on a text field,
``-7d`` is a moment on a time field.  Only a bare ``null`` is the empty value.

Rule 2: whatever the text, parsing gives a filter, or raises InvalidFilter with the column or
UnknownName with the nearest fields.

Rule 3: ``_age`` is how long ago a field was last asked for, never being the longest.  An age is
counted from now when it is read, so the tree holds a moment and means the same ever after.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple, NoReturn, cast

from ..errors import InvalidFilter, UnknownName
from .entities import AllOf, AnyOf, Compare, E, Entity, FieldOf, FieldType, Filter, Not, Op, Ref, Synced
from .values import Kind

DEPTH = 50  # how deep parentheses and NOT may nest
CONDITIONS = 500  # per filter; SQLite allows expressions 1,000 levels deep
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
SINCE = {Op.LT: Op.GT, Op.LE: Op.GE, Op.GT: Op.LT, Op.GE: Op.LE}  # an age, as the moment it counts from
FIRST = 0.0  # no request began before, in seconds since the epoch
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
    "CONTAINS": "write ~=",
    "BETWEEN": "write field >= low AND field <= high",
}
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}  # seconds
AGE = re.compile(r"([+-])(\d{1,9})([smhdw])", re.ASCII)
LENGTH = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
AN_AGE = "an age such as 90s, 5m, 2h, 1d or 2w"
INTEGER = re.compile(r"[+-]?\d{1,20}", re.ASCII)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
ORDERED = frozenset({Kind.TEXT, Kind.INTEGER, Kind.REAL, Kind.DATETIME, Kind.DATE})
FITTING = {  # which kinds an operator makes sense for; all kinds when it is not here
    Op.LT: ORDERED,
    Op.LE: ORDERED,
    Op.GT: ORDERED,
    Op.GE: ORDERED,
    Op.CONTAINS: frozenset({Kind.TEXT, Kind.JSON}),
    Op.STARTS_WITH: frozenset({Kind.TEXT}),
}
EXPECTED = {
    Kind.INTEGER: "an integer of at most 64 bits",
    Kind.REAL: "a number",
    Kind.BOOLEAN: "true or false",
    Kind.DATETIME: "a date, a time such as 2026-01-31T09:30, or an age such as -7d (s m h d w)",
    Kind.DATE: "a date such as 2026-01-31, or an age such as -7d (d w)",
}


def parse(text: str, entity: type[E], *, now: float) -> Filter[E]:
    """The filter that a text means; ``now`` (seconds since the epoch) is what ages count from.

    A date or a time without a zone is UTC.
    """
    return cast("Filter[E]", _Parser(text, entity, now).whole())


def parse_duration(text: str) -> float:
    """The seconds that ``90s``, ``5m``, ``2h``, ``1d`` or ``2w`` mean; ValueError."""
    match = LENGTH.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not {AN_AGE}")
    return float(int(match[1]) * UNITS[match[2]])


class Token(NamedTuple):
    """A piece of the text; ``column`` counts from 1, and ``kind`` is ``end`` after the last."""

    kind: str
    text: str
    column: int

    @property
    def keyword(self) -> str:
        """The word in capitals, or nothing for all that is no bare word."""
        return self.text.upper() if self.kind == "word" else ""

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text)


class _Parser:
    """Reads one text from left to right; each method takes the tokens of its rule."""

    def __init__(self, text: str, entity: type[Entity], now: float) -> None:
        self._text, self._entity, self._now = text, entity, now
        self._tokens = self._split()
        self._position = self._depth = self._conditions = 0

    def whole(self) -> Filter[Any]:
        """The filter that the whole text is."""
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
                self._fail(Token("quoted", "", position + 1), "the quote that begins here is not closed")
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
        """Whether the next token is one of these keywords or marks; it is taken then."""
        token = self._peek()
        found = (token.text if token.kind == "mark" else token.keyword) in keywords
        self._position += found
        return found

    def _fail(self, token: Token, problem: str) -> NoReturn:
        one_line = "".join(" " if c.isspace() or not c.isprintable() else c for c in self._text)
        raise InvalidFilter(one_line, token.column, problem)

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
        self._depth += 1
        if self._depth > DEPTH:
            self._fail(token, f"nested more than {DEPTH} deep")
        if self._took("NOT"):
            result: Filter[Any] = Not(self._part())
        elif self._took("("):
            result = self._any()
            if not self._took(")"):
                problem = f"expected AND, OR or ')', got {self._peek()}"
                self._fail(self._peek(), f"{problem}; the '(' stands in column {token.column}")
        else:
            result = self._condition()
        self._depth -= 1
        return result

    def _condition(self) -> Filter[Any]:
        token = self._next()
        if token.kind != "word" or token.keyword in KEYWORDS:
            self._fail(token, f"expected a field, got {token}")
        self._conditions += 1
        if self._conditions > CONDITIONS:
            self._fail(token, f"more than {CONDITIONS} conditions")
        if token.keyword == "_AGE":
            return self._age()
        field = self._field(token)
        if self._took("IS"):
            return self._is(field)
        if self._peek().keyword in ("IN", "NOT"):
            return self._in(field)
        return self._comparison(field)

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
            self._fail(start, f"expected IN after NOT, got {start}")
        if not self._took("("):
            self._fail(self._peek(), f"expected '(' after IN, got {self._peek()}")
        values = [self._member(field)]
        while self._took(","):
            values.append(self._member(field))
        if not self._took(")"):
            self._fail(self._peek(), f"expected ',' or ')' in the list, got {self._peek()}")
        if len(values) > VALUES:
            self._fail(start, f"more than {VALUES} values")
        chosen: Filter[Any] = Compare(field.path, Op.IN, tuple(values))
        return Not(chosen) if negated else chosen

    def _member(self, field: FieldOf[Any, Any]) -> Any:
        token = self._next()
        if token.keyword == "NULL":
            return None
        return self._value(token, field, _type(field))

    def _comparison(self, field: FieldOf[Any, Any]) -> Filter[Any]:
        token = self._next()
        op = OPERATORS.get(token.text) if token.kind == "operator" else None
        if op is None:
            instead = INSTEAD.get(token.text.upper())
            self._fail(token, instead or f"expected an operator after {_spelled(field)}, got {token}")
        kind = _type(field).kind
        if kind not in FITTING.get(op, Kind):
            self._fail(token, f"{op} does not fit {_spelled(field)}, which holds {_described(field)}")
        value = self._next()
        if value.keyword == "NULL" and op in (Op.EQ, Op.NE):
            return Compare(field.path, op)
        words = op is Op.CONTAINS and kind is Kind.JSON  # looked for in the JSON text
        holds = FieldType(Kind.TEXT) if words else _type(field)
        return Compare(field.path, op, self._value(value, field, holds))

    def _age(self) -> Filter[Any]:
        """What follows ``_age``."""
        field = self._in_parentheses()
        sign, value = self._next(), self._next()
        op = OPERATORS.get(sign.text) if sign.kind == "operator" else None
        if op in (Op.EQ, Op.NE) and value.keyword == "NEVER":
            return Synced(field.path, Op.LT if op is Op.EQ else Op.GE, FIRST)
        if op not in SINCE:
            self._fail(sign, INSTEAD.get(sign.text) or f"expected < <= > >=, or = never, got {sign}")
        try:
            return Synced(field.path, SINCE[op], self._now - parse_duration(value.text))
        except ValueError:
            self._fail(value, f"expected {AN_AGE}, got {value}")

    def _in_parentheses(self) -> FieldOf[Any, Any]:
        if not self._took("("):
            self._fail(self._peek(), f"expected '(' and a field, as in _age(name) > 1d, got {self._peek()}")
        token = self._next()
        if token.kind != "word" or token.keyword in KEYWORDS:
            self._fail(token, f"expected a field, got {token}")
        field = self._field(token)
        if field.name == "id":
            self._fail(token, "an id has no age; name a field")
        if not self._took(")"):
            self._fail(self._peek(), f"expected ')' after _age({_spelled(field)}, got {self._peek()}")
        return field

    # -- names and values

    def _field(self, token: Token) -> FieldOf[Any, Any]:
        first, *more = token.text.split(".")
        field = self._named(self._entity, first, token)
        if not more:
            return field
        if len(more) > 1:
            self._fail(token, "a filter goes through one ref at most")
        target = _type(field).target
        if target is None:
            self._fail(token, f"{first} holds {_described(field)}, so nothing stands behind its dot")
        return FieldOf(self._entity, self._named(target, more[0], token).name, field)

    def _named(self, entity: type[Entity], name: str, token: Token) -> FieldOf[Any, Any]:
        known = {known.casefold(): known for known in ("id", *entity.types())}
        if name in entity.children():
            self._fail(
                token, f"{name} is a collection; filter the {entity.children()[name].__name__} instead"
            )
        if name.casefold() not in known:
            raise UnknownName("field", name, known.values(), where=entity.__name__)
        return FieldOf(entity, known[name.casefold()])

    def _value(self, token: Token, field: FieldOf[Any, Any], holds: FieldType) -> Any:
        text = self._text_of(token)
        try:
            value = READERS[holds.kind](text, holds, self._now)
            fits = holds.check(value)
        except (ValueError, OverflowError, RecursionError):
            fits = False
        if not fits:
            expected = EXPECTED.get(holds.kind, holds.expected)
            self._fail(token, f"{_spelled(field)} expects {expected}, got {token}")
        return value

    def _text_of(self, token: Token) -> str:
        """What a quoted or bare value says."""
        if token.kind == "quoted":
            return ESCAPE.sub(lambda match: self._escaped(match, token), token.text[1:-1])
        if token.kind != "word" or token.keyword in KEYWORDS:
            hint = "; put it in quotes if it is a value" if token.keyword else ""
            self._fail(token, f"expected a value, got {token}{hint}")
        if token.keyword == "NULL":
            self._fail(token, "null has no order and no text; write = null or IS NULL")
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


def _type(field: FieldOf[Any, Any]) -> FieldType:
    return FieldType(Kind.TEXT) if field.name == "id" else field.type


def _spelled(field: FieldOf[Any, Any]) -> str:
    return ".".join(step.name for step in field.path)


def _described(field: FieldOf[Any, Any]) -> str:
    holds = _type(field)
    if holds.kind is not Kind.REF:
        return str(holds.kind)
    return f"a ref to {holds.target.__name__}" if holds.target else "a ref to any entity"


# -- values by kind: from text; ValueError when it means none ---------------------------------


def _integer(text: str) -> int:
    if not INTEGER.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _real(text: str) -> float:
    if not NUMBER.fullmatch(text):
        raise ValueError(text)
    return float(text)


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}.get(text.lower(), cast("bool", text))


def _moment(text: str, now: float) -> datetime:
    age = AGE.fullmatch(text)
    if age:
        seconds = int(age[2]) * UNITS[age[3]]
        moved = timedelta(seconds=-seconds if age[1] == "-" else seconds)
        return datetime.fromtimestamp(now, UTC) + moved
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _day(text: str, now: float) -> date:
    return _moment(text, now).date() if AGE.fullmatch(text) else date.fromisoformat(text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _ref(text: str, holds: FieldType) -> Ref[Any]:
    target = holds.target or Entity
    return Ref(target, text.removeprefix(f"{target.__name__}:"))


READERS: dict[Kind, Callable[[str, FieldType, float], Any]] = {
    Kind.TEXT: lambda text, holds, now: text,
    Kind.INTEGER: lambda text, holds, now: _integer(text),
    Kind.REAL: lambda text, holds, now: _real(text),
    Kind.BOOLEAN: lambda text, holds, now: _boolean(text),
    Kind.DATETIME: lambda text, holds, now: _moment(text, now),
    Kind.DATE: lambda text, holds, now: _day(text, now),
    Kind.JSON: lambda text, holds, now: _json(text),
    Kind.REF: lambda text, holds, now: _ref(text, holds),
}
