"""Installations: what is known of one without opening it, its settings, and which of those are valid.

One table says for each setting what is valid, in words and as a check; the command line, the
library and installation.json use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

from ..errors import InvalidAnswers, Mismatch, UnknownName
from .struct import Struct
from .values import Json

WORDS = {  # the settings that are a word
    "history": ("off", "changes"),
    "durability": ("full", "normal"),
    "isolate": ("on", "off"),
}
TEXTS = ("runner_prefix", "connectors")  # those that are a text
MOST_DAYS = 36_500  # a hundred years
MOST_ROWS = 10**12
MOST_MEGABYTES = 10**7


class Setting(Struct):
    """One setting: what it does, the valid values in words, and whether a value is valid."""

    about: str
    expected: str
    is_valid: Callable[[Json], bool]


def _word(name: str, about: str) -> Setting:
    return Setting(about, " or ".join(WORDS[name]), lambda value: value in WORDS[name])


def _number(least: float, most: float) -> Callable[[Json], bool]:
    def is_valid(value: Json) -> bool:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        return plain and math.isfinite(value) and least <= value <= most

    return is_valid


DAYS = f"a number of days up to {MOST_DAYS:,}"
SETTINGS = {
    "history": _word("history", "whether changes to rows are recorded: off, or changes"),
    "history_days": Setting("how many days recorded changes are kept", DAYS, _number(0, MOST_DAYS)),
    "removed_days": Setting("how many days removed rows are kept, hidden", DAYS, _number(0, MOST_DAYS)),
    "removal_share": Setting(
        "share of an entity's rows, 0 to 1, that a sync may remove without asking; 0: no row",
        "a number from 0 to 1",
        _number(0, 1),
    ),
    "removal_floor": Setting(
        "how many rows of an entity a sync may remove whatever their share, as long as some are left",
        f"a whole number up to {MOST_ROWS:,}",
        lambda value: isinstance(value, int) and _number(0, MOST_ROWS)(value),
    ),
    "loader_minutes": Setting(
        "minutes that one call of a loader may take before it is cancelled and retried",
        "a number of minutes up to a day",
        _number(0.01, 1_440),
    ),
    "listing_rows": Setting(
        "how many rows one listing may bring before it fails, for a source that never ends; 0: any number",
        f"a whole number up to {MOST_ROWS:,}",
        lambda value: isinstance(value, int) and _number(0, MOST_ROWS)(value),
    ),
    "durability": _word(
        "durability", "what a power cut may undo: full (nothing), or normal (the last seconds; faster)"
    ),
    "isolate": _word("isolate", "whether the daemon runs its connector in a process of its own: on, or off"),
    "runner_prefix": Setting(
        'words before the command of that process, such as "unshare -rn"; empty: nothing',
        "words of a command line",
        lambda value: isinstance(value, str) and prefix_words(value) is not None,
    ),
    "runner_memory": Setting(
        "megabytes of memory that the process may use before it is ended; 0: any number",
        f"a whole number of megabytes up to {MOST_MEGABYTES:,}",
        lambda value: isinstance(value, int) and _number(0, MOST_MEGABYTES)(value),
    ),
    "runner_seconds": Setting(
        "seconds that the process may be deaf, as in a loop without end, before it is ended",
        "a number of seconds from 1 up to a day",
        _number(1, 86_400),
    ),
    "runner_minutes": Setting(
        "minutes without work after which the process ends, until it is needed again",
        "a number of minutes up to a year",
        _number(0, 525_600),
    ),
    "connectors": Setting(
        "folder below the project's connectors/ that has this installation's version of the connector",
        "the path of a folder below connectors/, or nothing",
        lambda value: isinstance(value, str) and _is_below(value),
    ),
}


def prefix_words(text: str) -> list[str] | None:
    """The words of a command's prefix, as a shell splits them; None when a quote is missing."""
    from shlex import split

    try:
        return None if "\0" in text else split(text)
    except ValueError:
        return None


