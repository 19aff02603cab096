"""``ModelStreamInfer``: requests as they come, answers in their order, and what is wrong with one said in its answer."""

import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from skyloom.core.errors import SkyloomError
from skyloom.inference.batcher import Ticket
from skyloom.inference.codec import timeout_of, unreadable
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.beside import Beside
from skyloom.inference.wire.calls import answer_of, call_of
from skyloom.inference.wire.grpc_framing import OK, TYPE, framed, trailers_of, unpack
from skyloom.inference.wire.grpc_methods import parameters_of
from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.site import Streaming
from skyloom.inference.wire.status import HTTP_STATUS, GrpcStatus

_MAX_WAITING = 256  # requests of one stream that are not answered yet; more are not read
_MAX_UNSENT_BYTES = 2**22
_ONE_ANSWER = "triton_enable_empty_final_response"
_MAX_TOLD = 200
_FINAL = "triton_final_response"


class _Slot:
    """A request's place in the order of answers, and what of it its answer says."""

    __slots__ = ("answer", "arrived_at", "id", "is_told_final", "model", "ticket")

    def __init__(self) -> None:
        self.model = self.id = ""
        self.is_told_final = False
        self.arrived_at = time.perf_counter()
        self.ticket: Ticket | None = None
        self.answer: bytes | None = None


