"""Whether the web notices that the mail server is away: probes through the stream while emails come steadily, with
a server that answers, then one that takes connections and says nothing for two minutes, then the first again.

Not part of the usual run, for it takes minutes: `make bench ARGS="--only outage"`.
"""

import asyncio
import json
import time
from typing import Any

import psycopg

from tests.benchmarks import channels
from tests.benchmarks.bench import Bench, Failed, make_users, spread
from tests.benchmarks.client import Probes, probes
from tests.benchmarks.producer import STREAM
from tests.benchmarks.report import Row, met
from tests.fakes.smtp import HANG, MailServer

PROBES, MAILS = 25, 10
"""A second."""
USERS = 200
_ATTEMPTS = """
SELECT max(d.attempt), count(*) FILTER (WHERE a.outcome <> 'sent') FROM deliveries d
JOIN attempts a ON a.delivery_id = d.id WHERE starts_with(d.user_id, 'outage-')
"""


def measure(bench: Bench) -> dict[str, Any]:
    bench.stop_fleet()
    channels.make_type(bench, channels.MAILED)
    answering, away = (3.0, 6.0) if bench.quick else (60.0, 120.0)
    with MailServer() as server:
        bench.environment |= {
            "TOCSIN_SMTP_URL": f"smtp://127.0.0.1:{server.port}",
            "TOCSIN_MAIL_FROM": "Bench <bench@example.com>",
        }
        bench.start_fleet()
        try:
            make_users(bench.servers.database_url, "probe", 10)
            with psycopg.connect(bench.servers.database_url, autocommit=True) as database:
                database.execute(channels.USERS, {"prefix": "outage", "last": USERS - 1})
                return asyncio.run(_measure(bench, database, server, answering, away))
        finally:
            bench.stop_fleet()


async def _measure(
    bench: Bench, database: psycopg.Connection[Any], server: MailServer, answering: float, away: float
) -> dict[str, Any]:
    async with probes(bench, [f"probe-{n}" for n in range(10)]) as probe:
        await _phase(probe, bench, "warm", 2.0)
        before = await _phase(probe, bench, "before", answering)
        server.script = lambda stage, _address: HANG if stage in ("connect", "mail") else None  # none in doubt
        during = await _phase(probe, bench, "away", away)
        ((waiting,),) = database.execute(channels.OPEN, ("outage-",))
        server.script = lambda _stage, _address: None
        server.drop_all()
        back = time.monotonic()
        after = await _phase(probe, bench, "after", answering)
    drained = None
    while drained is None:
        if time.monotonic() > back + 300:
            raise Failed("mails are open 300 s after the server came back")
        ((left,),) = database.execute(channels.OPEN, ("outage-",))
        drained = None if left else time.monotonic() - back
        await asyncio.sleep(0.2)
    ((tries, failed),) = database.execute(_ATTEMPTS)
    return {
        "answering_ms": spread(before + after),
        "away_ms": spread(during),
        "away_seconds": away,
        "waiting": waiting,
        "drained_after_seconds": round(drained, 1),
        "most_tries": tries,
        "tries_not_sent": failed,
        "mails": len(server.received),
    }


async def _phase(probe: Probes, bench: Bench, name: str, seconds: float) -> list[float]:
    """Latencies of its probes."""
    loop = asyncio.get_running_loop()
    began, first = loop.time(), len(probe.sent)
    numbers = range(first, first + int(seconds * PROBES))
    with bench.redis() as client:
        for n in numbers:
            await asyncio.sleep(began + (n - first) / PROBES - loop.time())
            await probe.xadd(n)
            if n * MAILS % PROBES < MAILS:
                event = {"id": f"outage-{name}-{n}", "type": channels.MAILED, "data": {"n": n}}
                client.xadd(STREAM, {"event": json.dumps(event | {"recipients": [f"outage-{n % USERS}"]})})
    await probe.all_heard(60)
    return probe.latencies(numbers)


def rows(found: dict[str, Any], _: dict[str, Any]) -> list[Row]:
    up, away = found["answering_ms"], found["away_ms"]
    return [
        Row(
            f"web while the mail server is away for {found['away_seconds']:.0f} s, XADD → bytes",
            f"p50 {away['p50']:.1f} ms, p99 {away['p99']:.1f} ms",
            "p99 within 10 %",
            f"{met(away['p99'] <= 1.1 * up['p99'])} {away['p99'] / up['p99']:.2f} ×",
            f"while it answers: p50 {up['p50']:.1f} ms, p99 {up['p99']:.1f} ms",
        ),
        Row(
            f"{found['waiting']:,} mails waited for it",
            f"sent {found['drained_after_seconds']:.0f} s after it came back",
            "none lost, no try spent",
            met(found["tries_not_sent"] == 0 and found["most_tries"] == 1),
            f"{found['mails']:,} mails in all; tries that did not send: {found['tries_not_sent']}",
        ),
    ]
