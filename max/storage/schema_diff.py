"""Schema diff: the plan that makes stored data fit what a connector declares now.

Nothing is written here.  The plan says for each difference what will happen, what it costs, and
whether old queries still work.  A change that is not safe is refused, and the refusal names the
declaration that would allow it.

Example: the database has Task.name, the connector declares Task.title.  Without a migration that
reads as "name is hidden, title is new": allowed, since nothing is lost.  With
``RenameField("Task", "name", "title")`` the column is renamed and keeps its values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from ..errors import DAMAGED, SchemaError, StorageCorrupt
from ..model.entities import Entity, FieldOf, FieldType
from ..model.json_types import ANY
from ..model.loaders import CollectionLoader, FeedLoader, Resolver
from ..model.migrations import (
    ChangeKey,
    ChangeType,
    DropEntity,
    DropField,
    MigrationStep,
    RenameEntity,
    RenameField,
)
from ..model.schema import table_name
from ..model.soundness import few
from ..model.struct import Struct
from ..model.values import Json, Kind
from .catalogue import check_recorded, refuse_gone
from .database import TRUE, Connection, quoted
from .schema_operations import (
    NewKey,
    Path,
    SchemaOperations,
    Using,
    duplicate_key_error,
    duplicates,
    loaded_bit,
    too_large,
)
from .tables import read_schema, refuse_foreign
from .users_own import (
    CONDITIONS,
    FIRING,
    INDEXING,
    NOT_REMADE,
    REQUIRED,
    VIEWS,
    UsersOwn,
    dropping,
    listed,
    users_own,
    with_readers,
)

Work = Callable[[SchemaOperations], int | None]

GONE = "is no longer declared: hidden, and kept"
DELETED = "is deleted with what was stored of it"


# -- what is stored ------------------------------------------------------------------------


class StoredField:
    """A field or a collection as it is stored, and as the plan has changed it so far.

    ``origin`` is the entity and the name under which it is stored; ``using`` the conversions
    that it is to go through; None among them means that it is fetched again.
    """

    def __init__(self, declared: Json, origin: Path, *, hidden: bool) -> None:
        self.declared, self.origin, self.hidden = declared, origin, hidden
        self.is_accounts = False  # it was one that the account has of its own
        self.using: list[Callable[[Any], Any] | None] = []
        self.version: int | None = None  # of the migration that changed its type last

    @property
    def many(self) -> bool:
        """Whether it is a collection."""
        return "child" in self.declared

    @property
    def column(self) -> str:
        """Its column, as SQL names it before anything is changed."""
        return quoted(self.origin[1])

    @property
    def using_all(self) -> list[Using] | None:
        """The conversions, or None when no value can be kept."""
        steps = [one for one in self.using if one is not None]
        return steps if len(steps) == len(self.using) else None


class StoredEntity:
    """An entity as it is stored, with its fields and collections by name.

    ``origin`` is the name under which it is stored, before anything is changed.
    """

    def __init__(self, name: str, *, hidden: bool) -> None:
        self.name, self.origin, self.hidden = name, name, hidden
        self.fields: dict[str, StoredField] = {}


Shape = dict[str, StoredEntity]


def read_shape(connection: Connection, connector: str) -> Shape | None:
    """The stored entities, hidden ones included; None when nothing is stored yet.  StorageForeign."""
    data = read_schema(connection)
    if data is None:
        return None
    refuse_foreign(data.get("connector", ""), connector)
    shape: Shape = {}
    for one in data["entities"]:
        entity = shape[one["name"]] = StoredEntity(one["name"], hidden=False)
        for declared in (*one["fields"], *one["collections"]):
            _place(entity, declared, hidden=False)
    for name, sources in data.get("account_fields", {}).items():
        for field in sources.keys() & shape[name].fields.keys():  # those that are gone are hidden
            shape[name].fields[field].is_accounts = True
    for name, _, text in hidden_rows(connection):
        entity = shape.setdefault(name, StoredEntity(name, hidden=True))
        if declared := json.loads(text):
            _place(entity, declared, hidden=True)
    return shape


def _place(entity: StoredEntity, declared: Json, *, hidden: bool) -> None:
    name = declared["name"]
    for key in ("child", "by") if "child" in declared else ("kind", "optional", "target"):
        declared[key]  # what is damaged is named where it is read
    entity.fields[name] = StoredField(declared, (entity.name, name), hidden=hidden)


def check_shape(connection: Connection, shape: Shape, connector: str) -> None:
    """StorageCorrupt when an entity's table, a field's number, or the record of what Max made, is gone."""
    refuse_gone(connection, [f"_{table_name(connector, one.origin)}" for one in shape.values()])
    numbered = {*connection.execute("SELECT entity, field FROM _max_field").fetchall()}
    stored = [field.origin for one in shape.values() for field in one.fields.values() if not field.many]
    if lost := [".".join(one) for one in stored if one not in numbered]:
        raise StorageCorrupt(f"the table _max_field lacks {few(lost)}", hint=DAMAGED)
    check_recorded(
        connection, [table_name(connector, one.origin) for one in shape.values() if not one.hidden]
    )


def check_columns(shape: Shape, connector: str, columns: Mapping[str, Collection[str]]) -> None:
    """StorageCorrupt when a column is gone; ``columns`` are those of each entity's table."""
    for origin, present in columns.items():
        stored = [name for name, field in shape[origin].fields.items() if not field.many]
        if lost := [name for name in ("_id", *stored) if name not in present]:
            table = f"_{table_name(connector, origin)}"
            raise StorageCorrupt(f"the table {table} lacks {', '.join(lost)}", hint=DAMAGED)


