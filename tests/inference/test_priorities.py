"""Lanes: the first goes first, nobody starves, nobody is served too late, and every request is answered exactly once."""

import asyncio
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.inference.batcher import QueueFull, Ticket
from skyloom.inference.pace import Pace
from skyloom.inference.priorities import NUM_LANES, LaneTurns, PriorityBatcher, QueueLane, WaitedTooLong
from skyloom.inference.tensors import Call

SHARES = st.floats(0.01, 0.25)


class Ranked(Ticket):
    """A ticket that says its priority."""

    def __init__(
        self, rows: int, priority: int, on_done: Any = lambda _: None, width: int = 1, at: float = 0.0
    ) -> None:
        super().__init__(Call((np.full((rows, width), priority, np.float32),), rows, (0,), ""), at, on_done)
        self.priority = priority


@given(SHARES, st.lists(st.tuples(*[st.booleans()] * NUM_LANES), max_size=300))
def test_turn_is_of_a_lane_that_waits_and_of_the_first_unless_another_is_overdue(share, course):
    turns, passed = LaneTurns(share), [0] * NUM_LANES
    for waiting in course:
        lane = turns.pick(waiting)
        if lane is None:
            assert not any(waiting)
            continue
        assert waiting[lane]
        if lane != waiting.index(True):
            assert passed[lane] + 1 >= 1 / share - 1  # it had its share taken away for as long as is allowed
        passed = [0 if at == lane or not waits else passed[at] + 1 for at, waits in enumerate(waiting)]
        assert all(count <= 1 / share + NUM_LANES for count in passed[1:]), "a lower lane is left standing"


@given(SHARES)
def test_first_lane_has_what_the_shares_of_the_others_leave(share):
    turns = LaneTurns(share)
    chosen = [turns.pick((True,) * NUM_LANES) for _ in range(1_000)]
    assert chosen.count(0) / 1_000 >= 1 - 2 / (1 // share) - 0.01
    for lower in (1, 2):
        assert chosen.count(lower) >= 1_000 * share / (1 + 2 * share) - 2


@given(
    st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.booleans(), st.integers(1, 2)), max_size=40),
    st.integers(1, 8),
)
def test_lane_gives_every_request_once_late_ones_apart_and_counts_what_is_left(asked, max_rows):
    lane, tickets = QueueLane(), []
    for rows, is_late, is_cancelled, width in asked:
        ticket = Ranked(rows, 0, width=width)
        ticket.cancelled = is_cancelled
        tickets.append((ticket, is_late))
        lane.add(ticket, 1.0 if is_late else 9.0)
    taken, late = [], []
    while lane.queues:
        batch, over = lane.take(max_rows, 5.0)
        assert len({ticket.key for ticket in batch}) <= 1
        assert len(batch) <= 1 or sum(ticket.call.rows for ticket in batch) <= max_rows
        taken += batch
        late += over
    assert (lane.rows, lane.num_bytes) == (0, 0)
    assert {id(one) for one in taken} == {id(one) for one, over in tickets if not over and not one.cancelled}
    assert {id(one) for one in late} == {id(one) for one, over in tickets if over and not one.cancelled}
    assert len(taken) + len(late) == sum(not one.cancelled for one, _ in tickets)
    assert (lane.taken, lane.late) == (len(taken), len(late))


class Echo:
    """A model that says what it was given, and remembers it."""

    work_clock = None

    def __init__(self) -> None:
        self.batches: list[list[float]] = []

    def run(self, inputs: Any) -> Any:
        self.batches.append(inputs[0].ravel().tolist())
        return [inputs[0]]


def laned(loop: asyncio.AbstractEventLoop, model: Echo, **bounds: int) -> PriorityBatcher:
    known = {"max_queue_rows": 100, "max_queue_bytes": 10_000, **bounds}
    return PriorityBatcher(
        model, Pace({1: 1e-4}, 1), loop, settle=lambda _: None, watch=lambda *_: None, share=0.25, **known
    )


def test_requests_go_by_lane_and_what_is_late_never_reaches_the_model(capsys):
    async def work() -> None:
        model, done = Echo(), []
        loop = asyncio.get_running_loop()
        batcher = laned(loop, model)
        now = time.perf_counter()
        for priority in (3, 0, 1, 2, 1, 1, 1, 1):
            batcher.submit(Ranked(1, priority, done.append, at=now), 60.0)
        batcher.submit(Ranked(1, 1, lambda _: 1 / 0, at=now - 100.0), 60.0)  # a defect of its answer ends nothing
        gone = Ranked(1, 1, done.append, at=now - 100.0)
        batcher.submit(gone, 60.0)
        async with asyncio.timeout(10):
            while len(done) < 9:
                await asyncio.sleep(0.001)
        assert isinstance(gone.failure, WaitedTooLong) and "ZeroDivisionError" in capsys.readouterr().err
        order = [batch[0] for batch in model.batches]
        assert order == [1.0, 1.0, 1.0, 0.0, 3.0, 1.0, 1.0, 2.0], "high first; the others after three turns"
        assert [lane.taken for lane in batcher.priority_lanes] == [5, 2, 1]
        assert batcher.is_idle and batcher.queued_rows == 0
        batcher.close()

    asyncio.run(work())


def test_lane_that_is_full_takes_no_room_from_another():
    async def work() -> None:
        batcher = laned(asyncio.get_running_loop(), Echo(), max_queue_rows=4)
        now = time.perf_counter()
        for _ in range(4):
            batcher.submit(Ranked(1, 3, at=now), 60.0)
        with pytest.raises(QueueFull):
            batcher.submit(Ranked(1, 3, at=now), 60.0)
        batcher.submit(Ranked(4, 1, at=now), 60.0)
        assert [lane.refused for lane in batcher.priority_lanes] == [0, 0, 1]
        batcher.close()

    asyncio.run(work())
