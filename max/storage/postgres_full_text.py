"""Full text in Postgres: a ``tsvector`` of each row's words, and the text of its parts for trigrams.

The words are made here and not by a configuration of the server: letters and digits that stand together,
folded, without accents.  So they are the same for every server, locale and version, and the same as those
of a query.  Words of the title weigh ten times as much.

Parts are found by ``LIKE``.  With the extension ``pg_trgm`` an index serves that; where it is not
installed and this role may not install it, the parts are read one by one, and found all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any
from unicodedata import combining, normalize

from ..errors import UsageError
from ..model.text_search import LONGEST_NAME, SCRIPTS, TOKEN, TRIGRAM, Term, TextQuery, is_undivided
from .database import Connection, TextIndex, TextMatches, Values
from .postgres_dialect import state_of, words_of

BATCH = 1_000  # rows whose words are made at a time
LONGEST_WORD = 500  # characters; Postgres takes 2,046 bytes
LAST_PLACE = 16_383  # the greatest place of a word that Postgres notes
MOST_PLACES = 255  # of one word

CREATE = """
    CREATE TABLE _max_find (id INTEGER PRIMARY KEY, words tsvector NOT NULL, part TEXT);
    CREATE INDEX _max_find_words ON _max_find USING gin (words)
"""
HAS_TRIGRAMS = """
    SELECT n.nspname FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
     WHERE e.extname = 'pg_trgm'
"""
PUT = """
    INSERT INTO _max_find (id, words, part) VALUES (?, CAST(? AS tsvector), ?)
    ON CONFLICT (id) DO NOTHING
"""
# The weights of D, C, B and A: the words of a title are A, all others D.  The last number divides by the
# logarithm of a text's length: of two that have the words, the shorter one is more about them.
RANK = "ts_rank(CAST('{{0.1, 0.1, 0.1, 1.0}}' AS real[]), words, q.query, 1)"
WORDS = "FROM _max_find, (SELECT CAST(:words AS tsquery) AS query) AS q WHERE words @@ q.query AND {within}"
FIND_WORDS = f"SELECT id, CAST({RANK} AS REAL) {WORDS} ORDER BY 2 DESC, id LIMIT :limit"
COUNT_WORDS = f"SELECT count(*) {WORDS}"
PARTS = "FROM _max_find WHERE {parts} AND NOT (words @@ CAST(:words AS tsquery)) AND {within}"
FIND_PARTS = f"SELECT id, CAST(0 AS REAL) {PARTS} ORDER BY length(part), id LIMIT :limit"
COUNT_PARTS = f"SELECT count(*) {PARTS}"
RAW = "SELECT CAST(to_tsquery('simple', ?) AS text)"
SHOULD_BE = "SELECT id, title, text, part FROM _max_find_row WHERE id > ? ORDER BY id LIMIT ?"
EQUAL = """
    SELECT count(*) FROM _max_find
     WHERE id = ? AND words = CAST(? AS tsvector) AND part IS NOT DISTINCT FROM ?
"""


class PostgresTextIndex(TextIndex):
    """One table with both indexes."""

    def is_available(self, connection: Connection) -> bool:
        """Every Postgres has ``tsvector``."""
        return True

    def is_there(self, connection: Connection) -> bool:
        """By its columns."""
        return "words" in connection.dialect.columns(connection, "_max_find")

    def create(self, connection: Connection) -> None:
        """An empty table; trigrams where this role may have them."""
        self.drop(connection)
        connection.execute(CREATE)
        place = _trigrams(connection)
        if place is not None:
            operators = f'"{place}".gin_trgm_ops'
            sql = f"CREATE INDEX _max_find_part ON _max_find USING gin (part {operators}) WHERE part <> ''"
            connection.execute(sql)

    def drop(self, connection: Connection) -> None:
        """The indexes go with the table."""
        connection.execute("DROP TABLE IF EXISTS _max_find")

    def merge(self, connection: Connection) -> None:
        """Nothing: the server cleans its lists of pending entries itself."""

    def has_parts(self, column: str) -> str:
        """A space makes prose of a text, which has many more trigrams."""
        name = f"(length({column}) <= {LONGEST_NAME} AND strpos({column}, ' ') = 0)"
        return f"({name} OR (octet_length({column}) <> length({column}) AND {column} ~ '[{SCRIPTS}]'))"

    def add(self, connection: Connection, rows: str, values: Values = ()) -> None:
        """A page of rows comes here to be divided into words."""
        found = connection.execute(f"SELECT id, title, text, part FROM ({rows}) AS new ORDER BY id", values)
        connection.executemany(PUT, (_entry(*row) for row in found.fetchall()))

    def remove(self, connection: Connection, rows: str, values: Values = ()) -> None:
        """By their numbers alone."""
        connection.execute(f"DELETE FROM _max_find WHERE id IN (SELECT id FROM ({rows}) AS old)", values)

    def find(
        self, connection: Connection, query: TextQuery, ranges: Sequence[tuple[int, int]], limit: int
    ) -> TextMatches:
        """The words first; the rows that have the terms as parts alone come after them."""
        words = _read(connection, query.raw) if query.raw else words_query(query.terms)
        within = f"({' OR '.join(f'id BETWEEN {low} AND {high}' for low, high in ranges)})"
        values: dict[str, object] = {"words": words, "limit": limit}
        total = int(connection.execute(COUNT_WORDS.format(within=within), values).fetchone()[0])
        rows = connection.execute(FIND_WORDS.format(within=within), values).fetchall()
        parts = {} if query.raw else part_patterns(query.terms)
        if parts:
            conditions = ["part <> ''", *(f"part LIKE :{name}" for name in parts)]
            names = {"parts": " AND ".join(conditions), "within": within}
            values |= parts
            total += int(connection.execute(COUNT_PARTS.format(**names), values).fetchone()[0])
            if len(rows) < limit:
                values["limit"] = limit - len(rows)
                rows += connection.execute(FIND_PARTS.format(**names), values).fetchall()
        return TextMatches(rows, total)

    def problems(self, connection: Connection) -> list[str]:
        """Every row's words are made once more."""
        missing = connection.execute(
            "SELECT count(*) FROM _max_find_row WHERE id NOT IN (SELECT id FROM _max_find)"
        ).fetchone()[0]
        surplus = connection.execute(
            "SELECT count(*) FROM _max_find WHERE id NOT IN (SELECT id FROM _max_find_row)"
        ).fetchone()[0]
        found = [f"{missing:,} rows are not in the index"] if missing else []
        found += [f"{surplus:,} rows are in the index that are not stored"] if surplus else []
        wrong, last = 0, -1
        while rows := connection.execute(SHOULD_BE, (last, BATCH)).fetchall():
            last = rows[-1][0]
            wrong += sum(not connection.execute(EQUAL, _entry(*row)).fetchone()[0] for row in rows)
        if wrong > missing:
            found.append("the index of words does not fit the stored texts")
        return found


