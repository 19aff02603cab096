"""Room that is promised to a gang that waits, and who may overtake it all the same (EASY backfill).

The first gang in line that does not fit gets a *promise*, a reservation: the nodes on which it would start when what runs there has
ended as expected, and when that is. Others may overtake if they end before, or use only what the promise leaves over then (Lifka, "The
ANL/IBM SP scheduling system", 1995). Every pool protects one gang, the first that waits for it.

What never ends promises nothing. A promise counts on what ends (by its estimate, at its limit, or some day), and on what the gang
itself may stop (`preemption`). Three kinds of ends, three promises:

- a known moment: others have to be gone by then, or stay out of the way;
- none that is known, but what is in the way is work that ends: whoever ends by any known moment may go first, who would take the place of
  one unknown end by another may not. So the unknown ones become fewer, and then there is a known moment;
- none at all, because what has no end (a replica) holds what it needs: there is no promise, and nobody waits for it (`hope`).

Being told wrong durations costs exactness, never safety: a promise holds if what runs ends as it was expected to.
"""

from collections.abc import Iterable
from itertools import islice, tee
from math import inf

from skyloom.rooms.scheduling.model import Placement
from skyloom.rooms.scheduling.occupants import Occupant
from skyloom.rooms.scheduling.placement import Area, Floor, Shape
from skyloom.rooms.scheduling.vectors import Vector, least, plus, times_in


class Promise:
    """Room for one gang, in one pool.

    Attributes:
        at: when it is there, at the latest; `inf` when nobody knows.
        gang, pool: for whom, where.
        spare: by node, what is left of it then; nobody who still runs then may use more.
    """

    __slots__ = ("at", "gang", "pool", "spare")

    def __init__(self, gang: str, pool: str, at: float, spare: dict[int, Vector]) -> None:
        self.gang = gang
        self.pool = pool
        self.at = at
        self.spare = spare

    def allows(self, ends_at: float) -> bool:
        """Whether a gang that ends then is out of the way in time."""
        return ends_at <= self.at and ends_at < inf

    def use(self, floor: Floor, placement: Placement, worker: Vector) -> None:
        """Somebody who still runs then took that from what is left."""
        for name, count in placement:
            place = floor.place_of[name]
            if place in self.spare:
                self.spare[place] = plus(self.spare[place], worker, -count)

    def narrow(self, floor: Floor) -> None:
        """Leave on the floor only what the promise does not need; to be undone by the caller."""
        for place, spare in self.spare.items():
            floor.lower(place, least(floor.free[place], spare))


def promise(
    floor: Floor,
    gang_id: str,
    shape: Shape,
    areas: tuple[Area, ...],
    leaving: Iterable[tuple[float, Occupant]],
    now: float,
) -> Promise | None:
    """Room in one pool for a gang that does not fit there now; None when it would not fit even if all of these left.

    Args:
        leaving: what runs there, and when it leaves; the soonest first.
    """
    moments, ones = tee(leaving)
    freed = awaited(floor, shape, areas, (one for _, one in ones))
    if not freed:
        return None
    at = next(islice(moments, len(freed) - 1, None))[0]
    with floor.imagined():
        for one in freed:
            floor.give(one.placement, one.worker)
        placement = floor.find_in(areas, shape.worker, shape.min_workers)
        if placement is None:
            return None
        floor.take(placement, shape.worker)
        spare = {place: floor.free[place] for place in (floor.place_of[name] for name, _ in placement)}
    # What should have ended and has not may end any moment.
    return Promise(gang_id, areas[0].pool, max(at, now), spare)


def awaited(floor: Floor, shape: Shape, areas: tuple[Area, ...], leaving: Iterable[Occupant]) -> list[Occupant]:
    """Who of these, in their order, has to leave before a gang fits; the last of them is needed.

    Nobody when not even all would do. Looks only at the nodes where something changes.
    """
    most = shape.min_workers
    room = floor.room(areas, shape.worker, most)
    freed: list[Occupant] = []
    free: dict[int, Vector] = {}
    for one in leaving:
        freed.append(one)
        for name, count in one.placement:
            place = floor.place_of.get(name)
            if place is None or floor.ground.area_of[place] not in areas:
                continue
            before = free.get(place, floor.free[place])
            after = free[place] = plus(before, one.worker, count)
            room += min(times_in(after, shape.worker), most) - min(times_in(before, shape.worker), most)
        if room >= most:
            return freed
    return []
