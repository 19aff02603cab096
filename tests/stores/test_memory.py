from collections.abc import Iterator

import pytest

from skyloom.ports.store import Store
from skyloom.stores.memory import MemoryStore
from tests.contracts.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        yield MemoryStore()
