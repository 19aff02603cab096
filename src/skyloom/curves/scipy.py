"""Curves by scipy, which is imported when the first curve is fitted: nobody else waits half a second for it."""

from collections.abc import Sequence
from typing import Any

from skyloom.core.errors import Unavailable
from skyloom.ports.curves import LinearFit


class MathematicsMissing(Unavailable):
    """scipy is not installed."""


class ScipyCurves:
    """Non-negative least squares by Lawson and Hanson's active sets (``scipy.optimize.nnls``)."""

    def fit(self, rows: Sequence[Sequence[float]], values: Sequence[float]) -> LinearFit:
        numpy, optimize, _ = _libraries()
        matrix, target = numpy.asarray(rows, dtype=float), numpy.asarray(values, dtype=float)
        # Columns of equal length: terms differ by orders of magnitude, and their rank must not depend on the unit.
        scale = numpy.linalg.norm(matrix, axis=0)
        scale[scale == 0] = 1.0
        scaled = matrix / scale
        rank = int(numpy.linalg.matrix_rank(scaled, tol=1e-6))
        found, residual = optimize.nnls(scaled, target, maxiter=100 * matrix.shape[1])
        spread = numpy.linalg.pinv(scaled.T @ scaled, rcond=1e-12) / numpy.outer(scale, scale)
        return LinearFit(
            coefficients=tuple(float(value) for value in found / scale),
            residual_sum=float(residual) ** 2,
            spread=tuple(tuple(float(value) for value in row) for row in spread),
            rank=rank,
        )

    def t_quantile(self, share: float, degrees: float) -> float:
        _, _, special = _libraries()
        return float(special.stdtrit(degrees, share))


def _libraries() -> tuple[Any, Any, Any]:
    try:
        import numpy
        from scipy import optimize, special
    except ImportError as error:
        raise MathematicsMissing(
            "scipy is not installed, and a plan needs it.", next_action="Install it: pip install 'skyloom[local]'."
        ) from error
    return numpy, optimize, special
