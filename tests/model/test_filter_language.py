"""The filter language: what it means, what it refuses, and that nothing else can happen."""

from __future__ import annotations

import re
import string
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.errors import InvalidFilter, UnknownName
from max.model.entities import Entity, Field, FieldOf, FieldType, Many, Ref
from max.model.filter_language import CONDITIONS, FITTING, SINCE, parse
from max.model.filter_text import filter_text
from max.model.filters import AllOf, AnyOf, Compare, Filter, Not, Op, Some, Synced
from max.model.periods import parse_duration
from max.model.query import DEPTH
from max.model.schema import Schema
from max.model.values import Json, Kind

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Team(Entity):
    """People together."""

    name: Field[str] = Field()
    founded: Field[date | None] = Field()
    lead: Field[Ref[Person] | None] = Field()
    members: Many[Person] = Many(by=lambda: Person.team)


class Person(Entity):
    """Who leads a team, and is in one."""

    team: Field[Ref[Team] | None] = Field()


class Ticket(Entity):
    """One of each kind of field."""

    title: Field[str] = Field()
    note: Field[str | None] = Field()
    votes: Field[int] = Field()
    score: Field[float] = Field()
    done: Field[bool] = Field()
    opened_at: Field[datetime] = Field()
    due: Field[date | None] = Field()
    tags: Field[Json] = Field()
    labels: Field[list[str]] = Field()
    sizes: Field[dict[str, int]] = Field()
    team: Field[Ref[Team] | None] = Field()
    größe: Field[int] = Field()
    watchers: Many[Team] = Many()


class Note(Entity):
    """It has others of its own kind, and a field named like a word of the language."""

    text: Field[str] = Field()
    has: Field[int] = Field()
    replies: Many[Note] = Many()


SCHEMA = Schema([Team, Person, Ticket])


def tree(text: str) -> Filter[Ticket]:
    return parse(text, Ticket, now=NOW.timestamp())


def refusal(text: str) -> InvalidFilter:
    with pytest.raises(InvalidFilter) as caught:
        tree(text)
    return caught.value


ADA: Filter[Person] = Person.id.eq("ada")


