"""Budgets, with the room's own clock: what is let in, what is stopped when, what is said."""

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.core.events import BudgetReached
from skyloom.core.operation import Caller
from skyloom.core.resources import Resources
from skyloom.rooms.cost import rules
from skyloom.rooms.cost.budget import (
    NOTICE_S,
    Allowance,
    BudgetExhausted,
    BudgetMissing,
    BudgetState,
    BudgetUnclear,
    DeleteBudget,
    GetBudget,
    ListBudgets,
    Period,
    SetBudget,
)
from skyloom.rooms.cost.model import CostBy, GetOutlook, SetPrices
from skyloom.rooms.cost.ports import BUDGETS, PLEDGES, RESERVATIONS
from skyloom.rooms.cost.prices import PriceBook
from tests.rooms.cost.place import ANN, Place, task

BOB = Caller(principal="bob", project="q", scope="q", rights=frozenset())


@pytest.fixture
def place() -> Place:
    return Place()


def spent(place: Place) -> float:
    return place.report(CostBy.PROJECT).total.cost.usd


def live(place: Place, seconds: float) -> dict[str, str]:
    """Let time pass as the loop does: look when it is due, and tell to stop whom it names."""
    told: dict[str, str] = {}
    end = place.clock.now() + seconds
    while True:
        verdict = place.judge()
        for job_id, why in verdict.halts.items():
            place.tell_to_stop(job_id)
            told[job_id] = why
        left = end - place.clock.now()
        step = min(left, math.inf if verdict.look_again_s is None or verdict.halts else verdict.look_again_s + 1e-3)
        if left <= 0:
            return told
        place.clock.advance(min(step, 1e-3) if verdict.halts else step)


# Letting in


@pytest.mark.parametrize(
    "limits",
    [{}, {"usd": 0.0}, {"usd": -1.0}, {"usd": math.nan}, {"gpu_hours": math.inf}, {"usd": 1.0, "cpu_hours": 0.0}],
)
def test_budget_of_nothing_or_of_no_amount_is_refused(limits: dict[str, float]):
    with pytest.raises(BudgetUnclear):
        SetBudget(limits=Allowance(**limits))


@pytest.mark.parametrize("usd", [0.0, 0.0034])  # a second of work, half a second of notice and two of grace cost 0.0035
def test_job_whose_own_budget_pays_for_nothing_is_refused(place: Place, usd: float):
    with pytest.raises(BudgetExhausted, match="could never run"):
        place.submit("job_1", limits=Allowance(usd=usd))


def test_job_whose_own_budget_pays_for_its_least_run_is_let_in(place: Place):
    place.submit("job_1", limits=Allowance(usd=0.0035))


def test_job_that_costs_more_than_is_left_is_refused_and_nothing_is_promised(place: Place):
    place.set(usd=0.1)
    place.submit("job_1", expected_s=60)
    with pytest.raises(BudgetExhausted, match=r"needs \$0.062500 and \$0.037500 of \$0.100000 is left"):
        place.submit("job_2", expected_s=60)
    assert place.set(usd=0.1).reserved.usd == pytest.approx(0.0625)
    place.submit("job_3", expected_s=30)


def test_job_that_ends_gives_back_what_it_did_not_use(place: Place):
    place.set(usd=0.1)
    place.submit("job_1", expected_s=90)
    place.start("job_1")
    place.clock.advance(10)
    with pytest.raises(BudgetExhausted):
        place.submit("job_2", expected_s=60)
    place.end("job_1")
    place.submit("job_2", expected_s=60)
    status = place.set(usd=0.1)
    assert (status.spent.usd, status.reserved.usd) == (0.01, 0.0625)


def test_job_with_a_budget_of_its_own_is_promised_that(place: Place):
    place.set(usd=0.1)
    place.submit("job_1", limits=Allowance(usd=0.08))
    with pytest.raises(BudgetExhausted, match=r"\$0.020000 of"):
        place.submit("job_2", expected_s=30)


def test_budget_of_a_user_refuses_his_jobs_and_nobody_elses(place: Place):
    place.set(usd=0.01, user="bob")
    place.submit("job_1", expected_s=60, user="ann")
    with pytest.raises(BudgetExhausted, match="The budget of user bob"):
        place.submit("job_2", expected_s=60, user="bob")


def test_budget_of_a_project_lets_another_project_be(place: Place):
    place.set(usd=0.01)
    place.submit("job_1", expected_s=60, project="q")


def test_job_that_uses_nothing_of_what_is_overdrawn_is_let_in(place: Place):
    place.set(gpu_hours=0.1)
    dear = Resources(cpus=1, gpus=1, memory_bytes=0)
    place.publish(msgspec.structs.replace(task("t1", 0, 1_000), resources=dear))
    place.submit("job_1", expected_s=60)


def test_submitting_the_same_job_again_promises_nothing_twice(place: Place):
    place.set(usd=0.1)
    place.submit("job_1", expected_s=60)
    place.submit("job_1", expected_s=60)
    assert place.set(usd=0.1).reserved.usd == pytest.approx(0.0625)


