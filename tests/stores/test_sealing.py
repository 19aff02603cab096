"""What is sealed can be opened with the same key in the same place, and in no other way."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.ports.sealing import SealBroken
from skyloom.stores.sealing import AesGcmSealer

SEALER = AesGcmSealer()
KEY = SEALER.new_key()


@settings(deadline=None)
@given(st.binary(max_size=300), st.text(max_size=50))
def test_sealed_bytes_are_opened_again_and_do_not_show_what_they_hold(content: bytes, place: str) -> None:
    sealed = SEALER.seal(KEY, content, place)
    assert SEALER.open(KEY, sealed, place) == content
    assert len(content) < 4 or content not in sealed
    assert SEALER.seal(KEY, content, place) != sealed


@settings(deadline=None)
@given(st.data())
def test_sealed_bytes_that_were_changed_are_refused(data: st.DataObject) -> None:
    sealed = bytearray(SEALER.seal(KEY, b"a password", "here"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealBroken):
        SEALER.open(KEY, bytes(sealed), "here")


def test_sealed_bytes_open_with_no_other_key_and_at_no_other_place() -> None:
    sealed = SEALER.seal(KEY, b"a password", "here")
    for key, place in ((SEALER.new_key(), "here"), (KEY, "there")):
        with pytest.raises(SealBroken):
            SEALER.open(key, sealed, place)
    with pytest.raises(SealBroken):
        SEALER.open(KEY, b"", "here")
    assert len({SEALER.new_key() for _ in range(10)}) == 10
