"""The protocol on a real socket: bounds, cancelling, messages that are wrong, clients that go away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from max import Project
from max.errors import ConnectionLost, DaemonBusy, DaemonStopping, MaxError, UsageError
from max.serve.client import Client
from max.serve.methods import METHODS, Methods
from max.serve.protocol import Bounds
from max.serve.socket import SocketServer
from max.serve.streams import CallCancelled, End, Stream
from tests.waiting import until

ROOT = Path(__file__).parents[2]
MORE = "x" * 1_000_000  # an event that no buffer of a socket holds


class Held(Methods):
    """Methods whose answers wait until they are let go: ``waiting`` are those that have begun."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[list[Any]]] = []
        self.most, self.cancelled = 0, 0
        self.begun = asyncio.Event()

    def answer(self, name: str, given: Mapping[str, Any], prompter: object = None) -> Any:
        """A stream without an end for ``events``, else an answer that waits."""
        return Stream(self._endless()) if METHODS[name].streams else self._held()

    async def _held(self) -> list[Any]:
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        self.most = max(self.most, len(self.waiting))
        self.begun.set()
        try:
            return await future
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting.remove(future)

    async def _endless(self) -> AsyncGenerator[Any, None]:
        self.begun.set()
        try:
            while True:
                yield MORE
        finally:
            self.cancelled += 1
        yield End(None)


@asynccontextmanager
async def served(methods: Methods, bounds: Bounds | None = None) -> AsyncIterator[SocketServer]:
    """The methods on a unix socket with a short path."""
    folder = tempfile.mkdtemp(prefix="max", dir="/tmp")
    server = SocketServer(Path(folder) / "s", methods, bounds)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
        rmtree(folder)


class TestBounds:
    """P43: pending work has a bound, and a caller beyond it learns when to come again."""

    STEPS = st.lists(st.tuples(st.sampled_from(["ask", "answer", "cancel"]), st.integers(0, 2)), max_size=40)

    @settings(max_examples=40, deadline=None)
    @given(steps=STEPS, own=st.integers(1, 4), common=st.integers(1, 6))
    @example(steps=[("ask", 0), ("ask", 1)], own=1, common=1)  # the bound of all
    @example(steps=[("ask", 0), ("ask", 0)], own=1, common=2)  # that of one
    def test_p43_pending_calls_never_exceed_their_bounds_and_a_refusal_says_when_to_retry(
        self, steps: list[tuple[str, int]], own: int, common: int
    ) -> None:
        async def run() -> None:
            methods, bounds = Held(), Bounds(calls=own, all_calls=common)
            async with contextlib.AsyncExitStack() as opened:
                server = await opened.enter_async_context(served(methods, bounds))
                clients = [await opened.enter_async_context(Client.at(server.path)) for _ in range(3)]
                open_calls: list[tuple[int, asyncio.Task[Any]]] = []

                def is_settled() -> bool:
                    return bounds.open_calls == len(open_calls) == len(methods.waiting)

                def is_decided(call: asyncio.Task[Any]) -> bool:
                    return call.done() or len(methods.waiting) > len(open_calls)

                for what, number in steps:
                    mine = [one for one in open_calls if one[0] == number]
                    if what == "ask":
                        fits = len(mine) < own and len(open_calls) < common
                        call = asyncio.create_task(clients[number].installations())
                        if fits:
                            open_calls.append((number, call))
                            await until(is_settled)
                        else:
                            await until(partial(is_decided, call))
                            assert len(methods.waiting) == len(open_calls)
                            with pytest.raises(DaemonBusy) as refused:
                                await call
                            assert refused.value.retry_after > 0
                    elif what == "answer" and open_calls:
                        methods.waiting[0].set_result([])
                        await asyncio.wait(
                            [one for _, one in open_calls], return_when=asyncio.FIRST_COMPLETED
                        )
                        open_calls[:] = [one for one in open_calls if not one[1].done()]
                    elif what == "cancel" and mine:
                        mine[0][1].cancel()
                        open_calls.remove(mine[0])
                    await until(is_settled)
                for _, call in open_calls:
                    call.cancel()
            assert methods.most <= common

        asyncio.run(run())

    def test_p43_cancelling_ends_the_wait_at_once_though_the_method_does_not_answer(self) -> None:
        async def run() -> None:
            methods = Held()
            async with served(methods) as server, Client.at(server.path) as client:
                call = asyncio.create_task(client.installations())
                await methods.begun.wait()
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                await until(lambda: methods.cancelled == 1 and server.bounds.open_calls == 0)

        asyncio.run(run())

    @pytest.mark.parametrize("is_done", [False, True])
    def test_who_cancels_a_change_hears_whether_it_was_done_before(self, is_done: bool) -> None:
        async def run() -> None:
            methods = Held()
            async with served(methods) as server, Client.at(server.path) as client:
                call = asyncio.create_task(client.invalidate("acme", ["AcmeTask"]))
                await until(lambda: methods.waiting)
                if is_done:
                    methods.waiting[0].set_result(["what was done"])
                call.cancel()
                with pytest.raises(CallCancelled) as cancelled:
                    await call
                assert await cancelled.value.answer == (["what was done"] if is_done else None)
                assert methods.cancelled == (0 if is_done else 1)
                assert (client._connection._asked, client._connection._late) == ({}, set())

        asyncio.run(run())

    def test_who_cancels_a_change_of_a_process_that_ends_is_not_left_waiting(self) -> None:
        async def run() -> None:
            async with served(Held()) as server:
                async with Client.at(server.path) as client:
                    call = asyncio.create_task(client.invalidate("acme", ["AcmeTask"]))
                    await until(lambda: server.bounds.open_calls)
                    call.cancel()
                    with pytest.raises(CallCancelled) as cancelled:
                        await call
                assert await cancelled.value.answer is None

        asyncio.run(run())

    def test_a_client_that_never_reads_delays_no_other_and_is_dropped(self) -> None:
        async def run() -> None:
            methods = Held()
            bounds = Bounds(patience=0.3)
            async with served(methods, bounds) as server, Client.at(server.path) as other:
                silent = socket.socket(socket.AF_UNIX)
                silent.connect(str(server.path))
                silent.sendall(b'{"id": 1, "method": "events", "params": {}}\n')
                await methods.begun.wait()
                call = asyncio.create_task(other.installations())
                await until(lambda: methods.waiting)
                methods.waiting[0].set_result([])
                assert await call == []
                await until(lambda: server.connections == 1 and methods.cancelled == 1)
                silent.close()

        asyncio.run(run())

    def test_a_client_that_goes_away_cancels_its_calls(self) -> None:
        async def run() -> None:
            methods = Held()
            async with served(methods) as server:
                gone = socket.socket(socket.AF_UNIX)
                gone.connect(str(server.path))
                gone.sendall(b'{"id": 1, "method": "installations"}\n{"id": 2, "method": "problems"}\n')
                await until(lambda: len(methods.waiting) == 2)
                gone.close()
                await until(lambda: methods.cancelled == 2 and server.connections == 0)
                assert methods.waiting == []

        asyncio.run(run())

    def test_a_server_that_stops_tells_each_open_call(self) -> None:
        async def run() -> None:
            methods = Held()
            async with served(methods) as server, Client.at(server.path) as client:
                call = asyncio.create_task(client.installations())
                await methods.begun.wait()
                await server.stop()
                with pytest.raises(DaemonStopping):
                    await call
                with pytest.raises(ConnectionLost):
                    await client.problems()

        asyncio.run(run())


