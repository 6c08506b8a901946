"""``max connector test``: a correct connector passes every check, and each mistake fails its own."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from max.testing import runtime
from max.testing.checks import CHECKS
from max.upstream.recording import Recording
from tests import fake_shop, max_shop
from tests.command_line import Cli, Run

TESTS = Path(__file__).parent.parent
ALL = list(CHECKS)
Test = Callable[..., Run]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Test:
    """Runs the command on a copy of the shop's connector that has a mistake, with its fake beside it."""
    folder = tmp_path / "kit"
    folder.mkdir()
    for name in ("max_shop.py", "fake_shop.py"):
        shutil.copy(TESTS / name, folder / name)
        for module in [one for one in sys.modules if one.startswith(name.removesuffix(".py"))]:
            monkeypatch.delitem(sys.modules, module)  # it reads its flaw when it is imported

    def run(*words: str, flaw: str = "") -> Run:
        monkeypatch.setenv("SHOP_FLAW", flaw)
        return cli("connector", "test", str(folder / "max_shop.py"), *words)

    return run


def outcomes(run: Run) -> dict[str, str]:
    """The outcome of each check."""
    return {row["check"]: row["outcome"] for row in run.data["data"]}


def details(run: Run) -> dict[str, str]:
    """What each check says."""
    return {row["check"]: row["detail"] for row in run.data["data"]}


def test_a_correct_connector_passes_every_check(shop: Test, tmp_path: Path) -> None:
    run = shop("-o", "json", "--folder", str(tmp_path / "kept"))
    assert (run.status, outcomes(run)) == (0, dict.fromkeys(ALL, "pass")), run
    said = details(run)
    assert said["full sync"] == "3 requests; rows: Shop 1, Order 5"
    assert said["unchanged"] == "no row is written; 1 request instead of 3"
    assert said["change"] == "Order:1.title differs, Order:1.changed_at differs; 1 request"
    assert said["removal"] == "Shop.orders:shop differs, Order:2 is missing; 3 requests"
    assert said["slow"] == "3 of 6 requests failed, and no row differs"
    assert said["kill and resume"].endswith("killed at 1: 3 more, 2: 2 more, 3: 1 more; no row differs")
    assert (tmp_path / "kept" / "first" / "data.db").exists()


@pytest.mark.parametrize(
    ("flaw", "check", "words"),
    [
        ("unchanged", "unchanged", "a second sync of unchanged data differ from those before it: Order:"),
        ("change", "change", "differ from a first sync of the edited data: Order:1.title differs"),
        (
            "removal",
            "removal",
            "differ from a first sync of the edited data: Shop.orders:shop differs, Order:2",
        ),
        (
            "swallow",
            "token expiry",
            "the renewal differ from a sync without the expiry: Shop.orders:shop differs",
        ),
        ("swallow", "status 500", "Order:1 is missing"),
        ("swallow", "outage", "those before the outage: Shop.orders:shop is missing"),
        ("memory", "kill and resume", "killed at request 2, it could not go on: shop:at-2: partial"),
        ("hosts", "hosts", "it tried to connect to undeclared.example:443, which hosts= does not name"),
        ("secrets", "secrets", "a secret is in log.txt"),
        (
            "hasty",
            "429 with Retry-After",
            "it is failed: Shop:shop: load collection orders: the service has changed",
        ),
        ("empty", "full sync", "it is completed, and stored no row below the roots"),
    ],
)
def test_each_mistake_fails_its_own_check(shop: Test, flaw: str, check: str, words: str) -> None:
    run = shop("-o", "json", "--only", check, flaw=flaw)
    assert (run.status, outcomes(run)[check]) == (1, "fail")
    assert words in details(run)[check]


def test_text_has_a_line_for_each_check_and_a_summary(shop: Test) -> None:
    run = shop("--only", "hosts,secrets")
    assert run.status == 0
    assert [line.split("  ")[0] for line in run.out.splitlines()] == ["pass"] * 3
    assert run.err.startswith("3 passed, 0 failed, 0 skipped: 3 checks of shop in ")


