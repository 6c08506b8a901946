"""Google Drive: files and folders with their paths, shared drives, and who has access.

``google_drive_entities.py`` has the entities, ``google_drive_api.py`` the requests and errors,
``google_drive_sign_in.py`` the credentials, and ``google_drive_paths.py`` makes the paths.

Rule 1: each drive is a listing of its own, with a change log of its own.  The log's position is taken
before the files are listed, so what changes meanwhile is in the log.

Rule 2: the files of a drive are listed by the time of their creation, and each page begins at the
last time of the one before.  So no file that goes or changes makes another one slip between two pages.

Rule 3: a file that leaves one drive for another is brought by the other one's log.  Only what Drive
says is gone, and what went to a drive that is not copied, is removed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import fields
from datetime import timedelta
from itertools import pairwise
from operator import itemgetter
from typing import Any

from max.connecting import (
    Answers,
    BadCredentials,
    Connector,
    CredentialProvider,
    Entity,
    Env,
    Filter,
    HttpClient,
    Input,
    Installation,
    Json,
    Loader,
    NotFound,
    OAuth,
    Page,
    PageRequest,
    PermissionDenied,
    Query,
    Ref,
    RunCode,
    Secret,
    SecretInput,
    Select,
    SignIn,
    Step,
    Store,
    SyncPlan,
    UpstreamChanged,
    UpstreamMissing,
    Validate,
    require_http,
)

from .google_drive_api import (
    EXPORTS,
    MY_DRIVE,
    NO_CONTENT,
    REASONS,
    ChangesQuery,
    ContentQuery,
    FilesQuery,
    GoogleDrive,
    GoogleDriveConfig,
    PermissionsQuery,
    get_account,
    get_content,
    get_root,
    get_start_token,
    list_changes,
    list_drives,
    list_files,
    list_permissions,
    read_error,
)
from .google_drive_entities import (
    FOLDER,
    SCHEMA,
    SHORTCUT,
    Drive,
    DriveAccount,
    DriveFile,
    DriveKind,
    DrivePermission,
    DriveUser,
    Row,
)
from .google_drive_paths import Tree, Walk
from .google_drive_sign_in import BROWSER, OAUTH, PRIVATE_KEY, TOKEN_PATH, ServiceAccount, read_key_file

__all__ = [
    "Drive",
    "DriveAccount",
    "DriveFile",
    "DriveKind",
    "DrivePermission",
    "DriveUser",
    "GoogleDriveConfig",
    "connector",
]

ROOT_ID = "account"  # a credential is for exactly one
PAGE = 1000  # files or changes that one page may hold; Drive gives no more
ASKING = 100  # the same where each file needs a request for its permissions
CHECKS = 3  # syncs after a listing of everything that look for paths through folders that are gone
DAY = timedelta(days=1)
PEOPLE = ("lastModifyingUser", "sharingUser", "trashingUser")


# -- the account and its drives ----------------------------------------------------------------


ACCOUNT = (
    *(DriveAccount.email, DriveAccount.name, DriveAccount.user),
    *(DriveAccount.storage_limit, DriveAccount.storage_used),
)


@Loader.entity(*ACCOUNT, ttl=DAY)
async def account(ref: Ref[DriveAccount], env: Env[GoogleDrive]) -> DriveAccount:
    """The account; BadCredentials when the credential is for another one than before."""
    answer = await env.run(get_account, None)
    check_account(env.context.config, answer)
    return DriveAccount.read({**answer, "id": ref.id})


def address(answer: Json) -> str:
    """The account's e-mail address, for a message."""
    return answer["user"].get("emailAddress") or "its address is not shown"


def check_account(config: GoogleDriveConfig, answer: Json) -> None:
    """BadCredentials when a credential is for another account than the connected one."""
    if config.account not in ("", answer["user"].get("permissionId")):
        raise BadCredentials(
            f"google_drive: the credential is for another account than before ({address(answer)})",
            hint="connect again with a credential for the first one, or connect another installation",
        )


