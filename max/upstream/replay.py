"""Replays: a sync that gets every answer from a recording, and reaches no network.

Rule: each run of an operation gets the outcome that the same run had when it was recorded.  The
nth run with an operation and an input gets the nth recorded outcome, whatever ran in between.
There are no retries, since the recording holds how they ended, and no waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from ..core import RecordingInfo, SyncOptions
from ..errors import RecordingError, ReplayMismatch
from ..model.loaders import Env, In, Out
from ..model.query import C
from ..model.schema import Schema
from ..model.tagged_json import canonical
from ..model.values import Json
from .codec import Codec, decode_error
from .credentials import CredentialProvider, MemoryCredentials
from .hosts import Hosts, Origin
from .operations import AnyOperation, FlowController, Operation, OperationRunner
from .recording import CALLS, CallsOf, Renew, Source, UpstreamAccess
from .recording_file import Header, attempt_at, attempts_in
from .redaction import MARK, Redactor

T = TypeVar("T")

NO_WAIT = -1.0  # as jitter: a wait is multiplied by (0.5 + jitter / 2), which is 0
SHOWN = 200  # characters of an input that a message repeats
COMPARED = 500  # recorded inputs among which the most similar one is looked for


class _Run(NamedTuple):
    """One run of an operation: how many attempts it took, and where the last one is."""

    attempts: int
    file: int
    offset: int


class _Failure(NamedTuple):
    """The outcome of a run that failed."""

    error: Exception


Key = tuple[str, str]  # an operation's name, and its input as canonical JSON


class Replay(UpstreamAccess):
    """Recordings of one sync answer: one file, or several when the sync was interrupted.

    Each start begins at the beginning.  RecordingError when a file is not a recording, or the
    files are of different installations.
    """

    asks_conditions = False

    def __init__(self, *paths: Path | str) -> None:
        read = [(Header.read(Path(path)), Path(path)) for path in paths]
        parts = sorted(read, key=lambda part: part[0].recorded_at)
        self.headers, self._paths = [header for header, _ in parts], [path for _, path in parts]
        self.header = self.headers[0]
        for header, path in parts:
            if header.installation != self.header.installation:
                raise RecordingError(
                    f"{path} and {self._paths[0]} were recorded from different installations",
                    hint="replay several files together only when they are parts of one sync",
                )
        first, last = self.header, self.headers[-1]
        self.replay_of = RecordingInfo(
            first.connector, first.installation, last.recorded_at, first.began_empty
        )
        self.notes: list[str] = []  # what is unusual about the recordings, a line each
        self._runs: dict[Key, deque[_Run]] = {}
        self._used: Counter[Key] = Counter()
        self._schema = Schema([])
        self._credentials: CredentialProvider | None = None
        self._thread: ThreadPoolExecutor | None = None

    # -- reading the files -----------------------------------------------------------------------

    async def start(self) -> None:
        """Read which runs were recorded."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "max-recording")
            try:
                await self._in_thread(self._index)
            except BaseException:
                await self.stop()
                raise

    async def stop(self) -> None:
        """Stop reading the files."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise RecordingError("the recording is not open", hint="start it first")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _index(self) -> None:
        self._runs, self._used, self.notes = {}, Counter(), []
        for file, path in enumerate(self._paths):
            runs_by_key: dict[Key, list[_Run]] = {}
            for offset, entry in attempts_in(path, self.notes):
                key = (entry["operation"], canonical(entry["input"]))
                if "within" not in entry and "cancelled" not in entry:
                    _add_attempt(runs_by_key.setdefault(key, []), _Run(entry["attempt"], file, offset))
            for key, runs in runs_by_key.items():
                self._runs.setdefault(key, deque()).extend(runs)

    # -- what the runtime asks -------------------------------------------------------------------

    def prepare(self, connector: str, config: Mapping[str, Json]) -> Mapping[str, Json]:
        """The recorded configuration; RecordingError when another connector was recorded."""
        self.check_connector(connector)
        return self.header.config

    async def provide(self, source: Source, credentials: CredentialProvider) -> CredentialProvider:
        """A placeholder for every secret that was there; the installation's own are not read."""
        self.check_connector(source.connector)
        self._schema = source.schema
        versions = sorted({one.version for one in self.headers} - {source.version})
        self.notes += [
            f"recorded with version {one} of {source.connector}; this is {source.version}" for one in versions
        ]
        if not self.header.began_empty:
            self.notes.append("the recorded sync began with data that the recording does not hold")
        placeholders = MemoryCredentials(dict.fromkeys(self.header.credentials, MARK))
        self._credentials = CredentialProvider(placeholders, source.credentials, credentials.hosts)
        return self._credentials

    def check_connector(self, name: str) -> None:
        """RecordingError unless a connector of this name was recorded."""
        if name != self.header.connector:
            raise RecordingError(
                f"the recording was made with {self.header.connector}, not with {name}",
                hint=f"replay it into another one: max sync {self.header.connector}:NAME --replay FILE",
            )

    def runner(self, renew: Renew, flow: FlowController | None, calls: CallsOf = CALLS) -> OperationRunner:
        """A runner that makes no calls, so that no middleware runs."""
        return _ReplayRunner(self)

    def jitter(self) -> float:
        """What makes every wait 0."""
        return NO_WAIT

    def sync_options(self, given: SyncOptions) -> SyncOptions:
        """The given options; the recorded ones when none are given."""
        recorded = {name: one for name, one in self.header.options.items() if name in SyncOptions._names}
        if "only" in recorded:
            recorded["only"] = tuple(recorded["only"])
        return SyncOptions(**recorded) if given == SyncOptions() else given

    def begin(self, options: SyncOptions, *, was_empty: bool) -> None:
        """From here on the connector's own clients reach no host either."""
        assert self._credentials is not None  # noqa: S101  # provide comes before the first sync
        self._credentials.hosts = _NoHosts()

    # -- answering -------------------------------------------------------------------------------

    async def answer(self, operation: AnyOperation, input: object) -> tuple[int, Any]:
        """How many attempts the next recorded run of an operation with an input took, and its outcome.

        ReplayMismatch when no such run is left.
        """
        codec = Codec(operation, self._schema, Redactor(tuple))
        key = (operation.name, canonical(codec.encode_input(input)))
        runs = self._runs.get(key)
        if not runs:
            raise await self._in_thread(partial(self._mismatch, key))
        run = runs.popleft()
        self._used[key] += 1
        return run.attempts, await self._in_thread(partial(self._outcome, run, codec))

    def _outcome(self, run: _Run, codec: Codec) -> Any:
        entry = attempt_at(self._paths[run.file], run.offset)
        if "error" in entry:
            return _Failure(decode_error(codec.decode(entry["error"])))
        return codec.decode(entry["output"])

    def _mismatch(self, key: Key) -> ReplayMismatch:
        name, input = key
        left = [other for (operation, other), runs in self._runs.items() if operation == name and runs]
        others = [other for operation, other in self._runs if operation == name and other != input]
        near = most_similar(input, left or others)
        return ReplayMismatch(
            name, _shortened(input), again=self._used[key], left=self.left()[name], nearest=near
        )

    def left(self) -> Counter[str]:
        """How many recorded runs of each operation were not used."""
        left: Counter[str] = Counter()
        for (operation, _), runs in self._runs.items():
            left[operation] += len(runs)
        return +left

    def report(self) -> list[str]:
        """The notes, and which recorded answers were not used, a line each."""
        left = ", ".join(f"{name} ({count})" for name, count in sorted(self.left().items()))
        return [*self.notes, *([f"these recorded answers were not used: {left}"] if left else [])]


