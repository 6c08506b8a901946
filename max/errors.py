"""Everything Max raises on purpose.

Rule 1: a message says what happened and to which thing, a hint what to do next.  The facts are
attributes and appear in ``data``; a ``code`` never changes after its release.

Rule 2: programming mistakes raise TypeError or ValueError.  What a user, a service or a machine
can cause raises a MaxError.  Errors of libraries are translated once, in the layer that calls
them, always ``from error``.

    MaxError
    ├── UsageError                  invalid arguments or options             exit 2
    │   ├── UnknownName                 no such command, entity, field, …; similar names are listed
    │   ├── InvalidFilter               a filter's text, with the column
    │   ├── InvalidSql                  a statement, with the line and the place in it
    │   ├── SqlLimit                    a statement that takes too long, or too much memory
    │   ├── InvalidSchedule             when a sync shall begin, with the place in a cron text
    │   ├── InvalidCursor               a cursor of another query, or no cursor
    │   └── InvalidAnswers              invalid configuration or onboarding values
    ├── SchemaError                 a declaration that is invalid
    │   └── ConnectorError              a connector that cannot be loaded
    ├── FieldNotLoaded              a field was read that was not loaded
    ├── InvalidEntity               invalid values, each with its path
    ├── NotFound                    no such entity, sync or installation
    ├── ProjectError                the project's folder: missing, damaged, in use, not writable
    │   ├── NoProject                   no project in a folder, or above it
    │   ├── ProjectUntrusted            another user's folder, or code that was not allowed  exit 4
    │   ├── KeyMissing                  no key for the secrets in a database, or one that others could read
    │   ├── MoveRefused                 an installation that cannot be moved, or not as it is
    │   └── KeyWrong                    the keys do not open what another one has sealed
    ├── StorageError                the database cannot answer
    │   ├── StorageEmpty                there is no data yet
    │   ├── StorageFull                 the disk is full
    │   ├── StorageLocked               another process holds the database
    │   ├── StorageReadOnly             the file or its folder cannot be written
    │   ├── StorageCorrupt              the file is damaged, or is no database
    │   ├── StorageReplaced             the file was removed or replaced while it was open
    │   ├── StorageNewer                a newer Max wrote the file
    │   ├── StorageForeign              the file is another connector's
    │   ├── StorageOlder                a Max before 0.1.0 wrote the file
    │   ├── StorageUnreachable          no server answers, or it went away
    │   ├── StorageBusy                 the server takes no more connections
    │   ├── StorageDenied               the server refuses the user, the password or a right
    │   ├── StorageMissing              the server has no such database
    │   ├── StorageMoving               it is being moved to another place, and can only be read
    │   ├── StorageTimeout              a statement took longer than the server allows
    │   └── StorageConflict             others changed the same; it can be tried again
    ├── SyncError                   a sync that cannot start or continue
    │   ├── SyncRunning                 another process is syncing
    │   ├── SuspiciousRemoval           so many rows are gone that a person must allow it
    │   └── LeaseLost                   a task was taken over; its result is not stored
    │       └── SyncTakenOver               … or the whole sync was, by another process or host
    ├── HistoryError                changes were not recorded
    │   └── CursorExpired               … or are no longer stored
    ├── MissingExtra                an optional library is not installed
    ├── RecordingError              a recording that cannot be written or replayed
    │   └── ReplayMismatch              a replay needs an answer that was not recorded
    ├── UpstreamError               the service failed or refused
    │   ├── Offline                     no answer: network, DNS, connection, timeout
    │   ├── BadCredentials              the credential is wrong or has expired
    │   ├── PermissionDenied            the credential is valid but lacks a permission
    │   ├── QuotaExceeded               too many requests; ``retry_after`` seconds
    │   ├── UpstreamMissing             it does not exist, or no longer
    │   ├── SyncTokenRefused            a sync token or cursor is no longer accepted
    │   ├── UpstreamChanged             an answer that the connector does not understand
    │   └── UpstreamBroken              the service failed (5xx)
    ├── LoaderFault                 a connector's code has a bug
    ├── MiddlewareFault             a program's middleware has a bug
    ├── HookRefused                 a webhook's message that the service did not sign
    ├── DaemonError                 the project's daemon cannot do this
    │   ├── DaemonRunning               another process is the project's daemon
    │   ├── DaemonBusy                  as many calls are open as may be; ``retry_after`` seconds
    │   ├── RunDirect                   a command that only its caller's process can run
    │   ├── DaemonStopping              it is ending
    │   ├── RunnerFailed                the process of an installation ended, or was ended
    │   ├── ConnectionLost              the connection ended before the answer
    │   ├── ProtocolError               a message that the other side does not understand
    │   └── MethodFault                 a bug of Max, while a method was answered
    ├── HttpRefused                 a request over HTTP that no method saw
    └── Interrupted                 stopped by a signal; the state is saved  exit 130
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

CLOSE_ENOUGH = 0.55  # share of matching characters that makes a name a candidate
FAR_BEHIND = 0.2  # a candidate that shares so much less than the nearest one is left out
CANDIDATES = 3  # similar names that an error lists
HIDDEN = "***"  # in place of a value that may be a secret
AROUND = 200  # characters of a filter that an error shows before and after the column
LISTED = 10  # names that an error lists when none is similar
DAMAGED = "restore a backup, or move the file away (on a server: rename the schema) and sync again"
HELP = {"command": "commands: max --help", "option": "options: {where} --help"}  # where a list would be long
MEANT = """
add install login link source: connect; browse select: sql search;
columns describe desc tables info inspect fields: schema; config configure set: settings; continue: resume;
delete remove rm uninstall unlink logout: disconnect; diff: changes; distinct facet: values;
download fetch pull refresh update import: sync; dump save to-csv copy: export; file where location: path;
grep match: find search; group sum aggregate stats total: count; history log logs: changes runs;
jobs syncs: runs; kill: cancel; list show-all installations sources connectors: ls;
new create: init connect; query: search sql; repair upgrade: migrate; retry: sync; agent: mcp;
server http listen: serve; show view read cat: get; stop: pause cancel; version: --version;
change edit: --update; columns select: --fields; force: --yes; format: --output; group-by groupby: --by;
max-count head max: --limit; sort orderby order: --order-by; where query: --filter
"""  # words that other tools use: what is called so here
SHORTEST_WAIT, LONGEST_WAIT = 0.25, 31 * 86_400.0  # seconds that a service may ask to wait


class MaxError(Exception):
    """The base of all errors that this library raises on purpose.

    ``data`` holds the facts as JSON data; ``exit_status`` is that of the command line.
    """

    code: ClassVar[str] = "max"
    exit_status: int = 1

    def __init__(self, message: str, *, hint: str = "", **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data: dict[str, Any] = data

    def locate(self, place: str) -> None:
        """Say in the message at what it happened, unless it begins so."""
        if not self.message.startswith(place):
            self.message = f"{place}: {self.message}"
            self.args = (self.message,)

    def describe(self) -> dict[str, Any]:
        """The error as JSON data: ``{"code", "message", "hint", "data"}``."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "data": self.data}

    def render(self) -> str:
        """The error for a person: the message, then the hint."""
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names that another tool's word means, or that are similar, the most similar first."""
    folded = name.casefold().lstrip("-")
    by_folded = {candidate.casefold().lstrip("-"): candidate for candidate in known}
    pairs = (one.split(":") for one in MEANT.split(";") if folded and folded in one)
    meant = [one for words, ours in pairs if folded in words.split() for one in ours.split()]
    if found := [one for one in meant if one in by_folded.values()]:
        return found[:CANDIDATES]
    begun = [one for one in by_folded if one.startswith(folded)] if len(folded) > 1 else []
    return [by_folded[one] for one in (begun or _alike(folded, by_folded))[:CANDIDATES]]


