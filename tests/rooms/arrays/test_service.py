"""Arrays over memory adapters: made as room comes, added up, cancelled, and gone on with after a restart."""

from collections.abc import Callable
from typing import Any

import pytest

from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller
from skyloom.core.resources import Resources
from skyloom.ports.engine import Command
from skyloom.ports.store import Transaction
from skyloom.rooms.arrays import model
from skyloom.rooms.arrays.model import ArrayMissing, ArrayStatus, CancelArray, GetArray, ReadArrayResults, SubmitArray
from skyloom.rooms.arrays.ports import PROGRESS
from skyloom.rooms.arrays.service import Arrays
from skyloom.rooms.jobs.bounds import OpenWorkers
from skyloom.rooms.jobs.model import (
    Dependency,
    JobBeyondBounds,
    JobMissing,
    JobSpec,
    JobState,
    ListJobs,
    Reason,
    SubmitJob,
    TooManyInProject,
)
from skyloom.rooms.jobs.ports import JOBS
from skyloom.rooms.secrets.model import DeleteSecret, SecretUse, SetSecret
from tests.rooms.workshop import ANN, BOB, Workshop

SPEC = JobSpec(entry=Command(argv=("true",)))


class Bench:
    """A workshop with arrays."""

    def __init__(self) -> None:
        self.shop = Workshop()
        self.ids = CountingIds()
        self.arrays = self.restarted()

    def restarted(self) -> Arrays:
        """Another control plane over the same store."""
        return Arrays(self.shop.store, self.shop.clock, self.ids, self.shop.blobs, self.shop.jobs)

    def submit(self, size: int, by: Caller = ANN, **more: object) -> str:
        ask = SubmitArray(size=size, **{"spec": SPEC, **more})  # type: ignore[arg-type]
        self.arrays.check(ask, by)
        return self.shop.store.write(lambda tx: self.arrays.submit(tx, ask, by)).array.id

    def get(self, array_id: str, by: Caller = ANN) -> ArrayStatus:
        return self.arrays.get(GetArray(array_id=array_id), by)

    def round(self) -> None:
        self.shop.jobs.dependencies.tick()
        self.arrays.tick()
        self.shop.loop.tick()

    def finish(self, array_id: str, *indexes: int, code: int = 0) -> None:
        for index in indexes:
            self.shop.engine.finish(f"job_{array_id[6:]}-{index:05}.1.0", code, result=str(index).encode())
        self.shop.loop.tick()
        self.arrays.tick()

    def num_jobs(self) -> int:
        return self.shop.store.read(lambda view: view.count(JOBS))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_array_of_ten_thousand_makes_jobs_only_as_they_are_due(bench: Bench) -> None:
    array_id = bench.submit(10_000)
    assert bench.num_jobs() == 256
    status = bench.get(array_id)
    assert (status.state, status.num_waiting) == (JobState.QUEUED, 10_000)
    bench.round()
    bench.finish(array_id, 0, 1, 2)
    assert bench.num_jobs() == 259
    assert bench.get(array_id).num_succeeded == 3


def test_array_with_max_parallel_never_has_more_jobs_than_that(bench: Bench) -> None:
    array_id = bench.submit(5, max_parallel=2)
    for index in range(5):
        bench.round()
        live = bench.shop.jobs.list(ListJobs(live=True, array=array_id), ANN).items
        assert len(live) == min(2, 5 - index)
        bench.finish(array_id, index)
    status = bench.get(array_id)
    assert (status.state, status.num_succeeded) == (JobState.SUCCEEDED, 5)
    assert bench.arrays.tick() > 1


def test_array_waits_while_its_project_has_as_many_workers_as_it_may(bench: Bench) -> None:
    bench.shop.jobs.workers = OpenWorkers(3)
    first, second = bench.submit(2), bench.submit(4)
    assert bench.num_jobs() == 3
    bench.round()
    before = bench.shop.store.read(lambda view: view.get(PROGRESS, second))
    bench.arrays.tick()
    assert bench.shop.store.read(lambda view: view.get(PROGRESS, second)) == before, "waiting writes nothing"
    bench.finish(first, 0, 1)
    bench.round()
    assert bench.num_jobs() == 5
    bench.finish(second, 0, 1, 2)
    bench.round()
    bench.finish(second, 3)
    assert (bench.get(second).state, bench.get(second).num_succeeded) == (JobState.SUCCEEDED, 4)


