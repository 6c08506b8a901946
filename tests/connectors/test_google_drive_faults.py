"""Google Drive's connector under faults: limits, broken answers, expired tokens, kills."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from max_connectors import google_drive
from max_connectors.google_drive import connector
from max_connectors.google_drive_api import REASONS, read_error

from max import Status
from max.connecting import (
    BadCredentials,
    HttpRequest,
    HttpResponse,
    PermissionDenied,
    QuotaExceeded,
    Retry,
)
from max.upstream.hosts import read_address
from max.upstream.recording import Recording
from max.upstream.replay import Replay
from tests.drive_fake import TOKEN, Copy, account, change, fake_module, needs_fake

pytestmark = needs_fake


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for operation in connector.operations:
        monkeypatch.setattr(operation, "retry", Retry(attempts=4, base=0.002, cap=0.01))


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of five files, so that a small account has several."""
    monkeypatch.setattr(google_drive, "PAGE", 5)


@pytest.fixture
def fake() -> Iterator[Any]:
    with account() as served:
        yield served


@pytest.fixture
def copy(fake: Any, tmp_path: Path) -> Copy:
    return Copy(tmp_path, fake, root_folder="root")


def reason(name: str) -> dict[str, Any]:
    """The body of an error, as Google writes it."""
    return {"error": {"code": 403, "message": name, "errors": [{"domain": "global", "reason": name}]}}


FAULTS: list[dict[str, Any]] = [
    {"status": 403},  # userRateLimitExceeded
    {"status": 403, "body": reason("rateLimitExceeded")},
    {"status": 429, "headers": {"Retry-After": "0"}},
    {"status": 500},
    {"status": 503},
    {"drop": True},
    {"truncate": 30},
    {"garbage": True},
]
REQUESTS = [  # each kind of request, and pages of the longer listings
    *(r"about", r"v3/drives", r"changes/startPageToken", r"v3/files\?", r"v3/files\?.*createdTime\+%3E"),
    *(r"shared5/permissions", r"/token"),
]


