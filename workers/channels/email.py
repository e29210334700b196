"""The email channel: a notification becomes one mail to one address, handed to the mail server of TOCSIN_SMTP_URL.

A mail's Message-ID is made of its delivery's id, so one that had to be sent twice is seen to be the same. Every
mail can be unsubscribed from by one click (RFC 8058) and says that no person wrote it (RFC 3834).
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from pipelines.stage import Resources
from schema.delivery import Away, Gone, Later, Never, Outcome, Parcel, Sent, Unknown
from workers.providers import mail_server, mail_signature, smtp
from workers.providers.envelope import Envelope, seal, sender
from workers.settings import settings

NAME = "email"
SERVES = "email"
SCHEDULE = (5, 300, 1800, 7200, 18000, 36000)
BATCH = 20
AT_ONCE = 8
LEASE = 22.0

_STARTS = smtp.LONGEST_ANSWER + 1
"""Seconds of a batch after which no further mail is begun: later than after one answer that never came …"""
_ENDS = 20.0
"""… and after which none is waited for."""
_PAUSE = 60.0
_LONGEST_SAID = 500
_MANY = 5
"""Mails of a batch, and half of it at least, whose common fate is nobody's own."""
_LOST = {"connection_lost", "timeout", "protocol"}
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\b")
_NOBODY = {"5.1.0", "5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"}
"""What RFC 3463 and 7505 say of an address that nobody reads."""
_SENDER = {"4.1.7", "4.1.8", "5.1.7", "5.1.8"}
"""… and of a sender that is refused: also in answer to RCPT, and then it is not the recipient's fault."""
_RECEIPT = re.compile(r"queued as (\S+)|\bid=(\S+)|^2\.0\.0 (\S+) Message accepted|^(?i:ok) ([0-9a-f-]{20,})$")


def ready() -> bool:
    """Whether there is a mail server to send to. Raises TocsinError for a configuration that cannot work."""
    url = settings().smtp_url.get_secret_value()
    if not url:
        return False
    mail_server.parse(url)
    sender(settings().mail_from)
    if dkim := settings().dkim:
        mail_signature.parse(dkim)
    return True


def send(parcels: Sequence[Parcel], use: Resources) -> list[Outcome]:
    """Hands over one after the other, on this thread's connection; while the server looks at one, the next is
    written. What was not begun in time, or after the server turned out to be away, is Away. Ends within 20 s."""
    begun = time.monotonic()
    sealed: dict[int, Envelope | Outcome] = {}

    def prepare(number: int) -> None:
        if number < len(parcels) and number not in sealed:
            sealed[number] = seal(parcels[number], use)

    outcomes: list[Outcome] = []
    away: Away | None = None
    losses = 0
    for number in range(len(parcels)):
        if not away and losses > 1:
            away = Away("connection_lost")
        if not away and time.monotonic() - begun > _STARTS:
            away = Away("slow")
        if away:
            outcomes.append(away)
            continue
        prepare(number)
        found = sealed.pop(number)
        if isinstance(found, Envelope):
            found = _hand_over(found, partial(prepare, number + 1), begun + _ENDS)
        if isinstance(found, Away):
            away = found
        losses = losses + 1 if isinstance(found, Later | Unknown) and found.reason in _LOST else 0
        outcomes.append(found)
    return _in_view_of_all(outcomes)


def _in_view_of_all(outcomes: list[Outcome]) -> list[Outcome]:
    """What most of a batch are told, and nobody is spared, is about us or the server, not about their mailboxes: a
    relay that refuses us, a lookup that is broken. Then none has failed, and no address is given up."""
    told = Counter((type(outcome), outcome.reason) for outcome in outcomes if isinstance(outcome, Gone | Never))
    many = max(_MANY, len(outcomes) / 2)
    all_refused = told[Never, "refused"] >= many and not any(isinstance(outcome, Sent) for outcome in outcomes)
    all_unknown = told[Gone, "mailbox_unknown"] >= many

    def seen(outcome: Outcome) -> Outcome:
        match outcome:
            case Never("refused" as reason, said) if all_refused:
                return Away(reason, said, _PAUSE)
            case Gone("mailbox_unknown" as reason, said) if all_unknown:
                return Later(reason, said, _PAUSE)
        return outcome

    return [seen(outcome) for outcome in outcomes]


def _hand_over(envelope: Envelope, meanwhile: Callable[[], None], until: float) -> Outcome:
    """A connection that was used before may have ended since: then the mail goes over a new one, once."""
    server, sender, recipient, message, utf8 = envelope
    while True:
        reused = False
        try:
            line = smtp.connection(server, sender.domain, until)
            reused = line.mails > 0
            if utf8 and not line.supports("smtputf8"):
                return Never("smtputf8", "the mail server takes no addresses outside ASCII")
            reply = line.send(sender.address, recipient, message, utf8=utf8, until=until, meanwhile=meanwhile)
        except smtp.Broken as broken:
            if reused and broken.stage != "end":
                continue
            return judge_broken(broken)
        if not (reused and reply.stage == "mail" and reply.code == 421):
            return judge(reply)


def judge(reply: smtp.Reply) -> Outcome:
    """What an answer means for the delivery. What the server says of the sender holds for every mail: it is no
    reason to give one up."""
    said = f"{reply.code} {reply.said}"[:_LONGEST_SAID]
    found = _STATUS.match(reply.said)
    status = found[0] if found else ""
    if reply.code < 300:
        return Sent(_receipt(reply.said))
    if reply.code == 421:
        return Away("busy", said, _PAUSE)
    if reply.code in (530, 534, 535, 538):
        return Away("auth", said, _PAUSE)
    if (reply.code == 552 and status in ("", "5.2.3")) or status == "5.3.4":
        return Never("too_large", said)
    if reply.stage == "mail" or status in _SENDER:
        return Away("sender_refused", said, _PAUSE)
    if reply.code < 500:
        return Later("greylisted" if "greylist" in reply.said.lower() else "deferred", said)
    if status in _NOBODY:
        return Gone("mailbox_unknown", said)
    return Never("refused", said)


def judge_broken(broken: smtp.Broken) -> Outcome:
    """After the message's end the server may have it. A server that goes away when it hears a recipient has
    something against that one, or it is not heard again by the next."""
    said = broken.said[:_LONGEST_SAID]
    if broken.stage == "end":
        return Unknown(broken.reason, said)
    if broken.stage in ("rcpt", "data"):
        return Later(broken.reason, said, answered=False)
    return Away(broken.reason, said, _PAUSE if broken.reason in ("busy", "auth") else 0)


def _receipt(said: str) -> str | None:
    found = _RECEIPT.search(said)
    return next((part[:200] for part in found.groups() if part), None) if found else None
