"""When jobs will start and end: the forecast of `rooms/scheduling`, made now and then beside the loop, from a picture of its state."""

import copy
import logging
from collections.abc import Callable, Mapping

from skyloom.ports.clock import Clock
from skyloom.rooms.jobs.picture import Picture
from skyloom.rooms.jobs.turns import replay
from skyloom.rooms.jobs.waits import Waits
from skyloom.rooms.scheduling.forecast import GangForecast, forecast
from skyloom.rooms.scheduling.scheduler import Scheduler
from skyloom.rooms.scheduling.simulation import IllegalDecision, StopCosts

log = logging.getLogger("skyloom.jobs")
_LOOK_S = 3.0
_OLDEST_S = 60.0  # a forecast of the same jobs is made anew after this long
_MOST_EVENTS = 4_000  # of all rollouts: some tenths of a second


class JobOutlook:
    """Keeps the forecasts that `Waits` tells.

    Args:
        picture: takes a picture of the loop's state; None when nothing waits or runs.
    """

    def __init__(self, clock: Clock, waits: Waits, picture: Callable[[], Picture | None]) -> None:
        self._clock = clock
        self._waits = waits
        self._picture = picture
        self._seen: object = None
        self._made_at = float("-inf")

    def tick(self) -> float:
        """Look whether a new forecast is due, and make it. Returns the seconds until the next look."""
        picture = self._picture()
        seen = None
        if picture is not None:
            running = [(holding.demand.id, holding.started_at) for holding in picture.running]
            seen = (running, [gang.id for gang in picture.waiting])
        if seen == self._seen and self._clock.monotonic() < self._made_at + _OLDEST_S:
            return _LOOK_S
        self._waits.foresee(self._foretell(picture) if picture else {})
        self._seen, self._made_at = seen, self._clock.monotonic()
        return _LOOK_S

    def _foretell(self, picture: Picture) -> Mapping[str, GangForecast]:
        fresh = Scheduler(picture.rulebook, picture.nodes)
        replay(fresh, picture.past)
        try:
            return forecast(
                lambda: copy.deepcopy(fresh),
                picture.nodes,
                picture.running,
                picture.waiting,
                picture.durations,
                self._clock.now(),
                costs=StopCosts(restart_s=picture.rulebook.restart_s),
                max_events=_MOST_EVENTS,
            )
        except IllegalDecision:
            log.exception("no forecast could be made; jobs go on as they are")
            return {}
