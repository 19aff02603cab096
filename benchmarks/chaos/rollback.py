"""A new version is bad, and a canary: how long until all the traffic is back, and how many users saw an error."""

import time
from collections.abc import Callable, Iterator

import onnx
from benchmarks.chaos import models
from benchmarks.chaos.asking import Users
from benchmarks.chaos.place import place, until
from benchmarks.chaos.report import Finding, figure, promise
from benchmarks.measures import Cloud

from skyloom.rooms.serving.model import EndpointStatus
from skyloom.rooms.serving.split import CanaryPlan, CanaryState
from skyloom.sdk.client import Client

_NAME = "chaos"
_MOST_S = 60.0
_PATIENCE_S = 180.0
_BAD: dict[str, Callable[[], onnx.ModelProto | None]] = {
    "errors": models.erring,
    "slow": lambda: models.slow(0),
    "crashes": lambda: None,
}


def run(rate_per_s: float) -> Iterator[Finding]:
    """One bad version after the other, while users ask; the plan is the one that a canary has when nobody says more."""
    model = models.good(0)
    with place() as made, made.client() as client:
        version = str(models.register(client, _NAME, model).number)
        client.endpoints.deploy(_NAME, name=_NAME, num_replicas=2, cpus=0.25, memory="512MiB")
        client.endpoints.wait(_NAME)
        for kind, make in _BAD.items():
            yield from _canary(made, client, kind, make(), model, version, rate_per_s)


def _canary(
    made: Cloud,
    client: Client,
    kind: str,
    bad: onnx.ModelProto | None,
    stable: onnx.ModelProto,
    version: str,
    rate: float,
) -> Iterator[Finding]:
    asked = models.rows(64)
    number = str(models.register(client, _NAME, bad).number)
    right = models.truths(stable, asked)
    # A slow version is as right as the other; of those that fail every answer would be wrong.
    truths = {version: right, number: right} if kind == "slow" else {version: right}
    users = Users(made.client, _NAME, asked, truths, [(_PATIENCE_S, rate)])
    with users:
        time.sleep(5.0)  # the stable version shows what it can
        began = time.monotonic()
        client.endpoints.deploy(_NAME, name=_NAME, canary=CanaryPlan())
        status = until("the canary's end", lambda: _decided(client), _PATIENCE_S)
        back_s = time.monotonic() - began
        time.sleep(3.0)  # who is hurt after that would be counted too
        users.stop()
    tally, canary = users.tally, status.canary
    assert canary is not None
    went_back = canary.state is CanaryState.ROLLED_BACK
    yield promise(f"{kind}: it ended", canary.state.value, "rolled_back", went_back)
    yield promise(f"{kind}: seconds from the deployment", back_s, f"≤ {_MOST_S:g}", went_back and back_s <= _MOST_S)
    yield figure(f"{kind}: said", canary.message)
    yield figure(f"{kind}: requests, of {rate:g}/s", f"{tally.asked:,}, {tally.versions[number]:,} by the bad version")
    yield figure(
        f"{kind}: users who saw an error", f"{len(tally.users_hurt)} of 500, {sum(tally.errors.values())} errors"
    )
    yield figure(
        f"{kind}: p50 and p99 meanwhile, ms", f"{tally.quantile_s(0.5) * 1e3:.1f}, {tally.quantile_s(0.99) * 1e3:.1f}"
    )
    after_s = tally.last_error_at - began - back_s
    yield promise(f"{kind}: last error after the rollback, s", max(0.0, after_s), "≤ 1", after_s <= 1.0)
    yield promise(f"{kind}: wrong answers", tally.wrong, "0", tally.wrong == 0)


def _decided(client: Client) -> EndpointStatus | None:
    status = client.endpoints.get(_NAME)
    return status if status.canary and not status.canary.live else None
