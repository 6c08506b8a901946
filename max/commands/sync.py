"""sync, pause, resume, cancel: copying what changed."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from .. import __version__
from ..core import InstallationInfo, Runtime, Sync, SyncOptions
from ..errors import (
    DaemonError,
    Interrupted,
    MaxError,
    StorageError,
    SuspiciousRemoval,
    UnknownName,
    UsageError,
    describe,
)
from ..installations.onboarding import OnboardingResult, needs_answers, onboard
from ..model.loaders import Resolver
from ..model.tasks import Status, SyncCommand, SyncResult
from ..model.values import Json
from ..project import Project
from ..projects.manager import ProjectManager, folder_of
from ..query.maintenance import request
from ..serve.daemon_folder import DaemonFolder
from ..sync.task_graph import named_fields, options_json
from ..upstream.recording import Recording, UpstreamAccess
from ..upstream.recording_file import refuse_existing
from ..upstream.replay import Replay
from .connect import add_installation, project_or_new
from .console import console
from .foreground import Begin, Foreground
from .framework import Answer, Options, only_target, paint, readers
from .parser import Parser
from .schedule_view import waiting_words
from .terminal import is_terminal, line_width, print_note
from .text import counted, sanitize
from .views import result_json, summary

if TYPE_CHECKING:
    from ..serve.client import Client

EXIT = {Status.COMPLETED: 0, Status.PARTIAL: 3}  # failed and cancelled: 1; interrupted: as the signal says
SCOPE = {  # the flags of `max sync` that widen or narrow what it fetches
    "full": "fetch everything again, whatever its age",
    "missing-only": "fetch only what is missing, has expired or was invalidated",
    "check-deletes": "list everything that exists, to find deleted rows",
    "allow-removals": "remove every deleted row, however many there are",
}
WORST = (0, 3, 1)  # exit statuses, the worst last; a signal's are worse
GREETING = 5.0  # seconds that a daemon may take to speak
OTHER_CODE = ("MAX_CONNECTORS", "MAX_TRUST")  # variables that the daemon may have otherwise
LAST_SYNCS = 20  # among which the completed one before is looked for
CONTRADICTIONS = {  # by option: those that it excludes
    "all": ("retry_failed", "only", "record", "replay"),
    "ask": ("all", "record", "replay"),
    "retry_failed": ("full", "only", "if_stale", "missing_only", "check_deletes", "allow_removals"),
    "full": ("if_stale", "missing_only"),
    "if_stale": ("missing_only", "check_deletes"),
    "missing_only": ("check_deletes",),
}


def configure_sync(parser: Parser) -> None:
    """``max sync [INSTALLATION]``."""
    parser.add_target(optional=True)
    about = "sync every installation, one after the other; those behind one that fails are synced too"
    parser.add_argument("--all", action="store_true", help=about)
    about = "leave it to a worker (max worker) of a project in Postgres, and return at once"
    parser.add_argument("--ask", action="store_true", help=about)
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "--discard-unfinished", action="store_true", help="give up an interrupted sync and start a new one"
    )
    begin.add_argument(
        "--retry-failed",
        nargs="?",
        const="",
        metavar="ID",
        help="repeat only what failed in the last sync, or in the sync of an id",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="ENTITY[.FIELD],…", help="fetch nothing but these"
    )
    parser.add_argument(
        "--if-stale", type=age, metavar="AGE", help="fetch nothing that is younger: 90s, 5m, 2h, 1d, 2w"
    )
    for flag, about in SCOPE.items():
        parser.add_argument(f"--{flag}", action="store_true", help=about)
    add_recording(parser)
    parser.add_examples(
        "max sync acme:default",
        "max sync --all",
        "max sync acme:default --only AcmeTask,AcmeUser.email --if-stale 2h",
        "max sync acme:default --full",
        "max sync acme:default -o json",
        "max sync acme:default -o ndjson   (a line for each event; the result comes last)",
        "max sync acme:default --retry-failed",
        "max sync acme:default --ask   (a worker does it)",
        "max sync acme:default --record acme.jsonl   (requests and responses, without the secrets)",
        "max sync acme:ticket --replay acme.jsonl    (the same sync, from the recording alone)",
        "",
        "An interrupted sync continues where it stopped. Ctrl-C saves and stops; a second one leaves",
        "at once and loses nothing either. Exit status: 0 done, 1 failed, 3 partial, 130 interrupted,",
        "143 ended by SIGTERM; with --all, which is what no name means at a terminal, the worst of them.",
        "With -q it prints nothing when all went well, as cron likes it.",
        "",
        "A replay uses no network and no credential. A missing installation is created with the recorded",
        "configuration. An existing one must hold no data, or only that of an earlier replay of the same",
        "installation, which is replaced. After a replay it takes replays only, and no live sync.",
    )


def add_recording(parser: Parser) -> None:
    """Take ``--record`` or ``--replay``."""
    recording = parser.add_mutually_exclusive_group()
    recording.add_argument("--record", metavar="FILE", help="write every request and response to a new file")
    recording.add_argument(
        "--replay",
        action="append",
        metavar="FILE",
        help="take the responses from a recorded file; repeat it for each part of a sync",
    )


def age(text: str) -> float:
    """An age in seconds."""
    from ..model.periods import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run_sync(options: Options) -> Answer:
    """Sync an installation; a missing one is connected first when that needs no answers."""
    refuse_contradictions(options)
    if options.replay:
        return replayed(options, Replay(*options.replay))
    recording = Recording(options.record) if options.record else None
    if recording is not None:
        refuse_existing(recording.path)
    project, notes = with_installation(options)
    for note in notes if not options.quiet else ():  # before the sync, since they explain what it does
        print_note(note)
    if means_all(options, project):
        return all_synced(options, project)
    info = only_target(project, options.target)
    if options.only:
        check_names(options, project.connector(info).resolver)
    if options.ask:
        return asked(options, project, info)
    return synced(options, project, info, partial(begun, options), recording)


def asked(options: Options, project: ProjectManager, info: InstallationInfo) -> Answer:
    """Ask a worker for a sync, which it begins when it comes to it."""
    given = options_json(scope(options))
    what = {"options": given, "discard_unfinished": options.discard_unfinished, "retry": options.retry_failed}
    with project.audited("sync", info, asked=True, **given):
        project.ask(info, what)
    workers = project.workers()
    data = {"installation": str(info), "asked": True, "workers": workers}
    note = "no worker is there to begin it; start one: max worker"
    if workers:
        note = f"the next of {counted(workers, 'worker')} with room begins it; see: max status {info}"
    return options.answer(data, lambda: [f"asked for a sync of {info}"], [note])


def check_names(options: Options, resolver: Resolver) -> None:
    """UnknownName for what ``--only`` names, unless the account may have it: then the sync checks."""
    if resolver.added is None:
        named_fields(scope(options).only, resolver)


def means_all(options: Options, project: ProjectManager) -> bool:
    """Whether every installation is meant: by no name as well at a terminal, where a person sees it."""
    if options.all and options.target is not None:
        raise UsageError(f"{options.target} and --all cannot be combined", hint="leave one of them out")
    if options.all or options.target is not None:
        return bool(options.all)
    known = project.installations()
    if len(known) < 2 or any(getattr(options, name) for name in CONTRADICTIONS["all"]):
        return False
    if is_terminal(console().stderr):
        return True
    raise UsageError("which installation?", hint=f"--all, or one of: {', '.join(map(str, known))}")


def refuse_contradictions(options: Options) -> None:
    """UsageError when two options exclude one another."""
    given = {name for name, value in vars(options).items() if value or isinstance(value, str | float)}
    for one, others in CONTRADICTIONS.items():
        clashing = [other for other in others if {one, other} <= given]
        if clashing:
            words = [f"--{name.replace('_', '-')}" for name in (one, clashing[0])]
            raise UsageError(f"{' and '.join(words)} cannot be combined", hint="leave one of them out")


def scope(options: Options) -> SyncOptions:
    """What the options of ``max sync`` make it fetch."""
    only = tuple(word.strip() for words in options.only for word in words.split(","))
    flags = {name: getattr(options, name) for name in (flag.replace("-", "_") for flag in SCOPE)}
    return SyncOptions(only=only, if_stale=options.if_stale, **flags)


def begun(options: Options, runtime: Runtime) -> Awaitable[Sync]:
    """The sync that ``max sync`` begins with its options."""
    if options.retry_failed is not None:
        return runtime.retry_failed(options.retry_failed or None)
    return runtime.sync(scope(options), discard_unfinished=options.discard_unfinished)


def continued(runtime: Runtime) -> Awaitable[Sync]:
    """The unfinished sync, which goes on."""
    return runtime.sync()


def replayed(options: Options, recording: Replay) -> Answer:
    """Replay recordings into an installation; one that is created for it goes when the replay fails."""
    project, new = project_or_new(options)
    try:
        info = only_target(project, options.target)
        for _, reader in readers(project, [info]):
            reader.check_idle()
    except UnknownName:
        connector, colon, name = options.target.partition(":")
        if not colon and connector != recording.header.connector:
            raise
        recording.check_connector(connector)
        found = OnboardingResult(dict(recording.header.config), {})
        info = add_installation(project, connector, name or None, found, new=new)
        print_note(f"created {info} for the replay")
        return replayed_into_new(options, project, info, recording)
    return synced(options, project, info, partial(begun, options), recording)


def replayed_into_new(
    options: Options, project: ProjectManager, info: InstallationInfo, recording: Replay
) -> Answer:
    """Replay into an installation that was created for it, and remove that again when the replay fails.

    Data that ``disconnect --keep-data`` left under its name stays.
    """
    had_data, answer = project.has_data(info), None
    try:
        answer = synced(options, project, info, partial(begun, options), recording)
    finally:
        if answer is None or answer.status == 1:
            project.remove(info, keep_data=had_data)
            print_note(f"removed {info} again: the replay failed")
    return answer._replace(notes=recording.report()) if answer.status == 1 else answer


def with_installation(options: Options) -> tuple[ProjectManager, list[str]]:
    """The project with the installation of the options; a note for each thing that was created."""
    project, new = project_or_new(options)
    if options.target is None:
        return options.found_project(), []
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
    if needs_answers(project.registry.resolve(connector)):
        hint = f"first: max connect {options.target}"
        raise UsageError(f"{options.target} is not connected yet, and needs answers", hint=hint)
    found = asyncio.run(onboard(project.registry.resolve(connector), None, {}, {}))
    info = add_installation(project, connector, name or None, found, new=new)
    return project, [*([f"created a project in {project.label}"] if new else []), f"connected {info}"]


def synced(
    options: Options,
    project: ProjectManager,
    info: InstallationInfo,
    begin: Begin,
    recording: UpstreamAccess | None = None,
) -> Answer:
    """Sync in the foreground; its result, and what to do next."""
    result, status = ended(options, project, info, begin, recording)
    text = partial(result_text, project, info, result, getattr(options, "only", ()))
    if options.quiet and status == 0:
        text = partial(list[str])  # there is nothing to say
    data = result_json(info, result)
    if isinstance(recording, Replay):
        data |= {"replay": {"left": dict(recording.left()), "notes": recording.notes}}
    notes = next_steps(info, result, recording)
    if not recording and result.status is Status.COMPLETED:
        notes += looks(project, info, result)
    return options.answer(data, text, notes, status)


def tell_of_schedule(options: Options, project: ProjectManager, info: InstallationInfo) -> None:
    """Say on stderr for which scheduled sync this one waits; it has to stop unless it fetches the same."""
    from ..query.schedules import running_sync

    is_retry = getattr(options, "retry_failed", None) is not None
    asked = None if is_retry or not hasattr(options, "full") else options_json(scope(options))
    found = running_sync(project.database(info), asked, now=time.time())
    if found is not None and not options.quiet:
        run, is_same = found
        print_note(waiting_words(info, run, "end" if is_same else "stop"))


def ended(
    options: Options,
    project: ProjectManager,
    info: InstallationInfo,
    begin: Begin,
    recording: UpstreamAccess | None = None,
) -> tuple[SyncResult, int]:
    """The result of a sync in the foreground, and the exit status."""
    tell_of_schedule(options, project, info)
    events = options.output == "ndjson"
    expected = {} if events or options.quiet else expected_rows(options, project, info)
    foreground = Foreground(console().stderr, events=events, quiet=options.quiet, expected=expected)

    async def sync() -> SyncResult:
        async with opened(options, project, recording) as found:
            return await foreground.sync(found, info, begin, recording)

    result = asyncio.run(sync())
    interrupted = result.status in (Status.PAUSED, Status.INTERRUPTED)
    return result, foreground.exit_status if interrupted else EXIT.get(result.status, 1)


@asynccontextmanager
async def opened(
    options: Options, project: ProjectManager, recording: UpstreamAccess | None
) -> AsyncIterator[Project[Runtime]]:
    """The project, whose runtimes are those of its daemon when one runs that would sync as this process does.

    A recording is made, or replayed, here.
    """
    asked = console().environment
    here = recording is not None or options.direct or asked.get("MAX_DAEMON") == "0"
    has_one = project.root is not None and not here and not any(map(asked.get, OTHER_CODE))
    folder = DaemonFolder.if_any(folder_of(project)) if has_one else None
    if folder is None or not folder.has_socket():
        yield Project(project)
        return
    from ..serve.client import Client  # most syncs need none

    async with AsyncExitStack() as connected:
        client = None
        with suppress(DaemonError, TimeoutError):  # it has just ended, or speaks otherwise
            async with asyncio.timeout(GREETING):
                client = await connected.enter_async_context(Client.at(folder.socket))
        if client is None or client.version != __version__:
            yield Project(project)
        else:
            yield Project(project, runtimes=partial(in_daemon, client))


def in_daemon(client: Client, folder: ProjectManager, info: InstallationInfo) -> Runtime:
    """The runtime of an installation in the project's daemon."""
    from ..serve.remote_runtime import DaemonLink, RemoteRuntime

    return RemoteRuntime(DaemonLink(client, info))


