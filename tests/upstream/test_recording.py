"""Recordings: every attempt is written, no secret is, and a replay needs only the recording."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from max_connectors.acme import connector as acme
from max_connectors.acme_service import Server, Service, Settings

from max import Project, Recording, Replay
from max.connecting import (
    BadCredentials,
    CredentialProvider,
    Env,
    HttpClient,
    Installation,
    Json,
    Loader,
    Offline,
    Operation,
    Page,
    PageRequest,
    PermissionDenied,
    QuotaExceeded,
    Ref,
    Schema,
    Step,
    Store,
    SyncPlan,
    UpstreamMissing,
    run_operation,
)
from max.core import InstallationInfo, SyncOptions
from max.errors import RecordingError, ReplayMismatch
from max.model.entities import ManyOf
from max.model.tasks import Status, SyncResult
from max.projects.folder import ProjectFolder
from max.runtime import InstallationRuntime
from max.storage.sqlite import SqliteDatabase
from max.upstream.credentials import MemoryCredentials, Secret
from max.upstream.hosts import Hosts
from tests.replays import (
    DESCRIBE,
    INFO,
    KEY,
    LIST,
    NAMED,
    SCHEMA,
    Asked,
    Crowd,
    Upstream,
    answered,
    caller_of,
    contents,
    crowd,
    entries,
    page,
    run,
    script,
    seeding,
    written,
)

T = TypeVar("T")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


# -- recording -----------------------------------------------------------------------------------------

passing = st.sampled_from([Offline("no network"), QuotaExceeded("slow down", retry_after=0.0)])
faults = st.dictionaries(st.integers(0, 4), st.lists(passing, min_size=1, max_size=4), max_size=4)


async def served(
    error_rate: float, seed: int, recording: Path, folder: Path
) -> tuple[SyncResult, Counter[str]]:
    """A recorded sync of acme over HTTP: its result, and the service's own count."""
    size = Settings(
        workspaces=2, users=3, projects=2, tasks=7, files=2, page_size=3, seed=seed, error_rate=error_rate
    )
    async with Server(Service(size), "a-token") as server, Project(ProjectFolder.init(folder)) as project:
        project.manager.add("acme", None, {"base_url": server.url}, {"token": "a-token"}, now=0.0)
        runtime = await project.runtime("acme", "default", recording=Recording(recording))
        result = await (await runtime.sync()).completion()
        (folder / "stored.json").write_text(json.dumps(await contents(runtime.engine)))
        return result, server.service.paths


