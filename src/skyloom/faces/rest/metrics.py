"""Prometheus metrics of the control plane. Labels are operation names and statuses, never a user's text."""

import time
from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram

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