@Loader.collection(DriveAccount.drives, brings=Drive)
async def drives(parent: Ref[DriveAccount], request: PageRequest, env: Env[GoogleDrive]) -> Page[Drive]:
    """My Drive, and the shared drives of which the account is a member."""
    config, rows, following = env.context.config, [], None
    if config.wants(MY_DRIVE) and request.cursor is None:
        root = config.root_folder or (await env.run(get_root, None))["id"]
        rows.append({"id": root, "name": "My Drive", "kind": DriveKind.MINE})
    if not config.drives or set(config.drives) - {MY_DRIVE}:
        answer = await env.run(list_drives, request.cursor)
        rows += [
            {**row, "kind": DriveKind.SHARED} for row in answer.get("drives", ()) if config.wants(row["id"])
        ]
        following = answer.get("nextPageToken")
    return Page.read(Drive, rows, next=following)


# -- files -------------------------------------------------------------------------------------


CONTENT = (DriveFile.content, DriveFile.content_type, DriveFile.content_size, DriveFile.content_problem)


@Loader.collection(Drive.files, brings=[DriveFile, DriveUser, DrivePermission])
async def files(parent: Ref[Drive], request: PageRequest, env: Env[GoogleDrive]) -> Page[DriveFile]:
    """The files of a drive: all of them, or what its log says has changed."""
    reading = Reading(await env.stored(Drive, parent.id), env)
    if request.cursor is not None:
        at = json.loads(request.cursor)
        reading.leave_out(at.get("others", ()))
        if "walk" in at:
            return await reading.walked(at)
    elif request.sync_token is not None:
        at = json.loads(request.sync_token)
        at = {
            "changes": at["token"],
            "renamed": at["name"] != reading.drive.name,
            "check": at.get("check", 0),
        }
    else:
        at = {"start": await env.run(get_start_token, reading.log)}
    return await (reading.changes(at) if "changes" in at else reading.everything(at))


