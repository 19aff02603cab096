"""Whose turn it is: for each policy, the key by which waiting gangs of one priority are sorted, the smallest first."""

from bisect import bisect_right
from math import inf, nextafter

from skyloom.rooms.scheduling.model import Demand, Policy, Renting, Rulebook

Key = tuple[float | str, ...]
# Since when a running gang has its place in its LAS queue, and a number that tells places of one moment apart.
Seat = tuple[float, float]

# Policies that stop running gangs when it is another's turn (`Rulebook.preempt`), as in the papers they come from.
PREEMPTIVE = frozenset({Policy.SRTF, Policy.SRSF, Policy.LAS})


def key_of(rulebook: Rulebook, gang: Demand, now: float) -> Key:
    """The place of a waiting gang among those of its group; what never changes but for `turns_at`."""
    age: Key = (gang.submitted_at, gang.id)
    match rulebook.policy:
        case Policy.FIFO | Policy.FAIR | Policy.ELASTIC:
            return age
        case Policy.SRTF:
            return (remaining_s(gang), *age)
        case Policy.SRSF:
            return (remaining_s(gang) * width(gang), *age)
        case Policy.LAS:
            return waiting_key(gang, queue_of(rulebook, gang.attained_gpu_s), 1.0, gang.submitted_at, (0.0, 0.0))
        case Policy.DEADLINE:
            # Earliest deadline first among those that can be met; a lost one must not take another's chance with it.
            return (0.0, gang.deadline_at or 0.0, *age) if now <= latest_start(gang) < inf else (1.0, 0.0, *age)


def running_key(
    rulebook: Rulebook, gang: Demand, num_workers: int, left_s: float, queue: int, demoted: bool, seat: Seat
) -> Key:
    """The place of a running gang in the line of a preemptive policy, comparable with `key_of`.

    Args:
        left_s: how long it still runs; `inf` when nobody knows.
        queue, demoted, seat: of LAS: its queue, whether it just came down into it, and its place there.
    """
    match rulebook.policy:
        case Policy.SRTF:
            return (max(left_s, 0.0), gang.submitted_at, gang.id)
        case Policy.SRSF:
            return (max(left_s, 0.0) * width(gang, num_workers), gang.submitted_at, gang.id)
        case _:
            return (float(queue), 2.0 if demoted else 0.0, *seat, gang.id)


def waiting_key(gang: Demand, queue: int, tail: float, since: float, seat: Seat) -> Key:
    """The place of a waiting gang in its LAS queue: behind all that run there.

    The rules are those of the discretised 2D-LAS of Gu et al., "Tiresias" (NSDI 2019), as in its public simulator: FIFO in each
    queue, those who run before those who wait; who was stopped for a higher queue is the first to go on (``tail`` 0, the latest
    stopped first); who comes new or comes down from above goes to the tail (``tail`` 1); whatever fits runs, in this order.
    """
    return (float(queue), 1.0, tail, since, *seat, gang.id)


def turns_at(rulebook: Rulebook, gang: Demand, now: float) -> float:
    """From this moment on a waiting gang has another place, or may run elsewhere; `inf` for never."""
    turns = []
    if gang.deadline_at is not None:
        if rulebook.policy is Policy.DEADLINE:
            turns.append(nextafter(latest_start(gang), inf))
        if rulebook.renting is Renting.FOR_DEADLINES:
            turns += [rents_from(rulebook, gang), nextafter(gang.deadline_at, inf)]
    return min((turn for turn in turns if turn > now), default=inf)


def rents_from(rulebook: Rulebook, gang: Demand) -> float:
    """From then on it may run on rented nodes: the last moment that still meets its deadline; `inf` for never.

    Nothing is rented earlier, since an owned node may become free until then; an unknown duration leaves no time to wait. Once
    the deadline has passed, nothing is rented for it any more. (What no owned node can ever hold does not wait for one: `Queue`.)
    """
    if rulebook.renting is Renting.FREELY:
        return -inf
    if gang.deadline_at is None:
        return inf
    return -inf if gang.expected_s is None else latest_start(gang) - rulebook.restart_s


def remaining_s(gang: Demand) -> float:
    """How long it still runs with its fewest workers; `inf` when nobody knows, so that the unknown come last."""
    return inf if gang.expected_s is None else gang.expected_s


def ends_within_s(gang: Demand) -> float:
    """How long a run of it holds its room at most, with its fewest workers, as far as anybody may count on it; `inf` for no bound."""
    if gang.endless:
        return inf
    return remaining_s(gang) if gang.limit_s is None else min(remaining_s(gang), gang.limit_s)


def latest_start(gang: Demand) -> float:
    """Whoever starts later misses the deadline; `inf` without one. An unknown duration counts as none."""
    return inf if gang.deadline_at is None else gang.deadline_at - (gang.expected_s or 0.0)


def width(gang: Demand, num_workers: int | None = None) -> float:
    """How much service a second of it is: its GPUs, its CPUs where it has none."""
    return (gang.resources.gpus or gang.resources.cpus) * (num_workers or gang.min_workers)


def queue_of(rulebook: Rulebook, attained_gpu_s: float) -> int:
    """The LAS queue for that much service, 0 the first. At a border, rounding forgiven, a gang is in the next one already."""
    return bisect_right(rulebook.las_limits_gpu_s, attained_gpu_s * (1 + 1e-9) + 1e-6)


def speed(gang: Demand, num_workers: int) -> float:
    """How fast it is, where 1 is its speed with ``min_workers``. Beyond what was measured it gets no faster."""
    if not gang.rates:
        return num_workers / gang.min_workers
    measured = gang.rates[min(num_workers, len(gang.rates)) - 1]
    least = gang.rates[min(gang.min_workers, len(gang.rates)) - 1]
    return measured / least if least > 0 else 1.0
