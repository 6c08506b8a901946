"""A caller's own statement: what it may do, how long it may take, and what was wrong with it.

Rule 1: SQLite compiles it under an authorizer that knows what is allowed and refuses the rest, on
a connection that cannot write.  It reads this database, and no other file.

Rule 2: what SQLite asks nothing for is bounded before the statement runs: how often its common
table expressions and views use one another, and how long a value may be.  The last depends on the
program that SQLite made of the statement: on how many values it holds at a time, and on functions
whose time is the product of two lengths.

Rule 3: SQLite calls ``_Watch`` while the statement runs.  It ends one that takes longer than its
caller allows, or more memory than MOST_MEMORY; nothing is sorted in files.
"""

from __future__ import annotations

import os
import re
import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import Any

from ..errors import InvalidSql, SqlLimit, nearest
from ..model.values import Kind
from .database import ONE_SELECT, Selection, TableShape, Values, quoted
from .sqlite_dialect import FATAL, TYPES, primary_code

OPERATIONS = 200  # of SQLite's machine, between two looks at the clock
LOOK = 0.002  # seconds between two looks at the memory
MOST_MEMORY = 512 * 2**20  # bytes by which the process may grow
MOST_VALUES = 256 * 2**20  # bytes of all values that a statement holds at a time
MOST_ROWS = 64 * 2**20  # bytes of all texts of an answer
LONGEST, SHORTEST = 16 * 2**20, 2**16  # bytes of one value, if a statement holds few, and many
FEWER = "sort, group or join fewer rows, or shorter values"
LONGEST_MESSAGE = 300  # characters; SQLite repeats what it does not understand
LISTED = 10  # tables that an error names when none is near
OWN = ("main", "temp")  # schemas that a name is written without
DEEPEST = 50  # nested brackets, and names inside names
MOST_EXPANDED = 2_000  # uses of common table expressions and views, each counted with those inside it

NUMBER = r"[0-9]+(?:\.[0-9]+)?"
BESIDE = re.compile(  # a column, and what it is compared with: a text in quotes, or a parameter
    r"\b(?P<column>\w+)[\"`\]]?\s*(?:[<>=!]=|<>|[<>=]|\b(?:NOT\s+)?(?:BETWEEN|IS(?:\s+NOT)?)\b)\s*"
    rf"(?P<value>'(?P<text>{NUMBER})'|[:@$](?P<parameter>\w+))",
    re.IGNORECASE,
)
DATE, TIMESTAMP = TYPES[Kind.DATE], TYPES[Kind.DATETIME]

