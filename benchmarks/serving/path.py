"""What a request costs this server in CPU time, by stage; steady where seconds are not, since other programs do not count.

python -m benchmarks.serving.path                       in this process, without a socket: bytes into the connection, bytes out of it
python -m benchmarks.serving.path --wrk 3               a replica as a process, wrk as its client, three seconds: with the system's part
python -m benchmarks.serving.path --wire grpc --connections 1
"""

import argparse
import asyncio
import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hpack
import msgspec
import uvloop
from benchmarks.serving import loads
from benchmarks.serving.models import MODELS, request
from benchmarks.serving.ours import described
from benchmarks.serving.servers import Target
from benchmarks.serving.wires import Message, Wire, message

from skyloom.inference import batcher as batchers
from skyloom.inference import codec, direct
from skyloom.inference.memory import settle_memory
from skyloom.inference.moulds import Moulds
from skyloom.inference.server import Replica
from skyloom.inference.wire import frames, grpc_site
from skyloom.inference.wire.call_moulds import AnswerMoulds
from skyloom.inference.wire.desk import Desk
from skyloom.inference.wire.fields import FieldReader
from skyloom.inference.wire.grpc_site import GrpcSite
from skyloom.inference.wire.http import Connection
from skyloom.inference.wire.http2 import Http2Connection
from skyloom.inference.wire.outflow import Outflow
from skyloom.inference.wire.rest import Rest
from skyloom.rooms.registry.bundle import BundleFile, Manifest, ModelKind
from skyloom.rooms.serving.plan import Access, Listening, ServePlan

_TOKEN = "bench-token"
_AUTHORIZATION = {"authorization": f"Bearer {_TOKEN}"}
_CALL = "/inference.GRPCInferenceService/ModelInfer"
_GOOD = {Wire.JSON: b"HTTP/1.1 200 OK", Wire.BINARY: b"HTTP/1.1 200 OK", Wire.GRPC: b"skyloom-prediction-id"}
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.path", description=__doc__)
    parser.add_argument("--model", default="small", choices=MODELS)
    parser.add_argument("--wire", default=Wire.JSON, type=Wire, choices=list(Wire))
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wrk", type=int, default=0, metavar="SECONDS", help="a real process and a real client")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skyloom-path-") as folder:
        plan = written(Path(folder), asked.model)
        inputs, _ = request(Path(folder) / "model.onnx")
        sent = message(asked.wire, asked.model, inputs)
        if asked.wrk:
            _print_process(plan, asked, inputs)
        else:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_print_stages(plan, asked, sent))
    return 0


def written(folder: Path, model: str) -> Path:
    """A bundle, its token, and a plan of one replica with everything on; returns the plan."""
    bundle = folder / "bundle"
    bundle.mkdir()
    content = MODELS[model]().SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    profile, signature = described(folder / "model.onnx")
    files = {"model.onnx": content, "profile.json": profile}
    for name, each in files.items():
        (bundle / name).write_bytes(each)
    listed = tuple(
        BundleFile(path=name, digest=f"sha256:{hashlib.sha256(each).hexdigest()}", size_bytes=len(each))
        for name, each in files.items()
    )
    manifest = Manifest(kind=ModelKind.OTHER, signature=signature, files=listed)
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    digest = "sha256:" + hashlib.sha256(_TOKEN.encode()).hexdigest()
    (folder / "access.json").write_bytes(msgspec.json.encode(Access(digests=(digest,))))
    plan = ServePlan(
        project="default",
        endpoint="ep_bench",
        revision="rev_01k9zzzzzzzzzzzzzzzzzzzzzz",
        replica="rep_01k9zzzzzzzzzzzzzzzzzzzzzz",
        model=model,
        model_version="1",
        bundle="bundle",
        access_file="access.json",
        log_folder="requests",
        port_folder="ports",
        ready_file="ready.json",
    )
    path = folder / "plan.json"
    path.write_bytes(msgspec.json.encode(plan))
    return path


# -- without a socket -------------------------------------------------------------------------------------------------------


class _Sink(asyncio.Transport):
    """A client that takes everything at once, and asks again when it has its answer."""

    def __init__(self) -> None:
        self.num_writes = self.num_bytes = 0
        self.told: bytes = b""

    def write(self, content: Any) -> None:
        self.num_writes += 1
        self.num_bytes += len(content)
        self.told = bytes(content)

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """What was given is read all the same."""

    def resume_reading(self) -> None:
        """As before."""


class Stages:
    """Seconds inside of some functions, without those of others among them that they call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def watch(self, name: str, owner: Any, attribute: str) -> Callable[[], None]:
        """Time one function; the answer undoes it."""
        plain = getattr(owner, attribute)
        seconds, inner, clock = self.seconds, self._inner, time.perf_counter

        def timed(*given: Any, **named: Any) -> Any:
            inner.append(0.0)
            began = clock()
            try:
                return plain(*given, **named)
            finally:
                took = clock() - began
                seconds[name] += took - inner.pop()
                inner[-1] += took

        setattr(owner, attribute, timed)
        return lambda: setattr(owner, attribute, plain)


class _Caller:
    """One connection's client: the bytes that it sends for each request."""

    def __init__(self, group: Any, wire: Wire, sent: Message, model: str) -> None:
        self.sink = _Sink()
        self._connection = group.accept()
        self._connection.connection_made(self.sink)
        self._number = -1
        headers = {**_AUTHORIZATION, **sent.headers}
        if wire is Wire.GRPC:
            settings = frames.settings({frames.Http2Setting.INITIAL_WINDOW_SIZE: 2**30})
            self._connection.data_received(frames.PREFACE + settings + frames.window_update(0, 2**30))
            fields = {":method": "POST", ":scheme": "http", ":path": _CALL, ":authority": "127.0.0.1:9000", **headers}
            encoder = hpack.Encoder()
            first, self._block = encoder.encode(fields), encoder.encode(fields)
            self._body = sent.body
            self._send_call(first)
        else:
            headers |= {"Host": "127.0.0.1:8000", "Content-Length": str(len(sent.body))}
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            content = f"POST /v2/models/{model}/infer HTTP/1.1\r\n{lines}\r\n".encode() + sent.body
            self.send = lambda: self._connection.data_received(content)

    def send(self) -> None:
        """Send one request."""
        self._send_call(self._block)

    def _send_call(self, block: bytes) -> None:
        self._number += 2
        head = frames.frame(frames.FrameKind.HEADERS, frames.Flag.END_HEADERS, self._number, block)
        body = frames.frame(frames.FrameKind.DATA, frames.Flag.END_STREAM, self._number, self._body)
        self._connection.data_received(head + body)


