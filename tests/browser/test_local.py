"""The pages of the mailbox and the phone, beside a real gateway: what arrives is seen at once and does no harm."""

import json
import os
import smtplib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
import requests
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, expect
from pywebpush import webpush

from tests.browser.conftest import Application, Gateway
from tests.conftest import ROOT
from workers.local import demo
from workers.local.phone import App, Phone
from workers.settings import Settings

pytestmark = pytest.mark.browser
WIDTHS = (320, 390, 834, 1280)
SHOP = """
<!doctype html><html><head><meta name="color-scheme" content="light dark">
<style>p {{ color: rgb(1, 2, 3) }}
@media (prefers-color-scheme: dark) {{ p {{ color: rgb(4, 5, 6) }} }}</style></head>
<body><p>Your order</p><a href="{url}/order">Open</a><img src="{url}/pixel.png" alt="">
<script>parent.document.title = document.title = "owned"</script></body></html>
"""


@dataclass
class Local:
    url: str
    home: Path
    environment: dict[str, str]

    def send_mail(self, subject: str, html: str = "<p>Hello</p>") -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = "app@example.org", "ada@example.org", subject
        message.set_content("Hello")
        message.add_alternative(html, subtype="html")
        with smtplib.SMTP("127.0.0.1", int(self.environment["TOCSIN_DEV_SMTP_PORT"])) as smtp:
            smtp.send_message(message)

    def push(self, title: str, **fields: Any) -> None:
        subscription = Phone(self.home / "phone.json").subscription
        assert subscription
        keys = {"p256dh": subscription.p256dh, "auth": subscription.auth}
        with requests.Session() as session:
            webpush(
                {"endpoint": f"{self.url}/push/{subscription.id}", "keys": keys},
                json.dumps({"title": title, "tag": title} | fields),
                self.environment["TOCSIN_VAPID_PRIVATE_KEY"],
                {"sub": "mailto:app@example.org"},
                ttl=60,
                requests_session=session,
            )


