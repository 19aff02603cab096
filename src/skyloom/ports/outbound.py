"""Requests to the outside: to addresses that users name. Nothing inside may be reached by them."""

from collections.abc import Mapping
from typing import Protocol

from skyloom.core.errors import InvalidInput


class AddressRefused(InvalidInput):
    """The address is none of the public internet's, or is written in a way that hides what it is."""


class Outbound(Protocol):
    """Sends requests to the outside. Thread-safe. Never used inside of a transaction."""

    def check(self, url: str) -> None:
        """Say before anything is sent whether something could be: the name is looked up, as `post` does again each time.

        Raises `AddressRefused` for what leads inside, or hides where it leads; `Unavailable` for a name that nobody knows now.
        """
        ...

    def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> int:
        """Send ``body`` and return the status of the answer, whose body is not read. Not idempotent. Follows no redirect.

        The name is looked up now, every address that it has must be public, and it is one of these that is connected to. Blocks for
        ``timeout_s`` at most, beside the look-up. Raises `AddressRefused`; `Unavailable` without an answer.
        """
        ...
