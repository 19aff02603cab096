"""The tokens of pools as files, one each, that only this user may read."""

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

    def file(self, pool: str) -> Path:
        """Where the token of a pool is; see the port."""
        return self._folder / pool

    def drop(self, pool: str) -> None:
        """Forget a token; see the port."""
        (self._folder / pool).unlink(missing_ok=True)
