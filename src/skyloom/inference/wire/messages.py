"""A request and an answer of HTTP, as values: structs, since an object of Python's own takes thrice as long to make."""

import functools
import http
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

REASONS = {status.value: status.phrase for status in http.HTTPStatus}
JSON = b"application/json"
# Headers that decide who, where or how long: two of them are two opinions, so the request is refused.
SINGLE = frozenset(
    {
        b"host",
        b"authorization",
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"transfer-encoding",
        b"expect",
        b"inference-header-content-length",
    }
)


class Head(NamedTuple):
    """A request without its body. ``headers`` has lower-case names; ``target`` is the path without its query."""

    method: bytes
    target: bytes
    headers: Mapping[bytes, bytes]


class Request(msgspec.Struct, eq=False):
    """One request.

    Attributes:
        is_open: it was admitted without a token; set by the site. Such requests have a small budget of their own for what they keep.
        in_place: the body, where the site said where it is to lie; `body` is empty then.
        max_bytes: of its body, where the site wants less than the wire allows; 0 for no wish.
    """

    head: Head
    is_open: bool = False
    max_bytes: int = 0
    body: bytes = b""
    in_place: memoryview | None = None
    arrived_at: float = 0.0


Fields = tuple[tuple[bytes, bytes], ...]


class Response(msgspec.Struct, eq=False):
    """One answer. ``trailers`` come after the body; in HTTP/1.1 only an answer in parts has room for them."""

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    headers: Fields = ()
    trailers: Fields = ()

    def encode(self, closing: bool, without_body: bool) -> bytes:
        """Write it as bytes."""
        if len(self.headers) == 1 and not closing and not without_body:  # the usual answer
            begin, ((name, value),) = _beginning(self.status, self.content_type), self.headers
            return b"%b%d\r\n%b: %b\r\n\r\n%b" % (begin, len(self.body), name, value, self.body)
        parts = [_beginning(self.status, self.content_type), b"%d\r\n" % len(self.body)]
        for name, value in self.headers:
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"connection: close\r\n\r\n" if closing else b"\r\n")
        if not without_body:
            parts.append(self.body)
        return b"".join(parts)

    def encode_head(self, closing: bool, chunked: bool) -> bytes:
        """Write the head of an answer whose length is not known yet."""
        parts = [_opening(self.status, self.content_type)]
        for name, value in self.headers:
            parts += (name, b": ", value, b"\r\n")
        if chunked:
            parts.append(b"transfer-encoding: chunked\r\n")
        parts.append(b"connection: close\r\n\r\n" if closing else b"\r\n")
        return b"".join(parts)


@functools.lru_cache(maxsize=256)
def _beginning(status: int, content_type: bytes) -> bytes:
    """What all whole answers of one kind begin with, up to their length."""
    return _opening(status, content_type) + b"content-length: "


def _opening(status: int, content_type: bytes) -> bytes:
    return b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\nx-content-type-options: nosniff\r\n" % (
        status,
        REASONS[status].encode(),
        content_type,
    )
