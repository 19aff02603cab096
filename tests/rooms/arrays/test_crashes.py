"""The control plane is killed before and after every commit of an array's life and of what comes after it."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from skyloom.core.ids import CountingIds
from skyloom.ports.door import Outbox
from skyloom.ports.engine import Command, TaskPhase
from skyloom.ports.store import Transaction
from skyloom.rooms.arrays.model import GetArray, ReadArrayResults, SubmitArray
from skyloom.rooms.arrays.service import Arrays
from skyloom.rooms.jobs.model import Dependency, JobSpec, JobState, SubmitJob
from skyloom.rooms.jobs.ports import JOBS
from tests.rooms.job_rooms import job_rooms
from tests.rooms.workshop import ANN, Workshop

T = TypeVar("T")
SPEC = JobSpec(entry=Command(argv=("true",)), max_retries=1)
SIZE = 5


class Killed(BaseException):
    """As little is caught of it as of a SIGKILL."""


class Life:
    """A control plane that dies at its k-th commit, once; the store and the engine live on."""

    def __init__(self, phase: str, at: int) -> None:
        self.shop, self.phase, self.at = Workshop(), phase, at
        self.ids, self.commits, self.deaths = CountingIds(), 0, 0
        self.write = self.shop.store.write
        self.shop.store.write = self.dying  # type: ignore[method-assign]
        self.start()

    def start(self) -> None:
        """Another control plane over the same store and the same tasks."""
        shop = self.shop
        shop.jobs, shop.loop = job_rooms(
            shop.store, shop.clock, self.ids, Outbox(shop.clock), shop.engine, shop.blobs, shop.plans
        )
        self.arrays = Arrays(shop.store, shop.clock, self.ids, shop.blobs, shop.jobs)
        shop.loop.adopt()

    def dying(self, work: Callable[[Transaction], T]) -> T:
        self.commits += 1
        if (self.phase, self.commits) == ("before", self.at):
            raise Killed
        answer = self.write(work)
        if (self.phase, self.commits) == ("after", self.at):
            raise Killed
        return answer

    def lived(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except Killed:
            self.deaths += 1
            self.start()

    def round(self) -> None:
        """What the loops do, in some order; every task that runs ends, index 3 badly at its first try."""
        for work in (self.shop.loop.tick, self.arrays.tick, self.shop.jobs.dependencies.tick):
            self.lived(work)
        engine = self.shop.engine
        for task_id, seen in engine.observe(engine.known()).items():
            if seen.phase is TaskPhase.RUNNING:
                engine.finish(task_id, 1 if task_id.endswith("-00003.1.0") else 0, result=b"1")


@pytest.mark.parametrize("phase", ["before", "after"])
def test_array_killed_at_every_commit_runs_each_index_once_and_what_comes_after_it_too(phase: str) -> None:
    at, deaths = 1, 1
    while deaths:
        life = Life(phase, at + 2)  # the two requests themselves are answered or repeated by who sends them
        shop, ask = life.shop, SubmitArray(spec=SPEC, size=SIZE, max_parallel=2)
        array_id = shop.store.write(lambda tx: life.arrays.submit(tx, ask, ANN)).array.id  # noqa: B023
        after = JobSpec(entry=SPEC.entry, after=(Dependency(id=array_id),))
        last = shop.store.write(lambda tx: shop.jobs.submit(tx, SubmitJob(spec=after), ANN)).job.id  # noqa: B023
        for _ in range(30):
            life.round()
        status = life.arrays.get(GetArray(array_id=array_id), ANN)
        assert (status.state, status.num_succeeded) == (JobState.SUCCEEDED, SIZE)
        ends = life.arrays.results(ReadArrayResults(array_id=array_id), ANN)
        assert (sorted(end.index for end in ends.items), ends.ended) == (list(range(SIZE)), True)
        assert shop.store.read(lambda view: view.count(JOBS)) == SIZE + 1
        assert shop.jobs.dependencies.state(_view(shop), last, "p") is JobState.SUCCEEDED
        tries = [plan.task_id for plan in shop.engine.launched]
        assert len(tries) == len(set(tries)) == SIZE + 2
        deaths, at = life.deaths, at + 1
    assert at > 15


def _view(shop: Workshop) -> Any:
    return shop.store.read(lambda view: view)
