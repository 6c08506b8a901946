"""What upstream's JSON becomes: each value is stored with its meaning, or its row alone is kept aside."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from max import Status
from max.connecting import Batch, Env, Loader, Page, PageRequest, Ref, Schema, Step, Store, SyncPlan
from max.projects.folder import ProjectFolder
from tests.command_line import Cli, Run, running
from tests.sample import sample
from tests.scripted import synced as sync_sample
from tests.versions import made

CONNECTOR = '''
from __future__ import annotations
import json
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any
from max.connecting import *

class Box(Entity):
    """Lists the rows."""
    rows: Many[Row] = Many()

class Row(Entity):
    """What a file of JSON lists."""
    {fields}

@dataclass(frozen=True)
class Config:
    """Where the file is."""
    file: str = "rows.json"

@Loader.collection(Box.rows, brings=[getattr(Row, name) for name in Row.types()], {more})
async def rows(parent: Ref[Box], request: PageRequest, env: Env[Config]) -> Page[Row]:
    found = json.loads(Path(env.context.file).read_text())
    return Page([Row(one.pop("id"), **one) for one in found])

async def seed(context: Config, store: Store) -> SyncPlan:
    await store.store(Box("box"))
    return SyncPlan([Step.for_root(Box.ref("box")).load_collection(Box.rows)])

async def initialise(config: Config, credentials: CredentialProvider) -> Installation[Config]:
    return Installation(config)

connector = Connector(name="boxes", description="Boxes.", schema=Schema([Box, Row], roots=[Box]),
    loaders=[rows], seeder=seed, initialise=initialise, config=Config, contracts={contracts})
'''
MARKS = "SELECT bookmark FROM _max_listing"
VALUE = "value: Field[{}] = Field()"


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in a project of its own."""
    monkeypatch.chdir(tmp_path)
    ProjectFolder.init(tmp_path)
    return running(capsys)


def install(fields: str, *, more: str = "", contracts: str = "{}") -> None:
    """Put a connector whose rows have these fields where the project finds it."""
    Path("connectors").mkdir(exist_ok=True)
    text = CONNECTOR.format(fields=fields, more=more, contracts=contracts)
    Path("connectors/max_boxes.py").write_text(text)
    for name in [name for name in sys.modules if "max_boxes" in name]:
        del sys.modules[name]


def upstream(*rows: dict[str, Any]) -> None:
    """What the service answers from now on."""
    Path("rows.json").write_text(json.dumps(rows))


def synced(cli: Cli, kind: str, *values: Any) -> Run:
    """A sync of rows of one field, with the ids 0, 1, …; its result."""
    install(VALUE.format(kind))
    upstream(*({"id": str(number), "value": value} for number, value in enumerate(values)))
    return cli("sync", "boxes:default")


def found(cli: Cli, *words: str) -> dict[str, Any]:
    """The values of a search, by id."""
    out = cli("search", "boxes", "Row", "--all", "-o", "ndjson", *words).out
    return {row["id"]: row.get("value") for row in map(json.loads, out.splitlines())}


def quarantined(cli: Cli) -> dict[str, str]:
    """The place of the first invalid value of each quarantined row, by id."""
    data = cli("quarantine", "boxes", "-o", "json").data["data"]
    return {one["id"]: one["path"] for one in data}


# -- numbers -----------------------------------------------------------------------------


def test_an_integer_that_a_float_holds_exactly_is_its_value(cli: Cli) -> None:
    done = synced(cli, "float", 2**53, 2**60, 10**20, 2**53 + 1, 10**400)
    assert found(cli) == {"0": float(2**53), "1": float(2**60), "2": 1e20}
    assert all(isinstance(value, float) for value in found(cli).values())
    assert done.status == 3
    assert quarantined(cli) == {"3": "Row:3.value", "4": "Row:4.value"}


def test_a_whole_float_is_an_integer_and_a_boolean_is_no_number(cli: Cli) -> None:
    done = synced(cli, "int", 3.0, -0.0, 2.0**62, 2.5, 2.0**63, 2**63, True)
    assert found(cli) == {"0": 3, "1": 0, "2": 2**62}
    assert all(isinstance(value, int) for value in found(cli).values())
    assert done.status == 3
    assert list(quarantined(cli)) == ["3", "4", "5", "6"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("value = 1e3", ["0"]),
        ("value = 1000.0", ["0"]),
        ("value >= 1e3", ["0", "1"]),
        ("value IN (1000.0, 9007199254740993.0)", ["0", "1"]),
        ("value > -1e-0", ["0", "1"]),
    ],
)
def test_a_filter_takes_every_spelling_of_a_whole_number(cli: Cli, text: str, ids: list[str]) -> None:
    synced(cli, "int", 1000, 2**53 + 1)
    assert list(found(cli, "--filter", text)) == ids


