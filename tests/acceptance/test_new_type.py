"""A notification type is a folder: no line of Python, no registration."""

import json
import shutil
from pathlib import Path

import pytest

pytest_plugins = ["tests.integration.fleet"]

TEMPLATES = Path(__file__).parent.parent.parent / "templates"
FILES = {
    "reminder": {
        "type.toml": 'category = "calendar"\nlabel = "reminders"\n',
        "data.schema.json": json.dumps(
            {
                "type": "object",
                "required": ["what"],
                "additionalProperties": False,
                "properties": {"what": {"type": "string"}},
            }
        ),
        "sample.json": '{"what": "Lunch"}',
        "title.txt.j2": "Do not forget: {{ data.what }}",
        "message.txt.j2": "{{ recipient }}, it is time.",
        "action_url.txt.j2": "/calendar/{{ data.what | urlencode }}",
    },
    "share": {  # its message divides: 0 passes the schema, and cannot be rendered
        "type.toml": 'category = "calendar"\nlabel = "shares"\n',
        "data.schema.json": '{"required": ["parts"], "properties": {"parts": {"type": "integer"}}}',
        "sample.json": '{"parts": 2}',
        "title.txt.j2": "Your share",
        "message.txt.j2": "A fair share\n{% if data.parts != 1 %}\n{{ 100 / data.parts }} per cent\n{% endif %}",
        "action_url.txt.j2": "",
    },
}


@pytest.fixture(scope="module")
def running(fleet, tmp_path_factory):
    templates = tmp_path_factory.mktemp("copied") / "templates"
    shutil.copytree(TEMPLATES, templates)
    for name, files in FILES.items():
        (templates / name).mkdir()
        for file, text in files.items():
            (templates / name / file).write_text(text)
    fleet.run("api", "gateway", "pipeline", "deliver-web", TOCSIN_TEMPLATES=str(templates))
    return fleet


def test_a_new_folder_is_a_new_type(running, listening, inbox, name, eventually):
    with listening(name) as heard:
        answer = running.api.post(
            "/v1/events", json={"type": "reminder", "recipients": [name], "data": {"what": "Tea & cake"}}
        )
        assert answer.status_code == 202, answer.text
        eventually(lambda: all(heard.both))
        for (item,) in heard.both:
            assert item["title"] == "Do not forget: Tea & cake"
            assert item["message"] == f"{name}, it is time."
            assert item["actionUrl"] == "/calendar/Tea%20%26%20cake"
            assert (item["category"], item["importance"]) == ("calendar", "normal")
    assert inbox(name).json()["notifications"][0]["type"] == "reminder"


def test_its_schema_guards_the_door(running, name):
    answer = running.api.post("/v1/events", json={"type": "reminder", "recipients": [name], "data": {"whta": "x"}})
    assert answer.status_code == 422
    assert {error["field"] for error in answer.json()["errors"]} == {"data.what", "data.whta"}


def test_what_cannot_be_rendered_fails_by_file_and_line_and_its_neighbours_arrive(
    running, listening, name, eventually
):
    with listening(name) as heard:
        answer = running.api.post(
            "/v1/events",
            json=[
                {"id": f"{name}-{n}", "type": "share", "recipients": [name], "data": {"parts": n}}
                for n in (2, 0, 4)
            ],
        )
        assert answer.status_code == 202
        eventually(lambda: min(map(len, heard.both)) >= 2)
        for told in heard.both:
            assert [item["data"]["parts"] for item in told] == [2, 4]
            assert [item["seq"] for item in told] == [1, 2]
    failed = """SELECT n.error, n.seq, d.state, d.reason FROM notifications n
        JOIN deliveries d ON d.notification_id = n.id WHERE n.event_id = %s"""
    ((error, seq, state, reason),) = running.database.execute(failed, (f"{name}-0",)).fetchall()
    assert error.startswith("templates/share/message.txt.j2:3: ")
    assert "ZeroDivisionError" in error
    assert (seq, state, reason) == (None, "failed", "unrenderable")
    routed = "SELECT routed_count = recipient_count FROM events WHERE id = %s"
    assert running.one(routed, f"{name}-0")
    assert running.one("SELECT unread FROM inboxes WHERE user_id = %s", name) == 2
