"""Several pools at once: added, down and up again, placed on by policy, removed. Engines in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from skyloom.core.errors import AlreadyExists, InvalidInput, Unavailable
from skyloom.ports.engine import Machine, NoRoomNow
from skyloom.rooms.cost.model import SetPrices
from skyloom.rooms.jobs.model import CancelJob, ImpossibleRequest, JobState
from skyloom.rooms.pools.model import (
    AddPool,
    GetPool,
    ListPools,
    NotAPoolAddress,
    PoolBusy,
    PoolDown,
    PoolMissing,
    PoolReserved,
    RemovePool,
)
from skyloom.rooms.pools.model import PoolState as State
from skyloom.rooms.pools.ports import POOLS
from tests.rooms.pools.land import OWNER, TOKEN, Land
from tests.rooms.workshop import ANN


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
