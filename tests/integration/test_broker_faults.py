"""What Redis and the network can do to a worker, each fault twice: Dramatiq's own broker loses or strands the
message, which proves that the fault is real, and ours does not.

Real workers on a real Valkey, behind a proxy that has the fault. Where a fault shows only as "never", a later
message that was worked off is the proof that time has passed. Numbers like #545 are Dramatiq's issues.
"""

import importlib
import multiprocessing
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import dramatiq
import msgspec
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware, Retries
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.integration.chain import Process, Rows
from tests.integration.proxy import Proxy

QUEUE = "pipeline"
DELAYED = f"{QUEUE}.DQ"
NAMESPACE = "tocsin"
SOCKET_TIMEOUT = 2

Eventually = Callable[..., Any]


class Tried(Middleware):
    """Counts what a worker was about to do."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()

    def before_enqueue(self, broker: object, message: object, delay: object) -> None:
        self.count["enqueue"] += 1

    def before_ack(self, broker: object, message: object) -> None:
        self.count["ack"] += 1


def stock(port: int, namespace: str, *middleware: Middleware) -> RedisBroker:
    """As most people make it: by URL, which also means without redis-py's own retries."""
    url = f"redis://127.0.0.1:{port}/0?socket_timeout={SOCKET_TIMEOUT}"
    retries = Retries(max_retries=3, min_backoff=100, max_backoff=200)
    return RedisBroker(url=url, namespace=namespace, middleware=[*middleware, retries])


def ours(port: int, namespace: str, *middleware: Middleware) -> RedisBroker:
    from workers.broker import Broker
    from workers.middleware import Bury, SafeRetries

    client = redis.Redis(port=port, socket_timeout=SOCKET_TIMEOUT, retry=Retry(NoBackoff(), 0))
    return Broker(client=client, namespace=namespace, middleware=[*middleware, SafeRetries(), Bury()])


KINDS = {"stock": stock, "ours": ours}
SIDE_BY_SIDE = {"stock": "dramatiq", "ours": NAMESPACE}


class Bench:
    """A worker behind the proxy, whose one actor notes in `ran` each name it is called with, and then does
    `also`; and a producer that has a connection of its own."""

    def __init__(self, kind: str, port: int, client: redis.Redis, namespace: str = NAMESPACE) -> None:
        self.kind, self.client, self.namespace = kind, client, namespace
        self.ran: list[str] = []
        self.also: Callable[[str], None] = lambda _: None
        tried = Tried()
        self.tried = tried.count
        self.broker = KINDS[kind](port, namespace, tried)
        self.producer = KINDS[kind](client.connection_pool.connection_kwargs["port"], namespace)
        actor = dramatiq.actor(broker=self.broker, queue_name=QUEUE, actor_name="work")(self._work)
        self.message = actor.message

    def _work(self, raw: msgspec.Raw) -> None:
        self.ran.append(msgspec.json.decode(raw))
        self.also(self.ran[-1])

    @property
    def ours(self) -> bool:
        return self.kind == "ours"

    def send(self, *names: str, delay: int | None = None) -> None:
        for name in names:
            self.producer.enqueue(self.message(name), delay=delay)

    def start(self, idle_ms: int = 100) -> None:
        """`idle_ms`: how long the stock consumer sleeps at most; 1000 is what it comes with."""
        self.worker = dramatiq.Worker(self.broker, queues={QUEUE}, worker_threads=4, worker_timeout=idle_ms)
        self.worker.start()

    def held(self, queue: str = QUEUE) -> set[Any]:
        """What Redis counts as in this worker's hands."""
        found: Any = self.client.smembers(f"{self.namespace}:__acks__.{self.broker.broker_id}.{queue}")
        return set(found)

    def left(self) -> int:
        """Messages that were not acknowledged, wherever they are."""
        return sum(int(str(self.client.hlen(f"{self.namespace}:{queue}.msgs"))) for queue in (QUEUE, DELAYED))

    def close(self) -> None:
        self.worker.stop(timeout=5000)
        self.broker.client.close()
        self.producer.client.close()


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    made = Proxy(urlsplit(redis_url).port or 0)
    yield made
    made.close()


