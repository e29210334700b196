"""Usable with the keyboard, with a screen reader, on a phone; and it never asks for a permission by itself."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Inboxes, Reader

pytestmark = pytest.mark.browser

# Headless Chromium shows no alerts of its own: what the page asks the browser for is written down instead.
WATCH_ALERTS = """
  window.asked = 0;
  window.alerts = [];
  window.Notification = class {
    static permission = "default";
    static async requestPermission() {
      window.asked += 1;
      return (this.permission = "granted");
    }
    constructor(title, options) { window.alerts.push({ title, ...options }); }
  };
"""
HIDE = "Object.defineProperty(document, 'hidden', { get: () => true, configurable: true })"


def test_the_keyboard_is_enough(
    reader: Callable[..., Reader], inboxes: Inboxes, eventually: Callable[..., object]
) -> None:
    first, second = inboxes.tell("ada", "first"), inboxes.tell("ada", "second")
    tab = reader("ada").open()
    keys = tab.page.keyboard
    tab.bell.focus()
    keys.press("Enter")
    expect(tab.panel).to_be_focused()
    expect(tab.items).to_have_count(2)
    keys.press("ArrowDown")
    expect(tab.item("second").locator(".opener")).to_be_focused()
    keys.press("ArrowDown")
    expect(tab.item("first").locator(".opener")).to_be_focused()
    keys.press("Tab")
    expect(tab.item("first").get_by_role("button", name="Mark as read")).to_be_focused()
    keys.press("Enter")
    expect(tab.unread_items).to_have_count(1)
    expect(tab.item("first").locator(".opener")).to_be_focused()
    keys.press("Tab")
    expect(tab.item("first").get_by_role("button", name="Archive")).to_be_focused()
    keys.press("Enter")
    expect(tab.items).to_have_count(1)
    expect(tab.item("second").locator(".opener")).to_be_focused()
    keys.press("Escape")
    expect(tab.panel).to_be_hidden()
    expect(tab.bell).to_be_focused()
    eventually(lambda: inboxes.is_set(first, "archived_at"))
    assert not inboxes.is_set(second, "read_at")


def test_a_screen_reader_is_told(reader: Callable[..., Reader], inboxes: Inboxes) -> None:
    inboxes.tell("ada", "New message from Bob", "Lunch at noon?")
    tab = reader("ada").open()
    bell = tab.page.get_by_role("button", name="Notifications, 1 unread")
    expect(bell).to_have_attribute("aria-expanded", "false")
    bell.click()
    expect(bell).to_have_attribute("aria-expanded", "true")
    dialog = tab.page.get_by_role("dialog", name="Notifications")
    expect(dialog.get_by_role("list", name="Notifications").get_by_role("listitem")).to_have_count(1)
    expect(dialog.get_by_role("link", name="Unread: New message from Bob")).to_be_visible()
    expect(dialog.get_by_role("button", name="Mark as read: New message from Bob")).to_have_count(1)
    assert tab.items.locator("time").get_attribute("datetime")
    tab.page.mouse.click(5, 500)
    expect(dialog).to_be_hidden()
    expect(bell).to_have_attribute("aria-expanded", "false")


def test_a_burst_is_announced_as_one(reader: Callable[..., Reader], inboxes: Inboxes) -> None:
    tab = reader("ada").open()
    for number in range(5):
        inboxes.tell("ada", f"number {number}")
    expect(tab.center.get_by_role("log")).to_have_text("5 new notifications")


def test_a_phone_gets_a_sheet(reader: Callable[..., Reader], inboxes: Inboxes) -> None:
    inboxes.tell("ada", "first")
    ada = reader("ada", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    tab = ada.open()
    tab.bell.tap()
    expect(tab.items).to_have_count(1)
    tab.panel.evaluate("panel => Promise.all(panel.getAnimations().map((animation) => animation.finished))")
    assert tab.panel.bounding_box() == {"x": 0, "y": 0, "width": 390, "height": 844}
    tab.item("first").get_by_role("button", name="Mark as read").tap()
    expect(tab.unread_items).to_have_count(0)
    tab.center.get_by_role("button", name="Close").tap()
    expect(tab.panel).to_be_hidden()
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_page_chooses_light_or_dark(reader: Callable[..., Reader]) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        tab = reader("ada", color_scheme=scheme).open().look()
        grounds.add(tab.panel.evaluate("panel => getComputedStyle(panel).backgroundColor"))
    assert len(grounds) == 2


def test_alerts_are_asked_for_on_a_click_and_shown_to_nobody_who_looks(
    reader: Callable[..., Reader], inboxes: Inboxes
) -> None:
    ada = reader("ada")
    ada.context.add_init_script(WATCH_ALERTS)
    tab = ada.open().look()
    inboxes.tell("ada", "not allowed yet")
    expect(tab.items).to_have_count(1)
    assert tab.page.evaluate("asked") == 0
    tab.center.get_by_role("button", name="Show alerts on this device").click()
    expect(tab.center.get_by_role("button", name="Show alerts on this device")).to_be_hidden()
    assert tab.page.evaluate("asked") == 1

    inboxes.tell("ada", "in sight")
    expect(tab.items).to_have_count(2)
    assert tab.page.evaluate("alerts") == []

    tab.page.evaluate(HIDE)
    item = inboxes.tell("ada", "out of sight", "Lunch at noon?")
    expect(tab.items).to_have_count(3)
    (alert,) = tab.page.evaluate("alerts")
    assert (alert["title"], alert["body"], alert["tag"]) == ("out of sight", "Lunch at noon?", str(item.id))
