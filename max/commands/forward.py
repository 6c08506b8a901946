"""The thin client: a command that only reads is answered by the project's daemon, when one is running.

    this process   {"id": 1, "method": "command", "params": {"words": […], …}, "window": 2}
    the daemon     {"max": "0.1.0", "protocol": 1}
                   {"id": 1, "event": [["status", "0"], ["out", "…"], ["flush", ""], ["err", "…"]]}
                   {"id": 1, "result": 0}

It is the protocol of ``serve/protocol.py``, as far as this one call needs it.

Rule 1: the answer is the same as without the daemon, to the byte and to the order of both streams.  What
could make it another one is either sent along or must be alike in both processes (``likeness``).

Rule 2: the daemon is a faster way, never a condition.  Until something was printed, whatever goes wrong
here means that the command runs in this process.

Rule 3: this module imports next to nothing.  Most of a short command is imports: json alone takes as long
as half of an interpreter's start, socket, pathlib or re no less.
"""

from __future__ import annotations

import os
import sys
import time

from .. import __version__
from . import streams
from .console import console

TYPE_CHECKING = False  # importing typing costs as much as the interpreter itself
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

PROTOCOL = 1
CALL = 1  # the number of the only call of a connection
WINDOW = 2  # events that may be on their way: while a pager shows the first lines, the daemon waits
GREETING = 2.0  # seconds in which a daemon that is well answers its door
PART = 65_536  # bytes that are read at once
PROJECT = ".max"  # the folder that makes another one a project
SENT = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "MAX_OUTPUT")  # variables that an answer depends on
ALIKE = ("MAX_HOME", "MAX_DATABASE", "MAX_TRUST", "MAX_CONNECTORS", "XDG_DATA_HOME", "HOME", "SUDO_UID", "TZ")
NONSENSE = (ValueError, TypeError, LookupError, AttributeError)  # from a message that is none of ours
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Unanswered(Exception):
    """The daemon did not answer, or not to the end."""


class OtherVersion(Unanswered):
    """The daemon is of another version of Max, which is the argument."""


def likeness() -> list[str]:
    """What must be the same in two processes for them to answer alike: the code, the user, zone and trust.

    The zone's names are those that the process began with: it may have changed on this machine since.
    """
    zone = [*time.tzname, str(time.timezone)]
    return [PACKAGE, sys.version, str(os.geteuid()), *zone, *(os.environ.get(one, "") for one in ALIKE)]


def ask_daemon(words: Sequence[str], folder: str) -> int | None:
    """Let the daemon of a folder's project answer, and print that; the exit status.

    None when the command must run in this process: nothing was printed then.  ConnectionLost when the
    daemon ended before its answer did.
    """
    address = daemon_address(folder)
    if not address:
        return None
    printer = Printer()
    try:
        connection = connected(address)
        try:
            connection.sendall(request(words))
            return printer.print_answer(answers(connection))
        finally:
            connection.close()
    except OtherVersion as error:
        replace_daemon(project_root(folder), str(error))
        return None
    except (OSError, Unanswered, *NONSENSE) as error:
        if not printer.began:
            return None
        from ..errors import ConnectionLost

        reason = str(error) if isinstance(error, Unanswered) else "the daemon has ended"
        hint = "run it again; with --direct the daemon is not asked"
        raise ConnectionLost(f"what was printed is not all: {reason}", hint=hint) from None


def replace_daemon(root: str, version: str) -> None:
    """Let a daemon of an older Max be restarted beside this command; of a newer one, tell a person."""
    from ..serve.daemon_process import begin_restart, is_outdated

    if is_outdated(version):
        begin_restart(root)
    elif console().stderr.isatty():
        words = f"the project's daemon is of max {version}, and this is {__version__}: answered without it"
        streams.tell(console().stderr, f"{words}; max daemon restart replaces it\n")


def daemon_address(folder: str) -> str:
    """The socket of the daemon of a folder's project; empty without a project, or without a daemon."""
    root = project_root(folder)
    if not root:
        return ""
    from ..serve.daemon_folder import DaemonFolder

    try:
        place = DaemonFolder(root)
        return place.socket if place.has_socket() else ""
    except Exception:  # such as a MAX_HOME that is no path: the command itself says so, if it needs it
        return ""


def project_root(folder: str) -> str:
    """The root of the project that a folder is in, resolved; empty when it is in none."""
    place, below = os.path.realpath(folder), ""
    while place != below:
        if os.path.isdir(os.path.join(place, PROJECT)):
            return place
        place, below = os.path.dirname(place), place
    return ""


