"""T1 of the reliability plan: the control plane is killed before and after every commit of a job's life.

A scenario runs against a control plane that kills itself at its k-th commit; another is started in its place, the scenario goes on,
and then the history is checked: every acknowledged job is there and ended as it must, every task ran exactly once, every move is in
the table.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from skyloom.core.errors import Unavailable
from skyloom.core.events import Event, Moved
from skyloom.core.resources import Resources
from skyloom.ports.door import EVENTS
from skyloom.ports.engine import Command
from skyloom.rooms.cost import tallies
from skyloom.rooms.cost.model import CostBy
from skyloom.rooms.cost.ports import LEDGER
from skyloom.rooms.cost.rules import usage_of
from skyloom.rooms.cost.usage import Usage
from skyloom.rooms.jobs import rules
from skyloom.rooms.jobs.model import ENDED, MOVES, JobSpec, JobState, JobStatus, TaskState
from skyloom.rooms.jobs.ports import JOBS, TASKS
from skyloom.rooms.tenancy.ports import AUDIT
from skyloom.rooms.tenancy.rules import broken_link
from skyloom.stored import COLLECTIONS, LOGS
from skyloom.stores.sqlite import SqliteStore
from tests.control_plane import ControlPlane
from tests.crashing import STRIDE

A = TypeVar("A")
# Leaves a line per start of user code, so that "ran twice" is seen whatever the database says.
_ONCE = 'echo "$SKYLOOM_TASK_ID" >> "$TRACE"; '


@dataclass
class Scenario:
    """A client that never gives up: it starts the control plane again when it dies and repeats what got no answer."""

    plane: ControlPlane
    trace: Path
    crashes: int = 0
    accepted: dict[str, str] = field(default_factory=dict)

    def ask(self, question: Callable[[], A]) -> A:
        while True:
            try:
                if not self.plane.alive:
                    self.crashes += 1
                    self.plane.start(SKYLOOM_CRASH_AT="").ready()
                return question()
            except (Unavailable, AssertionError):
                if not self.plane.ends(within_s=2):  # a killed process takes a moment to be gone
                    raise

    def submit(self, name: str, shell: str, *, cpus: float = 0.1, **options: object) -> None:
        entry = Command(argv=("/bin/sh", "-c", _ONCE + shell))
        spec = JobSpec(
            entry=entry,
            name=name,
            environment={"TRACE": str(self.trace)},
            resources=Resources(cpus=cpus, memory_bytes=2**24),
            **options,  # type: ignore[arg-type]
        )
        status = self.ask(lambda: self.plane.client(0.3).jobs.submit(spec, key=name))
        self.accepted[name] = status.job.id

    def wait(self, name: str) -> JobStatus:
        return self.ask(lambda: self.plane.client(0.3).jobs.wait(self.accepted[name], timeout_s=30))

    def until(self, name: str, state: JobState) -> None:
        """Wait until a job is in a state, or past it."""
        deadline = time.monotonic() + 30
        while (seen := self.ask(lambda: self.plane.client(0.3).jobs.get(self.accepted[name]))).state is not state:
            if seen.state in ENDED or seen.job.comebacks:
                return
            assert time.monotonic() < deadline, seen
            time.sleep(0.02)

    def cancel(self, name: str) -> None:
        self.ask(lambda: self.plane.client(0.3).jobs.cancel(self.accepted[name]))


def run_scenario(home: Path, crash_at: str) -> Scenario:
    """Jobs that succeed, fail, try again, run as a gang and are cancelled."""
    plane = ControlPlane(home, forked=True).start(SKYLOOM_CRASH_AT=crash_at)
    scenario = Scenario(plane, home.with_suffix(".trace"))
    try:
        scenario.ask(lambda: plane.ready())
        scenario.submit("good", "exit 0")
        scenario.submit("again", 'test "$SKYLOOM_ATTEMPT" = 2', max_retries=1)
        scenario.submit("gang", "exit $RANK", num_workers=2)
        scenario.submit("long", "sleep 60")
        scenario.wait("good")
        scenario.cancel("long")
        ends = {name: scenario.wait(name).state for name in scenario.accepted}
        assert ends == {
            "good": JobState.SUCCEEDED,
            "again": JobState.SUCCEEDED,
            "gang": JobState.FAILED,
            "long": JobState.CANCELLED,
        }
    finally:
        plane.end_everything()
    return scenario


def run_making_room(home: Path, crash_at: str) -> Scenario:
    """A gang that makes room and comes back, one that starts with more workers than it needs and is resized, one that is cancelled
    while it makes room."""
    plane = ControlPlane(home, forked=True).start(SKYLOOM_CRASH_AT=crash_at)
    scenario = Scenario(plane, home.with_suffix(".trace"))
    comes_back = 'test "$SKYLOOM_ATTEMPT" = 1 || exit 0; exec sleep 60'
    try:
        scenario.ask(lambda: plane.ready())
        scenario.ask(lambda: plane.client(0.3).scheduling.set(min_run_s=0.0, restart_s=0.0))
        scenario.submit("low", comes_back, num_workers=2, priority=-1, cpus=1.5)
        scenario.submit("elastic", comes_back, num_workers=1, max_workers=2, priority=-1, cpus=2.0)
        scenario.submit("doomed", "trap : TERM; sleep 60 & wait; sleep 60", priority=-2, cpus=0.5, grace_s=1.0)
        scenario.until("doomed", JobState.RUNNING)
        scenario.until("low", JobState.RUNNING)
        scenario.until("elastic", JobState.RUNNING)
        scenario.submit("high", "sleep 0.2", priority=5, cpus=8.0)
        scenario.wait("high")
        scenario.cancel("doomed")
        ends = {name: scenario.wait(name) for name in scenario.accepted}
        assert {name: status.state for name, status in ends.items()} == {
            "low": JobState.SUCCEEDED,
            "elastic": JobState.SUCCEEDED,
            "doomed": JobState.CANCELLED,
            "high": JobState.SUCCEEDED,
        }
        assert all(ends[name].job.comebacks >= 1 for name in ("low", "elastic"))
    finally:
        plane.end_everything()
    return scenario


def check_history(scenario: Scenario) -> int:
    """Nothing lost, nothing twice, no illegal move; returns the number of commits that the first life could have made."""
    store = SqliteStore(scenario.plane.home / "skyloom.db", COLLECTIONS, LOGS)
    try:
        jobs = {job.id: job for job in store.read(lambda view: view.select(JOBS))}
        tasks = store.read(lambda view: view.select(TASKS))
        events = [event for _, event in store.read(lambda view: view.entries(EVENTS, limit=100_000))]
        ledger = [entry for _, entry in store.read(lambda view: view.entries(LEDGER, limit=100_000))]
        summed = store.read(lambda view: tallies.ever(view, "default", CostBy.PROJECT, "default"))
        audit = [entry for _, entry in store.read(lambda view: view.entries(AUDIT, limit=100_000))]
    finally:
        store.close()
    assert set(scenario.accepted.values()) <= set(jobs), "an acknowledged job is lost"
    assert len({job.spec.name for job in jobs.values()}) == len(jobs), "a job was made twice"
    assert all(MOVES.is_terminal(task.state) for task in tasks)
    assert all(rules.state_of(rules.newest(job, [t for t in tasks if t.job_id == job.id])) for job in jobs.values())
    ran = Counter(scenario.trace.read_text().split())
    assert max(ran.values()) == 1, f"a task ran twice: {ran}"
    assert set(ran) <= {task.id for task in tasks}
    started = {task.id for task in tasks if task.state is TaskState.SUCCEEDED}
    assert started <= set(ran), "a task is called done that never ran"
    check_moves(events)
    metered = {task.id: (task.started_at, task.ended_at) for task in tasks if task.started_at is not None}
    assert {entry.task_id: (entry.started_at, entry.ended_at) for entry in ledger} == metered, "metered wrongly"
    assert len(ledger) == len(metered), "metered twice"
    assert summed == sum((usage_of(entry) for entry in ledger), Usage()), "the sums are not those of the ledger"
    assert broken_link(audit) is None
    return len(events)


def check_moves(events: list[Event]) -> None:
    for event in events:
        if isinstance(event.body, Moved) and event.subject.startswith("job_") and event.body.before in set(TaskState):
            edge = (TaskState(event.body.before), TaskState(event.body.after))
            assert edge in MOVES.edges, edge


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("run", [run_scenario, run_making_room])
def test_control_plane_killed_at_every_commit_loses_and_doubles_nothing(
    tmp_path: Path, phase: str, run: Callable[[Path, str], Scenario]
) -> None:
    # Each story is killed before its odd commits and after its even ones, once at every commit.
    kills, commit = 0, 2 if STRIDE == 2 and phase == "after" else 1
    while True:
        scenario = run(tmp_path / f"home{commit}", f"{phase}:{commit}")
        check_history(scenario)
        if not scenario.crashes:
            break
        kills, commit = kills + scenario.crashes, commit + STRIDE
    print(f"{run.__name__}, {phase}: {kills} kills at commits up to {commit - 1}, 0 lost, 0 doubled, 0 illegal moves")
    assert kills >= 10 // STRIDE  # how many commits there are depends on how many changes happen to share one
