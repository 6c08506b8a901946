"""What an OpenAPI description says of a service: its listings, their rows, how they page.

Rule 1: a description comes from anywhere.  Reading it ends, whatever it says: references may go round in
circles, be missing or lead elsewhere, and what is too large is left out with a note.

Rule 2: what it does not say is not guessed: a row without an id, a listing that needs a parameter and a
service without an address are refused, in words that name the option which says it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ...errors import MissingExtra, UnknownName, UsageError
from ...model.values import Json
from .proposal import (
    MOST_FIELDS,
    PAGE,
    Auth,
    Paging,
    Proposal,
    ProposedEntity,
    ProposedField,
    entity_name,
    field_name,
    is_prose,
    one_line,
    plural_name,
    singular,
    snake,
    unpaged_note,
    written_field,
)

T = TypeVar("T")

MANY = 24  # fields of an object inside of an answer that is looked into
DEPTH = 3  # objects inside of objects whose fields are proposed
HOPS = 64  # references that lead to one another
MOST_PAGE = 500  # rows that are asked for at once
MOST_BYTES = 64 * 2**20  # of a description
FEW_VALUES = 12  # of an enumeration that becomes a Literal
KNOWN, INSIDE, UNKNOWN = range(3)  # how doubtful a list is: by its name, by that of what it is in, by none

OAUTH = "it signs in with OAuth; this file takes a ready access token. See OAuth in the docs"
NO_HEADER = "it takes its key in the address or a cookie: give it in a header if it can"
SIGNS = {  # how requests authorise, with a note, by the type and the scheme of OpenAPI
    ("http", "bearer"): (Auth(), ""),
    ("http", "basic"): (Auth("header", "authorization", "Basic "), "its token is user:password in base64"),
    ("oauth2", ""): (Auth(), OAUTH),
    ("openIdConnect", ""): (Auth(), OAUTH),
}

# Words of real services, in lower case and without "_".
CURSOR = (
    "after cursor pagetoken nextcursor nexttoken nextpagetoken continuationtoken continuation"
    " pagecursor paginationtoken starttoken marker".split()
)
NUMBER = "page pagenumber pageno pageindex".split()
OFFSET = "offset skip start startat startindex".split()
SIZE = "limit perpage pagesize maxresults maxitems first size top resultsperpage take count".split()
NEXT = (
    "nextpagetoken nextcursor nexttoken paging.next.after paging.cursors.after pageinfo.endcursor cursor"
    " next continuationtoken nextpage after next.cursor endcursor".split()
)
WITHIN = "meta pagination paging page responsemetadata links cursor cursors info".split()
ADDRESSES = ("next", "links.next", "paging.next", "pagination.next", "meta.next")  # of the next page
TOTAL = "total totalcount totalresults totalitems totalsize recordcount".split()
SINCE = (
    "since updatedsince modifiedsince updatedafter modifiedafter changedsince updatedfrom updatedatmin"
    " minupdatedat ifmodifiedsince updatedatgte".split()
)
CHANGED = (
    "updatedat modifiedat changedat lastmodified lastmodifiedat lastmodifieddate updated modified"
    " updatedon updatedtime modifiedtime updatedate modificationdate".split()
)
IDS = "id uuid guid nodeid gid sid key identifier code slug number".split()
ROWS = "items data results values records entries objects list rows elements content".split()
LAST_RESORT = ("code", "slug", "number", "key")  # that name a row only when nothing else does


def plain(text: str) -> str:
    """A name without what services write differently."""
    return re.sub(r"[^a-z0-9.]", "", text.lower())


@dataclass(frozen=True)
class Listing:
    """A request that lists rows: its path, where the answer has them, and their schema."""

    path: str
    items: str
    row: Mapping[str, Json]
    answer: Json
    operation: Mapping[str, Json]
    parameters: Sequence[Mapping[str, Json]]
    has_links: bool = False

    @property
    def word(self) -> str:
        """What it lists: the last piece of the path that is no parameter."""
        pieces = [piece for piece in self.path.split("/") if piece and "{" not in piece]
        last = re.sub(r"\.json$", "", pieces[-1]) if pieces else "records"
        return snake(last) or "records"

    @property
    def label(self) -> str:
        """A line for people."""
        about = one_line(self.operation.get("summary"), 50)
        return f"{self.path}{f'  {about}' if about else ''}"


def read_text(path: Path) -> str:
    """The text of a description; UsageError when there is none, or it is too long."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}", hint="name the file with the service's description")
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(f"{path} has more than {MOST_BYTES // 2**20} MB", hint="cut it to what is needed")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from error


