"""The Open Inference Protocol's protobuf messages ↔ calls and their answers. Knows no connection."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from skyloom.core.errors import InternalError
from skyloom.inference.batcher import Ticket
from skyloom.inference.codec import unreadable
from skyloom.inference.dataplane import DataPlane, ModelMetadata
from skyloom.inference.elements import raw_bytes
from skyloom.inference.tensors import DTYPES, Array, Call, Contract, check_wishes, refuse
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.rooms.registry.bundle import Datatype, TensorSpec

_CONTENTS = {
    Datatype.BOOL: "bool_contents",
    Datatype.INT8: "int_contents",
    Datatype.INT16: "int_contents",
    Datatype.INT32: "int_contents",
    Datatype.INT64: "int64_contents",
    Datatype.UINT8: "uint_contents",
    Datatype.UINT16: "uint_contents",
    Datatype.UINT32: "uint_contents",
    Datatype.UINT64: "uint64_contents",
    Datatype.FP32: "fp32_contents",
    Datatype.FP64: "fp64_contents",
    Datatype.BYTES: "bytes_contents",
}
_MAX_IDS = 200


def call_of(request: Any, contract: Contract) -> Call:
    """What a ``ModelInferRequest`` asks for. Raises `RequestUnreadable`, `TensorRefused`."""
    raw = request.raw_input_contents
    if len(request.id) > _MAX_IDS:
        raise unreadable("The request's id is too long.", f"Send at most {_MAX_IDS} characters.")
    if raw and len(raw) != len(request.inputs):
        raise unreadable("raw_input_contents does not have one entry per input.", "Send one per input, or none.")
    tensors: dict[str, Array] = {}
    for index, wire in enumerate(request.inputs):
        shape = list(wire.shape)
        spec = contract.expect(wire.name, wire.datatype, shape)
        if wire.name in tensors or (raw and wire.HasField("contents")):
            raise refuse(f"Input {wire.name!r} comes twice.", "Send each input once, as contents or raw.")
        if raw:
            tensors[wire.name] = contract.from_buffer(spec, shape, raw[index])
        else:
            tensors[wire.name] = _typed(spec, shape, wire.contents, contract)
    for output in request.outputs:
        if output.parameters:
            check_wishes(output.name, output.parameters)
    return contract.call(tensors, [output.name for output in request.outputs], request.id)


def answer_of(ticket: Ticket, plane: DataPlane) -> Any:
    """The ``ModelInferResponse`` to a request whose rows went through the model.

    Of the request only its call is left: its message would hold all of its tensors once more while it waits.
    """
    plan = plane.plan
    outputs = ticket.outputs
    if outputs is None:
        raise InternalError("The answer is gone.", next_action="Send the request again.")
    answer = pb.ModelInferResponse(
        model_name=plan.model, model_version=plan.model_version, id=ticket.call.client_id or ticket.prediction_id
    )
    answer.parameters["skyloom-prediction-id"].string_param = ticket.prediction_id
    for position in ticket.call.outputs:
        spec, tensor = plane.contract.signature.outputs[position], outputs[position]
        answer.outputs.add(name=spec.name, datatype=spec.datatype.value, shape=tensor.shape)
        answer.raw_output_contents.append(raw_bytes(spec.datatype, tensor))
    return answer


def described(model: ModelMetadata) -> Any:
    """A model's metadata as ``ModelMetadataResponse``."""
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=model.versions,
        platform=model.platform,
        inputs=[_tensor(tensor) for tensor in model.inputs],
        outputs=[_tensor(tensor) for tensor in model.outputs],
    )


def _tensor(tensor: Any) -> Any:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype.value, shape=tensor.shape)


def _typed(spec: TensorSpec, shape: Sequence[int], contents: Any, contract: Contract) -> Array:
    field = _CONTENTS.get(spec.datatype)
    if field is None:
        raise refuse(
            f"Input {spec.name!r}: {spec.datatype.value} has no typed contents.", "Send it in raw_input_contents."
        )
    others = [other.name for other, _ in contents.ListFields() if other.name != field]
    if others:
        raise refuse(f"Input {spec.name!r} has {others[0]}; {spec.datatype.value} is in {field}.", "Send that alone.")
    values = getattr(contents, field)
    if spec.datatype is Datatype.BYTES:
        return contract.from_strings(spec, shape, list(values))
    if DTYPES[spec.datatype].kind == "f":  # as bytes, because NaN and infinities are welcome on this wire
        return contract.from_buffer(spec, shape, np.array(values, DTYPES[spec.datatype]).tobytes())
    return contract.from_numbers(spec, shape, list(values))
