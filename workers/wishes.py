"""Wishes: what a user said of types, categories and everything, as it is kept, changed and shown. Two doors lead
here, the gateway's and the API's. Both do the same, in one transaction: PERSON, LOCK, READ, `change`, WRITE.

Whatever changed is in `preference_changes`, written with the change or not at all. Repeating a change changes
nothing.
"""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from pipelines.arrays import array, json
from pipelines.choices import OptOut, Types, Wanted, differences
from pipelines.kinds import NotificationType
from pipelines.preferences import CATEGORY, GLOBAL, OPT_OUT, TYPE, Choice, Kept, Wish, levels, nearest, opt_outs
from pipelines.timing import parse
from schema.errors import FieldError
from schema.fields import field_errors, shown
from schema.notification import CHANNELS

W = TypeVar("W", bound=Wanted)

PERSON = """
WITH person AS (INSERT INTO users (id) VALUES (%(user)s) ON CONFLICT DO NOTHING)
INSERT INTO inboxes (user_id) VALUES (%(user)s) ON CONFLICT DO NOTHING
"""
LOCK = "SELECT FROM users WHERE id = %(user)s FOR NO KEY UPDATE"
"""One change of a user's wishes after the other, so that READ is what WRITE changes."""
READ = """
SELECT scope, type, enabled, channels FROM notification_preferences WHERE user_id = %(user)s
UNION ALL
SELECT 'opt_out', category, NULL, jsonb_object_agg(channel, true) FROM opt_outs WHERE user_id = %(user)s
GROUP BY category
"""
"""For `kept`."""
WRITE = """
WITH given AS (
    SELECT * FROM ROWS FROM (
        unnest(%(scopes)s::text[], %(names)s::text[], %(enabled)s::bool[]),
        jsonb_array_elements(%(channels)s::jsonb)
    ) AS g (scope, name, enabled, channels)
), nothing AS (
    DELETE FROM notification_preferences p USING given g
    WHERE p.user_id = %(user)s AND p.scope = g.scope AND p.type = g.name
        AND g.enabled IS NULL AND g.channels = '{}'
), something AS (
    INSERT INTO notification_preferences (user_id, scope, type, enabled, channels)
    SELECT %(user)s, scope, name, enabled, channels FROM given WHERE enabled IS NOT NULL OR channels <> '{}'
    ON CONFLICT (user_id, scope, type) DO UPDATE SET
        enabled = excluded.enabled, channels = excluded.channels, updated_at = now()
), back AS (
    DELETE FROM opt_outs o
    USING unnest(%(back_categories)s::text[], %(back_channels)s::text[]) AS b (category, channel)
    WHERE o.user_id = %(user)s AND o.category = b.category AND o.channel = b.channel
    RETURNING o.category, o.channel
), gone AS (
    INSERT INTO opt_outs (user_id, category, channel)
    SELECT %(user)s, * FROM unnest(%(out_categories)s::text[], %(out_channels)s::text[])
    ON CONFLICT DO NOTHING RETURNING category, channel
)
INSERT INTO preference_changes (user_id, changed_by, scope, name, setting, before, after)
SELECT %(user)s, %(by)s, scope, name, setting, nullif(before, 'null'), nullif(after, 'null') FROM ROWS FROM (
    unnest(%(changed_scopes)s::text[], %(changed_names)s::text[], %(changed)s::text[]),
    jsonb_array_elements(%(befores)s::jsonb), jsonb_array_elements(%(afters)s::jsonb)
) AS c (scope, name, setting, before, after)
UNION ALL SELECT %(user)s, %(by)s, 'opt_out', category, channel, 'true', NULL FROM back
UNION ALL SELECT %(user)s, %(by)s, 'opt_out', category, channel, NULL, 'true' FROM gone
"""
"""With `values`."""


def kept(rows: Iterable[tuple[str, str, bool | None, dict[str, Wish]]]) -> Kept:
    return {(scope, name): Choice(enabled, channels) for scope, name, enabled, channels in rows}


def values(user: str, by: str, before: Kept, after: Kept) -> dict[str, Any] | None:
    """For WRITE; None: nothing changed. `by`: user, service or unsubscribe."""
    changed = differences(before, after)
    if not changed:
        return None
    outs = [c for c in changed if c.scope == OPT_OUT]
    back, gone = [c for c in outs if not c.after], [c for c in outs if c.after]
    changed = [c for c in changed if c.scope != OPT_OUT]
    places = sorted({(c.scope, c.name) for c in changed})
    now = [after.get(place, Choice()) for place in places]
    return {
        "user": user,
        "by": by,
        "scopes": array(scope for scope, _ in places),
        "names": array(name for _, name in places),
        "enabled": array(choice.enabled for choice in now),
        "channels": json([choice.channels for choice in now]),
        "back_categories": array(c.name for c in back),
        "back_channels": array(c.setting for c in back),
        "out_categories": array(c.name for c in gone),
        "out_channels": array(c.setting for c in gone),
        "changed_scopes": array(c.scope for c in changed),
        "changed_names": array(c.name for c in changed),
        "changed": array(c.setting for c in changed),
        "befores": json([c.before for c in changed]),
        "afters": json([c.after for c in changed]),
    }


