"""Google Drive's entities: what is stored, and where Drive's answers have it.

Drive leaves out of an answer what a file does not have, so most fields may be empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from max.connecting import Entity, Field, Json, Many, Ref, Schema

FOLDER = "application/vnd.google-apps.folder"
SHORTCUT = "application/vnd.google-apps.shortcut"
Row = Mapping[str, Json]  # one thing as Drive writes it


class DriveKind(StrEnum):
    """What a drive is."""

    MINE = "mine"
    SHARED = "shared"


def first_parent(row: Row) -> Json:
    """The folder of a file: a file has one at most."""
    return next(iter(row.get("parents") or ()), None)


def mark_of(row: Row) -> Json:
    """What changes with a file's content; empty for a folder or a shortcut, which has none."""
    if row.get("mimeType") in (FOLDER, SHORTCUT):
        return None
    checksum = row.get("sha256Checksum") or row.get("md5Checksum") or row.get("headRevisionId")
    return checksum or row.get("modifiedTime")


def permission_id(row: Row) -> str:
    """The id of a permission: Drive's own names the grantee, and is the same for all files."""
    return f"{row['fileId']}/{row['id']}"


def is_inherited(row: Row) -> Json:
    """Whether every part of a permission is inherited; None when Drive says nothing about it."""
    details = row.get("permissionDetails")
    return all(one.get("inherited") for one in details) if details else None


class DriveAccount(Entity, title="email"):
    """The Google account that is copied, the root of everything else."""

    email: Field[str | None] = Field("its e-mail address", source="user.emailAddress")
    name: Field[str | None] = Field("the name of its owner", source="user.displayName", brief=True)
    user: Field[Ref[DriveUser] | None] = Field("the account as a user", source="user.permissionId")
    storage_limit: Field[int | None] = Field(
        "bytes that it may use; empty: no limit",
        source="storageQuota.limit",
    )
    storage_used: Field[int | None] = Field(
        "bytes that it uses, in all of Google's services",
        source="storageQuota.usage",
        brief=True,
    )
    drives: Many[Drive] = Many("My Drive and the shared drives that are copied")


class Drive(Entity, title="name"):
    """My Drive with what others share with the account, or a shared drive; the id is its top folder's."""

    name: Field[str] = Field("the drive's name; My Drive for the account's own", searchable=True)
    kind: Field[DriveKind] = Field("mine or shared", brief=True)
    hidden: Field[bool | None] = Field("whether the account has hidden it")
    members_only: Field[bool | None] = Field(
        "whether only members may open its files", source="restrictions.driveMembersOnly"
    )
    domain_only: Field[bool | None] = Field(
        "whether only users of its domain may open its files", source="restrictions.domainUsersOnly"
    )
    created_at: Field[datetime | None] = Field("when it was created", source="createdTime", brief=True)
    files: Many[DriveFile] = Many("its files and folders", by=lambda: DriveFile.drive)


class DriveUser(Entity, title="name", key="permissionId"):
    """A person, or a program, that owns, has changed or has shared a file."""

    name: Field[str | None] = Field("the displayed name", source="displayName", searchable=True)
    email: Field[str | None] = Field(
        "e-mail address; empty when it is not shown to the account",
        source="emailAddress",
        searchable=True,
        brief=True,
    )
    me: Field[bool | None] = Field("whether it is the copied account")
    photo_link: Field[str | None] = Field("URL of the picture")


