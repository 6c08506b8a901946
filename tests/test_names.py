"""Entities and fields may have any name: those of our tables, aliases and columns, and the words of SQL.

The names are taken from the source, so the list is never out of date.  A life of an installation
(syncs, removal, history, filters through refs, an upgrade) gives with such names what it gives with
plain ones.
"""

from __future__ import annotations

import ast
import asyncio
import re
import string
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import max as package
from max.connector import Connector
from max.core import InstallationInfo
from max.errors import SchemaError
from max.model.entities import RESERVED, Entity, FieldOf, ManyOf, Ref, values_of
from max.model.loaders import Loader
from max.model.migrations import ChangeKey, ChangeType, DropField, Migration, RenameEntity, RenameField
from max.model.plan import Step, SyncPlan
from max.model.query import Page, QueryPage
from max.model.schema import Schema
from max.model.settings import Settings
from max.runtime import InstallationRuntime
from max.storage.sqlite import SqliteDatabase
from max.upstream.credentials import CredentialProvider, MemoryCredentials
from tests import versions
from tests.sample import SampleConfig, sample
from tests.versions import made

SESSION = 1_000.0  # seconds, from one sync to the next
FIELDS = 40  # of one entity
KEYWORDS = """
    abort action add after all alter always analyze and as asc attach autoincrement before begin
    between by cascade case cast check collate column commit conflict constraint create cross
    current current_date current_time current_timestamp database default deferrable deferred delete
    desc detach distinct do drop each else end escape except exclude exclusive exists explain fail
    filter first following for foreign from full generated glob group groups having if ignore
    immediate in index indexed initially inner insert instead intersect into is isnull join key last
    left like limit match materialized natural no not nothing notnull null nulls of offset on or
    order others outer over partition plan pragma preceding primary query raise range recursive
    references regexp reindex release rename replace restrict returning right rollback row rows
    savepoint select set table temp temporary then ties to transaction trigger unbounded union
    unique update using vacuum values view virtual when where window with without rowid oid true
    false id type atom path fullkey root json value key main
"""


PROSE, SQL = re.compile("[a-z]+ [a-z]+ [a-z]+"), re.compile(r"\b[A-Z]{2,}\b")  # messages are left out


def words_of_storage() -> set[str]:
    """Every word in a text of max/storage that is neither prose nor a docstring: tables, columns, SQL."""
    found: set[str] = set()
    for path in (Path(package.__file__).parent / "storage").glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docs = {ast.get_docstring(one, clean=False) for one in nodes if isinstance(one, documented)}
        for one in nodes:
            if not isinstance(one, ast.Constant) or not isinstance(one.value, str) or one.value in docs:
                continue
            if not PROSE.search(one.value) or SQL.search(one.value):
                found.update(re.findall(r"[A-Za-z_][A-Za-z_0-9]*", one.value))
    return found


@cache
def field_names() -> Sequence[str]:
    """These words as names of fields."""
    words = {word.strip("_").lower() for word in (words_of_storage() | {*KEYWORDS.split()})}
    words |= {*string.ascii_lowercase, *dir(Entity)}
    return sorted(
        word for word in words if word.isidentifier() and word not in {*RESERVED, "id"} and word[0] != "_"
    )


def entity_names() -> Iterator[str]:
    """These words as names of entities, in turn; not those with which annotations are written."""
    while True:
        for word in map(str.capitalize, field_names()):
            table = word.lower()
            if not hasattr(versions, word) and word != "None" and not table.startswith(("sqlite_", "max_")):
                yield word


# -- a life --------------------------------------------------------------------------------------


class Names(NamedTuple):
    """How the entities and fields of one life are called."""

    fields: Sequence[str]
    later: Sequence[str]  # of the fields after the upgrade
    entities: Sequence[str]  # items, boxes and the root, and the items after the upgrade


PLAIN = Names(
    [f"field_{number}" for number in range(FIELDS)],
    [f"later_{number}" for number in range(FIELDS)],
    ["Plain1", "Plain2", "Plain3", "Plain4"],
)
ALONE = (4, 5, 6)  # the numbers of the fields that a loader fetches for one row
DROPPED = FIELDS - 4


def kind(n: int) -> str:
    """The kind of the nth field: every other one is a ref."""
    return "ref" if n % 2 else "int" if n % 4 == 2 else "text"


CODES = {"a": "code of a", "b": "code of b"}


