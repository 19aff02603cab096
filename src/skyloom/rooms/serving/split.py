"""Nouns of safe change: how an endpoint's traffic is split over its revisions, and the canary that shifts it step by step."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Count, Id, Text
from skyloom.core.states import Moves
from skyloom.ports.store import Record
from skyloom.rooms.serving.routes import Fraction, HeaderName, HeaderValue, RevisionTraffic, Weight

Number = Annotated[int, Meta(ge=1, le=2**31, description="A revision's number.")]
Percent = Annotated[float, Meta(gt=0, lt=100)]
KEEP_S = 600.0
MAX_SHARES, MAX_SHADOWS = 100, 10


class Front(enum.StrEnum):
    """Who listens at an endpoint's ports."""

    DIRECT = "direct"  # its replicas, which share them
    GATEWAY = "gateway"  # the project's gateway; replicas listen at ports of their own


class HeaderChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose header has this value goes to this revision, whatever the weights say. The first that fits holds."""

    header: HeaderName
    value: HeaderValue
    revision: Number


class TrafficSplit(msgspec.Struct, frozen=True, kw_only=True):
    """How requests are shared over an endpoint's revisions, all of them named by number.

    Attributes:
        shares: weights, relative to each other; 0 takes only what a header sends.
        rules: which header sends where.
        sticky_header: requests with the same value of this header go to the same revision while the weights stand; "" for none.
        shadows: the part of all requests that a revision is sent too; its answers are counted and thrown away.
    """

    shares: Annotated[dict[Number, Weight], Meta(min_length=1, max_length=MAX_SHARES)]
    rules: Annotated[tuple[HeaderChoice, ...], Meta(max_length=100)] = ()
    sticky_header: Annotated[str, Meta(pattern=r"^[a-z0-9-]{0,60}$(?!\n)")] = ""
    shadows: Annotated[dict[Number, Fraction], Meta(max_length=MAX_SHADOWS)] = {}

    @property
    def weighted(self) -> dict[int, float]:
        """Revision → its part of the traffic, from 0 to 1, of those that have one."""
        total = sum(self.shares.values())
        return {number: weight / total for number, weight in sorted(self.shares.items()) if weight > 0}

    @property
    def sole(self) -> int | None:
        """The one revision that has all the traffic, or None."""
        weighted = self.weighted
        return next(iter(weighted)) if len(weighted) == 1 else None

    @property
    def used(self) -> set[int]:
        """Revisions that are sent anything."""
        ruled = {rule.revision for rule in self.rules}
        return set(self.weighted) | ruled | {number for number, part in self.shadows.items() if part > 0}

    @property
    def is_plain(self) -> bool:
        """One revision has everything, so nobody has to choose."""
        return len(self.used) == 1


class Fallback(msgspec.Struct, frozen=True, kw_only=True):
    """The revision that had all the traffic before the latest change.

    Attributes:
        until: Unix seconds until when as many replicas of it as before are kept; past when none are.
    """

    number: Number
    until: float = 0.0


class CanaryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a new revision gets its traffic, and what ends it.

    Attributes:
        steps: percent of the traffic, growing; after the last one it gets everything.
        step_s: how long a step takes at least.
        min_requests: requests that the new revision must have answered in a step; with fewer it waits.
        shadow: first a step in which it is sent a copy of every request and its answers are thrown away.
        max_error_rate: of answers 5xx; None compares with the stable revision only.
        max_p99_s: seconds; None compares only.
        max_p99_ratio: how many times the stable revision's p99 its own may be.
        on_drift: a drift alert that fires meanwhile ends it.
        min_labels: rows of the new revision that must have a label (`feedback.give`) before it goes a step on.
        max_wrong_rate: of its rows with a label; None compares with the stable revision only.
        false_alarm: the probability that a revision no worse than the stable one is ever rolled back for its errors, its latency or its
            wrong answers.
        keep_s: how long the stable revision's replicas are kept after the end, so that going back needs no start.
    """

    steps: Annotated[tuple[Percent, ...], Meta(min_length=1, max_length=20)] = (1.0, 10.0, 50.0)
    step_s: Annotated[float, Meta(gt=0, le=7 * 86_400)] = 60.0
    min_requests: Annotated[int, Meta(ge=0, le=10_000_000)] = 50
    shadow: bool = False
    max_error_rate: Annotated[float, Meta(gt=0, lt=1)] | None = None
    max_p99_s: Annotated[float, Meta(gt=0, le=3_600)] | None = None
    max_p99_ratio: Annotated[float, Meta(ge=1, le=1_000)] = 2.0
    on_drift: bool = True
    min_labels: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    max_wrong_rate: Annotated[float, Meta(gt=0, lt=1)] | None = None
    false_alarm: Annotated[float, Meta(gt=0, le=0.5)] = 0.01
    keep_s: Annotated[float, Meta(ge=0, le=7 * 86_400)] = KEEP_S

    @property
    def num_steps(self) -> int:
        """Steps in all, the one as a shadow included."""
        return len(self.steps) + self.shadow

    def percent(self, step: int) -> float:
        """The new revision's percent of the traffic at a step, from 0; as a shadow it has none."""
        return 0.0 if self.shadow and step == 0 else self.steps[step - self.shadow]


