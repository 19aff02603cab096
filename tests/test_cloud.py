"""The loops of a cloud."""

import logging
import threading

import pytest

from skyloom.cloud import Cloud, Loop, NotReady
from skyloom.core.errors import StorageFull
from skyloom.core.ids import CountingIds
from skyloom.ports.clock import MemoryClock
from skyloom.ports.store import Collection, Log, Record
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