class InferStream:
    """One stream of inferences (`Listener`). A client that sends faster than it is answered is not read meanwhile."""

    def __init__(
        self,
        plane: DataPlane,
        request: Request,
        exchange: Streaming,
        on_over: Callable[["InferStream"], None],
        beside: Beside,
    ) -> None:
        self._plane = plane
        self._exchange = exchange
        self._on_over = on_over
        self._beside = beside
        self._encoding = request.head.headers.get(b"grpc-encoding", b"identity")
        self._max_bytes = plane.plan.limits.max_body_bytes
        self._kept = bytearray()
        self._slots: deque[_Slot] = deque()
        self._is_last = self._is_over = self._is_stopping = self._is_reading = False
        exchange.on_cut = self._cut
        exchange.on_room = self._go_on
        exchange.begin(Response(200, b"", TYPE))

    @property
    def num_kept(self) -> int:
        """Bytes that are kept until they are a whole message, or until there is room for it."""
        return len(self._kept)

    @property
    def wants_more(self) -> bool:
        """False while the client has to wait."""
        return len(self._slots) < _MAX_WAITING and self._exchange.num_unsent <= _MAX_UNSENT_BYTES

    def heard(self, part: bytes) -> None:
        """Take a part of the stream."""
        if not self._is_over and not self._is_stopping:
            self._kept += part
            self._read()

    def heard_all(self) -> None:
        """No more requests."""
        self._is_last = True
        self._read()
        self._finish_if_done()

    def stop(self) -> None:
        """Answer what is on its way, and nothing more."""
        self._is_stopping = True
        self._kept.clear()
        self._finish_if_done()

    def _read(self) -> None:
        """Begin with as many whole messages as there is room for."""
        if self._is_reading:  # an answer that was there at once asks for more
            return
        self._is_reading = True
        try:
            while self.wants_more and len(self._kept) >= 5 and not self._is_over:
                length = int.from_bytes(self._kept[1:5], "big")
                if self._kept[0] > 1 or length > self._max_bytes:
                    self.end(
                        GrpcStatus.INVALID_ARGUMENT, f"A message is broken, or larger than {self._max_bytes} bytes."
                    )
                    return
                if len(self._kept) < 5 + length:
                    break
                is_packed, content = self._kept[0], bytes(self._kept[5 : 5 + length])
                del self._kept[: 5 + length]
                self._begin(content, bool(is_packed))
        finally:
            self._is_reading = False

    def _begin(self, content: bytes, is_packed: bool) -> None:
        slot = _Slot()
        self._slots.append(slot)
        if not is_packed:
            self._ask(slot, content)
            return

        def refuse(error: SkyloomError) -> None:
            self._settle(slot, _refused("", "", error), HTTP_STATUS[error.category])

        unpack(content, self._encoding, self._max_bytes, self._beside, lambda made: self._ask(slot, made), refuse)

    def _ask(self, slot: _Slot, content: bytes) -> None:
        """Let the model answer a message."""
        if self._is_over:
            return
        message = pb.ModelInferRequest()
        try:
            message.ParseFromString(content)
            slot.model, slot.id = message.model_name[:_MAX_TOLD], message.id[:_MAX_TOLD]
            slot.is_told_final = bool(message.parameters) and message.parameters[_ONE_ANSWER].bool_param
            self._plane.check_model(message.model_name, message.model_version)
            call = call_of(message, self._plane.contract)
            timeout_s = timeout_of(parameters_of(message.parameters)) if message.parameters else None
            slot.ticket = self._plane.infer(call, lambda ticket: self._answered(slot, ticket), timeout_s)
        except SkyloomError as error:
            self._settle(slot, _refused(slot.model, slot.id, error), HTTP_STATUS[error.category])
        except DecodeError:
            broken = unreadable("The message is no ModelInferRequest.", "Use the protocol's own definition.")
            self._settle(slot, _refused("", "", broken), 400)
        except Exception:  # a defect of ours must not end the connection, and with it everything else on it
            traceback.print_exc(file=sys.stderr)
            self._settle(slot, pb.ModelStreamInferResponse(error_message="The server made a mistake."), 500)

    def _answered(self, slot: _Slot, ticket: Ticket) -> None:
        if ticket.failure is not None:
            failed = _refused(slot.model, slot.id, ticket.failure)
            self._settle(slot, failed, HTTP_STATUS[ticket.failure.category])
            return
        try:
            answer = pb.ModelStreamInferResponse(infer_response=answer_of(ticket, self._plane))
            if slot.is_told_final:
                answer.infer_response.parameters[_FINAL].bool_param = True
            status = 200
        except Exception:  # a defect of ours must not keep the rest of the batch waiting
            traceback.print_exc(file=sys.stderr)
            answer, status = pb.ModelStreamInferResponse(error_message="The server made a mistake."), 500
        self._settle(slot, answer, status)

    def _settle(self, slot: _Slot, answer: Any, status: int) -> None:
        slot.answer, slot.ticket = framed(answer), None
        self._plane.traffic.answered(status, time.perf_counter() - slot.arrived_at)
        while self._slots and (ready := self._slots[0].answer) is not None:
            self._slots.popleft()
            self._exchange.push(ready)
        self._go_on()

    def _go_on(self) -> None:
        """There is room for more answers."""
        self._read()
        self._finish_if_done()
        if not self._is_over and self.wants_more:
            self._exchange.resume()

    def _finish_if_done(self) -> None:
        if self._is_over or self._slots or self._is_reading or not (self._is_last or self._is_stopping):
            return
        if self._is_stopping:
            self.end(GrpcStatus.UNAVAILABLE, "this replica is stopping")
        elif not self._kept:
            self._is_over = True
            self._exchange.finish(OK)
            self._on_over(self)
        elif self.wants_more:
            self.end(GrpcStatus.INVALID_ARGUMENT, "The stream ends within a message.")

    def end(self, code: GrpcStatus, why: str) -> None:
        """No more answers, and why."""
        self._exchange.finish(trailers_of(code, why))
        self._cut()

    def _cut(self) -> None:
        self._is_over = True
        self._kept.clear()
        for slot in self._slots:
            if slot.ticket is not None:
                slot.ticket.cancelled = True
        self._slots.clear()
        self._on_over(self)


def _refused(model: str, client_id: str, error: SkyloomError) -> Any:
    answer = pb.ModelStreamInferResponse(error_message=str(error))
    answer.infer_response.model_name = model
    answer.infer_response.id = client_id
    return answer
