"""The stream refuses what is too much, is read meanwhile as ever, and loses nothing whoever dies."""

import json
import threading
import time

import psycopg
import pytest
import redis

from workers import stream_door
from workers.backlog import LONG, Chain
from workers.stream_door import REFUSAL, turn

pytest_plugins = ["tests.integration.fleet"]

STREAM = "tocsin:events"
GROUP = "intake"
LIMIT = 10


def number(id_):
    ms, _, seq = id_.decode().partition("-")
    return int(ms), int(seq)


def add(client, times=1, **options):
    return [client.xadd(STREAM, {"event": "{}"}, **options) for _ in range(times)]


def read(client, count=1000, reader="reader"):
    """Ids of what was new; acknowledged and deleted."""
    found = client.xreadgroup(GROUP, reader, {STREAM: ">"}, count=count)
    ids = [id_ for id_, _ in found[0][1]] if found else []
    if ids:
        assert client.xack(STREAM, GROUP, *ids) == client.xdel(STREAM, *ids) == len(ids)
    return ids


def assert_refused(client, **options):
    with pytest.raises(redis.ResponseError, match=REFUSAL):
        add(client, **options)


@pytest.fixture
def stream(client):
    client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    return client


@pytest.fixture
def closed(stream):
    add(stream, LIMIT + 1)
    assert turn(stream, LIMIT) == ("closed", LIMIT + 1)
    return stream


def test_at_the_limit_it_is_open_and_above_it_closed(stream):
    add(stream, LIMIT)
    assert turn(stream, LIMIT) == ("", LIMIT)
    assert not stream_door.is_closed(stream)
    add(stream)
    assert turn(stream, LIMIT) == ("closed", LIMIT + 1)
    assert turn(stream, LIMIT) == ("", LIMIT + 1)
    assert stream_door.is_closed(stream)


@pytest.mark.parametrize("options", [{}, {"id": "99999999999999-1"}, {"maxlen": 5}, {"nomkstream": True}], ids=str)
def test_closed_every_way_to_add_is_an_error_and_changes_nothing(closed, options):
    before = closed.xrange(STREAM)
    assert_refused(closed, **options)
    assert closed.xrange(STREAM) == before


def test_closed_all_that_readers_do_goes_on(closed):
    there = [id_ for id_, _ in closed.xrange(STREAM)]
    held = closed.xreadgroup(GROUP, "dead", {STREAM: ">"}, count=3)[0][1]
    assert [id_ for id_, _ in held] == there[:3]
    assert closed.xpending(STREAM, GROUP)["pending"] == 3
    taken_over = closed.xautoclaim(STREAM, GROUP, "reader", min_idle_time=0, count=10)[1]
    assert taken_over == held
    closed.xack(STREAM, GROUP, *there[:3])
    closed.xdel(STREAM, *there[:3])
    assert read(closed) == there[3:]
    assert read(closed) == []


def test_it_opens_below_four_fifths_and_not_before(closed):
    read(closed, 3)
    assert turn(closed, LIMIT) == ("", 8)
    assert_refused(closed)
    read(closed, 1)
    assert turn(closed, LIMIT) == ("open", 7)
    assert turn(closed, LIMIT) == ("", 7)
    assert not stream_door.is_closed(closed)
    add(closed)


FUTURE = f"{(int(time.time()) + 86_400) * 1000}-7"


def drained(client):
    read(client)


def trimmed_to_nothing(client):
    client.xtrim(STREAM, maxlen=0, approximate=False)


def its_group_destroyed(client):
    client.xgroup_destroy(STREAM, GROUP)
    client.xtrim(STREAM, maxlen=1, approximate=False)


@pytest.mark.parametrize("meanwhile", [drained, trimmed_to_nothing, its_group_destroyed])
def test_opened_again_ids_go_on_increasing(stream, meanwhile):
    newest = add(stream, LIMIT + 1)[-1]
    turn(stream, LIMIT)
    meanwhile(stream)
    assert turn(stream, LIMIT)[0] == "open"
    (after,) = add(stream)
    assert number(after) > number(newest)
    if meanwhile is not its_group_destroyed:
        assert after in read(stream)


