"""The hub in this process, on real servers: what Redis loses, repeats or tells too early is made good."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool
from redis.asyncio import Redis

from schema.wire import Publication
from workers import embedded
from workers.gateway.connection import BOUND
from workers.gateway.hub import Hub
from workers.gateway.inbox import states
from workers.gateway.subscriptions import Subscriptions

pytest_plugins = ["tests.integration.gateways"]

FAR = 4e9


@pytest.fixture
def inboxes(inboxes_at, database_url, redis_url):
    with inboxes_at(database_url, redis_url) as opened:
        yield opened


@pytest.fixture
def open_hub(database_url, redis_url):
    """async with open_hub() as hub: a running hub; one that compares with Postgres only when it is told to, or
    every `reconcile_seconds`."""

    @asynccontextmanager
    async def opened(reconcile_seconds=1000.0, grace=0.0, window=500, redis=redis_url):
        async with AsyncConnectionPool(database_url, min_size=1, max_size=5, kwargs={"autocommit": True}) as pool:
            hub = Hub(pool, redis, reconcile_seconds, grace, window)
            await hub.start()
            try:
                yield hub
            finally:
                await hub.stop()

    return opened


class Browser:
    """A connection to a hub, and all it was told."""

    def __init__(self, hub, user="ada"):
        self.hub = hub
        self.connection = hub.admit(user, FAR, "sse", lambda: None)
        self.told = []

    async def open(self, after=None):
        self.told += (await self.hub.open(self.connection, after)).events
        return self

    def hear(self):
        self.told += self.connection.take()
        return self.told

    def seqs(self):
        return [event.seq for event in self.hear() if event.name == "notification"]

    def names(self):
        return [event.name for event in self.hear()]

    def counts(self):
        return [event.data for event in self.hear() if event.name == "unread-count"]

    def leave(self):
        self.hub.leave(self.connection)


def test_a_lost_publication_is_found_by_comparing(inboxes, open_hub, until):
    async def scenario():
        async with open_hub(reconcile_seconds=0.2) as hub:
            browser = await Browser(hub).open()
            for _ in range(3):
                inboxes.write("ada")
            await until(lambda: browser.seqs() == [1, 2, 3])
            assert browser.counts()[-1] == b'{"count":3}'
            assert "gap" not in browser.names(), "nothing but new rows: no reason to reload"
            inboxes.tell("ada")
            await until(lambda: browser.seqs() == [1, 2, 3, 4])
            browser.leave()

    asyncio.run(scenario())


def test_lost_publications_of_many_users_are_found_in_one_round(inboxes, open_hub):
    async def scenario():
        async with open_hub() as hub:
            browsers = [await Browser(hub, f"user-{n}").open() for n in range(20)]
            for number in range(20):
                for _ in range(number):
                    inboxes.write(f"user-{number}")
            await hub.reconcile(0)
            for number, browser in enumerate(browsers):
                assert browser.seqs() == list(range(1, number + 1))
                browser.leave()

    asyncio.run(scenario())


def test_more_than_the_window_lost_is_a_gap(inboxes, open_hub, until):
    async def scenario():
        async with open_hub(window=5) as hub:
            browser = await Browser(hub).open()
            for _ in range(6):
                inboxes.write("ada")
            await hub.reconcile(0)
            assert browser.seqs() == []
            assert next(event.seq for event in browser.told if event.name == "gap") == 6
            inboxes.tell("ada")
            await until(lambda: browser.seqs() == [7])
            browser.leave()

    asyncio.run(scenario())


def test_a_change_nobody_told_of_makes_the_list_reload(inboxes, open_hub):
    async def scenario():
        for _ in range(2):
            inboxes.write("ada")
        async with open_hub() as hub:
            browser = await Browser(hub).open()
            inboxes.database.execute("UPDATE inboxes SET unread = 1, version = version + 1")
            await hub.reconcile(0)
            assert browser.names() == ["unread-count", "gap", "unread-count"]
            assert browser.counts()[-1] == b'{"count":1}'
            await hub.reconcile(0)
            assert len(browser.hear()) == 3, "said once"
            browser.leave()

    asyncio.run(scenario())


def test_a_lost_row_and_a_lost_reading_together_make_the_list_reload(inboxes, open_hub):
    async def scenario():
        inboxes.write("ada")
        async with open_hub() as hub:
            browser = await Browser(hub).open()
            inboxes.write("ada")
            inboxes.database.execute("UPDATE inboxes SET unread = 1, version = version + 1")
            await hub.reconcile(0)
            assert browser.names() == ["unread-count", "notification", "gap", "unread-count"]
            browser.leave()

    asyncio.run(scenario())


def test_a_publication_on_its_way_is_not_taken_for_lost(inboxes, open_hub, until):
    async def scenario():
        async with open_hub() as hub:
            browser = await Browser(hub).open()
            publication = inboxes.write("ada")
            comparing = asyncio.create_task(hub.reconcile(0.5))
            await asyncio.sleep(0.1)
            inboxes.publish("ada", publication)
            await until(lambda: browser.seqs() == [1])
            assert not comparing.done()
            await comparing
            assert browser.seqs() == [1]
            browser.leave()

    asyncio.run(scenario())


def test_an_inbox_that_went_back_is_followed(inboxes, open_hub, until):
    async def scenario():
        for _ in range(5):
            inboxes.write("ada")
        async with open_hub() as hub:
            browser = await Browser(hub).open()
            with inboxes.database.transaction():  # the hub may look at any moment by itself
                inboxes.database.execute("DELETE FROM notifications")
                inboxes.database.execute("UPDATE inboxes SET seq = 0, version = 0, unread = 0")
            await hub.reconcile(0)
            first, second, *_, last = browser.names()
            assert (first, second, last) == ("unread-count", "gap", "unread-count")
            inboxes.tell("ada")
            await until(lambda: browser.seqs() == [1])
            browser.leave()

    asyncio.run(scenario())


def test_nothing_is_lost_or_doubled_while_connecting(inboxes, open_hub, until):
    """Browsers come, at their last place, while another thread commits and publishes without a pause."""

    def write():
        for _ in range(200):
            inboxes.tell("ada")

    async def scenario():
        async with open_hub() as hub:
            browsers = [await Browser(hub).open(after=0)]
            writing = asyncio.create_task(asyncio.to_thread(write))
            while not writing.done():
                browsers.append(await Browser(hub).open(after=0))
                if len(browsers) > 30:
                    browsers.pop(0).leave()
                for browser in browsers:
                    browser.hear()
            await writing
            for browser in browsers:
                await until(lambda browser=browser: len(browser.seqs()) >= 200)
                assert browser.seqs() == list(range(1, 201))
                browser.leave()

    asyncio.run(scenario())


def test_what_comes_between_subscribing_and_reading_is_told_once(inboxes, open_hub, until, monkeypatch):
    """The reading is held at both ends of its query, while rows are committed and published."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow_states(*arguments):
        await asyncio.to_thread(inboxes.tell, "ada", "before the query")
        found = await states(*arguments)
        await asyncio.to_thread(inboxes.tell, "ada", "after the query")
        reached.set()
        await go_on.wait()
        return found

    async def scenario():
        monkeypatch.setattr("workers.gateway.states.inbox.states", slow_states)
        async with open_hub() as hub:
            browser = Browser(hub)
            opening = asyncio.create_task(browser.open(after=0))
            await reached.wait()
            heard = hub._watched[b"tocsin:user:ada"]
            await until(lambda: heard.wanted == 2)
            go_on.set()
            await opening
            await until(lambda: len(browser.seqs()) >= 2)
            assert browser.seqs() == [1, 2]
            assert browser.counts()[-1] == b'{"count":2}'
            browser.leave()

    asyncio.run(scenario())


