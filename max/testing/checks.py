"""What ``max connector test`` checks: a connector against a fake, a service at an address, or a recording.

Rule 1: the measure of every check is an undisturbed first sync from the same service: after faults,
increments, removals and kills, the rows must equal its rows.

Rule 2: a check says what it skipped and why; what was not tried is never reported as passed.

Time is fake, so that waits take none; only the syncs that are killed run in real time, since they are
processes of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from ..connector import AnyConnector
from ..errors import BadCredentials, MaxError
from ..model.struct import Struct
from ..model.tasks import Status, SyncResult
from ..model.values import Json
from ..upstream.recording import Recording
from ..upstream.replay import Replay
from .clock import FakeClock
from .harness import runtime
from .kills import Killed
from .proxy import ProxyFault, credential_of
from .server import FOREVER, FaultKind, Request
from .trial import Fake, Snapshot, Trial, Wrong, differences, snapshot, trial
from .watch import HostWatch, files_with, logged_to

MINUTE = 60.0  # seconds between two syncs of a check
RETRY_AFTER = 3.0  # seconds
NOT_RECORDED = "a recording answers only what was recorded"
NO_EDIT = "the fake has no {}="
NO_SERVICE_EDIT = "the service at an address is not changed: a fake with {}= can be"
FAULTS = {  # those that must pass without a trace
    "429 with Retry-After": ProxyFault(FaultKind.RATE_LIMIT, retry_after=RETRY_AFTER),
    "status 500": ProxyFault(FaultKind.ERROR),
    "truncated": ProxyFault(FaultKind.TRUNCATE),
    "reset": ProxyFault(FaultKind.RESET),
    "dropped": ProxyFault(FaultKind.DROP),
    "garbage": ProxyFault(FaultKind.GARBAGE),
    "slow": ProxyFault(FaultKind.SLOW),
}


class Check(Struct):
    """The outcome of one check: "pass", "fail" or "skipped", with what was seen or why."""

    check: str
    outcome: str
    detail: str
    requests: int | None = None  # that it sent

    def to_json(self) -> dict[str, Json]:
        """As a row of JSON data."""
        return {name: getattr(self, name) for name in self._names}


class Skipped(Exception):
    """A check cannot be done; the text says why."""


@dataclass
class Subject:
    """A connector and what it is tested against.

    ``make_fake`` gives a new Fake for each trial; a service at an address is the same in all.
    ``file`` is the connector's, when it was named by it.
    """

    connector: AnyConnector
    folder: Path
    make_fake: Callable[[], Fake] | None = None
    recording: Path | None = None
    file: Path | None = None
    remote: bool = False  # whether the service is at an address that was given
    watch: HostWatch = field(default_factory=HostWatch)
    rows: Snapshot | None = None  # of the first sync
    sent: list[Request] = field(default_factory=list)  # its requests
    secrets: set[str] = field(default_factory=set)
    used: int = 0  # requests of the check that runs

    def trial(self, name: str) -> AbstractAsyncContextManager[Trial]:
        """A new service, with a proxy and databases in a folder of this name."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return self._trial(folder)

    @asynccontextmanager
    async def _trial(self, folder: Path) -> AsyncIterator[Trial]:
        assert self.make_fake is not None  # noqa: S101  # without one, no check comes here
        fake = self.make_fake()
        secret = {one.name for one in self.connector.credentials if one.secret}
        async with trial(self.connector, fake, folder, self.watch) as one:
            try:
                yield one
            finally:
                self.used += one.requests
                known = {**fake.credentials, **one.credentials.secrets}
                self.secrets |= {text for name, text in known.items() if name in secret}


# -- single checks ---------------------------------------------------------------------------


async def check_full(subject: Subject) -> str:
    """The first sync; its rows are the measure of all others."""
    path = subject.folder / "first.jsonl"
    async with subject.trial("first") as one:
        result, rows = await one.sync(recording=Recording(path))
        _require_whole(result)
        _require_rows(subject, rows)
        subject.rows, subject.sent = rows, list(one.proxy.log)
    counts = {name: len(found) for name, found in rows.items() if "." not in name}
    some = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    none = ", ".join(name for name, count in counts.items() if not count)
    return f"{_requests(len(subject.sent))}; rows: {some}{none and f'; none: {none}'}"


async def check_replay(subject: Subject) -> str:
    """The recording of the first sync answers without the service."""
    rows = await replayed(subject, subject.folder / "first.jsonl", "replay")
    _require_equal(subject.rows, rows, "those of that sync", "replaying the recording of the first sync")
    return "the recording of the first sync brings the same rows"


async def check_unchanged(subject: Subject) -> str:
    """A second sync, when nothing has changed."""
    async with subject.trial("unchanged") as one:
        _, before = await one.sync()
        sent = one.requests
        await asyncio.sleep(MINUTE)
        result, rows = await one.sync()
        _require_whole(result)
        _require_equal(before, rows, "those before it", "a second sync of unchanged data")
        if result.changed:
            raise Wrong(f"rows were written again though nothing had changed: {dict(result.changed)}")
        return f"no row is written; {_requests(one.requests - sent)} instead of {sent:,}"


