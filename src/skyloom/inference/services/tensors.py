"""A service's tensor endpoint as a model: what the Open Inference Protocol asks, its Python answers."""

import asyncio
import concurrent.futures
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np

from skyloom.core.errors import InternalError, SkyloomError
from skyloom.inference.runtimes.seam import InputsRefused, ModelAway, ModelBusy, ModelFailed, Slot
from skyloom.inference.services.calls import ArgumentsRefused, CallOutcome, PendingCall, ServiceFull, ServiceRestarting
from skyloom.inference.services.process import ServiceProcess
from skyloom.inference.tensors import DTYPES, Array
from skyloom.rooms.registry.bundle import Manifest

_KINDS: dict[type[SkyloomError], type[ModelFailed]] = {
    ArgumentsRefused: InputsRefused,
    ServiceFull: ModelBusy,
    ServiceRestarting: ModelAway,
}
PLATFORM = "skyloom_service"


class ServiceModel:
    """A loaded model whose `run` is a call into the service's process. `run` waits: it is never called on the event loop.

    Raises `ModelFailed`, or what of it says that the caller, or the moment, is to blame. A service without a tensor endpoint has no
    inputs, and is never run.
    """

    def __init__(self, manifest: Manifest, process: ServiceProcess, loop: asyncio.AbstractEventLoop) -> None:
        spec, self._signature = process.spec, manifest.signature
        self._process = process
        self._loop = loop
        self._method = next((method for method in spec.methods if method.name == spec.tensors), spec.methods[0])
        self.inputs = tuple(Slot(one.name, one.datatype, len(one.shape)) for one in self._signature.inputs)
        self.outputs = tuple(Slot(one.name, one.datatype, len(one.shape)) for one in self._signature.outputs)
        self.memory_bytes = sum(file.size_bytes for file in manifest.files)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Call the endpoint and wait for its arrays."""
        answered: concurrent.futures.Future[CallOutcome | SkyloomError] = concurrent.futures.Future()
        arrays = [
            (spec.name, array.dtype.str, array.shape, _bytes(array))
            for spec, array in zip(self._signature.inputs, inputs, strict=True)
        ]
        call = PendingCall(self._method, (), answered.set_result, arrays=arrays)
        self._loop.call_soon_threadsafe(self._ask, call)
        outcome = answered.result()
        if isinstance(outcome, SkyloomError):
            kind = _KINDS.get(type(outcome), ModelFailed)
            raise kind(outcome.message, next_action=outcome.next_action) from outcome
        found = {name: np.frombuffer(raw, np.dtype(kind)).reshape(shape) for name, kind, shape, raw in outcome.arrays}
        return [found[spec.name].astype(DTYPES[spec.datatype], copy=False) for spec in self._signature.outputs]

    def close(self) -> None:
        """The process ends with the replica, not with its model."""

    def _ask(self, call: PendingCall) -> None:
        try:
            self._process.ask(call)
        except SkyloomError as error:
            call.done(error)
        except Exception as error:  # a defect of ours; the model's thread must not wait for ever
            traceback.print_exception(error, file=sys.stderr)
            call.done(InternalError("The server made a mistake.", next_action="See the replica's output."))


def _bytes(array: Array) -> memoryview | bytes:
    raw: Any = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    return memoryview(raw) if array.size else b""
