"""``max connector new`` and ``check``: what is written loads, has types and syncs; what is wrong is said."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from max.commands.authoring.check import types_of
from tests.command_line import Cli, Run
from tests.hubspot_fake import APIS, why_not

HUBSPOT = APIS / "specs" / "hubspot" / "openapi.json"
LINEAR = APIS / "specs" / "linear" / "schema.graphql"
ANSWERS = ("--url", "https://api.example.com", "--list", "/tasks", "--field", "title")
ROW = {
    "type": "object",
    "required": ["id", "title", "updated_at"],
    "properties": {
        "id": {"type": "integer"},
        "title": {"type": "string", "description": "What to do. Seldom long."},
        "state": {"type": "string", "enum": ["open", "done"]},
        "class": {"type": "string", "nullable": True},
        "updated_at": {"type": "string", "format": "date-time"},
        "due": {"type": ["string", "null"], "format": "date"},
        "owner": {"$ref": "#/components/schemas/Person"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "price": {"type": "number"},
    },
}
PERSON = {"type": "object", "properties": {"id": {"type": "string"}, "fullName": {"type": "string"}}}


def parameter(name: str, **schema: Any) -> dict[str, Any]:
    """A parameter of the address."""
    return {"name": name, "in": "query", "schema": {"type": "string", **schema}}


def described(
    answer: Any, *parameters: dict[str, Any], path: str = "/tasks", headers: Any = None, **more: Any
) -> dict[str, Any]:
    """A description with one list, whose rows are ``#/components/schemas/Task``."""
    response = {"content": {"application/json": {"schema": answer}}, "headers": headers or {}}
    get = {"parameters": list(parameters), "responses": {"200": response}}
    return {
        "openapi": "3.0.3",
        "servers": [{"url": "https://api.example.com/v2"}],
        "paths": {path: {"get": get}},
        "components": {
            "schemas": {"Task": ROW, "Person": PERSON},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        **more,
    }


ROWS = {"type": "array", "items": {"$ref": "#/components/schemas/Task"}}


def answer(**properties: Any) -> dict[str, Any]:
    """An object with rows in it."""
    return {"type": "object", "properties": properties}


TEXT, COUNT = {"type": "string"}, {"type": "integer"}
ADDRESS = {"type": "string", "format": "uri"}
DIALECTS: dict[str, tuple[dict[str, Any], str]] = {  # a description, and the paging that it means
    "cursor": (
        described(answer(items=ROWS, next_cursor=TEXT), parameter("cursor"), parameter("limit", maximum=50)),
        "cursor",
    ),
    "google": (
        described(answer(files=ROWS, nextPageToken=TEXT), parameter("pageToken"), parameter("pageSize")),
        "cursor",
    ),
    "nested": (
        described(
            answer(results=ROWS, paging=answer(next=answer(after=TEXT, link=TEXT))),
            parameter("after"),
            parameter("limit"),
        ),
        "cursor",
    ),
    "pages": (described(answer(data=ROWS, total=COUNT), parameter("page"), parameter("per_page")), "page"),
    "offsets": (described(answer(data=ROWS), parameter("offset"), parameter("limit")), "offset"),
    "link": (described(ROWS, parameter("page"), parameter("per_page"), headers={"Link": {}}), "link"),
    "address": (
        described(
            answer(count=COUNT, next={"type": "string", "format": "uri"}, results=ROWS), parameter("page")
        ),
        "address",
    ),
    "none": (described(ROWS), "none"),
    "limited": (described(ROWS, parameter("limit", maximum=50)), "none"),
    "since": (
        described(answer(items=ROWS, next_cursor=TEXT), parameter("cursor"), parameter("updated_since")),
        "cursor",
    ),
}

New = Callable[..., Run]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Connectors of other tests that have the same names are not imported any more."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("max_", "fake_")) and not name.startswith("max_connectors"):
            del sys.modules[name]


@pytest.fixture
def new(cli: Cli, tmp_path: Path) -> New:
    """Makes the connector ``tasks`` of a description."""

    def run(description: Any, *words: str, kind: str = "openapi", name: str = "tasks") -> Run:
        file = tmp_path / "description.json"
        file.write_text(description if isinstance(description, str) else json.dumps(description))
        return cli("connector", "new", name, f"--{kind}", str(file), *words)

    return run


def written(name: str = "tasks") -> str:
    """The text of the connector."""
    return Path(f"connectors/max_{name}.py").read_text()


def tried(cli: Cli, name: str = "tasks", only: str = "unchanged,change,removal") -> None:
    """Assert that the connector has no problem, and passes checks against its own fake."""
    checked = cli("connector", "check", f"connectors/max_{name}.py", "--no-types", "-o", "json")
    assert checked.status == 0, checked
    run = cli("connector", "test", f"connectors/max_{name}.py", "--only", only, "-o", "json")
    assert {row["outcome"] for row in run.data["data"]} == {"pass"}, run.out


# -- new from a description -------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_described_service_becomes_a_connector_that_syncs_from_its_own_fake(
    cli: Cli, new: New, dialect: str
) -> None:
    description, style = DIALECTS[dialect]
    run = new(description, "--list", "tasks", "-o", "json")
    assert (run.status, run.data["entities"][0]["paging"]) == (0, style), run
    tried(cli)