def test_array_of_which_nothing_runs_says_what_its_first_job_waits_for_and_what_to_do(bench: Bench) -> None:
    spec = JobSpec(entry=Command(argv=("true",)), resources=Resources(cpus=4, gpus=0, memory_bytes=2**20))
    first, second = bench.submit(1, spec=spec), bench.submit(3, spec=spec)
    bench.round()
    held = bench.get(second)
    assert (held.state, held.reason) == (JobState.QUEUED, Reason.WAITING_FOR_RESOURCES)
    assert "needs 4 CPUs" in held.message and held.next_action
    assert bench.get(first).message == ""
    bench.finish(first, 0)
    bench.round()
    assert (bench.get(second).num_running, bench.get(second).message) == (1, "")


def test_project_may_have_only_so_many_arrays_that_have_not_ended(bench: Bench) -> None:
    shop = bench.shop
    bench.arrays = Arrays(shop.store, shop.clock, bench.ids, shop.blobs, shop.jobs, most=2)
    first = bench.submit(1)
    bench.submit(1)
    with pytest.raises(TooManyInProject, match="may have 2 open arrays, and has them"):
        bench.submit(1)
    bench.submit(1, BOB)
    bench.round()
    bench.finish(first, 0)
    bench.submit(1)


def test_array_is_one_line_in_lists_and_its_jobs_are_listed_by_it(bench: Bench) -> None:
    array_id = bench.submit(3)
    assert bench.shop.jobs.list(ListJobs(), ANN).items == ()
    assert len(bench.shop.jobs.list(ListJobs(array=array_id), ANN).items) == 3
    assert len(bench.shop.jobs.list(ListJobs(array="*"), ANN).items) == 3
    assert [item.array.id for item in bench.arrays.list(model.ListArrays(), ANN).items] == [array_id]
    assert bench.arrays.list(model.ListArrays(), BOB).items == ()


def test_array_failures_and_results_tell_index_reason_and_job(bench: Bench) -> None:
    array_id = bench.submit(3)
    bench.round()
    bench.finish(array_id, 2)
    bench.finish(array_id, 0, code=7)
    first = bench.arrays.results(ReadArrayResults(array_id=array_id), ANN)
    assert [(item.index, item.state, item.result_json) for item in first.items] == [
        (2, JobState.SUCCEEDED, "2"),
        (0, JobState.FAILED, "0"),
    ]
    assert not first.ended
    bench.finish(array_id, 1)
    rest = bench.arrays.results(ReadArrayResults(array_id=array_id, after=first.next), ANN)
    assert ([item.index for item in rest.items], rest.ended) == ([1], True)
    status = bench.get(array_id)
    assert (status.state, status.reason, status.num_failed) == (JobState.FAILED, Reason.EXIT_CODE, 1)
    assert status.failures[0].index == 0


def test_array_job_that_fails_is_tried_again_by_itself(bench: Bench) -> None:
    array_id = bench.submit(2, spec=JobSpec(entry=Command(argv=("true",)), max_retries=1))
    bench.round()
    bench.finish(array_id, 0, code=1)
    bench.finish(array_id, 1)
    assert bench.get(array_id).num_failed == 0
    bench.round()
    bench.shop.engine.finish(f"job_{array_id[6:]}-00000.2.0")
    bench.round()
    bench.round()
    assert bench.get(array_id).state is JobState.SUCCEEDED


def test_array_cancelled_stops_what_runs_and_makes_no_more(bench: Bench) -> None:
    array_id = bench.submit(1_000, max_parallel=4)
    bench.round()
    for _ in range(2):  # safe to repeat
        status = bench.shop.store.write(lambda tx: bench.arrays.cancel(tx, CancelArray(array_id=array_id), ANN))
    assert status.state is JobState.STOPPING
    for _ in range(3):
        bench.round()
    status = bench.get(array_id)
    assert (status.state, status.num_cancelled, status.message) == (JobState.CANCELLED, 1_000, "cancelled by ann")
    assert bench.num_jobs() == 4
    assert bench.arrays.results(ReadArrayResults(array_id=array_id), ANN).ended


def test_array_goes_on_after_a_restart_without_repeating_an_index(bench: Bench) -> None:
    array_id = bench.submit(600)
    bench.round()
    bench.finish(array_id, 0, 1)
    bench.arrays = bench.restarted()
    for _ in range(3):
        bench.round()
    assert bench.num_jobs() == 258
    assert bench.get(array_id).num_succeeded == 2


def test_array_of_somebody_else_looks_absent(bench: Bench) -> None:
    array_id = bench.submit(2, BOB)
    with pytest.raises(ArrayMissing):
        bench.get(array_id)
    with pytest.raises(ArrayMissing):
        bench.arrays.results(ReadArrayResults(array_id=array_id), ANN)
    with pytest.raises(JobMissing):
        bench.submit(1, spec=JobSpec(entry=Command(argv=("true",)), after=(Dependency(id="job_x"),)))
    with pytest.raises(ArrayMissing):
        bench.submit(1, spec=JobSpec(entry=Command(argv=("true",)), after=(Dependency(id=array_id),)))


