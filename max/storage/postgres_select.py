"""A caller's own SQL in Postgres: one statement that reads, for so long, so many rows.

Rule 1: the server itself refuses all else.  The transaction is READ ONLY, one statement alone fits the
extended protocol, and ``statement_timeout`` ends what takes too long.

Rule 2: no function is called that Postgres holds for one with effects (``VOLATILE``): such a function may
read the server's files, hold a lock of ours, set a role, or run a statement that is hidden in a text.  Each
name before a bracket is looked up, also in texts and comments: so one may be found too often, never too
rarely.

Rule 3: the statement runs as the role ``max_reader`` (the project's schema, and ``_reader``) where the
operator has made one (docs/postgres.md), and reads what that may read.  By rule 2 it cannot leave the role.
Without one it reads all that Max may read.

Everything comes as text of the server and becomes what SQLite answers: a number, a text, bytes, or None;
truth is 1 and 0, times are ISO 8601 in UTC, JSON its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import InvalidSql, SqlLimit, StorageDenied
from .database import ONE_SELECT, Selection, TableShape, Values, quoted
from .postgres_dialect import LOST, TOKEN, state_of, words_of

FEWER = "sort, group or join fewer rows, or raise the timeout"
READS = ("SELECT", "WITH", "VALUES", "TABLE")
HARMLESS = {  # of the functions whose answer differs from call to call
    *("bernoulli", "clock_timestamp", "currval", "current_query", "gen_random_uuid", "lastval"),
    *("pg_column_size", "pg_database_size", "pg_indexes_size", "pg_is_in_recovery", "pg_relation_size"),
    *("pg_sleep", "pg_table_size", "pg_total_relation_size", "random", "random_normal", "system"),
    "timeofday",
}
CALLED = re.compile(r"""([^\W\d][\w$]*)"?\s*(?=\(|/\*|--)""")  # a comment may hide the bracket
QUOTED = re.compile(r"""(?="((?:[^"]|"")+)"\s*(?:\(|/\*|--))""")  # a name that may hold anything
ESCAPED_NAME = re.compile(r'\bU&"', re.IGNORECASE)
# A VOLATILE function may write, also inside of a SELECT.
EFFECTS = """
    SELECT DISTINCT CAST(proname AS text) FROM pg_proc
     WHERE provolatile = 'v' AND proname = ANY(?) AND prorettype <> CAST('trigger' AS regtype)
     ORDER BY 1
"""
IS_ROLE = "SELECT 1 FROM pg_roles WHERE rolname = ?"
READER = """
    SELECT has_schema_privilege(r.oid, current_schema(), 'USAGE') FROM pg_roles AS r WHERE r.rolname = ?
"""
CURSOR = "_max_select"
DECLARED = f'DECLARE "{CURSOR}" CURSOR FOR '
REFUSED = ("25006", "0A000")  # it would write; a cursor cannot be of such a statement
BEYOND = ("53200", "54")  # memory, limits of the server
NAMES = {  # of types, as the views of SQLite declare them
    "int2": "INTEGER",
    "int4": "INTEGER",
    "int8": "INTEGER",
    "numeric": "REAL",
    "float4": "REAL",
    "float8": "REAL",
    "bool": "BOOLEAN",
    "timestamptz": "TIMESTAMP",
    "timestamp": "TIMESTAMP",
    "date": "DATE",
    "json": "JSON",
    "jsonb": "JSON",
    "bytea": "BLOB",
}
TABLES = """
    SELECT CAST(c.relname AS text), CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END, c.oid,
           CASE c.relkind WHEN 'v' THEN 'CREATE VIEW ' || quote_ident(c.relname) || ' AS '
                                        || pg_get_viewdef(c.oid) ELSE '' END
      FROM pg_class AS c
     WHERE c.relnamespace = to_regnamespace(quote_ident(current_schema())) AND c.relkind IN ('r', 'v', 'm')
       AND c.relname NOT LIKE '\\_%' ORDER BY c.relname COLLATE "C"
"""
SHAPE = """
    SELECT CAST(a.attname AS text), CAST(t.typname AS text) FROM pg_attribute AS a
      JOIN pg_type AS t ON t.oid = a.atttypid
     WHERE a.attrelid = ? AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
VIEWS = """
    SELECT CAST(c.relname AS text), CAST(a.attname AS text), format_type(a.atttypid, a.atttypmod)
      FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid JOIN {schema}._max_object AS o
        ON o.name = c.relname AND o.kind = 'view'
     WHERE c.relnamespace = (SELECT n.oid FROM pg_namespace AS n WHERE n.nspname = ?) AND c.relkind = 'v'
       AND c.relname NOT LIKE '\\_%' AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY c.relname COLLATE "C", a.attnum
