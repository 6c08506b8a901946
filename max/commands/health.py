"""health: how installations are, for people and for monitors."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from .framework import NOTHING_CONNECTED, Answer, Options, paint
from .parser import Parser
from .text import ago, iso_time, sanitize

if TYPE_CHECKING:
    from ..model.health import InstallationHealth
    from ..model.values import Json
    from .text import Paint

COLUMNS = ("installation", "health", "reason", "since", "syncedAt", "nextSync")
COLOURS = {"healthy": "green", "waiting": None, "degraded": "yellow", "failed": "red"}


def configure_health(parser: Parser) -> None:
    """``max health [INSTALLATION]``."""
    parser.answers_rows = True
    parser.add_target(optional=True)
    parser.add_examples(
        "max health",
        "max health acme:default -o json",
        "",
        "Exit status, for monitors: 0 healthy or waiting, 3 degraded, 1 failed; of several the worst.",
    )


def run_health(options: Options) -> Answer:
    """How an installation is, or each of the project."""
    from ..model.health import WORST, Health
    from ..query.health import health

    project = options.found_project()
    chosen = [project.target(options.target)] if options.target else project.installations()
    now = time.time()
    found = [health(project.database(info), info, now=now) for info in chosen]
    problems = [] if options.target else [problem.render() for problem in project.problems()]
    worst = max((one.health for one in found), key=WORST.index, default=Health.HEALTHY)
    status = 1 if problems else worst.exit_status
    notes = problems if found else [*problems, NOTHING_CONNECTED]
    text = partial(shown, found, now, paint())
    return options.listing(map_rows(found), lambda: [*text()], notes, columns=COLUMNS, status=status)


def map_rows(found: list[InstallationHealth]) -> list[dict[str, Json]]:
    """Each as JSON data."""
    return [health_json(one) for one in found]


def health_json(one: InstallationHealth) -> dict[str, Json]:
    """The health of an installation as JSON data."""
    return {
        "installation": one.installation,
        "health": str(one.health),
        "reason": one.reason,
        "since": iso_time(one.since),
        "syncedAt": iso_time(one.synced_at),
        "nextSync": iso_time(one.next_sync),
    }


def shown(found: list[InstallationHealth], now: float, paint: Paint) -> list[str]:
    """A line for each installation."""
    return [f"{one.installation}  {health_words(one, now, paint)}" for one in found]


def health_words(one: InstallationHealth, now: float, paint: Paint) -> str:
    """The health of an installation in words: ``degraded: 2 tasks of the last sync failed (3 hours ago)``."""
    words = paint(str(one.health), COLOURS[str(one.health)])  # type: ignore[arg-type]
    reason = f": {sanitize(one.reason)}" if one.reason else ""
    since = f" (since {ago(one.since, now)})".replace("since just now", "just now") if one.since else ""
    return f"{words}{reason}{since}"
