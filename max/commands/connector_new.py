"""connector new: the files of a new connector, from answers or from a service's own description."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..errors import MaxError, NoProject, UsageError
from ..installations.files import place_within
from ..installations.registry import PREFIX, SUFFIX
from ..projects.folder import ProjectFolder
from .connector import FAKE
from .console import console
from .framework import Answer, Options
from .parser import Parser
from .terminal import is_terminal

if TYPE_CHECKING:
    from ..model.values import Json
    from .authoring.openapi import Said
    from .authoring.proposal import Auth, Paging, Proposal, Style

FOLDER = "connectors"
PAGING = "none, link, cursor:PARAMETER:PATH, address:PATH, page:PARAMETER or offset:PARAMETER"
PAGING_WORDS = {"none": 0, "link": 0, "cursor": 2, "address": 1, "page": 1, "offset": 1}  # behind each
AUTH = "bearer, basic, header:NAME or none"


def configure_connector_new(parser: Parser) -> None:
    """``max connector new NAME``."""
    parser.add_argument("name", metavar="NAME", help="what people will type: max connect NAME")
    described = parser.add_mutually_exclusive_group()
    described.add_argument("--openapi", metavar="FILE", help="its description: OpenAPI 3, JSON or YAML")
    described.add_argument("--graphql", metavar="FILE", help="its GraphQL schema: introspection JSON, or SDL")
    parser.add_list("--list", "PATH,…", "what to copy: paths of lists; of a description also names and tags")
    parser.add_argument("--url", help="the service's address, such as https://api.example.com")
    parser.add_argument("--auth", metavar="HOW", help=AUTH)
    parser.add_argument("--entity", metavar="NAME", help="what one row is called (default: from the path)")
    parser.add_argument("--items", metavar="PATH", help="where an answer has its rows (default: it is they)")
    parser.add_argument("--paging", metavar="HOW", help=PAGING)
    parser.add_argument("--page-size", metavar="NAME=N", help="the parameter for a page's rows, and how many")
    parser.add_argument("--key", metavar="PATH", help="where a row has its id (default: id)")
    parser.add_argument("--changed", metavar="PATH", help="where a row says when it changed")
    parser.add_argument("--since", metavar="NAME", help="the parameter that leaves out what changed before")
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME:TYPE=PATH",
        help="a field of the rows; TYPE (default: str) is str, int, float, bool, datetime, date or Json",
    )
    parser.add_argument("--folder", metavar="DIR", help="where to write (default: the project's connectors/)")
    parser.add_examples(
        "max connector new crm --openapi hubspot.json --list companies,contacts",
        "max connector new tasks --url https://api.example.com --list /tasks --items data --field title",
        "max connector new tracker --graphql schema.graphql --list issues --url https://api.example.com",
    )


def run_connector_new(options: Options) -> Answer:
    """Write ``max_NAME.py`` and ``fake_NAME.py``; nothing is written when one of them is there."""
    from ..connector import CONNECTOR_NAME
    from .authoring.template import connector_file, fake_file

    name = options.name
    if not CONNECTOR_NAME.fullmatch(name) or name in sys.stdlib_module_names:
        raise UsageError(
            f"{name!r} is not a valid connector name",
            hint="use lower-case letters, digits and '_'; begin with a letter, not with max_ or sqlite_",
        )
    folder = _folder(options)
    files = [folder / f"{PREFIX}{name}{SUFFIX}", folder / f"{FAKE}{name}{SUFFIX}"]
    _refuse_existing(files)
    proposal = _proposal(options)
    texts = [connector_file(proposal), fake_file(proposal)]
    _write(files, texts)
    entities = [
        {"entity": one.name, "list": one.path, "fields": len(one.fields), "paging": one.paging.style}
        for one in proposal.entities
    ]
    data = {
        "connector": name,
        "files": [str(file) for file in files],
        "entities": entities,
        "notes": list(proposal.notes),
    }
    return options.answer(data, lambda: _lines(files, entities, proposal.notes), _next(files[0], name))


def _lines(files: Sequence[Path], entities: Sequence[Json], notes: Sequence[str]) -> Iterator[str]:
    for file in files:
        yield f"wrote {file}"
    for one in entities:
        yield f"  {one['entity']}: {one['fields']} fields, from {one['list']}, paging: {one['paging']}"
    if notes:
        yield "to be looked at:"
        yield from (f"- {note}" for note in notes)


def _next(file: Path, name: str) -> list[str]:
    return [
        f"next: max connector check {file}",
        f"      max connector test {file}",
        f"      max connect {name}, then max sync {name}",
    ]


def _folder(options: Options) -> Path:
    """Where the files go: the folder that is named, the project's, or one of the current folder."""
    if options.folder:
        return Path(options.folder)
    try:
        root = ProjectFolder.find(options.project).root
    except NoProject:
        root = Path(options.project)
    here, folder = Path.cwd(), place_within(root / FOLDER, root)
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _refuse_existing(files: Sequence[Path]) -> None:
    for file in files:
        if file.exists() or file.is_symlink():
            raise UsageError(
                f"{file} is there already, and is never overwritten",
                hint="choose another name, or move the file away first",
            )


