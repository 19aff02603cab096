"""Whether memory and files of a process stay flat: what was seen of it, and a line fitted to it with its interval."""

import itertools
import os
import statistics
from pathlib import Path
from typing import NamedTuple

_PAGE = os.sysconf("SC_PAGESIZE")
_NUM_BLOCKS = 20
_T = 2.101  # 97.5 % of Student's t with 18 degrees of freedom
_WARM_SHARE = 1 / 3  # of the time: caches fill, arenas grow
MIB = 2**20


class Line(NamedTuple):
    """How something grows, each hour, with its 95 % interval; and over how many hours it was seen."""

    low: float
    slope: float
    high: float
    hours: float


class Watched:
    """One process, looked at once in a while.

    Attributes:
        name: of the process, for people.
        fills_mib: what it may grow by at first, because it keeps something of the last minutes.
    """

    def __init__(self, name: str, pid: int, fills_mib: float = 0.0) -> None:
        self.name = name
        self.fills_mib = fills_mib
        self.pid = pid
        self._at: list[float] = []
        self._resident: list[float] = []
        self._files: list[float] = []

    def look(self, now: float) -> bool:
        """Look once; False when it is gone."""
        try:
            resident = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE
            files = sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())
        except OSError:
            return False
        self._at.append(now)
        self._resident.append(resident / MIB)
        self._files.append(files)
        return True

    @property
    def resident_mib(self) -> tuple[float, float]:
        """First after the warm-up, and last."""
        return self._late(self._resident)[0], self._resident[-1]

    @property
    def files(self) -> tuple[float, float]:
        """The most in the first and in the last half after the warm-up."""
        late = self._late(self._files)
        middle = len(late) // 2
        return max(late[: middle or 1]), max(late[middle:])

    @property
    def memory(self) -> Line:
        """How its resident memory grows, MiB an hour."""
        return fitted(self._late(self._at), self._late(self._resident))

    def _late(self, values: list[float]) -> list[float]:
        return values[int(len(values) * _WARM_SHARE) :]


def fitted(at: list[float], values: list[float]) -> Line:
    """A least-squares line through the means of twenty blocks, whose errors depend on each other less than those of neighbours do.

    Args:
        at: seconds, in order.
    """
    hours = (at[-1] - at[0]) / 3_600
    if len(at) < 2 * _NUM_BLOCKS:
        slope = (values[-1] - values[0]) / hours if hours else 0.0
        return Line(float("-inf"), slope, float("inf"), hours)
    cuts = [len(at) * number // _NUM_BLOCKS for number in range(_NUM_BLOCKS + 1)]
    blocks = [slice(start, end) for start, end in itertools.pairwise(cuts)]
    times = [statistics.fmean(at[block]) / 3_600 for block in blocks]
    means = [statistics.fmean(values[block]) for block in blocks]
    slope, start = statistics.linear_regression(times, means)
    middle = statistics.fmean(times)
    spread = sum((time - middle) ** 2 for time in times)
    rest = sum((mean - start - slope * time) ** 2 for time, mean in zip(times, means, strict=True))
    error = (rest / (_NUM_BLOCKS - 2) / spread) ** 0.5
    return Line(slope - _T * error, slope, slope + _T * error, hours)
