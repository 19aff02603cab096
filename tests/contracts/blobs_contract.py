"""What every blob store promises. A subclass provides the fixture ``blobs``."""

import threading

import pytest

from skyloom.core import digests
from skyloom.core.errors import LimitExceeded
from skyloom.ports.blobs import BlobMissing, Blobs, DigestMismatch

CONTENT = b"the bytes" * 300_000
DIGEST = digests.of_bytes(CONTENT)
ABSENT = digests.of_bytes(b"never stored")


def halves() -> tuple[bytes, bytes]:
    return CONTENT[:1_000_001], CONTENT[1_000_001:]


class BlobsContract:
    def test_put_returns_the_digest_and_size_of_all_chunks(self, blobs: Blobs) -> None:
        assert blobs.put(halves()) == (DIGEST, len(CONTENT))
        assert blobs.get(DIGEST) == CONTENT
        assert blobs.size(DIGEST) == len(CONTENT)
        assert blobs.verify(DIGEST)

    def test_put_of_no_bytes_is_a_blob(self, blobs: Blobs) -> None:
        digest, size_bytes = blobs.put([])
        assert size_bytes == 0
        assert blobs.get(digest) == b""
        assert list(blobs.open(digest)) == []

    def test_put_twice_changes_nothing(self, blobs: Blobs) -> None:
        assert blobs.put([CONTENT], DIGEST) == blobs.put(halves(), DIGEST)
        assert blobs.get(DIGEST) == CONTENT

    def test_put_with_other_bytes_than_named_stores_nothing(self, blobs: Blobs) -> None:
        with pytest.raises(DigestMismatch):
            blobs.put([b"something else"], DIGEST)
        assert blobs.size(DIGEST) is None
        assert blobs.size(digests.of_bytes(b"something else")) is None

    def test_put_whose_source_breaks_stores_nothing(self, blobs: Blobs) -> None:
        def broken() -> object:
            yield CONTENT
            raise ConnectionError("the sender is gone")

        with pytest.raises(ConnectionError):
            blobs.put(broken(), DIGEST)  # type: ignore[arg-type]
        assert blobs.size(DIGEST) is None

    @pytest.mark.parametrize("offset", [0, 1, 2**20, 2**20 + 1, len(CONTENT) - 1, len(CONTENT), len(CONTENT) + 5])
    def test_open_starts_at_any_offset(self, blobs: Blobs, offset: int) -> None:
        blobs.put([CONTENT])
        assert b"".join(blobs.open(DIGEST, offset)) == CONTENT[offset:]

    def test_absent_blob_is_missing_everywhere(self, blobs: Blobs) -> None:
        with pytest.raises(BlobMissing, match=ABSENT):
            blobs.open(ABSENT)
        with pytest.raises(BlobMissing):
            blobs.get(ABSENT)
        assert blobs.size(ABSENT) is None
        assert blobs.path(ABSENT) is None
        assert not blobs.verify(ABSENT)

    @pytest.mark.parametrize("name", ["", "sha256:", "../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "a" * 32])
    def test_text_that_is_no_digest_names_nothing(self, blobs: Blobs, name: str) -> None:
        with pytest.raises(BlobMissing):
            blobs.get(name)

    def test_get_of_more_than_asked_is_refused(self, blobs: Blobs) -> None:
        blobs.put([CONTENT])
        with pytest.raises(LimitExceeded):
            blobs.get(DIGEST, max_bytes=len(CONTENT) - 1)
        assert len(blobs.get(DIGEST, max_bytes=len(CONTENT))) == len(CONTENT)

    def test_path_when_there_is_one_holds_the_bytes(self, blobs: Blobs) -> None:
        blobs.put([CONTENT])
        path = blobs.path(DIGEST)
        if path is not None:
            with open(path, "rb") as file:  # noqa: PTH123
                assert file.read() == CONTENT

    def test_many_writers_of_one_blob_leave_it_whole(self, blobs: Blobs) -> None:
        writers = [threading.Thread(target=blobs.put, args=(halves(), DIGEST)) for _ in range(8)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert blobs.verify(DIGEST)
