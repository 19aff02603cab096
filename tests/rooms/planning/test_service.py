"""Plans that are kept: made, followed, estimated anew, compared with what came."""

import pytest

from skyloom.core.errors import NotFound
from skyloom.core.events import Noted
from skyloom.core.resources import Resources
from skyloom.curves.scipy import ScipyCurves
from skyloom.ports.door import EVENTS, Change
from skyloom.ports.series import Point
from skyloom.ports.store import Snapshot, changed
from skyloom.rooms.cost.budgets import Budgets
from skyloom.rooms.cost.model import GetCost
from skyloom.rooms.cost.prices import PriceBook
from skyloom.rooms.cost.pricing import Prices
from skyloom.rooms.cost.service import Cost
from skyloom.rooms.jobs.model import CancelJob
from skyloom.rooms.planning import model
from skyloom.rooms.planning.model import Aim, Danger, MakePlan, PlanProgress, TimePlan
from skyloom.rooms.planning.ports import TIME_PLANS
from skyloom.rooms.planning.service import Planning
from skyloom.rooms.tracking.model import LogMeasurements, RunProgress
from skyloom.rooms.training.model import Train
from tests.rooms.planning.trial_kit import trial
from tests.rooms.workshop import ANN, BOB, Workshop

STEPS = 1_000
TRIALS = (trial(1, (0.1,) * 18), trial(2, (0.06,) * 18), trial(4, (0.04,) * 18))


class Place(Workshop):
    """A workshop with a planner; a worker costs 3.60 USD an hour, a tenth of a cent a second."""

    def __init__(self) -> None:
        super().__init__()
        self.planning = Planning(
            self.store,
            self.clock,
            self.ids,
            self.outbox,
            ScipyCurves(),
            self.jobs,
            self.tracking,
            self.price,
        )
        self.outbox.subscribers = [self.planning.on_job_ended]

    def price(self, _view: Snapshot, each: Resources, pool: str, _now: float) -> float:
        return 3.6 * each.cpus * (2 if pool == "rented" else 1)

    def make(self, aim: Aim = Aim(max_workers=4), name: str = "digits") -> TimePlan:  # noqa: B008
        ask = MakePlan(name=name, trials=TRIALS, aim=aim, resources=Resources(cpus=1))
        handler = self.planning.handlers()[MakePlan]
        assert isinstance(handler, Change) and handler.before
        handler.before(ask, ANN)
        return self.store.write(lambda tx: handler.run(tx, ask, ANN))  # type: ignore[no-any-return]

    def go(self, plan: TimePlan, workers: int = 1) -> RunProgress:
        begun = self.train(Train(recipe="image", dataset="digits", target="label", num_workers=workers, max_retries=1))
        self.follow(plan, begun)
        self.loop.tick()
        self.started(begun, workers)
        return begun

    def started(self, begun: RunProgress, workers: int = 1, attempt: int = 1) -> None:
        for rank in range(workers):
            self.engine.run(f"{begun.run.job_id}.{attempt}.{rank}")
        self.loop.tick()

    def follow(self, plan: TimePlan, begun: RunProgress) -> TimePlan:
        ask = model.FollowPlan(plan_id=plan.id, run_id=begun.run.id)
        return self.store.write(lambda tx: self.planning.follow(tx, ask, ANN))

    def get(self, plan: TimePlan) -> PlanProgress:
        return self.planning.get(model.GetPlan(plan_id=plan.id), ANN)

    def end(self, begun: RunProgress, workers: int = 1, exit_code: int = 0, attempt: int = 1) -> None:
        for rank in range(workers):
            self.engine.finish(f"{begun.run.job_id}.{attempt}.{rank}", exit_code=exit_code)
        self.loop.tick()
        self.loop.tick()

    def report(self, begun: RunProgress, steps: list[int], each_s: float, sequence: int = 1) -> None:
        start, first = self.clock.now(), steps[0] if sequence > 1 else 0
        points = tuple(Point("train/loss", step, start + (step - first) * each_s, 0.5) for step in steps)
        self.clock.advance((steps[-1] - first) * each_s)
        ask = LogMeasurements(run_id=begun.run.id, source="s", sequence=sequence, points=points)
        self.tracking.log(ask, ANN)