@pytest.mark.parametrize("text", ["2.5", "1e999999999", "9223372036854775808", "1e19", "nan", "inf", "true"])
def test_a_filter_refuses_what_is_no_integer(cli: Cli, text: str) -> None:
    synced(cli, "int", 1)
    run = cli("search", "boxes", "Row", "--filter", f"value = {text}")
    assert (run.status, "an integer of at most 64 bits" in run.err) == (2, True)


# -- JSON data ---------------------------------------------------------------------------


def test_a_list_of_texts_holds_texts_alone(cli: Cli) -> None:
    done = synced(cli, "list[str]", ["a"], [{"name": "a"}], "a", 5, {"a": 1}, ["a", "b", "c", 7], [])
    assert found(cli) == {"0": ["a"], "6": []}
    assert done.status == 3
    assert quarantined(cli) == {
        "1": "Row:1.value[0]",
        "2": "Row:2.value",
        "3": "Row:3.value",
        "4": "Row:4.value",
        "5": "Row:5.value[3]",
    }
    assert "value[3]" in cli("quarantine", "boxes").out


def test_a_mapping_of_integers_holds_integers_alone(cli: Cli) -> None:
    synced(cli, "dict[str, int]", {"a": 1, "b": 2.0}, {"a": "1"}, {"a": True}, [], {"b c": None})
    assert found(cli) == {"0": {"a": 1, "b": 2}}
    assert isinstance(found(cli)["0"]["b"], int)
    paths = {"1": "Row:1.value.a", "2": "Row:2.value.a", "3": "Row:3.value", "4": "Row:4.value['b c']"}
    assert quarantined(cli) == paths


def test_a_field_with_a_narrower_type_of_json_is_fetched_again(cli: Cli) -> None:
    synced(cli, "list[Json]", ["a"], [1])
    install(VALUE.format("list[str]"))
    shown = cli("schema", "diff", "boxes")
    assert (shown.status, "list[json]" in shown.out, "list[str]" in shown.out) == (0, True, True)
    assert cli("sync", "boxes").status == 3
    assert quarantined(cli) == {"1": "Row:1.value[0]"}


# -- times -------------------------------------------------------------------------------


def test_every_valid_time_is_taken(cli: Cli) -> None:
    done = synced(
        cli,
        "datetime",
        "2016-12-31T23:59:60Z",
        "1990-12-31T15:59:60.75-08:00",
        "2026-01-01t00:00:00z",
        "2026-01-31T24:00:00Z",
        "2026-01-31 09:30:00.123456789-00:00",
        "2026-01-31T09:30:00+23:59",
        "0001-01-01T00:00:00Z",
        "9999-12-31T24:00:00+01:00",
    )
    assert (done.status, found(cli)) == (
        0,
        {
            "0": "2016-12-31T23:59:59.999999Z",
            "1": "1990-12-31T23:59:59.999999Z",
            "2": "2026-01-01T00:00:00Z",
            "3": "2026-02-01T00:00:00Z",
            "4": "2026-01-31T09:30:00.123456Z",
            "5": "2026-01-30T09:31:00Z",
            "6": "0001-01-01T00:00:00Z",
            "7": "9999-12-31T23:00:00Z",
        },
    )


def test_a_time_that_python_cannot_hold_is_quarantined(cli: Cli) -> None:
    late, early = "9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00+00:01"
    done = synced(cli, "datetime", "0000-01-01T00:00:00Z", late, early, "2026-01-01T00:00:00Z")
    assert (done.status, list(found(cli))) == (3, ["3"])


def test_a_filter_reads_times_as_rows_do(cli: Cli) -> None:
    synced(cli, "datetime", "2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z", "0206-05-08T00:00:00Z")
    assert list(found(cli, "--filter", "value = '2016-12-31t23:59:60z'")) == ["0"]
    assert list(found(cli, "--filter", "value < 2016-12-31T24:00")) == ["0", "2"]
    assert list(found(cli, "--filter", "value < 1000-01-01")) == ["2"]
    assert list(found(cli, "--order-by", "value")) == ["2", "0", "1"]


