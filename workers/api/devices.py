"""`/v1/users/{id}/devices`: a user's addresses for push, as a backend service knows them."""

import asyncio
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, delete, get, put
from litestar.datastructures import State

from pipelines.endpoints import listed
from schema.errors import FieldError
from schema.fields import json_fault
from workers import devices
from workers.api.documents import Refused, documented_body, problems
from workers.api.users import UserId
from workers.devices import NewDevice
from workers.resources import pool
from workers.settings import settings

PATH = "/v1/users/{user_id:str}/devices"


class Device(msgspec.Struct):
    """`refreshed_at`: when it was registered the last time."""

    id: UUID
    kind: str
    created_at: datetime
    refreshed_at: datetime


class KnownDevice(Device):
    """`address_ends`: the last 6 characters of its address; the whole is told to nobody."""

    address_ends: str


class Devices(msgspec.Struct):
    devices: list[KnownDevice]


@put(
    PATH,
    tags=["devices"],
    operation_class=documented_body(NewDevice),
    responses=problems(401, 408, 413, 422, 503),
)
async def put_device(user_id: UserId, request: Request[Any, Any, State]) -> Device:
    """Register a device, or refresh it: do so at each start of the application. An unknown user is made. An
    address that was another user's is this user's from now on. A user has at most 50 devices; one more takes the
    place of the one that was not refreshed for longest. After 270 days without a refresh a device is removed."""
    async with request.app.state.bodies.read(request) as body:
        new = read_device(body)
    if not user_id.isprintable():
        raise Refused(422, "the id must not contain control characters; nothing was stored")
    return await asyncio.to_thread(register, user_id, new)


def read_device(body: bytes) -> NewDevice:
    """Raises Refused naming every field that is wrong."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = json_fault(body, error)
        raise Refused(422, f"the body {why}; nothing was stored", [FieldError("", why)]) from None
    if errors := devices.faults(document, listed(settings().push_hosts)):
        first = f"{errors[0].field}: {errors[0].message}" if errors[0].field else f"the body {errors[0].message}"
        raise Refused(422, f"{first}; nothing was stored", errors)
    return msgspec.convert(document, NewDevice)


def register(user_id: str, new: NewDevice) -> Device:
    with pool().connection() as connection:
        (row,) = connection.execute(devices.REGISTER, devices.values(user_id, new))
    return Device(*row)


@get(PATH, tags=["devices"], sync_to_thread=True, responses=problems(401))
def get_devices(user_id: UserId) -> Devices:
    """A user's devices, the one refreshed last first; none for a user nobody knows."""
    if not user_id.isprintable():
        return Devices([])
    with pool().connection() as connection:
        return Devices([KnownDevice(*row) for row in connection.execute(devices.LIST, (user_id,))])


@delete(
    f"{PATH}/{{device_id:uuid}}", tags=["devices"], status_code=204, sync_to_thread=True, responses=problems(401)
)
def delete_device(user_id: UserId, device_id: UUID) -> None:
    """Remove a device of a user, as when somebody signs out there. Repeating it changes nothing."""
    if not user_id.isprintable():
        return
    with pool().connection() as connection:
        connection.execute(devices.REMOVE, (device_id, user_id))
