"""The file of a recording: JSON lines, a header first, then one line for each attempt.

A line is written when its attempt ends, so a killed process leaves a file that can be replayed
up to that point.

Rule: a file comes from anywhere.  Whatever is in it is read or refused with its line; nothing in it
is executed, and no line takes more memory than LONGEST_LINE.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, NamedTuple, TypeAlias

from ..core import SyncOptions
from ..errors import RecordingError
from ..model.tagged_json import canonical
from ..model.values import Json, is_text

FORMAT = 1  # of the file; a newer one is refused
LONGEST_LINE = 2**28  # bytes; an answer that HttpClient accepts takes a quarter
MOST_ATTEMPTS = 1_000_000  # of one run
DAMAGED = "the file was edited or damaged; record again"

MakeLine: TypeAlias = Callable[[], tuple[str, RecordingError | None]]  # a line, and what to raise after it


class Header(NamedTuple):
    """The first line: what was recorded, and what a replay needs besides the attempts."""

    connector: str
    version: str  # of the connector
    installation: str  # its id
    config: Mapping[str, Json]
    credentials: Sequence[str]  # the names of those that existed
    recorded_at: str  # UTC
    began_empty: bool = True  # False: the sync added to data that the recording does not hold
    options: Mapping[str, Json] = MappingProxyType({})  # the sync's options that were given

    def to_json(self) -> Json:
        """The line as JSON data."""
        return {"recording": FORMAT, **self._asdict()}

    @classmethod
    def read(cls, path: Path) -> Header:
        """The header of a file; RecordingError when the file is not a recording."""
        try:
            with opened(path) as file:
                data = _parsed(_line(file, path, "line 1"))
            version = data["recording"]
            if isinstance(version, int) and version > FORMAT:
                raise RecordingError(f"{path}: it has a newer format", hint="update Max to replay it")
            if version != FORMAT or isinstance(version, bool):
                raise ValueError(version)
            header = cls(**{name: data[name] for name in cls._fields if name in data})
        except (ValueError, KeyError, TypeError) as error:
            raise RecordingError(
                f"{path} is not a recording, or it is empty", hint="name a file that --record wrote"
            ) from error
        wrong = [name for name, is_valid in VALID.items() if not is_valid(getattr(header, name))]
        if wrong:
            raise RecordingError(f"{path}: the first line has an invalid {wrong[0]}", hint=DAMAGED)
        return header


def _are_options(given: Json) -> bool:
    """Whether values of the options that this version knows have the types of their defaults."""
    if not isinstance(given, Mapping):
        return False
    only, age = given.get("only", []), given.get("if_stale")
    flags = [given.get(name, False) for name in SyncOptions._names if name not in ("only", "if_stale")]
    age_is_valid = age is None or (isinstance(age, int | float) and math.isfinite(age))
    return _are_texts(only) and age_is_valid and all(isinstance(flag, bool) for flag in flags)


def _are_texts(given: Json) -> bool:
    return isinstance(given, list) and all(isinstance(one, str) for one in given)


VALID: Mapping[str, Callable[[Json], bool]] = {
    **dict.fromkeys(("connector", "version", "installation", "recorded_at"), is_text),
    "config": lambda given: isinstance(given, dict),
    "credentials": _are_texts,
    "began_empty": lambda given: isinstance(given, bool),
    "options": _are_options,
}


def refuse_existing(path: Path) -> None:
    """RecordingError when a file already has content: each recording has a file of its own."""
    if path.is_symlink():
        raise RecordingError(f"{path} is a link", hint="record to a new file: a link may lead anywhere")
    if path.exists() and (not path.is_file() or path.stat().st_size):
        raise RecordingError(
            f"{path} already exists and is not empty",
            hint="record to a new file; parts of one sync are replayed together with several --replay FILE",
        )


class RecordingWriter:
    """Appends whole lines to a file, in the order of the calls, in a thread of its own."""

    def __init__(self, path: Path) -> None:
        refuse_existing(path)
        self._path, self._failure = path, ""
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise RecordingError(f"{path}: {error.strerror}", hint="record to a writable file") from error
        self._thread = ThreadPoolExecutor(1, "max-recording")

    def write(self, make: MakeLine) -> Future[None]:
        """Make a line and write it, in the thread; then raise the error that came with it, if any."""
        return self._thread.submit(self._write, make)

    async def write_and_wait(self, make: MakeLine) -> None:
        """As ``write``, and return when the line is written."""
        await asyncio.shield(asyncio.wrap_future(self.write(make)))

    def _write(self, make: MakeLine) -> None:
        self.check()
        line, error = make()
        self._append(line.encode())
        if error is not None:
            raise error

    def _append(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self._failure = error.strerror or str(error)
            self.check()

    def check(self) -> None:
        """RecordingError when an earlier line could not be written: a recording must not have gaps."""
        if self._failure:
            raise RecordingError(
                f"{self._path}: the recording cannot be written: {self._failure}",
                hint="it can be replayed up to this point; record again to another file",
            )

    async def close(self) -> None:
        """Write the remaining lines and close the file."""
        await asyncio.wrap_future(self._thread.submit(os.close, self._descriptor))
        self._thread.shutdown()


def opened(path: Path) -> BinaryIO:
    """A file to read; RecordingError when there is none, or it is a folder, a pipe or a device."""
    try:
        if path.exists() and not path.is_file():
            raise RecordingError(f"{path}: it is not a file", hint="name a file that --record wrote")
        return path.open("rb")
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}", hint="name a file that --record wrote") from error


def _line(file: BinaryIO, path: Path, where: str) -> bytes:
    line = file.readline(LONGEST_LINE + 1)
    if len(line) > LONGEST_LINE:
        raise RecordingError(f"{path}, {where}: it is longer than {LONGEST_LINE:,} bytes", hint=DAMAGED)
    return line


def _parsed(line: bytes) -> Json:
    """A line as JSON data; ValueError."""
    try:
        return json.loads(line)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def attempts_in(path: Path, notes: list[str]) -> Iterator[tuple[int, Json]]:
    """Every attempt with the offset of its line; an incomplete last line becomes a note."""
    with opened(path) as file:
        offset = len(_line(file, path, "line 1"))
        for number in count(2):
            line = _line(file, path, f"line {number}")
            if line and not line.endswith(b"\n"):
                notes.append(f"{path} ends within line {number}: the recording was interrupted")
            if not line.endswith(b"\n"):
                return
            yield offset, _attempt(line, path, f"line {number}")
            offset += len(line)


def attempt_at(path: Path, offset: int) -> Json:
    """The attempt whose line begins at an offset."""
    with opened(path) as file:
        file.seek(offset)
        return _attempt(_line(file, path, f"byte {offset}"), path, f"byte {offset}")


def _attempt(line: bytes, path: Path, where: str) -> Json:
    try:
        entry = _parsed(line)
        attempt, is_named = entry["attempt"], isinstance(entry["operation"], str)
        is_counted = type(attempt) is int and 1 <= attempt <= MOST_ATTEMPTS
        if not (is_named and is_counted and entry.keys() & {"output", "error", "cancelled"}):
            raise ValueError("it has no outcome")
        canonical(entry["input"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordingError(
            f"{path}, {where}: this is not an attempt of an operation", hint=DAMAGED
        ) from error
    return entry


def to_line(data: Json) -> str:
    """Data as a line; RecordingError for a number that is too long to be read back."""
    try:
        text = json.dumps(data, ensure_ascii=False)
    except ValueError as error:
        raise RecordingError(f"{data['operation']}: a recording cannot hold this: {error}") from error
    line = f"{text if is_text(text) else json.dumps(data)}\n"  # half a surrogate pair must be escaped
    if len(line) * 4 > LONGEST_LINE and len(line.encode()) > LONGEST_LINE:
        raise RecordingError(f"{data['operation']}: a recording cannot hold more than {LONGEST_LINE:,} bytes")
    return line


def timestamp(seconds: float) -> str:
    """A time as UTC text of fixed length, so that texts sort as times do."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
