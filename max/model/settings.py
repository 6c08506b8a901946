"""Settings: what may be set of an installation, and how it is written.

One table says of each setting what fits, in words and as a check; the command line, the
library and installation.json all go by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from ..errors import InvalidAnswers, Mismatch, UnknownName
from .struct import Struct
from .values import Json

HISTORY = ("off", "changes")
MOST_DAYS = 36_500  # a hundred years, as good as for ever


class Setting(NamedTuple):
    """One setting: what it does, what fits in words, and whether a value does."""

    about: str
    expected: str
    fits: Callable[[Json], bool]


def _number(least: float, most: float) -> Callable[[Json], bool]:
    def fits(value: Json) -> bool:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        return plain and math.isfinite(value) and least <= value <= most

    return fits


DAYS = f"a number of days up to {MOST_DAYS:,}"
SETTINGS = {
    "history": Setting(
        "whether changes to rows are recorded: off, or changes", " or ".join(HISTORY), lambda v: v in HISTORY
    ),
    "history_days": Setting("how many days recorded changes are kept", DAYS, _number(0, MOST_DAYS)),
    "removed_days": Setting("how many days removed rows are kept, hidden", DAYS, _number(0, MOST_DAYS)),
    "removal_share": Setting(
        "share of an entity's rows, 0 to 1, that a sync may remove unasked",
        "a number from 0 to 1",
        _number(0, 1),
    ),
    "loader_minutes": Setting(
        "minutes that one call of a loader may take before it is cancelled and retried",
        "a number of minutes up to a day",
        _number(0.01, 1_440),
    ),
}


def changed(settings: Settings, changes: Mapping[str, Json]) -> Settings:
    """The settings with some of them changed.

    UnknownName for one that does not exist, or for a word that is none of those that fit;
    InvalidAnswers names every other value that does not fit.
    """
    for name, value in changes.items():
        if name not in SETTINGS:
            raise UnknownName("setting", name, SETTINGS)
        if name == "history" and isinstance(value, str) and value not in HISTORY:
            raise UnknownName("value", value, HISTORY, where=name)
    wrong = misfits(changes)
    if wrong:
        raise InvalidAnswers("settings that do not fit", wrong)
    return settings.replace(**changes)


def misfits(values: Mapping[str, Json]) -> list[Mismatch]:
    """What is wrong with values of known settings."""
    known = {name: value for name, value in values.items() if name in SETTINGS}
    return [
        Mismatch(name, SETTINGS[name].expected, value)
        for name, value in known.items()
        if not SETTINGS[name].fits(value)
    ]


def from_words(words: Mapping[str, str]) -> dict[str, Json]:
    """Values as they are typed: numbers where a number is wanted, else the word itself."""
    return {name: word if name == "history" else _as_number(word) for name, word in words.items()}


def _as_number(word: str) -> Json:
    try:
        number = float(word)
    except ValueError:
        return word
    return int(number) if number.is_integer() else number


def read_settings(data: Mapping[str, Json]) -> Settings:
    """Settings from stored data that fits; those of a newer Max are left aside."""
    return DEFAULTS.replace(**{name: value for name, value in data.items() if name in SETTINGS})


def settings_json(settings: Settings) -> dict[str, Json]:
    """Every setting by its name."""
    return {name: getattr(settings, name) for name in SETTINGS}


class Settings(Struct):
    """How Max keeps one installation's data.

    ``history`` "changes" records what changes in each row, for ``history_days``.  A row that was
    removed upstream is kept, hidden, for ``removed_days``.  ``removal_share`` is the part of an
    entity's rows that one sync may remove without being asked to, from 0 to 1.
    """

    history: Literal["off", "changes"] = "off"
    history_days: float = 90
    removed_days: float = 30
    removal_share: float = 0.25
    loader_minutes: float = 60


DEFAULTS = Settings()
