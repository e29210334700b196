"""Stage: close what the recipient, or the type's default, does not want, and say when the rest is told.

What counts is the nearest word: of the type, of its category, of everything (global); then the type's default.
So it is for each channel, and for `enabled`. An opt-out of the category or of the whole channel is above them
all, and a critical notification above that. docs/judgement.md explains it to who sets preferences.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from pipelines.arrays import array
from pipelines.kinds import NotificationType
from pipelines.stage import Resources
from pipelines.timing import NOW, Timing
from schema.notification import Notification

TYPE, CATEGORY, GLOBAL, OPT_OUT = "type", "category", "global", "opt_out"
"""Of what a row speaks."""
NO_CHANNELS: Mapping[str, "Wish"] = {}

_LOAD = """
SELECT user_id, scope, type, enabled, channels FROM notification_preferences
WHERE user_id = ANY(%s::text[]) AND type = ANY(%s::text[])
UNION ALL
SELECT user_id, 'opt_out', category, NULL, jsonb_build_object(channel, true) FROM opt_outs
WHERE user_id = ANY(%s::text[])
"""

Wish = bool | str
"""Of a channel: on, off, or on at a time of its own (pipelines/timing.py). On follows the type's time."""


class Choice(NamedTuple):
    """What a user said of a type, of a category or of everything; None, and a channel not named: nothing."""

    enabled: bool | None = None
    channels: Mapping[str, Wish] = NO_CHANNELS


class Answer(NamedTuple):
    """Of one channel: why it is closed, or None; and when it is told, or None: at once."""

    reason: str | None
    timing: str | None = None


def resolve(
    enabled: Sequence[bool | None],
    wishes: Sequence[Wish | None],
    *,
    opted_out: bool,
    default: bool,
    timing: Timing = NOW,
) -> Answer:
    """What holds for one channel. `enabled` and `wishes`: what the user said, the nearest first, None for nothing;
    `default` and `timing`: what the type does. The reasons:

    opted_out     the user unsubscribed from the category, or from the whole channel
    muted         the user switched off the type, its category, or everything
    preference    the user switched the channel off, for one of these
    type_default  the type leaves the channel off, and the user did not switch it on
    """
    if opted_out:
        return Answer("opted_out")
    if nearest(enabled) is False:
        return Answer("muted")
    wish = nearest(wishes)
    if wish is None:
        wish = default or None
    if not wish:
        return Answer("type_default" if wish is None else "preference")
    rule = str(timing) if wish is True else str(wish)
    return Answer(None, None if rule == "now" else rule)


def nearest(said: Sequence[Wish | None]) -> Wish | None:
    """The first word there is."""
    return next((word for word in said if word is not None), None)


def narrow(
    notification: Notification,
    kind: NotificationType | None,
    said: Sequence[Choice],
    served: frozenset[str],
    opted_out: Mapping[str, Wish] = NO_CHANNELS,
) -> Notification:
    """`said`: the user's choices, the nearest first; `opted_out`: the channels the user unsubscribed from. Closes
    channels with one of resolve's reasons, or with one of these, and times those that stay open:

    unknown_type  the type's folder was removed after the event was accepted
    not_served    wanted, but no process of this fleet runs the channel

    A critical notification follows its type's default, at once; nothing a user said counts.
    """
    critical = notification.importance == "critical"
    return narrowed(notification, *decide(kind, critical, notification.open, said, served, opted_out))


def narrowed(notification: Notification, reasons: dict[str, str], timing: dict[str, str]) -> Notification:
    closed = notification.close(reasons)
    return msgspec.structs.replace(closed, timing=timing) if timing else closed


def decide(
    kind: NotificationType | None,
    critical: bool,
    channels: Sequence[str],
    said: Sequence[Choice],
    served: frozenset[str],
    opted_out: Mapping[str, Wish] = NO_CHANNELS,
) -> tuple[dict[str, str], dict[str, str]]:
    """Why channels close, and when those that stay open are told, where that is not at once."""
    if kind is None:
        return dict.fromkeys(channels, "unknown_type"), {}
    if critical:
        said, opted_out = (), NO_CHANNELS
    enabled = [choice.enabled for choice in said]
    reasons, timing = {}, {}
    for channel in channels:
        answer = resolve(
            enabled,
            [choice.channels.get(channel) for choice in said],
            opted_out=channel in opted_out,
            default=kind.channels[channel],
            timing=NOW if critical else kind.timings.get(channel, NOW),
        )
        if answer.reason:
            reasons[channel] = answer.reason
        elif channel not in served:
            reasons[channel] = "not_served"
        elif answer.timing:
            timing[channel] = answer.timing
    return reasons, timing


def preferences(batch: list[Notification], use: Resources) -> list[Notification]:
    """One read for the batch. What holds for all who said nothing is decided once."""
    types = use.catalog.types
    users = array({n.recipient for n in batch})
    names = {n.type for n in batch}
    spoken = array({"", *names, *(types[name].category for name in names if name in types)})
    with use.pool.connection() as connection:
        found = connection.execute(_LOAD, (users, spoken, users)).fetchall()
    people = defaultdict[str, dict[tuple[str, str], Choice]](dict)
    for user, scope, name, enabled, channels in found:
        said = people[user]
        if scope == OPT_OUT and (scope, name) in said:
            channels = {**said[scope, name].channels, **channels}  # noqa: PLW2901
        said[scope, name] = Choice(enabled, channels)
    usual: dict[tuple[str, bool, Sequence[str]], tuple[dict[str, str], dict[str, str]]] = {}
    decided = []
    for n in batch:
        kind, kept = types.get(n.type), people.get(n.recipient)
        if kind and kept:
            decided.append(narrow(n, kind, levels(kept, kind), use.served, opt_outs(kept, kind)))
            continue
        alike = n.type, n.importance == "critical", n.open
        if alike not in usual:
            usual[alike] = decide(kind, alike[1], n.open, (), use.served)
        decided.append(narrowed(n, *usual[alike]))
    return decided


Kept = Mapping[tuple[str, str], Choice]
"""All that one user said, by scope and name; of opt-outs, the channels of a category, or of "": of all."""


def levels(kept: Kept, kind: NotificationType) -> list[Choice]:
    """What was said that counts for a type, the nearest first."""
    places = (TYPE, kind.name), (CATEGORY, kind.category), (GLOBAL, "")
    return [kept[place] for place in places if place in kept]


def opt_outs(kept: Kept, kind: NotificationType) -> dict[str, Wish]:
    """The channels that the user wants nothing of a type on, whatever else was said."""
    found = dict[str, Wish]()
    for category in (kind.category, ""):
        if out := kept.get((OPT_OUT, category)):
            found |= out.channels
    return found