class TestRecording:
    """The content of a recording."""

    @given(error_rate=st.sampled_from([0.0, 0.05, 0.15]), seed=st.integers(1, 99))
    @settings(max_examples=4)
    def test_p37_the_recording_has_as_many_attempts_as_the_service_counts(
        self, error_rate: float, seed: int
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            recording = Path(folder) / "recording"
            result, counted = asyncio.run(served(error_rate, seed, recording, Path(folder)))
            found = entries(recording)
        assert result.status is Status.COMPLETED
        assert len(found) == counted.total()
        assert Counter(one["operation"] for one in found) == result.requests
        assert all(("output" in one) != ("error" in one) for one in found)
        failed = [one for one in found if "error" in one]
        assert all(one["error"]["code"] == "upstream.broken" for one in failed)
        assert len([one for one in found if one["attempt"] > 1]) == len(failed)

    @given(st.integers(1, 5), faults)
    @settings(max_examples=25)
    def test_p37_every_attempt_is_written_in_order_with_input_and_outcome(
        self, pages: int, faults: Mapping[int, Sequence[Exception]]
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            recording, upstream = Path(folder) / "recording", Upstream(script(pages, faults))
            run(crowd(upstream), Recording(recording))
            first, *rest = entries(recording)
        assert (first["operation"], first["output"]) == ("crowd:crowd:get", "everybody")
        assert [one["input"]["page"] for one in rest] == upstream.asked[1:]
        for number in range(pages):
            mine = [one for one in rest if one["input"]["page"] == str(number)]
            assert [one["attempt"] for one in mine] == list(range(1, len(mine) + 1))
            found = [(one["error"]["class"], one["error"]["message"]) for one in mine[:-1]]
            assert found == [(type(error).__name__, str(error)) for error in faults.get(number, ())]
            assert mine[-1]["output"]["people"][0][0] == f"{number}a"
        times = [one["at"] for one in rest]
        assert times == sorted(times)

    def test_the_header_names_connector_and_installation(self, tmp_path: Path) -> None:
        run(
            crowd(Upstream(script(1)), version="7"),
            Recording(tmp_path / "t", clock=lambda: 0.0),
            key="secret-7",
        )
        (first, *_) = (tmp_path / "t").read_text().splitlines()
        assert json.loads(first) == {
            "recording": 1,
            "connector": "crowd",
            "version": "7",
            "installation": "abc",
            "recorded_at": "1970-01-01T00:00:00.000Z",
            "began_empty": True,
            "credentials": ["key"],
            "config": {},
            "options": {},
        }

    def test_a_replay_begins_with_the_recorded_options(self, tmp_path: Path) -> None:
        given = SyncOptions(only=("Person.name", "Crowd"), if_stale=60.0)

        async def main() -> None:
            async with caller_of(tmp_path / "t", Upstream({}), given):
                pass

        asyncio.run(main())
        replay = Replay(tmp_path / "t")
        assert replay.header.options == {"only": ["Person.name", "Crowd"], "if_stale": 60.0}
        assert replay.sync_options(SyncOptions()) == given
        assert replay.sync_options(SyncOptions(full=True)) == SyncOptions(full=True)

    def test_only_the_owner_can_read_the_file(self, tmp_path: Path) -> None:
        run(crowd(Upstream(script(1))), Recording(tmp_path / "t"))
        assert (tmp_path / "t").stat().st_mode & 0o777 == 0o600

    def test_a_file_with_content_is_refused_and_not_changed(self, tmp_path: Path) -> None:
        (tmp_path / "t").write_text("mine")
        with pytest.raises(RecordingError, match="already exists and is not empty"):
            run(crowd(Upstream(script(1))), Recording(tmp_path / "t"))
        assert (tmp_path / "t").read_text() == "mine"
        (tmp_path / "t").write_text("")
        run(crowd(Upstream(script(1))), Recording(tmp_path / "t"))
        assert len(entries(tmp_path / "t")) == 2

    def test_an_unwritable_file_is_refused_before_any_call(self, tmp_path: Path) -> None:
        upstream = Upstream(script(1))
        with pytest.raises(RecordingError, match="No such file or directory"):
            run(crowd(upstream), Recording(tmp_path / "no" / "t"))
        assert upstream.asked == []

    def test_an_output_that_cannot_be_encoded_fails_its_task_and_names_the_operation(
        self, tmp_path: Path
    ) -> None:
        upstream = Upstream(script(2) | {"1": [{"people": [], "odd": object()}]})
        outcome = run(crowd(upstream), Recording(tmp_path / "t"))
        (failure,) = outcome.result.failures
        assert failure.code == "recording"
        assert failure.message.startswith("crowd:person:list: a recording cannot hold an instance of object")
        assert len(entries(tmp_path / "t")) == len(upstream.asked)
        assert entries(tmp_path / "t")[-1]["error"]["code"] == "recording"

    def test_no_call_is_made_after_the_disk_is_full(self, tmp_path: Path) -> None:
        async def main() -> list[str]:
            upstream = Upstream(script(1) | {"0": [{"people": "x" * 5000}]})
            async with caller_of(tmp_path / "t", upstream) as caller:
                await caller.run(DESCRIBE, upstream, None)
                with files_of_at_most(2000):
                    for _ in range(2):
                        with pytest.raises(
                            RecordingError, match="the recording cannot be written: File too large"
                        ):
                            await caller.run(LIST, upstream, Asked("0"))
            return upstream.asked

        assert asyncio.run(main()) == ["crowd", "0"]
        replay = Replay(tmp_path / "t")
        assert run(crowd(None), replay).result.failures[0].code == "replay.mismatch"
        assert "line 3: the recording was interrupted" in replay.notes[0]

    def test_a_nested_operation_is_recorded_without_its_texts(self, tmp_path: Path) -> None:
        async def token(upstream: Upstream, grant: Json) -> Json:
            return {"token": "the-new-token", "expires": 60}

        async def fetch_with_token(upstream: Upstream, asked: Asked) -> Any:
            await run_operation(
                Operation("crowd:token:get", token), upstream, {"grant": "the-old-token", "n": 1}
            )
            return await upstream.answer(asked.page)

        async def fetch(upstream: Upstream, _: None) -> Any:
            return await fetch_with_token(upstream, Asked("crowd"))

        named: Operation[Any, None, Any] = Operation("crowd:crowd:get", fetch)
        upstream = Upstream(script(1))
        connector = crowd(upstream, seeder=seeding(named), operations=[named, LIST])
        run(connector, Recording(tmp_path / "t"))
        inner, outer, _ = entries(tmp_path / "t")
        assert inner["within"] == outer["operation"] == "crowd:crowd:get"
        assert (inner["input"], inner["output"]) == (
            {"grant": "***", "n": 1},
            {"token": "***", "expires": 60},
        )
        replay = Replay(tmp_path / "t")
        assert run(crowd(None, seeder=seeding(named)), replay).result.status is Status.COMPLETED
        assert replay.left() == Counter()

    def test_a_cancelled_attempt_is_recorded_and_not_replayed(self, tmp_path: Path) -> None:
        async def main() -> None:
            recording, reached = Recording(tmp_path / "t"), asyncio.Event()

            async def hangs(upstream: Upstream) -> None:
                reached.set()
                await asyncio.Event().wait()

            upstream = Upstream({"crowd": ["everybody"], "0": [hangs, {"people": []}]})
            secrets = CredentialProvider(MemoryCredentials(), [KEY])
            runtime = InstallationRuntime(
                INFO, crowd(upstream), None, secrets, SqliteDatabase(tmp_path / "db"), recording=recording
            )
            await runtime.start()
            await runtime.sync()
            await reached.wait()
            await runtime.stop()

        asyncio.run(main())
        assert entries(tmp_path / "t")[-1]["cancelled"] is True
        with pytest.raises(ReplayMismatch, match="which was not recorded"):
            asyncio.run(answered(tmp_path / "t", LIST, Asked("0")))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Limit the size of files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# -- secrets -------------------------------------------------------------------------------------------

keys = st.text(st.characters(min_codepoint=33, codec="utf-8"), min_size=8, max_size=30)


class TestSecrets:
    """No recording contains a secret."""

    @given(keys, keys)
    @settings(max_examples=20)
    def test_p41_no_byte_of_a_recording_contains_an_old_or_new_secret(self, key: str, new: str) -> None:
        """The service repeats the key in every encoding, refuses it, and issues a new one."""

        async def refuses(upstream: Upstream) -> Exception:
            return BadCredentials(f"{quote(key, safe='')} is old", hint=key, key=key)

        async def echoes(upstream: Upstream) -> Json:
            both = (key, new)
            answer = {one: [b64encode(f"{one}:{one}".encode()).decode(), json.dumps(one)] for one in both}
            return {"people": [["1", f"{key}{new}"]], "echo": answer, "raw": key.encode(), "next": new}

        def secretly(upstream: Upstream) -> Any:
            async def initialise(config: object, credentials: CredentialProvider) -> Installation[Any]:
                async def renew() -> None:
                    await credentials.save({KEY: Secret(new)})

                return Installation(upstream, renew=renew)

            return crowd(upstream, initialise=initialise)

        gone = UpstreamMissing(f"nothing at {new}", hint="?", at=json.dumps({"at": new}))
        upstream = Upstream({"crowd": [refuses, f"the crowd of {key}"], "0": [echoes], new: [gone]})
        with tempfile.TemporaryDirectory() as folder:
            recording = Path(folder) / "recording"
            run(secretly(upstream), Recording(recording), key=key)
            written = recording.read_bytes()
        assert len(upstream.asked) == len(written.splitlines()) - 1 == 4
        for secret in (key, new):
            forms = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], secret.encode().hex()}
            inner = {b64encode(b"\0" * n + secret.encode()).decode()[4:-4] for n in range(3)}
            assert not [form for form in forms | inner if form.encode() in written]

    @pytest.mark.parametrize(
        "made", [lambda key: f"?key={key}", lambda key: Asked(key), lambda key: [key, {key: 1}]]
    )
    def test_p41_no_input_of_a_call_is_recorded_with_a_secret(
        self, made: Callable[[str], Any], tmp_path: Path
    ) -> None:
        key, gone = "a-secret-key", UpstreamMissing("no")

        async def ask(upstream: Upstream, input: Any) -> str:
            return "everybody"

        asking: Operation[Any, Any, str] = Operation("crowd:crowd:ask", ask)

        async def seed(upstream: Upstream, store: Store) -> SyncPlan:
            await store.store(Crowd("all", name=await run_operation(asking, upstream, made(key))))
            return SyncPlan([Step.for_root(Crowd.ref("all")).load_collection(Crowd.people)])

        declared = crowd(Upstream({"0": [gone]}), seeder=seed, operations=[LIST, asking])
        run(declared, Recording(tmp_path / "t"), key=key)
        first = entries(tmp_path / "t")[0]
        assert (first["operation"], first.get("output")) == ("crowd:crowd:ask", "everybody")
        assert key not in (tmp_path / "t").read_text()

    def test_p41_nor_a_secret_that_another_process_stored_during_the_call(self, tmp_path: Path) -> None:
        upstream = Upstream(script(1))

        async def initialise(config: object, credentials: CredentialProvider) -> Installation[Any]:
            async def rotated(_: Upstream) -> str:
                await credentials.save({KEY: Secret("brought-meanwhile")})
                return "signed with brought-meanwhile"

            upstream.script["crowd"] = [rotated]
            return Installation(upstream)

        run(crowd(upstream, initialise=initialise), Recording(tmp_path / "t"), key="the-first-key")
        assert entries(tmp_path / "t")[0]["output"] == "signed with ***"

    def test_the_recorded_configuration_contains_no_secret(self, tmp_path: Path) -> None:
        async def main() -> None:
            recording = Recording(tmp_path / "t")
            info = InstallationInfo("crowd", "default", "abc", {"url": "http://x/?k=s3cr3t-key"}, 0.0)
            secrets = CredentialProvider(MemoryCredentials({"key": "s3cr3t-key"}), [KEY])
            upstream = Upstream(script(1))
            runtime = InstallationRuntime(
                info, crowd(upstream), None, secrets, SqliteDatabase(":memory:"), recording=recording
            )
            await runtime.start()
            await (await runtime.sync()).completion()
            await runtime.stop()

        asyncio.run(main())
        assert "http://x/?k=***" in (tmp_path / "t").read_text()
        assert "s3cr3t-key" not in (tmp_path / "t").read_text()

    def test_a_secret_that_is_too_short_is_refused_before_any_call(self, tmp_path: Path) -> None:
        upstream = Upstream(script(1))
        with pytest.raises(RecordingError, match="a secret of 3 characters"):
            run(crowd(upstream), Recording(tmp_path / "t"), key="abc")
        assert (upstream.asked, (tmp_path / "t").read_bytes()) == ([], b"")


