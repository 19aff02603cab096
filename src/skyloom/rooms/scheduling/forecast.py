"""When waiting gangs will start and end: what is open is played out many times by the same rules, and the outcomes are counted.

Of a gang that runs or waits nobody knows how long it takes; each rollout draws that from its `Durations` (given how long it ran so far)
and plays all of them out; what is endless ends in none. It is assumed that nothing else is submitted: those who come later can only
make it later.
"""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

import msgspec

from skyloom.rooms.scheduling.course import Script
from skyloom.rooms.scheduling.durations import Durations, from_estimate, from_nothing
from skyloom.rooms.scheduling.model import Demand, Holding, Node
from skyloom.rooms.scheduling.policies import speed
from skyloom.rooms.scheduling.scheduler import Scheduler
from skyloom.rooms.scheduling.simulation import Simulation, StopCosts

_ROLLOUTS = (20, 200)
_FEWEST = 10  # waiting gangs that are played, whatever that costs
_EARLY, _LIKELY, _LATE = 0.1, 0.5, 0.9
# A rollout in which gangs are stopped again and again is cut off after so many times the events that it takes without.
_PATIENCE = 20


class LikelyTime(msgspec.Struct, frozen=True, kw_only=True):
    """A moment that is not known: with 80 % between early and late. None: later than could be played out, or never."""

    early_at: float | None = None
    likely_at: float | None = None
    late_at: float | None = None


class GangForecast(msgspec.Struct, frozen=True, kw_only=True):
    """When a gang will start and end.

    Attributes:
        starts: its next start; of one that runs, when that was.
        basis: what its duration is judged by, for people.
    """

    gang: str
    starts: LikelyTime
    ends: LikelyTime
    basis: str
    num_rollouts: int


def forecast(
    make: Callable[[], Scheduler],
    nodes: Sequence[Node],
    running: Iterable[Holding],
    waiting: Iterable[Demand],
    durations: Mapping[str, Durations],
    now: float,
    *,
    costs: StopCosts | None = None,
    seed: int = 0,
    max_events: int = 20_000,
) -> dict[str, GangForecast]:
    """Say when each gang will start and end, by gang. Pure, and the same for the same seed; may take seconds: not for a tick.

    Args:
        make: gives a fresh scheduler each time, that has these nodes and its projects' past use, and knows no gang.
        running: all that hold resources.
        waiting: in the order of the queue; as many of the first are played and answered as ``max_events`` allows.
        durations: by gang; one that is missing is judged by its own ``expected_s``, or by nothing.
        costs: of stopping a gang.
        max_events: how much is played, over all rollouts, about 100 µs each; fewer gangs get more rollouts. All that runs is played at
            least 20 times, however much that is.

    Raises `IllegalDecision`.
    """
    holdings = list(running)
    queue = list(islice(waiting, max(_FEWEST, (max_events // _ROLLOUTS[0] - len(holdings)) // 2)))
    gangs = [*(holding.demand for holding in holdings), *queue]
    if not gangs:
        return {}
    known = {gang.id: durations.get(gang.id) or _known(gang) for gang in gangs}
    per_rollout = len(holdings) + 2 * len(queue)
    num_rollouts = min(_ROLLOUTS[1], max(_ROLLOUTS[0], max_events // per_rollout))
    chances = _spread(len(gangs), num_rollouts, random.Random(seed))  # noqa: S311  (no secret)
    starts: list[list[float]] = [[] for _ in gangs]
    ends: list[list[float]] = [[] for _ in gangs]
    for rollout in range(num_rollouts):
        scripts = [
            _script(gang, known[gang.id], chances[place][rollout], now, holding)
            for place, (gang, holding) in enumerate(zip(gangs, [*holdings, *(None for _ in queue)], strict=True))
        ]
        played = Simulation(make(), nodes, scripts, costs).run(now, max_events=_PATIENCE * per_rollout + 100)
        for place, life in enumerate(played.lives):
            starts[place].append(_moment(life.started_at))
            ends[place].append(_moment(life.ended_at))
    return {
        gang.id: GangForecast(
            gang=gang.id,
            starts=_likely(starts[place]),
            ends=_likely(ends[place]),
            basis=known[gang.id].basis,
            num_rollouts=num_rollouts,
        )
        for place, gang in enumerate(gangs)
    }


def _known(gang: Demand) -> Durations:
    """What a gang's own estimate says. It is of what is still to come; what it ran already is added, for durations are whole."""
    if gang.expected_s is None:
        return from_nothing()
    return from_estimate(gang.expected_s + ran_s(gang))


def ran_s(gang: Demand) -> float:
    """How long a gang ran before, in seconds with its fewest workers."""
    per_s = gang.min_workers * (gang.resources.gpus or gang.resources.cpus)
    return gang.attained_gpu_s / per_s if per_s else 0.0


def _script(gang: Demand, known: Durations, chance: float, now: float, holding: Holding | None) -> Script:
    """What a gang will do in one rollout."""
    if gang.endless:
        return Script(demand=gang, duration_s=math.inf, num_workers=gang.min_workers, holding=holding)
    before_s = ran_s(gang)
    if holding is None:
        return Script(demand=gang, duration_s=known.left_s(before_s, chance), num_workers=gang.min_workers)
    faster = speed(gang, sum(count for _, count in holding.placement))
    elapsed_s = before_s + max(0.0, now - holding.started_at) * faster
    return Script(
        demand=gang,
        duration_s=known.left_s(elapsed_s, chance),
        num_workers=gang.min_workers,
        holding=holding,
    )


def _spread(num_gangs: int, num_rollouts: int, random_: random.Random) -> list[list[float]]:
    """Chances for every gang and rollout. Each gang's are spread evenly over 0 to 1 (Latin hypercube): fewer rollouts do."""
    chances = []
    for _ in range(num_gangs):
        row = [(part + random_.random()) / num_rollouts for part in range(num_rollouts)]
        random_.shuffle(row)
        chances.append(row)
    return chances


def _moment(at: float | None) -> float:
    return math.inf if at is None else at


def _likely(moments: Sequence[float]) -> LikelyTime:
    ordered = sorted(moments)
    return LikelyTime(
        early_at=_quantile(ordered, _EARLY), likely_at=_quantile(ordered, _LIKELY), late_at=_quantile(ordered, _LATE)
    )


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    place = min(max(share * (len(ordered) + 1) - 1, 0.0), len(ordered) - 1.0)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    if not math.isfinite(ordered[above]):
        return None
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
