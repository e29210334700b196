"""held deliveries, digests, quiet hours"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

OPEN = sa.text("state IN ('pending', 'sending', 'retrying', 'held')")
QUIET = sa.text("state = 'held' AND reason = 'quiet_hours'")
OPEN_BEFORE = sa.text("state IN ('pending', 'sending', 'retrying')")


def upgrade() -> None:
    op.add_column(
        "users",
        sa.Column("digest_at", sa.Time(), server_default="08:00", nullable=False, comment="local time of digests"),
    )
    op.add_column(
        "users",
        sa.Column(
            "digest_day",
            sa.SmallInteger(),
            server_default="1",
            nullable=False,
            comment="of weekly ones; 1 is Monday",
        ),
    )
    op.add_column(
        "users",
        sa.Column("quiet_days", sa.ARRAY(sa.SmallInteger()), comment="on which quiet hours begin: 1 is Monday"),
    )
    op.add_column("users", sa.Column("quiet_from", sa.Time(), comment="pipelines/quiet_hours.py; empty: none"))
    op.add_column("users", sa.Column("quiet_to", sa.Time()))
    op.create_index("users_quiet", "users", ["id"], postgresql_where=sa.text("quiet_from IS NOT NULL"))
    op.add_column(
        "deliveries",
        sa.Column(
            "digest_due",
            sa.DateTime(timezone=True),
            comment="when the digest is due that it goes out with; empty: it goes alone",
        ),
    )
    op.add_column(
        "deliveries", sa.Column("digest_id", sa.Uuid(), comment="the delivery that carries this one's digest")
    )
    op.drop_index("deliveries_open", table_name="deliveries")
    op.create_index("deliveries_open", "deliveries", ["channel", "next_attempt_at"], postgresql_where=OPEN)
    op.create_index(
        "deliveries_to_digest",
        "deliveries",
        ["user_id", "channel", "digest_due"],
        postgresql_where=sa.text("state = 'held' AND digest_due IS NOT NULL"),
    )
    op.create_index(
        "deliveries_of_digest", "deliveries", ["digest_id"], postgresql_where=sa.text("digest_id IS NOT NULL")
    )
    op.create_index("deliveries_quiet", "deliveries", ["user_id", "channel", "id"], postgresql_where=QUIET)


def downgrade() -> None:
    # What waits for its time is sent at once; what went out with another's digest was sent.
    op.execute("UPDATE deliveries SET state = 'retrying', next_attempt_at = now() WHERE state = 'held'")
    op.execute("UPDATE deliveries SET state = 'sent' WHERE state = 'digested'")
    op.drop_index("deliveries_quiet", table_name="deliveries")
    op.drop_index("deliveries_of_digest", table_name="deliveries")
    op.drop_index("deliveries_to_digest", table_name="deliveries")
    op.drop_index("deliveries_open", table_name="deliveries")
    op.create_index("deliveries_open", "deliveries", ["channel", "next_attempt_at"], postgresql_where=OPEN_BEFORE)
    op.drop_column("deliveries", "digest_id")
    op.drop_column("deliveries", "digest_due")
    op.drop_index("users_quiet", table_name="users")
    for name in ("quiet_to", "quiet_from", "quiet_days"):
        op.drop_column("users", name)
    op.drop_column("users", "digest_day")
    op.drop_column("users", "digest_at")
