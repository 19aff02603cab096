"""Arrays, maps and dependencies on a real control plane, killed in between."""

import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from skyloom.core.errors import Conflict
from skyloom.core.resources import Resources
from skyloom.ports.engine import Command
from skyloom.rooms.arrays.model import ArrayMissing
from skyloom.rooms.jobs.model import Dependency, JobSpec, JobState, Reason
from skyloom.sdk.mapping import RemoteFailure
from tests.control_plane import ControlPlane

SMALL = Resources(cpus=0.2, memory_bytes=2**27)
MODULE = """
import skyloom

@skyloom.function(cpus=0.2, memory="128MiB", warm=False)
def double(x, y=0):
    if x == 13:
        raise RuntimeError("unlucky")
    return {"is": 2 * x + y}
"""


def shell(text: str, **more: object) -> JobSpec:
    return JobSpec(entry=Command(argv=("/bin/sh", "-c", text)), resources=SMALL, **more)  # type: ignore[arg-type]


@pytest.mark.slow
def test_array_survives_a_killed_control_plane_and_runs_each_index_once(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    work = shell('echo $SKYLOOM_ARRAY_INDEX >> "$TRACE"; sleep 0.1', environment={"TRACE": str(trace)})
    with control_plane.client() as cloud:
        array_id = cloud.arrays.submit(work, 40, max_parallel=8, key="a").array.id
        assert cloud.arrays.submit(work, 40, max_parallel=8, key="a").array.id == array_id
        with pytest.raises(Conflict):
            cloud.arrays.submit(work, 41, max_parallel=8, key="a")
        later = cloud.jobs.submit(shell("true", after=(Dependency(id=array_id),))).job.id
        assert cloud.jobs.get(later).reason is Reason.WAITING_FOR_DEPENDENCIES
    deadline = time.monotonic() + 60
    while not trace.exists() or len(trace.read_text().split()) < 10:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    control_plane.kill()
    control_plane.start().ready()
    with control_plane.client() as cloud:
        status = cloud.arrays.wait(array_id, timeout_s=60)
        assert (status.state, status.num_succeeded) == (JobState.SUCCEEDED, 40)
        assert len(list(cloud.arrays.follow(array_id))) == 40
        assert cloud.jobs.finish(later, timeout_s=20).state is JobState.SUCCEEDED
        assert "40 of 40" in cloud.overview.why(array_id).message
    ran = Counter(trace.read_text().split())
    assert ran == Counter(str(index) for index in range(40))


@pytest.mark.slow
def test_map_gathers_in_order_and_says_which_input_failed_there(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mapped.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SKYLOOM_HOME", str(control_plane.home))
    import mapped

    try:
        assert mapped.double.local(2) == {"is": 4}
        assert list(mapped.double.map([])) == []
        found = list(mapped.double.map(range(10), range(10, 20), chunk_size=3))
        assert found == [{"is": 2 * x + x + 10} for x in range(10)]
        unordered = mapped.double.map(range(5), ordered=False, chunk_size=2)
        assert sorted(one["is"] for one in unordered) == [0, 2, 4, 6, 8]
        made = list(mapped.double.map([1, 13, 3], chunk_size=3, return_failures=True))
        assert (made[0], made[2]) == ({"is": 2}, {"is": 6})
        with pytest.raises(RemoteFailure) as raised:
            list(mapped.double.map([1, 13, 3]))
        assert (raised.value.index, raised.value.kind) == (1, "RuntimeError")
        assert "unlucky" in str(raised.value) and "mapped.py" in raised.value.traceback
        keyed = mapped.double.with_options(key="once")
        assert list(keyed.map([1, 2])) == list(keyed.map([1, 2])) == [{"is": 2}, {"is": 4}]
        with control_plane.client() as cloud:
            assert len(cloud.arrays.list().items) == 5
    finally:
        sys.modules.pop("mapped", None)


def test_array_cancelled_in_one_request_ends_everything(control_plane: ControlPlane) -> None:
    with control_plane.client() as cloud:
        array_id = cloud.arrays.submit(shell("sleep 60"), 10_000).array.id
        cloud.arrays.cancel(array_id)
        status = cloud.arrays.wait(array_id, timeout_s=60)
        assert (status.state, status.num_cancelled) == (JobState.CANCELLED, 10_000)
        with pytest.raises(ArrayMissing):
            cloud.arrays.get(array_id + "x")
