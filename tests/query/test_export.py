"""Export: each format is read by the program that it is for, and holds what the view shows."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from max_connectors.acme import AcmeTask, AcmeUser, connector

from max import BoundQuery, Project, Reader
from max.engine import DatabaseEngine
from max.errors import MissingExtra, UsageError
from max.model import frames
from max.model.entities import Entity, Field, FieldOf
from max.model.query import parse_paths
from max.projects.folder import ProjectFolder
from max.query.export import ENDINGS, Selection, export, format_of, lines, written
from max.storage.arrow import ArrowColumns
from max.storage.sqlite import SqliteDatabase
from tests.command_line import Cli, record_sync
from tests.database_files import data_file

AT = datetime(2026, 1, 31, 9, 30, 0, 500_000, tzinfo=UTC)
USERS = [AcmeUser("u1", name='Ada "A." Łukasz', active=True), AcmeUser("u2", name="=1+1", active=False)]
TASKS = [
    AcmeTask(
        "t1",
        title="Write,\nand read",
        priority=3,
        estimate=None,
        tags=["a", "b c"],
        due_date=date(2026, 1, 31),
        assignee=AcmeUser.ref("u1"),
        updated_at=AT,
        active=True,
    ),
    AcmeTask("t2", title="", priority=-(2**63), estimate=0.1, tags=[], due_date=None, assignee=None),
]
FIELDS = "id,title,priority,estimate,tags,due_date,assignee,assignee.name,updated_at,active"


class Many(Entity):
    """It has a list of integers."""

    sizes: Field[list[int]] = Field()


async def store(path: Path, *more: AcmeTask) -> None:
    database = SqliteDatabase(path)
    await database.start()
    engine = DatabaseEngine(database, connector.resolver)
    await engine.start()
    await engine.store(*USERS, *TASKS, *more, requested_at=1_000.0)
    await in_python(engine.query(AcmeTask).where(AcmeTask.id.is_in(["t1", "t2"])))
    await engine.stop()
    await database.stop()


async def in_python(query: BoundQuery[AcmeTask]) -> None:
    """The same rows from a program's query."""
    frame = await query.order_by(AcmeTask.id).limit(1).to_pandas("id", AcmeTask.priority, "assignee.name")
    assert frame.to_dict("records") == [{"id": "t1", "priority": 3, "assignee.name": USERS[0].name}]
    assert (await query.select(AcmeTask.title).to_polars()).columns == ["id", "title"]
    assert (await query.to_arrow("title")).column_names == ["title"]
    in_order = query.order_by(AcmeTask.id)
    assert [one["id"] for one in await in_order.to_dicts()] == ["t1", "t2"]
    assert (await in_order.page()).to_dicts() == await in_order.to_dicts()
    assert json.loads(json.dumps(await in_order.limit(1).to_dicts()))[0]["due_date"] == "2026-01-31"


@pytest.fixture
def folder(tmp_path: Path) -> ProjectFolder:
    """A project with ``acme:default``."""
    folder = ProjectFolder.init(tmp_path)
    info = folder.add("acme", None, {}, {}, now=1_000.0)
    asyncio.run(store(data_file(folder, info)))
    record_sync(data_file(folder, info))
    return folder


@pytest.fixture
def reader(folder: ProjectFolder) -> Iterator[Reader]:
    with Project(folder).read("acme:default") as reader:
        yield reader


