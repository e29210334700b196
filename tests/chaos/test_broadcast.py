"""A broadcast whose worker and clock are killed half way reaches everybody, and nobody twice.

For 100,000 people: BROADCAST_USERS=100000 python -m pytest -m chaos tests/chaos/test_broadcast.py
"""

import os
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest

from tests.chaos.load import TYPE
from tests.chaos.system import API_KEY, System

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

USERS = int(os.environ.get("BROADCAST_USERS", "4000"))
SECONDS = 60 + USERS / 200
_USERS = """
INSERT INTO users (id, created_at)
SELECT %(prefix)s || n, now() - interval '1 hour' FROM generate_series(1, %(count)s) AS n
"""
_SUBSCRIBE = """
INSERT INTO topic_subscribers (topic, user_id, created_at)
SELECT %(prefix)s, id, created_at FROM users WHERE starts_with(id, %(prefix)s)
"""
_ROUTED = "SELECT routed_count FROM events WHERE id = %s"
_ALL = """
SELECT e.routed_count, e.recipient_count, e.expanded_to,
    (SELECT count(*) FROM notifications n WHERE n.event_id = e.id),
    (SELECT count(DISTINCT n.user_id) FROM notifications n WHERE n.event_id = e.id),
    (SELECT count(*) FROM inboxes i WHERE starts_with(i.user_id, %(prefix)s) AND i.unread = 1 AND i.seq = 1),
    (SELECT count(*) FROM deliveries d WHERE starts_with(d.user_id, %(prefix)s) AND d.state = 'sent')
FROM events e WHERE e.id = %(prefix)s
"""


def ask(system: System, sql: str, prefix: str) -> list[Any]:
    with psycopg.connect(system.servers.database_url, autocommit=True) as connection:
        cursor = connection.execute(sql, {"prefix": prefix, "count": USERS})
        return cursor.fetchall() if cursor.description else []


def broadcast(system: System, prefix: str) -> None:
    for statement in (_USERS, _SUBSCRIBE):
        ask(system, statement, prefix)
    answer = httpx.post(
        f"{system.addresses.api}/v1/events",
        headers={"authorization": f"Bearer {API_KEY}"},
        json={"id": prefix, "type": TYPE, "recipients": {"topic": prefix}, "data": {"event": prefix}},
    )
    assert answer.status_code == 202, answer.text


def kill_both(system: System, half: Callable[[], bool]) -> None:
    system.wait_until(half, SECONDS)
    system.kill("clock")
    system.kill_with_work("pipeline-bulk", lambda: system.in_hand("pipeline-bulk"))


def forget_everything(system: System, half: Callable[[], bool]) -> None:
    system.wait_until(half, SECONDS)
    with system.without_valkey(emptied=True):
        system.kill("pipeline-bulk")


@pytest.mark.parametrize("happen", [kill_both, forget_everything])
def test_everybody_is_told_exactly_once(
    system: System, happen: Callable[[System, Callable[[], bool]], None]
) -> None:
    prefix = f"{happen.__name__}-"
    broadcast(system, prefix)
    happen(system, lambda: system.query(_ROUTED, prefix)[0][0] >= USERS // 4)
    assert system.query(_ROUTED, prefix)[0][0] < USERS
    everything = (USERS, USERS, None, USERS, USERS, USERS, USERS)
    system.within(SECONDS, lambda: ask(system, _ALL, prefix) == [everything])
    assert ask(system, _ALL, prefix) == [everything]
