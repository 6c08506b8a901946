"""The fake of HubSpot for tests: an account with records of every kind, and what a copy must hold.

The fake is not part of this repository.  It is used when it is found in ``../shared/apis``, and
holds every request against HubSpot's own description.  Expected rows are read from the fake's
state, not through the connector's code.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from max_connectors import hubspot_api, hubspot_links
from max_connectors.hubspot import connector
from max_connectors.hubspot_api import KINDS, HubSpotConfig
from max_connectors.hubspot_entities import HubSpotAssociation, HubSpotOwner

from max import CredentialProvider, Entity, InstallationInfo, Json, Status, SyncResult
from max.core import SyncOptions
from max.installations.config import read_config
from max.runtime import InstallationRuntime
from max.storage.sqlite import SqliteDatabase
from max.testing.clock import FakeClock, real_time
from max.upstream.credentials import MemoryCredentials
from max.upstream.operations import Call, Limits
from max.upstream.recording import Recording
from max.upstream.replay import Replay

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
APIS = Path(__file__).resolve().parents[2] / "shared" / "apis"
START = 1_735_689_600  # 2025-01-01: the account's first moment
NOW = START + 90 * 86_400  # when tests begin
TOKEN = "pat-na1-fake"  # that the fake accepts

# What the account has of its own: name, type, field type, label.
OWN: Mapping[str, list[tuple[str, str, str, str]]] = {
    "contacts": [
        ("shoe_size", "number", "number", "Shoe size"),
        ("vip", "bool", "booleancheckbox", "Very important"),
        ("born_on", "date", "date", "Birthday"),
        ("interests", "enumeration", "checkbox", "Interests"),
        ("email_2", "string", "text", "Second address"),
        ("name", "string", "text", "Nickname"),
    ],
    "deals": [("renews_at", "datetime", "date", "Renews at")],
}
# Of HubSpot's own properties, those of the kinds that the fake knows none of.
STANDARD: Mapping[str, Mapping[str, str]] = {
    "products": {"name": "string", "hs_sku": "string", "price": "number", "description": "string"},
    "line_items": {"name": "string", "quantity": "number", "hs_product_id": "string", "amount": "number"},
    "notes": {"hs_note_body": "string", "hs_timestamp": "datetime"},
    "tasks": {"hs_task_subject": "string", "hs_task_status": "enumeration", "hs_timestamp": "datetime"},
    "calls": {"hs_call_title": "string", "hs_call_duration": "number", "hs_timestamp": "datetime"},
    "meetings": {
        "hs_meeting_title": "string",
        "hs_meeting_start_time": "datetime",
        "hs_timestamp": "datetime",
    },
    "emails": {"hs_email_subject": "string", "hs_email_text": "string", "hs_timestamp": "datetime"},
}


def why_not() -> str:
    """Why the fake is not available; empty when it is."""
    if not APIS.is_dir():
        return f"the fake of HubSpot is not beside the repository ({APIS.name} in shared)"
    missing = [
        name for name in ("graphql", "jsonschema", "referencing") if not importlib.util.find_spec(name)
    ]
    return f"the fake of HubSpot needs {', '.join(missing)}" if missing else ""


needs_fake = pytest.mark.skipif(bool(why_not()), reason=why_not() or "available")


def fake_module(name: str = "hubspot") -> Any:
    """A module of the fakes, without types."""
    if str(APIS) not in sys.path:
        sys.path.append(str(APIS))
    return importlib.import_module(f"apifakes.{name}")


def account_class() -> Any:
    """The fake's class with what an account has of its own: properties, and labels of associations."""
    fakes = fake_module()
    base = {"hs_object_id": "number", "createdate": "datetime", "hs_lastmodifieddate": "datetime"}
    for kind, standard in STANDARD.items():
        fakes.PROPERTIES[kind] = {**base, **standard, "hubspot_owner_id": "enumeration"}

    class Account(fakes.HubSpot):  # type: ignore[misc, name-defined]  # the fakes have no types
        """An account with properties, associations and scopes of its own."""

        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            self.own: dict[str, list[tuple[str, str, str, str]]] = {k: list(v) for k, v in OWN.items()}
            self.labels: dict[tuple[str, str, str, str], list[Json]] = {}
            self.forbidden: set[str] = set()  # kinds that the credential may not read

        def properties_all(self, request: Any, params: Any, body: Any) -> Any:
            """The properties with those of the account."""
            kind = self.type(params["objectType"])
            schema = self.spec.resolve(self.spec.match("GET", request.path)[0].answers["200"])
            item = schema["properties"]["results"]["items"]
            known = [(n, t, "text", n, True) for n, t in fakes.PROPERTIES.get(kind, {}).items()]
            known += [(*one, False) for one in self.own.get(kind, ())]
            facts = [
                {
                    "name": name,
                    "type": holds,
                    "fieldType": field,
                    "label": label,
                    "description": f"What {label} says" if not defined else "",
                    "hubspotDefined": defined,
                    "groupName": "info",
                    "options": [],
                }
                for name, holds, field, label, defined in known
            ]
            return {"results": [self.spec.sample(item, one) for one in facts]}

        def link_list(self, kind: str, id: str, other: str) -> list[Json]:
            """The associations, with their labels."""
            found: list[Json] = super().link_list(kind, id, other)
            for one in found:
                more = self.labels.get((kind, id, other, one["toObjectId"]), [])
                one["associationTypes"] = [*one["associationTypes"], *more]
            return found

        def authenticate(self, request: Any) -> Any:
            """A token of an app that lacks some scopes."""
            refused = super().authenticate(request)
            lacks = [kind for kind in self.forbidden if f"/{kind}" in request.path]
            if refused is None and lacks:
                return self.failed(
                    403, "MISSING_SCOPES", f"This app hasn't been granted crm.objects.{lacks[0]}.read"
                )
            return refused

        def unlink(self, a: str, a_id: str, b: str, b_id: str) -> None:
            """Take an association away."""
            self.links[a, a_id].discard(f"{b}:{b_id}")
            self.links[b, b_id].discard(f"{a}:{a_id}")

    return Account


