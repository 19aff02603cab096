"""The replicas of one revision as the gateway sees them: who is busy, who fails, who takes the next request. Pure: the time is given."""

import random
from collections.abc import Collection, Iterable

from skyloom.rooms.serving.routes import Backend

FEW = 8  # up to so many are all looked at; of more, two by chance (Mitzenmacher 2001)
FAILURES = 5  # in a row, before a replica is left out
_FIRST_OUT_S, _LONGEST_OUT_S = 5.0, 300.0
_FIRST_REST_S, _LONGEST_REST_S = 0.05, 1.0


class BackendLane:
    """The way to one replica.

    Attributes:
        num_open, open_bytes: requests that it has, and what their bodies hold.
        num_failures: answers 5xx and lost connections since its last good answer.
        num_ejections: how often it was left out lately.
        ejected_until: it is left out until then.
        num_refusals: times in a row that it could not be reached or said that it takes nothing.
        resting_until: nobody asks it before.
        is_gone: it is in the table no more.
    """

    __slots__ = (
        "backend",
        "ejected_until",
        "is_gone",
        "num_ejections",
        "num_failures",
        "num_open",
        "num_refusals",
        "open_bytes",
        "resting_until",
    )

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.num_open = self.open_bytes = 0
        self.num_failures = self.num_ejections = self.num_refusals = 0
        self.ejected_until = self.resting_until = 0.0
        self.is_gone = False


class Crew:
    """The lanes of one revision.

    Args:
        chance: of whom two are looked at.

    Attributes:
        max_open, max_open_bytes: what one replica gets at a time.
    """

    def __init__(self, chance: random.Random, max_open: int, max_open_bytes: int) -> None:
        self.lanes: list[BackendLane] = []
        self.max_open = max_open
        self.max_open_bytes = max_open_bytes
        self._chance = chance
        self._turn = 0

    def update(self, backends: Iterable[Backend]) -> list[BackendLane]:
        """Take over what the table says; returns the lanes that are gone."""
        known = {lane.backend: lane for lane in self.lanes}
        self.lanes = [
            known.pop(backend) if backend in known else BackendLane(backend) for backend in dict.fromkeys(backends)
        ]
        out = sorted((lane for lane in self.lanes if lane.ejected_until), key=lambda lane: lane.ejected_until)
        for lane in out[: max(0, len(out) - len(self.lanes) // 2)]:
            lane.ejected_until = 0.0
        for lane in known.values():
            lane.is_gone = True
        return list(known.values())

    def pick(self, now: float, size_bytes: int, tried: Collection[BackendLane] = ()) -> BackendLane | None:
        """Who takes a request: the one with the fewest, none of ``tried``. None when all are full, out or resting."""
        lanes = self.lanes
        count = len(lanes)
        if count > FEW:
            pair = self._chance.sample(range(count), 2)
            found = self._least([lanes[place] for place in pair], now, size_bytes, tried)
            if found is not None:
                return found
        if not count:
            return None
        self._turn = (self._turn + 1) % count  # equals take turns
        return self._least(lanes[self._turn :] + lanes[: self._turn], now, size_bytes, tried)

    def answered(self, lane: BackendLane, now: float, *, failed: bool) -> None:
        """A replica answered. Several failures in a row leave it out for a growing time, as long as at least half remain."""
        lane.num_refusals = 0
        if not failed:
            lane.num_failures = 0
            if lane.num_ejections and now > lane.ejected_until + out_s(lane.num_ejections):
                lane.num_ejections = 0
            return
        lane.num_failures += 1
        if lane.num_failures < FAILURES or lane.ejected_until > now or lane.is_gone:
            return
        num_out = sum(other.ejected_until > now for other in self.lanes)
        if num_out + 1 <= len(self.lanes) // 2:
            lane.num_ejections += 1
            lane.ejected_until = now + out_s(lane.num_ejections)
            lane.num_failures = 0

    def refused(self, lane: BackendLane, now: float) -> None:
        """A replica could not be reached, or takes nothing: leave it alone for a moment, then ask it with one request."""
        lane.num_refusals += 1
        lane.resting_until = now + min(_FIRST_REST_S * 2 ** min(lane.num_refusals - 1, 10), _LONGEST_REST_S)

    def _least(
        self, lanes: Iterable[BackendLane], now: float, size_bytes: int, tried: Collection[BackendLane]
    ) -> BackendLane | None:
        best: BackendLane | None = None
        for lane in lanes:
            if (
                (best is None or lane.num_open < best.num_open)
                and lane not in tried
                and self._takes(lane, now, size_bytes)
            ):
                best = lane
        return best

    def _takes(self, lane: BackendLane, now: float, size_bytes: int) -> bool:
        if not lane.num_open:
            return lane.ejected_until <= now and lane.resting_until <= now
        return (
            not lane.num_refusals
            and lane.num_open < self.max_open
            and lane.open_bytes + size_bytes <= self.max_open_bytes
            and lane.ejected_until <= now
        )


def out_s(num_ejections: int) -> float:
    """How long a replica is left out."""
    return min(_FIRST_OUT_S * 2.0 ** min(num_ejections - 1, 10), _LONGEST_OUT_S)


class RetryBudget:
    """How many requests may be sent a second time: a fifth of those that came, and a few at the start. So a storm of them ends."""

    SHARE, RESERVE, MOST = 0.2, 10.0, 1_000.0

    def __init__(self) -> None:
        self._left = self.RESERVE

    def arrived(self) -> None:
        """A request came."""
        if self._left < self.MOST:
            self._left += self.SHARE

    def take(self) -> bool:
        """Spend one retry; False when there is none."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
