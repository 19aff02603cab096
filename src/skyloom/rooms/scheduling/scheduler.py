"""The scheduler: told what there is and what happened, it says what to do now. Deterministic; no clock of its own."""

from collections.abc import Iterable
from typing import Protocol

from skyloom.rooms.scheduling.model import Decision, Demand, Holding, Node


class Scheduler(Protocol):
    """One cloud's queue and what its nodes hold. Not thread-safe. To be made a class: ``Scheduler(rules, nodes)``.

    The caller tells facts; `decide` changes none of them: a decided start is in force once `hold` is told, a stop once the gang
    is told to be stopping and then `release`d and `submit`ted again. Every method costs O(log n) or less, but `decide`, which
    costs what can start or move now, not what waits.
    """

    def set_nodes(self, nodes: Iterable[Node]) -> None:
        """The nodes there are now; what is held on a node that is gone stays held until its gang is released."""
        ...

    def submit(self, gang: Demand) -> None:
        """A gang waits from now on. Telling it again replaces what was told."""
        ...

    def withdraw(self, gang_id: str) -> None:
        """A gang waits no more. Unknown: nothing happens."""
        ...

    def hold(self, holding: Holding) -> None:
        """A gang runs (and waits no more), or its holding changed."""
        ...

    def release(self, gang_id: str, now: float) -> None:
        """A gang gave back what it held; its project's use is charged until ``now``."""
        ...

    def decide(self, now: float, num_explained: int = 200) -> Decision:
        """What to start and to stop now, and why the first ``num_explained`` of the others wait."""
        ...
