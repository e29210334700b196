"""What others do on this machine, on the same Valkey and PostgreSQL, while no fleet runs: Dramatiq as it comes and
BullMQ, each a chain of five hops that do nothing, and a bare loop that does our work by hand (bare_loop.py)."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGKILL
from typing import Any

import psycopg

from tests.benchmarks import bare_loop
from tests.benchmarks.bench import ROOT, Bench, Failed, make_users, wait_sent
from tests.benchmarks.producer import producing
from tests.benchmarks.report import Row, of, ratio
from workers.process import Process, tied

DRAMATIQ, BULLMQ, BARE = 2, 3, 4
"""The numbered databases of Valkey that each has to itself."""
NPM_SECONDS = 60
STOCK, STOCK_COUNT = "tests.benchmarks.stock_dramatiq", "stock-dramatiq:done"


def measure(bench: Bench) -> dict[str, Any]:
    bench.stop_fleet()
    found: dict[str, Any] = {}
    for peer in (dramatiq, bullmq, bare):
        try:
            found[peer.__name__] = peer(bench)
        except Failed as why:
            found[peer.__name__] = {"skipped": str(why)}
    return found


def dramatiq(bench: Bench) -> dict[str, Any]:
    """With the command line's 8 threads, in one process and in one for each of two cores."""
    count = 300 if bench.quick else 5_000
    sender = [sys.executable, "-m", STOCK]
    rates: dict[str, float] = {}
    for processes in (1, 2):
        name = f"{processes} × 8 threads"
        _empty(bench, DRAMATIQ)
        words = ["dramatiq", STOCK, "--processes", str(processes), "--threads", "8"]
        with _running(bench, "dramatiq", words, REDIS_URL=bench.redis_url(DRAMATIQ)):
            rates[name] = _chain(bench, DRAMATIQ, STOCK_COUNT, count, sender)
    return {"messages": count, "per_second": rates, "best": max(rates.values())}


def bullmq(bench: Bench) -> dict[str, Any]:
    """Workers of five queues in one process and in two. Raises Failed where there is no Node."""
    version = _install(bench.scratch)
    count = 500 if bench.quick else 5_000
    script = bench.scratch / "bullmq.mjs"
    shutil.copy(Path(__file__).with_name("bullmq.mjs"), script)
    port = bench.redis_url().rpartition(":")[2].partition("/")[0]
    rates: dict[str, float] = {}
    for processes in (1, 2):
        _empty(bench, BULLMQ)
        with ExitStack() as stack:
            for _ in range(processes):
                stack.enter_context(_running(bench, "bullmq", ["node", str(script), "work", port, str(BULLMQ)]))
            sender = ["node", str(script), "send", port, str(BULLMQ)]
            name = f"{processes} process{'es' if processes > 1 else ''}"
            rates[name] = _chain(bench, BULLMQ, "bullmq:done", count, sender)
    return {"version": version, "messages": count, "per_second": rates, "best": max(rates.values())}


def bare(bench: Bench) -> dict[str, Any]:
    """The bare loop in one process and in three, each on a new database."""
    count = 1_000 if bench.quick else 20_000
    rates: dict[str, float] = {}
    for processes in (1, 3):
        url, redis_url = bench.database(f"bare{processes}"), bench.redis_url(BARE)
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
            rates[f"{processes} process{'es' if processes > 1 else ''}"] = round(count / (ended - began), 1)
    return {"events": count, "per_second": rates, "best": max(rates.values())}


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


def rows(found: dict[str, Any], results: dict[str, Any]) -> list[Row]:
    ours = of(results, "throughput", "stream", "median")

    def row(what: str, peer: dict[str, Any], at_least: float | None, reach: str) -> Row:
        if "skipped" in peer:
            return Row(what, "not run", note=peer["skipped"])
        note = ", ".join(f"{name}: {rate:,.0f}/s" for name, rate in peer["per_second"].items())
        verdict = ratio(ours, peer["best"], at_least) if ours else ""
        return Row(what, f"{peer['best']:,.0f}/s", reach, verdict, note)

    return [
        row("stock Dramatiq, five no-op hops, no database", found["dramatiq"], 10, "we ≥ 10 ×"),
        row("BullMQ, five no-op hops, no database", found["bullmq"], 3, "we ≥ 3 ×"),
        row("a bare loop that does our work by hand", found["bare"], None, ""),
    ]