# -- conditions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("votes = 3", Ticket.votes.eq(3)),
        ("votes != 3", Ticket.votes.ne(3)),
        ("votes<3", Ticket.votes.lt(3)),
        ("votes <= -3", Ticket.votes.le(-3)),
        ("votes>3", Ticket.votes.gt(3)),
        ("score >= 3.5e2", Ticket.score.ge(350.0)),
        ("title ~= bug", Ticket.title.contains("bug")),
        ("title ^= 'Bug'", Ticket.title.starts_with("Bug")),
        ("votes IN (1, 2,3)", Ticket.votes.is_in([1, 2, 3])),
        ("votes not in (1)", ~Ticket.votes.is_in([1])),
        ("due in (2026-01-31, null)", Ticket.due.is_in([date(2026, 1, 31), None])),
        ("note IS NULL", Ticket.note.is_null()),
        ("note is not null", Ticket.note.ne(None)),
        ("note = null", Ticket.note.is_null()),
        ("note != NULL", Ticket.note.ne(None)),
        ("note IS LOADED", Ticket.note.is_loaded()),
        ("note IS NOT LOADED", ~Ticket.note.is_loaded()),
        ("id = 007", Compare((FieldOf(Ticket, "id"),), Op.EQ, "007")),
        ("TITLE = x", Ticket.title.eq("x")),
        ("größe = 1", Ticket.größe.eq(1)),
    ],
)
def test_each_operator_gives_the_tree_that_python_builds(text: str, expected: Filter[Ticket]) -> None:
    assert tree(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("labels HAS docs", Ticket.labels.has("docs")),
        ("labels has 'label 5'", Ticket.labels.has("label 5")),
        ("labels HAS 5", Ticket.labels.has("5")),
        ("labels HAS true", Ticket.labels.has("true")),
        ("labels HAS '\"x\"'", Ticket.labels.has('"x"')),
        ("labels NOT HAS docs", ~Ticket.labels.has("docs")),
        ("NOT labels HAS docs", ~Ticket.labels.has("docs")),
        ("tags HAS 5", Compare(Ticket.tags.path, Op.HAS, 5)),
        ("tags HAS '5'", Compare(Ticket.tags.path, Op.HAS, "5")),
        ("tags HAS true", Compare(Ticket.tags.path, Op.HAS, True)),
        ("tags HAS null", Compare(Ticket.tags.path, Op.HAS, None)),
        ('labels = \'["a", "b"]\'', Ticket.labels.eq(["a", "b"])),
        ("watchers HAS core", Ticket.watchers.has(Team.id.eq("core"))),
        ("WATCHERS.NAME HAS Core", Ticket.watchers.has(Team.name.eq("Core"))),
        ("watchers.founded HAS null", Ticket.watchers.has(Team.founded.is_null())),
        (
            "watchers.founded HAS 2025-07",
            Ticket.watchers.has(Team.founded.ge(date(2025, 7, 1)) & Team.founded.le(date(2025, 7, 31))),
        ),
        ("watchers.lead HAS ada", Ticket.watchers.has(Team.lead.eq(Person.ref("ada")))),
        ("watchers.lead.id HAS ada", Ticket.watchers.has(Team.lead.to(Person.id).eq("ada"))),
        ("watchers.members HAS ada", Ticket.watchers.has(Team.members.has(ADA))),
        ("watchers HAS (members HAS ada)", Ticket.watchers.has(Team.members.has(ADA))),
        ("watchers NOT HAS (name = x)", ~Ticket.watchers.has(Team.name.eq("x"))),
        ("team.members HAS ada", Some(Ticket.team.path, Team.members, ADA)),
        ("has = 3", None),
    ],
)
def test_has_asks_for_an_item_of_a_list_or_a_child_of_a_collection(
    text: str, expected: Filter[Ticket] | None
) -> None:
    if expected is None:
        with pytest.raises(UnknownName, match="unknown field 'has'"):
            tree(text)
    else:
        assert tree(text) == expected


def test_the_children_may_be_of_the_same_entity() -> None:
    assert parse("replies.text HAS x", Note, now=None) == Note.replies.has(Note.text.eq("x"))
    assert parse("has = 3", Note, now=None) == Note.has.eq(3)


def test_a_path_goes_through_refs() -> None:
    assert tree("team.name ~= core") == Ticket.team.to(Team.name).contains("core")
    assert tree("team.id = 5") == Compare(
        (FieldOf(Ticket, "team"), FieldOf(Ticket, "id", Ticket.team)), Op.EQ, "5"
    )
    assert tree("team.lead.Team.name = 5") == Compare(
        Ticket.team.to(Team.lead).to(Person.team).to(Team.name).path, Op.EQ, "5"
    )
    longest = "team." + "lead.team." * 4
    assert "at most 8 refs" in refusal(f"{longest}name = 1").problem
    assert "team.name holds text" in refusal("team.name.x = 1").problem
    with pytest.raises(UnknownName, match="unknown field 'nam' in Person"):
        tree("team.lead.nam = 1")


def test_only_a_ref_has_fields_behind_a_dot() -> None:
    assert refusal("title.name = 1").problem.startswith("title holds text")


# -- values take the field's type -------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("title = 007", "007"),
        ("title = true", "true"),
        ('title = "null"', "null"),
        ("title = -7d", "-7d"),
        ("title = ada@acme.com", "ada@acme.com"),
        ("title = urn:li:5", "urn:li:5"),
        ("votes = '12'", 12),
        ("score = 12", 12.0),
        ("done = TRUE", True),
        ("opened_at = 2026-01-31T09:30:00", datetime(2026, 1, 31, 9, 30, tzinfo=UTC)),
        ("opened_at = 2026-01-31T09:30:00+02:00", datetime(2026, 1, 31, 7, 30, tzinfo=UTC)),
        ("opened_at = '2026-01-31 09:30:00Z'", datetime(2026, 1, 31, 9, 30, tzinfo=UTC)),
        ("opened_at >= 2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("due = 2026-01-31", date(2026, 1, 31)),
        ("due = -1w", date(2026, 1, 24)),
        ("tags = 5", 5),
        ("""tags = '["a", "b"]'""", ["a", "b"]),
        ("tags = urgent", "urgent"),
        ("tags ~= 5", "5"),
        ("team = 5", Ref(Team, "5")),
        ("team = Team:5", Ref(Team, "5")),
        ("team = 'Team:a:b c'", Ref(Team, "a:b c")),
    ],
)
def test_a_value_takes_the_type_of_its_field(text: str, value: object) -> None:
    found = cast("Compare[Ticket]", tree(text)).value
    assert (type(found), found) == (type(value), value)


