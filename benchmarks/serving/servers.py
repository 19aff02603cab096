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

_HERE = Path(__file__).parent
_ENVIRONMENTS = _HERE / ".peers"
_START_S = 120.0


@dataclass(frozen=True)
class Peer:
    """A server that is not ours.

    Attributes:
        requirements: what its environment holds.
        path: where it takes requests.
        ports: how many ports in a row it needs.
    """

    name: str
    requirements: tuple[str, ...]
    path: str = "/infer"
    ports: int = 1

    @property
    def script(self) -> Path:
        return _HERE / "peers" / f"{self.name}_server.py"


@dataclass(frozen=True)
class Target:
    """A server that runs.

    Attributes:
        ready_s: from the start of its process to its first answer.
    """

    name: str
    host: str
    port: int
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    ready_s: float = 0.0
    pids: tuple[int, ...] = ()


PEERS = {
    peer.name: peer
    for peer in (
        Peer("triton", ("nvidia-pytriton>=0.7", "onnxruntime"), "/v2/models/model/infer", ports=3),
        Peer("mosec", ("mosec", "onnxruntime"), "/inference"),
        Peer("fastapi", ("fastapi", "uvicorn", "uvloop", "httptools", "onnxruntime")),
        Peer("litserve", ("litserve", "onnxruntime")),
        Peer("bentoml", ("bentoml", "onnxruntime")),
        Peer("ray", ("ray[serve]==2.60.*", "onnxruntime")),
    )
}


@contextmanager
def running(peer: Peer, model: Path, body: bytes) -> Iterator[Target]:
    """A peer that serves a model, started and ended here. Raises `RuntimeError` with its output when it does not start."""
    python = _environment(peer)
    port = _free_ports(peer.ports)
    log = _ENVIRONMENTS / f"{peer.name}.log"
    variables = {**os.environ, "MODEL": str(model), "PORT": str(port), "PYTHONPATH": str(peer.script.parent)}
    variables["PATH"] = f"{python.parent}:{variables['PATH']}"
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
        target = Target(peer.name, "127.0.0.1", port, peer.path)
        while not _answers(target, body):
            if process.poll() is not None or time.perf_counter() - began > _START_S:
                raise RuntimeError(f"{peer.name} does not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield Target(peer.name, "127.0.0.1", port, peer.path, ready_s=time.perf_counter() - began, pids=(process.pid,))
    finally:
        _end(process)


def ask(target: Target, body: bytes) -> bytes:
    """One request's answer. Raises `OSError` when there is none, `ValueError` when it is not 200."""
    connection = http.client.HTTPConnection(target.host, target.port, timeout=10)
    try:
        connection.request("POST", target.path, body, {"content-type": "application/json", **target.headers})
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise ValueError(f"{target.name} answers {response.status}: {content[:300]!r}")
        return content
    finally:
        connection.close()


def _answers(target: Target, body: bytes) -> bool:
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        return bool(ask(target, body))
    return False


def _environment(peer: Peer) -> Path:
    """The Python of a peer's environment."""
    folder = _ENVIRONMENTS / peer.name
    python = folder / "bin" / "python"
    done = folder / "done"
    if not done.exists():
        print(f"making the environment of {peer.name} …", file=sys.stderr, flush=True)
        uv = [str(Path(sys.executable).with_name("uv"))]
        links = [word for link in os.environ.get("PIP_FIND_LINKS", "").split() for word in ("--find-links", link)]
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run(
            [*uv, "pip", "install", "--quiet", "--python", str(python), *links, *peer.requirements], check=True
        )
        done.touch()
    return python


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
