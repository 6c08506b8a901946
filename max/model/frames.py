"""Frames: an Arrow table as what pandas and polars hold.  Both are imported only when they are asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import MissingExtra


def library(name: str) -> Any:
    """A module of the extra ``frames``; MissingExtra when it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra("frames", name, "data frames") from error


def to_pandas(table: Any) -> Any:
    """A DataFrame: ``Int64`` and ``boolean``, which know empty values, and times in UTC.

    Dates and lists have Arrow's types, since pandas has none for them.
    """
    pandas = library("pandas")
    arrow = library("pyarrow")

    def mapped(type: Any) -> Any:
        if arrow.types.is_int64(type):
            return pandas.Int64Dtype()
        if arrow.types.is_boolean(type):
            return pandas.BooleanDtype()
        if arrow.types.is_date32(type) or arrow.types.is_list(type):
            return pandas.ArrowDtype(type)
        return None

    return table.to_pandas(types_mapper=mapped)


def to_polars(table: Any) -> Any:
    """A polars DataFrame, which has all of Arrow's types."""
    return library("polars").from_arrow(table)
