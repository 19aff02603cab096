"""Jobs on a real control plane: adoption, limits, hostile programs, functions."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import skyloom
from skyloom.core.resources import Resources
from skyloom.ports.engine import Command
from skyloom.rooms.jobs.model import FileMissing, ImpossibleRequest, JobMissing, JobSpec, JobState, Reason
from skyloom.sdk.client import Client
from skyloom.sdk.jobs import JobFailed
from tests.control_plane import ControlPlane
from tests.e2e.test_serving import register
from tests.inference.serving import write_bundle

SMALL = Resources(cpus=0.2, memory_bytes=2**27)
COUNT = """
import sys, time
for number in range(int(sys.argv[1])):
    print(f"line {number}", flush=True)
    time.sleep(0.02)
sys.exit(int(sys.argv[2]))
"""


def python(code: str, *args: str, **options: object) -> JobSpec:
    options = {"resources": SMALL, **options}
    return JobSpec(entry=Command(argv=(sys.executable, "-c", code, *args)), **options)  # type: ignore[arg-type]


def output(cloud: Client, job_id: str) -> str:
    return "".join(cloud.jobs.follow(job_id))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_output(cloud: Client, job_id: str, words: str) -> None:
    wait_for(lambda: words in cloud.jobs.logs(job_id).text)


def test_control_plane_killed_running_jobs_are_adopted(control_plane: ControlPlane) -> None:
    with control_plane.client() as cloud:
        long = cloud.jobs.submit(python(COUNT, "150", "0")).job.id
        short = cloud.jobs.submit(python(COUNT, "20", "7")).job.id
        for job_id in (long, short):
            wait_for_output(cloud, job_id, "line 3\n")
        pid = cloud.jobs.get(long).tasks[0].pid
        first = cloud.jobs.logs(long)
        assert pid and first.text
    control_plane.kill()
    wait_for((control_plane.home / "engine" / f"{short}.1.0" / "exit.json").exists)  # it ends while nobody looks
    control_plane.start().ready()
    with control_plane.client() as cloud:
        assert cloud.jobs.get(long).tasks[0].pid == pid
        assert cloud.jobs.wait(long, timeout_s=30).state is JobState.SUCCEEDED
        ended = cloud.jobs.wait(short, timeout_s=30)
        assert (ended.state, ended.reason, ended.tasks[0].exit_code) == (JobState.FAILED, Reason.EXIT_CODE, 7)
        rest = "".join(cloud.jobs.follow(long, offset=first.next_offset))
        assert first.text + rest == "".join(f"line {n}\n" for n in range(150))
        assert [task.attempt for task in cloud.jobs.get(long).tasks] == [1]


def test_cancel_hostile_program_leaves_no_descendant(control_plane: ControlPlane, tmp_path: Path) -> None:
    code = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True: time.sleep(1)
        os._exit(0)
print("ready", flush=True)
while True: time.sleep(1)
"""
    marker = f"SKYLOOM_TEST_MARKER={tmp_path}"
    name, _, value = marker.partition("=")
    with control_plane.client() as cloud:
        job = cloud.jobs.submit(python(code, environment={name: value}, grace_s=0.5)).job
        wait_for_output(cloud, job.id, "ready")
        deadline = time.monotonic() + 60
        while len(marked(marker)) < 6:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        cloud.jobs.cancel(job.id)
        ended = cloud.jobs.wait(job.id, timeout_s=20)
        assert (ended.state, ended.reason) == (JobState.CANCELLED, Reason.CANCELLED)
        assert marked(marker) == []
        assert cloud.jobs.cancel(job.id).state is JobState.CANCELLED


