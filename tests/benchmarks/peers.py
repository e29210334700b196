"""What others do on this machine, on the same Valkey and PostgreSQL, in turn with the fleet, which stands still
meanwhile: Dramatiq as it comes and BullMQ, each a chain of five hops that do nothing, and a bare loop that does
our work by hand (bare_loop.py)."""

import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from signal import SIGKILL
from statistics import median
from typing import Any

import psycopg

from tests.benchmarks import bare_loop, throughput
from tests.benchmarks.bench import ROOT, Bench, Failed, make_users, wait_sent
from tests.benchmarks.producer import producing
from tests.benchmarks.report import Row, ratio
from workers.process import Process, tied

DRAMATIQ, BULLMQ, BARE = 2, 3, 4
"""The numbered databases of Valkey that each has to itself."""
ROUNDS = 3
NPM_SECONDS = 60
FLEET = "the fleet, in turn with its peers"
STOCK_DRAMATIQ = "stock Dramatiq, five no-op hops, no database"
STOCK_BULLMQ = "BullMQ, five no-op hops, no database"
BARE_LOOPS = ((1, "a bare loop that does our work by hand"), (3, "three copies of it"))
STOCK, STOCK_COUNT = "tests.benchmarks.stock_dramatiq", "stock-dramatiq:done"


def measure(bench: Bench) -> dict[str, Any]:
    """In turn with the fleet, round after round: a machine that is faster now than a minute ago is so for all."""
    bench.start_fleet()
    rates: dict[str, list[float]] = defaultdict(list)
    skipped: dict[str, str] = {}
    version = _bullmq(bench.scratch, skipped)
    with psycopg.connect(bench.servers.database_url, autocommit=True) as database:
        throughput.stream(bench, database, "turn-warm", 1_000)
        for turn in range(1 if bench.quick else ROUNDS):
            rates[FLEET].append(throughput.stream(bench, database, f"turn{turn}", _events(bench)))
            peers: dict[str, Callable[[], float]] = {STOCK_DRAMATIQ: partial(dramatiq, bench)}
            peers |= {STOCK_BULLMQ: partial(bullmq, bench)}
            peers |= {name: partial(bare, bench, processes, turn) for processes, name in BARE_LOOPS}
            with bench.paused_fleet():
                for name, peer in peers.items():
                    if name not in skipped:
                        try:
                            rates[name].append(peer())
                        except Failed as why:
                            skipped[name] = str(why)
    return {"bullmq": version, "skipped": skipped, "rates": dict(rates)}


def _events(bench: Bench) -> int:
    return 1_000 if bench.quick else 20_000


def dramatiq(bench: Bench) -> float:
    """With the command line's 8 threads, in one process for each of two cores."""
    _empty(bench, DRAMATIQ)
    words = ["dramatiq", STOCK, "--processes", "2", "--threads", "8"]
    with _running(bench, "dramatiq", words, REDIS_URL=bench.redis_url(DRAMATIQ)):
        return _chain(bench, DRAMATIQ, STOCK_COUNT, _messages(bench), [sys.executable, "-m", STOCK])


def bullmq(bench: Bench) -> float:
    """Workers of five queues in one process: more were not faster here."""
    _empty(bench, BULLMQ)
    script = bench.scratch / "bullmq.mjs"
    shutil.copy(Path(__file__).with_name("bullmq.mjs"), script)
    port = bench.redis_url().rpartition(":")[2].partition("/")[0]
    with _running(bench, "bullmq", ["node", str(script), "work", port, str(BULLMQ)]):
        sender = ["node", str(script), "send", port, str(BULLMQ)]
        return _chain(bench, BULLMQ, "bullmq:done", _messages(bench), sender)


def _messages(bench: Bench) -> int:
    return 300 if bench.quick else 1_500


