"""What the gateway counts at one endpoint. Totals only grow; means and medians are of the time since the last report."""

import math
from collections.abc import Iterable

from skyloom.rooms.monitoring.model import BIN_GROWTH, FIRST_BIN_S, MAX_BINS, Latency
from skyloom.rooms.serving.routes import RevisionTraffic, RouteTraffic

_LOG_GROWTH = math.log(BIN_GROWTH)


def bin_of(duration_s: float) -> int:
    """The bin of `Latency` that a duration falls into."""
    return min(max(int(math.log(max(duration_s / FIRST_BIN_S, 1.0)) / _LOG_GROWTH), 0), MAX_BINS - 1)


class RevisionCounter:
    """Answers of one revision."""

    def __init__(self) -> None:
        self._requests = self._client_errors = self._server_errors = 0
        self._latency: dict[int, int] = {}

    def answered(self, status: int, duration_s: float) -> None:
        """Count one answer by its HTTP status."""
        self._requests += 1
        if status >= 500:
            self._server_errors += 1
        elif status >= 400:
            self._client_errors += 1
        place = bin_of(duration_s)
        self._latency[place] = self._latency.get(place, 0) + 1

    def traffic(self) -> RevisionTraffic:
        """All of it."""
        return RevisionTraffic(
            requests=self._requests,
            client_errors=self._client_errors,
            server_errors=self._server_errors,
            latency=Latency(counts=dict(sorted(self._latency.items()))),
        )


class RouteCounter:
    """Requests of one endpoint. ``now`` is any clock that never goes back, always the same one.

    Attributes:
        arrived, in_flight, held: see `RouteTraffic`.
    """

    def __init__(self, endpoint: str, now: float) -> None:
        self._endpoint = endpoint
        self.arrived = self.in_flight = self.held = 0
        self._area = 0.0  # requests times seconds since the last report
        self._began = self._last = now
        self._at_once = 0
        self._delays: dict[int, int] = {}
        self.revisions: dict[str, RevisionCounter] = {}
        self.shadows: dict[str, RevisionCounter] = {}

    def moved(self, now: float, *, held: int = 0, in_flight: int = 0) -> None:
        """So many more, or fewer, are held and in flight from now on."""
        if now > self._last:
            self._area += (self.held + self.in_flight) * (now - self._last)
            self._last = now
        self.held += held
        self.in_flight += in_flight

    def waited(self, duration_s: float) -> None:
        """A request got its replica after so long; 0 for at once."""
        if duration_s <= 0:
            self._at_once += 1
        else:
            place = bin_of(duration_s)
            self._delays[place] = self._delays.get(place, 0) + 1

    def answered(self, revision: str, status: int, duration_s: float) -> None:
        """Count an answer; one of a revision that is not in the table counts for none."""
        found = self.revisions.get(revision)
        if found is not None:
            found.answered(status, duration_s)

    def shadowed(self, revision: str, status: int, duration_s: float) -> None:
        """Count an answer that was thrown away."""
        found = self.shadows.get(revision)
        if found is not None:
            found.answered(status, duration_s)

    def keep(self, revisions: Iterable[str], shadows: Iterable[str]) -> None:
        """Count for these from now on, and forget the others: what is told stays small however often somebody deploys."""
        self.revisions = {name: self.revisions.get(name) or RevisionCounter() for name in revisions}
        self.shadows = {name: self.shadows.get(name) or RevisionCounter() for name in shadows}

    def traffic(self, now: float, oldest_held_s: float, *, closes: bool) -> RouteTraffic:
        """What was seen. ``closes``: this is the report, and the next one's means begin now."""
        self.moved(now)
        duration_s = now - self._began
        told = RouteTraffic(
            endpoint=self._endpoint,
            arrived=self.arrived,
            in_flight=self.in_flight,
            held=self.held,
            oldest_held_s=max(0.0, oldest_held_s),
            mean_in_flight=self._area / duration_s if duration_s > 0 else float(self.held + self.in_flight),
            queue_delay_s=self._median_delay_s(),
            revisions={name: counter.traffic() for name, counter in self.revisions.items()},
            shadows={name: counter.traffic() for name, counter in self.shadows.items()},
        )
        if closes:
            self._area, self._began, self._at_once = 0.0, now, 0
            self._delays.clear()
        return told

    def _median_delay_s(self) -> float:
        half = (self._at_once + sum(self._delays.values())) / 2
        passed = self._at_once
        if passed >= half:
            return 0.0
        for place, count in sorted(self._delays.items()):
            passed += count
            if passed >= half:
                return float(FIRST_BIN_S * BIN_GROWTH ** (place + 0.5))
        return 0.0
