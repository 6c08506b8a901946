"""Text and JSON in which nothing hides: what upstream wrote controls no terminal and no reader.

A character that could control a terminal, change the order of others or show nothing is spelled out.
"""

from __future__ import annotations

import json
import re

from .values import Json

JOINER = "\u200d"  # joins two emoji into one
NON_JOINER = "\u200c"  # keeps two letters of Persian and others apart
EMOJI_STYLE = "\ufe0f"  # makes the character before it an emoji, two cells wide
# Characters that control a terminal, change the order of others or show nothing.  Text can hide in
# the last: the tags from U+E0000 spell ASCII, and variants of a character count any number.
HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
SHAPING = frozenset({JOINER, NON_JOINER, *map(chr, range(0xFE00, 0xFE10))})  # the character before them
SPACES = "\t\n\v\f\r\u2028\u2029"


def sanitize(text: str) -> str:
    """The text on one line; characters that could control a terminal, or hide, are spelled out."""
    return text if text.isascii() and text.isprintable() else HIDDEN.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    character = found[0]
    if character in SPACES:
        return " "
    if _shapes(found.string, found.start()):
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _shapes(text: str, at: int) -> bool:
    """Whether an invisible character only shapes the visible one before it, as in emoji and Persian."""
    before, character = text[at - 1 : at], text[at]
    if character == JOINER and before == EMOJI_STYLE:
        return _shapes(text, at - 1)
    if character in SHAPING:
        return (before > "\xa8" or before in "0123456789#*") and before != "" and not HIDDEN.match(before)
    return "\U000e0100" <= character <= "\U000e01ef" and "\u3400" <= before <= "\u9fff"  # of an ideograph


def json_text(value: Json, *, indent: int | None = None) -> str:
    """JSON in which no character can control a terminal, or hide."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, ensure_ascii=False, separators=separators, indent=indent)
    return text if text.isascii() and "\x7f" not in text else HIDDEN.sub(spelled_in_json, text)


def spelled_in_json(found: re.Match[str]) -> str:
    """What HIDDEN found, as JSON escapes it; line ends and what shapes a visible character stay."""
    kept = found[0] == "\n" or _shapes(found.string, found.start())  # line ends are those of the indentation
    return found[0] if kept else escaped(found[0])


def escaped(text: str) -> str:
    """Every character as JSON escapes it; one beyond U+FFFF is two."""
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(units[::2], units[1::2], strict=True))


def visible(value: Json) -> Json:
    """JSON data whose texts hide nothing; their lines stay lines."""
    if isinstance(value, str):
        return value if value.isascii() and value.isprintable() else HIDDEN.sub(_spelled_in_lines, value)
    if isinstance(value, list):
        return [visible(one) for one in value]
    if isinstance(value, dict):
        return {sanitize(name): visible(one) for name, one in value.items()}
    return value


def _spelled_in_lines(found: re.Match[str]) -> str:
    return found[0] if found[0] in "\n\t" else _spelled(found)
