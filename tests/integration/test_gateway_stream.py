"""The event stream: each notification once and in order, whatever happens to publications and connections."""

import socket
import time

import msgspec
import pytest

pytest_plugins = ["tests.integration.gateways"]

ROOT = "/api/notifications"


def test_the_stream_begins_with_the_unread_count_and_a_place(gateway, name):
    gateway.inboxes.write(name)
    listener = gateway.listen(name)
    assert listener.next() == ("unread-count", {"count": 1})
    assert listener.last == "1"
    assert any(line.startswith("retry: ") for line in listener.raw)
    headers = {key.lower(): value for key, value in listener.response.getheaders()}
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"


def test_a_notification_comes_as_rest_shows_it(gateway, name):
    listener = gateway.listen(name)
    listener.until("unread-count")
    written = gateway.inboxes.write(name)
    gateway.inboxes.publish(name, written)
    assert listener.until("notification")[-1][1]["id"] == str(written.item.id)
    assert listener.last == "1"
    listener.count(1)
    resumed = gateway.listen(name, last=0)
    assert resumed.until("notification")[-1][1] == gateway.get(name, ROOT).json()["notifications"][0]


def test_two_users_hear_their_own(gateway, name):
    ada, bob = gateway.listen(f"{name}-ada"), gateway.listen(f"{name}-bob")
    for listener in (ada, bob):
        listener.until("unread-count")
    gateway.inboxes.tell(f"{name}-ada", "for ada")
    gateway.inboxes.tell(f"{name}-bob", "for bob")
    for listener, user in ((ada, "ada"), (bob, "bob")):
        told = [*listener.until("notification"), listener.next()]
        assert [data["title"] for event, data in told if event == "notification"] == [f"for {user}"]
        assert ("unread-count", {"count": 1}) in told


def test_whoever_was_away_is_told_each_of_200_once_and_in_order(gateway, name):
    listener = gateway.listen(name)
    listener.until("unread-count")
    gateway.inboxes.tell(name)
    listener.until("notification")
    last = listener.last
    listener.close()
    for _ in range(200):
        gateway.inboxes.write(name)
    resumed = gateway.listen(name, last=last)
    assert resumed.next() == ("unread-count", {"count": 201})
    assert resumed.seqs(200) == list(range(2, 202))
    gateway.inboxes.tell(name)
    assert resumed.seqs(1) == [202]
    assert resumed.last == "202"


def test_the_place_may_also_be_in_the_address(gateway, name):
    for _ in range(3):
        gateway.inboxes.write(name)
    assert gateway.listen(name, lastEventId=1).seqs(2) == [2, 3]
    assert gateway.listen(name, lastEventId="").until("unread-count") == [("unread-count", {"count": 3})]


def test_beyond_the_window_there_is_a_gap_and_then_it_goes_on(gateway, name):
    gateway.inboxes.write(name)
    gateway.inboxes.database.execute(
        "INSERT INTO notifications (id, user_id, seq, type, category, importance, created_at)"
        " SELECT uuidv7(), %s, n, 'comment', 'social', 'normal', now() FROM generate_series(2, 600) n",
        (name,),
    )
    gateway.inboxes.database.execute("UPDATE inboxes SET seq = 600, version = 600 WHERE user_id = %s", (name,))
    listener = gateway.listen(name, last=1)
    assert [event for event, _ in listener.until("gap")] == ["unread-count", "gap"]
    assert listener.last == "600"
    gateway.inboxes.tell(name)
    assert listener.seqs(1) == [601]


@pytest.mark.parametrize("place", ["99", "never", "9" * 30, "-1"])
def test_a_place_that_never_was_is_a_gap(gateway, name, place):
    gateway.inboxes.write(name)
    listener = gateway.listen(name, last=place)
    assert [event for event, _ in listener.until("gap")] == ["unread-count", "gap"]
    assert listener.last == "1"


def test_publications_that_repeat_or_overtake_each_other_are_put_right(gateway, name):
    listener = gateway.listen(name)
    listener.until("unread-count")
    told = [gateway.inboxes.write(name) for _ in range(6)]
    for place in (2, 1, 1, 5, 3, 0, 4, 5, 2):
        gateway.inboxes.publish(name, told[place])
    assert listener.seqs(6) == [1, 2, 3, 4, 5, 6]
    gateway.inboxes.tell(name)
    assert listener.seqs(1) == [7], "nothing was told twice"
    listener.count(7)


def test_a_late_publication_is_not_believed_about_what_changed_since(gateway, name):
    listener = gateway.listen(name)
    listener.until("unread-count")
    late = gateway.inboxes.write(name)
    gateway.post(name, f"{ROOT}/read-all")
    listener.until("read")
    gateway.inboxes.publish(name, late)
    assert listener.until("notification")[-1][1]["read"] is True


