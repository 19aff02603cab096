"""Nouns of simulations: a job of a trace, the cluster it is played on, and the report on what became of all of them."""

from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.errors import InvalidInput
from skyloom.rooms.scheduling.course import Life
from skyloom.rooms.scheduling.model import Policy, Rulebook
from skyloom.rooms.scheduling.simulation import StopCosts, Unfolding

MAX_JOBS = 2_000_000
MAX_GPUS = 100_000


class JobTooLarge(InvalidInput):
    """A job of the trace asks for more than the whole cluster has."""


class TraceJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job of a trace. Times are in seconds, on the trace's own clock.

    Attributes:
        duration_s: how long it runs with ``num_gpus`` GPUs and without a stop.
        deadline_s: a moment on the same clock as ``submit_s``.
        min_gpus, max_gpus: equal to ``num_gpus``, but for an elastic job.
        model: whose measured speeds it has.
        line: where it stands in its file.
    """

    job_id: str
    submit_s: float
    duration_s: float
    num_gpus: int
    tenant: str = ""
    priority: int = 0
    deadline_s: float | None = None
    min_gpus: int = 0
    max_gpus: int = 0
    model: str = ""
    line: int = 0


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The machines that are imagined: all alike."""

    num_nodes: Annotated[int, Meta(ge=1, le=100_000)] = 8
    gpus_per_node: Annotated[int, Meta(ge=1, le=1_000)] = 8

    @property
    def num_gpus(self) -> int:
        return self.num_nodes * self.gpus_per_node


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What is played: on which machines, by which rules.

    Attributes:
        rates: by model, how fast it is with 1, 2, … GPUs.
        estimate_error: spread of what the scheduler believes of durations: 0 is the truth, 0.5 means mostly within a factor of 1.6.
        seed: of those errors; nothing else is drawn by chance.
        skip_too_large: leave out jobs that ask for more than the cluster, and count them.
    """

    cluster: Cluster = Cluster()
    rules: Rulebook = Rulebook()
    costs: StopCosts = StopCosts()
    rates: dict[str, tuple[float, ...]] = {}
    estimate_error: Annotated[float, Meta(ge=0, le=5)] = 0.0
    seed: int = 0
    skip_too_large: bool = False


class Rho(msgspec.Struct, frozen=True, kw_only=True):
    """Finish-time fairness (Themis, NSDI 2020): a job's time in the shared cluster over its time in a fair part of it.

    1 or less: sharing cost it nothing. Without jobs to measure, None.
    """

    mean: float | None = None
    max: float | None = None


class TenantRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one tenant got. ``gpu_share`` is of all GPU-seconds that were used."""

    tenant: str
    num_jobs: int
    num_finished: int
    avg_jct_s: float | None
    avg_wait_s: float | None
    gpu_share: float
    finish_time_fairness: Rho


class SimulationReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The measures of one simulation. Averages are over finished jobs; None when there are none.

    Attributes:
        avg_jct_s, median_jct_s, p99_jct_s: from submission to end (percentiles interpolated).
        makespan_s: from the first submission to the last end.
        utilisation: GPU-seconds held, of those the cluster had during the makespan.
        avg_wait_s: time in the queue, over all the times a job was in it.
        num_too_large: left out, for they ask for more than the cluster.
        num_preemptions, num_resizes: stops for others; stops to go on with more or fewer GPUs.
        lost_gpu_s: held to write checkpoints and to restart.
        jain_fairness: of the jobs' speeds (duration over completion time): 1 when all were slowed alike.
        num_deadlines, deadlines_met: jobs that had a deadline, and those that ended by it.
        utilisation_curve: over equal parts of the makespan.
        what_if: the same on other numbers of nodes.
    """

    policy: Policy
    nodes: int
    gpus_per_node: int
    num_jobs: int
    num_finished: int
    num_too_large: int
    avg_jct_s: float | None
    median_jct_s: float | None
    p99_jct_s: float | None
    makespan_s: float
    utilisation: float
    avg_wait_s: float | None
    num_preemptions: int
    num_resizes: int
    lost_gpu_s: float
    jain_fairness: float | None
    finish_time_fairness: Rho
    num_deadlines: int
    deadlines_met: int
    utilisation_curve: tuple[float, ...]
    tenants: tuple[TenantRow, ...]
    what_if: tuple["SimulationReport", ...] = ()


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """A simulation that was played: the jobs in the order of the lives of its outcome."""

    scenario: Scenario
    jobs: tuple[TraceJob, ...]
    num_too_large: int
    outcome: Unfolding

    @property
    def lives(self) -> tuple[Life, ...]:
        return self.outcome.lives
