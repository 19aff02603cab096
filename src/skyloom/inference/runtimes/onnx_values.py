"""Tensors in and out of ONNX Runtime: what it calls their types, and BF16, which its Python takes and gives only by address."""

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime

from skyloom.inference.elements import Array
from skyloom.inference.runtimes.seam import refused
from skyloom.rooms.registry.bundle import Datatype, Signature

ONNX_TYPES = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(bfloat16)": Datatype.BF16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
    "tensor(string)": Datatype.BYTES,
}
_BFLOAT16 = 16  # TensorProto.BFLOAT16
Run = Callable[[Sequence[Array]], list[Array]]


def runner(session: Any, signature: Signature) -> Run:
    """What runs a session: all outputs of a signature for all of its inputs, in its order. Raises `BundleRefused`."""
    names = [spec.name for spec in signature.inputs]
    wanted = [spec.name for spec in signature.outputs]
    brief = [spec.datatype is Datatype.BF16 for spec in signature.inputs]
    run = session.run
    if not any(spec.datatype is Datatype.BF16 for spec in signature.outputs):
        if not any(brief):
            return lambda inputs: run(wanted, dict(zip(names, inputs, strict=True)))
        return lambda inputs: run(
            wanted,
            {name: _bits(one) if is_bits else one for name, one, is_bits in zip(names, inputs, brief, strict=True)},
        )
    if any(spec.datatype is Datatype.BYTES for spec in signature.inputs):
        raise refused(
            "it takes strings and gives BF16, which ONNX Runtime's Python cannot do at once",
            "Export it with FP32 outputs.",
        )

    def by_address(inputs: Sequence[Array]) -> list[Array]:
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        given = {
            name: _bits(one) if is_bits else value(np.ascontiguousarray(one))
            for name, one, is_bits in zip(names, inputs, brief, strict=True)
        }
        return [_array(made) for made in session.run_with_ort_values(wanted, given)]

    return by_address


def _bits(tensor: Array) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(tensor), _BFLOAT16)


def _array(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        made: Array = value.numpy()
        return made
    shape = value.shape()
    size_bytes = 2 * math.prod(shape)
    content = ctypes.string_at(value.data_ptr(), size_bytes) if size_bytes else b""
    return np.frombuffer(content, np.dtype("<u2")).reshape(shape)
