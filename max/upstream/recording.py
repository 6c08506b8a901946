"""Recordings: every attempt of every operation of a sync, written to a file as it ends.

Rule 1: a recording holds no secret, in any encoding.  A line that would still hold one after
redaction is not written.

Rule 2: what is written can be read back without running code that the file names.  A value for
which that is impossible fails its attempt while recording, with the operation's name.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..core import Lifecycle, RecordingInfo, SyncOptions
from ..errors import RecordingError
from ..model.middleware import Middleware
from ..model.schema import Schema
from ..model.values import Json
from .codec import Codec
from .credentials import Credential, CredentialProvider
from .operations import Call, FlowController, Next, OperationRunner
from .recording_file import Header, MakeLine, RecordingWriter, refuse_existing, timestamp, to_line
from .redaction import MARK, Redactor, map_texts

INCREMENT = (
    "it adds to rows that it does not hold, so it can be replayed only onto a replay of the recordings that"
    " brought them; to record everything, record the first sync of a new installation"
)
Renew = Callable[[], Awaitable[None]] | None


class Source(NamedTuple):
    """The installation whose calls are made, recorded or replayed."""

    connector: str
    version: str  # of the connector
    installation: str  # its id
    config: Mapping[str, Json]
    schema: Schema
    credentials: Sequence[Credential]  # those that the connector declares


class CallsOf(NamedTuple):
    """Whose calls they are: an installation's id, and the middlewares that are around every attempt."""

    installation: str = ""
    middlewares: Sequence[Middleware[Call]] = ()


CALLS = CallsOf()


class UpstreamAccess(Lifecycle):
    """How a runtime reaches the service: here, the service itself answers.

    Recording and Replay change that.  ``replay_of`` is the recording that answers in place of
    the service, None when the service does.
    """

    replay_of: RecordingInfo | None = None
    asks_conditions = True  # a recording must hold every page, since a replay begins with none

    async def start(self) -> None:
        """Open what is needed; nothing here."""

    async def stop(self) -> None:
        """Close it; nothing here."""

    def prepare(self, connector: str, config: Mapping[str, Json]) -> Mapping[str, Json]:
        """The configuration to use, given the installation's; called before anything is opened."""
        return config

    async def provide(self, source: Source, credentials: CredentialProvider) -> CredentialProvider:
        """The credentials for ``initialise``; called after each start, before any operation."""
        return credentials

    def runner(self, renew: Renew, flow: FlowController | None, calls: CallsOf = CALLS) -> OperationRunner:
        """What runs the operations; without ``flow``, the limits that they declare apply."""
        return OperationRunner(
            flow, renew=renew, middlewares=calls.middlewares, installation=calls.installation
        )

    def jitter(self) -> float:
        """A random number in [0, 1) that spreads waits between retries."""
        return random.random()  # noqa: S311  # not for security

    def sync_options(self, given: SyncOptions) -> SyncOptions:
        """The options with which to begin a sync when these are given."""
        return given

    def begin(self, options: SyncOptions, *, was_empty: bool) -> None:
        """A sync begins; ``was_empty``: the database has no rows yet."""

    def report(self) -> list[str]:
        """What a person should know after the sync, a line each."""
        return []


