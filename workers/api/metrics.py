"""`GET /v1/metrics/notifications`: sent, read and clicked, summed from hourly roll-ups, never from rows."""

from typing import Annotated

import msgspec
from litestar import get
from litestar.params import Parameter

from schema.errors import FieldError
from workers.api.documents import Refused, problems
from workers.resources import catalog, pool

_SUMS = """
SELECT coalesce(sum(count) FILTER (WHERE event = 'sent'), 0)::bigint,
    coalesce(sum(count) FILTER (WHERE event = 'read'), 0)::bigint,
    coalesce(sum(count) FILTER (WHERE event = 'clicked'), 0)::bigint
FROM notification_analytics WHERE %(type)s::text IS NULL OR type = %(type)s
"""


class NotificationMetrics(msgspec.Struct, rename="camel"):
    """Counts since the beginning; the rates are per cent of what was sent, 0 when nothing was."""

    sent: int
    read: int
    clicked: int
    read_rate: float
    click_rate: float


TypeName = Annotated[str | None, Parameter(description="one notification type; without it, all together")]


@get("/v1/metrics/notifications", tags=["metrics"], sync_to_thread=True, responses=problems(401, 422))
def notification_metrics(type: TypeName = None) -> NotificationMetrics:
    """How many notifications were sent, read and clicked."""
    if type is not None and type not in catalog().types:
        known = ", ".join(sorted(catalog().types))
        raise Refused(422, f"type: unknown type; known: {known}", [FieldError("type", f"must be one of {known}")])
    with pool().connection() as connection:
        row = connection.execute(_SUMS, {"type": type}).fetchone()
    sent, read, clicked = row or (0, 0, 0)
    return NotificationMetrics(sent, read, clicked, _per_cent(read, sent), _per_cent(clicked, sent))


def _per_cent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0
