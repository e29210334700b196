"""Reading, opening and putting away: on this tab, in the database, and on every other tab."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Inboxes, Reader

pytestmark = pytest.mark.browser

Eventually = Callable[..., object]


def test_marking_one_as_read_opens_nothing(
    reader: Callable[..., Reader], inboxes: Inboxes, eventually: Eventually
) -> None:
    first, second = inboxes.tell("ada", "first"), inboxes.tell("ada", "second")
    tab = reader("ada").open().look()
    tab.item("first").hover()
    tab.item("first").get_by_role("button", name="Mark as read").click()
    expect(tab.unread_items).to_have_count(1)
    expect(tab.badge).to_have_text("1")
    expect(tab.panel).to_be_visible()
    eventually(lambda: inboxes.is_set(first, "read_at"))
    assert not inboxes.is_set(first, "clicked_at")
    assert not inboxes.is_set(second, "read_at")
    assert inboxes.unread("ada") == 1


def test_a_second_tab_follows(reader: Callable[..., Reader], inboxes: Inboxes) -> None:
    for title in ("first", "second", "third"):
        inboxes.tell("ada", title)
    ada = reader("ada")
    here, there = ada.open().look(), ada.open().look()
    expect(there.unread_items).to_have_count(3)
    here.item("first").hover()
    here.item("first").get_by_role("button", name="Mark as read").click()
    expect(there.unread_items).to_have_count(2)
    expect(there.badge).to_have_text("2")
    here.center.get_by_role("button", name="Mark all as read").click()
    expect(there.unread_items).to_have_count(0)
    expect(there.badge).to_be_hidden()


def test_another_device_follows(reader: Callable[..., Reader], inboxes: Inboxes) -> None:
    inboxes.tell("ada", "first")
    laptop, phone = reader("ada").open().look(), reader("ada").open().look()
    laptop.item("first").hover()
    laptop.item("first").get_by_role("button", name="Archive").click()
    expect(phone.items).to_have_count(0)
    expect(phone.badge).to_be_hidden()


def test_marking_all_as_read(reader: Callable[..., Reader], inboxes: Inboxes, eventually: Eventually) -> None:
    for number in range(25):
        inboxes.tell("ada", f"number {number}")
    tab = reader("ada").open().look()
    expect(tab.badge).to_have_text("25")
    tab.center.get_by_role("button", name="Mark all as read").click()
    expect(tab.unread_items).to_have_count(0)
    expect(tab.badge).to_be_hidden()
    expect(tab.center.get_by_role("button", name="Mark all as read")).to_be_hidden()
    eventually(lambda: inboxes.read_rows("ada") == 25)
    assert inboxes.unread("ada") == 0


def test_a_click_follows_the_address_and_says_so(
    reader: Callable[..., Reader], inboxes: Inboxes, eventually: Eventually
) -> None:
    item = inboxes.tell("ada", "3 new comments", action_url="/notifications?type=comment")
    tab = reader("ada").open().look()
    tab.item("3 new comments").get_by_role("link").click()
    tab.page.wait_for_url("**/notifications?type=comment")
    eventually(lambda: inboxes.is_set(item, "clicked_at") and inboxes.is_set(item, "read_at"))
    expect(tab.badge).to_be_hidden()


def test_the_page_may_open_it_itself(
    reader: Callable[..., Reader], inboxes: Inboxes, eventually: Eventually
) -> None:
    """This page does so with what only the application has: it says where the click would lead."""
    item = inboxes.tell("ada", "New message", action_url="/messages/m-9")
    tab = reader("ada").open().look()
    tab.item("New message").get_by_role("link").click()
    expect(tab.page.get_by_text("In your application this opens /messages/m-9")).to_be_visible()
    expect(tab.panel).to_be_hidden()
    eventually(lambda: inboxes.is_set(item, "clicked_at"))
    assert tab.page.url.endswith("/")


def test_archived_is_gone_for_good(
    reader: Callable[..., Reader], inboxes: Inboxes, eventually: Eventually
) -> None:
    item = inboxes.tell("ada", "old")
    inboxes.tell("ada", "new")
    tab = reader("ada").open().look()
    tab.item("old").hover()
    tab.item("old").get_by_role("button", name="Archive").click()
    expect(tab.center.locator(".item-title")).to_have_text(["new"])
    expect(tab.badge).to_have_text("1")
    eventually(lambda: inboxes.is_set(item, "archived_at"))
    tab.page.reload()
    tab.look()
    expect(tab.center.locator(".item-title")).to_have_text(["new"])


def test_what_the_server_refuses_is_taken_back_and_said(reader: Callable[..., Reader], inboxes: Inboxes) -> None:
    ada = reader("ada")
    ada.expected = "503"
    inboxes.tell("ada", "first")
    tab = ada.open().look()
    tab.page.route("**/read", lambda route: route.fulfill(status=503, json={"detail": "the database is away"}))
    tab.item("first").hover()
    tab.item("first").get_by_role("button", name="Mark as read").click()
    expect(tab.center.get_by_role("alert")).to_contain_text("That did not work: the database is away.")
    expect(tab.unread_items).to_have_count(1)


def test_older_pages_follow_without_gap_or_double(reader: Callable[..., Reader], inboxes: Inboxes) -> None:
    for number in range(45):
        inboxes.tell("ada", f"number {number}", publish=False)
    tab = reader("ada").open().look()
    expect(tab.items).to_have_count(20)
    inboxes.tell("ada", "came between")
    expect(tab.items).to_have_count(21)
    for shown in (41, 46):
        tab.center.get_by_role("button", name="Show older").click()
        expect(tab.items).to_have_count(shown)
    expect(tab.center.get_by_role("button", name="Show older")).to_be_hidden()
    assert tab.center.locator(".item-title").all_inner_texts() == [
        "came between",
        *(f"number {number}" for number in reversed(range(45))),
    ]


def test_only_unread_and_only_one_type(reader: Callable[..., Reader], inboxes: Inboxes) -> None:
    inboxes.tell("ada", "a comment", type="comment", category="social")
    inboxes.tell("ada", "a message")
    ada = reader("ada")
    tab = ada.open("/notifications?type=comment")
    titles = tab.center.locator(".item-title")
    expect(titles).to_have_text(["a comment"])
    inboxes.tell("ada", "another message")
    expect(tab.badge).to_have_text("3")
    expect(titles).to_have_text(["a comment"])
    tab.center.get_by_role("button", name="Only comment").click()
    expect(titles).to_have_text(["another message", "a message", "a comment"])
    tab.item("a comment").hover()
    tab.item("a comment").get_by_role("button", name="Mark as read").click()
    expect(tab.unread_items).to_have_count(2)
    tab.center.get_by_role("button", name="Unread", exact=True).click()
    expect(titles).to_have_text(["another message", "a message"])


def test_preferences_are_kept(reader: Callable[..., Reader], inboxes: Inboxes, eventually: Eventually) -> None:
    tab = reader("ada").open()
    email = tab.page.get_by_label("comments: email")
    expect(email).not_to_be_checked()
    email.check()
    expect(tab.page.get_by_text("Saved.")).to_be_visible()
    tab.page.get_by_label("likes: all").uncheck()
    eventually(lambda: inboxes.refuses("ada", "like"))
    tab.page.reload()
    expect(email).to_be_checked()
    expect(tab.page.get_by_label("likes: all")).not_to_be_checked()
    expect(tab.page.get_by_label("comments: web")).to_be_checked()
