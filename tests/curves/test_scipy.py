import subprocess
import sys

import pytest

from skyloom.curves.scipy import ScipyCurves
from tests.contracts.curves_contract import CurvesContract


class TestScipyCurves(CurvesContract):
    @pytest.fixture
    def curves(self) -> ScipyCurves:
        return ScipyCurves()


def test_scipy_is_imported_only_when_a_curve_is_fitted() -> None:
    code = "import sys, skyloom.sdk.planning, skyloom.cli.plan; print([n for n in ('scipy', 'matplotlib') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