@pytest.fixture(scope="module")
def local(
    one_gateway: Gateway,
    tmp_path_factory: pytest.TempPathFactory,
    free_port: Callable[[], int],
    eventually: Callable[..., object],
) -> Iterator[Local]:
    """The process as `tocsin up` starts it, with both apps on the phone."""
    home = tmp_path_factory.mktemp("local")
    config = Settings(_env_file=None, dev_port=free_port())
    environment = os.environ | demo.variables(config, home)
    environment |= {
        "TOCSIN_HOME": str(home),
        "TOCSIN_DEVELOPMENT": "1",
        "TOCSIN_DEV_PORT": str(config.dev_port),
        "TOCSIN_API_PORT": str(free_port()),
        "TOCSIN_GATEWAY_PORT": one_gateway.environment["TOCSIN_GATEWAY_PORT"],
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.local"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )

    def ready() -> bool:
        assert process.poll() is None
        try:
            return httpx.get(f"{config.dev_url}/readyz", timeout=2).is_success
        except httpx.TransportError:
            return False

    eventually(ready, seconds=60)
    for app in App:
        httpx.post(f"{config.dev_url}/dev/phone/{app}/install", timeout=10)
    yield Local(config.dev_url, home, environment)
    process.terminate()
    assert process.wait(20) == 0


@pytest.fixture
def open_page(browser: Browser, local: Local) -> Iterator[Callable[..., Page]]:
    """open_page("/dev/mail", viewport=…, color_scheme=…): afterwards nothing may have gone wrong in a page, and
    nobody but this process may have answered one."""
    contexts, complaints, foreign = [], list[str](), list[str]()

    def hear(said: ConsoleMessage) -> None:
        if said.type == "error" and "Content Security Policy" not in said.text and "sandboxed" not in said.text:
            complaints.append(said.text)

    def notice(response: Response) -> None:
        if urlsplit(response.url).netloc != urlsplit(local.url).netloc:
            foreign.append(response.url)

    def opened(path: str, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", hear)
        page.on("response", notice)  # a request that the policy stops has none
        page.goto(local.url + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert foreign == []


@pytest.fixture
def title() -> str:
    return f"Order {uuid4().hex[:8]}"


Open = Callable[..., Page]


def test_a_mail_appears_by_itself_and_opens(local: Local, open_page: Open, title: str) -> None:
    page = open_page("/dev/mail")
    local.send_mail(title, "<p>Your order is on its way</p>")
    page.get_by_role("link", name=title).click()
    expect(page.get_by_role("heading", name=title)).to_be_visible()
    expect(page.frame_locator("iframe").get_by_text("Your order is on its way")).to_be_visible()
    page.get_by_role("link", name="Text", exact=True).click()
    expect(page.get_by_label("The mail’s text")).to_have_text("Hello")
    page.get_by_role("link", name="Headers").click()
    expect(page.get_by_role("rowheader", name="Subject")).to_be_visible()
    page.get_by_role("link", name="Source").click()
    expect(page.get_by_label("The mail’s source")).to_contain_text("Content-Type: multipart/alternative")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download .eml").click()
    assert download.value.suggested_filename.endswith(".eml")


def test_a_mail_runs_and_fetches_nothing(
    local: Local, open_page: Open, application: Application, title: str
) -> None:
    local.send_mail(title, SHOP.format(url=application.url))
    page = open_page("/dev/mail")
    page.get_by_role("link", name=title).click()
    expect(page.frame_locator("iframe").get_by_text("Your order")).to_be_visible()
    assert "owned" not in (page.title(), page.frames[1].evaluate("document.title"))
    assert page.frames[1].evaluate("document.images[0].naturalWidth") == 0


def test_a_mail_is_shown_as_in_the_dark_whatever_the_browser_is(
    local: Local, open_page: Open, application: Application, title: str
) -> None:
    local.send_mail(title, SHOP.format(url=application.url))
    for scheme in ("light", "dark"):
        page = open_page("/dev/mail", color_scheme=scheme)
        page.get_by_role("link", name=title).click()
        words = page.frame_locator("iframe").get_by_text("Your order")
        expect(words).to_have_css("color", "rgb(1, 2, 3)")
        page.get_by_role("link", name="Dark").click()
        expect(words).to_have_css("color", "rgb(4, 5, 6)")
        page.get_by_role("link", name="Light").click()
        expect(words).to_have_css("color", "rgb(1, 2, 3)")


def test_a_link_in_a_mail_opens_another_tab(
    local: Local, open_page: Open, application: Application, title: str
) -> None:
    local.send_mail(title, SHOP.format(url=application.url))
    page = open_page("/dev/mail")
    page.get_by_role("link", name=title).click()
    with page.expect_popup() as popup:
        page.frame_locator("iframe").get_by_role("link", name="Open").click()
    popup.value.wait_for_url(f"{application.url}/order")


def test_all_mails_are_deleted_at_once(local: Local, open_page: Open, title: str) -> None:
    local.send_mail(title)
    page = open_page("/dev/mail")
    page.get_by_role("button", name="Delete all").click()
    expect(page.get_by_text("No mail yet.")).to_be_visible()
    expect(page.get_by_role("button", name="Delete all")).to_be_hidden()
    local.send_mail(f"another {title}")
    expect(page.get_by_role("heading", name=f"another {title}")).to_be_visible()


def test_on_a_phone_the_list_and_the_mail_are_two_pages(local: Local, open_page: Open, title: str) -> None:
    local.send_mail(title)
    page = open_page("/dev/mail", viewport={"width": 390, "height": 844})
    expect(page.locator("iframe")).to_be_hidden()
    page.get_by_role("link", name=title).click()
    expect(page.locator("iframe")).to_be_visible()
    expect(page.locator("#mails")).to_be_hidden()
    page.get_by_role("link", name="Inbox").click()
    expect(page.locator("#mails")).to_be_visible()


def test_a_push_appears_by_itself_and_is_replaced(local: Local, open_page: Open, title: str) -> None:
    page = open_page("/dev/phone")
    local.push(title, body="On its way", badge=3)
    notice = page.locator(".notice", has_text=title)
    expect(notice).to_contain_text("On its way")
    expect(page.get_by_label("3 unread in Browser")).to_be_visible()
    local.push(title, body="Delivered", badge=4)
    expect(notice).to_contain_text("Delivered")
    expect(notice).to_have_count(1)
    expect(page.get_by_label("4 unread in Browser")).to_be_visible()
    arrived = page.locator("#log details", has_text=title).first
    arrived.locator("summary").click()
    expect(arrived.locator("pre")).to_contain_text('"body": "Delivered"')


def test_a_tap_opens_what_it_is_about(local: Local, gateway: Gateway, open_page: Open, title: str) -> None:
    page = open_page("/dev/phone")
    local.push(title, url="/posts/p-42#c-7")
    with page.expect_popup() as popup:
        page.locator(".notice", has_text=title).locator(".tap").click()
    popup.value.wait_for_url(f"{gateway.url}/posts/p-42#c-7")
    expect(page.locator(".notice", has_text=title)).to_have_count(0)


@pytest.mark.parametrize("url", ["javascript:alert(1)", "//elsewhere.example/x", "/\\elsewhere.example", None])
def test_a_tap_leads_nowhere_else(
    local: Local, gateway: Gateway, open_page: Open, title: str, url: str | None
) -> None:
    page = open_page("/dev/phone")
    local.push(title, url=url)
    with page.expect_popup() as popup:
        page.locator(".notice", has_text=title).locator(".tap").click()
    popup.value.wait_for_url(f"{gateway.url}/")


def test_a_notification_is_dismissed_with_the_keyboard(local: Local, open_page: Open, title: str) -> None:
    local.push(title)
    page = open_page("/dev/phone")
    page.get_by_role("button", name=f"Dismiss: {title}").press("Enter")
    expect(page.locator(".notice", has_text=title)).to_have_count(0)
    expect(page.locator("#notices")).to_be_visible()


def test_an_app_is_uninstalled_and_what_it_showed_is_gone(local: Local, open_page: Open, title: str) -> None:
    local.push(title)
    page = open_page("/dev/phone")
    expect(page.locator(".notice", has_text=title)).to_be_visible()
    page.get_by_role("button", name="Unsubscribe").click()
    expect(page.get_by_text("The next push is answered 410 Gone.")).to_be_visible()
    expect(page.locator(".notice", has_text=title)).to_have_count(0)
    page.get_by_role("button", name="Subscribe", exact=True).click()  # nobody is there to be told
    expect(page.get_by_role("alert")).to_contain_text("The API did not take the browser’s address")
    expect(page.get_by_role("button", name="Unsubscribe")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/dev/mail", "/dev/phone"])
def test_nothing_is_wider_than_the_screen(local: Local, open_page: Open, path: str, scheme: str) -> None:
    long = "https://example.org/" + "a" * 300
    local.send_mail(f"A long subject {'without end ' * 20} {long}")
    local.push(f"A long title {long}", body=long)
    page = open_page(path, color_scheme=scheme)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    if path == "/dev/mail":
        page.locator("#mails a").first.click()
        for view in ("html", "text", "headers", "source"):
            page.goto(page.url.partition("?")[0] + f"?view={view}")
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 800})
                assert page.evaluate("document.documentElement.scrollWidth") <= width, (view, width)
