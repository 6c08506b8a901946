"""Values: the kinds of field, and for each kind the one reader that says what is valid.

Rule 1: a value is read, not just checked.  A reader takes what a loader, a filter or a cursor gives,
and returns the value as JSON data holds it, or raises InvalidValue.  Whatever has the same meaning
becomes the same value: 3.0 is 3 in an integer field, and every way to write a time is one text.

Rule 2: JSON's types are not Python's.  JSON has one kind of number, so an integer field accepts 3.0 and
a float field accepts 2**60; true and false are no numbers; NaN and infinity do not exist.

Rule 3: what some database cannot hold is the same everywhere.  NUL in a text becomes U+FFFD, the
replacement character, when the text is stored or compared.  An id with a NUL is invalid, since two ids
must not become one.  Half a surrogate pair is invalid in every text.

Times: every valid RFC 3339 time, and what else ISO 8601 has.  They are held in UTC, in microseconds,
in the years 1 to 9999.  Further digits are cut.  A leap second, 23:59:60, is the last microsecond
of its day, so it never moves to the next one; 24:00 is the next day's 00:00.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Any, NoReturn, Self, TypeAlias, cast

from ..errors import shown

Json: TypeAlias = Any  # upstream JSON: the one place where Any is honest
Reader: TypeAlias = Callable[[object], Any]  # raises InvalidValue
JsonReader: TypeAlias = "Callable[[object, int], Json]"  # of a value, and how deep it may nest

INTEGER_LIMIT = 2**63  # SQLite stores integers in 64 bits, signed
JSON_BITS = 4096  # of an integer in JSON data; Python refuses to write those beyond 4300 digits
JSON_DEPTH = 200  # lists and objects inside one another; recursion ends far deeper
LONGEST_ID = 10_000  # characters; whatever is longer identifies nothing
REPLACED = "\ufffd"  # in place of NUL, at which SQLite's functions end a text and which Postgres refuses
# A time that datetime.fromisoformat refuses, or refused in some version of Python.
UNUSUAL = re.compile(
    r"(?P<day>\d{4}-?\d\d-?\d\d)[Tt ](?P<hour>\d\d)(?P<minute>:?\d\d)"
    r"(?:(?P<second>:?\d\d)(?P<fraction>[.,]\d+)?)?(?P<zone>[Zz]|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII,
)


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
    Kind.REAL: "a finite number that a float holds exactly",
    Kind.BOOLEAN: "true or false",
    Kind.DATETIME: "a time with its zone (an aware datetime, or its ISO 8601 text)",
    Kind.DATE: "a date (or its ISO 8601 text)",
    Kind.JSON: "JSON data",
}


class InvalidValue(ValueError):
    """A value does not fit: what was expected, what was given, and where inside JSON data (``[3].name``)."""

    def __init__(self, expected: str, actual: object, path: str = "") -> None:
        super().__init__(expected)
        self.expected, self.actual, self.path = expected, actual, path

    def __repr__(self) -> str:  # pages whose ids cannot be read are compared by it
        return f"InvalidValue({self.expected!r}, {shown(self.actual)})"

    def inside(self, step: str) -> Self:
        """The same, seen from one level further out."""
        self.path = step + self.path
        return self


# -- texts and numbers -------------------------------------------------------------------


def is_text(value: object) -> bool:
    """A str without lone surrogates, which no UTF-8 database can hold."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def storable(text: str) -> str:
    """A text for people as a database can hold it: half a surrogate pair is escaped, as in ``\\ud800``."""
    return text.encode("utf-8", "backslashreplace").decode()


def is_id(value: object) -> bool:
    """A text that can identify an entity: not empty, not too long, and without NUL."""
    return is_text(value) and 0 < len(str(value)) <= LONGEST_ID and "\0" not in str(value)


def are_ids(values: Sequence[object]) -> bool:
    """Whether is_id is true of each, seen by all of them at once."""
    if not set(map(type, values)) <= {str}:
        return all(map(is_id, values))
    texts = cast("Sequence[str]", values)
    joined, lengths = "".join(texts), set(map(len, texts))
    whole = is_text(joined) and "\0" not in joined and 0 not in lengths
    return whole and max(lengths, default=0) <= LONGEST_ID


def read_text(value: object) -> str:
    """A text; NUL becomes U+FFFD."""
    if not is_text(value):
        raise InvalidValue(EXPECTED[Kind.TEXT], value)
    return str(value).replace("\0", REPLACED)


def read_integer(value: object) -> int:
    """An integer, also when it is written as 3.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -INTEGER_LIMIT <= value < INTEGER_LIMIT:
        raise InvalidValue(EXPECTED[Kind.INTEGER], value)
    return int(value)


def read_real(value: object) -> float:
    """A finite float, also when it is written as an integer."""
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number != value:
        raise InvalidValue(EXPECTED[Kind.REAL], value)
    return number


def read_boolean(value: object) -> bool:
    """True or False, and no number."""
    if not isinstance(value, bool):
        raise InvalidValue(EXPECTED[Kind.BOOLEAN], value)
    return value


# -- times -------------------------------------------------------------------------------


def moment_of(text: str) -> datetime:
    """The time that a text means, aware when the text names a zone; ValueError for any other text."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return _unusual_moment(text)


