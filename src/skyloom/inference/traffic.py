"""What this replica saw since it started: counts, durations, drift. Every number only grows (`rooms.monitoring.model.Traffic`)."""

import contextlib
import itertools
import math
import sys
import threading
import time
import traceback
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from skyloom.inference.elements import as_numbers
from skyloom.inference.reduce import Observer, Values, check_features
from skyloom.inference.tensors import Array
from skyloom.rooms.monitoring.model import BIN_GROWTH, FIRST_BIN_S, MAX_BINS, Latency, Profile, Traffic
from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec

# All but the last bin's, which holds whatever took longer.
_BIN_ENDS_S = [FIRST_BIN_S * BIN_GROWTH ** (place + 1) for place in range(MAX_BINS - 1)]
_HOLD_ROWS, _HOLD_BYTES = 256, 2**22
_ALONE_BYTES = (
    2**17
)  # so large a batch costs more to keep, and to read again when it is cold, than it saves beside others
# Beyond this a batch is sampled (its first rows): reducing costs about 1 ns per element and feature.
_MAX_ELEMENTS = 2**20
# Large batches are all looked at for a quarter of a second of looking, and then for a fiftieth of the time: behind a model that used the
# caches, reading a picture again costs a third of what the model did, and some dozens of rows a second show any drift.
_LOOK_S, _LOOK_SHARE = 0.25, 0.02


