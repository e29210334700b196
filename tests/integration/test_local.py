"""The mailbox and the phone of `tocsin up`, as their own process, met by smtplib, firebase-admin and pywebpush."""

import email
import email.policy
import json
import os
import re
import smtplib
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from html import unescape
from pathlib import Path
from typing import Any
from uuid import uuid4

import firebase_admin
import httpx
import jwt
import pytest
import requests
from firebase_admin import credentials, exceptions, messaging
from py_vapid import Vapid
from pywebpush import WebPushException, webpush

from schema.errors import TocsinError
from workers.local import demo
from workers.local.mailbox import KEPT, Mailbox
from workers.local.phone import App, Phone
from workers.settings import Settings

pytest_plugins = ["tests.integration.fleet"]
WORDS = ("python", "-m", "workers.local")


@dataclass
class Local:
    """The process in `home`."""

    process: Any
    url: str
    home: Path
    environment: dict[str, str]
    web: httpx.Client

    def send_mail(self, **headers: str) -> EmailMessage:
        """By real SMTP, with a text and an HTML part."""
        message = EmailMessage(policy=email.policy.SMTP)
        for name, value in (
            {"From": "app@example.org", "To": "ada@example.org", "Subject": "Hello"} | headers
        ).items():
            message[name.replace("_", "-")] = value
        message.set_content("The text part, with ümlauts.")
        message.add_alternative("<p>The HTML part</p>", subtype="html")
        with smtplib.SMTP("127.0.0.1", int(self.environment["TOCSIN_DEV_SMTP_PORT"])) as smtp:
            smtp.sendmail("app@example.org", ["ada@example.org"], message.as_bytes())
        return message

    def text(self, path: str) -> str:
        answer = self.web.get(path)
        assert answer.status_code == 200, answer.text
        return unescape(answer.text)

    def mail(self, subject: str) -> str:
        """The path of a mail's page."""
        found = re.search(rf'href="(/dev/mail/[^"?/]+)"(?:(?!</a>).)*{subject}', self.text("/dev/mail"), re.DOTALL)
        assert found
        return found[1]

    def install(self) -> Phone:
        """The phone with both apps; nobody is there to tell the API, so that it is not registered anywhere."""
        for app in App:
            self.web.post(f"/dev/phone/{app}/install")
        return Phone(self.home / "phone.json")

    def notices(self) -> list[str]:
        """What the lock screen shows, newest first: app, title, body and so on in one line each."""
        shown = re.findall(r'<li class="notice">(.*?)</li>', self.text("/dev/phone"), re.DOTALL)
        return [" ".join(re.sub(r"<[^>]+>", " ", one).split()) for one in shown]


Start = Callable[..., Local]


@pytest.fixture(scope="module")
def start_local(
    start_once: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    free_port: Callable[[], int],
    eventually: Callable[..., object],
) -> Iterator[Start]:
    """start_local(), start_local(home), start_local(TOCSIN_…=…): as `tocsin up` starts it; ended after the tests
    of the module, and without a word of trouble."""
    started: list[Local] = []

    def start(home: Path | None = None, **changes: str) -> Local:
        home = home or tmp_path_factory.mktemp("local")
        config = Settings(_env_file=None, dev_port=free_port(), api_port=free_port())
        environment = os.environ | demo.variables(config, home)
        environment |= {
            "TOCSIN_HOME": str(home),
            "TOCSIN_DEVELOPMENT": "1",
            "TOCSIN_DEV_PORT": str(config.dev_port),
            "TOCSIN_API_PORT": str(config.api_port),
        }
        process = start_once(environment | changes, *WORDS)
        local = Local(
            process, config.dev_url, home, environment, httpx.Client(base_url=config.dev_url, timeout=20)
        )
        started.append(local)
        eventually(lambda: ready(local), seconds=60)
        return local

    def ready(local: Local) -> bool:
        assert local.process.popen.poll() is None, local.process.text()
        with suppress(httpx.TransportError):
            return local.web.get("/readyz").is_success
        return False

    yield start
    for local in started:
        local.web.close()
        assert local.process.stop() == 0
        assert "rror" not in local.process.text()


@pytest.fixture(scope="module")
def local(start_local: Start) -> Local:
    return start_local()


@pytest.fixture(scope="module")
def phone(local: Local) -> Phone:
    return local.install()


