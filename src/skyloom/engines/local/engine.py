"""`LocalEngine`: the port's promises on one machine. It holds nothing that a task needs; all truth is in the task folders."""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from skyloom.core.errors import StorageFull, Unavailable
from skyloom.core.resources import Resources
from skyloom.durable import is_full
from skyloom.engines.local import environment, inside, machine
from skyloom.engines.local.claims import Claims
from skyloom.engines.local.folder import ExitRecord, ShimRecord, TaskFolder, checked_id, ended, ids_of, is_task_id
from skyloom.engines.local.lost import end_lost
from skyloom.engines.local.prepare import Host, LaunchRefused, Place, prepare
from skyloom.engines.local.pythons import Pythons
from skyloom.engines.local.starts import Fate, Starts
from skyloom.engines.local.supervisor import files, processes
from skyloom.engines.local.warm import WarmPools
from skyloom.ports.channel import GuestCommand, TaskChannel
from skyloom.ports.engine import (
    Ability,
    EndReason,
    GangPlan,
    GangWish,
    LogSlice,
    Machine,
    Observation,
    TaskNotThere,
    TaskPhase,
    TaskPlan,
)

MAX_RESULT_BYTES = 16 * 2**20
_ALWAYS = {Ability.MEMORY_LIMIT, Ability.PYTHON_ENVIRONMENT, Ability.MOUNTS, Ability.EXEC, Ability.CONNECT}
_MAX_REMEMBERED = 2_000  # ends kept in memory; the others are read from disk again


