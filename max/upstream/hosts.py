"""Addresses: where a connector may send requests.

Rule 1: an address that two programs could read differently is refused: user names, escapes,
letters beyond ASCII, backslashes, a dot at the end, numbers that are not a plain IPv4 address.
The address that is sent is built from the parts that were checked.

Rule 2: an id never becomes a path.  What fills a place of a path is percent-encoded, and a path that
leads elsewhere than it seems (``..``, ``//``, ``#``, control characters) is refused.

Rule 3: a host that is not declared is refused before its name is looked up.  It is not allowed
because it has the IP address of a host that is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote

from ..errors import PermissionDenied

DEFAULT_PORTS = {"http": 80, "https": 443}
LONGEST_NAME = 253  # characters of a host name
LONGEST_ADDRESS = 60_000  # characters, escaped; HTTP libraries refuse longer ones

ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?P<rest>[/?].*)?",
    re.IGNORECASE | re.ASCII | re.DOTALL,
)
PATTERN = re.compile(
    r"(?P<below>\*\.)?(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?",
    re.IGNORECASE | re.ASCII,
)
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
MISLEADING = re.compile(
    r"//|[#\\\x00-\x1f\x7f]"
)  # in a path: servers, proxies and people read it differently
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)  # a name that ends with one is an IPv4 address
SAFE = "!\"#$%&'()*+,/:;<=>?@[]^_`{|}~"  # characters that are not escaped in a path or a query


class Origin(NamedTuple):
    """Scheme, host (in lower case) and port: a credential is sent to one origin only."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


def read_address(url: str) -> tuple[Origin, str]:
    """The origin of an http(s) address, and the rest of it; ValueError when it is not a plain one.

    The error's text does not repeat the address, which may contain a password.
    """
    found = ADDRESS.fullmatch(url.partition("#")[0])
    if found is None:
        raise ValueError("it is not a plain http(s) address")
    scheme = found["scheme"].lower()
    port = DEFAULT_PORTS[scheme] if found["port"] is None else _port(found["port"])
    rest = quote(found["rest"] or "/", safe=SAFE)
    if len(rest) > LONGEST_ADDRESS:
        raise ValueError("it is too long")
    return Origin(scheme, _host(found["host"]), port), rest if rest[0] == "/" else f"/{rest}"


def filled(path: str, pieces: Sequence[str | int]) -> str:
    """A path with a piece in place of each ``{}``, percent-encoded, so that it stays within its segment.

    TypeError when there are more or fewer pieces than places, or one is neither a text nor a number.
    """
    parts = path.split("{}")
    if len(parts) != len(pieces) + 1:
        raise TypeError(f"the path {path!r} has {len(parts) - 1} places, and got {len(pieces)} pieces")
    for one in pieces:
        if not isinstance(one, str | int) or isinstance(one, bool):
            raise TypeError(f"a piece of the path {path!r} is {one!r}, neither a text nor a number")
    return parts[0] + "".join(
        quote(str(one), safe="") + part for one, part in zip(pieces, parts[1:], strict=True)
    )


def check_path(path: str) -> None:
    """ValueError for a path, perhaps with a query, that leads elsewhere than it seems."""
    if MISLEADING.search(path.partition("?")[0]) or "#" in path:
        raise ValueError("its path contains '//', '#', a backslash or a control character")
    check_segments(path)


def check_segments(path: str) -> None:
    """ValueError when a segment of a path, perhaps with a query, leads out of the one before."""
    place = path.partition("?")[0]
    dotted = "." in place or "%2" in place
    if dotted and any(unquote(segment) in (".", "..") for segment in place.split("/")):
        raise ValueError("its path contains '.' or '..'")


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise ValueError("its port is not from 1 to 65535")
    return port


def _host(text: str) -> str:
    """A host in the form in which hosts are compared."""
    host = text.lower()
    labels = host.split(".")
    if host[0] == "[" or NUMBER.fullmatch(labels[-1]):
        return _literal(host)
    if "" in labels or len(host) > LONGEST_NAME:
        raise ValueError("its host is not a valid name")
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
    """A declared host; ``below`` means every name under it, but not itself.

    Without a port, the scheme's default port is meant.
    """

    host: str
    port: int | None = None
    below: bool = False

    @classmethod
    def read(cls, text: str) -> Pattern:
        """Read ``api.example.com``, ``*.example.com`` or ``host:port``; ValueError says what is wrong."""
        found = PATTERN.fullmatch(text)
        if found is None:
            raise ValueError("it is not of the form api.example.com, *.example.com or host:port")
        host, below = _host(found["host"]), found["below"] is not None
        if below and (host[0] == "[" or "." not in host or NUMBER.fullmatch(host.rpartition(".")[2])):
            raise ValueError("a '*.' must be followed by a name of at least two parts")
        return cls(host, _port(found["port"]) if found["port"] else None, below)

    def admits(self, origin: Origin) -> bool:
        """Whether the pattern allows an origin's host and port."""
        if origin.port != (DEFAULT_PORTS[origin.scheme] if self.port is None else self.port):
            return False
        return origin.host.endswith(f".{self.host}") if self.below else origin.host == self.host

    def __str__(self) -> str:
        return f"{'*.' if self.below else ''}{self.host}{f':{self.port}' if self.port else ''}"


class Hosts:
    """The hosts that requests may go to: a connector's declaration, with its configuration filled in."""

    def __init__(self, patterns: Iterable[Pattern] = ()) -> None:
        self._patterns = tuple(patterns)

    @classmethod
    def declared(cls, patterns: Iterable[str], value_of: Callable[[str], object] = lambda key: None) -> Hosts:
        """Read patterns; ``{key}`` is replaced by the host and port of ``value_of(key)``, if it has one."""
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
        """The hosts of these addresses and no others."""
        return cls(Pattern(origin.host, origin.port) for origin in (read_address(url)[0] for url in urls))

    def check(self, origin: Origin) -> None:
        """PermissionDenied, with the host and the declared ones, unless the origin is declared."""
        if not any(pattern.admits(origin) for pattern in self._patterns):
            raise PermissionDenied(
                f"the connector does not declare the host {origin} (declared: {self})",
                hint="nothing was sent; if the host is correct, add it to the connector's hosts=",
                host=origin.host,
                port=origin.port,
                declared=[str(pattern) for pattern in self._patterns],
            )

    def __str__(self) -> str:
        return ", ".join(map(str, self._patterns)) or "none"

    def __repr__(self) -> str:
        return f"Hosts({self})"


def _filled_in(value: object) -> list[Pattern]:
    """The host in a configuration value; nothing when it is not an address, which is reported elsewhere."""
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


def names_host(value: str) -> bool:
    """Whether a configuration value names one host: an http(s) address, a host, or host and port."""
    return bool(_filled_in(value))


NOWHERE = Hosts()
