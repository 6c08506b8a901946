"""The files of a new connector: the connector, and a fake service to test it against.

They are meant to be read and changed by hand, so each piece of a file below looks as it does there.
"""

from __future__ import annotations

import json
import re
from textwrap import fill

from ...model.values import Json
from .proposal import Proposal, ProposedEntity, ProposedField, Style, pascal, singular, snake

ROOT = "Account"  # the entity that holds everything which the credential sees
ROWS = 7  # that a listing of the fake has, in pages of 3
TOKEN = "a-long-token"  # noqa: S105  # that the fake accepts

ALWAYS = """Answers Connector CredentialProvider Entity Env Field HttpClient Input Installation
    Json Limit Loader Many Page PageRequest Ref Schema Step Store SyncPlan Validate operation require_http
    run_operation""".split()


def quoted(text: str) -> str:
    """A text as Python writes it, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def connector_file(proposal: Proposal) -> str:
    """The text of ``max_NAME.py``."""
    parts = [
        "\n".join([_opening(proposal), _imports(proposal), "", _constants(proposal)]),
        _root(proposal),
        *(_entity(one) for one in proposal.entities),
        _config(proposal),
        *(_listing(proposal, one) for one in proposal.entities),
        *_follow(proposal),
        _connecting(proposal),
        _connector(proposal),
    ]
    return "\n\n\n".join(parts) + "\n"


def _opening(proposal: Proposal) -> str:
    listed = ", ".join(one.plural.replace("_", " ") for one in proposal.entities)
    began = f" from {proposal.origin}" if proposal.origin else ""
    notes = "".join(f"\n- {note}" for note in proposal.notes)
    to_see = f"\n\nTo be looked at:\n{notes}" if notes else ""
    return (
        f'"""{pascal(proposal.name)}: {listed}, from {proposal.base_url}.\n\n'
        f"`max connector new` began this file{began}; it is yours to change.{to_see}\n"
        '"""\n\nfrom __future__ import annotations\n'
    ).replace("\\", "/")


def _imports(proposal: Proposal) -> str:
    names = _names(proposal)
    types = " ".join(one.type for entity in proposal.entities for one in entity.fields)
    dates = [name for name in ("date", "datetime") if re.search(rf"\b{name}\b", types)]
    dates += ["timedelta"] if "Watermark" in names else []
    lines = ["from dataclasses import dataclass"]
    lines += [f"from datetime import {', '.join(dates)}"] if dates else []
    lines += ["from functools import partial"]
    lines += ["from typing import Literal"] if "Literal[" in types else []
    listed = "".join(f"    {name},\n" for name in sorted(names, key=lambda n: (n[0].islower(), n)))
    return "\n".join(lines) + f"\n\nfrom max.connecting import (\n{listed})"


def _names(proposal: Proposal) -> set[str]:
    """What the connector uses of Max."""
    kind = proposal.auth.kind
    names = {*ALWAYS, *({"Credential", "SecretInput"} if kind != "none" else ())}
    names |= {"bearer": {"BearerAuth"}, "header": {"KeyAuth"}, "none": set()}[kind]
    names |= {"GraphQL", "RelayConnection"} if proposal.graphql else set()
    return names | ({"Watermark"} if any(map(_has_watermark, proposal.entities)) else set())


def _constants(proposal: Proposal) -> str:
    lines = [] if proposal.auth.kind == "none" else ['TOKEN = Credential("token")']
    lines += [f'API = Limit("{proposal.name}:api", concurrency=8)  # add calls= and per= when you know them']
    sizes = _page_sizes(proposal)
    lines += [f"PAGE = {sizes.pop()}  # rows that a request asks for"] if len(sizes) == 1 else []
    return "\n".join(lines)


def _page_sizes(proposal: Proposal) -> set[int]:
    """How many rows requests ask for; one number becomes the constant PAGE."""
    return {one.paging.rows for one in proposal.entities if one.paging.size}


def _size(proposal: Proposal, entity: ProposedEntity) -> str:
    """How many rows a request asks for, as an expression."""
    return "PAGE" if len(_page_sizes(proposal)) == 1 else str(entity.paging.rows)


