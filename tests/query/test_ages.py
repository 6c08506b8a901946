"""Ages of listings: a collection that no listing brings is not called never listed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from max.engine import DatabaseEngine
from max.model.entities import Entity
from max.model.loaders import UnknownLoaders
from max.query.ages import ages
from max.storage.sqlite import MEMORY, SqliteConnection, SqliteDatabase
from tests.upstream_model import SCHEMA, Box, Group


def listings(*rows: Entity) -> list[str]:
    """The lines of ``max freshness`` for listings below groups, with these rows stored."""

    async def main() -> list[str]:
        database = SqliteDatabase(MEMORY)
        await database.start()
        engine = DatabaseEngine(database, UnknownLoaders(SCHEMA))
        await engine.start()
        await engine.store(*rows)

        def read(connection: SqliteConnection) -> list[str]:
            found = ages(connection, engine.tables, now=0.0)
            return [one.name for one in found if one.kind == "listing" and one.name.startswith("Group.")]

        try:
            return await database.read(read)
        finally:
            await database.stop()

    return asyncio.run(main())


def test_a_collection_whose_rows_came_without_any_listing_has_no_line_of_its_own() -> None:
    group = Group("g", title="t", changed=datetime(2030, 1, 1, tzinfo=UTC))
    box = Box("b", title="t", group=Group.ref("g"))
    assert listings(group) == ["Group.boxes", "Group.loose"], "it may be listed yet"
    assert listings(group, box) == ["Group.loose"]
