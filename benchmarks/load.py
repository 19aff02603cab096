"""A load generator: N connections that each send a request, wait for the whole answer, and send the next. asyncio, no HTTP library.

Runs as a process of its own (``python -m benchmarks.load`` with a `Load` as JSON on stdin), so that its work is not the server's.
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from typing import cast

import msgspec
import uvloop

_LENGTH = b"content-length:"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send.

    Attributes:
        requests: whole requests as bytes; each connection takes its turn through them.
        count: stop after so many answers; 0 for no such limit.
        duration_s: stop after so long; 0 for no such limit.
        warmup_s: answers of the first seconds are not counted.
    """

    host: str
    port: int
    requests: tuple[bytes, ...]
    connections: int
    count: int = 0
    duration_s: float = 0.0
    warmup_s: float = 0.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. Every answer is counted, good or not; the latencies are of all counted ones, sorted, in seconds."""

    wall_s: float
    latencies_s: tuple[float, ...]
    statuses: dict[str, int]


class Connection(asyncio.Protocol):
    """One client: never more than one request on its way."""

    def __init__(self, generator: "Generator") -> None:
        self._generator = generator
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._send()

    def _send(self) -> None:
        request = self._generator.next_request()
        assert self._transport is not None
        if request is None:
            self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = bytes(self._buffer[:head]).lower()
        start = lower.index(_LENGTH) + len(_LENGTH)
        length = int(lower[start:].split(b"\r\n", 1)[0])
        if len(self._buffer) < head + 4 + length:
            return
        status = lower[9:12].decode()
        self._buffer.clear()
        self._generator.answered(status, self._sent)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._generator.closed(exc)


class Generator:
    """Hands out requests to the connections and counts their answers."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._handed_out = 0
        self._open = load.connections
        self.done = asyncio.get_running_loop().create_future()
        self.began = time.perf_counter()
        self.counting_from = self.began + load.warmup_s
        self.latencies: list[float] = []
        self.statuses: dict[str, int] = {}
        self.ended = self.began

    def next_request(self) -> bytes | None:
        load, now = self._load, time.perf_counter()
        if (load.count and self._handed_out >= load.count) or (
            load.duration_s and now - self.counting_from > load.duration_s
        ):
            return None
        self._handed_out += 1
        return load.requests[self._handed_out % len(load.requests)]

    def answered(self, status: str, sent: float) -> None:
        now = time.perf_counter()
        if sent >= self.counting_from:
            self.latencies.append(now - sent)
            self.statuses[status] = self.statuses.get(status, 0) + 1
            self.ended = now

    def closed(self, error: Exception | None) -> None:
        if error is not None:
            self.statuses["broken"] = self.statuses.get("broken", 0) + 1
        self._open -= 1
        if not self._open and not self.done.done():
            self.done.set_result(None)


async def run(load: Load) -> Outcome:
    """Send the load and wait until every connection is done."""
    loop = asyncio.get_running_loop()
    generator = Generator(load)
    for _ in range(load.connections):
        await loop.create_connection(lambda: Connection(generator), load.host, load.port)
    await generator.done
    wall_s = generator.ended - generator.counting_from
    return Outcome(
        wall_s=wall_s, latencies_s=tuple(sorted(generator.latencies)), statuses=dict(sorted(generator.statuses.items()))
    )


def request(verb: str, path: str, host: str, token: str, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """An HTTP/1.1 request as bytes."""
    lines = [
        f"{verb} {path} HTTP/1.1",
        f"Host: {host}",
        f"Authorization: Bearer {token}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


if __name__ == "__main__":
    told = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    # A buffered writer of our own: under PYTHONUNBUFFERED the standard one may write a part and say so to nobody.
    with os.fdopen(1, "wb", closefd=False) as out:
        out.write(msgspec.json.encode(uvloop.run(run(told))))
