"""One guest, and what loading it gives."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from skyloom.core.errors import InternalError, SkyloomError
from skyloom.inference import model as models
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.model import Model
from skyloom.inference.pace import Pace
from skyloom.inference.packing.gauge import Gauge, give_back
from skyloom.inference.statistics import ModelStatistics, Timekeeper
from skyloom.inference.traffic import TrafficCounter
from skyloom.rooms.monitoring.model import Profile
from skyloom.rooms.registry.bundle import Signature
from skyloom.rooms.serving.pack import GuestReport, GuestState, GuestTraffic, PackEntry
from skyloom.rooms.serving.plan import ServePlan

_MEASURE_S = 0.1  # somebody waits for it


class PackedModelBroken(InternalError):
    """A model of the pack cannot be loaded; the others answer."""


class Arrived(NamedTuple):
    """A guest in memory.

    Attributes:
        grown_bytes: what the process holds more since before it was loaded, its first batches included.
    """

    model: Model
    pace: Pace
    grown_bytes: int


Load = Callable[[PackEntry, Pace | None], Arrived]
"""Loads a guest; its pace is measured, unless it is known from an earlier stay."""


class Waiter:
    """A request that is held until its guest is in memory."""

    __slots__ = ("failed", "num_bytes", "since", "then", "timer")

    def __init__(
        self, then: Callable[[DataPlane], None], failed: Callable[[SkyloomError], None], num_bytes: int, since: float
    ) -> None:
        self.then = then
        self.failed = failed
        self.num_bytes = num_bytes
        self.since = since
        self.timer: asyncio.TimerHandle | None = None


class Guest:
    """One guest and what is known of it; it outlives its model's stays in memory.

    Attributes:
        memory_bytes: the most that loading it took so far; 0 before the first time.
        plane: answers for it while it is in memory.
        retry_at: on the loop's clock; a broken guest is not tried again before.
        stays_until: on the loop's clock; before, it makes way for nobody while it is busy.
        is_yielding: it takes nothing new, so that it can make way; what comes for it waits.
    """

    def __init__(self, entry: PackEntry) -> None:
        self.entry = entry
        self.memory_bytes = self.used = self.loads = self.failures = 0
        self.is_loading = self.is_yielding = False
        self.model: Model | None = None
        self.plane: DataPlane | None = None
        self.pace: Pace | None = None
        self.traffic = TrafficCounter(
            Profile(), Signature(inputs=(), outputs=())
        )  # what rows are like is watched from its first stay on, when its profile has been read
        self.times = Timekeeper()
        self.failure: SkyloomError | None = None
        self.retry_at = self.stays_until = 0.0
        self.waiters: list[Waiter] = []

    @property
    def is_busy(self) -> bool:
        """Requests are under way."""
        return self.plane is not None and not self.plane.is_idle

    @property
    def needed_bytes(self) -> int:
        """What it will take: as measured, and before the first time at least its files."""
        return self.memory_bytes or self.entry.size_bytes

    @property
    def state(self) -> GuestState:
        """Where it is."""
        if self.plane is not None:
            return GuestState.LOADED
        if self.is_loading:
            return GuestState.LOADING
        return GuestState.BROKEN if self.failure is not None else GuestState.ABSENT

    def statistics(self) -> ModelStatistics:
        """How long requests waited and the model worked, in all of its stays."""
        return self.times.snapshot(self.entry.model, self.entry.label)

    def settled(self, model: Model) -> None:
        """It has arrived: from the first time on its rows are compared with those of its training. Raises `TensorMissing`."""
        if not self.loads:
            self.traffic.compare_with(model.profile, model.manifest.signature)

    def seen(self) -> GuestTraffic:
        """What it answered so far, and what rows came, in all of its stays."""
        return GuestTraffic(model=self.entry.model, version=self.entry.label, traffic=self.traffic.snapshot())

    def report(self) -> GuestReport:
        """What the control plane is told."""
        return GuestReport(
            model=self.entry.model,
            version=self.entry.label,
            state=self.state,
            memory_bytes=self.memory_bytes,
            requests=self.traffic.snapshot().requests,
            loads=self.loads,
        )


def loader(plan: ServePlan, gauge: Gauge) -> Load:
    """What loads guests, one at a time, off the event loop. It raises what a bundle raises that cannot be served."""

    def load(entry: PackEntry, pace: Pace | None) -> Arrived:
        give_back()
        before = gauge()
        model = models.load(Path(entry.folder), models.thread_count(plan.cpus), entry.manifest, plan.gpus)
        try:
            if pace is None:
                pace = Pace.measure(model.rehearsal, plan.limits.max_batch_rows, _MEASURE_S, work=model.work_clock)
            else:
                model.rehearsal(1)()  # the first batch finds nothing prepared; nobody is to wait for it
        except BaseException:  # of memory that cannot be had, for example: what is there of it is let go
            model.close()
            raise
        give_back()  # what loading took beside the model is no part of it
        return Arrived(model, pace, max(gauge() - before, 1))

    return load


def broken(entry: PackEntry, error: Exception) -> PackedModelBroken:
    """Why a guest does not answer. What is no error of ours may name paths, so its text stays here."""
    what = f"The model {entry.model!r} version {entry.label} cannot be loaded"
    if isinstance(error, SkyloomError):
        return PackedModelBroken(f"{what}: {error.message}", next_action=error.next_action)
    return PackedModelBroken(f"{what}.", next_action="Ask the operator to look at the replica's output.")
