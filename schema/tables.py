"""Every table. Migrations build them; a test holds the two equal.

`notifications`, `deliveries` and `attempts` are partitioned by month through their time-ordered ids
(schema/partitions.py). `events` is not: a producer's id must be unique for ever, not per month.

Hot tables carry no foreign key to `users`: PostgreSQL checks one by locking the user's row, a write more per
notification. Whoever erases a user deletes by `user_id`.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Time,
    Uuid,
    func,
    text,
)
from sqlalchemy import DateTime as SaDateTime
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()
Instant = SaDateTime(timezone=True)


def created_at() -> Column[object]:
    return Column("created_at", Instant, nullable=False, server_default=func.now())


users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True, comment="the producer's own id, at most 128 characters"),
    Column("email", Text),
    Column("locale", Text, comment="BCP 47, e.g. de-AT"),
    Column("time_zone", Text, comment="IANA, e.g. Europe/Vienna"),
    Column("digest_at", Time, nullable=False, server_default="08:00", comment="local time of digests"),
    Column("digest_day", SmallInteger, nullable=False, server_default="1", comment="of weekly ones; 1 is Monday"),
    Column("quiet_days", ARRAY(SmallInteger), comment="on which quiet hours begin: 1 is Monday"),
    Column("quiet_from", Time, comment="pipelines/quiet_hours.py; empty: none"),
    Column("quiet_to", Time),
    created_at(),
    Column("updated_at", Instant, nullable=False, server_default=func.now()),
    Index("users_quiet", "id", postgresql_where=text("quiet_from IS NOT NULL")),
)

devices = Table(
    "devices",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=func.gen_random_uuid()),
    Column("user_id", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("kind", Text, nullable=False, comment="fcm_token | fcm_installation | web_push"),
    Column("address", Text, nullable=False, unique=True, comment="one owner: the last who proved it"),
    Column("keys", JSONB, comment="web push: p256dh and auth"),
    created_at(),
    Column("refreshed_at", Instant, nullable=False, server_default=func.now()),
)

events = Table(
    "events",
    metadata,
    Column("id", Text(collation="C"), primary_key=True, comment="idempotency key, at most 255 characters"),
    Column("type", Text, nullable=False),
    Column(
        "recipients",
        JSONB,
        nullable=False,
        comment='["user", …], at most 1000; or an audience: {"topic": "…"} or {"all": true}',
    ),
    Column("actor", Text, comment="the user who caused it"),
    Column("data", JSONB, nullable=False, server_default=text("'{}'")),
    Column("group_key", Text),
    Column("importance", Text, comment="low | normal | high | critical; empty: the type's"),
    Column("send_at", Instant),
    Column("expires_at", Instant),
    Column("source", Text),
    Column("door", Text, nullable=False, server_default="sql", comment="http | stream | sql"),
    created_at(),
    Column("accepted_at", Instant, comment="empty: waiting at the SQL door"),
    Column("body_hash", LargeBinary, comment="SHA-256 of the event without its id; tells a repeat from a clash"),
    Column("recipient_count", Integer, nullable=False, server_default="0"),
    Column("routed_count", Integer, nullable=False, server_default="0", comment="notifications written"),
    Column("rescues", SmallInteger, nullable=False, server_default="0", comment="times the clock sent it again"),
    Column("rescued_at", Instant, comment="the last time of these"),
    Column("cancel_key", Text),
    Column("cancelled_at", Instant, comment="then recipient_count is what was written before"),
    Column("expanded_to", Text, comment="an audience's last user written; empty before and after"),
    Column("expanded_at", Instant, comment="when it got there"),
    CheckConstraint("cancelled_at IS NULL OR routed_count <= recipient_count", name="events_cancelled"),
    Index("events_cancel_key", "cancel_key", "id", postgresql_where=text("cancel_key IS NOT NULL")),
    Index("events_at_the_sql_door", "created_at", postgresql_where=text("accepted_at IS NULL")),
    Index(
        "events_unrouted",
        text("greatest(accepted_at, send_at)"),
        postgresql_where=text("routed_count < recipient_count"),
    ),
)

topic_subscribers = Table(
    "topic_subscribers",
    metadata,
    Column("topic", Text, nullable=False),
    Column("user_id", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    created_at(),
    PrimaryKeyConstraint("topic", "user_id"),
)

rejected_events = Table(
    "rejected_events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("door", Text, nullable=False),
    Column("event_id", Text),
    Column("payload", Text, nullable=False, comment="what came in, as it came in"),
    Column("errors", JSONB, nullable=False, comment='[{"field": …, "message": …}, …]'),
    Column("created_at", Instant, nullable=False, server_default=func.now(), index=True),
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", Uuid, nullable=False, comment="computed: schema/identity.py"),
    Column("event_id", Text, comment="empty: the row of a group"),
    Column("user_id", Text, nullable=False),
    Column("seq", BigInteger, comment="place in the user's inbox; empty: never shown"),
    Column("type", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("importance", Text, nullable=False),
    Column("actor", Text),
    Column("title", Text),
    Column("message", Text),
    Column("action_url", Text),
    Column("data", JSONB, nullable=False, server_default=text("'{}'")),
    Column("closed", JSONB, nullable=False, server_default=text("'{}'"), comment="channel -> reason"),
    Column("error", Text, comment="file:line of a template that failed; then nothing was sent"),
    Column("group_id", Uuid, comment="the group it is a member of"),
    Column("group_count", Integer, comment="on a group's row: how many members"),
    Column("leading", ARRAY(Uuid), comment="on a group's row: members that had a row of their own before"),
    Column("read_at", Instant),
    Column("clicked_at", Instant),
    Column("archived_at", Instant),
    created_at(),
    Column("expires_at", Instant),
    Column("silent", Boolean, comment="on a group's row: it moved, and that was no reason to interrupt"),
    PrimaryKeyConstraint("id"),
    Index(
        "notifications_inbox",
        "user_id",
        text("seq DESC"),
        postgresql_where=text("seq IS NOT NULL AND group_id IS NULL AND archived_at IS NULL"),
    ),
    Index(
        "notifications_unread",
        "user_id",
        text("seq DESC"),
        postgresql_where=text("seq IS NOT NULL AND group_id IS NULL AND archived_at IS NULL AND read_at IS NULL"),
    ),
    Index("notifications_members", "group_id", "id", postgresql_where=text("group_id IS NOT NULL")),
    postgresql_partition_by="RANGE (id)",
)

notification_preferences = Table(
    "notification_preferences",
    metadata,
    Column("user_id", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("scope", Text, nullable=False, server_default="type", comment="of what: type | category | global"),
    Column("type", Text, nullable=False, comment="the name of the type or category; empty for global"),
    Column("enabled", Boolean, comment="empty: as the next scope says"),
    Column(
        "channels",
        JSONB,
        nullable=False,
        server_default=text("'{}'"),
        comment='{"web": true, "email": "digest daily", …}; a channel not named follows the next scope',
    ),
    created_at(),
    Column("updated_at", Instant, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("user_id", "scope", "type"),
)

preference_changes = Table(
    "preference_changes",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("user_id", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("changed_by", Text, nullable=False, comment="user | service | unsubscribe | complaint"),
    Column("scope", Text, nullable=False, comment="type | category | global | opt_out"),
    Column("name", Text, nullable=False, comment="of the type or category; empty for everything"),
    Column("setting", Text, nullable=False, comment="enabled, or the channel"),
    Column("before", JSONB, comment="empty: nothing was said"),
    Column("after", JSONB, comment="empty: nothing is said any more"),
    created_at(),
    Index("preference_changes_of_user", "user_id", "id"),
)

notification_groups = Table(
    "notification_groups",
    metadata,
    Column("id", Uuid, primary_key=True, comment="also the id of its row in notifications"),
    Column("user_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("group_key", Text, nullable=False, server_default=""),
    Column("count", Integer, nullable=False),
    Column("last_notification_id", Uuid, nullable=False),
    created_at(),
    Column("updated_at", Instant, nullable=False, server_default=func.now()),
    Column("closed_at", Instant, comment="read, archived, or its window ended"),
    Index("notification_groups_of_user", "user_id", "type"),
    Index(
        "notification_groups_open",
        "user_id",
        "type",
        "group_key",
        unique=True,
        postgresql_where=text("closed_at IS NULL"),
    ),
)

inboxes = Table(
    "inboxes",
    metadata,
    Column("user_id", Text, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, nullable=False, server_default="0", comment="last place given out"),
    Column("unread", Integer, nullable=False, server_default="0"),
    Column("version", BigInteger, nullable=False, server_default="0", comment="moves with every change"),
    Column("windows", JSONB, nullable=False, server_default=text("'{}'"), comment="pipelines/grouping.py"),
    postgresql_with={"fillfactor": 70},
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Uuid, nullable=False, comment="computed: schema/identity.py"),
    Column("notification_id", Uuid, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("device_id", Uuid, comment="push: to which of the user's devices"),
    Column("state", Text, nullable=False, server_default="pending", comment="schema/delivery.py"),
    Column("reason", Text),
    Column("attempt", SmallInteger, nullable=False, server_default="0", comment="tries so far"),
    Column("next_attempt_at", Instant, nullable=False, server_default=func.now()),
    Column("receipt", Text),
    created_at(),
    Column("settled_at", Instant),
    Column(
        "replayed_after",
        SmallInteger,
        nullable=False,
        server_default="0",
        comment="tries before it was replayed; the schedule begins anew there",
    ),
    Column("digest_due", Instant, comment="when the digest is due that it goes out with; empty: it goes alone"),
    Column("digest_id", Uuid, comment="the delivery that carries this one's digest"),
    PrimaryKeyConstraint("id"),
    Index(
        "deliveries_open",
        "channel",
        "next_attempt_at",
        postgresql_where=text("state IN ('pending', 'sending', 'retrying', 'held')"),
    ),
    Index(
        "deliveries_to_digest",
        "user_id",
        "channel",
        "digest_due",
        postgresql_where=text("state = 'held' AND digest_due IS NOT NULL"),
    ),
    Index("deliveries_of_digest", "digest_id", postgresql_where=text("digest_id IS NOT NULL")),
    Index("deliveries_sending", "channel", "next_attempt_at", postgresql_where=text("state = 'sending'")),
    Index("deliveries_dead", "id", postgresql_where=text("state = 'dead'")),
    Index(
        "deliveries_quiet",
        "user_id",
        "channel",
        "id",
        postgresql_where=text("state = 'held' AND reason = 'quiet_hours'"),
    ),
    postgresql_partition_by="RANGE (id)",
)

attempts = Table(
    "attempts",
    metadata,
    Column("delivery_id", Uuid, nullable=False),
    Column("number", SmallInteger, nullable=False, comment="1 is the first try"),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("said", Text, comment="the provider's words"),
    Column("started_at", Instant, nullable=False, server_default=func.now()),
    Column("ended_at", Instant, server_default=func.now()),
    PrimaryKeyConstraint("delivery_id", "number"),
    postgresql_partition_by="RANGE (delivery_id)",
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("queue", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("message", Text, nullable=False, comment="JSON; or what could not be read"),
    Column("cause", Text, nullable=False),
    Column("trace", Text, nullable=False),
    Column("created_at", Instant, nullable=False, server_default=func.now(), index=True),
    Column("replayed_at", Instant),
    Column("discarded_at", Instant),
)

opt_outs = Table(
    "opt_outs",
    metadata,
    Column("user_id", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("channel", Text, nullable=False),
    Column("category", Text, nullable=False, comment="empty: the whole channel"),
    created_at(),
    PrimaryKeyConstraint("user_id", "channel", "category"),
)

suppressed_addresses = Table(
    "suppressed_addresses",
    metadata,
    Column("address", Text, primary_key=True, comment="an email address in lower case"),
    Column("reason", Text, nullable=False, comment="mailbox_unknown | bounce | complaint"),
    created_at(),
)

email_feedback = Table(
    "email_feedback",
    metadata,
    Column("id", Text, primary_key=True, comment="the provider's id: the same twice counts once"),
    Column("kind", Text, nullable=False, comment="delivered | bounce | complaint"),
    Column("delivery_id", Uuid),
    created_at(),
)

timers = Table(
    "timers",
    metadata,
    Column("key", Text, primary_key=True, comment="kind and id: a repeat sets the same timer"),
    Column("kind", Text, nullable=False, comment="event: start the chain of events.id = subject"),
    Column("subject", Text, nullable=False),
    Column("due_at", Instant, nullable=False, index=True),
    created_at(),
)

notification_analytics = Table(
    "notification_analytics",
    metadata,
    Column("type", Text, nullable=False),
    Column("event", Text, nullable=False, comment="sent | read | clicked"),
    Column("hour", Instant, nullable=False),
    Column("shard", SmallInteger, nullable=False, comment="spreads the writers of one hour over several rows"),
    Column("count", BigInteger, nullable=False),
    PrimaryKeyConstraint("type", "event", "hour", "shard"),
    postgresql_with={"fillfactor": 70},
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True, comment="the part of the key that may be shown"),
    Column("name", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False, unique=True, comment="SHA-256 of the whole key"),
    created_at(),
    Column("revoked_at", Instant),
)
