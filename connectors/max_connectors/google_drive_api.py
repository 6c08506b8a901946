"""Google Drive's API: the client, what its errors mean, and every request that is made.

Rule 1: status 403 says little.  The reason in the body tells a limit, which passes, from a permission
that is missing.

Rule 2: a request is about one drive.  A search over all drives may be incomplete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from max.connecting import (
    HttpClient,
    HttpResponse,
    InvalidAnswers,
    Json,
    Limit,
    Mismatch,
    PermissionDenied,
    QuotaExceeded,
    Retry,
    SyncTokenRefused,
    UpstreamBroken,
    UpstreamError,
    UpstreamMissing,
    operation,
)

PERMISSIONS = DRIVES = 100  # the same for permissions, and for shared drives
LIST, GET, DOWNLOAD = 100, 5, 200  # quota units of a request
HOUR = 3600.0  # seconds to wait when the quota of a day is used up
API = Limit("google_drive:api", concurrency=16, calls=325_000, per=60.0)  # quota units of one user
RETRY = Retry(attempts=6, base=1.0, cap=32.0)  # Google asks for exponential waits
MY_DRIVE = "my-drive"  # how the configuration names the account's own drive

USER = "permissionId,displayName,emailAddress,me,photoLink"
PERMISSION = (
    "id,type,role,emailAddress,displayName,domain,allowFileDiscovery,expirationTime,deleted,pendingOwner,"
    "permissionDetails(inherited)"
)
FILE = (
    "id,name,mimeType,description,parents,driveId,size,quotaBytesUsed,createdTime,modifiedTime,viewedByMeTime,"
    "sharedWithMeTime,shared,ownedByMe,starred,trashed,explicitlyTrashed,trashedTime,version,headRevisionId,"
    "md5Checksum,sha256Checksum,fullFileExtension,originalFilename,webViewLink,properties,permissionIds,"
    f"shortcutDetails(targetId,targetMimeType),capabilities(canEdit,canShare,canDownload),owners({USER}),"
    f"lastModifyingUser({USER}),sharingUser({USER}),trashingUser({USER}),permissions({PERMISSION})"
)
FILES = f"nextPageToken,incompleteSearch,files({FILE})"
CHANGES = f"nextPageToken,newStartPageToken,changes(changeType,removed,fileId,file({FILE}))"


# -- configuration -----------------------------------------------------------------------------

EXPORTS: Mapping[str, str] = {  # the type in which each of Google's own kinds of document is kept
    "application/vnd.google-apps.document": "text/markdown",
    "application/vnd.google-apps.spreadsheet": (
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    ),
    "application/vnd.google-apps.presentation": "text/plain",
}
CONTENT_TYPES = (*EXPORTS, "text/", "application/json", "application/pdf")
MOST_BYTES = 60_000_000  # of one file's content, which is held in memory once


@dataclass(frozen=True)
class GoogleDriveConfig:
    """Which drives, and whether permissions and contents are copied as well."""

    drives: Sequence[str] = ()  # ids of shared drives, and my-drive; empty: all that the account can see
    permissions: bool = True  # list who has access to each file of a shared drive: a request for each
    contents: bool = False  # keep the contents of files
    content_types: Sequence[str] = CONTENT_TYPES  # whose contents; the beginning of a type is enough
    content_bytes: int = 10_000_000  # a larger content is not kept
    client_id: str = ""  # the application's, for signing in with a browser
    service_account: str = ""  # the address of a service account, from its key file
    subject: str = ""  # the user for whom a service account acts; empty: for itself
    account: str = ""  # the account's id, found out when connecting
    root_folder: str = ""  # the id of My Drive's top folder, found out when connecting
    base_url: str = "https://www.googleapis.com"
    token_url: str = "https://oauth2.googleapis.com"

    def __post_init__(self) -> None:
        if not 0 < self.content_bytes <= MOST_BYTES:
            wrong = Mismatch("content_bytes", f"a number from 1 to {MOST_BYTES:,}", self.content_bytes)
            raise InvalidAnswers("invalid configuration of google_drive", [wrong])

    def wants(self, drive: str) -> bool:
        """Whether a drive is copied, by its id or ``my-drive``."""
        return not self.drives or drive in self.drives


@dataclass(frozen=True)
class GoogleDrive:
    """The context of operations."""

    http: HttpClient
    config: GoogleDriveConfig

    async def get(self, path: str, *pieces: str, **params: str | int | bool | None) -> Json:
        """The data at a path; parameters that are None are not sent."""
        return await self.http.get(f"/drive/v3/{path}", *pieces, params=sent(params))


def sent(params: Mapping[str, str | int | bool | None]) -> dict[str, str]:
    """Parameters as Google reads them; those that are None are left out."""
    texts = {True: "true", False: "false"}
    return {
        name: texts[value] if isinstance(value, bool) else str(value)
        for name, value in params.items()
        if value is not None
    }


# -- errors ------------------------------------------------------------------------------------

Meaning: TypeAlias = tuple[type[UpstreamError], str, str]
LATER = "Google's limit passes by itself; max sync goes on where it stopped"
ADMINISTRATOR = "ask an administrator of the domain"
REASONS: Mapping[str, Meaning] = {
    "userRateLimitExceeded": (QuotaExceeded, "too many requests of this user", LATER),
    "rateLimitExceeded": (QuotaExceeded, "too many requests", LATER),
    "dailyLimitExceeded": (QuotaExceeded, "the quota of this day is used up", LATER),
    "quotaExceeded": (QuotaExceeded, "the quota is used up", LATER),
    "backendError": (UpstreamBroken, "Drive failed", "try again later"),
    "internalError": (UpstreamBroken, "Drive failed", "try again later"),
    "insufficientPermissions": (
        PermissionDenied,
        "the sign-in does not cover this",
        "connect again (max connect NAME --update), and allow Max to see the files of Drive",
    ),
    "insufficientFilePermissions": (
        PermissionDenied,
        "the account may not see this part of the file",
        "ask the file's owner",
    ),
    "accessNotConfigured": (
        PermissionDenied,
        "the application's Google Cloud project has no Drive API",
        "enable the Google Drive API in that project, and try again in some minutes",
    ),
    "domainPolicy": (PermissionDenied, "the domain's administrators have closed Drive", ADMINISTRATOR),
    "appNotAuthorizedToFile": (PermissionDenied, "the application may not open this file", ADMINISTRATOR),
    "fileNotDownloadable": (PermissionDenied, "this kind of file has no content to download", ""),
    "fileNotExportable": (PermissionDenied, "this kind of file cannot be exported", ""),
    "cannotDownloadFile": (PermissionDenied, "its owner does not allow downloads", ""),
    "exportSizeLimitExceeded": (PermissionDenied, "it is larger than the 10 MB that Google exports", ""),
    "cannotDownloadAbusiveFile": (PermissionDenied, "Google takes it for malware or spam", ""),
}
OF_A_DAY = ("dailyLimitExceeded", "quotaExceeded")
# A file with one of these has no content for us, today and tomorrow.
NO_CONTENT = (
    *("fileNotDownloadable", "fileNotExportable", "cannotDownloadFile", "exportSizeLimitExceeded"),
    *("cannotDownloadAbusiveFile", "insufficientFilePermissions"),
)


def read_error(response: HttpResponse) -> UpstreamError | None:
    """The error that a response means, by the reason in its body; None leaves it to the status."""
    if response.status < 400:
        return None
    said = first_error(response)
    reason, place = said.get("reason"), said.get("location")
    if place == "pageToken" and response.status in (400, 404, 410):
        return SyncTokenRefused(
            "Google Drive no longer accepts the page token", reason=reason, location=place
        )
    if place == "driveId" and response.status == 404:
        return UpstreamMissing(
            "the shared drive cannot be reached any more",
            hint="it was deleted, or the account is no member now; the next sync finds out",
            location=place,
        )
    known = REASONS.get(reason) if isinstance(reason, str) else None
    if known is None or (response.status < 500 and known[0] is UpstreamBroken):
        return None
    kind, what, hint = known
    return kind(
        f"{response.request}: {what} ({response.status}, {reason})",
        hint=hint,
        retry_after=HOUR if reason in OF_A_DAY else None,
        reason=reason,
    )


def first_error(response: HttpResponse) -> Mapping[str, Json]:
    """The first error in a body, as Google writes it; empty when there is none."""
    try:
        data = response.json()
    except UpstreamBroken:
        return {}
    error = data.get("error") if isinstance(data, dict) else None
    listed = error.get("errors") if isinstance(error, dict) else None
    first = listed[0] if isinstance(listed, list) and listed else None
    return first if isinstance(first, dict) else {}


# -- requests ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FilesQuery:
    """A page of the files of a drive, oldest first; ``drive`` is empty for My Drive.

    Those created before ``since`` are left out.  ``token`` is for the next page of the same query.
    """

    drive: str
    size: int
    since: str | None = None
    token: str | None = None


@dataclass(frozen=True)
class ChangesQuery:
    """A page of the changes of a drive, from the page with this token on."""

    drive: str
    size: int
    token: str


@dataclass(frozen=True)
class PermissionsQuery:
    """A page of the permissions of a file."""

    file: str
    token: str | None


@dataclass(frozen=True)
class ContentQuery:
    """The content of a file; in the type ``export`` for Google's own documents."""

    file: str
    export: str | None


