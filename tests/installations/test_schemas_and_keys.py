"""What a project in a database needs without a server: names of schemas, and keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from max.errors import KeyMissing
from max.installations.encryption import keys_from, new_key
from max.projects.database import schema_of

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?<!\.)", fullmatch=True)


@st.composite
def nearly_equal(draw: st.DrawFn) -> tuple[tuple[str, str], tuple[str, str]]:
    """Two installations of the same words, which end the connector's name at some place, in any case."""
    words = draw(st.lists(st.sampled_from(["a", "b"]), min_size=2, max_size=4))

    def one() -> tuple[str, str]:
        said = [word.upper() for word in words] if draw(st.integers(0, 3)) == 3 else words
        place, join = draw(st.integers(1, len(words) - 1)), draw(st.sampled_from("___-."))
        return join.join(said[:place]), join.join(said[place:])

    return one(), one()


@settings(max_examples=300)
@given(st.one_of(nearly_equal(), st.tuples(st.tuples(NAMES, NAMES), st.tuples(NAMES, NAMES))))
def test_no_two_installations_have_one_schema(both: tuple[tuple[str, str], tuple[str, str]]) -> None:
    one, other = both
    first, second = schema_of("max", *one), schema_of("max", *other)
    assert (first == second) == (one == other)
    assert max(len(first.encode()), len(second.encode())) <= 63
    assert first.startswith("max_")


def test_a_schema_is_named_as_its_installation_where_that_is_clear() -> None:
    assert schema_of("max", "acme", "default") == "max_acme_default"
    assert schema_of("max", "google_drive", "work") == "max_google_drive_work"
    odd = [schema_of("max", *one) for one in (("a", "b_c"), ("a", "B"), ("a", "b-c"), ("a", "b" * 64))]
    assert all(one.startswith("max__a_b") for one in odd)
    assert len(set(odd)) == 4
    assert schema_of("max", "a_b", "c") == "max_a_b_c"


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("file:{}/missing", "cannot be read"),
        ("file:{}/open", "other users can reach it"),
        ("file:{}/empty", "there is no key in"),
        ("file:{}/short", "a line is no key"),
        ("env:NOT_THERE", "is not set"),
        ("command:false", "ended with status 1"),
        ("command:{}/missing", "gave no key"),
        ("s3cret-key-itself", "is file:PATH"),
    ],
)
def test_a_key_that_cannot_be_had_says_why_and_never_what_it_is(tmp_path: Path, spec: str, text: str) -> None:
    files = (("open", new_key(), 0o644), ("empty", "# a note\n", 0o600), ("short", "s3cret", 0o600))
    for name, content, mode in files:
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    with pytest.raises(KeyMissing, match=text) as caught:
        keys_from(spec.format(tmp_path))
    assert "s3cret" not in caught.value.render()


def test_keys_come_from_a_file_of_ones_own_or_from_a_command(tmp_path: Path) -> None:
    first, second = new_key(), new_key()
    file = tmp_path / "keys"
    file.write_text(f"# of May\n{first}\n\n{second}\n")
    file.chmod(0o600)
    found = [keys_from(f"file:{file}"), keys_from(f"command:cat {file}")]
    assert [len(one.keys) for one in found] == [2, 2]
    assert found[0].keys == found[1].keys
    assert first not in repr(found[0])