def read_description(path: Path) -> Json:
    """The data of a JSON or YAML file."""
    text = read_text(path)
    try:
        if path.suffix.lower() in (".yaml", ".yml"):
            return _yaml(text, path)
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        said = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"{path} is not JSON: {said}", hint="YAML files end in .yaml or .yml") from error


def _yaml(text: str, path: Path) -> Json:
    try:
        import yaml  # type: ignore[import-untyped]  # it has no types
    except ImportError as error:
        raise MissingExtra("descriptions", "pyyaml", f"reading YAML ({path})") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {one_line(str(error), 200)}") from error


def literal(texts: Sequence[str]) -> str:
    """The type of a field with these values, as Python writes it; empty for none, and for too many."""
    listed = ", ".join(json.dumps(one, ensure_ascii=False) for one in texts)
    return f"Literal[{listed}]" if 0 < len(texts) <= FEW_VALUES else ""


def time_of_change(fields: Sequence[ProposedField]) -> str:
    """The name of the field that says when a row changed; empty when none seems to."""
    times = {plain(one.source): one.name for one in reversed(fields) if one.type == "datetime"}
    return _first(CHANGED, times) or ""


class OpenApi:
    """A description of a REST service, version 3."""

    def __init__(self, data: Json, name: str = "the description") -> None:
        version = data.get("openapi") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not str(version or "").startswith("3"):
            has = (
                f"OpenAPI {data['swagger']}"
                if isinstance(data, dict) and "swagger" in data
                else "not OpenAPI 3"
            )
            raise UsageError(f"{name} is {has}", hint="convert it to OpenAPI 3: it begins with openapi: 3…")
        self.data, self.name = data, name
        self._made: dict[int, tuple[Json, dict[str, Json]]] = {}  # by the id of a schema, which it keeps
        self.listings = list(self._listings())
        if not self.listings:
            raise UsageError(
                f"{name} describes no listing: no GET answers with a list of objects",
                hint="leave it out and say where the list is: --list /things",
            )

    # -- schemas --------------------------------------------------------------------------------

    def found(self, schema: Json) -> dict[str, Json]:
        """A schema with its references followed and its parts put together; {} for what cannot be read."""
        for _ in range(HOPS):
            if not isinstance(schema, dict):
                return {}
            reference = schema.get("$ref")
            if not isinstance(reference, str):
                return self._together(schema)
            schema = self._at(reference)
        return {}

    def _at(self, reference: str) -> Json:
        if not reference.startswith("#/"):
            return {}  # of another file
        here: Json = self.data
        for piece in reference[2:].split("/"):
            piece = piece.replace("~1", "/").replace("~0", "~")
            here = here.get(piece) if isinstance(here, dict) else None
        return here

    def _together(self, schema: dict[str, Json]) -> dict[str, Json]:
        """A schema with its ``allOf``, or the only one of its ``anyOf`` that is not null, in it.

        Each is put together once: parts that contain themselves, or one another many times, cost no more.
        """
        if id(schema) in self._made:
            return self._made[id(schema)][1]
        self._made[id(schema)] = schema, {}  # what a part that contains it gets
        made = dict(schema)
        parts = _list(made.pop("allOf", None))
        for word in ("anyOf", "oneOf"):
            options = [one for one in _list(made.get(word)) if not _is_null(one)]
            if len(options) == 1:
                made["nullable"] = made.get("nullable") or len(_list(made[word])) > 1
                parts = [*parts, options[0]]
        for part in parts:
            inner = self.found(part)
            properties = {**_mapping(inner.get("properties")), **_mapping(made.get("properties"))}
            required = {*map(str, _list(inner.get("required"))), *map(str, _list(made.get("required")))}
            made = {**inner, **made}
            made |= {"properties": properties} if properties else {}
            made |= {"required": sorted(required)} if required else {}
        self._made[id(schema)] = schema, made
        return made

    # -- listings -------------------------------------------------------------------------------

    def _listings(self) -> Iterator[Listing]:
        for path, methods in _mapping(self.data.get("paths")).items():
            get = _mapping(_mapping(methods).get("get"))
            answers = _mapping(get.get("responses"))
            answer = next((answers[code] for code in ("200", 200, "2XX", "default") if code in answers), None)
            answer = self.found(answer)
            content = _mapping(answer.get("content"))
            media = next((one for kind, one in content.items() if "json" in str(kind)), None)
            shown = self.found(_mapping(media).get("schema"))
            place = self._rows_in(shown, str(path))
            if place is None or not isinstance(path, str):
                continue
            parameters = [self.found(one) for one in _list(_mapping(methods).get("parameters"))]
            parameters += [self.found(one) for one in _list(get.get("parameters"))]
            links = any(str(name).lower() == "link" for name in _mapping(answer.get("headers")))
            yield Listing(path, place[0], place[1], shown, get, parameters, links)

    def _rows_in(
        self, schema: dict[str, Json], path: str, depth: int = 0
    ) -> tuple[str, dict[str, Json]] | None:
        """Where an answer has its rows, and the schema of a row; None when it has no list of objects."""
        if schema.get("items") is not None:
            row = self.found(schema["items"])
            return ("", row) if _is_object(row) else None
        if depth and (depth > 2 or len(_mapping(schema.get("properties"))) > MANY):
            return None
        places = sorted(self._places(schema, path, depth), key=lambda one: one[0])
        if not places:
            return None
        doubt, where, row = places[0]
        if doubt == UNKNOWN and (len(places) > 1 or _has_id(schema)):
            return None  # a row that has a list, not a list
        return where, row

    def _places(
        self, schema: dict[str, Json], path: str, depth: int
    ) -> Iterator[tuple[int, str, dict[str, Json]]]:
        """The lists of objects inside of an answer: how doubtful each is, where it is, and its rows."""
        last = plain(path.rstrip("/").rpartition("/")[2])
        for name, inner in _mapping(schema.get("properties")).items():
            place = self._rows_in(self.found(inner), path, depth + 1)
            if place is None:
                continue
            where, row = place
            is_known = plain(name) in ROWS
            if not where:
                yield (KNOWN if is_known or plain(name) == last else UNKNOWN), name, row
            elif is_known:
                yield INSIDE, f"{name}.{where}", row

    def choose(self, words: Sequence[str]) -> list[Listing]:
        """The listings that words name: paths, tags, or last pieces of paths."""
        return list({id(one): one for word in words for one in self._called(word)}.values())

    def _called(self, word: str) -> Sequence[Listing]:
        """The listings that one word names; an error for none, and for several without a tag."""
        tagged = [one for one in self.listings if word in _list(one.operation.get("tags"))]
        called = [one for one in self.listings if one.word in (snake(word), snake(f"{word}s"))]
        usable = [one for one in called if "{" not in one.path]
        found = [one for one in self.listings if one.path == word] or tagged or usable or called
        if not found:
            raise UnknownName("listing", word, [one.path for one in self.listings])
        if len(found) > 1 and not tagged:
            listed = "".join(f"\n  --list {one.path}" for one in found[:10])
            raise UsageError(f"{word!r} names {len(found)} listings", hint=f"name one by its path:{listed}")
        return found

    # -- the service ----------------------------------------------------------------------------

    def base_url(self) -> str:
        """The address of the first server; empty when there is none, or only a path."""
        for server in _list(self.data.get("servers")):
            url = str(_mapping(server).get("url") or "")
            for name, variable in _mapping(_mapping(server).get("variables")).items():
                url = url.replace(f"{{{name}}}", str(_mapping(variable).get("default") or f"{{{name}}}"))
            if url.startswith(("https://", "http://")) and "{" not in url:
                return url.rstrip("/")
        return ""

    def auth(self, listings: Sequence[Listing]) -> tuple[Auth, list[str]]:
        """How requests authorise, and what the author should know about it."""
        kinds = self._schemes(listings)
        for auth, note in filter(None, map(_header_of, kinds)):
            gives_token = note == OAUTH and any(one.get("scheme") == "bearer" for one in kinds)
            return auth, [note] if note and not gives_token else []
        if any(kind.get("type") == "apiKey" for kind in kinds):
            return Auth("none"), [NO_HEADER]
        return (Auth(), ["how it authorises was not recognised"]) if kinds else (Auth("none"), [])

    def _schemes(self, listings: Sequence[Listing]) -> list[dict[str, Json]]:
        """The ways to authorise, those that these listings ask for first."""
        schemes = _mapping(_mapping(self.data.get("components")).get("securitySchemes"))
        wanted = [_list(one.operation.get("security", self.data.get("security"))) for one in listings]
        names = [name for one in wanted for option in one for name in _mapping(option)]
        return [self.found(schemes.get(name)) for name in dict.fromkeys([*names, *schemes])]