JULY = datetime(2025, 7, 1, tzinfo=UTC), datetime(2025, 7, 31, 23, 59, 59, 999_999, tzinfo=UTC)
IN_JULY = Ticket.opened_at.ge(JULY[0]) & Ticket.opened_at.le(JULY[1])
DUE_IN_JULY = Ticket.due.ge(date(2025, 7, 1)) & Ticket.due.le(date(2025, 7, 31))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("opened_at = 2025-07", IN_JULY),
        ("opened_at = '2025-07'", IN_JULY),
        ("opened_at != 2025-07", Ticket.opened_at.is_loaded() & ~IN_JULY),
        ("NOT opened_at = 2025-07", ~IN_JULY),
        ("opened_at < 2025-07", Ticket.opened_at.lt(JULY[0])),
        ("opened_at <= 2025-07", Ticket.opened_at.le(JULY[1])),
        ("opened_at > 2025-07", Ticket.opened_at.gt(JULY[1])),
        ("opened_at >= 2025-07", Ticket.opened_at.ge(JULY[0])),
        ("opened_at IN (2025-07)", IN_JULY),
        ("opened_at NOT IN (2025-07)", ~IN_JULY),
        (
            "opened_at IN (2025-07, null, 2026-01-31T09:30:00)",
            Ticket.opened_at.is_in(cast("Any", [None, datetime(2026, 1, 31, 9, 30, tzinfo=UTC)])) | IN_JULY,
        ),
        ("due = 2025-07", DUE_IN_JULY),
        ("due <= 2025-07", Ticket.due.le(date(2025, 7, 31))),
        ("due IN (2025-07, 2025-08-01)", Ticket.due.is_in([date(2025, 8, 1)]) | DUE_IN_JULY),
        ("due = yesterday", Ticket.due.eq(date(2026, 1, 30))),
        ("due < today", Ticket.due.lt(date(2026, 1, 31))),
        ("due <= +1mo", Ticket.due.le(date(2026, 2, 28))),
        ("opened_at > -12h", Ticket.opened_at.gt(NOW - timedelta(hours=12))),
        ("opened_at < now", Ticket.opened_at.lt(NOW)),
        ("opened_at > today", Ticket.opened_at.gt(datetime(2026, 1, 31, 23, 59, 59, 999_999, tzinfo=UTC))),
    ],
)
def test_a_time_is_compared_as_a_whole(text: str, expected: Filter[Ticket]) -> None:
    assert tree(text) == expected


@pytest.mark.parametrize(
    "text", ["opened_at > -7d", "due < +1d", "_age(title) > 1d", "due = today", "opened_at IN (2025, now)"]
)
def test_what_counts_from_now_is_refused_without_a_now(text: str) -> None:
    with pytest.raises(InvalidFilter, match="pass now="):
        parse(text, Ticket, now=None)
    fixed = Ticket.votes.eq(1) | Ticket.opened_at.ge(datetime(2026, 1, 31, tzinfo=UTC))
    assert parse("votes = 1 OR opened_at >= 2026-01-31", Ticket, now=None) == fixed


# -- ages of fields ---------------------------------------------------------------------------

