"""Answers in parts, and the tokens that were shown for them: a stream ends when its token does."""

from collections.abc import Callable

from skyloom.core.errors import SkyloomError, Unauthenticated
from skyloom.inference.access import AccessList


class TokenTakenBack(Unauthenticated):
    """The token that opened this stream was revoked or has expired; what came before stands."""


class ShownTokens:
    """The streams that are open at one site. Lives on the event loop."""

    def __init__(self, access: AccessList) -> None:
        self._access = access
        self._open: dict[Callable[[SkyloomError], None], bytes | None] = {}
        self._version = access.version

    def __len__(self) -> int:
        return len(self._open)

    def add(self, end: Callable[[SkyloomError], None], shown: bytes | None) -> None:
        """A stream begins; ``end`` ends it with the reason, ``shown`` is the value of its Authorization header.

        Raises `TokenRefused` when that was taken back since the head was let in: a body may come slowly.
        """
        self._access.check(shown)
        self._open[end] = shown

    def remove(self, end: Callable[[SkyloomError], None]) -> None:
        """A stream is over. Safe to repeat."""
        self._open.pop(end, None)

    def look(self) -> None:
        """End the streams whose token is known no more. Called about once a second, after the list was read again."""
        if self._version == self._access.version:
            return
        self._version = self._access.version
        for end, shown in list(self._open.items()):
            try:
                self._access.check(shown)
            except SkyloomError:
                self.remove(end)
                end(
                    TokenTakenBack(
                        "The token of this stream was revoked or has expired, so the answer ends here.",
                        next_action="Ask again with a token that is good.",
                    )
                )