def _root(proposal: Proposal) -> str:
    many = "".join(
        f"    {one.plural}: Many[{one.name}] = Many({quoted('all ' + one.plural.replace('_', ' '))})\n"
        for one in proposal.entities
    )
    return f'class {ROOT}(Entity):\n    """Everything that the credential sees."""\n\n{many}'.rstrip()


def _entity(entity: ProposedEntity) -> str:
    words = "".join(
        [
            f", title={quoted(entity.title)}" if entity.title else "",
            f", key={quoted(entity.key)}" if entity.key != "id" else "",
        ]
    )
    about = entity.about or f"One of {entity.plural.replace('_', ' ')}"
    about = about.replace("\\", "/")
    lines = [f"class {entity.name}(Entity{words}):", f'    """{about}."""', ""]
    return "\n".join([*lines, *(_field(one) for one in entity.fields)]).rstrip()


def _field(one: ProposedField) -> str:
    about = one.about or one.name.replace("_", " ")
    words = [quoted(about)]
    words += [f"source={quoted(one.source)}"] if one.source != one.name else []
    words += ["searchable=True"] if one.searchable else []
    line = f"    {one.name}: Field[{one.annotation}] = Field({', '.join(words)})"
    if len(line) <= 88:
        return line
    inside = "".join(f"        {word},\n" for word in words)
    return f"    {one.name}: Field[{one.annotation}] = Field(\n{inside}    )"


def _config(proposal: Proposal) -> str:
    return (
        f"@dataclass(frozen=True)\nclass {pascal(proposal.name)}Config:\n"
        f'    """Where the service is."""\n\n    base_url: str = {quoted(proposal.base_url)}'
    )


# -- listings -----------------------------------------------------------------------------------


def _has_watermark(entity: ProposedEntity) -> bool:
    return bool(entity.since and entity.changed)


def operation_of(entity: ProposedEntity) -> str:
    """The name of the function that requests a page."""
    return f"list_{entity.plural}"


def _listing(proposal: Proposal, entity: ProposedEntity) -> str:
    make = _graphql_listing if proposal.graphql else _rest_listing
    return make(proposal, entity)


def _decorator(entity: ProposedEntity) -> str:
    if not _has_watermark(entity):
        return f"@Loader.collection({ROOT}.{entity.plural}, brings={entity.name})"
    return (
        f"@Loader.collection(\n    {ROOT}.{entity.plural},\n    brings={entity.name},\n"
        f"    watermark=Watermark({entity.name}.{entity.changed}, overlap=timedelta(minutes=5)),\n"
        "    sweep=timedelta(days=1),  # what was removed is seen by listing everything\n)"
    )


def _signature(entity: ProposedEntity) -> str:
    return (
        f"async def {entity.plural}(\n    parent: Ref[{ROOT}], request: PageRequest, env: Env[HttpClient]\n"
        f") -> Page[{entity.name}]:"
    )


def _rest_listing(proposal: Proposal, entity: ProposedEntity) -> str:
    paging, thing = entity.paging, singular(entity.plural)
    called = f"{operation_of(entity)}(client: HttpClient, parameters: dict[str, str]) -> Json"
    does = _request(paging.style, f"{quoted(entity.path)}, params=parameters")
    body = [
        _docstring(entity),
        *_parameters(proposal, entity),
        *_asking(entity),
        *_page_lines(proposal, entity),
    ]
    return (
        f'@operation("{proposal.name}:{thing}:list", limit=API)\nasync def {called}:\n'
        f'    """A page of {entity.plural.replace("_", " ")}."""\n{does}\n\n\n'
        f"{_decorator(entity)}\n{_signature(entity)}\n" + "\n".join(f"    {line}" for line in body)
    )


def _docstring(entity: ProposedEntity) -> str:
    return f'"""A page of {entity.plural.replace("_", " ")}, as rows."""'


