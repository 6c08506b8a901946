from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from max import errors
from max.errors import (
    MEANT,
    CursorExpired,
    DaemonBusy,
    FieldNotLoaded,
    HttpRefused,
    InvalidAnswers,
    InvalidCursor,
    InvalidEntity,
    InvalidFilter,
    InvalidSchedule,
    InvalidSql,
    LeaseLost,
    LoaderFault,
    MaxError,
    Mismatch,
    MissingExtra,
    NotFound,
    QuotaExceeded,
    ReplayMismatch,
    RunnerFailed,
    SuspiciousRemoval,
    SyncRunning,
    UnknownName,
    UpstreamError,
    describe,
    nearest,
    shown,
)

ROOT = Path(__file__).resolve().parents[1]

SAMPLES: dict[type[MaxError], MaxError] = {
    UnknownName: UnknownName("field", "titel", ["title", "votes"], where="Issue"),
    InvalidFilter: InvalidFilter("votes >", 8, "a value is missing"),
    InvalidSchedule: InvalidSchedule("the hour: a number from 0 to 23", "0 25 * * *", 3),
    InvalidSql: InvalidSql("SELECT x", "no such column: x", 7),
    InvalidCursor: InvalidCursor("it is damaged"),
    InvalidAnswers: InvalidAnswers("these answers do not fit", [Mismatch("users", "an integer", "x")]),
    FieldNotLoaded: FieldNotLoaded("Issue", "title"),
    InvalidEntity: InvalidEntity([Mismatch("Issue:1.votes", "an integer", "x")]),
    NotFound: NotFound("Issue", "7", hint="sync first"),
    MissingExtra: MissingExtra("http", "httpx2", "a connector over HTTP"),
    CursorExpired: CursorExpired(),
    SuspiciousRemoval: SuspiciousRemoval("User", 30, 50),
    SyncRunning: SyncRunning("s1", "process 7"),
    ReplayMismatch: ReplayMismatch("t:user:list", '{"page":2}', again=1, left=3, nearest='{"page":1}'),
    RunnerFailed: RunnerFailed("the process of acme ended", last_words="a line"),
    DaemonBusy: DaemonBusy("64 calls are open", retry_after=1.5),
    HttpRefused: HttpRefused(405, "POST alone", allow="POST"),
    QuotaExceeded: QuotaExceeded("too many requests", retry_after=3.5, status=429),
}


def every_class(base: type[MaxError] = MaxError) -> list[type[MaxError]]:
    """The tree below a class, itself first, in the order of definition."""
    return [base, *(one for child in base.__subclasses__() for one in every_class(child))]


OURS = [one for one in every_class() if one.__module__ == errors.__name__]


def drawn_tree() -> dict[str, str]:
    """Each class of the module's picture with the class it hangs from."""
    parents: dict[str, str] = {}
    trail: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"    ([│ ]*)(?:[├└]── )?([A-Z]\w+)( {2,}|$)", line)
        if drawn:
            depth = 0 if "──" not in line else len(drawn[1]) // 4 + 1
            trail[depth:] = [drawn[2]]
            parents[drawn[2]] = trail[depth - 1] if depth else ""
    return parents


def test_the_tree_in_the_docstring_is_the_class_tree() -> None:
    real = {one.__name__: one.__mro__[1].__name__ if one is not MaxError else "" for one in OURS}
    assert drawn_tree() == real


def test_every_class_has_a_code_and_a_sentence_of_its_own() -> None:
    codes = [one.code for one in OURS]
    assert all("code" in vars(one) for one in OURS)
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z_]+(\.[a-z_]+)?", code) for code in codes)
    assert all(one.__doc__ and one.__doc__ != MaxError.__doc__ for one in OURS[1:])


