"""Nouns of monitoring: mergeable histograms, the profile a model was trained on, what was seen since, and alerts."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Count, Cursor, Id, Limit
from skyloom.core.errors import InvalidInput, NotFound
from skyloom.core.operation import Operation, Page, Right, operation
from skyloom.core.states import Moves
from skyloom.ports.store import Record


class Reduction(enum.StrEnum):
    """How one row of a tensor becomes the one number that a histogram counts."""

    COLUMN = "column"  # the element at `column` of the flattened row
    MEAN = "mean"  # over all elements of the row
    DEVIATION = "deviation"  # standard deviation over all elements of the row
    ARGMAX = "argmax"  # index of the largest element: the predicted class
    MAXIMUM = "maximum"  # the largest element: the winning score


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """One watched number per row.

    Attributes:
        name: for people: "pixel mean", "age", "predicted class".
        tensor: name of the input or output tensor it is read from.
        is_output: read from an output (a prediction) rather than an input.
        edges: sorted inner bin edges; k edges make k + 1 bins, the first and the last open to infinity. A value on an edge
            belongs to the bin above it. NaN is counted in ``Histogram.missing``.
    """

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    tensor: str
    is_output: bool = False
    reduction: Reduction
    column: int = 0
    edges: Annotated[tuple[float, ...], Meta(max_length=200)]


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Counts per bin. Two histograms over the same edges merge by adding."""

    counts: Annotated[tuple[Count, ...], Meta(max_length=201)]
    missing: Count = 0

    @property
    def total(self) -> int:
        return sum(self.counts) + self.missing


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's inputs and predictions look like on its training version. ``histograms[i]`` belongs to ``features[i]``.

    Made from held-out rows of that version: on rows that it was fitted on, a model is surer of itself than it will ever be again,
    and healthy traffic would look like drift.
    """

    features: Annotated[tuple[Feature, ...], Meta(max_length=512)] = ()
    histograms: Annotated[tuple[Histogram, ...], Meta(max_length=512)] = ()


FIRST_BIN_S = 1e-6
BIN_GROWTH = 1.25
MAX_BINS = 120


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Request durations, counted in bins that grow by a quarter: bin i holds durations in [1 µs · 1.25^i, 1 µs · 1.25^(i+1))."""

    counts: Annotated[dict[Annotated[int, Meta(ge=0, le=200)], Count], Meta(max_length=MAX_BINS)] = {}


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica saw since it started; every number only grows, so a lost report loses nothing.

    Attributes:
        requests: answered, whatever the answer.
        rows: predicted.
        client_errors, server_errors: answers 4xx and 5xx (gRPC: by the matching code).
        histograms: one per feature of the model's profile, in its order.
    """

    requests: Count = 0
    rows: Count = 0
    client_errors: Count = 0
    server_errors: Count = 0
    latency: Latency = Latency()
    histograms: Annotated[tuple[Histogram, ...], Meta(max_length=512)] = ()


class ProfileUnreadable(InvalidInput):
    """The profile in a model's bundle is not one."""


class RulesUnclear(InvalidInput):
    """The alert rules cannot be meant together."""


class AlertMissing(NotFound):
    """No such alert in this project."""


class NotWatched(NotFound):
    """No such endpoint in this project, or nothing was ever deployed to it."""


class AlertState(enum.StrEnum):
    """Where an alert stands."""

    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"  # a person has seen it; the cause is still there
    RESOLVED = "resolved"


ALERT_MOVES = Moves(
    "alert",
    {
        AlertState.FIRING: (AlertState.ACKNOWLEDGED, AlertState.RESOLVED),
        AlertState.ACKNOWLEDGED: (AlertState.RESOLVED,),
        AlertState.RESOLVED: (AlertState.FIRING,),  # it came back
    },
)


class Signal(enum.StrEnum):
    """What an alert rule looks at. The unit is in the name."""

    LATENCY_P99_S = "latency_p99_s"
    ERROR_RATE = "error_rate"  # share of requests answered with a server error
    DRIFT = "drift"  # largest population stability index of a feature that moved beyond chance
    BUDGET = "budget"  # share of a budget that is used; the cost room says so, and no rule of an endpoint looks at it


class AlertRule(msgspec.Struct, frozen=True, kw_only=True):
    """When an endpoint is in trouble. One signal has at most one rule at an endpoint.

    Attributes:
        threshold: trouble is above this.
        clear_below: the alert ends only below this share of the threshold, so that a value that hovers there does not flap.
        min_count: requests (drift: rows) that a window must hold before it says anything.
        window_s: how far the window reaches back (drift takes the shortest window with ``min_count`` rows instead).
        hold_s: the least time an alert stays open.
    """

    signal: Signal
    threshold: Annotated[float, Meta(gt=0)]
    clear_below: Annotated[float, Meta(gt=0, le=1)] = 0.8
    min_count: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    window_s: Annotated[float, Meta(gt=0, le=900)] = 60.0
    hold_s: Annotated[float, Meta(ge=0, le=86_400)] = 60.0


