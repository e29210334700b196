"""`/v1/topics/{topic}`: who hears what is sent to it; `/v1/users/{id}/topics`: what a user hears. A topic is its
subscribers: it needs no making."""

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, put
from litestar.datastructures import State
from litestar.params import Parameter
from msgspec import Meta

from pipelines.arrays import array
from schema.event import MAX_RECIPIENTS, TOPIC, UserId
from workers.api.documents import documented_body, problems, read_document
from workers.api.users import UserId as User
from workers.resources import pool

PATH = "/v1/topics/{topic:str}"
PAGE, MOST = 100, 1000
"""Subscribers of one answer: usually, at most."""

_USERS = "INSERT INTO users (id) SELECT DISTINCT unnest(%s::text[]) ORDER BY 1 ON CONFLICT DO NOTHING"
_INBOXES = "INSERT INTO inboxes (user_id) SELECT DISTINCT unnest(%s::text[]) ORDER BY 1 ON CONFLICT DO NOTHING"
_SUBSCRIBE = """
INSERT INTO topic_subscribers (topic, user_id) SELECT DISTINCT %s, unnest(%s::text[]) ORDER BY 2
ON CONFLICT DO NOTHING
"""
_UNSUBSCRIBE = "DELETE FROM topic_subscribers WHERE topic = %s AND user_id = ANY(%s::text[])"
_COUNT = "SELECT count(*) FROM topic_subscribers WHERE topic = %s"
_PAGE = """
SELECT user_id FROM topic_subscribers WHERE topic = %s AND user_id > %s ORDER BY user_id LIMIT %s
"""

_FOLLOWED = "SELECT topic FROM topic_subscribers WHERE user_id = %s AND topic > %s ORDER BY topic LIMIT %s"

Topic = Annotated[
    str, Parameter(min_length=1, max_length=128, pattern=TOPIC, description="letters, digits, and . _ ~ : @ -")
]
After = Annotated[str, Parameter(max_length=128, pattern=r"^[^\x00]*$", description="what `next` said")]
Limit = Annotated[int, Parameter(ge=1, le=MOST)]


class Subscribers(msgspec.Struct, forbid_unknown_fields=True):
    """Users by your own ids, up to 1000; one that is not known is made."""

    users: Annotated[list[UserId], Meta(min_length=1, max_length=MAX_RECIPIENTS)]


class TopicChange(msgspec.Struct):
    """`changed`: how many of them were not subscribed before, or were."""

    topic: str
    changed: int


class TopicSize(msgspec.Struct):
    """`subscribers`: how many, counted now."""

    topic: str
    subscribers: int


class SubscriberPage(msgspec.Struct):
    """In the order of their ids. `next`: the `after` of the next page, empty at the end."""

    topic: str
    subscribers: list[str]
    next: str | None


class TopicPage(msgspec.Struct):
    """In the order of their names. `next`: the `after` of the next page, empty at the end."""

    topics: list[str]
    next: str | None


@put(
    f"{PATH}/subscribers",
    tags=["topics"],
    operation_class=documented_body(Subscribers),
    responses=problems(401, 408, 413, 422, 503),
)
async def put_subscribers(topic: Topic, request: Request[Any, Any, State]) -> TopicChange:
    """Subscribe users to a topic. Repeating changes nothing. They hear events that are due from now on."""
    users = (await read_body(request)).users
    return TopicChange(topic, await asyncio.to_thread(subscribe, topic, users))


@delete(
    f"{PATH}/subscribers",
    status_code=200,
    tags=["topics"],
    operation_class=documented_body(Subscribers),
    responses=problems(401, 408, 413, 422, 503),
)
async def delete_subscribers(topic: Topic, request: Request[Any, Any, State]) -> TopicChange:
    """End subscriptions. Repeating changes nothing. An event that is being written does not reach them any more,
    unless it has already."""
    users = (await read_body(request)).users
    return TopicChange(topic, await asyncio.to_thread(unsubscribe, topic, users))


@get(PATH, tags=["topics"], sync_to_thread=True, responses=problems(401, 422))
def get_topic(topic: Topic) -> TopicSize:
    """How many subscribers a topic has; one that nobody knows has none."""
    with pool().connection() as connection:
        ((count,),) = connection.execute(_COUNT, (topic,))
    return TopicSize(topic, count)


@get(f"{PATH}/subscribers", tags=["topics"], sync_to_thread=True, responses=problems(401, 422))
def get_subscribers(topic: Topic, after: After = "", limit: Limit = PAGE) -> SubscriberPage:
    """A page of a topic's subscribers."""
    with pool().connection() as connection:
        users = [user for (user,) in connection.execute(_PAGE, (topic, after, limit))]
    return SubscriberPage(topic, users, users[-1] if len(users) == limit else None)


@get("/v1/users/{user_id:str}/topics", tags=["topics"], sync_to_thread=True, responses=problems(401, 422))
def get_followed(user_id: User, after: After = "", limit: Limit = PAGE) -> TopicPage:
    """A page of the topics a user is subscribed to; one that nobody knows, to none."""
    if not user_id.isprintable():
        return TopicPage([], None)
    with pool().connection() as connection:
        topics = [topic for (topic,) in connection.execute(_FOLLOWED, (user_id, after, limit))]
    return TopicPage(topics, topics[-1] if len(topics) == limit else None)


async def read_body(request: Request[Any, Any, State]) -> Subscribers:
    async with request.app.state.bodies.read(request) as body:
        return read_document(body, Subscribers)


def subscribe(topic: str, users: list[str]) -> int:
    """In the order of their ids, so that two calls wait for each other in one order."""
    listed = array(users)
    with pool().connection() as connection, connection.transaction():
        connection.execute(_USERS, (listed,))
        connection.execute(_INBOXES, (listed,))
        return connection.execute(_SUBSCRIBE, (topic, listed)).rowcount


def unsubscribe(topic: str, users: list[str]) -> int:
    with pool().connection() as connection:
        return connection.execute(_UNSUBSCRIBE, (topic, array(users))).rowcount
