"""Moving: installations go from one project to another, from files to a database or back.

    freeze      the source refuses to be written; it answers all who read
    copy        data and contents, under a name by which no installation is found
    verify      every row of both is compared, and the SHA-256 of every content
    hand over   the target admits them: ONE STEP, which is a transaction, or the renaming of a folder
    lead        a whole project: its folder leads to the new place, by one replaced file
    remove      what is left in the source

Rule 1: the old place answers until the new one is complete and verified.  From the step on the new one does.
Nothing is written in the old one in between, so there is never something that one of them lacks.

Rule 2: killed anywhere and run again it goes on: each part looks at what is there, and does what is missing.
An installation that was handed over is known by its id in the target, and by the note of the move in the
source; a copy of the source that was made before is not taken for it.

Rule 3: until the step, ``undo`` takes everything back.  One process at a time moves something out of a
project, or takes it back.

Rule 4: what can be refused is refused before anything is written.

Rule 5: secrets are read when they are handed over, under the lock with which they are renewed, and are
nowhere else in between.  A digest of them, which tells nothing, lets a later run see that they were renewed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ..errors import (
    ConnectorError,
    MaxError,
    MoveRefused,
    ProjectError,
    StorageEmpty,
    StorageMoving,
    UnknownName,
    UsageError,
)
from ..installations.files import CONNECTORS
from ..model.settings import InstallationInfo, update_settings
from ..storage import audit_log, moves
from ..storage.database import Database, reading
from ..storage.move_mark import Mark, mark_of, note_handing_over
from ..storage.moves import CopiedTable
from .kept_contents import contents_of, copy_contents, count_contents
from .manager import ProjectManager, refuse_moving

GO_ON = "nothing is lost, and the same max move goes on; to write here again: max move INSTALLATION --undo"


class MoveProgress(NamedTuple):
    """How far a move is: ``what`` is done to an installation, and how many of how many are done.

    ``unit``: what they are, ``row`` or ``content``.
    """

    info: InstallationInfo
    what: str
    done: int
    total: int
    unit: str = "row"


class Planned(NamedTuple):
    """An installation that is to be moved.

    ``files`` are the contents that its connector has kept.  ``arrived``: a former run has handed it over, and
    only what it left is to be removed.
    """

    info: InstallationInfo
    tables: Sequence[CopiedTable]
    files: int
    arrived: bool

    @property
    def rows(self) -> int:
        """How many there are, Max's own among them."""
        return sum(table.rows for table in self.tables)


Tell = Callable[[MoveProgress], None]


def _nothing() -> None:
    """Nothing is to be done."""


class Places(NamedTuple):
    """From where to where.

    ``make`` makes the target where there is none.  ``lead`` has the folder of a whole project lead there,
    when all was handed over; ``done`` takes away what it has noted for a run after a kill.
    """

    source: ProjectManager
    target: ProjectManager
    make: Callable[[], object] = _nothing
    lead: Callable[[], object] = _nothing
    done: Callable[[], object] = _nothing


