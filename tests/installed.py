"""Check an installed Max in a fresh environment: its types and its demo, with the README's program.

Run it with the Python of that environment, which also has mypy.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MISTAKES = {  # what is misspelt in the program, and the error that mypy must report
    ("AcmeUser.active", "AcmeUser.actve"): "attr-defined",
    (".eq(True)", '.eq("yes")'): "arg-type",
}


def programs() -> dict[str, tuple[str, str]]:
    """The README's program by file name, right and with each mistake: its text, and the error's code."""
    (program,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    found = {"program.py": (program, "")}
    for number, ((right, wrong), code) in enumerate(MISTAKES.items(), 1):
        assert program.count(right) == 1, right
        found[f"mistake_{number}.py"] = (program.replace(right, wrong), code)
    return found


def main() -> None:
    """Exit with a message when something is not as it must be."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (text, code) in programs().items():
            Path(folder, name).write_text(text)
            checked = run("mypy", "--strict", name, folder=folder)
            errors = re.findall(r"error: .*\[(.+)\]$", checked.stdout, flags=re.M)
            if errors != ([code] if code else []):
                sys.exit(f"{name}: expected the errors {[code]}, got\n{checked.stdout}{checked.stderr}")
        for command in (["max", "sync", "acme:default"], ["program"]):
            done = run(*command, folder=folder)
            if done.returncode:
                sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    print("the installed package is typed, syncs the demo and runs the README's program")


def run(*words: str, folder: str) -> subprocess.CompletedProcess[str]:
    """``python -m …`` in a folder."""
    return subprocess.run([sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True)


if __name__ == "__main__":
    main()
