"""The local phone: an app that FCM reaches, a browser that a push service reaches, and the lock screen of both."""

import base64
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from schema.errors import TocsinError
from workers.home import write_private

KEPT = 50
"""Notifications on the screen, and messages in the record of what arrived."""


_REMEMBERED = 100
"""Addresses that it had."""


class App(StrEnum):
    """Who on the phone is told: the application itself, by FCM, or the browser, by its push service."""

    APPLICATION = "application"
    BROWSER = "browser"


class Subscription(msgspec.Struct, frozen=True):
    """A web push subscription: its name at the push service, its P-256 key and its secret (RFC 8291, 3), the last
    two as base64url."""

    id: str
    private: str
    auth: str

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        return ec.derive_private_key(int.from_bytes(unbase64(self.private), "big"), ec.SECP256R1())

    @property
    def p256dh(self) -> str:
        point = self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return base64url(point)


class _State(msgspec.Struct):
    """What the phone knows after a restart. `gone`: tokens and subscriptions that it had."""

    token: str | None = None
    subscription: Subscription | None = None
    gone: list[str] = []


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification on the lock screen. `id` is the message's. The next one with the same tag takes its place;
    `times` counts them. `stranger`: it was for a token that this phone never had."""

    id: str
    app: App
    at: datetime
    title: str
    body: str
    url: str | None = None
    tag: str | None = None
    stranger: bool = False
    times: int = 1


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message as a provider took it, for people who look."""

    id: str
    app: App
    at: datetime
    title: str
    content: str


class Phone:
    """Its state is in `file`, so that a restart does not make it another phone. `version` moves with every change.
    Raises TocsinError when the file is damaged."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._state = msgspec.json.decode(file.read_bytes(), type=_State)
        except FileNotFoundError:
            self._state = _State()
        except msgspec.MsgspecError:
            raise TocsinError(f"{file} is damaged: remove it, and the phone is a new one") from None
        self.notices: list[Notice] = []
        self.arrivals: list[Arrival] = []
        self.badges: dict[App, int] = {}
        self.version = 0

    @property
    def token(self) -> str | None:
        """The application's FCM token; None: it is not installed."""
        return self._state.token

    @property
    def subscription(self) -> Subscription | None:
        """The browser's; None: it is not subscribed."""
        return self._state.subscription

    def is_gone(self, address: str) -> bool:
        """Whether a token or subscription was the phone's, and is no more."""
        return address in self._state.gone

    def install(self, app: App) -> None:
        """Gives it an address, as the first start of an application does. Safe to repeat."""
        if app is App.APPLICATION and not self._state.token:
            self._state.token = f"{secrets.token_urlsafe(16)}:APA91b{secrets.token_urlsafe(100)}"
        elif app is App.BROWSER and not self._state.subscription:
            number = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
            private, auth = base64url(number.to_bytes(32, "big")), base64url(secrets.token_bytes(16))
            self._state.subscription = Subscription(secrets.token_urlsafe(16), private, auth)
        self._save()

    def uninstall(self, app: App) -> None:
        """Its address is gone for good, and what it showed with it."""
        if app is App.APPLICATION and self._state.token:
            self._forget(self._state.token)
            self._state.token = None
        elif app is App.BROWSER and self._state.subscription:
            self._forget(self._state.subscription.id)
            self._state.subscription = None
        self.notices = [notice for notice in self.notices if notice.app is not app]
        self.badges.pop(app, None)
        self._save()

    def arrived(self, app: App, id: str, title: str, message: Any) -> None:
        """Notes a message that a provider took, whatever it shows."""
        content = msgspec.json.format(msgspec.json.encode(message), indent=2).decode()
        self.arrivals = [Arrival(id, app, datetime.now(UTC), title, content), *self.arrivals][:KEPT]
        self.version += 1

    def show(self, notice: Notice, badge: int | None = None) -> None:
        """Puts it on top, in place of the one of the same app and tag."""
        before = [n for n in self.notices if n.app is notice.app and n.tag == notice.tag is not None]
        notice = replace(notice, times=1 + sum(n.times for n in before))
        self.notices = [notice, *(n for n in self.notices if n not in before)][:KEPT]
        if badge is not None:
            self.badges[notice.app] = badge
        self.version += 1

    def withdraw(self, app: App, tags: set[str]) -> None:
        """Takes away what has one of these tags."""
        self.notices = [n for n in self.notices if n.app is not app or n.tag not in tags]
        self.version += 1

    def take(self, id: str) -> Notice | None:
        """Takes one off the screen: it was tapped, or swiped away."""
        found = next((n for n in self.notices if n.id == id), None)
        self.notices = [n for n in self.notices if n is not found]
        self.version += 1
        return found

    def clear(self) -> None:
        self.notices = []
        self.version += 1

    def _forget(self, address: str) -> None:
        self._state.gone = [*self._state.gone, address][-_REMEMBERED:]

    def _save(self) -> None:
        write_private(self._file, msgspec.json.encode(self._state).decode())
        self.version += 1


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unbase64(text: str) -> bytes:
    """Raises ValueError when it is no base64url."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