class Move:
    """A move of some installations, or of all that a project has (``whole``)."""

    def __init__(self, places: Places, chosen: Sequence[InstallationInfo], *, whole: bool = False) -> None:
        self._source, self._target, self._places = places.source, places.target, places
        if self._source.address == self._target.address:
            raise UsageError(
                f"it is in {self._target.address} already", hint="name another place: --to PLACE"
            )
        self._chosen, self._whole = chosen, whole

    # -- before

    def plan(self) -> list[Planned]:
        """What is to be moved, after everything was checked that can be without writing.

        ProjectError, StorageError or SyncError when it cannot be.
        """
        for project in (self._source, self._target):
            project.refuse_foreign()
        if self._whole and (problems := self._source.problems()):
            raise problems[0]
        planned = []
        for info in self._chosen:
            with _of(info):
                planned.append(self._planned(info))
        return planned

    def _planned(self, info: InstallationInfo) -> Planned:
        database, tables = self._source.database(info), list[CopiedTable]()
        mark = None
        with suppress(StorageEmpty), reading(database) as connection:
            mark = moves.check(connection, self._target.address)
            tables = moves.survey(connection)
            moves.refuse_too_large(connection, tables, self._target.database(info).limits)
        if mark is not None and self._has_arrived(info):
            return Planned(info, tables, 0, arrived=True)
        self._target.check_arrival(self._source.leaving(info))
        self._check_connector(info)
        files = count_contents(contents_of(database), contents_of(self._target.database(info)))
        return Planned(info, tables, files, arrived=False)

    def _has_arrived(self, info: InstallationInfo) -> bool:
        """Whether a former run has handed it over."""
        with suppress(ProjectError):
            return any(one.id == info.id and str(one) == str(info) for one in self._target.installations())
        return False

    def _check_connector(self, info: InstallationInfo) -> None:
        """MoveRefused when the target would have no such connector, or another one of its name."""
        file = _own_connector(self._source, info)
        if file is not None and _own_connector(self._target, info) is None:
            raise MoveRefused(
                f"{info} uses the project's own connector {file}, which {self._target.address} lacks",
                hint="move the whole project, or put the connector where all projects find it",
            )

    # -- doing it

    def run(self, tell: Tell = lambda step: None) -> list[Planned]:
        """Move them, and say what was moved; what a former run has begun is gone on with.

        After an error, or a kill, everything is answered by the place that did so before.  MoveRefused while
        another process moves something out of the project.
        """
        with self._source.moving_alone():
            return self._run(tell)

    def _run(self, tell: Tell) -> list[Planned]:
        from .audit import record

        planned = self.plan()
        self._places.make()
        coming = [one for one in planned if not one.arrived]
        named = self._chosen[0] if len(self._chosen) == 1 and not self._whole else ""
        names = [str(one.info) for one in planned]
        with self._source.audited("move", named, to=self._target.address, moved=names):
            self._freeze(coming)
            try:
                for one in coming:
                    with _of(one.info):
                        self._copy(one, tell)
                self._hand_over(planned, coming)
            except MaxError as error:
                error.hint = "; ".join(filter(None, [error.hint, GO_ON]))
                raise
        if self._whole:
            self._carry_audit()
        for one in planned:
            record(self._target, "move", one.info, source=self._source.address)
        self._refuse_new_ones()
        self._places.done()
        return planned

    def _freeze(self, coming: Sequence[Planned]) -> None:
        """Let none of them be written any more; when that cannot be, those that could be still can."""
        frozen: list[InstallationInfo] = []
        try:
            for one in coming:
                with _of(one.info):
                    database = self._lasting(one.info)
                    with self._source.changing(one.info), database.writer() as connection:
                        was_frozen = mark_of(connection) is not None
                        moves.freeze(connection, self._target.address, whole=self._whole)
                if not was_frozen:
                    frozen.append(one.info)
        except BaseException:
            for info in frozen:
                with suppress(MaxError):
                    _let_go(self._source, info)
            raise

    def _lasting(self, info: InstallationInfo) -> Database:
        """The source's data, for what no power cut may undo, however durable its syncs are to be."""
        settings = update_settings(info.settings, {"durability": "full"})
        known = (info.connector, info.name, info.id, info.config, info.connected_at)
        return self._source.writable_database(InstallationInfo(*known, settings))

    def _copy(self, one: Planned, tell: Tell) -> None:
        """Copy the data and the contents of an installation, and compare them."""
        source, target = self._source.database(one.info), self._target.arriving(one.info)
        with reading(source) as connection:
            tables = moves.survey(connection)
            if tables:  # else it was never synced
                with target.writer() as made:
                    moves.prepare(connection, made, tables)
                moves.copy(connection, target, tables, _counting(one, "copying", tell))
                moves.complete(connection, target, tables)
                with reading(target) as arrived:
                    moves.verify(connection, arrived, tables, _counting(one, "verifying", tell))
        counted = _counting(one, "copying", tell, "content", one.files)
        copy_contents(contents_of(source), contents_of(target), counted)

    def _hand_over(self, planned: Sequence[Planned], coming: Sequence[Planned]) -> None:
        """The step, and what follows it."""
        leaving = [self._source.leaving(one.info) for one in coming]
        for info, _, given in leaving:
            digest = self._source.credentials(info).digest(given.secrets)
            with self._lasting(info).writer() as connection:
                note_handing_over(connection, digest)
        self._target.admit(leaving)
        for one in coming:
            self._refuse_taken_back(one)
        self._places.lead()
        for one in planned:
            with self._source.credentials(one.info).blocking_renewal_lock():
                self._refuse_taken_back(one)
                self._hand_over_renewed(one.info)
                self._source.remove(one.info, keep_data=False, moving=True)

    def _hand_over_renewed(self, info: InstallationInfo) -> None:
        """Secrets that were renewed after they had been given: the service may know these alone.

        Those of the target stay when they are not what it was given: it has been answering since then.
        """
        mark, source = moving_to(self._source, info), self._source.credentials(info)
        now = self._source.leaving(info).secrets.secrets
        if mark is None or source.digest(now) == mark.given:
            return

        def newer(kept: dict[str, str]) -> dict[str, str]:
            return now if source.digest(kept) == mark.given else kept

        self._target.credentials(info).change(newer)

    def _refuse_taken_back(self, one: Planned) -> None:
        """MoveRefused when ``undo`` has let it stay meanwhile, or has removed what was copied."""
        if moving_to(self._source, one.info) is None or (one.tables and not self._target.has_data(one.info)):
            raise MoveRefused(
                f"the move of {one.info} was taken back meanwhile: nothing of it is removed",
                hint=f"disconnect it in {self._target.address}, and move it again",
            )

    def _refuse_new_ones(self) -> None:
        """MoveRefused when something was connected where a whole project was, after that was planned."""
        names = ", ".join(map(str, self._source.installations())) if self._whole else ""
        if names:
            raise MoveRefused(
                f"{names} was connected in {self._source.address} while the rest was moved",
                hint="run the same max move again: it is moved as well",
            )

    def _carry_audit(self) -> None:
        """Have the audit of a whole project in the target, unless that has one of its own."""
        source, target = self._source.audit_database(), self._target.writable_audit()
        if target is None or not source.is_there() or audit_log.check(source).problems:
            return
        if not audit_log.is_in(source, target):
            if audit_log.rows(target, limit=1):
                return
            audit_log.copy(source, target)
        if not audit_log.is_in(source, target) or audit_log.check(target).problems:
            raise MoveRefused(f"the audit did not arrive whole in {self._target.address}")
        source.delete()