def test_years_before_1000_have_four_digits_in_a_table(cli: Cli) -> None:
    synced(cli, "datetime", "0001-01-01T00:00:00Z", "0206-05-08T00:00:00Z")
    lines = cli("search", "boxes", "Row", "--fields", "value").out.splitlines()
    assert "0001-01-01T00:00:00Z" in lines[1]
    assert "0206-05-08T00:00:00Z" in lines[2]


# -- texts -------------------------------------------------------------------------------


def test_what_follows_a_nul_is_found(cli: Cli) -> None:
    done = synced(cli, "str", "a\0needle", "needle", "ä\0needle")
    assert (done.status, list(found(cli, "--filter", 'value ~= "needle"'))) == (0, ["0", "1", "2"])
    assert list(found(cli, "--filter", r'value = "a\u0000needle"')) == ["0"]
    assert found(cli)["0"] == "a\ufffdneedle"


def test_half_a_surrogate_pair_costs_its_row_alone(cli: Cli) -> None:
    done = synced(cli, "str", "cut \ud83d", "whole \U0001f600")
    assert (done.status, found(cli)) == (3, {"1": "whole \U0001f600"})
    assert "1 invalid row was quarantined: max quarantine boxes:default" in done.out
    assert cli("runs", "-o", "json").data["data"][0]["quarantined"] == 1


def test_ids_may_hold_anything_but_nothing_and_nul(cli: Cli) -> None:
    install(VALUE.format("int"))
    good = ["é", "e\u0301", "\x01\x1b[31m", " ", "x" * 10_000, "a:b/c", "0", "00"]
    bad: list[Any] = ["", "x" * 10_001, "a\0b", "\ud800", None, 7, {"id": "7"}, ["7"], True]
    upstream(*({"id": id, "value": 1} for id in [*good, *bad]))
    done = cli("sync", "boxes:default")
    assert (done.status, set(found(cli))) == (3, set(good))
    assert cli("runs", "-o", "json").data["data"][0]["quarantined"] == len(bad)


def test_a_bad_row_with_a_huge_id_is_named_by_its_beginning(cli: Cli) -> None:
    install(VALUE.format("int"))
    upstream({"id": "x" * 100_000, "value": "no"})
    assert cli("sync", "boxes:default").status == 3
    assert len(next(iter(quarantined(cli).values()))) < 300


# -- one bad row never costs its page ------------------------------------------------------


def test_a_bad_time_in_the_watermark_neither_stops_the_listing_nor_moves_the_mark(cli: Cli) -> None:
    fields = "value: Field[datetime] = Field(); name: Field[str] = Field()"
    install(fields, more="watermark=Watermark(Row.value, newest_first=False)")
    times = ["2026-01-02T00:00:00Z", "soon", None, 7, "9999-12-31T23:59:59-23:59", "2026-01-01T00:00:00Z"]
    upstream(*({"id": str(n), "value": value, "name": "x"} for n, value in enumerate(times)))
    assert cli("sync", "boxes:default").status == 3
    assert list(found(cli)) == ["0", "5"]
    with closing(sqlite3.connect(".max/installations/boxes/default/data.db")) as connection:
        assert connection.execute(MARKS).fetchall() == [("2026-01-02T00:00:00",)]


def test_rows_that_become_invalid_or_lose_their_id_are_not_removed(cli: Cli) -> None:
    synced(cli, "int", 1, 2)
    upstream({"id": "0", "value": "one"}, {"id": None, "value": 2})
    for _ in range(3):
        assert cli("sync", "boxes", "--full").status == 3
        assert found(cli) == {"0": 1, "1": 2}


def test_a_quarantined_row_counts_towards_the_total_that_the_source_gives(cli: Cli) -> None:
    install(VALUE.format("int"))
    source = Path("connectors/max_boxes.py")
    source.write_text(
        source.read_text().replace("for one in found])", "for one in found], total=len(found))")
    )
    for value in ("no", "still no"):
        upstream({"id": "0", "value": 1}, {"id": "1", "value": value})
        done = cli("sync", "boxes:default", "-o", "json")
        assert (done.status, done.data["failures"]) == (3, [])
    upstream({"id": "1", "value": "no"})
    cli("sync", "boxes:default")
    assert found(cli) == {}


