"""A loop of one's own that a plan can time and predict: ``for step in steps(1_000): …``."""

import time
from collections.abc import Iterator

from skyloom.runtime.report import report
from skyloom.runtime.trial import trial

_REPORT_EVERY_S = 1.0


def steps(total: int, first: int = 0) -> Iterator[int]:
    """Count the steps of a training from ``first`` to ``total - 1``; all ranks use it alike.

    In a run, progress is reported once a second (``train/step``), which is what a new estimate of the end is made of. In a trial it stops
    early; what follows the loop is done as always.
    """
    tried, last = trial(), 0.0
    stop = total if tried is None else first + tried.begin("steps", total - first)
    for step in range(first, min(stop, total)):
        yield step
        if tried is not None:
            tried.mark("steps", step + 1 - first)
        elif (now := time.monotonic()) - last >= _REPORT_EVERY_S or step + 1 == total:
            report({"train/step": step + 1}, step + 1)
            last = now