def connected(address: str) -> _socket.socket:
    """A connection to a socket, whose next steps may take as long as a greeting."""
    from _socket import AF_UNIX, SOCK_STREAM, socket

    connection = socket(AF_UNIX, SOCK_STREAM)
    try:
        connection.settimeout(GREETING)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def request(words: Sequence[str]) -> bytes:
    """The call, with what the daemon must know of this process."""
    own = console()
    params = {
        "words": list(words),
        "folder": os.getcwd(),
        "columns": [own.columns(one) if one.isatty() else -1 for one in (own.stdout, own.stderr)],
        "variables": {name: own.environment[name] for name in SENT if name in own.environment},
        "likeness": likeness(),
    }
    call = {"id": CALL, "method": "command", "params": params, "window": WINDOW}
    return f"{encoded(call)}\n".encode()


def answers(connection: _socket.socket) -> Iterator[dict[str, Any]]:
    """The messages behind the greeting; the daemon learns when an event was printed.

    It may have sent its last one by then, so that whether this reaches it does not matter.
    """
    took = f"{encoded({'id': CALL, 'took': 1})}\n".encode()
    events = 0
    for message in messages(connection):
        yield message
        events += 1
        if events > 1:  # most answers are one event, and nothing waits behind it
            try:
                connection.sendall(took)
            except OSError:
                continue


def messages(connection: _socket.socket) -> Iterator[dict[str, Any]]:
    """What the daemon says after its greeting, one message at a time; Unanswered when it says nonsense.

    The greeting must come soon: a daemon that is stopped, or busy beyond help, is not waited for.
    """
    decode, rest, greeted = decoder(), list[bytes](), False
    while part := connection.recv(PART):
        *whole, last = part.split(b"\n")
        for line in whole:
            message = decode(b"".join([*rest, line]).decode())
            rest = []
            if greeted:
                yield message
            elif message.get("max") != __version__ or message.get("protocol") != PROTOCOL:
                raise OtherVersion(message.get("max"))
            else:
                connection.settimeout(None)
                greeted = True
        rest.append(last)
    raise Unanswered("the daemon has ended")


class Printer:
    """Prints the parts of an answer as they come.

    ``began``: something was printed, so that another process can no longer answer in this one's place.
    """

    began = False
    status = 0  # what the exit status will be

    def print_answer(self, messages: Iterable[dict[str, Any]]) -> int:
        """Print every part; the exit status.  Unanswered when the daemon leaves it to this process."""
        for message in messages:
            try:
                self.print_parts(message.get("event", ()))
            except streams.OutputFailed as error:
                if error.reader_left:
                    return self.status
                error.status = self.status
                raise
            if "result" in message:
                return int(message["result"])
            if "error" in message:
                raise Unanswered(message["error"]["message"])
        raise Unanswered("the daemon has ended")

    def print_parts(self, parts: Iterable[Sequence[Any]]) -> None:
        """Print parts in their order, as ``cli`` prints what they were made of."""
        for kind, text in parts:
            if not isinstance(text, str):
                text = surrogates(text)
            if kind == "status":
                self.status = int(text)
                continue
            self.began = True
            if kind == "out":
                streams.write(text)
            elif kind == "flush":
                streams.flush()
            else:
                streams.tell(console().stderr, text)


def surrogates(tagged: dict[str, str]) -> str:
    """A text that is no UTF-8, such as the odd name of a file, as ``serve/wire.py`` writes it."""
    from binascii import a2b_base64

    return a2b_base64(tagged["$surrogates"]).decode("utf-8", "surrogatepass")


def encoded(value: object) -> str:
    """JSON of texts, whole numbers, lists and objects."""
    from _json import encode_basestring_ascii

    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if isinstance(value, dict):
        return f"{{{','.join(f'{encoded(name)}:{encoded(one)}' for name, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(encoded, value))}]"
    return str(value)


class Plain:
    """How JSON's scanner reads: into Python's own values."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = parse_constant = float
    parse_int = int


def decoder() -> Callable[[str], Any]:
    """What reads JSON as ``json.loads`` does, without what json imports; Unanswered when it is none."""
    from _json import make_scanner

    own: Any = Plain
    scan = make_scanner(own)

    def decode(text: str) -> Any:
        try:
            return scan(text, 0)[0]
        except (ValueError, StopIteration, RecursionError):
            raise Unanswered("the daemon said what is no JSON") from None

    return decode
