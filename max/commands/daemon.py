"""daemon: the process that keeps a project warm: starting it, stopping it, looking at it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import DaemonError, MaxError, NotFound, UsageError
from ..model.periods import parse_duration
from ..projects.audit import audited
from ..projects.manager import ProjectManager, folder_of
from ..serve.daemon_folder import ADDRESS, LOG, DaemonFolder
from .console import console
from .framework import Answer, Options, table
from .parser import Parser, at_least_one
from .tables import Column
from .text import iso_time, json_text, short_age, until

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..daemon import DaemonOptions
    from ..model.values import Json
    from ..serve.daemon_process import DaemonState
    from .forwarded import ForwardedCommands

ON, OFF = "on", "off"
LINES = 50  # of the log that are shown
PATIENCE = 5.0  # seconds that a daemon may take to say what it does
DOWN = 1  # the exit status of `max daemon status` when no daemon answers
PARTIAL = 3
LIST = ("project", "state", "pid", "since", "version", "options", "folder")
LOGGED = ("time", "level", "part", "message")


def found(options: Options) -> tuple[ProjectManager, DaemonFolder]:
    """The project that the options name, and the place of its daemon; another user's project is refused."""
    project = options.found_project()
    project.refuse_foreign()
    return project, DaemonFolder(folder_of(project))


# -- starting and stopping -------------------------------------------------------------------------


def add_daemon_options(parser: Parser) -> None:
    """Take the options of a daemon, which its next start takes again."""
    parser.add_argument("--http", metavar="HOST:PORT", help="answer over HTTP, too: 127.0.0.1:8080, or off")
    parser.add_argument(
        "--idle-stop", metavar="TIME", help="end after so long without a call or a sync: 30m, 2h, or off"
    )
    parser.add_argument(
        "--isolate", metavar="on|off", help="whether each installation runs in a process of its own"
    )


def daemon_options(options: Options, folder: DaemonFolder) -> DaemonOptions:
    """The options that a daemon is to have: those given, and for the others those of its last start."""
    from ..daemon import DaemonOptions

    known = DaemonOptions.from_json(folder.description().get("options"))
    changes: dict[str, object] = {}
    if options.idle_stop is not None:
        changes["idle_stop"] = None if options.idle_stop == OFF else idle_time(options.idle_stop)
    if options.http is not None:
        changes["http"] = None if options.http == OFF else host_and_port(options.http)
    if options.isolate is not None:
        if options.isolate not in (ON, OFF):
            raise UsageError(f"--isolate: {options.isolate!r} is neither {ON} nor {OFF}")
        changes["isolate"] = options.isolate == ON
    return known.replace(**changes)


def idle_time(text: str) -> float:
    """The seconds of ``30m``; UsageError."""
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--idle-stop: {error}", hint="such as 30m or 2h, or off") from None
    if seconds <= 0:
        raise UsageError("--idle-stop: it would end at once", hint="such as 30m or 2h, or off")
    return seconds


def host_and_port(text: str) -> str:
    """``HOST:PORT`` as it is; UsageError when it is something else."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"--http: {text!r} is not HOST:PORT", hint="such as 127.0.0.1:8080, or off")
    return text


def port_of(option: str, text: str) -> int:
    """The number of a port; UsageError."""
    if not text.isdecimal() or int(text) > 65_535:
        raise UsageError(f"{option}: {text!r} is no port", hint="a number to 65535; 0 picks a free one")
    return int(text)


def configure_daemon_start(parser: Parser) -> None:
    """``max daemon start``."""
    add_daemon_options(parser)
    parser.add_examples("max daemon start", "max daemon start --idle-stop 2h")


def run_daemon_start(options: Options) -> Answer:
    """Start the project's daemon in the background; nothing changes when it runs already."""
    from ..serve.daemon_process import start, state_of

    project, folder = found(options)
    wanted = daemon_options(options, folder)
    with audited(project, "daemon start"):
        started = start(folder, wanted.to_json())
    state, notes = state_of(folder), []
    if dict(state.options) != wanted.to_json():
        notes.append("it runs with other options; max daemon restart takes the options that are to change")
    return answered(options, state, "started" if started else "running already", notes)


def configure_daemon_stop(parser: Parser) -> None:
    """``max daemon stop``."""
    add_force(parser)
    parser.add_examples("max daemon stop", "max daemon stop --force")


def add_force(parser: Parser) -> None:
    """Take ``--force``."""
    about = "kill it: its syncs are interrupted, and go on from their last page when they are resumed"
    parser.add_argument("--force", action="store_true", help=about)


