"""serve: the project over HTTP, in the foreground."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .console import console
from .daemon import found
from .framework import Answer, Options
from .parser import Parser
from .text import json_text

if TYPE_CHECKING:
    from ..project import Project
    from ..serve.http_service import HttpService

HOST, PORT = "127.0.0.1", 8765
PAUSING = 8.0  # seconds in which syncs pause when it ends
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def configure_serve(parser: Parser) -> None:
    """``max serve``."""
    parser.add_argument("--host", default=HOST, help=f"where to listen; {HOST} is this machine alone")
    parser.add_argument("--port", default=str(PORT), help=f"default {PORT}; 0 picks a free one")
    about = "the file with the bearer token; without it one of the project's own, made at the first start"
    parser.add_argument("--token-file", metavar="FILE", help=about)
    parser.add_argument("--read-only", action="store_true", help="leave out what changes anything")
    about = "another name by which it may be addressed, beside localhost"
    parser.add_argument("--allow-host", metavar="NAME", action="append", help=about)
    about = "an origin whose pages may ask, such as https://board.example"
    parser.add_argument("--allow-origin", metavar="URL", action="append", help=about)
    parser.add_examples(
        "max serve   (answers until Ctrl-C, and says where, and which file has the token)",
        "max serve --port 0 --read-only",
        "max serve --host 0.0.0.0 --allow-host max.lan",
    )


def run_serve(options: Options) -> Answer:
    """Serve until a signal, which lets what runs end and pauses the syncs."""
    from ..project import Project
    from ..serve.daemon_folder import HTTP_TOKEN
    from ..serve.http_service import HttpService
    from ..serve.methods import Methods
    from ..serve.own_process import stay_small
    from .daemon import port_of
    from .guide import guide

    stay_small()
    folder, own = found(options)
    token = Path(own.file(HTTP_TOKEN))
    if options.token_file is not None:
        token = console().file(options.token_file)
    project = Project(folder)
    service = HttpService(
        Methods(project),
        options.host,
        port_of("--port", options.port),
        token,
        hosts=options.allow_host or (),
        origins=options.allow_origin or (),
        read_only=options.read_only,
        guide=partial(guide, folder),
    )
    return Answer(served(options, project, service))


def served(options: Options, project: Project, service: HttpService) -> Iterator[str]:
    """Where it answers, once it does; then it answers until a signal.

    A bug meanwhile shows its traceback on stderr, without the tokens.
    """
    from ..serve.daemon_log import errors_shown
    from ..upstream.redaction import Redactor

    redactor = Redactor()
    with errors_shown(redactor.message), asyncio.Runner() as runner:
        runner.run(service.start())
        for token in service.tokens():
            redactor.learn(token)
        try:
            yield from announced(options, service)
            console().stdout.flush()
            runner.run(until_signal())
        finally:
            runner.run(_stop(project, service))


def announced(options: Options, service: HttpService) -> list[str]:
    """What a person, or a program that started it, has to know."""
    if options.output != "text":
        return [json_text({"address": service.address, "tokenFile": str(service.token_file)})]
    warning = ["warning: other machines may reach it, and nothing is encrypted"] if service.is_exposed else []
    return [f"answering at {service.address}", f"the token is in {service.token_file}", *warning]


async def until_signal() -> None:
    """Wait for SIGTERM or Ctrl-C; the second one ends the process at once."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def end(number: signal.Signals) -> None:
        if asked.is_set():
            os._exit(128 + number)
        asked.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, end, number)
    await asked.wait()


async def _stop(project: Project, service: HttpService) -> None:
    await service.stop()
    await project.pause_all(PAUSING)
    await project.stop_all()
