"""Server-sent events (the HTML standard's ``text/event-stream``): how parts of an answer are told to a browser or an SDK."""

from skyloom.inference.wire.messages import Fields, Response

EVENTS = b"text/event-stream"
# Whoever stands between must not keep parts back, or keep them for others.
_LIVE: Fields = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


def opening(headers: Fields = ()) -> Response:
    """The head of an answer that is made of events, for `Streaming.begin`."""
    return Response(200, b"", EVENTS, (*_LIVE, *headers))


def event(content: bytes, name: str = "") -> bytes:
    """One event. Each line of ``content`` becomes a line of it, so that no content can end it early or begin another."""
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    head = b"event: %b\n" % name.encode() if name else b""
    return head + b"".join([b"data: %b\n" % line for line in lines]) + b"\n"
