"""max find: what is found over all installations, how it looks, and what mends the index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from max import Project
from max.commands.find import hit_lines
from max.commands.text import PLAIN, Paint
from max.model.text_search import Found, Hit, Marked, TextQuery, mark, merged, snippet
from tests.command_line import Cli, sql
from tests.git_repositories import make, needs_git

TEXTS = {
    "acme_task": ("title", "description"),
    "acme_file": ("name",),
    "acme_project": ("name", "description"),
    "acme_user": ("name", "email"),
    "acme_workspace": ("name",),
}


@pytest.fixture
def acme(cli: Cli) -> Cli:
    assert cli("sync", "acme:default", "-q").status == 0
    return cli


# Both fit equally: which one comes first depends on which was stored first.
BEST = {"AcmeFile:w2-p4-f1": "audit-log-1.png", "AcmeFile:w2-p5-f3": "audit-log-3.zip"}


def by_hand(*words: str) -> list[str]:
    """The refs of all rows with fields in which all words stand, as the rows are stored."""
    found = []
    for view, fields in TEXTS.items():
        kind = "Acme" + view.removeprefix("acme_").capitalize()
        for id, *texts in sql(f"SELECT id, {', '.join(fields)} FROM {view}"):
            text = " ".join(texts).lower()
            if all(word in text for word in words):
                found.append(f"{kind}:{id}")
    return sorted(found)


class TestFinding:
    """The command over the demo source."""

    def test_everything_that_mentions_the_audit_log_is_found_also_in_file_names(
        self, acme: Cli, tmp_path: Path
    ) -> None:
        expected = by_hand("audit", "log")
        assert "AcmeFile:w2-p4-f1" in expected
        data = acme("find", "audit log", "-o", "json", "--limit", "100").data
        assert sorted(hit["ref"] for hit in data["hits"]) == expected
        assert (data["total"], data["shown"], data["hasMore"], data["next"]) == (len(expected),) * 2 + (
            False,
            None,
        )
        assert data["complete"] is True
        first = data["hits"][0]
        assert first["ref"] in BEST
        assert first.keys() == {"ref", "installation", "entity", "title", "score", "snippet"}
        assert [hit["score"] for hit in data["hits"]] == sorted(
            (hit["score"] for hit in data["hits"]), reverse=True
        )

    def test_the_words_need_no_quotes_and_the_hits_say_how_to_go_on(self, acme: Cli) -> None:
        run = acme("find", "audit", "log", "--limit", "2")
        lines = run.out.splitlines()
        assert sorted(lines) == [f"{ref}  {name}" for ref, name in BEST.items()]
        assert run.err.splitlines() == [
            f"next: max get acme:default {lines[0].partition(' ')[0]}",
            "2 of 24 shown; next: max find audit log --limit 8",
        ]

    def test_entities_add_up_and_an_unknown_one_is_refused(self, acme: Cli) -> None:
        data = acme("find", "audit", "--entity", "acmefile", "--entity", "AcmeUser", "-o", "json").data
        assert {hit["entity"] for hit in data["hits"]} == {"AcmeFile"}
        assert acme("find", "audit", "--entity", "AcmeTsk").status == 2
        run = acme("find", "audit", "--entity", "AcmeRoot")
        assert (run.status, run.err.splitlines()[0]) == (2, "max: AcmeRoot has no searchable field")

    def test_an_entity_goes_by_its_name_or_its_views_as_everywhere(self, acme: Cli) -> None:
        hits = acme("find", "audit", "--entity", "AcmeTask", "-o", "json").data["hits"]
        for name in ("acme_task", "acmetask", "ACME_TASK"):
            assert acme("find", "audit", "--entity", name, "-o", "json").data["hits"] == hits != []

    @needs_git
    def test_an_unknown_entity_names_those_of_every_installation(self, acme: Cli, tmp_path: Path) -> None:
        assert acme("connect", "git", "--set", f"path={make(tmp_path / 'repository')}").status == 0
        assert acme("sync", "git", "-q").status == 0
        run = acme("find", "audit", "--entity", "zzz")
        assert "entities: AcmeFile, " in run.err
        assert ", GitAuthor, " in run.err

    def test_several_installations_are_looked_through_the_best_of_each_first(self, acme: Cli) -> None:
        assert acme("sync", "acme:other", "-q").status == 2
        assert acme("connect", "acme:other", "--set", "seed=5", "--no-input").status == 0
        assert acme("sync", "acme:other", "-q").status == 0
        data = acme("find", "audit", "-o", "json").data
        assert [hit["installation"] for hit in data["hits"][:4]].count("acme:other") == 2
        some = acme("find", "audit", "--in", "acme:other", "-o", "json").data
        assert {hit["installation"] for hit in some["hits"]} == {"acme:other"}
        both = acme("find", "audit", "--in", "acme:other,acme:default", "-o", "json").data
        assert both["total"] == data["total"] > some["total"]
        assert acme("find", "audit").out.startswith("acme:")

    def test_other_formats_are_rows(self, acme: Cli) -> None:
        lines = acme("find", "audit", "-o", "ndjson", "--limit", "3").out.splitlines()
        assert [json.loads(line)["entity"] for line in lines] == ["AcmeFile", "AcmeFile", "AcmeTask"]
        head = acme("find", "audit", "-o", "csv", "--limit", "3").out.splitlines()[0]
        assert head == "ref,installation,entity,title,score,snippet"

    def test_nothing_found_says_where_was_looked(self, acme: Cli) -> None:
        run = acme("find", "acme", "xylophone")
        assert (run.status, run.out) == (0, "")
        assert run.err.splitlines() == [
            (
                "nothing has 'acme xylophone'; looked through AcmeWorkspace, AcmeUser, AcmeProject, AcmeTask,"
                " AcmeFile of acme:default"
            ),
            "acme was looked for as a word; to look there alone: --in acme",
        ]

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["find"], "there is no word in ''"),
            (["find", "+-+", "_"], "there is no word in '+-+ _'"),
            (["find", " ".join(["w"] * 65)], "more than 64 words"),
            (["find", "audit", "--check"], "--check and --rebuild take no text"),
            (["find", "audit (", "--raw"], "the query cannot be read: "),
            (["find", "audit", "--in", "nope"], "unknown installation 'nope'"),
            (["find", "--check", "--rebuild"], "cannot be combined"),
        ],
    )
    def test_a_mistake_is_named(self, acme: Cli, words: list[str], says: str) -> None:
        run = acme(*words)
        assert run.status == 2
        assert says in run.err

    def test_where_nothing_was_synced_the_first_step_is_named(self, cli: Cli) -> None:
        cli("connect", "acme")
        run = cli("find", "audit")
        assert (run.status, run.err.splitlines()[0]) == (1, "max: nothing has been synced yet")
        assert run.err.splitlines()[1] == "  start with: max sync acme:default"


class TestMending:
    """--check and --rebuild."""

    def test_a_sound_index_is_called_so(self, acme: Cli) -> None:
        run = acme("find", "--check")
        assert (run.status, run.out, run.err) == (0, "acme:default: the index fits the rows\n", "")

    @pytest.mark.of_a_folder
    def test_a_damaged_index_is_seen_and_mended(self, acme: Cli, tmp_path: Path) -> None:
        before = acme("find", "audit", "-o", "json").data["hits"]
        sql("DELETE FROM _max_find_docsize WHERE rowid IN (SELECT min(id) FROM _max_find_docsize)")
        run = acme("find", "--check", "-o", "json")
        assert run.status == 1
        (one,) = run.data["data"]
        assert one["sound"] is False
        assert one["problems"][0] == "1 rows are not in the index"
        assert "to mend it: max find --rebuild --in acme:default" in acme("find", "--check").err
        assert acme("find", "--rebuild").out == "acme:default: 262 rows indexed\n"
        assert acme("find", "--check").status == 0
        assert acme("find", "audit", "-o", "json").data["hits"] == before

    @pytest.mark.of_a_folder
    @pytest.mark.parametrize("table", ["_max_find_docsize", "_max_find_data", "_max_find_config"])
    def test_an_index_that_lost_its_own_rows_says_how_it_is_mended(self, acme: Cli, table: str) -> None:
        before = acme("find", "audit").out
        sql(f"DELETE FROM {table}")
        found = acme("find", "audit", "-o", "json")
        assert (found.status, found.error["code"]) == (1, "storage.corrupt")
        assert found.error["hint"] == "only its index of words is damaged: max find --rebuild"
        assert acme("find", "--rebuild").status == 0
        assert acme("find", "audit").out == before

    @pytest.mark.of_a_folder
    def test_an_interrupted_rebuild_is_reported_and_ended_by_the_next_sync(
        self, acme: Cli, tmp_path: Path
    ) -> None:
        sql("INSERT INTO _max_find(_max_find) VALUES ('delete-all')")
        sql("INSERT INTO _max_find_part(_max_find_part) VALUES ('delete-all')")
        sql("UPDATE _max_find_entity SET last = 0")
        run = acme("find", "audit")
        assert "262 rows changed and are not in the index yet; the next sync of acme:default" in run.err
        assert acme("find", "audit", "-o", "json").data["unindexed"] == 262
        assert acme("find", "--check").out == "acme:default: 262 rows are not indexed yet\n"
        acme("sync", "acme", "-q")
        assert acme("find", "--check").status == 0


def hit(ref: str, title: str, text: str, query: str = "audit log") -> Hit:
    entity, _, id = ref.partition(":")
    words = TextQuery.parse(query)
    return Hit("acme:default", entity, id, mark(title, words), 1.0, snippet(text, words))


class TestScreens:
    """How hits look in terminals of some widths."""

    HITS = (
        hit("Task:1", "Fix the audit log", "Add the audit log. See the notes."),
        hit("File:22", "audit-log.png", ""),
        hit("Task:3", "監査 audit 説明", "x" * 80),
    )

    def test_without_a_terminal_nothing_is_cut(self) -> None:
        assert list(hit_lines(self.HITS, several=False, room=None, paint=PLAIN)) == [
            "Task:1   Fix the audit log  Add the audit log. See the notes.",
            "File:22  audit-log.png",
            f"Task:3   監査 audit 説明    {'x' * 80}",
        ]

    def test_a_terminal_shows_the_beginning_of_a_hash_as_tables_do(self) -> None:
        commit = hit(f"Commit:{'0123456789' * 4}", "Fix the audit log", "")
        (line,) = hit_lines([commit], several=False, room=100, paint=PLAIN)
        assert line == "Commit:0123456789  Fix the audit log"
        (line,) = hit_lines([commit], several=False, room=None, paint=PLAIN)
        assert line == f"Commit:{'0123456789' * 4}  Fix the audit log"

    def test_a_wide_terminal_has_a_line_a_hit_and_a_narrow_one_cuts_between_characters(self) -> None:
        from max.commands.text import display_width

        for room in (20, 40, 60, 100, 200):
            for several in (False, True):
                for hits in (self.HITS, (*self.HITS, hit(f"Task:{'7' * 70}", "title " * 20, "audit " * 40))):
                    lines = list(hit_lines(hits, several=several, room=room, paint=PLAIN))
                    assert max(map(display_width, lines)) <= room, (room, lines)
        assert list(hit_lines(self.HITS, several=False, room=60, paint=PLAIN))[:3] == [
            "Task:1   Fix the audit log",
            "  Add the audit log. See the notes.",
            "File:22  audit-log.png",
        ]

    def test_hits_are_bold_and_nothing_of_the_data_controls_the_terminal(self) -> None:
        bad = hit("Task:1", "an \x1b[31maudit\x07 log", "")
        (line,) = hit_lines([bad], several=False, room=100, paint=Paint(on=True))
        assert line == "Task:1  an \\x1b[31m\x1b[1maudit\x1b[0m\\x07 \x1b[1mlog\x1b[0m"


class TestMarking:
    """Where texts are marked."""

    @pytest.mark.parametrize(
        ("text", "query", "marked"),
        [
            ("Fix the audit log", "audit log", "Fix the **audit log**"),
            ("audit-log-1.png", "audit log", "**audit**-**log**-1.png"),
            ("audit-log-1.png", "audit-log", "**audit-log**-1.png"),
            ("Café AUDIT audits", "cafe audit", "**Café AUDIT** audits"),
            ("audits", "audit*", "**audits**"),
            ("sqlite_utils/db.py", "lite_ut", "sq**lite_ut**ils/db.py"),
            ("監査ログの説明", "監査", "**監査**ログの説明"),
            ("nothing", "audit", "nothing"),
        ],
    )
    def test_hits_are_marked(self, text: str, query: str, marked: str) -> None:
        assert mark(text, TextQuery.parse(query)).marked() == marked

    def test_a_snippet_is_around_its_hits_on_one_line_and_cut_between_words(self) -> None:
        text = "one two three " * 20 + "the\naudit   log" + " four five six" * 20
        found = snippet(text, TextQuery.parse("audit log"), 60)
        assert len(found) <= 62
        assert found.marked().startswith("…")
        assert found.marked().endswith("…")
        assert "the **audit log** four" in found.marked()
        assert snippet(text, TextQuery.parse("zebra"), 30).startswith("one two three")

    def test_answers_merge_by_place_and_then_by_score(self) -> None:
        def answer(name: str, *scores: float) -> Found:
            hits = [Hit(name, "E", str(n), Marked("t"), score, Marked("")) for n, score in enumerate(scores)]
            return Found(hits, 10, 1, ("E",))

        found = merged({"a": answer("a", 9.0, 8.0, 7.0), "b": answer("b", 10.0, 1.0)}, 4)
        assert [(one.installation, one.score) for one in found.hits] == [
            ("b", 10.0),
            ("a", 9.0),
            ("a", 8.0),
            ("b", 1.0),
        ]
        assert (found.total, found.unindexed, found.searchable) == (20, 2, ("E",))


def test_a_reader_a_project_and_a_runtime_find_the_same(acme: Cli) -> None:
    import asyncio

    async def by_runtime() -> list[Any]:
        async with Project.open(".") as project:
            runtime = await project.runtime("acme", "default")
            return [one.id for one in (await runtime.find("audit", "AcmeTask", limit=5)).hits]

    project = Project.find(".")
    with project.read("acme") as reader:
        found = reader.find("audit", ["AcmeTask"], limit=5)
    assert [one.id for one in found.hits] == asyncio.run(by_runtime())
    assert project.find_rows("audit", entities=["AcmeTask"], limit=5).hits == found.hits
