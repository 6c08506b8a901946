"""Redaction: removing secrets from data, in every encoding that they may have there.

What people and other programs read (failures, events, logs, output, recordings) gets ``***`` in place
of a secret.  A cursor that holds one must work again, also in another process: it is *sealed* before
it is stored, with a name in place of the secret, and unsealed for the request.  For example, with
the credential ``api_key``:

    from the service   https://api.example.com/things?after=7&access_token=tok%2F1234
    stored             https://api.example.com/things?after=7&access_token=⟨api_key.0.1⟩
    in a message       https://api.example.com/things?after=7&access_token=***

The numbers say which part of the secret it is, and in which encoding.  A secret that was renewed
meanwhile comes back as the new one.  What a service sends cannot pass for a sealed secret: the
brackets are escaped.
"""

from __future__ import annotations

import json
import math
import re
import threading
from base64 import b32encode, b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from ..errors import RecordingError
from ..model.values import Json

if TYPE_CHECKING:
    from .credentials import Secret

MARK = "***"  # takes the place of a secret
SHORTEST = 6  # characters; to remove a shorter secret would damage everything else
PIECE = 10  # characters by which the beginning of a longer secret is recognised, however each is written
BEGINNING = re.compile(
    rf"(?:\\u[0-9a-fA-F]{{4}}|\\x[0-9a-fA-F]{{2}}|%[0-9a-fA-F]{{2}}|&#x?[0-9a-fA-F]+;|.){{1,{PIECE}}}",
    re.DOTALL,
)
IN_HEX = re.compile(r"(?:(?:\\u00|\\x|%|&#x|[-:, ]*)[0-9a-f]{2};?)+")  # a form whose letters are digits
SECRET_KEYS = frozenset({"access_token", "refresh_token", "id_token", "client_secret", "authorization"})
OPEN, CLOSE = "\ue000", "\ue001"  # around a sealed secret; characters that have no meaning
SEALED = re.compile(f"{OPEN}(?:({OPEN})|([^{OPEN}{CLOSE}]*)\\.([0-9]+)\\.([0-9]+){CLOSE})")


