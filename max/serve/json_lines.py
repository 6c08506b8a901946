"""Messages as JSON lines, with a bound: what connections over sockets and over standard streams share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

from ..model.values import Json, refuse_constant

CHUNK = 65_536  # bytes that one read may bring


class LineSplitter:
    """The lines of a stream of bytes that comes in chunks; no more than ``longest`` bytes of one are kept."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self._held, self._skipping = bytearray(), False

    def feed(self, chunk: bytes) -> list[bytes | None]:
        """The lines that end in a chunk, without empty ones; None, at once, for one that is too long.

        An empty chunk is the end of the stream: what was held is its last line.
        """
        *ended, rest = chunk.split(b"\n")
        found: list[bytes | None] = []
        for part in ended:
            self._hold(part, found)
            if self._held.strip():
                found.append(bytes(self._held))
            self._held, self._skipping = bytearray(), False
        self._hold(rest, found)
        if not chunk and self._held.strip():
            found.append(bytes(self._held))
            self._held.clear()
        return found

    def _hold(self, part: bytes, found: list[bytes | None]) -> None:
        if not self._skipping and len(self._held) + len(part) > self.longest:
            found.append(None)
            self._held.clear()
            self._skipping = True
        if not self._skipping:
            self._held += part


def read_line(line: bytes) -> Json:
    """The JSON data of a line; ValueError says in words why it has none."""
    try:
        return json.loads(line.decode("utf-8"), parse_constant=refuse_constant)
    except UnicodeDecodeError:
        raise ValueError("the message is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the message is not JSON: {error}") from None


def to_line(message: Mapping[str, Json]) -> bytes:
    """A message as one line of ASCII."""
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def take_stdout() -> int:
    """A descriptor of stdout that is ours alone; whatever else is printed goes to stderr."""
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return ours
