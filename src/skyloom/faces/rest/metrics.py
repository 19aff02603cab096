"""Prometheus metrics of the control plane. Labels are operation names and statuses, never a user's text."""

import time
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from skyloom.rooms.overview.model import CloudStatus

Endpoint = Callable[[Request], Awaitable[Response]]


class Requests:
    """Counts and times requests by operation."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._count = Counter(
            "skyloom_requests_total", "Requests answered.", ["operation", "status"], registry=registry
        )
        self._seconds = Histogram("skyloom_request_seconds", "Time to answer.", ["operation"], registry=registry)

    def timed(self, operation: str, endpoint: Endpoint) -> Endpoint:
        """Wrap an endpoint."""

        async def wrapped(request: Request) -> Response:
            began = time.perf_counter()
            response = await endpoint(request)
            self._count.labels(operation, str(response.status_code)).inc()
            self._seconds.labels(operation).observe(time.perf_counter() - began)
            return response

        return wrapped


def written(status: CloudStatus) -> bytes:
    """A cloud at a glance as Prometheus text. Made anew for each scrape, since each sees what its token opens."""
    registry = CollectorRegistry()
    live = Gauge("skyloom_live", "Things that have not ended, by noun and state.", ["noun", "state"], registry=registry)
    for noun, states in status.counts.items():
        for state, count in states.items():
            live.labels(noun, state).set(count)
    pool = Gauge("skyloom_pool", "What the pool has and what is in use.", ["resource", "part"], registry=registry)
    for part, amount in (("capacity", status.capacity), ("used", status.used)):
        pool.labels("cpus", part).set(amount.cpus)
        pool.labels("gpus", part).set(amount.gpus)
        pool.labels("memory_bytes", part).set(amount.memory_bytes)
    free = Gauge("skyloom_disk_free_bytes", "Free space where the data folder lies.", registry=registry)
    free.set(status.disk_free_bytes)
    return generate_latest(registry)
