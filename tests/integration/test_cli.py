"""The one command, as a shell runs it: exit codes, one line for every mistake, never a traceback."""

import json
import socket

import jwt
import pytest
import redis

from workers import embedded, stream_door

pytest_plugins = ["tests.integration.fleet"]

DATA = '{"userName": "Bob", "comment": "Great post!", "postId": 1, "commentId": 2}'


class Said:
    def __init__(self, process, seconds):
        self.code = process.popen.wait(seconds)
        self.text = process.text()
        self.line = self.text.rstrip().rpartition("\n")[2]


@pytest.fixture
def tocsin(api, start):
    """tocsin("send", …, DATABASE_URL=…): runs the command to its end. None unsets a variable."""

    def run(*words, seconds=60, **changes):
        changed = {key: value for key, value in (api.environment | changes).items() if value is not None}
        return Said(start(changed | {"NO_COLOR": "1", "COLUMNS": "200"}, "tocsin", *words), seconds)

    return run


def assert_not_done(said, *words, code=1):
    """One line that says what was wrong; a misuse may show the usage above it."""
    assert said.code == code, said.text
    assert "Traceback" not in said.text
    assert all(word in said.text for word in words), said.text
    if code == 1:
        assert len(said.text.splitlines()) == 1, said.text
        assert said.text.startswith("tocsin: ")


AWAY = f"127.0.0.1:{embedded.free_port()}"


@pytest.mark.parametrize("words", [["migrate"], ["status"], ["keys", "list"]], ids=" ".join)
def test_without_postgres_one_line(tocsin, words):
    assert_not_done(tocsin(*words, DATABASE_URL=f"postgresql://tocsin@{AWAY}/tocsin"), "Postgres", "DATABASE_URL")


@pytest.mark.parametrize(
    "words", [["status"], ["send", "comment", "--to", "ada", "--data", DATA, "--via", "stream"]]
)
def test_without_redis_one_line(tocsin, words):
    assert_not_done(tocsin(*words, REDIS_URL=f"redis://{AWAY}/0"), "Redis", "REDIS_URL")


@pytest.mark.parametrize("words", [["migrate"], ["keys", "create", "shop"], ["status"]], ids=" ".join)
def test_without_settings_one_line(tocsin, words):
    assert_not_done(tocsin(*words, DATABASE_URL=None, REDIS_URL=None), "_URL is not set", "make up")


def test_a_wrong_setting_is_named(tocsin):
    assert_not_done(tocsin("token", "ada", TOCSIN_API_PORT="eight"), "TOCSIN_API_PORT")


def test_migrate_may_be_repeated(tocsin, api, servers):
    database = "migrate_" + api.environment["DATABASE_URL"].rpartition("_")[2]
    url = f"{servers.database_url.rpartition('/')[0]}/{database}"
    api.database.execute(f"CREATE DATABASE {database} TEMPLATE template0")
    try:
        assert_not_done(tocsin("keys", "list", DATABASE_URL=url), "tocsin migrate")
        first, second = tocsin("migrate", DATABASE_URL=url), tocsin("migrate", DATABASE_URL=url)
    finally:
        api.database.execute(f"DROP DATABASE {database} WITH (FORCE)")
    assert first.code == second.code == 0
    assert first.line.startswith("from an empty database to ")
    assert second.line == "at " + first.line.rpartition(" ")[2]


def test_send_one_event(tocsin, api, name):
    words = ["send", "comment", "--to", name, "--to", "eve", "--data", DATA, "--id", name]
    first, second = tocsin(*words), tocsin(*words)
    assert (first.code, first.line) == (0, f"accepted {name}")
    assert (second.code, second.line) == (0, f"duplicate {name}")
    assert api.one("SELECT recipients FROM events WHERE id = %s", name) == [name, "eve"]


def test_send_says_all_that_an_event_may_say(tocsin, api, name):
    said = {
        "actor": "bob",
        "group_key": "post-9",
        "importance": "high",
        "send_at": "2037-01-01T12:00:00+02:00",
        "expires_at": "2037-01-02T10:00:00Z",
        "cancel_key": f"cart-{name}",
    }
    options = [word for key, value in said.items() for word in (f"--{key.replace('_', '-')}", value)]
    sent = tocsin("send", "comment", "--to", name, "--data", DATA, "--id", name, *options)
    assert (sent.code, sent.line) == (0, f"accepted {name}"), sent.text
    columns = ", ".join(f"'{key}', to_jsonb({key})" for key in said)
    stored = api.one(f"SELECT jsonb_build_object({columns}) FROM events WHERE id = %s", name)
    at = {"send_at": "2037-01-01T10:00:00+00:00", "expires_at": "2037-01-02T10:00:00+00:00"}
    assert stored == said | at


