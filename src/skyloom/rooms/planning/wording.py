"""Times in sentences."""

from skyloom.core.money import short

_UNITS_S = ((86_400, "d"), (3_600, "h"), (60, "min"))


def duration(seconds: float) -> str:
    """Write a time with the unit that suits it: ``90 s``, ``3.633 min``, ``2 h``."""
    for size, unit in _UNITS_S:
        if seconds >= 2 * size:
            return f"{short(seconds / size)} {unit}"
    return f"{short(seconds)} s"
