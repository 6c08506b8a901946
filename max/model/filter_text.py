"""Filters as text: the inverse of filter_language.py, for messages, reprs and people.

Rule: the text of a filter that ``where`` accepts parses to an equal filter, with two exceptions.  An
age has whole seconds.  A combination of nothing, which the language cannot say, becomes a condition
that means the same.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any, cast

from .entities import FieldOf, FieldType, Ref, path_name
from .filter_language import FIRST, KEYWORDS, SINCE
from .filters import AllOf, AnyOf, Compare, Filter, Not, Op, Some, Synced
from .values import Kind

WORD = re.compile(r"""[^\s"'(),=!<>~^&|]+""")
ALWAYS, NEVER = "id IS NOT NULL", "id IS NULL"
IS = {Op.EQ: "IS NULL", Op.NE: "IS NOT NULL", Op.IS_LOADED: "IS LOADED"}
LEVELS: dict[type[Filter[Any]], int] = {AnyOf: 0, AllOf: 1, Not: 2}  # how tightly each binds
AGES = {of_time: of_age for of_age, of_time in SINCE.items()}


def filter_text(condition: Filter[Any], *, now: float | None = None) -> str:
    """A filter in the filter language; ages count from ``now``, in seconds since the epoch."""
    return _Writer(time.time() if now is None else now).text(condition)


class _Writer:
    """Writes filters whose ages count from one moment."""

    def __init__(self, now: float) -> None:
        self._now = now

    def text(self, condition: Filter[Any], level: int = -1) -> str:
        """A filter; in parentheses when it binds no tighter than what is around it."""
        if isinstance(condition, Compare):
            return _comparison(condition)
        if isinstance(condition, Synced):
            return self._age(condition)
        if isinstance(condition, Some):
            return self._some(condition)
        own = LEVELS[type(condition)]
        if isinstance(condition, Not):
            text = f"NOT {self.text(condition.part, own - 1)}"
        else:
            parts = cast("AllOf[Any] | AnyOf[Any]", condition).parts
            if len(parts) < 2:
                return self.text(parts[0], level) if parts else (ALWAYS if own else NEVER)
            text = (" AND " if own else " OR ").join(self.text(part, own) for part in parts)
        return f"({text})" if own <= level else text

    def _age(self, condition: Synced[Any]) -> str:
        path = path_name(condition.path[-1])
        if condition.at == FIRST and condition.op in (Op.LT, Op.GE):
            return f"_age({path}) {'=' if condition.op is Op.LT else '!='} never"
        age = max(round(self._now - condition.at), 0)
        return f"_age({path}) {AGES[condition.op]} {age}s"

    def _some(self, condition: Some[Any]) -> str:
        """``members.name HAS Ada`` where that says it all, else the children's filter in parentheses."""
        path = ".".join([*(field.name for field in condition.path), condition.many.name])
        part = condition.part
        if isinstance(part, Some):
            return f"{path}.{self._some(part)}"
        if isinstance(part, Compare) and part.op is _member_op(part.path[-1]):
            behind = "" if path_name(part.path[-1]) == "id" else f".{path_name(part.path[-1])}"
            return f"{path}{behind} HAS {_literal(part.path[-1], part.op, part.value)}"
        return f"{path} HAS ({self.text(part)})"


def _member_op(field: FieldOf[Any, Any]) -> Op:
    """What HAS asks of a field of a child."""
    return Op.HAS if field.type.kind is Kind.JSON else Op.EQ


def _comparison(condition: Compare[Any]) -> str:
    field, op, value = condition.path[-1], condition.op, condition.value
    if op is Op.IS_LOADED or (value is None and op in IS):
        return f"{path_name(field)} {IS[op]}"
    if op is Op.IN:
        values = ", ".join(_literal(field, Op.EQ, one) for one in value)
        return f"{path_name(field)} IN ({values})" if value else NEVER
    return f"{path_name(field)} {op} {_literal(field, op, value)}"


def _literal(field: FieldOf[Any, Any], op: Op, value: Any) -> str:
    if value is None:
        return "null"
    holds = field.type
    if op in (Op.CONTAINS, Op.STARTS_WITH):
        return _word(str(value))
    if isinstance(value, Ref):
        head = f"{value.entity.__name__}:"
        return _word(f"{head}{value.id}" if value.id.startswith(head) else value.id)
    if holds.kind is not Kind.JSON:
        return _word(_plain(holds, value))
    if op is not Op.HAS:
        return _quoted(json.dumps(value))
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _plain(holds: FieldType, value: Any) -> str:
    """The text from which a value is read back."""
    if holds.kind is Kind.BOOLEAN:
        return str(value).lower()
    return str(holds.to_json(value))


def _word(text: str) -> str:
    """A value as it is, or in quotes where it would be read as something else."""
    free = WORD.fullmatch(text) and text.isprintable() and text.upper() not in {*KEYWORDS, "NULL"}
    return text if free else _quoted(text)


def _quoted(text: str) -> str:
    """A value in quotes, without a character that cannot be printed on one line."""
    shown = (
        f"\\{character}"
        if character in '\\"'
        else character
        if character.isprintable()
        else _escape(character)
        for character in text
    )
    return f'"{"".join(shown)}"'


def _escape(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else character
