"""Which rows each worker takes. Pure arithmetic: the same seed gives the same batches on any number of workers.

An epoch is one seeded permutation of all rows, cut into global batches; each global batch is cut into contiguous shares, one per
worker, whose sizes differ by at most one. So no row is lost or repeated in an epoch, and the global batch of a step does not
depend on how many workers there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.core.errors import InvalidInput

Rows = NDArray[np.int64]


class TooFewRows(InvalidInput):
    """There are fewer rows than workers."""


def epoch_order(num_rows: int, seed: int, epoch: int) -> Rows:
    """All rows once, in the order of one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


def share(rows: Rows, rank: int, world_size: int) -> Rows:
    """One worker's part of a global batch; may be empty when the batch is smaller than the gang."""
    start, stop = rank * len(rows) // world_size, (rank + 1) * len(rows) // world_size
    return rows[start:stop]


@dataclass(frozen=True)
class Batch:
    """One step's work for one worker.

    Attributes:
        step: counts from 0 within the epoch.
        rows: this worker's rows.
        num_global_rows: rows of the whole global batch, all workers together.
    """

    step: int
    rows: Rows
    num_global_rows: int


@dataclass(frozen=True)
class Shards:
    """A deterministic, sharded walk over rows ``0 … num_rows - 1``. ``batch_size`` counts the rows of all workers together."""

    num_rows: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.num_rows < self.world_size:
            raise TooFewRows(
                f"There are {self.num_rows} training rows for {self.world_size} workers.",
                next_action="Use fewer workers or more rows: each worker needs at least one.",
            )
        if self.batch_size < 1:
            raise InvalidInput(f"batch_size is {self.batch_size}.", next_action="Use 1 or more.")

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in one epoch; the last one may be smaller."""
        return -(-self.num_rows // self.batch_size)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """This worker's batches of one epoch, from ``first_step`` on."""
        order = epoch_order(self.num_rows, self.seed, epoch)
        for step in range(first_step, self.steps_per_epoch):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield Batch(step, share(rows, self.rank, self.world_size), len(rows))