class CanaryState(enum.StrEnum):
    """Where a canary stands."""

    PENDING = "pending"  # its replicas start; it has no traffic yet
    STEPPING = "stepping"  # it has the traffic of its step
    WAITING = "waiting"  # the step's time is over, and it has had too few requests to be judged
    PROMOTED = "promoted"  # it has all the traffic
    ROLLED_BACK = "rolled_back"  # it was worse, or somebody went back
    ABORTED = "aborted"  # somebody ended it


_OUT = (CanaryState.PROMOTED, CanaryState.ROLLED_BACK, CanaryState.ABORTED)
CANARY_MOVES = Moves(
    "canary",
    {
        CanaryState.PENDING: (CanaryState.STEPPING, *_OUT),
        CanaryState.STEPPING: (CanaryState.WAITING, CanaryState.STEPPING, *_OUT),
        CanaryState.WAITING: (CanaryState.STEPPING, *_OUT),
        CanaryState.PROMOTED: (CanaryState.ROLLED_BACK,),  # its predecessor is still there
        CanaryState.ROLLED_BACK: (),
        CanaryState.ABORTED: (),
    },
)
LIVE_CANARY = (CanaryState.PENDING, CanaryState.STEPPING, CanaryState.WAITING)


class Canary(Record, frozen=True, kw_only=True):
    """One new revision's way to all the traffic, or back. An endpoint has at most one that is live.

    Attributes:
        number, stable: the new revision, and the one that it is compared with.
        step: from 0; the latest that it was given.
        step_at: when it was given.
        message: what was last decided, with its numbers.
        ended_at: when it was promoted, rolled back or aborted.
    """

    endpoint_id: str
    number: int
    stable: int
    plan: CanaryPlan
    state: CanaryState = CanaryState.PENDING
    step: int = 0
    step_at: float
    created_at: float
    created_by: str
    message: str = ""
    ended_at: float | None = None

    @property
    def live(self) -> bool:
        """It is not decided yet."""
        return self.state in LIVE_CANARY


class SplitTally(Record, frozen=True, kw_only=True):
    """What an endpoint's revisions were asked since its split came into force. Its id is the endpoint's.

    A gateway's numbers begin at 0 with it and only grow. So what counts is what those that are gone saw, and what the others saw since.

    Attributes:
        since: Unix seconds when the split came into force.
        bases: gateway → what it had counted when the split came into force; nothing for one that began later.
        carried: what gateways that are gone counted since.
    """

    since: float
    bases: dict[Id, dict[Id, RevisionTraffic]] = msgspec.field(default_factory=dict)
    carried: dict[Id, RevisionTraffic] = msgspec.field(default_factory=dict)


class RevisionResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one revision does, since the split came into force.

    Attributes:
        share: its part of the traffic, from 0 to 1; a shadow has none.
        replicas: that answer now.
        error_rate: of answers 5xx.
        error_rate_low, error_rate_high: an interval that holds the true rate with 95 %, however often one looks.
        latency_p50_s, latency_p90_s, latency_p99_s: upper ends of the bins they fall in (a quarter wide); None without requests.
        labelled, wrong: rows of a classification with a label (`feedback.give`), of answers since then and at
            most the last month; only where revisions are compared. A shadow's answers have none.
        wrong_rate: None without labels; low and high hold the true rate with 95 %.
    """

    revision: Id
    number: int
    version_label: str
    share: float = 0.0
    shadow: bool = False
    replicas: int = 0
    requests: Count = 0
    client_errors: Count = 0
    server_errors: Count = 0
    error_rate: float = 0.0
    error_rate_low: float = 0.0
    error_rate_high: float = 1.0
    latency_p50_s: float | None = None
    latency_p90_s: float | None = None
    latency_p99_s: float | None = None
    labelled: Count = 0
    wrong: Count = 0
    wrong_rate: float | None = None
    wrong_rate_low: float = 0.0
    wrong_rate_high: float = 1.0


class SplitVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What can be said of one revision against the baseline, at any time and however often one looks.

    Attributes:
        p_worse, p_better: always-valid p-values: that its error rate is not above, not below the baseline's.
        p_more_wrong, p_less_wrong: the same of its rows with a label; None while one of the two has none.
        message: in words.
    """

    number: int
    baseline: int
    p_worse: float
    p_better: float
    p_more_wrong: float | None = None
    p_less_wrong: float | None = None
    message: Text


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The revisions that share an endpoint's traffic, side by side.

    Attributes:
        since: Unix seconds from which on was counted.
        baseline: the revision that the others are compared with: of those with traffic the oldest, or a canary's stable one.
    """

    endpoint: Id
    endpoint_name: str
    since: float
    baseline: int
    revisions: Annotated[tuple[RevisionResult, ...], Meta(max_length=200)] = ()
    verdicts: Annotated[tuple[SplitVerdict, ...], Meta(max_length=200)] = ()
