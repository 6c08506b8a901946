"""``max schema`` lists what a connector would use, and stored entities as Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from max.connecting import Connector, Credential, Limit, Operation, Retry
from max.model.schema import Schema
from tests.command_line import Cli, project_at
from tests.sample import SampleConfig, SampleRoot, Thing, initialise, list_things, seed

WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=4), max_size=4, unique=True)


async def call(context: SampleConfig, input: None) -> None:
    """Nothing is called."""


def names(found: Sequence[Any]) -> list[str]:
    return [one["name"] for one in found]


@settings(deadline=None, max_examples=60)
@given(WORDS, WORDS, WORDS, st.integers(1, 9))
def test_p2_a_manifest_lists_exactly_what_a_connector_declares(
    verbs: list[str], hosts: list[str], credentials: list[str], number: int
) -> None:
    limits = [Limit(f"limit{n}", concurrency=n + number, calls=9 * n or None) for n in range(2)]
    operations: list[Any] = [
        Operation(
            f"sample:x:{verb}",
            call,
            limit=limits[n % 2],
            points=1 + n % 2,
            retry=Retry(attempts=number),
            deadline=n + 1.0,
        )
        for n, verb in enumerate(verbs)
    ]
    connector = Connector(
        name="sample",
        description="Things.",
        schema=Schema([SampleRoot, Thing], roots=[SampleRoot]),
        loaders=[list_things],
        seeder=seed,
        initialise=initialise,
        config=SampleConfig,
        credentials=[Credential(name) for name in credentials],
        operations=operations,
        hosts=[f"{host}.example.com" for host in hosts],
    )
    assert connector.manifest() == {
        "connector": "sample",
        "version": "1",
        "loaders": [
            {
                "name": "list_things",
                "kind": "collection",
                "lists": "SampleRoot.things",
                "brings": ["Thing.title"],
            }
        ],
        "operations": [
            {
                "name": f"sample:x:{verb}",
                "limit": f"limit{n % 2}",
                "points": 1 + n % 2,
                "attempts": number,
                "deadline": n + 1.0,
            }
            for n, verb in enumerate(verbs)
        ],
        "limits": [
            {"name": f"limit{n}", "concurrency": n + number, "calls": 9 * n or None, "per": 1.0}
            for n in range(min(len(verbs), 2))
        ],
        "hosts": [f"{host}.example.com" for host in hosts],
        "credentials": credentials,
        "webhook": None,
    }


def test_p2_max_schema_lists_exactly_what_the_registry_would_use(cli: Cli, tmp_path: Path) -> None:
    cli("init")
    cli("connect", "acme", "--no-input")
    used = project_at(tmp_path).registry.resolve("acme")
    found = cli("schema", "acme", "--connector", "-o", "json").data
    entities = {one["name"]: {*names(one["fields"]), *names(one["collections"])} for one in found["entities"]}
    assert entities == {
        name: {"id", *one.types(), *one.children()} for name, one in used.schema.entities.items()
    }
    assert names(found["loaders"]) == [one.name for one in used.loaders]
    assert names(found["operations"]) == [one.name for one in used.operations]
    assert set(names(found["limits"])) == {one.limit.name for one in used.operations}
    assert (found["hosts"], found["credentials"]) == ([*used.hosts], [one.name for one in used.credentials])
    named: list[Any] = [*used.loaders, *used.operations]
    text = cli("schema", "acme", "--connector").out
    assert all(f"  {one.name}" in text for one in named)
    assert "operations" not in cli("schema", "acme", "-o", "json").data


def test_stored_entities_are_printed_as_a_module(cli: Cli) -> None:
    cli("sync", "acme:default")
    source = cli("schema", "acme", "--python").out
    compile(source, "acme_data.py", "exec")
    assert (
        "    assignee: Field[Ref[AcmeUser] | None] = Field('the person who does it', brief=True)\n" in source
    )
    assert cli("schema", "acme", "--python", "-o", "json").data["python"] == source.removesuffix("\n") + "\n"
