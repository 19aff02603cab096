"""Usage: what was held for how long and what it was worth, in whole numbers, so that no sum depends on its order or on how it was cut."""

import msgspec

from skyloom.core.money import Money, price
from skyloom.core.resources import Resources
from skyloom.rooms.cost.prices import PriceBook

_GIB = 2**30
_US_PER_S = 10**6
US_PER_HOUR = 3600 * _US_PER_S


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """An amount of use.

    Attributes:
        num_tasks: tasks that ended in it.
        duration_us: of all tasks together, in microseconds.
        cpu_us, gpu_us, memory_byte_us: CPU cores, GPUs and bytes of memory held, times microseconds.
    """

    num_tasks: int = 0
    duration_us: int = 0
    cpu_us: int = 0
    gpu_us: int = 0
    memory_byte_us: int = 0
    cost: Money = Money()

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            num_tasks=self.num_tasks + other.num_tasks,
            duration_us=self.duration_us + other.duration_us,
            cpu_us=self.cpu_us + other.cpu_us,
            gpu_us=self.gpu_us + other.gpu_us,
            memory_byte_us=self.memory_byte_us + other.memory_byte_us,
            cost=self.cost + other.cost,
        )

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(
            num_tasks=self.num_tasks - other.num_tasks,
            duration_us=self.duration_us - other.duration_us,
            cpu_us=self.cpu_us - other.cpu_us,
            gpu_us=self.gpu_us - other.gpu_us,
            memory_byte_us=self.memory_byte_us - other.memory_byte_us,
            cost=Money(self.cost.nano_usd - other.cost.nano_usd),
        )

    @property
    def cpu_hours(self) -> float:
        return self.cpu_us / US_PER_HOUR

    @property
    def gpu_hours(self) -> float:
        return self.gpu_us / US_PER_HOUR

    @property
    def memory_gib_hours(self) -> float:
        return self.memory_byte_us / _GIB / US_PER_HOUR


def worth(resources: Resources, duration_s: float, prices: PriceBook) -> Money:
    """Price resources held for a time. Nothing costs less than nothing."""
    held_s = max(0.0, duration_s)
    return (
        price(prices.cpu_usd_per_hour, resources.cpus, held_s)
        + price(prices.gpu_usd_per_hour, resources.gpus, held_s)
        + price(prices.memory_gib_usd_per_hour, resources.memory_bytes / _GIB, held_s)
    )


def held(resources: Resources, duration_us: int, prices: PriceBook) -> Usage:
    """The use of holding resources for a time."""
    return Usage(
        duration_us=duration_us,
        cpu_us=round(resources.cpus * duration_us),
        gpu_us=resources.gpus * duration_us,
        memory_byte_us=resources.memory_bytes * duration_us,
        cost=worth(resources, duration_us / _US_PER_S, prices),
    )


def microseconds(start: float, end: float) -> int:
    """The time from one moment to a later one; none when a clock was set back between them."""
    return max(0, round((end - start) * _US_PER_S))