class Reading:
    """Reads pages of one drive.

    Where a listing is, its cursor says, in JSON.  ``start`` is the log's position before a listing of
    everything, ``since`` the creation time at which its next page begins, ``seen`` the files of that
    time that came already, and ``token`` the page token where time alone does not lead on.  ``changes``
    is the page token in a listing of changes.  ``walk`` is what is left to walk before that page, or
    before ``reached``, the end; ``others`` are files that have left for other drives.

    What a listing of everything has missed is removed when it has ended, or by the sync after it; the
    next ones ``check`` what such folders leave behind.
    """

    def __init__(self, drive: Drive, env: Env[GoogleDrive]) -> None:
        self.drive, self.env = drive, env
        self.log = "" if drive.kind == DriveKind.MINE else drive.id  # as requests name it
        self.tree = Tree(env, drive.id, drive.name)
        self.others: list[str] = []
        self._asks_permissions = bool(self.log) and env.context.config.permissions
        self._size = min(PAGE, ASKING) if self._asks_permissions else PAGE

    def leave_out(self, others: Iterable[str]) -> None:
        """Know the files that this listing has seen leave for other drives; no walk gives them a path here.

        The log of their own drive may be read at the same time, so the stored rows may not say it yet.
        """
        self.others = list(dict.fromkeys([*self.others, *others]))
        self.tree.put([], self.others)

    async def everything(self, at: Json) -> Page[DriveFile]:
        """The next page of all files, oldest first."""
        wanted = FilesQuery(self.log, self._size, at.get("since"), at.get("token"))
        answer = await self.env.run(list_files, wanted)
        rows, token = answer.get("files", []), answer.get("nextPageToken")
        end = {"reached": at["start"], "check": CHECKS}
        following = end if token is None else self._behind(rows, at, token)
        seen = at.get("seen", ())
        return await self.page([row for row in rows if row["id"] not in seen], [], following, Walk())

    def _behind(self, rows: Sequence[Row], at: Json, token: str) -> Json:
        """Where the page after these rows begins: at their last time, or at the token if that is the first.

        Of very many files Drive does not sort all; then its tokens alone lead on.
        """
        times = [row.get("createdTime") or "" for row in rows]
        is_sorted = not at.get("unsorted") and all(one <= other for one, other in pairwise(times))
        if is_sorted and times and times[-1] > max(times[0], at.get("since") or ""):
            seen = [row["id"] for row in rows if row.get("createdTime") == times[-1]]
            return {"start": at["start"], "since": times[-1], "seen": seen}
        kept = {name: at[name] for name in ("start", "since") if name in at}
        return {**kept, "token": token} | ({} if is_sorted else {"unsorted": True})

    async def changes(self, at: Json) -> Page[DriveFile]:
        """The next page of the drive's log; of several changes of one file the last one holds."""
        answer = await self.env.run(list_changes, ChangesQuery(self.log, self._size, at["changes"]))
        named = [one for one in answer.get("changes", ()) if one.get("changeType", "file") == "file"]
        latest = {one["fileId"]: one for one in named}.values()
        rows = [one["file"] for one in latest if one.get("file")]
        gone = [one["fileId"] for one in latest if not one.get("file")]
        token, reached = answer.get("nextPageToken"), answer.get("newStartPageToken")
        if token is None and reached is None:
            raise UpstreamChanged(
                "google_drive: a page of changes names neither a next page nor the end",
                hint="update the connector",
            )
        following = {"changes": token} if token else {"reached": reached}
        left = at.get("check", 0) - (token is None)
        following |= {"check": left} if left > 0 else {}
        walk = Walk()
        walk.push([self.drive.id] if at.get("renamed") else [])
        walk.push(await self.tree.orphans() if at.get("check") and token is None else [])
        return await self.page(rows, gone, following, walk)

    async def page(self, rows: Sequence[Row], gone: Sequence[str], then: Json, walk: Walk) -> Page[DriveFile]:
        """A page of the listing: the rows with their paths, and what is below those that have moved."""
        here, left, elsewhere = await self._still_here(rows)
        here = await self._with_permissions(here)
        gone = [*gone, *left]
        before = await self.tree.stored([*gone, *(row["id"] for row in here)])
        self.tree.put(here, gone)
        self.leave_out(row["id"] for row in elsewhere)
        await self.tree.read_above(row["id"] for row in here)
        paths = {row["id"]: self.tree.path(row["id"]) for row in here}
        moved = [
            row["id"]
            for row in here
            if row["mimeType"] == FOLDER
            and paths[row["id"]] != (before[row["id"]].path if row["id"] in before else None)
        ]
        walk.push([*moved, *gone])
        walk.ends = moved
        also: list[Entity] = [*await self.tree.walk(walk), *await self._placed(elsewhere)]
        also += [*people_of(here), *permissions_of(here)]
        if walk.stack:
            paths |= {id: before[id].path if id in before else "" for id in moved}
        removed = [DriveFile.ref(id) for id in gone]
        following, token = self._end(then, walk)
        return Page.read(
            DriveFile,
            here,
            {
                DriveFile.drive: Ref.of(self.drive),
                DriveFile.path: lambda row: paths[row["id"]],
                DriveFile.permission_ids: permission_ids,
            },
            also=also,
            removed=[*removed, *withdrawn(here, {id: place.permissions for id, place in before.items()})],
            next=following,
            sync_token=token,
        )

    async def walked(self, at: Json) -> Page[DriveFile]:
        """The next step of a walk; no request is made."""
        walk = Walk.read(at["walk"])
        also = await self.tree.walk(walk)
        if not walk.stack:
            also += await self.tree.end(walk)
        following, token = self._end(at["then"], walk)
        return Page([], following, also, sync_token=token)

    def _end(self, then: Json, walk: Walk) -> tuple[str | None, str | None]:
        """How a page ends: with the cursor of the next one, or with the token of the next sync."""
        others = {"others": self.others} if self.others else {}
        if walk.stack:
            return json.dumps({"walk": walk.to_json(), "then": then, **others}), None
        if "reached" not in then:
            return json.dumps(then | others), None
        token = {"token": then["reached"], "name": self.drive.name}
        return None, json.dumps(token | {name: then[name] for name in ("check",) if name in then})

    async def _still_here(self, rows: Sequence[Row]) -> tuple[list[Row], list[str], list[Row]]:
        """The rows that are in this drive, the ids of those in a drive that is not copied, and the others.

        The others are brought by the log of their own drive.
        """
        here: list[Row] = []
        left: list[str] = []
        elsewhere: list[Row] = []
        for row in rows:
            drive = row.get("driveId")
            if (drive or "") == self.log:
                here.append(row)
            elif await self._is_copied(drive):
                elsewhere.append(row)
            else:
                left.append(row["id"])
        return here, left, elsewhere

    async def _placed(self, rows: Sequence[Row]) -> list[DriveFile]:
        """The paths of stored files that have left for other drives, which a walk here may have changed."""
        found: list[DriveFile] = []
        stored = await self.tree.stored(row["id"] for row in rows)
        for row in rows:
            drive = row.get("driveId")
            there = await self._my_drive() if drive is None else await self.env.stored(Drive, drive)
            if row["id"] in stored and there is not None:
                tree = Tree(self.env, there.id, there.name)
                tree.put([row], [])
                await tree.read_above([])
                found.append(DriveFile(row["id"], path=tree.path(row["id"])))
        return found

    async def _with_permissions(self, rows: list[Row]) -> list[Row]:
        """The rows with their permissions, which never come with the files of a shared drive."""
        if not self._asks_permissions:
            return rows
        async with asyncio.TaskGroup() as group:
            asked = {
                row["id"]: group.create_task(self._permissions(row["id"]))
                for row in rows
                if (row.get("capabilities") or {}).get("canShare") is not False
            }
        found = {id: task.result() for id, task in asked.items()}
        return [{**row, "permissions": found.get(row["id"])} for row in rows]

    async def _permissions(self, file: str) -> list[Json] | None:
        """Everyone who has access to a file; None when the account may not see them, or the file is gone."""
        found: list[Json] = []
        token: str | None = None
        try:
            while True:
                answer = await self.env.run(list_permissions, PermissionsQuery(file, token))
                found += answer.get("permissions", ())
                following = answer.get("nextPageToken")
                if following is None:
                    return found
                if following == token:
                    raise UpstreamChanged(f"google_drive: the permissions of file {file} have no end")
                token = following
        except UpstreamMissing:
            return None
        except PermissionDenied as error:
            if error.data.get("reason") != "insufficientFilePermissions":
                raise
            return None

    async def _my_drive(self) -> Drive | None:
        """My Drive, if it is copied."""
        query = Query(Drive).where(Drive.kind.eq(DriveKind.MINE)).limit(1)
        return next(iter((await self.env.fetch(query)).items), None)

    async def _is_copied(self, drive: str | None) -> bool:
        """Whether a shared drive is copied, or My Drive for None."""
        if drive is None:
            return await self._my_drive() is not None
        try:
            await self.env.stored(Drive, drive)
        except NotFound:
            return False
        return True


