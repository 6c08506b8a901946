"""The audit of a project: who changed what, and who read a secret.

It is in ``.max/audit.db``; that of a project in Postgres has a schema of its own.

    with audited(manager, "settings", info, history="changes"):
        …

Rule 1: one call leaves one row.  What is called inside of it leaves none of its own, and adds its
facts, so that every layer may say what it changes.  A reading of secrets always leaves one.

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
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ..core import in_thread
from ..errors import MaxError, ProjectError, UsageError, describe
from ..installations.files import sync_folder, write_file
from ..model.actor import actor
from ..model.audit import AuditCheck, AuditRow, Outcome
from ..model.settings import InstallationInfo
from ..model.values import Json, storable
from ..storage import audit_log
from ..storage.leases import describe_worker, new_worker

if TYPE_CHECKING:
    from pathlib import Path

    from ..storage.database import Database
    from .manager import ProjectManager

LONGEST = 500  # characters of a fact
MOST_ROWS = 1_000_000  # that are read together


class _Call:
    """A call that is recorded.  ``with call:`` is the call itself; ``begin`` and ``end`` block.

    ``ended`` is for what has inherited its context and lives longer.
    """

    def __init__(
        self,
        database: Database,
        manager: ProjectManager,
        action: str,
        what: InstallationInfo | str,
        facts: dict[str, Json],
    ) -> None:
        self._database, self.ended = database, False
        self.facts: dict[str, Json] = {}  # that are known at the end
        self._worker = new_worker()
        self._row = _row(manager, self._worker, action, what, facts)
        self._outcome: Outcome = "done"
        self._code, self._intent = "", 0

    def begin(self) -> None:
        """Note that the call begins."""
        self._intent = audit_log.begin(self._database, self._row, worker=self._worker, now=time.time())

    def end(self) -> None:
        """Add the call's row."""
        outcome, facts = self._outcome, _short(self.facts)
        audit_log.end(self._database, self._intent, outcome, self._code, facts, now=time.time())

    def __enter__(self) -> dict[str, Json]:
        self._before = _CALL.get()
        _CALL.set(self)
        return self.facts

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._outcome, self._code = "failed", code_of(error)
        self.ended = True
        _CALL.set(self._before)


class _Elsewhere:
    """In place of a call that another process records."""

    ended = False


_CALL: ContextVar[_Call | _Elsewhere | None] = ContextVar("audited call", default=None)


def _outer() -> _Call | _Elsewhere | None:
    """The call that is being recorded, if any."""
    call = _CALL.get()
    return None if call is None or call.ended else call


def _added_to(outer: _Call | _Elsewhere, facts: dict[str, Json]) -> dict[str, Json]:
    """The facts of a recorded call, with those of one inside of it, which has no row of its own."""
    kept = outer.facts if isinstance(outer, _Call) else {}
    kept |= facts
    return kept


@contextmanager
def audited(
    manager: ProjectManager | None, action: str, what: InstallationInfo | str = "", /, **facts: Json
) -> Iterator[dict[str, Json]]:
    """Record a change: one row with who, what, when and the outcome.

    ``action`` is the name of the method or the command, ``what`` the installation.  What is put into
    the mapping that it gives is added to the facts.  Inside of another recorded call all facts are
    added to the row of that one; without a manager nothing is recorded.  StorageError when the audit
    cannot be written; nothing has begun then.
    """
    outer = _outer()
    database = None if manager is None or outer is not None else manager.writable_audit()
    if manager is None or database is None:
        yield {} if outer is None else _added_to(outer, facts)
        return
    call = _Call(database, manager, action, what, facts)
    call.begin()
    try:
        with call as added:
            yield added
    finally:
        call.end()


@asynccontextmanager
async def audited_call(
    manager: ProjectManager | None, action: str, what: InstallationInfo | str = "", /, **facts: Json
) -> AsyncIterator[dict[str, Json]]:
    """``audited`` for an event loop: threads write the rows."""

    def begin() -> _Call | None:
        database = None if manager is None else manager.writable_audit()
        if manager is None or database is None:
            return None
        call = _Call(database, manager, action, what, facts)
        call.begin()
        return call

    outer = _outer()
    call = None if manager is None or outer is not None else await in_thread(begin)
    if call is None:
        yield {} if outer is None else _added_to(outer, facts)
        return
    try:
        with call as added:
            yield added
    finally:
        await in_thread(call.end)