class TrafficCounter:
    """Counts answers on the event loop, and rows on whichever thread ran the model.

    Small batches are held and looked at together, when they are 256 rows or 4 MiB or when somebody asks: looking at one row costs nearly
    as much as looking at a hundred. Of a large batch (128 KiB) the numbers are made at once, and these are held; where many come, some are
    not watched (`_LOOK_SHARE`), as histograms' totals say. Of a batch with more than a million elements only the first rows are watched.
    Counting goes on in steps, one with each batch that follows: done in one go it would keep every 50th request waiting for several times
    as long as the others.

    Raises `TensorMissing` when the profile watches what the model does not have.
    """

    def __init__(self, profile: Profile, signature: Signature, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._look_s, self._earned_at = _LOOK_S, clock()  # what may be spent on large batches, and as of when
        self._lock = threading.Lock()
        self._requests = self._rows = self._client_errors = self._server_errors = 0
        self._latency = [0] * MAX_BINS
        self.compare_with(profile, signature)

    def compare_with(self, profile: Profile, signature: Signature) -> None:
        """Watch rows by this profile from now on; before any row was watched. Raises `TensorMissing`."""
        specs = (*signature.inputs, *signature.outputs)
        # Strings are not watched, and never kept: they may be of any size.
        self._places = [place for place, spec in enumerate(specs) if spec.datatype is not Datatype.BYTES]
        self._names = [specs[place].name for place in self._places]
        self._types = [specs[place].datatype for place in self._places]
        self._is_plain = len(self._places) == len(specs) and Datatype.BF16 not in self._types
        check_features(profile.features, {specs[place].name: _width(specs[place]) for place in self._places})
        self._observer = Observer(profile.features)
        self._counts = self._observer.zeros()
        self._held: dict[tuple[tuple[int, ...], ...], list[Sequence[Array]]] = {}
        self._held_rows = self._held_bytes = 0
        self._reduced: list[Values] = []  # of large batches
        self._reduced_rows = 0
        self._counting: Iterator[None] | None = None  # what was reduced, and is counted step by step

    def answered(self, status: int, duration_s: float) -> None:
        """Count one answer by its HTTP status."""
        self._requests += 1
        if status >= 500:
            self._server_errors += 1
        elif status >= 400:
            self._client_errors += 1
        self._latency[bisect_right(_BIN_ENDS_S, duration_s)] += 1

    def watch(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Count the rows of one batch. Copies are kept for a moment: a view of few bytes would keep a whole request alive."""
        rows = len(inputs[0])
        if not self._observer.features:
            with self._lock:
                self._rows += rows
            return
        tensors: tuple[Array, ...] = (*inputs, *outputs)
        if not self._is_plain:
            tensors = self._countable(tensors)
        num_elements = sum([tensor.size for tensor in tensors])
        if num_elements > _MAX_ELEMENTS:
            sample = max(1, _MAX_ELEMENTS * rows // num_elements)
            tensors = tuple(tensor[:sample] for tensor in tensors)
        num_bytes = sum([tensor.nbytes for tensor in tensors])
        with self._lock:
            self._rows += rows
            self._count_on(1)
            if num_bytes >= _ALONE_BYTES:
                self._reduce_alone(tensors)
                return
            self._held_rows += len(tensors[0]) if tensors else 0
            self._held_bytes += num_bytes
            is_enough = self._held_rows >= _HOLD_ROWS or self._held_bytes >= _HOLD_BYTES
            kept = tensors if is_enough else tuple([tensor.copy() for tensor in tensors])
            # Only rows of equal shape can be put together.
            self._held.setdefault(tuple([tensor.shape[1:] for tensor in tensors]), []).append(kept)
            if is_enough:
                self._look()

    def snapshot(self) -> Traffic:
        """All of it, now."""
        with self._lock:
            self._look()
            self._count_reduced()
            self._count_on(sys.maxsize)
            return Traffic(
                requests=self._requests,
                rows=self._rows,
                client_errors=self._client_errors,
                server_errors=self._server_errors,
                latency=Latency(counts={place: count for place, count in enumerate(self._latency) if count}),
                histograms=self._observer.histograms(self._counts),
            )

    def _countable(self, tensors: Sequence[Array]) -> tuple[Array, ...]:
        """The tensors that hold numbers, as numpy counts with them."""
        chosen = [tensors[place] for place in self._places]
        return tuple(as_numbers(kind, tensor) for kind, tensor in zip(self._types, chosen, strict=True))

    def _look(self) -> None:
        held = [batches for kind, batches in self._held.items() if kind]
        self._held.clear()
        self._held_rows = self._held_bytes = 0
        for batches in held:
            with _survived():
                joined = [
                    parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in zip(*batches, strict=True)
                ]
                self._count(self._observer.reduce(dict(zip(self._names, joined, strict=True))))

    def _reduce_alone(self, tensors: Sequence[Array]) -> None:
        """Make numbers of a large batch, unless that took too much of the time lately; they are counted with those of others."""
        began = self._clock()
        self._look_s = min(_LOOK_S, self._look_s + (began - self._earned_at) * _LOOK_SHARE)
        self._earned_at = began
        if self._look_s <= 0:
            return
        with _survived():
            values = self._observer.reduce(dict(zip(self._names, tensors, strict=True)))
            self._reduced.append(values)
            self._reduced_rows += len(values)
        self._look_s -= self._clock() - began
        if self._reduced_rows >= _HOLD_ROWS:
            self._count_reduced()

    def _count_reduced(self) -> None:
        reduced, self._reduced, self._reduced_rows = self._reduced, [], 0
        if reduced:
            self._count(np.concatenate(reduced))

    def _count(self, values: Values) -> None:
        """Count numbers in steps, those before them first."""
        self._count_on(sys.maxsize)
        self._counting = self._observer.counting(values, self._counts)

    def _count_on(self, steps: int) -> None:
        """Count what was reduced, for so many steps."""
        counting, self._counting = self._counting, None
        if counting is not None:
            with _survived():
                if len(list(itertools.islice(counting, steps))) == steps:
                    self._counting = counting


@contextlib.contextmanager
def _survived() -> Iterator[None]:
    """A defect of the statistics must not end who asks for them: the replica would count as hung."""
    try:
        yield
    except Exception:
        traceback.print_exc(file=sys.stderr)


def _width(spec: TensorSpec) -> int | None:
    """Elements of one row; None where that is free."""
    return None if -1 in spec.shape[1:] else math.prod(spec.shape[1:])