class Recording(UpstreamAccess):
    """The service answers, and every attempt is written to a file, which must be new or empty.

    ``clock`` gives seconds since the epoch.
    """

    asks_conditions = False

    def __init__(self, path: Path | str, *, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(path)
        self._clock = clock
        self._writer: RecordingWriter | None = None
        self._redactor = Redactor(tuple)
        self._schema = Schema([])
        self._header: Header | None = None
        self._adds_to_rows = False

    def prepare(self, connector: str, config: Mapping[str, Json]) -> Mapping[str, Json]:
        """The installation's configuration; RecordingError when the file has content."""
        refuse_existing(self.path)
        return config

    async def start(self) -> None:
        """Open the file; RecordingError when it has content or cannot be written."""
        if self._writer is None:
            self._writer = RecordingWriter(self.path)

    async def stop(self) -> None:
        """Write the remaining lines and close the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()

    async def provide(self, source: Source, credentials: CredentialProvider) -> CredentialProvider:
        """The installation's credentials; these and all later ones are kept out of the file."""
        found = {one: await credentials.find(one) for one in source.credentials}
        names = [one.name for one, secret in found.items() if one.secret and secret is not None]
        self._redactor, self._schema = Redactor(lambda: credentials.known_secrets), source.schema
        self._redactor.refresh()
        config = {key: map_texts(value, self._redactor.text) for key, value in source.config.items()}
        now = timestamp(self._clock())
        self._header = Header(source.connector, source.version, source.installation, config, names, now)
        return credentials

    def runner(self, renew: Renew, flow: FlowController | None, calls: CallsOf = CALLS) -> OperationRunner:
        """A runner that records every attempt, inside all limits, retries and middlewares."""
        return OperationRunner(
            flow,
            renew=renew,
            middlewares=calls.middlewares,
            wrappers=[self.record],
            installation=calls.installation,
        )

    def begin(self, options: SyncOptions, *, was_empty: bool) -> None:
        """Write the header, with the options of the sync."""
        header, self._header = self._header, None
        self._adds_to_rows = not was_empty
        if header is not None:
            given = {name: getattr(options, name) for name in options._names}
            given = {name: one for name, one in given.items() if one != getattr(SyncOptions, name)}
            line = to_line(header._replace(began_empty=was_empty, options=given).to_json())
            self._redactor.check(line, "the header of the recording")
            self._open_writer().write(lambda: (line, None))

    def report(self) -> list[str]:
        """That an increment can be replayed only where the rows are that it adds to."""
        return [f"{self.path}: {INCREMENT}"] if self._adds_to_rows else []

    async def record(self, call: Call, next: Next) -> Any:
        """A wrapper: make the attempt and write its outcome."""
        self._open_writer().check()
        self._redactor.refresh()
        codec = Codec(call.operation, self._schema, self._redactor)
        entry = _Entry(call, codec, self._clock, self._redactor)
        try:
            output = await next(call)
        except asyncio.CancelledError:
            self._open_writer().write(entry.line("cancelled", lambda: True))
            raise
        except Exception as error:
            await self._open_writer().write_and_wait(entry.line("error", partial(codec.encode_error, error)))
            raise
        await self._open_writer().write_and_wait(entry.line("output", partial(codec.encode, output)))
        return output

    def _open_writer(self) -> RecordingWriter:
        if self._writer is None:
            raise RecordingError(f"{self.path}: the recording is not open", hint="start it first")
        return self._writer


class _Entry:
    """One attempt, as the file will hold it.

    The texts of an operation that runs within another one, such as fetching a token, are left
    out: a replay does not need them, and they are likely to be secret.
    """

    def __init__(self, call: Call, codec: Codec, clock: Callable[[], float], redactor: Redactor) -> None:
        self._codec, self._clock, self._redactor = codec, clock, redactor
        self._name, self._began = call.operation.name, clock()
        self._is_nested = bool(call.within)
        self._data = {
            "operation": self._name,
            **({"within": call.within} if call.within else {}),
            "input": self._without_texts(codec.encode_input(call.input)),
            "attempt": call.attempt,
            "at": timestamp(self._began),
        }

    def line(self, key: str, encode: Callable[[], Json]) -> MakeLine:
        """The work of making the line, with the outcome under a key.

        An outcome that cannot be recorded is replaced by the error that says so.
        """
        data = {**self._data, "seconds": round(self._clock() - self._began, 6)}

        def work() -> tuple[str, RecordingError | None]:
            self._redactor.refresh()  # the attempt may have brought a new secret
            try:
                return self._checked(data, key, encode), None
            except RecordingError as error:
                return self._checked(data, "error", partial(self._codec.encode_error, error)), error

        return work

    def _checked(self, data: Json, key: str, encode: Callable[[], Json]) -> str:
        line = to_line(data | {key: self._without_texts(encode())})
        self._redactor.check(line, self._name)
        return line

    def _without_texts(self, data: Json) -> Json:
        return map_texts(data, lambda text: MARK) if self._is_nested else data
