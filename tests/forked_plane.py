"""Control planes that are forked from a process with the imports done: the same program without the second that these take.

For tests that start dozens of them; how one starts by itself is what the others show.
"""

import os
import signal
import subprocess
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from skyloom.faces.rest import server
from skyloom.settings import Settings
from tests.forks import FORKS


class ForkedPlane:
    """What tests use of ``subprocess.Popen``."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._process: ForkServerProcess = FORKS.Process(target=_serve, args=(environment, log))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("a forked control plane", timeout or 0.0)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def _serve(environment: dict[str, str], log: Path) -> None:
    os.setsid()
    with log.open("ab") as written:
        os.dup2(written.fileno(), 1)
        os.dup2(written.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    server.serve(Settings.read())
