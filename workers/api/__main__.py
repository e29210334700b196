"""The `api` process."""

import errno
import socket
import sys

import uvicorn

from workers import log
from workers.api.app import create_app
from workers.resources import redis_client
from workers.serving import Server, serve
from workers.settings import settings


def main() -> None:
    log.configure("api")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings().host, settings().api_port))
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        sys.exit(f"port {settings().api_port} {why}: set TOCSIN_API_PORT to a free one")
    config = uvicorn.Config(
        create_app(), log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=5
    )
    serve(Server(config), listener, redis_client(), "api")


if __name__ == "__main__":
    main()
