"""Devices as backend services know them, the key of web push, and what happens to devices nobody refreshes."""

import base64
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from py_vapid import Vapid

from schema.errors import TocsinError
from workers import devices, vapid
from workers.settings import Settings

pytest_plugins = ["tests.integration.fleet"]

P256DH = base64.urlsafe_b64encode(b"\x04" + bytes(range(64))).decode().rstrip("=")
AUTH = base64.urlsafe_b64encode(bytes(16)).decode().rstrip("=")
KEYS = {"p256dh": P256DH, "auth": AUTH}


def token(name):
    return f"{name}:{secrets.token_urlsafe(110)}"


def endpoint():
    return f"https://fcm.googleapis.com/fcm/send/{secrets.token_urlsafe(60)}"


@pytest.fixture
def put(api, name):
    """put("fcm_token", address, keys, user=…): the answer to its registration."""

    def send(kind, address, keys=None, user=name):
        body = {"kind": kind, "address": address} | ({"keys": keys} if keys else {})
        return api.client.put(f"/v1/users/{user}/devices", json=body)

    return send


@pytest.fixture
def kept(api):
    """kept(user): its devices, as (kind, address, keys)."""
    query = "SELECT kind, address, keys FROM devices WHERE user_id = %s ORDER BY created_at, address"
    return lambda user: api.database.execute(query, (user,)).fetchall()


@pytest.fixture
def age(api):
    """age(address, days): as if it had been refreshed so long ago."""
    query = "UPDATE devices SET refreshed_at = now() - make_interval(days => %s) WHERE address = %s"
    return lambda address, days: api.database.execute(query, (days, address))


def test_a_device_of_an_unknown_user_makes_both(api, name, put, kept):
    address = token(name)
    answer = put("fcm_token", address)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"id", "kind", "created_at", "refreshed_at"}
    assert answer.json()["kind"] == "fcm_token"
    assert answer.json()["created_at"] == answer.json()["refreshed_at"]
    assert kept(name) == [("fcm_token", address, None)]
    assert api.client.get(f"/v1/users/{name}").json()["id"] == name
    assert api.one("SELECT unread FROM inboxes WHERE user_id = %s", name) == 0


def test_every_kind_is_kept(name, put, kept):
    given = [
        ("fcm_installation", "c" * 22, None),
        ("web_push", endpoint(), KEYS),
        ("fcm_token", token(name), None),
    ]
    assert [put(*device).status_code for device in given] == [200, 200, 200]
    assert kept(name) == given


def test_registering_again_refreshes(api, name, put, age):
    address = token(name)
    first = put("fcm_token", address).json()
    age(address, 100)
    again = put("fcm_token", address).json()
    assert (again["id"], again["created_at"]) == (first["id"], first["created_at"])
    assert again["refreshed_at"] > first["refreshed_at"]
    assert len(api.client.get(f"/v1/users/{name}/devices").json()["devices"]) == 1


def test_a_subscription_with_new_keys_is_the_same_device(name, put, kept):
    address = endpoint()
    new = KEYS | {"auth": base64.urlsafe_b64encode(bytes(range(16))).decode()}
    first, again = put("web_push", address, KEYS).json(), put("web_push", address, new).json()
    assert first["id"] == again["id"]
    assert kept(name) == [("web_push", address, new)]


def test_an_address_moves_to_the_last_who_proved_it_as_a_new_device(api, name, put, kept):
    """New, so that a push on its way to the one before finds nobody."""
    address, other = endpoint(), f"{name}-other"
    new = KEYS | {"auth": base64.urlsafe_b64encode(bytes(range(16))).decode()}
    first = put("web_push", address, KEYS).json()
    moved = put("web_push", address, new, user=other).json()
    assert (kept(name), kept(other)) == ([], [("web_push", address, new)])
    assert moved["id"] != first["id"]
    assert moved["created_at"] == moved["refreshed_at"] > first["created_at"]
    api.client.delete(f"/v1/users/{name}/devices/{moved['id']}")
    assert len(kept(other)) == 1


def test_a_list_tells_the_end_of_an_address_only(api, name, put, age):
    older, newer = token(name), token(name)
    put("fcm_token", newer)
    put("fcm_token", older)
    age(older, 3)
    answer = api.client.get(f"/v1/users/{name}/devices")
    assert [device["address_ends"] for device in answer.json()["devices"]] == [newer[-6:], older[-6:]]
    assert set(answer.json()["devices"][0]) == {"id", "kind", "created_at", "refreshed_at", "address_ends"}
    assert older[:-6] not in answer.text


def test_nobody_has_devices_nobody_registered(api, name):
    assert api.client.get(f"/v1/users/{name}/devices").json() == {"devices": []}
    assert api.client.get("/v1/users/a%0Ab/devices").json() == {"devices": []}