class Redactor:
    """Replaces secrets in texts, in every encoding that they may have there.

    ``known`` gives the secrets of the moment.  A secret that was learned once is always removed.
    """

    def __init__(self, known: Callable[[], Iterable[Secret]] = tuple) -> None:
        self._known = known
        self._learned: dict[str, dict[str, str]] = {}  # by secret, what takes the place of each form
        self._sealed: dict[str, str] = {}  # of all secrets
        self._forms: tuple[str, ...] = ()  # the longest first: one may be a part of another
        self._in_hex: tuple[str, ...] = ()  # the forms that mean the same in capitals
        self._whole: frozenset[str] = frozenset()  # the forms without white space
        self._heads: frozenset[str] = frozenset()  # how these begin
        self._has_numbers = False  # whether some form could be a number
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Learn the secrets of the moment; RecordingError when one is too short."""
        for secret in self._known():
            self.learn(secret.reveal())

    def learn(self, secret: str, name: str = "") -> None:
        """Remove this secret from now on; RecordingError when it is too short."""
        if secret in self._learned or not secret.strip():
            return
        if len(secret) < SHORTEST:
            raise RecordingError(
                f"a secret of {len(secret)} characters is too short to be kept out of a recording",
                hint=f"record with a secret of at least {SHORTEST} characters",
            )
        sealed: dict[str, str] = {}
        for number, part in enumerate(parts_of(secret)):
            for encoding, form in enumerate(forms_of(part)):
                sealed.setdefault(form, f"{OPEN}{name}.{number}.{encoding}{CLOSE}")
        with self._lock:
            self._learned[secret] = sealed
            self._build()

    def knows(self, secret: str) -> bool:
        """Whether a secret was learned, by itself or as a part or an encoding of another."""
        return secret in self._sealed

    def forget(self, secret: str) -> None:
        """Leave this secret alone from now on."""
        with self._lock:
            self._learned.pop(secret, None)
            self._build()

    def _build(self) -> None:
        self._sealed = {form: mark for one in self._learned.values() for form, mark in one.items()}
        self._forms = tuple(sorted(self._sealed, key=len, reverse=True))
        self._whole = frozenset("".join(form.split()) for form in self._forms) - {""}
        self._heads = frozenset(found[0] for found in map(BEGINNING.match, self._whole) if found)
        self._in_hex = tuple(form for form in self._forms if IN_HEX.fullmatch(form))
        self._has_numbers = any(re.fullmatch(r"[-+.e\d]+", form) for form in self._forms)

    def text(self, text: str) -> str:
        """The text without secrets."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MARK)
        return text

    def message(self, text: str) -> str:
        """The text without secrets, and without the beginning of one that was cut off.

        White space does not hide one: a service may wrap what it repeats, as MIME does with base64.
        """
        small = text.lower()
        for form in self._in_hex:
            if form in small:
                text = re.sub(re.escape(form), MARK, text, flags=re.IGNORECASE | re.ASCII)
        text = self.text(text)
        joined = "".join(text.split())
        if not any(head in joined for head in self._heads):
            return text
        places = [
            at for at, character in enumerate(text) if not character.isspace()
        ]  # of joined, in the text
        pattern, parts, at, end = re.compile("|".join(map(re.escape, self._heads))), list[str](), 0, 0
        while found := pattern.search(joined, at):
            at = found.start() + max(_common_prefix(form, joined, found.start()) for form in self._whole)
            parts += [text[end : places[found.start()]], MARK]
            end = places[at - 1] + 1
        return "".join([*parts, text[end:]])

    def facts(self, data: Json) -> Json:
        """JSON data whose texts and keys are messages."""
        return self._cleaned(data) if self._forms else data

    def clean(self, error: BaseException) -> None:
        """Remove the secrets from an error and from those that led to it: messages, facts and notes.

        One that led to it and cannot be cleaned is dropped.
        """
        waiting, known = [error], {id(error)}
        while self._forms and waiting:
            one = waiting.pop()
            before = [found for found in (one.__cause__, one.__context__) if found is not None]
            inside = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
            for each in [*before, *inside]:
                if id(each) not in known:
                    known.add(id(each))
                    waiting.append(each)
            for each in [one, *before]:
                self._clean_one(each)
            if any(map(self._shows, before)):
                one.__cause__ = one.__context__ = None

    def _clean_one(self, error: BaseException) -> None:
        for name, value in vars(error).items():
            vars(error)[name] = self._cleaned(value)
        for name in ("filename", "filename2", "strerror", "code"):  # which OSError and SystemExit show
            if isinstance(value := getattr(error, name, None), str) and self.message(value) != value:
                setattr(error, name, self.message(value))
        error.args = tuple(map(self._argument, error.args))

    def _cleaned(self, value: Any) -> Any:
        """A value of an error without secrets, also in its keys; what is not plain data stays as it is."""
        if isinstance(value, str):
            return self.message(value)
        if isinstance(value, bytes):
            return self.bytes(value)
        if isinstance(value, dict):
            return {self._cleaned(key): self._cleaned(one) for key, one in value.items()}
        return type(value)(map(self._cleaned, value)) if type(value) in (list, tuple, set) else value

    def _argument(self, value: Any) -> Any:
        """An argument of an error; its text when it is no plain data, and shows a secret."""
        value = self._cleaned(value)
        text = f"{value!s} {value!r}"
        return value if self.message(text) == text else self.message(str(value))

    def _shows(self, error: BaseException) -> bool:
        return self.message(str(error)) != str(error)

    @contextmanager
    def cleaning(self) -> Iterator[None]:
        """Errors that are raised inside leave without secrets; as RuntimeError if they keep their words."""
        try:
            yield
        except BaseException as error:
            self.clean(error)
            if self._shows(error):
                raise RuntimeError(self.message(f"{type(error).__name__}: {error}")) from None
            raise

    def seal(self, text: str) -> str:
        """The text with names in place of secrets; ``unsealed`` is the inverse."""
        if OPEN not in text and not any(form in text for form in self._forms):
            return text
        pattern = re.compile("|".join(map(re.escape, (OPEN, *self._forms))))
        return pattern.sub(lambda found: self._sealed.get(found[0], OPEN * 2), text)

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


