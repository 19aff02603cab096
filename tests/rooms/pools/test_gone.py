"""A pool that is gone for good: what ran there is given up, once and wholly, and cannot speak again. Engines in memory."""

from pathlib import Path
from typing import Any

import pytest

from skyloom.core.events import TaskEnded
from skyloom.ports.door import EVENTS
from skyloom.rooms.jobs.model import CancelJob, Halt, JobState, Reason
from skyloom.rooms.jobs.ports import JOBS
from skyloom.rooms.jobs.writing import JobWriter
from skyloom.rooms.pools.model import (
    GetPool,
    ListPools,
    PoolBusy,
    PoolDown,
    PoolMissing,
    PoolNotGone,
    PoolReserved,
    RemovePool,
)
from skyloom.rooms.pools.ports import HEARD, POOLS
from tests.rooms.pools.land import OWNER, Cluster, Land
from tests.rooms.workshop import ANN

GONE = RemovePool(name="cluster", gone=True)


@pytest.fixture
def land(tmp_path: Path) -> Land:
    land = Land(tmp_path / "pools")
    land.add("cluster")
    return land


def cluster_of(land: Land) -> Cluster:
    return land.clusters["ray://a:10001"]


def lose(land: Land, silent_s: float = 60.0) -> float:
    """The pool falls silent and stays so; returns when it was last heard of."""
    land.pools.tick()
    heard_at = land.clock.now()
    land.clock.advance(1)
    cluster_of(land).down = True
    land.rounds(2)
    land.clock.advance(silent_s)
    land.rounds()
    return heard_at


def ends(land: Land) -> dict[str, TaskEnded]:
    found = land.store.read(lambda view: view.entries(EVENTS, limit=1_000))
    return {event.body.task_id: event.body for _, event in found if isinstance(event.body, TaskEnded)}


def test_tasks_of_a_gone_pool_end_as_lost_when_it_was_last_heard_of_and_go_elsewhere(land: Land) -> None:
    once, again = land.submit(cpus=1, gpus=1), land.submit(cpus=2, max_retries=1, requires={"pool": "cluster"})
    gang = land.submit(cpus=5, num_workers=2, max_retries=1)
    here = land.submit(cpus=1, pools=("local",))
    land.rounds()
    assert {place.split("/")[0] for place in land.where(gang)} == {"cluster"}
    land.add("other", "b")
    heard_at = lose(land)
    removed = land.do(GONE)
    assert (removed.name, removed.num_lost, removed.num_again) == ("cluster", 4, 2)
    lost = land.of(once)
    assert (lost.state, lost.reason, lost.ended_at) == (JobState.FAILED, Reason.NODE_LOST, heard_at)
    assert lost.message == "lost with pool cluster, which is gone for good, as owner said"
    ledger = ends(land)
    assert len(ledger) == 4 and {end.ended_at for end in ledger.values()} == {heard_at}
    assert all(end.started_at < heard_at and end.pool == "cluster" for end in ledger.values())
    land.rounds()
    whole = land.of(gang)
    assert (whole.state, whole.job.attempt) == (JobState.RUNNING, 2)
    assert {place.split("/")[0] for place in land.where(gang)} == {"other"}
    assert land.of(again).state is JobState.QUEUED and land.of(again).message
    assert land.of(here).state is JobState.RUNNING
    assert cluster_of(land).closed and not land.tokens.file("cluster").exists()
    assert [item.pool.name for item in land.do(ListPools()).items] == ["local", "other"]
    assert len(ends(land)) == 4
    with pytest.raises(PoolMissing):
        land.do(GONE)
    with pytest.raises(PoolMissing, match="is no more"):
        land.fleet.engine("cluster")


def test_pool_that_answers_or_was_silent_for_moments_only_is_not_given_up(land: Land) -> None:
    job = land.submit(gpus=1)
    land.rounds()
    with pytest.raises(PoolNotGone, match="it answers"):
        land.do(GONE)
    lose(land, silent_s=30)
    with pytest.raises(PoolBusy) as refusal:
        land.do(RemovePool(name="cluster"))
    assert "skyloom pool remove cluster --gone" in refusal.value.next_action
    with pytest.raises(PoolNotGone, match=r"silent for .* s only") as hasty:
        land.do(GONE)
    assert "again in" in hasty.value.next_action
    land.start()  # nothing is known yet of pools after a restart
    with pytest.raises(PoolNotGone, match="silent for 0 s only"):
        land.do(GONE)
    with pytest.raises(PoolReserved):
        land.do(RemovePool(name="local", gone=True))
    cluster_of(land).down = False
    land.rounds()
    land.clock.advance(100)
    with pytest.raises(PoolNotGone, match="it answers"):
        land.do(GONE)
    assert land.of(job).state is JobState.RUNNING


