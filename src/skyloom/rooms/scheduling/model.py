"""Nouns of scheduling, plain frozen values: a gang that asks to run, a node to run on, what runs, and what was decided."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.resources import Resources


class Policy(enum.StrEnum):
    """Whose turn it is. Priority comes before any of them; gangs, quotas and backfill hold under each."""

    FIFO = "fifo"  # the oldest first
    SRTF = "srtf"  # shortest remaining time first
    SRSF = "srsf"  # shortest remaining service (time x GPUs) first
    LAS = "las"  # least attained service first, in discrete queues, FIFO inside each (Tiresias, NSDI 2019)
    FAIR = "fair"  # weighted dominant-resource fairness over projects, with decayed history (DRF, NSDI 2011)
    DEADLINE = "deadline"  # the earliest deadline that can still be met first
    ELASTIC = "elastic"  # the oldest first; workers go, and stay, where they speed up most (marginal goodput)


class Cause(enum.StrEnum):
    """Why a gang waits, or why one that runs has to stop."""

    RESOURCES = "resources"  # not enough is free now
    TURN = "turn"  # it would fit, and others come first (a reservation would be delayed)
    QUOTA = "quota"  # its project holds all that it may
    IMPOSSIBLE = "impossible"  # not even all that is there now could give it, or its project may never hold it
    PRIORITY = "priority"  # stops for a gang of higher priority
    POLICY = "policy"  # stops because the policy says it is another's turn
    RECLAIM = "reclaim"  # stops because it borrowed what its owner's project asks back
    SHRINK = "shrink"  # stops to go on with fewer workers, for others
    GROW = "grow"  # stops to go on with more workers, on what is idle


class Renting(enum.StrEnum):
    """When a gang may run on a rented node. One that names the node's pool always may."""

    FREELY = "freely"  # whenever it fits; the cheapest node first
    FOR_DEADLINES = "for_deadlines"  # only if waiting for an owned node would miss its deadline ("private first")


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A machine.

    Attributes:
        total: what it has, used or not.
        labels: what a gang may ask for (``zone=eu``).
        usd_per_hour: of the whole node; cheaper nodes are filled first where a gang has no other wish.
        rented: it costs because it is used; an owned one costs anyway. See `Renting`.
    """

    name: str
    pool: str = ""
    total: Resources
    labels: dict[str, str] = {}
    usd_per_hour: float = 0.0
    rented: bool = False


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """Workers that start together or not at all, as one tenant asked for them.

    Attributes:
        id: sorts by age among gangs of one moment.
        project: the tenant.
        resources: of each worker.
        min_workers, max_workers: equal, but for an elastic gang.
        priority: larger goes first, whatever the policy.
        submitted_at, deadline_at: in seconds, by the caller's clock.
        expected_s: how long it still has to run with ``min_workers``; None when nobody knows.
        limit_s: whoever runs it ends it after so long in one run; None for no limit.
        endless: it runs until somebody stops it: nobody may count on its end, whatever else is told of it.
        rates: how fast it is with 1, 2, … workers, by any one unit; empty means: twice the workers, twice the speed.
        attained_gpu_s: service so far: GPUs (CPUs where it has none) × seconds.
        preemptible: may be stopped for others, and goes on later.
        pools: it may run on these only; empty means any.
        labels: what its nodes must have.
    """

    id: str
    project: str
    resources: Resources
    min_workers: int = 1
    max_workers: int = 1
    priority: int = 0
    submitted_at: float = 0.0
    deadline_at: float | None = None
    expected_s: float | None = None
    limit_s: float | None = None
    endless: bool = False
    rates: tuple[float, ...] = ()
    attained_gpu_s: float = 0.0
    preemptible: bool = True
    pools: tuple[str, ...] = ()
    labels: dict[str, str] = {}


# How many workers are on which node: (("a", 4), ("b", 2)). A gang never spans pools.
Placement = tuple[tuple[str, int], ...]


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """A gang that holds resources.

    Attributes:
        started_at: of this run of it; a preempted gang starts anew.
        stopping: it was told to stop and has not given back what it holds.
    """

    demand: Demand
    placement: Placement
    started_at: float
    stopping: bool = False


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """Start a gang, whole, there. ``backfill``: it overtook a reservation that it cannot delay."""

    gang: str
    placement: Placement
    backfill: bool = False


class Eviction(msgspec.Struct, frozen=True, kw_only=True):
    """Ask a running gang to write a checkpoint and stop; it comes back into the queue.

    Attributes:
        for_gang: who gets what it gives back.
        num_workers: how many it goes on with, for `Cause.SHRINK` and `Cause.GROW`.
    """

    gang: str
    why: Cause
    for_gang: str = ""
    num_workers: int | None = None


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Why a gang waits.

    Attributes:
        place: 1 is the next.
        message: the evidence, for people: "needs 4 GPUs, 2 free".
        reserved_at: when room was promised to it, at the latest; None when nobody can say.
        for_good: who holds what it waits for and never ends by itself, some of them; empty if it gets its turn in time.
    """

    gang: str
    place: int
    why: Cause
    message: str
    reserved_at: float | None = None
    for_good: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now.

    Attributes:
        admissions: each fits into what is free now, together with those before it.
        evictions: what they give back is not part of ``admissions``; the gangs they are for start in a later decision.
        waits: in the order of the queue; may be cut off after ``num_explained``.
        again_at: decide again then, even if nothing happens until then (a gang changes its LAS queue, has run its minimum,
            or has to rent to meet its deadline); None when only news can change anything.
    """

    admissions: tuple[Admission, ...] = ()
    evictions: tuple[Eviction, ...] = ()
    waits: tuple[Wait, ...] = ()
    again_at: float | None = None


MAX_QUOTAS = 10_000
Amount = Annotated[float, Meta(ge=0, le=1e12)]
Weight = Annotated[float, Meta(gt=0, le=1e6)]
HalfLife = Annotated[float, Meta(gt=0, le=1e9)]


class Allotment(msgspec.Struct, frozen=True, kw_only=True):
    """An amount of some resources; what is None is not spoken of."""

    cpus: Annotated[float, Meta(ge=0, le=1e7)] | None = None
    gpus: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    memory_bytes: Annotated[int, Meta(ge=0, le=2**62)] | None = None


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """What a project is guaranteed, and whether it may hold more while others leave it idle.

    Attributes:
        guaranteed: its own; what others borrowed of it is reclaimed when it asks. A gang inside its project's guarantee comes
            before every gang that would have to borrow, whatever their priorities.
        ceiling: never more than this, None for no limit but the pools'.
        weight: its share of what is contended, against the other projects'.
    """

    guaranteed: Allotment | None = None
    ceiling: Allotment | None = None
    weight: Weight = 1.0


class Rulebook(msgspec.Struct, frozen=True, kw_only=True):
    """How one cloud schedules.

    Attributes:
        policy: whose turn it is.
        las_limits_gpu_s: borders of the LAS queues, in GPU-seconds; the first queue is below the first border.
        min_run_s: nobody is stopped for others before it ran this long.
        restart_s: what a stop and a new start cost a gang; growing has to gain more than that.
        half_life_s: after this long a project's past use counts half.
        quotas: by project; one that is not named has no guarantee, no ceiling and weight 1.
        backfill: smaller gangs may overtake where they delay no reservation.
        preempt: running gangs may be stopped: for others, or to go on with more or fewer workers.
        elastic: elastic gangs take more than their fewest workers.
        renting: when rented nodes are used.
    """

    policy: Policy = Policy.FAIR
    las_limits_gpu_s: Annotated[tuple[Amount, ...], Meta(max_length=20)] = (3_250.0, 7_200.0)
    min_run_s: Amount = 60.0
    restart_s: Amount = 30.0
    half_life_s: HalfLife = 7 * 86_400.0
    quotas: Annotated[dict[str, Quota], Meta(max_length=MAX_QUOTAS)] = {}
    backfill: bool = True
    preempt: bool = True
    elastic: bool = True
    renting: Renting = Renting.FREELY
