"""Plans from Python; and forecasts from one's own measurements, which need no cloud."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from skyloom.core.errors import SkyloomError
from skyloom.core.operation import Page
from skyloom.core.resources import Resources
from skyloom.curves.scipy import ScipyCurves
from skyloom.rooms.cost.prices import PriceBook
from skyloom.rooms.cost.usage import worth
from skyloom.rooms.planning import checking, model, rules
from skyloom.rooms.planning.model import (
    Accuracy,
    Aim,
    Forecast,
    Measurement,
    MeasurementsUnusable,
    PlanProgress,
    StepTimes,
    TimePlan,
    TrialRun,
)
from skyloom.rooms.training.model import TrialOrder
from skyloom.sdk.files import read_chunks
from skyloom.sdk.jobs import JobCalls
from skyloom.sdk.training import TrainingCalls
from skyloom.sdk.transport import Transport
from skyloom.settings import Settings

_WHOLE = Aim()
_USUAL = TrialOrder()
_TWO_GIB = Resources(memory_bytes=2 * 2**30)


class TrialFailed(SkyloomError):
    """A trial ended without saying how long its steps take."""


class PlanCalls:
    """``cloud.plans``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def try_out(
        self,
        recipe: str = "",
        *,
        workers: int = 1,
        batch_size: int | None = None,
        order: TrialOrder = _USUAL,
        **options: Any,
    ) -> TrialRun:
        """Run the first steps of a training as a job, and wait for their times. Takes what ``cloud.trainings.start`` takes.

        A ``batch_size`` is given to the training as the parameter of that name.
        Raises `TrialFailed`. When the wait is broken off, the job is cancelled.
        """
        jobs = JobCalls(self._transport)
        if batch_size is not None:
            options["parameters"] = {**options.get("parameters", {}), "batch_size": batch_size}
        run = TrainingCalls(self._transport).start(recipe, workers=workers, trial=order, **options).run
        try:
            status = jobs.wait(run.job_id)
        except BaseException:
            jobs.cancel(run.job_id)
            raise
        times = _times_in(jobs.result(run.job_id).result_json)
        if times is None or status.started_at is None or status.ended_at is None:
            said = f"{status.state.value}: {status.message}" if status.message else "it counted no steps"
            raise TrialFailed(
                f"The trial {run.job_id} with {workers} worker{'s' if workers > 1 else ''} told no times ({said}).",
                next_action=f"See: skyloom job logs {run.job_id}. A script has to use skyloom.runtime: fit, steps or report.",
            )
        times = msgspec.structs.replace(times, batch_size=batch_size or times.batch_size)
        return TrialRun(
            workers=workers,
            started_at=status.started_at,
            ended_at=status.ended_at,
            times=times,
            job_id=run.job_id,
            pool=next((task.pool for task in status.tasks if task.pool), "local"),
        )

    def make(
        self, name: str, trials: Sequence[TrialRun], aim: Aim = _WHOLE, *, resources: Resources = _TWO_GIB
    ) -> TimePlan:
        """Predict, price and choose from trials, and keep it. ``resources`` are each worker's."""
        return self._transport.send(model.MakePlan(name=name, trials=tuple(trials), aim=aim, resources=resources))

    def follow(self, plan_id: str, run_id: str) -> TimePlan:
        """Say which run follows a plan, so that it is measured against it."""
        return self._transport.send(model.FollowPlan(plan_id=plan_id, run_id=run_id))

    def get(self, plan_id: str) -> PlanProgress:
        """A plan; while its training runs, with a new estimate of its end, and afterwards with how far off it was."""
        return self._transport.send(model.GetPlan(plan_id=plan_id))

    def list(self, limit: int = 50, cursor: str | None = None) -> Page[TimePlan]:
        """Plans, newest first."""
        return self._transport.send(model.ListPlans(limit=limit, cursor=cursor))

    def accuracy(self, limit: int = 1_000) -> Accuracy:
        """How far off predictions were, in all and by what was trained."""
        return self._transport.send(model.GetAccuracy(limit=limit))


class _Result(msgspec.Struct):
    trial: StepTimes


def _times_in(result_json: str) -> StepTimes | None:
    """What `skyloom.runtime.trial` left in a result; None where it left nothing, whatever the program itself wrote."""
    try:
        return msgspec.json.decode(result_json, type=_Result).trial
    except msgspec.DecodeError:
        return None


def forecast(measurements: Sequence[Measurement], aim: Aim) -> Forecast:
    """Time and cost for each number of workers, and the one to choose; computed here.

    Raises `MeasurementsUnusable`, `AimUnclear`, `AimImpossible`, and `Unavailable` where scipy is not installed.
    """
    return rules.forecast(measurements, aim, ScipyCurves())


def measurements_in(path: Path) -> tuple[Measurement, ...]:
    """Read a CSV file with the columns workers, data_fraction, seconds. Raises `MeasurementsUnusable`, `LocalFileMissing`."""
    try:
        return checking.read_csv(b"".join(read_chunks(path)).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MeasurementsUnusable(f"{path} is no UTF-8 text.", next_action="Save it as CSV in UTF-8.") from error


def worker_price(resources: Resources) -> float:
    """What a worker costs in an hour by the prices that this machine's settings have, in USD."""
    settings = Settings.read()
    prices = PriceBook(
        cpu_usd_per_hour=settings.price_cpu_usd_per_hour,
        gpu_usd_per_hour=settings.price_gpu_usd_per_hour,
        memory_gib_usd_per_hour=settings.price_memory_gib_usd_per_hour,
    )
    return worth(resources, 3600, prices).usd


def trial_workers(least: int, most: int, fits: int) -> tuple[int, ...]:
    """With how many workers to try: doubling from the least, at most four times, no more than fit into the pool."""
    top = max(least, min(most, fits))
    found = [least * 2**power for power in range(3) if least * 2**power <= top]
    return tuple(sorted({*found, top})) if top > found[-1] * 1.5 else tuple(found)


def workers_that_fit(capacity: Resources, each: Resources) -> int:
    """How many workers a pool can hold at once; at least 1."""
    by = [
        (capacity.cpus, each.cpus),
        (float(capacity.gpus), float(each.gpus)),
        (float(capacity.memory_bytes), float(each.memory_bytes)),
    ]
    return max(1, int(min((have / want + 1e-9 for have, want in by if want > 0), default=model.MAX_WORKERS)))