@pytest.mark.parametrize(("code", "state", "made"), [(0, JobState.QUEUED, 1), (1, JobState.CANCELLED, 0)])
def test_array_after_a_job_waits_and_then_begins_or_never_does(
    bench: Bench, code: int, state: JobState, made: int
) -> None:
    ask = SubmitJob(spec=SPEC)
    first = bench.shop.store.write(lambda tx: bench.shop.jobs.submit(tx, ask, ANN)).job.id
    after = JobSpec(entry=Command(argv=("true",)), after=(Dependency(id=first),))
    array_id = bench.submit(1, spec=after)
    bench.round()
    status = bench.get(array_id)
    assert (status.state, status.reason) == (JobState.WAITING, Reason.WAITING_FOR_DEPENDENCIES)
    assert first in status.message
    bench.shop.engine.finish(f"{first}.1.0", code)
    bench.shop.loop.tick()
    bench.arrays.tick()
    assert bench.get(array_id).state is state
    assert bench.num_jobs() == 1 + made


def test_job_after_an_array_waits_for_all_of_it(bench: Bench) -> None:
    array_id = bench.submit(2)
    spec = JobSpec(entry=Command(argv=("true",)), after=(Dependency(id=array_id),))
    job = bench.shop.store.write(lambda tx: bench.shop.jobs.submit(tx, SubmitJob(spec=spec), ANN))
    assert job.state is JobState.WAITING
    bench.round()
    bench.finish(array_id, 0)
    bench.round()
    assert bench.shop.store.read(lambda view: bench.shop.jobs.status(view, job.job.id, "p")).state is JobState.WAITING
    bench.finish(array_id, 1)
    bench.round()
    assert bench.shop.store.read(lambda view: bench.shop.jobs.status(view, job.job.id, "p")).state is JobState.STARTING


def test_array_whose_secret_is_gone_stops_and_holds_up_no_other_array(bench: Bench) -> None:
    secrets = bench.shop.jobs._secrets
    bench.shop.store.write(lambda tx: secrets.set(tx, SetSecret(name="key", value="v"), ANN))
    spec = JobSpec(entry=Command(argv=("true",)), secrets=(SecretUse(name="key"),))
    broken, other = bench.submit(4, spec=spec, max_parallel=1), bench.submit(3, BOB, max_parallel=1)
    bench.round()
    bench.shop.store.write(lambda tx: secrets.delete(tx, DeleteSecret(name="key"), ANN))
    for array_id in (broken, other):
        bench.finish(array_id, 0)
    bench.round()
    told = bench.get(broken)
    assert (told.state, told.reason, told.num_succeeded, told.num_cancelled) == (
        JobState.CANCELLED,
        Reason.LAUNCH_FAILED,
        1,
        3,
    )
    assert "no secret 'key'" in told.message
    for index in (1, 2):
        bench.round()
        bench.finish(other, index)
    assert bench.get(other, BOB).num_succeeded == 3


@pytest.mark.parametrize("waits", [False, True])
def test_array_whose_jobs_would_be_beyond_their_bounds_is_refused_at_once(bench: Bench, waits: bool) -> None:
    first = bench.shop.store.write(lambda tx: bench.shop.jobs.submit(tx, SubmitJob(spec=SPEC), ANN)).job.id
    full = JobSpec(
        entry=SPEC.entry,
        environment={f"V{number}": "" for number in range(200)},  # and each index is told three more
        after=(Dependency(id=first),) if waits else (),
    )
    with pytest.raises(JobBeyondBounds, match=r"\$\.spec\.environment"):
        bench.submit(2, spec=full)
    assert bench.num_jobs() == 1


def test_array_cancelled_between_a_look_and_its_write_makes_no_more_jobs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    array_id = bench.submit(4, max_parallel=1)
    bench.round()
    write = bench.shop.store.write

    def late(work: Callable[[Transaction], Any]) -> Any:
        monkeypatch.setattr(bench.shop.store, "write", write)
        write(lambda tx: bench.arrays.cancel(tx, CancelArray(array_id=array_id), ANN))
        return write(work)

    bench.shop.engine.finish(f"job_{array_id[6:]}-00000.1.0")
    bench.shop.loop.tick()
    monkeypatch.setattr(bench.shop.store, "write", late)
    bench.arrays.tick()
    bench.arrays.tick()
    status = bench.get(array_id)
    assert (status.state, status.num_succeeded, status.num_cancelled) == (JobState.CANCELLED, 1, 3)
    assert bench.num_jobs() == 1
