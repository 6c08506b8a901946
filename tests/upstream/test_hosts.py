"""A connector may use the hosts, secrets and operations that it declares, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from max import onboard
from max.connecting import (
    Answers,
    BearerAuth,
    Connector,
    Credential,
    CredentialProvider,
    Env,
    HttpClient,
    HttpRequest,
    HttpResponse,
    Loader,
    MaxError,
    Offline,
    Operation,
    Page,
    PageRequest,
    PermissionDenied,
    Ref,
    Secret,
    Transport,
    UpstreamChanged,
    Validate,
)
from max.errors import ConnectorError, UnknownName
from max.installations.registry import ConnectorRegistry
from max.project import Project
from max.projects.folder import ProjectFolder
from max.upstream.credentials import MemoryCredentials
from max.upstream.hosts import Hosts, read_address
from tests.answering import Upstream, answer
from tests.sample import SampleRoot, Thing, sample
from tests.scripted import synced

HOME = "https://home.example.com"


class Recorder(Transport):
    """Opens no connection: remembers requests, and redirects the first one."""

    def __init__(self, location: str | None = None) -> None:
        self.location = location
        self.sent: list[HttpRequest] = []

    async def send(self, request: HttpRequest, *, max_bytes: int) -> HttpResponse:
        """A redirect once, then an empty answer."""
        self.sent.append(request)
        if self.location is not None and len(self.sent) == 1:
            return HttpResponse(request, 302, {"location": self.location}, b"")
        return HttpResponse(request, 200, {}, b"{}")


def ask(address: str, *declared: str, redirected: bool = False) -> list[HttpRequest]:
    """The requests, besides the one to HOME, when a client of HOME is redirected to an address."""
    recorder = Recorder(address if redirected else None)
    hosts = Hosts.declared(["home.example.com", *declared])
    provider = CredentialProvider(MemoryCredentials(), [], hosts)
    auth = BearerAuth(Secret("the-credential"))
    client = HttpClient(HOME, provider, auth=auth, headers={"x-own": "1"}, transport=recorder)
    asyncio.run(client.get("/" if redirected else address))
    return recorder.sent[redirected:]


# -- hosts: an oracle that knows of labels and numbers alone ---------------------------------------


class Named(NamedTuple):
    """A host: its labels, and a port, or None for the scheme's default."""

    labels: tuple[str, ...]
    port: int | None
    below: bool = False

    def written(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{'*.' if self.below else ''}{'.'.join(self.labels)}{port}"


def meant(patterns: Sequence[Named], host: Named, scheme: str) -> bool:
    """Whether a declaration allows a host: compared label by label, from the end."""
    own = {"http": 80, "https": 443}[scheme]
    for pattern in patterns:
        names = host.labels[-len(pattern.labels) :] == pattern.labels
        depth = len(host.labels) - len(pattern.labels)
        if names and (depth > 0) == pattern.below and (pattern.port or own) == (host.port or own):
            return True
    return False


label = st.sampled_from(["a", "b", "api", "evil", "xn--80ak6aa92e", "example", "com", "127", "a-b"])
port = st.sampled_from([None, 80, 443, 8443])
pattern = st.builds(
    Named, st.lists(label, min_size=2, max_size=3).map(lambda some: (*some, "com")), port, st.booleans()
)
FULL_WIDTH = {ord("a") + n: 0xFF41 + n for n in range(26)}


@st.composite
def led_to(draw: st.DrawFn, patterns: Sequence[Named]) -> tuple[str, Named | None, str]:
    """An address similar to a declaration, its host (None: the address is not plain), and its scheme."""
    base, scheme = draw(st.sampled_from(patterns)), draw(st.sampled_from(["http", "https"]))
    labels, number = base.labels, base.port
    match draw(st.sampled_from(["exact", "below", "glued", "apex", "behind", "port", "other"])):
        case "below":
            labels = (draw(label), *labels)
        case "glued":
            labels = ("evil" + labels[0], *labels[1:])
        case "apex":
            labels = labels[1:]
        case "behind":
            labels = (*labels, "evil", "net")
        case "port":
            number = draw(port)
        case "other":
            labels = (*draw(st.lists(label, min_size=1, max_size=4)), "net")
    host = Named(labels, number)
    text, plain = draw(st.sampled_from(SPELLINGS))(host)
    return f"{scheme}://{text}/x", host if plain else None, scheme


def _spelt(form: str, plain: bool) -> Callable[[Named], tuple[str, bool]]:
    """A spelling of a host, and whether it is a plain one."""

    def spell(host: Named) -> tuple[str, bool]:
        name, colon, number = host.written().partition(":")
        forms = {
            "upper": name.upper(),
            "wide": name.translate(FULL_WIDTH),
            "escaped": f"%{ord(name[0]):02x}{name[1:]}",
            "cyrillic": f"а{name[1:]}",
        }
        return form.format(name=name, port=colon + number, **forms), plain

    return spell


SPELLINGS = [
    *[_spelt("{name}{port}", True)] * 6,
    _spelt("{upper}{port}", True),
    _spelt("{name}.{port}", False),
    _spelt(".{name}{port}", False),
    _spelt("{wide}{port}", False),
    _spelt("{cyrillic}{port}", False),
    _spelt("{escaped}{port}", False),
    _spelt("{name}%00{port}", False),
    _spelt("{name}%2eevil.net{port}", False),
    _spelt("user:pass@{name}{port}", False),
    _spelt("{name}{port}@evil.net", False),
    _spelt("evil.net\\@{name}{port}", False),
    _spelt("{name}\\.evil.net{port}", False),
    _spelt("{name}\t{port}", False),
    _spelt(" {name}{port}", False),
    _spelt("{name}{port}5:7", False),
    _spelt("[{name}]{port}", False),
]


@given(st.data(), st.lists(pattern, min_size=1, max_size=3), st.booleans())
@settings(max_examples=400)
def test_p19_a_host_gets_requests_iff_it_is_declared_and_plainly_written(
    data: st.DataObject, patterns: list[Named], redirected: bool
) -> None:
    address, host, scheme = data.draw(led_to(patterns))
    if redirected and scheme == "http":
        address, scheme = address.replace("http:", "https:", 1), "https"
    declared = [one.written() for one in patterns]
    if host is not None and meant(patterns, host, scheme):
        (sent,) = ask(address, *declared, redirected=redirected)
        assert httpx2.URL(sent.url).raw_host.decode() == ".".join(host.labels)
    else:
        with pytest.raises(PermissionDenied) as refused:
            ask(address, *declared, redirected=redirected)
        assert host is None or f"{'.'.join(host.labels)}" in refused.value.message
        assert host is None or declared[0].lower() in refused.value.message


part = st.text("ab.:/@\\?#[]%0x1u*\t\n é。ａ-_", max_size=12) | st.sampled_from(["api.good.com", "evil.net"])


@given(
    st.lists(part, max_size=5).map("".join), st.sampled_from(["http://", "https://", "HTTPS://", "//", ""])
)
@example("api.good.com\\@evil.net", "https://")
@example("evil.net#@api.good.com", "https://")
@example("evil.net?@api.good.com", "https://")
@example("api.good.com:443@evil.net", "https://")
@settings(max_examples=500)
def test_p19_another_parser_finds_a_declared_host_in_every_sent_address(text: str, scheme: str) -> None:
    for redirected in (False, True):
        try:
            sent = ask(scheme + text, "*.good.com", redirected=redirected)
        except (PermissionDenied, UpstreamChanged):
            continue
        for one in sent:
            there = httpx2.URL(one.url)
            assert there.host == "home.example.com" or there.host.endswith(".good.com")
            assert there.port is None
            assert not there.userinfo


LITERALS = ["127.0.0.1", "10.0.0.7", "169.254.169.254", "[::1]", "[fe80::1]"]
ODD = [
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.1",
    "0x7f.1",
    "[::ffff:127.0.0.1]",
    "[::1%25lo]",
    "127.0.0.1.",
]


@given(
    st.sampled_from(LITERALS),
    st.sampled_from([80, 8000]),
    st.sampled_from([*LITERALS, *ODD]),
    st.integers(1, 2**16),
)
def test_p19_an_ip_address_gets_requests_iff_it_is_declared(
    declared: str, number: int, asked: str, other: int
) -> None:
    for port in (number, other):
        if (asked, port) == (declared, number):
            assert ask(f"http://{asked}:{port}/", f"{declared}:{number}")
        else:
            with pytest.raises(PermissionDenied):
                ask(f"http://{asked}:{port}/", f"{declared}:{number}", "*.example.com")


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("https://api.example.com", True),
        ("https://a.b.example.com", True),
        ("https://example.com", False),
        ("https://evilexample.com", False),
        ("https://api.example.com.evil.net", False),
        ("https://api.example.com:8443", False),
    ],
)
def test_a_star_allows_the_names_below_only(address: str, asked: bool) -> None:
    if asked:
        assert len(ask(address, "*.example.com")) == 1
    else:
        with pytest.raises(PermissionDenied, match=r"\*\.example\.com"):
            ask(address, "*.example.com")


