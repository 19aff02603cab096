"""Fitting curves that are sums of known terms with unknown, never negative weights. Pure numbers in, pure numbers out."""

from collections.abc import Sequence
from typing import Protocol

import msgspec


class LinearFit(msgspec.Struct, frozen=True, kw_only=True):
    """The weights that come closest, and how well the measurements pin them down.

    Attributes:
        coefficients: one a column; none below zero.
        residual_sum: of squares of what is left over.
        spread: the inverse of the columns' Gram matrix, one row a column: times the variance of the noise, it is the covariance of the
            coefficients. Coefficients that ended at zero count too, since noise may have put them there.
        rank: how many columns the measurements can tell apart; below the number of columns the coefficients mean nothing.
    """

    coefficients: tuple[float, ...]
    residual_sum: float
    spread: tuple[tuple[float, ...], ...]
    rank: int


class Curves(Protocol):
    """Numerical mathematics that the planner needs. Thread-safe; blocks for milliseconds."""

    def fit(self, rows: Sequence[Sequence[float]], values: Sequence[float]) -> LinearFit:
        """Find weights of the columns, none below zero, whose sums come closest to ``values`` (least squares).

        ``rows`` has one row a measurement and at least one column; everything is finite. Raises `Unavailable` where the mathematics
        is not installed.
        """
        ...

    def t_quantile(self, share: float, degrees: float) -> float:
        """The value below which ``share`` (between 0 and 1) of Student's t distribution lies; ``degrees`` is above 0."""
        ...
