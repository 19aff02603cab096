"""The queue before the model, with a model that is driven by the test."""

import asyncio
import threading

import numpy as np
import pytest

from skyloom.core.errors import SkyloomError
from skyloom.inference.batcher import Batcher, QueueFull, Ticket
from skyloom.inference.model import ModelFailed
from skyloom.inference.pace import Pace
from skyloom.inference.tensors import Call

SLOW = 10.0  # expected seconds a batch: far beyond the limit for running on the loop


class Doubler:
    """Answers twice its input, when the gate is open; refuses rows that hold 13."""

    work_clock = None

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.shapes: list[tuple[int, ...]] = []

    def run(self, inputs):
        assert self.gate.wait(10)
        self.batches.append(len(inputs[0]))
        self.shapes.append(inputs[0].shape[1:])
        if (inputs[0] == 13).any():
            raise ModelFailed("13", next_action="")
        return [inputs[0] * 2]


class SteadyPace(Pace):
    """Knows what the test says, and learns nothing from this machine."""

    def saw(self, rows: int, duration_s: float, work_s: float | None = None) -> None:
        pass


class Bench:
    """A batcher and the record of what it did."""

    def __init__(self, model: Doubler, *, slow: bool, joins: bool = True, **limits) -> None:
        one_s, limit = SLOW if slow else 1e-5, limits.get("max_batch_rows", 8)
        pace = SteadyPace({1: one_s, limit: one_s * (1 if joins else 2 * limit)}, limit)
        self.events: list[tuple[str, list[int]]] = []
        self.done: list[Ticket] = []
        self.batcher = Batcher(
            model,
            pace,
            asyncio.get_running_loop(),
            max_queue_rows=limits.get("max_queue_rows", 100),
            max_queue_bytes=limits.get("max_queue_bytes", 10**6),
            settle=lambda tickets: self.events.append(("log", [id(t) for t in tickets])),
            watch=lambda inputs, outputs: None,
            lanes=limits.get("lanes", 1),
        )

    def send(self, *values: float, width: int = 2, timeout_s: float = 1e6) -> Ticket:
        rows = np.full((len(values), width), 0.0, dtype=np.float32) + np.array(values, dtype=np.float32)[:, None]
        ticket = Ticket(Call((rows,), len(values), (0,), ""), 0.0, self._done)
        self.batcher.submit(ticket, timeout_s)
        return ticket

    def _done(self, ticket: Ticket) -> None:
        self.events.append(("answer", [id(ticket)]))
        self.done.append(ticket)

    async def finish(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.done) < count:
                await asyncio.sleep(0.001)
        self.batcher.close()


@pytest.mark.parametrize("slow", [False, True])
def test_requests_that_queue_together_travel_together_and_get_their_own_rows(slow):
    async def scene():
        model = Doubler()
        bench = Bench(model, slow=slow)
        tickets = [bench.send(float(n), float(n) + 0.5) for n in range(6)]
        await bench.finish(6)
        assert model.batches == [8, 4]
        for n, ticket in enumerate(tickets):
            assert ticket.outputs[0].tolist() == [[2 * n, 2 * n], [2 * n + 1, 2 * n + 1]]

    asyncio.run(scene())


def test_log_is_written_before_the_answers_of_its_batch():
    async def scene():
        bench = Bench(Doubler(), slow=False)
        first, second = bench.send(1), bench.send(2)
        await bench.finish(2)
        assert bench.events[0] == ("log", [id(first), id(second)])
        assert [kind for kind, _ in bench.events] == ["log", "answer", "answer"]

    asyncio.run(scene())


def test_model_that_gains_nothing_runs_requests_one_by_one():
    async def scene():
        model = Doubler()
        bench = Bench(model, slow=False, joins=False)
        for n in range(4):
            bench.send(n)
        await bench.finish(4)
        assert model.batches == [1, 1, 1, 1]

    asyncio.run(scene())


def test_different_shapes_never_share_a_batch_and_each_gets_its_turn():
    async def scene():
        model = Doubler()
        bench = Bench(model, slow=False)
        for n in range(6):
            bench.send(n, n, n, width=2 + n % 2)
        await bench.finish(6)
        assert model.shapes[:2] == [(2,), (3,)]
        assert sorted(model.batches) == [3, 3, 6, 6]

    asyncio.run(scene())


def test_request_larger_than_a_batch_runs_alone():
    async def scene():
        model = Doubler()
        bench = Bench(model, slow=False)
        bench.send(*range(20))
        bench.send(1)
        await bench.finish(2)
        assert model.batches == [20, 1]

    asyncio.run(scene())


def test_full_queue_refuses_at_once_and_loses_nothing_that_it_took():
    async def scene():
        model = Doubler()
        model.gate.clear()
        bench = Bench(model, slow=True, max_queue_rows=10)
        for n in range(10):
            bench.send(n)
        with pytest.raises(QueueFull):
            bench.send(11)
        model.gate.set()
        await bench.finish(10)
        assert all(ticket.failure is None for ticket in bench.done)

    asyncio.run(scene())


def test_queue_that_holds_too_many_bytes_refuses_at_once():
    async def scene():
        bench = Bench(Doubler(), slow=False, max_queue_bytes=100)
        bench.send(1, width=20)
        bench.send(1, width=5)
        with pytest.raises(QueueFull):
            bench.send(1, width=1)
        await bench.finish(2)
        assert bench.batcher.queued_rows == 0

    asyncio.run(scene())


