"""What the Ray engine decides by itself, on a cluster of keepers without Ray: crashes, silence, lost nodes, shared folders, leases."""

import ast
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import skyloom
from skyloom.core.errors import InvalidInput, StorageFull, Unavailable
from skyloom.core.resources import Resources
from skyloom.engines.local.supervisor.files import read_moment, write_moment
from skyloom.engines.ray import RayEngine, link
from skyloom.engines.ray.asks import MAX_PIECE_BYTES, KeeperAsk, LeaveMark, Prepare, SeesMark, StartTasks
from skyloom.engines.ray.keeper import interface_of
from skyloom.engines.ray.keepsakes import Keepsakes
from skyloom.engines.ray.lease import Lease
from skyloom.engines.ray.nodes import Nodes
from skyloom.engines.ray.shared import NotShared, SharedFolder, SharedFolderMissing
from skyloom.engines.ray.wire import AskKeepers, KeeperCall, KeeperReply, ListNodes, Opening, RayNode
from skyloom.ports.engine import EndReason, GangWish, NoRoomNow, PythonFile, TaskPhase, TaskPlan
from tests.contracts.engine_contract import gang, is_gone, log, look, one, sh, until, wait
from tests.crashing import calls_until_done, run_and_crash
from tests.engines.fake_ray import FakeCluster

NODES = {"n1": "a", "n2": "b"}


def engine_of(tmp_path: Path, cluster: FakeCluster, **more: object) -> RayEngine:
    (tmp_path / "shared").mkdir(exist_ok=True)
    settings = {"lease_s": cluster.lease_s, "shared_folder": str(tmp_path / "shared"), "engine_id": "e", **more}
    return RayEngine(
        tmp_path / "pool",
        address="ray://nowhere:1",
        token_file=tmp_path / "token",
        link=cluster,
        **settings,  # type: ignore[arg-type]
    )


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    return FakeCluster(tmp_path / "nodes", NODES)


@pytest.fixture
def engine(tmp_path: Path, cluster: FakeCluster) -> Iterator[RayEngine]:
    engine = engine_of(tmp_path, cluster)
    yield engine
    cluster.down, cluster.room = False, 100.0
    cluster.silent.clear()
    engine.stop(engine.known(), force=True)
    for task_id in engine.known():
        until(lambda task_id=task_id: look(engine, task_id).phase is not TaskPhase.RUNNING, "the end")  # type: ignore[misc]


def pair(entry: str = "exec sleep 1000", name: str = "g") -> tuple[TaskPlan, TaskPlan]:
    """A gang over both machines."""
    first, second = (TaskPlan(task_id=f"{name}.{rank}", entry=sh(entry), machine="ab"[rank]) for rank in (0, 1))
    return first, second


# Gangs over machines


def test_gang_over_machines_meets_at_rank_zero_and_counts_locally(engine: RayEngine, cluster: FakeCluster) -> None:
    show = 'echo "$RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT $GLOO_SOCKET_IFNAME"'
    tasks = [TaskPlan(task_id=f"g.{rank}", entry=sh(show), machine=machine) for rank, machine in enumerate("aba")]
    engine.launch(gang(*tasks))
    said = []
    for task in tasks:
        wait(engine, task.task_id)
        said.append(log(engine, task.task_id).decode().split())
    assert [words[:4] for words in said] == [["0", "3", "0", "2"], ["1", "3", "0", "1"], ["2", "3", "1", "2"]]
    assert {tuple(words[4:]) for words in said} == {("127.0.0.1", said[0][5], "lo")}
    assert cluster.held == {}