@pytest.fixture
def push(local: Local, phone: Phone) -> Iterator[Callable[..., str]]:
    """push(title, tag, …): by the real firebase-admin, to the phone; answers the message's name."""
    certificate = credentials.Certificate(local.environment["TOCSIN_FCM_CREDENTIALS"])
    app = firebase_admin.initialize_app(certificate, {"httpTimeout": 10}, name=uuid4().hex)
    service = messaging._get_messaging_service(app)
    service._fcm_url = f"{local.environment['TOCSIN_FCM_URL']}/v1/projects/{app.project_id}/messages:send"
    service._credential._after_refresh = lambda *_: None
    session = service._client.session

    def send(title: str, tag: str = "", body: str = "", token: str | None = None, **data: str) -> str:
        message = messaging.Message(
            notification=messaging.Notification(title, body),
            data=data,
            android=messaging.AndroidConfig(notification=messaging.AndroidNotification(tag=tag or title)),
            apns=messaging.APNSConfig(payload=messaging.APNSPayload(messaging.Aps(badge=7))),
        )
        message.token = token or phone.token
        name: str = messaging.send(message, app=app)
        return name

    yield send
    firebase_admin.delete_app(app)
    session._auth_request.session.close()
    session.close()


@pytest.fixture
def web_push(local: Local, phone: Phone) -> Callable[..., requests.Response]:
    """web_push({"title": …}): by the real pywebpush, to the phone's browser."""
    subscription = phone.subscription
    assert subscription
    keys = {"p256dh": subscription.p256dh, "auth": subscription.auth}

    def send(payload: object, id: str = subscription.id, **headers: str) -> requests.Response:
        with requests.Session() as session:
            answer = webpush(
                {"endpoint": f"{local.url}/push/{id}", "keys": keys},
                json.dumps(payload),
                local.environment["TOCSIN_VAPID_PRIVATE_KEY"],
                {"sub": "mailto:app@example.org"},
                ttl=60,
                headers=headers,
                requests_session=session,
            )
        assert isinstance(answer, requests.Response)
        return answer

    return send


def test_a_mail_is_shown_in_each_way(local: Local, name: str) -> None:
    sent = local.send_mail(Subject=f"Grüße {name}", Message_ID=f"<{name}@example.org>")
    page = local.mail(f"Grüße {name}")
    assert "The text part, with ümlauts." in local.text("/dev/mail")
    assert f'src="{page}/html"' in local.text(page)
    assert "<p>The HTML part</p>" in local.text(f"{page}/html")
    assert "The text part, with ümlauts." in local.text(f"{page}?view=text")
    assert f"<{name}@example.org>" in local.text(f"{page}?view=headers")
    assert "Content-Type: multipart/alternative" in local.text(f"{page}?view=source")
    kept = local.web.get(f"{page}/eml")
    assert kept.headers["content-type"] == "message/rfc822"
    assert kept.content == b"Return-Path: <app@example.org>\r\nDelivered-To: ada@example.org\r\n" + sent.as_bytes()


def test_the_page_says_what_is_new_and_nothing_else(local: Local, name: str) -> None:
    before = local.web.get("/dev/mail").headers["etag"]
    assert local.web.get("/dev/mail", headers={"if-none-match": before}).status_code == 304
    local.send_mail(Subject=name)
    assert local.web.get("/dev/mail", headers={"if-none-match": before}).status_code == 200


def test_a_mail_runs_and_loads_nothing(local: Local, name: str) -> None:
    local.send_mail(Subject=name)
    policy = local.web.get(f"{local.mail(name)}/html").headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "img-src data:", "form-action 'none'"} <= set(policy)
    assert "sandbox allow-popups allow-popups-to-escape-sandbox" in policy
    assert not any("script" in rule for rule in policy)


def test_what_a_mail_says_is_never_markup_of_the_page(local: Local, name: str) -> None:
    local.send_mail(Subject=f"<script>alert(1)</script> {name}", From='"<b>x</b>" <x@example.org>')
    page = local.web.get("/dev/mail").text
    assert f"&lt;script&gt;alert(1)&lt;/script&gt; {name}" in page
    assert "<b>x</b>" not in page


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no header at all",
        b"From: \xff\xfe <\r\nTo: ,,;;<>\r\nSubject: =?x-none?Q?a?=\r\n\r\nx",
        b"Subject: x\r\nContent-Type: text/html; charset=x-none\r\n\r\n\xff",
        b"Subject: x\r\nContent-Type: multipart/mixed; boundary=never\r\n\r\n--other",
        b"Date: not a date\r\nMessage-ID: <[\r\n\r\n",
    ],
)
def test_a_mail_that_nobody_can_read_is_shown_all_the_same(local: Local, raw: bytes) -> None:
    with smtplib.SMTP("127.0.0.1", int(local.environment["TOCSIN_DEV_SMTP_PORT"])) as smtp:
        smtp.sendmail("app@example.org", ["ada@example.org"], raw)
    newest = re.search(r'href="(/dev/mail/[^"?/]+)"', local.text("/dev/mail"))
    assert newest
    for view in ("html", "text", "headers", "source"):
        local.text(f"{newest[1]}?view={view}")
    local.text(f"{newest[1]}/html")


