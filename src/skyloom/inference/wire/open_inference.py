"""The Open Inference Protocol v2 over REST: inference, metadata, configuration, statistics, health (kserve's and Triton's words)."""

import functools
from collections.abc import Callable

import msgspec

from skyloom.core.errors import Unavailable
from skyloom.inference import codec
from skyloom.inference.batcher import Ticket
from skyloom.inference.dataplane import DataPlane, ServerMetadata
from skyloom.inference.moulds import Moulds
from skyloom.inference.wire.desk import Desk, failed, json_answer, prediction_header
from skyloom.inference.wire.generation import Generation
from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.plain import Plain
from skyloom.inference.wire.repository import Repository
from skyloom.inference.wire.rest_routes import RestRoute, RestTable, at_once, schema
from skyloom.inference.wire.site import Streaming

# Triton's own client names no type. A web page could send such a request too, but not with a token in its header.
TENSOR_BODIES = (b"application/json", b"application/octet-stream", b"")
_BINARY = b"application/octet-stream"
JSON_LENGTH = b"inference-header-content-length"  # tensors lie behind so many bytes of JSON


class OpenInference:
    """The routes of one model. All of them, but health, need a token.

    Args:
        plain: takes its rows by their names; None for a model that takes no tensors.
    """

    def __init__(self, plane: DataPlane, desk: Desk, plain: Plain | None = None) -> None:
        self._plane = plane
        self._desk = desk
        self._plain = plain
        self._repository = Repository(plane)
        self._of_model = self._model_routes()
        self._moulds = Moulds(plane.contract)
        plan = plane.plan
        named = [msgspec.json.encode(word).replace(b"%", b"%%") for word in (plan.model, plan.model_version)]
        beginning = b'{"model_name":%b,"model_version":%b,"id":"' % (named[0], named[1])
        # The prediction's id twice, and the outputs: as `codec.encode_answer` writes them.
        self._usual = beginning + b'%b","parameters":{"skyloom-prediction-id":"%b"},"outputs":%b}'

    def table(self) -> RestTable:
        """Every address: those of the server, and those of the model with and without its version."""
        plan = self._plane.plan
        found: RestTable = {
            b"/v2": _get(lambda _: json_answer(ServerMetadata()), "What this server is and can."),
            b"/v2/health/live": _get(lambda _: json_answer({"live": True}), "The process answers.", is_open=True),
            b"/v2/health/ready": _get(self._ready, "New requests are taken.", is_open=True),
            **self._repository.table(),
        }
        name = b"/v2/models/" + plan.model.encode()
        for beginning in (name, name + b"/versions/" + plan.model_version.encode()):
            for rest, methods in self._of_model.items():
                found[beginning + (b"/" + rest if rest else b"")] = methods
        found[b"/v2/models/stats"] = _get(self._all_statistics, "How long requests waited and models worked.")
        return found

    def of_strangers(self, target: bytes) -> dict[bytes, RestRoute] | None:
        """The routes of a model or version that is not served here: they say so. None: the address is none of this protocol's."""
        found = named(target)
        methods = self._of_model.get(found[2]) if found is not None else None
        if found is None or methods is None:
            return None
        name, version, _ = found

        def answer(request: Request, exchange: Streaming) -> None:
            self._plane.check_model(name, version)
            methods[request.head.method].answer(request, exchange)

        return {method: route._replace(answer=answer) for method, route in methods.items()}

    def of_model(self, rest: bytes) -> dict[bytes, RestRoute] | None:
        """The routes below the model's own address: ``infer``, ``config``, or nothing for the address itself."""
        return self._of_model.get(rest)

    def _model_routes(self) -> dict[bytes, dict[bytes, RestRoute]]:
        generation = Generation(self._plane, self._desk)
        return {
            b"": _get(lambda _: json_answer(self._plane.metadata()), "What the model takes and gives."),
            b"ready": _get(self._model_ready, "New requests for this model are taken."),
            b"config": _get(lambda _: json_answer(self._plane.config()), "The model's configuration."),
            b"stats": _get(self._statistics, "How long its requests waited and it worked."),
            b"infer": {
                b"POST": RestRoute(
                    self._infer,
                    "Infer with tensors.",
                    is_inference=True,
                    takes=TENSOR_BODIES,
                    asks=schema("InferRequest"),
                    gives=schema("InferAnswer"),
                    reads_in_place=True,
                ),
            },
            **({b"predict": self._plain.methods()} if self._plain is not None else {}),
            **generation.of_model(),
            **self._repository.of_model(),
        }

    def _ready(self, request: Request) -> Response:
        return _ready(self._plane.ready, {"ready": True})

    def _model_ready(self, request: Request) -> Response:
        return _ready(self._plane.ready, {"name": self._plane.plan.model, "ready": True})

    def _statistics(self, request: Request) -> Response:
        return json_answer({"model_stats": [self._plane.statistics()]})

    def _all_statistics(self, request: Request) -> Response:
        return json_answer({"model_stats": self._plane.all_statistics()})

    def _infer(self, request: Request, exchange: Streaming) -> None:
        length = request.head.headers.get(JSON_LENGTH)
        if length is not None and (not length.isdigit() or len(length) > 12):
            raise codec.unreadable(
                "Inference-Header-Content-Length is not a number of bytes.", "Send the JSON's length."
            )
        if length is None:
            asked = self._moulds.read(request.body)
        else:
            body = request.body if request.in_place is None else request.in_place
            asked = codec.decode(body, int(length), self._plane.contract)
        worded = self._plainly
        if asked.binary:
            worded = functools.partial(self._worded, binary=asked.binary)
        self._desk.ask(request, exchange, asked.call, worded, asked.timeout_s, asked.priority)

    def _plainly(self, ticket: Ticket) -> Response:
        """The usual answer: all outputs in JSON, as the request log has them."""
        outputs = ticket.logged_outputs
        if outputs is None or ticket.call.client_id or ticket.cached_from:
            return self._worded(ticket, frozenset())
        name = ticket.prediction_id.encode()
        return Response(200, self._usual % (name, name, outputs), headers=((b"skyloom-prediction-id", name),))

    def _worded(self, ticket: Ticket, binary: frozenset[int]) -> Response:
        plan = self._plane.plan
        headers = prediction_header(ticket)
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
        length = (JSON_LENGTH, str(len(body)).encode())
        return Response(200, b"".join([body, *raw]), _BINARY, (*headers, length))


def named(target: bytes) -> tuple[str, str, bytes] | None:
    """Model, version ("" for whichever) and what follows, of an address below ``/v2/models``; None for any other."""
    try:
        parts = target.decode("ascii").split("/")
    except UnicodeDecodeError:
        return None
    if parts[:3] != ["", "v2", "models"] or not 4 <= len(parts) <= 8 or not all(parts[3:]):
        return None
    name, rest, version = parts[3], parts[4:], ""
    if rest[:1] == ["versions"] and len(rest) >= 2:
        version, rest = rest[1], rest[2:]
    return name, version, "/".join(rest).encode()


def _get(answer: Callable[[Request], Response], summary: str, is_open: bool = False) -> dict[bytes, RestRoute]:
    return {b"GET": RestRoute(at_once(answer), summary, is_open)}


def _ready(is_ready: bool, value: object) -> Response:
    if is_ready:
        return json_answer(value)
    return failed(Unavailable("This replica takes no requests.", next_action="Send again: another replica answers."))
