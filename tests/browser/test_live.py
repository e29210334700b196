"""What happens on the server is on the screen, without a reload and exactly once."""

import re
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Gateway, Inboxes, Reader

pytestmark = pytest.mark.browser

COUNT_ARRIVALS = """() => {
  window.arrivals = [];
  document.addEventListener("notification", (event) => window.arrivals.push(event.detail.title));
}"""


def connections(gateway: Gateway) -> int:
    found = re.search(
        r'^tocsin_gateway_connections\{transport="sse"\} (\d+)', httpx.get(f"{gateway.url}/metrics").text, re.M
    )
    return int(found[1]) if found else 0


def test_a_notification_appears_by_itself(reader: Callable[..., Reader], inboxes: Inboxes) -> None:
    tab = reader("ada").open()
    expect(tab.badge).to_be_hidden()
    tab.look()
    expect(tab.panel.get_by_text("You’re all caught up")).to_be_visible()

    inboxes.tell("ada", "New message from Bob", "Lunch at noon?")

    expect(tab.badge).to_have_text("1")
    expect(tab.unread_items).to_have_count(1)
    expect(tab.item("New message from Bob")).to_contain_text("Lunch at noon?")
    expect(tab.item("New message from Bob").locator("time")).to_have_text("now")
    expect(tab.center.get_by_role("log")).to_have_text("New notification: New message from Bob. Lunch at noon?")
    expect(tab.page).to_have_title("(1) Tocsin")


def test_the_newest_is_on_top(reader: Callable[..., Reader], inboxes: Inboxes) -> None:
    for number in range(3):
        inboxes.tell("ada", f"before {number}")
    tab = reader("ada").open().look()
    inboxes.tell("ada", "after")
    expect(tab.center.locator(".item-title")).to_have_text(["after", "before 2", "before 1", "before 0"])


def test_the_badge_shows_no_more_than_99(reader: Callable[..., Reader], inboxes: Inboxes) -> None:
    inboxes.tell("ada", "one of many")
    inboxes.pretend_unread("ada", 120)
    tab = reader("ada").open()
    expect(tab.badge).to_have_text("99+")
    expect(tab.page.get_by_role("button", name="Notifications, 120 unread")).to_be_visible()


def test_a_group_takes_the_place_of_its_first_members(reader: Callable[..., Reader], inboxes: Inboxes) -> None:
    kind = {"type": "comment", "category": "social"}
    leading = [inboxes.tell("ada", f"New comment from {name}", **kind) for name in ("Bob", "Kim")]
    other = inboxes.tell("ada", "New message from Zoe")
    tab = reader("ada").open().look()
    expect(tab.items).to_have_count(3)

    inboxes.gather("ada", leading, ["New comment from Lin"], "3 new comments")

    expect(tab.center.locator(".item-title")).to_have_text(["3 new comments", other.title])
    expect(tab.badge).to_have_text("2")
    expand = tab.item("3 new comments").get_by_role("button", name="Show all 3")
    expect(expand).to_have_attribute("aria-expanded", "false")
    expand.click()
    members = tab.center.locator(".member .item-title")
    expect(members).to_have_count(3)
    assert sorted(members.all_inner_texts()) == [f"New comment from {name}" for name in ("Bob", "Kim", "Lin")]
    less = tab.center.get_by_role("button", name="Show less")
    expect(less).to_have_attribute("aria-expanded", "true")
    less.click()
    expect(members).to_have_count(0)


def test_what_came_while_the_gateway_was_dead_arrives_once(
    reader: Callable[..., Reader], inboxes: Inboxes, gateway: Gateway
) -> None:
    ada = reader("ada")
    ada.expected = "ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION_RESET"
    inboxes.tell("ada", "before")
    tab = ada.open().look()
    tab.page.evaluate(COUNT_ARRIVALS)
    inboxes.tell("ada", "seen")
    expect(tab.items).to_have_count(2)

    gateway.kill()
    expect(tab.center.get_by_text("Reconnecting…")).to_be_visible()
    inboxes.tell("ada", "missed")
    gateway.start()

    expect(tab.center.locator(".item-title")).to_have_text(["missed", "seen", "before"], timeout=40_000)
    expect(tab.badge).to_have_text("3")
    expect(tab.center.get_by_text("Reconnecting…")).to_be_hidden()
    inboxes.tell("ada", "after")
    expect(tab.items).to_have_count(4)
    assert tab.page.evaluate("window.arrivals") == ["seen", "missed", "after"]


def test_being_offline_is_said_and_ends_by_itself(reader: Callable[..., Reader], inboxes: Inboxes) -> None:
    ada = reader("ada")
    ada.expected = "ERR_INTERNET_DISCONNECTED|ERR_NETWORK_CHANGED"
    tab = ada.open().look()
    ada.context.set_offline(True)
    expect(tab.center.get_by_text("You are offline.")).to_be_visible()
    inboxes.tell("ada", "waited")
    ada.context.set_offline(False)
    expect(tab.item("waited")).to_be_visible()
    expect(tab.center.get_by_text("You are offline.")).to_be_hidden()


def test_ten_tabs_share_one_connection(
    reader: Callable[..., Reader], inboxes: Inboxes, gateway: Gateway, eventually: Callable[..., object]
) -> None:
    """A browser opens six connections per host over HTTP/1.1: with one per tab the seventh would wait for ever."""
    ada = reader("ada")
    tabs = [ada.open() for _ in range(10)]
    eventually(lambda: connections(gateway) == 1)
    inboxes.tell("ada", "to all")
    for tab in tabs:
        expect(tab.badge).to_have_text("1")

    tabs.pop().page.close()
    inboxes.tell("ada", "to all that are left")
    for tab in tabs:
        expect(tab.badge).to_have_text("2")
    eventually(lambda: connections(gateway) == 1)


def test_two_people_hear_only_their_own(reader: Callable[..., Reader], inboxes: Inboxes) -> None:
    ada, bob = reader("ada").open(), reader("bob").open()
    bob.page.evaluate(COUNT_ARRIVALS)
    inboxes.tell("ada", "for Ada")
    expect(ada.badge).to_have_text("1")
    inboxes.tell("bob", "for Bob")
    expect(bob.badge).to_have_text("1")
    bob.look()
    expect(bob.center.locator(".item-title")).to_have_text(["for Bob"])
    assert bob.page.evaluate("window.arrivals") == ["for Bob"]
