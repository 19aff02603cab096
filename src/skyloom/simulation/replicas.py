"""Replicas that answer a log of requests, event by event, while the very policy of the live cloud says how many there are.

All replicas are alike: each answers ``concurrency`` requests at once, however many it has, and needs a cold start before its first.
Requests wait in one line, first come first served, and go to the replica with the fewest. A replica that is let go finishes what it has.
What is paid is from the decision to start until the last answer. The policy is asked every ``report_s`` and, when there is no replica,
at once.
"""

import heapq
import math
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.rooms.serving.load import LoadHistory
from skyloom.rooms.serving.policy import decide
from skyloom.rooms.serving.scaling import Autoscaling, LoadSample, ScaleCourse
from skyloom.simulation.requests import RequestTrace

_IDLE_STEP_S = 10.0
_DONE, _READY = 0, 1
_MAX_PLAYED_S = 4e7  # more than a year
_TOLD = 10_000  # requests: so often it is said how far it is


class LogTooLong(InvalidInput):
    """Playing a log would not end today."""


class ReplicaKind(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica can do, and how often the policy hears of it."""

    concurrency: int = 8
    cold_start_s: float = 1.0
    report_s: float = 1.0


class LoadPoint(msgspec.Struct, frozen=True):
    """One report: until when, requests in the system, replicas that are paid and that answer, the longest wait of who began in it."""

    at: float
    load: float
    paid: float
    ready: int
    wait_s: float


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """A log that was answered.

    Attributes:
        waits: of each request, in the order in which they came.
        num_cold: requests that came while no replica was ready.
        num_starts: replicas started; those that were there at the begin are not counted.
        num_moves, num_turns: decisions for another number; those that went against the one before.
        replica_s: paid until the last answer; ``peak`` at once.
    """

    waits: Sequence[float]
    num_cold: int
    num_starts: int
    num_moves: int
    num_turns: int
    replica_s: float
    peak: int
    ended_at: float
    points: list[LoadPoint]


def answer(
    log: RequestTrace, scaling: Autoscaling, kind: ReplicaKind, advance: Callable[[int], None] = lambda count: None
) -> Answered:
    """Play a log to its last answer; the same log and scaling give the same. ``advance`` is told how many are answered.

    Raises `LogTooLong`.
    """
    return _Stage(log, scaling, kind).play(advance)


def _too_long(left: int) -> LogTooLong:
    return LogTooLong(
        f"After {_MAX_PLAYED_S / 86_400:.0f} days {left:,} requests are still to be answered.",
        next_action="Are its times seconds? Otherwise give a part of the log, or more replicas.",
    )


class _Stage:
    def __init__(self, log: RequestTrace, scaling: Autoscaling, kind: ReplicaKind) -> None:
        self._log, self._scaling, self._kind = log, scaling, kind
        self._load = LoadHistory.of(scaling)
        self._load.lead_s = kind.cold_start_s
        self._course: ScaleCourse | None = None
        self._now = self._told_at = log.begin
        self._waits = array("d", bytes(8 * len(log.arrivals)))
        self._line: deque[int] = deque()
        self._events: list[tuple[float, int, int, int]] = []  # (at, kind, replica, request)
        self._busy: dict[int, int] = {}  # ready replicas and what each is answering
        self._starting: list[int] = []
        self._leaving: dict[int, int] = {}
        self._serving = self._next_replica = self._direction = 0
        self._num_cold = self._num_starts = self._num_moves = self._num_turns = self._peak = 0
        self._system_s = self._busy_s = self._paid_s = self._paid_before = 0.0
        self._arrived = 0
        self._began: list[float] = []  # waits of those who began since the last report
        self._ended: list[float] = []  # latencies of those who ended since
        self._points: list[LoadPoint] = []
        self.wanted = scaling.min_replicas
        for _ in range(self.wanted):
            self._busy[self._name()] = 0
        self._peak = self.wanted

    def play(self, advance: Callable[[int], None]) -> Answered:
        arrivals, events = self._log.arrivals, self._events
        count, place, told = len(arrivals), 0, 0
        report_at = self._now + self._kind.report_s
        left = count
        while left:
            arrives_at = arrivals[place] if place < count else math.inf
            event_at = events[0][0] if events else math.inf
            if arrives_at < event_at and arrives_at < report_at:
                self._pass(arrives_at)
                report_at = min(report_at, arrives_at + self._kind.report_s)
                if self._take(place):
                    report_at = self._report()
                place += 1
            elif event_at <= report_at:
                self._pass(event_at)
                _, what, replica, request = heapq.heappop(events)
                if what == _READY:
                    self._became_ready(replica)
                else:
                    self._ended.append(self._waits[request] + self._log.services[request])
                    self._done(replica)
                    left -= 1
                    if count - left - told >= _TOLD:
                        advance(count - left - told)
                        told = count - left
            else:
                self._pass(report_at)
                report_at = self._report()
                if self._now - self._log.begin > _MAX_PLAYED_S:
                    raise _too_long(left)
        self._report()
        advance(count - told)
        return Answered(
            waits=self._waits,
            num_cold=self._num_cold,
            num_starts=self._num_starts,
            num_moves=self._num_moves,
            num_turns=self._num_turns,
            replica_s=self._paid_s,
            peak=self._peak,
            ended_at=self._now,
            points=self._points,
        )

    def _pass(self, until: float) -> None:
        """Time goes by; what is there is summed up."""
        passed_s = until - self._now
        self._now = until
        self._system_s += passed_s * (self._serving + len(self._line))
        self._busy_s += passed_s * self._serving
        self._paid_s += passed_s * (len(self._busy) + len(self._starting) + len(self._leaving))

    def _take(self, request: int) -> bool:
        """A request comes. True when the policy has to hear of it at once: there is no replica, and none was asked for."""
        self._arrived += 1
        if not self._busy:
            self._num_cold += 1
        self._line.append(request)
        self._begin()
        return self.wanted == 0

    def _begin(self) -> None:
        """Who waits begins, as long as a replica has room."""
        while self._line and self._busy:
            replica = min(self._busy, key=self._busy.__getitem__)
            if self._busy[replica] >= self._kind.concurrency:
                return
            request = self._line.popleft()
            wait_s = self._now - self._log.arrivals[request]
            self._waits[request] = wait_s
            self._began.append(wait_s)
            self._busy[replica] += 1
            self._serving += 1
            heapq.heappush(self._events, (self._now + self._log.services[request], _DONE, replica, request))

    def _done(self, replica: int) -> None:
        self._serving -= 1
        if replica in self._busy:
            self._busy[replica] -= 1
            self._begin()
            return
        self._leaving[replica] -= 1
        if not self._leaving[replica]:
            del self._leaving[replica]

    def _became_ready(self, replica: int) -> None:
        if replica in self._starting:
            self._starting.remove(replica)
            self._busy[replica] = 0
            self._begin()

    def _report(self) -> float:
        """Tell the policy what was seen, do what it says; returns when it is to be told again."""
        span_s = self._now - self._told_at
        ready = len(self._busy)
        held = len(self._line)
        ended = sorted(self._ended)
        room_s = span_s * ready * self._kind.concurrency
        load = self._system_s / span_s if span_s else float(held + self._serving)
        sample = LoadSample(
            at=self._now,
            span_s=span_s,
            replicas=ready,
            arrived=self._arrived,
            concurrency=load,
            held=held,
            oldest_held_s=self._now - self._log.arrivals[self._line[0]] if held else 0.0,
            queue_delay_s=median(self._began) if self._began else 0.0,
            latency_s=ended[int(0.95 * (len(ended) - 1))] if ended else None,
            utilisation=min(1.0, self._busy_s / room_s) if room_s else 0.0,
        )
        self._load.add(sample)
        paid = (self._paid_s - self._paid_before) / span_s if span_s else float(ready)
        self._points.append(LoadPoint(self._now, load, paid, ready, max(self._began, default=sample.oldest_held_s)))
        decision = decide(self._scaling, self._load, self.wanted, self._now, self._course)
        self._course = decision.course
        quiet = not (self._arrived or held or self._serving)
        self._system_s = self._busy_s = 0.0
        self._arrived, self._told_at, self._paid_before = 0, self._now, self._paid_s
        self._began.clear()
        self._ended.clear()
        if decision.wanted != self.wanted:
            self._move(decision.wanted)
        elif quiet and self.wanted == self._scaling.min_replicas:
            return max(min(self._now + _IDLE_STEP_S, decision.again_at), self._now + self._kind.report_s)
        return self._now + self._kind.report_s

    def _move(self, wanted: int) -> None:
        direction = 1 if wanted > self.wanted else -1
        self._num_moves += 1
        self._num_turns += direction == -self._direction
        self._direction = direction
        for _ in range(wanted - self.wanted):
            self._num_starts += 1
            replica = self._name()
            self._starting.append(replica)
            heapq.heappush(self._events, (self._now + self._kind.cold_start_s, _READY, replica, -1))
        for _ in range(self.wanted - wanted):
            self._let_go()
        self.wanted = wanted
        self._peak = max(self._peak, len(self._busy) + len(self._starting) + len(self._leaving))

    def _let_go(self) -> None:
        """As the live cloud does: who does not answer yet goes first, then the youngest."""
        if self._starting:
            self._starting.pop()
            return
        replica = max(self._busy)
        answering = self._busy.pop(replica)
        if answering:
            self._leaving[replica] = answering

    def _name(self) -> int:
        self._next_replica += 1
        return self._next_replica
