"""Guests and ports of tasks on another machine keep the local engine's promises, over keepers without Ray."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyloom.engines.ray import RayEngine, visits
from skyloom.ports.channel import Control, GuestCommand, Stream
from skyloom.ports.engine import Ability
from tests.contracts.engine_contract import is_gone, log, one, until, wait
from tests.engines.fake_ray import FakeCluster
from tests.engines.test_local_inside import (  # noqa: F401  (the same tests, with the fixtures below)
    SERVER,
    SLEEP,
    outcome,
    read,
    run,
    test_guest_does_not_keep_a_task_that_is_done,
    test_guest_ends_with_all_it_started_when_its_channel_is_closed,
    test_guest_ends_with_its_task,
    test_input_output_and_errors_stay_apart,
    test_interrupt_character_reaches_a_guest_with_a_terminal,
    test_missing_program_is_told_by_name,
    test_port_of_the_task_answers_through_a_channel,
    test_signal_that_ends_a_guest_is_told,
    test_task_that_does_not_run_has_no_inside,
    test_terminal_has_a_size_that_can_change,
)
from tests.engines.test_ray_without_ray import engine_of


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    return FakeCluster(tmp_path / "nodes", {"n1": "a"})


@pytest.fixture
def engine(tmp_path: Path, cluster: FakeCluster) -> Iterator[RayEngine]:
    engine = engine_of(tmp_path, cluster)
    assert engine.abilities >= {Ability.EXEC, Ability.CONNECT}
    yield engine
    cluster.down = False
    engine.stop(engine.known(), force=True)
    for task_id in engine.known():
        wait(engine, task_id)


@pytest.fixture
def task(engine: RayEngine) -> str:
    engine.launch(one("t", SLEEP, environment={"COLOUR": "blue"}))
    until(lambda: log(engine, "t") == b"up\n", "the task to run")
    return "t"


def test_much_output_comes_whole_to_a_slow_reader(engine: RayEngine, task: str) -> None:
    program = "import sys\nfor n in range(300_000): sys.stdout.write('%09d\\n' % n)"
    channel = engine.enter("t", GuestCommand(argv=(sys.executable, "-c", program)))
    first = read(channel, Stream.OUTPUT, b"000000000\n")
    rest = read(channel, Stream.OUTPUT)
    assert first + rest == b"".join(b"%09d\n" % number for number in range(300_000))
    assert outcome(channel) == Control(exit_code=0)
    channel.close()


def test_much_input_arrives_whole(engine: RayEngine, task: str) -> None:
    channel = engine.enter("t", GuestCommand(argv=("wc", "-c")))
    left = b"x" * 3_000_000
    while left:
        try:
            left = left[os.write(channel.input, left) :]
        except BlockingIOError:
            time.sleep(0.001)
    channel.end_input()
    assert read(channel, Stream.OUTPUT).strip() == b"3000000"
    channel.close()


def test_question_that_is_asked_twice_moves_its_bytes_once(
    engine: RayEngine, task: str, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bridge that ends after it asked, and before it answered, is asked again."""
    ask = cluster._AskKeepers
    monkeypatch.setattr(cluster, "_AskKeepers", lambda question: (ask(question), ask(question))[1])
    channel = engine.enter("t", GuestCommand(argv=("sh", "-c", "echo run >> runs; exec cat")))
    os.write(channel.input, b"once\n")
    assert read(channel, Stream.OUTPUT, b"\n") == b"once\n"
    channel.end_input()
    assert read(channel, Stream.OUTPUT) == b""
    assert outcome(channel) == Control(exit_code=0)
    channel.close()
    (runs,) = cluster.root.rglob("runs")
    assert runs.read_text() == "run\n"


def test_channel_says_so_when_the_cluster_is_out_of_reach(engine: RayEngine, task: str, cluster: FakeCluster) -> None:
    channel = engine.enter("t", GuestCommand(argv=("sleep", "1000")))
    cluster.down = True
    assert "No Ray cluster answers" in outcome(channel).message
    channel.close()


def test_visit_of_a_control_plane_that_died_is_closed(
    engine: RayEngine, task: str, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visits, "_LOOK_S", 0.05)
    channel = engine.enter("t", GuestCommand(argv=("sh", "-c", "echo $$; exec sleep 1000")))
    pid = int(read(channel, Stream.OUTPUT, b"\n"))
    monkeypatch.setattr(visits, "_FORGOTTEN_S", -1.0)
    until(lambda: is_gone(pid), "the guest to end")
    assert "gone" in outcome(channel).message or "closed" in outcome(channel).message
    channel.close()