def bare(bench: Bench, processes: int, turn: int) -> float:
    """The bare loop, on a new database."""
    count = _events(bench)
    url, redis_url = bench.database(f"bare{processes}_{turn}"), bench.redis_url(BARE)
    for prefix in ("warm", "bare"):
        make_users(url, prefix, count // 2)
    with ExitStack() as stack:
        _empty(bench, BARE)
        client = stack.enter_context(bench.redis(BARE))
        database = stack.enter_context(psycopg.connect(url, autocommit=True))
        client.xgroup_create(bare_loop.STREAM, bare_loop.GROUP, id="0", mkstream=True)
        for number in range(processes):
            loop = stack.enter_context(bench.child("bare_loop", url, redis_url, f"bare-{number}"))
            _expect(loop, "ready")
        done = 0
        for prefix, events in (("warm", count // 10), ("bare", count)):
            database.execute("ANALYZE")
            with producing(bench, prefix, count // 2, events, redis_url=redis_url) as producer:
                producer.go()
                done += events
                ended = wait_sent(database, done)
                began, _ = producer.times()
    return round(count / (ended - began), 1)


def _empty(bench: Bench, number: int) -> None:
    with bench.redis(number) as client:
        client.flushdb()


@contextmanager
def _running(bench: Bench, name: str, words: list[str], **environment: str) -> Iterator[Process]:
    log = bench.home / f"peer-{name}.log"
    process = Process(name, [*tied(SIGKILL), *words], log, bench.environment | environment, ROOT)
    process.launch()
    try:
        yield process
    finally:
        process.kill()


def _chain(bench: Bench, number: int, counter: str, count: int, sender: list[str]) -> float:
    """Messages a second, from the first one sent to the last one counted; a few go ahead, to warm everything.
    `sender` is a command that takes how many to send."""
    with bench.redis(number) as client:
        client.delete(counter)
        for many in (count // 10, count):
            client.set(counter, 0)
            words = [*tied(SIGKILL), *sender, str(many)]
            environment = bench.environment | {"REDIS_URL": bench.redis_url(number)}
            pipe = subprocess.PIPE
            with subprocess.Popen(words, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
                try:
                    _expect(process, "ready")
                    began = time.monotonic()
                    print("go", file=process.stdin, flush=True)
                    deadline = began + 60
                    while int(client.get(counter) or 0) < many:
                        if time.monotonic() > deadline:
                            raise Failed(f"{many:,} messages were not through after 60 s")
                        time.sleep(0.02)
                    took = time.monotonic() - began
                finally:
                    process.kill()
    return round(count / took, 1)


def _expect(process: subprocess.Popen[str], line: str) -> None:
    if not process.stdout or process.stdout.readline() != f"{line}\n":
        raise Failed("a peer did not start; its traceback is above")


def _install(scratch: Path) -> str:
    """BullMQ in the scratch folder, unless it is there; its version. Raises Failed when that cannot be."""
    if not shutil.which("node") or not shutil.which("npm"):
        raise Failed("there is no node and npm here")
    scratch.mkdir(parents=True, exist_ok=True)
    package, client = (scratch / "node_modules" / name / "package.json" for name in ("bullmq", "ioredis"))
    if not (package.exists() and client.exists()):
        words = ["npm", "install", "--no-fund", "--no-audit", "bullmq", "ioredis"]
        try:
            made = subprocess.run(words, cwd=scratch, capture_output=True, check=False, timeout=NPM_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed(f"npm install bullmq took longer than {NPM_SECONDS} s") from None
        if made.returncode:
            raise Failed("npm install bullmq failed; is the registry within reach?")
    return str(json.loads(package.read_text())["version"])


def _bullmq(scratch: Path, skipped: dict[str, str]) -> str | None:
    """Its version, when it can be had here."""
    try:
        return _install(scratch)
    except Failed as why:
        skipped[STOCK_BULLMQ] = str(why)
        return None


def rows(found: dict[str, Any], _: dict[str, Any]) -> list[Row]:
    rates: dict[str, list[float]] = found["rates"]
    ours = median(rates[FLEET])

    def row(name: str, reach: str = "", at_least: float | None = None) -> Row:
        if name in found["skipped"]:
            return Row(name, "not run", note=found["skipped"][name])
        theirs = median(rates[name])
        each = ", ".join(f"{rate:,.0f}" for rate in rates[name])
        verdict = ratio(ours, theirs, at_least) if name != FLEET else ""
        return Row(name, f"{theirs:,.0f}/s", reach, verdict, f"median of {each}")

    one, three = (name for _, name in BARE_LOOPS)
    return [
        row(FLEET),
        row(STOCK_DRAMATIQ, "we ≥ 10 ×", 10),
        row(STOCK_BULLMQ, "we ≥ 3 ×", 3),
        row(one, "we ≥ 0.6 ×", 0.6),
        row(three, "we ≥ 0.6 ×", 0.6),
    ]
