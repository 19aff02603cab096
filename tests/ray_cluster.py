"""A real Ray cluster for tests: processes that we start, in a folder of their own, ended by their own pids. Never `ray stop`."""

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

from skyloom.engines.local.supervisor import processes

START_S = 90.0
# Ray would start an idle Python for every CPU that it is told of as soon as somebody connects.
NO_PRESTART = {"RAY_prestart_worker_first_driver": "0", "RAY_enable_worker_prestart": "0"}
# A dead node is noticed after about six seconds, so that tests need not wait for half a minute.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


class RayProcess:
    """``ray start --block`` with everything below it.

    Args:
        words: further words for ``ray start``.
        folder: short, because Ray puts sockets below it, whose paths may have 108 bytes.
        before: words of a program that runs ours, like ``ip netns exec NAME``.
        more: further variables.
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        token_file: Path,
        before: Sequence[str] = (),
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "start.log"
        self._seen: set[tuple[int, int]] = set()
        variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            **HEALTH,
            **NO_PRESTART,
            "HOME": str(folder),  # where nodes keep task folders unless they are told otherwise
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src"),
            **more,
        }
        ray = str(Path(sys.executable).with_name("ray"))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*before, ray, "start", *words, "--block", "--disable-usage-stats", "--include-log-monitor", "false"],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_started(self) -> None:
        """Wait until Ray says that it runs."""
        deadline = time.monotonic() + START_S
        while b"Ray runtime started" not in self._log.read_bytes():
            assert self._process.poll() is None and time.monotonic() < deadline, self._log.read_text()[-2000:]
            time.sleep(0.05)

    def pids(self) -> list[int]:
        """All processes of this node that live."""
        return [self._process.pid, *processes.descendants(self._process.pid)]

    def end(self) -> None:
        """Kill all of it, workers first noted, so that none outlives its raylet."""
        left = {(pid, processes.start_ticks(pid) or 0) for pid in self.pids()}
        for pid, ticks in left:
            processes.send(pid, ticks, signal.SIGKILL)
        self._process.wait()


class RayCluster:
    """A head on this machine, with its client server and a token.

    Attributes:
        address: for the Ray client.
        direct: of the head, for a machine that is a node.
    """

    def __init__(self, *, num_cpus: int = 16) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))
        self.token_file = self.folder / "token"
        write_token(self.token_file)
        port, client = free_ports(2)
        self.address = f"ray://127.0.0.1:{client}"
        self.direct = f"127.0.0.1:{port}"
        words = ["--head", "--node-ip-address", "127.0.0.1", "--port", str(port)]
        words += [
            "--ray-client-server-port",
            str(client),
            "--num-cpus",
            str(num_cpus),
            "--num-gpus",
            "4",
            "--memory",
            str(64 * 2**30),
        ]
        words += ["--object-store-memory", str(100 * 2**20), "--include-dashboard", "false"]
        self.node = RayProcess([*words, "--temp-dir", str(self.folder / "r")], self.folder / "log", self.token_file)

    def add_node(self, name: str) -> RayProcess:
        """Start one more node on this machine. The caller ends it."""
        words = ["--address", self.direct, "--node-name", name, "--num-cpus", "8", "--memory", str(8 * 2**30)]
        words += ["--object-store-memory", str(80 * 2**20), "--temp-dir", str(self.folder / name[:4])]
        node = RayProcess(words, self.folder / f"log-{name}", self.token_file)
        node.wait_started()
        return node

    def end(self) -> None:
        """End it and remove its files."""
        self.node.end()
        shutil.rmtree(self.folder, ignore_errors=True)


def write_token(path: Path) -> None:
    """A new token, for its owner only."""
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses, outside of the range that Ray gives to its workers (10002 to 19999)."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 5_000, 30_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


HAS_RAY = importlib.util.find_spec("ray") is not None
NEEDS_RAY = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif(
        not HAS_RAY, reason="RAY IS NOT INSTALLED, its engine is NOT tested: pip install 'skyloom[ray]'"
    ),
]
