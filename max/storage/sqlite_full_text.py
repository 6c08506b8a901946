"""Full text in SQLite: two FTS5 indexes, of words and of parts; see full_text.py for what they hold.

Neither holds texts.  They take those of a view when they are checked or built again, and what they
find are numbers of rows.  So snippets are made from the rows: FTS5 would read the whole view for one.

FTS5 writes a segment for every statement that adds to it, and merges segments later.  So rows are
added by the page, in the order of their numbers, and segments are merged when there are many.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ..errors import UsageError
from ..model.text_search import LONGEST_NAME, SCRIPTS, TRIGRAM, Term, TextQuery, is_undivided
from .database import Connection, TextIndex, TextMatches, Values

WORDS, PARTS = "_max_find", "_max_find_part"
TEXTS = {WORDS: ("title", "text"), PARTS: ("part",)}
# FTS5's tables without which it opens no index, as its documentation has them.
OWN_TABLES = {"config": "(k PRIMARY KEY, v) WITHOUT ROWID", "data": "(id INTEGER PRIMARY KEY, block BLOB)"}
TOKENS = {WORDS: "unicode61 remove_diacritics 2", PARTS: "trigram"}
# Merging a few segments writes every row many times over.  So a load only merges very many of them,
# and the end of a sync some more, which is a small piece of work each time.
SETTINGS = {"automerge": 0, "crisismerge": 128, "usermerge": 16}  # segments of one size; 0: never
MERGED = 250  # pages of 1,000 bytes that the end of a sync writes, about
TITLE_WEIGHT = 10.0  # of a word in a title; one in the other texts has 1

AVAILABLE = "SELECT count(*) FROM pragma_module_list WHERE name = 'fts5'"
CREATE = """
    CREATE VIRTUAL TABLE {name} USING fts5(
        {columns}, content='{name}_row', content_rowid='id', tokenize='{tokens}'
    )
"""
# The better a row fits, the less is FTS5's rank.
FIND_WORDS = f"""
    SELECT rowid, -rank FROM {WORDS}
     WHERE {WORDS} MATCH :words AND rank MATCH 'bm25({TITLE_WEIGHT}, 1.0)' AND {{within}}
     ORDER BY rank, rowid
     LIMIT :limit
"""
COUNT_WORDS = f"SELECT count(*) FROM {WORDS} WHERE {WORDS} MATCH :words AND {{within}}"
MATCHING_PARTS = f"SELECT rowid AS id, rank AS place FROM {PARTS} WHERE {PARTS} MATCH :parts"
# A part that is shorter than a trigram is in no index: the texts are read.
READ_PARTS = f"SELECT id, 0 AS place FROM {PARTS}_row WHERE {{short}}"
ONLY_PARTS = (
    f"FROM ({{parts}}) WHERE id NOT IN (SELECT rowid FROM {WORDS} WHERE {WORDS} MATCH :words) AND {{within}}"
)
FIND_PARTS = f"SELECT id, 0.0 {ONLY_PARTS} ORDER BY place, id LIMIT :limit"
COUNT_PARTS = f"SELECT count(*) {ONLY_PARTS}"
UNEQUAL = f"""
    SELECT (SELECT count(*) FROM {WORDS}_row WHERE id NOT IN (SELECT id FROM {WORDS}_docsize)),
           (SELECT count(*) FROM {WORDS}_docsize WHERE id NOT IN (SELECT id FROM {WORDS}_row))
