"""The Open Inference Protocol v2 over gRPC: protobuf ↔ tensors, on `grpc.aio`.

An interceptor stands before every method, known or not; without a token only ServerLive and ServerReady answer.
"""

import asyncio
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import numpy as np

from skyloom import __version__
from skyloom.core.errors import InternalError, SkyloomError
from skyloom.inference.batcher import Ticket
from skyloom.inference.codec import unreadable
from skyloom.inference.dataplane import EXTENSIONS, SERVER_NAME, DataPlane, TensorMetadata
from skyloom.inference.tensors import DTYPES, Array, Call, refuse
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from skyloom.inference.wire.status import GRPC_STATUS, HTTP_STATUS
from skyloom.rooms.registry.bundle import Datatype, TensorSpec
from skyloom.rooms.serving.plan import Limits

_OPEN_METHODS = frozenset({"/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady"})
_CONTENTS = {
    Datatype.BOOL: "bool_contents",
    Datatype.INT8: "int_contents",
    Datatype.INT16: "int_contents",
    Datatype.INT32: "int_contents",
    Datatype.INT64: "int64_contents",
    Datatype.UINT8: "uint_contents",
    Datatype.FP32: "fp32_contents",
    Datatype.FP64: "fp64_contents",
}
_MAX_IDS = 200
_MAX_CALLS = 256  # each may hold one message of the largest size while it is read


class TokenGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses every call without a known token, health apart."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Let the call through, or hand back a handler that refuses it."""
        if details.method not in _OPEN_METHODS:
            shown = [value for key, value in details.invocation_metadata or () if key == "authorization"]
            try:
                self._plane.access.check(shown[0].encode() if len(shown) == 1 else None)
            except SkyloomError as error:
                refused = error

                async def refusing(_: Any, context: Any) -> None:
                    await context.abort(GRPC_STATUS[refused.category], str(refused))

                return grpc.unary_unary_rpc_method_handler(refusing)
        return await continuation(details)


class Rpc(GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The protocol's service. Every method is a few lines around the data plane."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._plane.ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        async with _Refusals(context):
            self._plane.check_model(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._plane.ready)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=__version__, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        async with _Refusals(context):
            self._plane.check_model(request.name, request.version)
        model = self._plane.metadata()
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=model.versions,
            platform=model.platform,
            inputs=[_described(tensor) for tensor in model.inputs],
            outputs=[_described(tensor) for tensor in model.outputs],
        )

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        start = time.perf_counter()
        try:
            ticket = await self._predict(request, context)
            answer = self._answer(request, ticket)
        except asyncio.CancelledError:
            self._plane.traffic.answered(499, time.perf_counter() - start)
            raise
        except SkyloomError as error:
            self._plane.traffic.answered(HTTP_STATUS[error.category], time.perf_counter() - start)
            await context.abort(GRPC_STATUS[error.category], str(error))
        except Exception:  # a defect of ours; the client gets an answer and no detail
            traceback.print_exc(file=sys.stderr)
            self._plane.traffic.answered(500, time.perf_counter() - start)
            await context.abort(grpc.StatusCode.INTERNAL, "The server made a mistake.")
        else:
            context.set_trailing_metadata((("skyloom-prediction-id", ticket.prediction_id),))
            self._plane.traffic.answered(200, time.perf_counter() - start)
            return answer

    async def _predict(self, request: Any, context: Any) -> Ticket:
        self._plane.check_model(request.model_name, request.model_version)
        done: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()

        def finish(ticket: Ticket) -> None:
            if not done.done():
                done.set_result(ticket)

        ticket = self._plane.infer(self._call(request), finish, context.time_remaining())
        try:
            await done
        except asyncio.CancelledError:
            ticket.cancelled = True
            raise
        if ticket.failure is not None:
            raise ticket.failure
        return ticket

    def _call(self, request: Any) -> Call:
        contract = self._plane.contract
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
                raise refuse(f"Input {wire.name!r} comes twice.", "Send each input once.")
            if raw:
                tensors[wire.name] = contract.from_buffer(spec, shape, raw[index])
            else:
                tensors[wire.name] = self._typed(spec, shape, wire.contents)
        return contract.call(tensors, [output.name for output in request.outputs], request.id)

    def _typed(self, spec: TensorSpec, shape: Sequence[int], contents: Any) -> Array:
        field = _CONTENTS.get(spec.datatype)
        if field is None:
            raise refuse(f"{spec.datatype.value} has no typed contents.", "Send it in raw_input_contents.")
        values = getattr(contents, field)
        if DTYPES[spec.datatype].kind == "f":  # as bytes, because NaN and infinities are welcome on this wire
            return self._plane.contract.from_buffer(spec, shape, np.array(values, DTYPES[spec.datatype]).tobytes())
        return self._plane.contract.from_numbers(spec, shape, list(values))

    def _answer(self, request: Any, ticket: Ticket) -> Any:
        plan = self._plane.plan
        if ticket.outputs is None:
            raise InternalError("The answer is gone.", next_action="Send the request again.")
        answer = pb.ModelInferResponse(
            model_name=plan.model, model_version=plan.model_version, id=request.id or ticket.prediction_id
        )
        answer.parameters["skyloom-prediction-id"].string_param = ticket.prediction_id
        for position in ticket.call.outputs:
            spec, tensor = self._plane.contract.signature.outputs[position], ticket.outputs[position]
            output = answer.outputs.add(name=spec.name, datatype=spec.datatype.value, shape=tensor.shape)
            if request.raw_input_contents or spec.datatype not in _CONTENTS:
                answer.raw_output_contents.append(np.ascontiguousarray(tensor).tobytes())
            else:
                getattr(output.contents, _CONTENTS[spec.datatype]).extend(tensor.ravel().tolist())
        return answer


class _Refusals:
    """Turns an error of ours into the call's status."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SkyloomError):
            await self._context.abort(GRPC_STATUS[error.category], str(error))


def build(plane: DataPlane, limits: Limits) -> Any:
    """Make the server; the caller gives it its port and starts it."""
    server = grpc.aio.server(
        interceptors=[TokenGuard(plane)],
        options=[
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", limits.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", limits.max_header_bytes),
            ("grpc.absolute_max_metadata_size", limits.max_header_bytes),
            ("grpc.max_concurrent_streams", limits.max_pipelined),
            ("grpc.max_connection_idle_ms", int(limits.idle_timeout_s * 1000)),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.http2.max_ping_strikes", 2),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
        ],
        maximum_concurrent_rpcs=_MAX_CALLS,
    )
    add_GRPCInferenceServiceServicer_to_server(Rpc(plane), server)
    return server


def _described(tensor: TensorMetadata) -> Any:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype.value, shape=tensor.shape)
