"""What is measured, one function each. Each drives the product from outside: the command line, HTTP, the Python client."""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from benchmarks.load import Load, Outcome, request

from skyloom.core.resources import Resources
from skyloom.ports.engine import Command, PythonFile
from skyloom.rooms.jobs.model import JobSpec
from skyloom.sdk.client import Client
from skyloom.sdk.files import upload_bytes
from skyloom.sdk.http import HttpTransport
from skyloom.sdk.running import ServerRecord, running

_WARM_PATIENCE_S = 120.0
_TINY = Resources(cpus=0.1, memory_bytes=2**28)


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One figure.

    Attributes:
        values: all that was measured, sorted.
        unit: of the values: "s", "ms", "MB", "/s".
        goal: what it should be, in words; "" when there is none.
        met: whether it is; None without a goal.
    """

    name: str
    values: tuple[float, ...]
    unit: str
    goal: str = ""
    met: bool | None = None
    note: str = ""

    def at(self, share: float) -> float:
        """A percentile, by the nearest rank."""
        return self.values[min(len(self.values) - 1, max(0, round(share * len(self.values) + 0.5) - 1))]


def sample(name: str, values: list[float], unit: str, *, below: float = 0, above: float = 0, note: str = "") -> Sample:
    """A figure whose median should be below, or above, a bound."""
    ordered = tuple(sorted(values))
    middle = ordered[len(ordered) // 2]
    goal = f"< {below:g} {unit}" if below else f"≥ {above:g} {unit}" if above else ""
    met = middle < below if below else middle >= above if above else None
    return Sample(name=name, values=ordered, unit=unit, goal=goal, met=met, note=note)


class Cloud:
    """A control plane in an empty folder, started by the command line itself."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self._environment = {**os.environ, "SKYLOOM_HOME": str(home), "SKYLOOM_PORT": "0", **settings}

    def run(self, *words: str) -> None:
        """Run one command line. Raises when it fails."""
        command = [sys.executable, "-m", "skyloom.cli", *words]
        subprocess.run(command, env=self._environment, check=True, stdout=subprocess.DEVNULL)

    @property
    def record(self) -> ServerRecord:
        record = running(self.home)
        assert record is not None, "the control plane is gone"
        return record

    @property
    def token(self) -> str:
        return (self.home / "token").read_text().strip()

    def client(self) -> Client:
        return Client(HttpTransport(self.record.url, self.token, "default"))


@contextmanager
def cloud(**settings: str) -> Iterator[Cloud]:
    """A running cloud, taken down with all its jobs afterwards."""
    with tempfile.TemporaryDirectory(prefix="skyloom-bench-") as folder:
        made = Cloud(Path(folder) / "home", **settings)
        made.run("up", "--detach")
        try:
            yield made
        finally:
            made.run("down", "--stop-jobs")


def help_time(count: int) -> Iterator[Sample]:
    """``skyloom --help``, from the start of the process to its end."""
    yield sample(
        "skyloom --help",
        [_timed([sys.executable, "-m", "skyloom.cli", "--help"]) for _ in range(count)],
        "s",
        below=0.4,
    )


def _timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def up_time(count: int) -> Iterator[Sample]:
    """``skyloom up --detach`` in an empty folder, from the start of the command to its end, when requests are answered."""
    values = []
    for _ in range(count):
        with tempfile.TemporaryDirectory(prefix="skyloom-bench-") as folder:
            made = Cloud(Path(folder) / "home")
            began = time.perf_counter()
            made.run("up", "--detach")
            values.append(time.perf_counter() - began)
            made.run("down")
    yield sample("skyloom up → ready", values, "s", below=2)


_FIRST_LINE = b"import sys\nprint('torch' in sys.modules, flush=True)\nimport torch\nprint('torch', flush=True)\n"
_GANG = b"""
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(4, 8)).sum().backward()
optimizer.step()
print("step", flush=True)
dist.barrier()
dist.destroy_process_group()
"""


def starts(count: int) -> Iterator[Sample]:
    """Submit → the first line that user code prints, as a client that follows the log sees it."""
    with cloud(SKYLOOM_CPUS="8") as made, made.client() as client:
        yield from starts_on(client, "local", "", count)


def starts_on(client: Client, pool: str, where: str, count: int) -> Iterator[Sample]:
    """`starts` on one pool; ``where`` is said in the names of the figures."""
    files = {
        name: upload_bytes(client.transport, code) for name, code in (("line.py", _FIRST_LINE), ("gang.py", _GANG))
    }
    _await_warmth(client, files, pool)

    def spec(file: str, **options: object) -> JobSpec:
        entry, kept = PythonFile(path=file), {file: files[file]}
        return JobSpec(entry=entry, files=kept, resources=_TINY, pools=(pool,), **options)  # type: ignore[arg-type]

    command = JobSpec(entry=Command(argv=("echo", "torch")), resources=_TINY, pools=(pool,))
    yield _first(client, f"submit → first line{where}, a command", lambda: command, "torch", count, below=1)
    cold = f"submit → first line{where}, Python, cold"
    yield _first(client, cold, lambda: spec("line.py", warm=False), "False", count, below=1)
    warm = f"submit → first line{where}, Python, warm (torch imported)"
    yield _first(client, warm, lambda: spec("line.py"), "torch", count, below=0.3)
    gang = f"submit → first step{where}, 2 ranks over gloo, warm"
    yield _first(client, gang, lambda: spec("gang.py", num_workers=2), "step", count, below=0.5)