def test_what_is_written_has_types_and_is_clean(cli: Cli, new: New) -> None:
    """One run of mypy and ruff over a connector of every way of paging, and over its fakes."""
    for name, (description, _) in DIALECTS.items():
        assert new(description, "--list", "tasks", name=f"t_{name}").status == 0
    assert cli("connector", "new", "plain", *ANSWERS).status == 0
    files = sorted(map(str, Path("connectors").glob("*.py")))
    root = Path(__file__).parents[2]
    cache = ("--cache-dir", str(Path(os.environ["MAX_HOME"]) / "mypy"))
    environment = {"MYPYPATH": str(root), "PATH": ""}
    command = [sys.executable, "-m", "mypy", "--strict", *cache, "--follow-imports", "silent", *files]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.stdout.startswith("Success"), run.stdout
    ruff = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", *files], capture_output=True, text=True
    )
    assert ruff.returncode == 0, ruff.stdout


def test_fields_have_types_sources_and_descriptions(new: New) -> None:
    assert new(DIALECTS["cursor"][0], "--list", "/tasks").status == 0
    text = written()
    for line in (
        'class Task(Entity, title="title"):',
        'title: Field[str] = Field("What to do", searchable=True)',
        'state: Field[Literal["open", "done"] | None] = Field("state")',
        'task_class: Field[str | None] = Field("task class", source="class")',
        'updated_at: Field[datetime] = Field("updated at")',
        'due: Field[date | None] = Field("due")',
        'owner_id: Field[str | None] = Field("owner id", source="owner.id")',
        'tags: Field[list[str] | None] = Field("tags")',
        'price: Field[float | None] = Field("price")',
        'base_url: str = "https://api.example.com/v2"',
        "PAGE = 50  # rows that a request asks for",
    ):
        assert f"\n    {line}\n" in text or f"\n{line}\n" in text, line


def test_a_parameter_for_changes_becomes_a_watermark_with_a_sweep(new: New) -> None:
    assert new(DIALECTS["since"][0], "--list", "tasks").status == 0
    assert "watermark=Watermark(Task.updated_at, overlap=timedelta(minutes=5))" in written()
    assert 'parameters["updated_since"] = request.since.strftime("%Y-%m-%dT%H:%M:%SZ")' in written()


def test_a_list_whose_paging_is_unknown_says_so_to_the_author(new: New) -> None:
    run = new(DIALECTS["none"][0], "--list", "tasks")
    assert "- Task: how it pages was not recognised" in run.out
    note = written().partition('"""\n\nfrom')[0]
    assert "how it pages was not recognised: it takes one page for everything" in note
    assert "what moves behind it is removed" in note


