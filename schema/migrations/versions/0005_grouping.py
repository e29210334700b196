"""groups: rows that move silently"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "on a group's row: it moved, and that was no reason to interrupt"
    op.add_column("notifications", sa.Column("silent", sa.Boolean(), comment=comment))


def downgrade() -> None:
    op.drop_column("notifications", "silent")
