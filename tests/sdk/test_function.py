"""What a call of a decorated function gives back."""

from types import SimpleNamespace
from typing import Any

import pytest

from skyloom.rooms.jobs.model import CallResult
from skyloom.sdk.function import RemoteCall, ResultMissing


def call(left: CallResult) -> RemoteCall[Any]:
    jobs = SimpleNamespace(finish=lambda job_id, timeout_s: None, result=lambda job_id: left)
    return RemoteCall(SimpleNamespace(jobs=jobs), "job_a")  # type: ignore[arg-type]


def test_result_of_a_call_is_what_it_returned_and_none_only_if_it_was_none() -> None:
    assert call(CallResult(ready=True, result_json="[1, null]")).result() == [1, None]
    assert call(CallResult(ready=True)).result() is None
    with pytest.raises(ResultMissing, match="job_a"):
        call(CallResult(ready=False)).result()
