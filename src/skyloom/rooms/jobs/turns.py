"""Whose turn it is: keeps a scheduler told of live jobs, and asks it what to do. All of it is derived and may be made anew any time."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from skyloom.core.events import Event, TaskEnded
from skyloom.rooms.cost.prices import PriceHistory
from skyloom.rooms.jobs import demands
from skyloom.rooms.jobs.history import History, kind_of
from skyloom.rooms.jobs.mirror import LiveGang
from skyloom.rooms.jobs.picture import Picture
from skyloom.rooms.pools.fleet import PoolMachine
from skyloom.rooms.pools.model import LOCAL
from skyloom.rooms.scheduling.model import Decision, Demand, Holding, Node, Rulebook, Wait
from skyloom.rooms.scheduling.scheduler import Scheduler


def replay(scheduler: Scheduler, past: Iterable[Event], running: Iterable[Holding] = ()) -> None:
    """Tell a scheduler what was used and what is, in the order it happened."""
    told: list[tuple[float, int, str, Holding | None]] = [
        (holding.started_at, 1, holding.demand.id, holding) for holding in running
    ]
    for event in past:
        body = event.body
        if isinstance(body, TaskEnded) and body.ended_at > body.started_at:
            gang = Demand(id=body.task_id, project=event.project, resources=body.resources)
            held = Holding(demand=gang, placement=(("past", 1),), started_at=body.started_at)
            told += [(body.started_at, 1, gang.id, held), (body.ended_at, 0, gang.id, None)]
    for at, _, gang_id, holding in sorted(told, key=lambda item: item[:3]):
        if holding is None:
            scheduler.release(gang_id, at)
        else:
            scheduler.hold(holding)


class Turns:
    """One scheduler over live jobs. Not thread-safe."""

    def __init__(self, rulebook: Rulebook, history: History) -> None:
        self.rulebook = rulebook
        self._history = history
        self._nodes: Sequence[Node] = ()
        self._islands: demands.Islands = {}
        self._grounds: Sequence[PoolMachine] = ()
        self._priced: object = None
        self._here: list[str] = []  # the nodes of the local pool
        self._scheduler = Scheduler(rulebook)
        self._running: set[str] = set()

    def remember(self, past: Iterable[Event], gangs: Iterable[LiveGang], now: float) -> None:
        """Tell what was used before, and by whom, in the order it happened: fairness remembers, whoever was restarted."""
        running = [self._holding(gang, now) for gang in gangs if gang.holds]
        replay(self._scheduler, past, running)
        self._running.update(holding.demand.id for holding in running)

    def set_grounds(self, grounds: Sequence[PoolMachine], prices: PriceHistory, now: float) -> bool:
        """The machines there are now. True when it matters to jobs that named pools: tell of them again."""
        priced = (tuple(prices.current(now)), list(prices.changes_after(now)))
        if grounds is self._grounds and priced == self._priced:
            return False
        self._grounds, self._priced = grounds, priced
        self._here = [ground.name.node for ground in grounds if ground.name.pool == LOCAL]
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
                self._scheduler.hold(self._holding(gang, now))
                self._running.add(job_id)
                continue
            if job_id in self._running:
                self._running.discard(job_id)
                self._scheduler.release(job_id, now)
            if gang is not None and gang.waits:
                self._scheduler.submit(self._demand(gang))
            else:
                self._scheduler.withdraw(job_id)

    def decide(self, now: float, num_explained: int) -> Decision:
        """What to start and to stop now, and why the first ``num_explained`` of the others wait."""
        return self._scheduler.decide(now, num_explained)

    def why_behind(self, job_id: str) -> Wait | None:
        """Why a job waits that stands too far back to be explained in each round; from any thread."""
        return self._scheduler.why_behind(job_id)

    def picture(
        self, gangs: Mapping[str, LiveGang], order: Sequence[str], past: Sequence[Event], now: float
    ) -> Picture:
        """All that a forecast needs to know; ``order`` is that of the queue."""
        running = [self._holding(gang, now) for gang in gangs.values() if gang.holds]
        waiting = [gangs[job_id] for job_id in order if job_id in gangs and gangs[job_id].waits]
        open_jobs = [gangs[holding.demand.id].job for holding in running] + [gang.job for gang in waiting]
        kinds = {(job.project, kind_of(job)): job for job in open_jobs}
        by_kind = {kind: self._history.durations(job) for kind, job in kinds.items()}
        durations = {job.id: known for job in open_jobs if (known := by_kind[job.project, kind_of(job)])}
        return Picture(self.rulebook, self._nodes, running, [self._demand(gang) for gang in waiting], durations, past)

    def _demand(self, gang: LiveGang) -> Demand:
        return demands.demand(gang, self._islands, self._history.expected_s(gang.job))

    def _holding(self, gang: LiveGang, now: float) -> Holding:
        holding = demands.holding(gang, now, self._islands, self._history.expected_s(gang.job))
        # This machine may have been given another name since; it is still the same one.
        gone = [node for node, _ in holding.placement if node not in self._here and node.startswith(f"{LOCAL}/")]
        if not gone or len(self._here) != 1:
            return holding
        moved = tuple((self._here[0] if node in gone else node, count) for node, count in holding.placement)
        return msgspec.structs.replace(holding, placement=moved)
