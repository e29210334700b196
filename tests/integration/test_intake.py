"""The two doors that cannot answer: everything good is accepted once, everything bad is kept with its reason."""

import json
import time

import psycopg
import pytest
import redis

pytest_plugins = ["tests.integration.fleet"]

STREAM = "tocsin:events"
GROUP = "intake"


class Doors:
    """The stream and the tables, as producers and operators see them."""

    def __init__(self, environment, database, client, eventually):
        self.environment, self.database, self.redis, self.eventually = environment, database, client, eventually
        self.intake = None

    def add(self, *events):
        """XADD of each event; bytes go as they are."""
        pipe = self.redis.pipeline(transaction=False)
        for event in events:
            pipe.xadd(STREAM, {"event": event if isinstance(event, bytes) else json.dumps(event)})
        return pipe.execute()

    def insert(self, id_, event, **columns):
        """What a service does in its own transaction."""
        values = {"id": id_, "type": "comment", "recipients": '["ada"]', "data": "{}"}
        values |= {
            key: json.dumps(v) if key in ("recipients", "data") else v for key, v in event.items()
        } | columns
        names = ", ".join(values)
        self.database.execute(
            f"INSERT INTO events ({names}) VALUES ({', '.join(['%s'] * len(values))})", list(values.values())
        )

    def stored(self, prefix):
        """id -> door of accepted events whose ids start so."""
        query = "SELECT id, door FROM events WHERE accepted_at IS NOT NULL AND starts_with(id, %s)"
        return dict(self.database.execute(query, (prefix,)).fetchall())

    def rejected(self, part):
        """(door, event id, errors) of what was refused and speaks of `part`, once there is one."""
        query = """SELECT door, event_id, payload, errors FROM rejected_events
            WHERE event_id = %(part)s OR strpos(payload, %(part)s) > 0 ORDER BY id"""
        return self.eventually(lambda: self.database.execute(query, {"part": part}).fetchall())

    def stream_is_empty(self):
        """Nothing left, and nothing pending."""
        return self.redis.xlen(STREAM) == 0 and self.redis.xpending(STREAM, GROUP)["pending"] == 0


@pytest.fixture(scope="module")
def doors(fleet_environment, eventually):
    with (
        psycopg.connect(fleet_environment["DATABASE_URL"], autocommit=True) as database,
        redis.Redis.from_url(fleet_environment["REDIS_URL"]) as client,
    ):
        yield Doors(fleet_environment, database, client, eventually)


@pytest.fixture
def intake(doors, start_once, eventually):
    """A running intake that looks at both doors: the one of the test before, unless that ended it."""
    if doors.intake is None or doors.intake.popen.poll() is not None:
        doors.intake = start_once(doors.environment, "python", "-m", "workers.intake")
        alive(doors, doors.intake)
        eventually(lambda: doors.redis.exists(STREAM) and doors.redis.xinfo_groups(STREAM))
    said = len(doors.intake.text())
    yield doors.intake
    written = doors.intake.text()[said:]
    assert "Traceback" not in written, written[-2000:]
    assert doors.intake.popen.poll() in (None, 0, -9)


def alive(doors, running):
    """Waits until that process says it is: then its signals have their handlers."""
    doors.eventually(lambda: list(doors.redis.scan_iter(f"tocsin:alive:intake:*:{running.popen.pid}")), seconds=60)


def taken(lines):
    return [line for line in lines if line["event"] == "events_taken"]


def reasons(rejected):
    return {error["field"]: error["message"] for _, _, _, errors in rejected for error in errors}


def test_entries_of_the_stream_are_accepted_and_gone(doors, intake, comment, name, eventually):
    said = len(intake.lines())
    doors.add(*(comment(name, id=f"{name}-{n}") for n in range(1200)))
    eventually(lambda: len(doors.stored(name)) == 1200)
    eventually(doors.stream_is_empty)
    assert set(doors.stored(name).values()) == {"stream"}
    eventually(lambda: sum(line["accepted"] for line in taken(intake.lines(said))) == 1200)
    assert name not in intake.text()


