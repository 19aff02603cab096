"""Models that a cloud is given: a good one for each seed, one that fails when it is asked, and one that is slow."""

import hashlib
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from skyloom.inference.reduce import build_profile
from skyloom.rooms.registry.bundle import BundleFile, Datatype, Manifest, ModelKind, Signature, TensorSpec
from skyloom.rooms.registry.model import ModelVersion, RegisterModelVersion
from skyloom.sdk.client import Client
from skyloom.sdk.files import upload_bytes

Array = np.ndarray[Any, Any]
FEATURES, CLASSES = 16, 4
_SIDE = 1_024  # of the matrix that a slow model multiplies by itself: some tens of milliseconds of one core
_SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, FEATURES)),),
    outputs=(TensorSpec(name="scores", datatype=Datatype.FP32, shape=(-1, CLASSES)),),
)


def rows(count: int) -> Array:
    """What is asked: never a row of zeros."""
    return np.random.default_rng(7).normal(size=(count, FEATURES)).round(3).astype(np.float32)


def good(seed: int) -> onnx.ModelProto:
    """Answers that differ from those of every other seed."""
    return _model([helper.make_node("MatMul", ["x", "w"], ["scores"])], {"w": _weights(seed)})


def erring() -> onnx.ModelProto:
    """Answers rows of zeros, with which it is warmed up; any other makes it look where nothing is."""
    return _model(
        [
            helper.make_node("Abs", ["x"], ["size"]),
            helper.make_node("Ceil", ["size"], ["whole"]),
            helper.make_node("Cast", ["whole"], ["where"], to=TensorProto.INT64),
            helper.make_node("Mul", ["where", "far"], ["place"]),
            helper.make_node("Gather", ["table", "place"], ["found"], axis=0),
            helper.make_node("Gather", ["found", "first"], ["scores"], axis=1),
        ],
        {
            "table": np.zeros(2, dtype=np.float32),
            "far": np.array([1_000], dtype=np.int64),
            "first": np.arange(CLASSES),
        },
    )


def slow(seed: int) -> onnx.ModelProto:
    """Answers as `good` does, after a product of two large matrices that nothing needs."""
    return _model(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
            helper.make_node("Expand", ["mean", "shape"], ["large"]),
            helper.make_node("MatMul", ["large", "large"], ["larger"]),
            helper.make_node("ReduceMean", ["larger"], ["one"], keepdims=0),
            helper.make_node("Mul", ["one", "nothing"], ["added"]),
            helper.make_node("MatMul", ["x", "w"], ["made"]),
            helper.make_node("Add", ["made", "added"], ["scores"]),
        ],
        {
            "shape": np.array([_SIDE, _SIDE], dtype=np.int64),
            "nothing": np.array(0, dtype=np.float32),
            "w": _weights(seed),
        },
    )


def register(client: Client, name: str, model: onnx.ModelProto | None) -> ModelVersion:
    """Register one more version of a model; None for one whose replicas end at their start, because it is no model at all."""
    content = b"no model" if model is None else model.SerializeToString()
    sample = rows(200)
    scores = truths(good(0), sample)
    profile = build_profile({"x": sample}, {"scores": scores}, ModelKind.CLASSIFICATION)
    files = {"model.onnx": content, "profile.json": msgspec.json.encode(profile)}
    for each in files.values():
        upload_bytes(client.transport, each)
    listed = tuple(
        BundleFile(path=path, digest=f"sha256:{hashlib.sha256(each).hexdigest()}", size_bytes=len(each))
        for path, each in files.items()
    )
    manifest = Manifest(kind=ModelKind.CLASSIFICATION, signature=_SIGNATURE, files=listed)
    return client.transport.send(RegisterModelVersion(model=name, manifest=manifest))


def truths(model: onnx.ModelProto, asked: Array) -> Array:
    """The model's own answers, one row for each."""
    made = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": asked})[0]
    return np.asarray(made)


def _weights(seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=(FEATURES, CLASSES)).astype(np.float32)


def _model(nodes: list[Any], constants: dict[str, Array]) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "chaos",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