@pytest.mark.parametrize("forgotten_by", ["nobody", "the deletions", "the group"])
def test_they_do_so_when_the_clock_was_set_back(stream, forgotten_by):
    """Ids of tomorrow, which whoever still knows them must remember."""
    add(stream, LIMIT)
    add(stream, id=FUTURE)
    turn(stream, LIMIT)
    if forgotten_by == "the deletions":
        stream.xreadgroup(GROUP, "reader", {STREAM: ">"})
        stream.xtrim(STREAM, maxlen=0, approximate=False)
    elif forgotten_by == "the group":
        stream.xdel(STREAM, *(id_ for id_, _ in stream.xrange(STREAM)))
    else:
        stream.xtrim(STREAM, maxlen=1, approximate=False)
    assert turn(stream, LIMIT)[0] == "open"
    (after,) = add(stream)
    assert number(after) > number(FUTURE.encode())
    assert after in read(stream)


@pytest.mark.parametrize("how", ["delete", "flushall"])
def test_a_stream_that_was_deleted_while_closed_is_open(closed, how):
    closed.flushall() if how == "flushall" else closed.delete(STREAM)
    assert not stream_door.is_closed(closed)
    assert turn(closed, LIMIT) == ("", 0)
    add(closed)


def test_many_keepers_readers_and_writers_at_once_lose_and_repeat_nothing(redis_url, stream):
    """For two seconds the door closes and opens as fast as it can."""
    over, drained = threading.Event(), threading.Event()
    added, found, changes, refusals, failed = [], [], [], [], []

    def connected(work, until):
        def run():
            try:
                with redis.Redis.from_url(redis_url) as client:
                    while not until.is_set():
                        work(client)
            except Exception as error:
                failed.append(error)

        return threading.Thread(target=run)

    def write(client):
        try:
            added.extend(add(client))
        except redis.ResponseError as error:
            refusals.append(str(error))

    def take(client):
        found.extend(read(client, 3, str(threading.get_ident())))

    def keep(client):
        changes.append(turn(client, 20)[0])

    writers = [connected(write, over) for _ in range(3)]
    others = [connected(keep, drained) for _ in range(3)] + [connected(take, drained) for _ in range(2)]
    for thread in writers + others:
        thread.start()
    deadline = time.monotonic() + 20
    while not failed and changes.count("open") < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    over.set()
    for thread in writers:
        thread.join()
    while not failed and stream.xlen(STREAM) and time.monotonic() < deadline:
        time.sleep(0.01)
    drained.set()
    for thread in others:
        thread.join()
    assert not failed
    assert changes.count("open") >= 20
    assert 0 <= changes.count("closed") - changes.count("open") <= 1
    assert refusals
    assert all(REFUSAL in refusal for refusal in refusals)
    assert sorted(found) == sorted(added)
    assert stream.xpending(STREAM, GROUP)["pending"] == 0


class Fleet:
    """A stream with a limit of 100, and a chain that can be made to look busy."""

    def __init__(self, environment, start, database, client, eventually):
        self.environment = environment | {"TOCSIN_STREAM_LIMIT": "100"}
        self.start, self.database, self.redis, self.eventually = start, database, client, eventually

    def intake(self):
        running = self.start(self.environment, "python", "-m", "workers.intake")
        alive = f"tocsin:alive:intake:*:{running.popen.pid}"
        self.eventually(lambda: list(self.redis.scan_iter(alive)), seconds=60)
        return running

    def busy(self, queue="pipeline", messages=11):
        """Messages that nobody works off, as large as such messages are."""
        size = LONG[queue] // 10
        self.redis.hset(f"tocsin:{queue}.msgs", mapping=dict.fromkeys(range(messages), "x" * size))
        self.redis.rpush(f"tocsin:{queue}", *range(messages))

    def reading(self):
        """Whether an intake has an entry in hand; it makes the group when it first looks."""
        groups = self.redis.xinfo_groups(STREAM) if self.redis.exists(STREAM) else []
        return any(group["pending"] for group in groups)

    def looks(self):
        """How often anybody asked how much waits there."""
        return self.redis.info("commandstats")["cmdstat_lrange"]["calls"]

    def idle(self):
        self.redis.delete("tocsin:pipeline", "tocsin:pipeline-bulk")

    def add(self, *events):
        for event in events:
            self.redis.xadd(STREAM, {"event": json.dumps(event)})

    def stored(self, prefix):
        query = "SELECT count(*) FROM events WHERE starts_with(id, %s)"
        return self.database.execute(query, (prefix,)).fetchone()[0]


