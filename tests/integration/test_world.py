"""Whatever happens, in whatever order: every notification comes to a recorded end, none is told twice unnoticed,
and nothing is told to who does not want it any more."""

import asyncio
import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from redis import Redis

from tests.integration.chain import Run
from tests.integration.timed import PLAIN, folders
from tests.integration.world import Given, World

WORLDS = int(os.environ.get("WORLDS", "0"))
"""How many to look for, anew each time; without it, the same few."""
CLOCK = """
CREATE SCHEMA clock;
CREATE TABLE clock.jump (by interval NOT NULL);
INSERT INTO clock.jump VALUES ('0');
CREATE FUNCTION clock.now() RETURNS timestamptz STABLE LANGUAGE sql
    AS 'SELECT pg_catalog.now() + (SELECT by FROM clock.jump)';
CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
    AS 'SELECT pg_catalog.clock_timestamp() + (SELECT by FROM clock.jump)';
DO $$
DECLARE of record;
BEGIN
    EXECUTE format('ALTER DATABASE %%I SET search_path = clock, pg_catalog, public', current_database());
    FOR of IN SELECT table_name, column_name FROM information_schema.columns
        WHERE table_schema = 'public' AND column_default = 'now()'
    LOOP
        EXECUTE format('ALTER TABLE public.%%I ALTER %%I SET DEFAULT clock.now()', of.table_name, of.column_name);
    END LOOP;
END $$;
"""
FLEET = {
    "broker": "workers.broker",
    "cancellation": "workers.cancellation",
    "chain": "workers.chain",
    "changes": "workers.gateway.changes",
    "circuit": "workers.circuit",
    "clock": "workers.clock",
    "deliver": "workers.deliver",
    "preferences": "workers.api.preferences",
    "queues": "workers.queues",
    "resources": "workers.resources",
    "settings": "workers.settings",
    "times": "workers.api.times",
    "web": "workers.channels.web",
    "wire": "schema.wire",
}


@pytest.fixture
def given(
    tmp_path: Path,
    database_url: str,
    client: Redis,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Given]:
    run(CLOCK)
    templates = folders(tmp_path)
    shutil.copytree(templates / "echo", templates / "letter")
    (templates / "letter" / "type.toml").write_text(PLAIN.format(category="news", name="letter", rule="now"))
    monkeypatch.setenv("TOCSIN_TEMPLATES", str(templates))
    monkeypatch.setenv("TOCSIN_SMTP_URL", "smtp://127.0.0.1:9")
    monkeypatch.setenv("TOCSIN_MAIL_FROM", "World <world@example.com>")
    request.getfixturevalue("process")
    fleet = SimpleNamespace(**{name: importlib.import_module(path) for name, path in FLEET.items()})
    monkeypatch.setattr(fleet.chain, "GIVES_WAY", 0)
    with asyncio.Runner() as runner:
        yield Given(database_url, client, runner, fleet)


@pytest.mark.timeout(60 + 5 * WORLDS)
def test_whatever_happens_every_notification_has_an_end(given: Given) -> None:
    here = type("Here", (World,), {"given": given})
    run_state_machine_as_test(
        here,
        settings=settings(
            max_examples=WORLDS or 15,
            stateful_step_count=40,
            derandomize=not WORLDS,
            deadline=None,
            phases=[Phase.generate] if WORLDS else [Phase.generate, Phase.shrink],
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