def _counting(
    one: Planned, what: str, tell: Tell, unit: str = "row", total: int | None = None
) -> Callable[[int], None]:
    done = 0

    def counted(number: int) -> None:
        nonlocal done
        done += number
        tell(MoveProgress(one.info, what, done, one.rows if total is None else total, unit))

    return counted


def _own_connector(project: ProjectManager, info: InstallationInfo) -> Path | None:
    """The file of the connector in the project's own folder; None when it is not from there."""
    with suppress(ConnectorError, UnknownName):
        file = project.connector_files(info)[0]
        if project.root is not None and file.is_relative_to(project.root / CONNECTORS):
            return file
    return None


@contextmanager
def _of(info: InstallationInfo) -> Iterator[None]:
    """An error says of which installation it is."""
    try:
        yield
    except MaxError as error:
        error.locate(str(info))
        raise


# -- taking it back ----------------------------------------------------------------------------


def moving_to(project: ProjectManager, info: InstallationInfo) -> Mark | None:
    """Where an installation is being moved to; None when it is not."""
    with suppress(StorageEmpty), reading(project.database(info)) as connection:
        return mark_of(connection)
    return None


def is_given_up(project: ProjectManager, info: InstallationInfo) -> bool:
    """Whether an installation may be removed although it is being moved; StorageMoving when it may not.

    It may if it was handed over to a place that cannot be reached: if that is lost, no other command ends
    the move.
    """
    try:
        refuse_moving(project, info)
    except StorageMoving:
        mark = moving_to(project, info)
        if mark is None or not mark.handing_over or _is_reached(mark.target):
            raise
        return True
    return False


def _is_reached(place: str) -> bool:
    from .opening import unopened

    try:
        unopened(place).installations()
    except MaxError:
        return False
    return True


def undo(project: ProjectManager, info: InstallationInfo, mark: Mark, target: ProjectManager) -> bool:
    """Let an installation stay where it is, and remove what was copied; False when that cannot be reached.

    ``mark`` was read before, and is read again: a move that ended meanwhile may have handed it over.
    MoveRefused when the target has it already, or while another process moves something out of the project;
    an error when that cannot be found out.
    """
    with project.moving_alone():
        now = moving_to(project, info) or mark._replace(handing_over=True)
        return _undo(project, info, now, target)


def _undo(project: ProjectManager, info: InstallationInfo, mark: Mark, target: ProjectManager) -> bool:
    if mark.handing_over and any(one.id == info.id for one in target.installations()):
        raise MoveRefused(
            f"{info} is in {mark.target} already",
            hint="run the same max move again: what is left here is removed",
        )
    renewal = project.credentials(info).blocking_renewal_lock()  # a move holds it when it removes
    with renewal, project.audited("move.undo", info, to=mark.target):
        _let_go(project, info)
        try:
            target.drop_arriving(info)
        except MaxError:
            return False
    return True


def _let_go(project: ProjectManager, info: InstallationInfo) -> None:
    """Let an installation be written again."""
    database = project.writable_database(info)
    with database.writer() as connection:
        moves.thaw(connection)
        is_empty = not moves.survey(connection)
    if is_empty:  # it was never synced
        database.delete()
