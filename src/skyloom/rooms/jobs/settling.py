"""What an observation means, who must stop, who tries again: pure decisions about the tasks of one job.

Snapshot in, decision out. No clock, store or engine is known here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from skyloom.ports.engine import EndReason, Observation, TaskPhase
from skyloom.ports.store import changed
from skyloom.rooms.jobs import rules
from skyloom.rooms.jobs.model import COME_BACK, HALTS, MOVES, Job, Reason, Task, TaskState

# What another try can mend. More memory, more time, another command or another request are not among it.
RETRYABLE = frozenset({Reason.EXIT_CODE, Reason.SIGNALLED, Reason.SHIM_LOST, Reason.NODE_LOST, Reason.STOPPED})

# Limits are kept by a clock that only counts; how long a task ran is told by one that is set now and then.
_NEARLY = 0.99


@dataclass(frozen=True)
class Settled:
    """What has to be written after looking at one job.

    Attributes:
        tasks: changed tasks, at the version that was read.
        again: why another attempt is to be made: the halt that it comes back from, ``NONE`` for a retry; None when there is none.
        stop: ids the engine has to stop now.
        launch: ids that are meant to run but that the engine does not know: a crash came between intent and launch.
    """

    tasks: tuple[Task, ...] = ()
    again: Reason | None = None
    stop: tuple[str, ...] = ()
    launch: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """There is something to write."""
        return bool(self.tasks) or self.again is not None


def settle(job: Job, tasks: Sequence[Task], seen: Mapping[str, Observation], now: float) -> Settled:
    """Compare what is wanted of a job's newest attempt with what was seen, and say what to write and to do."""
    after = {task.id: _observed(_overtaken(job, task), seen.get(task.id), now) for task in tasks}
    after = {key: _unpaid(job, task) for key, task in after.items()}
    after = {key: _wanted(job, task, after.values(), now) for key, task in after.items()}
    before = {task.id: task for task in tasks}
    stop = tuple(key for key, task in after.items() if task.state is TaskState.STOPPING)
    absent = {key for key in after if key in seen and seen[key].phase is TaskPhase.ABSENT}
    launch = tuple(key for key in after if after[key].state is TaskState.STARTING and key in absent)
    return Settled(
        tasks=tuple(task for key, task in after.items() if task != before[key]),
        again=_again(job, list(after.values())),
        stop=stop,
        launch=launch,
    )


def _overtaken(job: Job, task: Task) -> Task:
    """A task that stops to come back, once its job is told to stop for good."""
    overtaken = task.state is TaskState.STOPPING and task.reason in COME_BACK and job.halt and job.halt.is_final
    return changed(task, {"reason": job.halt.reason, "message": job.halt.message}) if overtaken and job.halt else task


def _observed(task: Task, seen: Observation | None, now: float) -> Task:
    """The task after what the engine saw of it."""
    if task.state not in rules.HOLDING or seen is None:
        return task
    if seen.phase is TaskPhase.ABSENT:
        if task.state is TaskState.RUNNING:
            # All that was known of it was removed from outside; nobody will ever say how it ended.
            lost = {"reason": Reason.SHIM_LOST, "message": "its engine knows nothing of it any more"}
            return changed(task, {**lost, "state": TaskState.FAILED, "ended_at": now})
        # A stop that was decided before anything was launched: there is nothing to wait for.
        return _stopped(task, now) if task.state is TaskState.STOPPING else task
    facts = {"pid": seen.pid or task.pid, "started_at": seen.started_at or task.started_at}
    if seen.phase is TaskPhase.RUNNING and task.state is TaskState.STARTING:
        return changed(task, {**facts, "state": TaskState.RUNNING})
    if seen.phase is not TaskPhase.ENDED:
        return task
    facts |= {
        "exit_code": seen.exit_code,
        "signal": seen.signal,
        "peak_memory_bytes": seen.peak_memory_bytes,
        "ended_at": seen.ended_at or now,
    }
    finished = task.reason in COME_BACK and seen.reason is EndReason.COMPLETED  # it was quicker than its halt
    if task.state is TaskState.STOPPING and not finished:
        return _stopped(changed(task, facts), seen.ended_at or now)
    reason = Reason((seen.reason or EndReason.SHIM_LOST).value)
    state = TaskState.SUCCEEDED if reason is Reason.COMPLETED else TaskState.FAILED
    return changed(task, {**facts, "state": state, "reason": reason, "message": _evidence(seen, reason)})


def _unpaid(job: Job, task: Task) -> Task:
    """A task that its machine stopped at a time that was not its limit: the one at which the job's budget is used up (`Plans.lasts_s`)."""
    limit_s = job.spec.max_duration_s
    if (
        task.reason is not Reason.TIME_LIMIT
        or not rules.has_allowance(job.spec)
        or (limit_s and rules.ran_s(task) >= _NEARLY * limit_s)
    ):
        return task
    message = "Its own budget is used up; its machine stopped it, since no control plane had by then"
    return changed(task, {"reason": Reason.BUDGET_EXHAUSTED, "message": message})


def _stopped(task: Task, ended_at: float) -> Task:
    state = TaskState.CANCELLED if task.reason in HALTS else TaskState.FAILED
    return changed(task, {"state": state, "ended_at": ended_at})


def _evidence(seen: Observation, reason: Reason) -> str:
    if seen.message:
        return seen.message
    if reason is Reason.EXIT_CODE:
        return f"exited with code {seen.exit_code}"
    if reason is Reason.SIGNALLED:
        return f"was ended by signal {seen.signal}"
    return reason.value.replace("_", " ")


def _wanted(job: Job, task: Task, gang: Iterable[Task], now: float) -> Task:
    """The task after what its owner and its gang want of it."""
    if MOVES.is_terminal(task.state) or task.state is TaskState.STOPPING:
        return task
    if job.halt:
        target = TaskState.CANCELLED if task.state in rules.UNSTARTED else TaskState.STOPPING
        end = {"ended_at": now} if target is TaskState.CANCELLED else {}
        why = {"reason": job.halt.reason, "message": job.halt.message}
        return changed(task, {"state": target, **why, **end})
    failed = next((peer for peer in gang if peer.state is TaskState.FAILED), None)
    if failed is not None and task.state not in rules.UNSTARTED:
        message = f"stopped because worker {failed.rank} failed ({failed.reason.value})"
        return changed(task, {"state": TaskState.STOPPING, "reason": Reason.PEER_FAILED, "message": message})
    return task


def _again(job: Job, tasks: Sequence[Task]) -> Reason | None:
    """Why there is to be another attempt, see `Settled.again`."""
    if not tasks or not all(MOVES.is_terminal(task.state) for task in tasks):
        return None
    if job.halt and job.halt.is_final:
        return None
    failed = [task for task in tasks if task.state is TaskState.FAILED]
    halted = next(
        (task.reason for task in tasks if task.state is TaskState.CANCELLED and task.reason in COME_BACK), None
    )
    if halted and not failed:
        return halted
    decisive = rules.deciding(failed)
    mendable = decisive is not None and decisive.reason in RETRYABLE
    return Reason.NONE if mendable and job.attempt - job.comebacks <= job.spec.max_retries else None


def next_attempt(job: Job, again: Reason) -> Job:
    """The job as its next attempt begins; coming back from a halt counts as no retry."""
    comebacks = job.comebacks + (again in COME_BACK)
    return changed(job, {"attempt": job.attempt + 1, "comebacks": comebacks, "halt": None})
