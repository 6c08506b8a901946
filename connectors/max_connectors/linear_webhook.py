"""Linear's webhooks: how they are signed, and what each says.

A hook says which record was created, updated or removed.  Linear answers for one record as for a whole
page, and its listings of changes begin at a time: so the collection is asked for what has changed.
"""

from __future__ import annotations

from collections.abc import Mapping

from max.connecting import Credential, Entity, Hook, HookChanges, Step, Webhook

WEBHOOK_SECRET = Credential("webhook_secret", "the signing secret of a webhook", required=False)
OTHER_NAMES = {"IssueLabel": "Label"}  # of records in hooks
BINNED = ("Issue", "Project", "Document", "Initiative", "Team", "User")  # listed after they were removed


def webhook(root: type[Entity], id: str) -> Webhook:
    """The webhook of a workspace, whose collections have all that there is."""
    collections = {child.__name__: name for name, child in root.children().items()}

    def changes(hook: Hook) -> HookChanges:
        """The collection of the record, and whether it is gone."""
        said = hook.payload
        kind = OTHER_NAMES.get(str(said.get("type")), str(said.get("type")))
        record: object = said.get("data")
        name = collections.get(f"Linear{kind}")
        if name is None or not isinstance(record, Mapping) or not isinstance(record.get("id"), str):
            return HookChanges()
        steps = [Step.for_one(root.ref(id)).load_collection(getattr(root, name))]
        if said.get("action") == "remove" and kind not in BINNED:
            return HookChanges(steps, [root.children()[name].ref(record["id"])])
        return HookChanges(steps)

    return Webhook(
        secret=WEBHOOK_SECRET,
        signature="Linear-Signature",
        delivery="Linear-Delivery",
        sent_at="webhookTimestamp",
        changes=changes,
    )
