"""``make bench`` and ``make bench-compute``: measure this machine. Prints every figure with its count, percentiles and goal.

make bench                        everything, some minutes
make bench ARGS="--quick"         fewer repetitions
make bench ARGS="--only submit"   the figures whose name has that word
make bench ARGS="--json FILE"     also write them as JSON
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
from benchmarks import compute, measures, predicting, scheduling, simulate_philly
from benchmarks.measures import Sample

from skyloom import __version__


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All figures, and the machine they hold for."""

    machine: str
    version: str
    measured_at: float
    samples: tuple[Sample, ...]


def main() -> int:
    """Measure, print, and write JSON if asked; returns 0 however the goals were met: a slow machine is no error."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measure this machine.")
    parser.add_argument("--suite", choices=list(SUITES), default="product", help="what to measure")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--only", default="", help="only groups whose name has this word")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    asked = parser.parse_args()
    groups = SUITES[asked.suite]
    print(machine())
    print(f"groups: {', '.join(groups)}")
    print(f"{'':52}{'n':>6}{'p50':>10}{'p95':>10}{'p99':>10}{'max':>10}  goal")
    samples = []
    for found in measure(groups, asked.quick, asked.only):
        print(line(found), flush=True)
        samples.append(found)
    if asked.json:
        report = Report(machine=machine(), version=__version__, measured_at=time.time(), samples=tuple(samples))
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    missed = [found.name for found in samples if found.met is False]
    print(f"{len(samples)} figures; goals missed: {', '.join(missed) or 'none'}")
    return 0


Groups = dict[str, Callable[[bool], Iterable[Sample]]]

# The whole product: its start, its first second, its door, its answers. Each group is told whether it is to be quick.
PRODUCT: Groups = {
    "help": lambda quick: measures.help_time(5 if quick else 20),
    "up": lambda quick: measures.up_time(3 if quick else 20),
    "starts": lambda quick: measures.starts(5 if quick else 50),
    "submissions": lambda quick: measures.submissions(500 if quick else 5_000),
    "memory": lambda _quick: measures.memory(),
    "predict": lambda quick: predicting.predictions(2.0 if quick else 10.0),
}

# Compute: what is taken in, what is decided, what a gang costs.
COMPUTE: Groups = {
    "admissions": lambda quick: measures.submissions(500 if quick else 5_000),
    "burst": lambda quick: compute.burst(500 if quick else 10_000),
    "starts": lambda quick: measures.starts(5 if quick else 50),
    "ray": lambda quick: compute.ray_starts(5 if quick else 50),
    "gang": lambda quick: compute.gang_overhead(2 if quick else 10),
    "decisions": lambda quick: scheduling.decisions(5 if quick else 50),
    "simulation": simulate_philly.samples,
}

SUITES = {"product": PRODUCT, "compute": COMPUTE}


def measure(groups: Groups, quick: bool, only: str) -> Iterator[Sample]:
    """Measure the asked groups, one after the other."""
    for name, group in groups.items():
        if only in name:
            yield from group(quick)


def line(found: Sample) -> str:
    """A figure as one line of the table."""
    many = len(found.values) > 1
    shown = [found.at(0.5), *(found.at(share) for share in (0.95, 0.99, 1.0) if many)]
    cells = "".join(f"{value:>10.4g}" for value in shown) + " " * 10 * (4 - len(shown))
    verdict = {True: "  met", False: "  MISSED", None: ""}[found.met]
    count = len(found.values) if many else 1
    note = f"  ({found.note})" if found.note else ""
    return f"{found.name + ', ' + found.unit:<52}{count:>6}{cells}  {found.goal}{verdict}{note}"


def machine() -> str:
    """What the figures hold for."""
    model = next(
        (
            text.partition(":")[2].strip()
            for text in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in text
        ),
        platform.machine(),
    )
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") / 2**30
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return (
        f"{cores} cores of {model}, {memory_gib:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, Skyloom {__version__}; load before: {load:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
