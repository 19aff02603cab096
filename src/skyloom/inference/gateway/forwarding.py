"""Heads on their way through: what is passed on of a request and of an answer, and what the gateway says itself. Pure."""

import re
from collections.abc import Iterable, Mapping

from skyloom.inference.wire.messages import Fields, Head, Request

# They speak of one connection (RFC 9110 §7.6.1), or of a body's length, which is written anew.
_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
        b"content-length",
        b"host",
        b"grpc-timeout",
    }
)
_WRITTEN_AGAIN = frozenset({b"content-type", b"x-content-type-options", b"x-request-id"})
# HTTP/2 lets through more than a line of HTTP/1.1 can hold (RFC 9113 §8.2.1 and §10.3); what cannot be written the same is refused.
_NAME = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_TARGET = re.compile(rb"/[!-~]*")
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_REQUEST_ID = re.compile(rb"[!-~]{1,200}")
_MAX_KNOWN, _MAX_KNOWN_BYTES = 256, 2_048
_OF_GRPC = {
    0: 200,
    1: 499,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    12: 404,
    14: 503,
    16: 401,
}


def is_passable(head: Head) -> bool:
    """True when a head means the same as lines of HTTP/1.1."""
    if not _TARGET.fullmatch(head.target):
        return False
    return all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in head.headers.items())


class Heads:
    """Heads as the replicas get them. Clients send the same head again and again, as one object; it is written once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Head, bytes]] = {}

    def written(self, head: Head) -> bytes:
        """A request's head without its last lines: those that differ."""
        found = self._known.get(id(head))
        if found is not None:
            return found[1]
        made = _written(head)
        if len(made) <= _MAX_KNOWN_BYTES:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[id(head)] = head, made  # the head is kept with it, so its id stays its own
        return made


def _written(head: Head) -> bytes:
    named = {part.strip().lower() for part in head.headers.get(b"connection", b"").split(b",")}
    parts = [b"%b %b HTTP/1.1\r\n" % (head.method, head.target)]
    for name, value in head.headers.items():
        if name not in _HOP and name not in named:
            parts.append(b"%b: %b\r\n" % (name, value))
    return b"".join(parts)


def ending(host: bytes, size_bytes: int, timeout_s: float | None) -> bytes:
    """The last lines of a head: those that no two requests need to share."""
    timeout = b"" if timeout_s is None else b"grpc-timeout: %dm\r\n" % max(1, min(int(timeout_s * 1_000), 99_999_999))
    return b"host: %b\r\n%bcontent-length: %d\r\n\r\n" % (host, timeout, size_bytes)


def timeout_s(headers: Mapping[bytes, bytes]) -> float | None:
    """How long the caller of a gRPC method waits; None when it does not say, or not readably."""
    found = _TIMEOUT.fullmatch(headers.get(b"grpc-timeout", b""))
    return int(found[1]) * _UNITS_S[found[2]] if found else None


def request_id(request: Request, made: bytes) -> bytes:
    """The caller's own id, or the one that was made."""
    given = request.head.headers.get(b"x-request-id")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else made


def answer_fields(fields: Iterable[tuple[bytes, bytes]]) -> Fields:
    """What is passed on of an answer's headers; names are lower-case."""
    return tuple((name, value) for name, value in fields if name not in _HOP and name not in _WRITTEN_AGAIN)


def status_of_call(headers: Mapping[bytes, bytes], status: int) -> int:
    """The HTTP status that a gRPC answer means."""
    told = headers.get(b"grpc-status")
    if told is None:
        return status if status != 200 else 500
    return _OF_GRPC.get(int(told), 500) if told.isdigit() and len(told) < 4 else 500