def run_daemon_stop(options: Options) -> Answer:
    """Stop the project's daemon: its syncs pause, and it ends within 10 seconds."""
    from ..serve.daemon_process import state_of, stop

    project, folder = found(options)
    before = state_of(folder)
    with audited(project, "daemon stop"):
        stopped = stop(folder, force=options.force)
    after = before._replace(state=state_of(folder).state) if stopped else before
    return answered(options, after, "stopped" if stopped else "not running")


def configure_daemon_restart(parser: Parser) -> None:
    """``max daemon restart``."""
    add_daemon_options(parser)
    add_force(parser)
    about = "only when the one that runs is of an older Max; any other is left alone"
    parser.add_argument("--outdated", action="store_true", help=about)
    parser.add_examples("max daemon restart", "max daemon restart --idle-stop off")


def run_daemon_restart(options: Options) -> Answer:
    """Stop the project's daemon if it runs, and start it with the options it had, changed by those given.

    The syncs that it had under way go on.
    """
    from ..serve.daemon_process import is_outdated, start, state_of, stop

    project, folder = found(options)
    wanted, who = daemon_options(options, folder), folder.holder()
    if options.outdated and not is_outdated(state_of(folder).version):
        return answered(options, state_of(folder), "not outdated")
    with audited(project, "daemon restart"):
        stopped = stop(folder, who=who if options.outdated else None, force=options.force)
        start(folder, wanted.to_json(), resume=stopped)
    return answered(options, state_of(folder), "restarted")


def answered(options: Options, state: DaemonState, what: str, notes: Iterable[str] = ()) -> Answer:
    """What became of a daemon."""
    process = "" if state.pid is None else f" (process {state.pid})"
    words = f"the daemon of {state.root}: {what}{process}"
    return options.answer({"did": what, **state.to_json()}, lambda: [words], notes)


def configure_daemon_run(parser: Parser) -> None:
    """``max daemon run``."""
    add_daemon_options(parser)
    parser.add_argument("--background", action="store_true", help=argparse.SUPPRESS)
    parser.add_examples("max daemon run   (until a signal: for a container, a terminal, or a supervisor)")


def run_daemon_run(options: Options) -> Answer:
    """Be the daemon until a signal ends it."""
    from ..daemon import run_daemon
    from ..serve.daemon_process import in_background

    if options.background:
        in_background(partial(be_daemon, options))
        return Answer(())
    project, folder = found(options)
    wanted = daemon_options(options, folder)
    if folder.is_disabled():  # a supervisor need not try again
        return Answer((), [f"the daemon of {folder.root} is disabled; allow it with: max daemon enable"])
    run_daemon(project, wanted, commands(options, project))
    return Answer(())


def commands(options: Options, project: ProjectManager) -> ForwardedCommands:
    """What answers the commands of this project that are forwarded."""
    from .forwarded import ForwardedCommands

    return ForwardedCommands(folder_of(project), options.answer_words)


def be_daemon(options: Options, ready: Callable[[], None]) -> None:
    """Be the daemon in the background; ``ready`` is called when it listens."""
    from ..daemon import run_daemon

    project, folder = found(options)
    wanted = daemon_options(options, folder)
    run_daemon(project, wanted, commands(options, project), background=True, ready=ready)


# -- looking at it ---------------------------------------------------------------------------------


def configure_daemon_status(parser: Parser) -> None:
    """``max daemon status``."""
    parser.add_examples("max daemon status", "max daemon status -o json")
    parser.description = f"{parser.description}  The exit status is 0 when a daemon answers, else {DOWN}."


def run_daemon_status(options: Options) -> Answer:
    """Say whether the project's daemon runs, since when, and what it is doing."""
    from ..serve.daemon_process import state_of

    project = options.found_project()
    folder = DaemonFolder(folder_of(project))
    state = state_of(folder)
    if state.state != "running":
        return options.answer(state.to_json(), partial(down_text, folder, state), status=DOWN)
    used: Mapping[str, float] = {}
    problem = ""
    try:
        used = runtimes_of(folder)
    except MaxError as error:
        problem = error.render()
    found = [installation_facts(project, info, used.get(info.id)) for info in project.installations()]
    data = {**state.to_json(), "socket": folder.socket, "log": folder.file(LOG), "problem": problem or None}
    address = folder.description().get(ADDRESS)
    data["http"] = address
    data["installations"] = [one.to_json() for one in found]
    notes = [problem] if problem else []
    return options.answer(
        data, partial(up_text, folder, state, found, address), notes, DOWN if problem else 0
    )


