"""How an answer fits into its bytes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from max.serve.answers import MOST, cut, fitting, result, shown_words

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


def sent(data: Any) -> int:
    message = {"jsonrpc": "2.0", "id": 2**53, "result": {"resultType": "complete", **result(data)}}
    return len(json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode())


@given(st.lists(JSON, max_size=30), st.integers(1, 200), st.integers(1, 300))
def test_whatever_the_rows_an_answer_fits_and_hides_nothing(rows: list[Any], limit: int, times: int) -> None:
    many = rows * times
    data = fitting(lambda size: {"note": "", "rows": many[:size], "shown": len(many[:size])}, limit)
    assert sent(data) <= MOST
    text = result(data)["content"][0]["text"]
    assert json.loads(text) == json.loads(json.dumps(data))


def test_rows_go_before_texts_are_cut_and_as_many_stay_as_fit() -> None:
    rows = [{"id": str(n), "text": "x" * 50} for n in range(1_000)]
    data = fitting(lambda size: {"rows": rows[:size]}, 1_000)
    kept = len(data["rows"])
    assert data["rows"] == rows[:kept]
    assert sent({"rows": rows[: kept + 20]}) > MOST - 1_000


def test_one_row_that_is_too_long_says_how_long_its_texts_are() -> None:
    data = fitting(lambda size: {"row": {"body": "é" * 90_000, "short": "whole"}}, 1)
    assert data["row"]["short"] == "whole"
    assert data["row"]["body"].endswith("… (90,000 characters)")


def test_lists_that_do_not_fit_are_cut_and_the_note_says_so() -> None:
    entities = [{"entity": f"Entity{n}", "fields": [f"field_{m}" for m in range(40)]} for n in range(300)]
    data = fitting(lambda size: {"note": "all", "entities": entities}, 1)
    assert sent(data) <= MOST
    assert data["note"].startswith("truncated: ")
    assert data["entities"][0]["entity"] == "Entity0"


def test_words_say_how_many_of_how_many_and_how_to_go_on() -> None:
    assert (
        shown_words(50, 11_128, "go on with cursor=x") == "truncated: 50 of 11,128 rows; go on with cursor=x"
    )
    assert shown_words(3, 3, "") == "all 3 rows"
    assert shown_words(1, 1, "", "group") == "all 1 group"
    assert shown_words(0, 0, "") == "no rows"
    assert cut({"a": ["x" * 100]}, 10) == {"a": ["xxxxxxxxxx… (100 characters)"]}