class TestText:
    """CSV, TSV, JSON, ndjson and Markdown."""

    def test_csv_comes_back_from_pythons_reader(self, cli: Cli, folder: ProjectFolder) -> None:
        assert cli("export", "acme", "AcmeTask", "--fields", FIELDS, "--to", "t.csv").status == 0
        with Path("t.csv").open(encoding="utf-8", newline="") as file:
            first, second = csv.DictReader(file)
        assert (first["title"], first["assignee.name"]) == ("Write,\nand read", USERS[0].name)
        assert (first["tags"], first["updated_at"]) == ('["a","b c"]', "2026-01-31T09:30:00.500000Z")
        assert (first["due_date"], first["active"], second["priority"]) == (
            "2026-01-31",
            "true",
            str(-(2**63)),
        )

    def test_stdout_has_the_same_bytes_as_a_file(self, cli: Cli, folder: ProjectFolder) -> None:
        for format in ("csv", "tsv", "json", "ndjson", "markdown"):
            path = f"t{ENDINGS[format]}"
            assert cli("export", "acme", "AcmeTask", "--to", path).status == 0
            printed = cli("export", "acme", "AcmeTask", "-o", format).out
            assert printed.encode() == Path(path).read_bytes(), format

    def test_json_is_an_array_and_leaves_out_what_is_not_loaded(
        self, cli: Cli, folder: ProjectFolder
    ) -> None:
        first, second = cli("export", "acme", "AcmeTask", "--format", "json").data
        assert first["due_date"] == "2026-01-31"
        assert (second["due_date"], "updated_at" in second) == (None, False)

    def test_json_without_rows_is_an_empty_array(self, cli: Cli, folder: ProjectFolder) -> None:
        assert cli("export", "acme", "AcmeFile", "--format", "json").data == []

    def test_a_spreadsheet_gets_no_formula(self, cli: Cli, folder: ProjectFolder) -> None:
        words = ("export", "acme", "AcmeUser", "--fields", "name", "--order-by", "id")
        exact = list(csv.reader(io.StringIO(cli(*words).out)))
        assert [row[0] for row in exact] == ["name", USERS[0].name, "=1+1"]
        safe = list(csv.reader(io.StringIO(cli(*words, "--spreadsheet").out)))
        assert [row[0] for row in safe] == ["name", USERS[0].name, "'=1+1"]

    @pytest.mark.parametrize("sign", "=+-@＝＋－＠\t\r")
    def test_an_id_is_no_formula_for_a_spreadsheet_either(self, tmp_path: Path, sign: str) -> None:
        folder = ProjectFolder.init(tmp_path)
        info = folder.add("acme", None, {}, {}, now=1_000.0)
        task = AcmeTask(f"{sign}1+1", assignee=AcmeUser.ref(f"{sign}2+2"))
        asyncio.run(store(data_file(folder, info), task))
        with Project(folder).read("acme:default") as reader:
            query = reader.query("AcmeTask").where(AcmeTask.id.eq(task.id))
            paths = parse_paths(query.entity, "id,assignee")
            _, row = csv.reader(lines(reader.pages(query, paths), paths, "csv", spreadsheet=True))
        assert row == [f"'{sign}1+1", f"'{sign}2+2"]

    def test_filters_orders_and_fields_apply(self, cli: Cli, folder: ProjectFolder) -> None:
        words = ("--filter", "priority < 5", "--order-by", "-priority", "--fields", "assignee.name")
        assert cli("export", "acme", "AcmeTask", *words, "-o", "ndjson").out.splitlines() == [
            json.dumps({"assignee.name": USERS[0].name}, ensure_ascii=False, separators=(",", ":")),
            '{"assignee.name":null}',
        ]


