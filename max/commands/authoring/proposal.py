"""A connector that is proposed: its entities, where a service has their rows, and how it is asked.

Rule 1: a proposal has names that Python and Max accept, whatever the service calls things.

Rule 2: what is not known is empty, and ``notes`` says so to the author; nothing is guessed in silence.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ...errors import UsageError
from ...model.entities import RESERVED
from ...model.values import Json

Style: TypeAlias = Literal["none", "cursor", "offset", "page", "link", "address", "relay"]
PAGE = 100  # rows that a page has, where nothing else is known
MOST_FIELDS = 200  # of one entity that are proposed; a table with more is read by no one
LONGEST_NAME, LONGEST_TEXT = 48, 90  # characters

# What a generated file imports or defines: nothing in it may have one of these names.
TAKEN = frozenset(
    """Account Answers API BearerAuth Connector Credential CredentialProvider Entity Env Field GraphQL
    HttpClient Input Installation Json KeyAuth Limit Literal Loader Many PAGE Page PageRequest Ref
    RelayConnection Schema SecretInput Step Store SyncPlan TOKEN Validate Watermark answer check client
    connector dataclass date datetime env follow health initialise list_all operation parameters parent
    partial request require_http rows run_operation seed timedelta""".split()
)


@dataclass(frozen=True)
class ProposedField:
    """A field: its type as it is written, and the dotted path at which a row's data has it."""

    name: str
    type: str
    source: str
    about: str = ""
    empty: bool = True  # whether the data may lack it
    searchable: bool = False

    @property
    def annotation(self) -> str:
        """The type with what it means that the data may lack it."""
        return f"{self.type} | None" if self.empty else self.type


@dataclass(frozen=True)
class Paging:
    """How a listing pages: names of parameters, and dotted paths in the answer."""

    style: Style = "none"
    parameter: str = ""  # that takes the cursor, the offset or the page's number
    next: str = ""  # where the answer has the next cursor or address
    size: str = ""  # the parameter with the number of rows
    rows: int = PAGE  # that are asked for
    first: int = 1  # the number of the first page
    total: str = ""  # where the answer has the number of all rows


def unpaged_note(paging: Paging, why: str) -> str:
    """What an author should know of a listing of one page, where nothing says that there is no other."""
    if paging.size or paging.total:
        return f"how it pages {why}: it reads one page, and fails when the service has more"
    return (
        f"how it pages {why}: it takes one page for everything, so make it page if there can be more:"
        " what is behind that page is not copied, and what moves behind it is removed"
    )


@dataclass(frozen=True)
class ProposedEntity:
    """An entity and the listing that brings it; ``items`` is where the answer has the rows, "" for itself."""

    name: str
    plural: str
    fields: Sequence[ProposedField]
    path: str = ""
    items: str = ""
    key: str = "id"
    number_key: bool = False
    about: str = ""
    paging: Paging = Paging()
    parameters: dict[str, str] = field(default_factory=dict)  # that every request has
    changed: str = ""  # the field that says when a row changed
    since: str = ""  # the parameter that leaves out older rows
    selection: str = ""  # of GraphQL: what is asked of each row

    @property
    def title(self) -> str:
        """The field by which people know a row; empty when none seems to be one."""
        texts = [one.name for one in self.fields if one.type == "str"]
        known = ("name", "title", "label", "subject", "full_name", "display_name", "email", "description")
        ending = [name for name in texts if name.endswith(("_name", "_title"))]
        return next((name for name in known if name in texts), next(iter(ending), ""))

    def found(self, name: str) -> ProposedField | None:
        """The field of this name."""
        return next((one for one in self.fields if one.name == name), None)


@dataclass(frozen=True)
class Auth:
    """How requests authorise: a bearer token, a key in a ``header`` behind a ``prefix``, or nothing."""

    kind: Literal["bearer", "header", "none"] = "bearer"
    header: str = ""
    prefix: str = ""


@dataclass(frozen=True)
class Proposal:
    """A whole connector; ``graphql`` is the path of the endpoint, empty for REST."""

    name: str
    base_url: str
    entities: Sequence[ProposedEntity]
    auth: Auth = Auth()
    graphql: str = ""
    origin: str = ""  # the description's file, for the first lines
    notes: Sequence[str] = ()


# -- names --------------------------------------------------------------------------------------


