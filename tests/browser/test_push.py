"""Web push in the browser: the page's switch, and what its service worker shows.

Headless Chromium has no push service. What the browser would answer is put in its place where a test needs a
subscription (SUBSCRIBES); messages then come through the browser's own debugging protocol, which wakes the real
service worker as a push service would.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Route, Worker, expect

from tests.browser.conftest import Gateway, Inboxes, Reader, Tab
from tests.conftest import ROOT
from workers import vapid

pytestmark = pytest.mark.browser

SUBSCRIBES = """
  const kept = () => JSON.parse(localStorage.subscription ?? "null");
  const bytes = (text) =>
    Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  const subscription = ({ address, key }) => ({
    options: { applicationServerKey: bytes(key).buffer },
    toJSON: () => ({
      endpoint: address,
      expirationTime: null,
      keys: { p256dh: key, auth: "AAAAAAAAAAAAAAAAAAAAAA" },
    }),
    unsubscribe: async () => (localStorage.removeItem("subscription"), true),
  });
  PushManager.prototype.getSubscription = async () => kept() && subscription(kept());
  PushManager.prototype.subscribe = async ({ applicationServerKey: key }) => {
    localStorage.subscription = JSON.stringify({ key, address: `https://HOST/x/${crypto.randomUUID()}` });
    return subscription(kept());
  };
"""
NEVER_ANSWERS = """() => {
  PushManager.prototype.subscribe = () => {
    window.asked = true;
    return new Promise(() => {});
  };
}"""
SHOWN = """
  navigator.serviceWorker.getRegistration("/static/")
    .then((registration) => registration?.getNotifications() ?? [])
    .then((shown) => shown.map(({ title, body, tag, data }) => ({ title, body, tag, ...data })))
"""
# A test may not make a trusted event, and only one of those keeps a worker awake.
TOLD = """
  async (name, properties) => {
    const event = Object.assign(new Event(name), properties);
    const waited = [];
    event.waitUntil = (promise) => waited.push(promise);
    dispatchEvent(event);
    await Promise.all(waited);
  }
"""
CLICKED = f"""
  async (url) => {{
    const asked = [];
    clients.openWindow = async (there) => asked.push(["open", there]);
    WindowClient.prototype.focus = async function () {{ asked.push(["focus", this.url]); }};
    const notification = {{ data: {{ url }}, close: () => asked.push(["close"]) }};
    await ({TOLD})("notificationclick", {{ notification }});
    return asked;
  }}
"""
RENEWED = f"""
  (address) => ({TOLD})("pushsubscriptionchange", {{
    oldSubscription: {{ options: {{ applicationServerKey: null }} }},
    newSubscription: {{
      toJSON: () => ({{ endpoint: address, keys: {{ p256dh: "KEY", auth: "AAAAAAAAAAAAAAAAAAAAAA" }} }}),
    }},
  }})
