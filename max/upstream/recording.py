"""Recordings: what a sync asked outside and what came of it, written down and played again.

A recording is JSON lines, to be read by people: a header, then every attempt of every operation in
the order in which they ended.  It is written as it happens, a line at a time, so whoever is
killed leaves a recording that can be played up to there.

Rule 1: no secret reaches a recording, in no encoding that it may have taken on its way.  A line that
would hold one all the same is not written.

Rule 2: what goes in a recording can be had from it again, without running code that it names: a
value that cannot is refused while recording, with the operation that gave it.

Rule 3: a replay asks nobody.  Every run of an operation gets what the same run came to when it
was recorded: the nth one with this operation and input what the nth one got, whatever came in
between; there are no retries, since the recording knows how they ended, and no waits.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from ..connector import AnyConnector
from ..core import InstallationInfo, Lifecycle, SyncOptions
from ..errors import RecordingError, ReplayMismatch
from ..model.loaders import In, Out
from ..model.query import C
from ..model.schema import Schema, snake_case
from ..model.values import Json, is_text
from ..storage.catalogue import migrate
from ..storage.database import Connection, quoted
from ..storage.sqlite import reader
from .codec import Codec, canonical, decoded_error
from .credentials import CredentialProvider, MemoryCredentials
from .hosts import Hosts, Origin
from .operations import AnyOperation, Call, Limits, Next, Operation, OperationRunner
from .redaction import MARK, Scrubber

T = TypeVar("T")

FORMAT = 1  # of the recording; a newer one is refused
AT_ONCE = -1.0  # drawn instead of chance: every wait that is spread is then nothing
SHOWN = 200  # characters of an input that a message repeats
COMPARED = 500  # recorded inputs among which the most similar one is looked for


# -- whose data it is ----------------------------------------------------------------------------
#
# A database holds what a service answered, or what a recording did, never both: it says so itself.

MIGRATION = "CREATE TABLE _max_replay (installation TEXT NOT NULL, recorded_at TEXT NOT NULL) STRICT"
RECORDINGS = "SELECT installation, recorded_at FROM _max_replay ORDER BY recorded_at DESC LIMIT 1"
KNOWN_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"


def replayed(connection: Connection) -> tuple[str, str] | None:
    """The installation whose recordings a database was replayed from, and when the last was recorded."""
    tables = {name for (name,) in connection.execute(KNOWN_TABLES)}
    found: tuple[str, str] | None = (
        connection.execute(RECORDINGS).fetchone() if "_max_replay" in tables else None
    )
    return found


def holds_data(connection: Connection, schema: Schema) -> bool:
    """Whether a database has any row of the schema's entities."""
    tables = {name for (name,) in connection.execute(KNOWN_TABLES)} & set(map(snake_case, schema.entities))
    return any(connection.execute(f"SELECT 1 FROM {quoted(name)} LIMIT 1").fetchone() for name in tables)


def refuse_replayed(connection: Connection) -> None:
    """RecordingError when a database holds a replay: what a service answers must not be mixed with it."""
    owner = replayed(connection)
    if owner is not None:
        raise RecordingError(
            f"this installation holds the replay of a recording that was recorded at {owner[1]}",
            hint="replay into it again with --replay, or connect the service under another name",
        )


# -- the recording ------------------------------------------------------------------------------------


