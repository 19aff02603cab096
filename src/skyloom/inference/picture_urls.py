"""Pictures that a request names instead of bringing them: ``data:`` addresses, and ``http`` where the endpoint may fetch.

Only what the public internet has is fetched, within bounds of size and time (`outbound.http`). All of it blocks: call it on a thread.
"""

import base64
import binascii
import time
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import unquote_to_bytes

from skyloom.core.errors import SkyloomError
from skyloom.inference.pictures import PictureRefused

MAX_FETCHED = 8  # of one request
MAX_FETCHED_BYTES = 16 * 2**20  # of one request
_TIMEOUT_S = 10.0  # for all that one request names
_HINT = "Name a picture that anybody can fetch, or send its bytes."


class Fetches(Protocol):
    """Whoever fetches: `outbound.http.HttpOutbound`."""

    def get(self, url: str, max_bytes: int, timeout_s: float) -> bytes:
        """The bytes at an address."""
        ...


def read_data(url: str) -> bytes:
    """The bytes of a ``data:`` address. Raises `PictureRefused`."""
    head, comma, content = url.partition(",")
    if not comma:
        raise PictureRefused("The data: address has no content.", next_action="Send data:image/png;base64,….")
    if not head.endswith(";base64"):
        return unquote_to_bytes(content)
    try:
        return base64.b64decode(unquote_to_bytes(content), validate=True)
    except binascii.Error:
        raise PictureRefused("The data: address is not base64.", next_action="Send base64.") from None


def fetch_all(pictures: Sequence[bytes | str], outside: Fetches) -> list[bytes]:
    """Pictures as bytes, those that are addresses fetched. Raises `PictureRefused`."""
    deadline = time.monotonic() + _TIMEOUT_S
    made: list[bytes] = []
    for picture in pictures:
        if isinstance(picture, str):
            left_s = deadline - time.monotonic()
            try:
                picture = outside.get(picture, MAX_FETCHED_BYTES, max(0.1, left_s))
            except SkyloomError as error:
                raise PictureRefused(f"A picture cannot be fetched: {error.message}", next_action=_HINT) from error
        made.append(picture)
        if sum(map(len, made)) > MAX_FETCHED_BYTES:
            raise PictureRefused(
                f"The pictures have more than {MAX_FETCHED_BYTES} bytes.", next_action="Send fewer at a time."
            )
    return made
