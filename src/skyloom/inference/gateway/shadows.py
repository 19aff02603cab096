"""How many copies may be on their way to shadows at a time."""

_MAX_COPIES = 64
_MAX_BYTES = 16 * 2**20


class Shadows:
    """Counts copies. One too many is not made: a shadow sees fewer requests rather than that anybody waits."""

    def __init__(self) -> None:
        self._count = self._bytes = 0

    def begin(self, size_bytes: int) -> bool:
        """Count one more; False when it must not be made."""
        if self._count >= _MAX_COPIES or (self._count and self._bytes + size_bytes > _MAX_BYTES):
            return False
        self._count += 1
        self._bytes += size_bytes
        return True

    def done(self, size_bytes: int) -> None:
        """One is over."""
        self._count -= 1
        self._bytes -= size_bytes
