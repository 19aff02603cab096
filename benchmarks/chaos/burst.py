"""An endpoint sleeps, is asked fifty times as much as usual, and is left alone again."""

import itertools
import threading
import time
from collections.abc import Iterator, Sequence

from benchmarks.chaos import models
from benchmarks.chaos.asking import Users
from benchmarks.chaos.place import place, until
from benchmarks.chaos.report import Finding, figure, promise
from benchmarks.measures import Cloud

from skyloom.rooms.serving.scaling import Autoscaling, ScaleSignal
from skyloom.sdk.client import Client

_NAME = "chaos"
_TIMES = 50
_MOST_COLD_S = 1.0
_MOST_REPLICAS = 4


def run(duration_s: float, rate_per_s: float, num_bursts: int) -> Iterator[Finding]:
    """Bursts of so long each; the usual rate is a fiftieth of the burst's."""
    model = models.good(0)
    peak = _TIMES * rate_per_s
    scaling = Autoscaling(
        min_replicas=0,
        max_replicas=_MOST_REPLICAS,
        signal=ScaleSignal.RATE,
        target=peak / (_MOST_REPLICAS - 0.8),
        window_s=10.0,
        scale_to_zero_after_s=6.0,
        scale_down_delay_s=5.0,
    )
    with place() as made, made.client() as client:
        version = str(models.register(client, _NAME, model).number)
        client.endpoints.deploy(_NAME, name=_NAME, cpus=0.25, memory="512MiB", scaling=scaling)
        client.endpoints.wait(_NAME)
        for number in range(1, num_bursts + 1):
            until("an endpoint that sleeps", lambda: _sleeps(client))
            yield from _burst(made, client, model, version, duration_s, rate_per_s, number)


def _burst(
    made: Cloud, client: Client, model: object, version: str, duration_s: float, rate: float, number: int
) -> Iterator[Finding]:
    asked = models.rows(64)
    seen = Sizes(made)
    phases = [(duration_s, rate * _TIMES), (duration_s / 4, rate)]
    users = Users(made.client, _NAME, asked, {version: models.truths(model, asked)}, phases)
    with seen:
        with users:
            pass
        ended = time.monotonic()
        until("zero again", lambda: _sleeps(client), 90)
        asleep_s = time.monotonic() - ended
    tally, sizes, name = users.tally, seen.sizes, f"burst {number}"
    first_s = tally.first_took_s or 0.0
    turns = num_turns(sizes)
    yield promise(
        f"{name}: first answer of an endpoint asleep, s", first_s, f"≤ {_MOST_COLD_S:g}", first_s <= _MOST_COLD_S
    )
    yield figure(f"{name}: requests", f"{tally.asked:,} at {rate * _TIMES:g}/s, then {rate:g}/s")
    errors = sum(tally.errors.values())
    yield promise(f"{name}: lost", errors, "0", errors == 0)
    for error, count in tally.errors.most_common(3):
        yield figure(f"{name}: error", f"{count} × {error}")
    yield promise(f"{name}: wrong answers", tally.wrong, "0", tally.wrong == 0)
    yield figure(f"{name}: p50, p99, most, ms", ", ".join(f"{tally.quantile_s(q) * 1e3:,.1f}" for q in (0.5, 0.99, 1)))
    yield figure(f"{name}: replicas wanted", " → ".join(map(str, sizes)))
    yield promise(f"{name}: changes of direction", turns, "≤ 1: up, then down", turns <= 1)
    yield promise(f"{name}: replicas at most", max(sizes), "several", max(sizes) > 1)
    yield figure(f"{name}: asleep again after, s", asleep_s)


def _sleeps(client: Client) -> bool:
    status = client.endpoints.get(_NAME)
    return status.endpoint.num_replicas == 0 and all(item.replica.ended_at for item in status.replicas)


class Sizes:
    """How many replicas were wanted, one after the other, as the control plane says it ten times a second."""

    def __init__(self, made: Cloud) -> None:
        self.sizes: list[int] = []
        self._client = made.client()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Sizes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._client.close()

    def _look(self) -> None:
        while True:
            size = self._client.endpoints.get(_NAME).endpoint.num_replicas
            if not self.sizes or self.sizes[-1] != size:
                self.sizes.append(size)
            if self._over.wait(0.1):
                return


def num_turns(sizes: Sequence[int]) -> int:
    """How often a number that grew began to shrink, or the other way round."""
    ways = [late > early for early, late in itertools.pairwise(sizes)]
    return sum(one is not other for one, other in itertools.pairwise(ways))
