"""The whole Philly log, played by each policy: how long that takes, and what comes out.

    python -m benchmarks.simulate_philly FILE [--nodes 40,300] [--policies fifo,srtf,las,fair]

FILE is the log as pkusys/ElasticFlow carries it (columns timestamp,duration,num_gpus,gpu_time,cluster; CC-BY-4.0), gzipped or not.
Goal: less than 60 s each. With few nodes the queue is tens of thousands of jobs long, which is the hard case.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from skyloom.rooms.scheduling.model import Policy, Rulebook
from skyloom.simulation.metrics import report
from skyloom.simulation.model import Cluster, Scenario, SimulationReport, TraceJob
from skyloom.simulation.play import play
from skyloom.simulation.trace import read_trace

_GOAL_S = 60.0
_GPUS_PER_NODE = 8


def main() -> int:
    """Measure and print; returns 0 however the goals were met: a slow machine is no error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate_philly", description=__doc__)
    parser.add_argument("log", type=Path, help="the log")
    parser.add_argument("--nodes", default="40,300", help="numbers of machines with 8 GPUs")
    parser.add_argument("--policies", default="fifo,srtf,las,fair")
    asked = parser.parse_args()
    began = time.perf_counter()
    jobs = read_trace(asked.log)
    print(f"{len(jobs):,} jobs read in {time.perf_counter() - began:.1f} s")
    print(
        f"{'':20}{'played in':>10}{'a job':>10}{'avg JCT':>10}{'p99 JCT':>10}{'makespan':>10}{'used':>8}{'stops':>10}"
    )
    for num_nodes in (int(part) for part in asked.nodes.split(",")):
        for policy in (Policy(name) for name in asked.policies.split(",")):
            cpu_s, wall_s, told = measure(jobs, num_nodes, policy)
            print(line(cpu_s, wall_s, told), flush=True)
    return 0


def measure(jobs: Sequence[TraceJob], num_nodes: int, policy: Policy) -> tuple[float, float, SimulationReport]:
    """Play the log once, as `skyloom simulate` does by default; returns seconds of this process, of the clock, and the report."""
    rules = Rulebook(policy=policy, min_run_s=0, restart_s=0, backfill=policy is not Policy.FIFO, elastic=False)
    scenario = Scenario(
        cluster=Cluster(num_nodes=num_nodes, gpus_per_node=_GPUS_PER_NODE), rules=rules, skip_too_large=True
    )
    began, cpu_began = time.perf_counter(), time.process_time()
    played = play(jobs, scenario)
    return time.process_time() - cpu_began, time.perf_counter() - began, report(played)


def line(cpu_s: float, wall_s: float, told: SimulationReport) -> str:
    """One row of the table; times of jobs in hours."""
    name = f"{told.policy.value}, {told.nodes} × {told.gpus_per_node}"
    mark = "" if cpu_s < _GOAL_S else f"  (goal: {_GOAL_S:g} s)"
    return (
        f"{name:20}{cpu_s:>9.1f}s{wall_s:>9.1f}s{cpu_s / told.num_jobs * 1e6:>8.0f}µs{(told.avg_jct_s or 0) / 3600:>9.1f}h"
        f"{(told.p99_jct_s or 0) / 3600:>9.0f}h{told.makespan_s / 3600:>9.0f}h{told.utilisation:>8.1%}"
        f"{told.num_preemptions:>10,}{mark}"
    )


if __name__ == "__main__":
    sys.exit(main())
