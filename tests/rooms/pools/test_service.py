"""Several pools at once: added, down and up again, placed on by policy, removed. Engines in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from skyloom.core.errors import AlreadyExists, InvalidInput, Unavailable
from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller
from skyloom.core.resources import Resources
from skyloom.engines.memory import MemoryEngine
from skyloom.ports.door import Change, Outbox
from skyloom.ports.engine import Command, GangPlan, Machine, NoRoomNow, Observation
from skyloom.rooms.cost.model import SetPrices
from skyloom.rooms.cost.pricing import Prices
from skyloom.rooms.jobs.model import CancelJob, ImpossibleRequest, JobSpec, JobState, JobStatus, SubmitJob
from skyloom.rooms.jobs.reading import occupancy
from skyloom.rooms.pools.fleet import Fleet
from skyloom.rooms.pools.model import (
    AddPool,
    GetPool,
    GrowthGroup,
    ListPools,
    NotAPoolAddress,
    Pool,
    PoolBusy,
    PoolDown,
    PoolMissing,
    PoolReserved,
    RemovePool,
)
from skyloom.rooms.pools.model import PoolState as State
from skyloom.rooms.pools.ports import POOLS, pool_names, stored_in
from skyloom.rooms.pools.service import Pools
from skyloom.stores.pool_tokens import LocalPoolTokens
from tests.rooms.job_rooms import job_rooms
from tests.rooms.workshop import ANN, Workshop

OWNER = Caller(principal="owner", project="", scope="*", rights=frozenset())
TOKEN = "the-token-of-the-cluster"


class Cluster(MemoryEngine):
    """A pool of two machines that can be down."""

    def __init__(self, **options: Any) -> None:
        super().__init__(Resources(cpus=16, gpus=4, memory_bytes=2**36), **options)
        self.down = False
        self.closed = False

    def _reach(self) -> None:
        if self.down:
            raise Unavailable("Nobody answers.", next_action="Start it.")

    def machines(self) -> Sequence[Machine]:
        self._reach()
        half = Resources(cpus=8, gpus=2, memory_bytes=2**35)
        return (Machine(name="one", total=half), Machine(name="two", total=half, labels={"disk": "fast"}))

    def launch(self, gang: GangPlan) -> None:
        self._reach()
        super().launch(gang)

    def observe(self, task_ids: Sequence[str]) -> dict[str, Observation]:
        self._reach()
        return dict(super().observe(task_ids))

    def stop(self, task_ids: Sequence[str], *, force: bool = False) -> None:
        self._reach()
        super().stop(task_ids, force=force)

    def close(self) -> None:
        self.closed = True


class Land(Workshop):
    """A workshop whose jobs may also run on clusters, by address."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.clusters = {f"ray://{name}:10001": Cluster(now=self.clock.now) for name in "abc"}
        self.start()

    def start(self) -> None:
        """A new control plane over what is stored."""
        self.tokens = LocalPoolTokens(self.folder)
        self.fleet = Fleet(self.engine, self.reach, self.tokens, stored_in(self.store))
        self.pools = Pools(self.store, self.clock, self.fleet, self.tokens, occupancy)
        self.prices = Prices(self.store, self.clock, CountingIds())
        self.prices.pools = pool_names
        outbox = Outbox(self.clock)
        self.jobs, self.loop = job_rooms(
            self.store, self.clock, self.ids, outbox, self.engine, self.blobs, self.plans, self.fleet
        )

    def reach(self, pool: Pool, token_file: Path, *, check: bool) -> Cluster:
        if pool.address not in self.clusters:
            raise Unavailable(f"Nobody answers at {pool.address}.", next_action="Check the address.")
        if token_file.read_text() != TOKEN:
            raise Unavailable(f"{pool.address} wants another token.", next_action="Give that.")
        return self.clusters[pool.address]

    def do(self, ask: Any, by: Caller = OWNER) -> Any:
        handler = self.pools.handlers()[type(ask)]
        if not isinstance(handler, Change):
            return handler.run(ask, by)
        if handler.before:
            handler.before(ask, by)
        return self.store.write(lambda tx: handler.run(tx, ask, by))

    def add(self, name: str, host: str = "a", **options: Any) -> Any:
        fields = {"address": f"ray://{host}:10001", "token": TOKEN, "shared_folder": "/nfs", **options}
        return self.do(AddPool(name=name, **fields))

    def submit(self, cpus: float = 1, gpus: int = 0, memory_bytes: int = 2**20, **options: Any) -> str:
        resources = Resources(cpus=cpus, gpus=gpus, memory_bytes=memory_bytes)
        ask = SubmitJob(spec=JobSpec(entry=Command(argv=("true",)), resources=resources, **options))
        self.jobs.check(ask, ANN)
        return self.store.write(lambda tx: self.jobs.submit(tx, ask, ANN)).job.id

    def rounds(self, count: int = 3) -> None:
        for _ in range(count):
            self.pools.tick()
            self.loop.tick()
            self.clock.advance(1)

    def of(self, job_id: str) -> JobStatus:
        return self.store.read(lambda view: self.jobs.status(view, job_id, "p"))

    def where(self, job_id: str) -> list[str]:
        return [f"{task.pool}/{task.machine}" for task in self.of(job_id).tasks]