@pytest.fixture(params=list(KINDS))
def bench(
    request: pytest.FixtureRequest, proxy: Proxy, process: Process, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    # Dramatiq's pauses after a lost connection; shorter ones change no outcome.
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.1)
    monkeypatch.setattr(dramatiq.worker, "POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.1)
    made = Bench(request.param, proxy.port, process.client)
    yield made
    proxy.restore()
    proxy.resume()
    made.close()


def test_an_actor_fails_while_redis_is_away(bench: Bench, proxy: Proxy, eventually: Eventually) -> None:
    """Stock: the retry cannot be enqueued, that is swallowed, and the message acknowledged (#545)."""

    def fail_at_first(_: str) -> None:
        if len(bench.ran) == 1:
            proxy.refuse()
            raise RuntimeError("a bug")

    bench.also = fail_at_first
    bench.send("a")
    bench.start()
    eventually(lambda: bench.tried["enqueue"] > 1 or bench.tried["ack"])
    proxy.restore()
    if bench.ours:
        eventually(lambda: bench.ran == ["a", "a"])
    eventually(lambda: bench.left() == 0)
    assert len(bench.ran) == (2 if bench.ours else 1)


def test_redis_blinks_while_delayed_messages_are_in_memory(
    bench: Bench, proxy: Proxy, eventually: Eventually
) -> None:
    """Stock: forgets them, and goes on living, so nobody rescues them (#527)."""
    names = [f"early-{number}" for number in range(5)]
    bench.send(*names, delay=1500)
    bench.start()
    eventually(lambda: len(bench.held(DELAYED)) == 5)
    proxy.refuse()
    eventually(lambda: proxy.refused >= 2)
    proxy.restore()
    bench.send("late", delay=2000)
    eventually(lambda: "late" in bench.ran)
    if bench.ours:
        eventually(lambda: sorted(bench.ran) == sorted([*names, "late"]))
        eventually(lambda: bench.left() == 0)
    else:
        assert bench.ran == ["late"]
        assert len(bench.held(DELAYED)) == 5


def test_the_answer_to_a_fetch_is_lost(bench: Bench, proxy: Proxy, eventually: Eventually) -> None:
    """Stock: the ids are in its hands already, as Redis sees it, and nobody has the messages (#894)."""
    names = [f"early-{number}" for number in range(8)]
    bench.send(*names)
    lost = proxy.on_reply(b"actor_name", cut=True)
    bench.start()
    eventually(lost.is_set)
    bench.send("late")
    eventually(lambda: "late" in bench.ran)
    if bench.ours:
        eventually(lambda: bench.left() == 0)
        assert sorted(bench.ran) == sorted([*names, "late"])
    else:
        eventually(lambda: bench.left() == 8)
        assert bench.ran == ["late"]
        assert len(bench.held()) == 8


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_delayed_message_is_due_while_redis_is_away(bench: Bench, proxy: Proxy, eventually: Eventually) -> None:
    """Stock: the thread that handles delayed messages dies, and the process lives on (#207)."""
    bench.send("early", "early", delay=300)
    down = proxy.on_request(b"enqueue", cut=True, away=True)
    bench.start()
    eventually(down.is_set)
    consumer = bench.worker.consumers[DELAYED]
    eventually(lambda: proxy.refused >= 2 if bench.ours else not consumer.is_alive())
    proxy.restore()
    bench.send("late", delay=1)
    bench.send("undelayed")
    eventually(lambda: "undelayed" in bench.ran)
    if bench.ours:
        eventually(lambda: sorted(bench.ran) == ["early", "early", "late", "undelayed"])
        assert consumer.is_alive()
    else:
        assert bench.ran == ["undelayed"]
        assert bench.client.llen(f"{NAMESPACE}:{DELAYED}") == 1


def test_an_ack_gets_no_answer(
    bench: Bench, proxy: Proxy, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """Stock: takes it for a bug of its own; the message stays, and runs again after the next start (#894)."""
    silent = proxy.on_request(b"\r\nack\r\n")
    bench.start()
    bench.send("early")
    eventually(silent.is_set)
    bench.send("late")
    eventually(lambda: len(bench.ran) == 2)
    eventually(lambda: len(bench.held()) == (0 if bench.ours else 1))
    if bench.ours:
        assert bench.left() == 0
    else:
        eventually(lambda: "You've found a bug in Dramatiq" in caplog.text)
        assert len(bench.held()) == 1
    assert sorted(bench.ran) == ["early", "late"]


def test_one_message_of_a_batch_cannot_be_read(bench: Bench, rows: Rows, eventually: Eventually) -> None:
    """Stock: its neighbours in the batch are stranded, and it comes again after the next start."""
    bench.send("good-1", "good-2")
    bench.client.hset(f"{NAMESPACE}:{QUEUE}.msgs", "bad", b"\xff{ not \0 JSON")
    bench.client.rpush(f"{NAMESPACE}:{QUEUE}", "bad")
    bench.send("good-3", "good-4")
    bench.start()
    eventually(lambda: {"good-1", "good-2"} <= set(bench.ran))
    bench.send("late")
    eventually(lambda: "late" in bench.ran)
    if not bench.ours:
        assert sorted(bench.ran) == ["good-1", "good-2", "late"]
        eventually(lambda: len(bench.held()) == 3)
        return
    eventually(lambda: sorted(bench.ran) == ["good-1", "good-2", "good-3", "good-4", "late"])
    eventually(lambda: bench.left() == 0)
    assert bench.client.zrange(f"{NAMESPACE}:{QUEUE}.XQ", 0, -1) == [b"bad"]
    assert bench.client.hget(f"{NAMESPACE}:{QUEUE}.XQ.msgs", "bad") == b"\xff{ not \0 JSON"
    (dead,) = eventually(lambda: rows("SELECT queue, message, cause FROM dead_letters"))
    assert dead["queue"] == QUEUE
    assert dead["message"] == "\\xff{ not \\u0000 JSON"
    assert "unreadable" in dead["cause"]


def test_an_idle_worker_wakes_at_once(bench: Bench, eventually: Eventually) -> None:
    """Stock: sleeps up to a second when nothing came for a while (#773)."""
    bench.start(idle_ms=1000)
    woke = threading.Event()
    bench.also = lambda _: woke.set()
    eventually(lambda: QUEUE in bench.worker.consumers and bench.worker.consumers[QUEUE].consumer)
    waits = []
    for number in range(30 if bench.ours else 8):
        if bench.ours:
            eventually(lambda: int(str(bench.client.info("clients")["blocked_clients"])) >= 2)
        else:
            eventually(lambda: bench.worker.consumers[QUEUE].consumer.misses >= 7)
        woke.clear()
        began = time.perf_counter()
        bench.send(str(number))
        assert woke.wait(10)
        waits.append(time.perf_counter() - began)
    median = statistics.median(waits)
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    assert median < 0.02 * max(1, busy) if bench.ours else median > 0.06, waits


def hold_a_message(kind: str, port: int, namespace: str) -> None:
    """A worker process that never ends its message."""
    broker = KINDS[kind](port, namespace)
    dramatiq.actor(broker=broker, queue_name=QUEUE, actor_name="work")(lambda _: time.sleep(300))
    dramatiq.Worker(broker, queues={QUEUE}, worker_threads=1).start()
    time.sleep(300)


def test_a_worker_is_killed(proxy: Proxy, process: Process, eventually: Eventually) -> None:
    """Stock: a minute without a heartbeat, then chance decides when somebody looks; nine minutes were measured.
    Both are killed at the same moment here, and each has a living neighbour. Ours has the clock too."""
    clock = importlib.import_module("workers.clock")
    benches = {
        kind: Bench(kind, proxy.port, process.client, namespace) for kind, namespace in SIDE_BY_SIDE.items()
    }
    spawn = multiprocessing.get_context("spawn")
    port = process.client.connection_pool.connection_kwargs["port"]
    doomed = [spawn.Process(target=hold_a_message, args=(kind, port, SIDE_BY_SIDE[kind])) for kind in benches]
    try:
        for bench in benches.values():
            bench.send("a", "b", "c")
        for one in doomed:
            one.start()
        eventually(lambda: all(len(process.client.keys(f"{b.namespace}:__acks__*")) for b in benches.values()), 30)
        for one in doomed:
            one.kill()
            one.join()
        killed = time.monotonic()
        for bench in benches.values():
            bench.start()
        eventually(lambda: clock.return_messages() or sorted(benches["ours"].ran) == ["a", "b", "c"], 20)
        eventually(lambda: sorted(benches["ours"].ran) == ["a", "b", "c"], 20)
        eventually(lambda: benches["ours"].left() == 0)
        assert time.monotonic() - killed < 30
        assert len(benches["stock"].ran) + benches["stock"].left() == 3
        assert benches["stock"].left()
    finally:
        for one in doomed:
            one.kill()
            one.join()
            one.close()
        for bench in benches.values():
            bench.close()
