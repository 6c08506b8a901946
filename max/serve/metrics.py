"""Figures for monitors, as the text that Prometheus reads.

Rule 1: nothing is counted while a sync runs: what a sync did is in its record, and what happened is in the
event log.  So a figure costs its reader, never a sync.

Rule 2: the values of labels are the names of installations, entities, operations, statuses and kinds
of events: as many as were declared, never as many as there are rows or callers.

Rule 3: a counter that comes from records begins lower when old records are deleted, which Prometheus takes
for a restart.  Events are counted once each while the process lives.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ..errors import CursorExpired, MaxError, StorageError
from ..model.event_log import LoggedKind
from ..query.follow import Follower
from ..query.reader import open_reader

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.health import InstallationHealth
    from ..projects.manager import ProjectManager
    from ..query.reader import Reader
    from ..storage.database import Database

MOST_RUNS = 10_000  # records of an installation that are added up
GAUGES: Mapping[str, str] = {
    "max_info": "the version of Max",
    "max_up": "1 for an installation whose data can be read",
    "max_rows": "rows that are stored, by entity",
    "max_data_age_seconds": "how long ago the last completed sync ended",
    "max_sync_running": "1 while a sync of the installation is under way",
    "max_complete": "1 when the newest sync completed, and no other is under way",
    "max_quarantined_rows": "invalid rows of the newest sync that were kept aside",
    "max_health": "1 for the health that the installation has",
    "max_http_open_connections": "clients that are connected over HTTP",
    "max_http_open_requests": "requests over HTTP that are being answered",
    "max_http_open_streams": "of these, streams of events",
    "max_uptime_seconds": "how long the process has answered",
}
COUNTERS: Mapping[str, str] = {
    "max_syncs_total": "syncs by their status",
    "max_requests_total": "calls to the service, by operation, with those that were repeated",
    "max_loaded_rows_total": "rows that syncs brought, by entity",
    "max_removed_rows_total": "rows that syncs removed",
    "max_failed_tasks_total": "tasks that failed for good",
    "max_waits_total": "times at which nothing of a sync could run for a while",
    "max_runner_restarts_total": "times at which the installation's process ended by itself",
    "max_events_total": "events by kind",
    "max_http_responses_total": "answers over HTTP, by status",
}
OF_KINDS = {
    LoggedKind.SYNC_WAITING: "max_waits_total",
    LoggedKind.RUNNER_CRASHED: "max_runner_restarts_total",
}

Sample = tuple[str, Mapping[str, str], float]


class Metrics:
    """The figures of a project.  Safe for several threads, of which one reads at a time."""

    def __init__(self, manager: ProjectManager, version: str) -> None:
        self._manager, self._version = manager, version
        self._lock = threading.Lock()
        self._events: Counter[tuple[str, str]] = Counter()  # by installation and kind
        self._follower = Follower(self._sources, single=False)
        self.responses: Counter[int] = Counter()  # by status; of the event loop
        self._began = time.monotonic()

    def text(self, health: Iterable[InstallationHealth], more: Mapping[str, float]) -> str:
        """The figures of now; ``more`` are gauges of the process.  Blocks."""
        with self._lock:
            samples = [*self._samples(health), *((name, {}, value) for name, value in more.items())]
        return exposition(samples)

    def _sources(self) -> list[tuple[InstallationInfo, Database]]:
        return [(info, self._manager.database(info)) for info in self._manager.installations()]

    def _samples(self, health: Iterable[InstallationHealth]) -> Iterator[Sample]:
        yield "max_info", {"version": self._version}, 1
        yield "max_uptime_seconds", {}, time.monotonic() - self._began
        for status, count in sorted(self.responses.items()):
            yield "max_http_responses_total", {"status": str(status)}, count
        for one in health:
            yield "max_health", {"installation": one.installation, "health": str(one.health)}, 1
        for info in self._manager.installations():
            if self._manager.has_data(info):
                yield from self._of(info)
        yield from self._counted_events()

    def _of(self, info: InstallationInfo) -> Iterator[Sample]:
        name = {"installation": str(info)}
        try:
            with open_reader(self._manager.database(info), info) as reader:
                found = list(self._read(name, reader))
        except StorageError:
            found = [("max_up", name, 0.0)]
        yield from found

    def _read(self, name: Mapping[str, str], reader: Reader) -> Iterator[Sample]:
        runs, state = reader.runs(MOST_RUNS), reader.state
        yield "max_up", name, 1
        yield "max_complete", name, state.complete
        if state.synced_at is not None:
            yield "max_data_age_seconds", name, max(0.0, time.time() - state.synced_at)
        yield "max_sync_running", name, any(one.finished_at is None and one.worker for one in runs)
        yield "max_quarantined_rows", name, runs[0].quarantined if runs else 0
        yield "max_removed_rows_total", name, sum(one.removed for one in runs)
        yield "max_failed_tasks_total", name, sum(one.failed for one in runs)
        requests: Counter[str] = Counter()
        rows: Counter[str] = Counter()
        for one in runs:
            requests.update(one.requests)
            rows.update(one.counts)
        yield from _by(name, "max_syncs_total", "status", Counter(str(one.status) for one in runs))
        yield from _by(name, "max_requests_total", "operation", requests)
        yield from _by(name, "max_loaded_rows_total", "entity", rows)
        yield from _by(name, "max_rows", "entity", reader.counts())

    def _counted_events(self) -> Iterator[Sample]:
        try:
            for event in self._follower.read():
                self._events[event.installation, event.kind] += 1
        except CursorExpired:  # it was not asked for so long that events were deleted: go on from now
            self._follower = Follower(self._sources, "now", single=False)
        except MaxError:  # a file that is damaged: max_up says so
            pass
        for (installation, kind), count in sorted(self._events.items()):
            yield "max_events_total", {"installation": installation, "kind": kind}, count
            if kind in OF_KINDS:
                yield OF_KINDS[LoggedKind(kind)], {"installation": installation}, count


def _by(name: Mapping[str, str], metric: str, label: str, counts: Mapping[str, int]) -> Iterator[Sample]:
    for value, count in sorted(counts.items()):
        yield metric, {**name, label: value}, count


def exposition(samples: Iterable[Sample]) -> str:
    """Samples as text: for each figure what it is, and its values."""
    found: dict[str, list[str]] = {}
    for name, labels, value in samples:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        found.setdefault(name, []).append(f"{name}{{{inside}}} {value:.17g}")
    lines = []
    for kind, known in (("gauge", GAUGES), ("counter", COUNTERS)):
        for name, about in known.items():
            if name in found:
                lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}", *found[name]]
    return "\n".join([*lines, ""])


def _escaped(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