def _parameters(proposal: Proposal, entity: ProposedEntity) -> list[str]:
    """The lines that make the parameters of a request."""
    paging = entity.paging
    given = {name: quoted(value) for name, value in entity.parameters.items()}
    given |= {paging.size: f"str({_size(proposal, entity)})"} if paging.size else {}
    lines = []
    if paging.style == "page":
        lines += [f"number = int(request.cursor or {paging.first})"]
        given[paging.parameter] = "str(number)"
    elif paging.style == "offset":
        lines += ["start = int(request.cursor or 0)"]
        given[paging.parameter] = "str(start)"
    inside = ", ".join(f"{quoted(name)}: {value}" for name, value in given.items())
    kind = "" if given else ": dict[str, str]"
    lines += [f"parameters{kind} = {{{inside}}}"]
    if paging.style == "cursor":
        lines += [
            "if request.cursor is not None:",
            f"    parameters[{quoted(paging.parameter)}] = request.cursor",
        ]
    if _has_watermark(entity):
        lines += [
            "if request.since is not None and not request.ids_only:",
            f"    parameters[{quoted(entity.since)}] = " + 'request.since.strftime("%Y-%m-%dT%H:%M:%SZ")',
        ]
    return lines


def _asking(entity: ProposedEntity) -> list[str]:
    """The lines that request a page."""
    name, style = operation_of(entity), entity.paging.style
    if style not in ("link", "address"):
        return [f"answer = await env.run({name}, parameters)"]
    return [
        "if request.cursor is None:",
        f"    answer = await env.run({name}, parameters)",
        "else:",
        f"    answer = await env.run(follow_{style}, request.cursor)",
    ]


def _page_lines(proposal: Proposal, entity: ProposedEntity) -> list[str]:
    """The lines that make rows of an answer."""
    paging, top = entity.paging, "answer"
    if paging.style == "link":
        top = 'answer["answer"]'
    rows, more = f"{top}{_keys(entity.items)}", ""
    total = f", total={top}{_keys(paging.total)}" if paging.total else ""
    lines = []
    if paging.style in ("cursor", "address"):
        more = f", next={_maybe(top, paging.next)} or None"
    elif paging.style == "link":
        more = ', next=answer["next"]'
    elif paging.style in ("page", "offset"):
        lines = [f"rows = {rows}"]
        rows = "rows"
        following = "number + 1" if paging.style == "page" else "start + len(rows)"
        lines += [f"following = str({following}) if rows else None  # the page behind the last one is empty"]
        more = ", next=following"
    elif paging.size:  # a full page may not be everything: with its size it fails
        more = f", size={_size(proposal, entity)}"
    line = f"return Page.read({entity.name}, {rows}{more}{total})"
    if len(line) <= 84:
        return [*lines, line]
    words = f"{rows}{more}{total}".split(", ")
    return [*lines, f"return Page.read(\n        {entity.name},", *(f"    {word}," for word in words), ")"]


def _keys(path: str) -> str:
    return "".join(f"[{quoted(key)}]" for key in path.split(".") if key)


def _maybe(value: str, path: str) -> str:
    """An expression for a value that the answer may lack, as may the objects around it."""
    *above, last = path.split(".")
    for key in above:
        value = f"({value}.get({quoted(key)}) or {{}})"
    return f"{value}.get({quoted(last)})"


def _graphql_listing(proposal: Proposal, entity: ProposedEntity) -> str:
    name, thing, field = operation_of(entity), singular(entity.plural), entity.path
    constant = entity.plural.upper()
    return f'''{constant} = """
query {field}($first: Int, $after: String) {{
  {field}(first: $first, after: $after) {{
    nodes {{
{fill(entity.selection, 80, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False)}
    }}
    pageInfo {{ hasNextPage endCursor }}
  }}
}}
"""


@operation("{proposal.name}:{thing}:list", limit=API)
async def {name}(client: HttpClient, after: str | None) -> Json:
    """A page of {entity.plural.replace("_", " ")}."""
    api = GraphQL(client, {quoted(proposal.graphql)})
    return await api.query({constant}, {{"first": {entity.paging.rows}, "after": after}})


{_decorator(entity)}
{_signature(entity)}
    {_docstring(entity)}
    answer = RelayConnection.of(await env.run({name}, request.cursor), {quoted(field)})
    return Page.read({entity.name}, answer.nodes, next=answer.next)'''


