import pytest

from skyloom.blobs.memory import MemoryBlobs
from skyloom.ports.blobs import DigestMismatch
from tests.contracts.blobs_contract import CONTENT, DIGEST, BlobsContract


class TestMemoryBlobs(BlobsContract):
    @pytest.fixture
    def blobs(self) -> MemoryBlobs:
        return MemoryBlobs()


def test_get_of_a_damaged_blob_is_refused() -> None:
    blobs = MemoryBlobs()
    blobs.put([CONTENT])
    blobs.damage(DIGEST, CONTENT[:-1])
    assert not blobs.verify(DIGEST)
    with pytest.raises(DigestMismatch):
        blobs.get(DIGEST)
