"""REST over HTTP/1.1: the guards that all routes share, and the protocols behind them.

Guards come in this order, before a body is read: Host, token, route, method, content type. Without a token only health answers.
"""

import sys
import traceback
from collections.abc import Mapping

import msgspec

from skyloom.core.errors import SkyloomError
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.metrics import CONTENT_TYPE, render
from skyloom.inference.tensors import aligned_room
from skyloom.inference.wire.beside import Beside
from skyloom.inference.wire.desk import Desk, failed, refusal
from skyloom.inference.wire.hosts import KnownHosts
from skyloom.inference.wire.messages import Head, Request, Response
from skyloom.inference.wire.mlflow import MlflowScoring, status_table
from skyloom.inference.wire.open_inference import JSON_LENGTH, OpenInference
from skyloom.inference.wire.openapi import document
from skyloom.inference.wire.packed import PackedModels
from skyloom.inference.wire.packing import ENCODINGS, packed, unpacked, unpacked_at_once
from skyloom.inference.wire.plain import PictureFetches, Plain
from skyloom.inference.wire.repository import Repository
from skyloom.inference.wire.rest_routes import RestRoute, RestTable, at_once
from skyloom.inference.wire.site import Exchange, Listener, Streaming

_NO_ROUTES: Mapping[bytes, RestRoute] = {}


