"""Rows that are read from a service's data, from the sync to the commands and the files of an export."""

from __future__ import annotations

import csv
import json
import sqlite3
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from max.model import frames
from tests.command_line import Cli
from tests.test_types_of_json import cli, found, install, quarantined, upstream

__all__ = ["cli"]

FIELDS = """value: Field[int] = Field(source="data.value")
    state: Field[State] = Field()
    people: Field[list[Ref[Row]]] = Field()"""
STATES = '''from enum import StrEnum

class State(StrEnum):
    """Open or closed."""
    OPEN = "open"
    CLOSED = "closed"

class Box(Entity):'''


def mapped(contracts: str = "{}") -> None:
    """A connector that reads its rows with Page.read."""
    install(FIELDS, contracts=contracts)
    source = Path("connectors/max_boxes.py")
    text = source.read_text().replace("class Box(Entity):", STATES)
    source.write_text(
        text.replace('Page([Row(one.pop("id"), **one) for one in found])', "Page.read(Row, found)")
    )


def row(id: Any, value: Any = 1, state: Any = "open", people: Any = ()) -> dict[str, Any]:
    return {"id": id, "data": {"value": value}, "state": state, "people": [{"id": one} for one in people]}


def test_an_invalid_row_costs_itself_alone_and_leaves_the_quarantine_once_it_is_valid(cli: Cli) -> None:
    mapped()
    upstream(row("0"), row("1", value="no"), row("2", state="ajar"), row("3", people=["0", True]))
    done = cli("sync", "boxes:default", "-o", "json")
    assert (done.status, done.data["status"], done.data["quarantined"]) == (3, "partial", 3)
    assert found(cli) == {"0": 1}
    assert quarantined(cli) == {"1": "Row:1.value", "2": "Row:2.state", "3": "Row:3.people[1]"}
    upstream(row("0"), row("1", value="2"), row("2", state="closed"), row("3", people=["0", 1]))
    assert cli("sync", "boxes:default").status == 0
    assert found(cli) == {"0": 1, "1": 2, "2": 1, "3": 1}
    assert quarantined(cli) == {}


def test_a_row_that_becomes_invalid_stays_as_it_was(cli: Cli) -> None:
    mapped()
    upstream(row("0"), row("1", value=7))
    assert cli("sync", "boxes:default").status == 0
    upstream(row("0", value=2), row("1", value=None))
    assert cli("sync", "boxes:default").status == 3
    assert found(cli) == {"0": 2, "1": 7}


def test_a_row_without_a_readable_id_removes_none(cli: Cli) -> None:
    mapped()
    upstream(row("0"), row("1"))
    cli("sync", "boxes:default")
    upstream(row("0"), row([]))
    assert cli("sync", "boxes:default", "--allow-removals").status == 3
    assert found(cli) == {"0": 1, "1": 1}


def test_a_strict_contract_fails_the_page(cli: Cli) -> None:
    mapped("{Row: SchemaContract.STRICT}")
    upstream(row("0"), row("1", state="ajar"))
    run = cli("sync", "boxes:default")
    assert (run.status, "Row:1.state: expected" in run.out) == (1, True)
    assert found(cli) == {}


def test_a_frozen_contract_refuses_another_enumeration_of_the_field(cli: Cli) -> None:
    mapped("{Row: SchemaContract.FREEZE}")
    upstream(row("0"))
    assert cli("sync", "boxes:default").status == 0
    source = Path("connectors/max_boxes.py")
    source.write_text(source.read_text().replace("Field[State]", "Field[int]"))
    sys.modules.pop("max_boxes", None)
    run = cli("sync", "boxes:default")
    assert run.status != 0
    assert "Row.state" in run.err + run.out
    assert found(cli) == {"0": 1}


def test_a_replay_of_a_recording_with_invalid_rows_gives_the_same(cli: Cli) -> None:
    mapped()
    source = Path("connectors/max_boxes.py")
    text = source.read_text().replace(
        "    found = json.loads(Path(env.context.file).read_text())\n    return Page.read(Row, found)",
        "    return await env.run(read_rows, None)",
    )
    text = text.replace(
        "@Loader.collection",
        '@operation("boxes:row:list")\nasync def read_rows(context: Config, input: Json) -> Page[Row]:\n'
        "    found = json.loads(Path(context.file).read_text())\n"
        "    return Page.read(Row, found, fields=[getattr(Row, name) for name in Row.types()])\n\n"
        "@Loader.collection",
    )
    source.write_text(text.replace("loaders=[rows],", "loaders=[rows], operations=[read_rows],"))
    upstream(row("0"), row("1", value="no"), row("2", people=["0"]))
    assert cli("sync", "boxes:default", "--record", "calls.jsonl").status == 3
    upstream()
    cli("connect", "boxes:again")
    assert cli("sync", "boxes:again", "--replay", "calls.jsonl").status == 3
    data = cli("quarantine", "boxes:again", "-o", "json").data["data"]
    assert [one["path"] for one in data] == ["Row:1.value"]


@pytest.mark.parametrize("format", ["csv", "json", "arrow", "parquet", "sqlite"])
def test_enumerations_and_lists_of_refs_are_exported(cli: Cli, format: str) -> None:
    mapped()
    upstream(row("0", state="closed", people=["0", "1"]), row("1"))
    assert cli("sync", "boxes:default").status == 0
    path = Path(f"copy.{format}")
    words = () if format == "sqlite" else ("Row",)
    assert cli("export", "boxes", *words, "--format", format, "--to", str(path)).status == 0
    rows: list[dict[str, Any]]
    if format == "csv":
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    elif format == "sqlite":
        with closing(sqlite3.connect(path)) as connection:
            rows = [
                dict(zip(("state", "people"), one, strict=True))
                for one in connection.execute("SELECT state, people FROM boxes_row ORDER BY id")
            ]
    elif format == "json":
        rows = json.loads(path.read_text())
    else:
        rows = read_frame(path, format)
    first = rows[0]
    people = json.loads(first["people"]) if isinstance(first["people"], str) else [*first["people"]]
    assert (first["state"], people) == ("closed", ["0", "1"])
    assert [one["state"] for one in rows] == ["closed", "open"]


def read_frame(path: Path, format: str) -> list[dict[str, Any]]:
    """The rows of an Arrow or Parquet file."""
    frames.library("pyarrow")
    if format == "parquet":
        return list(import_module("pyarrow.parquet").read_table(path).to_pylist())
    with import_module("pyarrow.ipc").open_file(path) as reader:
        return list(reader.read_all().to_pylist())


def test_the_schema_names_the_values_and_what_the_refs_refer_to(cli: Cli) -> None:
    mapped()
    upstream(row("0"))
    cli("sync", "boxes:default")
    text = cli("schema", "boxes", "Row").out
    assert "one of open, closed" in text
    assert "list[Ref[Row]]" in text
