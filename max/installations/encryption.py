"""Keys: secrets that lie in a database are sealed with a key that the operator holds.

``MAX_KEY`` says where the keys are: ``file:PATH`` (which its owner alone can read), ``env:VARIABLE``, or
``command:WORDS``, which prints them, as the client of a vault does.  One key a line; lines that begin with
``#`` are notes.  **The first one seals, and all of them open**, so a key is replaced in three steps: put a
new one in front, ``max keys rotate``, take the old one away.

A key is 32 random bytes (``max keys new``) for AES-256-GCM.  What is sealed is bound to its installation,
the origin that it is for and its name: moved to another row it cannot be opened, so that no one who may
only write to the database can have a secret sent elsewhere.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import KeyMissing, KeyWrong, MissingExtra, StorageCorrupt

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VARIABLE = "MAX_KEY"
BYTES = 32  # of a key
NONCE = 12  # bytes of a nonce, which no two texts share
MOST = 100_000  # characters of all keys
PATIENCE = 60.0  # seconds that a command may take
HOW = f"set {VARIABLE}=file:PATH; max keys new makes a key"


class Key(NamedTuple):
    """A key, and the id by which what it sealed names it."""

    id: str
    value: bytes


def new_key() -> str:
    """A new random key, as text."""
    return urlsafe_b64encode(os.urandom(BYTES)).decode()


def keys_from(spec: str) -> Keys:
    """The keys of ``file:PATH``, ``env:VARIABLE`` or ``command:WORDS``.

    KeyMissing when there are none, or when others could read their file; no message repeats a key.
    """
    kind, _, place = spec.partition(":")
    read = {"file": _from_file, "env": _from_variable, "command": _from_command}.get(kind)
    if read is None or not place:
        raise KeyMissing(f"{VARIABLE} is file:PATH, env:VARIABLE or command:WORDS", hint=HOW)
    lines = [line.strip() for line in read(place).splitlines()]
    return Keys([_key(line) for line in lines if line and not line.startswith("#")], spec)


def keys_of_environment() -> Keys:
    """The keys that ``MAX_KEY`` leads to; KeyMissing without it."""
    spec = os.environ.get(VARIABLE, "")
    if not spec:
        problem = "the secrets of this project are sealed, and no key is given"
        raise KeyMissing(problem, hint=HOW)
    return keys_from(spec)


def keyed_digest(key: bytes, *texts: str) -> str:
    """What is the same for the same texts, and tells nothing of them to one without the key."""
    import hmac

    words = "".join(f"{len(one)}:{one}" for one in texts).encode("utf-8", "surrogatepass")
    return hmac.new(key, words, "sha256").hexdigest()


class Keys:
    """The keys of a project; the first one seals, and all of them open."""

    def __init__(self, keys: Sequence[Key], source: str = "") -> None:
        if not keys:
            raise KeyMissing(f"there is no key in {source or 'what was given'}", hint=HOW)
        self.keys, self._source = tuple(keys), source

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(one.id for one in self.keys)})"

    @property
    def newest(self) -> str:
        """The id of the key that seals."""
        return self.keys[0].id

    def seal(self, secret: str, *about: str | None) -> str:
        """A secret, sealed with the first key, and bound to what it is about."""
        nonce = os.urandom(NONCE)
        sealed = _cipher(self.keys[0]).encrypt(nonce, secret.encode("utf-8", "surrogatepass"), _bound(about))
        return urlsafe_b64encode(nonce + sealed).decode()

    def digest(self, *texts: str) -> str:
        """What is the same for the same texts, and tells nothing of them to one without the first key."""
        return keyed_digest(self.keys[0].value, *texts)

    def open(self, key: str, sealed: str, *about: str | None) -> str:
        """The secret that was sealed with the key of this id, about the same.

        KeyWrong without that key; StorageCorrupt when it was changed, or is about something else.
        """
        known = next((one for one in self.keys if one.id == key), None)
        what = f"{about[-1]!r} of the installation {about[0]}"
        if known is None:
            ids = ", ".join(one.id for one in self.keys)
            raise KeyWrong(
                f"the secret {what} is sealed with the key {key}, and {self._source or 'here'} has {ids}",
                hint="add the former key below the new one, then: max keys rotate",
            )
        from cryptography.exceptions import InvalidTag

        try:
            raw = urlsafe_b64decode(sealed)
            return (
                _cipher(known)
                .decrypt(raw[:NONCE], raw[NONCE:], _bound(about))
                .decode("utf-8", "surrogatepass")
            )
        except (InvalidTag, ValueError) as error:
            raise StorageCorrupt(
                f"the secret {what} cannot be opened: it was changed, or belongs to something else",
                hint="give it again: max connect NAME --update --credential NAME=env:VARIABLE",
            ) from error


def _cipher(key: Key) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise MissingExtra("postgres", "cryptography", "secrets in a database") from error
    return AESGCM(key.value)


def _bound(about: Sequence[str | None]) -> bytes:
    return json.dumps(about).encode()


def _key(text: str) -> Key:
    from hashlib import sha256

    try:
        value = urlsafe_b64decode(text)
    except ValueError:
        value = b""
    if len(value) != BYTES:
        raise KeyMissing(f"a line is no key: {BYTES} bytes in base64", hint="max keys new makes one")
    return Key(sha256(b"max key" + value).hexdigest()[:8], value)


def _from_variable(name: str) -> str:
    if not os.environ.get(name):
        raise KeyMissing(f"the environment variable {name} is not set", hint=HOW)
    return os.environ[name]


def _from_file(place: str) -> str:
    path = Path(place).expanduser()
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise KeyMissing(
                f"{path}: other users can reach it (mode {mode:04o})",
                hint=f"chmod 600 {path}; where others could read it, replace the key as well",
            )
        with path.open(encoding="ascii") as file:
            return file.read(MOST)
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it holds no keys"
        raise KeyMissing(f"the file {path} cannot be read: {problem}", hint=HOW) from None


def _from_command(words: str) -> str:
    """What a command prints; its own words on stderr are for the one who runs this process."""
    command = shlex.split(words)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=PATIENCE, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KeyMissing(f"the command {command[0]} gave no key ({type(error).__name__})", hint=HOW) from None
    if done.returncode != 0:
        raise KeyMissing(f"the command {command[0]} ended with status {done.returncode}", hint=HOW)
    return done.stdout.decode("ascii", "replace")[:MOST]


KeySource = Callable[[], Keys]
