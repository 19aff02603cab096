"""Pure decisions of jobs: what may be asked for, what a job's state is, and how that is said.

Snapshot in, decision out. No clock, store or engine is known here.
"""

from collections.abc import Iterable, Sequence

import msgspec

from skyloom.ports.store import changed
from skyloom.rooms.jobs.model import (
    COME_BACK,
    ENDED,
    ENDLESS,
    HALTS,
    MOVES,
    OWNERS,
    Condition,
    Dependency,
    Job,
    JobBeyondBounds,
    JobSpec,
    JobState,
    JobStatus,
    LabelReserved,
    NotRepeatable,
    Reason,
    Task,
    TaskState,
)
from skyloom.rooms.scheduling.durations import GUESS
from skyloom.rooms.scheduling.forecast import GangForecast

LIVE = MOVES.live
MAX_PRIORITY = 1_000
UNSTARTED = (TaskState.WAITING, TaskState.QUEUED)
HOLDING = (TaskState.STARTING, TaskState.RUNNING, TaskState.STOPPING)

NEXT_ACTIONS: dict[Reason, str] = {
    Reason.NONE: "",
    Reason.WAITING_FOR_RESOURCES: "Wait, cancel something that holds them (skyloom job list), or ask for less.",
    Reason.WAITING_FOR_DEPENDENCIES: "Wait, or see how far they are: skyloom job show ID.",
    Reason.DEPENDENCY_FAILED: "Mend that one; then run this one without it: skyloom job rerun {id}.",
    Reason.COMPLETED: "",
    Reason.EXIT_CODE: "Read what it printed: skyloom job logs {id}.",
    Reason.REFUSED: "Correct that and start it again; it was not retried.",
    Reason.SIGNALLED: "Read what it printed: skyloom job logs {id}. SIGABRT and SIGSEGV are crashes in native code.",
    Reason.OUT_OF_MEMORY: "Ask for more memory (--memory) or use less; it was not retried.",
    Reason.TIME_LIMIT: "Raise --max-duration, or make it faster.",
    Reason.LAUNCH_FAILED: "Correct the command or the files, then submit again.",
    Reason.SHIM_LOST: "Its supervisor was killed from outside; submit again, with --retries to have that done for you.",
    Reason.NODE_LOST: "The machine was lost; submit again, with --retries to have that done for you.",
    Reason.STOPPED: "Something outside of Skyloom asked it to stop; submit again.",
    Reason.CANCELLED: "",
    Reason.BUDGET_EXHAUSTED: "Raise the budget, then submit it again; what it saved in its shared folder is kept.",
    Reason.PREEMPTED: "Nothing: it goes on from its checkpoint as soon as there is room.",
    Reason.RESIZED: "Nothing: it goes on from its checkpoint with another number of workers.",
    Reason.PEER_FAILED: "Look at the worker that failed first: skyloom job show {id}.",
}


def check_bounds(made: Job | JobSpec) -> None:
    """Raise `JobBeyondBounds` for what could be written and never be read again, which would stop the loop for everybody.

    Whoever makes a job from something else (a training, an array, a replica) adds files, variables and labels of his own.
    """
    try:
        msgspec.json.decode(msgspec.json.encode(made), type=type(made))
    except msgspec.ValidationError as error:
        raise JobBeyondBounds(
            f"The job would be beyond what one may be: {error}.", next_action="Ask for less or shorter of that."
        ) from None


def check_labels(labels: Iterable[str]) -> None:
    """Raise `LabelReserved` when somebody sets a label that costs and lineage are told by."""
    reserved = sorted(OWNERS.intersection(labels))
    if reserved:
        raise LabelReserved(
            f"The label {reserved[0]!r} is set by Skyloom itself.", next_action="Give the label another name."
        )


def check_repeatable(job: Job) -> None:
    """Raise `NotRepeatable` for a job that does the work of a run, an endpoint or a dataset."""
    owned = sorted(OWNERS.intersection(job.spec.labels))
    if owned:
        raise NotRepeatable(
            f"Job {job.id} works for the {owned[0]} {job.spec.labels[owned[0]]}.",
            next_action="Start that again instead: skyloom train, skyloom deploy.",
        )