def _write(files: Sequence[Path], texts: Sequence[str]) -> None:
    """Write all files, or none."""
    files[0].parent.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    try:
        for file, text in zip(files, texts, strict=True):
            with file.open("x", encoding="utf-8", newline="\n") as opened:  # x: never an existing one
                made.append(file)
                opened.write(text)
    except BaseException:
        for file in made:
            file.unlink(missing_ok=True)
        raise


# -- what to propose ------------------------------------------------------------------------------


def _proposal(options: Options) -> Proposal:
    from dataclasses import replace

    wanted = _said(options)
    if wanted.entity and len(_words(options)) > 1:
        raise UsageError("--entity names one entity, and --list several", hint="leave it out")
    if not (options.openapi or options.graphql):
        return _from_answers(options, wanted)
    proposal = _from_description(options, wanted)
    if options.auth:
        proposal = replace(proposal, auth=read_auth(options.auth))
    if options.paging or options.page_size or options.items is not None:
        raise UsageError(
            "--paging, --page-size and --items are read from the description",
            hint="leave them out, or leave out the description",
        )
    return proposal


def _said(options: Options) -> Said:
    from .authoring.openapi import Said

    key, changed, since, entity = (
        text or "" for text in (options.key, options.changed, options.since, options.entity)
    )
    return Said(key, changed, since, options.field, entity)


def _from_description(options: Options, wanted: Said) -> Proposal:
    """What a description says; UsageError for one that breaks the rules of its own format."""
    try:
        return _from_openapi(options, wanted) if options.openapi else _from_graphql(options, wanted)
    except MaxError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        too_deep = isinstance(error, RecursionError)
        said = "it is nested too deep" if too_deep else f"{type(error).__name__}: {error}"
        raise UsageError(
            f"{options.openapi or options.graphql} breaks the rules of descriptions: {said}",
            hint="try it with a validator first",
        ) from error


def _words(options: Options) -> list[str]:
    return [word.strip() for word in (options.list or "").split(",") if word.strip()]


def _from_openapi(options: Options, wanted: Said) -> Proposal:
    from .authoring.openapi import OpenApi, propose, read_description

    api = OpenApi(read_description(Path(options.openapi)), options.openapi)
    words = _words(options)
    if not words:
        usable = [one for one in api.listings if "{" not in one.path]
        words = _chosen(options.openapi, [(one.path, one.label) for one in usable])
    return propose(api, options.name, api.choose(words), _address(options.url), wanted)


def _from_graphql(options: Options, wanted: Said) -> Proposal:
    from .authoring.graphql import GraphQLSchema, propose_graphql, read_schema

    schema = GraphQLSchema(read_schema(Path(options.graphql)), options.graphql)
    words = _words(options)
    if not words:
        words = _chosen(options.graphql, [(one, one) for one in schema.connections])
    if wanted.fields or wanted.changed or wanted.since:
        raise UsageError(
            "--field, --changed and --since say where JSON of a REST service has something",
            hint="leave them out: the fields of a GraphQL schema are all proposed",
        )
    url = _address(options.url)
    if not url:
        raise UsageError(
            "a GraphQL schema names no address", hint="say it: --url https://api.example.com/graphql"
        )
    return propose_graphql(schema, options.name, words, url, wanted)


def _chosen(file: str, choices: Sequence[tuple[str, str]]) -> list[str]:
    """What a person at the terminal chooses; UsageError with the choices elsewhere."""
    import asyncio

    from .terminal import TerminalPrompter

    if not is_terminal(console().stdin):
        shown = "".join(f"\n  --list {value}" for value, _ in choices[:20])
        more = f"\n  and {len(choices) - 20} more" if len(choices) > 20 else ""
        raise UsageError(f"which lists of {file}?", hint=f"name some:{shown}{more}")
    found = asyncio.run(TerminalPrompter().choose(f"Lists in {file}:", choices, several=True))
    if not found:
        raise UsageError("no list was chosen", hint="choose one or more by number")
    return list(found)


def _address(url: str | None) -> str:
    """The address that was given, without a slash at its end; UsageError when it is none."""
    from ..upstream.hosts import read_address

    if not url:
        return ""
    try:
        read_address(url)
    except (ValueError, MaxError) as error:
        raise UsageError(f"{url!r} is not an address", hint="such as https://api.example.com") from error
    if not url.startswith(("https://", "http://")) or any(mark in url for mark in '?#{}\\ "'):
        raise UsageError(f"{url!r} is not an address", hint="such as https://api.example.com")
    return url.rstrip("/")


