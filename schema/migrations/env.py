"""Alembic's entry: migrates over the connection that the caller opened (workers/migrate.py, the tests)."""

import re

from alembic import context

from schema.partitions import PARTITIONED
from schema.tables import metadata

_MONTH = re.compile(rf"({'|'.join(PARTITIONED)})_\d{{4}}_\d{{2}}")


def ours(name: str | None, kind: str, _parents: object) -> bool:
    """Months of partitioned tables are the clock's business, not a migration's."""
    return not (kind == "table" and name and _MONTH.fullmatch(name))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_name=ours,
)
with context.begin_transaction():
    context.run_migrations()
