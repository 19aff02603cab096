"""Who waits for which pool to grow: bounded, in the order of the queue, and never for what nobody may have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.core.resources import Resources
from skyloom.ports.store import changed
from skyloom.rooms.jobs import growth
from skyloom.rooms.jobs.mirror import LiveGang
from skyloom.rooms.jobs.model import TaskState
from skyloom.rooms.pools.model import GrowthGroup, Pool
from skyloom.rooms.scheduling.model import Allotment, Cause, Quota, Renting, Rulebook, Wait
from tests.rooms.jobs.gangs import a_job, a_task

EIGHT = Resources(cpus=8, memory_bytes=2**35)
POOL = Pool(
    id="cloud", project="*", address="ray://c:1", shared_folder="/nfs", labels={"zone": "eu"}, added_at=0, added_by="o",
    grows=(GrowthGroup(resources=EIGHT, most=2),),
)  # fmt: skip


def gang(name: str, state: TaskState = TaskState.QUEUED, cpus: float = 4, workers: int = 1, **spec: object) -> LiveGang:
    resources = Resources(cpus=cpus, memory_bytes=2**20)
    job = changed(a_job(workers, resources=resources, **spec), {"id": name})
    return LiveGang(job, tuple(a_task(rank, state) for rank in range(workers)))


def asked(
    *gangs: LiveGang, pool: Pool = POOL, why: Cause = Cause.RESOURCES, rulebook: Rulebook | None = None
) -> list[str]:
    live = {each.job.id: each for each in gangs}
    waits = [Wait(gang=name, place=1, why=why, message="waits") for name, each in live.items() if each.waits]
    told = growth.wishes(waits, live, [pool], rulebook or Rulebook())
    assert {wait.gang for wait in growth.said(waits, told) if "cloud was asked to grow" in wait.message} == {
        wish.gang for wish in told.get("cloud", ())
    }
    return [wish.gang for wish in told.get("cloud", ())]


@pytest.mark.parametrize(
    ("options", "is_asked"),
    [
        ({}, True),
        ({"pools": ("cloud",)}, True),
        ({"pools": ("local",)}, False),
        ({"requires": {"zone": "eu", "pool": "cloud"}}, True),
        ({"requires": {"zone": "us"}}, False),
        ({"cpus": 8, "workers": 2}, True),
        ({"cpus": 8, "workers": 3}, False),
        ({"cpus": 9}, False),
    ],
)
def test_pool_is_asked_only_for_what_it_may_become(options: dict[str, object], is_asked: bool) -> None:
    for why in (Cause.RESOURCES, Cause.TURN, Cause.IMPOSSIBLE):
        assert asked(gang("a", **options), why=why) == ["a"] * is_asked  # type: ignore[arg-type]


def test_gang_of_machines_that_share_nothing_waits_for_one_that_holds_all_of_it() -> None:
    apart = changed(POOL, {"shared_folder": ""})
    assert asked(gang("a", workers=2), pool=apart) == ["a"]
    assert asked(gang("a", workers=3), pool=apart) == []


def test_project_at_its_ceiling_makes_no_pool_grow() -> None:
    rulebook = Rulebook(quotas={"p": Quota(ceiling=Allotment(cpus=10))})
    running = gang("r", TaskState.RUNNING)
    assert asked(running, gang("a"), gang("b"), rulebook=rulebook) == ["a"]
    assert asked(gang("a"), why=Cause.QUOTA) == []


def test_rented_for_deadlines_means_that_others_make_nothing_grow() -> None:
    rulebook = Rulebook(renting=Renting.FOR_DEADLINES)
    waiting = gang("a"), gang("b", pools=("cloud",)), gang("c", deadline_at=9e9)
    assert asked(*waiting, rulebook=rulebook) == ["b", "c"]


@given(st.lists(st.integers(1, 16), max_size=80))
def test_what_a_pool_is_told_is_bounded_and_keeps_the_order(sizes: list[int]) -> None:
    large = changed(POOL, {"grows": (GrowthGroup(resources=EIGHT, most=10_000),)})
    gangs = [gang(f"j{n}", workers=size) for n, size in enumerate(sizes)]
    told = asked(*gangs, pool=large)
    assert len(told) == min(len(gangs), 50)
    assert told == [each.job.id for each in gangs][: len(told)]
    assert growth.without({"cloud": ()}, told) == {"cloud": []}
