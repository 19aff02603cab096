"""The loop of jobs over memory adapters: what one bad job may not do to the others."""

from collections.abc import Callable

import pytest

from skyloom.core.operation import Caller
from skyloom.ports.engine import Command, TaskPlan
from skyloom.ports.store import Snapshot, Transaction
from skyloom.rooms.jobs import rules, settling
from skyloom.rooms.jobs.model import (
    Job,
    JobBeyondBounds,
    JobSpec,
    JobState,
    ListJobs,
    ReadLog,
    Reason,
    SubmitJob,
    Task,
)
from skyloom.rooms.pools.model import Pool
from skyloom.rooms.training.model import Train
from skyloom.stores.memory import MemoryStore
from tests.rooms.workshop import ANN, BOB, Workshop


def submit(shop: Workshop, name: str, by: Caller = ANN) -> str:
    ask = SubmitJob(spec=JobSpec(entry=Command(argv=("true",)), name=name))
    return shop.store.write(lambda tx: shop.jobs.submit(tx, ask, by)).job.id


def states(shop: Workshop, *job_ids: str) -> list[JobState]:
    return [shop.store.read(lambda view, key=key: shop.jobs.status(view, key, "p")).state for key in job_ids]  # type: ignore[misc]


def test_job_whose_launch_always_raises_does_not_block_the_others(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = shop.plans.task

    def refusing(job: Job, task: Task, pool: Pool) -> TaskPlan:
        if job.spec.name == "bad":
            raise RuntimeError("a defect")
        return plan(job, task, pool)

    monkeypatch.setattr(shop.plans, "task", refusing)
    bad, good = submit(shop, "bad"), submit(shop, "good")
    for _ in range(3):
        shop.loop.tick()
    assert states(shop, bad, good) == [JobState.STARTING, JobState.RUNNING]
    later = submit(shop, "good too")
    for _ in range(2):
        shop.loop.tick()
    assert states(shop, later) == [JobState.RUNNING]
    for _ in range(5):
        shop.loop.tick()
    ended = shop.store.read(lambda view: shop.jobs.status(view, bad, "p"))
    assert (ended.state, ended.reason) == (JobState.FAILED, Reason.LAUNCH_FAILED)
    assert "log of the control plane" in ended.message


def test_job_whose_state_cannot_be_written_does_not_block_the_others(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = submit(shop, "bad"), submit(shop, "good")
    shop.loop.tick()
    write = shop.loop._write

    def refusing(tx: Transaction, job: Job, made: settling.Settled) -> bool:
        if job.id == bad:
            raise ValueError("a damaged record")
        return write(tx, job, made)

    monkeypatch.setattr(shop.loop, "_write", refusing)
    for job_id in (bad, good):
        shop.engine.finish(f"{job_id}.1.0")
    shop.loop.tick()
    assert states(shop, good) == [JobState.SUCCEEDED]
    monkeypatch.undo()
    shop.loop.tick()
    assert states(shop, bad) == [JobState.SUCCEEDED]


def test_list_of_live_jobs_asks_for_no_more_than_a_page_and_for_nobody_elses(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = [submit(shop, str(number)) for number in range(7)]
    submit(shop, "theirs", BOB)
    asked: list[int] = []
    select = MemoryStore.read

    def read(store: MemoryStore, work: Callable[[Snapshot], object]) -> object:
        def counted(view: Snapshot) -> object:
            inner = view.select

            def counting(collection: object, where: dict[str, object] = {}, **more: object) -> object:  # noqa: B006
                asked.extend(len(value) for value in where.values() if isinstance(value, tuple))
                return inner(collection, where, **more)  # type: ignore[arg-type]

            monkeypatch.setattr(view, "select", counting)
            return work(view)

        return select(store, counted)

    monkeypatch.setattr(MemoryStore, "read", read)
    seen, cursor = [], None
    while True:
        shown = shop.jobs.list(ListJobs(limit=3, live=True, cursor=cursor), ANN)
        seen += [item.job.id for item in shown.items]
        if (cursor := shown.next_cursor) is None:
            break
    assert seen == mine[::-1]
    assert max(asked) <= max(4, len(rules.LIVE))


def test_log_that_is_read_byte_by_byte_comes_whole(shop: Workshop) -> None:
    job_id, said, offset = submit(shop, "talks"), "", 0
    shop.loop.tick()
    shop.engine.print(f"{job_id}.1.0", "é€😀!".encode())
    for _ in range(10):
        chunk = shop.jobs.read_log(ReadLog(job_id=job_id, offset=offset, limit=1), ANN)
        said, offset = said + chunk.text, chunk.next_offset
    assert said == "é€😀!"


def test_training_whose_job_could_never_be_read_again_is_refused(shop: Workshop) -> None:
    digest, _ = shop.blobs.put([b"print(1)"])
    with pytest.raises(JobBeyondBounds, match=r"\$\.labels"):
        shop.train(Train(script="train.py", files={"train.py": digest}, labels={"why": "x" * 300}))
    assert shop.jobs.list(ListJobs(), ANN).items == ()


def test_job_that_a_room_above_makes_too_large_is_refused_before_anything_is_written(shop: Workshop) -> None:
    digest, _ = shop.blobs.put([b"weights"])
    spec = JobSpec(entry=Command(argv=("true",)), files={f"bundle/{'x' * 295}": digest})
    with pytest.raises(JobBeyondBounds, match=r"\$\.files"):
        shop.jobs.check(SubmitJob(spec=spec), ANN)


@pytest.fixture
def shop() -> Workshop:
    return Workshop()
