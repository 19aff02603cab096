"""How far one gang has come in a simulation: what it will do, what it has done, and what is left of it."""

from typing import NamedTuple

import msgspec

from skyloom.rooms.scheduling.model import Demand, Holding, Placement
from skyloom.rooms.scheduling.policies import speed

_SLOWEST = 1e-9


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """What one gang will do. The scheduler is told its demand and never its script.

    Attributes:
        demand: arrives at ``submitted_at``; its ``expected_s`` is what the scheduler believes, right or wrong.
        duration_s: how long it really runs from the beginning of the simulation on, were it never stopped.
        num_workers: how many workers that duration is for.
        holding: where it runs already when the simulation begins; None for a gang that waits or comes later.
    """

    demand: Demand
    duration_s: float
    num_workers: int = 1
    holding: Holding | None = None


class Stretch(NamedTuple):
    """A time in which a gang held resources without a break."""

    gang: str
    start_at: float
    end_at: float
    placement: Placement


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a gang.

    Attributes:
        started_at: its first start; None when it never ran.
        ended_at: None when it was not done.
        held_s: how long it held resources, over all its runs.
        held_gpu_s: the same times the GPUs (CPUs where it has none) it held.
        served_s: how much of its duration it got, by its script's measure.
        num_preemptions: how often it was stopped for others.
        num_resizes: how often it was stopped to go on with more or fewer workers.
    """

    gang: str
    submitted_at: float
    started_at: float | None
    ended_at: float | None
    held_s: float
    held_gpu_s: float
    served_s: float
    num_preemptions: int
    num_resizes: int


class Course:
    """A script and how far it has come. One object for a gang, changed in place: there may be 100,000."""

    __slots__ = (
        "attained",
        "bias_s",
        "demand",
        "ended_at",
        "epoch",
        "first_at",
        "held_s",
        "left_s",
        "num_preemptions",
        "num_resizes",
        "placement",
        "productive_at",
        "script",
        "speed",
        "started_at",
        "stopping",
        "unit",
        "workers",
    )

    def __init__(self, script: Script) -> None:
        demand = script.demand
        self.script = script
        self.demand = demand
        self.left_s = script.duration_s
        self.attained = demand.attained_gpu_s
        self.bias_s = 0.0
        if demand.expected_s is not None:
            self.bias_s = demand.expected_s * self.pace(demand.min_workers) - script.duration_s
        self.unit = demand.resources.gpus or demand.resources.cpus
        self.first_at: float | None = None
        self.ended_at: float | None = None
        self.held_s = 0.0
        self.epoch = 0
        self.num_preemptions = self.num_resizes = 0
        self.placement: Placement = ()
        self.stopping = False

    def pace(self, num_workers: int) -> float:
        """How fast it is with so many workers, by what its script's duration is for."""
        return max(
            _SLOWEST, speed(self.demand, num_workers) / max(_SLOWEST, speed(self.demand, self.script.num_workers))
        )

    def begin(self, placement: Placement, now: float, restart_s: float) -> float:
        """Put it on its nodes and return when it will be done."""
        self.placement = placement
        self.workers = sum(workers for _, workers in placement)
        self.speed = self.pace(self.workers)
        self.started_at = now
        if self.first_at is None:
            self.first_at = now
            restart_s = 0.0
        self.productive_at = now + restart_s
        return self.productive_at + self.left_s / self.speed

    def advance(self, now: float) -> None:
        """Count the work it did until now."""
        if now > self.productive_at:
            self.left_s = max(0.0, self.left_s - (now - self.productive_at) * self.speed)
            self.productive_at = now

    def finish_run(self, now: float) -> Stretch:
        """Take it off its nodes."""
        held_s = now - self.started_at
        self.held_s += held_s
        self.attained += held_s * self.workers * self.unit
        self.epoch += 1
        stretch = Stretch(self.demand.id, self.started_at, now, self.placement)
        self.placement, self.stopping = (), False
        return stretch

    def waiting(self, restart_s: float) -> Demand:
        """What it asks for after a stop."""
        expected_s = self.demand.expected_s
        if expected_s is not None:
            left_s = max(0.0, self.left_s + self.bias_s)
            expected_s = restart_s + left_s / self.pace(self.demand.min_workers)
        self.demand = msgspec.structs.replace(self.demand, attained_gpu_s=self.attained, expected_s=expected_s)
        return self.demand

    def life(self) -> Life:
        """What has become of it so far."""
        return Life(
            gang=self.demand.id,
            submitted_at=self.demand.submitted_at,
            started_at=self.first_at,
            ended_at=self.ended_at,
            held_s=self.held_s,
            held_gpu_s=self.attained - self.script.demand.attained_gpu_s,
            served_s=self.script.duration_s - self.left_s,
            num_preemptions=self.num_preemptions,
            num_resizes=self.num_resizes,
        )
