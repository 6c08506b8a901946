"""find: rows by their words, in every entity and every installation."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from ..errors import ProjectError, UsageError
from ..model.text_search import LIMIT, Found, Hit, Marked
from .console import console
from .framework import Answer, Ending, Options, paint
from .parser import Parser
from .terminal import ProgressView, line_width
from .text import Paint, counted, cut_hash, display_width, number, pad, sanitize, truncate

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..projects.manager import ProjectManager

MORE = 4  # times as many hits are proposed when there are more
WIDE = 100  # cells of a line that has room for a snippet beside the title
LEAST = 24  # cells of a title, and of a snippet
HIT_ROWS = ("ref", "installation", "entity", "title", "score", "snippet")


def configure_find(parser: Parser) -> None:
    """``max find TEXT …``."""
    parser.answers_rows = True
    parser.add_argument("text", nargs="*", metavar="TEXT", help="words that must all occur")
    parser.add_list("--in", "INSTALLATION,…", "only in these installations")
    parser.add_list("--entity", "ENTITY,…", "only these entities")
    parser.add_limit(f"hits (default {LIMIT})")
    about = "the text is a query in the syntax of SQLite's FTS5, with the columns title and text"
    parser.add_argument("--raw", action="store_true", help=about)
    index = parser.add_mutually_exclusive_group()
    index.add_argument("--check", action="store_true", help="compare the index with the rows")
    index.add_argument("--rebuild", action="store_true", help="build the index again from the rows")
    parser.add_examples(
        'max find "audit log"',
        "max find audit-log-1.png --in acme --entity AcmeFile",
        "max find migrat\\* --limit 50 -o json   (a word that goes on)",
        """max find '"audit log" kestrel'          (words that stand one after the other)""",
        "max find 'title: audit NOT log' --raw",
        "max find --check",
    )


def run_find(options: Options) -> Answer:
    """The best hits of the installations that were synced."""
    text, chosen = " ".join(options.text), listed(getattr(options, "in"))
    project = options.found_project()
    named = [project.target(name) for name in chosen]
    targets = options.named_or_synced(project, named)
    if not targets:
        raise ProjectError("nothing has been synced yet", hint=f"start with: max sync {first_of(project)}")
    if options.check or options.rebuild:
        if text:
            raise UsageError("--check and --rebuild take no text", hint="leave it out")
        return (checked if options.check else rebuilt)(options, project, targets)
    return found(options, project, targets, text)


def first_of(project: ProjectManager) -> str:
    """The installation to begin with."""
    return next(map(str, project.installations()), "acme:default")


def listed(text: str | None) -> list[str]:
    """The words of a list with commas."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def found(
    options: Options, project: ProjectManager, targets: Sequence[InstallationInfo], text: str
) -> Answer:
    """What was found, and what makes it less than the whole."""
    from ..query.find import find

    limit = options.limit or LIMIT
    with ExitStack() as opened:
        readers = [opened.enter_context(options.reading_of(project, one)) for one in targets]
        answer = find(readers, text, listed(options.entity), limit=limit, raw=options.raw)
    more, go_on = answer.total > len(answer.hits), str(MORE * limit)
    next_page = ("--limit", go_on) if more else None
    ending = Ending(len(answer.hits), answer.total, more, None, next_page, f"more: --limit {go_on}")
    rows = [one.to_dict() for one in answer.hits]
    notes = list(notes_of(answer, text, targets))
    lines = partial(hit_lines, answer.hits, several=len(targets) > 1, room=line_width(), paint=paint())
    tail = {"unindexed": answer.unindexed}
    return options.listing(
        rows, lines, notes, columns=HIT_ROWS, under="hits", tail=tail, ending=lambda: ending
    )


def notes_of(answer: Found, text: str, targets: Sequence[InstallationInfo]) -> Iterator[str]:
    """What to do next, or why nothing was found."""
    names = ", ".join(map(str, targets))
    if answer.unindexed:
        rows = counted(answer.unindexed, "row")
        yield f"{rows} changed and are not in the index yet; the next sync of {names} goes on with it"
    if answer.hits:
        first = answer.hits[0]
        yield f"next: max get {first.installation} {first.entity}:{first.id}"
        return
    if not answer.searchable:
        yield f"no field of {names} is searchable; `max schema` shows which are, and a sync brings the index"
        return
    yield f"nothing has {text!r}; looked through {', '.join(answer.searchable)} of {names}"
    first_word = text.split(" ")[0]
    if " " in text and any(first_word in (one.connector, str(one)) for one in targets):
        yield f"{first_word} was looked for as a word; to look there alone: --in {first_word}"


