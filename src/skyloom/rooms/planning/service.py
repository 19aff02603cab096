"""The service of planning: keeps plans, compares them with what comes, and says how far off they were."""

import logging
from collections.abc import Sequence
from functools import lru_cache, partial

import msgspec

from skyloom.core.events import Event, JobEnded, Noted
from skyloom.core.ids import Ids
from skyloom.core.isolation import isolated
from skyloom.core.money import usd
from skyloom.core.operation import Caller, Page
from skyloom.ports.clock import Clock
from skyloom.ports.curves import Curves
from skyloom.ports.door import Change, Handlers, Outbox, Query
from skyloom.ports.lookup import listed, owned
from skyloom.ports.series import Point
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.cost import tallies
from skyloom.rooms.cost.model import CostBy
from skyloom.rooms.jobs.model import ENDED, JobState, JobStatus
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.planning import accuracy, model, progress, rules, trials
from skyloom.rooms.planning.model import Aim, Forecast, Measurement, NewEstimate, PlanOutcome, TimePlan
from skyloom.rooms.planning.ports import PLAN_OUTCOMES, TIME_PLANS, HourPrice
from skyloom.rooms.tracking.model import GetRun, GetSeries
from skyloom.rooms.tracking.service import Tracking

log = logging.getLogger("skyloom.planning")
_REMEMBERED = 64
_LEARNED_FROM = 200
_BUSY_S, _IDLE_S = 5.0, 30.0


