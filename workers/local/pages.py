"""The development pages /dev/mail and /dev/phone."""

import asyncio
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from schema.errors import TocsinError
from workers.local import mailbox, registration
from workers.local.mailbox import Mailbox
from workers.local.phone import App, Phone
from workers.settings import Settings

HTML = Path(__file__).parent / "html"
_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " frame-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self' "
)
_MAIL = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; form-action 'none';"
    " frame-ancestors 'self'; sandbox allow-popups allow-popups-to-escape-sandbox"
)
"""A mail runs nothing and loads nothing; its links open in a new tab."""
_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "same-origin", "cache-control": "no-cache"}
"""`no-referrer` would take the origin from forms too, by which our own buttons are told from other sites'."""
_SCHEME = re.compile(r"\(\s*prefers-color-scheme\s*:\s*(light|dark)\s*\)", re.IGNORECASE)
_DARK_MAIL = re.compile(r"color-scheme[^<>{};]{0,40}\bdark\b", re.IGNORECASE)
_HEAD = re.compile(r"<head\b[^>]*>", re.IGNORECASE)
_VIEWS = {"html": "HTML", "text": "Text", "headers": "Headers", "source": "Source"}


class Pages:
    def __init__(self, config: Settings, mails: Mailbox, phone: Phone) -> None:
        self._config, self._mails, self._phone = config, mails, phone
        self._gateway = config.gateway_url
        self._run = secrets.token_hex(4)
        self._trouble = ""
        self._html = Environment(
            loader=FileSystemLoader(HTML), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )

    def routes(self) -> list[Route]:
        return [
            Route("/", _to_mail),
            Route("/dev", _to_mail),
            Route("/dev/mail", self._mail),
            Route("/dev/mail/clear", self._clear_mail, methods=["POST"]),
            Route("/dev/mail/{id}", self._mail),
            Route("/dev/mail/{id}/html", self._mail_html),
            Route("/dev/mail/{id}/eml", self._mail_eml),
            Route("/dev/phone", self._phone_page),
            Route("/dev/phone/clear", self._clear_phone, methods=["POST"]),
            Route("/dev/phone/notices/{id:path}/tap", self._tap, methods=["POST"]),
            Route("/dev/phone/notices/{id:path}/dismiss", self._dismiss, methods=["POST"]),
            Route("/dev/phone/{app}/install", self._install, methods=["POST"]),
            Route("/dev/phone/{app}/uninstall", self._uninstall, methods=["POST"]),
        ]

    async def _mail(self, request: Request) -> Response:
        """The list, and one mail beside it: the newest when none is named."""
        mails = self._mails.mails
        named = request.path_params.get("id")
        chosen = next((mail for mail in mails if mail.id == named), None if named else next(iter(mails), None))
        if named and not chosen:
            raise HTTPException(404, "this mail is no longer kept")
        if unchanged := self._unchanged(request, self._mails.version):
            return unchanged
        facts: dict[str, Any] = {"mails": mails, "chosen": chosen, "named": bool(named)}
        raw = self._mails.raw(chosen.id) if chosen else None
        if chosen and raw is not None:
            facts |= self._one_mail(request, raw)
        return self._page("mail", self._mails.version, facts)

    def _one_mail(self, request: Request, raw: bytes) -> dict[str, Any]:
        message = mailbox.read(raw)
        html, text = mailbox.html_of(message), mailbox.text_of(message)
        wanted = request.query_params.get("view", "")
        view = wanted if wanted in _VIEWS else "html" if html else "text"
        return {
            "view": view,
            "views": _VIEWS,
            "dark": request.query_params.get("scheme") == "dark",
            "narrow": request.query_params.get("width") == "phone",
            "html": html,
            "text": text,
            "size": len(raw),
            "headers": mailbox.headers(message) if view == "headers" else [],
            "source": raw.decode(errors="replace") if view == "source" else "",
            "to": mailbox.header(message, "To"),
            "date": mailbox.header(message, "Date"),
            "unsubscribe": self._one_click(message),
        }

    def _one_click(self, message: EmailMessage) -> str | None:
        """The address behind a mail program's own "unsubscribe" (RFC 8058), when it is this gateway's."""
        if mailbox.header(message, "List-Unsubscribe-Post") != "List-Unsubscribe=One-Click":
            return None
        found = re.search(r"<(https?://[^>]+)>", mailbox.header(message, "List-Unsubscribe"))
        ours = found and urlsplit(found[1]).netloc == urlsplit(self._gateway).netloc
        return found[1] if found and ours else None

    async def _mail_html(self, request: Request) -> Response:
        html = mailbox.html_of(mailbox.read(self._raw(request)))
        dark = request.query_params.get("scheme") == "dark"
        return HTMLResponse(as_shown(html, dark=dark), headers=_HEADERS | {"content-security-policy": _MAIL})

    async def _mail_eml(self, request: Request) -> Response:
        id = request.path_params["id"]
        headers = _HEADERS | {"content-disposition": f'attachment; filename="{id}.eml"'}
        return Response(self._raw(request), media_type="message/rfc822", headers=headers)

    def _raw(self, request: Request) -> bytes:
        raw = self._mails.raw(request.path_params["id"])
        if raw is None:
            raise HTTPException(404, "this mail is no longer kept")
        return raw

    async def _clear_mail(self, request: Request) -> Response:
        _check_origin(request)
        self._mails.clear()
        return RedirectResponse("/dev/mail", 303)

    async def _phone_page(self, request: Request) -> Response:
        if unchanged := self._unchanged(request, self._phone.version):
            return unchanged
        phone = self._phone
        addresses = {App.APPLICATION: phone.token, App.BROWSER: registration.endpoint(self._config, phone)}
        facts = {"phone": phone, "addresses": addresses, "trouble": self._trouble, "now": datetime.now(UTC)}
        return self._page("phone", phone.version, facts)

    async def _clear_phone(self, request: Request) -> Response:
        _check_origin(request)
        self._phone.clear()
        return RedirectResponse("/dev/phone", 303)

    async def _tap(self, request: Request) -> Response:
        """Opens what it is about, as the application or the service worker does; then it is off the screen."""
        _check_origin(request)
        notice = self._phone.take(request.path_params["id"])
        return RedirectResponse(self._target(notice.url if notice else None), 303)

    def _target(self, url: str | None) -> str:
        if url and re.match(r"/(?![/\\])", url):
            return f"{self._gateway}{url}"
        return url if url and re.match(r"https?://", url) else f"{self._gateway}/"

    async def _dismiss(self, request: Request) -> Response:
        _check_origin(request)
        self._phone.take(request.path_params["id"])
        return RedirectResponse("/dev/phone", 303)

    async def _install(self, request: Request) -> Response:
        _check_origin(request)
        app = _app(request)
        try:
            await asyncio.to_thread(registration.register, self._config, self._phone, app)
        except TocsinError as error:
            self._trouble = f"The API did not take the {app}’s address: {error}"
            if "origin" not in request.headers:
                return PlainTextResponse(str(error), 502)
        else:
            self._trouble = ""
        return RedirectResponse("/dev/phone", 303) if "origin" in request.headers else Response(status_code=204)

    async def _uninstall(self, request: Request) -> Response:
        _check_origin(request)
        self._phone.uninstall(_app(request))
        return RedirectResponse("/dev/phone", 303)

    def _tag(self, version: int) -> str:
        return f'"{self._run}-{version}-{len(self._trouble)}"'

    def _unchanged(self, request: Request, version: int) -> Response | None:
        """What a page that asks for news every few seconds is usually told."""
        known = request.headers.get("if-none-match")
        return Response(status_code=304) if known == self._tag(version) else None

    def _page(self, name: str, version: int, facts: Mapping[str, Any]) -> Response:
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(self._gateway))
        shown = self._html.get_template(f"{name}.html").render(page=name, gateway=self._gateway, **facts)
        headers = {"content-security-policy": _PAGE + origin, "etag": self._tag(version)}
        return HTMLResponse(shown, headers=_HEADERS | headers)


def as_shown(html: str, *, dark: bool) -> str:
    """A mail's HTML as a mail program in that mode shows it, whatever mode the browser is in: its media queries
    are answered here. Links open in a new tab."""
    wanted = "dark" if dark else "light"
    html = _SCHEME.sub(lambda found: f"(min-width: {0 if found[1].lower() == wanted else 99999}em)", html)
    style = "<style>:root { color-scheme: dark }</style>" if dark and _DARK_MAIL.search(html) else ""
    added = f'<base target="_blank">{style}'
    head = _HEAD.search(html)
    return f"{html[: head.end()]}{added}{html[head.end() :]}" if head else f"<!doctype html>{added}{html}"


async def _to_mail(_: Request) -> Response:
    return RedirectResponse("/dev/mail")


def _app(request: Request) -> App:
    try:
        return App(request.path_params["app"])
    except ValueError:
        raise HTTPException(404) from None


def _check_origin(request: Request) -> None:
    """Another site's page may not press our buttons. Who is no browser says no origin."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, "this comes from another site")
