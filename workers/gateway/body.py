"""A JSON body: bounded in size and time, and of the form that is asked for."""

import asyncio
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from workers.gateway.refusal import Refused, fitting

T = TypeVar("T")

MAX_BYTES = 64 * 1024
SECONDS = 10.0


async def read_body(request: Request, kind: type[T]) -> T:
    """Raises Refused: 400 no JSON, 408 too slow, 413 too large, 422 another form."""
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise Refused(413, f"the body is larger than {MAX_BYTES:,} bytes")
    except TimeoutError:
        raise Refused(408, f"the body did not come within {SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise Refused(400, "the connection closed before the body was whole") from None
    try:
        value = msgspec.json.decode(bytes(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    return fitting(value, kind)
