"""Who has had how much: quotas, and dominant-resource fairness with a memory.

A project's *dominant share* is the largest part that it holds of any one resource of the whole cloud; the project with the smallest
comes first (Ghodsi et al., "Dominant Resource Fairness", NSDI 2011), here divided by its weight. What it held before counts as
well: the mean of its share, with weights that halve every ``half_life_s``, is added, so that who has just had much waits for those who
had not (as the decayed usage of batch systems; the DRF of the paper has no memory).
"""

from skyloom.rooms.scheduling.model import Demand, Quota, Rulebook
from skyloom.rooms.scheduling.vectors import BOUNDLESS, ZERO, Vector, bounds, plus, within

_PLAIN = Quota()


class Standing:
    """One project's use, past and present."""

    __slots__ = ("at", "ceiling", "guaranteed", "held", "past", "quota")

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.held: Vector = ZERO
        self.past = 0.0
        self.at: float | None = None
        self.ceiling = bounds(quota.ceiling, BOUNDLESS)
        # What a guarantee does not speak of rides along; without any guarantee there is nothing to be inside of.
        spoken = quota.guaranteed is not None and any(
            (quota.guaranteed.gpus, quota.guaranteed.cpus, quota.guaranteed.memory_bytes)
        )
        self.guaranteed = bounds(quota.guaranteed, BOUNDLESS) if spoken else None

    def may_hold(self, more: Vector) -> bool:
        """Whether the ceiling allows that much more."""
        return within(plus(self.held, more), self.ceiling)

    def entitled(self, more: Vector = ZERO) -> bool:
        """Whether what it holds, and that much more, is inside its guarantee."""
        return self.guaranteed is not None and within(plus(self.held, more), self.guaranteed)


class Standings:
    """The accounts of all projects."""

    def __init__(self, rulebook: Rulebook, total: Vector) -> None:
        self._rules = rulebook
        self._standings: dict[str, Standing] = {}
        self.total = total

    def standing(self, project: str) -> Standing:
        """A project's standing, made on first use."""
        standing = self._standings.get(project)
        if standing is None:
            standing = self._standings[project] = Standing(self._rules.quotas.get(project, _PLAIN))
        return standing

    def charge(self, gang: Demand, held: Vector, sign: int, at: float) -> None:
        """A project holds that much more (``sign`` 1) or less (-1) from then on."""
        standing = self.standing(gang.project)
        standing.past = self._past(standing, at)
        standing.at = at if standing.at is None else max(at, standing.at)
        standing.held = plus(standing.held, held, sign)

    def share(self, project: str, now: float) -> float:
        """Present and past dominant share, by weight."""
        standing = self.standing(project)
        return (self._dominant(standing.held) + self._past(standing, now)) / standing.quota.weight

    def _dominant(self, held: Vector) -> float:
        return max((have / of for have, of in zip(held, self.total, strict=True) if of), default=0.0)

    def _past(self, standing: Standing, now: float) -> float:
        if standing.at is None or now <= standing.at:
            return standing.past
        kept: float = 0.5 ** ((now - standing.at) / self._rules.half_life_s)
        return standing.past * kept + self._dominant(standing.held) * (1.0 - kept)
