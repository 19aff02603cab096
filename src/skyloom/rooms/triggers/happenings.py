"""What an event says to triggers, in plain words that filters look at."""

from collections.abc import Mapping
from datetime import UTC, datetime

from skyloom.core.events import (
    BudgetReached,
    DatasetVersionMade,
    EndpointRolledBack,
    Event,
    HookCalled,
    JobEnded,
    ModelRegistered,
    Moved,
    SlotCame,
)
from skyloom.ports.store import Snapshot
from skyloom.rooms.jobs.model import ENDLESS
from skyloom.rooms.jobs.ports import JOBS
from skyloom.rooms.monitoring.ports import ALERTS
from skyloom.rooms.triggers.model import Happening

_ALERT = "alert_"
BODIES: Mapping[Happening, type] = {
    Happening.DATASET_VERSION: DatasetVersionMade,
    Happening.MODEL_VERSION: ModelRegistered,
    Happening.JOB_ENDED: JobEnded,
    Happening.ALERT: Moved,
    Happening.BUDGET: BudgetReached,
    Happening.ROLLBACK: EndpointRolledBack,
    Happening.CRON: SlotCame,
    Happening.HTTP: HookCalled,
}
"""What the events of each hold."""


def kind_and_facts(view: Snapshot, event: Event) -> tuple[Happening, Mapping[str, str]] | None:
    """What an event says to a trigger; None for what nobody can wait for."""
    match event.body:
        case DatasetVersionMade(dataset=dataset, number=number, job_id=job_id):
            return Happening.DATASET_VERSION, {"dataset": dataset, "version": str(number), "job": job_id}
        case ModelRegistered(model=name, number=number):
            return Happening.MODEL_VERSION, {"model": name, "version": str(number)}
        case JobEnded(state=state, reason=reason):
            job = view.get(JOBS, event.subject)
            if job is not None and not ENDLESS.isdisjoint(job.spec.labels):
                return None  # a function that falls asleep is no job that ended, or it would wake itself for ever
            name, user = (job.spec.name, job.submitted_by) if job else ("", "")
            told = {"job": event.subject, "name": name, "state": state, "reason": reason, "user": user}
            return Happening.JOB_ENDED, told
        case BudgetReached(budget=budget, threshold=threshold, over=over):
            told = {"budget": budget, "threshold": f"{threshold * 100:.0f}", "over": str(over).lower()}
            return Happening.BUDGET, told
        case EndpointRolledBack(endpoint=endpoint, revision=revision, automatic=automatic):
            told = {"endpoint": endpoint, "revision": str(revision), "automatic": str(automatic).lower()}
            return Happening.ROLLBACK, told
        case Moved(after=after) if event.subject.startswith(_ALERT):
            alert = view.get(ALERTS, event.subject)
            about, signal = (alert.endpoint_name, alert.signal.value) if alert else ("", "")
            return Happening.ALERT, {"alert": event.subject, "about": about, "signal": signal, "state": after}
        case SlotCame(slot=slot):
            return Happening.CRON, {"slot": datetime.fromtimestamp(slot, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        case HookCalled():
            return Happening.HTTP, {}
    return None
