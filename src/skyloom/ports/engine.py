"""Engines run tasks. Plain data goes in, plain data comes out: no database, no callbacks, no knowledge of jobs.

A *gang* is N tasks that start together. Every task runs under a supervisor (the *shim*) that outlives the control plane, keeps
the task's output on disk, holds its limits, and records how it ended. One task id runs at most once, whatever crashes.

A program that knows why it fails says so: before it exits with a code other than 0 it leaves a `TaskError` as `ERROR_FILE` in its
task's folder (``SKYLOOM_TASK_FOLDER``). The engine makes the end's message of it. Anything else in that file is ignored, and the
message quotes the last line of output instead.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from skyloom.core.bounds import RelativePath
from skyloom.core.errors import InvalidInput, NotFound, Unavailable
from skyloom.core.resources import Resources
from skyloom.ports.channel import Argument, GuestCommand, TaskChannel
from skyloom.ports.environment import Mount, PythonEnvironment


class Ability(enum.StrEnum):
    """What an engine can do beyond the minimum. Ask the set; never test for a class."""

    WARM_START = "warm_start"
    GPU = "gpu"
    MEMORY_LIMIT = "memory_limit"
    PYTHON_ENVIRONMENT = "python_environment"
    MOUNTS = "mounts"
    EXEC = "exec"
    CONNECT = "connect"


class TaskNotThere(NotFound):
    """The task does not run here, or nothing in it listens on that port."""


class AbilityMissing(InvalidInput):
    """This engine cannot do that; `Engine.abilities` says so beforehand."""


class NoRoomNow(Unavailable):
    """The pool can be reached, but not take this gang now; nothing was started, and another try may be."""


class PoolTokenRefused(Unavailable):
    """The pool wants another token than the one that it was shown."""


class Command(msgspec.Struct, frozen=True, kw_only=True, tag="command"):
    """Run a program. ``argv`` goes to the system as it is: no shell, no expansion."""

    argv: Annotated[tuple[Argument, ...], Meta(min_length=1, max_length=1_000)]


class PythonFile(msgspec.Struct, frozen=True, kw_only=True, tag="python_file"):
    """Run a Python file, below the working folder, as ``__main__``."""

    path: RelativePath
    args: Annotated[tuple[Argument, ...], Meta(max_length=1_000)] = ()


class PythonModule(msgspec.Struct, frozen=True, kw_only=True, tag="python_module"):
    """Run an installed module as ``__main__``, like ``python -m``."""

    module: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$(?!\n)", max_length=300)]
    args: Annotated[tuple[Argument, ...], Meta(max_length=1_000)] = ()


class PythonCall(msgspec.Struct, frozen=True, kw_only=True, tag="python_call"):
    """Call one function of a Python file with JSON arguments.

    Its JSON result is written to ``result.json`` in the task's folder (``SKYLOOM_TASK_FOLDER``), where any task may leave one.
    """

    path: RelativePath
    function: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$(?!\n)", max_length=200)]
    arguments: Annotated[bytes, Meta(max_length=4 * 2**20)] = b'{"args": [], "kwargs": {}}'


Entry = Command | PythonFile | PythonModule | PythonCall


ERROR_FILE = "error.json"
INPUTS_FILE = ".skyloom-inputs.json"  # in the working folder of a job that is one of many: what all of them share


class TaskError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a program fails, in its own words.

    Attributes:
        message: one line for people; the engine keeps the first 500 characters.
        final: what was asked for is wrong, so another try would end in the same way: the task ends as `EndReason.REFUSED`.
        launch: the program never began, because what it needs could not be made: the task ends as `EndReason.LAUNCH_FAILED`.
    """

    message: str
    final: bool = False
    launch: bool = False


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One machine of a pool: all that it has, used or not, and what it is known by (``zone=eu``)."""

    name: str
    total: Resources
    labels: dict[str, str] = {}


class TaskPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an engine needs to run one task.

    Attributes:
        task_id: names the attempt and the rank; the engine runs it at most once, for ever.
        entry: what to run.
        files: working-folder path → absolute path of the bytes to place there before the start (copied, never linked).
        environment: variables added to a clean base environment. Never a secret.
        secret_files: name → content, written with mode 0600 beside the task; the variable ``SKYLOOM_<NAME>_FILE`` points at each;
            they are deleted when the task ends.
        secret_variables: like ``environment``, but never in a plan on disk: they lie beside the secret files, as one file with mode 0600,
            and only the task's own process takes them.
        shared_folder: absolute folder that all attempts and ranks of the job share (checkpoints live there); made when missing.
        resources: what one task may use; memory is a hard limit when not 0.
        max_duration_s: killed with `EndReason.TIME_LIMIT` after this long; None for no limit.
        grace_s: time between a polite stop (SIGTERM) and the end of every descendant (SIGKILL).
        max_log_bytes: output beyond this is dropped, and the log says so once.
        warm: may start from the warm pool (same interpreter, imports done); a hint.
        python: packages for the program, built at the task's start under its own limits, once for each machine; the log says what is
            done, and what cannot be built ends the task with LAUNCH_FAILED. None for the pool's own Python.
        mounts: folders to read, each at its name below ``SKYLOOM_MOUNTS``: fetched from the control plane at the task's start with the
            task's own token, checked by digest, kept once for each machine, read-only.
        machine: name of the machine to run on, one of `Engine.machines`; empty leaves it to the engine.
    """

    task_id: str
    entry: Entry
    files: dict[str, str] = {}
    environment: dict[str, str] = {}
    secret_files: dict[str, str] = {}
    secret_variables: dict[str, str] = {}
    shared_folder: str = ""
    resources: Resources = Resources()
    max_duration_s: float | None = None
    grace_s: float = 10.0
    max_log_bytes: int = 2 * 2**30
    warm: bool = True
    python: PythonEnvironment | None = None
    mounts: tuple[Mount, ...] = ()
    machine: str = ""


class GangPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks that start together; index is rank. The engine adds the rendezvous variables (RANK, WORLD_SIZE, LOCAL_RANK,
    LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT) to each."""

    gang_id: str
    tasks: tuple[TaskPlan, ...]


class GangWish(msgspec.Struct, frozen=True, kw_only=True):
    """What a gang would need that waits because all that is there is taken.

    Attributes:
        gang: names it; the same wish again is the same one.
        resources: of each worker.
        together: all of them on one machine, because the pool's machines share no folder.
    """

    gang: str
    resources: Resources
    num_workers: Annotated[int, Meta(ge=1, le=1_024)] = 1
    together: bool = False


class TaskPhase(enum.StrEnum):
    """What an engine can see of a task.

    ABSENT: it never ran and nothing is about to run it, so that launching it (again) is right. This is also what a crash between
    the preparation and the start of a task leaves.
    """

    ABSENT = "absent"
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"

    @property
    def is_live(self) -> bool:
        """Something of the task runs, or is about to."""
        return self in (TaskPhase.STARTING, TaskPhase.RUNNING)


class EndReason(enum.StrEnum):
    """Why a task ended. `rooms/jobs` adds meaning and a next action to each."""

    COMPLETED = "completed"
    EXIT_CODE = "exit_code"
    REFUSED = "refused"  # the program itself said that the request is wrong
    SIGNALLED = "signalled"
    OUT_OF_MEMORY = "out_of_memory"
    TIME_LIMIT = "time_limit"
    STOPPED = "stopped"
    LAUNCH_FAILED = "launch_failed"
    SHIM_LOST = "shim_lost"
    NODE_LOST = "node_lost"


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one task now.

    Attributes:
        pid: of the user's process, while it runs.
        started_at, ended_at: Unix seconds, from the shim's own record.
        exit_code: of the user's process; None while it runs or when a signal ended it.
        signal: number of the signal that ended it.
        peak_memory_bytes: largest total of the task's processes that was seen.
        message: evidence in one line ("used 2.1 GiB of 2 GiB"), for people.
    """

    task_id: str
    phase: TaskPhase
    pid: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: EndReason | None = None
    peak_memory_bytes: int = 0
    message: str = ""


class LogSlice(msgspec.Struct, frozen=True, kw_only=True):
    """Some of a task's output (stdout and stderr in the order they came).

    Attributes:
        content: the bytes from the asked offset on; empty when nothing more is there yet.
        next_offset: ask with this for what follows; no byte is lost or repeated.
        total_bytes: how much has been written so far.
    """

    content: bytes
    next_offset: int
    total_bytes: int


