"""The commands that change something: connecting, disconnecting, syncing.

They may take their time to start, so they import what they need: an event loop, a connector.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from ..connector import AnyConnector
from ..core import InstallationInfo
from ..errors import ProjectError, SuspiciousRemoval, SyncError, SyncRunning, UnknownName, UsageError
from ..execution import SyncHandle
from ..installations.onboarding import Onboarded, needs_answers, onboard
from ..installations.secret_sources import read_secret
from ..model.tasks import Status, SyncResult, SyncRun, Wanted
from ..project import Project
from ..runtime import InstallationRuntime
from ..storage.leases import owner_of
from ..storage.sqlite import READER_CACHE, connect, transaction, translated
from ..storage.sync_log import request, runs
from ..sync.task_graph import wanted
from ..upstream.recording import Recording, Replay, refuse_written
from .foreground import Begin, Foreground
from .framework import (
    Answer,
    Handler,
    Options,
    Parser,
    add_target,
    answer,
    connected,
    examples,
    found_project,
    only_target,
    paint,
)
from .freshness import add_scope, refuse_contradictions, scope
from .terminal import TerminalPrompter, is_terminal, tell, width
from .text import installation_json, result_json, summary

EXIT = {Status.COMPLETED: 0, Status.PARTIAL: 3, Status.PAUSED: 130, Status.INTERRUPTED: 130}  # others: 1


# -- connect, disconnect ----------------------------------------------------------------------


def configure_connect(parser: Parser) -> None:
    """``max connect NAME[:INSTALLATION] …``."""
    parser.add_argument("name", nargs="?", metavar="CONNECTOR[:NAME]", help="the source, and what to call it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="an answer, so that it is not asked"
    )
    parser.add_argument(
        "--credential",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="a secret from env:VARIABLE, file:PATH, or - for standard input",
    )
    parser.add_argument("--no-input", action="store_true", help="never ask; fail when an answer is missing")
    parser.add_argument("--change", action="store_true", help="change an installation that is there already")
    parser.set_defaults(run=run_connect)
    examples(
        parser,
        "max connect acme",
        "max connect git:site --set path=~/work/site",
        "max connect acme --set base_url=http://localhost:4567 --credential token=env:ACME_TOKEN",
        "max connect acme:default --change --set users=50",
    )


def run_connect(options: Options) -> Answer:
    """Run the connector's onboarding, then keep what it came to; a failure leaves nothing behind."""
    project, made = project_here(options)
    if options.name is None:
        raise UsageError("connect what?", hint=f"one of: {', '.join(project.registry.names())}")
    connector_name, _, name = options.name.partition(":")
    existing = the_one_there(project, connector_name, name)
    if options.change and existing is None:
        raise UnknownName("installation", options.name, map(str, project.installations()))
    if existing is not None and not options.change:
        hint = f"to change it: max connect {existing} --change; to add another, choose another name"
        raise ProjectError(f"{existing} is connected already", hint=hint)
    connector = project.registry.resolve(connector_name)
    found = asyncio.run(onboarded(connector, options, project, existing))
    if existing is not None:
        info = project.reconfigure(existing, found.config, found.secrets)
    else:
        info = keep(project, connector_name, name or None, found, new=made)
    notes = [f"made a project in {project.root}"] if made else []
    notes += [*found.found, f"next: max sync {info}"]
    verb = "changed" if existing else "connected"
    return answer(options, installation_json(info), lambda: [f"{verb} {info}"], notes)


def project_here(options: Options) -> tuple[Project, bool]:
    """The project, or one that is yet to be made in this folder, and whether it is so."""
    try:
        return found_project(options), False
    except ProjectError:
        return Project(Path(options.project).resolve()), True


def the_one_there(project: Project, connector: str, name: str) -> InstallationInfo | None:
    """The installation of that very name; without a name none, so that another is made."""
    known = {str(info): info for info in project.installations()}
    return known.get(f"{connector}:{name}") if name else None