# -- replaying -----------------------------------------------------------------------------------------

OFFLINE = """
import sys
sys.modules["httpx2"] = None

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"):
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(refuse)
from max.cli import main
sys.exit(main(sys.argv[1:]))
"""


def offline(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command on a machine without a network, without the extra, without credentials."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
    environment = {**os.environ, "PYTHONPATH": paths, "MAX_HOME": str(folder / "home")}
    command = [sys.executable, "-c", OFFLINE, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


async def stored_in(folder: Path, name: str) -> dict[str, Json]:
    """The rows of a project's acme installation."""
    async with Project.open(folder) as project:
        info = await project.target(f"acme:{name}")
        secrets = CredentialProvider(MemoryCredentials(), acme.credentials, Hosts())
        from max_connectors.acme import AcmeConfig

        runtime = InstallationRuntime(info, acme, AcmeConfig(), secrets, project.manager.database(info))
        await runtime.start()
        try:
            return await contents(runtime.engine)
        finally:
            await runtime.stop()


class TestReplaying:
    """The same sync, from the recording only."""

    def test_p45_a_recorded_sync_replays_offline_to_an_equal_database(self, tmp_path: Path) -> None:
        recording = tmp_path / "acme.jsonl"
        result, _ = asyncio.run(served(0.1, 3, recording, tmp_path))
        (tmp_path / "elsewhere").mkdir()
        done = offline(tmp_path / "elsewhere", "sync", "acme:copy", "--replay", str(recording), "-o", "json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["counts"], found["requests"]) == (dict(result.counts), dict(result.requests))
        assert found["replay"] == {"left": {}, "notes": []}
        copy = asyncio.run(stored_in(tmp_path / "elsewhere", "copy"))
        assert copy == json.loads((tmp_path / "stored.json").read_text())
        assert len(copy["AcmeTask"]) == 2 * 2 * 7

    @given(st.integers(1, 5), faults)
    @settings(max_examples=25)
    def test_p45_temporary_failures_replay_to_an_equal_database(
        self, pages: int, faults: Mapping[int, Sequence[Exception]]
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            recording = Path(folder) / "recording"
            recorded = run(crowd(Upstream(script(pages, faults))), Recording(recording))
            replay = Replay(recording)
            copy = run(crowd(None), replay)
        assert copy.stored == recorded.stored
        assert (copy.result.status, copy.result.requests) == (Status.COMPLETED, recorded.result.requests)
        assert (replay.left(), replay.notes) == (Counter(), [])

    @given(st.integers(0, 3))
    @settings(max_examples=4)
    def test_p45_a_final_failure_is_replayed(self, page: int) -> None:
        denied = PermissionDenied("not for you", hint="ask", page=page)
        with tempfile.TemporaryDirectory() as folder:
            recording = Path(folder) / "recording"
            recorded = run(crowd(Upstream(script(4, {page: [denied]}))), Recording(recording))
            copy = run(crowd(None), Replay(recording))
        assert copy.stored == recorded.stored
        assert copy.result.status is recorded.result.status is not Status.COMPLETED
        (found,), (again,) = recorded.result.failures, copy.result.failures
        assert (again.code, again.message, again.hint) == (found.code, found.message, found.hint)

    def test_p45_a_newer_version_replays_the_recording_of_an_older_one(self, tmp_path: Path) -> None:
        recorded = run(crowd(Upstream(script(3))), Recording(tmp_path / "t"))
        data = SCHEMA.to_json()
        data["entities"][1]["fields"].append({**data["entities"][1]["fields"][0], "name": "shout"})
        schema = Schema.from_json(data)
        newer: Any = schema.entities["Person"]
        root: Any = schema.entities["Crowd"]
        many: ManyOf[Any, Any] = ManyOf(root, "people")

        @Loader.collection(many, brings=[newer.name, newer.shout])
        async def people(parent: Ref[Any], request: PageRequest, env: Env[Upstream]) -> Page[Any]:
            answer = await env.run(LIST, Asked(request.cursor or "0"))
            made = [newer(id, name=name, shout=name.upper()) for id, name in answer["people"]]
            return Page(made, answer.get("next"))

        async def seed(upstream: Upstream, store: Store) -> SyncPlan:
            await store.store(root("all", name=await run_operation(DESCRIBE, upstream, None)))
            return SyncPlan([Step.for_root(root.ref("all")).load_collection(many)])

        replay = Replay(tmp_path / "t")
        copy = run(crowd(None, version="2", schema=schema, loaders=[people], seeder=seed), replay)
        assert replay.notes == ["recorded with version 1 of crowd; this is 2"]
        shouting = [one | {"shout": one["name"].upper()} for one in recorded.stored["Person"]]
        assert copy.stored == recorded.stored | {"Person": shouting}

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
    def test_the_order_of_calls_does_not_matter(self, tmp_path: Path, order: Sequence[int]) -> None:
        recording = written(tmp_path / "t", *(page(str(n)) for n in range(3)))

        async def main() -> list[str]:
            async with caller_of(recording) as caller:
                found = await asyncio.gather(*(caller.run(LIST, None, Asked(str(n))) for n in order))
            return [answer["people"][0][0] for answer in found]

        assert asyncio.run(main()) == [str(n) for n in order]

    def test_the_nth_run_with_an_input_gets_the_nth_recorded_outcome(self, tmp_path: Path) -> None:
        error: Json = {
            "class": "Offline",
            "code": "upstream.offline",
            "message": "no",
            "hint": "",
            "data": {},
        }
        failed: dict[str, Any] = {"operation": "crowd:crowd:get", "error": error}
        attempts = [
            failed,
            failed | {"attempt": 2},
            NAMED | {"attempt": 3},
            NAMED | {"output": "later"},
            failed,
        ]
        recording = written(tmp_path / "t", *attempts)

        async def main() -> list[Any]:
            found = list[Any]()
            async with caller_of(recording) as caller:
                for _ in range(3):
                    try:
                        found.append(await caller.run(DESCRIBE, None, None))
                    except Offline as offline:
                        found.append(str(offline))
                return [*found, caller.calls]

        assert asyncio.run(main()) == ["everybody", "later", "no", {"crowd:crowd:get": 5}]

    def test_a_replay_does_not_wait(self, tmp_path: Path) -> None:
        quota = {"class": "QuotaExceeded", "code": "upstream.quota", "message": "slow", "hint": ""}
        wait = {"error": quota | {"data": {"retry_after": 600.0}, "retry_after": 600.0}}
        failing = [{"operation": "crowd:person:list", "input": {"page": "0"}} | wait] * 3
        recording = written(tmp_path / "t", NAMED, *failing, page("0"))
        outcome = run(crowd(None), Replay(recording))
        assert outcome.result.status is Status.COMPLETED
        assert outcome.result.requests == {"crowd:person:list": 4}
        assert outcome.result.finished_at - outcome.result.started_at < 5  # type: ignore[operator]  # it ended

    def test_credentials_are_neither_needed_nor_used(self, tmp_path: Path) -> None:
        run(crowd(Upstream(script(1))), Recording(tmp_path / "t"), key="the-real-key")
        for held in (None, "another-key"):
            upstream = Upstream({})
            run(crowd(upstream), Replay(tmp_path / "t"), key=held)
            assert (upstream.key, upstream.asked) == (Secret("***"), [])

    def test_clients_are_made_but_not_started(self, tmp_path: Path) -> None:
        done: list[str] = []

        async def initialise(config: object, credentials: CredentialProvider) -> Installation[Any]:
            async def start() -> None:
                done.append("start")

            async def stop() -> None:
                done.append("stop")

            return Installation(Upstream({}), start=start, stop=stop)

        run(crowd(None, initialise=initialise), Replay(written(tmp_path / "t", NAMED, page("0"))))
        assert done == ["stop"]

    def test_a_request_outside_of_operations_is_refused(self, tmp_path: Path) -> None:
        async def initialise(config: object, credentials: CredentialProvider) -> Installation[Any]:
            client = HttpClient("http://127.0.0.1:9", credentials)
            return Installation(client, stop=client.stop)

        async def seed(client: HttpClient, store: Store) -> SyncPlan:
            await client.get("/who")
            raise AssertionError("a request was answered")

        connector = crowd(None, initialise=initialise, seeder=seed, hosts=["127.0.0.1:9"])
        with pytest.raises(
            RecordingError, match=r"a request to http://127\.0\.0\.1:9 was made outside of any operation"
        ):
            run(connector, Replay(written(tmp_path / "t", NAMED)))

    def test_git_replays_without_its_repository(self, tmp_path: Path) -> None:
        from max_connectors.git import GitConfig, connector

        from tests.git_repositories import git, make

        place = make(tmp_path / "place")
        git(place, "commit", "--quiet", "--allow-empty", "-m", "First")
        git(place, "tag", "-a", "v1", "-m", "one")
        config = GitConfig(str(place))
        recorded = run(connector, Recording(tmp_path / "t"), config=config)
        place.rename(tmp_path / "gone")
        copy = run(connector, Replay(tmp_path / "t"), config=config)
        assert copy.stored == recorded.stored
        assert [len(copy.stored[name]) for name in ("GitCommit", "GitTag", "GitBranch")] == [1, 1, 1]


class TestMismatch:
    """A replay needs an answer that was not recorded."""

    def test_the_error_has_the_input_the_unused_answers_and_the_most_similar_input(
        self, tmp_path: Path
    ) -> None:
        recording = written(tmp_path / "t", NAMED, page("1"), page("2"), page("27"))
        with pytest.raises(ReplayMismatch) as caught:
            asyncio.run(answered(recording, LIST, Asked("28")))
        error = caught.value
        assert (error.operation, error.input) == ("crowd:person:list", '{"page":"28"}')
        assert error.left == 3
        assert error.nearest in ('{"page":"2"}', '{"page":"27"}')
        assert "which was not recorded (unused recorded answers: 3; the most similar input is" in str(error)
        assert error.code == "replay.mismatch"

    def test_an_operation_that_was_not_recorded_has_no_similar_input(self, tmp_path: Path) -> None:
        with pytest.raises(ReplayMismatch) as caught:
            asyncio.run(answered(written(tmp_path / "t", NAMED), LIST, Asked("0")))
        assert (caught.value.left, caught.value.nearest) == (0, None)

    def test_one_run_more_than_recorded_is_a_mismatch(self, tmp_path: Path) -> None:
        recording = written(tmp_path / "t", NAMED, page("0", output={"people": [["1", "x"]], "next": "0"}))
        (failure,) = run(crowd(None), Replay(recording)).result.failures
        assert failure.code == "replay.mismatch"
        assert "more often than it was recorded" in failure.message

    def test_a_mismatch_fails_only_the_task_that_needed_the_answer(self, tmp_path: Path) -> None:
        outcome = run(crowd(None), Replay(written(tmp_path / "t", NAMED, page("0"), page("7"))))
        assert outcome.result.status is Status.COMPLETED
        outcome = run(crowd(None), Replay(written(tmp_path / "t", NAMED)))
        assert [failure.code for failure in outcome.result.failures] == ["replay.mismatch"]

    def test_unused_recorded_answers_are_reported(self, tmp_path: Path) -> None:
        replay = Replay(written(tmp_path / "t", NAMED, page("0"), page("7"), page("8")))
        run(crowd(None), replay)
        assert replay.report() == ["these recorded answers were not used: crowd:person:list (2)"]


HOSTILE = [
    *("$error", "$data", "$enum", "$entity", "$ref", "$dict", "$tuple", "$bytes", "$secret", "$float"),
    *("class", "code", "message", "hint", "data", "fields", "values", "name", "retry_after", "people"),
]


class TestFiles:
    """Which files can be replayed."""

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "is not a recording, or it is empty"),
            ("{}\n", "is not a recording"),
            ("hello\n", "is not a recording"),
            ('{"recording": 99}\n', "it has a newer format"),
        ],
    )
    def test_a_file_that_is_not_a_recording_is_refused(self, tmp_path: Path, text: str, problem: str) -> None:
        (tmp_path / "t").write_text(text)
        with pytest.raises(RecordingError, match=problem):
            Replay(tmp_path / "t")

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RecordingError, match="No such file"):
            Replay(tmp_path / "t")

    def test_a_damaged_line_is_named(self, tmp_path: Path) -> None:
        recording = written(tmp_path / "t", NAMED)
        recording.write_text(recording.read_text() + "{}\n")
        with pytest.raises(RecordingError, match="line 3: this is not an attempt of an operation"):
            run(crowd(None), Replay(recording))

    @pytest.mark.parametrize("format", [0, -1, True, 1.5, "1", None, [], {"a": 1}])
    def test_an_unknown_format_is_refused(self, tmp_path: Path, format: Json) -> None:
        recording = written(tmp_path / "t", NAMED)
        text = recording.read_text().replace('"recording": 1', f'"recording": {json.dumps(format)}')
        recording.write_text(text)
        with pytest.raises(RecordingError, match="is not a recording"):
            Replay(recording)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("connector", 7),
            ("version", None),
            ("installation", {"a": 1}),
            ("recorded_at", 7),
            ("config", ["a"]),
            ("credentials", "key"),
            ("credentials", [1]),
            ("began_empty", "yes"),
            ("options", []),
            ("options", {"full": "yes"}),
            ("options", {"only": 5}),
            ("options", {"only": [5]}),
            ("options", {"if_stale": "soon"}),
            ("options", {"if_stale": 1e999}),
        ],
    )
    def test_an_invalid_header_is_refused_with_the_part_that_is_wrong(
        self, tmp_path: Path, name: str, value: Json
    ) -> None:
        with pytest.raises(RecordingError, match=f"the first line has an invalid {name}"):
            Replay(written(tmp_path / "t", NAMED, **{name: value}))

    def test_a_folder_a_pipe_and_a_missing_file_are_no_recordings(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe", tmp_path / "none"):
            with pytest.raises(RecordingError, match=r"it is not a file|No such file"):
                Replay(path)

    @pytest.mark.parametrize(
        "line",
        [
            "[" * 100_000,
            '{"operation": "a:b:c", "input": ' + "[" * 5_000 + "]" * 5_000 + ', "attempt": 1, "output": 1}',
            "[1]",
            "7",
            '{"operation": 7, "input": null, "attempt": 1, "output": 1}',
            '{"operation": "a:b:c", "attempt": 1, "output": 1}',
            '{"operation": "a:b:c", "input": null, "attempt": "1", "output": 1}',
            '{"operation": "a:b:c", "input": null, "attempt": true, "output": 1}',
            '{"operation": "a:b:c", "input": null, "attempt": 0, "output": 1}',
            '{"operation": "a:b:c", "input": null, "attempt": 99999999, "output": 1}',
            '{"operation": "a:b:c", "input": null, "attempt": 1}',
            '{"operation": "a:b:c", "input": ' + "9" * 5_000 + ', "attempt": 1, "output": 1}',
            "\x00\x01\x02",
        ],
        ids=lambda line: line[:70],
    )
    def test_a_hostile_line_is_named_and_ends_the_replay(self, tmp_path: Path, line: str) -> None:
        recording = written(tmp_path / "t", NAMED)
        recording.write_text(f"{recording.read_text()}{line}\n")
        with pytest.raises(RecordingError, match="line 3: this is not an attempt of an operation"):
            run(crowd(None), Replay(recording))

    def test_a_line_that_is_too_long_is_not_read_to_its_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recording = written(tmp_path / "t", NAMED, page("0" * 500))
        monkeypatch.setattr("max.upstream.recording_file.LONGEST_LINE", 400)
        with pytest.raises(RecordingError, match="line 3: it is longer than 400 bytes"):
            run(crowd(None), Replay(recording))
        monkeypatch.setattr("max.upstream.recording_file.LONGEST_LINE", 100)
        with pytest.raises(RecordingError, match="line 1: it is longer than 100 bytes"):
            Replay(recording)

    @given(
        st.sampled_from(["output", "error"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(HOSTILE) | st.text(max_size=4), inner, max_size=4)
            ),
            max_leaves=8,
        ),
    )
    @settings(max_examples=150)
    def test_whatever_an_outcome_holds_ends_as_a_result_or_an_error_of_ours(
        self, key: str, outcome: Json
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            attempt = {"operation": "crowd:person:list", "input": {"page": "0"}, key: outcome}
            result = run(crowd(None), Replay(written(Path(folder) / "t", NAMED, attempt))).result
        assert result.status in (Status.COMPLETED, Status.PARTIAL, Status.FAILED)

    def test_a_recording_of_another_connector_is_refused(self, tmp_path: Path) -> None:
        recording = written(tmp_path / "t", NAMED, connector="club")
        with pytest.raises(RecordingError, match="made with club, not with crowd"):
            run(crowd(None), Replay(recording))

    def test_recordings_of_different_installations_are_not_mixed(self, tmp_path: Path) -> None:
        one, two = written(tmp_path / "1", NAMED), written(tmp_path / "2", NAMED, installation="other")
        with pytest.raises(RecordingError, match="different installations"):
            Replay(one, two)

    def test_the_recording_of_a_killed_sync_replays_together_with_its_continuation(
        self, tmp_path: Path
    ) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        with subprocess.Popen(
            [sys.executable, "-m", "tests.recording", str(tmp_path / "db"), str(first)], cwd=ROOT
        ) as child:
            assert child.wait() == -signal.SIGKILL
        assert [one["input"]["page"] for one in entries(first)[1:]] == ["0", "1", "2"]
        continued = run(crowd(Upstream(script(6))), Recording(second), database=tmp_path / "db")
        assert continued.result.resumed
        assert json.loads(second.read_text().splitlines()[0])["began_empty"] is False
        alone = run(crowd(None), Replay(first))
        assert [failure.code for failure in alone.result.failures] == ["replay.mismatch"]
        replay = Replay(second, first)
        both = run(crowd(None), replay)
        assert both.stored == continued.stored
        assert (both.result.status, replay.notes) == (Status.COMPLETED, [])


class TestProvenance:
    """Replayed rows are not mixed with synced rows."""

    def test_a_replay_into_synced_rows_is_refused(self, tmp_path: Path) -> None:
        run(crowd(Upstream(script(1))), Recording(tmp_path / "t"), database=tmp_path / "db")
        with pytest.raises(RecordingError, match="holds synced rows; a replay must not mix with them"):
            run(crowd(None), Replay(tmp_path / "t"), database=tmp_path / "db")

    @pytest.mark.parametrize("recorded", [False, True])
    def test_a_sync_into_a_replay_is_refused(self, tmp_path: Path, recorded: bool) -> None:
        recording = written(tmp_path / "t", NAMED, page("0"))
        run(crowd(None), Replay(recording), database=tmp_path / "db")
        upstream = Upstream(script(1))
        other = Recording(tmp_path / "other") if recorded else None
        with pytest.raises(
            RecordingError, match="holds the replay of a recording that was made at 2026-01-31"
        ):
            run(crowd(upstream), other, database=tmp_path / "db")
        assert upstream.asked == []

    def test_a_replay_of_another_installation_is_refused(self, tmp_path: Path) -> None:
        run(crowd(None), Replay(written(tmp_path / "1", NAMED, page("0"))), database=tmp_path / "db")
        other = written(tmp_path / "2", NAMED, page("0"), installation="other")
        with pytest.raises(RecordingError, match="holds another installation's replay"):
            run(crowd(None), Replay(other), database=tmp_path / "db")

    def test_a_recording_that_began_with_rows_is_replayed_onto_rows(self, tmp_path: Path) -> None:
        first = written(tmp_path / "1", NAMED, page("0"))
        answer = {"people": [["9", "Nine"]]}
        later = {"began_empty": False, "recorded_at": "2026-02-01T00:00:00Z"}
        second = written(tmp_path / "2", NAMED, page("0", output=answer), **later)
        run(crowd(None), Replay(first), database=tmp_path / "db")
        replay = Replay(second)
        outcome = run(crowd(None), replay, database=tmp_path / "db")
        assert {one["id"] for one in outcome.stored["Person"]} >= {"9"}
        assert replay.notes == ["the recorded sync began with data that the recording does not hold"]


class TestProjects:
    """Recordings through a project."""

    def test_a_second_replay_replaces_the_first(self, tmp_path: Path) -> None:
        async def main() -> None:
            recording = tmp_path / "t"
            project = Project(ProjectFolder.init(tmp_path))
            project.manager.add("acme", None, {"users": 3, "tasks": 2}, {}, now=0.0)
            project.manager.add("acme", "copy", {}, {}, now=0.0)
            async with project:
                runtime = await project.runtime("acme", "default", recording=Recording(recording))
                recorded = await (await runtime.sync()).completion()
            for _ in range(2):
                async with project:
                    runtime = await project.runtime("acme", "copy", recording=Replay(recording))
                    replayed = await (await runtime.sync()).completion()
                    assert (replayed.counts, replayed.requests) == (recorded.counts, recorded.requests)

        asyncio.run(main())

    def test_a_running_runtime_takes_no_recording(self, tmp_path: Path) -> None:
        async def main() -> None:
            project = Project(ProjectFolder.init(tmp_path))
            project.manager.add("acme", None, {}, {}, now=0.0)
            async with project:
                recording = Recording(tmp_path / "t")
                runtime = await project.runtime("acme", "default", recording=recording)
                assert await project.runtime("acme", "default", recording=recording) is runtime
                assert await project.runtime("acme", "default") is runtime
                with pytest.raises(Exception, match="in use here without that recording"):
                    await project.runtime("acme", "default", recording=Recording(tmp_path / "other"))

        asyncio.run(main())