@pytest.fixture
def land(tmp_path: Path) -> Land:
    return Land(tmp_path / "pools")


def test_jobs_run_on_the_pool_that_has_what_they_need(land: Land) -> None:
    added = land.add("cluster", labels={"zone": "eu"})
    assert (added.state, len(added.machines), added.total.gpus) == (State.UP, 2, 4)
    gpu, here, fast = land.submit(gpus=1), land.submit(pools=("local",)), land.submit(requires={"disk": "fast"})
    zone = land.submit(requires={"zone": "eu"})
    land.rounds()
    assert land.where(here) == ["local/memory"]
    assert land.where(fast) == ["cluster/two"]
    assert land.where(gpu)[0].startswith("cluster/") and land.where(zone)[0].startswith("cluster/")
    assert {land.of(job).state for job in (gpu, here, fast, zone)} == {JobState.RUNNING}
    plans = {plan.task_id: plan for plan in land.clusters["ray://a:10001"].launched}
    assert plans[f"{fast}.1.0"].machine == "two"
    shown = land.do(GetPool(name="cluster"))
    assert shown.num_tasks == 3 and shown.used.gpus == 1
    assert [item.pool.name for item in land.do(ListPools()).items] == ["local", "cluster"]
    for job in (gpu, fast, zone):
        land.clusters["ray://a:10001"].finish(f"{job}.1.0", output=b"hello")
    land.rounds()
    assert {land.of(job).state for job in (gpu, fast, zone)} == {JobState.SUCCEEDED}


def test_gang_never_spans_pools_nor_machines_that_share_no_folder(land: Land) -> None:
    land.add("shared")
    land.add("apart", "b", shared_folder="")
    wide = land.submit(cpus=6, num_workers=2)
    land.rounds()
    assert sorted(land.where(wide)) == ["shared/one", "shared/two"]
    with pytest.raises(ImpossibleRequest, match="at most 1 fit"):
        land.submit(cpus=6, num_workers=2, pools=("apart",))
    narrow = land.submit(cpus=4, num_workers=2, pools=("apart",))
    land.rounds()
    assert len(set(land.where(narrow))) == 1


def test_cheap_machines_of_ones_own_are_filled_before_rented_ones(land: Land) -> None:
    land.add("rented")
    prices = SetPrices(pool="rented", cpu_usd_per_hour=1.0)
    land.store.write(lambda tx: land.prices.set(tx, prices, OWNER))
    jobs = [land.submit(cpus=2) for _ in range(4)]
    land.rounds()
    places = [land.where(job)[0].split("/")[0] for job in jobs]
    assert sorted(places) == ["local", "local", "rented", "rented"]


