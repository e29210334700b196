"""Who is there, as real gateway processes say it in Redis: also of those who hide, leave, or are killed."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import socketio

from schema.wire import presence_key
from workers.gateway.presence import EXPIRES, REFRESH, TICK

if TYPE_CHECKING:
    from tests.integration.gateways import Gateway

pytest_plugins = ["tests.integration.gateways"]

PATH = "/api/presence"


@pytest.fixture
def here(gateway: "Gateway", name: str) -> Callable[[], bool]:
    """Whether Redis says that this test's user is there."""
    return lambda: bool(gateway.inboxes.redis.exists(presence_key(name)))


@pytest.fixture
def gone(here: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: not here()


@pytest.fixture
def say(gateway: "Gateway", name: str) -> Callable[[bool], Any]:
    """say(False): the page "tab" is hidden."""
    return lambda visible: (
        gateway.client.put(PATH)
        and gateway.client.post(PATH, json={"connection": "tab", "visible": visible}, headers=gateway.bearer(name))
    )


def test_it_is_never_wrong_for_more_than_45_seconds() -> None:
    """After a kill the key lives on; while a process lives, it must be renewed before it expires."""
    assert EXPIRES + TICK <= 45
    assert REFRESH + 2 * TICK < EXPIRES


def test_who_comes_is_there_and_who_leaves_is_gone(
    gateway: "Gateway", name: str, here: Any, gone: Any, eventually: Any
) -> None:
    assert gone()
    listener = gateway.listen(name)
    eventually(here)
    assert 0 < gateway.inboxes.redis.ttl(presence_key(name)) <= EXPIRES
    listener.close()
    eventually(gone)


def test_a_hidden_page_looks_at_nothing(
    gateway: "Gateway", name: str, here: Any, gone: Any, say: Any, eventually: Any
) -> None:
    gateway.listen(name, connection="tab")
    eventually(here)
    assert say(False).json() == {"visible": False}
    eventually(gone)
    say(True)
    eventually(here)


def test_one_that_opens_hidden_says_so(
    gateway: "Gateway", name: str, here: Any, gone: Any, eventually: Any
) -> None:
    gateway.listen(name, visible="false")
    gateway.listen(f"{name}-other")
    eventually(lambda: gateway.inboxes.redis.exists(presence_key(f"{name}-other")))
    assert gone()
    gateway.listen(name)
    eventually(here)


def test_one_page_in_sight_is_enough(gateway: "Gateway", name: str, here: Any, say: Any, eventually: Any) -> None:
    gateway.listen(name, connection="tab")
    gateway.listen(name, connection="another")
    gateway.listen(f"{name}-other", connection="tab")
    eventually(here)
    say(False)
    gateway.listen(f"{name}-last")
    eventually(lambda: gateway.inboxes.redis.exists(presence_key(f"{name}-last")))
    assert here()


def test_of_others_pages_nobody_says_anything(gateway: "Gateway", name: str, here: Any, eventually: Any) -> None:
    gateway.listen(name, connection="tab")
    gateway.listen(f"{name}-stranger", connection="theirs")
    eventually(here)
    headers = gateway.bearer(f"{name}-stranger")
    gateway.client.post(PATH, json={"connection": "tab", "visible": False}, headers=headers)
    gateway.client.post(PATH, json={"connection": "theirs", "visible": False}, headers=headers)
    eventually(lambda: not gateway.inboxes.redis.exists(presence_key(f"{name}-stranger")))
    assert here()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"visible": True}, ""),
        ({"connection": "tab"}, ""),
        ({"connection": "", "visible": True}, "connection"),
        ({"connection": "x" * 65, "visible": True}, "connection"),
        ({"connection": "tab", "visible": "no"}, "visible"),
    ],
)
def test_what_is_no_presence_is_refused(gateway: "Gateway", name: str, body: Any, field: str) -> None:
    answer = gateway.client.post(PATH, json=body, headers=gateway.bearer(name))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


def test_nobody_else_may_say_it(gateway: "Gateway") -> None:
    body = {"connection": "tab", "visible": True}
    assert gateway.client.post(PATH, json=body).status_code == 401


def test_a_socket_says_it_itself(gateway: "Gateway", name: str, here: Any, gone: Any, until: Any) -> None:
    async def scenario() -> None:
        client = socketio.AsyncClient()
        try:
            await client.connect(gateway.url, auth={"token": gateway.signed(name), "visible": False})
            assert await client.call("visible", "yes") == {"ok": False, "error": "say true or false"}
            assert gone()
            assert await client.call("visible", True) == {"ok": True}
            await until(here)
            await client.call("visible", False)
            await until(gone)
            await client.call("visible", True)
            await until(here)
        finally:
            await client.disconnect()
        await until(gone)

    asyncio.run(scenario())


@pytest.fixture
def second(gateway: "Gateway", tmp_path: Path, free_port: Callable[[], int]) -> Iterator["Gateway"]:
    """Another gateway process of the same fleet."""
    from tests.integration.gateways import Gateway, start

    environment = gateway.environment | {"TOCSIN_GATEWAY_PORT": str(free_port())}
    process, url = start(environment, tmp_path / "log")
    made = Gateway(process, url, environment, gateway.inboxes, gateway.client)
    yield made
    for listener in made.listeners:
        listener.close()
    process.kill()


def test_a_gateway_that_is_asked_tells_the_one_that_has_the_page(
    gateway: "Gateway", second: "Gateway", name: str, here: Any, gone: Any, say: Any, eventually: Any
) -> None:
    second.listen(name, connection="tab")
    eventually(here)
    say(False)
    eventually(gone)


def test_who_looks_through_two_gateways_and_leaves_one_is_there(
    gateway: "Gateway", second: "Gateway", name: str, here: Any, eventually: Any
) -> None:
    """A process takes back only what nobody else said since."""
    first = gateway.listen(name)
    eventually(here)
    owner = gateway.inboxes.redis.get(presence_key(name))
    second.listen(name)
    eventually(lambda: gateway.inboxes.redis.get(presence_key(name)) != owner)
    first.close()
    gateway.listen(f"{name}-later")
    eventually(lambda: gateway.inboxes.redis.exists(presence_key(f"{name}-later")))
    assert here()


def test_a_gateway_that_stops_takes_its_users_along(
    second: "Gateway", name: str, here: Any, eventually: Any
) -> None:
    second.listen(name)
    eventually(here)
    assert second.process.stop() == 0
    assert not here()


def test_a_gateway_that_is_killed_leaves_what_expires(
    second: "Gateway", name: str, here: Any, eventually: Any
) -> None:
    second.listen(name)
    eventually(here)
    second.process.kill()
    assert here()
    assert 0 < second.inboxes.redis.ttl(presence_key(name)) <= EXPIRES


def test_what_redis_forgot_is_said_again(gateway: "Gateway", name: str, here: Any, eventually: Any) -> None:
    gateway.listen(name)
    eventually(here)
    gateway.inboxes.redis.delete(presence_key(name))
    eventually(here, seconds=REFRESH + 3 * TICK)