def test_what_is_wrong_on_the_stream_is_kept_with_its_reasons(doors, intake, comment, name, eventually):
    """One bad entry of each kind, good ones between them, all at once."""
    doors.add(
        comment(name, id=f"{name}-good-1"),
        comment(name, id=f"{name}-same"),
        comment(name, id=f"{name}-same"),
        comment("eve", id=f"{name}-same"),
        f'{{"id": "{name}-cut", "type"'.encode(),
        b"\xff\xfe" + name.encode() + b"-binary",
        comment(name, id=f"{name}-type", type="coment"),
        comment(name, id=f"{name}-data", data={"userName": name}),
        comment(name, id=f"{name}-nul", group_key="a\0b"),
        comment(name, id=f"{name}-good-2"),
    )
    doors.redis.xadd(STREAM, {"payload": f"{name}-field"})
    eventually(lambda: f"{name}-good-2" in doors.stored(name))
    eventually(doors.stream_is_empty)
    assert set(doors.stored(name)) == {f"{name}-good-1", f"{name}-same", f"{name}-good-2"}
    clash = doors.rejected(f"{name}-same")
    assert [(door, event_id, json.loads(payload)["recipients"]) for door, event_id, payload, _ in clash] == [
        ("stream", f"{name}-same", ["eve"])
    ]
    assert "another body" in reasons(clash)["id"]
    assert "JSON" in reasons(doors.rejected(f"{name}-cut"))[""]
    assert doors.rejected(f"{name}-binary")[0][2].startswith("\\xff\\xfe")
    assert "did you mean 'comment'?" in reasons(doors.rejected(f"{name}-type"))["type"]
    assert "required" in reasons(doors.rejected(f"{name}-data"))["data.comment"]
    assert "NUL" in reasons(doors.rejected(f"{name}-nul"))["group_key"]
    assert "XADD" in reasons(doors.rejected(f"{name}-field"))["event"]


def test_of_a_clash_the_right_body_is_kept(doors, intake, comment, name, eventually):
    """Another body between two equal ones, in one batch: the other one is what was refused."""
    pipe = doors.redis.pipeline()  # one transaction: one batch
    for user in (name, "eve", name):
        pipe.xadd(STREAM, {"event": json.dumps(comment(user, id=name))})
    pipe.execute()
    ((_, _, payload, _),) = doors.rejected(name)
    assert json.loads(payload)["recipients"] == ["eve"]


HOSTILE = {
    "cut after an error": (b'{"id": "ID", "type": 5, "recip', ""),
    "deep after an error": (b'{"id": "ID", "type": 5, "x": ' + b"[" * 2000 + b"]" * 2000 + b"}", ""),
    "binary after an error": (b'{"id": "ID", "type": 5, "x": "\xff"}', ""),
    "after year 9999": ({"send_at": "9999-12-31T23:59:59-23:00"}, "send_at"),
    "before year 1": ({"expires_at": "0001-01-01T00:00:00+23:00"}, "expires_at"),
}


@pytest.mark.parametrize(("entry", "field"), HOSTILE.values(), ids=HOSTILE)
def test_no_entry_stops_the_door(doors, intake, comment, name, entry, field, eventually):
    id_ = f"{name}-bad"
    bad = entry.replace(b"ID", id_.encode()) if isinstance(entry, bytes) else comment(name, id=id_, **entry)
    doors.add(bad, comment(name, id=f"{name}-good"))
    try:
        eventually(lambda: f"{name}-good" in doors.stored(name) or intake.popen.poll() is not None)
        assert intake.popen.poll() is None, intake.text()[-500:]
        assert f"{name}-good" in doors.stored(name)
        assert field in reasons(doors.rejected(id_))
    finally:
        doors.redis.delete(STREAM)  # else it would stop every later intake as well


