"""What the gateway says itself, as the protocol at hand words it: REST in JSON, gRPC in a status."""

from collections.abc import Callable

import msgspec

from skyloom.core.errors import Category, InternalError, LimitExceeded, SkyloomError, Unavailable
from skyloom.inference.gateway.trouble import Trouble
from skyloom.inference.wire.messages import Fields, Response
from skyloom.inference.wire.status import GRPC_STATUS, HTTP_STATUS, GrpcStatus

GRPC = b"application/grpc"
_CHALLENGE = ((b"www-authenticate", b"Bearer"),)
_RETRY = ((b"retry-after", b"1"),)
_PUSHBACK = ((b"grpc-retry-pushback-ms", b"1000"),)  # github.com/grpc/proposal A6
_LATER = (Category.LIMIT, Category.UNAVAILABLE)
_OF_HTTP = {
    400: GrpcStatus.INTERNAL,
    401: GrpcStatus.UNAUTHENTICATED,
    403: GrpcStatus.PERMISSION_DENIED,
    404: GrpcStatus.UNIMPLEMENTED,
    408: GrpcStatus.DEADLINE_EXCEEDED,
    413: GrpcStatus.RESOURCE_EXHAUSTED,
    429: GrpcStatus.RESOURCE_EXHAUSTED,
    431: GrpcStatus.RESOURCE_EXHAUSTED,
    502: GrpcStatus.UNAVAILABLE,
    503: GrpcStatus.UNAVAILABLE,
    504: GrpcStatus.UNAVAILABLE,
}


class NoReplica(Unavailable):
    """No replica came while the request waited."""


class TooManyHeld(LimitExceeded):
    """As many requests wait for a replica as may."""


class AllBusy(LimitExceeded):
    """All replicas stayed busy while the request waited."""


class ReplicaLost(Unavailable):
    """The replica that had the request is gone, and it may not be sent again."""


class GatewayDraining(Unavailable):
    """The gateway is stopping."""


class ReplicaSilent(Unavailable):
    """A replica took the request and said nothing."""


class CallerLate(Unavailable):
    """The caller's own deadline passed while the request waited."""


class AnswerTooLarge(InternalError):
    """A replica's answer is over the gateway's bound."""


def draining() -> SkyloomError:
    """The gateway stops."""
    return GatewayDraining("The gateway takes no requests.", next_action="Send again in a moment.")


def too_many(count: int) -> SkyloomError:
    """So many wait already."""
    return TooManyHeld(f"{count} requests wait for a replica already.", next_action="Send again in a moment.")


def troubled(trouble: Trouble) -> SkyloomError:
    """What a trouble on the way comes to."""
    return _TROUBLES[trouble]()


_TROUBLES: dict[Trouble, Callable[[], SkyloomError]] = {
    Trouble.UNREACHED: lambda: NoReplica("The replica cannot be reached.", next_action="Send again."),
    Trouble.LOST: lambda: ReplicaLost("The replica was lost before it answered.", next_action="Send again."),
    Trouble.SILENT: lambda: ReplicaSilent("The replica does not answer.", next_action="Send again."),
    Trouble.TOO_LARGE: lambda: AnswerTooLarge("The answer is too large.", next_action="Ask for less."),
}


def failed(error: SkyloomError, *, is_call: bool) -> Response:
    """Word an error of ours."""
    if is_call and isinstance(error, CallerLate):
        return call_failed(GrpcStatus.DEADLINE_EXCEEDED, str(error))
    if is_call:
        more = _PUSHBACK if error.category in _LATER else ()
        return call_failed(GRPC_STATUS[error.category], str(error), more)
    headers: Fields = _CHALLENGE if error.category is Category.UNAUTHENTICATED else ()
    if error.category in _LATER:
        headers = _RETRY
    return _worded(HTTP_STATUS[error.category], str(error), error.code, error.category, headers)


def refused(status: int, message: str, headers: Fields = (), *, is_call: bool = False) -> Response:
    """Word an error that has no exception of its own."""
    if is_call:
        return call_failed(of_http(status), message)
    category = next((kind for kind, number in HTTP_STATUS.items() if number == status), Category.INVALID)
    return _worded(status, message, f"http_{status}", category, headers)


def call_failed(code: GrpcStatus, message: str, more: Fields = ()) -> Response:
    """An answer without a message. Ours are plain ASCII without a percent sign, so they need no escapes."""
    told = message.encode("ascii", "replace").replace(b"%", b"?")
    return Response(200, b"", GRPC, ((b"grpc-status", b"%d" % code), (b"grpc-message", told), *more))


def of_http(status: int) -> GrpcStatus:
    """What an answer that is none of gRPC's means, as gRPC's table of HTTP statuses has it."""
    return _OF_HTTP.get(status, GrpcStatus.INTERNAL)


def _worded(status: int, message: str, code: str, category: Category, headers: Fields) -> Response:
    body = {"error": message, "code": code, "category": category}
    return Response(status, msgspec.json.encode(body), headers=headers)
