"""MemoryTables keeps the promises of the port."""

import pytest

from skyloom.tables.memory import MemoryTables
from tests.contracts.tables_contract import TablesContract


class TestMemoryTables(TablesContract):
    @pytest.fixture
    def tables(self) -> MemoryTables:
        return MemoryTables()
