"""The Host header: a guard against names that a stranger made to point at this machine (DNS rebinding)."""

from collections.abc import Iterable


class KnownHosts:
    """The names that a request may carry.

    Args:
        takes_any: a name ``*`` among them means every name; only where a proxy stands in front.
    """

    def __init__(self, names: Iterable[str], takes_any: bool = False) -> None:
        self._names = frozenset(name.lower().encode() for name in names)
        self._takes_any = takes_any and b"*" in self._names

    def knows(self, host: bytes | None) -> bool:
        """True for an allowed name with any port; ``[::1]`` keeps its brackets."""
        if host is None:
            return False
        name, colon, port = host.rpartition(b":")
        if not colon or host.endswith(b"]"):
            name, port = host, b""
        return (self._takes_any or name.lower() in self._names) and (not port or port.isdigit())
