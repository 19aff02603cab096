"""Known laws of scaling, and measurements of them with noise: what the planner is tried on."""

import math
import random
from collections.abc import Callable, Iterable

from skyloom.rooms.planning.model import Measurement

TrueLaw = Callable[[int, float], float]

LAWS: dict[str, TrueLaw] = {
    "ideal": lambda n, f: 2 + f * 900 / n,
    "amdahl": lambda n, f: 5 + f * (40 + 700 / n),
    "tree": lambda n, f: 5 + f * (800 / n + 12 * math.log2(n)),
    "line": lambda n, f: 5 + f * (800 / n + 1.5 * (n - 1)),
    "start": lambda n, f: 6 + 3 * math.log2(n) + f * 800 / n,
    "stragglers": lambda n, f: 4 + f * 800 / n * (1 + 0.1 * math.log2(n)),
}
SMALL = tuple((n, f) for n in (1, 2, 4, 8) for f in (0.05, 0.1, 0.2))


def measured(law: TrueLaw, design: Iterable[tuple[int, float]], noise: float, seed: int) -> list[Measurement]:
    """Measurements at (workers, share), each with log-normal noise."""
    chance = random.Random(seed)
    return [
        Measurement(workers=n, data_fraction=f, seconds=law(n, f) * math.exp(chance.gauss(0, noise))) for n, f in design
    ]
