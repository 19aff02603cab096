"""What each noun says about itself. A row of the composition root's table is an id's prefix and one of these."""

from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from skyloom.core.events import (
    BudgetReached,
    DatasetVersionMade,
    EndpointRolledBack,
    EventBody,
    HookCalled,
    JobEnded,
    ModelRegistered,
    Moved,
    Noted,
    SlotCame,
    TaskEnded,
)
from skyloom.ports.door import EVENTS
from skyloom.ports.lookup import owned
from skyloom.ports.store import Snapshot
from skyloom.rooms.arrays.service import Arrays
from skyloom.rooms.cost.budget import BudgetState
from skyloom.rooms.cost.budgets import Budgets
from skyloom.rooms.data.making import Predict
from skyloom.rooms.data.model import DatasetStatus
from skyloom.rooms.data.service import Datasets
from skyloom.rooms.jobs import rules as jobs_rules
from skyloom.rooms.jobs.model import Task
from skyloom.rooms.jobs.ports import TASKS
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.monitoring import rules as monitoring_rules
from skyloom.rooms.monitoring.model import Signal
from skyloom.rooms.monitoring.ports import ALERTS
from skyloom.rooms.overview.model import Evidence, Explanation
from skyloom.rooms.planning.model import Danger
from skyloom.rooms.planning.service import Planning
from skyloom.rooms.schedules.service import Schedules
from skyloom.rooms.serving.ports import ENDPOINTS
from skyloom.rooms.serving.service import Serving
from skyloom.rooms.tenancy.rules import ALL_PROJECTS
from skyloom.rooms.tracking.model import RunMissing
from skyloom.rooms.tracking.ports import RUNS

Explainer = Callable[[Snapshot, str, str], Explanation]
"""Explains the subject with an id, in a project. Raises the noun's own `NotFound`."""

Count = Callable[[Snapshot, str], Mapping[str, int]]
"""Counts a noun by state, in a project or, with "*", in all."""

_NEWEST = 20


def of_jobs(jobs: Jobs) -> Explainer:
    """Explains jobs, and a task by its job."""

    def explain(view: Snapshot, subject: str, project: str) -> Explanation:
        job_id = subject.partition(".")[0]
        status = jobs.status(view, job_id, project)
        due = status.deadline.message if status.deadline else ""
        return Explanation(
            subject=job_id,
            noun="job",
            state=status.state.value,
            reason=status.reason.value,
            message="; ".join(words for words in (status.message, status.outlook, due) if words),
            next_action=status.next_action,
            evidence=happened(view, job_id, project),
        )

    return explain


def of_arrays(arrays: Arrays) -> Explainer:
    """Explains arrays, by their counts and their first failures."""

    def explain(view: Snapshot, subject: str, project: str) -> Explanation:
        status = arrays.status(view, subject, project)
        counts = f"{status.num_succeeded} of {status.array.size} succeeded, {status.num_failed} failed"
        return Explanation(
            subject=subject,
            noun="array",
            state=status.state.value,
            reason=status.reason.value,
            message=status.message or counts,
            next_action=status.next_action,
            evidence=happened(view, status.failures[0].job_id, project) if status.failures else (),
        )

    return explain


def of_schedules(schedules: Schedules) -> Explainer:
    """Explains schedules, by what came of their newest slot."""

    def explain(view: Snapshot, subject: str, project: str) -> Explanation:
        status = schedules.status(view, subject, project)
        schedule = status.schedule
        last = (
            f"its last job is {schedule.last_job} ({status.last_state})"
            if schedule.last_job
            else "no slot has come yet"
        )
        return Explanation(
            subject=subject,
            noun="schedule",
            state="paused" if schedule.paused else "active",
            reason=schedule.paused_for or "",
            message=f"paused by {schedule.paused_by}" if schedule.paused_by else schedule.message or last,
            next_action=f"Go on: skyloom schedule resume {schedule.name}." if schedule.paused else "",
            evidence=happened(view, subject, project),
        )

    return explain


def of_runs(jobs: Jobs) -> Explainer:
    """Explains training runs, by the job that does the work. Raises `RunMissing`."""
    explain_job = of_jobs(jobs)

    def explain(view: Snapshot, subject: str, project: str) -> Explanation:
        run = owned(view, RUNS, subject, project)
        if run is None:
            raise RunMissing(f"There is no run {subject}.", next_action="List yours: skyloom run list.")
        return msgspec.structs.replace(explain_job(view, run.job_id, project), subject=subject, noun="run")

    return explain


def of_endpoints(serving: Serving) -> Explainer:
    """Explains endpoints."""

    def explain(view: Snapshot, subject: str, project: str) -> Explanation:
        status = serving.status(view, serving.find(view, subject, project))
        return Explanation(
            subject=subject,
            noun="endpoint",
            state=status.state.value,
            reason=status.scale.reason.value if status.scale else "",
            message=status.message or (status.scale.why if status.scale else ""),
            next_action=status.next_action,
            evidence=happened(view, subject, project),
        )

    return explain


