"""cancelling; topics and audiences"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

RECIPIENTS = '["user", …], at most 1000'
AUDIENCE = '["user", …], at most 1000; or an audience: {"topic": "…"} or {"all": true}'


def upgrade() -> None:
    op.alter_column("events", "recipients", comment=AUDIENCE, existing_comment=RECIPIENTS)
    op.add_column("events", sa.Column("cancel_key", sa.Text()))
    op.add_column(
        "events",
        sa.Column(
            "cancelled_at",
            sa.DateTime(timezone=True),
            comment="then recipient_count is what was written before",
        ),
    )
    op.add_column(
        "events",
        sa.Column("expanded_to", sa.Text(), comment="an audience's last user written; empty before and after"),
    )
    op.add_column("events", sa.Column("expanded_at", sa.DateTime(timezone=True), comment="when it got there"))
    op.create_check_constraint(
        "events_cancelled", "events", "cancelled_at IS NULL OR routed_count <= recipient_count"
    )
    op.create_index(
        "events_cancel_key", "events", ["cancel_key", "id"], postgresql_where=sa.text("cancel_key IS NOT NULL")
    )
    op.create_table(
        "topic_subscribers",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("topic", "user_id"),
    )
    op.create_index("ix_topic_subscribers_user_id", "topic_subscribers", ["user_id"])


def downgrade() -> None:
    """Audiences go: an event of before can hold no such recipients."""
    op.drop_table("topic_subscribers")
    op.execute("DELETE FROM events WHERE jsonb_typeof(recipients) = 'object'")
    op.drop_index("events_cancel_key", table_name="events")
    op.drop_constraint("events_cancelled", "events")
    for column in ("expanded_at", "expanded_to", "cancelled_at", "cancel_key"):
        op.drop_column("events", column)
    op.alter_column("events", "recipients", comment=RECIPIENTS, existing_comment=AUDIENCE)
