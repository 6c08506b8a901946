"""Secrets from outside: a file, an environment variable, standard input."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

from ..errors import UsageError
from ..model.values import is_text

MARK = "\ufeff"
MOST = 1_000_000  # characters of a secret; a device in the place of a file never ends


def read_secret(spec: str, stdin: TextIO) -> str:
    """The secret from ``env:VAR``, ``file:PATH`` or ``-`` (standard input), without its last line end.

    The mark (U+FEFF) with which some editors begin a file is no part of it.  UsageError for bytes that are
    not UTF-8; it does not repeat ``spec`` when that has no such form: it may be the secret itself.
    """
    kind, _, place = spec.partition(":")
    if spec == "-":
        text = stdin.read(MOST + 1)
    elif kind == "env" and place:
        text = _from_variable(place)
    elif kind == "file" and place:
        text = _from_file(Path(place).expanduser())
    else:
        raise UsageError(
            "a credential is given as env:VARIABLE, file:PATH or - (standard input)",
            hint="a secret on the command line itself could be seen by other users",
        )
    wrong = f"is longer than {MOST:,}" if len(text) > MOST else ""
    text = text.removeprefix(MARK).removesuffix("\n").removesuffix("\r")
    if not text:
        wrong = "is empty"
    elif not wrong and not is_text(text):
        wrong = "cannot be read: it is not UTF-8 text"
    if wrong:
        raise UsageError(f"the secret from {'standard input' if spec == '-' else spec} {wrong}")
    return text


def _from_variable(name: str) -> str:
    if name not in os.environ:
        raise UsageError(f"the environment variable {name} is not set", hint=f"export {name}, then try again")
    return os.environ[name]


def _from_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            return file.read(MOST + 1)
    except OSError as error:
        raise UsageError(f"the secret's file {path} cannot be read: {error.strerror}") from None
