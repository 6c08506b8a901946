"""Text search: what a person looks for, and where a text says it.

Rule 1: words are words.  Each one of a query is looked for as it is, whatever it is made of:
``audit-log`` finds "audit log", and no word means an operator.

Rule 2: which rows are found is for the database to say (see storage/full_text.py).  What is marked
in their texts is found here, the same for every database, and never decides which rows are hits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, Self
from unicodedata import decomposition

from ..errors import UsageError
from .struct import Struct
from .values import Json

LIMIT = 20  # hits, where the caller names no limit
MOST_TERMS = 64  # of one query
LENGTH = 160  # characters of a snippet
BEFORE = 40  # characters of it that stand before the first hit, at most
MARK = "**"  # around a hit, as in Markdown
ELLIPSIS = "…"

TERM = re.compile(r'"([^"]*)"?|(\S+)')
TOKEN = re.compile(r"[^\W_]+")
LONGEST_NAME = 255  # characters of a name whose parts can be found
TRIGRAM = 3  # characters: a shorter part is looked for in scripts without spaces alone
# Thai, Lao, Burmese, Khmer, Chinese, Japanese and Korean: words that no space divides.
SCRIPTS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
NO_WORDS = frozenset({"AND", "OR", "NOT", "NEAR"})  # of a raw query


def is_undivided(text: str) -> bool:
    """Whether all of a text is in scripts without spaces."""
    return re.fullmatch(f"[{SCRIPTS}]+", text) is not None


class Term(NamedTuple):
    """One word, or several in quotes that stand one after the other; ``prefix``: it may go on."""

    text: str
    prefix: bool = False


class TextQuery(Struct):
    """What is looked for: terms that must all occur, or ``raw``, a query in the database's own syntax."""

    terms: tuple[Term, ...]
    raw: str = ""

    @classmethod
    def parse(cls, text: str, *, raw: bool = False) -> Self:
        """A query from a person's words; UsageError when it has none, or too many.

        Words in double quotes stand one after the other; a word that ends with ``*`` may go on.
        """
        text = text.replace("\0", " ")
        terms = tuple(_terms(text))
        if not terms:
            raise UsageError(f"there is no word in {text!r}", hint="write what to look for: max find audit")
        if len(terms) > MOST_TERMS:
            raise UsageError(f"more than {MOST_TERMS} words", hint="look for fewer")
        return cls(tuple(one for one in terms if one.text not in NO_WORDS) if raw else terms, text * raw)


def _terms(text: str) -> Iterator[Term]:
    """The terms of a text; what holds no letter and no digit is none."""
    for phrase, word in TERM.findall(text):
        term = Term(" ".join(phrase.split()) or word.rstrip("*"), word.endswith("*"))
        if TOKEN.search(term.text):
            yield term


class Marked(str):
    """A text, and the places in it where something was found."""

    __slots__ = ("places",)
    places: Sequence[tuple[int, int]]  # beginnings and ends, in order; none overlaps another

    def __new__(cls, text: str, places: Sequence[tuple[int, int]] = ()) -> Self:
        made = super().__new__(cls, text)
        made.places = tuple(places)
        return made

    def marked(self, before: str = MARK, after: str = MARK) -> str:
        """The text with marks around what was found."""
        return "".join(f"{before}{one}{after}" if hit else one for one, hit in self.pieces())

    def pieces(self) -> Iterator[tuple[str, bool]]:
        """The text in pieces, each with whether it is a hit."""
        end = 0
        for start, stop in self.places:
            if end < start:
                yield self[end:start], False
            yield self[start:stop], True
            end = stop
        if end < len(self):
            yield self[end:], False


class Hit(Struct):
    """A row that was found.  ``score`` is larger the better it fits; 0 where only a part of a word does.

    Scores of two installations do not compare: each counts how rare a word is among its own rows.
    """

    installation: str
    entity: str
    id: str
    title: Marked
    score: float
    snippet: Marked

    def to_dict(self) -> dict[str, Json]:
        """The hit as JSON data; the snippet has ``**`` around what was found."""
        return {
            "ref": f"{self.entity}:{self.id}",
            "installation": self.installation,
            "entity": self.entity,
            "title": str(self.title),
            "score": round(self.score, 4),
            "snippet": self.snippet.marked(),
        }