def test_an_archived_row_is_not_told(gateway, name):
    listener = gateway.listen(name)
    listener.until("unread-count")
    late = gateway.inboxes.write(name)
    gateway.post(name, f"{ROOT}/{late.item.id}/archive")
    gateway.inboxes.publish(name, late)
    gateway.inboxes.tell(name, "after")
    assert listener.until("notification")[-1][1]["title"] == "after"


def test_an_unreadable_publication_harms_nobody(gateway, name):
    listener = gateway.listen(name)
    listener.until("unread-count")
    for rubbish in (b"", b"{", b"[" * 50_000, b'{"kind":"\xff"}', b'{"kind":"surprise","version":1,"unread":1}'):
        gateway.inboxes.redis.publish(f"tocsin:user:{name}", rubbish)
    gateway.inboxes.tell(name)
    assert listener.seqs(1) == [1]


def test_what_one_tab_does_every_tab_is_told(gateway, name):
    tabs = [gateway.listen(name) for _ in range(3)]
    first, second, _ = [gateway.inboxes.tell(name) for _ in range(3)]
    for tab in tabs:
        tab.count(3)
    gateway.post(name, f"{ROOT}/{first.id}/read")
    gateway.post(name, f"{ROOT}/{second.id}/archive")
    gateway.post(name, f"{ROOT}/read-all")
    for tab in tabs:
        told = [*tab.until("archived"), *tab.until("read"), *tab.until("unread-count")]
        changes = [(event, data) for event, data in told if event != "unread-count"]
        assert changes == [
            ("read", {"ids": [str(first.id)]}),
            ("archived", {"ids": [str(second.id)]}),
            ("read", {"all": True}),
        ]
        assert told[-1] == ("unread-count", {"count": 0})


def test_what_changes_nothing_is_not_told(gateway, name):
    listener = gateway.listen(name)
    item = gateway.inboxes.tell(name)
    listener.count(1)
    for _ in range(3):
        gateway.post(name, f"{ROOT}/{item.id}/read")
    listener.until("read")
    listener.count(0)
    gateway.inboxes.tell(name)
    assert [event for event, _ in listener.until("notification")] == ["notification"]


def test_a_group_moves_up_and_is_told_with_its_new_place(gateway, name):
    listener = gateway.listen(name)
    leading = [gateway.inboxes.tell(name) for _ in range(2)]
    listener.seqs(2)
    gateway.inboxes.gather(name, leading)
    group = listener.until("notification")[-1][1]
    assert group["seq"] == 3
    assert group["group"] == {"count": 3, "leading": [str(item.id) for item in leading]}
    listener.count(1)
    assert gateway.listen(name, last=0).seqs(1) == [3], "whoever was away is told the group only"


def test_whoever_does_not_read_is_closed_and_others_hear_everything(gateway, name, eventually):
    """A stalled browser: a small receive buffer that nobody empties."""

    def slow():
        return gateway.metric("tocsin_gateway_slow_closed_total")

    before = slow()
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, port = gateway.url.removeprefix("http://").split(":")
    with stalled:
        stalled.connect((host, int(port)))
        head = [f"GET {ROOT}/stream HTTP/1.1", f"Host: {host}"]
        head += [f"{key}: {value}" for key, value in gateway.bearer(name).items()]
        stalled.sendall("\r\n".join([*head, "", ""]).encode())
        assert stalled.recv(64).startswith(b"HTTP/1.1 200")
        listener = gateway.listen(name)
        listener.until("unread-count")
        told = 0
        begun = time.monotonic()
        while slow() == before:
            assert time.monotonic() - begun < 60, "still open"
            for _ in range(20):
                publication = gateway.inboxes.write(name)
                publication.item.data = {"a": "x" * 50_000}
                gateway.inboxes.publish(name, publication)
            assert listener.seqs(20) == list(range(told + 1, told + 21))
            told += 20
        eventually(lambda: gateway.metric('tocsin_gateway_connections{transport="sse"}') == 1, 15)


def test_a_burst_to_one_user_does_not_close_a_browser_that_reads(gateway, name):
    """500 publications in one packet, as deliver-web sends them."""
    listener = gateway.listen(name)
    listener.until("unread-count")
    told = [gateway.inboxes.write(name) for _ in range(300)]
    pipe = gateway.inboxes.redis.pipeline(transaction=False)
    for publication in told:
        pipe.publish(f"tocsin:user:{name}", msgspec.json.encode(publication))
    pipe.execute()
    assert listener.seqs(300) == list(range(1, 301))
    listener.count(300)


def test_connections_are_counted_and_given_back(gateway, name, eventually):
    listener = gateway.listen(name)
    listener.until("unread-count")
    assert gateway.metric('tocsin_gateway_connections{transport="sse"}') >= 1
    listener.close()
    eventually(lambda: gateway.metric('tocsin_gateway_connections{transport="sse"}') == 0)
