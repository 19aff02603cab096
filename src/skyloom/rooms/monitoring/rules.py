"""What counts as drift, what counts as trouble, and which moves of an alert follow. Pure: numbers in, decisions out."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from skyloom.core.events import BudgetReached, Event
from skyloom.ports.store import changed
from skyloom.rooms.monitoring.distances import (
    chi_square,
    chi_square_by_chance,
    gap_by_chance,
    largest_gap,
    population_stability,
    shares,
    stability_by_chance,
)
from skyloom.rooms.monitoring.model import (
    Alert,
    AlertMissing,
    AlertRule,
    AlertState,
    Feature,
    FeatureDrift,
    Histogram,
    Profile,
    Reduction,
    Signal,
    Watch,
)
from skyloom.rooms.monitoring.windows import Window, latency_quantile

# A window of healthy traffic alarms with at most this probability, whatever the number of features, because each feature gets
# an equal part of it. Windows are judged about once a second for months, so this must be far below the usual 0.05.
SIGNIFICANCE = 1e-6
OPEN = (AlertState.FIRING, AlertState.ACKNOWLEDGED)
NEXT_ACTIONS: dict[Signal, str] = {
    Signal.LATENCY_P99_S: "Add replicas or cores: skyloom deploy MODEL --name {owner} --replicas N.",
    Signal.ERROR_RATE: "Read what its replicas say: skyloom endpoint show {owner}.",
    Signal.DRIFT: "Compare live traffic with training: skyloom endpoint monitor {endpoint}. If the world has changed, train on newer data.",
    Signal.BUDGET: "See what it went for: skyloom cost --by job. Raise it or stop what is not needed: skyloom budget list.",
}
_LARGEST = 1e300  # stands for infinity, which JSON does not have


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One signal's value now, and in words."""

    signal: Signal
    value: float
    message: str


class AlertMove(msgspec.Struct, frozen=True, kw_only=True):
    """A change that one endpoint's alert needs. ``before`` is None when it never fired."""

    rule: AlertRule
    before: AlertState | None
    after: AlertState
    reading: Reading


def drift(profile: Profile, seen: Sequence[Histogram], *, limit: float, min_rows: int) -> tuple[FeatureDrift, ...]:
    """Compare each feature with training; worst first. Empty when ``seen`` is not of this profile.

    A feature has drifted when, on at least ``min_rows`` rows, its population stability index is above ``limit`` *and* the
    shift is beyond chance: the index itself above what chance gives it, and the KS distance, or for classes (which have no order)
    chi-square, above its critical value. Neither half alone would do: the index exceeds 0.2 by luck with many bins and few
    rows, and a significance test calls a shift of no importance certain once there are a million rows.
    """
    if not _belongs(profile, seen):
        return ()
    significance = SIGNIFICANCE / max(1, len(seen))
    rows = [
        _feature_drift(feature, expected, now, significance, limit, min_rows)
        for feature, expected, now in zip(profile.features, profile.histograms, seen, strict=True)
    ]
    return tuple(sorted(rows, key=lambda row: (not row.drifted, -row.psi)))


def readings(
    rules: Iterable[AlertRule], windows: Mapping[Signal, Window], compared: Sequence[FeatureDrift]
) -> dict[Signal, Reading]:
    """Read each rule's signal off its window. A signal with too little traffic to judge has no reading."""
    found = (_reading(rule, windows[rule.signal], compared) for rule in rules if rule.signal in windows)
    return {reading.signal: reading for reading in found if reading is not None}


def evaluate(
    rules: Iterable[AlertRule], seen: Mapping[Signal, Reading], alerts: Mapping[Signal, Alert], now: float
) -> list[AlertMove]:
    """Return the moves that one endpoint's alerts need; none when all is as it should be, so repeating it is free.

    An alert fires at once, since a reading already stands for a whole window. It ends when the value is well below the threshold
    and it was open for a while: both together bound how often it can flap. Without a reading nothing moves, because no traffic
    is no evidence; an alert whose rule was taken away ends.
    """
    moves = []
    rules_by_signal = {rule.signal: rule for rule in rules}
    for signal, rule in rules_by_signal.items():
        alert, reading = alerts.get(signal), seen.get(signal)
        if reading is not None and (after := _next_state(rule, reading, alert, now)):
            moves.append(AlertMove(rule=rule, before=alert.state if alert else None, after=after, reading=reading))
    moves.extend(
        _withdrawn(alert) for signal, alert in alerts.items() if signal not in rules_by_signal and is_open(alert)
    )
    return moves


def first_alert(identifier: str, watch: Watch, move: AlertMove, now: float) -> Alert:
    """The alert of an endpoint and a signal as it fires for the first time."""
    return Alert(
        id=identifier,
        project=watch.project,
        endpoint=watch.id,
        endpoint_name=watch.endpoint_name,
        signal=move.rule.signal,
        value=move.reading.value,
        threshold=move.rule.threshold,
        message=move.reading.message,
        fired_at=now,
    )


def budget_alert(identifier: str, event: Event, news: BudgetReached) -> Alert:
    """The alert of one threshold of a budget."""
    return Alert(
        id=identifier,
        project=event.project,
        endpoint=f"{event.subject}:{news.threshold:.0%}".removesuffix("%"),
        endpoint_name=news.budget,
        signal=Signal.BUDGET,
        value=news.share,
        threshold=news.threshold,
        message=news.message,
        fired_at=event.at,
    )