def test_pool_that_is_down_keeps_its_jobs_and_stops_nobody_else(land: Land) -> None:
    land.add("cluster")
    cluster = land.clusters["ray://a:10001"]
    there = land.submit(gpus=1)
    land.rounds()
    cluster.down = True
    here = land.submit(pools=("local",))
    land.rounds()
    shown = land.do(GetPool(name="cluster"))
    assert (shown.state, shown.message, len(shown.machines)) == (State.DOWN, "Nobody answers.", 2)
    assert (land.of(there).state, land.of(here).state) == (JobState.RUNNING, JobState.RUNNING)
    waits = land.submit(gpus=1)  # taken in by what was last seen of the pool
    land.rounds()
    assert land.of(waits).state is JobState.QUEUED and land.of(waits).message
    cluster.finish(f"{there}.1.0")
    land.rounds()
    assert land.of(there).state is JobState.RUNNING
    cluster.down = False
    land.rounds(4)
    assert land.do(GetPool(name="cluster")).state is State.UP
    assert (land.of(there).state, land.of(waits).state) == (JobState.SUCCEEDED, JobState.RUNNING)


def test_gang_that_has_to_wait_for_room_does_not_make_its_pool_count_as_down(land: Land) -> None:
    land.add("cluster")
    land.pools.tick()
    land.clusters["ray://a:10001"].failing = NoRoomNow("Somebody else uses it.", next_action="Wait.")
    waits = land.submit(gpus=1)
    land.loop.tick()
    assert land.do(GetPool(name="cluster")).state is State.UP
    for _ in range(2):
        land.loop.tick()
    assert land.of(waits).state is JobState.RUNNING


def test_job_cancelled_while_its_pool_is_down_ends_when_the_pool_is_back(land: Land) -> None:
    land.add("cluster")
    cluster = land.clusters["ray://a:10001"]
    there = land.submit(gpus=1)
    land.rounds()
    cluster.down = True
    land.store.write(lambda tx: land.jobs.cancel(tx, CancelJob(job_id=there), ANN))
    land.rounds()
    assert land.of(there).state is JobState.STOPPING
    cluster.down = False
    land.rounds(4)
    assert land.of(there).state is JobState.CANCELLED


