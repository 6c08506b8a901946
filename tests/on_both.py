"""Which tests run on Postgres as well as on SQLite, from one source.

A test runs on both when it uses the fixture ``either``, or the command line (``cli``) in a file of FEW.
What is quick does so in every run; of the files in FEW a few tests do, and all of them with

    MAX_ON_POSTGRES=all python -m pytest -m postgres tests/commands tests/test_cli.py tests/test_removals.py

``tests/storage/test_postgres_users_own.py`` tries all pairs of what users make and what an upgrade does then.
Tests that share one project may have one on each database: ``tests/commands/test_odd_words.py`` shows how.
A test of these files that is about the files of a folder has the mark ``of_a_folder``.  The other files of
``tests/commands`` are in IN_A_FOLDER, each with the reason.
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
    "tests/test_cli.py": (
        "test_a_search_without_rows_says_which_value_no_row_has",
        "test_all_as_json_is_one_document",
        "test_schema_brief_has_a_line_for_each_entity",
        "test_control_characters_from_upstream_are_sanitized",
    ),
    "tests/commands/test_aggregate.py": ("test_groups_are_a_table",),
    "tests/commands/test_answers.py": (
        "test_the_next_command_goes_on_where_the_page_ended",
        "test_a_running_sync_is_named_while_its_process_lives",
    ),
    "tests/commands/test_changes.py": ("test_changed_settings_are_stored_and_shown",),
    "tests/commands/test_evidence.py": (),
    "tests/commands/test_find.py": ("test_several_installations_are_looked_through_the_best_of_each_first",),
    "tests/commands/test_freshness.py": (),
    "tests/commands/test_guide.py": ("test_it_names_sources_entities_values_and_words_as_they_are",),
    "tests/commands/test_migrate.py": (
        "test_a_plan_changes_nothing_and_the_migration_does",
        "test_an_undeclared_change_changes_nothing",
    ),
    "tests/commands/test_schedule.py": ("test_every_option_of_a_schedule_is_kept_and_shown",),
    "tests/commands/test_schema.py": (),
    "tests/commands/test_sync.py": ("test_resume_needs_no_name_when_one_sync_is_unfinished",),
    "tests/commands/test_odd_words.py": (),
}

IN_A_FOLDER: Mapping[str, str] = {
    "tests/commands/test_completion.py": "it is about a shell, and looks into the files of a folder",
    "tests/commands/test_connect.py": "it is about the folder that a command makes or leaves",
    "tests/commands/test_connector_new.py": "it writes a connector, and has no project",
    "tests/commands/test_connector_test.py": "a trial has a folder of its own",
    "tests/commands/test_damage.py": "it damages files",
    "tests/commands/test_damaged_values.py": "it damages files",
    "tests/commands/test_doctor.py": "it is about files; a server is in tests/projects/test_soundness.py",
    "tests/commands/test_far_waits.py": "it has no database",
    "tests/commands/test_foreground.py": "it has no database",
    "tests/commands/test_forward.py": "the daemon of a folder answers; what it reads is asked in the others",
    "tests/commands/test_forward_failures.py": "the daemon of a folder answers",
    "tests/commands/test_forward_parts.py": "the daemon of a folder answers",
    "tests/commands/test_move.py": "it moves a folder into a database and back",
    "tests/commands/test_odd_places.py": "it is about places on a disk",
    "tests/commands/test_row_table.py": "it is about text alone",
    "tests/commands/test_screens.py": "it is about text, and one project in a folder serves all its tests",
    "tests/commands/test_sql.py": "one folder serves all its tests, which compare with sqlite3",
    "tests/commands/test_stopping.py": "it is about processes and signals",
    "tests/commands/test_storage_errors.py": "it is about what becomes of files",
    "tests/commands/test_stored_data.py": "it is about a file of an older Max",
    "tests/commands/test_streams.py": "it is about streams",
    "tests/commands/test_sync_in_daemon.py": "the daemon of a folder answers",
    "tests/commands/test_terminal.py": "it is about terminals",
    "tests/commands/test_text.py": "it is about text alone",
}


def runs_on_both(file: str, test: str, *, by_command: bool) -> bool:
    """Whether a test of a file runs on Postgres too; ``by_command``: because it uses the command line."""
    if file in FEW:
        return EVERY or test in FEW[file]
    return not by_command