def test_pool_that_was_added_anew_is_not_gone_because_an_earlier_one_of_its_name_was(land: Land) -> None:
    lose(land)
    land.do(GONE)
    cluster_of(land).down = False
    land.add("cluster")
    cluster_of(land).down = True
    land.fleet.suspect("cluster", PoolDown("Away.", next_action=""))
    with pytest.raises(PoolNotGone):
        land.do(GONE)
    assert land.do(GetPool(name="cluster")).heard_at == land.clock.now()


def test_tokens_of_what_was_given_up_are_good_no_more(land: Land) -> None:
    once, again = land.submit(gpus=1), land.submit(gpus=1, max_retries=1)
    land.rounds()
    assert land.jobs.project_of_live_task(f"{again}.1.0") == "p"
    lose(land)
    land.do(GONE)
    assert [land.jobs.project_of_live_task(f"{job}.1.0") for job in (once, again)] == [None, None]
    assert land.jobs.project_of_live_task(f"{again}.2.0") == "p"
    assert not land.store.read(lambda view: view.select(HEARD))


def test_what_still_runs_there_is_ended_when_the_pool_is_added_again_by_its_name(land: Land) -> None:
    again, other = land.submit(gpus=1, max_retries=1), land.submit(gpus=1)
    land.rounds()
    lose(land)
    land.do(GONE)
    land.rounds()
    cluster = cluster_of(land)
    assert cluster.stopped == []
    cluster.down = False
    land.add("cluster")
    land.rounds()
    assert sorted(cluster.stopped) == sorted([(f"{again}.1.0", True), (f"{other}.1.0", True)])
    assert (land.of(again).state, land.of(again).job.attempt) == (JobState.RUNNING, 2)
    assert (land.of(other).state, land.of(other).reason) == (JobState.FAILED, Reason.NODE_LOST)


def test_gang_that_was_told_to_stop_ends_as_it_was_told(land: Land) -> None:
    cancelled, preempted = land.submit(gpus=1), land.submit(gpus=1)
    land.rounds()
    lose(land)
    land.store.write(lambda tx: land.jobs.cancel(tx, CancelJob(job_id=cancelled), ANN))
    halt = Halt(reason=Reason.PREEMPTED, by="job_x", at=land.clock.now(), message="made room for job_x")
    writer = JobWriter(land.clock, land.outbox)
    land.store.write(lambda tx: writer.halt(tx, tx.get(JOBS, preempted), halt))  # type: ignore[arg-type]
    assert land.of(cancelled).state is JobState.STOPPING
    removed = land.do(GONE)
    assert (removed.num_lost, removed.num_again) == (2, 1)
    assert land.of(cancelled).state is JobState.CANCELLED
    back = land.of(preempted)
    assert (back.state, back.job.attempt, back.job.comebacks) == (JobState.QUEUED, 2, 1)


def test_moment_that_a_pool_was_heard_of_last_outlives_the_control_plane(land: Land) -> None:
    job = land.submit(gpus=1)
    land.rounds()
    heard_at = lose(land)
    land.start()
    land.clock.advance(1_000)
    land.rounds()
    land.clock.advance(60)
    assert land.do(GetPool(name="cluster")).heard_at == heard_at
    assert land.do(GetPool(name="local")).heard_at is None
    land.do(GONE)
    assert land.of(job).ended_at == heard_at


def test_control_plane_that_dies_with_a_pool_knows_to_the_minute_when_it_was_heard_of(land: Land) -> None:
    land.submit(gpus=1)
    for _ in range(13):
        land.rounds(1)
        land.clock.advance(9)
    died_at = land.clock.now()
    cluster_of(land).down = True
    land.start()
    land.pools.tick()
    heard_at = land.do(GetPool(name="cluster")).heard_at
    assert died_at - 70 < heard_at < died_at
    writes = land.store.read(lambda view: view.get(HEARD, "cluster"))
    assert writes is not None and writes.version <= 3


def test_pool_is_given_up_wholly_or_not_at_all(land: Land, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [land.submit(gpus=1, max_retries=1) for _ in range(3)]
    land.rounds()
    lose(land)
    settle, count = JobWriter.settle, [0]

    def die(self: JobWriter, *words: Any) -> None:
        count[0] += 1
        if count[0] == 3:
            raise RuntimeError("the power is cut")
        settle(self, *words)

    monkeypatch.setattr(JobWriter, "settle", die)
    with pytest.raises(RuntimeError):
        land.do(GONE)
    monkeypatch.undo()
    assert {land.of(job).state for job in jobs} == {JobState.RUNNING} and not ends(land)
    assert land.store.read(lambda view: view.get(POOLS, "cluster")) is not None
    assert land.do(GONE, OWNER).num_lost == 3
    land.loop.tick()  # before anybody has looked at the pools again
    assert {land.of(job).job.attempt for job in jobs} == {2} and len(ends(land)) == 3
