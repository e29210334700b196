"""What the push channels need of HTTP: a batch sent side by side that ends in time, and what no answer means.

Imports requests, which comes with the extra `push`: only a process that sends imports this.
"""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import TypeVar

import requests
from requests import exceptions
from requests.adapters import HTTPAdapter
from urllib3.exceptions import MaxRetryError, ReadTimeoutError

from workers import log

SECONDS = 10.0
"""How long a provider may take to answer; FCM asks for no less."""
REACHED_SECONDS = 4.0
"""How long each of its addresses may take to be reached."""
BATCH_SECONDS = 18.0
"""After which a batch is over, whoever has not answered: less than the channels' LEASE."""
THREADS = 32
LONGEST_WAIT = 3600.0
"""Seconds of a Retry-After that are believed."""
UNREACHABLE, TIMEOUT, CONNECTION_LOST = "unreachable", "timeout", "connection_lost"

T = TypeVar("T")
Answer = TypeVar("Answer")


def together(
    items: Sequence[T],
    one: Callable[[T], Answer],
    *,
    until: float,
    unfinished: Answer,
    untried: Answer,
    broken: Answer,
) -> list[Answer]:
    """`one` of each item, THREADS at a time, in order. `until` is a moment of time.monotonic(): those that still
    run then are `unfinished`, and those that never began, and never will, `untried`. The threads are the batch's
    own: whoever hangs in one takes no thread of the next. An exception is a bug: it is logged, without its words,
    which could be content; its item is `broken`, and the others are as they are."""
    threads = ThreadPoolExecutor(min(THREADS, len(items)) or 1, thread_name_prefix="push")
    running = [threads.submit(one, item) for item in items]
    wait(running, max(0.0, until - time.monotonic()))
    threads.shutdown(wait=False, cancel_futures=True)

    def answer(future: Future[Answer]) -> Answer:
        if future.cancelled():
            return untried
        if not future.done():
            return unfinished
        if error := future.exception():
            frame = traceback.extract_tb(error.__traceback__)[-1]
            log.logger().error("push_broke", error=type(error).__name__, at=f"{frame.filename}:{frame.lineno}")
            return broken
        return future.result()

    return [answer(future) for future in running]


def harden(session: requests.Session) -> None:
    """No retries below us, which would send twice, or sleep for as long as a provider says; no redirects, which
    lead where nobody allowed; no cookies, which one user's endpoint would set for another's; and no password from
    ~/.netrc in the place of our Authorization."""
    adapter = HTTPAdapter(max_retries=0, pool_connections=16, pool_maxsize=4 * THREADS)
    for prefix in list(session.adapters):
        session.mount(prefix, adapter)
    session.max_redirects = 0
    session.auth = lambda request: request
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))


def no_answer(error: exceptions.RequestException) -> str:
    """UNREACHABLE: nothing was sent. TIMEOUT, CONNECTION_LOST: it was, or may have been."""
    cause = error.args[0] if error.args else None
    if isinstance(error, exceptions.ConnectTimeout | exceptions.ProxyError) or isinstance(cause, MaxRetryError):
        return UNREACHABLE
    if isinstance(error, exceptions.InvalidURL | exceptions.InvalidSchema | exceptions.MissingSchema):
        return UNREACHABLE
    if isinstance(error, exceptions.ReadTimeout) or isinstance(cause, ReadTimeoutError):
        return TIMEOUT
    return CONNECTION_LOST


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds (RFC 9110, 10.2.3: a number, or a date), at most LONGEST_WAIT; None: not said, or unreadable."""
    said = headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit():
        return min(LONGEST_WAIT, float(said[:9]))
    try:
        at = parsedate_to_datetime(said)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(LONGEST_WAIT, max(0.0, (at - datetime.now(UTC)).total_seconds()))