DAY_AGO = NOW.timestamp() - 86_400


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("_age(title) > 1d", Ticket.title.synced_before(DAY_AGO)),
        ("_age(title) <= 1d", Ticket.title.synced_since(DAY_AGO)),
        ("_AGE( TITLE )>=1d", Synced(Ticket.title.path, Op.LE, DAY_AGO)),
        ("_age(title) < 1d", Synced(Ticket.title.path, Op.GT, DAY_AGO)),
        ("_age(team) <= 2w", Ticket.team.synced_since(NOW.timestamp() - 14 * 86_400)),
        ("_age(team.name) > 90s", Ticket.team.to(Team.name).synced_before(NOW.timestamp() - 90)),
        ("_age(title) = never", Ticket.title.synced_before(0.0)),
        ("_age(title) != NEVER", Ticket.title.synced_since(0.0)),
        ("NOT _age(title) > 1d AND votes = 1", ~Ticket.title.synced_before(DAY_AGO) & Ticket.votes.eq(1)),
    ],
)
def test_the_age_of_a_field_becomes_a_fixed_time(text: str, expected: Filter[Ticket]) -> None:
    assert tree(text) == expected


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("_age > 1d", 6, "expected '(' and a field, as in _age(name) > 1d"),
        ("_age(", 6, "expected a field"),
        ("_age()", 6, "expected a field"),
        ("_age(AND)", 6, "expected a field"),
        ("_age(watchers) > 1d", 6, "a collection"),
        ("_age(title.x) > 1d", 6, "title holds text; only a ref has fields behind a dot"),
        ("_age(id) > 1d", 6, "an id has no age"),
        ("_age(team.id) > 1d", 6, "an id has no age"),
        ("_age(title > 1d", 12, "expected ')' after _age(title"),
        ("_age(title) 1d", 13, "expected < <= > >=, or = never"),
        ("_age(title) IS NULL", 13, "expected < <= > >="),
        ("_age(title) = 1d", 13, "expected < <= > >=, or = never"),
        ("_age(title) == 1d", 13, "write ="),
        ("_age(title) ~= 1d", 13, "expected < <= > >="),
        ("_age(title) > -1d", 15, "an age such as 90s, 5m, 2h, 1d or 2w, got '-1d'"),
        ("_age(title) > never", 15, "an age such as"),
        ("_age(title) > 2026-01-31", 15, "an age such as"),
        ("_age(title) > 1.5h", 15, "an age such as"),
        ("_age(title) >", 14, "got the end"),
    ],
)
def test_an_error_in_an_age_points_at_its_column(text: str, column: int, words: str) -> None:
    error = refusal(text)
    assert (error.column, words in error.problem) == (column, True), error.problem


def test_the_age_of_an_unknown_field_is_refused() -> None:
    with pytest.raises(UnknownName, match="unknown field 'titel' in Ticket"):
        tree("_age(titel) > 1d")


@pytest.mark.parametrize("text", ["", "d", "1", "-1d", "+1d", "1.5h", "1D", "1 d", "1y", "١d", "1234567890d"])
def test_invalid_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an age such as 90s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("quoted", "value"),
    [
        (r'"say \"hi\""', 'say "hi"'),
        (r"'it\'s'", "it's"),
        ("'it''s'", "it's"),
        ("\"it''s\"", "it''s"),
        (r'"tab\tline\nback\\slash"', "tab\tline\nback\\slash"),
        (r'"\u00e9"', "é"),
        ("''", ""),
        ("'(a AND b) = 100%'", "(a AND b) = 100%"),
    ],
)
def test_quotes_and_escapes(quoted: str, value: str) -> None:
    assert tree(f"title = {quoted}") == Ticket.title.eq(value)


# -- how parts combine ------------------------------------------------------------------------


A, B, C = Ticket.votes.eq(1), Ticket.votes.eq(2), Ticket.votes.eq(3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("votes=1 OR votes=2 AND votes=3", A | (B & C)),
        ("votes=1 and votes=2 or votes=3", (A & B) | C),
        ("(votes=1 OR votes=2) AND votes=3", (A | B) & C),
        ("NOT votes=1 AND votes=2", (~A) & B),
        ("NOT (votes=1 AND votes=2)", ~(A & B)),
        ("NOT NOT votes=1", ~(~A)),
        ("votes=1 AND votes=2 AND votes=3", AllOf((A, B, C))),
        ("((votes=1))", A),
    ],
)
def test_not_binds_tighter_than_and_and_and_tighter_than_or(text: str, expected: Filter[Ticket]) -> None:
    assert tree(text) == expected