def expected_rows(options: Options, project: ProjectManager, info: InstallationInfo) -> dict[str, int]:
    """How many rows of each entity a sync will list: what is stored, where it lists everything again."""
    if not getattr(options, "full", False) or options.only:
        return {}
    with suppress(StorageError):  # nothing was stored yet, or the sync says what is wrong
        return {name: n for _, reader in readers(project, [info]) for name, n in reader.counts().items()}
    return {}


def result_text(
    project: ProjectManager, info: InstallationInfo, result: SyncResult, only: Sequence[str] = ()
) -> list[str]:
    """A result as text."""
    since = completed_before(project, info, result)
    return summary(info, result, line_width(), paint(), since=since, only=only)


def all_synced(options: Options, project: ProjectManager) -> Answer:
    """Sync every installation, one after the other, until a signal comes; the worst exit status."""
    known = project.installations()
    if not known:
        only_target(project, None)  # which says what to do
    parts: list[Part] = []
    for info in known:
        if not options.quiet:
            print_note(f"syncing {info}")
        parts.append(part_of(options, project, info))
        if parts[-1].status >= Interrupted.exit_status:
            break
    rows, texts, notes, statuses = zip(*parts, strict=True)
    lines = [*chain(*texts)]
    if any(statuses) or not options.quiet:
        found = Counter(str(row["status"]) for row in rows) + Counter({"not begun": len(known) - len(rows)})
        counts = ", ".join(f"{count} {status}" for status, count in found.items())
        lines.append(f"{counted(len(known), 'installation')}: {counts}")
    worst = max(statuses, key=lambda one: WORST.index(one) if one in WORST else one)
    return options.listing(rows, lambda: lines, [*chain(*notes)], status=worst)


