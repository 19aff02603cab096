"""The servers that are compared, each in an environment of its own, made on demand below ``benchmarks/serving/.peers``."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from benchmarks.serving import wires
from benchmarks.serving.wires import Inputs, Message, Wire

from skyloom.inference.wire import open_inference_pb2 as pb2

_HERE = Path(__file__).parent
_ENVIRONMENTS = _HERE / ".peers"
_START_S = 120.0
_GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Peer:
    """A server that is not ours.

    Attributes:
        requirements: what its environment holds.
        wires: the wires that it has, with how far behind its first port each listens.
        path: where it takes REST requests.
        ports: how many ports in a row it needs.
        echoes: it sends requests back, and answers nothing.
        scores: it speaks MLflow's scoring protocol.
        models: what it can serve; all when empty.
    """

    name: str
    requirements: tuple[str, ...]
    path: str = "/infer"
    wires: Mapping[Wire, int] = field(default_factory=lambda: {Wire.JSON: 0})
    ports: int = 1
    echoes: bool = False
    scores: bool = False
    models: tuple[str, ...] = ()

    @property
    def script(self) -> Path:
        return _HERE / "peers" / f"{self.name}_server.py"


@dataclass(frozen=True)
class Target:
    """A server that runs.

    Attributes:
        model: the name that it knows the model by.
        ports: where it listens, for each of its wires.
        headers: what each request must carry besides.
        ready_s: from the start of its process to its first answer.
        pids: its processes' parents; theirs is the memory.
    """

    name: str
    model: str
    ports: Mapping[Wire, int]
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    ready_s: float = 0.0
    pids: tuple[int, ...] = ()
    echoes: bool = False
    scores: bool = False

    def message(self, wire: Wire, inputs: Inputs) -> Message:
        """A request as this server takes it, with all its headers."""
        made = wires.scoring_message(inputs) if self.scores else wires.message(wire, self.model, inputs)
        return Message(made.body, {**made.headers, **self.headers})

    def url(self, wire: Wire) -> str:
        """Where it goes."""
        return f"http://127.0.0.1:{self.ports[wire]}{_GRPC_PATH if wire is Wire.GRPC else self.path}"


_OPEN_INFERENCE = "/v2/models/model/infer"
_ALL = {Wire.JSON: 0, Wire.BINARY: 0, Wire.GRPC: 1}
PEERS = {
    peer.name: peer
    for peer in (
        Peer("nginx", (), echoes=True),
        Peer("triton", ("nvidia-pytriton>=0.7", "onnxruntime"), _OPEN_INFERENCE, _ALL, ports=3),
        Peer("grpcaio", ("grpcio", "protobuf", "onnxruntime"), wires={Wire.GRPC: 0}),
        Peer("mosec", ("mosec", "onnxruntime"), "/inference"),
        Peer("fastapi", ("fastapi", "uvicorn", "uvloop", "httptools", "onnxruntime")),
        Peer(
            "mlserver",
            ("mlserver", "uvloop<0.22", "onnxruntime"),
            _OPEN_INFERENCE,
            {Wire.JSON: 0, Wire.GRPC: 1},
            ports=3,
        ),
        Peer("kserve", ("kserve", "onnxruntime"), _OPEN_INFERENCE, ports=2),
        Peer("mlflow", ("mlflow", "onnx", "onnxruntime"), "/invocations", scores=True, models=("small",)),
        Peer("litserve", ("litserve", "onnxruntime")),
        Peer("bentoml", ("bentoml", "onnxruntime")),
        Peer("ray", ("ray[serve]==2.60.*", "onnxruntime")),
    )
}


@contextmanager
def running(peer: Peer, model: Path, inputs: Inputs) -> Iterator[Target]:
    """A peer that serves a model, started and ended here. Raises `RuntimeError` with its output when it does not start."""
    python = environment(peer.name, peer.requirements)
    port = _free_ports(peer.ports)
    log = _ENVIRONMENTS / f"{peer.name}.log"
    messages = Path(pb2.__file__)
    variables = {**os.environ, "MODEL": str(model), "PORT": str(port), "MESSAGES": str(messages)}
    variables |= {"PYTHONPATH": str(peer.script.parent), "PATH": f"{python.parent}:{variables['PATH']}"}
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(python), peer.script.name],
            cwd=peer.script.parent,
            env=variables,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        ports = {wire: port + offset for wire, offset in peer.wires.items()}
        target = Target(
            peer.name, "model", ports, peer.path, echoes=peer.echoes, scores=peer.scores, pids=(process.pid,)
        )
        while not all(_answers(target, wire, inputs) for wire in ports):
            if process.poll() is not None or time.perf_counter() - began > _START_S:
                raise RuntimeError(f"{peer.name} does not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield Target(**{**vars(target), "ready_s": time.perf_counter() - began})
    finally:
        _end(process)


def ask(target: Target, wire: Wire, inputs: Inputs) -> list[float]:
    """One request's answer. Raises `OSError` or `grpc.RpcError` when there is none, `ValueError` when it is not 200."""
    sent = target.message(wire, inputs)
    if wire is Wire.GRPC:
        asked = pb2.ModelInferRequest.FromString(sent.body[5:])
        with grpc.insecure_channel(f"127.0.0.1:{target.ports[wire]}") as channel:
            call = channel.unary_unary(
                _GRPC_PATH, pb2.ModelInferRequest.SerializeToString, pb2.ModelInferResponse.FromString
            )
            return wires.numbers_of_grpc(call(asked, timeout=10, metadata=tuple(target.headers.items())))
    connection = http.client.HTTPConnection("127.0.0.1", target.ports[wire], timeout=10)
    try:
        connection.request("POST", target.path, sent.body, dict(sent.headers))
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise ValueError(f"{target.name} answers {response.status}: {content[:300]!r}")
        if target.echoes:
            return []
        return wires.numbers(content, {name.lower(): value for name, value in response.getheaders()})
    finally:
        connection.close()


def memory_mb(pids: tuple[int, ...]) -> float:
    """What some processes and all that they started hold, shared pages counted once."""
    held = 0
    for pid in _descendants(pids):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            held += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return held / 1024


def environment(name: str, requirements: tuple[str, ...]) -> Path:
    """The Python of an environment that holds some packages."""
    folder = _ENVIRONMENTS / name
    python = folder / "bin" / "python"
    done = folder / "done"
    if not done.exists() or done.read_text() != " ".join(requirements):
        print(f"making the environment of {name} …", file=sys.stderr, flush=True)
        uv = [str(Path(sys.executable).with_name("uv"))]
        links = [word for link in os.environ.get("PIP_FIND_LINKS", "").split() for word in ("--find-links", link)]
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        if requirements:
            subprocess.run(
                [*uv, "pip", "install", "--quiet", "--python", str(python), *links, *requirements], check=True
            )
        done.write_text(" ".join(requirements))
    return python


def _answers(target: Target, wire: Wire, inputs: Inputs) -> bool:
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException, grpc.RpcError):
        ask(target, wire, inputs)
        return True
    return False


def _descendants(pids: tuple[int, ...]) -> set[int]:
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _free_ports(count: int) -> int:
    """The first of some free ports in a row."""
    for port in range(21_000 + os.getpid() % 2_000, 32_000, 7):
        with contextlib.ExitStack() as stack:
            try:
                for number in range(port, port + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            return port
    raise RuntimeError("no free ports")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End what we started with all that it started in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
