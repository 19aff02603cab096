"""What jobs wait for, as the last rounds of the loop said: never stored, lost without harm."""

from collections.abc import Callable, Iterable, Mapping, Set
from types import MappingProxyType
from typing import NamedTuple

from skyloom.rooms.scheduling.forecast import GangForecast
from skyloom.rooms.scheduling.model import Wait

_MANY = 100


class Waiting(NamedTuple):
    """Why a job waits, in words.

    Attributes:
        message: why it is still in the queue.
        place: there; 0 when it is further back than was looked at.
        forecast: when it will start and end.
        held_up: why it is not launched yet, though its turn has come.
        advice: what to do, where waiting alone will not do.
    """

    message: str = ""
    place: int = 0
    forecast: GangForecast | None = None
    held_up: str = ""
    advice: str = ""


Behind = Callable[[str], Waiting | None]


def _nobody_knows(job_id: str) -> Waiting | None:
    return None


class Waits:
    """Written by the loop, read by whoever asks for a job. Thread-safe: what was said is replaced, never changed."""

    def __init__(self) -> None:
        self._said: Mapping[str, Waiting] = {}
        self._foreseen: Mapping[str, GangForecast] = {}
        self._held_up: Mapping[str, str] = {}
        self._behind = Waiting()
        self._why_behind: Behind = _nobody_knows

    def tell(
        self,
        waits: Iterable[Wait],
        live: Set[str],
        advice: Mapping[str, str] = MappingProxyType({}),
        why_behind: Behind = _nobody_knows,
    ) -> None:
        """Replace all that was said of those in the queue.

        Args:
            live: the ids of all jobs that have not ended.
            advice: by job, for those that have to do something.
            why_behind: asked for a job that is further back than ``waits`` goes, on any thread.
        """
        self._why_behind = why_behind
        said = {wait.gang: Waiting(wait.message, wait.place, advice=advice.get(wait.gang, "")) for wait in waits}
        self._said = said
        self._behind = Waiting(f"behind {len(said)} others or more") if len(live) > len(said) >= _MANY else Waiting()
        self._held_up = {job_id: why for job_id, why in self._held_up.items() if job_id in live}

    def foresee(self, forecasts: Mapping[str, GangForecast]) -> None:
        """Replace all forecasts."""
        self._foreseen = forecasts

    def hold_up(self, job_id: str, why: str) -> None:
        """Say why a job is not launched yet; with an empty text, that nothing holds it up any more."""
        if why != self._held_up.get(job_id, ""):
            self._held_up = {**self._held_up, job_id: why}

    def of(self, job_id: str) -> Waiting:
        """What a job waits for, should it wait, and when it will start and end."""
        said = self._said.get(job_id) or (self._behind.message and self._why_behind(job_id)) or self._behind
        return said._replace(forecast=self._foreseen.get(job_id), held_up=self._held_up.get(job_id, ""))
