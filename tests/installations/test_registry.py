from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.errors import ConnectorError, MissingExtra, UnknownName
from max.installations.registry import VARIABLE, ConnectorRegistry
from tests.sample import executed, source

ROOT = Path(__file__).parents[2]


def write(folder: Path, name: str, text: str | None = None) -> Path:
    """Write the file of a connector; makes the folder if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"max_{name}.py"
    path.write_text(source(name) if text is None else text)
    return path


def install(site: Path, distribution: str, points: dict[str, str]) -> None:
    """Write the metadata of an installed distribution with these entry points."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[max.connectors]", *lines, ""]))


@contextmanager
def process_state() -> Iterator[None]:
    """Restore the modules, the search path and the environment afterwards."""
    modules, path, variable = set(sys.modules), list(sys.path), os.environ.pop(VARIABLE, None)
    executed.clear()
    try:
        yield
    finally:
        for name in set(sys.modules) - modules:
            if "max_" in name:
                del sys.modules[name]
        sys.path[:] = path
        os.environ.pop(VARIABLE, None)
        if variable is not None:
            os.environ[VARIABLE] = variable


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with process_state():
        yield


class TestFinding:
    """Where names come from, and which file belongs to a name."""

    def test_names_are_sorted_and_nothing_is_imported(self, tmp_path: Path) -> None:
        write(tmp_path, "zebra", "raise RuntimeError('imported')")
        write(tmp_path, "aardvark", "raise RuntimeError('imported')")
        names = ConnectorRegistry([tmp_path]).names()
        assert [name for name in names if name in ("zebra", "aardvark")] == ["aardvark", "zebra"]

    def test_a_missing_folder_has_no_connectors(self, tmp_path: Path) -> None:
        assert "sample" not in ConnectorRegistry([tmp_path / "connectors"]).names()

    def test_the_environment_is_read_at_each_call(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = ConnectorRegistry()
        monkeypatch.setenv(VARIABLE, os.pathsep.join([str(tmp_path), "", str(write(tmp_path / "b", "two"))]))
        write(tmp_path, "one")
        assert {"one", "two"} <= set(found.names())
        assert found.resolve("two").name == "two"

    @pytest.mark.parametrize("wrong", ["missing", "other.py"])
    def test_a_wrong_path_in_the_environment_is_an_error(
        self, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "other.py").touch()
        monkeypatch.setenv(VARIABLE, str(tmp_path / wrong))
        with pytest.raises(ConnectorError, match=f"MAX_CONNECTORS names .*{wrong}"):
            ConnectorRegistry().names()

    def test_an_unknown_name_is_an_error_with_the_nearest_names(self, tmp_path: Path) -> None:
        write(tmp_path, "widgets")
        with pytest.raises(UnknownName) as caught:
            ConnectorRegistry([tmp_path]).resolve("wigets")
        assert "widgets" in caught.value.hint
        assert caught.value.exit_status == 2

    def test_installed_packages_offer_connectors(self, tmp_path: Path) -> None:
        install(tmp_path, "max-parcel", {"parcel": "parcel_source.main:made"})
        (tmp_path / "parcel_source").mkdir()
        (tmp_path / "parcel_source" / "__init__.py").touch()
        (tmp_path / "parcel_source" / "main.py").write_text(source("parcel").replace("connector =", "made ="))
        sys.path.insert(0, str(tmp_path))
        found = ConnectorRegistry()
        assert "parcel" in found.names()
        assert found.resolve("parcel").name == "parcel"
        for name in ("parcel_source", "parcel_source.main"):
            sys.modules.pop(name, None)

    def test_an_installed_connector_without_its_module_is_an_error(self, tmp_path: Path) -> None:
        install(tmp_path, "max-parcel", {"parcel": "max_parcel:connector"})
        sys.path.insert(0, str(tmp_path))
        with pytest.raises(ConnectorError, match="installed as max_parcel:connector"):
            ConnectorRegistry().resolve("parcel")

    def test_two_files_for_one_name_are_an_error_that_names_both(self, tmp_path: Path) -> None:
        one, two = write(tmp_path / "a", "twin"), write(tmp_path / "b", "twin")
        with pytest.raises(ConnectorError) as caught:
            ConnectorRegistry([tmp_path / "a", tmp_path / "b"]).resolve("twin")
        assert str(one) in str(caught.value)
        assert str(two) in str(caught.value)
        assert executed == []

    def test_one_file_found_twice_is_not_a_clash(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "a", "single")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        monkeypatch.setenv(VARIABLE, str(tmp_path / "b"))
        assert ConnectorRegistry([tmp_path / "a"]).resolve("single").name == "single"

    def test_a_checkout_uses_its_own_connectors_before_those_it_installed(self, tmp_path: Path) -> None:
        installed, beside = (tmp_path / place / "max_connectors" for place in ("site", "checkout/connectors"))
        for package, text in ((installed, "raise RuntimeError('the installed one')"), (beside, CONNECTOR)):
            package.mkdir(parents=True)
            (package / "__init__.py").touch()
            (package / "tiny.py").write_text(text)
        install(tmp_path / "site", "max-sync", {"tiny": "max_connectors.tiny:connector"})
        (tmp_path / "checkout" / "max").symlink_to(ROOT / "max")
        code = (
            f"import sys; sys.path[:0] = [{str(tmp_path / 'checkout')!r}, {str(tmp_path / 'site')!r}]\n"
            "from max import ConnectorRegistry\n"
            "ConnectorRegistry().resolve('tiny')\n"
            "print(sys.modules['max_connectors.tiny'].__file__)"
        )
        done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == (f"{beside / 'tiny.py'}\n", "")

    def test_a_connector_that_the_program_imported_is_the_one_that_is_resolved(self, tmp_path: Path) -> None:
        shutil.copytree(ROOT / "connectors" / "max_connectors", tmp_path / "max_connectors")
        code = (
            f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
            "from max import ConnectorRegistry\n"
            "from max_connectors import acme\n"
            "assert ConnectorRegistry().resolve('acme') is acme.connector"
        )
        done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")

    def test_a_part_of_a_connector_is_not_listed_as_a_connector(self) -> None:
        names = ConnectorRegistry().names()
        assert {"acme", "git", "linear"} <= set(names)
        assert "acme_service" not in names

    @settings(deadline=None, max_examples=25)
    @given(
        st.dictionaries(
            st.from_regex(r"p28_[a-z0-9_]{1,6}", fullmatch=True),
            st.lists(
                st.tuples(st.sampled_from(["folder", "variable", "file", "point"]), st.integers(0, 1)),
                min_size=1,
                max_size=3,
                unique_by=lambda route: route[0],
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_p28_every_connector_is_imported_once_and_alone_and_a_clash_is_an_error(
        self, sources: dict[str, list[tuple[str, int]]]
    ) -> None:
        with TemporaryDirectory() as base, process_state():
            write_layout(Path(base), sources)
            found = ConnectorRegistry([Path(base) / "folder"])
            assert set(sources) <= set(found.names())
            assert executed == []
            for name, routes in sources.items():
                executed.clear()
                if len({content for _, content in routes}) > 1:
                    with pytest.raises(ConnectorError, match=f"two connectors are named '{name}'") as caught:
                        found.resolve(name)
                    assert all(f"{content}/max_{name}.py" in real(caught.value) for _, content in routes)
                    assert executed == []
                else:
                    assert found.resolve(name) is found.resolve(name)
                    assert ConnectorRegistry([Path(base) / "folder"]).resolve(name) is found.resolve(name)
                    assert executed == [name]


def real(error: ConnectorError) -> str:
    """The words of an error, with links in paths resolved."""
    return " ".join(os.path.realpath(word) for word in str(error).split())


def write_layout(base: Path, sources: dict[str, list[tuple[str, int]]]) -> None:
    """Write connectors: each way to find one is a link to the file in folder 0 or 1."""
    points: dict[str, str] = {}
    files: list[str] = []
    for name, routes in sources.items():
        for route, content in routes:
            held = write(base / str(content), name)
            link = base / route / name / held.name if route == "file" else base / route / held.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(held)
            files += [str(link)] if route == "file" else []
            points |= {name: f"max_{name}:connector"} if route == "point" else {}
    (base / "variable").mkdir(exist_ok=True)
    install(base / "point", "some-connectors", points)
    sys.path.insert(0, str(base / "point"))
    os.environ[VARIABLE] = os.pathsep.join([str(base / "variable"), *files])


class TestLoading:
    """Loading a connector's file, and the errors for what is wrong with it."""

    def test_a_module_is_importable_under_its_own_name_afterwards(self, tmp_path: Path) -> None:
        write(tmp_path, "named")
        made = ConnectorRegistry([tmp_path]).resolve("named")
        assert sys.modules["max_named"].connector is made

    def test_a_module_that_is_imported_already_is_used(self, tmp_path: Path) -> None:
        write(tmp_path, "early")
        sys.path.insert(0, str(tmp_path))
        early = __import__("max_early")
        assert ConnectorRegistry([tmp_path]).resolve("early") is early.connector

    def test_two_projects_can_have_connectors_of_the_same_name(self, tmp_path: Path) -> None:
        write(tmp_path / "a", "local")
        write(tmp_path / "b", "local")
        one, two = (ConnectorRegistry([tmp_path / folder]).resolve("local") for folder in "ab")
        assert one is not two
        assert executed == ["local", "local"]

    def test_an_error_in_the_file_is_reported_with_its_line(self, tmp_path: Path) -> None:
        path = write(tmp_path, "broken", "x = 1\n\nprint(x.y)\n")
        with pytest.raises(ConnectorError, match=f"{path}:3: AttributeError: 'int' object has no"):
            ConnectorRegistry([tmp_path]).resolve("broken")
        assert "max_broken" not in sys.modules

    def test_a_syntax_error_is_reported_with_its_line(self, tmp_path: Path) -> None:
        path = write(tmp_path, "spelt", "x = 1\ny = = 2\n")
        with pytest.raises(ConnectorError, match=f"{path}:2: SyntaxError: invalid syntax"):
            ConnectorRegistry([tmp_path]).resolve("spelt")

    def test_an_invalid_declaration_is_reported_with_its_line(self, tmp_path: Path) -> None:
        path = write(tmp_path, "loose", "from tests.sample import sample\nconnector = sample(name='Bad!')\n")
        with pytest.raises(ConnectorError, match=f"{path}:2: name: 'Bad!'"):
            ConnectorRegistry([tmp_path]).resolve("loose")

    def test_a_missing_extra_keeps_its_own_message(self, tmp_path: Path) -> None:
        text = "from max.errors import MissingExtra\nraise MissingExtra('http', 'httpx2', 'this')\n"
        write(tmp_path, "hungry", text)
        with pytest.raises(MissingExtra, match="needs httpx2"):
            ConnectorRegistry([tmp_path]).resolve("hungry")

    def test_a_file_without_a_connector_is_an_error(self, tmp_path: Path) -> None:
        write(tmp_path, "empty", "")
        with pytest.raises(
            ConnectorError, match=r"max_empty.py has no connector: its 'connector' is missing"
        ):
            ConnectorRegistry([tmp_path]).resolve("empty")

    def test_a_connector_with_another_name_than_its_file_is_an_error(self, tmp_path: Path) -> None:
        write(tmp_path, "inside", source("outside"))
        with pytest.raises(ConnectorError, match="is named 'outside', but is found as 'inside'"):
            ConnectorRegistry([tmp_path]).resolve("inside")

    def test_a_corrected_file_loads(self, tmp_path: Path) -> None:
        found = ConnectorRegistry([tmp_path])
        write(tmp_path, "second", "1 / 0")
        with pytest.raises(ConnectorError, match="ZeroDivisionError"):
            found.resolve("second")
        write(tmp_path, "second")
        assert found.resolve("second").name == "second"


CONNECTOR = """
from dataclasses import dataclass
import max.core as core
import max
from max.connecting import Connector, Entity, Field, Installation, Loader, Many, Page, Ref
from max.connecting import Schema, Store, SyncPlan
from max.errors import Offline

class Thing(Entity):
    title: Field[str] = Field()

class Root(Entity):
    things: Many[Thing] = Many()

@dataclass(frozen=True)
class Config:
    title: str = "a"

@Loader.collection(Root.things, brings=[Thing.title])
async def things(parent: Ref[Root], request, env):
    import max.model.entities
    return Page([max.model.entities.Entity is Entity, core.Store is Store])

async def seed(context, engine):
    return SyncPlan([])

async def initialise(config, credentials):
    return Installation(config)

schema = Schema([Root, Thing], roots=[Root])
connector = Connector(name="tiny", description="", schema=schema, loaders=[things],
                      seeder=seed, initialise=initialise, config=Config)
"""

PROGRAM = """
import sys, typing, asyncio
sys.path.insert(0, {base!r})
from host._vendor.zmax.installations.registry import ConnectorRegistry
from host._vendor.zmax.connecting import Connector
connector = ConnectorRegistry().resolve("tiny")
assert isinstance(connector, Connector)
assert typing.get_type_hints(connector.config) == {{"title": str}}
page = asyncio.run(connector.loaders[0].load(None, None, None))
assert page.items == [True, True], page
assert not [name for name in sys.modules if name.split(".")[0] in ("max", "max_connectors")]
assert ConnectorRegistry().resolve("tiny") is connector
print(ConnectorRegistry().names())
"""


class TestVendored:
    """This package as a copy under another name."""

    def test_connectors_beside_a_copy_belong_to_the_copy(self, tmp_path: Path) -> None:
        vendor = tmp_path / "host" / "_vendor"
        shutil.copytree(ROOT / "max", vendor / "zmax", ignore=shutil.ignore_patterns("__pycache__"))
        ours = vendor / "connectors" / "max_connectors"
        ours.mkdir(parents=True)
        (ours / "__init__.py").touch()
        (ours / "tiny.py").write_text("from .tiny_parts import CORE\n" + CONNECTOR + "assert CORE is core\n")
        (ours / "tiny_parts.py").write_text("import max.core\nCORE = max.core\n")
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", "-c", PROGRAM.format(base=str(tmp_path))],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("['tiny']\n", "")


# -- what is kept of a connector -------------------------------------------------------------------

WRITTEN = """
from tests.sample import *
class Kept(Entity):
    '''A thing.'''
    {field}: Field[str] = Field()
class KeptRoot(Entity):
    '''The root.'''
    things: Many[Kept] = Many()
@Loader.collection(KeptRoot.things, brings=[Kept.{field}])
async def list_things(parent: Ref[KeptRoot], request: PageRequest, env: Env[SampleConfig]) -> Page[Kept]:
    return Page([])
connector = sample(
    name="kept", version="{version}", schema=Schema([KeptRoot, Kept], roots=[KeptRoot]), loaders=[list_things]
)
"""
edits = st.lists(st.tuples(st.sampled_from(["name", "text", "mail"]), st.sampled_from("123")), min_size=1)


@pytest.mark.parametrize("found_by", ["folder", "variable"])
@settings(deadline=None, max_examples=25)
@given(edits)
def test_p36_a_kept_connector_equals_a_fresh_one_until_its_file_changes(
    found_by: str, versions: list[tuple[str, str]]
) -> None:
    with process_state(), TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", False)
        folder = Path(place)
        kept: list[tuple[ConnectorRegistry, dict[str, object]]] = []
        for field, version in versions:
            path = write(folder, "kept", WRITTEN.format(field=field, version=version))
            os.utime(path, (1_750_000_000, 1_750_000_000))  # same size, same time: only the content differs
            if found_by == "variable":
                os.environ[VARIABLE] = place
            for name in [one for one in sys.modules if one.startswith("max_kept")]:
                del sys.modules[name]  # as in a new process
            registry = ConnectorRegistry([folder] if found_by == "folder" else [])
            fresh = registry.resolve("kept")
            assert (fresh.version, list(fresh.loaders[0].brings)) == (version, [fresh.loaders[0].brings[0]])
            assert fresh.manifest()["loaders"][0]["brings"] == [f"Kept.{field}"]
            kept.append((registry, fresh.manifest()))
            assert ConnectorRegistry([folder] if found_by == "folder" else []).resolve("kept") is fresh
        for registry, manifest in kept:  # a process that runs on has the connector that it loaded, whole
            assert registry.resolve("kept").manifest() == manifest


@pytest.mark.parametrize(
    ("line", "change", "said"),
    [
        (5, ("name: Field[str]", "name: str"), "Kept.name is annotated str"),
        (5, ("name: Field[str]", "name: Field[set[str]]"), "Kept.name is annotated set"),
        (8, ("Many[Kept]", "Many[str]"), "KeptRoot.things does not name one entity, but str"),
        (10, ("async def", "def"), "list_things is not an async function"),
        (5, ("brings=[Kept.name]", "brings=[]"), "Kept.name has no loader that brings it"),
    ],
)
def test_the_line_of_an_error_is_that_of_the_declaration_that_it_names(
    tmp_path: Path, line: int, change: tuple[str, str], said: str
) -> None:
    text = WRITTEN.format(field="name", version="1")
    path = write(tmp_path, "kept", text.replace(*change))
    with pytest.raises(ConnectorError) as caught:
        ConnectorRegistry([tmp_path]).resolve("kept")
    assert caught.value.message.startswith(f"{path}:{line}: ")
    assert said in caught.value.message


def test_an_unknown_connector_says_where_its_file_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UnknownName) as caught:
        ConnectorRegistry([tmp_path]).resolve("nowhere")
    assert f"max_NAME.py is looked for in {tmp_path}" in caught.value.hint
