"""The `gateway` process: any number of copies, each with its own connections."""

import errno
import gc
import resource
import sys

import redis

from schema.errors import TocsinError
from workers import log
from workers.gateway.app import Gateway
from workers.gateway.nonsense import quieten
from workers.gateway.server import Server, listen
from workers.serving import serve
from workers.settings import settings


def main() -> None:
    log.configure("gateway")
    quieten()
    try:
        gateway = Gateway(settings())
    except TocsinError as error:
        sys.exit(f"gateway: {error}")
    host, port = settings().host, settings().gateway_port
    try:
        listener = listen(host, port)
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used on {host}: {error.strerror}"
        sys.exit(f"port {port} {why}: set TOCSIN_GATEWAY_PORT to a free one")
    _allow_many_files()
    _collect_rarely()
    client = redis.Redis.from_url(settings().redis, socket_timeout=5, socket_connect_timeout=2)
    log.logger().info("gateway_listens", host=host, port=port)
    serve(Server(gateway), listener, client, "gateway")


def _allow_many_files() -> None:
    """A connection is a file: as many as the system lets us have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _collect_rarely() -> None:
    """Thousands of browsers are half a million objects that live long. Python's collector, as it is set, looks
    through them so often that it takes a fifth of the time in which they come."""
    gc.freeze()
    gc.set_threshold(5_000)


if __name__ == "__main__":
    main()
