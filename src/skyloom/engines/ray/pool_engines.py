"""From the record of a pool to the engine of its Ray cluster."""

import importlib.util
from pathlib import Path

from skyloom.core.errors import InvalidInput, Unavailable
from skyloom.engines.ray import NotReachedYet, RayEngine
from skyloom.ports.engine import Engine
from skyloom.rooms.pools.model import Pool

KEEPER_IDLE_S = 30.0  # on a pool that grows, and so is to shrink
_REACH_TRIES = 3  # of ten seconds each


class PoolNotReached(Unavailable):
    """A pool that is being added took too long to be reached."""


class PoolTokenMissing(InvalidInput):
    """A pool of a kind that wants a token was given none."""


class EngineMissing(InvalidInput):
    """This installation has no engine for such a pool."""


class PoolEngines:
    """Makes the engines of pools that were added; see `rooms.pools.ports.Engines`.

    Args:
        folder: a folder of its own in here for each pool.
        cloud: what names this installation on a cluster that others use, too.
        warm: processes with the training imported wait for tasks.
    """

    def __init__(self, folder: Path, cloud: str, *, warm: bool) -> None:
        self._folder = folder
        self._cloud = cloud
        self._warm = warm

    def __call__(self, pool: Pool, token_file: Path, *, check: bool) -> Engine:
        if importlib.util.find_spec("ray") is None:
            raise EngineMissing(
                f"Reaching {pool.address} needs Ray, which is not installed here.",
                next_action="Install it: pip install 'skyloom[ray]'.",
            )
        if check and not token_file.exists():
            raise PoolTokenMissing(
                f"Pool {pool.name} is given no token, and a Ray cluster is reached with one only.",
                next_action="Give the token that the cluster was started with: --token-file FILE.",
            )
        engine = RayEngine(
            self._folder / pool.name,
            address=pool.address,
            token_file=token_file,
            engine_id=f"{pool.name}-{self._cloud}",
            shared_folder=pool.shared_folder,
            url=pool.advertised_url,
            warm=self._warm,
            keeper_idle_s=KEEPER_IDLE_S if pool.grows else 0.0,
        )
        if check:
            try:
                _reach(pool, engine)
            except BaseException:
                engine.close()
                raise
        return engine


def _reach(pool: Pool, engine: RayEngine) -> None:
    """Look at every machine of a cluster; making the first connection may take longer than one question. Raises `PoolNotReached`."""
    for patience in range(_REACH_TRIES, 0, -1):
        try:
            engine.check()
            return
        except NotReachedYet as trouble:
            if patience == 1:
                raise PoolNotReached(
                    f"Pool {pool.name} is not added: the Ray cluster at {pool.address} answers, but was not ready within half a minute.",
                    next_action="Check that its head and its nodes run and are not overloaded, then add it again.",
                ) from trouble
