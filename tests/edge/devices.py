"""Edge processes of one machine, and the clients that ask them."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx

import skyloom
from skyloom.edge.home import Home
from skyloom.edge.keeper import AGAIN, listen
from skyloom.edge.serving import EdgeOptions, live
from skyloom.edge.station import smoke
from tests.inference.serving import body, toy_rows

_CLIENT = httpx.Client(  # one connection a request: what serves may have changed since the last one
    timeout=20, trust_env=False, verify=False, limits=httpx.Limits(max_keepalive_connections=0)
)
SOURCE = str(Path(skyloom.__file__).parents[1])


def edge(*words: str) -> subprocess.CompletedProcess[str]:
    """Run one word of ``python -m skyloom.edge`` to its end."""
    command = [sys.executable, "-m", "skyloom.edge", *words]
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def until(condition: Callable[[], bool], why: Callable[[], object] = lambda: "", timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


class EdgeDevice:
    """A device that runs somewhere, and a program on it that asks for predictions."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.output = home.with_suffix(".out")
        self.made: list[str] = []

    def join(self, code: str, url: str) -> None:
        Home(self.home).join(code, url)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{(self.home / 'ports').read_text().split()[0]}"

    def ask(self, rows: int = 1) -> httpx.Response:
        """Ask for a prediction; what was answered stands in ``made``."""
        headers = {"authorization": f"Bearer {(self.home / 'token').read_text().strip()}"}
        path = f"{self.url}/v2/models/toy/infer"
        answer = _CLIENT.post(path, json=body(toy_rows(rows)), headers=headers)
        if answer.status_code == 200:
            self.made.append(answer.json()["parameters"]["skyloom-prediction-id"])
        return answer

    def serves(self, version: str) -> bool:
        try:
            answer = self.ask()
        except (OSError, httpx.TransportError):
            return False
        return answer.status_code == 200 and answer.json()["model_version"] == version

    def told(self) -> str:
        return self.output.read_text() if self.output.exists() else ""


class EdgeThread(EdgeDevice):
    """A device in a thread of this process: all of it but its keeper, and bundles are tried here."""

    def start(self, options: EdgeOptions) -> "EdgeThread":
        self._options, self._listener = options, listen(0)
        (self.home / "ports").write_text(f"{self._listener.getsockname()[1]}\n")
        self._stop: Callable[[], object] = lambda: None
        self._stopped = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        while asyncio.run(self._life()) == AGAIN:
            pass

    async def _life(self) -> int:
        stopping = asyncio.Event()
        self._stop = partial(asyncio.get_running_loop().call_soon_threadsafe, stopping.set)
        if self._stopped:
            return 0
        return await live(Home(self.home), [self._listener.dup()], self._options, stopping, smoke)

    def stop(self) -> None:
        self._stopped = True
        with contextlib.suppress(RuntimeError):  # its loop has ended
            self._stop()
        self._thread.join(20)
        self._listener.close()


class EdgeProcess(EdgeDevice):
    """One device that runs; ends only what it started."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.process: subprocess.Popen[bytes] | None = None

    def join(self, code: str, url: str) -> None:
        done = edge("join", code, "--url", url, "--home", str(self.home))
        assert done.returncode == 0, done.stderr

    def start(self, *options: str) -> "EdgeProcess":
        command = [
            sys.executable,
            "-m",
            "skyloom.edge",
            "run",
            "--home",
            str(self.home),
            "--port",
            "0",
            "--grpc-port",
            "-1",
        ]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--interval", "0.3", *options],
                env={**os.environ, "PYTHONPATH": SOURCE},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def kill(self) -> None:
        """SIGKILL to the keeper, as if the power went; its child goes with it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
