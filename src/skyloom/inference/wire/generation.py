"""Triton's generate extension: plain JSON fields in, plain JSON fields out, for one row; or the same as a stream of events."""

from typing import Any

import msgspec

from skyloom.inference.batcher import Ticket
from skyloom.inference.codec import priority_of, timeout_of, unreadable
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.rows import plain, read_rows
from skyloom.inference.wire.desk import Desk, prediction_header
from skyloom.inference.wire.events import EVENTS, event
from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.rest_routes import JSON_BODY, RestRoute, schema
from skyloom.inference.wire.site import Streaming

_OWN = frozenset({"id", "parameters"})
_MAX_ID = 200
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Generation:
    """``generate`` and ``generate_stream`` of one model. It makes its answer in one piece, so a stream of it has one event."""

    def __init__(self, plane: DataPlane, desk: Desk) -> None:
        self._plane = plane
        self._desk = desk
        self._inputs = {spec.name for spec in plane.contract.signature.inputs}

    def of_model(self) -> dict[bytes, dict[bytes, RestRoute]]:
        """The addresses below a model's."""
        return {
            b"generate": {
                b"POST": RestRoute(
                    self._whole, "Infer with plain fields.", is_inference=True, takes=JSON_BODY, asks=schema("Fields")
                ),
            },
            b"generate_stream": {
                b"POST": RestRoute(
                    self._stream, "As generate, as events.", is_inference=True, takes=JSON_BODY, asks=schema("Fields")
                ),
            },
        }

    def _whole(self, request: Request, exchange: Streaming) -> None:
        self._ask(request, exchange, is_stream=False)

    def _stream(self, request: Request, exchange: Streaming) -> None:
        self._ask(request, exchange, is_stream=True)

    def _ask(self, request: Request, exchange: Streaming, is_stream: bool) -> None:
        fields = read_fields(request.body)
        own = {name: fields[name] for name in _OWN - self._inputs if name in fields}
        parameters = _as(dict[str, Any], own.get("parameters"), "parameters") or {}
        client_id = _as(str, own.get("id"), "id") or ""
        if len(client_id) > _MAX_ID:
            raise unreadable("The field 'id' is too long.", f"Send at most {_MAX_ID} characters.")
        tensors = read_rows(self._plane.contract, [{name: fields[name] for name in fields if name not in own}])
        call = self._plane.contract.call(tensors, (), client_id)

        def worded(ticket: Ticket) -> Response:
            content = self._written(ticket)
            if is_stream:
                return Response(200, event(content), EVENTS, prediction_header(ticket))
            return Response(200, content, headers=prediction_header(ticket))

        self._desk.ask(request, exchange, call, worded, timeout_of(parameters), priority_of(parameters))

    def _written(self, ticket: Ticket) -> bytes:
        assert ticket.outputs is not None
        plan, outputs = self._plane.plan, self._plane.contract.signature.outputs
        answer: dict[str, Any] = {
            "id": ticket.call.client_id or ticket.prediction_id,
            "model_name": plan.model,
            "model_version": plan.model_version,
        }
        for spec, tensor in zip(outputs, ticket.outputs, strict=True):
            row = plain(spec, tensor.ravel())
            answer[spec.name] = row[0] if len(row) == 1 else row
        return msgspec.json.encode(answer)


def read_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """The fields of a JSON object, not read any further. Raises `RequestUnreadable`."""
    try:
        return _fields.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(f"The body is not a JSON object: {error}.", "Send an object of fields.") from None


def _as(kind: Any, raw: msgspec.Raw | None, name: str) -> Any:
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(
            f"The field {name!r} cannot be read: {error}.", "See the protocol's generate extension."
        ) from None
