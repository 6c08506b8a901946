"""The HTTP face in a process of its own, in the daemon, and in a server that is not ours."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
import uvicorn

from max import Project, UsageError
from tests.command_line import Cli
from tests.serve.clients import environment
from tests.serve.http_face import TOKEN


@contextmanager
def serving(
    folder: Path, home: Path, *words: str, program: tuple[str, ...] = ("-m", "max")
) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A process of ``max serve``, and what it says first; it is ended whatever happens."""
    command = [sys.executable, *program, "serve", "--port", "0", "-o", "json", *words]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**environment(), "MAX_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = cast("Any", process.stdout).readline()
        assert line, cast("Any", process.stderr).read()
        yield process, json.loads(line)
    finally:
        process.kill()
        process.communicate()


def test_max_serve_answers_until_a_signal_and_its_token_is_in_a_file(own: Path, tmp_path: Path) -> None:
    with serving(own, tmp_path / "h") as (process, said):
        file = Path(said["tokenFile"])
        assert file.stat().st_mode & 0o777 == 0o600
        headers = {"authorization": f"Bearer {file.read_text().strip()}"}
        with httpx2.Client(base_url=said["address"], headers=headers) as client:
            found = client.post("/v1/count", json={"installation": "acme", "entity": "AcmeUser"})
            assert found.json()["result"] > 0
            assert client.post("/v1/count", headers={"authorization": "Bearer no"}).status_code == 401
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=240)
        assert (process.returncode, out, err) == (0, "", "")
    with serving(own, tmp_path / "h", "--read-only") as (process, said):
        assert headers["authorization"].endswith(file.read_text().strip())
        with httpx2.Client(base_url=said["address"], headers=headers) as client:
            assert client.post("/v1/sync", json={"installation": "acme"}).status_code == 404
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=240) == 0


BUG = """
from pathlib import Path
from max.cli import main
from max.serve.methods import Methods
def broken(*given):
    raise ZeroDivisionError("oops " + Path("tokens").read_text())
Methods._answer = broken
main()
"""


def test_a_bug_shows_its_traceback_on_stderr_without_the_tokens(own: Path, tmp_path: Path) -> None:
    file = own / "tokens"
    file.write_text(f"one {TOKEN}\ntwo another-{TOKEN}\n")
    file.chmod(0o600)
    given = ("--token-file", "tokens")
    with serving(own, tmp_path / "h", *given, program=("-c", BUG)) as (process, said):
        headers = {"authorization": f"Bearer {TOKEN}"}
        answer = httpx2.post(f"{said['address']}/v1/installations", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "daemon.fault")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=240)
    assert "ERROR max.http: POST /v1/installations failed\nTraceback" in err
    assert "ZeroDivisionError: oops" in err
    assert TOKEN not in err


@pytest.mark.parametrize(
    ("words", "status", "problem"),
    [
        (["--port", "x"], 2, "--port: 'x' is no port"),
        (["--port", "70000"], 2, "is no port"),
        (["--host", "203.0.113.9"], 1, "cannot listen at 203.0.113.9"),
        (["--token-file", "none/such"], 1, "the token cannot be stored|none"),
    ],
)
def test_options_that_cannot_be_meant_are_errors_in_words(
    cli: Cli, words: list[str], status: int, problem: str
) -> None:
    cli("init")
    Path("none").write_text("a file")
    run = cli("serve", *words)
    assert run.status == status, run
    assert any(one in run.err for one in problem.split("|"))


class Embedded:
    """uvicorn with a project's app, in a thread with an event loop of its own."""

    def __init__(self, app: Any) -> None:
        config = uvicorn.Config(app, port=0, log_config=None, lifespan="on", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)

    async def run(self) -> None:
        task = asyncio.create_task(self.server._serve())
        while not self.server.started and not task.done():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        self.address = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        self.task = task

    async def end(self) -> None:
        self.server.should_exit = True
        await self.task


def test_an_app_in_another_server_answers_and_leaves_nothing_behind(own: Path) -> None:
    async def main() -> None:
        tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        async with Project.open(own) as project:
            host = Embedded(project.serve(token={"board": TOKEN}))
            await host.run()
            headers = {"authorization": f"Bearer {TOKEN}"}
            async with httpx2.AsyncClient(base_url=host.address, headers=headers, timeout=240) as client:
                page = await client.post("/v1/search", json={"installation": "acme", "entity": "AcmeUser"})
                assert page.json()["result"]["items"]
                assert (await client.get("/metrics")).status_code == 200
                big = await client.post("/v1/count", content=b" " * 2_000_000)
                assert big.status_code == 413
                json_alone = {"accept": "application/json"}
                done = await client.post("/v1/sync", json={"installation": "acme"}, headers=json_alone)
                assert done.json()["result"]["status"] == "completed"
                assert (await client.post("/v1/count", headers={"host": "evil.example"})).status_code == 421
                async with client.stream("GET", "/events?installation=acme") as answer:
                    assert answer.status_code == 200
                    await host.end()
                    with suppress(httpx2.RemoteProtocolError):  # its host cuts it off
                        await answer.aread()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() <= tasks
        assert set(threading.enumerate()) <= threads
        assert {number: signal.getsignal(number) for number in handlers} == handlers

    asyncio.run(main())


def test_an_app_needs_a_token_that_cannot_be_guessed(own: Path) -> None:
    with pytest.raises(UsageError, match="at least 16"):
        Project.find(own).serve(token="secret")


def test_the_app_answers_below_a_path_of_its_host(own: Path) -> None:
    async def main() -> None:
        app = Project.find(own).serve(token=TOKEN)
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {TOKEN}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/data/ready", "root_path": "/data"}
        await app({**scope, "headers": headers, "query_string": b"", "scheme": "http"}, receive, send)
        assert sent[0]["status"] == 200

    asyncio.run(main())


def test_the_daemon_answers_over_http_when_it_is_asked_to(own: Path, tmp_path: Path) -> None:
    home = tmp_path / "h"
    known = {**environment(), "MAX_HOME": str(home)}

    def daemon(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "max", "daemon", *words]
        return subprocess.run(command, cwd=own, env=known, capture_output=True, text=True)

    try:
        started = daemon("start", "--http", "127.0.0.1:0")
        assert started.returncode == 0, started.stderr
        log = daemon("logs", "-o", "ndjson").stdout
        [line] = [one for one in log.splitlines() if "answering at" in one]
        address, _, token = (
            json.loads(line)["message"].removeprefix("answering at ").partition("; the token is in ")
        )
        headers = {"authorization": f"Bearer {Path(token).read_text().strip()}"}
        with httpx2.Client(base_url=address, headers=headers) as client:
            assert client.get("/ready").json()["installations"] == 1
    finally:
        daemon("stop", "--force")
    assert Path(token).exists()