WORDS = st.recursive(
    st.sampled_from("pqrs"),
    lambda inner: st.one_of(
        inner.map(lambda x: f"NOT {x}"),
        inner.map(lambda x: f"({x})"),
        st.tuples(inner, inner).map(" AND ".join),
        st.tuples(inner, inner).map(" OR ".join),
    ),
    max_leaves=8,
)


def truth(condition: Filter[Any], facts: dict[int, bool]) -> bool:
    if isinstance(condition, Compare):
        return facts[condition.value]
    if isinstance(condition, Not):
        return not truth(condition.part, facts)
    if isinstance(condition, AllOf):
        return all(truth(part, facts) for part in condition.parts)
    return any(truth(part, facts) for part in cast("AnyOf[Any]", condition).parts)


@given(WORDS, st.lists(st.booleans(), min_size=4, max_size=4))
@settings(deadline=None, max_examples=150)
def test_precedence_is_the_same_as_in_python(words: str, facts: list[bool]) -> None:
    """Python's own ``not``, ``and``, ``or`` are the oracle."""
    names = dict(zip("pqrs", facts, strict=True))
    text = re.sub("[pqrs]", lambda name: f"votes={ord(name[0])}", words)
    expected = eval(words.lower(), dict(names))
    assert truth(tree(text), {ord(name): fact for name, fact in names.items()}) is expected


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("", 1, "empty"),
        ("   ", 4, "empty"),
        ("votes", 6, "expected an operator after votes, got the end"),
        ("votes =", 8, "expected a value, got the end"),
        ("votes == 3", 7, "write ="),
        ("title LIKE 'x'", 7, "write ~="),
        ("votes = 3 && votes = 4", 11, "write AND"),
        ("votes = x", 9, "votes expects an integer of at most 64 bits, got 'x'"),
        ("votes = 9223372036854775808", 9, "integer"),
        ("score = nan", 9, "a number"),
        ("done = yes", 8, "true or false"),
        ("opened_at > 7d", 13, "-7d"),
        ("opened_at > -999999999w", 13, "an age"),
        ("opened_at > 2026-13", 13, "a day such as 2026-01-31 or today, a month, a year"),
        ("due = 2026-02-30", 7, "a day such as 2026-01-31 or today, a month, a year"),
        ("due < +1m", 7, "(d w mo y), got '+1m'; m is a minute, mo a month"),
        ("due < 2026-01-31T09:30", 7, "a day such as"),
        ("votes ~= 3", 7, "~= does not work on votes, which holds integer"),
        ("done > false", 6, "> does not work on done"),
        ("team < 5", 6, "a ref to Team"),
        ("votes < null", 9, "null cannot be compared this way"),
        ("title = 'x", 9, "not closed"),
        (r"title = 'a\qb'", 11, "unknown escape"),
        ("title = John Smith", 14, "quotes around a value of several words"),
        ("title = AND", 9, "put it in quotes"),
        ("(votes = 1", 11, "the '(' is in column 1"),
        ("votes = 1)", 10, "expected AND, OR or the end"),
        ("votes IN 3", 10, "expected '(' after IN"),
        ("votes IN ()", 11, "expected a value"),
        ("votes IN (1 2)", 13, "expected ',' or ')'"),
        ("votes NOT 3", 11, "expected IN or HAS after NOT"),
        ("note IS 3", 9, "expected NULL, NOT NULL, LOADED"),
        ("votes = 1 AND", 14, "expected a field, got the end"),
        ("= 3", 1, "expected a field"),
        ("watchers = 3", 1, "watchers is a collection; query Team instead or write HAS"),
        ("labels = docs", 10, "labels expects list[str], got 'docs'; write labels HAS docs"),
        ("labels != docs", 11, "write labels HAS docs"),
        ("labels IN (docs)", 12, "write labels HAS docs"),
        ("labels ~= docs", 8, "~= does not work on labels, which holds list[str]; write labels HAS …"),
        ("title HAS docs", 1, "title holds text; HAS asks for an item of a list or a collection"),
        ("team HAS 5", 1, "team holds a ref to Team; HAS asks"),
        ("sizes HAS 5", 11, "sizes is dict[str, int], which cannot have '5'"),
        ("labels HAS", 11, "expected a value, got the end"),
        ("labels HAS null", 12, "labels is list[str], which cannot have 'null'"),
        ("labels NOT", 11, "expected IN or HAS after NOT, got the end"),
        ("labels HAS (a, b)", 12, "expected a value, got '('"),
        ("watchers HAS (name = x", 23, "the '(' is in column 14"),
        ("watchers.name.x HAS 5", 1, "name holds text; only a ref has fields behind a dot"),
        ("AND HAS x", 1, "expected a list or a collection, got 'AND'"),
        ('title = "\\ud800"', 9, "UTF-8"),
    ],
)
def test_an_error_points_at_its_column(text: str, column: int, words: str) -> None:
    error = refusal(text)
    assert (error.column, words in error.problem) == (column, True), error.problem


