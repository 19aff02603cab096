"""The element types that numpy has no type for: BF16 as its upper 16 bits of a float32, BYTES as strings with their lengths before them."""

import base64
import binascii
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.rooms.registry.bundle import Datatype

Array = NDArray[Any]
_PREFIX_BYTES = 4
# One short string on the wire becomes some sixty bytes in memory.
STRING_BYTES = 64


def to_bfloat16(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round float32 to the nearest BF16, ties to even; what is too large becomes infinite."""
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    quiet = ((bits >> 16) | 0x40).astype(np.uint16)
    made: NDArray[np.uint16] = np.where(np.isnan(numbers), quiet, rounded)
    return made


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """BF16 as float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def as_numbers(datatype: Datatype, tensor: Array) -> Array:
    """A tensor as numpy can count with it."""
    return from_bfloat16(tensor) if datatype is Datatype.BF16 else tensor


def read_strings(content: bytes | memoryview, count: int) -> list[bytes] | None:
    """``count`` strings, each behind its length in four little-endian bytes; None when the content is anything else."""
    whole = bytes(content)
    found: list[bytes] = []
    at, end = 0, len(whole)
    while len(found) < count and at + _PREFIX_BYTES <= end:
        start = at + _PREFIX_BYTES
        at = start + int.from_bytes(whole[at:start], "little")
        if at > end:
            return None
        found.append(whole[start:at])
    return found if len(found) == count and at == end else None


def write_strings(tensor: Array) -> bytes:
    """The elements of a BYTES tensor, each behind its length."""
    return b"".join(
        itertools.chain.from_iterable((len(one).to_bytes(_PREFIX_BYTES, "little"), one) for one in _encoded(tensor))
    )


def raw_bytes(datatype: Datatype, tensor: Array) -> bytes:
    """A tensor as it lies behind a request or an answer."""
    return write_strings(tensor) if datatype is Datatype.BYTES else np.ascontiguousarray(tensor).tobytes()


def from_base64(texts: Sequence[str]) -> list[bytes]:
    """Undo base64. Raises ValueError."""
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, ValueError) as error:
        raise ValueError("no base64") from error


def json_strings(tensor: Array) -> tuple[list[str], bool]:
    """The elements as JSON has them; True when they had to be written in base64, since one is no text."""
    found = list(_encoded(tensor))
    try:
        return [one.decode() for one in found], False
    except UnicodeDecodeError:
        return [base64.b64encode(one).decode() for one in found], True


def strings_of(elements: Sequence[bytes | str], shape: Sequence[int], is_text: bool) -> Array:
    """A BYTES tensor of ``str`` (``is_text``) or ``bytes``. Raises UnicodeDecodeError for what is no text."""
    made = np.empty(len(elements), dtype=object)
    for index, one in enumerate(elements):
        if is_text:
            made[index] = one if isinstance(one, str) else one.decode()
        else:
            made[index] = one.encode() if isinstance(one, str) else one
    return made.reshape(shape)


def held_bytes(tensor: Array) -> int:
    """About what the strings of a tensor hold in memory."""
    return sum(map(len, tensor.flat)) + STRING_BYTES * int(tensor.size)


def _encoded(tensor: Array) -> Iterator[bytes]:
    for one in tensor.flat:
        yield one if isinstance(one, bytes) else str(one).encode()
