"""What this replica saw since it started: counts, durations, drift. Every number only grows (`rooms.monitoring.model.Traffic`)."""

import math
import threading
from collections.abc import Sequence

import numpy as np

from skyloom.inference.reduce import Observer, TensorMissing
from skyloom.inference.tensors import Array
from skyloom.rooms.monitoring.model import BIN_GROWTH, FIRST_BIN_S, MAX_BINS, Latency, Profile, Traffic
from skyloom.rooms.registry.bundle import Signature

_LOG_GROWTH = math.log(BIN_GROWTH)
_HOLD_ROWS = 1_024
# Beyond this a batch is sampled (its first rows): reducing costs about 1 ns per element and feature.
_MAX_ELEMENTS = 2**20


class TrafficCounter:
    """Counts answers on the event loop, and rows on whichever thread ran the model.

    A batch costs the reductions only (about 30 µs for a small image, measured); their values are held, and binned 1,024 rows at a
    time or when somebody looks. Of a batch with more than a million elements only the first rows are watched.
    """

    def __init__(self, profile: Profile, signature: Signature) -> None:
        self._inputs = [spec.name for spec in signature.inputs]
        self._outputs = [spec.name for spec in signature.outputs]
        self._observer = Observer(profile.features)
        self._counts = self._observer.zeros()
        self._held: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []
        self._held_rows = 0
        self._lock = threading.Lock()
        self._requests = self._rows = self._client_errors = self._server_errors = 0
        self._latency: dict[int, int] = {}

    def answered(self, status: int, duration_s: float) -> None:
        """Count one answer by its HTTP status."""
        self._requests += 1
        if status >= 500:
            self._server_errors += 1
        elif status >= 400:
            self._client_errors += 1
        place = min(max(int(math.log(max(duration_s / FIRST_BIN_S, 1.0)) / _LOG_GROWTH), 0), MAX_BINS - 1)
        self._latency[place] = self._latency.get(place, 0) + 1

    def watch(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Count the rows of one batch."""
        rows = len(inputs[0])
        sample = max(1, _MAX_ELEMENTS * rows // max(1, sum(tensor.size for tensor in (*inputs, *outputs))))
        tensors = {
            name: tensor[:sample]
            for name, tensor in zip((*self._inputs, *self._outputs), (*inputs, *outputs), strict=True)
        }
        try:
            values = self._observer.reduce(tensors)
        except TensorMissing:  # a row shorter than those of training; free axes allow it
            values = np.full((min(rows, sample), len(self._observer.features)), np.nan)
        with self._lock:
            self._rows += rows
            if values.size:
                self._held.append(values)
                self._held_rows += len(values)
            if self._held_rows >= _HOLD_ROWS:
                self._bin()

    def check(self, example: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Raise `TensorMissing` when the profile watches what the model does not have. Counts nothing."""
        self._observer.reduce(dict(zip((*self._inputs, *self._outputs), (*example, *outputs), strict=True)))

    def snapshot(self) -> Traffic:
        """All of it, now."""
        with self._lock:
            self._bin()
            return Traffic(
                requests=self._requests,
                rows=self._rows,
                client_errors=self._client_errors,
                server_errors=self._server_errors,
                latency=Latency(counts=dict(sorted(self._latency.items()))),
                histograms=self._observer.histograms(self._counts),
            )

    def _bin(self) -> None:
        if self._held:
            self._counts += self._observer.count(np.concatenate(self._held))
            self._held.clear()
            self._held_rows = 0
