"""Whatever a user gets wrong: one clear message that names the thing and what to do next, never a trace, never a 5xx, nothing lost."""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from skyloom.core.operation import Verb
from skyloom.operations import OPERATIONS
from skyloom.ports.engine import Command
from skyloom.rooms.data.model import DatasetState
from skyloom.rooms.jobs.model import JobSpec, JobState, JobStatus, Reason
from skyloom.sdk.client import Client
from tests.control_plane import ControlPlane
from tests.terminal import Said, Terminal

MIB = 2**20


@pytest.fixture
def cloud(cloud_process: ControlPlane) -> Iterator[Client]:
    with cloud_process.client(patience_s=30) as client:
        yield client


def refused(said: Said, *words: str) -> None:
    """Two lines: what is wrong with what, and what to do now."""
    assert said.code not in (0, 70), said
    assert "Traceback" not in said.err + said.out
    first, second = said.err.strip().splitlines()[-2:]
    assert first.startswith("error"), said.err
    assert second.startswith("next:"), said.err
    assert len(second) > len("next: ")
    for word in words:
        assert word in said.err, said.err


# Files


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing of it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


FILES: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "empty": ("empty.csv", b"", ("empty.csv",)),
    "header-only": ("header.csv", b"a,b\n", ("no row",)),
    "only-broken-rows": ("rows.csv", b"a,b\n1\n1,2,3\n", ("no row", "2 of them rejected")),
    "no-text": ("noise.csv", bytes(range(256)) * 40, ("noise.csv",)),
    "no-parquet": ("claims.parquet", b"PAR1" + b"x" * 64, ("claims.parquet",)),
    "parquet-of-ten-gigabytes": ("big.parquet", b"PAR1xx" + struct.pack("<I", 2**32 - 1) + b"PAR1", ("big.parquet",)),
    "no-json": ("rows.jsonl", b"{\n{\n", ("no row",)),
    "image-of-ten-gigabytes": ("cat/claims.png", png(60_000, 60_000), ("cat/claims.png",)),
    "no-image": ("cat/notes.png", b"just words", ("cat/notes.png", "no PNG or JPEG")),
}


@pytest.mark.slow
def test_file_that_is_no_data_is_named_with_what_to_do(cloud: Client, terminal: Terminal, tmp_path: Path) -> None:
    for name, (path, content, _) in FILES.items():  # all at once: they share the machine
        file = tmp_path / name / path
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        cloud.data.create(f"bad-{name}", tmp_path / name if "/" in path else file)
    for name, (_, _, words) in FILES.items():
        (draft,) = cloud.data.get(f"bad-{name}").drafts
        check_refused(cloud, draft.draft.id, words)
        dataset = cloud.data.get(f"bad-{name}")
        assert dataset.state is DatasetState.FAILED, name
        assert words[0] in " ".join(terminal("why", dataset.dataset.id).out.split()), name


def check_refused(cloud: Client, draft_id: str, words: tuple[str, ...]) -> None:
    """The job of a draft ended at once, in one line with these words, and the draft says the same."""
    job_id = cloud.data.draft(draft_id).draft.job_id
    status = cloud.jobs.wait(job_id, timeout_s=60)
    assert (status.state, status.reason, status.job.attempt) == (JobState.FAILED, Reason.REFUSED, 1), status.message
    error = cloud.data.draft(draft_id).error
    assert error is not None
    assert error.next_action
    assert all(word in error.message for word in words), error.message
    assert status.message.startswith(error.message[:400])
    output = "".join(cloud.jobs.follow(job_id))
    assert output.startswith("skyloom: ")
    assert "Traceback" not in output


