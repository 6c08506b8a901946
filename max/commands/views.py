"""Views: schemas, installations and syncs as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core import InstallationInfo
from ..model.entities import Entity, FieldType, ManyOf
from ..model.schema import Schema, description_of
from ..model.values import Json
from .tables import Column, Table
from .text import (
    NULL,
    PLAIN,
    Paint,
    ago,
    cell,
    counted,
    cut,
    duration,
    harmless,
    number,
    padded,
    stamp,
    until,
)

if TYPE_CHECKING:
    from ..model.tasks import Failure, SyncResult, SyncRun


SHOWN_FAILURES = 10  # failures that a summary lists; `max runs show` lists all


def field_kind(holds: FieldType) -> str:
    """What a field holds: ``text``, ``ref to AcmeUser``; ``?`` when it may be empty."""
    target = f" to {holds.target.__name__}" if holds.target else ""
    return f"{holds.kind}{target}{'?' if holds.optional else ''}"


def schema_text(
    schema: Schema,
    entities: Sequence[type[Entity]],
    rows: Mapping[str, int],
    width: int | None,
    paint: Paint = PLAIN,
) -> list[str]:
    """Entities with their fields and collections; ``rows`` are counts by entity, where known."""
    lines: list[str] = []
    for entity in entities:
        count = f"  {counted(rows[entity.__name__], 'row')}" if entity.__name__ in rows else ""
        root = "  root" if entity in schema.roots else ""
        lines += [
            "",
            paint(entity.__name__, "bold") + paint(count + root, "dim"),
            f"  {description_of(entity)}",
        ]
        made = _members(entity)
        drawn = Table([Column("", whole=True), Column("", whole=True), Column("")], made, width and width - 2)
        lines += [f"  {drawn.line(row)}" for row in made]
    return lines[1:]


def _members(entity: type[Entity]) -> list[list[str]]:
    """Name, kind and description of the id, of each field and of each collection."""
    fields = entity._fields
    rows = [["id", "text", fields["id"].description]]
    rows += [[name, field_kind(holds), fields[name].description] for name, holds in entity.types().items()]
    for name, child in entity.children().items():
        many: ManyOf[Any, Any] = ManyOf(entity, name)
        by = f" by {many.by.name}" if many.by else ""
        rows.append([name, f"many {child.__name__}{by}", entity._collections[name].description])
    return [[harmless(text) for text in row] for row in rows]


def schema_json(schema: Schema, entities: Sequence[type[Entity]], rows: Mapping[str, int]) -> Json:
    """The schema as data, with the row count of each entity, where known."""
    data = schema.to_json()
    chosen = [one for one in data["entities"] if one["name"] in {e.__name__ for e in entities}]
    return {
        "entities": [one | {"rows": rows.get(one["name"])} for one in chosen],
        "roots": data["roots"],
        "relationships": [
            {"source": r.source, "field": r.field, "target": r.target, "many": r.many}
            for r in schema.relationships
            if r.source in {one["name"] for one in chosen}
        ],
    }


def installation_json(info: InstallationInfo) -> dict[str, Json]:
    """An installation as data; its configuration holds no secret."""
    return {
        "installation": str(info),
        "connector": info.connector,
        "name": info.name,
        "id": info.id,
        "config": dict(info.config),
        "connectedAt": stamp(info.connected_at),
    }


def installation_row(info: InstallationInfo, now: float) -> list[str]:
    """A line of ``max ls``."""
    settings = " ".join(f"{key}={cell(value)}" for key, value in info.config.items() if value)
    return [str(info), info.id[:8], ago(info.connected_at, now), settings]


class Standing:
    """How an installation stands: its last sync (None: never), and its rows by entity.

    ``waiting``: until when a running sync can only wait, and how many of its tasks do.
    """

    def __init__(
        self,
        info: InstallationInfo,
        last: SyncRun | None,
        rows: Mapping[str, int],
        waiting: tuple[float, int] | None = None,
    ) -> None:
        self.info, self.last, self.rows, self.waiting = info, last, rows, waiting

    @property
    def unfinished(self) -> str | None:
        """The id of the last sync when it has not ended."""
        return self.last.id if self.last and not self.last.status.final else None

    def to_json(self) -> dict[str, Json]:
        """For ``max status -o json``."""
        last = None if self.last is None else run_json(self.last)
        known = {"lastSync": last, "unfinished": self.unfinished, "rows": dict(self.rows)}
        return {"installation": str(self.info), "id": self.info.id, **known}


def status_text(standing: Standing, now: float, paint: Paint = PLAIN) -> list[str]:
    """One installation's standing for people, with what to do when something is left to do."""
    info, last = standing.info, standing.last
    lines = [paint(str(info), "bold")]
    if last is None:
        return [*lines, f"  never synced; begin with: max sync {info}"]
    when = ago(last.finished_at or last.started_at, now)
    lines.append(f"  last sync   {paint.status(last.status)}, {when} ({last.id})")
    if standing.waiting is not None:
        due, tasks = standing.waiting
        lines.append(f"  waiting     until {until(due, now)}, {counted(tasks, 'task')}")
    if last.failed:
        lines.append(f"  failures    {number(last.failed)}; list them with: max runs show {last.id}")
    if standing.unfinished and last.status != "running":
        lines.append(f"  unfinished  go on with: max resume {info}")
    total = sum(standing.rows.values())
    parts = ", ".join(f"{number(count)} {name}" for name, count in standing.rows.items() if count)
    return [*lines, f"  data        {counted(total, 'row')}{f': {parts}' if parts else ''}"]