"""


class SqliteTextIndex(TextIndex):
    """The two indexes in FTS5."""

    def is_available(self, connection: Connection) -> bool:
        """Python may have been built with a SQLite that lacks FTS5."""
        return bool(connection.execute(AVAILABLE).fetchone()[0])

    def is_there(self, connection: Connection) -> bool:
        """By its columns' table, which can be seen without FTS5."""
        return all(connection.dialect.columns(connection, f"{name}_config") for name in TEXTS)

    def create(self, connection: Connection) -> None:
        """Drop what is left of an older one first."""
        self.drop(connection)
        for name, columns in TEXTS.items():
            sql = CREATE.format(name=name, columns=", ".join(columns), tokens=TOKENS[name])
            connection.execute(sql)
            for setting, value in SETTINGS.items():
                connection.execute(f"INSERT INTO {name} ({name}, rank) VALUES ('{setting}', {value})")

    def drop(self, connection: Connection) -> None:
        """Drop both; SQLite drops their own tables with them."""
        for name in TEXTS:
            try:
                connection.execute(f"DROP TABLE IF EXISTS {name}")
            except sqlite3.DatabaseError:
                _empty(connection, name)
                connection.execute(f"DROP TABLE IF EXISTS {name}")

    def merge(self, connection: Connection) -> None:
        """Nothing happens where no size has many segments."""
        for name in TEXTS:
            connection.execute(f"INSERT INTO {name} ({name}, rank) VALUES ('merge', {MERGED})")

    def has_parts(self, column: str) -> str:
        """A space makes prose of a text.  A trigram costs as much as a word, and prose has many more."""
        name = f"(length({column}) <= {LONGEST_NAME} AND instr({column}, ' ') = 0)"
        is_ascii = f"length(CAST({column} AS BLOB)) = length({column})"  # GLOB reads it slowly
        return f"({name} OR (NOT {is_ascii} AND {column} GLOB '*[{SCRIPTS}]*'))"

    def add(self, connection: Connection, rows: str, values: Values = ()) -> None:
        """One statement for each index."""
        for name, columns in TEXTS.items():
            some = " WHERE part <> ''" if name == PARTS else ""
            listed = ", ".join(columns)
            sql = f"INSERT INTO {name} (rowid, {listed}) SELECT id, {listed} FROM ({rows}){some} ORDER BY id"
            connection.execute(sql, values)

    def remove(self, connection: Connection, rows: str, values: Values = ()) -> None:
        """FTS5 needs the texts that it has to take out, as they were added."""
        for name, columns in TEXTS.items():
            some = " WHERE part <> ''" if name == PARTS else ""
            listed = ", ".join(columns)
            sql = (
                f"INSERT INTO {name} ({name}, rowid, {listed})"
                f" SELECT 'delete', id, {listed} FROM ({rows}){some} ORDER BY id"
            )
            connection.execute(sql, values)

    def find(
        self, connection: Connection, query: TextQuery, ranges: Sequence[tuple[int, int]], limit: int
    ) -> TextMatches:
        """The words first; the rows that have the terms as parts alone come after them."""
        words = query.raw or " AND ".join(map(_phrase, query.terms))
        if len(query.terms) > 1 and not query.raw:  # side by side they count as one more word
            words = f"({words}) OR {_phrase(Term(' '.join(one.text for one in query.terms)))}"
        values: dict[str, object] = {"words": words, "limit": limit}
        within = _within("rowid", ranges)
        try:
            total = int(connection.execute(COUNT_WORDS.format(within=within), values).fetchone()[0])
            rows = connection.execute(FIND_WORDS.format(within=within), values).fetchall()
        except sqlite3.OperationalError as error:
            if not query.raw or getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_ERROR:
                raise
            hint = "without --raw every word is looked for as it is; --raw takes the syntax of SQLite's FTS5"
            raise UsageError(f"the query cannot be read: {error}", hint=hint) from error
        parts, terms = ("", {}) if query.raw else _parts(query.terms)
        if parts:
            names = {"parts": parts, "within": _within("id", ranges)}
            values |= terms
            total += int(connection.execute(COUNT_PARTS.format(**names), values).fetchone()[0])
            if len(rows) < limit:
                values["limit"] = limit - len(rows)
                rows += connection.execute(FIND_PARTS.format(**names), values).fetchall()
        return TextMatches(rows, total)

    def problems(self, connection: Connection) -> list[str]:
        """FTS5 compares its indexes with the views, text by text."""
        missing, surplus = connection.execute(UNEQUAL).fetchone()
        found = [f"{missing:,} rows are not in the index"] if missing else []
        found += [f"{surplus:,} rows are in the index that are not stored"] if surplus else []
        for name in TEXTS:
            try:
                connection.execute(f"INSERT INTO {name} ({name}, rank) VALUES ('integrity-check', 1)")
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
                    raise
                what = "words" if name == WORDS else "parts of words"
                found.append(f"the index of {what} does not fit the stored texts")
        return found


def _empty(connection: Connection, name: str) -> None:
    """Make an index that is too damaged to be dropped one that is empty, by its own tables.

    FTS5 looks into two of them, and drops nothing that it does not understand.
    """
    connection.execute(f"CREATE VIRTUAL TABLE temp.{name} USING fts5(anything)")
    for own, columns in OWN_TABLES.items():
        table = f"{name}_{own}"
        connection.execute(f"CREATE TABLE IF NOT EXISTS main.{table} {columns}")
        connection.execute(f"DELETE FROM main.{table}")
        connection.execute(f"INSERT INTO main.{table} SELECT * FROM temp.{table}")
    connection.execute(f"DROP TABLE temp.{name}")


def _within(column: str, ranges: Sequence[tuple[int, int]]) -> str:
    """SQL that is true of a number in one of the ranges, their ends included."""
    return f"({' OR '.join(f'{column} BETWEEN {low} AND {high}' for low, high in ranges)})"


def _phrase(term: Term) -> str:
    """A term as FTS5 writes it: in quotes nothing is an operator."""
    return '"' + term.text.replace('"', '""') + '"' + "*" * term.prefix


def _parts(terms: Sequence[Term]) -> tuple[str, dict[str, str]]:
    """SQL for the rows that have all terms as parts of words, and its values; "" where there can be none."""
    texts = [one.text for one in terms]
    long = [_phrase(Term(text)) for text in texts if len(text) >= TRIGRAM]
    short = [text for text in texts if len(text) < TRIGRAM]
    if not all(map(is_undivided, short)):
        return "", {}
    values = {"parts": " AND ".join(long)} if long else {}
    if not short:
        return MATCHING_PARTS, values
    values |= {f"short{number}": text for number, text in enumerate(short)}
    conditions = [f"instr(part, :short{number}) > 0" for number in range(len(short))]
    if long:
        conditions.append(f"id IN (SELECT id FROM ({MATCHING_PARTS}))")
    return READ_PARTS.format(short=" AND ".join(conditions)), values