def _header_of(scheme: Mapping[str, Json]) -> tuple[Auth, str] | None:
    """The header of a way to authorise, with a note; None when no header carries it."""
    kind = str(scheme.get("type"))
    if kind == "apiKey" and scheme.get("in") == "header":
        return Auth("header", str(scheme.get("name") or "authorization").lower()), ""
    return SIGNS.get((kind, str(scheme.get("scheme") or "").lower() if kind == "http" else ""))


@dataclass(frozen=True)
class Said:
    """What the author says where a description does not: each is empty when nothing was said."""

    key: str = ""
    changed: str = ""
    since: str = ""
    fields: Sequence[str] = ()
    entity: str = ""


def propose(api: OpenApi, name: str, chosen: Sequence[Listing], url: str, wanted: Said) -> Proposal:
    """The connector for the chosen listings."""
    base_url = url or api.base_url()
    if not base_url:
        raise UsageError(
            f"{api.name} names no address of the service", hint="say it: --url https://api.example.com"
        )
    auth, notes = api.auth(chosen)
    entities: list[ProposedEntity] = []
    for one in chosen:
        made, said = _Reader(api, one, wanted, [entity.name for entity in entities]).entity()
        plural = plural_name(one.word, made.name, [entity.plural for entity in entities])
        entities.append(replace(made, plural=plural))
        notes += [f"{made.name}: {note}" for note in said]
    return Proposal(name, base_url, entities, auth, origin=Path(api.name).name, notes=notes)


