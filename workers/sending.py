"""What `tocsin send` does: events from lines of JSON, through the HTTP door or the stream."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from typing import Any

from rich.progress import track

from schema.errors import InvalidEvent, TocsinError
from schema.event import MAX_EVENTS, read_event
from workers.settings import settings


def send_events(lines: Sequence[bytes], via: str, *, progress: bool) -> str:
    """Sends them in calls of up to 500 and says what became of them. Raises TocsinError naming the line and
    field that is wrong; the calls before it are sent, and sending the same again is safe where events have ids."""
    for number, line in enumerate(lines, 1):
        try:
            read_event(line)
        except InvalidEvent as error:
            raise TocsinError(f"line {number}: {error}" if len(lines) > 1 else str(error)) from None
    calls: Iterable[Sequence[bytes]] = [lines[at : at + MAX_EVENTS] for at in range(0, len(lines), MAX_EVENTS)]
    if progress:
        total = -(-len(lines) // MAX_EVENTS)
        calls = track(calls, description=f"sending {len(lines):,} events", total=total)
    if via == "stream":
        return _through_the_stream(calls)
    counts: dict[str, int] = {}
    answered: list[dict[str, str]] = []
    for call in calls:
        answered = _post(b"[" + b",".join(call) + b"]")
        for event in answered:
            counts[event["status"]] = counts.get(event["status"], 0) + 1
    if len(lines) == 1:
        return f"{answered[0]['status']} {answered[0]['id']}"
    return ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items())) or "nothing to send"


def _through_the_stream(calls: Iterable[Sequence[bytes]]) -> str:
    from workers.intake import FIELD
    from workers.queues import STREAM
    from workers.resources import redis_client

    sent = 0
    for call in calls:
        pipe = redis_client().pipeline(transaction=False)
        for line in call:
            pipe.xadd(STREAM, {FIELD: line})
        sent += len(pipe.execute())
    return f"{sent:,} added to the stream"


def _post(body: bytes) -> list[dict[str, str]]:
    key = settings().api_key.get_secret_value()
    if not key:
        raise TocsinError("TOCSIN_API_KEY is not set, and no `tocsin up` runs here")
    url = f"http://{settings().host}:{settings().api_port}/v1/events"
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            answer: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        problem = json.load(error)
        fields = "; ".join(f"{e['field']} {e['message']}" for e in problem.get("errors", []))
        raise TocsinError(f"refused ({error.code}): {fields or problem.get('detail')}") from None
    except urllib.error.URLError as error:
        raise TocsinError(f"the API does not answer at {url}: {error.reason}") from None
    events: list[dict[str, str]] = answer["events"]
    return events