class Engine(Protocol):
    """Runs gangs on one pool. Thread-safe."""

    abilities: frozenset[Ability]

    def launch(self, gang: GangPlan) -> None:
        """Start a gang, all tasks or none. Returns when the shims are started, not when user code runs.

        Idempotent by task id: a task that ever started is left alone. Blocks for milliseconds, and for as long as it takes to send
        files to another machine; not for the job. A task that cannot be started (missing program, bad file) is no exception here:
        it is observed as ENDED with LAUNCH_FAILED. Raises `Unavailable` when the pool cannot be reached, `NoRoomNow` when only
        this gang has to wait, `StorageFull` when its disk is full, `InvalidInput` for a task id that the pool cannot use; then
        nothing was started, unless a machine fell silent while it was told to start something: the next look says what it did.
        One bad task keeps its whole gang from starting: every task of it is ENDED with LAUNCH_FAILED and says which one was
        bad.
        """
        ...

    def observe(self, task_ids: Sequence[str]) -> Mapping[str, Observation]:
        """Look at tasks; one answer for each id. Never blocks on user code. A task whose shim died without a record is ENDED with
        SHIM_LOST (NODE_LOST when the whole machine was restarted or is gone), and everything it left running is dead before that is
        said. A machine that does not answer shows what was seen last, with a message, until it answers or is lost. Raises
        `Unavailable` when the pool cannot be reached."""
        ...

    def stop(self, task_ids: Sequence[str], *, force: bool = False) -> None:
        """Ask tasks to stop: SIGTERM, then after their grace SIGKILL for every descendant, setsid and double forks included;
        ``force`` skips the grace. Returns at once; idempotent; unknown and ended tasks are ignored. Raises `Unavailable` when the pool
        cannot be reached; a machine that does not answer is to be asked again."""
        ...

    def capacity(self) -> Resources:
        """All that the pool has, used or not."""
        ...

    def machines(self) -> Sequence[Machine]:
        """The machines of the pool that work now; their totals add up to `capacity`. Raises `Unavailable` when the pool cannot be
        reached."""
        ...

    def wants(self, wishes: Sequence[GangWish]) -> None:
        """Tell the pool what waits, so that one that can get more machines gets them. All of it, each time: what is not named any more
        waits no more. A wish reserves nothing, keeps no machine once nothing is wished, and ends by itself when nobody holds this
        engine any more. A pool of fixed size does nothing. Raises `Unavailable` when the pool cannot be reached."""
        ...

    def read_log(self, task_id: str, offset: int, limit: int) -> LogSlice:
        """Read output bytes. Works while the task runs, after it ended and after any restart. Unknown task: an empty slice. Raises
        `Unavailable` while the task's machine does not answer; the output of one that is lost for ever is one line that says so."""
        ...

    def read_result(self, task_id: str) -> bytes | None:
        """Return what the task left in ``result.json`` (at most 16 MiB), or None. Raises `Unavailable` as `read_log` does."""
        ...

    def enter(self, task_id: str, command: GuestCommand) -> TaskChannel:
        """Run a command inside of a running task (`Ability.EXEC`): as one more of its processes, in its working folder, with its
        variables (`TaskPlan.secret_variables` excepted), under its limits. It ends with the task, and when the channel is
        closed.

        Blocks until it has started, for seconds at most. Raises `TaskNotThere`, `InvalidInput` for a command that cannot be run,
        `Unavailable`, `AbilityMissing`.
        """
        ...

    def connect(self, task_id: str, port: int) -> TaskChannel:
        """Connect to a TCP port that a process of a running task listens on (`Ability.CONNECT`), and to no other.

        Blocks for seconds at most. Raises `TaskNotThere`, `Unavailable`, `AbilityMissing`.
        """
        ...

    def known(self) -> Sequence[str]:
        """Ids of all tasks that the pool holds files of, running or ended; for finding orphans after a restart. Needs no connection."""
        ...

    def forget(self, task_ids: Sequence[str]) -> None:
        """Delete the files of ended tasks, output included. A task that still runs is left alone. The engine then knows nothing of the
        id any more and would run it again: forget only what will never be launched again."""
        ...

    def close(self) -> None:
        """Let go of the pool. Tasks go on running."""
        ...
