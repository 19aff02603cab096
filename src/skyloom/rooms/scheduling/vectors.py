"""Amounts of compute as three whole numbers: exact, and quick to compare. GPUs first, because GPUs are what is scarce."""

from skyloom.core.resources import Resources, show_bytes
from skyloom.rooms.scheduling.model import Allotment

# (GPUs, millionths of a CPU, bytes of memory)
Vector = tuple[int, int, int]

ZERO: Vector = (0, 0, 0)
BOUNDLESS = 1 << 80
_MICRO = 1_000_000


def vector(amount: Resources) -> Vector:
    """Resources in whole numbers; CPUs to a millionth, as `Resources` rounds them."""
    return amount.gpus, round(amount.cpus * _MICRO), amount.memory_bytes


def bounds(allotment: Allotment | None, unspoken: int) -> Vector:
    """An allotment in whole numbers, ``unspoken`` where it says nothing."""
    if allotment is None:
        return unspoken, unspoken, unspoken
    return (
        unspoken if allotment.gpus is None else allotment.gpus,
        unspoken if allotment.cpus is None else round(allotment.cpus * _MICRO),
        unspoken if allotment.memory_bytes is None else allotment.memory_bytes,
    )


def plus(a: Vector, b: Vector, count: int = 1) -> Vector:
    """``a`` and ``count`` times ``b``; ``count`` may be negative."""
    return a[0] + b[0] * count, a[1] + b[1] * count, a[2] + b[2] * count


def within(a: Vector, b: Vector) -> bool:
    """Whether ``a`` is no more than ``b`` in anything."""
    return a[0] <= b[0] and a[1] <= b[1] and a[2] <= b[2]


def least(a: Vector, b: Vector) -> Vector:
    """What is in both."""
    return min(a[0], b[0]), min(a[1], b[1]), min(a[2], b[2])


def times_in(free: Vector, need: Vector) -> int:
    """How often ``need`` goes into ``free``; never negative."""
    count = BOUNDLESS
    for have, want in zip(free, need, strict=True):
        if want:
            count = min(count, have // want)
        elif have < 0:
            # A node that shrank under its gangs is over-full: nothing more goes there, not even what asks for none of that.
            return 0
    return max(0, count)


def amounts(amount: Vector) -> tuple[str, ...]:
    """What there is, in words: ``("4 GPUs", "2 CPUs")``."""
    return tuple(words for words, count in zip(_words(amount), amount, strict=True) if count)


def shortfall(need: Vector, free: Vector, where: str = "free") -> tuple[str, ...]:
    """What is missing, in words: ``("needs 4 GPUs, 2 free",)``."""
    left = f"{max(free[0], 0)}", f"{max(free[1], 0) / _MICRO:g}", show_bytes(max(free[2], 0))
    return tuple(
        f"needs {words}, {there} {where}"
        for words, there, want, have in zip(_words(need), left, need, free, strict=True)
        if want > have
    )


def _words(amount: Vector) -> tuple[str, str, str]:
    gpus, cpus, memory_bytes = amount
    return count_of(gpus, "GPU"), count_of(cpus / _MICRO, "CPU"), f"{show_bytes(memory_bytes)} of memory"


def count_of(number: float, noun: str) -> str:
    """``1 GPU``, ``2 GPUs``."""
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"
