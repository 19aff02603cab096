"""Nouns of jobs. A job is N workers (a gang) that start together; each try of the gang is an attempt; each worker of an attempt is a task.

Only tasks have a stored state. A job's state is derived from the tasks of its newest attempt (`rules.status`), so the two cannot disagree.
"""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Count, Cursor, Digest, Id, Limit, Name, RelativePath, ShortText
from skyloom.core.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from skyloom.core.events import Origin
from skyloom.core.operation import Operation, Page, Right, operation
from skyloom.core.resources import Resources
from skyloom.core.states import Moves
from skyloom.ports.channel import Argument, Size
from skyloom.ports.engine import Entry
from skyloom.ports.environment import Mount, PythonEnvironment
from skyloom.ports.store import Record
from skyloom.rooms.cost.budget import Allowance, Amount
from skyloom.rooms.scheduling.forecast import GangForecast
from skyloom.rooms.secrets.model import SecretUse


class JobMissing(NotFound):
    """No such job in this project."""


class ImpossibleRequest(InvalidInput):
    """The job asks for more than the pool could ever give."""


class DeadlinePassed(InvalidInput):
    """The deadline is over already."""


class LabelReserved(InvalidInput):
    """The label is one that only Skyloom sets."""


class FileMissing(InvalidInput):
    """A file of the job was never uploaded."""


class JobBeyondBounds(InvalidInput):
    """With what its maker adds to it, the job is larger than a job may be."""


class TooManyInProject(LimitExceeded):
    """The project has as many open workers, arrays or schedules as it may."""


class NotRepeatable(Conflict):
    """The job belongs to a run, an endpoint or a dataset, which has to be asked instead."""


class TaskState(enum.StrEnum):
    """The life of one task. ``MOVES`` is the table."""

    WAITING = "waiting"  # for what its job comes after; not in the queue
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


MOVES = Moves(
    "task",
    {
        TaskState.WAITING: (TaskState.QUEUED, TaskState.CANCELLED),
        TaskState.QUEUED: (TaskState.STARTING, TaskState.CANCELLED),
        TaskState.STARTING: (TaskState.RUNNING, TaskState.STOPPING, TaskState.SUCCEEDED, TaskState.FAILED),
        TaskState.RUNNING: (TaskState.STOPPING, TaskState.SUCCEEDED, TaskState.FAILED),
        TaskState.STOPPING: (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED),
        TaskState.SUCCEEDED: (),
        TaskState.FAILED: (),
        TaskState.CANCELLED: (),
    },
)


class JobState(enum.StrEnum):
    """What a job as a whole is doing; always derived."""

    WAITING = "waiting"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class Reason(enum.StrEnum):
    """Why a task is where it is. `rules.NEXT_ACTIONS` has a next action for each."""

    NONE = ""
    WAITING_FOR_RESOURCES = "waiting_for_resources"
    WAITING_FOR_DEPENDENCIES = "waiting_for_dependencies"
    DEPENDENCY_FAILED = "dependency_failed"
    COMPLETED = "completed"
    EXIT_CODE = "exit_code"
    REFUSED = "refused"
    SIGNALLED = "signalled"
    OUT_OF_MEMORY = "out_of_memory"
    TIME_LIMIT = "time_limit"
    LAUNCH_FAILED = "launch_failed"
    SHIM_LOST = "shim_lost"
    NODE_LOST = "node_lost"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    BUDGET_EXHAUSTED = "budget_exhausted"
    PREEMPTED = "preempted"
    RESIZED = "resized"
    PEER_FAILED = "peer_failed"


# Why a whole gang is told to stop. After the last two it comes back into the queue, as old as it was, and goes on from its checkpoint.
HALTS = frozenset({Reason.CANCELLED, Reason.BUDGET_EXHAUSTED, Reason.PREEMPTED, Reason.RESIZED})
COME_BACK = frozenset({Reason.PREEMPTED, Reason.RESIZED})


# What costs and lineage are told by: nobody may say it of his own job.
OWNERS = frozenset({"run", "model", "endpoint", "gateway", "user"})
# Labels of what serves until somebody stops it: of such a job nobody can say when it ends.
ENDLESS = frozenset({"endpoint", "gateway", "notebook"})

