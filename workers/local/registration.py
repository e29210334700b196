"""The phone tells the API its addresses, as an application's backend does when the application starts."""

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from schema.errors import TocsinError
from workers.local.phone import App, Phone
from workers.settings import Settings

USER = "demo"
"""Whose phone it is."""


def register(config: Settings, phone: Phone, app: App) -> None:
    """Installs `app` unless it is installed, and registers its address for the demo user. Safe to repeat. Raises
    TocsinError when the API does not take it."""
    phone.install(app)
    if app is App.APPLICATION:
        device: dict[str, Any] = {"kind": "fcm_token", "address": phone.token}
    else:
        subscription = phone.subscription
        keys = {"p256dh": subscription.p256dh, "auth": subscription.auth} if subscription else {}
        device = {"kind": "web_push", "address": endpoint(config, phone), "keys": keys}
    tell_api(config, config.api_key.get_secret_value(), "PUT", f"/v1/users/{USER}/devices", device)


def endpoint(config: Settings, phone: Phone) -> str | None:
    """Where the push service takes what is for the phone's browser."""
    return f"{config.dev_url}/push/{phone.subscription.id}" if phone.subscription else None


def tell_api(config: Settings, key: str, method: str, path: str, body: object) -> None:
    """Raises TocsinError when the API does not take it."""
    url = f"http://{urlsplit(config.dev_url).hostname}:{config.api_port}{path}"
    ask(url, method, body, {"Authorization": f"Bearer {key}"})


def ask(url: str, method: str, body: object = None, headers: Mapping[str, str] | None = None) -> None:
    """Raises TocsinError for any answer but 2xx, and for none."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
    try:
        sent = {"Content-Type": "application/json", **(headers or {})}
        connection.request(method, place.path, json.dumps(body), sent)
        answer = connection.getresponse()
        said = answer.read(1000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise TocsinError(f"{method} {place.path}: {error}") from None
    finally:
        connection.close()
    if answer.status >= 300:
        raise TocsinError(f"{method} {place.path}: {answer.status} {said}")
