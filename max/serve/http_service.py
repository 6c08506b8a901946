"""The HTTP face as a service: the tokens' file, the app and our own server, started and stopped together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..core import in_thread, logger
from .http_access import LOOPBACK, Access, read_tokens
from .http_app import HttpApp
from .http_server import HttpServer
from .methods import Methods

ANY = ("0.0.0.0", "::", "")  # noqa: S104 - addresses that stand for all of this machine
log = logger("http")


class HttpService:
    """Answers the methods at an address, with the tokens of a file, which is made when there is none.

    ``hosts`` are names by which the server may be addressed beside those of this machine alone, ``origins``
    those of pages that may ask.  ``guide`` gives the text of the MCP resource ``max://guide``.
    """

    def __init__(
        self,
        methods: Methods,
        host: str,
        port: int,
        token_file: Path,
        *,
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
        read_only: bool = False,
        guide: Callable[[], str] | None = None,
    ) -> None:
        self.methods, self.token_file, self.read_only = methods, token_file, read_only
        self._hosts = [*LOOPBACK, *hosts, *([] if host in ANY else [host])]
        self._origins, self._guide = list(origins), guide
        self._host, self._port = host, port
        self.server: HttpServer | None = None
        self._app: HttpApp | None = None

    @property
    def address(self) -> str:
        """Where it answers: ``http://127.0.0.1:8765``; empty before it starts."""
        return "" if self.server is None else self.server.address

    @property
    def is_exposed(self) -> bool:
        """Whether other machines may reach it."""
        return self._host not in LOOPBACK

    def tokens(self) -> list[str]:
        """The tokens of the file, to be kept out of logs.  Blocks."""
        lines = self.token_file.read_text(encoding="ascii", errors="replace").splitlines()
        return [word for line in lines for word in line.split()[-1:]]

    async def start(self) -> None:
        """Read the tokens, then listen; nothing is left behind when that fails."""
        if self.server is not None:
            return
        tokens = await in_thread(lambda: read_tokens(self.token_file, create=True))
        app = HttpApp(
            self.methods,
            Access(tokens, hosts=self._hosts, origins=self._origins),
            read_only=self.read_only,
            guide=self._guide,
        )
        server = HttpServer(app, self._host, self._port, report=_report)
        await app.start()
        await server.start()
        app.server = server
        self._app, self.server = app, server
        if self.is_exposed:
            log.warning(
                "HTTP is answered at %s: other machines may reach it, without encryption", self.address
            )

    async def stop(self) -> None:
        """End the streams, let what runs end, and listen no more."""
        app, server, self._app, self.server = self._app, self.server, None, None
        if app is not None and server is not None:
            await app.stop()
            await server.stop()


def _report(error: Exception) -> None:
    log.error("a request failed", exc_info=error)
