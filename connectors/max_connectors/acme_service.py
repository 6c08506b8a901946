"""The service of Acme, the demo company: a program of its own that does not use Max.

A tenant is made from a seed.  Every record is computed from its id on request, so a tenant of a
million tasks needs memory only for its changes.  Equal seeds give equal bytes on every platform
and Python version.

``Service.answer`` handles every request, over HTTP (``python -m max_connectors.acme serve``) and
inside the connector's process, with paging, a change feed, counters and faults on demand.  A
tenant has its own time; the clock is read only for the rate limit.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import struct
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime, timedelta
from hashlib import blake2b
from hmac import compare_digest
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    import argparse

Json: TypeAlias = Any  # the data of requests and responses
V = TypeVar("V")
Row = dict[str, Json]  # one record as the service writes it

PAGE_SIZE = 100  # records of a page, by default
LARGEST_PAGE = 1000  # the most records that a client may ask for
BATCH = 100  # the most users of one call
EARLIEST = date(2024, 1, 1)  # every record is created in the two years from here
DAYS = 731
LIVE = datetime(2026, 1, 1)  # the first change happens a second after this, UTC
NUMBER = re.compile(r"[1-9][0-9]*", re.ASCII)
LONGEST_ID = 60  # characters


class Refused(Exception):
    """The service refuses a request: an HTTP status and the reason."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        self.status, self.message, self.retry_after = status, message, retry_after
        super().__init__(message)


def missing(what: str) -> Refused:
    """A 404."""
    return Refused(404, what)


def invalid(what: str) -> Refused:
    """A 400."""
    return Refused(400, what)


def option(default: V, help: str) -> V:
    """A setting with its help text for ``serve --help``."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Settings:
    """The size and behaviour of a tenant; ValueError when a value is invalid."""

    workspaces: int = option(2, "workspaces of the company")
    users: int = option(10, "users of each workspace")
    projects: int = option(5, "projects of each workspace")
    tasks: int = option(20, "tasks of each project")
    files: int = option(3, "files of each project")
    seed: int = option(1, "which company: equal seeds give equal bytes")
    page_size: int = option(0, "records of a page; 0: the default of the service")
    latency_ms: float = option(0.0, "milliseconds before every response")
    error_rate: float = option(0.0, "share of requests that fail, 0 to 1")
    rate_limit: float = option(0.0, "requests a second; 0: no limit")

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "seed" and not 0 <= value < math.inf:
                raise ValueError(f"{one.name} must be a finite number, 0 or more, not {value}")
        if self.error_rate > 1:
            raise ValueError(f"error_rate must be between 0 and 1, not {self.error_rate}")


# -- the tenant --------------------------------------------------------------------------

FIRST, LAST, VERBS, AIMS, PARTS, ZONES, TAGS, THINGS, REASONS = (
    line.split("|")
    for line in """\
Ada|Amara|Björn|Chen|Daniela|Emeka|Fatima|Grace|Hiro|Inês|Jonas|Kofi|Leïla|Mateo|Nadia|Olu|Søren|美咲|Борис
Abara|Berg|Castillo|Dubois|Fischer|Gupta|Haddad|Ivanov|Kowalski|Larsen|Moreau|Nakamura|Núñez|O'Brien|Rossi|Xu
Add|Check|Clean|Compare|Design|Document|Fix|Improve|Measure|Move|Plan|Remove|Review|Ship|Test
Aurora|Basalt|Comet|Delta|Ember|Fjord|Garnet|Harbour|Iris|Juniper|Kestrel|Lumen|Mosaic|Nimbus
Research|Sales|Support|Platform|Design|Finance|Field|People
UTC|Europe/Lisbon|Europe/Berlin|Africa/Lagos|Asia/Tokyo|Asia/Kolkata|America/Lima|Pacific/Auckland
bug|customer|docs|infra|legal|mobile|quick|research|risk|security|ux|web
login page|invoice export|search index|price table|backup job|mobile menu|audit log|dark theme|upload form
Two clients asked.|It fails when the list is empty.|It takes too long.|Legal wants it.|See the notes.
""".splitlines()
)
ENDINGS = {
    "pdf": "application/pdf",
    "png": "image/png",
    "csv": "text/csv",
    "md": "text/markdown",
    "zip": "application/zip",
}
STATUSES = ("backlog", "todo", "in progress", "in review", "done", "cancelled")
STAGES = ("planned", "running", "running", "paused", "finished")
Draw = tuple[int, ...]  # eight numbers below 2**32: all the randomness of a record


def pick(among: Sequence[V], draw: int) -> V:
    """One of several, chosen by a random number."""
    return among[draw % len(among)]


def drawn(key: str) -> int:
    """The number below 2**64 that belongs to a key."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")


