"""The fewest replica-seconds with which nobody would have waited, had everything been known before. Exact, in one pass.

The optimum is the cheapest number of replicas R(t) with R(t) ≥ ⌈N(t) / concurrency⌉ at every moment, where N(t) are the requests that
would be answered at t if each began when it came. Every start is paid with its cold start. As each replica-second and each start costs the
same whichever replica it is, the number splits into levels (level k is on while at least k are needed), and in each gap of a level the
choice is free of all others: stay on for the gap, or stop and pay a start, whichever is less.

For a concurrency of 1 no schedule in which nobody waits is cheaper, and this one can be had. For more it is a lower bound: it moves
requests from one replica to another. A schedule that lets requests wait can be cheaper; `work_s` is the least of all, whatever waits.
"""

import math
from typing import NamedTuple

from skyloom.simulation.requests import RequestTrace


class Optimum(NamedTuple):
    """What hindsight would have paid.

    Attributes:
        replica_s: the optimum; starts included.
        work_s: service times, shared by as many as a replica answers at once: no schedule is below it.
        peak: replicas needed at once.
        num_starts: of the optimum.
        ends_at: when the last answer would be there.
    """

    replica_s: float
    work_s: float
    peak: int
    num_starts: int
    ends_at: float


def optimum(log: RequestTrace, concurrency: int, cold_start_s: float) -> Optimum:
    """Compute the optimum of a log."""
    # What takes no time needs none.
    took = [pair for pair in zip(log.arrivals, log.services, strict=True) if pair[1] > 0]
    ends = sorted(arrived + service for arrived, service in took)
    ups: list[float] = []  # of the levels that were ever on: since when
    downs: list[float] = []  # and until when, of those that are off
    paid, starts, busy, level, place = 0.0, 0, 0, 0, 0
    for end in [*ends, math.inf]:
        while place < len(ends) and took[place][0] < end:
            arrived = took[place][0]
            place += 1
            busy += 1
            if busy > level * concurrency:
                if level == len(ups):
                    ups.append(arrived)
                    downs.append(arrived)
                    paid += cold_start_s
                    starts += 1
                else:
                    gap_s = arrived - downs[level]
                    paid += min(gap_s, cold_start_s)
                    starts += gap_s > cold_start_s
                    ups[level] = arrived
                level += 1
        if end is not math.inf:
            busy -= 1
            if busy <= (level - 1) * concurrency:
                level -= 1
                downs[level] = end
                paid += end - ups[level]
    ends_at = ends[-1] if ends else log.arrivals[-1]
    return Optimum(paid, math.fsum(log.services) / concurrency, len(ups), starts, ends_at)
