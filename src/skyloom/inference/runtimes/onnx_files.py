"""Which files beside an ONNX graph hold its weights: torch's exporter writes ``net.onnx.data`` beside ``net.onnx``.

The graph is walked as it is encoded (protobuf), by the numbers of the fields in which tensors can be; nothing else of it is read.
"""

from collections.abc import Iterator

_TENSOR, _ENTRY = "tensor", "entry"
# Message → number of a field → the message in it: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {13: _ENTRY},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 64  # messages in messages; a graph in a graph takes three


def external_files(content: bytes) -> list[str]:
    """Names of the files that the graph takes weights from, as it says them, sorted. Raises ``ValueError`` where it is no protobuf."""
    found: set[str] = set()
    pending = [(memoryview(content), "model", 0)]
    while pending:
        message, kind, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise ValueError("its graphs are nested too deep")
        for number, inner in _fields(message):
            child = _FIELDS[kind].get(number)
            if child == _ENTRY:
                key, value = _entry(inner)
                if key == b"location":
                    found.add(value.decode())
            elif child is not None:
                pending.append((inner, child, depth + 1))
    return sorted(found)


def _entry(message: memoryview) -> tuple[bytes, bytes]:
    said = {number: bytes(value) for number, value in _fields(message)}
    return said.get(1, b""), said.get(2, b"")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Fields that hold bytes: their numbers and contents."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == _BYTES:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("it ends in the middle of a field")
            yield key >> 3, message[at : at + size]
            at += size
        elif wire == _VARINT:
            _, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("it is no protobuf")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("it ends in the middle of a number")
