"""The rule of scaling, over loads that hypothesis thinks of: bounds, no flapping, monotone, panic, sleep, clocks that are set."""

import itertools
import math
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.rooms.serving.load import LoadHistory, LoadMemory
from skyloom.rooms.serving.policy import decide, explained
from skyloom.rooms.serving.scaling import (
    Autoscaling,
    Foresight,
    LoadSample,
    ScaleCourse,
    ScaleDecision,
    ScaleReason,
    ScaleSignal,
    ScalingUnclear,
    ScheduledFloor,
    check_scaling,
)

START = 1_700_000_000.0  # Tuesday 14 November 2023, 22:13:20 UTC
LINEAR = [signal for signal in ScaleSignal if signal.adds_up]

scalings = st.builds(
    Autoscaling,
    min_replicas=st.integers(0, 3),
    max_replicas=st.integers(3, 12),
    signal=st.sampled_from(list(ScaleSignal)),
    target=st.floats(0.05, 1.0),
    window_s=st.floats(6, 120),
    panic_window=st.floats(0.01, 1),
    panic_threshold=st.sampled_from([0.0, 1.5, 2.0, 10.0]),
    scale_up_delay_s=st.sampled_from([0.0, 7.0, 30.0]),
    scale_down_delay_s=st.sampled_from([0.0, 7.0, 90.0]),
    max_up_rate=st.floats(1.01, 1_000),
    max_down_rate=st.floats(1.01, 1_000),
    scale_to_zero_after_s=st.floats(1, 100),
)


def sample(at: float, amount: float, replicas: int = 1, span_s: float = 1.0) -> LoadSample:
    """A second of load, the same by every signal: ``amount`` replicas' worth of work at a target of 1."""
    share = min(1.0, amount / replicas) if replicas else 0.0
    delay_s = amount / max(replicas, 0.5)
    return LoadSample(
        at=at,
        span_s=span_s,
        replicas=replicas,
        arrived=round(amount * span_s),
        concurrency=amount,
        held=0 if replicas else math.ceil(amount),
        queue_delay_s=delay_s,
        latency_s=delay_s if amount else None,
        utilisation=share,
        gpu=share,
    )


class Run:
    """An endpoint whose replicas are there as soon as they are wanted."""

    def __init__(self, scaling: Autoscaling, current: int = 1, at: float = START) -> None:
        self.scaling, self.current, self.at = scaling, current, at
        self.load = LoadHistory.of(scaling)
        self.course: ScaleCourse | None = None
        self.said: list[ScaleDecision] = []

    def second(self, amount: float | None, step_s: float = 1.0) -> ScaleDecision:
        self.at += step_s
        if amount is not None:
            self.load.add(sample(self.at, amount, self.current))
        decision = decide(self.scaling, self.load, self.current, self.at, self.course)
        self.course, self.current = decision.course, decision.wanted
        self.said.append(decision)
        return decision

    def play(self, amounts: Iterable[float | None]) -> list[int]:
        return [self.second(amount).wanted for amount in amounts]


@given(scalings, st.lists(st.floats(0, 50) | st.none(), max_size=60), st.integers(0, 20))
@settings(max_examples=150, deadline=None)
def test_decisions_whatever_comes_stay_within_the_bounds_and_look_ahead(scaling, amounts, current) -> None:
    run = Run(scaling, current)
    for amount in amounts:
        decision = run.second(amount)
        assert scaling.min_replicas <= decision.wanted <= scaling.max_replicas
        assert decision.again_at > run.at
        assert decision.why.endswith(".")
        assert len(decision.course.highs) <= scaling.max_replicas + 2
        assert len(decision.course.lows) <= scaling.max_replicas + 2
        assert len(decision.course.too_small) <= scaling.max_replicas + 1


@given(scalings, st.floats(0, 12), st.integers(0, 12))
@settings(max_examples=25, deadline=None)
def test_constant_load_reaches_a_size_and_keeps_it(scaling, amount, current) -> None:
    run = Run(scaling, current)
    sizes = run.play([amount] * 3_000)  # a step at a time, with its longest delays and windows
    assert len(set(sizes[-400:])) == 1
    turns = [later - earlier for earlier, later in itertools.pairwise(sizes) if later != earlier]
    assert sum(one * other < 0 for one, other in itertools.pairwise(turns)) <= 3


