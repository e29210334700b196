"""What `tocsin send` does: events from lines of JSON, through the HTTP door or the stream."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from typing import Any

from rich.progress import track

from pipelines import accept
from schema.errors import InvalidEvent, TocsinError
from schema.event import MAX_BODY_BYTES, MAX_EVENTS
from workers.resources import catalog
from workers.settings import settings


def send_events(numbered: Sequence[tuple[int, bytes]], via: str, *, progress: bool) -> str:
    """Sends (line number, JSON) in calls as large as the API takes, and says what became of them. Everything is
    checked first: raises TocsinError naming the line and field that is wrong, and then nothing was sent. Sending
    the same again is safe where events have ids."""
    lines = checked(numbered)
    calls: Iterable[Sequence[bytes]] = cut(lines)
    if progress:
        calls = track(calls, description=f"sending {len(lines):,} events")
    if via == "stream":
        return _through_the_stream(calls, len(lines))
    counts: dict[str, int] = {}
    answered: list[dict[str, str]] = []
    for call in calls:
        answered = post(b"[" + b",".join(call) + b"]")
        for event in answered:
            counts[event["status"]] = counts.get(event["status"], 0) + 1
    if len(lines) == 1:
        return f"{answered[0]['status']} {answered[0]['id']}"
    return ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items())) or "nothing to send"


def checked(numbered: Sequence[tuple[int, bytes]]) -> list[bytes]:
    """The lines, when nothing is wrong with any. Raises TocsinError."""
    for number, line in numbered:
        try:
            accept.read(line, catalog())
        except InvalidEvent as error:
            raise TocsinError(f"line {number}: {error}" if number else str(error)) from None
    return [line for _, line in numbered]


def cut(lines: Sequence[bytes]) -> list[list[bytes]]:
    """The lines in calls of at most 500 events and 8 MiB, written as a JSON array."""
    calls: list[list[bytes]] = []
    size = 0
    for line in lines:
        size += len(line) + len(b",")
        if not calls or len(calls[-1]) == MAX_EVENTS or size > MAX_BODY_BYTES:
            calls.append([])
            size = len(b"[]") + len(line)
        calls[-1].append(line)
    return calls


def _through_the_stream(calls: Iterable[Sequence[bytes]], total: int) -> str:
    """Errors are looked at one by one: raised, they would show what was sent."""
    import redis

    from workers.intake import FIELD
    from workers.queues import STREAM
    from workers.resources import redis_client
    from workers.stream_door import REFUSAL

    sent = 0
    for call in calls:
        pipe = redis_client().pipeline(transaction=False)
        for line in call:
            pipe.xadd(STREAM, {FIELD: line})
        answers = pipe.execute(raise_on_error=False)
        errors = [str(answer) for answer in answers if isinstance(answer, redis.RedisError)]
        sent += len(answers) - len(errors)
        if errors:
            why = f"Redis refuses them: {errors[0][:80]}"
            if REFUSAL in errors[0]:
                why = "the door is closed while too much waits: wait, and send them again with the same ids"
            raise TocsinError(f"{sent:,} of {total:,} events added to the stream; {why}")
    return f"{sent:,} added to the stream"


def post(body: bytes, query: str = "") -> list[dict[str, Any]]:
    """What the API answers of each event. Raises TocsinError."""
    key = settings().api_key.get_secret_value()
    if not key:
        raise TocsinError("TOCSIN_API_KEY is not set, and no `tocsin up` runs here")
    url = f"http://{settings().host}:{settings().api_port}/v1/events{query}"
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            answer: dict[str, Any] = json.load(response)
        events: list[dict[str, Any]] = answer["events"]
    except urllib.error.HTTPError as error:
        raise TocsinError(f"refused ({error.code}): {_refusal(error)}") from None
    except urllib.error.URLError as error:
        raise TocsinError(f"the API does not answer at {url}: {error.reason}") from None
    except (http.client.HTTPException, OSError, ValueError, KeyError, TypeError):
        raise TocsinError(f"what answers at {url} is not Tocsin's API") from None
    return events


def _refusal(error: urllib.error.HTTPError) -> str:
    try:
        problem = json.load(error)
        fields = "; ".join(f"{e['field']} {e['message']}" for e in problem.get("errors", []))
        return str(fields or problem["detail"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return "without a reason; is it Tocsin's API?"
