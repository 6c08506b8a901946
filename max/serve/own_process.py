"""Processes of our own: starting this very Max in another one, and keeping one that lasts small.

The folder in which such a process begins is a project's, and a project is data: nothing is ever imported
from the current folder (``-P``).  A copy below another name, or one that is not installed, is found by
PYTHONPATH, which is changed only then.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from pathlib import Path

PACKAGE = __name__.rpartition(".serve.")[0]  # what this copy of Max is called
PLACE = Path(__file__).parents[PACKAGE.count(".") + 2]  # the folder, or archive, that holds it

MADE = 700  # objects, after which Python looks for cycles among the new ones by default
M_TRIM_THRESHOLD, M_ARENA_MAX = -1, -8  # of glibc's malloc.h
UNUSED = 128 * 1024  # bytes at the end of the heap that glibc keeps at first, before it learns


def stay_small() -> None:
    """Keep no more memory than is used, in a process that lasts.  Call it before there are other threads.

    Three things keep memory that nothing uses.  A short command lets cycles of garbage be, since it ends
    soon (``cli.run``); a process that lasts looks for them as Python usually does.  And glibc gives
    threads arenas of their own, up to eight a processor, each of which keeps what its threads have freed.
    Here threads come and go with the calls, and Python runs one of them at a time: one arena is enough.
    And glibc learns: once a large block is freed, the heap takes blocks of that size, and keeps as much as
    two of them when they are freed.  A bound that is set ends that.
    Systems without glibc have no such setting.
    """
    gc.set_threshold(MADE)
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        system = ctypes.CDLL(None)
        system.mallopt(M_ARENA_MAX, 1)
        system.mallopt(M_TRIM_THRESHOLD, UNUSED)


def own_command(*words: str) -> list[str]:
    """The words that run a command of this Max in another process, such as ``daemon run``."""
    flags = [
        *(["-S"] if sys.flags.no_site else []),
        *(["-s"] if sys.flags.no_user_site else []),
        *(["-B"] if sys.dont_write_bytecode else []),
    ]
    return [sys.executable, "-P", *flags, "-m", PACKAGE, *words]


def own_environment() -> dict[str, str]:
    """The environment of such a process: that of this one, in which this Max can be imported."""
    environment = dict(os.environ)
    known = [one for one in environment.get("PYTHONPATH", "").split(os.pathsep) if one]
    places = [*([] if _is_installed() else [str(PLACE)]), *map(os.path.abspath, known)]
    if places:  # absolute: it begins in another folder
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(places))
    return environment


def _is_installed() -> bool:
    """Whether every interpreter of this kind finds it by itself."""
    site = sys.modules.get("site")
    if site is None or sys.flags.no_site:
        return False
    places = [*site.getsitepackages(), site.getusersitepackages() if site.ENABLE_USER_SITE else ""]
    return str(PLACE) in places
