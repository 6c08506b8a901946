"""A connector's own code: what it raises, and what it returns.

Rule 1: whatever a connector raises names the connector, the function and the line.  An error of Max
leaves as it is, unless it can only be a mistake of the connector: a name that nothing has, or an
invalid declaration.

Rule 2: SystemExit, KeyboardInterrupt and their like are errors too when the connector's code raised
them.  When they end the process or the task from outside, they pass.

Rule 3: a connector's code asks Max for secrets, permits and stored rows.  When Max cannot read or write
them, that is no bug of the connector (``our_storage``).
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ..errors import LoaderFault, MaxError, SchemaError, StorageError, UnknownName, shown

T = TypeVar("T")
BUG = "this is a bug of the connector"
MISTAKES = (UnknownName, SchemaError)  # errors of Max that only wrong code raises


def is_mistake(error: BaseException) -> bool:
    """Whether an error that a connector's code raised can only be a bug of it."""
    return not isinstance(error, MaxError) or isinstance(error, MISTAKES)


def fault_of(connector: str, what: str, error: BaseException, **data: str) -> LoaderFault:
    """The fault of a connector's function that raised an error; it names the connector's line."""
    import traceback  # costs time at every start

    ours = f"{Path(__file__).parents[1]}{os.sep}"
    frames = [one for one in traceback.extract_tb(error.__traceback__) if ours not in one.filename]
    own = [one for one in frames if one.filename == frames[0].filename]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    hint = error.hint if isinstance(error, MaxError) else ""
    message = f"{connector}: {what} raised {said}{place}"
    return LoaderFault(message, hint=": ".join(filter(None, (BUG, hint))), connector=connector, **data)


@contextmanager
def connector_code(connector: str, what: str) -> Iterator[None]:
    """Inside runs a function of the connector that is no loader; a bug of it is a LoaderFault."""
    try:
        yield
    except BaseException as error:
        if not is_raised_by_connector(error):
            raise
        cause = cause_of(error)
        if is_mistake(cause):
            raise fault_of(connector, what, cause) from error
        if cause is error:
            raise
        raise cause from None


@contextmanager
def our_storage() -> Iterator[None]:
    """Inside, Max reads or writes what it keeps, for a connector's code."""
    try:
        yield
    except StorageError as error:
        error.is_ours = True
        raise


def is_our_storage(error: BaseException) -> bool:
    """Whether it is that which failed, and not what the connector itself reads."""
    return isinstance(error, StorageError) and error.is_ours


def cause_of(error: BaseException) -> BaseException:
    """The error itself, or the first one that ended a TaskGroup."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def is_raised_by_connector(error: BaseException) -> bool:
    """Whether a connector's own code raised an error; if not, its task is being ended from outside."""
    if isinstance(error, GeneratorExit):  # of a coroutine that is closed after its loop
        return _has_loop()
    if not isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
        return True
    current = asyncio.current_task() if _has_loop() else None
    if current is not None and current.cancelling():
        return False
    # Ctrl-C raises in the main thread, when the program has set no handler of its own
    in_main = threading.current_thread() is threading.main_thread()
    by_person = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, asyncio.CancelledError) or not by_person


def _has_loop() -> bool:
    return asyncio.events._get_running_loop() is not None


def returned(connector: str, what: str, expected: str, kind: type[T], value: object, by: object = None) -> T:
    """What the connector's function ``by`` returned; LoaderFault when it is of another kind."""
    if isinstance(value, kind):
        return value
    raise wrong_return(connector, what, expected, value, by)


def wrong_return(connector: str, what: str, expected: str, value: object, by: object = None) -> LoaderFault:
    """The fault of a connector's function that returned something else than it has to."""
    message = f"{connector}: {what} must return {expected}, got {shown(value, 120)}{place_of(by)}"
    return LoaderFault(message, hint=BUG, connector=connector)


def place_of(function: object) -> str:
    """Where a function is defined, as errors say it; empty when it is no plain function."""
    code = getattr(function, "__code__", None)
    return "" if code is None else f" ({Path(code.co_filename).name}, line {code.co_firstlineno})"
