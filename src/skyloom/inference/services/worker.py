"""``python -m skyloom.inference.services.worker BUNDLE SOCKET THREADS GPUS``: the process of one service.

The data plane starts it and speaks to it. It dies with the data plane.
"""

import asyncio
import contextlib
import ctypes
import importlib.util
import inspect
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.inference.services.frames import (
    Ask,
    FrameBroken,
    Frames,
    GiveUp,
    More,
    SetUp,
    Taken,
    ToWorker,
    Unfit,
    let_go,
    write,
)
from skyloom.inference.services.lanes import MethodLane
from skyloom.inference.services.speaking import Speech
from skyloom.rooms.registry.bundle import MANIFEST_FILE, TEXTUAL, Manifest
from skyloom.sdk.describing import EndpointMethod, methods_of
from skyloom.sdk.graph import order_of
from skyloom.sdk.service import Service

_PR_SET_PDEATHSIG = 1


class ServiceMissing(InvalidInput):
    """The file does not hold the class that was asked for, or cannot be imported."""


class Bench(asyncio.Protocol):
    """The worker's side of the socket: calls come in, frames go out."""

    def __init__(self, service: Service, methods: Sequence[EndpointMethod], lender: int) -> None:
        self._frames = Frames(ToWorker, self._heard)
        self._lent: set[int] = set()
        self._calls: dict[int, MethodLane] = {}
        num_threads = sum(method.concurrency for method in methods if not method.is_async)
        self._threads = ThreadPoolExecutor(max_workers=max(1, num_threads), thread_name_prefix="endpoint")
        self._lanes = {
            method.name: MethodLane(service, method, Speech(method, lender, self._lent), self._threads, self._say)
            for method in methods
        }
        self._transport: asyncio.Transport
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._frames.feed(data)
        except FrameBroken:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set()

    def set_up(self, setup_s: float) -> None:
        """Say that calls may come."""
        self._say(SetUp(setup_s))

    def _heard(self, message: object) -> None:
        if isinstance(message, Ask):
            lane = self._lanes[message.method]
            self._calls[message.call] = lane
            lane.put(message)
            for file in Speech.borrowed(message.content, message.arrays):
                self._say(Taken(file))
        elif isinstance(message, Taken):
            let_go(message.file, self._lent)
        elif isinstance(message, GiveUp | More):
            lane_of = self._calls.get(message.call)
            if lane_of is not None:
                if isinstance(message, GiveUp):
                    lane_of.give_up(message.call)
                else:
                    lane_of.more(message.call, message.num_parts)

    def _say(self, message: object) -> None:
        call = getattr(message, "call", None)
        if call is not None and type(message).__name__ in ("Finished", "Failed"):
            self._calls.pop(call, None)
        self._transport.write(write(message))


def find(folder: Path, file: str, name: str) -> type[Service]:
    """Import a service's file and return its class; modules beside it can be imported. Raises `ServiceMissing`."""
    path = folder / file
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ServiceMissing(f"{file} is no Python file.", next_action="Name a file: FILE.py:CLASS.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        traceback.print_exc()
        raise ServiceMissing(
            f"{file} cannot be imported: {type(error).__name__}: {error}.",
            next_action="Mend it; what only the service's own environment has is imported in setup().",
        ) from error
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, Service)):
        raise ServiceMissing(f"{file} has no service {name!r}.", next_action=f"Write: class {name}(skyloom.Service).")
    return found


def locate_models(folder: Path, models: dict[str, str], threads: int) -> dict[str, Any]:
    """Load the models that lie in the service's bundle."""
    if not models:
        return {}
    from skyloom.inference.services.located import Located

    return {name: Located.load(name, folder / place, threads) for name, place in models.items()}


async def _serve(folder: Path, line: socket.socket, threads: int, gpus: int) -> int:
    began = time.perf_counter()
    try:
        service, methods = await _made(folder, threads, gpus)
        bench = Bench(service, methods, os.getppid())
    except Exception as error:
        words = str(error) if isinstance(error, InvalidInput) else f"setup failed: {type(error).__name__}: {error}."
        traceback.print_exc()
        line.setblocking(True)
        with contextlib.suppress(OSError):
            line.sendall(write(Unfit(" ".join(words.split())[:500])))
        return 1
    loop = asyncio.get_running_loop()
    await loop.create_unix_connection(lambda: bench, sock=line)
    bench.set_up(time.perf_counter() - began)
    await bench.gone.wait()
    return 0


async def _made(folder: Path, threads: int, gpus: int) -> tuple[Service, list[EndpointMethod]]:
    manifest = msgspec.json.decode((folder / MANIFEST_FILE).read_bytes(), type=Manifest)
    spec = manifest.service
    if manifest.runtime in TEXTUAL:
        from skyloom.inference.services.writing import GgufText

        return GgufText(folder, manifest, threads, gpus), methods_of(GgufText)
    if spec is None:
        from skyloom.inference import model as models
        from skyloom.inference.services.hosted import HostedModel  # a service of one's own loads no engine

        hosted = HostedModel(models.load_verified(folder, manifest, threads, gpus))
        return hosted, hosted.methods()
    kind = find(folder, spec.entry, spec.class_name)
    service = kind()
    service._located = located = locate_models(folder, spec.models, threads)
    service._order = order_of({name: model.signature for name, model in located.items()}, service.edges)
    setup: Callable[[], Any] = service.setup
    done = setup()
    if inspect.isawaitable(done):
        await done
    return service, methods_of(kind)


def main(arguments: list[str]) -> int:
    """Serve until the data plane is gone. It dies with the data plane, whatever the user's code does."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the data plane, which drains first
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code: object = 1
    try:
        line = socket.socket(fileno=int(arguments[1]))
        code = asyncio.run(_serve(Path(arguments[0]), line, int(arguments[2]), int(arguments[3])))
    except SystemExit as ending:  # an endpoint called sys.exit()
        code = ending.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    # Threads of the user's may still run; nobody waits for them.
    os._exit(code & 255 if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
