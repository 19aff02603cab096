"""A pool that takes long to be handed a gang holds up no other, and nothing is concluded about the gang meanwhile. Engines in memory."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from skyloom.core.errors import SkyloomError, Unavailable
from skyloom.ports.engine import GangPlan, NoRoomNow, Observation
from skyloom.rooms.jobs.hands import PoolHands
from skyloom.rooms.jobs.model import CancelJob, JobState
from skyloom.rooms.pools.model import RemovePool
from tests.rooms.pools.land import Cluster, Land
from tests.rooms.workshop import ANN

_LONGEST_S = 20.0


class Slow(Cluster):
    """A pool that starts a gang when it is let, and says when it was asked to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked = threading.Semaphore(0)
        self.free = threading.Event()
        self.order: list[str] = []
        self.told_to_stop: list[str] = []
        self.looked = threading.Semaphore(0)
        self.sees = threading.Event()
        self.sees.set()
        self.breaks: SkyloomError | None = None

    def stop(self, task_ids: Sequence[str], *, force: bool = False) -> None:
        self.told_to_stop.extend(task_ids)
        super().stop(task_ids, force=force)

    def observe(self, task_ids: Sequence[str]) -> dict[str, Observation]:
        seen = super().observe(task_ids)
        if not self.sees.is_set():
            self.looked.release()
            assert self.sees.wait(_LONGEST_S)
        return seen

    def launch(self, gang: GangPlan) -> None:
        self.order.append(gang.gang_id)
        self.asked.release()
        assert self.free.wait(_LONGEST_S)
        if self.breaks is not None:
            raise self.breaks
        super().launch(gang)


class Eyes(PoolHands):
    """Hands that keep count of what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: Counter[str] = Counter()

    def give(self, pool: str, work: Callable[[], None]) -> None:
        self.given[pool] += 1
        super().give(pool, work)


class Country(Land):
    """A slow pool "far", a quick one "near", and this machine."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.far = self.clusters["ray://a:10001"] = Slow(now=self.clock.now)
        self.near = self.clusters["ray://b:10001"]
        self.come = threading.Semaphore(0)
        self.begin()
        self.add("far", "a")
        self.add("near", "b")
        self.rounds(1)

    def begin(self) -> None:
        self.hands, self.eyes = PoolHands(), Eyes()
        self.start()
        self.launches.done = self.come.release

    def told(self) -> None:
        """Far was asked to start something."""
        assert self.far.asked.acquire(timeout=_LONGEST_S)

    def came(self, count: int = 1) -> None:
        """So many launches are over."""
        for _ in range(count):
            assert self.come.acquire(timeout=_LONGEST_S)

    def cancel(self, job_id: str) -> None:
        self.store.write(lambda tx: self.jobs.cancel(tx, CancelJob(job_id=job_id), ANN))

    def until(self, condition: Callable[[], bool]) -> None:
        """Go on, whenever a launch is over, until something is true."""
        deadline = time.monotonic() + _LONGEST_S
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            self.rounds(1)
            self.come.acquire(timeout=0.01)


@pytest.fixture
def country(tmp_path: Path) -> Iterator[Country]:
    country = Country(tmp_path / "pools")
    yield country
    country.far.free.set()
    country.far.sees.set()
    country.hands.close()
    country.eyes.close()


def test_launch_that_takes_long_holds_up_no_other_pool(country: Country) -> None:
    there = country.submit(pools=("far",))
    country.rounds(1)
    country.told()
    here, near = country.submit(pools=("local",)), country.submit(pools=("near",))
    country.rounds(1)
    country.came()
    country.rounds(4)
    assert {country.of(job).state for job in (here, near)} == {JobState.RUNNING}
    country.near.finish(f"{near}.1.0")
    country.rounds(2)
    assert country.of(near).state is JobState.SUCCEEDED
    assert country.of(there).state is JobState.STARTING and country.far.order == [f"{there}.1"]
    country.far.free.set()
    country.came()
    country.rounds(2)
    assert country.of(there).state is JobState.RUNNING
    assert [plan.task_id for plan in country.far.launched] == [f"{there}.1.0"]


def test_job_that_is_cancelled_while_it_is_sent_is_stopped_once_it_is_there(country: Country) -> None:
    job = country.submit(pools=("far",), num_workers=2)
    country.rounds(1)
    country.told()
    country.cancel(job)
    country.rounds(3)
    assert country.of(job).state is JobState.STOPPING  # it may start yet: nobody may say that it was never there
    assert country.far.told_to_stop == []
    country.far.free.set()
    country.came()
    country.until(lambda: country.of(job).state is JobState.CANCELLED)
    assert sorted({task_id for task_id, _ in country.far.stopped}) == [f"{job}.1.0", f"{job}.1.1"]


def test_gangs_of_one_pool_are_sent_in_their_turn_and_not_at_all_when_they_are_wanted_no_more(country: Country) -> None:
    first, second, third = (country.submit(pools=("far",)) for _ in range(3))
    country.rounds(1)
    country.told()
    country.cancel(second)
    country.rounds(2)
    assert country.of(second).state is JobState.STOPPING
    country.far.free.set()
    country.came(3)
    country.rounds(3)
    assert country.far.order == [f"{first}.1", f"{third}.1"]
    assert [country.of(job).state for job in (first, second, third)] == [
        JobState.RUNNING,
        JobState.CANCELLED,
        JobState.RUNNING,
    ]