class InstallationFacts(NamedTuple):
    """What a daemon does for an installation; times are in seconds since the epoch.

    ``since``: when its runtime began, None when it has none.  ``sync`` is the id of the one under way,
    ``next_at`` when the next scheduled one begins.
    """

    name: str
    since: float | None
    sync: str | None = None
    next_at: float | None = None

    def to_json(self) -> dict[str, Json]:
        """The facts as JSON data."""
        times = {"since": iso_time(self.since), "next": iso_time(self.next_at)}
        return {"installation": self.name, "sync": self.sync, **times}


def installation_facts(
    project: ProjectManager, info: InstallationInfo, since: float | None
) -> InstallationFacts:
    """What is stored about an installation; a file that cannot be read says nothing."""
    from ..query.reader import open_reader
    from ..query.schedules import next_due, statuses

    database, facts = project.database(info), InstallationFacts(str(info), since)
    with suppress(MaxError):
        facts = facts._replace(next_at=next_due(statuses(database, info, now=time.time())))
        with open_reader(database, info) as reader:
            running = [run.id for run in reader.runs(1) if run.status == "running"]
        return facts._replace(sync=next(iter(running), None))
    return facts


def runtimes_of(folder: DaemonFolder) -> Mapping[str, float]:
    """The ids of the installations that a daemon has in use, each with the time of its start; MaxError."""
    import asyncio

    from ..serve.client import Client

    async def ask() -> Mapping[str, float]:
        async with asyncio.timeout(PATIENCE), Client.at(folder.socket) as client:
            return {info.id: since for info, since in await client.runtimes()}

    try:
        return asyncio.run(ask())
    except TimeoutError:
        hint = "max daemon logs may say why; max daemon restart --force replaces it"
        raise DaemonError(f"it does not answer within {PATIENCE:g} s", hint=hint) from None


def down_text(folder: DaemonFolder, state: DaemonState) -> list[str]:
    """The lines about a daemon that does not run."""
    words = {
        "stale": "not running: its process was killed; the next start clears what it left",
        "disabled": "disabled; allow it again with: max daemon enable",
    }
    said = words.get(state.state, "not running; start it: max daemon start")
    return [f"the daemon of {folder.root}: {said}"]


def up_text(
    folder: DaemonFolder, state: DaemonState, found: Sequence[InstallationFacts], address: Json
) -> Iterator[str]:
    """The lines about a daemon that runs."""
    now = time.time()
    since = "" if state.since is None else f" for {short_age(max(0.0, now - state.since))}"
    yield f"the daemon of {folder.root}: running{since} (process {state.pid}, max {state.version})"
    yield f"  log: {folder.file(LOG)}"
    if address:
        yield f"  HTTP: {address}"
    columns = [Column("installation", whole=True), Column("in use for", right=True)]
    columns += [Column("sync", whole=True), Column("next", whole=True)]
    yield from table(columns, [facts_row(one, now) for one in found])


def facts_row(one: InstallationFacts, now: float) -> list[str]:
    """What a daemon does for an installation, as a row of the table."""
    age = "" if one.since is None else short_age(max(0.0, now - one.since))
    following = "" if one.next_at is None else until(max(now, one.next_at), now)
    return [one.name, age, "" if one.sync is None else f"{one.sync} is running", following]


def configure_daemon_list(parser: Parser) -> None:
    """``max daemon list``."""
    parser.answers_rows = True
    parser.add_examples("max daemon list", "max daemon list -o json")


def run_daemon_list(options: Options) -> Answer:
    """List the daemons of this user on this machine, whether they run or not."""
    from ..serve.daemon_process import known_daemons

    known, now = known_daemons(), time.time()

    def text() -> list[str]:
        columns = [Column("project", whole=True), Column("state", whole=True), Column("process", right=True)]
        columns += [Column("for", right=True), Column("version")]
        return table(columns, [list_row(one, now) for one in known])

    notes = [] if known else ["no project has a daemon; in a project: max daemon start"]
    gone = [one.folder for one in known if one.state == "gone"]
    notes += [f"a project that is gone left its daemon's folder: rm -r {folder}" for folder in gone]
    return options.listing([one.to_json() for one in known], text, notes, columns=LIST)


def list_row(one: DaemonState, now: float) -> list[str]:
    """A daemon as a row of the table."""
    age = "" if one.since is None else short_age(max(0.0, now - one.since))
    return [one.root, one.state, "" if one.pid is None else str(one.pid), age, one.version or ""]