def columns_of(connection: Connection, shape: Shape, connector: str) -> dict[str, set[str]]:
    """The columns of each entity's table."""
    names = {one.origin: f"_{table_name(connector, one.origin)}" for one in shape.values()}
    return {name: connection.dialect.columns(connection, table) for name, table in names.items()}


def words_of(declared: Json) -> str:
    """What a field holds, for people."""
    if "child" in declared:
        return f"a collection of {declared['child']}"
    kind = f"a ref to {declared['target']}" if declared["target"] else declared.get("shape", declared["kind"])
    if declared["target"] and declared["kind"] == Kind.JSON:
        kind = f"list[Ref[{declared['target']}]]"
    if declared.get("choices"):
        kind = f"one of {', '.join(declared['choices'])}"
    return f"{kind} or nothing" if declared["optional"] else str(kind)


def hidden_rows(connection: Connection) -> list[tuple[str, str, str]]:
    """The entities and fields that are stored and no longer declared, each with its declaration."""
    return connection.execute("SELECT entity, name, declared FROM _max_hidden").fetchall()


# -- plans ---------------------------------------------------------------------------------


class SchemaChange(Struct):
    """One difference between what is stored and what is declared.

    ``compatible``: old queries go on to work, and give the same.  ``refused`` says which
    declaration would allow it; then nothing at all is changed.  ``migration`` is the version
    that declares it, ``rows`` how many are rewritten, ``fetch`` what the next sync has to get.
    """

    entity: str
    name: str
    kind: str
    words: str
    compatible: bool = True
    refused: str = ""
    migration: int | None = None
    rows: int = 0
    fetch: str = ""
    work: Work | None = None  # gives how many rows lack the field afterwards
    stored: StoredEntity | None = None

    @property
    def owner(self) -> str:
        """The entity's name when everything is done."""
        return self.stored.name if self.stored is not None else self.entity

    @property
    def where(self) -> str:
        """``Issue.title``, or ``Issue``."""
        return f"{self.entity}.{self.name}" if self.name else self.entity

    def to_json(self) -> Json:
        """The change as JSON data."""
        names = ("entity", "name", "kind", "words", "compatible", "migration", "rows", "fetch")
        data = {name: getattr(self, name) for name in names}
        return data | {"name": self.name or None, "refused": self.refused or None}