def test_one_bad_task_keeps_its_gang_from_starting_on_every_machine(engine: RayEngine, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    good, _ = pair(f"touch {mark}")
    bad = TaskPlan(task_id="g.1", entry=sh("true"), files={"x": "/nowhere"}, machine="b")
    worse = TaskPlan(task_id="g.2", entry=PythonFile(path="missing.py"), machine="b")
    for tasks in ((good, bad), (good, worse)):
        engine.launch(gang(*tasks))
        for task in tasks:
            seen = look(engine, task.task_id)
            assert seen.reason is EndReason.LAUNCH_FAILED and tasks[1].task_id in seen.message
        engine.forget([task.task_id for task in tasks])
    assert not mark.exists()


def test_gang_over_machines_without_a_shared_folder_is_refused(tmp_path: Path, cluster: FakeCluster) -> None:
    engine = engine_of(tmp_path, cluster, shared_folder="")
    engine.launch(gang(*pair()))
    seen = look(engine, "g.1")
    assert seen.reason is EndReason.LAUNCH_FAILED and "no shared folder" in seen.message
    engine.launch(one("alone", sh('echo "$SKYLOOM_SHARED_FOLDER"'), shared_folder="/x/job-1"))
    wait(engine, "alone")
    assert log(engine, "alone").decode().strip() == f"{tmp_path}/nodes/e/a/shared/job-1"


def test_folder_that_one_machine_does_not_share_is_named(
    tmp_path: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyloom.engines.ray.shared._PATIENCE_S", 0.1)
    blind = cluster.keeper("n2")
    monkeypatch.setattr(blind, "_root", tmp_path / "elsewhere")
    monkeypatch.setitem(
        sys.modules["skyloom.engines.ray.keeper"]._HANDLERS,  # type: ignore[attr-defined]
        sys.modules["skyloom.engines.ray.asks"].SeesMark,  # type: ignore[attr-defined]
        lambda keeper, _: keeper is not blind,
    )
    engine = engine_of(tmp_path, cluster)
    with pytest.raises(NotShared, match="node b does not see what node a wrote"):
        engine.check()
    assert list((tmp_path / "shared").iterdir()) == []


def test_shared_folder_that_is_missing_on_the_only_machine_is_refused_and_not_made(tmp_path: Path) -> None:
    missing = tmp_path / "mnt" / "nowhere"
    engine = engine_of(tmp_path, FakeCluster(tmp_path / "nodes", {"n1": "a"}), shared_folder=str(missing))
    with pytest.raises(SharedFolderMissing, match="nowhere is not there, or cannot be written to, on node a"):
        engine.check()
    assert not missing.parent.exists()


def test_shared_folder_is_checked_once_for_each_node(engine: RayEngine, tmp_path: Path) -> None:
    assert [machine.name for machine in engine.check()] == ["a", "b"]
    (tmp_path / "shared").rmdir()
    engine.launch(gang(*pair("true")))
    assert {wait(engine, f"g.{rank}").reason for rank in (0, 1)} == {EndReason.COMPLETED}


class Storages:
    """Keepers of nodes that see one storage each, by the first letter of their id."""

    def __init__(self) -> None:
        self.words: set[tuple[str, str]] = set()

    def ask(self, node_id: str, question: Any, kind: Any) -> bool | None:
        if isinstance(question, LeaveMark):
            self.words.add((node_id[0], question.word))
        return (node_id[0], question.word) in self.words if isinstance(question, SeesMark) else None

    def name(self, node_id: str) -> str:
        return node_id


def test_two_groups_of_nodes_that_share_do_not_therefore_share_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyloom.engines.ray.shared._PATIENCE_S", 0.0)
    shared = SharedFolder("/nfs", Storages())  # type: ignore[arg-type]
    shared.check(["a1", "a2"])
    shared.check(["b1", "b2"])
    with pytest.raises(NotShared, match="b1 does not see what a1 wrote"):
        shared.check(["a1", "b1"])
    shared.check(["a2", "a3"])
    shared._keepers = None  # type: ignore[assignment]  # what follows from the answers is not asked
    shared.check(["a1", "a3"])


# Room


def test_cluster_without_room_starts_nothing_and_gang_may_try_again(engine: RayEngine, cluster: FakeCluster) -> None:
    cluster.room = 1
    with pytest.raises(NoRoomNow, match="no room for gang g"):
        engine.launch(gang(*pair("true")))
    assert engine.known() == [] and cluster.held == {}
    cluster.room = 2
    engine.launch(gang(*pair("true")))
    assert {wait(engine, f"g.{rank}").reason for rank in (0, 1)} == {EndReason.COMPLETED}
    assert cluster.held == {}


def test_room_that_nobody_uses_any_more_is_given_back_first(engine: RayEngine, cluster: FakeCluster) -> None:
    cluster.room = 1
    cluster.held["forgotten"], cluster.sizes["forgotten"] = (
        ("n1",),
        1.0,
    )  # a crash between reserving and writing it down
    engine.launch(one("first", sh("true")))
    until(lambda: log(engine, "first") == b"" and _is_over(cluster, "first"), "its end, which nobody looks at")
    engine.launch(one("second", sh("true")))
    wait(engine, "second")


def test_gang_whose_place_cannot_be_written_down_holds_no_room(
    engine: RayEngine, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("skyloom.engines.ray.placements.files.write_durable", full)
    with pytest.raises(StorageFull):
        engine.launch(one("t", sh("true")))
    assert cluster.held == {}


def lose(monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster, kind: type, *, done: bool) -> None:
    """From now on, questions of one kind get no answer, though the keeper may do what it is told."""
    ask = cluster._AskKeepers

    def asked(question: AskKeepers) -> tuple[KeeperReply, ...]:
        is_lost = any(isinstance(msgspec.msgpack.decode(call.ask, type=KeeperAsk), kind) for call in question.calls)
        answers = ask(question) if done or not is_lost else ()
        return (KeeperReply(silent="it does not answer"),) * len(question.calls) if is_lost else answers

    monkeypatch.setattr(cluster, "_AskKeepers", asked)


def test_gang_that_may_have_been_started_keeps_its_room(
    engine: RayEngine, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, cluster, StartTasks, done=True)
    with pytest.raises(Unavailable, match="node a is silent"):
        engine.launch(one("t", sh("exec sleep 1000")))
    assert cluster.held != {}
    wait(engine, "t", TaskPhase.RUNNING)
    engine.stop(["t"])
    wait(engine, "t")
    assert cluster.held == {}


def test_gang_that_never_ran_gives_its_room_to_who_needs_it(
    engine: RayEngine, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.room = 1
    lose(monkeypatch, cluster, StartTasks, done=False)
    with pytest.raises(Unavailable, match="node a is silent"):
        engine.launch(one("given-up", sh("true")))
    assert cluster.held != {}
    monkeypatch.undo()
    engine.launch(one("other", sh("true")))
    wait(engine, "other")


SHOW_GPUS = 'echo "$CUDA_VISIBLE_DEVICES"'


def test_gang_that_is_tried_again_runs_on_the_gpus_of_its_new_reservation(
    engine: RayEngine, cluster: FakeCluster
) -> None:
    engine.check()
    cluster.free_gpus = (0, 1)
    cluster.silent.add("n2")
    with pytest.raises(Unavailable, match="node b is silent"):
        engine.launch(gang(*pair(SHOW_GPUS)))
    cluster.silent.clear()
    cluster.free_gpus = (2, 3)
    engine.launch(gang(*pair(SHOW_GPUS)))
    for name in ("g.0", "g.1"):
        wait(engine, name)
        assert log(engine, name) == b"2,3\n"


def test_gang_that_was_prepared_for_gpus_of_somebody_else_waits_for_them(
    engine: RayEngine, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.free_gpus = (0, 1)
    lose(monkeypatch, cluster, Prepare, done=True)
    with pytest.raises(Unavailable, match="is silent"):
        engine.launch(one("t", sh(SHOW_GPUS)))
    monkeypatch.undo()
    cluster.free_gpus = (2, 3)
    with pytest.raises(NoRoomNow, match="prepared for other GPUs"):
        engine.launch(one("t", sh(SHOW_GPUS)))
    assert cluster.held == {}
    cluster.free_gpus = (0, 1)
    engine.launch(one("t", sh(SHOW_GPUS)))
    wait(engine, "t")
    assert log(engine, "t") == b"0,1\n"


def test_uploads_that_a_failed_launch_left_go_with_a_later_one(
    engine: RayEngine, cluster: FakeCluster, tmp_path: Path
) -> None:
    engine.check()
    uploads = cluster.root / "e" / "a" / "uploads"
    for name, age_s in (("old", 7_200), ("young", 60)):
        (uploads / name).touch()
        os.utime(uploads / name, (time.time() - age_s,) * 2)
    (tmp_path / "x").write_text("x")
    engine.launch(one("t", sh("cat x"), files={"x": str(tmp_path / "x")}, machine="a"))
    wait(engine, "t")
    assert [path.name for path in uploads.iterdir()] == ["young"]


def _is_over(cluster: FakeCluster, task_id: str) -> bool:
    return (cluster.root / "e" / "a" / "tasks" / task_id / "exit.json").exists()


# Silence and loss


def test_silent_node_shows_what_was_seen_last(engine: RayEngine, cluster: FakeCluster) -> None:
    engine.launch(gang(*pair()))
    pid = wait(engine, "g.1", TaskPhase.RUNNING).pid
    wait(engine, "g.0", TaskPhase.RUNNING)
    cluster.silent.add("n2")
    seen = look(engine, "g.1")
    assert (seen.phase, seen.pid) == (TaskPhase.RUNNING, pid) and "silent" in seen.message
    assert look(engine, "g.0").message == ""
    with pytest.raises(Unavailable, match="node b is silent"):
        engine.read_log("g.1", 0, 10)


def test_node_that_is_silent_at_the_launch_starts_nothing_anywhere(
    engine: RayEngine, cluster: FakeCluster, tmp_path: Path
) -> None:
    engine.check()
    cluster.silent.add("n2")
    with pytest.raises(Unavailable, match="node b is silent"):
        engine.launch(gang(*pair(f"echo x >> {tmp_path}/runs")))
    assert cluster.held == {} and not (tmp_path / "runs").exists()
    cluster.silent.clear()
    engine.launch(gang(*pair(f"echo x >> {tmp_path}/runs")))
    assert {wait(engine, f"g.{rank}").reason for rank in (0, 1)} == {EndReason.COMPLETED}
    assert (tmp_path / "runs").read_text() == "x\n" * 2


def test_node_that_is_silent_is_not_said_to_have_nothing(
    engine: RayEngine, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, cluster, Prepare, done=False)
    with pytest.raises(Unavailable, match="is silent"):
        engine.launch(one("t", sh("true"), machine="b"))
    assert look(engine, "t").phase is TaskPhase.ABSENT
    cluster.silent.add("n2")
    assert look(engine, "t").phase is TaskPhase.STARTING


def test_result_on_a_node_that_is_not_there_is_not_said_to_be_none(engine: RayEngine, cluster: FakeCluster) -> None:
    engine.launch(one("t", sh("echo 7 > $SKYLOOM_TASK_FOLDER/result.json"), machine="b"))
    wait(engine, "t")
    assert engine.read_result("t") == b"7\n"
    cluster.dead.add("n2")
    until(lambda: len(engine.machines()) == 1, "the engine to notice")
    with pytest.raises(Unavailable, match="Node b of task t is not there"):
        engine.read_result("t")


def test_verdict_that_was_told_stands_when_an_older_answer_comes_late(
    engine: RayEngine, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.lease_s = 0.5
    monkeypatch.setattr("skyloom.engines.ray.engine._FENCE_S", 0.0)
    engine.launch(one("t", sh("exit 3"), machine="b"))
    until(lambda: (cluster.root / "e" / "b" / "tasks" / "t" / "exit.json").exists(), "the end, which nobody looks at")
    ask = cluster._AskKeepers

    def late(question: AskKeepers) -> tuple[KeeperReply, ...]:
        answers = ask(question)
        monkeypatch.setattr(cluster, "_AskKeepers", ask)
        cluster.dead.add("n2")
        assert wait(engine, "t").reason is EndReason.NODE_LOST
        return answers

    monkeypatch.setattr(cluster, "_AskKeepers", late)
    assert look(engine, "t").reason is EndReason.NODE_LOST
    assert look(engine, "t").reason is EndReason.NODE_LOST


def test_lost_node_is_said_after_the_lease_and_stays_said(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path / "nodes", NODES, lease_s=1.0)
    engine = engine_of(tmp_path, cluster)
    engine.launch(gang(*pair()))
    pid = wait(engine, "g.1", TaskPhase.RUNNING).pid
    assert pid is not None
    cluster.dead.add("n2")
    until(lambda: "lease" in look(engine, "g.1").message, "the engine to notice")
    assert look(engine, "g.1").phase is TaskPhase.RUNNING
    was_gone = False
    while look(engine, "g.1").phase is not TaskPhase.ENDED:
        time.sleep(0.01)
        was_gone = is_gone(pid)
    seen = look(engine, "g.1")
    assert was_gone, "the verdict came before the end"
    assert seen.reason is EndReason.NODE_LOST and "killed by the test" in seen.message
    assert log(engine, "g.1").startswith(b"[skyloom]")
    cluster.machines["n3"] = "b"  # Ray runs there again
    again = engine_of(tmp_path, cluster)
    assert look(again, "g.1").reason is EndReason.NODE_LOST
    again.launch(gang(*pair("echo a second run")))
    assert log(again, "g.1") == b""
    again.stop(["g.0"], force=True)
    wait(again, "g.0")


def test_lease_that_counts_is_the_one_the_node_was_told(
    engine: RayEngine, tmp_path: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keeper lives longer than the control plane that made it, whose successor may think of a shorter lease."""
    engine.launch(one("t", sh("exec sleep 1000"), machine="b"))
    wait(engine, "t", TaskPhase.RUNNING)
    monkeypatch.setattr("skyloom.engines.ray.engine._FENCE_S", 0.0)
    hasty = engine_of(tmp_path, cluster, lease_s=0.0)
    wait(hasty, "t", TaskPhase.RUNNING)
    cluster.dead.add("n2")
    until(lambda: "lease" in look(hasty, "t").message, "the engine to notice")
    assert look(hasty, "t").phase is TaskPhase.RUNNING
    cluster.dead.clear()


def test_task_that_ended_before_its_node_was_restarted_keeps_its_own_end(
    engine: RayEngine, cluster: FakeCluster
) -> None:
    engine.launch(one("t", sh("echo done; exit 3"), machine="b"))
    until(lambda: (cluster.root / "e" / "b" / "tasks" / "t" / "exit.json").exists(), "the end, which nobody looks at")
    cluster.dead.add("n2")
    cluster.machines["n3"] = "b"
    seen = wait(engine, "t")
    assert (seen.reason, seen.exit_code) == (EndReason.EXIT_CODE, 3)
    assert log(engine, "t") == b"done\n"


def test_end_that_was_seen_stays_when_its_node_is_gone_for_good(
    engine: RayEngine, cluster: FakeCluster, tmp_path: Path
) -> None:
    engine.launch(one("t", sh("exit 3"), machine="b"))
    seen = wait(engine, "t")
    del cluster.machines["n2"]
    cluster.down = True
    assert look(engine_of(tmp_path, cluster), "t") == seen
    engine.stop(["t"], force=True)


def test_cluster_that_is_down_is_unavailable_and_known_is_not(engine: RayEngine, cluster: FakeCluster) -> None:
    engine.launch(one("over", sh("true")))
    wait(engine, "over")
    engine.launch(one("t", sh("exec sleep 1000")))
    cluster.down = True
    assert engine.known() == ["over", "t"]
    assert look(engine, "over").reason is EndReason.COMPLETED
    time.sleep(0.6)  # the list of nodes is half a second old at most
    for call in (
        lambda: look(engine, "t"),
        lambda: engine.stop(["t"]),
        lambda: engine.read_log("t", 0, 1),
        lambda: engine.launch(one("new", sh("true"))),
        engine.capacity,
    ):
        with pytest.raises(Unavailable):
            call()


def test_node_with_another_version_is_refused_by_name(
    engine: RayEngine, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyloom.engines.ray.keeper.__version__", "0.0.1")
    with pytest.raises(Unavailable, match=r"node a has Skyloom 0\.0\.1"):
        engine.launch(one("t", sh("true")))
    assert cluster.held == {}


@pytest.mark.parametrize("task_id", ["../up", "", ".hidden", "a/b", "x" * 200])
def test_task_id_that_names_no_folder_is_invalid(engine: RayEngine, task_id: str) -> None:
    with pytest.raises(InvalidInput, match="cannot name a task"):
        engine.launch(one(task_id, sh("true")))
    assert look(engine, task_id).phase is TaskPhase.ABSENT
    assert engine.read_log(task_id, 5, 1).next_offset == 5 and engine.read_result(task_id) is None
    engine.stop([task_id])
    engine.forget([task_id])
    assert engine.known() == []


# The control plane is killed

LAUNCH = """
import sys
from pathlib import Path
from skyloom.ports.engine import GangPlan, TaskPlan
from tests.contracts.engine_contract import sh
from tests.engines.fake_ray import FakeCluster
from tests.engines.test_ray_without_ray import NODES, engine_of
folder = Path(sys.argv[1])
engine = engine_of(folder, FakeCluster(folder / "nodes", NODES))
say = sh(f"echo x >> {folder}/runs; echo $MASTER_PORT >> {folder}/ports")
tasks = tuple(TaskPlan(task_id=f"t{rank}", entry=say, machine="ab"[rank]) for rank in (0, 1))
engine.launch(GangPlan(gang_id="g", tasks=tasks))
"""


@pytest.mark.slow
def test_launch_killed_at_any_disk_call_runs_each_task_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control plane and keepers die together, at each write of either; the reservation is forgotten too."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(skyloom.__file__).parents[1]}:{Path(__file__).parents[2]}")
    (tmp_path / "unharmed").mkdir()
    total = calls_until_done(LAUNCH, tmp_path / "unharmed", forked=False)
    assert total >= 30
    for k in range(1, total + 1, 6):  # the local engine's own writes are all tried in test_local_crashes
        base = tmp_path / str(k)
        base.mkdir()
        run_and_crash(LAUNCH, base, k, forked=False)
        engine = engine_of(base, FakeCluster(base / "nodes", NODES))
        say = sh(f"echo x >> {base}/runs; echo $MASTER_PORT >> {base}/ports")
        tasks = [TaskPlan(task_id=f"t{rank}", entry=say, machine="ab"[rank]) for rank in (0, 1)]
        engine.launch(gang(*tasks))
        assert {wait(engine, f"t{rank}").reason for rank in (0, 1)} == {EndReason.COMPLETED}, f"killed at call {k}"
        assert (base / "runs").read_text() == "x\n" * 2, f"killed at call {k}"
        assert len(set((base / "ports").read_text().split())) == 1, f"killed at call {k}"


def test_damaged_placement_is_found_again_on_its_node(tmp_path: Path, engine: RayEngine, cluster: FakeCluster) -> None:
    engine.launch(one("t", sh("echo once"), machine="b"))
    wait(engine, "t")
    (tmp_path / "pool" / "placements" / "t.json").write_text('{"task_id": ')
    again = engine_of(tmp_path, cluster)
    assert again.known() == []
    again.check()
    again.launch(one("t", sh("echo twice"), machine="a"))
    assert log(again, "t") == b"once\n"


# Leases


def test_lease_counts_from_before_the_question(tmp_path: Path) -> None:
    moments: list[float] = []

    def is_alive() -> bool:
        moments.append(time.clock_gettime(time.CLOCK_BOOTTIME))
        time.sleep(0.05)
        return len(moments) < 3

    lease = Lease(tmp_path / "lease", 10.0, is_alive)
    assert lease.renew() and lease.renew()
    until_when = read_moment(str(lease.file))
    assert until_when is not None and until_when <= moments[1] + 10.0
    assert not lease.renew()
    assert read_moment(str(lease.file)) == until_when


def test_lease_is_renewed_until_the_head_is_out_of_reach(tmp_path: Path) -> None:
    asked, reached = threading.Event(), threading.Event()
    reached.set()

    def is_alive() -> bool:
        asked.set()
        if not reached.is_set():
            raise ConnectionError("no route")
        return True

    lease = Lease(tmp_path / "lease", 0.05, is_alive)
    lease.keep()
    until(lambda: read_moment(str(lease.file)) is not None, "the first renewal")
    reached.clear()
    asked.clear()
    assert asked.wait(10)
    last = read_moment(str(lease.file))
    asked.clear()
    assert asked.wait(10)
    assert read_moment(str(lease.file)) == last
    lease.close()


@pytest.mark.parametrize("content", [b"", b"\0" * 32, b"soon"])
def test_moment_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lease").write_bytes(content)
    assert read_moment(str(tmp_path / "lease")) is None
    write_moment(str(tmp_path / "lease"), 123.5)
    assert read_moment(str(tmp_path / "lease")) == 123.5


# Nodes


def node(node_id: str, machine: str, is_alive: bool = True) -> RayNode:
    return RayNode(node_id=node_id, machine=machine, address="10.0.0.1", is_alive=is_alive, total=Resources(cpus=1))


def test_node_that_is_listed_no_more_counts_as_dead_from_the_first_look() -> None:
    nodes = Nodes()
    nodes.update([node("1", "a"), node("2", "b", False)], 100.0)
    assert nodes.dead_for_s("1", 150.0) == 0.0 and nodes.dead_for_s("2", 150.0) == 50.0
    assert nodes.dead_for_s("gone", 150.0) == 0.0 and nodes.dead_for_s("gone", 170.0) == 20.0
    nodes.update([node("3", "b")], 200.0)
    assert nodes.dead_for_s("2", 200.0) == 100.0
    assert nodes.home("2", "b") == "3" and nodes.home("1", "a") == ""


def test_head_without_cpus_is_no_machine() -> None:
    nodes = Nodes()
    head = RayNode(
        node_id="h", machine="head", address="10.0.0.1", is_alive=True, total=Resources(cpus=0, memory_bytes=9)
    )
    nodes.update([head, node("1", "a")], 0.0)
    assert [machine.name for machine in nodes.machines()] == ["a"]


def test_interface_is_the_one_with_the_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.200") == ""


# Where Ray is


def test_ray_is_imported_in_one_module_only() -> None:
    root = Path(skyloom.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        for part in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in part.names] if isinstance(part, ast.Import) else []
            names += [part.module or ""] if isinstance(part, ast.ImportFrom) and not part.level else []
            if any(name.split(".")[0] == "ray" for name in names):
                found.add(path.relative_to(root).as_posix())
    assert found == {"engines/ray/cluster.py"}


def test_engine_is_made_without_importing_ray() -> None:
    code = "import sys; import skyloom.engines.ray; sys.exit('ray' in sys.modules or 'grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Bridges

BRIDGE = """
import socket, sys, time
from skyloom.engines.ray.wire import BridgeReply, BridgeRequest, Channel
import msgspec
channel = Channel(socket.socket(fileno=int(sys.argv[1])))
channel.receive()
channel.send(BridgeReply(number=0))
while sys.argv[2] == "slow" and (frame := channel.receive()) is not None:
    time.sleep(0.3)
    number = msgspec.msgpack.decode(frame, type=BridgeRequest).number
    channel.send(BridgeReply(number=number, answer=msgspec.msgpack.encode(())))
time.sleep(1000)
"""


def bridged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> link.Link:
    """A link whose bridges reach a cluster at once, and are then slow, or deaf."""

    def spawn(theirs: Any, *_: object) -> "subprocess.Popen[bytes]":
        number = theirs.fileno()
        variables = {"PYTHONPATH": str(Path(skyloom.__file__).parents[1])}
        return subprocess.Popen([sys.executable, "-c", BRIDGE, str(number), how], pass_fds=[number], env=variables)

    monkeypatch.setattr(link, "_spawn", spawn)
    (tmp_path / "token").write_text("token")
    opening = Opening(address="ray://x:1", token_file=str(tmp_path / "token"), engine_id="e", keeper=b"")
    return link.Link(opening, tmp_path / "log")


def test_bridge_that_is_asked_with_no_time_left_is_not_ended_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = bridged(tmp_path, monkeypatch, "slow")
    assert bridge.ask(ListNodes(), tuple, 60.0) == ()
    pid = bridge.bridge_pid
    with pytest.raises(Unavailable, match="does not answer"):
        bridge.ask(ListNodes(), tuple, 0.05)
    assert bridge.ask(ListNodes(), tuple, 60.0) == ()
    assert bridge.bridge_pid == pid
    bridge.close()


def test_bridge_that_reads_nothing_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "ANSWER_S", 1.0)
    bridge = bridged(tmp_path, monkeypatch, "deaf")
    much = AskKeepers(calls=(KeeperCall(node_id="n", ask=bytes(2**24), timeout_s=1.0),))
    with pytest.raises(Unavailable, match="ended while it was asked"):
        bridge.ask(much, tuple, 60.0)
    bridge.close()


# Clusters that shrink


def test_output_and_result_outlive_a_node_that_was_taken_away(tmp_path: Path, cluster: FakeCluster) -> None:
    engine = engine_of(tmp_path, cluster, keeper_idle_s=1000.0)
    leave = 'echo hello; echo 7 > "$SKYLOOM_TASK_FOLDER/result.json"'
    engine.launch(one("t", sh(leave), machine="a"))
    engine.launch(one("long", sh(f"head -c {MAX_PIECE_BYTES + 5} /dev/zero"), machine="a"))
    for task_id in ("t", "long"):
        assert wait(engine, task_id).reason is EndReason.COMPLETED
    cluster.dead.add("n1")
    again = engine_of(tmp_path, cluster, keeper_idle_s=1000.0)
    assert log(again, "t") == b"hello\n" and again.read_result("t") == b"7\n"
    cut = log(again, "long")
    assert cut.startswith(bytes(MAX_PIECE_BYTES) + b"\n[skyloom] the rest") and again.read_result("long") is None
    again.forget(["t", "long"])
    assert list((tmp_path / "pool" / "kept").iterdir()) == []
    engine.forget(engine.known())


def test_output_that_could_not_be_brought_is_lost_with_its_node(
    tmp_path: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(tmp_path, cluster, keeper_idle_s=1000.0)
    monkeypatch.setattr(Keepsakes, "bring", lambda *_: (_ for _ in ()).throw(Unavailable("no", next_action="no")))
    engine.launch(one("t", sh("echo hello"), machine="a"))
    assert wait(engine, "t").reason is EndReason.COMPLETED
    assert log(engine, "t") == b"hello\n"
    cluster.dead.add("n1")
    until(lambda: not engine._keepers.nodes(fresh=True).is_alive("n1"), "the node to be missed")
    assert b"lost" in log(engine, "t")


def test_what_waits_is_told_to_the_cluster_whole(engine: RayEngine, cluster: FakeCluster) -> None:
    wish = GangWish(gang="job_a", resources=Resources(cpus=2), num_workers=3)
    engine.wants([wish])
    assert cluster.wished == (wish,)
    engine.wants(())
    assert not cluster.wished


def test_keeper_is_needed_as_long_as_a_task_lives_there(engine: RayEngine, cluster: FakeCluster) -> None:
    engine.launch(one("t", sh("exec sleep 1000"), machine="a"))
    until(lambda: look(engine, "t").phase is TaskPhase.RUNNING, "the task to run")
    assert cluster.keeper("n1")._has_tasks() and not cluster.keeper("n2")._has_tasks()
    engine.stop(["t"], force=True)
    wait(engine, "t")
    assert not cluster.keeper("n1")._has_tasks()