class Rest:
    """The site that a replica's HTTP connections serve."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._hosts = KnownHosts(plane.plan.allowed_hosts, takes_any=plane.plan.behind_proxy)
        self._desk = Desk(plane)
        self._beside = Beside()
        self._max_bytes = plane.plan.limits.max_body_bytes
        self._told = b""  # the document: it takes milliseconds to make, and never changes
        self._fetches = PictureFetches() if plane.plan.picture_urls else None
        plain = self._plain(plane, self._desk)
        self._open_inference = OpenInference(plane, self._desk, plain)
        self._repository = Repository(plane)
        self._packed: PackedModels | None = None
        if plane.guests is not None:
            self._packed = PackedModels(plane.guests, self._open_inference, self._repository, self._plain)
        self._table: RestTable = {
            **self._open_inference.table(),
            **status_table(lambda: plane.ready),
            b"/metrics": {b"GET": RestRoute(at_once(self._metrics), "Numbers for Prometheus.")},
            b"/openapi.json": {b"GET": RestRoute(at_once(self._document), "This document.")},
        }
        if plane.form is not None and plain is not None:
            self._table |= {b"/predict": plain.methods(), **MlflowScoring(plane.form, self._desk).table()}

    def _plain(self, plane: DataPlane, desk: Desk) -> Plain | None:
        """What takes rows by their names for this model, or one of its pack."""
        if plane.form is None or not plane.form.inputs:
            return None
        return Plain(plane.form, plane, desk, self._beside, self._fetches)

    @property
    def epoch(self) -> int:
        """Grows when a request that was admitted may not be admitted again."""
        return self._plane.access.version

    def admit(self, request: Request) -> Response | None:
        """Refuse by the head alone."""
        method, target, headers = request.head
        routes = self._routes(target)
        route = routes.get(method)
        request.is_open = _are_open(routes)
        problem = self._problem(method, headers, routes, route)
        counts = any(each.is_inference for each in routes.values())
        return self._desk.count(request, problem) if counts and problem is not None else problem

    def serve(self, request: Request, exchange: Streaming) -> None:
        """Answer; an inference later, everything else at once."""
        method, target, headers = request.head
        routes = self._table.get(target)
        route = (self._routes(target) if routes is None else routes)[method]
        if b"content-encoding" in headers and route.takes:
            self._unpack(request, exchange, route)
        else:
            self._answer(request, exchange, route)

    def place(self, head: Head, size: int) -> memoryview | None:
        """Room for an admitted body whose tensors are read as they lie: the first of them where a core likes to read numbers."""
        method, target, headers = head
        route = self._table.get(target, _NO_ROUTES).get(method)
        start = headers.get(JSON_LENGTH, b"")
        if route is None or not route.reads_in_place or not start.isdigit() or len(start) > 12 or int(start) > size:
            return None
        if b"content-encoding" in headers or _content_problem(headers, route.takes) is not None:
            return None
        return aligned_room(size, int(start))

    def listener(self, request: Request, exchange: Streaming) -> Listener | None:
        """No route hears its body in parts."""
        return None

    def refusal(self, status: int, message: str) -> Response:
        """Word an error that the wire itself found."""
        return refusal(status, message)

    def _routes(self, target: bytes) -> Mapping[bytes, RestRoute]:
        """What answers at an address, by method."""
        found = self._table.get(target)
        if found is None and self._packed is not None:
            found = self._packed.routes(target)
        if found is None:
            found = self._open_inference.of_strangers(target) or self._repository.of_strangers(target)
        return _NO_ROUTES if found is None else found

    def _answer(self, request: Request, exchange: Streaming, route: RestRoute) -> None:
        try:
            route.answer(request, exchange)
            request.body, request.in_place = (
                b"",
                None,
            )  # what it says is in tensors now, which are counted; its text is not
        except SkyloomError as error:
            self._refuse(request, exchange, route, failed(error))
        except RecursionError:  # where it was read in two steps, the first may have had just enough room
            self._refuse(request, exchange, route, refusal(400, "The body is nested too deeply."))
        except Exception:  # a defect of ours; the client gets an answer and no detail
            traceback.print_exc(file=sys.stderr)
            self._refuse(request, exchange, route, refusal(500, "The server made a mistake."))

    def _unpack(self, request: Request, exchange: Streaming, route: RestRoute) -> None:
        """Unpack a body, on a thread if it is large; then answer."""
        body, encoding, most = request.body, request.head.headers[b"content-encoding"], self._max_bytes

        def answer(made: bytes) -> None:
            request.body = made
            self._answer(request, exchange, route)

        def refused(error: SkyloomError) -> None:
            self._refuse(request, exchange, route, failed(error))

        try:
            made = unpacked_at_once(body, encoding, most)
            if made is None:
                self._beside.run(lambda: unpacked(body, encoding, most), answer, refused, len(body))
                request.body = b""
        except SkyloomError as error:
            refused(error)
            return
        if made is not None:
            answer(made)

    def _refuse(self, request: Request, exchange: Exchange, route: RestRoute, response: Response) -> None:
        exchange.answer(self._desk.count(request, response) if route.is_inference else response)

    def _document(self, request: Request) -> Response:
        if not self._told:
            self._told = msgspec.json.encode(document(self._plane, self._table))
        return packed(Response(200, self._told), request.head.headers)

    def _metrics(self, request: Request) -> Response:
        return Response(200, render(self._plane), CONTENT_TYPE)

    # -- guards -------------------------------------------------------------------------------------------------------------

    def _problem(
        self,
        method: bytes,
        headers: Mapping[bytes, bytes],
        routes: Mapping[bytes, RestRoute],
        route: RestRoute | None,
    ) -> Response | None:
        if not self._hosts.knows(headers.get(b"host")):
            return refusal(421, "The Host header names another server.")
        if not _are_open(routes):
            try:
                self._plane.access.check(headers.get(b"authorization"))
            except SkyloomError as error:
                return failed(error)
        if not routes:
            return refusal(404, "There is no such address. The protocol starts at /v2.")
        if route is None:
            allowed = b", ".join(sorted(routes))
            return refusal(405, f"Use {allowed.decode()} here.", ((b"allow", allowed),))
        return _content_problem(headers, route.takes) if route.takes else None


def _are_open(routes: Mapping[bytes, RestRoute]) -> bool:
    return any(each.is_open for each in routes.values())


def _content_problem(headers: Mapping[bytes, bytes], takes: tuple[bytes, ...]) -> Response | None:
    given = headers.get(b"content-type")
    kind = b"" if given is None else given.partition(b";")[0].strip().lower() or b"?"
    if kind not in takes:
        named = " or ".join(each.decode() for each in takes if each)
        return refusal(415, f"Send Content-Type: {named}.")
    if headers.get(b"content-encoding", b"identity").lower() not in ENCODINGS:
        return refusal(415, "Send Content-Encoding: gzip, deflate or none.")
    return None