"""

ASTRAY = ["//evil.example/", "/\\evil.example/", "/\t/evil.example/", "javascript:alert(1)", "data:text/html,x"]
ASTRAY += ["https://[", " /x", ""]


@pytest.fixture(scope="module", autouse=True)
def public_key(one_gateway: Gateway) -> Iterator[str]:
    """The gateway of this module has a key for web push."""
    usual = dict(one_gateway.environment)
    one_gateway.kill()
    private, public = vapid.generate()
    one_gateway.environment["TOCSIN_VAPID_PRIVATE_KEY"] = private
    yield public
    one_gateway.kill()
    one_gateway.environment = usual


@dataclass
class Switch:
    """The page's switch, in a browser that may show notifications, and the rows behind it."""

    reader: Reader
    tab: Tab
    inboxes: Inboxes

    def __post_init__(self) -> None:
        self.box = self.tab.page.get_by_role("switch", name="Push on this device")
        self.note = self.tab.page.locator("push-switch").get_by_role("status")

    def turn(self, on: bool) -> "Switch":
        self.box.set_checked(on)
        expect(self.note).to_contain_text("gets your push" if on else "gets no push")
        return self

    def rows(self, user: str) -> list[Any]:
        query = "SELECT kind, address, keys FROM devices WHERE user_id = %s"
        return self.inboxes.database.execute(query, (self.inboxes.person(user),)).fetchall()

    def subscription(self) -> Any:
        return json.loads(self.tab.page.evaluate("localStorage.subscription ?? 'null'"))

    def worker(self) -> Worker:
        (worker,) = self.reader.context.service_workers
        return worker

    def push(self, message: object) -> None:
        """As if the push service had brought it."""
        cdp = self.reader.context.new_cdp_session(self.tab.page)
        seen: list[Any] = []
        cdp.on("ServiceWorker.workerRegistrationUpdated", lambda told: seen.extend(told["registrations"]))
        cdp.send("ServiceWorker.enable")
        origin = self.reader.gateway.url
        ours = f"{origin}/static/"
        numbers: list[str] = []
        for _ in range(500):
            self.tab.page.evaluate("1")  # events are told meanwhile
            if numbers := [one["registrationId"] for one in seen if one["scopeURL"] == ours]:
                break
        data = message if isinstance(message, str) else json.dumps(message)
        facts = {"origin": origin, "registrationId": numbers[0], "data": data}
        cdp.send("ServiceWorker.deliverPushMessage", facts)
        cdp.detach()

    def shown(self) -> list[Any]:
        found: list[Any] = self.tab.page.evaluate(SHOWN)
        return found


@pytest.fixture
def switch(reader: Callable[..., Reader], inboxes: Inboxes, gateway: Gateway) -> Callable[..., Switch]:
    """switch("ada", host=…): with a subscription at that push service; with host "" as Chromium is by itself."""

    def opened(user: str, host: str = "fcm.googleapis.com", *, permission: bool = True, **options: Any) -> Switch:
        made = reader(user, **options)
        if permission:
            made.context.grant_permissions(["notifications"], origin=gateway.url)
        if host:
            made.context.add_init_script(SUBSCRIBES.replace("HOST", host))
        return Switch(made, made.open(), inboxes)

    return opened


def test_turning_it_on_registers_this_browser_and_off_removes_it(
    switch: Callable[..., Switch], public_key: str
) -> None:
    ada = switch("ada")
    expect(ada.box).not_to_be_checked()
    ada.turn(True)
    subscription = ada.subscription()
    keys = {"p256dh": public_key, "auth": "A" * 22}
    assert ada.rows("ada") == [("web_push", subscription["address"], keys)]
    assert subscription["key"] == public_key
    ada.turn(False)
    assert (ada.rows("ada"), ada.subscription()) == ([], None)


def test_the_keyboard_is_enough(switch: Callable[..., Switch]) -> None:
    ada = switch("ada")
    ada.box.focus()
    ada.tab.page.keyboard.press("Space")
    expect(ada.note).to_contain_text("gets your push")
    expect(ada.box).to_be_focused()
    assert len(ada.rows("ada")) == 1


def test_each_visit_refreshes(
    switch: Callable[..., Switch], inboxes: Inboxes, eventually: Callable[..., object]
) -> None:
    ada = switch("ada").turn(True)
    address = ada.subscription()["address"]
    aged = "UPDATE devices SET refreshed_at = now() - interval '99 days' WHERE address = %s"
    inboxes.database.execute(aged, (address,))
    ada.tab.page.reload()
    expect(ada.box).to_be_checked()
    fresh = "SELECT 1 FROM devices WHERE address = %s AND refreshed_at > now() - interval '1 day'"
    eventually(lambda: inboxes.database.execute(fresh, (address,)).fetchone())
    expect(ada.box).to_be_enabled()
    ada.turn(False)
    assert ada.rows("ada") == []


def test_who_signs_in_next_takes_the_browser_over(
    switch: Callable[..., Switch],
    gateway: Gateway,
    person: Callable[[str], str],
    eventually: Callable[..., object],
) -> None:
    ada = switch("ada").turn(True)
    ada.reader.context.request.post(
        f"{gateway.url}/dev/token", data={"user": person("bob")}, headers={"Origin": gateway.url}
    )
    ada.tab.page.reload()
    expect(ada.box).to_be_checked()
    eventually(lambda: len(ada.rows("bob")) == 1)
    assert ada.rows("ada") == []


