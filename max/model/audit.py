"""The audit: who changed what, and who read a secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from .struct import Struct
from .values import Json

Outcome: TypeAlias = Literal["done", "failed", "unknown"]  # unknown: its process ended before it could say


class AuditRow(Struct):
    """One change, or one reading of secrets.

    ``number`` counts from 1.  ``began_at`` and ``at`` (its end) are in seconds since the epoch.
    ``user`` and ``process`` say who asked, ``via`` how: see Actor.  ``action`` is the method or command,
    ``installation`` its name and id, or empty.  ``facts`` is JSON data without secrets.  ``outcome`` is
    an Outcome, ``code`` that of the error of one that failed.  ``digest`` covers the row and the digest
    of the row before.
    """

    number: int
    began_at: float
    at: float
    user: str
    process: str
    via: str
    action: str
    installation: str
    facts: Mapping[str, Json]
    outcome: str
    code: str
    digest: str


class AuditCheck(Struct):
    """What is wrong with the audit's chain, in words; and where it ends.

    ``number`` and ``digest`` are those of the newest row; 0 and empty without any.  ``unfinished``
    are changes that have begun and not ended.  ``pruned`` is the number of the last row that was removed
    after it was copied; 0 when none was.
    """

    problems: Sequence[str]
    number: int
    digest: str
    unfinished: int
    pruned: int = 0
