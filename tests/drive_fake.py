"""The fake of Google Drive for tests: an account with files, and what a copy of it must hold.

The fake is not part of this repository.  It is used when it is found in ``../shared/apis``, and holds
every request against Drive's own description.  Expected rows come from the fake's state, by code of
this file alone.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from max_connectors import google_drive
from max_connectors.google_drive import (
    Drive,
    DriveAccount,
    DriveFile,
    DrivePermission,
    DriveUser,
    GoogleDriveConfig,
    connector,
)

from max import CredentialProvider, Entity, InstallationInfo, Json, Status, SyncResult
from max.installations.config import read_config
from max.model.settings import DEFAULTS
from max.runtime import InstallationRuntime
from max.storage.sqlite import SqliteDatabase
from max.upstream.credentials import MemoryCredentials
from max.upstream.recording import Recording
from max.upstream.replay import Replay
from tests.opened import Opened

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
APIS = Path(__file__).resolve().parents[2] / "shared" / "apis"
START = 1_735_689_600  # 2025-01-01: the account's first moment
NOW = START + 90 * 86_400  # when tests begin
TOKEN = "1//google-refresh-fake"  # a refresh token that the fake accepts
CLIENT = {"client_id": "client.apps.googleusercontent.com"}
SECRET = "GOCSPX-secret-of-the-fake"
FOLDER = "application/vnd.google-apps.folder"
SHORTCUT = "application/vnd.google-apps.shortcut"
DOCUMENT = "application/vnd.google-apps.document"


def why_not() -> str:
    """Why the fake is not available; empty when it is."""
    if not APIS.is_dir():
        return f"the fake of Google Drive is not beside the repository ({APIS.name} in shared)"
    missing = [name for name in ("jsonschema", "referencing") if not importlib.util.find_spec(name)]
    return f"the fake of Google Drive needs {', '.join(missing)}" if missing else ""


needs_fake = pytest.mark.skipif(bool(why_not()), reason=why_not() or "available")


def fake_module(name: str = "gdrive") -> Any:
    """A module of the fakes, without types."""
    if str(APIS) not in sys.path:
        sys.path.append(str(APIS))
    return importlib.import_module(f"apifakes.{name}")


@contextmanager
def account(files: int = 12, clock: Any = None, **options: Any) -> Iterator[Any]:
    """A served account; a request that violates Drive's description fails at the end."""
    clock = clock or fake_module("core").Clock(start=float(NOW))
    fake = fake_module().Drive(clock, **options).seed(files=files, start=START)
    fake.tokens.clients[CLIENT["client_id"]] = SECRET
    furnish(fake)
    with fake:
        fake._http.socket.listen(64)  # the default queue of five delays concurrent connections
        fake._http.handle_error = lambda *_: None  # a killed client closes no connection
        yield fake


def person(number: int, **more: Json) -> Json:
    """A user as Drive writes one."""
    return {
        "kind": "drive#user",
        "displayName": f"Person {number}",
        "emailAddress": f"p{number}@acme.test",
        "me": False,
        "permissionId": str(number),
        **more,
    }


def grant(number: int, role: str = "reader", **more: Json) -> Json:
    """A permission of a person."""
    return {
        "kind": "drive#permission",
        "id": str(number),
        "type": "user",
        "role": role,
        "emailAddress": f"p{number}@acme.test",
        **more,
    }


