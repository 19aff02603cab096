"""What a map gathers of an array that was stopped before all of its chunks had their turn."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skyloom.rooms.arrays.model import ArrayResult
from skyloom.rooms.jobs.model import JobState, Reason
from skyloom.sdk.mapping import ChunkEmpty, RemoteFailure, gather, submit


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
    return SimpleNamespace(arrays=SimpleNamespace(follow=lambda _: iter(results), get=lambda _: status))


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
