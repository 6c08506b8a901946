"""The small record class: immutable, compared by value, shown in a few words."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import ClassVar

import pytest

from max.model.migrations import Migration
from max.model.struct import Struct


class Point(Struct):
    x: int
    y: int = 0
    origin: ClassVar[str] = "corner"


class Named(Point):
    label: str = ""


def test_a_record_takes_its_fields_by_position_or_name() -> None:
    assert Point(1, 2) == Point(x=1, y=2)
    assert Point(1).y == 0
    assert Named(1, 2, "a").label == "a"


@pytest.mark.parametrize(("given", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"x": 2}), ((1,), {"z": 2})])
def test_a_record_refuses_missing_unknown_and_repeated_values(
    given: tuple[int], named: dict[str, int]
) -> None:
    with pytest.raises(TypeError, match="Point"):
        Point(*given, **named)


def test_a_record_cannot_be_changed() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="immutable"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="immutable"):
        del point.x
    assert point.replace(y=5) == Point(1, 5)
    with pytest.raises(TypeError, match="Point has no z"):
        point.replace(z=5)
    assert point == Point(1)


def test_records_compare_by_type_and_value_and_hash_alike() -> None:
    assert Point(1, 2) != Named(1, 2)
    assert Point(1, 2) != Point(2, 1)
    assert len({Point(1), Point(1, 0), Point(2)}) == 2
    assert repr(Named(1, label="a")) == "Named(x=1, label='a')"


def test_help_shows_the_parameters_of_a_record() -> None:
    assert str(inspect.signature(Named)) == "(x: 'int', y: 'int' = 0, label: 'str' = '')"
    assert str(inspect.signature(Migration)) == "(purpose: 'str', *steps: 'MigrationStep') -> 'None'"


def test_importing_the_model_does_not_import_inspect() -> None:
    code = "import sys, max.model.query, max.model.plan; print('inspect' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_a_repr_shows_seconds_since_the_epoch_as_a_time() -> None:
    class Run(Struct):
        started_at: float
        rate: float

    assert repr(Run(1_800_000_000.25, 2.5)) == "Run(started_at=2027-01-15T08:00:00Z, rate=2.5)"
    assert repr(Run(1e300, 0.0)) == "Run(started_at=1e+300, rate=0.0)"
