"""Devices as their user registers them, and the key that browsers subscribe with."""

import base64
import secrets
from uuid import uuid4

import pytest

from workers import vapid

pytest_plugins = ["tests.integration.gateways"]

PATH = "/api/devices"
KEYS = {
    "p256dh": base64.urlsafe_b64encode(b"\x04" + bytes(range(64))).decode(),
    "auth": base64.urlsafe_b64encode(bytes(16)).decode(),
}


@pytest.fixture
def subscription():
    """As the page sends it."""
    address = f"https://updates.push.services.mozilla.com/wpush/v2/{secrets.token_urlsafe(60)}"
    return {"kind": "web_push", "address": address, "keys": KEYS}


@pytest.fixture
def put(gateway, name):
    return lambda body, user=name, **headers: gateway.client.put(
        PATH, json=body, headers=gateway.bearer(user) | headers
    )


@pytest.fixture
def delete(gateway, name):
    return lambda id_, user=name, **headers: gateway.client.delete(
        f"{PATH}/{id_}", headers=gateway.bearer(user) | headers
    )


@pytest.fixture
def owners(gateway):
    """owners(subscription): whose it is."""
    query = "SELECT user_id FROM devices WHERE address = %s"
    return lambda body: [user for (user,) in gateway.inboxes.database.execute(query, (body["address"],))]


def test_a_user_nobody_knew_registers_refreshes_and_removes(gateway, name, put, delete, owners, subscription):
    first = put(subscription)
    assert first.status_code == 200, first.text
    assert set(first.json()) == {"id", "kind", "createdAt", "refreshedAt"}
    assert first.headers["cache-control"] == "no-store"
    again = put(subscription).json()
    assert (again["id"], again["createdAt"]) == (first.json()["id"], first.json()["createdAt"])
    assert again["refreshedAt"] > first.json()["refreshedAt"]
    assert owners(subscription) == [name]
    assert gateway.inboxes.unread(name) == 0
    for _ in range(2):
        assert delete(again["id"]).status_code == 204
        assert owners(subscription) == []


def test_a_phone_registers_here_as_well(name, put, owners):
    token = {"kind": "fcm_token", "address": f"{name}:{secrets.token_urlsafe(100)}"}
    assert put(token).json()["kind"] == "fcm_token"
    assert owners(token) == [name]


def test_the_next_who_signs_in_there_takes_it_over(name, put, delete, owners, subscription):
    first = put(subscription).json()
    second = put(subscription, user=f"{name}-2").json()
    assert owners(subscription) == [f"{name}-2"]
    assert second["id"] != first["id"]
    assert [delete(device["id"]).status_code for device in (first, second)] == [204, 204]
    assert owners(subscription) == [f"{name}-2"]


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"kind": "pigeon"}, {"kind"}),
        ({"keys": None}, {"keys"}),
        ({"keys": {"p256dh": "x", "auth": "x"}}, {"keys.p256dh", "keys.auth"}),
        ({"address": "https://secret.example/x"}, {"address"}),
        ({"address": "https://fcm.googleapis.com@10.0.0.1/secret"}, {"address"}),
        ({"address": "http://fcm.googleapis.com/secret"}, {"address"}),
        ({"address": "https://127.0.0.1:5432/secret"}, {"address"}),
        ({"expirationTime": None}, {"expirationTime"}),
    ],
)
def test_what_is_wrong_is_named_without_the_address(gateway, put, owners, subscription, change, fields):
    answer = put(subscription | change)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text
    assert {error["field"] for error in answer.json()["errors"]} == fields
    assert "secret" not in answer.text + gateway.process.text()
    assert owners(subscription) == []


@pytest.mark.parametrize("content", [b"", b"{", b'"\xff"'])
def test_what_is_no_json_is_400(gateway, name, content):
    assert gateway.client.put(PATH, content=content, headers=gateway.bearer(name)).status_code == 400


@pytest.mark.parametrize("content", [b"[]", b"5", b"null"])
def test_what_is_no_object_is_422(gateway, name, content):
    assert gateway.client.put(PATH, content=content, headers=gateway.bearer(name)).status_code == 422


def test_what_is_no_id_is_404(delete):
    assert delete("1").status_code == 404


def test_a_page_of_another_origin_changes_nothing(name, put, delete, owners, subscription):
    id_ = put(subscription).json()["id"]
    for answer in (
        put(subscription, user=f"{name}-2", origin="https://evil.example"),
        delete(id_, origin="https://evil.example"),
    ):
        assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert owners(subscription) == [name]


def test_who_is_not_signed_in_is_401(gateway, subscription):
    for method, path in (("PUT", PATH), ("DELETE", f"{PATH}/{uuid4()}"), ("GET", "/api/push")):
        assert gateway.client.request(method, path).status_code == 401


def test_an_embedding_page_may_remove_a_device(gateway):
    headers = {"origin": gateway.url, "access-control-request-method": "DELETE"}
    answer = gateway.client.options(f"{PATH}/{uuid4()}", headers=headers)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, gateway.url)


def test_without_a_key_there_is_no_web_push(gateway, name):
    answer = gateway.get(name, "/api/push")
    assert (answer.status_code, answer.json()) == (200, {"publicKey": None})


def test_the_public_key_is_told_and_the_private_is_not(gateway, name, start, free_port, eventually):
    private, public = vapid.generate()
    port = free_port()
    changes = {"TOCSIN_VAPID_PRIVATE_KEY": private, "TOCSIN_GATEWAY_PORT": str(port)}
    process = start(gateway.environment | changes, "python", "-m", "workers.gateway")
    eventually(lambda: "gateway_listens" in process.text(), seconds=60)
    answer = gateway.client.get(f"http://127.0.0.1:{port}/api/push", headers=gateway.bearer(name))
    assert (answer.status_code, answer.json()) == (200, {"publicKey": public})
    assert private not in process.text()


def test_a_wrong_key_ends_the_gateway_with_one_line(gateway, start):
    wrong = gateway.environment | {"TOCSIN_VAPID_PRIVATE_KEY": "no key"}
    process = start(wrong, "python", "-m", "workers.gateway")
    assert process.popen.wait(60) == 1
    (line,) = process.text().splitlines()
    assert line.startswith("gateway: TOCSIN_VAPID_PRIVATE_KEY is no P-256 key: ")
    assert "`tocsin keys vapid`" in line


def test_the_service_worker_is_asked_for_again_and_bound_by_the_policy(gateway):
    answer = gateway.client.get("/static/service-worker.js")
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert "service-worker-allowed" not in answer.headers  # its scope holds no page
