"""Natural batching: the rows that queued while the last batch ran travel together. No timer, no waiting for more.

A request whose wait would exceed its deadline is refused when it arrives (`QueueFull`, 429), so that nobody waits for a late no.
Knows tensors and the model; knows no wire.
"""

import asyncio
import sys
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from skyloom.core.errors import InternalError, LimitExceeded, SkyloomError, Unavailable
from skyloom.inference.model import Model, ModelFailed
from skyloom.inference.pace import Pace
from skyloom.inference.statistics import BatchTimes, Timekeeper
from skyloom.inference.tensors import Array, Call

# A batch shorter than this runs on the event loop: the hand-over to a thread and back would cost more.
_INLINE_S = 0.002
_SURE_ROWS = 64


class QueueFull(LimitExceeded):
    """More rows wait than this replica can predict in time."""


class ReplicaDraining(Unavailable):
    """The replica is stopping and takes no new requests."""


class Ticket:
    """One request on its way through the model.

    Attributes:
        batch: all outputs of all rows that travelled with it, in the order of the signature; None until done or when it failed.
        start: the first of its own rows among them.
        failure: why it failed.
        prediction_id: set by the request log before `on_done` is called.
        cached_from: the prediction that its outputs are those of, where they were kept.
        logged_outputs: the outputs as JSON, when the log wrote them; saves writing them twice.
    """

    __slots__ = (
        "arrived_at",
        "batch",
        "cached_from",
        "call",
        "cancelled",
        "failure",
        "key",
        "logged_outputs",
        "num_bytes",
        "on_done",
        "prediction_id",
        "start",
    )

    def __init__(self, call: Call, arrived_at: float, on_done: Callable[["Ticket"], None]) -> None:
        self.call = call
        inputs = call.inputs
        if len(inputs) == 1:
            tensor = inputs[0]
            self.key: tuple[tuple[int, ...], ...] = (tensor.shape[1:],)
            self.num_bytes = tensor.nbytes + call.num_string_bytes
        else:
            self.key = tuple([tensor.shape[1:] for tensor in inputs])
            self.num_bytes = sum([tensor.nbytes for tensor in inputs]) + call.num_string_bytes
        self.arrived_at = arrived_at
        self.on_done = on_done
        self.cancelled = False
        self.batch: list[Array] | None = None
        self.start = 0
        self.failure: SkyloomError | None = None
        self.prediction_id = ""
        self.cached_from = ""
        self.logged_outputs: bytes | None = None

    @property
    def outputs(self) -> list[Array] | None:
        """All outputs of its rows, in the order of the signature; None until done or when it failed."""
        batch, start, rows = self.batch, self.start, self.call.rows
        if batch is None or (not start and (not batch or len(batch[0]) == rows)):
            return batch
        return [output[start : start + rows] for output in batch]

    @outputs.setter
    def outputs(self, outputs: list[Array] | None) -> None:
        self.batch, self.start = outputs, 0

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self.cancelled = True


Settled = Callable[[Sequence[Ticket]], None]
_Run = Callable[[Sequence[Array]], list[Array]]


class _Taken(NamedTuple):
    """When a batch left the queue and when its rows were together, on the performance counter; and what that cost."""

    at: float
    joined_at: float
    work_s: float = 0.0


class _Ran(NamedTuple):
    """What a batch came to, how long the model took, and what that cost (`Model.work_clock`)."""

    outputs: list[Array] | None
    failure: SkyloomError | None
    duration_s: float
    work_s: float = 0.0


Watched = Callable[[Sequence[Array], Sequence[Array]], None]


