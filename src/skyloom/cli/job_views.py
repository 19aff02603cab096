"""What people want to see of jobs, arrays, schedules and secrets: columns of lists, and pages."""

from collections.abc import Mapping, Sequence

from skyloom.cli.columns import Column, of
from skyloom.cli.wording import human
from skyloom.rooms.arrays.model import ArrayFailure, ArrayStatus
from skyloom.rooms.jobs.model import JobStatus, Task
from skyloom.rooms.schedules.model import ScheduleStatus
from skyloom.rooms.secrets.model import SecretStatus
from skyloom.rooms.templates.model import Template, TemplateStep


def _workers(status: JobStatus) -> str:
    """How many workers it has, and of an elastic gang how many it may have."""
    spec = status.job.spec
    now = len(status.tasks) or spec.num_workers
    return f"{now} of {spec.num_workers}-{spec.max_workers}" if spec.max_workers else str(now)


def _attempt(status: JobStatus) -> str:
    """Which attempt, and how many of those before it only made room."""
    job = status.job
    return f"{job.attempt} ({job.comebacks} made room)" if job.comebacks else str(job.attempt)


def _packages(status: JobStatus) -> str:
    """What its Python environment is made of, in a few words."""
    asked = status.job.spec.python
    if asked is None:
        return ""
    lines = [line for line in asked.requirements.splitlines() if line.strip() and not line.strip().startswith("#")]
    parts = [*lines[:3], *(["…"] if len(lines) > 3 else []), *(["pyproject.toml"] if asked.pyproject else [])]
    return ", ".join([*parts, *(["isolated"] if asked.isolated else [])])


def _due(status: JobStatus) -> str:
    """When its deadline is, and how it stands to it."""
    due = status.deadline
    return f"{human('at', due.at)}, {due.state.value.replace('_', ' ')}: {due.message}" if due else ""


def _mounts(status: JobStatus) -> str:
    return ", ".join(f"{mount.name} = {mount.subject}" for mount in status.job.mounts)


JOB_COLUMNS: Mapping[type, Sequence[Column]] = {
    JobStatus: (
        of("job.id", "job"),
        of("job.spec.name"),
        of("state"),
        of("reason"),
        Column("workers", _workers, "job.spec.num_workers"),
        of("place"),
        of("outlook"),
        of("deadline.state", "deadline"),
        of("started_at"),
        of("ended_at"),
    ),
    Task: tuple(map(of, ("rank", "state", "reason", "pool", "machine", "exit_code", "peak_memory_bytes", "message"))),
    ArrayStatus: (
        of("array.id", "array"),
        of("array.spec.name"),
        of("state"),
        of("array.size"),
        of("num_succeeded", "succeeded"),
        of("num_failed", "failed"),
        of("num_cancelled", "cancelled"),
        of("num_running", "running"),
        of("started_at"),
        of("ended_at"),
    ),
    TemplateStep: (of("action"), of("kind"), of("name"), of("id"), of("message")),
    Template: (of("name", "template"), of("applied_at", "applied"), of("applied_by")),
    ArrayFailure: (of("index"), of("job_id", "job"), of("reason"), of("message")),
    ScheduleStatus: (
        of("schedule.name", "schedule"),
        of("schedule.cron"),
        of("schedule.time_zone"),
        of("schedule.paused"),
        of("schedule.next_at", "next"),
        of("schedule.last_at", "last"),
        of("last_state"),
        of("schedule.message"),
    ),
    SecretStatus: (of("name", "secret"), of("number", "version"), of("set_at", "set"), of("set_by")),
}

JOB_PAGES: Mapping[type, tuple[Sequence[Column], Sequence[str]]] = {
    JobStatus: (
        (
            of("job.id", "job"),
            of("job.spec.name"),
            of("state"),
            of("reason"),
            of("message"),
            of("next_action"),
            of("place", "place in the queue"),
            of("outlook"),
            of("forecast.basis", "judged"),
            Column("deadline", _due, "deadline"),
            Column("workers", _workers, "job.spec.num_workers"),
            of("job.spec.resources", "each with"),
            of("job.spec.priority"),
            Column("attempt", _attempt, "job.attempt"),
            of("job.submitted_at"),
            of("job.submitted_by"),
            of("started_at"),
            of("ended_at"),
            Column("packages", _packages, "job.spec.python"),
            Column("mounts", _mounts, "job.mounts"),
            of("job.spec.labels"),
        ),
        ("tasks",),
    ),
    ArrayStatus: (
        (
            of("array.id", "array"),
            of("array.spec.name"),
            of("state"),
            of("reason"),
            of("message"),
            of("next_action"),
            of("array.size"),
            of("num_succeeded", "succeeded"),
            of("num_failed", "failed"),
            of("num_cancelled", "cancelled"),
            of("num_running", "running"),
            of("num_waiting", "waiting"),
            of("array.spec.resources", "each with"),
            of("array.submitted_at"),
            of("array.submitted_by"),
            of("started_at"),
            of("ended_at"),
        ),
        ("failures",),
    ),
    ScheduleStatus: (
        (
            of("schedule.name", "schedule"),
            of("schedule.id"),
            of("schedule.cron"),
            of("schedule.time_zone"),
            of("schedule.missed"),
            of("schedule.overlap"),
            of("schedule.paused_for"),
            of("schedule.paused_by"),
            of("schedule.message"),
            of("schedule.num_runs", "runs"),
            of("schedule.last_at", "last"),
            of("schedule.last_job"),
            of("last_state"),
            Column("next", lambda status: ", ".join(human("at", slot) for slot in status.upcoming), "upcoming"),
            of("schedule.created_at"),
            of("schedule.created_by"),
            of("schedule.owner"),
        ),
        (),
    ),
}
