"""What email and push do with providers that misbehave, ten thousand deliveries each, and how fast mails go.

Not part of the usual run, for it takes minutes: `make bench ARGS="--only channels"`. The providers are the tests'
fakes, in this process; the mails' speed is measured against the same fake, which is what limits both.
"""

import json
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

import psycopg

from tests.benchmarks.bench import Bench, Failed
from tests.benchmarks.producer import STREAM
from tests.benchmarks.report import Row, met
from tests.fakes.answers import Answer
from tests.fakes.fcm import HTML, FakeFcm, error
from tests.fakes.smtp import DROP, HANG, MailServer

MAILED, PUSHED = "mailed", "pushed"
_FILES = {
    "data.schema.json": '{"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}',
    "sample.json": '{"n": 1}',
    "title.txt.j2": "Notice {{ data.n }}",
    "message.txt.j2": "A message of a usual length, with number {{ data.n }} in it, to somebody who wants it.",
    "action_url.txt.j2": "/notices/{{ data.n }}",
}
_CHANNELS = {MAILED: "web = false\nemail = true\n", PUSHED: "web = false\npush = true\n"}
USERS = """
INSERT INTO users (id, email) SELECT %(prefix)s || '-' || n, %(prefix)s || '-' || n || '@example.com'
FROM generate_series(0, %(last)s) AS n
"""
_DEVICES = """
INSERT INTO devices (user_id, kind, address) SELECT id, 'fcm_token', 'token-' || id FROM users
WHERE starts_with(id, %s)
"""
_STATES = """
SELECT state, coalesce(reason, ''), count(*) FROM deliveries WHERE starts_with(user_id, %s)
GROUP BY 1, 2 ORDER BY 1, 2
"""
OPEN = """
SELECT count(*) FROM deliveries WHERE starts_with(user_id, %s) AND state IN ('pending', 'sending', 'retrying')
"""
_POSSIBLE_DUPLICATES = """
SELECT coalesce(sum(count), 0) FROM notification_analytics WHERE event = 'possible_duplicate' AND type = %s
"""
_SOON = "UPDATE deliveries SET next_attempt_at = now() WHERE state = 'retrying' AND next_attempt_at > now()"


