"""Makes the recordings for tests/connectors/test_linear.py: ``python -m tests.record_linear``."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from max import Status
from max.upstream.recording import Recording
from tests.linear_fake import Copy, first_part, second_part, workspace

RECORDINGS = Path(__file__).parent / "recordings"
FIRST, SECOND = RECORDINGS / "linear-first.jsonl", RECORDINGS / "linear-second.jsonl"
ISSUES, COMMENTS = 6, 1  # comments of each issue


def record(folder: Path) -> None:
    """Replace both recordings; ``folder`` is for the installation."""
    RECORDINGS.mkdir(exist_ok=True)
    with workspace(ISSUES, COMMENTS) as fake:
        copy = Copy(folder, fake)
        for path, part in ((FIRST, first_part), (SECOND, second_part)):
            path.unlink(missing_ok=True)
            copy.recording = partial(Recording, path)
            if part(copy).status is not Status.COMPLETED:
                raise SystemExit(f"{path.name} did not complete")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        record(Path(place))
