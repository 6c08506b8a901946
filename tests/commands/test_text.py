"""Text, tables and views: widths, sanitized text, counts and times."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.commands.schema_view import Described, schema_json, schema_lines, schema_text
from max.commands.tables import Column, Table
from max.commands.terminal import progress_line
from max.commands.text import (
    PLAIN,
    Paint,
    ago,
    cell,
    clusters,
    counted,
    display_width,
    duration,
    file_size,
    first_few,
    iso_time,
    json_text,
    names_that_fit,
    number,
    pad,
    sanitize,
    sanitize_lines,
    short_age,
    short_time,
    truncate,
    until,
)
from max.commands.views import (
    InstallationStatus,
    failures_text,
    run_json,
    runs_table,
    status_text,
    summary,
)
from max.core import InstallationInfo
from max.model.entities import Entity, Field, Many, Ref
from max.model.schema import Schema
from max.model.tasks import BLOCKED, Failure, Status, SyncResult
from max.model.values import Json
from max.storage.sync_state import SyncState

NOW = 1_800_000_000.0
TEXTS = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("e\u0301\u200d\ufe0f👩💻🇩🇪🏽한글日本語\x1b\n\u202eक्षि"),
    )
)


class Person(Entity):
    """Someone.

    A second paragraph that no table needs.
    """

    name: Field[str] = Field("full name")
    age: Field[int | None] = Field("in years")
    active: Field[bool] = Field()
    seen_on: Field[datetime | None] = Field()
    born: Field[date | None] = Field()
    tags: Field[Json] = Field()
    boss: Field[Ref[Person] | None] = Field("the manager")
    reports: Many[Person] = Many("the people managed", by=lambda: Person.boss)


ADA = Person(
    "p1",
    name="Ada\nLovelace",
    age=36,
    active=True,
    seen_on=datetime(2026, 1, 31, 9, 30, 15, tzinfo=UTC),
    born=date(1815, 12, 10),
    tags=["maths", "poetry"],
    boss=Ref(Person, "p2"),
)
SCHEMA = Schema([Person], roots=[Person])
ACME = InstallationInfo("acme", "default", "b50b862c00000000", {"users": 5, "base_url": ""}, NOW - 7200)


def failure(number: int, message: str = "no answer", hint: str = "check the network") -> Failure:
    return Failure(
        *("s1", number, "load_fields", f"Person:{number}: load fields age", "Person", str(number)),
        *("upstream.offline", message, hint, 4, NOW, {}),
    )


def result(
    *, status: Status = Status.COMPLETED, failures: tuple[Failure, ...] = (), **more: Any
) -> SyncResult:
    made = SyncResult(
        id="01abc",
        status=status,
        counts={"Person": 12_345, "Team": 7},
        removed=2,
        requests={"acme:user:list": 124},
        failed=len(failures),
        started_at=NOW - 65,
        finished_at=NOW,
        resumed=False,
        worker=None,
        plan=None,
        notes=(),
        quarantined=0,
        schedule=None,
        failures=failures,
    )
    return made.replace(**more)


# -- characters ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("abc", 3),
        ("naïve", 5),
        ("e\u0301", 1),
        ("日本", 4),
        ("한글", 4),
        ("\u1112\u1161\u11ab", 2),
        ("👍🏽", 2),
        ("👩\u200d💻", 2),
        ("🇩🇪", 2),
        ("🇩🇪🇫🇷", 4),
        ("❤\ufe0f", 2),
        ("", 0),
    ],
)
def test_display_width_counts_terminal_cells(text: str, width: int) -> None:
    assert display_width(text) == width


@pytest.mark.parametrize("text", ["e\u0301", "👍🏽", "👩\u200d💻", "🇩🇪", "❤\ufe0f", "\u1112\u1161\u11ab"])
def test_a_combined_character_is_never_split(text: str) -> None:
    assert list(clusters(text)) == [text]
    assert truncate(f"{text}{text}xyz", display_width(text) * 2 + 1) == f"{text}{text}…"


@given(TEXTS, st.integers(0, 20))
@settings(deadline=None, max_examples=200)
def test_truncated_text_fits_and_ends_between_characters(text: str, width: int) -> None:
    shown = truncate(text, width)
    whole = list(clusters(text))
    assert display_width(shown) <= width
    assert (
        shown == text or not shown or list(clusters(shown[:-1])) == whole[: len(list(clusters(shown[:-1])))]
    )


@given(TEXTS)
@settings(deadline=None, max_examples=200)
def test_clusters_join_to_the_text(text: str) -> None:
    assert "".join(clusters(text)) == text


@given(st.text(st.characters()))
@settings(deadline=None, max_examples=200)
def test_sanitized_text_has_no_control_characters(text: str) -> None:
    shown = sanitize(text)
    bad = [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert not bad
    assert "\u202e" not in shown


def test_terminal_sequences_are_spelled_out() -> None:
    assert sanitize("\x1b[31mred\x07 a\nb\tc \u202eevil") == "\\x1b[31mred\\x07 a b c \\u202eevil"


# tags that spell "AB"; order marks; zero width; variants of nothing; fillers; a shy hyphen
INVISIBLE = (
    "\U000e0001\U000e0041\U000e0042 \u200e\u200f\u061c\u202a\u202e\u2066\u2069 \u200b\u200c\u200d\u2060\ufeff"
    " \ufe00\ufe0f\U000e0100\U000e01ef \u115f\u3164\uffa0\u034f\u180e\xad\ufff9\U0001d173"
)


def test_no_character_hides_or_turns_the_others_round() -> None:
    shown = sanitize(f"a{INVISIBLE}b")
    assert all(c.isascii() for c in shown)
    assert "\\U000e0041\\U000e0042" in shown
    assert "\\u202e" in shown


def test_what_hides_is_escaped_in_json_and_reads_back_exactly() -> None:
    text = json_text({INVISIBLE: [INVISIBLE, "a\udcff"]})
    assert text.isascii()
    assert json.loads(text) == {INVISIBLE: [INVISIBLE, "a\udcff"]}


@pytest.mark.parametrize(
    "text", ["1\ufe0f\u20e3", "❤\ufe0f\u200d🔥", "می\u200cخواهم", "क्\u200dष", "葛\U000e0100"]
)
def test_what_shapes_the_character_before_it_stays(text: str) -> None:
    assert sanitize(text) == text
    assert json_text(text) == f'"{text}"'


def test_lines_of_ours_keep_their_colours_and_nothing_else() -> None:
    paint = Paint(on=True)
    assert sanitize_lines(f"{paint('a', 'red')}\nb") == f"{paint('a', 'red')}\nb"
    assert sanitize_lines("\x1b[2J\x1b]8;;x\x1b\\ \x1b[31;5mb\r") == "\\x1b[2J\\x1b]8;;x\\x1b\\ \\x1b[31;5mb "


def test_joined_emoji_and_accents_stay_as_they_are() -> None:
    assert sanitize("👩\u200d💻 e\u0301 日本") == "👩\u200d💻 e\u0301 日本"


@given(st.recursive(st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
@settings(deadline=None, max_examples=100)
def test_json_text_reads_back_equal_and_has_no_control_characters(value: Json) -> None:
    text = json_text(value)
    assert json.loads(text) == value
    assert not {"\x1b", "\x7f", "\x9b", "\u2028", "\u202e"} & set(text)


# -- tables ----------------------------------------------------------------------------------


def table(columns: list[Column], rows: list[list[str]], width: int | None) -> list[str]:
    """Header and rows."""
    drawn = Table(columns, rows, width)
    return [drawn.header(), *map(drawn.line, rows)]


CELLS = st.lists(st.lists(TEXTS.map(sanitize), min_size=4, max_size=4), max_size=5)


@given(CELLS, st.integers(1, 60))
@settings(deadline=None, max_examples=150)
def test_no_line_of_a_table_is_wider_than_the_terminal(rows: list[list[str]], width: int) -> None:
    columns = [Column("id", whole=True), Column("name"), Column("age", right=True), Column("note")]
    assert max(map(display_width, table(columns, rows, width))) <= width


def test_without_a_terminal_nothing_is_truncated() -> None:
    long = "x" * 500
    assert table([Column("a"), Column("b")], [[long, "y"]], None)[1] == f"{long}  y"


def test_numbers_are_right_aligned_and_never_truncated() -> None:
    lines = table([Column("name"), Column("votes", right=True)], [["a" * 40, "7"], ["b", "1234567"]], 20)
    assert lines == ["name           votes", "aaaaaaaaaa…        7", "b            1234567"]


def test_wide_characters_keep_columns_aligned() -> None:
    lines = table([Column("a"), Column("b")], [["日本語", "x"], ["abc", "y"]], 40)
    assert [display_width(line.removesuffix(end)) for line, end in zip(lines[1:], "xy", strict=True)] == [
        8,
        8,
    ]


def test_a_long_first_column_leaves_room_for_the_others() -> None:
    columns = [Column("id", whole=True), Column("status"), Column("kind")]
    made = Table(columns, [["i" * 100, "added", "file"]], 80)
    assert (made.hidden, made.line(["i" * 100, "added", "file"])) == ([], f"{'i' * 65}…  added   file")


def test_the_fields_that_were_chosen_leave_the_id_a_few_cells() -> None:
    fields = [Column(f"field {number}", whole=True) for number in range(6)]
    cells = ["i" * 36, *(["x" * 8] * 6)]
    for first, hidden in ((Column("id", whole=True), 2), (Column("id", whole=True, yields=True), 0)):
        made = Table([first, *fields], [cells], 80)
        assert len(made.hidden) == hidden
        assert display_width(made.line(cells)) <= 80


def test_no_more_of_a_long_text_is_looked_at_than_is_shown() -> None:
    class Text(str):
        """Counts the characters that are read one by one, or sliced."""

        looked = 0

        def __iter__(self) -> Iterator[str]:
            for character in super().__iter__():
                Text.looked += 1
                yield character

        def __getitem__(self, place: Any) -> str:
            part = super().__getitem__(place)
            Text.looked += len(part)
            return part

        def isprintable(self) -> bool:
            raise AssertionError("reads all of it")

    long = Text("会" * 100_000)
    shown = cell(long, 80)
    drawn = Table([Column("id"), Column("text")], [["1", shown]], 80)
    assert drawn.line(["1", shown]) == f"1   {'会' * 29}…"
    assert Text.looked < 1_000
    assert display_width(cell("e" + "\u0301" * 100_000, 80), 80) == 1


def test_without_a_terminal_a_very_long_cell_is_whole_and_the_others_are_aligned() -> None:
    lines = table([Column("a"), Column("b")], [["x" * 500, "1"], ["x", "2"]], None)
    assert lines == [f"a{' ' * 199}  b", f"{'x' * 500}  1", f"x{' ' * 199}  2"]


def test_columns_without_room_are_hidden() -> None:
    columns = [Column(name, whole=True) for name in ("first", "second", "third")]
    made = Table(columns, [["1" * 10, "2" * 10, "3" * 10]], 25)
    assert (made.hidden, made.line(["a", "b", "c"])) == (["third"], "a           b")


def test_a_table_names_the_columns_that_found_no_room() -> None:
    columns = [Column(name, whole=True) for name in ("first", "second", "third")]
    rows = [["1" * 10, "2" * 10, "3" * 10]]
    assert Table(columns, rows, 25).lines(rows)[2:] == ["no room for third; use -o json"]
    assert Table(columns, rows, None).lines(rows)[2:] == []
    runs = runs_table([(ACME, result())], NOW, 60)
    assert runs[2:] == ["no room for requests, failed; use -o json"]


def test_a_header_is_bold_only_where_colours_are_on() -> None:
    rows = [["1"]]
    assert Table([Column("a")], rows, 9, Paint(on=True)).header() == "\033[1ma\033[0m"
    assert Table([Column("a")], rows, 9).header() == "a"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "true"),
        (3, "3"),
        (2.5, "2.5"),
        ({"a": [1]}, '{"a":[1]}'),
        ([], "–"),
        ([1], "[1]"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00Z"),
        (datetime(206, 5, 8, 9, 5, 1, 20, tzinfo=UTC), "0206-05-08T09:05:01.000020Z"),
        (date(206, 5, 8), "0206-05-08"),
    ],
)
def test_a_value_as_a_cell(value: object, text: str) -> None:
    assert cell(value) == text


# -- words -----------------------------------------------------------------------------------


def test_counts_have_separators() -> None:
    assert (number(20_000), counted(1, "row"), counted(2_000, "row")) == ("20,000", "1 row", "2,000 rows")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0.04, "40 ms"), (1.44, "1.4 s"), (9.96, "10 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s")),
        *((3600, "1 h 00 min"), (7890, "2 h 11 min"), (-1, "0 ms")),
    ],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"),
        (89.0, "89 s"),
        (90.0, "1 min"),
        (5_399.0, "89 min"),
        (5_400.0, "1 h"),
        (129_599.0, "35 h"),
        (129_600.0, "1 d"),
        (86_400.0 * 1_500, "1,500 d"),
    ],
)
def test_a_short_age_has_one_unit(seconds: float, words: str) -> None:
    assert short_age(seconds) == words


def test_as_many_names_as_fit_and_how_many_more() -> None:
    names = ["one", "two", "three"]
    assert names_that_fit(names, None) == names_that_fit(names, 15) == "one, two, three"
    assert names_that_fit(names, 14) == "one and 2 more"
    assert names_that_fit(["o", "t", "three", "four"], 15) == "o, t and 2 more"
    assert names_that_fit(names, 3) == "one and 2 more"


def test_first_few_names_and_how_many_more() -> None:
    assert first_few(list("abcd")) == "a, b, c, d"
    assert first_few(list("abcde")) == "a, b, c and 2 more"


@pytest.mark.parametrize(
    ("age", "words"),
    [
        *((0, "just now"), (-5, "just now"), (59, "just now"), (60, "1 minute ago"), (7200, "2 hours ago")),
        *((86_400, "1 day ago"), (86_400 * 45, "1 month ago"), (86_400 * 800, "2 years ago")),
    ],
)
def test_an_age_in_words(age: float, words: str) -> None:
    assert ago(NOW - age, NOW) == words


@pytest.mark.parametrize("at", [1e300, -1e300, float("inf"), 4e11, -7e10])
def test_a_time_beyond_the_calendar_is_shown_all_the_same(at: float) -> None:
    year = "9999-12-31" if at > 0 else "0001-01-01"
    assert (short_time(at)[:10], str(iso_time(at))[:10]) == (year, year)
    assert until(1e300, NOW) == "9999-12-31 23:59"
    assert iso_time(-60_000_000_000.0) == "0068-09-03T13:20:00Z"


def test_a_missing_time_is_shown_as_never() -> None:
    assert (ago(None, NOW), short_time(None), short_time(0)) == ("never", "–", "1970-01-01 00:00")


# -- schemas, installations, syncs -----------------------------------------------------------


def test_a_schema_as_text() -> None:
    lines = schema_text(Described(SCHEMA, [Person], {"Person": 1234}), None)
    assert lines[:2] == ["Person  1,234 rows  root  in SQL: person", "  Someone."]
    assert [line.split("  ")[1] for line in lines[2:]] == ["id", *Person.types(), "reports"]
    assert lines[-2] == "  boss     ref to Person?       the manager"
    assert lines[-1] == "  reports  many Person by boss  the people managed"


def test_no_description_controls_a_terminal() -> None:
    class Sly(Entity):
        """Plain \x1b[2J\u202e words."""

        name: Field[str] = Field("a \x1b]0;title\x07 \U000e0041 field")

    schema = Schema([Sly], roots=[Sly])
    shown = "\n".join(map(sanitize_lines, schema_text(Described(schema, [Sly]), 80)))
    assert not {"\x1b", "\x07", "\u202e", "\U000e0041"} & set(shown)
    assert json_text(schema_json(Described(schema, [Sly]))).isascii()


def test_a_schema_as_json_has_counts_and_relationships() -> None:
    data = schema_json(Described(SCHEMA, [Person], {"Person": 3}))
    assert (data["entities"][0]["rows"], data["roots"]) == (3, ["Person"])
    assert {"source": "Person", "field": "boss", "target": "Person", "many": False} in data["relationships"]


def test_a_schema_says_the_table_the_title_and_the_values_of_fields_that_have_few() -> None:
    class Note(Entity, title="subject"):
        """A note."""

        subject: Field[str] = Field("what it is about, in a few words that need room")
        state: Field[str] = Field()
        about: Field[Ref[Note] | None] = Field()

    values = {"Note": {"state": {"open": 1_200, "done": 7}}}
    found = Described(Schema([Note], connector="acme"), [Note], {"Note": 1_207}, values)
    assert schema_text(found, 60) == [
        "Note  1,207 rows  in SQL: acme_note",
        "  A note.",
        "  id       text          the identifier upstream gives",
        "  subject  text          the title: what it is about, in a",
        "                         few words that need room",
        "  state    text          values: open 1,200, done 7",
        "  about    ref to Note?",
    ]
    assert schema_text(found, 40)[4:6] == ["  subject  text", "      the title: what it is about, in a"]
    assert schema_lines(found, 40) == [
        "Note(id, subject, state{2},",
        "    about→Note) 1,207 rows",
    ]
    (entity,) = schema_json(found)["entities"]
    assert (entity["table"], [one["name"] for one in entity["fields"]]) == (
        "acme_note",
        ["id", "subject", "state", "about"],
    )
    assert entity["fields"][2]["values"] == [{"value": "open", "rows": 1200}, {"value": "done", "rows": 7}]


def test_a_status_names_the_next_command() -> None:
    paused = InstallationStatus(ACME, result(status=Status.PAUSED), {"Person": 12_345, "Team": 0})
    assert (
        status_text(InstallationStatus(ACME, None, {}), NOW)[1]
        == "  never synced; start with: max sync acme:default"
    )
    assert "  unfinished  continue with: max resume acme:default" in status_text(paused, NOW)
    waiting = InstallationStatus(ACME, result(status=Status.RUNNING), {}, (NOW + 600.0, 212))
    assert f"  waiting     until {until(NOW + 600.0, NOW)}, 212 tasks" in status_text(waiting, NOW)
    assert status_text(paused, NOW)[-1] == "  data        12,345 rows: 12,345 Person"
    assert paused.to_json()["unfinished"] == "01abc"


def test_a_status_wraps_its_counts_and_says_where_the_file_is() -> None:
    state = SyncState(True, NOW - 60, "completed", None)
    rows = {"Person": 12_345, "Team": 7, "Empty": 0, "Company": 1_000}
    status = InstallationStatus(ACME, result(), rows, state=state, path="/data.db", size=1_234_567)
    assert status_text(status, NOW, width=48)[2:] == [
        "  data        13,352 rows",
        "              12,345 Person, 1,000 Company,",
        "              7 Team",
        "  file        /data.db (1.2 MB)",
        "  next        max schema acme:default --brief",
    ]
    assert status.to_json()["complete"] is True


def test_a_status_of_old_data_names_the_sync() -> None:
    state = SyncState(True, NOW - 3 * 86_400, "completed", None)
    lines = status_text(InstallationStatus(ACME, result(), {}, state=state), NOW)
    assert lines[-1] == "  next        max sync acme:default: the data is 3 d old"


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (36_400, "36 kB"), (999_600, "1.0 MB"), (5e12, "5.0 TB")],
)
def test_a_size_has_one_unit(count: int, words: str) -> None:
    assert file_size(count) == words


def test_a_summary_counts_by_entity() -> None:
    assert summary(ACME, result(), None) == [
        "acme:default: completed in 1 min 05 s (sync 01abc)",
        "  Person  12,345",
        "  Team         7",
        "  124 requests, 2 rows removed",
    ]


def test_a_summary_shows_notes_in_full() -> None:
    notes = ("AcmeRoot:acme.workspaces: " + "the token was refused " * 5, "a \x1b[31m note")
    lines = summary(ACME, result(notes=notes), 40)
    assert lines[-2:] == [f"  note  {notes[0]}", "  note  a \\x1b[31m note"]
    assert run_json(result(notes=notes))["notes"] == list(notes)


@pytest.mark.parametrize(
    ("more", "lines"),
    [
        ({"requests": {}}, ["up to date (everything is fresh; nothing was fetched, 1 min 05 s)"]),
        ({"changed": {}}, ["up to date (nothing changed; 124 requests, 1 min 05 s)"]),
        (
            {"changed": {}, "counts": {"Person": 9}},
            ["up to date (nothing changed; 124 requests, 1 min 05 s)"],
        ),
        (
            {},
            [
                "completed in 1 min 05 s (sync 01abc)",
                "  no new or changed rows were listed",
                "  124 requests",
            ],
        ),
        (
            {"status": Status.FAILED},
            ["failed in 1 min 05 s (sync 01abc)", "  nothing was stored", "  124 requests"],
        ),
    ],
)
def test_a_summary_without_rows_says_why(more: dict[str, Any], lines: list[str]) -> None:
    first, *rest = summary(ACME, result(**{"removed": 0, "counts": {}, **more}), None)
    assert [first.removeprefix("acme:default: "), *rest] == lines


def test_a_summary_after_another_sync_says_since_when_nothing_changed() -> None:
    (line,) = summary(ACME, result(removed=0, counts={}), None, since=NOW)
    when = f"{short_time(NOW)} UTC"
    assert line == f"acme:default: up to date (nothing changed since {when}; 124 requests, 1 min 05 s)"


def test_a_summary_counts_the_rows_that_really_changed_where_that_is_recorded() -> None:
    changed = {
        "Team": {"updated": 1},
        "Person": {"created": 1_200, "updated": 4, "removed": 2, "restored": 1},
    }
    assert summary(ACME, result(changed=changed), None) == [
        "acme:default: completed in 1 min 05 s: 1,200 new, 5 changed, 2 removed, 1 back (sync 01abc)",
        "  Person  1,200 new, 4 changed, 2 removed, 1 back",
        "  Team    1 changed",
        "  124 requests",
    ]


def test_the_time_between_a_pause_and_its_resume_does_not_count_as_work() -> None:
    assert summary(ACME, result(resumed=True), None)[0] == "acme:default: completed, resumed (sync 01abc)"


def test_one_cause_is_named_once_and_its_consequences_are_counted() -> None:
    blocked = failure(2, "blocked by step x", "retry that first").replace(code=BLOCKED)
    failures = (failure(1), blocked, blocked)
    lines = summary(ACME, result(status=Status.FAILED, failures=failures, counts={}, removed=0), None)
    assert lines[3:] == [
        "  no answer (4 tries)",
        "  check the network",
        "  Person:1: load fields age failed, 2 steps behind it not begun: max runs show 01abc",
    ]


def test_failures_with_one_cause_are_grouped() -> None:
    lines = failures_text(
        [failure(1), failure(2), failure(3, "gone", "")], None, PLAIN, everything=False, of="s1"
    )
    assert lines == [
        "3 failures:",
        "  Person:1: load fields age",
        "  Person:2: load fields age",
        "    no answer",
        "    check the network",
        "  Person:3: load fields age",
        "    gone",
    ]


def test_a_long_list_of_failures_is_shortened_and_names_the_command_for_all() -> None:
    many = tuple(failure(number) for number in range(1500))
    lines = summary(ACME, result(status=Status.PARTIAL, failures=many), None)
    assert lines[-1] == "  … and 1,490 more: max runs show 01abc"
    assert len(summary(ACME, result(failures=many), None, all_failures=True)) > 1500


def test_past_syncs_as_a_table() -> None:
    header, line = runs_table([(ACME, result(status=Status.PARTIAL))], NOW, None)
    assert header.split()[:4] == ["sync", "status", "installation", "started"]
    assert line.split("  ")[:3] == ["01abc", "partial", "acme:default"]
    assert run_json(result())["startedAt"] == "2027-01-15T07:58:55Z"


def test_colours_do_not_change_the_columns_of_past_syncs() -> None:
    rows = [(ACME, result(status=status)) for status in (Status.PARTIAL, Status.INTERRUPTED)]
    painted = runs_table(rows, NOW, None, Paint(on=True))
    plain = [line.replace("\033[33m", "").replace("\033[0m", "") for line in painted[1:]]
    assert plain == runs_table(rows, NOW, None)[1:]


def test_a_progress_line_has_counts_and_rate_and_fits() -> None:
    line = progress_line({"Person": 1000, "Team": 5}, 10.0, 100.5, "waiting for acme", None)
    assert line == "10 s  100/s  Person 1,000  Team 5  waiting for acme"
    assert display_width(progress_line({"Person": 1000}, 10.0, 100, "waiting", 12)) <= 12
    assert progress_line({}, 0.1, 0, "", None) == "0 s  starting"
    assert progress_line({}, 9.1, 0, "again in 9 s", None) == "9 s  again in 9 s"


def test_padding_counts_cells() -> None:
    assert (pad("日", 4), pad("7", 3, right=True)) == ("日  ", "  7")
