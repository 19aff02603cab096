"""A trial: the first steps of a training, timed, so that its whole time can be predicted. The training itself is left as it is.

A job is a trial when it was told so (``SKYLOOM_TRIAL``, a `TrialOrder`). Then `fit` and `steps` stop after a share of the steps, and
a script with a loop of its own, which only calls `report`, is ended at its last wanted report. Whatever the program does after its
steps it does as always; when it ends, rank 0 leaves the times in its result, under ``trial``. Imports no torch.
"""

import atexit
import contextlib
import functools
import itertools
import json
import time
from pathlib import Path

import msgspec

from skyloom.rooms.planning.model import StepTimes
from skyloom.rooms.training.model import TrialOrder
from skyloom.runtime.context import context
from skyloom.settings import TaskEnvironment

RESULT_FILE = "result.json"
MAX_KEPT_STEPS = 5_000
_REPORT = "report"
_WARM_UP = 0.2  # of the steps: caches, allocators and clocks settle


class Trial:
    """Times the steps of this process."""

    def __init__(self, order: TrialOrder) -> None:
        self._order = order
        self._speaker, self._is_over = "", False
        self._marks: list[tuple[int, float]] = []
        self._began_at = self._ended_at = 0.0
        self._total_steps = order.total_steps
        self._batch_size = self._num_rows = self._checkpoints = 0
        self._checkpoint_s = 0.0
        self._noise: list[tuple[float, float, float, float]] = []

    def begin(self, speaker: str, total_steps: int, *, batch_size: int = 0, num_rows: int = 0) -> int:
        """The first step begins now; returns how many steps to do. Only the first loop of a program is timed.

        A loop goes before reports: a script may say something of itself before it begins.
        """
        if self._speaker not in ("", _REPORT):
            self._is_over = self._is_over or speaker == self._speaker
            return total_steps
        self._speaker = speaker
        self._total_steps, self._batch_size, self._num_rows = total_steps, batch_size, num_rows
        self._began_at = time.time()
        self._marks = [(0, time.perf_counter())]
        return self.num_steps

    @property
    def num_steps(self) -> int:
        """How many steps are tried."""
        share = round(self._order.share * self._total_steps) if self._total_steps else self._order.max_steps
        wanted = min(self._order.max_steps, max(self._order.min_steps, share))
        return min(wanted, self._total_steps or wanted)

    def is_warming_up(self, step: int) -> bool:
        """True in the steps whose times do not count."""
        return step < max(2, round(_WARM_UP * self.num_steps))

    def mark(self, speaker: str, step: int) -> None:
        """``step`` steps are done."""
        if self._times(speaker) and len(self._marks) <= MAX_KEPT_STEPS:
            self._marks.append((step, time.perf_counter()))
            self._ended_at = time.time()

    def reported(self, step: int) -> None:
        """A script reported a step. Ends the program, in order, once enough is known."""
        if not self._speaker:
            self._speaker, self._began_at = _REPORT, time.time()
        if self._speaker != _REPORT:
            return
        self.mark(_REPORT, step)
        first = self._marks[0][0]
        if step - first >= self.num_steps:
            raise SystemExit(0)

    def saw_checkpoint(self, duration_s: float, count: int) -> None:
        """One checkpoint of `fit` took so long; the whole training writes ``count``."""
        if self._times("fit"):
            self._checkpoint_s, self._checkpoints = duration_s, count
            self._ended_at = time.time()

    def saw_gradients(self, small_rows: float, small: float, big_rows: float, big: float) -> None:
        """Squared norms, in `fit`, of the mean gradients of one share of a batch and of all of it."""
        if self._times("fit"):
            self._noise.append((small_rows, small, big_rows, big))

    def _times(self, speaker: str) -> bool:
        return speaker == self._speaker and not self._is_over

    def leave(self, folder: Path) -> None:
        """Put the times into the task's result, beside what the program left there."""
        if len(self._marks) < 2:
            return
        path, told = folder / RESULT_FILE, {}
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(path.read_bytes())
        told = told if isinstance(told, dict) else {"result": told}
        draft = folder / f"{RESULT_FILE}.trial"
        folder.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.encode({**told, "trial": self.times()}))
        draft.replace(path)

    def times(self) -> StepTimes:
        """What was measured, the warm-up left out."""
        kept = [mark for mark in self._marks if not self.is_warming_up(mark[0] - self._marks[0][0])]
        kept = kept if len(kept) > 2 else self._marks
        pairs = itertools.pairwise(kept)
        return StepTimes(
            total_steps=self._total_steps,
            first_step=self._marks[0][0],
            last_step=self._marks[-1][0],
            began_at=self._began_at,
            ended_at=self._ended_at,
            step_s=tuple((after - before) / max(1, high - low) for (low, before), (high, after) in pairs),
            checkpoint_s=self._checkpoint_s,
            num_checkpoints=self._checkpoints,
            batch_size=self._batch_size,
            num_rows=self._num_rows,
            noise_scale_rows=noise_scale(self._noise),
        )


def noise_scale(seen: list[tuple[float, float, float, float]]) -> float | None:
    """The simple gradient noise scale tr(Σ)/|G|², from squared norms at two batch sizes (McCandlish et al., 2018, appendix A)."""
    signal = sum((big_rows * big - rows * small) / (big_rows - rows) for rows, small, big_rows, big in seen)
    noise = sum((small - big) / (1 / rows - 1 / big_rows) for rows, small, big_rows, big in seen)
    return max(0.0, noise / signal) if seen and signal > 0 else None


@functools.cache
def trial() -> Trial | None:
    """The trial that this process is, or None: an ordinary training."""
    told = TaskEnvironment.read().trial
    if not told:
        return None
    found = Trial(msgspec.json.decode(told, type=TrialOrder))
    if context().is_first:
        atexit.register(_leave, found)
    return found


def _leave(found: Trial) -> None:
    with contextlib.suppress(OSError):  # a full disk takes the trial, not the program's own end
        found.leave(context().task_folder)
