"""What comes from others does no harm, and who is not signed in sees nothing."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.browser.conftest import Application, Gateway, Inboxes, Reader, Tab

pytestmark = pytest.mark.browser

HOSTILE = '<img src=x onerror="document.title=\'taken\'"><script>document.title="taken"</script>'


def test_hostile_text_is_shown_as_it_is(reader: Callable[..., Reader], inboxes: Inboxes) -> None:
    tab = reader("ada").open().look()
    inboxes.tell("ada", HOSTILE, HOSTILE)
    expect(tab.center.locator(".item-title")).to_have_text(HOSTILE)
    expect(tab.center.locator(".body .item-message")).to_have_text(HOSTILE)
    expect(tab.page).to_have_title("(1) Tocsin")
    assert tab.center.locator("img, script").count() == 0


@pytest.mark.parametrize(
    "address",
    [
        "javascript:document.title='taken'",
        " javascript:document.title='taken'",
        "//evil.test/",
        "/\\evil.test/",
        "/\t/evil.test/",
        "data:text/html,x",
        "evil.test",
    ],
)
def test_an_address_that_leads_astray_is_not_followed(
    address: str, reader: Callable[..., Reader], inboxes: Inboxes
) -> None:
    inboxes.tell("ada", "Click me", action_url=address)
    tab = reader("ada").open().look()
    opener = tab.item("Click me").locator(".opener")
    expect(opener).to_be_visible()
    assert opener.get_attribute("href") is None
    opener.click()
    expect(tab.badge).to_be_hidden()
    expect(tab.page).to_have_title("Tocsin")


@pytest.mark.parametrize("address", ["https://example.com/a?b=c", "/posts/p-42#comment-c-7"])
def test_an_address_of_this_site_or_the_web_is(
    address: str, reader: Callable[..., Reader], inboxes: Inboxes, gateway: Gateway
) -> None:
    inboxes.tell("ada", "Click me", action_url=address)
    tab = reader("ada").open().look()
    whole = address if address.startswith("https") else gateway.url + address
    expect(tab.item("Click me").get_by_role("link")).to_have_attribute("href", whole)


def test_the_page_needs_no_exception_from_a_strict_policy(
    reader: Callable[..., Reader], inboxes: Inboxes, gateway: Gateway
) -> None:
    """The reader fails on every complaint of the console; a violated policy is one."""
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " require-trusted-types-for 'script'"
    )
    ada = reader("ada")

    def with_policy(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, headers=answer.headers | {"content-security-policy": policy})

    ada.context.route(f"{gateway.url}/", with_policy)
    inboxes.tell("ada", "Click me")
    tab = ada.open().look()
    expect(tab.items).to_have_count(1)
    assert tab.panel.evaluate("panel => getComputedStyle(panel).position") == "fixed"


def test_development_signs_in_by_itself(browser: Browser, gateway: Gateway) -> None:
    with browser.new_context() as context:
        tab = Tab(context.new_page())
        tab.page.goto(gateway.url)
        expect(tab.page.locator("#user")).to_have_text("demo")
        tab.center.locator(".bell[data-status=live]").wait_for()
        tab.page.get_by_label("User id").fill("grace")
        tab.page.get_by_role("button", name="Sign in").click()
        expect(tab.page.locator("#user")).to_have_text("grace")
        tab.center.locator(".bell[data-status=live]").wait_for()


@pytest.fixture
def production(gateway: Gateway) -> Iterator[Gateway]:
    development = dict(gateway.environment)
    gateway.kill()
    del gateway.environment["TOCSIN_DEVELOPMENT"]
    gateway.start()
    yield gateway
    gateway.kill()
    gateway.environment = development


def test_production_leaves_signing_in_to_the_application(browser: Browser, production: Gateway) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(production.url)
        expect(page.get_by_text("Sign in through your application")).to_be_visible()
        expect(page.locator("notification-center")).to_have_count(0)
        expect(page.get_by_label("User id")).to_be_hidden()


@pytest.fixture
def embedded(browser: Browser, gateway: Gateway, application: Application) -> Iterator[Callable[[str], Tab]]:
    """embedded(token): a page of the application with the element and this token in it."""
    with browser.new_context() as context:

        def visit(token: str) -> Tab:
            application.page = f"""<!doctype html><html lang="en"><title>Application</title>
                <link rel="icon" href="data:,">
                <script type="module" src="{gateway.url}/static/notification-center.js"></script>
                <notification-center src="{gateway.url}" token="{token}"></notification-center>"""
            page = context.new_page()
            page.goto(application.url)
            return Tab(page)

        yield visit


def test_another_site_embeds_it_with_a_token(
    embedded: Callable[[str], Tab],
    application: Application,
    inboxes: Inboxes,
    token: Callable[..., str],
    person: Callable[[str], str],
    eventually: Callable[..., object],
) -> None:
    tab = embedded(token(person("ada")))
    tab.center.locator(".bell[data-status=live]").wait_for()
    item = inboxes.tell("ada", "New message", action_url="/messages/m-9")
    expect(tab.badge).to_have_text("1")
    tab.look()
    link = tab.item("New message").get_by_role("link")
    expect(link).to_have_attribute("href", f"{application.url}/messages/m-9")
    link.click()
    tab.page.wait_for_url(f"{application.url}/messages/m-9")
    eventually(lambda: inboxes.is_set(item, "clicked_at"))


def test_a_token_that_ended_is_said_and_a_new_one_goes_on(
    embedded: Callable[[str], Tab],
    inboxes: Inboxes,
    token: Callable[..., str],
    person: Callable[[str], str],
) -> None:
    tab = embedded(token(person("ada"), exp=1))
    tab.center.locator(".bell[data-status=signed-out]").wait_for()
    tab.center.evaluate("(center, token) => center.setAttribute('token', token)", token(person("ada")))
    tab.center.locator(".bell[data-status=live]").wait_for()
    inboxes.tell("ada", "New message")
    expect(tab.badge).to_have_text("1")