LIMITS = {  # what one statement may have
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,  # bytes
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 500_000,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,  # bytes; LIKE takes the product of both lengths
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 10_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
SLOW = {
    "instr(2)": 500_000,
    "replace(3)": 500_000,
    "trim(2)": 40_000,
    "ltrim(2)": 40_000,
    "rtrim(2)": 40_000,
    "json_patch(2)": 40_000,
}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


HOLDING = _names("Column VColumn Function PureFunc Concat AggStep AggFinal Variable")
READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
PRAGMAS = _names("""
    collation_list compile_options data_version database_list encoding foreign_key_list freelist_count
    function_list index_info index_list index_xinfo page_count page_size table_info table_list
    table_xinfo
""")
TAKE_A_NAME = _names("""
    foreign_key_list index_info index_list index_xinfo table_info table_xinfo
""")
FUNCTIONS = _names("""
    -> ->> abs acos acosh asin asinh atan atan2 atanh avg bm25 ceil ceiling char coalesce concat
    concat_ws cos cosh count cume_dist current_date current_time current_timestamp date datetime degrees
    dense_rank exp first_value floor format glob group_concat hex highlight if ifnull iif instr json
    json_array json_array_length json_each json_error_position json_extract json_group_array
    json_group_object json_insert json_object json_patch json_pretty json_quote json_remove json_replace
    json_set json_tree json_type json_valid julianday lag last_value lead length like likelihood likely
    ln log log10 log2 lower ltrim match matchinfo max median min mod nth_value ntile nullif octet_length
    offsets percent_rank percentile percentile_cont percentile_disc pi pow power printf quote radians
    random randomblob rank replace round row_number rtrim sign sin sinh snippet soundex sqlite_version
    sqrt strftime string_agg substr substring subtype sum tan tanh time timediff total trim trunc typeof
    unicode unhex unistr unistr_quote unixepoch unlikely upper zeroblob
""")

# SQLite declares a table-valued function, or a virtual table, at its first use, and would ask the
# authorizer for that: what is not used before it is not allowed.
DECLARED = (
    "SELECT 1 FROM json_each('[]'), json_tree('[]')",
    *(f"SELECT 1 FROM pragma_{name}('')" for name in sorted(TAKE_A_NAME)),
    "SELECT 1 FROM pragma_table_list",
)
MOST_SCHEMAS = 10  # that SQLite attaches
OUR_VIEWS = "SELECT name FROM {schema}._max_object WHERE kind = 'view'"


def select(connection: Any, statement: str, values: Values, *, limit: int, timeout: float) -> Selection:
    """The first rows of a statement; InvalidSql when it is none that reads, SqlLimit when it is too much."""
    _refuse_expansion(statement, _views(connection))
    _declare(connection)
    watch = _Watch(timeout)
    with _guarded(connection, watch) as guard, _explained(connection, statement, guard, watch):
        _measure(connection, statement, values)
        with closing(connection.execute(statement, values)) as cursor:
            names = [column[0] for column in cursor.description or ()]
            rows, more = _rows(cursor, limit)
    _refuse_numbers(connection, statement, values, guard.tables)
    return Selection(names, _declared_types(connection, names, guard.tables), rows, more)


def _rows(cursor: Iterator[tuple[Any, ...]], limit: int) -> tuple[list[tuple[Any, ...]], bool]:
    """Up to ``limit`` rows, and whether there are more; also rows of MOST_ROWS bytes are enough."""
    rows: list[tuple[Any, ...]] = []
    size = 0
    for row in cursor:
        size += sum(len(value) for value in row if isinstance(value, str | bytes))
        if len(rows) == limit or size > MOST_ROWS:
            return rows, True
        rows.append(row)
    return rows, False


def _refuse_numbers(connection: Any, statement: str, values: Values, read: set[tuple[str, str]]) -> None:
    """Refuse a date or time that is compared with ``'2025'``.

    SQLite takes that for a number, since dates and times are declared as such, and every text is
    more than a number: the answer would be wrong without a word.
    """
    named = values if isinstance(values, Mapping) else {}
    found = {}
    for match in BESIDE.finditer(statement):
        value = match["text"] or str(named.get(match["parameter"], ""))
        if re.fullmatch(NUMBER, value):
            found[match["column"].casefold()] = value, match.start("value")
    if not found:
        return
    for table in tables(connection):
        if (table.schema or OWN[0], table.name) in read:
            for name, declared in table.columns:
                if name.casefold() in found and declared in (DATE, TIMESTAMP):
                    value, place = found[name.casefold()]
                    problem = f"{name} holds {declared.lower()}s, and SQLite takes {value} for a number"
                    raise InvalidSql(
                        statement, problem, place, hint=f"write a day, such as '{value[:4]}-01-01'"
                    )


# -- what it may do ----------------------------------------------------------------------------


class _Guard:
    """The authorizer: it records which tables are read, and what was refused."""

    def __init__(self) -> None:
        self.tables: set[tuple[str, str]] = set()  # schema and table
        self.refused = ""

    def __call__(
        self, action: int, first: str | None, second: str | None, place: str | None, _: object
    ) -> int:
        if action == sqlite3.SQLITE_READ:
            self.tables.add((place or "main", first or ""))
        if action in READING:
            return sqlite3.SQLITE_OK
        what, allowed = _may_use(action, (first or "").lower(), second or "")
        if not allowed:
            self.refused = self.refused or (f"{what} is not allowed" if what else "it does more than read")
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _may_use(action: int, first: str, second: str) -> tuple[str, bool]:
    """A function or a PRAGMA in words, and whether a statement may use it; nothing else is allowed."""
    if action == sqlite3.SQLITE_FUNCTION:
        return f"the function {second}", second.lower() in FUNCTIONS
    if action == sqlite3.SQLITE_PRAGMA:
        return f"PRAGMA {first}", first in PRAGMAS and (not second or first in TAKE_A_NAME)
    return "", False


class _Watch:
    """Ends a statement that takes too long or too much memory; ``reason`` says which."""

    def __init__(self, timeout: float) -> None:
        self.reason: SqlLimit | None = None
        self._timeout, self._until, self._look = timeout, monotonic() + timeout, 0.0
        self._most = _memory() + MOST_MEMORY

    def __call__(self) -> bool:
        now = monotonic()
        if now > self._until:
            self.reason = SqlLimit(
                f"the statement took longer than {self._timeout:g} s",
                hint="narrow it with WHERE, or allow more time with --timeout 60s",
            )
        elif now > self._look:
            self._look = now + LOOK
            if _memory() > self._most:
                self.reason = SqlLimit(
                    f"the statement needs more than {MOST_MEMORY >> 20} MB of memory",
                    hint=FEWER,
                )
        return self.reason is not None


def _memory() -> int:
    """Bytes of memory that the process holds; its highest so far where the system tells no more."""
    with suppress(OSError), Path("/proc/self/statm").open("rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    with suppress(ImportError):
        from resource import RUSAGE_SELF, getrusage

        return getrusage(RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)
    return 0


@contextmanager
def _guarded(connection: Any, watch: _Watch) -> Iterator[_Guard]:
    """Everything that bounds a caller's statement; afterwards the connection is as it was."""
    before = {one: connection.setlimit(one, most) for one, most in LIMITS.items()}
    before[sqlite3.SQLITE_LIMIT_LENGTH] = connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
    (temporary,) = connection.execute("PRAGMA temp_store").fetchone()
    for pragma in ("query_only = 1", "trusted_schema = 0", "temp_store = MEMORY"):
        connection.execute(f"PRAGMA {pragma}")
    guard = _Guard()
    connection.set_authorizer(guard)
    connection.set_progress_handler(watch, OPERATIONS)
    try:
        yield guard
    finally:
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)
        for one, most in before.items():
            connection.setlimit(one, most)
        connection.execute(f"PRAGMA temp_store = {temporary}")


def _declare(connection: Any) -> None:
    """Use every table-valued function that is allowed, and every virtual table, once."""
    for statement in DECLARED:
        connection.execute(statement).fetchall()
    for row in connection.execute("PRAGMA table_list").fetchall():
        if row[2] == "virtual":
            with suppress(sqlite3.Error):  # of a module that is not there: the statement will say so
                connection.execute(f"PRAGMA {quoted(row[0])}.table_info({quoted(row[1])})").fetchall()


# -- how much it may take -----------------------------------------------------------------------


def _measure(connection: Any, statement: str, values: Values) -> None:
    """Compile the statement, and limit the length of a value by what its program does."""
    explaining = any(token.lower() == "explain" for token in _tokens(statement)[:1])
    holding, longest = 0, LONGEST
    for row in connection.execute(statement if explaining else f"EXPLAIN {statement}", values):
        if len(row) > 5:
            holding += row[1] in HOLDING
            longest = min(longest, SLOW.get(str(row[5]), longest))
    longest = max(min(longest, MOST_VALUES // max(holding, 1)), min(longest, SHORTEST))
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)


TOKEN = re.compile(  # as SQLite divides a text: every character beyond ASCII may be part of a name
    r"""--[^\n]*|/\*.*?(?:\*/|\Z)|[ \t\n\f\r\ufeff]+|(?P<word>
    '(?:[^']|'')*'? | "(?:[^"]|"")*"? | `(?:[^`]|``)*`? | \[[^\]]*\]?
    | [A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]* | [:@$][\w$:]+ | \?\d* | \d[\w.]* | \.\d\w* | . )""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
OPEN, CLOSE, QUOTES = "(", ")", "'\"`["
BEGINS_FROM = _names("from join")
ENDS_FROM = _names("select where group order having limit union except intersect values")
NO_NAMES = BEGINS_FROM | ENDS_FROM | {OPEN, CLOSE}
BEGIN_BODY = ("select", "values")  # a window begins otherwise
BEFORE_A_TABLE = frozenset(["from", "join", ",", OPEN, ".", "in"])


def _tokens(statement: str) -> list[str]:
    return [found["word"] for found in TOKEN.finditer(statement) if found["word"]]


def _refuse_expansion(statement: str, views: Mapping[str, str]) -> None:
    """SqlLimit when names are used by names that are used by names, and so on, too often.

    SQLite copies a common table expression, or a view, wherever it is used, with all that it uses:
    twenty that use the one before twice are a million, before anything could interrupt it.
    """
    if len(statement) > (most := LIMITS[sqlite3.SQLITE_LIMIT_SQL_LENGTH]):
        raise SqlLimit(
            f"the statement is longer than {most:,} characters", hint="pass long values as parameters"
        )
    words = _tokens(statement)
    bodies = {name: [_tokens(sql)] for name, sql in views.items()}
    for text in [words, *(view for (view,) in bodies.values())]:
        for name, begin, end in list(_expressions(text)):
            bodies.setdefault(name, []).append(text[begin:end])
    counts: dict[str, int] = {}

    def count(name: str, using: tuple[str, ...]) -> int:
        if len(using) > DEEPEST:
            return MOST_EXPANDED + 1
        if name in using:  # recursion, or the same name in another place
            return MOST_EXPANDED + 1 if len(bodies[name]) > 1 else 0
        if name not in counts:
            counts[name] = 1 + used(chain.from_iterable(map(_tables, bodies[name])), (*using, name))
        return counts[name]

    def used(names: Iterable[str], using: tuple[str, ...] = ()) -> int:
        return sum(count(name, using) for name in names if name in bodies)

    if used(_tables(words)) > MOST_EXPANDED:
        raise SqlLimit(
            "the statement uses common table expressions or views inside one another too often",
            hint=f"all uses together, with those inside them, may be {MOST_EXPANDED:,}",
        )


def _expressions(words: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """The name of each common table expression, and where its body is; windows may be among them."""
    partners = _partners(words)
    for at, word in enumerate(words):
        if word.lower() != "as" or at == 0:
            continue
        begin = at + 1
        while begin < len(words) and words[begin].lower() in ("not", "materialized"):
            begin += 1
        if begin in partners and words[begin] == OPEN:
            name = partners.get(at - 1, at) - 1 if words[at - 1] == CLOSE else at - 1
            yield _name(words[max(name, 0)]), begin, partners[begin] + 1


def _partners(words: Sequence[str]) -> dict[int, int]:
    """Where the other half of each bracket is, the end when it has none; SqlLimit when they nest too deep."""
    partners: dict[int, int] = {}
    open: list[int] = []
    for at, word in enumerate(words):
        if word == OPEN:
            open.append(at)
            partners[at] = len(words)
        elif word == CLOSE and open:
            partners[at], partners[open[-1]] = open[-1], at
            open.pop()
        if len(open) > DEEPEST:
            raise SqlLimit(f"brackets are nested more than {DEEPEST} deep", hint="simplify the statement")
    return partners


def _tables(words: Sequence[str]) -> Iterator[str]:
    """The names that are used where a table may be, some that are none among them.

    Those in the body of a common table expression are used where it is.
    """
    before = ""
    for at, (folded, in_from) in enumerate(_clauses(words)):
        owner = words[at + 1 : at + 2] == ["."]  # a schema, or the table of a column
        if folded not in NO_NAMES and not owner and before in BEFORE_A_TABLE:
            if before == ".":
                yield f"{_name(words[at - 2])}.{_name(words[at])}"
            elif in_from or before == "in":
                yield _name(words[at])
        before = folded


def _clauses(words: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Each word in lower case, and whether it is in a FROM; the body of an expression is one bracket."""
    after = [*(word.lower() for word in words[1:]), ""]
    apart = {begin: end for _, begin, end in _expressions(words) if after[begin] in BEGIN_BODY}
    inside = [False]  # a FROM, by the depth of brackets
    skip = 0
    for at, word in enumerate(words):
        skip = max(skip, apart.get(at, 0))
        folded = word.lower()
        if at < skip:
            folded = CLOSE
        elif word == OPEN:
            inside.append(inside[-1])
        elif word == CLOSE:
            inside = inside[:-1] or [False]
        elif folded in BEGINS_FROM | ENDS_FROM:
            inside[-1] = folded in BEGINS_FROM
        yield folded, inside[-1]


def _name(word: str) -> str:
    """A name as SQLite compares it."""
    if word[0] in QUOTES:
        end = "]" if word[0] == "[" else word[0]
        word = word[1:].removesuffix(end).replace(end * 2, end)
    return word.casefold()


def _views(connection: Any) -> dict[str, str]:
    """The text of every view, under its name, and under its schema's and its name."""
    found: dict[str, str] = {}
    # By name alone: the file's place need not be UTF-8 text.
    schemas = [name for (name,) in connection.execute("SELECT name FROM pragma_database_list")]
    for schema in sorted(schemas, key=lambda one: one not in OWN):  # as SQLite looks for a name
        for name, sql in connection.execute(
            f"SELECT name, sql FROM {quoted(schema)}.sqlite_master WHERE type = 'view'"
        ):
            found[f"{schema}.{name}".casefold()] = sql
            found.setdefault(name.casefold(), sql)
    return found


def join_views(connection: Any, labels: Mapping[str, str]) -> None:
    """For each view that Max made in some schema, make one with the rows of all; first their label."""
    places: dict[str, dict[str, list[str]]] = {}
    for schema in labels:
        with suppress(sqlite3.Error):  # an empty file
            for (view,) in connection.execute(OUR_VIEWS.format(schema=quoted(schema))).fetchall():
                rows = connection.execute(f"PRAGMA {quoted(schema)}.table_xinfo({quoted(view)})")
                places.setdefault(view, {})[schema] = [row[1] for row in rows]
    for view, columns in places.items():
        names = list(dict.fromkeys(chain.from_iterable(columns.values())))
        parts = []
        for schema, own in columns.items():
            shown = (quoted(name) if name in own else f"NULL AS {quoted(name)}" for name in names)
            label = labels[schema].replace("'", "''")
            of = f"FROM {quoted(schema)}.{quoted(view)}"
            parts.append(f"SELECT '{label}' AS installation, {', '.join(shown)} {of}")
        connection.execute(f"CREATE TEMP VIEW {quoted(view)} AS {' UNION ALL '.join(parts)}")


# -- what the columns are -----------------------------------------------------------------------


def _declared_types(connection: Any, names: Sequence[str], tables: set[tuple[str, str]]) -> list[str]:
    """The type of each column as the tables declare it that have a column of its name; else empty."""
    known: dict[str, set[str]] = {}
    for place, table in tables:
        for row in connection.execute(f"PRAGMA {quoted(place)}.table_xinfo({quoted(table)})"):
            known.setdefault(row[1].casefold(), set()).add(row[2])
    found = (known.get(name.casefold(), set()) for name in names)
    return [next(iter(types)) if len(types) == 1 else "" for types in found]


# -- what was wrong with it ---------------------------------------------------------------------

NAMED = re.compile(
    r'near "(?P<near>.*)": syntax error|no such (?P<kind>column|table|function): (?P<name>.*)'
    r'|ambiguous column name: (?P<ambiguous>.*)|unrecognized token: "(?P<token>.*)"'
    r"|(?:misuse of|wrong number of arguments to)\D*? (?P<function>\w+)\(\)",
    re.DOTALL,
)
BY_TEXT = {  # what needs other words than SQLite's
    "You can only execute one": ("there is more than one statement", "run them one by one"),
    "cannot VACUUM": ("it does more than read", ONE_SELECT),
    "Could not decode to UTF-8": (
        "a value is no UTF-8 text",
        "read it as bytes, with hex(…) or CAST(… AS BLOB)",
    ),
    "LIKE or GLOB pattern too": (
        f"a pattern of LIKE or GLOB is longer than {LIMITS[sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH]} bytes",
        "look for a shorter text, or with instr(column, text) > 0",
    ),
}


@contextmanager
def _explained(connection: Any, statement: str, guard: _Guard, watch: _Watch) -> Iterator[None]:
    """Turn what SQLite says of a statement into InvalidSql or SqlLimit; errors of the file stay."""
    try:
        yield
    except MemoryError as error:
        raise SqlLimit("the statement needs more memory than there is", hint=FEWER) from error
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        code = primary_code(error)
        if watch.reason is not None:
            raise watch.reason from error
        if code == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from None  # it came while SQLite called the watch, which loses it
        if code == sqlite3.SQLITE_TOOBIG and "string or blob" in str(error):
            longest = connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
            raise SqlLimit(
                f"a value is longer than the {longest:,} bytes that this statement may handle",
                hint="leave the column out, shorten it with substr(…), or skip rows by length(…)",
            ) from error
        if code in FATAL:
            raise
        if guard.refused and ("authorized" in str(error) or "vtable constructor" in str(error)):
            raise InvalidSql(statement, guard.refused, hint=ONE_SELECT) from error
        raise _invalid(connection, statement, str(error)) from error


def _invalid(connection: Any, statement: str, message: str) -> InvalidSql:
    """Where SQLite's message points, and what was perhaps meant."""
    for beginning, (problem, hint) in BY_TEXT.items():
        if message.startswith(beginning):
            return InvalidSql(statement, problem, hint=hint)
    if found := re.search(r"binding parameter :(\w+)|Incorrect number of bindings", message):
        name = found[1] or "name"
        problem = f"a parameter has no value: :{name}"
        return InvalidSql(statement, problem, hint=f"give it with --param {name}=VALUE")
    if not _tokens(statement):
        return InvalidSql(statement, "there is no statement", hint=ONE_SELECT)
    found = NAMED.match(message)
    if found is None:
        end = len(statement.rstrip()) if message == "incomplete input" else None
        return InvalidSql(statement, message, end)
    name = next(text for key, text in found.groupdict().items() if key != "kind" and text is not None)
    places = _places(statement, name)
    if found.lastgroup in ("near", "token"):
        places = _from_failure(connection, statement, places)
    hint = _meant(connection, statement, found["kind"], name)
    return InvalidSql(statement, message[:LONGEST_MESSAGE], places[0].start if places else None, hint=hint)


def _from_failure(connection: Any, statement: str, places: Iterable[slice]) -> list[slice]:
    """The places from the first on at which SQLite fails."""
    ordered = sorted(places, key=lambda place: place.stop)
    return ordered[bisect_left(ordered, True, key=lambda one: _fails(connection, statement[: one.stop])) :]


def _places(statement: str, name: str) -> list[slice]:
    """Where a name is in a statement; those that have nothing before them first."""
    found = [match for match in TOKEN.finditer(statement) if match["word"]]
    wanted = list(map(_comparable, _tokens(name)))
    fits: list[slice] = []
    behind: list[slice] = []
    for at, match in enumerate(found):
        if list(map(_comparable, (one["word"] for one in found[at : at + len(wanted)]))) == wanted:
            place = slice(match.start(), found[at + len(wanted) - 1].end())
            (behind if at and found[at - 1]["word"] == "." else fits).append(place)
    return fits + behind


def _comparable(word: str) -> str:
    return word if word.startswith("'") else _name(word)  # a text is no name


def _fails(connection: Any, statement: str) -> bool:
    """Whether SQLite refuses the beginning of a statement as it is, and not because more is missing."""
    try:
        connection.execute(f"EXPLAIN {statement}")
    except (sqlite3.Error, sqlite3.Warning) as error:
        return str(error) != "incomplete input"
    return False


def _meant(connection: Any, statement: str, kind: str | None, name: str) -> str:
    """The nearest table or column, and what has it."""
    if kind == "table":
        return _table_meant(connection, name)
    return _column_meant(connection, statement, _tokens(name)[-1]) if kind == "column" else ""


def _table_meant(connection: Any, name: str) -> str:
    """The nearest tables; without any, some that there are."""
    known = [str(one) for one in tables(connection)]
    near = nearest(name, known)
    listed = ", ".join(near or known[:LISTED])
    return f"{'did you mean' if near else 'there are'}: {listed}" if listed else ""


def _column_meant(connection: Any, statement: str, column: str) -> str:
    """The nearest column of the statement's tables; without one, how a text is written."""
    used = set(map(_name, _tokens(statement)))
    there = [one for one in tables(connection) if one.name.casefold() in used]
    near = nearest(column, [name for one in there for name, _ in one.columns])
    for one in there:
        if near and near[0] in dict(one.columns):
            return f"{one} has {near[0]}"
    of = "; ".join(f"{one} has {', '.join(name for name, _ in one.columns)}" for one in there[:1])
    return f"a text is written '{column}'" + (f"; {of}" if of else "")


def is_complete(text: str) -> bool:
    """Whether a text holds a whole statement, with its semicolon."""
    return sqlite3.complete_statement(text)


def tables(connection: Any) -> list[TableShape]:
    """The tables and views that are not internal, of every schema, with their columns."""
    found = []
    for row in connection.execute("PRAGMA table_list").fetchall():
        place, name, kind = row[:3]
        if kind != "shadow" and not name.startswith(("_", "sqlite_")):
            columns: list[Any] = []
            with suppress(sqlite3.OperationalError):  # a view that names what is not there has none
                columns = connection.execute(f"PRAGMA {quoted(place)}.table_xinfo({quoted(name)})").fetchall()
            sql = f"SELECT sql FROM {quoted(place)}.sqlite_master WHERE name = ?"
            (definition,) = connection.execute(sql, (name,)).fetchone()
            schema = "" if place in OWN else place
            found.append(TableShape(schema, name, kind, [(c[1], c[2]) for c in columns], definition))
    return sorted(found)
