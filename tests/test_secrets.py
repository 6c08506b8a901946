"""Secrets: stored in one file, readable by connectors that declare them, and seen nowhere else."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import threading
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from shutil import copy
from tempfile import TemporaryDirectory
from traceback import format_exception
from typing import Any
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from max_connectors.acme_service import Request, Server, Service, Settings

from max import InstallationInfo, InstallationRuntime, onboard
from max.connecting import (
    Credential,
    CredentialProvider,
    Installation,
    Json,
    Offline,
    Secret,
    SecretInput,
    UpstreamBroken,
    Validate,
)
from max.errors import ProjectError, UnknownName
from max.installations.credential_file import FileCredentials
from max.storage.sqlite import SqliteDatabase
from max.upstream.credentials import MemoryCredentials
from max.upstream.redaction import Redactor
from tests.sample import SampleConfig, sample
from tests.token_service import SECRET, TokenService

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")])}

# -- errors of a connector that show a secret in some way ----------------------------------------


def fail_because(token: str) -> None:
    """An error that follows from one with the token."""
    try:
        int(token)
    except ValueError as error:
        raise ValueError("a bug") from error


def fail_while(token: str) -> None:
    """An error while one with the token is handled."""
    try:
        int(token)
    except ValueError:
        raise ValueError("another bug")  # noqa: B904


def fail_with_note(token: str) -> None:
    """An error with a note."""
    error = ValueError("a bug")
    error.add_note(f"sent {token}")
    raise error


class Odd(Exception):
    """An error with words of its own."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __str__(self) -> str:
        return f"odd: {self.token}"


class Stubborn(Exception):
    """An error whose words cannot be changed."""

    def __init__(self, token: str) -> None:
        self.said = partial(str, token)

    def __str__(self) -> str:
        return f"stubborn: {self.said()}"


def fail(error: BaseException) -> None:
    """Raise it."""
    raise error


ERRORS: dict[str, Callable[[str], object]] = {
    "cause": fail_because,
    "context": fail_while,
    "note": fail_with_note,
    "file": lambda token: Path(f"/nowhere/{token}").read_text(),
    "group": lambda token: fail(ExceptionGroup(f"of {token}", [ValueError(token)])),
    "own words": lambda token: fail(Odd(token)),
    "words that stay": lambda token: fail(Stubborn(token)),
    "bytes": lambda token: fail(ValueError(token.encode())),
    "tuple": lambda token: fail(ValueError(("token", token))),
    "object": lambda token: fail(ValueError(Odd(token))),
    "key of facts": lambda token: fail(UpstreamBroken("a bug", facts={token: 1})),
    "exit": lambda token: fail(SystemExit(token)),
}

# -- the file ------------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from max.installations.credential_file import FileCredentials

with FileCredentials(Path(sys.argv[1])).blocking_renewal_lock():
    print("held", flush=True)
    sys.stdin.read()
"""
WRITER = """
import asyncio, sys
from pathlib import Path
from max.installations.credential_file import FileCredentials

async def main(path, name):
    store = FileCredentials(Path(path))
    for number in range(10):
        await store.update({f"{name}-{number}": "x", f"{name}-last": str(number)})

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def store(tmp_path: Path) -> FileCredentials:
    return FileCredentials(tmp_path / "credentials.json", timeout=0.05)


