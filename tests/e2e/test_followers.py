"""Who follows a job or an array while its control plane is killed and comes back."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import typer

from skyloom.cli.job import attend
from skyloom.core.resources import Resources
from skyloom.ports.engine import Command
from skyloom.rooms.jobs.model import JobSpec, JobState
from tests.control_plane import ControlPlane

SMALL = Resources(cpus=0.2, memory_bytes=2**27)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_followers_say_once_that_the_cloud_is_away_and_go_on_without_gap_or_repeat(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    monkeypatch.setattr("skyloom.sdk.patience.say", said.append)
    go = tmp_path / "go"
    text = 'echo before; until test -e "$GO"; do sleep 0.05; done; echo after'
    entry = Command(argv=("/bin/sh", "-c", text))
    spec = JobSpec(entry=entry, resources=SMALL, environment={"GO": str(go)})
    with control_plane.client(patience_s=5.0) as cloud, ThreadPoolExecutor(4) as threads:
        job_id, array_id = cloud.jobs.submit(spec).job.id, cloud.arrays.submit(spec, 3).array.id
        shown = threads.submit(attend, cloud, job_id, False)
        read = threads.submit(lambda: "".join(cloud.jobs.follow(job_id)))
        ended = threads.submit(cloud.jobs.finish, job_id)
        gathered = threads.submit(lambda: sorted(result.index for result in cloud.arrays.follow(array_id)))
        until(lambda: cloud.jobs.logs(job_id).text == "before\n")
        port = str(urlsplit(control_plane.url).port)
        control_plane.kill()
        until(lambda: len(said) == 4)
        go.touch()
        control_plane.start(SKYLOOM_PORT=port).ready()
        with pytest.raises(typer.Exit) as left:
            shown.result(30)
        assert left.value.exit_code == 0
        assert read.result(30) == capsys.readouterr().out == "before\nafter\n"
        assert ended.result(30).state is JobState.SUCCEEDED
        assert gathered.result(30) == [0, 1, 2]
    away = [line for line in said if "goes on. Trying again for 60 s" in line]
    assert sum(f"Job {job_id} goes on" in line for line in away) == 3
    assert sum(f"Array {array_id} goes on" in line for line in away) == 1
    assert sum("answers again" in line for line in said) == 4 == len(said) - len(away)
