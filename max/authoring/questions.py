"""A proposed entity from what an author says of one list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import UsageError
from .proposal import (
    Paging,
    ProposedEntity,
    ProposedField,
    entity_name,
    field_name,
    is_free,
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
    for where, what in (("--items", items), ("--key", key), ("--changed", changed)):
        if what and any(not piece for piece in what.split(".")):
            raise UsageError(f"{where}: {what!r} is not a path", hint="such as data.items")
    word = snake(path.rstrip("/").rpartition("/")[2]) or "records"
    name = entity_name(entity or singular(word), ())
    made: list[ProposedField] = []
    for text in fields:
        made.append(written_field(text, name, [one.name for one in made]))
    if not any(one.source != key for one in made):
        made.append(ProposedField("data", "Json", "data", "what else the row has; name its fields here"))
    at = next((one.name for one in made if changed in (one.source, one.name)), "") if changed else ""
    if changed and not at:
        at = field_name(changed.rpartition(".")[2], name, [one.name for one in made])
        made.append(ProposedField(at, "datetime", changed, "when it last changed"))
    made = [replace(one, type="datetime", searchable=False) if one.name == at else one for one in made]
    if since and not at:
        raise UsageError("--since needs to know when a row changed", hint="say it: --changed updated_at")
    plural = word if is_free(word) and not word[0].isdigit() and word != snake(name) else f"all_{word}"
    return ProposedEntity(
        name,
        plural,
        made,
        path=path,
        items=items,
        key=key,
        paging=paging or Paging(),
        changed=at,
        since=since,
    )