WRONG = [
    (b"{", None, "daemon.protocol", "not JSON"),
    (b"\xff", None, "daemon.protocol", "UTF-8"),
    (b"[1]", None, "daemon.protocol", "a message is a JSON object"),
    (b"[" * 100_000, None, "daemon.protocol", ""),
    (b'{"id": 1, "params": NaN, "method": "installations"}', None, "daemon.protocol", "NaN"),
    (b'{"x": 1}', None, "daemon.protocol", "a message has a method"),
    (b'{"method": "installations"}', None, "daemon.protocol", "a call has an id"),
    (b'{"id": true, "method": "installations"}', None, "daemon.protocol", "a call has an id"),
    (b'{"id": {}, "method": "installations"}', None, "daemon.protocol", "a call has an id"),
    (b'{"id": 1, "method": 5}', 1, "daemon.protocol", '"method" is a text'),
    (b'{"id": 1, "method": "serch"}', 1, "usage.unknown", "unknown method 'serch'"),
    (b'{"id": 1, "method": "__init__"}', 1, "usage.unknown", "unknown method"),
    (b'{"id": 1, "method": "search", "params": []}', 1, "daemon.protocol", '"params" an object'),
    (b'{"id": 1, "method": "search", "params": {}}', 1, "usage", "search needs 'installation'"),
    (b'{"id": 1, "method": "installations", "window": 0}', 1, "daemon.protocol", "a window is"),
    (b'{"id": 1, "method": "x' + b"x" * 70_000 + b'"}', None, "daemon.protocol", "at most 65,536 bytes"),
]


