"""The file of a recording: JSON lines, a header first, then one line for each attempt.

A line is written when its attempt ends, so a killed process leaves a file that can be replayed
up to that point.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from ..errors import RecordingError
from ..model.values import Json, is_text

FORMAT = 1  # of the file; a newer one is refused

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
            with path.open("rb") as file:
                data = json.loads(file.readline())
            if data["recording"] > FORMAT:
                raise RecordingError(f"{path}: it has a newer format", hint="update Max to replay it")
            return cls(**{name: data[name] for name in cls._fields if name in data})
        except OSError as error:
            raise RecordingError(
                f"{path}: {error.strerror}", hint="name a file that --record wrote"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise RecordingError(
                f"{path} is not a recording, or it is empty", hint="name a file that --record wrote"
            ) from error


def refuse_existing(path: Path) -> None:
    """RecordingError when a file already has content: each recording has a file of its own."""
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


def attempts_in(path: Path, notes: list[str]) -> Iterator[tuple[int, Json]]:
    """Every attempt with the offset of its line; an incomplete last line becomes a note."""
    with path.open("rb") as file:
        offset = len(file.readline())
        for number, line in enumerate(file, 2):
            if not line.endswith(b"\n"):
                notes.append(f"{path} ends within line {number}: the recording was interrupted")
                return
            yield offset, _parsed(line, path, number)
            offset += len(line)


def attempt_at(path: Path, offset: int) -> Json:
    """The attempt whose line begins at an offset."""
    with path.open("rb") as file:
        file.seek(offset)
        return json.loads(file.readline())


def _parsed(line: bytes, path: Path, number: int) -> Json:
    try:
        entry = json.loads(line)
        entry["operation"], entry["input"], entry["attempt"]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordingError(
            f"{path}, line {number}: this is not an attempt of an operation",
            hint="the file was edited or damaged; record again",
        ) from error
    return entry


def to_line(data: Json) -> str:
    """Data as a line; RecordingError for a number that is too long to be read back."""
    try:
        text = json.dumps(data, ensure_ascii=False)
    except ValueError as error:
        raise RecordingError(f"{data['operation']}: a recording cannot hold this: {error}") from error
    return f"{text if is_text(text) else json.dumps(data)}\n"  # half a surrogate pair must be escaped


def timestamp(seconds: float) -> str:
    """A time as UTC text of fixed length, so that texts sort as times do."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
