"""MemoryTables keeps the promises of the port."""

import pytest
from tests.contracts.tables_contract import TablesContract

from skyloom.tables.memory import MemoryTables


class TestMemoryTables(TablesContract):
    @pytest.fixture
    def tables(self) -> MemoryTables:
        return MemoryTables()
