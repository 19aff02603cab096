"""Money as whole nano-dollars, so that a ledger adds up exactly.

A float loses cents over a million rows; a nano-dollar is the price of a CPU core for about 70 microseconds.
"""

import msgspec

_NANOS = 10**9


class Money(msgspec.Struct, frozen=True, order=True):
    """An amount of US dollars, in nano-dollars."""

    nano_usd: int = 0

    def __add__(self, other: "Money") -> "Money":
        return Money(self.nano_usd + other.nano_usd)

    @property
    def usd(self) -> float:
        return self.nano_usd / _NANOS

    def __str__(self) -> str:
        return f"${self.usd:,.6f}" if abs(self.usd) < 1 else f"${self.usd:,.2f}"


def price(rate_usd_per_hour: float, amount: float, duration_s: float) -> Money:
    """Price ``amount`` units held for ``duration_s`` seconds at a rate per unit and hour; rounds half to even."""
    return Money(round(rate_usd_per_hour * amount * duration_s / 3600 * _NANOS))


def usd(amount: float) -> str:
    """Write dollars that were computed with floats, such as those of a forecast: ``$0.1212``, ``$12,500``."""
    return f"${short(amount)}"


def short(number: float, digits: int = 4) -> str:
    """Write a number that is not below zero for people, never as a power of ten: ``0.1212``, ``12,500``."""
    return f"{number:,.0f}" if number >= 1_000 else f"{number:.{digits}g}"
