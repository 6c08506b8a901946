"""GitHub's webhooks: how they are signed, and what each event says.

GitHub signs the body alone, without a time.  A hook that someone sends again has the same body, and what
it says is only fetched again; a removal is not done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from max.connecting import Credential, Entity, Hook, HookChanges, Json, Ref, Step, Webhook

from .github_entities import (
    ROOT_ID,
    Account,
    Comment,
    Issue,
    Label,
    Milestone,
    Pull,
    Release,
    Repository,
    ReviewComment,
)

WEBHOOK_SECRET = Credential(
    "webhook_secret", "the secret of a webhook, with which GitHub signs", required=False
)
DELETED = ("deleted", "transferred")  # what is transferred has another id at its new place

# By event: the collections of the repository in which it shows, and what "deleted" is about.
COLLECTIONS: Mapping[str, Sequence[str]] = {
    "issues": ("issues",),
    "issue_comment": ("comments", "issues"),
    "pull_request": ("pulls", "issues"),
    "pull_request_review": ("pulls",),
    "pull_request_review_comment": ("review_comments", "pulls"),
    "label": ("labels",),
    "milestone": ("milestones",),
    "release": ("releases",),
    "push": ("commits",),
}
GONE: Mapping[str, Callable[[Json], Ref[Any]]] = {
    "issues": lambda said: Issue.ref(numbered(said, "issue")),
    "issue_comment": lambda said: identified(said, "comment", Comment),
    "pull_request_review_comment": lambda said: identified(said, "comment", ReviewComment),
    "label": lambda said: identified(said, "label", Label),
    "milestone": lambda said: identified(said, "milestone", Milestone),
    "release": lambda said: identified(said, "release", Release),
}


def numbered(said: Json, what: str) -> str:
    """The id of what a repository numbers."""
    return f"{said['repository']['id']}/{said[what]['number']}"


def identified(said: Json, what: str, entity: type[Entity]) -> Ref[Any]:
    """What has an id at GitHub."""
    return entity.ref(str(said[what]["id"]))


def changes(hook: Hook) -> HookChanges:
    """What an event says; of no interest are those about what is not copied."""
    said, event = hook.payload, hook.headers.get("x-github-event", "")
    action = said.get("action", "")
    if event == "repository":
        return HookChanges([Step.for_one(Account.ref(ROOT_ID)).load_collection(Account.repositories)])
    if event not in COLLECTIONS or "repository" not in said:
        return HookChanges()
    if event == "push" and said.get("ref") != f"refs/heads/{said['repository'].get('default_branch')}":
        return HookChanges()
    repository = Step.for_one(Repository.ref(str(said["repository"]["id"])))
    own, *others = (repository.load_collection(getattr(Repository, name)) for name in COLLECTIONS[event])
    if action in DELETED and event in GONE:
        return HookChanges(others, [GONE[event](said)])  # an issue counts its comments
    steps = [own, *others]
    if event == "pull_request_review":
        pull = Pull.ref(numbered(said, "pull_request"))
        steps.append(Step.for_one(pull).load_collection(Pull.reviews))
    return HookChanges(steps)


WEBHOOK = Webhook(
    secret=WEBHOOK_SECRET,
    signature="X-Hub-Signature-256",
    prefix="sha256=",
    delivery="X-GitHub-Delivery",
    changes=changes,
)
