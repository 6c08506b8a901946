"""sync, pause, resume, cancel: copying what changed."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from ..connector import AnyConnector
from ..core import InstallationInfo, SyncOptions
from ..errors import SuspiciousRemoval, SyncError, UnknownName, UsageError
from ..execution import SyncHandle
from ..installations.onboarding import OnboardingResult, needs_answers, onboard
from ..installations.project_folder import ProjectFolder
from ..model.tasks import Status, SyncCommand, SyncResult, SyncRun
from ..project import Project
from ..runtime import InstallationRuntime
from ..storage.sqlite import READER_CACHE, connect, transaction, translated
from ..storage.sync_log import request
from ..sync.task_graph import named_fields
from ..upstream.recording import Recording, UpstreamAccess
from ..upstream.recording_file import refuse_existing
from ..upstream.replay import Replay
from .connect import keep, project_here, refuse_while_syncing
from .foreground import Begin, Foreground
from .framework import (
    Answer,
    Handler,
    Options,
    Parser,
    add_target,
    answer,
    examples,
    found_project,
    only_target,
    paint,
)
from .status import last_run
from .terminal import tell, width
from .views import result_json, summary

EXIT = {Status.COMPLETED: 0, Status.PARTIAL: 3, Status.PAUSED: 130, Status.INTERRUPTED: 130}  # others: 1


def configure_sync(parser: Parser) -> None:
    """``max sync [INSTALLATION]``."""
    add_target(parser, optional=True)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--discard-unfinished", action="store_true", help="give up an interrupted sync and begin anew"
    )
    how.add_argument(
        "--retry-failed",
        nargs="?",
        const="",
        metavar="ID",
        help="do just what failed in the last sync, or in that of an id",
    )
    add_scope(parser)
    add_recording(parser)
    parser.set_defaults(run=run_sync)
    examples(
        parser,
        "max sync acme:default",
        "max sync acme:default --only AcmeTask,AcmeUser.email --if-stale 2h",
        "max sync acme:default --full",
        "max sync acme:default -o json",
        "max sync acme:default -o ndjson   (what happens, as it does; the result last)",
        "max sync acme:default --retry-failed",
        "max sync acme:default --record acme.jsonl   (requests and answers, without the secrets)",
        "max sync acme:ticket --replay acme.jsonl    (the same sync, from the recording alone)",
        "",
        "A sync that was interrupted goes on where it stopped. Ctrl-C saves and stops; a second one",
        "leaves at once, which loses nothing either. Exit status: 0 done, 1 failed, 3 partial.",
        "",
        "A replay asks nobody and needs no credential. Its installation is made when there is none, with",
        "the configuration in the recording; it must hold no data but those of an earlier replay of the same",
        "installation, which are replaced. From then on it takes replays only, and no live sync.",
    )


def add_recording(parser: Parser) -> None:
    """``--record`` and ``--replay``."""
    recording = parser.add_mutually_exclusive_group()
    recording.add_argument("--record", metavar="FILE", help="write every request and answer to a new file")
    recording.add_argument(
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
    recording = Recording(options.record) if options.record else None
    if recording is not None:
        refuse_existing(recording.path)
    project, notes = with_installation(options)
    for note in notes:  # before the sync rather than after it: they explain what is going on
        tell(note)
    info = only_target(project, options.target)
    if options.only:
        named_fields(scope(options).only, project.registry.resolve(info.connector).resolver)
    return synced(options, project, info, partial(begun, options), recording)


def replayed(options: Options, recording: Replay) -> Answer:
    """Replay recordings into an installation, which is made when there is none."""
    project, made = project_here(options)
    try:
        info = only_target(project, options.target)
        refuse_while_syncing(project, info)
    except UnknownName:
        connector, colon, name = options.target.partition(":")
        if not colon and connector != recording.header.connector:
            raise
        recording.check_connector(connector)
        found = OnboardingResult(dict(recording.header.config), {})
        info = keep(project, connector, name or None, found, new=made)
        tell(f"made {info} for the replay")
    return synced(options, project, info, partial(begun, options), recording)


def begun(options: Options, runtime: InstallationRuntime) -> Awaitable[SyncHandle]:
    """What ``max sync`` begins with its options."""
    if options.retry_failed is not None:
        return runtime.retry_failed(options.retry_failed or None)
    return runtime.sync(scope(options), discard_unfinished=options.discard_unfinished)


def with_installation(options: Options) -> tuple[ProjectFolder, list[str]]:
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


def without_answers(connector: AnyConnector, target: str) -> OnboardingResult:
    """What connecting comes to when nobody is asked; UsageError when it needs answers."""
    if needs_answers(connector):
        raise UsageError(
            f"{target} is not connected yet, and needs answers", hint=f"first: max connect {target}"
        )
    return asyncio.run(onboard(connector, None, {}, {}))


def synced(
    options: Options,
    project: ProjectFolder,
    info: InstallationInfo,
    begin: Begin,
    recording: UpstreamAccess | None = None,
) -> Answer:
    """Sync in the foreground, and tell what it came to and what to do next."""
    events = sys.stdout if options.output == "ndjson" else None
    result = asyncio.run(Foreground(sys.stderr, events=events).sync(Project(project), info, begin, recording))
    text = partial(summary, info, result, width(sys.stdout), paint())
    data = result_json(info, result)
    if isinstance(recording, Replay):
        data |= {"replay": {"left": dict(recording.left()), "notes": recording.notes}}
    return answer(options, data, text, steps_after(info, result, recording))._replace(
        status=EXIT.get(result.status, 1)
    )


def steps_after(info: InstallationInfo, result: SyncResult, recording: UpstreamAccess | None) -> list[str]:
    """What to type after a sync that may have had a recording, and what there is to say of that."""
    if recording is not None and result.status in (Status.PAUSED, Status.INTERRUPTED):
        playing = isinstance(recording, Replay)
        option = "--replay FILE" if playing else "--record ANOTHER-FILE"
        return [f"{'begin again' if playing else 'go on'} with: max sync {info} {option}"]
    if isinstance(recording, Replay):
        return [*recording.report(), *next_steps(info, result.replace(failures=()))]
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


def configure_asking(verb: str, run: Handler) -> Callable[[Parser], None]:
    """The words of ``max pause``, ``max resume`` and ``max cancel``."""

    def configure(parser: Parser) -> None:
        add_target(parser, optional=True)
        parser.set_defaults(run=run)
        examples(parser, f"max {verb} acme:default")

    return configure


def run_pause(options: Options) -> Answer:
    """Ask the sync that is under way to pause at its next page."""
    return asked(options, SyncCommand.PAUSE)


def run_cancel(options: Options) -> Answer:
    """End the sync that is under way, paused or interrupted."""
    return asked(options, SyncCommand.CANCEL)


def run_resume(options: Options) -> Answer:
    """Go on with a paused or interrupted sync here; a running one is told to stay so."""
    project, info, run = unfinished_run(options)
    if run.status is Status.RUNNING:
        return asked(options, SyncCommand.RUN)
    return synced(options, project, info, InstallationRuntime.sync)


def asked(options: Options, wanted: SyncCommand) -> Answer:
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
        SyncCommand.PAUSE: f"sync {run.id} of {info} pauses after the pages under way",
        SyncCommand.CANCEL: f"sync {run.id} of {info} ends after the pages under way",
        SyncCommand.RUN: f"sync {run.id} of {info} goes on",
    }
    settled = f"sync {run.id} of {info} is {now.status}"
    text = words[wanted] if now.status is Status.RUNNING else settled
    data = {"installation": str(info), "id": run.id, "status": str(now.status), "wanted": str(wanted)}
    return answer(options, data, lambda: [text])


def unfinished_run(options: Options) -> tuple[ProjectFolder, InstallationInfo, SyncRun]:
    """The last sync of the installation; SyncError when it has ended."""
    project = found_project(options)
    info = only_target(project, options.target)
    last = last_run(project, info)
    if last is None or last.status.final:
        ended = f"; the last one ended {last.status}" if last else ""
        raise SyncError(f"no sync of {info} is under way{ended}", hint=f"begin one with: max sync {info}")
    return project, info, last


configure_pause = configure_asking("pause", run_pause)
configure_resume = configure_asking("resume", run_resume)
configure_cancel = configure_asking("cancel", run_cancel)

if TYPE_CHECKING:
    from ..installations.project_folder import ProjectFolder


CONTRADICTIONS = {  # what cannot be asked for beside what, by option
    "retry_failed": ("full", "only", "if_stale", "missing_only", "check_deletes", "allow_removals"),
    "full": ("if_stale", "missing_only"),
    "if_stale": ("missing_only", "check_deletes"),
    "missing_only": ("check_deletes",),
}


def add_scope(parser: Parser) -> None:
    """The options of ``max sync`` that say what it asks for."""
    flags = {
        "full": "ask for everything again, whatever its age",
        "missing-only": "ask just for what is missing, has expired or was invalidated",
        "check-deletes": "list everything that exists, to find what is gone",
        "allow-removals": "remove what is gone upstream, however much it is",
    }
    parser.add_argument(
        "--only", action="append", default=[], metavar="ENTITY[.FIELD],…", help="ask for nothing but these"
    )
    parser.add_argument(
        "--if-stale", type=length, metavar="AGE", help="ask for nothing younger: 90s, 5m, 2h, 1d, 2w"
    )
    for flag, words in flags.items():
        parser.add_argument(f"--{flag}", action="store_true", help=words)


def length(text: str) -> float:
    """An age in seconds."""
    from ..model.filter_language import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def refuse_contradictions(options: Options) -> None:
    """UsageError when two options exclude one another."""
    given = {name for name, value in vars(options).items() if value or isinstance(value, str | float)}
    for one, others in CONTRADICTIONS.items():
        clashing = [other for other in others if {one, other} <= given]
        if clashing:
            words = [f"--{name.replace('_', '-')}" for name in (one, clashing[0])]
            raise UsageError(f"{' and '.join(words)} exclude one another", hint="leave one of them out")


def scope(options: Options) -> SyncOptions:
    """What the options of ``max sync`` ask for."""
    only = tuple(word.strip() for words in options.only for word in words.split(","))
    return SyncOptions(
        options.full,
        only,
        options.if_stale,
        options.missing_only,
        options.check_deletes,
        options.allow_removals,
    )
