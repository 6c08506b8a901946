"""Any result of a method as plain JSON, for programs that are not Max: as the command line prints it.

It is easier to read than what ``wire.py`` makes, and says less: refs are ids, times are texts, and what is
not loaded is left out.  ``result_schema.py`` describes it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence, Set
from datetime import date, timedelta
from enum import Enum
from math import isfinite
from typing import Any

from ..errors import MaxError
from ..model.changes import Change
from ..model.entities import FieldOf, Ref
from ..model.query import RowPage
from ..model.struct import Struct
from ..model.values import JSON_BITS, Json
from ..query.formats import plain as plain_value


def plain(value: Any) -> Json:
    """A value as JSON data; TypeError for one of a class that no method returns."""
    if value is None or isinstance(value, str | bool):
        return str(value) if isinstance(value, Enum) else value
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, int):
        return int(value) if value.bit_length() <= JSON_BITS else str(value)
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    for kind, make in MAKERS:
        if isinstance(value, kind):
            return make(value)
    return _of_parts(value)


def _of_parts(value: Any) -> Json:
    """What has a form of its own, or consists of fields."""
    for form in ("to_json", "to_dict"):
        if hasattr(value, form):
            return plain(getattr(value, form)())
    if isinstance(value, Mapping):
        return {one.__name__ if isinstance(one, type) else str(one): plain(value[one]) for one in value}
    if isinstance(value, Struct):
        return {name: plain(getattr(value, name)) for name in value._names}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Sequence | Set):
        return [plain(one) for one in value]
    raise TypeError(f"{type(value).__name__} has no plain form")


MAKERS: Sequence[tuple[type, Any]] = (
    (MaxError, lambda value: plain(value.describe())),
    (Ref, lambda value: value.id),
    (FieldOf, lambda value: value.name),
    (date, plain_value),
    (timedelta, lambda value: value.total_seconds()),
    (bytes, lambda value: b64encode(value).decode()),
    (Enum, lambda value: plain(value.value)),
    (RowPage, lambda value: {"rows": plain(value.to_dicts()), "cursor": value.cursor}),
    (Change, lambda value: {**plain(value.to_dict()), "at": value.at}),
)
