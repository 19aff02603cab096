"""A node's keeper: one detached actor per node and engine that owns the node's task folders. It knows no Ray.

It holds nothing that a task needs: supervisors are nobody's children and task folders are files, so Ray may kill and restart it at
any time. Everything that happens on the node is the local engine's work.
"""

import contextlib
import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from skyloom import __version__
from skyloom.core.errors import InternalError, SkyloomError, StorageFull, Unavailable
from skyloom.durable import is_full
from skyloom.engines.local import LocalEngine
from skyloom.engines.local.prepare import LaunchRefused
from skyloom.engines.ray.asks import (
    MAX_PIECE_BYTES,
    ConnectTask,
    EnterTask,
    Forget,
    Greet,
    Greeting,
    HasFolder,
    KeeperAnswer,
    KeeperAsk,
    KeeperExchange,
    KeeperPlan,
    LeaveMark,
    LeaveTask,
    Observe,
    Prepare,
    ReadTaskLog,
    ReadTaskResult,
    Refuse,
    RemoveMark,
    Rendezvous,
    SeesMark,
    StartTasks,
    Stop,
    Upload,
)
from skyloom.engines.ray.lease import Lease
from skyloom.engines.ray.stay import Stay
from skyloom.engines.ray.visits import KeeperHeard, Visits
from skyloom.ports.engine import LogSlice, Observation, TaskPlan
from skyloom.settings import package_variables, trust_variables

_OLD_UPLOAD_S = 3600.0


