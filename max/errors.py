"""Everything Max raises on purpose.

Rule 1: a message says what happened, to which thing, and what to do next.  The facts are
attributes and appear in ``data``; ``code`` never changes once released.

Rule 2: programming mistakes raise TypeError or ValueError, everything a user, an upstream
or a machine can cause raises a MaxError.  Foreign errors are translated once, at the layer
that meets them, always ``from error``.

    MaxError
    ├── UsageError                  what was typed cannot be meant           exit 2
    │   ├── UnknownName                 no such command, entity, field, …; the nearest are named
    │   ├── InvalidFilter               the filter language, with the column
    │   ├── InvalidCursor               a cursor of another query, or none at all
    │   └── InvalidAnswers              onboarding or configuration values that do not fit
    ├── SchemaError                 a connector's declaration that cannot work
    │   └── ConnectorError              … as a whole: loaders, resolver, signature, clash
    ├── FieldNotLoaded              a value was read that nothing has loaded
    ├── InvalidEntity               values that do not fit their fields, each with its path
    ├── NotFound                    no such entity, sync or installation
    ├── ProjectError                configuration on disk: broken, taken, not writable
    ├── StorageError                the database cannot answer
    │   ├── StorageEmpty                there is no data yet
    │   ├── StorageFull                 the disk is full
    │   ├── StorageLocked               another process holds the database
    │   ├── StorageReadOnly             the file or its folder cannot be written
    │   ├── StorageCorrupt              the file is damaged, or is no database
    │   ├── StorageNewer                a newer Max wrote the file
    │   └── StorageOlder                a Max before 0.1.0 wrote the file
    ├── SyncError                   a sync that cannot start or go on
    │   ├── SyncRunning                 another one is at it
    │   ├── SuspiciousRemoval           so much is gone that somebody has to allow it
    │   └── LeaseLost                   a task was taken over; what it brings is not stored
    ├── HistoryError                changes that are asked for and were not recorded
    │   └── CursorExpired               … or are no longer kept
    ├── MissingExtra                an optional library is not installed
    ├── RecordingError                   a recording that cannot be written or played
    │   └── ReplayMismatch                  a replay asks for what its recording does not have
    ├── UpstreamError               what the other side answered, or that it did not
    │   ├── Offline                     no answer: network, DNS, connection, time-out
    │   ├── BadCredentials              the credential is wrong or has expired
    │   ├── PermissionDenied            the credential is right and may not do this
    │   ├── QuotaExceeded               too many requests; ``retry_after`` seconds
    │   ├── UpstreamMissing             the thing asked for does not exist (any more)
    │   ├── SyncTokenRefused                 a sync token or position is not accepted any more
    │   ├── UpstreamChanged             an answer that the connector does not understand
    │   └── UpstreamBroken              the other side failed (5xx)
    ├── LoaderFault                 a connector's code raised or returned nonsense
    └── Interrupted                 stopped by a signal; the state is saved  exit 130
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

CLOSE_ENOUGH = 0.5  # share of matching characters from which a name counts as a misspelling
CANDIDATES = 3  # how many near names an error lists


class MaxError(Exception):
    """Base of every error this library raises on purpose."""

    code: ClassVar[str] = "max"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data: dict[str, Any] = data

    def describe(self) -> dict[str, Any]:
        """The error as JSON data: ``{"code", "message", "hint", "data"}``."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "data": self.data}

    def render(self) -> str:
        """The error as a person reads it: the message, then what to do."""
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of ``known`` that ``name`` may be a misspelling of, best first."""
    from difflib import get_close_matches  # costs more than this module; only errors need it

    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = get_close_matches(name.casefold(), list(by_folded), CANDIDATES, CLOSE_ENOUGH)
    return [by_folded[folded] for folded in close]


# -- what was typed ----------------------------------------------------------------------


class UsageError(MaxError):
    """What was typed cannot be meant."""

    code = "usage"
    exit_status = 2


class UnknownName(UsageError):
    """A name that nothing answers to; the nearest candidates are in the hint."""

    code = "usage.unknown"

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str = "") -> None:
        everything = sorted(known)
        self.kind, self.name = kind, name
        self.candidates = nearest(name, everything) or everything[:10]
        shown = ", ".join(self.candidates)
        super().__init__(
            f"unknown {kind} {name!r}{f' in {where}' if where else ''}",
            hint=f"did you mean: {shown}" if shown else f"there is no {kind} yet",
            kind=kind,
            name=name,
            candidates=self.candidates,
        )


class InvalidFilter(UsageError):
    """The text of a filter cannot be read; ``column`` counts from 1."""

    code = "usage.filter"

    def __init__(self, text: str, column: int, problem: str) -> None:
        self.text, self.column, self.problem = text, column, problem
        super().__init__(
            f"filter, column {column}: {problem}\n  {text}\n  {' ' * (column - 1)}^",
            text=text,
            column=column,
            problem=problem,
        )


class InvalidCursor(UsageError):
    """A page cursor that does not belong to this query."""

    code = "usage.cursor"

    def __init__(self, problem: str, *, hint: str = "") -> None:
        super().__init__(
            f"the cursor cannot be used here: {problem}",
            hint=hint or "pass the cursor of the previous page, with the same query and order",
        )


class Mismatch:
    """One value that does not fit: where it stands, what was expected, what came."""

    __slots__ = ("actual", "expected", "path")

    def __init__(self, path: str, expected: str, actual: object, *, secret: bool = False) -> None:
        self.path, self.expected = path, expected
        self.actual = "***" if secret else shown(actual)

    def describe(self) -> dict[str, str]:
        """``{"path", "expected", "actual"}``."""
        return {"path": self.path, "expected": self.expected, "actual": self.actual}

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, got {self.actual}"


def shown(value: object, limit: int = 60) -> str:
    """A value as an error shows it: its type and the beginning of its text."""
    if value is None:
        return "null"
    try:
        text = repr(value)
    except Exception:  # whatever it is, an error about it must still be told
        return f"{type(value).__name__} that cannot be shown"
    return f"{type(value).__name__} {text if len(text) <= limit else text[: limit - 1] + '…'}"


class InvalidAnswers(UsageError):
    """Configuration or onboarding values that do not fit; every one is listed."""

    code = "usage.answers"

    def __init__(self, subject: str, mismatches: Sequence[Mismatch], *, hint: str = "") -> None:
        self.mismatches = tuple(mismatches)
        lines = "\n".join(f"  {one}" for one in mismatches)
        super().__init__(f"{subject}:\n{lines}", hint=hint, fields=[one.describe() for one in mismatches])


# -- declarations and values ---------------------------------------------------------------


class SchemaError(MaxError):
    """A declaration that cannot work, named as the author wrote it."""

    code = "schema"


class ConnectorError(SchemaError):
    """A connector that cannot be loaded; the message names the attribute at fault."""

    code = "connector"


class FieldNotLoaded(MaxError, AttributeError):
    """A field was read that no loader has filled in yet."""

    code = "entity.not_loaded"

    def __init__(self, entity: str, field: str, *, hint: str = "") -> None:
        self.entity, self.field = entity, field
        super().__init__(
            f"{entity}.{field} is not loaded",
            hint=hint or "select it in the query, or sync a step that loads it",
            entity=entity,
            field=field,
        )


class InvalidEntity(MaxError):
    """Values that do not fit their fields; nothing of the batch was stored."""

    code = "entity.invalid"

    def __init__(self, mismatches: Sequence[Mismatch]) -> None:
        self.mismatches = tuple(mismatches)
        first, more = mismatches[0], len(mismatches) - 1
        super().__init__(
            f"{first}{f' (and {more} more)' if more else ''}",
            hint="nothing was stored; correct the value or the field's declared type",
            fields=[one.describe() for one in mismatches],
        )


class NotFound(MaxError):
    """No thing of this kind and name is stored."""

    code = "not_found"

    def __init__(self, kind: str, name: str, *, hint: str = "") -> None:
        self.kind, self.name = kind, name
        super().__init__(f"no {kind} {name!r}", hint=hint, kind=kind, name=name)


# -- places --------------------------------------------------------------------------------


class ProjectError(MaxError):
    """The project's folder: missing, broken, taken, not writable."""

    code = "project"


