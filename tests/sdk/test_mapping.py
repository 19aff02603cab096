"""What a map gathers of an array that was stopped before all of its chunks had their turn."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skyloom.core.resources import Resources
from skyloom.rooms.arrays.model import ArrayResult
from skyloom.rooms.jobs.model import JobState, Reason
from skyloom.sdk.http import CloudUnreachable
from skyloom.sdk.mapping import ChunkEmpty, RemoteFailure, gather, num_chunks, submit


def stopped_array(*indexes: int) -> Any:
    """A cloud with an array that was cancelled when these of its chunks, of two inputs each, had succeeded."""
    results = [
        ArrayResult(
            index=index,
            job_id=f"job_{index}",
            state=JobState.SUCCEEDED,
            result_json=f'[{{"ok": {2 * index}}}, {{"ok": {2 * index + 1}}}]',
        )
        for index in indexes
    ]
    status = SimpleNamespace(reason=Reason.CANCELLED, message="cancelled by ann")
    return SimpleNamespace(arrays=SimpleNamespace(follow=lambda _, tell: iter(results), get=lambda _: status))


@pytest.mark.parametrize("ordered", [True, False])
def test_map_of_an_array_that_was_stopped_leaves_no_input_out(ordered: bool) -> None:
    cloud = stopped_array(2, 0)
    found = dict(gather(cloud, "array_x", 7, 2, ordered=ordered, keep=False, bar=False, title=""))
    assert {index: value for index, value in found.items() if not isinstance(value, RemoteFailure)} == {
        index: index for index in (0, 1, 4, 5)
    }
    assert sorted(found) == list(range(7))
    assert "Input 6: cancelled: cancelled by ann" in str(found[6])
    assert "skyloom why array_x" in found[6].next_action


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_map_in_chunks_of_nothing_is_refused(chunk_size: int) -> None:
    with pytest.raises(ChunkEmpty):
        submit(stopped_array(), Path("f.py"), "f", [{"args": [1], "kwargs": {}}], chunk_size, 0, None, {})


def roomy(cpus: float) -> Any:
    """A cloud of so many cores."""
    capacity = Resources(cpus=cpus, gpus=0, memory_bytes=2**40)
    return SimpleNamespace(overview=SimpleNamespace(status=lambda: SimpleNamespace(capacity=capacity)))


@pytest.mark.parametrize(
    ("cpus", "max_parallel", "key", "chunks"),
    [(2.0, 0, None, 8), (2.0, 1, None, 4), (1_000.0, 0, None, 200), (0.0, 0, None, 200), (2.0, 0, "mine", 200)],
)
def test_map_makes_a_few_tasks_for_each_that_runs_at_once(
    cpus: float, max_parallel: int, key: str | None, chunks: int
) -> None:
    assert num_chunks(roomy(cpus), max_parallel, key, {"resources": Resources(cpus=1.0)}) == chunks


def test_map_draws_its_bar_before_the_first_input_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    list(gather(stopped_array(0), "array_x", 2, 2, ordered=True, keep=False, bar=True, title="f"))
    assert [line.split()[-1] for line in capsys.readouterr().err.strip().split("\r")] == ["0/2", "2/2"]


def test_map_that_cannot_reach_the_cloud_leaves_its_array_running() -> None:
    def follow(_array_id: str, tell: Any) -> Any:
        raise CloudUnreachable("Nobody answers.", next_action="")
        yield

    cancelled: list[str] = []
    cloud: Any = SimpleNamespace(arrays=SimpleNamespace(follow=follow, cancel=cancelled.append))
    with pytest.raises(CloudUnreachable):
        list(gather(cloud, "array_x", 2, 2, ordered=True, keep=False, bar=False, title=""))
    assert cancelled == []