@pytest.mark.slow
def test_broken_rows_are_kept_out_and_told_with_their_lines(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text('age,city\n30,Oslo\n31\n32,"Rome\n33,Paris\n')
    said = terminal("data", "create", "people", str(tmp_path / "people.csv"), "--json")
    assert said.code == 0, said.err
    made = json.loads(said.out)
    assert made["contents"]["num_rows"] + made["contents"]["num_rejects"] >= 3
    assert made["contents"]["num_rejects"] >= 1
    assert made["contents"]["reports"][0]["losses"][0]["examples"][0]["line"] == 3
    refused(terminal("train", "tabular", "--dataset", "people", "--target", "price"), "no column 'price'", "age")
    refused(terminal("train", "tabular", "--dataset", "people"), "target")
    refused(terminal("data", "split", "people", "--stratify", "town"), "no column 'town'")
    refused(terminal("data", "head", "people:7"), "7")


def test_things_that_are_not_there_are_named(terminal: Terminal, tmp_path: Path) -> None:
    refused(terminal("data", "create", "none", str(tmp_path / "none.csv")), "none.csv")
    refused(terminal("data", "head", "nothing"), "nothing")
    refused(terminal("train", "tabular", "--dataset", "nothing", "--target", "x"), "nothing")
    refused(terminal("train", "magic", "--dataset", "nothing", "--target", "x"), "magic", "tabular")
    refused(terminal("train", str(tmp_path / "none.py")), "none.py")
    refused(terminal("deploy", "nothing"), "no model 'nothing'")
    refused(terminal("predict", "nothing", "[[1]]"), "nothing")
    refused(terminal("model", "show", "nothing"), "nothing")
    refused(terminal("job", "logs", "job_nothing"), "job_nothing")
    refused(terminal("job", "run", "--memory", "9999GiB", "--", "true"), "9.765 TiB", "16 GiB")
    refused(terminal("job", "run", "--memory", "much", "--", "true"), "much")


# REST

BODIES = (
    b"",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"3",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' * 5_000,
    b'{"nothing": 1}',
    b'{"name": 3, "spec": [], "making": "x", "model": {}, "dataset": null}',
    b'{"name": "\\u0000", "dataset": "\\ud800", "model": "\\u0000", "spec": {"entry": {"type": "command", "argv": ["\\u0000"]}}}',
    b'{"spec": {"entry": {"type": "command", "argv": []}}}',
    b'{"spec": {"entry": {"type": "command", "argv": ["x"]}, "num_workers": 1e400}}',
    b'{"spec": {"entry": {"type": "command", "argv": ["x"]}, "num_workers": 99999999999999999999999}}',
    b'{"spec": {"entry": {"type": "command", "argv": ["x"]}, "files": {"../../etc/passwd": "sha256:0"}}}',
)
PLACES = ("nothing", "%00", "..%2f..", "x" * 3_000, "é")


@pytest.mark.parametrize("kind", OPERATIONS, ids=lambda kind: str(kind.route.name))
def test_request_that_cannot_be_meant_is_never_a_server_error(cloud_process: ControlPlane, kind: Any) -> None:
    route = kind.route
    headers = {"authorization": f"Bearer {cloud_process.token}", "content-type": "application/json"}
    with httpx.Client(base_url=cloud_process.url, headers=headers, trust_env=False, verify=False) as http:
        for number, place in enumerate(PLACES):
            path = route.full_path.replace("{project}", "default")
            while "{" in path:
                path = path[: path.index("{")] + place + path[path.index("}") + 1 :]
            is_read = route.verb in (Verb.GET, Verb.DELETE)
            asked = [{"params": {"limit": "x", "cursor": "%00", "name": place}}] if is_read else []
            bodies = BODIES[
                :: 1 + 4 * (number > 0)
            ]  # all of them once; elsewhere one of each kind, since a place is read before them
            for options in asked or [{"content": body} for body in bodies]:
                answer = http.request(route.verb.value, path, **options)
                assert answer.status_code < 500, (path, options, answer.text)
                if answer.status_code >= 400 and answer.headers.get("content-type") == "application/json":
                    body = answer.json()
                    assert body.get("detail") or (body["message"] and body["next_action"]), body


# Starting


def server(home: Path, *before: str, **variables: str) -> Said:
    """Try to start a control plane that cannot be; returns how it ended. ``before`` is a program that starts it."""
    environment = {**os.environ, "SKYLOOM_HOME": str(home), "SKYLOOM_PORT": "0", "SKYLOOM_WARM_POOL": "0", **variables}
    words = [*before, sys.executable, "-m", "skyloom.cli", "up"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


def test_second_server_on_one_folder_is_refused_and_the_first_lives(cloud_process: ControlPlane, cloud: Client) -> None:
    refused(server(cloud_process.home), str(cloud_process.home))
    assert cloud.jobs.list().items is not None
    assert cloud_process.alive


def test_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(server(tmp_path / "home", SKYLOOM_PORT=port), port, "used by another program")


@pytest.mark.slow
def test_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(server(tmp_path / "file" / "home"), str(tmp_path / "file"))
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    as_anybody: tuple[str, ...] = ()
    if os.geteuid() == 0:  # root may write anywhere, unless it gives that right away
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv to try this as root")
        as_anybody = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    for home in (locked, locked / "home"):
        refused(server(home, *as_anybody), str(home), "Permission denied", "write access")


@pytest.mark.slow
def test_folder_on_a_read_only_disk_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small read-only file system")
    try:
        refused(server(disk), str(disk), "Read-only")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


# Programs


def train(cloud: Client, folder: Path, code: str, **options: Any) -> JobStatus:
    script = folder / "mine.py"
    script.write_text(code)
    run = cloud.trainings.start(script=script, model="-", memory="256MiB", cpus=0.2, **options).run
    status = cloud.jobs.wait(run.job_id, timeout_s=60)
    progress = cloud.runs.get(run.id)
    assert (progress.state, progress.message) == (status.state, status.message)
    return status


@pytest.mark.parametrize(
    ("code", "options", "reason", "said", "printed", "attempts"),
    [
        (
            "raise ValueError('mine')",
            {"max_retries": 1},
            Reason.EXIT_CODE,
            "exit code 1, after it printed: ValueError: mine",
            "",
            2,
        ),
        ("import sys\nsys.exit(3)", {"max_retries": 0}, Reason.EXIT_CODE, "exit code 3", "", 1),
        (
            "import time\nprint('on', flush=True)\ntime.sleep(99)",
            {"max_duration_s": 0.5},
            Reason.TIME_LIMIT,
            "0.5 s",
            "on",
            1,
        ),
        ("this is no Python", {"max_retries": 0}, Reason.EXIT_CODE, "exit code 1", "SyntaxError", 1),
    ],
)
def test_training_script_that_fails_says_how_and_keeps_its_output(
    cloud: Client,
    tmp_path: Path,
    code: str,
    options: dict[str, Any],
    reason: Reason,
    said: str,
    printed: str,
    attempts: int,
) -> None:
    status = train(cloud, tmp_path, code, **options)
    assert (status.state, status.reason, status.job.attempt) == (JobState.FAILED, reason, attempts)
    assert said in status.message
    assert status.job.id in status.next_action or "--max-duration" in status.next_action
    output = "".join(cloud.jobs.follow(status.job.id))
    assert printed in output
    assert "skyloom/" not in output, "no frame of ours is in a user's traceback"


def test_exit_code_of_a_training_is_the_terminals(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "three.py").write_text("import sys\nprint('so long')\nsys.exit(3)\n")
    said = terminal("train", str(tmp_path / "three.py"), "--model", "-", "--retries", "0", "--memory", "256MiB")
    assert said.code == 3
    assert "so long" in said.out
    refused(said, "exit code 3, after it printed: so long", "skyloom job logs")


def resident_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) * 1024


FLOOD = """
import sys
line = ("%0127d\\n" % 7).encode() * 8192
for number in range(1024):
    sys.stdout.buffer.write(b"%09d\\n" % number + line[10:])
"""


@pytest.mark.slow
def test_script_that_prints_a_gigabyte_is_kept_whole_and_read_page_by_page(
    cloud: Client, cloud_process: ControlPlane, tmp_path: Path
) -> None:
    assert cloud_process.process is not None
    cloud.jobs.list()
    before = resident_bytes(cloud_process.process.pid)
    status = train(cloud, tmp_path, FLOOD)
    assert status.state is JobState.SUCCEEDED, status.message
    for number in (0, 511, 1023):
        page = cloud.jobs.logs(status.job.id, offset=number * MIB, limit=4 * MIB)
        assert page.text.startswith(f"{number:09}\n"), page.text[:40]
        assert page.ended == (number == 1023)
    grown = resident_bytes(cloud_process.process.pid) - before
    print(f"1 GiB printed, {grown / MIB:.0f} MiB more resident")
    assert grown < 64 * MIB


@pytest.mark.slow
def test_log_over_its_bound_says_so_once_and_the_job_lives_on(cloud: Client) -> None:
    entry = Command(argv=(sys.executable, "-c", FLOOD))
    job = cloud.jobs.submit(JobSpec(entry=entry, max_log_bytes=10 * MIB)).job
    status = cloud.jobs.wait(job.id, timeout_s=60)
    assert (status.state, status.tasks[0].message.count("dropped")) == (JobState.SUCCEEDED, 1)
    end = cloud.jobs.logs(job.id, offset=10 * MIB - 10)
    assert end.ended
    assert end.text.count("[skyloom]") == 1
    assert f"limit of {10 * MIB} bytes" in end.text
    assert "max_log_bytes" in end.text
