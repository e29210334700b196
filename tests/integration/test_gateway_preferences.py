"""What a user wants of each type: the catalog's defaults, and what was chosen over them."""

import pytest

from schema.notification import CHANNELS

pytest_plugins = ["tests.integration.gateways"]

PATH = "/api/preferences"
TYPES = ["comment", "follow", "like", "mention", "message", "order", "payment", "system"]


@pytest.fixture
def put(gateway, name):
    """put(choice, …): as that test's user."""
    return lambda *choices, user=name: gateway.client.put(
        PATH, json={"preferences": list(choices)}, headers=gateway.bearer(user)
    )


def chosen(answer):
    assert answer.status_code == 200, answer.text
    return {p["type"]: (p["enabled"], p["channels"]) for p in answer.json()["preferences"]}


DEFAULT = (True, {"web": True, "email": False, "push": False})


def test_without_a_choice_every_type_has_its_defaults(gateway, name):
    answer = gateway.get(name, PATH)
    assert sorted(chosen(answer)) == TYPES
    assert set(map(str, chosen(answer).values())) == {str(DEFAULT)}
    comment = next(p for p in answer.json()["preferences"] if p["type"] == "comment")
    assert comment == {
        "type": "comment",
        "category": "social",
        "label": "comments",
        "enabled": True,
        "channels": {"web": True, "email": False, "push": False},
    }


def test_a_choice_is_kept_and_answered(gateway, name, put):
    answer = put({"type": "like", "enabled": False}, {"type": "order", "channels": {"email": True}})
    assert chosen(answer)["like"] == (False, DEFAULT[1])
    assert chosen(answer)["order"] == (True, DEFAULT[1] | {"email": True})
    assert chosen(answer)["comment"] == DEFAULT
    assert chosen(gateway.get(name, PATH)) == chosen(answer)


def test_what_is_left_out_stays_as_it_was(put):
    put({"type": "like", "enabled": False, "channels": {"email": True}})
    assert chosen(put({"type": "like", "channels": {"web": False}}))["like"] == (
        False,
        {"web": False, "email": True, "push": False},
    )
    assert chosen(put({"type": "like", "enabled": True}))["like"][0] is True
    assert chosen(put())["like"] == (True, {"web": False, "email": True, "push": False})


def test_the_page_may_send_back_what_it_was_given(gateway, name, put):
    given = gateway.get(name, PATH).json()["preferences"]
    assert put(*given).json()["preferences"] == given


def test_a_channel_not_chosen_follows_the_type(gateway, name, put):
    put({"type": "like", "channels": {"web": False}})
    kept = gateway.inboxes.one("SELECT channels FROM notification_preferences WHERE user_id = %s", name)
    assert kept == {"web": False}


def test_choices_are_ones_own(gateway, name, put):
    put({"type": "like", "enabled": False})
    assert chosen(gateway.get(f"{name}-other", PATH))["like"] == DEFAULT


@pytest.mark.parametrize(
    ("choices", "field"),
    [
        ([{"type": "no-such-type"}], "preferences[0].type"),
        ([{"type": "like"}, {"type": "x" * 1000}], "preferences[1].type"),
        ([{"type": "like"}, {"type": "like"}], "preferences[1].type"),
        ([{"type": "like", "channels": {"pigeon": True}}], "preferences[0].channels.pigeon"),
        ([{"type": "like", "channels": {"web": "yes"}}], "preferences[0].channels[...]"),
        ([{"type": "like", "enabled": 1}], "preferences[0].enabled"),
        ([{"enabled": True}], "preferences[0]"),
        (["like"], "preferences[0]"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_kept(gateway, name, put, choices, field):
    answer = put(*choices)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    query = "SELECT count(*) FROM notification_preferences WHERE user_id = %s"
    assert gateway.inboxes.one(query, name) == 0


def test_every_error_is_named_at_once(put):
    answer = put({"type": "a"}, {"type": "like", "channels": {"x": True, "y": True}})
    assert [error["field"] for error in answer.json()["errors"]] == [
        "preferences[0].type",
        "preferences[1].channels.x",
        "preferences[1].channels.y",
    ]


@pytest.mark.parametrize("body", [b"", b"{", b'"\xff"', b"[" * 50_000])
def test_what_is_no_json_is_refused(gateway, name, body):
    answer = gateway.client.put(PATH, content=body, headers=gateway.bearer(name))
    assert (answer.status_code, answer.json()["title"]) == (400, "Bad Request")


def test_every_channel_of_the_house_can_be_chosen(put):
    answer = put({"type": "like", "channels": dict.fromkeys(CHANNELS, True)})
    assert chosen(answer)["like"] == (True, dict.fromkeys(CHANNELS, True))


OPT_OUT = "INSERT INTO opt_outs (user_id, channel, category) VALUES (%s, 'email', 'social')"
OPTED_OUT = "SELECT channel FROM opt_outs WHERE user_id = %s"


def test_the_last_word_counts_also_over_an_unsubscription(gateway, name, put):
    """Of the category only the type that is wanted again is: the others stay off, and say so."""
    put({"type": "comment", "channels": {"email": True}}, {"type": "like", "channels": {"email": True}})
    gateway.inboxes.database.execute(OPT_OUT, (name,))
    before = chosen(gateway.get(name, PATH))
    assert (before["comment"][1]["email"], before["like"][1]["email"]) == (False, False)
    after = chosen(put({"type": "comment", "channels": {"email": True}}))
    assert (after["comment"][1]["email"], after["like"][1]["email"]) == (True, False)
    assert gateway.inboxes.database.execute(OPTED_OUT, (name,)).fetchall() == []


def test_switching_off_ends_no_unsubscription(gateway, name, put):
    put()
    gateway.inboxes.database.execute(OPT_OUT, (name,))
    put({"type": "comment", "channels": {"email": False, "web": True}})
    assert gateway.inboxes.database.execute(OPTED_OUT, (name,)).fetchall() == [("email",)]