def marked(marker: str) -> list[int]:
    """Processes that carry a variable."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("code", "options", "reason", "words"),
    [
        ("raise ValueError('mine')", {}, Reason.EXIT_CODE, "1"),
        ("import sys; sys.exit(3)", {}, Reason.EXIT_CODE, "3"),
        ("import os; os.kill(os.getpid(), 9)", {}, Reason.SIGNALLED, "SIGKILL"),
        ("import time; time.sleep(60)", {"max_duration_s": 0.5, "grace_s": 0.1}, Reason.TIME_LIMIT, "0.5"),
        ("x = bytearray(1)\nwhile True: x += bytearray(10**7)", {}, Reason.OUT_OF_MEMORY, "128 MiB"),
    ],
)
def test_job_that_fails_says_why_and_what_next(
    control_plane: ControlPlane, code: str, options: dict[str, object], reason: Reason, words: str
) -> None:
    with control_plane.client() as cloud:
        job = cloud.jobs.submit(python(code, **options)).job
        ended = cloud.jobs.wait(job.id, timeout_s=30)
        assert (ended.state, ended.reason) == (JobState.FAILED, reason), ended
        assert words in ended.message
        assert ended.next_action
        with pytest.raises(JobFailed):
            cloud.jobs.finish(job.id)


def test_submit_impossible_or_incomplete_request_is_refused(control_plane: ControlPlane) -> None:
    with control_plane.client() as cloud:
        with pytest.raises(ImpossibleRequest, match="9999 CPUs"):
            cloud.jobs.submit(python("0", resources=Resources(cpus=9999)))
        with pytest.raises(FileMissing, match=r"a\.py"):
            cloud.jobs.submit(JobSpec(entry=Command(argv=("x",)), files={"a.py": "sha256:" + "0" * 64}))
        with pytest.raises(JobMissing):
            cloud.jobs.get("job_absent")
        missing = cloud.jobs.submit(JobSpec(entry=Command(argv=("no-such-program",)), resources=SMALL)).job
        ended = cloud.jobs.wait(missing.id, timeout_s=20)
        assert (ended.reason, "no-such-program" in ended.message) == (Reason.LAUNCH_FAILED, True)


def test_queued_job_says_what_it_waits_for(control_plane: ControlPlane) -> None:
    with control_plane.client() as cloud:
        holder = cloud.jobs.submit(python("import time; time.sleep(60)", resources=Resources(cpus=8))).job
        waiting = cloud.jobs.submit(python("0", resources=Resources(cpus=3))).job
        deadline = time.monotonic() + 60
        while cloud.jobs.get(waiting.id).reason is not Reason.WAITING_FOR_RESOURCES:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "needs 3 CPUs, 0 free" in cloud.jobs.get(waiting.id).message
        cloud.jobs.cancel(holder.id)
        assert cloud.jobs.wait(waiting.id, timeout_s=20).state is JobState.SUCCEEDED


def test_small_job_passes_a_large_one_that_waits_for_what_an_endpoint_holds_for_good(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    with control_plane.client() as cloud:
        register(cloud, bundle)
        cloud.endpoints.deploy("toy", num_replicas=1, cpus=1, memory="512MiB")
        wait_for(lambda: any(status.state is JobState.RUNNING for status in cloud.jobs.list(live=True).items))
        large = cloud.jobs.submit(python("0", resources=Resources(cpus=8))).job
        small = cloud.jobs.submit(python("0")).job
        assert cloud.jobs.wait(small.id, timeout_s=20).state is JobState.SUCCEEDED
        why = cloud.overview.why(large.id)
        assert "what holds them never ends by itself" in why.message
        assert why.next_action.startswith("Scale down or stop endpoint toy revision 1; or add a machine")
        cloud.endpoints.stop("toy")
        cloud.jobs.cancel(large.id)


def test_gang_gets_rendezvous_variables(control_plane: ControlPlane) -> None:
    code = "import os; print(*[os.environ[n] for n in ('RANK','WORLD_SIZE','LOCAL_RANK','MASTER_ADDR','MASTER_PORT')])"
    with control_plane.client() as cloud:
        job = cloud.jobs.submit(python(code, num_workers=3)).job
        cloud.jobs.finish(job.id, timeout_s=20)
        said = [output_of_rank(cloud, job.id, rank).split() for rank in range(3)]
        assert [words[:4] for words in said] == [[str(n), "3", str(n), "127.0.0.1"] for n in range(3)]
        assert len({words[4] for words in said}) == 1


def output_of_rank(cloud: Client, job_id: str, rank: int) -> str:
    return "".join(cloud.jobs.follow(job_id, rank=rank))


def test_log_chunks_put_together_are_the_exact_output(control_plane: ControlPlane) -> None:
    code = "print('héllo ☁ 数据 ' * 20000)"
    with control_plane.client() as cloud:
        job = cloud.jobs.submit(python(code)).job
        cloud.jobs.finish(job.id, timeout_s=20)
        text, offset = "", 0
        while True:
            chunk = cloud.jobs.logs(job.id, offset=offset, limit=1001)
            text, offset = text + chunk.text, chunk.next_offset
            if chunk.ended:
                break
        assert text == "héllo ☁ 数据 " * 20000 + "\n"


def test_function_runs_as_a_job_and_returns_json(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "import skyloom\n\n@skyloom.function(cpus=0.2)\ndef add(a, b=1):\n    return {'sum': a + b}\n"
    )
    monkeypatch.setenv("SKYLOOM_HOME", str(control_plane.home))
    monkeypatch.syspath_prepend(str(tmp_path))
    import mine  # type: ignore[import-not-found]

    assert mine.add(1, b=2) == {"sum": 3}
    assert mine.add.remote(4, b=5) == {"sum": 9}


def test_task_token_speaks_for_its_task_and_dies_with_it(control_plane: ControlPlane) -> None:
    code = """
import skyloom
cloud = skyloom.connect()
print(len(cloud.jobs.list().items), open(__import__("os").environ["SKYLOOM_TOKEN_FILE"]).read())
try: cloud.jobs.cancel("job_x")
except skyloom.SkyloomError as error: print(error.code)
"""
    with control_plane.client() as cloud:
        job = cloud.jobs.submit(python(code)).job
        cloud.jobs.finish(job.id, timeout_s=20)
        count, token, code = output(cloud, job.id).split()
        assert (count, code) == ("1", "right_missing")
        stale = Client(type(cloud.transport)(control_plane.url, token, "default"))  # type: ignore[call-arg]
        with pytest.raises(skyloom.SkyloomError, match="token"):
            stale.jobs.list()


def test_control_plane_stopped_politely_leaves_jobs_running(control_plane: ControlPlane) -> None:
    with control_plane.client() as cloud:
        job = cloud.jobs.submit(python("import time; time.sleep(60)")).job
        deadline = time.monotonic() + 60
        while (pid := cloud.jobs.get(job.id).tasks[0].pid) is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert control_plane.stop() == 0
    os.kill(pid, 0)
    assert not (control_plane.home / "server.json").exists()
    control_plane.start().ready()
    with control_plane.client() as cloud:
        assert (halt := cloud.jobs.cancel(job.id).job.halt) and halt.by == "owner"
        assert cloud.jobs.wait(job.id, timeout_s=30).state is JobState.CANCELLED
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIG_DFL)


def test_second_control_plane_on_one_folder_is_refused(control_plane: ControlPlane) -> None:
    other = ControlPlane(control_plane.home).start()
    assert other.wait() != 0
    assert "works in" in control_plane.log.read_text()
    with control_plane.client() as cloud:
        assert cloud.jobs.list().items == ()
