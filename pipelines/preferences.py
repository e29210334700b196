"""Stage: close what the recipient, or the type's default, does not want."""

from collections import defaultdict
from collections.abc import Collection

from pipelines.arrays import array
from pipelines.catalog import NotificationType
from pipelines.stage import Resources
from schema.notification import Notification

_LOAD = """
SELECT user_id, type, enabled, channels, NULL
FROM notification_preferences
WHERE user_id = ANY(%s::text[]) AND type = ANY(%s::text[])
UNION ALL
SELECT user_id, category, NULL, NULL, channel FROM opt_outs WHERE user_id = ANY(%s::text[])
"""

Row = tuple[bool, dict[str, bool]]
"""A user's preference for a type: enabled, and the channels set one way or the other."""


def narrow(
    notification: Notification,
    kind: NotificationType | None,
    row: Row | None,
    served: frozenset[str],
    opted_out: Collection[str] = (),
) -> Notification:
    """Closes channels, with one of these reasons:

    unknown_type  the type's folder was removed after the event was accepted
    opted_out     the user unsubscribed from the type's category on the channel, whatever the row says
    muted         the user switched the type off
    preference    the user switched the channel off for the type
    type_default  the type leaves the channel off, and the user did not switch it on
    not_served    wanted, but no process of this fleet runs the channel

    A critical notification follows its type's default; neither the user's row nor an opt-out counts.
    """
    if kind is None:
        return notification.close(dict.fromkeys(notification.open, "unknown_type"))
    if notification.importance == "critical":
        row, opted_out = None, ()
    enabled, channels = row or (True, {})
    reasons = {}
    for channel in notification.open:
        if channel in opted_out:
            reasons[channel] = "opted_out"
        elif not enabled:
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
        found = connection.execute(_LOAD, (users, types, users)).fetchall()
    rows, opt_outs = dict[tuple[str, str], Row](), defaultdict[tuple[str, str], set[str]](set)
    for user, name, enabled, channels, opted_out in found:
        if opted_out:
            opt_outs[user, name].add(opted_out)
        else:
            rows[user, name] = (enabled, channels)
    narrowed = []
    for n in batch:
        kind = use.catalog.types.get(n.type)
        closed = opt_outs.get((n.recipient, kind.category), ()) if kind else ()
        narrowed.append(narrow(n, kind, rows.get((n.recipient, n.type)), use.served, closed))
    return narrowed
