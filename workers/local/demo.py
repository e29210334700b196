"""What `tocsin up` does with the mailbox and the phone: it points to them each channel that nobody configured, and
makes the demo user somebody who can be reached there."""

import importlib.util
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from schema.errors import TocsinError
from workers.embedded import free_port
from workers.home import kept_secrets, write_private
from workers.local.phone import App
from workers.local.registration import USER, ask, tell_api
from workers.settings import Settings

EMAIL = "demo@example.org"
"""A name that is kept for examples (RFC 2606): nobody reads what is sent there."""
PROJECT = "tocsin-local"
_PACKAGES = ("aiosmtpd", "firebase_admin", "pywebpush")
_MAIL, _PUSH = "TOCSIN_DEV_SMTP_PORT", {"TOCSIN_FCM_URL", "TOCSIN_PUSH_HOSTS"}
"""Among the variables of a run that these providers serve."""
_CHOOSE = """
INSERT INTO notification_preferences (user_id, type, channels) SELECT %s, unnest(%s::text[]), %s::jsonb
ON CONFLICT DO NOTHING
"""


def account(where: Path) -> Path:
    """The file of the throw-away service account."""
    return where / "service-account.json"


def variables(config: Settings, where: Path) -> dict[str, str]:
    """What points email, FCM and web push to the mailbox and the phone, for each that `config` does not configure;
    empty when it configures all, or the packages of `.[dev]` are missing. Keys are kept in `where`."""
    if not all(map(importlib.util.find_spec, _PACKAGES)):
        return {}
    made: dict[str, str] = {}
    if not config.smtp_url.get_secret_value():
        port = config.dev_smtp_port or free_port()
        made |= {"TOCSIN_DEV_SMTP_PORT": str(port), "TOCSIN_SMTP_URL": f"smtp://127.0.0.1:{port}"}
    if not config.fcm_credentials and "fcm_url" not in config.model_fields_set:
        made |= {"TOCSIN_FCM_CREDENTIALS": str(_service_account(config, where)), "TOCSIN_FCM_URL": config.dev_url}
    if not config.vapid_private_key.get_secret_value() and "push_hosts" not in config.model_fields_set:
        from workers import vapid

        name = "TOCSIN_VAPID_PRIVATE_KEY"
        made |= kept_secrets(where, {name: lambda: vapid.generate()[0]})
        made["TOCSIN_PUSH_HOSTS"] = f"{config.push_hosts}, {urlsplit(config.dev_url).netloc}"
    return made


def _service_account(config: Settings, where: Path) -> Path:
    """Writes a service account as Firebase's console would give it out, for the phone's token endpoint."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    def made() -> str:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    name = "TOCSIN_LOCAL_FCM_KEY"
    document = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "local",
        "private_key": kept_secrets(where, {name: made})[name],
        "client_email": f"tocsin@{PROJECT}.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": f"{config.dev_url}/token",
    }
    write_private(account(where), json.dumps(document))
    return account(where)


def pages(config: Settings, made: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(what, address, explanation) of the pages that show something in this run. `made`: its variables."""
    found = []
    if _MAIL in made:
        found.append(("Mail", f"{config.dev_url}/dev/mail", f"every email; {USER}’s go to {EMAIL}"))
    if _PUSH & made.keys():
        found.append(("Phone", f"{config.dev_url}/dev/phone", f"{USER}’s push notifications"))
    return found


def send_samples(config: Settings, made: Mapping[str, str]) -> str:
    """One event of each type that has a sample, for the demo user, who can be reached by then on every channel
    served here. `made`: the variables of this run. Answers what became of them, for the screen."""
    paths = sorted(config.templates.glob("[!_]*/sample.json"))
    now = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    events = [
        {
            "id": f"sample-{path.parent.name}-{now}",
            "type": path.parent.name,
            "recipients": [USER],
            "data": json.loads(path.read_text()),
        }
        for path in paths
    ]
    try:
        _prepare(config, made, [path.parent.name for path in paths])
        tell_api(config, made["TOCSIN_API_KEY"], "POST", "/v1/events", events)
    except TocsinError as error:
        return f"signed in as {USER}; the samples were not sent: {error}"
    return f"signed in as {USER}, with a sample of {len(events)} notification types"


def _prepare(config: Settings, made: Mapping[str, str], types: list[str]) -> None:
    """Gives the demo user an email address and the phone, and switches on what they show; what somebody chose
    since then stays. Safe to repeat. Raises TocsinError saying what failed."""
    mail, push = _MAIL in made, _PUSH & made.keys()
    tell_api(config, made["TOCSIN_API_KEY"], "PUT", f"/v1/users/{USER}", {"email": EMAIL} if mail else {})
    channels = json.dumps(({"email": True} if mail else {}) | ({"push": True} if push else {}))
    try:
        with psycopg.connect(made["DATABASE_URL"], connect_timeout=5) as connection:
            connection.execute(_CHOOSE, (USER, types, channels))
    except psycopg.Error as error:
        raise TocsinError(f"the demo user's preferences: {error}") from None
    for variable, app in (("TOCSIN_FCM_URL", App.APPLICATION), ("TOCSIN_PUSH_HOSTS", App.BROWSER)):
        if variable in made:
            ask(f"{config.dev_url}/dev/phone/{app}/install", "POST")
