"""events: a rescue counts from the last one; those that wait for their time are not in the way of those due"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UNROUTED = sa.text("routed_count < recipient_count")


def upgrade() -> None:
    op.add_column("events", sa.Column("rescued_at", sa.DateTime(timezone=True), comment="the last time of these"))
    op.drop_index("events_unrouted", table_name="events")
    due = [sa.literal_column("greatest(accepted_at, send_at)")]
    op.create_index("events_unrouted", "events", due, postgresql_where=UNROUTED)


def downgrade() -> None:
    op.drop_index("events_unrouted", table_name="events")
    op.create_index("events_unrouted", "events", ["accepted_at"], postgresql_where=UNROUTED)
    op.drop_column("events", "rescued_at")
