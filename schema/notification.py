"""Notification: event x recipient, as it travels from stage to stage.

A hop carries routing facts only. Content stays in the `events` row and is read once, at fan_out; no address
and no content is ever in a queue.
"""

from typing import Self
from uuid import UUID

import msgspec

CHANNELS = ("web", "email", "push")
"""Every channel a type or a preference can speak of."""


class Notification(msgspec.Struct, array_like=True, frozen=True):
    """One recipient of one event. Stages only ever narrow `open`, and record why in `closed`.

    open    channels it may still go out on
    closed  channel -> reason code, e.g. {"email": "preference"}
    window  where it may gather with others of its kind, or None: see pipelines/grouping.py
    timing  channel -> when, of those open channels that are not told at once: see pipelines/timing.py
    folded  over its limit, and to be folded into its group
    """

    id: UUID
    event_id: str
    type: str
    recipient: str
    importance: str
    open: tuple[str, ...]
    closed: dict[str, str]
    window: str | None = None
    timing: dict[str, str] = {}
    folded: bool = False

    def close(self, channels: dict[str, str]) -> Self:
        """Without these channels (channel -> reason); the first reason given for a channel stays."""
        closing = {channel: reason for channel, reason in channels.items() if channel in self.open}
        if not closing:
            return self
        return msgspec.structs.replace(
            self,
            open=tuple([channel for channel in self.open if channel not in closing]),
            closed=self.closed | closing,
        )
