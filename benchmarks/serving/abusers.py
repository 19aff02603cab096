"""Clients that mean harm: each does its worst again and again until it is ended. ``python -m benchmarks.serving.abusers NAME SPEC``.

SPEC is JSON: ``port``, ``grpc_port``, ``path``, ``headers``, ``body`` (a good request), ``pause_s`` between two acts.
"""

import contextlib
import gzip
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from skyloom.inference.wire.fields import block
from skyloom.inference.wire.frames import PREFACE, ErrorCode, Flag, FrameKind, Http2Setting, frame, reset, settings

_LINKS, _DEAF_LINKS = 64, 8
_METHOD = b"/inference.GRPCInferenceService/ModelInfer"
_WRITTEN: list[bytes] = []
_PING = frame(FrameKind.PING, 0, 0, bytes(8))


class Victim(NamedTuple):
    """Who is abused, and with what manners."""

    port: int
    grpc_port: int
    path: str
    headers: dict[str, str]
    body: str
    grpc_body: str
    pause_s: float

    def head(self, *lines: str, verb: str = "POST", path: str = "") -> bytes:
        """A request's head with its token."""
        shown = [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([f"{verb} {path or self.path} HTTP/1.1", "Host: 127.0.0.1", *shown, *lines, "", ""]).encode()

    def whole(self, body: bytes, *lines: str) -> bytes:
        """A request with a body of a known length."""
        return self.head("Content-Type: application/json", f"Content-Length: {len(body)}", *lines) + body

    def dial(self, port: int = 0) -> socket.socket:
        """A connection."""
        return socket.create_connection(("127.0.0.1", port or self.port), timeout=5)

    def dial_http2(self, *more: bytes) -> socket.socket:
        """A connection that has greeted."""
        link = self.dial(self.grpc_port)
        link.sendall(b"".join((PREFACE, settings({}), *more)))
        return link

    def call(self, number: int) -> bytes:
        """A gRPC call."""
        fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", _METHOD), (b":authority", b"127.0.0.1")]
        fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        fields += [(name.encode(), value.encode()) for name, value in self.headers.items()]
        body = bytes.fromhex(self.grpc_body)
        head = frame(FrameKind.HEADERS, Flag.END_HEADERS, number, block(fields))
        return head + frame(FrameKind.DATA, Flag.END_STREAM, number, body)


def send(victim: Victim, content: bytes, times: int = 1) -> None:
    """One connection that sends, maybe many times, and reads one answer."""
    with victim.dial() as link:
        for _ in range(times):
            link.sendall(content)
        link.recv(65_536)


def declared(victim: Victim) -> None:
    """A body that is said to have 5 GB."""
    send(victim, victim.head("Content-Type: application/json", "Content-Length: 5368709120") + bytes(65_536))


def chunked(victim: Victim) -> None:
    """A body without end, in chunks of 1 MB."""
    part = bytes(2**20)
    with victim.dial() as link:
        link.sendall(victim.head("Content-Type: application/json", "Transfer-Encoding: chunked"))
        for _ in range(5_120):
            link.sendall(b"%x\r\n" % len(part) + part + b"\r\n")


def crumbs(victim: Victim) -> None:
    """A body in chunks of six bytes."""
    head = victim.head("Content-Type: application/json", "Transfer-Encoding: chunked")
    send(victim, head + b"6\r\n      \r\n" * 20_000)


def deep(victim: Victim) -> None:
    """JSON of ten thousand levels."""
    send(victim, victim.whole(b'{"inputs": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"))


def bomb(victim: Victim) -> None:
    """A body that unpacks to 64 MB."""
    send(victim, victim.whole(_BOMB, "Content-Encoding: gzip"))


def malformed(victim: Victim) -> None:
    """Tensors of every wrong kind."""
    for body in MALFORMED.values():
        send(victim, victim.whole(body))
        time.sleep(victim.pause_s)


def slow(victim: Victim) -> None:
    """Bodies that come a byte at a time, on many connections."""
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(victim.dial()) for _ in range(_LINKS)]
        for link in links:
            link.sendall(victim.head("Content-Type: application/json", "Content-Length: 1000000") + b" " * 900_000)
        for _ in range(100):
            time.sleep(max(victim.pause_s, 0.05))
            for link in links:
                with contextlib.suppress(OSError):
                    link.sendall(b" ")


def deaf(victim: Victim) -> None:
    """Many requests for much, and nothing of it read, on some connections."""
    asked = victim.head(verb="GET", path="/openapi.json") * 200
    with contextlib.ExitStack() as stack:
        for _ in range(_DEAF_LINKS):
            link = stack.enter_context(victim.dial())
            link.settimeout(0.2)
            with contextlib.suppress(OSError):
                link.sendall(asked)
        time.sleep(3)


def deaf_calls(victim: Victim) -> None:
    """gRPC calls whose answers have no window."""
    shut = settings({Http2Setting.INITIAL_WINDOW_SIZE: 0})
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            link = stack.enter_context(victim.dial_http2(shut))
            link.sendall(b"".join(victim.call(number) for number in range(1, 400, 2)))
        time.sleep(3)


def resets(victim: Victim) -> None:
    """Calls that are taken back at once; they are written once, so that all of the time goes into sending them."""
    if not _WRITTEN:
        _WRITTEN.append(
            b"".join(victim.call(number) + reset(number, ErrorCode.CANCEL) for number in range(1, 10_000, 2))
        )
    with victim.dial_http2() as link:
        link.sendall(_WRITTEN[0])


def pings(victim: Victim) -> None:
    """Nothing but frames that ask for an answer."""
    with victim.dial_http2() as link:
        for _ in range(100):
            link.sendall(_PING * 100)


def endless_head(victim: Victim) -> None:
    """A header block that does not end, a frame at a time."""
    with victim.dial_http2() as link:
        link.sendall(frame(FrameKind.HEADERS, 0, 1, b"\x00\x01a\x01b"))
        for _ in range(10_000):
            link.sendall(frame(FrameKind.CONTINUATION, 0, 1, b""))


def nothing(victim: Victim) -> None:
    """Does no harm: how far the figures swing by themselves."""


ABUSERS: dict[str, Callable[[Victim], None]] = {
    made.__name__.replace("_", "-"): made
    for made in (
        *(declared, chunked, crumbs, deep, bomb, malformed, slow, deaf),
        *(deaf_calls, resets, pings, endless_head, nothing),
    )
}
_BOMB = gzip.compress(bytes(2**26)) if sys.argv[1:2] == ["bomb"] else b""
_X = '{"inputs": [{"name": "%s", "shape": %s, "datatype": "%s", "data": %s}]}'
MALFORMED = {
    name: body if isinstance(body, bytes) else body.encode()
    for name, body in {
        "nothing": b"",
        "half": b'{"inputs": [',
        "no inputs": b"{}",
        "unknown input": _X % ("y", "[1, 64]", "FP32", "[1]"),
        "wrong type": _X % ("x", "[1, 64]", "FP64", "[1]"),
        "wrong shape": _X % ("x", "[1, 63]", "FP32", "[1]"),
        "negative shape": _X % ("x", "[-1, 64]", "FP32", "[1]"),
        "huge shape": _X % ("x", f"[{2**62}, 64]", "FP32", "[1]"),
        "shape of 5000 digits": _X % ("x", f"[{'9' * 5_000}, 64]", "FP32", "[1]"),
        "too few": _X % ("x", "[1, 64]", "FP32", "[1]"),
        "too many": _X % ("x", "[1, 64]", "FP32", json.dumps([1] * 10_000)),
        "texts": _X % ("x", "[1, 64]", "FP32", json.dumps(["a"] * 64)),
        "ragged": _X % ("x", "[1, 64]", "FP32", json.dumps([[1] * 63, 2])),
        "too large": _X % ("x", "[1, 64]", "FP32", json.dumps([1e39] * 64)),
        "NaN": _X % ("x", "[1, 64]", "FP32", json.dumps([float("nan")] * 64)),
        "deep": b'{"inputs": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    }.items()
}


def main(name: str, spec: dict[str, Any]) -> None:
    """Abuse until ended. What the server does about it is its business.

    It runs when nobody else wants to: a machine that is shared with those who are measured must not tell its own story. What the server
    spends on this is the question.
    """
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)
    print("begins", flush=True)
    victim = Victim(**spec)
    while True:
        with contextlib.suppress(OSError):
            ABUSERS[name](victim)
        time.sleep(victim.pause_s)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