class MigrationPlan(Struct):
    """What an upgrade does to a database; ``fresh`` when nothing is stored yet.

    ``version`` is the newest migration that is recorded, ``known`` the newest there is.
    """

    changes: tuple[SchemaChange, ...]
    version: int
    known: int
    fresh: bool = False
    shape: Mapping[str, StoredEntity] | None = None

    @property
    def compatible(self) -> bool:
        """Whether every old query goes on to work."""
        return all(change.compatible and not change.refused for change in self.changes)

    @property
    def changes_data(self) -> bool:
        """Whether stored data is changed."""
        return any(change.work is not None for change in self.changes)

    def check(self) -> None:
        """SchemaError that names every refused change, and what would allow it."""
        refused = [change for change in self.changes if change.refused]
        if refused:
            message = "\n".join(f"{change.where} {change.words}" for change in refused)
            hints = dict.fromkeys(change.refused for change in refused)
            raise SchemaError(
                message,
                hint=f"{'; '.join(hints)}; nothing was changed",
                changes=[change.to_json() for change in refused],
            )


class Planner:
    """Goes through migrations and differences, and notes the change for each; writes nothing."""

    def __init__(self, connection: Connection, shape: Shape, resolver: Resolver) -> None:
        self._connection, self._shape, self._resolver = connection, shape, resolver
        self.version: int | None = None
        self.changes: list[SchemaChange] = []
        connector = resolver.schema.connector
        check_shape(connection, shape, connector)
        self._columns = columns_of(connection, shape, connector)
        check_columns(shape, connector, self._columns)

    def _note(self, entity: str, name: str, kind: str, words: str, **more: Any) -> None:
        stored = self._shape.get(entity)
        if stored is not None and kind in ("renamed", "dropped", "hidden"):
            views = [one for one in self._users(stored, name) if one.kind in VIEWS]
            if views and self._connection.dialect.binds_views:
                self._refuse_use((entity, name), stored, views)
                return
            words += f"; it is named by {listed(views)}" if views else ""
        facts = {"migration": self.version, "stored": stored, **more}
        self.changes.append(SchemaChange(entity, name, kind, words, **facts))

    def _refuse(self, path: Path, words: str, hint: str) -> None:
        self._note(*path, "refused", words, compatible=False, refused=hint)

    @cached_property
    def _users_own(self) -> list[UsersOwn]:
        return users_own(self._connection)

    @property
    def _naming(self) -> Sequence[str]:
        """What keeps a name from changing, or from going."""
        return (*FIRING, *VIEWS) if self._connection.dialect.binds_views else FIRING

    @property
    def _bound(self) -> Sequence[str]:
        """What keeps a column from getting another type."""
        binding = (*FIRING[1:], *VIEWS) if self._connection.dialect.binds_views else ()
        return ("column", *CONDITIONS, *binding)

    def _users(self, entity: StoredEntity, column: str = "") -> list[UsersOwn]:
        """What users made that uses an entity's table, or one column of it, or a column that uses that."""
        dialect, table, columns = self._connection.dialect, self._table(entity.origin), [column]
        own, found = [one for one in self._users_own if one.kind != "table"], []
        while columns:
            used = columns.pop()
            more = [one for one in own if one not in found and one.uses(dialect, table, used)]
            columns += [one.name for one in more if one.kind == "column"]
            found += more
        return [one for one in own if one in found]

    def _in_use(self, path: Path, entity: StoredEntity, column: str, *kinds: str) -> bool:
        """Whether something that users made is in the way of a change, which is refused then."""
        found = [one for one in self._users(entity, column) if one.kind in kinds]
        if found:
            self._refuse_use(path, entity, found)
        return bool(found)

    def _may_not_be_empty(self, path: Path, entity: StoredEntity, field: StoredField) -> bool:
        """Whether users want a value in a field that gets none any more; refused then."""
        return not field.many and self._in_use(path, entity, field.origin[1], REQUIRED)

    def _refuse_use(self, path: Path, entity: StoredEntity, found: Sequence[UsersOwn]) -> None:
        self._refuse(path, f"is in use by {listed(found)}", dropping(self._with_users(entity, found)))

    def _with_users(self, entity: StoredEntity, found: Sequence[UsersOwn]) -> list[UsersOwn]:
        """The same with what has to go before its columns can."""
        columns = [one.name for one in found if one.kind == "column"]
        users = [user for name in columns for user in self._users(entity, name)]
        if not self._connection.dialect.binds_views:
            return [one for one in self._users_own if one in found or (one in users and one.kind != "view")]
        return with_readers([*found, *users], self._users_own)

    def refuse_what_stays(self) -> None:
        """Before anything changes, views of ours are taken away, and no reader of one may be left."""
        for entity in self._shape.values() if self.changes else ():
            users = with_readers(self._users(entity), self._users_own)
            found = [one for one in users if one.kind in NOT_REMADE]
            said = "".join(one.refused for one in self.changes)
            if not all(one.drop in said for one in found):
                self._refuse_use((entity.name, ""), entity, found)

    def _taken(self, path: Path) -> bool:
        """Whether users gave the names of an entity's table or view to something else; refused then."""
        table = self._table(path[1] or path[0])
        names = {table.casefold(), table.removeprefix("_").casefold()}
        found = [one for one in self._users_own if one.name.casefold() in names]
        found = [one for one in found if one.name not in map(self._table, self._columns)]
        if found:
            self._refuse((path[0], ""), f"would take the name of {listed(found)}", dropping(found))
        return bool(found)

    def _takes_column(self, path: Path, entity: StoredEntity, name: str) -> bool:
        """Whether a user gave the name that a field gets to a column of the table; refused then."""
        taken = [one for one in self._columns[entity.origin] if one.casefold() == name.casefold()]
        for one in taken:
            table = self._table(entity.origin)
            drop = f"ALTER TABLE {self._connection.dialect.full_name(self._connection, table)} DROP COLUMN"
            column = UsersOwn("column", one, table, "", f"{drop} {quoted(one)}")
            others = [user for user in self._with_users(entity, [column]) if user.name != one]
            self._refuse(path, f"would take {column}", f"rename it, or {dropping([column, *others])}")
        return bool(taken)

    def finish_drops(self) -> None:
        """Drop the columns of dropped fields that something of a user needed, and nothing needs now."""
        for entity in self._shape.values():
            for name in [name for name, field in entity.fields.items() if field.declared.get("dropped")]:
                if all(one.kind in VIEWS for one in self._users(entity, name)):
                    self._drop_field(DropField(entity.name, name), entity)

    def _table(self, entity: str) -> str:
        return f"_{self._resolver.schema.table(entity)}"

    def _count(self, origin: str, condition: str = TRUE) -> int:
        """How many rows an entity has, by the name under which it is stored."""
        sql = f"SELECT count(*) FROM {quoted(self._table(origin))} WHERE {condition}"
        return int(self._connection.execute(sql).fetchone()[0])

    # migrations

    def migrate(self, change: MigrationStep) -> None:
        """Note what one step of a migration does, and apply it to the shape."""
        name, field = subject(change)
        entity = self._shape.get(name)
        if entity is None or (field and field not in entity.fields):
            self._note(name, field, "nothing", "is not stored, so there is nothing to do")
            return
        steps: dict[type[Any], Callable[[Any, StoredEntity], None]] = {
            RenameField: self._rename_field,
            RenameEntity: self._rename_entity,
            ChangeType: self._change_type,
            ChangeKey: self._change_key,
            DropField: self._drop_field,
            DropEntity: self._drop_entity,
        }
        steps[type(change)](change, entity)

    def _rename_field(self, change: RenameField, entity: StoredEntity) -> None:
        path, field = (entity.name, change.old), entity.fields[change.old]
        same = change.new.casefold() == change.old.casefold()
        alike = [] if same else [one for one in entity.fields if one.casefold() == change.new.casefold()]
        for other in alike:
            hint = f'before it, declare DropField("{entity.name}", "{other}")'
            if entity.fields[other].declared.get("dropped"):
                hint = dropping(self._users(entity, other))
            self._refuse(path, f"cannot become {change.new}, as {other} is stored already", hint)
        needs_column = not (same or field.many or alike)
        if alike or (needs_column and self._takes_column(path, entity, change.new)):
            return
        del entity.fields[change.old]
        work = self._renaming(entity.name, change, many=field.many)
        entity.fields[change.new] = field
        if not field.many:
            self._columns[entity.origin] ^= {change.old, change.new}
            self._follow_inverse(entity.name, change.old, change.new)
        field.declared = field.declared | {"name": change.new}
        words = f"becomes {change.new}"
        if field.many or not self._in_use(path, entity, field.origin[1], *self._naming):
            self._note(*path, "renamed", words, compatible=field.hidden, work=work)

    def _renaming(self, entity: str, change: RenameField, *, many: bool) -> Work:
        path = entity, change.old
        targets = {
            (owner.name, name): field.declared["child"] if field.many else field.declared.get("target")
            for owner in self._shape.values()
            for name, field in owner.fields.items()
        }
        if many:
            return lambda do: do.rename_collection(path, change.new, lambda *ref: targets.get(ref))
        return lambda do: do.rename_field(path, change.new, lambda *ref: targets.get(ref))

    def _follow_inverse(self, child: str, old: str, new: str) -> None:
        for owner in self._shape.values():
            for field in owner.fields.values():
                if field.many and field.declared["child"] == child and field.declared["by"] == old:
                    field.declared = field.declared | {"by": new}

    def _rename_entity(self, change: RenameEntity, entity: StoredEntity) -> None:
        taken = [one.name for one in self._shape.values() if self._table(one.name) == self._table(change.new)]
        if [name for name in taken if name != change.old]:
            words = f"cannot become {change.new}, whose table is taken by {taken[0]}"
            self._refuse((change.old, ""), words, f'before it, declare DropEntity("{taken[0]}")')
            return
        work: Work = lambda do: do.rename_entity(change.old, change.new)  # noqa: E731
        words, path = f"becomes {change.new}", (change.old, "")
        if not self._in_use(path, entity, "", *self._naming) and not self._taken((change.old, change.new)):
            self._note(*path, "renamed", words, compatible=entity.hidden, work=work)
        self._shape[change.new] = self._shape.pop(change.old)
        entity.name = change.new
        for owner in self._shape.values():
            for field in owner.fields.values():
                for key in ("target", "child"):
                    if field.declared.get(key) == change.old:
                        field.declared = field.declared | {key: change.new}

    def _change_type(self, change: ChangeType, entity: StoredEntity) -> None:
        field = entity.fields[change.field]
        field.using.append(change.using)
        field.version = self.version

    def _change_key(self, change: ChangeKey, entity: StoredEntity) -> None:
        field, path = entity.fields[change.field], (entity.name, change.field)
        using = field.using_all
        if field.many or field.declared["kind"] not in (Kind.TEXT, Kind.INTEGER) or using is None:
            self._refuse(path, "holds no ids", "declare ChangeKey of a field that holds text or integers")
            return
        repeated = (
            [] if using else duplicates(self._connection, self._table(field.origin[0]), field.origin[1])
        )
        if repeated:
            error = duplicate_key_error(path, repeated)
            self._refuse(path, error.message.partition(" ")[2], error.hint)
            return
        if self._in_use(path, entity, "_id", "foreign key"):
            return
        none = 0 if using else self._count(entity.origin, f"{field.column} IS NULL")
        words = "becomes the id" + (f"; {none} rows have none, and are dropped" if none else "")
        key = self._key(path, field, using)
        self._note(
            *path,
            "key",
            words,
            compatible=entity.hidden,
            rows=self._count(entity.origin),
            work=lambda do: do.change_key(key),
        )

    def _key(self, path: Path, field: StoredField, using: list[Using]) -> NewKey:
        entity = path[0]
        everything = [
            (owner.name, name, one.declared)
            for owner in self._shape.values()
            for name, one in owner.fields.items()
        ]
        pointing = [(o, name, one) for o, name, one in everything if one.get("target") == entity]
        return NewKey(
            path,
            type_of(field.declared),
            [(o, name) for o, name, one in pointing if one["kind"] == Kind.REF],
            [(o, name) for o, name, one in pointing if one["kind"] == Kind.JSON],
            [
                *(f"{o}.{n}" for o, n, one in everything if o == entity and "child" in one),
                *self._feeds(entity),
            ],
            [f"{owner}.{name}" for owner, name, one in everything if one.get("child") == entity],
            using,
        )

    def _feeds(self, root: str) -> list[str]:
        """The names of the feeds of a root."""
        feeds = [one for one in self._resolver.loaders if isinstance(one, FeedLoader)]
        return [one.name for one in feeds if one.root.__name__ == root]

    def _drop_field(self, change: DropField, entity: StoredEntity) -> None:
        path, field = (entity.name, change.field), entity.fields[change.field]
        users = [] if field.many else self._users(entity, field.origin[1])
        users = [one for one in users if one.kind not in VIEWS]
        words = f"is emptied; its column stays for {listed(users)}" if users else DELETED
        drop = SchemaOperations.empty_field if users else SchemaOperations.drop_field
        drop = SchemaOperations.drop_collection if field.many else drop
        rows = 0 if field.many else self._count(entity.origin)
        work: Work = lambda do: drop(do, path)  # noqa: E731
        if not self._may_not_be_empty(path, entity, field):
            self._note(*path, "dropped", words, compatible=field.hidden, rows=rows, work=work)
        if users:
            field.declared, field.hidden = field.declared | {"dropped": True}, True
        else:
            del entity.fields[change.field]
            self._columns[entity.origin].discard(change.field)

    def _drop_entity(self, change: DropEntity, entity: StoredEntity) -> None:
        lists = [
            (owner.name, name)
            for owner in self._shape.values()
            for name, field in owner.fields.items()
            if field.many and entity.name in (owner.name, field.declared["child"])
        ]

        def work(do: SchemaOperations) -> None:
            for path in lists:
                do.drop_collection(path)
            do.drop_entity(change.entity)

        rows, path = self._count(entity.origin), (change.entity, "")
        words = f"is deleted with its {rows} rows"
        if not self._in_use(path, entity, "", *self._naming, *INDEXING, "column", *CONDITIONS[:2]):
            self._note(*path, "dropped", words, compatible=entity.hidden, rows=rows, work=work)
        del self._shape[change.entity]

    # differences

    def compare(self) -> None:
        """Note each difference between the shape and what is declared."""
        schema = self._resolver.schema
        declared = {one["name"]: one for one in schema.to_json()["entities"]}
        for name, one in declared.items():
            stored = self._shape.get(name)
            if stored is None:
                self._new_entity(schema.entities[name])
            else:
                self._compare_entity(stored, schema.entities[name], one)
        for name, stored in self._shape.items():
            if name not in declared and not stored.hidden:
                if not self._in_use((name, ""), stored, "", *self._naming):
                    self._note(name, "", "hidden", GONE, compatible=False)
                stored.hidden = True
                for field in stored.fields.values():
                    field.hidden = True

    def _new_entity(self, entity: type[Entity]) -> None:
        name = entity.__name__
        other = next((one for one in self._shape if self._table(one) == self._table(name)), None)
        if other is not None:
            hint = f'declare RenameEntity("{other}", "{name}"), or DropEntity("{other}")'
            self._refuse((name, ""), f"would take the table of {other}", hint)
        elif not self._taken((name, "")):
            fetch = self._fetch(entity, entity.types())
            self._note(name, "", "new entity", "is new", fetch=fetch, work=lacking)

    def _compare_entity(self, stored: StoredEntity, entity: type[Entity], declared: Json) -> None:
        if stored.hidden:
            stored.hidden = False
            words = f"is declared again: its {self._count(stored.origin)} rows come back"
            self._note(stored.name, "", "back", words, work=lacking)
        names = set()
        for one in declared["fields"]:
            names.add(one["name"])
            self._compare_field(stored, entity, one)
        for one in declared["collections"]:
            names.add(one["name"])
            self._compare_collection(stored, one)
        for name, field in stored.fields.items():
            if name not in names and not field.hidden:
                if not self._may_not_be_empty((stored.name, name), stored, field):
                    self._note(stored.name, name, "hidden", GONE, compatible=False)
                field.hidden = True

    def _compare_field(self, stored: StoredEntity, entity: type[Entity], declared: Json) -> None:
        path = stored.name, declared["name"]
        field = stored.fields.get(path[1])
        if field is None:
            self._new_field(stored, entity, path)
        elif field.declared.get("dropped") and words_of(field.declared) != words_of(declared):
            users = self._users(stored, path[1])
            self._refuse(path, f"would take the column that {listed(users)} uses", dropping(users))
        elif field.many:
            words = f"is stored as {words_of(field.declared)}, now declared {words_of(declared)}"
            self._refuse(path, words, declaring(f'DropField("{path[0]}", "{path[1]}")'))
        else:
            if field.hidden:
                field.hidden = False
                fetch = self._fetch(entity, [path[1]], stored.origin)
                words = "is declared again: its values come back"
                work: Work = lambda do: do.mark_stale(path)  # noqa: E731
                self._note(*path, "back", words, fetch=fetch, work=work)
            if not field.using and self._may_change_freely(path, field, declared):
                field.using.append(None)
            if field.using:
                self._convert(stored, field, entity, path[1])
            else:
                self._retype(stored, field, entity, declared)

    def _may_change_freely(self, path: Path, field: StoredField, declared: Json) -> bool:
        """Whether it is another kind of value than before, as only an account's own field may become."""
        if not (field.is_accounts or path[1] in (self._resolver.added or {}).get(path[0], ())):
            return False
        old, kinds = field.declared, (field.declared["kind"], declared["kind"])
        other = kinds[0] != kinds[1] and kinds != (Kind.INTEGER, Kind.REAL)
        return other or old["target"] != declared["target"]

    def _new_field(self, stored: StoredEntity, entity: type[Entity], path: Path) -> None:
        alike = (one for one in stored.fields if one.casefold() == path[1].casefold())
        other = next(alike, None)
        if other is not None:
            hint = declaring(f'RenameField("{path[0]}", "{other}", "{path[1]}")')
            self._refuse(path, f"would take the column of {other}", hint)
        elif not self._takes_column(path, stored, path[1]):
            fetch = self._fetch(entity, [path[1]], stored.origin)
            self._note(*path, "new field", "is new", fetch=fetch, work=lacking)

    def _retype(self, stored: StoredEntity, field: StoredField, entity: type[Entity], declared: Json) -> None:
        """Note what another type means for a field that no migration converts."""
        old, path = field.declared, (stored.name, declared["name"])
        wider = (old["kind"], declared["kind"]) == (Kind.INTEGER, Kind.REAL)
        refs = Kind.JSON not in (old["kind"], declared["kind"]) and old["target"] != declared["target"]
        if refs or (old["kind"] != declared["kind"] and not wider):
            words = f"is stored as {words_of(old)}, now declared {words_of(declared)}"
            self._refuse(path, words, declaring(f'ChangeType("{path[0]}", "{path[1]}", using=…)'))
            return
        if wider and not self._in_use(path, stored, field.origin[1], *self._bound):
            self._widen(path, field, entity.types()[path[1]])
        if old["optional"] and not declared["optional"]:
            self._narrow(path, field, entity)
        elif declared["optional"] and not old["optional"]:
            self._note(*path, "wider", "may be empty now")
        if _is_reshaped(old, declared):
            words = f"held {words_of(old)}, holds {words_of(declared)} now; what is stored is fetched again"
            fetch = self._fetch(entity, [path[1]], stored.origin)
            self._note(*path, "reshaped", words, fetch=fetch, work=lambda do: do.mark_stale(path))

    def _widen(self, path: Path, field: StoredField, holds: FieldType) -> None:
        lost = self._count(field.origin[0], f"_removed_at IS NULL AND {too_large(field.column)}")
        words = "holds floats now"
        if lost:
            words += f"; {lost} integers are too large for one, and are fetched again"
        self._note(
            *path,
            "wider",
            words,
            compatible=not lost,
            rows=self._count(field.origin[0]),
            work=lambda do: do.widen(path, holds),
        )

    def _narrow(self, path: Path, field: StoredField, entity: type[Entity]) -> None:
        bitmap, bit = loaded_bit(self._connection, field.origin)
        none = self._count(
            field.origin[0], f"{field.column} IS NULL AND ({bitmap} & {bit}) <> 0 AND _removed_at IS NULL"
        )
        words = "may not be empty any more"
        if none:
            words += f"; in {none} rows it is, and is fetched again"
        condition = f"{quoted(path[1])} IS NULL"
        self._note(
            *path,
            "narrower",
            words,
            compatible=not none,
            rows=none,
            fetch=self._fetch(entity, [path[1]]) if none else "",
            work=lambda do: do.clear_values(path, condition),
        )

    def _convert(self, stored: StoredEntity, field: StoredField, entity: type[Entity], name: str) -> None:
        old, new, using = type_of(field.declared), entity.types()[name], field.using_all
        path = stored.name, name
        if self._in_use(path, stored, field.origin[1], *self._bound):
            return
        kind = words_of({"kind": new.label, "optional": new.optional, "target": target_of(new)})
        how = "fetched again" if using is None else "converted"
        self._note(
            *path,
            "converted",
            f"was {words_of(field.declared)}, is {kind} now: {how}",
            compatible=False,
            rows=self._count(stored.origin),
            fetch=self._fetch(entity, [name], stored.origin) if using is None else "",
            migration=field.version,
            work=lambda do: do.convert(path, old, new, using),
        )

    def _compare_collection(self, stored: StoredEntity, declared: Json) -> None:
        path = stored.name, declared["name"]
        field = stored.fields.get(path[1])
        if field is None:
            self._note(*path, "new collection", "is new", fetch="it is listed")
        elif not field.many or field.declared["child"] != declared["child"]:
            words = f"is stored as {words_of(field.declared)}, now declared {words_of(declared)}"
            self._refuse(path, words, declaring(f'DropField("{path[0]}", "{path[1]}")'))
        else:
            if field.hidden:
                field.hidden = False
                words = "is declared again: its members come back"
                self._note(*path, "back", words, fetch="it is listed in full", work=lacking)
            if field.declared["by"] != declared["by"]:
                words, fetch = "finds its members in another way", "it is listed in full"
                self._note(*path, "members", words, compatible=False, fetch=fetch, work=lacking)

    def _fetch(self, entity: type[Entity], names: Sequence[str] | Mapping[str, Any], origin: str = "") -> str:
        """What the next sync does for fields that rows lack, in words."""
        rows = self._count(origin) if origin else 0
        words = []
        for name in names:
            home = self._resolver.loader_for(FieldOf(entity, name))
            if home is not None:
                words.append(f"{home.name} fetches it" + (f" for {rows} rows" if origin else ""))
            words += [f"{one} is listed in full" for one in bringing(self._resolver, entity, name)]
        return ", ".join(dict.fromkeys(words))


