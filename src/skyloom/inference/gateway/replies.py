"""A replica's answer as the client gets it. Pure."""

from skyloom.inference.gateway.forwarding import answer_fields, status_of_call
from skyloom.inference.gateway.upstream import Reply
from skyloom.inference.gateway.words import GRPC, call_failed, of_http, refused
from skyloom.inference.wire.messages import REASONS, Fields, Response

_OCTETS = b"application/octet-stream"


def status_of(reply: Reply, *, is_call: bool) -> int:
    """The HTTP status that an answer means."""
    return status_of_call(dict(reply.fields), reply.status) if is_call else reply.status


def response_to(reply: Reply, *, is_call: bool) -> Response:
    """A whole answer."""
    if is_call:
        return _call_answered(reply)
    if reply.status not in REASONS:
        return refused(502, "The replica's answer has no known status.")
    return Response(reply.status, reply.body, _content_type(reply.fields, _OCTETS), answer_fields(reply.fields))


def beginning_of(reply: Reply) -> Response:
    """The head of an answer in parts."""
    status = reply.status if reply.status in REASONS else 502
    return Response(status, b"", _content_type(reply.fields, _OCTETS), answer_fields(reply.fields))


def _call_answered(reply: Reply) -> Response:
    """What stood in the headers on the way stands behind the message, where gRPC has it."""
    fields = answer_fields(reply.fields)
    if reply.status != 200 or not any(name == b"grpc-status" for name, _ in fields):
        return call_failed(of_http(reply.status), f"The replica answered HTTP {reply.status}.")
    if not reply.body:
        return Response(200, b"", GRPC, fields)
    return Response(200, reply.body, _content_type(reply.fields, GRPC), trailers=fields)


def _content_type(fields: Fields, default: bytes) -> bytes:
    return next((value for name, value in fields if name == b"content-type"), default)