def test_two_spellings_of_an_address_are_the_same() -> None:
    assert read_address("http://[0:0:0::1]:080/") == read_address("HTTP://[::1]/")
    assert read_address("https://H.example?q=é x")[1] == "/?q=%C3%A9%20x"
    assert str(read_address("https://h.example:443/")[0]) == "https://h.example"


@given(st.text(max_size=20) | st.lists(part, max_size=4).map("".join))
def test_an_address_with_a_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(PermissionDenied) as refused:
        ask(f"http://user:hidden@home.example.com{text}")
    assert "hidden" not in refused.value.render()


# -- credentials stay at home ------------------------------------------------------------------


def test_another_declared_host_gets_none_of_the_clients_headers() -> None:
    for redirected in (False, True):
        (sent,) = ask("https://files.example.com/x?y=1", "*.example.com", redirected=redirected)
        assert (sent.url, dict(sent.headers)) == ("https://files.example.com/x?y=1", {"accept": "*/*"})


def test_the_own_origin_gets_the_credential_in_every_spelling() -> None:
    (sent,) = ask("https://HOME.example.com:443/x", redirected=True)
    assert sent.url == f"{HOME}/x"
    assert sent.headers["authorization"] == "Bearer the-credential"
    assert sent.headers["x-own"] == "1"