class LocalEngine:
    """Runs tasks as process trees of this machine.

    Args:
        folder: the engine's own; made when missing. Another engine over the same folder adopts what runs there.
        python: interpreter of user code; None for this one.
        capacity: what may be handed out; None, or a 0 in it, for all that the machine has. Reported, not enforced: placing is
            the scheduler's business.
        warm: keep processes with the imports done, so that Python tasks and model servers start in milliseconds.
        variables: added to the clean base environment of every task.
        lease: file of the moment (seconds since boot) after which this machine's tasks must not run; None for no such moment.
        disowns: supervisors become nobody's children, for a process whose host kills its children when it ends.
        environments: folder of the Python environments that jobs bring; None for one beside ``folder``.
        package_variables: for uv, which builds them: indexes, caches, proxies.
        max_environment_bytes: disk that they may take.
        mounts: folder of the datasets and models that tasks read; None for one beside ``folder``.
        max_mount_bytes: disk that they may take.
    """

    def __init__(
        self,
        folder: Path,
        *,
        python: str | None = None,
        capacity: Resources | None = None,
        warm: bool = True,
        variables: Mapping[str, str] | None = None,
        lease: Path | None = None,
        disowns: bool = False,
        environments: Path | None = None,
        package_variables: Mapping[str, str] | None = None,
        max_environment_bytes: int = 20 * 2**30,
        mounts: Path | None = None,
        max_mount_bytes: int = 50 * 2**30,
    ) -> None:
        self._python = python or sys.executable
        self._capacity = machine.capacity(capacity)
        self._variables = {**environment.base(self._python), **(variables or {})}
        self._tasks = folder.absolute()
        places = environments or self._tasks.with_name(f"{self._tasks.name}-environments")
        search, told = self._variables["PATH"], package_variables or {}
        pythons = Pythons(places, self._python, told, search, max_environment_bytes)
        kept = mounts or self._tasks.with_name(f"{self._tasks.name}-mounts")
        lent = str(lease.absolute()) if lease else ""
        self._host = Host(self._python, self._variables, pythons, kept.absolute(), max_mount_bytes, lent)
        self._launch_lock = threading.Lock()
        self._ended: dict[str, Observation] = {}
        try:
            self._tasks.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _translated(error, self._tasks) from error
        self._claims = Claims(lambda task: not task.exists() or task.exit() is not None)
        self._warm = WarmPools(self._python, self._variables, self._tasks) if warm else None
        self._starts = Starts(self._python, self._warm, disowns)
        with self._only_launcher():
            self._adopt()
        self.abilities = frozenset(
            _ALWAYS | ({Ability.WARM_START} if warm else set()) | ({Ability.GPU} if self._capacity.gpus else set())
        )

    def _adopt(self) -> None:
        """Note what running tasks hold, and clear away what a crash left half made or half deleted."""
        for left in (*self._tasks.glob(".new-*"), *self._tasks.glob(".trash-*")):
            shutil.rmtree(left, ignore_errors=True)
        for name in self.known():
            task = TaskFolder(self._tasks / name)
            plan = None if task.exit() else task.plan()
            if plan is not None:
                self._claims.hold(task, plan)

    # --- launch ----------------------------------------------------------------------------------------------------------------

    def launch(self, gang: GangPlan) -> None:
        """Start a gang; see the port. Raises `InvalidInput` for a task id that cannot name a folder, or that is there twice."""
        names = ids_of(gang)
        with self._launching():
            try:
                self._prepare(gang.tasks, self._places(gang))
            except LaunchRefused as refusal:
                self._refuse(names, str(refusal))
            self._start([self._folder(name) for name in names])

    def prepare(self, tasks: Sequence[TaskPlan], places: Sequence[Place]) -> None:
        """Make the folders of the tasks of a gang that belong on this machine, all or none, and start nothing; those that are there
        stay as they are. For an engine of many machines, which then calls `start`, or `refuse` because another machine refused.

        Raises `LaunchRefused`, and what `launch` raises.
        """
        with self._launching():
            self._prepare(tasks, places)

    def refuse(self, task_ids: Sequence[str], why: str) -> None:
        """End tasks as LAUNCH_FAILED that never started, prepared or not; raises what `launch` raises."""
        with self._launching():
            self._refuse(task_ids, why)

    def start(self, task_ids: Sequence[str]) -> None:
        """Start prepared tasks that never ran; raises what `launch` raises."""
        with self._launching():
            self._start([folder for name in task_ids if (folder := self._folder(name)).exists()])

    def free_port(self, host: str) -> int:
        """A port of an own address for a gang's rendezvous, held once one of its tasks is prepared with it. Raises `Unavailable`."""
        with self._launching():
            return self._claims.free_port(host)

    @contextlib.contextmanager
    def _launching(self) -> Iterator[None]:
        try:
            with self._launch_lock, self._only_launcher():
                self._claims.release_ended()
                yield
        except OSError as error:
            raise _translated(error, self._tasks) from error

    @contextlib.contextmanager
    def _only_launcher(self) -> Iterator[None]:
        """Two engines over one folder must not give one gang two rendezvous ports."""
        descriptor = os.open(self._tasks, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _places(self, gang: GangPlan) -> list[Place]:
        """Where the tasks of a gang that is all on this machine meet; as it was decided when some of them are prepared."""
        if all(self._folder(task.task_id).exists() for task in gang.tasks):
            return [Place(0, 0, 0, ())] * len(gang.tasks)  # nobody will look at it
        earlier = [plan for task in gang.tasks if (plan := self._folder(task.task_id).plan()) is not None]
        port = earlier[0].port if earlier else self._claims.free_port()
        gpus = earlier[0].gpus if earlier else self._take_gpus(gang)
        size = len(gang.tasks)
        return [Place(rank, size, port, gpus, rank, size) for rank in range(size)]

    def _prepare(self, tasks: Sequence[TaskPlan], places: Sequence[Place]) -> None:
        """Make the folders that are missing: all of them ready before the first gets its name."""
        pairs = zip(tasks, places, strict=True)
        missing = [(task, place) for task, place in pairs if not self._folder(task.task_id).exists()]
        if not missing:
            return
        with self._drafts([task.task_id for task, _ in missing]) as folders:
            for (task, place), folder in zip(missing, folders, strict=True):
                folder.create()
                home = self._folder(task.task_id)
                try:
                    prepare(folder, home, task, self._host, place)
                except LaunchRefused as refusal:
                    raise LaunchRefused(f"{task.task_id}: {refusal}") from None

    @contextlib.contextmanager
    def _drafts(self, names: Sequence[str]) -> Iterator[list[TaskFolder]]:
        """Folders to fill; at the end of the block all of them get their names, unless it raised."""
        with tempfile.TemporaryDirectory(dir=self._tasks, prefix=".new-") as made:
            folders = [TaskFolder(Path(made) / name) for name in names]
            yield folders
            for folder in folders:
                final = TaskFolder(self._tasks / folder.task_id)
                folder.path.rename(final.path)
                plan = final.plan()
                if plan is not None:
                    self._claims.hold(final, plan)
        files.sync_folder(str(self._tasks))

    def _take_gpus(self, gang: GangPlan) -> tuple[int, ...]:
        wanted = sum(task.resources.gpus for task in gang.tasks)
        free = self._claims.free_gpus(machine.gpu_indices())
        if wanted > len(free):
            raise LaunchRefused(f"gang {gang.gang_id} needs {wanted} GPUs, {len(free)} are free")
        return free[:wanted]

    def _refuse(self, names: Sequence[str], why: str) -> None:
        """None of the gang starts; each of its tasks says why, and stays so."""
        record = ExitRecord(reason=EndReason.LAUNCH_FAILED, ended_at=time.time(), message=why)
        with self._drafts([name for name in names if not self._folder(name).exists()]) as folders:
            for folder in folders:
                folder.create()
                folder.write_exit(record)
        for name in names:
            if self._folder(name).exit() is None:
                self._end_unstarted(self._folder(name), record)

    def _start(self, folders: list[TaskFolder]) -> None:
        """Start the supervisors of tasks that never ran. A second one for the same task ends at once, so this may be repeated."""
        waiting = [task for task in folders if task.exit() is None and task.shim() is None and not task.is_supervised()]
        for index, task in enumerate(waiting):
            try:
                self._starts.start(task)
            except OSError as error:
                if index == 0:
                    raise Unavailable(
                        f"{self._python} cannot be started: {error.strerror}.",
                        next_action="Check that it is a Python that may be run, and that the limit on processes is not reached.",
                    ) from error
                self._refuse(
                    [left.task_id for left in waiting[index:]], f"no process could be started: {error.strerror}"
                )
                self.stop([started.task_id for started in waiting[:index]], force=True)
                return

    # --- look ------------------------------------------------------------------------------------------------------------------

    def observe(self, task_ids: Sequence[str]) -> Mapping[str, Observation]:
        """Look at tasks; see the port."""
        self._starts.reap()
        return {task_id: self._look(task_id) for task_id in task_ids}

    def _look(self, task_id: str) -> Observation:
        if task_id in self._ended:
            return self._ended[task_id]
        if not is_task_id(task_id) or not (folder := self._folder(task_id)).exists():
            return Observation(task_id=task_id, phase=TaskPhase.ABSENT)
        found = folder.exit() or self._without_record(folder)
        if isinstance(found, Observation):
            return found
        self._starts.forget(task_id)
        if len(self._ended) > _MAX_REMEMBERED:
            self._ended.clear()
        self._ended[task_id] = ended(task_id, found)
        return self._ended[task_id]

    def _without_record(self, folder: TaskFolder) -> ExitRecord | Observation:
        """A task with no record of its end: running, starting, never started, or lost."""
        task_id = folder.task_id
        # Asked first: all that a supervisor which is gone by now has written is seen below.
        fate = self._starts.fate(task_id)
        if not folder.is_supervised():
            record = (
                folder.exit() or end_lost(folder) or (self._end_failed_start(folder) if fate is Fate.GONE else None)
            )
            if record is not None:
                return record
            if folder.shim() is None and not folder.is_supervised():
                phase = TaskPhase.STARTING if fate is Fate.ALIVE else TaskPhase.ABSENT
                return Observation(task_id=task_id, phase=phase)
        shim = folder.shim()
        if shim is None:
            return Observation(task_id=task_id, phase=TaskPhase.STARTING)
        pid = shim.child_pid if processes.is_running(shim.child_pid, shim.child_ticks) else None
        return Observation(task_id=task_id, phase=TaskPhase.RUNNING, pid=pid, started_at=shim.started_at)

    def _end_failed_start(self, folder: TaskFolder) -> ExitRecord | None:
        """A supervisor that we started is gone and left nothing: the task never runs."""
        why = "its supervisor ended before the start; see shim.err in the task's folder"
        return self._end_unstarted(
            folder, ExitRecord(reason=EndReason.LAUNCH_FAILED, ended_at=time.time(), message=why)
        )

    def _end_unstarted(self, folder: TaskFolder, record: ExitRecord) -> ExitRecord | None:
        """Write the end of a task that never ran; None when a supervisor has it, or had."""
        lock = files.take_lock(str(folder.lock))
        if lock is None:
            return None
        with os.fdopen(lock, "rb"):
            if folder.exit() is not None or folder.shim() is not None:
                return folder.exit()
            folder.clear_private()
            folder.write_exit(record)
            return record

    def capacity(self) -> Resources:
        """All that the pool has; see the port."""
        return self._capacity

    def machines(self) -> Sequence[Machine]:
        """This machine; see the port."""
        return (Machine(name=machine.name(), total=self._capacity),)

    def wants(self, wishes: Sequence[GangWish]) -> None:
        """Nothing: a machine does not grow."""

    def read_log(self, task_id: str, offset: int, limit: int) -> LogSlice:
        """Read output bytes; see the port."""
        content = b""
        total = 0
        with contextlib.suppress(OSError), _open(self._folder(task_id).log) as log:
            total = os.fstat(log.fileno()).st_size
            content = os.pread(log.fileno(), limit, offset)
        return LogSlice(
            content=content, next_offset=offset + len(content), total_bytes=max(total, offset + len(content))
        )

    def read_result(self, task_id: str) -> bytes | None:
        """Return ``result.json`` from the task's folder; see the port."""
        with contextlib.suppress(OSError), _open(self._folder(task_id).result) as file:
            content = file.read(MAX_RESULT_BYTES + 1)
            return content if len(content) <= MAX_RESULT_BYTES else None
        return None

    # --- go inside -------------------------------------------------------------------------------------------------------------

    def enter(self, task_id: str, command: GuestCommand) -> TaskChannel:
        """Run a command inside of a running task; see the port."""
        try:
            return inside.enter(self._folder(task_id), self._supervisor(task_id), command)
        except OSError as error:
            raise _translated(error, self._tasks) from error

    def connect(self, task_id: str, port: int) -> TaskChannel:
        """Connect to a port of a running task; see the port."""
        return inside.connect(self._folder(task_id), self._supervisor(task_id), port)

    def _supervisor(self, task_id: str) -> ShimRecord:
        folder = self._folder(task_id)
        shim = folder.shim() if folder.exists() and folder.exit() is None and folder.is_supervised() else None
        if shim is None or shim.boot_id != processes.boot_id():
            raise TaskNotThere(f"{task_id} does not run.", next_action="Look at its job: skyloom job show.")
        return shim

    # --- end -------------------------------------------------------------------------------------------------------------------

    def stop(self, task_ids: Sequence[str], *, force: bool = False) -> None:
        """Ask tasks to stop; see the port. The request is a file, so it also reaches a supervisor that is just starting."""
        for task_id in task_ids:
            folder = self._folder(task_id)
            if not folder.exists() or folder.exit() is not None:
                continue
            with contextlib.suppress(FileNotFoundError):
                folder.request_stop(force)
                if folder.shim() is None:
                    why = ExitRecord(
                        reason=EndReason.STOPPED, ended_at=time.time(), message="stopped before it started"
                    )
                    self._end_unstarted(folder, why)
            shim = folder.shim()
            if shim is not None and folder.is_supervised() and shim.boot_id == processes.boot_id():
                processes.send(shim.pid, shim.ticks, signal.SIGTERM)

    def known(self) -> Sequence[str]:
        """Ids of all tasks with files here."""
        return sorted(path.name for path in self._tasks.iterdir() if not path.name.startswith("."))

    def forget(self, task_ids: Sequence[str]) -> None:
        """Delete the files of ended tasks; see the port."""
        for task_id, seen in self.observe(task_ids).items():
            if seen.phase is TaskPhase.ENDED:
                self._folder(task_id).remove()
                self._ended.pop(task_id, None)

    def close(self) -> None:
        """End the warm pool and collect supervisors that have ended. Tasks go on running."""
        with self._launch_lock:
            if self._warm is not None:
                self._warm.close()
        self._starts.reap()

    def wait_until_warm(self, timeout_s: float) -> bool:
        """True once Python tasks start warm; False when they do not after ``timeout_s``, or never will."""
        if self._warm is None:
            return False
        with self._launch_lock:
            return self._warm.is_ready(timeout_s)

    def _folder(self, task_id: str) -> TaskFolder:
        return TaskFolder(self._tasks / checked_id(task_id))


def _open(path: Path) -> BinaryIO:
    """Open a task's file for reading; a link that the task put in its place is refused."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _translated(error: OSError, folder: Path) -> StorageFull | Unavailable:
    if is_full(error):
        return StorageFull(
            f"No room is left in {folder}: nothing was started.", next_action="Free some space, then try again."
        )
    return Unavailable(
        f"The local engine cannot use {folder}: {error.strerror or error}.",
        next_action="Check that the folder exists, is a local disk, and belongs to you.",
    )
