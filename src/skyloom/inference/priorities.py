"""Lanes before one model: who is in a hurry goes first, who can wait is never left standing, and nobody is served too late.

Each lane is a queue of its own, with its own bounds. Of the lanes that wait, the first goes, except that one that was passed over as often
as its share allows goes before it. A batch holds requests of one lane.
"""

import math
import sys
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any

from skyloom.core.errors import LimitExceeded
from skyloom.inference.batcher import Batcher, QueueFull, Ticket

NUM_LANES = 3
_OF_PRIORITY = {0: 1, 1: 0, 2: 1, 3: 2}
LANE_NAMES = ("high", "normal", "low")


class WaitedTooLong(LimitExceeded):
    """The request waited for longer than it said that it would; the model was not asked."""


class LaneTurns:
    """Whose turn it is. Pure but for what it remembers: how often each lane was passed over while it waited.

    Args:
        share: each lower lane that waits gets at least about this part of the turns; small, so that the first has most of them.
    """

    def __init__(self, share: float, num_lanes: int = NUM_LANES) -> None:
        self._most = max(1, math.floor(1 / share) - 1)
        self._passed = [0] * num_lanes

    def pick(self, waiting: Sequence[bool]) -> int | None:
        """The lane whose turn it is, of those that wait."""
        lanes = [lane for lane, waits in enumerate(waiting) if waits]
        if not lanes:
            return None
        overdue = [lane for lane in lanes[1:] if self._passed[lane] >= self._most]
        chosen = max(overdue, key=lambda lane: self._passed[lane]) if overdue else lanes[0]
        for lane in range(len(self._passed)):
            self._passed[lane] = self._passed[lane] + 1 if waiting[lane] and lane != chosen else 0
        return chosen


class QueueLane:
    """One lane: its requests by their shapes, in the order in which shapes began to wait.

    Attributes:
        rows, num_bytes: that wait.
        taken, refused, late: requests that went to the model, that there was no room or no time for, and that waited for too long.
    """

    def __init__(self) -> None:
        self.queues: OrderedDict[tuple[tuple[int, ...], ...], deque[tuple[float, Ticket]]] = OrderedDict()
        self.rows = self.num_bytes = self.taken = self.refused = self.late = 0

    def add(self, ticket: Ticket, deadline: float) -> None:
        """Queue a request; ``deadline`` is on the performance counter."""
        self.queues.setdefault(ticket.key, deque()).append((deadline, ticket))
        self.rows += ticket.call.rows
        self.num_bytes += ticket.num_bytes

    def take(self, max_rows: int, now: float) -> tuple[list[Ticket], list[Ticket]]:
        """Requests of one shape for the next batch, at least one; and those that are too late, who cost nothing."""
        late: list[Ticket] = []
        while self.queues:
            key, queue = next(iter(self.queues.items()))
            taken: list[Ticket] = []
            rows = 0
            while queue and (not taken or rows + queue[0][1].call.rows <= max_rows):
                deadline, ticket = queue.popleft()
                self.rows -= ticket.call.rows
                self.num_bytes -= ticket.num_bytes
                if ticket.cancelled:
                    continue
                if deadline < now:
                    late.append(ticket)
                    continue
                taken.append(ticket)
                rows += ticket.call.rows
            if queue:
                self.queues.move_to_end(key)
            else:
                del self.queues[key]
            if taken:
                self.taken += len(taken)
                self.late += len(late)
                return taken, late
        self.late += len(late)
        return [], late


class PriorityBatcher(Batcher):
    """`Batcher` with lanes. A ticket's ``priority`` says which; one without goes as ever.

    Each lane may hold as much as a plain queue, so who sends much in one lane takes no room from another.
    """

    def __init__(self, *arguments: Any, share: float, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.priority_lanes = tuple(QueueLane() for _ in range(NUM_LANES))
        self._turns = LaneTurns(share)

    def submit(self, ticket: Ticket, timeout_s: float) -> None:
        """Queue a request in its lane. Raises `QueueFull` at once when it would be late, or its lane is full."""
        place = _OF_PRIORITY.get(getattr(ticket, "priority", 0), 1)
        lane, rows = self.priority_lanes[place], ticket.call.rows
        ahead = sum([one.rows for one in self.priority_lanes[: place + 1]])
        batches = 1 + ahead // max(self._pace.limit, rows)
        wait_s = self._pace.expect_s(batches, ahead + rows) + max(0.0, self._running_until - time.perf_counter())
        full = lane.rows > 0 and (
            lane.rows + rows > self._max_queue_rows or lane.num_bytes + ticket.num_bytes > self._max_queue_bytes
        )
        if full or (wait_s > timeout_s and self._scheduled):
            lane.refused += 1
            raise QueueFull(
                f"{ahead} rows wait before this request already.",
                next_action="Send again in a moment, send fewer rows, or deploy more replicas.",
            )
        lane.add(ticket, ticket.arrived_at + timeout_s)
        self._queued_rows += rows
        if not self._scheduled or (self._running and self._has_lane):
            self._scheduled = True
            self._loop.call_soon(self._next)

    def _take(self) -> list[Ticket]:
        if again := self._next_again():
            return [again]
        max_rows, now = self._pace.take(), time.perf_counter()
        taken: list[Ticket] = []
        while not taken:
            chosen = self._turns.pick([bool(lane.queues) for lane in self.priority_lanes])
            if chosen is None:
                break
            taken, late = self.priority_lanes[chosen].take(max_rows, now)
            for ticket in late:
                ticket.failure = _late()
                try:
                    ticket.on_done(ticket)
                except Exception:  # a defect of one answer must not end the queue
                    traceback.print_exc(file=sys.stderr)
        self._queued_rows = sum(lane.rows for lane in self.priority_lanes)
        return taken


def _late() -> WaitedTooLong:
    return WaitedTooLong(
        "The request waited for as long as it wanted to; the model was not asked.",
        next_action="Send again, wait longer (timeout), or deploy more replicas.",
    )
