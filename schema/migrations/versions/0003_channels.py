"""channels beside the web: claims and leases, devices as addresses, opt-outs, suppressed addresses"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

CLAIMED = sa.text("state IN ('pending', 'sending', 'retrying')")
UNCLAIMED = sa.text("state IN ('pending', 'retrying')")


def now() -> sa.Column[object]:
    return sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)


def upgrade() -> None:
    op.drop_column("deliveries", "address")
    op.add_column("deliveries", sa.Column("device_id", sa.Uuid(), comment="push: to which of the user's devices"))
    op.add_column(
        "deliveries",
        sa.Column(
            "replayed_after",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="tries before it was replayed; the schedule begins anew there",
        ),
    )
    op.drop_index("deliveries_open", table_name="deliveries")
    due = ["channel", "next_attempt_at"]
    op.create_index("deliveries_open", "deliveries", due, postgresql_where=CLAIMED)
    op.create_index("deliveries_sending", "deliveries", due, postgresql_where=sa.text("state = 'sending'"))
    op.create_index("deliveries_dead", "deliveries", ["id"], postgresql_where=sa.text("state = 'dead'"))
    op.add_column(
        "attempts",
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    op.add_column("attempts", sa.Column("said", sa.Text(), comment="the provider's words"))
    op.alter_column("attempts", "ended_at", nullable=True)
    op.add_column("dead_letters", sa.Column("replayed_at", sa.DateTime(timezone=True)))
    op.add_column("dead_letters", sa.Column("discarded_at", sa.DateTime(timezone=True)))
    op.create_table(
        "opt_outs",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        now(),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "channel", "category"),
    )
    op.create_table(
        "suppressed_addresses",
        sa.Column("address", sa.Text(), nullable=False, comment="an email address in lower case"),
        sa.Column("reason", sa.Text(), nullable=False, comment="mailbox_unknown | bounce | complaint"),
        now(),
        sa.PrimaryKeyConstraint("address"),
    )
    op.create_table(
        "email_feedback",
        sa.Column("id", sa.Text(), nullable=False, comment="the provider's id: the same twice counts once"),
        sa.Column("kind", sa.Text(), nullable=False, comment="delivered | bounce | complaint"),
        sa.Column("delivery_id", sa.Uuid()),
        now(),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    op.drop_table("email_feedback")
    op.drop_table("suppressed_addresses")
    op.drop_table("opt_outs")
    op.drop_column("dead_letters", "discarded_at")
    op.drop_column("dead_letters", "replayed_at")
    op.execute("UPDATE attempts SET ended_at = started_at WHERE ended_at IS NULL")
    op.alter_column("attempts", "ended_at", nullable=False)
    op.drop_column("attempts", "said")
    op.drop_column("attempts", "started_at")
    op.drop_index("deliveries_dead", table_name="deliveries")
    op.drop_index("deliveries_sending", table_name="deliveries")
    op.drop_index("deliveries_open", table_name="deliveries")
    op.create_index("deliveries_open", "deliveries", ["next_attempt_at"], postgresql_where=UNCLAIMED)
    op.drop_column("deliveries", "replayed_after")
    op.drop_column("deliveries", "device_id")
    op.add_column("deliveries", sa.Column("address", sa.Text(), comment="empty: the user's inbox"))
