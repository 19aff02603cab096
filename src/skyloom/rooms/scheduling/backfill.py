"""Room that is promised to a gang that waits, and who may overtake it all the same (EASY backfill).

The first gang in line that does not fit gets a *reservation*: the nodes on which it would start when what runs there has ended as
expected, and when that is. Others may overtake if they end before, or use only what the reservation leaves over then (Lifka, "The
ANL/IBM SP scheduling system", 1995). Every pool protects one gang, the first that waits for it. Where durations are not
known there is no moment to end before: then only what the reservation does not need may be used.

Being told wrong durations costs exactness, never safety: a promise holds if what runs ends as it was expected to.
"""

from collections.abc import Iterable
from heapq import merge
from math import inf

from skyloom.rooms.scheduling.model import Placement
from skyloom.rooms.scheduling.occupants import Occupant
from skyloom.rooms.scheduling.placement import Area, Floor, Shape
from skyloom.rooms.scheduling.vectors import Vector, least, plus, times_in


class Promise:
    """Room for one gang.

    Attributes:
        at: when it is there, at the latest; `inf` when nobody knows.
        spare: by node, what is left of it then; nobody who still runs then may use more.
    """

    __slots__ = ("at", "gang", "placement", "pool", "spare")

    def __init__(self, gang: str, pool: str, at: float, placement: Placement, spare: dict[int, Vector]) -> None:
        self.gang = gang
        self.pool = pool
        self.at = at
        self.placement = placement
        self.spare = spare

    def allows(self, ends_at: float) -> bool:
        """Whether a gang that ends then is out of the way in time."""
        return ends_at <= self.at < inf

    def use(self, floor: Floor, placement: Placement, worker: Vector) -> None:
        """Somebody who still runs then took that from what is left."""
        for name, count in placement:
            place = floor.place_of[name]
            if place in self.spare:
                self.spare[place] = plus(self.spare[place], worker, -count)

    def narrow(self, floor: Floor, whole_pool: bool = False) -> None:
        """Leave on the floor only what the reservation does not need, nothing of ``whole_pool``; to be undone by the caller."""
        for place, spare in self.spare.items():
            floor.lower(place, least(floor.free[place], spare))
        if whole_pool:
            floor.close(self.pool)


def reserve(
    floor: Floor, gang_id: str, shape: Shape, areas: tuple[Area, ...], ends: list[Iterable[Occupant]], now: float
) -> Promise | None:
    """Room in one pool for a gang that does not fit there now; None when it would not fit even if all ended.

    Args:
        ends: runs by their ends, each sequence in order.
    """
    freed, at = _awaited(floor, shape, areas, ends)
    if freed is None:
        return None
    with floor.imagined():
        for run in freed:
            floor.give(run.placement, run.worker)
        placement = floor.find_in(areas, shape.worker, shape.min_workers)
        if placement is None:
            return None
        floor.take(placement, shape.worker)
        spare = {place: floor.free[place] for place in (floor.place_of[name] for name, _ in placement)}
    # What should have ended and has not may end any moment.
    return Promise(gang_id, areas[0].pool, max(at, now), placement, spare)


def _awaited(
    floor: Floor, shape: Shape, areas: tuple[Area, ...], ends: list[Iterable[Occupant]]
) -> tuple[list[Occupant] | None, float]:
    """Who has to end before it fits, and when the last of them does. Looks only at nodes where something changes."""
    most = shape.min_workers
    room = sum(
        min(times_in(level, shape.worker), most) * len(places)
        for area in areas
        for level, places in area.levels.items()
    )
    freed: list[Occupant] = []
    free: dict[int, Vector] = {}
    for run in merge(*ends, key=lambda run: run.end):
        freed.append(run)
        for name, count in run.placement:
            place = floor.place_of.get(name)
            if place is None or floor.area(place) not in areas:
                continue
            before = free.get(place, floor.free[place])
            after = free[place] = plus(before, run.worker, count)
            room += min(times_in(after, shape.worker), most) - min(times_in(before, shape.worker), most)
        if room >= most:
            return freed, run.end[0]
    return None, inf
