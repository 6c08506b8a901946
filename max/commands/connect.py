"""connect, disconnect: adding, changing and removing an installation.

These commands may take their time to start: they import an event loop and a connector.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from ..connector import AnyConnector
from ..core import InstallationInfo
from ..errors import (
    MaxError,
    NoProject,
    ProjectError,
    StorageError,
    StorageLocked,
    UsageError,
)
from ..installations.config import config_defaults
from ..installations.credential_file import StoredSecrets
from ..installations.onboarding import OnboardingResult, bound, destination_of, onboard, revised
from ..installations.secret_sources import read_secret
from ..projects.folder import ProjectFolder
from ..projects.manager import ProjectManager, folder_of
from .console import console
from .framework import Answer, Options, only_target, readers
from .parser import Parser
from .terminal import TerminalPrompter, is_terminal
from .text import pad
from .views import installation_json

WHILE_MOVING = """\
While it is being moved to another place, it is removed only if the other place
has it and cannot be reached."""


def configure_connect(parser: Parser) -> None:
    """``max connect NAME[:INSTALLATION] …``."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="CONNECTOR[:NAME]",
        help="the source, and a name for it; left out: the sources, of which one is chosen at a terminal",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="answer a question in advance"
    )
    parser.add_argument(
        "--credential",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="a secret from env:VARIABLE, file:PATH, or - for standard input",
    )
    parser.add_argument("--no-input", action="store_true", help="never ask; fail when an answer is missing")
    parser.add_argument("--update", action="store_true", help="change an installation that exists")
    parser.add_examples(
        "max connect",
        "max connect acme",
        "max connect git:site --set path=~/work/site",
        "max connect acme --set base_url=http://localhost:4567 --credential token=env:ACME_TOKEN",
        "max connect acme:default --update --set users=50",
    )


def run_connect(options: Options) -> Answer:
    """Run the connector's onboarding and store its result; a failure leaves nothing behind."""
    project, new = project_or_new(options)
    existing = only_target(project, options.name) if options.update else None
    connector_name, name = (existing.connector, existing.name) if existing else _new_name(project, options)
    connector = project.connector(existing) if existing else project.registry.resolve(connector_name)
    notes = [f"created a project in {project.label}"] if new else []
    action, named = ("reconfigure", existing) if existing else ("connect", f"{connector_name}:{name or ''}")
    with project.audited(action, named) as facts:
        found = asyncio.run(onboarded(connector, options, project, existing))
        if existing is not None:
            info = updated(project, connector, existing, found)
        else:
            name = name or _second_name(project, connector_name, options, notes)
            info = add_installation(project, connector_name, name, found, new=new)
        facts |= {"name": info.name, "config": sorted(found.config), "secrets": sorted(found.secrets)}
    notes += [*_destination(connector, found), *found.messages, f"next: max sync {info}"]
    verb = "changed" if existing else "connected"
    return options.answer(installation_json(info), lambda: [f"{verb} {info}"], notes)


def _new_name(project: ProjectManager, options: Options) -> tuple[str, str | None]:
    """The connector of a new installation, and its name if it was given; an error when it cannot be its."""
    word = options.name or _chosen_source(project, options)
    connector, colon, name = word.partition(":")
    if colon and not name:
        raise UsageError(f"{word!r} ends without a name", hint=f"write {word}NAME, or leave the colon out")
    if any(str(existing) == word for existing in project.installations()):
        hint = f"to change it: max connect {word} --update; to add another, choose another name"
        raise ProjectError(f"{word} is connected already", hint=hint)
    if name and connector in project.registry.names():
        project.free_name(connector, name)
    return connector, name or None


def _chosen_source(project: ProjectManager, options: Options) -> str:
    """The connector that the person at the terminal chooses; UsageError with all of them elsewhere."""
    about = {name: _description(project, name) for name in project.registry.names()}
    size = max(map(len, about), default=0)
    lines = {name: f"{pad(name, size)}  {text}" for name, text in about.items()}
    prompter = _prompter(options)
    if prompter is None:
        hint = "\n  ".join(["one of these sources: max connect NAME", *lines.values()])
        found = [{"name": name, "description": text} for name, text in about.items()]
        raise UsageError("connect what?", hint=hint, connectors=found)
    return asyncio.run(prompter.choose("Connect which source?", list(lines.items()), several=False))[0]


def _description(project: ProjectManager, name: str) -> str:
    """What a connector says of itself; of one that cannot be loaded, why."""
    try:
        return project.registry.resolve(name).description
    except MaxError as error:
        return f"(cannot be used: {error.message})"