def _follow(proposal: Proposal) -> list[str]:
    """The operations that request a page at an address from the page before."""
    return [
        f'''@operation("{proposal.name}:page:{style}", limit=API)
async def follow_{style}(client: HttpClient, address: str) -> Json:
    """The page at an address that the page before gave."""
{_request(style, "address")}'''
        for style in _followed(proposal)
    ]


def _followed(proposal: Proposal) -> list[Style]:
    """The ways of paging in which an answer has the address of the next page."""
    return sorted({one.paging.style for one in proposal.entities} & {"link", "address"})


def _request(style: Style, arguments: str) -> str:
    """The lines of an operation that requests a page; with links, its answer has the next address too."""
    if style != "link":
        return f"    return await client.get({arguments})"
    return (
        f'    response = await client.request("GET", {arguments})\n'
        '    return {"answer": response.json(), "next": response.link()}'
    )


# -- connecting ---------------------------------------------------------------------------------


def _auth(proposal: Proposal) -> str:
    auth = proposal.auth
    words = "".join(
        [
            f", header={quoted(auth.header)}" if auth.header else "",
            f", prefix={quoted(auth.prefix)}" if auth.prefix else "",
        ]
    )
    kind = "KeyAuth" if auth.kind == "header" else "BearerAuth"
    return f"{kind}(await credentials.get(TOKEN){words})"


def _connecting(proposal: Proposal) -> str:
    first, config = proposal.entities[0], f"{pascal(proposal.name)}Config"
    steps = [f"step.load_collection({ROOT}.{one.plural})" for one in proposal.entities]
    plan = f"[{steps[0]}]" if len(steps) == 1 else f"[Step.concurrent([{', '.join(steps)}])]"
    if len(plan) > 70:
        inside = "".join(f"        {one},\n" for one in steps)
        plan = f"[\n        Step.concurrent([\n{inside}        ])\n    ]".replace(
            "\n        step", "\n            step"
        )
    probe = "None" if proposal.graphql else _probe(first)
    client = "HttpClient(config.base_url, credentials)"
    if proposal.auth.kind != "none":
        client = f"HttpClient(\n        config.base_url, credentials, auth={_auth(proposal)}\n    )"
    return f'''async def seed(client: HttpClient, store: Store) -> SyncPlan:
    """One row for the account, below which everything is listed."""
    account = {ROOT}("account")
    await store.store(account)
    step = Step.for_root(Ref.of(account))
    return SyncPlan({plan})


async def health(client: HttpClient) -> str:
    """Whether the service answers with what this connector reads."""
    await run_operation({operation_of(first)}, client, {probe})
    return f"{{client.base_url}} answers"


async def initialise(
    config: {config}, credentials: CredentialProvider
) -> Installation[HttpClient]:
    """A client of the service."""
    client = {client}
    return Installation(client, stop=client.stop, health=partial(health, client))


async def check(answers: Answers, credentials: CredentialProvider) -> str:
    """Try the answers before they are stored."""
    installation = await initialise({config}(answers["base_url"]), credentials)
    try:
        return await health(installation.context)
    finally:
        await installation.context.stop()'''


def _probe(entity: ProposedEntity) -> str:
    given = {name: quoted(value) for name, value in entity.parameters.items()}
    given |= {entity.paging.size: '"1"'} if entity.paging.size else {}
    return f"{{{', '.join(f'{quoted(name)}: {value}' for name, value in given.items())}}}"