@given(
    scalings.map(lambda one: msgspec.structs.replace(one, signal=ScaleSignal.CONCURRENCY)),
    st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30)), min_size=1, max_size=40),
    st.integers(0, 8),
)
@settings(max_examples=150, deadline=None)
def test_more_load_never_wants_fewer(scaling, pairs, current) -> None:
    less, more = LoadHistory.of(scaling), LoadHistory.of(scaling)
    for second, (amount, extra) in enumerate(pairs):
        less.add(sample(START + second, amount))
        more.add(sample(START + second, amount + extra))
    now = START + len(pairs)
    assert (
        decide(scaling, less, current, now).wanted <= decide(scaling, more, current, now).wanted
        or current > scaling.max_replicas
    )


@given(scalings, st.lists(st.floats(0, 50), max_size=120))
@settings(max_examples=150, deadline=None)
def test_panic_takes_nothing_away(scaling, amounts) -> None:
    run = Run(scaling, scaling.min_replicas)
    before = run.current
    for amount in amounts:
        decision = run.second(amount)
        if decision.course.panic_at is not None and run.at - decision.course.panic_at < scaling.window_s:
            assert decision.wanted >= before
        before = decision.wanted


@given(
    scalings.map(lambda one: msgspec.structs.replace(one, min_replicas=0)),
    st.lists(st.sampled_from([0.0, 0.0, 0.0, 3.0]), max_size=200),
)
@settings(max_examples=100, deadline=None)
def test_sleep_comes_only_after_the_quiet_time(scaling, amounts) -> None:
    run = Run(scaling)
    quiet_since = run.at
    for amount in amounts:
        before = run.current
        decision = run.second(amount)
        quiet_since = run.at if amount else quiet_since
        if decision.wanted == 0 < before:
            assert run.at - quiet_since >= scaling.scale_to_zero_after_s - 1e-6
        if amount:
            assert decision.wanted > 0


