"""docs/reference.md names every parameter of every public call, with its type and default."""

from __future__ import annotations

import inspect
import pydoc
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from max import connecting
from max.installations.config import read_config
from max.model.settings import DEFAULTS, settings_json

PAGE = Path(__file__).parent.parent / "docs" / "reference.md"
SECTION = re.compile(r"^### `([\w.]+)`\n(.*?)(?=^##|\Z)", re.M | re.S)
ROW = re.compile(r"^\| `(\w+)` \| `(.+?)` \| (.*?) \| (.+) \|$", re.M)
TABLES = dict(SECTION.findall(PAGE.read_text(encoding="utf-8")))
KEYWORDS_OF_A_CLASS = "Entity.__init_subclass__"


def called(name: str) -> Any:
    found: Any = connecting
    for part in name.split("."):
        found = getattr(found, part)
    return found


def parameters(function: Any) -> dict[str, tuple[str, str]]:
    """The type and the default of each parameter, as the page writes them."""
    found = inspect.signature(function).parameters.values()
    return {
        one.name: (_type(one.annotation), _default(one)) for one in found if one.name not in ("self", "cls")
    }


def _type(annotation: object) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return text.replace("|", r"\|")


def _default(one: inspect.Parameter) -> str:
    value = one.default
    if value is one.empty:
        return ""
    if isinstance(value, Mapping) or repr(value) == "<factory>":
        return "`{}`"
    if isinstance(value, timedelta):
        return f"`{value}`"
    return "" if callable(value) else f"`{value!r}`"


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_each_parameter_with_its_type_and_default(name: str) -> None:
    found = {parameter: (kind, default) for parameter, kind, default, _ in ROW.findall(TABLES[name])}
    assert found == parameters(called(name))


def test_every_public_call_has_a_table_and_every_other_name_its_place() -> None:
    """A name has a table or is in the text; errors of services have the parameters of UpstreamError."""
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in connecting.__all__ if f"`{name}`" not in text and f"`{name}." not in text] == []
    same = parameters(connecting.UpstreamError)
    for name in connecting.__all__:
        found = getattr(connecting, name)
        if isinstance(found, type) and issubclass(found, connecting.UpstreamError):
            assert parameters(found) == same, name


@pytest.mark.parametrize("name", sorted({*TABLES} - {KEYWORDS_OF_A_CLASS}))
def test_help_shows_every_parameter_with_its_type(name: str) -> None:
    """What ``help()`` prints of a call is enough to call it."""
    shown = pydoc.plain(pydoc.render_doc(called(name)))
    head = " ".join(shown.split("Methods defined here")[0].split())
    for parameter, (kind, _) in parameters(called(name)).items():
        kind = kind.replace(r"\|", "|")
        assert re.search(rf"\b{parameter}: '?{re.escape(kind)}", head), f"{parameter}: {kind}\n{head[:600]}"


class Comment(connecting.Entity):
    """A comment."""

    text: connecting.Field[str] = connecting.Field()


class Issue(connecting.Entity):
    """One field of each type that the page names."""

    title: connecting.Field[str] = connecting.Field()
    state: connecting.Field[Literal["open", "closed"]] = connecting.Field()
    votes: connecting.Field[int] = connecting.Field()
    active: connecting.Field[bool] = connecting.Field()
    updated_at: connecting.Field[datetime] = connecting.Field()
    due: connecting.Field[date] = connecting.Field()
    author: connecting.Field[connecting.Ref[User] | None] = connecting.Field()
    labels: connecting.Field[list[str]] = connecting.Field()
    comments: connecting.Many[Comment] = connecting.Many()


class User(connecting.Entity):
    """A user."""

    name: connecting.Field[str] = connecting.Field()


def test_the_table_of_settings_has_each_with_its_default() -> None:
    page = PAGE.with_name("cli.md").read_text(encoding="utf-8").partition("\n## Settings\n")[2]
    rows = re.findall(r"^\| `(\w+)` \| *`?([^|`]*?)`? *\|", page, re.M)
    expected = {name: str(value) for name, value in settings_json(DEFAULTS).items()}
    assert dict(rows) == expected


def test_the_filters_in_the_table_of_fields_are_filters() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("## Types of fields")[2].partition("## ")[0]
    rows = re.findall(r"^\| .*?`Field.* \| .+? \| (.+) \|$|^\| `Many.* \| .+? \| (.+) \|$", table, re.M)
    texts = [text for row in rows for text in re.findall(r"`(.+?)`", "".join(row))]
    assert len(texts) >= 10
    for text in texts:
        connecting.Query(Issue).where(text, now=0.0)


@dataclass(frozen=True)
class Config:
    """One key of each type that the page names."""

    path: str = ""
    tasks: int = 0
    active: bool = False
    repositories: Sequence[str] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    since: int | None = 1


@pytest.mark.parametrize(
    ("shown", "value"),
    [
        ("--set path=/tmp", "/tmp"),
        ("--set tasks=50", 50),
        ("--set active=yes", True),
        ("--set repositories=max/one,max/two", ("max/one", "max/two")),
        ('--set \'names={"a": "b"}\'', {"a": "b"}),
        ("--set since=null", None),
    ],
)
def test_a_configuration_value_is_given_as_the_table_says(shown: str, value: object) -> None:
    assert f"`{shown}`" in PAGE.read_text(encoding="utf-8")
    key, _, text = shown.removeprefix("--set ").strip("'").partition("=")
    assert getattr(read_config(Config, {key: text}, subject="it"), key) == value


def test_a_list_is_also_given_as_json() -> None:
    assert read_config(Config, {"repositories": '["a,b"]'}, subject="it").repositories == ("a,b",)
