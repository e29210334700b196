"""firebase-admin, opened once in a process that sends: the service account, its access token, the connections.

Imported with the first batch, since the library takes a second to load and comes with the extra `push`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import firebase_admin  # type: ignore[import-untyped]
import requests
from firebase_admin import credentials, messaging
from google.auth import exceptions

from schema.delivery import Away
from schema.errors import TocsinError
from workers.providers import posting
from workers.settings import settings

TOKEN_SECONDS = 5.0
"""How long the token endpoint may take to be reached, and again to answer."""
REFUSED_SECONDS = 5.0
"""For so long nobody asks again for a token that was not given: other threads wait behind whoever asks."""

_own = threading.local()
_GOOGLE = "https://fcm.googleapis.com"
_lock = threading.Lock()
_opened: "Firebase | None" = None


@dataclass
class Firebase:
    """`wrong_project`: FCM last said that our devices are another project's."""

    messages: Callable[[object], str]
    close: Callable[[], None]
    credential: Any
    request: Callable[..., Any]
    wrong_project: bool = False
    refused: Away | None = None
    refused_until: float = 0.0

    def post(self, message: object) -> str:
        """Sends a Message and returns its name. What the library raises is as odd as the answer: see `answer`."""
        _own.answer = None
        return self.messages(message)

    @staticmethod
    def answer() -> requests.Response | None:
        """What this thread's last `post` was answered, if anything."""
        return getattr(_own, "answer", None)

    def authorize(self) -> Away | None:
        """Gets an access token, unless there is one: once, and not in every thread of a batch."""
        with _lock:
            if self.credential.valid:
                return None
            if time.monotonic() < self.refused_until:
                return self.refused
            try:
                self.credential.refresh(partial(self.request, timeout=TOKEN_SECONDS))
            except exceptions.RefreshError as error:
                reason = "oauth_unreachable" if error.retryable else "oauth_refused"
                self.refused = Away(reason, str(error.args[0] if error.args else ""))
            except Exception:  # not only GoogleAuthError: an odd answer makes google-auth raise TypeError
                self.refused = Away("oauth_unreachable")
            else:
                return None
            self.refused_until = time.monotonic() + REFUSED_SECONDS
            return self.refused

    def forget_token(self) -> None:
        """It was refused: the next batch asks for another."""
        self.credential.token = None


def firebase() -> Firebase:
    """This process's. Raises TocsinError when the service account cannot be used."""
    global _opened  # noqa: PLW0603  (one app a process)
    with _lock:
        if _opened is None:
            _opened = _open(settings().fcm_credentials, settings().fcm_url.rstrip("/"))
        return _opened


def close() -> None:
    """Ends the connections, for the end of a process. The next send opens new ones."""
    global _opened
    with _lock:
        opened, _opened = _opened, None
    if opened:
        opened.close()


def _open(path: str, url: str) -> Firebase:
    try:
        certificate = credentials.Certificate(path)
    except OSError as error:
        raise TocsinError(f"TOCSIN_FCM_CREDENTIALS: {path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError):
        raise TocsinError(f"TOCSIN_FCM_CREDENTIALS: {path} is not the JSON file of a service account") from None
    if not certificate.project_id:
        raise TocsinError(f"TOCSIN_FCM_CREDENTIALS: {path} names no project_id")
    app = firebase_admin.initialize_app(certificate, {"httpTimeout": posting.SECONDS}, name="tocsin")
    session, request = _take_hold(app, url)

    def close_all() -> None:
        firebase_admin.delete_app(app)
        session.close()
        request.session.close()

    return Firebase(partial(messaging.send, app=app), close_all, certificate.get_credential(), request)


def _take_hold(app: Any, url: str) -> tuple[requests.Session, Any]:
    """Everything that firebase-admin and google-auth call private is used here and nowhere else, and held by
    tests/contracts/test_firebase.py. Returns the session of messages, and what requests tokens."""
    service = messaging._get_messaging_service(app)
    service._fcm_url = f"{url}/v1/projects/{app.project_id}/messages:send"
    session = service._client.session
    request = session._auth_request
    posting.harden(session)
    session.hooks["response"].append(_note)
    posting.harden(request.session)
    session._refresh_status_codes = ()  # else a 401 is answered by two more tokens and POSTs, in every thread
    if url != _GOOGLE:
        # Whoever sends to a server of his own does not tell Google's IAM of it, as google-auth would.
        service._credential._after_refresh = lambda *_: None
    return session, request


def _note(response: requests.Response, **_: object) -> None:
    _own.answer = response
