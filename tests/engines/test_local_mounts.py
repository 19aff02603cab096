"""Mounts of tasks, fetched from a small server that stands for the control plane."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skyloom.engines.local import LocalEngine
from skyloom.engines.local.supervisor import mounting
from skyloom.ports.engine import EndReason, GangPlan, TaskPlan
from skyloom.ports.environment import Mount, MountFile
from skyloom.recipes.check_rows import digest_of
from tests.contracts.engine_contract import gang, log, sh, wait

TOKEN = "sky_task.t.secret"
READ = 'cd "$SKYLOOM_MOUNTS" && find -L . -type f | sort | while read f; do echo "$f: $(head -c 60 "$f")"; done'


class Plane:
    """Answers for the control plane; remembers what it was asked."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.away: list[int] = []  # statuses of the next answers
        self.broken = 0  # so many good answers break off in the middle
        plane = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                route = unquote(self.path).removeprefix("/v1/projects/p/")
                plane.asked.append(route)
                body, status = plane.contents.get(route, b'{"message": "There is no such thing."}'), 200
                if self.headers["authorization"] != f"Bearer {TOKEN}":
                    body, status = b'{"message": "The token is missing."}', 401
                elif route not in plane.contents:
                    status = 404
                elif plane.away:
                    status = plane.away.pop()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                if plane.broken and status == 200:
                    plane.broken, body = plane.broken - 1, body[: len(body) // 2]
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def model(self, name: str, **files: bytes) -> Mount:
        made = []
        for path, content in files.items():
            digest = "sha256:" + hashlib.sha256(content).hexdigest()
            self.contents[f"blobs/{digest}"] = content
            made.append(MountFile(path=path, digest=digest, route=f"blobs/{digest}"))
        return Mount(name=name, subject="model:m:1", files=tuple(made))

    def dataset(self, name: str, folder: Path) -> Mount:
        file = folder / "source.parquet"
        pq.write_table(pa.table({"x": [1, 2, 3]}), file)
        self.contents["datasets/d/versions/1/rows.parquet"] = file.read_bytes()
        route = "datasets/d/versions/1/rows.parquet"
        rows = MountFile(path="rows.parquet", digest=digest_of(file), route=route, is_rows=True)
        return Mount(name=name, subject="dataset:d:1", files=(rows,))


@pytest.fixture
def plane() -> Iterator[Plane]:
    plane = Plane()
    yield plane
    plane.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(tmp_path / "tasks", warm=False)
    yield engine
    engine.stop(engine.known(), force=True)
    for task_id in engine.known():
        wait(engine, task_id)
    engine.close()


def reading(plane: Plane, task_id: str, *mounts: Mount, script: str = READ, token: str = TOKEN) -> GangPlan:
    told = {"SKYLOOM_URL": plane.url, "SKYLOOM_PROJECT": "p"}
    plan = TaskPlan(
        task_id=task_id, entry=sh(script), environment=told, secret_files={"TOKEN": token}, mounts=mounts, grace_s=5
    )
    return gang(plan)


def test_task_finds_its_mounts_by_name_and_cannot_change_them(engine: LocalEngine, plane: Plane) -> None:
    model = plane.model("old", **{"weights.bin": b"numbers", "sub/labels.json": b"[1]"})
    script = f'{READ}; stat -L -c %a "$SKYLOOM_MOUNTS/old" "$SKYLOOM_MOUNTS/old/weights.bin"'
    engine.launch(reading(plane, "t", model, script=script))
    assert wait(engine, "t").reason is EndReason.COMPLETED
    said = log(engine, "t").decode()
    assert "./old/sub/labels.json: [1]\n./old/weights.bin: numbers\n500\n400\n" in said
    assert "fetching model:m:1" in said


def test_second_task_fetches_nothing_whatever_it_calls_the_folder(engine: LocalEngine, plane: Plane) -> None:
    for number, name in enumerate(("one", "two")):
        engine.launch(reading(plane, f"t{number}", plane.model(name, a=b"bytes")))
        assert wait(engine, f"t{number}").reason is EndReason.COMPLETED
    assert len(plane.asked) == 1
    assert log(engine, "t1") == b"./two/a: bytes\n"


def test_dataset_is_a_parquet_file_whose_rows_are_checked(engine: LocalEngine, plane: Plane, tmp_path: Path) -> None:
    engine.launch(reading(plane, "t", plane.dataset("data", tmp_path)))
    assert wait(engine, "t").reason is EndReason.COMPLETED, log(engine, "t")
    assert b"./data/rows.parquet: PAR1" in log(engine, "t")


def test_rows_that_are_not_the_versions_are_refused(engine: LocalEngine, plane: Plane, tmp_path: Path) -> None:
    mount = plane.dataset("data", tmp_path)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"x": [1, 2, 4]}), other)
    plane.contents[mount.files[0].route] = other.read_bytes()
    engine.launch(reading(plane, "t", mount))
    seen = wait(engine, "t")
    assert seen.reason is EndReason.LAUNCH_FAILED
    assert "dataset:d:1 could not be mounted" in seen.message and "not those of the dataset version" in seen.message