class Keeper:
    """Answers an engine's questions about one node. Thread-safe.

    Args:
        node_id: Ray's name for this node; a restarted Ray has another one, and with it another lease.
        machine: the node's own name, which outlives a restart of Ray, and names the folder here.
        address: by which other nodes reach this one.
        plan: a `KeeperPlan`, encoded.
        is_alive: asks the head of the cluster whether it lists this node as alive.
        leave: ends this keeper; called when it has been idle for long, see `KeeperPlan.idle_s`.
    """

    def __init__(
        self,
        node_id: str,
        machine: str,
        address: str,
        plan: bytes,
        is_alive: Callable[[], bool],
        leave: Callable[[], None],
    ) -> None:
        self._plan = msgspec.msgpack.decode(plan, type=KeeperPlan)
        self._node_id = node_id
        self._address = address
        self._root = Path(self._plan.node_folder).expanduser() / self._plan.engine_id / quote(machine, safe="")
        self._is_alive = is_alive
        self._opening = threading.Lock()
        self._engine: LocalEngine | None = None
        self._visits = Visits()
        self._stay = Stay(self._plan.idle_s, self._has_tasks, leave)

    def do(self, ask: bytes) -> bytes:
        """Answer one `KeeperAsk`; every error is an answer too."""
        try:
            question: Any = msgspec.msgpack.decode(ask, type=KeeperAsk)
            with self._stay.question(), self._disk_errors():
                answer = KeeperAnswer(content=msgspec.msgpack.encode(_HANDLERS[type(question)](self, question)))
        except SkyloomError as error:
            answer = KeeperAnswer(error=error.body())
        except Exception as error:
            what = f"The keeper of {self._address} failed: {type(error).__name__}: {error}."
            answer = KeeperAnswer(error=InternalError(what, next_action="See the log of its Ray worker.").body())
        return msgspec.msgpack.encode(answer)

    @contextlib.contextmanager
    def _disk_errors(self) -> Any:
        try:
            yield
        except OSError as error:
            where = f"{self._root} on {self._address}"
            if is_full(error):
                raise StorageFull(f"No room is left in {where}.", next_action="Free some space there.") from error
            raise Unavailable(
                f"{where} cannot be used: {error}.", next_action="Let the user that Ray runs as own that folder."
            ) from error

    def _tasks(self) -> LocalEngine:
        """The engine over this node's folder, opened when it is first needed: then an error has somebody to be told to."""
        with self._opening:
            if self._engine is None:
                for name in ("tasks", "leases", "uploads"):
                    (self._root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
                lease = Lease(self._root / "leases" / self._node_id, self._plan.lease_s, self._is_alive)
                if not lease.renew():
                    raise Unavailable(
                        f"The head lists {self._address} as dead.",
                        next_action="Its Ray ends by itself; start it again.",
                    )
                tasks = self._root / "tasks"
                self._engine = LocalEngine(
                    tasks,
                    warm=self._plan.warm,
                    variables=trust_variables(),
                    lease=lease.file,
                    disowns=True,
                    package_variables=package_variables(),  # this node's own: it may have another index than the control plane
                )
                lease.keep()
            return self._engine

    def _has_tasks(self) -> bool:
        """Whether a task of this node lives."""
        seen = self._tasks().observe(self._tasks().known()).values()
        return any(what.phase.is_live for what in seen)

    def _sweep_uploads(self) -> None:
        """Remove what launches left that failed after they had sent something."""
        for left in (self._root / "uploads").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was used up meanwhile
                if left.stat().st_mtime < time.time() - _OLD_UPLOAD_S:
                    left.unlink()

    # --- launch ----------------------------------------------------------------------------------------------------------------

    def greet(self, _: Greet) -> Greeting:
        """Who we are and what we hold."""
        return Greeting(
            version=__version__,
            known=tuple(self._tasks().known()),
            interface=interface_of(self._address),
            lease_s=self._plan.lease_s,
        )

    def rendezvous(self, ask: Rendezvous) -> int:
        """A free port of this node."""
        return self._tasks().free_port(ask.host)

    def prepare(self, ask: Prepare) -> str:
        """Folders for tasks; the uploads are used up."""
        plans = [self._as_seen_here(task) for task in ask.tasks]
        try:
            self._tasks().prepare(plans, ask.places)
        except LaunchRefused as refusal:
            return str(refusal)
        finally:
            for plan in plans:
                for path in plan.files.values():
                    Path(path).unlink(missing_ok=True)
        return ""

    def _as_seen_here(self, task: TaskPlan) -> TaskPlan:
        """With paths of this node: uploads for files, and this node's own folder where the pool has no shared one."""
        files = {path: str(self._upload(name)) for path, name in task.files.items()}
        shared = task.shared_folder and str(self._root / "shared" / task.shared_folder)  # an absolute one stays
        return msgspec.structs.replace(task, files=files, shared_folder=shared)

    def _upload(self, name: str) -> Path:
        if not name.isalnum():
            raise InternalError(f"{name!r} names no upload.", next_action="Report this.")
        return self._root / "uploads" / name

    def upload(self, ask: Upload) -> None:
        """Write a piece of a file."""
        self._tasks()
        if ask.offset == 0:
            self._sweep_uploads()
        mode = 0o700 if ask.is_program else 0o600
        descriptor = os.open(self._upload(ask.name), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.seek(ask.offset)
            file.write(ask.content)

    def refuse(self, ask: Refuse) -> None:
        """End tasks that never started."""
        self._tasks().refuse(ask.task_ids, ask.why)

    def start(self, ask: StartTasks) -> None:
        """Start prepared tasks."""
        self._tasks().start(ask.task_ids)

    # --- look and end ----------------------------------------------------------------------------------------------------------

    def observe(self, ask: Observe) -> dict[str, Observation]:
        """Look at tasks."""
        return dict(self._tasks().observe(ask.task_ids))

    def stop(self, ask: Stop) -> None:
        """Ask tasks to stop."""
        self._tasks().stop(ask.task_ids, force=ask.force)

    def read_log(self, ask: ReadTaskLog) -> LogSlice:
        """Read a piece of output."""
        return self._tasks().read_log(ask.task_id, ask.offset, min(ask.limit, MAX_PIECE_BYTES))

    def read_result(self, ask: ReadTaskResult) -> bytes | None:
        """Read what a task left."""
        return self._tasks().read_result(ask.task_id)

    def forget(self, ask: Forget) -> None:
        """Delete the files of ended tasks."""
        self._tasks().forget(ask.task_ids)

    # --- go inside -------------------------------------------------------------------------------------------------------------

    def enter_task(self, ask: EnterTask) -> tuple[int, ...]:
        """Run a command inside of a task."""
        return self._visits.open(ask.visit, lambda: self._tasks().enter(ask.task_id, ask.command))

    def connect_task(self, ask: ConnectTask) -> tuple[int, ...]:
        """Connect to a port of a task."""
        return self._visits.open(ask.visit, lambda: self._tasks().connect(ask.task_id, ask.port))

    def exchange(self, ask: KeeperExchange) -> KeeperHeard:
        """Move bytes into a task and out of it."""
        return self._visits.exchange(ask)

    def leave_task(self, ask: LeaveTask) -> None:
        """Close a channel."""
        self._visits.close(ask.visit)

    # --- the shared folder -----------------------------------------------------------------------------------------------------

    def has_folder(self, ask: HasFolder) -> bool:
        """True when it is there and can be written to; it is not made, because a folder that is missing is a mount that is."""
        return Path(ask.folder).is_dir() and os.access(ask.folder, os.W_OK | os.X_OK)

    def leave_mark(self, ask: LeaveMark) -> None:
        """Write a word into the shared folder, on its disk when this returns."""
        Path(ask.folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        with _mark(ask.folder, ask.word).open("w") as file:
            file.write(ask.word)
            file.flush()
            os.fsync(file.fileno())

    def sees_mark(self, ask: SeesMark) -> bool:
        """True when the word is there. The folder is listed first, which makes network file systems look again."""
        with contextlib.suppress(OSError):
            os.listdir(ask.folder)  # noqa: PTH208 (the listing itself is what is wanted)
            return _mark(ask.folder, ask.word).read_text() == ask.word
        return False

    def remove_mark(self, ask: RemoveMark) -> None:
        """Remove the word."""
        _mark(ask.folder, ask.word).unlink(missing_ok=True)


def _mark(folder: str, word: str) -> Path:
    if not word.isalnum():
        raise InternalError(f"{word!r} is no mark.", next_action="Report this.")
    return Path(folder) / f".skyloom-{word}"


def interface_of(address: str) -> str:
    """The network interface that has an IPv4 address; empty when none has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return ""


_SIOCGIFADDR = 0x8915
_HANDLERS: dict[type, Callable[[Keeper, Any], Any]] = {
    Greet: Keeper.greet,
    Rendezvous: Keeper.rendezvous,
    Prepare: Keeper.prepare,
    Refuse: Keeper.refuse,
    StartTasks: Keeper.start,
    Observe: Keeper.observe,
    Stop: Keeper.stop,
    ReadTaskLog: Keeper.read_log,
    ReadTaskResult: Keeper.read_result,
    Forget: Keeper.forget,
    Upload: Keeper.upload,
    HasFolder: Keeper.has_folder,
    LeaveMark: Keeper.leave_mark,
    SeesMark: Keeper.sees_mark,
    RemoveMark: Keeper.remove_mark,
    EnterTask: Keeper.enter_task,
    ConnectTask: Keeper.connect_task,
    KeeperExchange: Keeper.exchange,
    LeaveTask: Keeper.leave_task,
}
