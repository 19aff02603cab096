"""Replicas are killed again and again while users ask: every answer is the model's own, and nearly nobody sees an error."""

import random
import time
from collections.abc import Iterator

from benchmarks.chaos import models
from benchmarks.chaos.asking import Users
from benchmarks.chaos.place import gateway_pids, kill, place, replica_pids, until
from benchmarks.chaos.report import Finding, figure, promise
from benchmarks.measures import Cloud

from skyloom.rooms.serving.model import EndpointState
from skyloom.rooms.serving.scaling import Autoscaling
from skyloom.sdk.client import Client

_NAME = "chaos"
_COUNT = 3
_LEAST_SUCCESS = 0.999
_MOST_BACK_S = 10.0


def run(
    duration_s: float, rate_per_s: float, every_s: float, gateway_every_s: float, num_gateways: int, seed: int
) -> Iterator[Finding]:
    """Once with replicas that share the endpoint's ports, once with replicas behind gateways, which are killed too."""
    model = models.good(0)
    with place() as made, made.client() as client:
        version = models.register(client, _NAME, model)
        for behind in (False, True):
            scaling = Autoscaling(min_replicas=_COUNT, max_replicas=_COUNT) if behind else None
            client.endpoints.deploy(
                _NAME,
                name=_NAME,
                num_replicas=_COUNT,
                cpus=0.25,
                memory="512MiB",
                scaling=scaling,
                num_gateways=num_gateways,
            )
            client.endpoints.wait(_NAME)
            if behind:
                until("the gateways", lambda: _is_behind(client) and len(gateway_pids(client)) == num_gateways)
            users = _users(made, model, str(version.number), duration_s, rate_per_s)
            yield from _path(client, users, "gateway" if behind else "shared port", every_s, gateway_every_s, seed)


def _is_behind(client: Client) -> bool:
    """The gateway answers, and nobody beside it."""
    status = client.endpoints.get(_NAME)
    live = [item for item in status.replicas if item.replica.ended_at is None]
    return status.state is EndpointState.READY and len(live) == _COUNT and all(item.replica.private for item in live)


def _users(made: Cloud, model: object, version: str, duration_s: float, rate_per_s: float) -> Users:
    asked = models.rows(64)
    truths = {version: models.truths(model, asked)}
    return Users(made.client, _NAME, asked, truths, [(duration_s, rate_per_s)])


def _path(
    client: Client, users: Users, path: str, every_s: float, gateway_every_s: float, seed: int
) -> Iterator[Finding]:
    chance = random.Random(seed)
    back = Recovery()
    kills = gateway_kills = 0
    with users:
        next_kill, next_gateway = users.began + every_s / 2, users.began + gateway_every_s / 2
        while not users.is_over:
            time.sleep(0.05)
            now, known = time.monotonic(), replica_pids(client, _NAME)
            back.look(len(known), now)
            if now >= next_kill and known:
                next_kill += every_s
                kills += kill(known[chance.choice(sorted(known))])
            if path == "gateway" and gateway_every_s and now >= next_gateway:
                next_gateway += gateway_every_s
                gateway_kills += any(kill(pid) for pid in gateway_pids(client)[:1])
    tally = users.tally
    yield promise(f"{path}: replicas killed", kills, "some", kills > 0)
    if path == "gateway":
        yield figure(f"{path}: gateways killed", gateway_kills)
    yield figure(f"{path}: requests", f"{tally.asked:,}")
    yield promise(f"{path}: wrong answers", tally.wrong, "0", tally.wrong == 0)
    yield promise(f"{path}: success", f"{tally.success:.4%}", "≥ 99.9 %", tally.success >= _LEAST_SUCCESS)
    for error, count in tally.errors.most_common(5):
        yield figure(f"{path}: error", f"{count} × {error}")
    yield figure(f"{path}: p50, p99, most, ms", ", ".join(f"{tally.quantile_s(q) * 1e3:,.1f}" for q in (0.5, 0.99, 1)))
    words = f"≤ {_MOST_BACK_S:g}"
    yield promise(
        f"{path}: longest with fewer than {_COUNT} that answer, s", back.longest_s, words, back.longest_s <= 10
    )


class Recovery:
    """How long there were fewer replicas than there should be, as the control plane has it.

    Attributes:
        longest_s: the longest of these times.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._since: float | None = None

    def look(self, count: int, now: float) -> None:
        """So many answer now."""
        if count >= _COUNT:
            self._since = None
        elif self._since is None:
            self._since = now
        else:
            self.longest_s = max(self.longest_s, now - self._since)
