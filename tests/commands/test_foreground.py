"""What a sync in the foreground says while it waits."""

from __future__ import annotations

import io

import pytest

from max.commands.foreground import Waiting
from max.commands.terminal import ProgressView, progress_line
from max.model.tasks import Status
from max.sync.events import Progress

FAILED = "127.0.0.1:80: GET /api/users: the service failed (500)"


def at(second: float, rows: int = 0, **rest: object) -> Progress:
    """The progress of a sync at a second."""
    counts = {"User": rows} if rows else {}
    return Progress("s", Status.RUNNING, second, counts, **rest)  # type: ignore[arg-type]


def test_the_cause_and_the_try_are_said_until_something_new_is_stored() -> None:
    said, limits = Waiting(), ["acme:api"]
    assert said.note(at(0.0, running=1), 0.0) == ""
    first = at(2.0, running=1, limits=limits, reason="it is down")  # the call waits before it is repeated
    assert said.note(first, 2.0) == "trying again, it is down"
    waits = at(4.0, waiting=1, due=10.0, reason=f"try 2 of 5: {FAILED}")
    assert said.note(waits, 4.0) == f"again in 6 s, try 2 of 5: {FAILED}"
    assert said.note(waits, 8.5) == f"again in 2 s, try 2 of 5: {FAILED}"
    assert said.note(at(10.0, running=1), 10.0) == f"trying again, try 2 of 5: {FAILED}"
    again = at(12.0, running=1, limits=limits, reason="it is down")
    assert said.note(again, 12.0) == "trying again, try 2 of 5: it is down"
    assert said.note(at(14.0, running=1), 14.0) == "trying again, try 2 of 5: it is down"
    assert said.note(at(15.0, rows=1, running=1), 15.0) == ""
    assert said.note(again._replace(counts={"User": 1}), 16.0) == "trying again, it is down"


def test_a_service_that_does_not_answer_is_said_to_be_waited_for() -> None:
    said = Waiting()
    assert said.note(at(0.0, running=3), 0.0) == ""
    assert said.note(at(0.0, running=3), 4.9) == ""
    assert said.note(at(0.0, running=3), 5.0) == "waiting for the first answer"
    assert said.note(at(6.0, rows=2, running=3), 6.0) == ""
    assert said.note(at(6.0, rows=2, running=3), 71.0) == "nothing new for 1 min 05 s"
    assert (
        said.note(at(6.0, rows=2, reason="indexing texts: 5 rows left"), 99.0)
        == "indexing texts: 5 rows left"
    )


def test_a_pipe_gets_the_cause_a_first_time_before_a_page_came() -> None:
    stream, said = io.StringIO(), Waiting()
    view = ProgressView(stream, now=0.0)
    for second in range(11):
        view.show({}, said.note(at(0.0, running=1), float(second)), now=float(second))
    assert stream.getvalue() == "10 s  waiting for the first answer\n"


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (100, f"4 s  again in 6 s, try 2 of 5: {FAILED}"),
        (60, "4 s  again in 6 s, try 2 of 5: the service failed (500)"),
        (40, "4 s  again in 6 s, try 2 of 5: the serv…"),
        (None, f"4 s  again in 6 s, try 2 of 5: {FAILED}"),
    ],
)
def test_a_narrow_line_leaves_out_the_request_and_keeps_the_cause(width: int | None, line: str) -> None:
    assert progress_line({}, 4.2, 0.0, f"again in 6 s, try 2 of 5: {FAILED}", width) == line