def _connector(proposal: Proposal) -> str:
    entities = ", ".join([ROOT, *(one.name for one in proposal.entities)])
    loaders = ", ".join(one.plural for one in proposal.entities)
    follows = [f"follow_{style}" for style in _followed(proposal)]
    operations = ", ".join([*map(operation_of, proposal.entities), *follows])
    secret = proposal.auth.kind != "none"
    asks = ['Input("base_url", "Address of the service")']
    asks += ['SecretInput(TOKEN, "Token of the service")'] if secret else []
    lines = [
        f"name={quoted(proposal.name)},",
        f"description={quoted(f'The data of {pascal(proposal.name)}.')},",
        f"schema=Schema([{entities}], roots=[{ROOT}]),",
        f"loaders=[{loaders}],",
        "seeder=seed,",
        "initialise=initialise,",
        f"config={pascal(proposal.name)}Config,",
        *(["credentials=[TOKEN],"] if secret else []),
        f"onboarding=[{', '.join([*asks, 'Validate(check)'])}],",
        f"operations=[{operations}],",
        "requires=[require_http],",
        'hosts=["{base_url}"],',
    ]
    return "connector = Connector(\n" + "\n".join(_wrapped(line) for line in lines) + "\n)"


def _wrapped(line: str) -> str:
    """A line of arguments, its list on lines of its own when it is too long."""
    if len(line) <= 84 or "[" not in line:
        return f"    {line}"
    before, _, inside = line.partition("[")
    inside, _, after = inside.partition("]")
    return "\n".join([f"    {before}[", *(f"        {one}," for one in _split(inside)), f"    ]{after}"])


def _split(text: str) -> list[str]:
    """The items of a list, without the commas inside of calls."""
    return [one.strip() for one in re.findall(r"(?:[^,(]|\([^)]*\))+", text)]


# -- the fake -----------------------------------------------------------------------------------


def fake_file(proposal: Proposal) -> str:
    """The text of ``fake_NAME.py``: it has rows as the service sends them, seven of each kind."""
    dialects = {one.plural: _dialect(one) for one in proposal.entities}
    names = sorted({text.partition("(")[0] for text in dialects.values() if text})
    imports = ", ".join(sorted([*names, "Fake", "ScriptedUpstream"]))
    makers = "\n\n\n".join(_maker(one) for one in proposal.entities)
    rows = "\n".join(
        f"    {one.plural} = [{_maker_name(one)}(n) for n in range(1, {ROWS + 1})]"
        for one in proposal.entities
    )
    secret = f' credentials={{"token": {quoted(TOKEN)}}},' if proposal.auth.kind != "none" else ""
    first = proposal.entities[0]
    change = _change(first)
    edits = f"    def change() -> None:\n{change}\n\n" if change else ""
    return f'''"""A service for the tests of max_{proposal.name}.py.

Its rows have the form of the real ones; make them as odd as those are.
"""

from typing import Any

{_from_max(imports)}


{makers}


def fake() -> Fake:
    """The service, with pages of three rows, and what the tests do to its data."""
{rows}
    service = ScriptedUpstream(
{_service(proposal, dialects)}    )

{edits}    def remove() -> None:
        del {first.plural}[0]

    return Fake(
        service,{secret}{" change=change," if change else ""} remove=remove
    )
'''


def _service(proposal: Proposal, dialects: dict[str, str]) -> str:
    """The lines that say what the fake has, and how its listings page."""
    paged = [one for one in proposal.entities if dialects[one.plural]]
    whole = [one for one in proposal.entities if not dialects[one.plural]]
    words = [
        _entries({one.path: one.plural for one in paged}),
        "page_size=3",
        f"dialects={_entries({one.path: dialects[one.plural] for one in paged})}" if paged else "",
        f"routes={_entries({f'GET {one.path}': _whole(one) for one in whole})}" if whole else "",
        f"token={quoted(TOKEN)}" if proposal.auth.kind == "bearer" else "",
    ]
    return "".join(f"        {word},\n" for word in words if word)


def _entries(values: dict[str, str]) -> str:
    """A dict on lines of its own."""
    lines = "".join(f"            {quoted(key)}: {value},\n" for key, value in values.items())
    return f"{{\n{lines}        }}" if lines else "{}"


def _from_max(imports: str) -> str:
    return f"from max.testing import {imports}"


def _maker_name(entity: ProposedEntity) -> str:
    return f"one_{snake(entity.name)}"