def _alike(word: str, known: Iterable[str]) -> list[str]:
    """The words that share most with one, without those that share far less than the first."""
    from difflib import SequenceMatcher, get_close_matches  # costs more than this module; only errors need it

    close = get_close_matches(word, list(known), CANDIDATES, CLOSE_ENOUGH)
    shared = [SequenceMatcher(None, one, word).ratio() for one in close]
    return [one for one, share in zip(close, shared, strict=True) if share > shared[0] - FAR_BEHIND]


# -- usage -------------------------------------------------------------------------------


class UsageError(MaxError):
    """Invalid arguments or options."""

    code = "usage"
    exit_status = 2


class UnknownName(UsageError):
    """There is nothing with this name; the hint lists similar names, or where all of them are listed."""

    code = "usage.unknown"

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str = "") -> None:
        everything = sorted(known)
        self.kind, self.name = kind, name
        near = nearest(name, everything)
        self.candidates = near or everything[:LISTED]
        listed = ", ".join(self.candidates)
        if near:
            hint = f"did you mean: {listed}"
        elif kind in HELP and len(everything) > CANDIDATES:
            hint = HELP[kind].format(where=where or "max")
        else:
            more = ", …" if len(everything) > LISTED else ""
            hint = f"{_plural(kind)}: {listed}{more}" if everything else f"there is no {kind}"
        super().__init__(
            f"unknown {kind} {brief(name)}{f' in {where}' if where else ''}",
            hint=hint,
            kind=kind,
            name=name,
            candidates=self.candidates,
        )

    def in_filter(self, text: str, column: int) -> Self:
        """The same error with a caret under the name in a filter's text; ``column`` counts from 1."""
        self.message += _pointing(text, column)
        self.args = (self.message,)
        self.data |= {"text": text, "column": column}
        return self