Label = Annotated[str, Meta(max_length=200)]
Workers = Annotated[int, Meta(ge=1, le=1_024)]
MaxWorkers = Annotated[int, Meta(ge=0, le=1_024)]
PoolNames = Annotated[tuple[Name, ...], Meta(max_length=100)]
Requirements = Annotated[dict[Label, Label], Meta(max_length=50)]
Moment = Annotated[float, Meta(ge=0, le=1e12)]
Span = Annotated[float, Meta(gt=0, le=100 * 366 * 86_400)]


class Condition(enum.StrEnum):
    """What must have become of a thing before what comes after it may begin."""

    SUCCEEDED = "succeeded"
    ENDED = "ended"  # in whatever way


class Dependency(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A job or an array that has to end first."""

    id: Id
    condition: Condition = Condition.SUCCEEDED


MountName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}$(?!\n)")]
MountReference = Annotated[
    str, Meta(pattern=r"^(dataset|model):[a-z0-9._-]{1,80}(:[A-Za-z0-9._-]{1,80})?$(?!\n)", max_length=200)
]


Speedups = Annotated[tuple[Annotated[float, Meta(gt=0, le=1e6)], ...], Meta(max_length=1_024)]


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What to run and on how much.

    Attributes:
        entry: a command, a Python file, a Python module or one call of a Python function.
        files: path below the working folder → digest of uploaded bytes.
        num_workers: size of the gang; all start together or none does.
        max_workers: of an elastic gang: it starts with as many workers from ``num_workers`` to this as there is room for, and
            is stopped and started again with another number later; 0 for a gang of one size.
        resources: for each worker.
        pools: it may run on these only; empty for any.
        requires: labels that its machines must have.
        max_retries: how many more attempts after the first, when one fails for a reason that a retry can mend.
        max_duration_s: end an attempt after this long.
        grace_s: time between the polite stop and the hard one.
        priority: larger goes first.
        preemptible: may be stopped to make room for others; it comes back and resumes from what it left in its shared folder.
        deadline_at: when it should be done, in Unix seconds; ``deadline_s`` says the same from its submission on.
        expected_duration_s: how long its owner thinks that it runs, with ``num_workers``.
        speedups: of an elastic gang: how fast it is with 1, 2, … workers, in any one unit, as its plan measured; empty means that
            each helps as much as the first.
        after: what has to end first; a job whose conditions can no longer come true is cancelled.
        python: packages that the job needs beside those of the pool; built at its start, once for each machine.
        mounts: folder below ``SKYLOOM_MOUNTS`` → what is in it: ``dataset:digits:3``, ``model:digits:champion``; without a version the
            newest. The job keeps the version that it was at its submission.
        secrets: which of the project's secrets it gets, each as a file or as a variable.
        labels: free, but for ``OWNERS``, which Skyloom itself sets and which show up in costs.
        budget_usd, budget_gpu_hours, budget_cpu_hours: what all of its attempts together may use; it is stopped in time, with its grace.
    """

    entry: Entry
    name: ShortText = ""
    files: Annotated[dict[RelativePath, Digest], Meta(max_length=1_000)] = {}
    environment: Annotated[
        dict[
            Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$(?!\n)", max_length=200)],
            Annotated[str, Meta(max_length=32_000)],
        ],
        Meta(max_length=200),
    ] = {}
    num_workers: Workers = 1
    max_workers: MaxWorkers = 0
    resources: Resources = Resources()
    pools: PoolNames = ()
    requires: Requirements = {}
    max_retries: Annotated[int, Meta(ge=0, le=1_000)] = 0
    max_duration_s: Annotated[float, Meta(gt=0, le=366 * 86_400)] | None = None
    grace_s: Annotated[float, Meta(ge=0, le=3_600)] = 10.0
    priority: Annotated[int, Meta(ge=-1_000, le=1_000)] = 0
    preemptible: bool = True
    deadline_at: Moment | None = None
    deadline_s: Span | None = None
    expected_duration_s: Span | None = None
    speedups: Speedups = ()
    labels: Annotated[dict[Label, Label], Meta(max_length=50)] = {}
    max_log_bytes: Annotated[int, Meta(ge=1_024, le=2**40)] = 2 * 2**30
    warm: bool = True
    after: Annotated[tuple[Dependency, ...], Meta(max_length=1_000)] = ()
    secrets: Annotated[tuple[SecretUse, ...], Meta(max_length=100)] = ()
    python: PythonEnvironment | None = None
    mounts: Annotated[dict[MountName, MountReference], Meta(max_length=50)] = {}
    budget_usd: Amount | None = None
    budget_gpu_hours: Amount | None = None
    budget_cpu_hours: Amount | None = None

    def __post_init__(self) -> None:
        _ = self.allowance  # NaN becomes null on a wire, and would mean no limit there

    @property
    def allowance(self) -> Allowance:
        """Its own budget. Raises `BudgetUnclear` for what is no amount."""
        return Allowance(usd=self.budget_usd, gpu_hours=self.budget_gpu_hours, cpu_hours=self.budget_cpu_hours)


class Halt(msgspec.Struct, frozen=True, kw_only=True):
    """A gang is told to stop: politely, so that it can write a checkpoint, then after its grace for good.

    Attributes:
        reason: one of `HALTS`.
        by: who said so: a principal, a budget, or the job that gets the room.
        message: the evidence in one sentence, for people.
        num_workers: how many it goes on with, for `Reason.RESIZED`.
    """

    reason: Reason
    by: str
    at: float
    message: str = ""
    num_workers: int | None = None

    @property
    def is_final(self) -> bool:
        """The job does not come back."""
        return self.reason not in COME_BACK


class Job(Record, frozen=True, kw_only=True):
    """A job as it was asked for, and what is wanted of it now.

    Attributes:
        attempt: number of the newest attempt, from 1; every write of a task carries it, so an old one is refused.
        comebacks: how many attempts ended because the gang made room or changed its size; these count as no retry.
        halt: what the newest attempt was told, if it has to stop.
        array: id of the array that it is one task of, or "".
        mounts: the versions that its mounts were at its submission.
        cause: the delivery of a trigger that it came of, if it did.
    """

    spec: JobSpec
    submitted_at: float
    submitted_by: str
    attempt: int = 1
    comebacks: int = 0
    halt: Halt | None = None
    array: str = ""
    mounts: tuple[Mount, ...] = ()
    cause: Origin | None = None


class Task(Record, frozen=True, kw_only=True):
    """One worker of one attempt. Its id is ``<job id>.<attempt>.<rank>`` and it runs at most once.

    Attributes:
        turn: sorts queued tasks by priority, then by the age of their job (`rules.turn_of`).
        array: that of its job.
        reason: why it ended, or why it waits.
        message: the evidence in one line.
        pool, machine: where it runs or ran; empty until it starts.
        started_at, ended_at: Unix seconds by the shim's record; None until then.
    """

    job_id: str
    attempt: int
    rank: int
    turn: str = ""
    array: str = ""
    state: TaskState = TaskState.QUEUED
    reason: Reason = Reason.NONE
    message: str = ""
    pool: str = ""
    machine: str = ""
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    peak_memory_bytes: int = 0
    created_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None


class DeadlineState(enum.StrEnum):
    """How a job stands to its deadline."""

    AHEAD = "ahead"
    AT_RISK = "at_risk"  # it will likely end after it
    MET = "met"  # it succeeded by then
    MISSED = "missed"  # it had not succeeded by then, or no longer can


class Deadline(msgspec.Struct, frozen=True, kw_only=True):
    """When a job should be done, and how it stands to that.

    Attributes:
        at: Unix seconds.
        message: the finding in words.
    """

    at: float
    state: DeadlineState
    message: str


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A job and what has become of it.

    Attributes:
        state: derived from the tasks of the newest attempt.
        reason, message, next_action: why it is in this state, the evidence, what to do; empty when there is nothing to say.
        place: in the queue, 1 is the next; None for one that does not wait, or is further back than was looked at.
        forecast, outlook: when it will start and end, as far as that can be known, and what is next of it in words; None and
            empty for one that has ended, is too far back, or runs as a service (``ENDLESS``).
        deadline: how it stands to its deadline, at the time of asking; None without one.
        tasks: of the newest attempt, by rank.
        started_at, ended_at: of the first attempt and of the last.
    """

    job: Job
    state: JobState
    reason: Reason = Reason.NONE
    message: str = ""
    next_action: str = ""
    place: int | None = None
    forecast: GangForecast | None = None
    outlook: str = ""
    deadline: Deadline | None = None
    started_at: float | None = None
    ended_at: float | None = None
    tasks: tuple[Task, ...] = ()


class LogChunk(msgspec.Struct, frozen=True, kw_only=True):
    """Some of a task's output.

    Attributes:
        text: decoded as UTF-8, what is none is replaced.
        next_offset: ask with this for what follows.
        ended: nothing more will come.
    """

    text: str
    next_offset: int
    ended: bool


ALL_ARRAYS = "*"


class CallResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a called function returned, as JSON text. ``ready`` is false while it runs."""

    ready: bool
    result_json: str = "null"


@operation("jobs.submit", Right.RUN, "POST /jobs")
class SubmitJob(Operation[JobStatus], frozen=True, kw_only=True):
    """Queue a job. The answer comes when the job is on disk; from then on it ends in exactly one terminal state."""

    spec: JobSpec


@operation("jobs.get", Right.READ, "GET /jobs/{job_id}")
class GetJob(Operation[JobStatus], frozen=True, kw_only=True):
    """Show one job with the tasks of its newest attempt."""

    job_id: Id


@operation("jobs.list", Right.READ, "GET /jobs")
class ListJobs(Operation[Page[JobStatus]], frozen=True, kw_only=True):
    """List jobs, newest first: those of one array, those of none, or with ``*`` all of them."""

    limit: Limit = 50
    cursor: Cursor | None = None
    live: bool = False
    array: Annotated[str, Meta(max_length=120)] = ""


@operation("jobs.cancel", Right.RUN, "POST /jobs/{job_id}/cancel")
class CancelJob(Operation[JobStatus], frozen=True, kw_only=True):
    """Stop a job: a polite signal, then after its grace the end of every process it started. Safe to repeat."""

    job_id: Id


@operation("jobs.rerun", Right.RUN, "POST /jobs/{job_id}/rerun")
class RerunJob(Operation[JobStatus], frozen=True, kw_only=True):
    """Queue a new job that does what an earlier one did. What that one came after is not waited for again."""

    job_id: Id


@operation("jobs.logs", Right.READ, "GET /jobs/{job_id}/logs")
class ReadLog(Operation[LogChunk], frozen=True, kw_only=True):
    """Read the output of one task from an offset on; stdout and stderr in the order they came. Repeat to follow it."""

    job_id: Id
    rank: Annotated[int, Meta(ge=0, le=100_000)] = 0
    attempt: Annotated[int, Meta(ge=0, le=100_000)] = 0
    offset: Count = 0
    limit: Annotated[int, Meta(ge=1, le=4 * 2**20)] = 2**18


@operation("jobs.result", Right.READ, "GET /jobs/{job_id}/result")
class ReadResult(Operation[CallResult], frozen=True, kw_only=True):
    """Read what a called function returned."""

    job_id: Id


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A way into a running task. Its bytes go through the socket ``/v1/projects/{project}/sessions/{id}``, for who opened it.

    Attributes:
        expires_at: Unix seconds; not used until then, it is forgotten.
    """

    id: str
    job_id: str
    task_id: str
    expires_at: float


@operation("jobs.exec", Right.RUN, "POST /jobs/{job_id}/exec")
class OpenExec(Operation[Session], frozen=True, kw_only=True):
    """Allow one command inside of a running worker: as one of its processes, under its limits, ended with it. It starts when the
    session's socket is opened, within a minute, by the same token.

    Attributes:
        argv: program and arguments, as they are: no shell.
        terminal: its size, for a command that talks to a person; None for plain pipes.
    """

    job_id: Id
    argv: Annotated[tuple[Argument, ...], Meta(min_length=1, max_length=1_000)]
    rank: Annotated[int, Meta(ge=0, le=100_000)] = 0
    terminal: Size | None = None
    kind_of_terminal: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._+-]{1,80}$(?!\n)")] = "xterm"


@operation("jobs.forward", Right.RUN, "POST /jobs/{job_id}/ports")
class OpenPort(Operation[Session], frozen=True, kw_only=True):
    """Allow connections to a TCP port on which a process of a running worker listens, one for each opening of the session's socket."""

    job_id: Id
    port: Annotated[int, Meta(ge=1, le=65_535)]
    rank: Annotated[int, Meta(ge=0, le=100_000)] = 0


OPERATIONS = (SubmitJob, GetJob, ListJobs, CancelJob, RerunJob, ReadLog, ReadResult, OpenExec, OpenPort)
