"""What a connector does beside its requests: connections to other hosts, secrets in files."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ..errors import PermissionDenied, RecordingError
from ..upstream.hosts import Hosts, Origin
from ..upstream.redaction import Redactor

LOGGER = __name__.split(".", 1)[0]
SECRET_FILE = "credentials.json"  # noqa: S105  # the one place of an installation's secrets


class HostWatch:
    """Refuses, and remembers, every connection of this process to a host that was not declared.

    It hears of all of them from Python itself, whatever library makes them.
    """

    def __init__(self) -> None:
        self.refused: dict[str, None] = {}  # in order
        self._allowed: list[Hosts] = []
        self._names = False  # whether a declared name was looked up: its addresses are not known here

    @contextmanager
    def allowing(self, *hosts: Hosts) -> Iterator[None]:
        """Watch in this block, and allow these hosts."""
        before, self._allowed = self._allowed, list(hosts)
        _watch(self)
        try:
            yield
        finally:
            self._allowed = before
            _watch(None)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit event of Python; PermissionError when it would reach another host."""
        if event == "socket.getaddrinfo":
            host, port = str(arguments[0]), arguments[1]
        elif event == "socket.connect" and isinstance(arguments[1], tuple):
            host, port = str(arguments[1][0]), arguments[1][1]
        else:
            return
        known = self._declares(host, port)
        if event == "socket.getaddrinfo":
            self._names |= known
        elif not known and self._names and not _is_here(host):
            return
        if not known:
            self.refused[f"{host}:{port}"] = None
            raise PermissionError(f"the connector does not declare the host {host}:{port}")

    def _declares(self, host: str, port: object) -> bool:
        number = int(port) if isinstance(port, int | str) and str(port).isdecimal() else 443
        for hosts in self._allowed:
            for scheme in ("https", "http"):
                try:
                    hosts.check(Origin(scheme, host.lower(), number))
                except PermissionDenied:
                    continue
                return True
        return False


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_watching: HostWatch | None = None
_hooked = False


def _watch(watch: HostWatch | None) -> None:
    """Let one watch hear the events; the hook itself cannot be taken away again."""
    global _watching, _hooked
    _watching = watch
    if not _hooked:
        _hooked = True
        sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching is not None and event.startswith("socket."):
        _watching.hear(event, arguments)


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Write everything that is logged in this block into a file."""
    handler, log = logging.FileHandler(path, encoding="utf-8"), logging.getLogger(LOGGER)
    level, spreads = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False  # else what was never shown before is shown now
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = spreads
        handler.close()


def files_with(secrets: Iterable[str], folder: Path) -> tuple[list[Path], int]:
    """The files below a folder that hold a secret in any encoding, and how many were read.

    ValueError when a secret is too short to be looked for.
    """
    redactor = Redactor()
    for secret in secrets:
        try:
            redactor.learn(secret)
        except RecordingError as error:
            raise ValueError(error.message) from None
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SECRET_FILE]
    texts = ((path, path.read_bytes().decode("latin-1")) for path in files)
    return [path for path, text in texts if redactor.text(text) != text], len(files)
