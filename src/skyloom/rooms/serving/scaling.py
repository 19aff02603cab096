"""Nouns of scaling: what a user asks for, what was seen of the load, and what is decided.

The words are those of Knative's pod autoscaler, whose published rules `policy.py` follows: a stable window and a panic window, a panic
threshold, the most by which it may grow or shrink, a delay before it shrinks (knative.dev/docs/serving/autoscaling).
"""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Count, Cron, TimeZone
from skyloom.core.errors import InvalidInput

MAX_REPLICAS = 100
NumReplicas = Annotated[int, Meta(ge=0, le=MAX_REPLICAS)]
Delay = Annotated[float, Meta(ge=0, le=86_400)]
Amount = Annotated[float, Meta(ge=0, le=1e9)]


class ScalingUnclear(InvalidInput):
    """What is asked of the scaling cannot be meant together."""


class ScaleSignal(enum.StrEnum):
    """What is kept at the target, by adding and taking away replicas. The target's unit is said with each."""

    CONCURRENCY = "concurrency"  # requests in the system (waiting or being answered), for each replica
    RATE = "rate"  # requests a second, for each replica
    QUEUE_DELAY = "queue_delay"  # seconds that a request waits for a free replica
    LATENCY = "latency"  # seconds from a request to its answer, of 95 in 100 requests
    UTILISATION = "utilisation"  # share of its time in which a replica is busy
    GPU = "gpu"  # share of its time in which a replica's GPU is busy

    @property
    def adds_up(self) -> bool:
        """Twice the load needs twice the replicas. Delays know no such proportion: they only say "too few" and "enough"."""
        return self not in (ScaleSignal.QUEUE_DELAY, ScaleSignal.LATENCY)


UNITS = {
    ScaleSignal.CONCURRENCY: "requests at once",
    ScaleSignal.RATE: "requests/s",
    ScaleSignal.UTILISATION: "replicas' worth of work",
    ScaleSignal.GPU: "GPUs' worth of work",
    ScaleSignal.QUEUE_DELAY: "s of waiting",
    ScaleSignal.LATENCY: "s to the answer",
}
DEFAULT_TARGETS = {
    ScaleSignal.CONCURRENCY: 8.0,
    ScaleSignal.RATE: 50.0,
    ScaleSignal.QUEUE_DELAY: 0.1,
    ScaleSignal.LATENCY: 0.5,
    ScaleSignal.UTILISATION: 0.7,
    ScaleSignal.GPU: 0.7,
}


class ScaleReason(enum.StrEnum):
    """Why a number of replicas is wanted."""

    STEADY = "steady"  # what is there is right
    LOAD = "load"
    PANIC = "panic"  # a burst: more at once, and nothing is taken away until a window has passed without one
    WAKE = "wake"  # somebody asks, and there is no replica
    IDLE = "idle"  # nobody asked for so long: none
    SCHEDULE = "schedule"
    FORECAST = "forecast"
    LIMIT = "limit"  # the least or the most that is allowed
    DELAY = "delay"  # another number would be right, and has not been for long enough
    UNSEEN = "unseen"  # too little of the window was seen to take anything away


class ScheduledFloor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time in which there are at least so many replicas, ready when it begins.

    Attributes:
        start, end: cron lines; it is on from a slot of ``start`` until the next slot of ``end``.
    """

    start: Cron
    end: Cron
    time_zone: TimeZone = "UTC"
    min_replicas: Annotated[int, Meta(ge=1, le=MAX_REPLICAS)] = 1


class Foresight(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At least as many replicas as the same time of earlier days needed, a cold start before they are needed.

    Attributes:
        num_days: how far back to look.
        quantile: of what the same minute saw on those days: 1 for the worst of them.
        same_weekday: look at the same weekday only, where one was seen; else at all days.
    """

    num_days: Annotated[int, Meta(ge=1, le=28)] = 14
    quantile: Annotated[float, Meta(ge=0, le=1)] = 0.9
    same_weekday: bool = True