async def onboarded(
    connector: AnyConnector, options: Options, project: Project, existing: InstallationInfo | None
) -> Onboarded:
    """What the connector's onboarding comes to, asking when somebody is there."""
    given: dict[str, object] = dict(existing.config) if existing else {}
    given |= pairs("--set", options.set)
    kept = await kept_secrets(connector, project, existing) if existing else {}
    sources = pairs("--credential", options.credential)
    secrets = kept | {name: read_secret(source, sys.stdin) for name, source in sources.items()}
    asking = is_terminal(sys.stdin) and not options.no_input and "-" not in sources.values()
    found = await onboard(connector, TerminalPrompter() if asking else None, given, secrets)
    # what stays as it was is not written again: a sync may be renewing it
    changed = {name: secret for name, secret in found.secrets.items() if kept.get(name) != secret}
    return Onboarded(found.config, changed, found.found)


async def kept_secrets(connector: AnyConnector, project: Project, info: InstallationInfo) -> dict[str, str]:
    """The declared secrets of an installation, to validate them together with what changes."""
    store = project.credentials(info)
    found = {one.name: await store.get(one.name) for one in connector.credentials}
    return {name: secret for name, secret in found.items() if secret}


def pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    """``key=value`` words as a mapping; the message of a bad one does not repeat it."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} expects name=value", hint="write the name, then =, without spaces")
        if key in found:
            raise UsageError(f"{option} gives {key} twice", hint="leave one of them out")
        found[key] = value
    return found


def keep(
    project: Project, connector: str, name: str | None, found: Onboarded, *, new: bool
) -> InstallationInfo:
    """Store a new installation, in a project that is made when it is new."""
    if new:
        Project.init(project.root)
    return project.connect(connector, name, found.config, found.secrets, now=time.time())


def configure_disconnect(parser: Parser) -> None:
    """``max disconnect INSTALLATION``."""
    add_target(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--keep-data", action="store_true", help="leave data.db; connecting again takes it up"
    )
    parser.set_defaults(run=run_disconnect)
    examples(parser, "max disconnect acme:default", "max disconnect acme:default --keep-data --yes")


def run_disconnect(options: Options) -> Answer:
    """Remove an installation: its secrets, its configuration, and its data unless it is kept."""
    project = found_project(options)
    info = project.target(options.target)
    refuse_while_syncing(project, info)
    what = "its secrets and configuration" if options.keep_data else "its secrets, configuration and data"
    if not options.yes:
        if not is_terminal(sys.stdin):
            raise UsageError(f"disconnecting {info} deletes {what}", hint="say --yes to do so")
        if not asyncio.run(TerminalPrompter().confirm(f"Delete {info} with {what}?")):
            return Answer([], ["nothing was changed"], 1)
    project.disconnect(info, options.keep_data)
    data = {"disconnected": str(info), "id": info.id, "keptData": options.keep_data}
    return answer(options, data, lambda: [f"disconnected {info}"])


def refuse_while_syncing(project: Project, info: InstallationInfo) -> None:
    """SyncRunning when a process is at work on the installation."""
    last = last_run(project, info)
    if last is not None and last.status is Status.RUNNING:
        raise SyncRunning(last.id, owner_of(last.worker or "////"))


# -- sync -------------------------------------------------------------------------------------


def configure_sync(parser: Parser) -> None:
    """``max sync [INSTALLATION]``."""
    add_target(parser, optional=True)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--restart", action="store_true", help="give up an interrupted sync and begin anew")
    how.add_argument(
        "--retry-failed",
        nargs="?",
        const="",
        metavar="ID",
        help="do just what failed in the last sync, or in that of an id",
    )
    add_scope(parser)
    add_tape(parser)
    parser.set_defaults(run=run_sync)
    examples(
        parser,
        "max sync acme:default",
        "max sync acme:default --only AcmeTask,AcmeUser.email --if-stale 2h",
        "max sync acme:default --full",
        "max sync acme:default -o json",
        "max sync acme:default -o ndjson   (what happens, as it does; the result last)",
        "max sync acme:default --retry-failed",
        "max sync acme:default --record acme.tape   (requests and answers, without the secrets)",
        "max sync acme:ticket --replay acme.tape    (the same sync, from the tape alone)",
        "",
        "A sync that was interrupted goes on where it stopped. Ctrl-C saves and stops; a second one",
        "leaves at once, which loses nothing either. Exit status: 0 done, 1 failed, 3 partial.",
        "",
        "A replay asks nobody and needs no credential. Its installation is made when there is none, with",
        "the configuration on the tape; it must hold no data but those of an earlier replay of the same",
        "installation, which are replaced. From then on it takes replays only, and no live sync.",
    )


def add_tape(parser: Parser) -> None:
    """``--record`` and ``--replay``."""
    tape = parser.add_mutually_exclusive_group()
    tape.add_argument("--record", metavar="FILE", help="write every request and answer to a new file")
    tape.add_argument(
        "--replay",
        action="append",
        metavar="FILE",
        help="answer from a recorded file instead of the service; again for each part of a sync",
    )


def run_sync(options: Options) -> Answer:
    """Sync an installation; the first time it is made, when that needs no answers."""
    refuse_contradictions(options)
    if options.replay:
        return replayed(options, Replay(*options.replay))
    tape = Recording(options.record) if options.record else None
    if tape is not None:
        refuse_written(tape.path)
    project, notes = with_installation(options)
    for note in notes:  # before the sync rather than after it: they explain what is going on
        tell(note)
    info = only_target(project, options.target)
    if options.only:
        wanted(scope(options).only, project.registry.resolve(info.connector).resolver)
    return synced(options, project, info, partial(begun, options), tape)


def replayed(options: Options, tape: Replay) -> Answer:
    """Replay tapes into an installation, which is made when there is none."""
    project, made = project_here(options)
    try:
        info = only_target(project, options.target)
        refuse_while_syncing(project, info)
    except UnknownName:
        connector, colon, name = options.target.partition(":")
        if not colon and connector != tape.header.connector:
            raise
        tape.refuse_other_connector(connector)
        found = Onboarded(dict(tape.header.config), {})
        info = keep(project, connector, name or None, found, new=made)
        tell(f"made {info} for the replay")
    return synced(options, project, info, partial(begun, options), tape)


def begun(options: Options, runtime: InstallationRuntime) -> Awaitable[SyncHandle]:
    """What ``max sync`` begins with its options."""
    if options.retry_failed is not None:
        return runtime.retry_failed(options.retry_failed or None)
    return runtime.sync(scope(options), restart=options.restart)


def with_installation(options: Options) -> tuple[Project, list[str]]:
    """The project with the installation asked for; what had to be made for that, in a line each."""
    project, made = project_here(options)
    if options.target is None:
        return found_project(options), []
    try:
        project.target(options.target)
    except UnknownName as unknown:
        connector, _, name = options.target.partition(":")
        if any(info.connector == connector for info in project.installations()):
            raise
        if connector not in project.registry.names():
            if not project.installations():
                raise UnknownName("connector", connector, project.registry.names()) from unknown
            raise
    else:
        return project, []
    found = without_answers(project.registry.resolve(connector), options.target)
    info = keep(project, connector, name or None, found, new=made)
    return project, [*([f"made a project in {project.root}"] if made else []), f"connected {info}"]


def without_answers(connector: AnyConnector, target: str) -> Onboarded:
    """What connecting comes to when nobody is asked; UsageError when it needs answers."""
    if needs_answers(connector):
        raise UsageError(
            f"{target} is not connected yet, and needs answers", hint=f"first: max connect {target}"
        )
    return asyncio.run(onboard(connector, None, {}, {}))


def synced(
    options: Options,
    project: Project,
    info: InstallationInfo,
    begin: Begin,
    tape: Recording | Replay | None = None,
) -> Answer:
    """Sync in the foreground, and tell what it came to and what to do next."""
    events = sys.stdout if options.output == "ndjson" else None
    result = asyncio.run(Foreground(sys.stderr, events=events).sync(project, info, begin, tape))
    text = partial(summary, info, result, width(sys.stdout), paint())
    data = result_json(info, result)
    if isinstance(tape, Replay):
        data |= {"replay": {"left": dict(tape.left()), "notes": tape.notes}}
    return answer(options, data, text, steps_after(info, result, tape))._replace(
        status=EXIT.get(result.status, 1)
    )


def steps_after(info: InstallationInfo, result: SyncResult, tape: Recording | Replay | None) -> list[str]:
    """What to type after a sync that may have had a tape, and what there is to say of that."""
    if tape is not None and result.status in (Status.PAUSED, Status.INTERRUPTED):
        playing = isinstance(tape, Replay)
        option = "--replay FILE" if playing else "--record ANOTHER-FILE"
        return [f"{'begin again' if playing else 'go on'} with: max sync {info} {option}"]
    if isinstance(tape, Replay):
        return [*tape.report(), *next_steps(info, result.replace(failures=()))]
    return next_steps(info, result)


def next_steps(info: InstallationInfo, result: SyncResult) -> list[str]:
    """What to type after a sync."""
    if result.status in (Status.PAUSED, Status.INTERRUPTED):
        return [f"everything so far is saved; go on with: max resume {info}"]
    if result.status is Status.CANCELLED:
        return [f"what was stored stays; begin anew with: max sync {info}"]
    suspicious = [one for one in result.failures if one.code == SuspiciousRemoval.code]
    notes = [f"if they are gone indeed: max sync {info} --allow-removals"] if suspicious else []
    if len(suspicious) < len(result.failures):
        notes.append(f"to do again just what failed: max sync {info} --retry-failed")
    if result.counts:
        largest = max(result.counts, key=lambda name: result.counts[name])
        notes.append(f"next: max search {info} {largest} --limit 5, or max schema {info}")
    return notes


# -- pause, resume, cancel --------------------------------------------------------------------


def configure_asking(verb: str, run: Handler) -> Callable[[Parser], None]:
    """The words of ``max pause``, ``max resume`` and ``max cancel``."""

    def configure(parser: Parser) -> None:
        add_target(parser, optional=True)
        parser.set_defaults(run=run)
        examples(parser, f"max {verb} acme:default")

    return configure


def run_pause(options: Options) -> Answer:
    """Ask the sync that is under way to pause at its next page."""
    return asked(options, Wanted.PAUSE)


def run_cancel(options: Options) -> Answer:
    """End the sync that is under way, paused or interrupted."""
    return asked(options, Wanted.CANCEL)


def run_resume(options: Options) -> Answer:
    """Go on with a paused or interrupted sync here; a running one is told to stay so."""
    project, info, run = unfinished_run(options)
    if run.status is Status.RUNNING:
        return asked(options, Wanted.RUN)
    return synced(options, project, info, InstallationRuntime.sync)


def asked(options: Options, wanted: Wanted) -> Answer:
    """Write down what is wanted of an unfinished sync, and tell what comes of it."""
    project, info, run = unfinished_run(options)
    path = str(project.database(info))
    with translated(path):
        connection = connect(path, cache=READER_CACHE)
        try:
            with transaction(connection):
                request(connection, run.id, wanted, now=time.time())
        finally:
            connection.close()
    now = last_run(project, info) or run
    words = {
        Wanted.PAUSE: f"sync {run.id} of {info} pauses after the pages under way",
        Wanted.CANCEL: f"sync {run.id} of {info} ends after the pages under way",
        Wanted.RUN: f"sync {run.id} of {info} goes on",
    }
    settled = f"sync {run.id} of {info} is {now.status}"
    text = words[wanted] if now.status is Status.RUNNING else settled
    data = {"installation": str(info), "id": run.id, "status": str(now.status), "wanted": str(wanted)}
    return answer(options, data, lambda: [text])


def unfinished_run(options: Options) -> tuple[Project, InstallationInfo, SyncRun]:
    """The last sync of the installation; SyncError when it has ended."""
    project = found_project(options)
    info = only_target(project, options.target)
    last = last_run(project, info)
    if last is None or last.status.final:
        ended = f"; the last one ended {last.status}" if last else ""
        raise SyncError(f"no sync of {info} is under way{ended}", hint=f"begin one with: max sync {info}")
    return project, info, last


def last_run(project: Project, info: InstallationInfo) -> SyncRun | None:
    """The newest sync of an installation, or None."""
    if not project.database(info).exists():
        return None
    with connected(project, info) as connection:
        return next(iter(runs(connection, 1, now=time.time())), None)


CONFIGURE: dict[str, Callable[[Parser], None]] = {
    "connect": configure_connect,
    "disconnect": configure_disconnect,
    "sync": configure_sync,
    "pause": configure_asking("pause", run_pause),
    "resume": configure_asking("resume", run_resume),
    "cancel": configure_asking("cancel", run_cancel),
}
