"""How an answer fits: everything in it twice, as data and as text, and never more than MOST bytes.

Some clients show a model the structured content alone, others the text alone; so each has all of
it.  An answer that is too long gets fewer rows, never broken JSON, and says in words how to go on:
models otherwise say that there is no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import MaxError
from ..model.values import Json
from ..model.visible import json_text, visible

MOST = 20_000  # bytes of an answer with both forms, as it is sent
ENVELOPE = 600  # bytes of the message around it: its id, error flag, a note
LONG_TEXT = 400  # characters of a text in a row; `get` shows all of it
SHORTEST = 20  # characters that remain of a text when nothing else helps

Make = Callable[[int], dict[str, Json]]  # an answer of at most so many rows


def result(data: Json) -> dict[str, Json]:
    """The result of a call, as structured content and as text."""
    return {
        "content": [{"type": "text", "text": json_text(data)}],
        "structuredContent": data,
        "isError": False,
    }


def failure(error: MaxError) -> dict[str, Json]:
    """The result of a call that failed: the message and what to do, as the command line prints them."""
    text = str(visible(error.render()))[: MOST // 4]
    return {"content": [{"type": "text", "text": f"{text}\n(code: {error.code})"}], "isError": True}


def size(data: Json) -> int:
    """Bytes of the message that carries these data."""
    return len(json_text(result(data)).encode("utf-8", "backslashreplace")) + ENVELOPE


def fitting(make: Make, limit: int) -> dict[str, Json]:
    """The answer with the most rows, up to a limit, that fits; with one row its texts are cut as well."""
    while True:
        data: dict[str, Json] = visible(make(limit))
        needed = size(data)
        if needed <= MOST:
            return data
        if limit == 1:
            return with_short_texts(data)
        limit = max(1, min(limit - 1, limit * MOST // needed))


def with_short_texts(data: dict[str, Json]) -> dict[str, Json]:
    """The same with its long texts cut, each to as much as fits; else with shorter lists."""
    whole, most = data, MOST // 2
    while size(data) > MOST and most >= SHORTEST:
        data = cut(whole, most)
        most = most * 3 // 4
    left = 0
    while size(data) > MOST and (longest := _longest_list(data)):
        left += len(longest) - len(longest) // 2
        del longest[len(longest) // 2 :]
    if left:
        data["note"] = f"truncated: {left:,} items of lists were left out; ask for one thing at a time"
    return data


def cut(data: Json, most: int) -> Json:
    """The same with texts of at most so many characters; each cut one says how long it is."""
    if isinstance(data, str) and len(data) > most + 40:
        return f"{data[:most]}… ({len(data):,} characters)"
    if isinstance(data, list):
        return [cut(one, most) for one in data]
    return {name: cut(one, most) for name, one in data.items()} if isinstance(data, dict) else data


def _longest_list(data: Json) -> list[Json]:
    """The list with most items anywhere in the data; empty when none has two."""
    found: list[Json] = []
    inside = data if isinstance(data, list) else list(data.values()) if isinstance(data, dict) else []
    if isinstance(data, list) and len(data) > 1:
        found = data
    for one in inside:
        found = max(found, _longest_list(one), key=len)
    return found


def short_rows(rows: Sequence[Json]) -> list[Json]:
    """Rows whose long texts are cut."""
    return [cut(row, LONG_TEXT) for row in rows]


def shown_words(shown: int, total: int | None, more: str, noun: str = "row") -> str:
    """``all 3 rows``, or ``truncated: 50 of 11,128 rows; go on with …``."""
    if total == 0:
        return f"no {noun}s"
    if total is not None and shown >= total:
        return f"all {total:,} {noun}{'' if total == 1 else 's'}"
    of = f" of {total:,}" if total is not None else ""
    return f"truncated: {shown:,}{of} {noun}s; {more}"
