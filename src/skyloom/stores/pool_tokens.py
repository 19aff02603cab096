"""The tokens of pools as files, one each, that only this user may read."""

import contextlib
from pathlib import Path

from skyloom.durable import write_private


class LocalPoolTokens:
    """A `PoolTokens` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def keep(self, pool: str, token: str) -> None:
        """Store a token; see the port."""
        if token:
            write_private(self._folder / pool, token.encode())
        else:
            self.drop(pool)

    def token(self, pool: str) -> str:
        """The token of a pool, or ""."""
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / pool).read_text()
        return ""

    def drop(self, pool: str) -> None:
        """Forget a token; see the port."""
        (self._folder / pool).unlink(missing_ok=True)


class MemoryPoolTokens:
    """A `PoolTokens` for tests."""

    def __init__(self) -> None:
        self._tokens: dict[str, str] = {}

    def keep(self, pool: str, token: str) -> None:
        """Store a token."""
        self._tokens[pool] = token

    def token(self, pool: str) -> str:
        """The token of a pool, or ""."""
        return self._tokens.get(pool, "")

    def drop(self, pool: str) -> None:
        """Forget a token."""
        self._tokens.pop(pool, None)
