"""Open Inference Protocol v2 in JSON, with its binary tensor extension: bytes ↔ tensors.

The extension puts tensors behind the JSON, one after the other, and says in ``Inference-Header-Content-Length`` where they start.
Bounds come first: a shape is believed only when the bytes that are there agree with it.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from skyloom.core.errors import InvalidInput
from skyloom.inference.elements import as_numbers, from_base64, json_strings, raw_bytes
from skyloom.inference.tensors import FLOATS, Array, Call, Contract, check_wishes, refuse
from skyloom.rooms.registry.bundle import Datatype, TensorSpec

Parameters = dict[str, Any]
BASE64 = "base64"  # as `content_type` of a BYTES tensor, which is how MLServer words it
_NOTHING: frozenset[int] = frozenset()


class RequestUnreadable(InvalidInput):
    """The body is not an inference request."""


class WireInput(msgspec.Struct, kw_only=True):
    """A tensor of a request, not yet believed."""

    name: Annotated[str, Meta(max_length=200)]
    shape: Annotated[list[int], Meta(max_length=8)]
    datatype: Annotated[str, Meta(max_length=20)]
    parameters: Parameters = {}
    data: msgspec.Raw = msgspec.Raw(b"")


class WireOutput(msgspec.Struct, kw_only=True):
    """An output that the client asks for."""

    name: Annotated[str, Meta(max_length=200)]
    parameters: Parameters = {}


class WireRequest(msgspec.Struct, kw_only=True):
    """The JSON part of a request."""

    inputs: Annotated[list[WireInput], Meta(min_length=1, max_length=64)]
    id: Annotated[str, Meta(max_length=200)] = ""
    parameters: Parameters = {}
    outputs: Annotated[list[WireOutput], Meta(max_length=64)] = []


class JsonTensor(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A tensor of an answer."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    parameters: Parameters = {}
    data: msgspec.Raw = msgspec.Raw(b"")


class JsonAnswer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The JSON part of an answer."""

    model_name: str
    model_version: str
    id: str
    parameters: Parameters
    outputs: msgspec.Raw


_MAX_TIMEOUT_US = 2**63 - 1
_NESTED = re.compile(rb"\[\s*\[")
_requests = msgspec.json.Decoder(WireRequest)
_encoder = msgspec.json.Encoder()


def _nested(element: type, depth: int) -> Any:
    kind: Any = element
    for _ in range(depth):
        kind = list[kind]
    return kind


# One decoder per kind of element and depth: it refuses ragged depths, other kinds and nulls by itself.
_elements = {
    kind: [msgspec.json.Decoder(_nested(kind, depth)) for depth in range(1, 9)] for kind in (float, int, bool, str)
}


class Asked(NamedTuple):
    """A request that was read.

    Attributes:
        binary: outputs that the client wants as bytes, by their position in the signature.
        timeout_s: how long it waits, if it says so.
        priority: 1 is first, 2 as ever, 3 can wait; 0 says nothing.
    """

    call: Call
    binary: frozenset[int]
    timeout_s: float | None
    priority: int = 0


def decode(body: bytes | memoryview, json_length: int | None, contract: Contract) -> Asked:
    """Read a request.

    ``json_length`` is the value of ``Inference-Header-Content-Length``. Raises `RequestUnreadable` and `TensorRefused`.
    """
    if json_length is not None and json_length > len(body):
        raise unreadable("Inference-Header-Content-Length is larger than the body.", "Send the JSON's length in bytes.")
    head, tail = (body, b"") if json_length is None else (body[:json_length], _tail(body, json_length))
    try:
        request = _requests.decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(
            f"The body is not an inference request: {error}.", "See POST /v2/models/MODEL/infer."
        ) from None
    tensors = _inputs(request.inputs, tail, contract)
    call = contract.call(tensors, [output.name for output in request.outputs], request.id)
    if not request.parameters and not request.outputs:
        return Asked(call, _NOTHING, None)
    told = request.parameters
    return Asked(call, _binary(request, call), timeout_of(told), priority_of(told))


def _tail(body: bytes | memoryview, start: int) -> bytes | memoryview:
    """The tensors behind the JSON, where they are; but few of them must not keep all of a body alive while they wait."""
    return memoryview(body)[start:] if 2 * start <= len(body) else bytes(body[start:])


def timeout_of(parameters: Mapping[str, Any]) -> float | None:
    """The parameter ``timeout``, which the protocol's scheduling extension counts in microseconds. Raises `RequestUnreadable`."""
    given = parameters.get("timeout")
    if given is None or given == 0:
        return None
    if type(given) is not int or not 0 <= given <= _MAX_TIMEOUT_US:
        raise unreadable("The parameter 'timeout' is no number of microseconds.", "Send a whole number below 2^63.")
    return given / 1e6


def priority_of(parameters: Mapping[str, Any]) -> int:
    """The parameter ``priority`` of the protocol's scheduling extension; 0 for none. Raises `RequestUnreadable`."""
    given = parameters.get("priority", 0)
    if type(given) is not int or not 0 <= given < 2**64:
        raise unreadable("The parameter 'priority' is no whole number.", "1 is first, 0 as ever.")
    return given


def encode_outputs(specs: Sequence[TensorSpec], tensors: Sequence[Array]) -> bytes:
    """Write outputs as the JSON list that an answer has. NaN and infinities become null: JSON has no word for them."""
    return _encoder.encode([_json_tensor(spec, tensor) for spec, tensor in zip(specs, tensors, strict=True)])


