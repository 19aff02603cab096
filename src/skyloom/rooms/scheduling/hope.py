"""Whether a gang that does not fit now will ever fit, if nobody stops what never ends by itself.

What is endless (a replica, a gateway) leaves nothing to wait for. Who needs its room has no hope until somebody stops it, makes room
elsewhere, or the gang itself may stop it; and who has no hope holds up nobody: no promise, no place in a pool that others may not
overtake, no part of its project's guarantee.
"""

from skyloom.rooms.scheduling.occupants import Occupant, Occupants
from skyloom.rooms.scheduling.placement import Area, Floor, Shape
from skyloom.rooms.scheduling.preemption import Handover, Stops
from skyloom.rooms.scheduling.queue import Entry

_MOST_NAMED = 20


class Hope:
    """One round's view of what will be free when all has ended that ends."""

    def __init__(self, floor: Floor, occupants: Occupants, stops: Stops, claims: Handover) -> None:
        self._floor = floor
        self._occupants = occupants
        self._stops = stops
        self._claims = claims
        self._started: list[Occupant] = []
        self._rest: Floor | None = None

    def give_up(self, one: Occupant) -> None:
        """An endless one starts in this round."""
        self._started.append(one)
        if self._rest is not None:
            self._rest.take(one.placement, one.worker)

    def pools(self, entry: Entry, shape: Shape, borrows: bool) -> frozenset[str]:
        """The pools where a gang fits as soon as all has ended that ends, and that it may stop has been stopped."""
        every = self._floor.ground.pool_names(shape)
        if not self._occupants.lasting and not self._started:
            return every
        return frozenset(
            areas[0].pool for areas in self._floor.ground.pools(shape) if self._fits(entry, shape, areas, borrows)
        )

    def holders(self, shape: Shape) -> tuple[str, ...]:
        """Who holds for good what such gangs wait for, by age; not all, if there are many."""
        pools = self._floor.ground.pool_names(shape)
        lasting = [one for one in (*self._occupants.lasting.values(), *self._started) if one.pool in pools]
        lasting.sort(key=lambda one: (one.started_at, one.gang.id))
        return tuple(one.gang.id for one in lasting if one.gang.id not in self._claims.leaving)[:_MOST_NAMED]

    def _fits(self, entry: Entry, shape: Shape, areas: tuple[Area, ...], borrows: bool) -> bool:
        rest = self._floor_of_ends()
        if rest.find_in(areas, shape.worker, shape.min_workers) is not None:
            return True
        key, _, gang = entry
        with rest.imagined():
            for gang_id in self._stops.yielding(gang, areas[0].pool, key, borrows):
                one = self._occupants.lasting.get(gang_id)
                if one is not None:
                    rest.give(one.placement, one.worker)
            return rest.find_in(areas, shape.worker, shape.min_workers) is not None

    def _floor_of_ends(self) -> Floor:
        if self._rest is None:
            self._rest = Floor(self._floor.ground)
            for one in (*self._occupants.lasting.values(), *self._started):
                if one.gang.id not in self._claims.leaving:
                    self._rest.take(one.placement, one.worker)
        return self._rest