class Part(NamedTuple):
    """How one of several syncs ended."""

    row: dict[str, Json]
    lines: Sequence[str]
    notes: Sequence[str]
    status: int


def part_of(options: Options, project: ProjectManager, info: InstallationInfo) -> Part:
    """Sync one of several installations; an error is its result, so that the others have their turn."""
    try:
        result, status = ended(options, project, info, partial(begun, options))
    except MaxError as error:
        status = error.exit_status if isinstance(error, Interrupted) else 1
        row = unsynced(info, error, Status.INTERRUPTED if status > 1 else Status.FAILED)
        head = f"{paint()(str(info), 'bold')}: {paint().status(row['status'])}"
        said = [f"  {sanitize(line)}" for line in (error.message, error.hint) if line]
        return Part(row, [head, *said], [], status)
    lines = result_text(project, info, result) if status or not options.quiet else []
    return Part(result_json(info, result), lines, next_steps(info, result), status)


def unsynced(info: InstallationInfo, error: MaxError, status: Status) -> dict[str, Json]:
    """An installation whose sync did not begin, or could not go on, as JSON data."""
    return {"installation": str(info), "status": str(status), "error": describe(error)}


def completed_before(project: ProjectManager, info: InstallationInfo, result: SyncResult) -> float | None:
    """When the completed sync before this one began, if one of the last syncs did."""
    for _, reader in readers(project, [info]):
        for run in reader.runs(LAST_SYNCS):
            if run.id < result.id and run.status is Status.COMPLETED:
                return run.started_at
    return None


