"""Interim: what the owners of names do until each does it by itself."""

from __future__ import annotations

import json
from collections.abc import Sequence

from . import change_log as history
from .database import Connection, RenameOwner, Targets, quoted

Path = tuple[str, str]


def followers(connection: Connection, *columns: str) -> list[str]:
    """Those of Max's own tables that have all of these columns."""
    rows = connection.execute(
        "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c"
        " WHERE m.type = 'table' AND m.name GLOB '_max_*'"
        " AND m.name NOT IN ('_max_field', '_max_spent_bit', '_max_hidden', '_max_failure')"
    )
    known: dict[str, set[str]] = {}
    for table, column in rows:
        known.setdefault(table, set()).add(column)
    return [table for table, has in known.items() if has.issuperset(columns)]


def _rename_in_pages(connection: Connection, path: Path, new: str | None) -> None:
    """Have the pages call a field by another name, or, without one, not know it any more."""
    entity, old = path
    connection.execute(
        "UPDATE _max_load SET fields = replace(fields, :old, :new) WHERE entity = :entity",
        {"entity": entity, "old": f",{old},", "new": f",{new}," if new else ","},
    )


class InterimOwner(RenameOwner):
    """All of them."""

    def rename_entity(self, connection: Connection, old: str, new: str) -> None:
        """."""
        for table in followers(connection, "entity"):
            connection.execute(
                f"UPDATE OR REPLACE {quoted(table)} SET entity = ? WHERE entity = ?", (new, old)
            )
        history.rename_entity(connection, old, new)
        connection.execute(
            "UPDATE _max_listing SET collection = :new || substr(collection, length(:old) + 1)"
            " WHERE substr(collection, 1, length(:old) + 1) = :old || '.'",
            {"old": old, "new": new},
        )

    def rename_field(self, connection: Connection, entity: str, old: str, new: str, targets: Targets) -> None:
        """."""
        for follower in followers(connection, "entity", "field"):
            sql = f"UPDATE OR REPLACE {quoted(follower)} SET field = ? WHERE entity = ? AND field = ?"
            connection.execute(sql, (new, entity, old))
        _rename_in_pages(connection, (entity, old), new)
        values = (f"{entity}.{new}", f"{entity}.{old}")
        connection.execute("UPDATE _max_listing SET collection = ? WHERE collection = ?", values)

    def drop_entity(self, connection: Connection, entity: str) -> None:
        """."""
        if followers(connection, "name", "kinds"):
            connection.execute("DELETE FROM _max_change_entity WHERE name = ?", (entity,))
        for table in followers(connection, "entity"):
            connection.execute(f"DELETE FROM {quoted(table)} WHERE entity = ?", (entity,))

    def drop_field(self, connection: Connection, entity: str, name: str) -> None:
        """."""
        _rename_in_pages(connection, (entity, name), None)
        connection.execute("DELETE FROM _max_freshness WHERE entity = ? AND field = ?", (entity, name))
        name = f"{entity}.{name}"
        lists = "(SELECT id FROM _max_listing WHERE collection = ?)"
        connection.execute(f"DELETE FROM _max_membership WHERE listing IN {lists}", (name,))
        connection.execute(f"UPDATE _max_missing SET listing = NULL WHERE listing IN {lists}", (name,))
        connection.execute("DELETE FROM _max_listing WHERE collection = ?", (name,))

    def drop_rows(self, connection: Connection, entity: str, rows: str, collections: Sequence[str]) -> None:
        """."""
        lists = "(SELECT id FROM _max_listing WHERE collection IN (SELECT value FROM json_each(?)))"
        names = json.dumps(list(collections))
        connection.execute(
            f"DELETE FROM _max_membership WHERE child IN ({rows}) AND listing IN {lists}", (names,)
        )
        for follower in followers(connection, "entity", "row"):
            if follower != "_max_quarantine":
                sql = f"DELETE FROM {quoted(follower)} WHERE entity = ? AND row IN ({rows})"
                connection.execute(sql, (entity,))

    def change_ids(self, connection: Connection, entity: str, ids: str, parents: Sequence[str]) -> None:
        """."""
        for name in parents:
            _rekey_lists(connection, name)


def _rekey_lists(connection: Connection, name: str) -> None:
    """Give lists their parents' new ids; those whose parent was dropped go with their links."""
    mapped = "SELECT new FROM _max_new_id WHERE old = parent"
    gone = f"collection = ? AND NOT EXISTS ({mapped})"
    lists = f"(SELECT id FROM _max_listing WHERE {gone})"
    connection.execute(f"DELETE FROM _max_membership WHERE listing IN {lists}", (name,))
    connection.execute(f"UPDATE _max_missing SET listing = NULL WHERE listing IN {lists}", (name,))
    connection.execute(f"DELETE FROM _max_listing WHERE {gone}", (name,))
    aside = f" rekeyed {name}"  # so that two parents may change places
    sql = f"UPDATE _max_listing SET collection = ?, parent = ({mapped}) WHERE collection = ?"
    connection.execute(sql, (aside, name))
    connection.execute("UPDATE _max_listing SET collection = ? WHERE collection = ?", (name, aside))
