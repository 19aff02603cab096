"""Services for tests: a bundle from source text, and its process on a loop of its own."""

import asyncio
import contextlib
import hashlib
import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from skyloom.inference.services.calls import CallOutcome, PendingCall
from skyloom.inference.services.process import ServiceProcess
from skyloom.rooms.registry.bundle import BundleFile, Manifest, RuntimeName
from skyloom.sdk.describing import describe

_numbers = itertools.count()

TOYS = '''
import asyncio, os, threading, time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, Any
import numpy as np
from numpy.typing import NDArray
import skyloom
from skyloom.sdk.service import BadRequest

@dataclass
class Review:
    text: str
    stars: int = 3

class Toys(skyloom.Service):
    """Toys."""
    def setup(self) -> None:
        self.lock = threading.Lock()
        self.open = self.most = 0
        self.sizes: list[int] = []

    @skyloom.endpoint
    def greet(self, name: str, loud: bool = False) -> str:
        """Say hello."""
        return f"HELLO {name}" if loud else f"hello {name}"

    @skyloom.endpoint
    def judge(self, review: Review) -> dict[str, float]:
        return {"score": len(review.text) / review.stars}

    @skyloom.endpoint
    def fail(self, how: str) -> None:
        if how == "value":
            raise ValueError("two is not allowed")
        if how == "bad":
            raise BadRequest("not that one")
        if how == "die":
            os._exit(7)
        raise RuntimeError(f"it broke: {how}")

    @skyloom.endpoint(timeout_s=0.3)
    def sleep(self, duration_s: float) -> str:
        time.sleep(duration_s)
        return "woken"

    @skyloom.endpoint
    def count(self, to: int, fail_at: int = -1) -> Iterator[int]:
        for number in range(to):
            if number == fail_at:
                raise RuntimeError("half way")
            yield number

    @skyloom.endpoint
    async def tell(self, words: list[str]) -> AsyncIterator[str]:
        for word in words:
            await asyncio.sleep(0)
            yield word

    @skyloom.endpoint
    async def meet(self, number: int) -> int:
        self.open += 1
        self.most = max(self.most, self.open)
        while self.most < number:
            await asyncio.sleep(0.005)
        self.open -= 1
        return self.most

    @skyloom.endpoint(batch=8)
    def double(self, value: list[int]) -> list[int]:
        self.sizes.append(len(value))
        if 13 in value:
            raise RuntimeError("thirteen")
        time.sleep(0.01)
        return [2 * one for one in value]

    @skyloom.endpoint
    def batches(self) -> list[int]:
        return self.sizes

    @skyloom.endpoint
    def echo(self, content: bytes) -> bytes:
        return content

    @skyloom.endpoint
    def total(self, rows: NDArray[np.float64]) -> float:
        return float(rows.sum())

    @skyloom.endpoint
    def scale(self, rows: Annotated[NDArray[np.float32], skyloom.Tensor(-1, 4)]) -> Annotated[NDArray[np.float32], skyloom.Tensor(-1, 4)]:
        return rows * 2

    @skyloom.endpoint
    def odd(self, what: int) -> Any:
        return threading.Lock()
'''


def write_service(folder: Path, source: str = TOYS, name: str = "Toys", **changes: Any) -> Manifest:
    """Write a service's bundle into ``folder``; ``changes`` are to its spec."""
    file = folder / "service" / f"toys_{next(_numbers)}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    found = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(found)
    import sys

    sys.modules[file.stem] = module
    found.loader.exec_module(module)
    spec, signature = describe(getattr(module, name), f"service/{file.name}")
    spec = msgspec.structs.replace(spec, **changes)
    files = tuple(listed(folder, path) for path in sorted(folder.rglob("*")) if path.is_file())
    manifest = Manifest(runtime=RuntimeName.SERVICE, signature=signature, files=files, service=spec)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


def listed(folder: Path, path: Path) -> BundleFile:
    content = path.read_bytes()
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    return BundleFile(path=path.relative_to(folder).as_posix(), digest=digest, size_bytes=len(content))


class Asking:
    """A service's process, asked from plain code."""

    def __init__(self, runner: asyncio.Runner, process: ServiceProcess) -> None:
        self.runner = runner
        self.process = process
        self.methods = {method.name: method for method in process.spec.methods}

    def run(self, awaitable: Any) -> Any:
        return self.runner.run(awaitable)

    def call(self, method: str, **arguments: Any) -> Any:
        return self.run(self.ask(method, **arguments))

    async def ask(self, method: str, *, body: bytes | None = None, arrays: Any = None, **arguments: Any) -> Any:
        """The answer: decoded JSON, raw bytes, arrays, the list of parts, or the error."""
        parts: list[Any] = []
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def part(outcome: CallOutcome) -> None:
            parts.append(msgspec.json.decode(outcome.content))
            self.process.took(call, 1)

        content = [] if arrays is not None else [body if body is not None else msgspec.json.encode(arguments)]
        call = PendingCall(
            self.methods[method], content, answered.set_result, part, is_raw=body is not None, arrays=arrays
        )
        self.process.ask(call)
        outcome = await answered
        if not isinstance(outcome, CallOutcome):
            return (parts, outcome) if parts else outcome
        if outcome.arrays:
            return outcome.arrays
        if outcome.is_raw:
            return bytes(outcome.content)
        return msgspec.json.decode(outcome.content) if len(outcome.content) else parts


@contextlib.contextmanager
def working(folder: Path, manifest: Manifest) -> Iterator[Asking]:
    with asyncio.Runner() as runner:

        async def begin() -> ServiceProcess:
            process = ServiceProcess(folder, manifest.service)
            await process.start()
            return process

        process = runner.run(begin())
        try:
            yield Asking(runner, process)
        finally:
            runner.run(process.close())
