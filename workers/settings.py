"""Configuration: the only reader of the environment. `tocsin up` writes the same names to `.tocsin/env`,
so that every command of that checkout finds the running servers; the environment wins over that file."""

import os
from functools import cache
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from schema.errors import TocsinError


def home() -> Path:
    """Where `tocsin up` keeps its data: TOCSIN_HOME, or `.tocsin` here."""
    return Path(os.environ.get("TOCSIN_HOME") or ".tocsin").absolute()


class Settings(BaseSettings):
    """Every variable, with its default. Durations are seconds."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    database_url: str = Field("", validation_alias="DATABASE_URL")
    redis_url: str = Field("", validation_alias="REDIS_URL")
    host: str = Field("127.0.0.1", validation_alias="TOCSIN_HOST")
    gateway_port: int = Field(8000, validation_alias="TOCSIN_GATEWAY_PORT", ge=1, le=65535)
    api_port: int = Field(8001, validation_alias="TOCSIN_API_PORT", ge=1, le=65535)
    api_key: SecretStr = Field(
        SecretStr(""),
        validation_alias="TOCSIN_API_KEY",
        description="a key to accept beside those in the database",
    )
    jwt_secret: SecretStr = Field(
        SecretStr(""),
        validation_alias="TOCSIN_JWT_SECRET",
        description="HS256 key of the embedding application",
    )
    previous_secret: SecretStr = Field(
        SecretStr(""),
        validation_alias="TOCSIN_PREVIOUS_SECRET",
        description="the TOCSIN_JWT_SECRET before this one: unsubscribe links that it signed go on working",
    )
    jwt_audience: str = Field("tocsin", validation_alias="TOCSIN_JWT_AUDIENCE")
    allowed_origins: str = Field(
        "", validation_alias="TOCSIN_ALLOWED_ORIGINS", description="comma-separated; empty: the gateway's own"
    )
    link_hosts: str = Field(
        "",
        validation_alias="TOCSIN_LINK_HOSTS",
        description="comma-separated hosts an action URL may point to",
    )
    templates: Path = Field(Path(__file__).parent.parent / "templates", validation_alias="TOCSIN_TEMPLATES")
    backlog_limit: int = Field(
        200_000,
        validation_alias="TOCSIN_BACKLOG_LIMIT",
        ge=1,
        description="events accepted and not yet routed beyond which the API refuses more",
    )
    stream_limit: int = Field(
        2_000_000,
        validation_alias="TOCSIN_STREAM_LIMIT",
        ge=1,
        description="entries of the stream beyond which it refuses more",
    )
    development: bool = Field(
        False,
        validation_alias="TOCSIN_DEVELOPMENT",
        description="set by `tocsin up`: the demo page may sign in",
    )

    smtp_url: SecretStr = Field(
        SecretStr(""),
        validation_alias="TOCSIN_SMTP_URL",
        description="smtp:// (STARTTLS when offered), smtp+starttls:// (or not at all) or smtps://, then"
        " user:password@host:port; empty: no email",
    )
    mail_from: str = Field(
        "Notifications <notifications@localhost>",
        validation_alias="TOCSIN_MAIL_FROM",
        description="the sender of every email",
    )
    dkim: str = Field(
        "",
        validation_alias="TOCSIN_DKIM",
        description="domain:selector:/path/to/private.pem; empty: the mail server signs, or nobody",
    )
    public_url: str = Field(
        "",
        validation_alias="TOCSIN_PUBLIC_URL",
        description="where browsers find the gateway, for links in emails; empty: TOCSIN_HOST and its port",
    )
    fcm_credentials: str = Field(
        "",
        validation_alias="TOCSIN_FCM_CREDENTIALS",
        description="path of a Firebase service account's JSON file; empty: no FCM",
    )
    fcm_url: str = Field(
        "https://fcm.googleapis.com", validation_alias="TOCSIN_FCM_URL", description="where FCM's HTTP v1 API is"
    )
    vapid_private_key: SecretStr = Field(
        SecretStr(""),
        validation_alias="TOCSIN_VAPID_PRIVATE_KEY",
        description="made by `tocsin keys vapid`; empty: no web push",
    )
    vapid_subject: str = Field(
        "mailto:notifications@localhost",
        validation_alias="TOCSIN_VAPID_SUBJECT",
        description="whom a push service may write to (RFC 8292)",
    )
    push_hosts: str = Field(
        "fcm.googleapis.com, updates.push.services.mozilla.com, *.push.apple.com, *.notify.windows.com",
        validation_alias="TOCSIN_PUSH_HOSTS",
        description="comma-separated hosts a web push endpoint may have",
    )

    dev_port: int = Field(
        8002,
        validation_alias="TOCSIN_DEV_PORT",
        ge=1,
        le=65535,
        description="where `tocsin up` shows the local mailbox and phone",
    )
    dev_smtp_port: int = Field(
        0,
        validation_alias="TOCSIN_DEV_SMTP_PORT",
        ge=0,
        le=65535,
        description="where the local mailbox takes mail; 0: `tocsin up` chooses, when TOCSIN_SMTP_URL is not set",
    )

    process: str = Field("worker", validation_alias="TOCSIN_PROCESS", description="its name in the Procfile")

    @property
    def origins(self) -> frozenset[str]:
        given = frozenset(
            origin.strip().rstrip("/") for origin in self.allowed_origins.split(",") if origin.strip()
        )
        own = (f"http://{name}:{self.gateway_port}" for name in (self.host, "127.0.0.1", "localhost"))
        return given or frozenset(own)

    @property
    def hosts(self) -> frozenset[str]:
        return frozenset(host.strip().lower() for host in self.link_hosts.split(",") if host.strip())

    @property
    def dev_url(self) -> str:
        """Where this machine reaches the local mailbox and phone."""
        return f"http://{self._here}:{self.dev_port}"

    @property
    def gateway_url(self) -> str:
        """Where this machine's browsers reach the gateway."""
        return self.public_url.rstrip("/") or f"http://{self._here}:{self.gateway_port}"

    @property
    def _here(self) -> str:
        return "127.0.0.1" if self.host in ("0.0.0.0", "") else self.host  # noqa: S104

    @property
    def conninfo(self) -> str:
        """DATABASE_URL for psycopg, whichever driver SQLAlchemy's spelling names."""
        if not self.database_url:
            raise TocsinError("DATABASE_URL is not set, and no `tocsin up` runs here: set it, or run `make up`")
        return self.database_url.replace("postgresql+psycopg://", "postgresql://", 1)

    @property
    def redis(self) -> str:
        if not self.redis_url:
            raise TocsinError("REDIS_URL is not set, and no `tocsin up` runs here: set it, or run `make up`")
        return self.redis_url


@cache
def settings() -> Settings:
    """The settings of this process, read once. Raises TocsinError naming each variable that is wrong."""
    try:
        return Settings(_env_file=home() / "env")  # type: ignore[call-arg]
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise TocsinError(f"configuration: {wrong}") from None
