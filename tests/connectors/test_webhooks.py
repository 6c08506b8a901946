"""What hooks of Linear and GitHub say, as these services send them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from max_connectors import github, linear
from max_connectors.github_entities import Comment, Issue, Label, Pull, Repository
from max_connectors.linear import ROOT_ID, LinearComment, LinearOrganization

from max.connecting import Connector, HookChanges, Secret, Step, Webhook
from max.errors import HookRefused

KEY = "It's a Secret to Everybody"
AT = 1_676_056_940.508


def webhook_of(connector: Connector[Any, Any]) -> Webhook:
    assert connector.webhook is not None
    assert connector.webhook.secret in connector.credentials
    assert not connector.webhook.secret.required
    return connector.webhook


def read(connector: Connector[Any, Any], payload: Any, **headers: str) -> HookChanges:
    """What a hook says that was signed and sent as the service does."""
    webhook = webhook_of(connector)
    body = json.dumps(payload).encode()
    headers = {**headers, webhook.signature.lower(): webhook.sign(KEY, body)}
    webhook.check(Secret(KEY), headers, body)
    return webhook.changes(webhook.read(headers, body))


def test_githubs_own_example_of_a_signature_is_right() -> None:
    """The values are those of GitHub's page on validating deliveries."""
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    webhook_of(github.connector).check(Secret(KEY), {"x-hub-signature-256": signature}, b"Hello, World!")
    with pytest.raises(HookRefused):
        webhook_of(github.connector).check(Secret(KEY), {"x-hub-signature-256": signature}, b"Hello, World?")


def listing(name: str) -> Step:
    return Step.for_one(Repository.ref("7")).load_collection(getattr(Repository, name))


OF = {"repository": {"id": 7, "default_branch": "main"}}
NUMBER = {"id": 1, "number": 12}


@pytest.mark.parametrize(
    ("event", "payload", "expected"),
    [
        ("ping", {"zen": "Keep it simple."}, HookChanges()),
        ("star", {**OF, "action": "created"}, HookChanges()),
        ("issues", {**OF, "action": "edited", "issue": NUMBER}, HookChanges([listing("issues")])),
        (
            "issues",
            {**OF, "action": "deleted", "issue": NUMBER},
            HookChanges([], [Issue.ref("7/12")]),
        ),
        (
            "issue_comment",
            {**OF, "action": "deleted", "issue": NUMBER, "comment": {"id": 99}},
            HookChanges([listing("issues")], [Comment.ref("99")]),
        ),
        (
            "pull_request_review",
            {**OF, "action": "submitted", "pull_request": NUMBER},
            HookChanges([listing("pulls"), Step.for_one(Pull.ref("7/12")).load_collection(Pull.reviews)]),
        ),
        (
            "label",
            {**OF, "action": "deleted", "label": {"id": 5}},
            HookChanges([], [Label.ref("5")]),
        ),
        ("push", {**OF, "ref": "refs/heads/main"}, HookChanges([listing("commits")])),
        ("push", {**OF, "ref": "refs/heads/other"}, HookChanges()),
    ],
)
def test_what_events_of_github_say(event: str, payload: Any, expected: HookChanges) -> None:
    said = read(github.connector, payload, **{"x-github-event": event})
    assert ([*said.steps], [*said.removed]) == ([*expected.steps], [*expected.removed])


def workspace(name: str) -> Step:
    return Step.for_one(LinearOrganization.ref(ROOT_ID)).load_collection(getattr(LinearOrganization, name))


@pytest.mark.parametrize(
    ("type", "action", "expected"),
    [
        ("Issue", "create", HookChanges([workspace("issues")])),
        ("Issue", "remove", HookChanges([workspace("issues")])),  # it is in the bin, and listed
        ("Comment", "update", HookChanges([workspace("comments")])),
        ("Comment", "remove", HookChanges([workspace("comments")], [LinearComment.ref("x")])),
        ("IssueLabel", "update", HookChanges([workspace("labels")])),
        ("ProjectUpdate", "create", HookChanges([workspace("project_updates")])),
        ("Reaction", "create", HookChanges()),
        ("OAuthApp", "revoked", HookChanges()),
    ],
)
def test_what_hooks_of_linear_say(type: str, action: str, expected: HookChanges) -> None:
    payload = {"type": type, "action": action, "data": {"id": "x"}, "webhookTimestamp": int(AT * 1_000)}
    said = read(linear.connector, payload)
    assert ([*said.steps], [*said.removed]) == ([*expected.steps], [*expected.removed])


@pytest.mark.parametrize(("late", "taken"), [(0, True), (59, True), (61, False), (-61, False)])
def test_a_hook_of_linear_is_taken_within_a_minute(late: float, taken: bool) -> None:
    webhook = webhook_of(linear.connector)
    body = json.dumps({"type": "Issue", "webhookTimestamp": int(AT * 1_000)}).encode()
    assert webhook.is_timely(webhook.read({}, body), AT + late) is taken
