import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.rooms.monitoring.model import (
    ALERT_MOVES,
    DEFAULT_RULES,
    Alert,
    AlertRule,
    AlertState,
    FeatureDrift,
    Latency,
    Signal,
    Traffic,
)
from skyloom.rooms.monitoring.rules import AlertMove, Reading, evaluate, readings
from skyloom.rooms.monitoring.windows import Window

RULE = AlertRule(signal=Signal.ERROR_RATE, threshold=0.1, clear_below=0.8, hold_s=60)


def reading(value: float, signal: Signal = Signal.ERROR_RATE) -> dict[Signal, Reading]:
    return {signal: Reading(signal=signal, value=value, message="")}


def alert(state: AlertState, fired_at: float = 0.0) -> dict[Signal, Alert]:
    found = Alert(
        id="alert_1",
        project="p",
        endpoint="e",
        signal=Signal.ERROR_RATE,
        state=state,
        value=0.2,
        threshold=0.1,
        message="",
        fired_at=fired_at,
    )
    return {Signal.ERROR_RATE: found}


def states(moves: list[AlertMove]) -> list[tuple[AlertState | None, AlertState]]:
    return [(move.before, move.after) for move in moves]


@pytest.mark.parametrize(
    ("value", "state", "now", "expected"),
    [
        (0.10, None, 100, []),  # at the threshold is not above it
        (0.11, None, 100, [(None, AlertState.FIRING)]),
        (0.11, AlertState.FIRING, 100, []),
        (0.11, AlertState.ACKNOWLEDGED, 100, []),
        (0.11, AlertState.RESOLVED, 100, [(AlertState.RESOLVED, AlertState.FIRING)]),
        (0.09, AlertState.FIRING, 100, []),  # inside the band
        (0.08, AlertState.FIRING, 100, [(AlertState.FIRING, AlertState.RESOLVED)]),
        (0.08, AlertState.ACKNOWLEDGED, 100, [(AlertState.ACKNOWLEDGED, AlertState.RESOLVED)]),
        (0.0, AlertState.FIRING, 59, []),  # not open long enough
        (0.0, AlertState.RESOLVED, 100, []),
    ],
)
def test_evaluate_one_reading_moves_as_the_table_says(
    value: float, state: AlertState | None, now: float, expected: list[tuple[AlertState | None, AlertState]]
):
    assert states(evaluate([RULE], reading(value), alert(state) if state else {}, now)) == expected


def test_evaluate_without_a_reading_moves_nothing():
    assert evaluate([RULE], {}, alert(AlertState.FIRING), 1_000) == []


def test_evaluate_without_the_rule_ends_what_is_open():
    assert states(evaluate([], {}, alert(AlertState.FIRING), 10)) == [(AlertState.FIRING, AlertState.RESOLVED)]
    assert evaluate([], {}, alert(AlertState.RESOLVED), 10) == []


@given(st.lists(st.tuples(st.floats(0.5, 10), st.floats(0, 0.3)), max_size=120))
def test_evaluate_any_history_makes_legal_moves_settles_at_once_and_hardly_flaps(history: list[tuple[float, float]]):
    now, alerts, fired = 0.0, dict[Signal, Alert](), list[float]()
    for pause, value in history:
        now += pause
        moves = evaluate([RULE], reading(value), alerts, now)
        assert len(moves) <= 1
        for move in moves:
            if move.before is not None:
                ALERT_MOVES.check("alert_1", move.before, move.after)
            fired_at = now if move.after is AlertState.FIRING else alerts[Signal.ERROR_RATE].fired_at
            alerts = alert(move.after, fired_at)
            fired += [now] * (move.after is AlertState.FIRING)
        assert evaluate([RULE], reading(value), alerts, now) == []
    assert all(later - earlier >= RULE.hold_s for earlier, later in itertools.pairwise(fired))


def test_readings_of_a_quiet_endpoint_are_none():
    quiet = Window(since=0, until=60, traffic=Traffic(requests=19, server_errors=19))
    assert readings(DEFAULT_RULES, dict.fromkeys(Signal, quiet), ()) == {}


def test_readings_of_a_busy_endpoint_have_the_figures_in_words():
    traffic = Traffic(requests=100, server_errors=5, latency=Latency(counts={60: 98, 70: 2}))
    found = readings(DEFAULT_RULES, dict.fromkeys(Signal, Window(since=0, until=60, traffic=traffic)), ())
    assert found[Signal.ERROR_RATE].value == 0.05
    assert found[Signal.ERROR_RATE].message == "5 of 100 requests failed (5.0%) in 60 s."
    assert found[Signal.LATENCY_P99_S].value == pytest.approx(1e-6 * 1.25**71)


def feature(name: str, psi: float, distance: float, rows: int = 500) -> FeatureDrift:
    return FeatureDrift(
        name=name,
        is_output=False,
        rows=rows,
        psi=psi,
        psi_by_chance=0.1,
        distance=distance,
        distance_by_chance=0.1,
        beyond_chance=distance > 0.1,
        drifted=psi > 0.2 and distance > 0.1,
        missing_share=0,
        edges=(),
        expected_shares=(1.0,),
        seen_shares=(1.0,),
    )


def test_readings_of_drift_name_the_worst_feature_beyond_chance():
    window = {Signal.DRIFT: Window(since=0, until=60, traffic=Traffic())}
    rows = (feature("age", 0.9, 0.05), feature("income", 0.4, 0.3), feature("height", 0.3, 0.2))
    found = readings(DEFAULT_RULES, window, rows)[Signal.DRIFT]
    assert found.value == 0.4
    assert "'income'" in found.message
    assert readings(DEFAULT_RULES, window, (feature("age", 0.9, 0.05),))[Signal.DRIFT].value == 0
    assert readings(DEFAULT_RULES, window, (feature("age", 0.9, 0.5, rows=199),)) == {}
