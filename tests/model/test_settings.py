"""Settings of an installation: valid values, how they are typed, where they are stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from max.core import InstallationInfo
from max.errors import InvalidAnswers, ProjectError, UnknownName
from max.model.settings import (
    DEFAULTS,
    SETTINGS,
    Settings,
    parse_settings,
    read_settings,
    settings_json,
    update_settings,
)
from max.projects.folder import ProjectFolder


@pytest.fixture
def project(tmp_path: Path) -> ProjectFolder:
    return ProjectFolder.init(tmp_path)


@pytest.fixture
def info(project: ProjectFolder) -> InstallationInfo:
    return project.add("acme", None, {}, {}, now=1_800_000_000.0)


def file(project: ProjectFolder) -> Path:
    return project.root / ".max/installations/acme/default/installation.json"


def write(project: ProjectFolder, settings: Any) -> None:
    data = json.loads(file(project).read_text())
    file(project).write_text(json.dumps(data | {"settings": settings}))


def test_every_setting_is_in_the_table_and_its_default_is_valid() -> None:
    assert tuple(SETTINGS) == Settings._names
    assert update_settings(DEFAULTS, settings_json(DEFAULTS)) == DEFAULTS


def test_without_settings_the_defaults_apply(info: InstallationInfo) -> None:
    assert info.settings == Settings("changes", 30, 30, 0.25)


def test_a_change_keeps_the_settings_changed_before(project: ProjectFolder, info: InstallationInfo) -> None:
    project.change_settings(info, history="off")
    assert project.change_settings(info, removal_share=0).settings == Settings("off", 30, 30, 0)
    assert project.target("acme").settings == Settings("off", 30, 30, 0)


def test_changing_nothing_writes_nothing(project: ProjectFolder, info: InstallationInfo) -> None:
    before = file(project).read_bytes()
    assert project.change_settings(info).settings == DEFAULTS
    assert file(project).read_bytes() == before


def test_settings_of_a_newer_version_are_kept(project: ProjectFolder, info: InstallationInfo) -> None:
    write(project, {"colour": "red", "history_days": 7})
    project.change_settings(info, history="changes")
    stored = json.loads(file(project).read_text())["settings"]
    assert stored == {"colour": "red", "history_days": 7, "history": "changes"}


def test_an_unknown_setting_is_refused_with_the_nearest(
    project: ProjectFolder, info: InstallationInfo
) -> None:
    with pytest.raises(UnknownName, match="unknown setting 'historydays'") as raised:
        project.change_settings(info, historydays=3)
    assert raised.value.candidates[0] == "history_days"


def test_an_unknown_value_is_refused_with_the_nearest(project: ProjectFolder, info: InstallationInfo) -> None:
    with pytest.raises(UnknownName, match="unknown value 'change' in history") as raised:
        project.change_settings(info, history="change", removed_days=3)
    assert raised.value.candidates == ["changes"]
    assert project.target("acme").settings == DEFAULTS


@pytest.mark.parametrize("value", [-1, True, "7", None, float("nan"), float("inf"), 36_501, [1]])
def test_days_are_a_number(project: ProjectFolder, info: InstallationInfo, value: Any) -> None:
    with pytest.raises(InvalidAnswers, match="history_days: expected a number of days"):
        project.change_settings(info, history_days=value)


@pytest.mark.parametrize("value", [{}, None, 3, ["changes"]])
def test_history_is_one_of_two_words(project: ProjectFolder, info: InstallationInfo, value: Any) -> None:
    with pytest.raises(InvalidAnswers, match="history: expected off or changes"):
        project.change_settings(info, history=value)


def test_typed_numbers_become_numbers() -> None:
    words = {"history": "changes", "history_days": "30", "removal_share": "0.5", "removed_days": "many"}
    assert parse_settings(words) == words | {"history_days": 30, "removal_share": 0.5}


def test_invalid_stored_settings_are_named(project: ProjectFolder, info: InstallationInfo) -> None:
    write(project, {"history": "all"})
    with pytest.raises(ProjectError, match=r"settings\.history: expected off or changes, got 'all'"):
        project.target("acme")
    write(project, [])
    with pytest.raises(ProjectError, match="settings: expected an object"):
        project.target("acme")


def test_unknown_stored_settings_are_ignored() -> None:
    assert read_settings({"colour": "red", "removed_days": 1}) == Settings(removed_days=1)