def measure(bench: Bench) -> dict[str, Any]:
    bench.stop_fleet()
    for name in _CHANNELS:
        make_type(bench, name)
    count = 200 if bench.quick else 10_000
    with MailServer() as mail, FakeFcm() as fcm:
        bench.environment |= {
            "TOCSIN_SMTP_URL": f"smtp://127.0.0.1:{mail.port}",
            "TOCSIN_MAIL_FROM": "Bench <bench@example.com>",
            "TOCSIN_FCM_CREDENTIALS": str(fcm.credentials(bench.home)),
            "TOCSIN_FCM_URL": fcm.url,
        }
        bench.start_fleet()
        try:
            with psycopg.connect(bench.servers.database_url, autocommit=True) as database:
                return {
                    "mails": mails(bench, database, mail, count),
                    "bad_mail_server": bad_mail_server(bench, database, mail, count),
                    "bad_fcm": bad_fcm(bench, database, fcm, count),
                    "opt_out": opt_out(bench, database, mail, count // 10),
                }
        finally:
            bench.stop_fleet()


def make_type(bench: Bench, name: str) -> None:
    """A type that goes out by one channel, as the tests' fleet finds it at its next start."""
    folder = bench.home / "templates" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file, text in _FILES.items():
        (folder / file).write_text(text)
    (folder / "type.toml").write_text(f'category = "bench"\nlabel = "notices"\n\n[channels]\n{_CHANNELS[name]}')


def mails(bench: Bench, database: psycopg.Connection[Any], server: MailServer, count: int) -> dict[str, Any]:
    """Mails a second, rendered and settled, and those of a loop that sends the same bytes over one connection."""
    add(bench, database, "warm", MAILED, count // 10)
    settled(database, "warm", count // 10, 60)
    server.received.clear()
    began = time.monotonic()
    add(bench, database, "mails", MAILED, count)
    settled(database, "mails", count, 120)
    ours = count / (time.monotonic() - began)
    sample = [(one.recipients[0], one.content) for one in server.received]
    if len(sample) != count:
        raise Failed(f"{len(sample):,} mails arrived of {count:,}")
    return {"count": count, "per_second": round(ours, 1), "bare_loop": round(bare_loop(server.port, sample), 1)}


_BARE_LOOP = """
import pickle, smtplib, sys, time
port, sample = pickle.load(sys.stdin.buffer)
began = time.monotonic()
with smtplib.SMTP("127.0.0.1", port) as line:
    for recipient, content in sample:
        line.sendmail("bench@example.com", [recipient], content)
print(len(sample) / (time.monotonic() - began))
"""


def bare_loop(port: int, sample: list[tuple[str, bytes]]) -> float:
    """Mails a second of smtplib over one connection, in a process of its own, as the fleet's are."""
    command = [sys.executable, "-c", _BARE_LOOP]
    done = subprocess.run(command, input=pickle.dumps((port, sample)), capture_output=True, check=True)
    return float(done.stdout)


def bad_mail_server(
    bench: Bench, database: psycopg.Connection[Any], server: MailServer, count: int
) -> dict[str, Any]:
    """5 % are deferred once, 1 % are unknown, 1 % are taken and the connection is cut, once; it hangs once."""
    tries: Counter[tuple[str, str]] = Counter()
    hung = threading.Event()

    def script(stage: str, address: str) -> str | None:
        if stage not in ("rcpt", "end") or not address.startswith("bad-"):
            return None
        number = int(address.split("@", maxsplit=1)[0].rpartition("-")[2])
        tries[stage, address] += 1
        if stage == "rcpt" and number % 100 == 7:
            return "550 5.1.1 no such user"
        if tries[stage, address] > 1:
            return None
        if stage == "rcpt" and number % 20 == 3:
            return "451 4.7.1 Greylisted, come back"
        if stage == "end" and number % 100 == 11:
            return DROP
        if stage == "end" and number == count // 2 and not hung.is_set():
            hung.set()
            return HANG
        return None

    server.received.clear()
    server.script = script
    try:
        began = time.monotonic()
        add(bench, database, "bad", MAILED, count)
        settled(database, "bad", count, 300, soon=True)
        took = time.monotonic() - began
    finally:
        server.script = lambda _stage, _address: None
    ids = Counter(one.message["Message-ID"] for one in server.received)
    return {
        "count": count,
        "seconds": round(took, 1),
        "states": states(database, "bad"),
        "arrived": len(ids),
        "twice": sum(times > 1 for times in ids.values()),
        "dropped_after_data": len([1 for number in range(count) if number % 100 == 11]),
        "hung": int(hung.is_set()),
        "possible_duplicates": possible_duplicates(database, MAILED),
    }


def bad_fcm(bench: Bench, database: psycopg.Connection[Any], fcm: FakeFcm, count: int) -> dict[str, Any]:
    """2 % are unregistered; once each: 1 % 503, 1 % an HTML page, 1 % a 2xx without JSON; three times a quota."""
    quotas = [0]

    def script(address: str, nth: int) -> Answer | None:
        number = int(address.rpartition("-")[2])
        if number % 50 == 7:
            return error(404, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED")
        if nth > 1:
            return None
        if number % 100 == 11:
            return error(503, "UNAVAILABLE", "The service is currently unavailable.", "UNAVAILABLE")
        if number % 100 == 13:
            return Answer(502, HTML)
        if number % 100 == 17:
            fcm.taken.append((address, {}))
            return Answer(200, b'{"name": "proj')
        if number in (count // 4, count // 2, count * 3 // 4):
            quotas[0] += 1
            return error(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", "QUOTA_EXCEEDED", retry_after="2")
        return None

    fcm.script = script
    database.execute(USERS, {"prefix": "phone", "last": count - 1})
    database.execute(_DEVICES, ("phone-",))
    began = time.monotonic()
    add(bench, database, "phone", PUSHED, count, users=False)
    settled(database, "phone", count, 400, soon=True)
    took = time.monotonic() - began
    taken = Counter(address for address, _ in fcm.taken)
    ((devices,),) = database.execute("SELECT count(*) FROM devices WHERE starts_with(user_id, 'phone-')")
    return {
        "count": count,
        "seconds": round(took, 1),
        "states": states(database, "phone"),
        "arrived": len(taken),
        "twice": sum(times > 1 for times in taken.values()),
        "malformed": len([1 for number in range(count) if number % 100 == 17]),
        "quotas": quotas[0],
        "devices_removed": count - int(devices),
        "possible_duplicates": possible_duplicates(database, PUSHED),
    }


def opt_out(bench: Bench, database: psycopg.Connection[Any], server: MailServer, count: int) -> dict[str, Any]:
    """Mails wait for a server that is away; meanwhile everybody opts out, and it comes back."""
    server.received.clear()
    server.script = lambda stage, _address: "421 4.3.2 closing" if stage == "mail" else None
    try:
        add(bench, database, "out", MAILED, count)
        deadline = time.monotonic() + 60
        waiting = "SELECT count(*) FROM deliveries WHERE starts_with(user_id, 'out-') AND state = 'retrying'"
        while database.execute(waiting).fetchone() != (count,):
            if time.monotonic() > deadline:
                raise Failed("not all mails wait after 60 s")
            time.sleep(0.1)
        opted = "INSERT INTO opt_outs (user_id, channel, category) SELECT id, 'email', 'bench' FROM users"
        database.execute(opted + " WHERE starts_with(id, 'out-')")
    finally:
        server.script = lambda _stage, _address: None
    settled(database, "out", count, 300, soon=True)
    return {"count": count, "sent": len(server.received), "states": states(database, "out")}


def add(
    bench: Bench, database: psycopg.Connection[Any], prefix: str, kind: str, count: int, users: bool = True
) -> None:
    """One event for each of `count` people, through the stream."""
    if users:
        database.execute(USERS, {"prefix": prefix, "last": count - 1})
    with bench.redis() as client, client.pipeline(transaction=False) as pipe:
        for number in range(count):
            name = f"{prefix}-{number}"
            event = {"id": name, "type": kind, "recipients": [name], "data": {"n": number}}
            pipe.xadd(STREAM, {"event": json.dumps(event)})
        pipe.execute()


def settled(
    database: psycopg.Connection[Any], prefix: str, count: int, seconds: float, soon: bool = False
) -> None:
    """Returns when that many are settled. `soon`: what would wait for minutes is due after 15 s."""
    began = time.monotonic()
    written = "SELECT count(*) FROM deliveries WHERE starts_with(user_id, %s)"
    hurried = 15.0
    while True:
        ((open_,),) = database.execute(OPEN, (f"{prefix}-",))
        ((rows,),) = database.execute(written, (f"{prefix}-",))
        if not open_ and rows == count:
            return
        passed = time.monotonic() - began
        if passed > seconds:
            raise Failed(f"{open_:,} deliveries of {prefix} are open after {seconds:.0f} s, of {rows:,}")
        if soon and passed > hurried:
            database.execute(_SOON)
            hurried += 10
        time.sleep(0.25)  # the providers are in this process, and want it for themselves


def states(database: psycopg.Connection[Any], prefix: str) -> dict[str, int]:
    rows = database.execute(_STATES, (f"{prefix}-",)).fetchall()
    return {f"{state} {reason}".strip(): count for state, reason, count in rows}


def possible_duplicates(database: psycopg.Connection[Any], kind: str) -> int:
    ((count,),) = database.execute(_POSSIBLE_DUPLICATES, (kind,))
    return int(count)


def rows(found: dict[str, Any], _: dict[str, Any]) -> list[Row]:
    mails, mail, fcm, out = (found[name] for name in ("mails", "bad_mail_server", "bad_fcm", "opt_out"))

    def told(of: dict[str, Any]) -> str:
        return ", ".join(f"{state}: {count:,}" for state, count in of["states"].items())

    ratio = mails["per_second"] / mails["bare_loop"]
    return [
        Row(
            "mails, rendered and settled, one process",
            f"{mails['per_second']:,.0f}/s",
            "≥ 0.7 × a bare loop",
            f"{met(ratio >= 0.7)} {ratio:.2f} ×",
            f"the same bytes by smtplib over one connection: {mails['bare_loop']:,.0f}/s",
        ),
        Row(
            f"{mail['count']:,} mails, a server that misbehaves",
            f"{mail['seconds']:.0f} s",
            "all end; twice = cut after DATA",
            met(mail["twice"] == mail["dropped_after_data"] + mail["hung"]),
            f"{told(mail)}; arrived {mail['arrived']:,}, twice {mail['twice']:,} (cut after DATA"
            f" {mail['dropped_after_data']}, hung {mail['hung']}), counted {mail['possible_duplicates']}",
        ),
        Row(
            f"{fcm['count']:,} pushes, an FCM that misbehaves",
            f"{fcm['seconds']:.0f} s",
            "all end; none twice",
            met(fcm["twice"] == 0),
            f"{told(fcm)}; arrived {fcm['arrived']:,}, twice {fcm['twice']:,} (malformed answers"
            f" {fcm['malformed']}), quota answers {fcm['quotas']}, devices removed {fcm['devices_removed']},"
            f" counted {fcm['possible_duplicates']}",
        ),
        Row(
            f"{out['count']:,} mails wait, everybody opts out",
            f"{out['sent']} sent",
            "none is sent",
            met(out["sent"] == 0),
            told(out),
        ),
    ]
