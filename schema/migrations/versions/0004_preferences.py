"""preferences of categories and of everything; who changed what"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ROWS = "notification_preferences"
KEY = "notification_preferences_pkey"


def upgrade() -> None:
    op.add_column(
        ROWS,
        sa.Column(
            "scope", sa.Text(), server_default="type", nullable=False, comment="of what: type | category | global"
        ),
    )
    op.alter_column(ROWS, "type", comment="the name of the type or category; empty for global")
    op.alter_column(ROWS, "enabled", nullable=True, server_default=None, comment="empty: as the next scope says")
    op.alter_column(
        ROWS,
        "channels",
        comment='{"web": true, "email": "digest daily", …}; a channel not named follows the next scope',
        existing_comment='{"web": true, …}; a channel not named follows the type',
    )
    op.alter_column("opt_outs", "category", comment="empty: the whole channel")
    op.drop_constraint(KEY, ROWS, type_="primary")
    op.create_primary_key(KEY, ROWS, ["user_id", "scope", "type"])
    # Until now true was what everybody had; kept, it would hold against a category that is switched off later.
    op.execute(f"UPDATE {ROWS} SET enabled = NULL WHERE enabled")
    op.create_table(
        "preference_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False, comment="user | service | unsubscribe | complaint"),
        sa.Column("scope", sa.Text(), nullable=False, comment="type | category | global | opt_out"),
        sa.Column("name", sa.Text(), nullable=False, comment="of the type or category; empty for everything"),
        sa.Column("setting", sa.Text(), nullable=False, comment="enabled, or the channel"),
        sa.Column("before", postgresql.JSONB(), comment="empty: nothing was said"),
        sa.Column("after", postgresql.JSONB(), comment="empty: nothing is said any more"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("preference_changes_of_user", "preference_changes", ["user_id", "id"])


def downgrade() -> None:
    op.drop_table("preference_changes")
    op.alter_column("opt_outs", "category", comment=None)
    op.execute("DELETE FROM opt_outs WHERE category = ''")
    op.execute(f"DELETE FROM {ROWS} WHERE scope <> 'type'")
    op.execute(f"UPDATE {ROWS} SET enabled = coalesce(enabled, true)")
    # What waited for a digest is on: a time of its own was not known before.
    op.execute(
        f"UPDATE {ROWS} SET channels = (SELECT jsonb_object_agg(key, CASE jsonb_typeof(value) WHEN 'string'"
        f" THEN 'true' ELSE value END) FROM jsonb_each(channels)) WHERE channels::text LIKE '%: \"%'"
    )
    op.drop_constraint(KEY, ROWS, type_="primary")
    op.create_primary_key(KEY, ROWS, ["user_id", "type"])
    op.alter_column(
        ROWS,
        "channels",
        comment='{"web": true, …}; a channel not named follows the type',
        existing_comment='{"web": true, "email": "digest daily", …}; a channel not named follows the next scope',
    )
    op.alter_column(ROWS, "enabled", nullable=False, server_default=sa.text("true"), comment=None)
    op.alter_column(ROWS, "type", comment=None)
    op.drop_column(ROWS, "scope")