def run_json(run: SyncRun) -> dict[str, Json]:
    """A sync as data."""
    return {
        "id": run.id,
        "status": str(run.status),
        "startedAt": stamp(run.started_at),
        "finishedAt": stamp(run.finished_at),
        "resumed": run.resumed,
        "counts": dict(run.counts),
        "removed": run.removed,
        "quarantined": run.quarantined,
        "requests": dict(run.requests),
        "failed": run.failed,
        "notes": list(run.notes),
    }


def failure_json(failure: Failure) -> dict[str, Json]:
    """One failure as data: what failed, why, what to do, and in which attempt of which task."""
    names = ("what", "entity", "id", "code", "message", "hint", "sync", "task", "attempt", "version")
    return {name: getattr(failure, name) for name in names} | {"at": stamp(failure.at)}


def result_json(info: InstallationInfo, result: SyncResult) -> dict[str, Json]:
    """What a sync came to, with each failure."""
    failures = [failure_json(one) for one in result.failures]
    return {"installation": str(info), **run_json(result), "failures": failures}


def runs_table(
    found: Sequence[tuple[InstallationInfo, SyncRun]], now: float, width: int | None, paint: Paint = PLAIN
) -> list[str]:
    """Syncs, a line each."""
    columns = [
        *(
            Column("sync", whole=True),
            Column("status", whole=True),
            Column("installation"),
            Column("started"),
        ),
        *(Column("took", right=True), Column("stored", right=True), Column("requests", right=True)),
        Column("failed", right=True),
    ]
    rows = [
        [
            *(run.id, str(run.status), str(info), ago(run.started_at, now), _took(run)),
            *(number(sum(run.counts.values())), number(sum(run.requests.values())), number(run.failed)),
        ]
        for info, run in found
    ]
    made = Table(columns, rows, width)
    widest = max([len("status"), *(len(row[1]) for row in rows)])
    lines = [made.line(row).replace(padded(row[1], widest), paint.status(row[1], widest), 1) for row in rows]
    return [paint(made.header(), "bold"), *lines]


def _took(run: SyncRun) -> str:
    return NULL if run.finished_at is None else duration(run.finished_at - run.started_at)


def summary(
    info: InstallationInfo,
    result: SyncResult,
    width: int | None,
    paint: Paint = PLAIN,
    *,
    all_failures: bool = False,
) -> list[str]:
    """What a sync came to: its status, rows by entity, failures with what to do."""
    took = f" in {_took(result)}" if result.finished_at is not None else ""
    resumed = ", resumed" if result.resumed else ""
    lines = [f"{paint(str(info), 'bold')}: {paint.status(result.status)}{took}{resumed} (sync {result.id})"]
    names = max(map(len, result.counts), default=0)
    digits = max((len(number(count)) for count in result.counts.values()), default=0)
    for name, count in sorted(result.counts.items()):
        lines.append(f"  {padded(name, names)}  {padded(number(count), digits, right=True)}")
    if not result.counts:
        lines.append(f"  {_nothing(result)}")
    removed = f", {counted(result.removed, 'row')} removed" if result.removed else ""
    lines.append(paint(f"  {counted(sum(result.requests.values()), 'request')}{removed}", "dim"))
    lines += [f"  {paint('note', 'yellow')}  {harmless(note)}" for note in result.notes]
    if result.quarantined:
        aside = f"  {counted(result.quarantined, 'row')} did not fit and stand aside: max quarantine {info}"
        lines.append(paint(aside, "yellow"))
    return [*lines, *failures_text(result.failures, width, paint, everything=all_failures, of=result.id)]


def _nothing(result: SyncResult) -> str:
    """Why no rows are counted: each request is, and of rows those alone that were listed."""
    if result.status != "completed":
        return "nothing was stored"
    if result.requests or result.removed:
        return "no rows were listed"
    return "nothing is stale, so nothing was asked for"


def failures_text(
    failures: Sequence[Failure], width: int | None, paint: Paint, *, everything: bool, of: str
) -> list[str]:
    """Failures with what to do, those with the same cause under one heading."""
    if not failures:
        return []
    shown = failures if everything else failures[:SHOWN_FAILURES]
    lines = [paint(f"{counted(len(failures), 'failure')}:", "red")]
    causes: dict[tuple[str, str], list[Failure]] = {}
    for one in shown:
        causes.setdefault((one.message, one.hint), []).append(one)
    for (message, hint), alike in causes.items():
        for one in alike:
            lines.append(f"  {_fit(one.what, width, 2)}")
            if everything:
                lines.append(f"    attempt {one.attempt}, {stamp(one.at)}")
        lines += [f"    {harmless(line)}" for line in message.splitlines()]
        lines += [f"    {paint(harmless(hint), 'dim')}"] if hint else []
    left = len(failures) - len(shown)
    return [*lines, f"  … and {number(left)} more: max runs show {of}"] if left else lines


def _fit(text: str, width: int | None, indent: int) -> str:
    return harmless(text) if width is None else cut(harmless(text), width - indent)


def progress_line(
    counts: Mapping[str, int], elapsed: float, rate: float, note: str, width: int | None
) -> str:
    """A running sync on one line: seconds, rows a second, rows by entity, and what it waits for."""
    parts = [f"{name} {number(count)}" for name, count in sorted(counts.items())]
    speed = [f"{number(round(rate))}/s"] if rate >= 1 else []
    clock = duration(elapsed) if elapsed >= 60 else f"{int(elapsed)} s"
    text = "  ".join([clock, *speed, *(parts or ["starting"]), *([note] if note else [])])
    return text if width is None else cut(text, width)