@contextmanager
def held_elsewhere(store: FileCredentials) -> Iterator[subprocess.Popen[str]]:
    """Another process that renews a secret slowly."""
    command = [sys.executable, "-c", HOLDER, str(store.path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


class TestTheFile:
    """``FileCredentials`` with concurrent writers."""

    def test_several_secrets_are_stored_in_one_step_and_the_others_stay(self, store: FileCredentials) -> None:
        store.path.write_text('{"mine": "x", "a": "old"}')
        asyncio.run(store.update({"a": "1", "b": "2"}))
        assert json.loads(store.path.read_text()) == {"mine": "x", "a": "1", "b": "2"}
        assert stat.S_IMODE(store.path.stat().st_mode) == 0o600

    def test_no_change_of_any_process_is_lost(self, store: FileCredentials) -> None:
        commands = [[sys.executable, "-c", WRITER, str(store.path), name] for name in "abc"]
        running = [subprocess.Popen(command, env=ENVIRONMENT) for command in commands]
        assert [one.wait() for one in running] == [0, 0, 0]
        names = {f"{name}-{number}" for name in "abc" for number in [*range(10), "last"]}
        assert set(asyncio.run(store.names())) == names


class TestRenewalLock:
    """One holder renews; reading and writing go on."""

    def test_the_lock_has_one_holder_at_a_time(self, store: FileCredentials) -> None:
        inside = most = 0

        async def one() -> None:
            nonlocal inside, most
            async with FileCredentials(store.path).renewal_lock():
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.001)
                inside -= 1

        async def main() -> None:
            await asyncio.gather(*(one() for _ in range(6)))

        asyncio.run(main())
        assert most == 1

    def test_a_process_that_keeps_the_lock_is_waited_for_and_then_named(self, store: FileCredentials) -> None:
        async def main() -> None:
            with pytest.raises(Offline, match="another process has been renewing") as caught:
                async with store.renewal_lock():
                    pass
            assert str(store.path.parent) in str(caught.value)

        with held_elsewhere(store):
            asyncio.run(main())

    def test_reading_and_storing_do_not_wait(self, store: FileCredentials) -> None:
        async def main() -> str | None:
            await store.set("a", "1")
            return await store.get("a")

        with store.blocking_renewal_lock():
            assert asyncio.run(main()) == "1"

    def test_a_killed_process_gives_up_the_lock(self, store: FileCredentials) -> None:
        with held_elsewhere(store) as other:
            other.kill()
            other.wait()
            with store.blocking_renewal_lock():
                assert store.path.with_name("credentials.lock").exists()

    def test_a_cancelled_waiter_does_not_get_the_lock_later(self, store: FileCredentials) -> None:
        async def main() -> None:
            with store.blocking_renewal_lock():
                waiting = asyncio.create_task(enter())
                threads: list[threading.Thread] = []
                while not (threads or waiting.done()):  # it waits in a thread of its own
                    await asyncio.sleep(0)
                    threads = [one for one in threading.enumerate() if one.name.startswith("max-project")]
                waiting.cancel()
                await asyncio.wait([waiting])
            for one in threads:
                await asyncio.to_thread(one.join)
            async with store.renewal_lock():
                done.append(waiting.cancelled() and bool(threads))

        async def enter() -> None:
            async with FileCredentials(store.path, timeout=10).renewal_lock():
                raise AssertionError("a cancelled waiter got the lock")

        done: list[bool] = []
        asyncio.run(main())
        assert done == [True]

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with FileCredentials(tmp_path / "gone" / "credentials.json").renewal_lock():
                pass

        with pytest.raises(ProjectError, match="gone"):
            asyncio.run(main())


# -- who gets them ---------------------------------------------------------------------------------

some = st.sets(st.sampled_from("abcdef"), max_size=4)  # of the names that there are


class TestDeclared:
    """A connector reads and saves the secrets that it declares and no others."""

    @settings(deadline=None, max_examples=40)
    @given(declared=some, wanted=some, stored=some)
    def test_p40_an_undeclared_secret_is_not_readable(
        self, declared: set[str], wanted: set[str], stored: set[str]
    ) -> None:
        async def main() -> None:
            for name in wanted - declared:
                with pytest.raises(UnknownName, match="unknown credential"):
                    await provider.find(Credential(name))
            for name in wanted & declared:
                expected = Secret(f"kept {name}") if name in stored else None
                assert await provider.find(Credential(name)) == expected

        store = MemoryCredentials({name: f"kept {name}" for name in stored})
        provider = CredentialProvider(store, [Credential(name) for name in declared])
        asyncio.run(main())
        assert provider.known_secrets == {Secret(f"kept {name}") for name in wanted & declared & stored}

    @settings(deadline=None, max_examples=40)
    @given(declared=some, renewed=some)
    def test_p40_an_undeclared_secret_is_not_saved(self, declared: set[str], renewed: set[str]) -> None:
        store = MemoryCredentials(dict.fromkeys("abc", "old"))
        provider = CredentialProvider(store, [Credential(name) for name in declared])
        keeping = provider.save({Credential(name): Secret("new") for name in renewed})
        if renewed <= declared:
            asyncio.run(keeping)
            assert provider.known_secrets == {Secret("new") for _ in renewed}
        else:
            with pytest.raises(UnknownName, match="unknown credential"):
                asyncio.run(keeping)
        changed = {name for name, text in store.secrets.items() if text == "new"}
        assert changed == (renewed if renewed <= declared else set())

    def test_facts_leave_without_secrets_in_their_keys_too(self) -> None:
        redactor = Redactor()
        redactor.learn("a-secret-token")
        facts = {"seen": [{"a-secret-token": ("by a-secret-token", 1)}]}
        assert redactor.facts(facts) == {"seen": [{"***": ("by ***", 1)}]}

    def test_a_credential_that_is_not_secret_is_not_redacted(self) -> None:
        open_one = Credential("expires_at", secret=False)
        provider = CredentialProvider(MemoryCredentials({"expires_at": "12"}), [open_one])
        assert asyncio.run(provider.find(open_one)) == Secret("12")
        assert provider.known_secrets == frozenset()


# -- where they are not --------------------------------------------------------------------------------

MAX = """
import logging, sys
logging.basicConfig(level=1, filename="everything.log")
from max.cli import main
sys.exit(main())
"""
LETTERS = [chr(code) for code in range(33, 127)]


def token(seed: int, length: int) -> str:
    """A token without words that the output contains anyway, such as "============"."""
    return "".join(Random(seed).choices(LETTERS, k=length))


class Echo(Server):
    """A service that repeats the request in its errors, and looks at the process list."""

    def __init__(self, token: str) -> None:
        super().__init__(
            Service(Settings(workspaces=1, users=3, projects=2, tasks=3, files=1, seed=3)), token
        )
        self.listed: set[bytes] = set()
        self.failing = 3  # of every so many requests one fails

    async def _respond(self, request: Request) -> tuple[int, Json, str]:
        self.listed |= process_list()
        status, answer, extra = await super()._respond(request)
        shown = {"error": {"message": f"what is {request.headers.get('authorization')}?"}}
        if status >= 400:
            return status, shown, extra
        if request.path.endswith("/files"):
            return 404, shown, extra
        self.failing -= 1
        return (503, shown, extra) if self.failing == 0 else (status, answer, extra)


def process_list() -> set[bytes]:
    """The command lines of all processes."""
    if not Path("/proc/self/cmdline").exists():
        return set(
            subprocess.run(["ps", "-axww", "-o", "args"], capture_output=True, check=True).stdout.split(b"\n")
        )
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found.add(path.read_bytes())
    return found


@contextmanager
def in_a_thread(server: Echo) -> Iterator[Echo]:
    """Serve in an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result()
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Shell:
    """Runs ``max`` in a folder, and keeps its output."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder, self.said = folder, b""
        self.environment = ENVIRONMENT | variables

    def __call__(self, *words: str) -> int:
        command = [sys.executable, "-c", MAX, *words]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, check=False
        )
        self.said += done.stdout + done.stderr
        return done.returncode

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command, and wait for its end."""
        command = [sys.executable, "-c", MAX, *words]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, cwd=self.folder, env=self.environment, **pipes) as process:
            yield process
            self.said += process.communicate()[0]

    def written(self) -> dict[str, bytes]:
        """Every file except the one for secrets, and all output."""
        files = {
            path for path in self.folder.rglob("*") if path.is_file() and path.name != "credentials.json"
        }
        return {str(path): path.read_bytes() for path in files} | {"output": self.said}


class Leaky:
    """A service that repeats the token in every way in its cursors, values and errors."""

    def __init__(self, token: str) -> None:
        self.token, self.asked, self.url = token, list[str](), ""
        self.third_page, self.go_on = threading.Event(), threading.Event()

    @contextmanager
    def serving(self) -> Iterator[Leaky]:
        """Serve on a free port, a thread for each connection."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, data = service.answer(self.path)
                body = json.dumps(data).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                with suppress(BrokenPipeError):  # of a process that was killed
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield self
            finally:
                self.go_on.set()
                server.shutdown()
                thread.join()

    def answer(self, address: str) -> tuple[int, Json]:
        """Status and data for an address."""
        self.asked.append(address)
        url = urlsplit(address)
        known = f"&access_token={quote(self.token, safe='')}"
        spoken = repeated(self.token)
        match url.path:
            case "/pages":
                number = int(parse_qs(url.query).get("after", ["0"])[0]) + 1
                if number == 3:
                    self.third_page.set()
                    self.go_on.wait()
                following = {} if number == 3 else {"next": f"{self.url}/pages?after={number}{known}"}
                return 200, {"items": [{"id": f"page-{number}", "size": number}], **following}
            case "/values":
                return 200, {"items": [{"id": str(n), "size": f"is {one}"} for n, one in enumerate(spoken)]}
            case "/errors":
                return 422, {"error": " ".join([self.token[:-2], *spoken])}  # cut off, too
            case "/bugs":
                return 200, {"items": [], "next": " ".join(spoken)}
            case _:
                since = int(parse_qs(url.query).get("since", ["0"])[0]) + 1
                return 200, {"items": [], "mark": f"{self.url}/marks?since={since}{known}"}


