"""One decision of the scheduler: 10,000 gangs wait for 1,000 nodes. ``python -m benchmarks.scheduling``.

Clouds, as a tick may find them: *full* (nobody can start), *one place free* (somebody just ended: the usual case), *empty* (after an
outage: all is given away in one decision), and *a storm* (a quarter of those who wait has a higher priority than all that run, and
everybody stops for them). Processor time, so that what else this machine does is not counted.
"""

import argparse
import gc
import random
import sys
import time
from collections.abc import Iterable, Iterator

from benchmarks.measures import Sample, sample

from skyloom.core.resources import Resources
from skyloom.rooms.scheduling.model import Demand, Holding, Node, Policy, Rulebook
from skyloom.rooms.scheduling.scheduler import Scheduler

NUM_WAITING, NUM_NODES, GPUS = 10_000, 1_000, 8
GOAL_MS = 100.0
NOW = 4e5


def nodes() -> list[Node]:
    """A thousand machines of eight GPUs in two pools."""
    total = Resources(cpus=64, gpus=GPUS, memory_bytes=2**39)
    return [Node(name=f"n{place:04}", pool=f"pool-{place % 2}", total=total) for place in range(NUM_NODES)]


def waiting(count: int, chance: random.Random, at: float = 0.0, urgent: float = 0.0) -> list[Demand]:
    """Gangs of twenty tenants: mostly one GPU, some of eight, a few over several machines (as the sizes in the Philly log)."""
    made = []
    for place in range(count):
        workers, gpus = chance.choices(((1, 1), (1, 2), (1, 4), (1, 8), (2, 8), (4, 8)), (80, 6, 5, 6, 2, 1))[0]
        made.append(
            Demand(
                id=f"g{at:.0f}-{place:05}",
                project=f"team-{chance.randrange(20)}",
                resources=Resources(cpus=4 * gpus, gpus=gpus, memory_bytes=2**34 * gpus),
                min_workers=workers,
                max_workers=workers,
                priority=int(chance.random() < urgent),
                submitted_at=at + place,
                expected_s=chance.choice((None, 600.0, 36_000.0)),
            )
        )
    return made


def filled(policy: Policy, chance: random.Random) -> list[Holding]:
    """What runs on a cloud on which nothing more fits, all of it by the scheduler's own decision."""
    scheduler = Scheduler(Rulebook(policy=policy), nodes())
    demands = {gang.id: gang for gang in waiting(9_000, chance)}
    for gang in demands.values():
        scheduler.submit(gang)
    return [
        Holding(demand=demands[each.gang], placement=each.placement, started_at=NOW - 100.0)
        for each in scheduler.decide(NOW - 100.0, 0).admissions
    ]


def again(policy: Policy, running: Iterable[Holding], gangs: Iterable[Demand]) -> tuple[Scheduler, float]:
    """A scheduler from nothing, and how long it took to tell it all."""
    began = time.process_time()
    scheduler = Scheduler(Rulebook(policy=policy), nodes())
    for holding in running:
        scheduler.hold(holding)
    for gang in gangs:
        scheduler.submit(gang)
    return scheduler, time.process_time() - began


def ticks(policy: Policy, rounds: int) -> Iterator[Sample]:
    """Decisions under one policy, each case ``rounds`` times."""
    chance = random.Random(7)
    running = filled(policy, chance)
    gangs = waiting(NUM_WAITING, chance, at=2e5)
    told: dict[str, list[float]] = {
        "told all, from nothing": [],
        "full": [],
        "full, 200 told why": [],
        "one place free": [],
    }
    for turn in range(rounds):
        scheduler, told_s = again(policy, running, gangs)
        told["told all, from nothing"].append(told_s)
        told["full"].append(_timed(scheduler, 0))
        told["full, 200 told why"].append(_timed(scheduler, 200))
        scheduler.release(running[turn % len(running)].demand.id, NOW)
        told["one place free"].append(_timed(scheduler, 200))
    for case, times_s in told.items():
        goal = 0.0 if case == "told all, from nothing" else GOAL_MS
        yield sample(f"{policy.value}: {case}", [value * 1e3 for value in times_s], "ms", below=goal)
    empty, _ = again(policy, (), gangs)
    yield sample(f"{policy.value}: empty", [_timed(empty, 200) * 1e3], "ms")
    storm, _ = again(policy, running, waiting(NUM_WAITING, chance, at=2e5, urgent=0.25))
    yield sample(f"{policy.value}: a storm", [_timed(storm, 200) * 1e3], "ms")


def _timed(scheduler: Scheduler, num_explained: int) -> float:
    gc.collect()
    began = time.process_time()
    scheduler.decide(NOW, num_explained)
    return time.process_time() - began


def decisions(rounds: int) -> Iterator[Sample]:
    """Under a policy that stops nobody, one that weighs projects, and one that stops those whose turn is over."""
    for policy in (Policy.FIFO, Policy.FAIR, Policy.LAS):
        yield from ticks(policy, rounds)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    print(f"{NUM_WAITING:,} gangs wait for {NUM_NODES:,} nodes of {GPUS} GPUs; one decision, in ms")
    print(f"{'':34}{'n':>6}{'p50':>10}{'p95':>10}  goal")
    missed = False
    for found in decisions(asked.rounds):
        verdict = {True: "met", False: "MISSED", None: ""}[found.met]
        missed |= found.met is False
        print(
            f"{found.name:34}{len(found.values):>6}{found.at(0.5):>10.2f}{found.at(0.95):>10.2f}  {found.goal} {verdict}"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