def configure_daemon_logs(parser: Parser) -> None:
    """``max daemon logs``."""
    parser.answers_rows = True
    parser.add_argument("-f", "--follow", action="store_true", help="go on with each new line, until Ctrl-C")
    parser.add_argument("--lines", type=at_least_one, default=LINES, metavar="N", help=f"default: {LINES}")
    parser.add_examples("max daemon logs", "max daemon logs -f --lines 10")


def run_daemon_logs(options: Options) -> Answer:
    """Show the last lines of the daemon's log."""
    from ..serve.daemon_log import follow, parsed, tail

    log = Path(DaemonFolder(folder_of(options.found_project())).file(LOG))
    if options.follow:
        if options.output not in ("text", "ndjson"):
            raise UsageError(f"-f never ends, which {options.output} cannot be", hint="use text or ndjson")
        lines = follow(log, options.lines, idle=console().stdout.flush)
        return Answer(lines if options.output == "text" else (json_text(parsed(one)) for one in lines))
    last = tail(log, options.lines)
    notes = [] if last else [f"there is no line in {log} yet"]
    return options.listing([parsed(one) for one in last], lambda: last, notes, columns=LOGGED)


# -- whether it may run, and when ------------------------------------------------------------------


def configure_daemon_enable(parser: Parser) -> None:
    """``max daemon enable``."""
    parser.add_examples("max daemon enable")


def run_daemon_enable(options: Options) -> Answer:
    """Allow the project's daemon to start again."""
    return marked(options, disabled=False)


def configure_daemon_disable(parser: Parser) -> None:
    """``max daemon disable``."""
    parser.add_examples("max daemon disable")


def run_daemon_disable(options: Options) -> Answer:
    """Stop the project's daemon, and let none start until it is enabled."""
    return marked(options, disabled=True)


def marked(options: Options, *, disabled: bool) -> Answer:
    """Allow the daemon of a project, or forbid it; one that runs then ends."""
    from ..serve.daemon_process import set_disabled, state_of, stop

    project, folder = found(options)
    words = "disabled" if disabled else "enabled"
    with audited(project, f"daemon {words.removesuffix('d')}"):
        changed = set_disabled(folder, disabled)
        if disabled:
            stop(folder)
    return answered(options, state_of(folder), words if changed else f"{words} already")


def configure_daemon_install(parser: Parser) -> None:
    """``max daemon install``."""
    add_daemon_options(parser)
    parser.add_argument("--print", action="store_true", help="show the file; nothing is written")
    parser.add_examples("max daemon install", "max daemon install --print")


def run_daemon_install(options: Options) -> Answer:
    """Let the user's systemd or launchd start the project's daemon at login, and again after a crash."""
    from ..serve.daemon_folder import RESUME
    from ..serve.daemon_lock import amend
    from ..serve.daemon_process import own_service, stop
    from ..serve.service_manager import run_commands

    project, folder = found(options)
    wanted, service = daemon_options(options, folder), own_service(folder)
    data = {"name": service.name, "file": str(service.file), "content": service.content}
    if options.print:
        return options.answer(data, lambda: service.content.rstrip("\n").split("\n"))
    with audited(project, "daemon install"):
        service.write()
        amend(folder, options=wanted.to_json(), **{RESUME: stop(folder)})
        problems = run_commands(service.enable)
    notes = [f"{one}; it begins at the next login, or with that command" for one in problems]
    text = [f"written: {service.file}"]
    if not problems:
        text.append(f"started, now and at each login: {service.name}")
    return options.answer({**data, "problems": problems}, lambda: text, notes, PARTIAL if problems else 0)


def configure_daemon_uninstall(parser: Parser) -> None:
    """``max daemon uninstall``."""
    parser.add_examples("max daemon uninstall")


def run_daemon_uninstall(options: Options) -> Answer:
    """Take ``install`` back: the daemon stops, and starts at login no more."""
    from ..serve.daemon_process import own_service
    from ..serve.service_manager import run_commands

    project, folder = found(options)
    service = own_service(folder)
    if not service.file.exists():
        raise NotFound(
            "service", service.name, hint=f"{service.file} is not there; max daemon install makes it"
        )
    with audited(project, "daemon uninstall"):
        problems = run_commands(service.disable)
        service.file.unlink(missing_ok=True)
        problems += run_commands(service.reload)
    data: dict[str, Json] = {"name": service.name, "file": str(service.file), "problems": problems}
    return options.answer(data, lambda: [f"removed: {service.file}"], problems, PARTIAL if problems else 0)
