"""What a command line answered: the words that tests of the terminal share."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Said:
    """What a command line answered."""

    code: int
    out: str
    err: str


Terminal = Callable[..., Said]