"""
COMMENT = re.compile(r"\s+|--[^\n]*(?:\n|$)|/\*.*?\*/", re.DOTALL)


def join_views(connection: Any, labels: Mapping[str, str]) -> None:
    """For each view that Max made in some schema, make one with the rows of all; first their label.

    A column has its type where all have it, and is text else.  The transaction can only read then.
    """
    places: dict[str, dict[str, dict[str, str]]] = {}
    for schema in labels:
        for view, column, kind in connection.execute(
            VIEWS.format(schema=quoted(schema)), (schema,)
        ).fetchall():
            places.setdefault(view, {}).setdefault(schema, {})[column] = kind
    connection.execute("SET LOCAL search_path TO pg_temp")
    has_reader = connection.execute(IS_ROLE, (connection.reader,)).fetchone() is not None
    for view, schemas in places.items():
        types: dict[str, set[str]] = {}
        for own in schemas.values():
            for column, kind in own.items():
                types.setdefault(column, set()).add(kind)
        parts = []
        for schema, own in schemas.items():
            shown = [
                f"CAST({quoted(name) if name in own else 'NULL'} AS {one.pop() if len(one) == 1 else 'text'})"
                f" AS {quoted(name)}"
                for name, one in ((name, {*kinds}) for name, kinds in types.items())
            ]
            label = labels[schema].replace("'", "''")
            of = f"FROM {quoted(schema)}.{quoted(view)}"
            parts.append(f"SELECT CAST('{label}' AS text) AS installation, {', '.join(shown)} {of}")
        connection.execute(f"CREATE TEMP VIEW {quoted(view)} AS {' UNION ALL '.join(parts)}")
        if has_reader:
            connection.execute(f"GRANT SELECT ON {quoted(view)} TO {quoted(connection.reader)}")
    connection.execute("SET TRANSACTION READ ONLY")


def select(connection: Any, statement: str, values: Values, *, limit: int, timeout: float) -> Selection:
    """The first rows of a statement; InvalidSql, SqlLimit."""
    _refuse(statement)
    raw = connection.raw
    connection.execute(f"SAVEPOINT {CURSOR}")  # what fails leaves the snapshot as it was
    try:
        _refuse_effects(connection, statement)
        _become_reader(connection)
        connection.execute(f"SET LOCAL statement_timeout TO {max(1, round(timeout * 1_000))}")
        with raw.cursor(CURSOR) as cursor:
            _adapt(cursor)
            cursor.execute(_with_marks(statement, values), values or None)
            rows = cursor.fetchmany(limit + 1)
            described = cursor.description or ()
    except connection.dialect.errors as error:
        raise _explained(statement, error, timeout) from error
    finally:
        if not connection.is_closed:
            connection.execute(f"ROLLBACK TO SAVEPOINT {CURSOR}")
    known = raw.adapters.types
    types = [_type_name(known.get(one.type_code)) for one in described]
    return Selection([one.name for one in described], types, rows[:limit], len(rows) > limit)


def tables(connection: Any) -> list[TableShape]:
    """The tables and views that are not internal, sorted by name."""
    found = []
    for name, kind, number, definition in connection.execute(TABLES).fetchall():
        columns = connection.execute(SHAPE, (number,)).fetchall()
        shape = [(column, NAMES.get(declared, "TEXT")) for column, declared in columns]
        found.append(TableShape("", name, kind, shape, definition))
    return found


def _refuse(statement: str) -> None:
    """InvalidSql for what does not begin as something that reads."""
    rest = statement
    while (found := COMMENT.match(rest)) and found.end():
        rest = rest[found.end() :]
    words = re.match(r"\(*\s*(\w+)", rest)
    if not rest.strip(" ;\n\t"):
        raise InvalidSql(statement, "there is no statement", hint=ONE_SELECT)
    if words is None or words[1].upper() not in READS:
        raise InvalidSql(
            statement, f"{(words[1] if words else rest[:10])!r} does not begin one", hint=ONE_SELECT
        )


def _refuse_effects(connection: Any, statement: str) -> None:
    """InvalidSql for a statement that calls, or may call, a function with effects."""
    if ESCAPED_NAME.search(statement):
        raise InvalidSql(statement, 'a name may not be written as U&"…"', hint="write it as it is")
    names, quotes = CALLED.findall(statement), QUOTED.findall(statement)
    called = {*names, *map(str.lower, names), *(one.replace('""', '"') for one in quotes)} - HARMLESS
    found = connection.execute(EFFECTS, (sorted(called),)).fetchall() if called else []
    if found:
        hint = f"{ONE_SELECT}; a function of your own that only reads has to be declared STABLE"
        effects = ", ".join(name for (name,) in found)
        raise InvalidSql(statement, f"it calls what may do more than read: {effects}", hint=hint)


def _become_reader(connection: Any) -> None:
    """Read as the project's reader, where there is one, until the savepoint is rolled back to."""
    role = connection.reader
    row = connection.execute(READER, (role,)).fetchone() if role else None
    if row is None:
        return
    if not row[0]:
        raise StorageDenied(
            f"the role {role} may not read the schema of this installation",
            hint=f"grant it the schema, or drop the role {role}; docs/postgres.md has the statements",
        )
    try:
        connection.execute(f"SET LOCAL ROLE {quoted(role)}")
    except connection.dialect.errors as error:
        raise StorageDenied(
            f"statements of callers run as the role {role}, which this user may not: {words_of(error)}",
            hint=f"GRANT {role} TO the role of Max, or drop {role}; docs/postgres.md has the statements",
        ) from error