class Header(NamedTuple):
    """A recording's first line: whose it is, and what a replay needs beside the attempts."""

    connector: str
    version: str  # of the connector
    installation: str  # id
    config: Mapping[str, Json]
    credentials: Sequence[str]  # which ones there were
    recorded_at: str  # UTC
    began_empty: bool = True  # whether there was no data yet, so that a replay can begin with none
    options: Mapping[str, Json] = MappingProxyType({})  # of the sync, those that were given

    def to_json(self) -> Json:
        """The line as JSON data."""
        return {
            "recording": FORMAT,
            "connector": self.connector,
            "connectorVersion": self.version,
            "installation": self.installation,
            "recordedAt": self.recorded_at,
            "beganEmpty": self.began_empty,
            "credentials": list(self.credentials),
            "config": dict(self.config),
            "options": dict(self.options),
        }

    @classmethod
    def read(cls, path: Path) -> Header:
        """The header of a file; RecordingError when it has none."""
        try:
            with path.open("rb") as file:
                data = json.loads(file.readline())
            if data["recording"] > FORMAT:
                raise RecordingError(f"{path}: it has a newer format", hint="update Max to replay it")
            return cls(
                *(data["connector"], data["connectorVersion"], data["installation"], dict(data["config"])),
                *(list(data["credentials"]), data["recordedAt"], data["beganEmpty"], data.get("options", {})),
            )
        except OSError as error:
            raise RecordingError(
                f"{path}: {error.strerror}", hint="name a file that --record wrote"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise RecordingError(
                f"{path} is no recording, or an empty one", hint="name a file that --record wrote"
            ) from error


class UpstreamAccess(Lifecycle, Protocol):
    """What stands between a runtime and the outside; ``live`` says whether that is really there."""

    live: bool

    async def provide(
        self, info: InstallationInfo, connector: AnyConnector, credentials: CredentialProvider
    ) -> CredentialProvider:
        """The credentials that ``initialise`` is given; asked for after each start, before anything runs."""

    def caller(self, renew: Callable[[], Awaitable[None]] | None) -> OperationRunner:
        """Who runs the operations."""

    def draw(self) -> float:
        """Chance, with which waits are spread."""

    def scope(self, options: SyncOptions) -> SyncOptions:
        """The options with which a sync is to be begun when these are given."""

    def admit(self, connection: Connection) -> None:
        """A sync begins in this database, within this transaction; RecordingError when it must not."""


class LiveAccess(UpstreamAccess):
    """Straight to the outside."""

    live = True

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    async def provide(
        self, info: InstallationInfo, connector: AnyConnector, credentials: CredentialProvider
    ) -> CredentialProvider:
        """The credentials as they are."""
        return credentials

    def caller(self, renew: Callable[[], Awaitable[None]] | None) -> OperationRunner:
        """A caller as any other."""
        return OperationRunner(Limits(), renew=renew)

    def draw(self) -> float:
        """Chance."""
        return random.random()  # noqa: S311  # it spreads waits

    def scope(self, options: SyncOptions) -> SyncOptions:
        """Those."""
        return options

    def admit(self, connection: Connection) -> None:
        """Any database but one that holds a replay."""
        refuse_replayed(connection)


# -- recording ---------------------------------------------------------------------------------

_RUNS: ContextVar[tuple[str, ...]] = ContextVar("the operations under way, one within the other", default=())


class Recording(LiveAccess):
    """Writes every attempt to a file, which must be new or empty.  A service.

    ``clock`` gives seconds since the epoch.
    """

    def __init__(self, path: Path | str, *, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(path)
        self._clock = clock
        self._writer: _Writer | None = None
        self._clean = Scrubber(tuple)
        self._schema = Schema([])
        self._header: Header | None = None
        self._options: Mapping[str, Json] = {}

    def prepare(self, info: InstallationInfo, connector: AnyConnector, database: Path) -> Mapping[str, Json]:
        """The configuration to record with, which is the installation's."""
        refuse_written(self.path)
        return info.config

    async def start(self) -> None:
        """Open the file; RecordingError when it holds something, or cannot be written."""
        if self._writer is None:
            self._writer = _Writer(self.path)

    async def stop(self) -> None:
        """Write what is still to be written, and close the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()

    async def provide(
        self, info: InstallationInfo, connector: AnyConnector, credentials: CredentialProvider
    ) -> CredentialProvider:
        """The credentials as they are; the recording keeps out those, and all that are kept later."""
        found = {one: await credentials.find(one) for one in connector.credentials}
        held = [one.name for one, secret in found.items() if one.secret and secret is not None]
        self._clean, self._schema = Scrubber(lambda: credentials.seen), connector.schema
        self._clean.refresh()
        config = {key: _in_texts(value, self._clean.text) for key, value in info.config.items()}
        now = _moment(self._clock())
        self._header = Header(connector.name, connector.version, info.id, config, held, now)
        return credentials

    def caller(self, renew: Callable[[], Awaitable[None]] | None) -> OperationRunner:
        """A caller with this recording innermost."""
        return _RecordingRunner(Limits(), middlewares=[self.record], renew=renew)

    def scope(self, options: SyncOptions) -> SyncOptions:
        """Those; the header names them."""
        given = {name: getattr(options, name) for name in options._names}
        self._options = {name: one for name, one in given.items() if one != getattr(SyncOptions, name)}
        return options

    def admit(self, connection: Connection) -> None:
        """Any database but one that holds a replay; the header says whether it was empty."""
        super().admit(connection)
        header, self._header = self._header, None
        if header is not None:
            empty = not holds_data(connection, self._schema)
            line = _line(header._replace(began_empty=empty, options=self._options).to_json())
            self._clean.refuse(line, "the recording's first line")
            self._opened().write(lambda: (line, None))

    async def record(self, call: Call, next: Next) -> Any:
        """Make an attempt and write down what came of it: a middleware."""
        self._opened().refuse_broken()
        self._clean.refresh()
        entry = _Entry(call, Codec(call.operation, self._schema, self._clean), self._clock, self._clean)
        try:
            output = await next(call)
        except asyncio.CancelledError:
            self._opened().write(entry.ended("cancelled", lambda: True))
            raise
        except Exception as error:
            await self._opened().written(entry.ended("error", partial(entry.codec.encode_error, error)))
            raise
        await self._opened().written(entry.ended("output", partial(entry.codec.encode, output)))
        return output

    def _opened(self) -> _Writer:
        if self._writer is None:
            raise RecordingError(f"{self.path}: the recording is not open", hint="start it first")
        return self._writer


class _RecordingRunner(OperationRunner):
    """Knows which operation another one runs within."""

    async def run(
        self, operation: Operation[C, In, Out], context: C, input: In, *, renewing: bool = True
    ) -> Out:
        """The operation's output, as every caller gives it."""
        outer = _RUNS.set((*_RUNS.get(), operation.name))
        try:
            return await super().run(operation, context, input, renewing=renewing)
        finally:
            _RUNS.reset(outer)


class _Entry:
    """One attempt on its way to the recording.

    What an operation runs on its own behalf, such as asking for a new token, needs no answer in a
    replay and is likely to be secret: its texts are left out.
    """

    def __init__(self, call: Call, codec: Codec, clock: Callable[[], float], clean: Scrubber) -> None:
        self.codec, self._clock, self._clean = codec, clock, clean
        self._name, self._began = call.operation.name, clock()
        *outer, _ = _RUNS.get() or ("",)
        self._secretly = bool(outer)
        self._told = {
            "operation": self._name,
            **({"within": outer[-1]} if outer else {}),
            "input": self._hidden(codec.encode_input(call.input)),
            "attempt": call.attempt,
            "at": _moment(self._began),
        }

    def _hidden(self, data: Json) -> Json:
        return _in_texts(data, lambda text: MARK) if self._secretly else data

    def _written(self, told: Json, key: str, encode: Callable[[], Json]) -> str:
        line = _line(told | {key: self._hidden(encode())})
        self._clean.refuse(line, self._name)
        return line

    def ended(self, key: str, encode: Callable[[], Json]) -> Callable[[], tuple[str, RecordingError | None]]:
        """The work of writing the line, and what is to be raised once it is written."""
        told = {**self._told, "seconds": round(self._clock() - self._began, 6)}

        def work() -> tuple[str, RecordingError | None]:
            self._clean.refresh()  # the attempt may have brought a new secret
            try:
                return self._written(told, key, encode), None
            except RecordingError as refused:
                return self._written(told, "error", partial(self.codec.encode_error, refused)), refused

        return work


def refuse_written(path: Path) -> None:
    """RecordingError when a file holds something: each recording has its own file."""
    if path.exists() and (not path.is_file() or path.stat().st_size):
        raise RecordingError(
            f"{path} holds something already",
            hint="record to a new file; what was recorded in parts is replayed with several --replay FILE",
        )


class _Writer:
    """A file that grows by whole lines, in the order in which they are handed in."""

    def __init__(self, path: Path) -> None:
        refuse_written(path)
        self._path, self._broken = path, ""
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise RecordingError(
                f"{path}: {error.strerror}", hint="record to a file that can be written"
            ) from error
        self._thread = ThreadPoolExecutor(1, "max-recording")

    def write(self, work: Callable[[], tuple[str, RecordingError | None]]) -> Future[None]:
        """Write the line that some work gives, in a thread; raises what the work gives with it."""
        return self._thread.submit(self._write, work)

    async def written(self, work: Callable[[], tuple[str, RecordingError | None]]) -> None:
        """The same, until it is done."""
        await asyncio.shield(asyncio.wrap_future(self.write(work)))

    def _write(self, work: Callable[[], tuple[str, RecordingError | None]]) -> None:
        self.refuse_broken()
        line, refused = work()
        self._append(line)
        if refused is not None:
            raise refused

    def _append(self, text: str) -> None:
        data = text.encode()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self._broken = error.strerror or str(error)
            self.refuse_broken()

    def refuse_broken(self) -> None:
        """RecordingError when a line could not be written: what follows a gap would be of no use."""
        if self._broken:
            raise RecordingError(
                f"{self._path}: the recording cannot be written: {self._broken}",
                hint="it can be replayed up to there; record again to another file",
            )

    async def close(self) -> None:
        """Write what was handed in, and close the file."""
        await asyncio.wrap_future(self._thread.submit(os.close, self._descriptor))
        self._thread.shutdown()


def _moment(seconds: float) -> str:
    """A time as text of one length, so that texts sort as times do."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _line(data: Json) -> str:
    """Data as a line; RecordingError for a number that is too long to be read again."""
    try:
        text = json.dumps(data, ensure_ascii=False)
    except ValueError as error:
        raise RecordingError(f"{data['operation']}: a recording cannot hold this: {error}") from error
    return f"{text if is_text(text) else json.dumps(data)}\n"  # half a surrogate pair has to be escaped


def _in_texts(data: Json, change: Callable[[str], str]) -> Json:
    """JSON data with its texts changed, and its keys left."""
    if isinstance(data, str):
        return change(data)
    if isinstance(data, list):
        return [_in_texts(one, change) for one in data]
    return {key: _in_texts(one, change) for key, one in data.items()} if isinstance(data, dict) else data


# -- replaying ---------------------------------------------------------------------------------


class _Run(NamedTuple):
    """What one run of an operation came to: after how many attempts, and where the last one stands."""

    attempts: int
    file: int
    offset: int


class _Raised(NamedTuple):
    """What a run came to that failed."""

    error: Exception


Key = tuple[str, str]  # an operation's name, and its input as canonical JSON


class Replay(UpstreamAccess):
    """Answers every operation from the recordings of one sync: one, or more when it was interrupted.

    A service; each start begins at the beginning.  RecordingError when the files are no recordings of one
    installation.
    """

    live = False

    def __init__(self, *paths: Path | str) -> None:
        read = [(Header.read(Path(path)), Path(path)) for path in paths]
        recordings = sorted(read, key=lambda recording: recording[0].recorded_at)
        self.headers, self._paths = [header for header, _ in recordings], [path for _, path in recordings]
        self.header = self.headers[0]
        for header, path in recordings:
            if header.installation != self.header.installation:
                raise RecordingError(
                    f"{path} and {self._paths[0]} were recorded from different installations",
                    hint="several recordings are replayed together when they are parts of one sync",
                )
        self.notes: list[str] = []  # what is odd about the recordings, each in a line
        self._runs: dict[Key, deque[_Run]] = {}
        self._asked: Counter[Key] = Counter()
        self._connector: AnyConnector | None = None
        self._credentials: CredentialProvider | None = None
        self._thread: ThreadPoolExecutor | None = None

    # what the recordings hold

    async def start(self) -> None:
        """Read which runs there are."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "max-recording")
            try:
                await self._reading(self._index)
            except BaseException:
                await self.stop()
                raise

    async def stop(self) -> None:
        """Leave the files alone."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown()

    async def _reading(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise RecordingError("the recording is not open", hint="start it first")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _index(self) -> None:
        self._runs, self._asked, self.notes = {}, Counter(), []
        for file, path in enumerate(self._paths):
            open_runs: dict[Key, list[_Run]] = {}
            for offset, entry in self._entries(path):
                key = (entry["operation"], canonical(entry["input"]))
                if "within" not in entry and "cancelled" not in entry:
                    self._take(open_runs.setdefault(key, []), _Run(entry["attempt"], file, offset))
            for key, runs in open_runs.items():
                self._runs.setdefault(key, deque()).extend(runs)

    @staticmethod
    def _take(runs: list[_Run], one: _Run) -> None:
        """Add an attempt: to the run whose last attempt was the one before, or as a run of its own."""
        for number, run in enumerate(runs):
            if run.attempts == one.attempts - 1:
                runs[number] = one
                return
        runs.append(one)

    def _entries(self, path: Path) -> Iterator[tuple[int, Json]]:
        """Every attempt, and where its line begins."""
        with path.open("rb") as file:
            offset = len(file.readline())
            for number, line in enumerate(file, 2):
                if not line.endswith(b"\n"):
                    self.notes.append(f"{path} ends within line {number}: its recording was cut short")
                    return
                yield offset, _parsed(line, path, number)
                offset += len(line)

    # playing

    async def provide(
        self, info: InstallationInfo, connector: AnyConnector, credentials: CredentialProvider
    ) -> CredentialProvider:
        """A mark in place of every secret that there was; those that there are now stay where they are."""
        self.refuse_other_connector(connector.name)
        self._connector = connector
        versions = sorted({one.version for one in self.headers} - {connector.version})
        self.notes += [
            f"recorded with version {one} of {info.connector}; this is {connector.version}"
            for one in versions
        ]
        if not self.header.began_empty:
            self.notes.append("the recorded sync began with data, which the recording does not hold")
        held = MemoryCredentials(dict.fromkeys(self.header.credentials, MARK))
        self._credentials = CredentialProvider(held, connector.credentials, credentials.hosts)
        return self._credentials

    def refuse_other_connector(self, name: str) -> None:
        """RecordingError unless the recording was recorded with a connector of this name."""
        if name != self.header.connector:
            raise RecordingError(
                f"the recording was recorded from {self.header.connector}, not from {name}",
                hint=f"replay it into a new one: max sync {self.header.connector}:NAME --replay FILE",
            )

    def caller(self, renew: Callable[[], Awaitable[None]] | None) -> OperationRunner:
        """A caller that asks nobody."""
        return _ReplayRunner(self)

    def draw(self) -> float:
        """No wait is spread: there is none."""
        return AT_ONCE

    def scope(self, options: SyncOptions) -> SyncOptions:
        """Those, if there are any; else the recorded ones."""
        recorded = {name: one for name, one in self.header.options.items() if name in SyncOptions._names}
        if "only" in recorded:
            recorded["only"] = tuple(recorded["only"])
        return SyncOptions(**recorded) if options == SyncOptions() else options

    def admit(self, connection: Connection) -> None:
        """An empty database, or one that holds a replay of the same installation; it says so from now on.

        From here on the connector's own clients reach nobody, either.
        """
        assert self._connector is not None  # noqa: S101  # provide comes before the first sync
        assert self._credentials is not None  # noqa: S101
        self._credentials.hosts = _Nobody()
        self._refuse_other(connection, self._connector.schema)
        migrate(connection, "replay", [MIGRATION])
        connection.execute("INSERT INTO _max_replay VALUES (?, ?)", self._identity)

    @property
    def _identity(self) -> tuple[str, str]:
        return self.header.installation, self.headers[-1].recorded_at

    def _refuse_other(self, connection: Connection, schema: Schema) -> None:
        owner = replayed(connection)
        if owner is None and not holds_data(connection, schema):
            return
        if owner is None or owner[0] != self.header.installation:
            what = "data that was synced" if owner is None else "another installation's replay"
            raise RecordingError(
                f"this installation holds {what}; a replay would mix with it",
                hint=f"replay into a new one: max sync {self.header.connector}:NAME --replay FILE",
            )

    def prepare(self, info: InstallationInfo, connector: AnyConnector, database: Path) -> Mapping[str, Json]:
        """The configuration to replay with, the recorded one; makes room in a file that is not in use.

        What an earlier replay left there is removed, if the recorded sync began with nothing.
        RecordingError when the file holds anything else than a replay of the same installation.
        """
        self.refuse_other_connector(connector.name)
        if database.exists():
            with reader(database) as connection:
                self._refuse_other(connection, connector.schema)
                again = replayed(connection) is not None and self.header.began_empty
            for end in ("", "-wal", "-shm") if again else ():
                database.with_name(database.name + end).unlink(missing_ok=True)
        known = {one.name for one in dataclasses.fields(connector.config)}
        return {key: value for key, value in self.header.config.items() if key in known}

    async def answer(self, operation: AnyOperation, input: object) -> tuple[int, Any]:
        """After how many attempts the next run of an operation with an input ended, and how.

        ReplayMismatch when the recording has no such run any more.
        """
        assert self._connector is not None  # noqa: S101  # provide comes before the first call
        codec = Codec(operation, self._connector.schema, Scrubber(tuple))
        key = (operation.name, canonical(codec.encode_input(input)))
        runs = self._runs.get(key)
        if not runs:
            raise await self._reading(partial(self._parted, key))
        run = runs.popleft()
        self._asked[key] += 1
        return run.attempts, await self._reading(partial(self._outcome, run, codec))

    def _outcome(self, run: _Run, codec: Codec) -> Any:
        with self._paths[run.file].open("rb") as file:
            file.seek(run.offset)
            entry = json.loads(file.readline())
        if "error" in entry:
            return _Raised(decoded_error(codec.decode(entry["error"])))
        return codec.decode(entry["output"])

    def _parted(self, key: Key) -> ReplayMismatch:
        name, input = key
        left = [other for (operation, other), runs in self._runs.items() if operation == name and runs]
        asked = [other for operation, other in self._runs if operation == name and other != input]
        near = most_similar(input, left or asked)
        return ReplayMismatch(
            name, _short(input), again=self._asked[key], left=self.left()[name], nearest=near
        )

    def left(self) -> Counter[str]:
        """How many runs of each operation nobody has asked for."""
        left: Counter[str] = Counter()
        for (operation, _), runs in self._runs.items():
            left[operation] += len(runs)
        return +left

    def report(self) -> list[str]:
        """The notes, and what nobody asked for, each in a line."""
        left = ", ".join(f"{name} ({count})" for name, count in sorted(self.left().items()))
        return [*self.notes, *([f"nobody asked for these answers in the recording: {left}"] if left else [])]


class _Nobody(Hosts):
    """Where a replay may send requests."""

    def check(self, origin: Origin) -> None:
        """RecordingError: what is asked outside of an operation is on no recording."""
        raise RecordingError(
            f"{origin} would be asked outside of any operation, and a replay asks nobody",
            hint="let the connector ask through an operation; in a seeder, with run_operation",
        )


class _ReplayRunner(OperationRunner):
    """Asks nobody: neither limits nor renewals nor retries are needed."""

    def __init__(self, replay: Replay) -> None:
        super().__init__(Limits())
        self._replay = replay

    async def run(
        self, operation: Operation[C, In, Out], context: C, input: In, *, renewing: bool = True
    ) -> Out:
        """What the same run came to when it was recorded."""
        attempts, outcome = await self._replay.answer(operation, input)
        self.calls[operation.name] += attempts
        if isinstance(outcome, _Raised):
            raise outcome.error
        return cast(Out, outcome)


def most_similar(text: str, known: Sequence[str]) -> str | None:
    """Which of some texts is most like another one, shortened; None when there is none."""
    from difflib import get_close_matches

    short = {_short(one): None for one in known[:COMPARED]}
    return next(iter(get_close_matches(_short(text), list(short), 1, 0.0)), None)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _parsed(line: bytes, path: Path, number: int) -> Json:
    try:
        entry = json.loads(line)
        entry["operation"], entry["input"], entry["attempt"]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordingError(
            f"{path}, line {number}: this is no attempt of an operation",
            hint="the recording was changed; record anew",
        ) from error
    return entry