def test_the_caret_is_under_the_mistake_even_after_a_line_break() -> None:
    lines = refusal("votes = 1\nAND\tvotes = x").message.splitlines()
    assert lines[1].index("x") == lines[2].index("^")


def test_the_caret_is_under_the_mistake_behind_wide_characters() -> None:
    """A terminal gives each of them two columns."""
    lines = refusal("title = '日本' AND votes = x").message.splitlines()
    assert lines[2].index("^") == lines[1].index("x") + 2


def test_an_unknown_field_suggests_the_nearest_and_has_a_caret_under_it() -> None:
    with pytest.raises(UnknownName, match="unknown field 'titel' in Ticket") as caught:
        tree("votes = 1 AND titel = 1")
    assert caught.value.candidates[0] == "title"
    assert caught.value.message.splitlines()[1:] == [
        "  votes = 1 AND titel = 1",
        "                ^",
    ]
    assert caught.value.data["column"] == 15
    assert str(caught.value) == caught.value.message


@pytest.mark.parametrize(
    ("text", "where", "column"),
    [
        ("team.nam = 1", "'nam' in Team", 6),
        ("watchers HAS (title = x)", "'title' in Team", 15),
        ("watchers.nam HAS x", "'nam' in Team", 10),
        ("votes = 1 AND watchres HAS x", "'watchres' in Ticket", 15),
        ("_age(team.nam) > 1d", "'nam' in Team", 11),
    ],
)
def test_an_unknown_field_is_looked_for_in_the_entity_that_has_it(text: str, where: str, column: int) -> None:
    with pytest.raises(UnknownName, match=where) as caught:
        tree(text)
    assert caught.value.data["column"] == column


@pytest.mark.parametrize("text", ["(" * 10_000, "NOT " * 10_000, "(" * 200 + "votes=1" + ")" * 200])
def test_nesting_is_limited(text: str) -> None:
    assert f"more than {DEPTH} deep" in refusal(text).problem


def test_the_number_of_conditions_is_limited() -> None:
    days = ", ".join(str(date(2026, 1, 1) + timedelta(days=n)) for n in range(CONDITIONS))
    assert f"more than {CONDITIONS} conditions" in refusal(f"opened_at IN ({days})").problem
    assert isinstance(tree(f"due IN ({days})"), Compare)
    assert f"more than {CONDITIONS}" in refusal(" OR ".join(["votes=1"] * (CONDITIONS + 1))).problem
    assert isinstance(tree(" OR ".join(["votes=1"] * CONDITIONS)), AnyOf)


WORDS_OF_OURS = ("NOT", "IN", "IS", "NULL", "LOADED", "-7d", "'x'", "_age", "_age(title)", "never", "1d")
PIECES = st.sampled_from(
    (
        *'=<(),3"\\',
        "votes",
        "title",
        "team.name",
        "opened_at",
        "tags",
        "id",
        "!=",
        "~=",
        "^=",
        "AND",
        "OR",
        *WORDS_OF_OURS,
    )
)