def _plural(kind: str) -> str:
    """The plural of a kind's first word: ``entities``, ``places of nulls``."""
    noun, space, rest = kind.partition(" ") if " of " in kind else (kind, "", "")
    return f"{f'{noun[:-1]}ie' if noun[-1] == 'y' else noun}s{space}{rest}"


class InvalidFilter(UsageError):
    """A filter's text is invalid; ``column`` counts from 1."""

    code = "usage.filter"

    def __init__(self, text: str, column: int, problem: str) -> None:
        self.text, self.column, self.problem = text, column, problem
        super().__init__(
            f"filter, column {column}: {problem}{_pointing(text, column)}",
            text=text,
            column=column,
            problem=problem,
        )


class InvalidSchedule(UsageError):
    """What says when a sync begins is invalid; in a cron text, ``column`` counts from 1."""

    code = "usage.schedule"

    def __init__(self, problem: str, text: str = "", column: int = 0, *, hint: str = "") -> None:
        self.problem, self.text, self.column = problem, text, column
        super().__init__(
            f"schedule: {problem}{_pointing(text, column) if column else ''}",
            hint=hint,
            problem=problem,
            text=text,
            column=column,
        )


class InvalidSql(UsageError):
    """A SQL statement is invalid, or may not run here; ``position`` counts characters from 0, or is None."""

    code = "usage.sql"

    def __init__(self, statement: str, problem: str, position: int | None = None, *, hint: str = "") -> None:
        self.statement, self.problem, self.position = statement, problem, position
        line, shown = None, ""
        if position is not None:
            before = statement[:position].rpartition("\n")[2][-AROUND:]
            after = statement[position:].partition("\n")[0][:AROUND]
            line = statement.count("\n", 0, position) + 1
            shown = f"\n  {before}{after}\n  {_blank(before)}^"
        where = f"SQL, line {line}" if line is not None and "\n" in statement.strip() else "SQL"
        super().__init__(
            f"{where}: {problem}{shown}",
            hint=hint,
            statement=statement,
            problem=problem,
            position=position,
            line=line,
        )


def _pointing(text: str, column: int) -> str:
    """Two lines: what is around a column of a text, and a caret under it."""
    before = text[: column - 1][-AROUND:]
    return f"\n  {before}{text[column - 1 :][:AROUND]}\n  {_blank(before)}^"


def _blank(text: str) -> str:
    """Spaces as wide as a text on a terminal."""
    from unicodedata import east_asian_width

    return " " * sum(1 + (east_asian_width(one) in "WF") for one in text)


class SqlLimit(UsageError):
    """A SQL statement takes longer, or more memory, than it may."""

    code = "usage.sql_limit"