def read(document: object, kind: type[W], types: Types) -> tuple[W, list[FieldError]]:
    """What is said, and everything in the document that is wrong or means nothing here; with errors, nothing may
    be kept."""
    errors = field_errors(document, kind)
    if isinstance(document, dict):
        places = {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
        named = {error.field for error in errors}
        errors += [error for error in _meaningless(document, places, types) if error.field not in named]
    return kind() if errors else msgspec.convert(document, kind), errors


def _meaningless(document: dict[str, Any], places: dict[str, str], types: Types) -> Iterator[FieldError]:
    """Looks at what is of the right form, also beside what is not."""
    categories = sorted({kind.category for kind in types.values()})
    for list_, noun, known in (("preferences", "type", list(types)), ("categories", "category", categories)):
        seen = set[str]()
        for place, said in _objects(document, places[list_]):
            name = said.get(noun)
            if isinstance(name, str):
                if name not in known:
                    yield FieldError(f"{place}.{noun}", f"must be one of {', '.join(known)}")
                elif name in seen:
                    yield FieldError(f"{place}.{noun}", "is given twice")
                seen.add(name)
            yield from _wrong_channels(place, said)
    if isinstance(everything := document.get(places["everything"]), dict):
        yield from _wrong_channels(places["everything"], everything)
    yield from _wrong_opt_outs(document, places["opt_outs"], categories)


def _objects(document: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of an array, each with its place."""
    listed = document.get(name)
    for i, one in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(one, dict):
            yield f"{name}[{i}]", one


def _wrong_channels(place: str, said: dict[str, Any]) -> Iterator[FieldError]:
    channels = said.get("channels")
    for channel, wish in channels.items() if isinstance(channels, dict) else ():
        field = f"{place}.channels.{shown(channel)}"
        if channel not in CHANNELS:
            yield FieldError(field, f"must be one of {', '.join(CHANNELS)}")
        elif channel == "web" and wish not in (True, False, None, "now"):
            yield FieldError(field, "the web is told at once, or not at all: must be true, false or null")
        elif isinstance(wish, str):
            try:
                parse(wish)
            except ValueError as error:
                yield FieldError(field, f"{error}; or null")


def _wrong_opt_outs(document: dict[str, Any], name: str, categories: list[str]) -> Iterator[FieldError]:
    seen = set[tuple[str, str]]()
    for place, out in _objects(document, name):
        channel, category = out.get("channel"), out.get("category", "")
        if isinstance(channel, str) and channel not in CHANNELS:
            yield FieldError(f"{place}.channel", f"must be one of {', '.join(CHANNELS)}")
        if isinstance(category, str) and category not in ("", *categories):
            names = f'{", ".join(categories)}, or "" for the whole channel'
            yield FieldError(f"{place}.category", f"must be one of {names}")
        if isinstance(channel, str) and isinstance(category, str):
            if (channel, category) in seen:
                yield FieldError(place, "is given twice")
            seen.add((channel, category))


class Chosen(msgspec.Struct):
    """What was said of a type, a category or everything; null, and a channel that is missing: nothing."""

    enabled: bool | None
    channels: dict[str, Wish]


class OfCategory(Chosen, kw_only=True):
    """`labels`: of its types, in the plural."""

    category: str
    labels: list[str]


class Holds(msgspec.Struct):
    """What holds for a type, all that was said considered; a text is a timing of the user's own."""

    type: str
    category: str
    label: str
    enabled: bool
    channels: dict[str, Wish]


class View(msgspec.Struct):
    """What holds for each type; what was said of each category, of everything and (`chosen`) of types;
    unsubscriptions; and what types do before anybody says anything."""

    preferences: list[Holds]
    categories: list[OfCategory]
    everything: Chosen = msgspec.field(name="global")
    opt_outs: list[OptOut]
    chosen: dict[str, Chosen]
    defaults: dict[str, dict[str, Wish]]


def view(said: Kept, types: Types) -> dict[str, Any]:
    """A View's fields."""
    labels = dict[str, list[str]]()
    for kind in types.values():
        labels.setdefault(kind.category, []).append(kind.label)
    return {
        "preferences": [_holds(said, kind) for kind in types.values()],
        "categories": [
            OfCategory(*_said(said, CATEGORY, name), category=name, labels=of) for name, of in labels.items()
        ],
        "everything": Chosen(*_said(said, GLOBAL, "")),
        "opt_outs": [
            OptOut(channel, category)
            for category in ("", *labels)
            for channel in said.get((OPT_OUT, category), Choice()).channels
        ],
        "chosen": {name: Chosen(*_said(said, TYPE, name)) for name in types if (TYPE, name) in said},
        "defaults": {
            name: {
                channel: str(kind.timings[channel]) if channel in kind.timings else on
                for channel, on in kind.channels.items()
            }
            for name, kind in types.items()
        },
    }


def _said(said: Kept, scope: str, name: str) -> tuple[bool | None, dict[str, Wish]]:
    enabled, channels = said.get((scope, name), Choice())
    return enabled, dict(channels)


def _holds(said: Kept, kind: NotificationType) -> Holds:
    near, out = levels(said, kind), opt_outs(said, kind)
    channels = dict[str, Wish]()
    for channel in CHANNELS:
        wish = nearest([choice.channels.get(channel) for choice in near])
        on = kind.channels[channel] if wish is None else wish
        channels[channel] = on if channel not in out else False
    enabled = nearest([choice.enabled for choice in near])
    return Holds(kind.name, kind.category, kind.label, enabled is not False, channels)
