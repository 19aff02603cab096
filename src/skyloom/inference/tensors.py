"""Tensors against a model's signature: what a request must bring, and the call that comes of it.

Both wires build their tensors through `Contract`, so REST and gRPC refuse the same things with the same words.
"""

import array
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skyloom.core.errors import InvalidInput
from skyloom.inference.elements import from_bfloat16, held_bytes, read_strings, strings_of, to_bfloat16
from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec

Array = NDArray[Any]

DTYPES: dict[Datatype, np.dtype[Any]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype("<u1"),
    Datatype.UINT16: np.dtype("<u2"),
    Datatype.UINT32: np.dtype("<u4"),
    Datatype.UINT64: np.dtype("<u8"),
    Datatype.INT8: np.dtype("<i1"),
    Datatype.INT16: np.dtype("<i2"),
    Datatype.INT32: np.dtype("<i4"),
    Datatype.INT64: np.dtype("<i8"),
    Datatype.FP16: np.dtype("<f2"),
    Datatype.BF16: np.dtype("<u2"),  # its bits, see `elements`
    Datatype.FP32: np.dtype("<f4"),
    Datatype.FP64: np.dtype("<f8"),
    Datatype.BYTES: np.dtype(object),  # of str or bytes
}
FLOATS = frozenset({Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64})

# How the modules array and struct call them: the first makes an array of Python's numbers in half of the time that numpy takes.
TYPECODES: dict[Datatype, str] = {
    Datatype.UINT8: "B",
    Datatype.UINT16: "H",
    Datatype.UINT32: "I",
    Datatype.UINT64: "Q",
    Datatype.INT8: "b",
    Datatype.INT16: "h",
    Datatype.INT32: "i",
    Datatype.INT64: "q",
    Datatype.FP32: "f",
    Datatype.FP64: "d",
}
_REMEMBERED = 1_024
_ALIGNMENT = 64
_MAX_STRINGS = 2**18


class TensorRefused(InvalidInput):
    """A tensor of the request is not what the model takes."""


class Call(NamedTuple):
    """A checked request.

    Attributes:
        inputs: in the order of the signature, all with ``rows`` rows.
        outputs: positions in the signature that the client wants, in the order it asked.
        client_id: the id that the client gave, or "".
        num_string_bytes: what strings among the inputs hold beside their array.
    """

    inputs: tuple[Array, ...]
    rows: int
    outputs: tuple[int, ...]
    client_id: str
    num_string_bytes: int = 0


