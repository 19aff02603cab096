"""Bridges, keepers, control planes and nodes that are killed or hang; addresses and tokens that are wrong. On a real cluster."""

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from skyloom.core.errors import Unavailable
from skyloom.engines.local.supervisor import processes
from skyloom.engines.ray import RayEngine
from skyloom.engines.ray.wire import AskKeepers, KeeperCall, KeeperReply
from skyloom.ports.engine import EndReason, PythonFile, TaskPhase
from tests.contracts.engine_contract import is_gone, log, look, one, program, sh, until, wait
from tests.engines.ray_engines import clear, connected, made
from tests.ray_cluster import NEEDS_RAY, RayCluster, RayProcess, write_token

pytestmark = NEEDS_RAY
MOST_S = 10.0  # within which every question is answered or refused
HOLD = """
import sys, time
from pathlib import Path
from skyloom.core.errors import Unavailable
from skyloom.engines.ray import RayEngine
from skyloom.ports.engine import GangPlan, PythonFile, TaskPlan
folder, address, token, engine_id, nodes = sys.argv[1:]
engine = RayEngine(Path(folder) / "pool", address=address, token_file=Path(token), engine_id=engine_id, node_folder=nodes, warm=False)
while True:
    try:
        engine.check()
        break
    except Unavailable:
        time.sleep(0.1)
for name in ("long", "short"):
    task = TaskPlan(task_id=name, entry=PythonFile(path="main.py", args=(name,)), files={"main.py": folder + "/main.py"})
    engine.launch(GangPlan(gang_id=name, tasks=(task,)))
print("launched", flush=True)
time.sleep(1000)
"""
COUNT = """
import itertools, sys, time
from pathlib import Path
if sys.argv[1] == "short":
    while not Path(sys.argv[0]).with_name("go").exists():
        time.sleep(0.01)
    print("over", flush=True)
    sys.exit(7)
for number in itertools.count():
    print(number, flush=True)
    time.sleep(0.01)
"""