async def check_change(subject: Subject) -> str:
    """A row that changed arrives with the next sync."""
    return await _edited(subject, "change", check_deletes=False)


async def check_removal(subject: Subject) -> str:
    """A row that is gone leaves with the next sync that looks for what is gone."""
    return await _edited(subject, "remove", check_deletes=True)


async def _edited(subject: Subject, what: str, *, check_deletes: bool) -> str:
    async with subject.trial(what) as one:
        work = getattr(one.fake, what)
        if work is None:
            raise Skipped((NO_SERVICE_EDIT if subject.remote else NO_EDIT).format(what))
        _, before = await one.sync()
        sent = one.requests
        await asyncio.sleep(MINUTE)
        await one.edit(work)
        result, rows = await one.sync(check_deletes=check_deletes)
        took = one.requests - sent
        _require_whole(result)
        expected = await one.fresh()
        if expected == before:
            raise Wrong(f"{what}= altered nothing that the connector reads")
        _require_equal(expected, rows, "a first sync of the edited data", "the next sync")
        seen = ", ".join(differences(before, rows))
        return f"{seen}; {_requests(took)}"


def check_fault(name: str) -> Callable[[Subject], Awaitable[str]]:
    """The check that one kind of fault, once at every request, changes nothing."""

    async def check(subject: Subject) -> str:
        async with subject.trial(name.replace(" ", "-")) as one:
            one.proxy.inject(FAULTS[name])
            result, rows = await one.sync()
            _require_whole(result)
            failed, sent = one.proxy.failed.total(), one.requests
            one.proxy.inject(None)
            _require_equal(await one.fresh(), rows, "a sync without faults", "the faults")
            return f"{failed:,} of {sent:,} requests failed, and no row differs"

    return check


async def check_outage(subject: Subject) -> str:
    """The service fails in the middle of a second sync, and for good."""
    async with subject.trial("outage") as one:
        _, before = await one.sync()
        await asyncio.sleep(MINUTE)
        last = one.requests + len(subject.sent) // 2
        one.proxy.inject(ProxyFault(FaultKind.ERROR, FOREVER, matches=lambda asked: asked.number > last))
        result, rows = await one.sync(full=True)
        failed = one.proxy.failed.total()
        if failed and result.status is Status.COMPLETED:
            raise Wrong(f"it is completed although {failed:,} requests failed for good")
        if failed and not result.failures:
            raise Wrong(f"it is {result.status}, and names no failure")
        _require_equal(before, rows, "those before the outage", "a sync that failed")
        one.proxy.inject(None)
        await _require_mended(one, "outage")
        return "the sync says what failed, no row is lost, and the next sync completes it"


async def check_expiry(subject: Subject) -> str:
    """The credential is refused from the middle of a sync on."""
    async with subject.trial("expiry") as one:
        middle = len(subject.sent) // 2 + 1
        if not credential_of(subject.sent[middle - 1]):
            raise Skipped("its requests have no header with a credential")
        one.proxy.at(middle, lambda: one.proxy.expire(one.proxy.log[-1]))
        result, rows = await one.sync()
        if result.status is Status.COMPLETED:
            one.proxy.accept_all()
            _require_equal(await one.fresh(), rows, "a sync without the expiry", "the renewal")
            return f"renewed at request {middle} of {len(subject.sent)}"
        if BadCredentials.code not in {one.code for one in result.failures}:
            raise Wrong(f"a credential was refused, and no failure says so: {_failures(result)}")
        one.proxy.accept_all()
        await _require_mended(one, "expiry")
        return "it is not renewed: the sync says so, and the next one completes it"


