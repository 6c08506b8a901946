"""Hooks over HTTP: what a service is answered, with a project and a connector on the disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from max.errors import DaemonBusy, LoaderFault, StorageLocked
from max.model.hooks import HookReceipt, HookState
from max.project import Project
from max.projects.audit import audit_rows
from max.serve.hooks import AT_ONCE, Hooks
from max.serve.methods import Methods
from tests.hooked import KEY, WEBHOOK
from tests.serve.http_face import face

CONNECTOR = """
from __future__ import annotations

from tests.hooked import Service, board

SERVICE = Service()
connector = board(SERVICE)
"""
BOARD = "board:default"
KINDS = ["hook.received"]


@asynccontextmanager
async def project_in(folder: Path) -> AsyncIterator[Project[Any]]:
    async with Project.open(folder, create=True, trusted=True) as project:
        place = folder / "connectors"
        if not place.exists():
            place.mkdir()
            (place / "max_board.py").write_text(CONNECTOR)
            await project.connect("board", secrets={"webhook_secret": KEY})
        yield project


def using(folder: Path, body: Callable[[Project[Any], Hooks], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with project_in(folder) as project:
            await (await (await project.runtime(BOARD)).sync()).completion()
            hooks = Hooks(Methods(project))
            await hooks.start()
            assert hooks._left is not None
            await hooks._left
            try:
                return await body(project, hooks)
            finally:
                await hooks.stop()

    return asyncio.run(main())


def request(payload: Any, **headers: str) -> tuple[dict[str, str], bytes]:
    import time

    body = json.dumps({**payload, "sent": time.time()}).encode()
    signature = WEBHOOK.sign(KEY, body)
    return {"content-type": "application/json", "x-board-signature": signature, **headers}, body


def test_a_signed_hook_is_answered_200_when_it_is_on_the_disk(tmp_path: Path) -> None:
    async def body(project: Project[Any], hooks: Hooks) -> None:
        answer = await hooks.receive(BOARD, *request({"note": "1"}))
        assert (answer.status, answer.data) == (200, {"state": "stored"})
        (event,) = [one async for one in hooks._methods.events(BOARD, "beginning", kinds=KINDS, once=True)]
        assert event.facts["fetches"] == ["Card:1: load fields note"]
        await (await project.runtime(BOARD)).hooks_done()
        with project.read(BOARD) as reader:
            assert not reader.has_hooks()

    using(tmp_path, body)


def test_a_forger_learns_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    async def body(project: Project[Any], hooks: Hooks) -> None:
        headers, content = request({"note": "1"})
        wrong = {**headers, "x-board-signature": "sha256=" + "0" * 64}
        before = len(audit_rows(project.manager))
        answers = {
            (await hooks.receive(BOARD, given, sent)).status: str(given) for given, sent in [(wrong, content)]
        }
        assert [*answers] == [401]
        assert (await hooks.receive("nowhere", headers, content)).status == 404
        refused = await hooks.receive(BOARD, wrong, content)
        assert KEY not in str(refused)
        assert "env:" not in str(refused)
        with project.read(BOARD) as reader:
            assert not reader.has_hooks()
        rows = audit_rows(project.manager)[before:]
        assert [row.action for row in rows if row.action != "credentials.read"] == []

    using(tmp_path, body)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_of_another_type_is_refused(tmp_path: Path, kind: str) -> None:
    async def body(project: Project[Any], hooks: Hooks) -> None:
        headers, content = request({"note": "1"}, **{"content-type": kind})
        assert (await hooks.receive(BOARD, headers, content)).status == 415

    using(tmp_path, body)


def test_a_hook_leaves_one_row_in_the_audit_and_its_sync_another(tmp_path: Path) -> None:
    async def body(project: Project[Any], hooks: Hooks) -> None:
        before = len(audit_rows(project.manager))
        await hooks.receive(BOARD, *request({"note": "1"}))
        await (await project.runtime(BOARD)).hooks_done()
        rows = audit_rows(project.manager)[before:]
        assert [(row.action, row.via) for row in rows if row.action != "credentials.read"] == [
            ("receive_hook", "hook"),
            ("sync", "hook"),
        ]

    using(tmp_path, body)


class Full(Methods):
    """Methods that cannot take a hook."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.released = error, asyncio.Event()

    async def receive_hook(self, *given: Any, **named: Any) -> HookReceipt:
        if self.error is not None:
            raise self.error
        await self.released.wait()
        return HookReceipt(HookState.STORED, 1)


@pytest.mark.parametrize(
    ("error", "status", "after"),
    [
        (DaemonBusy("full", retry_after=30.5), 503, "31"),
        (StorageLocked("locked"), 503, "60"),
        (LoaderFault("bug"), 500, None),
    ],
)
def test_what_cannot_be_stored_is_not_answered_200(error: Exception, status: int, after: str | None) -> None:
    async def main() -> None:
        answer = await Hooks(Full(error)).receive(BOARD, *request({}))
        assert (answer.status, dict(answer.headers).get("retry-after")) == (status, after)

    asyncio.run(main())


def test_only_so_many_hooks_are_taken_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        methods = Full()
        hooks = Hooks(methods)
        taking = [asyncio.create_task(hooks.receive(BOARD, *request({}))) for _ in range(AT_ONCE)]
        await asyncio.sleep(0)
        assert (await hooks.receive(BOARD, *request({}))).status == 503
        methods.released.set()
        assert {answer.status for answer in await asyncio.gather(*taking)} == {200}
        assert (await hooks.receive(BOARD, *request({}))).status == 200

    asyncio.run(main())


def test_what_a_process_has_left_is_fetched_when_the_next_one_starts(tmp_path: Path) -> None:
    async def left(project: Project[Any], hooks: Hooks) -> None:
        runtime = await project.runtime(BOARD)
        runtime._hooks.wake = lambda: None
        await hooks.receive(BOARD, *request({"note": "1"}))

    async def again(project: Project[Any], hooks: Hooks) -> None:
        await (await project.runtime(BOARD)).hooks_done()
        with project.read(BOARD) as reader:
            assert not reader.has_hooks()

    using(tmp_path, left)
    using(tmp_path, again)


def test_a_hook_goes_the_whole_way_over_http_without_a_token(tmp_path: Path) -> None:
    async def main() -> list[int]:
        async with project_in(tmp_path) as project:
            await (await (await project.runtime(BOARD)).sync()).completion()
        async with face(tmp_path) as one, httpx2.AsyncClient(base_url=one.server.address) as service:
            headers, body = request({"note": "1"})
            forged = {**headers, "x-board-signature": "sha256=00"}
            sent = [headers, headers, forged]
            return [
                (await service.post(f"/hooks/{BOARD}", headers=given, content=body)).status_code
                for given in sent
            ]

    assert asyncio.run(main()) == [200, 200, 401]


def test_a_face_that_only_reads_takes_no_hooks(tmp_path: Path) -> None:
    async def main() -> int:
        async with project_in(tmp_path):
            pass
        async with face(tmp_path, read_only=True) as one:
            headers, body = request({"note": "1"})
            return (await one.client.post(f"/hooks/{BOARD}", headers=headers, content=body)).status_code

    assert asyncio.run(main()) == 404
