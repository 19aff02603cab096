"""The recent traffic of every endpoint, in memory.

Not in the decision database, because these are measurements; and not on disk, because nothing would be lost with them: replicas
report cumulative numbers, so after a restart of the control plane the first report of each one is a base again and within two
reports the windows are back. A store of series would have to keep whole histograms as points, for the same answer.
"""

import threading
from collections.abc import Mapping

from skyloom.rooms.monitoring.windows import Bounds, Report, Ring, Window, observed, recent, recent_rows


class RecentTraffic:
    """Rings of reports by endpoint and replica. Thread-safe; times are monotonic seconds of this process."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._lock = threading.Lock()
        self._rings: dict[str, dict[str, tuple[str, Ring]]] = {}

    def observe(self, endpoint: str, replica: str, profile: str, report: Report, started_at: float | None) -> None:
        """Take in one report. A replica that comes with another profile starts over."""
        with self._lock:
            replicas = self._rings.setdefault(endpoint, {})
            known_profile, ring = replicas.get(replica, (profile, Ring()))
            ring = ring if known_profile == profile else Ring()
            replicas[replica] = (profile, observed(ring, report, self.bounds, started_at=started_at))

    def window(self, endpoint: str, now: float, duration_s: float) -> Window:
        """What all replicas of an endpoint saw lately, without histograms."""
        rings = [ring for _, ring in self._of(endpoint).values()]
        return recent(rings, now, duration_s, with_histograms=False)

    def rows(self, endpoint: str, profile: str, now: float, num_rows: int) -> Window:
        """The shortest window with ``num_rows`` rows from replicas of one profile."""
        rings = [ring for of_profile, ring in self._of(endpoint).values() if of_profile == profile]
        return recent_rows(rings, now, num_rows, self.bounds.horizon_s)

    def num_replicas(self, endpoint: str, now: float, silent_s: float) -> int:
        """How many replicas reported within ``silent_s``."""
        return sum(ring.reports[-1].at >= now - silent_s for _, ring in self._of(endpoint).values())

    def forget(self, now: float, endpoints: set[str]) -> None:
        """Drop what no window can reach any more: replicas long silent, and endpoints other than these."""
        oldest = now - self.bounds.horizon_s
        with self._lock:
            self._rings = {
                endpoint: {name: kept for name, kept in replicas.items() if kept[1].reports[-1].at >= oldest}
                for endpoint, replicas in self._rings.items()
                if endpoint in endpoints
            }

    def _of(self, endpoint: str) -> Mapping[str, tuple[str, Ring]]:
        with self._lock:
            return dict(self._rings.get(endpoint, {}))
