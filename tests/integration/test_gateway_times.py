"""A user's zone, quiet hours and digests at the gateway: said field by field, checked, and at once of effect."""

from uuid import uuid4

import pytest

pytest_plugins = ["tests.integration.gateways"]

PATH = "/api/settings"
NOTHING = {"timeZone": None, "quietHours": None, "digestAt": "08:00", "digestDay": "monday"}
NIGHTS = {"days": ["friday", "saturday"], "from": "22:00", "to": "07:30"}
HELD = """
INSERT INTO deliveries (id, notification_id, user_id, channel, state, reason, next_attempt_at)
SELECT uuidv7(), uuidv7(), %s, 'email', 'held', 'quiet_hours', now() + interval '9 hours'
FROM generate_series(1, 7)
"""
DUE = """
SELECT array_agg(round(extract(epoch FROM next_attempt_at - now()) / 60)::int ORDER BY id)
FROM deliveries WHERE user_id = %s
"""


@pytest.fixture
def put(gateway, name):
    return lambda **body: gateway.client.put(PATH, json=body, headers=gateway.bearer(name))


def test_who_said_nothing_has_no_quiet_hours(gateway, name):
    assert gateway.get(name, PATH).json() == NOTHING


def test_what_is_said_is_kept_and_null_takes_it_back(gateway, name, put):
    said = {"timeZone": "Europe/Vienna", "quietHours": NIGHTS, "digestAt": "18:15", "digestDay": "sunday"}
    assert put(**said).json() == said
    assert gateway.get(name, PATH).json() == said
    assert put(digestAt="06:00").json() == said | {"digestAt": "06:00"}
    assert put().json() == said | {"digestAt": "06:00"}
    assert put(quietHours=None, digestAt=None, digestDay=None).json() == NOTHING | {"timeZone": "Europe/Vienna"}
    assert put(timeZone=None).json() == NOTHING


def test_days_left_out_are_all_and_have_one_order(put):
    zone = {"timeZone": "UTC"}
    week = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
    assert put(**zone, quietHours={"from": "00:00", "to": "06:00"}).json()["quietHours"]["days"] == week
    mixed = {"days": ["sunday", "monday", "sunday"], "from": "00:00", "to": "00:00"}
    assert put(quietHours=mixed).json()["quietHours"] == mixed | {"days": ["monday", "sunday"]}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"timeZone": "Mars/Base"}, ["timeZone"]),
        ({"timeZone": "../../etc/passwd"}, ["timeZone"]),
        ({"timeZone": ""}, ["timeZone"]),
        ({"timeZone": 1}, ["timeZone"]),
        ({"time_zone": "UTC"}, ["time_zone"]),
        ({"digestAt": "24:00"}, ["digestAt"]),
        ({"digestAt": "8:00"}, ["digestAt"]),
        ({"digestDay": "someday"}, ["digestDay"]),
        ({"quietHours": NIGHTS | {"from": "7pm"}}, ["quietHours.from"]),
        ({"quietHours": NIGHTS | {"to": "07:60", "from": ""}}, ["quietHours.from", "quietHours.to"]),
        ({"quietHours": NIGHTS | {"days": []}}, ["quietHours.days"]),
        ({"quietHours": NIGHTS | {"days": ["mon"]}}, ["quietHours.days[0]"]),
        ({"quietHours": {"from": "22:00"}}, ["quietHours.to"]),
        ({"quietHours": {"days": ["fri"]}}, ["quietHours.days[0]", "quietHours.from", "quietHours.to"]),
        ({"quietHours": {"from": "08:00", "to": "08:00"}, "timeZone": "UTC"}, ["quietHours"]),
        ({"quietHours": True}, ["quietHours"]),
        ({"digestAt": "x", "digestDay": "x", "timeZone": "x"}, ["timeZone", "digestAt", "digestDay"]),
        ({"quietHours": NIGHTS}, ["timeZone"]),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_kept(gateway, name, put, body, fields):
    answer = put(**body)
    assert answer.status_code == 422, answer.text
    assert sorted(error["field"] for error in answer.json()["errors"]) == sorted(fields)
    assert gateway.get(name, PATH).json() == NOTHING


def test_whose_zone_is_known_need_not_say_it(put):
    put(timeZone="America/New_York")
    assert put(quietHours=NIGHTS).status_code == 200
    assert put(timeZone=None).status_code == 422


def test_what_is_held_is_looked_at_when_the_hours_change(gateway, name, put):
    """And comes no faster than at the end of a night."""
    put()
    gateway.inboxes.database.execute(HELD, (name,))
    gateway.inboxes.database.execute(HELD, (f"{name}-other-{uuid4().hex[:4]}",))
    put(timeZone="UTC", quietHours=None)
    assert gateway.inboxes.one(DUE, name) == [0, 0, 0, 1, 1, 1, 2]


def test_settings_are_ones_own(gateway, name, put):
    put(timeZone="Asia/Tokyo")
    assert gateway.get(f"{name}-other", PATH).json() == NOTHING
    assert gateway.client.get(PATH).status_code == 401
    assert gateway.client.put(PATH, json={}).status_code == 401
