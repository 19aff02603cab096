"""Users who ask an endpoint by the SDK, at a rate that does not wait for answers, and compare each answer with the model's own."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from benchmarks.chaos.models import Array

from skyloom.core.errors import SkyloomError
from skyloom.sdk.client import Client

Phase = tuple[float, float]
"""Seconds, and requests a second."""


class Tally:
    """What came back. Thread-safe.

    Attributes:
        took_s: from the moment a request was due to its answer.
        users_hurt: who saw an error.
        wrong: answers that are not the model's own.
        first_at, last_error_at: on the clock of `time.monotonic`.
    """

    def __init__(self) -> None:
        self.took_s: list[float] = []
        self.errors: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self.users_hurt: set[int] = set()
        self.wrong = 0
        self.first_took_s: float | None = None
        self.last_error_at = 0.0
        self._lock = threading.Lock()

    def answered(self, took_s: float, version: str, *, right: bool) -> None:
        """A whole answer came."""
        with self._lock:
            if self.first_took_s is None:
                self.first_took_s = took_s
            self.took_s.append(took_s)
            self.versions[version] += 1
            self.wrong += not right

    def failed(self, user: int, error: str) -> None:
        """A user saw an error."""
        with self._lock:
            self.errors[error] += 1
            self.users_hurt.add(user)
            self.last_error_at = time.monotonic()

    @property
    def asked(self) -> int:
        """Requests that came to an end."""
        return len(self.took_s) + sum(self.errors.values())

    @property
    def success(self) -> float:
        """The part of all requests that were answered, and rightly."""
        return (len(self.took_s) - self.wrong) / max(1, self.asked)

    def quantile_s(self, share: float) -> float:
        """The time that a share of the answered ones took at most."""
        return float(np.quantile(self.took_s, share)) if self.took_s else 0.0


class Users:
    """Ask an endpoint through its phases, then end. Request ``i`` is user ``i % num_users``'s.

    Args:
        connect: makes a client; each thread has its own, with connections of its own.
        truths: version on the wire → the answer to each row.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        endpoint: str,
        asked: Array,
        truths: Mapping[str, Array],
        phases: Sequence[Phase],
        num_threads: int = 24,
        num_users: int = 500,
    ) -> None:
        self.tally = Tally()
        self.stopped = threading.Event()
        self._connect = connect
        self._endpoint = endpoint
        self._asked = asked
        self._truths = truths
        self._num_users = num_users
        self._due = _due(phases)
        self._count = itertools.count()
        self._lock = threading.Lock()
        self.began = 0.0
        self._clients = [connect() for _ in range(num_threads)]
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in self._clients]

    def __enter__(self) -> "Users":
        for client in self._clients:  # what an endpoint is asked for first is not part of what is measured
            client.endpoints.predict(self._endpoint, self._asked[:1]) if self._is_awake(client) else None
        self.began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if _[0] is not None:
            self.stopped.set()
        self.wait()

    def stop(self) -> None:
        """Ask nothing more."""
        self.stopped.set()
        self.wait()

    def wait(self) -> None:
        """Until all phases are over and everybody has an answer."""
        for thread in self._threads:
            thread.join()
        for client in self._clients:
            client.close()
        self._clients = []

    @property
    def is_over(self) -> bool:
        """Nobody asks any more."""
        return not any(thread.is_alive() for thread in self._threads)

    def _is_awake(self, client: Client) -> bool:
        return client.endpoints.get(self._endpoint).endpoint.num_replicas > 0

    def _run(self, client: Client) -> None:
        while not self.stopped.is_set():
            with self._lock:
                number, due_s = next(self._count), next(self._due, None)
            if due_s is None or self.stopped.wait(max(0.0, self.began + due_s - time.monotonic())):
                return
            self._ask(client, number, self.began + due_s)

    def _ask(self, client: Client, number: int, due: float) -> None:
        place = number % len(self._asked)
        try:
            answer = client.endpoints.predict(self._endpoint, self._asked[place : place + 1])
        except SkyloomError as error:
            self.tally.failed(number % self._num_users, f"{error.code}: {error.message[:160]}")
            return
        truth = self._truths.get(answer.model_version)
        found = np.array(answer.outputs["scores"], dtype=np.float32)
        right = truth is not None and np.allclose(found, truth[place : place + 1], rtol=1e-5, atol=1e-6)
        self.tally.answered(time.monotonic() - due, answer.model_version, right=right)


def _due(phases: Sequence[Phase]):  # type: ignore[no-untyped-def]
    """The moments at which requests are due, in seconds from the start."""
    began = 0.0
    for duration_s, rate_per_s in phases:
        for number in range(round(duration_s * rate_per_s)):
            yield began + number / rate_per_s
        began += duration_s