class InvalidCursor(UsageError):
    """A page cursor is invalid, or belongs to another query."""

    code = "usage.cursor"

    def __init__(self, problem: str, *, hint: str = "") -> None:
        super().__init__(
            f"the cursor cannot be used here: {problem}",
            hint=hint or "use the cursor of the previous page, with the same query and order",
        )


class Mismatch:
    """One invalid value: its path, what was expected, and what was given."""

    __slots__ = ("actual", "expected", "path")

    def __init__(self, path: str, expected: str, actual: object, *, secret: bool = False) -> None:
        self.path, self.expected = path, expected
        self.actual = HIDDEN if secret else shown(actual)

    @classmethod
    def missing(cls, path: str, expected: str) -> Mismatch:
        """A value that was not given."""
        return cls(path, expected, NOTHING)

    def describe(self) -> dict[str, str]:
        """``{"path", "expected", "actual"}``."""
        return {"path": self.path, "expected": self.expected, "actual": self.actual}

    def __str__(self) -> str:
        got = "" if self.actual == HIDDEN else f", got {self.actual}"
        return f"{self.path}: expected {self.expected}{got}"


def brief(text: str) -> str:
    """A text in quotes, or its beginning."""
    return repr(text if len(text) <= 200 else f"{text[:199]}…")


class Nothing:
    """NOTHING is in place of a value that is not there."""

    def __repr__(self) -> str:
        return "nothing"

    def __reduce__(self) -> str:
        return "NOTHING"  # a copy is the same


NOTHING = Nothing()


def shown(value: object, limit: int = 60) -> str:
    """A value as an error shows it: the beginning of its text, after its type where that does not show it."""
    if value is None or value is NOTHING:
        return "null" if value is None else repr(value)
    try:
        text = repr(value)
    except Exception:  # an error about the value must not fail
        return f"{type(value).__name__} that cannot be printed"
    plain = "" if type(value) in (str, int, float, bool) else f"{type(value).__name__} "
    return f"{plain}{text if len(text) <= limit else text[: limit - 1] + '…'}"


class InvalidAnswers(UsageError):
    """Invalid configuration or onboarding values; all of them are listed."""

    code = "usage.answers"

    def __init__(self, subject: str, mismatches: Sequence[Mismatch], *, hint: str = "") -> None:
        self.mismatches = tuple(mismatches)
        lines = "\n".join(f"  {one}" for one in mismatches)
        super().__init__(f"{subject}:\n{lines}", hint=hint, fields=[one.describe() for one in mismatches])


# -- declarations and values ---------------------------------------------------------------


class SchemaError(MaxError):
    """A declaration is invalid; the message names it as the author wrote it."""

    code = "schema"


class ConnectorError(SchemaError):
    """A connector cannot be loaded; the message names the attribute that is wrong."""

    code = "connector"


class FieldNotLoaded(MaxError, AttributeError):
    """A field was read that was not loaded."""

    code = "entity.not_loaded"

    def __init__(self, entity: str, field: str, *, hint: str = "") -> None:
        self.entity, self.field = entity, field
        hint = hint or "select it in the query, or sync a step that loads it"
        super().__init__(f"{entity}.{field} is not loaded", hint=hint, entity=entity, field=field)


class InvalidEntity(MaxError):
    """Values do not match their fields' types; nothing of the batch was stored."""

    code = "entity.invalid"

    def __init__(self, mismatches: Sequence[Mismatch]) -> None:
        self.mismatches = tuple(mismatches)
        first, more = mismatches[0], len(mismatches) - 1
        super().__init__(
            f"{first}{f' (and {more} more)' if more else ''}",
            hint="nothing was stored; correct the value, or the type of the field",
            fields=[one.describe() for one in mismatches],
        )


class NotFound(MaxError):
    """Nothing of this kind has this name or id."""

    code = "not_found"

    def __init__(self, kind: str, name: str, *, hint: str = "") -> None:
        self.kind, self.name = kind, name
        super().__init__(f"no {kind} {brief(name)}", hint=hint, kind=kind, name=name)


# -- places --------------------------------------------------------------------------------