def sealed_names(text: str) -> set[str]:
    """The names of the secrets that a sealed text leaves out."""
    return {found[2] for found in SEALED.finditer(text) if not found[1]}


def unsealed(text: str, secret_of: Callable[[str], str]) -> str:
    """A sealed text with its secrets, which ``secret_of`` gives by name; LookupError when one is gone."""

    def put_back(found: re.Match[str]) -> str:
        if found[1]:
            return OPEN
        return forms_of(parts_of(secret_of(found[2]))[int(found[3])])[int(found[4])]

    return SEALED.sub(put_back, text)


def _common_prefix(form: str, text: str, at: int) -> int:
    """How many characters of a form are at a place of a text."""
    same = 0
    while same < len(form) and form[same : same + 1] == text[at + same : at + same + 1]:
        same += 1
    return same


def map_texts(data: Json, change: Callable[[str], str]) -> Json:
    """JSON data with every text changed, except the keys."""
    if isinstance(data, str):
        return change(data)
    if isinstance(data, list):
        return [map_texts(one, change) for one in data]
    return {key: map_texts(one, change) for key, one in data.items()} if isinstance(data, dict) else data


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


def forms_of(secret: str) -> list[str]:
    """The encodings of a secret: plain, in URLs, JSON, HTML, Python, base64, base32 and hexadecimal.

    What encodes it in another way, or twice, hides it: a service that means to do so can.

    Each has its own place, where stored cursors expect it: new ones go to the end.
    """
    raw = secret.encode(errors="surrogatepass")
    urls = [quote(raw, safe=""), quote(raw), quote_plus(raw)]
    urls += [*(re.sub("%..", lambda code: code[0].lower(), url) for url in urls), *map(quote, urls)]
    escaped = [json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]]
    escaped += [*(one.replace("/", "\\/") for one in escaped), repr(secret)[1:-1], ascii(secret)[1:-1]]
    html = secret.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped += [html.replace('"', "&quot;").replace("'", "&#x27;"), html]
    return [secret, *urls, *escaped, raw.hex(), raw.hex().upper(), *_base64_forms(raw), *_spelled(secret)]


def _base64_forms(raw: bytes) -> Iterator[str]:
    """What every base64 text with these bytes contains, at whichever position they begin."""
    for before in range(3):
        data = b"\0" * before + raw
        first, last = math.ceil(8 * before / 6), 8 * len(data) // 6
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(data).decode()[first:last]


def _spelled(secret: str) -> Iterator[str]:
    """Each byte or character as a number of its own, in small letters and capitals; and base32."""
    raw, wide = secret.encode(errors="surrogatepass"), secret.encode("utf-16-be", errors="surrogatepass")
    for digits in ("{:02x}", "{:02X}"):
        pairs = [digits.format(byte) for byte in raw]
        yield from (between.join(pairs) for between in (":", "-", " ", ", "))
        yield from ("".join(before + pair for pair in pairs) for before in ("%", "\\x"))
        units = zip(wide[::2], wide[1::2], strict=True)
        yield "".join("\\u" + digits.format(high) + digits.format(low) for high, low in units)
        yield "".join(f"&#x{digits.format(ord(one))};" for one in secret)
    yield "".join(f"&#{ord(one)};" for one in secret)
    for before in range(5):
        data = b"\0" * before + raw
        yield b32encode(data).decode()[math.ceil(8 * before / 5) : 8 * len(data) // 5]