def test_a_new_key_needs_a_new_subscription(
    switch: Callable[..., Switch], public_key: str, eventually: Callable[..., object]
) -> None:
    ada = switch("ada").turn(True)
    before = ada.subscription()
    stale = json.dumps(before | {"key": vapid.generate()[1]})
    ada.tab.page.evaluate("stale => (localStorage.subscription = stale)", stale)
    ada.tab.page.reload()
    eventually(lambda: len(ada.rows("ada")) == 2)  # the push service says that the first is gone
    after = ada.subscription()
    assert after["key"] == public_key
    assert {address for _, address, _ in ada.rows("ada")} == {before["address"], after["address"]}


def test_what_the_browser_cannot_do_is_said_in_plain_words(switch: Callable[..., Switch]) -> None:
    """Headless Chromium's own refusal to subscribe."""
    ada = switch("ada", host="")
    ada.reader.expected = "incognito"
    ada.box.click()
    expect(ada.note).to_have_text(
        "Push could not be turned on: this browser cannot reach its push service. Try again later."
    )
    expect(ada.box).not_to_be_checked()
    assert ada.rows("ada") == []


def test_a_push_service_that_does_not_answer_is_not_waited_for(
    switch: Callable[..., Switch], eventually: Callable[..., object]
) -> None:
    ada = switch("ada")
    ada.tab.page.clock.install()
    ada.tab.page.evaluate(NEVER_ANSWERS)
    ada.box.check()
    expect(ada.note).to_have_text("One moment…")
    eventually(lambda: ada.tab.page.evaluate("window.asked"))
    ada.tab.page.clock.fast_forward(20_001)
    expect(ada.note).to_contain_text("cannot reach its push service")
    expect(ada.box).not_to_be_checked()


def test_what_the_gateway_refuses_is_taken_back(switch: Callable[..., Switch]) -> None:
    ada = switch("ada", host="push.evil.example")
    ada.reader.expected = "422"
    ada.box.click()
    expect(ada.note).to_contain_text("That did not work")
    expect(ada.box).not_to_be_checked()
    assert (ada.rows("ada"), ada.subscription()) == ([], None)


def test_what_is_blocked_is_said_before_and_after(switch: Callable[..., Switch]) -> None:
    ada = switch("ada", permission=False)
    ada.box.click()
    expect(ada.note).to_have_text("Notifications are blocked in the browser’s settings for this site.")
    expect(ada.box).not_to_be_checked()
    ada.tab.page.reload()
    expect(ada.note).to_have_text("Notifications are blocked in the browser’s settings for this site.")


def test_a_browser_without_push_says_so(switch: Callable[..., Switch]) -> None:
    ada = switch("ada", host="")
    ada.reader.context.add_init_script("delete window.PushManager")
    ada.tab.page.reload()
    expect(ada.note).to_contain_text("This browser takes no push notifications")
    expect(ada.box).to_be_disabled()


@pytest.fixture
def without_push(one_gateway: Gateway) -> Iterator[None]:
    key = one_gateway.environment.pop("TOCSIN_VAPID_PRIVATE_KEY")
    one_gateway.kill()
    yield
    one_gateway.kill()
    one_gateway.environment["TOCSIN_VAPID_PRIVATE_KEY"] = key


def test_without_web_push_there_is_no_switch(without_push: None, reader: Callable[..., Reader]) -> None:
    tab = reader("ada").open()
    expect(tab.page.locator("push-switch")).to_have_count(1)
    expect(tab.page.locator("push-switch")).to_be_hidden()


def test_it_needs_no_exception_from_a_strict_policy(switch: Callable[..., Switch], gateway: Gateway) -> None:
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " require-trusted-types-for 'script'"
    )

    def with_policy(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, headers=answer.headers | {"content-security-policy": policy})

    ada = switch("ada")
    ada.reader.context.route(f"{gateway.url}/", with_policy)
    ada.tab.page.reload()
    ada.turn(True)
    assert len(ada.rows("ada")) == 1


