"""Hosts: where a connector may send requests, and how that is read from an address.

Rule 1: an address has one meaning or none.  What two readers could take for two hosts (user
names, escapes, letters beyond ASCII, backslashes, a dot at the end, numbers that are no plain
IPv4 address) is refused, and what is sent is written anew from the parts that were checked.

Rule 2: what is not declared is refused, before any name is looked up: nothing is allowed
because it leads to an address that is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple
from urllib.parse import quote

from ..errors import PermissionDenied

DEFAULT_PORTS = {"http": 80, "https": 443}
LONGEST_NAME = 253  # characters that a host name may have

ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?P<rest>[/?].*)?",
    re.IGNORECASE | re.ASCII | re.DOTALL,
)
PATTERN = re.compile(
    r"(?P<below>\*\.)?(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?",
    re.IGNORECASE | re.ASCII,
)
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)  # as the last part of a name: an IPv4 address
SAFE = "!\"#$%&'()*+,/:;<=>?@[]^_`{|}~"  # stays as it is in a path and a query


class Origin(NamedTuple):
    """Scheme, host (in lower case) and port: where a credential belongs."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


def read_address(url: str) -> tuple[Origin, str]:
    """The origin of an http(s) address, and what is asked there; ValueError when it is not plain.

    The error's text repeats nothing of the address: it may hold a password.
    """
    found = ADDRESS.fullmatch(url.partition("#")[0])
    if found is None:
        raise ValueError("it is no plain http(s) address")
    scheme = found["scheme"].lower()
    port = DEFAULT_PORTS[scheme] if found["port"] is None else _port(found["port"])
    rest = quote(found["rest"] or "/", safe=SAFE)
    return Origin(scheme, _host(found["host"]), port), rest if rest[0] == "/" else f"/{rest}"


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise ValueError("its port is not one from 1 to 65535")
    return port


def _host(text: str) -> str:
    """A host in the one way in which it is compared."""
    host = text.lower()
    labels = host.split(".")
    if host[0] == "[" or NUMBER.fullmatch(labels[-1]):
        return _literal(host)
    if "" in labels or len(host) > LONGEST_NAME:
        raise ValueError("its host is no name")
    return host


def _literal(host: str) -> str:
    import ipaddress  # slow to import, and seldom needed

    try:
        if host[0] == "[":
            return f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
        return str(ipaddress.IPv4Address(host))
    except ipaddress.AddressValueError:
        raise ValueError("its host is neither a name nor a plain IP address") from None


class Pattern(NamedTuple):
    """One declared host; ``below``: every name under it, but not itself.  No port: the scheme's own."""

    host: str
    port: int | None = None
    below: bool = False

    @classmethod
    def read(cls, text: str) -> Pattern:
        """From ``api.example.com``, ``*.example.com`` or ``host:port``; ValueError tells what is wrong."""
        found = PATTERN.fullmatch(text)
        if found is None:
            raise ValueError("it is not like api.example.com, *.example.com or host:port")
        host, below = _host(found["host"]), found["below"] is not None
        if below and (host[0] == "[" or "." not in host or NUMBER.fullmatch(host.rpartition(".")[2])):
            raise ValueError("a '*.' must stand before a name of at least two parts")
        return cls(host, _port(found["port"]) if found["port"] else None, below)

    def admits(self, origin: Origin) -> bool:
        """Whether the origin's host and port are meant."""
        if origin.port != (DEFAULT_PORTS[origin.scheme] if self.port is None else self.port):
            return False
        return origin.host.endswith(f".{self.host}") if self.below else origin.host == self.host

    def __str__(self) -> str:
        return f"{'*.' if self.below else ''}{self.host}{f':{self.port}' if self.port else ''}"


class Hosts:
    """The hosts that may be asked: what a connector declares, with its configuration filled in."""

    def __init__(self, patterns: Iterable[Pattern] = ()) -> None:
        self._patterns = tuple(patterns)

    @classmethod
    def declared(cls, patterns: Iterable[str], value_of: Callable[[str], object] = lambda key: None) -> Hosts:
        """From patterns; ``{key}`` is the host and port of ``value_of(key)``, nothing when it is empty."""
        read = []
        for pattern in patterns:
            placeholder = PLACEHOLDER.fullmatch(pattern)
            if placeholder is None:
                read.append(Pattern.read(pattern))
            else:
                read += _filled_in(value_of(placeholder[1]))
        return cls(read)

    @classmethod
    def of(cls, *urls: str) -> Hosts:
        """Just where these addresses lead."""
        return cls(Pattern(origin.host, origin.port) for origin in (read_address(url)[0] for url in urls))

    def check(self, origin: Origin) -> None:
        """PermissionDenied, which names the host and the declaration, unless it is declared."""
        if not any(pattern.admits(origin) for pattern in self._patterns):
            raise PermissionDenied(
                f"{origin} is not among the hosts that the connector declares ({self})",
                hint="nothing was sent; if the host is right, add it to the connector's hosts=",
                host=origin.host,
                port=origin.port,
                declared=[str(pattern) for pattern in self._patterns],
            )

    def __str__(self) -> str:
        return ", ".join(map(str, self._patterns)) or "none"

    def __repr__(self) -> str:
        return f"Hosts({self})"


def _filled_in(value: object) -> list[Pattern]:
    """What a configuration value allows; nothing when it is no address, which its user will be told."""
    if not isinstance(value, str) or not value:
        return []
    try:
        if "://" not in value:
            pattern = Pattern.read(value)
            return [] if pattern.below else [pattern]
        origin, _ = read_address(value)
    except ValueError:
        return []
    return [Pattern(origin.host, origin.port)]


NOWHERE = Hosts()