class ProjectError(MaxError):
    """The project's folder is missing, damaged, in use or not writable."""

    code = "project"


class NoProject(ProjectError):
    """There is no project in a folder, or above it."""

    code = "project.none"


class ProjectUntrusted(ProjectError):
    """Another user may have written the project, or its connectors were not allowed; nothing ran."""

    code = "project.untrusted"
    exit_status = 4


class MoveRefused(ProjectError):
    """The other place cannot hold an installation, or not as it is; it stays where it was."""

    code = "project.move_refused"


class KeyMissing(ProjectError):
    """There is no key for the secrets of a project, or one that others could read."""

    code = "project.key_missing"


class KeyWrong(ProjectError):
    """The keys that were given do not open what another one has sealed."""

    code = "project.key_wrong"


class StorageError(MaxError):
    """The database cannot answer."""

    code = "storage"
    is_ours = False  # a connector's code asked Max for what is kept there, and is not to blame


class StorageEmpty(StorageError):
    """There is no data yet."""

    code = "storage.empty"


class StorageFull(StorageError):
    """The disk is full; what was stored before is safe."""

    code = "storage.full"


class StorageLocked(StorageError):
    """Another process holds the database, and did not let go of it in time."""

    code = "storage.locked"


class StorageReadOnly(StorageError):
    """The file or its folder cannot be written."""

    code = "storage.readonly"


class StorageCorrupt(StorageError):
    """The file is damaged, or is no database."""

    code = "storage.corrupt"


class StorageReplaced(StorageError):
    """The file was removed or replaced while it was open."""

    code = "storage.replaced"


class StorageNewer(StorageError):
    """A newer Max, or a newer connector, wrote the file."""

    code = "storage.newer"


class StorageForeign(StorageError):
    """The file holds the data of another connector."""

    code = "storage.foreign"


class StorageOlder(StorageError):
    """A Max before 0.1.0 wrote the file, in a format that this version does not read."""

    code = "storage.older"


class StorageUnreachable(StorageError):
    """The server of the database does not answer, or has ended the connection."""

    code = "storage.unreachable"


class StorageBusy(StorageError):
    """The server has as many connections as it takes."""

    code = "storage.busy"


class StorageDenied(StorageError):
    """The server does not let this user in, or not do this."""

    code = "storage.denied"


class StorageMissing(StorageError):
    """The server has no database of this name."""

    code = "storage.missing"


class StorageMoving(StorageError):
    """The installation is being moved to another place; until then it can only be read."""

    code = "storage.moving"


class StorageTimeout(StorageError):
    """The server ended a statement that took too long."""

    code = "storage.timeout"


class StorageConflict(StorageError):
    """The server undid a transaction, again and again, because of what others wrote."""

    code = "storage.conflict"


class HistoryError(MaxError):
    """The changes were not recorded."""

    code = "history"


class CursorExpired(HistoryError):
    """The changes or events after a cursor are no longer stored, or were not recorded."""

    code = "history.expired"

    def __init__(self, problem: str = "", *, hint: str = "") -> None:
        super().__init__(
            problem or "the cursor has expired: the changes after it are no longer stored",
            hint=hint
            or "get a new cursor with --since now, read the tables, and continue from it;"
            " or get every row with --since beginning",
        )


class MissingExtra(MaxError):
    """An optional library is not installed."""

    code = "extra.missing"

    def __init__(self, extra: str, library: str, purpose: str) -> None:
        self.extra, self.library = extra, library
        super().__init__(
            f"{purpose} needs {library}, which is not installed",
            hint=_installing(extra),
            extra=extra,
            library=library,
        )