def _unusual_moment(text: str) -> datetime:
    """A time with a leap second, with the hour 24, or with a small z."""
    found = UNUSUAL.fullmatch(text)
    if found is None:
        raise ValueError(text)
    hour, minute, second = found["hour"], found["minute"], found["second"] or ""
    leap, midnight = second.endswith("60"), hour == "24"
    clock = f"{'00' if midnight else hour}{minute}{second.replace('60', '59')}{found['fraction'] or ''}"
    zone = datetime.fromisoformat(f"2000-01-01T00{(found['zone'] or '').upper()}").utcoffset()
    moment = datetime.fromisoformat(f"{found['day']}T{clock}")
    moment += timedelta(days=int(midnight)) - (zone or timedelta(0))
    if midnight and clock.strip("0:.,"):
        raise ValueError(text)
    if leap:
        moment = _at_the_end(moment, text)
    return moment if zone is None else moment.replace(tzinfo=UTC)


def _at_the_end(moment: datetime, text: str) -> datetime:
    """A leap second as the last microsecond of its day; there is none at another time."""
    if (moment.hour, moment.minute) != (23, 59):
        raise ValueError(text)
    return moment.replace(microsecond=999_999)


def datetime_text(value: object) -> str:
    """A time as text that sorts in time order: UTC, no zone, no trailing zeros.

    ``2026-01-31T09:30:00.5``: SQLite's date functions read it as UTC.
    """
    try:
        moment = moment_of(value) if isinstance(value, str) else value
        if isinstance(moment, datetime) and moment.utcoffset() is not None:
            return utc_text(moment if moment.tzinfo is UTC else moment.astimezone(UTC))
    except (ValueError, OverflowError):
        pass
    raise InvalidValue(EXPECTED[Kind.DATETIME], value)


def utc_text(moment: datetime) -> str:
    """A time in UTC as datetime_text has it."""
    text = moment.isoformat()
    return text[:19] if len(text) == 25 else text[:26].rstrip("0")


def datetime_of(text: str) -> datetime:
    """The inverse of datetime_text: aware, in UTC."""
    return datetime.fromisoformat(text + "Z")


def moment(at: float, zone: tzinfo | None = UTC) -> datetime:
    """Seconds since the epoch as a time; one that no calendar of ours has is the nearest in 1 to 9999."""
    try:
        return datetime.fromtimestamp(at, zone)
    except (ValueError, OverflowError, OSError):
        return (datetime.max if at > 0 else datetime.min).replace(tzinfo=zone)


def is_datetime(value: object) -> bool:
    """Whether datetime_text accepts a value."""
    return is_valid(datetime_text, value)


def date_text(value: object) -> str:
    """A date as ``2026-01-31``; a datetime is no date."""
    if isinstance(value, str):
        try:
            return date.fromisoformat(value).isoformat()
        except ValueError:
            pass
    elif isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    raise InvalidValue(EXPECTED[Kind.DATE], value)


# -- JSON data ---------------------------------------------------------------------------


def read_json(value: object, depth: int = JSON_DEPTH) -> Json:
    """Data that is equal after a trip through JSON: no NaN, no tuples, only text keys."""
    if isinstance(value, str):
        return read_text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and value.bit_length() <= JSON_BITS:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list):
        return read_list(value, depth, read_json)
    return read_object(value, depth, read_json)


def read_list(value: object, depth: int, item: JsonReader, expected: str = EXPECTED[Kind.JSON]) -> Json:
    """A list, each item read by ``item``; InvalidValue names the first one that does not fit."""
    if not isinstance(value, list) or depth == 0:
        raise InvalidValue(expected, value)
    read = []
    for number, one in enumerate(value):
        try:
            read.append(item(one, depth - 1))
        except InvalidValue as wrong:
            raise wrong.inside(f"[{number}]") from None
    return read


def read_object(value: object, depth: int, item: JsonReader, expected: str = EXPECTED[Kind.JSON]) -> Json:
    """An object, each of its values read by ``item``; its keys are texts."""
    if not isinstance(value, dict) or depth == 0:
        raise InvalidValue(expected, value)
    read = {}
    for key, one in value.items():
        try:
            read[read_text(key)] = item(one, depth - 1)
        except InvalidValue as wrong:
            raise wrong.inside(f".{key}" if str(key).isidentifier() else f"[{key!r}]") from None
    return read


def refuse_constant(name: str) -> NoReturn:
    """For ``json.loads``, which would read NaN and Infinity."""
    raise ValueError(f"{name} is no JSON number")


def is_json(value: object) -> bool:
    """Whether a value is JSON data."""
    return is_valid(read_json, value)


# -- readers -----------------------------------------------------------------------------

READERS: dict[Kind, Reader] = {  # of each kind but refs, which name their entity
    Kind.TEXT: read_text,
    Kind.INTEGER: read_integer,
    Kind.REAL: read_real,
    Kind.BOOLEAN: read_boolean,
    Kind.DATETIME: datetime_text,
    Kind.DATE: date_text,
    Kind.JSON: read_json,
}


def is_valid(reader: Reader, value: object) -> bool:
    """Whether a reader accepts a value."""
    try:
        reader(value)
    except InvalidValue:
        return False
    return True


def file_size(count: int) -> str:
    """Bytes in one unit: ``512 B``, ``36 kB``, ``1.2 MB``."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.1f} {unit}" if unit != "B" and size < 9.95 else f"{size:.0f} {unit}"