def again(spec: JobSpec) -> JobSpec:
    """What a job did, to be done once more, now."""
    return msgspec.structs.replace(spec, after=())


def tasks_of(job: Job, now: float, reason: Reason = Reason.NONE, message: str = "") -> tuple[Task, ...]:
    """The tasks of a job's newest attempt, as they start out; reason and message tell what the last one made room for."""
    return tuple(
        Task(
            id=f"{job.id}.{job.attempt}.{rank}",
            project=job.project,
            job_id=job.id,
            attempt=job.attempt,
            rank=rank,
            turn=turn_of(job),
            array=job.array,
            state=TaskState.WAITING if job.spec.after and job.attempt == 1 else TaskState.QUEUED,
            reason=reason,
            message=message,
            created_at=now,
        )
        for rank in range(job.spec.num_workers)
    )


def turn_of(job: Job) -> str:
    """A text that sorts jobs by priority, the largest first, and then by age (ids are made in order of time)."""
    return f"{MAX_PRIORITY - job.spec.priority:05}.{job.id}"


def state_of(tasks: Iterable[Task]) -> JobState:
    """The state of a job from the tasks of its newest attempt."""
    gang = list(tasks)
    states = {task.state for task in gang}
    for state in (
        TaskState.STOPPING,
        TaskState.RUNNING,
        TaskState.STARTING,
        TaskState.QUEUED,
        TaskState.WAITING,
    ):
        if state in states:
            return JobState(state.value)
    ended = [task for task in gang if task.reason not in COME_BACK] or gang
    for state in (TaskState.CANCELLED, TaskState.FAILED):
        if state in {task.state for task in ended}:
            return JobState(state.value)
    return JobState.CANCELLED if TaskState.CANCELLED in states else JobState.SUCCEEDED


def status(
    job: Job,
    all_tasks: Sequence[Task],
    waiting: str = "",
    place: int = 0,
    forecast: GangForecast | None = None,
    held_up: str = "",
    advice: str = "",
) -> JobStatus:
    """A job and what has become of it.

    Args:
        all_tasks: of every attempt.
        waiting, place: what a queued job waits for and its place in the queue, if that is known.
        forecast: when it will start and end, if that is known.
        held_up: why a job whose turn has come is not launched yet.
        advice: what to do about its waiting, where waiting alone will not do.
    """
    tasks = newest(job, all_tasks)
    state = state_of(tasks)
    if job.halt and state in (JobState.RUNNING, JobState.STARTING):
        state = JobState.STOPPING
    decisive = deciding(tasks)
    reason = decisive.reason if decisive else Reason.NONE
    message = explain(job, decisive, len(tasks)) if decisive else ""
    if state is JobState.QUEUED and waiting:
        message = f"{waiting}; {message}" if message else waiting
        reason = Reason.WAITING_FOR_RESOURCES
    next_action = advice if state is JobState.QUEUED and advice else ""
    if state is JobState.STARTING and held_up:
        message = held_up
    if state is JobState.WAITING:
        reason, message = Reason.WAITING_FOR_DEPENDENCIES, waits_for(job.spec.after)
    endless = state is not JobState.QUEUED and not ENDLESS.isdisjoint(job.spec.labels)
    ends = [task.ended_at for task in tasks if task.ended_at is not None]
    starts = [task.started_at for task in all_tasks if task.started_at is not None]
    return JobStatus(
        job=job,
        state=state,
        reason=reason,
        message=message,
        next_action=next_action or NEXT_ACTIONS[reason].format(id=job.id),
        started_at=min(starts, default=None),
        ended_at=max(ends, default=None) if state in ENDED else None,
        place=place or None if state is JobState.QUEUED else None,
        forecast=None if state in ENDED or endless else forecast,
        tasks=tasks,
    )