def _installing(extra: str) -> str:
    """The command that adds an extra to what runs here: a clone, a package made from one, or a release."""
    import shutil
    import sys
    from importlib.metadata import PackageNotFoundError, distribution
    from importlib.util import find_spec
    from pathlib import Path
    from shlex import join

    source, root = "max-sync", Path(__file__).parents[1]
    try:
        if (root / "connectors" / "max_connectors").is_dir() and (root / "pyproject.toml").is_file():
            source = "." if root == Path.cwd() else str(root)
        elif url := distribution("max-sync").read_text("direct_url.json"):
            import json
            from urllib.parse import unquote, urlsplit

            place = Path(unquote(urlsplit(json.loads(url)["url"]).path))
            source = str(place) if place.is_dir() else source
    except (PackageNotFoundError, OSError, ValueError, KeyError):  # a copy inside of another program
        pass
    here = shutil.which("python")
    python = "python" if here and Path(here).parent == Path(sys.executable).parent else sys.executable
    pip = (
        [python, "-m", "pip", "install"] if find_spec("pip") else ["uv", "pip", "install", "--python", python]
    )
    return join([*pip, f"{source}[{extra}]"])


class RecordingError(MaxError):
    """A recording cannot be written, read or replayed here."""

    code = "recording"


class ReplayMismatch(RecordingError):
    """A replay needs an answer that was not recorded.

    ``left`` is the number of recorded answers of the operation that were not used; ``nearest``
    is the most similar recorded input, if any.
    """

    code = "replay.mismatch"

    def __init__(self, operation: str, input: str, *, again: int, left: int, nearest: str | None) -> None:
        self.operation, self.input, self.left, self.nearest = operation, input, left, nearest
        what = "more often than it was recorded" if again else "which was not recorded"
        near = f"; the most similar input is {nearest}" if nearest is not None else ""
        super().__init__(
            f"{operation}: the replay asks for {input}, {what} (unused recorded answers: {left}{near})",
            hint="the recording ends too early, or this version of the connector sends other requests",
            operation=operation,
            input=input,
            left=left,
            nearest=nearest,
        )


# -- syncing -------------------------------------------------------------------------------


class SyncError(MaxError):
    """A sync cannot start or continue."""

    code = "sync"


class SyncRunning(SyncError):
    """Another process is syncing this installation."""

    code = "sync.running"

    def __init__(self, sync: str, owner: str, *, hint: str = "") -> None:
        self.sync, self.owner = sync, owner
        hint = (
            hint or "wait for it, or end it with `max pause`; if that process is gone: `max resume --force`"
        )
        super().__init__(f"sync {sync} is already running ({owner})", hint=hint, sync=sync, owner=owner)


class LeaseLost(SyncError):
    """A task was paused, cancelled or taken over while it ran; its result is not stored."""

    code = "sync.lease_lost"


class SyncTakenOver(LeaseLost):
    """Another process has the lease of the installation now; this one stores nothing more."""

    code = "sync.taken_over"


class SuspiciousRemoval(SyncError):
    """A listing lacks so many rows that none was removed: a person must confirm it."""

    code = "sync.removals"

    def __init__(self, entity: str, rows: int, of: int) -> None:
        self.entity, self.rows, self.of = entity, rows, of
        super().__init__(
            f"{rows:,} of {of:,} {entity} are no longer listed upstream, which is suspiciously many;"
            " none of them was removed",
            hint="check that the account can still read them; if they are gone, sync with --allow-removals",
            entity=entity,
            rows=rows,
            of=of,
        )


class LoaderFault(MaxError):
    """A bug of a connector: its code raised a Python error, or returned an invalid value."""

    code = "connector.fault"


class MiddlewareFault(MaxError):
    """A bug of a middleware, which the program has put around operations or methods."""

    code = "middleware.fault"


class HookRefused(MaxError):
    """A hook that is not taken: it is not signed with the service's secret, or cannot be read.

    ``status`` is the one of HTTP with which it is answered.
    """

    code = "hook.refused"

    def __init__(self, message: str, *, hint: str = "", status: int = 401, **data: Any) -> None:
        self.status = status
        super().__init__(message, hint=hint, status=status, **data)


class DaemonError(MaxError):
    """A project's daemon did not start, does not answer or cannot do what was asked."""

    code = "daemon"


class DaemonRunning(DaemonError):
    """Another process is the project's daemon."""

    code = "daemon.running"


class DaemonStopping(DaemonError):
    """The daemon is ending: it takes no more calls, and pauses its syncs."""

    code = "daemon.stopping"


