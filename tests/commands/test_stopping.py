"""Ctrl-C, SIGTERM, pause and cancel of the real command: what waits for its turn has begun nothing."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.gated_service import AT_ONCE, Serving


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    """A served gate with a connected project."""
    one = Serving(tmp_path)
    yield one
    one.open()
    one.stop()


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "pause"])
def test_a_sync_ends_with_the_requests_that_were_sent(serving: Serving, how: str) -> None:
    process = serving.begin("sync", "acme", "-o", "ndjson")
    serving.gate.is_full.wait()
    if how == "pause":
        assert "pauses after the requests under way" in serving.max("pause", "acme")
    else:
        process.send_signal(signal.Signals[how])
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("state") == "pending":
            break  # what waited has gone back, while every request is still held
    serving.open()
    output, errors = process.communicate()
    assert process.returncode == (143 if how == "SIGTERM" else 130), errors
    assert serving.gate.listings == AT_ONCE
    assert json.loads(output.splitlines()[-1])["status"] == "paused"
    serving.max("resume", "acme")
    assert serving.gate.listings == 2 * 2 * 20, "each collection is listed once"


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_on_a_terminal_pauses_a_sync_and_a_second_one_leaves_at_once(
    serving: Serving, times: int
) -> None:
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    terminal, inside = pty.openpty()
    at_terminal = (  # the key reaches the processes of the session whose terminal it is
        "import fcntl, os, runpy, sys, termios\nos.setsid()\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "sys.argv[:] = ['max', 'sync', 'acme']\nrunpy.run_module('max', run_name='__main__')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", at_terminal],
        cwd=serving.folder,
        env={**serving.environment, "TERM": "xterm"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
    ) as process:
        os.close(inside)
        serving.gate.is_full.wait()
        os.write(terminal, b"\x03")
        shown = read_until(terminal, "press Ctrl-C again to leave at once")
        if times == 2:
            os.write(terminal, b"\x03")
        else:
            serving.open()
        shown += read_until(terminal)
        os.close(terminal)
    expected = ["everything so far is saved", "left at once; the stored data is kept"][times - 1]
    assert (process.returncode, expected in shown, "Traceback" in shown) == (130, True, False), shown
    assert ["last sync   paused", "last sync   interrupted"][times - 1] in serving.max("status")


def read_until(terminal: int, words: str = "") -> str:
    """What is written to a terminal, up to some words or to the end of the process."""
    shown = b""
    while not words or words.encode() not in shown:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux says so when the last process has left the terminal
            break
        if not part:
            break
        shown += part
    return shown.decode()


def test_a_cancelled_sync_ends_although_its_requests_are_not_answered(serving: Serving) -> None:
    process = serving.begin("sync", "acme", "--json")
    serving.gate.is_full.wait()
    assert "ends at once" in serving.max("cancel", "acme")
    output, errors = process.communicate()
    assert (process.returncode, json.loads(output)["status"]) == (1, "cancelled"), errors
    assert serving.gate.listings == AT_ONCE


OF_ANOTHER_MACHINE = "UPDATE {} SET {} = 'elsewhere/boot/pid:[1]/1/1/x'"


@pytest.mark.parametrize("command", ["resume", "pause", "cancel"])
def test_a_person_who_knows_that_a_process_is_gone_need_not_wait_for_its_lease(
    serving: Serving, command: str
) -> None:
    process = serving.begin("sync", "acme")
    serving.gate.is_full.wait()
    process.kill()
    process.communicate()
    serving.open()
    path = serving.folder / ".max" / "installations" / "acme" / "default" / "data.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as known:
        known.execute(OF_ANOTHER_MACHINE.format("_max_sync", "worker"))
        known.execute(OF_ANOTHER_MACHINE.format("_max_worker", "id"))
    assert "running" in serving.max("status")
    refused = serving.begin("sync", "acme")
    assert "if that process is gone: `max resume --force`" in refused.communicate()[1]
    assert refused.returncode == 1
    serving.max(command, "acme", "--force")
    expected = {"resume": "completed", "pause": "paused", "cancel": "cancelled"}[command]
    assert f"last sync   {expected}" in serving.max("status")


def test_a_process_whose_sync_was_taken_stores_nothing_more_and_says_so(serving: Serving) -> None:
    process = serving.begin("sync", "acme")
    serving.gate.is_full.wait()
    serving.max("pause", "acme", "--force")
    serving.open()
    assert "another process took it over" in process.communicate()[1]
    assert process.returncode == 1
    assert "last sync   paused" in serving.max("status")
    assert "AcmeTask" not in serving.max("status")