def test_a_list_whose_paging_was_not_said_has_a_note(cli: Cli) -> None:
    assert (
        "- Task: how it pages was not said: it takes one page" in cli("connector", "new", "a", *ANSWERS).out
    )
    sized = cli("connector", "new", "b", *ANSWERS, "--page-size", "limit=50")
    assert "- Task: how it pages was not said: it reads one page, and fails" in sized.out
    assert "was not said" not in cli("connector", "new", "c", *ANSWERS, "--paging", "none").out


def test_a_full_page_is_not_taken_for_everything_where_paging_is_unknown(cli: Cli, new: New) -> None:
    limited = described(ROWS, parameter("limit", maximum=7))  # the fake has seven rows
    assert "it reads one page, and fails when the service has more" in new(limited, "--list", "tasks").out
    run = cli("connector", "test", "connectors/max_tasks.py", "--only", "unchanged", "-o", "json")
    assert (run.status, "the last page is full (7 items)" in run.out) == (1, True), run


def test_a_connector_of_the_project_is_tried_by_its_name_against_the_fake_beside_its_file(
    cli: Cli, new: New
) -> None:
    assert cli("init").status == 0
    assert new(described(ROWS), "--list", "tasks").status == 0
    run = cli("connector", "test", "tasks", "--only", "unchanged")
    assert (run.status, "2 passed" in run.out + run.err) == (0, True), run


def test_the_lists_are_named_when_none_is_chosen(new: New) -> None:
    run = new(DIALECTS["link"][0])
    assert (run.status, "which lists of" in run.err, "--list /tasks" in run.err) == (2, True, True)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ({"type": "http", "scheme": "bearer"}, "auth=BearerAuth(await credentials.get(TOKEN))"),
        (
            {"type": "apiKey", "in": "header", "name": "X-Key"},
            'auth=KeyAuth(await credentials.get(TOKEN), header="x-key")',
        ),
        ({"type": "http", "scheme": "basic"}, 'header="authorization", prefix="Basic ")'),
        (
            {"type": "apiKey", "in": "query", "name": "key"},
            "client = HttpClient(config.base_url, credentials)",
        ),
    ],
)
def test_each_way_to_authorise_is_written(cli: Cli, new: New, kind: Any, expected: str) -> None:
    description = described(ROWS, components={"schemas": {"Task": ROW}, "securitySchemes": {"one": kind}})
    assert new(description, "--list", "tasks").status == 0
    assert expected in written()
    tried(cli, only="token expiry" if "apiKey" not in str(kind) else "full sync")


# -- descriptions that are wrong, or hostile ---------------------------------------------------------

CIRCLE = {"$ref": "#/components/schemas/A"}
NO_ID = {"type": "array", "items": {"type": "object", "properties": {"colour": TEXT, "made_by": TEXT}}}
WIDE = {"type": "array", "items": answer(id=TEXT, **{f"column {n}": TEXT for n in range(2_000)})}
WORDS = [
    "class",
    "from",
    "id",
    "ID",
    "ref",
    "types",
    "_x",
    "2nd",
    "date",
    "a-b",
    "a b",
    "é",
    "",
    "None",
    "datetime",
]
ODD = {"type": "array", "items": answer(uuid=TEXT, **dict.fromkeys(WORDS, TEXT), to_dict=COUNT)}
CHAIN = {"schemas": {f"L{n}": {"allOf": [{"$ref": f"#/components/schemas/L{n + 1}"}]} for n in range(9_000)}}
DEEP: dict[str, Any] = {"type": "object", "properties": {"leaf": TEXT}}
for _ in range(60):
    DEEP = {"type": "object", "properties": {"inner": DEEP}}


