"""Which file work a thread does: for tests that an event loop does none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

FILE_MODULES = ("posix", "fcntl", "io", "_io")
HARMLESS = ("getpid", "urandom", "fspath")


@contextmanager
def file_calls() -> Iterator[list[str]]:
    """Every call of this thread that reaches the file system or a lock of it, by its name."""
    found: list[str] = []

    def watch(frame: FrameType, event: str, called: Any) -> None:
        name = getattr(called, "__name__", "")
        if event == "c_call" and getattr(called, "__module__", None) in FILE_MODULES and name not in HARMLESS:
            found.append(f"{name}, from {frame.f_code.co_filename}:{frame.f_lineno}")

    sys.setprofile(watch)
    try:
        yield found
    finally:
        sys.setprofile(None)