def _second_name(project: ProjectManager, connector: str, options: Options, notes: list[str]) -> str:
    """The name of an installation that was given none: asked for where the connector has one already."""
    usual = project.free_name(connector, None)
    if not any(info.connector == connector for info in project.installations()):
        return usual
    prompter = _prompter(options)
    if prompter is None:
        notes.append(f"it is named {connector}:{usual}; to choose a name: max connect {connector}:NAME")
        return usual
    while True:
        name = asyncio.run(prompter.text(f"A name for this installation of {connector}", usual))
        try:
            return project.free_name(connector, name)
        except MaxError as error:
            prompter.say(error.render())


def _prompter(options: Options) -> TerminalPrompter | None:
    """Who asks questions; None where there is no person to answer them."""
    reads_secret = any(word.endswith("=-") for word in options.credential)
    asking = is_terminal(console().stdin) and not options.no_input and not reads_secret
    return TerminalPrompter() if asking else None


def _destination(connector: AnyConnector, found: OnboardingResult) -> list[str]:
    """Where secrets go, when that is not the usual address."""
    usual = destination_of(connector, config_defaults(connector.config))
    if not found.secrets or found.destination == usual:
        return []
    return [f"its secrets are sent to {found.destination or 'no address'} alone"]


def project_or_new(options: Options) -> tuple[ProjectManager, bool]:
    """The project; or this folder, and True, when it must become one first."""
    try:
        return options.found_project(), False
    except NoProject:
        return ProjectFolder(Path(options.project).resolve()), True


async def onboarded(
    connector: AnyConnector, options: Options, project: ProjectManager, existing: InstallationInfo | None
) -> OnboardingResult:
    """The result of the connector's onboarding; it asks questions on a terminal only."""
    given: dict[str, object] = dict(existing.config) if existing else {}
    given |= pairs("--set", options.set)
    kept = None
    if existing:
        kept = bound(connector, existing.config, project.credentials(existing).stored())
    sources = pairs("--credential", options.credential)
    secrets = {name: read_secret(source, console().stdin) for name, source in sources.items()}
    found = await onboard(connector, _prompter(options), given, secrets, kept=kept)
    if kept is None or kept.destination != found.destination:
        return found
    # an unchanged secret is not written again: a running sync may be renewing it
    changed = {name: one for name, one in found.secrets.items() if kept.secrets.get(name) != one}
    return OnboardingResult(found.config, changed | secrets, found.messages, found.destination)


def updated(
    project: ProjectManager, connector: AnyConnector, existing: InstallationInfo, found: OnboardingResult
) -> InstallationInfo:
    """Store what the onboarding changed; what others changed since it began stays."""
    config = {key: one for key, one in found.config.items() if existing.config.get(key, ...) != one}

    def revise(now: InstallationInfo, stored: StoredSecrets) -> OnboardingResult:
        return revised(connector, now.config, stored, config, found.secrets)

    return project.reconfigure(existing, revise)


def pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    """``key=value`` words as a mapping; an error does not repeat the word, which may be a secret."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} expects name=value", hint="write the name, then =, without spaces")
        if key in found:
            raise UsageError(f"{option} gives {key} twice", hint="leave one of them out")
        found[key] = value
    return found


def add_installation(
    project: ProjectManager, connector: str, name: str | None, found: OnboardingResult, *, new: bool
) -> InstallationInfo:
    """Store a new installation; a ``new`` project is created first."""
    if new:
        ProjectFolder.init(folder_of(project))
    given = (found.config, found.secrets)
    return project.add(connector, name, *given, now=time.time(), destination=found.destination)


def configure_disconnect(parser: Parser) -> None:
    """``max disconnect INSTALLATION``."""
    parser.description = f"{parser.description}\n\n{WHILE_MOVING}"
    parser.add_target()
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--keep-data", action="store_true", help="keep data.db; connecting the same name uses it again"
    )
    parser.add_examples("max disconnect acme:default", "max disconnect acme:default --keep-data --yes")


def run_disconnect(options: Options) -> Answer:
    """Remove an installation: its secrets, its configuration, and its data unless it is kept."""
    from ..projects.moving import is_given_up

    project = options.found_project()
    info = project.removable(options.target)
    try:
        for _, reader in readers(project, [info]):
            reader.check_idle()
    except StorageLocked:
        raise
    except StorageError:  # a database that no sync can use
        pass
    moving = is_given_up(project, info)
    what = "its secrets and configuration" if options.keep_data else "its secrets, configuration and data"
    if not options.yes:
        if not is_terminal(console().stdin):
            raise UsageError(f"disconnecting {info} deletes {what}", hint="add --yes to confirm")
        if not asyncio.run(TerminalPrompter().confirm(f"Delete {info} with {what}?")):
            return Answer([], ["nothing was changed"], 1)
    project.remove(info, keep_data=options.keep_data, moving=moving)
    data = {"disconnected": str(info), "id": info.id, "keptData": options.keep_data}
    return options.answer(data, lambda: [f"disconnected {info}"])