# Stopping in time


def test_job_is_told_to_stop_while_the_rest_pays_for_its_grace(place: Place):
    limits = Allowance(usd=0.03)
    place.start("job_1", limits=limits)
    assert place.judge().look_again_s == pytest.approx(30 - 2 - NOTICE_S)
    assert live(place, 27.4) == {}
    assert "Its own budget is used up" in live(place, 0.2)["job_1"]
    place.clock.advance(2 + NOTICE_S - 0.2)
    place.end("job_1")
    assert 0.0295 <= spent(place) <= 0.03


def test_budget_in_cpu_hours_stops_a_job_that_costs_nothing():
    place = Place(book=PriceBook())
    place.set(cpu_hours=20 / 3_600)
    place.start("job_1")
    assert live(place, 17) == {}
    assert "CPU-hours" in live(place, 1)["job_1"]


def test_job_within_its_promise_goes_on_while_a_loose_one_stops(place: Place):
    place.set(usd=0.1)
    place.submit("job_1", expected_s=60)
    place.submit("job_2")
    place.start("job_1")
    place.start("job_2")
    assert set(live(place, 37)) == {"job_2"}
    place.end("job_2")
    assert live(place, 19) == {}
    assert place.jobs["job_1"].told_at is None


def test_budget_that_is_lowered_stops_the_youngest_first_and_as_few_as_will_do(place: Place):
    place.set(usd=1.0)
    for job_id in ("job_1", "job_2", "job_3"):
        place.submit(job_id, expected_s=100)
        place.start(job_id)
    place.clock.advance(10)
    assert place.judge().halts == {}
    place.set(usd=0.25)
    assert set(place.judge().halts) == {"job_3"}


def test_price_that_rises_later_is_looked_at_when_it_does(place: Place):
    place.start("job_1", limits=Allowance(usd=10.0))
    later = SetPrices(pool="local", cpu_usd_per_hour=36_000.0, valid_from=place.clock.now() + 50)
    place.store.write(lambda tx: place.prices.set(tx, later, ANN))
    assert place.judge().look_again_s == pytest.approx(50)
    place.clock.advance(50)
    assert set(place.judge().halts) == {"job_1"}


JOBS = st.lists(
    st.tuples(
        st.integers(1, 3),  # workers
        st.floats(0, 5),  # grace
        st.none() | st.floats(1, 120),  # expected
        st.none() | st.floats(0.005, 0.3),  # own budget
        st.floats(0, 40),  # starts after the last one
        st.booleans(),  # uses all of its grace
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(JOBS, st.floats(0.02, 0.4))
def test_spending_is_never_over_any_limit_whatever_runs(
    jobs: list[tuple[int, float, float | None, float | None, float, bool]], usd: float
):
    """The loop looks when it said it would and at every start; programs take up to all of their grace to stop."""
    place = Place()
    place.set(usd=usd)
    ends: dict[str, float] = {}
    own: dict[str, float] = {}
    admitted = iter(sorted(enumerate(jobs)))
    upcoming = next(admitted, None)
    start_at = place.clock.now()
    for _ in range(400):
        now = place.clock.now()
        while upcoming is not None and now >= start_at:
            number, (workers, grace_s, expected_s, budget, gap, stubborn) = upcoming
            limits = Allowance(usd=budget) if budget else Allowance()
            key = f"job_{number}"
            try:
                place.submit(key, limits=limits, grace_s=grace_s, workers=workers, expected_s=expected_s)
                place.start(key, limits=limits, grace_s=grace_s, workers=workers)
                own |= {key: budget} if budget else {}
                ends[key] = now + expected_s if expected_s else math.inf
            except BudgetExhausted:
                pass
            upcoming = next(admitted, None)
            start_at = now + gap
        verdict = place.judge()
        for key in verdict.halts:
            place.tell_to_stop(key)
            stubborn = jobs[int(key[4:])][5]
            ends[key] = min(ends[key], now + (place.jobs[key].grace_s if stubborn else 0.1))
        for key in [key for key, at in ends.items() if at <= now and key in place.jobs]:
            place.end(key)
        if not place.jobs and upcoming is None:
            break
        waits = [at - now for key, at in ends.items() if key in place.jobs and at > now]
        looks = 0.0 if verdict.halts else verdict.look_again_s
        waits += [looks] if looks is not None else []
        waits += [start_at - now] if upcoming is not None else []
        place.clock.advance(max(1e-3, min(waits, default=1e-3)))
    assert not place.jobs
    assert spent(place) <= usd + 1e-6
    costs = {row.name: row.cost.usd for row in place.report(CostBy.JOB).rows}
    assert all(costs.get(key, 0.0) <= limit + 1e-6 for key, limit in own.items())
    assert place.store.read(lambda view: view.select(RESERVATIONS)) == []
    assert all(pledge.left.nano_usd == 0 for pledge in place.store.read(lambda view: view.select(PLEDGES)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["submit", "start", "end", "crash"]), st.integers(0, 4)), max_size=25))