def furnish(fake: Any) -> None:
    """Add what the fake's seed lacks: deep folders, shortcuts, shared files, odd names, permissions."""

    def put(id: str, at: int, **values: Json) -> None:
        moment = fake.clock.iso(START + 60 * at)
        fake.put(id, log=False, createdTime=moment, modifiedTime=moment, **values)

    put("deep", 1, name="Deep", mimeType=FOLDER, parents=["folder1"])
    put("deeper", 2, name="Deeper", mimeType=FOLDER, parents=["deep"])
    put("leaf", 3, name="Q1/Q2", parents=["deeper"], description="numbers", starred=True)
    put("twin", 3, name="Q1/Q2", parents=["deeper"])
    put("link", 4, name="to the leaf", mimeType=SHORTCUT, parents=["root"])
    fake.files["link"]["shortcutDetails"] = {"targetId": "leaf", "targetMimeType": "text/plain"}
    for name in ("md5Checksum", "size"):
        fake.files["link"].pop(name, None)
    put("foreign", 5, name="from Eve", ownedByMe=False, owners=[person(7)], sharingUser=person(7))
    fake.files["foreign"].pop("parents")
    fake.files["foreign"].pop("permissions")
    fake.files["foreign"]["sharedWithMeTime"] = fake.clock.iso(START + 600)
    put("lost", 6, name="below the invisible", parents=["hidden-folder"], owners=[person(8)])
    put("mine", 7, name="shared by me", permissions=[grant(1, "owner"), grant(7), grant(8, "writer")])
    put("binary", 8, name="photo.jpg", mimeType="image/jpeg", parents=["folder0"], size="9007199254740993")
    fake.files["binary"].update(
        sha256Checksum="ab" * 32,
        headRevisionId="rev-1",
        fullFileExtension="jpg",
        originalFilename="DSC1.JPG",
        lastModifyingUser=person(9),
        properties={"camera": "x"},
        capabilities={"canEdit": True, "canShare": True, "canDownload": False},
        viewedByMeTime=fake.clock.iso(START + 700),
        quotaBytesUsed="12",
    )
    put("team", 9, name="Plans", mimeType=FOLDER, driveId="D1", parents=["D1"], owners=[], ownedByMe=False)
    put("plan", 10, name="2025", driveId="D1", parents=["team"], owners=[], ownedByMe=False)
    for id in ("team", "plan"):
        fake.files[id]["permissions"] = [
            grant(1, "organizer"),
            grant(9, permissionDetails=[{"inherited": True}]),
        ]


def change(fake: Any) -> None:
    """Rename, move, create, trash, share and delete files, folders and what is below them."""
    fake.clock.advance(30)
    fake.put("deep", name="Deeper than before")
    fake.put("deeper", parents=["folder2"])
    fake.put("file1", trashed=True, explicitlyTrashed=True)
    fake.remove("file2")
    fake.put("new-folder", name="New", mimeType=FOLDER, parents=["root"])
    fake.put("new", name="new.txt", parents=["new-folder"])
    fake.put("file3", parents=["new-folder"])
    fake.put("mine", permissions=[grant(1, "owner"), grant(7, "writer"), grant(9)])
    fake.put("team", name="Old plans")
    fake.put("plan", permissions=[grant(1, "organizer"), grant(7)])
    fake.remove("shared1")
    fake.put("shared2", name="renamed")


# -- two syncs, which are also in recordings --------------------------------------------------------


def first_part(copy: Copy) -> SyncResult:
    """The first sync."""
    return copy.sync()


def second_part(copy: Copy) -> SyncResult:
    """Changes of every kind, then the second sync."""
    if copy.fake is not None:
        change(copy.fake)
    return copy.sync()


# -- expected rows -------------------------------------------------------------------------------


def path_of(fake: Any, id: str) -> str:
    """The path of a file, straight from the fake's folders."""
    file = fake.files[id]
    top = file.get("driveId") or "root"
    names: list[str] = []
    at: str | None = id
    while at is not None:
        if at == top:
            drive = "My Drive" if top == "root" else fake.drives[top]["name"]
            return "/" + "/".join([drive, *reversed(names)])
        if at not in fake.files:
            break
        names.append(fake.files[at]["name"].replace("/", "\u2215"))
        at = next(iter(fake.files[at].get("parents", [])), None)
    return "/".join(reversed(names))


PLAIN = {  # fields of a file that are as Drive has them
    "name": "name",
    "mime_type": "mimeType",
    "description": "description",
    "shared": "shared",
    "owned_by_me": "ownedByMe",
    "starred": "starred",
    "trashed": "trashed",
    "md5": "md5Checksum",
    "explicitly_trashed": "explicitlyTrashed",
    "head_revision": "headRevisionId",
    "sha256": "sha256Checksum",
    "extension": "fullFileExtension",
    "original_name": "originalFilename",
    "url": "webViewLink",
    "properties": "properties",
}
NUMBERS = {"size": "size", "version": "version", "quota_used": "quotaBytesUsed"}
TIMES = {
    "created_at": "createdTime",
    "modified_at": "modifiedTime",
    "viewed_at": "viewedByMeTime",
    "shared_at": "sharedWithMeTime",
    "trashed_at": "trashedTime",
}
USERS = {"modified_by": "lastModifyingUser", "shared_by": "sharingUser", "trashed_by": "trashingUser"}
MAY = {"can_edit": "canEdit", "can_share": "canShare", "can_download": "canDownload"}