def moment(draw: int, days: Sequence[str]) -> str:
    """A random time within the two years, in UTC."""
    seconds = (draw >> 10) % 86400
    return f"{days[draw % len(days)]}T{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}Z"


def some_tags(draw: int) -> list[str]:
    """Up to three different tags."""
    return [TAGS[(draw >> 4 * i) % 4 + 4 * i] for i in range(draw % 4)]


class Tenant:
    """The records of one company.  Pure: the same seed and the same calls give the same bytes.

    An id contains its parent's: ``w1-p2-t7`` is the seventh task of ``w1-p2``.  Numbers start at
    1 and are never reused.  Not safe for concurrent callers.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._days = [(EARLIEST + timedelta(days=n)).isoformat() for n in range(DAYS)]
        self._last: dict[tuple[str, str], int] = {}  # highest number, under parents with created records
        self._changes: dict[str, Row] = {}  # written values, by id
        self._deleted: set[str] = set()
        self._log: list[str] = []  # the id of every change, in order

    # reading

    @property
    def company(self) -> str:
        """The identity of this company: what its records are made from."""
        made = self.settings
        sizes = (made.workspaces, made.users, made.projects, made.tasks, made.files)
        return "-".join(map(str, (made.seed, *sizes)))

    @property
    def position(self) -> int:
        """The number of changes so far: the present position of the feed."""
        return len(self._log)

    def get(self, id: str) -> Row:
        """One record; Refused when it does not exist."""
        return self._record(self.kind(id), id)

    def kind(self, id: str) -> Kind:
        """The kind of an existing record; Refused for any other id."""
        parent, dash, last = id.rpartition("-")
        kind = LETTERS.get(last[:1])
        if kind and len(id) <= LONGEST_ID and NUMBER.fullmatch(last[1:]) and id not in self._deleted:
            above = self.kind(parent).name if dash else ""
            if kind.parent == above and int(last[1:]) <= self._highest(kind, parent):
                return kind
        raise missing(f"no record {id[:LONGEST_ID]!r}")

    def page(self, kind: Kind, parent: str, after: int, size: int) -> tuple[list[Row], int | None]:
        """Up to ``size`` records by number, and the number to continue after, if there are more."""
        if parent:
            self.kind(parent)
        numbers = list(islice(self._numbers(kind, parent, after), size + 1))
        head = f"{parent}-{kind.letter}" if parent else kind.letter
        records = [self._record(kind, f"{head}{number}") for number in numbers[:size]]
        return records, numbers[size - 1] if len(numbers) > size else None

    def count(self, kind: Kind, parent: str) -> int:
        """The number of records in a listing."""
        return sum(1 for _ in self._numbers(kind, parent, 0))

    def feed(self, since: int, size: int) -> list[Row]:
        """The next changes after a position: each record as it is now, or that it is deleted."""
        return [self._change(since + 1 + i, id) for i, id in enumerate(self._log[since : since + size])]

    def _change(self, position: int, id: str) -> Row:
        change: Row = {"position": str(position), "type": LETTERS[id.rpartition("-")[2][:1]].name, "id": id}
        try:
            return change | {"deleted": False, "record": self.get(id)}
        except Refused:
            return change | {"deleted": True, "record": None}

    def _highest(self, kind: Kind, parent: str) -> int:
        first: int = getattr(self.settings, kind.plural)
        return self._last.get((kind.name, parent), first if self._is_original(parent) else 0)

    def _is_original(self, id: str) -> bool:
        """Whether an id existed from the start; created records start without children."""
        if not id:
            return True
        parent, _, last = id.rpartition("-")
        first: int = getattr(self.settings, LETTERS[last[0]].plural)
        return int(last[1:]) <= first and self._is_original(parent)

    def _numbers(self, kind: Kind, parent: str, after: int) -> Iterator[int]:
        head = f"{parent}-{kind.letter}" if parent else kind.letter
        numbers = range(after + 1, self._highest(kind, parent) + 1)
        return (n for n in numbers if f"{head}{n}" not in self._deleted) if self._deleted else iter(numbers)

    def _record(self, kind: Kind, id: str) -> Row:
        digest = blake2b(f"{self.settings.seed}/{id}".encode(), digest_size=32).digest()
        record = kind.make(self, id, struct.unpack("<8I", digest))
        changed = self._changes.get(id)
        return record if changed is None else record | changed

    def _number(self, key: str) -> int:
        return drawn(f"{self.settings.seed}/{key}")

    # writing

    def create(self, kind: Kind, parent: str, values: Row) -> Row:
        """A new record; values that are not given are computed from its id."""
        if parent:
            self.kind(parent)
        check_values(kind, values)
        number = self._highest(kind, parent) + 1
        id = f"{parent}-{kind.letter}{number}" if parent else f"{kind.letter}{number}"
        self._last[kind.name, parent] = number
        return self._write(kind, id, values, created=True)

    def update(self, id: str, values: Row) -> Row:
        """Change some values; the changed record."""
        kind = self.kind(id)
        check_values(kind, values)
        return self._write(kind, id, values, created=False)

    def delete(self, id: str) -> None:
        """Delete a record and everything below it; the feed gets a tombstone for each."""
        kind = self.kind(id)
        for below in KINDS.values():
            if below.parent == kind.name:
                for number in list(self._numbers(below, id, 0)):
                    self.delete(f"{id}-{below.letter}{number}")
        self._changes.pop(id, None)
        self._deleted.add(id)
        self._log.append(id)

    def _write(self, kind: Kind, id: str, values: Row, *, created: bool) -> Row:
        self._log.append(id)
        now = (LIVE + timedelta(seconds=self.position)).isoformat() + "Z"
        times = {"created_at": now, "updated_at": now} if created else {"updated_at": now}
        self._changes[id] = self._changes.get(id, {}) | values | times
        return self._record(kind, id)

    # making

    def someone(self, workspace: str, draw: int) -> str | None:
        """A user who was in the workspace from the start; None when it had none."""
        if not self.settings.users or not self._is_original(workspace):
            return None
        return f"{workspace}-u{draw % self.settings.users + 1}"

    def times(self, draw: Draw) -> Row:
        """When a record was created and last changed, in this order."""
        first, second = moment(draw[6], self._days), moment(draw[7], self._days)
        return {"created_at": min(first, second), "updated_at": max(first, second)}

    def workspace(self, id: str, draw: Draw) -> Row:
        """A new workspace."""
        return {
            "id": id,
            "name": f"{pick(PARTS, draw[0])} {id[1:]}",
            "active": draw[1] % 10 > 0,
            "owner": self.someone(id, draw[2]),
            **self.times(draw),
        }

    def billing(self, id: str) -> Row:
        """The plan of a workspace, from a call of its own as in many services."""
        draw = self._number(f"{id}/billing")
        return {"id": id, "plan": pick(("free", "team", "enterprise"), draw), "seats": (draw >> 8) % 50 + 5}

    def user(self, id: str, draw: Draw) -> Row:
        """A new user, with the values that listings have."""
        first, last = pick(FIRST, draw[0]), pick(LAST, draw[1])
        return {
            "id": id,
            "name": f"{first} {last}",
            "email": f"{id}@acme.example",
            "role": "admin" if draw[2] % 8 == 0 else pick(("member", "member", "guest"), draw[2] >> 3),
            "active": draw[3] % 8 > 0,
            "workspace": id.partition("-")[0],
            **self.times(draw),
        }

    def details(self, id: str) -> Row:
        """A user with the values that only the details have."""
        record = self.get(id)
        draw = self._number(f"{id}/seen")
        seen = None if draw % 16 == 0 else max(record["created_at"], moment(draw >> 4, self._days))
        return record | {"timezone": pick(ZONES, draw >> 8), "last_seen_at": seen}

    def project(self, id: str, draw: Draw) -> Row:
        """A new project."""
        workspace, _, number = id.partition("-p")
        status = pick(STAGES, draw[1])
        return {
            "id": id,
            "name": f"{pick(AIMS, draw[0])} {number}",
            "description": f"{pick(VERBS, draw[2])} the {pick(THINGS, draw[3])}. {pick(REASONS, draw[4])}",
            "status": status,
            "active": status != "finished",
            "tags": some_tags(draw[4]),
            "due_date": pick(self._days, draw[4] >> 12) if draw[5] % 3 else None,
            "owner": self.someone(workspace, draw[5] >> 4),
            "workspace": workspace,
            **self.times(draw),
        }

    def task(self, id: str, draw: Draw) -> Row:
        """A new task; its status is a number, explained by ``/api/statuses``."""
        a, b, c, d, e, f, g, h = draw
        workspace, _, rest = id.partition("-")
        thing = pick(THINGS, a)
        first, second = moment(g, self._days), moment(h, self._days)
        return {
            "id": id,
            "title": f"{pick(VERBS, b)} the {thing}",
            "description": f"{pick(VERBS, c)} the {thing}. {pick(REASONS, d)} {pick(REASONS, d >> 8)}",
            "status_id": e % 6 + 1,
            "priority": (e >> 8) % 5,
            "estimate": (f % 32) / 2 if f & 0x300 else None,
            "tags": some_tags(b >> 8),
            "due_date": self._days[(c >> 8) % DAYS] if c & 3 else None,
            "assignee": self.someone(workspace, f >> 10) if a & 0x700 else None,
            "project": f"{workspace}-{rest.partition('-')[0]}",
            "workspace": workspace,
            "created_at": min(first, second),
            "updated_at": max(first, second),
        }

    def file(self, id: str, draw: Draw) -> Row:
        """A new file."""
        project, _, number = id.rpartition("-f")
        ending, mime_type = pick(list(ENDINGS.items()), draw[0])
        return {
            "id": id,
            "name": f"{pick(THINGS, draw[1]).replace(' ', '-')}-{number}.{ending}",
            "mime_type": mime_type,
            "size": draw[2] % 10_000_000 + 1,
            "owner": self.someone(project.partition("-")[0], draw[3]),
            "project": project,
            **self.times(draw),
        }


@dataclass(frozen=True)
class Kind:
    """One kind of record: its names, its parent, how it is made, which values may be written."""

    name: str
    plural: str
    letter: str
    parent: str
    make: Callable[[Tenant, str, Draw], Row] = field(repr=False)
    writable: Mapping[str, tuple[type, ...]] = field(repr=False)


TEXT, FLAG, INTEGER, LIST, MAYBE = (str,), (bool,), (int,), (list,), (str, type(None))
KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "workspace",
            "workspaces",
            "w",
            "",
            Tenant.workspace,
            {"name": TEXT, "active": FLAG, "owner": MAYBE},
        ),
        Kind(
            *("user", "users", "u", "workspace", Tenant.user),
            {"name": TEXT, "email": TEXT, "role": TEXT, "active": FLAG},
        ),
        Kind(
            *("project", "projects", "p", "workspace", Tenant.project),
            {"name": TEXT, "description": TEXT, "status": TEXT, "active": FLAG}
            | {"tags": LIST, "due_date": MAYBE, "owner": MAYBE},
        ),
        Kind(
            *("task", "tasks", "t", "project", Tenant.task),
            {"title": TEXT, "description": TEXT, "status_id": INTEGER, "priority": INTEGER}
            | {"estimate": (float, int, type(None)), "tags": LIST, "due_date": MAYBE, "assignee": MAYBE},
        ),
        Kind(
            *("file", "files", "f", "project", Tenant.file),
            {"name": TEXT, "mime_type": TEXT, "size": INTEGER, "owner": MAYBE},
        ),
    )
}
LETTERS = {kind.letter: kind for kind in KINDS.values()}
PLURALS = {kind.plural: kind for kind in KINDS.values()}


def check_values(kind: Kind, values: Json) -> None:
    """Refused unless every value may be written and has the right type."""
    if not isinstance(values, dict):
        raise invalid(f"a {kind.name} must be a JSON object")
    for name, value in values.items():
        if type(value) not in kind.writable.get(name, ()):
            raise invalid(f"{name!r} of a {kind.name} cannot be {json.dumps(value)}")


# -- the service -------------------------------------------------------------------------


def cursor_of(listing: str, number: int) -> str:
    """Where a listing continues, as text that only this service reads."""
    return urlsafe_b64encode(f"{listing}>{number}".encode()).decode().rstrip("=")


def number_in(cursor: str, listing: str) -> int:
    """The inverse of cursor_of; Refused for any other text."""
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        whose, _, number = text.partition(">")
        if whose == listing and cursor_of(listing, int(number)) == cursor:
            return int(number)
    except ValueError:
        pass
    raise invalid(f"{cursor!r} is not a cursor of {listing}")


@dataclass(frozen=True)
class Faults:
    """Faults that are produced on purpose."""

    latency_ms: float = 0.0
    error_rate: float = 0.0
    rate_limit: float = 0.0


class Service:
    """The service of one tenant: routes, faults, counters.

    ``/api/tenant``, ``/api/stats`` and ``/api/faults`` always work and are not counted.
    Safe for concurrent callers of one event loop.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.tenant = Tenant(settings)
        self.faults = Faults(settings.latency_ms, settings.error_rate, settings.rate_limit)
        self.page_size = settings.page_size or PAGE_SIZE
        self.paths: Counter[str] = Counter()
        self.pages: Counter[str] = Counter()
        self._clock = clock
        self._begun: deque[float] = deque()  # start times of recent requests

    async def answer(self, method: str, path: str, query: Mapping[str, str], body: Json = None) -> Json:
        """Answer a request; Refused when the service refuses it."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[:1] != ["api"]:
            raise missing(f"nothing at {path}")
        if parts[1:] in (["tenant"], ["stats"], ["faults"]):
            return self._control(method, parts[1], body)
        self.paths[path] += 1
        if self.faults.latency_ms:
            await asyncio.sleep(self.faults.latency_ms / 1000)
        self._break_on_purpose()
        if method == "GET":
            return self._read(parts[1:], query)
        return self._write(method, parts[1:], body)

    def served(self, path: str, query: Mapping[str, str]) -> None:
        """Count a page that was sent completely."""
        self.pages[f"{path}?{'&'.join(f'{k}={v}' for k, v in sorted(query.items()))}".rstrip("?")] += 1

    def stats(self) -> Json:
        """Requests in total and by path, refused ones included; complete pages by path and query."""
        return {"requests": self.paths.total(), "paths": dict(self.paths), "pages": dict(self.pages)}

    def _control(self, method: str, what: str, body: Json) -> Json:
        if what == "stats":
            return self.stats()
        if what == "tenant":
            count = self.tenant.count(KINDS["workspace"], "")
            return {"name": "Acme", "workspaces": count, "position": str(self.tenant.position)}
        if method == "POST":
            self.faults = faults_with(self.faults, body)
        return {one.name: getattr(self.faults, one.name) for one in fields(Faults)}

    def _break_on_purpose(self) -> None:
        if self.faults.rate_limit:
            self._limit_rate(self._clock(), self.faults.rate_limit)
        if self.faults.error_rate:
            draw = drawn(f"{self.tenant.settings.seed}/fault/{self.paths.total()}")
            if draw < self.faults.error_rate * 2**64:
                raise Refused(503, "a fault on purpose")

    def _limit_rate(self, now: float, limit: float) -> None:
        window, calls = (1.0, int(limit)) if limit >= 1 else (1 / limit, 1)
        while self._begun and self._begun[0] <= now - window:
            self._begun.popleft()
        if len(self._begun) >= calls:
            wait = self._begun[-calls] + window - now
            raise Refused(429, f"more than {limit:g} requests a second", wait)
        self._begun.append(now)

    def _read(self, parts: list[str], query: Mapping[str, str]) -> Json:
        match parts:
            case ["statuses"]:
                done = ("done", "cancelled")
                return {
                    "items": [{"id": n, "name": s, "open": s not in done} for n, s in enumerate(STATUSES, 1)]
                }
            case ["changes"]:
                return self._changes(query)
            case ["users"]:
                return {"items": self._details(query.get("ids", "")), "next": None}
            case [plural]:
                return self._list(PLURALS.get(plural), "", query)
            case ["workspaces", id, "billing"]:
                return self.tenant.billing(self._named("workspaces", id))
            case [plural, id]:
                return self.tenant.get(self._named(plural, id))
            case [plural, id, below]:
                return self._list(PLURALS.get(below), self._named(plural, id), query)
        raise missing(f"nothing at /api/{'/'.join(parts)}")

    def _write(self, method: str, parts: list[str], body: Json) -> Json:
        match method, parts:
            case "POST", [plural]:
                return self.tenant.create(self._child(PLURALS.get(plural), ""), "", body)
            case "POST", [plural, id, below]:
                parent = self._named(plural, id)
                return self.tenant.create(self._child(PLURALS.get(below), parent), parent, body)
            case "PATCH", [plural, id]:
                return self.tenant.update(self._named(plural, id), body)
            case "DELETE", [plural, id]:
                return self.tenant.delete(self._named(plural, id))
        raise missing(f"nothing to {method} at /api/{'/'.join(parts)}")

    def _named(self, plural: str, id: str) -> str:
        if self.tenant.kind(id).plural != plural:
            raise missing(f"{id!r} is not one of the {plural}")
        return id

    def _child(self, kind: Kind | None, parent: str) -> Kind:
        above = self.tenant.kind(parent).name if parent else ""
        if kind is None or kind.parent != above:
            raise missing(f"no such listing under {parent or '/api'}")
        return kind

    def _list(self, kind: Kind | None, parent: str, query: Mapping[str, str]) -> Json:
        kind = self._child(kind, parent)
        listing = f"{parent}/{kind.plural}"
        after = number_in(query["cursor"], listing) if query.get("cursor") else 0
        size = whole_number(query, "limit", self.page_size, max(LARGEST_PAGE, self.page_size))
        items, last = self.tenant.page(kind, parent, after, size or self.page_size)
        following = None if last is None else cursor_of(listing, last)
        return {"items": items, "next": following, "position": str(self.tenant.position)}

    def _changes(self, query: Mapping[str, str]) -> Json:
        now = self.tenant.position
        since = whole_number(query, "since", now, now + 1)
        if since > now:
            raise missing(f"position {query['since']} is unknown; list everything again")
        size = whole_number(query, "limit", self.page_size, max(LARGEST_PAGE, self.page_size))
        items = self.tenant.feed(since, size or self.page_size)
        end = since + len(items)
        return {"items": items, "position": str(end), "more": end < now, "company": self.tenant.company}

    def _details(self, ids: str) -> list[Row]:
        wanted = ids.split(",") if ids else []
        if not 1 <= len(wanted) <= BATCH:
            raise invalid(f"ids must name 1 to {BATCH} users, not {len(wanted)}")
        found = []
        for id in wanted:
            try:
                found.append(self.tenant.details(self._named("users", id)))
            except Refused:
                continue  # a batch omits users that do not exist; clients expect this
        return found


def whole_number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    """A number from the query, at most ``most``; Refused when it is not a number."""
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise invalid(f"{name} must be a whole number, not {text!r}")
    return min(int(text), most)


def faults_with(faults: Faults, changes: Json) -> Faults:
    """The faults with some changed; Refused when the values are invalid."""
    names = {one.name for one in fields(Faults)}
    if not isinstance(changes, dict) or not changes.keys() <= names:
        raise invalid(f"faults must be a JSON object with {', '.join(sorted(names))}")
    for name, value in changes.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise invalid(f"{name} must be a number, 0 or more")
    return replace(faults, **changes)


# -- serving -----------------------------------------------------------------------------

REASONS_OF = {
    200: "OK",
    201: "Created",
    204: "No Content",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    429: "Too Many Requests",
    503: "Service Unavailable",
}
LARGEST_BODY = 2**20  # bytes
EXAMPLES = """
examples:
  python -m max_connectors.acme serve --port 4567 --token demo
  python -m max_connectors.acme serve --port 0 --tasks 2000 --latency-ms 50 --error-rate 0.05
  max connect acme --set base_url=http://127.0.0.1:4567 --credential token=env:ACME_TOKEN