# The service worker.

MESSAGE = {
    "title": "New comment",
    "body": "Bob: <b>Great post!</b>",
    "tag": "n-1",
    "url": "/posts/p-42",
    "notificationId": "n-1",
    "type": "comment",
    "badge": 3,
    "replaces": [],
}


def test_a_push_is_shown(switch: Callable[..., Switch], eventually: Callable[..., object]) -> None:
    ada = switch("ada").turn(True)
    ada.push(MESSAGE)
    (shown,) = eventually(ada.shown)
    assert shown == {name: MESSAGE[name] for name in ("title", "body", "tag", "url", "notificationId", "type")}


def test_a_group_takes_the_place_of_what_was_told_before(
    switch: Callable[..., Switch], eventually: Callable[..., object]
) -> None:
    ada = switch("ada").turn(True)
    for tag in ("n-1", "n-2", "n-3"):
        ada.push(MESSAGE | {"tag": tag})
        eventually(lambda tag=tag: tag in {one["tag"] for one in ada.shown()})
    ada.push(MESSAGE | {"tag": "g-1", "title": "3 new comments", "replaces": ["n-1", "n-2", "n-9", "g-1"]})
    eventually(lambda: {one["tag"] for one in ada.shown()} == {"g-1", "n-3"})
    ada.push(MESSAGE | {"tag": "g-1", "title": "4 new comments"})
    eventually(lambda: {one["title"] for one in ada.shown()} == {"4 new comments", "New comment"})
    assert len(ada.shown()) == 2


def test_whatever_comes_something_is_shown(
    switch: Callable[..., Switch], eventually: Callable[..., object]
) -> None:
    """Browsers unsubscribe who shows nothing."""
    ada = switch("ada").turn(True)
    messages = ["", "no JSON", "{}", '{"title": ""}', "null", "[]", "5"]
    messages.append('{"title": 5, "badge": "x", "body": null, "replaces": null}')
    for count, message in enumerate(messages, 1):
        ada.push(message)
        eventually(lambda count=count: len(ada.shown()) == count)
    assert {(one["title"], one["body"]) for one in ada.shown()} == {("New notification", ""), ("5", "")}


def test_a_click_opens_its_address(switch: Callable[..., Switch], gateway: Gateway) -> None:
    worker = switch("ada").turn(True).worker()
    for url in ("/posts/p-42#c-1", "https://app.example/posts?a=b"):
        whole = url if url.startswith("https") else gateway.url + url
        assert worker.evaluate(CLICKED, url) == [["close"], ["open", whole]]
    for url in (*ASTRAY, None):
        assert worker.evaluate(CLICKED, url) == [["close"], ["open", f"{gateway.url}/notifications"]], url


def test_a_click_goes_to_the_tab_that_is_there(switch: Callable[..., Switch], gateway: Gateway) -> None:
    ada = switch("ada").turn(True)
    assert ada.worker().evaluate(CLICKED, "/") == [["close"], ["focus", f"{gateway.url}/"]]


def test_a_new_address_of_the_browser_is_registered(switch: Callable[..., Switch], public_key: str) -> None:
    ada = switch("ada").turn(True)
    address = "https://fcm.googleapis.com/fcm/send/" + ada.inboxes.person("new")
    ada.worker().evaluate(RENEWED.replace("KEY", public_key), address)
    assert address in {kept for _, kept, _ in ada.rows("ada")}


def test_the_worker_is_small() -> None:
    source = (ROOT / "workers/gateway/static/service-worker.js").read_bytes()
    assert len(gzip.compress(source)) <= 2048


def test_the_switch_fits_a_phone_and_the_dark(switch: Callable[..., Switch]) -> None:
    ada = switch("ada", viewport={"width": 320, "height": 700}, color_scheme="dark").turn(True)
    page = ada.tab.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    colour = page.locator("push-switch .note").evaluate("note => getComputedStyle(note).color")
    assert min(map(int, re.findall(r"\d+", colour)[:3])) > 127