def people_of(rows: Iterable[Row]) -> Sequence[DriveUser]:
    """Everyone whom these files name, each once."""
    found: dict[str, Json] = {}
    for row in rows:
        for person in (*row.get("owners", ()), *(row[name] for name in PEOPLE if row.get(name))):
            if person.get("permissionId"):
                found[person["permissionId"]] = person
    return Page.read(DriveUser, found.values()).items


def permission_ids(row: Row) -> list[str] | None:
    """The ids of those who have access to a file; None when the account may not know."""
    listed = row.get("permissions")
    return [one["id"] for one in listed] if listed is not None else row.get("permissionIds")


def permissions_of(rows: Iterable[Row]) -> Sequence[DrivePermission]:
    """The permissions of these files, as far as the account may see them."""
    found = [{**one, "fileId": row["id"]} for row in rows for one in row.get("permissions") or ()]
    return Page.read(DrivePermission, found).items


def withdrawn(rows: Iterable[Row], before: Mapping[str, Sequence[str]]) -> list[Ref[DrivePermission]]:
    """The permissions that these files had and no longer have."""
    return [
        DrivePermission.ref(f"{row['id']}/{id}")
        for row in rows
        if (now := permission_ids(row)) is not None
        for id in before.get(row["id"], ())
        if id not in now
    ]


