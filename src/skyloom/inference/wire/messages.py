"""A request and an answer of HTTP, as values."""

import http
from collections.abc import Mapping

_REASONS = {status.value: status.phrase for status in http.HTTPStatus}
JSON = b"application/json"


class Request:
    """One request. ``headers`` has lower-case names; ``target`` is the path without its query."""

    __slots__ = ("arrived_at", "body", "headers", "method", "target")

    def __init__(self, method: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = b""
        self.arrived_at = 0.0


class Response:
    """One answer."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self, status: int, body: bytes = b"", content_type: bytes = JSON, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers

    def encode(self, closing: bool, without_body: bool) -> bytes:
        """Write it as bytes."""
        lines = [
            b"HTTP/1.1 %d %s" % (self.status, _REASONS[self.status].encode()),
            b"content-type: " + self.content_type,
            b"content-length: %d" % len(self.body),
            b"x-content-type-options: nosniff",
            *(name + b": " + value for name, value in self.headers),
        ]
        if closing:
            lines.append(b"connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if without_body else self.body)
