"""A cloud that is only imagined: the same scheduler, told of arrivals, ends and stops by a clock that jumps from one to the next.

Nothing is drawn by chance here: the same scripts and the same scheduler give the same outcome, to the last bit. It knows nothing
of files, traces or averages; `skyloom.simulation` reads those and counts, and `forecast` plays out what is still open.
"""

import math
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import count

import msgspec

from skyloom.core.errors import InternalError
from skyloom.rooms.scheduling.course import Course, Life, Script, Stretch
from skyloom.rooms.scheduling.model import Cause, Demand, Eviction, Holding, Node, Placement
from skyloom.rooms.scheduling.scheduler import Scheduler
from skyloom.rooms.scheduling.vectors import plus, vector

# Of what happens at one moment, ends come first: room is free before anybody asks for it.
_END, _FREED, _ARRIVAL = range(3)
_DIGITS = 9  # moments are rounded to nanoseconds, so that 0.1 + 0.2 is the same moment as 0.3
_SOON = 1e-6  # who wants to look again now, looks again so much later
_NUM_ROUNDS = 1_000  # decisions at one moment; a scheduler that needs more gives and takes in a circle


class IllegalDecision(InternalError):
    """The scheduler decided what cannot be: too many workers on a node, a gang that does not wait, a circle without end."""


class StopCosts(msgspec.Struct, frozen=True, kw_only=True):
    """What stopping a gang costs, in seconds in which it holds its resources and gets nothing done.

    Attributes:
        checkpoint_s: from being told to stop until its resources are free.
        restart_s: at the beginning of every run but its first.
    """

    checkpoint_s: float = 0.0
    restart_s: float = 0.0


class Unfolding(msgspec.Struct, frozen=True, kw_only=True):
    """What became of all of them: lives in the order of the scripts, stretches and the amount in use in the order of time.

    Attributes:
        usage: from this moment on, this many GPUs (CPUs of gangs without) were held.
        complete: False when ``max_events`` ended it.
    """

    lives: tuple[Life, ...]
    stretches: tuple[Stretch, ...]
    usage: tuple[tuple[float, float], ...]
    num_decisions: int
    complete: bool = True


