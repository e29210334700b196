"""What the gateway counts, for `/metrics`."""

from prometheus_client import Counter, Gauge

_CONNECTIONS = Gauge("tocsin_gateway_connections", "open live connections", ["transport"])
_SENT = Counter("tocsin_gateway_events_sent", "live events written to connections", ["event"])

CONNECTIONS = {transport: _CONNECTIONS.labels(transport) for transport in ("sse", "socketio")}
SENT = {event: _SENT.labels(event) for event in ("unread-count", "notification", "read", "archived", "gap")}
SLOW = Counter("tocsin_gateway_slow_closed", "connections closed because they did not read in time")
RECOVERED = Counter("tocsin_gateway_recovered", "notifications whose publication was lost, sent from Postgres")