DEFAULT_RULES = (
    AlertRule(signal=Signal.LATENCY_P99_S, threshold=1.0),
    AlertRule(signal=Signal.ERROR_RATE, threshold=0.02),
    AlertRule(signal=Signal.DRIFT, threshold=0.2, min_count=200),
)


class Watch(Record, frozen=True, kw_only=True):
    """That an endpoint is watched, against what, by which rules. Its id is the endpoint's id.

    Attributes:
        profile: digest of the profile of the model version that the endpoint serves now; empty when the model has none.
    """

    endpoint_name: str = ""
    profile: str = ""
    rules: Annotated[tuple[AlertRule, ...], Meta(max_length=10)] = DEFAULT_RULES
    active: bool = True


class Alert(Record, frozen=True, kw_only=True):
    """The one alert of an endpoint and a signal. It fires again instead of a second one being made; its events tell its history.

    A budget has one for each of its thresholds; ``endpoint`` is then ``<id of the budget>:<percent>``, and ``endpoint_name`` what
    people call it.

    Attributes:
        endpoint: id of the endpoint.
        value: the reading at its latest move, in the signal's unit.
        message: what was seen, in words.
        fired_at: latest time it began to fire; Unix seconds, like the others.
        acknowledged_by: who has seen it; empty while nobody has.
        times_fired: how often, this time included.
    """

    endpoint: str
    endpoint_name: str = ""
    signal: Signal
    state: AlertState = AlertState.FIRING
    value: float
    threshold: float
    message: str
    fired_at: float
    acknowledged_by: str = ""
    resolved_at: float | None = None
    times_fired: int = 1


class FeatureDrift(msgspec.Struct, frozen=True, kw_only=True):
    """How far one feature has moved from training.

    Attributes:
        rows: in the window that was compared.
        psi: population stability index.
        distance: largest gap of the cumulative shares (KS), or for predicted classes chi-square.
        psi_by_chance, distance_by_chance: what the two would stay below without a shift.
        beyond_chance: both are above that.
        drifted: so, and the index is above the rule's threshold, on enough rows.
        missing_share: rows without a value.
        edges, expected_shares, seen_shares: the two histograms, for looking at.
    """

    name: str
    is_output: bool
    rows: int
    psi: float
    psi_by_chance: float
    distance: float
    distance_by_chance: float
    beyond_chance: bool
    drifted: bool
    missing_share: float
    edges: tuple[float, ...]
    expected_shares: tuple[float, ...]
    seen_shares: tuple[float, ...]


class Monitor(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one endpoint over its latest window.

    Attributes:
        window_s: the true length of the window; rates divide by it.
        error_rate: server errors by requests.
        latency_p50_s, latency_p90_s, latency_p99_s: upper ends of the bins they fall in (a quarter wide); None without requests.
        drift: worst first; empty when the model has no profile.
        alerts: those that are open.
    """

    endpoint: str
    endpoint_name: str
    replicas: int
    window_s: float
    requests: int
    rows: int
    requests_per_s: float
    rows_per_s: float
    client_errors: int
    server_errors: int
    error_rate: float
    latency_p50_s: float | None
    latency_p90_s: float | None
    latency_p99_s: float | None
    drift: tuple[FeatureDrift, ...] = ()
    alerts: tuple[Alert, ...] = ()


@operation("alerts.list", Right.READ, "GET /alerts")
class ListAlerts(Operation[Page[Alert]], frozen=True, kw_only=True):
    """List alerts, newest first: of one endpoint (its name or id) or all, in one state or any."""

    endpoint: Id | None = None
    state: AlertState | None = None
    cursor: Cursor | None = None
    limit: Limit = 50


@operation("alerts.acknowledge", Right.RUN, "POST /alerts/{alert_id}/acknowledge")
class AcknowledgeAlert(Operation[Alert], frozen=True, kw_only=True):
    """Say that a person has seen a firing alert. Doing it again changes nothing."""

    alert_id: Id


@operation("endpoints.monitor", Right.READ, "GET /endpoints/{name}/monitor")
class GetMonitor(Operation[Monitor], frozen=True, kw_only=True):
    """Show rate, errors, latency and drift of one endpoint, by its name or id, over the last ``window_s``."""

    name: Id
    window_s: Annotated[float, Meta(gt=0, le=900)] = 60.0
    num_features: Limit = 20


@operation("endpoints.rules", Right.RUN, "PUT /endpoints/{name}/alert-rules")
class SetAlertRules(Operation[Watch], frozen=True, kw_only=True):
    """Say when one endpoint is in trouble: replaces its rules, at most one per signal; none silences it."""

    name: Id
    rules: Annotated[tuple[AlertRule, ...], Meta(max_length=10)]


OPERATIONS = (ListAlerts, AcknowledgeAlert, GetMonitor, SetAlertRules)