def _is_below(path: str) -> bool:
    """Whether a relative path leads down, or nowhere."""
    parts = path.split("/")
    return path == "" or not ({"", ".", ".."} & set(parts) or "\0" in path or "\\" in path)


def update_settings(settings: Settings, changes: Mapping[str, Json]) -> Settings:
    """The settings with some of them changed.

    UnknownName for a setting or a word that does not exist; InvalidAnswers names every other
    invalid value.
    """
    for name, value in changes.items():
        if name not in SETTINGS:
            raise UnknownName("setting", name, SETTINGS)
        if name in WORDS and isinstance(value, str) and value not in WORDS[name]:
            raise UnknownName("value", value, WORDS[name], where=name)
    wrong = invalid_settings(changes)
    if wrong:
        raise InvalidAnswers("invalid settings", wrong)
    return settings.replace(**changes)


def invalid_settings(values: Mapping[str, Json]) -> list[Mismatch]:
    """The invalid values of known settings."""
    known = {name: value for name, value in values.items() if name in SETTINGS}
    return [
        Mismatch(name, SETTINGS[name].expected, value)
        for name, value in known.items()
        if not SETTINGS[name].is_valid(value)
    ]


def parse_settings(words: Mapping[str, str]) -> dict[str, Json]:
    """Values as people type them: numbers where a setting is a number, else the word itself."""
    plain = (*WORDS, *TEXTS)
    return {name: word if name in plain else _as_number(word) for name, word in words.items()}


def _as_number(word: str) -> Json:
    try:
        number = float(word)
    except ValueError:
        return word
    return int(number) if number.is_integer() else number


def read_settings(data: Mapping[str, Json]) -> Settings:
    """Settings from valid stored data; settings that this version does not know are ignored."""
    return DEFAULTS.replace(**{name: value for name, value in data.items() if name in SETTINGS})


def settings_json(settings: Settings) -> dict[str, Json]:
    """Every setting by its name."""
    return {name: getattr(settings, name) for name in SETTINGS}


class Settings(Struct):
    """How Max keeps one installation's data.

    With ``history`` "changes", each change of a row after the first sync is recorded and kept for
    ``history_days``.  A
    row that was removed upstream is kept, hidden, for ``removed_days``.  ``removal_share``, from 0
    to 1, is the part of an entity's rows that one sync may remove without asking, and
    ``removal_floor`` how many it may remove whatever their share.  Unless the share is 1, it asks
    before it removes all of several rows, and with a share of 0 before it removes any.  A listing
    that brings more than ``listing_rows`` rows fails; 0 means any number.  With ``durability``
    "normal" syncs are faster, and a power cut may undo the last transactions.

    With ``isolate`` "on" the daemon runs the connector in a process of its own: behind the words of
    ``runner_prefix``, with up to ``runner_memory`` megabytes (0: any number).  It is killed when it does
    not answer for ``runner_seconds``, and ends after ``runner_minutes`` without work.  ``connectors``
    is a folder below the project's ``connectors/`` whose version of the connector is used; "" for none.
    """

    history: Literal["off", "changes"] = "changes"
    history_days: float = 30
    removed_days: float = 30
    removal_share: float = 0.25
    removal_floor: int = 10
    loader_minutes: float = 60
    listing_rows: int = 0
    durability: Literal["full", "normal"] = "full"
    isolate: Literal["on", "off"] = "on"
    runner_prefix: str = ""
    runner_memory: int = 2_048
    runner_seconds: float = 60
    runner_minutes: float = 10
    connectors: str = ""


DEFAULTS = Settings()


class InstallationInfo(Struct):
    """What is known of an installation without opening it.

    ``connected_at`` is in seconds since the epoch.  ``config`` holds plain values, never a secret.
    """

    connector: str
    name: str
    id: str
    config: Mapping[str, Json]
    connected_at: float
    settings: Settings = DEFAULTS

    def __str__(self) -> str:
        return f"{self.connector}:{self.name}"
