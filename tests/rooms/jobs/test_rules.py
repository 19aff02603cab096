import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.ports.engine import Command, EndReason
from skyloom.ports.store import changed
from skyloom.rooms.cost.budget import BudgetUnclear
from skyloom.rooms.jobs import rules
from skyloom.rooms.jobs.model import MOVES, Job, JobSpec, JobState, Reason, TaskState
from skyloom.rooms.scheduling.durations import GUESS
from skyloom.rooms.scheduling.forecast import GangForecast, LikelyTime
from tests.rooms.jobs.gangs import a_job, a_task

states = st.sampled_from(list(TaskState))


@given(gang=st.lists(states, min_size=1, max_size=5))
def test_state_of_gang_is_ended_only_when_all_tasks_are(gang: list[TaskState]) -> None:
    state = rules.state_of(a_task(rank, state) for rank, state in enumerate(gang))
    over = state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
    assert over == all(MOVES.is_terminal(task) for task in gang)
    assert (state is JobState.SUCCEEDED) == all(task is TaskState.SUCCEEDED for task in gang)


def test_status_failed_gang_blames_the_worker_that_failed_first() -> None:
    job = a_job(3)
    tasks = [
        a_task(0, TaskState.FAILED, reason=Reason.PEER_FAILED, ended_at=3.0, message="stopped"),
        a_task(1, TaskState.FAILED, reason=Reason.OUT_OF_MEMORY, ended_at=4.0, message="used 3 GiB of 2 GiB"),
        a_task(2, TaskState.FAILED, reason=Reason.EXIT_CODE, ended_at=5.0, message="exited with code 1"),
    ]
    shown = rules.status(job, tasks)
    assert shown.reason is Reason.OUT_OF_MEMORY
    assert shown.message == "Worker 1 of 3: used 3 GiB of 2 GiB"
    assert "memory" in shown.next_action


def test_every_reason_has_a_next_action_entry() -> None:
    assert set(rules.NEXT_ACTIONS) == set(Reason)
    assert {reason.value for reason in EndReason} <= {reason.value for reason in Reason}


@pytest.mark.parametrize("amount", [math.nan, math.inf, -1.0])
def test_budget_that_is_no_amount_is_refused_whatever_the_job_is_for(amount: float) -> None:
    with pytest.raises(BudgetUnclear):  # on a wire it would be null, and mean no limit
        a_job(budget_cpu_hours=amount)


def foretold(basis: str, labels: dict[str, str]) -> rules.JobStatus:
    made = Job(
        id="job_1",
        project="p",
        spec=JobSpec(entry=Command(argv=("x",)), labels=labels),
        submitted_at=0.0,
        submitted_by="ann",
    )
    running = [changed(one, {"state": TaskState.RUNNING}) for one in rules.tasks_of(made, 0.0)]
    ends = LikelyTime(early_at=10.0, likely_at=20.0, late_at=30.0)
    known = GangForecast(gang="job_1", starts=ends, ends=ends, basis=basis, num_rollouts=1)
    return rules.status(made, running, forecast=known)


def test_end_of_a_job_of_a_new_kind_is_not_told_as_if_it_were_known() -> None:
    assert rules.foreseen(foretold(GUESS, {}), 0.0) == "end unknown: no earlier run"
    assert rules.foreseen(foretold("from 3 earlier jobs", {}), 0.0) == "likely to end in 20 s (10 s to 30 s)"


@pytest.mark.parametrize("label", ["endpoint", "notebook"])
def test_nothing_is_said_of_the_end_of_a_service(label: str) -> None:
    told = foretold("from 3 earlier jobs", {label: "x"})
    assert (told.forecast, rules.foreseen(told, 0.0)) == (None, "")
