"""The guide as a file of a project: a SKILL.md, or a section of an AGENTS.md.

Rule 1: what a person wrote is never overwritten.  A marker holds the digest of what was made; text that
has another digest was edited, and is left alone.

Rule 2: outside of its section no byte of an AGENTS.md changes.

Rule 3: a link is followed within the project, or within the folder of a file that lies elsewhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import ProjectError
from ..installations.files import place_within
from .console import console
from .text import first_few

MARKER = re.compile(r"<!-- max:skill ([0-9a-f]{16}) [^\n]*-->\n")
OPENING = re.compile(r"<!-- max:begin ([0-9a-f]{16}) [^\n]*-->\n")
CLOSING = "<!-- max:end -->"


def digest(text: str) -> str:
    """What tells whether a text was edited."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def skill_file(text: str, sources: Sequence[str]) -> str:
    """A SKILL.md: front matter, a marker, the guide."""
    names = first_few(list(sources)) or "nothing yet"
    head = (
        "---\nname: max\n"
        f'description: "Answers questions about {names} from a local copy, with the command max: find, '
        'count, group, SQL, changes. Use it before calling these services."\n---\n'
    )
    made = "made by `max llm-bootstrap --skill --write FILE`, which renews it unless it was edited"
    return f"{head}<!-- max:skill {digest(head + text)} {made} -->\n{text}"


def agents_section(text: str) -> str:
    """A section of an AGENTS.md, between markers."""
    made = "made by `max llm-bootstrap --agents-md --write FILE`, which renews it unless it was edited"
    return f"<!-- max:begin {digest(text)} {made} -->\n{text}{CLOSING}\n"


def write_skill(path: str, text: str, sources: Sequence[str], *, project: Path | None = None) -> str:
    """Write a SKILL.md; ProjectError when the file there was edited, or is not ours."""
    file = _place(path, project)
    before, newline = content(file)
    if before is not None:
        found = MARKER.search(before)
        if found is None:
            raise refused(file, "was not made by max")
        if digest(before[: found.start()] + before[found.end() :]) != found[1]:
            raise refused(file, "was edited")
    replace(file, skill_file(text, sources), newline)
    return f"{'renewed' if before is not None else 'wrote'} {path}"


def write_section(path: str, text: str, sources: Sequence[str], *, project: Path | None = None) -> str:
    """Write the section of an AGENTS.md; ProjectError when it was edited, or has no end."""
    file = _place(path, project)
    before, newline = content(file)
    section = agents_section(text)
    if before is None or not before.strip():
        replace(file, section, newline)
        return f"wrote {path}"
    begins = list(OPENING.finditer(before))
    if not begins and CLOSING not in before and "<!-- max:begin" not in before:
        replace(file, f"{before.rstrip()}\n\n{section}", newline)
        return f"added a section to {path}"
    end = before.find(f"{CLOSING}\n", begins[0].end()) if len(begins) == 1 else -1
    if end < 0 and before.endswith(CLOSING) and len(begins) == 1:
        end = len(before) - len(CLOSING)
    if end < 0:
        raise refused(file, "has a section of max whose markers were changed")
    if digest(before[begins[0].end() : end]) != begins[0][1]:
        raise refused(file, "has a section of max that was edited")
    after = before[end + len(CLOSING) :].removeprefix("\n")
    replace(file, before[: begins[0].start()] + section + after, newline)
    return f"renewed the section of {path}"


def refused(file: Path, what: str) -> ProjectError:
    """The error for a file that is left as it is."""
    hint = (
        "nothing was written; delete that part and write it again, or print it without --write and merge it"
    )
    return ProjectError(f"{file} {what}", hint=hint)


def _place(path: str, project: Path | None) -> Path:
    """The file behind links; ProjectError when they lead away, or what is there is no file."""
    file = console().file(path).absolute()
    inside = project is not None and file.is_relative_to(project)
    real = place_within(file, project if project is not None and inside else file.parent)
    if real.exists() and not real.is_file():  # a pipe would be waited for
        raise ProjectError(f"{file} is not a file", hint="nothing was written; move it away, or name a file")
    return real


def content(file: Path) -> tuple[str | None, str]:
    """A file's text with plain line ends, and its own line end; None when there is no file."""
    try:
        text = file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None, "\n"
    except UnicodeDecodeError:
        raise refused(file, "is not UTF-8") from None
    return text.replace("\r\n", "\n"), "\r\n" if "\r\n" in text else "\n"


def replace(file: Path, text: str, newline: str) -> None:
    """Give a file new content in one step; its mode is kept."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.max-new")
    beside.unlink(missing_ok=True)  # a link there would be followed
    try:
        beside.write_bytes(text.replace("\n", newline).encode())
        if file.exists():
            beside.chmod(file.stat().st_mode & 0o777)
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
