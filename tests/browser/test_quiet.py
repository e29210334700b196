"""In quiet hours a notification is there, and nothing else happens; and who looks away is said to be away."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from schema.wire import presence_key
from tests.browser.conftest import Inboxes, Reader, Tab

pytestmark = pytest.mark.browser

WATCH = """() => {
  window.swings = 0;
  const animate = Element.prototype.animate;
  Element.prototype.animate = function (...given) { window.swings += 1; return animate.apply(this, given); };
  window.arrivals = [];
  document.addEventListener("notification", ({ detail }) => window.arrivals.push([detail.title, detail.silent]));
}"""
ALERTS = """
  window.alerts = [];
  window.Notification = class {
    static permission = "granted";
    static requestPermission = async () => "granted";
    constructor(title) { window.alerts.push(title); }
    close() {}
  };
"""
SET_VISIBILITY = """(state) => {
  Object.defineProperty(document, "visibilityState", { configurable: true, get: () => state });
  Object.defineProperty(document, "hidden", { configurable: true, get: () => state === "hidden" });
  document.dispatchEvent(new Event("visibilitychange"));
}"""

Eventually = Callable[..., object]


def visibility(tab: Tab, state: str) -> None:
    tab.page.evaluate(SET_VISIBILITY, state)


def test_what_comes_silently_is_shown_and_counted_and_nothing_else(
    reader: Callable[..., Reader], inboxes: Inboxes
) -> None:
    ada = reader("ada")
    ada.context.add_init_script(ALERTS)
    tab = ada.open().look()
    tab.page.evaluate(WATCH)
    visibility(tab, "hidden")
    inboxes.tell("ada", "at night", silent=True)
    expect(tab.badge).to_have_text("1")
    expect(tab.item("at night")).to_be_visible()
    inboxes.tell("ada", "in the morning")
    expect(tab.badge).to_have_text("2")
    expect(tab.center.get_by_role("log")).to_have_text("New notification: in the morning.")
    assert tab.page.evaluate("arrivals") == [["at night", True], ["in the morning", None]]
    assert tab.page.evaluate("alerts") == ["in the morning"]
    assert tab.page.evaluate("swings") == 1


@pytest.fixture
def here(inboxes: Inboxes) -> Callable[[str], bool]:
    return lambda user: bool(inboxes.redis.exists(presence_key(inboxes.person(user))))


def test_who_looks_is_there_and_who_looks_away_is_not(
    reader: Callable[..., Reader], here: Callable[[str], bool], eventually: Eventually
) -> None:
    tab = reader("ada").open()
    eventually(lambda: here("ada"))
    visibility(tab, "hidden")
    eventually(lambda: not here("ada"))
    visibility(tab, "visible")
    eventually(lambda: here("ada"))
    tab.page.close()
    eventually(lambda: not here("ada"))


def test_a_page_in_another_window_takes_over(
    reader: Callable[..., Reader], here: Callable[[str], bool], eventually: Eventually
) -> None:
    """The tab that was looked at last is hidden, and the one beside it was in sight all the time."""
    ada = reader("ada")
    first, second = ada.open(), ada.open()
    eventually(lambda: here("ada"))
    with first.page.expect_request(lambda asked: "/stream?" in asked.url and "visible=true" in asked.url):
        visibility(second, "hidden")
    visibility(first, "hidden")
    eventually(lambda: not here("ada"))
