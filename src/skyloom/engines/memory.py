"""`MemoryEngine`: an engine for tests. Its tasks are entries in a table; they run, print and end when they are told to."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from skyloom.core.errors import SkyloomError
from skyloom.core.resources import Resources
from skyloom.ports.channel import GuestCommand, TaskChannel
from skyloom.ports.engine import (
    Ability,
    AbilityMissing,
    EndReason,
    GangPlan,
    GangWish,
    LogSlice,
    Machine,
    Observation,
    TaskPhase,
    TaskPlan,
)


class MemoryEngine:
    """Keeps the port's promises without a process.

    A launched task is STARTING until `run` (or at once RUNNING when ``run_at_once``), and RUNNING until `finish`, `lose` or a stop.

    Args:
        capacity: what `capacity` answers.
        run_at_once: tasks run as soon as they are launched.
        obeys: stopped tasks end at once; otherwise they go on until `finish` or a forced stop.
        now: the clock, in Unix seconds.

    Attributes:
        launched: every plan that was really started, in order; a task id is in it at most once.
        stopped: ids that were asked to stop, in order, ``force`` beside them.
        wished: what waits, as it was told last.
        failing: raised by the next `launch`, once, with nothing started.
    """

    def __init__(
        self,
        capacity: Resources | None = None,
        *,
        run_at_once: bool = True,
        obeys: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.abilities: frozenset[Ability] = frozenset()
        self.launched: list[TaskPlan] = []
        self.stopped: list[tuple[str, bool]] = []
        self.wished: tuple[GangWish, ...] = ()
        self.failing: SkyloomError | None = None
        self._capacity = capacity or Resources(cpus=8, memory_bytes=2**33)
        self._run_at_once = run_at_once
        self._obeys = obeys
        self._now = now
        self._lock = threading.RLock()
        self._seen: dict[str, Observation] = {}
        self._logs: dict[str, bytes] = {}
        self._results: dict[str, bytes] = {}

    # --- the port --------------------------------------------------------------------------------------------------------------

    def launch(self, gang: GangPlan) -> None:
        """Put the tasks in the table; those that are there stay as they are."""
        with self._lock:
            if self.failing is not None:
                error, self.failing = self.failing, None
                raise error
            for task in gang.tasks:
                if task.task_id not in self._seen:
                    self.launched.append(task)
                    self._seen[task.task_id] = Observation(task_id=task.task_id, phase=TaskPhase.STARTING)
                    if self._run_at_once:
                        self.run(task.task_id)

    def observe(self, task_ids: Sequence[str]) -> Mapping[str, Observation]:
        """What the table says."""
        with self._lock:
            return {key: self._seen.get(key) or Observation(task_id=key, phase=TaskPhase.ABSENT) for key in task_ids}

    def stop(self, task_ids: Sequence[str], *, force: bool = False) -> None:
        """End tasks that obey, or that are forced."""
        with self._lock:
            for task_id in task_ids:
                if task_id in self._seen and self._seen[task_id].phase is not TaskPhase.ENDED:
                    self.stopped.append((task_id, force))
                    if self._obeys or force:
                        self._end(
                            task_id, reason=EndReason.STOPPED, signal=9 if force else 15, message="stopped on request"
                        )

    def capacity(self) -> Resources:
        """What the constructor was given."""
        return self._capacity

    def machines(self) -> Sequence[Machine]:
        """One machine that has all of it."""
        return (Machine(name="memory", total=self._capacity),)

    def wants(self, wishes: Sequence[GangWish]) -> None:
        """Remember what waits; nothing comes of it."""
        self.wished = tuple(wishes)

    def read_log(self, task_id: str, offset: int, limit: int) -> LogSlice:
        """Output from `print`."""
        with self._lock:
            log = self._logs.get(task_id, b"")
            content = log[offset : offset + limit]
            return LogSlice(content=content, next_offset=offset + len(content), total_bytes=len(log))

    def read_result(self, task_id: str) -> bytes | None:
        """The result from `finish`."""
        with self._lock:
            return self._results.get(task_id)

    def enter(self, task_id: str, command: GuestCommand) -> TaskChannel:
        """Its tasks have no inside. Raises `AbilityMissing`."""
        raise AbilityMissing("This engine runs no processes.", next_action="Use another pool.")

    def connect(self, task_id: str, port: int) -> TaskChannel:
        """Its tasks have no ports. Raises `AbilityMissing`."""
        raise AbilityMissing("This engine runs no processes.", next_action="Use another pool.")

    def known(self) -> Sequence[str]:
        """Ids in the table."""
        with self._lock:
            return sorted(self._seen)

    def forget(self, task_ids: Sequence[str]) -> None:
        """Take ended tasks out of the table."""
        with self._lock:
            for task_id in task_ids:
                if task_id in self._seen and self._seen[task_id].phase is TaskPhase.ENDED:
                    del self._seen[task_id]
                    self._logs.pop(task_id, None)
                    self._results.pop(task_id, None)

    def close(self) -> None:
        """Nothing to let go of."""

    # --- what the tasks do -----------------------------------------------------------------------------------------------------

    def run(self, task_id: str) -> None:
        """A starting task's user code begins."""
        with self._lock:
            pid = 1_000 + len(self.launched)
            self._change(task_id, phase=TaskPhase.RUNNING, pid=pid, started_at=self._now())

    def print(self, task_id: str, output: bytes) -> None:
        """A task writes output."""
        with self._lock:
            self._logs[task_id] = self._logs.get(task_id, b"") + output

    def finish(self, task_id: str, exit_code: int = 0, *, output: bytes = b"", result: bytes | None = None) -> None:
        """A task's process exits."""
        with self._lock:
            self.print(task_id, output)
            if result is not None:
                self._results[task_id] = result
            reason = EndReason.EXIT_CODE if exit_code else EndReason.COMPLETED
            self._end(
                task_id, reason=reason, exit_code=exit_code, message=f"exit code {exit_code}" if exit_code else ""
            )

    def lose(self, task_id: str, reason: EndReason = EndReason.SHIM_LOST, message: str = "") -> None:
        """A task ends for a reason that is not its own."""
        with self._lock:
            self._end(task_id, reason=reason, message=message)

    def _end(self, task_id: str, **how: object) -> None:
        if self._seen[task_id].phase is not TaskPhase.ENDED:
            started_at = self._seen[task_id].started_at
            self._change(task_id, phase=TaskPhase.ENDED, ended_at=max(self._now(), started_at or 0.0), **how)

    def _change(self, task_id: str, **facts: object) -> None:
        self._seen[task_id] = msgspec.structs.replace(self._seen[task_id], **facts)