def expected_file(fake: Any, file: Json) -> dict[str, Json]:
    """A file's fields, as JSON data."""
    shortcut = file.get("shortcutDetails", {})
    asked = "permissions" in file or "driveId" in file  # else the account may not know
    ids = [one["id"] for one in file.get("permissions", [])] if asked else None
    return {
        **{name: file.get(key) for name, key in PLAIN.items()},
        **{name: int(file[key]) if key in file else None for name, key in NUMBERS.items()},
        **{name: moment(file.get(key)) for name, key in TIMES.items()},
        **{name: file.get(key, {}).get("permissionId") for name, key in USERS.items()},
        **{name: file.get("capabilities", {}).get(key) for name, key in MAY.items()},
        "path": path_of(fake, file["id"]),
        "drive": file.get("driveId") or "root",
        "parent": next(iter(file.get("parents", [])), None),
        "owners": [one["permissionId"] for one in file["owners"]],
        "shortcut_target": shortcut.get("targetId"),
        "shortcut_type": shortcut.get("targetMimeType"),
        "permission_ids": ids,
    }


def moment(text: str | None) -> str | None:
    """A time as rows have it in JSON data."""
    if text is None:
        return None
    whole, _, fraction = (
        datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").partition(".")
    )
    return f"{whole}.{fraction.rstrip('0')}Z" if fraction.strip("0") else f"{whole}Z"


def expected(fake: Any) -> dict[str, dict[str, dict[str, Json]]]:
    """What a copy must hold: by entity and id, the fields that are known here."""
    people: dict[str, Json] = {}
    for file in fake.files.values():
        named = [file[key] for key in USERS.values() if key in file]
        people |= {one["permissionId"]: one for one in (*file["owners"], *named)}
    permissions = {
        f"{file['id']}/{one['id']}": {
            "file": file["id"],
            "grantee": one["id"],
            "role": one["role"],
            "type": one["type"],
            "email": one.get("emailAddress"),
        }
        for file in fake.files.values()
        for one in file.get("permissions", [])
    }
    drives = {"root": {"name": "My Drive", "kind": "mine"}}
    drives |= {id: {"name": one["name"], "kind": "shared"} for id, one in fake.drives.items()}
    return {
        "Drive": drives,
        "DriveFile": {id: expected_file(fake, file) for id, file in fake.files.items()},
        "DriveUser": {
            id: {"name": one["displayName"], "email": one["emailAddress"]} for id, one in people.items()
        },
        "DrivePermission": permissions,
        "DriveAccount": {"account": {"email": fake.me["emailAddress"], "user": fake.me["permissionId"]}},
    }


ENTITIES: tuple[type[Entity], ...] = (Drive, DriveFile, DriveUser, DrivePermission, DriveAccount)


async def rows_of(runtime: InstallationRuntime) -> dict[str, dict[str, dict[str, Json]]]:
    """Every stored row as JSON data, by entity and id."""
    return {
        entity.__name__: {one.id: one.to_dict() for one in await runtime.engine.query(entity).all()}
        for entity in ENTITIES
    }


