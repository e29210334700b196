"""A channel's process dies while its provider has a delivery in hand: before it answered, and after.

Whether the provider took it nobody can know then. So nothing is lost: it is sent again, at most HEALED seconds
after the kill; and nothing is doubled unnoticed: each such delivery counts as a possible duplicate, and what came
twice is the same mail, or takes the first one's place on the phone.
"""

import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from tests.chaos.conftest import TEMPLATES, TICK
from tests.chaos.system import API_KEY, System
from tests.fakes.fcm import FakeFcm
from tests.fakes.smtp import MailServer
from workers import fleet

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]

KILLS = int(os.environ.get("CHAOS_KILLS", "0"))
"""Of each kind; for the ten that are promised, set CHAOS_KILLS=10. Without it: one of each, for mail alone."""
HEALED = 30.0
CHANNELS = {"deliver-email": "email = true\n", "deliver-fcm": "push = true\n"}
TYPES = {"deliver-email": "mailed", "deliver-fcm": "pushed"}
_STATES = """
SELECT d.user_id, d.state, d.attempt FROM deliveries d WHERE starts_with(d.user_id, %s)
"""
_HEALED = """
SELECT coalesce(max(extract(epoch FROM next.started_at - a.started_at)), 0)::float8
FROM attempts a JOIN attempts next ON next.delivery_id = a.delivery_id AND next.number = a.number + 1
JOIN deliveries d ON d.id = a.delivery_id WHERE a.outcome = 'unknown' AND starts_with(d.user_id, %s)
"""
"""From a try that nobody heard of again until the next one."""
_COUNTED = """
SELECT coalesce(sum(count), 0)::int FROM notification_analytics WHERE event = 'possible_duplicate' AND type = %s
"""
_ID = "SELECT d.id FROM deliveries d WHERE d.user_id = %s"
_SETTLING = """
SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE deliveries%'
"""


class Held:
    """The provider's side of one delivery: it came, and its answer waits until the test says so."""

    def __init__(self) -> None:
        self.address = ""
        self.came, self.go_on = threading.Event(), threading.Event()

    def expect(self, address: str) -> None:
        self.came.clear()
        self.go_on.clear()
        self.address = address

    def look(self, address: str) -> None:
        if address == self.address and not self.came.is_set():
            self.came.set()
            self.go_on.wait(20)


@pytest.fixture(scope="module")
def held() -> Held:
    return Held()


@pytest.fixture(scope="module")
def mail(held: Held) -> Iterator[MailServer]:
    def script(stage: str, address: str) -> None:
        if stage == "end":
            held.look(address)

    with MailServer(script) as server:
        yield server


