"""The HTTP face of a project: one ASGI app, for our own server and for a host's.

    POST /v1/METHOD          {"parameter": …} → {"result": …} or {"error": {code, message, hint, data}}
    GET  /v1/METHOD?…        the same, for methods that read
    GET  /events?…           events as server-sent events
    POST /prompts/CALL/N     {"answer": …} to a question of a call that streams
    POST /mcp                the Model Context Protocol
    POST /hooks/INSTALLATION a service's webhook
    GET  /health /ready /metrics /openapi.json

Rule 1: what may be asked, and with which parameters, is in ``methods.METHODS`` alone.

Rule 2: a request is checked before anything of it is read: who asks and by which name (``http_access``),
then whether there is room.  What is too long, too slow or too much has its status and its words.

Rule 3: an error is one of ours, with the status of STATUSES; any other is a bug, is logged, and is 500.

Rule 4: the app starts nothing before it is asked, and a stream ends when its reader goes away.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from ..core import in_thread, logger
from ..errors import HttpRefused, MaxError, UsageError
from ..model.actor import acting_as
from ..model.values import Json, refuse_constant
from ..upstream.webhooks import LONGEST_BODY
from .arguments import Parameter
from .hooks import Hooks
from .http_access import LOOPBACK, Access, Tokens
from .http_streams import EVENTS, PLAIN, WIRE, EventStream, Prompts
from .method import Method
from .methods import METHODS, Methods
from .metrics import Metrics
from .openapi import TEXT, describe
from .plain_json import plain
from .protocol import Bounds, fault
from .streams import Stream
from .wire import Wire

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.asgi import Message, Receive, Scope, Send
    from ..model.middleware import MethodCall, Middleware
    from ..project import Project
    from .http_server import HttpServer
    from .tools import Toolbox

log = logger("http")

# The status of an error, by its code or the beginning of it; the longest match counts.
STATUSES = {
    "": 500,
    "usage": 400,
    "schema": 409,
    "connector": 409,
    "connector.fault": 502,
    "entity": 400,
    "not_found": 404,
    "project": 409,
    "project.untrusted": 403,
    "storage": 500,
    "storage.empty": 409,
    "storage.locked": 503,
    "storage.full": 507,
    "sync": 409,
    "history": 409,
    "history.expired": 410,
    "extra": 501,
    "recording": 409,
    "replay": 409,
    "hook": 403,
    "upstream": 502,
    "upstream.offline": 504,
    "upstream.missing": 404,
    "daemon": 503,
    "daemon.protocol": 400,
    "daemon.fault": 500,
    "interrupted": 503,
}


HOOKS = "/hooks/"
LISTED = "GET /openapi.json says what there is"


class RequestBounds(NamedTuple):
    """What one request may take.  Times are seconds, sizes bytes."""

    body: int = 1_000_000
    body_time: float = 30.0  # from the first byte to the last
    write_time: float = 20.0  # for a reader of a stream that takes nothing
    keep_alive: float = 15.0  # after which a stream with nothing to say sends a comment
    streams: int = 64  # open at once


class Request:
    """One request, without its body."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.method: str = scope["method"]
        root: str = scope.get("root_path", "").rstrip("/")
        self.path: str = scope["path"].removeprefix(root) if root else scope["path"]
        self.scheme: str = scope.get("scheme", "http")
        self.query: bytes = scope.get("query_string", b"")
        self.headers: Mapping[bytes, bytes] = {name.lower(): value for name, value in scope["headers"]}
        self.caller = ""  # the name of the token
        self.receive = receive

    @property
    def accepts(self) -> str:
        """The types that the caller reads, in lower case."""
        return self.headers.get(b"accept", b"*/*").decode("latin-1").lower()

    async def body(self, bounds: RequestBounds) -> bytes:
        """The whole body; HttpRefused when it is too long, too slow or incomplete."""
        too_long = HttpRefused(413, f"a body has at most {bounds.body:,} bytes")
        length = self.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:18]) > bounds.body:
            raise too_long
        found = bytearray()
        try:
            async with asyncio.timeout(bounds.body_time):
                while True:
                    message = await self.receive()
                    if message["type"] != "http.request":
                        raise ConnectionResetError("the client went away")
                    found += message.get("body", b"")
                    if len(found) > bounds.body:
                        raise too_long
                    if not message.get("more_body", False):
                        return bytes(found)
        except TimeoutError:
            raise HttpRefused(408, f"a body has {bounds.body_time:g} s to arrive") from None

    async def json(self, bounds: RequestBounds) -> dict[str, Json]:
        """The object that the body holds; empty without a body."""
        kind = self.headers.get(b"content-type", PLAIN.encode()).decode("latin-1")
        if kind.partition(";")[0].strip().lower() not in (PLAIN, WIRE):
            raise HttpRefused(415, f"a body is {PLAIN}, not {kind!r:.80}", hint="curl: --json '{…}'")
        body = await self.body(bounds)
        if not body.strip():
            return {}
        try:
            found = json.loads(body.decode("utf-8"), parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            raise HttpRefused(400, f"the body is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise HttpRefused(400, "the body is a JSON object")
        return found


class Response(NamedTuple):
    """An answer that is whole."""

    status: int
    body: bytes = b""
    kind: str = PLAIN
    headers: Sequence[tuple[str, str]] = ()

    async def send(self, send: Send) -> None:
        """Send it."""
        headers = {
            "content-type": self.kind,
            "content-length": str(len(self.body)),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            **dict(self.headers),
        }
        if not self.body:
            del headers["content-type"]
        pairs = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": pairs})
        await send({"type": "http.response.body", "body": self.body})


def encoded(data: Json) -> bytes:
    """JSON data as a body."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(
        "utf-8", "backslashreplace"
    )


def json_response(data: Json) -> Response:
    """An answer of JSON data."""
    return Response(200, encoded(data))


def error_response(error: MaxError, kind: str = PLAIN) -> Response:
    """The answer for an error: its status, and when to come again where that is known."""
    headers = []
    status = status_of(error)
    if status == 401:
        headers.append(("www-authenticate", 'Bearer realm="max"'))
    if isinstance(error, HttpRefused) and error.allow:
        headers.append(("allow", error.allow))
    wait = getattr(error, "retry_after", None)
    if status == 503 or wait is not None:
        headers.append(("retry-after", str(max(1, round(wait or 1)))))
    body = Wire().encode_whole(error) if kind == WIRE else plain(error)
    return Response(status, encoded({"error": body}), kind, headers)


def status_of(error: MaxError) -> int:
    """The status of an error."""
    if isinstance(error, HttpRefused):
        return error.status
    words = error.code.split(".")
    places = (".".join(words[:count]) for count in range(len(words), 0, -1))
    return STATUSES[next((place for place in places if place in STATUSES), "")]


Handler = Callable[["HttpApp", Request], Awaitable["Response | EventStream"]]


class HttpApp:
    """Answers the methods of a project over HTTP, as an ASGI app.

    With ``read_only`` it has only what reads, and takes no webhooks.  ``guide`` gives the text of the MCP
    resource ``max://guide``.
    """

    def __init__(
        self,
        methods: Methods,
        access: Access,
        *,
        read_only: bool = False,
        bounds: Bounds | None = None,
        request_bounds: RequestBounds | None = None,
        guide: Callable[[], str] | None = None,
    ) -> None:
        self.methods, self.access, self.read_only = methods, access, read_only
        from .. import __version__

        self.bounds, self.request_bounds = bounds or Bounds(), request_bounds or RequestBounds()
        self._hooks, self._guide = Hooks(methods), guide
        self.metrics = Metrics(methods.project.manager, __version__)
        self.server: HttpServer | None = None  # our own, when it is no host's
        self.prompts = Prompts()
        self.open_streams = 0
        self.stopping = asyncio.Event()

    async def start(self) -> None:
        """Take requests, again after ``stop``."""
        self.bounds.stopping = False
        self.stopping = asyncio.Event()  # of the loop that runs now

    async def stop(self) -> None:
        """Take no more requests, and end the streams, each with a word."""
        self.bounds.stop()
        self.stopping.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of ASGI: a request, or the host's beginning and end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003})
        elif scope["type"] == "http":
            await self._serve(Request(scope, receive), self._counted(send))

    def _counted(self, send: Send) -> Send:
        """The same, which counts the answer."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.responses[message["status"]] += 1
            await send(message)

        return counted

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message: Message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _serve(self, request: Request, send: Send) -> None:
        """Answer a request, whatever becomes of it."""
        answer: Response | EventStream
        if request.path == "/health":  # before all that could be in the way of it
            await _health(request).send(send)
            return
        admitted = False
        try:
            route = self._route(request)
            self.bounds.admit(0)
            admitted = True
            self.bounds.open_calls += 1
            with acting_as(f"http:{request.caller}" if request.caller else "hook"):
                answer = await self._answer(route, request)
                await answer.send(send)
        except HttpRefused as error:
            await error_response(error).send(send)
        except MaxError as error:
            await error_response(error, WIRE if WIRE in request.accepts else PLAIN).send(send)
        finally:
            self.bounds.open_calls -= admitted

    async def _answer(self, route: Handler, request: Request) -> Response | EventStream:
        try:
            return await route(self, request)
        except (MaxError, ConnectionResetError):
            raise
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path)
            raise fault(request.path, error) from error

    # -- who may ask what

    def _route(self, request: Request) -> Handler:
        """What answers a request; HttpRefused when it is not allowed, or there is nothing."""
        if not request.path.startswith(HOOKS):  # a webhook's signature is its identity
            self.access.check_origin(request.headers, request.scheme)
            request.caller = self.access.identify(request.headers)
        for path, (methods, handler) in ROUTES.items():
            if request.path == path or (path.endswith("/") and request.path.startswith(path)):
                if request.method not in methods.split():
                    raise HttpRefused(405, f"{path} takes {methods}", allow=methods.replace(" ", ", "))
                return handler
        raise HttpRefused(404, f"there is nothing at {request.path!r:.80}", hint=LISTED)

    # -- calls

    async def call(self, request: Request) -> Response | EventStream:
        """A method of the table."""
        name = request.path.removeprefix("/v1/")
        method = METHODS.get(name)
        if method is None or not self.serves(method):
            raise HttpRefused(404, f"there is no method {name!r:.80}", hint=LISTED)
        if request.method != "POST" and not method.reads:
            raise HttpRefused(405, f"{name} may change something, so it takes POST", allow="POST")
        params = await self.params(method, request)
        return await self.ask(method, params, request)

    def serves(self, method: Method) -> bool:
        """Whether a method can be asked here: a caller may be on another machine."""
        return not method.local and (method.reads or not self.read_only)

    async def params(self, method: Method, request: Request) -> dict[str, Json]:
        """The parameters of a call, from the body or the query."""
        if request.method == "POST":
            return await request.json(self.request_bounds)
        return from_query(method.parameters, request.query)

    async def ask(self, method: Method, params: dict[str, Json], request: Request) -> Response | EventStream:
        """What a method answers: whole, or as a stream."""
        wire = WIRE in request.accepts
        streams = EVENTS in request.accepts or (method.streams and not (PLAIN in request.accepts or wire))
        if streams:
            return EventStream(self, method, params, request)
        answer = self.methods.answer(method.name, params)
        result = await (answer.result() if isinstance(answer, Stream) else answer)
        return Response(200, await in_thread(lambda: body_of(result, wire=wire)), WIRE if wire else PLAIN)

    async def events(self, request: Request) -> Response | EventStream:
        """The events of installations, after a cursor; a browser's ``Last-Event-ID`` is one."""
        method = METHODS["events"]
        params = from_query(method.parameters, request.query)
        last = request.headers.get(b"last-event-id")
        if last is not None:
            params["after"] = last.decode("latin-1")
        return EventStream(self, method, params, request)

    async def answer_prompt(self, request: Request) -> Response:
        """The answer to a question of a call that streams."""
        call, _, number = request.path.removeprefix("/prompts/").partition("/")
        body = await request.json(self.request_bounds)
        if "answer" not in body:
            raise HttpRefused(400, 'the body is {"answer": …}')
        self.prompts.answer(call, number, body["answer"])
        return Response(204)

    async def hook(self, request: Request) -> Response:
        """A service's webhook."""
        if self.read_only:
            raise HttpRefused(404, "webhooks are not received here")
        names = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers.items()}
        body = await request.body(self.request_bounds._replace(body=LONGEST_BODY))
        answer = await self._hooks.receive(request.path.removeprefix(HOOKS), names, body)
        return Response(answer.status, encoded(dict(answer.data)), headers=answer.headers)

    async def openapi(self, request: Request) -> Response:
        """The description of this face."""
        from .. import __version__

        served = filter(self.serves, METHODS.values())
        return json_response(describe(served, __version__, hooks=not self.read_only))

    async def figures(self, request: Request) -> Response:
        """Figures for Prometheus."""
        health = await self.methods.project.health()
        open_now = {
            "max_http_open_connections": self.server.open_connections if self.server else 0,
            "max_http_open_requests": self.bounds.open_calls,
            "max_http_open_streams": self.open_streams,
        }
        text = await in_thread(lambda: self.metrics.text(health, open_now))
        return Response(200, text.encode(), TEXT)

    async def mcp(self, request: Request) -> Response:
        """One message of the Model Context Protocol."""
        from .. import __version__
        from .http_mcp import answer

        kind = request.headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip()
        if kind.lower() != PLAIN:
            raise HttpRefused(415, f"a message is {PLAIN}, not {kind!r:.80}")
        body, toolbox = await request.body(self.request_bounds), self._toolbox()
        status, text = await in_thread(lambda: answer(toolbox, __version__, request.headers, body))
        return Response(status, text)

    def _toolbox(self) -> Toolbox:
        """The tools of MCP; a sync runs in this event loop, while the thread of its tool waits."""
        from .tools import Toolbox

        loop = asyncio.get_running_loop()

        async def sync(name: str) -> dict[str, Json]:
            found: dict[str, Json] = plain(await self.methods.sync(name).result())
            return found

        def wait(info: InstallationInfo) -> dict[str, Json]:
            return asyncio.run_coroutine_threadsafe(sync(str(info)), loop).result()

        folder = self.methods.project.manager
        toolbox = Toolbox(
            folder, self._guide or (lambda: toolbox.instructions()), None if self.read_only else wait
        )
        return toolbox

    async def ready(self, request: Request) -> Response:
        """Whether the project can be read; ProjectError when it cannot."""
        known = await self.methods.installations()
        return json_response({"status": "ready", "installations": len(known)})


