"""Whose turn it is: keeps a scheduler told of live jobs, and asks it what to do. All of it is derived and may be made anew any time."""

from collections.abc import Iterable, Mapping, Sequence

from skyloom.core.events import Event, TaskEnded
from skyloom.rooms.cost.prices import PriceHistory
from skyloom.rooms.jobs import demands
from skyloom.rooms.jobs.mirror import LiveGang
from skyloom.rooms.pools.fleet import PoolMachine
from skyloom.rooms.scheduling.model import Decision, Demand, Holding, Node, Rulebook
from skyloom.rooms.scheduling.scheduler import Scheduler


class Turns:
    """One scheduler over live jobs. Not thread-safe."""

    def __init__(self, rulebook: Rulebook) -> None:
        self.rulebook = rulebook
        self._nodes: Sequence[Node] = ()
        self._islands: demands.Islands = {}
        self._scheduler = Scheduler(rulebook)
        self._running: set[str] = set()

    def remember(self, past: Iterable[Event], gangs: Iterable[LiveGang], now: float) -> None:
        """Tell what was used before, and by whom, in the order it happened: fairness remembers, whoever was restarted."""
        told: list[tuple[float, int, str, Holding | None]] = []
        for event in past:
            body = event.body
            if isinstance(body, TaskEnded) and body.ended_at > body.started_at:
                gang = Demand(id=body.task_id, project=event.project, resources=body.resources)
                held = Holding(demand=gang, placement=(("past", 1),), started_at=body.started_at)
                told += [(body.started_at, 1, gang.id, held), (body.ended_at, 0, gang.id, None)]
        for running in gangs:
            if running.holds:
                held = demands.holding(running, now, self._islands)
                told.append((held.started_at, 1, held.demand.id, held))
                self._running.add(held.demand.id)
        for at, _, gang_id, holding in sorted(told, key=lambda item: item[:3]):
            if holding is None:
                self._scheduler.release(gang_id, at)
            else:
                self._scheduler.hold(holding)

    def set_grounds(self, grounds: Sequence[PoolMachine], prices: PriceHistory, now: float) -> bool:
        """The machines there are now. True when it matters to jobs that named pools: tell of them again."""
        nodes, islands = demands.nodes(grounds, prices, now), demands.islands(grounds)
        if nodes != self._nodes:
            self._nodes = nodes
            self._scheduler.set_nodes(nodes)
        moved = islands != self._islands
        self._islands = islands
        return moved

    def tell(self, changed: Iterable[str], gangs: Mapping[str, LiveGang], now: float) -> None:
        """These jobs have changed; those that are not among ``gangs`` have ended."""
        for job_id in sorted(changed):
            gang = gangs.get(job_id)
            if gang is not None and gang.holds:
                self._scheduler.hold(demands.holding(gang, now, self._islands))
                self._running.add(job_id)
                continue
            if job_id in self._running:
                self._running.discard(job_id)
                self._scheduler.release(job_id, now)
            if gang is not None and gang.waits:
                self._scheduler.submit(demands.demand(gang, self._islands))
            else:
                self._scheduler.withdraw(job_id)

    def decide(self, now: float) -> Decision:
        """What to start and to stop now, and why the others wait."""
        return self._scheduler.decide(now)