@pytest.fixture
def picky(doors):
    """A database that refuses the content of some events that Python finds nothing wrong with."""
    doors.database.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'this content is beyond me' USING ERRCODE = 'data_exception'; END $$;
        CREATE TRIGGER picky BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.source = 'beyond')
            EXECUTE FUNCTION refuse()
    """)
    yield
    doors.database.execute("DROP TRIGGER picky ON events; DROP FUNCTION refuse")


def test_what_the_database_refuses_takes_no_neighbour_with_it(doors, intake, picky, comment, name, eventually):
    pipe = doors.redis.pipeline()  # one transaction: one batch
    for n in range(20):
        source = {"source": "beyond"} if n in (3, 11) else {}
        pipe.xadd(STREAM, {"event": json.dumps(comment(name, id=f"{name}-{n}", **source))})
    pipe.xadd(STREAM, {"event": f'{{"id": "{name}-cut"'})
    pipe.execute()
    eventually(lambda: len(doors.stored(name)) == 18)
    eventually(doors.stream_is_empty)
    for id_ in (f"{name}-3", f"{name}-11"):
        ((door, event_id, payload, errors),) = doors.rejected(id_)
        assert (door, event_id, json.loads(payload)["source"]) == ("stream", id_, "beyond")
        assert "this content is beyond me" in errors[0]["message"]
    assert len(doors.rejected(f"{name}-cut")) == 1
    assert "beyond" not in intake.text()


def test_what_looks_like_an_escape_is_rejected_like_anything_else(doors, intake, comment, name, eventually):
    """`\\u0000` as six characters, not as the one that PostgreSQL does not store."""
    odd = comment(name, id=f"{name}-odd", type="\\u0000")
    doors.redis.xadd(STREAM, {"event": json.dumps(odd)})
    doors.redis.xadd(STREAM, {"event": json.dumps(comment(name, id=f"{name}-good"))})
    eventually(lambda: len(doors.stored(name)) == 1)
    eventually(doors.stream_is_empty)
    assert "\\u0000" in reasons(doors.rejected(f"{name}-odd"))["type"]


def test_entries_of_a_dead_reader_are_taken_over(doors, intake, comment, name, eventually):
    """Read by a consumer that never acknowledges: it died between reading and committing."""
    doors.redis.xgroup_createconsumer(STREAM, GROUP, "dead")
    pipe = doors.redis.pipeline()  # in one transaction: intake must not be faster
    for n in range(20):
        pipe.xadd(STREAM, {"event": json.dumps(comment(name, id=f"{name}-{n}"))})
    pipe.xreadgroup(GROUP, "dead", {STREAM: ">"}, count=20)
    taken = pipe.execute()[-1]
    assert len(taken[0][1]) == 20
    assert doors.stored(name) == {}
    eventually(lambda: len(doors.stored(name)) == 20, seconds=12)
    eventually(doors.stream_is_empty)


def test_a_killed_intake_loses_nothing_and_repeats_nothing(doors, intake, start, comment, name, eventually):
    doors.add(*(comment(name, id=f"{name}-{n}") for n in range(3000)))
    eventually(lambda: doors.stored(name))
    intake.kill()
    start(doors.environment, "python", "-m", "workers.intake")
    eventually(lambda: len(doors.stored(name)) == 3000, seconds=60)
    eventually(doors.stream_is_empty, seconds=15)


def test_an_emptied_redis_does_not_stop_it(doors, intake, comment, name, eventually):
    doors.redis.flushall()
    eventually(lambda: doors.add(comment(name, id=f"{name}-1")) and doors.stored(name), seconds=10)
    doors.redis.delete(STREAM)
    doors.add(comment(name, id=f"{name}-2"))
    eventually(lambda: f"{name}-2" in doors.stored(name), seconds=10)
    assert intake.popen.poll() is None


def test_a_committed_row_is_taken_within_a_second(doors, intake, comment, name, eventually):
    event = comment(name, group_key="post-1", importance="high", source="shop", actor="bob")
    with doors.database.transaction():
        doors.insert(name, event)
    began = time.monotonic()
    eventually(lambda: doors.stored(name) == {name: "sql"})
    assert time.monotonic() - began < 1
    query = "SELECT recipient_count, body_hash IS NOT NULL, importance, actor FROM events WHERE id = %s"
    assert doors.database.execute(query, (name,)).fetchone() == (1, True, "high", "bob")
    eventually(lambda: doors.redis.hlen("dramatiq:pipeline.msgs") or doors.redis.hlen("tocsin:pipeline.msgs"))


def test_repeated_recipients_of_a_row_count_once_and_a_later_one_waits(doors, intake, comment, name, eventually):
    doors.insert(f"{name}-1", comment([name, name, "eve"]))
    doors.insert(f"{name}-2", comment(name), send_at="2037-01-01T00:00:00Z")
    eventually(lambda: len(doors.stored(name)) == 2)
    count = "SELECT recipient_count, recipients FROM events WHERE id = %s"
    assert doors.database.execute(count, (f"{name}-1",)).fetchone() == (2, [name, "eve"])
    timer = "SELECT count(*) FROM timers WHERE subject = %s"
    assert doors.database.execute(timer, (f"{name}-2",)).fetchone() == (1,)


def test_a_row_is_known_to_the_other_doors(doors, intake, comment, name, eventually):
    """The same event by SQL and by the stream is one; another body of that id is refused."""
    doors.insert(name, comment(name))
    eventually(lambda: doors.stored(name))
    doors.add(comment(name, id=name), comment("eve", id=name))
    ((door, event_id, payload, _),) = doors.rejected(name)
    assert (door, event_id, json.loads(payload)["recipients"]) == ("stream", name, ["eve"])
    assert doors.stored(name) == {name: "sql"}


def test_bad_rows_are_moved_with_their_reasons_and_good_ones_stay(doors, intake, comment, name):
    doors.insert(f"{name}-type", comment(name, type="coment"))
    doors.insert(f"{name}-data", comment(name, data={"userName": "Bob"}))
    doors.insert(f"{name}-recipients", comment(name, recipients={"ada": 1}))
    doors.insert(f"{name}-none", comment(name, recipients=[]))
    doors.insert(f"{name}-importance", comment(name), importance="urgent")
    doors.insert(f"{name}-actor", comment(name), actor="x" * 200)
    doors.insert(
        f"{name}-link", comment(name, type="mention", data={"userName": "a", "text": "b", "url": "ftp://x"})
    )
    doors.insert(f"{name}-good", comment(name))
    doors.eventually(lambda: f"{name}-good" in doors.stored(name))
    expected = {
        "type": ("type", "did you mean 'comment'?"),
        "data": ("data.comment", "required"),
        "recipients": ("recipients.ada", "not a known field"),
        "none": ("recipients", "1"),
        "importance": ("importance", "low, normal"),
        "actor": ("actor", "128"),
        "link": ("data.url", "https"),
    }
    for which, (field, words) in expected.items():
        ((door, event_id, _, _),) = found = doors.rejected(f"{name}-{which}")
        assert (door, event_id) == ("sql", f"{name}-{which}")
        assert words in reasons(found)[field]
    query = "SELECT count(*) FROM events WHERE starts_with(id, %s)"
    assert doors.database.execute(query, (name,)).fetchone() == (1,)


@pytest.mark.parametrize("column", ["send_at", "expires_at"])
@pytest.mark.parametrize("instant", ["infinity", "12000-01-01 00:00:00Z", "0044-03-15 00:00:00Z BC"])
def test_no_row_stops_the_door(doors, intake, comment, name, column, instant):
    """Times that Postgres has and Python has not."""
    doors.insert(f"{name}-bad", comment(name), **{column: instant})
    doors.insert(f"{name}-good", comment(name))
    try:
        doors.eventually(lambda: f"{name}-good" in doors.stored(name) or intake.popen.poll() is not None)
        assert intake.popen.poll() is None, intake.text()[-500:]
        assert f"{name}-good" in doors.stored(name)
        assert column in reasons(doors.rejected(f"{name}-bad"))
    finally:
        doors.database.execute("DELETE FROM events WHERE id = %s", (f"{name}-bad",))


def test_two_intakes_at_once_store_each_event_once(doors, intake, start, comment, name, eventually):
    second = start(doors.environment, "python", "-m", "workers.intake")
    alive(doors, second)
    said = len(intake.lines())
    events = [comment(name, id=f"{name}-{n}") for n in range(1000)]
    for begin in range(0, 1000, 50):
        doors.add(*events[begin : begin + 50], *events[begin : begin + 50])
        doors.insert(f"{name}-sql-{begin}", comment(name))
    eventually(lambda: len(doors.stored(name)) == 1020, seconds=20)
    eventually(doors.stream_is_empty)
    # A line follows what it speaks of.
    eventually(lambda: sum(line["accepted"] for line in taken(intake.lines(said) + second.lines())) >= 1020)
    lines = taken(intake.lines(said) + second.lines())
    assert sum(line["accepted"] for line in lines) == 1020
    assert sum(line["rejected"] for line in lines) == 0
    assert {line["door"] for line in lines} == {"stream", "sql"}


def test_sigterm_ends_it_within_3_s_and_forgets_the_reader(doors, intake):
    began = time.monotonic()
    assert intake.stop() == 0
    assert time.monotonic() - began < 3
    pid = str(intake.popen.pid).encode()
    assert not [reader for reader in doors.redis.xinfo_consumers(STREAM, GROUP) if reader["name"].endswith(pid)]
    assert not list(doors.redis.scan_iter(b"tocsin:alive:intake:*:" + pid))
