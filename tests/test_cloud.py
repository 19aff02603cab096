"""The loops of a cloud."""

import logging
import threading

import pytest

from skyloom.cloud import Cloud, KeyReused, Loop, NotReady
from skyloom.core.errors import LimitExceeded, StorageFull
from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller, Done, Right
from skyloom.ports.clock import MemoryClock
from skyloom.ports.door import Change
from skyloom.ports.store import Collection, Log, Record, Transaction
from skyloom.rooms.schedules.model import DeleteSchedule
from skyloom.rooms.tenancy.service import Tenancy
from skyloom.stores.memory import MemoryStore


def test_loop_logs_a_lasting_trouble_once_and_its_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # import-linter, which other tests call, switches off every logger that it finds.
    monkeypatch.setattr(logging.getLogger("skyloom"), "disabled", False)
    done, ticks = threading.Event(), 0

    def tick() -> float:
        nonlocal ticks
        ticks += 1
        loop.wake()
        if ticks <= 3:
            raise StorageFull("The disk is full.", next_action="Free some space.")
        if ticks == 5:
            done.set()
        return 0.0

    loop = Loop("jobs", tick)
    with caplog.at_level(logging.INFO, logger="skyloom"):
        loop.start()
        assert done.wait(10)
        loop.close()
    assert caplog.messages == ["jobs: The disk is full. Free some space.", "jobs: goes on as before"]
    assert all(record.exc_info is None for record in caplog.records)


def test_check_tells_a_loop_that_does_not_run() -> None:
    tenancy = Tenancy(store := MemoryStore(), clock := MemoryClock(), CountingIds(), b"k" * 32)
    cloud = Cloud(store, clock, tenancy, {}, [Loop("jobs", lambda: 1.0)])
    with pytest.raises(NotReady, match="jobs"):
        cloud.check()
    cloud.start()
    cloud.check()
    cloud.close()
    with pytest.raises(NotReady):
        cloud.check()


def test_loop_wakes_for_what_it_watches_and_for_nothing_else() -> None:
    boxes, lines = Collection("boxes", Record), Log("lines", Record)
    ticked, ticks = threading.Semaphore(0), 0

    def tick() -> float:
        nonlocal ticks
        ticks += 1
        ticked.release()
        return 60.0

    loop = Loop("jobs", tick, (boxes, lines))
    loop.start()
    assert ticked.acquire(timeout=10)
    loop.notice({"others"})
    assert not ticked.acquire(timeout=0.2)
    for touched in ({"others", "boxes"}, {"lines"}):
        loop.notice(touched)
        assert ticked.acquire(timeout=10)
    loop.close()
    assert ticks == 3


def test_change_that_was_done_is_answered_again_even_if_it_could_not_be_done_now() -> None:
    doable, done = True, []

    def before(ask: DeleteSchedule, by: Caller) -> None:
        if not doable:
            raise LimitExceeded("It could not be done now.", next_action="Come back later.")

    def run(tx: Transaction, ask: DeleteSchedule, by: Caller) -> Done:
        done.append(ask.name)
        return Done()

    tenancy = Tenancy(store := MemoryStore(), clock := MemoryClock(), CountingIds(), b"k" * 32)
    cloud = Cloud(store, clock, tenancy, {DeleteSchedule: Change(run, before)}, ())
    ann = Caller(principal="ann", project="p", scope="p", rights=frozenset(Right))
    cloud.do(DeleteSchedule(name="one"), ann, "key")
    doable = False
    assert cloud.do(DeleteSchedule(name="one"), ann, "key") == Done()
    with pytest.raises(KeyReused):
        cloud.do(DeleteSchedule(name="other"), ann, "key")
    for key in (None, "another key"):
        with pytest.raises(LimitExceeded):
            cloud.do(DeleteSchedule(name="one"), ann, key)
    assert done == ["one"]
