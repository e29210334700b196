"""What a notification costs the database: rows written, by PostgreSQL's own count."""

from collections import Counter
from contextlib import ExitStack

from tests.integration.chain import Chain, Process, Rows

MOST = 6
"""Rows per event with one recipient: the event, its routed mark, the inbox, the notification, its delivery, and
the delivery's outcome."""
PER_BATCH = {"notification_analytics"}
"""A counter that moves once for a whole batch."""

WRITTEN = """
SELECT regexp_replace(relname, '_[0-9]{4}_[0-9]{2}$', '') AS name,
    sum(n_tup_ins + n_tup_upd + n_tup_del)::int AS written
FROM pg_stat_user_tables GROUP BY 1
"""


def written(chain: Chain, rows: Rows) -> Counter[str]:
    """By table, partitions together. A backend keeps its counts for a while, until it is told to hand them in."""
    from workers.resources import pool

    with ExitStack() as taken:
        for one in (chain.use.pool, pool()):
            for _ in range(one.get_stats()["pool_size"]):
                taken.enter_context(one.connection()).execute("SELECT pg_stat_force_next_flush()")
    return Counter({row["name"]: row["written"] for row in rows(WRITTEN)})


def cost(chain: Chain, rows: Rows, events: list[dict[str, list[str]]]) -> Counter[str]:
    """Rows written from the events' acceptance until their last delivery is settled."""
    from workers.channels import web
    from workers.deliver import deliver

    before = written(chain, rows)
    deliver(web, chain.route(*events)["web"], chain.use)
    spent = written(chain, rows) - before
    (open_,) = rows("SELECT count(*) AS n FROM deliveries WHERE state <> 'sent'")
    assert open_["n"] == 0
    return spent


def test_a_web_notification_writes_at_most_six_rows(chain: Chain, process: Process, rows: Rows) -> None:
    people: list[dict[str, list[str]]] = [{"recipients": [f"u-{number}"]} for number in range(41)]
    cost(chain, rows, people)  # everybody is known from here on
    for events in (people[:1], people[1:]):
        spent = cost(chain, rows, events)
        own = {name: count / len(events) for name, count in spent.items() if name not in PER_BATCH}
        table = ", ".join(f"{name} {count:g}" for name, count in sorted(own.items()))
        assert sum(own.values()) <= MOST, f"{sum(own.values()):g} rows per event, batch of {len(events)}: {table}"
        assert {name: spent[name] for name in PER_BATCH} == dict.fromkeys(PER_BATCH, 1), table


def test_someone_new_costs_two_rows_once(chain: Chain, process: Process, rows: Rows) -> None:
    spent = cost(chain, rows, [{"recipients": ["ada"]}])
    assert (spent["users"], spent["inboxes"]) == (1, 2)
    again = cost(chain, rows, [{"recipients": ["ada"]}])
    assert (again["users"], again["inboxes"]) == (0, 1)


def test_a_repeat_writes_nothing(chain: Chain, process: Process, rows: Rows) -> None:
    from pipelines.fan_out import fan_out
    from workers.channels import web
    from workers.deliver import deliver

    events = [{"id": "c-1"}, {"id": "c-2", "recipients": ["ada", "bob"]}]
    batch = chain.ready(*events)
    ids = fan_out(batch, chain.use)["web"]
    deliver(web, ids, chain.use)
    before = written(chain, rows)
    assert chain.accept(*events) == []
    assert fan_out(batch, chain.use) == {}
    deliver(web, ids, chain.use)
    assert written(chain, rows) == before
