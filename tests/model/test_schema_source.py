"""A schema as Python: mypy accepts the module, and loading it gives back the schema."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from max_connectors import acme, git, github, google_drive, linear

from max.model.schema import Schema
from max.model.schema_source import schema_source
from tests.strategies import schemas

ROOT = Path(__file__).parents[2]
NAMES = [
    "class",
    "from",
    "vars",
    "getattr",
    "str",
    "date",
    "Field",
    "Json",
    "Schema",
    "Größe",
    "日本",
    "read",
    "Literal",
]
ODD = Schema.from_json(
    {
        "connector": "odd",
        "entities": [
            {
                "name": name,
                "description": 'It says """so\' and \\ so.',
                "title": "class",
                "fields": [
                    {
                        "name": one,
                        "kind": "text",
                        "optional": False,
                        "target": None,
                        "description": "",
                        "searchable": False,
                        "brief": one == "from",
                    }
                    for one in NAMES
                ]
                + [
                    {
                        "name": "lambda",
                        "kind": "ref",
                        "optional": True,
                        "target": "Ref",
                        "description": "",
                        "searchable": False,
                        "brief": False,
                    },
                    {
                        "name": "list",
                        "kind": "json",
                        "optional": True,
                        "target": "Größe",
                        "shape": "list[Ref]",
                        "description": "",
                        "searchable": False,
                        "brief": False,
                    },
                    {
                        "name": "choices",
                        "kind": "text",
                        "optional": False,
                        "target": None,
                        "choices": ["a", 'it\'s "b"', "\\", ""],
                        "description": "",
                        "searchable": False,
                        "brief": False,
                    },
                ],
                "collections": [{"name": "pass", "child": "Ref", "by": None, "description": ""}]
                + (
                    [{"name": "is", "child": "Ref", "by": "lambda", "description": ""}]
                    if name == "Ref"
                    else []
                ),
            }
            for name in ("Ref", "Größe", "Entity", "SCHEMA", "Field", "Many")
        ],
        "roots": ["Entity"],
    }
)


def loaded(path: Path) -> Schema:
    """The schema that a module declares."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found = getattr(module, "_SCHEMA", None) or module.SCHEMA
    finally:
        del sys.modules[path.stem]
    assert isinstance(found, Schema)
    return found


@settings(max_examples=2, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.lists(schemas(), min_size=12, max_size=12))
def test_p5_the_module_of_any_schema_passes_mypy_and_gives_back_the_schema(
    tmp_path_factory: object, drawn: list[Schema]
) -> None:
    folder = tmp_path_factory.mktemp("modules")  # type: ignore[attr-defined]  # pytest's fixture
    ours = [one.connector.schema for one in (acme, git, github, google_drive, linear)]
    for number, schema in enumerate([*drawn, ODD, *ours]):
        path = folder / f"schema_{number}.py"
        path.write_text(schema_source(schema), encoding="utf-8")
        assert loaded(path) == schema
    words = ["--strict", "--cache-dir", str(ROOT / ".mypy_cache"), *map(str, sorted(folder.glob("*.py")))]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
