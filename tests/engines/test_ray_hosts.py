"""A gang across hosts, a link that is cut, a control plane that dies meanwhile, a retry, a host that comes back: once, for real."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyloom.core.errors import Unavailable
from skyloom.core.resources import Resources
from skyloom.engines.ray import RayEngine
from skyloom.engines.ray.shared import NotShared
from skyloom.ports.engine import EndReason, GangPlan, PythonFile, TaskPhase, TaskPlan
from tests.contracts import engine_contract
from tests.contracts.engine_contract import gang, is_gone, log, look, sh, until, wait
from tests.engines.ray_engines import connected
from tests.hosts import Hosts, why_no_hosts
from tests.ray_cluster import NEEDS_RAY, RayProcess, write_token

pytestmark = [
    *NEEDS_RAY,
    pytest.mark.alone,  # three Ray nodes and a control plane: beside the rest of the suite Ray's own time limits are not kept
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(why_no_hosts()), reason=f"THE MULTI-HOST TEST IS NOT RUN: {why_no_hosts()}"),
]
PORT, CLIENT_PORT = 26_400, 26_401  # in namespaces that nobody else has
STEPS = 60
TRAIN = """
import datetime, os, time
from pathlib import Path
import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # made later, it would keep the group's threads beyond the end of Python

dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=10))
rank, size = dist.get_rank(), dist.get_world_size()
done = Path(os.environ["SKYLOOM_SHARED_FOLDER"], "step")
first = int(done.read_text()) + 1 if done.exists() else 0
print(f"rank {rank} of {size} by {os.environ['GLOO_SOCKET_IFNAME']}, local rank {os.environ['LOCAL_RANK']}, begins at {first}", flush=True)
for step in range(first, STEPS):
    total = torch.ones(1) * (rank + step)
    dist.all_reduce(total)
    assert total.item() == sum(other + step for other in range(size))
    if rank == 0:
        done.with_suffix(".new").write_text(str(step))
        done.with_suffix(".new").replace(done)
    print(f"step {step}", flush=True)
    time.sleep(0.1)
dist.destroy_process_group()
""".replace("STEPS", str(STEPS))


class Story:
    """The log of the run, with the seconds since its start; it stands in the test run's output (`conftest.py`)."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._start = time.monotonic()
        self._record = record

    def tell(self, line: str) -> None:
        line = f"[{time.monotonic() - self._start:6.1f} s] {line}"
        self._record("story", line)
        print(line, flush=True)  # for when it fails


class Cloud:
    """Head, two workers and a control plane, each on a host of its own."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.folder = Path(tempfile.mkdtemp(prefix="sh-", dir="/tmp"))
        self.private = self.folder / "private"  # the same path everywhere, another disk on w2
        self.private.mkdir()
        self.token_file = self.folder / "token"
        write_token(self.token_file)
        self.nodes: dict[str, RayProcess] = {}

    def start(self, name: str) -> RayProcess:
        """Run Ray on a host; returns before it runs."""
        words = ["--node-ip-address", self.hosts.addresses[name], "--node-name", name]
        words += ["--object-store-memory", str(80 * 2**20), "--temp-dir", str(self.folder / name)]
        if name == "head":
            words += ["--head", "--port", str(PORT), "--ray-client-server-port", str(CLIENT_PORT), "--num-cpus", "0"]
            words += ["--include-dashboard", "false"]
        else:
            words += ["--address", f"{self.hosts.addresses['head']}:{PORT}", "--num-cpus", "4"]
        before = self.hosts.words(name)
        if name == "w2":
            before += ["sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"', str(self.private)]
        self.nodes[name] = RayProcess(words, self.folder / f"log-{name}", self.token_file, before)
        return self.nodes[name]

    def engine(self, engine_id: str = "cloud", shared: str = "") -> RayEngine:
        """The control plane's engine; a new object over the old folder is what a restart makes."""
        (self.folder / "shared").mkdir(exist_ok=True)
        return RayEngine(
            self.folder / "pool" / engine_id,
            address=f"ray://{self.hosts.addresses['head']}:{CLIENT_PORT}",
            token_file=self.token_file,
            engine_id=engine_id,
            shared_folder=shared or str(self.folder / "shared"),
            node_folder=str(self.folder / "nodes"),
            lease_s=6.0,
            warm=False,
        )

    def close(self) -> None:
        """End everything."""
        for node in self.nodes.values():
            node.end()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    monkeypatch.setattr(engine_contract, "PATIENCE_S", 120.0)  # three Ray nodes start
    hosts = Hosts(["head", "w1", "w2", "plane"])
    cloud = Cloud(hosts)
    try:
        with hosts.inside("plane"):
            yield cloud
    finally:
        cloud.close()
        hosts.close()


def attempt(cloud: Cloud, number: int, machines: tuple[str, str]) -> GangPlan:
    """The training as its ``number``-th attempt, a rank on each of these machines."""
    tasks = (
        TaskPlan(
            task_id=f"job.{number}.{rank}",
            entry=PythonFile(path="train.py"),
            files={"train.py": str(cloud.folder / "train.py")},
            shared_folder="/anywhere/job",
            resources=Resources(cpus=1, memory_bytes=2**30),
            machine=machine,
        )
        for rank, machine in enumerate(machines)
    )
    return GangPlan(gang_id=f"job.{number}", tasks=tuple(tasks))