@given(
    st.one_of(st.text(), st.lists(PIECES).map(" ".join), st.lists(st.one_of(PIECES, st.text())).map("".join))
)
@settings(deadline=None, max_examples=300)
def test_any_text_is_a_filter_or_a_usage_error(text: str) -> None:
    outcome: Filter[Ticket] | InvalidFilter | UnknownName
    try:
        outcome = tree(text)
    except (InvalidFilter, UnknownName) as error:
        outcome = error
    assert not isinstance(outcome, InvalidFilter) or 1 <= outcome.column <= len(text) + 1
    assert not isinstance(outcome, UnknownName) or outcome.kind == "field"


# -- a tree written out and read back ---------------------------------------------------------


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.TEXT: TEXTS,
    Kind.INTEGER: st.integers(-(2**63), 2**63 - 1),
    Kind.REAL: st.floats(allow_nan=False, allow_infinity=False),
    Kind.BOOLEAN: st.booleans(),
    Kind.DATETIME: st.datetimes(
        datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.sampled_from([UTC])
    ),  # years whose moments every zone can name
    Kind.DATE: st.dates(),
    Kind.JSON: st.recursive(
        st.one_of(st.booleans(), st.integers(-99, 99), TEXTS),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(TEXTS, inner)),
        max_leaves=4,
    ),
}
PATHS = [
    (FieldOf(Ticket, "id"),),
    *((FieldOf(Ticket, name),) for name in Ticket.types() if name != "sizes"),
    *((Ticket.team, FieldOf(Ticket, name, Ticket.team)) for name in ("id", *Team.types())),
    Ticket.team.to(Team.lead).to(Person.team).to(Team.name).path,
]


def kind_of(path: tuple[FieldOf[Any, Any], ...]) -> FieldType:
    return FieldType(Kind.TEXT) if path[-1].name == "id" else path[-1].type


@st.composite
def ages(draw: st.DrawFn) -> Filter[Ticket]:
    path = draw(st.sampled_from([path for path in PATHS if path[-1].name != "id"]))
    return Synced(path, draw(st.sampled_from(list(SINCE))), NOW.timestamp() - draw(st.integers(0, 10**9 - 1)))


@st.composite
def conditions(draw: st.DrawFn) -> Filter[Ticket]:
    path = draw(st.sampled_from(PATHS))
    holds = kind_of(path)
    fitting = [op for op in Op if op is not Op.HAS and holds.kind in FITTING.get(op, Kind)]
    lists = holds.shape.startswith("list[")
    op = draw(st.sampled_from([op for op in fitting if not lists or op is not Op.CONTAINS]))
    refs = TEXTS.filter(bool).map((holds.target or Team).ref)
    value = TEXTS if op is Op.CONTAINS else st.lists(TEXTS) if lists else VALUES.get(holds.kind, refs)
    if op is Op.IS_LOADED:
        return Compare(path, op)
    if op is Op.IN:
        return Compare(path, op, tuple(draw(st.lists(st.one_of(st.none(), value), min_size=1))))
    return Compare(path, op, draw(st.one_of(st.none(), value) if op in (Op.EQ, Op.NE) else value))


@st.composite
def members(draw: st.DrawFn) -> Filter[Ticket]:
    """What HAS says of a list or of a collection."""
    kind = draw(st.sampled_from(["list", "json", "child", "through"]))
    if kind == "list":
        return Ticket.labels.has(draw(TEXTS))
    if kind == "json":
        scalars = st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS
        )
        return Compare(Ticket.tags.path, Op.HAS, draw(scalars))
    named: Filter[Team] = draw(st.sampled_from([Team.name.eq, Team.name.contains, Team.id.ne]))(draw(TEXTS))
    deep: Filter[Team] = Team.members.has(draw(st.sampled_from([Person.id.eq, Person.id.ge]))(draw(TEXTS)))
    part = draw(st.sampled_from([named, deep, ~named, named | deep]))
    return (
        Some(Ticket.team.to(Team.lead).to(Person.team).path, Team.members, Person.id.eq("x"))
        if kind == "through"
        else Ticket.watchers.has(part)
    )