class DaemonBusy(DaemonError):
    """As many calls are open as may be; this one was not begun.  Try again after ``retry_after`` seconds."""

    code = "daemon.busy"

    def __init__(self, message: str, *, retry_after: float, hint: str = "") -> None:
        self.retry_after = retry_after
        hint = hint or f"try again in {retry_after:g} s, or wait for calls of your own to end"
        super().__init__(message, hint=hint, retry_after=retry_after)


class RunDirect(DaemonError):
    """The command line must run this command in its own process, where it gives the same answer."""

    code = "daemon.direct"


class RunnerFailed(DaemonError):
    """The process in which an installation's connector runs ended by itself, or had to be ended.

    ``last_words`` are the last lines that it printed, without secrets.
    """

    code = "daemon.runner"

    def __init__(self, message: str, *, hint: str = "", last_words: str = "") -> None:
        self.last_words = last_words
        super().__init__(message, hint=hint, last_words=last_words)


class ConnectionLost(DaemonError):
    """The connection ended before the answer: whether the call had an effect is not known."""

    code = "daemon.lost"


class ProtocolError(DaemonError):
    """A message is not one that the other side understands, or comes from another version of Max."""

    code = "daemon.protocol"


class MethodFault(DaemonError):
    """A bug of Max: a method raised an error that is none of these."""

    code = "daemon.fault"


class HttpRefused(MaxError):
    """A request over HTTP that no method saw; ``status`` says why in HTTP's own words."""

    code = "http.refused"

    def __init__(self, status: int, message: str, *, hint: str = "", allow: str = "") -> None:
        self.status, self.allow = status, allow  # the methods that the address has, for 405
        super().__init__(message, hint=hint, status=status, allow=allow)


class Interrupted(MaxError):
    """Stopped by a signal; the state is saved."""

    code = "interrupted"
    exit_status = 130  # 143 after SIGTERM


# -- the service -------------------------------------------------------------------------


def bounded_wait(seconds: Any) -> float | None:
    """A wait that a service asks for, in seconds: 31 days at most.

    None for what is no number, and for less than a quarter of a second: who is asked for nothing
    backs off by itself.
    """
    try:
        wait = float(seconds)
    except (TypeError, ValueError):
        return None
    except OverflowError:  # a whole number that no float can hold
        wait = LONGEST_WAIT if seconds > 0 else 0.0
    return min(wait, LONGEST_WAIT) if wait >= SHORTEST_WAIT else None


class UpstreamError(MaxError):
    """The service failed or refused.  ``retryable``: a later attempt may succeed.

    ``retry_after`` is in seconds from the answer, when the service asked for a wait that
    ``bounded_wait`` knows.
    """

    code = "upstream"
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, hint: str = "", retry_after: float | None = None, **data: Any
    ) -> None:
        self.retry_after = bounded_wait(retry_after)
        if self.retry_after is not None:
            data["retry_after"] = self.retry_after
        super().__init__(message, hint=hint, **data)


class Offline(UpstreamError):
    """No answer: network, DNS, connection, timeout."""

    code = "upstream.offline"
    retryable = True


class BadCredentials(UpstreamError):
    """The credential is wrong or has expired."""

    code = "upstream.credentials"


class PermissionDenied(UpstreamError):
    """The credential is valid but lacks a permission."""

    code = "upstream.permission"


class QuotaExceeded(UpstreamError):
    """Too many requests."""

    code = "upstream.quota"
    retryable = True


class UpstreamMissing(UpstreamError):
    """It does not exist upstream, or no longer."""

    code = "upstream.missing"


class UpstreamChanged(UpstreamError):
    """The answer is not one that the connector understands."""

    code = "upstream.changed"


class SyncTokenRefused(UpstreamError):
    """The service no longer accepts a sync token or a cursor."""

    code = "upstream.sync_token"


class UpstreamBroken(UpstreamError):
    """The service failed."""

    code = "upstream.broken"
    retryable = True


def describe(error: BaseException) -> Mapping[str, Any]:
    """Any error as JSON data, for a task's row; an error that is not a MaxError is a LoaderFault."""
    if isinstance(error, MaxError):
        return error.describe()
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return LoaderFault(message, hint="this is a bug of the connector").describe()
