"""Edge processes of one machine, and the clients that ask them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

import skyloom
from tests.inference.serving import body, toy_rows

SOURCE = str(Path(skyloom.__file__).parents[1])


def edge(*words: str) -> subprocess.CompletedProcess[str]:
    """Run one word of ``python -m skyloom.edge`` to its end."""
    command = [sys.executable, "-m", "skyloom.edge", *words]
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def until(condition: Callable[[], bool], why: Callable[[], object] = lambda: "", timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


class EdgeProcess:
    """One device that runs; ends only what it started."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.output = home.with_suffix(".out")
        self.process: subprocess.Popen[bytes] | None = None
        self.made: list[str] = []

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

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{(self.home / 'ports').read_text().split()[0]}"

    def ask(self, rows: int = 1) -> httpx.Response:
        """Ask for a prediction; what was answered stands in ``made``."""
        headers = {"authorization": f"Bearer {(self.home / 'token').read_text().strip()}"}
        path = f"{self.url}/v2/models/toy/infer"
        answer = httpx.post(path, json=body(toy_rows(rows)), headers=headers, timeout=20, trust_env=False)
        if answer.status_code == 200:
            self.made.append(answer.json()["parameters"]["skyloom-prediction-id"])
        return answer

    def serves(self, version: str) -> bool:
        try:
            answer = self.ask()
        except (OSError, httpx.TransportError):
            return False
        return answer.status_code == 200 and answer.json()["model_version"] == version

    def kill(self) -> None:
        """SIGKILL to the keeper, as if the power went; its child goes with it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
