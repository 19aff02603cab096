"""Bytes ↔ the arguments and results of endpoints. Runs in the service's process; numpy is loaded only when somebody uses it."""

import base64
import inspect
import sys
import typing
from collections.abc import Sequence
from typing import Any

import msgspec

from skyloom.inference.services.frames import Ask, Content, Lent, Named, lend, take
from skyloom.sdk.describing import Argument, EndpointMethod, bare, element_of, is_array
from skyloom.sdk.service import BadRequest


class ResultUnsendable(Exception):
    """What an endpoint returned has no form on the wire."""


class Speech:
    """How one endpoint's arguments are read and its results written.

    Args:
        lender: the process that lends us what is large: the data plane.
        lent: memory files that we lend, until they are taken.
    """

    def __init__(self, method: EndpointMethod, lender: int, lent: set[int]) -> None:
        self._method = method
        self._lender = lender
        self._lent = lent
        fields = [_field(one) for one in method.arguments]
        shape = msgspec.defstruct(method.name.capitalize(), fields, kw_only=True, forbid_unknown_fields=True)
        self._arguments = msgspec.json.Decoder(shape, dec_hook=_read)
        self._encoder = msgspec.json.Encoder(enc_hook=_written)

    def read(self, ask: Ask) -> dict[str, Any]:
        """The arguments of a call. Raises `BadRequest`."""
        if ask.arrays is not None:
            return self.tensors(ask.arrays)
        return self.arguments(ask.content, ask.is_raw)

    def arguments(self, content: Content, is_raw: bool) -> dict[str, Any]:
        """Read a request's body. Raises `BadRequest`."""
        whole = take(content, self._lender)
        if is_raw:
            return {self._method.arguments[0].name: bytes(whole)}
        try:
            found = self._arguments.decode(whole if len(whole) else b"{}")
        except (msgspec.MsgspecError, RecursionError) as error:
            raise BadRequest(f"The arguments of {self._method.name} do not fit: {error}.") from None
        return {one.name: getattr(found, one.name) for one in self._method.arguments}

    def tensors(self, arrays: Sequence[Named]) -> dict[str, Any]:
        """Read arrays; large ones lie where they were lent, read-only."""
        import numpy as np

        return {
            one.name: np.frombuffer(take(one.content, self._lender), np.dtype(one.dtype)).reshape(one.shape)
            for one in arrays
        }

    def result(self, value: Any) -> tuple[Content, bool]:
        """Write a result: JSON, or raw bytes where the method says that it returns bytes. Raises `ResultUnsendable`."""
        if bare(self._method.returns) is bytes and isinstance(value, bytes | bytearray | memoryview):
            return lend([memoryview(value)], self._lent), True
        return self.part(value), False

    def part(self, value: Any) -> Content:
        """Write one part of an answer, always as JSON: bytes are base64. Raises `ResultUnsendable`."""
        try:
            return lend([self._encoder.encode(value)], self._lent)
        except (TypeError, ValueError, RecursionError, NotImplementedError) as error:
            raise ResultUnsendable(f"{self._method.name} returned what has no form in JSON: {error}") from error

    def arrays(self, value: Any, names: Sequence[str]) -> tuple[Named, ...]:
        """Write arrays by their names. Raises `ResultUnsendable`."""
        import numpy as np

        named = value if isinstance(value, dict) else {names[0]: value}
        if set(named) != set(names):
            raise ResultUnsendable(f"{self._method.name} returned {sorted(named)} and not {sorted(names)}")
        made = []
        for name in names:
            array = np.ascontiguousarray(named[name])
            if array.dtype.hasobject:
                raise ResultUnsendable(f"{self._method.name} returned objects, not numbers, as {name}")
            raw: Any = array.view(np.uint8).reshape(-1)
            content = lend([memoryview(raw) if array.size else b""], self._lent)
            made.append(Named(name, array.dtype.str, array.shape, content))
        return tuple(made)

    @staticmethod
    def borrowed(content: Content, arrays: Sequence[Named] | None) -> list[int]:
        """The files in which something was lent to us."""
        contents = [content, *(one.content for one in arrays or ())]
        return [one.file for one in contents if isinstance(one, Lent)]


def _field(one: Argument) -> Any:
    if one.default is inspect.Parameter.empty:
        return one.name, one.kind
    return one.name, one.kind, msgspec.field(default_factory=lambda: one.default)


def _read(kind: Any, value: Any) -> Any:
    """Make what msgspec does not know by itself: arrays, from nested lists."""
    if not is_array(kind):
        raise NotImplementedError(f"{kind} cannot be read")
    import numpy as np

    try:
        return np.asarray(value, element_of(kind))
    except (TypeError, OverflowError) as error:
        raise ValueError(f"Expected `array`: {error}") from error


def _written(value: Any) -> Any:
    """Numpy's and torch's own values as plain ones; of others only who has a plain form."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return value.tolist()
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, memoryview | bytearray):
        return base64.b64encode(value).decode()
    raise NotImplementedError(f"a {type(value).__name__} cannot be sent")


def output_names(method: EndpointMethod) -> tuple[str, ...]:
    """What its arrays are called: the fields of its TypedDict, or ``output``."""
    if typing.is_typeddict(method.returns):
        return tuple(typing.get_type_hints(method.returns))
    return ("output",)