async def check_kills(subject: Subject) -> str:
    """Processes that are killed at a request, and a sync that goes on."""
    count = len(subject.sent)
    async with subject.trial("kills") as one:
        killed, expected = Killed(one, subject.folder / "killed", subject.file), await one.fresh()
        seen = []
        for place in sorted({1, (count + 1) // 2, count}):
            database, sent = await killed.at_request(place)
            async with runtime(one.connector, one.answers.config, one.credentials, database=database) as it:
                rows = await snapshot(it)
            _require_equal(expected, rows, "an undisturbed sync", f"kill -9 at request {place}")
            seen.append(f"{place}: {sent:,} more")
        return f"of {count:,} requests, killed at {', '.join(seen)}; no row differs"


async def check_hosts(subject: Subject) -> str:
    """Where the checks before this one connected to."""
    if subject.watch.refused:
        raise Wrong(f"it tried to connect to {', '.join(subject.watch.refused)}, which hosts= does not name")
    return "no connection left the declared hosts"


async def check_secrets(subject: Subject) -> str:
    """What the checks before this one wrote."""
    if not subject.secrets:
        raise Skipped("it has no secret")
    try:
        found, count = files_with(subject.secrets, subject.folder)
    except ValueError as error:
        raise Skipped(str(error)) from None
    if found:
        names = ", ".join(str(path.relative_to(subject.folder)) for path in found[:3])
        raise Wrong(f"a secret is in {names}")
    return f"no secret in {count} files: databases, recording, log, output"


async def replayed(subject: Subject, path: Path, name: str) -> Snapshot:
    """The rows that a recording brings into a database of its own."""
    answers = Replay(path)
    config = answers.prepare(subject.connector.name, {})
    with subject.watch.allowing():
        async with runtime(
            subject.connector, config, {}, database=subject.folder / f"{name}.db", recording=answers
        ) as one:
            result = await (await one.sync()).completion()
            _require_whole(result)
            return await snapshot(one)


async def check_recording(subject: Subject) -> str:
    """A recording, twice."""
    path = cast(Path, subject.recording)
    rows = await replayed(subject, path, "replayed")
    _require_equal(rows, await replayed(subject, path, "replay-again"), "the first replay", "the second one")
    _require_rows(subject, rows)
    return f"{sum(len(found) for name, found in rows.items() if '.' not in name):,} rows, twice the same"


CHECKS: dict[str, Callable[[Subject], Awaitable[str]]] = {
    "full sync": check_full,
    "replay": check_replay,
    "unchanged": check_unchanged,
    "change": check_change,
    "removal": check_removal,
    **{name: check_fault(name) for name in FAULTS},
    "outage": check_outage,
    "token expiry": check_expiry,
    "kill and resume": check_kills,
    "hosts": check_hosts,
    "secrets": check_secrets,
}
IN_REAL_TIME = ("kill and resume",)
AFTERWARDS = ("hosts", "secrets")  # they look at what the others did


# -- running them ----------------------------------------------------------------------------


def run_checks(
    subject: Subject, chosen: Sequence[str] = (), report: Callable[[str], None] = lambda name: None
) -> list[Check]:
    """Run the checks, or those that are chosen, in order; ``report`` is called before each."""
    outcomes = []
    with logged_to(subject.folder / "log.txt"):
        for name, check in CHECKS.items():
            if chosen and name not in (*chosen, "full sync"):
                continue
            report(name)
            outcomes.append(_run(subject, name, check))
    return outcomes


def _run(subject: Subject, name: str, check: Callable[[Subject], Awaitable[str]]) -> Check:
    subject.used = 0
    if reason := _skipped(subject, name):
        return Check(name, "skipped", reason)
    if subject.recording is not None and name == "full sync":
        check = check_recording

    async def main() -> str:
        return await check(subject)

    try:
        detail = asyncio.run(main()) if name in IN_REAL_TIME else FakeClock(time.time()).run(main())
    except Skipped as reason:
        return Check(name, "skipped", str(reason), subject.used or None)
    except Wrong as error:
        return Check(name, "fail", str(error), subject.used)
    except MaxError as error:
        return Check(name, "fail", f"{error.message} ({error.hint})" if error.hint else error.message)
    except Exception as error:  # of the fake, or of the connector outside of what Max calls
        return Check(name, "fail", f"{type(error).__name__}: {error}")
    return Check(name, "pass", detail, subject.used or None)


def _skipped(subject: Subject, name: str) -> str:
    """Why a check cannot be made; empty when it can."""
    if subject.recording is not None:
        return "" if name in ("full sync", "hosts") else NOT_RECORDED
    has_rows = subject.rows is not None or name in ("full sync", *AFTERWARDS)
    return "" if has_rows else "there is no full sync to compare with"


def _require_rows(subject: Subject, rows: Snapshot) -> None:
    """Wrong when nothing was stored but what the seeder stores."""
    roots = {root.__name__ for root in subject.connector.schema.roots}
    below = [found for name, found in rows.items() if "." not in name and name not in roots]
    if below and not any(below):
        raise Wrong("it is completed, and stored no row below the roots")


async def _require_mended(one: Trial, trouble: str) -> None:
    await asyncio.sleep(MINUTE)
    result, rows = await one.sync()
    _require_whole(result)
    _require_equal(await one.fresh(), rows, f"a sync without the {trouble}", "the next sync")


def _require_whole(result: SyncResult) -> None:
    if result.status is not Status.COMPLETED:
        raise Wrong(f"it is {result.status}: {_failures(result)}")
    if result.quarantined:
        raise Wrong(f"{result.quarantined:,} invalid rows were quarantined")


def _requests(count: int) -> str:
    return f"{count:,} request{'' if count == 1 else 's'}"


def _failures(result: SyncResult) -> str:
    found = [f"{one.what}: {one.message}" for one in result.failures]
    return "; ".join([*found[:2], *([f"{len(found) - 2:,} more"] if len(found) > 2 else [])]) or "no failure"


def _require_equal(expected: Snapshot | None, rows: Snapshot, of: str, after: str) -> None:
    found = differences(expected or {}, rows)
    if found:
        raise Wrong(f"the rows after {after} differ from {of}: {', '.join(found)}")