class Simulation:
    """One run of the clock, to be used once.

    Args:
        scheduler: fresh: it has its nodes and knows no gang.
        nodes: what it was told.
        scripts: what each gang will do.
        costs: of stopping one; nothing without.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        nodes: Iterable[Node],
        scripts: Iterable[Script],
        costs: StopCosts | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._free = {node.name: vector(node.total) for node in nodes}
        self._costs = costs or StopCosts()
        self._look_at = math.inf
        self._num_idle_looks = 0
        self._gangs = {script.demand.id: Course(script) for script in scripts}
        self._events: list[tuple[float, int, int, Course, int]] = []
        self._order = count()
        self._num_decisions = 0
        self._in_use = 0.0
        self._stretches: list[Stretch] = []
        self._usage: list[tuple[float, float]] = []

    def run(
        self,
        start_at: float | None = None,
        advance: Callable[[int], None] = lambda count: None,
        max_events: int | None = None,
    ) -> Unfolding:
        """Play it out until nobody runs and nobody who waits can ever start.

        Args:
            start_at: the first moment; without it, the first arrival.
            advance: told how many gangs are done, as they are.
            max_events: give up after so many.

        Raises `IllegalDecision`.
        """
        self._enter(start_at)
        num_events = 0
        while (now := self._next_moment()) < math.inf and (max_events is None or num_events < max_events):
            num_done, asked = 0, now == self._look_at
            while self._events and self._events[0][0] == now:
                _, kind, _, gang, epoch = heappop(self._events)
                num_events += 1
                told = self._tell(kind, gang, epoch, now)
                asked |= told
                num_done += told and kind == _END
            if asked:
                self._decide(now)
            if num_done:
                advance(num_done)
        return Unfolding(
            lives=tuple(gang.life() for gang in self._gangs.values()),
            stretches=tuple(self._stretches),
            usage=tuple(self._usage),
            num_decisions=self._num_decisions,
            complete=self._next_moment() == math.inf,
        )

    def _enter(self, start_at: float | None) -> None:
        now = start_at or 0.0
        for gang in self._gangs.values():
            holding = gang.script.holding
            if holding is None:
                at = gang.demand.submitted_at
                self._push(at if start_at is None else max(start_at, at), _ARRIVAL, gang)
                continue
            self._move(gang, holding.placement)  # whether that is too much or not: it is a fact
            gang.begin(holding.placement, now, 0.0)
            gang.started_at = gang.first_at = holding.started_at
            gang.bias_s -= max(0.0, now - holding.started_at) * gang.speed  # that much of what was expected is done
            self._scheduler.hold(holding)
            if holding.stopping:
                gang.stopping = True
                self._push(now + self._costs.checkpoint_s, _FREED, gang)
            else:
                self._push(now + gang.left_s / gang.speed, _END, gang)
        if start_at is not None:
            self._look_at = start_at

    def _next_moment(self) -> float:
        return min(self._events[0][0], self._look_at) if self._events else self._look_at

    def _push(self, at: float, kind: int, gang: Course) -> None:
        heappush(self._events, (round(at, _DIGITS), kind, next(self._order), gang, gang.epoch))

    def _tell(self, kind: int, gang: Course, epoch: int, now: float) -> bool:
        """Tell the scheduler what happened; returns whether that calls for a decision."""
        if epoch != gang.epoch:
            return False
        if kind == _ARRIVAL:
            self._scheduler.submit(gang.demand)
        elif kind == _FREED:
            self._requeue(gang, now)
        elif gang.stopping:
            return False  # what it has still to do is done after it comes back
        elif kind == _END:
            gang.left_s, gang.ended_at = 0.0, now
            self._give_back(gang, now)
        return True

    def _decide(self, now: float) -> None:
        """Ask and obey, until nothing more changes at this moment."""
        for _ in range(_NUM_ROUNDS):
            self._num_decisions += 1
            decision = self._scheduler.decide(now, 0)
            for admission in decision.admissions:
                self._start(admission.gang, admission.placement, now)
            freed = [self._stop(eviction, now) for eviction in decision.evictions]
            if not any(freed):
                self._rest(decision.again_at, now)
                break
        else:
            raise _broken(f"the scheduler changed its mind {_NUM_ROUNDS:,} times", now)
        if not self._usage or self._usage[-1][1] != self._in_use:
            self._usage.append((now, self._in_use))

    def _rest(self, again_at: float | None, now: float) -> None:
        """Nothing more changes now. When time alone will change something, look again; not for ever, if nobody runs or comes."""
        self._num_idle_looks = 0 if self._in_use or self._events else self._num_idle_looks + 1
        if again_at is None or self._num_idle_looks > _NUM_ROUNDS:
            self._look_at = math.inf
        else:
            self._look_at = max(round(again_at, _DIGITS), now + _SOON)

    def _start(self, gang_id: str, placement: Placement, now: float) -> None:
        gang = self._gangs[gang_id]
        num_workers = sum(workers for _, workers in placement)
        if gang.placement or gang.ended_at is not None:
            raise _broken(f"{gang_id} was started, and does not wait", now)
        if not gang.demand.min_workers <= num_workers <= gang.demand.max_workers:
            raise _broken(f"{gang_id} was started with {num_workers} workers", now)
        self._move(gang, placement)
        for name, _ in placement:
            if name not in self._free or min(self._free[name]) < 0:
                raise _broken(f"{name} was given more than it has, for {gang_id}", now)
        again = gang.first_at is not None
        ends_at = gang.begin(placement, now, self._costs.restart_s)
        self._scheduler.hold(Holding(demand=self._told(gang, again), placement=placement, started_at=now))
        self._push(ends_at, _END, gang)

    def _told(self, gang: Course, again: bool) -> Demand:
        """Its demand while it runs. Restarting takes as long however many workers do it, so it is told in their seconds."""
        demand, restart_s = gang.demand, self._costs.restart_s
        if not (again and restart_s) or demand.expected_s is None:
            return demand
        scale = gang.speed / gang.pace(demand.min_workers)
        return msgspec.structs.replace(demand, expected_s=demand.expected_s - restart_s + restart_s * scale)

    def _stop(self, eviction: Eviction, now: float) -> bool:
        """Tell a gang to stop; returns whether what it held is free at once."""
        gang = self._gangs[eviction.gang]
        if not gang.placement:
            raise _broken(f"{eviction.gang} was stopped, and does not run", now)
        if gang.stopping:
            return False
        gang.advance(now)
        if eviction.why in (Cause.GROW, Cause.SHRINK):
            gang.num_resizes += 1
        else:
            gang.num_preemptions += 1
        gang.stopping = True
        holding = Holding(demand=gang.demand, placement=gang.placement, started_at=gang.started_at, stopping=True)
        self._scheduler.hold(holding)
        if not self._costs.checkpoint_s:
            self._requeue(gang, now)
            return True
        self._push(now + self._costs.checkpoint_s, _FREED, gang)
        return False

    def _requeue(self, gang: Course, now: float) -> None:
        self._give_back(gang, now)
        self._scheduler.submit(gang.waiting(self._costs.restart_s))

    def _give_back(self, gang: Course, now: float) -> None:
        self._move(gang, gang.placement, -1)
        self._stretches.append(gang.finish_run(now))
        self._scheduler.release(gang.demand.id, now)

    def _move(self, gang: Course, placement: Placement, sign: int = 1) -> None:
        """Move a gang's resources from what is free, or back; nodes that are gone are passed over."""
        worker = vector(gang.demand.resources)
        for name, workers in placement:
            if name in self._free:
                self._free[name] = plus(self._free[name], worker, -sign * workers)
            self._in_use += sign * workers * gang.unit


def _broken(what: str, now: float) -> IllegalDecision:
    return IllegalDecision(f"At {now:g} s {what}.", next_action="Report it with the trace and the policy.")