def test_codes_never_change_once_released() -> None:
    assert {one.__name__: one.code for one in OURS} == {
        "MaxError": "max",
        "UsageError": "usage",
        "UnknownName": "usage.unknown",
        "InvalidFilter": "usage.filter",
        "InvalidSchedule": "usage.schedule",
        "InvalidSql": "usage.sql",
        "SqlLimit": "usage.sql_limit",
        "InvalidCursor": "usage.cursor",
        "InvalidAnswers": "usage.answers",
        "SchemaError": "schema",
        "ConnectorError": "connector",
        "FieldNotLoaded": "entity.not_loaded",
        "InvalidEntity": "entity.invalid",
        "NotFound": "not_found",
        "ProjectError": "project",
        "NoProject": "project.none",
        "ProjectUntrusted": "project.untrusted",
        "MoveRefused": "project.move_refused",
        "KeyMissing": "project.key_missing",
        "KeyWrong": "project.key_wrong",
        "StorageError": "storage",
        "StorageEmpty": "storage.empty",
        "StorageFull": "storage.full",
        "StorageLocked": "storage.locked",
        "StorageReadOnly": "storage.readonly",
        "StorageCorrupt": "storage.corrupt",
        "StorageReplaced": "storage.replaced",
        "StorageNewer": "storage.newer",
        "StorageForeign": "storage.foreign",
        "StorageOlder": "storage.older",
        "StorageUnreachable": "storage.unreachable",
        "StorageBusy": "storage.busy",
        "StorageDenied": "storage.denied",
        "StorageMissing": "storage.missing",
        "StorageMoving": "storage.moving",
        "StorageTimeout": "storage.timeout",
        "StorageConflict": "storage.conflict",
        "HistoryError": "history",
        "CursorExpired": "history.expired",
        "MissingExtra": "extra.missing",
        "RecordingError": "recording",
        "ReplayMismatch": "replay.mismatch",
        "SyncError": "sync",
        "SyncTakenOver": "sync.taken_over",
        "SyncRunning": "sync.running",
        "SuspiciousRemoval": "sync.removals",
        "SyncTokenRefused": "upstream.sync_token",
        "LeaseLost": "sync.lease_lost",
        "LoaderFault": "connector.fault",
        "MiddlewareFault": "middleware.fault",
        "HookRefused": "hook.refused",
        "DaemonError": "daemon",
        "DaemonRunning": "daemon.running",
        "DaemonBusy": "daemon.busy",
        "RunDirect": "daemon.direct",
        "DaemonStopping": "daemon.stopping",
        "RunnerFailed": "daemon.runner",
        "ConnectionLost": "daemon.lost",
        "ProtocolError": "daemon.protocol",
        "MethodFault": "daemon.fault",
        "HttpRefused": "http.refused",
        "Interrupted": "interrupted",
        "UpstreamError": "upstream",
        "Offline": "upstream.offline",
        "BadCredentials": "upstream.credentials",
        "PermissionDenied": "upstream.permission",
        "QuotaExceeded": "upstream.quota",
        "UpstreamMissing": "upstream.missing",
        "UpstreamChanged": "upstream.changed",
        "UpstreamBroken": "upstream.broken",
    }


def test_usage_errors_interruptions_and_failures_have_their_own_exit_status() -> None:
    own = {errors.Interrupted: 130, errors.ProjectUntrusted: 4}
    for one in OURS:
        expected = own.get(one, 2 if issubclass(one, errors.UsageError) else 1)
        assert one.exit_status == expected, one.__name__


def test_only_temporary_errors_are_retryable() -> None:
    again = {one.__name__ for one in OURS if issubclass(one, UpstreamError) and one.retryable}
    assert again == {"Offline", "QuotaExceeded", "UpstreamBroken"}


@pytest.mark.parametrize("kind", OURS, ids=lambda one: one.__name__)
def test_every_error_has_json_data_and_a_rendered_text(kind: Any) -> None:
    error = SAMPLES[kind] if kind in SAMPLES else kind("it broke", hint="mend it", where="here")
    again = json.loads(json.dumps(error.describe()))
    assert again == error.describe()
    assert set(again) == {"code", "message", "hint", "data"}
    assert str(error) == error.message
    assert error.render().startswith(error.message)
    assert error.hint in error.render()


@pytest.mark.parametrize("kind", [kind for kind in OURS if kind in SAMPLES], ids=lambda one: one.__name__)
def test_the_facts_of_an_error_are_attributes_and_data(kind: type[MaxError]) -> None:
    error = SAMPLES[kind]
    own = {name: value for name, value in vars(error).items() if name not in ("message", "hint", "data")}
    data = json.dumps(error.data)
    plain = [value for value in own.values() if isinstance(value, str | int | float)]
    assert all(json.dumps(value) in data for value in plain)


def test_an_error_says_what_to_do_next() -> None:
    assert SAMPLES[UnknownName].render() == "unknown field 'titel' in Issue\n  did you mean: title"
    _, *words, source = shlex.split(SAMPLES[MissingExtra].hint)
    assert (words[-1], source in (".[http]", f"{ROOT}[http]")) == ("install", True), "of the clone that runs"
    assert UnknownName("entity", "x", []).hint == "there is no entity"
    assert UnknownName("entity", "x", ["Aaa", "Bbb"]).hint == "entities: Aaa, Bbb"
    assert UnknownName("option", "--x", ["--aa", "--bb", "--cc", "--dd"], where="max ls").hint == (
        "options: max ls --help"
    )
    assert UnknownName("entity", "x", map(str, range(100, 120))).hint.endswith(", 108, 109, …")
    assert isinstance(LeaseLost("it was paused"), errors.SyncError)


