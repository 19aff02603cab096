"""A real control plane as a process of its own, for tests that start it, kill it and look at what is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from skyloom.sdk.client import Client
from skyloom.sdk.http import HttpTransport
from skyloom.sdk.running import ServerRecord, running
from tests.forked_plane import ForkedPlane


class ControlPlane:
    """Starts ``skyloom``'s control plane in a folder; ends only what it started.

    Args:
        forked: start it without its imports, from a process that has done them.
        program: what starts it, where something around it is to be another.
    """

    def __init__(self, home: Path, *, forked: bool = False, program: str = "", **environment: str) -> None:
        self.home = home
        self._forked = forked
        self._words = ["-c", program] if program else ["-m", "skyloom.faces.rest.server"]
        self.environment = {
            **os.environ,
            "SKYLOOM_HOME": str(home),
            "SKYLOOM_PORT": "0",
            "SKYLOOM_WARM_POOL": "0",
            "SKYLOOM_CPUS": "8",
            "SKYLOOM_MEMORY": "16GiB",
            **environment,
        }
        self.process: subprocess.Popen[bytes] | ForkedPlane | None = None
        self.log = home.with_suffix(".log")

    def start(self, **environment: str) -> "ControlPlane":
        """Start it and return at once."""
        wanted = {**self.environment, **environment}
        if self._forked:
            self.process = ForkedPlane(wanted, self.log)
            return self
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self._words],
                env=wanted,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def ready(self, timeout_s: float = 90) -> "ControlPlane":
        """Wait until it answers; fails with its log when it ends instead."""
        assert self.process is not None
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log.read_text()}"
            if (record := self.record) and self._answers(record.url):
                return self
            time.sleep(0.02)
        raise AssertionError(f"not ready after {timeout_s} s:\n{self.log.read_text()}")

    def _answers(self, url: str) -> bool:
        try:
            return httpx.get(f"{url}/readyz", timeout=2, trust_env=False, verify=False).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def record(self) -> ServerRecord | None:
        """What it says about itself, if that is this very process."""
        record = running(self.home)
        return record if record and self.process and record.pid == self.process.pid else None

    @property
    def url(self) -> str:
        record = self.record
        assert record is not None, "not running"
        return record.url

    @property
    def token(self) -> str:
        return (self.home / "token").read_text().strip()

    def client(self, patience_s: float = 5.0) -> Client:
        return Client(HttpTransport(self.url, self.token, "default", patience_s=patience_s))

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self.alive and self.process is not None:
            self.process.kill()
        self.wait()

    def stop(self) -> int:
        """SIGTERM, and wait for the end; returns the exit code."""
        if self.alive and self.process is not None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, timeout_s: float = 60) -> int:
        return self.process.wait(timeout_s) if self.process else 0

    def ends(self, within_s: float) -> bool:
        """True when it is over, or is within that time."""
        try:
            self.wait(within_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end_everything(self) -> None:
        """Cancel what runs, stop, and make sure that no task of this folder is left."""
        if not self.alive:
            self.start(SKYLOOM_CRASH_AT="")
        self.ready()
        with self.client() as cloud:
            for endpoint in cloud.endpoints.list(limit=1000, live=True).items:
                cloud.endpoints.stop(endpoint.endpoint.id)
            for array in cloud.arrays.list(limit=1000).items:
                cloud.arrays.cancel(array.array.id)
            live = [item.job.id for item in cloud.jobs.list(limit=1000, live=True, array="*").items]
            for job_id in live:
                cloud.jobs.cancel(job_id)
            for job_id in live:
                cloud.jobs.wait(job_id, timeout_s=60)
        self.stop()