@pytest.mark.parametrize(
    ("option", "recipients"),
    [(["--topic", "release-notes"], {"topic": "release-notes"}), (["--everybody"], {"all": True})],
    ids=["topic", "everybody"],
)
def test_send_to_an_audience(tocsin, api, name, option, recipients):
    sent = tocsin("send", "comment", *option, "--data", DATA, "--id", name, "--send-at", "2037-01-01T12:00:00Z")
    assert (sent.code, sent.line) == (0, f"accepted {name}"), sent.text
    assert api.one("SELECT recipients FROM events WHERE id = %s", name) == recipients


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["send", "comment", "--to", "ada", "--data", "{"], 2, ["--data", "JSON"]),
        (["send", "comment", "--to", "ada", "--data", "5"], 1, ["data", "object"]),
        (["send", "comment", "--data", DATA], 2, ["--to"]),
        (["send"], 2, ["TYPE", "--file"]),
        (["send", "coment", "--to", "ada", "--data", DATA], 1, ["did you mean 'comment'?"]),
        (["send", "comment", "--to", "ada"], 1, ["data.userName", "required"]),
        (["send", "comment", "--to", "ada", "--file", "events.jsonl"], 2, ["either", "--file"]),
        (
            ["send", "--file", "events.jsonl", "--to", "ada", "--topic", "x"],
            2,
            ["--to", "--topic", "each line"],
        ),
        (["send", "comment", "--to", "ada", "--everybody", "--data", DATA], 2, ["--to", "--topic", "--everybody"]),
        (["send", "comment", "--topic", "a b", "--data", DATA], 1, ["recipients.topic", "letters"]),
        (
            ["send", "comment", "--to", "ada", "--data", DATA, "--importance", "hi", "--send-at", "noon"],
            1,
            ["importance", "critical", "send_at"],
        ),
        (["send", "--file", "/nowhere/events.jsonl"], 2, ["/nowhere/events.jsonl", "No such file"]),
        (["send", "--file", "/"], 2, ["directory"]),
        (["send", "comment", "--to", "ada", "--data", DATA, "--via", "pigeon"], 2, ["http", "stream"]),
        (["keys", "revoke", "nobody"], 1, ["'nobody'", "tocsin keys list"]),
        (["token", "ada", "--hours", "0"], 2, ["0.01"]),
        (["nothing"], 2, ["No such command"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_said_in_one_line(tocsin, api, words, code, expected):
    rows = api.rows()
    assert_not_done(tocsin(*words), *expected, code=code)
    assert api.rows() == rows


@pytest.mark.parametrize("via", ["http", "stream"])
def test_an_unknown_type_is_refused_at_either_door(tocsin, api, via):
    """The stream cannot answer, so the command looks before it sends."""
    before = api.redis.xlen("tocsin:events")
    assert_not_done(
        tocsin("send", "coment", "--to", "ada", "--data", DATA, "--via", via), "did you mean 'comment'?"
    )
    assert api.redis.xlen("tocsin:events") == before


def test_a_bad_line_of_a_file_is_named_and_nothing_is_sent(tocsin, api, comment, name, tmp_path):
    file = tmp_path / "events.jsonl"
    lines = [json.dumps(comment(name, id=f"{name}-{n}")) for n in range(3)]
    file.write_text(f'{lines[0]}\n\n{lines[1]}\n{{"type": "comment"}}\n{lines[2]}\n')
    assert_not_done(tocsin("send", "--file", str(file)), "line 4", "recipients")
    file.write_text(f"{lines[0]}\n{{nonsense\n")
    assert_not_done(tocsin("send", "--file", str(file)), "line 2", "JSON")
    assert api.stored(f"{name}-0") == 0


@pytest.mark.parametrize("via", ["http", "stream"])
def test_a_file_of_1200_events(tocsin, api, comment, name, tmp_path, via):
    file = tmp_path / "events.jsonl"
    events = [comment(name, id=f"{name}-{n}") for n in range(1200)]
    file.write_text("\n".join(map(json.dumps, events)))
    api.redis.delete("tocsin:events")
    said = tocsin("send", "--file", str(file), "--via", via)
    assert said.code == 0, said.text
    assert said.line == ("1,200 accepted" if via == "http" else "1,200 added to the stream")
    if via == "http":
        assert api.stored(*(event["id"] for event in events)) == 1200
    else:
        entries = api.redis.xrange("tocsin:events")
        assert [json.loads(fields[b"event"])["id"] for _, fields in entries] == [event["id"] for event in events]
        api.redis.delete("tocsin:events")


def test_a_file_of_large_events_is_cut_below_8_MiB_a_call(tocsin, api, comment, name, tmp_path):
    file = tmp_path / "events.jsonl"
    events = [comment(name, id=f"{name}-{n}") for n in range(200)]
    for event in events:
        event["data"] = event["data"] | {"more": "x" * 60_000}
    file.write_text("\n".join(map(json.dumps, events)))
    said = tocsin("send", "--file", str(file))
    assert (said.code, said.line) == (0, "200 accepted"), said.text
    assert api.stored(*(event["id"] for event in events)) == 200


def test_a_closed_stream_door_is_said_in_one_line(tocsin, api, comment, name, tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(json.dumps(comment(name, id=f"{name}-{n}")) for n in range(3)))
    api.redis.delete("tocsin:events")
    api.redis.xadd("tocsin:events", {"event": "{}"})
    api.redis.xadd("tocsin:events", {"event": "{}"})
    try:
        assert stream_door.turn(api.redis, 1) == ("closed", 2)
        said = tocsin("send", "--file", str(file), "--via", "stream")
        assert_not_done(said, "0 of 3 events", "door is closed", "wait", "same ids")
        assert name not in said.text
        status = tocsin("status", TOCSIN_STREAM_LIMIT="1")
        assert [line.split() for line in status.text.splitlines() if line.startswith("stream")] == [
            ["stream", "closed", "2", "1"]
        ]
        assert 'tocsin_door_closed{door="stream"} 1.0' in api.client.get("/metrics").text
    finally:
        api.redis.delete("tocsin:events")
    assert 'tocsin_door_closed{door="stream"} 0.0' in api.client.get("/metrics").text


def test_a_full_redis_is_said_in_one_line(tocsin, api, name):
    api.redis.delete("tocsin:events")
    before = api.redis.config_get("maxmemory")
    api.redis.config_set("maxmemory", 1)
    try:
        said = tocsin("send", "comment", "--to", name, "--data", DATA, "--via", "stream")
    finally:
        api.redis.config_set("maxmemory", before["maxmemory"])
    assert_not_done(said, "0 of 1 events", "Redis refuses", "maxmemory")
    assert name not in said.text


def test_an_empty_file_is_no_mistake(tocsin, tmp_path):
    (tmp_path / "events.jsonl").write_text("\n\n")
    said = tocsin("send", "--file", str(tmp_path / "events.jsonl"))
    assert (said.code, said.line) == (0, "nothing to send")


def test_an_api_that_does_not_answer_is_named(tocsin):
    words = ["send", "comment", "--to", "ada", "--data", DATA]
    port = AWAY.partition(":")[2]
    assert_not_done(tocsin(*words, TOCSIN_API_PORT=port), f"http://{AWAY}/v1/events", "does not answer")


def test_an_answer_of_something_else_is_no_traceback(tocsin, servers):
    """A port where no API listens, but Redis."""
    port = servers.redis_url.rpartition(":")[2].partition("/")[0]
    words = ["send", "comment", "--to", "ada", "--data", DATA]
    assert_not_done(tocsin(*words, TOCSIN_API_PORT=port), "is not Tocsin's API")


def test_a_key_that_is_missing_or_refused_is_named(tocsin):
    words = ["send", "comment", "--to", "ada", "--data", DATA]
    assert_not_done(tocsin(*words, TOCSIN_API_KEY=None), "TOCSIN_API_KEY")
    assert_not_done(tocsin(*words, TOCSIN_API_KEY="wrong"), "401", "API key")


def test_a_token_opens_the_inbox_of_its_user(tocsin, api):
    said = tocsin("token", "ada", "--hours", "2")
    assert said.code == 0
    secret = api.environment["TOCSIN_JWT_SECRET"]
    claims = jwt.decode(
        said.line, secret, algorithms=["HS256"], audience="tocsin", options={"require": ["exp", "sub"]}
    )
    assert claims["sub"] == "ada"
    assert claims["exp"] - claims["iat"] == 7200


def test_without_a_secret_no_token(tocsin):
    assert_not_done(tocsin("token", "ada", TOCSIN_JWT_SECRET=None), "TOCSIN_JWT_SECRET")


def test_keys_are_listed_without_their_secrets(tocsin, name):
    made = tocsin("keys", "create", name)
    key, id_ = made.line, made.line.split("_")[1]
    assert made.code == 0
    assert f"key {id_} for {name}" in made.text
    assert tocsin("keys", "revoke", id_).line == f"revoked {id_}"
    assert tocsin("keys", "revoke", id_).code == 0
    listed = tocsin("keys", "list")
    (line,) = [line for line in listed.text.splitlines() if name in line]
    assert line.split()[0] == id_
    assert not line.rstrip().endswith("-")
    assert key not in listed.text


def test_status_knows_queues_rows_and_processes(tocsin, api, comment, name, eventually):
    api.redis.delete("tocsin:events")
    for n in range(3):
        api.redis.xadd("tocsin:events", {"event": json.dumps(comment(name, id=f"{name}-{n}"))})
    api.post(comment(name))
    eventually(lambda: api.redis.exists(f"tocsin:alive:api:{socket.gethostname()}:{api.process.popen.pid}"))
    said = tocsin("status", "--json")
    assert said.code == 0, said.text
    status = json.loads(said.text)
    queues = {queue["name"]: queue for queue in status["queues"]}
    assert queues["tocsin:events"]["depth"] == 3
    assert 0 < queues["tocsin:events"]["oldest"] < 120
    assert queues["pipeline"]["depth"] >= 1
    doors = {door["door"]: door for door in status["doors"]}
    assert doors["stream"] == {"door": "stream", "closed": False, "waiting": 3, "limit": 2_000_000}
    assert (doors["http"]["closed"], doors["http"]["limit"]) == (False, 200_000)
    assert doors["http"]["waiting"] >= 1
    assert {process["pid"] for process in status["processes"]} >= {api.process.popen.pid}
    assert any(row["table"] == "events" and row["state"] == "unrouted" and row["count"] for row in status["rows"])
    shown = tocsin("status")
    api.redis.delete("tocsin:events")
    assert shown.code == 0
    assert "tocsin:events" in shown.text
    assert str(api.process.popen.pid) in shown.text
    assert api.environment["TOCSIN_API_KEY"] not in shown.text + said.text


def test_status_of_a_fleet_at_rest_asks_for_make_up(tocsin, servers):
    url = f"{servers.redis_url.rpartition('/')[0]}/7"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    said = tocsin("status", REDIS_URL=url)
    assert said.code == 0
    assert "no process is alive" in said.text


def test_a_dry_run_is_told_as_a_table_and_for_programs(tocsin, api, name):
    words = ["send", "comment", "--to", name, "--to", "bob", "--data", DATA, "--id", name, "--dry-run"]
    rows = api.rows()
    shown, said = tocsin(*words), tocsin(*words, "--json")
    assert shown.code == said.code == 0, shown.text + said.text
    lines = shown.text.splitlines()
    assert lines[0].startswith(f"comment {name}: 2 recipients, due 20")
    assert lines[1].split() == ["recipient", "would", "read", "web", "email", "push"]
    assert lines[2].startswith(name)
    assert "New comment from Bob  yes  no: type_default  no: type_default" in lines[2]
    assert shown.line == "Nothing was stored, sent or counted."
    (event,) = json.loads(said.text)["events"]
    assert [told["user"] for told in event["notifications"]] == [name, "bob"]
    assert api.rows() == rows


@pytest.mark.parametrize(
    ("words", "says", "code"),
    [
        (["--dry-run", "--via", "stream"], "--via http", 2),
        (["--json"], "--dry-run", 2),
        (["--dry-run", "--data", "{}"], "data.userName", 1),
    ],
)
def test_a_dry_run_that_cannot_be(tocsin, words, says, code):
    assert_not_done(tocsin("send", "comment", "--to", "ada", "--data", DATA, *words), says, code=code)


@pytest.mark.parametrize("words", [[], ["--help"], ["send", "--help"], ["keys"]], ids=" ".join)
def test_help_is_help(tocsin, words):
    said = tocsin(*words, DATABASE_URL=None, REDIS_URL=None)
    assert said.code in (0, 2)
    assert "Usage" in said.text
    assert "Traceback" not in said.text