@pytest.fixture(scope="module")
def fcm(held: Held) -> Iterator[FakeFcm]:
    with FakeFcm(lambda address, _: held.look(address)) as fake:
        yield fake


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, mail: MailServer, fcm: FakeFcm) -> Iterator[System]:
    home = tmp_path_factory.mktemp("channels")
    templates = home / "templates"
    shutil.copytree(TEMPLATES / "_group", templates / "_group")
    for queue, channel in CHANNELS.items():
        folder = templates / TYPES[queue]
        folder.mkdir()
        settings = f'category = "test"\nlabel = "tests"\n\n[channels]\nweb = false\n{channel}'
        for name, text in (TICK | {"type.toml": settings}).items():
            (folder / name).write_text(text)
    made = System(
        home,
        templates,
        TOCSIN_SMTP_URL=f"smtp://127.0.0.1:{mail.port}",
        TOCSIN_MAIL_FROM="Chaos <chaos@example.com>",
        TOCSIN_FCM_URL=fcm.url,
        TOCSIN_FCM_CREDENTIALS=str(fcm.credentials(home)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet, "LONGEST_DELAY", 1.0)  # the supervisor would lose patience with so many deaths
        try:
            made.start()
            yield made
        finally:
            made.stop()


def arrived(queue: str, mail: MailServer, fcm: FakeFcm) -> Counter[str]:
    """What the provider was given whole, by address, and whether both were the same."""
    if queue == "deliver-email":
        came = {(received.recipients[0], received.message["Message-ID"]) for received in mail.received}
        assert len(came) == len({address for address, _ in came}), "the same Message-ID both times"
        return Counter(received.recipients[0] for received in mail.received)
    return Counter(fcm.posts)


@pytest.mark.parametrize("queue", CHANNELS if KILLS else ["deliver-email"])
def test_a_killed_channel_loses_nothing_and_counts_what_may_be_doubled(
    queue: str, system: System, mail: MailServer, fcm: FakeFcm, held: Held, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{queue}-{when}-{number}" for number in range(KILLS or 1) for when in ("before", "after")]
    for name in names:
        person(system, name, address(name), push=queue == "deliver-fcm")
        held.expect(address(name))
        send(system, name, TYPES[queue])
        system.wait_until(held.came.is_set, 60)
        if "before" in name:
            kill(system, queue)
            held.go_on.set()
        else:
            kill_before_it_is_settled(system, queue, name, held)
        system.wait_until(lambda: system.pids(queue), 60)
    system.within(2 * HEALED, lambda: all(state == "sent" for _, state, _ in system.query(_STATES, f"{queue}-")))
    rows = system.query(_STATES, f"{queue}-")
    tries = {address(name): tries for name, _, tries in rows}
    came = arrived(queue, mail, fcm)
    ((healed,),), ((counted,),) = system.query(_HEALED, f"{queue}-"), system.query(_COUNTED, TYPES[queue])
    with capsys.disabled():
        sys.stdout.write(
            f"\n{queue:<14} killed {len(names)} times: sent {len(rows)},"
            f" sent again {sum(came.values()) - len(came)},"
            f" counted {counted}, healed in {healed:.1f} s at most\n"
        )
    assert {name: state for name, state, _ in rows} == dict.fromkeys(names, "sent")
    assert counted == sum(tries.values()) - len(tries) >= len(names), "also a second try may be killed"
    assert all(2 <= came[one] <= tries[one] for one in tries), "none doubled that is not counted"
    assert healed <= (HEALED if KILLS else 2 * HEALED) * max(1, os.getloadavg()[0] / (os.cpu_count() or 1) / 4)


def address(name: str) -> str:
    return f"{name}@example.com"


def person(system: System, name: str, address: str, push: bool) -> None:
    """Somebody who can be reached on the channel."""
    headers = {"authorization": f"Bearer {API_KEY}"}
    url = f"{system.addresses.api}/v1/users/{name}"
    body = {"kind": "fcm_token", "address": address} if push else {"email": address}
    assert httpx.put(f"{url}/devices" if push else url, json=body, headers=headers).status_code == 200


def send(system: System, name: str, kind: str) -> None:
    event = {"id": name, "type": kind, "recipients": [name], "data": {"event": name}}
    headers = {"authorization": f"Bearer {API_KEY}"}
    assert httpx.post(f"{system.addresses.api}/v1/events", json=event, headers=headers).status_code == 202


def kill(system: System, queue: str) -> None:
    os.kill(system.pids(queue)[-1], signal.SIGKILL)


def kill_before_it_is_settled(system: System, queue: str, user: str, held: Held) -> None:
    """The provider answers; that this is written down waits for a lock, and its connection ends with the process.
    (PostgreSQL notices that a client is gone only when it has something to tell it.)"""
    with psycopg.connect(system.servers.database_url) as other:
        ((delivery,),) = other.execute(_ID, (user,)).fetchall()
        other.execute("SELECT 1 FROM deliveries WHERE id = %s FOR UPDATE", (delivery,))
        held.go_on.set()
        system.wait_until(lambda: system.query(_SETTLING), 20)
        kill(system, queue)
        system.query(f"SELECT pg_terminate_backend(pid) FROM ({_SETTLING})")
        system.wait_until(lambda: not system.query(_SETTLING), 20)
        other.rollback()