@contextmanager
def account(clock: Any = None, *, seed: Mapping[str, int] | None = None, **limits: Any) -> Iterator[Any]:
    """A served account with records of every kind; a request that breaks the description fails at the end."""
    clock = clock or fake_module("core").Clock(start=float(NOW))
    generous = {"per_10s": 100_000, "search_per_s": 100_000, **limits}
    counts = {"contacts": 25, "companies": 4, "deals": 6, "tickets": 3, **(seed or {})}
    fake = account_class()(clock, **generous).seed(start=START, **counts)
    furnish(fake)
    with fake:
        fake._http.socket.listen(64)  # the default queue of five delays concurrent connections
        fake._http.handle_error = lambda *_: None  # a killed client closes no connection
        yield fake


def furnish(fake: Any) -> None:
    """Records of the kinds that the fake's seed leaves out, and values of the account's own properties."""
    fake.put(
        "contacts", "1001", START, shoe_size="38.5", vip="true", born_on="1990-02-03", interests="golf;chess"
    )
    fake.put("contacts", "1002", START + 60, vip="false", name="Bo")
    fake.put("products", "2001", START, name="Widget", hs_sku="W-1", price="9.50")
    fake.put("line_items", "2101", START, name="Widget", quantity="3", hs_product_id="2001", amount="28.50")
    fake.put("notes", "3001", START, hs_note_body="<p>Hello</p>", hs_timestamp="2025-01-02T10:00:00Z")
    fake.put("tasks", "3101", START, hs_task_subject="Call back", hs_task_status="NOT_STARTED")
    fake.put("calls", "3201", START, hs_call_title="First call", hs_call_duration="61000")
    fake.put(
        "meetings", "3301", START, hs_meeting_title="Kick-off", hs_meeting_start_time="2025-02-01T09:00:00Z"
    )
    fake.put("emails", "3401", START, hs_email_subject="Offer", hs_email_text="Dear …")
    if "9001" in fake.objects.get("deals", {}):
        fake.link("line_items", "2101", "deals", "9001")
        fake.link("notes", "3001", "deals", "9001")
    if "1001" in fake.objects.get("contacts", {}):
        fake.link("tasks", "3101", "contacts", "1001")
        fake.link("notes", "3001", "contacts", "1001")
    label = {"category": "USER_DEFINED", "typeId": 36, "label": "Billing contact"}
    fake.labels["contacts", "1001", "companies", "5001"] = [label]
    past = {**fake.owners["101"], "id": "199", "email": "gone@acme.test", "archived": True}
    fake.owners["199"] = past


