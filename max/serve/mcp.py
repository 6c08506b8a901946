"""The Model Context Protocol: what each message means, in both of its eras.

Until 2025-11-25 a client begins with a handshake: ``initialize`` fixes the revision for the whole
connection.  Since 2026-07-28 there is none: every request names its revision in ``_meta``.  One
process serves both, and one connection may mix them.

Rule 1: a request always gets an answer, a notification never.  What is wrong with a message is an
error of JSON-RPC; what is wrong with a tool's arguments is the tool's answer, with the remedy in
words, since models read answers and clients hide errors.

Rule 2: one table, METHODS, says which method is served in which era.

Rule 3: nothing here reads or writes a stream (``stdio.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import MaxError, NotFound
from ..model.values import Json
from .json_lines import read_line

if TYPE_CHECKING:
    from .tools import Toolbox

HANDSHAKE = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
STATELESS = ("2026-07-28",)
BATCHES = "2025-03-26"  # the only revision with several messages in one

VERSION = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
SERVER = "io.modelcontextprotocol/serverInfo"

UNREADABLE, INVALID, NO_METHOD, BAD_PARAMS, INTERNAL = -32700, -32600, -32601, -32602, -32603
NO_VERSION = -32022  # since 2026-07-28
NO_RESOURCE = -32002  # before 2026-07-28; since then it is BAD_PARAMS

MINUTE, HOUR = 60_000, 3_600_000  # milliseconds for which a client may keep an answer
CAPABLE: Json = {"tools": {}, "resources": {}}

Params = Mapping[str, Json]


class Refusal(Exception):
    """An error of JSON-RPC: its code, what happened, and the facts."""

    def __init__(self, code: int, message: str, data: Json = None) -> None:
        super().__init__(message)
        self.code, self.data = code, data

    def to_json(self, id: str | int | None) -> dict[str, Json]:
        """The message that answers a request with it; without an id when that could not be read."""
        error = {"code": self.code, "message": str(self)} | ({} if self.data is None else {"data": self.data})
        return {"jsonrpc": "2.0", "id": id, "error": error}


def decoded(line: bytes) -> Json:
    """The JSON data of a line; Refusal when it has none."""
    try:
        return read_line(line)
    except ValueError as error:
        raise Refusal(UNREADABLE, str(error)) from None


class Connection:
    """One client: it takes messages and gives their answers, in order.

    ``revision`` is what the handshake agreed on; None before one, and in the stateless era.
    """

    def __init__(self, toolbox: Toolbox, version: str) -> None:
        self.revision: str | None = None
        self._toolbox = toolbox
        self._info: Json = {"name": "max", "title": "Max", "version": version}

    def answer(self, message: Json) -> Json:
        """The answer to a message, or to several in one; None when it needs none."""
        if not isinstance(message, list):
            return self._answer_one(message)
        if self.revision != BATCHES:
            return Refusal(INVALID, "send one message a line; several in one are not served").to_json(None)
        if not message:
            return Refusal(INVALID, "an empty batch").to_json(None)
        return [answer for one in message if (answer := self._answer_one(one)) is not None] or None

    def _answer_one(self, message: Json) -> Json:
        if not isinstance(message, dict):
            return Refusal(INVALID, "a message is a JSON object").to_json(None)
        if "method" not in message and ("result" in message or "error" in message):
            return None  # an answer, though nothing was asked
        id = message.get("id")
        known = id if isinstance(id, str | int) and not isinstance(id, bool) else None
        try:
            if not _is_request(message, known):
                return None  # a notification; what cancels a request is the stream's business
            result = self._result(message["method"], message.get("params", {}))
            return {"jsonrpc": "2.0", "id": known, "result": result}
        except Refusal as refusal:
            return refusal.to_json(known)
        except Exception as error:
            _report(error)
            return Refusal(INTERNAL, f"internal error: {type(error).__name__}; see stderr").to_json(known)

    def _result(self, name: str, params: Params) -> Json:
        meta = params.get("_meta", {})
        if not isinstance(meta, dict):
            raise Refusal(BAD_PARAMS, '"_meta" is an object')
        stateless = VERSION in meta or name == "server/discover"
        method = METHODS.get(name)
        if stateless:
            _check_meta(meta)
        elif self.revision is None and name not in ("initialize", "ping"):
            raise Refusal(BAD_PARAMS, f"begin with initialize, or name {VERSION} in _meta")
        if method is None or not (method.stateless if stateless else method.handshake):
            raise Refusal(NO_METHOD, f"the method {name!r} is not served")
        result = method.run(self, params)
        if not stateless:
            return result
        kept = {} if method.ttl is None else {"ttlMs": method.ttl, "cacheScope": "private"}
        return {"resultType": "complete", **result, **kept}

    # -- the methods ----------------------------------------------------------------------

    def _initialize(self, params: Params) -> dict[str, Json]:
        wanted = params.get("protocolVersion")
        if not isinstance(wanted, str):
            raise Refusal(BAD_PARAMS, '"protocolVersion" is a text')
        self.revision = wanted if wanted in HANDSHAKE else HANDSHAKE[-1]
        return {
            "protocolVersion": self.revision,
            "capabilities": CAPABLE,
            "serverInfo": self._info,
            "instructions": self._toolbox.instructions(),
        }

    def _discover(self, params: Params) -> dict[str, Json]:
        return {
            "supportedVersions": list(STATELESS),
            "capabilities": CAPABLE,
            "instructions": self._toolbox.instructions(),
            "_meta": {SERVER: self._info},
        }

    def _ping(self, params: Params) -> dict[str, Json]:
        return {}

    def _tools(self, params: Params) -> dict[str, Json]:
        _refuse_cursor(params)
        return {"tools": [tool.to_json() for tool in self._toolbox.tools.values()]}

    def _call(self, params: Params) -> dict[str, Json]:
        name, arguments = _text(params, "name"), params.get("arguments") or {}
        if not isinstance(arguments, dict):
            raise Refusal(BAD_PARAMS, '"arguments" is an object')
        if name not in self._toolbox.tools:
            raise Refusal(BAD_PARAMS, f"unknown tool {name!r}; one of: {', '.join(self._toolbox.tools)}")
        return self._toolbox.call(name, arguments)

    def _resources(self, params: Params) -> dict[str, Json]:
        _refuse_cursor(params)
        return {"resources": self._toolbox.resources()}

    def _templates(self, params: Params) -> dict[str, Json]:
        _refuse_cursor(params)
        return {"resourceTemplates": self._toolbox.templates()}

    def _read(self, params: Params) -> dict[str, Json]:
        uri = _text(params, "uri")
        try:
            return {"contents": [self._toolbox.read_resource(uri)]}
        except NotFound as error:
            code = BAD_PARAMS if VERSION in params.get("_meta", {}) else NO_RESOURCE
            raise Refusal(code, error.render(), {"uri": uri}) from error
        except MaxError as error:
            raise Refusal(BAD_PARAMS, error.render(), {"uri": uri}) from error


class Method(NamedTuple):
    """A method: what runs, in which era it is served, and how long its result may be kept.

    ``ttl`` is in milliseconds; None where the revision knows no such thing.
    """

    run: Callable[[Connection, Params], dict[str, Json]]
    handshake: bool = True
    stateless: bool = True
    ttl: int | None = None


METHODS = {
    "initialize": Method(Connection._initialize, stateless=False),
    "ping": Method(Connection._ping, stateless=False),
    "server/discover": Method(Connection._discover, handshake=False, ttl=MINUTE),
    "tools/list": Method(Connection._tools, ttl=HOUR),
    "tools/call": Method(Connection._call),
    "resources/list": Method(Connection._resources, ttl=HOUR),
    "resources/templates/list": Method(Connection._templates, ttl=HOUR),
    "resources/read": Method(Connection._read, ttl=0),
}


def _is_request(message: Mapping[str, Json], id: str | int | None) -> bool:
    """Whether a message wants an answer; Refusal when it is none of the protocol.  ``id`` is its valid id."""
    if message.get("jsonrpc") != "2.0" or not isinstance(message.get("method"), str):
        raise Refusal(INVALID, 'a request has "jsonrpc": "2.0", a "method" and an "id"')
    if "id" not in message:
        return False
    if id is None:
        raise Refusal(INVALID, 'the "id" of a request is a text or a whole number')
    if not isinstance(message.get("params", {}), dict):
        raise Refusal(BAD_PARAMS, '"params" is an object')
    return True


def _check_meta(meta: Mapping[str, Any]) -> None:
    """Refusal unless a stateless request says its revision, which is served, and its capabilities."""
    version = meta.get(VERSION)
    if not isinstance(version, str):
        raise Refusal(BAD_PARAMS, f"_meta needs {VERSION}")
    if version not in STATELESS:
        served = {"supported": list(STATELESS), "requested": version}
        raise Refusal(NO_VERSION, "this revision is not served without a handshake", served)
    if not isinstance(meta.get(CAPABILITIES), dict):
        raise Refusal(BAD_PARAMS, f"_meta needs {CAPABILITIES}, an object")


def _text(params: Params, name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str):
        raise Refusal(BAD_PARAMS, f'"{name}" is a text')
    return value


def _refuse_cursor(params: Params) -> None:
    """Refusal of a page that does not exist: every list is one page."""
    if params.get("cursor") is not None:
        raise Refusal(BAD_PARAMS, "the cursor is none of this list, which has one page")


def _report(error: Exception) -> None:
    """A bug, on stderr for the person who runs the server."""
    from traceback import print_exception

    print_exception(error, file=sys.stderr)
