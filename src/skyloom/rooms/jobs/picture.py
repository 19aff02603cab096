"""A picture of the loop's state: what a forecast is made from, without disturbing the loop."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from skyloom.core.events import Event
from skyloom.rooms.scheduling.durations import Durations
from skyloom.rooms.scheduling.model import Demand, Holding, Node, Rulebook


class Picture(NamedTuple):
    """What is open at a moment: all that a forecast needs to know.

    Attributes:
        waiting: in the order of the queue.
        past: what was used before, for fairness.
    """

    rulebook: Rulebook
    nodes: Sequence[Node]
    running: Sequence[Holding]
    waiting: Sequence[Demand]
    durations: Mapping[str, Durations]
    past: Sequence[Event]
