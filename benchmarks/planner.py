"""How far off the planner is: ``python -m benchmarks.planner [--only WORD] [--json FILE] [--synthetic-only]``.

Each real training is tried on a tenth of its steps (a twentieth with one worker, a twentieth with two), planned for a deadline and a
budget, run whole with the chosen workers, and compared. Then laws of scaling that are known, with noise, measured with 1 to 8 workers
and predicted up to 64. Wants the machine for itself; takes about eight minutes on two cores.
"""

import argparse
import csv
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from benchmarks.measures import cloud, warm_up
from benchmarks.planner_training import KINDS

from skyloom.core.resources import Resources
from skyloom.rooms.planning.model import Aim, AimImpossible, Measurement
from skyloom.rooms.training.model import TrialOrder
from skyloom.sdk.client import Client
from skyloom.sdk.planning import forecast

PROGRAM = Path(__file__).with_name("planner_training.py")
EACH = Resources(cpus=1, memory_bytes=2**30)
# For some twenty seconds each on one core.
EPOCHS = dict(zip(KINDS, (45, 18, 36, 46, 26, 32, 15, 22, 55, 64), strict=True))
SHARE = 0.05
_SLACK = 1.25  # a deadline leaves so much beyond the best prediction


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One training, predicted and run. Times in seconds, money in USD; ``tried_share`` is the part of its steps that was tried."""

    name: str
    workers: int
    predicted_s: float
    low_s: float
    high_s: float
    actual_s: float
    deadline_s: float | None
    budget_usd: float | None
    spent_usd: float
    tried_share: float

    @property
    def error(self) -> float:
        return abs(self.predicted_s - self.actual_s) / self.actual_s

    @property
    def in_time(self) -> bool:
        return self.deadline_s is None or self.actual_s <= self.deadline_s

    @property
    def overspent(self) -> bool:
        return self.budget_usd is not None and self.spent_usd > self.budget_usd

    @property
    def inside(self) -> bool:
        return self.low_s <= self.actual_s <= self.high_s


def main() -> int:
    """Measure and print; returns 0 however the goals were met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner", description="How far off the planner is.")
    parser.add_argument("--only", default="", help="the trainings whose name has this word")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="train that much as long; below 1 the figures say little"
    )
    parser.add_argument("--synthetic-only", action="store_true", help="only the known laws")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    asked = parser.parse_args()
    real = [] if asked.synthetic_only else list(real_trainings(asked.only, asked.scale))
    made = list(synthetic_laws())
    for title, some in (("real trainings", real), ("known laws, up to 64 workers", made)):
        if some:
            print(summary(title, some))
    if asked.json:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode({"real": real, "synthetic": made})))
    return 0


def summary(title: str, some: list[Compared]) -> str:
    """The figures that have a goal."""
    bound = [one for one in some if one.deadline_s is not None]
    error, in_time = median(one.error for one in some), sum(one.in_time for one in bound) / len(bound)
    inside = sum(one.inside for one in some) / len(some)
    return (
        f"{title}: {len(some)} predictions, median absolute error {error:.1%} (goal < 10 %), "
        f"inside the interval {inside:.0%} (it says 90 %), {len(bound)} deadlines met {in_time:.0%} (goal ≥ 90 %), "
        f"overspent {sum(one.overspent for one in some)} (goal 0)"
    )


def real_trainings(only: str, scale: float) -> Iterator[Compared]:
    """Try, plan, run and compare each; yields as it goes and prints a line for each."""
    print(
        f"{'training':34}{'workers':>8}{'predicted':>11}{'interval':>17}{'actual':>9}{'error':>8}{'tried':>7}  in time"
    )
    with cloud(SKYLOOM_CPUS="2", SKYLOOM_MEMORY="16GiB") as made, made.client() as client:
        warm_up(made)
        for name, training in trainings(client, scale):
            if only in name:
                compared = compare(client, name, training)
                print(line(compared), flush=True)
                yield compared