@given(scalings, st.lists(st.floats(0, 20), min_size=5, max_size=60), st.floats(0, 1e7), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_clock_set_back_takes_nothing_away_until_a_window_was_seen(scaling, amounts, back_s, seconds) -> None:
    run = Run(scaling)
    run.play(amounts)
    before = run.current
    run.at -= back_s + scaling.window_s + 10
    run.second(None, 0.0)
    assert run.current >= before
    for _ in range(min(seconds, math.floor(scaling.window_s * 0.75) - 1)):
        run.second(0.0)
        assert run.current >= before
    run.play([0.0] * 1_000)
    assert run.current == scaling.min_replicas if scaling.signal.adds_up else run.current <= max(before, 1)


def test_load_that_needs_three_gets_three_and_a_sentence() -> None:
    run = Run(Autoscaling(max_replicas=8, target=8.0, panic_threshold=0.0))
    run.play([20.0] * 90)
    assert run.current == 3
    assert run.said[0].reason is ScaleReason.LOAD
    assert run.said[-1].reason is ScaleReason.STEADY
    assert "20 requests at once over 60 s, at a target of 8 each." in run.said[-1].why


def test_burst_from_nothing_to_fifty_times_and_back_moves_up_once_and_down_once() -> None:
    """0 → 50x → 0, as the reliability suite asks: no move against the direction of the load."""
    run = Run(Autoscaling(min_replicas=0, max_replicas=10, target=5.0, scale_down_delay_s=30.0), current=0)
    sizes = run.play([0.0] * 100 + [50.0] * 60 + [0.0] * 300)
    assert sizes[99] == 0
    assert sizes[100] == 10  # at once: the requests that wait say how many are needed
    assert sizes[159] == 10
    assert sizes[-1] == 0
    directions = [later > earlier for earlier, later in itertools.pairwise(sizes) if later != earlier]
    assert directions == sorted(directions, reverse=True)


def test_burst_at_a_running_endpoint_is_a_panic_and_is_held_for_a_window() -> None:
    run = Run(Autoscaling(max_replicas=10, target=5.0, scale_down_delay_s=0.0))
    run.play([4.0] * 100)
    assert run.current == 1
    run.play([40.0] * 6)
    assert run.current == 8
    assert ScaleReason.PANIC in {one.reason for one in run.said}
    run.play([4.0] * 50)
    assert run.current == 8
    run.play([4.0] * 80)
    assert run.current == 1


def test_growing_and_shrinking_keep_to_their_rates() -> None:
    run = Run(Autoscaling(max_replicas=64, target=1.0, max_up_rate=2.0, scale_down_delay_s=0.0, panic_threshold=0.0))
    sizes = run.play([64.0] * 40 + [0.0] * 200)
    for second in range(6, len(sizes)):
        assert sizes[second] <= max(sizes[second - 6] * 4, 4)  # at most two steps touch seven seconds
        assert sizes[second] >= sizes[second - 6] // 4 - 1
    assert sizes[39] == 64
    assert sizes[-1] == 1


def test_metrics_lost_for_five_minutes_keep_the_size() -> None:
    run = Run(Autoscaling(min_replicas=0, max_replicas=8, target=4.0))
    run.play([20.0] * 120)
    assert run.current == 5
    assert set(run.play([None] * 300)) == {5}
    assert run.said[-1].reason is ScaleReason.UNSEEN


def test_restart_without_samples_takes_nothing_away_until_a_window_was_seen() -> None:
    run = Run(Autoscaling(min_replicas=0, max_replicas=8, target=4.0, scale_to_zero_after_s=10.0), current=5)
    assert set(run.play([None] * 100)) == {5}
    assert set(run.play([0.0] * 44)) == {5}
    run.play([0.0] * 100)
    assert run.current == 0


def test_report_that_is_late_is_no_quiet_and_wakes_nobody_twice() -> None:
    """What was seen last is a request. A second later nobody has said anything more, which is not the same as nobody asking."""
    run = Run(Autoscaling(min_replicas=0, window_s=6.0, scale_to_zero_after_s=1.0, scale_down_delay_s=0.0))
    run.play([0.0] * 8 + [1.0])
    assert set(run.play([None] * 12)) == {1}
    sizes = run.play([0.0] * 20 + [None] * 12)
    assert sizes[-1] == 0
    assert sizes == sorted(sizes, reverse=True)


def test_schedule_holds_its_floor_and_begins_a_cold_start_earlier() -> None:
    floor = ScheduledFloor(start="0 8 * * mon-fri", end="0 18 * * mon-fri", time_zone="Europe/Berlin", min_replicas=3)
    scaling = Autoscaling(max_replicas=4, floors=(floor,))
    load = LoadHistory.of(scaling)
    load.lead_s = 20.0
    eight = 1_700_031_600.0  # Wednesday 15 November 2023, 08:00 in Berlin
    wanted = [decide(scaling, load, 1, eight + shift).wanted for shift in (-100, -19, 0, 3_600 * 10 - 1, 3_600 * 10)]
    assert wanted == [1, 3, 3, 3, 1]
    early = decide(scaling, load, 1, eight - 50)
    assert early.again_at <= eight - 20
    assert decide(scaling, load, 1, eight).reason is ScaleReason.SCHEDULE


def test_foresight_keeps_ready_what_the_same_time_of_earlier_days_needed() -> None:
    scaling = Autoscaling(
        max_replicas=10, target=1.0, foresight=Foresight(num_days=3, quantile=1.0, same_weekday=False)
    )
    load = LoadHistory.of(scaling)
    day = 86_400
    for second in range(0, 2 * day, 30):
        busy = 36_000 <= second % day < 39_600
        load.add(sample(START + second, 6.0 if busy else 0.2, span_s=30.0))
    third = START + 2 * day
    load.lead_s = 5.0
    wanted = [decide(scaling, load, 1, third + shift).wanted for shift in (30_000, 35_990, 37_000, 50_000)]
    assert wanted == [1, 6, 6, 1]
    assert decide(scaling, load, 1, third + 37_000).reason is ScaleReason.FORECAST


def test_latency_above_its_target_grows_until_it_is_kept_and_stays() -> None:
    run = Run(Autoscaling(signal=ScaleSignal.LATENCY, target=0.5, max_replicas=16))
    sizes = run.play([4.0] * 2_000)
    assert 8 <= sizes[-1] <= 16
    assert len(set(sizes[-600:])) == 1


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        (Autoscaling(min_replicas=5, max_replicas=4), "At least 5"),
        (Autoscaling(signal=ScaleSignal.GPU, target=8.0), "a share"),
        (Autoscaling(floors=(ScheduledFloor(start="0 8 * * *", end="0 9 * * *", min_replicas=9),)), "at most 4"),
        (Autoscaling(floors=(ScheduledFloor(start="0 8 * * *", end="0  8 * * *"),)), "same moments"),
        (Autoscaling(signal=ScaleSignal.LATENCY, foresight=Foresight()), "earlier days"),
    ],
)
def test_scaling_that_cannot_be_meant_is_refused(scaling, words) -> None:
    with pytest.raises(ScalingUnclear) as refused:
        check_scaling(scaling)
    assert words in f"{refused.value} {refused.value.next_action}"


