"""Pictures that are named instead of sent: within bounds, in their order."""

import pytest

from skyloom.core.errors import Unavailable
from skyloom.inference import picture_urls
from skyloom.inference.picture_urls import fetch_all, read_data
from skyloom.inference.pictures import PictureRefused


class Outside:
    """Answers an address with its own bytes; keeps what it was allowed."""

    def __init__(self) -> None:
        self.bounds: list[tuple[int, float]] = []

    def get(self, url: str, max_bytes: int, timeout_s: float) -> bytes:
        self.bounds.append((max_bytes, timeout_s))
        if "absent" in url:
            raise Unavailable("absent does not answer.", next_action="Wait.")
        return url.encode()


def test_named_pictures_are_fetched_in_their_order_within_one_time() -> None:
    outside = Outside()
    assert fetch_all([b"one", "http://two", b"three", "http://four"], outside) == [
        b"one",
        b"http://two",
        b"three",
        b"http://four",
    ]
    assert outside.bounds[0][1] >= outside.bounds[1][1]
    with pytest.raises(PictureRefused, match="absent does not answer"):
        fetch_all(["http://absent"], outside)


def test_pictures_together_have_a_bound(monkeypatch) -> None:
    monkeypatch.setattr(picture_urls, "MAX_FETCHED_BYTES", 10)
    with pytest.raises(PictureRefused, match="more than 10 bytes"):
        fetch_all([b"12345678", b"12345678"], Outside())


def test_data_addresses_hold_bytes_in_either_form() -> None:
    assert read_data("data:image/png;base64,AQI%3D") == b"\x01\x02"
    assert read_data("data:,a%20b") == b"a b"