def test_a_restart_keeps_the_mails_the_phone_and_the_keys(start_local: Start, name: str) -> None:
    first = start_local()
    first.send_mail(Subject=name)
    token = first.install().token
    assert first.process.stop() == 0
    second = start_local(first.home)
    assert name in second.text(second.mail(name))
    assert second.install().token == token
    key = "TOCSIN_VAPID_PRIVATE_KEY"
    assert second.environment[key] == first.environment[key]
    files = [path for path in first.home.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    mailbox = Mailbox(tmp_path)
    for number in range(KEPT + 3):
        mailbox.add(f"Subject: number {number}\r\n\r\n".encode(), "app@example.org", ["ada@example.org"])
    for now in (mailbox, Mailbox(tmp_path)):
        assert [mail.subject for mail in now.mails] == [f"number {number}" for number in range(KEPT + 2, 2, -1)]
    assert len(list(tmp_path.iterdir())) == KEPT
    mailbox.clear()
    assert mailbox.mails == list(tmp_path.iterdir()) == []


def test_a_push_by_fcm_is_on_the_lock_screen(local: Local, push: Callable[..., str], name: str) -> None:
    sent = push(f"first {name}", tag=name, body="Great post!", actionUrl="/posts/1")
    assert re.fullmatch(r"projects/tocsin-local/messages/0:\d+%[0-9a-f]+", sent)
    assert local.notices()[0].startswith("Your app")
    assert f"first {name} Great post!" in local.notices()[0]
    assert '<span class="badge" aria-label="7 unread in Your app">7</span>' in local.text("/dev/phone")
    push(f"second {name}", tag=name)
    about = [notice for notice in local.notices() if name in notice]
    assert len(about) == 1
    assert f"second {name} updated 1×" in about[0]


def test_a_push_takes_away_what_it_stands_for(local: Local, push: Callable[..., str], name: str) -> None:
    for number in (1, 2):
        push(f"{name} {number}", tag=f"{name}-{number}")
    push(f"{name} 3", tag=f"{name}-3", replaces=f"{name}-1,{name}-2")
    assert [name in notice for notice in local.notices()].count(True) == 1


def test_fcm_refuses_as_the_real_one(local: Local, phone: Phone, push: Callable[..., str]) -> None:
    with pytest.raises(exceptions.InvalidArgumentError, match="too big"):
        push("x", body="x" * 4096)
    url = f"/v1/projects/{demo.PROJECT}/messages:send"
    message = {"message": {"token": phone.token, "notification": {"title": "unauthenticated"}}}
    for headers in ({}, {"authorization": "Bearer made-up"}):
        answer = local.web.post(url, json=message, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["status"] == "UNAUTHENTICATED"
    assert "unauthenticated" not in local.text("/dev/phone")


def test_only_the_service_account_gets_a_token(local: Local) -> None:
    account = json.loads(Path(local.environment["TOCSIN_FCM_CREDENTIALS"]).read_text())
    other = json.loads(demo.account(local.home).read_text())["private_key"]
    claims = {"iss": account["client_email"], "aud": account["token_uri"], "iat": time.time()}

    def answer(**changes: Any) -> httpx.Response:
        now = int(time.time())
        claimed = claims | {"iat": now, "exp": now + 600} | changes
        assertion = jwt.encode(claimed, other, algorithm="RS256")
        grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
        return local.web.post("/token", data={"grant_type": grant, "assertion": assertion})

    assert answer().json()["token_type"] == "Bearer"
    for wrong in ({"iss": "someone@else"}, {"aud": "https://elsewhere"}, {"exp": int(time.time()) - 60}):
        assert answer(**wrong).status_code == 400
        assert answer(**wrong).json()["error"] == "invalid_grant"
    assert local.web.post("/token", data={"grant_type": "password"}).status_code == 400


def test_an_uninstalled_app_is_unregistered_and_comes_back_as_another(start_local: Start) -> None:
    local = start_local()
    before = local.install().token
    account = json.loads(Path(local.environment["TOCSIN_FCM_CREDENTIALS"]).read_text())
    now = int(time.time())
    claims = {"iss": account["client_email"], "aud": account["token_uri"], "iat": now, "exp": now + 600}
    assertion = jwt.encode(claims, account["private_key"], algorithm="RS256")
    grant = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
    headers = {"authorization": f"Bearer {local.web.post('/token', data=grant).json()['access_token']}"}
    assert local.web.post("/dev/phone/application/uninstall").status_code == 303
    assert "uninstalled" in local.text("/dev/phone")
    message = {"message": {"token": before, "notification": {"title": "gone"}}}
    answer = local.web.post(f"/v1/projects/{demo.PROJECT}/messages:send", json=message, headers=headers)
    assert answer.status_code == 404
    assert answer.json()["error"]["details"][0]["errorCode"] == "UNREGISTERED"
    assert local.install().token not in (None, before)


def test_a_web_push_is_on_the_lock_screen(
    local: Local, web_push: Callable[..., requests.Response], name: str
) -> None:
    answer = web_push({"title": f"first {name}", "body": "Lunch?", "tag": name, "url": "/m", "badge": 3})
    assert answer.status_code == 201
    assert answer.headers["location"].startswith(f"{local.url}/")
    assert f"first {name} Lunch?" in local.notices()[0]
    assert local.notices()[0].startswith("Browser")
    web_push({"title": f"second {name}", "tag": name, "badge": 3}, Topic="abc", Urgency="high")
    about = [notice for notice in local.notices() if name in notice]
    assert len(about) == 1
    assert "second" in about[0]
    web_push({"title": f"third {name}", "tag": f"{name}-3", "replaces": [name]})
    assert [name in notice for notice in local.notices()].count(True) == 1


def test_the_push_service_refuses_as_the_real_ones(
    local: Local, phone: Phone, web_push: Callable[..., requests.Response]
) -> None:
    def refused(**wrong: Any) -> int | None:
        with pytest.raises(WebPushException) as error:
            web_push({"title": "x"}, **wrong)
        return error.value.status_code

    assert phone.subscription
    assert refused(id="unknown") == 404
    assert refused(Topic="x" * 33) == 400
    assert refused(Urgency="urgent") == 400
    path = f"/push/{phone.subscription.id}"
    assert local.web.post(path, content=b"x", headers={"ttl": "60"}).status_code == 401
    forged = {"authorization": "vapid t=a.b.c, k=BAAA", "ttl": "60"}
    assert local.web.post(path, content=b"x", headers=forged).status_code == 403
    key = Vapid.from_string(local.environment["TOCSIN_VAPID_PRIVATE_KEY"])
    claims = {"sub": "mailto:app@example.org", "aud": "https://elsewhere.example", "exp": int(time.time()) + 600}
    assert local.web.post(path, content=b"x", headers=key.sign(claims) | {"ttl": "60"}).status_code == 403
    signed = key.sign(claims | {"aud": local.url})
    assert local.web.post(path, content=b"x", headers=signed).status_code == 400  # no TTL


def test_a_body_that_the_browser_cannot_decrypt_is_refused(
    local: Local, phone: Phone, web_push: Callable[..., requests.Response]
) -> None:
    sent = web_push({"title": "x"}).request.headers
    assert phone.subscription
    for body in (b"", b"x", b"x" * 200, b"x" * 5000):
        kept = {"authorization": sent["authorization"], "ttl": "60", "content-encoding": "aes128gcm"}
        answer = local.web.post(f"/push/{phone.subscription.id}", content=body, headers=kept)
        assert answer.status_code == (413 if len(body) > 4096 else 400), answer.text


def test_an_ended_subscription_is_gone(start_local: Start) -> None:
    local = start_local()
    before = local.install().subscription
    assert before
    local.web.post("/dev/phone/browser/uninstall")
    now = int(time.time())
    key = Vapid.from_string(local.environment["TOCSIN_VAPID_PRIVATE_KEY"])
    claims = {"sub": "mailto:a@example.org", "aud": local.url, "exp": now + 600}
    answer = local.web.post(f"/push/{before.id}", content=b"x", headers=key.sign(claims) | {"ttl": "60"})
    assert answer.status_code == 410
    after = local.install().subscription
    assert after
    assert after.id != before.id


def test_an_app_that_is_installed_is_registered(start_local: Start, api: Any) -> None:
    known = {name: api.environment[name] for name in ("TOCSIN_API_PORT", "TOCSIN_API_KEY")}
    local = start_local(**known)
    assert local.web.post("/dev/phone/application/install").status_code == 204
    token = Phone(local.home / "phone.json").token
    assert token
    assert api.one("SELECT user_id || ' ' || kind FROM devices WHERE address = %s", token) == "demo fcm_token"
    assert "did not take" not in local.text("/dev/phone")


def test_an_api_that_is_away_is_named(local: Local) -> None:
    answer = local.web.post("/dev/phone/browser/install")
    assert answer.status_code == 502
    assert answer.text.startswith("PUT /v1/users/demo/devices: ")
    assert "The API did not take the browser’s address" in local.text("/dev/phone")


@pytest.mark.parametrize("path", ["mail/clear", "phone/clear", "phone/application/uninstall"])
def test_another_sites_page_cannot_press_the_buttons(local: Local, phone: Phone, path: str) -> None:
    answer = local.web.post(f"/dev/{path}", headers={"origin": "http://elsewhere.example"})
    assert answer.status_code == 403
    assert Phone(local.home / "phone.json").token == phone.token


def test_another_sites_name_shows_no_mail(local: Local) -> None:
    assert local.web.get("/dev/mail", headers={"host": "elsewhere.example"}).status_code == 400


def test_what_is_not_there_is_not_found(local: Local) -> None:
    for path in (
        "/dev/mail/1",
        "/dev/mail/..%2f..%2fsecrets/eml",
        "/dev/mail/1/html",
        "/dev/phone/x",
        "/dev/static/x",
    ):
        assert local.web.get(path).status_code in (404, 405), path


def test_it_does_not_start_in_production(local: Local, start: Callable[..., Any]) -> None:
    process = start(local.environment | {"TOCSIN_DEVELOPMENT": "0"}, *WORDS)
    assert process.popen.wait(30) == 1
    assert process.text().startswith("local: the mailbox and the phone are for development only")
    assert len(process.text().splitlines()) == 1


@pytest.mark.parametrize("variable", ["TOCSIN_DEV_PORT", "TOCSIN_DEV_SMTP_PORT"])
def test_a_taken_port_is_one_line(
    local: Local, start: Callable[..., Any], free_port: Callable[[], int], variable: str
) -> None:
    ports = {"TOCSIN_DEV_PORT": str(free_port()), "TOCSIN_DEV_SMTP_PORT": str(free_port())}
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(ports[variable])))
        other.listen()
        process = start(local.environment | ports, *WORDS)
        assert process.popen.wait(30) == 1
    assert process.text() == f"local: port {ports[variable]} is taken: set {variable} to a free one\n"


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({}, {"mail", "fcm", "web_push"}),
        ({"smtp_url": "smtps://mail.example.org"}, {"fcm", "web_push"}),
        ({"fcm_credentials": "/real.json"}, {"mail", "web_push"}),
        ({"fcm_url": "https://proxy.example.org"}, {"mail", "web_push"}),
        ({"vapid_private_key": "real"}, {"mail", "fcm"}),
        ({"push_hosts": "push.example.org"}, {"mail", "fcm"}),
        ({"smtp_url": "smtp://x", "fcm_credentials": "x", "vapid_private_key": "x"}, set()),
    ],
)
def test_what_somebody_configured_stays(tmp_path: Path, given: dict[str, str], left: set[str]) -> None:
    made = demo.variables(Settings(_env_file=None, **given), tmp_path)
    of = {
        "mail": {"TOCSIN_DEV_SMTP_PORT", "TOCSIN_SMTP_URL"},
        "fcm": {"TOCSIN_FCM_CREDENTIALS", "TOCSIN_FCM_URL"},
        "web_push": {"TOCSIN_VAPID_PRIVATE_KEY", "TOCSIN_PUSH_HOSTS"},
    }
    assert set(made) == {name for channel in left for name in of[channel]}


def test_the_page_links_follow_what_is_served(tmp_path: Path) -> None:
    config = Settings(_env_file=None, smtp_url="smtp://x")
    assert [name for name, *_ in demo.pages(config, demo.variables(config, tmp_path))] == ["Phone"]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "phone.json").write_text("{")
    with pytest.raises(TocsinError, match=r"phone\.json is damaged"):
        Phone(tmp_path / "phone.json")
    (tmp_path / "secrets.json").write_text("[]")
    with pytest.raises(TocsinError, match=r"secrets\.json is damaged"):
        demo.variables(Settings(_env_file=None), tmp_path)


def test_secrets_of_an_earlier_version_stay_and_are_completed(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text('{"TOCSIN_API_KEY": "k"}')
    demo.variables(Settings(_env_file=None), tmp_path)
    kept = json.loads((tmp_path / "secrets.json").read_text())
    assert kept["TOCSIN_API_KEY"] == "k"
    assert {"TOCSIN_VAPID_PRIVATE_KEY", "TOCSIN_LOCAL_FCM_KEY"} <= set(kept)