@pytest.mark.parametrize("address", ["http://home.example.com/", "https://home.example.com:8443/"])
def test_another_scheme_or_port_is_another_origin(address: str) -> None:
    (sent,) = ask(address, "home.example.com:8443")
    assert "authorization" not in sent.headers


@pytest.mark.parametrize("location", ["https://home.example.com\t/x", "/x\n", "https://home.exam\rple.com/"])
def test_a_redirect_with_a_character_that_parsers_drop_is_not_followed(location: str) -> None:
    with pytest.raises(PermissionDenied, match="cannot be used"):
        ask(location, redirected=True)


def test_a_redirect_that_gives_up_encryption_is_not_followed() -> None:
    with pytest.raises(UpstreamChanged, match="without encryption"):
        ask("http://home.example.com/", redirected=True)


def test_p19_an_undeclared_host_gets_no_connection() -> None:
    async def main() -> tuple[int, PermissionDenied]:
        home, other = Upstream(b""), Upstream(answer(200))
        async with home.serving() as here, other.serving() as there:
            home.answers = [answer(302, location=f"{there}/x")]
            provider = CredentialProvider(MemoryCredentials(), [], Hosts.of(here))
            async with HttpClient(here, provider) as client:
                with pytest.raises(PermissionDenied) as refused:
                    await client.get("/")
            return other.connections, refused.value

    connections, error = asyncio.run(main())
    assert connections == 0
    assert "127.0.0.1" in error.message
    assert "hosts=" in error.hint