def test_every_fault_of_every_request_is_retried(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    for operation in connector.operations:
        monkeypatch.setattr(operation, "retry", Retry(attempts=2 * len(FAULTS) + 1, base=0.002, cap=0.01))
    hits = [copy.fake.inject(request, **fault) for request in REQUESTS for fault in FAULTS]
    assert (copy.sync().status, copy.differences()) == (Status.COMPLETED, [])
    assert [one.match for one in hits if not one.hits] == []
    change(copy.fake)
    hits = [copy.fake.inject(r"v3/changes\?", skip=page, **fault) for page in range(3) for fault in FAULTS]
    assert (copy.sync().status, copy.differences()) == (Status.COMPLETED, [])
    assert [one.skip for one in hits if one.hits <= one.skip] == []


@pytest.mark.parametrize("name", [one for one, (kind, _, _) in REASONS.items() if kind is PermissionDenied])
def test_each_reason_of_a_refusal_has_its_words(copy: Copy, name: str) -> None:
    copy.fake.inject(r"v3/files\?", status=403, body=reason(name), times=None)
    result = copy.sync()
    assert result.status is Status.PARTIAL
    failure = result.failures[0]
    assert failure.code == "upstream.permission"
    assert REASONS[name][1] in failure.message
    assert failure.hint == REASONS[name][2]


def test_a_refusal_without_a_known_reason_is_a_missing_permission(copy: Copy) -> None:
    copy.fake.inject(r"v3/files\?", status=403, body="no", times=None)
    assert {one.code for one in copy.sync().failures} == {"upstream.permission"}


def test_the_quota_of_a_day_is_waited_for_an_hour_at_a_time() -> None:
    body = json.dumps(reason("dailyLimitExceeded")).encode()
    error = read_error(HttpResponse(HttpRequest("GET", "https://x.test/a"), 403, {}, body))
    assert isinstance(error, QuotaExceeded)
    assert error.retry_after == 3600


def test_a_file_whose_permissions_cannot_be_seen_is_copied_without_them(copy: Copy) -> None:
    body = reason("insufficientFilePermissions")
    copy.fake.inject("files/shared3/permissions", status=403, body=body, times=None)
    assert copy.sync().status is Status.COMPLETED
    wrong = copy.differences()
    assert all("shared3" in one for one in wrong)
    assert copy.rows()["DriveFile"]["shared3"]["permission_ids"] is None


def test_a_file_that_is_gone_before_its_permissions_are_asked_for_fails_nothing(copy: Copy) -> None:
    copy.fake.inject("files/shared3/permissions", call=lambda _: copy.fake.remove("shared3"))
    assert copy.sync().status is Status.COMPLETED
    assert copy.sync().status is Status.COMPLETED
    assert copy.differences() == []


def test_the_service_itself_limits_the_requests_of_a_minute(tmp_path: Path) -> None:
    core = fake_module("core")
    with account(clock=core.Clock(), units_per_minute=1_000_000) as fake:
        fake.window = core.Window(800, 0.5, fake.clock)
        copy = Copy(tmp_path, fake, root_folder="root")
        copy.clock.ahead = 0
        result = copy.sync()
        assert result.status is Status.COMPLETED
        assert copy.differences() == []


# -- tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [one for one in REQUESTS if one != "/token"])
def test_p29_a_token_that_expires_at_any_request_is_renewed_once(copy: Copy, request_: str) -> None:
    copy.fake.inject(request_, call=lambda _: copy.fake.tokens.expire_all())
    assert copy.sync().status is Status.COMPLETED
    assert copy.differences() == []
    assert copy.fake.tokens.refreshes == 2  # the first token, and the one after the expiry


@pytest.mark.parametrize(("left", "renewals"), [(600, 1), (100, 2)])
def test_p29_a_token_is_renewed_two_minutes_before_it_expires_and_not_sooner(
    copy: Copy, left: float, renewals: int
) -> None:
    copy.sync()
    _, _, fingerprint = copy.secrets.secrets["expires_at"].partition(" ")
    copy.secrets.secrets["expires_at"] = f"{time.time() + left} {fingerprint}"
    copy.sync()
    assert copy.fake.tokens.refreshes == renewals
    assert all(one.status == 200 for one in copy.fake.log)
    assert copy.secrets.secrets["refresh_token"] == TOKEN  # Google's do not rotate


def test_an_ended_grant_says_to_connect_again(copy: Copy) -> None:
    copy.sync()
    copy.fake.tokens.refresh.clear()
    copy.fake.tokens.expire_all()
    result = copy.sync()
    assert result.status is Status.FAILED
    assert result.failures[0].code == "upstream.credentials"
    assert "invalid_grant" in result.failures[0].message
    assert "connect again" in result.failures[0].hint


def test_a_credential_of_another_account_fails_the_sync_and_keeps_the_rows(copy: Copy) -> None:
    copy.sync()
    before = copy.rows()
    copy.fake.me["permissionId"] = "99"
    copy.values["account"] = "1"
    copy.later(2 * 86_400)
    result = copy.sync()
    assert result.status is not Status.COMPLETED
    assert "another account" in result.failures[0].message
    assert copy.rows() == before


# -- kills, recordings, secrets -------------------------------------------------------------------


@pytest.mark.parametrize("requests", [2, 6, 9, 15, 22])
def test_a_killed_sync_goes_on_where_it_was(copy: Copy, requests: int) -> None:
    copy.killed_after(requests)
    before = [one.url for one in copy.fake.log if "/v3/files?" in one.url and one.status == 200][:-1]
    copy.fake.log.clear()
    assert copy.apart().returncode == 0
    assert copy.differences() == []
    assert not set(before[:-2]) & {
        one.url for one in copy.fake.log
    }  # two drives may have had a page under way


def test_a_sync_of_changes_that_is_killed_again_and_again_ends_with_the_same(copy: Copy) -> None:
    assert copy.apart().returncode == 0
    change(copy.fake)
    for requests in (2, 3, 2):
        copy.killed_after(requests)
    assert copy.apart().returncode == 0
    assert copy.differences() == []


def test_p37_a_recording_has_every_attempt(copy: Copy, tmp_path: Path) -> None:
    calls = tmp_path / "calls.jsonl"
    copy.recording = lambda: Recording(calls)
    copy.fake.inject(r"v3/files\?", status=500, times=2)
    assert copy.sync().status is Status.COMPLETED
    lines = calls.read_text().splitlines()
    outcomes = [line for line in lines if '"call"' in line or '"operation"' in line]
    assert len(outcomes) == len(copy.fake.log)


def test_p45_a_recorded_sync_and_its_increment_replay_to_equal_rows(copy: Copy, tmp_path: Path) -> None:
    calls = tmp_path / "calls.jsonl"
    copy.recording = lambda: Recording(calls)
    copy.sync()
    copy.recording = lambda: None
    (tmp_path / "again").mkdir()
    again = Copy(tmp_path / "again", root_folder="root")
    again.values |= {"base_url": copy.fake.url, "token_url": copy.fake.url}
    again.recording = lambda: Replay(calls)
    before = len(copy.fake.log)
    assert again.sync().status is Status.COMPLETED
    assert len(copy.fake.log) == before
    assert again.rows() == copy.rows()


def test_p41_no_secret_is_in_any_byte_that_a_sync_with_errors_leaves(copy: Copy) -> None:
    refresh, client = f"1//{secrets.token_hex(20)}", f"GOCSPX-{secrets.token_hex(20)}"
    copy.fake.tokens.add_refresh(refresh)
    copy.fake.tokens.clients[copy.values["client_id"]] = client
    copy.secrets.secrets |= {"refresh_token": refresh, "client_secret": client}
    copy.recording = lambda: Recording(copy.folder / "all.jsonl")
    echo = {"error": {"message": f"what of {refresh}?", "errors": [{"reason": f"no {client}"}]}}
    copy.fake.inject(r"v3/files\?", status=500, body=echo, times=2)
    copy.fake.inject("shared4/permissions", status=403, body=echo, times=None)
    result = copy.sync()
    assert result.status is Status.PARTIAL
    known = {refresh, client, copy.secrets.secrets["access_token"]}
    assert not [one for one in known if one in repr(result)]
    for file in copy.folder.rglob("*"):
        if file.is_file():
            assert not [one for one in known if one.encode() in file.read_bytes()], file.name


def test_p19_p40_only_the_two_configured_hosts_and_the_declared_operations_are_used(copy: Copy) -> None:
    copy.values |= {"base_url": "https://www.googleapis.com", "token_url": "https://oauth2.googleapis.com"}
    _, credentials = copy.configured()
    for url in ("https://www.googleapis.com", "https://oauth2.googleapis.com"):
        credentials.hosts.check(read_address(url)[0])
    for url in (
        "https://googleapis.com",
        "https://drive.googleapis.com",
        "https://www.googleapis.com.evil.test",
    ):
        with pytest.raises(PermissionDenied):
            credentials.hosts.check(read_address(url)[0])
    assert {name.name.partition(":")[0] for name in connector.operations} == {"google_drive"}


def test_p19_a_redirect_to_another_host_is_refused(copy: Copy) -> None:
    copy.fake.inject("about", status=302, headers={"Location": "http://127.0.0.1:1/secret"}, times=None)
    result = copy.sync()
    assert result.status is not Status.COMPLETED
    assert result.failures[0].code == "upstream.permission"


def test_without_a_credential_the_sync_says_how_to_give_one(copy: Copy) -> None:
    copy.secrets.secrets.clear()
    with pytest.raises(BadCredentials, match="no credential is stored"):
        copy.sync()