def repeated(secret: str) -> list[str]:
    """What a service says that repeats a secret, alone and among others, in many encodings."""
    raw = secret.encode()
    among = [b"x" * before + raw + b"yz" for before in range(3)]
    said = [encode(one).decode() for one in among for encode in (b64encode, urlsafe_b64encode)]
    return [secret, raw.hex(), raw.hex().upper(), quote(secret, safe=""), quote_plus(secret), *said]


def encoded(secret: str) -> list[bytes]:
    """What must be found nowhere: of base64, what neighbours do not change."""
    raw = secret.encode()
    inner = [b64encode(b"\0" * n + raw)[4:-4] for n in range(3)]
    inner += [urlsafe_b64encode(b"\0" * n + raw)[4:-4] for n in range(3)]
    urls = [quote(secret, safe=""), quote_plus(secret)]
    return [raw, raw.hex().encode(), raw.hex().upper().encode(), *(url.encode() for url in urls), *inner]


ONCE = settings(deadline=None, phases=[Phase.generate])  # no secret is simpler than another
PIECE = 10  # characters that nothing else has in common with a secret


def places(secret: str, written: dict[str, bytes]) -> list[str]:
    """The places of a secret or a piece of it, plain or as JSON."""
    pieces = {secret[at : at + PIECE] for at in range(len(secret) - PIECE + 1)}
    forms = {form.encode() for piece in pieces for form in (piece, json.dumps(piece)[1:-1])}
    return [name for name, data in written.items() if any(form in data for form in forms)]