class TestSqlite:
    """A file with the views as tables."""

    def test_tables_are_what_the_views_show(self, cli: Cli, folder: ProjectFolder) -> None:
        assert cli("export", "acme", "--to", "copy.db").status == 0
        original = data_file(folder, folder.target("acme"))
        with closing(sqlite3.connect("copy.db")) as copy, closing(sqlite3.connect(original)) as source:
            names = [name for (name,) in copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            assert sorted(names) == [
                f"acme_{name}" for name in ("file", "project", "root", "task", "user", "workspace")
            ]
            for name in names:
                both = [c.execute(f"SELECT * FROM {name} ORDER BY id").fetchall() for c in (copy, source)]
                assert both[0] == both[1], name
            assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert copy.execute("PRAGMA foreign_key_check").fetchall() == []
            leads = copy.execute(
                'SELECT "from", "table" FROM pragma_foreign_key_list(\'acme_task\')'
            ).fetchall()
            assert ("assignee", "acme_user") in leads

    def test_removed_rows_are_not_in_it(self, cli: Cli, folder: ProjectFolder) -> None:
        with closing(sqlite3.connect(data_file(folder, folder.target("acme")))) as connection, connection:
            connection.execute("UPDATE _acme_task SET _removed_at = 5 WHERE _id = 't1'")
        assert cli("export", "acme", "AcmeTask", "--to", "copy.sqlite").status == 0
        with closing(sqlite3.connect("copy.sqlite")) as copy:
            assert copy.execute("SELECT id FROM acme_task").fetchall() == [("t2",)]


class TestFrames:
    """Arrow, Parquet, pandas and polars."""

    def test_types_are_those_of_the_fields(self, reader: Reader) -> None:
        pyarrow = frames.library("pyarrow")
        table = reader.to_arrow("AcmeTask", fields=FIELDS, order_by="id")
        assert {name: table.schema.field(name).type for name in table.column_names} == {
            "id": pyarrow.string(),
            "title": pyarrow.string(),
            "priority": pyarrow.int64(),
            "estimate": pyarrow.float64(),
            "tags": pyarrow.list_(pyarrow.string()),
            "due_date": pyarrow.date32(),
            "assignee": pyarrow.string(),
            "assignee.name": pyarrow.string(),
            "updated_at": pyarrow.timestamp("us", tz="UTC"),
            "active": pyarrow.bool_(),
        }
        first, second = table.to_pylist()
        assert (first["updated_at"], first["due_date"]) == (AT, date(2026, 1, 31))
        assert (first["tags"], second["tags"]) == (["a", "b c"], [])
        assert (second["updated_at"], second["active"]) == (None, None)

    def test_a_list_with_an_integer_beyond_64_bits_is_refused_by_its_name(self) -> None:
        path: FieldOf[Any, Any] = FieldOf(Many, "sizes")
        batches = ArrowColumns([path]).batches(iter([[["[1]"]], [[f"[{2**63}]"]]]))
        assert next(batches).to_pydict() == {"sizes": [[1]]}
        with pytest.raises(UsageError, match="sizes has an integer beyond 64 bits"):
            next(batches)

    def test_pandas_knows_empty_integers_booleans_times_and_dates(self, reader: Reader) -> None:
        frame = reader.to_pandas("AcmeTask", fields=FIELDS, order_by="id")
        types = {name: str(found) for name, found in frame.dtypes.items()}
        assert types["priority"] == "Int64"
        assert types["active"] == "boolean"
        assert types["updated_at"] == "datetime64[us, UTC]"
        assert types["due_date"] == "date32[day][pyarrow]"
        assert frame["priority"].tolist() == [3, -(2**63)]
        assert frame["due_date"].dt.year.tolist()[0] == 2026
        assert list(frame["tags"][0]) == ["a", "b c"]

    def test_polars_has_the_same_rows(self, reader: Reader) -> None:
        polars = frames.library("polars")
        frame = reader.to_polars("AcmeTask", "priority > 0", fields=FIELDS)
        assert frame.rows(named=True)[0]["assignee.name"] == USERS[0].name
        assert frame.schema["updated_at"] == polars.Datetime("us", "UTC")

    @pytest.mark.parametrize("format", ["parquet", "arrow"])
    def test_files_come_back(self, cli: Cli, folder: ProjectFolder, format: str) -> None:
        assert cli("export", "acme", "AcmeTask", "--to", f"t.{format}").status == 0
        polars = frames.library("polars")
        read = polars.read_parquet if format == "parquet" else polars.read_ipc
        with Project(folder).read("acme:default") as reader:
            assert read(f"t.{format}").equals(reader.to_polars("AcmeTask"))

    def test_without_rows_the_columns_are_there(self, reader: Reader) -> None:
        assert reader.to_pandas("AcmeFile").columns.tolist()[:2] == ["id", "name"]

    def test_a_limit_and_an_order_apply(self, reader: Reader) -> None:
        assert reader.to_arrow("AcmeTask", order_by="-id", limit=1).column("id").to_pylist() == ["t2"]

    def test_a_missing_library_is_named_with_its_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(MissingExtra) as missing:
            frames.library("pyarrow")
        assert "[frames]" in str(missing.value.hint)

    def test_no_library_is_imported_before_it_is_asked_for(self) -> None:
        script = (
            "import sys, max.query.reader, max.engine, max.query.export, max.storage.tables\n"
            "print({'pyarrow', 'pandas', 'polars', 'numpy'} & sys.modules.keys())"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == "set()\n"


class TestFiles:
    """What is on the disk, whatever happens."""

    def test_a_file_that_exists_stays_unless_it_is_forced(self, cli: Cli, folder: ProjectFolder) -> None:
        Path("t.csv").write_text("mine")
        refused = cli("export", "acme", "AcmeTask", "--to", "t.csv")
        assert (refused.status, Path("t.csv").read_text()) == (2, "mine")
        assert "--force" in refused.err
        assert cli("export", "acme", "AcmeTask", "--to", "t.csv", "--force").status == 0
        assert Path("t.csv").read_text().startswith("id,")

    def test_nothing_is_written_when_one_of_several_files_exists(
        self, cli: Cli, folder: ProjectFolder
    ) -> None:
        Path("out").mkdir()
        Path("out/acme_file.csv").write_text("mine")
        assert cli("export", "acme", "--to", "out").status == 2
        assert [path.name for path in Path("out").iterdir()] == ["acme_file.csv"]

    def test_an_export_that_fails_leaves_nothing(
        self, reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        query = reader.query("AcmeTask")
        paths = tuple(reader.rows(query, FIELDS).paths)
        monkeypatch.setattr(type(reader), "pages", lambda *_: (_ for _ in [1 / 0]))
        with pytest.raises(ZeroDivisionError):
            export(reader, [Selection("acme_task", query, paths)], "csv", tmp_path / "t.csv")
        assert not [path for path in tmp_path.iterdir() if "t.csv" in path.name]

    def test_a_file_that_another_process_made_meanwhile_stays(self, tmp_path: Path) -> None:
        path = tmp_path / "t"

        def write(*, force: bool) -> None:
            with written(path, force=force) as beside:
                beside.write_text("ours")
                path.write_text("theirs")

        with pytest.raises(UsageError, match="exists already"):
            write(force=False)
        assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("t", "theirs")]
        write(force=True)
        assert path.read_text() == "ours"

    def test_a_device_is_never_replaced(self, cli: Cli, folder: ProjectFolder) -> None:
        os.mkfifo("pipe.csv")
        refused = cli("export", "acme", "AcmeTask", "--to", "pipe.csv", "--force")
        assert (refused.status, Path("pipe.csv").is_fifo()) == (2, True)

    def test_the_database_is_never_replaced(self, cli: Cli, folder: ProjectFolder) -> None:
        database = data_file(folder, folder.target("acme"))
        Path("link").symlink_to(database.parent)
        for place in (database, Path("link") / database.name, database.with_name("data.db-wal")):
            refused = cli("export", "acme", "--to", str(place), "--format", "sqlite", "--force")
            assert (refused.status, "in the folder of the database" in refused.err) == (2, True)
        assert cli("count", "acme", "AcmeTask").out == "2\n"

    def test_a_link_stays_and_leads_to_the_new_file(self, cli: Cli, folder: ProjectFolder) -> None:
        Path("real.csv").write_text("old")
        Path("link.csv").symlink_to("real.csv")
        assert cli("export", "acme", "AcmeTask", "--to", "link.csv", "--force").status == 0
        assert Path("link.csv").is_symlink()
        assert Path("real.csv").read_text().startswith("id,")

    def test_an_entity_that_is_named_twice_is_one(self, cli: Cli, folder: ProjectFolder) -> None:
        assert cli("export", "acme", "AcmeTask", "acme_task", "--to", "t.db").status == 0
        with closing(sqlite3.connect("t.db")) as copy:
            assert copy.execute("SELECT count(*) FROM acme_task").fetchone() == (2,)

    def test_an_error_names_the_file_that_was_meant(self, cli: Cli, folder: ProjectFolder) -> None:
        done = cli("export", "acme", "AcmeTask", "--to", "nowhere/t.csv")
        assert (done.status, done.err.startswith("max: nowhere/t.csv: No such file")) == (1, True)
        name = "n" * 240 + ".csv"
        assert cli("export", "acme", "AcmeTask", "--to", name).status == 0
        assert cli("export", "acme", "AcmeTask", "--to", "n" * 300).status == 1

    def test_a_folder_gets_a_file_for_each_entity(self, cli: Cli, folder: ProjectFolder) -> None:
        words = ("export", "acme", "AcmeTask", "AcmeUser", "--to", "out", "--format", "tsv")
        data = cli(*words, "-o", "json").data
        assert [(one["name"], one["rows"]) for one in data["data"]] == [("acme_task", 2), ("acme_user", 2)]
        assert sorted(path.name for path in Path("out").iterdir()) == ["acme_task.tsv", "acme_user.tsv"]

    def test_a_folder_that_cannot_be_made_is_an_error_of_the_disk(
        self, cli: Cli, folder: ProjectFolder
    ) -> None:
        Path("file").write_text("")
        done = cli("export", "acme", "AcmeTask", "--to", "file/t.csv")
        assert (done.status, "Traceback" in done.err) == (1, False)

    @pytest.mark.parametrize(
        "words",
        [
            ("--to", "t.unknown"),
            ("--format", "parquet"),
            ("--format", "xml"),
            ("AcmeUser",),
            ("--to", ""),
            ("--to", "-"),
            ("--to", "t.db", "--spreadsheet"),
            ("AcmeUser", "--to", "both.csv"),
            ("AcmeUser", "--to", "out", "--filter", "id = x"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(
        self, cli: Cli, folder: ProjectFolder, words: tuple[str, ...]
    ) -> None:
        assert cli("export", "acme", "AcmeTask", *words).status == 2

    @pytest.mark.parametrize(("name", "format"), [("a.CSV", "csv"), ("a.jsonl", "ndjson"), ("a.x", None)])
    def test_the_ending_of_a_file_says_its_format(self, name: str, format: str | None) -> None:
        assert format_of(Path(name)) == format


def test_memory_does_not_grow_with_the_rows(folder: ProjectFolder, tmp_path: Path) -> None:
    more = [AcmeTask(f"m{n}", title=f"Task {n} " + "x" * 100, priority=n) for n in range(12_000)]
    asyncio.run(store(data_file(folder, folder.target("acme")), *more))

    def peak(limit: int) -> int:
        with Project(folder).read("acme:default") as reader:
            query = reader.query("AcmeTask").limit(limit)
            one = Selection("acme_task", query, tuple(reader.rows(query.limit(1), "id,title,priority").paths))
            tracemalloc.start()
            export(reader, [one], "csv", tmp_path / "m.csv", force=True)
            found = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return found

    peak(3_000)  # what is made at the first use
    few, many = (min(peak(limit) for _ in range(3)) for limit in (3_000, 12_000))  # others allocate as well
    assert many < few * 1.1