@pytest.fixture
def fleet(fleet_environment, start, eventually):
    with (
        psycopg.connect(fleet_environment["DATABASE_URL"], autocommit=True) as database,
        redis.Redis.from_url(fleet_environment["REDIS_URL"]) as client,
    ):
        client.flushdb()
        yield Fleet(fleet_environment, start, database, client, eventually)


def said(running, event):
    return [line for line in running.lines() if line["event"] == event]


def test_many_small_messages_are_a_busy_chain_too(fleet):
    fleet.redis.hset("tocsin:pipeline.msgs", mapping=dict.fromkeys(range(3000), "x" * 400))
    fleet.redis.rpush("tocsin:pipeline", *range(3000))
    chain = Chain(fleet.redis)
    assert chain.is_busy()
    fleet.redis.ltrim("tocsin:pipeline", 0, 1300)
    assert chain.is_busy()
    fleet.redis.ltrim("tocsin:pipeline", 0, 1200)
    assert not chain.is_busy()


@pytest.mark.parametrize("queue", LONG)
def test_while_the_chain_is_busy_the_stream_waits(fleet, comment, name, eventually, queue):
    fleet.busy(queue)
    fleet.intake()
    fleet.add(comment(name, id=name))
    for left in (11, 6):  # it goes on at half, which is five of these
        fleet.redis.ltrim(f"tocsin:{queue}", 0, left - 1)
        looks = fleet.looks()
        eventually(lambda looks=looks: fleet.looks() > looks + 10)
        assert fleet.stored(name) == 0
    fleet.redis.lpop(f"tocsin:{queue}", 1)
    eventually(lambda: fleet.stored(name))


def test_a_door_closed_by_one_intake_is_opened_by_another(fleet, comment, name, eventually):
    fleet.busy()
    first = fleet.intake()
    fleet.add(*(comment(name, id=f"{name}-{n}") for n in range(101)))
    (line,) = eventually(lambda: said(first, "stream_door_closed"))
    assert (line["entries"], line["limit"]) == (101, 100)
    with pytest.raises(redis.ResponseError, match=REFUSAL):
        fleet.add(comment(name, id=f"{name}-refused"))
    first.kill()
    second = fleet.intake()
    fleet.idle()
    eventually(lambda: fleet.stored(name) == 101)
    (line,) = eventually(lambda: said(second, "stream_door_open"))
    assert line["entries"] < 80
    fleet.add(comment(name, id=f"{name}-later"))
    eventually(lambda: fleet.stored(name) == 102)
    assert fleet.stored(f"{name}-refused") == 0
    assert not said(second, "stream_door_closed")


def test_without_postgres_the_door_is_closed_in_time(fleet, comment, name, eventually):
    """The reader waits for the database; whoever keeps the door must not."""
    intake = fleet.intake()
    with fleet.database.transaction():
        fleet.database.execute("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE")
        fleet.add(comment(name, id=f"{name}-first"))
        eventually(fleet.reading)
        fleet.add(*(comment(name, id=f"{name}-{n}") for n in range(101)))
        eventually(lambda: said(intake, "stream_door_closed"), seconds=5)
    eventually(lambda: fleet.stored(name) == 102)
    eventually(lambda: said(intake, "stream_door_open"))
