"""The `local` process: a mailbox and a phone on one event loop. `tocsin up` starts it; no Procfile names it."""

import errno
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from schema.errors import TocsinError
from workers import log
from workers.local.demo import account
from workers.local.fcm import Fcm
from workers.local.mailbox import Mailbox
from workers.local.pages import Pages
from workers.local.phone import Phone
from workers.local.push import PushService
from workers.serving import Server
from workers.settings import Settings, home, settings

STATIC = Path(__file__).parent / "static"
ICON = Path(__file__).parent.parent / "gateway" / "static" / "icon.svg"


def main() -> None:
    log.configure("local")
    logging.getLogger("mail.log").setLevel(logging.ERROR)  # aiosmtpd's, which names addresses
    try:
        config = _in_development()
        listener = _listen(config.host, config.dev_port, "TOCSIN_DEV_PORT")
        smtp = _listen("127.0.0.1", config.dev_smtp_port, "TOCSIN_DEV_SMTP_PORT") if config.dev_smtp_port else None
        app = application(config, home(), smtp)
    except TocsinError as error:
        sys.exit(f"local: {error}")
    server = Server(
        uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=2)
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal again for us: it ends with 0
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    server.run(sockets=[listener])


def _in_development() -> Settings:
    if not settings().development:
        raise TocsinError("the mailbox and the phone are for development only: `tocsin up` starts them")
    return settings()


def application(config: Settings, where: Path, smtp: socket.socket | None) -> Starlette:
    """Everything it serves. Mail is taken at `smtp`, unless it goes elsewhere; FCM's part is there when a service
    account was made for it in `where`. Raises TocsinError when a file there is damaged."""
    mails, phone = Mailbox(where / "mail"), Phone(where / "phone.json")
    fcm = [Fcm(phone, account(where))] if account(where).exists() else []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as open:
            if smtp:
                await open.enter_async_context(mails.listening(smtp))
            yield

    named = ["*"] if config.host in ("0.0.0.0", "") else [urlsplit(config.dev_url).hostname or "", "localhost"]  # noqa: S104
    return Starlette(
        routes=[
            *Pages(config, mails, phone).routes(),
            *PushService(phone, config.dev_url).routes(),
            *(route for one in fcm for route in one.routes()),
            Route("/dev/static/icon.svg", _icon),
            Mount("/dev/static", StaticFiles(directory=STATIC)),
            Route("/readyz", _readyz),
        ],
        # A page elsewhere may have its own name lead here (DNS rebinding), and read the mails of this machine.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=named)],
        lifespan=lifespan,
    )


def _listen(host: str, port: int, variable: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        raise TocsinError(f"port {port} {why}: set {variable} to a free one") from None
    return listener


async def _icon(_: Request) -> Response:
    return FileResponse(ICON)


async def _readyz(_: Request) -> Response:
    return PlainTextResponse("ok")


if __name__ == "__main__":
    main()
