"""The loop of jobs: brings what runs to what is wanted.

Each tick catches up with the store, looks at the engines, lets `rules` and the scheduler decide, commits, and only then acts. A crash
at any point between two of these is mended by the next tick: what was committed but not done is done again (an engine runs a task
id at most once), and what was done but not committed is seen again.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from skyloom.core.events import Event
from skyloom.ports.clock import Clock
from skyloom.ports.door import EVENTS
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.cost.budgets import Budgets
from skyloom.rooms.cost.ports import PRICES
from skyloom.rooms.cost.prices import PriceHistory
from skyloom.rooms.jobs import demands, growth, rules, settling
from skyloom.rooms.jobs.contact import Contact
from skyloom.rooms.jobs.launches import Launches
from skyloom.rooms.jobs.mirror import Mirror
from skyloom.rooms.jobs.model import Halt, Job, Reason, TaskState
from skyloom.rooms.jobs.picture import Picture
from skyloom.rooms.jobs.ports import JOBS, TASKS
from skyloom.rooms.jobs.turns import Turns
from skyloom.rooms.jobs.waits import Waiting, Waits
from skyloom.rooms.jobs.writing import JobWriter, write_each
from skyloom.rooms.pools.fleet import Fleet
from skyloom.rooms.pools.model import LOCAL
from skyloom.rooms.pools.ports import POOLS
from skyloom.rooms.scheduling.model import Cause, Decision, Placement
from skyloom.rooms.scheduling.ports import current_rulebook

log = logging.getLogger("skyloom.jobs")
P = TypeVar("P")
R = TypeVar("R")

_IDLE_S, _BUSY_S, _EAGER_S = 1.0, 0.2, 0.03
_MOVING = (TaskState.STARTING, TaskState.STOPPING)
_ANEW_S = 60.0  # after this long the copy of the store is made anew
_REPLAYED = 1_000  # and before every forecast
_EXPLAINED = 200  # of those that wait, from the head of the queue
_FREE_S = 0.001  # explaining that takes less than this is done every round,
_REST = 9  # what takes longer takes a tenth of a core
_REMEMBERED = 20_000  # events of the past that fairness is told of after a start


class JobLoop:
    """Starts, watches, halts and ends the gangs of all projects, on all pools."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        writer: JobWriter,
        fleet: Fleet,
        launches: Launches,
        contact: Contact,
        waits: Waits,
        budgets: Budgets | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._writer = writer
        self._fleet = fleet
        self._waits = waits
        self._launches = launches
        self._contact = contact
        self._budgets = budgets
        self._judge_at = float("-inf")
        self._mirror = Mirror()
        self._turns: Turns | None = None
        self._made_anew_at = float("-inf")
        self._adopted: set[tuple[str, float]] = set()  # pools by name and when they were added
        self._order: tuple[str, ...] = ()
        self._explain_at = float("-inf")
        self._wishes: growth.Wishes = {}
        self._tick_lock = threading.Lock()

    def adopt(self) -> None:
        """End what runs without a record that wants it (a restored or removed database, a pool that was given up and is added again),
        keep all the rest; once for every pool."""
        for name, link in self._fleet.links().items():
            engine, added = link.engine, (name, link.pool.added_at)
            if engine is None or not link.is_up or added in self._adopted:
                continue
            try:
                known = engine.known()
                seen = engine.observe(known)
                alive = [key for key, what in seen.items() if what.phase.is_live]
                live = {task.id for task in self._store.read(lambda view: view.select(TASKS, {"state": rules.LIVE}))}
                engine.stop([key for key in alive if key not in live], force=True)
            except Exception as trouble:
                self._contact.distrust(name, trouble)
            else:
                self._adopted.add(added)

    def tick(self) -> float:
        """One round of the loop. Returns the seconds after which the next one is due."""
        with self._tick_lock:
            self.adopt()
            self._launches.collect()
            turns = self._catch_up()
            under_way = self._launches.under_way()
            held = [task for gang in self._mirror.held() for task in gang.tasks if task.id not in under_way]
            prompt = {pool: self._contact.is_prompt(pool) for pool in {task.pool or LOCAL for task in held}}
            moving = any(task.state in _MOVING and prompt[task.pool or LOCAL] for task in held)
            settled = self._settle()
            if settled:
                turns = self._catch_up()
            moved = self._place(turns)
            look_again_s = self._keep_budgets(changed=settled or moved)
            if moved or moving:
                return min(_EAGER_S, look_again_s)
            return min(_BUSY_S if held else _IDLE_S, look_again_s)

    def picture(self) -> Picture | None:
        """What is open now, for a forecast; None when nothing waits or runs."""
        past = self._store.read(lambda view: _past(view, _REPLAYED))
        with self._tick_lock:
            if self._turns is None or not self._mirror.gangs:
                return None
            return self._turns.picture(self._mirror.gangs, self._order, past, self._clock.now())

    # --- what is true ----------------------------------------------------------------------------------------------------------

    def _catch_up(self) -> Turns:
        """Bring the copy of the store and the scheduler up to date."""
        # Until both know of the same changes there is no scheduler: whatever fails on the way, the next round makes all of it anew.
        turns, self._turns = self._turns, None
        now = self._clock.now()
        anew = turns is None or self._clock.monotonic() > self._made_anew_at + _ANEW_S
        rulebook, prices, moved = self._store.read(
            lambda view: (
                current_rulebook(view),
                PriceHistory(view.select(PRICES)),
                self._mirror.refresh(view, anew=anew),
            )
        )
        if anew:
            self._made_anew_at = self._clock.monotonic()
        gangs, grounds = self._mirror.gangs, self._fleet.grounds()
        if turns is None or turns.rulebook != rulebook:
            turns = Turns(rulebook, self._mirror.history)
            turns.set_grounds(grounds, prices, now)
            turns.remember(self._store.read(_past), gangs.values(), now)
            moved = set(gangs)
        elif turns.set_grounds(grounds, prices, now):
            moved |= {job_id for job_id, gang in gangs.items() if gang.job.spec.pools}
        turns.tell(moved, gangs, now)
        self._turns = turns
        return turns

    # --- what it means ---------------------------------------------------------------------------------------------------------

    def _settle(self) -> bool:
        """Write down what was seen and do what follows from it; True when something changed."""
        gangs, now = self._mirror.held(), self._clock.now()
        under_way = self._launches.under_way()  # asked first: of what may start meanwhile nothing is concluded
        seen = self._contact.observe(task for gang in gangs for task in gang.tasks if task.id not in under_way)
        decisions = [(gang, settling.settle(gang.job, gang.tasks, seen, now)) for gang in gangs]
        to_write = [(gang.job, made) for gang, made in decisions if made.changes]
        written = self._each(to_write, lambda tx, pair: self._write(tx, *pair))
        agreed = [(gang, made) for gang, made in decisions if written.get(gang.job.id, not made.changes)]
        stopping = (task for gang, made in agreed for task in gang.tasks if task.id in made.stop)
        self._contact.stop(task for task in stopping if task.id not in under_way)  # those are told when they are there
        for gang, made in agreed:
            if made.launch:
                self._launches.launch(gang.job, gang.tasks)
        return bool(to_write)

    def _each(self, pairs: Sequence[tuple[Job, P]], work: Callable[[Transaction, tuple[Job, P]], R]) -> dict[str, R]:
        return write_each(self._store, work, [(pair[0].id, pair) for pair in pairs])

    def _write(self, tx: Transaction, job: Job, made: settling.Settled) -> bool:
        current = [tx.get(TASKS, task.id) for task in made.tasks]
        stale = any(
            then is None or then.version != task.version for then, task in zip(current, made.tasks, strict=True)
        )
        if stale or not _is_as_read(tx, job):
            return False  # somebody was quicker; the next tick decides on what is true then
        self._writer.settle(tx, job, made)
        return True

    # --- what is next ----------------------------------------------------------------------------------------------------------

    def _place(self, turns: Turns) -> bool:
        """Start the gangs whose turn it is, halt those that have to make room; True when there were any."""
        now = self._clock.now()
        decision = self._explained(turns, now)
        self._evict(decision, now)
        gangs = self._mirror.gangs
        chosen = [(gangs[item.gang].job, item.placement) for item in decision.admissions if item.gang in gangs]
        started = self._each(chosen, lambda tx, pair: self._start(tx, *pair, now))
        if any(started.values()):
            self._catch_up()
            for job, _ in chosen:
                if started.get(job.id) and job.id in gangs:
                    self._launches.launch(gangs[job.id].job, gangs[job.id].tasks)
        return bool(chosen or decision.evictions)

    def _explained(self, turns: Turns, now: float) -> Decision:
        """What to do now, having told those that wait why: not in every round, where many wait and the rounds follow each other."""
        began, gangs = time.thread_time(), self._mirror.gangs
        if self._clock.monotonic() < self._explain_at:
            decision = turns.decide(now, 0)
            self._wish(growth.without(self._wishes, {item.gang for item in decision.admissions}))
            return decision
        decision = turns.decide(now, _EXPLAINED)
        self._order = tuple(wait.gang for wait in decision.waits)
        self._wish(growth.wishes(decision.waits, gangs, self._fleet.growing(), turns.rulebook))
        decision = msgspec.structs.replace(decision, waits=growth.said(decision.waits, self._wishes))
        advice = {
            wait.gang: demands.advice(wait, gangs[wait.gang].job, gangs)
            for wait in decision.waits
            if wait.for_good and wait.gang in gangs
        }
        self._waits.tell(decision.waits, gangs.keys(), advice, partial(self._why_behind, turns))
        took_s = time.thread_time() - began
        self._explain_at = self._clock.monotonic() + (_REST * took_s if took_s > _FREE_S else 0.0)
        return decision

    def _wish(self, wishes: growth.Wishes) -> None:
        """Before anything is launched: what is wished for no more is free for what is."""
        self._wishes = wishes
        self._fleet.wish(wishes)

    def _why_behind(self, turns: Turns, job_id: str) -> Waiting | None:
        """For who asks of a job that stands too far back to be told each round; on the thread of who asks."""
        wait, gang = turns.why_behind(job_id), self._mirror.gangs.get(job_id)
        if wait is None or gang is None:
            return None
        message = (
            wait.message if wait.why is Cause.IMPOSSIBLE else f"{wait.message}; behind {_EXPLAINED} others or more"
        )
        return Waiting(message, advice=demands.advice(wait, gang.job, self._mirror.gangs))

    def _start(self, tx: Transaction, job: Job, placement: Placement, now: float) -> bool:
        places = demands.places(placement)
        tasks = rules.newest(job, tx.select(TASKS, {"job_id": job.id}))
        if not _is_as_read(tx, job) or any(task.state is not TaskState.QUEUED for task in tasks):
            return False
        if any(pool != LOCAL and tx.get(POOLS, pool) is None for pool in {place.pool for place in places}):
            return False  # removed since the machines were looked at: nobody would see these tasks again
        more = [tx.insert(TASKS, task) for task in rules.grown(job, tasks, len(places), now)]
        begun = {"state": TaskState.STARTING, "reason": Reason.NONE, "message": ""}
        starting = [
            changed(task, {**begun, "pool": place.pool, "machine": place.machine})
            for task, place in zip((*tasks, *more), places, strict=True)
        ]
        self._writer.moves(tx, job, starting)
        return True

    def _evict(self, decision: Decision, now: float) -> None:
        gangs = self._mirror.gangs
        halts: list[tuple[Job, Halt]] = []
        for eviction in decision.evictions:
            if eviction.gang in gangs:
                job, other = gangs[eviction.gang].job, gangs.get(eviction.for_gang)
                halts.append((job, demands.halt(eviction, job, other.job if other else None, now)))
        self._each(halts, lambda tx, pair: _is_as_read(tx, pair[0]) and self._writer.halt(tx, *pair))

    def _keep_budgets(self, *, changed: bool) -> float:
        """Halt those that budgets no longer pay for. Returns the seconds until it may have to be looked at again.

        Looks when something started or ended, at the moment that was computed for it, and once a second for what people change.
        """
        if self._budgets is None:
            return _IDLE_S
        wait_s = self._judge_at - self._clock.monotonic()
        if wait_s > 0 and not changed:
            return wait_s
        look_again_s = self._judge(self._budgets)
        self._judge_at = self._clock.monotonic() + look_again_s
        return look_again_s

    def _judge(self, budgets: Budgets) -> float:
        """Ask who has to stop, and tell them; the seconds until something may change by itself."""
        gangs, now = self._mirror.gangs, self._clock.now()
        judged = budgets.judge(own=any(rules.has_allowance(gang.job.spec) for gang in self._mirror.held()))
        halts = [
            (gangs[key].job, Halt(reason=Reason.BUDGET_EXHAUSTED, by="budget", at=now, message=why))
            for key, why in judged.halts.items()
            if key in gangs
        ]
        self._each(halts, lambda tx, pair: _is_as_read(tx, pair[0]) and self._writer.halt(tx, *pair))
        if judged.halts:
            return 0.0
        return _IDLE_S if judged.look_again_s is None else min(_IDLE_S, max(0.0, judged.look_again_s))


def _is_as_read(tx: Transaction, job: Job) -> bool:
    fresh = tx.get(JOBS, job.id)
    return fresh is not None and fresh.version == job.version


def _past(view: Snapshot, limit: int = _REMEMBERED) -> list[Event]:
    return [event for _, event in view.entries(EVENTS, limit=limit, newest_first=True)]