@pytest.fixture
def engine(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[RayEngine]:
    engine = connected(made(ray_cluster, tmp_path / "pool", ray_cluster.direct))
    yield engine
    clear(engine)
    engine.close()


def bridges_of(pid: int) -> list[int]:
    return [
        child for child in processes.children_of(pid) if b"ray.bridge" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def keepers_of(node: RayProcess) -> list[int]:
    return [pid for pid in node.pids() if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Keeper")]


def lines(engine: RayEngine, task_id: str) -> list[str]:
    """Whole lines of output."""
    return log(engine, task_id).decode().split("\n")[:-1]


def is_counted(seen: list[str]) -> bool:
    """True when nothing was lost and nothing came twice."""
    return seen == [str(number) for number in range(len(seen))]


# What is ours is killed


def test_new_engine_adopts_what_a_killed_control_plane_left(ray_cluster: RayCluster, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(COUNT)
    engine = made(ray_cluster, tmp_path / "pool", ray_cluster.direct)
    words = [
        str(tmp_path),
        ray_cluster.direct,
        str(ray_cluster.token_file),
        engine.engine_id,
        f"{ray_cluster.folder}/nodes",
    ]
    with subprocess.Popen([sys.executable, "-c", HOLD, *words], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"launched\n"
        (bridge,) = bridges_of(holder.pid)
        holder.kill()
    until(lambda: is_gone(bridge), "the end of the bridge, with its control plane")
    engine = connected(made(ray_cluster, tmp_path / "pool", ray_cluster.direct, engine_id=engine.engine_id))
    assert engine.known() == ["long", "short"]
    assert look(engine, "long").phase is TaskPhase.RUNNING
    before = lines(engine, "long")
    (machine,) = engine.machines()
    (ray_cluster.folder / "nodes" / engine.engine_id / machine.name / "tasks" / "short" / "work" / "go").touch()
    over = wait(engine, "short")
    assert (over.reason, over.exit_code) == (EndReason.EXIT_CODE, 7)
    engine.launch(one("long", sh("echo a second run")))
    until(lambda: len(lines(engine, "long")) > len(before) + 20, "more output")
    assert is_counted(lines(engine, "long"))
    clear(engine)
    engine.close()


def test_engine_without_its_folder_finds_its_tasks_on_the_nodes(
    engine: RayEngine, ray_cluster: RayCluster, tmp_path: Path
) -> None:
    engine.launch(one("t", sh("echo x; exec sleep 1000")))
    wait(engine, "t", TaskPhase.RUNNING)
    other = connected(made(ray_cluster, tmp_path / "restored", ray_cluster.direct, engine_id=engine.engine_id))
    assert other.known() == ["t"]
    other.launch(one("t", sh("echo a second run")))
    assert look(other, "t").phase is TaskPhase.RUNNING
    other.close()


def test_engines_with_different_ids_do_not_meet(engine: RayEngine, ray_cluster: RayCluster, tmp_path: Path) -> None:
    engine.launch(one("t", sh("echo first; exec sleep 1000")))
    wait(engine, "t", TaskPhase.RUNNING)
    other = connected(made(ray_cluster, tmp_path / "other", ray_cluster.direct))
    assert other.known() == [] and look(other, "t").phase is TaskPhase.ABSENT
    other.launch(one("t", sh("echo second")))
    wait(other, "t")
    assert log(other, "t") == b"second\n" and log(engine, "t") == b"first\n"
    other.stop(["t"], force=True)
    other.forget(["t"])
    assert look(engine, "t").phase is TaskPhase.RUNNING
    other.close()


def test_killed_bridge_is_started_again_and_no_task_notices(engine: RayEngine, tmp_path: Path) -> None:
    engine.launch(one("t", PythonFile(path="main.py", args=("long",)), files=program(tmp_path, COUNT)))
    until(lambda: len(lines(engine, "t")) > 5, "output")
    (bridge,) = [pid for pid in bridges_of(os.getpid()) if pid == engine.bridge_pid]
    os.kill(bridge, signal.SIGKILL)
    until(lambda: is_gone(bridge), "the end of the bridge")
    connected(engine)
    assert engine.bridge_pid != bridge
    before = len(lines(engine, "t"))
    until(lambda: len(lines(engine, "t")) > before, "more output")
    assert is_counted(lines(engine, "t"))


def test_hanging_bridge_is_replaced_within_the_bound(engine: RayEngine) -> None:
    bridge = engine.bridge_pid
    os.kill(bridge, signal.SIGSTOP)
    asked = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        engine.launch(one("t", sh("true")))
    assert time.monotonic() - asked < MOST_S + 5  # the promise, and a busy machine
    connected(engine)
    assert engine.bridge_pid != bridge and is_gone(bridge)


def test_killed_keeper_comes_back_and_no_task_notices(
    engine: RayEngine, ray_cluster: RayCluster, tmp_path: Path
) -> None:
    engine.launch(one("t", PythonFile(path="main.py", args=("long",)), files=program(tmp_path, COUNT)))
    until(lambda: len(lines(engine, "t")) > 5, "output")
    pid = look(engine, "t").pid
    for keeper in keepers_of(ray_cluster.node):
        os.kill(keeper, signal.SIGKILL)
    connected(engine)
    before = len(lines(engine, "t"))
    until(lambda: len(lines(engine, "t")) > before + 20, "more output")
    assert is_counted(lines(engine, "t")) and look(engine, "t").pid == pid
    engine.stop(["t"])
    assert wait(engine, "t").reason is EndReason.STOPPED


def test_node_that_ray_never_heard_of_is_unavailable_and_ends_no_bridge(engine: RayEngine) -> None:
    bridge = engine.bridge_pid
    question = AskKeepers(calls=(KeeperCall(node_id="gone", ask=b"", timeout_s=1.0),))
    with pytest.raises(Unavailable, match="does not list node gone"):
        engine._link.ask(question, tuple[KeeperReply, ...])
    assert engine.bridge_pid == bridge and engine.machines()


# What is not ours is wrong


@pytest.mark.parametrize("scheme", ["ray://", ""])
def test_address_where_nobody_listens_is_unavailable_in_words(tmp_path: Path, scheme: str) -> None:
    write_token(tmp_path / "token")
    engine = RayEngine(tmp_path / "p", address=f"{scheme}127.0.0.1:9", token_file=tmp_path / "token", engine_id="e")
    asked = time.monotonic()
    with pytest.raises(Unavailable, match=f"No Ray cluster answers at {scheme}127.0.0.1:9"):
        engine.machines()
    with pytest.raises(Unavailable, match="No Ray cluster answers"):
        engine.launch(one("t", sh("true")))
    assert time.monotonic() - asked < 2 * MOST_S
    assert engine.known() == [] and engine.observe(["t"])["t"].phase is TaskPhase.ABSENT
    engine.close()


@pytest.mark.parametrize("direct", [True, False])
def test_cluster_with_another_token_is_unavailable_in_words(
    ray_cluster: RayCluster, tmp_path: Path, direct: bool
) -> None:
    write_token(tmp_path / "token")
    address = ray_cluster.direct if direct else ray_cluster.address
    engine = RayEngine(tmp_path / "p", address=address, token_file=tmp_path / "token", engine_id="e")
    asked = time.monotonic()
    with pytest.raises(Unavailable, match="wants another token"):
        engine.capacity()
    assert time.monotonic() - asked < MOST_S
    engine.close()


# A node is lost


@pytest.mark.timeout(180)
def test_node_that_dies_loses_its_tasks_only_after_they_ended(ray_cluster: RayCluster, tmp_path: Path) -> None:
    """The node's Ray is killed; its task would run on for ever. Its end comes before the verdict, and the other node's task stays."""
    second = ray_cluster.add_node("second")
    try:
        engine = connected(made(ray_cluster, tmp_path / "pool", ray_cluster.direct, lease_s=6.0))
        until(lambda: "second" in {machine.name for machine in engine.machines()}, "the second node")
        first = next(machine.name for machine in engine.machines() if machine.name != "second")
        engine.launch(one("there", sh("echo $$; exec sleep 1000"), machine="second"))
        engine.launch(one("here", sh("exec sleep 1000"), machine=first))
        pid = wait(engine, "there", TaskPhase.RUNNING).pid
        assert pid is not None
        wait(engine, "here", TaskPhase.RUNNING)
    finally:
        second.end()
    while (seen := look(engine, "there")).phase is not TaskPhase.ENDED:
        was_gone = is_gone(pid)
    assert was_gone, "the verdict came before the end"
    assert seen.reason is EndReason.NODE_LOST and "second" in seen.message
    assert b"is lost" in log(engine, "there")
    assert look(engine, "here").phase is TaskPhase.RUNNING
    engine.launch(one("there", sh("echo a second run")))
    assert look(engine, "there") == seen
    again = made(ray_cluster, tmp_path / "pool", ray_cluster.direct, engine_id=engine.engine_id)
    assert connected(again).observe(["there"])["there"].reason is EndReason.NODE_LOST
    again.close()
    clear(engine)
    engine.close()


# A cluster that is no cluster


class OpenDoor(grpc.GenericRpcHandler):
    """Answers whatever is asked, with any token or none, like a Ray that was started without one."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")


@pytest.mark.parametrize("scheme", ["ray://", ""])
def test_cluster_that_lets_in_anybody_is_refused(tmp_path: Path, scheme: str) -> None:
    write_token(tmp_path / "token")
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), handlers=(OpenDoor(),))
    address = f"{scheme}127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    engine = RayEngine(tmp_path / "p", address=address, token_file=tmp_path / "token", engine_id="e")
    with pytest.raises(Unavailable, match="wants no token"):
        engine.machines()
    engine.close()
    server.stop(None).wait()


def test_something_that_accepts_and_says_nothing_is_unavailable_within_the_bound(tmp_path: Path) -> None:
    write_token(tmp_path / "token")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"ray://127.0.0.1:{mute.getsockname()[1]}"
        engine = RayEngine(tmp_path / "p", address=address, token_file=tmp_path / "token", engine_id="e")
        asked = time.monotonic()
        with pytest.raises(Unavailable, match="No Ray cluster answers"):
            engine.machines()
        assert time.monotonic() - asked < MOST_S
        engine.close()


@pytest.mark.parametrize(("content", "word"), [(None, "cannot be read"), (b"", "is empty"), (b"\xff\xfe", "no text")])
def test_token_file_that_is_none_is_unavailable_in_words(tmp_path: Path, content: bytes | None, word: str) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    engine = RayEngine(tmp_path / "p", address="ray://127.0.0.1:9", token_file=tmp_path / "token", engine_id="e")
    with pytest.raises(Unavailable, match=word):
        engine.machines()
    engine.close()