class Autoscaling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the number of an endpoint's replicas follows its load.

    Attributes:
        min_replicas: 0 lets it go to sleep; the next request is held while a replica starts.
        signal, target: what is kept where; the unit is the signal's.
        window_s: how far it looks back.
        panic_window: the part of the window that tells a burst.
        panic_threshold: a burst is so many times what the replicas are there for; 0 for never.
        scale_up_delay_s: more must be right for so long. A panic does not wait.
        scale_down_delay_s: fewer must be right for so long.
        max_up_rate, max_down_rate: the most it grows and shrinks by within a panic window, as a factor; one replica always may.
        scale_to_zero_after_s: without any request.
        floors: the highest of those that are on holds.
    """

    min_replicas: NumReplicas = 1
    max_replicas: Annotated[int, Meta(ge=1, le=MAX_REPLICAS)] = 4
    signal: ScaleSignal = ScaleSignal.CONCURRENCY
    target: Annotated[float, Meta(gt=0, le=1e6)] = 8.0
    window_s: Annotated[float, Meta(ge=6, le=3_600)] = 60.0
    panic_window: Annotated[float, Meta(ge=0.01, le=1)] = 0.1
    panic_threshold: Annotated[float, Meta(ge=0, le=1_000)] = 2.0
    scale_up_delay_s: Delay = 0.0
    scale_down_delay_s: Delay = 30.0
    max_up_rate: Annotated[float, Meta(ge=1.01, le=1_000)] = 1_000.0
    max_down_rate: Annotated[float, Meta(ge=1.01, le=1_000)] = 2.0
    scale_to_zero_after_s: Annotated[float, Meta(ge=1, le=86_400)] = 60.0
    floors: Annotated[tuple[ScheduledFloor, ...], Meta(max_length=20)] = ()
    foresight: Foresight | None = None

    @property
    def panic_window_s(self) -> float:
        return max(1.0, self.window_s * self.panic_window)


class LoadSample(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of an endpoint in one stretch of time, of all its replicas together.

    Attributes:
        at: its end, Unix seconds; ``span_s`` long.
        replicas: that answered.
        arrived: requests that came in it.
        concurrency: requests in the system, averaged over it; ``held``: those that wait for a replica at its end.
        oldest_held_s: how long the first of them waits.
        queue_delay_s, latency_s: of the requests in it; the latency is that of 95 in 100, None when none was answered.
        utilisation, gpu: of each replica, 0 to 1; the GPUs' is None while no replica says it.
    """

    at: float
    span_s: float
    replicas: int = 0
    arrived: int = 0
    concurrency: float = 0.0
    held: int = 0
    oldest_held_s: float = 0.0
    queue_delay_s: float = 0.0
    latency_s: float | None = None
    utilisation: float = 0.0
    gpu: float | None = None


class TooSmall(msgspec.Struct, frozen=True):
    """So many replicas were too few for so many requests a second."""

    replicas: int
    rate: float
    at: float


class ScaleCourse(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision needs to know of those before it. Small, whatever happens.

    Attributes:
        panic_at: when a burst was seen last.
        moved_at: when another number was decided last; None when never.
        base_at, base: since when, and from how many replicas, the rates of growing and shrinking count.
        highs, lows: (moment, replicas) that would have been right: only those that nothing later has outdone.
        too_small: learnt from delays.
    """

    panic_at: float | None = None
    moved_at: float | None = None
    base_at: float
    base: int
    highs: tuple[tuple[float, int], ...] = ()
    lows: tuple[tuple[float, int], ...] = ()
    too_small: tuple[TooSmall, ...] = ()


class ScaleDecision(msgspec.Struct, frozen=True, kw_only=True):
    """How many replicas there should be.

    Attributes:
        why: a sentence for people.
        again_at: look again at this moment, if nothing else makes you look earlier.
        course: give it to the next decision.
    """

    wanted: int
    reason: ScaleReason
    why: str
    again_at: float
    course: ScaleCourse


class ScaleNote(msgspec.Struct, frozen=True, kw_only=True):
    """Why an endpoint has the number of replicas that it has. Moments are Unix seconds.

    Attributes:
        seen, burst: the signal of all replicas together, averaged over the window and over its panic part; None while nothing was seen.
        needed: replicas that the average over the window alone would need; None where the signal does not say.
        floor, floor_why: the least that is allowed now, and what wants it.
        panic_until: nothing is taken away before; None without a panic.
        delay_until: another number would be right, and comes then if it still is; None when nothing waits so.
        sleeps_at: if nobody asks until then, all replicas go; None when they never do.
    """

    at: float
    wanted: Count
    reason: ScaleReason
    why: str
    seen: float | None = None
    burst: float | None = None
    needed: Count | None = None
    floor: Count = 0
    floor_why: str = ""
    panic_until: float | None = None
    delay_until: float | None = None
    sleeps_at: float | None = None


def check_scaling(scaling: Autoscaling) -> None:
    """Raise `ScalingUnclear` for what cannot be meant together."""
    if scaling.min_replicas > scaling.max_replicas:
        raise ScalingUnclear(
            f"At least {scaling.min_replicas} replicas and at most {scaling.max_replicas} cannot both be.",
            next_action="Raise max_replicas, or lower min_replicas.",
        )
    if scaling.signal in (ScaleSignal.UTILISATION, ScaleSignal.GPU) and scaling.target > 1:
        raise ScalingUnclear(
            f"A target of {scaling.target:g} is more than all of a replica's time.",
            next_action="Give a share: 0.7 for 70 %.",
        )
    for floor in scaling.floors:
        if floor.min_replicas > scaling.max_replicas:
            raise ScalingUnclear(
                f"The schedule {floor.start!r} wants {floor.min_replicas} replicas; at most {scaling.max_replicas} are allowed.",
                next_action="Raise max_replicas.",
            )
        if floor.start.split() == floor.end.split():
            raise ScalingUnclear(
                f"The schedule {floor.start!r} begins and ends at the same moments.",
                next_action="Give it an end of its own.",
            )
    if scaling.foresight is not None and not scaling.signal.adds_up:
        raise ScalingUnclear(
            f"The {scaling.signal.value} of earlier days does not say how many replicas are needed.",
            next_action="Use foresight with concurrency, rate, utilisation or gpu.",
        )