class Contract:
    """What one model takes and gives.

    Args:
        is_text: the model takes BYTES as text, so that what is no UTF-8 is refused; its tensors hold ``str``, else ``bytes``.
    """

    def __init__(self, signature: Signature, max_rows: int, is_text: bool = True) -> None:
        self.signature = signature
        self._is_text = is_text
        self._has_strings = any(spec.datatype is Datatype.BYTES for spec in signature.inputs)
        self._inputs = {spec.name: spec for spec in signature.inputs}
        self._outputs = {spec.name: index for index, spec in enumerate(signature.outputs)}
        self._all_outputs = tuple(range(len(signature.outputs)))
        self._max_rows = max_rows
        self._expected: dict[tuple[object, ...], TensorSpec] = {}

    def expect(self, name: str, datatype: str, shape: Sequence[int]) -> TensorSpec:
        """Return the signature's entry for an input, or raise `TensorRefused` when name, type or shape differ from it."""
        key = (name, datatype, *shape)
        known = self._expected.get(key)
        if known is None:
            known = self._check(name, datatype, shape)
            if len(self._expected) < _REMEMBERED:
                self._expected[key] = known
        return known

    def _check(self, name: str, datatype: str, shape: Sequence[int]) -> TensorSpec:
        spec = self._inputs.get(name)
        if spec is None:
            raise refuse(f"The model has no input {_short(name)}.", f"Its inputs are: {', '.join(self._inputs)}.")
        if datatype != spec.datatype:
            raise refuse(
                f"Input {_short(name)} has type {_short(datatype)}; the model takes {spec.datatype.value}.",
                f"Send {spec.datatype.value}.",
            )
        fits = len(shape) == len(spec.shape) and all(
            axis >= 0 and wanted in (-1, axis) for axis, wanted in zip(shape, spec.shape, strict=True)
        )
        if not fits:
            given = str(list(shape[:9]))[:120]
            raise refuse(
                f"Input {_short(name)} has shape {given}; the model takes {list(spec.shape)}, where -1 is free.",
                "Send rows of the model's shape.",
            )
        if not 1 <= shape[0] <= self._max_rows:
            raise refuse(
                f"Input {_short(name)} has {str(shape[0])[:24]} rows.", f"Send between 1 and {self._max_rows} rows."
            )
        return spec

    def from_buffer(self, spec: TensorSpec, shape: Sequence[int], content: bytes | memoryview) -> Array:
        """Make an input of its little-endian bytes. Raises `TensorRefused` when the size is not that of the shape."""
        if spec.datatype is Datatype.BYTES:
            self._check_strings(spec, shape)
            found = read_strings(content, math.prod(shape))
            if found is None:
                raise refuse(
                    f"The {len(content)} bytes of input {_short(spec.name)} are not {math.prod(shape)} strings.",
                    "Send each string behind its length in four little-endian bytes.",
                )
            return self.from_strings(spec, shape, found)
        dtype = DTYPES[spec.datatype]
        needed = math.prod(shape) * dtype.itemsize
        if len(content) != needed:
            raise refuse(
                f"Input {_short(spec.name)} has {len(content)} bytes; its shape and type make {str(needed)[:40]}.",
                "Send the rows as they lie in memory, little-endian, without padding.",
            )
        flat = np.frombuffer(content, dtype=dtype)
        if spec.datatype is Datatype.BOOL and flat.view(np.uint8).max(initial=0) > 1:
            raise refuse(f"Input {_short(spec.name)} has bytes beyond 0 and 1.", "A BOOL is one byte, 0 or 1.")
        return flat.reshape(shape)

    def from_strings(self, spec: TensorSpec, shape: Sequence[int], elements: Sequence[bytes | str]) -> Array:
        """Make a BYTES input of its elements, flat. Raises `TensorRefused`."""
        self._check_strings(spec, shape)
        if len(elements) != math.prod(shape):
            raise refuse(
                f"Input {_short(spec.name)} has {len(elements)} strings; its shape needs {math.prod(shape)}.",
                "Send as many as the shape says.",
            )
        try:
            return strings_of(elements, shape, self._is_text)
        except UnicodeError:
            raise refuse(f"Input {_short(spec.name)} has a string that is no UTF-8.", "The model takes text.") from None

    def _check_strings(self, spec: TensorSpec, shape: Sequence[int]) -> None:
        if math.prod(shape) > _MAX_STRINGS:
            raise refuse(f"Input {_short(spec.name)} has too many strings.", f"Send at most {_MAX_STRINGS}.")

    def from_numbers(self, spec: TensorSpec, shape: Sequence[int], numbers: Any) -> Array:
        """Make an input of Python numbers, flat or nested as its shape. Raises `TensorRefused` when they do not fit.

        The numbers are finite, as all of JSON are.
        """
        made = _quickly(spec.datatype, shape, numbers)
        return self._carefully(spec, shape, numbers) if made is None else made

    def _carefully(self, spec: TensorSpec, shape: Sequence[int], numbers: Any) -> Array:
        is_brief = spec.datatype is Datatype.BF16
        dtype = np.dtype(np.float32) if is_brief else DTYPES[spec.datatype]
        try:
            with np.errstate(over="ignore"):
                array = np.array(numbers, dtype=dtype)
        except (ValueError, OverflowError, TypeError) as error:
            raise refuse(
                f"The data of input {_short(spec.name)} does not fit {spec.datatype.value} and shape {list(shape)}.",
                "Send numbers of that type, flat or nested as the shape says.",
            ) from error
        if array.ndim == 1 and array.size != math.prod(shape):
            raise refuse(
                f"Input {_short(spec.name)} has {array.size} numbers; its shape needs {str(math.prod(shape))[:40]}.",
                "Send as many as the shape says.",
            )
        if array.ndim != 1 and array.shape != tuple(shape):
            raise refuse(
                f"The data of input {_short(spec.name)} is nested as {list(array.shape)}; its shape is {list(shape)}.",
                "Nest the data as the shape says, or send it flat.",
            )
        bits = to_bfloat16(array) if is_brief else None
        if dtype.kind == "f" and not np.isfinite(array if bits is None else from_bfloat16(bits)).all():
            raise refuse(
                f"The data of input {_short(spec.name)} has numbers too large for {spec.datatype.value}.",
                "Send numbers within the type's range.",
            )
        return (array if bits is None else bits).reshape(shape)

    def call(self, tensors: Mapping[str, Array], wanted: Sequence[str], client_id: str) -> Call:
        """Put the tensors in order. Raises `TensorRefused`: an input is missing, rows differ, an output is unknown."""
        try:
            inputs = tuple([tensors[name] for name in self._inputs])
        except KeyError as missing:
            name = missing.args[0]
            raise refuse(f"Input {_short(name)} is missing.", f"The model takes: {', '.join(self._inputs)}.") from None
        if not inputs:
            raise refuse("This service takes no tensors.", "Call its endpoints: see GET /openapi.json.")
        rows = len(inputs[0])
        if len(inputs) > 1 and any(len(tensor) != rows for tensor in inputs):
            other = next(name for name, tensor in zip(self._inputs, inputs, strict=True) if len(tensor) != rows)
            raise refuse(
                f"Input {_short(other)} has another number of rows than {_short(next(iter(self._inputs)))}.",
                "Send the same number of rows in each.",
            )
        num_string_bytes = 0
        if self._has_strings:
            num_string_bytes = sum(held_bytes(tensor) for tensor in inputs if tensor.dtype.hasobject)
        return Call(inputs, rows, self._positions(wanted), client_id, num_string_bytes)

    def _positions(self, wanted: Sequence[str]) -> tuple[int, ...]:
        if not wanted:
            return self._all_outputs
        found: set[str] = set()
        for name in wanted:
            if name not in self._outputs or name in found:
                raise refuse(
                    f"Output {_short(name)} {'is asked for twice' if name in found else 'cannot be asked for'}.",
                    f"The model gives: {', '.join(self._outputs)}; each once.",
                )
            found.add(name)
        return tuple(self._outputs[name] for name in wanted)