class Life:
    """The connector of one life in two versions, and what its service holds."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.items = {id: self.row(id, 0) for id in "123"}
        self.clock = 0.0

    def row(self, id: str, version: int) -> dict[int, Any]:
        """The values of an item by the number of the field; refs are letters of boxes."""
        return {
            n: {
                "text": f"{version} {n} {id}",
                "ref": "ab"[(n // 2 + int(id) + version) % 2],
                "int": n * int(id) + version,
            }[kind(n)]
            for n in range(FIELDS)
        }

    def connector(self, *, upgraded: bool) -> Connector[Any, Any]:
        """What the connector declares; upgraded, all but the last names are others."""
        names = self.names
        fields = [*names.later] if upgraded else [*names.fields]
        item_name, box_name, root_name = names.entities[3 if upgraded else 0], *names.entities[1:3]
        ref = f"Ref[{box_name}] | None"
        types = {"text": "str | None", "ref": ref, "int": "str | None" if upgraded else "int | None"}
        number = {n: name for n, name in enumerate(fields) if not (upgraded and n == DROPPED)}
        hints = {name: types[kind(n)] for n, name in number.items()}
        back, along, members = fields[1], fields[3], names.fields[0]
        item: Any = made(item_name, hints)
        inverse: dict[str, Any] = {
            members: (item_name, lambda: FieldOf(item, back)),
            "other_members": (item_name, lambda: FieldOf(item, along)),
        }
        box: Any = made(box_name, {names.fields[2]: "str"}, **inverse)
        root: Any = made(root_name, {}, **{members: (box_name, None)})
        schema = Schema([root, box, item], roots=[root])
        code, alone = names.fields[2], [FieldOf[Any, Any](item, fields[n]) for n in ALONE]
        brings = [FieldOf[Any, Any](item, name) for n, name in number.items() if n not in ALONE]

        def entity(id: str, numbers: Sequence[int]) -> Any:
            values = {number[n]: self.items[id][n] for n in numbers if n in number}
            keys = CODES if upgraded else {"a": "a", "b": "b"}
            for n in numbers:
                if kind(n) == "ref":
                    values[number[n]] = box.ref(keys[self.items[id][n]])
                elif kind(n) == "int" and upgraded and n in number:
                    values[number[n]] = str(self.items[id][n])
            return item(id, **values)

        async def boxes(parent: Ref[Any], request: Any, env: Any) -> Page[Any]:
            keys = CODES.values() if upgraded else CODES
            return Page([box(id, **{code: CODES.get(id, id)}) for id in keys])

        async def items(parent: Ref[Any], request: Any, env: Any) -> Page[Any]:
            letter = parent.id[-1]
            return Page(
                [
                    entity(id, [n for n in range(FIELDS) if n not in ALONE])
                    for id, row in self.items.items()
                    if row[1] == letter
                ]
            )

        async def fetched(ref: Ref[Any], env: Any) -> Any:
            return entity(ref.id, ALONE)

        loaders = [
            Loader.collection(ManyOf[Any, Any](root, members), brings=[FieldOf[Any, Any](box, code)])(boxes),
            Loader.collection(ManyOf[Any, Any](box, members), brings=brings)(items),
            Loader.entity(*alone)(fetched),
        ]

        async def seed(context: Any, engine: Any) -> SyncPlan:
            await engine.store(root("root"))
            listed = Step.for_root(root.ref("root")).load_collection(ManyOf[Any, Any](root, members))
            every = Step.for_all(box).load_collection(ManyOf[Any, Any](box, members))
            return SyncPlan([listed, every, Step.for_all(item).load_fields(*alone)])

        migrations = [self.migration()] if upgraded else []
        return sample(schema=schema, loaders=loaders, seeder=seed, migrations=migrations)

    def migration(self) -> Migration:
        """All names of items change, and the code of a box becomes its id."""
        item, box = self.names.entities[0], self.names.entities[1]
        old, new = self.names.fields, self.names.later
        steps: list[Any] = [ChangeType(item, old[n], using=str) for n in range(2, FIELDS, 4)]
        steps += [DropField(item, old[DROPPED]), ChangeKey(box, old[2])]
        temporary = [(n, f"between_{n}") for n in range(FIELDS) if n != DROPPED]
        steps += [RenameField(item, old[n], name) for n, name in temporary]
        steps += [RenameField(item, name, new[n]) for n, name in temporary]
        return Migration("other words", *steps, RenameEntity(item, self.names.entities[3]))

    def tick(self) -> float:
        self.clock += 1.0
        return self.clock


async def answers(life: Life, runtime: InstallationRuntime, *, upgraded: bool) -> Any:
    """Everything that the engine says, with the names replaced by numbers."""
    names, engine = life.names, runtime.engine
    fields = names.later if upgraded else names.fields
    item = engine.schema.entity(names.entities[3 if upgraded else 0])
    box = engine.schema.entity(names.entities[1])
    numbers = {name: n for n, name in enumerate(fields)}
    code: FieldOf[Any, Any] = FieldOf(box, names.fields[2])

    def plain(values: Any, of: type[Entity]) -> dict[Any, Any]:
        number = numbers if of.__name__ == item.__name__ else {code.name: 2}
        found = {number.get(n, n): v.id if isinstance(v, Ref) else v for n, v in (values or {}).items()}
        return dict(sorted(found.items(), key=str))

    said: list[Any] = [
        {one.id: plain(values_of(one), item) for one in await engine.query(item).order_by(item.id).all()}
    ]
    for n, name in enumerate(fields):
        if not upgraded or n == DROPPED:
            continue
        field: FieldOf[Any, Any] = FieldOf(item, name)
        first = next(iter(await engine.query(item).order_by(item.id).limit(1).all()))
        value = getattr(first, name)
        asked = [field.eq(value), ~field.eq(value), field.synced_before(SESSION)]
        if kind(n) == "ref":
            asked += [field.to(code).contains("OF A"), field.to(code).synced_before(3 * SESSION)]
        said += [await engine.query(item).where(one).count() for one in asked]
        ordered = await engine.query(item).order_by(field).select(item.id).all()
        said.append([one.id for one in ordered])
        found = await runtime.sync_meta.ages(field, now=9 * SESSION)
        said.append(
            [found.never, sorted(age // SESSION for age, number in found.ages for _ in range(number))]
        )
    for id in ("a", "b", *CODES.values()):
        for many in (names.fields[0], "other_members"):
            listed: QueryPage[Any] = await engine.load_collection(box.ref(id), ManyOf(box, many))
            said.append(sorted(one.id for one in listed.items))
    changes = [one async for one in engine.changes()]
    entities = {name: n for n, name in enumerate(names.entities)}
    changed = [
        (
            one.kind,
            entities[one.entity.__name__] % 3,
            one.id,
            plain(one.old, one.entity),
            plain(one.new, one.entity),
        )
        for one in changes
    ]
    said.append(sorted(changed, key=repr))  # two pages may come in any order
    return said


async def lived(life: Life, path: Path) -> list[Any]:
    """What is said after each sync of a life."""
    said: list[Any] = []
    info = InstallationInfo(
        "sample", "default", "1", {}, 0.0, Settings(history="changes", removed_days=0, removal_share=1.0)
    )

    async def session(*, upgraded: bool, asked: bool = True) -> None:
        life.clock += SESSION - life.clock % SESSION
        credentials = CredentialProvider(MemoryCredentials(), [])
        connector = life.connector(upgraded=upgraded)
        runtime = InstallationRuntime(
            info, connector, SampleConfig(), credentials, SqliteDatabase(path), clock=life.tick
        )
        await runtime.start()
        try:
            result = await (await runtime.sync()).completion()
            assert result.failures == ()
            said.append([result.status, result.removed, list(result.counts.values())])
            if asked:
                said.append(await answers(life, runtime, upgraded=upgraded))
            entity = life.names.entities[3 if upgraded else 0]
            field = (life.names.later if upgraded else life.names.fields)[0]
            stale = await runtime.invalidate(f"{entity}.{field}", where="id = 1")
            said.append([one.rows for one in stale.fields])
        finally:
            await runtime.stop()

    await session(upgraded=False, asked=False)
    life.items["1"] = life.row("1", 1)
    await session(upgraded=False, asked=False)
    del life.items["2"]
    await session(upgraded=False)
    life.items["4"] = life.row("4", 0)
    await session(upgraded=True, asked=False)
    life.items["3"] = life.row("3", 5)
    await session(upgraded=True)
    return said


def lives() -> list[Names]:
    """Every name of a field, as a ref and as a value, before and after the upgrade."""
    entities, found = entity_names(), []
    for shift in (0, 1):  # each name is that of a ref once
        words = field_names()
        whole = len(words) + shift + -(len(words) + shift) % FIELDS
        words = [*words[-shift:], *words, *words][:whole] if shift else [*words, *words][:whole]
        some = [words[at : at + FIELDS] for at in range(0, whole, FIELDS)]
        for one, other in zip(some, [*some[1:], some[0]], strict=True):
            found.append(Names(one, other, [next(entities) for _ in range(4)]))
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What a life with plain names gives."""
    return asyncio.run(lived(Life(PLAIN), tmp_path_factory.mktemp("plain") / "data.db"))


@pytest.mark.parametrize("names", lives(), ids=lambda names: f"{names.fields[0]}-{names.fields[-1]}")
def test_a_life_with_any_names_is_that_with_plain_ones(
    names: Names, expected: list[Any], tmp_path: Path
) -> None:
    assert asyncio.run(lived(Life(names), tmp_path / "data.db")) == expected


@pytest.mark.parametrize("name", ["Each", "Tree"])
def test_a_view_never_hides_a_function_of_the_database(name: str) -> None:
    with pytest.raises(SchemaError, match=f"the table name json_{name.lower()} is reserved"):
        Schema([made(name, {})], connector="json")