@pytest.mark.parametrize(
    ("description", "words", "hint"),
    [
        ("not json", "is not JSON", "YAML files end in"),
        ("[" * 100_000, "nested too deep", ""),
        ({}, "is not OpenAPI 3", "convert it"),
        ({"swagger": "2.0", "paths": {}}, "is OpenAPI 2.0", "convert it"),
        ({"openapi": "3.0.0"}, "describes no listing", "--list /things"),
        ({"openapi": "3.0.0", "paths": {"/a": None, "/b": {"get": []}}}, "describes no listing", ""),
        (described(CIRCLE, components={"schemas": {"A": CIRCLE}}), "describes no listing", ""),
        (described({"$ref": "other.json#/A"}), "describes no listing", ""),
        (described({"$ref": "#/components/schemas/L0"}, components=CHAIN), "breaks the rules", "validator"),
        (described(NO_ID), "nothing of /tasks looks like the id", "--key FIELD, one of colour, made_by"),
        (described(ROWS, servers=[{"url": "/v2"}]), "names no address", "--url"),
        (
            described(ROWS, {**parameter("account"), "required": True}),
            "needs the parameter account",
            "default",
        ),
        (
            described(ROWS, {"name": "team", "in": "path", "required": True}, path="/{team}/tasks"),
            "lists what is below one team",
            "without {…}",
        ),
    ],
)
def test_what_cannot_become_a_connector_is_refused_in_words(
    new: New, description: Any, words: str, hint: str
) -> None:
    run = new(description, "--list", "tasks")
    assert (run.status, words in run.err, hint in run.err) == (2, True, True), run.err
    assert not Path("connectors").exists()


def test_2000_fields_are_cut_to_what_people_read_and_the_note_says_so(cli: Cli, new: New) -> None:
    run = new(described(WIDE), "--list", "tasks")
    assert "more fields were left out; name some with --field" in run.out
    assert written().count("] = Field(") == 200
    tried(cli, only="full sync")


def test_names_that_python_or_max_keep_for_themselves_get_others(cli: Cli, new: New) -> None:
    assert new(described(ODD), "--list", "tasks").status == 0
    for line in (
        "task_class: Field",
        "task_from: Field",
        "task_id: Field",
        "task_date: Field",
    ):
        assert line in written()
    tried(cli, only="full sync")


@pytest.mark.parametrize(
    "path", ["/pages", "/class", "/lists", "/accounts", "/2020", "/fields", "/news", "/x.json"]
)
def test_lists_may_have_any_names(cli: Cli, new: New, path: str) -> None:
    assert new(described(ROWS, path=path), "--list", path).status == 0
    tried(cli, only="full sync")


def test_rows_that_refer_to_themselves_end(cli: Cli, new: New) -> None:
    node = answer(id=TEXT, parent=CIRCLE, children={"type": "array", "items": CIRCLE}, deep=DEEP)
    loop = {"allOf": [{"$ref": "#/components/schemas/B"}, answer(id=TEXT)]}
    components = {"schemas": {"A": node, "B": loop}}
    for rows in (CIRCLE, {"$ref": "#/components/schemas/B"}):
        run = new(described({"type": "array", "items": rows}, components=components), "--list", "tasks")
        assert run.status == 0, run
        tried(cli, only="full sync")
        for file in Path("connectors").glob("*.py"):
            file.unlink()
        sys.modules.pop("max_tasks", None)
        sys.modules.pop("fake_tasks", None)


def test_parts_that_contain_one_another_many_times_cost_no_more(cli: Cli, new: New) -> None:
    """Put together one by one, these would be 10 to the power of 60 parts, and as many objects."""
    schemas: dict[str, Any] = {
        f"P{n}": {"allOf": [{"$ref": f"#/components/schemas/P{n + 1}"}] * 10} for n in range(60)
    }
    schemas["P60"] = answer(id=TEXT, title=TEXT)
    own = {f"a{n}": {"$ref": "#/components/schemas/Wide"} for n in range(1_000)}
    schemas["Wide"] = answer(**own)
    schemas["Self"] = {"allOf": [{"$ref": "#/components/schemas/Self"}] * 10, **answer(id=TEXT)}
    rows = {"type": "array", "items": {"$ref": "#/components/schemas/P0"}}
    wide = {"$ref": "#/components/schemas/Wide"}
    description = described(answer(items=rows, info=wide), components={"schemas": schemas})
    assert new(description, "--list", "tasks").status == 0
    assert 'title: Field[str | None] = Field("title", searchable=True)' in written()
    tried(cli, only="full sync")
    own_parts = {"type": "array", "items": {"$ref": "#/components/schemas/Self"}}
    assert (
        new(described(own_parts, components={"schemas": schemas}), "--list", "tasks", name="own").status == 0
    )


