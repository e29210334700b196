"""What workers/broker.py and workers/middleware.py take from inside Dramatiq is there, as it was.

When this fails, Dramatiq has changed: read its new consumer and dispatch.lua against ours before the pin moves.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import dramatiq
import pytest
from dramatiq.brokers import redis as stock
from dramatiq.common import dq_name, xq_name
from dramatiq.message import Message
from dramatiq.middleware import Middleware, Retries
from redis import Redis

LUA = Path(stock.__file__).parent / "redis" / "dispatch.lua"
COMMANDS = {"enqueue", "fetch", "ack", "nack", "requeue", "purge", "qsize"}


def parameters(function: Callable[..., object]) -> str:
    """`self, queue_name, *args`: names and kinds, without types."""
    signature = inspect.signature(function)
    untyped = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=untyped, return_annotation=signature.empty))[1:-1]


@pytest.fixture
def broker(redis_url: str) -> Iterator[stock.RedisBroker]:
    with Redis.from_url(redis_url) as client:
        yield stock.RedisBroker(client=client, namespace="tocsin", middleware=[])


def sent(broker: stock.RedisBroker) -> Message[Any]:
    return broker.enqueue(Message(queue_name="q", actor_name="a", args=(), kwargs={}, options={}))


def test_the_version_is_the_one_we_read() -> None:
    assert re.fullmatch(r"2\.2\.\d+", version("dramatiq"))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (stock._RedisConsumer.__init__, "self, broker, queue_name, prefetch, timeout"),
        (stock._RedisConsumer.__next__, "self"),
        (stock._RedisConsumer.ack, "self, message"),
        (stock._RedisConsumer.nack, "self, message"),
        (stock._RedisConsumer.requeue, "self, messages"),
        (stock.RedisBroker._dispatch, "self, command"),
        (stock.RedisBroker._max_unpack_size, "self"),
        (stock.RedisBroker.consume, "self, queue_name, prefetch=1, timeout=5000"),
        (stock.RedisBroker.enqueue, "self, message, *, delay=None"),
        (Retries.after_process_message, "self, broker, message, *, result=None, exception=None"),
        (Middleware.after_process_message, "self, broker, message, *, result=None, exception=None"),
        (Middleware.before_process_message, "self, broker, message"),
        (Middleware.after_nack, "self, broker, message"),
        (Middleware.after_process_boot, "self, broker"),
        (Middleware.before_worker_shutdown, "self, broker, worker"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_what_we_call_or_replace_has_the_same_parameters(function: Callable[..., object], expected: str) -> None:
    assert parameters(function) == expected


def test_a_consumer_is_made_by_the_brokers_class_and_has_its_state(broker: stock.RedisBroker) -> None:
    assert isinstance(inspect.getattr_static(stock.RedisBroker, "consumer_class"), property)
    consumer = broker.consume("q", prefetch=3, timeout=7)
    assert type(consumer) is stock._RedisConsumer
    assert (consumer.broker, consumer.queue_name, consumer.prefetch, consumer.timeout) == (broker, "q", 3, 7)
    assert (consumer.message_cache, consumer.queued_message_ids) == ([], set())
    consumer.queued_message_ids.add("x")
    consumer.message_cache.append(b"y")
    assert consumer.outstanding_message_count == 2


def test_the_broker_has_what_we_use_of_it(broker: stock.RedisBroker) -> None:
    assert broker.namespace == "tocsin"
    assert broker.broker_id
    assert {"dispatch", "maxstack"} <= broker.scripts.keys()
    assert broker._max_unpack_size() > 0
    for command in ("fetch", "ack", "nack", "requeue", "enqueue"):
        assert callable(getattr(broker, f"do_{command}"))


def test_the_script_takes_its_arguments_in_our_order() -> None:
    lua = LUA.read_text()
    assert re.findall(r"^local (\w+) = (?:KEYS|ARGV)\[\d\]", lua, re.MULTILINE) == [
        "namespace",
        "command",
        "timestamp",
        "queue_name",
        "worker_id",
        "heartbeat_timeout",
        "dead_message_ttl",
        "do_maintenance",
        "max_unpack_size",
    ]
    assert "for i=9,#ARGV do" in lua
    assert set(re.findall(r'command == "(\w+)"', lua)) == COMMANDS


def test_the_keys_are_those_we_read(broker: stock.RedisBroker) -> None:
    """`_taken`, `_bury_unreadable`, workers/queues.py and dead_workers.lua look at them."""
    client: Any = broker.client
    id_ = sent(broker).options["redis_message_id"].encode()
    assert client.lrange("tocsin:q", 0, -1) == [id_]
    assert client.hkeys("tocsin:q.msgs") == [id_]
    (fetched,) = broker.do_fetch("q", 10)
    assert Message.decode(fetched).options["redis_message_id"].encode() == id_
    held = f"tocsin:__acks__.{broker.broker_id}.q"
    assert client.smembers(held) == {id_}
    assert client.zscore("tocsin:__heartbeats__", broker.broker_id) > 0
    broker.do_requeue("q", id_)
    assert (client.lrange("tocsin:q", 0, -1), client.smembers(held)) == ([id_], set())
    broker.do_fetch("q", 10)
    broker.do_nack("q", id_)
    assert client.exists("tocsin:q.msgs", held) == 0
    assert client.zrange(f"tocsin:{xq_name('q')}", 0, -1) == [id_]
    assert client.hkeys(f"tocsin:{xq_name('q')}.msgs") == [id_]
    assert (dq_name("q"), xq_name("q")) == ("q.DQ", "q.XQ")


def test_a_fetch_of_none_is_a_sign_of_life(broker: stock.RedisBroker) -> None:
    """A full consumer asks for none, to show itself alive."""
    sent(broker)
    assert broker.do_fetch("q", 0) == []
    assert broker.client.zcard("tocsin:__heartbeats__") == 1
    assert broker.client.llen("tocsin:q") == 1


def test_what_was_acknowledged_leaves_nothing(broker: stock.RedisBroker) -> None:
    message = sent(broker)
    broker.do_fetch("q", 1)
    broker.do_ack("q", message.options["redis_message_id"])
    assert broker.client.keys("tocsin:*") == [b"tocsin:__heartbeats__"]
    broker.do_ack("q", str(uuid4()))


def test_ours_goes_by_these_names(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    from workers.settings import settings

    settings.cache_clear()
    try:
        from workers import broker as ours
    finally:
        settings.cache_clear()
    assert issubclass(ours.Consumer, stock._RedisConsumer)
    assert issubclass(ours.Broker, stock.RedisBroker)
    for name in ("ack", "nack", "requeue", "__next__"):
        assert parameters(getattr(ours.Consumer, name)) == parameters(getattr(stock._RedisConsumer, name))
    assert parameters(ours.Broker._dispatch) == parameters(stock.RedisBroker._dispatch)
    assert isinstance(dramatiq.get_encoder(), ours.JsonEncoder)