# -- from answers ----------------------------------------------------------------------------------


def _from_answers(options: Options, wanted: Said) -> Proposal:
    """The connector of one list that answers describe; options that are given are not asked."""
    from .authoring.proposal import Proposal, unpaged_note
    from .authoring.questions import proposed_entity

    ask = Answering()
    url = _address(options.url or ask.text("Address of the service", "https://api.example.com", "--url"))
    auth = read_auth(options.auth or ask.text(f"How requests authorise: {AUTH}", "", "", "bearer"))
    path = _list_path(options, ask)
    items = options.items
    if items is None:
        items = ask.text("Where the answer has the rows, such as data.items (empty: it is they)", "", "", "")
    paging = options.paging or ask.text(f"How it pages: {PAGING}", "none", "", "none")
    key = wanted.key or ask.text("Where a row has its id", "id", "", "id")
    fields = wanted.fields or list(_asked_fields(ask))
    changed = options.changed
    if changed is None:
        changed = ask.text("Where a row says when it changed (empty: nowhere)", "", "", "")
    entity = proposed_entity(
        path,
        items=items,
        paging=read_paging(paging, options.page_size),
        key=key,
        fields=fields,
        entity=wanted.entity,
        changed=changed,
        since=wanted.since,
    )
    is_said = options.paging or ask.asks
    notes = [] if is_said else [f"{entity.name}: {unpaged_note(entity.paging, 'was not said')}"]
    return Proposal(options.name, url, [entity], auth, notes=notes)


def _list_path(options: Options, ask: Answering) -> str:
    """The path of the one list; UsageError when it is none, or there are several."""
    words = _words(options) or [ask.text("Path of a list", "/items", "--list")]
    if len(words) > 1:
        raise UsageError("without a description, a new connector has one list", hint="--list with one path")
    path = words[0]
    if not path.startswith("/") or any(mark in path for mark in '{}?#\\" '):
        raise UsageError(
            f"{path!r} is not the path of a list", hint="it begins with a slash, and has neither {…} nor ?"
        )
    return path


def _asked_fields(ask: Answering) -> Iterator[str]:
    """The fields that a person at the terminal names, until the answer is empty."""
    while ask.asks and (field := ask.text("A field, as NAME or NAME:TYPE=PATH (empty: no more)", "", "", "")):
        yield field


class Answering:
    """Questions to the person at the terminal; without one, answers are options or defaults."""

    def __init__(self) -> None:
        self.asks = is_terminal(console().stdin)

    def text(self, prompt: str, example: str, option: str, default: str | None = None) -> str:
        """The answer; the default for an empty one, and UsageError when there is none of both."""
        import asyncio

        from .terminal import TerminalPrompter

        if not self.asks:
            if default is None:
                raise UsageError(f"{prompt[0].lower()}{prompt[1:]}?", hint=f"say it: {option} {example}")
            return default
        while True:
            found = asyncio.run(TerminalPrompter().text(prompt, default))
            if found or default is not None:
                return found
            TerminalPrompter().say(f"it is needed, such as {example}")


def read_auth(text: str) -> Auth:
    """``bearer``, ``basic``, ``header:NAME`` or ``none``."""
    from ..upstream.http import NAME
    from .authoring.proposal import Auth

    kind, _, name = text.partition(":")
    if kind == "header" and NAME.fullmatch(name.lower()):
        return Auth("header", name.lower())
    known = {"bearer": Auth(), "basic": Auth("header", "authorization", "Basic "), "none": Auth("none")}
    if text not in known:
        raise UsageError(f"{text!r} is no way to authorise", hint=f"one of {AUTH}")
    return known[text]


def read_paging(text: str, size: str | None) -> Paging:
    """``cursor:after:paging.next.after`` and the like, and ``limit=100``."""
    from .authoring.proposal import Paging

    name, rows = _page_size(size)
    style, *words = text.split(":")
    given = [word for word in words if word]
    if len(given) != PAGING_WORDS.get(style):
        raise UsageError(f"{text!r} is no way to page", hint=f"one of {PAGING}")
    parameter, following, *_ = ["page", *given] if style == "address" else [*given, "", ""]
    return Paging(cast("Style", style), parameter, following, name, rows)


def _page_size(text: str | None) -> tuple[str, int]:
    """The parameter for the number of rows, and how many; an empty name when nothing was said."""
    from .authoring.proposal import PAGE

    if not text:
        return "", PAGE
    name, _, rows = text.partition("=")
    if not (name and rows.isdecimal() and rows.isascii() and len(rows) < 6 and int(rows)):
        raise UsageError(f"{text!r} is no page size", hint="such as --page-size limit=100")
    return name, int(rows)