def test_a_description_says_nothing_that_runs(cli: Cli, new: New) -> None:
    evil = '"""; import os; os.mkdir("ran"); """ \\" {1/0} \n\u202e'
    row = answer(id=TEXT, title={**TEXT, "description": evil}, **{'a"b\\': TEXT, "x\ny": TEXT})
    description = described({"type": "array", "items": {**row, "description": evil}})
    description["paths"]["/tasks"]["get"]["summary"] = evil
    assert new(description, "--list", "tasks").status == 0
    tried(cli, only="full sync")
    assert not Path("ran").exists()
    assert "\u202e" not in written()


# -- new from answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--paging", "cursor:after:paging.next.after", "--items", "results", "--page-size", "limit=50"),
        ("--paging", "page:page", "--items", "data", "--changed", "updated_at", "--since", "since"),
        ("--paging", "offset:skip", "--key", "uuid", "--entity", "ToDo"),
        ("--paging", "link", "--auth", "header:X-Api-Key"),
        ("--paging", "address:links.next", "--items", "data", "--auth", "none"),
    ],
)
def test_answers_become_a_connector_that_syncs_from_its_own_fake(cli: Cli, words: tuple[str, ...]) -> None:
    run = cli("connector", "new", "plain", *ANSWERS, "--field", "size:int=meta.size", *words)
    assert (run.status, run.err.splitlines()[0]) == (0, "next: max connector check connectors/max_plain.py")
    tried(cli, "plain")


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        ("new Bad", "'Bad' is not a valid connector name", "lower-case"),
        ("new max_x", "not a valid connector name", "not with max_"),
        ("new x", "address of the service?", "--url https://api.example.com"),
        ("new x --url example", "'example' is not an address", "such as"),
        ("new x --url https://h", "path of a list?", "--list /items"),
        ("new x --url https://h --list tasks", "'tasks' is not the path of a list", "begins with a slash"),
        ("new x --url https://h --list /a --paging pages", "'pages' is no way to page", "one of none, link"),
        ("new x --url https://h --list /a --page-size 50", "'50' is no page size", "limit=100"),
        ("new x --url https://h --list /a --auth magic", "'magic' is no way to authorise", "one of bearer"),
        ("new x --url https://h --list /a --field a:text", "'a:text' is not a field", "NAME:TYPE"),
        ("new x --url https://h --list /a --since s", "needs to know when a row changed", "--changed"),
        ("new x --openapi none.json", "there is no file none.json", "description"),
        ("new x --graphql a --openapi b", "cannot be combined", "--help"),
    ],
)
def test_answers_that_make_no_sense_are_refused_in_words(cli: Cli, words: str, said: str, hint: str) -> None:
    run = cli("connector", *words.split())
    assert (run.status, said in run.err, hint in run.err) == (2, True, True), run.err
    assert not Path("connectors").exists()


@pytest.mark.parametrize("there", ["max_plain.py", "fake_plain.py"])
def test_no_file_is_ever_overwritten(cli: Cli, there: str) -> None:
    Path("connectors").mkdir()
    (Path("connectors") / there).write_text("mine")
    run = cli("connector", "new", "plain", *ANSWERS)
    assert (run.status, "is there already, and is never overwritten" in run.err) == (2, True)
    assert [(one.name, one.read_text()) for one in Path("connectors").iterdir()] == [(there, "mine")]


