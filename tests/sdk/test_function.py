"""What a call of a decorated function gives back."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skyloom.rooms.jobs.model import CallResult
from skyloom.sdk.function import CalledOnImport, RemoteCall, ResultMissing


def call(left: CallResult) -> RemoteCall[Any]:
    jobs = SimpleNamespace(finish=lambda job_id, timeout_s: None, result=lambda job_id: left)
    return RemoteCall(SimpleNamespace(jobs=jobs), "job_a")  # type: ignore[arg-type]


def test_result_of_a_call_is_what_it_returned_and_none_only_if_it_was_none() -> None:
    assert call(CallResult(ready=True, result_json="[1, null]")).result() == [1, None]
    assert call(CallResult(ready=True)).result() is None
    with pytest.raises(ResultMissing, match="job_a"):
        call(CallResult(ready=False)).result()


UNGUARDED = """
import skyloom

@skyloom.function
def double(x):
    return 2 * x

double.{}(3)
"""


@pytest.mark.parametrize("way", ["remote", "spawn"])
def test_call_without_the_guard_says_where_to_put_it(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"bare_{way}.py").write_text(UNGUARDED.format(way))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SKYLOOM_JOB_ID", "job_a")
    monkeypatch.setenv("SKYLOOM_URL", "http://127.0.0.1:9")
    with pytest.raises(CalledOnImport, match=f"bare_{way}.py calls double") as caught:
        importlib.import_module(f"bare_{way}")
    assert 'if __name__ == "__main__"' in caught.value.next_action
