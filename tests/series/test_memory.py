import pytest

from skyloom.series.memory import MemorySeries
from tests.contracts.series_contract import SeriesContract


class TestMemorySeries(SeriesContract):
    @pytest.fixture
    def series(self) -> MemorySeries:
        return MemorySeries()
