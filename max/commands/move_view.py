"""A move that is not finished, as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..model.values import Json
from ..projects.manager import finishing as finishing
from ..projects.manager import ways_out
from .text import ago, iso_time, sanitize

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..query.reader import Mark


class Moving(NamedTuple):
    """An installation that is being moved from a place; ``runs``: a process moves something out of it now."""

    info: InstallationInfo
    place: str
    mark: Mark
    runs: bool

    @property
    def next(self) -> str:
        """The command that goes on with it."""
        return ways_out(self.info, self.mark)[0]

    @property
    def undo(self) -> str | None:
        """The command that takes it back; None when the other place may have it already."""
        return ways_out(self.info, self.mark)[1]

    def to_json(self) -> dict[str, Json]:
        """For ``max status -o json`` and ``max ls -o json``."""
        return {
            "from": self.place,
            "to": self.mark.target,
            "since": iso_time(self.mark.since),
            "running": self.runs,
            "next": self.next,
            "undo": self.undo,
        }

    def lines(self, now: float) -> list[str]:
        """What happens, and what is to be done where no process does it."""
        mark = self.mark
        began = f"from {self.place} to {mark.target}, begun {ago(mark.since, now)}"
        if self.runs:
            return [sanitize(began)]
        back = f"; or take it back: {self.undo}" if self.undo else ""
        return [sanitize(f"{began}, and not finished"), sanitize(f"go on with: {self.next}{back}")]


def notes_of(found: list[Moving], now: float) -> list[str]:
    """A note for each move: those that go together with their project are one."""
    notes, wholes = list[str](), set[str]()
    for one in found:
        if one.mark.whole and one.mark.target in wholes:
            continue
        name = "the project" if one.mark.whole else str(one.info)
        wholes |= {one.mark.target} if one.mark.whole else set()
        notes.append(f"{name} is being moved {'; '.join(one.lines(now))}")
    return notes