# -- declaring -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """The address of a service."""

    base_url: str = ""
    pages: int = 1


@pytest.mark.parametrize(
    ("base_url", "asked"),
    [
        ("http://127.0.0.1:8123/v2", "http://127.0.0.1:8123/x"),
        ("https://Api.Example.com", "https://api.example.com/"),
        ("api.example.com:8443", "https://api.example.com:8443/"),
        ("[::1]:8000", "http://[::1]:8000/"),
    ],
)
def test_a_key_in_braces_allows_the_host_and_port_of_that_value(base_url: str, asked: str) -> None:
    one = sample(config=Settings, hosts=["{base_url}"])
    for config in (Settings(base_url), {"base_url": base_url}):
        origin = read_address(asked)[0]
        one.hosts_for(config).check(origin)
        with pytest.raises(PermissionDenied):
            one.hosts_for(config).check(origin._replace(port=9))


@pytest.mark.parametrize("base_url", ["", "*.example.com", "http://", "http://u:p@h", "a b", None, 7])
def test_a_value_that_is_not_an_address_allows_nothing(base_url: object) -> None:
    one = sample(config=Settings, hosts=["{base_url}"])
    assert str(one.hosts_for({"base_url": base_url})) == "none"
    assert str(one.hosts_for({})) == "none"


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            "",
            "*",
            "*.com",
            "*.0.0.1",
            "a*.example.com",
            "api.*.com",
            "https://api.example.com",
            "api.example.com/v1",
        ),
        *(
            "u@h.com",
            "h.com:",
            "h.com:0",
            "h.com:99999",
            "h.com.",
            "ünicode.com",
            "a b.com",
            "127.1",
            "{elsewhere}",
            7,
        ),
        *("[::1", "[zz]", "api.{base_url}.com"),
    ],
)
def test_p40_a_declaration_that_is_not_a_host_is_refused_with_its_place(wrong: object) -> None:
    with pytest.raises(ConnectorError, match=r"sample: hosts\[1\]"):
        sample(config=Settings, hosts=["api.example.com", wrong])


def test_without_a_declaration_no_host_is_allowed() -> None:
    provider = CredentialProvider(MemoryCredentials(), [])
    with pytest.raises(PermissionDenied, match=r"\(declared: none\)"):
        HttpClient("https://api.example.com", provider)


# -- through the public door -----------------------------------------------------------------------

CONNECTOR = """
from dataclasses import dataclass
from max.connecting import Connector, HttpClient, Installation
from tests.sample import sample

@dataclass(frozen=True)
class Where:
    url: str
    other: str

async def initialise(config, credentials):
    client = HttpClient(config.url, credentials)
    return Installation(client, stop=client.stop, health=lambda: client.request("GET", config.other))

connector = sample(name="where", config=Where, initialise=initialise, hosts=[{hosts}])
"""


