"""Whether a project is on good ground: this machine, the place where it is kept, and each installation.

Rule 1: nothing is written, also not in the audit, and nothing is asked of a source.

Rule 2: no secret leaves: what is sealed is opened only to see whether the key fits, and names alone are said.

Rule 3: a check that fails is a finding, and what does not hang on it is checked all the same.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import KeyMissing, MaxError, ProjectUntrusted, UsageError
from ..installations.files import FOLDER, INSTALLATIONS
from ..model.settings import InstallationInfo
from ..model.soundness import PROJECT, Finding, Level, failed, few, problem, warning
from ..model.values import file_size
from ..storage.soundness import audit_findings, database_findings, library
from .manager import ProjectManager, finishing, move_mark, ways_out

if TYPE_CHECKING:
    from ..connector import Connector

EXTRAS = {  # of the package, and the modules that each needs
    "http": "httpx2",
    "google": "httpx2 cryptography",
    "github-app": "httpx2 cryptography",
    "descriptions": "yaml graphql",
    "daemon": "h11",
    "postgres": "psycopg cryptography",
    "frames": "pyarrow pandas polars",
}
# Bytes that should be free: eight of the logs that a sync fills before one is moved into the file.  As much
# as the largest database should be, too, since an upgrade of it may write each of its rows once more.
ROOM = 256 * 2**20


def machine_findings() -> Iterator[Finding]:
    """What is found of this machine."""
    yield Finding("python", f"Python {platform.python_version()} runs Max {__version__}")
    yield from _tried("sqlite", library)
    there = [name for name, modules in EXTRAS.items() if all(map(find_spec, modules.split()))]
    lacking = ", ".join(name for name in EXTRAS if name not in there)
    fact = f"{', '.join(there) or 'none'} installed"
    yield Finding("extras", f"{fact}; not {lacking}" if lacking else fact)


def project_findings(
    project: ProjectManager, chosen: Sequence[InstallationInfo] | None = None, *, deep: bool = False
) -> Iterator[Finding]:
    """What is found of a project, and of some installations of it; None: of all."""
    from .opening import left_behind

    found = _tried("place", project.findings)
    if left := left_behind(project):
        hint = f"remove what is left there: {finishing(project.address)}"
        found.append(warning("move", f"a move from {left} is not finished", hint))
    found += [failed("installation", one) for one in project.problems()] if chosen is None else []
    yield from (one.replace(about=PROJECT) for one in found)
    for info in project.installations() if chosen is None else chosen:
        for one in _installation_findings(project, info, deep=deep):
            yield one.replace(about=str(info))


def _tried(check: str, work: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check finds; an error that ends it is a finding too."""
    found: list[Finding] = []
    try:
        found.extend(work())
    except MaxError as error:
        found.append(failed(check, error))
    return found


# -- a project in a folder ---------------------------------------------------------------------


def folder_findings(project: ProjectManager, root: Path) -> Iterator[Finding]:
    """What is found of the files of a project, whose folder is ``root``."""
    place = root / FOLDER
    yield _files_finding(place)
    try:
        project.refuse_foreign()
    except ProjectUntrusted as error:
        yield failed("owner", error, Level.WARNING)
    yield from _tried("audit", lambda: audit_findings(project.audit_database()))
    yield _room(place, max((project.database(one).size() for one in project.installations()), default=0))


def _files_finding(place: Path) -> Finding:
    """Whether this user can read and write what is in a project's folder."""
    patterns = ("*", *(f"{INSTALLATIONS}/{'/'.join('*' * depth)}" for depth in (1, 2, 3)))
    paths = [place, *(one for pattern in patterns for one in place.glob(pattern))]
    lost = [f"{one} → {one.readlink()}" for one in paths if one.is_symlink() and not one.exists()]
    paths = [one for one in paths if one.exists()]
    unread = [str(one) for one in paths if not os.access(one, os.R_OK | os.X_OK * one.is_dir())]
    unwritten = [str(one) for one in paths if not os.access(one, os.W_OK)]
    hint = f"as its owner: chmod -R u+rwX {place}"
    if lost:
        way = "mount its disk or mend the link before the next sync, which makes a new file there"
        return problem("files", f"a link leads to what is not there: {few(lost)}", way)
    if unread:
        return problem("files", f"this user cannot read {few(unread)}", hint)
    if unwritten:
        fact = f"this user cannot write {few(unwritten)}: the project can be asked, and not synced"
        return warning("files", fact, hint)
    return Finding("files", f"this user can read and write {place}")


def _room(place: Path, largest: int) -> Finding:
    free, wanted = shutil.disk_usage(place).free, max(ROOM, largest)
    fact = f"{file_size(free)} are free on its disk"
    if free < wanted:
        hint = "free some: a sync ends when the disk is full, and keeps what it has stored"
        return warning("disk", f"{fact}, less than {file_size(wanted)}", hint)
    return Finding("disk", fact)


# -- an installation ---------------------------------------------------------------------------


def _installation_findings(
    project: ProjectManager, info: InstallationInfo, *, deep: bool
) -> Iterator[Finding]:
    connector: Connector[Any, Any] | None = None
    try:
        connector = project.connector(info)
        yield Finding("connector", f"{info.connector} is {project.connector_files(info)[0]}")
    except ProjectUntrusted as error:
        yield failed("connector", error, Level.WARNING)  # it can be asked
    except MaxError as error:
        yield failed("connector", error)
    if connector is not None:
        yield _configuration(connector, info)
    yield from _tried("secrets", lambda: _secrets(project, info, connector))
    yield from _tried("data", lambda: database_findings(project.database(info), info.connector, deep=deep))
    yield from _tried("move", lambda: _move(project, info))


def _configuration(connector: Connector[Any, Any], info: InstallationInfo) -> Finding:
    from ..installations.config import read_config

    names = few(sorted(info.config))
    try:
        read_config(connector.config, info.config, subject="the configuration")
    except UsageError as error:  # its message shows the values
        wrong = ", ".join(one.path for one in getattr(error, "mismatches", ())) or names
        hint = f"max connect {info} --update --set KEY=VALUE"
        return problem("configuration", f"its connector cannot use the values of {wrong}", hint)
    return Finding("configuration", f"its connector can use its values ({names or 'none'})")


def _secrets(
    project: ProjectManager, info: InstallationInfo, connector: Connector[Any, Any] | None
) -> Iterator[Finding]:
    from ..installations.onboarding import destination_of

    destination = None if connector is None else destination_of(connector, info.config)
    try:
        names = project.credentials(info, destination).unrecorded().stored().secrets
    except KeyMissing:
        return  # which the project's own findings say once
    declared = () if connector is None else connector.credentials
    missing = [one.name for one in declared if one.required and one.name not in names]
    if missing:
        hint = f"max connect {info} --update --credential {missing[0]}=env:VARIABLE"
        yield problem("secrets", f"missing: {', '.join(missing)}", hint)
    else:
        yield Finding("secrets", f"there: {', '.join(sorted(names)) or 'none, and none is missed'}")


def _move(project: ProjectManager, info: InstallationInfo) -> Iterator[Finding]:
    mark = move_mark(project, info)
    if mark is None:
        return
    if project.is_moving():
        yield Finding("move", f"a process is moving it to {mark.target}")
        return
    go_on, undo = ways_out(info, mark)
    back = f"; or take it back: {undo}" if undo else ""
    yield warning("move", f"its move to {mark.target} is not finished", f"go on with: {go_on}{back}")
