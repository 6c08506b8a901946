"""The audit of a project: who changed what, and who read a secret, in ``.max/audit.db``.

    with audited(folder, "settings", info, history="changes"):
        …

Rule 1: one call leaves one row.  What is called inside of it leaves none of its own, so that every
layer may say what it changes.  A reading of secrets always leaves one.

Rule 2: a change is noted before it begins, and has its row before its caller learns of its end.  When the
audit cannot be written, nothing is changed.  What is changed by a process that is killed in between
has the outcome ``unknown``.

Rule 3: in a project that this user may not write, nothing is written; such a change fails by itself.

Rule 4: no secret is recorded, and no value of a configuration, which may hold one: only their names.

What reads data is not recorded, and costs nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from ..core import in_thread
from ..errors import MaxError, ProjectError, ProjectUntrusted, describe
from ..model.audit import AuditCheck, AuditRow, Outcome
from ..model.settings import InstallationInfo
from ..model.values import Json
from ..storage import audit_log
from ..storage.leases import describe_worker, new_worker
from .actor import actor
from .files import FOLDER, write_file

if TYPE_CHECKING:
    from .project_folder import ProjectFolder

AUDIT = "audit.db"  # in .max
LONGEST = 500  # characters of a fact
MOST_ROWS = 1_000_000  # that are read together


class _Call:
    """A call that is being recorded; ``ended`` for what has inherited its context and lives longer."""

    ended = False


_CALL: ContextVar[_Call | None] = ContextVar("max audited call", default=None)


class AuditedCall:
    """What a recorded call adds to its row: ``call.facts["sync"] = id``."""

    def __init__(self, facts: dict[str, Json]) -> None:
        self.facts = facts


@contextmanager
def audited(
    folder: ProjectFolder | None, action: str, what: InstallationInfo | str = "", **facts: Json
) -> Iterator[AuditedCall]:
    """Record a change: one row with who, what, when and the outcome.

    ``action`` is the name of the method or the command, ``what`` the installation.  Without a folder,
    or inside of another recorded call, nothing is recorded.
    """
    before, call = _CALL.get(), AuditedCall({})
    path = None if before is not None and not before.ended else _file(folder)
    if path is None:
        yield call
        return
    worker, own = new_worker(), _Call()
    intent = audit_log.begin(path, _row(worker, action, what, facts), worker=worker, now=time.time())
    _CALL.set(own)
    try:
        yield call
    except BaseException as error:
        audit_log.end(path, intent, "failed", code_of(error), _short(call.facts), now=time.time())
        raise
    else:
        audit_log.end(path, intent, "done", "", _short(call.facts), now=time.time())
    finally:
        own.ended = True
        _CALL.set(before)


@asynccontextmanager
async def audited_call(
    folder: ProjectFolder | None, action: str, what: InstallationInfo | str = "", **facts: Json
) -> AsyncIterator[AuditedCall]:
    """``audited`` for an event loop: threads write the rows."""
    before, call = _CALL.get(), AuditedCall({})
    path = None
    if folder is not None and (before is None or before.ended):
        path = await in_thread(lambda: _file(folder))
    if path is None:
        yield call
        return
    own, file = _Call(), path

    def begin() -> int:
        worker = new_worker()
        return audit_log.begin(file, _row(worker, action, what, facts), worker=worker, now=time.time())

    intent = await in_thread(begin)
    outcome: Outcome = "done"
    code = ""
    _CALL.set(own)
    try:
        yield call
    except BaseException as error:
        outcome, code = "failed", code_of(error)
        raise
    finally:
        own.ended = True
        _CALL.set(before)
        added = _short(call.facts)
        await in_thread(lambda: audit_log.end(file, intent, outcome, code, added, now=time.time()))


@contextmanager
def recorded_elsewhere() -> Iterator[None]:
    """Inside, changes leave no rows: another process that asks for them has recorded them."""
    before, own = _CALL.get(), _Call()
    _CALL.set(own)
    try:
        yield
    finally:
        own.ended = True
        _CALL.set(before)


def record_reading(folder: ProjectFolder, info: InstallationInfo, names: Iterable[str]) -> None:
    """Record that secrets of these names were read; blocks until it is on the disk."""
    if path := _file(folder):
        row = _row(new_worker(), "credentials.read", info, {"names": sorted(names)})
        audit_log.append(path, row, now=time.time())


def code_of(error: BaseException) -> str:
    """The code of an error: ``interrupted`` when its call was stopped."""
    if isinstance(error, MaxError):
        return error.code
    if isinstance(error, Exception):
        return str(describe(error)["code"])
    return "interrupted"


def _row(worker: str, action: str, what: InstallationInfo | str, facts: dict[str, Json]) -> dict[str, Json]:
    by = actor()
    named = f"{what} {what.id}" if isinstance(what, InstallationInfo) else what
    return {
        "user": by.user or _user(),
        "process": by.process or describe_worker(worker),
        "via": by.via,
        "action": action,
        "installation": named,
        "facts": _short(facts),
    }


def _user() -> str:
    """The user of this process, whatever the environment says."""
    if not hasattr(os, "geteuid"):
        return os.environ.get("USERNAME", "")
    from pwd import getpwuid

    try:
        name = getpwuid(os.geteuid()).pw_name
    except KeyError:
        name = str(os.geteuid())
    sudo = os.environ.get("SUDO_USER", "") if os.geteuid() == 0 else ""
    return f"{name} (sudo by {sudo})" if sudo else name


def _short(facts: dict[str, Json]) -> dict[str, Json]:
    """Facts with their long texts cut."""
    return {
        name: f"{v[:LONGEST]}…" if isinstance(v, str) and len(v) > LONGEST else v for name, v in facts.items()
    }


def _file(folder: ProjectFolder | None) -> Path | None:
    """The audit's file, made when there is none; None when this user may not write to the project."""
    if folder is None:
        return None
    place = folder.root / FOLDER
    path = place / AUDIT
    try:
        folder.refuse_foreign()
    except ProjectUntrusted:
        return None
    if not os.access(place, os.W_OK | os.X_OK):
        return None
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ProjectError(
            f"{path} is not a file of its own, so no change can be recorded",
            hint="move it away; the next change begins a new audit",
            path=str(path),
        )
    if not path.exists():
        with suppress(FileExistsError):  # another process was first
            write_file(path, b"")  # which only its owner can read
    return path


# -- reading -----------------------------------------------------------------------------------


def audit_rows(folder: ProjectFolder, *, since: float = 0.0, limit: int = MOST_ROWS) -> list[AuditRow]:
    """The newest rows since a time (seconds since the epoch), oldest first."""
    return audit_log.rows(folder.root / FOLDER / AUDIT, since=since, limit=limit)[::-1]


def check_audit(folder: ProjectFolder, *, head: str = "") -> AuditCheck:
    """Whether the chain is whole; ``head`` is a digest that was noted elsewhere, or its beginning."""
    return audit_log.check(folder.root / FOLDER / AUDIT, head=head)


def unfinished_changes(folder: ProjectFolder) -> Sequence[dict[str, Json]]:
    """The changes that have begun and not ended."""
    return [dict(one) for one in audit_log.unfinished(folder.root / FOLDER / AUDIT)]