class _Reader:
    """Reads one listing: its fields, its id, how it pages."""

    def __init__(self, api: OpenApi, listing: Listing, wanted: Said, taken: Sequence[str]) -> None:
        self.api, self.listing, self.wanted, self.taken = api, listing, wanted, taken
        self.notes: list[str] = []

    def entity(self) -> tuple[ProposedEntity, list[str]]:
        """The entity that it brings, and what the author should look at."""
        listing, wanted = self.listing, self.wanted
        parameters = self._fixed_parameters()
        properties = _mapping(listing.row.get("properties"))
        name = entity_name(wanted.entity or singular(listing.word), self.taken)
        key = self._key(properties, name)
        fields: list[ProposedField] = []
        for text in wanted.fields:
            fields.append(written_field(text, name, [one.name for one in fields]))
        self._fields(listing.row, "", key, name, fields, 0)
        if len(fields) > MOST_FIELDS:
            self.notes.append(
                f"{len(fields) - MOST_FIELDS:,} more fields were left out; name some with --field"
            )
            fields = fields[:MOST_FIELDS]
        paging, since = self._paging(), self._since()
        changed = self._changed(fields)
        if since and not changed:
            self.notes.append(f"{since} asks for changes, but no field says when a row changed")
        kind = _type(self.api.found(self._at(listing.row, key)))
        about = one_line(listing.row.get("description")) or one_line(listing.row.get("title"))
        return (
            ProposedEntity(
                name,
                "",
                fields,
                path=listing.path,
                items=listing.items,
                key=key,
                number_key=kind in ("integer", "number"),
                about=about,
                paging=paging,
                parameters=parameters,
                changed=changed,
                since=since if changed else "",
            ),
            self.notes,
        )

    def _at(self, schema: Mapping[str, Json], path: str) -> Json:
        here: Json = schema
        for piece in path.split("."):
            here = _mapping(self.api.found(here).get("properties")).get(piece)
        return here

    def _fixed_parameters(self) -> dict[str, str]:
        """The parameters that every request needs; UsageError when one has no value to give."""
        fixed: dict[str, str] = {}
        for one in self.listing.parameters:
            name, kind = str(one.get("name")), self.api.found(one.get("schema"))
            if one.get("in") == "path":
                raise UsageError(
                    f"{self.listing.path} lists what is below one {name}",
                    hint="choose a list without {…} in its path, and write this one by hand below its rows",
                )
            if not one.get("required") or plain(name) in (*SIZE, *CURSOR, *NUMBER, *OFFSET):
                continue
            values = [one.get("example"), kind.get("default"), *_list(kind.get("enum"))]
            value = next((v for v in values if isinstance(v, str | int) and not isinstance(v, bool)), None)
            if one.get("in") == "query" and value is None:
                raise UsageError(
                    f"{self.listing.path} needs the parameter {name}, which has no value in the description",
                    hint="write its default or example into the description, or choose another list",
                )
            if one.get("in") == "query":
                fixed[name] = str(value)
                self.notes.append(f"every request has {name}={value}")
        return fixed

    # -- fields ---------------------------------------------------------------------------------

    def _key(self, properties: Mapping[str, Json], name: str) -> str:
        if self.wanted.key:
            if properties and self._at(self.listing.row, self.wanted.key) is None:
                raise UnknownName("field", self.wanted.key, properties, where=self.listing.path)
            return self.wanted.key
        scalars = {one: _type(self.api.found(kind)) for one, kind in properties.items()}
        scalars = {one: kind for one, kind in scalars.items() if kind in ("string", "integer", "number")}
        own = plain(name)
        sure = [*(word for word in IDS if word not in LAST_RESORT), f"{own}id", f"{own}uuid", f"{own}key"]
        for word in [*sure, *LAST_RESORT]:
            for one in scalars:
                if plain(one) == word:
                    if word in LAST_RESORT:
                        self.notes.append(f"{one} is taken for its id; if it is not unique, change key=")
                    return one
        raise UsageError(
            f"nothing of {self.listing.path} looks like the id of a row",
            hint=f"say which it is: --key FIELD, one of {', '.join(list(scalars)[:12]) or 'none'}",
        )

    def _fields(
        self,
        row: Mapping[str, Json],
        prefix: str,
        key: str,
        name: str,
        fields: list[ProposedField],
        depth: int,
    ) -> None:
        """Add the fields of an object, and of the small objects in it."""
        required = {*map(str, _list(row.get("required")))} if not prefix else set()
        for word, schema in _mapping(row.get("properties")).items():
            source = f"{prefix}{word}"
            known = {key, *(one.source for one in fields)}
            if source in known or "." in word or not word or len(fields) > 4 * MOST_FIELDS:
                continue
            kind = self.api.found(schema)
            inner = _mapping(kind.get("properties"))
            if inner and depth + 1 < DEPTH and len(inner) <= 12:
                self._fields(kind, f"{source}.", key, name, fields, depth + 1)
            elif not kind.get("writeOnly"):
                fields.append(self._field(kind, source, name, fields, word not in required))

    def _field(
        self, kind: Mapping[str, Json], source: str, entity: str, before: Sequence[ProposedField], empty: bool
    ) -> ProposedField:
        """The field for a value; ``empty`` is whether a row may lack it."""
        found = self._type_of(kind)
        return ProposedField(
            field_name(source, entity, [one.name for one in before]),
            found,
            source,
            one_line(kind.get("description")) or one_line(kind.get("title")),
            empty or bool(kind.get("nullable")) or _may_be_null(kind),
            searchable=found == "str" and is_prose(source.rpartition(".")[2]),
        )

    def _type_of(self, kind: Mapping[str, Json]) -> str:
        """The type of a field, as Python writes it."""
        found = _type(kind)
        if found == "string":
            values = [one for one in _list(kind.get("enum")) if one is not None]
            of_values = literal(values) if all(map(_is_written, values)) else ""
            return of_values or {"date-time": "datetime", "date": "date"}.get(str(kind.get("format")), "str")
        if found == "array" and _type(self.api.found(kind.get("items"))) == "string":
            return "list[str]"
        return {"integer": "int", "number": "float", "boolean": "bool"}.get(found, "Json")

    def _changed(self, fields: Sequence[ProposedField]) -> str:
        if self.wanted.changed:
            named = [one.name for one in fields if self.wanted.changed in (one.name, one.source)]
            if not named:
                raise UnknownName("field", self.wanted.changed, [one.source for one in fields])
            return named[0]
        return time_of_change(fields)

    # -- paging ---------------------------------------------------------------------------------

    def _query(self) -> dict[str, Mapping[str, Json]]:
        """The parameters of the address, by plain name."""
        return {
            plain(str(one.get("name"))): one for one in self.listing.parameters if one.get("in") == "query"
        }

    def _since(self) -> str:
        return self.wanted.since or _parameter(SINCE, self._query())

    def _paging(self) -> Paging:
        query, answers = self._query(), dict(self._leaves(self.listing.answer, "", 0))
        words = self._sizes(query, answers)
        if self.listing.has_links:
            return replace(words, style="link")
        cursor, follow = _parameter(CURSOR, query), _first(self._next_words(), answers) or ""
        if cursor and follow:
            return replace(words, style="cursor", parameter=cursor, next=follow)
        if plain(follow) in ADDRESSES:
            parameter = _parameter((*NUMBER, *OFFSET, *CURSOR), query) or "page"
            return replace(words, style="address", next=follow, parameter=parameter)
        if one := _first(NUMBER, query):
            return replace(words, style="page", parameter=str(one["name"]), first=self._least(one))
        if one := _first(OFFSET, query):
            return replace(words, style="offset", parameter=str(one["name"]), first=self._least(one))
        self.notes.append(unpaged_note(words, "was not recognised"))
        return words

    def _sizes(self, query: Mapping[str, Mapping[str, Json]], answers: Mapping[str, str]) -> Paging:
        """How many rows a page has, and where an answer says how many there are in all."""
        size = _first(SIZE, query) or {}
        most = self.api.found(size.get("schema")).get("maximum")
        known = most if isinstance(most, int) and not isinstance(most, bool) and most > 0 else PAGE
        inside = [path for word, path in answers.items() if word.rpartition(".")[2] in TOTAL]
        total = _first(TOTAL, answers) or next(iter(inside), "")
        return Paging(size=_parameter(SIZE, query), rows=min(known, MOST_PAGE), total=total)

    def _least(self, parameter: Mapping[str, Json]) -> int:
        """The number of the first page: 0 when the description says so, else 1."""
        kind = self.api.found(parameter.get("schema"))
        return 0 if kind.get("default", kind.get("minimum", 1)) == 0 else 1

    def _next_words(self) -> Iterator[str]:
        """Where answers have the next cursor, the likeliest first."""
        yield from NEXT
        for outer in WITHIN:
            for word in NEXT:
                yield f"{outer}.{word}"

    def _leaves(self, schema: Json, prefix: str, depth: int) -> Iterator[tuple[str, str]]:
        """The single values of an answer beside its rows: their plain path, and their path."""
        for name, inner in _mapping(_mapping(schema).get("properties")).items():
            path = f"{prefix}{name}"
            if self.listing.items == path or "." in name:
                continue
            kind = self.api.found(inner)
            inside = _mapping(kind.get("properties"))
            if inside and depth < DEPTH and len(inside) <= MANY:
                yield from self._leaves(kind, f"{path}.", depth + 1)
            elif _type(kind) in ("string", "integer", "number", ""):
                yield plain(path), path