def test_damaged_bytes_are_refused_and_not_kept(engine: LocalEngine, plane: Plane, tmp_path: Path) -> None:
    mount = plane.model("old", a=b"bytes")
    good = plane.contents[mount.files[0].route]
    plane.contents[mount.files[0].route] = b"bites"
    engine.launch(reading(plane, "t1", mount))
    seen = wait(engine, "t1")
    assert seen.reason is EndReason.LAUNCH_FAILED and "not what its digest says" in seen.message
    assert not [path for path in (tmp_path / "tasks-mounts").iterdir() if path.is_dir()]
    plane.contents[mount.files[0].route] = good
    engine.launch(reading(plane, "t2", mount))
    assert wait(engine, "t2").reason is EndReason.COMPLETED


@pytest.mark.parametrize("token", ["wrong", TOKEN])
def test_refusal_of_the_control_plane_ends_the_task_with_its_words(
    engine: LocalEngine, plane: Plane, token: str
) -> None:
    mount = plane.model("old", a=b"bytes")
    if token == TOKEN:
        plane.contents.clear()
    engine.launch(reading(plane, "t", mount, token=token))
    seen = wait(engine, "t")
    assert seen.reason is EndReason.LAUNCH_FAILED
    assert ("no such thing" if token == TOKEN else "token is missing") in seen.message


def test_control_plane_that_is_away_for_a_moment_is_waited_for(engine: LocalEngine, plane: Plane) -> None:
    plane.away = [503, 502]
    engine.launch(reading(plane, "t", plane.model("old", a=b"bytes")))
    assert wait(engine, "t").reason is EndReason.COMPLETED
    assert b"waiting for the control plane" in log(engine, "t")


def test_answer_that_breaks_off_is_asked_for_again(engine: LocalEngine, plane: Plane) -> None:
    plane.broken = 1
    engine.launch(reading(plane, "t", plane.model("old", a=b"bytes" * 100_000)))
    assert wait(engine, "t").reason is EndReason.COMPLETED, log(engine, "t")
    assert len(plane.asked) == 2


def test_disk_that_is_full_ends_the_fetch_at_once(
    plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    told = {"SKYLOOM_URL": plane.url, "SKYLOOM_PROJECT": "p", "SKYLOOM_TOKEN_FILE": str(tmp_path / "token")}
    files = [msgspec.to_builtins(file) for file in plane.model("old", a=b"bytes").files]
    real = open

    def opened(path: str, mode: str = "r") -> Any:
        return real("/dev/full" if mode == "wb" else path, mode)

    monkeypatch.setattr(mounting, "open", opened, raising=False)
    with pytest.raises(mounting.FetchFailed, match="cannot be kept on this machine: No space left"):
        mounting.fetch_all(str(tmp_path / "made"), files, told, "python")
    assert len(plane.asked) == 1


def test_gang_fetches_once(engine: LocalEngine, plane: Plane) -> None:
    mount = plane.model("old", a=b"bytes" * 100_000)
    told = {"SKYLOOM_URL": plane.url, "SKYLOOM_PROJECT": "p"}
    tasks = [
        TaskPlan(
            task_id=f"t{rank}",
            entry=sh("wc -c $SKYLOOM_MOUNTS/old/a"),
            environment=told,
            secret_files={"TOKEN": TOKEN},
            mounts=(mount,),
        )
        for rank in range(3)
    ]
    engine.launch(gang(*tasks))
    assert [wait(engine, task.task_id).reason for task in tasks] == [EndReason.COMPLETED] * 3
    assert len(plane.asked) == 1


def test_mounts_are_no_secret_and_the_plan_holds_no_token(engine: LocalEngine, plane: Plane, tmp_path: Path) -> None:
    engine.launch(reading(plane, "t", plane.model("old", a=b"bytes")))
    wait(engine, "t")
    plan = (tmp_path / "tasks" / "t" / "plan.json").read_text()
    assert TOKEN not in plan and json.loads(plan)["start"]["mounts"]["all"][0]["subject"] == "model:m:1"