class DriveFile(
    Entity,
    title="name",
    conventions={
        "folder": f'mime_type = "{FOLDER}"',
        "in the trash": "trashed = true",
        "shared with me": "shared_at IS NOT NULL",
        "large": "size > 100000000",
    },
):
    """A file, a folder or a shortcut."""

    name: Field[str] = Field("its name; others in the folder may have the same", searchable=True)
    path: Field[str] = Field(
        "its place: /DRIVE/FOLDER/NAME, or without the first slash when a folder above it cannot be seen",
        searchable=True,
    )
    mime_type: Field[str] = Field("type of the content, such as application/pdf", brief=True)
    description: Field[str | None] = Field("what people wrote about it", searchable=True)
    drive: Field[Ref[Drive]] = Field(
        "the drive that holds it; what others share with the account is in My Drive"
    )
    parent: Field[Ref[DriveFile] | None] = Field(
        "the folder that contains it; empty when that cannot be seen", source=first_parent
    )
    owners: Field[list[Ref[DriveUser]] | None] = Field(
        "who owns it, seldom more than one; empty in shared drives, which own their files",
        source="owners.permissionId",
    )
    size: Field[int | None] = Field("bytes; empty for folders and shortcuts", brief=True)
    quota_used: Field[int | None] = Field(
        "bytes that count against the storage limit, older revisions included",
        source="quotaBytesUsed",
    )
    created_at: Field[datetime | None] = Field("when it was created", source="createdTime")
    modified_at: Field[datetime | None] = Field(
        "when its content last changed", source="modifiedTime", brief=True
    )
    modified_by: Field[Ref[DriveUser] | None] = Field(
        "who changed it last, when they were signed in", source="lastModifyingUser.permissionId", brief=True
    )
    viewed_at: Field[datetime | None] = Field("when the account last opened it", source="viewedByMeTime")
    shared_at: Field[datetime | None] = Field(
        "when it was shared with the account", source="sharedWithMeTime"
    )
    shared_by: Field[Ref[DriveUser] | None] = Field(
        "who shared it with the account", source="sharingUser.permissionId"
    )
    shared: Field[bool | None] = Field("whether others can see it; empty in shared drives")
    owned_by_me: Field[bool | None] = Field("whether the account owns it; empty in shared drives")
    starred: Field[bool | None] = Field("whether the account has starred it")
    trashed: Field[bool | None] = Field("whether it, or a folder above it, is in the trash")
    explicitly_trashed: Field[bool | None] = Field("whether it was itself put into the trash")
    trashed_at: Field[datetime | None] = Field(
        "when it was put into the trash; in shared drives only", source="trashedTime"
    )
    trashed_by: Field[Ref[DriveUser] | None] = Field(
        "who put it into the trash; in shared drives only", source="trashingUser.permissionId"
    )
    version: Field[int | None] = Field("a number that grows with every change of the file")
    head_revision: Field[str | None] = Field(
        "id of the newest revision of a binary file", source="headRevisionId"
    )
    md5: Field[str | None] = Field("MD5 of a binary file's content", source="md5Checksum")
    sha256: Field[str | None] = Field("SHA-256 of a binary file's content", source="sha256Checksum")
    extension: Field[str | None] = Field("the name's ending, such as tar.gz", source="fullFileExtension")
    original_name: Field[str | None] = Field(
        "the name under which it was uploaded", source="originalFilename"
    )
    url: Field[str | None] = Field("URL of its page in Drive or its editor", source="webViewLink")
    shortcut_target: Field[Ref[DriveFile] | None] = Field(
        "the file to which a shortcut leads", source="shortcutDetails.targetId"
    )
    shortcut_type: Field[str | None] = Field(
        "type of the file to which a shortcut leads", source="shortcutDetails.targetMimeType"
    )
    can_edit: Field[bool | None] = Field("whether the account may change it", source="capabilities.canEdit")
    can_share: Field[bool | None] = Field(
        "whether the account may change who sees it", source="capabilities.canShare"
    )
    can_download: Field[bool | None] = Field(
        "whether the account may download it", source="capabilities.canDownload"
    )
    properties: Field[dict[str, str] | None] = Field("values that applications have set for all of them")
    permission_ids: Field[list[str] | None] = Field("the ids of those who have access")
    content_mark: Field[str | None] = Field(
        "changes when the content does: a checksum, or else a time", source=mark_of
    )
    content: Field[str | None] = Field("name of the kept file that holds its content; empty: none is kept")
    content_type: Field[str | None] = Field("type of the kept content; Google's own documents are exported")
    content_size: Field[int | None] = Field("bytes of the kept content")
    content_problem: Field[str | None] = Field("why its content cannot be kept")
    permissions: Many[DrivePermission] = Many("who has access", by=lambda: DrivePermission.file)


class DrivePermission(Entity, title="name", key=permission_id, conventions={"public": "type = anyone"}):
    """What a person or group may do with a file; its id is the file's and the grantee's."""

    name: Field[str | None] = Field(
        "the user's, group's or domain's name", source="displayName", searchable=True
    )
    file: Field[Ref[DriveFile]] = Field("the file", source="fileId", brief=True)
    role: Field[str] = Field(
        "owner, organizer, fileOrganizer, writer, commenter or reader", source="role", brief=True
    )
    type: Field[str] = Field("user, group, domain or anyone", brief=True)
    grantee: Field[str] = Field(
        "id of the grantee, the same for all files; a user's is the user's id", source="id"
    )
    email: Field[str | None] = Field(
        "the user's or group's e-mail address", source="emailAddress", searchable=True, brief=True
    )
    domain: Field[str | None] = Field("the domain whose users have access")
    discoverable: Field[bool | None] = Field(
        "whether a search finds the file, for a domain or anyone", source="allowFileDiscovery"
    )
    inherited: Field[bool | None] = Field(
        "whether it comes from a folder or the shared drive; empty outside of shared drives",
        source=is_inherited,
    )
    expires_at: Field[datetime | None] = Field("when it ends", source="expirationTime")
    deleted: Field[bool | None] = Field("whether the grantee's account was deleted")
    pending_owner: Field[bool | None] = Field("whether the grantee was asked to become the owner")


SCHEMA = Schema(
    [DriveAccount, Drive, DriveUser, DriveFile, DrivePermission], roots=[DriveAccount], camel_case=True
)