class InstallationAudit:
    """The audit of one installation, for the parts that do not know where it is."""

    def __init__(self, manager: ProjectManager, info: InstallationInfo) -> None:
        self._manager, self._info = manager, info

    def call(self, action: str, /, **facts: Json) -> AbstractAsyncContextManager[dict[str, Json]]:
        """``audited_call``."""
        return audited_call(self._manager, action, self._info, **facts)

    def read(self, names: Iterable[str]) -> None:
        """Record that secrets of these names were read."""
        record(self._manager, "credentials.read", self._info, names=sorted(names))

    def renewed(self, names: Iterable[str]) -> None:
        """Record that secrets of these names were replaced; what is stored of them is on the disk."""
        record(self._manager, "credentials.renew", self._info, names=sorted(names))


@contextmanager
def recorded_elsewhere() -> Iterator[None]:
    """Inside, changes leave no rows: another process that asks for them has recorded them."""
    before, own = _CALL.get(), _Elsewhere()
    _CALL.set(own)
    try:
        yield
    finally:
        own.ended = True
        _CALL.set(before)


SECRET = ("config", "secrets", "headers", "body")  # arguments of which the names alone are recorded


def recordable(arguments: Mapping[str, object]) -> dict[str, Json]:
    """What the audit may have of a call's arguments: plain values, and of what may hold secrets the names."""
    found: dict[str, Json] = {}
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            found[name] = sorted(map(str, value))
        elif name not in SECRET and isinstance(value, str | int | float):
            found[name] = value
        elif name not in SECRET and isinstance(value, Sequence) and not isinstance(value, bytes):
            found[name] = [one for one in value if isinstance(one, str)]
    return found


def record(manager: ProjectManager, action: str, what: InstallationInfo | str = "", /, **facts: Json) -> None:
    """Record what has happened already, also inside of a recorded call; blocks until it is on the disk."""
    if database := manager.writable_audit():
        audit_log.append(database, _row(manager, new_worker(), action, what, facts), now=time.time())


def code_of(error: BaseException) -> str:
    """The code of an error: ``interrupted`` when its call was stopped."""
    if isinstance(error, MaxError):
        return error.code
    if isinstance(error, Exception):
        return str(describe(error)["code"])
    return "interrupted"


def _row(
    manager: ProjectManager, worker: str, action: str, what: InstallationInfo | str, facts: dict[str, Json]
) -> dict[str, Json]:
    by = actor()
    if isinstance(what, str) and what:
        with suppress(MaxError):  # what has no such name is recorded as it was asked for
            what = manager.target(what)
    named = f"{what} {what.id}" if isinstance(what, InstallationInfo) else what
    return {
        "user": storable(by.user or _user()),
        "process": storable(by.process or describe_worker(worker)),
        "via": by.via,
        "action": action,
        "installation": storable(named),
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


# -- reading -----------------------------------------------------------------------------------


def audit_rows(
    manager: ProjectManager, *, since: float = 0.0, limit: int = MOST_ROWS, copy: Path | None = None
) -> list[AuditRow]:
    """The newest rows since a time (seconds since the epoch), oldest first; those of a copy, if given."""
    return audit_log.rows(manager.audit_database(copy), since=since, limit=limit)[::-1]


def check_audit(manager: ProjectManager, *, head: str = "", copy: Path | None = None) -> AuditCheck:
    """Whether the chain is whole, or that of a copy.

    ``head`` is a digest that was noted elsewhere, or its beginning.
    """
    return audit_log.check(manager.audit_database(copy), head=head)


def unfinished_changes(manager: ProjectManager) -> Sequence[dict[str, Json]]:
    """The changes that have begun and not ended."""
    return [dict(one) for one in audit_log.unfinished(manager.audit_database())]


# -- pruning -----------------------------------------------------------------------------------


def prune_audit(manager: ProjectManager, *, before: float, copy: Path) -> int:
    """Copy all rows into a new file, then remove those that ended before a time; how many.

    Nothing is removed when the chain is not whole (ProjectError), for it would no longer show that, or when
    the file is there already (UsageError).  A crash leaves the rows, or the copy of them, or both.
    """
    database = manager.writable_audit()
    if database is None:
        raise ProjectError(
            f"{manager.label} is not this user's to change", hint="ask its owner to prune the audit"
        )
    try:
        write_file(copy, b"")  # which only its owner can read
    except FileExistsError:
        raise UsageError(f"{copy} is there already", hint="name a new file for the copy") from None
    try:
        audit_log.copy(database, manager.audit_database(copy))
        found = check_audit(manager, copy=copy)
        if found.problems:
            raise ProjectError(
                f"the audit is not whole, so that nothing was removed: {found.problems[0]}",
                hint="max audit --verify names all that is wrong; move .max/audit.db away to begin a new one",
            )
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
    sync_folder(copy.parent)
    row = _row(manager, new_worker(), audit_log.PRUNED, "", {"copy": str(copy)})
    return audit_log.prune(database, row, before=before, until=found.number, now=time.time())
