"""What workers/providers/firebase.py takes from inside firebase-admin and google-auth is there, as it was.

When this fails, one of them has changed: read its new messaging service and AuthorizedSession against `_take_hold`
before the pin moves.
"""

import inspect
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import firebase_admin
import pytest
from firebase_admin import credentials, messaging
from google.auth.credentials import Credentials
from google.auth.transport.requests import AuthorizedSession, Request

from tests.fakes.fcm import PROJECT, FakeFcm
from workers.providers import firebase


@pytest.fixture
def app(tmp_path: Path) -> Iterator[firebase_admin.App]:
    with FakeFcm() as fake:
        certificate = credentials.Certificate(str(fake.credentials(tmp_path)))
    app = firebase_admin.initialize_app(certificate, {"httpTimeout": 3}, name="contract")
    yield app
    firebase_admin.delete_app(app)


def test_the_version_is_the_one_we_read() -> None:
    assert version("firebase-admin").startswith("7.")


def test_the_service_has_what_we_take_hold_of(app: firebase_admin.App) -> None:
    service = messaging._get_messaging_service(app)
    assert service is messaging._get_messaging_service(app), "one for each app"
    assert service._fcm_url == f"https://fcm.googleapis.com/v1/projects/{PROJECT}/messages:send"
    assert isinstance(service._client.session, AuthorizedSession)
    assert service._client.timeout == 3
    assert service._credential is app.credential.get_credential()
    assert service._client.session.credentials is service._credential, "whose token we get is whose is sent"
    assert tuple(service._client.session._refresh_status_codes) == (401,)
    assert isinstance(service._client.session._auth_request, Request)
    assert inspect.signature(Credentials._after_refresh).parameters.keys() == {
        "self",
        "request",
        "method",
        "url",
        "headers",
    }
    assert "self._after_refresh(" in inspect.getsource(Credentials.before_request)


def test_nothing_is_tried_again_below_us(app: firebase_admin.App) -> None:
    session, request = firebase._take_hold(app, "http://127.0.0.1:1")
    assert (
        messaging._get_messaging_service(app)._fcm_url == f"http://127.0.0.1:1/v1/projects/{PROJECT}/messages:send"
    )
    for one in (session, request.session):
        for url in ("https://fcm.googleapis.com/v1", "https://oauth2.googleapis.com/token", "http://127.0.0.1:1"):
            retries = one.get_adapter(url).max_retries
            assert (retries.total, retries.status_forcelist) == (0, set())
            assert not retries.is_retry("POST", 429, has_retry_after=True)
        assert one.max_redirects == 0
    assert session._refresh_status_codes == ()
    session.close()
    request.session.close()


def test_google_itself_is_told_what_its_library_tells_it(app: firebase_admin.App) -> None:
    session, request = firebase._take_hold(app, "https://fcm.googleapis.com")
    assert "_after_refresh" not in vars(app.credential.get_credential())
    session.close()
    request.session.close()