def trainings(client: Client, scale: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ten scripts and the recipe for tables, each as what starts it."""

    def epochs(usual: int) -> int:
        return max(1, round(usual * scale))

    usual = {"cpus": EACH.cpus, "memory": "1GiB"}
    for name in KINDS:
        yield name, {"script": PROGRAM, "args": (name, str(epochs(EPOCHS[name]))), **usual}
    with tempfile.TemporaryDirectory(prefix="skyloom-bench-") as folder:
        path = Path(folder) / "table.csv"
        write_table(path)
        client.data.finish(client.data.create("table", path), timeout_s=120)
        client.data.finish(client.data.split("table", seed=1), timeout_s=120)
    yield (
        "the tabular recipe",
        {
            "recipe": "tabular",
            "dataset": "table",
            "target": "kind",
            "parameters": {"epochs": epochs(50), "batch_size": 64},
        }
        | usual,
    )
    yield (
        "the tabular recipe, wide",
        {
            "recipe": "tabular",
            "dataset": "table",
            "target": "kind",
            "parameters": {"epochs": epochs(16), "batch_size": 128, "hidden": [512, 512]},
        }
        | usual,
    )


def write_table(path: Path, rows: int = 10_000) -> None:
    """Rows whose kind can be learned from their numbers."""
    chance = random.Random(1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "d", "kind"])
        for _ in range(rows):
            numbers = [chance.gauss(0, 1) for _ in range(4)]
            writer.writerow([*(f"{number:.4f}" for number in numbers), "yes" if sum(numbers) > 0 else "no"])


def compare(client: Client, name: str, training: dict[str, Any]) -> Compared:
    """Try with one worker and with two, plan for a deadline and a budget, run it with the chosen ones."""
    order = TrialOrder(share=SHARE, min_steps=12, max_steps=2_000)
    trials = [client.plans.try_out(workers=workers, order=order, **training) for workers in (1, 2)]
    first = client.plans.make(name, trials, Aim(max_workers=2), resources=EACH)
    fastest = min(first.predictions, key=lambda one: one.seconds)
    price = first.aim.price_usd_per_worker_hour
    tried_usd = sum(trial.workers * (trial.ended_at - trial.started_at) for trial in trials) * price / 3600
    # A deadline may be bet on, money is not: a budget below the longest time to be reckoned with is refused.
    budget_usd = 1.01 * fastest.high_cost_usd + tried_usd
    aim = Aim(max_workers=2, deadline_s=_SLACK * fastest.seconds, budget_usd=budget_usd)
    plan = client.plans.make(name, trials, aim, resources=EACH)
    begun = client.trainings.start(workers=plan.chosen.workers, **training)
    client.plans.follow(plan.id, begun.run.id)
    client.jobs.finish(begun.run.job_id, timeout_s=600)
    outcome = client.plans.get(plan.id).outcome
    assert outcome is not None
    return Compared(
        name=name,
        workers=outcome.workers,
        predicted_s=outcome.predicted_s,
        low_s=outcome.low_s,
        high_s=outcome.high_s,
        actual_s=outcome.actual_s,
        deadline_s=aim.deadline_s,
        budget_usd=aim.budget_usd,
        spent_usd=outcome.actual_usd + tried_usd,
        tried_share=sum(trial.times.last_step / trial.times.total_steps for trial in trials),
    )


def line(one: Compared) -> str:
    """One training as a line of the table."""
    interval = f"{one.low_s:.1f} … {one.high_s:.1f} s"
    said = "yes" if one.in_time else "NO"
    return (
        f"{one.name:34}{one.workers:>8}{one.predicted_s:>9.1f} s{interval:>17}{one.actual_s:>7.1f} s{one.error:>8.1%}"
        f"{one.tried_share:>7.1%}  {said}{' OVERSPENT' if one.overspent else ''}"
    )


Truth = Callable[[int, float], float]
TRUTHS: dict[str, Truth] = {
    "ideal": lambda n, f: 3 + f * 3_000 / n,
    "Amdahl, 3 % serial": lambda n, f: 5 + f * (90 + 2_900 / n),
    "Amdahl, 10 % serial": lambda n, f: 5 + f * (300 + 2_700 / n),
    "tree, every step": lambda n, f: 5 + f * (3_000 / n + 12 * math.log2(n)),
    "tree, much of it": lambda n, f: 5 + f * (3_000 / n + 50 * math.log2(n)),
    "line, every step": lambda n, f: 5 + f * (3_000 / n + 3 * (n - 1)),
    "start-up grows": lambda n, f: 8 + 0.5 * (n - 1) + f * 3_000 / n,
    "Ernest": lambda n, f: 8 + 4 * math.log(n) + 0.3 * n + f * 2_800 / n,
    "stragglers": lambda n, f: 5 + f * 3_000 / n * (1 + 0.12 * math.log2(n)),
    "ring of all-reduces": lambda n, f: 5 + f * (3_000 / n + 80 * (n - 1) / n + 0.8 * (n - 1)),
}


def synthetic_laws(seeds: int = 5) -> Iterator[Compared]:
    """Measure known laws with 1, 2, 4 and 8 workers on little data, choose workers for a deadline, and see what would have come."""
    design = [(n, f) for n in (1, 2, 4, 8) for f in (0.02, 0.04, 0.08)]
    for name, truth in TRUTHS.items():
        errors = []
        for seed in range(seeds):
            for noise in (0.01, 0.03, 0.05):
                compared = list(_synthetic(name, truth, design, noise, random.Random(f"{name} {seed} {noise}")))
                errors += [one.error for one in compared]
                yield from compared
        print(f"{name:34}{len(errors):>8} predictions, median absolute error {median(errors):.1%}")


def _synthetic(
    name: str, truth: Truth, design: list[tuple[int, float]], noise: float, chance: random.Random
) -> Iterator[Compared]:
    measured = [
        Measurement(workers=n, data_fraction=f, seconds=truth(n, f) * math.exp(chance.gauss(0, noise)))
        for n, f in design
    ]
    # From a third of the time of one worker down to what sixteen can do.
    for wanted_s in (truth(1, 1) / 3, truth(1, 1) / 6, 1.2 * truth(16, 1)):
        budget_usd = 2 * truth(1, 1) / 3600
        aim = Aim(max_workers=64, deadline_s=wanted_s, budget_usd=budget_usd, price_usd_per_worker_hour=1.0)
        try:
            chosen = forecast(measured, aim).chosen
        except AimImpossible:
            continue  # refused: nothing is started, nothing is late
        actual_s = truth(chosen.workers, 1) * math.exp(chance.gauss(0, noise))
        yield Compared(
            name=name,
            workers=chosen.workers,
            predicted_s=chosen.seconds,
            low_s=chosen.low_s,
            high_s=chosen.high_s,
            actual_s=actual_s,
            deadline_s=wanted_s,
            budget_usd=budget_usd,
            spent_usd=actual_s * chosen.workers / 3600,
            tried_share=sum(f for _, f in design),
        )
    for workers in (1, 2, 4, 8, 16, 32, 64):
        found = forecast(measured, Aim(min_workers=workers, max_workers=workers)).chosen
        actual_s = truth(workers, 1) * math.exp(chance.gauss(0, noise))
        yield Compared(
            name=name,
            workers=workers,
            predicted_s=found.seconds,
            low_s=found.low_s,
            high_s=found.high_s,
            actual_s=actual_s,
            deadline_s=None,
            budget_usd=None,
            spent_usd=0.0,
            tried_share=sum(f for _, f in design),
        )


if __name__ == "__main__":
    sys.exit(main())
