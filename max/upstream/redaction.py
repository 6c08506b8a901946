"""Redaction: taking secrets out of data, in every form in which they may stand there."""

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

MARK = "***"  # what stands where a secret was
SHORTEST = 6  # characters of a secret that can be taken out without taking out everything else
SECRET_KEYS = frozenset({"access_token", "refresh_token", "id_token", "client_secret", "authorization"})


class Scrubber:
    """Takes secrets out of texts, in every encoding that they may have taken.

    ``seen`` tells the secrets that are known now; those that are learned are known for ever.
    """

    def __init__(self, seen: Callable[[], Iterable[Secret]]) -> None:
        self._seen = seen
        self._known: set[str] = set()
        self._forms: tuple[str, ...] = ()  # the longest first: one may be a part of another
        self._digits = False  # whether a number may be a secret
        self._learning = threading.Lock()

    def refresh(self) -> None:
        """Look which secrets there are now; RecordingError for one that is too short."""
        for secret in self._seen():
            self.learn(secret.reveal())

    def learn(self, secret: str) -> None:
        """Take this one out, too, from now on."""
        if secret in self._known or not secret.strip():
            return
        if len(secret) < SHORTEST:
            raise RecordingError(
                f"a secret of {len(secret)} characters cannot be kept out of a recording",
                hint=f"record with one of at least {SHORTEST} characters",
            )
        found = {form for part in parts_of(secret) for form in forms_of(part)}
        with self._learning:
            self._known.add(secret)
            self._forms = tuple(sorted({*self._forms, *found}, key=len, reverse=True))
            self._digits = any(re.fullmatch(r"[-+.e\d]+", form) for form in self._forms)

    def text(self, text: str) -> str:
        """The text without secrets."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MARK)
        return text

    def bytes(self, data: bytes) -> bytes:
        """Bytes without secrets, as UTF-8 writes them."""
        for form in self._forms:
            if (written := form.encode(errors="surrogatepass")) in data:
                data = data.replace(written, MARK.encode())
        return data

    def number(self, number: float) -> Json:
        """The number; the mark when its digits hold a secret."""
        return MARK if self._digits and self.text(repr(number)) != repr(number) else number

    def refuse(self, line: str, operation: str) -> None:
        """RecordingError when a line still holds a secret: one that equals a word of the file format."""
        if any(form in line for form in self._forms):
            raise RecordingError(
                f"{operation}: a secret is part of the recording's own words; the attempt was not written",
                hint="record with another credential",
            )


def parts_of(secret: str) -> list[str]:
    """A secret, each long line of it, and each long text in it when it is JSON."""
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
    """How a secret may be written: as it is, escaped for URLs, JSON, HTML and Python, in base64 and hex."""
    from html import escape

    raw = secret.encode(errors="surrogatepass")
    urls = {quote(raw, safe=""), quote(raw), quote_plus(raw)}
    urls |= {re.sub("%..", lambda code: code[0].lower(), url) for url in urls} | {quote(url) for url in urls}
    escaped = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    escaped |= {one.replace("/", "\\/") for one in escaped} | {repr(secret)[1:-1], ascii(secret)[1:-1]}
    escaped |= {escape(secret), escape(secret, quote=False)}
    return {secret, *urls, *escaped, raw.hex(), raw.hex().upper(), *_base64_forms(raw)}


def _base64_forms(raw: bytes) -> Iterator[str]:
    """What every base64 text that holds these bytes must contain, wherever in it they begin."""
    for before in range(3):
        data = b"\0" * before + raw
        first, last = math.ceil(8 * before / 6), 8 * len(data) // 6
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(data).decode()[first:last]
