"""How an operation reaches a cloud: one small method is the seam, so tests, notebooks and production run the same client code."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from skyloom.core.operation import Caller, Operation
from skyloom.ports.blobs import Blobs

A = TypeVar("A")
Door = Callable[[Operation[Any], Caller, str | None], Any]


PATIENCE_S = 5.0  # of people; programs inside of a job have more


class Transport(Protocol):
    """Carries operations and bulk bytes.

    Attributes:
        token: shown to the model servers, which are not asked through the control plane; empty inside the cloud's own process.
        patience_s: how long one question is asked again while nobody answers.
    """

    patience_s: float
    project: str
    url: str
    token: str

    def send(self, ask: Operation[A], key: str | None = None) -> A:
        """Send an operation and return its answer. Raises the operation's own errors, and `Unavailable` when nobody answers.

        A change carries an idempotency key, so that sending again after a lost answer is safe. It is a fresh one unless ``key`` is given,
        which a caller does who may have to repeat the change after a crash of his own.
        """
        ...

    def upload(self, chunks: Callable[[], Iterable[bytes]], digest: str) -> None:
        """Bring bytes to the cloud's blobs unless they are there already. ``chunks`` may be called again for a retry."""
        ...

    def download(self, digest: str) -> Iterator[bytes]:
        """Yield the bytes of a blob. Raises `BlobMissing`."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class InProcess:
    """A transport without a network: straight to the door of a cloud in this process."""

    url = token = ""
    patience_s = PATIENCE_S

    def __init__(self, door: Door, caller: Caller, blobs: Blobs) -> None:
        self._door = door
        self._caller = caller
        self._blobs = blobs
        self.project = caller.project

    def send(self, ask: Operation[A], key: str | None = None) -> A:
        answer: A = self._door(ask, self._caller, key)
        return answer

    def upload(self, chunks: Callable[[], Iterable[bytes]], digest: str) -> None:
        if self._blobs.size(digest) is None:
            self._blobs.put(chunks(), digest)

    def download(self, digest: str) -> Iterator[bytes]:
        return self._blobs.open(digest)

    def close(self) -> None:
        """Nothing to let go of."""
