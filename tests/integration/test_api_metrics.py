"""Counts and rates are summed from the hourly roll-ups."""

import pytest

pytest_plugins = ["tests.integration.fleet"]

INSERT = "INSERT INTO notification_analytics (type, event, hour, shard, count) VALUES (%s, %s, %s, %s, %s)"
ROWS = [
    ("comment", "sent", "2026-01-01 10:00Z", 0, 5),
    ("comment", "sent", "2026-01-01 10:00Z", 1, 1),
    ("comment", "sent", "2026-02-01 11:00Z", 0, 3),
    ("comment", "read", "2026-02-01 11:00Z", 0, 2),
    ("comment", "read", "2026-02-01 12:00Z", 7, 1),
    ("comment", "clicked", "2026-02-01 12:00Z", 0, 1),
    ("order", "sent", "2026-01-01 10:00Z", 0, 1),
    ("order", "read", "2026-01-01 10:00Z", 0, 1),
    ("payment", "read", "2026-01-01 10:00Z", 0, 2),
]
PATH = "/v1/metrics/notifications"


@pytest.fixture(scope="module")
def counted(api):
    api.database.cursor().executemany(INSERT, ROWS)
    return api


def metrics(sent, read, clicked, read_rate, click_rate):
    return {"sent": sent, "read": read, "clicked": clicked, "readRate": read_rate, "clickRate": click_rate}


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("comment", metrics(9, 3, 1, 33.33, 11.11)),
        ("order", metrics(1, 1, 0, 100.0, 0.0)),
        ("payment", metrics(0, 2, 0, 0.0, 0.0)),
        ("like", metrics(0, 0, 0, 0.0, 0.0)),
        (None, metrics(10, 6, 1, 60.0, 10.0)),
    ],
)
def test_counts_and_rates(counted, type_, expected):
    answer = counted.client.get(PATH, params={"type": type_} if type_ else {})
    assert answer.status_code == 200
    assert answer.json() == expected


def test_an_unknown_type_is_named(counted):
    answer = counted.client.get(PATH, params={"type": "comments"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["field"] == "type"
    assert "comment, follow" in answer.json()["detail"]


def test_only_with_a_key(counted):
    assert counted.client.get(PATH, headers={"authorization": ""}).status_code == 401
