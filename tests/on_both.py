"""Which tests run on Postgres as well as on SQLite, from one source.

A test runs on both when it uses the fixture ``either``, or the command line (``cli``) in a file of FEW.
What is quick does so in every run; of the files in FEW a few tests do, and all of them with

    MAX_ON_POSTGRES=all python -m pytest -m postgres tests/commands tests/test_cli.py tests/test_removals.py

A test of these files that is about a file alone has the mark ``of_a_file``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

EVERY = os.environ.get("MAX_ON_POSTGRES") == "all"

FEW: Mapping[str, Sequence[str]] = {
    "tests/test_removals.py": (
        "test_a_row_that_loses_all_parents_is_removed",
        "test_a_removed_row_keeps_its_last_parent",
        "test_a_row_removed_long_ago_is_deleted_with_all_its_records",
        "test_interleaved_syncs_of_two_installations_do_not_touch_each_others_rows",
    ),
    "tests/test_cli.py": (),
    "tests/commands/test_aggregate.py": (),
    "tests/commands/test_answers.py": (),
    "tests/commands/test_changes.py": (),
    "tests/commands/test_connect.py": (),
    "tests/commands/test_evidence.py": (),
    "tests/commands/test_find.py": (),
    "tests/commands/test_freshness.py": (),
    "tests/commands/test_guide.py": (),
    "tests/commands/test_migrate.py": (),
    "tests/commands/test_odd_words.py": (),
    "tests/commands/test_schedule.py": (),
    "tests/commands/test_schema.py": (),
    "tests/commands/test_screens.py": (),
    "tests/commands/test_sync.py": (),
}


def runs_on_both(file: str, test: str, *, by_command: bool) -> bool:
    """Whether a test of a file runs on Postgres too; ``by_command``: because it uses the command line."""
    if file in FEW:
        return EVERY or test in FEW[file]
    return not by_command
