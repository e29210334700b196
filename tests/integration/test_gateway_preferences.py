"""What a user wants of each type: the catalog's defaults, and what was chosen over them."""

from concurrent.futures import ThreadPoolExecutor

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
    given = gateway.get(name, PATH).json()
    assert put(*given["preferences"]).json()["preferences"] == given["preferences"]
    spoken = {key: given[key] for key in ("categories", "global", "optOuts")}
    assert gateway.client.put(PATH, json=spoken, headers=gateway.bearer(name)).json()["global"] == given["global"]


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
        ([{"type": "like", "channels": {"web": 5}}], "preferences[0].channels.web"),
        ([{"type": "like", "channels": {"web": "yes"}}], "preferences[0].channels.web"),
        ([{"type": "like", "channels": {"web": "digest daily"}}], "preferences[0].channels.web"),
        ([{"type": "like", "channels": {"email": "digest sometimes"}}], "preferences[0].channels.email"),
        ([{"type": "like", "enabled": 1}], "preferences[0].enabled"),
        ([{"enabled": True}], "preferences[0].type"),
        ([{"type": "like", "email": False}], "preferences[0].email"),
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
    answer = put(
        {"type": "a", "channels": {"x": 5}},
        {"channels": {"y": True, "email": "later", "web": 5, "push": True}},
    )
    assert sorted(error["field"] for error in answer.json()["errors"]) == [
        "preferences[0].channels.x",
        "preferences[0].type",
        "preferences[1].channels.email",
        "preferences[1].channels.web",
        "preferences[1].channels.y",
        "preferences[1].type",
    ]


def test_what_is_misspelt_is_told_how_it_is_spelt(gateway, name):
    answer = gateway.client.put(PATH, json={"opt_outs": []}, headers=gateway.bearer(name))
    assert answer.json()["errors"][0]["message"] == "is not a known field; did you mean 'optOuts'?"


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


CHANGES = """
SELECT changed_by, scope, name, setting, before, after FROM preference_changes WHERE user_id = %s ORDER BY id
"""


@pytest.fixture
def say(gateway, name):
    """say(global=…, categories=…): the answer to a PUT of these."""

    def said(**body):
        answer = gateway.client.put(PATH, json=body, headers=gateway.bearer(name))
        assert answer.status_code == 200, answer.text
        return answer.json()

    return said


def emails(answer):
    return {p["type"]: p["channels"]["email"] for p in answer["preferences"]}


def test_categories_and_everything_hold_for_their_types(say):
    answer = say(
        **{"global": {"channels": {"email": "digest daily"}}},
        categories=[{"category": "social", "channels": {"email": False}, "enabled": False}],
        preferences=[{"type": "like", "channels": {"email": True}}],
    )
    found = emails(answer)
    assert (found["comment"], found["like"], found["order"]) == (False, True, "digest daily")
    assert {p["type"] for p in answer["preferences"] if not p["enabled"]} == {
        "comment",
        "follow",
        "like",
        "mention",
    }
    assert answer["global"] == {"enabled": None, "channels": {"email": "digest daily"}}
    social = next(c for c in answer["categories"] if c["category"] == "social")
    assert social["labels"] == ["comments", "followers", "likes", "mentions"]
    assert (social["enabled"], social["channels"]) == (False, {"email": False})
    assert answer["chosen"] == {"like": {"enabled": None, "channels": {"email": True}}}
    assert answer["defaults"]["like"] == DEFAULT[1]


def test_null_takes_a_word_back(gateway, name, say):
    say(categories=[{"category": "social", "enabled": False, "channels": {"email": True}}])
    answer = say(categories=[{"category": "social", "enabled": None, "channels": {"email": None}}])
    assert chosen(gateway.get(name, PATH))["comment"] == DEFAULT
    assert all((c["enabled"], c["channels"]) == (None, {}) for c in answer["categories"])
    assert gateway.inboxes.one("SELECT count(*) FROM notification_preferences WHERE user_id = %s", name) == 0


