"""when the clock last sent an event again: the next rescue counts from then, not from its acceptance"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("events", sa.Column("rescued_at", sa.DateTime(timezone=True), comment="the last time of these"))


def downgrade() -> None:
    op.drop_column("events", "rescued_at")