def within(drive: str) -> dict[str, str | bool | None]:
    """The parameters that limit a request to one drive."""
    if not drive:
        return {"driveId": None}
    return {"driveId": drive, "supportsAllDrives": True, "includeItemsFromAllDrives": True}


@operation("google_drive:account:get", limit=API, points=GET, retry=RETRY)
async def get_account(drive: GoogleDrive, _: None) -> Json:
    """The account, and how much of its storage it uses."""
    return await drive.get("about", fields=f"user({USER}),storageQuota(limit,usage)")


@operation("google_drive:root:get", limit=API, points=GET, retry=RETRY)
async def get_root(drive: GoogleDrive, _: None) -> Json:
    """The top folder of My Drive."""
    return await drive.get("files/root", fields="id")


@operation("google_drive:drive:list", limit=API, points=LIST, retry=RETRY)
async def list_drives(drive: GoogleDrive, token: str | None) -> Json:
    """A page of the shared drives of which the account is a member."""
    fields = "nextPageToken,drives(id,name,hidden,createdTime,restrictions(driveMembersOnly,domainUsersOnly))"
    return await drive.get("drives", pageSize=DRIVES, pageToken=token, fields=fields)


@operation("google_drive:change:start", limit=API, points=GET, retry=RETRY)
async def get_start_token(drive: GoogleDrive, of: str) -> str:
    """The present end of a drive's change log."""
    params = within(of)
    params.pop("includeItemsFromAllDrives", None)
    return str((await drive.get("changes/startPageToken", **params))["startPageToken"])


