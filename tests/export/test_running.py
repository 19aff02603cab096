"""An exported folder serves by itself: its own code, no control plane, tokens made beside it."""

import asyncio
import base64
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

from skyloom.core import digests
from skyloom.export.model import Target
from skyloom.export.writing import write
from skyloom.inference.direct import open_site
from skyloom.inference.function_url import handler_of
from skyloom.inference.server import PlanRefused, read_plan, serve
from skyloom.inference.tokens import add_token
from skyloom.rooms.serving.plan import Listening, ServePlan
from skyloom.settings import TaskEnvironment
from tests.export.kit import toy, written
from tests.inference.services.workplace import write_service
from tests.inference.serving import oracle, toy_rows, write_bundle


def body(rows: np.ndarray) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": rows.shape, "data": rows.ravel().tolist()}
    return msgspec.json.encode({"inputs": [tensor]})


@pytest.mark.slow
def test_exported_folder_serves_in_a_process_that_knows_nothing_else(tmp_path: Path) -> None:
    _, out = written(Target.DOCKER, tmp_path)
    alone = fenced(out, tmp_path)
    unpinned = subprocess.run(
        [sys.executable, "-c", "import pyarrow"], cwd=out, env=alone, capture_output=True, check=False
    )
    assert b"not among the pinned" in unpinned.stderr
    token = subprocess.run(
        [sys.executable, "-m", "skyloom.inference.tokens", "access/access.json"],
        cwd=out, env=alone, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    settle(out)
    with server_of(out, alone) as client:
        rows = toy_rows(3)
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json", "host": "models.example"}
        said = client.post("/v2/models/toy/infer", content=body(rows), headers=headers)
        assert said.status_code == 200, said.text
        expected = oracle(tmp_path / "source", rows)
        assert np.allclose(said.json()["outputs"][0]["data"], expected.ravel(), atol=1e-6)
        refused = {**headers, "authorization": "Bearer wrong"}
        assert client.post("/v2/models/toy/infer", content=body(rows), headers=refused).status_code == 401
        assert client.get("/v2/health/ready").status_code == 200
    loaded = subprocess.run(
        [sys.executable, "-c", "import skyloom; print(skyloom.__file__)"],
        cwd=out, env=alone, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert loaded.stdout.startswith(str(out))


ONLY_PINNED = """
import importlib.metadata, re, sys
from pathlib import Path

plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
pinned = {line.partition("==")[0] for line in Path(REQUIREMENTS).read_text().split()}
owners = importlib.metadata.packages_distributions()

class Fence:
    def find_spec(self, name, path=None, target=None):
        own = {plain(owner) for owner in owners.get(name, ())}
        if "." not in name and own and not own & pinned and name != "skyloom":
            raise ModuleNotFoundError(f"{name} is not among the pinned packages", name=name)

sys.meta_path.insert(0, Fence())
"""


def fenced(out: Path, tmp_path: Path) -> dict[str, str]:
    """Variables of a process that has the exported folder, and of this machine's packages the pinned ones only."""
    fence = tmp_path / "fence"
    fence.mkdir()
    (fence / "sitecustomize.py").write_text(ONLY_PINNED.replace("REQUIREMENTS", repr(str(out / "requirements.txt"))))
    return {"PATH": os.environ["PATH"], "PYTHONPATH": f"{out}:{fence}", "HOME": str(tmp_path)}


def settle(out: Path) -> None:
    """Let a plan listen on loopback, where tests may."""
    plan = msgspec.json.decode((out / "plan.json").read_bytes(), type=ServePlan)
    assert plan.host == "0.0.0.0"
    local = msgspec.structs.replace(plan, host="127.0.0.1", rest_port=0, grpc_port=0, ready_file="ready.json")
    (out / "plan.json").write_bytes(msgspec.json.encode(local))


@contextlib.contextmanager
def server_of(out: Path, alone: dict[str, str]) -> Iterator[httpx.Client]:
    """The exported server in a process of its own; it has to end well."""
    process = subprocess.Popen([sys.executable, "-m", "skyloom.inference", "plan.json"], cwd=out, env=alone)
    try:
        deadline = time.monotonic() + 30
        while not (out / "ready.json").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        port = msgspec.json.decode((out / "ready.json").read_bytes(), type=Listening).rest_port
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False) as client:
            yield client
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_exported_service_of_own_python_answers_too(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    write_service(bundle)
    files = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    digests_of = {name: digests.of_bytes(path.read_bytes()) for name, path in files.items()}
    exported = msgspec.structs.replace(
        toy(write_bundle(tmp_path / "toy")),
        files=digests_of,
        manifest=digests_of["manifest.json"],
        methods=("greet",),
        packages="six",
    )
    by_digest = {digests_of[name]: path for name, path in files.items()}
    out = tmp_path / "out"
    write(exported, Target.DOCKER, out, lambda digest: [by_digest[digest].read_bytes()])
    assert "six" in (out / "requirements-service.txt").read_text().split()
    assert (
        "requirements-service.txt" in (out / "Dockerfile").read_text() and "/greet" in (out / "README.md").read_text()
    )
    settle(out)
    token = add_token(out / "access" / "access.json")
    with server_of(out, {"PATH": os.environ["PATH"], "PYTHONPATH": str(out), "HOME": str(tmp_path)}) as client:
        said = client.post("/greet", json={"name": "Ada"}, headers={"authorization": f"Bearer {token}"})
        assert (said.status_code, said.json()) == (200, "hello Ada")


def event(path: str, content: bytes = b"", method: str = "POST", token: str = "", as_base64: bool = False) -> dict:
    headers = {"host": "x.lambda-url.example", "content-type": "application/json", "authorization": f"Bearer {token}"}
    told = base64.b64encode(content).decode() if as_base64 else content.decode()
    http = {"requestContext": {"http": {"method": method}}}
    return {"rawPath": path, "headers": headers, "body": told, "isBase64Encoded": as_base64, **http}


def test_function_answers_what_its_url_is_asked(tmp_path: Path) -> None:
    _, out = written(Target.LAMBDA, tmp_path)
    token = add_token(out / "access" / "access.json")
    spec = importlib.util.spec_from_file_location("exported_handler", out / "handler.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handler, rows = module.handler, toy_rows(2)
    for as_base64 in (False, True):
        said = handler(event("/v2/models/toy/infer", body(rows), token=token, as_base64=as_base64), None)
        assert said["statusCode"] == 200 and said["headers"]["content-type"] == "application/json", said
        answer = msgspec.json.decode(said["body"])
        assert np.allclose(answer["outputs"][0]["data"], oracle(tmp_path / "source", rows).ravel(), atol=1e-6)
        assert answer["model_version"] == "7"
    assert handler(event("/v2/models/toy/infer", body(rows)), None)["statusCode"] == 401
    assert handler(event("/v2/models/toy/infer", b"{}", token=token), None)["statusCode"] == 400
    assert handler(event("/v2/health/ready", method="GET"), None)["statusCode"] == 200
    assert handler(event("/nowhere", method="GET", token=token), None)["statusCode"] == 404
    broken = {**event("/v2/models/toy/infer", token=token), "body": "?", "isBase64Encoded": True}
    assert handler(broken, None)["statusCode"] == 400
    assert handler({"headers": None, "requestContext": None, "body": None}, None)["statusCode"] < 500


def test_handler_of_a_damaged_bundle_never_starts(tmp_path: Path) -> None:
    from skyloom.inference.model import BundleRefused

    _, out = written(Target.LAMBDA, tmp_path)
    (out / "bundle" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(BundleRefused):
        handler_of(out / "plan.json")


def test_site_without_a_socket_bounds_bodies_and_takes_new_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out = written(Target.RAY, tmp_path)
    monkeypatch.setattr("skyloom.inference.direct._REFRESH_S", 0.0)

    async def scenario() -> list[int]:
        site = await open_site(out / "plan.json")
        headers = {"Host": "h", "Content-Type": "application/json"}
        statuses = []
        try:
            said = await site.answer("POST", "/v2/models/toy/infer", headers, body(toy_rows(1)))
            statuses.append(said.status)
            headers["Authorization"] = f"Bearer {add_token(out / 'access' / 'access.json')}"
            for content in (body(toy_rows(1)), b"x" * (16 * 2**20 + 1)):
                statuses.append((await site.answer("POST", "/v2/models/toy/infer?a=1", headers, content)).status)
            many = [site.answer("POST", "/v2/models/toy/infer", headers, body(toy_rows(2, seed))) for seed in range(20)]
            statuses += sorted({said.status for said in await asyncio.gather(*many)})
        finally:
            site.close()
        return statuses

    assert asyncio.run(scenario()) == [401, 200, 413, 200]


def test_app_for_ray_is_a_deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.serve", reason="needs Ray Serve (pip install 'ray[serve]')")
    _, out = written(Target.RAY, tmp_path)
    spec = importlib.util.spec_from_file_location("exported_serve_app", out / "serve_app.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.Model.name == "toy-v1" and module.app is not None


def test_replica_of_a_control_plane_may_not_say_that_it_is_exported(tmp_path: Path) -> None:
    _, out = written(Target.DOCKER, tmp_path)
    inside = TaskEnvironment.read({"SKYLOOM_JOB_ID": "job_1"})
    with pytest.raises(PlanRefused, match="job of a control plane"):
        asyncio.run(serve(read_plan(out / "plan.json"), out, inside))
