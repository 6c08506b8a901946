"""Redaction: removing secrets from data, in every encoding that they may have there."""

from __future__ import annotations

import json
import math
import re
import threading
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote, quote_plus

from ..errors import RecordingError
from ..model.values import Json
from .credentials import Secret

MARK = "***"  # takes the place of a secret
SHORTEST = 6  # characters; to remove a shorter secret would damage everything else
SECRET_KEYS = frozenset({"access_token", "refresh_token", "id_token", "client_secret", "authorization"})


class Redactor:
    """Replaces secrets in texts, in every encoding that they may have there.

    ``known`` gives the secrets of the moment.  A secret that was learned once is always removed.
    """

    def __init__(self, known: Callable[[], Iterable[Secret]]) -> None:
        self._known = known
        self._learned: set[str] = set()
        self._forms: tuple[str, ...] = ()  # the longest first: one may be a part of another
        self._has_numbers = False  # whether some form could be a number
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Learn the secrets of the moment; RecordingError when one is too short."""
        for secret in self._known():
            self.learn(secret.reveal())

    def learn(self, secret: str) -> None:
        """Remove this secret from now on; RecordingError when it is too short."""
        if secret in self._learned or not secret.strip():
            return
        if len(secret) < SHORTEST:
            raise RecordingError(
                f"a secret of {len(secret)} characters is too short to be kept out of a recording",
                hint=f"record with a secret of at least {SHORTEST} characters",
            )
        found = {form for part in parts_of(secret) for form in forms_of(part)}
        with self._lock:
            self._learned.add(secret)
            self._forms = tuple(sorted({*self._forms, *found}, key=len, reverse=True))
            self._has_numbers = any(re.fullmatch(r"[-+.e\d]+", form) for form in self._forms)

    def text(self, text: str) -> str:
        """The text without secrets."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MARK)
        return text

    def bytes(self, data: bytes) -> bytes:
        """The bytes without secrets in UTF-8."""
        for form in self._forms:
            if (encoded := form.encode(errors="surrogatepass")) in data:
                data = data.replace(encoded, MARK.encode())
        return data

    def number(self, number: float) -> Json:
        """The number; the mark when its digits contain a secret."""
        return MARK if self._has_numbers and self.text(repr(number)) != repr(number) else number

    def check(self, line: str, what: str) -> None:
        """RecordingError when a line still contains a secret: one that equals a word of the file format."""
        if any(form in line for form in self._forms):
            raise RecordingError(
                f"{what}: a secret equals a word of the file format; the line was not written",
                hint="record with another credential",
            )


def parts_of(secret: str) -> list[str]:
    """A secret, each of its long lines, and each long text in it when it is JSON."""
    try:
        data = json.loads(secret)
    except (ValueError, RecursionError):
        data = None
    inside = list(_texts(data)) if isinstance(data, dict | list) else secret.split()
    return [secret, *(part for part in inside if len(part) >= 2 * SHORTEST)]


def _texts(data: Json) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict | list):
        for one in data.values() if isinstance(data, dict) else data:
            yield from _texts(one)


def forms_of(secret: str) -> set[str]:
    """The encodings of a secret: plain, in URLs, JSON, HTML, Python, base64 and hexadecimal."""
    from html import escape

    raw = secret.encode(errors="surrogatepass")
    urls = {quote(raw, safe=""), quote(raw), quote_plus(raw)}
    urls |= {re.sub("%..", lambda code: code[0].lower(), url) for url in urls} | {quote(url) for url in urls}
    escaped = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    escaped |= {one.replace("/", "\\/") for one in escaped} | {repr(secret)[1:-1], ascii(secret)[1:-1]}
    escaped |= {escape(secret), escape(secret, quote=False)}
    return {secret, *urls, *escaped, raw.hex(), raw.hex().upper(), *_base64_forms(raw)}


def _base64_forms(raw: bytes) -> Iterator[str]:
    """What every base64 text with these bytes contains, at whichever position they begin."""
    for before in range(3):
        data = b"\0" * before + raw
        first, last = math.ceil(8 * before / 6), 8 * len(data) // 6
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(data).decode()[first:last]