class StorageError(MaxError):
    """The database cannot answer."""

    code = "storage"


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


class StorageNewer(StorageError):
    """A newer Max, or a newer connector, wrote the file."""

    code = "storage.newer"


class StorageOlder(StorageError):
    """A Max before 0.1.0 wrote the file, in a layout that this version does not read."""

    code = "storage.older"


class HistoryError(MaxError):
    """Changes are asked for that nothing has recorded."""

    code = "history"


class CursorExpired(HistoryError):
    """What followed a cursor of the changes is no longer kept, or was not recorded."""

    code = "history.expired"

    def __init__(self) -> None:
        super().__init__(
            "the cursor has expired: what changed since is no longer kept",
            hint="take a new cursor with --since now, read the tables, and go on from it;"
            " or leave the cursor out to be told every row",
        )


class MissingExtra(MaxError):
    """An optional library is not installed."""

    code = "extra.missing"

    def __init__(self, extra: str, library: str, purpose: str) -> None:
        self.extra, self.library = extra, library
        super().__init__(
            f"{purpose} needs {library}, which is not installed",
            hint=f"pip install 'max-sync[{extra}]'",
            extra=extra,
            library=library,
        )


class RecordingError(MaxError):
    """A recording: it cannot be written, read, or played here."""

    code = "recording"


