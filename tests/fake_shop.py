"""The shop of max_shop.py, for ``max connector test``."""

from __future__ import annotations

from max.testing import Cursors, Fake, ScriptedUpstream


def fake() -> Fake:
    orders = [
        {"id": str(n), "title": f"{n} apples", "changed_at": f"2026-01-0{n}T00:00:00Z"} for n in range(1, 6)
    ]
    shop = ScriptedUpstream(
        {"/orders": orders}, dialect=Cursors(since={"since": "changed_at"}), token="a-long-token"
    )

    def change() -> None:
        orders[0].update(title="no apples", changed_at="2026-01-09T00:00:00Z")

    def remove() -> None:
        del orders[1]

    return Fake(shop, credentials={"token": "a-long-token"}, change=change, remove=remove)
