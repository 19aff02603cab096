import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from skyloom.core.errors import InvalidInput, SkyloomError, Unavailable
from skyloom.core.operation import Done
from skyloom.ports.series import Point
from skyloom.runtime.context import Context, context
from skyloom.runtime.line import measurements_sender
from skyloom.runtime.report import PointSender, report
from skyloom.series.memory import MemorySeries


class Receiver:
    """A control plane that fails as told: errors come out one by one, after or before the batch was taken."""

    def __init__(self, failures: tuple[SkyloomError, ...] = (), *, takes_it_first: bool = False) -> None:
        self.series = MemorySeries()
        self.tries = 0
        self._failures = list(failures)
        self._takes_it_first = takes_it_first

    def __call__(self, sequence: int, points: tuple[Point, ...]) -> None:
        self.tries += 1
        failure = self._failures.pop(0) if self._failures else None
        if failure is None or self._takes_it_first:
            self.series.append("run_1", "source", sequence, points)
        if failure is not None:
            raise failure


def lost() -> Unavailable:
    return Unavailable("The control plane does not answer.", next_action="Wait.")


def reporter(send: Callable[[int, tuple[Point, ...]], None], **options: object) -> tuple[PointSender, list[str]]:
    lines: list[str] = []
    return PointSender(send, every_s=0.01, now=lambda: 5.0, say=lines.append, **options), lines  # type: ignore[arg-type]


def test_report_arrives_in_order_with_step_and_time() -> None:
    receiver = Receiver()
    sender, lines = reporter(receiver)
    for step in range(3_000):
        sender.report({"loss": step / 2, "rate": 1.0}, step)
    sender.close()
    found = receiver.series.points("run_1", "loss")
    assert found == [Point("loss", step, 5.0, step / 2) for step in range(3_000)]
    assert len(receiver.series.points("run_1")) == 6_000
    assert receiver.tries < 3_000
    assert lines == []


@pytest.mark.parametrize("takes_it_first", [False, True])
def test_report_survives_an_outage_and_counts_nothing_twice(takes_it_first: bool) -> None:
    receiver = Receiver((lost(), lost()), takes_it_first=takes_it_first)
    sender, lines = reporter(receiver)
    sender.report({"loss": 0.5}, 1)
    sender.close(timeout_s=10)
    assert [point.step for point in receiver.series.points("run_1")] == [1]
    assert receiver.tries == 3
    assert lines == []


def test_report_gives_up_at_the_end_and_says_how_many_were_lost() -> None:
    sender, lines = reporter(Receiver(tuple(lost() for _ in range(1000))))
    sender.report({"loss": 0.5}, 1)
    sender.close(timeout_s=0.2)
    assert len(lines) == 1
    assert lines[0].startswith("1 measurements could not be sent before the end")


def test_report_that_is_refused_is_said_once_and_the_rest_goes_on() -> None:
    receiver = Receiver((InvalidInput("There is no run run_1.", next_action="Look."),))
    sender, lines = reporter(receiver)
    sender.report({"loss": 0.5}, 1)
    for _ in range(500):
        if lines:
            break
        threading.Event().wait(0.01)
    sender.report({"loss": 0.4}, 2)
    sender.close()
    assert [point.step for point in receiver.series.points("run_1")] == [2]
    assert "There is no run run_1" in lines[0]


def test_what_was_delivered_has_arrived_at_once() -> None:
    receiver = Receiver()
    sender = PointSender(receiver, every_s=1_000)
    for step in range(3):
        sender.report({"loss": 0.5}, step)
        assert sender.deliver(timeout_s=20)
        assert [point.step for point in receiver.series.points("run_1")] == list(range(step + 1))
    sender.close()


def test_delivery_to_a_control_plane_that_is_gone_is_not_waited_for() -> None:
    sender, _ = reporter(Receiver(tuple(lost() for _ in range(1_000))))
    sender.report({"loss": 0.5}, 1)
    began = time.monotonic()
    assert not sender.deliver(timeout_s=1_000)
    assert not sender.deliver(timeout_s=1_000)
    assert time.monotonic() - began < 500
    sender.close(timeout_s=0.1)


def test_delivery_waits_no_longer_than_it_may() -> None:
    over = threading.Event()
    sender, _ = reporter(lambda *_: over.wait(20) and None)
    sender.report({"loss": 0.5}, 1)
    assert not sender.deliver(timeout_s=0.05)
    over.set()
    assert sender.deliver(timeout_s=20)
    sender.close()


def test_report_during_a_long_outage_keeps_the_newest_within_its_bound() -> None:
    answers = threading.Event()
    receiver = Receiver()

    def blocked(sequence: int, points: tuple[Point, ...]) -> None:
        answers.wait(10)
        receiver(sequence, points)

    sender, lines = reporter(blocked, max_points=10)
    for step in range(5_000):
        sender.report({"loss": 1.0}, step)
    answers.set()
    sender.close()
    steps = [point.step for point in receiver.series.points("run_1")]
    assert steps[-10:] == list(range(4_990, 5_000))
    assert lines == ["The control plane has not taken measurements for long: the oldest ones are dropped."]


def place(rank: int = 0, run: str = "run_1") -> Context:
    fields = {**context().__dict__, "rank": rank, "run": run, "project": "vision", "task_id": "task_1"}
    return Context(**{**fields, "url": "http://127.0.0.1:1", "token": "secret"})


class Recorder:
    """A transport that remembers what it was asked."""

    project, url = "vision", ""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def send(self, ask: Any) -> Any:
        self.asked.append(ask)
        return Done()


def test_senders_of_one_process_have_sources_of_their_own() -> None:
    recorder = Recorder()
    for _ in range(2):
        measurements_sender(place(), recorder)(1, (Point("loss", 1, 5.0, 0.5),))  # type: ignore[arg-type]
    first, second = recorder.asked
    assert (first.run_id, first.sequence, first.points) == ("run_1", 1, (Point("loss", 1, 5.0, 0.5),))
    assert first.source.startswith("task_1.")
    assert first.source != second.source


def test_sender_without_a_listener_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        measurements_sender(place())(1, ())


@pytest.mark.parametrize("place", [{}, {"SKYLOOM_RUN": "run_1", "RANK": "1"}])
def test_report_outside_of_a_run_or_on_another_rank_does_nothing(
    place: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SKYLOOM_RUN", raising=False)
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    threads = threading.active_count()
    report({"train/loss": 0.25}, step=3)
    assert threading.active_count() == threads