def test_restart_with_a_pool_that_is_down_finds_its_jobs_again(land: Land) -> None:
    land.add("cluster")
    cluster = land.clusters["ray://a:10001"]
    there = land.submit(gpus=1)
    land.rounds()
    cluster.down = True
    land.start()
    land.rounds()
    assert land.of(there).state is JobState.RUNNING
    assert land.do(GetPool(name="cluster")).state is State.DOWN
    cluster.down = False
    land.rounds()
    cluster.finish(f"{there}.1.0")
    land.rounds()
    assert land.of(there).state is JobState.SUCCEEDED
    assert len(cluster.launched) == 1


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"name": "x", "host": "nowhere"}, Unavailable, "Nobody answers at ray://nowhere"),
        ({"name": "x", "token": "another"}, Unavailable, "wants another token"),
        ({"name": "local"}, PoolReserved, "this machine itself"),
    ],
)
def test_pool_that_cannot_be_reached_is_refused_and_leaves_nothing(
    land: Land, options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        land.add(**options)
    assert [item.pool.name for item in land.do(ListPools()).items] == ["local"]
    assert list(land.folder.iterdir()) == []


def test_job_for_a_pool_that_was_not_seen_since_the_start_is_to_come_again(land: Land) -> None:
    land.add("cluster")
    land.clusters["ray://a:10001"].down = True
    land.start()
    land.pools.tick()
    with pytest.raises(PoolDown, match="not reached yet"):
        land.submit(gpus=1)
    assert land.submit(cpus=1)
    land.clusters["ray://a:10001"].down = False
    land.pools.tick()
    assert land.submit(gpus=1)


def test_second_pool_of_a_name_is_refused_and_the_first_keeps_its_token(land: Land) -> None:
    land.add("cluster")
    with pytest.raises(AlreadyExists):
        land.add("cluster", "b")
    land.rounds()
    assert land.tokens.file("cluster").read_text() == TOKEN
    assert land.do(GetPool(name="cluster")).pool.address == "ray://a:10001"


def test_token_is_in_a_private_file_and_nowhere_else(land: Land) -> None:
    added = land.add("cluster")
    assert land.tokens.file("cluster").stat().st_mode & 0o777 == 0o600
    assert TOKEN not in repr(added) + repr(land.do(ListPools()))
    assert TOKEN not in repr(land.store.read(lambda view: view.select(POOLS)))


def test_pool_is_removed_only_when_nothing_runs_there(land: Land) -> None:
    land.add("cluster")
    cluster = land.clusters["ray://a:10001"]
    job = land.submit(gpus=1)
    land.rounds()
    with pytest.raises(PoolBusy, match="1 task runs"):
        land.do(RemovePool(name="cluster"))
    cluster.finish(f"{job}.1.0")
    land.rounds()
    land.do(RemovePool(name="cluster"))
    land.rounds()
    assert cluster.closed and not land.tokens.file("cluster").exists()
    with pytest.raises(PoolMissing):
        land.do(GetPool(name="cluster"))
    with pytest.raises(PoolMissing):
        land.do(RemovePool(name="cluster"))
    with pytest.raises(PoolReserved):
        land.do(RemovePool(name="local"))
    with pytest.raises(InvalidInput):
        land.submit(gpus=1)


def test_token_of_a_removed_pool_goes_last(land: Land, monkeypatch: pytest.MonkeyPatch) -> None:
    land.add("cluster")
    land.pools.tick()
    land.do(RemovePool(name="cluster"))
    drop, places = land.tokens.drop, []

    def dropped(pool: str) -> None:
        places.append({machine.name.pool for machine in land.fleet.grounds(down=True)})
        drop(pool)

    monkeypatch.setattr(land.tokens, "drop", dropped)
    land.pools.tick()
    assert places == [{"local"}]
    assert not land.tokens.file("cluster").exists()


def test_nothing_starts_on_a_pool_that_was_removed_a_moment_ago(land: Land) -> None:
    land.add("a")
    land.pools.tick()
    waiting = land.submit(gpus=2, pools=("a",))
    land.do(RemovePool(name="a"))
    land.loop.tick()  # before anybody looked at the pools again
    assert land.of(waiting).state is JobState.QUEUED
    land.pools.tick()
    land.loop.tick()
    land.store.write(lambda tx: land.jobs.cancel(tx, CancelJob(job_id=waiting), ANN))
    land.loop.tick()
    assert land.of(waiting).state is JobState.CANCELLED


def test_pool_that_is_added_anew_while_the_old_one_is_asked_stays(land: Land, monkeypatch: pytest.MonkeyPatch) -> None:
    land.add("cluster")
    land.pools.tick()
    old, new = land.clusters["ray://a:10001"], land.clusters["ray://b:10001"]

    def slowly() -> Sequence[Machine]:
        monkeypatch.undo()
        land.do(RemovePool(name="cluster"))
        land.clock.advance(1)
        land.add("cluster", "b")
        land.do(ListPools())
        raise Unavailable("Nobody answers.", next_action="Start it.")

    monkeypatch.setattr(old, "machines", slowly)
    land.rounds(2)
    shown = land.do(GetPool(name="cluster"))
    assert (shown.state, shown.pool.address) == (State.UP, "ray://b:10001")
    assert old.closed and not new.closed
    assert land.fleet.engine("cluster") is new


def test_pool_that_is_added_again_at_once_keeps_its_token(land: Land, monkeypatch: pytest.MonkeyPatch) -> None:
    land.add("cluster")
    land.pools.tick()
    land.do(RemovePool(name="cluster"))
    cluster = land.clusters["ray://a:10001"]

    def meanwhile() -> Sequence[Machine]:
        monkeypatch.undo()
        land.pools.tick()
        return cluster.machines()

    monkeypatch.setattr(cluster, "machines", meanwhile)
    land.add("cluster")
    land.rounds()
    assert land.tokens.file("cluster").read_text() == TOKEN
    assert land.do(GetPool(name="cluster")).state is State.UP


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9", "ray://a", "ray://a:0", "ray://a:65536", "http://a:1", "ray://a:1\n", "ray://a:1/x"]
)
def test_address_that_is_none_is_refused_with_an_example(land: Land, address: str) -> None:
    with pytest.raises(NotAPoolAddress) as refusal:
        land.do(AddPool(name="cluster", address=address, token=TOKEN))
    assert repr(address) in refusal.value.message and "ray://10.0.0.5:10001" in refusal.value.next_action


