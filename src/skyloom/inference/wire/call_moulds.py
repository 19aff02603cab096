"""Messages of inference whose like came before: only their tensor's bytes are looked at, and answers are put together around bytes.

In protobuf's encoding the last field's bytes lie behind a prefix that says how many they are. Where the same prefix comes again, and as
many bytes behind it, everything but these bytes means the same.
"""

from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from skyloom.inference.batcher import Ticket
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.elements import raw_bytes
from skyloom.inference.tensors import Array, Call
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.calls import answer_of
from skyloom.inference.wire.grpc_framing import framed
from skyloom.rooms.registry.bundle import Datatype

_MAX_PREFIX_BYTES = 1_024
_MAX_MOULDS = 128
_MAX_ONCE = 1_024
_MAX_SIZES = 4
_UNLIKE = frozenset({Datatype.BYTES, Datatype.BOOL})  # not any bytes are such a tensor


class CallMould(NamedTuple):
    """What stood before a tensor's bytes, and what it meant.

    Attributes:
        like: the call with other bytes.
    """

    num_bytes: int
    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"
    like: Call


class CallMoulds:
    """Calls of one model by what stands before their tensor. A call is remembered when its prefix comes a second time."""

    def __init__(self, plane: DataPlane) -> None:
        signature = plane.contract.signature
        self._can = len(signature.inputs) == 1 and signature.inputs[0].datatype not in _UNLIKE
        self._moulds: dict[bytes, CallMould] = {}
        self._once: set[bytes] = set()
        self._sizes: set[int] = set()  # bytes of the tensors that are known: few

    def find(self, body: bytes) -> Call | None:
        """The call of a body, five bytes and a message, whose like is known. Its tensor is the body's own bytes."""
        for size in self._sizes:
            start = len(body) - size
            mould = self._moulds.get(body[:start]) if 0 < start <= _MAX_PREFIX_BYTES else None
            if mould is not None and mould.num_bytes == size:
                array: Array = np.ndarray(mould.shape, mould.dtype, body, start)
                call = mould.like
                return Call((array,), call.rows, call.outputs, call.client_id)
        return None

    def keep(self, body: bytes, read: Any, call: Call) -> None:
        """Remember an accepted message (``read``) without parameters, if its tensor's bytes are the body's end."""
        if not self._can or body[0] or len(read.raw_input_contents) != 1 or read.parameters:
            return
        size = len(read.raw_input_contents[0])
        start = len(body) - size
        if not size or not 0 < start <= _MAX_PREFIX_BYTES:
            return
        prefix = body[:start]
        if prefix not in self._once:
            if len(self._once) >= _MAX_ONCE:
                self._once.clear()
            self._once.add(prefix)
            return
        if not all(_is_end(prefix[5:], bytes((number,)) * size, read) for number in (0, 0x42)):
            return
        if len(self._moulds) >= _MAX_MOULDS or (size not in self._sizes and len(self._sizes) >= _MAX_SIZES):
            self._moulds.clear()
            self._sizes.clear()
        self._sizes.add(size)
        (tensor,) = call.inputs
        self._moulds[prefix] = CallMould(size, tensor.shape, tensor.dtype, call._replace(inputs=()))


def _is_end(prefix: bytes, content: bytes, like: Any) -> bool:
    """True when other bytes behind the prefix are the tensor's, and nothing else is another."""
    expected = pb.ModelInferRequest()
    expected.CopyFrom(like)
    expected.raw_input_contents[0] = content
    try:
        return bool(pb.ModelInferRequest.FromString(prefix + content) == expected)
    except DecodeError:
        return False


class AnswerMoulds:
    """Answers of one model, whole with the five bytes before a message; what does not change is written once for each shape."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._specs = plane.contract.signature.outputs
        self._known: dict[tuple[object, ...], tuple[bytes, bytes, bytes]] = {}

    def write(self, ticket: Ticket) -> bytes:
        """The answer to a call whose rows went through the model."""
        outputs = ticket.outputs
        assert outputs is not None
        places, client_id, name = ticket.call.outputs, ticket.call.client_id, ticket.prediction_id
        tensors = [outputs[place] for place in places]
        raw = [raw_bytes(self._specs[place].datatype, tensor) for place, tensor in zip(places, tensors, strict=True)]
        if client_id or len(raw) != 1:
            return framed(answer_of(ticket, self._plane))
        key = (len(name), len(raw[0]), places, tensors[0].shape)
        known = self._known.get(key)
        if known is None:
            known = self._mould(ticket, raw[0])
            if known is not None and len(self._known) < _MAX_MOULDS:
                self._known[key] = known
        if known is None:
            return framed(answer_of(ticket, self._plane))
        first, second, third = known
        written = name.encode()
        return b"%b%b%b%b%b%b" % (first, written, second, written, third, raw[0])

    def _mould(self, ticket: Ticket, raw: bytes) -> tuple[bytes, bytes, bytes] | None:
        """What stands around the id, which comes twice, and before the bytes; None where that cannot be told."""
        name = ticket.prediction_id.encode()
        whole = framed(answer_of(ticket, self._plane))
        parts = whole[: len(whole) - len(raw)].split(name)
        return (parts[0], parts[1], parts[2]) if len(parts) == 3 and whole.endswith(raw) else None