def test_a_row_that_comes_twice_once_valid_and_once_not_is_stored(cli: Cli) -> None:
    install(VALUE.format("int"))
    upstream({"id": "1", "value": 1}, {"id": "1", "value": "no"}, {"id": "1", "value": 2})
    assert cli("sync", "boxes:default").status == 3
    assert found(cli) == {"1": 2}


def test_a_strict_contract_fails_the_page(cli: Cli) -> None:
    install(VALUE.format("int"), contracts="{Row: SchemaContract.STRICT}")
    upstream({"id": "0", "value": 1}, {"id": "1", "value": "no"})
    run = cli("sync", "boxes:default")
    assert (run.status, "Row:1.value: expected an integer of at most 64 bits" in run.out) == (1, True)
    assert found(cli) == {}


# -- wide entities -------------------------------------------------------------------------


def wide(many: int) -> str:
    return "\n    ".join(f"f{number}: Field[str | None] = Field()" for number in range(many))


def test_an_entity_of_a_thousand_fields_is_stored_changed_and_searched(cli: Cli) -> None:
    install(wide(1_000))
    cli("connect", "boxes")
    assert cli("settings", "boxes", "history=changes").status == 0
    for text in ("x", "y"):
        upstream({"id": "1", **{f"f{number}": text for number in range(1_000)}})
        assert cli("sync", "boxes", "--full").status == 0
    words = ["--filter", "f999 = y", "--order-by", "f7,-f500", "--all", "-o", "ndjson"]
    (row,) = map(json.loads, cli("search", "boxes", "Row", *words).out.splitlines())
    assert (len(row), row["f999"]) == (1_001, "y")
    assert cli("changes", "boxes", "-o", "ndjson").status == 0


def test_a_thousand_fields_may_be_loaded_by_several_loaders(tmp_path: Path) -> None:
    names = [f"f{number}" for number in range(1_000)]
    thing = made("Thing", dict.fromkeys(names, "str"))
    root = made("SampleRoot", {}, things=("Thing", None))

    @Loader.collection(root.things)
    async def list_things(parent: Ref[Any], request: PageRequest, env: Env[Any]) -> Page[Any]:
        return Page([thing("1")])

    def loading(some: list[str]) -> Loader[Any]:
        async def load(refs: Sequence[Ref[Any]], env: Env[Any]) -> Batch[Any]:
            return Batch([thing(ref.id, **dict.fromkeys(some, "x")) for ref in refs])

        load.__name__ = f"load_{some[0]}"
        return Loader.entity_batched(*(getattr(thing, name) for name in some))(load)

    async def seed(context: Any, store: Store) -> SyncPlan:
        await store.store(root("root"))
        listed = Step.for_root(root.ref("root")).load_collection(root.things)
        return SyncPlan([listed, Step.for_all(thing).load_fields(*(getattr(thing, name) for name in names))])

    loaders = [list_things, loading(names[:400]), loading(names[400:])]
    connector = sample(schema=Schema([root, thing], roots=[root]), loaders=loaders, seeder=seed)
    for _ in range(2):
        result, ids = sync_sample(connector, tmp_path / "data.db", root.things)
        assert (result.status, ids) == (Status.COMPLETED, ["1"])


def test_an_entity_that_is_too_wide_for_a_table_is_refused_when_the_connector_loads(cli: Cli) -> None:
    install(wide(2_000))
    run = cli("connect", "boxes")
    assert run.status == 1
    assert "Row has 2,000 fields" in run.err
    assert "1,800 at most" in run.err


# -- the real command ------------------------------------------------------------------------


def test_the_command_ends_with_3_and_names_the_quarantined_rows(cli: Cli, tmp_path: Path) -> None:
    install(VALUE.format("list[str]"))
    upstream({"id": "0", "value": ["a"]}, {"id": "1", "value": [{"name": "a"}]})
    run: Callable[..., Any] = subprocess.run
    words = [sys.executable, "-m", "max", "sync", "boxes:default"]
    env = {"PYTHONPATH": str(Path(__file__).parent.parent), "PATH": "", "MAX_TRUST": str(tmp_path)}
    done = run(words, capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, "max quarantine boxes:default" in done.stdout) == (3, True)