def test_pool_that_breaks_while_a_gang_is_sent_is_down_and_the_gang_is_sent_again(country: Country) -> None:
    job = country.submit(pools=("far",))
    country.rounds(1)
    country.told()
    country.far.breaks, country.far.down = Unavailable("The line is cut.", next_action="Wait."), True
    country.far.free.set()
    country.came()
    country.loop.tick()
    assert country.fleet.links()["far"].trouble is country.far.breaks
    assert country.of(job).state is JobState.STARTING and "The line is cut" in country.of(job).message
    country.far.breaks, country.far.down = None, False
    country.until(lambda: country.of(job).state is JobState.RUNNING)
    assert country.fleet.links()["far"].is_up and country.far.order == [f"{job}.1"] * 2


def test_control_plane_that_is_started_anew_while_a_gang_is_sent_starts_it_once(country: Country) -> None:
    job = country.submit(pools=("far",))
    country.rounds(1)
    country.told()
    country.begin()
    country.rounds(3)
    country.told()
    country.far.free.set()
    country.until(lambda: country.of(job).state is JobState.RUNNING)
    assert len(country.far.launched) == 1


def test_nothing_more_is_begun_when_the_control_plane_ends(country: Country) -> None:
    jobs = [country.submit(pools=("far",)) for _ in range(2)]
    country.rounds(1)
    country.told()
    ending = threading.Thread(target=country.launches.close)
    ending.start()
    country.far.free.set()
    ending.join(_LONGEST_S)
    assert not ending.is_alive() and len(country.far.order) <= 2
    country.begin()
    country.until(lambda: {country.of(job).state for job in jobs} == {JobState.RUNNING})
    assert len(country.far.launched) == 2


def test_thing_that_is_wrong_with_a_gang_is_found_in_its_turn_and_ends_it(country: Country) -> None:
    job = country.submit(pools=("far",))
    country.far.free.set()
    country.far.breaks = SkyloomError("It has no name.", next_action="Give it one.")
    country.until(lambda: country.of(job).state is JobState.FAILED)
    assert "It has no name" in country.of(job).message and country.fleet.links()["far"].trouble is None


def test_pool_that_is_given_up_while_a_gang_is_sent_leaves_it_to_the_next(country: Country) -> None:
    country.near.down = True
    country.rounds(1)
    job = country.submit(gpus=1, max_retries=1)
    country.rounds(1)
    country.told()
    country.far.down, country.near.down = True, False
    country.rounds(2)
    country.clock.advance(60)
    assert country.do(RemovePool(name="far", gone=True)).num_again == 1
    country.until(lambda: country.of(job).state is JobState.RUNNING)
    country.far.free.set()
    country.hands.close()
    country.rounds(2)
    assert (country.of(job).state, country.of(job).job.attempt, country.where(job)[0][:4]) == (
        JobState.RUNNING,
        2,
        "near",
    )


def test_pool_that_is_slow_to_answer_holds_up_no_other_and_is_heard_when_it_does(country: Country) -> None:
    country.far.free.set()
    there = country.submit(pools=("far",))
    country.until(lambda: country.of(there).state is JobState.RUNNING)
    country.far.finish(f"{there}.1.0")
    country.far.sees.clear()
    country.loop.tick()
    assert country.far.looked.acquire(timeout=_LONGEST_S)
    asked = country.eyes.given["far"]
    here, near = country.submit(pools=("local",)), country.submit(pools=("near",))
    country.until(lambda: {country.of(job).state for job in (here, near)} == {JobState.RUNNING})
    country.cancel(here)
    country.until(lambda: country.of(here).state is JobState.CANCELLED)
    assert country.of(there).state is JobState.RUNNING
    assert country.eyes.given["far"] == asked  # it is asked one thing at a time
    country.far.sees.set()
    country.until(lambda: country.of(there).state is JobState.SUCCEEDED)


def test_gang_that_was_found_absent_late_is_sent_again_once(country: Country) -> None:
    country.far.free.set()
    country.far.breaks = NoRoomNow("Somebody else uses it.", next_action="Wait.")
    job = country.submit(pools=("far",))
    country.rounds(1)
    country.came()
    country.far.sees.clear()
    country.loop.tick()
    assert country.far.looked.acquire(timeout=_LONGEST_S)
    country.far.breaks = None
    country.rounds(3)
    assert country.far.order == [f"{job}.1"] and country.of(job).state is JobState.STARTING
    country.far.sees.set()
    country.until(lambda: country.of(job).state is JobState.RUNNING)
    assert country.far.order == [f"{job}.1"] * 2 and len(country.far.launched) == 1


def test_pool_that_falls_silent_while_it_is_looked_at_is_down_and_keeps_its_tasks(country: Country) -> None:
    country.far.free.set()
    there = country.submit(pools=("far",))
    country.until(lambda: country.of(there).state is JobState.RUNNING)
    country.far.sees.clear()
    country.loop.tick()
    assert country.far.looked.acquire(timeout=_LONGEST_S)
    country.far.down = True
    country.far.sees.set()
    country.until(lambda: not country.fleet.is_up("far"))
    assert country.of(there).state is JobState.RUNNING
    country.far.down = False
    country.far.finish(f"{there}.1.0")
    country.until(lambda: country.of(there).state is JobState.SUCCEEDED)
