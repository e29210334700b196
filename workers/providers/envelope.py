"""Envelopes: one mail, finished, with where it is handed in, who sends it and the one address it goes to."""

import traceback
from datetime import UTC, datetime
from email.errors import MessageError
from email.policy import SMTP
from email.utils import format_datetime, formataddr
from functools import lru_cache
from typing import NamedTuple

import email_validator
from email_validator import EmailNotValidError, validate_email

from pipelines import digests
from pipelines.mime import compose
from pipelines.rendering import Content
from pipelines.stage import Resources
from schema.delivery import Away, Gone, Never, Outcome, Parcel
from schema.errors import TemplateError, TocsinError
from workers import log, unsubscribe
from workers.providers import mail_server, mail_signature
from workers.settings import settings

_LONGEST_SAID = 500
_PAUSE = 60.0
"""Seconds to wait for a person who mends something."""

# Mail servers inside a house have such names.
_IN_A_HOUSE = {"local", "localhost", "test"}
email_validator.SPECIAL_USE_DOMAIN_NAMES[:] = {*email_validator.SPECIAL_USE_DOMAIN_NAMES} - _IN_A_HOUSE


class Sender(NamedTuple):
    """TOCSIN_MAIL_FROM: as the header says it, its address, and the address's domain."""

    header: str
    address: str
    domain: str


class Envelope(NamedTuple):
    """`utf8`: whether the address needs a server that takes more than ASCII (RFC 6531)."""

    server: mail_server.Server
    sender: Sender
    recipient: str
    message: bytes
    utf8: bool


def seal(parcel: Parcel, use: Resources) -> Envelope | Outcome:
    """A delivery as a mail, or what becomes of it when it cannot be one. The Message-ID is made of the delivery's
    id, so it is the same when this is repeated."""
    try:
        return _sealed(parcel, use)
    except EmailNotValidError:
        return Gone("invalid_address")
    except TemplateError as error:
        return Never("template", str(error)[:_LONGEST_SAID])
    except TocsinError as error:
        log.logger().error("email_cannot_be_used", error=str(error))
        return Away("configuration", str(error)[:_LONGEST_SAID], _PAUSE)
    except ValueError as error:  # a header that would become two
        return Never("invalid_header", str(error)[:_LONGEST_SAID])
    except Exception as error:  # a bug, of which the mails beside it know nothing
        frame = traceback.extract_tb(error.__traceback__)[-1]
        log.logger().error("email_broke", error=type(error).__name__, at=f"{frame.filename}:{frame.lineno}")
        return Never("internal_error")


def _sealed(parcel: Parcel, use: Resources) -> Envelope:
    server = mail_server.parse(settings().smtp_url.get_secret_value())
    from_ = sender(settings().mail_from)
    valid = _validated(parcel.address)
    to = valid.ascii_email or valid.normalized
    content = Content(parcel.title, parcel.message, parcel.action_url)
    own = settings().gateway_url
    if parcel.digest:
        unsubscribe_url = unsubscribe.link(parcel.user, digests.category(parcel.digest))
        mail = use.catalog.digests.mail(parcel.digest, content, parcel.user, unsubscribe_url, own)
    else:
        unsubscribe_url = unsubscribe.link(parcel.user, parcel.category)
        letter = use.catalog.letter(parcel.type, of_group=parcel.grouped)
        mail = letter.render(content, parcel.data, parcel.user, parcel.actor, unsubscribe_url, own)
    headers = (
        ("From", from_.header),
        ("To", to),
        ("Date", format_datetime(datetime.now(UTC))),
        ("Message-ID", f"<{parcel.delivery}@{from_.domain}>"),
        ("Auto-Submitted", "auto-generated"),
        ("List-Unsubscribe", f"<{unsubscribe_url}>"),
        ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
    )
    message = compose(mail, headers, parcel.delivery.hex)
    if dkim := settings().dkim:
        message = mail_signature.sign(message, dkim)
    return Envelope(server, from_, to, message, not to.isascii())


@lru_cache
def sender(mail_from: str) -> Sender:
    """Raises TocsinError for what is not one address, with or without a name."""
    try:
        (found,) = SMTP.header_factory("From", mail_from).addresses
        valid = _validated(found.addr_spec)
        address = valid.ascii_email or valid.normalized  # of which the next line takes only ASCII
        return Sender(formataddr((found.display_name, address)), address, address.partition("@")[2])
    except (ValueError, MessageError):
        raise TocsinError("TOCSIN_MAIL_FROM: must be one address, such as Shop <shop@example.com>") from None


def _validated(address: str) -> email_validator.ValidatedEmail:
    return validate_email(address, check_deliverability=False, globally_deliverable=False)