def warm_up(made: Cloud) -> None:
    """Return when the warm pool is ready, as it is after some seconds of a cloud's life."""
    with made.client() as client:
        _await_warmth(client, {"line.py": upload_bytes(client.transport, _FIRST_LINE)})


def _await_warmth(client: Client, files: dict[str, str], pool: str = "local") -> None:
    """Wait until a job finds torch imported already: the warm pool needs some seconds after the start."""
    deadline = time.monotonic() + _WARM_PATIENCE_S
    while time.monotonic() < deadline:
        entry, kept = PythonFile(path="line.py"), {"line.py": files["line.py"]}
        job = client.jobs.submit(JobSpec(entry=entry, files=kept, resources=_TINY, pools=(pool,))).job.id
        if "".join(client.jobs.follow(job)).startswith("True"):
            return
        time.sleep(1)
    raise AssertionError(f"the warm pool is not ready after {_WARM_PATIENCE_S} s")


def _first(client: Client, name: str, spec: Callable[[], JobSpec], word: str, count: int, *, below: float) -> Sample:
    values = []
    for _ in range(count):
        began = time.perf_counter()
        job = client.jobs.submit(spec()).job.id
        seen = ""
        for text in client.jobs.follow(job):
            seen += text
            if f"{word}\n" in seen:
                values.append(time.perf_counter() - began)
                break
        else:
            raise AssertionError(f"{name}: the job ended without {word!r}: {seen}")
        client.jobs.wait(job)
    return sample(name, values, "s", below=below)


def submissions(count: int, clients: int = 8) -> Iterator[Sample]:
    """Durable submissions: each client waits for the answer, which comes when the job is on disk. The pool is busy, so none starts."""
    with cloud(SKYLOOM_CPUS="1", SKYLOOM_WARM_POOL="0") as made, made.client() as client:
        busy = Resources(cpus=1.0, memory_bytes=2**26)
        client.jobs.submit(JobSpec(entry=Command(argv=("sleep", "600")), resources=busy, priority=1_000))
        body = msgspec.json.encode({"spec": JobSpec(entry=Command(argv=("true",)), resources=busy)})
        where = urlsplit(made.record.url)
        path = "/v1/projects/default/jobs"
        key = secrets.token_hex(4)
        requests = tuple(
            request("POST", path, where.netloc, made.token, body, [("Idempotency-Key", f"{key}-{number}")])
            for number in range(count)
        )
        outcome = fire(
            Load(host="127.0.0.1", port=where.port or 80, requests=requests, connections=clients, count=count)
        )
        assert outcome.statuses == {"200": count}, outcome.statuses
        rate = count / outcome.wall_s
        yield sample(f"durable submissions, {clients} clients", [rate], "/s", above=400, note=f"n={count}")
        yield sample("  each answered in", [value * 1e3 for value in outcome.latencies_s], "ms")
        _forget_queue(made)


def _forget_queue(made: Cloud) -> None:
    """Cancelling thousands one by one proves nothing: end the one that runs, and the folder goes away with the rest."""
    with made.client() as client:
        for status in client.jobs.list(limit=1_000, live=True).items:
            if status.started_at is not None:
                client.jobs.cancel(status.job.id)


def memory() -> Iterator[Sample]:
    """Memory of the idle control plane, and of the warm pool beside it."""
    with cloud() as made, made.client() as client:
        _await_warmth(client, {"line.py": upload_bytes(client.transport, _FIRST_LINE)})
        time.sleep(3)
        pid = made.record.pid
        resident, proportional = _memory_mb(pid)
        yield sample("control plane, idle, RSS", [resident], "MB", below=200)
        yield sample("control plane, idle, PSS", [proportional], "MB")
        for child in _children(pid):
            resident, proportional = _memory_mb(child)
            yield sample("warm pool, RSS", [resident], "MB", note="torch imported")
            yield sample("warm pool, PSS", [proportional], "MB")


def _memory_mb(pid: int) -> tuple[float, float]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines[1:]}
    return found["Rss"], found["Pss"]


def _children(pid: int) -> list[int]:
    return [
        int(word)
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for word in (thread / "children").read_text().split()
    ]


def fire(load: Load) -> Outcome:
    """Run a load from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load"]
    done = subprocess.run(command, input=msgspec.json.encode(load), stdout=subprocess.PIPE, check=True, timeout=300)
    return msgspec.json.decode(done.stdout, type=Outcome)
