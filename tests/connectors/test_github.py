"""GitHub's connector against a strict fake of the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from max_connectors import github, github_api

from max import Status
from tests.github_copy import Copy
from tests.github_data import change
from tests.github_fake import Fake, served


@pytest.fixture
def fake() -> Iterator[Fake]:
    with served() as fake:
        yield fake


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of five rows."""
    monkeypatch.setattr(github, "PAGE", 5)
    monkeypatch.setattr(github_api, "PAGE", 5)


@pytest.fixture
def copy(fake: Fake, tmp_path: Path) -> Copy:
    return Copy(tmp_path, fake)


def synced(copy: Copy, **options: Any) -> None:
    """A sync that completes, after which the copy is equal to the service."""
    result = copy.sync(**options)
    assert (result.status, result.failures) == (Status.COMPLETED, ())
    assert copy.differences() == []


class TestRows:
    """What a sync leaves is what the service has."""

    def test_a_first_sync_brings_everything(self, copy: Copy) -> None:
        synced(copy)

    def test_a_first_sync_of_many_pages_brings_everything(self, copy: Copy, small: None) -> None:
        synced(copy)

    def test_changes_of_every_kind_come_with_the_next_sync(self, copy: Copy, small: None) -> None:
        synced(copy)
        change(copy.fake)
        synced(copy)

    def test_a_full_sync_after_changes_brings_the_same(self, copy: Copy, small: None) -> None:
        synced(copy)
        change(copy.fake)
        synced(copy, full=True)
