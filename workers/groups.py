"""Groups, on their way out: whatever is claimed together of one group, for one address, is told once."""

from collections.abc import Sequence
from uuid import UUID

from schema.delivery import SUPPRESSED, Parcel
from workers.claims import Claimed, Decided

GROUPED = Decided(SUPPRESSED, "grouped")
"""Why a delivery is not sent: another of the same group says what this one would."""


def told_once(claimed: Sequence[Claimed]) -> list[Claimed]:
    """Of several to one address about one group, one is sent, as soon as one says the group's words. A critical
    one always is, and is the one that speaks: what becomes of any other nobody can promise."""
    speaks: dict[tuple[UUID, str], UUID] = {}
    of_groups = [(one.parcel.group, one.parcel) for one in claimed if one.parcel and one.parcel.group]
    for group, parcel in sorted(of_groups, key=lambda one: is_critical(one[1])):
        if parcel.grouped:
            speaks[group, parcel.address] = parcel.delivery
    outdone = {
        parcel.delivery
        for group, parcel in of_groups
        if not is_critical(parcel) and speaks.get((group, parcel.address), parcel.delivery) != parcel.delivery
    }
    return [one._replace(parcel=None, decided=GROUPED) if one.row.delivery in outdone else one for one in claimed]


def is_critical(parcel: Parcel) -> bool:
    return parcel.importance == "critical"
