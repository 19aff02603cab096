"""The models that all servers are given, as ONNX files: small enough to show the server, or large enough to hide it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
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


def write(folder: Path) -> dict[str, Path]:
    """Write all of them; returns where, by name."""
    paths = {}
    for name, made in (("small", small()), ("convolution", convolution())):
        paths[name] = folder / f"{name}.onnx"
        paths[name].write_bytes(made.SerializeToString())
    return paths


def _model(nodes: list[Any], shape: list[Any], constants: dict[str, Any]) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
