"""Stage: close what the recipient, or the type's default, does not want."""

from pipelines.arrays import array
from pipelines.catalog import NotificationType
from pipelines.stage import Resources
from schema.notification import Notification

_LOAD = """
SELECT user_id, type, enabled, channels
FROM notification_preferences
WHERE user_id = ANY(%s::text[]) AND type = ANY(%s::text[])
"""

Row = tuple[bool, dict[str, bool]]
"""A user's preference for a type: enabled, and the channels set one way or the other."""


def narrow(
    notification: Notification, kind: NotificationType | None, row: Row | None, served: frozenset[str]
) -> Notification:
    """Closes channels, with one of these reasons:

    unknown_type  the type's folder was removed after the event was accepted
    muted         the user switched the type off
    preference    the user switched the channel off for the type
    type_default  the type leaves the channel off, and the user did not switch it on
    not_served    wanted, but no process of this fleet runs the channel

    A critical notification follows its type's default; the user's row does not count.
    """
    if kind is None:
        return notification.close(dict.fromkeys(notification.open, "unknown_type"))
    enabled, channels = row if row and notification.importance != "critical" else (True, {})
    reasons = {}
    for channel in notification.open:
        if not enabled:
            reasons[channel] = "muted"
        elif not channels.get(channel, True):
            reasons[channel] = "preference"
        elif channel not in channels and not kind.channels[channel]:
            reasons[channel] = "type_default"
        elif channel not in served:
            reasons[channel] = "not_served"
    return notification.close(reasons)


def preferences(batch: list[Notification], use: Resources) -> list[Notification]:
    """One read for the batch."""
    users, types = array({n.recipient for n in batch}), array({n.type for n in batch})
    with use.pool.connection() as connection:
        found = connection.execute(_LOAD, (users, types)).fetchall()
    rows = {(user, name): (enabled, channels) for user, name, enabled, channels in found}
    kinds = use.catalog.types
    return [narrow(n, kinds.get(n.type), rows.get((n.recipient, n.type)), use.served) for n in batch]