def _add_attempt(runs: list[_Run], one: _Run) -> None:
    """Add an attempt: to the run whose last attempt was the one before, or as a run of its own."""
    for number, run in enumerate(runs):
        if run.attempts == one.attempts - 1:
            runs[number] = one
            return
    runs.append(one)


class _NoHosts(Hosts):
    """The hosts that a replay may reach: none."""

    def check(self, origin: Origin) -> None:
        """RecordingError: a request outside of an operation was not recorded."""
        raise RecordingError(
            f"a request to {origin} was made outside of any operation; a replay sends none",
            hint="make the request in an operation; in a seeder, call run_operation",
        )


class _ReplayRunner(OperationRunner):
    """Makes no calls: limits, renewals and retries are not needed."""

    def __init__(self, replay: Replay) -> None:
        super().__init__()
        self._replay = replay

    async def run(
        self,
        operation: Operation[C, In, Out],
        context: C,
        input: In,
        *,
        renewing: bool = True,
        env: Env[Any] | None = None,
    ) -> Out:
        """The outcome that the same run had when it was recorded."""
        attempts, outcome = await self._replay.answer(operation, input)
        self.calls[operation.name] += attempts
        if isinstance(outcome, _Failure):
            raise outcome.error
        return cast(Out, outcome)


def most_similar(text: str, known: Sequence[str]) -> str | None:
    """The most similar of some texts, shortened; None when there are none."""
    from difflib import get_close_matches

    short = {_shortened(one): None for one in known[:COMPARED]}
    return next(iter(get_close_matches(_shortened(text), list(short), 1, 0.0)), None)


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
