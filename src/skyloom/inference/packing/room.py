"""Whom to let go so that another guest has room. Pure: sees sizes, moments and who is busy; knows no model."""

from collections.abc import Sequence
from typing import NamedTuple


class Resident(NamedTuple):
    """A guest in memory.

    Attributes:
        used: grows with every request; the smallest was asked for longest ago.
        is_busy: requests are under way, so it stays.
    """

    name: str
    memory_bytes: int
    used: int
    is_busy: bool


def victims(
    residents: Sequence[Resident], needed_bytes: int, memory_bytes: int, max_loaded: int, num_coming: int = 1
) -> list[str] | None:
    """Whom to let go for ``num_coming`` guests of ``needed_bytes``, least recently used first; None when too many are busy.

    Args:
        memory_bytes: of all together; 0 for no bound.
    """
    held_bytes, count = sum(resident.memory_bytes for resident in residents), len(residents)
    leaving: list[str] = []
    for resident in sorted((one for one in residents if not one.is_busy), key=lambda one: one.used):
        if _fits(held_bytes + needed_bytes, memory_bytes) and count + num_coming <= max_loaded:
            break
        held_bytes -= resident.memory_bytes
        count -= 1
        leaving.append(resident.name)
    if _fits(held_bytes + needed_bytes, memory_bytes) and count + num_coming <= max_loaded:
        return leaving
    return None


def _fits(size_bytes: int, memory_bytes: int) -> bool:
    return not memory_bytes or size_bytes <= memory_bytes
