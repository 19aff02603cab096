"""A function over many inputs: packed into chunks, run as one array, gathered in order with few requests."""

import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from skyloom.core.errors import InvalidInput, SkyloomError
from skyloom.core.resources import Resources
from skyloom.ports.engine import PythonModule
from skyloom.rooms.arrays.model import MAX_SIZE, ArrayResult
from skyloom.rooms.jobs.model import JobSpec
from skyloom.sdk.client import Client
from skyloom.sdk.environment import spec_fields
from skyloom.sdk.files import upload_all, upload_bytes
from skyloom.sdk.http import CloudUnreachable
from skyloom.sdk.waiting import say

_MOST_CHUNKS = 200  # few enough that starting them costs seconds where much runs at once
_CHUNKS_AT_ONCE = 4  # for each that the cloud can run at once: who has the slow inputs holds up the others little
_PACK_BYTES = 2**20
_MAX_PACKS = 1_000
_BAR_WIDTH = 30


class ChunkEmpty(InvalidInput):
    """A chunk is to hold no input."""


class TooManyInputs(InvalidInput):
    """More chunks than an array may have."""


class RemoteFailure(SkyloomError):
    """An input of a map that failed.

    Attributes:
        index: of the input, from 0.
        kind: name of the exception that was raised there, or why its task ended.
        traceback: as it was printed there; empty when the task was ended from outside.
    """

    def __init__(self, message: str, *, next_action: str) -> None:
        super().__init__(message, next_action=next_action)
        self.index = -1
        self.kind = ""
        self.traceback = ""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.traceback}" if self.traceback else super().__str__()