@operation("google_drive:file:list", limit=API, points=LIST, retry=RETRY)
async def list_files(drive: GoogleDrive, wanted: FilesQuery) -> Json:
    """A page of files; UpstreamBroken when Drive has not looked at all of them."""
    answer = await drive.get(
        "files",
        **within(wanted.drive),
        corpora="drive" if wanted.drive else "user",
        orderBy="createdTime",
        q=None if wanted.since is None else f"createdTime >= '{wanted.since}'",
        pageSize=wanted.size,
        pageToken=wanted.token,
        fields=FILES,
    )
    if answer.get("incompleteSearch"):
        raise UpstreamBroken("Google Drive did not look at all files of the drive", hint="try again later")
    return answer


@operation("google_drive:change:list", limit=API, points=LIST, retry=RETRY)
async def list_changes(drive: GoogleDrive, wanted: ChangesQuery) -> Json:
    """A page of changes; SyncTokenRefused when the log no longer has them."""
    try:
        return await drive.get(
            "changes",
            **within(wanted.drive),
            includeCorpusRemovals=True,
            pageSize=wanted.size,
            pageToken=wanted.token,
            fields=CHANGES,
        )
    except UpstreamMissing as error:
        if error.data.get("location") == "driveId":
            raise
        raise SyncTokenRefused(
            f"Google Drive no longer has the changes since the last sync: {error}"
        ) from error


@operation("google_drive:permission:list", limit=API, points=LIST, retry=RETRY)
async def list_permissions(drive: GoogleDrive, wanted: PermissionsQuery) -> Json:
    """A page of the permissions of a file."""
    return await drive.get(
        "files/{}/permissions",
        wanted.file,
        supportsAllDrives=True,
        pageSize=PERMISSIONS,
        pageToken=wanted.token,
        fields=f"nextPageToken,permissions({PERMISSION})",
    )


@operation("google_drive:content:get", limit=API, points=DOWNLOAD, retry=RETRY, deadline=600.0)
async def get_content(drive: GoogleDrive, wanted: ContentQuery) -> bytes:
    """The content of a file, complete or not at all."""
    if wanted.export is None:
        params = sent({"alt": "media", "supportsAllDrives": True})
        path = "/drive/v3/files/{}"
    else:
        params, path = {"mimeType": wanted.export}, "/drive/v3/files/{}/export"
    response = await drive.http.request("GET", path, wanted.file, params=params, headers={"accept": "*/*"})
    return response.body
