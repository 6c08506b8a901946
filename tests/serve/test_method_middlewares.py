"""Middlewares around the methods of a project: what they see, of calls, of streams and of refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from max import MethodCall
from max.errors import NotFound, PermissionDenied, UnknownName
from max.model.actor import acting_as
from max.model.tasks import Status
from max.project import Project
from max.serve.methods import Methods

ACME = "acme:default"
Seen = tuple[str, str, str]


def using(
    folder: Path, body: Callable[[Methods], Awaitable[None]], refused: tuple[str, ...] = ()
) -> list[Seen]:
    """What two middlewares saw of what a body asked; the inner one refuses some methods."""
    seen: list[Seen] = []

    def watching(number: str) -> Any:
        @asynccontextmanager
        async def watch(call: MethodCall) -> AsyncIterator[None]:
            seen.append((f"before {number}", call.method, call.by.via))
            if number == "2" and call.method in refused:
                raise PermissionDenied("not here")
            try:
                yield
            except BaseException as error:
                seen.append((f"after {number}", call.method, type(error).__name__))
                raise
            seen.append((f"after {number}", call.method, ""))

        return watch

    async def main() -> None:
        async with Project.open(folder, create=True) as project:
            await project.connect("acme", config={"users": 2, "projects": 1, "tasks": 2, "files": 1})
            with acting_as("http:ci"):
                await body(Methods(project, middlewares=[watching("1"), watching("2")]))

    asyncio.run(main())
    return seen


def both(method: str, outcome: str = "") -> list[Seen]:
    before = [(f"before {n}", method, "http:ci") for n in "12"]
    return [*before, *[(f"after {n}", method, outcome) for n in "21"]]


def test_p25_a_method_is_surrounded_in_order_and_in_reverse(tmp_path: Path) -> None:
    async def body(methods: Methods) -> None:
        await methods.installations()
        await methods.answer("problems", {})

    assert using(tmp_path, body) == [*both("installations"), *both("problems")]


def test_an_error_of_a_method_is_seen_by_all_and_raised(tmp_path: Path) -> None:
    async def body(methods: Methods) -> None:
        with pytest.raises((UnknownName, NotFound)):
            await methods.installation("nowhere")

    assert using(tmp_path, body) == both("installation", "UnknownName")


def test_a_stream_is_surrounded_from_its_first_part_to_its_end(tmp_path: Path) -> None:
    async def body(methods: Methods) -> None:
        stream = methods.sync(ACME)
        assert (await stream.result()).status is Status.COMPLETED

    assert using(tmp_path, body) == both("sync")


def test_a_stream_that_its_reader_leaves_is_left_by_every_middleware(tmp_path: Path) -> None:
    async def body(methods: Methods) -> None:
        stream = methods.sync(ACME)
        await anext(stream)
        await stream.aclose()

    assert using(tmp_path, body) == both("sync", "GeneratorExit")


def test_a_refused_method_changes_nothing(tmp_path: Path) -> None:
    async def body(methods: Methods) -> None:
        with pytest.raises(PermissionDenied):
            await methods.disconnect(ACME)
        assert [str(one) for one in await methods.installations()] == [ACME]

    seen = using(tmp_path, body, refused=("disconnect",))
    first, second, after = [one for one in seen if one[1] == "disconnect"]
    assert (first[0], second[0], after) == (
        "before 1",
        "before 2",
        ("after 1", "disconnect", "PermissionDenied"),
    )


def test_the_http_face_of_a_project_takes_middlewares(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    @asynccontextmanager
    async def watch(call: MethodCall) -> AsyncIterator[None]:
        seen.append((call.method, call.by.via))
        yield

    async def main() -> None:
        token = "a-token-that-is-long-enough"
        async with Project.open(tmp_path, create=True) as project:
            app = project.serve(token={"ci": token}, middlewares=[watch])
            transport = httpx2.ASGITransport(app)
            headers = {"authorization": f"Bearer {token}"}
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
                answer = await client.post("/v1/installations", json={}, headers=headers)
        assert answer.json() == {"result": []}

    asyncio.run(main())
    assert seen == [("installations", "http:ci")]
