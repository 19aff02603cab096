"""What queued jobs wait for, as the last round of the loop said: never stored, lost without harm."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from skyloom.rooms.scheduling.model import Wait


class Waiting(NamedTuple):
    """Why a job waits, in words, and its place in the queue; 0 when it is further back than was looked at."""

    message: str
    place: int = 0


_UNSAID = Waiting("")


class Waits:
    """Written by the loop, read by whoever asks for a job. Thread-safe: what was said is replaced, never changed."""

    def __init__(self) -> None:
        self._said: Mapping[str, Waiting] = {}
        self._behind = _UNSAID

    def tell(self, waits: Iterable[Wait], num_live: int) -> None:
        """Replace all that was said."""
        said = {wait.gang: Waiting(wait.message, wait.place) for wait in waits}
        self._said = said
        self._behind = Waiting(f"behind {len(said)} others or more") if num_live > len(said) >= _MANY else _UNSAID

    def add(self, job_id: str, why: str) -> None:
        """Say of one more job what it waits for, until the next round."""
        self._said = {**self._said, job_id: Waiting(why)}

    def of(self, job_id: str) -> Waiting:
        """What a job waits for, should it be queued."""
        return self._said.get(job_id, self._behind)


_MANY = 100
