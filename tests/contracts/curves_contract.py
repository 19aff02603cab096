"""What every port of curve fitting promises. A subclass provides the fixture ``curves``."""

import pytest

from skyloom.ports.curves import Curves


class CurvesContract:
    def test_weights_of_an_exact_sum_come_back(self, curves: Curves) -> None:
        rows = [(1.0, 1 / n, float(n)) for n in (1, 2, 4, 8)]
        found = curves.fit(rows, [3 * one + 40 * share + 0.5 * line for one, share, line in rows])
        assert found.coefficients == pytest.approx((3, 40, 0.5))
        assert found.residual_sum == pytest.approx(0, abs=1e-12)
        assert found.rank == 3

    def test_weights_are_never_negative(self, curves: Curves) -> None:
        found = curves.fit([(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)], [3.0, 2.0, 1.0])
        assert found.coefficients == pytest.approx((2, 0))
        assert found.residual_sum == pytest.approx(2)

    def test_columns_that_cannot_be_told_apart_have_a_lower_rank(self, curves: Curves) -> None:
        assert curves.fit([(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)], [1.0, 2.0, 3.0]).rank == 1
        assert curves.fit([(1e-9, 2e9), (3e-9, 4e9)], [1.0, 2.0]).rank == 2

    def test_spread_is_the_inverse_of_the_gram_matrix(self, curves: Curves) -> None:
        found = curves.fit([(1.0, 0.0), (0.0, 2.0), (1.0, 0.0)], [1.0, 1.0, 1.0])
        assert found.spread[0] == pytest.approx((0.5, 0.0))
        assert found.spread[1] == pytest.approx((0.0, 0.25))

    def test_t_quantile_has_wider_tails_for_fewer_degrees(self, curves: Curves) -> None:
        assert curves.t_quantile(0.95, 1) == pytest.approx(6.3138, abs=1e-3)
        assert curves.t_quantile(0.95, 1e6) == pytest.approx(1.6449, abs=1e-3)
        assert curves.t_quantile(0.5, 3) == pytest.approx(0, abs=1e-9)