def health_of(folder: Path, hosts: str, url: str, other: str) -> None:
    """Connect a project to a connector that declares hosts, and send a request to another address."""
    project = Project(ProjectFolder.init(folder))
    (folder / "connectors").mkdir()
    (folder / "connectors" / "max_where.py").write_text(CONNECTOR.format(hosts=hosts))
    info = project.manager.add("where", None, {"url": url, "other": other}, {}, now=0.0)

    async def main() -> None:
        async with project:
            await (await project.runtime(info.connector, info.name)).health()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("hosts", "error", "message"),
    [
        ('"{url}"', PermissionDenied, r"127\.0\.0\.1:2 \(declared: 127\.0\.0\.1:1\)"),
        ('"{other}"', PermissionDenied, r"127\.0\.0\.1:1 \(declared: 127\.0\.0\.1:2\)"),
        ("", PermissionDenied, r"\(declared: none\)"),
        ('"{url}", "{other}"', Offline, "no answer from 127.0.0.1:2"),
    ],
)
def test_p40_a_project_allows_declared_hosts_only(
    hosts: str, error: type[MaxError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):  # nothing listens there: an allowed request gets no answer
        health_of(tmp_path, hosts, "http://127.0.0.1:1", "http://127.0.0.1:2/")


@pytest.mark.parametrize("hosts", [["{base_url}"], ["api.example.com"], []])
def test_p40_onboarding_sends_requests_to_declared_hosts_only(hosts: list[str]) -> None:
    """The answers so far contain the address of the declared host."""

    async def check(answers: Answers, credentials: CredentialProvider) -> str:
        client = HttpClient(answers["base_url"], credentials, transport=Recorder())
        return str(await client.get("/"))

    one = sample(config=Settings, hosts=hosts, onboarding=[Validate(check)])
    given = {"base_url": "https://tenant.example.com"}
    if hosts == ["{base_url}"]:
        assert asyncio.run(onboard(one, None, given, {})).config["base_url"] == given["base_url"]
    else:
        with pytest.raises(PermissionDenied, match=r"tenant\.example\.com"):
            asyncio.run(onboard(one, None, given, {}))


@given(st.sets(st.sampled_from(["one", "two", "three"])), st.sampled_from(["one", "two", "three"]))
@settings(max_examples=12)
def test_p40_an_operation_runs_iff_it_is_declared(declared: set[str], run: str) -> None:
    called: list[str] = []

    async def call(context: object, name: str) -> str:
        called.append(name)
        return name

    operations = {name: Operation(f"sample:{name}:get", call) for name in ("one", "two", "three")}

    @Loader.collection(SampleRoot.things, brings=[Thing.title])
    async def list_things(parent: Ref[SampleRoot], request: PageRequest, env: Env[Any]) -> Page[Thing]:
        return Page([Thing("1", title=await env.run(operations[run], run))])

    one = sample(loaders=[list_things], operations=[operations[name] for name in sorted(declared)])
    with TemporaryDirectory() as folder:
        result, _ = synced(one, Path(folder, "db"), SampleRoot.things)
    assert called == [run] * (run in declared)
    failed = [failure.message for failure in result.failures]
    refusal = f"sample does not declare the operation sample:{run}:get"
    assert failed == ([] if run in declared else [refusal])


@given(st.sets(st.sampled_from("abc")), st.sampled_from("abc"))
def test_p40_a_secret_is_readable_iff_it_is_declared(declared: set[str], asked: str) -> None:
    store = MemoryCredentials({name: f"secret-{name}" for name in "abc"})
    provider = CredentialProvider(store, [Credential(name) for name in sorted(declared)])
    if asked in declared:
        assert asyncio.run(provider.get(Credential(asked))).reveal() == f"secret-{asked}"
    else:
        with pytest.raises(UnknownName, match=asked):
            asyncio.run(provider.get(Credential(asked)))
        assert not provider.known_secrets


REQUIRED = sorted(
    one.name
    for one in fields(Connector)
    if one.init and one.default is MISSING and one.default_factory is MISSING
)


@pytest.mark.parametrize("key", REQUIRED)
def test_p40_a_declaration_that_lacks_a_required_key_is_refused(key: str, tmp_path: Path) -> None:
    file = tmp_path / "max_lacking.py"
    file.write_text(
        "from dataclasses import fields\n"
        "from max.connecting import Connector\nfrom tests.sample import sample\n"
        "whole = sample(name='lacking')\n"
        "values = {one.name: getattr(whole, one.name) for one in fields(Connector) if one.init}\n"
        f"del values[{key!r}]\nconnector = Connector(**values)\n"
    )
    with pytest.raises(ConnectorError, match=key):
        ConnectorRegistry([tmp_path]).resolve("lacking")
