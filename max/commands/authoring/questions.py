"""A proposed entity from what an author says of one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...errors import UsageError
from .proposal import (
    Paging,
    ProposedEntity,
    ProposedField,
    entity_name,
    field_name,
    plural_name,
    singular,
    snake,
    written_field,
)


def proposed_entity(
    path: str,
    *,
    items: str = "",
    paging: Paging | None = None,
    key: str = "id",
    fields: Sequence[str] = (),
    entity: str = "",
    changed: str = "",
    since: str = "",
) -> ProposedEntity:
    """The entity of a list: ``fields`` as an author writes them, ``changed`` the place of a time."""
    _check_paths({"--items": items, "--key": key, "--changed": changed})
    word = snake(path.rstrip("/").rpartition("/")[2]) or "records"
    name = entity_name(entity or singular(word), ())
    made, at = _with_time(_written(fields, name, key), name, changed)
    if since and not at:
        raise UsageError("--since needs to know when a row changed", hint="say it: --changed updated_at")
    return ProposedEntity(
        name,
        plural_name(word, name),
        made,
        path=path,
        items=items,
        key=key,
        paging=paging or Paging(),
        changed=at,
        since=since,
    )


def _check_paths(given: Mapping[str, str]) -> None:
    """Refuse a path with an empty piece, by the option that gives it."""
    for option, path in given.items():
        if path and not all(path.split(".")):
            raise UsageError(f"{option}: {path!r} is not a path", hint="such as data.items")


def _written(texts: Sequence[str], entity: str, key: str) -> list[ProposedField]:
    """The fields that an author wrote; one for the whole data when they say nothing but the id."""
    made: list[ProposedField] = []
    for text in texts:
        made.append(written_field(text, entity, [one.name for one in made]))
    if all(one.source == key for one in made):
        made.append(ProposedField("data", "Json", "data", "what else the row has; name its fields here"))
    return made


def _with_time(
    made: Sequence[ProposedField], entity: str, changed: str
) -> tuple[Sequence[ProposedField], str]:
    """The fields with one that says when a row changed, and its name; empty when nothing says it."""
    if not changed:
        return made, ""
    at = next((one.name for one in made if changed in (one.source, one.name)), "")
    if not at:
        at = field_name(changed.rpartition(".")[2], entity, [one.name for one in made])
        return [*made, ProposedField(at, "datetime", changed, "when it last changed")], at
    return [replace(one, type="datetime", searchable=False) if one.name == at else one for one in made], at