def test_a_value_that_may_be_secret_is_left_out_of_the_message() -> None:
    assert (
        str(Mismatch("tokn", "another key (token)", "x", secret=True)) == "tokn: expected another key (token)"
    )
    assert str(Mismatch("n", "a number", "x")) == "n: expected a number, got 'x'"


def test_a_filter_error_points_at_the_column() -> None:
    *_, text, sync_token = SAMPLES[InvalidFilter].message.splitlines()
    assert text.index(">") == sync_token.index("^") - 1


def test_a_misspelt_name_finds_near_names_in_any_case() -> None:
    assert nearest("TITEL", ["title", "votes", "subtitle"])[0] == "title"
    assert nearest("zzz", ["title"]) == []
    assert UnknownName("field", "zzz", ["b", "a"]).candidates == ["a", "b"], "all, when none is near"


def test_only_what_is_nearly_as_near_as_the_nearest_name_is_suggested() -> None:
    entities = ["AcmeFile", "AcmeProject", "AcmeRoot", "AcmeTask", "AcmeUser"]
    assert nearest("AcmeTsk", entities) == ["AcmeTask"]
    assert nearest("Acme", entities) == ["AcmeFile", "AcmeProject", "AcmeRoot"], "three at most"
    assert nearest("nope", ["acme", "git", "linear"]) == []


def test_the_beginning_of_a_name_finds_it_though_little_of_it_is_there() -> None:
    assert nearest("inv", ["init", "find", "invalidate"]) == ["invalidate"]


def test_a_word_of_another_tool_finds_ours_where_there_is_one() -> None:
    assert nearest("query", ["get", "search", "sql"]) == ["search", "sql"]
    assert nearest("--group-by", ["--by", "--project"]) == ["--by"]
    assert nearest("where", ["filter", "there"]) == ["there"], "a name of another kind has no such words"


@given(st.text(max_size=12), st.lists(st.text(max_size=12), max_size=8))
def test_what_is_suggested_is_known_and_never_more_than_three(name: str, known: list[str]) -> None:
    found = nearest(name, known)
    assert len(found) <= 3
    assert set(found) <= set(known)


# -- values in errors -----------------------------------------------------------------------


class Rude:
    """A value whose own repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_a_value_is_shown_by_type_and_beginning() -> None:
    assert shown(None) == "null"
    assert shown(7) == "7"
    assert shown("x" * 100) == "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…"


def test_a_value_that_cannot_be_printed_is_shown_by_its_type() -> None:
    assert shown(10**5000) == "int that cannot be printed"
    assert shown([Rude()]) == "list that cannot be printed"


@given(st.text(min_size=1), st.integers() | st.text(min_size=5))
def test_p12_a_mismatch_yields_path_expected_and_actual(path: str, actual: object) -> None:
    data = Mismatch(path, "a number", actual).describe()
    assert data == {"path": path, "expected": "a number", "actual": shown(actual)}
    assert json.loads(json.dumps(data)) == data


@given(st.text().map(lambda text: f"s3cr3t-{text}"))
def test_p12_a_mismatch_never_shows_a_secret(secret: str) -> None:
    mismatch = Mismatch("config.token", "a text", secret, secret=True)
    error = InvalidAnswers("these answers do not fit", [mismatch])
    assert secret not in f"{mismatch} {mismatch.describe()}"
    assert mismatch.actual == "***"
    assert repr(secret) not in json.dumps(error.describe(), ensure_ascii=False)


# -- any error ------------------------------------------------------------------------------


def test_an_unknown_error_is_described_as_the_connectors_fault() -> None:
    assert describe(KeyError("name")) == {
        "code": LoaderFault.code,
        "message": "KeyError: 'name'",
        "hint": "this is a bug of the connector",
        "data": {},
    }
    assert describe(ValueError())["message"] == "ValueError"


def test_an_error_of_max_is_described_as_itself() -> None:
    error = QuotaExceeded("too many requests", retry_after=3.5, status=429)
    assert describe(error) == error.describe()
    assert error.describe()["data"] == {"status": 429, "retry_after": 3.5}
    assert error.retry_after == 3.5


def test_no_word_of_another_tool_and_no_part_of_one_is_in_the_way_of_an_error() -> None:
    for word in {*MEANT.split(), *MEANT}:
        assert nearest(word, ["--output", "id"]) is not None
    assert nearest("format", ["--output", "id"]) == ["--output"]