def explain_alert(view: Snapshot, subject: str, project: str) -> Explanation:
    """Explains an alert: what was measured, and what to do about it while it is open. Raises `AlertMissing`."""
    alert = monitoring_rules.own(view.get(ALERTS, subject), subject, project)
    advice = monitoring_rules.NEXT_ACTIONS[alert.signal].format(
        endpoint=alert.endpoint_name, owner=alert.endpoint_name.partition(":")[0]
    )
    return Explanation(
        subject=alert.id,
        noun="alert",
        state=alert.state.value,
        reason=alert.signal.value,
        message=alert.message if alert.signal is Signal.BUDGET else f"{alert.endpoint_name}: {alert.message}",
        next_action=advice if monitoring_rules.is_open(alert) else "",
        evidence=happened(view, alert.id, project),
    )


def of_budgets(budgets: Budgets) -> Explainer:
    """Explains budgets: what is used of them, and when they will be used up."""

    def explain(view: Snapshot, subject: str, project: str) -> Explanation:
        status = budgets.status(view, subject, project)
        within = status.state is BudgetState.WITHIN
        return Explanation(
            subject=subject,
            noun="budget",
            state=status.state.value,
            message=f"{status.used_share:.0%} is used: {status.spent}, and {status.reserved} is promised to jobs.",
            next_action="" if within else monitoring_rules.NEXT_ACTIONS[Signal.BUDGET],
            evidence=happened(view, subject, project),
        )

    return explain


def count_alerts(view: Snapshot, project: str) -> Mapping[str, int]:
    """Open alerts by state."""
    found = view.select(ALERTS, {"state": monitoring_rules.OPEN, **_within(project)})
    return Counter(alert.state.value for alert in found)


def of_datasets(data: Datasets) -> Explainer:
    """Explains datasets, by the newest draft when nothing came of it."""

    def explain(view: Snapshot, subject: str, project: str) -> Explanation:
        status = data.status(view, data.find(view, subject, project))
        errors = [draft.error for draft in status.drafts if draft.error is not None]
        return Explanation(
            subject=subject,
            noun="dataset",
            state=status.state.value,
            reason=errors[0].code if errors else "",
            message=errors[0].message if errors else _made_of(status),
            next_action=errors[0].next_action if errors else "",
            evidence=happened(view, subject, project),
        )

    return explain


def _made_of(status: DatasetStatus) -> str:
    """Of predictions, what said them of which rows."""
    newest = status.newest
    if newest is None or not isinstance(newest.making, Predict):
        return ""
    said = newest.making
    return (
        f"version {newest.number} is what {said.model} version {said.model_version} "
        f"says of {said.dataset} version {said.version}"
    )


def count_jobs(view: Snapshot, project: str) -> Mapping[str, int]:
    """Live jobs by state."""
    gangs: dict[str, list[Task]] = {}
    for task in view.select(TASKS, {"state": jobs_rules.LIVE, **_within(project)}):
        gangs.setdefault(task.job_id, []).append(task)
    return Counter(jobs_rules.state_of(gang).value for gang in gangs.values())


def count_endpoints(view: Snapshot, project: str) -> Mapping[str, int]:
    """Endpoints that were not stopped."""
    return {"live": view.count(ENDPOINTS, {"stopped_by": "", **_within(project)})}


def _within(project: str) -> dict[str, str]:
    return {} if project == ALL_PROJECTS else {"project": project}


def of_plans(planning: Planning) -> Explainer:
    """Explains plans: what was chosen, and how the training that follows stands to its deadline."""

    def explain(view: Snapshot, subject: str, project: str) -> Explanation:
        plan = planning.find(view, subject, project)
        workers = plan.chosen.workers
        chosen = f"{workers} worker{'s' if workers > 1 else ''}: {plan.chosen.reason}"
        in_danger = plan.open and plan.danger is not Danger.NONE
        return Explanation(
            subject=subject,
            noun="plan",
            state="running" if plan.open else "followed" if plan.run_id else "made",
            reason=f"deadline {plan.danger.value.replace('_', ' ')}" if in_danger else "",
            message=chosen,
            next_action=f"See: skyloom plan show {subject}.",
            evidence=happened(view, plan.job_id, project) if plan.job_id else (),
        )

    return explain


def happened(view: Snapshot, subject: str, project: str) -> tuple[Evidence, ...]:
    """The newest events of a subject, oldest first."""
    found = view.entries(EVENTS, {"project": project, "subject": subject}, limit=_NEWEST, newest_first=True)
    return tuple(Evidence(at=event.at, what=_words(event.body)) for _, event in reversed(found))


def _words(body: EventBody) -> str:
    match body:
        case Moved():
            because = f" ({body.reason.replace('_', ' ')})" if body.reason else ""
            said = f": {body.message}" if body.message else ""
            return f"{body.before or 'new'} → {body.after}{because}{said}"
        case TaskEnded():
            return f"{body.task_id} ran for {body.ended_at - body.started_at:.1f} s"
        case Noted() | BudgetReached():
            return body.message
        case JobEnded():
            return f"ended for good: {body.state}"
        case DatasetVersionMade():
            return f"version {body.number}" + (f" by {body.job_id}" if body.job_id else "")
        case ModelRegistered():
            return f"registered as {body.model} version {body.number}"
        case EndpointRolledBack():
            return f"went back to revision {body.revision}" + (" by itself" if body.automatic else "")
        case SlotCame():
            return "a slot of its cron line came"
        case HookCalled():
            return f"its address was called with {len(body.body)} characters"