class Planning:
    """Plans of all projects.

    Args:
        curves: fits the time models.
        price: what a worker costs in an hour.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        outbox: Outbox,
        curves: Curves,
        jobs: Jobs,
        tracking: Tracking,
        price: HourPrice,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._outbox = outbox
        self._jobs = jobs
        self._tracking = tracking
        self._price = price

        # Computed before the transaction and looked up inside of it: nobody's write waits for mathematics.
        @lru_cache(maxsize=_REMEMBERED)
        def forecast(
            measurements: tuple[Measurement, ...], aim: Aim, run_noise: float, sizes: tuple[int, ...]
        ) -> Forecast:
            return rules.forecast(measurements, aim, curves, run_noise, sizes)

        self._forecast = forecast

    def handlers(self) -> Handlers:
        return {
            model.MakePlan: Change(self.make, before=self.check),
            model.FollowPlan: Change(self.follow),
            model.GetPlan: Query(self.get),
            model.ListPlans: Query(self.list),
            model.GetAccuracy: Query(self.accuracy),
        }

    def check(self, ask: model.MakePlan, by: Caller) -> None:
        """Refuse trials that say nothing and aims that nothing reaches."""
        self._store.read(lambda view: self._made(view, ask, by))

    def make(self, tx: Transaction, ask: model.MakePlan, by: Caller) -> TimePlan:
        now, found = self._clock.now(), self._made(tx, ask, by)
        return tx.insert(
            TIME_PLANS,
            TimePlan(
                id=self._ids.new("plan"),
                project=by.project,
                name=ask.name,
                created_at=now,
                created_by=by.principal,
                resources=ask.resources,
                chosen=found.chosen,
                predictions=found.predictions,
                model=found.model,
                aim=found.aim,
                notes=found.notes,
                deadline_at=now + found.aim.deadline_s if found.aim.deadline_s else None,
                parts=trials.breakdowns(ask.trials),
                epochs_factor=rules.epochs_factor(found),
            ),
        )

    def _made(self, view: Snapshot, ask: model.MakePlan, by: Caller) -> Forecast:
        trials.check(ask.trials)
        past = view.select(PLAN_OUTCOMES, {"project": by.project}, newest_first=True, limit=_LEARNED_FROM)
        now = self._clock.now()
        # The dearest of the pools that it was tried on: where the training itself will find room is not known yet.
        price = max(self._price(view, ask.resources, pool, now) for pool in {trial.pool for trial in ask.trials})
        aim = msgspec.structs.replace(ask.aim, price_usd_per_worker_hour=price)
        aim, note = _less_trials(aim, ask.trials)
        sizes = tuple(sorted({trial.times.batch_size for trial in ask.trials}))
        by_batch = len(sizes) > 1
        if by_batch and aim.noise_scale_rows is None:
            aim = msgspec.structs.replace(aim, noise_scale_rows=trials.noise_scale(ask.trials))
        measured = trials.measurements(ask.trials, by_batch=by_batch)
        found = self._forecast(measured, aim, accuracy.run_noise(past), sizes)
        return msgspec.structs.replace(found, notes=(*found.notes, *note))

    def follow(self, tx: Transaction, ask: model.FollowPlan, by: Caller) -> TimePlan:
        plan = self.find(tx, ask.plan_id, by.project)
        run = self._tracking.find(tx, ask.run_id, by.project)
        if plan.run_id == run.id:
            return plan
        if plan.run_id:
            raise model.PlanFollowed(
                f"The run {plan.run_id} follows plan {plan.id} already.", next_action="Make a new plan for a new run."
            )
        status = self._jobs.status(tx, run.job_id, by.project)
        facts = {"run_id": run.id, "job_id": run.job_id, "workers": len(status.tasks), "open": True}
        plan = tx.update(TIME_PLANS, changed(plan, facts))
        return self._compare(tx, plan, status)  # a short one may be over before this was said

    def on_job_ended(self, tx: Transaction, event: Event) -> None:
        """Compare a plan with what came of it, in the transaction that ends its training. Told twice, it does it once."""
        if isinstance(event.body, JobEnded):
            for plan in tx.select(TIME_PLANS, {"project": event.project, "job_id": event.subject}):
                self._compare(tx, plan, self._jobs.status(tx, plan.job_id, plan.project))

    def _compare(self, tx: Transaction, plan: TimePlan, status: JobStatus) -> TimePlan:
        """Keep what came, once the job has ended for good."""
        if not plan.open or status.state not in ENDED:
            return plan
        spent = tallies.ever(tx, plan.project, CostBy.JOB, plan.job_id).cost
        if found := accuracy.outcome(plan, status, spent):
            tx.insert(PLAN_OUTCOMES, found)
        return tx.update(TIME_PLANS, changed(plan, {"open": False}))

    # The loop

    def tick(self) -> float:
        """Estimate running trainings anew, and say once when a deadline comes into danger or out of it."""
        plans = self._store.read(lambda view: view.select(TIME_PLANS, {"open": True}))
        bound = [plan for plan in plans if plan.deadline_at is not None]
        for plan in bound:
            with isolated(log, f"plan {plan.id}"):
                self._look(plan)
        return _BUSY_S if bound else _IDLE_S

    def _look(self, plan: TimePlan) -> None:
        status = self._store.read(lambda view: self._jobs.status(view, plan.job_id, plan.project))
        found = self._estimate(_as_it_runs(plan, status))
        if found is not None and found.danger is not plan.danger:
            self._store.write(partial(self._say, plan_id=plan.id, found=found))

    def _say(self, tx: Transaction, plan_id: str, found: NewEstimate) -> None:
        plan = tx.get(TIME_PLANS, plan_id)
        if plan is not None and plan.open:
            tx.update(TIME_PLANS, changed(plan, {"danger": found.danger}))
            news = found.message or "The deadline is not in danger any more."
            self._outbox.publish(tx, plan.project, plan.job_id, Noted(message=news))

    # Looking

    def find(self, view: Snapshot, plan_id: str, project: str) -> TimePlan:
        """Return a plan of a project. Raises `PlanMissing`."""
        plan = owned(view, TIME_PLANS, plan_id, project)
        if plan is None:
            raise model.PlanMissing(f"There is no plan {plan_id}.", next_action="List yours: skyloom plan list.")
        return plan

    def get(self, ask: model.GetPlan, by: Caller) -> model.PlanProgress:
        def work(view: Snapshot) -> tuple[TimePlan, PlanOutcome | None, JobStatus | None]:
            plan = self.find(view, ask.plan_id, by.project)
            status = self._jobs.status(view, plan.job_id, by.project) if plan.job_id else None
            return plan, view.get(PLAN_OUTCOMES, plan.id), status

        plan, outcome, status = self._store.read(work)
        if status is None:
            return model.PlanProgress(plan=plan)
        plan = _as_it_runs(plan, status)
        return model.PlanProgress(
            plan=plan,
            state=status.state.value,
            estimate=self._estimate(plan) if status.state is JobState.RUNNING else None,
            outcome=outcome,
        )

    def _estimate(self, plan: TimePlan) -> NewEstimate | None:
        return progress.estimate(plan, self._newer_points(plan), self._clock.now())

    def _newer_points(self, plan: TimePlan) -> Sequence[Point]:
        """The newer half of what the run reported, or less where that is too long: it tells a rate of now, not of the beginning."""
        by = Caller.inside("planner", plan.project)
        latest = self._tracking.get(GetRun(run_id=plan.run_id), by).latest
        if not latest:
            return ()
        name, newest = max(latest.items(), key=lambda item: item[1].step)
        after = newest.step // 2
        while True:
            ask = GetSeries(run_id=plan.run_id, name=name, after_step=after)
            points = self._tracking.series(ask, by).points
            if len(points) < ask.limit or after >= newest.step - 1:
                return points
            after = (after + newest.step) // 2  # the answer was cut at its end, and that is what counts here

    def list(self, ask: model.ListPlans, by: Caller) -> Page[TimePlan]:
        where = {"project": by.project}
        return self._store.read(lambda view: listed(view, TIME_PLANS, where, ask))

    def accuracy(self, ask: model.GetAccuracy, by: Caller) -> model.Accuracy:
        where = {"project": by.project}
        return self._store.read(
            lambda view: accuracy.accuracy(view.select(PLAN_OUTCOMES, where, newest_first=True, limit=ask.limit))
        )


def _as_it_runs(plan: TimePlan, status: JobStatus) -> TimePlan:
    """A plan with the workers that its training has now: those of an elastic gang change."""
    return msgspec.structs.replace(plan, workers=len(status.tasks))


def _less_trials(aim: Aim, tried: Sequence[model.TrialRun]) -> tuple[Aim, tuple[str, ...]]:
    """An aim whose budget the trials have been paid from, and a note of it. Raises `AimImpossible` when nothing is left."""
    worker_s = sum(trial.workers * max(0.0, trial.ended_at - trial.started_at) for trial in tried)
    spent_usd = worker_s * aim.price_usd_per_worker_hour / 3600
    if aim.budget_usd is None or not spent_usd:
        return aim, ()
    if spent_usd >= aim.budget_usd:
        raise model.AimImpossible(
            f"The trials alone cost {usd(spent_usd)}, and the budget is {usd(aim.budget_usd)}.",
            next_action="Raise the budget.",
        )
    left = msgspec.structs.replace(aim, budget_usd=aim.budget_usd - spent_usd)
    return left, (f"The trials cost {usd(spent_usd)} of the budget.",)