def differences_of(kept: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """What a copy lacks, has too much, or has otherwise; people who are not named any more may stay."""
    wrong = []
    for entity, rows in there.items():
        missing, left = rows.keys() - kept[entity].keys(), kept[entity].keys() - rows.keys()
        wrong += [f"{entity}: missing {id}" for id in sorted(missing)]
        wrong += [f"{entity}: left over {id}" for id in sorted(left) if entity != "DriveUser"]
        for id in sorted(rows.keys() & kept[entity].keys()):
            for name, value in rows[id].items():
                if kept[entity][id].get(name, "not loaded") != value:
                    wrong.append(f"{entity} {id}.{name}: {kept[entity][id].get(name)!r}, upstream {value!r}")
    return wrong


# -- installations -------------------------------------------------------------------------------


class Clock:
    """The time of a test, in seconds since the epoch: it runs, and can be moved forward."""

    def __init__(self, now: float = NOW) -> None:
        self.ahead = now - time.time()

    def __call__(self) -> float:
        return time.time() + self.ahead


class Copy(Opened):
    """An installation of an account in a folder, opened for each call.

    ``recording`` is called each time the installation is opened; without a fake it must be a replay.
    """

    def __init__(
        self, folder: Path, fake: Any = None, secrets: Mapping[str, str] | None = None, **config: Any
    ) -> None:
        self.folder, self.fake, self.clock = folder, fake, Clock()
        self.secrets = MemoryCredentials(secrets or {"refresh_token": TOKEN, "client_secret": SECRET})
        urls = {"base_url": fake.url, "token_url": fake.url} if fake else {}
        self.values: dict[str, Any] = {**CLIENT, **urls, **config}
        self.recording: Callable[[], Recording | Replay | None] = lambda: None
        self.settings = DEFAULTS
        self.process: subprocess.Popen[bytes]

    def configured(self) -> tuple[GoogleDriveConfig, CredentialProvider]:
        """The arguments of ``initialise``."""
        config = read_config(GoogleDriveConfig, self.values, subject="a test")
        return config, CredentialProvider(self.secrets, connector.credentials, connector.hosts_for(config))

    def runtime(self) -> InstallationRuntime:
        """A runtime before its start."""
        config, credentials = self.configured()
        info = InstallationInfo("google_drive", "default", "copy", {}, 0.0, self.settings)
        return InstallationRuntime(
            info,
            connector,
            config,
            credentials,
            SqliteDatabase(self.folder / "data.db"),
            recording=self.recording(),
            clock=self.clock,
        )

    def later(self, seconds: float) -> None:
        """Move both clocks forward."""
        self.clock.ahead += seconds
        if self.fake is not None:
            self.fake.clock.advance(seconds)

    def rows(self) -> dict[str, dict[str, dict[str, Json]]]:
        """Every stored row as JSON data, by entity and id."""
        return asyncio.run(self.open(rows_of))

    def differences(self) -> list[str]:
        """Differences between database and upstream."""
        return differences_of(self.rows(), expected(self.fake))

    def requests(self) -> list[str]:
        """The paths of the requests since the last call, in order; those for tokens are left out."""
        paths = [one.path.removeprefix("/drive/v3/") for one in self.fake.log]
        self.fake.log.clear()
        return [one for one in paths if one != "/token"]

    # syncs in other processes

    def apart(self, *options: str) -> subprocess.Popen[bytes]:
        """A sync in another process, after it has ended or was killed."""
        self.later(60)
        arguments = [str(self.folder), self.fake.url, str(self.clock()), *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")])}
        command = [sys.executable, "-m", "tests.drive_fake", *arguments]
        with subprocess.Popen(command, env=environment, cwd=ROOT) as process:
            self.process = process
        return process

    def killed_after(self, requests: int, *options: str) -> None:
        """A sync in another process, killed with SIGKILL at this request."""
        self.fake.inject("GET", call=lambda _: self.process.kill(), skip=requests - 1)
        killed = self.apart(*options)
        self.fake.faults.clear()
        assert killed.returncode == -signal.SIGKILL


def main(folder: str, url: str, now: str, *options: str) -> int:
    """``python -m tests.drive_fake FOLDER URL NOW [OPTION…]``: one sync, with small pages."""
    google_drive.PAGE = 5
    copy = Copy(Path(folder), contents="contents" in options)
    copy.values |= {"base_url": url, "token_url": url}
    copy.clock = Clock(float(now))

    async def body(runtime: InstallationRuntime) -> SyncResult:
        return await (await runtime.sync()).completion()

    result = asyncio.run(copy.open(body))
    return 0 if result.status is Status.COMPLETED else 1


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
