"""A power cut on a simulated disk, at every place where the disk is asked to sync.

``MAX_POWER_CUTS`` says how many cuts there are in all (160 by default); ``python -m tests.power_cuts``
makes 2,400 and prints a table.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

pytest.importorskip("apsw", reason="the disk is simulated with apsw: pip install 'max-sync[test]'")

from max.model.settings import Settings
from tests.power import PowerConnection, PowerCursor
from tests.power_cuts import FULL, KINDS, WORKLOADS, Result, Run, cut_power, engine_alone, fill_disk

CUTS = int(os.environ.get("MAX_POWER_CUTS", "160")) // len(KINDS)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_power_cut_leaves_every_commit_that_has_returned_and_no_part_of_another(
    workload: str, tmp_path: Path
) -> None:
    found = cut_power(workload, "full", CUTS, tmp_path)
    assert found == Result(CUTS, resumed=found.resumed)
    assert found.resumed or workload == "the engine"


def test_with_normal_durability_a_power_cut_undoes_whole_commits_and_damages_nothing(tmp_path: Path) -> None:
    for number, workload in enumerate(WORKLOADS):
        found = cut_power(workload, "normal", CUTS, tmp_path / str(number))
        assert (found.damaged, found.half) == (0, 0)
        assert found.lost, f"{workload}: this is what full durability costs its time for"


@pytest.mark.parametrize("room", range(0, FULL, FULL // 4))
def test_a_disk_that_is_full_at_any_write_keeps_every_commit_and_the_next_syncs_go_on(
    room: int, tmp_path: Path
) -> None:
    assert fill_disk(room, tmp_path) == Result(1, resumed=1)


def test_the_simulated_disk_damages_a_database_that_never_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = PowerConnection.execute

    def never_sync(connection: PowerConnection, sql: str, values: object = ()) -> PowerCursor:
        words = "PRAGMA synchronous = OFF" if sql.startswith("PRAGMA synchronous") else sql
        return execute(connection, words, values)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(PowerConnection, "execute", never_sync)
    run = Run(tmp_path, "never", 200)
    with run.powered() as path:
        asyncio.run(engine_alone(path, Settings(history="changes")))
    found = run.result()
    assert found.damaged + found.half > 0