def steps(engine: RayEngine, task_id: str) -> list[int]:
    """Steps that a rank has printed."""
    words = [line.split() for line in log(engine, task_id).decode().splitlines()]
    return [int(line[1]) for line in words if len(line) == 2 and line[0] == "step"]


def test_gang_across_hosts_survives_a_cut_link(cloud: Cloud, record_property: Callable[[str, object], None]) -> None:
    story = Story(record_property)
    (cloud.folder / "train.py").write_text(TRAIN)
    cloud.start("head").wait_started()
    for node in [cloud.start("w1"), cloud.start("w2")]:
        node.wait_started()
    story.tell("head, w1 and w2 run Ray, each on a host of its own, with a token")

    engine = cloud.engine()
    until(lambda: {"w1", "w2"} <= names(engine), "both workers")
    connected(engine)
    story.tell(f"the control plane, on a fourth host, sees {sorted(names(engine))}; the shared folder is shared")

    other = cloud.engine("other", str(cloud.private))
    with pytest.raises(NotShared, match="w2 does not see") as refusal:
        connected(other)
    story.tell(f"a folder that is not shared: {refusal.value.message}")
    two = [TaskPlan(task_id=f"x.{rank}", entry=sh("true"), machine=f"w{rank + 1}") for rank in (0, 1)]
    other.launch(gang(*two))
    assert {wait(other, task.task_id).reason for task in two} == {EndReason.LAUNCH_FAILED}
    other.close()

    engine.launch(attempt(cloud, 1, ("w1", "w2")))
    until(lambda: len(steps(engine, "job.1.1")) >= 5, f"five steps: {log(engine, 'job.1.0')!r}")
    for rank in (0, 1):
        said = log(engine, f"job.1.{rank}").decode().splitlines()
        story.tell(next(line for line in said if line.startswith("rank ")))
    pid = look(engine, "job.1.1").pid
    assert pid is not None

    cloud.hosts.cut("w2")
    story.tell(f"w2's link is cut at step {steps(engine, 'job.1.0')[-1]}; then the control plane is killed")
    os.kill(engine.bridge_pid, signal.SIGKILL)
    engine = cloud.engine()
    was_gone = False
    while observed(engine, "job.1.1") is not TaskPhase.ENDED:
        time.sleep(0.01)
        was_gone = is_gone(pid)
    lost = look(engine, "job.1.1")
    assert lost.reason is EndReason.NODE_LOST and was_gone, f"the verdict came before the end: {lost}"
    story.tell(f"job.1.1: {lost.reason} ({lost.message}); its process had ended before")
    engine.stop(["job.1.0"])
    peer = wait(engine, "job.1.0")
    story.tell(f"job.1.0: {peer.reason} ({peer.message})")

    reached = steps(engine, "job.1.0")[-1]
    engine.launch(attempt(cloud, 2, ("w1", "w1")))
    for rank in (0, 1):
        assert wait(engine, f"job.2.{rank}").reason is EndReason.COMPLETED, log(engine, f"job.2.{rank}")
    begun = steps(engine, "job.2.0")
    assert begun[0] in (reached, reached + 1) and begun[-1] == STEPS - 1
    story.tell(f"the second attempt, both ranks on w1, went on at step {begun[0]} and finished")

    cloud.hosts.heal("w2")
    cloud.nodes["w2"].end()
    cloud.start("w2").wait_started()
    until(lambda: "w2" in names(engine), "w2 to be back")
    connected(engine)
    assert steps(engine, "job.1.1")[:5] == [0, 1, 2, 3, 4]
    engine.launch(attempt(cloud, 1, ("w1", "w2")))
    assert look(engine, "job.1.1") == lost
    story.tell("w2 is back: the output of its lost task can be read, and the task stays lost")
    show = sh('echo "$MASTER_ADDR $GLOO_SOCKET_IFNAME $RANK $LOCAL_RANK $LOCAL_WORLD_SIZE"')
    engine.launch(gang(*(TaskPlan(task_id=f"again.{rank}", entry=show, machine=f"w{rank + 1}") for rank in (0, 1))))
    for rank in (0, 1):
        wait(engine, f"again.{rank}")
        assert log(engine, f"again.{rank}").decode().split() == [
            cloud.hosts.addresses["w1"],
            "eth0",
            str(rank),
            "0",
            "1",
        ]
    story.tell("a gang spans both hosts again")
    engine.close()


def names(engine: RayEngine) -> set[str]:
    try:
        return {machine.name for machine in engine.machines()}
    except Unavailable:  # not reached yet, or Ray's own patience with a start was over: it is tried again
        return set()


def observed(engine: RayEngine, task_id: str) -> TaskPhase | None:
    """The phase; None while the control plane that was just started has not reached the cluster."""
    try:
        return look(engine, task_id).phase
    except Unavailable:
        return None