def budget_move(alert: Alert, news: BudgetReached) -> AlertMove | None:
    """The move that a threshold's alert needs; None when it is where it should be."""
    after = AlertState.RESOLVED if news.over else AlertState.FIRING
    if is_open(alert) is (after is AlertState.FIRING):
        return None
    rule = AlertRule(signal=Signal.BUDGET, threshold=news.threshold)
    reading = Reading(signal=Signal.BUDGET, value=news.share, message=news.message)
    return AlertMove(rule=rule, before=alert.state, after=after, reading=reading)


def moved(alert: Alert, move: AlertMove, now: float) -> Alert:
    """An alert after a move of the loop. When it fires again, nobody has seen it yet."""
    reading = {"state": move.after, "value": move.reading.value, "threshold": move.rule.threshold}
    if move.after is AlertState.RESOLVED:
        return changed(alert, {**reading, "resolved_at": now})
    again = {"fired_at": now, "resolved_at": None, "acknowledged_by": "", "times_fired": alert.times_fired + 1}
    return changed(alert, {**reading, **again, "message": move.reading.message})


def is_open(alert: Alert) -> bool:
    """True while the trouble lasts, seen by a person or not."""
    return alert.state in OPEN


def own(alert: Alert | None, alert_id: str, project: str) -> Alert:
    """The alert, if it is this project's. Raises `AlertMissing`, for somebody else's just the same."""
    if alert is None or alert.project != project:
        raise AlertMissing(f"There is no alert {alert_id}.", next_action="List them: skyloom alert list.")
    return alert


def _belongs(profile: Profile, seen: Sequence[Histogram]) -> bool:
    """True when the histograms are over the profile's bins; neither a bundle nor a replica is trusted with that."""
    if not len(profile.features) == len(profile.histograms) == len(seen):
        return False
    kinds = zip(profile.features, profile.histograms, seen, strict=True)
    return all(len(feature.edges) + 1 == len(then.counts) == len(now.counts) for feature, then, now in kinds)


def _next_state(rule: AlertRule, reading: Reading, alert: Alert | None, now: float) -> AlertState | None:
    if alert is None or not is_open(alert):
        return AlertState.FIRING if reading.value > rule.threshold else None
    calm = reading.value <= rule.threshold * rule.clear_below
    return AlertState.RESOLVED if calm and now - alert.fired_at >= rule.hold_s else None


def _withdrawn(alert: Alert) -> AlertMove:
    rule = AlertRule(signal=alert.signal, threshold=alert.threshold)
    reading = Reading(signal=alert.signal, value=alert.value, message="The endpoint is no longer watched for this.")
    return AlertMove(rule=rule, before=alert.state, after=AlertState.RESOLVED, reading=reading)


def _reading(rule: AlertRule, window: Window, compared: Sequence[FeatureDrift]) -> Reading | None:
    if rule.signal is Signal.DRIFT:
        return _drift_reading(rule, compared)
    if window.traffic.requests < rule.min_count:
        return None
    return _error_reading(window) if rule.signal is Signal.ERROR_RATE else _latency_reading(window)


def _error_reading(window: Window) -> Reading:
    traffic = window.traffic
    rate = traffic.server_errors / traffic.requests
    message = (
        f"{traffic.server_errors} of {traffic.requests} requests failed ({rate:.1%}) in {window.duration_s:.0f} s."
    )
    return Reading(signal=Signal.ERROR_RATE, value=rate, message=message)


def _latency_reading(window: Window) -> Reading | None:
    slowest = latency_quantile(window.traffic.latency, 0.99)
    if slowest is None:
        return None
    message = (
        f"99% of {window.traffic.requests} requests took up to {slowest * 1000:.3g} ms in {window.duration_s:.0f} s."
    )
    return Reading(signal=Signal.LATENCY_P99_S, value=slowest, message=message)


def _drift_reading(rule: AlertRule, compared: Sequence[FeatureDrift]) -> Reading | None:
    if not compared or max(row.rows for row in compared) < rule.min_count:
        return None
    moved = [row for row in compared if row.beyond_chance]
    if not moved:
        return Reading(signal=Signal.DRIFT, value=0.0, message="No feature has moved beyond chance.")
    worst = max(moved, key=lambda row: row.psi)
    message = (
        f"{len(moved)} of {len(compared)} features differ from training beyond chance, most of all {worst.name!r}: "
        f"stability index {worst.psi:.2f} (limit {rule.threshold:g}) over {worst.rows} rows."
    )
    return Reading(signal=Signal.DRIFT, value=worst.psi, message=message)


def _feature_drift(
    feature: Feature, expected: Histogram, seen: Histogram, significance: float, limit: float, min_rows: int
) -> FeatureDrift:
    psi = population_stability(expected, seen)
    if feature.reduction is Reduction.ARGMAX:
        distance, degrees = chi_square(expected, seen)
        by_chance = chi_square_by_chance(degrees, significance)
    else:
        distance = largest_gap(expected, seen)
        by_chance = gap_by_chance(expected.total, seen.total, significance)
    by_luck = stability_by_chance(expected, seen, significance)
    beyond_chance = distance > by_chance and psi > by_luck
    return FeatureDrift(
        name=feature.name,
        is_output=feature.is_output,
        rows=seen.total,
        psi=psi,
        psi_by_chance=min(by_luck, _LARGEST),
        distance=distance,
        distance_by_chance=min(by_chance, _LARGEST),
        beyond_chance=beyond_chance,
        drifted=seen.total >= min_rows and psi > limit and beyond_chance,
        missing_share=seen.missing / seen.total if seen.total else 0.0,
        edges=feature.edges,
        expected_shares=shares(expected),
        seen_shares=shares(seen),
    )