class Found(Struct):
    """The best hits, best first, and how many rows were found in all.

    ``unindexed`` rows have changed and are not in the index yet: while the first index is built, and
    when that was interrupted.  ``searchable`` are the entities in which was looked.
    """

    hits: Sequence[Hit]
    total: int
    unindexed: int = 0
    searchable: Sequence[str] = ()

    def to_dict(self) -> dict[str, Json]:
        """The answer as JSON data."""
        hits = [one.to_dict() for one in self.hits]
        return {"hits": hits, "total": self.total, "unindexed": self.unindexed}


def merged(answers: Mapping[str, Found], limit: int = LIMIT) -> Found:
    """The answers of several installations as one.

    The best hit of each comes first, then the second ones: a score says nothing beside that of
    another installation.  Hits of the same place stand in the order of their scores.
    """
    ranked = [
        (place, -hit.score, name, hit)
        for name, found in answers.items()
        for place, hit in enumerate(found.hits)
    ]
    hits = [hit for *_, hit in sorted(ranked, key=lambda one: one[:3])]
    return Found(
        hits[:limit],
        sum(one.total for one in answers.values()),
        sum(one.unindexed for one in answers.values()),
        tuple(dict.fromkeys(name for one in answers.values() for name in one.searchable)),
    )


# -- marking -----------------------------------------------------------------------------------


def mark(text: str, query: TextQuery) -> Marked:
    """Where a text has the terms of a query: as words, or where it has none of a term, as parts."""
    folded = fold(text)
    places: list[tuple[int, int]] = []
    for word, part in _patterns(query.terms):
        spans = [found.span() for found in word.finditer(folded)]
        places += spans or [found.span() for found in part.finditer(folded)]
    return Marked(text, list(_joined(sorted(places), text)) if places else ())


@lru_cache(maxsize=8)
def _patterns(terms: tuple[Term, ...]) -> list[tuple[re.Pattern[str], re.Pattern[str]]]:
    """What finds each term in folded text: as words, and as a part of words."""
    found = []
    for term in terms:
        folded = fold(term.text)
        words = r"[\W_]+".join(map(re.escape, TOKEN.findall(folded)))
        end = r"[^\W_]*" if term.prefix else r"(?![^\W_])"
        found.append((re.compile(rf"(?<![^\W_]){words}{end}"), re.compile(re.escape(folded))))
    return found


def _joined(places: Sequence[tuple[int, int]], text: str) -> Iterator[tuple[int, int]]:
    """The places, with those that overlap, or that only a space keeps apart, as one."""
    start, end = -1, -1
    for begin, stop in places:
        if start >= 0 and (begin <= end or text[end:begin] == " "):
            end = max(end, stop)
        else:
            if start >= 0:
                yield start, end
            start, end = begin, stop
    if start >= 0:
        yield start, end


def fold(text: str) -> str:
    """The text without case and accents, each character in its place."""
    return text.lower() if text.isascii() else "".join(map(_folded, text))


def _folded(character: str) -> str:
    base = decomposition(character).split(" ")[0]
    if base and not base.startswith("<"):
        character = chr(int(base, 16))
    return character.lower()[:1]


def snippet(text: str, query: TextQuery, length: int = LENGTH) -> Marked:
    """The part of a text around the first place with a hit, on one line; its beginning if it has none."""
    found = mark(" ".join(text.split()), query)
    if len(found) <= length:
        return found
    first = max(found.places, key=lambda place: place[1] - place[0], default=(0, 0))[0]
    start = max(0, min(first - BEFORE, len(found) - length))
    if start:
        start = found.find(" ", start, first) + 1 or start
    end = start + length
    if end < len(found):
        end = max(found.rfind(" ", start + length // 2, end), start) or end
        end = start + length if end == start else end
    lead = ELLIPSIS if start else ""
    shift = len(lead) - start
    cut = f"{lead}{found[start:end].strip()}{ELLIPSIS if end < len(found) else ''}"
    places = [(b + shift, e + shift) for b, e in found.places if b >= start and e <= end]
    return Marked(cut, places)
