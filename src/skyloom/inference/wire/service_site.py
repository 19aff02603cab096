"""Your own Python over HTTP: ``POST /{endpoint}``, answers whole or in parts, and ``GET /openapi.json``. The rest is the inner site's.

A body goes to the service's process as it came; who reads and checks it is the process, which knows the types.
"""

import sys
import time
import traceback
from collections.abc import Callable

import msgspec

from skyloom.core.errors import Category, SkyloomError
from skyloom.inference.batcher import Ticket
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.services.calls import ArgumentsRefused, CallOutcome, PendingCall
from skyloom.inference.services.openapi import document, takes_raw
from skyloom.inference.services.process import ServiceProcess
from skyloom.inference.tensors import Call
from skyloom.inference.wire.desk import ErrorAnswer, failed
from skyloom.inference.wire.events import event, opening
from skyloom.inference.wire.messages import JSON, Head, Request, Response
from skyloom.inference.wire.site import Listener, Site, Streaming
from skyloom.rooms.registry.services import Answering, ServiceMethod

OCTETS = b"application/octet-stream"
_MAX_UNSENT_BYTES = 2**20
_DOCUMENT = b"/openapi.json"


class ServiceSite:
    """The site of a service's HTTP connections.

    Args:
        inner: guards and answers everything that is not the service's own: health, metrics, the Open Inference Protocol.
    """

    def __init__(self, inner: Site, plane: DataPlane, process: ServiceProcess) -> None:
        self._inner = inner
        self._plane = plane
        self._process = process
        self._methods = {f"/{method.name}".encode(): method for method in process.spec.methods}
        plan = plane.plan
        self._document = msgspec.json.encode(document(process.spec, plan.model, plan.model_version))

    @property
    def epoch(self) -> int:
        """Grows when a request that was admitted may not be admitted again."""
        return self._inner.epoch

    def admit(self, request: Request) -> Response | None:
        """Refuse by the head alone. Who may read the server's metadata may call: one guard for host and token."""
        head = request.head
        method = self._methods.get(head.target)
        if method is None and head.target != _DOCUMENT:
            return self._inner.admit(request)
        refusal = self._inner.admit(Request(Head(b"GET", b"/v2", head.headers)))
        if refusal is not None:
            return refusal
        wanted = b"GET" if method is None else b"POST"
        if head.method != wanted:
            return self._refused(405, f"Use {wanted.decode()} here.", ((b"allow", wanted),))
        return None if method is None else self._content_problem(method, head)

    def serve(self, request: Request, exchange: Streaming) -> None:
        """Call an endpoint, or let the inner site answer."""
        method = self._methods.get(request.head.target)
        if method is not None:
            EndpointCall(self._plane, self._process, request, exchange, method).begin()
        elif request.head.target == _DOCUMENT:
            exchange.answer(Response(200, self._document))
        else:
            self._inner.serve(request, exchange)

    def listener(self, request: Request, exchange: Streaming) -> Listener | None:
        """An endpoint's body is taken whole."""
        return None if request.head.target in self._methods else self._inner.listener(request, exchange)

    def refusal(self, status: int, message: str) -> Response:
        """Word an error that the wire itself found."""
        return self._inner.refusal(status, message)

    def _content_problem(self, method: ServiceMethod, head: Head) -> Response | None:
        kind = _kind(head)
        if kind != JSON and not (kind == OCTETS and takes_raw(method)):
            also = " or application/octet-stream" if takes_raw(method) else ""
            return self._refused(415, f"Send Content-Type: application/json{also}.")
        if head.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return self._refused(415, "Compressed bodies are not taken.")
        return None

    def _refused(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Response:
        body = ErrorAnswer(error=message, code=f"http_{status}", category=Category.INVALID)
        return Response(status, msgspec.json.encode(body), headers=headers)


class EndpointCall:
    """One call, from its request to its last part."""

    def __init__(
        self, plane: DataPlane, process: ServiceProcess, request: Request, exchange: Streaming, method: ServiceMethod
    ) -> None:
        self._plane = plane
        self._process = process
        self._request = request
        self._exchange = exchange
        self._begun = False
        self._num_held = 0  # parts that the client has not taken: the service waits with more
        done: Callable[[CallOutcome | SkyloomError], None] = (
            self._ended if method.answering is Answering.PARTS else self._whole
        )
        raw = _kind(request.head) == OCTETS
        self._call = PendingCall(method, (request.body,) if request.body else (), done, self._part, is_raw=raw)

    def begin(self) -> None:
        """Hand the call to the service; a refusal is answered at once."""
        try:
            self._plane.check_open()
            self._process.ask(self._call)
        except SkyloomError as error:
            self._answer(worded(error))
            return
        self._exchange.on_cut = self._cut

    def _cut(self) -> None:
        self._process.give_up(self._call)

    def _whole(self, outcome: CallOutcome | SkyloomError) -> None:
        try:
            if isinstance(outcome, SkyloomError):
                self._answer(worded(outcome, self._record(outcome)))
                return
            headers = ((b"skyloom-prediction-id", self._record(None).encode()),)
            kind = OCTETS if outcome.is_raw else JSON
            self._answer(Response(200, bytes(outcome.content), kind, headers))
        except SkyloomError as error:  # the request log is full: what leaves no trace is not answered
            self._answer(worded(error))
        except Exception:  # a defect of ours; the client gets an answer and no detail
            traceback.print_exc(file=sys.stderr)
            self._answer(self._plain_failure())

    def _part(self, outcome: CallOutcome) -> None:
        if not self._begun:
            self._begun = True
            self._exchange.on_room = self._room
            self._exchange.begin(opening())
        self._exchange.push(event(bytes(outcome.content)))
        self._num_held += 1
        if self._exchange.num_unsent < _MAX_UNSENT_BYTES:
            self._room()

    def _room(self) -> None:
        if self._num_held:
            self._process.took(self._call, self._num_held)
            self._num_held = 0

    def _ended(self, outcome: CallOutcome | SkyloomError) -> None:
        if isinstance(outcome, SkyloomError) and not self._begun:
            self._whole(outcome)
            return
        try:
            prediction_id = self._record(outcome if isinstance(outcome, SkyloomError) else None)
            last = event(msgspec.json.encode({"skyloom-prediction-id": prediction_id}), "done")
        except SkyloomError as error:
            outcome, last = error, b""
        if isinstance(outcome, SkyloomError):
            last = event(worded(outcome).body, "error")
        if not self._begun:
            self._exchange.begin(opening())
        self._exchange.push(last)
        self._exchange.finish()
        self._count(500 if isinstance(outcome, SkyloomError) else 200)

    def _record(self, failure: SkyloomError | None) -> str:
        """Write the call into the request log; refused arguments are no prediction. Raises `RequestLogFull`."""
        if isinstance(failure, ArgumentsRefused):
            return ""
        ticket = Ticket(Call((), 1, (), ""), self._request.arrived_at, lambda _: None)
        ticket.failure = failure
        return self._plane.record(ticket)

    def _answer(self, response: Response) -> None:
        self._exchange.answer(response)
        self._count(response.status)

    def _count(self, status: int) -> None:
        since = self._request.arrived_at
        self._plane.traffic.answered(status, time.perf_counter() - since if since else 0.0)

    def _plain_failure(self) -> Response:
        body = ErrorAnswer(error="The server made a mistake.", code="http_500", category=Category.INTERNAL)
        return Response(500, msgspec.json.encode(body))


def worded(error: SkyloomError, prediction_id: str = "") -> Response:
    """An error as an answer: as everywhere, but arguments that an endpoint refuses are 422."""
    response = failed(error, prediction_id)
    if isinstance(error, ArgumentsRefused):
        response.status = 422
    return response


def _kind(head: Head) -> bytes:
    nothing = head.headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in head.headers
    return head.headers.get(b"content-type", JSON if nothing else b"").partition(b";")[0].strip().lower()
