from collections.abc import Iterable

import pytest

from skyloom.core.events import Event, Moved, TaskEnded
from skyloom.core.operation import Caller
from skyloom.core.resources import Resources
from skyloom.ports.clock import MemoryClock
from skyloom.ports.door import Outbox
from skyloom.ports.store import Snapshot, Transaction
from skyloom.rooms.cost.model import CostBy, CostReport, GetCost, PriceBook
from skyloom.rooms.cost.ports import LEDGER
from skyloom.rooms.cost.service import Cost
from skyloom.stores.memory import MemoryStore

ANN = Caller(principal="ann", project="p", scope="p", rights=frozenset())


def task(task_id: str, started_at: float, ended_at: float) -> TaskEnded:
    return TaskEnded(
        job_id="job_1", task_id=task_id, resources=Resources(cpus=1), started_at=started_at, ended_at=ended_at
    )


class Place:
    """A cost room over a store, with an outbox that tells it and a list of tasks that still run."""

    def __init__(self) -> None:
        self.store, self.clock = MemoryStore(), MemoryClock(1_000.0)
        self.running: list[tuple[str, float]] = []
        self.cost = Cost(self.store, self.clock, PriceBook(cpu_usd_per_hour=3.6), self.unfinished)
        self.outbox = Outbox(self.clock, [self.cost.on_task_ended])

    def unfinished(self, view: Snapshot, project: str, now: float) -> Iterable[TaskEnded]:
        return [task(task_id, started_at, now) for task_id, started_at in self.running]

    def end(self, body: TaskEnded | Moved, project: str = "p") -> None:
        self.store.write(lambda tx: self.outbox.publish(tx, project, "job_1", body))

    def report(self) -> CostReport:
        return self.cost.get(GetCost(by=CostBy.JOB), ANN)


@pytest.fixture
def place() -> Place:
    return Place()


def test_cost_of_an_ended_task_is_in_the_report(place: Place):
    place.end(task("t1", 900, 960))
    assert place.report().total.cost.nano_usd == 60_000_000


def test_cost_of_an_event_told_twice_is_charged_once(place: Place):
    place.end(task("t1", 900, 960))
    place.end(task("t1", 900, 960))
    assert place.report().total.num_tasks == 1


def test_cost_of_a_transaction_that_fails_is_not_kept(place: Place):
    def work(tx: Transaction) -> None:
        place.outbox.publish(tx, "p", "job_1", task("t1", 900, 960))
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        place.store.write(work)
    assert place.store.read(lambda view: view.entries(LEDGER)) == []


def test_cost_of_a_running_task_grows_and_is_not_counted_again_when_it_ends(place: Place):
    place.running = [("t1", 990.0)]
    first = place.report().total
    place.clock.advance(10)
    second = place.report().total
    place.end(task("t1", 990, 1_010))
    third = place.report().total  # still named as running: the two rooms are asked about one snapshot, but suppose not
    assert [row.duration_s for row in (first, second, third)] == [10, 20, 20]
    assert (second.num_running, third.num_running, third.num_tasks) == (1, 0, 1)


def test_cost_of_another_project_is_not_shown(place: Place):
    place.end(task("t1", 900, 960), project="q")
    assert place.report().total.num_tasks == 0


def test_cost_of_other_events_is_nothing(place: Place):
    place.end(Moved(before="queued", after="running"))
    assert place.report().rows == ()


def test_cost_of_more_tasks_than_one_chunk_adds_them_all(place: Place):
    def work(tx: Transaction) -> None:
        for number in range(2_001):
            event = Event(at=0, project="p", subject="job_1", body=task(f"t{number}", 0, 1))
            place.cost.on_task_ended(tx, event)

    place.store.write(work)
    assert place.report().total.num_tasks == 2_001
