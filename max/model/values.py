"""Values: the kinds of field, what makes a value of each valid, and how times are written."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any, TypeAlias

Json: TypeAlias = Any  # upstream JSON: the one place where Any is honest
INTEGER_LIMIT = 2**63  # SQLite stores integers in 64 bits, signed
JSON_BITS = 4096  # of an integer in JSON data; Python refuses to write those beyond 4300 digits
EXACT_FLOAT = 2**53  # the largest integer up to which every one has a float of its own
LONGEST_ID = 10_000  # characters; whatever is longer identifies nothing
UTC_MARKS = ("--T::Z", "--T::.")  # the separators in 2026-01-31T09:30:00Z and …00.5Z


class Kind(StrEnum):
    """What a field holds."""

    TEXT = "text"
    INTEGER = "integer"
    REAL = "real"
    BOOLEAN = "boolean"
    DATETIME = "datetime"
    DATE = "date"
    JSON = "json"
    REF = "ref"


EXPECTED = {
    Kind.TEXT: "text that UTF-8 can encode",
    Kind.INTEGER: "an integer of at most 64 bits",
    Kind.REAL: "a finite number",
    Kind.BOOLEAN: "true or false",
    Kind.DATETIME: "a time with its zone (an aware datetime, or its ISO 8601 text)",
    Kind.DATE: "a date (or its ISO 8601 text)",
    Kind.JSON: "JSON data",
}


def is_text(value: object) -> bool:
    """A str without lone surrogates, which no UTF-8 database can hold."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_id(value: object) -> bool:
    """A text that can identify an entity; no NUL, at which SQLite's JSON functions cut a text."""
    return is_text(value) and 0 < len(str(value)) <= LONGEST_ID and "\0" not in str(value)


def is_json(value: object) -> bool:
    """Data that is equal after a trip through JSON: no NaN, no tuples, only text keys."""
    try:
        return _is_json(value)
    except RecursionError:
        return False


def _is_json(value: object) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int):
        return value.bit_length() <= JSON_BITS
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return is_text(value)
    if isinstance(value, list):
        return all(map(_is_json, value))
    return isinstance(value, dict) and all(is_text(k) and _is_json(v) for k, v in value.items())


def is_real(value: object) -> bool:
    """A finite float, or an integer that a float holds exactly."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= EXACT_FLOAT


def is_datetime(value: object) -> bool:
    """An aware datetime that exists in UTC, or its ISO 8601 text."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if not isinstance(moment, datetime) or moment.utcoffset() is None:
            return False
        return bool(moment.astimezone(UTC))
    except (ValueError, OverflowError):
        return False


def is_date(value: object) -> bool:
    """A date that is not a datetime, or its ISO 8601 text."""
    if not isinstance(value, str):
        return isinstance(value, date) and not isinstance(value, datetime)
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


CHECKS: dict[Kind, Callable[[object], bool]] = {
    Kind.TEXT: is_text,
    Kind.INTEGER: lambda v: (
        isinstance(v, int) and not isinstance(v, bool) and -INTEGER_LIMIT <= v < INTEGER_LIMIT
    ),
    Kind.REAL: is_real,
    Kind.BOOLEAN: lambda v: isinstance(v, bool),
    Kind.DATETIME: is_datetime,
    Kind.DATE: is_date,
    Kind.JSON: is_json,
}


def datetime_text(value: datetime | str) -> str:
    """A time as text that sorts in time order: UTC, no zone, no trailing zeros.

    ``2026-01-31T09:30:00.5``: SQLite's date functions read it as UTC.  A text that is in UTC
    already is cut and not parsed and written again.
    """
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        if value[-1] == "Z" and value[4:20:3] in UTC_MARKS and (len(value) == 20 or value[20:-1].isdigit()):
            return _without_zeros(value[:26].rstrip("Z"))
        value = moment
    return _without_zeros(value.astimezone(UTC).isoformat()[:-6])


def _without_zeros(text: str) -> str:
    """The text without trailing zeros of a second's fraction."""
    return text.rstrip("0").rstrip(".") if len(text) > 19 else text


def datetime_of(text: str) -> datetime:
    """The inverse of datetime_text: aware, in UTC."""
    return datetime.fromisoformat(text + "Z")