def test_a_whole_channel_is_left_and_come_back_to(say):
    everything = {"global": {"channels": {"email": True}}}
    say(**everything)
    out = say(optOuts=[{"channel": "email"}, {"channel": "push", "category": "orders"}])
    assert set(emails(out).values()) == {False}
    assert out["optOuts"] == [
        {"channel": "email", "category": "", "out": True},
        {"channel": "push", "category": "orders", "out": True},
    ]
    assert say(optOuts=out["optOuts"]) == out, "it may be sent back"
    back = say(optOuts=[{"channel": "email", "out": False}])
    assert set(emails(back).values()) == {True}
    one = say(optOuts=[{"channel": "email"}]) and say(preferences=[{"type": "order", "channels": {"email": True}}])
    assert [kind for kind, on in emails(one).items() if on] == ["order"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"categories": [{"category": "gossip"}]}, "categories[0].category"),
        ({"categories": [{"category": "social"}] * 2}, "categories[1].category"),
        ({"categories": [{"category": "social", "channels": {"fax": True}}]}, "categories[0].channels.fax"),
        ({"global": {"channels": {"push": "soon"}}}, "global.channels.push"),
        ({"global": {"enabled": "no"}}, "global.enabled"),
        ({"optOuts": [{"channel": "fax"}]}, "optOuts[0].channel"),
        ({"optOuts": [{"channel": "email", "category": "gossip"}]}, "optOuts[0].category"),
        ({"optOuts": [{"category": "social"}]}, "optOuts[0].channel"),
        ({"optOuts": [{"channel": "email", "out": on} for on in (True, False)]}, "optOuts[1]"),
        ({"optOuts": [{"channel": "email", "in": True}]}, "optOuts[0].in"),
        ({"global": {"chanels": {"push": False}}}, "global.chanels"),
        ({"categories": [{"category": "social", "enabeld": False}]}, "categories[0].enabeld"),
        ({"opt_outs": []}, "opt_outs"),
        ([], ""),
    ],
)
def test_what_does_not_fit_there_either_is_named(gateway, name, body, field):
    answer = gateway.client.put(PATH, json=body, headers=gateway.bearer(name))
    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert gateway.inboxes.one("SELECT count(*) FROM users WHERE id = %s", name) == 0


def test_every_change_is_noted_once(gateway, name, say):
    said = {
        "preferences": [{"type": "like", "enabled": False, "channels": {"email": "digest 1h"}}],
        "optOuts": [{"channel": "push"}],
    }
    for _ in range(2):
        say(**said)
    say(preferences=[{"type": "like", "channels": {"email": None, "push": True}}])
    assert gateway.inboxes.database.execute(CHANGES, (name,)).fetchall() == [
        ("user", "type", "like", "enabled", None, False),
        ("user", "type", "like", "email", None, "digest 1h"),
        ("user", "opt_out", "", "push", None, True),
        ("user", "category", "social", "push", None, False),
        ("user", "global", "", "push", None, False),
        ("user", "type", "like", "email", "digest 1h", None),
        ("user", "type", "like", "push", None, True),
        ("user", "opt_out", "", "push", True, None),
        *[("user", "opt_out", category, "push", None, True) for category in ("messages", "orders", "system")],
    ]


def test_tabs_that_speak_at_once_lose_no_word(gateway, name, say):
    """Each names another type; in the end all are kept, and noted."""
    tabs = [f"""{{"preferences": [{{"type": "{kind}", "enabled": false}}]}}""" for kind in TYPES]
    with ThreadPoolExecutor(len(tabs)) as threads:
        answers = threads.map(
            lambda body: gateway.client.put(PATH, content=body, headers=gateway.bearer(name)).status_code, tabs
        )
        assert set(answers) == {200}
    assert {enabled for enabled, _ in chosen(gateway.get(name, PATH)).values()} == {False}
    assert gateway.inboxes.one("SELECT count(*) FROM preference_changes WHERE user_id = %s", name) == len(TYPES)
