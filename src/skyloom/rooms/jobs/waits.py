"""What queued jobs wait for, as the last round of the loop said: never stored, lost without harm."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from skyloom.rooms.scheduling.forecast import GangForecast
from skyloom.rooms.scheduling.model import Wait


class Waiting(NamedTuple):
    """Why a job waits, in words; its place in the queue, 0 when it is further back than was looked at; when it will start and end."""

    message: str
    place: int = 0
    forecast: GangForecast | None = None


_UNSAID = Waiting("")


class Waits:
    """Written by the loop, read by whoever asks for a job. Thread-safe: what was said is replaced, never changed."""

    def __init__(self) -> None:
        self._said: Mapping[str, Waiting] = {}
        self._foreseen: Mapping[str, GangForecast] = {}
        self._behind = _UNSAID

    def tell(self, waits: Iterable[Wait], num_live: int) -> None:
        """Replace all that was said."""
        said = {wait.gang: Waiting(wait.message, wait.place) for wait in waits}
        self._said = said
        self._behind = Waiting(f"behind {len(said)} others or more") if num_live > len(said) >= _MANY else _UNSAID

    def foresee(self, forecasts: Mapping[str, GangForecast]) -> None:
        """Replace all forecasts."""
        self._foreseen = forecasts

    def add(self, job_id: str, why: str) -> None:
        """Say of one more job what it waits for, until the next round."""
        self._said = {**self._said, job_id: Waiting(why)}

    def of(self, job_id: str) -> Waiting:
        """What a job waits for, should it be queued, and when it will start and end."""
        return self._said.get(job_id, self._behind)._replace(forecast=self._foreseen.get(job_id))


_MANY = 100