def snake(text: str) -> str:
    """``createdAt``, ``Created-At`` → ``created_at``; empty when nothing is left."""
    text = re.sub(r"([a-z0-9])([A-Z])|([A-Z])(?=[A-Z][a-z])", r"\1\3_\2", text)
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:LONGEST_NAME].strip("_")


def pascal(text: str) -> str:
    """``line_items`` → ``LineItems``."""
    return "".join(word.capitalize() for word in snake(text).split("_"))


def singular(word: str) -> str:
    """``companies`` → ``company``; a word that seems to be no plural stays."""
    lower = word.lower()
    if lower.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if lower.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    if lower.endswith("s") and not lower.endswith(("ss", "us", "is", "news")):
        return word[:-1]
    return word


def is_free(name: str) -> bool:
    """Whether a generated file may define this name."""
    usable = name.isidentifier() and not keyword.iskeyword(name) and not keyword.issoftkeyword(name)
    return usable and name not in TAKEN and not hasattr(builtins, name)


def entity_name(text: str, taken: Iterable[str]) -> str:
    """A class's name for what the service calls this."""
    name = pascal(text) or "Record"
    name = f"The{name}" if name[0].isdigit() else name
    name = name if is_free(name) and not name.startswith(("Max", "Sqlite")) else f"{name}Record"
    return unique(name, taken)


def plural_name(word: str, entity: str, taken: Iterable[str] = ()) -> str:
    """The name of a listing that nothing else has, for what the service calls it."""
    usable = is_free(word) and word != snake(entity)
    return unique(word if usable else f"all_{word}", taken)


def field_name(text: str, entity: str, taken: Iterable[str]) -> str:
    """A field's name for what the service calls this: what cannot be one begins with the entity's."""
    name, own = snake(text), snake(entity)
    usable = name and not name[0].isdigit() and not keyword.iskeyword(name) and name not in TYPE_NAMES
    if not usable or name in RESERVED or name in ("id", "read"):
        name = f"{own}_{name}".strip("_")
    return unique(name, taken)


TYPE_NAMES = {"date", "datetime", "str", "int", "float", "bool", "list", "dict"}


def unique(name: str, taken: Iterable[str]) -> str:
    """The name, with a number where another has it, in any case."""
    others = {one.lower() for one in taken}
    number, found = 2, name
    while found.lower() in others:
        found, number = f"{name}_{number}" if name.islower() else f"{name}{number}", number + 1
    return found


def one_line(text: Json, most: int = LONGEST_TEXT) -> str:
    """The first sentence of a description, in printable characters; empty when it is no text."""
    if not isinstance(text, str):
        return ""
    text = re.sub(r"<[^<>]*>|[`*]", "", text[:2_000])
    plain = " ".join("".join(one if one.isprintable() else " " for one in text).replace('"', "'").split())
    sentence = re.split(r"(?<=[a-z)'])\.\s", plain, maxsplit=1)[0].rstrip(".")
    return sentence if len(sentence) <= most else f"{sentence[: most - 1].rpartition(' ')[0]}…"


def is_prose(word: str) -> bool:
    """Whether people search for what a field of this name holds."""
    words = {*snake(word).split("_")}
    return bool(words & {"name", "title", "subject", "description", "body", "summary", "text", "content"})


# -- fields -------------------------------------------------------------------------------------

TYPES = {"str", "int", "float", "bool", "datetime", "date", "Json"}
FIELD = re.compile(r"(?P<name>[^:=]+)(?::(?P<type>[^=]+))?(?:=(?P<source>.+))?")


def written_field(text: str, entity: str, taken: Iterable[str]) -> ProposedField:
    """A field from ``name``, ``name:type``, ``name=path`` or ``name:type=path``."""
    found = FIELD.fullmatch(text.strip())
    kind = (found["type"] or "str").strip() if found else ""
    if not found or kind not in TYPES:
        raise UsageError(
            f"{text!r} is not a field",
            hint=f"write NAME, NAME:TYPE or NAME:TYPE=PATH; a TYPE is one of {', '.join(sorted(TYPES))}",
        )
    source = (found["source"] or found["name"]).strip()
    if any(not piece for piece in source.split(".")):
        raise UsageError(f"{text!r}: {source!r} is not a path", hint="such as owner.id")
    return ProposedField(field_name(found["name"], entity, taken), kind, source, searchable=kind == "str")
