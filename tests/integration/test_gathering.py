"""Small messages that wait become one call: how many, of what size, and what a failing one does to others."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import msgspec
import pytest
import redis

from tests.integration.chain import Process, Rows

QUEUE = "pipeline"
Eventually = Callable[..., Any]


class Bench:
    """A worker whose actor notes in `calls` what each call brought; `also` may fail."""

    def __init__(self, client: redis.Redis) -> None:
        from workers.broker import Broker  # needs the settings of a test
        from workers.middleware import Bury, SafeRetries

        self.broker = Broker(client=client, namespace="tocsin", middleware=[SafeRetries(), Bury()])
        self.calls: list[list[str]] = []
        self.also: Callable[[list[str]], None] = lambda _: None
        self.actors = {
            name: dramatiq.actor(
                broker=self.broker, queue_name=QUEUE, actor_name=name, min_backoff=50, max_backoff=50
            )(self._work)
            for name in ("first", "second")
        }
        self.worker = dramatiq.Worker(self.broker, queues={QUEUE}, worker_threads=1, worker_timeout=100)

    def _work(self, *raws: msgspec.Raw) -> None:
        self.calls.append([msgspec.json.decode(raw) for raw in raws])
        self.also(self.calls[-1])

    def send(self, *names: str, actor: str = "first", items: int | None = 1) -> None:
        for name in names:
            options = {} if items is None else {"items": items}
            self.actors[actor].send_with_options(args=(name,), **options)

    def left(self) -> int:
        return sum(int(str(self.broker.client.hlen(f"tocsin:{queue}.msgs"))) for queue in (QUEUE, f"{QUEUE}.DQ"))


@pytest.fixture
def bench(process: Process) -> Iterator[Bench]:
    made = Bench(process.client)
    yield made
    made.worker.stop(timeout=5000)


def names(count: int) -> list[str]:
    return [f"m-{number}" for number in range(count)]


def test_a_backlog_of_small_messages_is_few_calls_in_the_order_of_sending(
    bench: Bench, eventually: Eventually
) -> None:
    bench.send(*names(300))
    bench.worker.start()
    eventually(lambda: bench.left() == 0)
    assert [name for call in bench.calls for name in call] == names(300)
    assert len(bench.calls) <= 3


def test_a_call_has_no_more_than_500_items(bench: Bench, eventually: Eventually) -> None:
    bench.send(*names(7), items=200)
    bench.worker.start()
    eventually(lambda: bench.left() == 0)
    assert [len(call) for call in bench.calls] == [2, 2, 2, 1]


def test_each_actor_gets_its_own(bench: Bench, eventually: Eventually) -> None:
    for number in range(20):
        bench.send(f"a-{number}", actor="first")
        bench.send(f"b-{number}", actor="second")
    bench.worker.start()
    eventually(lambda: bench.left() == 0)
    assert all(len({name[0] for name in call}) == 1 for call in bench.calls)
    assert len(bench.calls) == 2


def test_a_message_that_does_not_say_its_size_is_alone(bench: Bench, eventually: Eventually) -> None:
    bench.send("unsized", items=None)
    bench.send("a", "b")
    bench.send("unsized", items=None)
    bench.worker.start()
    eventually(lambda: bench.left() == 0)
    assert bench.calls == [["unsized"], ["a", "b"], ["unsized"]]


def test_large_messages_are_fetched_as_they_are_worked_off(bench: Bench, eventually: Eventually) -> None:
    """A process holds only as many bytes as it may, whatever waits."""
    held, hold = threading.Event(), threading.Event()
    bench.also = lambda _: (held.set(), hold.wait(10))[0]
    large = ["x" * 100_000] * 10
    bench.send(*large, items=500)
    bench.worker.start()
    assert held.wait(10)
    eventually(lambda: bench.broker.client.llen(f"tocsin:{QUEUE}") == 8)
    hold.set()
    eventually(lambda: bench.left() == 0)
    assert bench.calls == [[one] for one in large]


def test_one_that_fails_takes_no_neighbour_with_it(bench: Bench, rows: Rows, eventually: Eventually) -> None:
    def refuse_poison(call: list[str]) -> None:
        if "poison" in call:
            raise ValueError("it is the poison")

    bench.also = refuse_poison
    bench.send("a", "poison", "b")
    bench.worker.start()
    eventually(lambda: bench.left() == 0, seconds=30)
    assert bench.calls[0] == ["a", "poison", "b"]
    assert sorted(call[0] for call in bench.calls[1:]) == ["a", "b", "poison", "poison", "poison"]
    assert all(len(call) == 1 for call in bench.calls[1:])
    (dead,) = eventually(lambda: rows("SELECT message, cause FROM dead_letters"))
    assert "poison" in dead["message"]
    assert "it is the poison" in dead["cause"]


def test_what_was_gathered_and_not_begun_goes_back_when_the_worker_ends(
    bench: Bench, eventually: Eventually
) -> None:
    held, hold = threading.Event(), threading.Event()
    bench.also = lambda _: (held.set(), hold.wait(10))[0]
    bench.send("running", items=None)
    bench.send(*names(50))
    bench.worker.start()
    assert held.wait(10)
    eventually(lambda: bench.broker.client.llen(f"tocsin:{QUEUE}") == 0)
    stopping = threading.Thread(target=bench.worker.stop, kwargs={"timeout": 5000})
    stopping.start()
    eventually(lambda: not bench.worker.workers[0].running)
    hold.set()
    stopping.join(10)
    assert bench.calls == [["running"]]
    assert bench.broker.client.llen(f"tocsin:{QUEUE}") == 50
    assert bench.left() == 50
