"""What is logged about calls to a service, and what never is."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from typing import Any

import pytest

from max.connecting import BearerAuth, HttpClient, Limit, Operation, Retry, Secret, UpstreamError
from max.testing import credentials_for
from max.upstream.operations import OperationRunner
from tests.answering import Upstream, answer

TOKEN = "token-1234567890"


async def fetch(client: HttpClient, path: str) -> Any:
    return (await client.request("POST", path, json={"note": "private words"})).json()


def call(*answers: bytes, path: str = "/things?cursor=hidden") -> None:
    """Call an operation once, with a token."""
    operation = Operation("test:thing:list", fetch, limit=Limit("test:api"), retry=Retry(base=0.01))

    async def main() -> None:
        async with Upstream(*answers).serving() as url:
            credentials = credentials_for(url, token=TOKEN)
            async with HttpClient(url, credentials, auth=BearerAuth(Secret(TOKEN))) as client:
                await OperationRunner(jitter=lambda: 0.0).run(operation, client, path)

    asyncio.run(main())


def test_each_request_is_one_line_with_operation_path_status_time_and_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "max.http")
    call(answer(503), answer(200))
    lines = [(one.name, one.levelname, one.getMessage()) for one in caplog.records if one.name == "max.http"]
    assert [(name, level) for name, level, _ in lines] == [
        ("max.http", "DEBUG"),
        ("max.http", "WARNING"),
        ("max.http", "DEBUG"),
    ]
    pattern = r"test:thing:list: POST 127\.0\.0\.1:\d+/things: {} in \d+ ms, attempt {}"
    assert re.fullmatch(pattern.format(503, 1), lines[0][2])
    assert lines[1][2] == "test:thing:list failed (upstream.broken); next attempt in 0.01 s"
    assert re.fullmatch(pattern.format(200, 2), lines[2][2])


def test_a_wait_that_the_service_asks_for_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UpstreamError):
        call(answer(429, retry_after="600"))
    assert [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "max.http"] == [
        ("WARNING", "test:api: the service asks to wait 600.0 s")
    ]


def test_no_line_has_a_secret_a_header_a_query_or_a_body(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "max")
    call(answer(500, f'{{"error": "bad {TOKEN}"}}'.encode()), answer(200), path=f"/{TOKEN}/x?cursor=hidden")
    text = "\n".join(one.getMessage() for one in caplog.records if one.name.startswith("max"))
    assert "/***/x" in text
    assert not [word for word in (TOKEN, "Bearer", "hidden", "private words", "bad ") if word in text]


def test_nothing_is_printed_unless_the_program_sets_up_logging() -> None:
    program = "from max.core import logger; logger('http').warning('printed')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