def test_promises_of_a_project_are_those_of_its_jobs_whatever_happens(history: list[tuple[str, int]]):
    place = Place()
    place.set(usd=1.0)
    place.set(usd=1.0, user="ann")
    for what, number in history:
        key = f"job_{number}"
        place.clock.advance(1.0)
        try:
            if what == "submit":
                place.submit(key, expected_s=20.0 * number)
            elif what == "start":
                place.start(key)
            elif what == "end" and key in place.jobs:
                place.end(key)
        except BudgetExhausted:
            continue
    left = sum(item.left.nano_usd for item in place.store.read(lambda view: view.select(RESERVATIONS)))
    pledges = {item.id: item.left.nano_usd for item in place.store.read(lambda view: view.select(PLEDGES))}
    assert set(pledges.values()) <= {left}


# Saying so


def thresholds(place: Place, over: bool = False) -> list[float]:
    return [
        event.body.threshold
        for event in place.events()
        if isinstance(event.body, BudgetReached) and event.body.over is over
    ]


def test_thresholds_are_said_once_each(place: Place):
    place.set(usd=0.1)
    place.start("job_1")
    live(place, 49)
    assert thresholds(place) == []
    live(place, 2)
    assert thresholds(place) == [0.5]
    live(place, 47)
    place.end("job_1")
    assert thresholds(place) == [0.5, 0.8, 1.0]  # 1.0 when it stopped what ran


def test_threshold_that_a_task_passed_while_nobody_looked_is_said_when_it_ends(place: Place):
    place.set(usd=0.1)
    place.start("job_1")
    place.clock.advance(85)
    place.end("job_1")
    assert thresholds(place) == [0.5, 0.8]


def test_budget_that_is_raised_takes_back_what_was_said_and_may_say_it_again(place: Place):
    place.set(usd=0.1)
    place.start("job_1")
    live(place, 85)
    status = place.set(usd=0.14)
    assert (status.state, status.budget.reached) == (BudgetState.WITHIN, 0.5)
    assert thresholds(place, over=True) == [0.8]
    live(place, 30)
    assert thresholds(place) == [0.5, 0.8, 0.8]


def test_budget_of_a_month_begins_anew_with_the_next():
    place = Place(now=rules.start_of("2026-02-01") - 60)
    place.set(Period.MONTH, usd=0.1)
    place.start("job_1")
    live(place, 60)
    assert thresholds(place) == [0.5]
    assert place.budgets.tick() == 3_600.0
    assert thresholds(place, over=True) == [0.5]
    status = place.budgets.list(ListBudgets(), ANN).items[0]
    assert (status.spent.nano_usd, status.state) == (0, BudgetState.WITHIN)
    assert live(place, 90) == {}
    assert thresholds(place) == [0.5, 0.5, 0.8]
    assert set(live(place, 8)) == {"job_1"}


def test_budget_of_a_month_expects_what_has_run_for_days_to_go_on():
    place = Place(now=rules.start_of("2026-02-10"))
    place.set(Period.MONTH, usd=1e6)
    place.start("job_1")
    place.clock.advance(5 * rules.DAY_S)
    (status,) = place.budgets.list(ListBudgets(), ANN).items
    assert status.expected == place.cost.outlook(GetOutlook(), ANN).forecast.expected
    assert status.expected is not None
    assert status.expected.usd == pytest.approx(status.spent.usd / 5 * 19)


def test_budget_says_when_it_will_be_used_up(place: Place):
    place.set(usd=0.1)
    assert place.budgets.list(ListBudgets(), ANN).items[0].exhausted_at is None
    place.start("job_1", workers=2)
    place.clock.advance(10)
    (status,) = place.budgets.list(ListBudgets(), ANN).items
    assert status.exhausted_at == pytest.approx(place.clock.now() + 40)
    assert (status.used_share, status.spent.usd) == (0.2, 0.02)


def test_budget_of_another_project_is_not_there(place: Place):
    budget_id = place.set(usd=1.0).budget.id
    with pytest.raises(BudgetMissing):
        place.budgets.get(GetBudget(budget_id=budget_id), BOB)
    with pytest.raises(BudgetMissing):
        place.store.write(lambda tx: place.budgets.delete(tx, DeleteBudget(budget_id=budget_id), BOB))
    assert place.budgets.list(ListBudgets(), BOB).items == ()


def test_budget_that_is_deleted_stops_and_refuses_nothing(place: Place):
    budget_id = place.set(usd=0.01).budget.id
    place.start("job_1")
    place.clock.advance(100)
    place.store.write(lambda tx: place.budgets.delete(tx, DeleteBudget(budget_id=budget_id), ANN))
    assert place.judge().halts == {}
    place.submit("job_2", expected_s=1_000)
    assert place.store.read(lambda view: view.count(BUDGETS)) == 0
