"""The same request on every wire, and the numbers of its answer."""

import enum
import json
import struct
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skyloom.inference.wire import open_inference_pb2 as pb2

Inputs = Mapping[str, NDArray[np.generic]]
_TYPES = {"float32": "FP32", "int64": "INT64"}


class Wire(enum.StrEnum):
    """How a request travels."""

    JSON = "json"  # the Open Inference Protocol over REST, numbers as text
    BINARY = "binary"  # the same with its binary tensor extension, both ways
    GRPC = "grpc"  # its gRPC form, tensors as bytes


class Message(NamedTuple):
    """A request's body and the headers that belong to it."""

    body: bytes
    headers: Mapping[str, str]


def message(wire: Wire, model: str, inputs: Inputs) -> Message:
    """A request for some named tensors."""
    if wire is Wire.GRPC:
        asked = pb2.ModelInferRequest(model_name=model, raw_input_contents=[rows.tobytes() for rows in inputs.values()])
        for name, rows in inputs.items():
            asked.inputs.add(name=name, datatype=_TYPES[rows.dtype.name], shape=rows.shape)
        content = asked.SerializeToString()
        return Message(
            struct.pack(">BI", 0, len(content)) + content, {"content-type": "application/grpc", "te": "trailers"}
        )
    described = [
        {"name": name, "shape": rows.shape, "datatype": _TYPES[rows.dtype.name]} for name, rows in inputs.items()
    ]
    if wire is Wire.JSON:
        filled = [
            {**tensor, "data": [round(number, 3) for number in rows.ravel().tolist()]}
            for tensor, rows in zip(described, inputs.values(), strict=True)
        ]
        return Message(json.dumps({"inputs": filled}).encode(), {"content-type": "application/json"})
    sized = [
        {**tensor, "parameters": {"binary_data_size": rows.nbytes}}
        for tensor, rows in zip(described, inputs.values(), strict=True)
    ]
    head = json.dumps({"inputs": sized, "parameters": {"binary_data_output": True}}).encode()
    length = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    return Message(head + b"".join(rows.tobytes() for rows in inputs.values()), length)


def scoring_message(inputs: Inputs) -> Message:
    """The one input as MLflow's scoring protocol has it."""
    (rows,) = inputs.values()
    return Message(json.dumps({"inputs": rows.round(3).tolist()}).encode(), {"content-type": "application/json"})


def numbers(content: bytes, headers: Mapping[str, str]) -> list[float]:
    """The first output of a REST answer."""
    length = headers.get("inference-header-content-length")
    if length is not None:
        return np.frombuffer(content[int(length) :], np.float32).tolist()
    answer = json.loads(content)
    if "predictions" in answer:
        return [number for row in answer["predictions"] for number in row]
    found: list[float] = answer["outputs"][0]["data"]
    return found


def numbers_of_grpc(answer: pb2.ModelInferResponse) -> list[float]:
    """The first output of a gRPC answer."""
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[0], np.float32).tolist()
    return list(answer.outputs[0].contents.fp32_contents)