# -- contents ------------------------------------------------------------------------------------


@Loader.entity(*CONTENT, refresh_when=DriveFile.content_mark)
async def content(ref: Ref[DriveFile], env: Env[GoogleDrive]) -> DriveFile:
    """The content of a file, kept in the installation's folder before the row names it."""
    config, file = env.context.config, await env.stored(DriveFile, ref.id)
    export = EXPORTS.get(file.mime_type)
    problem = ""
    try:
        data = await env.run(get_content, ContentQuery(ref.id, export))
        if len(data) > config.content_bytes:
            problem = f"it has {len(data):,} bytes, more than the {config.content_bytes:,} of content_bytes"
    except PermissionDenied as error:
        if error.data.get("reason") not in NO_CONTENT:
            raise
        problem = REASONS[error.data["reason"]][1]
    if problem:
        return DriveFile(ref.id, content=None, content_type=None, content_size=None, content_problem=problem)
    return DriveFile(
        ref.id,
        content=await env.keep(data),
        content_type=export or file.mime_type,
        content_size=len(data),
        content_problem=None,
    )


def has_content(config: GoogleDriveConfig) -> Filter[DriveFile]:
    """The files whose content is kept."""
    first, *others = [DriveFile.mime_type.starts_with(one) for one in config.content_types]
    chosen = first
    for one in others:
        chosen = chosen | one
    small = DriveFile.size.eq(None) | DriveFile.size.le(config.content_bytes)
    return chosen & small & ~DriveFile.trashed.eq(True) & ~DriveFile.mime_type.is_in([FOLDER, SHORTCUT])


# -- the plan --------------------------------------------------------------------------------------


async def seed(drive: GoogleDrive, store: Store) -> SyncPlan:
    """Store the account; then its drives, their files, and the contents of those that are kept."""
    config, root = drive.config, DriveAccount(ROOT_ID)
    await store.store(root)
    whole, contents = Step.for_root(Ref.of(root)), []
    if config.contents and config.content_types:
        wanted = Step.for_all(DriveFile, where=has_content(config))
        contents.append(wanted.load_fields(*CONTENT))
    return SyncPlan(
        [
            whole.load_fields(*ACCOUNT),
            whole.load_collection(DriveAccount.drives),
            Step.for_all(Drive).load_collection(Drive.files),
            *contents,
        ]
    )


# -- connecting ------------------------------------------------------------------------------------


async def initialise(config: GoogleDriveConfig, credentials: CredentialProvider) -> Installation[GoogleDrive]:
    """A client of the API; a service account's key takes precedence over a person's sign-in."""
    key, refresh = await credentials.find(PRIVATE_KEY), await credentials.find(OAuth.REFRESH_TOKEN)
    if key is None and refresh is None and await credentials.find(OAuth.ACCESS_TOKEN) is None:
        raise BadCredentials(
            "google_drive: no credential is stored",
            hint="run max connect again (with --update if it is connected), and sign in",
        )
    robot = None
    if key is not None:
        audience = config.token_url.rstrip("/") + TOKEN_PATH
        robot = ServiceAccount(key, config.service_account, audience, config.subject, credentials.keep_out)
    tokens = OAUTH.tokens(
        credentials, config.token_url, client_id=config.client_id, grant=robot.grant if robot else None
    )
    http = HttpClient(config.base_url, credentials, auth=tokens, read_error=read_error)
    drive = GoogleDrive(http, config)

    async def start() -> None:
        if robot is not None:
            await asyncio.to_thread(robot.load)
        await tokens.start()

    async def stop() -> None:
        await http.stop()
        await tokens.stop()

    async def health() -> str:
        return summary(await get_account(drive, None))

    return Installation(drive, start, stop, tokens.renew, health)