def looks(project: ProjectManager, info: InstallationInfo, result: SyncResult) -> list[str]:
    """What to look at after a sync: what changed, or after the first one the entity that people want.

    That has a title, and of those it has the most rows.
    """
    if result.changed is not None:
        return [f"next: max changes {info}"] if result.changed else []
    for _, reader in readers(project, [info]):
        titled = [one for one in reader.schema.entities.values() if one._title is not None]
        names = [one.__name__ for one in titled or reader.schema.entities.values()]
        stored = {name: result.counts[name] for name in names if name in result.counts}
        if stored:
            largest = max(stored, key=lambda name: stored[name])
            return [f"next: max search {info} {largest} --limit 5, or max schema {info}"]
    return []


def next_steps(
    info: InstallationInfo, result: SyncResult, recording: UpstreamAccess | None = None
) -> list[str]:
    """What to type about a sync that is not as it should be."""
    if result.status in (Status.PAUSED, Status.INTERRUPTED):
        if recording is None:
            return [f"everything so far is saved; continue with: max resume {info}"]
        if isinstance(recording, Replay):
            return [f"start again with: max sync {info} --replay FILE"]
        return [f"continue with: max sync {info} --record ANOTHER-FILE"]
    notes = [] if isinstance(recording, Replay) else retry_hints(info, result)
    notes += recording.report() if recording is not None else []
    if result.status is Status.CANCELLED:
        return [*notes, f"the stored rows stay; start again with: max sync {info}"]
    return notes