def _quickly(datatype: Datatype, shape: Sequence[int], numbers: Any) -> Array | None:
    """The usual case: a list, or a list of rows. None says nothing: numpy has to look."""
    code = TYPECODES.get(datatype)
    if code is None or not numbers:
        return None
    if type(numbers[0]) is list:
        if (
            len(shape) != 2
            or len(numbers) != shape[0]
            or any(type(row) is not list or len(row) != shape[1] for row in numbers)
        ):
            return None
        numbers = numbers[0] if len(numbers) == 1 else itertools.chain.from_iterable(numbers)
    try:
        flat = np.frombuffer(array.array(code, numbers), DTYPES[datatype])
    except (TypeError, OverflowError, ValueError):
        return None
    if flat.size != math.prod(shape) or (flat.dtype.kind == "f" and not np.isfinite(flat).all()):
        return None
    return flat.reshape(shape)


# What clients may ask of an output and would wait for in vain.
_NOT_OFFERED = {
    "classification": "Ask POST /predict for labels.",
    "shared_memory_region": "Ask for binary data: memory of the server's machine cannot be named.",
}


def check_wishes(output: str, parameters: Collection[str]) -> None:
    """Raise `TensorRefused` when an output is asked for in a form that is not offered."""
    for name in parameters:
        if name in _NOT_OFFERED:
            raise refuse(f"Output {_short(output)}: the parameter {name!r} is not offered here.", _NOT_OFFERED[name])


def aligned_room(size: int, start: int) -> memoryview:
    """Memory for so many bytes, not cleared, of which that at ``start`` lies at a multiple of 64: where engines read tensors quickest."""
    room = np.empty(size + _ALIGNMENT, np.uint8)
    skipped = -(room.ctypes.data + start) % _ALIGNMENT
    return room.data[skipped : skipped + size]


def refuse(message: str, next_action: str) -> TensorRefused:
    """Say what is wrong with a tensor."""
    return TensorRefused(message, next_action=next_action)


def _short(name: str) -> str:
    return repr(name[:80])