def summary(answer: Json) -> str:
    """The account in one line."""
    return f"google_drive: {answer['user'].get('displayName')} <{address(answer)}>"


by_browser = itemgetter("by_browser")


def by_key(answers: Answers) -> bool:
    """Whether a service account's key was given."""
    return not answers["by_browser"]


async def choose_method(answers: Answers, credentials: CredentialProvider) -> Mapping[str, Any]:
    """Keep the address and the key of a key file; without one, the next steps ask for a sign-in."""
    given = await credentials.find(PRIVATE_KEY)
    found = read_key_file(given.reveal()) if given else None
    if found is None:
        return {"by_browser": given is None}
    email, key = found
    kept = {PRIVATE_KEY.name: Secret(key), OAuth.EXPIRES_AT.name: Secret("0")}  # no older token is used
    return {"by_browser": False, "service_account": email, **kept}


async def connected(answers: Answers, credentials: CredentialProvider, stack: AsyncExitStack) -> GoogleDrive:
    """A client for the answers so far, until the stack ends."""
    config = GoogleDriveConfig(**{one.name: answers[one.name] for one in fields(GoogleDriveConfig)})
    installation = await initialise(config, credentials)
    assert installation.start
    assert installation.stop
    stack.push_async_callback(installation.stop)
    await installation.start()
    return installation.context


async def check(answers: Answers, credentials: CredentialProvider) -> str:
    """Check the credential by asking Drive whose it is."""
    async with AsyncExitStack() as stack:
        drive = await connected(answers, credentials, stack)
        answer = await get_account(drive, None)
        check_account(drive.config, answer)
        return summary(answer)


async def drives_to_choose(answers: Answers, credentials: CredentialProvider) -> list[tuple[str, str]]:
    """My Drive and the shared drives of which the account is a member."""
    options, token = [(MY_DRIVE, "My Drive, with what others share with the account")], None
    async with AsyncExitStack() as stack:
        drive = await connected(answers, credentials, stack)
        while True:
            answer = await list_drives(drive, token)
            options += [(one["id"], one["name"]) for one in answer.get("drives", ())]
            token = answer.get("nextPageToken")
            if token is None:
                return options


async def remember_account(answers: Answers, credentials: CredentialProvider) -> Mapping[str, Json]:
    """Keep the account's id, so that two accounts never mix, and the id of My Drive's top folder."""
    async with AsyncExitStack() as stack:
        drive = await connected(answers, credentials, stack)
        person, root = (await get_account(drive, None))["user"], await get_root(drive, None)
        return {"account": person.get("permissionId") or "", "root_folder": root["id"]}


connector = Connector(
    name="google_drive",
    description="Google Drive: files and folders with paths, shared drives, permissions, contents.",
    schema=SCHEMA,
    loaders=[account, drives, files, content],
    seeder=seed,
    initialise=initialise,
    config=GoogleDriveConfig,
    hosts=["{base_url}", "{token_url}"],
    credentials=[PRIVATE_KEY, *OAUTH.credentials],
    onboarding=[
        RunCode(choose_method),
        Input("subject", "User for whom the service account acts (empty: itself)", when=by_key),
        Input("client_id", "Client id of your OAuth application (a desktop app)", when=by_browser),
        SecretInput(OAuth.CLIENT_SECRET, "Client secret of that application", when=by_browser),
        SignIn([OAuth.REFRESH_TOKEN], BROWSER, when=by_browser),
        Validate(check),
        Select("drives", "Drives to copy (none: all, also future ones)", drives_to_choose, several=True),
        RunCode(remember_account),
    ],
    operations=[
        *(get_account, get_root, list_drives, get_start_token, list_files),
        *(list_changes, list_permissions, get_content, OAUTH.renewal),
    ],
    requires=[require_http],
)