def _trigrams(connection: Connection) -> str | None:
    """The schema that has the extension for trigrams, which is installed if that is allowed; None without."""
    found = connection.execute(HAS_TRIGRAMS).fetchone()
    if found is None:
        connection.execute("SAVEPOINT trigrams")
        try:
            connection.execute("CREATE EXTENSION pg_trgm SCHEMA public")
        except connection.dialect.errors as error:
            if connection.dialect.is_fatal(connection, error):
                raise
            connection.execute("ROLLBACK TO SAVEPOINT trigrams")
        connection.execute("RELEASE SAVEPOINT trigrams")
        found = connection.execute(HAS_TRIGRAMS).fetchone()
    return None if found is None else str(found[0])


def _read(connection: Connection, raw: str) -> str:
    """A raw query; UsageError when Postgres cannot read it."""
    try:
        return str(connection.execute(RAW, (raw,)).fetchone()[0])
    except connection.dialect.errors as error:
        if state_of(error) != "42601":
            raise
        hint = (
            "without --raw every word is looked for as it is; --raw takes the syntax of Postgres's to_tsquery"
        )
        raise UsageError(f"the query cannot be read: {words_of(error)}", hint=hint) from error


# -- words -------------------------------------------------------------------------------------


@lru_cache(maxsize=10_000)
def plain(word: str) -> str:
    """A word without case and accents."""
    folded = word.casefold()
    if folded.isascii():
        return folded
    return normalize("NFC", "".join(one for one in normalize("NFD", folded) if not combining(one)))


def words_of_text(text: str) -> list[str]:
    """The words of a text in their order."""
    return [plain(word)[:LONGEST_WORD] for word in TOKEN.findall(normalize("NFC", text))]


def _entry(id: int, title: str, text: str, part: str | None) -> tuple[Any, ...]:
    """A row of the table: its number, the text of its ``tsvector``, its parts."""
    places: dict[str, list[str]] = {}
    begins = 1
    for words, weight in ((words_of_text(title), "A"), (words_of_text(text), "")):
        for place, word in enumerate(words, begins):
            found = places.setdefault(word, [])
            if len(found) < MOST_PLACES:
                found.append(f"{min(place, LAST_PLACE)}{weight}")
        begins += len(words) + 1  # no phrase goes on from the title to the text
    vector = " ".join(f"{_lexeme(word)}:{','.join(some)}" for word, some in places.items())
    return id, vector, part.casefold() if part else None


def _lexeme(word: str) -> str:
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"


def words_query(terms: Iterable[Term]) -> str:
    """A ``tsquery`` of terms that must all occur; the words of one stand side by side."""
    phrases = [(words_of_text(one.text), one.prefix) for one in terms]
    every = " & ".join(f"({_phrase(words, prefix)})" for words, prefix in phrases)
    if len(phrases) == 1:
        return every
    return f"({every}) | ({_phrase([word for words, _ in phrases for word in words], False)})"


def _phrase(words: Sequence[str], prefix: bool) -> str:
    lexemes = list(map(_lexeme, words))
    if prefix:
        lexemes[-1] += ":*"
    return " <-> ".join(lexemes)


def part_patterns(terms: Iterable[Term]) -> dict[str, str]:
    """Patterns of LIKE for rows that have all terms as parts of words; empty where there can be none."""
    texts = [one.text.casefold() for one in terms]
    if not all(len(text) >= TRIGRAM or is_undivided(text) for text in texts):
        return {}
    escaped = (text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") for text in texts)
    return {f"part{number}": f"%{text}%" for number, text in enumerate(escaped)}
