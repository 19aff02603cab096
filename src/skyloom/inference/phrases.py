"""Outputs of a whole batch as JSON, written in one go and cut into its requests: what is written once per row costs more than the row."""

from collections.abc import Sequence

import msgspec
import numpy as np

from skyloom.inference.elements import as_numbers
from skyloom.inference.tensors import Array
from skyloom.rooms.registry.bundle import Datatype, TensorSpec

_MAX_ELEMENTS = 2**16
_MAX_KNOWN = 256
_encode = msgspec.json.Encoder().encode


class OutputPhrases:
    """Writes the outputs of one signature, as `codec.encode_outputs` does."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = specs
        self._can = not any(spec.datatype is Datatype.BYTES for spec in specs)
        self._known: dict[tuple[int, ...], bytes] = {}

    def write(self, tensors: Sequence[Array], rows: Sequence[int]) -> list[bytes] | None:
        """All outputs of each request, as JSON lists, where the requests have so many rows each; None: not this way.

        NaN and infinities become null.
        """
        size = sum([tensor.size for tensor in tensors])
        if not self._can or not 0 < size <= _MAX_ELEMENTS or any(not tensor.size for tensor in tensors):
            return None
        if len(tensors) == 1:
            return self._column(0, tensors[0], rows, b"[", b"]")
        columns = [self._column(place, tensor, rows) for place, tensor in enumerate(tensors)]
        return [b"[" + b",".join(each) + b"]" for each in zip(*columns, strict=True)]

    def _column(
        self, place: int, tensor: Array, rows: Sequence[int], before: bytes = b"", after: bytes = b""
    ) -> list[bytes]:
        """One output of each request, between what stands before and after it."""
        numbers = as_numbers(self._specs[place].datatype, tensor)
        lines = _lines(numbers)
        width = tensor.shape[1:]
        if len(rows) == len(lines):
            begin, end = before + self._begin(place, 1, width), b"]}" + after
            return [begin + line + end for line in lines]
        made, start = [], 0
        for count in rows:
            numbers_of_one = b",".join(lines[start : start + count])
            made.append(b"%b%b%b]}%b" % (before, self._begin(place, count, width), numbers_of_one, after))
            start += count
        return made

    def _begin(self, place: int, rows: int, width: tuple[int, ...]) -> bytes:
        """What stands before the numbers of one output."""
        key = (place, rows, *width)
        known = self._known.get(key)
        if known is None:
            spec = self._specs[place]
            head = {"name": spec.name, "datatype": spec.datatype, "shape": (rows, *width), "data": msgspec.Raw(b"[]")}
            known = _encode(head)[: -len(b"]}")]
            if len(self._known) < _MAX_KNOWN:
                self._known[key] = known
        return known


def _lines(numbers: Array) -> list[bytes]:
    """The elements of each row, with commas between them."""
    if numbers.size == len(numbers):
        return _encode(numbers.ravel().tolist())[1:-1].split(b",")
    return _encode(np.reshape(numbers, (len(numbers), -1)).tolist())[2:-2].split(b"],[")