def grant_reading(connection: Any, schema: str, role: str) -> None:
    """Let the project's reader read a new schema, where there is such a role."""
    if role and connection.execute(IS_ROLE, (role,)).fetchone() is not None:
        within = f"SCHEMA {quoted(schema)}"
        connection.execute(f"GRANT USAGE ON {within} TO {quoted(role)}")
        tables = f"GRANT SELECT ON TABLES TO {quoted(role)}"
        connection.execute(f"ALTER DEFAULT PRIVILEGES IN {within} {tables}")


def _with_marks(statement: str, values: Values) -> str:
    """The statement with psycopg's marks for ``?`` and ``:name``; nothing else is touched.

    InvalidSql where a parameter has no value.
    """
    body = statement.rstrip().rstrip(";")

    def mark(match: re.Match[str]) -> str:
        kind, text = match.lastgroup, match[0]
        if kind == "parameter":
            name = text[1:]
            if not isinstance(values, Mapping) or name not in values:
                hint = f"give it with --param {name}=VALUE"
                raise InvalidSql(statement, f"a parameter has no value: {text}", hint=hint)
            return f"%({name})s"
        if kind == "place":
            return "%s"
        return text.replace("%", "%%") if values else text

    return TOKEN.sub(mark, body)


def _explained(statement: str, error: Exception, timeout: float) -> Exception:
    """What the server's error means: errors of the connection stay."""
    state = state_of(error)
    if state == "57014":
        return SqlLimit(f"the statement takes more than {timeout:g} seconds", hint=FEWER)
    if state.startswith(BEYOND):
        return SqlLimit(words_of(error), hint=FEWER)
    if state in REFUSED:
        return InvalidSql(statement, "it does more than read", hint=ONE_SELECT)
    if state.startswith((*LOST, "53", "58", "XX", "40")):
        return error
    if state == "42601" and "multiple commands" in words_of(error):
        return InvalidSql(statement, "it is more than one statement", hint=ONE_SELECT)
    hint = getattr(getattr(error, "diag", None), "message_hint", None) or ""
    return InvalidSql(statement, words_of(error), _place(statement, error), hint=hint)


def _place(statement: str, error: Exception) -> int | None:
    """Where in the statement the server has seen the error; it counts from the cursor's declaration on."""
    found = getattr(getattr(error, "diag", None), "statement_position", None)
    at = -1 if found is None else int(found) - 1 - len(DECLARED)
    return at if 0 <= at <= len(statement) else None


def _type_name(info: Any) -> str:
    name = getattr(info, "name", "")
    return NAMES.get(name, "TEXT")


def _adapt(cursor: Any) -> None:
    """Values as SQLite would give them."""
    from psycopg.adapt import Loader
    from psycopg.types.string import ByteaLoader, StrDumperUnknown, TextLoader

    def loading(convert: Callable[[str], Any]) -> type[Loader]:
        class Converting(Loader):
            def load(self, data: Any) -> Any:
                return convert(bytes(data).decode())

        return Converting

    adapters = cursor.adapters
    adapters.register_dumper(str, StrDumperUnknown)  # a text in a comparison takes the column's type
    adapters.register_loader("bool", loading(lambda text: int(text == "t")))
    adapters.register_loader("timestamptz", loading(lambda text: text[:-3].replace(" ", "T", 1)))
    adapters.register_loader("timestamp", loading(lambda text: text.replace(" ", "T", 1)))
    adapters.register_loader("jsonb", loading(lambda text: json.dumps(json.loads(text), ensure_ascii=False)))
    adapters.register_loader("bytea", ByteaLoader)
    for kind in ("date", "time", "timetz", "interval", "uuid", "json", "inet", "cidr"):
        adapters.register_loader(kind, TextLoader)
