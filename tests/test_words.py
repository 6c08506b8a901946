"""One word for one idea: what was renamed does not come back, and the prose is plain English.

The lists are in CONTRIBUTING.md's glossary in words; here they are patterns.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent

# What code, docs, messages and test names say today is on the right; no left one may be left.
OLD_NAMES = {
    r"Record(?=[(\[.])": "Struct",
    "Arrival|arrivals?": "Delivery",
    r"Listed(?=[(\[.])": "ListingState",
    r"Looking(?=[(\[.])": "DeletionScope",
    r"Removal(?=[(\[.])": "DeletionCandidates",
    r"Ages(?=[(\[.])": "AgeHistogram",
    "Surroundings|surroundings": "SyncContext, context",
    "TaskEnv": "LoaderEnv",
    "Floor": "MonotonicClock",
    r"Asking(?=[(\[.])": "LoaderCaller",
    "_Expansion": "_GraphBuilder",
    r"retried(?=[(\[.])": "retry_graph",
    "_Drain": "_SyncLoop",
    "Teller|teller": "EventPublisher",
    "Settled": "SettleResult",
    "Wanted": "SyncCommand",
    "Caller": "OperationRunner",
    "Renewal": "CredentialRefresh",
    "on_behalf": "run_operation",
    "at_hand": "activate",
    "on_hold": "blocked_limits",
    r"Layout|layouts|layout(?=[.\[(=,:)])": "TableMapping, mapping",
    "stamps|stamp_column": "load_columns",
    "Sifted|sifted|sift": "ValidatedRows",
    "Unfit|unfit": "InvalidColumn, invalid",
    "_bury|_disinherit|_take_along|_doubt|is_doomed": "see storage/removals.py",
    "in_time|_spend|_except": "see storage/freshness.py",
    "let_go|obey|unpause|only_id|owner_of": "release_tasks, apply_command, resume_tasks, single_id",
    "followers|twins|outdate|unload|_anew": "see storage/schema_operations.py",
    "harmless": "sanitize",
    "Onboarded": "OnboardingResult",
    "_page|_max_page|_max_list|_max_link|_max_orphan|_max_newest|_max_feed": "_load, _max_load …",
    "lost_at|deaths|seen_at": "missing_since, crashes, heartbeat_at",
    "MarkRefused|TapeError|TapeParted|Tape": "SyncTokenRefused, RecordingError, ReplayMismatch",
    "IS_NULL": "EQ None",
}
OLD_OPTIONS = r"--(?:heal|sweep|restart|change)(?![\w-])|\bmax configure\b"
OLD_PROSE = r"told|nobody|somebody|whoever|anew|stands|stood|at hand|vouch\w*|doom\w*|tapes?|taped|untaped"
OLD_TEST_NAMES = r"\btest_\w*(?:told|nobody|somebody|whoever|anew|stands|tape|doomed|unfit|who_is)\w*"

OLD_DATABASE = ("test_ddl.py", "_page")  # a test builds a file of the layout before 0.1.0

OLD = re.compile(
    rf"(?<![\w-])(?:(?i:{OLD_PROSE})|{'|'.join(OLD_NAMES)})(?![\w-])|{OLD_TEST_NAMES}|{OLD_OPTIONS}"
)


def pages() -> list[Path]:
    """Every file of code and prose that people read."""
    found = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    for folder in ("max", "connectors", "tests", "bench", "docs"):
        found += [path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in (".py", ".md")]
    return [path for path in found if path != Path(__file__).resolve()]


def test_no_old_word_is_left_in_code_docs_messages_or_test_names() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in pages()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in OLD.finditer(line)
        if "Previously" not in line and (path.name, match.group()) != OLD_DATABASE
    ]
    assert found == []
