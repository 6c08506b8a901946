"""What a command costs before it does anything: processor time against ``python -c pass``."""

from __future__ import annotations

import subprocess
import sys
import tempfile

from .measure import ENVIRONMENT, Row, interleaved, report

ROUNDS = 9


def run() -> None:
    """Time --version, --help, a cold search and completion."""
    with tempfile.TemporaryDirectory() as place:

        def command(*words: str) -> None:
            line = [sys.executable, *words]
            subprocess.run(line, cwd=place, env=ENVIRONMENT, capture_output=True, check=True)

        command("-m", "max", "sync", "acme:default")
        timings = interleaved(
            {
                "python -c pass": lambda: command("-c", "pass"),
                "max --version": lambda: command("-m", "max", "--version"),
                "max --help": lambda: command("-m", "max", "--help"),
                "max search (cold)": lambda: command("-m", "max", "search", "acme:default", "AcmeUser"),
                "a command is completed": lambda: command("-m", "max", "__complete", "fish", "se"),
                "a field is completed": lambda: command(
                    "-m", "max", "__complete", "fish", "search", "acme", "AcmeUser", "--fields", "na"
                ),
            },
            ROUNDS,
        )
    reference = timings.pop("python -c pass").cpu
    musts = {"max --version": "≤ 2", "max --help": "≤ 3", "max search (cold)": "≤ 5"}
    musts |= {"a command is completed": "≤ 5", "a field is completed": "≤ 5"}
    rows = [
        Row(name, f"{timing.cpu * 1000:.1f} ms CPU", timing.cpu / reference, "python -c pass", musts[name])
        for name, timing in timings.items()
    ]
    report("startup", rows)