def lacking(_: SchemaOperations) -> int:
    """The work of a change after which rows lack something new."""
    return 1


def subject(change: MigrationStep) -> Path:
    """The entity of a migration step, and the field, or ""."""
    if isinstance(change, RenameEntity):
        return change.old, ""
    if isinstance(change, DropEntity):
        return change.entity, ""
    return change.entity, change.old if isinstance(change, RenameField) else change.field


def _is_reshaped(old: Json, declared: Json) -> bool:
    """Whether what is stored may be invalid now: other JSON data, or a value that the enumeration lacks."""
    choices = declared.get("choices", ())
    lacks = (choices and not {*old.get("choices", ())}) or {*old.get("choices", ())} - {*choices}
    shapes = [(one.get("shape"), one["target"]) for one in (old, declared) if one["kind"] == Kind.JSON]
    return len({*shapes}) > 1 or bool(choices and lacks)


def declaring(change: str) -> str:
    """The hint that names a declaration."""
    return f"declare it in the connector's migrations=: Migration(…, {change})"


def target_of(holds: FieldType) -> str | None:
    """The name of the entity that a ref points at."""
    return holds.target.__name__ if holds.target else None


def type_of(declared: Json) -> FieldType:
    """A stored field's type; the target of a ref may be gone, so any class of its name is used."""
    kind, optional, choices = Kind(declared["kind"]), declared["optional"], declared.get("choices", ())
    target = type(declared["target"], (Entity,), {}) if declared["target"] else None
    if target is not None and kind is Kind.JSON:
        return FieldType.refs(target, optional)
    return FieldType(kind, optional, target, declared.get("shape", ANY), choices=tuple(choices))


def bringing(resolver: Resolver, entity: type[Entity], name: str) -> list[str]:
    """The collections whose listings bring a field that no loader fetches alone.

    Without a name: those that list the entity, or bring some field of it.
    """
    if name and resolver.loader_for(FieldOf(entity, name)) is not None:
        return []
    found = []
    for loader in resolver.loaders:
        if isinstance(loader, CollectionLoader):
            brings = any(one.entity is entity and name in ("", one.name) for one in loader.brings)
            if brings or (not name and loader.lists.child is entity):
                found.append(repr(loader.lists))
    return found
