"""The shim: one process that owns one task from before its start until its last descendant is gone.

It holds the folder's lock for its whole life, keeps the output, holds the limits with no one's help, and only when nothing is left
alive writes how the task ended. It needs no control plane; requests come as a file in the folder, and SIGTERM says "look now".
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from typing import Any

from . import files, processes
from .child import fork_user
from .guests import Guests
from .memory import MemoryCgroup, proportional_bytes, resident_bytes, show_bytes
from .output import Output

_TICK_S = 0.5
_SAMPLE_S = 0.1  # where there is no cgroup and the limit is ours to hold
_KILL_AGAIN_S = 0.02
_LEFTOVER_GRACE_S = 1.0  # for helpers that outlive a main process which ended by itself


def main(folder: str, warm: bool = False) -> int:
    """Supervise the task in ``folder``; returns at once when it has a supervisor or ever had one."""
    lock = files.take_lock(f"{folder}/lock")
    if lock is None or os.path.exists(f"{folder}/exit.json") or os.path.exists(f"{folder}/shim.json"):
        return 0
    plan = files.read_json(f"{folder}/plan.json")
    if plan is None:
        return 1
    shim = Shim(folder, plan, warm)
    try:
        shim.run()
    except Exception as error:  # a defect or a broken machine: nothing may stay alive, and the record must say so
        shim.fail(f"the supervisor failed: {type(error).__name__}: {error}")
    return 0


class Shim:
    """One task's life. `run` returns after the record is on disk."""

    def __init__(self, folder: str, plan: dict[str, Any], warm: bool) -> None:
        self._folder = folder
        self._plan = plan
        python = plan["python"]
        self._warm = warm and isinstance(python, dict) and not python.get("cold")
        self._limit_bytes = int(plan["memory_bytes"])
        self._grace_s = float(plan["grace_s"])
        self._max_duration_s: float | None = plan["max_duration_s"]
        self._cgroup: MemoryCgroup | None = None
        self._output: Output | None = None
        self._pid = 0
        self._started_at = 0.0
        self._started = 0.0  # monotonic; 0 until user code may run
        self._peak = 0
        self._reason = ""
        self._message = ""
        self._quotes = False  # the message is to end with the last line of output
        self._status: int | None = None  # of the main process
        self._guests = Guests(folder, plan, self._contain)
        self._kill_at: float | None = None  # monotonic: from then on, SIGKILL
        self._lease = str(plan.get("lease") or "")
        self._lease_until = 0.0  # seconds since boot

    def run(self) -> None:
        """Start the user's process, watch it, clear up, and write the record."""
        os.umask(0o077)
        os.chdir("/")  # a supervisor that lives for weeks must not keep a file system busy
        wake = self._listen()
        if self._requested():
            self._clear()
            self._record("stopped", "stopped before it started")
            return
        if self._is_lease_over():
            self._clear()
            self._record("node_lost", "this machine had lost the cluster before the task started")
            return
        if not self._start():
            return
        self._watch(wake)
        self._finish()

    # --- start -----------------------------------------------------------------------------------------------------------------

    def _listen(self) -> int:
        """Turn signals into bytes on a pipe. Done before anyone can know our pid."""
        processes.adopt_orphans()
        read, write = os.pipe()
        os.set_blocking(write, False)
        os.set_blocking(read, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)
        return read

    def _start(self) -> bool:
        """Fork the user's process, make the start durable, and only then let it go. False when it could not be started."""
        os.makedirs(str(self._plan["temporary"]), mode=0o700, exist_ok=True)
        read, write = os.pipe()
        self._output = Output(read, f"{self._folder}/output.log", int(self._plan["max_log_bytes"]))
        marker = str(self._plan["marker"])
        if self._limit_bytes:
            self._cgroup = MemoryCgroup.make(f"skyloom-{marker[:16]}", self._limit_bytes)
        if self._warm:
            processes.write_marker(marker)
        self._pid, go, start_error = fork_user(self._plan, self._warm, write)
        os.close(write)
        if self._cgroup is not None and not self._cgroup.add(self._pid):
            self._cgroup.remove()
            self._cgroup = None
        self._started_at, self._started = time.time(), time.monotonic()
        files.write_durable(f"{self._folder}/shim.json", self._identity(marker), f"{self._folder}/shim.reserve")
        os.write(go, b"g")
        os.close(go)
        with open(start_error, "rb") as pipe:
            message = pipe.read().decode(errors="replace")
        if message:
            os.waitpid(self._pid, 0)
            self._pid = 0
            self._clear()
            self._record("launch_failed", f"cannot run {self._program()}: {message}")
        return not message

    def _program(self) -> str:
        argv = self._plan["argv"]
        assert isinstance(argv, list)
        return repr(argv[0])

    def _identity(self, marker: str) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "ticks": processes.start_ticks(os.getpid()),
            "boot_id": processes.boot_id(),
            "child_pid": self._pid,
            "child_ticks": processes.start_ticks(self._pid),
            "started_at": self._started_at,
            "marker": marker,
            "cgroup": self._cgroup.path if self._cgroup else "",
        }

    # --- watch -----------------------------------------------------------------------------------------------------------------

    def _watch(self, wake: int) -> None:
        """Serve output, requests, limits and deaths until no descendant is left."""
        assert self._output is not None
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        poll.register(self._output.pipe, select.POLLIN)
        next_tick = 0.0
        while self._reap():
            ready = {descriptor for descriptor, _ in poll.poll(self._wait_ms(next_tick))}
            if wake in ready:
                os.read(wake, 4096)
            if self._output.pipe in ready and not self._output.move():
                poll.unregister(self._output.pipe)
            for visitor in filter(self._guests.is_visitor, ready):
                if not self._guests.serve(visitor):
                    poll.unregister(visitor)
            if wake in ready or time.monotonic() >= next_tick:
                self._obey()
                for visitor in self._guests.look(bool(self._reason)):
                    poll.register(visitor, select.POLLIN)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + self._tick_s()
                self._check_memory()
                self._check_lease()
                self._output.retry()
            self._check_time()
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                processes.signal_descendants(os.getpid(), signal.SIGKILL)
                self._kill_at = time.monotonic() + _KILL_AGAIN_S

    def _tick_s(self) -> float:
        return _SAMPLE_S if self._limit_bytes and self._cgroup is None else _TICK_S

    def _wait_ms(self, next_tick: float) -> int:
        moments = [next_tick]
        if self._kill_at is not None:
            moments.append(self._kill_at)
        if self._max_duration_s is not None and not self._reason:
            moments.append(self._started + self._max_duration_s)
        return max(0, int((min(moments) - time.monotonic()) * 1000) + 1)

    def _reap(self) -> bool:
        """Collect the dead. False when no child is left, and then no descendant is: orphans become our children."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._guests.ended(pid, status)
            if pid == self._pid:
                self._main_ended(status, usage.ru_maxrss * 1024)

    def _main_ended(self, status: int, max_resident_bytes: int) -> None:
        self._status = status
        if not self._warm:  # a warm process also counts the pages that it shares with the pool
            self._peak = max(self._peak, max_resident_bytes)
        if not self._out_of_memory() and not self._reason:
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                self._quotes = True
                self._end("signalled", f"ended by {_signal_name(-code)}", _LEFTOVER_GRACE_S)
            elif code:
                told = files.read_error(f"{self._folder}/error.json")
                self._quotes = told is None
                reason, message = told or ("exit_code", f"exit code {code}")
                self._end(reason, message, _LEFTOVER_GRACE_S)
            else:
                self._end("completed", "", _LEFTOVER_GRACE_S)

    def _contain(self, pid: int) -> bool:
        """Put a guest where the task's memory is counted. False when the kernel refuses."""
        return self._cgroup is None or self._cgroup.add(pid)

    def _requested(self) -> str:
        """What the engine asks for: "", "polite" or "force"."""
        if os.path.exists(f"{self._folder}/force"):
            return "force"
        return "polite" if os.path.exists(f"{self._folder}/stop") else ""

    def _obey(self) -> None:
        request = self._requested()
        if not os.path.exists(f"{self._folder}/lock"):
            request = "force"  # the folder was deleted: no one could ever see or stop this task again
        if request and not self._reason:
            self._end("stopped", "stopped on request", self._grace_s)
        if request == "force":
            self._kill_at = min(self._kill_at or 0.0, time.monotonic())

    def _check_memory(self) -> None:
        if self._cgroup is not None:
            self._peak = max(self._peak, self._cgroup.used_bytes())
        else:
            used = resident_bytes(os.getpid())
            over = self._limit_bytes and used > self._limit_bytes
            if over or self._warm:
                used = proportional_bytes(os.getpid())  # what is shared is counted once
            self._peak = max(self._peak, used)
        self._out_of_memory()

    def _check_time(self) -> None:
        if self._max_duration_s is not None and time.monotonic() >= self._started + self._max_duration_s:
            self._end("time_limit", f"ran longer than its limit of {self._max_duration_s:g} s", self._grace_s)

    def _is_lease_over(self) -> bool:
        if self._lease:
            self._lease_until = files.read_moment(self._lease) or self._lease_until
        return bool(self._lease) and time.clock_gettime(time.CLOCK_BOOTTIME) > self._lease_until

    def _check_lease(self) -> None:
        """End the task at once when this machine may have been given up: somewhere else it may be started again."""
        if self._is_lease_over():
            self._end("node_lost", "this machine could not reach the head of its cluster, so the task was ended", 0.0)
            self._kill_at = min(self._kill_at or 0.0, time.monotonic())

    def _out_of_memory(self) -> bool:
        """End the whole task once it went over its memory; the kernel may have ended only one of its processes."""
        if self._cgroup is not None:
            if not self._cgroup.kills():
                return False
            self._peak = max(self._peak, self._cgroup.peak_bytes())
        elif not self._limit_bytes or self._peak <= self._limit_bytes:
            return False
        text = f"used {show_bytes(self._peak)} of {show_bytes(self._limit_bytes)}"
        self._end("out_of_memory", text, 0.0)
        return True

    def _end(self, reason: str, message: str, grace_s: float) -> None:
        """Decide why the task ends; the first reason stands. SIGTERM to all that lives, SIGKILL after the grace."""
        if self._reason:
            return
        self._reason, self._message = reason, message
        self._kill_at = time.monotonic() + grace_s
        if grace_s:
            processes.signal_descendants(os.getpid(), signal.SIGTERM)

    # --- end -------------------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        assert self._output is not None
        self._output.move(max_chunks=2**62)
        self._output.retry()
        self._output.close()
        self._clear()
        if self._quotes and (last := self._output.last_line()):
            self._message = f"{self._message}, after it printed: {last}"
        lacks = self._output.summary()
        self._record(self._reason, "; ".join(part for part in (self._message, lacks) if part))

    def _clear(self) -> None:
        """Remove what must not outlive the task: its temporary files, its secrets, its cgroup."""
        import shutil  # costs 5 ms, which the start does not pay

        shutil.rmtree(str(self._plan["temporary"]), ignore_errors=True)
        shutil.rmtree(f"{self._folder}/secrets", ignore_errors=True)
        if self._cgroup is not None:
            self._cgroup.remove()

    def fail(self, message: str) -> None:
        """End everything after an error of ours, and say so."""
        while True:
            processes.signal_descendants(os.getpid(), signal.SIGKILL)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
        if not os.path.exists(f"{self._folder}/exit.json"):
            self._clear()
            ever_ran = os.path.exists(f"{self._folder}/shim.json")
            self._record("shim_lost" if ever_ran else "launch_failed", message)

    def _record(self, reason: str, message: str) -> None:
        """Write the last word. A full disk cannot stop it (blocks are set aside); anything else is tried again until it works."""
        code = None if self._status is None else os.waitstatus_to_exitcode(self._status)
        elapsed = time.monotonic() - self._started
        record: dict[str, object] = {
            "pid": self._pid or None,
            "exit_code": code if code is not None and code >= 0 else None,
            "signal": -code if code is not None and code < 0 else None,
            "reason": reason,
            "started_at": self._started_at or None,
            # A wall clock that jumps must not make a task end before it started.
            "ended_at": self._started_at + elapsed if self._started else time.time(),
            "peak_memory_bytes": self._peak,
            "message": message,
        }
        while True:
            try:
                files.write_durable(f"{self._folder}/exit.json", record, f"{self._folder}/exit.reserve")
                return
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return  # the folder is gone: nobody wants to know
                time.sleep(1)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
