"""Arrow: rows as columns of Apache Arrow, made from what is stored without a Python object for each row.

Types: integers are ``int64``, times ``timestamp[us, tz=UTC]``, dates ``date32``, refs the texts of their
ids, and lists of texts, numbers or booleans are lists.  Other JSON data is its text.  An empty value and
one that is not loaded are both null.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..errors import UsageError
from ..model.entities import FieldOf, FieldType, path_name
from ..model.frames import library
from ..model.values import Kind

BATCH = 10_000  # rows; a batch is converted at once
Stored = Sequence[Sequence[Any]]  # the columns of some rows as they are stored
Make = Callable[[Sequence[Any]], Any]


class ArrowColumns:
    """How some paths become Arrow: their schema, and the batches of their rows."""

    def __init__(self, paths: Sequence[FieldOf[Any, Any]]) -> None:
        self._arrow = library("pyarrow")
        self._makers = [self._maker(path_name(path), path.type) for path in paths]
        types = [(path_name(path), arrow_type(self._arrow, path.type)) for path in paths]
        self.schema = self._arrow.schema(types)

    def batches(self, stored: Iterator[Stored]) -> Iterator[Any]:
        """A RecordBatch for each piece of the rows."""
        for columns in stored:
            arrays = [make(column) for make, column in zip(self._makers, columns, strict=True)]
            yield self._arrow.RecordBatch.from_arrays(arrays, schema=self.schema)

    def table(self, stored: Iterator[Stored]) -> Any:
        """All rows as one Table."""
        return self._arrow.Table.from_batches(self.batches(stored), schema=self.schema)

    def _maker(self, name: str, holds: FieldType) -> Make:
        """Makes an array of a column as it is stored; UsageError for an integer that does not fit."""
        arrow, wanted = self._arrow, arrow_type(self._arrow, holds)
        if holds.kind is Kind.DATETIME:  # its text is UTC, without the zone
            return lambda column: arrow.array(column, arrow.string()).cast(arrow.timestamp("us")).cast(wanted)
        if holds.kind is Kind.DATE:
            return lambda column: arrow.array(column, arrow.string()).cast(wanted)
        if holds.kind is Kind.BOOLEAN:
            return lambda column: arrow.array(column, arrow.int8()).cast(wanted)
        if holds.members:
            return lambda column: self._lists(name, column, wanted)
        return lambda column: arrow.array(column, wanted)

    def _lists(self, name: str, column: Sequence[Any], wanted: Any) -> Any:
        try:
            return self._arrow.array([None if v is None else json.loads(v) for v in column], wanted)
        except OverflowError:
            raise UsageError(
                f"{name} has an integer beyond 64 bits, which no Arrow column holds",
                hint="name other fields, or read it as text, with to_dicts or csv",
            ) from None


def arrow_type(arrow: Any, holds: FieldType) -> Any:
    """The Arrow type of a field."""
    kinds = {
        Kind.INTEGER: arrow.int64(),
        Kind.REAL: arrow.float64(),
        Kind.BOOLEAN: arrow.bool_(),
        Kind.DATETIME: arrow.timestamp("us", tz="UTC"),
        Kind.DATE: arrow.date32(),
    }
    found = kinds.get(holds.members or holds.kind, arrow.string())
    return arrow.list_(found) if holds.members else found