def body_of(result: Any, *, wire: bool) -> bytes:
    """The body of an answer."""
    return encoded({"result": Wire().encode_whole(result) if wire else plain(result)})


def from_query(parameters: Mapping[str, Parameter], query: bytes) -> dict[str, Json]:
    """Parameters from a URL: a list is repeated, what is no text is JSON."""
    found: dict[str, Json] = {}
    for name, text in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        kinds = parameters[name].kinds if name in parameters else ["string"]
        value = text if "string" in kinds else _from_text(text)
        if "array" in kinds and "string" in kinds and name in found:
            earlier = found[name]
            found[name] = [*(earlier if isinstance(earlier, list) else [earlier]), value]
        elif "array" in kinds and "string" not in kinds and not isinstance(value, dict):
            member = text if parameters[name].items == "string" else value
            found[name] = value if isinstance(value, list) else [*found.get(name, []), member]
        elif name in found:
            raise UsageError(f"{name!r} is given twice")
        else:
            found[name] = value
    return found


def _from_text(text: str) -> Json:
    try:
        return json.loads(text, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        return text


def _health(request: Request) -> Response:
    if request.method not in ("GET", "HEAD"):
        return error_response(HttpRefused(405, "/health takes GET", allow="GET, HEAD"))
    return json_response({"status": "alive"})


ROUTES: Mapping[str, tuple[str, Handler]] = {
    "/v1/": ("POST GET HEAD", HttpApp.call),
    "/events": ("GET", HttpApp.events),
    "/prompts/": ("POST", HttpApp.answer_prompt),
    HOOKS: ("POST", HttpApp.hook),
    "/ready": ("GET HEAD", HttpApp.ready),
    "/metrics": ("GET HEAD", HttpApp.figures),
    "/openapi.json": ("GET HEAD", HttpApp.openapi),
    "/mcp": ("POST", HttpApp.mcp),
}


def app_of(
    project: Project[Any],
    token: str | Mapping[str, str],
    hosts: Sequence[str],
    origins: Sequence[str],
    *,
    read_only: bool,
    middlewares: Sequence[Middleware[MethodCall]],
) -> HttpApp:
    """The app of a project in a host's server; see ``Project.serve``."""
    access = Access(Tokens(token), hosts=[*LOOPBACK, *hosts], origins=origins)
    return HttpApp(Methods(project, middlewares=middlewares), access, read_only=read_only)