def test_at_a_terminal_what_is_not_given_is_asked(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    lines = "https://api.example.com\n\n/tasks\ndata\npage:page\n\ntitle\nsize:int\n\nupdated_at\n"
    monkeypatch.setattr(sys, "stdin", typed := io.StringIO(lines))
    monkeypatch.setattr(typed, "isatty", lambda: True)
    run = cli("connector", "new", "plain")
    assert run.status == 0, run.err
    assert 'size: Field[int | None] = Field("size")' in written("plain")
    assert 'updated_at: Field[datetime | None] = Field("when it last changed")' in written("plain")
    tried(cli, "plain")


# -- the services whose descriptions are beside the repository ---------------------------------------


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_hubspots_description_becomes_a_connector_that_syncs_from_the_strict_fake(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(APIS))
    HubSpot = importlib.import_module("apifakes.hubspot").HubSpot  # noqa: N806  # a class

    monkeypatch.setenv("HUBSPOT", HubSpot.TOKEN)
    words = ("--openapi", str(HUBSPOT), "--list", "companies", "--field", "name=properties.name")
    assert cli("connector", "new", "crm", *words).status == 0
    with HubSpot(per_10s=1_000).seed(companies=250) as server:  # refuses what breaks the description
        answers = ("--credential", "token=env:HUBSPOT", "--set", f"base_url={server.url}")
        connected = cli("connect", "crm", *answers)
        assert (connected.status, f"{server.url} answers" in connected.out + connected.err) == (0, True), (
            connected
        )
        assert cli("sync", "crm").status == 0
        names = {one["properties"]["name"] for one in server.objects["companies"].values()}
        found = cli("search", "crm", "Company", "--fields", "name", "--limit", "1000", "-o", "json").data[
            "data"
        ]
    assert (len(found), {one["name"] for one in found}) == (250, names)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_linears_schema_becomes_a_connector_for_teams_and_issues(cli: Cli) -> None:
    words = ("--graphql", str(LINEAR), "--list", "teams,issues", "--url", "https://api.linear.app/graphql")
    assert cli("connector", "new", "tracker", *words, "--auth", "header:authorization").status == 0
    text = written("tracker")
    assert "team: Field[Ref[Team]] = Field(" in text
    assert 'base_url: str = "https://api.linear.app"' in text
    tried(cli, "tracker", only="full sync")


BROKEN = '{"__schema": {"queryType": {"name": "Q"}, "types": [{"name": "Q", "fields": [1]}]}}'
SDL = """
scalar DateTime
enum State { OPEN DONE }
type PageInfo { hasNextPage: Boolean! endCursor: String }
type Person { id: ID! name: String! boss: Person }
type Task {
  id: ID!
  title: String!
  state: State
  updatedAt: DateTime!
  owner: Person
  parent: Task
  tags: [String!]!
  old: String @deprecated
  sized(unit: String!): Int
  subtasks(first: Int, after: String): TaskConnection!
}
type TaskConnection { nodes: [Task!]! pageInfo: PageInfo! }
type Query {
  tasks(first: Int, after: String): TaskConnection!
  tasksOf(person: ID!, first: Int, after: String): TaskConnection!
  me: Person
}
"""


def introspected(text: str) -> str:
    """The answer of a service with this schema to an introspection query."""
    from graphql import build_schema, introspection_from_schema

    return json.dumps({"data": introspection_from_schema(build_schema(text))})


def test_a_schema_becomes_the_same_connector_from_either_form(cli: Cli, new: New) -> None:
    words = ("--list", "tasks", "--url", "https://api.example.com/api/graphql")
    assert new(SDL, *words, kind="graphql").status == 0
    first = written()
    for line in (
        'state: Field[Literal["OPEN", "DONE"] | None] = Field("state")',
        'updated_at: Field[datetime] = Field("updated at", source="updatedAt")',
        'owner_id: Field[str | None] = Field("owner id", source="owner.id")',
        'parent: Field[Ref[Task] | None] = Field("parent", source="parent.id")',
        'tags: Field[list[str]] = Field("tags")',
    ):
        assert f"    {line}\n" in first
    assert "id title state updatedAt owner { id } parent { id } tags" in first
    tried(cli)
    for file in Path("connectors").glob("*.py"):
        file.unlink()
    assert new(introspected(SDL), *words, kind="graphql").status == 0
    assert written() == first


@pytest.mark.parametrize(
    ("schema", "words", "said"),
    [
        ("{}", "", "is no GraphQL schema: it has no __schema"),
        ("{", "", "is not JSON"),
        (
            '{"__schema": {"queryType": {"name": "Q"}, "types": [{"name": "Q", "fields": [1]}]}}',
            "",
            "breaks the rules",
        ),
        ("type Query {", "", "is no GraphQL schema"),
        ("type Query { me: String }", "", "has no list"),
        (SDL, "", "which lists of"),
        (SDL, "--list tasks", "a GraphQL schema names no address"),
        (SDL, "--list tasksOf --url https://h", "unknown connection 'tasksOf'"),
        (SDL, "--list tasks --url https://h --field title", "--field, --changed and --since"),
        (SDL, "--list tasks --url https://h --key uuid", "Task has no field uuid"),
    ],
)
def test_a_schema_that_cannot_become_a_connector_is_refused_in_words(
    new: New, schema: str, words: str, said: str
) -> None:
    run = new(schema, *words.split(), kind="graphql")
    assert (run.status, said in run.err) == (2, True), run.err
    assert not Path("connectors").exists()


def test_a_description_may_be_yaml(cli: Cli, tmp_path: Path) -> None:
    import yaml  # type: ignore[import-untyped]  # it has no types

    file = tmp_path / "tasks.yaml"
    file.write_text(yaml.safe_dump(DIALECTS["cursor"][0]))
    assert cli("connector", "new", "tasks", "--openapi", str(file), "--list", "tasks").status == 0
    tried(cli, only="full sync")
    file.write_text("a: [")
    refused = cli("connector", "new", "other", "--openapi", str(file))
    assert (refused.status, "is not YAML" in refused.err) == (2, True)


# -- check ------------------------------------------------------------------------------------------


def findings(cli: Cli, file: Path, *words: str) -> list[dict[str, Any]]:
    """What the check says."""
    run = cli("connector", "check", str(file), "-o", "json", *(words or ("--no-types",)))
    rows: list[dict[str, Any]] = run.data["data"]
    assert run.status == (1 if any(row["level"] == "problem" for row in rows) else 0)
    return rows


@pytest.fixture
def todo(tmp_path: Path) -> Path:
    """The connector of docs/testing.md, in a file of its own."""
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
    file = tmp_path / "max_todo.py"
    file.write_text(page.partition("```python connectors/max_todo.py\n")[2].partition("```")[0])
    return file


def edited(file: Path, old: str, new: str) -> Path:
    """The file with one text replaced."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return file


@pytest.mark.parametrize(
    ("old", "new", "attribute", "message"),
    [
        ('"what to do", searchable=True', "searchable=True", "Todo.title", "it has no description"),
        ('(Entity, title="title")', "(Entity)", "Todo", "it has no title"),
        ('    """Something to do."""\n', "", "Todo", "it has no description"),
        ("    sweep=timedelta(days=1),\n", "", "todos", "what was removed is never noticed"),
        (', total=answer["total"]', "", "todos", "no page says how many rows there are"),
        ('onboarding=[SecretInput(TOKEN, "Token of the service")],', "", "onboarding", "credential 'token'"),
        (', limit=Limit("todo", concurrency=4)', "", "operations", "no operation has a limit"),
        (
            "    base_url: str =",
            "    account: str\n    base_url: str =",
            "onboarding",
            "no step asks for 'account'",
        ),
        (
            "Installation(client, stop=client.stop)",
            "Installation(client, stop=client.stop)  #",
            "initialise",
            "has no health",
        ),
        ("connector = Conn", "x = 1\nconnector = Conn", "requires", "needs the extra http"),
    ],
)
def test_advice_names_the_line_and_the_attribute(
    cli: Cli, todo: Path, old: str, new: str, attribute: str, message: str
) -> None:
    rows = findings(cli, edited(todo, old, new))
    (row,) = [row for row in rows if row["attribute"] == attribute and message in row["message"]]
    assert (row["level"], row["file"], bool(row["hint"])) == ("advice", str(todo), True)
    name = {"onboarding": "connector", "operations": "connector", "requires": "connector"}.get(
        attribute, attribute
    )
    line = todo.read_text().splitlines()[row["line"] - 1]
    assert name.rpartition(".")[2] in line


def test_a_limit_may_have_the_connectors_own_name(cli: Cli, todo: Path) -> None:
    assert 'Limit("todo"' in todo.read_text()
    assert [row for row in findings(cli, todo) if "limit" in row["message"]] == []


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("class Todo(Entity", "class Todo(Entty", "class Todo", "NameError"),
        (
            "from max.connecting import (",
            "from max.connecting import (,",
            "from max.connecting",
            "SyntaxError",
        ),
        ("Field[datetime]", "Field[object]", "updated_at", "Todo.updated_at"),
        ('name="todo"', 'name="other"', "connector = Connector", "has another connector's prefix"),
        ("loaders=[todos]", "loaders=[]", "", "no loader"),
        ('hosts=["{base_url}"]', "hosts=[]", "connector = Connector", "no hosts: every request is refused"),
        ("operations=[list_todos]", "operations=[]", "list_todos", "is used, but not declared"),
    ],
)
def test_a_problem_names_its_line_and_ends_with_status_1(
    cli: Cli, todo: Path, old: str, new: str, line: str, message: str
) -> None:
    rows = [row for row in findings(cli, edited(todo, old, new)) if row["level"] == "problem"]
    assert any(message in row["message"] for row in rows), rows
    row = next(row for row in rows if message in row["message"])
    assert not line or line in todo.read_text().splitlines()[row["line"] - 1]


def test_types_are_checked_where_mypy_is_installed(cli: Cli, todo: Path) -> None:
    wrong = edited(todo, 'Page.read(Todo, answer["items"]', 'Page.read(Board, answer["items"]')
    rows = [row for row in findings(cli, wrong, "-q") if row["level"] == "problem"]
    assert {row["attribute"] for row in rows} == {"types"}
    assert "Page.read(Board" in todo.read_text().splitlines()[rows[0]["line"] - 1]


def test_types_of_a_file_in_a_package_are_checked_with_what_it_imports_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("")  # a package in a package
    inner = tmp_path / "max_crm"
    inner.mkdir()
    (inner / "__init__.py").write_text("from .parts import PART\nNUMBER: int = PART\n")
    (inner / "parts.py").write_text('PART = "text"\n')
    found = types_of(inner / "__init__.py")
    assert [(one.line, one.message.partition(" (")[0]) for one in found] == [
        (2, "Incompatible types in assignment")
    ]


def test_the_connectors_that_come_with_max_have_no_problem(cli: Cli) -> None:
    for name in ("acme", "git", "github", "linear", "hubspot", "google_drive"):
        run = cli("connector", "check", name, "--no-types", "-o", "json")
        assert [row for row in run.data["data"] if row["level"] == "problem"] == [], name


def test_text_has_a_line_for_each_finding_and_its_hint_below(cli: Cli, todo: Path) -> None:
    run = cli("connector", "check", str(edited(todo, "    sweep=timedelta(days=1),\n", "")), "--no-types")
    lines = run.out.splitlines()
    place = next(number for number, line in enumerate(lines) if "never noticed" in line)
    assert lines[place].startswith(f"{todo}:")
    assert lines[place + 1] == "  let everything be listed now and then: sweep=timedelta(days=1)"
    assert "0 problems, " in run.err
