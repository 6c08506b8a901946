"""The Model Context Protocol over HTTP: one message a request, and no session.

Rule 1: every request has what is needed to answer it.  A client of the handshake era says its revision
in ``MCP-Protocol-Version``; nothing is remembered of its handshake.  Since 2026-07-28 the body says it, and
the headers repeat it, the method and the name: where they differ the request is refused, since a
proxy in between may have judged it by them.

Rule 2: there is no stream from the server: GET and DELETE are 405.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..model.values import Json
from .mcp import (
    BATCHES,
    HANDSHAKE,
    INTERNAL,
    INVALID,
    NO_METHOD,
    NO_VERSION,
    STATELESS,
    UNREADABLE,
    VERSION,
    Connection,
    Refusal,
    decoded,
)

if TYPE_CHECKING:
    from .tools import Toolbox

MISMATCH = -32020  # since 2026-07-28: headers that are missing, or do not say what the body says
NAMED = {"tools/call": "name", "resources/read": "uri", "prompts/get": "name"}  # what Mcp-Name repeats
ENCODED = ("=?base64?", "?=")  # around the value of a header that is no plain text
STATUSES = {UNREADABLE: 400, INVALID: 400, NO_VERSION: 400, MISMATCH: 400, NO_METHOD: 404, INTERNAL: 500}


def answer(toolbox: Toolbox, version: str, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, bytes]:
    """The status and the body for one message; blocks while a tool runs."""
    connection = Connection(toolbox, version)
    message: Json = None
    try:
        message = decoded(body)
        connection.revision = revision_of(message, headers)
        found = connection.answer(message)
    except Refusal as refusal:
        id = message.get("id") if isinstance(message, dict) else None
        found = refusal.to_json(id if isinstance(id, str | int) and not isinstance(id, bool) else None)
    if found is None:
        return 202, b""
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    return status_of(found, stateless=_is_stateless(message)), text.encode("utf-8", "backslashreplace")


def status_of(answer: Json, *, stateless: bool) -> int:
    """The status of an answer: errors of the protocol have their own, those of a call are 200."""
    code = answer.get("error", {}).get("code") if isinstance(answer, dict) else None
    if code is None or (code == NO_METHOD and not stateless):
        return 200
    return STATUSES.get(code, 400 if stateless else 200)


def revision_of(message: Json, headers: Mapping[bytes, bytes]) -> str | None:
    """The revision of the handshake era in which a message comes; None for one without a handshake."""
    given = headers.get(b"mcp-protocol-version", b"").decode("latin-1")
    if _is_stateless(message):
        _check_headers(message, given, headers)
        return None
    if given and given not in HANDSHAKE:
        data = {"supported": [*HANDSHAKE, *STATELESS], "requested": given}
        raise Refusal(NO_VERSION, f"the revision {given!r:.40} is not served in this form", data)
    return given or BATCHES  # as the revision that introduced the header says


def _is_stateless(message: Json) -> bool:
    params = message.get("params") if isinstance(message, dict) else None
    meta = params.get("_meta") if isinstance(params, dict) else None
    return isinstance(meta, dict) and VERSION in meta


def _check_headers(message: Any, version: str, headers: Mapping[bytes, bytes]) -> None:
    """Refusal where a header does not say what the body says."""
    params, method = message["params"], message.get("method")
    said: dict[str, tuple[str, Json]] = {
        "MCP-Protocol-Version": (version, params["_meta"][VERSION]),
        "Mcp-Method": (_text(headers, b"mcp-method"), method),
    }
    if isinstance(method, str) and method in NAMED:
        said["Mcp-Name"] = (_text(headers, b"mcp-name"), params.get(NAMED[method]))
    for name, (given, meant) in said.items():
        if given != meant:
            raise Refusal(MISMATCH, f"the header {name} says {given!r:.80}, and the body {meant!r:.80}")


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str:
    value = headers.get(name, b"").decode("latin-1")
    begin, end = ENCODED
    if value.startswith(begin) and value.endswith(end):
        try:
            return b64decode(value[len(begin) : -len(end)], validate=True).decode("utf-8")
        except ValueError:
            raise Refusal(MISMATCH, f"the header {name.decode()} is not base64 of UTF-8") from None
    return value