@pytest.mark.parametrize("signal", LINEAR)
def test_signals_that_add_up_need_in_proportion(signal: ScaleSignal) -> None:
    run = Run(Autoscaling(signal=signal, target=0.5, max_replicas=20, panic_threshold=0.0))
    run.play([4.0] * 400)
    assert run.current == 8


@given(st.integers(1, 5), st.integers(1, 5), st.lists(st.tuples(st.integers(0, 3_000), st.floats(0, 9)), max_size=20))
@settings(deadline=None)
def test_memory_of_days_outlives_a_restart_also_into_another_number_of_days(before, after, steps) -> None:
    def history(num_days: int) -> LoadHistory:
        return LoadHistory.of(Autoscaling(foresight=Foresight(num_days=num_days)))

    told, straight, at = history(before), history(after), START
    for minutes, amount in steps:
        at += 60.0 * minutes
        for load in (told, straight):
            load.add(sample(at, amount))
    recalled = history(after)
    if told.memory is not None:
        recalled.recall(msgspec.json.decode(msgspec.json.encode(told.memory), type=LoadMemory))
    days = min(before, after)
    for shift_s in (0.0, 3_600.0, 40_000.0):
        looked = at + shift_s
        found = [load.same_time(looked, looked + 60, same_weekday=False) for load in (recalled, straight)]
        assert set(found[0]) <= set(found[1])
        if after <= before:
            assert found[0] == found[1]
    assert days >= 1


def test_memory_of_another_signal_is_not_taken_over() -> None:
    scaling = Autoscaling(foresight=Foresight(num_days=1))
    told, other = LoadHistory.of(scaling), LoadHistory.of(msgspec.structs.replace(scaling, signal=ScaleSignal.RATE))
    told.add(sample(START, 3.0))
    other.recall(told.memory)
    assert other.memory is None


def test_memory_stays_bounded_over_days() -> None:
    scaling = Autoscaling(foresight=Foresight(num_days=2))
    load = LoadHistory.of(scaling)
    for step in range(5_000):
        load.add(sample(START + step * 100, 1.0, span_s=100.0))
    assert len(load._sums) <= scaling.window_s + 2
    assert len(load._minutes) == 3 * 1_440


@given(scalings, st.lists(st.sampled_from([0.0, 0.5, 3.0, 9.0]), min_size=1, max_size=40))
def test_note_says_what_was_decided_and_no_moment_of_it_is_over(scaling, amounts):
    check_scaling(scaling)
    run = Run(scaling)
    for amount in amounts:
        decision = run.second(amount)
        note = explained(scaling, run.load, decision, run.at)
        assert (note.wanted, note.reason, note.why) == (decision.wanted, decision.reason, decision.why)
        assert note.floor <= note.wanted <= scaling.max_replicas
        moments = (note.panic_until, note.delay_until)
        assert all(moment > run.at - 1e-6 for moment in moments if moment is not None)
        assert (note.delay_until is None) == (decision.reason is not ScaleReason.DELAY)


def test_note_of_a_burst_says_until_when_nothing_is_taken_away_and_when_it_sleeps():
    scaling = Autoscaling(min_replicas=0, max_replicas=9, target=1.0, window_s=10, scale_to_zero_after_s=60)
    run = Run(scaling)
    for amount in [1.0] * 20 + [8.0] * 3:
        decision = run.second(amount)
    note = explained(scaling, run.load, decision, run.at)
    assert note.reason is ScaleReason.PANIC and note.panic_until == START + 21 + 10
    assert (note.burst, note.needed, note.floor) == (8.0, 4, 0)
    assert note.sleeps_at == run.at + 60


def test_quiet_endpoint_sleeps_when_its_quiet_time_is_over_whatever_the_delay_of_shrinking() -> None:
    scaling = Autoscaling(min_replicas=0, target=1.0, window_s=10, scale_to_zero_after_s=20, scale_down_delay_s=300)
    run = Run(scaling)
    run.play([0.5] * 20)
    sizes = run.play([0.0] * 21)
    assert sizes.index(0) == 19
    assert run.said[-2].reason is ScaleReason.IDLE