addresses (all but /api/stats need `Authorization: Bearer TOKEN`):
  GET    /api/workspaces, /api/workspaces/ID/users, /api/workspaces/ID/projects,
         /api/projects/ID/tasks, /api/projects/ID/files
         a page: {"items", "next", "position"}; continue with ?cursor=NEXT; ?limit=N
  POST   the same addresses with a JSON object: create, 201
  GET, PATCH, DELETE   /api/users/ID, …: one record; deleting also deletes what is below it
  GET    /api/users?ids=ID,ID (at most 100), /api/workspaces/ID/billing, /api/statuses
  GET    /api/changes?since=POSITION   {"items", "position", "more", "company"}; tombstones
                                       included; without since only the present position
  GET    /api/tenant, /api/stats       {"requests", "paths", "pages"}
  POST   /api/faults   {"latency_ms", "error_rate", "rate_limit"}, each optional
"""


@dataclass(frozen=True)
class Request:
    """A request from a client."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


async def read_request(reader: asyncio.StreamReader) -> Request:
    """The next request of a connection; ValueError when it is not valid HTTP."""
    head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
    method, target, _ = head.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (n.partition(":") for n in lines)}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= LARGEST_BODY or "transfer-encoding" in headers:
        raise ValueError("a body needs a content-length within the limit")
    body = await reader.readexactly(length) if length else b""
    url = urlsplit(target)
    return Request(method, url.path, dict(parse_qsl(url.query, keep_blank_values=True)), headers, body)


