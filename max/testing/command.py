"""connector test: whether a connector keeps its promises, tried against a fake, a service or a recording.

This command may take its time: it runs dozens of syncs, three of them in processes that it kills.  It is
here, and not with the other commands, as these know nothing of what is for tests.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..commands import streams
from ..commands.connect import pairs
from ..commands.connector import FAKE, named_connector, refuse_untrusted_file
from ..commands.console import console
from ..commands.framework import Answer, Options, paint
from ..commands.parser import Parser
from ..commands.terminal import ERASE, redraws
from ..commands.text import Colour, counted, pad
from ..errors import ConnectorError, UnknownName, UsageError
from ..installations.registry import SUFFIX, Origin, load_module
from ..installations.secret_sources import read_secret

if TYPE_CHECKING:
    from ..connector import AnyConnector
    from .checks import Check
    from .trial import Fake

COLOURS: Mapping[str, Colour] = {"pass": "green", "fail": "red", "skipped": "yellow"}
COLUMNS = ("check", "outcome", "detail", "requests")


def configure_connector_test(parser: Parser) -> None:
    """``max connector test PATH``."""
    parser.answers_rows = True
    parser.add_argument(
        "connector", metavar="PATH", help="a connector's file, or the name of a CONNECTOR that Max knows"
    )
    against = parser.add_mutually_exclusive_group()
    against.add_argument(
        "--fake", metavar="FILE", help="the fake's file (default: fake_NAME.py beside the connector's)"
    )
    against.add_argument("--url", help="a service that runs, such as http://127.0.0.1:8801")
    against.add_argument("--replay", metavar="FILE", help="a recording of max sync --record")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a configuration value; {url} in it is the address to call",
    )
    parser.add_argument(
        "--credential",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="a secret from env:VARIABLE, file:PATH, or - for standard input",
    )
    parser.add_list("--only", "CHECK,…", "only these checks, after the full sync that all need")
    parser.add_argument("--folder", metavar="DIR", help="keep databases, recordings and the log there")
    parser.add_examples(
        "max connector test connectors/max_notes.py",
        "max connector test connectors/max_notes.py --only 'unchanged,token expiry'",
        "max connector test hubspot --url http://127.0.0.1:8801 --credential token=env:HUBSPOT_TOKEN",
        "max connector test notes --replay notes.jsonl",
    )


def run_connector_test(options: Options) -> Answer:
    """Run the checks; exit status 1 when one fails."""
    from .checks import CHECKS, Subject, run_checks

    chosen = [word.strip() for word in options.only.split(",")] if options.only else []
    for name in chosen:
        if name not in CHECKS:
            raise UnknownName("check", name, CHECKS)
    connector, file = named_connector(options)
    make_fake, recording = _against(options, connector, file)
    began = time.monotonic()
    with _folder(options.folder) as folder:
        own = Path(file).resolve() if file else None
        subject = Subject(connector, folder, make_fake, recording, own, remote=bool(options.url))
        found = run_checks(subject, chosen, _progress(options))
    _progress(options)("")
    outcomes = Counter(one.outcome for one in found)
    counts = f"{outcomes['pass']} passed, {outcomes['fail']} failed, {outcomes['skipped']} skipped"
    took = time.monotonic() - began
    return options.listing(
        [one.to_json() for one in found],
        lambda: _lines(found),
        [f"{counts}: {counted(len(found), 'check')} of {connector.name} in {took:.0f} s"],
        columns=COLUMNS,
        head={"connector": connector.name},
        status=1 if outcomes["fail"] else 0,
    )


def _lines(found: Iterable[Check]) -> Iterator[str]:
    colour = paint()
    for outcome, group in groupby(found, lambda one: one.outcome):
        same = list(group)
        if outcome == "skipped" and len({one.detail for one in same}) == 1 and len(same) > 1:
            same = [same[0].replace(check=f"{same[0].check} and {len(same) - 1} more")]
        for one in same:
            yield f"{colour(pad(outcome, 8), COLOURS[outcome])} {pad(one.check, 20)} {one.detail}"


def _progress(options: Options) -> Callable[[str], None]:
    """Show the name of the check that runs, to a person at a terminal."""
    shown = redraws(console().stderr) and not options.quiet

    def report(name: str) -> None:
        if shown:
            streams.tell(console().stderr, f"{ERASE}{name and f'checking: {name} …'}")

    return report


@contextmanager
def _folder(given: str | None) -> Iterator[Path]:
    """A new folder: the one that is named, or one that is removed at the end."""
    if given is None:
        with TemporaryDirectory(prefix="max-test-") as folder:
            yield Path(folder)
        return
    folder_given = Path(given)
    if folder_given.exists() and any(folder_given.iterdir()):
        raise UsageError(f"{given} is not empty", hint="name a new folder")
    folder_given.mkdir(parents=True, exist_ok=True)
    yield folder_given.resolve()


def _against(
    options: Options, connector: AnyConnector, file: Path | None
) -> tuple[Callable[[], Fake] | None, Path | None]:
    """What makes the service that answers; or the recording."""
    from .trial import Fake

    config = pairs("--set", options.set)
    sources = pairs("--credential", options.credential)
    secrets = {name: read_secret(source, console().stdin) for name, source in sources.items()}
    if options.replay:
        return None, Path(options.replay)
    if options.url:
        url = options.url
        return lambda: Fake.at(url, config, secrets), None
    make = _fake_of(options, connector, file)

    def made() -> Fake:
        fake = make()
        if not isinstance(fake, Fake):
            raise ConnectorError(
                f"fake() returned {type(fake).__name__}, not a Fake", hint="see docs/testing.md"
            )
        fake.config, fake.credentials = {**fake.config, **config}, {**fake.credentials, **secrets}
        return fake

    return made, None


def _fake_of(options: Options, connector: AnyConnector, file: Path | None) -> Callable[[], object]:
    """The function ``fake`` of the fake's file."""
    beside = None if file is None else file.with_name(f"{FAKE}{connector.name}{SUFFIX}")
    place = Path(options.fake) if options.fake else beside
    if place is None or not place.is_file():
        missing = f"there is no file {place}" if options.fake else f"nothing to test {connector.name} against"
        where = beside or f"{FAKE}{connector.name}{SUFFIX}"
        hint = f"write a fake in {where} (docs/testing.md shows how), or give --fake, --url or --replay"
        raise UsageError(missing, hint=hint)
    refuse_untrusted_file(place)
    make = getattr(load_module(Origin(place.stem, place, "named here")), "fake", None)
    if not callable(make):
        raise ConnectorError(
            f"{place} has no function fake()", hint="write: def fake() -> Fake, see docs/testing.md"
        )
    return make  # type: ignore[no-any-return]  # what it returns is checked when it is called