# -- how hits look -----------------------------------------------------------------------------


def hit_lines(hits: Sequence[Hit], *, several: bool, room: int | None, paint: Paint) -> Iterator[str]:
    """A line for each hit: the ref, the title, and what the other texts say.

    On a narrow terminal that is a line of its own, which appears only if something was found in it.
    A hash is cut at a terminal, as in tables.
    """
    rows = []
    for one in hits:
        where = f"{one.installation}  " if several else ""
        ref = f"{where}{one.entity}:{one.id if room is None else cut_hash(one.id)}"
        rows.append((sanitize(ref), shown(one.title), shown(one.snippet)))
    ref_width = max((display_width(ref) for ref, _, _ in rows), default=0)
    title_width, rest = max((display_width(title) for _, title, _ in rows), default=0), None
    if room is not None:
        left = room - ref_width - 4
        if room < WIDE or left < 2 * LEAST:
            yield from _narrow_lines(rows, ref_width, room, paint)
            return
        title_width = min(title_width, left // 2)
        rest = left - title_width
    for ref, title, snippet in rows:
        cells = (pad(ref, ref_width), painted(title, title_width, paint), painted(snippet, rest, paint))
        yield "  ".join(cells).rstrip()


def _narrow_lines(
    rows: Iterable[tuple[str, Marked, Marked]], ref_width: int, room: int, paint: Paint
) -> Iterator[str]:
    """Each hit with what its other texts say on a line of its own, and its title as well where it must."""
    for ref, title, snippet in rows:
        if ref_width + LEAST <= room:
            yield f"{pad(ref, ref_width)}  {painted(title, room - ref_width - 2, paint)}".rstrip()
        else:
            yield from (truncate(ref, room), f"  {painted(title, room - 2, paint)}".rstrip())
        if snippet.places:
            yield f"  {painted(snippet, room - 2, paint)}".rstrip()


def shown(text: Marked) -> Marked:
    """A text without what could control a terminal, marked in the same places."""
    made, places = "", []
    for piece, hit in text.pieces():
        clean = sanitize(piece)
        if hit:
            places.append((len(made), len(made) + len(clean)))
        made += clean
    return Marked(made, places)


def painted(text: Marked, room: int | None, paint: Paint) -> str:
    """A text that fills so many cells, with its hits in bold."""
    cut = str(text) if room is None else truncate(text, room)
    kept = len(cut) if cut == text else len(cut) - 1
    places = [(start, min(end, kept)) for start, end in text.places if start < kept]
    marked = Marked(cut, places)
    line = "".join(paint(piece, "bold") if hit else piece for piece, hit in marked.pieces())
    return line if room is None else line + " " * (room - display_width(cut))


# -- the index ---------------------------------------------------------------------------------


def checked(options: Options, project: ProjectManager, targets: Sequence[InstallationInfo]) -> Answer:
    """Each index compared with its rows; exit status 1 when one differs."""
    from ..query.find import check_index

    problems = {str(one): check_index(project.writable_database(one)) for one in targets}
    rows = [{"installation": name, "sound": not some, "problems": some} for name, some in problems.items()]
    lines = [f"{name}: {'; '.join(some) or 'the index fits the rows'}" for name, some in problems.items()]
    bad = [name for name, some in problems.items() if some]
    notes = [f"to mend it: max find --rebuild --in {','.join(bad)}"] if bad else []
    return options.listing(rows, lambda: lines, notes, status=1 if bad else 0)


def rebuilt(options: Options, project: ProjectManager, targets: Sequence[InstallationInfo]) -> Answer:
    """Each index built again, with its progress on stderr."""
    from ..query.find import rebuild_index

    done: dict[str, int] = {}
    for info in targets:
        view, total = ProgressView(console().stderr, now=time.monotonic()), 0

        def report(left: int, view: ProgressView = view) -> None:
            nonlocal total
            total = total or left
            if not options.quiet:
                view.show({"indexed": total - left}, f"{number(left)} rows left", now=time.monotonic())

        done[str(info)] = rebuild_index(project.writable_database(info), info, report)
        view.clear()
    rows = [{"installation": name, "rows": total} for name, total in done.items()]
    return options.listing(
        rows, lambda: [f"{name}: {number(total)} rows indexed" for name, total in done.items()]
    )
