"""Triton's own clients, unmodified. They pin protobuf 6, so they live in an environment of their own, made once and kept in `.cache`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec
from tests.inference.serving import TOKEN, graph, running, write_bundle

_SCRIPT = Path(__file__).with_name("triton_client.py")
_CACHE = Path(__file__).parents[3] / ".cache" / "tritonclient"
_PACKAGE = "tritonclient[http,grpc]==2.73.0"

# One group: two workers would make the environment in the same folder at the same time.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tritonclient")]


@pytest.fixture(scope="module")
def interpreter() -> Path:
    python = _CACHE / "bin" / "python"
    marker = _CACHE / _PACKAGE.replace("/", "_")
    if marker.exists():
        return python
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    links = [part for folder in os.environ.get("PIP_FIND_LINKS", "").split() for part in ("--find-links", folder)]
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(_CACHE)],
        [uv, "pip", "install", "--quiet", "--python", str(python), *links, _PACKAGE],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
        if done.returncode:
            pytest.skip(f"TRITON'S CLIENT CANNOT BE INSTALLED and is not tried: {done.stderr[-500:]}")
    marker.touch()
    return python


KINDS = (
    ("x", "doubled", Datatype.FP32, 4),
    ("text", "same_text", Datatype.BYTES, 2),
    ("half", "same_half", Datatype.FP16, 2),
)
ONNX = {Datatype.FP32: TensorProto.FLOAT, Datatype.BYTES: TensorProto.STRING, Datatype.FP16: TensorProto.FLOAT16}


@pytest.fixture(scope="module")
def told(interpreter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton")
    model = graph(
        [
            helper.make_node("Add", ["x", "x"], ["doubled"]),
            helper.make_node("Identity", ["text"], ["same_text"]),
            helper.make_node("Identity", ["half"], ["same_half"]),
        ],
        [helper.make_tensor_value_info(name, ONNX[kind], ["batch", size]) for name, _, kind, size in KINDS],
        [helper.make_tensor_value_info(name, ONNX[kind], ["batch", size]) for _, name, kind, size in KINDS],
    )
    signature = Signature(
        inputs=tuple(TensorSpec(name=name, datatype=kind, shape=(-1, size)) for name, _, kind, size in KINDS),
        outputs=tuple(TensorSpec(name=name, datatype=kind, shape=(-1, size)) for _, name, kind, size in KINDS),
    )
    write_bundle(folder / "bundle", model, signature)
    with running(folder) as (_, _, listening):
        done = subprocess.run(
            [str(interpreter), str(_SCRIPT), str(listening.rest_port), str(listening.grpc_port), TOKEN],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("wire", ["http", "grpc"])
def test_tritonclient_is_told_what_the_server_is(told, wire):
    said = told[wire]
    assert (said["live"], said["ready"], said["model_ready"]) == (True, True, True)
    assert said["server"]["name"] == "skyloom"
    assert "statistics" in said["server"]["extensions"]
    assert [one["datatype"] for one in said["metadata"]["inputs"]] == ["FP32", "BYTES", "FP16"]
    assert [int(size) for size in said["metadata"]["outputs"][1]["shape"]] == [-1, 2]
    assert [one["data_type"] for one in said["config"]["input"]] == ["TYPE_FP32", "TYPE_STRING", "TYPE_FP16"]
    assert [(one["name"], one["version"], one["state"]) for one in said["index"]] == [("toy", "1", "READY")]
    assert "log_error" in said["log"]
    assert said["trace_level"] == ["OFF"]


@pytest.mark.parametrize("wire", ["http", "grpc"])
def test_tritonclient_is_answered_rightly_in_every_form(told, wire):
    said = told[wire]
    assert said["binary"]
    assert said["async"]
    assert said["packed"] == [True, True]
    if wire == "http":
        assert said["json"]
        assert said["json_text"][1] == ["", "日本" * 30]


@pytest.mark.parametrize("wire", ["http", "grpc"])
def test_tritonclient_is_refused_in_words(told, wire):
    said = told[wire]
    assert "No model 'other'" in said["other"]
    assert "skyloom endpoint stop" in said["unload"]
    assert "cannot be named" in said["memory"]
    assert "trace_level" in said["trace"]
    assert "token" in said["stranger"]
    assert "'x'" in told["http"]["wrong"]


@pytest.mark.parametrize("wire", ["http", "grpc"])
def test_tritonclient_reads_the_statistics(told, wire):
    said = told[wire]["statistics"]
    assert int(said["inference_count"]) > 8_000
    assert int(said["inference_stats"]["success"]["count"]) >= 23
    assert int(said["inference_stats"]["compute_infer"]["ns"]) > 0


def test_tritonclient_streams_in_order_and_reads_errors(told):
    said = told["grpc"]["stream"]
    assert said["ids"] == [*(str(number) for number in range(50)), "last"]
    assert said["right"]
    assert "No model 'other'" in said["error"]
    assert said["final"]
