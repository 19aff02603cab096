"""Where a gang goes: what is free on each node, found without looking at each node.

Nodes of one kind (pool, labels, price) with the same amount free are interchangeable, so they lie together in one *level*; a search
costs the number of levels, which is small where demands are alike, and not the number of nodes.

Rules, in this order: one pool for a gang; the cheapest pool first; as few hosts as possible, one if any; the tightest fit, so that
small gangs fill broken nodes and whole nodes stay whole (best fit; for GPUs first, since they are what is scarce).
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from skyloom.core.labels import matches
from skyloom.rooms.scheduling.model import Demand, Node, Placement
from skyloom.rooms.scheduling.vectors import ZERO, Vector, plus, times_in, vector, within

Price = tuple[bool, float]


class Shape:
    """What a gang needs of nodes: all gangs of one shape fit, or do not fit, in the same places."""

    __slots__ = ("labels", "max_workers", "min_workers", "need", "pools", "refused", "renting", "worker")

    def __init__(self, demand: Demand, renting: bool) -> None:
        self.worker = vector(demand.resources)
        self.min_workers = demand.min_workers
        self.max_workers = demand.max_workers
        self.pools = demand.pools
        self.labels = demand.labels
        self.renting = renting
        self.need = plus(ZERO, self.worker, self.min_workers)
        self.refused: tuple[object, int] | None = None  # the floor and its news when it was last found not to fit


class Area:
    """Nodes that differ in nothing but their names and what is free on them."""

    __slots__ = ("labels", "number", "pool", "rates", "rented", "totals")

    def __init__(self, number: int, node: Node) -> None:
        gpus, cpus, _ = vector(node.total)
        self.number = number
        self.pool = node.pool
        self.labels = node.labels
        self.rented = node.rented
        # The price of one GPU for gangs with GPUs, of one CPU for the others: a node of eight is not dearer than one of one.
        self.rates = (node.usd_per_hour / max(gpus, 1), node.usd_per_hour / max(cpus, 1))
        self.totals: dict[Vector, int] = {}

    def price(self, worker: Vector) -> Price:
        """What sorts areas for such workers: owned before rented, then the cheapest."""
        return self.rented, self.rates[0 if worker[0] else 1]

    def serves(self, shape: Shape) -> bool:
        """Whether gangs of this shape may run here."""
        if shape.pools:
            if self.pool not in shape.pools:
                return False
        elif self.rented and not shape.renting:
            return False
        return self.has_labels(shape)

    def has_labels(self, shape: Shape) -> bool:
        """Whether it has all labels that such gangs ask for."""
        return matches(self.labels, shape.labels)


class Ground:
    """The nodes there are, and where gangs of each shape may run. What is free on them is the `Floor`'s.

    A node is known inside by its place in the order of names, so that equal choices fall the same way every time.
    """

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self.nodes = tuple(sorted(nodes, key=lambda node: node.name))
        self.place_of = {node.name: place for place, node in enumerate(self.nodes)}
        self.total: Vector = ZERO
        self.areas: list[Area] = []
        self.area_of: list[Area] = []
        self._pools: dict[Shape, tuple[tuple[Area, ...], ...]] = {}
        self._pool_names: dict[Shape, frozenset[str]] = {}
        self._ever: dict[Shape, bool] = {}
        kinds: dict[tuple[object, ...], Area] = {}
        for node in self.nodes:
            self._settle(node, kinds)

    def _settle(self, node: Node, kinds: dict[tuple[object, ...], Area]) -> None:
        labels = sorted(node.labels.items())
        kind = (node.pool, node.usd_per_hour, node.rented, node.total.gpus, node.total.cpus, *labels)
        area = kinds.get(kind)
        if area is None:
            area = kinds[kind] = Area(len(self.areas), node)
            self.areas.append(area)
        whole = vector(node.total)
        self.total = plus(self.total, whole)
        self.area_of.append(area)
        area.totals[whole] = area.totals.get(whole, 0) + 1

    def pools(self, shape: Shape) -> tuple[tuple[Area, ...], ...]:
        """Where such gangs may run: the areas of each pool, the cheapest pool first."""
        found = self._pools.get(shape)
        if found is None:
            by_pool: dict[str, list[Area]] = {}
            for area in sorted(self.areas, key=lambda area: (area.price(shape.worker), area.pool)):
                if area.serves(shape):
                    by_pool.setdefault(area.pool, []).append(area)
            found = self._pools[shape] = tuple(tuple(areas) for areas in by_pool.values())
        return found

    def pool_names(self, shape: Shape) -> frozenset[str]:
        """The names of the pools where such gangs may run."""
        known = self._pool_names.get(shape)
        if known is None:
            known = self._pool_names[shape] = frozenset(areas[0].pool for areas in self.pools(shape))
        return known

    def forget(self) -> None:
        """Nothing is known of any shape; what is asked again is found again."""
        self._pools.clear()
        self._pool_names.clear()
        self._ever.clear()

    def can_ever(self, shape: Shape) -> bool:
        """Whether some pool would hold its fewest workers if nothing else ran."""
        known = self._ever.get(shape)
        if known is None:
            known = self._ever[shape] = any(
                sum(times_in(whole, shape.worker) * count for area in areas for whole, count in area.totals.items())
                >= shape.min_workers
                for areas in self.pools(shape)
            )
        return known


class Floor:
    """What is free on every node, and where a gang of some shape would go."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.place_of = ground.place_of
        self.free: list[Vector] = []
        self.news = 0  # grows whenever something becomes free: what did not fit before, still does not fit until then
        self._levels: list[dict[Vector, list[int]]] = [{} for _ in ground.areas]
        self._journal: list[tuple[int, Vector]] | None = None
        self._imagined = 0  # moves that will be undone
        self._lasts = True
        for place, (node, area) in enumerate(zip(ground.nodes, ground.area_of, strict=True)):
            whole = vector(node.total)
            self.free.append(whole)
            self._levels[area.number].setdefault(whole, []).append(place)

    def copy(self) -> "Floor":
        """As it is now, to try something on."""
        other = object.__new__(Floor)
        other.ground, other.place_of = self.ground, self.place_of
        other.free = list(self.free)
        other.news = self.news
        other._levels = [{level: list(places) for level, places in levels.items()} for levels in self._levels]
        other._journal, other._imagined, other._lasts = None, 0, False
        return other

    def take(self, placement: Placement, worker: Vector) -> None:
        """Use up; nodes that are gone are passed over."""
        for name, count in placement:
            place = self.place_of.get(name)
            if place is not None:
                self._move(place, plus(self.free[place], worker, -count))

    def give(self, placement: Placement, worker: Vector) -> None:
        """Free again."""
        self.news += 1
        for name, count in placement:
            place = self.place_of.get(name)
            if place is not None:
                self._move(place, plus(self.free[place], worker, count))

    def lower(self, place: int, free: Vector) -> None:
        """Have less free on one node."""
        self._move(place, free)

    def _move(self, place: int, free: Vector) -> None:
        old = self.free[place]
        if self._journal is not None:
            self._journal.append((place, old))
            self._imagined += 1
        levels = self._levels[self.ground.area_of[place].number]
        level = levels[old]
        if len(level) == 1:
            del levels[old]
        else:
            del level[bisect_left(level, place)]
        level = levels.get(free, [])
        if level:
            insort(level, place)
        else:
            levels[free] = [place]
        self.free[place] = free

    @contextmanager
    def imagined(self) -> Iterator[None]:
        """Whatever is taken and given inside is undone at the end. May be nested."""
        outer, news = self._journal, self.news
        self._journal = []
        try:
            yield
        finally:
            journal, self._journal = self._journal, None
            for place, free in reversed(journal):
                self._move(place, free)
            self._imagined -= len(journal)
            self._journal, self.news = outer, news

    def levels(self, areas: tuple[Area, ...]) -> Iterator[Vector]:
        """The different amounts that are free on nodes there."""
        return (level for area in areas for level in self._levels[area.number])

    def room(self, areas: tuple[Area, ...], worker: Vector, most: int) -> int:
        """How many such workers fit there, counting no node for more than ``most``."""
        return sum(
            min(times_in(level, worker), most) * len(places)
            for area in areas
            for level, places in self._levels[area.number].items()
        )

    def find(self, shape: Shape, num_workers: int, closed: Collection[str] = ()) -> Placement | None:
        """Where so many workers go now, all in one pool; None when they do not fit.

        Args:
            closed: pools that are not to be used.
        """
        least = num_workers == shape.min_workers
        if least and shape.refused == (self, self.news):
            return None
        for areas in self.ground.pools(shape):
            if areas[0].pool in closed:
                continue
            placement = self.find_in(areas, shape.worker, num_workers)
            if placement is not None:
                return placement
        if least and not closed and not self._imagined and self._lasts:
            shape.refused = (self, self.news)
        return None

    def find_in(self, areas: tuple[Area, ...], worker: Vector, num_workers: int) -> Placement | None:
        """Where so many workers go in one pool."""
        if num_workers == 1:
            return self._one(areas, worker)
        room = [
            (times, area.price(worker), level, places)
            for area in areas
            for level, places in self._levels[area.number].items()
            if (times := times_in(level, worker))
        ]
        if sum(min(times, num_workers) * len(places) for times, _, _, places in room) < num_workers:
            return None
        return self._few(room, num_workers)

    def _one(self, areas: tuple[Area, ...], worker: Vector) -> Placement | None:
        best: tuple[Price, Vector, int] | None = None
        for area in areas:
            price = area.price(worker)
            if best is not None and price > best[0]:
                break
            levels = self._levels[area.number]
            tightest = min((level for level in levels if within(worker, level) and min(level) >= 0), default=None)
            if tightest is not None:
                found = price, tightest, levels[tightest][0]
                best = found if best is None else min(best, found)
        return ((self.ground.nodes[best[2]].name, 1),) if best is not None else None

    def _few(self, room: list[tuple[int, Price, Vector, list[int]]], num_workers: int) -> Placement | None:
        """Fill the roomiest hosts whole, then put the rest on the host that it fits most tightly."""
        nodes = self.ground.nodes
        room.sort(key=lambda item: (-min(item[0], num_workers), item[1], item[2]))
        used: list[tuple[str, int]] = []
        left = num_workers
        for at, (times, _, _, places) in enumerate(room):
            for place in places:
                if left <= times:
                    tight = min((item for item in room[at:] if left <= item[0]), key=lambda item: (item[1], item[2]))
                    last = place if tight is room[at] else tight[3][0]
                    return (*used, (nodes[last].name, left))
                used.append((nodes[place].name, times))
                left -= times
        return None