class Batcher:
    """The queue before one model. Lives on one event loop.

    A model has one lane or several: then batches run beside each other while several wait, and one that is alone has all cores.

    Args:
        settle: called with the tickets of a finished batch before any of them is answered (the request log).
        may_block: short batches may run on the event loop itself; False for a model that waits for another process.
        lanes: so many batches may run beside each other (`Model.run_beside`); one that is alone has all cores.
        watch: called with the inputs and outputs of a whole batch (drift statistics), maybe on the model's thread.

    Attributes:
        times: how long requests waited and batches took.
    """

    def __init__(
        self,
        model: Model,
        pace: Pace,
        loop: asyncio.AbstractEventLoop,
        *,
        max_queue_rows: int,
        max_queue_bytes: int,
        settle: Settled,
        watch: Watched,
        may_block: bool = True,
        lanes: int = 1,
    ) -> None:
        self._inline_s = _INLINE_S if may_block and lanes == 1 else 0.0
        self._lanes = lanes
        self._running = 0  # batches on the model's threads
        self._is_wide = False  # the one that runs has all cores
        self._model = model
        self._work = model.work_clock or time.perf_counter
        self._pace = pace
        self._loop = loop
        self._max_queue_rows = max_queue_rows
        self._max_queue_bytes = max_queue_bytes
        self._settle = settle
        self._watch = watch
        self.times = Timekeeper()
        # One queue per shape; only equal shapes can be put together. The first key is the one that waited longest.
        self._queues: OrderedDict[tuple[tuple[int, ...], ...], deque[Ticket]] = OrderedDict()
        self._again: deque[Ticket] = deque()
        self._queued_rows = self._queued_bytes = 0
        self._running_until = 0.0
        # So few rows wait no longer than so many seconds, even one by one: who comes now need not be told more exactly.
        self._sure_rows = min(_SURE_ROWS, max_queue_rows)
        self._sure_s = pace.expect_s(self._sure_rows, self._sure_rows)
        self._scheduled = False
        self._thread = ThreadPoolExecutor(max_workers=lanes, thread_name_prefix="model")

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queued_rows

    @property
    def is_idle(self) -> bool:
        """True when nothing waits and nothing runs."""
        return not self._scheduled

    def submit(self, ticket: Ticket, timeout_s: float) -> None:
        """Queue a request; its `on_done` is called later, on the loop. Raises `QueueFull` at once when it would be late."""
        rows = ticket.call.rows
        if self._scheduled and (
            self._queued_rows + rows > self._sure_rows
            or timeout_s < self._sure_s
            or self._queued_bytes + ticket.num_bytes > self._max_queue_bytes
        ):
            self._check(ticket, rows, timeout_s)
        queue = self._queues.get(ticket.key)
        if queue is None:
            queue = self._queues[ticket.key] = deque()
        queue.append(ticket)
        self._queued_rows += rows
        self._queued_bytes += ticket.num_bytes
        if not self._scheduled or (self._running and self._has_lane):
            self._scheduled = True
            # Not now but after the requests that this turn of the loop still reads: they join.
            self._loop.call_soon(self._next)

    def _check(self, ticket: Ticket, rows: int, timeout_s: float) -> None:
        """Raise `QueueFull` when a request would be late, or there is no room for it."""
        batches = 1 + self._queued_rows // max(self._pace.limit, rows)
        wait_s = self._pace.expect_s(batches, self._queued_rows + rows) + max(
            0.0, self._running_until - time.perf_counter()
        )
        over = self._queued_rows > 0 and (
            self._queued_rows + rows > self._max_queue_rows
            or self._queued_bytes + ticket.num_bytes > self._max_queue_bytes
        )
        if over or wait_s > timeout_s:
            raise QueueFull(
                f"{self._queued_rows} rows wait for this replica already.",
                next_action="Send again in a moment, send fewer rows, or deploy more replicas.",
            )

    def close(self) -> None:
        """Let go of the model's thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def _has_lane(self) -> bool:
        """True when another batch may start."""
        return self._running < (1 if self._is_wide else self._lanes)

    def _next(self) -> None:
        tickets = self._take() if self._has_lane else []
        if not tickets:
            self._scheduled = self._running > 0
            return
        rows = sum([ticket.call.rows for ticket in tickets])
        expected_s = self._pace.expect_s(1, rows)
        self._sure_s = expected_s + self._pace.expect_s(self._sure_rows, self._sure_rows)
        taken_at = time.perf_counter()
        self._running_until = taken_at + expected_s
        taken, inputs = _Taken(taken_at, taken_at), tickets[0].call.inputs
        if len(tickets) > 1:
            try:
                before, inputs = self._work(), _joined(tickets)
            except Exception as error:  # no memory for them all
                self._finish(tickets, rows, taken, _Ran(None, _defect(error), 0.0))
                return
            taken = _Taken(taken_at, time.perf_counter(), self._work() - before)
        if expected_s < self._inline_s:
            ran = self._run(inputs, self._model.run)
            if ran.outputs is not None:
                self._loop.call_soon(self._look, inputs, ran.outputs)  # when the answers are out
            self._finish(tickets, rows, taken, ran)
            return
        self._start(tickets, rows, taken, inputs)

    def _start(self, tickets: list[Ticket], rows: int, taken: _Taken, inputs: Sequence[Array]) -> None:
        """Run a batch on a thread: on all cores if nobody else is there, else on one of its own."""
        others = bool(self._running or self._queues or self._again)
        self._is_wide = self._lanes == 1 or not others
        share = 1 if self._is_wide else self._lanes  # of the cores: beside others, each takes so much longer
        run = self._model.run if self._is_wide else self._model.run_beside

        def ran(done: "asyncio.Future[_Ran]") -> None:
            self._running -= 1
            if not done.cancelled():
                self._finish(tickets, rows, taken, done.result(), share)

        self._running += 1
        self._loop.run_in_executor(self._thread, self._run_and_look, inputs, run).add_done_callback(ran)
        if not self._is_wide and others:
            self._loop.call_soon(self._next)

    def _run(self, inputs: Sequence[Array], run: _Run) -> _Ran:
        start, before = time.perf_counter(), self._work()
        try:
            outputs = run(inputs)
        except ModelFailed as error:
            return _Ran(None, error, time.perf_counter() - start, self._work() - before)
        except Exception as error:  # a defect of ours; the queue must go on
            return _Ran(None, _defect(error), time.perf_counter() - start, self._work() - before)
        return _Ran(outputs, None, time.perf_counter() - start, self._work() - before)

    def _run_and_look(self, inputs: Sequence[Array], run: _Run) -> _Ran:
        found = self._run(inputs, run)
        if found.outputs is not None:
            self._look(inputs, found.outputs)
        return found

    def _look(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        try:
            self._watch(inputs, outputs)
        except Exception:  # a defect of the statistics; the answer is there, and the queue must go on
            traceback.print_exc(file=sys.stderr)

    def _finish(
        self,
        tickets: list[Ticket],
        rows: int,
        taken: _Taken,
        ran: _Ran,
        share: int = 1,
    ) -> None:
        (taken_at, joined_at, join_work_s), (outputs, failure, duration_s, work_s) = taken, ran
        is_counted = self._model.work_clock is not None
        counted_s = join_work_s + work_s if is_counted else None
        self._pace.saw(rows, duration_s / share + joined_at - taken_at, counted_s)
        before = self._work() if is_counted and len(tickets) == 1 else 0.0
        try:
            if outputs is None and len(tickets) > 1:
                self._again.extend(tickets)  # one client's values must not fail the others: each goes again, alone
            else:
                self._settled(tickets, outputs, failure)
                arrived_s = sum([ticket.arrived_at for ticket in tickets])
                spent = (taken_at, joined_at - taken_at, duration_s, time.perf_counter())
                self.times.ran(BatchTimes(len(tickets), rows, arrived_s, *spent), failed=tickets[0].failure is not None)
                if before:
                    self._pace.answered(self._work() - before)
        finally:
            self._loop.call_soon(self._next)

    def _settled(self, tickets: list[Ticket], outputs: list[Array] | None, failure: SkyloomError | None) -> None:
        start = 0
        for ticket in tickets:
            ticket.failure = failure
            ticket.batch, ticket.start = outputs, start
            start += ticket.call.rows
        try:
            self._settle(tickets)
        except Exception as error:  # a defect of the request log: what it did not write down is not answered
            for ticket in tickets:
                ticket.failure, ticket.outputs = _defect(error), None
        for ticket in tickets:
            try:
                ticket.on_done(ticket)
            except Exception:  # a defect of one answer must not keep the rest of the batch waiting
                traceback.print_exc(file=sys.stderr)

    def _next_again(self) -> Ticket | None:
        """The first of a batch that failed together, which goes alone; nobody who left."""
        while self._again:
            ticket = self._again.popleft()
            if not ticket.cancelled:
                return ticket
        return None

    def _take(self) -> list[Ticket]:
        """Take from the queue that waited longest as many requests as fit, at least one; skip those nobody waits for."""
        if again := self._next_again():
            return [again]
        max_rows = self._pace.take()
        while self._queues:
            key, queue = next(iter(self._queues.items()))
            taken: list[Ticket] = []
            rows = 0
            while queue and (not taken or rows + queue[0].call.rows <= max_rows):
                ticket = queue.popleft()
                self._queued_rows -= ticket.call.rows
                self._queued_bytes -= ticket.num_bytes
                if not ticket.cancelled:
                    taken.append(ticket)
                    rows += ticket.call.rows
            if queue:
                self._queues.move_to_end(key)  # the other shapes get their turn first
            else:
                del self._queues[key]
            if taken:
                return taken
        return []


def _defect(error: Exception) -> SkyloomError:
    """Show a defect to the operator; the client gets an answer and no detail."""
    traceback.print_exception(error, file=sys.stderr)
    return InternalError("The server made a mistake.", next_action="Ask the operator to look at the replica's output.")


def _joined(tickets: Sequence[Ticket]) -> tuple[Array, ...]:
    each = zip(*(ticket.call.inputs for ticket in tickets), strict=True)
    return tuple([np.concatenate(tensors) for tensors in each])
