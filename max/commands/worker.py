"""worker: one of a fleet, which does the syncs of a project in Postgres."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import UsageError
from .console import console
from .framework import Answer, Options
from .parser import Parser
from .serve import until_signal
from .text import counted, json_text

if TYPE_CHECKING:
    from ..serve.fleet import FleetWorker

MOST = 100  # installations at once: each takes up to three connections


def configure_worker(parser: Parser) -> None:
    """``max worker``."""
    about = "the project's database; without it the folder's, or the one that MAX_DATABASE names"
    parser.add_argument("--database", metavar="URL", help=about)
    about = "installations that it syncs at once; default 4"
    parser.add_argument("--concurrency", metavar="N", default="4", help=about)
    parser.add_examples(
        "max worker --database postgresql://max@db.example.com/max",
        "max worker --concurrency 16",
        "",
        "Any number of workers, on any hosts, do the syncs of one project: those that `max sync` asks for,",
        "those of schedules, and those that were interrupted. SIGTERM or Ctrl-C pauses its syncs, and others",
        "go on with them; a second one ends it at once, and others go on within half a minute.",
    )


def run_worker(options: Options) -> Answer:
    """Work until a signal."""
    from ..project import Project
    from ..projects.opening import find_project
    from ..serve.fleet import FleetWorker
    from ..serve.own_process import stay_small

    number = concurrency_of(options.concurrency)
    stay_small()
    if options.database is not None:
        found = find_project(options.project, database=options.database)
    else:
        found = options.found_project()
    found.refuse_foreign()
    worker = FleetWorker(Project(found), concurrency=number)
    return Answer(working(options, worker, number))


def concurrency_of(text: str) -> int:
    """How many installations are synced at once; UsageError."""
    if not text.isdecimal() or not 0 < int(text) <= MOST:
        raise UsageError(f"--concurrency {text}: it is a whole number from 1 to {MOST}")
    return int(text)


def working(options: Options, worker: FleetWorker, number: int) -> Iterator[str]:
    """That it works, once it does; then it works until a signal."""
    from ..serve.daemon_log import errors_shown
    from ..upstream.redaction import Redactor

    with errors_shown(Redactor().message, logging.WARNING), asyncio.Runner() as runner:
        runner.run(worker.start())
        try:
            label = worker.project.manager.label
            if options.output == "text":
                yield f"working for {label}, {counted(number, 'installation')} at once"
            else:
                yield json_text({"project": label, "concurrency": number})
            console().stdout.flush()
            runner.run(until_signal())
        finally:
            runner.run(worker.stop())
            runner.run(worker.project.stop_all())