def test_many_who_come_at_once_are_read_together(inboxes, open_hub, monkeypatch):
    """Two tabs each, as after a restart; one of the second tabs leaves before it is answered."""
    asked = []

    async def counted(db, users):
        asked.append(len(users))
        return await states(db, users)

    async def scenario():
        monkeypatch.setattr("workers.gateway.states.inbox.states", counted)
        for number in range(50):
            for _ in range(number % 3):
                inboxes.write(f"user-{number}")
        async with open_hub() as hub:
            browsers = [Browser(hub, f"user-{n}") for n in range(50) for _ in range(2)]
            opening = [asyncio.create_task(browser.open()) for browser in browsers]
            while not asked:
                await asyncio.sleep(0)
            opening[1].cancel()
            await asyncio.wait(opening)
            assert opening[1].cancelled()
            for number, browser in enumerate(browsers):
                if number != 1:
                    assert browser.counts() == [b'{"count":%d}' % (number // 2 % 3)]
                browser.leave()
            assert len(asked) < 10

    asyncio.run(scenario())


def test_a_second_tab_that_knows_more_helps_the_first(inboxes, open_hub, until):
    async def scenario():
        async with open_hub() as hub:
            first = await Browser(hub).open()
            inboxes.write("ada")  # its publication is lost
            second = await Browser(hub).open()
            await until(lambda: first.seqs() == [1])
            assert second.seqs() == []
            inboxes.tell("ada")
            await until(lambda: (first.seqs(), second.seqs()) == ([1, 2], [2]))
            first.leave()
            second.leave()

    asyncio.run(scenario())


def test_a_late_read_all_does_not_read_what_came_after_it(inboxes, open_hub, until):
    async def scenario():
        async with open_hub() as hub:
            browser = await Browser(hub).open()
            inboxes.tell("ada")
            inboxes.tell("ada")
            await until(lambda: browser.seqs() == [1, 2])
            inboxes.publish("ada", Publication("read", version=1, unread=0))
            await until(lambda: browser.names()[-1] == "gap")
            assert browser.counts()[-1] == b'{"count":2}', "nor is its count believed"
            inboxes.publish("ada", Publication("read", version=9, unread=0))
            await until(lambda: browser.counts()[-1] == b'{"count":0}')
            assert "read" in browser.names()
            browser.leave()

    asyncio.run(scenario())


def test_one_that_takes_nothing_is_ended_and_others_are_not(inboxes, open_hub, until):
    async def scenario():
        async with open_hub() as hub:
            slow, quick = await Browser(hub).open(), await Browser(hub).open()
            for count in range(1, BOUND + 2):
                inboxes.tell("ada")
                await until(lambda count=count: quick.seqs() == list(range(1, count + 1)))
            assert slow.connection.ended == "slow"
            assert quick.connection.ended is None
            slow.leave()
            quick.leave()

    asyncio.run(scenario())


def test_a_subscription_ends_a_while_after_the_last_browser(inboxes, open_hub, until):
    def subscribers():
        return inboxes.redis.pubsub_numsub("tocsin:user:ada")[0][1]

    async def scenario():
        async with open_hub(reconcile_seconds=0.2) as hub:
            browser = await Browser(hub).open()
            await until(lambda: subscribers() == 1)
            browser.leave()
            await until(lambda: subscribers() == 0)
            again = await Browser(hub).open()
            await until(lambda: subscribers() == 1)
            inboxes.tell("ada")
            await until(lambda: again.seqs() == [1])
            again.leave()

    asyncio.run(scenario())


def test_a_subscription_that_redis_drops_is_made_again(inboxes, open_hub, until):
    async def scenario():
        async with open_hub() as hub:
            browser = await Browser(hub).open()
            for expected in (1, 2, 3):
                inboxes.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                inboxes.tell("ada")
                await until(lambda expected=expected: len(browser.seqs()) == expected)
            assert browser.seqs() == [1, 2, 3]
            browser.leave()

    asyncio.run(scenario())


def test_redis_gone_and_back_loses_nothing(inboxes_at, open_hub, database_url, tmp_path, until):
    with embedded.start(tmp_path, postgres=False, durable=False) as servers:

        async def scenario(inboxes):
            async with open_hub(redis=servers.redis_url) as hub:
                before = await Browser(hub).open()
                servers.valkey.kill()
                inboxes.write("ada")
                during = await Browser(hub, "bob").open()
                inboxes.write("bob")
                servers.valkey.launch()
                await until(lambda: (before.seqs(), during.seqs()) == ([1], [1]))
                with inboxes_at(database_url, servers.redis_url) as again:
                    again.tell("ada")
                    again.tell("bob")
                await until(lambda: (before.seqs(), during.seqs()) == ([1, 2], [1, 2]))
                before.leave()
                during.leave()

        with inboxes_at(database_url, servers.redis_url) as inboxes:
            asyncio.run(scenario(inboxes))


def test_an_error_nobody_thought_of_ends_no_comparison(inboxes, open_hub, until):
    async def scenario():
        async with open_hub(reconcile_seconds=0.05) as hub:
            browser = await Browser(hub).open()
            odd = await Browser(hub, "odd").open()
            watched = hub._watched[b"tocsin:user:odd"]
            watched.version = None
            inboxes.write("ada")
            await asyncio.sleep(0.2)
            watched.version = 0
            await until(lambda: browser.seqs() == [1])
            browser.leave()
            odd.leave()

    asyncio.run(scenario())


def test_a_deaf_connection_is_given_up(tmp_path, until):
    """A Redis that is stopped, not gone: connections stay open and nothing arrives."""
    with embedded.start(tmp_path, postgres=False, durable=False) as servers:

        async def scenario():
            heard, connected = [], []
            subscriptions = Subscriptions(
                servers.redis_url, lambda channel, data: heard.append((channel, data)), lambda: connected.append(1)
            )
            listening = asyncio.create_task(subscriptions.run())
            await subscriptions.add(b"ada")
            await until(lambda: len(connected) == 1)
            os.kill(servers.valkey.pid, signal.SIGSTOP)
            asking = asyncio.create_task(subscriptions.probe())
            await asyncio.sleep(0)
            await subscriptions.probe()
            os.kill(servers.valkey.pid, signal.SIGCONT)
            await asking
            await until(lambda: len(connected) == 2)
            async with Redis.from_url(servers.redis_url) as client:
                assert await client.publish("ada", "hello") == 1
            await until(lambda: heard == [(b"ada", b"hello")])
            listening.cancel()
            await asyncio.wait([listening])
            await subscriptions.aclose()

        asyncio.run(scenario())


def test_postgres_away_is_said_and_what_was_missed_is_found_later(inboxes, open_hub, until, database_url):
    async def scenario():
        async with open_hub(reconcile_seconds=0.2) as hub:
            browser = await Browser(hub).open()
            name = database_url.rpartition("/")[2]
            server = database_url.rpartition("/")[0]
            with psycopg.connect(f"{server}/postgres", autocommit=True) as other:
                other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                    " AND application_name <> 'inboxes'",
                    (name,),
                )
                late = Browser(hub, "bob")
                with pytest.raises(psycopg.OperationalError):
                    async with asyncio.timeout(40):
                        await late.open()
                late.leave()
                other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            inboxes.write("ada")
            await until(lambda: browser.seqs() == [1], 20)
            browser.leave()

    asyncio.run(scenario())
