"""watch: what happens to installations, as it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UnknownName, UsageError
from .console import console
from .framework import Answer, Ending, Options, paint
from .parser import Parser
from .terminal import line_width
from .text import counted, iso_time, json_text, number, time_to_second, until

if TYPE_CHECKING:
    from ..model.event_log import InstallationEvent
    from ..model.values import Json
    from ..query.follow import Follower

COLUMNS = ("at", "installation", "kind", "sync", "facts", "cursor")
Colour = Literal["yellow"]
ALARMING = ("failed", "degraded", "partial")  # words that are coloured


def configure_watch(parser: Parser) -> None:
    """``max watch [INSTALLATION…]``."""
    parser.answers_rows = True
    about = "connector:name; without any, all installations, also those that are connected later"
    parser.add_argument("targets", nargs="*", metavar="INSTALLATION", help=about)
    about = "go on behind this event: a cursor, beginning (the oldest that is kept), or now"
    parser.add_argument("--after", metavar="CURSOR", help=about)
    parser.add_list("--kinds", "KIND,…", "only these, such as sync.ended,sync.failures")
    about = "end when everything that has happened was shown; else Ctrl-C ends it"
    parser.add_argument("--once", action="store_true", help=about)
    parser.add_examples(
        "max watch --once",
        "max watch acme:default --kinds sync.failures,health.changed",
        "max watch -o ndjson --after beginning   (a line for each event, with its cursor)",
    )


def run_watch(options: Options) -> Answer:
    """Show events as they happen, or with ``--once`` those that have happened."""
    from ..project import Project

    if not options.once and options.output not in ("text", "ndjson"):
        raise UsageError(
            f"it never ends, which {options.output} cannot be", hint="add --once, or use text or ndjson"
        )
    project = Project(options.found_project())
    kinds = known_kinds(options.kinds.split(",")) if options.kinds else []
    after = options.after or ("beginning" if options.once else "now")
    follower = project.follower(*options.targets, after=after, kinds=kinds)
    if not options.once:
        shown = map(text_of, followed(follower)) if options.output == "text" else ndjson(follower)
        return Answer(shown)
    return listed(options, follower)


def known_kinds(words: list[str]) -> list[str]:
    """The kinds of events that an option names; UnknownName for another one."""
    from ..model.event_log import LoggedKind

    for word in words:
        if word not in list(LoggedKind):
            raise UnknownName("kind of event", word, LoggedKind)
    return words


def followed(follower: Follower) -> Iterator[InstallationEvent]:
    """Events for ever; what was printed is shown before each wait."""
    from ..query.follow import follow

    return follow(follower, idle=console().stdout.flush)


def ndjson(follower: Follower) -> Iterator[str]:
    """The same as lines of JSON."""
    return (json_text(row_of(one)) for one in followed(follower))


def listed(options: Options, follower: Follower) -> Answer:
    """The events that have happened."""
    shown = 0

    def events() -> Iterator[InstallationEvent]:
        nonlocal shown
        for one in follower.read():
            shown += 1
            yield one

    def ending() -> Ending:
        return Ending(shown, cursor=follower.cursor, go_on=("--after", follower.cursor))

    def text() -> Iterator[str]:
        yield from map(text_of, events())

    return options.listing(map(row_of, events()), text, columns=COLUMNS, ending=ending)


def row_of(one: InstallationEvent) -> dict[str, Json]:
    """An event as JSON data."""
    data = {"at": iso_time(one.at), "kind": one.kind, "sync": one.sync, "facts": dict(one.facts)}
    data |= {"installation": one.installation, "cursor": one.cursor}
    return {name: data[name] for name in COLUMNS}


def text_of(one: InstallationEvent) -> str:
    """An event on a line."""
    say = WORDS.get(one.kind)
    words = say(one.facts, one.at) if say else f"{one.kind} {json_text(dict(one.facts))}"
    colour: Colour | None = "yellow" if any(word in words for word in ALARMING) else None
    at = time_to_second(one.at, line_width())
    sync = "" if one.sync is None else f"sync {one.sync} "
    return f"{at}  {one.installation}  {sync}{paint()(words, colour)}"


# -- each kind in words ------------------------------------------------------------------------

Facts = Mapping[str, Any]


def _begun(facts: Facts, at: float) -> str:
    options = ", ".join(str(name).replace("_", "-") for name in facts.get("options", {}))
    by = f" by the schedule {facts['schedule']}" if facts.get("schedule") else ""
    return f"began{by}{f' ({options})' if options else ''}"


def _resumed(facts: Facts, at: float) -> str:
    return "goes on after a crash" if facts.get("crashed") else "goes on"


def _waiting(facts: Facts, at: float) -> str:
    return f"waits until {until(facts['until'], at)}: {facts.get('reason', '')}".rstrip(": ")


def _failures(facts: Facts, at: float) -> str:
    count = counted(facts.get("number", 1), "task")
    return f"{count} failed: {facts.get('what', '')}: {facts.get('message', '')}"


def _ended(facts: Facts, at: float) -> str:
    rows = sum(facts.get("counts", {}).values())
    parts = [f"{number(rows)} rows" if rows != 1 else "1 row"]
    parts += [
        f"{number(facts[name])} {name}" for name in ("removed", "failed", "quarantined") if facts.get(name)
    ]
    return f"{facts.get('status', 'ended')}: {', '.join(parts)}, {facts.get('seconds', 0):.1f} s"


def _fired(facts: Facts, at: float) -> str:
    return f"schedule {facts.get('schedule')} fired"


def _skipped(facts: Facts, at: float) -> str:
    return f"schedule {facts.get('schedule')} skipped: {facts.get('reason', '')}"


def _health(facts: Facts, at: float) -> str:
    return f"health: {facts.get('health')}: {facts.get('reason', '')}".rstrip(": ")


def _crashed(facts: Facts, at: float) -> str:
    return f"its process failed: {facts.get('reason') or facts.get('last_words') or json_text(dict(facts))}"


WORDS: Mapping[str, Callable[[Facts, float], str]] = {
    "sync.begun": _begun,
    "sync.resumed": _resumed,
    "sync.paused": lambda facts, at: "paused",
    "sync.interrupted": lambda facts, at: "was interrupted",
    "sync.waiting": _waiting,
    "sync.failures": _failures,
    "sync.ended": _ended,
    "schedule.fired": _fired,
    "schedule.skipped": _skipped,
    "health.changed": _health,
    "runner.crashed": _crashed,
}
