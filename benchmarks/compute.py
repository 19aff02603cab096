"""What compute promises, measured: real jobs, processes of a real control plane. `benchmarks.bench` runs it."""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from benchmarks.load import Load, request
from benchmarks.measures import Cloud, Sample, cloud, fire, sample, starts_on
from tests.ray_cluster import RayCluster

from skyloom.core.resources import Resources
from skyloom.ports.engine import Command, PythonFile
from skyloom.rooms.jobs.model import JobSpec
from skyloom.sdk.client import Client
from skyloom.sdk.files import upload_bytes

_PATIENCE_S = 900.0

# Prints the median time of its steps once it is warm: what a gang costs while it runs, not what it costs to start.
_STEPS = b"""
import statistics, time
import torch
import torch.distributed as dist
torch.set_num_threads(1)
torch.manual_seed(0)
dist.init_process_group("gloo")
layers = [torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)]
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(*layers))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
rows, truth = torch.randn(256, 256), torch.randint(0, 10, (256,))
times = []
for step in range(400):
    began = time.perf_counter()
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(rows), truth).backward()
    optimizer.step()
    times.append(time.perf_counter() - began)
if dist.get_rank() == 0:
    print(f"median_ms={statistics.median(times[100:]) * 1e3:.4f}", flush=True)
dist.barrier()  # gloo may abort a rank whose peer left first
dist.destroy_process_group()
"""


def burst(count: int, clients: int = 8) -> Iterator[Sample]:
    """Jobs submitted at once, all of them run; each of them has to end in success exactly once."""
    with cloud(SKYLOOM_CPUS="8", SKYLOOM_WARM_POOL="0") as made, made.client() as client:
        began = time.perf_counter()
        _submit(made, count, clients)
        submitted_s = time.perf_counter() - began
        states = _await_all(client, count)
        all_s = time.perf_counter() - began
        lost = count - states["succeeded"]
        assert lost == 0, f"{lost} of {count} jobs were lost: {states}"
        yield sample(f"burst of {count} jobs, taken in", [count / submitted_s], "/s", above=50)
        yield sample("  run to their end", [count / all_s], "/s", note=f"0 lost of {count}, {all_s:.0f} s in all")


def _submit(made: Cloud, count: int, clients: int) -> None:
    tiny = Resources(cpus=1.0, memory_bytes=2**26)
    body = msgspec.json.encode({"spec": JobSpec(entry=Command(argv=("true",)), resources=tiny)})
    where = urlsplit(made.record.url)
    requests = tuple(
        request(
            "POST",
            "/v1/projects/default/jobs",
            where.netloc,
            made.token,
            body,
            [("Idempotency-Key", f"burst-{number}")],
        )
        for number in range(count)
    )
    outcome = fire(Load(host="127.0.0.1", port=where.port or 80, requests=requests, connections=clients, count=count))
    assert outcome.statuses == {"200": count}, outcome.statuses


def _await_all(client: Client, count: int) -> Counter[str]:
    deadline = time.monotonic() + _PATIENCE_S
    while client.jobs.list(limit=1, live=True).items:
        assert time.monotonic() < deadline, f"jobs are live after {_PATIENCE_S} s"
        time.sleep(0.5)
    states: Counter[str] = Counter()
    ids: set[str] = set()
    cursor = None
    while True:
        page = client.jobs.list(limit=500, cursor=cursor)
        states.update(status.state.value for status in page.items)
        ids.update(status.job.id for status in page.items)
        cursor = page.next_cursor
        if cursor is None:
            assert len(ids) == count, f"{len(ids)} jobs are listed, {count} were taken in"
            return states


def gang_overhead(pairs: int) -> Iterator[Sample]:
    """The same two-rank script under bare torchrun and under Skyloom, in turns: the ratio of their steady step times."""
    with cloud(SKYLOOM_CPUS="8") as made, made.client() as client, tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "steps.py"
        script.write_bytes(_STEPS)
        digest = upload_bytes(client.transport, _STEPS)
        bare, ours = [], []
        for number in range(pairs):
            runs = [lambda: bare.append(_torchrun(script)), lambda: ours.append(_skyloom(client, digest))]
            for run in runs if number % 2 else reversed(runs):
                run()
        ratios = [mine / other for mine, other in zip(ours, bare, strict=True)]
        yield sample("step of 2 ranks under torchrun", bare, "ms")
        yield sample("step of 2 ranks under Skyloom", ours, "ms")
        note = f"medians {statistics.median(ours):.3f} and {statistics.median(bare):.3f} ms"
        yield sample("  Skyloom / torchrun, paired", ratios, "x", below=1.02, note=note)


def ray_starts(count: int) -> Iterator[Sample]:
    """`measures.starts` on a Ray cluster of this machine, through its client port."""
    cluster = RayCluster(num_cpus=8)
    try:
        cluster.node.wait_started()
        with cloud(SKYLOOM_CPUS="8") as made, made.client() as client:
            made.run("pool", "add", "cluster", cluster.address, "--token-file", str(cluster.token_file))
            yield from starts_on(client, "cluster", " on Ray", count)
    finally:
        cluster.end()


def _torchrun(script: Path) -> float:
    # Standalone: it finds a port by itself.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return _median_ms(done.stdout)


def _skyloom(client: Client, digest: str) -> float:
    spec = JobSpec(
        entry=PythonFile(path="steps.py"),
        files={"steps.py": digest},
        num_workers=2,
        resources=Resources(cpus=1.0, memory_bytes=2**30),
    )
    job = client.jobs.submit(spec).job.id
    output = "".join(client.jobs.follow(job))
    client.jobs.wait(job)
    return _median_ms(output)


def _median_ms(output: str) -> float:
    found = re.search(r"median_ms=([\d.]+)", output)
    assert found, output
    return float(found[1])
