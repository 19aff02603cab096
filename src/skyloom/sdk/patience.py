"""Following something through an outage of the control plane: what runs does not need it, so who watches waits for it to come back."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from skyloom.core.operation import Operation
from skyloom.sdk.http import CloudUnreachable
from skyloom.sdk.transport import PATIENCE_S, Transport
from skyloom.sdk.waiting import pauses, say

A = TypeVar("A")
_OUTAGE_S = 60.0


def patient(transport: Transport, what: str, again: str, timeout_s: float | None = None) -> Transport:
    """The same transport, for one who follows ``what``: it waits out an outage. One that does already, or that was made to have less
    patience than usual, is left as it is.

    Args:
        what: is followed: "Job job_x".
        again: the command that follows it again.
        timeout_s: of who waits; the patience is not longer.
    """
    if isinstance(transport, Patient) or transport.patience_s < PATIENCE_S:
        return transport
    return Patient(transport, what, again, _OUTAGE_S if timeout_s is None else min(_OUTAGE_S, timeout_s))


def patient_with_job(transport: Transport, job_id: str, timeout_s: float | None = None) -> Transport:
    """A `patient` transport for one who follows a job."""
    return patient(transport, f"Job {job_id}", f"skyloom job logs -f {job_id}", timeout_s)


class Patient:
    """A transport that goes on trying for a minute when a cloud that had answered does not any more.

    It says so once on stderr, and when the cloud is back. Raises `CloudUnreachable` when that did not help.
    A cloud that has never answered is no outage but perhaps a wrong address: that is raised at once.
    """

    def __init__(self, transport: Transport, what: str, again: str, patience_s: float) -> None:
        self._transport = transport
        self._what = what
        self._again = again
        self.patience_s = patience_s
        self.project, self.url, self.token = transport.project, transport.url, transport.token

    def send(self, ask: Operation[A], key: str | None = None) -> A:
        try:
            return self._transport.send(ask, key)
        except CloudUnreachable as error:
            if not error.had_answered:
                raise
            return self._waited_out(ask, key, error.message)

    def _waited_out(self, ask: Operation[A], key: str | None, problem: str) -> A:
        say(f"{problem} {self._what} goes on. Trying again for {self.patience_s:g} s; Ctrl-C lets go of it.")
        deadline, waiting = time.monotonic() + self.patience_s, pauses()
        while True:
            next(waiting)
            try:
                answer = self._transport.send(ask, key)
            except CloudUnreachable as error:
                if time.monotonic() < deadline:
                    continue
                raise CloudUnreachable(
                    f"{error.message} Gave up after {self.patience_s:g} s. {self._what} goes on without it.",
                    next_action=f"Start the cloud (skyloom up --detach), then follow it again: {self._again}.",
                ) from error
            say(f"{self.url} answers again.")
            return answer

    def upload(self, chunks: Callable[[], Iterable[bytes]], digest: str) -> None:
        self._transport.upload(chunks, digest)

    def download(self, digest: str) -> Iterator[bytes]:
        return self._transport.download(digest)

    def close(self) -> None:
        self._transport.close()