def _maker(entity: ProposedEntity) -> str:
    values = {entity.key: "n" if entity.number_key else 'f"{n}"'}
    for one in entity.fields:
        values.setdefault(one.source, _example(one))
    lines = "".join(f"        {quoted(key)}: {_literal(value)},\n" for key, value in _nested(values).items())
    what = snake(entity.name).replace("_", " ")
    opening = f'def {_maker_name(entity)}(n: int) -> dict[str, Any]:\n    """The {what} number n."""\n'
    return f"{opening}    return {{\n{lines}    }}"


def _nested(values: dict[str, str]) -> dict[str, Json]:
    """Expressions by dotted path, as objects in objects."""
    made: dict[str, Json] = {}
    for path, value in values.items():
        *above, last = path.split(".")
        inner: Json = made
        for key in above:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                break
        if isinstance(inner, dict):
            inner.setdefault(last, value)
    return made


def _literal(value: Json) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{quoted(key)}: {_literal(one)}' for key, one in value.items())}}}"
    return str(value)


def _example(one: ProposedField) -> str:
    """An expression for the field's value in the row number n."""
    if one.type.startswith("Literal["):
        return one.type.removeprefix("Literal[").partition('",')[0].rstrip('"]') + '"'
    words = one.name.replace("_", " ").capitalize()
    if one.type.startswith("Ref["):
        return 'f"{n}"'
    return {
        "str": f'f"{words} {{n}}"',
        "int": "n",
        "float": "n + 0.5",
        "bool": "n % 2 == 0",
        "datetime": 'f"2026-01-0{n}T10:00:00Z"',
        "date": 'f"2026-01-0{n}"',
        "list[str]": f'[f"{words} {{n}}"]',
    }.get(one.type, '{"number": n}')


def _change(entity: ProposedEntity) -> str:
    """The lines that edit a row; empty when a row has nothing to edit."""
    kinds = {
        "str": '"Edited"',
        "int": "99",
        "float": "99.5",
        "bool": "True",
        "datetime": '"2026-02-01T10:00:00Z"',
    }
    ranked = sorted(
        entity.fields,
        key=lambda one: (one.name != entity.title, list(kinds).index(one.type) if one.type in kinds else 9),
    )
    chosen = [one for one in ranked if one.type in kinds and one.source != entity.key][:1]
    if entity.changed and (changed := entity.found(entity.changed)) and changed not in chosen:
        chosen.append(changed)
    return "\n".join(f"        {entity.plural}[2]{_keys(one.source)} = {kinds[one.type]}" for one in chosen)


def _whole(entity: ProposedEntity) -> str:
    """The function that answers for a listing without pages."""
    text = f"list({entity.plural})"
    for key in reversed([key for key in entity.items.split(".") if key]):
        text = f"{{{quoted(key)}: {text}}}"
    return f"lambda request: {text}"


def _dialect(entity: ProposedEntity) -> str:
    """How the fake pages; empty when one answer has everything."""
    paging = entity.paging
    field = entity.found(entity.changed)
    since = ""
    if _has_watermark(entity) and field is not None and "." not in field.source:
        since = f", since={{{quoted(entity.since)}: {quoted(field.source)}}}"
    items, total = f"items={quoted(entity.items)}", f"total={quoted(paging.total)}"
    parameter = quoted(paging.parameter or "page")
    return {
        "none": "",
        "cursor": f'Cursors(cursor={parameter}, limit="", {items}, next={quoted(paging.next)}, {total},'
        f' ends="missing"{since})',
        "address": f'Cursors(cursor={parameter}, limit="", {items}, next={quoted(paging.next)}, {total},'
        f" as_address=True{since})",
        "offset": f'Offsets(offset={parameter}, limit="", {items}, {total}{since})',
        "page": f'Pages(page={parameter}, limit="", first={paging.first}, {items}, {total}{since})',
        "link": f'Pages(page={parameter}, limit="", {items}, {total}, links=True{since})',
        "relay": "Relay()",
    }[paging.style]
