"""Who may ask over HTTP: bearer tokens, and the names by which this server may be addressed.

Rule 1: without a token nothing is answered but ``/health``.  Tokens are compared in constant time, and
only their digests are kept.

Rule 2: a page that a browser has open elsewhere must not reach this server.  Such a page can make its own
name lead to this machine (DNS rebinding), so the header Host is one of the allowed names, or 421; and a
browser says in Origin whose page asks, which is this server itself or an allowed one, or 403.

Rule 3: the file of tokens is for its owner alone; it is made when it is first needed.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from ..errors import HttpRefused, ProjectError, ProjectUntrusted, UsageError
from ..installations.files import write_file
from .daemon_folder import OTHERS

LOOPBACK = ("localhost", "127.0.0.1", "::1")  # the names of a server that only this machine reaches
SHORTEST = 16  # characters of a token
OWNER = "http"  # the name of a token that has none
LARGEST = 100_000  # bytes of a file with tokens


class Tokens:
    """Bearer tokens by name: the name is what the audit shows."""

    def __init__(self, tokens: str | Mapping[str, str]) -> None:
        found = {OWNER: tokens} if isinstance(tokens, str) else dict(tokens)
        if not found:
            raise UsageError("an HTTP face has at least one token")
        for name, token in found.items():
            if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
                raise UsageError(
                    f"the token {name!r} is no good one: it has at least {SHORTEST} characters of ASCII, "
                    "and no space",
                    hint="python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one",
                )
        self._digests = {name: _digest(token.encode()) for name, token in found.items()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._digests)})"

    def name_of(self, authorization: bytes) -> str | None:
        """The name of the token that a header ``Authorization: Bearer …`` has; None for any other."""
        scheme, _, token = authorization.partition(b" ")
        given, found = _digest(token.strip(b" ")), None
        for name, digest in self._digests.items():  # all of them, so that the time says nothing
            if hmac.compare_digest(given, digest):
                found = name
        return found if scheme.lower() == b"bearer" else None


def _digest(token: bytes) -> bytes:
    return sha256(token).digest()


def read_tokens(path: Path, *, create: bool = False) -> Tokens:
    """The tokens of a file: one a line, ``TOKEN`` or ``NAME TOKEN``; lines that begin with # are comments.

    With ``create`` a file with one token is made when there is none.  ProjectUntrusted when another user
    may read or has written it.
    """
    if create:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(path, f"{secrets.token_urlsafe(32)}\n".encode())
        except FileExistsError:
            pass
        except OSError as error:
            raise ProjectError(f"{path}: the token cannot be stored: {error.strerror or error}") from error
    tokens: dict[str, str] = {}
    for number, line in enumerate(_private_text(path).splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name = words[0] if len(words) == 2 else OWNER
        if len(words) > 2 or name in tokens:
            raise ProjectError(f"{path}, line {number}: it is TOKEN or NAME TOKEN, and no name comes twice")
        tokens[name] = words[-1]
    if not tokens:
        raise ProjectError(f"{path} has no token", hint="delete it, and one is made at the next start")
    return Tokens(tokens)


def _private_text(path: Path) -> str:
    """The text of a file that only this user can read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        hint = "a token is one line of at least 16 characters; chmod 600 it"
        raise ProjectError(f"{path}: {error.strerror}", hint=hint) from error
    with os.fdopen(descriptor, "rb") as opened:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ProjectError(f"{path} is no file")
        if found.st_uid != os.geteuid() or found.st_mode & OTHERS:
            raise ProjectUntrusted(
                f"{path} can be read or was written by others, and holds a secret", hint=f"chmod 600 {path}"
            )
        return opened.read(LARGEST).decode("ascii", "replace")


class Access:
    """The rules for one server: its tokens, its names, and the origins of pages that may ask."""

    def __init__(
        self, tokens: Tokens, *, hosts: Iterable[str] = LOOPBACK, origins: Iterable[str] = ()
    ) -> None:
        self.tokens = tokens
        self.hosts = frozenset(host.lower().strip("[]") for host in hosts)
        self.origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    def check_origin(self, headers: Mapping[bytes, bytes], scheme: str) -> None:
        """HttpRefused when the server is addressed by another's name, or a page of another asks."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if host_name(host) not in self.hosts:
            raise HttpRefused(
                421,
                f"this server is not {host_name(host)!r}",
                hint=f"its names are {', '.join(sorted(self.hosts))}; max serve --allow-host NAME adds one",
            )
        origin = headers.get(b"origin")
        if origin is None:
            return
        text = origin.decode("latin-1").lower()
        if text != f"{scheme}://{host}" and text not in self.origins:
            raise HttpRefused(
                403, f"pages of {text!r} may not ask here", hint="max serve --allow-origin URL allows one"
            )

    def identify(self, headers: Mapping[bytes, bytes]) -> str:
        """The name of the caller's token; HttpRefused (401) without a valid one."""
        name = self.tokens.name_of(headers.get(b"authorization", b""))
        if name is None:
            raise HttpRefused(
                401,
                "this needs a token",
                hint="send the header Authorization: Bearer TOKEN; max serve prints which file has it",
            )
        return name


def host_name(host: str) -> str:
    """The name in a header Host, without the port: ``[::1]:8765`` is ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, _, port = host.rpartition(":")
    return name if name and port.isdigit() and ":" not in name else host
