"""The HTTP door says no while too much waits, in time and without harm, and yes again when it is worked off."""

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from workers import embedded

pytest_plugins = ["tests.integration.fleet"]

LIMIT = 5
KEY = {"authorization": "Bearer test-key-of-the-fleet"}
UNROUTED = "SELECT count(*) FROM events WHERE routed_count < recipient_count"


class Door:
    def __init__(self, process, client, database):
        self.process, self.client, self.database = process, client, database

    def post(self, events):
        return self.client.post("/v1/events", json=events)

    def one(self, query, *values):
        return self.database.execute(query, values).fetchone()[0]

    def said(self, event):
        return [line for line in self.process.lines() if line["event"] == event]


@pytest.fixture
def door(fleet_environment, start, eventually, request):
    """An API with a backlog limit of LIMIT, or of the test's own."""
    limit = getattr(request, "param", LIMIT)
    port = embedded.free_port()
    changes = {"TOCSIN_API_PORT": str(port), "TOCSIN_BACKLOG_LIMIT": str(limit)}
    process = start(fleet_environment | changes, "python", "-m", "workers.api")
    with (
        psycopg.connect(fleet_environment["DATABASE_URL"], autocommit=True) as database,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=KEY, timeout=40) as client,
    ):
        database.execute("TRUNCATE events, timers")

        def answers():
            assert process.popen.poll() is None, process.text()
            try:
                return client.get("/healthz").is_success
            except httpx.TransportError:
                return False

        eventually(answers, seconds=60)
        yield Door(process, client, database)
        assert "Traceback" not in process.text()


def assert_busy(response, *words):
    assert response.status_code == 503, response.text
    assert response.headers["content-type"] == "application/problem+json"
    seconds = int(response.headers["retry-after"])
    assert 1 <= seconds <= 30
    detail = response.json()["detail"]
    for word in (*words, "nothing was stored", "send the same again, with the same ids", f"after {seconds} s"):
        assert word in detail


def test_a_long_backlog_closes_the_door_until_it_is_worked_off(door, comment, name, eventually):
    events = [comment(name, id=f"{name}-{n}") for n in range(LIMIT + 1)]
    assert door.post(events[:LIMIT]).status_code == 202
    assert door.post(events[LIMIT]).status_code == 202  # the limit itself is not too much
    refused = eventually(lambda: (r := door.post(events[0])).status_code == 503 and r)  # a repeat, too
    assert_busy(refused, f"more than {LIMIT}")
    assert_busy(door.post([comment(name, id=f"{name}-new")]))
    assert_busy(door.post({"anything": "at all"}))
    assert door.one("SELECT count(*) FROM events") == LIMIT + 1
    (line,) = door.said("http_door_closed")
    assert line["limit"] == LIMIT
    assert door.client.get("/readyz").status_code == 200  # it is well; it must not be taken out
    assert door.client.put(f"/v1/users/{name}", json={"locale": "de"}).status_code == 200
    assert 'tocsin_door_closed{door="http"} 1.0' in door.client.get("/metrics").text
    door.database.execute("UPDATE events SET routed_count = recipient_count WHERE id = %s", (f"{name}-0",))
    eventually(lambda: door.post(comment(name, id=f"{name}-new")).status_code == 202)
    assert len(door.said("http_door_closed")) == len(door.said("http_door_open")) == 1
    assert name not in door.process.text()


def test_what_waits_for_its_time_is_no_backlog(door, comment, name, eventually):
    later = [comment(name, id=f"{name}-{n}", send_at="2037-01-01T00:00:00Z") for n in range(100)]
    assert door.post(later).status_code == 202
    now = [comment(name, id=f"{name}-now-{n}") for n in range(LIMIT)]
    assert door.post(now).status_code == 202
    assert door.one(UNROUTED) == 100 + LIMIT
    before = looks(door)
    eventually(lambda: looks(door) > before + 1)
    assert door.post(comment(name, id=f"{name}-more")).status_code == 202
    door.database.execute("UPDATE events SET send_at = now() WHERE id = %s", (f"{name}-0",))
    eventually(lambda: door.post(now[0]).status_code == 503)


def looks(door):
    """How often the index of the unrouted was walked; by the API alone."""
    return door.one("SELECT sum(idx_scan) FROM pg_stat_user_indexes WHERE indexrelname = 'events_unrouted'")


@pytest.mark.parametrize("door", [1_000_000], indirect=True, ids=["no backlog"])
def test_more_than_20_000_events_do_not_wait_for_their_commit(door, comment, name):
    """Somebody holds the table: calls pile up, the first ones are patient, those too many are told at once."""
    first_refused = threading.Event()

    def post(n):
        answer = door.post([comment(name, id=f"{name}-{n}-{m}") for m in range(500)])
        if answer.status_code == 503:
            first_refused.set()
        return answer

    with ThreadPoolExecutor(50) as threads:
        door.database.execute("BEGIN")
        door.database.execute("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE")
        answers = [threads.submit(post, n) for n in range(50)]
        assert first_refused.wait(20)
        assert sum(answer.done() for answer in answers) < 25
        door.database.execute("COMMIT")
        answers = [answer.result() for answer in answers]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {202, 503}
    assert 1 <= len(refused) <= 50 - 20_000 // 500
    for answer in refused:
        assert_busy(answer, "wait for their commit")
    assert door.one("SELECT count(*) FROM events") == 500 * (50 - len(refused))