def test_two_that_add_a_pool_at_once_leave_one_engine(land: Land) -> None:
    first, second = (AddPool(name="cluster", address=f"ray://{host}:10001", token=TOKEN) for host in "ab")
    land.pools.reach(first, OWNER)
    land.pools.reach(second, OWNER)
    assert land.clusters["ray://a:10001"].closed
    with pytest.raises(PoolDown, match="was not reached"):
        land.store.write(lambda tx: land.pools.add(tx, first, OWNER))
    land.store.write(lambda tx: land.pools.add(tx, second, OWNER))
    with pytest.raises(AlreadyExists):
        land.store.write(lambda tx: land.pools.add(tx, first, OWNER))
    land.rounds()
    assert not land.clusters["ray://b:10001"].closed


class Growing(Cluster):
    """A pool with machines of 8 cores, none at first."""

    count = 0

    def machines(self) -> Sequence[Machine]:
        self._reach()
        each = Resources(cpus=8, gpus=2, memory_bytes=2**35)
        return tuple(Machine(name=f"m{n}", total=each) for n in range(self.count))


EIGHT = GrowthGroup(resources=Resources(cpus=8, gpus=2, memory_bytes=2**35), most=2)


def growing(land: Land, **options: Any) -> Growing:
    land.clusters["ray://g:10001"] = cluster = Growing(now=land.clock.now)
    land.add("cluster", "g", grows=(EIGHT,), **options)
    return cluster


def test_pool_that_grows_is_told_what_waits_and_told_again_when_nothing_does(land: Land) -> None:
    cluster = growing(land)
    job = land.submit(cpus=6, gpus=1, num_workers=2)
    land.rounds()
    assert [(wish.gang, wish.resources.gpus, wish.num_workers, wish.together) for wish in cluster.wished] == [
        (job, 1, 2, False)
    ]
    assert "pool cluster was asked to grow" in land.of(job).message and "cannot" not in land.of(job).message
    cluster.count = 2
    land.rounds()
    assert land.where(job) == ["cluster/m0", "cluster/m1"]
    assert cluster.wished == ()


def test_pool_that_grows_takes_what_it_may_become_and_refuses_what_it_may_not(land: Land) -> None:
    growing(land, shared_folder="")
    assert land.submit(cpus=4, gpus=1, num_workers=2, pools=("cluster",))
    with pytest.raises(ImpossibleRequest, match="at most 1 fit"):
        land.submit(cpus=6, gpus=1, num_workers=2)
    with pytest.raises(ImpossibleRequest, match="needs 9 CPUs, 8 on the largest machine"):
        land.submit(cpus=9, gpus=1)
    with pytest.raises(ImpossibleRequest, match="No machine has the labels zone=eu"):
        land.submit(requires={"zone": "eu"})


def test_pool_that_cannot_be_told_what_waits_stays_up(land: Land, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = growing(land)

    def refuse(wishes: Any) -> None:
        raise Unavailable("Not now.", next_action="Wait.")

    monkeypatch.setattr(cluster, "wants", refuse)
    land.submit(gpus=1)
    land.rounds()
    assert land.do(GetPool(name="cluster")).state is State.UP
