"""The engine's side of the warm pool: starts the process that has the imports done, and asks it to fork supervisors.

It is an accelerator and never a dependency: not ready, slow or dead, the answer is None and the caller starts cold.
"""

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skyloom.engines.local.prepare import SUPERVISOR
from skyloom.engines.local.supervisor import processes

IMPORTS = (
    "numpy",
    "torch",
    "torch._dynamo",
    "torch.nn.parallel.distributed",
    "safetensors",
    "skyloom.runtime",
    "skyloom.recipes.image_training",
    "skyloom.recipes.tabular_training",
)
SERVER = "skyloom.inference"
SERVER_IMPORTS = (f"{SERVER}.__main__",)
_ANSWER_S = 1.0
_START_AGAIN_S = 10.0


class WarmPool:
    """One zygote process. Not thread-safe: the engine's launch lock guards it.

    The two talk over a socket pair that has no name, so nobody else can connect; the zygote ends when our end closes, which the
    kernel does for us if we are killed.
    """

    def __init__(self, python: str, variables: Mapping[str, str], log: Path, imports: Sequence[str] = IMPORTS) -> None:
        self._python = python
        self._variables = {**variables, processes.MARKER_VARIABLE: processes.NO_MARKER, "OPENBLAS_NUM_THREADS": "1"}
        self._log = log
        self._imports = imports
        self._pid = 0
        self._channel: socket.socket | None = None
        self._buffer = b""
        self._started = 0.0
        self.loaded: tuple[str, ...] | None = None
        self.start()

    @property
    def pid(self) -> int:
        """Pid of the zygote; 0 when there is none."""
        return self._pid

    def start(self) -> None:
        """Start the zygote; returns while it still imports. Where that is refused, all starts are cold."""
        self._started = time.monotonic()
        self._buffer, self.loaded = b"", None
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                self._pid = self._spawn(theirs.fileno())
            except OSError:
                return
            self._channel = ours.dup()

    def _spawn(self, channel: int) -> int:
        argv = [self._python, str(SUPERVISOR), "warm", f"3:{','.join(self._imports)}"]
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self._log), log_flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_DUP2, channel, 3),
        ]
        return os.posix_spawn(
            self._python,
            argv,
            self._variables,
            file_actions=actions,
            setsid=True,
            setsigmask=[],
            setsigdef=range(1, 32),
        )

    def is_ready(self, timeout_s: float = 0.0) -> bool:
        """True once the imports are done; waits for that at most ``timeout_s``."""
        if self.loaded is None and self._channel is not None:
            answer = self._receive(timeout_s)
            if answer is not None:
                self.loaded = tuple(answer["ready"])
        return self.loaded is not None

    def fork_shim(self, folder: Path) -> int | None:
        """Have a supervisor forked for a task folder; returns its pid, or None when the caller must start it cold."""
        if self._channel is None:
            if time.monotonic() - self._started > _START_AGAIN_S:
                self.start()
            return None
        if not self.is_ready():
            return None
        try:
            self._channel.sendall(json.dumps({"folder": str(folder)}).encode() + b"\n")
        except OSError:
            self.close()
            return None
        answer = self._receive(_ANSWER_S)
        if answer is None:
            self.close()  # silent for a second: it may be stuck, and a late fork would find the task's lock taken
            return None
        return int(answer["pid"])

    def _receive(self, timeout_s: float) -> dict[str, Any] | None:
        assert self._channel is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            poll = select.poll()  # select() could not take a descriptor above 1023
            poll.register(self._channel, select.POLLIN)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            try:
                chunk = self._channel.recv(65536)
            except OSError:
                chunk = b""  # killed with a request unread: the same end by another name
            if not chunk:
                self.close()
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the zygote. Supervisors that it forked live on."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._pid:
            with contextlib.suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)  # our own child, not yet collected: the pid cannot be another's
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
        self._pid, self.loaded = 0, None


class WarmPools:
    """A zygote for what trains and, from the first model server of this folder on, a small one for these. Guarded like its pools.

    A server that were forked from the first one would show the memory of torch as its own, and needs nothing of it.
    """

    def __init__(self, python: str, variables: Mapping[str, str], folder: Path) -> None:
        self._python = python
        self._variables = variables
        self._folder = folder
        self._training = WarmPool(python, variables, folder / ".warm.log")
        # Where models were served before this process began, somebody may be asleep who will be woken.
        self._serving = self._for_servers() if self._servers_log.exists() else None

    def is_ready(self, timeout_s: float) -> bool:
        """True once the imports of trainings are done; waits for that at most ``timeout_s``."""
        return self._training.is_ready(timeout_s)

    def servers_ready(self, timeout_s: float) -> bool:
        """True once those of model servers are done; waits for that at most ``timeout_s``; False before the first server."""
        return self._serving is not None and self._serving.is_ready(timeout_s)

    def fork_shim(self, folder: Path, module: str) -> int | None:
        """Have a supervisor forked for a task folder whose program is this module, or "" for another; None to start it cold."""
        if module != SERVER and not module.startswith(f"{SERVER}."):
            return self._training.fork_shim(folder)
        if self._serving is None:
            self._serving = self._for_servers()
            return None  # this one is quicker cold; the next ones find the imports done
        return self._serving.fork_shim(folder)

    @property
    def _servers_log(self) -> Path:
        return self._folder / ".warm-serving.log"

    def _for_servers(self) -> WarmPool:
        return WarmPool(self._python, self._variables, self._servers_log, SERVER_IMPORTS)

    def close(self) -> None:
        """End the zygotes. Supervisors that they forked live on."""
        for pool in (self._training, self._serving):
            if pool is not None:
                pool.close()