def retry_hints(info: InstallationInfo, result: SyncResult) -> list[str]:
    """What to type about failures."""
    suspicious = [one for one in result.failures if one.code == SuspiciousRemoval.code]
    notes = [f"if they were deleted indeed: max sync {info} --allow-removals"] if suspicious else []
    if len(suspicious) < len(result.failures):
        notes.append(f"to repeat only what failed: max sync {info} --retry-failed")
    return notes


# -- pause, resume, cancel ---------------------------------------------------------------------


def configure_pause(parser: Parser) -> None:
    """``max pause [INSTALLATION]``; resume and cancel take the same."""
    parser.add_target(optional=True)
    about = "take the sync from its process, which is gone; if it lives, it stores nothing more"
    parser.add_argument("--force", action="store_true", help=about)
    parser.add_examples(f"{parser.prog} acme:default", f"{parser.prog} acme:default --force")


configure_resume = configure_cancel = configure_pause


def run_pause(options: Options) -> Answer:
    """Ask a running sync to pause at its next page."""
    return requested(options, SyncCommand.PAUSE)


def run_cancel(options: Options) -> Answer:
    """End a sync that is running, paused or interrupted."""
    return requested(options, SyncCommand.CANCEL)


def run_resume(options: Options) -> Answer:
    """Continue a paused or interrupted sync here; a running one is asked not to pause."""
    project, info = unfinished_target(options)
    newest = [run for _, reader in readers(project, [info]) for run in reader.runs(1)]
    if options.force and any(run.status is Status.RUNNING for run in newest):
        with project.audited("resume", info, force=True):
            request(project.writable_database(info), info, SyncCommand.RUN, now=time.time(), force=True)
        return synced(options, project, info, continued)
    if any(run.status in (Status.PAUSED, Status.INTERRUPTED) for run in newest):
        return synced(options, project, info, continued)
    return requested(options, SyncCommand.RUN)


def unfinished_target(options: Options) -> tuple[ProjectManager, InstallationInfo]:
    """The installation that the options name; without a name the only one whose sync has not ended."""
    project = options.found_project()
    known = project.installations()
    if options.target is not None or len(known) < 2:
        return project, only_target(project, options.target)
    unfinished = [
        info
        for info, reader in readers(project, known)
        if any(not run.status.final for run in reader.runs(1))
    ]
    if len(unfinished) == 1:
        return project, unfinished[0]
    if not unfinished:
        raise UsageError("no sync is unfinished", hint="`max runs` lists those that have ended")
    raise UsageError("which installation?", hint=f"unfinished: {', '.join(map(str, unfinished))}")


def requested(options: Options, command: SyncCommand) -> Answer:
    """Write a request for an unfinished sync, and say what happens to it."""
    project, info = unfinished_target(options)
    with project.audited(str(command), info, force=options.force):
        database, now = project.writable_database(info), time.time()
        run = request(database, info, command, now=now, force=options.force)
    running = {
        SyncCommand.PAUSE: "pauses after the requests under way",
        SyncCommand.CANCEL: "ends at once",
        SyncCommand.RUN: "continues",
    }
    outcome = running[command] if run.status is Status.RUNNING else f"is {run.status}"
    data = {"installation": str(info), "id": run.id, "status": str(run.status), "command": str(command)}
    return options.answer(data, lambda: [f"sync {run.id} of {info} {outcome}"])
