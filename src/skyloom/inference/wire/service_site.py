"""Your own Python over HTTP: ``POST /{endpoint}``, answers whole or in parts, and ``GET /openapi.json``. The rest is the inner site's.

A body goes to the service's process as it came; who reads and checks it is the process, which knows the types.
"""

import msgspec

from skyloom.core.errors import Category
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.services.openapi import document, takes_raw
from skyloom.inference.services.process import ServiceProcess
from skyloom.inference.wire.desk import ErrorAnswer
from skyloom.inference.wire.messages import JSON, Head, Request, Response
from skyloom.inference.wire.openai_site import OpenAi
from skyloom.inference.wire.service_call import OCTETS, EndpointCall, PlainWording
from skyloom.inference.wire.shown_tokens import ShownTokens
from skyloom.inference.wire.site import Listener, Site, Streaming
from skyloom.rooms.registry.services import ServiceMethod

_PLAIN = PlainWording()
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
        self._streams = ShownTokens(plane.access)
        self._openai = OpenAi(plane, process, self._streams)
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
        verb = self._openai.verb(head.target)
        if method is None and head.target != _DOCUMENT and verb is None:
            refusal = self._inner.admit(request)
            return self._nowhere() if refusal is not None and refusal.status == 404 else refusal
        refusal = self._inner.admit(Request(Head(b"GET", b"/v2", head.headers)))
        if refusal is not None:
            return refusal
        wanted = verb or (b"GET" if method is None else b"POST")
        if head.method != wanted:
            return self._refused(405, f"Use {wanted.decode()} here.", ((b"allow", wanted),))
        if verb is not None:
            return self._openai.content_problem(head)
        return None if method is None else self._content_problem(method, head)

    def serve(self, request: Request, exchange: Streaming) -> None:
        """Call an endpoint, or let the inner site answer."""
        method = self._methods.get(request.head.target)
        if method is not None:
            is_raw = _kind(request.head) == OCTETS
            call = EndpointCall(
                self._plane,
                self._process,
                request,
                exchange,
                method,
                _PLAIN,
                self._streams,
                body=request.body,
                is_raw=is_raw,
            )
            call.begin()
        elif request.head.target == _DOCUMENT:
            exchange.answer(Response(200, self._document))
        elif self._openai.verb(request.head.target) is not None:
            self._openai.serve(request, exchange)
        else:
            self._inner.serve(request, exchange)

    def listener(self, request: Request, exchange: Streaming) -> Listener | None:
        """An endpoint's body is taken whole."""
        target = request.head.target
        ours = target in self._methods or self._openai.verb(target) is not None
        return None if ours else self._inner.listener(request, exchange)

    def look(self) -> None:
        """End streams whose token was taken back. Called about once a second."""
        self._streams.look()

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

    def _nowhere(self) -> Response:
        known = ", ".join(f"/{method.name}" for method in self._process.spec.methods[:20])
        body = ErrorAnswer(
            error=f"There is no such address. The endpoints: {known}.", code="http_404", category=Category.NOT_FOUND
        )
        return Response(404, msgspec.json.encode(body))

    def _refused(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Response:
        body = ErrorAnswer(error=message, code=f"http_{status}", category=Category.INVALID)
        return Response(status, msgspec.json.encode(body), headers=headers)


def _kind(head: Head) -> bytes:
    nothing = head.headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in head.headers
    return head.headers.get(b"content-type", JSON if nothing else b"").partition(b";")[0].strip().lower()
