"""A task's folder: where its files are, and how it comes to be, whole or not at all.

plan.json     what the supervisor needs         lock          held by the supervisor for its whole life
shim.json     who it is; the task ever ran      stop          "polite" or "force", a request
exit.json     how the task ended; final         output.log    stdout and stderr
result.json   what the task left                error.json    why it failed, in its own words
work/         the working folder                secrets/      gone at the end
mounts/       links to what the task only reads
"""

import contextlib
import re
import shutil
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.engines.local.supervisor import files
from skyloom.engines.local.supervisor.processes import boot_id
from skyloom.ports.engine import EndReason, GangPlan, Observation, TaskPhase

T = TypeVar("T")
_TASK_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,119}")


class ShimPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor is told, as it stands in ``plan.json``. No secret is in it.

    Attributes:
        argv: the program for a cold start; with ``start``, the one that makes what the task needs and then becomes the task's own.
        start: what has to be made first, and the task's own program; None when nothing has.
        python: the same as ``kind``, ``path``, … for a warm one; None for programs that are not Python.
        secret_variables: file of more variables, which only the task's own process takes; empty for none.
        temporary: the task's own folder for temporary files; short, because socket paths may have only 108 bytes.
        marker: 32 random hex digits in the environment of every process of the task.
        port, gpus: what the gang holds as long as one of its tasks lives.
        lease: file that says until when the task may run (seconds since boot, renewed by who owns this machine); empty for ever.
    """

    task_id: str
    argv: tuple[str, ...]
    python: dict[str, Any] | None
    cwd: str
    environment: dict[str, str]
    secret_variables: str = ""
    temporary: str
    marker: str
    memory_bytes: int
    grace_s: float
    max_duration_s: float | None
    max_log_bytes: int
    port: int
    gpus: tuple[int, ...]
    lease: str = ""
    start: dict[str, Any] | None = None


class ShimRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Who supervises a task, from ``shim.json``."""

    boot_id: str
    started_at: float
    marker: str
    pid: int = 0
    ticks: int = -1
    child_pid: int = 0
    child_ticks: int = -1
    cgroup: str = ""


class ExitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How a task ended, from ``exit.json``."""

    reason: EndReason
    ended_at: float
    message: str = ""
    pid: int | None = None
    started_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    peak_memory_bytes: int = 0


def is_task_id(text: str) -> bool:
    """True for ids that are safe as the name of a folder."""
    return _TASK_ID.fullmatch(text) is not None


def checked_id(text: str) -> str:
    """The id of a task. Raises `InvalidInput` for one that is not safe as the name of a folder."""
    if not is_task_id(text):
        raise InvalidInput(
            f"{text!r} cannot name a task.", next_action="Use letters, digits, dot, colon, dash and underscore."
        )
    return text


def ids_of(gang: GangPlan) -> list[str]:
    """Ids of a gang's tasks. Raises `InvalidInput` for one that cannot be, or that is there twice."""
    names = [checked_id(task.task_id) for task in gang.tasks]
    if len(set(names)) < len(names):
        raise InvalidInput(f"Gang {gang.gang_id} names a task twice.", next_action="Give every task its own id.")
    return names


class TaskFolder:
    """Names and records of one task. Reading never blocks; a missing file is None."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work = path / "work"
        self.secrets = path / "secrets"
        self.mounts = path / "mounts"
        self.lock = path / "lock"
        self.log = path / "output.log"
        self.result = path / "result.json"

    @property
    def task_id(self) -> str:
        return self.path.name

    def exists(self) -> bool:
        """True once the task was prepared."""
        return self.path.is_dir()

    def is_supervised(self) -> bool:
        """True while a supervisor lives."""
        return files.is_locked(str(self.lock))

    def plan(self) -> ShimPlan | None:
        """What the supervisor was told; None for a task that was refused before it had a plan, or whose plan is damaged."""
        try:
            return self._read("plan.json", ShimPlan)
        except msgspec.MsgspecError:
            return None

    def shim(self) -> ShimRecord | None:
        """Who supervises, or did; None when the task never started. A damaged record names nobody, but says that it started."""
        try:
            return self._read("shim.json", ShimRecord)
        except msgspec.MsgspecError:
            plan = self.plan()
            marker = plan.marker if plan else ""
            return ShimRecord(boot_id=boot_id(), started_at=self._written_at("shim.json"), marker=marker)

    def exit(self) -> ExitRecord | None:
        """How it ended; None while it has not. A damaged disk ends one task and does not blind us to the others."""
        try:
            return self._read("exit.json", ExitRecord)
        except msgspec.MsgspecError as error:
            why = f"its record exit.json is damaged: {error}"
            return ExitRecord(reason=EndReason.SHIM_LOST, ended_at=self._written_at("exit.json"), message=why)

    def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode((self.path / name).read_bytes(), type=kind)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _written_at(self, name: str) -> float:
        return (self.path / name).stat().st_mtime

    def create(self) -> None:
        """Make the folder's fixed files, with blocks set aside for the records. Raises ``OSError``."""
        for folder in (self.path, self.work, self.secrets):
            folder.mkdir(mode=0o700)
        for name in ("shim.reserve", "exit.reserve"):
            files.make_reserve(str(self.path / name))
        for file in (self.lock, self.log):
            file.touch(mode=0o600)

    def write_plan(self, plan: ShimPlan) -> None:
        """Write what the supervisor needs."""
        files.write_durable(str(self.path / "plan.json"), msgspec.to_builtins(plan))

    def write_exit(self, record: ExitRecord) -> None:
        """Write how the task ended. The caller holds the lock, or the folder is not public yet."""
        reserve = str(self.path / "exit.reserve")
        files.write_durable(str(self.path / "exit.json"), msgspec.to_builtins(record), reserve)

    def clear_private(self) -> None:
        """Remove the task's secrets and temporary files; its supervisor does this when it can."""
        shutil.rmtree(self.secrets, ignore_errors=True)
        plan = self.plan()
        if plan is not None and Path(plan.temporary).name == f"skyloom-{plan.marker[:12]}":
            shutil.rmtree(plan.temporary, ignore_errors=True)

    def request_stop(self, force: bool) -> None:
        """Leave the request to stop: empty files, which a full disk still takes. A polite one never undoes a forced one."""
        for name in ("stop", "force") if force else ("stop",):
            (self.path / name).touch(mode=0o600)

    def remove(self) -> None:
        """Delete the folder; its name is free at once."""
        trash = self.path.with_name(f".trash-{self.path.name}")
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def ended(task_id: str, record: ExitRecord) -> Observation:
    """Tell a record as an observation."""
    return Observation(task_id=task_id, phase=TaskPhase.ENDED, **msgspec.structs.asdict(record))