def encode_mixed(
    specs: Sequence[TensorSpec], tensors: Sequence[Array], binary: Sequence[bool]
) -> tuple[bytes, list[bytes]]:
    """As `encode_outputs`, but the tensors marked binary follow as raw bytes."""
    described, raw = [], []
    for spec, tensor, is_binary in zip(specs, tensors, binary, strict=True):
        if is_binary:
            content = raw_bytes(spec.datatype, tensor)
            size = {"binary_data_size": len(content)}
            described.append(JsonTensor(name=spec.name, datatype=spec.datatype, shape=tensor.shape, parameters=size))
            raw.append(content)
        else:
            described.append(_json_tensor(spec, tensor))
    return _encoder.encode(described), raw


def encode_answer(model: str, version: str, client_id: str, prediction_id: str, outputs: bytes) -> bytes:
    """Write the JSON part of an answer around its encoded outputs."""
    answer = JsonAnswer(
        model_name=model,
        model_version=version,
        id=client_id or prediction_id,
        parameters={"skyloom-prediction-id": prediction_id},
        outputs=msgspec.Raw(outputs),
    )
    return _encoder.encode(answer)


def numbers_decoder(kind: type[float] | type[int]) -> Callable[[Any], Any]:
    """What reads a flat list of numbers. Raises `msgspec.MsgspecError`."""
    decode: Callable[[Any], Any] = _elements[kind][0].decode
    return decode


def unreadable(message: str, next_action: str) -> RequestUnreadable:
    """Say what is wrong with a body."""
    return RequestUnreadable(message, next_action=next_action)


def _inputs(wired: Sequence[WireInput], tail: bytes | memoryview, contract: Contract) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    start = 0
    for wire in wired:
        spec = contract.expect(wire.name, wire.datatype, wire.shape)
        if wire.name in tensors:
            raise refuse(f"Input {wire.name!r} comes twice.", "Send each input once.")
        size = wire.parameters.get("binary_data_size") if wire.parameters else None
        if size is None:
            tensors[wire.name] = _from_json(wire, spec, contract)
            continue
        if type(size) is not int or not 0 <= size <= len(tail) - start or len(memoryview(wire.data)):
            raise refuse(
                f"Input {wire.name!r}: binary_data_size must be a size that is there, without data beside it.",
                "Send the tensor's bytes behind the JSON, in the order of the inputs.",
            )
        tensors[wire.name] = contract.from_buffer(spec, wire.shape, tail[start : start + size])
        start += size
    if start != len(tail):
        raise unreadable("There are bytes behind the last tensor.", "Check the sizes of the binary tensors.")
    return tensors


def _from_json(wire: WireInput, spec: TensorSpec, contract: Contract) -> Array:
    raw = memoryview(wire.data)
    if not len(raw):
        raise refuse(f"Input {wire.name!r} has no data.", "Send data, or binary_data_size and the bytes.")
    elements = parse_elements(raw, spec, len(wire.shape) if _NESTED.match(raw) else 1)
    if spec.datatype is not Datatype.BYTES:
        return contract.from_numbers(spec, wire.shape, elements)
    return contract.from_strings(spec, wire.shape, _strings(wire, elements))


def parse_elements(raw: bytes | memoryview, spec: TensorSpec, depth: int) -> Any:
    """Read the elements of an input out of JSON, as lists of ``depth``. Raises `TensorRefused`."""
    kind: type[int] | type[float] | type[str] = int
    if spec.datatype in FLOATS:
        kind = float
    elif spec.datatype is Datatype.BYTES:
        kind = str
    elif spec.datatype is Datatype.BOOL:
        kind = bool
    try:
        return _elements[kind][depth - 1].decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise refuse(
            f"The data of input {spec.name!r} cannot be read: {error}.",
            f"Send {spec.datatype.value} {'strings' if kind is str else 'numbers'}.",
        ) from None


def flattened(elements: Any, shape: Sequence[int], name: str) -> list[Any]:
    """Nested lists as one; what is flat already stays. Raises `TensorRefused` when they are not nested as the shape says."""
    for axis in shape[1:]:
        if not elements or type(elements[0]) is not list:
            break
        if any(len(part) != axis for part in elements):
            raise refuse(
                f"The data of input {name!r} is not nested as its shape.", "Send it as the shape says, or flat."
            )
        elements = list(itertools.chain.from_iterable(elements))
    return list(elements)


def _strings(wire: WireInput, elements: Any) -> Sequence[str | bytes]:
    texts: list[str] = flattened(elements, wire.shape, wire.name)
    if wire.parameters.get("content_type") != BASE64:
        return texts
    try:
        return from_base64(texts)
    except ValueError:
        raise refuse(f"Input {wire.name!r} is not base64.", "Send base64, or no content_type.") from None


def _binary(request: WireRequest, call: Call) -> frozenset[int]:
    everything = request.parameters.get("binary_data_output") is True
    if not request.outputs:
        return frozenset(call.outputs) if everything else frozenset()
    for output in request.outputs:
        check_wishes(output.name, output.parameters)
    return frozenset(
        position
        for position, output in zip(call.outputs, request.outputs, strict=True)
        if output.parameters.get("binary_data", everything) is True
    )


def _json_tensor(spec: TensorSpec, tensor: Array) -> JsonTensor:
    if spec.datatype is Datatype.BYTES:
        texts, is_base64 = json_strings(tensor)
        parameters: Parameters = {"content_type": BASE64} if is_base64 else {}
        data = msgspec.Raw(_encoder.encode(texts))
        return JsonTensor(name=spec.name, datatype=spec.datatype, shape=tensor.shape, parameters=parameters, data=data)
    data = msgspec.Raw(_encoder.encode(as_numbers(spec.datatype, tensor).ravel().tolist()))
    return JsonTensor(name=spec.name, datatype=spec.datatype, shape=tensor.shape, data=data)