def test_what_cannot_be_done_is_skipped_with_the_reason(shop: Test) -> None:
    run = shop("--only", "change,removal,kill and resume", flaw="empty")
    assert run.status == 1
    assert run.out.splitlines()[1] == ("skipped  change and 2 more    there is no full sync to compare with")


def test_rows_come_in_every_format(shop: Test) -> None:
    lines = [json.loads(line) for line in shop("--only", "hosts", "-o", "ndjson").out.splitlines()]
    assert [sorted(line) for line in lines] == [["check", "detail", "outcome", "requests"]] * 2
    assert shop("--only", "hosts", "-o", "csv").out.splitlines()[0] == "check,outcome,detail,requests"


# -- against something else ------------------------------------------------------------------------


async def recorded(path: Path) -> str:
    """Record a sync of the shop; the fake's address."""
    fake = fake_shop.fake()
    async with (
        fake.service as service,
        runtime(
            max_shop.connector, {"base_url": service.url}, fake.credentials, recording=Recording(path)
        ) as one,
    ):
        await (await one.sync()).completion()
        return str(service.url)


def test_a_recording_is_replayed_twice_and_the_rest_is_skipped(shop: Test, tmp_path: Path) -> None:
    recording = tmp_path / "shop.jsonl"
    asyncio.run(recorded(recording))
    run = shop("--replay", str(recording), "-o", "json")
    found = outcomes(run)
    assert (run.status, found.pop("full sync"), found.pop("hosts")) == (0, "pass", "pass"), run
    assert set(found.values()) == {"skipped"}
    assert details(run)["full sync"] == "6 rows, twice the same"
    assert details(run)["change"] == "a recording answers only what was recorded"


def test_a_service_at_an_address_is_tried_through_a_proxy(
    shop: Test, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP", "a-long-token")
    with fake_shop.fake().service as service:
        words = ("--url", service.url, "--credential", "token=env:SHOP")
        run = shop(*words, "--only", "change,removal,status 500,kill and resume", "-o", "json")
    found = outcomes(run)
    assert (found.pop("change"), found.pop("removal")) == ("skipped", "skipped")
    assert (run.status, set(found.values())) == (0, {"pass"}), run
    assert details(run)["change"] == "the service at an address is not changed: a fake with change= can be"


# -- words that are wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("connector", "max connector what?", "one of: "),
        ("connector tset", "unknown command of max connector 'tset'", "test"),
        ("connector test nothing.py", "there is no file nothing.py", "a connector's file"),
        ("connector test shop.py", "is named max_NAME.py", "rename it"),
        ("connector test acme", "nothing to test acme against", "fake_acme.py"),
        ("connector test acme --fake no.py", "there is no file no.py", "--url or --replay"),
        ("connector test acme --url http://h --replay t", "cannot be combined", "--help"),
        ("connector test acme --only full", "unknown check 'full'", "full sync"),
        ("connector test acme --url http://h --folder .", "is not empty", "a new folder"),
    ],
)
def test_an_error_in_the_words_says_what_to_write(
    cli: Cli, words: str, message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").touch()
    run = cli(*words.split(), "-o", "json")
    assert run.status == 2, run
    assert message in run.error["message"]
    assert hint in json.dumps(run.error)


@pytest.mark.parametrize(
    ("fake", "message"),
    [("", "has no function fake()"), ("def fake():\n    return 7\n", "fake() returned int, not a Fake")],
)
def test_a_fake_that_is_none_is_named(cli: Cli, tmp_path: Path, fake: str, message: str) -> None:
    file = tmp_path / f"fake_{len(fake)}.py"
    file.write_text(fake)
    run = cli("connector", "test", "acme", "--fake", str(file))
    assert (run.status, message in run.out + run.err) == (1, True), run


def test_a_connector_whose_address_is_fixed_cannot_be_tried(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "fake_fixed.py"
    file.write_text(
        "from max.testing import Fake, ScriptedUpstream\ndef fake():\n    return Fake(ScriptedUpstream({}))\n"
    )
    run = cli("connector", "test", "git", "--fake", str(file))
    assert run.status == 1
    assert "no value of git's configuration holds the address of the service" in run.out