@pytest.fixture
def place() -> Place:
    return Place()


def test_plan_is_priced_by_the_price_book_whatever_is_asked(place: Place) -> None:
    plan = place.make(Aim(max_workers=4, price_usd_per_worker_hour=1e6))
    assert plan.aim.price_usd_per_worker_hour == 3.6
    first = plan.predictions[0]
    assert first.seconds == pytest.approx(107, rel=0.03)
    assert first.cost_usd == pytest.approx(first.seconds / 1_000)
    assert [part.workers for part in plan.parts] == [1, 2, 4]
    assert place.planning.list(model.ListPlans(), ANN).items == (plan,)


def test_plan_is_priced_by_the_dearest_pool_that_it_was_tried_on(place: Place) -> None:
    ask = MakePlan(name="digits", trials=(trial(1), trial(2, pool="rented")), resources=Resources(cpus=1))
    assert place.store.write(lambda tx: place.planning.make(tx, ask, ANN)).aim.price_usd_per_worker_hour == 7.2


def test_batch_size_is_chosen_by_goodput_and_says_how_many_more_epochs_it_needs(place: Place) -> None:
    """A step costs 50 ms whatever its rows and 1 ms a row; 4,096 rows an epoch, ten epochs; a noise scale of 500 rows."""
    some = tuple(
        trial(n, (0.05 + 0.001 * size / n,) * 18, steps=40_960 // size, batch_size=size)
        for n in (1, 2, 4)
        for size in (32, 128, 512)
    )
    ask = MakePlan(
        name="digits", trials=some, aim=Aim(max_workers=4, noise_scale_rows=500), resources=Resources(cpus=1)
    )
    plan = place.store.write(lambda tx: place.planning.make(tx, ask, ANN))
    sizes = [one.batch_size for one in plan.predictions]
    assert set(sizes) <= {32, 128, 512}, "only what was tried"
    assert sizes == sorted(sizes), "more workers are worth larger batches"
    assert plan.chosen.batch_size is not None
    assert plan.epochs_factor == pytest.approx((500 + plan.chosen.batch_size) / (500 + 32))
    assert any("times the epochs" in note for note in plan.notes)


def test_plan_pays_its_trials_from_the_budget(place: Place) -> None:
    spent = sum(one.workers * (one.ended_at - one.started_at) for one in TRIALS) / 1_000
    plan = place.make(Aim(max_workers=4, budget_usd=spent + 0.125))
    assert plan.aim.budget_usd == pytest.approx(0.125)
    assert plan.chosen.high_cost_usd <= 0.125
    assert any("The trials cost" in note for note in plan.notes)
    with pytest.raises(model.AimImpossible, match="The trials alone cost"):
        place.make(Aim(max_workers=4, budget_usd=spent))


def test_prediction_and_what_came_are_kept_when_the_job_ends(place: Place) -> None:
    plan = place.make(Aim(max_workers=4, deadline_s=300))
    begun = place.go(plan)
    assert place.get(plan).outcome is None
    place.clock.advance(110)
    place.end(begun)
    outcome = place.get(plan).outcome
    assert outcome is not None
    assert (outcome.state, outcome.workers, outcome.attempts) == ("succeeded", 1, 1)
    assert outcome.actual_s == pytest.approx(110, abs=1)
    assert outcome.predicted_s == plan.predictions[0].seconds
    assert outcome.error_share == pytest.approx(abs(outcome.predicted_s - outcome.actual_s) / outcome.actual_s)
    assert outcome.inside
    assert outcome.in_time
    total = place.planning.accuracy(model.GetAccuracy(), ANN).total
    assert total is not None
    assert (total.num_trainings, total.median_error_share, total.inside_share) == (1, outcome.error_share, 1.0)


def test_accuracy_is_told_by_name_and_counts_successes_only(place: Place) -> None:
    assert place.planning.accuracy(model.GetAccuracy(), ANN) == model.Accuracy(total=None, rows=())
    for name, lasts_s in (("digits", 110), ("digits", 120), ("prices", 300)):
        begun = place.go(place.make(name=name))
        place.clock.advance(lasts_s)
        place.end(begun)
    plan = place.make(name="cancelled")
    begun = place.go(plan)
    ask = CancelJob(job_id=begun.run.job_id)
    place.store.write(lambda tx: place.jobs.cancel(tx, ask, ANN))
    for _ in range(4):
        place.loop.tick()
    found = place.planning.accuracy(model.GetAccuracy(), ANN)
    assert [(row.name, row.num_trainings) for row in found.rows] == [("digits", 2), ("prices", 1)]
    assert found.rows[1].worst_error_share == pytest.approx(1 - 107 / 300, abs=0.02)
    assert not found.rows[1].inside_share


def test_new_plans_are_less_sure_after_old_errors(place: Place) -> None:
    def width(plan: TimePlan) -> float:
        return plan.predictions[0].high_s / plan.predictions[0].low_s

    before = place.make()
    for _ in range(4):
        begun = place.go(place.make())
        place.clock.advance(150)
        place.end(begun)
    assert width(place.make()) > 1.5 * width(before)


def test_training_that_started_again_is_kept_as_it_ended_and_does_not_count(place: Place) -> None:
    plan = place.make()
    begun = place.go(plan)
    place.clock.advance(10)
    place.end(begun, exit_code=1)
    assert place.get(plan).state in {"queued", "starting", "running"}
    place.started(begun, attempt=2)
    place.clock.advance(100)
    place.end(begun, attempt=2)
    outcome = place.get(plan).outcome
    assert outcome is not None
    assert (outcome.state, outcome.attempts) == ("succeeded", 2)
    assert place.planning.accuracy(model.GetAccuracy(), ANN).total is None


def test_training_that_began_again_is_still_watched(place: Place) -> None:
    plan = place.make(Aim(max_workers=4, deadline_s=190))
    begun = place.go(plan)
    place.end(begun, exit_code=1)
    place.started(begun, attempt=2)
    place.report(begun, list(range(10, 301, 10)), 0.2)
    place.planning.tick()
    seen = place.get(plan).plan
    assert (seen.open, seen.danger) == (True, Danger.LATE)


def test_training_that_is_cancelled_before_it_begins_is_watched_no_more(place: Place) -> None:
    plan = place.make(Aim(max_workers=4, deadline_s=190))
    begun = place.train(Train(recipe="image", dataset="digits", target="label"))
    assert place.follow(plan, begun).open
    place.store.write(lambda tx: place.jobs.cancel(tx, CancelJob(job_id=begun.run.job_id), ANN))
    seen = place.get(plan)
    assert (seen.state, seen.plan.open, seen.outcome) == ("cancelled", False, None)


def test_cost_that_came_is_that_of_the_ledger(place: Place) -> None:
    prices = Prices(place.store, place.clock, place.ids)
    prices.install(PriceBook(cpu_usd_per_hour=36.0))  # it was planned for a tenth of that
    cost = Cost(place.store, place.clock, prices, Budgets(place.store, place.clock, place.ids, place.outbox, prices))
    place.outbox.subscribers.insert(0, cost.on_task_ended)
    plan = place.make()
    begun = place.go(plan)
    place.clock.advance(110)
    place.end(begun)
    outcome = place.get(plan).outcome
    assert outcome is not None
    assert outcome.actual_usd == cost.get(GetCost(), ANN).total.cost.usd == pytest.approx(1.1, rel=0.02)


def test_elastic_training_is_compared_with_what_was_planned_for_the_workers_that_it_has(place: Place) -> None:
    plan = place.make()
    begun = place.train(Train(recipe="image", dataset="digits", target="label", num_workers=1, max_workers=2))
    assert place.follow(plan, begun).workers == 1
    place.loop.tick()
    place.started(begun, workers=2)
    place.report(begun, list(range(10, 301, 10)), 0.06)  # as two were tried
    seen = place.get(plan)
    assert seen.estimate is not None
    assert (seen.plan.workers, seen.estimate.slowdown) == (2, pytest.approx(1, abs=0.05))


def test_long_training_is_estimated_from_its_newest_steps(place: Place) -> None:
    plan = place.make()
    begun = place.go(plan)
    points = [Point("train/loss", step, place.clock.now() + step, 0.5) for step in range(1, 25_001)]
    place.series.append(begun.run.id, "s", 1, points)
    estimate = place.get(plan).estimate
    assert estimate is not None
    assert estimate.step == 25_000


def test_running_training_is_estimated_anew_from_its_own_rate(place: Place) -> None:
    plan = place.make(Aim(max_workers=4, deadline_s=400))
    begun = place.go(plan)
    assert place.get(plan).estimate is None
    place.report(begun, list(range(10, 301, 10)), 0.2)  # twice as slow as it was tried
    estimate = place.get(plan).estimate
    assert estimate is not None
    assert (estimate.step, estimate.total_steps) == (300, STEPS)
    assert estimate.steps_per_s == pytest.approx(5)
    assert estimate.slowdown == pytest.approx(2)
    assert estimate.finish_at == pytest.approx(place.clock.now() + 700 * 0.2 + 3)
    assert estimate.finish_low_at < estimate.finish_at < estimate.finish_high_at
    assert estimate.danger is Danger.NONE


def test_deadline_in_danger_is_said_with_the_workers_that_would_help(place: Place) -> None:
    plan = place.make(Aim(max_workers=4, deadline_s=190))
    begun = place.go(plan)
    place.report(begun, list(range(10, 301, 10)), 0.2)
    estimate = place.get(plan).estimate
    assert estimate is not None
    assert estimate.danger is Danger.LATE
    assert estimate.recommended_workers in {2, 3, 4}
    assert "The deadline is in danger" in estimate.message


def test_danger_is_told_once_when_it_comes_and_when_it_goes(place: Place) -> None:
    def told() -> list[str]:
        where = {"subject": begun.run.job_id}
        found = place.store.read(lambda view: view.entries(EVENTS, where))
        return [event.body.message for _, event in found if isinstance(event.body, Noted)]

    plan = place.make(Aim(max_workers=4, deadline_s=190))
    begun = place.go(plan)
    place.planning.tick()
    assert told() == []
    place.report(begun, list(range(10, 301, 10)), 0.2)
    place.planning.tick()
    place.planning.tick()
    assert len(told()) == 1
    assert "The deadline is in danger" in told()[0]
    assert place.get(plan).plan.danger is Danger.LATE
    place.report(begun, list(range(310, 901, 10)), 0.02, sequence=2)
    place.planning.tick()
    assert told()[1:] == ["The deadline is not in danger any more."]
    place.end(begun)
    assert not place.get(plan).plan.open


def test_plan_has_one_run_and_saying_it_again_changes_nothing(place: Place) -> None:
    plan = place.make()
    first = place.go(plan)
    followed = place.get(plan).plan
    assert place.follow(plan, first) == followed
    other = place.train(Train(recipe="image", dataset="digits", target="label"))
    with pytest.raises(model.PlanFollowed):
        place.follow(plan, other)


def test_run_that_ended_before_it_was_said_to_follow_is_compared_all_the_same(place: Place) -> None:
    plan = place.make()
    begun = place.train(Train(recipe="image", dataset="digits", target="label"))
    place.loop.tick()
    place.started(begun)
    place.clock.advance(105)
    place.end(begun)
    place.follow(plan, begun)
    assert place.get(plan).outcome is not None


def test_plan_of_another_project_is_not_there(place: Place) -> None:
    plan = place.make()
    with pytest.raises(NotFound):
        place.planning.get(model.GetPlan(plan_id=plan.id), BOB)
    assert place.planning.list(model.ListPlans(), BOB).items == ()


def test_plan_that_cannot_be_estimated_holds_up_no_other_one(place: Place) -> None:
    broken, plan = place.make(Aim(max_workers=4, deadline_s=190)), place.make(Aim(max_workers=4, deadline_s=190))
    for each in (broken, plan):
        begun = place.go(each)
    gone = changed(place.get(broken).plan, {"run_id": "run_gone"})
    place.store.write(lambda tx: tx.update(TIME_PLANS, gone))
    place.report(begun, list(range(10, 301, 10)), 0.2)
    place.planning.tick()
    assert place.get(plan).plan.danger is Danger.LATE