async def _print_stages(plan: Path, asked: argparse.Namespace, sent: Message) -> None:
    site = await direct.open_site(plan)
    replica: Replica = site._replica
    group = replica.grpc_connections if asked.wire is Wire.GRPC else replica.connections
    callers = [_Caller(group, asked.wire, sent, asked.model) for _ in range(asked.connections)]

    async def drive(num_requests: int) -> None:
        for _ in range(num_requests // asked.connections):
            for caller in callers:
                caller.send()
            await asyncio.sleep(0)
            while not replica.plane.is_idle:
                await asyncio.sleep(0)

    await drive(2_000)
    settle_memory()
    assert all(_GOOD[asked.wire] in caller.sink.told for caller in callers), callers[0].sink.told
    rounds = []
    for _ in range(asked.rounds):
        began = time.process_time()
        await drive(asked.requests)
        rounds.append((time.process_time() - began) / asked.requests * 1e6)
    stages = Stages()
    undo = [stages.watch(*each) for each in _watched(replica)]
    began = time.perf_counter()
    await drive(asked.requests)
    whole_s = time.perf_counter() - began
    for each in undo:
        each()
    print(f"{min(rounds):.2f} µs of CPU a request, of {asked.rounds} rounds {sorted(round(one, 2) for one in rounds)}")
    for name, seconds in sorted(stages.seconds.items(), key=lambda item: -item[1]):
        print(f"  {name:32}{seconds / whole_s:>7.1%}{seconds / asked.requests * 1e6:>8.2f} µs")
    print(f"  {'loop, and this measurement':32}{1 - sum(stages.seconds.values()) / whole_s:>7.1%}")
    site.close()


def _watched(replica: Replica) -> list[tuple[str, Any, str]]:
    plane = replica.plane
    queue = plane._batcher
    found: list[tuple[str, Any, str]] = [
        ("HTTP in", Connection, "data_received"),
        ("HTTP out", Connection, "flush"),
        ("HTTP/2 in", Http2Connection, "data_received"),
        ("HTTP/2 heads", FieldReader, "read"),
        ("HTTP/2 out", Outflow, "send"),
        ("HTTP/2 out", Http2Connection, "flush"),
        ("gRPC site", GrpcSite, "serve"),
        ("gRPC admitted", GrpcSite, "admit"),
        ("messages in", grpc_site, "call_of"),
        ("messages out", AnswerMoulds, "write"),
        ("JSON in", codec, "decode"),
        ("JSON in", Moulds, "read"),
        ("queue in", Desk, "ask"),
        ("site", Rest, "serve"),
        ("queue out", queue, "_next"),
        ("answers", queue, "_settled"),
        ("rows joined", batchers, "_joined"),
        ("model", queue._model, "run"),
        ("watched", queue, "_watch"),
        ("log", queue, "_settle"),
        ("counted", plane.traffic, "answered"),
        ("statistics", queue.times, "ran"),
        ("JSON out", codec, "encode_answer"),
    ]
    return [each for each in found if hasattr(each[1], each[2])]


# -- as a process -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _process(plan: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Listening]]:
    ready = plan.with_name("ready.json")
    ready.unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, "-m", "skyloom.inference", str(plan)])
    try:
        while not ready.exists():
            assert process.poll() is None
            time.sleep(0.01)
        yield process, msgspec.json.decode(ready.read_bytes(), type=Listening)
    finally:
        process.terminate()
        process.wait(10)


def _print_process(plan: Path, asked: argparse.Namespace, inputs: Any) -> None:
    with _process(plan) as (process, listening):
        ports = {Wire.JSON: listening.rest_port, Wire.BINARY: listening.rest_port, Wire.GRPC: listening.grpc_port}
        target = Target("skyloom", asked.model, ports, f"/v2/models/{asked.model}/infer", _AUTHORIZATION)
        loads.run(target, asked.wire, inputs, asked.connections, 1.0)
        for _ in range(asked.rounds):
            before = _spent_s(process.pid)
            came = loads.run(target, asked.wire, inputs, asked.connections, asked.wrk)
            user_s, system_s = (now - then for now, then in zip(_spent_s(process.pid), before, strict=True))
            each = 1e6 / max(came.num_requests, 1)
            print(
                f"{(user_s + system_s) * each:6.2f} µs a request ({user_s * each:.2f} own, {system_s * each:.2f} the system's), "
                f"{came.rate_per_s:,.0f}/s, p50 {came.p50_ms:.2f} ms, p99 {came.p99_ms:.2f} ms, {came.num_errors} errors",
                flush=True,
            )


def _spent_s(pid: int) -> tuple[float, float]:
    """CPU seconds of a process, its own and the system's for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) * _TICK_S, int(fields[12]) * _TICK_S


if __name__ == "__main__":
    sys.exit(main())
