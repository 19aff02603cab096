"""Resources: what a task asks for and what a pool has."""

from typing import Annotated

import msgspec
from msgspec import Meta

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """An amount of compute: CPU cores, whole GPUs, bytes of memory."""

    cpus: Annotated[float, Meta(ge=0, le=100_000)] = 1.0
    gpus: Annotated[int, Meta(ge=0, le=100_000)] = 0
    memory_bytes: Annotated[int, Meta(ge=0, le=2**60)] = 2**30

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(
            cpus=round(self.cpus + other.cpus, 6),
            gpus=self.gpus + other.gpus,
            memory_bytes=self.memory_bytes + other.memory_bytes,
        )

    def times(self, count: int) -> "Resources":
        """This amount, ``count`` times."""
        return Resources(cpus=self.cpus * count, gpus=self.gpus * count, memory_bytes=self.memory_bytes * count)

    def shortfall(self, free: "Resources") -> tuple[str, ...]:
        """Say what is missing to fit into ``free``, in words: ``("needs 4 GPUs, 2 free",)``. Empty when it fits."""
        missing = []
        if self.cpus > free.cpus + 1e-6:
            missing.append(f"needs {self.cpus:g} CPUs, {max(free.cpus, 0):g} free")
        if self.gpus > free.gpus:
            missing.append(f"needs {self.gpus} GPUs, {max(free.gpus, 0)} free")
        if self.memory_bytes > free.memory_bytes:
            missing.append(
                f"needs {show_bytes(self.memory_bytes)} of memory, {show_bytes(max(free.memory_bytes, 0))} free"
            )
        return tuple(missing)

    def minus(self, other: "Resources") -> "Resources":
        """What is left, never below zero."""
        return Resources(
            cpus=max(0.0, round(self.cpus - other.cpus, 6)),
            gpus=max(0, self.gpus - other.gpus),
            memory_bytes=max(0, self.memory_bytes - other.memory_bytes),
        )


NOTHING = Resources(cpus=0, gpus=0, memory_bytes=0)


def parse_bytes(text: str) -> int:
    """Read ``"512MiB"``, ``"2G"`` or ``"1000"``. Raises ``ValueError`` on anything else."""
    number = text.strip().lower().removesuffix("b")
    unit = number.lstrip("0123456789.")
    if unit not in _UNITS or not number.removesuffix(unit):
        raise ValueError(f"{text!r} is not a size; write for example 512MiB or 2GiB")
    return int(float(number.removesuffix(unit)) * _UNITS[unit])


def show_bytes(count: int) -> str:
    """Write a number of bytes for people: ``1.5 GiB``."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
