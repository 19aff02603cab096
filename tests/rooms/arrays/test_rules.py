"""Arrays as arithmetic: whatever happens in whatever order, each index is counted exactly once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.ports.engine import Command, PythonCall
from skyloom.rooms.arrays import rules
from skyloom.rooms.arrays.model import Array, ArrayEnd, ArrayProgress, ArrayTooHeavy, InputsMismatch, SubmitArray
from skyloom.rooms.jobs.model import JobSpec, JobState, Reason

SPEC = JobSpec(entry=Command(argv=("true",)))
ENDS = st.sampled_from([JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])


def array(size: int, max_parallel: int = 0) -> Array:
    return Array(
        id="array_x", project="p", spec=SPEC, size=size, max_parallel=max_parallel, submitted_at=1.0, submitted_by="ann"
    )


def end(index: int, state: JobState) -> ArrayEnd:
    return ArrayEnd(array_id="array_x", index=index, state=state, reason=Reason.NONE, message="said")


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(0, 40), st.data())
def test_array_counts_each_index_once_in_any_order_of_ends_and_stops(
    size: int, parallel: int, data: st.DataObject
) -> None:
    made, progress = array(size, parallel), ArrayProgress(id="array_x", project="p")
    seen: list[int] = []
    for _ in range(25):
        due = rules.due(made, progress)
        seen += due
        progress = rules.made(progress, due)
        assert len(progress.open) <= min(parallel or rules.WINDOW, rules.WINDOW)
        if progress.open:
            over = data.draw(st.lists(st.sampled_from(progress.open), unique=True, max_size=5))
            progress = rules.folded(made, progress, [end(index, data.draw(ENDS)) for index in over], 2.0)
        if progress.active and not progress.stopped and data.draw(st.integers(0, 30)) == 0:
            progress = rules.stopped(made, progress, Reason.CANCELLED, "cancelled", 2.0)
        status = rules.status(made, progress, dict.fromkeys(progress.open, JobState.RUNNING))
        counts = (status.num_waiting, status.num_running, status.num_succeeded, status.num_failed, status.num_cancelled)
        assert sum(counts) == size
        assert progress.active == bool(status.num_running or status.num_waiting)
    assert seen == list(range(len(seen)))


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ((JobState.SUCCEEDED, JobState.SUCCEEDED), JobState.SUCCEEDED),
        ((JobState.SUCCEEDED, JobState.CANCELLED), JobState.CANCELLED),
        ((JobState.FAILED, JobState.CANCELLED), JobState.FAILED),
    ],
)
def test_array_state_when_all_ended_says_the_worst(ends: tuple[JobState, ...], state: JobState) -> None:
    made = array(2)
    progress = rules.made(ArrayProgress(id="array_x", project="p"), range(2))
    progress = rules.folded(made, progress, [end(index, how) for index, how in enumerate(ends)], 2.0)
    assert rules.status(made, progress, {}).state is state


def test_array_keeps_the_first_failures_only() -> None:
    made = array(50)
    progress = rules.made(ArrayProgress(id="array_x", project="p"), range(50))
    progress = rules.folded(made, progress, [end(index, JobState.FAILED) for index in range(50)], 2.0)
    status = rules.status(made, progress, {})
    assert [failure.index for failure in status.failures] == list(range(rules.MAX_FAILURES))
    assert status.message == "50 of 50 failed; index 0: said"
    assert "job_x-00000" in status.next_action


def test_array_too_heavy_is_refused_before_anything_is_stored() -> None:
    entry = PythonCall(path="f.py", function="f", arguments=b'"' + b"x" * 100_000 + b'"')
    with pytest.raises(ArrayTooHeavy):
        rules.check(SubmitArray(spec=JobSpec(entry=entry), size=10_000))


@pytest.mark.parametrize(("size", "per_input", "count"), [(3, 1, 2), (4, 2, 3), (10, 3, 3)])
def test_array_with_another_number_of_inputs_is_refused(size: int, per_input: int, count: int) -> None:
    with pytest.raises(InputsMismatch):
        rules.check(SubmitArray(spec=SPEC, size=size, per_input=per_input, inputs=("sha256:" + "0" * 64,) * count))


def test_array_job_tells_its_place_and_finds_its_input() -> None:
    digests = tuple("sha256:" + letter * 64 for letter in "ab")
    made = Array(
        id="array_x", project="p", spec=SPEC, size=4, inputs=digests, per_input=2, submitted_at=1.0, submitted_by="a"
    )
    job = rules.job(made, 3, 5.0)
    assert (job.id, job.array) == ("job_x-00003", "array_x")
    assert job.spec.environment["SKYLOOM_ARRAY_INDEX"] == "3"
    assert job.spec.environment["SKYLOOM_ARRAY_OFFSET"] == "1"
    assert list(job.spec.files.values()) == [digests[1]]


def test_array_that_was_stopped_says_why_beside_its_failures() -> None:
    made = array(3)
    progress = rules.made(ArrayProgress(id="array_x", project="p"), range(1))
    progress = rules.stopped(made, progress, Reason.LAUNCH_FAILED, "There is no secret 'key'.", 1.0)
    progress = rules.folded(made, progress, [end(0, JobState.FAILED)], 2.0)
    status = rules.status(made, progress, {})
    assert (status.reason, status.message) == (
        Reason.LAUNCH_FAILED,
        "1 of 3 failed; index 0: said; There is no secret 'key'.",
    )
