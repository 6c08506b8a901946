"""GitHub's connector held against GitHub's own description of its API.

The description is not part of this repository: it is ``api.github.com.json`` of the npm package
``@octokit/openapi``.  The variable MAX_GITHUB_DESCRIPTION names the file.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from max import Status
from tests.github_copy import Copy
from tests.github_data import change
from tests.github_fake import Fake, Seen, served

FILE = os.environ.get("MAX_GITHUB_DESCRIPTION", "")
pytestmark = pytest.mark.skipif(
    not FILE, reason="MAX_GITHUB_DESCRIPTION does not name GitHub's description (api.github.com.json)"
)
BY_ID = re.compile(r"^/repositories/\d+")  # where links lead, which no description has


@cache
def description() -> Any:
    """The description."""
    return json.loads(Path(FILE).read_text(encoding="utf-8"))


def resolved(part: Any) -> Any:
    """A part of the description, or what it refers to."""
    while isinstance(part, Mapping) and "$ref" in part:
        found = description()
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        part = found
    return part


def standard(schema: Any) -> Any:
    """A schema of OpenAPI 3.0 as JSON Schema: null is a type of its own there."""
    if isinstance(schema, list):
        return [standard(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: standard(value) for name, value in schema.items() if name not in ("example", "nullable")}
    if "oneOf" in found and "type" not in found:  # kinds of users overlap in the description
        found["anyOf"] = found.pop("oneOf")
    if schema.get("nullable") is True:
        found.pop("enum", None)
        return {"anyOf": [found, {"type": "null"}]}
    return found


@cache
def schemas() -> Any:
    """All schemas of the description, for a validator."""
    return standard({"components": {"schemas": description()["components"]["schemas"]}})


def operation_of(seen: Seen) -> tuple[str, Any]:
    """The path of the description that a request means, and its operation."""
    path = BY_ID.sub("/repos/o/r", urlsplit(seen.target).path)
    found = []
    for template, methods in description()["paths"].items():
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and seen.method.lower() in methods:
            found.append((template.count("{"), template, methods[seen.method.lower()]))
    assert found, f"no operation for {seen.method} {path}"
    _, template, operation = min(found, key=lambda one: one[:2])
    return template, operation


def problems_of(seen: Seen) -> Iterator[str]:
    """What the description says against a request, and against its answer."""
    validator_of = importlib.import_module("jsonschema").Draft202012Validator
    template, operation = operation_of(seen)
    known = {
        one["name"]: one for one in map(resolved, operation.get("parameters", ())) if one["in"] == "query"
    }
    for name, text in parse_qsl(urlsplit(seen.target).query, keep_blank_values=True):
        if name not in known:
            yield f"{template}: no parameter {name}"
            continue
        schema = resolved(known[name]["schema"])
        value = int(text) if schema.get("type") == "integer" and text.isdecimal() else text
        yield from (
            f"{template}: {name}={text}: {one.message}"
            for one in validator_of(standard(schema)).iter_errors(value)
        )
    yield from (f"{template}: {name} is required" for name, one in known.items() if one.get("required"))
    answer = operation["responses"].get(str(seen.status))
    if seen.status in (301, 304, 401, 409):
        return
    if answer is None:
        yield f"{template}: no answer {seen.status}"
    elif "content" in (answer := resolved(answer)):
        schema = next(iter(answer["content"].values()))["schema"]
        validator = validator_of({**standard(schema), **schemas()})
        for error in validator.iter_errors(seen.answer):
            yield f"{template}: {'/'.join(map(str, error.absolute_path))}: {error.message[:150]}"


@pytest.fixture
def fake() -> Iterator[Fake]:
    with served() as fake:
        yield fake


def test_every_request_and_every_answer_of_the_fake_fits_the_description(fake: Fake, tmp_path: Path) -> None:
    copy = Copy(tmp_path, fake)
    assert copy.sync().status is Status.COMPLETED
    change(fake)
    assert copy.sync().status is Status.COMPLETED
    fake.rename(next(iter(fake.repos.values())), "octo/renamed")
    copy.values["repositories"] = ["octo/big", "ada/plain"]
    assert copy.sync(allow_removals=True).failures == ()
    problems = {one for seen in fake.requests() for one in problems_of(seen)}
    assert problems == set()


def test_a_wrong_request_would_be_noticed(fake: Fake) -> None:
    seen = Seen("GET", "/repos/octo/big/issues?state=everything&per_pag=100", {}, 200, [{"id": "no number"}])
    problems = list(problems_of(seen))
    assert len([one for one in problems if "per_pag" in one or "everything" in one]) == 2
    assert any("no number" in one for one in problems)
