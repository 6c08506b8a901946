"""The three standard streams of the process, usable whatever the caller made of them.

Rule 1: a stream that the caller closed reads or writes nothing; the command runs all the same.

Rule 2: no character is lost.  One that the encoding lacks is written ``\\uXXXX``, which JSON reads
back, and JSON is UTF-8 or ASCII whatever the locale says.

Rule 3: what cannot be written to stdout is reported, and nothing more is written to it.  A reader that
went away has seen enough, and stderr that cannot be written changes nothing.  None of these hides how
the command ended.
"""

from __future__ import annotations

import codecs
import os
import sys

from .console import console

TYPE_CHECKING = False  # importing typing costs as much as the interpreter itself
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

ESCAPING = "max-escaping"  # the name of our way to write what an encoding lacks


class OutputFailed(Exception):
    """Stdout cannot be written; ``reader_left`` when its reader went away.

    ``status`` is how the command ended, as an exit status; 0 when it went well, or has not ended.
    """

    status = 0

    def __init__(self, reason: OSError) -> None:
        super().__init__(f"standard output: {reason.strerror or reason}")
        self.reader_left = isinstance(reason, BrokenPipeError | ConnectionResetError)


def prepare(*, as_json: bool) -> None:
    """Make the streams usable; called once, before anything is opened or written."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:  # nothing else may get this number: prints would go into it
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
        elif not blocking(number):
            os.set_blocking(number, True)  # a full pipe is waited for
    console().unwritable = None
    codecs.register_error(ESCAPING, escape)
    configure(sys.stdin, errors="surrogateescape")  # as in arguments and file names
    for stream in (sys.stdout, sys.stderr):
        utf_8 = codecs.lookup(stream.encoding or "utf-8").name == "utf-8"
        configure(stream, encoding="ascii" if as_json and not utf_8 else None, errors=ESCAPING)


def blocking(number: int) -> bool:
    """Whether reads and writes of a stream wait; True where that cannot be asked."""
    try:
        return os.get_blocking(number)
    except (OSError, AttributeError):
        return True


def configure(stream: TextIO, *, encoding: str | None = None, errors: str) -> None:
    """Change how a stream turns text into bytes; a stream in memory does not."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure:
        reconfigure(encoding=encoding, errors=errors)


def escape(error: UnicodeError) -> tuple[str, int]:
    """What is written instead of characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    from ..model.visible import escaped  # rarely needed

    return escaped(error.object[error.start : error.end]), error.end


def write(text: str) -> None:
    """Write to stdout; OutputFailed when it cannot be written."""
    _to_stdout(lambda stdout: stdout.write(text))


def flush() -> None:
    """Send what was written; OutputFailed when it cannot be written."""
    _to_stdout(lambda stdout: stdout.flush())


def _to_stdout(act: Callable[[TextIO], object]) -> None:
    """Do something with stdout; OutputFailed when it fails, or has failed before."""
    own = console()
    if own.unwritable is None:
        try:
            act(own.stdout)
        except OSError as error:
            own.unwritable = error
            silence(own.stdout)
    if own.unwritable is not None:
        raise OutputFailed(own.unwritable)


def tell(stream: TextIO, text: str) -> None:
    """Write to a person at once; a stream that cannot be written gets nothing more."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Discard what a stream still holds and gets, so that the interpreter's last flush does not fail."""
    try:
        number = stream.fileno()
    except OSError:
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, number)
    os.close(nothing)