def test_removing_is_repeatable_and_removes_ones_own_only(api, name, put, kept):
    address = token(name)
    id_ = put("fcm_token", address).json()["id"]
    for path in (f"{name}-other/devices/{id_}", f"{name}/devices/{uuid4()}", f"a%00b/devices/{id_}"):
        assert api.client.delete(f"/v1/users/{path}").status_code == 204
    assert len(kept(name)) == 1
    for _ in range(2):
        answer = api.client.delete(f"/v1/users/{name}/devices/{id_}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert kept(name) == []


def test_what_is_no_id_of_a_device_is_404(api, name):
    answer = api.client.delete(f"/v1/users/{name}/devices/1")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_one_too_many_takes_the_place_of_the_stalest(name, put, kept, age):
    tokens = [token(name) for _ in range(devices.MOST)]
    with ThreadPoolExecutor(4) as together:
        assert all(answer.status_code == 200 for answer in together.map(lambda t: put("fcm_token", t), tokens))
    age(tokens[7], 200)
    age(tokens[9], 100)
    put("fcm_token", tokens[7])  # known already: nobody has to go
    assert len(kept(name)) == devices.MOST
    extra = token(name)
    assert put("fcm_token", extra).status_code == 200
    assert {address for _, address, _ in kept(name)} == {*tokens, extra} - {tokens[9]}


def test_two_who_sign_in_at_once_leave_one_owner(api, name, put):
    addresses = [token(name) for _ in range(5)]
    start = threading.Barrier(8)

    def register(number):
        start.wait()
        return [put("fcm_token", address, user=f"{name}-{number}").status_code for address in addresses[::-1]]

    with ThreadPoolExecutor(8) as together:
        assert list(together.map(register, range(8))) == [[200] * 5] * 8
    assert api.one("SELECT count(*) FROM devices WHERE address = ANY(%s)", addresses) == 5


SECRET = "https://10.0.0.1/secret-of-the-sender"
BAD = {
    "no kind": ({"address": "x"}, {"kind"}),
    "unknown kind": ({"kind": "pigeon", "address": "x"}, {"kind"}),
    "no address": ({"kind": "fcm_token"}, {"address"}),
    "empty": ({"kind": "fcm_token", "address": ""}, {"address"}),
    "a space": ({"kind": "fcm_token", "address": "secret token"}, {"address"}),
    "NUL": ({"kind": "fcm_installation", "address": "secret\0"}, {"address"}),
    "long": ({"kind": "fcm_token", "address": "secret" * 342}, {"address"}),
    "keys of a token": ({"kind": "fcm_token", "address": "secret", "keys": KEYS}, {"keys"}),
    "no keys": ({"kind": "web_push", "address": "https://fcm.googleapis.com/secret"}, {"keys"}),
    "elsewhere": ({"kind": "web_push", "address": SECRET, "keys": KEYS}, {"address"}),
    "long endpoint": (
        {"kind": "web_push", "address": f"https://fcm.googleapis.com/{'secret' * 342}", "keys": KEYS},
        {"address"},
    ),
    "all wrong": (
        {"kind": "web_push", "address": SECRET, "keys": {"p256dh": "se=cret", "auth": "secret"}},
        {"address", "keys.p256dh", "keys.auth"},
    ),
    "half a key": ({"kind": "web_push", "address": SECRET, "keys": {"auth": AUTH}}, {"keys.p256dh"}),
    "private key": (
        {"kind": "web_push", "address": SECRET, "keys": {"p256dh": "A" * 87, "auth": AUTH}},
        {"address", "keys.p256dh"},
    ),
    "misspelt": ({"kind": "fcm_token", "adress": "secret"}, {"adress", "address"}),
    "a number": ({"kind": "fcm_token", "address": 5}, {"address"}),
    "no object": ([], {""}),
}


@pytest.mark.parametrize(("body", "fields"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_named_without_the_address(api, name, body, fields):
    lines = len(api.process.lines())
    answer = api.client.put(f"/v1/users/{name}/devices", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text
    assert {error["field"] for error in answer.json()["errors"]} == fields
    assert "secret" not in answer.text
    assert "secret" not in "".join(map(str, api.process.lines(lines)))
    assert api.one("SELECT count(*) FROM users WHERE id = %s", name) == 0


@pytest.mark.parametrize("content", [b"", b"{", b'"\xff"', b"[" * 50_000], ids=["empty", "cut", "bytes", "deep"])
def test_what_is_no_json_is_refused(api, name, content):
    answer = api.client.put(f"/v1/users/{name}/devices", content=content)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"].endswith("nothing was stored")


def test_the_longest_address_is_kept(name, put, kept):
    """Random, since PostgreSQL compresses what goes into an index, and refuses what stays too large."""
    long = secrets.token_urlsafe(devices.LONGEST)[: devices.LONGEST]
    assert put("fcm_token", long).status_code == 200
    assert kept(name) == [("fcm_token", long, None)]


@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
def test_no_key_no_device(api, name, method):
    path = f"/v1/users/{name}/devices" + (f"/{uuid4()}" if method == "DELETE" else "")
    answer = api.client.request(method, path, headers={"authorization": "Bearer wrong"})
    assert answer.status_code == 401


def test_an_impossible_user_is_refused(api):
    for user in ("x" * 129, "a%00b"):
        answer = api.client.put(f"/v1/users/{user}/devices", json={"kind": "fcm_token", "address": "x"})
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_addresses_and_users_come_to_no_log(api, name, put):
    address = token(name)
    put("fcm_token", address)
    put("fcm_token", address + " ")
    put("web_push", f"https://evil.example/{name}", KEYS)
    assert name not in api.process.text()


def test_the_documentation_names_every_field(api):
    paths = api.client.get("/schema/openapi.json").json()["paths"]
    of_user, of_device = paths["/v1/users/{user_id}/devices"], paths["/v1/users/{user_id}/devices/{device_id}"]
    body = of_user["put"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {"kind", "address", "keys"}
    assert "50 devices" in of_user["put"]["description"]
    assert set(of_device["delete"]["responses"]) >= {"204", "401"}


# The clock's part.


@pytest.fixture
def device(run):
    """device(days): one that was refreshed so many days ago; its id."""

    def made(days, user="ada"):
        id_ = uuid4()
        run("INSERT INTO users (id) VALUES (%s) ON CONFLICT DO NOTHING", user)
        run(
            "INSERT INTO devices (id, user_id, kind, address, refreshed_at)"
            " VALUES (%s, %s, 'fcm_token', %s, now() - make_interval(secs => %s))",
            id_,
            user,
            str(id_),
            days * 86_400,
        )
        return id_

    return made


def test_a_device_not_refreshed_for_270_days_is_removed(process, device, rows):
    fresh = [device(days) for days in (0, 100, 269.99)]
    for days in (270.01, 1000):
        device(days)
    assert [devices.stale_devices(), devices.stale_devices()] == [2, 0]
    assert {row["id"] for row in rows("SELECT id FROM devices")} == set(fresh)


def test_a_round_of_removing_is_bounded(process, device, rows, monkeypatch):
    monkeypatch.setattr(devices, "ROUND", 2)
    ids = [device(days) for days in (271, 273, 272)]
    assert devices.stale_devices() == 2
    assert [row["id"] for row in rows("SELECT id FROM devices")] == [ids[0]]


def test_two_clocks_do_not_wait_for_each_other(process, device, pool):
    first, _second = device(272), device(271)
    with pool.connection() as other, other.transaction():
        other.execute("SELECT 1 FROM devices WHERE id = %s FOR UPDATE", (first,))
        assert devices.stale_devices() == 1


# The key of web push.


def test_the_command_prints_a_key_pair_that_fits(api, start):
    command = start(api.environment, "tocsin", "keys", "vapid")
    assert command.popen.wait(60) == 0, command.text()
    first, second = command.text().splitlines()
    name, _, private = first.partition("=")
    assert name == Settings.model_fields["vapid_private_key"].validation_alias
    assert second.startswith("# ")
    assert second.split()[-1] == vapid.public_key(private)


def test_the_library_reads_the_same_key():
    private, public = vapid.generate()
    point = Vapid.from_string(private).public_key.public_numbers()
    raw = b"\x04" + point.x.to_bytes(32) + point.y.to_bytes(32)
    assert base64.urlsafe_b64decode(public + "=") == raw
    assert vapid.public_key(private) == public
    assert vapid.generate() != (private, public)


@pytest.mark.parametrize("private", ["x", "A" * 42, "A" * 43, "_" * 43, "A" * 86, "Aä", "A key"])
def test_what_is_no_key_is_said_without_it(private):
    with pytest.raises(TocsinError) as raised:
        vapid.public_key(private)
    assert str(raised.value) == (
        "TOCSIN_VAPID_PRIVATE_KEY is no P-256 key: it must be 32 bytes as base64url, which `tocsin keys vapid`"
        " makes, or PEM"
    )


def test_a_key_may_be_pem_also_on_one_line():
    private, public = vapid.generate()
    pem = Vapid.from_string(private).private_pem().decode()
    assert vapid.public_key(pem) == public
    assert vapid.public_key(pem.replace("\n", "\\n")) == public