def submit(
    cloud: Client,
    source: Path,
    function: str,
    calls: Sequence[Mapping[str, Any]],
    chunk_size: int | None,
    max_parallel: int,
    key: str | None,
    options: Mapping[str, Any],
) -> tuple[str, int]:
    """Queue the calls; returns the id of their array and how many are in a chunk. Raises `TooManyInputs`, `ChunkEmpty`."""
    size = -(-len(calls) // num_chunks(cloud, max_parallel, key, options)) if chunk_size is None else chunk_size
    if size < 1:
        raise ChunkEmpty(
            f"Chunks of {size} inputs hold none.", next_action="Give a chunk_size of 1 or more, or leave it out."
        )
    chunks = [calls[start : start + size] for start in range(0, len(calls), size)]
    if len(chunks) > MAX_SIZE:
        raise TooManyInputs(
            f"{len(calls):,} inputs in chunks of {size} make {len(chunks):,} tasks; {MAX_SIZE:,} are allowed.",
            next_action=f"Give a chunk_size of {-(-len(calls) // MAX_SIZE)} or more, or leave it out.",
        )
    written = [msgspec.json.encode(chunk) for chunk in chunks]
    per_input = max(1, _PACK_BYTES // max(map(len, written)), -(-len(written) // _MAX_PACKS))
    packs = [b"[" + b",".join(written[at : at + per_input]) + b"]" for at in range(0, len(written), per_input)]
    inputs = tuple(upload_bytes(cloud.transport, pack) for pack in packs)
    entry = PythonModule(module="skyloom.runtime.mapping", args=(source.name, function))
    spec = JobSpec(entry=entry, files=upload_all(cloud.transport, {source.name: source}), **spec_fields(options))
    per_input = min(per_input, len(written))
    made = cloud.arrays.submit(
        spec, len(written), max_parallel=max_parallel, inputs=inputs, per_input=per_input, key=key
    )
    return made.array.id, size


def num_chunks(cloud: Client, max_parallel: int, key: str | None, options: Mapping[str, Any]) -> int:
    """How many tasks to make: a few for each that can run at once. With a key always the same, or it would not find its array."""
    if key is not None:
        return _MOST_CHUNKS
    at_once = _at_once(cloud.overview.status().capacity, options.get("resources", Resources()))
    if max_parallel:
        at_once = min(at_once, max_parallel)
    return min(_MOST_CHUNKS, _CHUNKS_AT_ONCE * at_once) or _MOST_CHUNKS  # none: machines are yet to come


def _at_once(capacity: Resources, each: Resources) -> int:
    """How often a task fits into the cloud when nothing else runs there."""
    have = (capacity.cpus, capacity.gpus, capacity.memory_bytes)
    need = (each.cpus, each.gpus, each.memory_bytes)
    return int(min((has / wants for has, wants in zip(have, need, strict=True) if wants), default=_MOST_CHUNKS))


def gather(
    cloud: Client, array_id: str, count: int, size: int, *, ordered: bool, keep: bool, bar: bool, title: str
) -> Generator[tuple[int, Any], None, None]:
    """Yield (index, value or `RemoteFailure`) for each of ``count`` inputs.

    Who stops early stops the array, unless ``keep``: then it goes on and can be gathered later, by its key. It goes on too when the
    cloud cannot be reached for so long that this raises `CloudUnreachable`.
    """
    seen: dict[int, Any] = {}
    done = following = 0
    finished = False
    _draw(bar, title, 0, count)
    try:
        for outcomes in _outcomes(cloud, array_id, count, size, bar):
            for index, outcome in outcomes:
                done += 1
                if ordered:
                    seen[index] = outcome
                else:
                    yield index, outcome
            _draw(bar, title, done, count)
            while following in seen:
                yield following, seen.pop(following)
                following += 1
        finished = True
    except CloudUnreachable:
        keep = True  # it goes on, and nobody could be asked to stop it
        raise
    finally:
        if bar:
            sys.stderr.write("\n")
        if not finished and not keep:
            cloud.arrays.cancel(array_id)


def _outcomes(cloud: Client, array_id: str, count: int, size: int, bar: bool) -> Iterator[Iterable[tuple[int, Any]]]:
    """What became of each input, chunk by chunk as they come; at last of those whose turn never came."""
    left = set(range(0, count, size))
    for result in cloud.arrays.follow(array_id, tell=lambda line: say(f"\n{line}" if bar else line)):
        left.discard(result.index * size)
        yield _unpacked(result, count, size)
    if left:
        status = cloud.arrays.get(array_id)
        why = f"See: skyloom why {array_id}."
        for first in sorted(left):
            yield [
                (index, _failed(index, status.reason.value, status.message, why))
                for index in _chunk(first, count, size)
            ]


def _chunk(first: int, count: int, size: int) -> range:
    """The inputs of a chunk, by the first of them."""
    return range(first, min(count, first + size))


def _failed(index: int, kind: str, message: str, next_action: str, traceback: str = "") -> RemoteFailure:
    """Say what became of an input."""
    error = RemoteFailure(f"Input {index}: {kind}{': ' if message else ''}{message}.", next_action=next_action)
    error.index, error.kind, error.traceback = index, kind, traceback
    return error


def _unpacked(result: ArrayResult, count: int, size: int) -> Iterator[tuple[int, Any]]:
    """What became of each input of a chunk."""
    outcomes = msgspec.json.decode(result.result_json) if result.result_json else None
    look = f"Read what it printed: skyloom job logs {result.job_id}."
    for place, index in enumerate(_chunk(result.index * size, count, size)):
        if outcomes is None:
            yield index, _failed(index, result.reason.value or "no result", result.message, look)
        elif "error" in outcomes[place]:
            told = outcomes[place]["error"]
            yield index, _failed(index, told["type"], told["message"], look, told["traceback"])
        else:
            yield index, outcomes[place]["ok"]


def _draw(bar: bool, title: str, done: int, count: int) -> None:
    if bar:
        filled = done * _BAR_WIDTH // count
        sys.stderr.write(f"\r{title} {'█' * filled}{'·' * (_BAR_WIDTH - filled)} {done:,}/{count:,}")
        sys.stderr.flush()