TREES = st.recursive(
    conditions() | ages() | members(),
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: AllOf(tuple(parts))),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: AnyOf(tuple(parts))),
    ),
    max_leaves=8,
).filter(lambda condition: nesting(condition) <= DEPTH)


def nesting(condition: Filter[Any]) -> int:
    """How deep it nests."""
    if isinstance(condition, Compare | Synced):
        return 0
    if isinstance(condition, Not | Some):
        return 1 + nesting(condition.part)
    return 1 + max(map(nesting, cast("AnyOf[Any]", condition).parts))


@given(TREES)
@settings(deadline=None, max_examples=300)
def test_a_filter_as_text_reads_back_equal(condition: Filter[Ticket]) -> None:
    text = filter_text(condition, now=NOW.timestamp())
    assert text.isprintable() or not text.isascii()
    assert tree(text) == condition


@given(TREES)
@settings(deadline=None, max_examples=100)
def test_a_text_that_was_read_is_written_and_read_the_same(condition: Filter[Ticket]) -> None:
    text = filter_text(condition, now=NOW.timestamp())
    assert filter_text(tree(text), now=NOW.timestamp()) == text


@pytest.mark.parametrize(
    "text",
    [
        "votes = 3 AND (done = true OR title ~= bug) AND NOT note IS NULL",
        "NOT (votes = 1 AND votes = 2)",
        "votes = 1 AND votes = 2 OR votes = 3",
        "NOT NOT votes = 1",
        'title = "John Smith"',
        'title = "not"',
        "title = -7d",
        'note = "null"',
        'note IN (a, "b,c", null)',
        'title = "a\\u000ab"',
        "opened_at >= 2025-07-01T00:00:00Z AND opened_at <= 2025-07-31T23:59:59.999999Z",
        "due = 2026-01-31",
        "team = 5",
        "team.lead.team.name ^= Ops",
        'labels HAS "label 5"',
        "tags HAS null",
        "tags HAS 5",
        'tags HAS "5"',
        "watchers HAS 5",
        "watchers.name HAS Core",
        "watchers.lead.team.name HAS Core",
        "watchers.members HAS ada",
        "watchers.members.team.name HAS Core",
        "watchers HAS (name ~= core AND NOT members HAS ada)",
        "team.members HAS ada",
        "team.lead.team.members.team HAS 7",
        "_age(title) > 3600s",
        "_age(team.name) != never",
    ],
)
def test_a_filter_is_written_as_a_person_would(text: str) -> None:
    assert filter_text(tree(text), now=NOW.timestamp()) == text


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (AllOf(()), "id IS NOT NULL"),
        (AnyOf(()), "id IS NULL"),
        (AllOf((Ticket.votes.eq(1),)), "votes = 1"),
        (Ticket.votes.is_in([]), "id IS NULL"),
        (Ticket.title.synced_since(NOW.timestamp() - 1.4), "_age(title) <= 1s"),
        (Ticket.title.synced_since(NOW.timestamp() + 9), "_age(title) <= 0s"),
    ],
)
def test_what_the_language_cannot_say_is_written_as_near_as_it_can(
    condition: Filter[Ticket], text: str
) -> None:
    assert filter_text(condition, now=NOW.timestamp()) == text


@given(TEXTS, st.sampled_from("\"'"))
@settings(deadline=None)
def test_any_text_can_be_quoted(value: str, quote: str) -> None:
    body = value.replace("\\", "\\\\").replace(quote, quote * 2)
    assert tree(f"title = {quote}{body}{quote}") == Ticket.title.eq(value)


@given(st.text(string.ascii_letters + string.digits + "._-:/@#%+*", min_size=1))
@settings(deadline=None)
def test_a_word_without_spaces_needs_no_quotes(word: str) -> None:
    expected: Filter[Ticket] = Ticket.note.is_null() if word.upper() == "NULL" else Ticket.note.eq(word)
    if word.upper() not in ("AND", "OR", "NOT", "IN", "IS"):
        assert tree(f"note = {word}") == expected