class TestNowhereElse:
    """A secret is in no byte of database, log, event, recording, output, message or process list."""

    @pytest.mark.parametrize("length", [20, 400])
    @settings(ONCE, max_examples=1)
    @given(seed=st.integers(0))
    def test_p41_a_token_is_nowhere_after_a_sync_with_errors(self, length: int, seed: int) -> None:
        secret = token(seed, length)
        with TemporaryDirectory() as folder, in_a_thread(Echo(secret)) as server:
            max = Shell(Path(folder), ACME_TOKEN=secret)
            where = ["--set", f"base_url={server.url}"]
            assert max("connect", "acme", *where, "--credential", "token=env:ACME_TOKEN") == 0
            assert max("sync", "acme", "-o", "ndjson", "--record", "acme.jsonl") == 3
            server.token = "another"
            assert max("sync", "acme", "--discard-unfinished") != 0
            assert max("runs", "acme", "-o", "json") == 0
            written = max.written()
            listed = server.listed
        assert b"what is ***" in max.said, "the service repeated the token in an error that was not shown"
        assert any(b"ndjson" in line for line in listed)
        assert {Path(name).suffix for name in written} >= {".db", ".jsonl", ".log"}
        assert places(secret, written | {f"process {n}": line for n, line in enumerate(listed)}) == []

    @pytest.mark.parametrize("length", [20, 400])
    @settings(ONCE, max_examples=1)
    @given(seed=st.integers(0))
    def test_p41_renewed_tokens_are_nowhere(self, length: int, seed: int) -> None:
        mark = token(seed, length)
        with TemporaryDirectory() as folder, TokenService(mark=mark).serving() as service:
            (Path(folder) / "connectors").mkdir()
            copy(ROOT / "tests" / "max_guarded.py", Path(folder) / "connectors")
            service.on_open = lambda token: service.expire() if len(service.opened) == 2 else None
            max = Shell(Path(folder), FIRST=f"refresh-0{mark}", SECRET=SECRET)
            words = ["--set", f"base_url={service.url}", "--credential", "refresh_token=env:FIRST"]
            assert max("connect", "guarded", *words, "--credential", "client_secret=env:SECRET") == 0
            assert max("sync", "guarded", "-o", "ndjson", "--record", "guarded.jsonl") == 3
            written = max.written()
        assert (service.refreshes, service.over) == (2, False)
        assert b"(403): ***" in max.said
        assert places(mark, written) == []

    def test_p41_a_token_in_cursors_values_and_errors_is_nowhere_and_the_cursors_work(
        self, tmp_path: Path
    ) -> None:
        first, second = token(1, 40), token(2, 44)
        (tmp_path / "connectors").mkdir()
        copy(ROOT / "tests" / "max_leaky.py", tmp_path / "connectors")
        max = Shell(tmp_path, FIRST=first, SECOND=second)
        with Leaky(first).serving() as service:
            words = ["--set", f"base_url={service.url}", "--credential", "token=env:FIRST"]
            assert max("connect", "leaky", *words) == 0
            with max.started("sync", "leaky", "-o", "ndjson") as syncing:
                service.third_page.wait()
                syncing.kill()  # within the listing: what is stored has a cursor with the token
            service.token = second
            service.go_on.set()
            assert max("connect", "leaky:default", "--update", "--credential", "token=env:SECOND") == 0
            assert max("sync", "leaky", "-o", "ndjson", "--record", "leaky.jsonl") == 3, max.said
            assert max("sync", "leaky") == 3
            assert max("runs", "leaky", "-o", "json") == 0
            assert max("search", "leaky", "Leaf", "--filter", 'id ^= "page"', "--fields", "size") == 0
            asked = service.asked
        assert [one for one in asked if "after=2" in one][:2] == [
            f"/pages?after=2&access_token={quote(one, safe='')}" for one in (first, second)
        ]
        assert f"/marks?since=1&access_token={quote(second, safe='')}" in asked
        assert b"page-3" in max.said
        for secret in (first, second):
            found = [name for name, data in max.written().items() if any(f in data for f in encoded(secret))]
            assert found == [], secret
            assert places(secret, max.written()) == []

    @pytest.mark.parametrize("where", ["initialise", "seeder", "health", "validate"])
    def test_p41_an_error_outside_of_any_task_leaves_without_the_token(
        self, where: str, tmp_path: Path
    ) -> None:
        token, declared = "a-secret-token", Credential("token")

        async def refuse(*_: Any) -> Any:
            raise UpstreamBroken(f"who is {token}?", hint=f"not {token}", said=[token])

        async def initialise(config: Any, credentials: CredentialProvider) -> Installation[Any]:
            await credentials.get(declared)
            return await refuse() if where == "initialise" else Installation(config, health=refuse)

        async def check(answers: Any, credentials: CredentialProvider) -> str:
            await credentials.get(declared)
            return str(await refuse())

        changes = {"seeder": refuse} if where == "seeder" else {}
        steps = [SecretInput(declared, "Token"), Validate(check)] if where == "validate" else []
        connector = sample(initialise=initialise, credentials=[declared], onboarding=steps, **changes)
        provider = CredentialProvider(MemoryCredentials({"token": token}), [declared])
        info = InstallationInfo("sample", "default", "sample-1", {}, 0.0)

        async def main() -> None:
            if where == "validate":
                await onboard(connector, None, {}, {"token": token})
            runtime = InstallationRuntime(
                info, connector, SampleConfig(), provider, SqliteDatabase(tmp_path / "data.db")
            )
            await runtime.start()
            try:
                await (runtime.sync() if where == "seeder" else runtime.health())
            finally:
                await runtime.stop()

        with pytest.raises(UpstreamBroken) as caught:
            asyncio.run(main())
        assert str(caught.value).endswith("who is ***?")
        assert token not in f"{caught.value!r} {caught.value.describe()} {caught.value.render()}"

    @pytest.mark.parametrize("where", ["initialise", "start", "stop"])
    @pytest.mark.parametrize("kind", ERRORS)
    def test_p41_no_traceback_of_a_connectors_own_error_shows_the_token(
        self, kind: str, where: str, tmp_path: Path
    ) -> None:
        token, declared = "a-secret-token", Credential("token")

        async def fail() -> None:
            ERRORS[kind](token)

        async def initialise(config: Any, credentials: CredentialProvider) -> Installation[Any]:
            await credentials.get(declared)
            if where == "initialise":
                await fail()
            return Installation(config, start=fail) if where == "start" else Installation(config, stop=fail)

        connector = sample(initialise=initialise, credentials=[declared])
        provider = CredentialProvider(MemoryCredentials({"token": token}), [declared])
        info = InstallationInfo("sample", "default", "sample-1", {}, 0.0)

        async def main() -> None:
            runtime = InstallationRuntime(
                info, connector, SampleConfig(), provider, SqliteDatabase(tmp_path / "data.db")
            )
            await runtime.start()
            await runtime.stop()

        with pytest.raises(BaseException) as caught:  # of any kind
            asyncio.run(main())
        shown = "".join(format_exception(caught.value)) + repr(caught.value)
        assert not [form for form in encoded(token) if form in shown.encode()]
        assert not isinstance(caught.value, SystemExit) or caught.value.code == "***"

    def test_connecting_again_keeps_the_secrets_that_are_not_given(self, tmp_path: Path) -> None:
        (tmp_path / "connectors").mkdir()
        copy(ROOT / "tests" / "max_guarded.py", tmp_path / "connectors")
        max = Shell(tmp_path, FIRST="refresh-0", OTHER="refresh-9")
        where = ["--set", "base_url=http://localhost:1"]
        assert max("connect", "guarded:mine", *where, "--credential", "refresh_token=env:FIRST") == 0
        (path,) = tmp_path.rglob("credentials.json")
        path.write_text('{"note": "mine", "refresh_token": "refresh-0", "expires_at": ""}')
        again = ["--update", "--credential", "refresh_token=env:OTHER"]
        assert max("connect", "guarded:mine", *again) == 0, max.said
        after = {"note": "mine", "refresh_token": "refresh-9", "expires_at": ""}
        assert json.loads(path.read_text()) == after | {"_for": "http://localhost:1"}

    def test_p41_no_repr_shows_one(self) -> None:
        secret = "hunter2-hunter2"
        store = MemoryCredentials({"token": secret})
        provider = CredentialProvider(store, [Credential("token")])
        given = asyncio.run(provider.get(Credential("token")))
        shown = f"{given!r} {provider!r} {store!r} {provider.known_secrets} {FileCredentials(Path('x'))!r}"
        assert secret not in shown