class Server:
    """A service behind HTTP/1.1 on one port, in the event loop that starts it.

    It understands as much HTTP as JSON clients send.  Stopping closes every connection.
    """

    def __init__(self, service: Service, token: str) -> None:
        self.service, self.token = service, token
        self.url = ""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> Self:
        """Listen; port 0 picks a free port, which ``url`` then contains."""
        self._server = await asyncio.start_server(self._accept, host, port)
        self.url = f"http://{host}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def stop(self) -> None:
        """Stop, and end every connection; may be called twice."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await server.wait_closed()

    async def __aenter__(self) -> Self:
        return self if self._server else await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._converse(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await read_request(reader)
                status, answer, extra = await self._respond(request)
                writer.write(rendered(status, answer, extra))
                await writer.drain()
                if status == 200 and request.method == "GET":
                    self.service.served(request.path, request.query)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client closed the connection
        except (ValueError, asyncio.LimitOverrunError):
            writer.write(rendered(400, problem(invalid("the request is not valid HTTP"))))
        finally:
            writer.close()

    async def _respond(self, request: Request) -> tuple[int, Json, str]:
        """Status, JSON data and further header lines."""
        try:
            if request.path != "/api/stats":
                self._admit(request.headers.get("authorization", ""))
            body = parsed(request.body)
            answer = await self.service.answer(request.method, request.path, request.query, body)
        except Refused as refused:
            wait = refused.retry_after
            extra = f"retry-after: {math.ceil(wait)}\r\n" if wait is not None else ""
            return refused.status, problem(refused), extra
        if request.method == "POST" and request.path != "/api/faults":
            return 201, answer, ""
        return (204 if answer is None else 200), answer, ""

    def _admit(self, authorization: str) -> None:
        if not compare_digest(authorization.encode(), f"Bearer {self.token}".encode()):
            raise Refused(401, "the token is missing or wrong")


def parsed(body: bytes) -> Json:
    """The JSON body of a request; None without one."""
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError) as error:
        raise invalid("the body is not JSON") from error


def problem(refused: Refused) -> Json:
    """A refusal as JSON."""
    return {"error": {"status": refused.status, "message": refused.message}}


def rendered(status: int, answer: Json, extra: str = "") -> bytes:
    """A response as bytes."""
    body = b"" if answer is None else json.dumps(answer, separators=(",", ":")).encode()
    head = f"HTTP/1.1 {status} {REASONS_OF[status]}\r\ncontent-type: application/json\r\n{extra}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def serve(settings: Settings, host: str, port: int, token: str) -> None:
    """Serve a tenant until SIGINT or SIGTERM; prints ``{url, token}`` as one JSON line."""
    import signal

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with await Server(Service(settings), token).start(host, port) as server:
        print(json.dumps({"url": server.url, "token": token}), flush=True)
        await stopped.wait()


def arguments() -> argparse.ArgumentParser:
    """The parser of ``python -m max_connectors.acme``."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m max_connectors.acme",
        description="Serve Acme, the demo company, over HTTP.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command = parser.add_subparsers(dest="command", required=True, metavar="serve").add_parser(
        "serve",
        help="listen until stopped; print {url, token} as one JSON line",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    command.add_argument("--port", type=int, default=4567, help="0 picks a free port (%(default)s)")
    command.add_argument(
        "--token", default="", help="the token that clients must send (default: a random one)"
    )
    for one in fields(Settings):
        name = f"--{one.name.replace('_', '-')}"
        help = f"{one.metadata['help']} (%(default)s)"
        command.add_argument(name, type=type(one.default), default=one.default, help=help)
    return parser


def main() -> int:
    """Run the command line; the result is the exit status."""
    from secrets import token_urlsafe

    parser = arguments()
    options = vars(parser.parse_args())
    host, port, token = options.pop("host"), options.pop("port"), options.pop("token")
    del options["command"]
    try:
        asyncio.run(serve(Settings(**options), host, port, token or token_urlsafe(16)))
    except ValueError as error:
        parser.error(str(error))
    except (OSError, OverflowError) as error:
        parser.exit(1, f"cannot listen on {host}:{port}: {error}\n")
    return 0