class Copy:
    """A copy of an account: its database, and syncs in this process."""

    def __init__(self, fake: Any, path: Path, **config: Json) -> None:
        self.fake, self.path = fake, path / "data.db"
        self.sent: list[tuple[float, str]] | None = None  # when each call was sent, if that is asked for
        self.config = {**({"base_url": fake.url} if fake else {}), **config}
        self.secrets: Mapping[str, str] = {"token": TOKEN}

    def using(self, body: Callable[[InstallationRuntime], Awaitable[T]], recording: Any = None) -> T:
        """What a body returns that is given a started runtime, without limits unless calls are noted."""

        async def main() -> T:
            store = MemoryCredentials(self.secrets)
            known = {name: value for name, value in self.config.items() if name != "base_url"}
            info = InstallationInfo("hubspot", "default", "abc", known, 0.0)  # each fake has its own address
            made = read_config(HubSpotConfig, self.config, subject="a test")
            credentials = CredentialProvider(store, connector.credentials, connector.hosts_for(made))
            flow, around = (Unlimited(), []) if self.sent is None else (None, [self._noted])
            runtime = InstallationRuntime(
                info,
                connector,
                made,
                credentials,
                SqliteDatabase(self.path),
                recording=recording,
                flow=flow,
                middlewares=around,
            )
            await runtime.start()
            try:
                return await body(runtime)
            finally:
                await runtime.stop()

        return FakeClock().run(main()) if self.sent is not None else asyncio.run(main())

    @asynccontextmanager
    async def _noted(self, call: Call) -> AsyncIterator[None]:
        """Note when a call is sent; no time passes until it is answered."""
        if self.sent is not None:
            self.sent.append((asyncio.get_running_loop().time(), call.operation.name))
        with real_time():
            yield

    def sync(self, recording: Recording | Replay | None = None, **options: Any) -> SyncResult:
        """The result of one sync."""

        async def body(runtime: InstallationRuntime) -> SyncResult:
            return await (await runtime.sync(SyncOptions(**options))).completion()

        return self.using(body, recording)

    def rows(self, entity: type[Entity]) -> dict[str, dict[str, Json]]:
        """The stored rows by id, as JSON data."""
        return self.tables(entity)[entity]

    def tables(self, *entities: type[Entity]) -> dict[type[Entity], dict[str, dict[str, Json]]]:
        """The stored rows of some entities by id, as JSON data."""

        async def body(runtime: InstallationRuntime) -> dict[type[Entity], dict[str, dict[str, Json]]]:
            return {
                entity: {one.id: one.to_dict() for one in await runtime.engine.query(entity).all()}
                for entity in entities
            }

        return self.using(body)

    def apart(self, *options: str) -> subprocess.Popen[bytes]:
        """A sync in another process, after it has ended or was killed."""
        arguments = [str(self.path.parent), self.fake.url, *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")])}
        command = [sys.executable, "-m", "tests.hubspot_fake", *arguments]
        with subprocess.Popen(command, env=environment, cwd=ROOT) as process:
            self.process = process
        cut = ("body is not", "missing body")  # half a request of a killed process
        left = [one for one in self.fake.rejections if not any(words in one for words in cut)]
        self.fake.rejections[:] = left
        return process

    def killed_after(self, requests: int, *options: str) -> None:
        """A sync in another process, killed with SIGKILL after this many requests."""
        self.fake.inject(call=lambda _: self.process.kill(), skip=requests - 1)
        killed = self.apart(*options)
        self.fake.faults.clear()
        assert killed.returncode == -signal.SIGKILL

    def requests(self) -> list[str]:
        """The requests since the last call, as METHOD /path."""
        found = [f"{one.method} {one.path}" for one in self.fake.log]
        self.fake.log.clear()
        return found


class Unlimited(Limits):
    """Lets every call begin at once, but waits when the service asks for it."""

    async def acquire(self, operation: Any, *, max_wait: float = float("inf")) -> None:
        """Nothing to wait for."""

    def release(self, operation: Any) -> None:
        """Nothing was taken."""

    def answered(self, operation: Any, began: float, *, refused: bool) -> None:
        """Nothing is learned."""


# -- what a copy must hold ---------------------------------------------------------------------

FIELDS: Mapping[str, Mapping[str, str]] = {  # the copy's fields by kind, and HubSpot's properties
    "contacts": {
        "first_name": "firstname",
        "last_name": "lastname",
        "email": "email",
        "phone": "phone",
        "company_name": "company",
        "lifecycle_stage": "lifecyclestage",
        "owner": "hubspot_owner_id",
        "created_at": "createdate",
        "updated_at": "lastmodifieddate",
        "shoe_size": "shoe_size",
        "vip": "vip",
        "born_on": "born_on",
        "interests": "interests",
        "name_2": "name",
    },
    "companies": {
        "name": "name",
        "domain": "domain",
        "industry": "industry",
        "annual_revenue": "annualrevenue",
    },
    "deals": {
        "name": "dealname",
        "amount": "amount",
        "closes_at": "closedate",
        "pipeline": "pipeline",
        "stage": "dealstage",
        "renews_at": "renews_at",
    },
    "tickets": {
        "subject": "subject",
        "content": "content",
        "pipeline": "hs_pipeline",
        "stage": "hs_pipeline_stage",
    },
    "products": {"name": "name", "sku": "hs_sku", "price": "price"},
    "line_items": {"name": "name", "quantity": "quantity", "product": "hs_product_id", "amount": "amount"},
    "notes": {"body": "hs_note_body", "at": "hs_timestamp"},
    "tasks": {"subject": "hs_task_subject", "status": "hs_task_status"},
    "calls": {"subject": "hs_call_title", "milliseconds": "hs_call_duration"},
    "meetings": {"subject": "hs_meeting_title", "starts_at": "hs_meeting_start_time"},
    "emails": {"subject": "hs_email_subject", "text": "hs_email_text"},
}
NUMBERS = {"shoe_size", "annualrevenue", "amount", "price", "quantity", "hs_call_duration"}
TIMES = {"createdate", "lastmodifieddate", "closedate", "renews_at", "hs_timestamp", "hs_meeting_start_time"}
SINGULAR = {"contacts": "contact", "companies": "company", "line_items": "line_item"}


def value_of(name: str, text: str | None) -> Json:
    """A property's text as the copy's JSON has it."""
    if text is None:
        return None
    if name in NUMBERS:
        return float(text)
    if name == "vip":
        return text == "true"
    if name == "interests":
        return text.split(";")
    return text.replace(".000Z", "Z") if name in TIMES else text


def differences(copy: Copy) -> list[str]:
    """How the copy differs from the account, in the objects that it has."""
    fake, found = copy.fake, list[str]()
    tables = copy.tables(*(KINDS[kind].entity for kind in FIELDS), HubSpotOwner, HubSpotAssociation)
    for kind, fields in FIELDS.items():
        if kind not in (copy.config.get("objects") or FIELDS):
            continue
        rows = fake.objects.get(kind, {}).values()
        live = {
            row["id"]: {f: value_of(name, row["properties"].get(name)) for f, name in fields.items()}
            for row in rows
            if not row["archived"]
        }
        stored = {
            id: {field: one.get(field, "not loaded") for field in fields}
            for id, one in tables[KINDS[kind].entity].items()
        }
        found += [
            f"{kind} {id}: {stored.get(id)} and not {live.get(id)}"
            for id in sorted({*live, *stored})
            if live.get(id) != stored.get(id)
        ]
    owners = {id: one["email"] for id, one in tables[HubSpotOwner].items()}
    if not copy.config.get("objects") and owners != {id: one["email"] for id, one in fake.owners.items()}:
        found.append(f"owners {owners}")
    return found + _association_differences(copy, tables[HubSpotAssociation])


def _association_differences(copy: Copy, rows: Mapping[str, Mapping[str, Json]]) -> list[str]:
    """The same for associations: every link of two live records once, with its labels."""
    fake = copy.fake
    live = {
        f"{kind}:{id}"
        for kind, rows in fake.objects.items()
        for id, row in rows.items()
        if not row["archived"]
    }
    wanted = {
        frozenset((f"{kind}:{id}", other)): set[str]()
        for (kind, id), others in fake.links.items()
        for other in others
        if {f"{kind}:{id}", other} <= live
        and {kind, other.partition(":")[0]} <= set(copy.config.get("objects") or FIELDS)
    }
    for (kind, id, other, other_id), labels in fake.labels.items():
        if frozenset((f"{kind}:{id}", f"{other}:{other_id}")) in wanted:
            wanted[frozenset((f"{kind}:{id}", f"{other}:{other_id}"))] |= {one["label"] for one in labels}
    stored = {}
    for one in rows.values():
        refs = [
            f"{kind}:{one[SINGULAR.get(kind, kind[:-1])]}"
            for kind in FIELDS
            if one.get(SINGULAR.get(kind, kind[:-1]))
        ]
        if set(refs) <= live:
            stored[frozenset(refs)] = set(one["labels"])
    return [f"association {set(pair)}" for pair in {*wanted, *stored} if wanted.get(pair) != stored.get(pair)]


def main(folder: str, url: str, *options: str) -> int:
    """``python -m tests.hubspot_fake FOLDER URL [OPTION…]``: one sync, with small pages."""
    hubspot_api.PAGE, hubspot_api.SEARCH_PAGE, hubspot_links.LINKED = 5, 5, 10
    result = Copy(None, Path(folder), base_url=url).sync(check_deletes="check-deletes" in options)
    return 0 if result.status is Status.COMPLETED else 1


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
