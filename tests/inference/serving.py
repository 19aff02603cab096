"""A model bundle without torch, and a replica as a real process."""

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import msgspec
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import skyloom
from skyloom.inference.reduce import build_profile
from skyloom.rooms.monitoring.model import Profile
from skyloom.rooms.registry.bundle import BundleFile, Datatype, Manifest, ModelKind, Signature, TensorSpec
from skyloom.rooms.serving.plan import Access, Limits, Listening, ServePlan
from skyloom.rooms.serving.predictions import Prediction, locate, log_name, read_line, starts_of

TOKEN = "test-token"
HEADERS = {"authorization": f"Bearer {TOKEN}"}
FEATURES, CLASSES = 4, 3
INFER = "/v2/models/toy/infer"


def find_prediction(logs: Path, prediction_id: str) -> Prediction:
    """Find one prediction in the request logs of a folder, as a reader without any index does."""
    replica, offset = locate(prediction_id)
    starts = [start for start in starts_of(replica, [path.name for path in logs.iterdir()]) if start <= offset]
    content = (logs / log_name(replica, starts[-1])).read_bytes()[offset - starts[-1] :] if starts else b""
    return read_line(prediction_id, content)


def toy_model(seed: int = 0) -> onnx.ModelProto:
    """``scores = x · W + b`` with x [batch, 4] and scores [batch, 3]."""
    random = np.random.default_rng(seed)
    weight = numpy_helper.from_array(random.normal(size=(FEATURES, CLASSES)).astype(np.float32), "W")
    bias = numpy_helper.from_array(random.normal(size=CLASSES).astype(np.float32), "b")
    return graph(
        [helper.make_node("Gemm", ["x", "W", "b"], ["scores"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [weight, bias],
    )


def graph(nodes, inputs, outputs, constants=()) -> onnx.ModelProto:
    made = helper.make_graph(nodes, "toy", inputs, outputs, list(constants))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


TOY_SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, FEATURES)),),
    outputs=(TensorSpec(name="scores", datatype=Datatype.FP32, shape=(-1, CLASSES)),),
)


def toy_rows(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32)


def oracle(folder: Path, rows: np.ndarray) -> np.ndarray:
    """What ONNX Runtime itself says."""
    return onnxruntime.InferenceSession(str(folder / "model.onnx")).run(None, {"x": rows})[0]


def write_bundle(
    folder: Path,
    model: onnx.ModelProto | None = None,
    signature: Signature = TOY_SIGNATURE,
    profile: Profile | None = None,
    files: Mapping[str, bytes] | None = None,
    **described,
) -> Path:
    """Write a bundle; the toy one by default, with its profile. ``described`` changes its manifest."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes((model or toy_model()).SerializeToString())
    if model is None and profile is None:
        rows = toy_rows(500)
        profile = build_profile({"x": rows}, {"scores": oracle(folder, rows)}, ModelKind.CLASSIFICATION)
    (folder / "profile.json").write_bytes(msgspec.json.encode(profile or Profile()))
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
    listed = tuple(_listed(folder / name) for name in ("model.onnx", "profile.json", *(files or {})))
    manifest = Manifest(signature=signature, files=listed, **{"kind": ModelKind.CLASSIFICATION, **described})
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return folder


def _listed(path: Path) -> BundleFile:
    content = path.read_bytes()
    return BundleFile(path=path.name, digest="sha256:" + hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def write_access(path: Path, *tokens: str) -> None:
    digests = tuple("sha256:" + hashlib.sha256(token.encode()).hexdigest() for token in tokens)
    draft = path.with_suffix(".new")
    draft.write_bytes(msgspec.json.encode(Access(digests=digests)))
    draft.replace(path)


def make_plan(folder: Path, replica: str = "rep_1", **changes) -> Path:
    """Write a plan for the bundle in ``folder/bundle``; returns its path."""
    plan = ServePlan(
        project="default",
        endpoint="ep_1",
        revision="rev_1",
        replica=replica,
        model="toy",
        model_version="1",
        bundle="bundle",
        access_file="access.json",
        log_folder="requests",
        port_folder="ports",
        ready_file=f"{replica}.ready",
    )
    path = folder / f"{replica}.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(plan, **changes)))
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class PlannedProcess:
    """A process that was started with a plan: waited for, read, ended."""

    process: "subprocess.Popen[bytes]"
    output: Path
    _ready: Path

    def wait_ready(self, timeout_s: float = 90) -> Listening:
        deadline = time.monotonic() + timeout_s
        while not self._ready.exists():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.01)
        return msgspec.json.decode(self._ready.read_bytes(), type=Listening)

    def text(self) -> str:
        return self.output.read_text()

    def terminate(self, timeout_s: float = 60) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class ReplicaProcess(PlannedProcess):
    """A replica that was started, and where it listens."""

    def __init__(self, plan: Path, environment: dict[str, str] | None = None, interpreter: str | None = None) -> None:
        source = str(Path(skyloom.__file__).parents[1])
        self.folder = plan.parent
        self.output = plan.with_suffix(".out")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "skyloom.inference", str(plan), *([interpreter] if interpreter else [])],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": source, **(environment or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._ready = plan.with_suffix(".ready")


@contextlib.contextmanager
def running(
    folder: Path,
    replica: str = "rep_1",
    *,
    interpreter: str | None = None,
    ready_s: float = 90,
    **changes,
) -> Iterator[tuple[ReplicaProcess, httpx.Client, Listening]]:
    """A replica of the bundle in ``folder/bundle``, with a client that shows the token. ``interpreter``: of a service's own environment."""
    if not (folder / "bundle").exists():
        write_bundle(folder / "bundle")
    if not (folder / "access.json").exists():
        write_access(folder / "access.json", TOKEN)
    process = ReplicaProcess(make_plan(folder, replica, **changes), interpreter=interpreter)
    try:
        listening = process.wait_ready(ready_s)
        base = f"http://127.0.0.1:{listening.rest_port}"
        with httpx.Client(base_url=base, headers=HEADERS, timeout=20, trust_env=False, verify=False) as client:
            yield process, client, listening
    finally:
        process.end()


def body(rows: np.ndarray, **more) -> dict:
    tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
    return {"inputs": [tensor], **more}


def small_limits(**changes) -> Limits:
    return msgspec.structs.replace(Limits(), **changes)