def test_request_that_would_be_late_is_refused_when_it_arrives():
    async def scene():
        model = Doubler()
        model.gate.clear()
        bench = Bench(model, slow=True)
        bench.send(1)
        with pytest.raises(QueueFull):
            bench.send(2, timeout_s=SLOW / 2)
        bench.send(3, timeout_s=SLOW * 4)
        model.gate.set()
        await bench.finish(2)

    asyncio.run(scene())


def test_poisonous_request_fails_alone():
    async def scene():
        model = Doubler()
        bench = Bench(model, slow=False)
        tickets = [bench.send(n) for n in (1, 13, 2)]
        await bench.finish(3)
        assert [ticket.failure is None for ticket in tickets] == [True, False, True]
        assert isinstance(tickets[1].failure, SkyloomError)
        assert model.batches == [3, 1, 1, 1]

    asyncio.run(scene())


def test_request_whose_client_left_is_not_run():
    async def scene():
        model = Doubler()
        bench = Bench(model, slow=False)
        gone, stays = bench.send(1), bench.send(2)
        gone.cancelled = True
        await bench.finish(1)
        assert bench.done == [stays]
        assert model.batches == [1]
        assert bench.batcher.queued_rows == 0

    asyncio.run(scene())


@pytest.mark.parametrize("slow", [False, True])
def test_statistics_that_fail_keep_no_answer_back(slow, capsys):
    async def scene():
        bench = Bench(Doubler(), slow=slow)
        bench.batcher._watch = lambda inputs, outputs: 1 / 0
        bench.send(1)
        await asyncio.sleep(0)
        second = bench.send(2)
        await bench.finish(2)
        assert second.outputs[0].tolist() == [[4, 4]]

    asyncio.run(scene())
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("broken", ["model", "log", "answer"])
def test_defects_fail_their_own_batch_and_the_queue_goes_on(slow, broken, capfd):
    async def scene():
        model = Doubler()
        bench = Bench(model, slow=slow)
        run, settle, done = model.run, bench.batcher._settle, bench._done

        def fail(*_):
            bench.batcher._settle, model.run = settle, run
            raise ZeroDivisionError("detail")

        first = bench.send(1)
        if broken == "answer":
            first.on_done = lambda ticket: (done(ticket), fail())
        elif broken == "log":
            bench.batcher._settle = fail
        else:
            model.run = fail
        beside = bench.send(2)
        async with asyncio.timeout(10):
            while len(bench.done) < 2:
                await asyncio.sleep(0.001)
        later = bench.send(3)
        await bench.finish(3)
        assert later.outputs[0].tolist() == [[6, 6]]
        if broken == "answer":
            assert beside.outputs[0].tolist() == [[4, 4]]
        if broken == "log":
            assert (first.outputs, beside.outputs) == (None, None)
            assert "detail" not in str(first.failure)

    asyncio.run(scene())
    assert "ZeroDivisionError" in capfd.readouterr().err


class Laned(Doubler):
    """Says how each batch ran, and lets a test end them one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[tuple[str, float]] = []
        self.may_end = threading.Semaphore(0)

    def run(self, inputs):
        return self._run("all cores", inputs)

    def run_beside(self, inputs):
        return self._run("one core", inputs)

    def _run(self, how, inputs):
        self.begun.append((how, float(inputs[0][0, 0])))
        assert self.may_end.acquire(timeout=10)
        return super().run(inputs)


async def until(met) -> None:
    async with asyncio.timeout(10):
        while not met():
            await asyncio.sleep(0.001)


def test_lone_request_has_all_cores_and_those_that_wait_have_one_each():
    async def scene():
        model = Laned()
        bench = Bench(model, slow=True, joins=False, lanes=2)
        tickets = [bench.send(1)]
        await until(lambda: len(model.begun) == 1)
        tickets += [bench.send(n) for n in (2, 3, 4)]
        await asyncio.sleep(0.02)
        assert model.begun == [("all cores", 1)]  # they are taken: who comes now waits
        model.may_end.release()
        await until(lambda: len(model.begun) == 3)
        assert sorted(model.begun[1:]) == [("one core", 2), ("one core", 3)]
        model.may_end.release()
        await until(lambda: len(model.begun) == 4)
        model.may_end.release()
        await until(lambda: len(bench.done) == 3)
        tickets.append(bench.send(5))  # one lane is free
        await until(lambda: len(model.begun) == 5)
        assert model.begun[3:] == [("one core", 4), ("one core", 5)]
        model.may_end.release(2)
        await until(lambda: bench.batcher.is_idle)
        tickets.append(bench.send(6))
        await until(lambda: len(model.begun) == 6)
        assert model.begun[5] == ("all cores", 6)
        model.may_end.release()
        await bench.finish(6)
        assert [ticket.outputs[0][0, 0] for ticket in tickets] == [2, 4, 6, 8, 10, 12]

    asyncio.run(scene())


def test_failed_batch_goes_again_beside_others():
    async def scene():
        model = Laned()
        model.may_end.release(50)
        bench = Bench(model, slow=True, lanes=3)
        tickets = [bench.send(value) for value in (1, 13, 2, 3)]
        await bench.finish(4)
        assert [ticket.failure is None for ticket in tickets] == [True, False, True, True]
        await until(lambda: bench.batcher.is_idle)

    asyncio.run(scene())


def test_request_that_nobody_waits_for_does_not_go_again():
    async def scene():
        model = Doubler()
        bench = Bench(model, slow=False)
        left, refused = bench.send(1), bench.send(13)
        model.run = lambda inputs, run=model.run: (left.cancel(), run(inputs))[1]  # it leaves while the batch runs
        await bench.finish(1)
        await asyncio.sleep(0)
        assert model.batches == [2, 1] and bench.done == [refused] and bench.batcher.is_idle

    asyncio.run(scene())