def waits_for(after: Sequence[Dependency]) -> str:
    """What something comes after, in words."""
    words = [f"{one.id} to {'succeed' if one.condition is Condition.SUCCEEDED else 'end'}" for one in after[:3]]
    return f"waits for {', '.join(words)}" + (f" and {len(after) - 3} more" if len(after) > 3 else "")


def foreseen(status: JobStatus, now: float) -> str:
    """When a job will start or end, in words: "likely to start in 3 min (1 min to 10 min)"; empty when nobody can say.

    How long a job of a new kind runs is a guess: good enough for the starts of others, not to be told as its own end.
    """
    known = status.forecast
    if known is None:
        return ""
    when, word = (known.starts, "start") if status.state is JobState.QUEUED else (known.ends, "end")
    if when.likely_at is None:
        return ""
    if word == "end" and known.basis == GUESS:
        return "end unknown: no earlier run"
    early, likely, late = (
        None if at is None else span(at - now) for at in (when.early_at, when.likely_at, when.late_at)
    )
    return f"likely to {word} in {likely} ({early or '0 s'} to {late or 'much later'})"


def span(duration_s: float) -> str:
    """A duration for people, with one unit."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if duration_s >= 2 * size:
            return f"{duration_s / size:.0f} {unit}"
    return f"{max(0.0, duration_s):.0f} s"


def newest(job: Job, tasks: Iterable[Task]) -> tuple[Task, ...]:
    """The tasks of a job's newest attempt, by rank."""
    return tuple(sorted((task for task in tasks if task.attempt == job.attempt), key=lambda task: task.rank))


def deciding(tasks: Iterable[Task]) -> Task | None:
    """The task whose end or waiting says most about its gang: a refusal, the first real failure, else any with a reason."""
    speaking = [task for task in tasks if task.reason not in (Reason.NONE, Reason.COMPLETED)]
    # A refusal says it best, even where a peer that lost its gang was quicker to end.
    order = {Reason.REFUSED: 0, Reason.PEER_FAILED: 2, Reason.PREEMPTED: 3, Reason.RESIZED: 3}
    return min(speaking, key=lambda t: (order.get(t.reason, 1), t.ended_at or 0.0, t.rank), default=None)


def explain(job: Job, task: Task, size: int) -> str:
    """The evidence, in one sentence."""
    if task.reason in HALTS:
        return task.message  # all of the gang was told the same
    who = f"Worker {task.rank} of {size}: " if size > 1 else ""
    tries = f" (attempt {task.attempt - job.comebacks} of {job.spec.max_retries + 1})" if job.spec.max_retries else ""
    return f"{who}{task.message}{tries}"


def ran_s(task: Task) -> float:
    """For how long a task that has ended ran, in seconds; 0 for one that never started or still runs."""
    if task.started_at is None or task.ended_at is None:
        return 0.0
    return max(0.0, task.ended_at - task.started_at)


def deadline_of(job: Job) -> float | None:
    """When a job should be done, in Unix seconds."""
    if job.spec.deadline_s is not None:
        return job.submitted_at + job.spec.deadline_s
    return job.spec.deadline_at


def grown(job: Job, tasks: Sequence[Task], num_workers: int, now: float) -> tuple[Task, ...]:
    """The tasks that an elastic gang needs beside those it queued with, to start with that many workers."""
    (first, *_) = tasks
    return tuple(
        changed(first, {"id": f"{job.id}.{job.attempt}.{rank}", "rank": rank, "version": 0, "created_at": now})
        for rank in range(len(tasks), num_workers)
    )


def is_endless(spec: JobSpec) -> bool:
    """Whether it runs until somebody stops it, as services do, and nobody said for how long at most."""
    bounded = spec.max_duration_s is not None or spec.expected_duration_s is not None
    return not bounded and not ENDLESS.isdisjoint(spec.labels)


def has_allowance(spec: JobSpec) -> bool:
    """A job has a budget of its own."""
    return any(limit is not None for limit in (spec.budget_usd, spec.budget_gpu_hours, spec.budget_cpu_hours))
