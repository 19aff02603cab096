"""The Open Inference Protocol v2 over HTTP: routes, guards and the shape of answers.

Guards come in this order, before a body is read: Host, token, route, method, content type. Without a token only health answers.
"""

import functools
import sys
import time
import traceback
from collections.abc import Callable, Mapping

import msgspec

from skyloom.core.errors import Category, SkyloomError, Unavailable
from skyloom.inference import codec
from skyloom.inference.batcher import Ticket
from skyloom.inference.dataplane import DataPlane, ServerMetadata
from skyloom.inference.metrics import CONTENT_TYPE, render
from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.site import Exchange, Listener, Streaming
from skyloom.inference.wire.status import HTTP_STATUS

_BODY_TYPES = (b"application/json", b"application/octet-stream")
_CHALLENGE = ((b"www-authenticate", b"Bearer"),)
_RETRY = ((b"retry-after", b"1"),)
_HEALTH = {b"/v2/health/live", b"/v2/health/ready"}


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An error as the protocol words it: ``error``; the code and category are Skyloom's."""

    error: str
    code: str
    category: Category


class Rest:
    """The site that a replica's HTTP connections serve."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._hosts = frozenset(name.lower().encode() for name in plane.plan.allowed_hosts)
        self._fixed: dict[bytes, Callable[[], Response]] = {
            b"/v2": lambda: _json(ServerMetadata()),
            b"/v2/health/live": lambda: _json({"live": True}),
            b"/v2/health/ready": self._ready,
            b"/metrics": self._metrics,
        }

    @property
    def epoch(self) -> int:
        """Grows when a request that was admitted may not be admitted again."""
        return self._plane.access.version

    def admit(self, request: Request) -> Response | None:
        """Refuse by the head alone."""
        if not self._known_host(request.head.headers.get(b"host")):
            return self._count(request, self.refusal(421, "The Host header names another server."))
        if request.head.target not in _HEALTH:
            try:
                self._plane.access.check(request.head.headers.get(b"authorization"))
            except SkyloomError as error:
                return self._count(request, failed(error))
        infers = _is_infer(request.head.target)
        wanted = b"POST" if infers else b"GET"
        if request.head.method != wanted:
            if not infers and self._resource(request.head.target) is None:
                return self._unknown()
            return self._count(request, self.refusal(405, f"Use {wanted.decode()} here.", ((b"allow", wanted),)))
        problem = self._content_problem(request.head.headers) if infers else None
        return None if problem is None else self._count(request, problem)

    def serve(self, request: Request, exchange: Exchange) -> None:
        """Answer; an inference later, everything else at once."""
        try:
            if _is_infer(request.head.target):
                self._infer(request, exchange)
            else:
                found = self._resource(request.head.target)
                exchange.answer(self._unknown() if found is None else found())
        except SkyloomError as error:
            exchange.answer(self._count(request, failed(error)))
        except Exception:  # a defect of ours; the client gets an answer and no detail
            traceback.print_exc(file=sys.stderr)
            exchange.answer(self._count(request, self.refusal(500, "The server made a mistake.")))

    def listener(self, request: Request, exchange: Streaming) -> Listener | None:
        """No route hears its body in parts."""
        return None

    def refusal(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Response:
        """Word an error that has no exception of its own."""
        category = next((kind for kind, number in HTTP_STATUS.items() if number == status), Category.INVALID)
        body = ErrorAnswer(error=message, code=f"http_{status}", category=category)
        return Response(status, msgspec.json.encode(body), headers=headers)

    # -- routes -------------------------------------------------------------------------------------------------------------

    def _resource(self, target: bytes) -> Callable[[], Response] | None:
        if target in self._fixed:
            return self._fixed[target]
        name, version, verb = _model_route(target)
        if name and verb == "":
            return lambda: self._model(name, version)
        if name and verb == "ready":
            return lambda: self._model_ready(name, version)
        return None

    def _ready(self) -> Response:
        return _ready(self._plane.ready, {"ready": True})

    def _metrics(self) -> Response:
        return Response(200, render(self._plane), CONTENT_TYPE)

    def _model(self, name: str, version: str) -> Response:
        self._plane.check_model(name, version)
        return _json(self._plane.metadata())

    def _model_ready(self, name: str, version: str) -> Response:
        self._plane.check_model(name, version)
        return _ready(self._plane.ready, {"name": name, "ready": True})

    def _infer(self, request: Request, exchange: Exchange) -> None:
        name, version, _ = _model_route(request.head.target)
        self._plane.check_model(name, version)
        length = request.head.headers.get(b"inference-header-content-length")
        if length is not None and (not length.isdigit() or len(length) > 12):
            raise codec.unreadable(
                "Inference-Header-Content-Length is not a number of bytes.", "Send the JSON's length."
            )
        json_length = None if length is None else int(length)
        call, binary = codec.decode(request.body, json_length, self._plane.contract)

        def answer(ticket: Ticket) -> None:
            exchange.answer(self._count(request, self._worded(ticket, binary)))

        ticket = self._plane.infer(call, answer)

        def cut() -> None:
            ticket.cancelled = True

        exchange.on_cut = cut

    def _worded(self, ticket: Ticket, binary: frozenset[int]) -> Response:
        if ticket.failure is not None:
            return failed(ticket.failure, ticket.prediction_id)
        try:
            return self._answer(ticket, binary)
        except Exception:  # a defect of ours must not keep the rest of the batch waiting
            traceback.print_exc(file=sys.stderr)
            return self.refusal(500, "The server made a mistake.")

    def _answer(self, ticket: Ticket, binary: frozenset[int]) -> Response:
        plan = self._plane.plan
        headers = ((b"skyloom-prediction-id", ticket.prediction_id.encode()),)
        raw: list[bytes] = []
        outputs = None if binary or ticket.logged_outputs is None else ticket.logged_outputs
        if outputs is None:
            assert ticket.outputs is not None
            specs = [self._plane.contract.signature.outputs[position] for position in ticket.call.outputs]
            tensors = [ticket.outputs[position] for position in ticket.call.outputs]
            outputs, raw = codec.encode_mixed(specs, tensors, [position in binary for position in ticket.call.outputs])
        body = codec.encode_answer(plan.model, plan.model_version, ticket.call.client_id, ticket.prediction_id, outputs)
        if not raw:
            return Response(200, body, headers=headers)
        length = (b"inference-header-content-length", str(len(body)).encode())
        return Response(200, b"".join([body, *raw]), b"application/octet-stream", (*headers, length))

    # -- guards -------------------------------------------------------------------------------------------------------------

    def _known_host(self, host: bytes | None) -> bool:
        """True for an allowed name with any port; ``[::1]`` keeps its brackets."""
        if host is None:
            return False
        name, colon, port = host.rpartition(b":")
        if not colon or host.endswith(b"]"):
            name, port = host, b""
        return (name.lower() in self._hosts or b"*" in self._hosts) and (not port or port.isdigit())

    def _content_problem(self, headers: Mapping[bytes, bytes]) -> Response | None:
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind not in _BODY_TYPES:
            return self.refusal(415, "Send Content-Type: application/json or application/octet-stream.")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return self.refusal(415, "Compressed bodies are not taken.")
        return None

    def _unknown(self) -> Response:
        return self.refusal(404, "There is no such address. The protocol starts at /v2.")

    def _count(self, request: Request, response: Response) -> Response:
        """Count an answer if it is one to an inference."""
        if _is_infer(request.head.target):
            duration_s = time.perf_counter() - request.arrived_at if request.arrived_at else 0.0
            self._plane.traffic.answered(response.status, duration_s)
        return response


def failed(error: SkyloomError, prediction_id: str = "") -> Response:
    """Word an error of ours."""
    headers = _CHALLENGE if error.category is Category.UNAUTHENTICATED else ()
    if error.category in (Category.LIMIT, Category.UNAVAILABLE, Category.STORAGE_FULL):
        headers = _RETRY
    if prediction_id and error.category is not Category.STORAGE_FULL:
        headers = (*headers, (b"skyloom-prediction-id", prediction_id.encode()))
    body = ErrorAnswer(error=str(error), code=error.code, category=error.category)
    return Response(HTTP_STATUS[error.category], msgspec.json.encode(body), headers=headers)


def _is_infer(target: bytes) -> bool:
    return target.endswith(b"/infer") and _model_route(target)[2] == "infer"


@functools.lru_cache(maxsize=256)
def _model_route(target: bytes) -> tuple[str, str, str]:
    """Split ``/v2/models/NAME[/versions/V][/VERB]`` into name, version and verb; an empty name means: another address."""
    try:
        parts = target.decode("ascii").split("/")
    except UnicodeDecodeError:
        return "", "", ""
    if parts[:3] != ["", "v2", "models"] or not 4 <= len(parts) <= 7 or not all(parts[3:]):
        return "", "", ""
    name, rest, version = parts[3], parts[4:], ""
    if rest[:1] == ["versions"] and len(rest) >= 2:
        version, rest = rest[1], rest[2:]
    if rest not in ([], ["ready"], ["infer"]):
        return "", "", ""
    return name, version, rest[0] if rest else ""


def _json(value: object) -> Response:
    return Response(200, msgspec.json.encode(value))


def _ready(is_ready: bool, value: object) -> Response:
    if is_ready:
        return _json(value)
    return failed(Unavailable("This replica takes no requests.", next_action="Send again: another replica answers."))
