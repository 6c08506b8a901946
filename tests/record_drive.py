"""Makes the recordings for tests/connectors/test_google_drive_replay.py: ``python -m tests.record_drive``."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from max import Status
from max.upstream.recording import Recording
from tests.drive_fake import Copy, account, first_part, second_part

RECORDINGS = Path(__file__).parent / "recordings"
FIRST, SECOND = RECORDINGS / "drive-first.jsonl", RECORDINGS / "drive-second.jsonl"
FILES = 6  # that the fake makes in My Drive, beside those of tests/drive_fake.py


def record(folder: Path) -> None:
    """Replace both recordings; ``folder`` is for the installation."""
    with account(FILES) as fake:
        copy = Copy(folder, fake)
        for path, part in ((FIRST, first_part), (SECOND, second_part)):
            path.unlink(missing_ok=True)
            copy.recording = partial(Recording, path)
            if part(copy).status is not Status.COMPLETED:
                raise SystemExit(f"{path.name} did not complete")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        record(Path(place))