class TestMessagesThatAreWrong:
    """Each is answered in words, and the next line is the next message."""

    @pytest.mark.parametrize(("line", "id", "code", "words"), WRONG, ids=[str(one[0][:40]) for one in WRONG])
    def test_an_answer_says_what_is_wrong_and_the_connection_lives(
        self, project: Project, line: bytes, id: object, code: str, words: str
    ) -> None:
        async def run() -> None:
            async with served(Methods(project), Bounds(longest=65_536)) as server:
                reader, writer = await asyncio.open_unix_connection(str(server.path))
                await reader.readline()
                writer.write(line + b'\n{"id": "next", "method": "installations"}\n')
                answers = [json.loads(await reader.readline()) for _ in range(2)]
                by_id = {json.dumps(one["id"]): one for one in answers}
                error = by_id[json.dumps(id)]["error"]
                assert error["code"] == code
                assert words in error["message"]
                assert "result" in by_id['"next"']
                writer.close()

        asyncio.run(run())

    def test_a_cancel_an_answer_and_a_count_of_nothing_open_are_ignored(self, project: Project) -> None:
        async def run() -> None:
            async with served(Methods(project)) as server:
                reader, writer = await asyncio.open_unix_connection(str(server.path))
                await reader.readline()
                for text in ('{"cancel": 7}', '{"cancel": []}', '{"id": 7, "took": 1}'):
                    writer.write(f"{text}\n".encode())
                writer.write(b'{"id": 7, "prompt": 1, "answer": 1}\n{"id": 8, "method": "installations"}\n')
                assert json.loads(await reader.readline())["id"] == 8
                writer.close()

        asyncio.run(run())

    @pytest.mark.parametrize("greeting", [b'{"max": "0", "protocol": 1}\n', b"hello\n", b""])
    def test_a_client_refuses_another_version_and_another_program(self, greeting: bytes) -> None:
        async def run() -> None:
            async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(greeting)
                writer.close()

            folder = tempfile.mkdtemp(prefix="max", dir="/tmp")
            async with await asyncio.start_unix_server(greet, f"{folder}/s"):
                with pytest.raises(MaxError) as refused:
                    async with Client.at(f"{folder}/s"):
                        pass
            assert refused.value.code in ("daemon.protocol", "daemon.lost")
            rmtree(folder)

        asyncio.run(run())


@pytest.fixture
def project(synced: Path) -> Project:
    """A project that only reads."""
    return Project.find(synced)


STRANGER = """
import json, os, socket, sys
os.setgid(65534); os.setuid(65534)
answers = 0
for name in json.loads(sys.argv[2]):
    one = socket.socket(socket.AF_UNIX)
    one.connect(sys.argv[1])
    try:
        one.sendall(json.dumps({"id": 1, "method": name, "params": {}}).encode() + b"\\n")
        answers += len(one.recv(100_000))
    except OSError:
        pass
print(answers)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder into which every user may look."""
    folder = Path(tempfile.mkdtemp(prefix="max", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    rmtree(folder)


def content(folder: Path) -> Counter[tuple[str, bytes]]:
    """Every file below a folder with its bytes."""
    return Counter((str(one), one.read_bytes()) for one in folder.rglob("*") if one.is_file())


class TestIdentity:
    """P35: the socket answers its owner alone."""

    @pytest.mark.skipif(os.getuid() != 0, reason="it takes root to become another user")
    def test_p35_another_user_is_refused_every_method_even_where_the_mode_would_let_it_in(
        self, synced: Path, open_folder: Path
    ) -> None:
        folder = copytree(synced, open_folder / "p")
        before = content(folder)

        async def run() -> bytes:
            async with Project.open(folder, trusted=True) as project:
                server = SocketServer(open_folder / "s", Methods(project))
                await server.start()
                server.path.chmod(0o666)
                try:
                    words = [sys.executable, "-I", "-c", STRANGER, str(server.path), json.dumps([*METHODS])]
                    asked = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
                    return (await asked.communicate())[0]
                finally:
                    await server.stop()

        assert asyncio.run(run()) == b"0\n"
        assert content(folder) == before

    def test_p35_the_socket_never_has_another_mode_than_its_owners(self, project: Project) -> None:
        async def run() -> None:
            async with served(Methods(project)) as server:
                assert server.path.stat().st_mode & 0o777 == 0o600

        asyncio.run(run())


def test_a_method_that_fails_by_a_bug_says_so_and_the_connection_lives() -> None:
    class Broken(Held):
        def answer(self, name: str, given: Mapping[str, Any], prompter: object = None) -> Any:
            async def fails() -> None:
                raise KeyError("x")

            return fails()

    async def run() -> None:
        async with served(Broken()) as server, Client.at(server.path) as client:
            for _ in range(2):
                with pytest.raises(MaxError, match="installations failed: KeyError") as raised:
                    await client.installations()
                assert raised.value.code == "daemon.fault"
            with pytest.raises(UsageError):
                await client.search("acme", cast(str, 7))

    asyncio.run(run())