# -- small parts --------------------------------------------------------------------------------


def _first(words: Iterable[str], found: Mapping[str, T]) -> T | None:
    """The first of the words that is there, as what it names."""
    return next((found[word] for word in words if word in found), None)


def _parameter(words: Iterable[str], query: Mapping[str, Mapping[str, Json]]) -> str:
    """The parameter that the first of the words names; empty for none."""
    return str((_first(words, query) or {"name": ""})["name"])


def _mapping(data: Json) -> dict[str, Json]:
    return data if isinstance(data, dict) else {}


def _list(data: Json) -> list[Json]:
    return data if isinstance(data, list) else []


def _is_null(schema: Json) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "null"


def _is_written(value: Json) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(value)


def _may_be_null(schema: Mapping[str, Json]) -> bool:
    return isinstance(schema.get("type"), list) and "null" in schema["type"]


def _type(schema: Mapping[str, Json]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kinds = [one for one in kind if one != "null"]
        kind = kinds[0] if len(kinds) == 1 else ""
    if kind is None and isinstance(schema.get("enum"), list):
        kind = "string" if all(isinstance(one, str) for one in schema["enum"]) else ""
    return str(kind or "")


def _is_object(schema: Mapping[str, Json]) -> bool:
    return bool(schema.get("properties")) or _type(schema) == "object"


def _has_id(schema: Mapping[str, Json]) -> bool:
    return any(plain(name) in ("id", "uuid", "guid") for name in _mapping(schema.get("properties")))