class ReplayMismatch(RecordingError):
    """A replay asks for what its recording does not have; says where recording and run parted.

    ``left``: how many answers of the operation the run has not asked for; ``nearest``: the
    recorded input that is most like the one asked for, if any.
    """

    code = "replay.mismatch"

    def __init__(self, operation: str, input: str, *, again: int, left: int, nearest: str | None) -> None:
        self.operation, self.input, self.left, self.nearest = operation, input, left, nearest
        what = "more often than it was recorded" if again else "which was not recorded"
        near = f"; the most similar input is {nearest}" if nearest is not None else ""
        super().__init__(
            f"{operation}: the replay asks for {input}, {what} ({left} recorded answers are unused{near})",
            hint="the recording ends too early, or this version of the connector sends other requests",
            operation=operation,
            input=input,
            left=left,
            nearest=nearest,
        )


# -- syncing -------------------------------------------------------------------------------


class SyncError(MaxError):
    """A sync that cannot start or go on."""

    code = "sync"


class SyncRunning(SyncError):
    """Another process is syncing this installation."""

    code = "sync.running"

    def __init__(self, sync: str, owner: str) -> None:
        self.sync, self.owner = sync, owner
        super().__init__(
            f"sync {sync} is already running ({owner})",
            hint="wait for it, or stop that process; what it has done is kept",
            sync=sync,
            owner=owner,
        )


class LeaseLost(SyncError):
    """A task was paused, cancelled or taken over while it ran; its result is not stored."""

    code = "sync.lease_lost"


class SuspiciousRemoval(SyncError):
    """A listing leaves out so much that nothing was removed: somebody has to say that it is right."""

    code = "sync.removals"

    def __init__(self, entity: str, rows: int, of: int) -> None:
        self.entity, self.rows, self.of = entity, rows, of
        super().__init__(
            f"{rows:,} of {of:,} {entity} are no longer listed upstream, which is suspiciously many;"
            " none of them was removed",
            hint="see that the account may still read them; if they are gone, sync with --allow-removals",
            entity=entity,
            rows=rows,
            of=of,
        )


class LoaderFault(MaxError):
    """A connector's code raised an error of its own, or returned what it must not."""

    code = "connector.fault"


class Interrupted(MaxError):
    """Stopped by a signal; the state is saved."""

    code = "interrupted"
    exit_status = 130


# -- the other side ------------------------------------------------------------------------


class UpstreamError(MaxError):
    """What the other side answered, or that it did not; ``retryable`` when it may pass."""

    code = "upstream"
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, hint: str = "", retry_after: float | None = None, **data: Any
    ) -> None:
        self.retry_after = retry_after  # seconds from the answer, when the other side said so
        if retry_after is not None:
            data["retry_after"] = retry_after
        super().__init__(message, hint=hint, **data)


class Offline(UpstreamError):
    """No answer: network, DNS, connection, time-out."""

    code = "upstream.offline"
    retryable = True


class BadCredentials(UpstreamError):
    """The credential is wrong or has expired."""

    code = "upstream.credentials"


class PermissionDenied(UpstreamError):
    """The credential is right, and may not do this."""

    code = "upstream.permission"


class QuotaExceeded(UpstreamError):
    """Too many requests; ``retry_after`` says for how many seconds, when known."""

    code = "upstream.quota"
    retryable = True


class UpstreamMissing(UpstreamError):
    """The thing asked for does not exist upstream (any more)."""

    code = "upstream.missing"


class UpstreamChanged(UpstreamError):
    """An answer that the connector does not understand."""

    code = "upstream.changed"


class SyncTokenRefused(UpstreamError):
    """The source no longer accepts a sync token or the position in its feed."""

    code = "upstream.mark"


class UpstreamBroken(UpstreamError):
    """The other side failed, in its own words."""

    code = "upstream.broken"
    retryable = True


def describe(error: BaseException) -> Mapping[str, Any]:
    """Any error as JSON data, for a task's row: MaxError as it is, others as a loader's fault."""
    if isinstance(error, MaxError):
        return error.describe()
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return LoaderFault(message, hint="this is a bug of the connector").describe()
