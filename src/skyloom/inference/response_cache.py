"""Answers that were given before, for who asks exactly the same again: the same token, the same model's bytes, the same tensors.

Nothing of a request is kept but a keyed digest of it. What a model said is kept as it said it, all outputs of it, until its time is over or
its place is needed. Lives on the event loop.
"""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from skyloom.inference.elements import held_bytes, write_strings
from skyloom.inference.tensors import Array, Call

_ENTRY_BYTES = 1_024  # what an entry takes beside its tensors


class KeptAnswer(NamedTuple):
    """What a model said to one request.

    Attributes:
        prediction_id: of the request that the model answered.
        until: on the cache's clock.
    """

    outputs: list[Array]
    prediction_id: str
    size_bytes: int
    until: float


class ResponseCache:
    """Bounded by bytes and by time; who was not asked for longest goes first.

    Attributes:
        hits, misses: since the start.
        size_bytes: what is kept now.
    """

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._secret = secrets.token_bytes(32)  # so that nobody can choose requests whose digests are alike
        self._kept: OrderedDict[bytes, KeptAnswer] = OrderedDict()
        self.hits = self.misses = self.size_bytes = 0

    def key(self, tenant: bytes, model: str, call: Call) -> bytes:
        """A name for a request: who asks (the token as it was shown), the digest of the model, and every byte of the inputs."""
        made = hashlib.blake2b(key=self._secret, digest_size=32)
        for part in (tenant, model.encode()):
            made.update(len(part).to_bytes(8, "little") + part)
        for tensor in call.inputs:  # in the signature's order, of its types: shapes and bytes say the rest
            content = write_strings(tensor) if tensor.dtype.hasobject else _bytes_of(tensor)
            made.update(repr(tensor.shape).encode() + len(content).to_bytes(8, "little"))
            made.update(content)
        return made.digest()

    def find(self, key: bytes) -> KeptAnswer | None:
        """What was said, if it is still good."""
        kept = self._kept.get(key)
        if kept is not None and kept.until > self._clock():
            self._kept.move_to_end(key)
            self.hits += 1
            return kept
        if kept is not None:
            self._drop(key)
        self.misses += 1
        return None

    def keep(self, key: bytes, outputs: Sequence[Array], prediction_id: str) -> None:
        """Keep copies of what a model said: its own arrays may be part of a whole batch's."""
        size_bytes = _ENTRY_BYTES + sum(_size(output) for output in outputs)
        if size_bytes > self._max_bytes:
            return
        if key in self._kept:
            self._drop(key)
        while self.size_bytes + size_bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))
        copies = [output.copy() for output in outputs]
        self._kept[key] = KeptAnswer(copies, prediction_id, size_bytes, self._clock() + self._ttl_s)
        self.size_bytes += size_bytes

    def _drop(self, key: bytes) -> None:
        self.size_bytes -= self._kept.pop(key).size_bytes


def _bytes_of(tensor: Array) -> memoryview:
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data  # also where there are none


def _size(output: Array) -> int:
    return output.nbytes + (held_bytes(output) if output.dtype.hasobject else 0)
